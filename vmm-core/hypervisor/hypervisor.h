/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the VMM asks of a hypervisor. Each backend (KVM, Microsoft Hypervisor) offers three const
 * tables of operations over neutral types; nothing outside a backend's folder knows which one runs.
 * An operation that a backend does not have is NULL, and a capability bit says so beforehand.
 *
 * The backend completes port and memory-mapped I/O itself through the bus operations that each vCPU
 * was given; run() returns only for what core has to decide. The local APICs are the hypervisor's,
 * the IOAPIC is the VMM's (a split irqchip): its pins are GSIs 0..23 of the MSI routing table.
 *
 * Operations on a vCPU are called on the thread that runs it, or by another while that thread is
 * parked outside run() or does not exist; the exception is set_immediate_exit. Operations on a VM
 * may come from any thread.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

#include "vmm-core/base/sandbox.h"

typedef struct KumoHv KumoHv;
typedef struct KumoHvVm KumoHvVm;
typedef struct KumoHvVcpu KumoHvVcpu;

typedef enum {
    KUMO_HV_CAP_DIRTY_LOG = 1 << 0,
    KUMO_HV_CAP_PIO_IOEVENTFD = 1 << 1,
    KUMO_HV_CAP_MSI_EXT_DEST_ID = 1 << 2, /* 15-bit destination ids in MSI addresses */
    KUMO_HV_CAP_CLOCK = 1 << 3,           /* clock_get and clock_set */
    KUMO_HV_CAP_READONLY_MEM = 1 << 4,
    KUMO_HV_CAP_HYPERV = 1 << 5, /* Hyper-V enlightenments */
} KumoHvCaps;

/* --- neutral processor state, x86-64 --- */

typedef struct {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp;
    uint64_t r8, r9, r10, r11, r12, r13, r14, r15;
    uint64_t rip, rflags;
} KumoHvRegs;

typedef struct {
    uint64_t base;
    uint32_t limit;
    uint16_t selector;
    uint8_t type; /* 4 bits */
    uint8_t s, dpl, present, avl, l, db, g;
    uint8_t unusable;
} KumoHvSegment;

typedef struct {
    uint64_t base;
    uint16_t limit;
} KumoHvTable;

typedef struct {
    KumoHvSegment cs, ds, es, fs, gs, ss, tr, ldt;
    KumoHvTable gdt, idt;
    uint64_t cr0, cr2, cr3, cr4, cr8;
    uint64_t efer;
    uint64_t apic_base;
} KumoHvSregs;

typedef struct {
    uint32_t leaf;
    uint32_t subleaf;
    bool subleaf_matters;
    uint32_t eax, ebx, ecx, edx;
} KumoHvCpuid;

typedef struct {
    uint32_t index;
    uint64_t value;
} KumoHvMsr;

typedef struct {
    uint64_t dr[4];
    uint64_t dr6, dr7;
} KumoHvDebugRegs;

/* What is on its way into the vCPU (Intel SDM 3A, 6.6 to 6.9), and what holds it back. */
typedef struct {
    bool exception_injected, exception_pending;
    uint8_t exception_vector;
    bool exception_has_error;
    uint32_t exception_error;
    bool exception_has_payload; /* CR2 of a page fault, DR6 of a debug exception not yet written */
    uint64_t exception_payload;
    bool interrupt_injected, interrupt_soft;
    uint8_t interrupt_vector;
    uint8_t shadow; /* 1: after MOV SS, 2: after STI */
    bool nmi_injected, nmi_pending, nmi_masked;
    uint32_t sipi_vector;
    bool has_smm; /* the next four are known */
    bool smm, smm_pending, smm_inside_nmi, smm_latched_init;
    bool triple_fault_pending;
} KumoHvEvents;

/* What a vCPU waits for. The numbers are in snapshots. */
typedef enum {
    KUMO_HV_MP_RUNNABLE = 0,
    KUMO_HV_MP_UNINITIALIZED = 1, /* an application processor before INIT */
    KUMO_HV_MP_INIT_RECEIVED = 2,
    KUMO_HV_MP_HALTED = 3,
    KUMO_HV_MP_SIPI_RECEIVED = 4,
} KumoHvMpState;

/* The local APIC's registers, indexed by register offset / 0x10 (Intel SDM 3A, table "Local APIC
 * Register Address Map"). */
typedef struct {
    uint32_t regs[64];
} KumoHvLapic;

typedef struct {
    uint32_t gsi;
    uint64_t address;
    uint32_t data;
} KumoHvMsiRoute;

/* --- exits --- */

typedef enum {
    KUMO_HV_EXIT_AGAIN, /* interrupted, or nothing is left to do: look at requests, run again */
    KUMO_HV_EXIT_IOAPIC_EOI, /* the guest ended a level-triggered interrupt: vector */
    KUMO_HV_EXIT_RESET,      /* triple fault or an architectural reset request */
    KUMO_HV_EXIT_SHUTDOWN,   /* the hypervisor says that the guest powered off */
    KUMO_HV_EXIT_ERROR,      /* the vCPU cannot go on: the GError says why */
} KumoHvExitKind;

typedef struct {
    KumoHvExitKind kind;
    uint8_t vector; /* IOAPIC_EOI */
} KumoHvExit;

/*
 * How a backend reaches the machine, called on the vCPU's thread. @size is 1 to 8 for MMIO and 1, 2
 * or 4 for port I/O. An address that nobody claims reads as all ones and swallows writes: never an
 * error.
 */
typedef struct {
    void (*pio_read)(void *opaque, uint16_t port, uint8_t *data, unsigned size);
    void (*pio_write)(void *opaque, uint16_t port, const uint8_t *data, unsigned size);
    void (*mmio_read)(void *opaque, uint64_t gpa, uint8_t *data, unsigned size);
    void (*mmio_write)(void *opaque, uint64_t gpa, const uint8_t *data, unsigned size);
    /* For backends that emulate instructions: guest memory; false if it is not RAM. */
    bool (*mem_read)(void *opaque, uint64_t gpa, void *data, unsigned size);
    bool (*mem_write)(void *opaque, uint64_t gpa, const void *data, unsigned size);
} KumoHvBusOps;

/* --- operations --- */

typedef enum {
    KUMO_HV_MEM_READONLY = 1 << 0,
    KUMO_HV_MEM_LOG_DIRTY = 1 << 1,
} KumoHvMemFlags;

typedef struct {
    uint32_t max_vcpus;
    uint32_t max_apic_id;
    bool x2apic_ids; /* interrupt destinations above 254 are in use */
    bool hyperv;     /* Hyper-V's interrupt controller and timers for every vCPU */
    bool amx;        /* vCPUs may have the state of AMX's tiles */
} KumoHvVmParams;

typedef struct {
    /**
     * destroy: ends the VM and frees it; all vCPUs must be gone.
     */
    void (*destroy)(KumoHvVm *vm);
    /* Called once when all devices' early state is there, before the first vCPU. NULL: nothing to
     * do. */
    bool (*init)(KumoHvVm *vm, GError **error);
    /**
     * set_memory: maps @size_bytes at @hva as guest memory at @gpa, all page aligned; @size_bytes 0
     * unmaps what the slot held. @flags is of KumoHvMemFlags.
     */
    bool (*set_memory)(KumoHvVm *vm, uint32_t slot, uint64_t gpa, uint64_t size_bytes, void *hva,
                       uint32_t flags, GError **error);
    /* Replaces the whole routing table. */
    bool (*set_gsi_routing)(KumoHvVm *vm, const KumoHvMsiRoute *routes, size_t n_routes,
                            GError **error);
    /* Connects (@assign) or disconnects eventfd @fd with GSI @gsi. @resample_fd -1: none. */
    bool (*irqfd)(KumoHvVm *vm, int fd, int resample_fd, uint32_t gsi, bool assign, GError **error);
    /* A guest write of @len bytes (0: any length) at @addr signals @fd; @datamatch NULL: any value.
     */
    bool (*ioeventfd)(KumoHvVm *vm, int fd, uint64_t addr, unsigned len, const uint64_t *datamatch,
                      bool pio, bool assign, GError **error);
    /* Delivers one message-signalled interrupt now. */
    bool (*signal_msi)(KumoHvVm *vm, uint64_t address, uint32_t data, GError **error);
    /**
     * vcpu_create:
     * @bus, @opaque: used from the vCPU's thread as long as the vCPU lives
     * Returns: (transfer full)
     */
    KumoHvVcpu *(*vcpu_create)(KumoHvVm *vm, uint32_t index, uint32_t apic_id,
                               const KumoHvBusOps *bus, void *opaque, GError **error);
    /* Around a pause of all vCPUs, when they have stopped. NULL: nothing to do. */
    bool (*pause)(KumoHvVm *vm, GError **error);
    bool (*resume)(KumoHvVm *vm, GError **error);
    /* The guest's paravirtual clock in ns; between pause and resume that of the pause, and what is
     * set then holds from resume on. NULL without KUMO_HV_CAP_CLOCK. */
    bool (*clock_get)(KumoHvVm *vm, uint64_t *ret_ns, GError **error);
    bool (*clock_set)(KumoHvVm *vm, uint64_t ns, GError **error);
    /* Dirty pages of @slot since the last call as a bitmap, one bit per 4 KiB page. NULL without
     * DIRTY_LOG. */
    bool (*dirty_get)(KumoHvVm *vm, uint32_t slot, uint64_t *bitmap, size_t n_pages,
                      GError **error);
} KumoHvVmOps;

typedef struct {
    void (*destroy)(KumoHvVcpu *vcpu);
    /**
     * run: runs guest code until something needs core. Does not block when an immediate exit was
     * asked for. After AGAIN no access is half done: the vCPU's state may be read and saved. After
     * the others one more run() with the immediate exit set makes it so. Returns: FALSE only with
     * ret_exit->kind == KUMO_HV_EXIT_ERROR and @error set.
     */
    bool (*run)(KumoHvVcpu *vcpu, KumoHvExit *ret_exit, GError **error);
    /* Any thread, also a signal handler: the next or present run() returns at once while set. NULL:
     * signals only. */
    void (*set_immediate_exit)(KumoHvVcpu *vcpu, bool on);
    bool (*get_regs)(KumoHvVcpu *vcpu, KumoHvRegs *ret, GError **error);
    bool (*set_regs)(KumoHvVcpu *vcpu, const KumoHvRegs *regs, GError **error);
    bool (*get_sregs)(KumoHvVcpu *vcpu, KumoHvSregs *ret, GError **error);
    bool (*set_sregs)(KumoHvVcpu *vcpu, const KumoHvSregs *sregs, GError **error);
    bool (*set_cpuid)(KumoHvVcpu *vcpu, const KumoHvCpuid *entries, size_t n_entries,
                      GError **error);
    /* Stops at the first MSR that is refused and names it. */
    bool (*get_msrs)(KumoHvVcpu *vcpu, KumoHvMsr *msrs, size_t n_msrs, GError **error);
    bool (*set_msrs)(KumoHvVcpu *vcpu, const KumoHvMsr *msrs, size_t n_msrs, GError **error);
    bool (*get_lapic)(KumoHvVcpu *vcpu, KumoHvLapic *ret, GError **error);
    bool (*set_lapic)(KumoHvVcpu *vcpu, const KumoHvLapic *lapic, GError **error);
    bool (*nmi)(KumoHvVcpu *vcpu, GError **error);
    /*
     * The rest of what a vCPU is, for snapshots and migration. All are there or none. Restored in
     * the order: CPUID and TSC rate, MP state, registers, XSAVE, XCR0, local APIC, MSRs, debug
     * registers, events.
     */
    GArray *(*get_cpuid)(KumoHvVcpu *vcpu, GError **error); /* (transfer full): of KumoHvCpuid */
    /* Every MSR that belongs to the state, in the order in which set_msrs() takes them back: after
     * the local APIC, whose mode and timer some of them work on. (transfer full): of KumoHvMsr */
    GArray *(*get_all_msrs)(KumoHvVcpu *vcpu, GError **error);
    /* The FPU, vector and other extended state, in a layout of the backend's own. (transfer full)
     */
    GByteArray *(*get_xsave)(KumoHvVcpu *vcpu, GError **error);
    bool (*set_xsave)(KumoHvVcpu *vcpu, const uint8_t *data, size_t len, GError **error);
    bool (*get_xcr0)(KumoHvVcpu *vcpu, uint64_t *ret,
                     GError **error); /* 0: this processor has none */
    bool (*set_xcr0)(KumoHvVcpu *vcpu, uint64_t xcr0, GError **error);
    bool (*get_debug_regs)(KumoHvVcpu *vcpu, KumoHvDebugRegs *ret, GError **error);
    bool (*set_debug_regs)(KumoHvVcpu *vcpu, const KumoHvDebugRegs *regs, GError **error);
    bool (*get_events)(KumoHvVcpu *vcpu, KumoHvEvents *ret, GError **error);
    bool (*set_events)(KumoHvVcpu *vcpu, const KumoHvEvents *events, GError **error);
    bool (*get_mp_state)(KumoHvVcpu *vcpu, KumoHvMpState *ret, GError **error);
    bool (*set_mp_state)(KumoHvVcpu *vcpu, KumoHvMpState state, GError **error);
    /* NULL, or refuses (NOT_SUPPORTED) a vCPU that has what none of these gets: machines of the
     * guest's own. */
    bool (*check_nested)(KumoHvVcpu *vcpu, GError **error);
    /* Lets the guest's TSC run at @khz; refused if this host's differs and cannot be scaled. */
    bool (*set_tsc_khz)(KumoHvVcpu *vcpu, uint32_t khz, GError **error);
    /* Tells the guest that it was stopped for a while, so that its watchdogs stay quiet. NULL:
     * nothing to do. */
    void (*clock_paused)(KumoHvVcpu *vcpu);
} KumoHvVcpuOps;

typedef struct {
    const char *name; /* "kvm", "mshv" */
    const char *device_path;
    const KumoHypervisorSyscalls *syscalls; /* that these operations make */
    /**
     * open: opens the hypervisor's device and checks its version and what kumo cannot do without.
     * Returns: (transfer full): or NULL with @error naming the missing capability.
     */
    KumoHv *(*open)(GError **error);
    void (*close)(KumoHv *hv);
    uint32_t (*caps)(KumoHv *hv); /* of KumoHvCaps */
    uint32_t (*max_vcpus)(KumoHv *hv);
    uint32_t (*tsc_khz)(KumoHv *hv); /* 0: unknown; it may be until the first vCPU has been made */
    /* The CPUID leaves that the hypervisor can show to a guest. Returns: (transfer full): array of
     * KumoHvCpuid. */
    GArray *(*cpuid_base)(KumoHv *hv, GError **error);
    /* Returns: (transfer full) */
    KumoHvVm *(*vm_create)(KumoHv *hv, const KumoHvVmParams *params, GError **error);
} KumoHvOps;

struct KumoHv {
    const KumoHvOps *ops;
};

struct KumoHvVm {
    const KumoHvVmOps *ops;
    KumoHv *hv;
};

struct KumoHvVcpu {
    const KumoHvVcpuOps *ops;
    KumoHvVm *vm;
    uint32_t index;
};
