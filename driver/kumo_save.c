/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_save.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "driver/kumo_cgroup.h"
#include "driver/kumo_cookie.h"
#include "driver/kumo_job.h"
#include "driver/kumo_lifecycle.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_run.h"
#include "vircommand.h"
#include "virfile.h"
#include "virutil.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_save");

/* --- an open image, with what stands between it and the VMM --- */

struct _kumoSaveFile {
    const char *path; /* the caller's */
    int fd;           /* of the file, or of the helper that goes round the page cache */
    virFileWrapperFd *wrapper;
    virCommand *filter; /* compresses or decompresses */
    char *filterErrors;
    int stream; /* the VMM's end */
};

#define KUMO_SAVE_FILE_INIT                                                                        \
    {                                                                                              \
        .fd = -1, .stream = -1                                                                     \
    }

/* Also undoes what is half done. */
static void kumoSaveFileClear(kumoSaveFile *file)
{
    VIR_FORCE_CLOSE(file->stream);
    if (file->filter)
        virCommandAbort(file->filter);
    g_clear_pointer(&file->filter, virCommandFree);
    g_clear_pointer(&file->filterErrors, g_free);
    VIR_FORCE_CLOSE(file->fd);
    if (file->wrapper)
        virFileWrapperFdClose(file->wrapper);
    g_clear_pointer(&file->wrapper, virFileWrapperFdFree);
}

void kumoSaveFileFree(kumoSaveFile *file)
{
    if (!file)
        return;
    kumoSaveFileClear(file);
    g_free(file);
}

static int kumoSaveFileOpen(kumoSaveFile *file, const kumoDriverConfig *cfg, const char *path,
                            int flags, bool bypass)
{
    int direct = 0;

    file->path = path;
    if (bypass && (direct = virFileDirectFdFlag()) < 0) {
        virReportError(VIR_ERR_OPERATION_FAILED, "%s",
                       _("this system cannot bypass the page cache"));
        return -1;
    }
    /* On a network file system root may be nobody, and the VMM's user the one who may. */
    file->fd = virFileOpenAs(path, flags | direct | O_CLOEXEC, 0600, cfg->user, cfg->group, 0);
    if (file->fd < 0) {
        virReportSystemError(-file->fd, _("cannot open the save image %s"), path);
        file->fd = -1;
        return -1;
    }
    if (bypass &&
        !(file->wrapper = virFileWrapperFdNew(&file->fd, path, VIR_FILE_WRAPPER_BYPASS_CACHE)))
        return -1;
    return 0;
}

/* Puts a program between the file and the VMM unless the stream is raw. */
static int kumoSaveFileFilter(kumoSaveFile *file, kumoSaveFormat format, bool output)
{
    const char *program = kumoSaveFormatTypeToString(format);
    int pipes[2] = { -1, -1 };
    int rc = -1;

    if (format == KUMO_SAVE_FORMAT_RAW) {
        if ((file->stream = fcntl(file->fd, F_DUPFD_CLOEXEC, 0)) < 0) {
            virReportSystemError(errno, _("cannot use the save image %s"), file->path);
            return -1;
        }
        return 0;
    }
    if (virPipe(pipes) < 0)
        return -1;
    file->filter = virCommandNew(program);
    virCommandAddArg(file->filter, output ? "-c" : "-dc");
    if (output && format == KUMO_SAVE_FORMAT_ZSTD)
        virCommandAddArg(file->filter, "-T0");
    if (output) {
        virCommandSetInputFD(file->filter, pipes[0]);
        virCommandSetOutputFD(file->filter, &file->fd);
    } else {
        virCommandSetInputFD(file->filter, file->fd);
        virCommandSetOutputFD(file->filter, &pipes[1]);
    }
    virCommandSetErrorBuffer(file->filter, &file->filterErrors);
    virCommandDoAsyncIO(file->filter);
    if (virCommandRunAsync(file->filter, NULL) == 0) {
        file->stream = g_steal_fd(&pipes[output ? 1 : 0]);
        rc = 0;
    } else { /* a command that does not start has closed its input */
        *(output ? &pipes[0] : &file->fd) = -1;
    }
    VIR_FORCE_CLOSE(pipes[0]);
    VIR_FORCE_CLOSE(pipes[1]);
    return rc;
}

/* Everything has been written: waits until it is in the file, and on the disk. */
static int kumoSaveFileFinish(kumoSaveFile *file)
{
    VIR_FORCE_CLOSE(file->stream);
    if (file->filter && virCommandWait(file->filter, NULL) < 0)
        return -1;
    g_clear_pointer(&file->filter, virCommandFree);
    if (!file->wrapper && fdatasync(file->fd) < 0 && errno != EINVAL && errno != EROFS) {
        virReportSystemError(errno, _("cannot write the save image %s"), file->path);
        return -1;
    }
    if (VIR_CLOSE(file->fd) < 0) {
        virReportSystemError(errno, _("cannot write the save image %s"), file->path);
        return -1;
    }
    if (file->wrapper && virFileWrapperFdClose(file->wrapper) < 0)
        return -1;
    return 0;
}

/* --- save --- */

static char *kumoSaveFormatXml(kumoDriver *driver, virDomainDef *def)
{
    return virDomainDefFormat(def, driver->xmlopt,
                              VIR_DOMAIN_DEF_FORMAT_INACTIVE | VIR_DOMAIN_DEF_FORMAT_SECURE |
                                  VIR_DOMAIN_DEF_FORMAT_MIGRATABLE);
}

/* A definition as a later start will have it. */
static virDomainDef *kumoSaveParseXml(kumoDriver *driver, const char *xml)
{
    return virDomainDefParseString(xml, driver->xmlopt, NULL,
                                   VIR_DOMAIN_DEF_PARSE_INACTIVE |
                                       VIR_DOMAIN_DEF_PARSE_SKIP_VALIDATE);
}

virDomainDef *kumoSaveReplaceXml(kumoDriver *driver, virDomainDef *def, const char *xml)
{
    g_autoptr(virDomainDef) changed = NULL;

    /* What comes from a client is looked at as closely as at its definition. */
    if (!(changed =
              virDomainDefParseString(xml, driver->xmlopt, NULL, VIR_DOMAIN_DEF_PARSE_INACTIVE)) ||
        !virDomainDefCheckABIStability(def, changed, driver->xmlopt))
        return NULL;
    return g_steal_pointer(&changed);
}

static kumoSaveImage *kumoSaveDescribe(virDomainObj *vm, kumoSaveFormat format, const char *xml,
                                       unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoSaveImage) image = g_new0(kumoSaveImage, 1);
    g_autoptr(kumoCookie) cookie = kumoCookieNew(vm->def);

    image->format = format;
    image->running = virDomainObjGetState(vm, NULL) == VIR_DOMAIN_RUNNING;
    if (flags & VIR_DOMAIN_SAVE_RUNNING)
        image->running = true;
    else if (flags & VIR_DOMAIN_SAVE_PAUSED)
        image->running = false;
    image->cookie = kumoCookieFormat(cookie);

    if (!(image->xml = kumoSaveFormatXml(priv->driver, vm->def)))
        return NULL;
    if (xml) {
        g_autoptr(virDomainDef) live = kumoSaveParseXml(priv->driver, image->xml);
        g_autoptr(virDomainDef) def = live ? kumoSaveReplaceXml(priv->driver, live, xml) : NULL;

        g_clear_pointer(&image->xml, g_free);
        if (!def || !(image->xml = kumoSaveFormatXml(priv->driver, def)))
            return NULL;
    }
    return g_steal_pointer(&image);
}

/* The save has failed: the guest runs on. */
static void kumoSaveUnpause(virDomainObj *vm)
{
    virErrorPtr saved = NULL;

    virErrorPreserveLast(&saved);
    if (kumoLifecycleResume(vm, VIR_DOMAIN_RUNNING_SAVE_CANCELED) < 0 && virDomainObjIsActive(vm))
        VIR_ERROR(_("domain %s: it stays paused after a save that failed: %s"), vm->def->name,
                  virGetLastErrorMessage());
    virErrorRestore(&saved);
}

/* Has the VMM write its VM to the stream of @file. */
static int kumoSaveSend(virDomainObj *vm, kumoSaveFile *file)
{
    kumoMonitorSend how = { .url = "fd:", .fd = file->stream, .oneWay = true };
    kumoMonitor *mon;
    int rc;

    if (kumoJobStreamBegin(vm) < 0)
        return -1;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorSendVm(mon, &how);
    VIR_FORCE_CLOSE(file->stream);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0 || kumoJobStreamWait(vm, 0) < 0)
        return -1;
    return kumoJobRefresh(vm);
}

static int kumoSaveWrite(virDomainObj *vm, kumoSaveFile *file, kumoSaveImage *image, bool bypass)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    const char *path = file->path;
    VIR_AUTOCLOSE fd = -1;
    int rc;

    if (kumoSaveFileOpen(file, cfg, path, O_WRONLY | O_CREAT | O_TRUNC, bypass) < 0 ||
        virSecurityManagerSetImageFDLabel(priv->driver->security, vm->def, file->fd) < 0 ||
        kumoSaveImageWrite(file->fd, path, image, false) < 0 ||
        kumoSaveFileFilter(file, image->format, true) < 0 || kumoSaveSend(vm, file) < 0)
        return -1;

    /* Closing waits for helpers, which may have much to write. */
    virObjectUnlock(vm);
    rc = kumoSaveFileFinish(file);
    virObjectLock(vm);
    if (rc < 0)
        return -1;

    /* Only now the image is one. */
    if ((fd = virFileOpenAs(path, O_WRONLY | O_CLOEXEC, 0, cfg->user, cfg->group, 0)) < 0) {
        virReportSystemError(-fd, _("cannot open the save image %s"), path);
        fd = -1;
        return -1;
    }
    if (kumoSaveImageWrite(fd, path, image, true) < 0)
        return -1;
    if (fdatasync(fd) < 0 || VIR_CLOSE(fd) < 0) {
        virReportSystemError(errno, _("cannot write the save image %s"), path);
        return -1;
    }
    return 0;
}

/* A device is written to, but not removed. */
static void kumoSaveRemove(const char *path)
{
    struct stat st;

    if (lstat(path, &st) == 0 && S_ISREG(st.st_mode) && unlink(path) < 0)
        VIR_WARN("cannot remove the incomplete save image %s: %s", path, g_strerror(errno));
}

int kumoSave(virDomainObj *vm, const char *path, kumoSaveFormat format, const char *xml,
             unsigned int flags)
{
    bool ran = virDomainObjGetState(vm, NULL) == VIR_DOMAIN_RUNNING;
    kumoSaveFile file = KUMO_SAVE_FILE_INIT;
    g_autoptr(kumoSaveImage) image = NULL;
    int rc;

    if (!(image = kumoSaveDescribe(vm, format, xml, flags)) ||
        (ran && kumoLifecyclePause(vm, VIR_DOMAIN_PAUSED_SAVE) < 0))
        return -1;

    file.path = path;
    rc = kumoSaveWrite(vm, &file, image, (flags & VIR_DOMAIN_SAVE_BYPASS_CACHE) != 0);
    kumoSaveFileClear(&file);
    if (rc == 0 && !virDomainObjIsActive(vm)) {
        virReportError(VIR_ERR_OPERATION_FAILED, _("domain '%s' ended meanwhile"), vm->def->name);
        rc = -1;
    }
    if (rc < 0) {
        kumoSaveRemove(path);
        kumoJobComplete(vm, kumoJobFailedStatus(vm));
        if (ran && virDomainObjIsActive(vm))
            kumoSaveUnpause(vm);
        return -1;
    }
    kumoJobComplete(vm, VIR_DOMAIN_JOB_STATUS_COMPLETED);
    kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_SAVED);
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_SAVED);
    return 0;
}

/* --- restore --- */

kumoSaveImage *kumoSaveOpen(kumoDriver *driver, const char *path, unsigned int flags,
                            kumoSaveFile **ret_file, bool *ret_damaged)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autoptr(kumoSaveImage) image = NULL;
    g_autoptr(kumoSaveFile) file = g_new0(kumoSaveFile, 1);

    file->fd = file->stream = -1;
    if (ret_damaged)
        *ret_damaged = false;
    if (kumoSaveFileOpen(file, cfg, path, O_RDONLY, (flags & VIR_DOMAIN_SAVE_BYPASS_CACHE) != 0) <
            0 ||
        !(image = kumoSaveImageRead(file->fd, path, ret_damaged)))
        return NULL;
    *ret_file = g_steal_pointer(&file);
    return g_steal_pointer(&image);
}

virDomainDef *kumoSaveParse(kumoDriver *driver, const kumoSaveImage *image)
{
    return kumoSaveParseXml(driver, image->xml);
}

int kumoSaveEditXml(kumoDriver *driver, const char *path, const kumoSaveImage *image,
                    const char *xml, unsigned int flags)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autoptr(virDomainDef) def = kumoSaveParse(driver, image);
    g_autoptr(virDomainDef) changed = def ? kumoSaveReplaceXml(driver, def, xml) : NULL;
    kumoSaveImage next = *image;
    g_autofree char *text = NULL;
    VIR_AUTOCLOSE fd = -1;

    if (!changed || !(text = kumoSaveFormatXml(driver, changed)))
        return -1;
    next.xml = text;
    if (flags & VIR_DOMAIN_SAVE_RUNNING)
        next.running = true;
    else if (flags & VIR_DOMAIN_SAVE_PAUSED)
        next.running = false;
    if ((fd = virFileOpenAs(path, O_WRONLY | O_CLOEXEC, 0, cfg->user, cfg->group, 0)) < 0) {
        virReportSystemError(-fd, _("cannot open the save image %s"), path);
        fd = -1;
        return -1;
    }
    if (kumoSaveImageWrite(fd, path, &next, true) < 0)
        return -1;
    if (fdatasync(fd) < 0 || VIR_CLOSE(fd) < 0) {
        virReportSystemError(errno, _("cannot write the save image %s"), path);
        return -1;
    }
    return 0;
}

/* The VM is there, paused: what is told of it, and whether it runs. */
static int kumoSaveRun(virDomainObj *vm, bool running, bool paused)
{
    if (kumoCgroupPlaceThreads(vm) < 0 || kumoRunRefreshConsoles(vm) < 0)
        return -1;
    kumoDomainSetState(vm, VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_USER, VIR_DOMAIN_EVENT_STARTED,
                       VIR_DOMAIN_EVENT_STARTED_RESTORED);
    if (!running) {
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_SUSPENDED,
                             paused ? VIR_DOMAIN_EVENT_SUSPENDED_PAUSED
                                    : VIR_DOMAIN_EVENT_SUSPENDED_RESTORED);
        return 0;
    }
    return kumoLifecycleResume(vm, VIR_DOMAIN_RUNNING_RESTORED);
}

static int kumoSaveReceive(virConnectPtr conn, virDomainObj *vm, const kumoSaveImage *image,
                           kumoSaveFile *file, unsigned int startFlags)
{
    g_autoptr(kumoCookie) cookie = NULL;
    kumoMonitorReceive incoming = { .url = "fd:", .paused = true };

    if (!(cookie = kumoCookieParse(image->cookie, image->cookie ? strlen(image->cookie) : 0)) ||
        kumoCookieApply(cookie, vm->def) < 0 || kumoSaveFileFilter(file, image->format, false) < 0)
        return -1;
    incoming.fd = file->stream;
    return kumoRunStartIncoming(conn, vm, &incoming, "restored",
                                startFlags & KUMO_START_AUTODESTROY);
}

int kumoSaveResume(virConnectPtr conn, virDomainObj *vm, const kumoSaveImage *image,
                   kumoSaveFile *file, bool running, unsigned int startFlags)
{
    virErrorPtr saved = NULL;
    int rc = kumoSaveReceive(conn, vm, image, file, startFlags);

    VIR_FORCE_CLOSE(file->stream);
    if (rc == 0) {
        rc = kumoJobStreamWait(vm, 0);
        if (rc == 0)
            rc = kumoSaveRun(vm, running, (startFlags & KUMO_START_PAUSED) != 0);
    }
    if (rc == 0)
        return 0;

    virErrorPreserveLast(&saved);
    if (virDomainObjIsActive(vm)) {
        kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_FAILED);
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED);
    }
    virDomainObjRemoveTransientDef(vm);
    virErrorRestore(&saved);
    return -1;
}

/* --- a daemon that comes later --- */

void kumoSaveRecover(virDomainObj *vm)
{
    int reason = VIR_DOMAIN_PAUSED_UNKNOWN;
    kumoMonitor *mon = kumoDomainObjEnterMonitor(vm);

    /* It may have ended already. */
    ignore_value(kumoMonitorCancelMigration(mon));
    virResetLastError();
    if (kumoDomainObjExitMonitor(vm, mon) == 0 &&
        virDomainObjGetState(vm, &reason) == VIR_DOMAIN_PAUSED && reason == VIR_DOMAIN_PAUSED_SAVE)
        kumoSaveUnpause(vm);
}

void kumoSaveRecoverIncoming(virDomainObj *vm)
{
    int reason = VIR_DOMAIN_PAUSED_UNKNOWN;

    /* Only while the VM comes in the domain is in this state. */
    if (virDomainObjGetState(vm, &reason) != VIR_DOMAIN_PAUSED ||
        (reason != VIR_DOMAIN_PAUSED_MIGRATION && reason != VIR_DOMAIN_PAUSED_STARTING_UP))
        return;
    kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_FAILED);
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_FAILED);
}

/* --- managed save --- */

char *kumoManagedSavePath(kumoDriver *driver, const virDomainDef *def)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);

    return g_strdup_printf("%s/%s.save", cfg->saveDir, def->name);
}

int kumoManagedSaveRemove(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *path = kumoManagedSavePath(priv->driver, vm->def);

    if (unlink(path) < 0 && errno != ENOENT) {
        virReportSystemError(errno, _("cannot remove the managed save image %s"), path);
        return -1;
    }
    vm->hasManagedSave = false;
    return 0;
}

static int kumoManagedSaveCheck(const virDomainObj *vm, const virDomainDef *def, const char *path)
{
    if (STREQ(vm->def->name, def->name) && memcmp(vm->def->uuid, def->uuid, VIR_UUID_BUFLEN) == 0)
        return 0;
    virReportError(VIR_ERR_OPERATION_FAILED,
                   _("the managed save image %s belongs to another domain than '%s'"), path,
                   vm->def->name);
    return -1;
}

int kumoManagedSaveStart(virConnectPtr conn, virDomainObj *vm, unsigned int startFlags,
                         unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *path = kumoManagedSavePath(priv->driver, vm->def);
    g_autoptr(kumoSaveImage) image = NULL;
    g_autoptr(virDomainDef) def = NULL;
    g_autoptr(kumoSaveFile) file = NULL;
    bool damaged = false;

    if (!virFileExists(path)) {
        vm->hasManagedSave = false;
        return 0;
    }
    if (!(image = kumoSaveOpen(priv->driver, path, flags, &file, &damaged))) {
        if (!damaged)
            return -1;
        VIR_WARN("domain %s: its managed save image is dropped, it starts afresh: %s",
                 vm->def->name, virGetLastErrorMessage());
        virResetLastError();
        return kumoManagedSaveRemove(vm);
    }
    if (!(def = kumoSaveParse(priv->driver, image)) || kumoManagedSaveCheck(vm, def, path) < 0)
        return -1;
    virDomainObjAssignDef(vm, &def, true, NULL);
    if (kumoSaveResume(conn, vm, image, file, image->running && !(startFlags & KUMO_START_PAUSED),
                       startFlags) < 0)
        return -1;
    if (kumoManagedSaveRemove(vm) < 0)
        VIR_WARN("domain %s: %s", vm->def->name, virGetLastErrorMessage());
    return 1;
}
