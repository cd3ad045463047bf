/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Devices that come and go, with false devices on the false hypervisor. */
#include <stdatomic.h>
#include <string.h>

#include "tests/fakes/fake_vmm.h"
#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"
#include "vmm-core/vmm/vmm.h"

static GString *events;
static GString *calls;       /* what devices were told */
static const char *fail;     /* "realize", "pause", "ask" */
static unsigned n_alive;     /* devices */
static KumoMachine *machine; /* the last one */

static bool fails(const char *what, GError **error)
{
    if (g_strcmp0(fail, what) != 0)
        return false;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "told to fail");
    return true;
}

/* --- devices: a slot each, in the order of their coming unless the configuration names one --- */

typedef struct {
    KumoDevice device;
    KumoPciCommon *pci;
    int slot;
    bool is_disk;
} Dev;

static uint32_t slots_taken;

static void told(const KumoDevice *device, const char *what)
{
    g_string_append_printf(calls, "%s:%s ", what, device->id);
}

static bool dev_realize(KumoDevice *device, GError **error)
{
    Dev *dev = (Dev *)device;

    if (fails("realize", error))
        return false;
    for (dev->slot = MAX(dev->pci->pci_device_id, 1); slots_taken & 1U << dev->slot; dev->slot++)
        g_assert_cmpint(dev->pci->pci_device_id, ==, -1);
    slots_taken |= 1U << dev->slot;
    n_alive++;
    return true;
}

static void dev_unrealize(KumoDevice *device)
{
    slots_taken &= ~(1U << ((Dev *)device)->slot);
    n_alive--;
}

static void dev_free(KumoDevice *device)
{
    g_free(device);
}

static bool dev_pause(KumoDevice *device, GError **error)
{
    if (fails("pause", error))
        return false;
    told(device, "pause");
    return true;
}

static char *dev_bdf(KumoDevice *device)
{
    return g_strdup_printf("0000:00:%02x.0", ((Dev *)device)->slot);
}

static void dev_announce(KumoDevice *device)
{
    told(device, "announce");
}

static bool dev_ask_removal(KumoDevice *device, GError **error)
{
    if (fails("ask", error))
        return false;
    told(device, "ask");
    return true;
}

static bool dev_resize(KumoDevice *device, uint64_t size_bytes, GError **error)
{
    g_string_append_printf(calls, "resize:%s:%" G_GUINT64_FORMAT " ", device->id, size_bytes);
    return true;
}

static bool dev_update(KumoDevice *device, const void *wanted, GError **error)
{
    if (fails("update", error))
        return false;
    told(device, "update");
    return true;
}

static unsigned n_group_calls;

/* The third call fails if that is wanted, then all go on. */
static bool dev_set_group_limiter(KumoDevice *device, const char *group, KumoRateLimiter *limiter,
                                  GError **error)
{
    if (++n_group_calls % 3 == 0 && fails("group", error))
        return false;
    g_string_append_printf(calls, "%s:%s:%s ", group, device->id, limiter ? "limit" : "none");
    return true;
}

static void net_report(KumoDevice *device, KumoVmConfig *config)
{
    for (guint i = 0; i < config->nets->len; i++) {
        KumoNetConfig *net = config->nets->pdata[i];

        if (!net->mac && g_strcmp0(net->pci.id, device->id) == 0)
            net->mac = g_strdup_printf("52:54:00:00:00:%02x", g_random_int_range(0, 256));
    }
}

static const KumoDeviceOps disk_ops = {
    .type = "disk",
    .realize = dev_realize,
    .unrealize = dev_unrealize,
    .free = dev_free,
    .pause = dev_pause,
    .pci_bdf = dev_bdf,
    .announce = dev_announce,
    .ask_removal = dev_ask_removal,
    .resize = dev_resize,
    .update = dev_update,
    .set_group_limiter = dev_set_group_limiter,
};

static const KumoDeviceOps net_ops = {
    .type = "net",
    .realize = dev_realize,
    .unrealize = dev_unrealize,
    .free = dev_free,
    .pci_bdf = dev_bdf,
    .announce = dev_announce,
    .ask_removal = dev_ask_removal,
    .report = net_report,
    .update = dev_update,
};

static KumoDevice *dev_new(KumoMachine *of, const KumoDeviceOps *ops, const KumoPciCommon *pci)
{
    Dev *dev = g_new0(Dev, 1);

    machine = of;
    kumo_device_init(&dev->device, ops, of, pci->id);
    dev->pci = (KumoPciCommon *)pci;
    return &dev->device;
}

static KumoDevice *disk_hotplug(KumoMachine *of, const void *entry)
{
    return dev_new(of, &disk_ops, &((const KumoDiskConfig *)entry)->pci);
}

static KumoDevice *net_hotplug(KumoMachine *of, const void *entry)
{
    return dev_new(of, &net_ops, &((const KumoNetConfig *)entry)->pci);
}

static bool create_disks(KumoMachine *of, const KumoVmConfig *config, GError **error)
{
    for (guint i = 0; i < config->disks->len; i++)
        if (!kumo_device_add(disk_hotplug(of, config->disks->pdata[i]), error))
            return false;
    return true;
}

static bool create_nets(KumoMachine *of, const KumoVmConfig *config, GError **error)
{
    for (guint i = 0; i < config->nets->len; i++)
        if (!kumo_device_add(net_hotplug(of, config->nets->pdata[i]), error))
            return false;
    return true;
}

static bool create_rng(KumoMachine *of, const KumoVmConfig *config, GError **error)
{
    return kumo_device_add(dev_new(of, &net_ops, &config->rng.pci), error);
}

static const KumoDeviceType disk_type = {
    .name = "disk", .create = create_disks, .list = KUMO_DEVICE_LIST_DISKS, .hotplug = disk_hotplug
};
static const KumoDeviceType net_type = {
    .name = "net", .create = create_nets, .list = KUMO_DEVICE_LIST_NETS, .hotplug = net_hotplug
};
static const KumoDeviceType rng_type = { .name = "rng", .create = create_rng };
static const KumoDeviceType *const device_types[] = { &disk_type, &net_type, &rng_type, NULL };

/* --- a VMM --- */

static void on_event(const char *source, const char *event, json_t *properties)
{
    g_string_append(events, event);
    if (properties)
        g_string_append_printf(events, ":%s:%s",
                               json_string_value(json_object_get(properties, "id")),
                               json_string_value(json_object_get(properties, "bdf")));
    g_string_append_c(events, ' ');
    json_decref(properties);
}

static KumoVmm *vmm_new(void)
{
    fail = NULL;
    g_string_truncate(events, 0);
    g_string_truncate(calls, 0);
    return fake_vmm_new(&fake_arch_ops, device_types, on_event);
}

static KumoVmm *vmm_created(void)
{
    g_autoptr(GError) error = NULL;
    KumoVmm *vmm = vmm_new();

    kumo_vmm_create(vmm, fake_vmm_config_new(16 << 20, 1, 1), &error);
    g_assert_no_error(error);
    return vmm;
}

/* Returns: what adding a disk answers: "204", "ID BDF" or the code of the error. */
static char *add_disk(KumoVmm *vmm, const char *id, int slot, unsigned n_queues)
{
    g_autoptr(GError) error = NULL;
    KumoDiskConfig *disk = kumo_disk_config_new();
    json_t *info = NULL;
    char *answer;

    disk->path = g_strdup("/disk");
    disk->pci.id = g_strdup(id);
    disk->pci.pci_device_id = slot;
    disk->num_queues = n_queues;
    if (!kumo_vmm_add_disk(vmm, disk, &info, &error)) {
        g_assert_null(info);
        return g_strdup(kumo_error_code_name((KumoErrorCode)error->code));
    }
    answer = info ? g_strdup_printf("%s %s", json_string_value(json_object_get(info, "id")),
                                    json_string_value(json_object_get(info, "bdf")))
                  : g_strdup("204");
    json_decref(info);
    return answer;
}

#define assert_disk(vmm, id, slot, n_queues, expected)                                             \
    do {                                                                                           \
        g_autofree char *answer_ = add_disk(vmm, id, slot, n_queues);                              \
        g_assert_cmpstr(answer_, ==, expected);                                                    \
    } while (0)

/* The ids of the configuration's disks and NICs, and of the device tree, as vm.info shows them. */
static void assert_ids(KumoVmm *vmm, const char *configured, const char *in_tree)
{
    static const char *const keys[] = { "disks", "net" };
    json_t *info = kumo_vmm_info(vmm, NULL);
    g_autoptr(GString) ids = g_string_new(NULL);
    const char *key;
    json_t *entry;
    size_t i;

    for (unsigned k = 0; k < G_N_ELEMENTS(keys); k++)
        json_array_foreach(json_object_get(json_object_get(info, "config"), keys[k]), i, entry)
            g_string_append_printf(ids, "%s ", json_string_value(json_object_get(entry, "id")));
    g_assert_cmpstr(ids->str, ==, configured);
    g_string_truncate(ids, 0);
    json_object_foreach(json_object_get(info, "device_tree"), key, entry)
        g_string_append_printf(ids, "%s ", key);
    g_assert_cmpstr(ids->str, ==, in_tree);
    json_decref(info);
}

/* What the controller does on a vCPU's thread. */
static void *eject_thread(void *id)
{
    atomic_store(&kumo_device_find(machine, id)->ejected, true);
    machine->device_ejected(machine->request_opaque);
    return NULL;
}

static void eject(const char *id)
{
    g_thread_join(g_thread_new("vcpu", eject_thread, (void *)id));
}

static void run_main_loop(void)
{
    while (g_main_context_iteration(NULL, FALSE))
        ;
}

/* --- tests --- */

static void test_no_vm(void)
{
    g_autoptr(KumoVmm) vmm = vmm_new();
    json_t *info = NULL;

    assert_disk(vmm, NULL, -1, 1, "NOT_FOUND");
    assert_refused(kumo_vmm_add_net(vmm, kumo_net_config_new(), &info, error),
                   KUMO_ERROR_NOT_FOUND);
    assert_refused(kumo_vmm_remove_device(vmm, "_disk0", error), KUMO_ERROR_NOT_FOUND);
    assert_refused(kumo_vmm_resize_disk(vmm, "_disk0", 512, error), KUMO_ERROR_NOT_FOUND);
}

static void test_cold(void)
{
    g_autoptr(KumoVmm) vmm = vmm_created();
    json_t *info = NULL;

    assert_disk(vmm, NULL, -1, 1, "204");
    assert_disk(vmm, "data", -1, 1, "204");
    assert_done(kumo_vmm_add_net(vmm, kumo_net_config_new(), &info, error));
    g_assert_null(info);
    assert_ids(vmm, "_disk0 data _net0 ", "");
    assert_disk(vmm, "data", -1, 1, "CONFLICT");
    assert_disk(vmm, "_net0", -1, 1, "CONFLICT");
    assert_disk(vmm, "__mine", -1, 1, "INVALID");
    assert_disk(vmm, NULL, -1, 2, "INVALID"); /* more queues than vCPUs */
    assert_disk(vmm, NULL, 0, 1, "INVALID");
    assert_refused(kumo_vmm_resize_disk(vmm, "data", 512, error), KUMO_ERROR_STATE);
    assert_refused(kumo_vmm_remove_device(vmm, "nobody", error), KUMO_ERROR_NOT_FOUND);
    assert_refused(kumo_vmm_remove_device(vmm, "__rng", error), KUMO_ERROR_NOT_SUPPORTED);
    assert_refused(kumo_vmm_remove_device(vmm, "__console", error), KUMO_ERROR_NOT_SUPPORTED);
    assert_refused(kumo_vmm_remove_device(vmm, "__serial", error), KUMO_ERROR_NOT_FOUND);
    assert_ids(vmm, "_disk0 data _net0 ", "");
    assert_done(kumo_vmm_remove_device(vmm, "_disk0", error));
    assert_refused(kumo_vmm_remove_device(vmm, "_disk0", error), KUMO_ERROR_NOT_FOUND);
    assert_ids(vmm, "data _net0 ", "");
    assert_seen(calls, "");
    assert_done(kumo_vmm_boot(vmm, error));
    assert_ids(vmm, "data _net0 ", "data _net0 __rng ");
}

static void test_hot(void)
{
    g_autoptr(KumoVmm) vmm = vmm_created();
    json_t *info = NULL;

    assert_done(kumo_vmm_boot(vmm, error));
    g_assert_cmpuint(n_alive, ==, 1);
    assert_disk(vmm, NULL, -1, 1, "_disk0 0000:00:02.0");
    assert_disk(vmm, "data", 7, 1, "data 0000:00:07.0");
    assert_done(kumo_vmm_add_net(vmm, kumo_net_config_new(), &info, error));
    json_decref(info);
    assert_seen(calls, "announce:_disk0 announce:data announce:_net0 ");
    assert_ids(vmm, "_disk0 data _net0 ", "__rng _disk0 data _net0 ");

    /* What fails leaves nothing. */
    fail = "realize";
    assert_disk(vmm, "more", -1, 1, "IO");
    fail = NULL;
    assert_disk(vmm, "data", -1, 1, "CONFLICT");
    assert_disk(vmm, "__rng", -1, 1, "INVALID");
    assert_disk(vmm, "more", 7, 1, "CONFLICT");
    assert_disk(vmm, "more", -1, 2, "INVALID");
    assert_ids(vmm, "_disk0 data _net0 ", "__rng _disk0 data _net0 ");
    g_assert_cmpuint(n_alive, ==, 4);
    assert_seen(calls, "");

    assert_done(kumo_vmm_resize_disk(vmm, "data", 4096, error));
    assert_seen(calls, "resize:data:4096 ");
    assert_refused(kumo_vmm_resize_disk(vmm, "_net0", 4096, error), KUMO_ERROR_NOT_SUPPORTED);
    assert_refused(kumo_vmm_resize_disk(vmm, "nobody", 4096, error), KUMO_ERROR_NOT_FOUND);

    assert_refused(kumo_vmm_remove_device(vmm, "nobody", error), KUMO_ERROR_NOT_FOUND);
    assert_refused(kumo_vmm_remove_device(vmm, "__rng", error), KUMO_ERROR_NOT_SUPPORTED);
    fail = "ask";
    assert_refused(kumo_vmm_remove_device(vmm, "data", error), KUMO_ERROR_IO);
    fail = NULL;
    /* A guest that does not react keeps the device, and can be asked again. */
    assert_done(kumo_vmm_remove_device(vmm, "data", error));
    run_main_loop();
    assert_done(kumo_vmm_remove_device(vmm, "data", error));
    assert_seen(calls, "ask:data ask:data ");
    assert_ids(vmm, "_disk0 data _net0 ", "__rng _disk0 data _net0 ");
    assert_disk(vmm, "data", -1, 1, "CONFLICT");

    g_string_truncate(events, 0);
    eject("data");
    run_main_loop();
    assert_seen(events, "device-removed:data:0000:00:07.0 ");
    assert_ids(vmm, "_disk0 _net0 ", "__rng _disk0 _net0 ");
    g_assert_cmpuint(n_alive, ==, 3);
    assert_refused(kumo_vmm_remove_device(vmm, "data", error), KUMO_ERROR_NOT_FOUND);
    /* Id and slot are free, even if the main loop did not get to it yet. */
    assert_disk(vmm, "data", 7, 1, "data 0000:00:07.0");
    eject("data");
    assert_disk(vmm, "data", 7, 1, "data 0000:00:07.0");
    assert_seen(events, "device-removed:data:0000:00:07.0 ");
    run_main_loop();
    assert_seen(events, "");
}

static void test_paused(void)
{
    g_autoptr(KumoVmm) vmm = vmm_created();

    assert_done(kumo_vmm_boot(vmm, error));
    assert_disk(vmm, "a", -1, 1, "a 0000:00:02.0");
    g_string_truncate(calls, 0);
    eject("a");
    assert_done(kumo_vmm_pause(vmm, error));
    assert_seen(events, "booting booted pausing device-removed:a:0000:00:02.0 paused ");
    assert_seen(calls, "pause:a ");
    assert_disk(vmm, "b", -1, 1, "b 0000:00:02.0");
    assert_seen(calls, "pause:b announce:b ");
    fail = "pause";
    assert_disk(vmm, "c", -1, 1, "IO");
    fail = NULL;
    assert_ids(vmm, "b ", "__rng b ");
    g_assert_cmpuint(n_alive, ==, 2);
    /* Out of the main loop while the guest stands still. */
    eject("b");
    run_main_loop();
    assert_seen(events, "device-removed:b:0000:00:02.0 ");
    assert_ids(vmm, "", "__rng ");
    assert_done(kumo_vmm_resume(vmm, error));
}

static char *net_mac(KumoVmm *vmm)
{
    json_t *info = kumo_vmm_info(vmm, NULL);
    json_t *net = json_array_get(json_object_get(json_object_get(info, "config"), "net"), 0);
    char *mac = g_strdup(json_string_value(json_object_get(net, "mac")));

    json_decref(info);
    return mac;
}

/* The next machine has what was added, in its slot and with its address, and not what was asked to
 * leave. */
static void test_reboot(void)
{
    g_autoptr(KumoVmm) vmm = vmm_created();
    g_autofree char *before = NULL, *after = NULL, *last = NULL;
    json_t *info = NULL;

    assert_disk(vmm, "first", -1, 1, "204");
    assert_done(kumo_vmm_boot(vmm, error));
    assert_disk(vmm, "second", -1, 1, "second 0000:00:03.0");
    assert_done(kumo_vmm_add_net(vmm, kumo_net_config_new(), &info, error));
    json_decref(info);
    before = net_mac(vmm);
    g_assert_nonnull(before);
    assert_done(kumo_vmm_remove_device(vmm, "first", error));
    g_string_truncate(events, 0);
    assert_done(kumo_vmm_reboot(vmm, error));
    assert_seen(events, "rebooting device-removed:first:0000:00:01.0 rebooted ");
    assert_ids(vmm, "second _net0 ", "second _net0 __rng ");
    g_assert_cmpint(((Dev *)kumo_device_find(machine, "second"))->slot, ==, 3);
    after = net_mac(vmm);
    g_assert_cmpstr(before, ==, after);

    assert_done(kumo_vmm_remove_device(vmm, "second", error));
    g_string_truncate(events, 0);
    assert_done(kumo_vmm_shutdown(vmm, error));
    assert_seen(events, "device-removed:second:0000:00:03.0 shutdown ");
    assert_ids(vmm, "_net0 ", "");
    g_assert_cmpuint(n_alive, ==, 0);
    assert_done(kumo_vmm_boot(vmm, error));
    last = net_mac(vmm);
    g_assert_cmpstr(before, ==, last);
    /* An eject that nobody has seen to yet. */
    eject("_net0");
    assert_done(kumo_vmm_reboot(vmm, error));
    run_main_loop();
    g_assert_cmpuint(n_alive, ==, 1);
}

static void test_many(void)
{
    g_autoptr(KumoVmm) vmm = vmm_created();

    assert_done(kumo_vmm_boot(vmm, error));
    for (unsigned i = 0; i < 200; i++) {
        assert_disk(vmm, NULL, -1, 1, "_disk0 0000:00:02.0");
        assert_done(kumo_vmm_remove_device(vmm, "_disk0", error));
        eject("_disk0");
        run_main_loop();
        g_assert_cmpuint(n_alive, ==, 1);
    }
    assert_ids(vmm, "", "__rng ");
    /* Until the segment is full: slot 0 and the console's are not to be had. */
    for (unsigned i = 0; i < 29; i++) {
        g_autofree char *answer = add_disk(vmm, NULL, -1, 1);

        g_assert_true(g_str_has_prefix(answer, "_disk"));
    }
    assert_disk(vmm, NULL, -1, 1, "INVALID");
}

/* --- changes --- */

typedef bool (*UpdateFunc)(KumoVmm *vmm, const json_t *changes, GError **error);

/* @refusal: NULL, or what the error says. */
static void update(KumoVmm *vmm, UpdateFunc func, const char *text, const char *refusal)
{
    g_autoptr(GError) error = NULL;
    json_t *changes = json_loads(text, JSON_DECODE_ANY, NULL);
    bool ok;

    g_assert_nonnull(changes);
    ok = func(vmm, changes, &error);
    json_decref(changes);
    if (!refusal)
        g_assert_no_error(error);
    else if (ok || !strstr(error->message, refusal))
        g_error("%s: %s, not \"%s\"", text, ok ? "accepted" : error->message, refusal);
}

/* What vm.info says of a part of the configuration, compact and sorted. */
static char *shown(KumoVmm *vmm, const char *part, const char *key)
{
    json_t *info = kumo_vmm_info(vmm, NULL);
    json_t *section = json_object_get(json_object_get(info, "config"), part);
    char *text, *copy;

    if (json_is_array(section))
        section = json_array_get(section, 0);
    text =
        json_dumps(json_object_get(section, key), JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);
    copy = g_strdup(text ? text : "absent");
    free(text);
    json_decref(info);
    return copy;
}

#define assert_shown(vmm, part, key, expected)                                                     \
    do {                                                                                           \
        g_autofree char *shown_ = shown(vmm, part, key);                                           \
        g_assert_nonnull(strstr(shown_, expected));                                                \
    } while (0)

#define LIMIT(size) "{\"bandwidth\":{\"refill_time\":100,\"size\":" #size "}}"

static void check_changes(KumoVmm *vmm)
{
    update(vmm, kumo_vmm_update_disk, "{\"id\":\"d\",\"rate_limiter_config\":" LIMIT(5000) "}",
           NULL);
    assert_shown(vmm, "disks", "rate_limiter_config", "\"size\":5000");
    update(vmm, kumo_vmm_update_disk,
           "{\"id\":\"d\",\"queue_affinity\":[{\"queue_index\":0,\"host_cpus\":[0]}]}", NULL);
    assert_shown(vmm, "disks", "queue_affinity", "[{\"host_cpus\":[0],\"queue_index\":0}]");
    /* What is not named stays. */
    assert_shown(vmm, "disks", "rate_limiter_config", "\"size\":5000");
    update(vmm, kumo_vmm_update_disk, "{\"id\":\"d\",\"queue_affinity\":null}", NULL);
    update(vmm, kumo_vmm_update_net, "{\"id\":\"n\",\"link_up\":false}", NULL);
    assert_shown(vmm, "net", "link_up", "false");
    /* Null is the default. */
    update(vmm, kumo_vmm_update_net, "{\"id\":\"n\",\"link_up\":null}", NULL);
    assert_shown(vmm, "net", "link_up", "true");
    update(vmm, kumo_vmm_update_net,
           "{\"id\":\"n\",\"queue_affinity\":[{\"queue_index\":0,\"host_cpus\":[0]}]}", NULL);
    assert_shown(vmm, "net", "queue_affinity", "[{\"host_cpus\":[0],\"queue_index\":0}]");
    update(vmm, kumo_vmm_update_rate_limit_group,
           "{\"id\":\"g\",\"rate_limiter_config\":" LIMIT(6000) "}", NULL);
    assert_shown(vmm, "rate_limit_groups", "rate_limiter_config", "\"size\":6000");
    /* A disk goes from limits of its own into a group that is new, and out of it. */
    update(vmm, kumo_vmm_add_rate_limit_group,
           "{\"id\":\"new\",\"rate_limiter_config\":" LIMIT(300) "}", NULL);
    update(vmm, kumo_vmm_update_disk, "{\"id\":\"d\",\"rate_limit_group\":\"new\"}",
           "exclude each other");
    update(vmm, kumo_vmm_update_disk,
           "{\"id\":\"d\",\"rate_limiter_config\":null,\"rate_limit_group\":\"new\"}", NULL);
    assert_shown(vmm, "disks", "rate_limit_group", "\"new\"");
    update(vmm, kumo_vmm_update_disk, "{\"id\":\"d\",\"rate_limit_group\":\"none\"}",
           "is not the id of a rate limit group");
    update(vmm, kumo_vmm_update_disk,
           "{\"id\":\"d\",\"rate_limiter_config\":" LIMIT(5000) ",\"rate_limit_group\":null}",
           NULL);
    assert_shown(vmm, "disks", "rate_limit_group", "null");
    update(vmm, kumo_vmm_update_cpus, "{\"affinity\":[{\"vcpu\":0,\"host_cpus\":[0]}]}", NULL);
    assert_shown(vmm, "cpus", "affinity", "[{\"host_cpus\":[0],\"vcpu\":0}]");
    update(vmm, kumo_vmm_update_cpus, "{\"affinity\":[]}", NULL);
}

static void check_refusals(KumoVmm *vmm)
{
    static const struct {
        UpdateFunc func;
        const char *changes, *refusal;
    } cases[] = {
        { kumo_vmm_update_disk, "[]", "the body must be an object" },
        { kumo_vmm_update_disk, "{}", "id: what is to be changed is missing" },
        { kumo_vmm_update_disk, "{\"id\":3}", "id: a number is not allowed" },
        { kumo_vmm_update_disk, "{\"id\":\"d\"}", "nothing to change" },
        { kumo_vmm_update_disk, "{\"id\":\"x\",\"queue_affinity\":[]}", "x: the VM has no such" },
        { kumo_vmm_update_disk, "{\"id\":\"n\",\"queue_affinity\":[]}", "n: the VM has no such" },
        { kumo_vmm_update_disk, "{\"id\":\"d\",\"readonly\":true}",
          "the field \"readonly\" cannot be changed, known are: id, rate_limiter_config, "
          "queue_affinity" },
        { kumo_vmm_update_disk, "{\"id\":\"d\",\"link_up\":true}", "the field \"link_up\" cannot" },
        { kumo_vmm_update_disk, "{\"id\":\"d\",\"rate_limiter_config\":7}", "rate_limiter_config" },
        { kumo_vmm_update_disk,
          "{\"id\":\"d\",\"rate_limiter_config\":{\"bandwidth\":{\"size\":5}}}", "refill_time" },
        { kumo_vmm_update_disk,
          "{\"id\":\"d\",\"rate_limiter_config\":{\"ops\":{\"size\":-5,\"refill_time\":5}}}",
          "rate_limiter_config.ops.size" },
        { kumo_vmm_update_disk,
          "{\"id\":\"d\",\"rate_limiter_config\":{\"ops\":{\"size\":5,\"refill_time\":86400001}}}",
          "refill_time" },
        { kumo_vmm_update_disk,
          "{\"id\":\"d\",\"queue_affinity\":[{\"queue_index\":1,\"host_cpus\":[0]}]}",
          "queue_affinity" },
        { kumo_vmm_update_disk,
          "{\"id\":\"d\",\"queue_affinity\":[{\"queue_index\":0,\"host_cpus\":[\"a\"]}]}",
          "queue_affinity[0].host_cpus" },
        { kumo_vmm_update_net, "{\"id\":\"n\",\"link_up\":\"off\"}", "link_up" },
        { kumo_vmm_update_net, "{\"id\":\"n\",\"mac\":\"52:54:00:00:00:01\"}",
          "the field \"mac\" cannot be changed" },
        { kumo_vmm_update_net, "{\"id\":\"d\",\"link_up\":true}", "d: the VM has no such" },
        { kumo_vmm_update_net,
          "{\"id\":\"n\",\"queue_affinity\":[{\"queue_index\":1,\"host_cpus\":[0]}]}",
          "net[0].queue_affinity[0].queue_index: 1 is not allowed, must be below the number of "
          "pairs, 1" },
        { kumo_vmm_update_rate_limit_group, "{\"id\":\"g\"}", "nothing to change" },
        { kumo_vmm_update_rate_limit_group, "{\"id\":\"d\",\"rate_limiter_config\":null}",
          "d: the VM has no such rate limit group" },
        { kumo_vmm_update_rate_limit_group,
          "{\"id\":\"g\",\"rate_limiter_config\":{\"ops\":{\"size\":5}}}", "refill_time" },
        { kumo_vmm_add_rate_limit_group, "{}", "id of the group is missing" },
        { kumo_vmm_add_rate_limit_group, "{\"id\":\"g\"}", "g: the VM has that rate limit group" },
        { kumo_vmm_add_rate_limit_group, "{\"id\":\"i\",\"speed\":1}", "speed" },
        { kumo_vmm_update_cpus, "{}", "nothing to change" },
        { kumo_vmm_update_cpus, "{\"id\":\"x\"}", "the field \"id\" cannot be changed" },
        { kumo_vmm_update_cpus, "{\"boot_vcpus\":2}",
          "the field \"boot_vcpus\" cannot be changed" },
        { kumo_vmm_update_cpus, "{\"affinity\":[{\"vcpu\":1,\"host_cpus\":[0]}]}", "affinity" },
        { kumo_vmm_update_cpus, "{\"affinity\":3}", "affinity" },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(cases); i++)
        update(vmm, cases[i].func, cases[i].changes, cases[i].refusal);
}

static KumoVmm *vmm_with_devices(void)
{
    KumoVmm *vmm = vmm_new();
    KumoVmConfig *config = fake_vmm_config_new(16 << 20, 1, 1);
    KumoNetConfig *net = kumo_net_config_new();
    json_t *info = NULL;

    assert_done(kumo_option_apply(config, "rate-limit-group",
                                  "id=g,bw_size=7000,bw_refill_time=100", error));
    assert_done(kumo_vmm_create(vmm, config, error));
    assert_disk(vmm, "d", -1, 1, "204");
    net->pci.id = g_strdup("n");
    assert_done(kumo_vmm_add_net(vmm, net, &info, error));
    return vmm;
}

static void test_update_created(void)
{
    g_autoptr(KumoVmm) vmm = vmm_with_devices();

    check_changes(vmm);
    check_refusals(vmm);
    assert_seen(calls, "");
}

static void test_update_running(void)
{
    g_autoptr(KumoVmm) vmm = vmm_with_devices();

    assert_done(kumo_vmm_boot(vmm, error));
    check_changes(vmm);
    assert_seen(calls, "update:d update:d update:d update:n update:n update:n g:d:limit update:d "
                       "update:d ");
    check_refusals(vmm);
    assert_seen(calls, "");
    /* A device that fails keeps what it had. */
    fail = "update";
    update(vmm, kumo_vmm_update_net, "{\"id\":\"n\",\"link_up\":false}", "told to fail");
    fail = NULL;
    assert_shown(vmm, "net", "link_up", "true");
    assert_disk(vmm, "e", -1, 1, "e 0000:00:04.0");
    assert_disk(vmm, "f", -1, 1, "f 0000:00:05.0");
    g_string_truncate(calls, 0);
    n_group_calls = 0;
    fail = "group";
    update(vmm, kumo_vmm_update_rate_limit_group, "{\"id\":\"g\",\"rate_limiter_config\":null}",
           "device f: told to fail");
    fail = NULL;
    assert_seen(calls, "g:d:none g:e:none g:d:limit g:e:limit ");
    assert_shown(vmm, "rate_limit_groups", "rate_limiter_config", "\"size\":6000");
    /* A CPU that hosts hardly have. */
    update(vmm, kumo_vmm_update_cpus, "{\"affinity\":[{\"vcpu\":0,\"host_cpus\":[4095]}]}",
           "cpus.affinity: vCPU 0: this process may run on none");
}

static void test_update_nothing(void)
{
    g_autoptr(KumoVmm) vmm = vmm_new();

    update(vmm, kumo_vmm_update_disk, "{\"id\":\"d\"}", "no VM was created");
    update(vmm, kumo_vmm_update_net, "{\"id\":\"n\"}", "no VM was created");
    update(vmm, kumo_vmm_update_net, "{\"id\":\"n\",\"link_up\":7}", "link_up: a number");
    update(vmm, kumo_vmm_update_cpus, "{}", "no VM was created");
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    events = g_string_new(NULL);
    calls = g_string_new(NULL);
    g_test_add_func("/vmm-hotplug/no-vm", test_no_vm);
    g_test_add_func("/vmm-hotplug/cold", test_cold);
    g_test_add_func("/vmm-hotplug/hot", test_hot);
    g_test_add_func("/vmm-hotplug/paused", test_paused);
    g_test_add_func("/vmm-hotplug/reboot", test_reboot);
    g_test_add_func("/vmm-hotplug/many", test_many);
    g_test_add_func("/vmm-hotplug/update-created", test_update_created);
    g_test_add_func("/vmm-hotplug/update-running", test_update_running);
    g_test_add_func("/vmm-hotplug/update-nothing", test_update_nothing);
    status = g_test_run();
    g_string_free(events, TRUE);
    g_string_free(calls, TRUE);
    return status;
}
