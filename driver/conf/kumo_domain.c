/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/conf/kumo_domain.h"

#include <unistd.h>

#include "datatypes.h"
#include "driver/conf/kumo_address.h"
#include "driver/conf/kumo_namespace.h"
#include "driver/conf/kumo_postparse.h"
#include "driver/conf/kumo_validate.h"
#include "viralloc.h"
#include "virclosecallbacks.h"
#include "virfile.h"
#include "viruuid.h"
#include "virxml.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_domain");

VIR_ENUM_IMPL(kumoMigrationPhase, KUMO_PHASE_LAST, "none", "begin", "perform", "postcopy",
              "perform-done", "confirm", "prepare", "finish", );

VIR_ENUM_DECL(kumoAsyncJob);
VIR_ENUM_IMPL(kumoAsyncJob, VIR_ASYNC_JOB_LAST, "none", "migration-out", "migration-in", "save",
              "dump", "snapshot", "start", "backup", );

static void *kumoDomainObjPrivateAlloc(void *opaque)
{
    g_autofree kumoDomainObjPrivate *priv = g_new0(kumoDomainObjPrivate, 1);

    priv->driver = opaque;
    priv->pidfd = -1;
    if (!(priv->chrdevs = virChrdevAlloc()))
        return NULL;
    return g_steal_pointer(&priv);
}

static void kumoDomainObjPrivateFree(void *opaque)
{
    kumoDomainObjPrivate *priv = opaque;

    virChrdevFree(priv->chrdevs);
    VIR_FORCE_CLOSE(priv->pidfd);
    virCgroupFree(priv->cgroup);
    virPerfFree(priv->perf);
    g_free(priv->dir);
    g_free(priv->memoryDir);
    g_free(priv->logPath);
    g_free(priv->unplugAlias);
    g_free(priv->streamError);
    g_free(priv->persistentXml);
    g_free(priv);
}

/* What a daemon that comes later has to bring to an end. */
static void kumoDomainFormatJob(virBuffer *buf, const virDomainObj *vm)
{
    const kumoDomainObjPrivate *priv = vm->privateData;
    const virDomainJobObj *job = vm->job;

    if (job->asyncJob != VIR_ASYNC_JOB_NONE)
        virBufferAsprintf(buf, "<kumoJob type='%s' phase='%s' flags='%u'/>\n",
                          kumoAsyncJobTypeToString(job->asyncJob),
                          kumoMigrationPhaseTypeToString(job->phase), job->apiFlags);
    if (priv->migrationPort)
        virBufferAsprintf(buf, "<kumoMigrationPort number='%u'/>\n", priv->migrationPort);
    virBufferEscapeString(buf, "<kumoPersistent>%s</kumoPersistent>\n", priv->persistentXml);
    if (priv->maxDowntimeMs || priv->maxBandwidthMib || priv->maxPostcopyMib)
        virBufferAsprintf(buf,
                          "<kumoMigration downtime='%llu' bandwidth='%llu' postcopy='%llu'/>\n",
                          priv->maxDowntimeMs, priv->maxBandwidthMib, priv->maxPostcopyMib);
}

static int kumoDomainParseJob(xmlXPathContextPtr ctxt, virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autofree char *type = virXPathString("string(./kumoJob/@type)", ctxt);
    g_autofree char *phase = virXPathString("string(./kumoJob/@phase)", ctxt);
    unsigned int port = 0;
    int asyncJob = type ? kumoAsyncJobTypeFromString(type) : VIR_ASYNC_JOB_NONE;
    int number = phase ? kumoMigrationPhaseTypeFromString(phase) : KUMO_PHASE_NONE;

    if (asyncJob < 0 || number < 0 ||
        virXPathUInt("string(./kumoJob/@flags)", ctxt, &vm->job->apiFlags) == -2 ||
        virXPathUInt("string(./kumoMigrationPort/@number)", ctxt, &port) == -2 ||
        port > G_MAXUINT16 ||
        virXPathULongLong("string(./kumoMigration/@downtime)", ctxt, &priv->maxDowntimeMs) == -2 ||
        virXPathULongLong("string(./kumoMigration/@bandwidth)", ctxt, &priv->maxBandwidthMib) ==
            -2 ||
        virXPathULongLong("string(./kumoMigration/@postcopy)", ctxt, &priv->maxPostcopyMib) == -2) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("status XML with a wrong job"));
        return -1;
    }
    vm->job->asyncJob = asyncJob;
    vm->job->phase = number;
    priv->migrationPort = (unsigned short)port;
    priv->persistentXml = virXPathString("string(./kumoPersistent)", ctxt);
    return 0;
}

static int kumoDomainObjPrivateFormat(virBuffer *buf, virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    virBufferEscapeString(buf, "<kumoDirectory path='%s'/>\n", priv->dir);
    virBufferEscapeString(buf, "<kumoMemoryDirectory path='%s'/>\n", priv->memoryDir);
    virBufferAsprintf(buf, "<kumoProcess startTime='%llu'/>\n", priv->startTime);
    if (priv->unclaimed)
        virBufferAddLit(buf, "<kumoUnclaimed/>\n");
    if (priv->labelled)
        virBufferAddLit(buf, "<kumoLabelled/>\n");
    if (priv->migratedAway)
        virBufferAddLit(buf, "<kumoMigratedAway/>\n");
    if (priv->bootPending)
        virBufferAddLit(buf, "<kumoBootPending/>\n");
    if (priv->rebootPending)
        virBufferAddLit(buf, "<kumoRebootPending/>\n");
    if (priv->wantedVcpus)
        virBufferAsprintf(buf, "<kumoVcpus wanted='%u'/>\n", priv->wantedVcpus);
    kumoDomainFormatJob(buf, vm);
    return 0;
}

static int kumoDomainObjPrivateParse(xmlXPathContextPtr ctxt, virDomainObj *vm,
                                     virDomainDefParserConfig *config G_GNUC_UNUSED)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    if (!(priv->dir = virXPathString("string(./kumoDirectory/@path)", ctxt))) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("status XML without a run directory"));
        return -1;
    }
    if (virXPathULongLong("string(./kumoProcess/@startTime)", ctxt, &priv->startTime) < 0) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("status XML without a process start time"));
        return -1;
    }
    priv->memoryDir = virXPathString("string(./kumoMemoryDirectory/@path)", ctxt);
    priv->unclaimed = virXPathBoolean("boolean(./kumoUnclaimed)", ctxt) == 1;
    priv->labelled = virXPathBoolean("boolean(./kumoLabelled)", ctxt) == 1;
    priv->migratedAway = virXPathBoolean("boolean(./kumoMigratedAway)", ctxt) == 1;
    priv->bootPending = virXPathBoolean("boolean(./kumoBootPending)", ctxt) == 1;
    priv->rebootPending = virXPathBoolean("boolean(./kumoRebootPending)", ctxt) == 1;
    if (virXPathUInt("string(./kumoVcpus/@wanted)", ctxt, &priv->wantedVcpus) == -2) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("status XML with a wrong number of vCPUs"));
        return -1;
    }
    return kumoDomainParseJob(ctxt, vm);
}

static void *kumoJobStatsAlloc(void)
{
    return g_new0(kumoJobStats, 1);
}

static void *kumoJobStatsCopy(void *stats)
{
    kumoJobStats *copy = g_new0(kumoJobStats, 1);

    *copy = *(kumoJobStats *)stats;
    return copy;
}

virDomainXMLOption *kumoDomainXMLOptionNew(kumoDriver *driver)
{
    virDomainDefParserConfig config = {
        .domainPostParseBasicCallback = kumoPostParseBasic,
        .domainPostParseCallback = kumoPostParseDomain,
        .devicesPostParseCallback = kumoPostParseDevice,
        .assignAddressesCallback = kumoAssignAddresses,
        .domainValidateCallback = kumoValidateDomain,
        .deviceValidateCallback = kumoValidateDevice,
        .priv = driver,
        .features = VIR_DOMAIN_DEF_FEATURE_OFFLINE_VCPUPIN | VIR_DOMAIN_DEF_FEATURE_USER_ALIAS |
                    VIR_DOMAIN_DEF_FEATURE_INDIVIDUAL_VCPUS | VIR_DOMAIN_DEF_FEATURE_FW_AUTOSELECT |
                    VIR_DOMAIN_DEF_FEATURE_NET_MODEL_STRING | VIR_DOMAIN_DEF_FEATURE_MEMORY_HOTPLUG,
        .macPrefix = { 0x52, 0x54, 0x00 },
        .defArch = virArchFromHost(),
        .netPrefix = "vnet",
    };
    virDomainXMLPrivateDataCallbacks priv = {
        .alloc = kumoDomainObjPrivateAlloc,
        .free = kumoDomainObjPrivateFree,
        .format = kumoDomainObjPrivateFormat,
        .parse = kumoDomainObjPrivateParse,
    };
    virDomainJobObjConfig job = {
        .cb = { .saveStatusPrivate = kumoDomainSaveStatus },
        .jobDataPrivateCb = { .allocPrivateData = kumoJobStatsAlloc,
                              .copyPrivateData = kumoJobStatsCopy,
                              .freePrivateData = g_free },
    };
    virDomainXMLOption *xmlopt =
        virDomainXMLOptionNew(&config, &priv, &kumoXMLNamespace, NULL, NULL, &job);

    if (xmlopt)
        virDomainXMLOptionSetCloseCallbackAlloc(xmlopt, virCloseCallbacksDomainAlloc);
    return xmlopt;
}

virDomainObj *kumoDomainObjFromDomain(virDomainPtr domain)
{
    kumoDriver *driver = domain->conn->privateData;
    char uuid[VIR_UUID_STRING_BUFLEN];
    virDomainObj *vm = virDomainObjListFindByUUID(driver->domains, domain->uuid);

    if (!vm) {
        virUUIDFormat(domain->uuid, uuid);
        virReportError(VIR_ERR_NO_DOMAIN, _("no domain with matching uuid '%s' (%s)"), uuid,
                       domain->name);
    }
    return vm;
}

void kumoLockedDomainEnd(kumoLockedDomain vm)
{
    virDomainObjEndAPI(&vm);
}

void kumoDomainSaveStatus(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoDriver *driver = priv->driver;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(driver);

    if (!virDomainObjIsActive(vm))
        return;
    if (virDomainObjSave(vm, driver->xmlopt, cfg->stateDir) < 0)
        VIR_WARN("domain %s: its state could not be saved", vm->def->name);
}

int kumoDomainSaveDefinition(virDomainObj *vm, virDomainDef **def)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(kumoDriverConfig) cfg = kumoDriverGetConfig(priv->driver);

    if (virDomainDefSave(*def, priv->driver->xmlopt, cfg->configDir) < 0)
        return -1;
    virDomainObjAssignDef(vm, def, false, NULL);
    return 0;
}

void kumoDomainRemoveInactive(kumoDriver *driver, virDomainObj *vm)
{
    if (!vm->persistent && !virDomainObjIsActive(vm))
        virDomainObjListRemove(driver->domains, vm);
}

void kumoDomainQueueEvent(virDomainObj *vm, int event, int detail)
{
    kumoDomainObjPrivate *priv = vm->privateData;

    virObjectEventStateQueue(priv->driver->events,
                             virDomainEventLifecycleNewFromObj(vm, event, detail));
}

void kumoDomainSetState(virDomainObj *vm, virDomainState state, int reason, int event, int detail)
{
    virDomainObjSetState(vm, state, reason);
    if (event >= 0)
        kumoDomainQueueEvent(vm, event, detail);
    kumoDomainSaveStatus(vm);
}
