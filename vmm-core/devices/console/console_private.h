/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What backend.c and the files of the modes share; nobody else includes this. */
#pragma once

#include <stdatomic.h>
#include <sys/types.h>

#include "vmm-core/devices/console/backend.h"

enum {
    CONSOLE_CHUNK_BYTES = 4096,
    KUMO_CONSOLE_LOOKUP_MS = 5000, /* that opening waits for a name server */
};

/* One kind of other side. Runs on the console thread unless said otherwise; NULL operations may be
 * left out. */
typedef struct {
    /* Main thread, nothing runs yet. Sets in_fd and out_fd, non-blocking, -1 for none. */
    bool (*open)(KumoConsole *console, const KumoConsoleConfig *config, GError **error);
    /* NULL. Adds sources of its own. */
    bool (*start)(KumoConsole *console, GError **error);
    /* Removes those sources and closes; also after open alone succeeded (then on the main thread).
     */
    void (*close)(KumoConsole *console);
    /* NULL: read(2) and write(2). Like those on a non-blocking descriptor. */
    ssize_t (*read)(KumoConsole *console, void *buf, size_t len);
    ssize_t (*write)(KumoConsole *console, const void *buf, size_t len);
    /* The other side is gone for @input or for output; @err is 0 at the end of input. Stops the use
     * of in_fd or out_fd. */
    void (*lost)(KumoConsole *console, bool input, int err);
    /* NULL. The ring is nearly full and out_fd takes nothing: make it take something. */
    void (*make_room)(KumoConsole *console);
    /* NULL. Any thread. */
    bool (*size)(KumoConsole *console, uint16_t *ret_columns, uint16_t *ret_rows);
    unsigned drain_ms; /* how long closing may wait for the other side */
} KumoConsoleBackend;

typedef struct {
    int fd;
    uint32_t events;
    KumoLoopSource *source; /* NULL while nothing is waited for */
} ConsoleWatch;

struct KumoConsole {
    const KumoConsoleBackend *backend;
    KumoConsoleSet *set;
    const char *name; /* "serial", "console" */
    bool wants_input;
    char *pty_path;
    void *state;      /* the backend's */
    KumoConsole *log; /* NULL, or gets a copy of all output */

    /* Console thread only. */
    int in_fd, out_fd;  /* may be the same; -1: none at present */
    bool in_unpollable; /* a file or /dev/null: always ready */
    bool in_held;       /* the backend does not want it read at present */
    bool in_armed;      /* the sink can take input */
    bool out_blocked;   /* wait for out_fd */
    bool out_dead;      /* nobody will ever take output again */
    ConsoleWatch in_watch, out_watch;
    const KumoConsoleSink *sink;
    void *sink_opaque;
    uint8_t pending[CONSOLE_CHUNK_BYTES]; /* taken out of the ring, not yet written */
    size_t pending_from, pending_to;

    /* Any thread. */
    atomic_bool woken;       /* the thread has been told to look at this console */
    atomic_bool input_ready; /* the sink asked for input */

    GMutex lock; /* a leaf: nothing is called with it held. Guards what follows. */
    uint8_t *ring;
    size_t ring_start, ring_used;
    bool wake_on_write; /* the thread has emptied the ring and sleeps */
    bool wake_on_full;  /* the thread wants to know when the ring is nearly full */
    uint64_t tx_bytes, tx_dropped_bytes, rx_bytes;
};

/* Makes the console thread look at @console. Any thread. */
void kumo_console_wake(KumoConsole *console);

/* Brings what is waited for in line with the fields above. To be called before a descriptor is
 * closed too. */
void kumo_console_update_watches(KumoConsole *console);

extern const KumoConsoleBackend kumo_console_backend_tty;
extern const KumoConsoleBackend kumo_console_backend_pty;
extern const KumoConsoleBackend kumo_console_backend_file;
extern const KumoConsoleBackend kumo_console_backend_socket;
extern const KumoConsoleBackend kumo_console_backend_connect;
