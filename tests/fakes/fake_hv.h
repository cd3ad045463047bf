/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hypervisor that runs nothing and remembers what it was asked for. A test makes its VM with
 * fake_hv_vm_new(), hands it to kumo_irq_new() or kumo_memory_new(), and looks at the arrays
 * afterwards. vCPUs take their exits and accesses from a script; an empty script blocks run() until
 * a kick.
 */
#pragma once

#include <sched.h>

#include "vmm-core/hypervisor/hypervisor.h"

typedef struct {
    uint64_t address;
    uint32_t data;
} FakeMsi;

typedef struct {
    int fd;
    uint32_t gsi;
} FakeIrqfd;

typedef struct {
    int fd;
    uint64_t addr;
    unsigned len;
    bool has_datamatch;
    uint64_t datamatch;
    bool pio;
} FakeIoeventfd;

typedef struct {
    uint32_t slot;
    uint64_t gpa, size_bytes;
    void *hva;
    uint32_t flags;
} FakeSlot;

typedef struct {
    uint32_t slot;
    uint64_t page;
} FakePage;

typedef struct {
    KumoHvVm base;
    KumoHv hv;
    GMutex lock;         /* the arrays, when threads are at work */
    GArray *routes;      /* of KumoHvMsiRoute: the present table */
    unsigned n_routing;  /* how often it was set */
    GArray *msis;        /* of FakeMsi: what signal_msi delivered, in order */
    GArray *irqfds;      /* of FakeIrqfd: those connected now */
    GArray *ioeventfds;  /* of FakeIoeventfd: those there now */
    GArray *slots;       /* of FakeSlot: those mapped now */
    GArray *dirty;       /* of FakePage: see fake_hv_guest_writes() */
    unsigned lost_dirty; /* so many of them the log forgets, as it must not */
    const char *fail;    /* the operation of this name fails: "irqfd", "set_memory", "vcpu_create",
                            "run", ... */
    unsigned n_vcpus;    /* alive */
    unsigned n_pauses, n_resumes;
    uint64_t clock_ns;
} FakeHvVm;

typedef struct {
    KumoHvVcpu base;
    const KumoHvBusOps *bus;
    void *opaque;
    uint32_t apic_id;
    KumoHvRegs regs;
    KumoHvSregs sregs;
    KumoHvLapic lapic;
    KumoHvDebugRegs debug_regs;
    KumoHvEvents events;
    KumoHvMpState mp_state;
    uint64_t xcr0;
    uint8_t xsave[8192];
    size_t xsave_len; /* 64, if a test wants no other */
    GArray *cpuid;    /* of KumoHvCpuid */
    GArray *msrs;     /* of KumoHvMsr: those that were set; unset ones read as zero */
    uint32_t tsc_khz;
    int wake_fd;
    int immediate_exit; /* atomic */
    GAsyncQueue *script;
    int n_runs;           /* atomic: how often run() was entered */
    cpu_set_t first_cpus; /* where its thread could run when run() was entered first */
    unsigned n_nmis, n_clock_paused;
} FakeHvVcpu;

/* A backend for what takes KumoHvOps; its VMs are FakeHvVm. */
extern const KumoHvOps fake_hv_ops;

/* The same without set_immediate_exit: a kick between two runs is lost, as on hypervisors that know
 * signals only. */
extern const KumoHvOps fake_hv_signals_only_ops;

/* Returns: (transfer full): a VM that is of no KumoHv; free with vm->base.ops->destroy(&vm->base).
 */
FakeHvVm *fake_hv_vm_new(void);

/* Of the VM that fake_hv_ops made last and that still lives, or NULL. */
FakeHvVm *fake_hv_last_vm(void);

/* vCPU @index of @vm, or NULL. */
FakeHvVcpu *fake_hv_vcpu(FakeHvVm *vm, unsigned index);

/* Lets run() of @vcpu return this. Any thread. */
void fake_hv_push_exit(FakeHvVcpu *vcpu, KumoHvExitKind kind, uint8_t vector);

/* Lets run() of @vcpu access the bus; for a read, @ret (8 bytes) is filled before *@done becomes 1
 * (atomically). */
void fake_hv_push_access(FakeHvVcpu *vcpu, bool pio, bool write, uint64_t addr, uint64_t value,
                         unsigned size, uint64_t *ret, int *done);

/* Lets run() of @vcpu call @func on the vCPU's thread. */
void fake_hv_push_call(FakeHvVcpu *vcpu, void (*func)(void *opaque), void *opaque);

/* As a guest would: writes @len bytes of RAM at @gpa, which the log of its slot, if there is one,
 * gets. */
void fake_hv_guest_writes(FakeHvVm *vm, uint64_t gpa, const void *data, size_t len);
