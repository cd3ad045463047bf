/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest that does anything with config space and with the registers of a virtio device. An input
 * is a series of accesses: a byte for the place (what is below; lowest three bits) and the size
 * less one (next three bits) and bit 7 for a write, two bytes for the register, and for a write as
 * many bytes as are written.
 */
#include <string.h>

#include "tests/fakes/fake_pci.h"
#include "tests/fakes/fake_virtio.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio_pci.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CANARY = 0x5a };

typedef struct {
    KumoVirtio virtio;
    bool up; /* between activate and deactivate */
} Dev;

enum {
    PLACE_ECAM,   /* of the device */
    PLACE_BRIDGE, /* of the host bridge and slots around */
    PLACE_PORTS,  /* 0xcf8.. */
    PLACE_COMMON, /* the BAR, wherever it is now */
    PLACE_BAR,    /* all of it, in steps */
    PLACE_MSIX,
    PLACE_NOTIFY,
    PLACE_POP, /* no access: the worker looks at its queues, and interrupts */
};

static void dev_config_read(KumoVirtio *virtio, uint64_t offset, uint8_t *data, unsigned size)
{
    kumo_virtio_config_copy("config", 6, offset, data, size);
}

static bool dev_activate(KumoVirtio *virtio, GError **error)
{
    Dev *dev = (Dev *)virtio;

    g_assert_false(dev->up);
    for (unsigned i = 0; i < virtio->n_queues; i++)
        g_assert_true(!virtio->queues[i].ready || virtio->queues[i].desc);
    g_assert_true(kumo_virtio_has(virtio, KUMO_VIRTIO_F_VERSION_1));
    dev->up = true;
    return true;
}

static void dev_deactivate(KumoVirtio *virtio)
{
    Dev *dev = (Dev *)virtio;

    g_assert_true(dev->up);
    dev->up = false;
}

static const KumoVirtioOps virtio_ops = {
    .config_read = dev_config_read,
    .activate = dev_activate,
    .deactivate = dev_deactivate,
};

static void work(Dev *dev)
{
    struct iovec iov[FAKE_VIRTIO_QUEUE_SIZE + 2];
    KumoVirtqChain chain = { .iov = iov, .max_iov = G_N_ELEMENTS(iov) };

    for (unsigned i = 0; i < FAKE_VIRTIO_QUEUES && dev->up; i++) {
        KumoVirtq *queue = &dev->virtio.queues[i];
        KumoVirtqResult result = kumo_virtq_pop(queue, &chain);

        if (result == KUMO_VIRTQ_CHAIN)
            kumo_virtq_push(queue, chain.head, 0);
        else if (result == KUMO_VIRTQ_BROKEN)
            kumo_virtio_broken(&dev->virtio, "fuzz");
        kumo_virtq_notify(queue);
        kumo_eventfd_drain(queue->kick_fd);
    }
    dev->virtio.notify_config(&dev->virtio);
}

static void check(const FakePci *fake, Dev *dev)
{
    const KumoPciBar *bar = &kumo_virtio_pci_function(&dev->virtio)->bars[0];

    g_assert_true(dev->up == dev->virtio.active);
    g_assert_cmpuint(fake->vm->ioeventfds->len, <=,
                     dev->up && bar->mapped ? FAKE_VIRTIO_QUEUES : 0);
    if (bar->mapped)
        g_assert_true((bar->gpa >= FAKE_MMIO32_BASE &&
                       bar->gpa + bar->size - FAKE_MMIO32_BASE <= FAKE_MMIO32_SIZE) ||
                      (bar->gpa >= FAKE_MMIO64_BASE &&
                       bar->gpa + bar->size - FAKE_MMIO64_BASE <= FAKE_MMIO64_SIZE));
}

static uint64_t address(Dev *dev, unsigned place, uint16_t reg)
{
    uint64_t bar = kumo_virtio_pci_function(&dev->virtio)->bars[0].gpa;

    switch (place) {
    case PLACE_ECAM:
        return FAKE_ECAM_BASE + (FAKE_VIRTIO_SLOT << 15) + (reg & (reg & 0x8000 ? 0xfff : 0xff));
    case PLACE_BRIDGE:
        return FAKE_ECAM_BASE + ((uint64_t)reg << 4);
    case PLACE_PORTS:
        return 0xcf8 + (reg & 7);
    case PLACE_COMMON:
        return bar + (reg & 0x3f);
    case PLACE_MSIX:
        return bar + (reg & 0x8000 ? 0x48000 : 0x8000) + (reg & 0x3f);
    case PLACE_NOTIFY:
        return bar + 0x6000 + (reg & 0xfff);
    default:
        return bar + (uint64_t)reg * 8;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FakePci *fake;
    Dev *dev = g_new0(Dev, 1);
    size_t at = 0;

    kumo_log_level = KUMO_LOG_ERROR;
    fake = fake_pci_new();
    dev->virtio.ops = &virtio_ops;
    kumo_device_init(&dev->virtio.device, &fake_virtio_device_ops, &fake->machine, "fuzz");
    g_assert_true(kumo_device_add(&dev->virtio.device, NULL));
    while (at + 3 <= size) {
        unsigned place = data[at] & 7;
        unsigned len = (data[at] >> 3 & 7) + 1;
        uint64_t gpa = address(dev, place, (uint16_t)(data[at + 1] | data[at + 2] << 8));
        KumoBus *bus = place == PLACE_PORTS ? fake->machine.pio : fake->machine.mmio;
        bool write = data[at] & 0x80;
        uint8_t buf[9];

        at += 3;
        memset(buf, CANARY, sizeof(buf));
        if (place == PLACE_PORTS)
            len = len > 4 ? 4 : len;
        if (place == PLACE_POP) {
            work(dev);
        } else if (write) {
            size_t given = MIN(len, size - at);

            memcpy(buf, data + at, given);
            at += given;
            kumo_bus_write(bus, 0, gpa, buf, len);
        } else {
            kumo_bus_read(bus, 0, gpa, buf, len);
            g_assert_cmphex(buf[len], ==, CANARY);
        }
        check(fake, dev);
    }
    fake_pci_free(fake);
    return 0;
}
