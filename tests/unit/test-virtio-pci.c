/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/fakes/fake_pci.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio_pci.h"
#include "vmm-core/devices/virtio/virtio_rng.h"

enum {
    SLOT = 1,
    N_QUEUES = 3,
    QUEUE_SIZE = 64,
    FEATURE = 1 << 5,

    FEATURE_SELECT = 0x00,
    DEVICE_FEATURE = 0x04,
    DRIVER_SELECT = 0x08,
    DRIVER_FEATURE = 0x0c,
    CONFIG_VECTOR = 0x10,
    NUM_QUEUES = 0x12,
    STATUS = 0x14,
    GENERATION = 0x15,
    QUEUE_SELECT = 0x16,
    QUEUE_SIZE_REG = 0x18,
    QUEUE_VECTOR = 0x1a,
    QUEUE_ENABLE = 0x1c,
    NOTIFY_OFF = 0x1e,
    QUEUE_DESC = 0x20,
    QUEUE_AVAIL = 0x28,
    QUEUE_USED = 0x30,
    ISR = 0x2000,
    DEVICE = 0x4000,
    NOTIFY = 0x6000,
    TABLE = 0x8000,

    ACK = 1,
    DRIVER = 2,
    DRIVER_OK = 4,
    FEATURES_OK = 8,
    NEEDS_RESET = 64,

    RINGS = 0x10000,
    BUFFER = 0x100000,
};

typedef struct {
    KumoVirtio virtio;
    unsigned activations, deactivations, pauses, resumes, config_writes;
    bool fail_activation;
} Dev;

typedef struct {
    FakePci *fake;
    Dev *dev; /* NULL in the tests of virtio-rng */
    uint64_t bar;
} Fixture;

static void dev_config_read(KumoVirtio *virtio, uint64_t offset, uint8_t *data, unsigned size)
{
    kumo_virtio_config_copy("\1\2\3\4\5\6", 6, offset, data, size);
}

static void dev_config_write(KumoVirtio *virtio, uint64_t offset, const uint8_t *data,
                             unsigned size)
{
    ((Dev *)virtio)->config_writes++;
}

static bool dev_activate(KumoVirtio *virtio, GError **error)
{
    Dev *dev = (Dev *)virtio;

    if (dev->fail_activation) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "no");
        return false;
    }
    dev->activations++;
    return true;
}

static void dev_deactivate(KumoVirtio *virtio)
{
    Dev *dev = (Dev *)virtio;

    /* A reset must not be visible before this has returned. */
    dev->deactivations++;
    g_assert_false(virtio->active);
}

static bool dev_pause(KumoVirtio *virtio, GError **error)
{
    ((Dev *)virtio)->pauses++;
    return true;
}

static void dev_resume(KumoVirtio *virtio)
{
    ((Dev *)virtio)->resumes++;
}

static const KumoVirtioOps virtio_ops = {
    .config_read = dev_config_read,
    .config_write = dev_config_write,
    .activate = dev_activate,
    .deactivate = dev_deactivate,
    .pause = dev_pause,
    .resume = dev_resume,
};

static bool dev_realize(KumoDevice *device, GError **error)
{
    static const uint16_t sizes[N_QUEUES] = { QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE };
    static const KumoVirtioPciParams params = {
        .type = KUMO_VIRTIO_BLOCK,
        .class_code = 1,
        .subclass = 0x80,
        .offered = FEATURE | KUMO_VIRTIO_F_RING_EVENT_IDX,
        .n_queues = N_QUEUES,
        .queue_sizes = sizes,
    };
    const KumoPciCommon common = { .pci_device_id = -1 };

    return kumo_virtio_pci_realize((KumoVirtio *)device, &common, &params, error);
}

static void dev_unrealize(KumoDevice *device)
{
    kumo_virtio_pci_unrealize((KumoVirtio *)device);
}

static void dev_free(KumoDevice *device)
{
    g_free(device);
}

static const KumoDeviceOps dev_ops = {
    .type = "test",
    .realize = dev_realize,
    .unrealize = dev_unrealize,
    .free = dev_free,
    .pause = kumo_virtio_pci_pause,
    .resume = kumo_virtio_pci_resume,
};

static void set_up(Fixture *f, gconstpointer unused)
{
    GError *error = NULL;

    f->fake = fake_pci_new();
    f->dev = g_new0(Dev, 1);
    f->dev->virtio.ops = &virtio_ops;
    kumo_device_init(&f->dev->virtio.device, &dev_ops, &f->fake->machine, "dev");
    g_assert_true(kumo_device_add(&f->dev->virtio.device, &error));
    g_assert_no_error(error);
    f->bar = FAKE_MMIO64_BASE;
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    while (f->fake->machine.devices->len > 1)
        kumo_device_remove(g_ptr_array_index(f->fake->machine.devices, 1));
    g_assert_cmpuint(f->fake->vm->ioeventfds->len, ==, 0);
    g_assert_cmpuint(f->fake->vm->irqfds->len, ==, 0);
    fake_pci_free(f->fake);
}

static uint64_t rd(Fixture *f, unsigned reg, unsigned size)
{
    return fake_mmio_read(f->fake, f->bar + reg, size);
}

static void wr(Fixture *f, unsigned reg, uint64_t value, unsigned size)
{
    fake_mmio_write(f->fake, f->bar + reg, value, size);
}

static uint8_t status(Fixture *f)
{
    return (uint8_t)rd(f, STATUS, 1);
}

static void negotiate(Fixture *f, uint64_t features)
{
    wr(f, STATUS, 0, 1);
    wr(f, STATUS, ACK, 1);
    wr(f, STATUS, ACK | DRIVER, 1);
    for (unsigned i = 0; i < 2; i++) {
        wr(f, DRIVER_SELECT, i, 4);
        wr(f, DRIVER_FEATURE, (uint32_t)(features >> (32 * i)), 4);
    }
    wr(f, STATUS, ACK | DRIVER | FEATURES_OK, 1);
}

static void set_queue(Fixture *f, unsigned i, uint64_t rings)
{
    wr(f, QUEUE_SELECT, i, 2);
    wr(f, QUEUE_DESC, rings, 4);
    wr(f, QUEUE_DESC + 4, rings >> 32, 4);
    wr(f, QUEUE_AVAIL, rings + 0x2000, 8);
    wr(f, QUEUE_USED, rings + 0x3000, 8);
    wr(f, QUEUE_ENABLE, 1, 2);
}

static void bring_up(Fixture *f, uint64_t features)
{
    negotiate(f, features | KUMO_VIRTIO_F_VERSION_1);
    g_assert_cmphex(status(f) & FEATURES_OK, ==, FEATURES_OK);
    for (unsigned i = 0; i < N_QUEUES; i++)
        set_queue(f, i, RINGS + 0x4000 * i);
    wr(f, STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
}

static void test_identity(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 0, 4), ==, 0x10421af4);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 8, 4), ==, 0x01800001);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 0x2c, 4), ==, 0x10421af4);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 0x3d, 1), ==, 1);
    g_assert_cmphex(f->bar % (8 << 20), ==, 0);
    /* Common, ISR, notify, device, PCI_CFG; type, BAR, offset. */
    static const struct {
        uint8_t type, len;
        uint32_t offset, length;
    } caps[] = { { 1, 16, 0, 56 },
                 { 3, 16, ISR, 1 },
                 { 2, 20, NOTIFY, 0x1000 },
                 { 4, 16, DEVICE, 0x1000 },
                 { 5, 20, 0, 0 } };

    for (unsigned i = 0; i < G_N_ELEMENTS(caps); i++) {
        unsigned at = fake_find_cap(f->fake, SLOT, 9, i);

        g_assert_cmpuint(at, !=, 0);
        g_assert_cmpuint(fake_ecam_read(f->fake, SLOT, at + 2, 1), ==, caps[i].len);
        g_assert_cmpuint(fake_ecam_read(f->fake, SLOT, at + 3, 1), ==, caps[i].type);
        g_assert_cmpuint(fake_ecam_read(f->fake, SLOT, at + 8, 4), ==, caps[i].offset);
        g_assert_cmpuint(fake_ecam_read(f->fake, SLOT, at + 12, 4), ==, caps[i].length);
        if (caps[i].type == 2)
            g_assert_cmpuint(fake_ecam_read(f->fake, SLOT, at + 16, 4), ==, 4);
    }
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, fake_find_cap(f->fake, SLOT, 0x11, 0) + 2, 2), ==,
                    N_QUEUES);
    g_assert_cmpuint(rd(f, NUM_QUEUES, 2), ==, N_QUEUES);
}

static void test_features(Fixture *f, gconstpointer unused)
{
    g_assert_cmphex(rd(f, DEVICE_FEATURE, 4), ==, FEATURE | 1 << 29);
    wr(f, FEATURE_SELECT, 1, 4);
    g_assert_cmphex(rd(f, DEVICE_FEATURE, 4), ==, 1);
    wr(f, FEATURE_SELECT, 2, 4);
    g_assert_cmphex(rd(f, DEVICE_FEATURE, 4), ==, 0);
    wr(f, FEATURE_SELECT, 0xffffffff, 4);
    g_assert_cmphex(rd(f, DEVICE_FEATURE, 4), ==, 0);

    negotiate(f, FEATURE); /* no VERSION_1 */
    g_assert_cmphex(status(f), ==, ACK | DRIVER);
    negotiate(f, KUMO_VIRTIO_F_VERSION_1 | 1 << 6); /* not offered */
    g_assert_cmphex(status(f), ==, ACK | DRIVER);
    negotiate(f, KUMO_VIRTIO_F_VERSION_1 | 1ULL << 63);
    g_assert_cmphex(status(f), ==, ACK | DRIVER);
    negotiate(f, KUMO_VIRTIO_F_VERSION_1 | FEATURE);
    g_assert_cmphex(status(f), ==, ACK | DRIVER | FEATURES_OK);
    wr(f, DRIVER_SELECT, 0, 4); /* too late */
    wr(f, DRIVER_FEATURE, 0, 4);
    g_assert_cmphex(rd(f, DRIVER_FEATURE, 4), ==, FEATURE);
    g_assert_true(kumo_virtio_has(&f->dev->virtio, FEATURE));
    g_assert_false(kumo_virtio_has(&f->dev->virtio, KUMO_VIRTIO_F_RING_EVENT_IDX));
    wr(f, STATUS, 0, 1);
    g_assert_cmphex(rd(f, DRIVER_FEATURE, 4), ==, 0);
}

static GString *events;

static void on_event(const char *source, const char *event, json_t *properties)
{
    char *text = json_dumps(properties, JSON_COMPACT);

    g_string_append_printf(events, "%s %s %s;", source, event, text);
    free(text);
    json_decref(properties);
}

static void test_events(Fixture *f, gconstpointer unused)
{
    f->fake->machine.event = on_event;
    events = g_string_new(NULL);
    bring_up(f, 0);
    wr(f, STATUS, 0, 1);
    wr(f, STATUS, 0, 1); /* nothing was there to reset */
    g_assert_cmpstr(
        events->str, ==,
        "virtio-device activated {\"id\":\"dev\"};virtio-device reset {\"id\":\"dev\"};");
    /* A guest that does nothing else does not fill a file of the host. */
    for (unsigned i = 0; i < 100; i++) {
        bring_up(f, 0);
        wr(f, STATUS, 0, 1);
    }
    g_assert_cmpuint(events->len, <, 2000);
    g_string_free(events, TRUE);
}

static void test_life(Fixture *f, gconstpointer unused)
{
    Dev *dev = f->dev;
    KumoVirtq *queue = &dev->virtio.queues[1];

    bring_up(f, KUMO_VIRTIO_F_RING_EVENT_IDX);
    g_assert_cmphex(status(f), ==, ACK | DRIVER | FEATURES_OK | DRIVER_OK);
    g_assert_cmpuint(dev->activations, ==, 1);
    g_assert_true(dev->virtio.active);
    g_assert_true(queue->event_idx);
    g_assert_cmphex(queue->used_gpa, ==, RINGS + 0x7000);
    wr(f, STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1); /* again: nothing new */
    g_assert_cmpuint(dev->activations, ==, 1);

    /* In use: nothing of the queue changes. */
    wr(f, QUEUE_SELECT, 1, 2);
    wr(f, QUEUE_SIZE_REG, 2, 2);
    wr(f, QUEUE_DESC, 0, 8);
    wr(f, QUEUE_ENABLE, 0, 2);
    g_assert_cmpuint(rd(f, QUEUE_SIZE_REG, 2), ==, QUEUE_SIZE);
    g_assert_cmphex(rd(f, QUEUE_DESC, 8), ==, RINGS + 0x4000);
    g_assert_cmpuint(rd(f, QUEUE_ENABLE, 2), ==, 1);

    /* Bits are cleared by a reset only. */
    wr(f, STATUS, ACK, 1);
    g_assert_cmphex(status(f), ==, ACK | DRIVER | FEATURES_OK | DRIVER_OK);
    g_assert_true(dev->virtio.active);

    wr(f, STATUS, 0, 1);
    g_assert_cmphex(status(f), ==, 0);
    g_assert_cmpuint(dev->deactivations, ==, 1);
    g_assert_false(dev->virtio.active);
    wr(f, QUEUE_SELECT, 1, 2);
    g_assert_cmpuint(rd(f, QUEUE_ENABLE, 2), ==, 0);
    g_assert_cmphex(rd(f, QUEUE_DESC, 8), ==, 0);
    g_assert_cmphex(rd(f, QUEUE_VECTOR, 2), ==, 0xffff);
    wr(f, STATUS, 0, 1);
    g_assert_cmpuint(dev->deactivations, ==, 1);
    bring_up(f, 0);
    g_assert_cmpuint(dev->activations, ==, 2);
    g_assert_false(queue->event_idx);
}

static void test_queue_registers(Fixture *f, gconstpointer unused)
{
    static const uint16_t bad[] = { 0, 3, QUEUE_SIZE * 2, QUEUE_SIZE - 1, 0x8000, 0xffff };

    negotiate(f, KUMO_VIRTIO_F_VERSION_1);
    wr(f, QUEUE_SELECT, 2, 2);
    g_assert_cmpuint(rd(f, QUEUE_SIZE_REG, 2), ==, QUEUE_SIZE);
    g_assert_cmpuint(rd(f, NOTIFY_OFF, 2), ==, 2);
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        wr(f, QUEUE_SIZE_REG, bad[i], 2);
        g_assert_cmpuint(rd(f, QUEUE_SIZE_REG, 2), ==, QUEUE_SIZE);
    }
    wr(f, QUEUE_SIZE_REG, 16, 2);
    g_assert_cmpuint(rd(f, QUEUE_SIZE_REG, 2), ==, 16);
    wr(f, QUEUE_ENABLE, 2, 2);
    g_assert_cmpuint(rd(f, QUEUE_ENABLE, 2), ==, 0);
    wr(f, QUEUE_VECTOR, 3, 2);
    g_assert_cmphex(rd(f, QUEUE_VECTOR, 2), ==, 3);
    wr(f, QUEUE_VECTOR, 4, 2); /* there are four: 0 to 3 */
    g_assert_cmphex(rd(f, QUEUE_VECTOR, 2), ==, 0xffff);
    wr(f, CONFIG_VECTOR, 0xfffe, 2);
    g_assert_cmphex(rd(f, CONFIG_VECTOR, 2), ==, 0xffff);

    /* A queue that does not exist. */
    for (unsigned select = N_QUEUES; select <= 0xffff; select += 0x1555) {
        wr(f, QUEUE_SELECT, select, 2);
        set_queue(f, select, RINGS);
        wr(f, QUEUE_SIZE_REG, 4, 2);
        wr(f, QUEUE_VECTOR, 1, 2);
        for (unsigned reg = QUEUE_SIZE_REG; reg < 0x38; reg += 2)
            g_assert_cmphex(rd(f, reg, 2), ==, 0);
    }
    /* Odd sizes and places read what is there, and write nothing. */
    wr(f, QUEUE_SELECT, 2, 2);
    g_assert_cmphex(rd(f, QUEUE_SIZE_REG - 1, 3), ==, 16 << 8);
    g_assert_cmphex(rd(f, 0x34, 8), ==, 0);
    for (unsigned reg = 0; reg < 0x40; reg++) {
        wr(f, reg, 0x0101010101010101, 3);
        wr(f, reg, 0x0101010101010101, 5);
        wr(f, reg, 0x0101010101010101, 7);
        if (reg % 8)
            wr(f, reg, 0x0101010101010101, 8);
    }
    g_assert_cmphex(rd(f, QUEUE_DESC, 8), ==, 0);
    g_assert_cmphex(rd(f, QUEUE_SIZE_REG, 2), ==, 16);
    g_assert_cmphex(status(f), ==, ACK | DRIVER | FEATURES_OK);
}

/* A driver that sets DRIVER_OK before it may, or with rings that lead nowhere. */
static void test_bad_activation(Fixture *f, gconstpointer unused)
{
    static const uint64_t rings[] = { FAKE_RAM_SIZE, FAKE_RAM_SIZE - 0x2000, RINGS + 1,
                                      UINT64_MAX - 0xfff };

    wr(f, STATUS, ACK | DRIVER | DRIVER_OK, 1);
    g_assert_cmphex(status(f), ==, ACK | DRIVER);
    g_assert_cmpuint(f->dev->activations, ==, 0);

    for (unsigned i = 0; i < G_N_ELEMENTS(rings); i++) {
        negotiate(f, KUMO_VIRTIO_F_VERSION_1);
        set_queue(f, 0, RINGS);
        set_queue(f, 1, rings[i]);
        wr(f, STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
        g_assert_cmphex(status(f), ==, ACK | DRIVER | FEATURES_OK | DRIVER_OK | NEEDS_RESET);
        g_assert_cmpuint(f->dev->activations, ==, 0);
        g_assert_cmphex(rd(f, ISR, 1), ==, 2);
    }
    f->dev->fail_activation = true;
    bring_up(f, 0);
    g_assert_cmphex(status(f) & NEEDS_RESET, ==, NEEDS_RESET);
    g_assert_false(f->dev->virtio.active);
    g_assert_cmpuint(f->fake->vm->ioeventfds->len, ==, 0);
    f->dev->fail_activation = false;
    bring_up(f, 0);
    g_assert_cmphex(status(f) & NEEDS_RESET, ==, 0);
    g_assert_cmpuint(f->dev->activations, ==, 1);
    g_assert_cmpuint(f->dev->deactivations, ==, 0);
}

/* Some queues stay disabled: the device sees that, and an activation waits for nobody. */
static void test_fewer_queues(Fixture *f, gconstpointer unused)
{
    struct iovec iov[QUEUE_SIZE];
    KumoVirtqChain chain = { .iov = iov, .max_iov = QUEUE_SIZE };

    negotiate(f, KUMO_VIRTIO_F_VERSION_1);
    set_queue(f, 0, RINGS);
    wr(f, STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
    g_assert_cmpuint(f->dev->activations, ==, 1);
    g_assert_false(f->dev->virtio.queues[1].ready);
    g_assert_cmpint(kumo_virtq_pop(&f->dev->virtio.queues[1], &chain), ==, KUMO_VIRTQ_EMPTY);
    g_assert_false(kumo_virtq_has_work(&f->dev->virtio.queues[1]));
    kumo_virtq_push(&f->dev->virtio.queues[1], 0, 0);
    kumo_virtq_notify(&f->dev->virtio.queues[1]);
    g_assert_cmpuint(f->fake->vm->ioeventfds->len, ==, 1);
}

static void test_kicks(Fixture *f, gconstpointer unused)
{
    KumoVirtq *queues = f->dev->virtio.queues;
    unsigned cap_command = 4;

    g_assert_cmpuint(f->fake->vm->ioeventfds->len, ==, 0);
    bring_up(f, 0);
    g_assert_cmpuint(f->fake->vm->ioeventfds->len, ==, N_QUEUES);
    for (unsigned i = 0; i < N_QUEUES; i++) {
        const FakeIoeventfd *ioeventfd = &g_array_index(f->fake->vm->ioeventfds, FakeIoeventfd, i);

        g_assert_cmphex(ioeventfd->addr, ==, f->bar + NOTIFY + 4 * i);
        g_assert_cmpint(ioeventfd->fd, ==, queues[i].kick_fd);
        g_assert_false(ioeventfd->has_datamatch);
        /* What came before activation is not forgotten. */
        g_assert_cmpuint(kumo_eventfd_drain(queues[i].kick_fd), ==, 1);
    }
    /* As an exit, in any width. */
    wr(f, NOTIFY + 4, 1, 2);
    wr(f, NOTIFY + 8, 2, 4);
    wr(f, NOTIFY + 9, 2, 1);
    g_assert_cmpuint(kumo_eventfd_drain(queues[0].kick_fd), ==, 0);
    g_assert_cmpuint(kumo_eventfd_drain(queues[1].kick_fd), ==, 1);
    g_assert_cmpuint(kumo_eventfd_drain(queues[2].kick_fd), ==, 2);
    wr(f, NOTIFY + 4 * N_QUEUES, 0, 4); /* no such queue */
    wr(f, NOTIFY + 0xffc, 0, 4);

    /* They follow the BAR, and go away with it. */
    fake_ecam_write(f->fake, SLOT, cap_command, 0, 2);
    g_assert_cmpuint(f->fake->vm->ioeventfds->len, ==, 0);
    fake_ecam_write(f->fake, SLOT, 0x10, 0x10000000, 4);
    fake_ecam_write(f->fake, SLOT, cap_command, 2, 2);
    f->bar = FAKE_MMIO64_BASE + 0x10000000;
    g_assert_cmpuint(f->fake->vm->ioeventfds->len, ==, N_QUEUES);
    g_assert_cmphex(g_array_index(f->fake->vm->ioeventfds, FakeIoeventfd, 0).addr, ==,
                    f->bar + NOTIFY);
    fake_ecam_write(f->fake, SLOT, 0x10, 0x20000000, 4); /* without disabling first */
    f->bar = FAKE_MMIO64_BASE + 0x20000000;
    g_assert_cmphex(g_array_index(f->fake->vm->ioeventfds, FakeIoeventfd, 0).addr, ==,
                    f->bar + NOTIFY);
    wr(f, STATUS, 0, 1);
    g_assert_cmpuint(f->fake->vm->ioeventfds->len, ==, 0);
}

static void test_no_ioeventfd(Fixture *f, gconstpointer unused)
{
    f->fake->vm->fail = "ioeventfd";
    bring_up(f, 0);
    g_assert_cmpuint(f->dev->activations, ==, 1);
    kumo_eventfd_drain(f->dev->virtio.queues[2].kick_fd);
    wr(f, NOTIFY + 8, 2, 2);
    g_assert_cmpuint(kumo_eventfd_drain(f->dev->virtio.queues[2].kick_fd), ==, 1);
    f->fake->vm->fail = NULL;
}

static void test_interrupts(Fixture *f, gconstpointer unused)
{
    KumoVirtio *virtio = &f->dev->virtio;
    KumoVirtq *queue = &virtio->queues[1];
    unsigned cap = fake_find_cap(f->fake, SLOT, 0x11, 0);

    bring_up(f, 0);
    /* INTx and ISR. */
    kumo_virtq_push(queue, 0, 0);
    kumo_virtq_notify(queue);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 6, 2) & 8, ==, 8);
    virtio->notify_config(virtio);
    g_assert_cmphex(rd(f, ISR, 1), ==, 3);
    g_assert_cmphex(rd(f, ISR, 1), ==, 0);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 6, 2) & 8, ==, 0);
    kumo_virtq_push(queue, 0, 0);
    kumo_virtq_notify(queue);
    wr(f, STATUS, 0, 1); /* a reset lowers the line */
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 6, 2) & 8, ==, 0);

    /* MSI-X; pending bits show what was fired while masked. */
    fake_ecam_write(f->fake, SLOT, cap + 2, 0xc000, 2);
    negotiate(f, KUMO_VIRTIO_F_VERSION_1);
    wr(f, CONFIG_VECTOR, 3, 2);
    set_queue(f, 1, RINGS);
    wr(f, STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
    kumo_virtq_push(queue, 0, 0);
    kumo_virtq_notify(queue); /* no vector: no interrupt */
    g_assert_cmphex(rd(f, 0x48000, 8), ==, 0);
    g_assert_cmphex(rd(f, ISR, 1), ==, 0);
    wr(f, QUEUE_VECTOR, 2, 2);
    kumo_virtq_push(queue, 0, 0);
    kumo_virtq_notify(queue);
    g_assert_cmphex(rd(f, 0x48000, 8), ==, 1 << 2);
    kumo_virtio_broken(virtio, "test");
    g_assert_cmphex(rd(f, 0x48000, 8), ==, 1 << 2 | 1 << 3);
    g_assert_cmphex(status(f) & NEEDS_RESET, ==, NEEDS_RESET);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 6, 2) & 8, ==, 0);
    /* The driver can neither clear nor set that bit itself. */
    wr(f, STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
    g_assert_cmphex(status(f) & NEEDS_RESET, ==, NEEDS_RESET);
    wr(f, STATUS, 0, 1);
    wr(f, STATUS, NEEDS_RESET | ACK, 1);
    g_assert_cmphex(status(f), ==, ACK);
}

static void test_config(Fixture *f, gconstpointer unused)
{
    uint8_t generation = (uint8_t)rd(f, GENERATION, 1);

    g_assert_cmphex(rd(f, DEVICE, 4), ==, 0x04030201);
    g_assert_cmphex(rd(f, DEVICE + 3, 8), ==, 0x060504);
    g_assert_cmphex(rd(f, DEVICE + 0xffc, 8), ==, 0);
    wr(f, DEVICE + 1, 5, 1);
    g_assert_cmpuint(f->dev->config_writes, ==, 1);
    f->dev->virtio.notify_config(&f->dev->virtio);
    g_assert_cmpuint((uint8_t)rd(f, GENERATION, 1), ==, (uint8_t)(generation + 1));
    g_assert_cmphex(rd(f, ISR, 1), ==, 0); /* no driver, no interrupt */
    /* Between the register blocks. */
    g_assert_cmphex(rd(f, 0x1000, 8), ==, 0);
    g_assert_cmphex(rd(f, NOTIFY, 4), ==, 0);
    g_assert_cmphex(rd(f, 0x7ff8, 8), ==, 0);
    wr(f, 0x1000, UINT64_MAX, 8);
}

static void window(Fixture *f, unsigned cap, uint8_t bar, uint32_t offset, uint32_t len)
{
    fake_ecam_write(f->fake, SLOT, cap + 4, bar, 1);
    fake_ecam_write(f->fake, SLOT, cap + 8, offset, 4);
    fake_ecam_write(f->fake, SLOT, cap + 12, len, 4);
}

/* The BAR through config space; a guest may point the window anywhere. */
static void test_pci_cfg(Fixture *f, gconstpointer unused)
{
    static const struct {
        uint8_t bar;
        uint32_t offset, len;
    } bad[] = {
        { 0, 0, 0 },    { 0, 0, 3 },    { 0, 0, 8 },       { 0, 0, 0xffffffff },
        { 0, 1, 2 },    { 0, 2, 4 },    { 0, 0x80000, 4 }, { 0, 0xfffffffc, 4 },
        { 1, 0x12, 2 }, { 5, 0x12, 2 }, { 0xff, 0x12, 2 }, { 0, 0x7fffe, 4 },
    };
    unsigned cap = fake_find_cap(f->fake, SLOT, 9, 4);

    window(f, cap, 0, NUM_QUEUES, 2);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, cap + 16, 4), ==, N_QUEUES);
    window(f, cap, 0, STATUS, 1);
    fake_ecam_write(f->fake, SLOT, cap + 16, ACK, 1);
    g_assert_cmphex(status(f), ==, ACK);
    window(f, cap, 0, QUEUE_SELECT, 2);
    fake_ecam_write(f->fake, SLOT, cap + 16, 2, 2);
    g_assert_cmphex(rd(f, QUEUE_SELECT, 2), ==, 2);

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        window(f, cap, bad[i].bar, bad[i].offset, bad[i].len);
        fake_ecam_write(f->fake, SLOT, cap + 16, 0xffffffff, 4);
        g_assert_cmphex(fake_ecam_read(f->fake, SLOT, cap + 16, 4), ==, 0);
    }
    g_assert_cmphex(status(f), ==, ACK);

    /* The whole way up through the window, with memory decoding off. */
    fake_ecam_write(f->fake, SLOT, 4, 0, 2);
    window(f, cap, 0, STATUS, 1);
    fake_ecam_write(f->fake, SLOT, cap + 16, 0, 1);
    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, cap + 16, 1), ==, 0);
}

static void test_pause(Fixture *f, gconstpointer unused)
{
    KumoDevice *device = &f->dev->virtio.device;

    g_assert_true(device->ops->pause(device, NULL)); /* not active: nothing to do */
    device->ops->resume(device);
    g_assert_cmpuint(f->dev->pauses, ==, 0);
    g_assert_cmpuint(f->dev->resumes, ==, 0);
    bring_up(f, 0);
    g_assert_true(device->ops->pause(device, NULL));
    g_assert_true(device->ops->pause(device, NULL));
    device->ops->resume(device);
    device->ops->resume(device);
    g_assert_cmpuint(f->dev->pauses, ==, 1);
    g_assert_cmpuint(f->dev->resumes, ==, 1);
}

/* Random writes all over the registers: the sanitizers and the fake hypervisor judge. */
static void test_noise(Fixture *f, gconstpointer unused)
{
    static const uint32_t blocks[] = { 0, 0, 0, ISR, DEVICE, NOTIFY, TABLE, 0x48000 };

    for (unsigned i = 0; i < 30000; i++) {
        unsigned reg = blocks[g_test_rand_int_range(0, G_N_ELEMENTS(blocks))] +
                       (unsigned)g_test_rand_int_range(0, 0x40);
        unsigned size = 1U << g_test_rand_int_range(0, 4);
        uint64_t value = (uint64_t)g_test_rand_int() << (g_test_rand_bit() ? 0 : 30);

        if (i % 64 == 0)
            bring_up(f, 0);
        if (reg != STATUS || g_test_rand_bit())
            wr(f, reg, value, size);
        rd(f, reg, size);
    }
}

/* --- virtio-rng over the real transport --- */

static void set_up_rng(Fixture *f, gconstpointer source)
{
    GError *error = NULL;

    f->fake = fake_pci_new();
    g_free(f->fake->config->rng.src);
    f->fake->config->rng.src = g_strdup(source ? source : "/dev/urandom");
    f->fake->config->rng.pci.pci_device_id = -1;
    g_assert_true(kumo_device_type_virtio_rng.create(&f->fake->machine, f->fake->config, &error));
    g_assert_no_error(error);
    f->bar = FAKE_MMIO64_BASE;
    negotiate(f, KUMO_VIRTIO_F_VERSION_1);
    set_queue(f, 0, RINGS);
    wr(f, STATUS, ACK | DRIVER | FEATURES_OK | DRIVER_OK, 1);
    g_assert_cmphex(status(f), ==, ACK | DRIVER | FEATURES_OK | DRIVER_OK);
}

static uint8_t *ram(Fixture *f, uint64_t gpa)
{
    return kumo_memory_at(f->fake->machine.memory, gpa, 1);
}

static uint16_t used_idx(Fixture *f)
{
    return __atomic_load_n((uint16_t *)(ram(f, RINGS + 0x3002)), __ATOMIC_ACQUIRE);
}

static void add_chain(Fixture *f, uint64_t gpa, uint32_t len, uint16_t flags)
{
    uint16_t *avail = (uint16_t *)ram(f, RINGS + 0x2000);
    uint16_t slot = avail[1] % 256;
    uint8_t *desc = ram(f, RINGS + 16 * slot);

    memcpy(desc, &gpa, 8);
    memcpy(desc + 8, &len, 4);
    memcpy(desc + 12, &flags, 2);
    avail[2 + slot] = slot;
    __atomic_store_n(&avail[1], (uint16_t)(avail[1] + 1), __ATOMIC_RELEASE);
}

static void wait_used(Fixture *f, uint16_t n)
{
    for (unsigned i = 0; used_idx(f) != n && i < 5000; i++)
        g_usleep(1000);
    g_assert_cmpuint(used_idx(f), ==, n);
}

static void test_rng(Fixture *f, gconstpointer unused)
{
    const uint8_t zero[64] = { 0 };
    uint32_t len;

    g_assert_cmphex(fake_ecam_read(f->fake, SLOT, 0, 4), ==, 0x10441af4);
    g_assert_nonnull(kumo_device_find(&f->fake->machine, "__rng"));
    for (unsigned i = 0; i < 40; i++) /* more than one turn serves */
        add_chain(f, BUFFER + 64 * i, 64, 2);
    wr(f, NOTIFY, 0, 2);
    wait_used(f, 40);
    for (unsigned i = 0; i < 40; i++) {
        memcpy(&len, ram(f, RINGS + 0x3000 + 8 + 8 * i), 4);
        g_assert_cmpuint(len, ==, 64);
        g_assert_cmpint(memcmp(ram(f, BUFFER + 64 * i), zero, 64), !=, 0);
    }
    /* A greedy request gets a part, and nothing is written beyond it. */
    add_chain(f, BUFFER, 0x200000, 2);
    wr(f, NOTIFY, 0, 2);
    wait_used(f, 41);
    memcpy(&len, ram(f, RINGS + 0x3000 + 8 + 8 * 40), 4);
    g_assert_cmpuint(len, >, 0);
    g_assert_cmpuint(len, <=, 65536);
    g_assert_cmpmem(ram(f, BUFFER + 0x100000), 64, zero, 64);
}

static void test_rng_hostile(Fixture *f, gconstpointer unused)
{
    add_chain(f, BUFFER, 64, 0); /* nothing to write to */
    wr(f, NOTIFY, 0, 2);
    for (unsigned i = 0; !(status(f) & NEEDS_RESET) && i < 5000; i++)
        g_usleep(1000);
    g_assert_cmphex(status(f) & NEEDS_RESET, ==, NEEDS_RESET);
    g_assert_cmpuint(used_idx(f), ==, 0);
    wr(f, STATUS, 0, 1);
    g_assert_cmphex(status(f), ==, 0);
}

static void test_rng_pause(Fixture *f, gconstpointer unused)
{
    KumoDevice *rng = kumo_device_find(&f->fake->machine, "__rng");

    g_assert_true(rng->ops->pause(rng, NULL));
    add_chain(f, BUFFER, 64, 2);
    wr(f, NOTIFY, 0, 2);
    g_usleep(20000);
    g_assert_cmpuint(used_idx(f), ==, 0);
    rng->ops->resume(rng);
    wait_used(f, 1);
}

/* A source that runs dry keeps the request until there is something. */
static void test_rng_dry(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-rng-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "fifo", NULL);
    Fixture f = { 0 };
    int fd;

    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    fd = open(path, O_RDWR | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    set_up_rng(&f, path);
    add_chain(&f, BUFFER, 8, 2);
    wr(&f, NOTIFY, 0, 2);
    g_usleep(20000);
    g_assert_cmpuint(used_idx(&f), ==, 0);
    g_assert_true(kumo_write_full(fd, "entropy!", 8));
    wait_used(&f, 1);
    g_assert_cmpmem(ram(&f, BUFFER), 8, "entropy!", 8);
    add_chain(&f, BUFFER, 8, 2); /* dry again at the end: nothing hangs */
    wr(&f, NOTIFY, 0, 2);
    g_usleep(20000);
    tear_down(&f, NULL);
    close(fd);
    g_assert_cmpint(unlink(path), ==, 0);
    g_assert_cmpint(rmdir(dir), ==, 0);
}

static void test_rng_no_source(void)
{
    g_autoptr(GError) error = NULL;
    FakePci *fake = fake_pci_new();

    g_free(fake->config->rng.src);
    fake->config->rng.src = g_strdup("/nonexistent");
    g_assert_false(kumo_device_type_virtio_rng.create(&fake->machine, fake->config, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, "/nonexistent"));
    fake_pci_free(fake);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    kumo_log_level = KUMO_LOG_ERROR;
#define ADD(name) g_test_add("/virtio-pci/" #name, Fixture, NULL, set_up, test_##name, tear_down)
    ADD(identity);
    ADD(features);
    ADD(life);
    ADD(events);
    ADD(queue_registers);
    ADD(bad_activation);
    ADD(fewer_queues);
    ADD(kicks);
    ADD(no_ioeventfd);
    ADD(interrupts);
    ADD(config);
    ADD(pci_cfg);
    ADD(pause);
    ADD(noise);
#define ADD_RNG(name)                                                                              \
    g_test_add("/virtio-rng/" #name, Fixture, NULL, set_up_rng, test_##name, tear_down)
    ADD_RNG(rng);
    ADD_RNG(rng_hostile);
    ADD_RNG(rng_pause);
    g_test_add_func("/virtio-rng/dry", test_rng_dry);
    g_test_add_func("/virtio-rng/no-source", test_rng_no_source);
    return g_test_run();
}
