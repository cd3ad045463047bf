/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What state the VMM is in, and how it tells: what all its steps begin or end with. */
#include "vmm-core/vmm/vmm_state.h"

#include <stdlib.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/vmm/vmm_migration.h"

enum {
    MEMORY_LOST_PATIENCE_S = 5,
    BROKEN_PATIENCE_S = 60, /* for a machine that can be saved */
};

void kumo_vmm_event(KumoVmm *vmm, const char *event, json_t *properties)
{
    if (vmm->params.event)
        vmm->params.event("vm", event, properties);
    else
        json_decref(properties);
}

bool kumo_vmm_is_receiving(const KumoVmm *vmm)
{
    return vmm->migration && !vmm->migration->sending && !vmm->migration->recovers;
}

char *kumo_vmm_describe_migration(const KumoVmm *vmm)
{
    const KumoVmmMigration *migration = vmm->migration;

    if (!migration)
        return NULL;
    if (migration->sending && migration->broken && migration->broken(migration))
        return g_strdup_printf("the rest of the VM's memory cannot follow it to %s until the "
                               "migration is recovered",
                               migration->url);
    return g_strdup_printf("a migration %s %s is %s", migration->sending ? "to" : "from",
                           migration->url, migration->recovers ? "to be recovered" : "under way");
}

void kumo_vmm_ask_quit(KumoVmm *vmm, bool failed)
{
    if (vmm->quit_asked)
        return;
    vmm->quit_asked = true;
    if (vmm->params.quit)
        vmm->params.quit(vmm->params.opaque, failed);
}

/* Of the one machine of this process. */
static _Atomic bool memory_lost;

/* Whoever waits for a page waits for ever, in the kernel, where no request to stop is heard: a
 * worker of a device always, a vCPU with kernels before 6.2. Then there is no end in order. */
static void *end_process(void *opaque)
{
    g_usleep(MEMORY_LOST_PATIENCE_S * G_USEC_PER_SEC);
    if (!atomic_load(&memory_lost))
        return NULL;
    kumo_error("the machine waits for pages that are lost and cannot be taken down");
    _exit(EXIT_FAILURE);
}

void kumo_vmm_expect_hang(void)
{
    atomic_store(&memory_lost, true);
    g_thread_unref(g_thread_new("memory-lost", end_process, NULL));
}

void kumo_vmm_memory_lost(KumoVmm *vmm, const GError *error)
{
    kumo_error("the guest's memory is lost: %s", error->message);
    kumo_vmm_event(vmm, "memory-failed", json_pack("{s:s}", "error", error->message));
    kumo_vmm_expect_hang();
    g_main_context_wakeup(NULL);
}

/* What the main thread does not know yet. */
typedef struct {
    char *message;
    bool recoverable;
} Stranding;

/* Of the one machine of this process. */
static _Atomic(Stranding *) stranding;
static _Atomic unsigned n_strandings; /* the last one's number */

static void stranding_free(Stranding *what)
{
    if (!what)
        return;
    g_free(what->message);
    g_free(what);
}

typedef struct {
    unsigned number;
    unsigned patience_s;
} MainThreadWatch;

/* The main thread may wait for a page itself. */
static void *watch_main_thread(void *opaque)
{
    g_autofree MainThreadWatch *watch = opaque;

    g_usleep((gulong)watch->patience_s * G_USEC_PER_SEC);
    if (!atomic_load(&stranding) || atomic_load(&n_strandings) != watch->number)
        return NULL;
    kumo_error("the machine waits for pages that cannot follow, and does not answer any more");
    _exit(EXIT_FAILURE);
}

void kumo_vmm_strand(KumoVmm *vmm, const GError *error, bool recoverable)
{
    Stranding *what = g_new0(Stranding, 1);
    MainThreadWatch *watch = g_new0(MainThreadWatch, 1);

    what->recoverable = recoverable;
    what->message =
        g_strdup_printf("the rest of the VM's memory cannot follow it from the source%s: "
                        "%s",
                        recoverable ? ", until it is recovered" : "", error->message);
    if (recoverable)
        kumo_warn("%s", what->message);
    else
        kumo_error("%s", what->message);
    watch->patience_s = recoverable ? BROKEN_PATIENCE_S : MEMORY_LOST_PATIENCE_S;
    watch->number = atomic_fetch_add(&n_strandings, 1) + 1;
    stranding_free(atomic_exchange(&stranding, what));
    g_thread_unref(g_thread_new("memory-lost", watch_main_thread, watch));
    g_main_context_wakeup(NULL);
}

bool kumo_vmm_is_to_strand(void)
{
    return atomic_load(&stranding) != NULL;
}

void kumo_vmm_finish_strand(KumoVmm *vmm)
{
    Stranding *what = atomic_exchange(&stranding, NULL);
    g_autofree char *shown = what ? g_utf8_make_valid(what->message, -1) : NULL;

    if (!what || !vmm->vm || (vmm->stranded && !vmm->broken)) {
        stranding_free(what);
        return;
    }
    g_free(vmm->stranded);
    vmm->stranded = g_steal_pointer(&what->message);
    vmm->broken = what->recoverable;
    if (!vmm->broken) {
        kumo_vm_freeze(vmm->vm);
        vmm->paused = true;
    }
    kumo_vmm_event(vmm, vmm->broken ? "postcopy-migration-paused" : "postcopy-migration-failed",
                   json_pack("{s:s}", "error", shown));
    stranding_free(what);
}

void kumo_vmm_unstrand(KumoVmm *vmm)
{
    if (!vmm->broken)
        return;
    vmm->broken = false;
    g_clear_pointer(&vmm->stranded, g_free);
    /* What the guest asked for meanwhile is done now. */
    g_main_context_wakeup(NULL);
}

bool kumo_vmm_is_to_unstrand(const KumoVmm *vmm)
{
    return vmm->broken && vmm->vm && !kumo_memory_is_incomplete(kumo_vm_machine(vmm->vm)->memory);
}

bool kumo_vmm_memory_is_lost(void)
{
    return atomic_load(&memory_lost);
}

void kumo_vmm_memory_gone(void)
{
    atomic_store(&memory_lost, false);
}

const char *kumo_vmm_state_name(const KumoVmm *vmm)
{
    if (!vmm->config)
        return "NotCreated";
    if (!vmm->vm)
        return "Created";
    return vmm->paused ? "Paused" : "Running";
}

bool kumo_vmm_refuse(const KumoVmm *vmm, const char *what, GError **error)
{
    g_autofree char *migration = kumo_vmm_describe_migration(vmm);

    if (migration)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "%s", migration);
    else if (vmm->stranded)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "%s", vmm->stranded);
    else if (!vmm->config)
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND, "no VM was created");
    else
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE, "the VM is in the state %s",
                    kumo_vmm_state_name(vmm));
    kumo_prefix_error(error, "cannot %s", what);
    return false;
}

bool kumo_vmm_request_is_pending(const KumoVmm *vmm)
{
    return atomic_load(&vmm->request) != KUMO_VMM_NO_REQUEST;
}
