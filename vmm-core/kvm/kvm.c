/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/kvm/kvm_internal.h"

#define KVM_DEVICE "/dev/kvm"

typedef struct {
    int number;
    const char *name;
} Capability;

#define CAPABILITY(name)                                                                           \
    {                                                                                              \
        KVM_CAP_##name, #name                                                                      \
    }

/* What kumo cannot do without. */
static const Capability required[] = {
    CAPABILITY(ADJUST_CLOCK),  CAPABILITY(EXT_CPUID),
    CAPABILITY(GET_TSC_KHZ),   CAPABILITY(IMMEDIATE_EXIT),
    CAPABILITY(IOEVENTFD),     CAPABILITY(IRQCHIP),
    CAPABILITY(IRQFD),         CAPABILITY(IRQ_ROUTING),
    CAPABILITY(MP_STATE),      CAPABILITY(SET_IDENTITY_MAP_ADDR),
    CAPABILITY(SET_TSS_ADDR),  CAPABILITY(SIGNAL_MSI),
    CAPABILITY(SPLIT_IRQCHIP), CAPABILITY(TSC_DEADLINE_TIMER),
    CAPABILITY(USER_MEMORY),   CAPABILITY(USER_NMI),
    CAPABILITY(VCPU_EVENTS),   CAPABILITY(XSAVE),
};

bool kumo_kvm_failed(const char *name, GError **error)
{
    int err = errno;

    g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR, "%s", g_strerror(err));
    kumo_prefix_error(error, "KVM: %s", name);
    return false;
}

static int extension(const KumoKvm *kvm, int capability)
{
    return ioctl(kvm->fd, KVM_CHECK_EXTENSION, capability);
}

static bool check(KumoKvm *kvm, GError **error)
{
    int version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
    int run_size;

    if (version != KVM_API_VERSION) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    KVM_DEVICE ": API version %d, not %d", version, KVM_API_VERSION);
        return false;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(required); i++) {
        if (extension(kvm, required[i].number) <= 0) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        KVM_DEVICE ": this host's KVM lacks KVM_CAP_%s, which kumo needs",
                        required[i].name);
            return false;
        }
    }
    run_size = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (run_size < (int)sizeof(struct kvm_run))
        return kumo_kvm_failed("GET_VCPU_MMAP_SIZE", error);
    kvm->run_size = (size_t)run_size;
    kvm->x2apic_api = extension(kvm, KVM_CAP_X2APIC_API) > 0;
    return true;
}

static KumoHv *kvm_open(GError **error)
{
    kumo_auto_fd fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
    KumoKvm *kvm;

    if (fd < 0) {
        kumo_set_error_errno(error, errno, KVM_DEVICE);
        return NULL;
    }
    kvm = g_new0(KumoKvm, 1);
    kvm->base.ops = &kumo_kvm_ops;
    kvm->fd = fd;
    if (!check(kvm, error)) {
        g_free(kvm);
        return NULL;
    }
    kumo_fd_steal(&fd);
    return &kvm->base;
}

static void kvm_close(KumoHv *hv)
{
    KumoKvm *kvm = (KumoKvm *)hv;

    close(kvm->fd);
    g_clear_pointer(&kvm->cpuid, g_array_unref);
    g_free(kvm);
}

static uint32_t kvm_caps(KumoHv *hv)
{
    const KumoKvm *kvm = (const KumoKvm *)hv;
    uint32_t caps = KUMO_HV_CAP_DIRTY_LOG | KUMO_HV_CAP_PIO_IOEVENTFD | KUMO_HV_CAP_CLOCK;

    if (kvm->x2apic_api)
        caps |= KUMO_HV_CAP_MSI_EXT_DEST_ID;
    if (extension(kvm, KVM_CAP_READONLY_MEM) > 0)
        caps |= KUMO_HV_CAP_READONLY_MEM;
    if (extension(kvm, KVM_CAP_HYPERV_SYNIC2) > 0)
        caps |= KUMO_HV_CAP_HYPERV;
    return caps;
}

static uint32_t kvm_max_vcpus(KumoHv *hv)
{
    int n = extension((const KumoKvm *)hv, KVM_CAP_MAX_VCPUS);

    if (n <= 0)
        n = extension((const KumoKvm *)hv, KVM_CAP_NR_VCPUS);
    return n > 0 ? (uint32_t)n : 4; /* the documented minimum */
}

static uint32_t kvm_tsc_khz(KumoHv *hv)
{
    return ((const KumoKvm *)hv)->tsc_khz;
}

const KumoHvOps kumo_kvm_ops = {
    .name = "kvm",
    .device_path = KVM_DEVICE,
    .syscalls = &kumo_kvm_syscalls,
    .open = kvm_open,
    .close = kvm_close,
    .caps = kvm_caps,
    .max_vcpus = kvm_max_vcpus,
    .tsc_khz = kvm_tsc_khz,
    .cpuid_base = kumo_kvm_cpuid_base,
    .vm_create = kumo_kvm_vm_create,
};
