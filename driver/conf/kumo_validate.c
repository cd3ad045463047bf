/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The domain as a whole: everything but the devices' own elements. */
#include "driver/conf/kumo_validate.h"

#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_capabilities.h"
#include "driver/conf/kumo_conf.h"
#include "driver/conf/kumo_cpu.h"
#include "driver/conf/kumo_memory.h"
#include "driver/conf/kumo_namespace.h"
#include "driver/conf/kumo_refuse.h"
#include "driver/conf/kumo_validate_memory.h"
#include "virutil.h"
#include "vmm-core/config/config.h"

/* With a time zone beside it, what the VMM takes. */
#define KUMO_CLOCK_ADJUSTMENT_MAX_S 1999900000

#define VIR_FROM_THIS VIR_FROM_DOMAIN

bool kumoHasHyperv(const virDomainDef *def)
{
    if (def->features[VIR_DOMAIN_FEATURE_HYPERV] == VIR_DOMAIN_HYPERV_MODE_PASSTHROUGH)
        return true;
    for (size_t i = 0; i < VIR_DOMAIN_HYPERV_LAST; i++) {
        if (def->features[VIR_DOMAIN_FEATURE_HYPERV] &&
            def->hyperv_features[i] == VIR_TRISTATE_SWITCH_ON)
            return true;
    }
    return false;
}

static int kumoValidateTuning(const virDomainDef *def)
{
    const virDomainMemtune *mem = &def->mem;
    const virDomainCputune *tune = &def->cputune;
    const kumoRefusal items[] = {
        { def->genidRequested, "/domain/genid" },
        { mem->min_guarantee, "/domain/memtune/min_guarantee" },
        { def->placement_mode == VIR_DOMAIN_CPU_PLACEMENT_MODE_AUTO, "/domain/vcpu/@placement" },
        { def->defaultIOThread, "/domain/defaultiothread" },
        { tune->emulatorsched, "/domain/cputune/emulatorsched" },
        { def->nresctrls, "/domain/cputune/cachetune" },
        { def->resource && def->resource->appid, "/domain/resource/fibrechannel" },
        { def->idmap.nuidmap || def->idmap.ngidmap, "/domain/idmap" },
        { def->pm.s3 == VIR_TRISTATE_BOOL_YES, "/domain/pm/suspend-to-mem" },
        { def->pm.s4 == VIR_TRISTATE_BOOL_YES, "/domain/pm/suspend-to-disk" },
        { def->keywrap, "/domain/keywrap" },
        { def->sec, "/domain/launchSecurity" },
    };

    if (kumoRefuse("", items, G_N_ELEMENTS(items)) < 0)
        return -1;

    for (size_t i = 0; i < def->niothreadids; i++) {
        const virDomainIOThreadIDDef *thread = def->iothreadids[i];
        const kumoRefusal refusals[] = {
            { thread->thread_pool_min >= 0, "/domain/iothreadids/iothread/@thread_pool_min" },
            { thread->thread_pool_max >= 0, "/domain/iothreadids/iothread/@thread_pool_max" },
            { kumoCompatIOThreadPolls(thread), "/domain/iothreadids/iothread/poll" },
        };

        if (kumoRefuse("", refusals, G_N_ELEMENTS(refusals)) < 0)
            return -1;
    }
    return 0;
}

static int kumoValidateCpu(const virDomainDef *def)
{
    const virCPUDef *cpu = def->cpu;
    unsigned int max = kumoMaxVcpus();

    if (virDomainDefGetVcpusMax(def) > max) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/vcpu: %u is more than the maximum, %u"),
                       virDomainDefGetVcpusMax(def), max);
        return -1;
    }
    for (unsigned int i = 0; i + 1 < virDomainDefGetVcpusMax(def); i++) {
        if (!def->vcpus[i]->online && def->vcpus[i + 1]->online) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/vcpus/vcpu[@id='%u']: a vCPU that is off before one that is "
                             "on is not supported by kumo"),
                           i);
            return -1;
        }
    }
    if (!cpu)
        return 0;

    const kumoRefusal items[] = {
        { cpu->cache && cpu->cache->mode != VIR_CPU_CACHE_MODE_PASSTHROUGH, "/domain/cpu/cache" },
        { cpu->vendor_id, "/domain/cpu/model/@vendor_id" },
        { cpu->threads > 2, "/domain/cpu/topology/@threads" },
    };
    if (kumoRefuse("", items, G_N_ELEMENTS(items)) < 0)
        return -1;
    return kumoCpuCheckFeatures(cpu);
}

/* Those of Hyper-V's interfaces that the VMM has come together. */
static int kumoValidateHyperv(const virDomainDef *def)
{
    if (def->hyperv_stimer_direct == VIR_TRISTATE_SWITCH_ON) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("%s is not supported by kumo"),
                       "/domain/features/hyperv/stimer/direct");
        return -1;
    }
    for (int i = 0; i < VIR_DOMAIN_HYPERV_LAST; i++) {
        switch (i) {
        case VIR_DOMAIN_HYPERV_RELAXED:
        case VIR_DOMAIN_HYPERV_VAPIC:
        case VIR_DOMAIN_HYPERV_SPINLOCKS:
        case VIR_DOMAIN_HYPERV_VPINDEX:
        case VIR_DOMAIN_HYPERV_RUNTIME:
        case VIR_DOMAIN_HYPERV_SYNIC:
        case VIR_DOMAIN_HYPERV_STIMER:
        case VIR_DOMAIN_HYPERV_FREQUENCIES:
        case VIR_DOMAIN_HYPERV_TLBFLUSH:
        case VIR_DOMAIN_HYPERV_IPI:
            continue;
        default:
            if (def->hyperv_features[i] != VIR_TRISTATE_SWITCH_ON)
                continue;
            break;
        }
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/features/hyperv/%s is not supported by kumo"),
                       virDomainHypervTypeToString(i));
        return -1;
    }
    return 0;
}

/* What a guest is told of KVM is what KVM offers. */
static int kumoValidateKvm(const virDomainDef *def)
{
    static const char *const names[] = {
        [VIR_DOMAIN_KVM_HIDDEN] = "hidden",
        [VIR_DOMAIN_KVM_DEDICATED] = "hint-dedicated",
        [VIR_DOMAIN_KVM_POLLCONTROL] = "poll-control",
        [VIR_DOMAIN_KVM_PVIPI] = "pv-ipi",
        [VIR_DOMAIN_KVM_DIRTY_RING] = "dirty-ring",
    };

    for (int i = 0; def->kvm_features && i < (int)G_N_ELEMENTS(names); i++) {
        int state = def->kvm_features->features[i];
        bool never = i == VIR_DOMAIN_KVM_HIDDEN || i == VIR_DOMAIN_KVM_DEDICATED ||
                     i == VIR_DOMAIN_KVM_DIRTY_RING;

        if (state == VIR_TRISTATE_SWITCH_ABSENT || (never && state == VIR_TRISTATE_SWITCH_OFF))
            continue;
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/features/kvm/%s is not supported by kumo as given"), names[i]);
        return -1;
    }
    return 0;
}

static int kumoValidateFeatures(const virDomainDef *def)
{
    for (int i = 0; i < VIR_DOMAIN_FEATURE_LAST; i++) {
        int state = def->features[i];

        switch (i) {
        case VIR_DOMAIN_FEATURE_ACPI:
        case VIR_DOMAIN_FEATURE_PAE:        /* every 64-bit guest has it */
        case VIR_DOMAIN_FEATURE_VMCOREINFO: /* a hint for dumps, which are whole without it; Nova
                                               asks for it always */
            continue;
        case VIR_DOMAIN_FEATURE_APIC:
            if (def->apic_eoi == VIR_TRISTATE_SWITCH_ABSENT)
                continue;
            break;
        case VIR_DOMAIN_FEATURE_HYPERV:
            if (kumoValidateHyperv(def) < 0)
                return -1;
            continue;
        case VIR_DOMAIN_FEATURE_KVM:
            if (kumoValidateKvm(def) < 0)
                return -1;
            continue;
        case VIR_DOMAIN_FEATURE_VMPORT:
        case VIR_DOMAIN_FEATURE_SMM:
        case VIR_DOMAIN_FEATURE_PVSPINLOCK:
            /* Not there, so "off" holds. */
            if (state != VIR_TRISTATE_SWITCH_ON)
                continue;
            break;
        default:
            if (state == VIR_TRISTATE_SWITCH_ABSENT)
                continue;
            break;
        }
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/features/%s is not supported by kumo"),
                       virDomainFeatureTypeToString(i));
        return -1;
    }
    return 0;
}

static int kumoValidateTimer(const virDomainTimerDef *timer, bool hyperv)
{
    bool present = timer->present != VIR_TRISTATE_BOOL_NO;
    bool ok = true;

    switch ((int)timer->name) {
    case VIR_DOMAIN_TIMER_NAME_PIT:
    case VIR_DOMAIN_TIMER_NAME_RTC:
    case VIR_DOMAIN_TIMER_NAME_PLATFORM:
        /* How lost ticks are made up for has no meaning for a guest without a periodic timer. */
        ok = timer->track == VIR_DOMAIN_TIMER_TRACK_NONE ||
             timer->track == VIR_DOMAIN_TIMER_TRACK_WALL;
        break;
    case VIR_DOMAIN_TIMER_NAME_KVMCLOCK:
        ok = present;
        break;
    case VIR_DOMAIN_TIMER_NAME_TSC:
        ok = present && timer->frequency == 0 && timer->mode == VIR_DOMAIN_TIMER_MODE_NONE;
        break;
    case VIR_DOMAIN_TIMER_NAME_HYPERVCLOCK:
        ok = present == hyperv;
        break;
    default: /* hpet, armvtimer */
        ok = !present;
        break;
    }
    if (ok)
        return 0;
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("/domain/clock/timer[@name='%s'] is not supported by kumo as given"),
                   virDomainTimerNameTypeToString(timer->name));
    return -1;
}

static int kumoValidateClock(const virDomainDef *def)
{
    const virDomainClockDef *clock = &def->clock;

    if (clock->offset == VIR_DOMAIN_CLOCK_OFFSET_ABSOLUTE) {
        long long now = g_get_real_time() / G_USEC_PER_SEC;

        if (clock->data.starttime > (unsigned long long)now + KUMO_CLOCK_ADJUSTMENT_MAX_S ||
            (long long)clock->data.starttime < now - KUMO_CLOCK_ADJUSTMENT_MAX_S) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/clock/@start: %llu is more than %d s from now"),
                           clock->data.starttime, KUMO_CLOCK_ADJUSTMENT_MAX_S);
            return -1;
        }
    }
    if (clock->offset == VIR_DOMAIN_CLOCK_OFFSET_VARIABLE &&
        (clock->data.variable.adjustment > KUMO_CLOCK_ADJUSTMENT_MAX_S ||
         clock->data.variable.adjustment < -KUMO_CLOCK_ADJUSTMENT_MAX_S)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/clock/@adjustment: %lld s is not between -%d and %d"),
                       clock->data.variable.adjustment, KUMO_CLOCK_ADJUSTMENT_MAX_S,
                       KUMO_CLOCK_ADJUSTMENT_MAX_S);
        return -1;
    }
    for (size_t i = 0; i < def->clock.ntimers; i++) {
        if (kumoValidateTimer(def->clock.timers[i], kumoHasHyperv(def)) < 0)
            return -1;
    }
    return 0;
}

static bool kumoWantsSecureBoot(const virDomainOSDef *os)
{
    const int *wanted = os->firmwareFeatures;

    return wanted &&
           (wanted[VIR_DOMAIN_OS_DEF_FIRMWARE_FEATURE_SECURE_BOOT] == VIR_TRISTATE_BOOL_YES ||
            wanted[VIR_DOMAIN_OS_DEF_FIRMWARE_FEATURE_ENROLLED_KEYS] == VIR_TRISTATE_BOOL_YES);
}

static int kumoValidateOs(const virDomainDef *def)
{
    const virDomainOSDef *os = &def->os;
    const virDomainLoaderDef *loader = os->loader;
    const kumoRefusal items[] = {
        { os->type != VIR_DOMAIN_OSTYPE_HVM, "/domain/os/type" },
        { os->firmware == VIR_DOMAIN_OS_DEF_FIRMWARE_BIOS, "/domain/os[@firmware='bios']" },
        { os->firmware && os->kernel, "/domain/os/@firmware with /domain/os/kernel" },
        { kumoWantsSecureBoot(os), "/domain/os/firmware/feature" },
        { loader && loader->stateless == VIR_TRISTATE_BOOL_NO,
          "/domain/os/loader[@stateless='no']" },
        { os->bootmenu == VIR_TRISTATE_BOOL_YES || os->bm_timeout_set, "/domain/os/bootmenu" },
        { os->init || os->initdir || os->inituser || os->initgroup, "/domain/os/init" },
        { os->dtb, "/domain/os/dtb" },
        { os->root, "/domain/os/root" },
        { kumoCompatHasAcpiTables(os), "/domain/os/acpi/table" },
        { kumoCompatHasShim(os), "/domain/os/shim" },
        { os->bootloader, "/domain/bootloader" },
        { os->smbios_mode == VIR_DOMAIN_SMBIOS_HOST, "/domain/os/smbios[@mode='host']" },
        { os->bios.useserial == VIR_TRISTATE_BOOL_YES, "/domain/os/bios/@useserial" },
        { os->bios.rt_set, "/domain/os/bios/@rebootTimeout" },
        { loader && loader->type == VIR_DOMAIN_LOADER_TYPE_PFLASH,
          "/domain/os/loader[@type='pflash']" },
        { loader && loader->secure == VIR_TRISTATE_BOOL_YES, "/domain/os/loader/@secure" },
        { loader && loader->readonly == VIR_TRISTATE_BOOL_NO, "/domain/os/loader[@readonly='no']" },
        { loader && loader->nvram, "/domain/os/nvram" },
        { !os->kernel && os->initrd, "/domain/os/initrd without /domain/os/kernel" },
        { !os->kernel && os->cmdline, "/domain/os/cmdline without /domain/os/kernel" },
        { os->kernel && loader && loader->path, "/domain/os/loader with /domain/os/kernel" },
    };

    if (kumoRefuse("", items, G_N_ELEMENTS(items)) < 0)
        return -1;

    /* With a kernel nothing boots from a device; firmware looks at disks in the order of their
     * slots. */
    for (size_t i = 0; i < os->nBootDevs; i++) {
        if (os->bootDevs[i] != VIR_DOMAIN_BOOT_DISK && os->bootDevs[i] != VIR_DOMAIN_BOOT_CDROM) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/os/boot[@dev='%s'] is not supported by kumo"),
                           virDomainBootTypeToString(os->bootDevs[i]));
            return -1;
        }
    }
    if (os->cmdline && strlen(os->cmdline) >= KUMO_CMDLINE_MAX) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("/domain/os/cmdline: longer than %d bytes"),
                       KUMO_CMDLINE_MAX - 1);
        return -1;
    }
    return 0;
}

static int kumoValidateSysinfo(const virDomainDef *def)
{
    for (size_t i = 0; i < def->nsysinfo; i++) {
        const virSysinfoDef *info = def->sysinfo[i];
        const virSysinfoChassisDef *chassis = info->chassis;
        const kumoRefusal items[] = {
            { info->type != VIR_SYSINFO_SMBIOS, "[@type='fwcfg']" },
            { info->bios, "/bios" },
            { info->nbaseBoard, "/baseBoard" },
            { info->nprocessor, "/processor" },
            { info->nmemory, "/memory_device" },
            { chassis &&
                  (chassis->manufacturer || chassis->version || chassis->serial || chassis->sku),
              "/chassis (other than asset)" },
        };

        if (kumoRefuse("/domain/sysinfo", items, G_N_ELEMENTS(items)) < 0)
            return -1;
    }
    return 0;
}

static int kumoValidateLifecycle(const virDomainDef *def)
{
    const struct {
        int action;
        const char *path;
    } actions[] = {
        { def->onPoweroff, "on_poweroff" },
        { def->onReboot, "on_reboot" },
        { def->onCrash, "on_crash" },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(actions); i++) {
        if (actions[i].action == VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY ||
            actions[i].action == VIR_DOMAIN_LIFECYCLE_ACTION_RESTART)
            continue;
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/%s: '%s' is not supported, only 'destroy' and 'restart' are"),
                       actions[i].path, virDomainLifecycleActionTypeToString(actions[i].action));
        return -1;
    }
    return 0;
}

/* Devices that there are none of, and those that there is one of at most. */
static int kumoValidateDeviceCounts(const virDomainDef *def)
{
    unsigned int virtioConsoles = 0;
    unsigned int serialConsoles = 0;

    for (size_t i = 0; i < def->nconsoles; i++) {
        if (def->consoles[i]->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_VIRTIO)
            virtioConsoles++;
        else if (def->consoles[i]->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_SERIAL)
            serialConsoles++;
    }

    const kumoRefusal items[] = {
        { def->nfss, "/filesystem" },
        { def->nsounds, "/sound" },
        { def->naudios, "/audio" },
        { def->nhostdevs, "/hostdev" },
        { def->nredirdevs || def->redirfilter, "/redirdev" },
        { def->nsmartcards, "/smartcard" },
        { def->nparallels, "/parallel" },
        { def->nchannels, "/channel" },
        { def->nleases, "/lease" },
        { def->nhubs, "/hub" },
        { def->nshmems, "/shmem" },
        { def->npanics, "/panic" },
        { def->ntpms, "/tpm" },
#if KUMO_LIBVIRT_11_3
        { def->nwatchdogs, "/watchdog" },
        { def->ncryptos, "/crypto" },
        { def->pstore, "/pstore" },
#else
        { def->watchdog, "/watchdog" },
#endif
        { def->nvram, "/nvram" },
        { def->iommu, "/iommu" },
        { def->vsock, "/vsock" },
        { def->nserials > 1, "/serial[2]" },
        { virtioConsoles > 1, "/console/target[@type='virtio'] (a second one)" },
        { serialConsoles > 1, "/console/target[@type='serial'] (a second one)" },
        { def->nrngs > 1, "/rng[2]" },
    };
    const kumoRefusal groups[] = { { kumoCompatHasThrottleGroups(def), "/throttlegroups" } };

    if (kumoRefuse("/domain", groups, G_N_ELEMENTS(groups)) < 0)
        return -1;
    return kumoRefuse("/domain/devices", items, G_N_ELEMENTS(items));
}

/* Firmware tries disks in the order of their slots, then the network. A kernel needs none. */
static int kumoValidateBootOrder(const virDomainDef *def)
{
    unsigned int highest = 0;

    for (size_t i = 0; i < def->ndisks && !def->os.kernel; i++) {
        const virDomainDiskDef *disk = def->disks[i];

        highest = MAX(highest, disk->info.bootIndex);
        for (size_t n = 0; n < def->ndisks && disk->info.bootIndex; n++) {
            const virDomainDiskDef *other = def->disks[n];

            if (disk == other || !kumoDeviceHasSlot(&other->info) ||
                (other->info.bootIndex && other->info.bootIndex < disk->info.bootIndex) ||
                (kumoDeviceHasSlot(&disk->info) &&
                 disk->info.addr.pci.slot < other->info.addr.pci.slot))
                continue;
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/devices/disk[%zu]/boot/@order: %u: disks are booted in the "
                             "order of their PCI slots, and that of %s comes first"),
                           i + 1, disk->info.bootIndex, other->dst);
            return -1;
        }
    }
    for (size_t i = 0; i < def->nnets && !def->os.kernel; i++) {
        unsigned int order = def->nets[i]->info.bootIndex;

        if (order == 0 || (highest > 0 && order > highest))
            continue;
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("/domain/devices/interface[%zu]/boot/@order: %u: the network is tried "
                         "after the disks"),
                       i + 1, order);
        return -1;
    }
    return 0;
}

int kumoValidateDomain(const virDomainDef *def, void *opaque G_GNUC_UNUSED,
                       void *parseOpaque G_GNUC_UNUSED)
{
    if (kumoValidateOs(def) < 0 || kumoValidateCpu(def) < 0 || kumoValidateTuning(def) < 0 ||
        kumoValidateMemory(def) < 0 || kumoValidateFeatures(def) < 0 ||
        kumoValidateClock(def) < 0 || kumoValidateSysinfo(def) < 0 ||
        kumoValidateLifecycle(def) < 0 || kumoValidateDeviceCounts(def) < 0 ||
        kumoValidateBootOrder(def) < 0 || kumoNamespaceValidate(def) < 0)
        return -1;
    return 0;
}
