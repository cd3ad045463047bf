/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables of what is refused in a definition, or in a change of it. */
#pragma once

#include "driver/compat.h"

typedef struct {
    bool present;     /* the definition uses it */
    const char *path; /* the element or attribute, from the domain or the device on */
} kumoRefusal;

/**
 * kumoRefuse:
 * @where: path that comes before those in @items, may be empty
 *
 * Returns: 0, or -1 with VIR_ERR_CONFIG_UNSUPPORTED naming the first item that is present.
 */
int kumoRefuse(const char *where, const kumoRefusal *items, size_t nitems);

typedef struct {
    bool differs;     /* between what there is and what is wanted */
    const char *what; /* with its article */
} kumoDifference;

/**
 * kumoRefuseChanges:
 * @alias: of a device in use
 *
 * Returns: 0, or -1 with VIR_ERR_OPERATION_UNSUPPORTED naming the first item that differs.
 */
int kumoRefuseChanges(const char *alias, const kumoDifference *items, size_t nitems);
