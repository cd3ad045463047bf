/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A snapshot whose state.json says anything, after its checksum was found right. An input that
 * begins with '{' is the JSON of a virtio device's transport itself; another is a series of changes
 * to a good one, four bytes each: two choose the value, one what is done to it, one with what.
 */
#include "tests/fakes/fake_pci.h"
#include "tests/fakes/fake_virtio.h"
#include "tests/fakes/json_change.h"
#include "vmm-core/base/log.h"
#include "vmm-core/core/vcpu_state.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_CHANGES = 64 };

typedef struct {
    KumoVirtio virtio;
    bool up;
} Dev;

static bool dev_activate(KumoVirtio *virtio, GError **error)
{
    ((Dev *)virtio)->up = true;
    return true;
}

static void dev_deactivate(KumoVirtio *virtio)
{
    ((Dev *)virtio)->up = false;
}

static bool dev_pause(KumoVirtio *virtio, GError **error)
{
    return true;
}

/* What workers do: every ring that is ready has to be usable. */
static void dev_resume(KumoVirtio *virtio)
{
    struct iovec iov[FAKE_VIRTIO_QUEUE_SIZE + 2];

    ((Dev *)virtio)->up = true;
    for (unsigned i = 0; i < virtio->n_queues; i++) {
        KumoVirtq *queue = &virtio->queues[i];
        KumoVirtqChain chain = { .iov = iov, .max_iov = G_N_ELEMENTS(iov) };

        if (!queue->ready)
            continue;
        g_assert_nonnull(queue->desc);
        if (kumo_virtq_pop(queue, &chain) == KUMO_VIRTQ_CHAIN)
            kumo_virtq_push(queue, chain.head, 0);
        kumo_virtq_notify(queue);
    }
}

static const KumoVirtioOps virtio_ops = {
    .activate = dev_activate,
    .deactivate = dev_deactivate,
    .pause = dev_pause,
    .resume = dev_resume,
};

static Dev *dev_new(FakePci *fake)
{
    Dev *dev = g_new0(Dev, 1);

    dev->virtio.ops = &virtio_ops;
    kumo_device_init(&dev->virtio.device, &fake_virtio_device_ops, &fake->machine, "fuzz");
    g_assert_true(kumo_device_add(&dev->virtio.device, NULL));
    return dev;
}

/* The state of a device that is up, with both queues in use. */
static json_t *good_state(void)
{
    FakePci *fake = fake_pci_new();
    Dev *dev = dev_new(fake);
    KumoVirtioPciState state = { 0 };
    json_t *json;

    kumo_virtio_pci_save(&dev->virtio, &state);
    state.status = 0xf;
    state.driver_features = state.offered;
    state.active = true;
    for (unsigned i = 0; i < FAKE_VIRTIO_QUEUES; i++) {
        state.queues[i].ready = true;
        state.queues[i].desc_gpa = 0x1000 + 0x3000 * i;
        state.queues[i].avail_gpa = 0x2000 + 0x3000 * i;
        state.queues[i].used_gpa = 0x3000 + 0x3000 * i;
    }
    json = kumo_state_encode(&kumo_virtio_pci_state_table, &state);
    kumo_state_clear(&kumo_virtio_pci_state_table, &state);
    fake_pci_free(fake);
    return json;
}

static void load(const json_t *json)
{
    FakePci *fake = fake_pci_new();
    Dev *dev = dev_new(fake);
    KumoDevice *device = &dev->virtio.device;
    KumoVirtioPciState state;
    KumoVcpuState vcpu;

    g_assert_true(device->ops->pause(device, NULL));
    if (kumo_state_decode(&kumo_virtio_pci_state_table, json, "fuzz", &state, NULL)) {
        g_autoptr(GError) error = NULL;

        if (device->ops->state->load(device, &state, &error))
            device->ops->resume(device);
        else
            g_assert_nonnull(error);
    }
    kumo_state_clear(&kumo_virtio_pci_state_table, &state);
    kumo_state_decode(&kumo_vcpu_state_table, json, "fuzz", &vcpu, NULL);
    kumo_state_clear(&kumo_vcpu_state_table, &vcpu);
    fake_pci_free(fake);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *json;

    kumo_log_level = KUMO_LOG_ERROR;
    if (size > 0 && data[0] == '{') {
        json = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL);
    } else {
        json = good_state();
        fake_json_change(json, data, size, MAX_CHANGES);
    }
    if (json)
        load(json);
    json_decref(json);
    return 0;
}
