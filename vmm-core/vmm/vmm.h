/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The one VM of this process and its state machine:
 * no VM → Created → Running ⇄ Paused → Shutdown (shown as Created, for the configuration stays) →
 * no VM. Everything here runs on the main thread.
 */
#pragma once

#include <glib.h>
#include <jansson.h>
#include <stdbool.h>

#include "vmm-core/config/config.h"
#include "vmm-core/core/arch.h"
#include "vmm-core/core/device.h"

typedef struct KumoVmm KumoVmm;

typedef struct {
    const KumoHvOps *const *backends; /* NULL-terminated, best first */
    const KumoArchOps *arch;
    const KumoDeviceType *const *device_types; /* NULL-terminated, in the order of creation */
    bool no_shutdown;                          /* stay when the guest powered off */
    const char *const
        *removed_files; /* NULL, or NULL-terminated: what the process removes as it ends */
    /* NULL, both or none. The host's side of the consoles: opened by vm.create, or by vm.boot if
     * closed before, handed to each machine, kept while the guest reboots and, with no_shutdown,
     * when it powers off; closed by vm.shutdown and vm.delete. Fills in the paths of ptys. */
    KumoConsoleSet *(*consoles_open)(KumoVmConfig *config, GError **error);
    void (*consoles_close)(KumoConsoleSet *consoles);
    /* NULL. What happened, under the names of Cloud Hypervisor's event monitor. Any thread;
     * @properties: (transfer full) */
    void (*event)(const char *source, const char *event, json_t *properties);
    /* Called once when the process is to end; @failed: a vCPU or the reboot of the guest failed. */
    void (*quit)(void *opaque, bool failed);
    void *opaque;
} KumoVmmParams;

KumoVmm *kumo_vmm_new(const KumoVmmParams *params);
/* Ends a running VM hard first. */
void kumo_vmm_free(KumoVmm *vmm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoVmm, kumo_vmm_free)

/**
 * kumo_vmm_create:
 * @config: (transfer full): validated here; freed also on failure
 *
 * Only keeps the configuration. Refused (STATE) if there is a VM.
 */
bool kumo_vmm_create(KumoVmm *vmm, KumoVmConfig *config, GError **error);

/* The steps of the state machine: each refuses what its state does not allow, naming the state. */
bool kumo_vmm_boot(KumoVmm *vmm, GError **error);
bool kumo_vmm_pause(KumoVmm *vmm, GError **error);
bool kumo_vmm_resume(KumoVmm *vmm, GError **error);
bool kumo_vmm_shutdown(KumoVmm *vmm, GError **error); /* hard stop; the configuration stays */
bool kumo_vmm_reboot(KumoVmm *vmm, GError **error);
bool kumo_vmm_delete(KumoVmm *vmm, GError **error);
bool kumo_vmm_power_button(KumoVmm *vmm, GError **error);
bool kumo_vmm_nmi(KumoVmm *vmm, GError **error); /* to every vCPU */

/**
 * kumo_vmm_add_disk:
 * @disk: (transfer full): freed also on failure
 * @ret_info: (out) (transfer full): {"id": ..., "bdf": ...}; NULL: added to the configuration of a
 * VM that does not run
 *
 * Adds a device to the configuration and, if the VM runs or is paused, to the machine. Without an
 * id it gets an automatic one; it keeps the slot that it gets when the guest reboots.
 *
 * Returns: TRUE, or FALSE with @error (CONFLICT: id, slot or file is taken) and nothing changed.
 */
bool kumo_vmm_add_disk(KumoVmm *vmm, KumoDiskConfig *disk, json_t **ret_info, GError **error);
bool kumo_vmm_add_net(KumoVmm *vmm, KumoNetConfig *net, json_t **ret_info, GError **error);

/**
 * kumo_vmm_remove_device:
 *
 * If the VM does not run, takes the device out of the configuration at once. Otherwise asks the
 * guest, and returns; the device and its configuration go when the guest has let it go, at the
 * latest with this machine, which the event "device-removed" {"id", "bdf"} tells. A guest that did
 * not react can be asked again.
 *
 * Returns: TRUE, or FALSE with @error: NOT_FOUND, or NOT_SUPPORTED for devices that are always
 * there.
 */
bool kumo_vmm_remove_device(KumoVmm *vmm, const char *id, GError **error);

/**
 * kumo_vmm_resize_disk:
 *
 * Gives the disk's file a new size, and tells the guest. A block device is measured again instead.
 */
bool kumo_vmm_resize_disk(KumoVmm *vmm, const char *id, uint64_t size_bytes, GError **error);

/**
 * kumo_vmm_update_disk:
 * @changes: {"id": ..., "rate_limiter_config": ..., "queue_affinity": ..., "write_threshold": ...,
 * "rate_limit_group": ...}
 * @error: names the field that is wrong
 *
 * Changes what may change of a device while it is in use, running or not: what @changes names, with
 * null for its default. Afterwards the configuration has it, so the next machine will, too.
 *
 * Returns: TRUE, or FALSE with @error and nothing changed.
 */
bool kumo_vmm_update_disk(KumoVmm *vmm, const json_t *changes, GError **error);
/* The same; @changes: "id", "rate_limiter_config", "link_up", "queue_affinity". */
bool kumo_vmm_update_net(KumoVmm *vmm, const json_t *changes, GError **error);
/* The same for what the disks of a group may do together; @changes: "id", "rate_limiter_config". */
bool kumo_vmm_update_rate_limit_group(KumoVmm *vmm, const json_t *changes, GError **error);
/* The same; @changes: "affinity". */
bool kumo_vmm_update_cpus(KumoVmm *vmm, const json_t *changes, GError **error);

/* The same; @changes: "stats_period". STATE if the machine that runs gives no statistics. */
bool kumo_vmm_update_balloon(KumoVmm *vmm, const json_t *changes, GError **error);

/* Gives the configuration one more group, of which no disk is yet. @json: as in the configuration.
 */
bool kumo_vmm_add_rate_limit_group(KumoVmm *vmm, const json_t *json, GError **error);

/* What vm.resize asks for. What it does not name stays as it is. */
typedef struct {
    bool has_vcpus, has_ram, has_balloon;
    uint32_t vcpus;
    uint64_t ram_bytes;     /* all memory of the guest, what is in the balloon included */
    uint64_t balloon_bytes; /* what the guest is to give back */
} KumoVmResize;

/**
 * kumo_vmm_resize:
 *
 * Of a VM that does not run, changes the configuration. Otherwise adds vCPUs and memory to the
 * machine and tells the guest, or asks it to let vCPUs go, and returns; the configuration has the
 * new numbers at once, so that a reboot of the guest has what it did not do. ACPI memory never
 * leaves a running machine: less of it is had after a reboot.
 *
 * Returns: TRUE, or FALSE with @error (INVALID naming the field; BUSY while vCPUs are asked to
 * leave and have not).
 */
bool kumo_vmm_resize(KumoVmm *vmm, const KumoVmResize *wanted, GError **error);

/**
 * kumo_vmm_resize_zone:
 * @wanted_bytes: what the memory zone @id is to have: its size at boot and what virtio-mem adds
 *
 * Of a VM that does not run, changes the size in the configuration. Otherwise asks the guest to
 * take more or to give some, and returns.
 */
bool kumo_vmm_resize_zone(KumoVmm *vmm, const char *id, uint64_t wanted_bytes, GError **error);

/**
 * kumo_vmm_snapshot:
 * @destination_url: "file:///directory", which exists and holds no snapshot yet
 *
 * Writes the paused VM down. The VM stays as it was, whether that works or not; on failure no file
 * is left.
 */
bool kumo_vmm_snapshot(KumoVmm *vmm, const char *destination_url, GError **error);

/**
 * kumo_vmm_restore:
 * @restore: (transfer full): freed also on failure
 *
 * Brings a VM back, paused or, if @restore says so, running. Refused (STATE) if there is a VM; on
 * failure there is none.
 */
bool kumo_vmm_restore(KumoVmm *vmm, KumoRestoreConfig *restore, GError **error);

/**
 * kumo_vmm_send_migration:
 * @send: (transfer full): freed also on failure
 *
 * Begins to send the VM, running or paused, to another process, and returns. Events tell how that
 * goes on: in the end "migration-finished", and the process is to end, or "migration-failed"
 * {"error"}, and the VM runs on. Until then nothing of the VM can be changed (STATE). With one_way,
 * the VM has to be paused and stays after "migration-finished".
 *
 * Returns: TRUE, or FALSE with @error and no migration begun.
 */
bool kumo_vmm_send_migration(KumoVmm *vmm, KumoSendMigrationConfig *send, GError **error);

/* How a migration that came in has ended: @error NULL: the VM is here. */
typedef void (*KumoVmmReceived)(void *opaque, const GError *error);

/**
 * kumo_vmm_receive_migration:
 * @receive: (transfer full): freed also on failure
 * @received: (nullable): called once, when a VM is here or the migration failed
 *
 * Begins to wait for a VM, and returns. With a configuration in @receive the machine is built from
 * that, and a source whose guest would see a difference is refused. There must be none (STATE), and
 * there is none again after a failure.
 *
 * Returns: TRUE, or FALSE with @error; @received is not called then.
 */
bool kumo_vmm_receive_migration(KumoVmm *vmm, KumoReceiveMigrationConfig *receive,
                                KumoVmmReceived received, void *opaque, GError **error);

/**
 * kumo_vmm_cancel_migration:
 *
 * Calls a migration off, sent or received, and returns when it has ended: the VM is where it was.
 * NOT_FOUND if none is under way; STATE if it came too late, and the VM is at the destination,
 * whether all of its memory is or not.
 */
bool kumo_vmm_cancel_migration(KumoVmm *vmm, GError **error);

/* Changes a migration that is being sent; NOT_FOUND if there is none. */
bool kumo_vmm_update_migration(KumoVmm *vmm, const KumoUpdateMigrationConfig *update,
                               GError **error);

/* Of a migration with memory_mode hybrid: the VM goes to the destination as soon as possible, and
 * what of its memory is not there yet follows. STATE if it was begun otherwise, NOT_FOUND if there
 * is none. */
bool kumo_vmm_start_postcopy(KumoVmm *vmm, GError **error);

/* Returns: (transfer full): how far the migration is that is sent, or how the last one went; NULL
 * with @error (NOT_FOUND: there was none). */
json_t *kumo_vmm_migration_progress(KumoVmm *vmm, GError **error);

/**
 * kumo_vmm_coredump:
 * @destination_url: "file:///path" of a file that does not exist yet
 * @direct: memory goes past the host's page cache
 *
 * Writes an ELF core of the guest: memory, and each vCPU's registers. A running VM is paused
 * meanwhile. On failure no file is left.
 */
bool kumo_vmm_coredump(KumoVmm *vmm, const char *destination_url, bool direct, GError **error);

enum { KUMO_READ_MEMORY_MAX_BYTES = 64 << 10 };

/**
 * kumo_vmm_read_memory:
 * @gpa: physical address in the guest
 * @len: 1 to KUMO_READ_MEMORY_MAX_BYTES
 *
 * What the guest has there, while it runs or not. All of it must be RAM.
 *
 * Returns: (transfer full): @len bytes; NULL with @error (INVALID: not RAM; STATE).
 */
uint8_t *kumo_vmm_read_memory(KumoVmm *vmm, uint64_t gpa, uint64_t len, GError **error);

/* Returns: (transfer full): VmInfo: config, state, memory_actual_size, device_tree. */
json_t *kumo_vmm_info(KumoVmm *vmm, GError **error);

/* Returns: (transfer full): {"_disk0": {"read_bytes": ...}}. */
json_t *kumo_vmm_counters(KumoVmm *vmm, GError **error);

/* vmm.shutdown: ends the VM and asks for the end of the process. */
void kumo_vmm_quit(KumoVmm *vmm);

/* The terminal changed its size. */
void kumo_vmm_console_resized(KumoVmm *vmm);
