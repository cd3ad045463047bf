/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <asm/prctl.h>
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/kvm/kvm_internal.h"

enum { IOAPIC_PINS = 24, XFEATURE_TILEDATA = 18 };

/* Pages that VMX needs for real mode; the address map keeps RAM and devices away from them. */
#define TSS_GPA          0xf8000000ULL
#define IDENTITY_MAP_GPA 0xf8003000ULL

/* A message's 7 additional destination bits, and where KVM wants them with 32-bit ids. */
#define MSI_EXT_DEST       0xfe0ULL
#define MSI_EXT_DEST_SHIFT 35

static int vm_fd(KumoHvVm *vm)
{
    return ((KumoKvmVm *)vm)->fd;
}

static void vm_destroy(KumoHvVm *base)
{
    KumoKvmVm *vm = (KumoKvmVm *)base;

    close(vm->fd);
    g_free(vm);
}

static bool vm_set_memory(KumoHvVm *vm, uint32_t slot, uint64_t gpa, uint64_t size_bytes, void *hva,
                          uint32_t flags, GError **error)
{
    const struct kvm_userspace_memory_region region = {
        .slot = slot,
        .flags = ((flags & KUMO_HV_MEM_READONLY) ? KVM_MEM_READONLY : 0) |
                 ((flags & KUMO_HV_MEM_LOG_DIRTY) ? KVM_MEM_LOG_DIRTY_PAGES : 0),
        .guest_phys_addr = gpa,
        .memory_size = size_bytes,
        .userspace_addr = (uintptr_t)hva,
    };

    if (ioctl(vm_fd(vm), KVM_SET_USER_MEMORY_REGION, &region) < 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR,
                    "KVM: memory slot %u at guest address 0x%" G_GINT64_MODIFIER
                    "x, %" G_GUINT64_FORMAT " bytes: %s",
                    slot, gpa, size_bytes, g_strerror(errno));
        return false;
    }
    return true;
}

static uint64_t msi_address(const KumoKvmVm *vm, uint64_t address)
{
    uint64_t ext = address & MSI_EXT_DEST;

    return vm->x2apic_ids ? (address & ~MSI_EXT_DEST) | ext << MSI_EXT_DEST_SHIFT : address;
}

static bool vm_set_gsi_routing(KumoHvVm *base, const KumoHvMsiRoute *routes, size_t n_routes,
                               GError **error)
{
    const KumoKvmVm *vm = (const KumoKvmVm *)base;
    g_autofree struct kvm_irq_routing *table =
        g_malloc0(sizeof(*table) + n_routes * sizeof(struct kvm_irq_routing_entry));

    table->nr = (uint32_t)n_routes;
    for (size_t i = 0; i < n_routes; i++) {
        uint64_t address = msi_address(vm, routes[i].address);

        table->entries[i] = (struct kvm_irq_routing_entry){
            .gsi = routes[i].gsi,
            .type = KVM_IRQ_ROUTING_MSI,
            .u.msi = {
                .address_lo = (uint32_t)address,
                .address_hi = (uint32_t)(address >> 32),
                .data = routes[i].data,
            },
        };
    }
    if (ioctl(vm->fd, KVM_SET_GSI_ROUTING, table) < 0)
        return kumo_kvm_failed("SET_GSI_ROUTING", error);
    return true;
}

static bool vm_irqfd(KumoHvVm *vm, int fd, int resample_fd, uint32_t gsi, bool assign,
                     GError **error)
{
    const struct kvm_irqfd irqfd = {
        .fd = (uint32_t)fd,
        .gsi = gsi,
        .flags = (assign ? 0 : KVM_IRQFD_FLAG_DEASSIGN) |
                 (resample_fd >= 0 ? KVM_IRQFD_FLAG_RESAMPLE : 0),
        .resamplefd = resample_fd >= 0 ? (uint32_t)resample_fd : 0,
    };

    if (ioctl(vm_fd(vm), KVM_IRQFD, &irqfd) < 0)
        return kumo_kvm_failed("IRQFD", error);
    return true;
}

static bool vm_ioeventfd(KumoHvVm *vm, int fd, uint64_t addr, unsigned len,
                         const uint64_t *datamatch, bool pio, bool assign, GError **error)
{
    const struct kvm_ioeventfd ioeventfd = {
        .datamatch = datamatch ? *datamatch : 0,
        .addr = addr,
        .len = len,
        .fd = fd,
        .flags = (assign ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN) |
                 (datamatch ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0) |
                 (pio ? KVM_IOEVENTFD_FLAG_PIO : 0),
    };

    if (ioctl(vm_fd(vm), KVM_IOEVENTFD, &ioeventfd) < 0)
        return kumo_kvm_failed("IOEVENTFD", error);
    return true;
}

static bool vm_signal_msi(KumoHvVm *base, uint64_t address, uint32_t data, GError **error)
{
    const KumoKvmVm *vm = (const KumoKvmVm *)base;
    uint64_t kvm_address = msi_address(vm, address);
    const struct kvm_msi msi = {
        .address_lo = (uint32_t)kvm_address,
        .address_hi = (uint32_t)(kvm_address >> 32),
        .data = data,
    };

    if (ioctl(vm->fd, KVM_SIGNAL_MSI, &msi) < 0)
        return kumo_kvm_failed("SIGNAL_MSI", error);
    return true;
}

static bool vm_clock_get(KumoHvVm *vm, uint64_t *ret_ns, GError **error)
{
    const KumoKvmVm *kvm_vm = (const KumoKvmVm *)vm;
    struct kvm_clock_data clock = { 0 };

    if (kvm_vm->clock_saved) {
        *ret_ns = kvm_vm->clock.clock;
        return true;
    }
    if (ioctl(vm_fd(vm), KVM_GET_CLOCK, &clock) < 0)
        return kumo_kvm_failed("GET_CLOCK", error);
    *ret_ns = clock.clock;
    return true;
}

static bool vm_clock_set(KumoHvVm *vm, uint64_t ns, GError **error)
{
    KumoKvmVm *kvm_vm = (KumoKvmVm *)vm;
    const struct kvm_clock_data clock = { .clock = ns };

    if (kvm_vm->clock_saved) {
        kvm_vm->clock.clock = ns;
        return true;
    }
    if (ioctl(vm_fd(vm), KVM_SET_CLOCK, &clock) < 0)
        return kumo_kvm_failed("SET_CLOCK", error);
    return true;
}

/* The guest's clock stands still while the VM does. */
static bool vm_pause(KumoHvVm *base, GError **error)
{
    KumoKvmVm *vm = (KumoKvmVm *)base;
    uint64_t ns = 0;

    if (!vm_clock_get(base, &ns, error))
        return false;
    vm->clock.clock = ns;
    vm->clock_saved = true;
    return true;
}

static bool vm_resume(KumoHvVm *base, GError **error)
{
    KumoKvmVm *vm = (KumoKvmVm *)base;
    bool saved = vm->clock_saved;

    vm->clock_saved = false;
    if (!saved || vm_clock_set(base, vm->clock.clock, error))
        return true;
    vm->clock_saved = true;
    return false;
}

static bool vm_dirty_get(KumoHvVm *vm, uint32_t slot, uint64_t *bitmap, size_t n_pages,
                         GError **error)
{
    const struct kvm_dirty_log log = { .slot = slot, .dirty_bitmap = bitmap };

    if (ioctl(vm_fd(vm), KVM_GET_DIRTY_LOG, &log) < 0)
        return kumo_kvm_failed("GET_DIRTY_LOG", error);
    return true;
}

static const KumoHvVmOps vm_ops = {
    .destroy = vm_destroy,
    .set_memory = vm_set_memory,
    .set_gsi_routing = vm_set_gsi_routing,
    .irqfd = vm_irqfd,
    .ioeventfd = vm_ioeventfd,
    .signal_msi = vm_signal_msi,
    .vcpu_create = kumo_kvm_vcpu_create,
    .pause = vm_pause,
    .resume = vm_resume,
    .clock_get = vm_clock_get,
    .clock_set = vm_clock_set,
    .dirty_get = vm_dirty_get,
};

static bool vm_enable_cap(int fd, uint32_t cap, uint64_t arg, const char *name, GError **error)
{
    const struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

    return ioctl(fd, KVM_ENABLE_CAP, &enable) == 0 || kumo_kvm_failed(name, error);
}

static bool check_max_apic_id(const KumoKvm *kvm, uint32_t max_apic_id, GError **error)
{
    int n_ids = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPU_ID);

    if (n_ids <= 0 || max_apic_id < (uint32_t)n_ids)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                "APIC ids up to %u: this host's KVM allows ids below %d (KVM_CAP_MAX_VCPU_ID)",
                max_apic_id, n_ids);
    return false;
}

static bool check_hyperv(const KumoKvm *kvm, GError **error)
{
    static const struct {
        int number;
        const char *name;
    } needed[] = {
        { KVM_CAP_HYPERV, "KVM_CAP_HYPERV" },
        { KVM_CAP_HYPERV_TIME, "KVM_CAP_HYPERV_TIME" },
        { KVM_CAP_HYPERV_SYNIC2, "KVM_CAP_HYPERV_SYNIC2" },
        { KVM_CAP_HYPERV_TLBFLUSH, "KVM_CAP_HYPERV_TLBFLUSH" },
        { KVM_CAP_HYPERV_SEND_IPI, "KVM_CAP_HYPERV_SEND_IPI" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(needed); i++) {
        if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, needed[i].number) > 0)
            continue;
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "cpus.kvm_hyperv: this host's KVM lacks %s", needed[i].name);
        return false;
    }
    return true;
}

/* AMX's tile data is a state that the kernel gives to a process only when asked (Linux
 * Documentation/arch/x86/xstate). It stays allowed for the process's life, and costs nothing until
 * a vCPU uses it. */
static bool permit_amx(GError **error)
{
    if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_GUEST_PERM, XFEATURE_TILEDATA) == 0)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                "cpus.features.amx: this host gives guests no AMX: arch_prctl "
                "ARCH_REQ_XCOMP_GUEST_PERM: %s",
                g_strerror(errno));
    return false;
}

KumoHvVm *kumo_kvm_vm_create(KumoHv *hv, const KumoHvVmParams *params, GError **error)
{
    KumoKvm *kvm = (KumoKvm *)hv;
    const uint64_t identity_map = IDENTITY_MAP_GPA;
    kumo_auto_fd fd = -1;
    KumoKvmVm *vm;

    /* What is supported may depend on what this machine is permitted. */
    g_clear_pointer(&kvm->cpuid, g_array_unref);
    /* A signal to this thread can interrupt it. */
    do {
        fd = ioctl(kvm->fd, KVM_CREATE_VM, 0);
    } while (fd < 0 && errno == EINTR);
    if (fd < 0) {
        kumo_kvm_failed("CREATE_VM", error);
        return NULL;
    }
    if (ioctl(fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0) {
        kumo_kvm_failed("SET_IDENTITY_MAP_ADDR", error);
        return NULL;
    }
    if (ioctl(fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_GPA) < 0) {
        kumo_kvm_failed("SET_TSS_ADDR", error);
        return NULL;
    }
    if (!vm_enable_cap(fd, KVM_CAP_SPLIT_IRQCHIP, IOAPIC_PINS, "ENABLE_CAP SPLIT_IRQCHIP", error))
        return NULL;
    if (!check_max_apic_id(kvm, params->max_apic_id, error) ||
        (params->hyperv && !check_hyperv(kvm, error)) || (params->amx && !permit_amx(error)))
        return NULL;
    if (params->x2apic_ids) {
        if (!kvm->x2apic_api) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "APIC ids up to %u: this host's KVM lacks KVM_CAP_X2APIC_API",
                        params->max_apic_id);
            return NULL;
        }
        if (!vm_enable_cap(fd, KVM_CAP_X2APIC_API,
                           KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK,
                           "ENABLE_CAP X2APIC_API", error))
            return NULL;
    }
    vm = g_new0(KumoKvmVm, 1);
    vm->base.ops = &vm_ops;
    vm->base.hv = hv;
    vm->kvm = kvm;
    vm->fd = kumo_fd_steal(&fd);
    vm->x2apic_ids = params->x2apic_ids;
    vm->hyperv = params->hyperv;
    kumo_kvm_vm_find_xsave(vm);
    return &vm->base;
}
