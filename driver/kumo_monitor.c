/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_monitor.h"

#include "driver/kumo_error.h"
#include "virobject.h"
#include "vmm-core/api/client.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_monitor");

/* A VMM that boots may have much memory to prepare: it gets this many times the usual time. */
#define KUMO_BOOT_PATIENCE 10

struct _kumoMonitor {
    virObject parent;

    char *path;
    unsigned int timeoutMs;
};

static virClass *kumoMonitorClass;

static void kumoMonitorDispose(void *obj)
{
    kumoMonitor *mon = obj;

    g_free(mon->path);
}

static int kumoMonitorOnceInit(void)
{
    if (!VIR_CLASS_NEW(kumoMonitor, virClassForObject()))
        return -1;
    return 0;
}

VIR_ONCE_GLOBAL_INIT(kumoMonitor);

kumoMonitor *kumoMonitorNew(const char *path, unsigned int timeoutMs)
{
    kumoMonitor *mon;

    if (kumoMonitorInitialize() < 0 || !(mon = virObjectNew(kumoMonitorClass)))
        return NULL;
    mon->path = g_strdup(path);
    mon->timeoutMs = timeoutMs;
    return mon;
}

void kumoMonitorInfoClear(kumoMonitorInfo *info)
{
    g_clear_pointer(&info->serialPath, g_free);
    g_clear_pointer(&info->consolePath, g_free);
}

static int kumoMonitorCall(kumoMonitor *mon, const char *method, const char *endpoint,
                           unsigned int patience, const json_t *body, const int *fds, size_t nfds,
                           json_t **ret_reply)
{
    g_autoptr(GError) error = NULL;

    VIR_DEBUG("%s %s to %s", method, endpoint, mon->path);
    if (!kumo_api_call(mon->path, method, endpoint, body, fds, nfds,
                       (int)(mon->timeoutMs * patience), ret_reply, &error)) {
        kumoReportGError(error, _("%s failed in the VMM"), endpoint);
        return -1;
    }
    return 0;
}

static int kumoMonitorPut(kumoMonitor *mon, const char *endpoint)
{
    return kumoMonitorCall(mon, "PUT", endpoint, 1, NULL, NULL, 0, NULL);
}

int kumoMonitorPing(kumoMonitor *mon)
{
    return kumoMonitorCall(mon, "GET", "vmm.ping", 1, NULL, NULL, 0, NULL);
}

int kumoMonitorCreate(kumoMonitor *mon, const KumoVmConfig *config, const int *fds, size_t nfds)
{
    json_t *body = kumo_vm_config_to_json(config);
    int rc = kumoMonitorCall(mon, "PUT", "vm.create", 1, body, fds, nfds, NULL);

    json_decref(body);
    return rc;
}

int kumoMonitorBoot(kumoMonitor *mon)
{
    return kumoMonitorCall(mon, "PUT", "vm.boot", KUMO_BOOT_PATIENCE, NULL, NULL, 0, NULL);
}

int kumoMonitorPause(kumoMonitor *mon)
{
    return kumoMonitorPut(mon, "vm.pause");
}

int kumoMonitorResume(kumoMonitor *mon)
{
    return kumoMonitorPut(mon, "vm.resume");
}

int kumoMonitorReboot(kumoMonitor *mon)
{
    return kumoMonitorCall(mon, "PUT", "vm.reboot", KUMO_BOOT_PATIENCE, NULL, NULL, 0, NULL);
}

int kumoMonitorPowerButton(kumoMonitor *mon)
{
    return kumoMonitorPut(mon, "vm.power-button");
}

/*
 * Where the pty of a character device is; any other mode gives NULL. The driver opens this path
 * with its own rights, and the VMM may have been taken over: nothing but a pty is believed.
 */
static char *kumoMonitorPtyPath(json_t *config, const char *device)
{
    json_t *object = json_object_get(config, device);
    const char *mode = json_string_value(json_object_get(object, "mode"));
    const char *path = json_string_value(json_object_get(object, "file"));

    if (!mode || STRNEQ(mode, "Pty") || !path)
        return NULL;
    if (!g_str_has_prefix(path, "/dev/pts/") ||
        path[strspn(path + strlen("/dev/pts/"), "0123456789") + strlen("/dev/pts/")] != '\0') {
        VIR_WARN("the VMM names '%s' as its pty", path);
        return NULL;
    }
    return g_strdup(path);
}

int kumoMonitorGetInfo(kumoMonitor *mon, kumoMonitorInfo *info)
{
    static const char *const states[] = { "Created", "Running", "Paused", "Shutdown" };
    json_t *reply = NULL;
    json_t *config;
    const char *state;
    int rc = -1;

    if (kumoMonitorCall(mon, "GET", "vm.info", 1, NULL, NULL, 0, &reply) < 0)
        return -1;

    state = json_string_value(json_object_get(reply, "state"));
    for (size_t i = 0; state && i < G_N_ELEMENTS(states); i++) {
        if (STREQ(state, states[i])) {
            info->state = (kumoMonitorState)i;
            rc = 0;
        }
    }
    if (rc < 0) {
        virReportError(VIR_ERR_INTERNAL_ERROR, _("the VMM reports the unknown state '%s'"),
                       state ? state : "");
    } else {
        config = json_object_get(reply, "config");
        info->serialPath = kumoMonitorPtyPath(config, "serial");
        info->consolePath = kumoMonitorPtyPath(config, "console");
    }
    json_decref(reply);
    return rc;
}

kumoMonitor *kumoDomainObjEnterMonitor(virDomainObj *vm)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    kumoMonitor *mon = virObjectRef(priv->mon);

    virObjectUnlock(vm);
    return mon;
}

int kumoDomainObjExitMonitor(virDomainObj *vm, kumoMonitor *mon)
{
    kumoDomainObjPrivate *priv = vm->privateData;
    bool same;

    virObjectLock(vm);
    same = priv->mon == mon;
    virObjectUnref(mon);
    if (same && virDomainObjIsActive(vm))
        return 0;

    if (virGetLastErrorCode() == VIR_ERR_OK)
        virReportError(VIR_ERR_OPERATION_FAILED, _("domain '%s' ended meanwhile"), vm->def->name);
    return -1;
}
