/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/vmm/vmm_migration.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

static const KumoSyscall migration_calls[] = {
    { KUMO_SYSCALL(poll) },
    { KUMO_SYSCALL(ppoll) },
    { KUMO_SYSCALL(recvmsg) },
    { KUMO_SYSCALL(recvfrom) },
    { KUMO_SYSCALL(sendmsg) },
    { KUMO_SYSCALL(sendmmsg) },
    { KUMO_SYSCALL(sendto) },
    { KUMO_SYSCALL(readv) },
    { KUMO_SYSCALL(writev) },
    { KUMO_SYSCALL(pread64) },
    { KUMO_SYSCALL(lseek) },
    { KUMO_SYSCALL(fdatasync) },
    { KUMO_SYSCALL(fallocate) }, /* drops what is to follow of memory that is shared */
    { KUMO_SYSCALL(fcntl) },     /* the seals of memory that the source hands over */
    { KUMO_SYSCALL(fstat) },
    { KUMO_SYSCALL(newfstatat) },
    { KUMO_SYSCALL(
        openat) }, /* which pages of the guest's memory there are; the resolver's files */
    { KUMO_SYSCALL(unlink) }, /* the socket that the source came to */
    { KUMO_SYSCALL(mincore) },
    /* The connection, and names of hosts, whose resolver loads modules and asks by UDP and netlink.
     */
    { KUMO_SYSCALL_IF(socket, 0, AF_UNIX) },
    { KUMO_SYSCALL_IF(socket, 0, AF_INET) },
    { KUMO_SYSCALL_IF(socket, 0, AF_INET6) },
    { KUMO_SYSCALL_IF(socket, 0, AF_NETLINK) },
    { KUMO_SYSCALL(bind) },
    { KUMO_SYSCALL(connect) },
    { KUMO_SYSCALL(eventfd2) }, /* when a name has been looked up, on a thread of its own */
    { KUMO_SYSCALL(accept4) },
    { KUMO_SYSCALL(shutdown) },
    { KUMO_SYSCALL(getsockname) },
    { KUMO_SYSCALL(getpeername) },
    { KUMO_SYSCALL(getsockopt) },
    { KUMO_SYSCALL(setsockopt) },
    { KUMO_SYSCALL(uname) },
    { KUMO_SYSCALL(mmap) },
    { KUMO_SYSCALL(mprotect) },
    { KUMO_IOCTL(FIONREAD) },
};

static const KumoSyscallTable migration_table = KUMO_SYSCALL_TABLE(migration_calls);
static const KumoSyscallTable *const migration_tables[] = { &migration_table,
                                                            &kumo_thread_start_syscalls, NULL };

/* Further connections have threads that this one starts. */
const KumoThreadKind kumo_migration_thread = {
    .name = "migration",
    .roles = KUMO_THREAD_READS_DIRTY_LOG,
    .tables = migration_tables,
};

static void *migration_thread(void *opaque)
{
    KumoVmmMigration *migration = opaque;

    kumo_sandbox_enter(&kumo_migration_thread);
    return migration->func(migration);
}

bool kumo_vmm_migration_start(KumoVmmMigration *migration, KumoVmm *vmm, bool sending,
                              const char *url, GThreadFunc func, GError **error)
{
    GError *thread_error = NULL;

    migration->vmm = vmm;
    migration->sending = sending;
    migration->func = func;
    if (!kumo_migration_cancel_init(&migration->cancel, error))
        return false;
    migration->url = g_strdup(url);
    migration->calls = kumo_main_calls_new();
    vmm->migration = migration;
    migration->thread = g_thread_try_new(sending ? "migrate-send" : "migrate-receive",
                                         migration_thread, migration, &thread_error);
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
    kumo_migration_cancel_force(&migration->cancel);
    kumo_main_calls_wait(migration->calls);
}

void kumo_vmm_give_up_recovery(KumoVmm *vmm)
{
    KumoVmmMigration *migration = vmm->migration;

    if (migration && migration->broken && migration->broken(migration))
        kumo_vmm_end_migration(vmm);
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

static bool refuse_cancel(const char *why, GError **error)
{
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "cannot cancel the migration: %s", why);
    return false;
}

bool kumo_vmm_cancel_migration(KumoVmm *vmm, GError **error)
{
    KumoVmmMigration *migration = vmm->migration;
    bool sending = migration && migration->sending;

    if (!migration && vmm->vm && vmm->memory_followed &&
        kumo_memory_is_incomplete(kumo_vm_machine(vmm->vm)->memory))
        return refuse_cancel(vmm->broken
                                 ? "the VM is here, and would be lost without the rest of its "
                                   "memory, which has to be recovered"
                                 : "the VM is here already, the rest of its memory follows",
                             error);
    if (!migration) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND,
                    "cannot cancel a migration: none is under way");
        return false;
    }
    if (!kumo_migration_cancel_set(&migration->cancel))
        return refuse_cancel(migration->committed(migration), error);
    kumo_main_calls_wait(migration->calls);
    if (!sending || vmm->config)
        return true;
    return refuse_cancel("the VM is at the destination", error);
}
