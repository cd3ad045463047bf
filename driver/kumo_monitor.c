/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "driver/kumo_monitor.h"

#include "driver/conf/kumo_error.h"
#include "virobject.h"
#include "vmm-core/api/client.h"

#define VIR_FROM_THIS VIR_FROM_DOMAIN

VIR_LOG_INIT("kumo.kumo_monitor");

/* A VMM that boots may have much memory to prepare: it gets this many times the usual time. */
#define KUMO_BOOT_PATIENCE 10

#define KUMO_PAGE_BYTES 4096

#define KUMO_SEND_TIMEOUT_S G_MAXINT32

/* The most that vm.read-memory reads at once. */
#define KUMO_READ_MEMORY_BYTES ((size_t)64 << 10)

/* None of the codes of errors. */
#define KUMO_ANSWER_YES G_MAXINT

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
    g_clear_pointer(&info->devices, g_strfreev);
    g_clear_pointer(&info->postcopyBroken, g_free);
}

static bool kumoMonitorTry(kumoMonitor *mon, const char *method, const char *endpoint,
                           unsigned int patience, const json_t *body, const int *fds, size_t nfds,
                           json_t **ret_reply, GError **error)
{
    VIR_DEBUG("%s %s to %s", method, endpoint, mon->path);
    return kumo_api_call(mon->path, method, endpoint, body, fds, nfds,
                         (int)(mon->timeoutMs * patience), ret_reply, error);
}

static int kumoMonitorReport(const char *endpoint, const GError *error)
{
    kumoReportGError(error, _("%s failed in the VMM"), endpoint);
    return -1;
}

static int kumoMonitorCall(kumoMonitor *mon, const char *method, const char *endpoint,
                           unsigned int patience, const json_t *body, const int *fds, size_t nfds,
                           json_t **ret_reply)
{
    g_autoptr(GError) error = NULL;

    if (kumoMonitorTry(mon, method, endpoint, patience, body, fds, nfds, ret_reply, &error))
        return 0;
    return kumoMonitorReport(endpoint, error);
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

static char **kumoMonitorDevices(json_t *config)
{
    static const char *const kinds[] = { "disks", "net" };
    GPtrArray *ids = g_ptr_array_new();
    const json_t *device;
    size_t n;

    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        json_array_foreach(json_object_get(config, kinds[i]), n, device)
        {
            const char *id = json_string_value(json_object_get(device, "id"));

            if (id)
                g_ptr_array_add(ids, g_strdup(id));
        }
    }
    g_ptr_array_add(ids, NULL);
    return (char **)g_ptr_array_free(ids, FALSE);
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
        info->devices = kumoMonitorDevices(config);
        info->vcpus = (unsigned int)json_integer_value(
            json_object_get(json_object_get(config, "cpus"), "boot_vcpus"));
        info->memoryBytes =
            (unsigned long long)json_integer_value(json_object_get(reply, "memory_actual_size"));
        info->postcopyBroken = g_strdup(
            json_string_value(json_object_get(json_object_get(reply, "postcopy"), "error")));
    }
    json_decref(reply);
    return rc;
}

/* @body: (transfer full) */
static int kumoMonitorPutBody(kumoMonitor *mon, const char *endpoint, json_t *body, const int *fds,
                              size_t nfds)
{
    int rc = kumoMonitorCall(mon, "PUT", endpoint, 1, body, fds, nfds, NULL);

    json_decref(body);
    return rc;
}

int kumoMonitorAddDisk(kumoMonitor *mon, const KumoDiskConfig *disk)
{
    return kumoMonitorPutBody(mon, "vm.add-disk", kumo_disk_config_to_json(disk), NULL, 0);
}

int kumoMonitorAddNet(kumoMonitor *mon, const KumoNetConfig *net, const int *fds, size_t nfds)
{
    return kumoMonitorPutBody(mon, "vm.add-net", kumo_net_config_to_json(net), fds, nfds);
}

int kumoMonitorRemoveDevice(kumoMonitor *mon, const char *id)
{
    return kumoMonitorPutBody(mon, "vm.remove-device", json_pack("{s:s}", "id", id), NULL, 0);
}

int kumoMonitorResizeDisk(kumoMonitor *mon, const char *id, unsigned long long bytes)
{
    return kumoMonitorPutBody(mon, "vm.resize-disk",
                              json_pack("{s:s, s:I}", "id", id, "desired_size", (json_int_t)bytes),
                              NULL, 0);
}

int kumoMonitorUpdateDisk(kumoMonitor *mon, json_t *changes)
{
    return kumoMonitorPutBody(mon, "vm.update-disk", changes, NULL, 0);
}

int kumoMonitorSetRateLimitGroup(kumoMonitor *mon, json_t *changes)
{
    static const char endpoint[] = "vm.update-rate-limit-group";
    g_autoptr(GError) error = NULL;

    if (kumoMonitorTry(mon, "PUT", endpoint, 1, changes, NULL, 0, NULL, &error)) {
        json_decref(changes);
        return 0;
    }
    if (g_error_matches(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND))
        return kumoMonitorPutBody(mon, "vm.add-rate-limit-group", changes, NULL, 0);
    json_decref(changes);
    return kumoMonitorReport(endpoint, error);
}

int kumoMonitorUpdateNet(kumoMonitor *mon, json_t *changes)
{
    return kumoMonitorPutBody(mon, "vm.update-net", changes, NULL, 0);
}

int kumoMonitorUpdateCpus(kumoMonitor *mon, json_t *changes)
{
    return kumoMonitorPutBody(mon, "vm.update-cpus", changes, NULL, 0);
}

int kumoMonitorUpdateBalloon(kumoMonitor *mon, json_t *changes)
{
    return kumoMonitorPutBody(mon, "vm.update-balloon", changes, NULL, 0);
}

static int kumoMonitorResize(kumoMonitor *mon, const char *what, unsigned long long amount)
{
    return kumoMonitorPutBody(mon, "vm.resize", json_pack("{s:I}", what, (json_int_t)amount), NULL,
                              0);
}

int kumoMonitorResizeVcpus(kumoMonitor *mon, unsigned int vcpus)
{
    return kumoMonitorResize(mon, "desired_vcpus", vcpus);
}

int kumoMonitorResizeRam(kumoMonitor *mon, unsigned long long bytes)
{
    return kumoMonitorResize(mon, "desired_ram", bytes);
}

int kumoMonitorResizeZone(kumoMonitor *mon, const char *id, unsigned long long bytes)
{
    return kumoMonitorPutBody(mon, "vm.resize-zone",
                              json_pack("{s:s, s:I}", "id", id, "desired_ram", (json_int_t)bytes),
                              NULL, 0);
}

int kumoMonitorResizeBalloon(kumoMonitor *mon, unsigned long long bytes)
{
    return kumoMonitorResize(mon, "desired_balloon", bytes);
}

int kumoMonitorInjectNmi(kumoMonitor *mon)
{
    return kumoMonitorPut(mon, "vm.nmi");
}

int kumoMonitorGetCounters(kumoMonitor *mon, json_t **counters)
{
    if (kumoMonitorCall(mon, "GET", "vm.counters", 1, NULL, NULL, 0, counters) < 0)
        return -1;
    if (json_is_object(*counters))
        return 0;
    g_clear_pointer(counters, json_decref);
    virReportError(VIR_ERR_INTERNAL_ERROR, "%s", _("the VMM's counters are not an object"));
    return -1;
}

int kumoMonitorCoredump(kumoMonitor *mon, const char *path, bool direct)
{
    g_autofree char *url = g_strdup_printf("file://%s", path);
    json_t *body = json_pack("{s:s,s:b}", "destination_url", url, "direct", direct);
    int rc = kumoMonitorCall(mon, "PUT", "vm.coredump", KUMO_BOOT_PATIENCE, body, NULL, 0, NULL);

    json_decref(body);
    return rc;
}

/* Returns: 0, or -1 with the error reported: @reply is not @size bytes. */
static int kumoMonitorDecode(const json_t *reply, void *buffer, size_t size)
{
    const char *text = json_string_value(json_object_get(reply, "data"));
    gsize len = 0;
    g_autofree guchar *data = text && *text ? g_base64_decode(text, &len) : NULL;

    if (!data || len != size) {
        virReportError(VIR_ERR_INTERNAL_ERROR, "%s",
                       _("the VMM's answer is not the memory that it was asked for"));
        return -1;
    }
    memcpy(buffer, data, size);
    return 0;
}

int kumoMonitorReadMemory(kumoMonitor *mon, unsigned long long address, void *buffer, size_t size)
{
    for (size_t done = 0; done < size;) {
        size_t part = MIN(size - done, KUMO_READ_MEMORY_BYTES);
        json_t *body = json_pack("{s:I,s:I}", "address", (json_int_t)(address + done), "size",
                                 (json_int_t)part);
        json_t *reply = NULL;
        int rc = kumoMonitorCall(mon, "PUT", "vm.read-memory", 1, body, NULL, 0, &reply);

        json_decref(body);
        if (rc == 0)
            rc = kumoMonitorDecode(reply, (char *)buffer + done, part);
        json_decref(reply);
        if (rc < 0)
            return -1;
        done += part;
    }
    return 0;
}

/* --- streams --- */

int kumoMonitorSendVm(kumoMonitor *mon, const kumoMonitorSend *how)
{
    json_t *body = json_pack("{s:s}", "destination_url", how->url);
    int rc;

    if (how->oneWay)
        json_object_set_new(body, "one_way", json_true());
    else /* who has asked for it calls it off if it takes too long */
        json_object_update_new(
            body, json_pack("{s:i, s:b}", "timeout_s", KUMO_SEND_TIMEOUT_S, "keep_process", 1));
    if (how->downtimeMs)
        json_object_set_new(body, "downtime_ms", json_integer((json_int_t)how->downtimeMs));
    if (how->bandwidth)
        json_object_set_new(body, "max_bandwidth", json_integer((json_int_t)how->bandwidth));
    if (how->postcopyBandwidth)
        json_object_set_new(body, "max_postcopy_bandwidth",
                            json_integer((json_int_t)how->postcopyBandwidth));
    if (how->connections)
        json_object_set_new(body, "connections", json_integer(how->connections));
    if (how->postcopy)
        json_object_set_new(body, "memory_mode", json_string("Hybrid"));
    if (how->zstd)
        json_object_set_new(body, "compression", json_string("Zstd"));
    if (how->autoConverge)
        json_object_set_new(body, "auto_converge", json_true());
    if (how->convergeInitial)
        json_object_set_new(body, "auto_converge_initial", json_integer(how->convergeInitial));
    if (how->convergeIncrement)
        json_object_set_new(body, "auto_converge_increment", json_integer(how->convergeIncrement));
    if (how->tlsDir)
        json_object_set_new(body, "tls_dir", json_string(how->tlsDir));
    if (how->tlsName)
        json_object_set_new(body, "tls_name", json_string(how->tlsName));
    rc = kumoMonitorCall(mon, "PUT", "vm.send-migration", 1, body, &how->fd, how->fd >= 0 ? 1 : 0,
                         NULL);
    json_decref(body);
    return rc;
}

int kumoMonitorReceiveVm(kumoMonitor *mon, const kumoMonitorReceive *how,
                         const KumoVmConfig *config, const int *fds, size_t nfds)
{
    json_t *body = json_pack("{s:s, s:b, s:b, s:o}", "receiver_url", how->url, "wait", 0, "paused",
                             how->paused, "config", kumo_vm_config_to_json(config));
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(int));
    int rc;

    if (how->tlsDir)
        json_object_set_new(body, "tls_dir", json_string(how->tlsDir));
    if (how->postcopy)
        json_object_set_new(body, "memory_mode", json_string("Hybrid"));
    if (how->fd >= 0)
        g_array_append_val(all, how->fd);
    g_array_append_vals(all, fds, (guint)nfds);
    rc = kumoMonitorCall(mon, "PUT", "vm.receive-migration", KUMO_BOOT_PATIENCE, body,
                         (const int *)(void *)all->data, all->len, NULL);
    json_decref(body);
    return rc;
}

/* @body: (transfer full) */
static int kumoMonitorRecover(kumoMonitor *mon, const char *endpoint, json_t *body,
                              const char *tlsDir)
{
    int rc;

    if (tlsDir)
        json_object_set_new(body, "tls_dir", json_string(tlsDir));
    rc = kumoMonitorCall(mon, "PUT", endpoint, 1, body, NULL, 0, NULL);
    json_decref(body);
    return rc;
}

int kumoMonitorRecoverSend(kumoMonitor *mon, const kumoMonitorSend *how)
{
    json_t *body = json_pack("{s:s, s:b}", "destination_url", how->url, "recover", 1);

    if (how->tlsName)
        json_object_set_new(body, "tls_name", json_string(how->tlsName));
    return kumoMonitorRecover(mon, "vm.send-migration", body, how->tlsDir);
}

int kumoMonitorRecoverReceive(kumoMonitor *mon, const kumoMonitorReceive *how)
{
    return kumoMonitorRecover(
        mon, "vm.receive-migration",
        json_pack("{s:s, s:b, s:b}", "receiver_url", how->url, "wait", 0, "recover", 1),
        how->tlsDir);
}

int kumoMonitorCancelMigration(kumoMonitor *mon)
{
    return kumoMonitorCall(mon, "PUT", "vm.cancel-migration", KUMO_BOOT_PATIENCE, NULL, NULL, 0,
                           NULL);
}

int kumoMonitorUpdateMigration(kumoMonitor *mon, json_t *changes)
{
    static const char endpoint[] = "vm.update-migration";
    g_autoptr(GError) error = NULL;
    bool ok = kumoMonitorTry(mon, "PUT", endpoint, 1, changes, NULL, 0, NULL, &error);

    json_decref(changes);
    if (ok || g_error_matches(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND))
        return 0;
    return kumoMonitorReport(endpoint, error);
}

int kumoMonitorStartPostcopy(kumoMonitor *mon)
{
    return kumoMonitorCall(mon, "PUT", "vm.migration-start-postcopy", 1, NULL, NULL, 0, NULL);
}

static unsigned long long kumoMonitorNumber(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));

    return value > 0 ? (unsigned long long)value : 0;
}

int kumoMonitorMigrationProgress(kumoMonitor *mon, kumoJobStats *stats)
{
    const char *state;
    json_t *reply = NULL;

    if (kumoMonitorCall(mon, "GET", "vm.migration-progress", 1, NULL, NULL, 0, &reply) < 0)
        return -1;

    state = json_string_value(json_object_get(reply, "state"));
    stats->totalBytes = kumoMonitorNumber(reply, "memory_total_bytes");
    stats->remainingBytes = kumoMonitorNumber(reply, "memory_remaining_bytes");
    stats->sentBytes = kumoMonitorNumber(reply, "sent_bytes");
    stats->dataPages = kumoMonitorNumber(reply, "data_pages");
    stats->zeroPages = kumoMonitorNumber(reply, "zero_pages");
    stats->bytesPerSecond = kumoMonitorNumber(reply, "bytes_per_second");
    stats->dirtyPagesPerSecond = kumoMonitorNumber(reply, "memory_dirty_bytes") / KUMO_PAGE_BYTES;
    stats->iteration = kumoMonitorNumber(reply, "iterations");
    stats->throttle = kumoMonitorNumber(reply, "throttle_percent");
    if (state && (STREQ(state, "Finished") || STRPREFIX(state, "Postcopy"))) {
        stats->hasDowntime = true;
        stats->downtimeMs = (kumoMonitorNumber(reply, "downtime_us") + 999) / 1000;
    } else if (stats->iteration > 1) {
        stats->hasDowntime = true;
        stats->downtimeMs = kumoMonitorNumber(reply, "expected_downtime_ms");
    }
    json_decref(reply);
    return 0;
}

/*
 * Asks for what may be refused: a refusal is an answer, too.
 *
 * Returns: the code of the VMM's refusal, KUMO_ANSWER_YES, or -1 with the error reported if there
 * was no answer that says anything.
 */
static int kumoMonitorAsk(kumoMonitor *mon, const char *method, const char *endpoint)
{
    g_auto(KumoApiResponse) response = { 0 };
    g_autoptr(GError) error = NULL;

    if (kumo_api_request(mon->path, method, endpoint, NULL, NULL, 0, (int)mon->timeoutMs, &response,
                         &error)) {
        if (response.status < 400)
            return KUMO_ANSWER_YES;
        kumo_api_set_error(&response, &error);
        if (error->code == KUMO_ERROR_NOT_FOUND || error->code == KUMO_ERROR_STATE)
            return error->code;
    }
    return kumoMonitorReport(endpoint, error);
}

int kumoMonitorEndArrival(kumoMonitor *mon, kumoMonitorArrival *arrival)
{
    static const char cancel[] = "vm.cancel-migration";
    int answer;

    if (kumoMonitorAsk(mon, "PUT", cancel) < 0 ||
        (answer = kumoMonitorAsk(mon, "GET", "vm.info")) < 0)
        return -1;
    if (answer != KUMO_ANSWER_YES) {
        *arrival = answer == KUMO_ERROR_STATE ? KUMO_ARRIVAL_COMING : KUMO_ARRIVAL_NONE;
        return 0;
    }
    /* Of a VM that is here it is refused while memory follows. */
    if ((answer = kumoMonitorAsk(mon, "PUT", cancel)) < 0)
        return -1;
    *arrival = answer == KUMO_ERROR_STATE ? KUMO_ARRIVAL_PARTIAL : KUMO_ARRIVAL_WHOLE;
    return 0;
}

int kumoMonitorSentState(kumoMonitor *mon, kumoMonitorSent *sent)
{
    g_auto(KumoApiResponse) response = { 0 };
    g_autoptr(GError) error = NULL;
    const char *state;
    json_t *reply;

    /* No VM has ever been sent from here: an answer, not an error. */
    if (!kumo_api_request(mon->path, "GET", "vm.migration-progress", NULL, NULL, 0,
                          (int)mon->timeoutMs, &response, &error)) {
        kumoReportGError(error, _("%s failed in the VMM"), "vm.migration-progress");
        return -1;
    }
    reply = response.status == 200 && response.body ? json_loads(response.body, 0, NULL) : NULL;
    state = json_string_value(json_object_get(reply, "state"));
    if (g_strcmp0(state, "Finished") == 0)
        *sent = KUMO_MONITOR_SENT_DONE;
    else if (g_strcmp0(state, "Postcopy") == 0)
        *sent = KUMO_MONITOR_SENT_FOLLOWS;
    else if (state && STRPREFIX(state, "Postcopy"))
        *sent = KUMO_MONITOR_SENT_BROKEN;
    else if (g_strcmp0(state, "Unknown") == 0)
        *sent = KUMO_MONITOR_SENT_UNKNOWN;
    else if (g_strcmp0(state, "Connecting") == 0 || g_strcmp0(state, "Memory") == 0 ||
             g_strcmp0(state, "Handover") == 0)
        *sent = KUMO_MONITOR_SENT_UNDER_WAY;
    else
        *sent = KUMO_MONITOR_SENT_NOT;
    json_decref(reply);
    return 0;
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
