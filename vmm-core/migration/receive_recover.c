/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/receive_recover.h"

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/migration/receive_lanes.h"
#include "vmm-core/migration/stream.h"

enum {
    HELLO_PATIENCE_MS = 10000,
};

typedef struct {
    KumoReceiveRecovery *recovery;
    KumoChannel main, faults;
    KumoDecompressor *decompressor;
    bool compressed;
    bool ok;
    GError **error;
} Run;

#define wrong(error, ...) kumo_refuse(error, "migration stream", __VA_ARGS__)

static bool check_hello(Run *run, const KumoRecord *record, GError **error)
{
    const json_t *document = record->document;
    const char *format = json_string_value(json_object_get(document, "format"));
    json_int_t version = json_integer_value(json_object_get(document, "version"));
    const json_t *compression = json_object_get(document, "compression");

    if (record->type != KUMO_RECORD_HELLO || g_strcmp0(format, "kumo-migration") != 0)
        return wrong(error, "does not begin with HELLO of kumo-migration");
    if (!json_is_true(json_object_get(document, "recover")))
        return wrong(error, "recover: there is a VM here, of which only the rest of the memory is "
                            "waited for");
    if (version < KUMO_STREAM_VERSION_RECOVER || version > KUMO_STREAM_VERSION)
        return wrong(error,
                     "version %" JSON_INTEGER_FORMAT ": this kumo recovers from version %d to %d",
                     version, KUMO_STREAM_VERSION_RECOVER, KUMO_STREAM_VERSION);
    if (!kumo_stream_same_token(kumo_receive_postcopy_token(run->recovery->postcopy),
                                json_string_value(json_object_get(document, "token"))))
        return wrong(error, "token: this is not the source of the VM that is here");
    run->compressed = g_strcmp0(json_string_value(compression), "zstd") == 0;
    if (compression && !run->compressed)
        return wrong(error, "compression: what is given is not known here, zstd is");
    /* Which the source is told. */
    run->main.pages_summed = g_strcmp0(json_string_value(json_object_get(document, "checksum")),
                                       KUMO_PAGES_CHECKSUM) == 0;
    return true;
}

/* Answers HELLO, with what @error says if not @ok. */
static bool answer(Run *run, bool ok, GError **error)
{
    if (ok)
        return kumo_stream_acknowledge_with(
            &run->main, KUMO_RECORD_HELLO,
            run->main.pages_summed ? json_pack("{s:s}", "checksum", KUMO_PAGES_CHECKSUM)
                                   : json_object(),
            error);
    kumo_stream_acknowledge(&run->main, KUMO_RECORD_HELLO, *error, NULL);
    return false;
}

/* The source's first connection. */
static bool greet(Run *run, GError **error)
{
    KumoChannelTls *tls = run->recovery->tls;
    g_auto(KumoRecord) record = KUMO_RECORD_INIT;

    atomic_store(&run->main.patience_ms, HELLO_PATIENCE_MS);
    return (!tls || kumo_channel_start_tls(&run->main, tls, NULL, NULL, error)) &&
           kumo_stream_receive(&run->main, &record, error) &&
           answer(run, check_hello(run, &record, error), error);
}

static bool accept_faults(Run *run, GError **error)
{
    KumoReceiveRecovery *recovery = run->recovery;
    KumoReceiveLanes *lanes = kumo_receive_lanes_accept(
        recovery->listener, kumo_receive_postcopy_token(recovery->postcopy), 1, recovery->tls,
        &run->main, error);

    if (!lanes)
        return false;
    kumo_receive_lanes_take_last(lanes, &run->faults);
    kumo_receive_lanes_free(lanes);
    return true;
}

static bool tell_missing(Run *run, GError **error)
{
    atomic_store(&run->main.patience_ms, KUMO_PATIENCE_STILL_MS);
    if (run->compressed) {
        run->decompressor = kumo_decompressor_new(KUMO_PAGES_MAX_BYTES, error);
        if (!run->decompressor)
            return false;
    }
    return kumo_receive_postcopy_tell_missing(run->recovery->postcopy, &run->main, error);
}

/* A source that breaks off, too, may come again. */
static bool wait_for_source(Run *run, GError **error)
{
    KumoReceiveRecovery *recovery = run->recovery;

    for (;;) {
        g_autoptr(GError) local = NULL;

        recovery->listener->patience_ms = 0;
        if (!kumo_channel_accept(&run->main, recovery->listener, recovery->cancel, error))
            return false;
        if (greet(run, &local) && accept_faults(run, &local) && tell_missing(run, &local))
            return true;
        kumo_channel_close(&run->main);
        kumo_channel_close(&run->faults);
        g_clear_pointer(&run->decompressor, kumo_decompressor_free);
        if (!kumo_migration_cancel_check(recovery->cancel, error))
            return false;
        kumo_warn("migration: who connected is not the source, or has gone again: %s",
                  local->message);
    }
}

static void reconnect(void *opaque)
{
    Run *run = opaque;
    const KumoReceiveRecovery *recovery = run->recovery;

    run->ok = kumo_receive_postcopy_reconnect(recovery->postcopy, &run->main, &run->faults,
                                              g_steal_pointer(&run->decompressor), run->error);
    if (run->ok)
        recovery->recovered(recovery->opaque);
}

bool kumo_receive_recover(KumoReceiveRecovery *recovery, GError **error)
{
    Run run = { .recovery = recovery, .main.fd = -1, .faults.fd = -1, .error = error };

    /* Behind the commit nothing calls it off any more: it is the machine's. */
    if (wait_for_source(&run, error) && kumo_migration_cancel_commit(recovery->cancel, error)) {
        kumo_channel_listener_close(recovery->listener);
        recovery->on_main(recovery->opaque, reconnect, &run);
    }
    kumo_channel_close(&run.main);
    kumo_channel_close(&run.faults);
    kumo_decompressor_free(run.decompressor);
    return run.ok;
}
