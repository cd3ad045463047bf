/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/fake_virtio.h"

#include "vmm-core/devices/virtio/virtio_pci.h"

static bool fake_realize(KumoDevice *device, GError **error)
{
    static const uint16_t sizes[FAKE_VIRTIO_QUEUES] = { FAKE_VIRTIO_QUEUE_SIZE,
                                                        FAKE_VIRTIO_QUEUE_SIZE };
    static const KumoVirtioPciParams params = {
        .type = KUMO_VIRTIO_BLOCK,
        .offered = KUMO_VIRTIO_F_RING_EVENT_IDX | KUMO_VIRTIO_F_RING_INDIRECT_DESC,
        .n_queues = FAKE_VIRTIO_QUEUES,
        .queue_sizes = sizes,
    };
    const KumoPciCommon common = { .pci_device_id = FAKE_VIRTIO_SLOT };

    return kumo_virtio_pci_realize((KumoVirtio *)device, &common, &params, error);
}

static void fake_unrealize(KumoDevice *device)
{
    kumo_virtio_pci_unrealize((KumoVirtio *)device);
}

static void fake_free(KumoDevice *device)
{
    g_free(device);
}

const KumoDeviceOps fake_virtio_device_ops = {
    .type = "fake-virtio",
    .realize = fake_realize,
    .unrealize = fake_unrealize,
    .free = fake_free,
    .pause = kumo_virtio_pci_pause,
    .resume = kumo_virtio_pci_resume,
    .state = &kumo_virtio_pci_state,
};
