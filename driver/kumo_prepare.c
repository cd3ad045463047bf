/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_prepare.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "domain-xml/xml.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_capabilities.h"
#include "driver/conf/kumo_cpu.h"
#include "driver/conf/kumo_memory.h"
#include "driver/kumo_secondary.h"
#include "virfile.h"
#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_prepare");

int kumoPrepareSocket(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    VIR_AUTOCLOSE fd = -1;

    if (virStrcpyStatic(addr.sun_path, path) < 0) {
        virReportError(VIR_ERR_OPERATION_FAILED,
                       _("the socket path '%s' is longer than the %zu bytes that the kernel takes"),
                       path, sizeof(addr.sun_path) - 1);
        return -1;
    }
    if (unlink(path) < 0 && errno != ENOENT) {
        virReportSystemError(errno, _("cannot remove %s"), path);
        return -1;
    }
    /* The directory, not the socket's own mode, keeps others out until the mode is set. */
    if ((fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0 ||
        bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0 || chmod(path, 0600) < 0 ||
        listen(fd, 16) < 0) {
        virReportSystemError(errno, _("cannot listen at %s"), path);
        return -1;
    }
    return g_steal_fd(&fd);
}

static int kumoPrepareDirectory(virDomainObj *vm, const kumoDriverConfig *cfg)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *name = virDomainDefGetShortName(vm->def);

    if (!name)
        return -1;
    g_free(priv->dir);
    priv->dir = g_strdup_printf("%s/domain-%s", cfg->stateDir, name);

    if (virFileIsDir(priv->dir) && virFileDeleteTree(priv->dir) < 0)
        return -1;
    if (g_mkdir_with_parents(priv->dir, 0700) < 0) {
        virReportSystemError(errno, _("cannot create the directory %s"), priv->dir);
        return -1;
    }
    return 0;
}

/* Memory goes into a file of the same name as the VMM's part of the memory. */
static int kumoPrepareMemoryFile(virDomainObj *vm, int cell)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *id = kumo_xml_zone_id(vm->def, cell);
    g_autofree char *path = g_strdup_printf("%s/%s", priv->memoryDir, id);
    VIR_AUTOCLOSE fd = -1;

    if (!kumoMemoryIsFile(vm->def, cell))
        return 0;
    if ((fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600)) < 0) {
        virReportSystemError(errno, _("cannot create %s"), path);
        return -1;
    }
    return virSecurityManagerDomainSetPathLabel(priv->driver->security, vm->def, path, false);
}

/*
 * Below a directory that others may write to, as /dev/shm is, what has a domain's name may be
 * somebody else's, or lead elsewhere. Only a directory that the driver made is removed.
 */
static int kumoPrepareRemoveMemory(const char *path)
{
    struct stat sb;

    if (lstat(path, &sb) < 0 || !S_ISDIR(sb.st_mode) || sb.st_uid != geteuid())
        return 0;
    return virFileDeleteTree(path);
}

/*
 * The files are the VMM's user's, and the directory is not: whoever may write to it could put links
 * there, for what is done with its files by name.
 */
static int kumoPrepareMemory(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    int cells = (int)virDomainNumaGetNodeCount(vm->def->numa);
    g_autofree char *above = NULL;

    if (!priv->memoryDir)
        return 0;
    above = g_path_get_dirname(priv->memoryDir);
    if (kumoPrepareRemoveMemory(priv->memoryDir) < 0)
        return -1;
    if (g_mkdir_with_parents(above, 0711) < 0 || mkdir(priv->memoryDir, 0711) < 0) {
        virReportSystemError(errno, _("cannot create the directory %s"), priv->memoryDir);
        return -1;
    }
    if (cells == 0)
        return kumoPrepareMemoryFile(vm, -1);
    for (int i = 0; i < cells; i++) {
        if (kumoPrepareMemoryFile(vm, i) < 0)
            return -1;
    }
    return 0;
}

/* libvirt's security drivers do not know of a log: other drivers have a daemon write it. */
static int kumoPrepareLog(const virDomainChrDef *chr, const kumoDriver *driver,
                          const kumoDriverConfig *cfg)
{
    const char *path = chr->source->logfile;
    VIR_AUTOCLOSE fd = -1;

    if (!path)
        return 0;
    if ((fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NOFOLLOW, 0600)) < 0 ||
        (driver->privileged && cfg->dynamicOwnership && fchown(fd, cfg->user, cfg->group) < 0)) {
        virReportSystemError(errno, _("cannot open the log %s for %s"), path, chr->info.alias);
        return -1;
    }
    return 0;
}

/* The VMM's user may write to a file, but perhaps not create it where it is. */
static int kumoPrepareChardev(virDomainChrDef *chr, const kumoDriver *driver,
                              const kumoDriverConfig *cfg)
{
    const char *path = chr->source->data.file.path;
    VIR_AUTOCLOSE fd = -1;

    if (kumoPrepareLog(chr, driver, cfg) < 0)
        return -1;
    /* So the running domain tells, as other drivers' do, and its definition does not. */
    if (chr->source->type == VIR_DOMAIN_CHR_TYPE_TCP &&
        chr->source->data.tcp.haveTLS == VIR_TRISTATE_BOOL_ABSENT) {
        chr->source->data.tcp.haveTLS = VIR_TRISTATE_BOOL_NO;
        chr->source->data.tcp.tlsFromConfig = true;
    }
    if (chr->source->type != VIR_DOMAIN_CHR_TYPE_FILE)
        return 0;
    if ((fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600)) < 0) {
        virReportSystemError(errno, _("cannot open %s for %s"), path, chr->info.alias);
        return -1;
    }
    return 0;
}

int kumoPrepareDisk(kumoDriver *driver, virDomainDiskDef *disk)
{
    if (disk->src->type == VIR_STORAGE_TYPE_VOLUME &&
        kumoSecondaryTranslateVolume(driver, disk) < 0)
        return -1;
    if (!virStorageSourceIsEmpty(disk->src) && disk->src->format != VIR_STORAGE_FILE_RAW) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("disk '%s': only images of format raw are supported"), disk->dst);
        return -1;
    }
    return 0;
}

static int kumoPrepareDisks(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    for (size_t i = 0; i < vm->def->ndisks; i++) {
        if (kumoPrepareDisk(priv->driver, vm->def->disks[i]) < 0)
            return -1;
    }
    return 0;
}

/*
 * A clock that begins with the run goes on when the guest is saved or moves: from here on the
 * domain says by how much it differs.
 */
static void kumoPrepareClock(virDomainDef *def)
{
    long long start = (long long)def->clock.data.starttime;

    if (def->clock.offset != VIR_DOMAIN_CLOCK_OFFSET_ABSOLUTE)
        return;
    def->clock.offset = VIR_DOMAIN_CLOCK_OFFSET_VARIABLE;
    memset(&def->clock.data, 0, sizeof(def->clock.data));
    def->clock.data.variable.adjustment = start - g_get_real_time() / G_USEC_PER_SEC;
    def->clock.data.variable.basis = VIR_DOMAIN_CLOCK_BASIS_UTC;
}

int kumoPrepareDomain(virDomainObj *vm, const kumoDriverConfig *cfg)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virDomainDef *def = vm->def;
    g_autoptr(virCaps) caps = kumoDriverGetCapabilities(priv->driver, false);

    if (!caps || kumoCpuResolve(def, caps->host.cpu, true) < 0)
        return -1;
    kumoPrepareClock(def);
    /* It reports the node that there is not. */
    if (!virDomainNumatuneNodesetIsAvailable(def->numa, NULL))
        return -1;
    if (kumoAssignAliases(def) < 0 || kumoPrepareDirectory(vm, cfg) < 0 || kumoPrepareDisks(vm) < 0)
        return -1;
    if (def->mem.source == VIR_DOMAIN_MEMORY_SOURCE_FILE &&
        !(priv->memoryDir = kumoDriverConfigMemoryDir(cfg, priv->driver->embeddedRoot, def)))
        return -1;
    for (size_t i = 0; i < def->nserials; i++) {
        if (kumoPrepareChardev(def->serials[i], priv->driver, cfg) < 0)
            return -1;
    }
    for (size_t i = 0; i < def->nconsoles; i++) {
        if (def->consoles[i]->targetType == VIR_DOMAIN_CHR_CONSOLE_TARGET_TYPE_VIRTIO &&
            kumoPrepareChardev(def->consoles[i], priv->driver, cfg) < 0)
            return -1;
    }
    return 0;
}

int kumoPrepareIdentity(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virSecurityManager *security = priv->driver->security;

    if (virSecurityManagerCheckAllLabel(security, vm->def) < 0 ||
        virSecurityManagerGenLabel(security, vm->def) < 0)
        return -1;
    priv->identified = true;
    return 0;
}

int kumoPrepareLabels(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virSecurityManager *security = priv->driver->security;

    priv->labelled = true;
    kumoDomainSaveStatus(vm);
    if (kumoPrepareMemory(vm) < 0)
        return -1;
    return kumoCompatSetAllLabel(security, vm->def, NULL, false, false);
}

void kumoPrepareUndo(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    virSecurityManager *security = priv->driver->security;

    if (priv->labelled) {
        if (kumoCompatRestoreAllLabel(security, vm->def, priv->migratedAway, false) < 0)
            VIR_WARN("domain %s: security labels could not all be restored", vm->def->name);
        priv->labelled = false;
    }
    if (priv->identified) {
        if (virSecurityManagerReleaseLabel(security, vm->def) < 0)
            VIR_WARN("domain %s: its security label could not be released", vm->def->name);
        priv->identified = false;
    }
    if (priv->memoryDir && kumoPrepareRemoveMemory(priv->memoryDir) < 0)
        VIR_WARN("domain %s: its memory's directory could not be removed: %s", vm->def->name,
                 virGetLastErrorMessage());
    g_clear_pointer(&priv->memoryDir, g_free);
    if (priv->dir && virFileIsDir(priv->dir))
        virFileDeleteTree(priv->dir);
    g_clear_pointer(&priv->dir, g_free);
}
