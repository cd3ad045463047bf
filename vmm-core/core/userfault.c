/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/userfault.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

enum {
    WORD_BITS = 64,
    MESSAGES = 16, /* read at a time */
    SMALL_PAGE = 4096,
    /* Each chunk that comes in the background holds up who maps memory or touches a page. So it
     * begins when the machine has been built, and while that begins to run it waits for a lull. */
    BEGIN_MS = 20,
    BEGINNING_MS = 500,
    LULL_MS = 2,
};

/* A backing that is ours. */
typedef struct {
    uint64_t gpa, size_bytes, page_size;
    uint8_t *hva;
    int fd; /* the backing's */
    uint64_t fd_offset;
    bool shared, locked;
    bool registered;
    bool has_zeropage; /* the kernel can map zeros by itself */
    uint64_t n_pages;
    uint64_t next;     /* the background has been before this page */
    uint64_t *settled; /* a bit for each page */
    uint64_t *asked;   /* of those that come later: somebody has asked for it */
} Part;

struct KumoUserfault {
    const KumoUserfaultOps *ops;
    void *opaque;
    int fd;
    int wake_fd; /* something for the thread to look at */
    GThread *thread;
    GArray *parts; /* of Part; does not change */
    uint8_t *buf;  /* the thread's, of buf_bytes */
    size_t buf_bytes;
    int64_t begin_us;      /* when the thread began */
    int64_t background_us; /* not before that: the thread's */
    uint8_t *zeros;        /* a page of the largest size, for reading */
    size_t zeros_bytes;

    GMutex lock; /* guards the rest, and the bitmaps; placing and discarding go on under it */
    GCond changed;
    uint64_t missing_bytes;
    uint64_t awaited_bytes; /* of those, that were asked for */
    bool complete;          /* memory is as any other */
    bool stop;
    GError *error; /* it has failed */
};

static bool bit_is_set(const uint64_t *bits, uint64_t n)
{
    return bits[n / WORD_BITS] >> (n % WORD_BITS) & 1;
}

static void bit_set(uint64_t *bits, uint64_t n)
{
    bits[n / WORD_BITS] |= 1ULL << (n % WORD_BITS);
}

static void bit_clear(uint64_t *bits, uint64_t n)
{
    bits[n / WORD_BITS] &= ~(1ULL << (n % WORD_BITS));
}

/* --- making one --- */

bool kumo_userfault_supports(const KumoMemBacking *part)
{
    struct statfs fs;

    if (part->fd < 0)
        return true;
    return part->shared && fstatfs(part->fd, &fs) == 0 &&
           (fs.f_type == TMPFS_MAGIC || fs.f_type == HUGETLBFS_MAGIC);
}

/* The device is for whoever may open it; the system call is for root, where the host was not told
 * otherwise. */
static int open_userfaultfd(GError **error)
{
    kumo_auto_fd device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int fd = device < 0 ? -1 : ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0)
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        kumo_set_error_errno(error, errno,
                             "memory on demand needs access to /dev/userfaultfd, or sysctl "
                             "vm.unprivileged_userfaultfd=1");
    return fd;
}

static bool agree_on_api(int fd, GError **error)
{
    struct uffdio_api api = { .api = UFFD_API,
                              .features =
                                  UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MISSING_SHMEM };

    if (ioctl(fd, UFFDIO_API, &api) == 0)
        return true;
    kumo_set_error_errno(error, errno, "memory on demand: userfaultfd of this kernel");
    return false;
}

bool kumo_userfault_check(GError **error)
{
    kumo_auto_fd fd = open_userfaultfd(error);

    return fd >= 0 && agree_on_api(fd, error);
}

static void part_clear(void *opaque)
{
    Part *part = opaque;

    g_free(part->settled);
    g_free(part->asked);
}

static void add_part(KumoUserfault *engine, const KumoMemBacking *backing)
{
    uint64_t n_pages = backing->size_bytes / backing->page_size;
    size_t n_words = (n_pages + WORD_BITS - 1) / WORD_BITS;
    Part part = { .gpa = backing->gpa,
                  .size_bytes = backing->size_bytes,
                  .page_size = backing->page_size,
                  .hva = backing->hva,
                  .fd = backing->fd,
                  .fd_offset = backing->fd_offset,
                  .shared = backing->shared,
                  .locked = backing->locked,
                  .n_pages = n_pages,
                  .settled = g_new0(uint64_t, n_words),
                  .asked = g_new0(uint64_t, n_words) };

    g_array_append_val(engine->parts, part);
    engine->missing_bytes += part.size_bytes;
    engine->zeros_bytes = MAX(engine->zeros_bytes, part.page_size);
}

static bool map_buffers(KumoUserfault *engine, GError **error)
{
    engine->buf_bytes =
        MAX(engine->zeros_bytes, MAX(engine->ops->window_bytes, engine->ops->background_bytes));
    engine->buf = mmap(NULL, engine->buf_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    engine->zeros = mmap(NULL, engine->zeros_bytes, PROT_READ,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (engine->buf != MAP_FAILED && engine->zeros != MAP_FAILED)
        return true;
    kumo_set_error_errno(error, errno, "memory on demand: buffers");
    return false;
}

KumoUserfault *kumo_userfault_new(const KumoMemBacking *backings, unsigned n_backings,
                                  const KumoUserfaultOps *ops, void *opaque, GError **error)
{
    g_autoptr(KumoUserfault) engine = g_new0(KumoUserfault, 1);
    /* Not released before it is ours. */
    static const KumoUserfaultOps none;

    engine->ops = &none;
    engine->wake_fd = -1;
    engine->buf = engine->zeros = MAP_FAILED;
    engine->zeros_bytes = SMALL_PAGE;
    g_mutex_init(&engine->lock);
    g_cond_init(&engine->changed);
    engine->parts = g_array_new(FALSE, FALSE, sizeof(Part));
    g_array_set_clear_func(engine->parts, part_clear);
    engine->fd = open_userfaultfd(error);
    if (engine->fd < 0 || !agree_on_api(engine->fd, error))
        return NULL;
    engine->wake_fd = kumo_eventfd_new(error);
    if (engine->wake_fd < 0)
        return NULL;
    for (unsigned i = 0; i < n_backings; i++) {
        if (kumo_userfault_supports(&backings[i]))
            add_part(engine, &backings[i]);
    }
    engine->ops = ops;
    if (!map_buffers(engine, error)) {
        engine->ops = &none;
        return NULL;
    }
    engine->opaque = opaque;
    return g_steal_pointer(&engine);
}

/* --- which pages --- */

static Part *part_of_gpa(KumoUserfault *engine, uint64_t gpa)
{
    for (guint i = 0; i < engine->parts->len; i++) {
        Part *part = &g_array_index(engine->parts, Part, i);

        if (gpa - part->gpa < part->size_bytes)
            return part;
    }
    return NULL;
}

static Part *part_of_hva(KumoUserfault *engine, uintptr_t hva)
{
    for (guint i = 0; i < engine->parts->len; i++) {
        Part *part = &g_array_index(engine->parts, Part, i);

        if (hva - (uintptr_t)part->hva < part->size_bytes)
            return part;
    }
    return NULL;
}

uint64_t kumo_userfault_page_bytes(KumoUserfault *engine, uint64_t gpa)
{
    const Part *part = part_of_gpa(engine, gpa);

    return part ? part->page_size : 0;
}

/* Under the lock. */
static void settle(KumoUserfault *engine, Part *part, uint64_t page)
{
    if (bit_is_set(part->settled, page))
        return;
    bit_set(part->settled, page);
    engine->missing_bytes -= part->page_size;
    if (bit_is_set(part->asked, page))
        engine->awaited_bytes -= part->page_size;
    /* The thread, which may be asleep, puts an end to it. */
    if (engine->missing_bytes == 0)
        kumo_eventfd_signal(engine->wake_fd);
}

/* Under the lock. Returns: pages from @page to @end that are not settled, up to the first that is.
 */
static uint64_t run_length(const Part *part, uint64_t page, uint64_t end)
{
    uint64_t n = 0;

    while (page + n < end && !bit_is_set(part->settled, page + n))
        n++;
    return n;
}

static int drop(const Part *part, uint64_t offset, uint64_t len)
{
    if (part->fd < 0)
        return kumo_mem_drop_private(part->hva + offset, len, part->locked);
    return fallocate(part->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                     (off_t)(part->fd_offset + offset), (off_t)len) < 0
               ? errno
               : 0;
}

int kumo_userfault_set_missing(KumoUserfault *engine, uint64_t gpa, uint64_t len, bool missing)
{
    int err = 0;

    for (guint i = 0; i < engine->parts->len; i++) {
        Part *part = &g_array_index(engine->parts, Part, i);
        uint64_t start = MAX(gpa, part->gpa);
        uint64_t end = MIN(gpa + len, part->gpa + part->size_bytes);

        if (start >= end)
            continue;
        start = (start - part->gpa + part->page_size - 1) / part->page_size;
        end = (end - part->gpa) / part->page_size;
        for (uint64_t page = start; page < end; page++) {
            if (bit_is_set(part->settled, page) != missing)
                continue;
            if (!missing)
                bit_set(part->settled, page);
            else
                bit_clear(part->settled, page);
            engine->missing_bytes += missing ? part->page_size : -part->page_size;
        }
        if (missing && start < end && !err)
            err = drop(part, start * part->page_size, (end - start) * part->page_size);
    }
    return err;
}

/* --- putting pages into memory; under the lock --- */

static void wake(KumoUserfault *engine, const Part *part, uint64_t page, uint64_t n)
{
    struct uffdio_range range = { (uintptr_t)part->hva + page * part->page_size,
                                  n * part->page_size };

    /* It can only fail for a range that is not there. */
    if (ioctl(engine->fd, UFFDIO_WAKE, &range) < 0)
        kumo_debug("userfaultfd: waking: %s", g_strerror(errno));
}

/* Returns: bytes done, of which the caller goes on behind; -1 with errno set. */
static int64_t copy_once(KumoUserfault *engine, uint8_t *to, const uint8_t *from, uint64_t len)
{
    struct uffdio_copy copy = { .dst = (uintptr_t)to, .src = (uintptr_t)from, .len = len };

    if (ioctl(engine->fd, UFFDIO_COPY, &copy) == 0)
        return (int64_t)len;
    return errno == EAGAIN && copy.copy >= 0 ? copy.copy : -1;
}

static int64_t zero_once(KumoUserfault *engine, uint8_t *to, uint64_t len)
{
    struct uffdio_zeropage zero = { .range = { (uintptr_t)to, len } };

    if (ioctl(engine->fd, UFFDIO_ZEROPAGE, &zero) == 0)
        return (int64_t)len;
    return errno == EAGAIN && zero.zeropage >= 0 ? zero.zeropage : -1;
}

/* @data: NULL: zeros. Who waits for them is woken. */
static bool put(KumoUserfault *engine, const Part *part, uint64_t page, uint64_t n,
                const uint8_t *data, GError **error)
{
    uint8_t *to = part->hva + page * part->page_size;
    uint64_t left = n * part->page_size;

    while (left > 0) {
        int64_t done;

        if (data)
            done = copy_once(engine, to, data, left);
        else if (part->has_zeropage)
            done = zero_once(engine, to, left);
        else
            done = copy_once(engine, to, engine->zeros, part->page_size);
        if (done < 0 && errno == EEXIST) {
            /* Somebody was quicker and has been woken; who came just afterwards has not. */
            wake(engine, part, (uint64_t)(to - part->hva) / part->page_size, 1);
            done = (int64_t)part->page_size;
        }
        if (done < 0) {
            kumo_set_error_errno(error, errno,
                                 "memory on demand: placing a page at 0x%" G_GINT64_MODIFIER "x",
                                 part->gpa + (uint64_t)(to - part->hva));
            return false;
        }
        to += done;
        data = data ? data + done : NULL;
        left -= (uint64_t)done;
    }
    return true;
}

/* Those that are not settled of @n pages: @data, or with @lazy zeros that nobody needs to have. */
static bool put_missing(KumoUserfault *engine, Part *part, uint64_t page, uint64_t n,
                        const uint8_t *data, bool lazy, GError **error)
{
    uint64_t end = page + n;
    uint64_t first = page;

    while (page < end) {
        uint64_t run = run_length(part, page, end);

        if (run == 0) {
            page++;
            continue;
        }
        if (!lazy && !put(engine, part, page, run,
                          data ? data + (page - first) * part->page_size : NULL, error))
            return false;
        for (uint64_t i = 0; i < run; i++)
            settle(engine, part, page + i);
        /* They come back, and get zeros as settled pages do. */
        if (lazy)
            wake(engine, part, page, run);
        page += run;
    }
    return true;
}

bool kumo_userfault_place(KumoUserfault *engine, uint64_t gpa, const void *data, uint64_t len,
                          GError **error)
{
    Part *part = part_of_gpa(engine, gpa);
    uint64_t offset = part ? gpa - part->gpa : 0;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&engine->lock);

    if (!part || len > part->size_bytes - offset || (offset | len) % part->page_size) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID,
                    "memory on demand: 0x%" G_GINT64_MODIFIER "x of %" G_GUINT64_FORMAT
                    " bytes: no whole pages of memory",
                    gpa, len);
        return false;
    }
    return engine->complete || engine->stop ||
           put_missing(engine, part, offset / part->page_size, len / part->page_size, data,
                       data == NULL, error);
}

void kumo_userfault_ask_again(KumoUserfault *engine)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&engine->lock);

    for (guint i = 0; i < engine->parts->len; i++) {
        Part *part = &g_array_index(engine->parts, Part, i);

        for (uint64_t page = 0; page < part->n_pages; page++) {
            if (!bit_is_set(part->asked, page) || bit_is_set(part->settled, page))
                continue;
            bit_clear(part->asked, page);
            engine->awaited_bytes -= part->page_size;
            /* Whoever waits comes back and is a new fault. */
            if (part->registered)
                wake(engine, part, page, 1);
        }
    }
}

bool kumo_userfault_next_missing(KumoUserfault *engine, uint64_t *gpa, uint64_t *ret_len)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&engine->lock);
    const Part *found = NULL;
    uint64_t first = 0;

    /* Parts are in no order. */
    for (guint i = 0; i < engine->parts->len; i++) {
        const Part *part = &g_array_index(engine->parts, Part, i);
        uint64_t page = *gpa > part->gpa ? (*gpa - part->gpa) / part->page_size : 0;

        while (page < part->n_pages && bit_is_set(part->settled, page))
            page++;
        if (page >= part->n_pages || (found && found->gpa < part->gpa))
            continue;
        found = part;
        first = page;
    }
    if (!found)
        return false;
    *gpa = found->gpa + first * found->page_size;
    *ret_len = run_length(found, first, found->n_pages) * found->page_size;
    return true;
}

void *kumo_userfault_opaque(const KumoUserfault *engine, const KumoUserfaultOps *ops)
{
    return engine->ops == ops ? engine->opaque : NULL;
}

void kumo_userfault_begin_discard(KumoUserfault *engine, const uint8_t *hva, uint64_t len)
{
    Part *part = part_of_hva(engine, (uintptr_t)hva);

    g_mutex_lock(&engine->lock);
    if (!part || engine->complete)
        return;
    for (uint64_t offset = (uint64_t)(hva - part->hva); len > 0; len -= part->page_size) {
        settle(engine, part, offset / part->page_size);
        offset += part->page_size;
    }
}

void kumo_userfault_end_discard(KumoUserfault *engine)
{
    g_mutex_unlock(&engine->lock);
}

/* --- failure and the end --- */

void kumo_userfault_fail(KumoUserfault *engine, const GError *error)
{
    bool first;

    g_mutex_lock(&engine->lock);
    first = !engine->error && !engine->complete;
    if (first)
        engine->error = g_error_copy(error);
    g_cond_broadcast(&engine->changed);
    g_mutex_unlock(&engine->lock);
    if (first)
        engine->ops->failed(engine->opaque, error);
}

static void unregister(KumoUserfault *engine)
{
    for (guint i = 0; i < engine->parts->len; i++) {
        Part *part = &g_array_index(engine->parts, Part, i);
        struct uffdio_range range = { (uintptr_t)part->hva, part->size_bytes };

        /* Whoever still waits comes back and finds zeros, as it should. */
        if (part->registered && ioctl(engine->fd, UFFDIO_UNREGISTER, &range) < 0)
            kumo_warn("userfaultfd: letting go of memory: %s", g_strerror(errno));
        part->registered = false;
    }
}

void kumo_userfault_abandon(KumoUserfault *engine)
{
    g_mutex_lock(&engine->lock);
    unregister(engine);
    engine->stop = true;
    g_mutex_unlock(&engine->lock);
    kumo_eventfd_signal(engine->wake_fd);
}

/* Returns: whether there was nothing left to do. */
static bool finish_if_complete(KumoUserfault *engine)
{
    bool complete;

    g_mutex_lock(&engine->lock);
    complete = engine->missing_bytes == 0 && !engine->error && !engine->stop;
    if (complete)
        unregister(engine);
    g_mutex_unlock(&engine->lock);
    if (!complete)
        return false;
    if (engine->ops->finished)
        engine->ops->finished(engine->opaque);
    g_mutex_lock(&engine->lock);
    engine->complete = true;
    g_cond_broadcast(&engine->changed);
    g_mutex_unlock(&engine->lock);
    return true;
}

uint64_t kumo_userfault_missing_bytes(KumoUserfault *engine)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&engine->lock);

    return engine->missing_bytes;
}

uint64_t kumo_userfault_awaited_bytes(KumoUserfault *engine)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&engine->lock);

    return engine->awaited_bytes;
}

bool kumo_userfault_wait(KumoUserfault *engine, int timeout_ms, GError **error)
{
    gint64 until = g_get_monotonic_time() + (gint64)timeout_ms * 1000;
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&engine->lock);

    while (!engine->complete && !engine->error) {
        if (timeout_ms < 0)
            g_cond_wait(&engine->changed, &engine->lock);
        else if (!g_cond_wait_until(&engine->changed, &engine->lock, until))
            break;
    }
    if (engine->error && error)
        *error = g_error_copy(engine->error);
    return engine->complete;
}

/* --- the thread --- */

/* Fetches @n pages that were not settled a moment ago. */
static bool fetch(KumoUserfault *engine, Part *part, uint64_t page, uint64_t n, bool lazy,
                  GError **error)
{
    uint64_t len = n * part->page_size;
    KumoFetch got = engine->ops->fetch(engine->opaque, part->gpa + page * part->page_size,
                                       engine->buf, len, error);
    g_autoptr(GMutexLocker) locker = NULL;

    if (got == KUMO_FETCH_FAILED || got == KUMO_FETCH_LATER)
        return got == KUMO_FETCH_LATER;
    locker = g_mutex_locker_new(&engine->lock);
    return put_missing(engine, part, page, n, got == KUMO_FETCH_DATA ? engine->buf : NULL,
                       lazy && got == KUMO_FETCH_ZEROS, error);
}

/* The pages around @page, within the window, that are neither settled nor asked for. */
static uint64_t window_around(KumoUserfault *engine, Part *part, uint64_t *page)
{
    uint64_t per_window = MAX(engine->ops->window_bytes / part->page_size, 1);
    uint64_t start = kumo_align_down(*page, per_window);
    uint64_t end = MIN(start + per_window, part->n_pages);
    uint64_t first = *page, last = *page;

    while (first > start && !bit_is_set(part->settled, first - 1) &&
           !bit_is_set(part->asked, first - 1))
        first--;
    while (last + 1 < end && !bit_is_set(part->settled, last + 1) &&
           !bit_is_set(part->asked, last + 1))
        last++;
    for (uint64_t i = first; i <= last; i++)
        bit_set(part->asked, i);
    engine->awaited_bytes += (last - first + 1) * part->page_size;
    *page = first;
    return last - first + 1;
}

/* More pages are likely to be touched soon. */
static void hold_background(KumoUserfault *engine)
{
    int64_t now = g_get_monotonic_time();

    if (now - engine->begin_us < BEGINNING_MS * G_TIME_SPAN_MILLISECOND)
        engine->background_us = MAX(engine->background_us, now + LULL_MS * G_TIME_SPAN_MILLISECOND);
}

/* Returns: ms until the next chunk may come in the background; 0: now. */
static int background_wait_ms(const KumoUserfault *engine)
{
    int64_t left_us = engine->background_us - g_get_monotonic_time();

    return left_us > 0 ? (int)((left_us + 999) / 1000) : 0;
}

/* Somebody waits for the page at @address. */
static bool serve(KumoUserfault *engine, uint64_t address, GError **error)
{
    Part *part = part_of_hva(engine, address);
    uint64_t page, n = 0;

    if (!part)
        return true;
    page = (address - (uintptr_t)part->hva) / part->page_size;
    g_mutex_lock(&engine->lock);
    if (bit_is_set(part->settled, page)) {
        bool ok = put(engine, part, page, 1, NULL, error);

        g_mutex_unlock(&engine->lock);
        return ok;
    }
    if (!bit_is_set(part->asked, page))
        n = window_around(engine, part, &page);
    g_mutex_unlock(&engine->lock);
    hold_background(engine);
    return n == 0 || fetch(engine, part, page, n, false, error);
}

static bool serve_all(KumoUserfault *engine, GError **error)
{
    struct uffd_msg messages[MESSAGES];
    ssize_t got = read(engine->fd, messages, sizeof(messages));

    if (got < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return true;
        kumo_set_error_errno(error, errno, "memory on demand: userfaultfd");
        return false;
    }
    for (size_t i = 0; i < (size_t)got / sizeof(messages[0]); i++) {
        if (messages[i].event == UFFD_EVENT_PAGEFAULT &&
            !serve(engine, messages[i].arg.pagefault.address, error))
            return false;
    }
    return true;
}

/* Under the lock. The next pages that nobody has asked for. Returns: how many; 0: there are none.
 */
static uint64_t next_in_background(KumoUserfault *engine, Part **ret_part, uint64_t *ret_page)
{
    for (guint i = 0; i < engine->parts->len; i++) {
        Part *part = &g_array_index(engine->parts, Part, i);
        uint64_t most = MAX(engine->ops->background_bytes / part->page_size, 1);

        while (part->next < part->n_pages && bit_is_set(part->settled, part->next))
            part->next++;
        if (part->next == part->n_pages)
            continue;
        *ret_part = part;
        *ret_page = part->next;
        return run_length(part, part->next, MIN(part->next + most, part->n_pages));
    }
    return 0;
}

/* Returns: FALSE with @error. @ret_more: whether there is anything left to do. */
static bool work_in_background(KumoUserfault *engine, bool *ret_more, GError **error)
{
    Part *part = NULL;
    uint64_t page = 0, n;

    g_mutex_lock(&engine->lock);
    n = next_in_background(engine, &part, &page);
    g_mutex_unlock(&engine->lock);
    *ret_more = n > 0;
    return n == 0 || fetch(engine, part, page, n, true, error);
}

static bool must_stop(KumoUserfault *engine)
{
    g_autoptr(GMutexLocker) locker = g_mutex_locker_new(&engine->lock);

    return engine->stop || engine->error;
}

static bool work(KumoUserfault *engine, GError **error)
{
    bool more = engine->ops->background_bytes > 0;

    engine->begin_us = g_get_monotonic_time();
    engine->background_us = engine->begin_us + BEGIN_MS * G_TIME_SPAN_MILLISECOND;

    while (!must_stop(engine) && !finish_if_complete(engine)) {
        struct pollfd fds[] = { { .fd = engine->fd, .events = POLLIN },
                                { .fd = engine->wake_fd, .events = POLLIN } };

        if (poll(fds, G_N_ELEMENTS(fds), more ? background_wait_ms(engine) : -1) < 0 &&
            errno != EINTR) {
            kumo_set_error_errno(error, errno, "memory on demand: poll");
            return false;
        }
        if (fds[1].revents)
            kumo_eventfd_drain(engine->wake_fd);
        if (fds[0].revents) {
            if (!serve_all(engine, error))
                return false;
        } else if (more && background_wait_ms(engine) == 0 &&
                   !work_in_background(engine, &more, error)) {
            return false;
        }
    }
    return true;
}

static const KumoSyscall userfault_calls[] = {
    { KUMO_IOCTL(UFFDIO_COPY) },
    { KUMO_IOCTL(UFFDIO_ZEROPAGE) },
    { KUMO_IOCTL(UFFDIO_WAKE) },
    { KUMO_IOCTL(UFFDIO_UNREGISTER) },
    { KUMO_SYSCALL(poll) },
    /* Where pages come from: a snapshot's file, or the source of a migration. */
    { KUMO_SYSCALL(pread64) },
    { KUMO_SYSCALL(preadv) },
    { KUMO_SYSCALL(lseek) },
    { KUMO_SYSCALL(recvmsg) },
    { KUMO_SYSCALL(sendmsg) },
    { KUMO_SYSCALL(sendto) },
    { KUMO_SYSCALL(recvfrom) },
    { KUMO_SYSCALL(shutdown) },
};

static const KumoSyscallTable userfault_table = KUMO_SYSCALL_TABLE(userfault_calls);
/* It starts the thread that ends the process when the memory is lost. */
static const KumoSyscallTable *const userfault_tables[] = { &userfault_table,
                                                            &kumo_thread_start_syscalls, NULL };

const KumoThreadKind kumo_userfault_thread = { .name = "userfault", .tables = userfault_tables };

static void *userfault_thread(void *opaque)
{
    KumoUserfault *engine = opaque;
    g_autoptr(GError) error = NULL;

    kumo_sandbox_enter(&kumo_userfault_thread);
    if (!work(engine, &error))
        kumo_userfault_fail(engine, error);
    return NULL;
}

/* --- start and end --- */

static bool register_part(KumoUserfault *engine, Part *part, GError **error)
{
    struct uffdio_register range = { .range = { (uintptr_t)part->hva, part->size_bytes },
                                     .mode = UFFDIO_REGISTER_MODE_MISSING };

    if (ioctl(engine->fd, UFFDIO_REGISTER, &range) < 0) {
        kumo_set_error_errno(error, errno,
                             "memory on demand: userfaultfd for %" G_GUINT64_FORMAT
                             " bytes at 0x%" G_GINT64_MODIFIER "x",
                             part->size_bytes, part->gpa);
        return false;
    }
    part->registered = true;
    part->has_zeropage = range.ioctls & 1ULL << _UFFDIO_ZEROPAGE;
    return true;
}

bool kumo_userfault_start(KumoUserfault *engine, GError **error)
{
    bool ok = true;

    for (guint i = 0; ok && i < engine->parts->len; i++)
        ok = register_part(engine, &g_array_index(engine->parts, Part, i), error);
    if (ok)
        engine->thread = g_thread_try_new("userfault", userfault_thread, engine, error);
    return engine->thread != NULL;
}

void kumo_userfault_free(KumoUserfault *engine)
{
    if (!engine)
        return;
    if (engine->thread) {
        g_mutex_lock(&engine->lock);
        engine->stop = true;
        g_mutex_unlock(&engine->lock);
        kumo_eventfd_signal(engine->wake_fd);
        g_thread_join(engine->thread);
    }
    unregister(engine);
    kumo_fd_clear(&engine->fd);
    kumo_fd_clear(&engine->wake_fd);
    if (engine->buf != MAP_FAILED)
        munmap(engine->buf, engine->buf_bytes);
    if (engine->zeros != MAP_FAILED)
        munmap(engine->zeros, engine->zeros_bytes);
    if (engine->ops->release)
        engine->ops->release(engine->opaque);
    g_array_unref(engine->parts);
    g_clear_error(&engine->error);
    g_cond_clear(&engine->changed);
    g_mutex_clear(&engine->lock);
    g_free(engine);
}
