/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* vm.resize with the real controllers on the false hypervisor, whose vCPUs play the guest. */
#include <string.h>

#include "tests/fakes/fake_vmm.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/config/option.h"
#include "vmm-core/core/vm.h"
#include "vmm-core/vmm/vmm.h"
#include "vmm-core/devices/platform/platform.h"

enum {
    MAX_VCPUS = 4,

    SELECT = 0x0,
    STATUS = 0x4,
    OST = 0x8,
    ENABLED = 1 << 0,
    INSERTING = 1 << 1,
    REMOVING = 1 << 2,
    EJECT = 1 << 3,
    MEMORY_STATUS = 0x14,
};

#define PLATFORM_BASE  0x3fffffff0000ULL
#define PLATFORM_BYTES 0x10000ULL
#define MEMORY_GPA     (PLATFORM_BASE + 0xf000)
#define MIB            (1ULL << 20)
#define HOTPLUG_GPA    (1ULL << 32)
#define BOOT_RAM_MAX   (8192 * MIB)
/* The memory controller is first, where there is one. */
#define CPU_GPA (PLATFORM_BASE + 0xf000 - page)
#define GED_GPA (PLATFORM_BASE + 0xd000 - page)

static uint64_t page;

static GString *events;
static unsigned n_set_up;
static unsigned n_like_first; /* with the processor of a restored guest */

/* --- an architecture, and a VMM --- */

static bool layout(KumoHv *hv, const KumoVmConfig *config, KumoMachineLayout *ret_layout,
                   KumoMemRange *ret_ranges, unsigned *ret_n_ranges, GError **error)
{
    *ret_layout = (KumoMachineLayout){ .platform_mmio_base = PLATFORM_BASE,
                                       .platform_mmio_size = PLATFORM_BYTES,
                                       .hotplug_gpa = HOTPLUG_GPA - MIB,
                                       .ged_gsi = 13 };
    if (config->memory.size_bytes > BOOT_RAM_MAX) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "memory: too much");
        return false;
    }
    ret_ranges[0] = (KumoMemRange){ 0, config->memory.size_bytes };
    *ret_n_ranges = 1;
    return true;
}

static bool setup_vcpu(KumoMachine *of, KumoHvVcpu *vcpu, const KumoArchEntry *entry,
                       GError **error)
{
    g_assert_true(!entry || vcpu->index == 0);
    n_set_up++;
    n_like_first += of->guest_cpuid != NULL;
    return true;
}

static const KumoArchOps arch = {
    .name = "fake",
    .layout = layout,
    .apic_id = fake_arch_apic_id,
    .load = fake_arch_load,
    .setup_vcpu = setup_vcpu,
};

static const KumoDeviceType *const device_types[] = { &kumo_device_type_memory_hotplug,
                                                      &kumo_device_type_cpu_hotplug,
                                                      &kumo_device_type_ged, NULL };

static void on_event(const char *source, const char *event, json_t *properties)
{
    const char *id = json_string_value(json_object_get(properties, "id"));

    g_string_append_printf(events, "%s%s%s ", event, id ? ":" : "", id ? id : "");
    json_decref(properties);
}

static KumoVmm *vmm_created(unsigned boot, unsigned max)
{
    g_autoptr(GError) error = NULL;
    KumoVmm *vmm = fake_vmm_new(&arch, device_types, on_event);

    kumo_log_level = KUMO_LOG_ERROR;
    n_set_up = 0;
    page = 0;
    kumo_vmm_create(vmm, fake_vmm_config_new(16 * MIB, boot, max), &error);
    g_assert_no_error(error);
    return vmm;
}

static KumoVmm *vmm_running(unsigned boot, unsigned max)
{
    g_autoptr(GError) error = NULL;
    KumoVmm *vmm = vmm_created(boot, max);

    kumo_vmm_boot(vmm, &error);
    g_assert_no_error(error);
    g_string_truncate(events, 0);
    return vmm;
}

static bool resize_vcpus(KumoVmm *vmm, uint32_t wanted, GError **error)
{
    const KumoVmResize resize = { .has_vcpus = true, .vcpus = wanted };

    return kumo_vmm_resize(vmm, &resize, error);
}

static void assert_vcpus(KumoVmm *vmm, uint32_t wanted)
{
    g_autoptr(GError) error = NULL;

    resize_vcpus(vmm, wanted, &error);
    g_assert_no_error(error);
}

static void assert_vcpus_refused(KumoVmm *vmm, uint32_t wanted, KumoErrorCode code,
                                 const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(resize_vcpus(vmm, wanted, &error));
    g_assert_error(error, KUMO_ERROR, (int)code);
    g_assert_nonnull(strstr(error->message, "desired_vcpus"));
    g_assert_nonnull(strstr(error->message, word));
}

static void assert_configured(KumoVmm *vmm, unsigned boot, uint64_t memory_bytes)
{
    json_t *info = kumo_vmm_info(vmm, NULL);
    json_t *config = json_object_get(info, "config");

    g_assert_cmpint(
        json_integer_value(json_object_get(json_object_get(config, "cpus"), "boot_vcpus")), ==,
        boot);
    g_assert_cmpint(json_integer_value(json_object_get(json_object_get(config, "memory"), "size")),
                    ==, (json_int_t)memory_bytes);
    json_decref(info);
}

/* --- the guest: vCPU 0 --- */

static uint64_t guest_access(unsigned cpu, bool write, uint64_t gpa, uint64_t value, unsigned size)
{
    uint64_t ret = 0;
    int done = 0;

    fake_hv_push_access(fake_hv_vcpu(fake_hv_last_vm(), cpu), false, write, gpa, value, size, &ret,
                        &done);
    while (!g_atomic_int_get(&done))
        g_usleep(100);
    return size == 1 ? ret & 0xff : size == 4 ? ret & 0xffffffff : ret;
}

static uint8_t status_of(unsigned cpu)
{
    guest_access(0, true, CPU_GPA + SELECT, cpu, 4);
    return (uint8_t)guest_access(0, false, CPU_GPA + STATUS, 0, 1);
}

static void write_status(unsigned cpu, uint8_t value)
{
    guest_access(0, true, CPU_GPA + SELECT, cpu, 4);
    guest_access(0, true, CPU_GPA + STATUS, value, 1);
}

static uint8_t told(void)
{
    return (uint8_t)guest_access(0, false, GED_GPA, 0, 1);
}

static void run_main_loop(void)
{
    while (g_main_context_iteration(NULL, FALSE))
        ;
}

static unsigned count_vcpu_threads(void)
{
    unsigned n = 0;
    GDir *dir = g_dir_open("/proc/self/task", 0, NULL);

    while (g_dir_read_name(dir))
        n++;
    g_dir_close(dir);
    return n - 1; /* the main thread */
}

/* A thread that was joined may be shown a moment longer. */
static void assert_threads(unsigned n)
{
    for (unsigned i = 0; i < 1000 && count_vcpu_threads() > n; i++)
        g_usleep(1000);
    g_assert_cmpuint(count_vcpu_threads(), ==, n);
}

/* --- vCPUs --- */

static void test_vcpus_in(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(1, MAX_VCPUS);

    g_assert_cmphex(status_of(0), ==, ENABLED);
    g_assert_cmphex(status_of(1), ==, 0);
    assert_vcpus(vmm, 3);
    g_assert_cmpstr(events->str, ==, "resizing resized ");
    assert_configured(vmm, 3, 16 * MIB);
    assert_threads(3);
    g_assert_cmpuint(n_set_up, ==, 3);
    g_assert_cmpuint(fake_hv_vcpu(fake_hv_last_vm(), 2)->apic_id, ==, 4);
    g_assert_cmphex(told(), ==, KUMO_ACPI_NOTIFY_CPU);
    g_assert_cmphex(told(), ==, 0);
    g_assert_cmphex(status_of(0), ==, ENABLED);
    g_assert_cmphex(status_of(1), ==, ENABLED | INSERTING);
    write_status(1, INSERTING);
    g_assert_cmphex(status_of(1), ==, ENABLED);
    g_assert_cmphex(status_of(2), ==, ENABLED | INSERTING);
    g_assert_cmphex(status_of(3), ==, 0);
    /* They run. */
    g_assert_cmphex(guest_access(2, false, 0x1000, 0, 4), ==, 0xffffffff);
    /* Nothing to do. */
    assert_vcpus(vmm, 3);
    g_assert_cmphex(told(), ==, 0);
}

static void test_vcpus_out(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(4, MAX_VCPUS);

    assert_vcpus(vmm, 2);
    assert_configured(vmm, 2, 16 * MIB);
    g_assert_cmphex(told(), ==, KUMO_ACPI_NOTIFY_CPU);
    g_assert_cmphex(status_of(1), ==, ENABLED);
    g_assert_cmphex(status_of(2), ==, ENABLED | REMOVING);
    assert_threads(4);
    write_status(2, REMOVING);
    g_assert_cmphex(status_of(2), ==, ENABLED);
    /* Other numbers have to wait; the same number asks again. */
    assert_vcpus_refused(vmm, 4, KUMO_ERROR_BUSY, "2 vCPUs");
    g_assert_cmphex(told(), ==, 0);
    assert_vcpus_refused(vmm, 2, KUMO_ERROR_BUSY, "again");
    g_assert_cmphex(told(), ==, KUMO_ACPI_NOTIFY_CPU);
    g_assert_cmphex(status_of(2), ==, ENABLED | REMOVING);

    write_status(3, EJECT);
    g_assert_cmphex(status_of(3), ==, 0);
    g_string_truncate(events, 0);
    run_main_loop();
    g_assert_cmpstr(events->str, ==, "vcpu-removed:vcpu3 ");
    assert_threads(3);
    assert_vcpus_refused(vmm, 3, KUMO_ERROR_BUSY, "1 vCPU");
    write_status(2, EJECT);
    /* Without the main loop: the request has it done first. */
    assert_vcpus(vmm, 3);
    assert_threads(3);
    g_assert_cmpuint(n_set_up, ==, 4);
    g_assert_cmphex(status_of(2), ==, ENABLED | INSERTING);
    g_assert_cmpint(fake_hv_vcpu(fake_hv_last_vm(), 2)->mp_state, ==, KUMO_HV_MP_UNINITIALIZED);
    g_assert_cmphex(guest_access(2, false, 0x1000, 0, 4), ==, 0xffffffff);
}

/* A guest that says no keeps what it has, and the configuration says so. */
static void test_vcpus_kept(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(4, MAX_VCPUS);
    const uint32_t busy = 0x82 << 16 | 3; /* of an eject request */

    assert_vcpus(vmm, 2);
    g_string_truncate(events, 0);
    status_of(3);
    guest_access(0, true, CPU_GPA + OST, busy, 4);
    guest_access(0, true, CPU_GPA + OST, busy, 4);
    run_main_loop();
    /* One may still leave. */
    assert_configured(vmm, 2, 16 * MIB);
    assert_vcpus_refused(vmm, 4, KUMO_ERROR_BUSY, "1 vCPU");
    status_of(2);
    guest_access(0, true, CPU_GPA + OST, busy, 4);
    g_assert_cmpstr(events->str, ==, "device-removal-failed:vcpu3 device-removal-failed:vcpu2 ");
    run_main_loop();
    assert_configured(vmm, 4, 16 * MIB);
    assert_vcpus(vmm, 3);
    write_status(3, EJECT);
    run_main_loop();
    assert_threads(3);
    assert_configured(vmm, 3, 16 * MIB);
    g_assert_true(kumo_vmm_reboot(vmm, NULL));
    assert_threads(3);
}

/* What a guest may do at any time. */
static void test_hostile(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(4, MAX_VCPUS);

    for (unsigned cpu = 0; cpu < MAX_VCPUS; cpu++)
        write_status(cpu, EJECT | INSERTING | REMOVING);
    write_status(MAX_VCPUS, EJECT);
    write_status(0xffffffff, EJECT);
    g_assert_cmphex(status_of(0xffffffff), ==, 0);
    g_assert_cmphex(guest_access(0, false, CPU_GPA, 0, 4), ==, 0xffffffff);
    for (unsigned offset = 0; offset < 0xc; offset++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            guest_access(0, false, CPU_GPA + offset, 0, size);
            if (offset != STATUS || size != 1)
                guest_access(0, true, CPU_GPA + offset, ~0ull, size);
        }
    }
    run_main_loop();
    for (unsigned cpu = 0; cpu < MAX_VCPUS; cpu++)
        g_assert_cmphex(status_of(cpu), ==, ENABLED);

    /* vCPU 3 lets itself go, and the same twice. */
    assert_vcpus(vmm, 3);
    guest_access(3, true, CPU_GPA + SELECT, 3, 4);
    guest_access(3, true, CPU_GPA + STATUS, EJECT, 1);
    write_status(3, EJECT);
    write_status(0, EJECT);
    run_main_loop();
    assert_threads(3);
    g_assert_cmphex(status_of(0), ==, ENABLED);
    g_assert_cmphex(status_of(3), ==, 0);
}

static void test_vcpus_paused(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(2, MAX_VCPUS);
    FakeHvVm *vm = fake_hv_last_vm();

    assert_vcpus(vmm, 1);
    write_status(1, EJECT);
    g_assert_true(kumo_vmm_pause(vmm, NULL));
    assert_threads(1);
    assert_vcpus(vmm, 3);
    assert_threads(3);
    g_assert_cmpint(g_atomic_int_get(&fake_hv_vcpu(vm, 2)->n_runs), ==, 0);
    g_assert_true(kumo_vmm_resume(vmm, NULL));
    g_assert_cmphex(told(), ==, KUMO_ACPI_NOTIFY_CPU);
    g_assert_cmphex(guest_access(2, false, 0x1000, 0, 4), ==, 0xffffffff);
}

/* The next machine has the last number wanted, whatever this one's guest did. */
static void test_vcpus_reboot(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(1, MAX_VCPUS);

    assert_vcpus(vmm, 4);
    g_assert_true(kumo_vmm_reboot(vmm, NULL));
    assert_threads(4);
    g_assert_cmphex(status_of(3), ==, ENABLED);
    assert_vcpus(vmm, 2);
    assert_vcpus_refused(vmm, 3, KUMO_ERROR_BUSY, "2 vCPUs");
    g_string_truncate(events, 0);
    g_assert_true(kumo_vmm_reboot(vmm, NULL));
    g_assert_cmpstr(events->str, ==, "rebooting vcpu-removed:vcpu3 vcpu-removed:vcpu2 rebooted ");
    assert_threads(2);
    assert_vcpus(vmm, 3);
}

static void test_vcpus_fail(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(1, MAX_VCPUS);

    fake_hv_last_vm()->fail = "vcpu_create";
    assert_vcpus_refused(vmm, 4, KUMO_ERROR_HYPERVISOR, "vCPU 1");
    fake_hv_last_vm()->fail = NULL;
    g_assert_cmphex(told(), ==, 0);
    g_assert_cmphex(status_of(1), ==, 0);
    assert_configured(vmm, 1, 16 * MIB);
    assert_vcpus(vmm, 4);
    assert_threads(4);
}

static void test_cycles(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(1, MAX_VCPUS);

    for (unsigned i = 0; i < 50; i++) {
        assert_vcpus(vmm, 4);
        assert_threads(4);
        g_assert_cmphex(guest_access(3, false, 0x1000, 0, 4), ==, 0xffffffff);
        assert_vcpus(vmm, 1);
        for (unsigned cpu = 1; cpu < 4; cpu++)
            write_status(cpu, EJECT);
        run_main_loop();
        assert_threads(1);
    }
    g_assert_cmpuint(n_set_up, ==, 4);
}

static void test_refused(void)
{
    g_autoptr(KumoVmm) vmm = vmm_created(2, MAX_VCPUS);
    const KumoVmResize nothing = { 0 };

    assert_vcpus_refused(vmm, 0, KUMO_ERROR_INVALID, "from 1");
    assert_vcpus_refused(vmm, 5, KUMO_ERROR_INVALID, "max_vcpus, 4");
    /* Before the boot it is the configuration that changes. */
    assert_vcpus(vmm, 3);
    assert_configured(vmm, 3, 16 * MIB);
    g_assert_true(kumo_vmm_boot(vmm, NULL));
    assert_threads(3);
    assert_vcpus_refused(vmm, 0, KUMO_ERROR_INVALID, "from 1");
    g_assert_true(kumo_vmm_resize(vmm, &nothing, NULL));
    g_assert_true(kumo_vmm_delete(vmm, NULL));
    {
        g_autoptr(GError) error = NULL;

        g_assert_false(resize_vcpus(vmm, 1, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND);
    }
}

/* A machine that has one vCPU for good has no controller. */
static void test_one_vcpu(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(1, 1);

    assert_vcpus(vmm, 1);
    assert_vcpus_refused(vmm, 2, KUMO_ERROR_INVALID, "max_vcpus, 1");
    g_assert_cmphex(guest_access(0, false, CPU_GPA, 0, 4), ==, 0xffffffff);
    g_assert_cmphex(told(), ==, 0);
}

/* --- memory --- */

static KumoVmm *vmm_with_memory(bool running, uint64_t hotplug_bytes)
{
    g_autoptr(GError) error = NULL;
    KumoVmm *vmm = fake_vmm_new(&arch, device_types, on_event);
    KumoVmConfig *config = fake_vmm_config_new(256 * MIB, 1, 1);

    config->memory.hotplug_size_bytes = hotplug_bytes;
    page = hotplug_bytes ? 0x1000 : 0;
    kumo_vmm_create(vmm, config, &error);
    g_assert_no_error(error);
    if (running)
        kumo_vmm_boot(vmm, &error);
    g_assert_no_error(error);
    return vmm;
}

static bool resize_ram(KumoVmm *vmm, uint64_t wanted, GError **error)
{
    const KumoVmResize resize = { .has_ram = true, .ram_bytes = wanted };

    return kumo_vmm_resize(vmm, &resize, error);
}

static void assert_ram(KumoVmm *vmm, uint64_t wanted)
{
    g_autoptr(GError) error = NULL;

    resize_ram(vmm, wanted, &error);
    g_assert_no_error(error);
    assert_configured(vmm, 1, wanted);
}

static void assert_ram_refused(KumoVmm *vmm, uint64_t wanted, KumoErrorCode code, const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_false(resize_ram(vmm, wanted, &error));
    g_assert_error(error, KUMO_ERROR, (int)code);
    if (!g_str_has_prefix(error->message, "desired_ram: ") || !strstr(error->message, word))
        g_error("%s: %s", word, error->message);
}

static uint64_t memory_register(unsigned slot, unsigned offset, unsigned size)
{
    guest_access(0, true, MEMORY_GPA + SELECT, slot, 4);
    return guest_access(0, false, MEMORY_GPA + offset, 0, size);
}

static void assert_slot(unsigned slot, uint64_t gpa, uint64_t size_bytes, uint8_t status)
{
    g_assert_cmphex(memory_register(slot, 0x0, 4) | memory_register(slot, 0x4, 4) << 32, ==, gpa);
    g_assert_cmphex(memory_register(slot, 0x8, 4) | memory_register(slot, 0xc, 4) << 32, ==,
                    size_bytes);
    g_assert_cmphex(memory_register(slot, 0x10, 4), ==, 0);
    g_assert_cmphex(memory_register(slot, MEMORY_STATUS, 1), ==, status);
}

static void assert_mapped(unsigned index, uint64_t gpa, uint64_t size_bytes)
{
    const FakeHvVm *vm = fake_hv_last_vm();
    const FakeSlot *slot = &g_array_index(vm->slots, FakeSlot, index);

    g_assert_cmpuint(vm->slots->len, ==, index + 1);
    g_assert_cmphex(slot->gpa, ==, gpa);
    g_assert_cmphex(slot->size_bytes, ==, size_bytes);
    memset((uint8_t *)slot->hva + slot->size_bytes - 4096, 0x55, 4096);
}

static void test_memory_in(void)
{
    g_autoptr(KumoVmm) vmm = vmm_with_memory(true, 4096 * MIB);

    assert_slot(0, 0, 0, 0);
    assert_ram(vmm, 512 * MIB);
    g_assert_cmphex(told(), ==, KUMO_ACPI_NOTIFY_MEMORY);
    assert_mapped(1, HOTPLUG_GPA, 256 * MIB);
    assert_slot(0, HOTPLUG_GPA, 256 * MIB, ENABLED | INSERTING);
    assert_slot(1, 0, 0, 0);
    guest_access(0, true, MEMORY_GPA + SELECT, 0, 4);
    guest_access(0, true, MEMORY_GPA + MEMORY_STATUS, INSERTING, 1);
    assert_slot(0, HOTPLUG_GPA, 256 * MIB, ENABLED);
    /* The same again is nothing to do; less is had after a reboot. */
    assert_ram(vmm, 512 * MIB);
    assert_ram(vmm, 64 * MIB);
    g_assert_cmphex(told(), ==, 0);
    assert_mapped(1, HOTPLUG_GPA, 256 * MIB);
    assert_ram(vmm, 512 * MIB);
    assert_mapped(1, HOTPLUG_GPA, 256 * MIB);
    assert_ram(vmm, 640 * MIB);
    assert_mapped(2, HOTPLUG_GPA + 256 * MIB, 128 * MIB);
    assert_slot(1, HOTPLUG_GPA + 256 * MIB, 128 * MIB, ENABLED | INSERTING);
    assert_ram(vmm, 128 * MIB);
    g_assert_true(kumo_vmm_reboot(vmm, NULL));
    assert_mapped(0, 0, 128 * MIB);
    assert_slot(0, 0, 0, 0);
    assert_ram(vmm, 256 * MIB);
    assert_mapped(1, HOTPLUG_GPA, 128 * MIB);
}

static void test_memory_slots(void)
{
    g_autoptr(KumoVmm) vmm = vmm_with_memory(true, 2048 * MIB);

    for (unsigned i = 1; i <= 8; i++)
        assert_ram(vmm, (256 + 128 * i) * MIB);
    assert_mapped(8, HOTPLUG_GPA + 7 * 128 * MIB, 128 * MIB);
    assert_ram_refused(vmm, (256 + 128 * 9) * MIB, KUMO_ERROR_RESOURCE, "8 times");
    assert_slot(7, HOTPLUG_GPA + 7 * 128 * MIB, 128 * MIB, ENABLED | INSERTING);
    assert_slot(8, 0, 0, 0);
    assert_slot(0xffffffff, 0, 0, 0);
}

static void test_memory_refused(void)
{
    g_autoptr(KumoVmm) vmm = vmm_with_memory(true, 1024 * MIB);
    FakeHvVm *vm = fake_hv_last_vm();

    assert_ram_refused(vmm, 0, KUMO_ERROR_INVALID, "page size");
    assert_ram_refused(vmm, 256 * MIB + 1, KUMO_ERROR_INVALID, "page size");
    assert_ram_refused(vmm, 64 * MIB - 1, KUMO_ERROR_INVALID, "page size");
    assert_ram_refused(vmm, 257 * MIB, KUMO_ERROR_INVALID, "128 MiB");
    assert_ram_refused(vmm, 1408 * MIB, KUMO_ERROR_INVALID, "room for 1073741824");
    assert_ram_refused(vmm, BOOT_RAM_MAX + MIB, KUMO_ERROR_INVALID, "too much");
    vm->fail = "set_memory";
    assert_ram_refused(vmm, 512 * MIB, KUMO_ERROR_HYPERVISOR, "");
    vm->fail = NULL;
    assert_configured(vmm, 1, 256 * MIB);
    g_assert_cmphex(told(), ==, 0);
    assert_slot(0, 0, 0, 0);
    assert_ram(vmm, 1280 * MIB);
    assert_ram_refused(vmm, 1408 * MIB, KUMO_ERROR_INVALID, "room for 0");
    for (unsigned offset = 0; offset < 0x18; offset++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            guest_access(0, false, MEMORY_GPA + offset, 0, size);
            guest_access(0, true, MEMORY_GPA + offset, offset ? ~0ull : 0, size);
        }
    }
    assert_slot(0, HOTPLUG_GPA, 1024 * MIB, ENABLED);
    g_clear_pointer(&vmm, kumo_vmm_free);

    /* No controller, or no machine. */
    vmm = vmm_with_memory(true, 0);
    assert_ram_refused(vmm, 512 * MIB, KUMO_ERROR_NOT_SUPPORTED, "hotplug_size");
    assert_ram(vmm, 128 * MIB);
    g_clear_pointer(&vmm, kumo_vmm_free);
    vmm = vmm_with_memory(false, 0);
    assert_ram_refused(vmm, 5, KUMO_ERROR_INVALID, "page size");
    assert_ram(vmm, 300 * MIB);
    g_assert_true(kumo_vmm_boot(vmm, NULL));
    assert_mapped(0, 0, 300 * MIB);
}

/* One wish that is wrong, and none is fulfilled. */
static void test_all_or_nothing(void)
{
    g_autoptr(KumoVmm) vmm = vmm_running(1, MAX_VCPUS);
    KumoVmResize wanted = { .has_vcpus = true, .vcpus = 2, .has_ram = true, .ram_bytes = 5 };

    g_assert_false(kumo_vmm_resize(vmm, &wanted, NULL));
    assert_threads(1);
    assert_configured(vmm, 1, 16 * MIB);
    wanted.ram_bytes = 8 * MIB;
    g_assert_true(kumo_vmm_resize(vmm, &wanted, NULL));
    assert_threads(2);
    assert_configured(vmm, 2, 8 * MIB);
}

static void assert_valid(KumoVmm *vmm)
{
    g_autoptr(GError) error = NULL;
    json_t *info = kumo_vmm_info(vmm, NULL);
    json_t *changes = json_pack("{s:[{s:i,s:[i]}]}", "affinity", "vcpu", 0, "host_cpus", 0);
    g_autoptr(KumoVmConfig) config =
        kumo_vm_config_from_json(json_object_get(info, "config"), &error);

    g_assert_no_error(error);
    kumo_vm_config_validate(config, &error);
    g_assert_no_error(error);
    kumo_vmm_update_cpus(vmm, changes, &error);
    g_assert_no_error(error);
    json_decref(changes);
    json_decref(info);
}

/* Devices keep their queues when vCPUs go: the configuration stays one that can be created,
 * restored and changed. */
static void test_fewer_than_queues(void)
{
    g_autoptr(GError) error = NULL;
    KumoVmm *vmm = fake_vmm_new(&arch, device_types, on_event);
    KumoVmConfig *config = fake_vmm_config_new(16 * MIB, 4, MAX_VCPUS);

    page = 0;
    kumo_log_level = KUMO_LOG_ERROR;
    g_assert_true(kumo_option_apply(config, "disk", "path=/disk,num_queues=4", &error));
    g_assert_true(kumo_option_apply(config, "net", "num_queues=8", &error));
    kumo_vmm_create(vmm, config, &error);
    g_assert_no_error(error);
    assert_vcpus(vmm, 3);
    assert_valid(vmm);
    kumo_vmm_boot(vmm, &error);
    g_assert_no_error(error);
    assert_vcpus(vmm, 1);
    assert_configured(vmm, 1, 16 * MIB);
    assert_valid(vmm);
    kumo_vmm_free(vmm);
}

/* --- state --- */

static bool load_nothing(void *opaque, KumoMemory *memory, GError **error)
{
    return true;
}

/* @load_memory: NULL: the state is to be loaded later. */
static KumoVm *vm_new_with(KumoHv *hv, const KumoVmConfig *config, const json_t *state,
                           bool (*load_memory)(void *opaque, KumoMemory *memory, GError **error),
                           GError **error)
{
    const KumoVmRestore restore = { .state = state, .load_memory = load_memory };
    const KumoVmParams params = {
        .hv = hv,
        .arch = &arch,
        .device_types = device_types,
        .config = config,
        .restore = state ? &restore : NULL,
    };

    return kumo_vm_new(&params, error);
}

static KumoVm *vm_new(KumoHv *hv, const KumoVmConfig *config, const json_t *state, GError **error)
{
    return vm_new_with(hv, config, state, load_nothing, error);
}

static void assert_not_restored(KumoHv *hv, const KumoVmConfig *config, const json_t *state,
                                const char *word)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(vm_new(hv, config, state, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    if (!strstr(error->message, word))
        g_error("%s: %s", word, error->message);
}

/* @vm has the vCPUs of test_state(). */
static void assert_goes_on(KumoVm *vm)
{
    g_autoptr(GError) error = NULL;

    g_assert_cmpuint(kumo_vm_count_vcpus(vm), ==, 3);
    g_assert_cmpuint(kumo_vm_count_leaving_vcpus(vm), ==, 1);
    assert_threads(3);
    g_assert_true(kumo_vm_resume(vm, &error));
    g_assert_cmphex(status_of(1), ==, ENABLED);
    g_assert_cmphex(status_of(2), ==, 0);
    g_assert_cmphex(status_of(3), ==, ENABLED | REMOVING);
    write_status(3, EJECT);
    kumo_vm_finish_vcpu_ejects(vm);
    assert_threads(2);
    /* Number 2 is new to this process, and shown as the others are. */
    n_like_first = 0;
    g_assert_true(kumo_vm_add_vcpus(vm, 4, &error));
    assert_threads(4);
    g_assert_cmpuint(n_like_first, ==, 1);
    g_assert_cmpuint(fake_hv_vcpu(fake_hv_last_vm(), 0)->tsc_khz, !=, 0);
    g_assert_cmpuint(fake_hv_vcpu(fake_hv_last_vm(), 2)->tsc_khz, ==,
                     fake_hv_vcpu(fake_hv_last_vm(), 0)->tsc_khz);
}

/* Four vCPUs, of which the guest was to let two go and has let go one: number 2 is missing. */
static void test_state(void)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    KumoHv *hv = fake_hv_ops.open(NULL);
    KumoVm *vm;
    json_t *state, *other, *flags;

    config->memory.size_bytes = 16 * MIB;
    config->cpus.boot_vcpus = config->cpus.max_vcpus = MAX_VCPUS;
    page = 0;
    vm = vm_new(hv, config, NULL, &error);
    g_assert_no_error(error);
    kumo_vm_start(vm);
    kumo_vm_ask_vcpus_to_leave(vm, 2);
    write_status(2, EJECT);
    kumo_vm_finish_vcpu_ejects(vm);
    config->cpus.boot_vcpus = 2;
    g_assert_true(kumo_vm_pause(vm, &error));
    state = kumo_vm_save_state(vm, &error);
    g_assert_no_error(error);
    kumo_vm_free(vm);
    g_assert_cmpuint(json_array_size(json_object_get(state, "vcpus")), ==, 4);
    g_assert_true(json_is_null(json_array_get(json_object_get(state, "vcpus"), 2)));

    vm = vm_new(hv, config, state, &error);
    g_assert_no_error(error);
    assert_goes_on(vm);
    kumo_vm_free(vm);

    /* The same when it arrives: the machine has all vCPUs of its configuration before it is known
     * which there are. */
    config->cpus.boot_vcpus = MAX_VCPUS;
    vm = vm_new_with(hv, config, state, NULL, &error);
    g_assert_no_error(error);
    assert_threads(0);
    g_assert_true(kumo_vm_load(vm, state, &error));
    assert_goes_on(vm);
    config->cpus.boot_vcpus = 2;
    kumo_vm_free(vm);

    other = json_deep_copy(state);
    json_array_set_new(json_object_get(other, "vcpus"), 0, json_null());
    assert_not_restored(hv, config, other, "vcpus: 4");
    json_array_clear(json_object_get(other, "vcpus"));
    assert_not_restored(hv, config, other, "vcpus: 0");
    json_object_set_new(other, "vcpus", json_string("four"));
    assert_not_restored(hv, config, other, "vcpus");
    json_decref(other);
    other = json_deep_copy(state);
    json_array_append_new(json_object_get(other, "vcpus"), json_object());
    assert_not_restored(hv, config, other, "vcpus: 5");
    json_decref(other);
    other = json_deep_copy(state);
    json_array_set_new(json_object_get(other, "vcpus"), 2, json_integer(7));
    assert_not_restored(hv, config, other, "cpus[2]");
    json_decref(other);
    for (unsigned i = 0; i < MAX_VCPUS; i++) {
        static const int wrong[] = { 0x100, KUMO_CPU_EJECTED, KUMO_CPU_ASKED, KUMO_CPU_PRESENT };
        g_autofree char *word = g_strdup_printf("cpus[%u]", i);

        other = json_deep_copy(state);
        flags = json_object_get(
            json_object_get(json_object_get(json_object_get(other, "devices"), "__cpu_hotplug"),
                            "state"),
            "cpus");
        /* The first is never ejected; number 2 is not there; the others cannot be asked for and
         * gone. */
        json_array_set_new(flags, i, json_integer(wrong[i == 0 ? 1 : i == 2 ? 3 : i == 1 ? 0 : 2]));
        assert_not_restored(hv, config, other, word);
        json_decref(other);
    }
    json_decref(state);
    hv->ops->close(hv);
}

/* 256 MiB, to which 512 were added in two pieces; less is configured for the next time. */
static void test_memory_state(void)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    KumoHv *hv = fake_hv_ops.open(NULL);
    KumoVm *vm;
    json_t *state, *other, *ranges;

    config->memory.size_bytes = 256 * MIB;
    config->memory.hotplug_size_bytes = 1024 * MIB;
    config->cpus.boot_vcpus = config->cpus.max_vcpus = 1;
    page = 0x1000;
    vm = vm_new(hv, config, NULL, &error);
    g_assert_no_error(error);
    g_assert_true(kumo_vm_add_memory(vm, 128 * MIB, &error));
    g_assert_true(kumo_vm_add_memory(vm, 384 * MIB, &error));
    kumo_vm_start(vm);
    guest_access(0, true, MEMORY_GPA + SELECT, 0, 4);
    guest_access(0, true, MEMORY_GPA + MEMORY_STATUS, INSERTING, 1);
    config->memory.size_bytes = 512 * MIB;
    g_assert_true(kumo_vm_pause(vm, &error));
    state = kumo_vm_save_state(vm, &error);
    g_assert_no_error(error);
    kumo_vm_free(vm);

    vm = vm_new(hv, config, state, &error);
    g_assert_no_error(error);
    g_assert_cmpuint(kumo_vm_ram_bytes(vm), ==, 768 * MIB);
    assert_mapped(2, HOTPLUG_GPA + 128 * MIB, 384 * MIB);
    g_assert_true(kumo_vm_resume(vm, &error));
    assert_slot(0, HOTPLUG_GPA, 128 * MIB, ENABLED);
    assert_slot(1, HOTPLUG_GPA + 128 * MIB, 384 * MIB, ENABLED | INSERTING);
    g_assert_true(kumo_vm_add_memory(vm, 512 * MIB, &error));
    kumo_vm_free(vm);

    for (unsigned i = 0; i < 4; i++) {
        static const char *const sizes[] = { "0x0", "0x7ffffff", "0x30000000",
                                             "0xfffffffff8000000" };

        other = json_deep_copy(state);
        ranges = json_object_get(json_object_get(other, "machine"), "memory");
        json_object_set_new(json_array_get(ranges, 2), "size_bytes", json_string(sizes[i]));
        if (i == 2)
            json_object_set_new(json_array_get(ranges, 1), "size_bytes", json_string("0x18000000"));
        assert_not_restored(hv, config, other, "machine.memory[2]");
        json_decref(other);
    }
    other = json_deep_copy(state);
    ranges = json_object_get(json_object_get(other, "machine"), "memory");
    json_object_set_new(json_array_get(ranges, 2), "gpa", json_string("0x10000"));
    assert_not_restored(hv, config, other, "machine.memory.gpa");
    json_object_set_new(json_object_get(other, "machine"), "boot_ram_bytes",
                        json_string("0x1000000000000"));
    assert_not_restored(hv, config, other, "too much");
    json_decref(other);
    json_decref(state);
    hv->ops->close(hv);
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    events = g_string_new(NULL);
    g_test_add_func("/vmm-resize/vcpus-in", test_vcpus_in);
    g_test_add_func("/vmm-resize/vcpus-out", test_vcpus_out);
    g_test_add_func("/vmm-resize/vcpus-kept", test_vcpus_kept);
    g_test_add_func("/vmm-resize/hostile", test_hostile);
    g_test_add_func("/vmm-resize/vcpus-paused", test_vcpus_paused);
    g_test_add_func("/vmm-resize/vcpus-reboot", test_vcpus_reboot);
    g_test_add_func("/vmm-resize/vcpus-fail", test_vcpus_fail);
    g_test_add_func("/vmm-resize/cycles", test_cycles);
    g_test_add_func("/vmm-resize/refused", test_refused);
    g_test_add_func("/vmm-resize/one-vcpu", test_one_vcpu);
    g_test_add_func("/vmm-resize/memory-in", test_memory_in);
    g_test_add_func("/vmm-resize/memory-slots", test_memory_slots);
    g_test_add_func("/vmm-resize/memory-refused", test_memory_refused);
    g_test_add_func("/vmm-resize/all-or-nothing", test_all_or_nothing);
    g_test_add_func("/vmm-resize/fewer-than-queues", test_fewer_than_queues);
    g_test_add_func("/vmm-resize/state", test_state);
    g_test_add_func("/vmm-resize/memory-state", test_memory_state);
    status = g_test_run();
    g_string_free(events, TRUE);
    return status;
}
