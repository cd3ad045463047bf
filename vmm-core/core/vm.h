/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A machine with its vCPUs, from the first mapping of memory to the last unmapping. Main thread. */
#pragma once

#include <jansson.h>

#include "vmm-core/core/arch.h"
#include "vmm-core/core/device.h"

typedef struct KumoVm KumoVm;

/* Instead of a payload: where a machine comes from that ran before. */
typedef struct {
    const json_t
        *state; /* as kumo_vm_save_state() made it; kumo_vm_save_machine() if load_memory is NULL */
    /* Fills guest memory. NULL: memory and state arrive later, see kumo_vm_load(). */
    bool (*load_memory)(void *opaque, KumoMemory *memory, GError **error);
    void *opaque;
} KumoVmRestore;

typedef struct {
    KumoHv *hv;
    const KumoArchOps *arch;
    const KumoDeviceType *const *device_types;                 /* NULL-terminated */
    const KumoVmConfig *config;                                /* outlives the VM */
    KumoConsoleSet *consoles;                                  /* NULL or outlives the VM */
    const KumoVmRestore *restore;                              /* NULL: the payload is booted */
    void (*request)(void *opaque, KumoMachineRequest request); /* any thread */
    void *request_opaque;
    void (*device_ejected)(void *opaque); /* NULL. With request_opaque; any thread */
    /* NULL. Of devices; any thread */
    void (*event)(const char *source, const char *event, json_t *properties);
} KumoVmParams;

/**
 * kumo_vm_new:
 *
 * Builds the whole machine, loads the payload and makes the vCPUs, which wait for kumo_vm_start().
 * One that is restored is as kumo_vm_pause() left it, and waits for kumo_vm_resume().
 *
 * Returns: (transfer full): or NULL with @error set and nothing left behind.
 */
KumoVm *kumo_vm_new(const KumoVmParams *params, GError **error);

/* Stops the vCPUs wherever they are and takes everything down in the reverse order. */
void kumo_vm_free(KumoVm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(KumoVm, kumo_vm_free)

void kumo_vm_start(KumoVm *vm);

/**
 * kumo_vm_pause:
 *
 * First the vCPUs, then the devices, then the hypervisor's clock.
 *
 * Returns: TRUE, or FALSE with @error; the VM runs on then.
 */
bool kumo_vm_pause(KumoVm *vm, GError **error);

/* Stops the vCPUs for good, and waits for none: some may never come back from where they wait.
 * Devices stay as they are. */
void kumo_vm_freeze(KumoVm *vm);

/* Returns: TRUE, or FALSE with @error; the VM stays paused then. */
bool kumo_vm_resume(KumoVm *vm, GError **error);

/**
 * kumo_vm_save_state:
 *
 * All of a paused machine but its memory: machine, interrupt controller, vCPUs and devices by their
 * state tables.
 *
 * Returns: (transfer full): or NULL with @error set; the machine is as it was in any case.
 */
json_t *kumo_vm_save_state(KumoVm *vm, GError **error);

/**
 * kumo_vm_save_machine:
 *
 * What another process needs to build the same machine around the memory and the state that follow.
 * The VM may run.
 *
 * Returns: (transfer full): {"machine": ...}; NULL with @error set.
 */
json_t *kumo_vm_save_machine(KumoVm *vm, GError **error);

/**
 * kumo_vm_load:
 * @vm: made with a KumoVmRestore without load_memory; its memory has been filled
 * @state: as kumo_vm_save_state() made it; hostile
 *
 * Makes the vCPUs and loads the state. Afterwards @vm is as kumo_vm_pause() left it.
 */
bool kumo_vm_load(KumoVm *vm, const json_t *state, GError **error);

/* Writes out what of the media only this host has in its memory. Any thread, while no device comes
 * or goes. */
bool kumo_vm_flush(KumoVm *vm, GError **error);

/* See kumo_vcpus_throttle(). */
void kumo_vm_throttle(KumoVm *vm, unsigned percent);

/**
 * kumo_vm_lock:
 * @lock: whether to take the locks of all media, or to release them for another host
 * @ret_exclusive: (out): when they are released: whether one of them keeps two machines from
 * running
 *
 * Of a paused machine. Returns: TRUE, or FALSE with @error (CONFLICT: somebody has one) and none
 * taken.
 */
bool kumo_vm_lock(KumoVm *vm, bool lock, bool *ret_exclusive, GError **error);

/* Copies what the guest has in its memory at @gpa; false if not all of it is RAM. */
bool kumo_vm_read_memory(const KumoVm *vm, uint64_t gpa, void *buf, size_t len);

/**
 * kumo_vm_write_coredump:
 * @fd: an empty file
 * @direct: memory goes past the host's page cache
 *
 * Writes a paused machine as an ELF core file: the notes of each vCPU, then guest memory, with
 * physical addresses.
 *
 * Returns: TRUE, or FALSE with @error (NOT_SUPPORTED if the architecture has no core files).
 */
bool kumo_vm_write_coredump(KumoVm *vm, int fd, bool direct, GError **error);

/* Sends an NMI to every vCPU; @paused: the VM is. */
bool kumo_vm_nmi(KumoVm *vm, bool paused, GError **error);

/* --- vm_cpus.c: vCPUs that come and go; they are numbered without gaps but while some are leaving
 * --- */

/* Returns: how many vCPUs the guest sees. */
unsigned kumo_vm_count_vcpus(KumoVm *vm);

/**
 * kumo_vm_add_vcpus:
 *
 * Makes the vCPUs that are missing below number @wanted, as at power-on, and tells the guest. If
 * the VM runs, they do.
 *
 * Returns: TRUE, or FALSE with @error and no vCPU added.
 */
bool kumo_vm_add_vcpus(KumoVm *vm, unsigned wanted, GError **error);

/* Asks the guest to let the vCPUs from number @wanted on go. It may be asked again. */
void kumo_vm_ask_vcpus_to_leave(KumoVm *vm, unsigned wanted);

/* Was the guest asked to let vCPU number @index go and has neither done so nor refused, or has it
 * done so just now? */
bool kumo_vm_vcpu_is_leaving(KumoVm *vm, unsigned index);

/* Returns: how many of them there are. */
unsigned kumo_vm_count_leaving_vcpus(KumoVm *vm);

/* Has the guest refused to let a vCPU go that was not asked for again? */
bool kumo_vm_vcpus_were_refused(KumoVm *vm);

/* Ends the vCPUs that the guest has let go. */
void kumo_vm_finish_vcpu_ejects(KumoVm *vm);

/* --- vm_memory.c: memory that ACPI adds --- */

/* Returns: the guest's memory in bytes, what was added included; of virtio-mem nothing. */
uint64_t kumo_vm_ram_bytes(KumoVm *vm);

/* Could kumo_vm_add_memory() do this? FALSE with @error says why not. */
bool kumo_vm_check_more_memory(KumoVm *vm, uint64_t more_bytes, GError **error);

/* Maps so much more and tells the guest. Returns: TRUE, or FALSE with @error and nothing changed.
 */
bool kumo_vm_add_memory(KumoVm *vm, uint64_t more_bytes, GError **error);

/* Binds the vCPUs' threads as @cpus says. Returns: FALSE with @error: as they were. */
bool kumo_vm_bind_vcpus(KumoVm *vm, const KumoCpusConfig *cpus, GError **error);

KumoMachine *kumo_vm_machine(KumoVm *vm);

/* Returns: (transfer full): the "device_tree" of VmInfo. */
json_t *kumo_vm_device_tree(KumoVm *vm);
