/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Each device's own elements, one function per kind. */
#include "driver/conf/kumo_validate.h"

#include "driver/conf/kumo_refuse.h"
#include "driver/conf/kumo_validate_memory.h"
#include "virutil.h"
#include "vmm-core/base/tcp.h"
#include "vmm-core/config/config.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static bool kumoVirtioOptionsUsed(const virDomainVirtioOptions *virtio)
{
    return virtio &&
           (virtio->iommu == VIR_TRISTATE_SWITCH_ON || virtio->ats == VIR_TRISTATE_SWITCH_ON ||
            virtio->packed == VIR_TRISTATE_SWITCH_ON ||
            virtio->page_per_vq == VIR_TRISTATE_SWITCH_ON);
}

static int kumoValidateQueueSize(const char *path, unsigned int size)
{
    if (size == 0 || (size > 2 && size <= KUMO_MAX_QUEUE_SIZE && (size & (size - 1)) == 0))
        return 0;
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED, _("%s: %u is not a power of two from 4 to %d"), path,
                   size, KUMO_MAX_QUEUE_SIZE);
    return -1;
}

/* Bursts of @length seconds at @max. */
static bool kumoIsWrongBurst(unsigned long long rate, unsigned long long max,
                             unsigned long long length)
{
    unsigned long long size;

    if (!max)
        return length > 1;
    return max < rate || !rate || __builtin_mul_overflow(max, MAX(length, 1), &size) ||
           size / rate > UINT64_MAX / 1000 / 2;
}

const char *kumoIoTuneUnsupported(const virDomainBlockIoTuneInfo *tune)
{
#define BURST(rate)                                                                                \
    {                                                                                              \
        kumoIsWrongBurst(tune->rate, tune->rate##_max, tune->rate##_max_length),                   \
            #rate "_max (less than the rate, or out of bounds)"                                    \
    }
    const kumoRefusal items[] = {
        BURST(total_bytes_sec),
        BURST(read_bytes_sec),
        BURST(write_bytes_sec),
        BURST(total_iops_sec),
        BURST(read_iops_sec),
        BURST(write_iops_sec),
        { tune->size_iops_sec && !tune->total_iops_sec && !tune->read_iops_sec &&
              !tune->write_iops_sec,
          "size_iops_sec (without a limit of operations)" },
        { tune->group_name && !virDomainBlockIoTuneInfoHasBasic(tune),
          "group_name (without a limit)" },
        { tune->group_name && (!*tune->group_name || strlen(tune->group_name) > KUMO_ID_MAX),
          "group_name (empty, or longer than 255 bytes)" },
    };
#undef BURST

    for (size_t i = 0; i < G_N_ELEMENTS(items); i++) {
        if (items[i].present)
            return items[i].path;
    }
    return NULL;
}

/* What a group may do is one thing, said with each of its disks. */
static int kumoValidateDiskGroup(const char *where, const virDomainDiskDef *disk,
                                 const virDomainDef *def)
{
    const char *group = disk->blkdeviotune.group_name;

    for (size_t i = 0; group && def && i < def->ndisks; i++) {
        const virDomainDiskDef *other = def->disks[i];

        if (STRNEQ_NULLABLE(other->blkdeviotune.group_name, group) ||
            STREQ_NULLABLE(other->dst, disk->dst) ||
            virDomainBlockIoTuneInfoEqual(&other->blkdeviotune, &disk->blkdeviotune))
            continue;
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("%s/iotune/group_name: '%s' has other limits with the disk '%s'"), where,
                       group, other->dst);
        return -1;
    }
    return 0;
}

static int kumoValidateDiskSource(const char *where, const virDomainDiskDef *disk)
{
    virStorageSource *src = disk->src;
    int type = src->type;
    const kumoRefusal items[] = {
        { type != VIR_STORAGE_TYPE_FILE && type != VIR_STORAGE_TYPE_BLOCK &&
              type != VIR_STORAGE_TYPE_VOLUME,
          "/@type" },
        { src->format != VIR_STORAGE_FILE_RAW, "/driver/@type (other than raw)" },
        { src->backingStore && virStorageSourceIsBacking(src->backingStore), "/backingStore" },
        { src->encryption, "/encryption" },
        { src->auth, "/auth" },
        { src->pr, "/source/reservations" },
        { src->sliceStorage, "/source/slices" },
        { src->fdgroup, "/source/@fdgroup" },
        { src->shared, "/shareable" },
    };
    return kumoRefuse(where, items, G_N_ELEMENTS(items));
}

static int kumoValidateDisk(const virDomainDiskDef *disk, const virDomainDef *def)
{
    g_autofree char *where =
        g_strdup_printf("/domain/devices/disk[target/@dev='%s']", disk->dst ? disk->dst : "");
    g_autofree char *sizePath = g_strdup_printf("%s/driver/@queue_size", where);
    const char *iotune = kumoIoTuneUnsupported(&disk->blkdeviotune);
    g_autofree char *iotunePath = g_strdup_printf("/iotune/%s", iotune ? iotune : "");
    bool cdrom = disk->device == VIR_DOMAIN_DISK_DEVICE_CDROM;
    const kumoRefusal items[] = {
        { disk->device != VIR_DOMAIN_DISK_DEVICE_DISK && !cdrom, "/@device" },
        { disk->bus != VIR_DOMAIN_DISK_BUS_VIRTIO, "/target/@bus (other than virtio)" },
        { disk->model == VIR_DOMAIN_DISK_MODEL_VIRTIO_TRANSITIONAL, "/@model" },
        { kumoCompatHasThrottleFilters(disk), "/throttlefilters" },
        { disk->driverName && STRNEQ(disk->driverName, "qemu") && STRNEQ(disk->driverName, "kumo"),
          "/driver/@name" },
        { disk->cachemode != VIR_DOMAIN_DISK_CACHE_DEFAULT &&
              disk->cachemode != VIR_DOMAIN_DISK_CACHE_DISABLE &&
              disk->cachemode != VIR_DOMAIN_DISK_CACHE_WRITEBACK,
          "/driver/@cache (other than none and writeback)" },
        { disk->error_policy != VIR_DOMAIN_DISK_ERROR_POLICY_DEFAULT &&
              disk->error_policy != VIR_DOMAIN_DISK_ERROR_POLICY_REPORT,
          "/driver/@error_policy (other than report)" },
        { disk->rerror_policy != VIR_DOMAIN_DISK_ERROR_POLICY_DEFAULT &&
              disk->rerror_policy != VIR_DOMAIN_DISK_ERROR_POLICY_REPORT,
          "/driver/@rerror_policy (other than report)" },
        { disk->ioeventfd == VIR_TRISTATE_SWITCH_OFF, "/driver[@ioeventfd='off']" },
        { disk->event_idx == VIR_TRISTATE_SWITCH_OFF, "/driver[@event_idx='off']" },
        { disk->copy_on_read == VIR_TRISTATE_SWITCH_ON, "/driver/@copy_on_read" },
        { disk->discard == VIR_DOMAIN_DISK_DISCARD_IGNORE, "/driver[@discard='ignore']" },
        { disk->detect_zeroes > VIR_DOMAIN_DISK_DETECT_ZEROES_OFF, "/driver/@detect_zeroes" },
        { kumoCompatHasIOThreads(disk), "/driver/iothreads" },
        { kumoVirtioOptionsUsed(disk->virtio), "/driver (virtio options)" },
        { disk->src->metadataCacheMaxSize, "/driver/metadata_cache" },
        { disk->mirror, "/mirror" },
        { disk->geometry.cylinders, "/geometry" },
        { disk->blockio.logical_block_size || disk->blockio.physical_block_size, "/blockio" },
        { iotune != NULL, iotunePath },
        { disk->removable == VIR_TRISTATE_SWITCH_ON, "/target/@removable" },
        { disk->rotation_rate, "/target/@rotation_rate" },
        { disk->tray_status == VIR_DOMAIN_DISK_TRAY_OPEN, "/target/@tray" },
        { disk->wwn, "/wwn" },
        { disk->vendor, "/vendor" },
        { disk->product, "/product" },
        { disk->startupPolicy > VIR_DOMAIN_STARTUP_POLICY_MANDATORY, "/source/@startupPolicy" },
        { disk->transient, "/transient" },
        { disk->rawio == VIR_TRISTATE_BOOL_YES, "/@rawio" },
        { disk->sgio != VIR_DOMAIN_DEVICE_SGIO_DEFAULT, "/@sgio" },
        { disk->domain_name, "/backenddomain" },
        { disk->info.loadparm, "/boot/@loadparm" },
        { disk->info.acpiIndex, "/acpi" },
    };

    if (kumoRefuse(where, items, G_N_ELEMENTS(items)) < 0 ||
        kumoValidateDiskSource(where, disk) < 0 || kumoValidateDiskGroup(where, disk, def) < 0 ||
        kumoValidateQueueSize(sizePath, disk->queue_size) < 0)
        return -1;

    if (def && disk->iothread && !virDomainIOThreadIDFind(def, disk->iothread)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("%s/driver/@iothread: there is no I/O thread %u"), where, disk->iothread);
        return -1;
    }
    if (def && disk->queues > virDomainDefGetVcpus(def)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("%s/driver/@queues: %u is more than the number of vCPUs, %u"), where,
                       disk->queues, virDomainDefGetVcpus(def));
        return -1;
    }
    return 0;
}

static bool kumoNetOffloadsGiven(const virDomainNetDef *net)
{
    return net->driver.virtio.host.csum || net->driver.virtio.host.gso ||
           net->driver.virtio.host.tso4 || net->driver.virtio.host.tso6 ||
           net->driver.virtio.host.ecn || net->driver.virtio.host.ufo ||
           net->driver.virtio.host.mrg_rxbuf || net->driver.virtio.guest.csum ||
           net->driver.virtio.guest.tso4 || net->driver.virtio.guest.tso6 ||
           net->driver.virtio.guest.ecn || net->driver.virtio.guest.ufo;
}

static int kumoValidateNet(const virDomainNetDef *net, const virDomainDef *def)
{
    char mac[VIR_MAC_STRING_BUFLEN];
    g_autofree char *where = g_strdup_printf("/domain/devices/interface[mac/@address='%s']",
                                             virMacAddrFormat(&net->mac, mac));
    g_autofree char *sizePath = g_strdup_printf("%s/driver/@rx_queue_size", where);
    int virtualPort =
        net->virtPortProfile ? net->virtPortProfile->virtPortType : VIR_NETDEV_VPORT_PROFILE_NONE;
    bool direct = net->type == VIR_DOMAIN_NET_TYPE_DIRECT;
    const kumoRefusal items[] = {
        { net->type != VIR_DOMAIN_NET_TYPE_BRIDGE && net->type != VIR_DOMAIN_NET_TYPE_NETWORK &&
              net->type != VIR_DOMAIN_NET_TYPE_ETHERNET && !direct,
          "/@type (other than bridge, network, ethernet, direct)" },
        { !virDomainNetIsVirtioModel(net) || net->model == VIR_DOMAIN_NET_MODEL_VIRTIO_TRANSITIONAL,
          "/model/@type (other than virtio)" },
        { net->driver.virtio.txmode, "/driver/@txmode" },
        { net->driver.virtio.ioeventfd == VIR_TRISTATE_SWITCH_OFF, "/driver[@ioeventfd='off']" },
        { net->driver.virtio.event_idx == VIR_TRISTATE_SWITCH_OFF, "/driver[@event_idx='off']" },
        { net->driver.virtio.rx_queue_size && net->driver.virtio.tx_queue_size &&
              net->driver.virtio.rx_queue_size != net->driver.virtio.tx_queue_size,
          "/driver/@tx_queue_size (other than @rx_queue_size)" },
        { kumoNetOffloadsGiven(net), "/driver/host" },
        { net->driver.virtio.rss == VIR_TRISTATE_SWITCH_ON, "/driver/@rss" },
        { net->driver.virtio.rss_hash_report == VIR_TRISTATE_SWITCH_ON,
          "/driver/@rss_hash_report" },
        { kumoVirtioOptionsUsed(net->virtio), "/driver (virtio options)" },
        { net->backend.tap || net->backend.vhost || net->backend.logFile, "/backend" },
        { net->teaming, "/teaming" },
        { net->tune.sndbuf_specified, "/tune/sndbuf" },
        { net->script, "/script" },
        { net->downscript, "/downscript" },
        { net->domain_name, "/backenddomain" },
        { net->hostIP.nips || net->hostIP.nroutes, "/source/ip" },
        { net->guestIP.nips || net->guestIP.nroutes, "/ip" },
        { net->ifname_guest, "/guest" },
        { net->nPortForwards, "/portForward" },
        { net->trustGuestRxFilters == VIR_TRISTATE_BOOL_YES, "/@trustGuestRxFilters" },
        { net->coalesce, "/coalesce" },
        { net->managed_tap == VIR_TRISTATE_BOOL_NO && !net->ifname, "/target[@managed='no']/@dev" },
        { net->info.romenabled || net->info.rombar || net->info.romfile, "/rom" },
        { net->info.loadparm, "/boot/@loadparm" },
        { net->info.acpiIndex, "/acpi" },
        { direct && virtualPort != VIR_NETDEV_VPORT_PROFILE_NONE,
          "/virtualport (with type direct)" },
        { virtualPort != VIR_NETDEV_VPORT_PROFILE_NONE &&
              virtualPort != VIR_NETDEV_VPORT_PROFILE_OPENVSWITCH &&
              virtualPort != VIR_NETDEV_VPORT_PROFILE_MIDONET,
          "/virtualport/@type (other than openvswitch, midonet)" },
        { (net->type == VIR_DOMAIN_NET_TYPE_BRIDGE || direct) && net->vlan.nTags > 0 &&
              virtualPort != VIR_NETDEV_VPORT_PROFILE_OPENVSWITCH,
          "/vlan (without a virtualport of type openvswitch)" },
    };

    if (kumoRefuse(where, items, G_N_ELEMENTS(items)) < 0 ||
        kumoValidateQueueSize(sizePath, net->driver.virtio.rx_queue_size) < 0 ||
        kumoValidateQueueSize(sizePath, net->driver.virtio.tx_queue_size) < 0)
        return -1;

    if (net->mtu && (net->mtu < 1280 || net->mtu > 65535)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("%s/mtu/@size: %u is not between 1280 and 65535"), where, net->mtu);
        return -1;
    }
    if (def && net->driver.virtio.queues > virDomainDefGetVcpus(def)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("%s/driver/@queues: %u is more than the number of vCPUs, %u"), where,
                       net->driver.virtio.queues, virDomainDefGetVcpus(def));
        return -1;
    }
    return 0;
}

static int kumoValidateReconnect(const char *where, const virDomainChrSourceReconnectDef *reconnect)
{
    if (reconnect->enabled != VIR_TRISTATE_BOOL_YES ||
        (reconnect->timeout > 0 && reconnect->timeout <= KUMO_CONSOLE_RECONNECT_MAX_S))
        return 0;
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("%s/source/reconnect/@timeout: %u is not between 1 and %d"), where,
                   reconnect->timeout, KUMO_CONSOLE_RECONNECT_MAX_S);
    return -1;
}

/* Where a device's other side is, on a UNIX socket or by TCP. */
static int kumoValidateChrSocket(const char *where, const virDomainChrSourceDef *source)
{
    bool tcp = source->type == VIR_DOMAIN_CHR_TYPE_TCP;
    const kumoRefusal items[] = {
        { tcp && source->data.tcp.protocol != VIR_DOMAIN_CHR_TCP_PROTOCOL_RAW,
          "/protocol/@type (other than raw)" },
        { tcp && source->data.tcp.haveTLS == VIR_TRISTATE_BOOL_YES,
          "/source/@tls (other than no)" },
    };
    g_autofree char *address = NULL;
    g_autofree char *host = NULL;
    const char *port;

    if (kumoRefuse(where, items, G_N_ELEMENTS(items)) < 0)
        return -1;
    if (source->type == VIR_DOMAIN_CHR_TYPE_UNIX)
        return kumoValidateReconnect(where, &source->data.nix.reconnect);
    if (!tcp)
        return 0;
    if (!*source->data.tcp.host || strlen(source->data.tcp.host) > KUMO_CONSOLE_HOST_MAX) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("%s/source/@host: not a name of 1 to %d bytes"), where,
                       KUMO_CONSOLE_HOST_MAX);
        return -1;
    }
    address = g_strdup_printf("[%s]:%s", source->data.tcp.host, source->data.tcp.service);
    if (!kumo_tcp_address_split(address, &host, &port)) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("%s/source/@service: '%s' is not a number from 1 to 65535"), where,
                       source->data.tcp.service);
        return -1;
    }
    return kumoValidateReconnect(where, &source->data.tcp.reconnect);
}

static int kumoValidateChr(const virDomainChrDef *chr)
{
    bool serial = chr->deviceType == VIR_DOMAIN_CHR_DEVICE_TYPE_SERIAL;
    bool virtio = !serial && chr->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_VIRTIO;
    const char *where = serial ? "/domain/devices/serial" : "/domain/devices/console";
    const virDomainChrSourceDef *source = chr->source;
    const kumoRefusal items[] = {
        { source->type != VIR_DOMAIN_CHR_TYPE_PTY && source->type != VIR_DOMAIN_CHR_TYPE_FILE &&
              source->type != VIR_DOMAIN_CHR_TYPE_NULL &&
              source->type != VIR_DOMAIN_CHR_TYPE_UNIX && source->type != VIR_DOMAIN_CHR_TYPE_TCP,
          "/@type" },
        { source->logfile && source->type == VIR_DOMAIN_CHR_TYPE_NULL, "/log (of type null)" },
        { serial && chr->targetType != VIR_DOMAIN_CHR_SERIAL_TARGET_TYPE_ISA, "/target/@type" },
        { serial && chr->targetModel != VIR_DOMAIN_CHR_SERIAL_TARGET_MODEL_ISA_SERIAL,
          "/target/model" },
        { serial && chr->target.port != 0, "/target/@port (other than 0)" },
        { !serial && !virtio && chr->targetType != VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_SERIAL,
          "/target/@type" },
    };

    if (chr->deviceType != VIR_DOMAIN_CHR_DEVICE_TYPE_SERIAL &&
        chr->deviceType != VIR_DOMAIN_CHR_DEVICE_TYPE_CONSOLE)
        return 0; /* refused as a kind */
    if (kumoRefuse(where, items, G_N_ELEMENTS(items)) < 0)
        return -1;
    return kumoValidateChrSocket(where, source);
}

static int kumoValidateRng(const virDomainRNGDef *rng)
{
    bool file = rng->backend == VIR_DOMAIN_RNG_BACKEND_RANDOM;
    const kumoRefusal items[] = {
        { rng->model == VIR_DOMAIN_RNG_MODEL_VIRTIO_TRANSITIONAL, "/@model" },
        { !file, "/backend/@model (other than random)" },
        { rng->rate, "/rate" },
        { kumoVirtioOptionsUsed(rng->virtio), "/driver (virtio options)" },
        { rng->info.acpiIndex, "/acpi" },
        { file && rng->source.file && !g_path_is_absolute(rng->source.file),
          "/backend (a relative path)" },
    };
    return kumoRefuse("/domain/devices/rng", items, G_N_ELEMENTS(items));
}

static int kumoValidateMemballoon(const virDomainMemballoonDef *balloon)
{
    const kumoRefusal items[] = {
        { balloon->model == VIR_DOMAIN_MEMBALLOON_MODEL_XEN ||
              balloon->model == VIR_DOMAIN_MEMBALLOON_MODEL_VIRTIO_TRANSITIONAL,
          "/@model" },
        { kumoVirtioOptionsUsed(balloon->virtio), "/driver (virtio options)" },
        { balloon->info.acpiIndex, "/acpi" },
        { balloon->period < 0 || balloon->period > 24 * 3600, "/stats/@period (over a day)" },
    };
    return kumoRefuse("/domain/devices/memballoon", items, G_N_ELEMENTS(items));
}

static int kumoValidateController(const virDomainControllerDef *cont)
{
    const kumoRefusal items[] = {
        { cont->info.acpiIndex, "/acpi" },
        { cont->type == VIR_DOMAIN_CONTROLLER_TYPE_PCI && cont->opts.pciopts.pcihole64,
          "/pcihole64" },
    };

    if (kumoRefuse("/domain/devices/controller", items, G_N_ELEMENTS(items)) < 0)
        return -1;

    switch ((int)cont->type) {
    case VIR_DOMAIN_CONTROLLER_TYPE_PCI:
        if (cont->idx == 0 && (cont->model == VIR_DOMAIN_CONTROLLER_MODEL_PCI_ROOT ||
                               cont->model == VIR_DOMAIN_CONTROLLER_MODEL_PCIE_ROOT))
            return 0;
        /* Tools add ports for hotplug, which here needs none. Nothing can be put behind one. */
        if (cont->model == VIR_DOMAIN_CONTROLLER_MODEL_PCIE_ROOT_PORT)
            return 0;
        break;
    case VIR_DOMAIN_CONTROLLER_TYPE_VIRTIO_SERIAL:
        if (cont->idx == 0 && cont->opts.vioserial.ports <= 1 &&
            cont->opts.vioserial.vectors == -1 && !kumoVirtioOptionsUsed(cont->virtio))
            return 0;
        break;
    case VIR_DOMAIN_CONTROLLER_TYPE_USB:
        /* There is no USB; tools add a controller to each machine. */
        return 0;
    case VIR_DOMAIN_CONTROLLER_TYPE_SATA:
    case VIR_DOMAIN_CONTROLLER_TYPE_IDE:
    case VIR_DOMAIN_CONTROLLER_TYPE_SCSI:
        /* Only CD-ROMs name these buses, and they are virtio disks. */
        return 0;
    default:
        break;
    }
    virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                   _("/domain/devices/controller[@type='%s'][@index='%d'] is not supported by "
                     "kumo as given"),
                   virDomainControllerTypeToString(cont->type), cont->idx);
    return -1;
}

int kumoValidateDevice(const virDomainDeviceDef *dev, const virDomainDef *def,
                       void *opaque G_GNUC_UNUSED, void *parseOpaque G_GNUC_UNUSED)
{
    switch ((int)dev->type) {
    case VIR_DOMAIN_DEVICE_DISK:
        return kumoValidateDisk(dev->data.disk, def);
    case VIR_DOMAIN_DEVICE_NET:
        return kumoValidateNet(dev->data.net, def);
    case VIR_DOMAIN_DEVICE_CHR:
        return kumoValidateChr(dev->data.chr);
    case VIR_DOMAIN_DEVICE_RNG:
        return kumoValidateRng(dev->data.rng);
    case VIR_DOMAIN_DEVICE_CONTROLLER:
        return kumoValidateController(dev->data.controller);
    case VIR_DOMAIN_DEVICE_MEMBALLOON:
        return kumoValidateMemballoon(dev->data.memballoon);
    case VIR_DOMAIN_DEVICE_MEMORY:
        return kumoValidateMemoryDevice(dev->data.memory, def);
    default:
        /* Kinds that kumo has none of are refused with the domain. */
        return 0;
    }
}
