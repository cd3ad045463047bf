/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/vmm/vmm_migration.h"

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

bool kumo_vmm_migration_start(KumoVmmMigration *migration, KumoVmm *vmm, bool sending,
                              const char *url, GThreadFunc func, GError **error)
{
    GError *thread_error = NULL;

    migration->vmm = vmm;
    migration->sending = sending;
    if (!kumo_migration_cancel_init(&migration->cancel, error))
        return false;
    migration->url = g_strdup(url);
    migration->calls = kumo_main_calls_new();
    vmm->migration = migration;
    migration->thread = g_thread_try_new(sending ? "migrate-send" : "migrate-receive", func,
                                         migration, &thread_error);
    if (migration->thread)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE, "migration: no thread: %s",
                thread_error->message);
    g_error_free(thread_error);
    kumo_vmm_migration_finish(migration);
    return false;
}

void kumo_vmm_migration_finish(KumoVmmMigration *migration)
{
    if (migration->thread)
        g_thread_join(migration->thread);
    kumo_main_calls_free(migration->calls);
    kumo_migration_cancel_clear(&migration->cancel);
    g_free(migration->url);
    migration->vmm->migration = NULL;
    /* What waited for the end is looked at again. */
    g_main_context_wakeup(NULL);
}

void kumo_vmm_migration_failed(KumoVmm *vmm, const char *event, const GError *error)
{
    g_autofree char *message = g_utf8_make_valid(error->message, -1);

    kumo_warn("%s: %s", event, message);
    kumo_vmm_event(vmm, event, json_pack("{s:s}", "error", message));
}

void kumo_vmm_end_migration(KumoVmm *vmm)
{
    KumoVmmMigration *migration = vmm->migration;

    if (!migration)
        return;
    kumo_migration_cancel_set(&migration->cancel);
    kumo_main_calls_wait(migration->calls);
}

void kumo_vmm_disturb_migration(KumoVmm *vmm)
{
    KumoVmmMigration *migration = vmm->migration;

    if (migration->disturbed)
        return;
    migration->disturbed = true;
    kumo_info("migration to %s: the guest resets or powers off", migration->url);
    kumo_migration_cancel_set(&migration->cancel);
}

bool kumo_vmm_cancel_migration(KumoVmm *vmm, GError **error)
{
    bool sending = vmm->migration && vmm->migration->sending;

    if (!vmm->migration) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND,
                    "cannot cancel a migration: none is under way");
        return false;
    }
    kumo_vmm_end_migration(vmm);
    if (!sending || vmm->config)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE,
                "cannot cancel the migration: the VM is at the destination");
    return false;
}
