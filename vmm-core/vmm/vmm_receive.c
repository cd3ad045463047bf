/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A VM that arrives. The migration's thread does what waits, in migration/receive.c; here is what
 * it asks of the main thread. Until the source has let it go, the machine is built but shown to
 * nobody.
 */
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/migration/receive.h"
#include "vmm-core/vmm/vmm_machine.h"
#include "vmm-core/vmm/vmm_migration.h"
#include "vmm-core/vmm/vmm_recover.h"

typedef struct {
    KumoVmmMigration base;
    KumoReceiveMigrationConfig *config;
    KumoChannelListener listener;
    KumoReceiver receiver;
    bool ok;
    GError *error;
    KumoVmmReceived received;
    void *opaque;
} Receive;

/* A call to the main thread with a result. */
typedef struct {
    KumoVmm *vmm;
    const Receive *receive;
    const json_t *json;
    bool paused;
    bool ok;
    GError **error;
} Call;

static bool call_main(Receive *receive, void (*func)(void *opaque), Call *call)
{
    call->vmm = receive->base.vmm;
    call->receive = receive;
    kumo_main_calls_run(receive->base.calls, func, call);
    return call->ok;
}

static void started(void *opaque)
{
    const Receive *receive = opaque;

    kumo_vmm_event(receive->base.vmm, "migration-receive-started", NULL);
}

/* Descriptors are the source's alone: a machine that has some can only be built from another
 * configuration. */
static bool drop_fds(KumoVmConfig *config, bool has_own, GError **error)
{
    for (guint i = 0; i < config->nets->len; i++) {
        KumoNetConfig *net = config->nets->pdata[i];

        if (net->fds && !has_own) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                        "net %s was given to the source as descriptors (fd): the destination needs "
                        "a configuration of its own, with others",
                        net->pci.id);
            return false;
        }
        g_clear_pointer(&net->fds, g_array_unref);
    }
    return true;
}

/* Returns: (transfer full): what the machine is built from: what the source has, or our own. */
static KumoVmConfig *read_config(const KumoReceiveMigrationConfig *receive, const json_t *document,
                                 GError **error)
{
    g_autoptr(KumoVmConfig) config =
        kumo_vm_config_from_json(json_object_get(document, "config"), error);
    g_autoptr(KumoVmConfig) own = NULL;

    if (!config || !drop_fds(config, receive->has_config, error) ||
        !kumo_vm_config_validate(config, error)) {
        kumo_prefix_error(error, "config");
        return NULL;
    }
    if (!receive->has_config)
        return g_steal_pointer(&config);
    own = kumo_vm_config_copy(&receive->config);
    if (!kumo_vm_config_validate(own, error) ||
        !kumo_vm_config_check_same_guest(config, own, error)) {
        kumo_prefix_error(error, "the destination's configuration");
        return NULL;
    }
    return g_steal_pointer(&own);
}

static void build_on_main(void *opaque)
{
    Call *call = opaque;
    KumoVmm *vmm = call->vmm;
    const KumoVmRestore restore = { .state = call->json };
    const KumoVmmArrival arrival = { .memory_on_demand = call->receive->receiver.postcopy,
                                     .socket = call->receive->listener.path };
    KumoVmConfig *config = read_config(call->receive->config, call->json, call->error);

    if (!config || !kumo_vmm_adopt(vmm, config, &arrival, call->error))
        return;
    call->ok = kumo_vmm_build_machine(vmm, &restore, call->error);
    if (!call->ok)
        kumo_vmm_forget(vmm);
}

static bool build(void *opaque, const json_t *document, KumoMemory **ret_memory, GError **error)
{
    Receive *receive = opaque;
    Call call = { .json = document, .error = error };

    if (!call_main(receive, build_on_main, &call))
        return false;
    *ret_memory = kumo_vm_machine(receive->base.vmm->vm)->memory;
    return true;
}

static void load_on_main(void *opaque)
{
    Call *call = opaque;
    KumoVm *vm = call->vmm->vm;

    call->ok = kumo_vm_load(vm, call->json, call->error);
}

static bool load(void *opaque, const json_t *state, GError **error)
{
    Call call = { .json = state, .error = error };

    return call_main(opaque, load_on_main, &call);
}

static void go_on_main(void *opaque)
{
    Call *call = opaque;

    /* With the locks it is decided who has the VM: a source in doubt runs it only with them. */
    if (!kumo_vm_lock(call->vmm->vm, true, NULL, call->error))
        return;
    call->ok = call->paused || kumo_vmm_resume_machine(call->vmm, call->error);
    if (!call->ok)
        kumo_vm_lock(call->vmm->vm, false, NULL, NULL);
    call->vmm->memory_followed = call->receive->receiver.postcopy;
}

static bool go(void *opaque, bool paused, GError **error)
{
    const Receive *receive = opaque;
    Call call = { .paused = paused || receive->config->paused, .error = error };

    return call_main(opaque, go_on_main, &call);
}

static void on_main(void *opaque, void (*func)(void *arg), void *arg)
{
    const Receive *receive = opaque;

    kumo_main_calls_run(receive->base.calls, func, arg);
}

/* --- memory that follows, when the migration is long forgotten; any thread --- */

static void begins_to_follow(void *opaque)
{
    kumo_vmm_event(opaque, "postcopy-migration-started", NULL);
}

static void all_followed(void *opaque)
{
    kumo_vmm_event(opaque, "postcopy-migration-completed", NULL);
    g_main_context_wakeup(NULL);
}

static void cut_off(void *opaque, const GError *error)
{
    kumo_vmm_strand(opaque, error, false);
}

static void connection_lost(void *opaque, const GError *error)
{
    kumo_vmm_strand(opaque, error, true);
}

static const KumoReceiveHost host = {
    .started = started,
    .build = build,
    .load = load,
    .go = go,
    .on_main = on_main,
};

static void receive_free(Receive *receive)
{
    kumo_channel_listener_close(&receive->listener);
    kumo_channel_tls_free(receive->receiver.tls);
    kumo_receive_migration_config_free(receive->config);
    g_clear_error(&receive->error);
    g_free(receive);
}

static void finish_on_main(void *opaque)
{
    Receive *receive = opaque;
    KumoVmm *vmm = receive->base.vmm;

    if (!receive->ok && vmm->vm) {
        kumo_vmm_drop_machine(vmm);
        kumo_vmm_forget(vmm);
    }
    kumo_vmm_migration_finish(&receive->base);
    if (receive->ok)
        kumo_vmm_event(vmm, "migration-receive-finished", NULL);
    else
        kumo_vmm_migration_failed(vmm, "migration-receive-failed", receive->error);
    if (receive->received)
        receive->received(receive->opaque, receive->error);
    receive_free(receive);
}

static const char *why_committed(const KumoVmmMigration *migration)
{
    return "the source has let the VM go";
}

static void *receive_thread(void *opaque)
{
    Receive *receive = opaque;

    receive->ok = kumo_receive_run(&receive->receiver, &receive->error);
    kumo_main_calls_finish(receive->base.calls, finish_on_main, receive);
    return NULL;
}

static bool listen_for_source(Receive *receive, GError **error)
{
    GArray *fd = receive->config->stream_fd;

    if (receive->config->tls_dir) {
        receive->receiver.tls = kumo_channel_tls_new(receive->config->tls_dir, true, error);
        if (!receive->receiver.tls)
            return false;
    }
    if (!fd)
        return kumo_channel_listen(&receive->listener, "receiver_url",
                                   receive->config->receiver_url, error);
    kumo_channel_listen_fd(&receive->listener, kumo_fd_steal(&g_array_index(fd, int, 0)));
    return true;
}

bool kumo_vmm_receive_migration(KumoVmm *vmm, KumoReceiveMigrationConfig *receive_config,
                                KumoVmmReceived received, void *opaque, GError **error)
{
    g_autoptr(KumoReceiveMigrationConfig) config = receive_config;
    Receive *receive;

    if (config->recover)
        return kumo_vmm_recover_received(vmm, g_steal_pointer(&config), received, opaque, error);
    if (vmm->migration || vmm->config)
        return kumo_vmm_refuse(vmm, "receive a VM", error);
    if (config->has_config) {
        /* What is wrong with it is known before anybody connects. */
        g_autoptr(KumoVmConfig) copy = kumo_vm_config_copy(&config->config);

        if (!kumo_vm_config_validate(copy, error))
            return false;
    }
    if (config->memory_mode != KUMO_MEMORY_PRECOPY && !kumo_userfault_check(error)) {
        kumo_prefix_error(error, "memory_mode");
        return false;
    }
    receive = g_new0(Receive, 1);
    receive->listener.fd = -1;
    receive->config = g_steal_pointer(&config);
    receive->receiver =
        (KumoReceiver){ .listener = &receive->listener,
                        .host = &host,
                        .opaque = receive,
                        .cancel = &receive->base.cancel,
                        .postcopy = receive->config->memory_mode != KUMO_MEMORY_PRECOPY,
                        .watch = { .finished = all_followed,
                                   .failed = cut_off,
                                   .broken = connection_lost,
                                   .opaque = vmm,
                                   .started = begins_to_follow,
                                   .timeout_s = receive->config->peer_timeout_s } };
    receive->base.committed = why_committed;
    receive->received = received;
    receive->opaque = opaque;
    if (!listen_for_source(receive, error) ||
        !kumo_vmm_migration_start(&receive->base, vmm, false, receive->config->receiver_url,
                                  receive_thread, error)) {
        receive_free(receive);
        return false;
    }
    kumo_vmm_event(vmm, "migration-receive-ready", NULL);
    return true;
}
