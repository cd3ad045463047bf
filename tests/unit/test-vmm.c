/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "tests/fakes/fake_vmm.h"
#include "vmm-core/base/error.h"
#include "vmm-core/vmm/vmm.h"

#define RAM_BYTES (16ULL << 20)

/* What the fakes below saw since the last look. */
static GString *events;
static GString *calls;
static int n_quits, n_failed_quits;
static const char *fail; /* "device", "load", "setup", "pause", "consoles" */

static bool fails(const char *what, GError **error)
{
    if (g_strcmp0(fail, what) != 0)
        return false;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "told to fail");
    return true;
}

static void call(const char *what)
{
    g_string_append_printf(calls, "%s ", what);
}

/* --- a device --- */

static bool device_realize(KumoDevice *device, GError **error)
{
    return !fails("device", error);
}

static void device_unrealize(KumoDevice *device)
{
    call("unrealize");
}

static void device_free(KumoDevice *device)
{
    call("free");
    g_free(device);
}

static bool device_pause(KumoDevice *device, GError **error)
{
    if (fails("pause", error))
        return false;
    call("pause");
    return true;
}

static void device_resume(KumoDevice *device)
{
    call("resume");
}

static json_t *device_counters(KumoDevice *device)
{
    return json_pack("{s:i}", "read_bytes", 7);
}

static char *device_bdf(KumoDevice *device)
{
    return g_strdup("0000:00:01.0");
}

static const KumoDeviceOps device_ops = {
    .type = "fake",
    .realize = device_realize,
    .unrealize = device_unrealize,
    .free = device_free,
    .pause = device_pause,
    .resume = device_resume,
    .counters = device_counters,
    .pci_bdf = device_bdf,
};

static const KumoDeviceOps plain_device_ops = {
    .type = "plain",
    .realize = device_realize,
    .unrealize = device_unrealize,
    .free = device_free,
};

static bool create_devices(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    KumoDevice *plain = g_new0(KumoDevice, 1);
    KumoDevice *device;

    g_assert_nonnull(machine->consoles);
    kumo_device_init(plain, &plain_device_ops, machine, "_plain");
    if (!kumo_device_add(plain, error))
        return false;
    device = g_new0(KumoDevice, 1);
    kumo_device_init(device, &device_ops, machine, "_fake");
    return kumo_device_add(device, error);
}

static const KumoDeviceType device_type = { .name = "fake", .create = create_devices };
static const KumoDeviceType *const device_types[] = { &device_type, NULL };

/* --- an architecture --- */

static bool load(KumoMachine *machine, KumoArchEntry *ret_entry, GError **error)
{
    g_assert_cmpuint(machine->devices->len, ==, 2);
    return !fails("load", error);
}

static bool setup_vcpu(KumoMachine *machine, KumoHvVcpu *vcpu, const KumoArchEntry *entry,
                       GError **error)
{
    g_assert_true((vcpu->index == 0) == (entry != NULL));
    g_assert_cmpuint(((FakeHvVcpu *)vcpu)->apic_id, ==, vcpu->index * 2);
    return !fails("setup", error);
}

static const KumoArchOps arch = {
    .name = "fake",
    .layout = fake_arch_layout,
    .apic_id = fake_arch_apic_id,
    .load = load,
    .setup_vcpu = setup_vcpu,
};

/* --- the VMM's surroundings --- */

static KumoConsoleSet *consoles_open(KumoVmConfig *config, GError **error)
{
    if (fails("consoles", error))
        return NULL;
    call("open");
    return (KumoConsoleSet *)g_strdup("consoles");
}

static void consoles_close(KumoConsoleSet *consoles)
{
    call("close");
    g_free(consoles);
}

static void on_event(const char *source, const char *event, json_t *properties)
{
    g_assert_cmpstr(source, ==, "vm");
    g_string_append_printf(events, "%s ", event);
    json_decref(properties);
}

static void on_quit(void *opaque, bool failed)
{
    n_quits++;
    n_failed_quits += failed;
}

static KumoVmm *vmm_new(bool no_shutdown)
{
    static const KumoHvOps *const backends[] = { &fake_hv_ops, NULL };
    const KumoVmmParams params = {
        .backends = backends,
        .arch = &arch,
        .device_types = device_types,
        .no_shutdown = no_shutdown,
        .consoles_open = consoles_open,
        .consoles_close = consoles_close,
        .event = on_event,
        .quit = on_quit,
    };

    fail = NULL;
    n_quits = n_failed_quits = 0;
    g_string_truncate(events, 0);
    g_string_truncate(calls, 0);
    return kumo_vmm_new(&params);
}

static KumoVmConfig *config_new(void)
{
    KumoVmConfig *config = kumo_vm_config_new();

    config->payload.kernel = g_strdup("/kernel");
    config->memory.size_bytes = RAM_BYTES;
    config->cpus.boot_vcpus = config->cpus.max_vcpus = 2;
    return config;
}

static char *state_of(KumoVmm *vmm)
{
    g_autoptr(GError) error = NULL;
    json_t *info = kumo_vmm_info(vmm, &error);
    char *state;

    if (!info)
        return g_strdup("none");
    state = g_strdup(json_string_value(json_object_get(info, "state")));
    json_decref(info);
    return state;
}

#define assert_state(vmm, expected)                                                                \
    do {                                                                                           \
        g_autofree char *state_ = state_of(vmm);                                                   \
        g_assert_cmpstr(state_, ==, expected);                                                     \
    } while (0)

static void test_states(void)
{
    g_autoptr(KumoVmm) vmm = vmm_new(false);
    json_t *info;

    assert_state(vmm, "none");
    assert_refused(kumo_vmm_boot(vmm, error), KUMO_ERROR_NOT_FOUND);
    assert_refused(kumo_vmm_pause(vmm, error), KUMO_ERROR_NOT_FOUND);
    assert_refused(kumo_vmm_shutdown(vmm, error), KUMO_ERROR_NOT_FOUND);
    assert_refused(kumo_vmm_delete(vmm, error), KUMO_ERROR_NOT_FOUND);
    assert_refused(kumo_vmm_counters(vmm, error), KUMO_ERROR_NOT_FOUND);

    assert_done(kumo_vmm_create(vmm, config_new(), error));
    assert_seen(calls, "open ");
    assert_state(vmm, "Created");
    assert_refused(kumo_vmm_create(vmm, config_new(), error), KUMO_ERROR_STATE);
    assert_refused(kumo_vmm_pause(vmm, error), KUMO_ERROR_STATE);
    assert_refused(kumo_vmm_shutdown(vmm, error), KUMO_ERROR_STATE);
    assert_refused(kumo_vmm_reboot(vmm, error), KUMO_ERROR_STATE);
    assert_refused(kumo_vmm_power_button(vmm, error), KUMO_ERROR_STATE);
    assert_refused(kumo_vmm_nmi(vmm, error), KUMO_ERROR_STATE);
    assert_seen(events, "");

    assert_done(kumo_vmm_boot(vmm, error));
    assert_state(vmm, "Running");
    g_assert_cmpuint(fake_hv_last_vm()->n_vcpus, ==, 2);
    assert_refused(kumo_vmm_boot(vmm, error), KUMO_ERROR_STATE);
    assert_refused(kumo_vmm_resume(vmm, error), KUMO_ERROR_STATE);
    assert_refused(kumo_vmm_power_button(vmm, error), KUMO_ERROR_NOT_SUPPORTED);

    info = kumo_vmm_info(vmm, NULL);
    g_assert_cmpint(json_integer_value(json_object_get(info, "memory_actual_size")), ==, RAM_BYTES);
    g_assert_cmpstr(json_string_value(json_object_get(
                        json_object_get(json_object_get(info, "device_tree"), "_fake"), "pci_bdf")),
                    ==, "0000:00:01.0");
    json_decref(info);
    info = kumo_vmm_counters(vmm, NULL);
    g_assert_cmpint(
        json_integer_value(json_object_get(json_object_get(info, "_fake"), "read_bytes")), ==, 7);
    g_assert_cmpuint(json_object_size(info), ==, 1);
    json_decref(info);

    assert_done(kumo_vmm_nmi(vmm, error));
    assert_done(kumo_vmm_pause(vmm, error));
    assert_state(vmm, "Paused");
    assert_seen(calls, "pause ");
    assert_done(kumo_vmm_nmi(vmm, error));
    g_assert_cmpuint(fake_hv_vcpu(fake_hv_last_vm(), 1)->n_nmis, ==, 2);
    g_assert_cmpuint(fake_hv_last_vm()->n_pauses, ==, 1);
    assert_refused(kumo_vmm_pause(vmm, error), KUMO_ERROR_STATE);
    assert_done(kumo_vmm_resume(vmm, error));
    assert_seen(calls, "resume ");

    assert_done(kumo_vmm_shutdown(vmm, error));
    assert_seen(calls, "unrealize free unrealize free close ");
    assert_state(vmm, "Created");
    g_assert_null(fake_hv_last_vm());
    assert_done(kumo_vmm_boot(vmm, error)); /* with consoles opened anew */
    assert_done(kumo_vmm_delete(vmm, error));
    assert_seen(calls, "open unrealize free unrealize free close ");
    assert_state(vmm, "none");
    assert_seen(
        events,
        "booting booted pausing paused resuming resumed shutdown booting booted shutdown deleted ");
    g_assert_cmpint(n_quits, ==, 0);
    kumo_vmm_quit(vmm);
    kumo_vmm_quit(vmm);
    g_assert_cmpint(n_quits, ==, 1);
    g_assert_cmpint(n_failed_quits, ==, 0);
}

/* Whatever step of a boot fails, nothing is left and the next one works. */
static void test_boot_failures(void)
{
    static const char *const steps[] = { "device", "load", "setup" };
    g_autoptr(KumoVmm) vmm = vmm_new(false);

    fail = "consoles";
    assert_refused(kumo_vmm_create(vmm, config_new(), error), KUMO_ERROR_IO);
    assert_state(vmm, "none");
    fail = NULL;
    assert_refused(kumo_vmm_create(vmm, kumo_vm_config_new(), error),
                   KUMO_ERROR_INVALID); /* no payload */
    assert_done(kumo_vmm_create(vmm, config_new(), error));
    for (unsigned i = 0; i < G_N_ELEMENTS(steps); i++) {
        fail = steps[i];
        assert_refused(kumo_vmm_boot(vmm, error), KUMO_ERROR_IO);
        assert_state(vmm, "Created");
        g_assert_null(fake_hv_last_vm());
    }
    fail = NULL;
    assert_done(kumo_vmm_boot(vmm, error));
    assert_state(vmm, "Running");

    fail = "pause";
    assert_refused(kumo_vmm_pause(vmm, error), KUMO_ERROR_IO);
    assert_state(vmm, "Running");
}

static void wait_for_event(const char *event)
{
    while (!strstr(events->str, event))
        g_main_context_iteration(NULL, TRUE);
}

static void start(KumoVmm *vmm)
{
    assert_done(kumo_vmm_create(vmm, config_new(), error));
    assert_done(kumo_vmm_boot(vmm, error));
    g_string_truncate(events, 0);
    g_string_truncate(calls, 0);
}

static void test_guest_reset(void)
{
    g_autoptr(KumoVmm) vmm = vmm_new(false);

    start(vmm);
    for (unsigned i = 0; i < 3; i++) {
        fake_hv_push_exit(fake_hv_vcpu(fake_hv_last_vm(), 1), KUMO_HV_EXIT_RESET, 0);
        wait_for_event("rebooted");
        assert_seen(events, "rebooting rebooted ");
        assert_seen(calls, "unrealize free unrealize free "); /* the consoles stay open */
        assert_state(vmm, "Running");
    }
    fail = "load";
    fake_hv_push_exit(fake_hv_vcpu(fake_hv_last_vm(), 0), KUMO_HV_EXIT_RESET, 0);
    wait_for_event("shutdown");
    assert_state(vmm, "Created");
    g_assert_cmpint(n_failed_quits, ==, 1);
}

static void test_paused_request(void)
{
    g_autoptr(KumoVmm) vmm = vmm_new(false);

    start(vmm);
    fake_hv_push_exit(fake_hv_vcpu(fake_hv_last_vm(), 0), KUMO_HV_EXIT_SHUTDOWN, 0);
    while (!fake_hv_vcpu(fake_hv_last_vm(), 0)->n_runs)
        g_usleep(100);
    g_usleep(10000);
    assert_done(kumo_vmm_pause(vmm, error));
    while (g_main_context_iteration(NULL, FALSE))
        ;
    assert_state(vmm, "Paused");
    assert_done(kumo_vmm_resume(vmm, error));
    wait_for_event("shutdown");
    g_assert_cmpint(n_quits, ==, 1);
}

static void test_power_off(void)
{
    for (unsigned no_shutdown = 0; no_shutdown < 2; no_shutdown++) {
        g_autoptr(KumoVmm) vmm = vmm_new(no_shutdown);

        start(vmm);
        fake_hv_push_exit(fake_hv_vcpu(fake_hv_last_vm(), 0), KUMO_HV_EXIT_SHUTDOWN, 0);
        wait_for_event("shutdown");
        assert_state(vmm, "Created");
        g_assert_cmpint(n_quits, ==, !no_shutdown);
        g_assert_cmpint(n_failed_quits, ==, 0);
        if (no_shutdown) {
            /* Who reads the console reads on after the next boot. */
            g_assert_null(strstr(calls->str, "close"));
            assert_done(kumo_vmm_boot(vmm, error));
            g_assert_null(strstr(calls->str, "close"));
        }
    }
}

static void test_vcpu_failure(void)
{
    for (unsigned no_shutdown = 0; no_shutdown < 2; no_shutdown++) {
        g_autoptr(KumoVmm) vmm = vmm_new(no_shutdown);

        start(vmm);
        fake_hv_push_exit(fake_hv_vcpu(fake_hv_last_vm(), 1), KUMO_HV_EXIT_ERROR, 0);
        wait_for_event("shutdown");
        assert_state(vmm, "Created");
        g_assert_cmpint(n_failed_quits, ==, !no_shutdown);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    events = g_string_new(NULL);
    calls = g_string_new(NULL);
    g_test_add_func("/vmm/states", test_states);
    g_test_add_func("/vmm/boot-failures", test_boot_failures);
    g_test_add_func("/vmm/guest-reset", test_guest_reset);
    g_test_add_func("/vmm/paused-request", test_paused_request);
    g_test_add_func("/vmm/power-off", test_power_off);
    g_test_add_func("/vmm/vcpu-failure", test_vcpu_failure);
    return g_test_run();
}
