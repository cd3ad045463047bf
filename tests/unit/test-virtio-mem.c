/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-mem: which blocks a guest gets, what a hostile one does not get, and where the host's
 * memory goes. */
#include "vmm-core/devices/virtio/virtio_mem.h"

#include <string.h>
#include <sys/mman.h>

#include "tests/fakes/virtio_driver.h"
#include "vmm-core/base/error.h"

#define MIB   (1ULL << 20)
#define BLOCK (2 * MIB)
/* The fake's memory, its second half as what may be plugged. */
#define REGION_GPA   (16 * MIB)
#define REGION_BYTES (16 * MIB)
#define N_BLOCKS     (REGION_BYTES / BLOCK)

enum { PLUG, UNPLUG, UNPLUG_ALL, STATE };
enum { ACK, NACK, BUSY, ERROR };
enum { PLUGGED, UNPLUGGED, MIXED };

typedef struct {
    uint16_t type;
    uint16_t padding[3];
    uint64_t addr;
    uint16_t nb_blocks;
    uint16_t padding2[3];
} __attribute__((packed)) Request;

typedef struct {
    uint16_t type;
    uint16_t padding[3];
    uint16_t state;
} __attribute__((packed)) Response;

typedef struct {
    KumoFakeDriver *driver;
    KumoMemory *memory;
    KumoMemBacking backings[2];
    const KumoMemBacking *old_backings;
    uint64_t request_gpa, response_gpa;
} Fixture;

static void make_device(Fixture *f)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(
        kumo_device_type_virtio_mem.create(&f->driver->machine, f->driver->config, &error));
    g_assert_no_error(error);
}

static void set_up(Fixture *f, gconstpointer data)
{
    KumoMemBacking whole;

    f->driver = kumo_fake_driver_new();
    f->memory = f->driver->machine.memory;
    whole = f->memory->backings[0];
    f->old_backings = f->memory->backings;
    f->backings[0] = whole;
    f->backings[0].size_bytes = REGION_GPA;
    f->backings[1] = whole;
    f->backings[1].gpa = REGION_GPA;
    f->backings[1].hva += REGION_GPA;
    f->backings[1].size_bytes = REGION_BYTES;
    f->backings[1].hotplug = true;
    f->memory->backings = f->backings;
    f->memory->n_backings = 2;
    f->driver->config->memory.hotplug_method = KUMO_HOTPLUG_METHOD_VIRTIO_MEM;
    f->driver->config->memory.virtio_mem.plugged_bytes = 4 * BLOCK;
    make_device(f);
    f->request_gpa = kumo_fake_driver_alloc(f->driver, sizeof(Request));
    f->response_gpa = kumo_fake_driver_alloc(f->driver, sizeof(Response));
    kumo_fake_driver_start(f->driver, ~0ULL, 16);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    f->memory->backings = f->old_backings;
    f->memory->n_backings = 1;
    kumo_fake_driver_free(f->driver);
}

static Response ask_at(Fixture *f, uint16_t type, uint64_t gpa, uint16_t n)
{
    const KumoFakeBuf bufs[] = { { f->request_gpa, sizeof(Request), false },
                                 { f->response_gpa, sizeof(Response), true } };
    Request *request = kumo_fake_driver_ptr(f->driver, f->request_gpa);
    Response response;
    uint16_t head;
    uint32_t len;

    *request = (Request){ .type = type, .addr = gpa, .nb_blocks = n };
    memset(kumo_fake_driver_ptr(f->driver, f->response_gpa), 0xee, sizeof(response));
    kumo_fake_driver_add(f->driver, 0, bufs, 2);
    kumo_fake_driver_kick(f->driver, 0);
    g_assert_true(kumo_fake_driver_wait(f->driver, 0, &head, &len));
    g_assert_cmpuint(len, ==, sizeof(Response));
    memcpy(&response, kumo_fake_driver_ptr(f->driver, f->response_gpa), sizeof(response));
    return response;
}

static unsigned ask(Fixture *f, uint16_t type, unsigned block, uint16_t n)
{
    return ask_at(f, type, REGION_GPA + block * BLOCK, n).type;
}

static unsigned state(Fixture *f, unsigned block, uint16_t n)
{
    Response response = ask_at(f, STATE, REGION_GPA + block * BLOCK, n);

    g_assert_cmpuint(response.type, ==, ACK);
    return response.state;
}

/* Field at @offset of the configuration (5.15.4). */
static uint64_t config64(Fixture *f, unsigned offset)
{
    KumoVirtio *virtio = f->driver->virtio;
    uint64_t value = 0;

    virtio->ops->config_read(virtio, offset, (uint8_t *)&value, sizeof(value));
    return value;
}

static uint64_t plugged_size(Fixture *f)
{
    return config64(f, 40);
}

static KumoDevice *device(Fixture *f)
{
    return &f->driver->virtio->device;
}

static bool resize(Fixture *f, uint64_t bytes)
{
    g_autoptr(GError) error = NULL;
    bool ok = device(f)->ops->resize(device(f), bytes, &error);

    g_assert_true(ok == (error == NULL));
    if (error)
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    return ok;
}

static uint8_t *block_ptr(Fixture *f, unsigned block)
{
    return kumo_fake_driver_ptr(f->driver, REGION_GPA + block * BLOCK);
}

static unsigned resident_pages(Fixture *f, unsigned block)
{
    unsigned char pages[BLOCK / 4096];
    unsigned n = 0;

    g_assert_cmpint(mincore(block_ptr(f, block), BLOCK, pages), ==, 0);
    for (size_t i = 0; i < sizeof(pages); i++)
        n += pages[i] & 1;
    return n;
}

static void test_config(Fixture *f, gconstpointer data)
{
    KumoVirtio *virtio = f->driver->virtio;
    uint8_t beyond[8] = { 0xff };

    g_assert_cmpuint(f->driver->params.type, ==, 24);
    g_assert_cmpuint(f->driver->params.offered, ==, 0);
    g_assert_cmpstr(device(f)->id, ==, "mem0");
    g_assert_cmpuint(config64(f, 0), ==, BLOCK);
    g_assert_cmpuint(config64(f, 8), ==, 0);
    g_assert_cmphex(config64(f, 16), ==, REGION_GPA);
    g_assert_cmphex(config64(f, 24), ==, REGION_BYTES);
    g_assert_cmphex(config64(f, 32), ==, REGION_BYTES);
    g_assert_cmphex(plugged_size(f), ==, 0);
    g_assert_cmphex(config64(f, 48), ==, 4 * BLOCK);
    virtio->ops->config_read(virtio, 56, beyond, sizeof(beyond));
    g_assert_cmpuint(beyond[0], ==, 0);
}

static void test_plug(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(state(f, 0, N_BLOCKS), ==, UNPLUGGED);
    g_assert_cmpuint(ask(f, PLUG, 1, 2), ==, ACK);
    g_assert_cmphex(plugged_size(f), ==, 2 * BLOCK);
    g_assert_cmpint(device(f)->ops->memory_bytes(device(f)), ==, 2 * BLOCK);
    g_assert_cmpuint(state(f, 0, N_BLOCKS), ==, MIXED);
    g_assert_cmpuint(state(f, 1, 2), ==, PLUGGED);
    /* What is there already, also in part. */
    g_assert_cmpuint(ask(f, PLUG, 1, 1), ==, ERROR);
    g_assert_cmpuint(ask(f, PLUG, 2, 2), ==, ERROR);
    /* More than was asked for. */
    g_assert_cmpuint(ask(f, PLUG, 3, 3), ==, NACK);
    g_assert_cmpuint(ask(f, PLUG, 3, 2), ==, ACK);
    g_assert_cmpuint(ask(f, PLUG, 7, 1), ==, NACK);
    g_assert_cmphex(plugged_size(f), ==, 4 * BLOCK);
}

static void test_unplug(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(ask(f, PLUG, 0, 4), ==, ACK);
    for (unsigned i = 0; i < 4; i++)
        memset(block_ptr(f, i), 0x5a, BLOCK);
    g_assert_cmpuint(ask(f, UNPLUG, 1, 2), ==, ACK);
    g_assert_cmphex(plugged_size(f), ==, 2 * BLOCK);
    g_assert_cmpuint(resident_pages(f, 0), ==, BLOCK / 4096);
    g_assert_cmpuint(resident_pages(f, 1), ==, 0);
    g_assert_cmpuint(resident_pages(f, 2), ==, 0);
    g_assert_cmpuint(resident_pages(f, 3), ==, BLOCK / 4096);
    /* What is not plugged, also in part: nothing of it goes. */
    g_assert_cmpuint(ask(f, UNPLUG, 1, 1), ==, ERROR);
    g_assert_cmpuint(ask(f, UNPLUG, 2, 2), ==, ERROR);
    g_assert_cmpuint(resident_pages(f, 3), ==, BLOCK / 4096);
    g_assert_cmpuint(block_ptr(f, 3)[BLOCK - 1], ==, 0x5a);
    g_assert_cmpuint(ask(f, UNPLUG_ALL, 0, 0), ==, ACK);
    g_assert_cmphex(plugged_size(f), ==, 0);
    g_assert_cmpuint(resident_pages(f, 0) + resident_pages(f, 3), ==, 0);
    g_assert_cmpuint(state(f, 0, N_BLOCKS), ==, UNPLUGGED);
    g_assert_cmpuint(ask(f, PLUG, 1, 1), ==, ACK);
    g_assert_cmpuint(block_ptr(f, 1)[0], ==, 0);
}

/* Ranges that are not the device's: nothing is touched, the device goes on. */
static void test_wrong_ranges(Fixture *f, gconstpointer data)
{
    static const struct {
        uint64_t gpa;
        uint16_t n;
    } ranges[] = {
        { 0, 1 },
        { REGION_GPA - BLOCK, 1 },
        { REGION_GPA - BLOCK, 2 },
        { REGION_GPA + 4096, 1 },
        { REGION_GPA + BLOCK / 2, 1 },
        { REGION_GPA, 0 },
        { REGION_GPA, N_BLOCKS + 1 },
        { REGION_GPA, UINT16_MAX },
        { REGION_GPA + REGION_BYTES, 1 },
        { REGION_GPA + REGION_BYTES - BLOCK, 2 },
        { UINT64_MAX - BLOCK + 1, 1 },
        { UINT64_MAX - BLOCK + 1, UINT16_MAX },
        { UINT64_MAX, 1 },
    };
    uint8_t *ram = kumo_fake_driver_ptr(f->driver, REGION_GPA - BLOCK);

    memset(ram, 0x77, BLOCK);
    g_assert_true(resize(f, REGION_BYTES));
    for (size_t i = 0; i < G_N_ELEMENTS(ranges); i++) {
        for (uint16_t type = PLUG; type <= STATE; type++) {
            if (type != UNPLUG_ALL)
                g_assert_cmpuint(ask_at(f, type, ranges[i].gpa, ranges[i].n).type, ==, ERROR);
        }
    }
    g_assert_cmpuint(ask_at(f, 4, REGION_GPA, 1).type, ==, ERROR);
    g_assert_cmpuint(ask_at(f, UINT16_MAX, REGION_GPA, 1).type, ==, ERROR);
    g_assert_cmphex(plugged_size(f), ==, 0);
    for (size_t i = 0; i < BLOCK; i++)
        g_assert_cmpuint(ram[i], ==, 0x77);
    g_assert_cmpint(f->driver->needs_reset, ==, 0);
    g_assert_cmpuint(ask(f, PLUG, 0, N_BLOCKS), ==, ACK);
}

/* Chains without room for a request or its answer: the device asks to be reset, and works after it.
 */
static void test_wrong_chains(Fixture *f, gconstpointer data)
{
    const KumoFakeBuf chains[][2] = {
        { { f->request_gpa, sizeof(Request) - 1, false },
          { f->response_gpa, sizeof(Response), true } },
        { { f->request_gpa, sizeof(Request), false },
          { f->response_gpa, sizeof(Response) - 1, true } },
        { { f->request_gpa, sizeof(Request), false }, { f->response_gpa, 64, false } },
        { { f->request_gpa, sizeof(Request), true }, { f->response_gpa, 64, true } },
        { { f->request_gpa, sizeof(Request), false }, { KUMO_FAKE_RAM_BYTES, 64, true } },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(chains); i++) {
        kumo_fake_driver_add(f->driver, 0, chains[i], 2);
        kumo_fake_driver_kick(f->driver, 0);
        g_assert_true(kumo_fake_driver_wait_broken(f->driver));
        f->driver->needs_reset = 0;
        kumo_fake_driver_stop(f->driver);
        kumo_fake_driver_start(f->driver, ~0ULL, 16);
        g_assert_cmpuint(state(f, 0, 1), ==, UNPLUGGED);
    }
}

static void test_resize(Fixture *f, gconstpointer data)
{
    /* The same again asks again, unless the guest has done it. */
    g_assert_true(resize(f, 4 * BLOCK));
    g_assert_cmpint(f->driver->config_changes, ==, 1);
    g_assert_cmpuint(ask(f, PLUG, 0, 4), ==, ACK);
    g_assert_true(resize(f, 4 * BLOCK));
    g_assert_cmpint(f->driver->config_changes, ==, 1);
    g_assert_true(resize(f, REGION_BYTES));
    g_assert_cmpint(f->driver->config_changes, ==, 2);
    g_assert_cmphex(config64(f, 48), ==, REGION_BYTES);
    g_assert_false(resize(f, REGION_BYTES + BLOCK));
    g_assert_false(resize(f, BLOCK + 4096));
    g_assert_false(resize(f, UINT64_MAX));
    g_assert_cmphex(config64(f, 48), ==, REGION_BYTES);
    g_assert_cmpuint(ask(f, PLUG, 4, N_BLOCKS - 4), ==, ACK);
    /* Asked for less, the guest keeps what it has until it gives it. */
    g_assert_true(resize(f, BLOCK));
    g_assert_cmphex(plugged_size(f), ==, REGION_BYTES);
    g_assert_cmpuint(ask(f, UNPLUG, 1, N_BLOCKS - 1), ==, ACK);
    g_assert_cmpuint(ask(f, PLUG, 1, 1), ==, NACK);
}

/* A reset of the device leaves memory alone: the driver asks for it back (5.15.5). */
static void test_reset(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(ask(f, PLUG, 2, 2), ==, ACK);
    memset(block_ptr(f, 2), 0x11, BLOCK);
    kumo_fake_driver_stop(f->driver);
    kumo_fake_driver_start(f->driver, ~0ULL, 16);
    g_assert_cmphex(plugged_size(f), ==, 2 * BLOCK);
    g_assert_cmpuint(block_ptr(f, 2)[0], ==, 0x11);
    g_assert_cmpuint(state(f, 2, 2), ==, PLUGGED);
}

static void test_state(Fixture *f, gconstpointer data)
{
    const KumoDeviceState *ops = device(f)->ops->state;
    g_autofree void *saved = g_malloc0(ops->table->size);
    g_autofree void *loaded = g_malloc0(ops->table->size);
    g_autoptr(GError) error = NULL;
    json_t *json;

    g_assert_cmpuint(ask(f, PLUG, 1, 1), ==, ACK);
    g_assert_cmpuint(ask(f, PLUG, 5, 2), ==, ACK);
    g_assert_true(resize(f, 5 * BLOCK));
    g_assert_true(kumo_virtio_pci_pause(device(f), &error));
    ops->save(device(f), saved);
    json = kumo_state_encode(ops->table, saved);
    kumo_state_clear(ops->table, saved);
    kumo_device_remove(device(f));
    make_device(f);
    g_assert_true(kumo_state_decode(ops->table, json, "mem0", loaded, &error));
    g_assert_no_error(error);
    g_assert_true(ops->load(device(f), loaded, &error));
    g_assert_no_error(error);
    kumo_state_clear(ops->table, loaded);
    g_assert_cmphex(plugged_size(f), ==, 3 * BLOCK);
    g_assert_cmphex(config64(f, 48), ==, 5 * BLOCK);
    f->driver->ram_next = 4096 * 16;
    kumo_fake_driver_start(f->driver, ~0ULL, 16);
    g_assert_cmpuint(state(f, 1, 1), ==, PLUGGED);
    g_assert_cmpuint(state(f, 2, 3), ==, UNPLUGGED);
    g_assert_cmpuint(state(f, 5, 2), ==, PLUGGED);
    json_decref(json);
}

static void test_state_refused(Fixture *f, gconstpointer data)
{
    static const struct {
        const char *field;
        const char *value;
        const char *word;
    } rows[] = {
        { "gpa", "0x0", "gpa" },
        { "size_bytes", "0x2000000", "size_bytes" },
        { "block_bytes", "0x1000", "block_bytes" },
        { "requested_bytes", "0x1001", "requested_bytes" },
        { "requested_bytes", "0x10000000000", "requested_bytes" },
        { "plugged", "0000", "plugged" },
        { "plugged", "", "plugged" },
    };
    const KumoDeviceState *ops = device(f)->ops->state;

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree void *saved = g_malloc0(ops->table->size);
        g_autofree void *loaded = g_malloc0(ops->table->size);
        g_autoptr(GError) error = NULL;
        json_t *json, *fields;

        ops->save(device(f), saved);
        json = kumo_state_encode(ops->table, saved);
        kumo_state_clear(ops->table, saved);
        fields = json_object_get(json, "fields") ? json_object_get(json, "fields") : json;
        g_assert_nonnull(json_object_get(fields, rows[i].field));
        json_object_set_new(fields, rows[i].field, json_string(rows[i].value));
        if (kumo_state_decode(ops->table, json, "mem0", loaded, &error))
            g_assert_false(ops->load(device(f), loaded, &error));
        g_assert_nonnull(error);
        g_assert_nonnull(strstr(error->message, rows[i].word));
        kumo_state_clear(ops->table, loaded);
        json_decref(json);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
#define ADD(name, function)                                                                        \
    g_test_add("/virtio-mem/" name, Fixture, NULL, set_up, function, tear_down)
    ADD("config", test_config);
    ADD("plug", test_plug);
    ADD("unplug", test_unplug);
    ADD("wrong-ranges", test_wrong_ranges);
    ADD("wrong-chains", test_wrong_chains);
    ADD("resize", test_resize);
    ADD("reset", test_reset);
    ADD("state", test_state);
    ADD("state-refused", test_state_refused);
    return g_test_run();
}
