/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* virtio-rng (Virtio 1.2, 5.4): fills the guest's buffers from a source of entropy of the host. */
#include "vmm-core/devices/virtio/virtio_rng.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

enum {
    QUEUE_SIZE = 256,
    REQUEST_MAX_BYTES = 64 * 1024, /* what one chain gets at most: a guest may ask for gigabytes */
    BATCH = 16,                    /* chains in a row: others wait on the same thread */
    CLASS_OTHER = 0xff,
};

static const char rng_id[] = "__rng";

typedef struct {
    KumoVirtio virtio;
    KumoLoop *loop;
    int source_fd;
    KumoLoopSource *kick;
    KumoLoopSource *source; /* while the source of entropy has nothing */
    struct iovec iov[QUEUE_SIZE + 2];
} Rng;

static void serve(Rng *rng);

static void source_readable(void *opaque, uint32_t events)
{
    Rng *rng = opaque;

    kumo_loop_remove(g_steal_pointer(&rng->source));
    serve(rng);
}

/* The request stays in the ring until the source has something again. */
static void wait_for_source(Rng *rng)
{
    g_autoptr(GError) error = NULL;

    if (rng->source)
        return;
    rng->source =
        kumo_loop_add_fd(rng->loop, rng->source_fd, EPOLLIN, source_readable, rng, &error);
    if (!rng->source)
        kumo_warn("%s: %s", rng->virtio.device.id, error->message);
}

/* Returns: bytes stored; -1 with errno set. */
static ssize_t fill(Rng *rng, const KumoVirtqChain *chain)
{
    struct iovec part[8];
    size_t left = REQUEST_MAX_BYTES;
    int n = 0;
    ssize_t got;

    for (unsigned i = 0; i < chain->n_writable && left > 0 && n < (int)G_N_ELEMENTS(part); i++) {
        part[n] = chain->iov[chain->n_readable + i];
        part[n].iov_len = MIN(part[n].iov_len, left);
        left -= part[n++].iov_len;
    }
    do {
        got = readv(rng->source_fd, part, n);
    } while (got < 0 && errno == EINTR);
    return got;
}

static void serve(Rng *rng)
{
    KumoVirtq *queue = &rng->virtio.queues[0];
    KumoVirtqResult result = KUMO_VIRTQ_EMPTY;
    unsigned served = 0;

    while (served < BATCH) {
        KumoVirtqChain chain = { .iov = rng->iov, .max_iov = G_N_ELEMENTS(rng->iov) };
        ssize_t got;

        result = kumo_virtq_pop(queue, &chain);
        if (result != KUMO_VIRTQ_CHAIN)
            break;
        if (chain.n_readable > 0 || chain.n_writable == 0) {
            queue->broken = true;
            result = KUMO_VIRTQ_BROKEN;
            break;
        }
        got = fill(rng, &chain);
        if (got <= 0) {
            kumo_virtq_unpop(queue);
            if (got < 0 && errno == EAGAIN)
                wait_for_source(rng);
            else
                kumo_error("%s: source of entropy: %s", rng->virtio.device.id,
                           got == 0 ? "end of file" : g_strerror(errno));
            break;
        }
        kumo_virtq_chain_mark_dirty(queue, &chain, 0, (size_t)got);
        kumo_virtq_push(queue, chain.head, (uint32_t)got);
        served++;
    }
    kumo_virtq_notify(queue);
    if (result == KUMO_VIRTQ_BROKEN)
        kumo_virtio_broken(&rng->virtio, "request queue is broken");
    else if (served == BATCH)
        kumo_eventfd_signal(queue->kick_fd);
}

static void kicked(void *opaque, uint32_t events)
{
    Rng *rng = opaque;

    kumo_eventfd_drain(rng->virtio.queues[0].kick_fd);
    if (!rng->source && !rng->virtio.queues[0].broken)
        serve(rng);
}

static bool rng_activate(KumoVirtio *virtio, GError **error)
{
    Rng *rng = (Rng *)virtio;

    rng->kick = kumo_loop_add_fd(rng->loop, virtio->queues[0].kick_fd, EPOLLIN, kicked, rng, error);
    return rng->kick != NULL;
}

static void remove_sources(void *opaque)
{
    Rng *rng = opaque;

    g_clear_pointer(&rng->kick, kumo_loop_remove);
    g_clear_pointer(&rng->source, kumo_loop_remove);
}

/* Both sources go on the loop's thread, where one callback may just be making the other. */
static void rng_deactivate(KumoVirtio *virtio)
{
    Rng *rng = (Rng *)virtio;

    kumo_loop_call(rng->loop, remove_sources, rng);
}

static bool rng_pause(KumoVirtio *virtio, GError **error)
{
    rng_deactivate(virtio);
    return true;
}

static void rng_resume(KumoVirtio *virtio)
{
    g_autoptr(GError) error = NULL;

    if (!rng_activate(virtio, &error))
        kumo_virtio_broken(virtio, error->message);
}

static const KumoVirtioOps rng_virtio_ops = {
    .activate = rng_activate,
    .deactivate = rng_deactivate,
    .pause = rng_pause,
    .resume = rng_resume,
};

static bool rng_realize(KumoDevice *device, GError **error)
{
    static const uint16_t queue_sizes[] = { QUEUE_SIZE };
    static const KumoVirtioPciParams params = {
        .type = KUMO_VIRTIO_RNG,
        .class_code = CLASS_OTHER,
        .subclass = CLASS_OTHER,
        .n_queues = 1,
        .queue_sizes = queue_sizes,
    };
    Rng *rng = (Rng *)device;
    const KumoRngConfig *config = &device->machine->config->rng;

    rng->source_fd = open(config->src, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (rng->source_fd < 0) {
        kumo_set_error_errno(error, errno, "rng.src %s", config->src);
        return false;
    }
    rng->loop = kumo_machine_slow_loop(device->machine, error);
    if (!rng->loop || !kumo_virtio_pci_realize(&rng->virtio, &config->pci, &params, error)) {
        kumo_fd_clear(&rng->source_fd);
        return false;
    }
    return true;
}

static void rng_unrealize(KumoDevice *device)
{
    Rng *rng = (Rng *)device;

    kumo_virtio_pci_unrealize(&rng->virtio);
    kumo_fd_clear(&rng->source_fd);
}

static void rng_free(KumoDevice *device)
{
    g_free(device);
}

static const KumoDeviceOps rng_ops = {
    .type = "virtio-rng",
    .realize = rng_realize,
    .unrealize = rng_unrealize,
    .free = rng_free,
    .pause = kumo_virtio_pci_pause,
    .resume = kumo_virtio_pci_resume,
    .pci_bdf = kumo_virtio_pci_bdf,
    .describe = kumo_virtio_pci_describe,
    .state = &kumo_virtio_pci_state,
};

static bool rng_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    Rng *rng = g_new0(Rng, 1);

    rng->source_fd = -1;
    rng->virtio.ops = &rng_virtio_ops;
    kumo_device_init(&rng->virtio.device, &rng_ops, machine,
                     config->rng.pci.id ? config->rng.pci.id : rng_id);
    return kumo_device_add(&rng->virtio.device, error);
}

const KumoDeviceType kumo_device_type_virtio_rng = { .name = "virtio-rng", .create = rng_create };
