/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which of the host's performance counters are read of a domain. */
#include "driver/kumo_driver.h"

#include "driver/conf/kumo_definition.h"
#include "driver/kumo_perf.h"
#include "driver/kumo_update.h"
#include "viraccessapicheck.h"
#include "virperf.h"
#include "virtypedparam.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

static int kumoCheckPerfEvents(virTypedParameterPtr params, int nparams)
{
    for (int i = 0; i < nparams; i++) {
        if (virPerfEventTypeFromString(params[i].field) < 0) {
            virReportError(VIR_ERR_INVALID_ARG, _("there is no performance event '%s'"),
                           params[i].field);
            return -1;
        }
        if (params[i].type != VIR_TYPED_PARAM_BOOLEAN) {
            virReportError(VIR_ERR_INVALID_ARG, _("the parameter '%s' must be a boolean"),
                           params[i].field);
            return -1;
        }
        for (int k = 0; k < i; k++) {
            if (STREQ(params[k].field, params[i].field)) {
                virReportError(VIR_ERR_INVALID_ARG, _("the parameter '%s' is there twice"),
                               params[i].field);
                return -1;
            }
        }
    }
    return 0;
}

static int kumoSetPerfEvents(kumoUpdate *update, const virTypedParameter *params, int nparams)
{
    for (int i = 0; i < nparams; i++) {
        virPerfEventType type = (virPerfEventType)virPerfEventTypeFromString(params[i].field);

        /* Those before it are what they were asked to be. */
        if (update->live && kumoPerfSet(update->vm, type, params[i].value.b) < 0)
            return -1;
        if (update->config)
            update->config->perf.events[type] =
                params[i].value.b ? VIR_TRISTATE_BOOL_YES : VIR_TRISTATE_BOOL_NO;
    }
    return kumoUpdateFinish(update);
}

int kumoDomainSetPerfEvents(virDomainPtr dom, virTypedParameterPtr params, int nparams,
                            unsigned int flags)
{
    g_auto(kumoLockedDomain) vm = NULL;
    g_auto(kumoUpdate) update = { 0 };

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG, -1);

    if (kumoCheckPerfEvents(params, nparams) < 0)
        return -1;
    if (!(vm = kumoDomainObjFromDomain(dom)) ||
        virDomainSetPerfEventsEnsureACL(dom->conn, vm->def) < 0 ||
        kumoUpdateBegin(&update, vm, flags) < 0)
        return -1;
    return kumoSetPerfEvents(&update, params, nparams);
}

static int kumoGetPerfEvents(virDomainObj *vm, virTypedParameterPtr *params, int *nparams,
                             unsigned int flags)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    g_autoptr(virTypedParamList) list = kumoCompatParamListNew();
    virDomainDef *def;
    bool live;

    if (!(def = virDomainObjGetOneDefState(vm, flags, &live)))
        return -1;
    for (int i = 0; i < VIR_PERF_EVENT_LAST; i++) {
        bool enabled = live ? virPerfEventIsEnabled(priv->perf, (virPerfEventType)i)
                            : def->perf.events[i] == VIR_TRISTATE_BOOL_YES;

        kumoCompatAddBool(list, enabled, "%s", virPerfEventTypeToString(i));
    }
    return kumoCompatTakeParams(list, params, nparams);
}

int kumoDomainGetPerfEvents(virDomainPtr dom, virTypedParameterPtr *params, int *nparams,
                            unsigned int flags)
{
    virDomainObj *vm;
    int ret = -1;

    virCheckFlags(VIR_DOMAIN_AFFECT_LIVE | VIR_DOMAIN_AFFECT_CONFIG | VIR_TYPED_PARAM_STRING_OKAY,
                  -1);

    if (!(vm = kumoDomainObjFromDomain(dom)))
        return -1;
    if (virDomainGetPerfEventsEnsureACL(dom->conn, vm->def) < 0)
        goto cleanup;
    if (virDomainObjBeginJob(vm, VIR_JOB_QUERY) < 0)
        goto cleanup;
    ret = kumoGetPerfEvents(vm, params, nparams, flags);
    virDomainObjEndJob(vm);

cleanup:
    virDomainObjEndAPI(&vm);
    return ret;
}
