/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What it takes from an access to a device's register until the guest goes on. */
#include "tests/guest/bench.h"
#include "tests/guest/pci.h"

enum {
    BATCH = 256, /* accesses between looks at the clock, which software KVM emulates */
    COM1_SCRATCH = 0x3ff,
    PM_TIMER = 0x608,
};

static Virtio device;
static Queue queue;

static void read_mmio(uint64_t gpa)
{
    read32(gpa);
}

static void write_mmio(uint64_t gpa)
{
    write16(gpa, 0);
}

static void read_port(uint64_t port)
{
    inb((uint16_t)port);
}

static void write_port(uint64_t port)
{
    outb((uint16_t)port, 0);
}

static void measure(const char *name, void (*access)(uint64_t), uint64_t where)
{
    uint64_t begin = rdtsc(), now, n = 0;

    do {
        for (unsigned i = 0; i < BATCH; i++)
            access(where);
        n += BATCH;
        now = rdtsc();
    } while (now - begin < bench_ticks());
    report(name, n, now - begin);
}

void bench_exits(void)
{
    if (!bench_find(VIRTIO_RNG, 0, &device) ||
        !ok(virtio_begin(&device, 0) && virtio_queue(&device, 0, NO_VECTOR, &queue),
            "a random number generator to ask"))
        return;
    virtio_ready(&device);
    measure("mmio-read", read_mmio, device.common + COMMON_DEVICE_FEATURE);
    measure("mmio-write", write_mmio, device.common + COMMON_QUEUE_SELECT);
    measure("config-read", read_mmio, pci_config(device.slot, PCI_VENDOR));
    measure("kick", write_mmio, queue.notify);
    measure("pio-read", read_port, COM1_SCRATCH);
    measure("pio-write", write_port, COM1_SCRATCH);
    measure("timer-read", read_port, PM_TIMER);
}
