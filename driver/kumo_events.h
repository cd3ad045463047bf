/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a VMM tells of its own accord: its event stream and its end. One thread per running domain
 * reads both, so that a domain's events keep their order and wait for no other domain.
 *
 * The stream is a FIFO that the VMM holds open for reading too. Without a daemon it fills up to the
 * pipe's size and no further, and what is in it is still there when the daemon is back.
 */
#pragma once

#include "driver/conf/kumo_domain.h"

/**
 * kumoEventsMakeFifo:
 * @path: where to create it; an old one is replaced
 *
 * Returns: (transfer full): a descriptor for the VMM, or -1 with the error reported.
 */
int kumoEventsMakeFifo(const char *path);

/* One event of the stream. */
typedef struct {
    const char *source; /* "vm", "vmm", "guest", ... */
    const char *event;
    const char *id;    /* of the device that it is about, or NULL */
    long long number;  /* an id that is a number, or -1 */
    const char *error; /* of a disk: name of an errno; why something failed; or NULL */
    unsigned long long threshold;
    unsigned long long excess;
} kumoEvent;

/* Who hears of it: on the event thread, with the domain locked. They must not wait. */
struct _kumoEventHandlers {
    void (*event)(virDomainObj *vm, const kumoEvent *event);
    void (*processEnded)(virDomainObj *vm);
};

/**
 * kumoEventsNew:
 * @vm: locked; the reader takes a reference for as long as it runs
 * @fifo: path of the stream
 * @pidfd: of the process, borrowed until kumoEventsClose
 * @handlers: stay as they are
 *
 * Starts to read.
 *
 * Returns: (transfer full): the reader, or NULL with the error reported.
 */
kumoEvents *kumoEventsNew(virDomainObj *vm, const char *fifo, int pidfd,
                          const kumoEventHandlers *handlers);

/* kumoEventsClose: (transfer full): stops reading. May be called from within a handler. */
void kumoEventsClose(kumoEvents *events);

typedef void (*kumoEventFunc)(const kumoEvent *event, void *opaque);

/**
 * kumoEventsParse:
 * @buffer: bytes of the stream; what was used is removed, an incomplete event stays
 *
 * An event is a JSON object before an empty line. Calls @func for each that is complete; what is
 * none is skipped.
 *
 * Returns: the number of pieces of garbage.
 */
unsigned int kumoEventsParse(GString *buffer, kumoEventFunc func, void *opaque);
