/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/migration_pair.h"

#include <glib/gstdio.h>
#include <string.h>

#include "vmm-core/base/error.h"

#define MIB  MIGRATION_PAIR_MIB
#define PAGE 4096ULL

KumoMemory *migration_pair_new_memory(FakeHvVm *vm, bool shared)
{
    const KumoMemoryConfig config = { .size_bytes = 8 * MIB, .shared = shared };
    const KumoMemRange ranges[] = { { 0, 5 * MIB }, { 16 * MIB, 3 * MIB } };
    g_autoptr(GError) error = NULL;
    KumoMemory *memory =
        kumo_memory_new(&config, ranges, G_N_ELEMENTS(ranges), 0, &vm->base, &error);

    g_assert_no_error(error);
    return memory;
}

void migration_pair_guest_writes(MigrationPair *pair, uint64_t gpa, uint8_t value, uint64_t len)
{
    g_autofree uint8_t *data = g_malloc(len);

    memset(data, value, len);
    fake_hv_guest_writes(pair->source_vm, gpa, data, len);
}

/* --- the hosts --- */

static bool called(MigrationPair *pair, const char *what, GError **error)
{
    g_string_append_printf(pair->calls, "%s ", what);
    if (g_strcmp0(pair->fail, what) != 0)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "%s was told to fail", what);
    return false;
}

static bool host_stop(void *opaque, GError **error)
{
    MigrationPair *pair = opaque;

    /* The last that the guest does; and a device. */
    if (!pair->sender.config->local) {
        migration_pair_guest_writes(pair, 16 * MIB, 0x77, 3 * PAGE);
        migration_pair_guest_writes(pair, MIB, 0, PAGE);
        g_assert_true(kumo_memory_write(pair->source, 2 * MIB + 5, "device", 6));
    }
    return called(pair, "stop", error);
}

static json_t *host_hand_over(void *opaque, GError **error)
{
    return called(opaque, "hand-over", error) ? json_pack("{s:s}", "a", "state") : NULL;
}

static void host_iteration(void *opaque, unsigned id)
{
    MigrationPair *pair = opaque;

    g_string_append_printf(pair->calls, "round%u ", id);
    if (id < pair->busy_rounds)
        migration_pair_guest_writes(pair, 0, (uint8_t)(id + 1), 2 * MIB);
}

static void host_throttle(void *opaque, unsigned percent)
{
    g_string_append_printf(((MigrationPair *)opaque)->calls, "throttle%u ", percent);
}

static void host_followed(void *opaque)
{
    MigrationPair *pair = opaque;

    g_string_append(pair->calls, "followed ");
}

static const KumoSendHost default_send_host = {
    .stop = host_stop,
    .hand_over = host_hand_over,
    .throttle = host_throttle,
    .iteration = host_iteration,
    .followed = host_followed,
};

static void host_started(void *opaque)
{
    called(opaque, "started", NULL);
}

static bool host_build(void *opaque, const json_t *document, KumoMemory **ret_memory,
                       GError **error)
{
    MigrationPair *pair = opaque;

    if (!called(pair, "build", error))
        return false;
    g_assert_cmpstr(json_string_value(json_object_get(document, "machine")), ==, "m");
    *ret_memory = pair->memory;
    return true;
}

static bool host_load(void *opaque, const json_t *state, GError **error)
{
    g_assert_cmpstr(json_string_value(json_object_get(state, "a")), ==, "state");
    return called(opaque, "load", error);
}

static bool host_go(void *opaque, bool paused, GError **error)
{
    return called(opaque, paused ? "go-paused" : "go", error);
}

static void host_on_main(void *opaque, void (*func)(void *arg), void *arg)
{
    func(arg);
}

static const KumoReceiveHost default_receive_host = { host_started, host_build, host_load, host_go,
                                                      host_on_main };

/* --- both ends --- */

static void listen_at_url(MigrationPair *pair)
{
    g_autoptr(GError) error = NULL;

    g_assert_true(kumo_migration_cancel_init(&pair->cancel, NULL));
    g_assert_true(kumo_channel_listen(&pair->listener, "url", pair->url, &error));
    g_assert_no_error(error);
}

void migration_pair_init(MigrationPair *pair, bool shared, const KumoSendHost *send_host,
                         const KumoReceiveHost *receive_host, void *opaque)
{
    *pair = (MigrationPair){ .directory = g_dir_make_tmp("kumo-migration-XXXXXX", NULL) };
    pair->calls = g_string_new(NULL);
    pair->url = g_strdup_printf("unix:%s/socket", pair->directory);
    pair->source_vm = fake_hv_vm_new();
    pair->vm = fake_hv_vm_new();
    pair->source = migration_pair_new_memory(pair->source_vm, shared);
    pair->memory = migration_pair_new_memory(pair->vm, shared);
    g_assert_true(kumo_migration_cancel_init(&pair->send_cancel, NULL));
    listen_at_url(pair);
    pair->receiver = (KumoReceiver){ .listener = &pair->listener,
                                     .host = receive_host ? receive_host : &default_receive_host,
                                     .opaque = receive_host ? opaque : pair,
                                     .cancel = &pair->cancel };
    pair->config = (KumoSendMigrationConfig){
        .destination_url = pair->url, .downtime_ms = 300, .timeout_s = 3600, .checksum = true
    };
    pair->sender = (KumoSender){ .config = &pair->config,
                                 .document = json_pack("{s:s}", "machine", "m"),
                                 .memory = pair->source,
                                 .host = send_host ? send_host : &default_send_host,
                                 .opaque = send_host ? opaque : pair,
                                 .cancel = &pair->send_cancel };
    migration_pair_guest_writes(pair, 3 * PAGE, 0x11, 10 * PAGE);
    migration_pair_guest_writes(pair, MIB, 0x22, MIB);
    migration_pair_guest_writes(pair, 18 * MIB, 0x33, 5);
}

static void *receive_thread(void *opaque)
{
    MigrationPair *pair = opaque;

    pair->received = kumo_receive_run(&pair->receiver, &pair->receive_error);
    return NULL;
}

void migration_pair_receive(MigrationPair *pair)
{
    pair->thread = g_thread_new("receive", receive_thread, pair);
}

void migration_pair_wait(MigrationPair *pair)
{
    if (pair->thread)
        g_thread_join(g_steal_pointer(&pair->thread));
}

void migration_pair_take_over(MigrationPair *pair)
{
    kumo_migration_cancel_set(&pair->cancel);
    migration_pair_wait(pair);
    g_clear_error(&pair->receive_error);
    kumo_channel_listener_close(&pair->listener);
    kumo_migration_cancel_clear(&pair->cancel);
    listen_at_url(pair);
}

KumoSendResult migration_pair_send(MigrationPair *pair, GError **error)
{
    pair->sender.downtime_ms = pair->config.downtime_ms;
    pair->sender.max_bandwidth = pair->config.max_bandwidth;
    return kumo_send_run(&pair->sender, error);
}

void migration_pair_clear(MigrationPair *pair)
{
    kumo_migration_cancel_set(&pair->cancel);
    migration_pair_wait(pair);
    kumo_channel_listener_close(&pair->listener);
    /* Who waits for pages of it uses what comes behind. */
    kumo_memory_free(pair->memory);
    kumo_migration_cancel_clear(&pair->cancel);
    kumo_migration_cancel_clear(&pair->send_cancel);
    json_decref(pair->sender.document);
    kumo_memory_free(pair->source);
    pair->source_vm->base.ops->destroy(&pair->source_vm->base);
    pair->vm->base.ops->destroy(&pair->vm->base);
    g_clear_error(&pair->receive_error);
    g_string_free(pair->calls, TRUE);
    g_rmdir(pair->directory);
    g_free(pair->directory);
    g_free(pair->url);
}

static void *touch_thread(void *opaque)
{
    MigrationPair *pair = opaque;

    for (unsigned i = pair->memory->n_regions; i-- > 0;) {
        const KumoMemRegion *here = &pair->memory->regions[i], *there = &pair->source->regions[i];

        for (uint64_t at = here->size_bytes; at > 0; at -= PAGE)
            atomic_fetch_add(&pair->n_differs,
                             memcmp(here->hva + at - PAGE, there->hva + at - PAGE, PAGE) != 0);
    }
    return NULL;
}

GThread *migration_pair_touch_all(MigrationPair *pair)
{
    return g_thread_new("guest", touch_thread, pair);
}

void migration_pair_assert_same_memory(const MigrationPair *pair)
{
    for (unsigned i = 0; i < pair->memory->n_regions; i++)
        g_assert_cmpmem(pair->memory->regions[i].hva, pair->memory->regions[i].size_bytes,
                        pair->source->regions[i].hva, pair->source->regions[i].size_bytes);
}

void migration_pair_assert_log_off(const MigrationPair *pair)
{
    g_assert_null(pair->source->dirty_log);
    for (unsigned i = 0; i < pair->source_vm->slots->len; i++)
        g_assert_cmpuint(g_array_index(pair->source_vm->slots, FakeSlot, i).flags, ==, 0);
}
