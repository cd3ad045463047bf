/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What one daemon tells another about a VM besides its XML, in migration's cookies and in save
 * images: XML of our own, hostile when it comes in.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

typedef struct {
    char *name; /* of the domain at the source */
    char *uuid;
    char *hostname; /* of who wrote the cookie */
    char *hostUuid;
    char *persistentXml; /* that the destination is to define, or NULL */
    char **netAliases;   /* of the interfaces, in their order: they name devices in the stream */
    bool runsAtSource;   /* the migration has failed: the guest cannot come here any more */
    bool hasStats;       /* of a migration that has ended: */
    kumoJobStats stats;
    unsigned long long elapsedMs;
} kumoCookie;

void kumoCookieFree(kumoCookie *cookie);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(kumoCookie, kumoCookieFree);

/* kumoCookieNew: (transfer full): about the running @def; no host is named. */
kumoCookie *kumoCookieNew(const virDomainDef *def);

/* kumoCookieSetHost: names this host. Returns: 0, or -1 with the error reported. */
int kumoCookieSetHost(kumoCookie *cookie);

char *kumoCookieFormat(const kumoCookie *cookie);

/**
 * kumoCookieParse:
 * @text: not necessarily terminated
 *
 * Returns: (transfer full): the cookie, an empty one without @text, or NULL with the error
 * reported.
 */
kumoCookie *kumoCookieParse(const char *text, size_t len);

/**
 * kumoCookieCheckHost:
 *
 * Returns: 0 if another host wrote @cookie, or -1 with the error reported.
 */
int kumoCookieCheckHost(const kumoCookie *cookie);

/**
 * kumoCookieApply:
 *
 * Gives the interfaces of @def, which is about to start, the names that the stream knows.
 *
 * Returns: 0, or -1 with the error reported.
 */
int kumoCookieApply(const kumoCookie *cookie, virDomainDef *def);
