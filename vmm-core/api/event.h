/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The event monitor: a stream of JSON objects about the VM's life for whoever manages it
 * (--event-monitor). A reader that stalls loses events; the VM never waits for it.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

/**
 * kumo_event_open:
 * @spec: "path=FILE", where FILE is created or a FIFO that somebody reads, or "fd=NUMBER"
 *
 * Events before this only go to the log. Also takes the SIGPIPE that a vanished reader causes from
 * the process. Main thread, once.
 *
 * Returns: TRUE, or FALSE with @error set.
 */
bool kumo_event_open(const char *spec, GError **error);

/* Closes the monitor; a named descriptor too. */
void kumo_event_close(void);

/**
 * kumo_event_set_listener:
 * @listener: (nullable): is given the text of each event, one JSON object; on any thread, must not
 *     block nor make events itself
 *
 * One listener, besides the monitor. Main thread; when this returns, the one before is not called
 * any more.
 */
void kumo_event_set_listener(void (*listener)(void *opaque, const char *text), void *opaque);

/**
 * kumo_event:
 * @source: "vmm", "vm", "virtio-device", "guest"
 * @event: "booted"
 * @properties: (transfer full) (nullable): an object
 *
 * Any thread; never blocks. An event that does not fit is dropped whole.
 */
void kumo_event(const char *source, const char *event, json_t *properties);
