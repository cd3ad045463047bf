/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virtio-balloon (Virtio 1.2, 5.5): the guest gives pages back (inflate), takes them again
 * (deflate), tells which of its pages are free (reporting) and how it does (statistics). Every
 * address is the guest's word: what is not RAM breaks the queue, what is RAM is the guest's own to
 * lose.
 */
#include "vmm-core/devices/virtio/virtio_balloon.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

enum {
    PFN_SHIFT = 12,
    QUEUE_SIZE = 128,
    REPORTING_SIZE = 32,
    BATCH = 16,            /* chains in a row: others wait on the same thread */
    MAX_PFNS = 256 * 1024, /* of one chain */
    PFNS_AT_ONCE = 256,    /* what Linux sends in one chain */
    CLASS_OTHER = 0xff,

    Q_INFLATE = 0,
    Q_DEFLATE = 1,
    Q_FIRST_OPTIONAL = 2,
    MAX_QUEUES = 4,

    CONFIG_ACTUAL = 4, /* offset of what the driver writes */
    STAT_BYTES = 10,   /* le16 tag, le64 value, packed (5.5.6.3) */
    MAX_STATS = 64,    /* looked at in one buffer */
};

#define F_STATS_VQ       (1ULL << 1)
#define F_DEFLATE_ON_OOM (1ULL << 2)
#define F_REPORTING      (1ULL << 5)

/* By tag (5.5.6.4; the last six are Linux's). NULL: none. */
static const char *const stat_names[] = {
    "swap_in",          "swap_out",     "major_faults",
    "minor_faults",     "free_memory",  "total_memory",
    "available_memory", "disk_caches",  "hugetlb_allocations",
    "hugetlb_failures", "oom_kills",    "alloc_stalls",
    "async_scans",      "direct_scans", "async_reclaims",
    "direct_reclaims",
};

enum { N_STATS = G_N_ELEMENTS(stat_names) };

typedef struct {
    uint32_t num_pages;
    uint32_t actual;
} __attribute__((packed)) BalloonConfig;

typedef struct Balloon Balloon;

typedef struct {
    Balloon *balloon;
    unsigned index;
    KumoLoopSource *kick;
} BalloonQueue;

struct Balloon {
    KumoVirtio virtio;
    const KumoBalloonConfig *config;
    KumoLoop *loop;
    BalloonQueue queues[MAX_QUEUES];
    int timer_fd; /* -1: the guest gives no statistics; set to 0: nobody asks for them */
    KumoLoopSource *timer;
    struct iovec iov[2 * QUEUE_SIZE]; /* a buffer may cross memory regions */

    _Atomic uint32_t target_pages;
    _Atomic uint32_t actual_pages; /* the guest's word */
    _Atomic bool tell_reached;     /* once for each target: a guest may write at any rate */
    _Atomic uint64_t inflated_bytes, deflated_bytes, reported_bytes;

    /* The worker's. */
    bool has_stats_chain; /* the guest's buffer that goes back when statistics are wanted */
    uint16_t stats_chain;
    GMutex stats_lock; /* what follows */
    uint64_t stats[N_STATS];
    bool stats_known[N_STATS];
    int64_t stats_time_s; /* UTC; 0: never */
};

/* A driver numbers the queues that it knows without gaps. */
static bool is_stats(const Balloon *balloon, unsigned index)
{
    return index == Q_FIRST_OPTIONAL && kumo_virtio_has(&balloon->virtio, F_STATS_VQ);
}

/* --- inflate and deflate --- */

static void take_range(Balloon *balloon, uint64_t gpa, uint64_t len)
{
    int err = kumo_memory_discard(balloon->virtio.device.machine->memory, gpa, len);

    if (err)
        kumo_warn_guest("%s: giving %" PRIu64 " bytes at 0x%" PRIx64 " back to the host: %s",
                        balloon->virtio.device.id, len, gpa, g_strerror(err));
    atomic_fetch_add(&balloon->inflated_bytes, len);
}

/* Runs of pages go together. Returns: FALSE: one is no RAM; those before it are done. */
static bool take_pages(Balloon *balloon, bool inflate, const uint32_t *pfns, size_t n)
{
    const KumoMemory *memory = balloon->virtio.device.machine->memory;
    uint64_t start = 0, len = 0;
    bool ok = true;

    for (size_t i = 0; i < n && ok; i++) {
        uint64_t gpa = (uint64_t)GUINT32_FROM_LE(pfns[i]) << PFN_SHIFT;

        if (!kumo_memory_at(memory, gpa, 1 << PFN_SHIFT)) {
            kumo_warn_guest("%s: page 0x%" PRIx64 " is not memory", balloon->virtio.device.id, gpa);
            ok = false;
        } else if (!inflate) {
            atomic_fetch_add(&balloon->deflated_bytes, 1 << PFN_SHIFT);
        } else if (len && gpa == start + len) {
            len += 1 << PFN_SHIFT;
        } else if (len && start == gpa + (1 << PFN_SHIFT)) {
            start = gpa;
            len += 1 << PFN_SHIFT;
        } else {
            if (len)
                take_range(balloon, start, len);
            start = gpa;
            len = 1 << PFN_SHIFT;
        }
    }
    if (len)
        take_range(balloon, start, len);
    return ok;
}

/* Returns: FALSE: the driver broke the rules. */
static bool serve_pages(Balloon *balloon, bool inflate, const KumoVirtqChain *chain)
{
    uint64_t bytes = chain->readable_bytes;
    uint32_t pfns[PFNS_AT_ONCE];
    size_t offset = 0, got;

    if (chain->n_writable || bytes % sizeof(uint32_t) || bytes > MAX_PFNS * sizeof(uint32_t))
        return false;
    while ((got = kumo_virtq_chain_read(chain, offset, pfns, sizeof(pfns))) > 0) {
        if (!take_pages(balloon, inflate, pfns, got / sizeof(uint32_t)))
            return false;
        offset += got;
    }
    return true;
}

/* --- free page reporting --- */

static bool serve_report(Balloon *balloon, const KumoVirtqChain *chain)
{
    KumoMemory *memory = balloon->virtio.device.machine->memory;

    if (chain->n_readable)
        return false;
    for (unsigned i = 0; i < chain->n_writable; i++) {
        const struct iovec *iov = &chain->iov[i];
        int err =
            kumo_memory_discard(memory, kumo_memory_gpa_of(memory, iov->iov_base), iov->iov_len);

        if (err)
            kumo_warn_guest("%s: giving %zu reported bytes back to the host: %s",
                            balloon->virtio.device.id, iov->iov_len, g_strerror(err));
        else
            atomic_fetch_add(&balloon->reported_bytes, iov->iov_len);
    }
    return true;
}

/* --- statistics --- */

/* The buffer stays with us until the next are wanted (5.5.6.3). */
static bool serve_stats(Balloon *balloon, const KumoVirtqChain *chain)
{
    uint8_t stats[MAX_STATS * STAT_BYTES];
    size_t len = kumo_virtq_chain_read(chain, 0, stats, sizeof(stats));

    if (chain->n_writable || balloon->has_stats_chain)
        return false;
    balloon->has_stats_chain = true;
    balloon->stats_chain = chain->head;
    /* The first buffer says only that there is one. */
    if (len < STAT_BYTES)
        return true;
    g_mutex_lock(&balloon->stats_lock);
    for (size_t at = 0; at + STAT_BYTES <= len; at += STAT_BYTES) {
        uint16_t tag;
        uint64_t value;

        memcpy(&tag, stats + at, sizeof(tag));
        memcpy(&value, stats + at + sizeof(tag), sizeof(value));
        tag = GUINT16_FROM_LE(tag);
        if (tag < N_STATS) {
            balloon->stats[tag] = GUINT64_FROM_LE(value);
            balloon->stats_known[tag] = true;
        }
    }
    balloon->stats_time_s = g_get_real_time() / G_USEC_PER_SEC;
    g_mutex_unlock(&balloon->stats_lock);
    return true;
}

/* The guest fills the buffer again when it has it back. */
static void stats_wanted(void *opaque, uint32_t events)
{
    Balloon *balloon = opaque;
    KumoVirtq *queue = &balloon->virtio.queues[Q_FIRST_OPTIONAL];
    uint64_t n;

    if (read(balloon->timer_fd, &n, sizeof(n)) < 0 || !balloon->has_stats_chain || queue->broken)
        return;
    balloon->has_stats_chain = false;
    kumo_virtq_push(queue, balloon->stats_chain, 0);
    kumo_virtq_notify(queue);
}

/* --- queues --- */

/* Returns: FALSE: the driver broke the rules. @ret_push: the chain goes back. */
static bool serve_chain(Balloon *balloon, unsigned index, const KumoVirtqChain *chain,
                        bool *ret_push)
{
    *ret_push = true;
    if (index < Q_FIRST_OPTIONAL)
        return serve_pages(balloon, index == Q_INFLATE, chain);
    if (is_stats(balloon, index)) {
        *ret_push = false;
        return serve_stats(balloon, chain);
    }
    return serve_report(balloon, chain);
}

static void kicked(void *opaque, uint32_t events)
{
    BalloonQueue *mine = opaque;
    Balloon *balloon = mine->balloon;
    KumoVirtq *queue = &balloon->virtio.queues[mine->index];
    KumoVirtqResult result = KUMO_VIRTQ_EMPTY;
    unsigned served;

    kumo_eventfd_drain(queue->kick_fd);
    if (queue->broken)
        return;
    for (served = 0; served < BATCH; served++) {
        KumoVirtqChain chain = { .iov = balloon->iov, .max_iov = G_N_ELEMENTS(balloon->iov) };
        bool push;

        result = kumo_virtq_pop(queue, &chain);
        if (result != KUMO_VIRTQ_CHAIN)
            break;
        if (!serve_chain(balloon, mine->index, &chain, &push)) {
            queue->broken = true;
            result = KUMO_VIRTQ_BROKEN;
            break;
        }
        if (push)
            kumo_virtq_push(queue, chain.head, 0);
    }
    kumo_virtq_notify(queue);
    if (result == KUMO_VIRTQ_BROKEN)
        kumo_virtio_broken(&balloon->virtio, mine->index == Q_INFLATE   ? "inflate queue is broken"
                                             : mine->index == Q_DEFLATE ? "deflate queue is broken"
                                             : is_stats(balloon, mine->index)
                                                 ? "statistics queue is broken"
                                                 : "reporting queue is broken");
    else if (served == BATCH)
        kumo_eventfd_signal(queue->kick_fd);
}

/* How many queues the negotiated features have. */
static unsigned n_queues_used(const Balloon *balloon)
{
    return Q_FIRST_OPTIONAL + kumo_virtio_has(&balloon->virtio, F_STATS_VQ) +
           kumo_virtio_has(&balloon->virtio, F_REPORTING);
}

static void remove_sources(Balloon *balloon)
{
    for (unsigned i = 0; i < MAX_QUEUES; i++)
        g_clear_pointer(&balloon->queues[i].kick, kumo_loop_remove);
    g_clear_pointer(&balloon->timer, kumo_loop_remove);
}

static bool add_sources(Balloon *balloon, GError **error)
{
    for (unsigned i = 0; i < n_queues_used(balloon); i++) {
        BalloonQueue *mine = &balloon->queues[i];

        mine->kick = kumo_loop_add_fd(balloon->loop, balloon->virtio.queues[i].kick_fd, EPOLLIN,
                                      kicked, mine, error);
        if (!mine->kick)
            return false;
    }
    if (balloon->timer_fd < 0 || !kumo_virtio_has(&balloon->virtio, F_STATS_VQ))
        return true;
    balloon->timer =
        kumo_loop_add_fd(balloon->loop, balloon->timer_fd, EPOLLIN, stats_wanted, balloon, error);
    return balloon->timer != NULL;
}

static bool balloon_resume_queues(Balloon *balloon, GError **error)
{
    if (add_sources(balloon, error))
        return true;
    remove_sources(balloon);
    return false;
}

static bool balloon_activate(KumoVirtio *virtio, GError **error)
{
    Balloon *balloon = (Balloon *)virtio;

    balloon->has_stats_chain = false;
    return balloon_resume_queues(balloon, error);
}

static void balloon_deactivate(KumoVirtio *virtio)
{
    remove_sources((Balloon *)virtio);
}

static bool balloon_pause(KumoVirtio *virtio, GError **error)
{
    remove_sources((Balloon *)virtio);
    return true;
}

static void balloon_resume(KumoVirtio *virtio)
{
    g_autoptr(GError) error = NULL;

    if (!balloon_resume_queues((Balloon *)virtio, &error))
        kumo_virtio_broken(virtio, error->message);
}

static void balloon_config_read(KumoVirtio *virtio, uint64_t offset, uint8_t *data, unsigned size)
{
    Balloon *balloon = (Balloon *)virtio;
    const BalloonConfig config = {
        .num_pages = GUINT32_TO_LE(atomic_load(&balloon->target_pages)),
        .actual = GUINT32_TO_LE(atomic_load(&balloon->actual_pages)),
    };

    kumo_virtio_config_copy(&config, sizeof(config), offset, data, size);
}

static void balloon_config_write(KumoVirtio *virtio, uint64_t offset, const uint8_t *data,
                                 unsigned size)
{
    Balloon *balloon = (Balloon *)virtio;
    uint32_t actual;

    if (offset != CONFIG_ACTUAL || size != sizeof(actual)) {
        kumo_warn_guest("%s: write of %u bytes at %" PRIu64 " of the configuration ignored",
                        virtio->device.id, size, offset);
        return;
    }
    memcpy(&actual, data, sizeof(actual));
    actual = GUINT32_FROM_LE(actual);
    atomic_store(&balloon->actual_pages, actual);
    if (actual == atomic_load(&balloon->target_pages) &&
        atomic_exchange(&balloon->tell_reached, false))
        kumo_machine_event(virtio->device.machine, "virtio-device", "target-reached",
                           virtio->device.id);
}

static const KumoVirtioOps balloon_virtio_ops = {
    .config_read = balloon_config_read,
    .config_write = balloon_config_write,
    .activate = balloon_activate,
    .deactivate = balloon_deactivate,
    .pause = balloon_pause,
    .resume = balloon_resume,
};

/* --- the device --- */

static bool balloon_resize(KumoDevice *device, uint64_t size_bytes, GError **error)
{
    Balloon *balloon = (Balloon *)device;
    uint32_t pages;

    if (size_bytes >> PFN_SHIFT > UINT32_MAX) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%" PRIu64 " bytes are too many",
                    size_bytes);
        return false;
    }
    pages = (uint32_t)(size_bytes >> PFN_SHIFT);
    if (atomic_exchange(&balloon->target_pages, pages) != pages) {
        atomic_store(&balloon->tell_reached, true);
        balloon->virtio.notify_config(&balloon->virtio);
    }
    return true;
}

/* Never more than the guest has, whatever it says. */
static uint64_t actual_bytes(Balloon *balloon)
{
    const KumoMemory *memory = balloon->virtio.device.machine->memory;
    uint64_t ram = 0;

    for (unsigned i = 0; i < memory->n_regions; i++)
        ram += memory->regions[i].size_bytes;
    return MIN((uint64_t)atomic_load(&balloon->actual_pages) << PFN_SHIFT, ram);
}

static int64_t balloon_memory_bytes(KumoDevice *device)
{
    return -(int64_t)actual_bytes((Balloon *)device);
}

static json_t *balloon_counters(KumoDevice *device)
{
    Balloon *balloon = (Balloon *)device;
    json_t *counters =
        json_pack("{s:I, s:I, s:I, s:I, s:I}", "actual_bytes", (json_int_t)actual_bytes(balloon),
                  "target_bytes", (json_int_t)atomic_load(&balloon->target_pages) << PFN_SHIFT,
                  "inflated_bytes", (json_int_t)atomic_load(&balloon->inflated_bytes),
                  "deflated_bytes", (json_int_t)atomic_load(&balloon->deflated_bytes),
                  "reported_bytes", (json_int_t)atomic_load(&balloon->reported_bytes));

    g_mutex_lock(&balloon->stats_lock);
    for (unsigned i = 0; i < N_STATS; i++) {
        if (balloon->stats_known[i])
            json_object_set_new(counters, stat_names[i],
                                json_integer((json_int_t)MIN(balloon->stats[i], INT64_MAX)));
    }
    if (balloon->stats_time_s)
        json_object_set_new(counters, "stats_time", json_integer(balloon->stats_time_s));
    g_mutex_unlock(&balloon->stats_lock);
    return counters;
}

static bool gives_statistics(const KumoBalloonConfig *config)
{
    return config->statistics || config->stats_period_s;
}

static bool set_timer(Balloon *balloon, uint32_t period_s, GError **error)
{
    const struct itimerspec period = { .it_interval.tv_sec = period_s,
                                       .it_value.tv_sec = period_s };

    if (balloon->timer_fd >= 0 && timerfd_settime(balloon->timer_fd, 0, &period, NULL) == 0)
        return true;
    kumo_set_error_errno(error, errno, "balloon.stats_period: timer");
    return false;
}

static bool start_timer(Balloon *balloon, GError **error)
{
    if (!gives_statistics(balloon->config))
        return true;
    balloon->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    if (set_timer(balloon, balloon->config->stats_period_s, error))
        return true;
    kumo_fd_clear(&balloon->timer_fd);
    return false;
}

static bool balloon_update(KumoDevice *device, const void *opaque, GError **error)
{
    Balloon *balloon = (Balloon *)device;
    const KumoBalloonConfig *wanted = opaque;

    if (balloon->timer_fd < 0 && !wanted->stats_period_s)
        return true;
    if (balloon->timer_fd < 0) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_STATE,
                    "stats_period: the VM was booted with a balloon that gives no statistics");
        return false;
    }
    return set_timer(balloon, wanted->stats_period_s, error);
}

static bool balloon_realize(KumoDevice *device, GError **error)
{
    Balloon *balloon = (Balloon *)device;
    const KumoBalloonConfig *config = balloon->config;
    uint16_t queue_sizes[MAX_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE };
    KumoVirtioPciParams params = {
        .type = KUMO_VIRTIO_BALLOON,
        .class_code = CLASS_OTHER,
        .subclass = CLASS_OTHER,
        .n_queues = Q_FIRST_OPTIONAL,
        .queue_sizes = queue_sizes,
    };

    if (gives_statistics(config)) {
        params.offered |= F_STATS_VQ;
        queue_sizes[params.n_queues++] = QUEUE_SIZE;
    }
    if (config->deflate_on_oom)
        params.offered |= F_DEFLATE_ON_OOM;
    if (config->free_page_reporting) {
        params.offered |= F_REPORTING;
        queue_sizes[params.n_queues++] = REPORTING_SIZE;
    }
    balloon->loop = kumo_machine_slow_loop(device->machine, error);
    if (!balloon->loop || !start_timer(balloon, error))
        return false;
    if (!kumo_virtio_pci_realize(&balloon->virtio, &config->pci, &params, error)) {
        kumo_fd_clear(&balloon->timer_fd);
        return false;
    }
    return true;
}

static void balloon_unrealize(KumoDevice *device)
{
    Balloon *balloon = (Balloon *)device;

    kumo_virtio_pci_unrealize(&balloon->virtio);
    kumo_fd_clear(&balloon->timer_fd);
}

static void balloon_free(KumoDevice *device)
{
    g_mutex_clear(&((Balloon *)device)->stats_lock);
    g_free(device);
}

/* --- state --- */

typedef struct {
    KumoVirtioPciState transport;
    uint32_t target_pages, actual_pages;
    bool has_stats_chain;
    uint16_t stats_chain;
} BalloonState;

static const KumoStateField balloon_fields[] = {
    { KUMO_STATE_ROW(TABLE, BalloonState, transport), .table = &kumo_virtio_pci_state_table },
    { KUMO_STATE_ROW(U32, BalloonState, target_pages) },
    { KUMO_STATE_ROW(U32, BalloonState, actual_pages) },
    { KUMO_STATE_ROW(BOOL, BalloonState, has_stats_chain) },
    { KUMO_STATE_ROW(U16, BalloonState, stats_chain) },
};

static const KumoStateTable balloon_table = {
    .name = "virtio-balloon",
    .version = 1,
    .fields = balloon_fields,
    .n_fields = G_N_ELEMENTS(balloon_fields),
    .size = sizeof(BalloonState),
};

static void balloon_save(KumoDevice *device, void *opaque)
{
    Balloon *balloon = (Balloon *)device;
    BalloonState *state = opaque;

    kumo_virtio_pci_save(&balloon->virtio, &state->transport);
    state->target_pages = atomic_load(&balloon->target_pages);
    state->actual_pages = atomic_load(&balloon->actual_pages);
    state->has_stats_chain = balloon->has_stats_chain;
    state->stats_chain = balloon->stats_chain;
}

static bool balloon_load(KumoDevice *device, const void *opaque, GError **error)
{
    Balloon *balloon = (Balloon *)device;
    const BalloonState *state = opaque;

    if (state->has_stats_chain && state->stats_chain >= QUEUE_SIZE) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "state: stats_chain: %u is not a chain's head", state->stats_chain);
        return false;
    }
    if (!kumo_virtio_pci_load(&balloon->virtio, &state->transport, error))
        return false;
    atomic_store(&balloon->target_pages, state->target_pages);
    atomic_store(&balloon->actual_pages, state->actual_pages);
    balloon->has_stats_chain = state->has_stats_chain;
    balloon->stats_chain = state->stats_chain;
    return true;
}

static const KumoDeviceState balloon_state = {
    .table = &balloon_table,
    .save = balloon_save,
    .load = balloon_load,
};

static const KumoDeviceOps balloon_ops = {
    .type = "virtio-balloon",
    .realize = balloon_realize,
    .unrealize = balloon_unrealize,
    .free = balloon_free,
    .pause = kumo_virtio_pci_pause,
    .resume = kumo_virtio_pci_resume,
    .counters = balloon_counters,
    .pci_bdf = kumo_virtio_pci_bdf,
    .describe = kumo_virtio_pci_describe,
    .resize = balloon_resize,
    .update = balloon_update,
    .memory_bytes = balloon_memory_bytes,
    .state = &balloon_state,
};

static bool balloon_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    Balloon *balloon;

    if (!config->has_balloon)
        return true;
    balloon = g_new0(Balloon, 1);
    balloon->virtio.ops = &balloon_virtio_ops;
    balloon->config = &config->balloon;
    balloon->timer_fd = -1;
    g_mutex_init(&balloon->stats_lock);
    for (unsigned i = 0; i < MAX_QUEUES; i++)
        balloon->queues[i] = (BalloonQueue){ .balloon = balloon, .index = i };
    atomic_init(&balloon->target_pages, (uint32_t)(config->balloon.size_bytes >> PFN_SHIFT));
    atomic_init(&balloon->tell_reached, config->balloon.size_bytes > 0);
    kumo_device_init(&balloon->virtio.device, &balloon_ops, machine,
                     config->balloon.pci.id ? config->balloon.pci.id : "__balloon");
    return kumo_device_add(&balloon->virtio.device, error);
}

const KumoDeviceType kumo_device_type_virtio_balloon = {
    .name = "virtio-balloon",
    .create = balloon_create,
};
