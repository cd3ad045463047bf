/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * I/O threads. Each queue of a disk has a thread of its own in the VMM; an I/O thread is the name
 * under which those of the disks that name it are placed. So one comes and goes with its
 * definition, and what it would share among its disks there is not.
 */
#include "driver/kumo_driver.h"

#include "driver/kumo_cgroup.h"
#include "domain_audit.h"
#include "domain_driver.h"
#include "driver/kumo_pin.h"
#include "driver/kumo_update.h"
#include "viraccessapicheck.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

int kumoDomainGetIOThreadInfo(virDomainPtr dom, virDomainIOThreadInfoPtr **info, unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    virDomainDef *def;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    *info = NULL;
    /* Running, they are where the live definition says. */
    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainGetIOThreadInfoEnsureACL(dom->conn, vm->def) < 0 ||
        !(def = virDomainObjGetOneDef(vm, flags)))
        return -1;
    return virDomainDriverGetIOThreadsConfig(def, info, 0);
}

/* --- where they run --- */

static virDomainIOThreadIDDef *kumoFindIOThread(virDomainDef *def, unsigned int id)
{
    virDomainIOThreadIDDef *thread = virDomainIOThreadIDFind(def, id);

    if (!thread)
        virReportError(VIR_ERR_INVALID_ARG, _("there is no I/O thread %u"), id);
    return thread;
}

/* @cpus: NULL: no place of its own */
static void kumoSetIOThreadMask(virDomainIOThreadIDDef *thread, virBitmap *cpus)
{
    virBitmapFree(thread->cpumask);
    thread->cpumask = cpus ? virBitmapNewCopy(cpus) : NULL;
    thread->autofill = false; /* it has to be told of */
}

static int kumoPinIOThreadLive(virDomainObj *vm, unsigned int id, virBitmap *cpus)
{
    g_autofree char *what = g_strdup_printf(VIR_DOMAIN_TUNABLE_CPU_IOTHREADSPIN, id);
    virDomainIOThreadIDDef *thread = kumoFindIOThread(vm->def, id);
    g_autoptr(virBitmap) before = NULL;
    virErrorPtr saved = NULL;

    if (!thread)
        return -1;
    if (thread->cpumask)
        before = virBitmapNewCopy(thread->cpumask);
    kumoSetIOThreadMask(thread, cpus);
    if (kumoPinIOThreads(vm, id) == 0) {
        kumoPinTell(vm, what, cpus);
        return 0;
    }

    /* Some disks may have been told. */
    virErrorPreserveLast(&saved);
    if (virDomainObjIsActive(vm) && (thread = virDomainIOThreadIDFind(vm->def, id))) {
        kumoSetIOThreadMask(thread, before);
        ignore_value(kumoPinIOThreads(vm, id));
    }
    virErrorRestore(&saved);
    return -1;
}

static int kumoPinIOThread(kumoUpdate *update, unsigned int id, virBitmap *cpus)
{
    virDomainIOThreadIDDef *thread;

    if (update->config) {
        if (!(thread = kumoFindIOThread(update->config, id)))
            return -1;
        kumoSetIOThreadMask(thread, cpus);
    }
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (update->live && kumoPinIOThreadLive(update->vm, id, cpus) < 0)
        return -1;
    return kumoUpdateFinish(update);
}

int kumoDomainPinIOThread(virDomainPtr dom, unsigned int id, unsigned char *cpumap, int maplen,
                          unsigned int flags)
{
    g_autoptr(virBitmap) cpus = NULL;
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainPinIOThreadEnsureACL(dom->conn, vm->def, flags) < 0)
        return -1;
    if (!(cpus = kumoPinReadCpus(cpumap, maplen)) || kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoPinIOThread(&update, id, cpus);
}

/* --- which there are --- */

static int kumoAddIOThread(virDomainDef *def, unsigned int id)
{
    return virDomainDriverAddIOThreadCheck(def, id) < 0 || !virDomainIOThreadIDAdd(def, id) ? -1
                                                                                            : 0;
}

/* One that a disk names is refused. */
static int kumoDelIOThread(virDomainDef *def, unsigned int id)
{
    if (virDomainDriverDelIOThreadCheck(def, id) < 0)
        return -1;
    virDomainIOThreadIDDel(def, id);
    return 0;
}

static int kumoChangeIOThreads(kumoUpdate *update, unsigned int id,
                               int (*change)(virDomainDef *def, unsigned int id))
{
    virDomainDef *live = update->live;

    if (update->config && change(update->config, id) < 0)
        return -1;
    if (kumoUpdateSettle(update) < 0)
        return -1;
    if (live) {
        unsigned int before = (unsigned int)live->niothreadids;
        virErrorPtr saved = NULL;

        if (change(live, id) < 0)
            return -1;
        if (live->niothreadids < before) {
            kumoCgroupForgetIOThread(update->vm, id);
        } else if (kumoCgroupPlaceIOThreads(update->vm) < 0) {
            virErrorPreserveLast(&saved);
            virDomainIOThreadIDDel(live, id);
            kumoCgroupForgetIOThread(update->vm, id);
            virErrorRestore(&saved);
            return -1;
        }
        virDomainAuditIOThread(update->vm, before, (unsigned int)live->niothreadids, "update",
                               true);
    }
    return kumoUpdateFinish(update);
}

static int kumoDomainChangeIOThreads(virDomainPtr dom, unsigned int id,
                                     int (*ensureACL)(virConnectPtr conn, virDomainDef *def,
                                                      unsigned int flags),
                                     int (*change)(virDomainDef *def, unsigned int id),
                                     unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    if (id == 0) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("there is no I/O thread 0"));
        return -1;
    }
    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (ensureACL(dom->conn, vm->def, flags) < 0 || kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoChangeIOThreads(&update, id, change);
}

int kumoDomainAddIOThread(virDomainPtr dom, unsigned int id, unsigned int flags)
{
    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    return kumoDomainChangeIOThreads(dom, id, virDomainAddIOThreadEnsureACL, kumoAddIOThread,
                                     flags);
}

int kumoDomainDelIOThread(virDomainPtr dom, unsigned int id, unsigned int flags)
{
    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    return kumoDomainChangeIOThreads(dom, id, virDomainDelIOThreadEnsureACL, kumoDelIOThread,
                                     flags);
}

/* --- what they are like --- */

/* The VMM's threads poll for as long as it pays, and have no pools. */
static int kumoRefuseIOThreadParams(virDomainObj *vm, unsigned int id,
                                    const virTypedParameter *params, unsigned int flags)
{
    virDomainDef *live;
    virDomainDef *persistent;
    bool polls = STRPREFIX(params[0].field, "poll");

    if (virDomainObjGetDefs(vm, flags, &live, &persistent) < 0 ||
        (persistent && !kumoFindIOThread(persistent, id)) || (live && !kumoFindIOThread(live, id)))
        return -1;
    virReportError(persistent && polls ? VIR_ERR_OPERATION_UNSUPPORTED : VIR_ERR_CONFIG_UNSUPPORTED,
                   _("the parameter '%s' of I/O threads is not supported by kumo"),
                   params[0].field);
    return -1;
}

int kumoDomainSetIOThreadParams(virDomainPtr dom, unsigned int id, virTypedParameterPtr params,
                                int nparams, unsigned int flags)
{
    virDomainObj *vm;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);
    if (id == 0) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("there is no I/O thread 0"));
        return -1;
    }

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainSetIOThreadParamsEnsureACL(dom->conn, vm->def, flags) >= 0 &&
        virTypedParamsValidate(
            params, nparams, VIR_DOMAIN_IOTHREAD_POLL_MAX_NS, VIR_TYPED_PARAM_ULLONG,
            VIR_DOMAIN_IOTHREAD_POLL_GROW, VIR_TYPED_PARAM_UINT, VIR_DOMAIN_IOTHREAD_POLL_SHRINK,
            VIR_TYPED_PARAM_UINT, VIR_DOMAIN_IOTHREAD_THREAD_POOL_MIN, VIR_TYPED_PARAM_INT,
            VIR_DOMAIN_IOTHREAD_THREAD_POOL_MAX, VIR_TYPED_PARAM_INT, NULL) == 0)
        ignore_value(kumoRefuseIOThreadParams(vm, id, params, flags));
    virDomainObjEndAPI(&vm);
    return -1;
}
