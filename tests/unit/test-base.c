/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors, checked arithmetic, descriptors, the log's rate limit. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "vmm-core/base/checked.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/log_format.h"

static void test_error_codes(void)
{
    static const struct {
        int err;
        KumoErrorCode code;
        unsigned status;
    } rows[] = {
        { EINVAL, KUMO_ERROR_INVALID, 400 },
        { EFBIG, KUMO_ERROR_INVALID, 400 },
        { EADDRNOTAVAIL, KUMO_ERROR_INVALID, 400 },
        { EOPNOTSUPP, KUMO_ERROR_NOT_SUPPORTED, 400 },
        { ENOENT, KUMO_ERROR_NOT_FOUND, 404 },
        { EEXIST, KUMO_ERROR_CONFLICT, 409 },
        { EBUSY, KUMO_ERROR_BUSY, 429 },
        { EACCES, KUMO_ERROR_DENIED, 500 },
        { EIO, KUMO_ERROR_IO, 500 },
        { ENOMEM, KUMO_ERROR_RESOURCE, 500 },
    };
    g_autoptr(GError) state = g_error_new(KUMO_ERROR, KUMO_ERROR_STATE, "x");
    g_autoptr(GError) foreign =
        g_error_new(g_quark_from_static_string("other"), KUMO_ERROR_INVALID, "x");

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;

        kumo_set_error_errno(&error, rows[i].err, "disk %s", "/x");
        g_assert_error(error, KUMO_ERROR, (int)rows[i].code);
        g_assert_true(g_str_has_prefix(error->message, "disk /x: "));
        g_assert_nonnull(strstr(error->message, g_strerror(rows[i].err)));
        g_assert_cmpuint(kumo_error_http_status(error), ==, rows[i].status);
    }
    g_assert_cmpuint(kumo_error_http_status(state), ==, 409);
    g_assert_cmpuint(kumo_error_http_status(foreign), ==, 500);
    kumo_set_error_errno(NULL, EIO, "nobody listens");
}

static void assert_causes(const GError *error, const char *expected)
{
    g_auto(GStrv) causes = kumo_error_causes(error);
    g_autofree char *joined = g_strjoinv("|", causes);

    g_assert_cmpstr(joined, ==, expected);
}

static void test_error_causes(void)
{
    g_autoptr(GError) error = NULL, copy = NULL, deep = NULL, none = NULL;
    g_autoptr(GError) foreign = g_error_new(g_quark_from_static_string("other"), 0, "a: b");

    kumo_prefix_error(NULL, "x");
    kumo_prefix_error(&none, "x");
    g_assert_null(none);
    g_set_error(&error, KUMO_ERROR, KUMO_ERROR_INVALID, "size: 3 is odd");
    assert_causes(error, "size: 3 is odd");
    kumo_prefix_error(&error, "disk %s", "/a: b");
    copy = g_error_copy(error);
    kumo_prefix_error(&error, "vm.boot");
    g_assert_cmpstr(error->message, ==, "vm.boot: disk /a: b: size: 3 is odd");
    assert_causes(error, "vm.boot|disk /a: b|size: 3 is odd");
    assert_causes(copy, "disk /a: b|size: 3 is odd");
    /* What is put before it by others belongs to the outermost. */
    g_prefix_error(&error, "more: ");
    assert_causes(error, "more: vm.boot|disk /a: b|size: 3 is odd");
    kumo_set_error_errno(&deep, ENOENT, "disk %s", "/x");
    assert_causes(deep, "disk /x|No such file or directory");
    for (unsigned i = 0; i < KUMO_ERROR_CAUSES_MAX; i++)
        kumo_prefix_error(&deep, "%u", i);
    assert_causes(deep, "7: 6|5|4|3|2|1|0|disk /x|No such file or directory");
    kumo_prefix_error(&foreign, "why");
    g_assert_cmpstr(foreign->message, ==, "why: a: b");
    assert_causes(foreign, "why: a: b");
}

static void test_arithmetic(void)
{
    uint64_t value = 0;

    g_assert_true(kumo_add_u64(UINT64_MAX - 1, 1, &value));
    g_assert_cmpuint(value, ==, UINT64_MAX);
    g_assert_false(kumo_add_u64(UINT64_MAX, 1, &value));
    g_assert_true(kumo_sub_u64(5, 5, &value));
    g_assert_cmpuint(value, ==, 0);
    g_assert_false(kumo_sub_u64(4, 5, &value));
    g_assert_true(kumo_mul_u64(1ULL << 32, (1ULL << 32) - 1, &value));
    g_assert_false(kumo_mul_u64(1ULL << 32, 1ULL << 32, &value));
}

static void test_ranges(void)
{
    g_assert_true(kumo_range_inside(0x1000, 0x1000, 0x1000, 0x1000));
    g_assert_true(kumo_range_inside(0x2000, 0, 0x1000, 0x1000));
    g_assert_false(kumo_range_inside(0xfff, 1, 0x1000, 0x1000));
    g_assert_false(kumo_range_inside(0x1fff, 2, 0x1000, 0x1000));
    g_assert_false(kumo_range_inside(UINT64_MAX, 2, 0x1000, 0x1000));
    g_assert_false(kumo_range_inside(0x1001, UINT64_MAX, 0x1000, 0x1000));
    g_assert_true(kumo_range_inside(UINT64_MAX, 1, UINT64_MAX - 1, 2));
    g_assert_true(kumo_range_overlap(0, 2, 1, 1));
    g_assert_false(kumo_range_overlap(0, 1, 1, 1));
    g_assert_false(kumo_range_overlap(0, 0, 0, 1));
    g_assert_true(kumo_range_overlap(UINT64_MAX, 1, 0, UINT64_MAX) == false);
    g_assert_true(kumo_range_overlap(UINT64_MAX, 1, 1, UINT64_MAX));
    g_assert_true(kumo_is_pow2(1));
    g_assert_true(kumo_is_pow2(1ULL << 63));
    g_assert_false(kumo_is_pow2(0));
    g_assert_false(kumo_is_pow2(6));
    g_assert_cmpuint(kumo_align_down(0x1fff, 0x1000), ==, 0x1000);
    g_assert_cmpuint(kumo_align_up(0x1001, 0x1000), ==, 0x2000);
    g_assert_cmpuint(kumo_align_up(0x1000, 0x1000), ==, 0x1000);
}

static void test_fd_ownership(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int number = fd;

    g_assert_cmpint(fd, >=, 0);
    {
        kumo_auto_fd kept = fd;

        g_assert_cmpint(kumo_fd_steal(&kept), ==, fd);
        g_assert_cmpint(kept, ==, -1);
    }
    g_assert_cmpint(fcntl(number, F_GETFD), !=, -1);
    errno = ENOENT;
    kumo_fd_clear(&fd);
    g_assert_cmpint(errno, ==, ENOENT);
    g_assert_cmpint(fd, ==, -1);
    g_assert_cmpint(fcntl(number, F_GETFD), ==, -1);
    kumo_fd_clear(&fd);
}

static void test_read_write(void)
{
    g_autofree char *path = g_build_filename(g_get_tmp_dir(), "kumo-test-XXXXXX", NULL);
    kumo_auto_fd fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);
    char buf[16] = "";

    g_assert_cmpint(fd, >=, 0);
    g_unlink(path);
    g_assert_true(kumo_write_full(fd, "0123456789", 10));
    g_assert_cmpint(kumo_pread_full(fd, buf, 4, 2), ==, 4);
    g_assert_cmpmem(buf, 4, "2345", 4);
    g_assert_cmpint(kumo_pread_full(fd, buf, sizeof(buf), 8), ==, 2);
    g_assert_cmpint(kumo_pread_full(fd, buf, sizeof(buf), 100), ==, 0);
    g_assert_cmpint(kumo_pread_full(-1, buf, 1, 0), ==, -1);
    g_assert_false(kumo_write_full(-1, "x", 1));
}

static void test_eventfd(void)
{
    g_autoptr(GError) error = NULL;
    kumo_auto_fd fd = kumo_eventfd_new(&error);

    g_assert_no_error(error);
    g_assert_cmpuint(kumo_eventfd_drain(fd), ==, 0);
    kumo_eventfd_signal(fd);
    kumo_eventfd_signal(fd);
    g_assert_cmpuint(kumo_eventfd_drain(fd), ==, 2);
    g_assert_cmpuint(kumo_eventfd_drain(fd), ==, 0);
    g_assert_true(kumo_fd_set_nonblock(fd, false));
    g_assert_false(fcntl(fd, F_GETFL) & O_NONBLOCK);
    g_assert_true(kumo_fd_set_nonblock(fd, true));
    g_assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
    g_assert_false(kumo_fd_set_nonblock(-1, true));
}

static void test_log_limit(void)
{
    KumoLogLimit limit = { 0 };
    unsigned passed = 0;

    for (unsigned i = 0; i < 100; i++)
        passed += kumo_log_limit_pass(&limit);
    g_assert_cmpuint(passed, ==, 10);
    g_assert_cmpuint(limit.dropped, ==, 90);
    /* As if the window had passed. */
    limit.window_start_us -= 6 * G_USEC_PER_SEC;
    g_assert_true(kumo_log_limit_pass(&limit));
    g_assert_cmpuint(limit.dropped, ==, 0);
}

static void test_log_format(void)
{
    static const struct {
        const char *format, *line;
    } rows[] = {
        { KUMO_LOG_FORMAT_DEFAULT, "kumo:   5.000012s: <vcpu0> WARN:file.c:7 -- hello {x}" },
        { "", "" },
        { "plain", "plain" },
        { "{{{msg}}}", "{hello {x}}" },
        { "{levelchar}{glog}", "W0521 08:02:15.542701" },
        { "{levelchar}{month}{day} {hour}:{minute}:{second}.{micros}", "W0521 08:02:15.542701" },
        { "{wallclock}", "2025-05-21T08:02:15.542701Z" },
        { "{year}{offset}", "2025+00:00" },
        { "{localglog}", "0521 03:32:15.542701" },
        { "{localyear} {localhour}{localoffset}", "2025 03-04:30" },
    };
    static const char *const bad[] = { "{", "}", "{msg", "msg}", "{bogus}", "{localmsg}", "{}" };
    const KumoLogRecord record = {
        .level = KUMO_LOG_WARN,
        .file = "../vmm-core/base/file.c",
        .line = 7,
        .thread = "vcpu0",
        .message = "hello {x}",
        .since_start_us = 5000012,
        .wallclock_us = 1747814535542701,
    };
    char buf[256];
    size_t len;

    g_setenv("TZ", "XYZ4:30", TRUE);
    for (unsigned i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(KumoLogFormat) format = kumo_log_format_new(rows[i].format, &error);

        g_assert_no_error(error);
        len = kumo_log_format_render(format, &record, buf, sizeof(buf) - 1);
        buf[len] = '\0';
        g_assert_cmpstr(buf, ==, rows[i].line);
        /* Cut off where the room ends. */
        for (size_t room = 0; room < 12; room++) {
            len = kumo_log_format_render(format, &record, buf, room);
            g_assert_cmpuint(len, <=, room);
            g_assert_cmpmem(buf, len, rows[i].line, len);
        }
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(kumo_log_format_new(bad[i], &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
        g_assert_true(g_str_has_prefix(error->message, "log format: "));
    }
    g_unsetenv("TZ");
}

static void test_log_file(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "log", NULL);
    g_autofree char *bad = g_build_filename(dir, "missing", "log", NULL);
    g_autofree char *long_text = g_strnfill(10000, 'x');
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;
    g_autoptr(GError) error = NULL;
    struct stat info;

    g_assert_false(kumo_log_open_file(bad, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND);
    g_clear_error(&error);
    g_assert_true(kumo_log_open_file(path, &error));
    kumo_warn("hello %d", 42);
    kumo_info("not at this level");
    kumo_error("%s", long_text);
    g_assert_true(g_file_get_contents(path, &text, NULL, &error));
    g_assert_no_error(error);
    lines = g_strsplit(text, "\n", -1);
    g_assert_cmpuint(g_strv_length(lines), ==, 3);
    g_assert_nonnull(strstr(lines[0], "WARN:test-base.c:"));
    g_assert_true(g_str_has_suffix(lines[0], "-- hello 42"));
    g_assert_cmpuint(strlen(lines[1]), <, 2048);
    g_assert_cmpstr(lines[2], ==, "");
    g_assert_cmpint(stat(path, &info), ==, 0);
    g_assert_cmpuint(info.st_mode & 0777, ==, 0600);
    g_unlink(path);
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/base/error/codes", test_error_codes);
    g_test_add_func("/base/error/causes", test_error_causes);
    g_test_add_func("/base/checked/arithmetic", test_arithmetic);
    g_test_add_func("/base/checked/ranges", test_ranges);
    g_test_add_func("/base/fd/ownership", test_fd_ownership);
    g_test_add_func("/base/fd/read-write", test_read_write);
    g_test_add_func("/base/fd/eventfd", test_eventfd);
    g_test_add_func("/base/log/limit", test_log_limit);
    g_test_add_func("/base/log/format", test_log_format);
    g_test_add_func("/base/log/file", test_log_file);
    return g_test_run();
}
