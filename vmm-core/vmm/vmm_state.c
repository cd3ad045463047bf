/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What state the VMM is in, and how it tells: what all its steps begin or end with. */
#include "vmm-core/vmm/vmm_state.h"

#include <stdlib.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/vmm/vmm_migration.h"

enum { MEMORY_LOST_PATIENCE_S = 5 };

void kumo_vmm_event(KumoVmm *vmm, const char *event, json_t *properties)
{
    if (vmm->params.event)
        vmm->params.event("vm", event, properties);
    else
        json_decref(properties);
}

bool kumo_vmm_is_receiving(const KumoVmm *vmm)
{
    return vmm->migration && !vmm->migration->sending;
}

char *kumo_vmm_describe_migration(const KumoVmm *vmm)
{
    const KumoVmmMigration *migration = vmm->migration;

    return migration ? g_strdup_printf("a migration %s %s is under way",
                                       migration->sending ? "to" : "from", migration->url)
                     : NULL;
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

/* Why, until the main thread knows; of the one machine of this process. */
static _Atomic(char *) stranding;

/* The main thread may wait for a page itself. */
static void *watch_main_thread(void *opaque)
{
    g_usleep(MEMORY_LOST_PATIENCE_S * G_USEC_PER_SEC);
    if (!atomic_load(&stranding))
        return NULL;
    kumo_error("the machine waits for pages that cannot follow, and does not answer any more");
    _exit(EXIT_FAILURE);
}

void kumo_vmm_strand(KumoVmm *vmm, const GError *error)
{
    char *message = g_strdup_printf("the rest of the VM's memory cannot follow it from the source: "
                                    "%s",
                                    error->message);

    kumo_error("%s", message);
    g_free(atomic_exchange(&stranding, message));
    g_thread_unref(g_thread_new("memory-lost", watch_main_thread, NULL));
    g_main_context_wakeup(NULL);
}

bool kumo_vmm_is_to_strand(void)
{
    return atomic_load(&stranding) != NULL;
}

void kumo_vmm_finish_strand(KumoVmm *vmm)
{
    char *message = atomic_exchange(&stranding, NULL);
    g_autofree char *shown = message ? g_utf8_make_valid(message, -1) : NULL;

    if (!message || !vmm->vm || vmm->stranded) {
        g_free(message);
        return;
    }
    kumo_vm_freeze(vmm->vm);
    vmm->paused = true;
    vmm->stranded = message;
    kumo_vmm_event(vmm, "postcopy-migration-failed", json_pack("{s:s}", "error", shown));
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
