/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Sending the VM away. The migration's thread does what waits, in migration/send.c; here is what it
 * asks of the main thread, and what becomes of the VM in the end.
 */
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/migration/send.h"
#include "vmm-core/migration/stream.h"
#include "vmm-core/vmm/vmm_hotplug.h"
#include "vmm-core/vmm/vmm_machine.h"
#include "vmm-core/vmm/vmm_migration.h"
#include "vmm-core/vmm/vmm_snapshot.h"

enum {
    /* A destination that has died lets the locks go when all of its process is gone. */
    LOCK_PATIENCE_MS = 10000,
    LOCK_INTERVAL_MS = 20,
};

typedef struct {
    KumoVmmMigration base;
    KumoSendMigrationConfig *config;
    KumoSender sender;
    KumoSendResult result;
    GError *error;
    KumoSendRecovery recovery;
    GError *why_broken; /* main thread: why another connection is needed; NULL: it is not */
    int64_t start_us;
    bool stopped;   /* by us: it is to run on */
    bool unlocked;  /* the locks were given up and not taken back */
    bool exclusive; /* one of them keeps two machines from running */
} Send;

/* A call to the main thread with a result. */
typedef struct {
    Send *send;
    json_t *state;
    bool ok;
    GError **error;
} Call;

/* --- what the sender asks for --- */

/* What came in between would not be what the destination was told of. */
static bool check_unchanged(KumoVmm *vmm, GError **error)
{
    if (!kumo_vmm_check_settled(vmm, "migrate", error))
        return false;
    if (!atomic_load(&vmm->ejected))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_BUSY,
                "cannot migrate: the guest has let a device or a vCPU go meanwhile");
    return false;
}

static void stop_on_main(void *opaque)
{
    Call *call = opaque;
    KumoVmm *vmm = call->send->base.vmm;

    call->ok = kumo_vmm_pause_machine(vmm, call->error);
    if (!call->ok)
        return;
    call->send->stopped = true;
    call->ok = check_unchanged(vmm, call->error);
}

static bool stop(void *opaque, GError **error)
{
    Send *send = opaque;
    Call call = { .send = send, .error = error };

    /* Most of it now, while the guest runs. */
    if (!kumo_vm_flush(send->base.vmm->vm, error))
        return false;
    kumo_main_calls_run(send->base.calls, stop_on_main, &call);
    return call.ok;
}

static void hand_over_on_main(void *opaque)
{
    Call *call = opaque;
    KumoVm *vm = call->send->base.vmm->vm;

    call->state = kumo_vm_save_state(vm, call->error);
    if (!call->state || call->send->config->one_way)
        return;
    call->send->unlocked = true;
    kumo_vm_lock(vm, false, &call->send->exclusive, NULL);
}

static json_t *hand_over(void *opaque, GError **error)
{
    Send *send = opaque;
    Call call = { .send = send, .error = error };

    if (kumo_vm_flush(send->base.vmm->vm, error))
        kumo_main_calls_run(send->base.calls, hand_over_on_main, &call);
    return call.state;
}

typedef struct {
    const Send *send;
    unsigned percent;
} Throttle;

static void throttle_on_main(void *opaque)
{
    const Throttle *throttle = opaque;

    kumo_vm_throttle(throttle->send->base.vmm->vm, throttle->percent);
}

static void throttle(void *opaque, unsigned percent)
{
    Throttle call = { opaque, percent };

    kumo_info("migration to %s: the guest does not run for %u %% of the time", call.send->base.url,
              percent);
    kumo_main_calls_run(call.send->base.calls, throttle_on_main, &call);
}

static void iteration(void *opaque, unsigned id)
{
    const Send *send = opaque;

    /* Events may come from any thread. */
    kumo_vmm_event(send->base.vmm, "migration-memory-iteration", json_pack("{s:i}", "id", (int)id));
}

static void followed(void *opaque)
{
    const Send *send = opaque;

    kumo_vmm_event(send->base.vmm, "postcopy-migration-started", NULL);
}

typedef struct {
    Send *send;
    const GError *error;
} Broken;

static void broken_on_main(void *opaque)
{
    const Broken *broken = opaque;
    Send *send = broken->send;

    g_clear_error(&send->why_broken);
    send->why_broken = g_error_copy(broken->error);
    kumo_prefix_error(&send->why_broken, "the VM is at the destination, and the rest of its memory "
                                         "cannot follow until the migration is recovered");
    kumo_vmm_migration_failed(send->base.vmm, "postcopy-migration-paused", send->why_broken);
}

static void broken(void *opaque, const GError *error)
{
    Send *send = opaque;
    Broken call = { send, error };

    kumo_main_calls_run(send->base.calls, broken_on_main, &call);
}

static void recovered_on_main(void *opaque)
{
    Send *send = opaque;

    g_clear_error(&send->why_broken);
    kumo_vmm_event(send->base.vmm, "postcopy-migration-recovered", NULL);
}

static void recovered(void *opaque)
{
    Send *send = opaque;

    kumo_main_calls_run(send->base.calls, recovered_on_main, send);
}

/* --- the locks of disks --- */

static void lock_on_main(void *opaque)
{
    Call *call = opaque;

    call->ok = kumo_vm_lock(call->send->base.vmm->vm, true, NULL, NULL);
}

/* This process ends, whoever has the VM. */
static bool is_ending(const Send *send)
{
    return send->result == KUMO_SEND_UNKNOWN && atomic_load(&send->base.cancel.set);
}

/* FALSE: somebody else has them, and keeps them. */
static bool take_locks_back(Send *send)
{
    Call call = { .send = send };

    for (unsigned waited = 0; waited < LOCK_PATIENCE_MS; waited += LOCK_INTERVAL_MS) {
        kumo_main_calls_run(send->base.calls, lock_on_main, &call);
        if (call.ok || is_ending(send))
            return call.ok;
        g_usleep(LOCK_INTERVAL_MS * 1000);
    }
    return false;
}

/* It runs the machine only with the locks. */
static bool is_away(void *opaque)
{
    Send *send = opaque;

    if (!send->exclusive)
        return false;
    send->result = KUMO_SEND_UNKNOWN;
    send->unlocked = !take_locks_back(send);
    return send->unlocked && !is_ending(send);
}

static const KumoSendHost host = {
    .stop = stop,
    .hand_over = hand_over,
    .throttle = throttle,
    .iteration = iteration,
    .followed = followed,
    .is_away = is_away,
    .broken = broken,
    .recovered = recovered,
};

/* Who has the machine when the destination did not answer? If it has the locks of the disks, it has
 * been told to run it, for it takes them then. If nobody has them, it may have died before it ran
 * the machine, or after: then the guest may have written to its disks, and with this older memory
 * it must not go on by itself. */
static void judge(Send *send)
{
    bool got_locks;

    if (send->result == KUMO_SEND_CUT_OFF)
        return;
    got_locks = !send->unlocked || take_locks_back(send);
    send->unlocked = !got_locks;
    if (send->result == KUMO_SEND_FAILED) {
        if (!got_locks)
            kumo_prefix_error(&send->error,
                              "the locks of the disks cannot be had again, the VM stays paused "
                              "until it is resumed and they can");
        return;
    }
    if (!send->exclusive) {
        kumo_prefix_error(&send->error, "the destination may run the VM, so it stays paused here");
    } else if (got_locks) {
        kumo_prefix_error(
            &send->error,
            "the destination was told to run the VM and does not have its disks: "
            "whether the guest ran there, and wrote to them, is not known, so it stays "
            "paused here");
    } else if (send->sender.switched) {
        send->result = KUMO_SEND_CUT_OFF;
    } else {
        kumo_warn("migration to %s: the destination did not answer at the end (%s), but it has the "
                  "disks",
                  send->base.url, send->error->message);
        g_clear_error(&send->error);
        send->result = KUMO_SEND_DONE;
    }
}

/* --- progress --- */

static json_int_t number(const _Atomic uint64_t *value)
{
    return (json_int_t)atomic_load(value);
}

static json_t *describe_progress(const Send *send, const char *state)
{
    const KumoSendProgress *progress = &send->sender.progress;
    const GError *error = send->error ? send->error : send->why_broken;
    const json_int_t page = KUMO_STREAM_PAGE_BYTES;

    return json_pack(
        "{s:s, s:s?, s:s, s:I, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, "
        "s:I}",
        "state", state, "error", error ? error->message : NULL, "destination_url", send->base.url,
        "elapsed_ms", (json_int_t)((g_get_monotonic_time() - send->start_us) / 1000), "iterations",
        (int)atomic_load(&progress->iterations), "memory_total_bytes",
        number(&progress->total_bytes), "memory_remaining_bytes",
        page * number(&progress->remaining_pages), "memory_dirty_bytes",
        page * number(&progress->dirty_pages), "sent_bytes", number(&progress->sent_bytes),
        "data_pages", number(&progress->data_pages), "zero_pages", number(&progress->zero_pages),
        "compressed_pages", number(&progress->packed_pages), "compressed_bytes",
        number(&progress->packed_bytes), "bytes_per_second", number(&progress->bytes_per_s),
        "expected_downtime_ms", number(&progress->expected_downtime_ms), "downtime_us",
        number(&progress->downtime_us), "throttle_percent",
        (int)atomic_load(&progress->throttle_percent), "page_requests",
        number(&progress->page_requests));
}

json_t *kumo_vmm_migration_progress(KumoVmm *vmm, GError **error)
{
    static const char *const phases[] = {
        [KUMO_SEND_CONNECT] = "Connecting",    [KUMO_SEND_MEMORY] = "Memory",
        [KUMO_SEND_HANDOVER] = "Handover",     [KUMO_SEND_POSTCOPY] = "Postcopy",
        [KUMO_SEND_BROKEN] = "PostcopyPaused", [KUMO_SEND_RECOVER] = "PostcopyRecover",
    };

    if (vmm->migration && vmm->migration->sending) {
        const Send *send = (const Send *)vmm->migration;

        return describe_progress(send, phases[atomic_load(&send->sender.progress.phase)]);
    }
    if (vmm->last_sent)
        return json_incref(vmm->last_sent);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "no VM was migrated from here");
    return NULL;
}

/* --- what becomes of the VM --- */

static void send_free(Send *send)
{
    json_decref(send->sender.document);
    kumo_channel_tls_free(send->sender.tls);
    kumo_send_migration_config_free(send->config);
    g_clear_error(&send->error);
    g_clear_error(&send->why_broken);
    kumo_send_attempt_free(atomic_exchange(&send->recovery.attempt, NULL));
    kumo_fd_clear(&send->recovery.fd);
    g_free(send);
}

/* The VM is at the destination. That is told first: giving all of a machine's memory back takes
 * much longer than handing it over did, and whoever asks the API for what is left has to wait. */
static void leave(KumoVmm *vmm, bool keep_process)
{
    kumo_vmm_event(vmm, "migration-finished", NULL);
    kumo_vmm_drop_machine(vmm);
    kumo_vmm_forget(vmm);
    if (!keep_process)
        kumo_vmm_ask_quit(vmm, false);
}

static void stay(Send *send, KumoVmm *vmm)
{
    g_autoptr(GError) error = NULL;

    if (send->result == KUMO_SEND_CUT_OFF) {
        kumo_prefix_error(&send->error, "the VM is at the destination, and the rest of its memory "
                                        "cannot follow: it can run on neither here nor there");
        vmm->stranded = g_strdup(send->error->message);
    }
    vmm->unlocked = send->unlocked;
    if (send->stopped && !send->unlocked && send->result == KUMO_SEND_FAILED &&
        !kumo_vmm_resume_machine(vmm, &error))
        kumo_error("%s", error->message);
    kumo_vmm_migration_failed(vmm, "migration-failed", send->error);
}

static void finish_on_main(void *opaque)
{
    static const char *const ends[] = {
        [KUMO_SEND_DONE] = "Finished",
        [KUMO_SEND_FAILED] = "Failed",
        [KUMO_SEND_UNKNOWN] = "Unknown",
        [KUMO_SEND_CUT_OFF] = "Failed",
    };
    Send *send = opaque;
    KumoVmm *vmm = send->base.vmm;

    json_decref(vmm->last_sent);
    vmm->last_sent = describe_progress(send, ends[send->result]);
    kumo_vmm_migration_finish(&send->base);
    if (send->result == KUMO_SEND_DONE && send->config->one_way)
        kumo_vmm_event(vmm, "migration-finished", NULL);
    else if (send->result == KUMO_SEND_DONE)
        leave(vmm, send->config->keep_process);
    else
        stay(send, vmm);
    send_free(send);
}

static const char *why_committed(const KumoVmmMigration *migration)
{
    const Send *send = (const Send *)migration;

    switch (atomic_load(&send->sender.progress.phase)) {
    case KUMO_SEND_POSTCOPY:
        return "the VM is at the destination, the rest of its memory follows";
    case KUMO_SEND_BROKEN:
    case KUMO_SEND_RECOVER:
        return "the VM is at the destination, and would be lost without the rest of its memory, "
               "which has to be recovered";
    default:
        return "the destination was told to run the VM";
    }
}

static bool is_broken(const KumoVmmMigration *migration)
{
    const Send *send = (const Send *)migration;
    int phase = atomic_load(&send->sender.progress.phase);

    return phase == KUMO_SEND_BROKEN || phase == KUMO_SEND_RECOVER;
}

static void *send_thread(void *opaque)
{
    Send *send = opaque;

    send->result = kumo_send_run(&send->sender, &send->error);
    if (send->result != KUMO_SEND_DONE)
        judge(send);
    kumo_main_calls_finish(send->base.calls, finish_on_main, send);
    return NULL;
}

/* --- the beginning --- */

static json_t *describe(KumoVmm *vmm, GError **error)
{
    json_t *document = kumo_vm_save_machine(vmm->vm, error);

    if (document)
        json_object_set_new(document, "config", kumo_vmm_saved_config(vmm));
    return document;
}

static bool check_local(const KumoMemory *memory, GError **error)
{
    for (unsigned i = 0; i < memory->n_backings; i++) {
        const KumoMemBacking *part = &memory->backings[i];

        if (part->fd >= 0 && part->shared)
            continue;
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                    "local: the memory at 0x%" G_GINT64_MODIFIER
                    "x is not shared (memory: shared=on), it can only be copied",
                    part->gpa);
        return false;
    }
    return true;
}

/* What runs on here must not be somewhere else as well. */
static bool check_paused(const KumoVmm *vmm, const KumoSendMigrationConfig *config, GError **error)
{
    if (!config->one_way || vmm->paused)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE,
                "one_way: the VM has to be paused, for it stays here");
    return false;
}

/* --- over another connection --- */

static bool check_recover(const Send *send, const KumoSendMigrationConfig *config, GError **error)
{
    int phase = send ? atomic_load(&send->sender.progress.phase) : KUMO_SEND_CONNECT;

    if (phase != KUMO_SEND_BROKEN) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "cannot recover the migration: %s",
                    !send                        ? "no VM is sent whose memory follows it"
                    : phase == KUMO_SEND_RECOVER ? "that is under way"
                                                 : "its connections are not broken");
        return false;
    }
    /* Who listens for what was protected must not get it another way by mistake. */
    if (!send->config->tls_dir == !config->tls_dir)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "tls_dir: the migration was begun %s TLS, and is recovered like that",
                send->config->tls_dir ? "with" : "without");
    return false;
}

static bool recover(KumoVmm *vmm, KumoSendMigrationConfig *recover_config, GError **error)
{
    g_autoptr(KumoSendMigrationConfig) config = recover_config;
    Send *send = vmm->migration && vmm->migration->sending ? (Send *)vmm->migration : NULL;
    KumoSendAttempt *attempt;

    if (!check_recover(send, config, error))
        return false;
    attempt = g_new0(KumoSendAttempt, 1);
    if (config->tls_dir) {
        attempt->tls = kumo_channel_tls_new(config->tls_dir, false, error);
        if (!attempt->tls) {
            kumo_send_attempt_free(attempt);
            return false;
        }
    }
    g_free(send->base.url);
    send->base.url = g_strdup(config->destination_url);
    attempt->config = g_steal_pointer(&config);
    atomic_store(&send->sender.progress.phase, KUMO_SEND_RECOVER);
    kumo_send_attempt_free(atomic_exchange(&send->recovery.attempt, attempt));
    kumo_eventfd_signal(send->recovery.fd);
    return true;
}

bool kumo_vmm_send_migration(KumoVmm *vmm, KumoSendMigrationConfig *send_config, GError **error)
{
    g_autoptr(KumoSendMigrationConfig) config = send_config;
    Send *send;

    if (config->recover)
        return recover(vmm, g_steal_pointer(&config), error);
    if (kumo_vmm_is_busy(vmm) || !vmm->vm)
        return kumo_vmm_refuse(vmm, "migrate", error);
    kumo_vmm_finish_ejects(vmm);
    if (!kumo_vmm_check_settled(vmm, "migrate", error) || !check_paused(vmm, config, error) ||
        (config->local && !check_local(kumo_vm_machine(vmm->vm)->memory, error)))
        return false;
    send = g_new0(Send, 1);
    send->start_us = g_get_monotonic_time();
    send->config = g_steal_pointer(&config);
    send->base.committed = why_committed;
    send->base.broken = is_broken;
    send->recovery.fd = -1;
    send->sender = (KumoSender){ .config = send->config,
                                 .downtime_ms = send->config->downtime_ms,
                                 .max_bandwidth = send->config->max_bandwidth,
                                 .max_postcopy_bandwidth = send->config->max_postcopy_bandwidth,
                                 .memory = kumo_vm_machine(vmm->vm)->memory,
                                 .paused = vmm->paused,
                                 .host = &host,
                                 .opaque = send,
                                 .cancel = &send->base.cancel,
                                 .recovery = &send->recovery };
    send->recovery.fd = kumo_eventfd_new(error);
    if (send->recovery.fd < 0) {
        send_free(send);
        return false;
    }
    if (send->config->tls_dir) {
        send->sender.tls = kumo_channel_tls_new(send->config->tls_dir, false, error);
        if (!send->sender.tls) {
            send_free(send);
            return false;
        }
    }
    send->sender.document = describe(vmm, error);
    if (!send->sender.document ||
        !kumo_vmm_migration_start(&send->base, vmm, true, send->config->destination_url,
                                  send_thread, error)) {
        send_free(send);
        return false;
    }
    kumo_vmm_event(vmm, "migration-started", NULL);
    return true;
}

/* --- changes while it is under way --- */

bool kumo_vmm_update_migration(KumoVmm *vmm, const KumoUpdateMigrationConfig *update,
                               GError **error)
{
    Send *send = (Send *)vmm->migration;

    if (!send || !send->base.sending) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND,
                    "cannot change a migration: none is sent");
        return false;
    }
    if (update->has_downtime)
        atomic_store(&send->sender.downtime_ms, update->downtime_ms);
    if (update->stop_guest)
        atomic_store(&send->sender.stop_guest, true);
    if (update->has_bandwidth)
        atomic_store(&send->sender.max_bandwidth, update->max_bandwidth);
    if (update->has_postcopy_bandwidth)
        atomic_store(&send->sender.max_postcopy_bandwidth, update->max_postcopy_bandwidth);
    return true;
}

bool kumo_vmm_start_postcopy(KumoVmm *vmm, GError **error)
{
    Send *send = (Send *)vmm->migration;

    if (!send || !send->base.sending) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND,
                    "cannot let memory follow: no migration is sent");
        return false;
    }
    if (send->config->memory_mode == KUMO_MEMORY_PRECOPY) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE,
                    "cannot let memory follow: the migration was begun with memory_mode precopy, "
                    "not hybrid");
        return false;
    }
    atomic_store(&send->sender.start_postcopy, true);
    return true;
}
