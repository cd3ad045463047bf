/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Definitions: what a domain is, running or not. */
#include "driver/kumo_driver.h"

#include <sys/stat.h>
#include <unistd.h>

#include "driver/conf/kumo_capabilities.h"
#include "driver/conf/kumo_cpu.h"
#include "driver/kumo_save.h"
#include "driver/kumo_update.h"
#include "viraccessapicheck.h"
#include "virfile.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

virDomainPtr kumoDomainDefineXMLFlags(virConnectPtr conn, const char *xml, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    g_autoptr(virDomainDef) def = NULL;
    g_autoptr(virDomainDef) old = NULL;
    unsigned int parse = VIR_DOMAIN_DEF_PARSE_INACTIVE | VIR_DOMAIN_DEF_PARSE_ABI_UPDATE;
    virDomainObj *vm;
    virDomainPtr dom = NULL;

    virCheckFlags(VIR_DOMAIN_DEFINE_VALIDATE, NULL);

    if (flags & VIR_DOMAIN_DEFINE_VALIDATE)
        parse |= VIR_DOMAIN_DEF_PARSE_VALIDATE_SCHEMA;

    if (!(def = virDomainDefParseString(xml, driver->xmlopt, NULL, parse)))
        return NULL;
    if (virXMLCheckIllegalChars("name", def->name, "\n") < 0)
        return NULL;
    if (virDomainDefineXMLFlagsEnsureACL(conn, def) < 0)
        return NULL;
    if (!(vm = virDomainObjListAdd(driver->domains, &def, driver->xmlopt, 0, &old)))
        return NULL;

    if (virDomainDefSave(vm->newDef ? vm->newDef : vm->def, driver->xmlopt, cfg->configDir) < 0) {
        /* As it was before: with the old definition, or without the domain. */
        if (old) {
            if (virDomainObjIsActive(vm)) {
                virDomainDefFree(vm->newDef);
                vm->newDef = g_steal_pointer(&old);
            } else {
                virDomainDefFree(vm->def);
                vm->def = g_steal_pointer(&old);
            }
        } else {
            kumoDomainRemoveInactive(driver, vm);
        }
        virDomainObjEndAPI(&vm);
        return NULL;
    }

    vm->persistent = 1;
    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_DEFINED,
                         old ? VIR_DOMAIN_EVENT_DEFINED_UPDATED : VIR_DOMAIN_EVENT_DEFINED_ADDED);
    dom = virGetDomain(conn, vm->def->name, vm->def->uuid, vm->def->id);
    virDomainObjEndAPI(&vm);
    return dom;
}

virDomainPtr kumoDomainDefineXML(virConnectPtr conn, const char *xml)
{
    return kumoDomainDefineXMLFlags(conn, xml, 0);
}

int kumoDomainUndefineFlags(virDomainPtr dom, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    virDomainObj *vm;
    int ret = -1;

    /* Of the other kinds there is nothing yet, so there is nothing to keep or to remove. */
    virCheckFlags(VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
                      VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | VIR_DOMAIN_UNDEFINE_NVRAM |
                      VIR_DOMAIN_UNDEFINE_KEEP_NVRAM | VIR_DOMAIN_UNDEFINE_TPM |
                      VIR_DOMAIN_UNDEFINE_KEEP_TPM,
                  -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainUndefineFlagsEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;

    if (!vm->persistent) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("a transient domain has no definition"));
        goto endjob;
    }
    if (vm->hasManagedSave) {
        if (!(flags & VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)) {
            virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                           _("Refusing to undefine while domain managed save image exists"));
            goto endjob;
        }
        if (kumoManagedSaveRemove(vm) < 0)
            goto endjob;
    }
    if (virDomainDeleteConfig(cfg->configDir, cfg->autostartDir, vm) < 0)
        goto endjob;

    kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_UNDEFINED, VIR_DOMAIN_EVENT_UNDEFINED_REMOVED);
    /* A running domain goes on as a transient one. */
    vm->persistent = 0;
    ret = 0;

endjob:
    virDomainObjEndJob(vm);
    if (ret == 0)
        kumoDomainRemoveInactive(driver, vm);
cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainUndefine(virDomainPtr dom)
{
    return kumoDomainUndefineFlags(dom, 0);
}

/* Returns: (transfer full): @def with the CPU that it would have if it were started now. */
static virDomainDef *kumoWithCpu(kumoDriver *driver, virDomainDef *def)
{
    g_autoptr(virCaps) caps = kumoDriverGetCapabilities(driver, false);
    g_autoptr(virDomainDef) copy = virDomainDefCopy(def, driver->xmlopt, NULL, false);

    if (!caps || !copy || kumoCpuResolve(copy, caps->host.cpu, true) < 0)
        return NULL;
    return g_steal_pointer(&copy);
}

char *kumoDomainGetXMLDesc(virDomainPtr dom, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    g_autoptr(virDomainDef) updated = NULL;
    virDomainObj *vm;
    virDomainDef *def;
    char *ret = NULL;

    virCheckFlags(VIR_DOMAIN_XML_COMMON_FLAGS | VIR_DOMAIN_XML_UPDATE_CPU, NULL);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainGetXMLDescEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;

    def = (flags & VIR_DOMAIN_XML_INACTIVE) && vm->newDef ? vm->newDef : vm->def;
    /* A running domain's is what it has. */
    if ((flags & VIR_DOMAIN_XML_UPDATE_CPU) &&
        (!virDomainObjIsActive(vm) || (flags & VIR_DOMAIN_XML_INACTIVE))) {
        if (!(updated = kumoWithCpu(driver, def)))
            goto cleanup;
        def = updated;
    }
    ret = virDomainDefFormat(def, driver->xmlopt, virDomainDefFormatConvertXMLFlags(flags));

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetAutostart(virDomainPtr dom, int *autostart)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int ret = -1;

    if (!vm)
        return -1;
    if (virDomainGetAutostartEnsureACL(dom->conn, vm->def) >= 0) {
        *autostart = vm->autostart;
        ret = 0;
    }
    virDomainObjEndAPI(&vm);
    return ret;
}

/* @suffix: of the link's name */
static int kumoSetAutostartLink(virDomainObj *vm, const kumoDriverConfig *cfg, const char *suffix,
                                bool autostart)
{
    g_autofree char *file = virDomainConfigFile(cfg->configDir, vm->def->name);
    g_autofree char *always = virDomainConfigFile(cfg->autostartDir, vm->def->name);
    g_autofree char *link = g_strconcat(always, suffix, NULL);

    if (!autostart) {
        if (unlink(link) < 0 && errno != ENOENT && errno != ENOTDIR) {
            virReportSystemError(errno, _("cannot remove the link %s"), link);
            return -1;
        }
        return 0;
    }
    if (g_mkdir_with_parents(cfg->autostartDir, 0700) < 0) {
        virReportSystemError(errno, _("cannot create the directory %s"), cfg->autostartDir);
        return -1;
    }
    if (symlink(file, link) < 0 && errno != EEXIST) {
        virReportSystemError(errno, _("cannot create the link %s"), link);
        return -1;
    }
    return 0;
}

static int kumoChangeAutostart(kumoDriver *driver, virDomainObj *vm, const char *suffix,
                               bool autostart)
{
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    int rc;

    if (!vm->persistent) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("a transient domain cannot start by itself"));
        return -1;
    }
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        return -1;
    rc = kumoSetAutostartLink(vm, cfg, suffix, autostart);
    virDomainObjEndJob(vm);
    return rc;
}

int kumoDomainSetAutostart(virDomainPtr dom, int autostart)
{
    virDomainObj *vm;
    int ret = -1;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetAutostartEnsureACL(dom->conn, vm->def) >= 0 &&
        kumoChangeAutostart(dom->conn->privateData, vm, "", autostart != 0) == 0) {
        vm->autostart = autostart != 0;
        ret = 0;
    }
    virDomainObjEndAPI(&vm);
    return ret;
}

#if KUMO_LIBVIRT_11_3
int kumoDomainGetAutostartOnce(virDomainPtr dom, int *autostart)
{
    virDomainObj *vm = kumoDomainObjFromDomain(dom);
    int ret = -1;

    if (!vm)
        return -1;
    if (virDomainGetAutostartOnceEnsureACL(dom->conn, vm->def) >= 0) {
        *autostart = vm->autostartOnce;
        ret = 0;
    }
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainSetAutostartOnce(virDomainPtr dom, int autostart)
{
    virDomainObj *vm;
    int ret = -1;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetAutostartOnceEnsureACL(dom->conn, vm->def) >= 0 &&
        kumoChangeAutostart(dom->conn->privateData, vm, KUMO_AUTOSTART_ONCE, autostart != 0) == 0) {
        vm->autostartOnce = autostart != 0;
        ret = 0;
    }
    virDomainObjEndAPI(&vm);
    return ret;
}
#endif

static void kumoDefineLifecycleAction(virDomainDef *def, virDomainLifecycle type,
                                      virDomainLifecycleAction action)
{
    switch (type) {
    case VIR_DOMAIN_LIFECYCLE_POWEROFF:
        def->onPoweroff = action;
        break;
    case VIR_DOMAIN_LIFECYCLE_REBOOT:
        def->onReboot = action;
        break;
    case VIR_DOMAIN_LIFECYCLE_CRASH:
    default:
        def->onCrash = action;
        break;
    }
}

static int kumoSetLifecycleAction(kumoUpdate *update, virDomainLifecycle type,
                                  virDomainLifecycleAction action)
{
    if (action != VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY &&
        action != VIR_DOMAIN_LIFECYCLE_ACTION_RESTART) {
        virReportError(VIR_ERR_CONFIG_UNSUPPORTED,
                       _("the action '%s' is not supported, only 'destroy' and 'restart' are"),
                       virDomainLifecycleActionTypeToString(action));
        return -1;
    }
    if (update->config)
        kumoDefineLifecycleAction(update->config, type, action);
    if (update->live)
        kumoDefineLifecycleAction(update->live, type, action);
    return kumoUpdateFinish(update);
}

int kumoDomainSetLifecycleAction(virDomainPtr dom, unsigned int type, unsigned int action,
                                 unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!virDomainDefLifecycleActionAllowed(type, action))
        return -1;
    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetLifecycleActionEnsureACL(dom->conn, vm->def) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetLifecycleAction(&update, type, action);
}

int kumoDomainSetMetadata(virDomainPtr dom, int type, const char *metadata, const char *key,
                          const char *uri, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetMetadataEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;

    ret = virDomainObjSetMetadata(vm, type, metadata, key, uri, driver->xmlopt, cfg->stateDir,
                                  cfg->configDir, flags);
    if (ret == 0)
        virObjectEventStateQueue(driver->events,
                                 virDomainEventMetadataChangeNewFromObj(vm, type, uri));
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

char *kumoDomainGetMetadata(virDomainPtr dom, int type, const char *uri, unsigned int flags)
{
    virDomainObj *vm;
    char *ret = NULL;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, NULL);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainGetMetadataEnsureACL(dom->conn, vm->def) >= 0)
        ret = virDomainObjGetMetadata(vm, type, uri, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}
