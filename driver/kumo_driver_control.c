/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is done to a domain besides starting and stopping it. */
#include "driver/kumo_driver.h"

#include <sys/stat.h>
#include <unistd.h>

#include "driver/kumo_lifecycle.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_run.h"
#include "viraccessapicheck.h"
#include "virfile.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_driver_control");

/* --- core dump --- */

/*
 * The VMM makes the file itself, as its own user, who may not be allowed to where it is wanted: a
 * directory beside it is the user's for as long as it takes.
 */
static int kumoDumpTo(virDomainObj *vm, const char *path, bool direct)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);
    g_autofree char *parent = g_path_get_dirname(path);
    g_autofree char *dir = g_build_filename(parent, ".kumo-dump-XXXXXX", NULL);
    g_autofree char *file = NULL;
    kumoMonitor *mon;
    int rc = -1;

    if (!g_mkdtemp_full(dir, 0700) ||
        (priv->driver->privileged && chown(dir, cfg->user, cfg->group) < 0)) {
        virReportSystemError(errno, _("cannot create a directory for the dump in %s"), parent);
        return -1;
    }
    file = g_build_filename(dir, "core", NULL);

    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorCoredump(mon, file, direct);
    if (rc == 0 && ((priv->driver->privileged && chown(file, 0, 0) < 0) || chmod(file, 0600) < 0 ||
                    rename(file, path) < 0)) {
        virReportSystemError(errno, _("cannot put the dump at %s"), path);
        rc = -1;
    }
    if (rc < 0)
        unlink(file);
    rmdir(dir);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    return rc;
}

static int kumoResumeAfterDump(virDomainObj *vm, bool reset)
{
    kumoMonitor *mon;
    int rc;

    if (!reset)
        return kumoLifecycleResume(vm, VIR_DOMAIN_RUNNING_UNPAUSED);
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorReboot(mon);
    if (kumoDomainObjExitMonitor(vm, mon) < 0 || rc < 0)
        return -1;
    kumoLifecycleResumed(vm, VIR_DOMAIN_RUNNING_UNPAUSED);
    return 0;
}

static int kumoCoreDump(virDomainObj *vm, const char *path, unsigned int flags)
{
    bool running;
    bool pause;
    int rc;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    running = virDomainObjGetState(vm, NULL) == VIR_DOMAIN_RUNNING;
    pause = running && !(flags & VIR_DUMP_LIVE);
    if (pause && kumoLifecyclePause(vm, VIR_DOMAIN_PAUSED_DUMP) < 0)
        return -1;

    rc = kumoDumpTo(vm, path, flags & VIR_DUMP_BYPASS_CACHE);
    if (!virDomainObjIsActive(vm))
        return -1;
    if (rc == 0 && (flags & VIR_DUMP_CRASH)) {
        kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_CRASHED);
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_CRASHED);
        return 0;
    }
    if ((pause || (rc == 0 && (flags & VIR_DUMP_RESET))) &&
        kumoResumeAfterDump(vm, rc == 0 && (flags & VIR_DUMP_RESET)) < 0)
        rc = -1;
    kumoDomainSaveStatus(vm);
    return rc;
}

int kumoDomainCoreDumpWithFormat(virDomainPtr dom, const char *path, unsigned int format,
                                 unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    virDomainObj *vm;
    int ret = -1;

    /* What there is is always the memory and the registers. */
    virCheckFlags(VIR_DUMP_LIVE | VIR_DUMP_CRASH | VIR_DUMP_RESET | VIR_DUMP_MEMORY_ONLY |
                      VIR_DUMP_BYPASS_CACHE,
                  -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainCoreDumpWithFormatEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (format != VIR_DOMAIN_CORE_DUMP_FORMAT_RAW) {
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("kdump-compressed dumps are not supported, only raw ones are"));
        goto cleanup;
    }
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoCoreDump(vm, path, flags);
    virDomainObjEndJob(vm);
    kumoDomainRemoveInactive(driver, vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainCoreDump(virDomainPtr dom, const char *path, unsigned int flags)
{
    return kumoDomainCoreDumpWithFormat(dom, path, VIR_DOMAIN_CORE_DUMP_FORMAT_RAW, flags);
}

/* --- memory --- */

static int kumoMemoryPeek(virDomainObj *vm, unsigned long long address, size_t size, void *buffer)
{
    kumoMonitor *mon;
    int rc;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (address > LLONG_MAX || size > LLONG_MAX - address) {
        virReportError(VIR_ERR_INVALID_ARG, _("there is no memory at the address 0x%llx"), address);
        return -1;
    }
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorReadMemory(mon, address, buffer, size);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    return rc;
}

int kumoDomainMemoryPeek(virDomainPtr dom, unsigned long long start, size_t size, void *buffer,
                         unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_MEMORY_VIRTUAL | VIR_MEMORY_PHYSICAL, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainMemoryPeekEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (flags != VIR_MEMORY_VIRTUAL && flags != VIR_MEMORY_PHYSICAL) {
        virReportError(VIR_ERR_INVALID_ARG, "%s",
                       _("one of the flags VIR_MEMORY_VIRTUAL and VIR_MEMORY_PHYSICAL is needed"));
        goto cleanup;
    }
    if (virDomainObjBeginJob(vm, VIR_JOB_QUERY) < 0)
        goto cleanup;
    if (flags == VIR_MEMORY_VIRTUAL && virDomainObjCheckActive(vm) == 0)
        /* The guest's page tables would have to be walked, while it changes them. */
        virReportError(VIR_ERR_OPERATION_UNSUPPORTED, "%s",
                       _("VIR_MEMORY_VIRTUAL is not supported, only VIR_MEMORY_PHYSICAL is"));
    else if (flags == VIR_MEMORY_PHYSICAL)
        ret = kumoMemoryPeek(vm, start, size, buffer);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- NMI --- */

int kumoDomainInjectNMI(virDomainPtr dom, unsigned int flags)
{
    kumoMonitor *mon;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainInjectNMIEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto endjob;
    mon = kumoDomainObjEnterMonitor(vm);
    ret = kumoMonitorInjectNmi(mon);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        ret = -1;

endjob:
    virDomainObjEndJob(vm);
cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- another name --- */

/* Writes the definition under the name that it has now, with its links for autostart. */
static int kumoRenameFiles(virDomainObj *vm, const kumoDriverConfig *cfg, kumoDriver *driver)
{
    g_autofree char *file = virDomainConfigFile(cfg->configDir, vm->def->name);
    g_autofree char *link = virDomainConfigFile(cfg->autostartDir, vm->def->name);
    g_autofree char *once = g_strconcat(link, KUMO_AUTOSTART_ONCE, NULL);

    if (virDomainDefSave(vm->def, driver->xmlopt, cfg->configDir) < 0)
        return -1;
    if (vm->autostart && symlink(file, link) < 0) {
        virReportSystemError(errno, _("cannot create the link %s"), link);
        unlink(file);
        return -1;
    }
    if (kumoCompatAutostartOnce(vm) && symlink(file, once) < 0) {
        virReportSystemError(errno, _("cannot create the link %s"), once);
        unlink(link);
        unlink(file);
        return -1;
    }
    return 0;
}

static int kumoRenameDefinition(virDomainObj *vm, const char *name, unsigned int flags,
                                void *opaque)
{
    kumoDriver *driver = opaque;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autofree char *oldFile = virDomainConfigFile(cfg->configDir, vm->def->name);
    g_autofree char *oldLink = virDomainConfigFile(cfg->autostartDir, vm->def->name);
    g_autofree char *oldOnce = g_strconcat(oldLink, KUMO_AUTOSTART_ONCE, NULL);
    g_autofree char *oldName = vm->def->name;

    virCheckFlags(0, -1);

    vm->def->name = g_strdup(name);
    if (kumoRenameFiles(vm, cfg, driver) < 0) {
        g_free(vm->def->name);
        vm->def->name = g_steal_pointer(&oldName);
        return -1;
    }
    if (unlink(oldLink) < 0 && errno != ENOENT && errno != ENOTDIR)
        VIR_WARN("cannot remove %s: %s", oldLink, g_strerror(errno));
    if (unlink(oldOnce) < 0 && errno != ENOENT && errno != ENOTDIR)
        VIR_WARN("cannot remove %s: %s", oldOnce, g_strerror(errno));
    if (unlink(oldFile) < 0)
        VIR_WARN("cannot remove %s: %s", oldFile, g_strerror(errno));

    virObjectEventStateQueue(driver->events,
                             virDomainEventLifecycleNew(vm->def->id, oldName, vm->def->uuid,
                                                        VIR_DOMAIN_EVENT_UNDEFINED,
                                                        VIR_DOMAIN_EVENT_UNDEFINED_RENAMED));
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_DEFINED, VIR_DOMAIN_EVENT_DEFINED_RENAMED);
    return 0;
}

int kumoDomainRename(virDomainPtr dom, const char *name, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainRenameEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;

    if (strchr(name, '/') || virXMLCheckIllegalChars("name", name, "\n") < 0)
        virReportError(VIR_ERR_XML_ERROR, _("name %s cannot contain '/' or a line's end"), name);
    else if (!vm->persistent)
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("cannot rename a transient domain"));
    else if (vm->hasManagedSave)
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("domain with a managed saved state can't be renamed"));
    else if (virDomainObjGetState(vm, NULL) != VIR_DOMAIN_SHUTOFF)
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("domain has to be shutoff before renaming"));
    else
        ret =
            virDomainObjListRename(driver->domains, vm, name, flags, kumoRenameDefinition, driver);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
