/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The host's side of the serial port, of virtio-console and of the debug console: where their bytes
 * go and come from.
 *
 * The consoles of a VM are opened together with its configuration and outlive the machine: a guest
 * that reboots finds the same pty, the same client of its socket, the same position in its file.
 * One worker thread ("console") serves them all; what a guest writes goes into a bounded ring
 * first, so a reader who stalls never stalls a vCPU: the oldest bytes are dropped and counted.
 *
 * Modes as in Cloud Hypervisor: a file is truncated when it is opened; a socket listens, the newest
 * client takes over from the one before; ptys and sockets keep the last KUMO_CONSOLE_RING_BYTES for
 * a reader who comes later. Beyond those, sockets may be TCP, and may connect to who listens. A log
 * file gets all output besides, whoever reads it or not. If serial port and virtio-console both use
 * the terminal, both write to it and the serial port alone gets its input.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm-core/base/loop.h"
#include "vmm-core/base/sandbox.h"
#include "vmm-core/config/config.h"

extern const KumoThreadKind kumo_console_thread;

enum { KUMO_CONSOLE_RING_BYTES = 65536 };

typedef struct KumoConsole KumoConsole;
typedef struct KumoConsoleSet KumoConsoleSet;

/* What a device does with input. Both run on the console thread, without a lock of the console
 * held. */
typedef struct {
    /* How many bytes the device can take now. After 0 it calls kumo_console_input_ready() when it
     * can again. */
    size_t (*can_receive)(void *opaque);
    /* At most as many bytes as can_receive just said. */
    void (*receive)(void *opaque, const uint8_t *data, size_t len);
} KumoConsoleSink;

/**
 * kumo_console_set_open:
 * @config: the VM's own copy: the path of a pty is filled in as serial.file, console.file or
 * debug_console.file
 *
 * Opens what the sections serial, console and debug_console ask for; the modes off and null need
 * nothing.
 *
 * Returns: (transfer full): the set, or NULL with @error set and nothing left open.
 */
KumoConsoleSet *kumo_console_set_open(KumoVmConfig *config, GError **error);

/* Writes out what the other sides take at once, closes, removes the sockets, restores the terminal.
 * NULL is fine. No device may be attached any more. */
void kumo_console_set_close(KumoConsoleSet *set);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoConsoleSet, kumo_console_set_close)

/* Returns: (transfer none): NULL for the modes off and null, and if @set is NULL. */
KumoConsole *kumo_console_set_serial(KumoConsoleSet *set);
KumoConsole *kumo_console_set_console(KumoConsoleSet *set);
KumoConsole *kumo_console_set_debug(KumoConsoleSet *set);

/* All that follows takes NULL for a console that drops its output and has no input. */

/* Sets who gets the input. Main thread. */
void kumo_console_attach(KumoConsole *console, const KumoConsoleSink *sink, void *opaque);

/* No callback is running any more when this returns. */
void kumo_console_detach(KumoConsole *console);

/* Queues output. Never blocks on the other side; any thread, also with a device's lock held. */
void kumo_console_write(KumoConsole *console, const uint8_t *data, size_t len);

/* The sink can take input again. Any thread, also with a device's lock held. */
void kumo_console_input_ready(KumoConsole *console);

/**
 * kumo_console_size:
 *
 * Returns: TRUE with the size of the terminal or pty; FALSE if there is none or it is not known.
 */
bool kumo_console_size(KumoConsole *console, uint16_t *ret_columns, uint16_t *ret_rows);

/* The thread on which the sink is called. Returns: (transfer none): NULL for a NULL console. */
KumoLoop *kumo_console_loop(KumoConsole *console);

/* Returns: the path of the pty's slave, or NULL if it is none. */
const char *kumo_console_pty_path(KumoConsole *console);

/* Returns: (transfer full): {"tx_bytes", "tx_dropped_bytes", "rx_bytes"}, or NULL for a NULL
 * console. */
json_t *kumo_console_counters(KumoConsole *console);

/**
 * kumo_console_restore_terminal:
 *
 * Gives the terminal back the settings it had before a console made it raw. Does nothing if none
 * did, or if another process group has the terminal now. Async-signal-safe; also run at exit and
 * before a fatal signal ends the process. Who calls _exit() calls this first.
 */
void kumo_console_restore_terminal(void);
