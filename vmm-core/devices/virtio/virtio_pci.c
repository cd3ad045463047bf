/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The transport's lock guards the common configuration, the queues' addresses and the state
 * machine; it is held while the device activates and deactivates, which wait for workers. Therefore
 * whatever a worker calls (interrupts, notify_config, needs_reset) takes no lock of the transport:
 * those fields are atomics. Order of locks: the PCI function's > the transport's > INTx and MSI-X
 * vector locks.
 */
#include "vmm-core/devices/virtio/virtio_pci.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio_pci-internal.h"

/* BAR 0. Placed at 8 MiB: Windows' driver maps no less. */
enum {
    BAR_SIZE = 512 * 1024,
    BAR_ALIGN = 8 * 1024 * 1024,
    COMMON_OFFSET = 0x0000,
    COMMON_LEN = 56,
    ISR_OFFSET = 0x2000,
    ISR_LEN = 1,
    DEVICE_OFFSET = 0x4000,
    DEVICE_LEN = 0x1000,
    NOTIFY_OFFSET = 0x6000,
    NOTIFY_MULTIPLIER = 4,
    NOTIFY_LEN = 0x1000,
    MSIX_TABLE_OFFSET = 0x8000,
    MSIX_PBA_OFFSET = 0x48000,
    MAX_QUEUES = NOTIFY_LEN / NOTIFY_MULTIPLIER,
};

/* Common configuration (4.1.4.3). */
enum {
    COMMON_DEVICE_FEATURE_SELECT = 0x00,
    COMMON_DEVICE_FEATURE = 0x04,
    COMMON_DRIVER_FEATURE_SELECT = 0x08,
    COMMON_DRIVER_FEATURE = 0x0c,
    COMMON_CONFIG_VECTOR = 0x10,
    COMMON_NUM_QUEUES = 0x12,
    COMMON_STATUS = 0x14,
    COMMON_GENERATION = 0x15,
    COMMON_QUEUE_SELECT = 0x16,
    COMMON_QUEUE_SIZE = 0x18,
    COMMON_QUEUE_VECTOR = 0x1a,
    COMMON_QUEUE_ENABLE = 0x1c,
    COMMON_QUEUE_NOTIFY_OFF = 0x1e,
    COMMON_QUEUE_DESC = 0x20,
    COMMON_QUEUE_DRIVER = 0x28,
    COMMON_QUEUE_DEVICE = 0x30,
};

/* Vendor capabilities (4.1.4). */
enum {
    CAP_VENDOR = 0x09,
    CAP_COMMON = 1,
    CAP_NOTIFY = 2,
    CAP_ISR = 3,
    CAP_DEVICE = 4,
    CAP_PCI = 5,
    CAP_BAR = 4, /* offsets in the capability */
    CAP_OFFSET = 8,
    CAP_LENGTH = 12,
    CAP_DATA = 16,
    CAP_LEN = 16,
};

enum {
    VENDOR_ID = 0x1af4,
    DEVICE_ID_BASE = 0x1040,
    INTERRUPT_PIN_OFFSET = 0x3d,
    NO_VECTOR = 0xffff,
    ISR_QUEUE = 1,
    ISR_CONFIG = 2,
};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

static void put16(uint8_t *p, uint16_t value)
{
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *p, uint32_t value)
{
    put16(p, (uint16_t)value);
    put16(p + 2, (uint16_t)(value >> 16));
}

static void put64(uint8_t *p, uint64_t value)
{
    put32(p, (uint32_t)value);
    put32(p + 4, (uint32_t)(value >> 32));
}

/* --- interrupts; any thread, no lock --- */

static void interrupt(KumoVirtioPci *pci, uint16_t vector, uint8_t isr_bit)
{
    if (kumo_msix_enabled(pci->function.msix)) {
        if (vector != NO_VECTOR)
            kumo_msix_trigger(pci->function.msix, vector);
        return;
    }
    atomic_fetch_or(&pci->isr, isr_bit);
    kumo_pci_set_intx(&pci->function, true);
}

static void queue_interrupt(void *opaque, KumoVirtq *queue)
{
    KumoVirtioPci *pci = opaque;

    interrupt(pci, __atomic_load_n(&queue->msix_vector, __ATOMIC_RELAXED), ISR_QUEUE);
}

static uint8_t take_isr(KumoVirtioPci *pci)
{
    uint8_t isr = atomic_exchange(&pci->isr, 0);

    kumo_pci_set_intx(&pci->function, false);
    /* A bit that came meanwhile raised the line before it was lowered. */
    if (atomic_load(&pci->isr))
        kumo_pci_set_intx(&pci->function, true);
    return isr;
}

static void notify_config(KumoVirtio *virtio)
{
    KumoVirtioPci *pci = virtio->pci;

    atomic_fetch_add(&pci->generation, 1);
    if (atomic_load(&pci->status) & KUMO_VIRTIO_S_DRIVER_OK)
        interrupt(pci, atomic_load(&pci->config_vector), ISR_CONFIG);
}

static void needs_reset(KumoVirtio *virtio)
{
    KumoVirtioPci *pci = virtio->pci;
    uint8_t before = atomic_fetch_or(&pci->status, KUMO_VIRTIO_S_NEEDS_RESET);

    /* 2.1.2: a driver that is up is told. */
    if (!(before & KUMO_VIRTIO_S_NEEDS_RESET) && (before & KUMO_VIRTIO_S_DRIVER_OK))
        interrupt(pci, atomic_load(&pci->config_vector), ISR_CONFIG);
}

/* --- kicks --- */

void kumo_virtio_pci_update_ioeventfds(KumoVirtioPci *pci)
{
    KumoVirtio *virtio = pci->virtio;
    KumoHvVm *hv = virtio->device.machine->hv;
    bool wanted = virtio->active && pci->bar_mapped;

    if (!hv || !hv->ops->ioeventfd)
        return;
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        KumoVirtq *queue = &virtio->queues[i];
        uint64_t at = NOTIFY_OFFSET + (uint64_t)i * NOTIFY_MULTIPLIER;
        g_autoptr(GError) error = NULL;

        if (pci->ioeventfds[i] && (!wanted || pci->ioeventfd_gpa != pci->bar_gpa)) {
            hv->ops->ioeventfd(hv, queue->kick_fd, pci->ioeventfd_gpa + at, 0, NULL, false, false,
                               NULL);
            pci->ioeventfds[i] = false;
        }
        if (wanted && queue->ready && !pci->ioeventfds[i]) {
            pci->ioeventfds[i] = hv->ops->ioeventfd(hv, queue->kick_fd, pci->bar_gpa + at, 0, NULL,
                                                    false, true, &error);
            if (!pci->ioeventfds[i])
                kumo_warn("%s: queue %u: kicks take the slow way: %s", virtio->device.id, i,
                          error ? error->message : "no reason given");
        }
    }
    pci->ioeventfd_gpa = pci->bar_gpa;
}

static void bar_moved(void *opaque, bool mapped, uint64_t gpa)
{
    KumoVirtioPci *pci = opaque;

    g_mutex_lock(&pci->lock);
    pci->bar_mapped = mapped;
    if (mapped)
        pci->bar_gpa = gpa;
    kumo_virtio_pci_update_ioeventfds(pci);
    g_mutex_unlock(&pci->lock);
}

/* A write that reached the VMM: the hypervisor has no ioeventfd, or would not take the access. */
static void notify_write(KumoVirtioPci *pci, uint64_t offset)
{
    uint64_t index = offset / NOTIFY_MULTIPLIER;

    if (index < pci->virtio->n_queues)
        kumo_eventfd_signal(pci->virtio->queues[index].kick_fd);
    else
        kumo_warn_guest("%s: notification of queue %" PRIu64 ", which does not exist",
                        pci->virtio->device.id, index);
}

static void kick_ready_queues(KumoVirtio *virtio)
{
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        if (virtio->queues[i].ready)
            kumo_eventfd_signal(virtio->queues[i].kick_fd);
    }
}

/* --- state machine; lock held --- */

bool kumo_virtio_pci_start_queues(KumoVirtio *virtio, GError **error)
{
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        KumoVirtq *queue = &virtio->queues[i];

        if (queue->ready &&
            !kumo_virtq_start(queue, virtio->device.machine->memory, virtio->negotiated, error))
            return false;
    }
    return true;
}

/* At a limited rate: a guest can do this in a loop, and events may end in a file of the host. */
static void tell(KumoVirtioPci *pci, const char *event)
{
    KumoDevice *device = &pci->virtio->device;

    if (kumo_log_limit_pass(&pci->event_limit))
        kumo_machine_event(device->machine, "virtio-device", event, device->id);
}

static void activate(KumoVirtioPci *pci)
{
    KumoVirtio *virtio = pci->virtio;
    g_autoptr(GError) error = NULL;

    if (kumo_virtio_pci_start_queues(virtio, &error)) {
        virtio->active = true;
        if (virtio->ops->activate(virtio, &error)) {
            kumo_virtio_pci_update_ioeventfds(pci);
            /* Buffers may have been there before anybody listened. */
            kick_ready_queues(virtio);
            tell(pci, "activated");
            return;
        }
        virtio->active = false;
    }
    kumo_virtio_broken(virtio, error ? error->message : "activation failed");
}

static void deactivate(KumoVirtioPci *pci)
{
    KumoVirtio *virtio = pci->virtio;

    if (!virtio->active)
        return;
    virtio->active = false;
    kumo_virtio_pci_update_ioeventfds(pci);
    virtio->ops->deactivate(virtio);
}

static void reset(KumoVirtioPci *pci)
{
    KumoVirtio *virtio = pci->virtio;

    if (virtio->active)
        tell(pci, "reset");
    deactivate(pci);
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        kumo_virtq_reset(&virtio->queues[i]);
        kumo_eventfd_drain(virtio->queues[i].kick_fd);
    }
    virtio->negotiated = 0;
    pci->device_feature_select = pci->driver_feature_select = 0;
    pci->driver_features = 0;
    pci->queue_select = 0;
    atomic_store(&pci->config_vector, NO_VECTOR);
    take_isr(pci);
    /* 2.4.1: reads as zero only when all of the above is done. */
    atomic_store(&pci->status, 0);
}

static void write_status(KumoVirtioPci *pci, uint8_t value)
{
    KumoVirtio *virtio = pci->virtio;
    uint8_t old = atomic_load(&pci->status);
    uint8_t added = (uint8_t)(value & ~old & ~KUMO_VIRTIO_S_NEEDS_RESET);

    if (value == 0) {
        reset(pci);
        return;
    }
    if (old & ~value & ~KUMO_VIRTIO_S_NEEDS_RESET)
        kumo_warn_guest("%s: the driver cleared status bits 0x%02x: they stay", virtio->device.id,
                        old & ~value);

    if (added & KUMO_VIRTIO_S_FEATURES_OK) {
        uint64_t excess = pci->driver_features & ~virtio->offered;

        if (excess || !(pci->driver_features & KUMO_VIRTIO_F_VERSION_1)) {
            kumo_warn_guest("%s: features 0x%" PRIx64 " refused, offered were 0x%" PRIx64,
                            virtio->device.id, pci->driver_features, virtio->offered);
            added &= (uint8_t)~KUMO_VIRTIO_S_FEATURES_OK;
        } else {
            virtio->negotiated = pci->driver_features;
        }
    }
    if ((added & KUMO_VIRTIO_S_DRIVER_OK) && !((old | added) & KUMO_VIRTIO_S_FEATURES_OK)) {
        kumo_warn_guest("%s: DRIVER_OK without FEATURES_OK", virtio->device.id);
        added &= (uint8_t)~KUMO_VIRTIO_S_DRIVER_OK;
    }
    atomic_fetch_or(&pci->status, added);
    if ((added & KUMO_VIRTIO_S_DRIVER_OK) && !(old & KUMO_VIRTIO_S_NEEDS_RESET))
        activate(pci);
}

/* --- common configuration --- */

static uint32_t feature_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

/* NULL: queue_select is out of range, which is how a driver asks whether there is such a queue. */
static KumoVirtq *selected_queue(KumoVirtioPci *pci)
{
    return pci->queue_select < pci->virtio->n_queues ? &pci->virtio->queues[pci->queue_select]
                                                     : NULL;
}

static void common_read(KumoVirtioPci *pci, uint64_t offset, uint8_t *data, unsigned size)
{
    uint8_t regs[COMMON_LEN] = { 0 };
    const KumoVirtq *queue;

    g_mutex_lock(&pci->lock);
    queue = selected_queue(pci);
    put32(regs + COMMON_DEVICE_FEATURE_SELECT, pci->device_feature_select);
    put32(regs + COMMON_DEVICE_FEATURE,
          feature_word(pci->virtio->offered, pci->device_feature_select));
    put32(regs + COMMON_DRIVER_FEATURE_SELECT, pci->driver_feature_select);
    put32(regs + COMMON_DRIVER_FEATURE,
          feature_word(pci->driver_features, pci->driver_feature_select));
    put16(regs + COMMON_CONFIG_VECTOR, atomic_load(&pci->config_vector));
    put16(regs + COMMON_NUM_QUEUES, (uint16_t)pci->virtio->n_queues);
    regs[COMMON_STATUS] = atomic_load(&pci->status);
    regs[COMMON_GENERATION] = atomic_load(&pci->generation);
    put16(regs + COMMON_QUEUE_SELECT, pci->queue_select);
    if (queue) {
        put16(regs + COMMON_QUEUE_SIZE, queue->size);
        put16(regs + COMMON_QUEUE_VECTOR, __atomic_load_n(&queue->msix_vector, __ATOMIC_RELAXED));
        put16(regs + COMMON_QUEUE_ENABLE, queue->ready);
        put16(regs + COMMON_QUEUE_NOTIFY_OFF, pci->queue_select);
        put64(regs + COMMON_QUEUE_DESC, queue->desc_gpa);
        put64(regs + COMMON_QUEUE_DRIVER, queue->avail_gpa);
        put64(regs + COMMON_QUEUE_DEVICE, queue->used_gpa);
    }
    g_mutex_unlock(&pci->lock);
    kumo_virtio_config_copy(regs, sizeof(regs), offset, data, size);
}

static uint16_t valid_vector(const KumoVirtioPci *pci, uint16_t vector)
{
    return vector < pci->n_vectors ? vector : NO_VECTOR;
}

static void write_driver_feature(KumoVirtioPci *pci, uint32_t value)
{
    unsigned shift = pci->driver_feature_select * 32;

    if (atomic_load(&pci->status) & KUMO_VIRTIO_S_FEATURES_OK) {
        kumo_warn_guest("%s: features written after FEATURES_OK", pci->virtio->device.id);
        return;
    }
    if (pci->driver_feature_select < 2)
        pci->driver_features =
            (pci->driver_features & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
    else if (value)
        kumo_warn_guest("%s: feature word %u does not exist", pci->virtio->device.id,
                        pci->driver_feature_select);
}

static void write_queue_size(KumoVirtioPci *pci, KumoVirtq *queue, uint16_t value)
{
    if (kumo_is_pow2(value) && value <= queue->max_size)
        queue->size = value;
    else
        kumo_warn_guest("%s: queue %u: size %u refused, the most is %u", pci->virtio->device.id,
                        pci->queue_select, value, queue->max_size);
}

static void set_word(uint64_t *address, bool high, uint32_t value)
{
    unsigned shift = high ? 32 : 0;

    *address = (*address & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

/* 4.1.4.3.2: a queue is set up before it is enabled, and all before DRIVER_OK. */
static void write_queue(KumoVirtioPci *pci, unsigned offset, unsigned size, uint32_t value)
{
    KumoVirtq *queue = selected_queue(pci);

    if (!queue) {
        kumo_warn_guest("%s: write to queue %u, which does not exist", pci->virtio->device.id,
                        pci->queue_select);
        return;
    }
    if (offset == COMMON_QUEUE_VECTOR && size == 2) {
        __atomic_store_n(&queue->msix_vector, valid_vector(pci, (uint16_t)value), __ATOMIC_RELAXED);
        return;
    }
    if (queue->ready || (atomic_load(&pci->status) & KUMO_VIRTIO_S_DRIVER_OK)) {
        /* Writing what is there already is harmless, and done. */
        if (offset != COMMON_QUEUE_ENABLE || value != queue->ready)
            kumo_warn_guest("%s: queue %u: register 0x%02x written while in use: ignored",
                            pci->virtio->device.id, pci->queue_select, offset);
        return;
    }
    if (offset == COMMON_QUEUE_SIZE && size == 2)
        write_queue_size(pci, queue, (uint16_t)value);
    else if (offset == COMMON_QUEUE_ENABLE && size == 2)
        queue->ready = value == 1;
    else if (size == 4 && offset % 4 == 0 && offset < COMMON_QUEUE_DRIVER)
        set_word(&queue->desc_gpa, offset != COMMON_QUEUE_DESC, value);
    else if (size == 4 && offset % 4 == 0 && offset < COMMON_QUEUE_DEVICE)
        set_word(&queue->avail_gpa, offset != COMMON_QUEUE_DRIVER, value);
    else if (size == 4 && offset % 4 == 0)
        set_word(&queue->used_gpa, offset != COMMON_QUEUE_DEVICE, value);
    else
        kumo_warn_guest("%s: write of %u bytes to common register 0x%02x ignored",
                        pci->virtio->device.id, size, offset);
}

/* One register, written with its own width (4.1.3.1). Lock held. */
static void write_register(KumoVirtioPci *pci, unsigned offset, unsigned size, uint32_t value)
{
    switch (offset << 4 | size) {
    case COMMON_DEVICE_FEATURE_SELECT << 4 | 4:
        pci->device_feature_select = value;
        break;
    case COMMON_DRIVER_FEATURE_SELECT << 4 | 4:
        pci->driver_feature_select = value;
        break;
    case COMMON_DRIVER_FEATURE << 4 | 4:
        write_driver_feature(pci, value);
        break;
    case COMMON_CONFIG_VECTOR << 4 | 2:
        atomic_store(&pci->config_vector, valid_vector(pci, (uint16_t)value));
        break;
    case COMMON_STATUS << 4 | 1:
        write_status(pci, (uint8_t)value);
        break;
    case COMMON_QUEUE_SELECT << 4 | 2:
        pci->queue_select = (uint16_t)value;
        break;
    default:
        if (offset >= COMMON_QUEUE_SIZE && offset < COMMON_LEN)
            write_queue(pci, offset, size, value);
        else
            kumo_warn_guest("%s: write of %u bytes to common register 0x%02x ignored",
                            pci->virtio->device.id, size, offset);
    }
}

static void common_write(KumoVirtioPci *pci, uint64_t offset, const uint8_t *data, unsigned size)
{
    g_mutex_lock(&pci->lock);
    if (size == 8 && offset % 8 == 0 && offset >= COMMON_QUEUE_DESC) {
        write_register(pci, (unsigned)offset, 4, get32(data));
        write_register(pci, (unsigned)offset + 4, 4, get32(data + 4));
    } else if (size == 1 || size == 2 || size == 4) {
        uint8_t bytes[4] = { 0 };

        memcpy(bytes, data, size);
        write_register(pci, (unsigned)offset, size, get32(bytes));
    } else {
        kumo_warn_guest("%s: write of %u bytes to common register 0x%02x ignored",
                        pci->virtio->device.id, size, (unsigned)offset);
    }
    g_mutex_unlock(&pci->lock);
}

/* --- BAR 0 --- */

static void bar_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    KumoVirtioPci *pci = opaque;
    KumoVirtio *virtio = pci->virtio;

    memset(data, 0, size);
    if (offset < COMMON_OFFSET + COMMON_LEN) {
        common_read(pci, offset - COMMON_OFFSET, data, size);
    } else if (offset == ISR_OFFSET) {
        data[0] = take_isr(pci);
    } else if (offset >= DEVICE_OFFSET && offset < DEVICE_OFFSET + DEVICE_LEN) {
        g_mutex_lock(&pci->lock);
        if (virtio->ops->config_read)
            virtio->ops->config_read(virtio, offset - DEVICE_OFFSET, data, size);
        g_mutex_unlock(&pci->lock);
    } else if (offset >= MSIX_PBA_OFFSET) {
        kumo_msix_access(pci->function.msix, true, offset - MSIX_PBA_OFFSET, data, size, false);
    } else if (offset >= MSIX_TABLE_OFFSET) {
        kumo_msix_access(pci->function.msix, false, offset - MSIX_TABLE_OFFSET, data, size, false);
    }
}

static void bar_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    KumoVirtioPci *pci = opaque;
    KumoVirtio *virtio = pci->virtio;

    if (offset < COMMON_OFFSET + COMMON_LEN) {
        common_write(pci, offset - COMMON_OFFSET, data, size);
    } else if (offset >= NOTIFY_OFFSET && offset < NOTIFY_OFFSET + NOTIFY_LEN) {
        notify_write(pci, offset - NOTIFY_OFFSET);
    } else if (offset >= DEVICE_OFFSET && offset < DEVICE_OFFSET + DEVICE_LEN) {
        g_mutex_lock(&pci->lock);
        if (virtio->ops->config_write)
            virtio->ops->config_write(virtio, offset - DEVICE_OFFSET, data, size);
        g_mutex_unlock(&pci->lock);
    } else if (offset >= MSIX_TABLE_OFFSET && offset < MSIX_PBA_OFFSET) {
        kumo_msix_access(pci->function.msix, false, offset - MSIX_TABLE_OFFSET, (uint8_t *)data,
                         size, true);
    }
}

static const KumoBusOps bar_ops = { .read = bar_read, .write = bar_write };

/* --- the window in config space (4.1.4.9); function lock held --- */

/* Returns: TRUE and where the window looks, FALSE if the guest has not pointed it to anything
 * valid. */
static bool window_target(KumoVirtioPci *pci, uint32_t *ret_offset, uint32_t *ret_len)
{
    const uint8_t *cap = pci->function.config + pci->window_cap;
    uint32_t offset = get32(cap + CAP_OFFSET);
    uint32_t len = get32(cap + CAP_LENGTH);

    *ret_offset = offset;
    *ret_len = len;
    return cap[CAP_BAR] == 0 && (len == 1 || len == 2 || len == 4) && offset % len == 0 &&
           kumo_range_inside(offset, len, 0, BAR_SIZE);
}

/* Before a read, what the window shows is fetched into config space, from where it is read as
 * usual. */
static bool config_access(KumoPciFunction *function, unsigned offset, uint8_t *data, unsigned len,
                          bool write)
{
    KumoVirtioPci *pci = ((KumoVirtio *)function->device)->pci;
    uint8_t *window = function->config + pci->window_cap + CAP_DATA;
    uint32_t at, n;

    if (write || !kumo_range_overlap(offset, len, pci->window_cap + CAP_DATA, 4))
        return false;
    memset(window, 0, 4);
    if (window_target(pci, &at, &n))
        bar_read(pci, at, window, n);
    return false;
}

static void config_written(KumoPciFunction *function, unsigned offset, unsigned len)
{
    KumoVirtioPci *pci = ((KumoVirtio *)function->device)->pci;
    uint32_t at, n;

    if (!kumo_range_overlap(offset, len, pci->window_cap + CAP_DATA, 4))
        return;
    if (window_target(pci, &at, &n))
        bar_write(pci, at, function->config + pci->window_cap + CAP_DATA, n);
    else
        kumo_warn_guest("%s: config window of %u bytes at 0x%x ignored", pci->virtio->device.id, n,
                        at);
}

/* --- set-up --- */

static unsigned add_cap(KumoPciFunction *function, uint8_t type, uint32_t offset, uint32_t length,
                        size_t extra)
{
    uint8_t body[CAP_LEN - 2 + 4] = { 0 };

    body[0] = (uint8_t)(CAP_LEN + extra);
    body[1] = type;
    put32(body + CAP_OFFSET - 2, offset);
    put32(body + CAP_LENGTH - 2, length);
    if (type == CAP_NOTIFY)
        put32(body + CAP_DATA - 2, NOTIFY_MULTIPLIER);
    return kumo_pci_add_cap(function, CAP_VENDOR, body, CAP_LEN - 2 + extra);
}

static void set_up_function(KumoVirtioPci *pci, const KumoPciCommon *common,
                            const KumoVirtioPciParams *params)
{
    KumoPciFunction *function = &pci->function;
    uint16_t id = (uint16_t)(DEVICE_ID_BASE + params->type);
    const KumoPciIds ids = {
        .vendor = VENDOR_ID,
        .device = id,
        .subsystem_vendor = VENDOR_ID,
        .subsystem = id,
        .revision = 1,
        .class_code = params->class_code,
        .subclass = params->subclass,
    };
    const KumoPciBar bar = {
        .kind = params->bar32 ? KUMO_PCI_BAR_MEM32 : KUMO_PCI_BAR_MEM64,
        .size = BAR_SIZE,
        .align = BAR_ALIGN,
        .ops = &bar_ops,
        .opaque = pci,
        .moved = bar_moved,
    };

    kumo_pci_function_init(function, &pci->virtio->device, &ids, common->pci_device_id);
    function->segment = common->pci_segment;
    function->config[INTERRUPT_PIN_OFFSET] = 1;
    kumo_pci_function_set_bar(function, 0, &bar);
    kumo_msix_new(function, pci->n_vectors, 0, MSIX_TABLE_OFFSET, MSIX_PBA_OFFSET);

    pci->window_cap = add_cap(function, CAP_PCI, 0, 0, 4);
    function->write_mask[pci->window_cap + CAP_BAR] = 0xff;
    memset(function->write_mask + pci->window_cap + CAP_OFFSET, 0xff, 12);
    add_cap(function, CAP_DEVICE, DEVICE_OFFSET, DEVICE_LEN, 0);
    add_cap(function, CAP_NOTIFY, NOTIFY_OFFSET, NOTIFY_LEN, 4);
    add_cap(function, CAP_ISR, ISR_OFFSET, ISR_LEN, 0);
    add_cap(function, CAP_COMMON, COMMON_OFFSET, COMMON_LEN, 0);
    function->config_access = config_access;
    function->config_written = config_written;
}

static void free_all(KumoVirtio *virtio)
{
    KumoVirtioPci *pci = virtio->pci;

    for (unsigned i = 0; i < virtio->n_queues; i++)
        kumo_fd_clear(&virtio->queues[i].kick_fd);
    kumo_msix_free(pci->function.msix);
    kumo_pci_function_clear(&pci->function);
    g_mutex_clear(&pci->lock);
    g_free(pci->ioeventfds);
    g_free(pci);
    virtio->pci = NULL;
    g_clear_pointer(&virtio->queues, g_free);
    virtio->n_queues = 0;
}

static bool set_up_queues(KumoVirtioPci *pci, const KumoVirtioPciParams *params, GError **error)
{
    KumoVirtio *virtio = pci->virtio;

    for (unsigned i = 0; i < virtio->n_queues; i++)
        virtio->queues[i].kick_fd = -1;
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        KumoVirtq *queue = &virtio->queues[i];

        queue->index = i;
        queue->max_size = params->queue_sizes[i];
        queue->memory = virtio->device.machine->memory;
        queue->interrupt = queue_interrupt;
        queue->interrupt_opaque = pci;
        kumo_virtq_reset(queue);
        if (!kumo_is_pow2(queue->max_size) || queue->max_size > KUMO_MAX_QUEUE_SIZE) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                        "queue %u: size %u is not a power of two up to %u", i, queue->max_size,
                        KUMO_MAX_QUEUE_SIZE);
            return false;
        }
        queue->kick_fd = kumo_eventfd_new(error);
        if (queue->kick_fd < 0)
            return false;
    }
    return true;
}

bool kumo_virtio_pci_realize(KumoVirtio *virtio, const KumoPciCommon *common,
                             const KumoVirtioPciParams *params, GError **error)
{
    KumoVirtioPci *pci;

    if (params->n_queues > MAX_QUEUES) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%u queues: the most is %u",
                    params->n_queues, (unsigned)MAX_QUEUES);
        return false;
    }
    pci = g_new0(KumoVirtioPci, 1);
    pci->virtio = virtio;
    pci->n_vectors = params->n_queues + 1;
    pci->ioeventfds = g_new0(bool, params->n_queues);
    g_mutex_init(&pci->lock);
    atomic_store(&pci->config_vector, NO_VECTOR);

    virtio->type = params->type;
    virtio->offered = params->offered | KUMO_VIRTIO_F_VERSION_1;
    virtio->negotiated = 0;
    virtio->active = false;
    virtio->n_queues = params->n_queues;
    virtio->queues = g_new0(KumoVirtq, params->n_queues);
    virtio->notify_config = notify_config;
    virtio->needs_reset = needs_reset;
    virtio->pci = pci;
    set_up_function(pci, common, params);

    if (!set_up_queues(pci, params, error) ||
        !kumo_pci_plug(virtio->device.machine, &pci->function, error)) {
        free_all(virtio);
        return false;
    }
    return true;
}

void kumo_virtio_pci_unrealize(KumoVirtio *virtio)
{
    KumoVirtioPci *pci = virtio->pci;

    kumo_pci_unplug(virtio->device.machine, &pci->function);
    g_mutex_lock(&pci->lock);
    deactivate(pci);
    g_mutex_unlock(&pci->lock);
    free_all(virtio);
}

bool kumo_virtio_pci_pause(KumoDevice *device, GError **error)
{
    KumoVirtio *virtio = (KumoVirtio *)device;
    KumoVirtioPci *pci = virtio->pci;
    bool ok = true;

    g_mutex_lock(&pci->lock);
    if (virtio->active && !pci->paused && virtio->ops->pause)
        ok = virtio->ops->pause(virtio, error);
    pci->paused = ok;
    g_mutex_unlock(&pci->lock);
    return ok;
}

void kumo_virtio_pci_resume(KumoDevice *device)
{
    KumoVirtio *virtio = (KumoVirtio *)device;
    KumoVirtioPci *pci = virtio->pci;

    g_mutex_lock(&pci->lock);
    if (virtio->active && pci->paused) {
        if (virtio->ops->resume)
            virtio->ops->resume(virtio);
        kick_ready_queues(virtio);
    }
    pci->paused = false;
    g_mutex_unlock(&pci->lock);
}

bool kumo_virtio_pci_change(KumoVirtio *virtio, bool (*change)(void *opaque, GError **error),
                            void *opaque, GError **error)
{
    KumoVirtioPci *pci = virtio->pci;
    bool stopped = false, ok = true;

    g_mutex_lock(&pci->lock);
    if (virtio->active && !pci->paused) {
        ok = !virtio->ops->pause || virtio->ops->pause(virtio, error);
        stopped = ok;
    }
    ok = ok && change(opaque, error);
    if (stopped) {
        if (virtio->ops->resume)
            virtio->ops->resume(virtio);
        kick_ready_queues(virtio);
    }
    g_mutex_unlock(&pci->lock);
    return ok;
}

KumoPciFunction *kumo_virtio_pci_function(KumoVirtio *virtio)
{
    return &virtio->pci->function;
}

char *kumo_virtio_pci_bdf(KumoDevice *device)
{
    return kumo_pci_function_bdf(kumo_virtio_pci_function((KumoVirtio *)device));
}

void kumo_virtio_pci_describe(KumoDevice *device, json_t *tree, json_t *node)
{
    KumoPciFunction *function = kumo_virtio_pci_function((KumoVirtio *)device);
    g_autofree char *id = g_strconcat("_virtio-pci-", device->id, NULL);
    g_autofree char *bdf = kumo_pci_function_bdf(function);

    json_object_set_new(node, "parent", json_string(id));
    json_object_set_new(tree, id,
                        json_pack("{s:s, s:o, s:[s], s:s}", "id", id, "resources",
                                  kumo_pci_function_resources(function), "children", device->id,
                                  "pci_bdf", bdf));
}

void kumo_virtio_pci_announce(KumoDevice *device)
{
    kumo_pci_announce(kumo_virtio_pci_function((KumoVirtio *)device));
}

bool kumo_virtio_pci_ask_removal(KumoDevice *device, GError **error)
{
    return kumo_pci_ask_removal(kumo_virtio_pci_function((KumoVirtio *)device), error);
}
