/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <string.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/devices/virtio/virtio.h"

enum {
    RAM_GPA = 0x100000,
    RAM_SIZE = 0x100000,
    DESC_GPA = RAM_GPA,
    AVAIL_GPA = RAM_GPA + 0x2000,
    USED_GPA = RAM_GPA + 0x3000,
    TABLE_GPA = RAM_GPA + 0x5000,
    BUF_GPA = RAM_GPA + 0x10000,
    SIZE = 8,
    MAX_IOV = SIZE + 2,

    NEXT = 1,
    WRITE = 2,
    INDIRECT = 4,
};

typedef struct {
    KumoMemory *memory;
    KumoVirtq queue;
    struct iovec iov[KUMO_VIRTQ_MAX_INDIRECT + 1];
    KumoVirtqChain chain;
    unsigned interrupts;
} Fixture;

static void on_interrupt(void *opaque, KumoVirtq *queue)
{
    Fixture *f = opaque;

    f->interrupts++;
}

static uint8_t *ram(Fixture *f, uint64_t gpa)
{
    uint8_t *p = kumo_memory_at(f->memory, gpa, 1);

    g_assert_nonnull(p);
    return p;
}

static void put16(Fixture *f, uint64_t gpa, uint16_t value)
{
    value = GUINT16_TO_LE(value);
    memcpy(ram(f, gpa), &value, 2);
}

static uint16_t get16(Fixture *f, uint64_t gpa)
{
    uint16_t value;

    memcpy(&value, ram(f, gpa), 2);
    return GUINT16_FROM_LE(value);
}

static void put_desc(Fixture *f, uint64_t table, unsigned i, uint64_t gpa, uint32_t len,
                     uint16_t flags, uint16_t next)
{
    uint8_t *p = ram(f, table + 16 * i);

    gpa = GUINT64_TO_LE(gpa);
    len = GUINT32_TO_LE(len);
    flags = GUINT16_TO_LE(flags);
    next = GUINT16_TO_LE(next);
    memcpy(p, &gpa, 8);
    memcpy(p + 8, &len, 4);
    memcpy(p + 12, &flags, 2);
    memcpy(p + 14, &next, 2);
}

static void publish(Fixture *f, uint16_t head)
{
    uint16_t idx = get16(f, AVAIL_GPA + 2);

    put16(f, AVAIL_GPA + 4 + 2 * (idx % SIZE), head);
    put16(f, AVAIL_GPA + 2, (uint16_t)(idx + 1));
}

static void start(Fixture *f, uint64_t features)
{
    GError *error = NULL;

    kumo_virtq_reset(&f->queue);
    f->queue.size = SIZE;
    f->queue.desc_gpa = DESC_GPA;
    f->queue.avail_gpa = AVAIL_GPA;
    f->queue.used_gpa = USED_GPA;
    memset(ram(f, RAM_GPA), 0, 0x10000);
    g_assert_true(kumo_virtq_start(&f->queue, f->memory, features, &error));
    g_assert_no_error(error);
}

static void set_up(Fixture *f, gconstpointer unused)
{
    f->memory = kumo_memory_new_for_test(RAM_GPA, RAM_SIZE);
    f->queue.max_size = 256;
    f->queue.kick_fd = -1;
    f->queue.interrupt = on_interrupt;
    f->queue.interrupt_opaque = f;
    f->chain = (KumoVirtqChain){ .iov = f->iov, .max_iov = MAX_IOV };
    start(f, KUMO_VIRTIO_F_RING_INDIRECT_DESC);
}

static void tear_down(Fixture *f, gconstpointer unused)
{
    kumo_memory_free(f->memory);
}

static KumoVirtqResult pop(Fixture *f)
{
    return kumo_virtq_pop(&f->queue, &f->chain);
}

/* After a broken chain the queue must stay broken and silent. */
static void assert_broken(Fixture *f)
{
    uint16_t used = get16(f, USED_GPA + 2);

    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_BROKEN);
    g_assert_true(f->queue.broken);
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_BROKEN);
    g_assert_false(kumo_virtq_has_work(&f->queue));
    kumo_virtq_push(&f->queue, 0, 1);
    kumo_virtq_notify(&f->queue);
    g_assert_cmpuint(get16(f, USED_GPA + 2), ==, used);
    g_assert_cmpuint(f->interrupts, ==, 0);
    start(f, KUMO_VIRTIO_F_RING_INDIRECT_DESC);
}

static void test_chain(Fixture *f, gconstpointer unused)
{
    char text[16] = "";

    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_EMPTY);
    g_assert_false(kumo_virtq_has_work(&f->queue));
    put_desc(f, DESC_GPA, 3, BUF_GPA, 6, NEXT, 5);
    put_desc(f, DESC_GPA, 5, BUF_GPA + 0x1000, 0, NEXT, 6); /* without a byte: left out */
    put_desc(f, DESC_GPA, 6, BUF_GPA + 0x2000, 4, NEXT | WRITE, 7);
    put_desc(f, DESC_GPA, 7, BUF_GPA + 0x3000, 4, WRITE, 0);
    memcpy(ram(f, BUF_GPA), "hello", 6);
    publish(f, 3);

    g_assert_true(kumo_virtq_has_work(&f->queue));
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    g_assert_cmpuint(f->chain.head, ==, 3);
    g_assert_cmpuint(f->chain.n_readable, ==, 1);
    g_assert_cmpuint(f->chain.n_writable, ==, 2);
    g_assert_cmpuint(f->chain.readable_bytes, ==, 6);
    g_assert_cmpuint(f->chain.writable_bytes, ==, 8);
    g_assert_cmpuint(kumo_virtq_chain_read(&f->chain, 1, text, sizeof(text)), ==, 5);
    g_assert_cmpstr(text, ==, "ello");
    g_assert_cmpuint(kumo_virtq_chain_write(&f->queue, &f->chain, 2, "abcdefgh", 8), ==, 6);
    g_assert_cmpmem(ram(f, BUF_GPA + 0x2002), 2, "ab", 2);
    g_assert_cmpmem(ram(f, BUF_GPA + 0x3000), 4, "cdef", 4);

    kumo_virtq_unpop(&f->queue);
    g_assert_true(kumo_virtq_has_work(&f->queue));
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_EMPTY);
    kumo_virtq_push(&f->queue, f->chain.head, 8);
    g_assert_cmpuint(get16(f, USED_GPA + 2), ==, 1);
    g_assert_cmpuint(*ram(f, USED_GPA + 4), ==, 3);
    g_assert_cmpuint(*ram(f, USED_GPA + 8), ==, 8);
    kumo_virtq_notify(&f->queue);
    g_assert_cmpuint(f->interrupts, ==, 1);
    kumo_virtq_notify(&f->queue); /* nothing new */
    g_assert_cmpuint(f->interrupts, ==, 1);
    put16(f, AVAIL_GPA, 1); /* no interrupts */
    kumo_virtq_push(&f->queue, 3, 0);
    kumo_virtq_notify(&f->queue);
    g_assert_cmpuint(f->interrupts, ==, 1);
}

static void test_wrap(Fixture *f, gconstpointer unused)
{
    for (unsigned i = 0; i < 70000; i++) {
        uint16_t head = (uint16_t)(i % SIZE);

        put_desc(f, DESC_GPA, head, BUF_GPA, 1, 0, 0);
        publish(f, head);
        g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
        g_assert_cmpuint(f->chain.head, ==, head);
        kumo_virtq_push(&f->queue, head, 0);
        g_assert_cmpuint(get16(f, USED_GPA + 2), ==, (uint16_t)(i + 1));
    }
    kumo_virtq_notify(&f->queue);
    g_assert_cmpuint(f->interrupts, ==, 1);
    /* A whole turn of the index since the last interrupt must not look like nothing. */
    for (unsigned i = 0; i < 65536; i++)
        kumo_virtq_push(&f->queue, 0, 0);
    kumo_virtq_notify(&f->queue);
    g_assert_cmpuint(f->interrupts, ==, 2);
}

static void test_push_many(Fixture *f, gconstpointer unused)
{
    const uint16_t heads[] = { 4, 2, 7 };
    const uint32_t written[] = { 10, 20, 30 };

    f->queue.last_used = 6; /* the three wrap around the ring's end */
    kumo_virtq_push_many(&f->queue, heads, written, 3);
    g_assert_cmpuint(get16(f, USED_GPA + 2), ==, 9);
    g_assert_cmpuint(*ram(f, USED_GPA + 4 + 8 * 6), ==, 4);
    g_assert_cmpuint(*ram(f, USED_GPA + 4 + 8 * 7), ==, 2);
    g_assert_cmpuint(*ram(f, USED_GPA + 4), ==, 7);
    g_assert_cmpuint(*ram(f, USED_GPA + 8), ==, 30);
    kumo_virtq_push_many(&f->queue, heads, written, 0);
    g_assert_cmpuint(get16(f, USED_GPA + 2), ==, 9);
}

static void test_indirect(Fixture *f, gconstpointer unused)
{
    put_desc(f, TABLE_GPA + 1, 0, BUF_GPA, 16, NEXT, 2); /* unaligned on purpose */
    put_desc(f, TABLE_GPA + 1, 2, BUF_GPA + 64, 32, WRITE, 0);
    put_desc(f, DESC_GPA, 0, BUF_GPA + 128, 1, NEXT, 1);
    put_desc(f, DESC_GPA, 1, TABLE_GPA + 1, 48, INDIRECT, 0);
    publish(f, 0);
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    g_assert_cmpuint(f->chain.n_readable, ==, 2);
    g_assert_cmpuint(f->chain.n_writable, ==, 1);
    g_assert_cmpuint(f->chain.readable_bytes, ==, 17);

    /* As long as the queue is the most. */
    for (unsigned i = 0; i < SIZE; i++)
        put_desc(f, TABLE_GPA, i, BUF_GPA, 1, i + 1 < SIZE ? NEXT : 0, (uint16_t)(i + 1));
    put_desc(f, DESC_GPA, 0, TABLE_GPA, SIZE * 16, INDIRECT, 0);
    publish(f, 0);
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    g_assert_cmpuint(f->chain.n_readable, ==, SIZE);
}

/* Drivers use tables longer than a small queue; there is a bound all the same. */
static void test_long_indirect(Fixture *f, gconstpointer unused)
{
    static const unsigned lengths[] = { SIZE, SIZE + 1, 19, KUMO_VIRTQ_MAX_INDIRECT };
    uint64_t table = BUF_GPA + 0x1000;

    f->chain.max_iov = G_N_ELEMENTS(f->iov);
    for (size_t l = 0; l < G_N_ELEMENTS(lengths); l++) {
        unsigned n = lengths[l];

        for (unsigned i = 0; i < n; i++)
            put_desc(f, table, i, BUF_GPA + i, 1, i + 1 < n ? NEXT : 0, (uint16_t)(i + 1));
        put_desc(f, DESC_GPA, 0, table, n * 16, INDIRECT, 0);
        publish(f, 0);
        g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
        g_assert_cmpuint(f->chain.n_readable, ==, n);
    }
    /* One of the ring before the table. */
    put_desc(f, DESC_GPA, 1, BUF_GPA, 1, NEXT, 0);
    publish(f, 1);
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    g_assert_cmpuint(f->chain.n_readable, ==, KUMO_VIRTQ_MAX_INDIRECT + 1);

    /* A loop, and a table that is too long. */
    put_desc(f, table, 5, BUF_GPA, 0, NEXT, 2);
    publish(f, 0);
    assert_broken(f);
    for (unsigned i = 0; i <= KUMO_VIRTQ_MAX_INDIRECT; i++)
        put_desc(f, table, i, BUF_GPA, 1, i < KUMO_VIRTQ_MAX_INDIRECT ? NEXT : 0,
                 (uint16_t)(i + 1));
    put_desc(f, DESC_GPA, 0, table, (KUMO_VIRTQ_MAX_INDIRECT + 1) * 16, INDIRECT, 0);
    publish(f, 0);
    assert_broken(f);
}

static void test_hostile(Fixture *f, gconstpointer unused)
{
    static const struct {
        const char *what;
        uint64_t gpa;
        uint32_t len;
        uint16_t flags, next;
    } heads[] = {
        { "loop onto itself", BUF_GPA, 1, NEXT, 0 },
        { "next beyond the table", BUF_GPA, 1, NEXT, SIZE },
        { "next far beyond", BUF_GPA, 1, NEXT, 0xffff },
        { "below memory", RAM_GPA - 1, 2, 0, 0 },
        { "beyond memory", RAM_GPA + RAM_SIZE - 1, 2, 0, 0 },
        { "wrapping", UINT64_MAX, 2, 0, 0 },
        { "wrapping onto memory", UINT64_MAX - 0xfff, 0x80000000, 0, 0 },
        { "all of the address space", RAM_GPA, UINT32_MAX, WRITE, 0 },
        { "indirect and next", TABLE_GPA, 32, INDIRECT | NEXT, 1 },
        { "indirect without a byte", TABLE_GPA, 0, INDIRECT, 0 },
        { "indirect of odd length", TABLE_GPA, 17, INDIRECT, 0 },
        { "indirect outside memory", RAM_GPA + RAM_SIZE - 16, 32, INDIRECT, 0 },
        { "indirect too long", TABLE_GPA, 0xfffffff0, INDIRECT, 0 },
        { "indirect wrapping", UINT64_MAX - 15, 32, INDIRECT, 0 },
        { "indirect in indirect", TABLE_GPA + 0x100, 16, INDIRECT, 0 },
        { "loop in the indirect table", TABLE_GPA + 0x200, 16, INDIRECT, 0 },
        { "next beyond the indirect table", TABLE_GPA + 0x300, 16, INDIRECT, 0 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(heads); i++) {
        g_test_message("%s", heads[i].what);
        put_desc(f, DESC_GPA, 0, heads[i].gpa, heads[i].len, heads[i].flags, heads[i].next);
        put_desc(f, TABLE_GPA + 0x100, 0, TABLE_GPA, 16, INDIRECT, 0);
        put_desc(f, TABLE_GPA + 0x200, 0, BUF_GPA, 1, NEXT, 0);
        put_desc(f, TABLE_GPA + 0x300, 0, BUF_GPA, 1, NEXT, 1);
        publish(f, 0);
        assert_broken(f);
    }

    /* Readable after writable. */
    put_desc(f, DESC_GPA, 0, BUF_GPA, 1, NEXT | WRITE, 1);
    put_desc(f, DESC_GPA, 1, BUF_GPA, 1, 0, 0);
    publish(f, 0);
    assert_broken(f);

    /* A long loop. */
    for (unsigned i = 0; i < SIZE; i++)
        put_desc(f, DESC_GPA, i, BUF_GPA, 0, NEXT, (uint16_t)((i + 1) % SIZE));
    publish(f, 0);
    assert_broken(f);

    publish(f, SIZE);
    assert_broken(f);
    put16(f, AVAIL_GPA + 2, SIZE + 1);
    assert_broken(f);
    put16(f, AVAIL_GPA + 2, 0xffff);
    assert_broken(f);

    /* More buffers than the device has room for. */
    f->chain.max_iov = 2;
    for (unsigned i = 0; i < 3; i++)
        put_desc(f, DESC_GPA, i, BUF_GPA, 1, i < 2 ? NEXT : 0, (uint16_t)(i + 1));
    publish(f, 0);
    assert_broken(f);
}

static void test_indirect_not_negotiated(Fixture *f, gconstpointer unused)
{
    start(f, 0);
    put_desc(f, TABLE_GPA, 0, BUF_GPA, 1, 0, 0);
    put_desc(f, DESC_GPA, 0, TABLE_GPA, 16, INDIRECT, 0);
    publish(f, 0);
    assert_broken(f);
}

static void test_start(Fixture *f, gconstpointer unused)
{
    static const struct {
        uint16_t size;
        uint64_t desc, avail, used;
    } bad[] = {
        { 0, DESC_GPA, AVAIL_GPA, USED_GPA },
        { 3, DESC_GPA, AVAIL_GPA, USED_GPA },
        { 512, DESC_GPA, AVAIL_GPA, USED_GPA },
        { 8, DESC_GPA + 8, AVAIL_GPA, USED_GPA },
        { 8, DESC_GPA, AVAIL_GPA + 1, USED_GPA },
        { 8, DESC_GPA, AVAIL_GPA, USED_GPA + 2 },
        { 8, 0, AVAIL_GPA, USED_GPA },
        { 8, RAM_GPA + RAM_SIZE - 112, AVAIL_GPA, USED_GPA },
        { 8, DESC_GPA, RAM_GPA + RAM_SIZE - 20, USED_GPA },
        { 8, DESC_GPA, AVAIL_GPA, RAM_GPA + RAM_SIZE - 68 },
        { 8, UINT64_MAX - 15, AVAIL_GPA, USED_GPA },
        { 8, DESC_GPA, UINT64_MAX - 1, USED_GPA },
        { 8, DESC_GPA, AVAIL_GPA, UINT64_MAX - 3 },
    };

    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        kumo_virtq_reset(&f->queue);
        f->queue.size = bad[i].size;
        f->queue.desc_gpa = bad[i].desc;
        f->queue.avail_gpa = bad[i].avail;
        f->queue.used_gpa = bad[i].used;
        g_assert_false(kumo_virtq_start(&f->queue, f->memory, 0, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    }
}

static void test_event_idx(Fixture *f, gconstpointer unused)
{
    const uint64_t avail_event = USED_GPA + 4 + 8 * SIZE;
    const uint64_t used_event = AVAIL_GPA + 4 + 2 * SIZE;

    start(f, KUMO_VIRTIO_F_RING_EVENT_IDX);
    for (unsigned i = 0; i < 4; i++) {
        put_desc(f, DESC_GPA, i, BUF_GPA, 1, 0, 0);
        publish(f, (uint16_t)i);
        g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    }
    /* An empty queue asks for the very next kick. */
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_EMPTY);
    g_assert_cmpuint(get16(f, avail_event), ==, 4);

    kumo_virtq_disable_kicks(&f->queue);
    publish(f, 0);
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_EMPTY);
    g_assert_cmpuint(get16(f, avail_event), ==, 4);
    publish(f, 1);
    g_assert_true(kumo_virtq_enable_kicks(&f->queue)); /* it came meanwhile */
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    g_assert_false(kumo_virtq_enable_kicks(&f->queue));
    g_assert_cmpuint(get16(f, avail_event), ==, 6);

    /* The driver wants to hear of the third. */
    put16(f, used_event, 2);
    for (unsigned i = 0; i < 2; i++) {
        kumo_virtq_push(&f->queue, (uint16_t)i, 0);
        kumo_virtq_notify(&f->queue);
        g_assert_cmpuint(f->interrupts, ==, 0);
    }
    kumo_virtq_push(&f->queue, 2, 0);
    kumo_virtq_push(&f->queue, 3, 0);
    kumo_virtq_notify(&f->queue);
    g_assert_cmpuint(f->interrupts, ==, 1);
    kumo_virtq_push(&f->queue, 4, 0);
    kumo_virtq_notify(&f->queue);
    g_assert_cmpuint(f->interrupts, ==, 1);
}

static void test_kick_flag(Fixture *f, gconstpointer unused)
{
    kumo_virtq_disable_kicks(&f->queue);
    g_assert_cmpuint(get16(f, USED_GPA), ==, 1);
    publish(f, 0);
    g_assert_true(kumo_virtq_enable_kicks(&f->queue));
    g_assert_cmpuint(get16(f, USED_GPA), ==, 0);
}

/* A buffer that spans two regions becomes two parts; a hole between regions breaks the chain. */
static void test_regions(Fixture *f, gconstpointer unused)
{
    KumoMemory *second = kumo_memory_new_for_test(RAM_GPA + RAM_SIZE, 0x10000);
    KumoMemRegion regions[2] = { f->memory->regions[0], second->regions[0] };
    KumoMemory both = { .regions = regions, .n_regions = 2 };

    f->queue.memory = &both;
    put_desc(f, DESC_GPA, 0, RAM_GPA + RAM_SIZE - 8, 24, WRITE, 0);
    publish(f, 0);
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_CHAIN);
    g_assert_cmpuint(f->chain.n_writable, ==, 2);
    g_assert_cmpuint(f->iov[0].iov_len, ==, 8);
    g_assert_cmpuint(f->iov[1].iov_len, ==, 16);
    g_assert_true(f->iov[1].iov_base == second->regions[0].hva);
    kumo_virtq_unpop(&f->queue);
    regions[1].gpa += 0x1000;
    g_assert_cmpint(pop(f), ==, KUMO_VIRTQ_BROKEN);
    kumo_memory_free(second);
}

static void test_config_copy(void)
{
    const uint8_t config[4] = { 1, 2, 3, 4 };
    uint8_t data[8];

    memset(data, 0xee, sizeof(data));
    kumo_virtio_config_copy(config, 4, 2, data, 4);
    g_assert_cmpmem(data, 5, ((uint8_t[]){ 3, 4, 0, 0, 0xee }), 5);
    kumo_virtio_config_copy(config, 4, UINT64_MAX, data, 8);
    g_assert_cmpmem(data, 8, ((uint8_t[8]){ 0 }), 8);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    kumo_log_level = KUMO_LOG_ERROR;
#define ADD(name) g_test_add("/virtqueue/" #name, Fixture, NULL, set_up, test_##name, tear_down)
    ADD(chain);
    ADD(wrap);
    ADD(push_many);
    ADD(indirect);
    ADD(long_indirect);
    ADD(hostile);
    ADD(indirect_not_negotiated);
    ADD(start);
    ADD(event_idx);
    ADD(kick_flag);
    ADD(regions);
    g_test_add_func("/virtio/config-copy", test_config_copy);
    return g_test_run();
}
