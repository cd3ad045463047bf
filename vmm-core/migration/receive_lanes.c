/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/receive_lanes.h"

#include <sys/socket.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/migration/stream.h"

enum {
    HELLO_PATIENCE_MS = 10000,
    LANE_PATIENCE_MS = 30000, /* for the source's next connection */
};

typedef struct {
    KumoReceiveLanes *lanes;
    KumoChannel channel;
    KumoPagesReader reader;
    GThread *thread;
} Lane;

struct KumoReceiveLanes {
    KumoChannel *main;
    unsigned n_lanes;
    Lane *lanes;
    GMutex lock;
    GError *error; /* under lock: the first that a lane had */
};

#define wrong(error, ...) kumo_refuse(error, "migration stream", __VA_ARGS__)

/* Returns: the lane that says HELLO on @channel, or NULL with @error. */
static Lane *find_lane(KumoReceiveLanes *lanes, KumoChannel *channel, const char *token,
                       GError **error)
{
    g_auto(KumoRecord) record = KUMO_RECORD_INIT;
    json_int_t number;

    atomic_store(&channel->patience_ms, HELLO_PATIENCE_MS);
    if (!kumo_stream_receive(channel, &record, error))
        return NULL;
    number = json_integer_value(json_object_get(record.document, "lane"));
    if (record.type != KUMO_RECORD_HELLO ||
        !kumo_stream_same_token(token,
                                json_string_value(json_object_get(record.document, "token"))) ||
        number < 1 || number > lanes->n_lanes || lanes->lanes[number - 1].channel.fd >= 0) {
        wrong(error, "this is no connection of the source that is here");
        return NULL;
    }
    atomic_store(&channel->patience_ms, 0);
    return &lanes->lanes[number - 1];
}

KumoReceiveLanes *kumo_receive_lanes_accept(KumoChannelListener *listener, const char *token,
                                            unsigned n_lanes, KumoChannelTls *tls,
                                            KumoChannel *main, GError **error)
{
    KumoReceiveLanes *lanes = g_new0(KumoReceiveLanes, 1);
    unsigned n = 0;

    lanes->main = main;
    lanes->n_lanes = n_lanes;
    lanes->lanes = g_new0(Lane, n_lanes);
    g_mutex_init(&lanes->lock);
    for (unsigned i = 0; i < n_lanes; i++)
        lanes->lanes[i] = (Lane){ .lanes = lanes, .channel.fd = -1 };
    listener->patience_ms = LANE_PATIENCE_MS;
    while (n < n_lanes) {
        g_autoptr(GError) local = NULL;
        KumoChannel channel;
        Lane *lane;

        if (!kumo_channel_accept(&channel, listener, main->cancel, error)) {
            kumo_prefix_error(error, "waiting for connection %u of %u", n + 1, n_lanes);
            kumo_receive_lanes_free(lanes);
            return NULL;
        }
        lane = !tls || kumo_channel_start_tls(&channel, tls, NULL, NULL, &local)
                   ? find_lane(lanes, &channel, token, &local)
                   : NULL;
        if (lane) {
            lane->channel = channel;
            lane->channel.pages_summed = lanes->main->pages_summed;
            n += kumo_stream_acknowledge(&lane->channel, KUMO_RECORD_HELLO, NULL, &local);
        } else {
            kumo_channel_close(&channel);
        }
        if (local)
            kumo_warn("migration: %s", local->message);
    }
    return lanes;
}

void kumo_receive_lanes_take_last(KumoReceiveLanes *lanes, KumoChannel *ret_channel)
{
    *ret_channel = lanes->lanes[--lanes->n_lanes].channel;
}

/* Until its last round. */
static bool receive_pages(Lane *lane, GError **error)
{
    for (;;) {
        g_auto(KumoRecord) record = KUMO_RECORD_INIT;

        if (!kumo_stream_receive(&lane->channel, &record, error))
            return false;
        switch (record.type) {
        case KUMO_RECORD_PAGES:
            if (!kumo_pages_receive(&lane->reader, &record, error))
                return false;
            break;
        case KUMO_RECORD_ROUND:
            if (!kumo_stream_acknowledge(&lane->channel, KUMO_RECORD_ROUND, NULL, error))
                return false;
            if (json_is_true(json_object_get(record.document, "last")))
                return true;
            break;
        default:
            return wrong(error, "%s: has no place on a connection for pages",
                         kumo_record_name(record.type));
        }
    }
}

static void *lane_thread(void *opaque)
{
    Lane *lane = opaque;
    KumoReceiveLanes *lanes = lane->lanes;
    GError *error = NULL;

    if (receive_pages(lane, &error))
        return NULL;
    g_mutex_lock(&lanes->lock);
    if (lanes->error)
        g_error_free(error);
    else
        lanes->error = error;
    g_mutex_unlock(&lanes->lock);
    /* Who waits there looks at it then, and can still answer. */
    shutdown(lanes->main->fd, SHUT_RD);
    return NULL;
}

bool kumo_receive_lanes_start(KumoReceiveLanes *lanes, KumoMemory *memory, bool compressed,
                              GError **error)
{
    for (unsigned i = 0; i < lanes->n_lanes; i++) {
        Lane *lane = &lanes->lanes[i];

        lane->reader = (KumoPagesReader){ .channel = &lane->channel, .memory = memory };
        if (!compressed)
            continue;
        lane->reader.decompressor = kumo_decompressor_new(KUMO_PAGES_MAX_BYTES, error);
        if (!lane->reader.decompressor)
            return false;
    }
    for (unsigned i = 0; i < lanes->n_lanes; i++)
        lanes->lanes[i].thread = g_thread_new("migrate-lane", lane_thread, &lanes->lanes[i]);
    return true;
}

bool kumo_receive_lanes_check(KumoReceiveLanes *lanes, GError **error)
{
    bool ok = true;

    if (!lanes)
        return true;
    g_mutex_lock(&lanes->lock);
    if (lanes->error) {
        ok = false;
        g_propagate_error(error, g_error_copy(lanes->error));
    }
    g_mutex_unlock(&lanes->lock);
    return ok;
}

static void join(KumoReceiveLanes *lanes)
{
    for (unsigned i = 0; i < lanes->n_lanes; i++) {
        if (lanes->lanes[i].thread)
            g_thread_join(g_steal_pointer(&lanes->lanes[i].thread));
    }
}

bool kumo_receive_lanes_finish(KumoReceiveLanes *lanes, GError **error)
{
    if (!lanes)
        return true;
    join(lanes);
    return kumo_receive_lanes_check(lanes, error);
}

void kumo_receive_lanes_free(KumoReceiveLanes *lanes)
{
    if (!lanes)
        return;
    for (unsigned i = 0; i < lanes->n_lanes; i++)
        kumo_channel_hang_up(&lanes->lanes[i].channel);
    join(lanes);
    for (unsigned i = 0; i < lanes->n_lanes; i++) {
        kumo_channel_close(&lanes->lanes[i].channel);
        kumo_decompressor_free(lanes->lanes[i].reader.decompressor);
    }
    g_free(lanes->lanes);
    g_clear_error(&lanes->error);
    g_mutex_clear(&lanes->lock);
    g_free(lanes);
}
