/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "tests/fakes/fake_hv.h"
#include "vmm-core/base/error.h"
#include "vmm-core/config/option.h"
#include "vmm-core/core/vcpu.h"

enum { VCPUS = 3, PAUSES = 200, LONG_ACCESS_US = 60000 };

typedef struct {
    KumoHv *hv;
    FakeHvVm *vm;
    KumoMachine machine;
    KumoVcpus *vcpus;
    int n_requests[3]; /* atomic; by KumoMachineRequest */
} Fixture;

static void on_request(void *opaque, KumoMachineRequest request)
{
    Fixture *fixture = opaque;

    g_atomic_int_inc(&fixture->n_requests[request]);
}

static void wait_for(int *value, int at_least)
{
    while (g_atomic_int_get(value) < at_least)
        g_usleep(100);
}

static void set_up(Fixture *fixture, gconstpointer ops)
{
    const KumoHvVmParams params = { .max_vcpus = VCPUS };
    g_autoptr(GError) error = NULL;

    fixture->hv = ((const KumoHvOps *)ops)->open(NULL);
    fixture->vm = (FakeHvVm *)fixture->hv->ops->vm_create(fixture->hv, &params, NULL);
    fixture->machine.hv = &fixture->vm->base;
    fixture->machine.pio = kumo_bus_new("pio", VCPUS);
    fixture->machine.mmio = kumo_bus_new("mmio", VCPUS);
    fixture->machine.irq = kumo_irq_new(&fixture->vm->base);
    fixture->machine.request = on_request;
    fixture->machine.request_opaque = fixture;
    fixture->vcpus = kumo_vcpus_new(&fixture->machine);
    for (unsigned i = 0; i < VCPUS; i++)
        g_assert_nonnull(kumo_vcpus_add(fixture->vcpus, i, i, NULL, &error));
    g_assert_true(kumo_vcpus_start(fixture->vcpus, &error));
    g_assert_no_error(error);
}

static void tear_down(Fixture *fixture, gconstpointer unused)
{
    kumo_vcpus_free(fixture->vcpus);
    g_assert_cmpuint(fixture->vm->n_vcpus, ==, 0);
    kumo_irq_free(fixture->machine.irq);
    kumo_bus_free(fixture->machine.mmio);
    kumo_bus_free(fixture->machine.pio);
    fixture->vm->base.ops->destroy(&fixture->vm->base);
    fixture->hv->ops->close(fixture->hv);
}

/* Nothing runs while paused, everything runs afterwards, however quickly one follows the other. */
static void test_pause(Fixture *fixture, gconstpointer unused)
{
    for (unsigned round = 0; round < PAUSES; round++) {
        g_autoptr(GError) error = NULL;
        int before[VCPUS];

        kumo_vcpus_resume(fixture->vcpus);
        if (round % 4 == 0)
            g_usleep(200);
        g_assert_true(kumo_vcpus_pause(fixture->vcpus, &error));
        for (unsigned i = 0; i < VCPUS; i++)
            before[i] = g_atomic_int_get(&fake_hv_vcpu(fixture->vm, i)->n_runs);
        if (round % 16 == 0)
            g_usleep(500);
        for (unsigned i = 0; i < VCPUS; i++)
            g_assert_cmpint(g_atomic_int_get(&fake_hv_vcpu(fixture->vm, i)->n_runs), ==, before[i]);
    }
    /* It really ran, and was told that it stood still. */
    kumo_vcpus_resume(fixture->vcpus);
    for (unsigned i = 0; i < VCPUS; i++) {
        uint64_t value = 0;
        int done = 0;

        fake_hv_push_access(fake_hv_vcpu(fixture->vm, i), false, false, 0x1000, 0, 4, &value,
                            &done);
        wait_for(&done, 1);
        g_assert_cmphex(value, ==, 0xffffffff);
        g_assert_cmpuint(fake_hv_vcpu(fixture->vm, i)->n_clock_paused, >, 0);
    }
}

/* A vCPU is where it may be before it enters the guest for the first time. */
static void test_affinity(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    g_autofree char *options = NULL;
    cpu_set_t all;
    int last = CPU_SETSIZE - 1;

    g_assert_cmpint(sched_getaffinity(0, sizeof(all), &all), ==, 0);
    while (!CPU_ISSET(last, &all))
        last--;
    options = g_strdup_printf("boot=%d,affinity=[1@[%d]]", VCPUS, last);
    kumo_option_apply(config, "cpus", options, &error);
    g_assert_no_error(error);
    kumo_vcpus_free(fixture->vcpus);
    fixture->machine.config = config;
    fixture->vcpus = kumo_vcpus_new(&fixture->machine);
    for (unsigned i = 0; i < VCPUS; i++)
        g_assert_nonnull(kumo_vcpus_add(fixture->vcpus, i, i, NULL, &error));
    g_assert_true(kumo_vcpus_start(fixture->vcpus, &error));
    g_assert_no_error(error);
    kumo_vcpus_resume(fixture->vcpus);
    for (unsigned i = 0; i < VCPUS; i++) {
        FakeHvVcpu *vcpu = fake_hv_vcpu(fixture->vm, i);

        wait_for(&vcpu->n_runs, 1);
        if (i == 1)
            g_assert_true(CPU_COUNT(&vcpu->first_cpus) == 1 && CPU_ISSET(last, &vcpu->first_cpus));
        else
            g_assert_true(CPU_EQUAL(&vcpu->first_cpus, &all));
    }
    kumo_vcpus_free(fixture->vcpus);
    fixture->machine.config = NULL;
    fixture->vcpus = kumo_vcpus_new(&fixture->machine);
}

static void access_all(Fixture *fixture)
{
    for (unsigned i = 0; i < VCPUS; i++) {
        uint64_t value = 0;
        int done = 0;

        fake_hv_push_access(fake_hv_vcpu(fixture->vm, i), false, false, 0x1000, 0, 4, &value,
                            &done);
        wait_for(&done, 1);
    }
}

/* vCPUs that are to rest come out of the guest again and again, still run, and stop when they are
 * to stop. */
static void test_throttle(Fixture *fixture, gconstpointer unused)
{
    int before[VCPUS];
    int64_t start;

    kumo_vcpus_resume(fixture->vcpus);
    access_all(fixture);
    for (unsigned i = 0; i < VCPUS; i++)
        before[i] = g_atomic_int_get(&fake_hv_vcpu(fixture->vm, i)->n_runs);
    kumo_vcpus_throttle(fixture->vcpus, 50);
    for (unsigned i = 0; i < VCPUS; i++)
        wait_for(&fake_hv_vcpu(fixture->vm, i)->n_runs, before[i] + 5);
    access_all(fixture);
    kumo_vcpus_throttle(fixture->vcpus, 99);
    /* All of them rest for a second then. */
    g_usleep(100000);
    start = g_get_monotonic_time();
    g_assert_true(kumo_vcpus_pause(fixture->vcpus, NULL));
    g_assert_cmpint(g_get_monotonic_time() - start, <, 500000);
    kumo_vcpus_resume(fixture->vcpus);
    kumo_vcpus_throttle(fixture->vcpus, 0);
    access_all(fixture);
    /* Nothing is left that would make them come out. */
    g_usleep(20000);
    for (unsigned i = 0; i < VCPUS; i++)
        before[i] = g_atomic_int_get(&fake_hv_vcpu(fixture->vm, i)->n_runs);
    g_usleep(100000);
    for (unsigned i = 0; i < VCPUS; i++)
        g_assert_cmpint(g_atomic_int_get(&fake_hv_vcpu(fixture->vm, i)->n_runs), ==, before[i]);
}

static void long_access(void *opaque)
{
    int *stage = opaque;

    g_atomic_int_set(stage, 1);
    g_usleep(LONG_ACCESS_US);
    g_atomic_int_set(stage, 2);
}

/* A pause waits for an access that is under way. */
static void test_pause_inside_device(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    int stage = 0;

    kumo_vcpus_resume(fixture->vcpus);
    fake_hv_push_call(fake_hv_vcpu(fixture->vm, 1), long_access, &stage);
    wait_for(&stage, 1);
    g_assert_true(kumo_vcpus_pause(fixture->vcpus, &error));
    g_assert_cmpint(g_atomic_int_get(&stage), ==, 2);
}

static void test_never_run(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(kumo_vcpus_pause(fixture->vcpus, &error));
    g_assert_true(kumo_vcpus_pause(fixture->vcpus, &error));
    g_assert_true(kumo_vcpus_nmi(fixture->vcpus, &error));
    g_assert_cmpuint(fake_hv_vcpu(fixture->vm, 2)->n_nmis, ==, 1);
}

/* A vCPU that cannot go on asks the machine once and waits for its end; the others run on. */
static void test_last_exits(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    int done = 0, runs;

    kumo_vcpus_resume(fixture->vcpus);
    fake_hv_push_exit(fake_hv_vcpu(fixture->vm, 0), KUMO_HV_EXIT_RESET, 0);
    fake_hv_push_exit(fake_hv_vcpu(fixture->vm, 1), KUMO_HV_EXIT_ERROR, 0);
    wait_for(&fixture->n_requests[KUMO_MACHINE_REQUEST_RESET], 1);
    wait_for(&fixture->n_requests[KUMO_MACHINE_REQUEST_FAILED], 1);
    fake_hv_push_access(fake_hv_vcpu(fixture->vm, 2), true, true, 0x80, 1, 1, NULL, &done);
    wait_for(&done, 1);
    fake_hv_push_exit(fake_hv_vcpu(fixture->vm, 2), KUMO_HV_EXIT_SHUTDOWN, 0);
    wait_for(&fixture->n_requests[KUMO_MACHINE_REQUEST_SHUTDOWN], 1);

    runs = g_atomic_int_get(&fake_hv_vcpu(fixture->vm, 0)->n_runs);
    g_assert_true(kumo_vcpus_pause(fixture->vcpus, &error));
    kumo_vcpus_resume(fixture->vcpus);
    g_usleep(1000);
    g_assert_cmpint(g_atomic_int_get(&fake_hv_vcpu(fixture->vm, 0)->n_runs), ==, runs);
    g_assert_cmpint(fixture->n_requests[KUMO_MACHINE_REQUEST_RESET], ==, 1);
}

static void test_eoi(Fixture *fixture, gconstpointer unused)
{
    const uint32_t low = 1u << 15 | 0x41;
    const uint8_t select = 0x10 + 2 * 5;
    int done = 0;

    kumo_irq_ioapic_write(fixture->machine.irq, 0, &select, 1);
    kumo_irq_ioapic_write(fixture->machine.irq, 0x10, (const uint8_t *)&low, 4);
    kumo_irq_set_level(fixture->machine.irq, 5, true);
    g_assert_cmpuint(fixture->vm->msis->len, ==, 1);
    kumo_vcpus_resume(fixture->vcpus);
    fake_hv_push_exit(fake_hv_vcpu(fixture->vm, 0), KUMO_HV_EXIT_IOAPIC_EOI, 0x41);
    fake_hv_push_access(fake_hv_vcpu(fixture->vm, 0), true, true, 0x80, 1, 1, NULL, &done);
    wait_for(&done, 1);
    g_assert_cmpuint(fixture->vm->msis->len, ==, 2); /* still asserted */
}

#define ADD(path, func)                                                                            \
    do {                                                                                           \
        g_test_add(path, Fixture, &fake_hv_ops, set_up, func, tear_down);                          \
        g_test_add(path "-signals-only", Fixture, &fake_hv_signals_only_ops, set_up, func,         \
                   tear_down);                                                                     \
    } while (0)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/vcpu/pause", test_pause);
    ADD("/vcpu/throttle", test_throttle);
    ADD("/vcpu/affinity", test_affinity);
    ADD("/vcpu/pause-inside-device", test_pause_inside_device);
    ADD("/vcpu/never-run", test_never_run);
    ADD("/vcpu/last-exits", test_last_exits);
    ADD("/vcpu/eoi", test_eoi);
    return g_test_run();
}
