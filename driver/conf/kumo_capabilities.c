/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_capabilities.h"

#include <unistd.h>

#include "cpu/cpu.h"
#include "domain_conf.h"
#include "driver/conf/kumo_cpu.h"
#include "kumo-build.h"
#include "virfile.h"
#include "virhostcpu.h"
#include "virnodesuspend.h"
#include "virstring.h"
#include "viruuid.h"
#include "vmm-core/config/config.h"

#define VIR_FROM_THIS VIR_FROM_CAPABILITIES

VIR_LOG_INIT("kumo.kumo_capabilities");

static const struct {
    const char *name;
    const char *canonical; /* NULL: it is one itself */
} kumoMachines[] = {
    { KUMO_MACHINE, NULL },
    { "kumo", KUMO_MACHINE },
    { "q35", KUMO_MACHINE },
    { "pc", KUMO_MACHINE },
};

const char *kumoMachineCanonical(const char *name)
{
    for (size_t i = 0; i < G_N_ELEMENTS(kumoMachines); i++) {
        if (STREQ(kumoMachines[i].name, name))
            return kumoMachines[i].canonical ? kumoMachines[i].canonical : kumoMachines[i].name;
    }
    return NULL;
}

char *kumoBinaryPath(const kumoDriverConfig *cfg)
{
    g_autofree char *path = virFindFileInPath(cfg->binary);

    if (!path && STREQ(cfg->binary, KUMO_DEFAULT_BINARY) &&
        virFileIsExecutable(KUMO_BINDIR "/" KUMO_DEFAULT_BINARY))
        path = g_strdup(KUMO_BINDIR "/" KUMO_DEFAULT_BINARY);

    if (!path) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the VMM '%s' is not an executable file, nor is it found in PATH"),
                       cfg->binary);
        return NULL;
    }
    return g_steal_pointer(&path);
}

unsigned int kumoMaxVcpus(void)
{
    int host = virHostCPUGetKVMMaxVCPUs();

    if (host <= 0) {
        virResetLastError();
        return KUMO_MAX_VCPUS;
    }
    return MIN((unsigned int)host, (unsigned int)KUMO_MAX_VCPUS);
}

static void kumoCapabilitiesAddSecModels(virCaps *caps, kumoDriver *driver)
{
    g_autofree virSecurityManager **nested = NULL;
    size_t n = 0;

    if (!driver->security || !(nested = virSecurityManagerGetNested(driver->security)))
        return;
    while (nested[n])
        n++;

    caps->host.secModels = g_new0(virCapsHostSecModel, n);
    caps->host.nsecModels = n;
    for (size_t i = 0; i < n; i++) {
        virCapsHostSecModel *model = &caps->host.secModels[i];
        const char *label = virSecurityManagerGetBaseLabel(nested[i], VIR_DOMAIN_VIRT_KVM);

        model->model = g_strdup(virSecurityManagerGetModel(nested[i]));
        model->doi = g_strdup(virSecurityManagerGetDOI(nested[i]));
        if (label)
            virCapabilitiesHostSecModelAddBaseLabel(
                model, virDomainVirtTypeToString(VIR_DOMAIN_VIRT_KVM), label);
    }
}

static void kumoCapabilitiesAddGuest(virCaps *caps, kumoDriver *driver)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autofree char *binary = virFindFileInPath(cfg->binary);
    size_t n = G_N_ELEMENTS(kumoMachines);
    virCapsGuestMachine **machines = g_new0(virCapsGuestMachine *, n);
    virCapsGuest *guest;

    for (size_t i = 0; i < n; i++) {
        machines[i] = g_new0(virCapsGuestMachine, 1);
        machines[i]->name = g_strdup(kumoMachines[i].name);
        machines[i]->canonical = g_strdup(kumoMachines[i].canonical);
        machines[i]->maxCpus = KUMO_MAX_VCPUS;
    }

    guest = virCapabilitiesAddGuest(caps, VIR_DOMAIN_OSTYPE_HVM, caps->host.arch,
                                    binary ? binary : KUMO_BINDIR "/" KUMO_DEFAULT_BINARY, NULL, n,
                                    machines);
    virCapabilitiesAddGuestDomain(guest, VIR_DOMAIN_VIRT_KVM, NULL, NULL, 0, NULL);
    virCapabilitiesAddGuestFeatureWithToggle(guest, VIR_CAPS_GUEST_FEATURE_TYPE_ACPI, true, false);
    virCapabilitiesAddGuestFeatureWithToggle(guest, VIR_CAPS_GUEST_FEATURE_TYPE_APIC, true, false);
}

virCaps *kumoCapabilitiesNew(kumoDriver *driver)
{
    g_autoptr(virCaps) caps = virCapabilitiesNew(virArchFromHost(), true, false);

    if (!caps)
        return NULL;

    /* What cannot be found out about the host is left out. */
    if (!(caps->host.numa = virCapabilitiesHostNUMANewHost()))
        return NULL;
    if (virCapabilitiesInitCaches(caps) < 0)
        VIR_WARN("no information about the host's caches");
    if (virCapabilitiesInitPages(caps) < 0)
        VIR_WARN("no information about the host's page sizes");
    if (virNodeSuspendGetTargetMask(&caps->host.powerMgmt) < 0)
        VIR_WARN("no information about the host's power management");
    virCapabilitiesHostInitIOMMU(caps);
    if (virGetHostUUID(caps->host.host_uuid) < 0)
        VIR_WARN("no host UUID");
    if (!(caps->host.cpu = virCPUProbeHost(caps->host.arch)))
        VIR_WARN("no information about the host's CPU model");
    virResetLastError();

    kumoCapabilitiesAddSecModels(caps, driver);
    kumoCapabilitiesAddGuest(caps, driver);
    return g_steal_pointer(&caps);
}

static void kumoDomainCapsFillDevices(virDomainCaps *dom, const kumoDriverConfig *cfg)
{
    dom->os.supported = VIR_TRISTATE_BOOL_YES;
    dom->os.firmware.report = true;
    dom->os.loader.supported = VIR_TRISTATE_BOOL_YES;
    dom->os.loader.type.report = true;
    dom->os.loader.readonly.report = true;
    VIR_DOMAIN_CAPS_ENUM_SET(dom->os.loader.type, VIR_DOMAIN_LOADER_TYPE_ROM);
    VIR_DOMAIN_CAPS_ENUM_SET(dom->os.loader.readonly, VIR_TRISTATE_BOOL_YES);
    dom->os.loader.secure.report = true;
    VIR_DOMAIN_CAPS_ENUM_SET(dom->os.loader.secure, VIR_TRISTATE_BOOL_NO);
    if (cfg->firmware) {
        VIR_DOMAIN_CAPS_ENUM_SET(dom->os.firmware, VIR_DOMAIN_OS_DEF_FIRMWARE_EFI);
        dom->os.loader.values.values = g_new0(char *, 1);
        dom->os.loader.values.values[0] = g_strdup(cfg->firmware);
        dom->os.loader.values.nvalues = 1;
    }

    dom->cpu.hostPassthrough = true;
    dom->cpu.hostPassthroughMigratable.report = true;
    VIR_DOMAIN_CAPS_ENUM_SET(dom->cpu.hostPassthroughMigratable, VIR_TRISTATE_SWITCH_ON,
                             VIR_TRISTATE_SWITCH_OFF);
    dom->cpu.maximum = true;
    dom->cpu.maximumMigratable.report = true;
    VIR_DOMAIN_CAPS_ENUM_SET(dom->cpu.maximumMigratable, VIR_TRISTATE_SWITCH_ON,
                             VIR_TRISTATE_SWITCH_OFF);

    dom->memoryBacking.supported = VIR_TRISTATE_BOOL_YES;
    dom->memoryBacking.sourceType.report = true;
    VIR_DOMAIN_CAPS_ENUM_SET(dom->memoryBacking.sourceType, VIR_DOMAIN_MEMORY_SOURCE_ANONYMOUS,
                             VIR_DOMAIN_MEMORY_SOURCE_MEMFD);

    dom->disk.supported = VIR_TRISTATE_BOOL_YES;
    dom->disk.diskDevice.report = true;
    dom->disk.bus.report = true;
    dom->disk.model.report = true;
    VIR_DOMAIN_CAPS_ENUM_SET(dom->disk.diskDevice, VIR_DOMAIN_DISK_DEVICE_DISK,
                             VIR_DOMAIN_DISK_DEVICE_CDROM);
    VIR_DOMAIN_CAPS_ENUM_SET(dom->disk.bus, VIR_DOMAIN_DISK_BUS_VIRTIO, VIR_DOMAIN_DISK_BUS_SATA);
    VIR_DOMAIN_CAPS_ENUM_SET(dom->disk.model, VIR_DOMAIN_DISK_MODEL_VIRTIO,
                             VIR_DOMAIN_DISK_MODEL_VIRTIO_NON_TRANSITIONAL);

    dom->graphics.supported = VIR_TRISTATE_BOOL_NO;
    dom->video.supported = VIR_TRISTATE_BOOL_NO;
    dom->hostdev.supported = VIR_TRISTATE_BOOL_NO;
    dom->filesystem.supported = VIR_TRISTATE_BOOL_NO;
    dom->tpm.supported = VIR_TRISTATE_BOOL_NO;
    dom->redirdev.supported = VIR_TRISTATE_BOOL_NO;
    dom->channel.supported = VIR_TRISTATE_BOOL_NO;

    dom->rng.supported = VIR_TRISTATE_BOOL_YES;
    dom->rng.model.report = true;
    dom->rng.backendModel.report = true;
    VIR_DOMAIN_CAPS_ENUM_SET(dom->rng.model, VIR_DOMAIN_RNG_MODEL_VIRTIO,
                             VIR_DOMAIN_RNG_MODEL_VIRTIO_NON_TRANSITIONAL);
    VIR_DOMAIN_CAPS_ENUM_SET(dom->rng.backendModel, VIR_DOMAIN_RNG_BACKEND_RANDOM);

    dom->gic.supported = VIR_TRISTATE_BOOL_NO;
    for (size_t i = 0; i < VIR_DOMAIN_CAPS_FEATURE_LAST; i++)
        dom->features[i] = VIR_TRISTATE_BOOL_NO;
}

/* Which models this host can show. */
static int kumoDomainCapsFillCpu(virDomainCaps *dom, virCPUDef *host)
{
    g_auto(GStrv) names = NULL;
    int n;

    if (!host || !host->model)
        return 0;
    if (!(dom->cpu.hostModel = kumoCpuHostModel(host)) ||
        (n = virCPUGetModels(dom->arch, &names)) < 0)
        return -1;
    dom->cpu.custom = virDomainCapsCPUModelsNew((size_t)n);
    for (int i = 0; i < n; i++) {
        g_autoptr(virCPUDef) cpu = virCPUDefNew();
        virDomainCapsCPUUsable usable;

        cpu->type = VIR_CPU_TYPE_GUEST;
        cpu->mode = VIR_CPU_MODE_CUSTOM;
        cpu->match = VIR_CPU_MATCH_EXACT;
        cpu->model = g_strdup(names[i]);
        usable = virCPUCompare(dom->arch, host, cpu, false) >= VIR_CPU_COMPARE_IDENTICAL
                     ? VIR_DOMCAPS_CPU_USABLE_YES
                     : VIR_DOMCAPS_CPU_USABLE_NO;
        kumoCompatCpuModelsAdd(dom->cpu.custom, names[i], usable,
                               virCPUGetVendorForModel(dom->arch, names[i]));
    }
    virResetLastError();
    return 0;
}

virDomainCaps *kumoDomainCapsNew(kumoDriver *driver, const char *emulator, const char *arch,
                                 const char *machine, const char *virttype)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autoptr(virCaps) caps = kumoDriverGetCapabilities(driver, false);
    g_autoptr(virDomainCaps) dom = NULL;
    g_autofree char *binary = kumoBinaryPath(cfg);
    virArch hostarch = virArchFromHost();

    if (!binary)
        return NULL;
    if (arch && virArchFromString(arch) != hostarch) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("architecture '%s' is not supported here, only '%s' is"), arch,
                       virArchToString(hostarch));
        return NULL;
    }
    if (virttype && STRNEQ(virttype, "kvm")) {
        virReportError(VIR_ERR_INVALID_ARG, _("domain type '%s' is not supported, only 'kvm' is"),
                       virttype);
        return NULL;
    }
    if (machine && !kumoMachineCanonical(machine)) {
        virReportError(VIR_ERR_INVALID_ARG, _("machine '%s' is not supported, only '%s' is"),
                       machine, KUMO_MACHINE);
        return NULL;
    }
    if (emulator && STRNEQ(emulator, binary) && !virFileIsExecutable(emulator)) {
        virReportError(VIR_ERR_INVALID_ARG, _("emulator '%s' is not an executable file"), emulator);
        return NULL;
    }

    if (!(dom = virDomainCapsNew(emulator ? emulator : binary,
                                 machine ? kumoMachineCanonical(machine) : KUMO_MACHINE, hostarch,
                                 VIR_DOMAIN_VIRT_KVM)))
        return NULL;
    dom->maxvcpus = kumoMaxVcpus();
    kumoDomainCapsFillDevices(dom, cfg);
    if (caps && kumoDomainCapsFillCpu(dom, caps->host.cpu) < 0)
        return NULL;
    return g_steal_pointer(&dom);
}

virCaps *kumoDriverGetCapabilities(kumoDriver *driver, bool refresh)
{
    virCaps *caps = NULL;

    /* Looking at the host takes a while: not under the lock. */
    if (refresh && !(caps = kumoCapabilitiesNew(driver)))
        return NULL;

    VIR_WITH_MUTEX_LOCK_GUARD(&driver->lock)
    {
        if (caps) {
            virObjectUnref(driver->caps);
            driver->caps = caps;
        }
        caps = virObjectRef(driver->caps);
    }
    return caps;
}
