/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-balloon: pages given back, taken again and reported, statistics, and what a hostile guest
 * may not. */
#include "vmm-core/devices/virtio/virtio_balloon.h"

#include <string.h>
#include <sys/mman.h>

#include "tests/fakes/virtio_driver.h"
#include "vmm-core/base/error.h"

enum { PAGE = 4096, INFLATE = 0, DEFLATE = 1, STATS = 2, REPORTING = 3, N_PAGES = 64 };

#define F_STATS     (1ULL << 1)
#define F_OOM       (1ULL << 2)
#define F_REPORTING (1ULL << 5)

typedef struct {
    KumoFakeDriver *driver;
    uint64_t pages_gpa; /* N_PAGES pages with something in them */
    uint64_t list_gpa;  /* room for page numbers, statistics */
} Fixture;

static void make_device(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(
        kumo_device_type_virtio_balloon.create(&f->driver->machine, f->driver->config, &error));
    g_assert_no_error(error);
}

static void set_up(Fixture *f, gconstpointer data)
{
    KumoBalloonConfig *config;

    f->driver = kumo_fake_driver_new();
    config = &f->driver->config->balloon;
    f->driver->config->has_balloon = true;
    config->size_bytes = 16 * PAGE;
    config->deflate_on_oom = true;
    config->free_page_reporting = true;
    config->stats_period_s = 1;
    make_device(f);
    f->pages_gpa = kumo_fake_driver_alloc(f->driver, N_PAGES * PAGE);
    f->list_gpa = kumo_fake_driver_alloc(f->driver, 2 << 20);
    memset(kumo_fake_driver_ptr(f->driver, f->pages_gpa), 0x5a, (size_t)N_PAGES * PAGE);
    kumo_fake_driver_start(f->driver, ~0ULL, 16);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    kumo_fake_driver_free(f->driver);
}

static KumoDevice *device(Fixture *f)
{
    return &f->driver->virtio->device;
}

static bool is_resident(Fixture *f, unsigned page)
{
    unsigned char there = 0;
    uint8_t *hva = kumo_fake_driver_ptr(f->driver, f->pages_gpa + page * PAGE);

    g_assert_cmpint(mincore(hva, PAGE, &there), ==, 0);
    return there & 1;
}

static void expect_resident(Fixture *f, uint64_t pages)
{
    for (unsigned i = 0; i < N_PAGES; i++)
        g_assert_cmpint(is_resident(f, i), ==, pages >> i & 1);
}

static uint64_t counter(Fixture *f, const char *name)
{
    json_t *counters = device(f)->ops->counters(device(f));
    const json_t *value = json_object_get(counters, name);
    uint64_t number = value ? (uint64_t)json_integer_value(value) : UINT64_MAX;

    json_decref(counters);
    return number;
}

static uint32_t config32(Fixture *f, unsigned offset)
{
    KumoVirtio *virtio = f->driver->virtio;
    uint32_t value = 0;

    virtio->ops->config_read(virtio, offset, (uint8_t *)&value, sizeof(value));
    return value;
}

static void send(Fixture *f, unsigned queue, const KumoFakeBuf *bufs, unsigned n)
{
    uint16_t head;
    uint32_t len;

    kumo_fake_driver_add(f->driver, queue, bufs, n);
    kumo_fake_driver_kick(f->driver, queue);
    g_assert_true(kumo_fake_driver_wait(f->driver, queue, &head, &len));
    g_assert_cmpuint(len, ==, 0);
}

/* Page numbers @first, @first + @step, ... into the list. */
static uint32_t fill_list(Fixture *f, uint64_t first_gpa, int step, unsigned n)
{
    uint32_t *list = kumo_fake_driver_ptr(f->driver, f->list_gpa);

    for (unsigned i = 0; i < n; i++)
        list[i] = (uint32_t)(first_gpa / PAGE) + (uint32_t)((int)i * step);
    return n * (uint32_t)sizeof(uint32_t);
}

static void test_config(Fixture *f, gconstpointer data)
{
    KumoVirtio *virtio = f->driver->virtio;
    uint32_t actual = 7;

    g_assert_cmpuint(f->driver->params.type, ==, 5);
    g_assert_cmphex(f->driver->params.offered, ==, F_STATS | F_OOM | F_REPORTING);
    g_assert_cmpuint(f->driver->params.n_queues, ==, 4);
    g_assert_cmpstr(device(f)->id, ==, "__balloon");
    g_assert_cmpuint(config32(f, 0), ==, 16);
    g_assert_cmpuint(config32(f, 4), ==, 0);
    virtio->ops->config_write(virtio, 4, (const uint8_t *)&actual, 4);
    g_assert_cmpuint(config32(f, 4), ==, 7);
    g_assert_cmpint(device(f)->ops->memory_bytes(device(f)), ==, -7 * PAGE);
    /* The device's own field, and what is not there. */
    virtio->ops->config_write(virtio, 0, (const uint8_t *)&actual, 4);
    virtio->ops->config_write(virtio, 5, (const uint8_t *)&actual, 2);
    virtio->ops->config_write(virtio, 4095, (const uint8_t *)&actual, 1);
    g_assert_cmpuint(config32(f, 0), ==, 16);
    g_assert_cmpuint(config32(f, 4), ==, 7);
    /* No guest has more in the balloon than it has memory. */
    actual = UINT32_MAX;
    virtio->ops->config_write(virtio, 4, (const uint8_t *)&actual, 4);
    g_assert_cmpint(device(f)->ops->memory_bytes(device(f)), ==, -(int64_t)KUMO_FAKE_RAM_BYTES);
}

static void test_resize(Fixture *f, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(device(f)->ops->resize(device(f), 32 * PAGE + 1, &error));
    g_assert_cmpuint(config32(f, 0), ==, 32);
    g_assert_cmpint(f->driver->config_changes, ==, 1);
    g_assert_true(device(f)->ops->resize(device(f), 32 * PAGE, &error));
    g_assert_cmpint(f->driver->config_changes, ==, 1);
    g_assert_false(device(f)->ops->resize(device(f), 1ULL << 44, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_cmpuint(config32(f, 0), ==, 32);
}

static unsigned n_reached;

static void on_event(const char *source, const char *event, json_t *properties)
{
    g_assert_cmpstr(event, ==, "target-reached");
    g_assert_cmpstr(json_string_value(json_object_get(properties, "id")), ==, "__balloon");
    n_reached++;
    json_decref(properties);
}

/* Once for each target, however often a guest writes the number. */
static void test_target_reached(Fixture *f, gconstpointer data)
{
    KumoVirtio *virtio = f->driver->virtio;

    device(f)->machine->event = on_event;
    n_reached = 0;
    for (uint32_t target = 32; target > 0; target /= 2) {
        unsigned before = n_reached;

        g_assert_true(device(f)->ops->resize(device(f), target * PAGE, NULL));
        for (uint32_t actual = target + 2; actual >= target; actual--)
            virtio->ops->config_write(virtio, 4, (const uint8_t *)&actual, 4);
        for (unsigned i = 0; i < 3; i++)
            virtio->ops->config_write(virtio, 4, (const uint8_t *)&target, 4);
        g_assert_cmpuint(n_reached, ==, before + 1);
    }
}

static void test_inflate(Fixture *f, gconstpointer data)
{
    KumoFakeBuf list = { .gpa = f->list_gpa };

    list.len = fill_list(f, f->pages_gpa + 4 * PAGE, 1, 4);
    send(f, INFLATE, &list, 1);
    expect_resident(f, ~0xf0ULL);
    /* Downwards and with gaps, as a guest's allocator has them. */
    list.len = fill_list(f, f->pages_gpa + 19 * PAGE, -1, 4);
    send(f, INFLATE, &list, 1);
    list.len = fill_list(f, f->pages_gpa + 32 * PAGE, 2, 3);
    send(f, INFLATE, &list, 1);
    expect_resident(f, ~0x15000f00f0ULL);
    g_assert_cmpuint(counter(f, "inflated_bytes"), ==, 11 * PAGE);
    /* What is left is untouched, what went is zero when it comes back. */
    g_assert_cmpuint(*(uint8_t *)kumo_fake_driver_ptr(f->driver, f->pages_gpa), ==, 0x5a);
    list.len = fill_list(f, f->pages_gpa + 4 * PAGE, 1, 4);
    send(f, DEFLATE, &list, 1);
    g_assert_cmpuint(counter(f, "deflated_bytes"), ==, 4 * PAGE);
    g_assert_cmpuint(*(uint8_t *)kumo_fake_driver_ptr(f->driver, f->pages_gpa + 4 * PAGE), ==, 0);
}

/* A list in several buffers, longer than what is looked at at once. */
static void test_long_list(Fixture *f, gconstpointer data)
{
    KumoFakeBuf bufs[3];
    uint32_t len = fill_list(f, f->pages_gpa, 0, 3000);

    ((uint32_t *)kumo_fake_driver_ptr(f->driver, f->list_gpa))[2999] =
        (uint32_t)(f->pages_gpa / PAGE) + 9;
    bufs[0] = (KumoFakeBuf){ f->list_gpa, 1001, false };
    bufs[1] = (KumoFakeBuf){ f->list_gpa + 1001, 5000, false };
    bufs[2] = (KumoFakeBuf){ f->list_gpa + 6001, len - 6001, false };
    send(f, INFLATE, bufs, 3);
    expect_resident(f, ~0x201ULL);
}

static void expect_broken(Fixture *f, unsigned queue, const KumoFakeBuf *bufs, unsigned n)
{
    kumo_fake_driver_add(f->driver, queue, bufs, n);
    kumo_fake_driver_kick(f->driver, queue);
    g_assert_true(kumo_fake_driver_wait_broken(f->driver));
    f->driver->needs_reset = 0;
    kumo_fake_driver_stop(f->driver);
    kumo_fake_driver_start(f->driver, ~0ULL, 16);
}

static void test_wrong_pages(Fixture *f, gconstpointer data)
{
    static const uint32_t wrong[] = { KUMO_FAKE_RAM_BYTES / PAGE, 0x000fffff, 0x7fffffff,
                                      UINT32_MAX };
    uint32_t *list = kumo_fake_driver_ptr(f->driver, f->list_gpa);

    for (size_t i = 0; i < G_N_ELEMENTS(wrong); i++) {
        for (unsigned queue = INFLATE; queue <= DEFLATE; queue++) {
            const KumoFakeBuf buf = { f->list_gpa, 4, false };

            list[0] = wrong[i];
            expect_broken(f, queue, &buf, 1);
        }
    }
    expect_resident(f, ~0ULL);
}

static void test_wrong_chains(Fixture *f, gconstpointer data)
{
    const KumoFakeBuf odd = { f->list_gpa, 6, false };
    const KumoFakeBuf writable = { f->list_gpa, 8, true };
    const KumoFakeBuf readable = { f->pages_gpa, PAGE, false };
    const KumoFakeBuf outside = { KUMO_FAKE_RAM_BYTES - PAGE, 2 * PAGE, true };
    const KumoFakeBuf huge = { 0, 2 << 20, false };

    fill_list(f, f->pages_gpa, 1, 2);
    expect_broken(f, INFLATE, &odd, 1);
    expect_broken(f, INFLATE, &writable, 1);
    expect_broken(f, DEFLATE, &writable, 1);
    expect_broken(f, STATS, &writable, 1);
    expect_broken(f, REPORTING, &readable, 1);
    expect_broken(f, REPORTING, &outside, 1);
    expect_broken(f, INFLATE, &huge, 1);
    expect_resident(f, ~0ULL);
}

static void test_reporting(Fixture *f, gconstpointer data)
{
    const KumoFakeBuf bufs[] = { { f->pages_gpa + 8 * PAGE, 8 * PAGE, true },
                                 { f->pages_gpa + 20 * PAGE + 100, 2 * PAGE, true } };

    send(f, REPORTING, bufs, 2);
    /* Of pages that are reported in part, nothing goes. */
    expect_resident(f, ~0x20ff00ULL);
    g_assert_cmpuint(counter(f, "reported_bytes"), ==, 10 * PAGE);
}

/* A driver without statistics has reporting as its third queue. */
static void test_reporting_alone(Fixture *f, gconstpointer data)
{
    const KumoFakeBuf buf = { f->pages_gpa, 3 * PAGE, true };

    kumo_fake_driver_stop(f->driver);
    kumo_fake_driver_start(f->driver, F_REPORTING, 16);
    send(f, STATS, &buf, 1);
    expect_resident(f, ~7ULL);
}

static void put_stat(Fixture *f, unsigned index, uint16_t tag, uint64_t value)
{
    uint8_t *at = (uint8_t *)kumo_fake_driver_ptr(f->driver, f->list_gpa) + index * 10;

    memcpy(at, &tag, 2);
    memcpy(at + 2, &value, 8);
}

static void test_stats(Fixture *f, gconstpointer data)
{
    const KumoFakeBuf buf = { f->list_gpa, 35, false };
    uint16_t head;
    uint32_t len;

    g_assert_cmpuint(counter(f, "stats_time"), ==, UINT64_MAX);
    put_stat(f, 0, 4, 1000);
    put_stat(f, 1, 5, UINT64_MAX);
    put_stat(f, 2, 999, 3);
    kumo_fake_driver_add(f->driver, STATS, &buf, 1);
    kumo_fake_driver_kick(f->driver, STATS);
    /* It comes back when the device wants new ones. */
    g_assert_true(kumo_fake_driver_wait(f->driver, STATS, &head, &len));
    g_assert_cmpuint(counter(f, "free_memory"), ==, 1000);
    g_assert_cmpuint(counter(f, "total_memory"), ==, INT64_MAX);
    g_assert_cmpuint(counter(f, "swap_in"), ==, UINT64_MAX);
    g_assert_cmpuint(counter(f, "stats_time"), !=, UINT64_MAX);
    put_stat(f, 0, 4, 2000);
    kumo_fake_driver_add(f->driver, STATS, &buf, 1);
    kumo_fake_driver_kick(f->driver, STATS);
    g_assert_true(kumo_fake_driver_wait(f->driver, STATS, &head, &len));
    g_assert_cmpuint(counter(f, "free_memory"), ==, 2000);
}

static bool ask_every(Fixture *f, uint32_t period_s, GError **error)
{
    KumoBalloonConfig wanted = f->driver->config->balloon;

    wanted.stats_period_s = period_s;
    return device(f)->ops->update(device(f), &wanted, error);
}

/* The period is for whoever asks, the queue is the guest's as long as it runs. */
static void test_another_period(Fixture *f, gconstpointer data)
{
    const KumoFakeBuf buf = { f->list_gpa, 10, false };
    g_autoptr(GError) error = NULL;
    uint16_t head;
    uint32_t len;

    g_assert_true(ask_every(f, 0, &error));
    put_stat(f, 0, 4, 1000);
    kumo_fake_driver_add(f->driver, STATS, &buf, 1);
    kumo_fake_driver_kick(f->driver, STATS);
    while (counter(f, "free_memory") != 1000)
        g_usleep(1000);
    g_usleep(1500 * 1000);
    g_assert_false(kumo_fake_driver_take(f->driver, STATS, &head, &len));
    g_assert_true(ask_every(f, 1, &error));
    g_assert_no_error(error);
    g_assert_true(kumo_fake_driver_wait(f->driver, STATS, &head, &len));

    kumo_device_remove(device(f));
    f->driver->config->balloon.stats_period_s = 0;
    make_device(f);
    g_assert_true(ask_every(f, 0, &error));
    g_assert_false(ask_every(f, 1, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_STATE);
    g_clear_error(&error);
    kumo_device_remove(device(f));
    f->driver->config->balloon.statistics = true;
    make_device(f);
    g_assert_true(ask_every(f, 1, &error));
    g_assert_no_error(error);
}

/* Two buffers at once: the device would have to choose. */
static void test_two_stats(Fixture *f, gconstpointer data)
{
    const KumoFakeBuf buf = { f->list_gpa, 10, false };

    kumo_fake_driver_add(f->driver, STATS, &buf, 1);
    expect_broken(f, STATS, &buf, 1);
}

static void test_state(Fixture *f, gconstpointer data)
{
    const KumoDeviceState *ops = device(f)->ops->state;
    KumoVirtio *virtio = f->driver->virtio;
    g_autofree void *saved = g_malloc0(ops->table->size);
    g_autofree void *loaded = g_malloc0(ops->table->size);
    g_autoptr(GError) error = NULL;
    uint32_t actual = 5;
    json_t *json;

    virtio->ops->config_write(virtio, 4, (const uint8_t *)&actual, 4);
    g_assert_true(device(f)->ops->resize(device(f), 8 * PAGE, &error));
    g_assert_true(kumo_virtio_pci_pause(device(f), &error));
    ops->save(device(f), saved);
    json = kumo_state_encode(ops->table, saved);
    kumo_state_clear(ops->table, saved);
    kumo_device_remove(device(f));
    make_device(f);
    g_assert_true(kumo_state_decode(ops->table, json, "__balloon", loaded, &error));
    g_assert_true(ops->load(device(f), loaded, &error));
    g_assert_no_error(error);
    kumo_state_clear(ops->table, loaded);
    g_assert_cmpuint(config32(f, 0), ==, 8);
    g_assert_cmpuint(config32(f, 4), ==, 5);
    json_decref(json);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, function)                                                                        \
    g_test_add("/virtio-balloon/" name, Fixture, NULL, set_up, function, tear_down)
    ADD("config", test_config);
    ADD("resize", test_resize);
    ADD("target-reached", test_target_reached);
    ADD("inflate", test_inflate);
    ADD("long-list", test_long_list);
    ADD("wrong-pages", test_wrong_pages);
    ADD("wrong-chains", test_wrong_chains);
    ADD("reporting", test_reporting);
    ADD("reporting-alone", test_reporting_alone);
    ADD("stats", test_stats);
    ADD("two-stats", test_two_stats);
    ADD("another-period", test_another_period);
    ADD("state", test_state);
    return g_test_run();
}
