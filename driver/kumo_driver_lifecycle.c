/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Start, stop and what lies between. */
#include "driver/kumo_driver.h"

#include "driver/kumo_job.h"
#include "driver/kumo_lifecycle.h"
#include "driver/kumo_log.h"
#include "driver/kumo_monitor.h"
#include "driver/kumo_process.h"
#include "driver/kumo_run.h"
#include "driver/kumo_save.h"
#include "viraccessapicheck.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_driver_lifecycle");

static unsigned int kumoStartFlagsFromAPI(unsigned int flags)
{
    return (flags & VIR_DOMAIN_START_PAUSED ? KUMO_START_PAUSED : 0) |
           (flags & VIR_DOMAIN_START_AUTODESTROY ? KUMO_START_AUTODESTROY : 0);
}

virDomainPtr kumoDomainCreateXML(virConnectPtr conn, const char *xml, unsigned int flags)
{
    kumoDriver *driver = conn->privateData;
    g_autoptr(virDomainDef) def = NULL;
    unsigned int parse = VIR_DOMAIN_DEF_PARSE_INACTIVE | VIR_DOMAIN_DEF_PARSE_ABI_UPDATE;
    virDomainObj *vm;
    virDomainPtr dom = NULL;

    /* There is no file of variables that VIR_DOMAIN_START_RESET_NVRAM could take from the template:
     * the firmware begins with its own each time. */
    virCheckFlags(VIR_DOMAIN_START_PAUSED | VIR_DOMAIN_START_AUTODESTROY |
                      VIR_DOMAIN_START_VALIDATE | VIR_DOMAIN_START_RESET_NVRAM,
                  NULL);

    if (flags & VIR_DOMAIN_START_VALIDATE)
        parse |= VIR_DOMAIN_DEF_PARSE_VALIDATE_SCHEMA;

    if (!(def = virDomainDefParseString(xml, driver->xmlopt, NULL, parse)))
        return NULL;
    if (virXMLCheckIllegalChars("name", def->name, "\n") < 0)
        return NULL;
    if (virDomainCreateXMLEnsureACL(conn, def) < 0)
        return NULL;
    if (!(vm = virDomainObjListAdd(
              driver->domains, &def, driver->xmlopt,
              VIR_DOMAIN_OBJ_LIST_ADD_LIVE | VIR_DOMAIN_OBJ_LIST_ADD_CHECK_LIVE, NULL)))
        return NULL;

    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0) {
        kumoDomainRemoveInactive(driver, vm);
        goto cleanup;
    }
    if (kumoRunStart(conn, vm, VIR_DOMAIN_RUNNING_BOOTED, VIR_DOMAIN_EVENT_STARTED_BOOTED,
                     kumoStartFlagsFromAPI(flags)) == 0)
        dom = virGetDomain(conn, vm->def->name, vm->def->uuid, vm->def->id);
    virDomainObjEndJob(vm);
    if (!dom)
        kumoDomainRemoveInactive(driver, vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return dom;
}

int kumoStartDefined(virConnectPtr conn, virDomainObj *vm, unsigned int flags)
{
    unsigned int start = kumoStartFlagsFromAPI(flags);
    int rc;

    if (kumoJobBegin(vm, VIR_ASYNC_JOB_START, VIR_DOMAIN_JOB_OPERATION_START, flags) < 0)
        return -1;
    if (virDomainObjIsActive(vm)) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("domain is already running"));
        rc = -1;
    } else if (flags & VIR_DOMAIN_START_FORCE_BOOT) {
        rc = kumoManagedSaveRemove(vm);
    } else {
        vm->job->current->operation = VIR_DOMAIN_JOB_OPERATION_RESTORE;
        rc = kumoManagedSaveStart(
            conn, vm, start,
            flags & VIR_DOMAIN_START_BYPASS_CACHE ? VIR_DOMAIN_SAVE_BYPASS_CACHE : 0);
    }
    if (rc == 0) {
        vm->job->current->operation = VIR_DOMAIN_JOB_OPERATION_START;
        rc = kumoRunStart(conn, vm, VIR_DOMAIN_RUNNING_BOOTED, VIR_DOMAIN_EVENT_STARTED_BOOTED,
                          start);
    }
    kumoJobEnd(vm);
    return rc < 0 ? -1 : 0;
}

int kumoDomainCreateWithFlags(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_START_PAUSED | VIR_DOMAIN_START_AUTODESTROY |
                      VIR_DOMAIN_START_BYPASS_CACHE | VIR_DOMAIN_START_FORCE_BOOT |
                      VIR_DOMAIN_START_RESET_NVRAM,
                  -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainCreateWithFlagsEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (kumoStartDefined(dom->conn, vm, flags) == 0) {
        dom->id = vm->def->id;
        ret = 0;
    }

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainCreate(virDomainPtr dom)
{
    return kumoDomainCreateWithFlags(dom, 0);
}

/* Presses the guest's power button. */
static int kumoPressPowerButton(virDomainObj *vm, bool reboot)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoMonitor *mon;
    int rc;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (virDomainObjGetState(vm, NULL) != VIR_DOMAIN_RUNNING) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("domain is not running"));
        return -1;
    }

    priv->rebootPending = reboot;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorPowerButton(mon);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (rc < 0)
        priv->rebootPending = false;
    kumoDomainSaveStatus(vm);
    return rc;
}

int kumoDomainShutdownFlags(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN | VIR_DOMAIN_SHUTDOWN_GUEST_AGENT, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainShutdownFlagsEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (flags == VIR_DOMAIN_SHUTDOWN_GUEST_AGENT) {
        ignore_value(kumoReportNoAgent(vm));
        goto cleanup;
    }
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    ret = kumoPressPowerButton(vm, false);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainShutdown(virDomainPtr dom)
{
    return kumoDomainShutdownFlags(dom, 0);
}

int kumoDomainReboot(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_REBOOT_ACPI_POWER_BTN | VIR_DOMAIN_REBOOT_GUEST_AGENT, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainRebootEnsureACL(dom->conn, vm->def, flags) < 0)
        goto cleanup;
    if (flags == VIR_DOMAIN_REBOOT_GUEST_AGENT) {
        ignore_value(kumoReportNoAgent(vm));
        goto cleanup;
    }
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    /* The guest powers off in order; then it is started again, in the same process. */
    ret = kumoPressPowerButton(vm, vm->def->onReboot != VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainReset(virDomainPtr dom, unsigned int flags)
{
    kumoMonitor *mon;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainResetEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto endjob;

    mon = kumoDomainObjEnterMonitor(vm);
    ret = kumoMonitorReboot(mon);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        ret = -1;
    /* The VMM starts a paused guest again as a running one. */
    if (ret == 0) {
        kumoLifecycleResumed(vm, VIR_DOMAIN_RUNNING_BOOTED);
        ret = kumoRunRefreshConsoles(vm);
        kumoDomainSaveStatus(vm);
    }

endjob:
    virDomainObjEndJob(vm);
cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainDestroyFlags(virDomainPtr dom, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    kumoDomainObjPrivate *priv;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_DESTROY_GRACEFUL | VIR_DOMAIN_DESTROY_REMOVE_LOGS, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainDestroyFlagsEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto cleanup;

    /* First the process, then the job: who holds the job may be waiting for the process's answer.
     */
    priv->beingDestroyed = true;
    if (kumoProcessKill(vm, !(flags & VIR_DOMAIN_DESTROY_GRACEFUL)) < 0) {
        priv->beingDestroyed = false;
        virReportError(VIR_ERR_OPERATION_FAILED, "%s",
                       _("the VMM did not end in time after SIGTERM"));
        goto cleanup;
    }
    if (virDomainObjBeginJob(vm, VIR_JOB_DESTROY) < 0) {
        priv->beingDestroyed = false;
        /* Who waited for the process has taken the domain off the list already. */
        if (vm->removing && !virDomainObjIsActive(vm)) {
            virResetLastError();
            ret = 0;
        }
        goto cleanup;
    }
    if (virDomainObjIsActive(vm)) {
        kumoRunStop(vm, VIR_DOMAIN_SHUTOFF_DESTROYED);
        if (flags & VIR_DOMAIN_DESTROY_REMOVE_LOGS)
            kumoLogRemove(vm);
        kumoDomainQueueEvent(vm, VIR_DOMAIN_EVENT_STOPPED, VIR_DOMAIN_EVENT_STOPPED_DESTROYED);
        if (vm->job->asyncJob != VIR_ASYNC_JOB_NONE && vm->job->asyncOwner == 0)
            kumoJobEnd(vm);
    }
    priv->beingDestroyed = false;
    ret = 0;
    virDomainObjEndJob(vm);
    kumoDomainRemoveInactive(driver, vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainDestroy(virDomainPtr dom)
{
    return kumoDomainDestroyFlags(dom, 0);
}

int kumoDomainSuspend(virDomainPtr dom)
{
    virDomainObj *vm;
    int ret = -1;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSuspendEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_SUSPEND) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto endjob;
    if (virDomainObjGetState(vm, NULL) == VIR_DOMAIN_PAUSED) {
        ret = 0;
        goto endjob;
    }

    ret = vm->job->asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT ? kumoJobStopGuest(vm) : 1;
    if (ret > 0)
        ret = kumoLifecyclePause(vm, VIR_DOMAIN_PAUSED_USER);

endjob:
    virDomainObjEndJob(vm);
cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainResume(virDomainPtr dom)
{
    kumoDomainObjPrivate *priv;
    virDomainObj *vm;
    int ret = -1;

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainResumeEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_MODIFY) < 0)
        goto cleanup;
    if (virDomainObjCheckActive(vm) < 0)
        goto endjob;
    if (virDomainObjGetState(vm, NULL) == VIR_DOMAIN_RUNNING) {
        ret = 0;
        goto endjob;
    }
    if (virDomainObjGetState(vm, NULL) != VIR_DOMAIN_PAUSED) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("domain is not paused"));
        goto endjob;
    }

    if (!priv->bootPending) {
        ret = kumoLifecycleResume(vm, VIR_DOMAIN_RUNNING_UNPAUSED);
    } else if ((ret = kumoRunBoot(vm)) == 0) {
        priv->bootPending = false;
        kumoLifecycleResumed(vm, VIR_DOMAIN_RUNNING_UNPAUSED);
    }

endjob:
    virDomainObjEndJob(vm);
cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
