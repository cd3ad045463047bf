/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * virtio-mem (Virtio 1.2, 5.15): a region of guest addresses in blocks, each of which is RAM or
 * not. The VMM says how much there should be; the guest chooses which blocks it takes or gives
 * back. What it gives back goes to the host at once. A reset of the device changes no block
 * (5.15.5): only the guest knows what is in them.
 *
 * The blocks belong to the worker while the device is active. How many bytes are plugged and wanted
 * are atomics, for config space and the API.
 */
#include "vmm-core/devices/virtio/virtio_mem.h"

#include <inttypes.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

enum {
    QUEUE_SIZE = 128,
    BATCH = 32, /* chains in a row: others wait on the same thread */
    CLASS_OTHER = 0xff,

    REQ_PLUG = 0,
    REQ_UNPLUG = 1,
    REQ_UNPLUG_ALL = 2,
    REQ_STATE = 3,

    RESP_ACK = 0,
    RESP_NACK = 1,
    RESP_BUSY = 2,
    RESP_ERROR = 3,

    STATE_PLUGGED = 0,
    STATE_UNPLUGGED = 1,
    STATE_MIXED = 2,

    MAX_STATE_BYTES = 16 << 20, /* of a bitmap: 256 TiB in blocks of 2 MiB */
};

#define F_ACPI_PXM (1ULL << 0) /* config.node_id is one of the SRAT's */
#define MIN_BLOCK  (2ULL << 20)

typedef struct {
    uint64_t block_size;
    uint16_t node_id;
    uint8_t padding[6];
    uint64_t addr;
    uint64_t region_size;
    uint64_t usable_region_size;
    uint64_t plugged_size;
    uint64_t requested_size;
} __attribute__((packed)) MemConfig;

typedef struct {
    uint16_t type;
    uint16_t padding[3];
    uint64_t addr;
    uint16_t nb_blocks;
    uint16_t padding2[3];
} __attribute__((packed)) MemRequest;

typedef struct {
    uint16_t type;
    uint16_t padding[3];
    uint16_t state;
} __attribute__((packed)) MemResponse;

typedef struct {
    KumoVirtio virtio;
    KumoPciCommon pci; /* its id is the configuration's */
    KumoLoop *loop;
    KumoLoopSource *kick;
    uint64_t gpa, size_bytes, block_bytes;
    uint32_t node;     /* KUMO_NUMA_NONE: none */
    bool populate;     /* take the host's memory when the guest takes a block, or say no */
    uint64_t *plugged; /* one bit per block */
    uint64_t n_blocks;
    _Atomic uint64_t plugged_bytes;
    _Atomic uint64_t requested_bytes;
    _Atomic bool tell_reached; /* once for each size that was asked for */
    struct iovec iov[QUEUE_SIZE + 2];
} Mem;

/* --- blocks --- */

static bool is_plugged(const Mem *mem, uint64_t block)
{
    return mem->plugged[block / 64] >> (block % 64) & 1;
}

static void set_plugged(Mem *mem, uint64_t block, bool plugged)
{
    if (plugged)
        mem->plugged[block / 64] |= 1ULL << (block % 64);
    else
        mem->plugged[block / 64] &= ~(1ULL << (block % 64));
}

static uint64_t count_plugged(const Mem *mem, uint64_t first, uint64_t n)
{
    uint64_t count = 0;

    for (uint64_t i = first; i < first + n; i++)
        count += is_plugged(mem, i);
    return count;
}

/* Returns: TRUE and the first block, if the request is about blocks that there are. */
static bool blocks_of(const Mem *mem, const MemRequest *request, uint64_t *ret_first)
{
    uint64_t gpa = GUINT64_FROM_LE(request->addr);
    uint64_t len = GUINT16_FROM_LE(request->nb_blocks) * mem->block_bytes;

    if (len == 0 || !kumo_range_inside(gpa, len, mem->gpa, mem->size_bytes) ||
        (gpa - mem->gpa) % mem->block_bytes)
        return false;
    *ret_first = (gpa - mem->gpa) / mem->block_bytes;
    return true;
}

static uint16_t plug(Mem *mem, uint64_t first, uint64_t n)
{
    KumoMemory *memory = mem->virtio.device.machine->memory;
    uint64_t gpa = mem->gpa + first * mem->block_bytes;
    uint64_t len = n * mem->block_bytes;
    uint64_t now = atomic_load(&mem->plugged_bytes);

    if (count_plugged(mem, first, n) > 0)
        return RESP_ERROR;
    if (now + len > atomic_load(&mem->requested_bytes))
        return RESP_NACK;
    if (mem->populate) {
        int err = kumo_memory_populate(memory, gpa, len);

        if (err) {
            kumo_warn_guest("%s: no memory of the host for %" PRIu64 " bytes: %s",
                            mem->virtio.device.id, len, g_strerror(err));
            kumo_memory_discard(memory, gpa, len);
            return RESP_BUSY;
        }
    }
    for (uint64_t i = first; i < first + n; i++)
        set_plugged(mem, i, true);
    atomic_store(&mem->plugged_bytes, now + len);
    return RESP_ACK;
}

/* Blocks [@first, @first + @n), which are plugged, go back to the host. */
static bool give_back(Mem *mem, uint64_t first, uint64_t n)
{
    uint64_t len = n * mem->block_bytes;
    int err = kumo_memory_discard(mem->virtio.device.machine->memory,
                                  mem->gpa + first * mem->block_bytes, len);

    if (err) {
        kumo_warn_guest("%s: giving %" PRIu64 " bytes back to the host: %s", mem->virtio.device.id,
                        len, g_strerror(err));
        return false;
    }
    for (uint64_t i = first; i < first + n; i++)
        set_plugged(mem, i, false);
    atomic_fetch_sub(&mem->plugged_bytes, len);
    return true;
}

static uint16_t unplug(Mem *mem, uint64_t first, uint64_t n)
{
    if (count_plugged(mem, first, n) < n)
        return RESP_ERROR;
    return give_back(mem, first, n) ? RESP_ACK : RESP_BUSY;
}

static uint16_t unplug_all(Mem *mem)
{
    uint64_t first = 0;

    while (first < mem->n_blocks) {
        uint64_t n = 0;

        while (first + n < mem->n_blocks && is_plugged(mem, first + n))
            n++;
        if (n > 0 && !give_back(mem, first, n))
            return RESP_BUSY;
        first += n + 1;
    }
    return RESP_ACK;
}

static uint16_t state_of(const Mem *mem, uint64_t first, uint64_t n)
{
    uint64_t count = count_plugged(mem, first, n);

    return count == n ? STATE_PLUGGED : count == 0 ? STATE_UNPLUGGED : STATE_MIXED;
}

/* --- requests --- */

static MemResponse answer(Mem *mem, const MemRequest *request)
{
    uint16_t type = GUINT16_FROM_LE(request->type);
    uint64_t n = GUINT16_FROM_LE(request->nb_blocks);
    uint16_t result = RESP_ERROR, state = 0;
    uint64_t first = 0;

    if (type == REQ_UNPLUG_ALL) {
        result = unplug_all(mem);
    } else if (type > REQ_STATE || !blocks_of(mem, request, &first)) {
        kumo_warn_guest("%s: request %u for %" PRIu64 " blocks at 0x%" PRIx64 " is not possible",
                        mem->virtio.device.id, type, n, GUINT64_FROM_LE(request->addr));
    } else if (type == REQ_PLUG) {
        result = plug(mem, first, n);
    } else if (type == REQ_UNPLUG) {
        result = unplug(mem, first, n);
    } else {
        result = RESP_ACK;
        state = state_of(mem, first, n);
    }
    return (MemResponse){ .type = GUINT16_TO_LE(result), .state = GUINT16_TO_LE(state) };
}

/* Returns: FALSE: the chain has no room for request and answer. */
static bool serve_chain(Mem *mem, KumoVirtq *queue, const KumoVirtqChain *chain)
{
    MemRequest request;
    MemResponse response;

    if (kumo_virtq_chain_read(chain, 0, &request, sizeof(request)) < sizeof(request) ||
        chain->writable_bytes < sizeof(response))
        return false;
    response = answer(mem, &request);
    if (atomic_load(&mem->plugged_bytes) == atomic_load(&mem->requested_bytes) &&
        atomic_exchange(&mem->tell_reached, false))
        kumo_machine_event(mem->virtio.device.machine, "virtio-device", "target-reached",
                           mem->virtio.device.id);
    kumo_virtq_chain_write(queue, chain, 0, &response, sizeof(response));
    kumo_virtq_push(queue, chain->head, sizeof(response));
    return true;
}

static void kicked(void *opaque, uint32_t events)
{
    Mem *mem = opaque;
    KumoVirtq *queue = &mem->virtio.queues[0];
    KumoVirtqResult result = KUMO_VIRTQ_EMPTY;
    unsigned served;

    kumo_eventfd_drain(queue->kick_fd);
    if (queue->broken)
        return;
    for (served = 0; served < BATCH; served++) {
        KumoVirtqChain chain = { .iov = mem->iov, .max_iov = G_N_ELEMENTS(mem->iov) };

        result = kumo_virtq_pop(queue, &chain);
        if (result != KUMO_VIRTQ_CHAIN)
            break;
        if (!serve_chain(mem, queue, &chain)) {
            queue->broken = true;
            result = KUMO_VIRTQ_BROKEN;
            break;
        }
    }
    kumo_virtq_notify(queue);
    if (result == KUMO_VIRTQ_BROKEN)
        kumo_virtio_broken(&mem->virtio, "request queue is broken");
    else if (served == BATCH)
        kumo_eventfd_signal(queue->kick_fd);
}

static bool mem_activate(KumoVirtio *virtio, GError **error)
{
    Mem *mem = (Mem *)virtio;

    mem->kick = kumo_loop_add_fd(mem->loop, virtio->queues[0].kick_fd, EPOLLIN, kicked, mem, error);
    return mem->kick != NULL;
}

static void mem_deactivate(KumoVirtio *virtio)
{
    Mem *mem = (Mem *)virtio;

    g_clear_pointer(&mem->kick, kumo_loop_remove);
}

static bool mem_pause(KumoVirtio *virtio, GError **error)
{
    mem_deactivate(virtio);
    return true;
}

static void mem_resume(KumoVirtio *virtio)
{
    g_autoptr(GError) error = NULL;

    if (!mem_activate(virtio, &error))
        kumo_virtio_broken(virtio, error->message);
}

static void mem_config_read(KumoVirtio *virtio, uint64_t offset, uint8_t *data, unsigned size)
{
    Mem *mem = (Mem *)virtio;
    const MemConfig config = {
        .block_size = GUINT64_TO_LE(mem->block_bytes),
        .node_id = GUINT16_TO_LE(mem->node == KUMO_NUMA_NONE ? 0 : (uint16_t)mem->node),
        .addr = GUINT64_TO_LE(mem->gpa),
        .region_size = GUINT64_TO_LE(mem->size_bytes),
        .usable_region_size = GUINT64_TO_LE(mem->size_bytes),
        .plugged_size = GUINT64_TO_LE(atomic_load(&mem->plugged_bytes)),
        .requested_size = GUINT64_TO_LE(atomic_load(&mem->requested_bytes)),
    };

    kumo_virtio_config_copy(&config, sizeof(config), offset, data, size);
}

static const KumoVirtioOps mem_virtio_ops = {
    .config_read = mem_config_read,
    .activate = mem_activate,
    .deactivate = mem_deactivate,
    .pause = mem_pause,
    .resume = mem_resume,
};

/* --- the device --- */

static bool check_size(const Mem *mem, uint64_t size_bytes, GError **error)
{
    if (size_bytes <= mem->size_bytes && size_bytes % mem->block_bytes == 0)
        return true;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                "%" PRIu64 " bytes plugged are not possible, must be a multiple of %" PRIu64
                " up to %" PRIu64,
                size_bytes, mem->block_bytes, mem->size_bytes);
    return false;
}

static bool mem_resize(KumoDevice *device, uint64_t size_bytes, GError **error)
{
    Mem *mem = (Mem *)device;

    if (!check_size(mem, size_bytes, error))
        return false;
    atomic_store(&mem->tell_reached, true);
    /* The same again asks again: after a block that it could not give, Linux waits for minutes. */
    if (atomic_exchange(&mem->requested_bytes, size_bytes) != size_bytes ||
        atomic_load(&mem->plugged_bytes) != size_bytes)
        mem->virtio.notify_config(&mem->virtio);
    return true;
}

static int64_t mem_memory_bytes(KumoDevice *device)
{
    return (int64_t)atomic_load(&((Mem *)device)->plugged_bytes);
}

static json_t *mem_counters(KumoDevice *device)
{
    Mem *mem = (Mem *)device;

    return json_pack("{s:I, s:I}", "plugged_bytes", (json_int_t)atomic_load(&mem->plugged_bytes),
                     "requested_bytes", (json_int_t)atomic_load(&mem->requested_bytes));
}

static bool mem_realize(KumoDevice *device, GError **error)
{
    static const uint16_t queue_sizes[] = { QUEUE_SIZE };
    Mem *mem = (Mem *)device;
    const KumoVirtioPciParams params = {
        .type = KUMO_VIRTIO_MEM,
        .class_code = CLASS_OTHER,
        .subclass = CLASS_OTHER,
        .offered = mem->node == KUMO_NUMA_NONE ? 0 : F_ACPI_PXM,
        .n_queues = 1,
        .queue_sizes = queue_sizes,
    };

    if (!check_size(mem, atomic_load(&mem->requested_bytes), error))
        return false;
    mem->loop = kumo_machine_slow_loop(device->machine, error);
    return mem->loop && kumo_virtio_pci_realize(&mem->virtio, &mem->pci, &params, error);
}

static void mem_unrealize(KumoDevice *device)
{
    kumo_virtio_pci_unrealize((KumoVirtio *)device);
}

static void mem_free(KumoDevice *device)
{
    g_free(((Mem *)device)->plugged);
    g_free(device);
}

/* --- state --- */

typedef struct {
    KumoVirtioPciState transport;
    uint64_t gpa, size_bytes, block_bytes, requested_bytes;
    uint8_t *plugged; /* bit n of the whole is block n */
    size_t n_plugged;
} MemState;

static const KumoStateField mem_fields[] = {
    { KUMO_STATE_ROW(TABLE, MemState, transport), .table = &kumo_virtio_pci_state_table },
    { KUMO_STATE_ROW(U64, MemState, gpa) },
    { KUMO_STATE_ROW(U64, MemState, size_bytes) },
    { KUMO_STATE_ROW(U64, MemState, block_bytes) },
    { KUMO_STATE_ROW(U64, MemState, requested_bytes) },
    { KUMO_STATE_ROW(BLOB, MemState, plugged), .count_offset = offsetof(MemState, n_plugged),
      .max = MAX_STATE_BYTES },
};

static const KumoStateTable mem_table = {
    .name = "virtio-mem",
    .version = 1,
    .fields = mem_fields,
    .n_fields = G_N_ELEMENTS(mem_fields),
    .size = sizeof(MemState),
};

static size_t bitmap_bytes(const Mem *mem)
{
    return (mem->n_blocks + 7) / 8;
}

static void mem_save(KumoDevice *device, void *opaque)
{
    Mem *mem = (Mem *)device;
    MemState *state = opaque;

    kumo_virtio_pci_save(&mem->virtio, &state->transport);
    state->gpa = mem->gpa;
    state->size_bytes = mem->size_bytes;
    state->block_bytes = mem->block_bytes;
    state->requested_bytes = atomic_load(&mem->requested_bytes);
    state->n_plugged = bitmap_bytes(mem);
    state->plugged = g_malloc0(state->n_plugged);
    for (uint64_t i = 0; i < mem->n_blocks; i++)
        state->plugged[i / 8] |= (uint8_t)(is_plugged(mem, i) << (i % 8));
}

static bool load_blocks(Mem *mem, const MemState *state, GError **error)
{
    for (uint64_t i = 0; i < state->n_plugged * 8; i++) {
        if (!(state->plugged[i / 8] >> (i % 8) & 1))
            continue;
        if (i >= mem->n_blocks) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "state: plugged: block %" PRIu64 " is behind the region", i);
            return false;
        }
        set_plugged(mem, i, true);
    }
    atomic_store(&mem->plugged_bytes, count_plugged(mem, 0, mem->n_blocks) * mem->block_bytes);
    return true;
}

static bool mem_load(KumoDevice *device, const void *opaque, GError **error)
{
    Mem *mem = (Mem *)device;
    const MemState *state = opaque;

    if (!kumo_state_check_u64("gpa", state->gpa, mem->gpa, error) ||
        !kumo_state_check_u64("size_bytes", state->size_bytes, mem->size_bytes, error) ||
        !kumo_state_check_u64("block_bytes", state->block_bytes, mem->block_bytes, error) ||
        !kumo_state_check_u64("plugged", state->n_plugged, bitmap_bytes(mem), error))
        return false;
    if (!check_size(mem, state->requested_bytes, error)) {
        kumo_prefix_error(error, "state: requested_bytes");
        return false;
    }
    if (!load_blocks(mem, state, error) ||
        !kumo_virtio_pci_load(&mem->virtio, &state->transport, error))
        return false;
    atomic_store(&mem->requested_bytes, state->requested_bytes);
    atomic_store(&mem->tell_reached, atomic_load(&mem->plugged_bytes) != state->requested_bytes);
    return true;
}

static const KumoDeviceState mem_state = {
    .table = &mem_table,
    .save = mem_save,
    .load = mem_load,
};

static const KumoDeviceOps mem_ops = {
    .type = "virtio-mem",
    .realize = mem_realize,
    .unrealize = mem_unrealize,
    .free = mem_free,
    .pause = kumo_virtio_pci_pause,
    .resume = kumo_virtio_pci_resume,
    .counters = mem_counters,
    .pci_bdf = kumo_virtio_pci_bdf,
    .describe = kumo_virtio_pci_describe,
    .resize = mem_resize,
    .memory_bytes = mem_memory_bytes,
    .state = &mem_state,
};

static bool add_device(KumoMachine *machine, const KumoVmConfig *config,
                       const KumoMemBacking *backing, GError **error)
{
    const KumoMemoryZoneConfig *zone =
        backing->zone < 0 ? NULL : config->memory.zones->pdata[backing->zone];
    const KumoVirtioMemConfig *wanted = zone ? &zone->virtio_mem : &config->memory.virtio_mem;
    Mem *mem = g_new0(Mem, 1);

    mem->virtio.ops = &mem_virtio_ops;
    mem->pci = wanted->pci;
    mem->gpa = backing->gpa;
    mem->size_bytes = backing->size_bytes;
    mem->block_bytes = MAX(MIN_BLOCK, backing->page_size);
    mem->n_blocks = mem->size_bytes / mem->block_bytes;
    mem->plugged = g_new0(uint64_t, (mem->n_blocks + 63) / 64);
    mem->node = zone ? kumo_numa_node_of_zone(config, zone->id) : KUMO_NUMA_NONE;
    /* A huge page that the host does not have would be a bus error when the guest touches it. */
    mem->populate = backing->page_size > (uint64_t)sysconf(_SC_PAGESIZE) ||
                    (zone ? zone->prefault : config->memory.prefault);
    atomic_init(&mem->requested_bytes, wanted->plugged_bytes);
    atomic_init(&mem->tell_reached, wanted->plugged_bytes > 0);
    kumo_device_init(&mem->virtio.device, &mem_ops, machine, zone ? zone->id : KUMO_MEMORY_ID);
    return kumo_device_add(&mem->virtio.device, error);
}

static bool mem_create(KumoMachine *machine, const KumoVmConfig *config, GError **error)
{
    for (unsigned i = 0; machine->memory && i < machine->memory->n_backings; i++) {
        const KumoMemBacking *backing = &machine->memory->backings[i];

        if (backing->hotplug && !add_device(machine, config, backing, error))
            return false;
    }
    return true;
}

const KumoDeviceType kumo_device_type_virtio_mem = { .name = "virtio-mem", .create = mem_create };
