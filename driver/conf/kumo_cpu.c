/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_cpu.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "cpu/cpu.h"
#include "virfile.h"
#include "vmm-core/config/cpu_features.h"

#define VIR_FROM_THIS VIR_FROM_CPU

VIR_LOG_INIT("kumo.kumo_cpu");

#define KUMO_KVM "/dev/kvm"

/* More leaves than any KVM has. */
#define KUMO_CPUID_ENTRIES 512

/* --- what KVM gives --- */

/* Returns: (transfer full) (nullable): what KVM can show to guests; NULL: it cannot be asked. */
static struct kvm_cpuid2 *kumoCpuAskKvm(void)
{
    g_autofree struct kvm_cpuid2 *cpuid =
        g_malloc0(sizeof(*cpuid) + KUMO_CPUID_ENTRIES * sizeof(struct kvm_cpuid_entry2));
    VIR_AUTOCLOSE fd = open(KUMO_KVM, O_RDWR | O_CLOEXEC);

    cpuid->nent = KUMO_CPUID_ENTRIES;
    if (fd < 0 || ioctl(fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
        VIR_DEBUG("%s cannot be asked for CPU features: %s", KUMO_KVM, g_strerror(errno));
        return NULL;
    }
    return g_steal_pointer(&cpuid);
}

static uint32_t kumoCpuRegister(const struct kvm_cpuid_entry2 *entry, KumoCpuidRegister reg)
{
    switch (reg) {
    case KUMO_CPUID_EAX:
        return entry->eax;
    case KUMO_CPUID_EBX:
        return entry->ebx;
    case KUMO_CPUID_ECX:
        return entry->ecx;
    case KUMO_CPUID_EDX:
        return entry->edx;
    case KUMO_CPUID_MSR:
        break;
    }
    return 0;
}

/* What each guest may have, whatever KVM says of the host: KVM or the VMM does it all. */
static const char *const kumoCpuAlways[] = { "hypervisor", "x2apic", "tsc-deadline", NULL };

static bool kumoCpuKvmHas(const struct kvm_cpuid2 *cpuid, const char *name)
{
    unsigned bit = 0;
    const KumoCpuFeatureWord *word = kumo_cpu_feature_find(name, &bit);

    /* Bits of model-specific registers come with the feature that announces the register. */
    if (!word || word->reg == KUMO_CPUID_MSR || g_strv_contains(kumoCpuAlways, name))
        return true;
    for (unsigned int i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];

        if (entry->function == word->leaf &&
            (!word->subleaf_matters || entry->index == word->subleaf))
            return kumoCpuRegister(entry, word->reg) & (1u << bit);
    }
    return false;
}

/* --- resolving --- */

bool kumoCpuHasModel(const virCPUDef *cpu)
{
    return cpu && cpu->mode == VIR_CPU_MODE_CUSTOM && cpu->model;
}

/* Turns off what a guest would not have. @cpuid: what KVM gives. */
static int kumoCpuFilter(virCPUDef *cpu, const struct kvm_cpuid2 *cpuid)
{
    g_autoptr(virCPUDef) expanded = virCPUDefCopy(cpu);
    g_autoptr(GString) missing = g_string_new(NULL);

    if (virCPUExpandFeatures(virArchFromHost(), expanded) < 0)
        return -1;
    for (size_t i = 0; i < expanded->nfeatures; i++) {
        const virCPUFeatureDef *feature = &expanded->features[i];

        if (feature->policy != VIR_CPU_FEATURE_REQUIRE || kumoCpuKvmHas(cpuid, feature->name))
            continue;
        g_string_append_printf(missing, "%s%s", missing->len ? "," : "", feature->name);
        if (kumoCompatCpuUpdateFeature(cpu, feature->name, VIR_CPU_FEATURE_DISABLE) < 0)
            return -1;
    }
    if (missing->len == 0 || cpu->check != VIR_CPU_CHECK_FULL)
        return 0;
    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("guest CPU doesn't match specification: missing features: %s"), missing->str);
    return -1;
}

/* A copy of the host's CPU that offers what KVM adds for guests. */
static virCPUDef *kumoCpuHostForGuests(const virCPUDef *host)
{
    g_autoptr(virCPUDef) copy = virCPUDefCopy(host);

    for (const char *const *name = kumoCpuAlways; *name; name++) {
        if (virCPUDefFindFeature(copy, *name))
            continue;
        if (kumoCompatCpuAddFeature(copy, *name, VIR_CPU_FEATURE_REQUIRE) < 0)
            return NULL;
    }
    return g_steal_pointer(&copy);
}

int kumoCpuCheckFeatures(const virCPUDef *cpu)
{
    for (size_t i = 0; i < cpu->nfeatures; i++) {
        unsigned bit;

        if (kumo_cpu_feature_find(cpu->features[i].name, &bit))
            continue;
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/cpu/feature[@name='%s'] is not known to kumo"),
                       cpu->features[i].name);
        return -1;
    }
    return 0;
}

/* The host's CPU with some features more or less. */
static int kumoCpuResolveHost(virCPUDef *cpu, const virCPUDef *host)
{
    for (size_t i = 0; i < cpu->nfeatures; i++) {
        virCPUFeatureDef *feature = &cpu->features[i];
        int there =
            host && host->model ? virCPUCheckFeature(virArchFromHost(), host, feature->name) : 1;

        if (there < 0)
            return -1;
        if (feature->policy == VIR_CPU_FEATURE_OPTIONAL) {
            feature->policy = there ? VIR_CPU_FEATURE_REQUIRE : VIR_CPU_FEATURE_DISABLE;
        } else if ((feature->policy == VIR_CPU_FEATURE_REQUIRE && !there) ||
                   (feature->policy == VIR_CPU_FEATURE_FORBID && there && host)) {
            virReportError(VIR_ERR_CPU_INCOMPATIBLE,
                           feature->policy == VIR_CPU_FEATURE_REQUIRE
                               ? _("the host CPU does not provide required feature '%s'")
                               : _("the host CPU provides forbidden feature '%s'"),
                           feature->name);
            return -1;
        }
    }
    return 0;
}

int kumoCpuResolve(virDomainDef *def, const virCPUDef *host, bool askKvm)
{
    virArch arch = virArchFromHost();
    virCPUDef *cpu = def->cpu;
    g_autofree struct kvm_cpuid2 *cpuid = NULL;
    g_autoptr(virCPUDef) offer = NULL;
    g_autoptr(virCPUDef) base = NULL;

    if (!cpu)
        return 0;
    if (cpu->mode == VIR_CPU_MODE_HOST_PASSTHROUGH || cpu->mode == VIR_CPU_MODE_MAXIMUM)
        return kumoCpuResolveHost(cpu, host);
    if (cpu->mode != VIR_CPU_MODE_HOST_MODEL && !kumoCpuHasModel(cpu))
        return 0;

    if (!host || !host->model) {
        /* Tools ask for the host's model by default, and without one get its CPU. */
        if (cpu->mode == VIR_CPU_MODE_HOST_MODEL)
            return kumoCpuResolveHost(cpu, NULL);
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, "%s",
                       _("/domain/cpu/model: the host's CPU model is not known"));
        return -1;
    }
    if (!(offer = kumoCpuHostForGuests(host)))
        return -1;
    if (kumoCpuHasModel(cpu) &&
        (virCPUConvertLegacy(arch, cpu) < 0 || virCPUCheckForbiddenFeatures(cpu, offer) < 0))
        return -1;
    if (kumoCpuHasModel(cpu) && cpu->check != VIR_CPU_CHECK_NONE &&
        virCPUCompare(arch, offer, cpu, true) < VIR_CPU_COMPARE_IDENTICAL)
        return -1;
    if (!(base = virCPUCopyMigratable(arch, offer)) || kumoCompatCpuUpdate(arch, cpu, base) < 0)
        return -1;

    cpu->mode = VIR_CPU_MODE_CUSTOM;
    cpu->fallback = VIR_CPU_FALLBACK_FORBID;
    if (askKvm && (cpuid = kumoCpuAskKvm()) && kumoCpuFilter(cpu, cpuid) < 0)
        return -1;
    cpu->check = VIR_CPU_CHECK_FULL;
    return 0;
}

virCPUDef *kumoCpuHostModel(const virCPUDef *host)
{
    g_autofree struct kvm_cpuid2 *cpuid = NULL;
    g_autoptr(virCPUDef) cpu = NULL;
    g_autoptr(virCPUDef) offer = NULL;
    g_autoptr(virCPUDef) base = NULL;

    if (!host || !host->model)
        return NULL;
    cpu = virCPUDefNew();
    cpu->type = VIR_CPU_TYPE_GUEST;
    cpu->mode = VIR_CPU_MODE_HOST_MODEL;
    if (!(offer = kumoCpuHostForGuests(host)) ||
        !(base = virCPUCopyMigratable(virArchFromHost(), offer)) ||
        kumoCompatCpuUpdate(virArchFromHost(), cpu, base) < 0 ||
        ((cpuid = kumoCpuAskKvm()) && kumoCpuFilter(cpu, cpuid) < 0))
        return NULL;
    return g_steal_pointer(&cpu);
}
