/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which files the process may open from now on (Linux, Documentation/userspace-api/landlock.rst).
 * What is open stays so, and so do sockets that one connects to, the network, and what already is a
 * child's. There is no way back.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

/* What may be done with a file, or with all that is in a directory and below. */
typedef enum {
    KUMO_LANDLOCK_READ = 1 << 0,
    KUMO_LANDLOCK_WRITE = 1 << 1, /* in a directory also: make, rename and remove */
    KUMO_LANDLOCK_EXECUTE = 1 << 2,
    KUMO_LANDLOCK_SOCKETS = 1 << 3, /* in a directory: make sockets, and remove files */
} KumoLandlockAccess;

typedef struct {
    char *path;      /* (owned) */
    unsigned access; /* of KumoLandlockAccess */
    char *required;  /* (owned) not NULL: it has to be there, and messages call it so; else what is
                        not needs no rule */
} KumoLandlockRule;

/* Returns: (transfer full): an empty list of KumoLandlockRule, which it owns. */
GPtrArray *kumo_landlock_rules_new(void);

/* Adds a rule for @path, if it is not NULL; with one for the path already, gives that the access,
 * too. */
void kumo_landlock_rules_add(GPtrArray *rules, const char *path, unsigned access);

/* Adds a rule for a path that has to be there. @name: "landlock_rules[0].path" */
void kumo_landlock_rules_require(GPtrArray *rules, const char *name, const char *path,
                                 unsigned access);

/**
 * kumo_landlock_rights:
 * @access: of KumoLandlockAccess
 * @abi: of the kernel, from 1 on
 *
 * Returns: the bits LANDLOCK_ACCESS_FS_* that stand for @access there, of a directory or of another
 * file.
 */
uint64_t kumo_landlock_rights(unsigned access, bool is_directory, int abi);

/**
 * kumo_landlock_enforce:
 * @rules: of KumoLandlockRule
 *
 * From now on no thread of the process, nor any that it starts, can open, make or remove a file
 * unless one of @rules allows it, and each set of rules of an earlier call. Main thread. Sets
 * no_new_privs.
 *
 * Returns: TRUE, or FALSE with @error: NOT_SUPPORTED if the kernel has no Landlock, INVALID for a
 * required path that is not there. Only if a thread cannot be reached, which is an error of our
 * own, others may be restricted afterwards.
 */
bool kumo_landlock_enforce(const GPtrArray *rules, GError **error);

/* Was that done? Any thread. */
bool kumo_landlock_is_enforced(void);
