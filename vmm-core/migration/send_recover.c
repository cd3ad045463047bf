/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/migration/send_recover.h"

#include <poll.h>

#include "kumo-build.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/migration/channel_tls.h"
#include "vmm-core/migration/stream.h"

void kumo_send_attempt_free(KumoSendAttempt *attempt)
{
    if (!attempt)
        return;
    kumo_send_migration_config_free(attempt->config);
    kumo_channel_tls_free(attempt->tls);
    g_free(attempt);
}

/* Puts a new connection in the place of @channel. */
static bool connect_again(const KumoSendLines *lines, const KumoSendAttempt *attempt,
                          KumoChannel *channel, GError **error)
{
    const char *url = attempt->config->destination_url;
    const KumoSender *sender = lines->sender;
    uint64_t sent_bytes = atomic_load(&channel->sent_bytes);
    bool ok;

    ok = kumo_channel_connect(channel, "destination_url", url, sender->cancel, error);
    /* Who reads it counts what all of them have sent. */
    atomic_fetch_add(&channel->sent_bytes, sent_bytes);
    if (!ok)
        return false;
    atomic_store(&channel->patience_ms,
                 kumo_patience_ms(sender->config->peer_timeout_s, KUMO_PATIENCE_STILL_MS));
    return !sender->tls ||
           kumo_channel_start_tls(channel, sender->tls, url, attempt->config->tls_name, error);
}

/* The same HELLO that began it, but for what it is now about. */
static bool greet(const KumoSendLines *lines, GError **error)
{
    json_t *hello = json_pack("{s:s, s:i, s:s, s:b, s:s}", "format", "kumo-migration", "version",
                              KUMO_STREAM_VERSION_RECOVER, "made_by", KUMO_VERSION, "recover", true,
                              "token", lines->token);

    json_t *answer = NULL;
    bool wants_checksum = lines->sender->config->checksum && !lines->sender->tls;

    if (lines->sender->config->compression == KUMO_COMPRESSION_ZSTD)
        json_object_set_new(hello, "compression", json_string("zstd"));
    if (wants_checksum)
        json_object_set_new(hello, "checksum", json_string(KUMO_PAGES_CHECKSUM));
    if (!kumo_stream_send(lines->main, KUMO_RECORD_HELLO, hello, -1, error) ||
        !kumo_stream_wait_ack_document(lines->main, KUMO_RECORD_HELLO, &answer, error))
        return false;
    lines->main->pages_summed =
        wants_checksum &&
        g_strcmp0(json_string_value(json_object_get(answer, "checksum")), KUMO_PAGES_CHECKSUM) == 0;
    json_decref(answer);
    return true;
}

static bool greet_faults(const KumoSendLines *lines, GError **error)
{
    lines->faults->pages_summed = lines->main->pages_summed;
    return kumo_stream_send(lines->faults, KUMO_RECORD_HELLO,
                            json_pack("{s:s, s:i, s:i, s:s}", "format", "kumo-migration", "version",
                                      KUMO_STREAM_VERSION_RECOVER, "lane", 1, "token",
                                      lines->token),
                            -1, error) &&
           kumo_stream_wait_ack(lines->faults, KUMO_RECORD_HELLO, NULL, error);
}

static bool try(const KumoSendLines *lines, KumoSendAttempt *attempt, GError **error)
{
    KumoSender *sender = lines->sender;

    kumo_channel_close(lines->main);
    kumo_channel_close(lines->faults);
    /* It has to be there as long as the connections. */
    kumo_channel_tls_free(sender->tls);
    sender->tls = g_steal_pointer(&attempt->tls);
    return connect_again(lines, attempt, lines->main, error) && greet(lines, error) &&
           connect_again(lines, attempt, lines->faults, error) && greet_faults(lines, error) &&
           kumo_send_postcopy_resume(lines->postcopy, error);
}

bool kumo_send_recover(const KumoSendLines *lines, GError **error)
{
    KumoSender *sender = lines->sender;
    KumoSendRecovery *recovery = sender->recovery;
    g_autoptr(GError) broken = g_steal_pointer(error);

    for (;;) {
        KumoSendAttempt *attempt;
        bool ok;

        /* The destination hears it, too. */
        kumo_channel_hang_up(lines->main);
        kumo_channel_hang_up(lines->faults);
        if (!kumo_migration_cancel_check(sender->cancel, NULL))
            break;
        atomic_store(&sender->progress.phase, KUMO_SEND_BROKEN);
        sender->host->broken(sender->opaque, broken);
        do {
            if (!kumo_migration_cancel_wait(sender->cancel, recovery->fd, POLLIN, 0, NULL)) {
                g_propagate_error(error, g_steal_pointer(&broken));
                return false;
            }
            kumo_eventfd_drain(recovery->fd);
            attempt = atomic_exchange(&recovery->attempt, NULL);
        } while (!attempt);
        g_clear_error(&broken);
        ok = try(lines, attempt, &broken);
        kumo_send_attempt_free(attempt);
        if (ok) {
            atomic_store(&sender->progress.phase, KUMO_SEND_POSTCOPY);
            sender->host->recovered(sender->opaque);
            return true;
        }
    }
    g_propagate_error(error, g_steal_pointer(&broken));
    return false;
}
