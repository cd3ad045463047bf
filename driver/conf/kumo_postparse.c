/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_postparse.h"

#include "driver/conf/kumo_capabilities.h"
#include "driver/conf/kumo_conf.h"
#include "viralloc.h"
#include "virfile.h"
#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_postparse");

int kumoPostParseBasic(virDomainDef *def, void *opaque)
{
    kumoDriver *driver = opaque;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    const char *machine;

    if (!def->os.machine) {
        def->os.machine = g_strdup(KUMO_MACHINE);
    } else {
        if (!(machine = kumoMachineCanonical(def->os.machine))) {
            virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                           _("/domain/os/type/@machine: '%s' is not supported, only '%s' is"),
                           def->os.machine, KUMO_MACHINE);
            return -1;
        }
        if (STRNEQ(machine, def->os.machine)) {
            g_free(def->os.machine);
            def->os.machine = g_strdup(machine);
        }
    }

    if (!def->emulator)
        def->emulator = virFindFileInPath(cfg->binary);
    return 0;
}

/* There is one PCI bus; all devices sit on it. */
static int kumoPostParseRootBus(virDomainDef *def)
{
    for (size_t i = 0; i < def->ncontrollers; i++) {
        if (def->controllers[i]->type == VIR_DOMAIN_CONTROLLER_TYPE_PCI &&
            def->controllers[i]->idx == 0)
            return 0;
    }
    return kumoCompatMaybeAddController(def, VIR_DOMAIN_CONTROLLER_TYPE_PCI, 0,
                                        VIR_DOMAIN_CONTROLLER_MODEL_PCIE_ROOT) < 0
               ? -1
               : 0;
}

/* The VMM gives every guest a source of randomness, asked for or not. */
static void kumoPostParseImplicitRng(virDomainDef *def)
{
    virDomainRNGDef *rng;

    if (def->nrngs > 0)
        return;

    rng = g_new0(virDomainRNGDef, 1);
    rng->model = VIR_DOMAIN_RNG_MODEL_VIRTIO;
    rng->backend = VIR_DOMAIN_RNG_BACKEND_RANDOM;
    rng->source.file = g_strdup("/dev/urandom");
    VIR_APPEND_ELEMENT(def->rngs, def->nrngs, rng);
}

static bool kumoIsForTools(const virDomainChrDef *channel)
{
    const char *name = channel->targetType == VIR_DOMAIN_CHR_CHANNEL_TARGET_TYPE_VIRTIO
                           ? channel->target.name
                           : NULL;

    return channel->source->type == VIR_DOMAIN_CHR_TYPE_SPICEVMC ||
           STREQ_NULLABLE(name, "org.qemu.guest_agent.0");
}

/*
 * Tools add a display, what belongs to it, and an agent's channel to every machine. There is none
 * of these here; a definition that keeps them would tell of a display that nobody can connect to.
 */
static void kumoPostParseDropDisplay(virDomainDef *def)
{
    size_t dropped = def->ngraphics + def->nvideos + def->ninputs + def->naudios;

    while (def->ngraphics > 0)
        virDomainGraphicsDefFree(def->graphics[--def->ngraphics]);
    g_clear_pointer(&def->graphics, g_free);
    while (def->nvideos > 0)
        virDomainVideoDefFree(def->videos[--def->nvideos]);
    g_clear_pointer(&def->videos, g_free);
    while (def->ninputs > 0)
        virDomainInputDefFree(def->inputs[--def->ninputs]);
    g_clear_pointer(&def->inputs, g_free);
    while (def->naudios > 0)
        virDomainAudioDefFree(def->audios[--def->naudios]);
    g_clear_pointer(&def->audios, g_free);
    for (size_t i = def->nchannels; i > 0; i--) {
        if (!kumoIsForTools(def->channels[i - 1]))
            continue;
        virDomainChrDefFree(def->channels[i - 1]);
        VIR_DELETE_ELEMENT(def->channels, i - 1, def->nchannels);
        dropped++;
    }
    if (dropped > 0)
        VIR_WARN(
            "domain %s: %zu elements of a display or an agent's channel are left out: kumo has "
            "none",
            def->name, dropped);
}

int kumoPostParseDomain(virDomainDef *def, unsigned int parseFlags G_GNUC_UNUSED, void *opaque,
                        void *parseOpaque G_GNUC_UNUSED)
{
    kumoDriver *driver = opaque;
    g_autoptr(virCaps) caps = kumoDriverGetCapabilities(driver, false);

    if (!caps || !kumoCompatDomainSupported(caps, def->os.type, def->os.arch, def->virtType))
        return -1;

    /* The board always has both. */
    def->features[VIR_DOMAIN_FEATURE_ACPI] = VIR_TRISTATE_SWITCH_ON;
    def->features[VIR_DOMAIN_FEATURE_APIC] = VIR_TRISTATE_SWITCH_ON;

    kumoPostParseDropDisplay(def);
    kumoPostParseImplicitRng(def);
    return kumoPostParseRootBus(def);
}

static void kumoPostParseDisk(virDomainDiskDef *disk)
{
    if (virDomainDiskGetFormat(disk) <= VIR_STORAGE_FILE_NONE)
        virDomainDiskSetFormat(disk, VIR_STORAGE_FILE_RAW);
    if (disk->device == VIR_DOMAIN_DISK_DEVICE_CDROM)
        disk->src->readonly = true;

    /* Tools that know no better default name a bus of a PC, and with it no PCI address. */
    if ((disk->device == VIR_DOMAIN_DISK_DEVICE_DISK ||
         disk->device == VIR_DOMAIN_DISK_DEVICE_CDROM) &&
        (disk->bus == VIR_DOMAIN_DISK_BUS_IDE || disk->bus == VIR_DOMAIN_DISK_BUS_SATA ||
         disk->bus == VIR_DOMAIN_DISK_BUS_SCSI)) {
        disk->bus = VIR_DOMAIN_DISK_BUS_VIRTIO;
        if (disk->info.type == VIR_DOMAIN_DEVICE_ADDRESS_TYPE_DRIVE)
            disk->info.type = VIR_DOMAIN_DEVICE_ADDRESS_TYPE_NONE;
    }
}

static void kumoPostParseChr(virDomainChrDef *chr)
{
    if (chr->deviceType == VIR_DOMAIN_CHR_DEVICE_TYPE_SERIAL) {
        if (chr->targetType == VIR_DOMAIN_CHR_SERIAL_TARGET_TYPE_NONE)
            chr->targetType = VIR_DOMAIN_CHR_SERIAL_TARGET_TYPE_ISA;
        if (chr->targetType == VIR_DOMAIN_CHR_SERIAL_TARGET_TYPE_ISA &&
            chr->targetModel == VIR_DOMAIN_CHR_SERIAL_TARGET_MODEL_NONE)
            chr->targetModel = VIR_DOMAIN_CHR_SERIAL_TARGET_MODEL_ISA_SERIAL;
    } else if (chr->deviceType == VIR_DOMAIN_CHR_DEVICE_TYPE_CONSOLE &&
               chr->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_NONE) {
        chr->targetType = VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_SERIAL;
    }
}

int kumoPostParseDevice(virDomainDeviceDef *dev, const virDomainDef *def G_GNUC_UNUSED,
                        unsigned int parseFlags G_GNUC_UNUSED, void *opaque G_GNUC_UNUSED,
                        void *parseOpaque G_GNUC_UNUSED)
{
    switch ((int)dev->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        kumoPostParseDisk(dev->data.disk);
        break;
    case VIR_DOMAIN_DEVICE_NET:
        if (!virDomainNetGetModelString(dev->data.net))
            dev->data.net->model = VIR_DOMAIN_NET_MODEL_VIRTIO;
        break;
    case VIR_DOMAIN_DEVICE_CHR:
        kumoPostParseChr(dev->data.chr);
        break;
    case VIR_DOMAIN_DEVICE_CONTROLLER:
        /* libvirt adds some whose model the driver has to choose; they stay without effect. */
        if (dev->data.controller->type == VIR_DOMAIN_CONTROLLER_TYPE_USB &&
            dev->data.controller->model == VIR_DOMAIN_CONTROLLER_MODEL_USB_DEFAULT)
            dev->data.controller->model = VIR_DOMAIN_CONTROLLER_MODEL_USB_NONE;
        break;
    default:
        break;
    }
    return 0;
}
