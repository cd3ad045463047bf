/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Memory that comes when it is touched, by everybody who may touch it. */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fakes/fake_hv.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/memory.h"
#include "vmm-core/core/userfault.h"
#include "vmm-core/migration/memory_demand.h"
#include "vmm-core/core/memory_file.h"

enum { PAGE = 4096, PAGES = 512, BYTES = PAGES * PAGE };

#define BASE 0x100000ULL

/* What the pages are: page n is full of n + 1, but each eighth is zeros. */
typedef struct {
    KumoMemory *memory;
    FakeHvVm *vm;
    KumoUserfaultOps ops;
    GMutex lock;
    GCond changed;
    unsigned n_fetches, n_finished, n_failed, n_released;
    char *message;
    uint64_t asked_gpa;
    bool fail, later;
} Fixture;

static uint8_t content(uint64_t page)
{
    return page % 8 == 7 ? 0 : (uint8_t)(page % 250 + 1);
}

static KumoFetch fetch(void *opaque, uint64_t gpa, void *buf, size_t len, GError **error)
{
    Fixture *f = opaque;
    bool any = false;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&f->lock);

    f->n_fetches++;
    f->asked_gpa = gpa;
    g_cond_broadcast(&f->changed);
    if (f->fail) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_IO, "the page is lost");
        return KUMO_FETCH_FAILED;
    }
    if (f->later)
        return KUMO_FETCH_LATER;
    for (size_t i = 0; i < len / PAGE; i++) {
        memset((char *)buf + i * PAGE, content((gpa - BASE) / PAGE + i), PAGE);
        any |= content((gpa - BASE) / PAGE + i) != 0;
    }
    return any ? KUMO_FETCH_DATA : KUMO_FETCH_ZEROS;
}

static void finished(void *opaque)
{
    Fixture *f = opaque;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&f->lock);

    f->n_finished++;
}

static void failed(void *opaque, const GError *error)
{
    Fixture *f = opaque;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&f->lock);

    f->n_failed++;
    f->message = g_strdup(error->message);
    g_cond_broadcast(&f->changed);
}

static void release(void *opaque)
{
    ((Fixture *)opaque)->n_released++;
}

static void set_up(Fixture *f, gconstpointer shared)
{
    KumoMemoryConfig config = { .size_bytes = BYTES, .shared = shared != NULL };
    const KumoMemRange range = { BASE, BYTES };
    g_autoptr(GError) error = NULL;

    f->vm = fake_hv_vm_new();
    f->memory = kumo_memory_new(&config, &range, 1, 0, &f->vm->base, &error);
    g_assert_no_error(error);
    f->ops = (KumoUserfaultOps){
        .fetch = fetch, .finished = finished, .failed = failed, .release = release
    };
    g_mutex_init(&f->lock);
    g_cond_init(&f->changed);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    bool started = f->memory && f->memory->userfault;

    kumo_memory_free(f->memory);
    if (started)
        g_assert_cmpuint(f->n_released, ==, 1);
    f->vm->base.ops->destroy(&f->vm->base);
    g_free(f->message);
    g_mutex_clear(&f->lock);
    g_cond_clear(&f->changed);
}

/* Returns: (nullable): started; NULL where the host does not let us, and the test is skipped. */
static KumoUserfault *begin(Fixture *f, bool start)
{
    g_autoptr(GError) error = NULL;
    KumoUserfault *engine =
        kumo_userfault_new(f->memory->backings, f->memory->n_backings, &f->ops, f, &error);

    if (g_error_matches(error, KUMO_ERROR, KUMO_ERROR_DENIED) ||
        g_error_matches(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED)) {
        g_test_skip(error->message);
        return NULL;
    }
    g_assert_no_error(error);
    if (start) {
        kumo_memory_come_on_demand(f->memory, engine, &error);
        g_assert_no_error(error);
    }
    return engine;
}

static uint8_t *page_at(Fixture *f, uint64_t page)
{
    return f->memory->regions[0].hva + page * PAGE;
}

static void check_page(Fixture *f, uint64_t page, uint8_t wanted)
{
    const uint8_t *at = page_at(f, page);

    g_assert_cmpuint(at[0], ==, wanted);
    g_assert_cmpuint(at[PAGE - 1], ==, wanted);
}

/* Nobody but those who touch pages makes them come. */
static void test_touch(Fixture *f, gconstpointer data)
{
    KumoUserfault *engine = begin(f, true);
    g_autoptr(GError) error = NULL;
    int null_fd, pipe_fds[2];
    char buf[PAGE];

    if (!engine)
        return;
    g_assert_cmpuint(kumo_userfault_missing_bytes(engine), ==, BYTES);
    g_assert_true(kumo_memory_is_incomplete(f->memory));
    check_page(f, 3, content(3));
    check_page(f, 7, 0);
    g_assert_cmpuint(kumo_userfault_missing_bytes(engine), ==, BYTES - 2 * PAGE);
    /* By writing a part of it. */
    page_at(f, 20)[100] = 200;
    g_assert_cmpuint(page_at(f, 20)[99], ==, content(20));
    /* By the kernel, out of it and into it. */
    g_assert_cmpint(pipe(pipe_fds), ==, 0);
    g_assert_cmpint(write(pipe_fds[1], page_at(f, 30), PAGE), ==, PAGE);
    g_assert_cmpint(read(pipe_fds[0], buf, PAGE), ==, PAGE);
    g_assert_cmpuint((uint8_t)buf[5], ==, content(30));
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    null_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    g_assert_cmpint(read(null_fd, page_at(f, 40), 10), ==, 10);
    close(null_fd);
    g_assert_cmpuint(page_at(f, 40)[9], ==, 0);
    g_assert_cmpuint(page_at(f, 40)[10], ==, content(40));
    g_assert_false(kumo_userfault_wait(engine, 0, &error));
    g_assert_no_error(error);
    for (unsigned i = 0; i < PAGES; i++)
        if (i != 20 && i != 40)
            check_page(f, i, content(i));
    g_assert_true(kumo_userfault_wait(engine, 5000, &error));
    g_assert_false(kumo_memory_is_incomplete(f->memory));
    g_assert_cmpuint(f->n_finished, ==, 1);
    g_assert_cmpuint(f->n_fetches, ==, PAGES);
}

static void test_window(Fixture *f, gconstpointer data)
{
    KumoUserfault *engine;

    f->ops.window_bytes = 16 * PAGE;
    engine = begin(f, true);
    if (!engine)
        return;
    check_page(f, 20, content(20));
    g_assert_cmpuint(kumo_userfault_missing_bytes(engine), ==, BYTES - 16 * PAGE);
    for (unsigned i = 16; i < 32; i++)
        check_page(f, i, content(i));
    g_assert_cmpuint(f->n_fetches, ==, 1);
}

static void test_background(Fixture *f, gconstpointer data)
{
    KumoUserfault *engine;
    g_autoptr(GError) error = NULL;

    f->ops.background_bytes = 3 * PAGE;
    engine = begin(f, true);
    if (!engine)
        return;
    g_assert_true(kumo_userfault_wait(engine, 10000, &error));
    g_assert_cmpuint(kumo_userfault_missing_bytes(engine), ==, 0);
    for (unsigned i = 0; i < PAGES; i++)
        check_page(f, i, content(i));
    g_assert_cmpuint(f->n_failed, ==, 0);
    /* As any other memory. */
    g_assert_cmpint(kumo_memory_discard(f->memory, BASE + 9 * PAGE, PAGE), ==, 0);
    check_page(f, 9, 0);
}

/* What was discarded is zeros, whether it had come or not, and stays so when the rest comes. */
static void test_discard(Fixture *f, gconstpointer data)
{
    KumoUserfault *engine = begin(f, true);
    uint8_t page[PAGE];

    if (!engine)
        return;
    check_page(f, 3, content(3));
    g_assert_cmpint(kumo_memory_discard(f->memory, BASE + 3 * PAGE, 2 * PAGE), ==, 0);
    g_assert_cmpuint(kumo_userfault_missing_bytes(engine), ==, BYTES - 2 * PAGE);
    check_page(f, 3, 0);
    memset(page, 0x77, sizeof(page));
    g_assert_true(kumo_userfault_place(engine, BASE + 4 * PAGE, page, PAGE, NULL));
    check_page(f, 4, 0);
    check_page(f, 5, content(5));
    g_assert_cmpuint(f->n_fetches, ==, 2);
}

typedef struct {
    Fixture *f;
    uint64_t page;
    uint8_t seen;
} Toucher;

static void *touch(void *opaque)
{
    Toucher *toucher = opaque;

    toucher->seen = page_at(toucher->f, toucher->page)[17];
    return NULL;
}

static void wait_for_fetches(Fixture *f, unsigned n)
{
    gint64 until = g_get_monotonic_time() + 10 * G_TIME_SPAN_SECOND;

    g_mutex_lock(&f->lock);
    while (f->n_fetches < n)
        g_assert_true(g_cond_wait_until(&f->changed, &f->lock, until));
    g_mutex_unlock(&f->lock);
}

/* Pages that are asked for, once, and arrive from elsewhere. */
static void test_later(Fixture *f, gconstpointer data)
{
    KumoUserfault *engine;
    uint8_t *pages = g_malloc(4 * PAGE);
    Toucher touchers[3] = { { f, 8, 0 }, { f, 8, 0 }, { f, 10, 9 } };
    GThread *threads[3];
    g_autoptr(GError) error = NULL;

    f->later = true;
    engine = begin(f, true);
    if (!engine) {
        g_free(pages);
        return;
    }
    for (unsigned i = 0; i < 3; i++)
        threads[i] = g_thread_new("toucher", touch, &touchers[i]);
    wait_for_fetches(f, 2);
    memset(pages, 0x42, 4 * PAGE);
    g_assert_true(kumo_userfault_place(engine, BASE + 8 * PAGE, pages, 2 * PAGE, &error));
    g_assert_true(kumo_userfault_place(engine, BASE + 10 * PAGE, NULL, PAGE, &error));
    for (unsigned i = 0; i < 3; i++)
        g_thread_join(threads[i]);
    g_assert_cmpuint(touchers[0].seen, ==, 0x42);
    g_assert_cmpuint(touchers[1].seen, ==, 0x42);
    g_assert_cmpuint(touchers[2].seen, ==, 0);
    g_assert_cmpuint(f->n_fetches, ==, 2);
    /* What has come is not overwritten, and what is no memory is refused. */
    page_at(f, 8)[0] = 1;
    memset(pages, 0x43, 4 * PAGE);
    g_assert_true(kumo_userfault_place(engine, BASE + 7 * PAGE, pages, 4 * PAGE, &error));
    g_assert_cmpuint(page_at(f, 8)[0], ==, 1);
    check_page(f, 7, 0x43);
    check_page(f, 10, 0);
    g_assert_false(kumo_userfault_place(engine, BASE - PAGE, pages, PAGE, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_clear_error(&error);
    g_assert_false(kumo_userfault_place(engine, BASE + BYTES - PAGE, pages, 2 * PAGE, &error));
    g_clear_error(&error);
    g_assert_false(kumo_userfault_place(engine, BASE + 1, pages, PAGE, &error));
    g_clear_error(&error);
    /* The rest. */
    for (unsigned i = 0; i < PAGES; i += 4)
        g_assert_true(kumo_userfault_place(engine, BASE + i * PAGE, pages, 4 * PAGE, &error));
    g_assert_true(kumo_userfault_wait(engine, 5000, &error));
    check_page(f, 400, 0x43);
    g_assert_cmpuint(page_at(f, 8)[0], ==, 1);
    g_free(pages);
}

static void test_set_missing(Fixture *f, gconstpointer data)
{
    KumoUserfault *engine;

    memset(page_at(f, 0), 0x99, 4 * PAGE);
    engine = begin(f, false);
    if (!engine)
        return;
    g_assert_cmpint(kumo_userfault_set_missing(engine, BASE, BYTES, false), ==, 0);
    g_assert_cmpint(kumo_userfault_set_missing(engine, BASE + PAGE, 2 * PAGE, true), ==, 0);
    g_assert_cmpuint(kumo_userfault_missing_bytes(engine), ==, 2 * PAGE);
    g_assert_true(kumo_memory_come_on_demand(f->memory, engine, NULL));
    check_page(f, 0, 0x99);
    check_page(f, 9, 0);
    g_assert_cmpuint(f->n_fetches, ==, 0);
    check_page(f, 1, content(1));
    check_page(f, 2, content(2));
    check_page(f, 3, 0x99);
    g_assert_true(kumo_userfault_wait(engine, 5000, NULL));
}

static void test_failure(Fixture *f, gconstpointer data)
{
    KumoUserfault *engine;
    g_autoptr(GError) error = NULL;

    f->fail = true;
    f->ops.background_bytes = PAGE;
    engine = begin(f, true);
    if (!engine)
        return;
    g_assert_false(kumo_userfault_wait(engine, 5000, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_IO);
    g_mutex_lock(&f->lock);
    while (!f->n_failed)
        g_cond_wait(&f->changed, &f->lock);
    g_mutex_unlock(&f->lock);
    kumo_userfault_fail(engine, error);
    g_assert_cmpuint(f->n_failed, ==, 1);
    g_assert_cmpstr(f->message, ==, "the page is lost");
}

/* --- from a snapshot's file --- */

static int write_file(void)
{
    g_autoptr(KumoMemory) memory = kumo_memory_new_for_test(BASE, BYTES);
    int fd = memfd_create("snapshot", MFD_CLOEXEC);

    for (unsigned i = 0; i < PAGES; i++) {
        if (content(i))
            memset(memory->regions[0].hva + i * PAGE, content(i), PAGE);
    }
    g_assert_true(kumo_memory_file_write(fd, memory, NULL, NULL));
    return fd;
}

static bool start_from(Fixture *f, int fd)
{
    const KumoMemoryDemandWatch watch = { finished, failed, f };
    g_autoptr(GError) error = NULL;

    f->n_released = 1; /* the source is not ours */
    if (kumo_memory_demand_start(fd, "snap/memory-ranges", f->memory, NULL, &watch, &error))
        return true;
    if (!g_error_matches(error, KUMO_ERROR, KUMO_ERROR_DENIED))
        g_assert_no_error(error);
    g_test_skip(error->message);
    return false;
}

static void test_file(Fixture *f, gconstpointer data)
{
    kumo_auto_fd fd = write_file();

    if (!start_from(f, fd))
        return;
    check_page(f, 300, content(300));
    for (unsigned i = 0; i < PAGES; i++)
        check_page(f, i, content(i));
    g_assert_true(kumo_userfault_wait(f->memory->userfault, 5000, NULL));
    g_assert_cmpuint(f->n_finished, ==, 1);
}

/* The next snapshot has all pages, though most have not come. */
static void test_second_generation(Fixture *f, gconstpointer data)
{
    g_autoptr(KumoMemory) copy = kumo_memory_new_for_test(BASE, BYTES);
    kumo_auto_fd fd = write_file();
    kumo_auto_fd second = memfd_create("second", MFD_CLOEXEC);

    if (!start_from(f, fd))
        return;
    g_assert_true(kumo_memory_file_write(second, f->memory, NULL, NULL));
    g_assert_true(kumo_memory_file_read(second, copy, NULL, NULL));
    for (unsigned i = 0; i < PAGES; i++)
        g_assert_cmpuint(copy->regions[0].hva[i * PAGE], ==, content(i));
}

static void test_cut_file(Fixture *f, gconstpointer data)
{
    const KumoMemoryDemandWatch watch = { finished, failed, f };
    g_autoptr(GError) error = NULL;
    kumo_auto_fd fd = write_file();

    g_assert_cmpint(ftruncate(fd, BYTES - 1), ==, 0);
    f->n_released = 1;
    g_assert_false(
        kumo_memory_demand_start(fd, "snap/memory-ranges", f->memory, NULL, &watch, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_cmpint(ftruncate(fd, BYTES), ==, 0);
    if (!start_from(f, fd))
        return;
    /* In the middle of serving. The machine would go; what has come before is what was served. */
    g_assert_cmpint(ftruncate(fd, 0), ==, 0);
    g_mutex_lock(&f->lock);
    while (!f->n_failed && !f->n_finished)
        g_cond_wait_until(&f->changed, &f->lock, g_get_monotonic_time() + G_TIME_SPAN_SECOND / 10);
    if (f->n_failed)
        g_assert_nonnull(strstr(f->message, "snap/memory-ranges: ends at"));
    g_mutex_unlock(&f->lock);
}

#define ADD(path, func)                                                                            \
    do {                                                                                           \
        g_test_add("/userfault/private/" path, Fixture, NULL, set_up, func, tear_down);            \
        g_test_add("/userfault/shared/" path, Fixture, "shared", set_up, func, tear_down);         \
    } while (0)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("touch", test_touch);
    ADD("window", test_window);
    ADD("background", test_background);
    ADD("discard", test_discard);
    ADD("later", test_later);
    ADD("set-missing", test_set_missing);
    ADD("failure", test_failure);
    ADD("file", test_file);
    ADD("second-generation", test_second_generation);
    ADD("cut-file", test_cut_file);
    return g_test_run();
}
