/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM that is here, and the rest of whose memory cannot follow because a connection has broken:
 * waits for its source to come again.
 */
#include "vmm-core/vmm/vmm_recover.h"

#include "vmm-core/base/error.h"
#include "vmm-core/migration/receive_recover.h"
#include "vmm-core/vmm/vmm_migration.h"

typedef struct {
    KumoVmmMigration base;
    KumoReceiveMigrationConfig *config;
    KumoChannelListener listener;
    KumoReceiveRecovery recovery;
    bool ok;
    GError *error;
    KumoVmmReceived received;
    void *opaque;
} Recover;

static KumoReceivePostcopy *postcopy_of(const KumoVmm *vmm)
{
    return vmm->vm ? kumo_receive_postcopy_of(kumo_vm_machine(vmm->vm)->memory) : NULL;
}

static const char *state_name(const KumoVmm *vmm, bool broken)
{
    if (vmm->migration && vmm->migration->recovers)
        return "Recover";
    if (broken)
        return "Paused";
    return vmm->stranded ? "Failed" : "Active";
}

json_t *kumo_vmm_describe_following(const KumoVmm *vmm)
{
    KumoReceivePostcopy *postcopy = postcopy_of(vmm);
    g_autofree char *error = NULL;
    uint64_t missing;
    bool broken;

    if (!postcopy || !vmm->memory_followed)
        return NULL;
    missing = kumo_receive_postcopy_missing_bytes(postcopy);
    broken = kumo_receive_postcopy_is_broken(postcopy);
    if (!missing && !broken)
        return NULL;
    error = vmm->stranded ? g_utf8_make_valid(vmm->stranded, -1) : NULL;
    return json_pack("{s:s, s:s?, s:I}", "state", state_name(vmm, broken), "error", error,
                     "missing_bytes", (json_int_t)missing);
}

/* --- waiting --- */

static void on_main(void *opaque, void (*func)(void *arg), void *arg)
{
    const Recover *recover = opaque;

    kumo_main_calls_run(recover->base.calls, func, arg);
}

/* Before anything can break again. */
static void recovered(void *opaque)
{
    const Recover *recover = opaque;

    kumo_vmm_unstrand(recover->base.vmm);
    kumo_vmm_event(recover->base.vmm, "postcopy-migration-recovered", NULL);
}

static void recover_free(Recover *recover)
{
    kumo_channel_listener_close(&recover->listener);
    kumo_channel_tls_free(recover->recovery.tls);
    kumo_receive_migration_config_free(recover->config);
    g_clear_error(&recover->error);
    g_free(recover);
}

static void finish_on_main(void *opaque)
{
    Recover *recover = opaque;
    KumoVmm *vmm = recover->base.vmm;

    kumo_vmm_migration_finish(&recover->base);
    if (!recover->ok)
        kumo_vmm_migration_failed(vmm, "postcopy-migration-recover-failed", recover->error);
    if (recover->received)
        recover->received(recover->opaque, recover->error);
    recover_free(recover);
}

static const char *why_committed(const KumoVmmMigration *migration)
{
    return "the rest of the VM's memory follows again";
}

static bool always(const KumoVmmMigration *migration)
{
    return true;
}

static void *recover_thread(void *opaque)
{
    Recover *recover = opaque;

    recover->ok = kumo_receive_recover(&recover->recovery, &recover->error);
    kumo_main_calls_finish(recover->base.calls, finish_on_main, recover);
    return NULL;
}

/* --- the beginning --- */

static bool refuse(const char *why, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "cannot recover a migration: %s", why);
    return false;
}

static bool check(KumoVmm *vmm, const KumoReceiveMigrationConfig *config, GError **error)
{
    KumoReceivePostcopy *postcopy = postcopy_of(vmm);
    bool secured;

    if (vmm->migration)
        return kumo_vmm_refuse(vmm, "recover a migration", error);
    if (!postcopy || !vmm->memory_followed)
        return refuse("no VM is here whose memory follows it", error);
    if (vmm->stranded && !vmm->broken)
        return kumo_vmm_refuse(vmm, "recover a migration", error);
    if (!kumo_receive_postcopy_is_broken(postcopy))
        return refuse("its connections are not broken", error);
    secured = kumo_receive_postcopy_is_secured(postcopy);
    if (secured == (config->tls_dir != NULL))
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "tls_dir: the migration was begun %s TLS, and is recovered like that",
                secured ? "with" : "without");
    return false;
}

static bool listen_for_source(Recover *recover, GError **error)
{
    const KumoReceiveMigrationConfig *config = recover->config;

    if (config->tls_dir) {
        recover->recovery.tls = kumo_channel_tls_new(config->tls_dir, true, error);
        if (!recover->recovery.tls)
            return false;
    }
    return kumo_channel_listen(&recover->listener, "receiver_url", config->receiver_url, error);
}

bool kumo_vmm_recover_received(KumoVmm *vmm, KumoReceiveMigrationConfig *receive_config,
                               KumoVmmReceived received, void *opaque, GError **error)
{
    g_autoptr(KumoReceiveMigrationConfig) config = receive_config;
    Recover *recover;

    /* That it is broken may be news. */
    kumo_vmm_finish_strand(vmm);
    if (!check(vmm, config, error))
        return false;
    recover = g_new0(Recover, 1);
    recover->base.recovers = true;
    recover->base.committed = why_committed;
    recover->base.broken = always;
    recover->config = g_steal_pointer(&config);
    recover->listener.fd = -1;
    recover->recovery = (KumoReceiveRecovery){ .postcopy = postcopy_of(vmm),
                                               .listener = &recover->listener,
                                               .cancel = &recover->base.cancel,
                                               .on_main = on_main,
                                               .recovered = recovered,
                                               .opaque = recover };
    recover->received = received;
    recover->opaque = opaque;
    if (!listen_for_source(recover, error) ||
        !kumo_vmm_migration_start(&recover->base, vmm, false, recover->config->receiver_url,
                                  recover_thread, error)) {
        recover_free(recover);
        return false;
    }
    kumo_vmm_event(vmm, "postcopy-migration-recover-ready", NULL);
    return true;
}
