/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/virtio.h"

#include "tests/guest/pci.h"
#include "tests/guest/runtime.h"

enum {
    CAP_COMMON = 1,
    CAP_NOTIFY = 2,
    CAP_ISR = 3,
    CAP_DEVICE = 4,

    MEM_REQUEST_STATE = 3,
    MEM_ACKNOWLEDGED = 0,
};

bool virtio_find(unsigned type, unsigned nth, Virtio *ret)
{
    int slot = pci_find(VIRTIO_VENDOR, 0x1040 + type, nth);
    uint16_t command;

    if (slot < 0)
        return false;
    memset(ret, 0, sizeof(*ret));
    ret->slot = (unsigned)slot;
    command = read16(pci_config(ret->slot, PCI_COMMAND));
    write16(pci_config(ret->slot, PCI_COMMAND), command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    for (unsigned cap = 0; (cap = pci_capability(ret->slot, PCI_CAP_VENDOR, cap));) {
        uint64_t at = pci_config(ret->slot, cap);
        uint64_t address;
        Bar bar;

        if (!pci_bar(ret->slot, read8(at + 4), &bar))
            continue;
        address = bar.address + read32(at + 8);
        map(address, read32(at + 12));
        switch (read8(at + 3)) {
        case CAP_COMMON:
            ret->common = address;
            break;
        case CAP_NOTIFY:
            ret->notify = address;
            ret->notify_multiplier = read32(at + 16);
            break;
        case CAP_ISR:
            ret->isr = address;
            break;
        case CAP_DEVICE:
            ret->device = address;
            break;
        default:
            break;
        }
    }
    return ret->common && ret->notify && ret->isr;
}

uint8_t virtio_status(const Virtio *device)
{
    return read8(device->common + COMMON_STATUS);
}

void virtio_set_status(const Virtio *device, uint8_t status)
{
    write8(device->common + COMMON_STATUS, status);
}

uint64_t virtio_offered(const Virtio *device)
{
    uint64_t features;

    write32(device->common + COMMON_DEVICE_FEATURE_SELECT, 1);
    features = (uint64_t)read32(device->common + COMMON_DEVICE_FEATURE) << 32;
    write32(device->common + COMMON_DEVICE_FEATURE_SELECT, 0);
    return features | read32(device->common + COMMON_DEVICE_FEATURE);
}

bool virtio_begin(Virtio *device, uint64_t wanted)
{
    uint8_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER;
    uint64_t end = now_us() + 2000000;

    virtio_set_status(device, 0);
    while (virtio_status(device) != 0)
        if (now_us() > end)
            return false;
    virtio_set_status(device, STATUS_ACKNOWLEDGE);
    virtio_set_status(device, status);
    device->features = virtio_offered(device) & (wanted | 1ull << FEATURE_VERSION_1);
    for (unsigned i = 0; i < 2; i++) {
        write32(device->common + COMMON_DRIVER_FEATURE_SELECT, i);
        write32(device->common + COMMON_DRIVER_FEATURE, (uint32_t)(device->features >> (32 * i)));
    }
    virtio_set_status(device, status | STATUS_FEATURES_OK);
    return virtio_status(device) == (status | STATUS_FEATURES_OK);
}

bool virtio_queue(const Virtio *device, unsigned index, unsigned msix_vector, Queue *ret)
{
    uint64_t common = device->common;
    uint16_t size;

    write16(common + COMMON_QUEUE_SELECT, (uint16_t)index);
    size = read16(common + COMMON_QUEUE_SIZE);
    if (size == 0)
        return false;
    if (size > MAX_QUEUE_SIZE) {
        size = MAX_QUEUE_SIZE;
        write16(common + COMMON_QUEUE_SIZE, size);
    }
    *ret = (Queue){ .index = (uint16_t)index,
                    .size = size,
                    .desc = dma_alloc(sizeof(Desc) * size, 16),
                    .avail = dma_alloc(6 + 2ull * size, 2),
                    .used = dma_alloc(6 + 8ull * size, 4),
                    .notify = device->notify + read16(common + COMMON_QUEUE_NOTIFY_OFF) *
                                                   (uint64_t)device->notify_multiplier };
    write64(common + COMMON_QUEUE_DESC, (uint64_t)ret->desc);
    write64(common + COMMON_QUEUE_DRIVER, (uint64_t)ret->avail);
    write64(common + COMMON_QUEUE_DEVICE, (uint64_t)ret->used);
    write16(common + COMMON_QUEUE_VECTOR, (uint16_t)msix_vector);
    if (read16(common + COMMON_QUEUE_VECTOR) != msix_vector)
        return false;
    write16(common + COMMON_QUEUE_ENABLE, 1);
    return read16(common + COMMON_QUEUE_ENABLE) == 1;
}

void virtio_ready(const Virtio *device)
{
    virtio_set_status(device, virtio_status(device) | STATUS_DRIVER_OK);
}

void queue_add(Queue *queue, const Buffer *buffers, unsigned n)
{
    uint16_t head = queue->next_desc;

    for (unsigned i = 0; i < n; i++) {
        Desc *desc = &queue->desc[queue->next_desc];

        queue->next_desc = (uint16_t)((queue->next_desc + 1) % queue->size);
        *desc = (Desc){ .address = (uint64_t)buffers[i].address,
                        .len = buffers[i].len,
                        .flags = (uint16_t)((i + 1 < n ? DESC_NEXT : 0) |
                                            (buffers[i].device_writes ? DESC_WRITE : 0)),
                        .next = queue->next_desc };
    }
    queue_offer(queue, head);
}

void queue_offer(Queue *queue, uint16_t head)
{
    uint16_t idx = queue->avail[1];

    queue->avail[2 + idx % queue->size] = head;
    barrier();
    queue->avail[1] = (uint16_t)(idx + 1);
    barrier();
}

void queue_want(Queue *queue)
{
    /* used_event: looked at by the device only when the event index was negotiated */
    queue->avail[2 + queue->size] =
        queue->quiet ? (uint16_t)(queue->last_used - 1 + 0x8000) : queue->last_used;
    barrier();
}

void queue_kick(const Queue *queue)
{
    write16(queue->notify, queue->index);
}

void queue_kick_if_wanted(const Queue *queue, uint16_t before)
{
    uint16_t now = queue->avail[1];
    uint16_t avail_event = queue->used[2 + 4 * queue->size];

    if ((uint16_t)(now - avail_event - 1) < (uint16_t)(now - before))
        queue_kick(queue);
}

bool queue_take(Queue *queue, uint32_t *ret_head, uint32_t *ret_len)
{
    volatile uint32_t *entry =
        (volatile uint32_t *)(queue->used + 2) + queue->last_used % queue->size * 2;

    if (queue->used[1] == queue->last_used)
        return false;
    barrier();
    *ret_head = entry[0];
    *ret_len = entry[1];
    queue->last_used++;
    queue_want(queue);
    return true;
}

bool queue_run(Queue *queue, uint32_t *ret_len, uint64_t us)
{
    uint64_t end = now_us() + us;
    uint32_t head;

    queue_kick(queue);
    while (!queue_take(queue, &head, ret_len))
        if (now_us() > end)
            return false;
    return true;
}

bool virtio_works(Virtio *device, unsigned type)
{
    uint8_t *data = dma_alloc(1024, 64);
    Buffer buffers[3] = { { data, 512, true } };
    unsigned n = 1, index = 0;
    uint32_t len;
    Queue queue;

    if (!virtio_begin(device, 0))
        return false;
    if (type == VIRTIO_BLK) {
        memset(data, 0, 16);
        buffers[0] = (Buffer){ data, 16, false };
        buffers[1] = (Buffer){ data + 64, 512, true };
        buffers[2] = (Buffer){ data + 1000, 1, true };
        n = 3;
    } else if (type == VIRTIO_NET || type == VIRTIO_CONSOLE) {
        memset(data, 0, 128);
        buffers[0] = (Buffer){ data, 72, false };
        index = 1;
    } else if (type == VIRTIO_BALLOON) {
        /* a page for the host */
        *(uint32_t *)data = (uint32_t)((uint64_t)dma_alloc(4096, 4096) >> 12);
        buffers[0] = (Buffer){ data, 4, false };
    } else if (type == VIRTIO_MEM) {
        /* the state of the first block, at the address that the configuration tells (5.15.4) */
        memset(data, 0xff, 128);
        write64((uint64_t)data, MEM_REQUEST_STATE);
        write64((uint64_t)data + 8, read64(device->device + 16));
        write64((uint64_t)data + 16, 1);
        buffers[0] = (Buffer){ data, 24, false };
        buffers[1] = (Buffer){ data + 64, 10, true };
        n = 2;
    }
    for (unsigned i = 0; i <= index; i++)
        if (!virtio_queue(device, i, NO_VECTOR, &queue))
            return false;
    virtio_ready(device);
    queue_add(&queue, buffers, n);
    return queue_run(&queue, &len, 3000000) &&
           (type != VIRTIO_MEM || (len == 10 && read16((uint64_t)data + 64) == MEM_ACKNOWLEDGED));
}
