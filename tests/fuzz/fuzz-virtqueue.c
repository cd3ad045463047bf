/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A driver that puts anything into its rings. An input is a feature byte and a series of steps: an
 * operation byte, and what that operation takes (see step()). Addresses are mostly near memory, so
 * that chains get far.
 */
#include <string.h>

#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    RAM_GPA = 0x10000,
    RAM_SIZE = 0x10000,
    AVAIL = 0x1000, /* from the start of RAM, as is the next */
    USED = 0x2000,
    RINGS_END = 0x3000,
    QUEUE_SIZE = 16,
    MAX_IOV = QUEUE_SIZE + 2,
};

typedef struct {
    const uint8_t *data;
    size_t left;
    KumoMemory *memory;
    uint8_t *ram;
    KumoVirtq queue;
    uint16_t held[QUEUE_SIZE]; /* popped, not yet returned */
    unsigned n_held;
} Fuzz;

static uint8_t take8(Fuzz *fuzz)
{
    if (!fuzz->left)
        return 0;
    fuzz->left--;
    return *fuzz->data++;
}

static uint16_t take16(Fuzz *fuzz)
{
    uint8_t low = take8(fuzz);

    return (uint16_t)(low | take8(fuzz) << 8);
}

static void start(Fuzz *fuzz, uint8_t features)
{
    kumo_virtq_reset(&fuzz->queue);
    fuzz->n_held = 0;
    fuzz->queue.size = QUEUE_SIZE >> (features & 3);
    fuzz->queue.desc_gpa = RAM_GPA;
    fuzz->queue.avail_gpa = RAM_GPA + AVAIL;
    fuzz->queue.used_gpa = RAM_GPA + USED;
    g_assert_true(
        kumo_virtq_start(&fuzz->queue, fuzz->memory, (uint64_t)(features >> 4) << 28, NULL));
}

static void put_desc(Fuzz *fuzz)
{
    uint8_t where = take8(fuzz);
    uint64_t gpa = (uint64_t)RAM_GPA - 0x1000 + ((uint64_t)take8(fuzz) << 9);
    uint32_t len = take16(fuzz);
    uint8_t flags = take8(fuzz);
    uint16_t next = take8(fuzz);
    uint8_t *desc = fuzz->ram + (where & 0x80 ? RINGS_END : 0) + (where & 0x7f) * 16;

    if (flags & 0x80)
        gpa |= 0xfffffffffff00000;
    if (flags & 0x40)
        len <<= 16;
    memcpy(desc, &gpa, 8);
    memcpy(desc + 8, &len, 4);
    desc[12] = flags & 7;
    desc[13] = 0;
    memcpy(desc + 14, &next, 2);
}

static void publish(Fuzz *fuzz)
{
    uint16_t idx, head = take8(fuzz) % (QUEUE_SIZE + 1);

    memcpy(&idx, fuzz->ram + AVAIL + 2, 2);
    memcpy(fuzz->ram + AVAIL + 4 + 2 * (idx % fuzz->queue.size), &head, 2);
    idx++;
    memcpy(fuzz->ram + AVAIL + 2, &idx, 2);
}

static void pop(Fuzz *fuzz)
{
    struct iovec iov[MAX_IOV];
    KumoVirtqChain chain = { .iov = iov, .max_iov = MAX_IOV };
    uint64_t bytes = 0;
    uint8_t buf[64];

    if (fuzz->n_held == QUEUE_SIZE || kumo_virtq_pop(&fuzz->queue, &chain) != KUMO_VIRTQ_CHAIN)
        return;
    g_assert_cmpuint(chain.head, <, fuzz->queue.size);
    g_assert_cmpuint(chain.n_readable + chain.n_writable, <=, MAX_IOV);
    for (unsigned i = 0; i < chain.n_readable + chain.n_writable; i++) {
        const uint8_t *base = iov[i].iov_base;

        g_assert_true(base >= fuzz->ram && iov[i].iov_len <= RAM_SIZE &&
                      base + iov[i].iov_len <= fuzz->ram + RAM_SIZE);
        bytes += iov[i].iov_len;
    }
    g_assert_cmpuint(bytes, ==, chain.readable_bytes + chain.writable_bytes);
    kumo_virtq_chain_read(&chain, take8(fuzz), buf, sizeof(buf));
    memset(buf, 0, sizeof(buf));
    /* May well hit the rings: that is the guest's own fault. */
    kumo_virtq_chain_write(&fuzz->queue, &chain, take8(fuzz), buf, take8(fuzz) % sizeof(buf));
    fuzz->held[fuzz->n_held++] = chain.head;
}

static void step(Fuzz *fuzz)
{
    const uint32_t written[QUEUE_SIZE] = { 1, 2, 3 };

    switch (take8(fuzz) % 11) {
    case 0:
    case 1:
        put_desc(fuzz);
        break;
    case 2:
    case 3:
        publish(fuzz);
        break;
    case 4:
    case 5:
        pop(fuzz);
        break;
    case 6:
        kumo_virtq_push_many(&fuzz->queue, fuzz->held, written, fuzz->n_held);
        fuzz->n_held = 0;
        kumo_virtq_notify(&fuzz->queue);
        break;
    case 7:
        kumo_virtq_disable_kicks(&fuzz->queue);
        break;
    case 8:
        if (kumo_virtq_enable_kicks(&fuzz->queue))
            g_assert_true(kumo_virtq_has_work(&fuzz->queue));
        break;
    case 9: {
        uint16_t at = take16(fuzz) % RINGS_END;

        fuzz->ram[at] = take8(fuzz);
        break;
    }
    default:
        start(fuzz, take8(fuzz));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Fuzz fuzz = { .data = data, .left = size };

    kumo_log_level = KUMO_LOG_ERROR;
    fuzz.memory = kumo_memory_new_for_test(RAM_GPA, RAM_SIZE);
    fuzz.ram = kumo_memory_at(fuzz.memory, RAM_GPA, RAM_SIZE);
    fuzz.queue.max_size = QUEUE_SIZE;
    fuzz.queue.kick_fd = -1;
    start(&fuzz, take8(&fuzz));
    while (fuzz.left)
        step(&fuzz);
    kumo_memory_free(fuzz.memory);
    return 0;
}
