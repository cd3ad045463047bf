/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's performance counters of a domain's process: libvirt's virPerf, which counts the main
 * thread and the threads that it makes from then on.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoPerfStart:
 * @vm: its process has just started and has its first thread only
 *
 * Counts what the definition names.
 *
 * Returns: 0, or -1 with the error reported: the host cannot count it.
 */
int kumoPerfStart(virDomainObj *vm);

/* Counts on, from zero, after a daemon that counted has ended; what cannot be counted any more is
 * off in the live definition, and the daemon's log says so. */
void kumoPerfReconnect(virDomainObj *vm);

void kumoPerfStop(virDomainObj *vm);

/* Returns: 0, or -1 with the error reported. */
int kumoPerfSet(virDomainObj *vm, virPerfEventType type, bool enabled);
