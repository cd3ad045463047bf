/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A change of a domain as the flags of a call want it: of the one that runs, of its definition, or
 * of both. The definition is changed first, in a copy, and written last: what is refused leaves
 * both as they were. What fails midway leaves the definition as it was, and what the running domain
 * has of it by then is written down. A function of libvirt's API that makes one looks like this:
 *
 *     g_auto(kumoLockedDomain) vm = NULL;
 *     g_auto(kumoUpdate) update = { 0 };
 *
 *     if (!(vm = kumoDomainObjFromDomain(dom)) ||
 *         virDomain...EnsureACL(dom->conn, vm->def, flags) < 0 ||
 *         kumoUpdateBegin(&update, vm, flags) < 0)
 *         return -1;
 *     if (update.config)
 *         ...
 *     if (kumoUpdateSettle(&update) < 0)
 *         return -1;
 *     if (update.live)
 *         ...
 *     return kumoUpdateFinish(&update);
 */
#pragma once

#include "driver/conf/kumo_domain.h"

typedef struct {
    virDomainObj *vm; /* with a job until the end of the scope */
    kumoDriver *driver;
    virDomainDef *live;   /* of the domain that runs; NULL: it is not to be changed, or is off */
    virDomainDef *config; /* a copy of the definition; NULL: that is not to be changed */
} kumoUpdate;

/**
 * kumoUpdateBegin:
 * @vm: locked; what the caller may do has been checked
 * @flags: those of virDomainModificationImpact count
 *
 * Returns: 0, or -1 with the error reported: somebody else has the domain, or it is not as @flags
 *     want it.
 */
int kumoUpdateBegin(kumoUpdate *update, virDomainObj *vm, unsigned int flags);

/**
 * kumoUpdateSettle:
 *
 * What holds of a parsed definition holds of the changed copy again; fine if there is none.
 *
 * Returns: 0, or -1 with the error reported: the domain would not be valid.
 */
int kumoUpdateSettle(kumoUpdate *update);

/**
 * kumoUpdateFinish:
 *
 * Writes down what was changed.
 *
 * Returns: 0, or -1 with the error reported and the definition as before.
 */
int kumoUpdateFinish(kumoUpdate *update);

void kumoUpdateClear(kumoUpdate *update);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(kumoUpdate, kumoUpdateClear)
