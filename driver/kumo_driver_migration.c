/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Migration's part of the API: the steps that a client or another daemon goes, and its settings. */
#include "driver/kumo_driver.h"

#include "driver/kumo_job.h"
#include "driver/kumo_migration.h"
#include "driver/kumo_migration_peer.h"
#include "driver/kumo_monitor.h"
#include "viraccessapicheck.h"
#include "virclosecallbacks.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_driver_migration");

/* --- Begin --- */

static char *kumoMigrateBegin(virDomainPtr dom, virDomainObj *vm, const kumoMigrationParams *params,
                              kumoMigrationCookies *cookies, unsigned int flags)
{
    char *xml;

    if (kumoJobBegin(vm, VIR_ASYNC_JOB_MIGRATION_OUT, VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
                     flags) < 0)
        return NULL;
    xml = kumoMigrationBegin(vm, params, cookies, flags);
    if (xml && flags & VIR_MIGRATE_CHANGE_PROTECTION) {
        virCloseCallbacksDomainAdd(vm, dom->conn, kumoMigrationAbandon);
        kumoJobRelease(vm);
    } else {
        kumoJobEnd(vm);
    }
    return xml;
}

char *kumoDomainMigrateBegin3Params(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                    char **cookieout, int *cookieoutlen, unsigned int flags)
{
    g_auto(kumoMigrationParams) how = { 0 };
    kumoMigrationCookies cookies = { .out = cookieout, .outLen = cookieoutlen };
    virDomainObj *vm;
    char *xml = NULL;

    virCheckFlags(KUMO_MIGRATION_FLAGS, NULL);

    if (kumoMigrationParamsRead(params, nparams, &how) < 0 || !(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainMigrateBegin3ParamsEnsureACL(dom->conn, vm->def) >= 0)
        xml = kumoMigrateBegin(dom, vm, &how, &cookies, flags);
    virDomainObjEndAPI(&vm);
    return xml;
}

char *kumoDomainMigrateBegin3(virDomainPtr dom, const char *xmlin, char **cookieout,
                              int *cookieoutlen, unsigned long flags, const char *dname,
                              unsigned long resource)
{
    kumoMigrationParams how = { .destXml = xmlin, .destName = dname, .bandwidthMib = resource };
    kumoMigrationCookies cookies = { .out = cookieout, .outLen = cookieoutlen };
    virDomainObj *vm;
    char *xml = NULL;

    virCheckFlags(KUMO_MIGRATION_FLAGS, NULL);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return NULL;
    if (virDomainMigrateBegin3EnsureACL(dom->conn, vm->def) >= 0)
        xml = kumoMigrateBegin(dom, vm, &how, &cookies, (unsigned int)flags);
    virDomainObjEndAPI(&vm);
    return xml;
}

/* --- Prepare --- */

static virDomainDef *kumoMigrateParse(virConnectPtr conn, const char *xml)
{
    kumoDriver *driver = conn->privateData;

    if (!xml) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("no domain XML was passed"));
        return NULL;
    }
    return virDomainDefParseString(xml, driver->xmlopt, NULL, VIR_DOMAIN_DEF_PARSE_INACTIVE);
}

int kumoDomainMigratePrepare3Params(virConnectPtr conn, virTypedParameterPtr params, int nparams,
                                    const char *cookiein, int cookieinlen, char **cookieout,
                                    int *cookieoutlen, char **uri_out, unsigned int flags)
{
    g_auto(kumoMigrationParams) how = { 0 };
    kumoMigrationCookies cookies = { cookiein, cookieinlen, cookieout, cookieoutlen };
    g_autoptr(virDomainDef) def = NULL;

    virCheckFlags(KUMO_MIGRATION_FLAGS, -1);

    if (kumoMigrationParamsRead(params, nparams, &how) < 0 ||
        !(def = kumoMigrateParse(conn, how.destXml)))
        return -1;
    if (virDomainMigratePrepare3ParamsEnsureACL(conn, def) < 0)
        return -1;
    return kumoMigrationPrepare(conn, &def, &how, &cookies, uri_out, flags);
}

int kumoDomainMigratePrepare3(virConnectPtr conn, const char *cookiein, int cookieinlen,
                              char **cookieout, int *cookieoutlen, const char *uri_in,
                              char **uri_out, unsigned long flags, const char *dname,
                              unsigned long resource, const char *dom_xml)
{
    kumoMigrationParams how = { .uri = uri_in, .destName = dname, .bandwidthMib = resource };
    kumoMigrationCookies cookies = { cookiein, cookieinlen, cookieout, cookieoutlen };
    g_autoptr(virDomainDef) def = NULL;

    virCheckFlags(KUMO_MIGRATION_FLAGS, -1);

    if (!(def = kumoMigrateParse(conn, dom_xml)))
        return -1;
    if (virDomainMigratePrepare3EnsureACL(conn, def) < 0)
        return -1;
    return kumoMigrationPrepare(conn, &def, &how, &cookies, uri_out, (unsigned int)flags);
}

int kumoDomainMigratePrepareTunnel3Params(virConnectPtr conn, virStreamPtr stream G_GNUC_UNUSED,
                                          virTypedParameterPtr params, int nparams,
                                          const char *cookiein G_GNUC_UNUSED,
                                          int cookieinlen G_GNUC_UNUSED,
                                          char **cookieout G_GNUC_UNUSED,
                                          int *cookieoutlen G_GNUC_UNUSED, unsigned int flags)
{
    g_auto(kumoMigrationParams) how = { 0 };
    g_autoptr(virDomainDef) def = NULL;

    virCheckFlags(KUMO_MIGRATION_FLAGS, -1);

    if (kumoMigrationParamsRead(params, nparams, &how) < 0 ||
        !(def = kumoMigrateParse(conn, how.destXml)))
        return -1;
    if (virDomainMigratePrepareTunnel3ParamsEnsureACL(conn, def) < 0)
        return -1;
    return kumoMigrationCheckFlags(flags | VIR_MIGRATE_TUNNELLED);
}

/* --- Perform --- */

/* A client that goes from step to step itself. */
static int kumoMigratePerformDirect(virDomainPtr dom, virDomainObj *vm,
                                    const kumoMigrationParams *params,
                                    kumoMigrationCookies *cookies, unsigned int flags)
{
    kumoDriver *driver = dom->conn->privateData;
    int rc;

    if (flags & VIR_MIGRATE_CHANGE_PROTECTION) {
        if (kumoJobResume(vm, VIR_ASYNC_JOB_MIGRATION_OUT) < 0)
            return -1;
    } else if (kumoJobBegin(vm, VIR_ASYNC_JOB_MIGRATION_OUT, VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
                            flags) < 0) {
        return -1;
    }
    rc = virDomainObjCheckActive(vm);
    if (rc == 0)
        rc = kumoMigrationPerform(vm, params, NULL, cookies, flags);
    virCloseCallbacksDomainRemove(vm, dom->conn, kumoMigrationAbandon);
    if (rc == 0) {
        virCloseCallbacksDomainAdd(vm, dom->conn, kumoMigrationAbandon);
        kumoJobRelease(vm);
    } else {
        kumoJobEnd(vm);
        kumoDomainRemoveInactive(driver, vm);
    }
    return rc;
}

static int kumoMigratePerform(virDomainPtr dom, virDomainObj *vm, const char *dconnuri,
                              const kumoMigrationParams *params, kumoMigrationCookies *cookies,
                              unsigned int flags)
{
    if (kumoMigrationCheckFlags(flags) < 0 || kumoMigrationCheckParams(params, flags) < 0)
        return -1;
    if (flags & VIR_MIGRATE_PEER2PEER)
        return kumoMigrationPeer(dom->conn, vm, dconnuri, params, flags);
    if (dconnuri) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s",
                       _("Unexpected dconnuri parameter with non-peer2peer migration"));
        return -1;
    }
    return kumoMigratePerformDirect(dom, vm, params, cookies, flags);
}

int kumoDomainMigratePerform3Params(virDomainPtr dom, const char *dconnuri,
                                    virTypedParameterPtr params, int nparams, const char *cookiein,
                                    int cookieinlen, char **cookieout, int *cookieoutlen,
                                    unsigned int flags)
{
    g_auto(kumoMigrationParams) how = { 0 };
    kumoMigrationCookies cookies = { cookiein, cookieinlen, cookieout, cookieoutlen };
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(KUMO_MIGRATION_FLAGS, -1);

    if (kumoMigrationParamsRead(params, nparams, &how) < 0 || !(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainMigratePerform3ParamsEnsureACL(dom->conn, vm->def) >= 0)
        ret = kumoMigratePerform(dom, vm, dconnuri, &how, &cookies, flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainMigratePerform3(virDomainPtr dom, const char *xmlin, const char *cookiein,
                              int cookieinlen, char **cookieout, int *cookieoutlen,
                              const char *dconnuri, const char *uri, unsigned long flags,
                              const char *dname, unsigned long resource)
{
    kumoMigrationParams how = {
        .destXml = xmlin, .uri = uri, .destName = dname, .bandwidthMib = resource
    };
    kumoMigrationCookies cookies = { cookiein, cookieinlen, cookieout, cookieoutlen };
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(KUMO_MIGRATION_FLAGS, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainMigratePerform3EnsureACL(dom->conn, vm->def) >= 0)
        ret = kumoMigratePerform(dom, vm, dconnuri, &how, &cookies, (unsigned int)flags);
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- Finish --- */

static virDomainObj *kumoMigrateFind(virConnectPtr conn, const char *name)
{
    kumoDriver *driver = conn->privateData;
    virDomainObj *vm;

    if (!name) {
        virReportError(VIR_ERR_INVALID_ARG, "%s", _("no domain name was passed"));
        return NULL;
    }
    if (!(vm = virDomainObjListFindByName(driver->domains, name)))
        virReportError(VIR_ERR_NO_DOMAIN, _("no domain with matching name '%s'"), name);
    return vm;
}

virDomainPtr kumoDomainMigrateFinish3Params(virConnectPtr conn, virTypedParameterPtr params,
                                            int nparams, const char *cookiein, int cookieinlen,
                                            char **cookieout, int *cookieoutlen, unsigned int flags,
                                            int cancelled)
{
    g_auto(kumoMigrationParams) how = { 0 };
    kumoMigrationCookies cookies = { cookiein, cookieinlen, cookieout, cookieoutlen };
    virDomainObj *vm;

    virCheckFlags(KUMO_MIGRATION_FLAGS, NULL);

    if (kumoMigrationParamsRead(params, nparams, &how) < 0 ||
        !(vm = kumoMigrateFind(conn, how.destName)))
        return NULL;
    if (virDomainMigrateFinish3ParamsEnsureACL(conn, vm->def) < 0) {
        virDomainObjEndAPI(&vm);
        return NULL;
    }
    return kumoMigrationFinish(conn, vm, &cookies, flags, cancelled != 0);
}

virDomainPtr kumoDomainMigrateFinish3(virConnectPtr conn, const char *dname, const char *cookiein,
                                      int cookieinlen, char **cookieout, int *cookieoutlen,
                                      const char *dconnuri G_GNUC_UNUSED,
                                      const char *uri G_GNUC_UNUSED, unsigned long flags,
                                      int cancelled)
{
    kumoMigrationCookies cookies = { cookiein, cookieinlen, cookieout, cookieoutlen };
    virDomainObj *vm;

    virCheckFlags(KUMO_MIGRATION_FLAGS, NULL);

    if (!(vm = kumoMigrateFind(conn, dname)))
        return NULL;
    if (virDomainMigrateFinish3EnsureACL(conn, vm->def) < 0) {
        virDomainObjEndAPI(&vm);
        return NULL;
    }
    return kumoMigrationFinish(conn, vm, &cookies, (unsigned int)flags, cancelled != 0);
}

/* --- Confirm --- */

static int kumoMigrateConfirm(virDomainPtr dom, virDomainObj *vm, const char *cookiein,
                              int cookieinlen, unsigned int flags, int cancelled)
{
    kumoDriver *driver = dom->conn->privateData;
    kumoMigrationCookies cookies = { .in = cookiein, .inLen = cookieinlen };
    int rc;

    if (flags & VIR_MIGRATE_OFFLINE && !(flags & VIR_MIGRATE_CHANGE_PROTECTION)) {
        if (kumoJobBegin(vm, VIR_ASYNC_JOB_MIGRATION_OUT, VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT,
                         flags) < 0)
            return -1;
    } else if (kumoJobResume(vm, VIR_ASYNC_JOB_MIGRATION_OUT) < 0) {
        return -1;
    }
    virCloseCallbacksDomainRemove(vm, dom->conn, kumoMigrationAbandon);
    rc = kumoMigrationConfirm(vm, &cookies, flags, cancelled != 0);
    kumoJobEnd(vm);
    kumoDomainRemoveInactive(driver, vm);
    return rc;
}

int kumoDomainMigrateConfirm3Params(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                                    const char *cookiein, int cookieinlen, unsigned int flags,
                                    int cancelled)
{
    g_auto(kumoMigrationParams) how = { 0 };
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(KUMO_MIGRATION_FLAGS, -1);

    if (kumoMigrationParamsRead(params, nparams, &how) < 0 || !(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainMigrateConfirm3ParamsEnsureACL(dom->conn, vm->def) >= 0)
        ret = kumoMigrateConfirm(dom, vm, cookiein, cookieinlen, flags, cancelled);
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainMigrateConfirm3(virDomainPtr dom, const char *cookiein, int cookieinlen,
                              unsigned long flags, int cancelled)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(KUMO_MIGRATION_FLAGS, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainMigrateConfirm3EnsureACL(dom->conn, vm->def) >= 0)
        ret = kumoMigrateConfirm(dom, vm, cookiein, cookieinlen, (unsigned int)flags, cancelled);
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- post-copy --- */

static int kumoMigrateStartPostCopy(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoMonitor *mon;
    int rc;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (vm->job->asyncJob != VIR_ASYNC_JOB_MIGRATION_OUT) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("post-copy can only be started while the domain is being migrated away"));
        return -1;
    }
    if (!(vm->job->apiFlags & VIR_MIGRATE_POSTCOPY)) {
        virReportError(VIR_ERR_OPERATION_INVALID, "%s",
                       _("switching to post-copy needs a migration with the flag "
                         "VIR_MIGRATE_POSTCOPY"));
        return -1;
    }
    priv->postcopyAsked = true;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorStartPostcopy(mon);
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    if (rc < 0)
        priv->postcopyAsked = false;
    return rc;
}

int kumoDomainMigrateStartPostCopy(virDomainPtr dom, unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainMigrateStartPostCopyEnsureACL(dom->conn, vm->def) >= 0 &&
        virDomainObjBeginJob(vm, VIR_JOB_MIGRATION_OP) == 0) {
        ret = kumoMigrateStartPostCopy(vm);
        virDomainObjEndJob(vm);
    }
    virDomainObjEndAPI(&vm);
    return ret;
}

/* --- settings --- */

/*
 * Tells a VMM that sends already; @vm has a job of the kind MIGRATION_OP.
 *
 * Returns: 0, or -1 with the error reported and nothing changed.
 */
static int kumoMigrateUpdate(virDomainObj *vm, const char *what, unsigned long long value)
{
    const kumoDomainObjPrivate *priv = vm->privateData;
    kumoMonitor *mon;
    int rc;

    if (virDomainObjCheckActive(vm) < 0)
        return -1;
    if (vm->job->asyncJob != VIR_ASYNC_JOB_MIGRATION_OUT || priv->stream != KUMO_STREAM_RUNNING)
        return 0;
    mon = kumoDomainObjEnterMonitor(vm);
    rc = kumoMonitorUpdateMigration(mon, json_pack("{s:I}", what, (json_int_t)value));
    if (kumoDomainObjExitMonitor(vm, mon) < 0)
        return -1;
    return rc;
}

/*
 * @what: of vm.update-migration
 * @wire: @value as the VMM takes it
 * @field: of @vm's private data
 *
 * Returns: 0, or -1 with the error reported and nothing changed.
 */
static int kumoMigrateSet(virDomainObj *vm, const char *what, unsigned long long wire,
                          unsigned long long *field, unsigned long long value)
{
    int ret = -1;

    if (virDomainObjBeginJob(vm, VIR_JOB_MIGRATION_OP) < 0)
        return -1;
    if (kumoMigrateUpdate(vm, what, wire) == 0) {
        *field = value;
        kumoDomainSaveStatus(vm);
        ret = 0;
    }
    virDomainObjEndJob(vm);
    return ret;
}

int kumoDomainMigrateSetMaxDowntime(virDomainPtr dom, unsigned long long downtime,
                                    unsigned int flags)
{
    kumoDomainObjPrivate *priv;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainMigrateSetMaxDowntimeEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (downtime == 0 || downtime > G_MAXINT32) {
        virReportError(VIR_ERR_INVALID_ARG,
                       _("the maximum downtime of %llu ms is not between 1 and %d"), downtime,
                       G_MAXINT32);
        goto cleanup;
    }
    ret = kumoMigrateSet(vm, "downtime_ms", downtime, &priv->maxDowntimeMs, downtime);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainMigrateGetMaxDowntime(virDomainPtr dom, unsigned long long *downtime,
                                    unsigned int flags)
{
    const kumoDomainObjPrivate *priv;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(0, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainMigrateGetMaxDowntimeEnsureACL(dom->conn, vm->def) >= 0 &&
        virDomainObjCheckActive(vm) == 0) {
        *downtime = priv->maxDowntimeMs ? priv->maxDowntimeMs : KUMO_MIGRATION_DOWNTIME_MS;
        ret = 0;
    }
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainMigrateSetMaxSpeed(virDomainPtr dom, unsigned long bandwidth, unsigned int flags)
{
    const bool postcopy = flags & VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY;
    kumoDomainObjPrivate *priv;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainMigrateSetMaxSpeedEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (bandwidth > KUMO_MIGRATION_MAX_MIB) {
        virReportError(VIR_ERR_OVERFLOW, _("bandwidth must be less than %llu"),
                       (unsigned long long)KUMO_MIGRATION_MAX_MIB + 1);
        goto cleanup;
    }
    ret = kumoMigrateSet(vm, postcopy ? "max_postcopy_bandwidth" : "max_bandwidth",
                         (unsigned long long)bandwidth << 20,
                         postcopy ? &priv->maxPostcopyMib : &priv->maxBandwidthMib, bandwidth);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}

int kumoDomainMigrateGetMaxSpeed(virDomainPtr dom, unsigned long *bandwidth, unsigned int flags)
{
    const kumoDomainObjPrivate *priv;
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY, -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    priv = vm->privateData;
    if (virDomainMigrateGetMaxSpeedEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (flags & VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY) {
        /* As with QEMU: it is the process's, and 0 stands for no limit. */
        if (virDomainObjCheckActive(vm) == 0) {
            *bandwidth = (unsigned long)priv->maxPostcopyMib;
            ret = 0;
        }
    } else {
        *bandwidth =
            priv->maxBandwidthMib ? (unsigned long)priv->maxBandwidthMib : KUMO_MIGRATION_MAX_MIB;
        ret = 0;
    }

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
