/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/virtio_driver.h"

#include <linux/virtio_ring.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/fd.h"

static KumoFakeDriver *fake;

static void fake_interrupt(void *opaque, KumoVirtq *queue)
{
    KumoFakeDriver *driver = opaque;

    kumo_eventfd_signal(driver->queues[queue->index].irq_fd);
}

static void fake_notify_config(KumoVirtio *virtio)
{
    g_atomic_int_inc(&fake->config_changes);
}

static void fake_needs_reset(KumoVirtio *virtio)
{
    g_atomic_int_inc(&fake->needs_reset);
}

bool kumo_virtio_pci_realize(KumoVirtio *virtio, const KumoPciCommon *common,
                             const KumoVirtioPciParams *params, GError **error)
{
    g_assert_nonnull(fake);
    g_assert_cmpuint(params->n_queues, <=, KUMO_FAKE_MAX_QUEUES);
    virtio->type = params->type;
    virtio->offered = params->offered | KUMO_VIRTIO_F_VERSION_1;
    virtio->n_queues = params->n_queues;
    virtio->queues = g_new0(KumoVirtq, params->n_queues);
    virtio->notify_config = fake_notify_config;
    virtio->needs_reset = fake_needs_reset;
    for (unsigned i = 0; i < params->n_queues; i++) {
        KumoVirtq *queue = &virtio->queues[i];

        queue->index = i;
        queue->max_size = params->queue_sizes[i];
        queue->size = queue->max_size;
        queue->msix_vector = 0xffff;
        queue->kick_fd = kumo_eventfd_new(error);
        queue->interrupt = fake_interrupt;
        queue->interrupt_opaque = fake;
        fake->queues[i].irq_fd = kumo_eventfd_new(error);
        g_assert_true(queue->kick_fd >= 0 && fake->queues[i].irq_fd >= 0);
    }
    fake->virtio = virtio;
    fake->params = *params;
    return true;
}

void kumo_virtio_pci_unrealize(KumoVirtio *virtio)
{
    if (virtio->active)
        kumo_fake_driver_stop(fake);
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        close(virtio->queues[i].kick_fd);
        close(fake->queues[i].irq_fd);
    }
    g_clear_pointer(&virtio->queues, g_free);
    fake->virtio = NULL;
}

bool kumo_virtio_pci_pause(KumoDevice *device, GError **error)
{
    KumoVirtio *virtio = (KumoVirtio *)device;

    return !virtio->active || !virtio->ops->pause || virtio->ops->pause(virtio, error);
}

void kumo_virtio_pci_resume(KumoDevice *device)
{
    KumoVirtio *virtio = (KumoVirtio *)device;

    if (virtio->active && virtio->ops->resume)
        virtio->ops->resume(virtio);
}

char *kumo_virtio_pci_bdf(KumoDevice *device)
{
    return g_strdup("0000:00:01.0");
}

void kumo_virtio_pci_describe(KumoDevice *device, json_t *tree, json_t *node)
{
}

bool kumo_virtio_pci_change(KumoVirtio *virtio, bool (*change)(void *opaque, GError **error),
                            void *opaque, GError **error)
{
    bool stopped = virtio->active && virtio->ops->pause(virtio, error);
    bool ok = change(opaque, error);

    if (stopped)
        virtio->ops->resume(virtio);
    return ok;
}

void kumo_virtio_pci_announce(KumoDevice *device)
{
}

bool kumo_virtio_pci_ask_removal(KumoDevice *device, GError **error)
{
    return true;
}

/* The transport's own state is not looked at: only that of the device. */
const KumoStateTable kumo_virtio_pci_state_table = {
    .name = "fake transport",
    .version = 1,
    .size = sizeof(KumoVirtioPciState),
};

void kumo_virtio_pci_save(KumoVirtio *virtio, KumoVirtioPciState *ret)
{
}

bool kumo_virtio_pci_load(KumoVirtio *virtio, const KumoVirtioPciState *state, GError **error)
{
    return true;
}

static void fake_state_save(KumoDevice *device, void *state)
{
}

static bool fake_state_load(KumoDevice *device, const void *state, GError **error)
{
    return true;
}

const KumoDeviceState kumo_virtio_pci_state = {
    .table = &kumo_virtio_pci_state_table,
    .save = fake_state_save,
    .load = fake_state_load,
};

KumoFakeDriver *kumo_fake_driver_new(void)
{
    g_assert_null(fake);
    fake = g_new0(KumoFakeDriver, 1);
    fake->config = kumo_vm_config_new();
    fake->machine.config = fake->config;
    fake->machine.memory = kumo_memory_new_for_test(0, KUMO_FAKE_RAM_BYTES);
    fake->machine.devices = g_ptr_array_new();
    fake->ram_next = 4096;
    return fake;
}

void kumo_fake_driver_free(KumoFakeDriver *driver)
{
    while (driver->machine.devices->len)
        kumo_device_remove(
            g_ptr_array_index(driver->machine.devices, driver->machine.devices->len - 1));
    g_ptr_array_unref(driver->machine.devices);
    kumo_loop_free(driver->machine.slow_loop);
    kumo_memory_free(driver->machine.memory);
    kumo_vm_config_free(driver->config);
    g_free(driver);
    fake = NULL;
}

uint64_t kumo_fake_driver_alloc(KumoFakeDriver *driver, uint64_t len)
{
    uint64_t gpa = driver->ram_next;

    driver->ram_next += (len + 4095) & ~4095ULL;
    g_assert_cmpuint(driver->ram_next, <=, KUMO_FAKE_RAM_BYTES);
    memset(kumo_fake_driver_ptr(driver, gpa), 0, len);
    return gpa;
}

void *kumo_fake_driver_ptr(KumoFakeDriver *driver, uint64_t gpa)
{
    void *ptr = kumo_memory_at(driver->machine.memory, gpa, 1);

    g_assert_nonnull(ptr);
    return ptr;
}

void kumo_fake_driver_start(KumoFakeDriver *driver, uint64_t features, uint16_t queue_size)
{
    KumoVirtio *virtio = driver->virtio;
    g_autoptr(GError) error = NULL;

    g_assert_false(virtio->active);
    virtio->negotiated = (features & virtio->offered) | KUMO_VIRTIO_F_VERSION_1;
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        KumoVirtq *queue = &virtio->queues[i];
        KumoFakeQueue *mine = &driver->queues[i];
        int irq_fd = mine->irq_fd;

        *mine = (KumoFakeQueue){ .size = MIN(queue_size, queue->max_size), .irq_fd = irq_fd };
        queue->size = mine->size;
        queue->desc_gpa = kumo_fake_driver_alloc(driver, 16 * mine->size);
        queue->avail_gpa = kumo_fake_driver_alloc(driver, 6 + 2 * mine->size);
        queue->used_gpa = kumo_fake_driver_alloc(driver, 6 + 8 * mine->size);
        queue->ready = true;
        kumo_virtq_start(queue, driver->machine.memory, virtio->negotiated, &error);
        g_assert_no_error(error);
    }
    virtio->ops->activate(virtio, &error);
    g_assert_no_error(error);
    virtio->active = true;
}

void kumo_fake_driver_stop(KumoFakeDriver *driver)
{
    KumoVirtio *virtio = driver->virtio;

    virtio->ops->deactivate(virtio);
    virtio->active = false;
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        kumo_virtq_reset(&virtio->queues[i]);
        kumo_eventfd_drain(virtio->queues[i].kick_fd);
    }
    virtio->negotiated = 0;
}

void kumo_fake_driver_desc(KumoFakeDriver *driver, unsigned queue, uint16_t index, uint64_t gpa,
                           uint32_t len, uint16_t flags, uint16_t next)
{
    struct vring_desc *desc = kumo_fake_driver_ptr(driver, driver->virtio->queues[queue].desc_gpa);

    desc[index] = (struct vring_desc){ .addr = gpa, .len = len, .flags = flags, .next = next };
}

void kumo_fake_driver_publish(KumoFakeDriver *driver, unsigned queue, uint16_t head)
{
    KumoFakeQueue *mine = &driver->queues[queue];
    struct vring_avail *avail =
        kumo_fake_driver_ptr(driver, driver->virtio->queues[queue].avail_gpa);

    avail->ring[mine->avail_idx % mine->size] = head;
    mine->avail_idx++;
    __atomic_store_n(&avail->idx, mine->avail_idx, __ATOMIC_RELEASE);
}

uint16_t kumo_fake_driver_add(KumoFakeDriver *driver, unsigned queue, const KumoFakeBuf *bufs,
                              unsigned n)
{
    KumoFakeQueue *mine = &driver->queues[queue];
    uint16_t head = mine->next_desc;

    for (unsigned i = 0; i < n; i++) {
        uint16_t index = mine->next_desc;

        mine->next_desc = (mine->next_desc + 1) % mine->size;
        kumo_fake_driver_desc(driver, queue, index, bufs[i].gpa, bufs[i].len,
                              (bufs[i].writable ? VRING_DESC_F_WRITE : 0) |
                                  (i + 1 < n ? VRING_DESC_F_NEXT : 0),
                              mine->next_desc);
    }
    kumo_fake_driver_publish(driver, queue, head);
    return head;
}

uint16_t kumo_fake_driver_add_indirect(KumoFakeDriver *driver, unsigned queue,
                                       const KumoFakeBuf *bufs, unsigned n)
{
    KumoFakeQueue *mine = &driver->queues[queue];
    uint64_t table_gpa = kumo_fake_driver_alloc(driver, n * sizeof(struct vring_desc));
    struct vring_desc *table = kumo_fake_driver_ptr(driver, table_gpa);
    uint16_t head = mine->next_desc;

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags =
            (bufs[i].writable ? VRING_DESC_F_WRITE : 0) | (i + 1 < n ? VRING_DESC_F_NEXT : 0);

        table[i] = (struct vring_desc){
            .addr = bufs[i].gpa, .len = bufs[i].len, .flags = flags, .next = i + 1
        };
    }
    mine->next_desc = (mine->next_desc + 1) % mine->size;
    kumo_fake_driver_desc(driver, queue, head, table_gpa, n * sizeof(struct vring_desc),
                          VRING_DESC_F_INDIRECT, 0);
    kumo_fake_driver_publish(driver, queue, head);
    return head;
}

void kumo_fake_driver_kick(KumoFakeDriver *driver, unsigned queue)
{
    kumo_eventfd_signal(driver->virtio->queues[queue].kick_fd);
}

bool kumo_fake_driver_kick_if_wanted(KumoFakeDriver *driver, unsigned queue)
{
    KumoFakeQueue *mine = &driver->queues[queue];
    /* avail_event follows the used ring (2.7.8) */
    uint16_t *avail_event =
        kumo_fake_driver_ptr(driver, driver->virtio->queues[queue].used_gpa + 4 + 8 * mine->size);

    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (__atomic_load_n(avail_event, __ATOMIC_RELAXED) != (uint16_t)(mine->avail_idx - 1))
        return false;
    kumo_fake_driver_kick(driver, queue);
    return true;
}

bool kumo_fake_driver_take(KumoFakeDriver *driver, unsigned queue, uint16_t *head, uint32_t *len)
{
    KumoFakeQueue *mine = &driver->queues[queue];
    uint64_t used_gpa = driver->virtio->queues[queue].used_gpa;
    uint64_t avail_gpa = driver->virtio->queues[queue].avail_gpa;
    struct vring_used *used = kumo_fake_driver_ptr(driver, used_gpa);
    /* used_event follows the avail ring (2.7.6) */
    uint16_t *used_event = kumo_fake_driver_ptr(driver, avail_gpa + 4 + 2 * mine->size);

    if (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) == mine->used_idx)
        return false;
    *head = used->ring[mine->used_idx % mine->size].id;
    *len = used->ring[mine->used_idx % mine->size].len;
    mine->used_idx++;
    __atomic_store_n(used_event, mine->used_idx, __ATOMIC_SEQ_CST);
    return true;
}

bool kumo_fake_driver_wait(KumoFakeDriver *driver, unsigned queue, uint16_t *head, uint32_t *len)
{
    KumoFakeQueue *mine = &driver->queues[queue];
    int64_t deadline_us = g_get_monotonic_time() + KUMO_FAKE_WAIT_MS * 1000LL;

    for (;;) {
        struct pollfd pfd = { .fd = mine->irq_fd, .events = POLLIN };
        int64_t left_us;

        if (kumo_fake_driver_take(driver, queue, head, len))
            return true;
        left_us = deadline_us - g_get_monotonic_time();
        if (left_us <= 0)
            return false;
        if (poll(&pfd, 1, left_us / 1000 + 1) == 1)
            mine->n_interrupts += kumo_eventfd_drain(mine->irq_fd);
    }
}

bool kumo_fake_driver_wait_broken(KumoFakeDriver *driver)
{
    int64_t deadline_us = g_get_monotonic_time() + KUMO_FAKE_WAIT_MS * 1000LL;

    while (!g_atomic_int_get(&driver->needs_reset)) {
        if (g_get_monotonic_time() > deadline_us)
            return false;
        g_usleep(1000);
    }
    return true;
}
