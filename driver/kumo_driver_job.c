/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a client may know of a job, and that it may end it. */
#include "driver/kumo_driver.h"

#include "driver/kumo_job.h"
#include "driver/kumo_job_call.h"
#include "driver/kumo_monitor.h"
#include "viraccessapicheck.h"
#include "virtime.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

/*
 * Returns: 0 with the job that @flags ask for, (transfer full), NULL if there is none; or -1 with
 * the error reported.
 */
static int kumoJobGet(virDomainObj *vm, unsigned int flags, virDomainJobData **ret_job)
{
    virDomainJobObj *job = vm->job;

    if (flags & VIR_DOMAIN_JOB_STATS_COMPLETED) {
        if (job->completed)
            *ret_job = virDomainJobDataCopy(job->completed);
        if (!(flags & VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED))
            g_clear_pointer(&job->completed, virDomainJobDataFree);
        return 0;
    }
    if (job->asyncJob == VIR_ASYNC_JOB_MIGRATION_IN) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("migration statistics are available only on the source host"));
        return -1;
    }
    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (job->asyncJob == VIR_ASYNC_JOB_NONE || !job->current)
        return 0;
    /* The one who has the job lets others ask meanwhile. */
    if (virDomainObjBeginJob(vm, VIR_JOB_QUERY) < 0)
        return -1;
    if (kumoJobRefresh(vm) == 0 && job->current) {
        unsigned long long now;

        *ret_job = virDomainJobDataCopy(job->current);
        if (virTimeMillisNow(&now) == 0 && now > (*ret_job)->started)
            (*ret_job)->timeElapsed = now - (*ret_job)->started;
    }
    virDomainObjEndJob(vm);
    return 0;
}

int kumoDomainGetJobInfo(virDomainPtr dom, virDomainJobInfoPtr info)
{
    g_autoptr(virDomainJobData) job = NULL;
    const kumoJobStats *stats;
    virDomainObj *vm;
    int ret = -1;

    memset(info, 0, sizeof(*info));
    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetJobInfoEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (kumoJobGet(vm, 0, &job) < 0)
        goto cleanup;

    ret = 0;
    info->type = VIR_DOMAIN_JOB_NONE;
    if (!job)
        goto cleanup;
    stats = job->privateData;
    info->type = virDomainJobStatusToType(job->status);
    info->timeElapsed = job->timeElapsed;
    if (stats->bytesPerSecond)
        info->timeRemaining = stats->remainingBytes * 1000 / stats->bytesPerSecond;
    info->dataTotal = info->memTotal = stats->totalBytes;
    info->dataProcessed = info->memProcessed = stats->sentBytes;
    info->dataRemaining = info->memRemaining = stats->remainingBytes;

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainGetJobStats(virDomainPtr dom, int *type, virTypedParameterPtr *params, int *nparams,
                          unsigned int flags)
{
    g_autoptr(virDomainJobData) job = NULL;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_JOB_STATS_COMPLETED | VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetJobStatsEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (kumoJobGet(vm, flags, &job) < 0)
        goto cleanup;

    if (!job) {
        *type = VIR_DOMAIN_JOB_NONE;
        *params = NULL;
        *nparams = 0;
        ret = 0;
    } else {
        *type = virDomainJobStatusToType(job->status);
        ret = kumoJobToParams(job, params, nparams);
    }

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

static int kumoAbortJob(virDomainObj *vm, unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoMonitor *mon;
    int rc;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    switch (vm->job->asyncJob) {
    case VIR_ASYNC_JOB_NONE:
        virReportError(VIR_ERR_OPERATION_INVALID, "%s", _("no job is active on the domain"));
        return -1;
    case VIR_ASYNC_JOB_MIGRATION_IN:
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("cannot abort incoming migration; use virDomainDestroy instead"));
        return -1;
    case VIR_ASYNC_JOB_START:
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("cannot abort VM start; use virDomainDestroy instead"));
        return -1;
    default:
        break;
    }
    if (priv->postcopy != KUMO_POSTCOPY_NONE) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("cannot abort migration in post-copy mode: the guest runs at the "
                         "destination"));
        return -1;
    }
    if (flags & VIR_DOMAIN_ABORT_JOB_POSTCOPY) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("the migration is not in post-copy mode"));
        return -1;
    }
    if (vm->job->asyncJob == VIR_ASYNC_JOB_MIGRATION_OUT && priv->stream == KUMO_STREAM_FINISHED) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("cannot abort the migration any more: the guest is at the destination"));
        return -1;
    }
    vm->job->abortJob = true;
    if (priv->stream != KUMO_STREAM_RUNNING) {
        kumoJobCallWake(vm);
        return 0; /* it is noticed before the stream begins */
    }

    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorCancelMigration(mon);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    /* Too late is not an abort. */
    if (rc < 0 && vm->job->asyncJob != VIR_ASYNC_JOB_NONE)
        vm->job->abortJob = false;
    return rc;
}

int kumoDomainAbortJobFlags(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_ABORT_JOB_POSTCOPY, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainAbortJobFlagsEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_ABORT) < 0)
        goto cleanup;
    ret = kumoAbortJob(vm, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainAbortJob(virDomainPtr dom)
{
    return kumoDomainAbortJobFlags(dom, 0);
}
