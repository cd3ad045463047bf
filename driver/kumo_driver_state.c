/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The driver's own life: start, reload, end. */
#include "driver/kumo_driver.h"

#include <sys/stat.h>
#include <unistd.h>

#include "driver/conf/kumo_capabilities.h"
#include "driver/kumo_lifecycle.h"
#include "driver/kumo_process.h"
#include "driver/kumo_reconnect.h"
#include "driver/kumo_save.h"
#include "viridentity.h"
#include "virfile.h"
#include "virpidfile.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_driver_state");

/* libvirt writes a file beside the one that it then replaces. */
#define KUMO_STATUS_HALF_WRITTEN ".xml.new"

/* Each handles what happened to one domain, and may have to wait for its VMM. */
#define KUMO_MAX_WORKERS 32

kumoDriver *kumoDriverInstance;

static int kumoStateMakeDirectories(const kumoDriver *driver)
{
    const kumoDriverConfig *cfg = driver->config;
    const struct {
        const char *path;
        mode_t mode;
    } dirs[] = {
        { cfg->configDir, 0700 }, { cfg->autostartDir, 0700 }, { cfg->stateDir, 0711 },
        { cfg->libDir, 0751 },    { cfg->logDir, 0700 },       { cfg->cacheDir, 0750 },
        { cfg->saveDir, 0700 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(dirs); i++) {
        if (g_mkdir_with_parents(dirs[i].path, dirs[i].mode) < 0) {
            virReportSystemError(errno, _("cannot create the directory %s"), dirs[i].path);
            return -1;
        }
    }
    return 0;
}

static int kumoStateAddSecurity(virSecurityManager **stack, virSecurityManager *manager)
{
    if (!manager)
        return -1;
    if (!*stack) {
        if (!(*stack = virSecurityManagerNewStack(manager))) {
            virObjectUnref(manager);
            return -1;
        }
        return 0;
    }
    if (virSecurityManagerStackAddNested(*stack, manager) < 0) {
        virObjectUnref(manager);
        return -1;
    }
    return 0;
}

static int kumoStateInitSecurity(kumoDriver *driver)
{
    const kumoDriverConfig *cfg = driver->config;
    char *none[] = { (char *)"none", NULL };
    char **names = cfg->securityDrivers && cfg->securityDrivers[0] ? cfg->securityDrivers : none;
    unsigned int flags = driver->privileged ? VIR_SECURITY_MANAGER_PRIVILEGED : 0;
    /* Without this flag only domains that ask for it in their definition are confined. */
    unsigned int confined = flags | VIR_SECURITY_MANAGER_DEFAULT_CONFINED;

    for (; *names; names++) {
        if (kumoStateAddSecurity(&driver->security,
                                 virSecurityManagerNew(*names, KUMO_DRIVER_NAME,
                                                       STREQ(*names, "none") ? flags : confined)) <
            0)
            return -1;
    }

    /* An embedded driver's VMs run as its client does, with the client's own files. */
    if (!driver->privileged || driver->embeddedRoot)
        return 0;
    if (cfg->dynamicOwnership)
        confined |= VIR_SECURITY_MANAGER_DYNAMIC_OWNERSHIP;
    return kumoStateAddSecurity(
        &driver->security,
        virSecurityManagerNewDAC(KUMO_DRIVER_NAME, cfg->user, cfg->group, confined, NULL));
}

static int kumoStateLoadConfig(kumoDriver *driver, kumoDriverConfig **ret_config)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverConfigNew(driver->privileged, driver->embeddedRoot);
    g_autofree char *path = kumoDriverConfigPath(driver->privileged, driver->embeddedRoot);

    if (!cfg ||
        kumoDriverConfigLoadFile(cfg, path, driver->privileged && !driver->embeddedRoot) < 0)
        return -1;
    *ret_config = g_steal_pointer(&cfg);
    return 0;
}

static int kumoStateFindManagedSave(virDomainObj *vm, void *opaque)
{
    kumoDriver *driver = opaque;
    g_autofree char *path = NULL;

    virObjectLock(vm);
    path = kumoManagedSavePath(driver, vm->def);
    vm->hasManagedSave = virFileExists(path);
    virObjectUnlock(vm);
    return 0;
}

static int kumoStateNoteDirectory(virDomainObj *vm, void *opaque)
{
    GHashTable *used = opaque;
    kumoDomainObjPrivate *priv = vm->privateData;

    virObjectLock(vm);
    if (virDomainObjIsActive(vm) && priv->dir)
        g_hash_table_add(used, g_strdup(priv->dir));
    virObjectUnlock(vm);
    return 0;
}

/* Removes what a daemon left that was killed between making a run's directory and noting the run,
 * or while it wrote a status file. */
static void kumoStateRemoveStaleFiles(kumoDriver *driver)
{
    g_autoptr(GHashTable) used = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_autoptr(GDir) dir = g_dir_open(driver->config->stateDir, 0, NULL);
    const char *name;

    virDomainObjListForEach(driver->domains, false, kumoStateNoteDirectory, used);
    while (dir && (name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(driver->config->stateDir, name, NULL);

        if (STRPREFIX(name, "domain-") && !g_hash_table_contains(used, path) &&
            virFileDeleteTree(path) < 0)
            VIR_WARN("cannot remove %s: %s", path, virGetLastErrorMessage());
        if (g_str_has_suffix(name, KUMO_STATUS_HALF_WRITTEN) && unlink(path) < 0)
            VIR_WARN("cannot remove %s: %s", path, g_strerror(errno));
    }
}

static int kumoStateLoadDomains(kumoDriver *driver)
{
    const kumoDriverConfig *cfg = driver->config;

    /* The running ones first: their definitions are what the VMs have. */
    if (virDomainObjListLoadAllConfigs(driver->domains, cfg->stateDir, NULL, true, driver->xmlopt,
                                       NULL, NULL) < 0 ||
        virDomainObjListLoadAllConfigs(driver->domains, cfg->configDir, cfg->autostartDir, false,
                                       driver->xmlopt, NULL, NULL) < 0)
        return -1;
    virDomainObjListForEach(driver->domains, false, kumoStateFindManagedSave, driver);
    return 0;
}

static int kumoStateAutostartOne(virDomainObj *vm, void *opaque G_GNUC_UNUSED)
{
    virObjectLock(vm);
    virResetLastError();
    if ((vm->autostart || kumoCompatAutostartOnce(vm)) && !virDomainObjIsActive(vm)) {
        if (kumoStartDefined(NULL, vm, 0) < 0)
            VIR_ERROR(_("domain %s could not be started: %s"), vm->def->name,
                      virGetLastErrorMessage());
    }
#if KUMO_LIBVIRT_11_3
    vm->autostartOnce = false;
    if (vm->autostartOnceLink && unlink(vm->autostartOnceLink) < 0 && errno != ENOENT)
        VIR_WARN("cannot remove %s: %s", vm->autostartOnceLink, g_strerror(errno));
    g_clear_pointer(&vm->autostartOnceLink, g_free);
#endif
    virObjectUnlock(vm);
    return 0;
}

static void kumoStateAutostart(kumoDriver *driver)
{
    bool autostart = true;

    if (driver->embeddedRoot)
        return;
    /* The session daemon comes and goes; autostart happens once per boot of the host. */
    if (virDriverShouldAutostart(driver->config->stateDir, &autostart) < 0 || !autostart)
        return;
    virDomainObjListForEach(driver->domains, false, kumoStateAutostartOne, driver);
}

static int kumoStateSetup(kumoDriver *driver)
{
    g_autoptr(virIdentity) identity = virIdentityGetCurrent();

    if (kumoStateLoadConfig(driver, &driver->config) < 0 || kumoStateMakeDirectories(driver) < 0)
        return -1;
    if ((driver->lockFD = kumoCompatPidFileAcquire(driver->config->stateDir, "driver", getpid())) <
        0)
        return -1;
    if (kumoStateInitSecurity(driver) < 0)
        return -1;

    driver->eventHandlers = &kumoLifecycleHandlers;
    if (!(driver->domains = virDomainObjListNew()) ||
        !(driver->events = virObjectEventStateNew()) ||
        !(driver->xmlopt = kumoDomainXMLOptionNew(driver)) ||
        !(driver->migrationPorts = virPortAllocatorRangeNew(
              _("migration"), (unsigned short)driver->config->migrationPortMin,
              (unsigned short)driver->config->migrationPortMax)) ||
        !(driver->workers = virThreadPoolNewFull(0, KUMO_MAX_WORKERS, 0, kumoLifecycleWorker,
                                                 "kumo-worker", identity, driver)))
        return -1;

    g_clear_pointer(&driver->caps, virObjectUnref);
    virObjectUnref(kumoDriverGetCapabilities(driver, true));
    return driver->caps ? 0 : -1;
}

virDrvStateInitResult kumoStateInitialize(bool privileged, const char *root,
                                          bool monolithic G_GNUC_UNUSED,
                                          virStateInhibitCallback callback, void *opaque)
{
    kumoDriver *driver = g_new0(kumoDriver, 1);

    driver->lockFD = -1;
    driver->privileged = privileged;
    driver->embeddedRoot = g_strdup(root);
    driver->inhibit = callback;
    driver->inhibitOpaque = opaque;
    if (virMutexInit(&driver->lock) < 0) {
        g_free(driver->embeddedRoot);
        g_free(driver);
        return VIR_DRV_STATE_INIT_ERROR;
    }
    kumoDriverInstance = driver;

    if (kumoStateSetup(driver) < 0 || kumoStateLoadDomains(driver) < 0) {
        kumoStateCleanup();
        return VIR_DRV_STATE_INIT_ERROR;
    }
    kumoStateRemoveStaleFiles(driver);
    kumoReconnectAll(driver);
    kumoStateAutostart(driver);
    return VIR_DRV_STATE_INIT_COMPLETE;
}

static int kumoStateForgetOne(virDomainObj *vm, void *opaque G_GNUC_UNUSED)
{
    virObjectLock(vm);
    kumoProcessForget(vm);
    virObjectUnlock(vm);
    return 0;
}

int kumoStateCleanup(void)
{
    kumoDriver *driver = kumoDriverInstance;

    if (!driver)
        return -1;

    /* VMs go on; only our ends of the threads to them are closed. */
    if (driver->domains)
        virDomainObjListForEach(driver->domains, false, kumoStateForgetOne, NULL);
    virThreadPoolFree(driver->workers);
    virObjectUnref(driver->domains);
    virObjectUnref(driver->events);
    virObjectUnref(driver->xmlopt);
    virObjectUnref(driver->security);
    virPortAllocatorRangeFree(driver->migrationPorts);
    virObjectUnref(driver->caps);
    if (driver->lockFD >= 0)
        virPidFileRelease(driver->config->stateDir, "driver", driver->lockFD);
    virObjectUnref(driver->config);
    virMutexDestroy(&driver->lock);
    g_free(driver->embeddedRoot);
    g_free(driver);
    kumoDriverInstance = NULL;
    return 0;
}

int kumoStateReload(void)
{
    kumoDriver *driver = kumoDriverInstance;
    g_autoptr(kumoDriverConfig) cfg = NULL;

    if (!driver)
        return 0;
    /* New definitions are taken up; a definition that changed on disk is not, as it may be in use.
     */
    virDomainObjListLoadAllConfigs(driver->domains, driver->config->configDir,
                                   driver->config->autostartDir, false, driver->xmlopt, NULL, NULL);
    if (kumoStateLoadConfig(driver, &cfg) < 0) {
        VIR_ERROR(_("kumo.conf is not taken up: %s"), virGetLastErrorMessage());
        return 0;
    }
    VIR_WITH_MUTEX_LOCK_GUARD(&driver->lock)
    {
        kumoDriverConfig *old = driver->config;

        driver->config = g_steal_pointer(&cfg);
        virObjectUnref(old);
    }
    return 0;
}
