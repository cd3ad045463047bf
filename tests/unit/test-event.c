/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The event monitor: its form, a stalled reader, a reader that vanishes, several threads. */
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <glib/gstdio.h>

#include "vmm-core/api/event.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

static void drain(int fd, GString *text)
{
    char buf[4096];
    ssize_t n;

    do {
        while (g_main_context_iteration(NULL, FALSE))
            ;
        n = read(fd, buf, sizeof(buf));
        if (n > 0)
            g_string_append_len(text, buf, n);
    } while (n > 0);
}

/* Every piece between blank lines is a whole object. Returns: how many there are. */
static unsigned check_objects(const char *text)
{
    g_auto(GStrv) pieces = g_strsplit(text, "\n\n", -1);
    unsigned n = 0;

    for (; pieces[n] && *pieces[n]; n++) {
        json_t *object = json_loads(pieces[n], JSON_REJECT_DUPLICATES, NULL);

        g_assert_true(json_is_object(object));
        json_decref(object);
    }
    g_assert_true(!pieces[n] || !pieces[n + 1]);
    return n;
}

static void open_pipe(int ends[2])
{
    g_autofree char *spec = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_cmpint(pipe2(ends, O_CLOEXEC), ==, 0);
    g_assert_true(kumo_fd_set_nonblock(ends[0], true));
    spec = g_strdup_printf("fd=%d", ends[1]);
    g_assert_true(kumo_event_open(spec, &error));
    g_assert_no_error(error);
}

static void test_form(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-test-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "events", NULL);
    g_autofree char *spec = g_strconcat("path=", path, NULL);
    g_autofree char *text = NULL;
    g_auto(GStrv) pieces = NULL;
    g_autoptr(GError) error = NULL;
    json_t *object;
    json_t *stamp;

    /* Before the monitor is open events go nowhere, and their properties are freed. */
    kumo_event("vmm", "starting", json_pack("{s:i}", "a", 1));
    g_assert_true(kumo_event_open(spec, &error));
    g_assert_no_error(error);
    kumo_event("vm", "booted", NULL);
    kumo_event("virtio-device", "activated", json_pack("{s:s}", "id", "_disk0"));
    kumo_event_close();
    kumo_event("vm", "deleted", NULL);
    g_assert_true(g_file_get_contents(path, &text, NULL, NULL));
    g_assert_cmpuint(check_objects(text), ==, 2);
    g_assert_true(
        g_str_has_prefix(text, "{\n  \"timestamp\": {\n    \"secs\": 0,\n    \"nanos\": "));
    g_assert_nonnull(strstr(text, "\n  },\n  \"source\": \"vm\",\n  \"event\": \"booted\",\n"
                                  "  \"properties\": null\n}\n\n{\n"));
    pieces = g_strsplit(text, "\n\n", -1);
    object = json_loads(pieces[1], 0, NULL);
    g_assert_cmpstr(json_string_value(json_object_get(object, "source")), ==, "virtio-device");
    g_assert_cmpstr(json_string_value(json_object_get(json_object_get(object, "properties"), "id")),
                    ==, "_disk0");
    stamp = json_object_get(object, "timestamp");
    g_assert_cmpint(json_integer_value(json_object_get(stamp, "nanos")), <, 1000000000);
    g_assert_cmpint(json_integer_value(json_object_get(stamp, "secs")), <, 60);
    json_decref(object);
    g_unlink(path);
    g_rmdir(dir);
}

static void test_stalled_reader(void)
{
    int ends[2];
    g_autoptr(GString) text = g_string_new(NULL);
    unsigned arrived;
    gint64 begin = g_get_monotonic_time();

    open_pipe(ends);
    for (unsigned i = 0; i < 20000; i++)
        kumo_event("vm", "paused", json_pack("{s:i}", "number", i));
    g_assert_cmpint(g_get_monotonic_time() - begin, <, 30 * G_USEC_PER_SEC);
    drain(ends[0], text);
    arrived = check_objects(text->str);
    g_assert_cmpuint(arrived, >, 100);
    g_assert_cmpuint(arrived, <, 20000);
    /* It reads again: later events arrive. */
    g_string_truncate(text, 0);
    kumo_event("vm", "resumed", NULL);
    drain(ends[0], text);
    g_assert_cmpuint(check_objects(text->str), ==, 1);
    kumo_event_close();
    close(ends[0]);
}

static void test_vanished_reader(void)
{
    int ends[2];

    open_pipe(ends);
    close(ends[0]);
    for (unsigned i = 0; i < 10; i++)
        kumo_event("vm", "paused", NULL);
    g_assert_cmpint(fcntl(ends[1], F_GETFD), ==, -1);
    /* It vanishes while some wait. */
    open_pipe(ends);
    for (unsigned i = 0; i < 2000; i++)
        kumo_event("vm", "paused", NULL);
    close(ends[0]);
    while (g_main_context_iteration(NULL, FALSE))
        ;
    g_assert_cmpint(fcntl(ends[1], F_GETFD), ==, -1);
    kumo_event("vm", "paused", NULL);
    kumo_event_close();
}

static void *send_events(void *opaque)
{
    for (unsigned i = 0; i < 200; i++)
        kumo_event("vm", "paused", json_pack("{s:i}", "number", i));
    return NULL;
}

static void test_threads(void)
{
    GThread *threads[4];
    int ends[2];
    g_autoptr(GString) text = g_string_new(NULL);
    unsigned n;

    open_pipe(ends);
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        threads[i] = g_thread_new("sender", send_events, NULL);
    for (unsigned i = 0; i < 100; i++) {
        drain(ends[0], text);
        g_usleep(100);
    }
    for (size_t i = 0; i < G_N_ELEMENTS(threads); i++)
        g_thread_join(threads[i]);
    drain(ends[0], text);
    n = check_objects(text->str);
    g_assert_cmpuint(n, >, 100);
    g_assert_cmpuint(n, <=, 800);
    kumo_event_close();
    close(ends[0]);
}

static void test_bad_targets(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-test-XXXXXX", NULL);
    g_autofree char *fifo = g_build_filename(dir, "fifo", NULL);
    g_autofree char *fifo_spec = g_strconcat("path=", fifo, NULL);
    const char *const bad[] = { "",      "path=",  "path=/nonexistent-dir/x", "fd=",   "fd=x",
                                "fd=-1", "fd=999", "fd=99999999999999999999", "/bare", fifo_spec };

    g_assert_cmpint(mkfifo(fifo, 0600), ==, 0);
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_false(kumo_event_open(bad[i], &error));
        g_assert_nonnull(error);
        g_assert_cmpint(error->domain, ==, KUMO_ERROR);
    }
    g_unlink(fifo);
    g_rmdir(dir);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/api/event/form", test_form);
    g_test_add_func("/api/event/stalled-reader", test_stalled_reader);
    g_test_add_func("/api/event/vanished-reader", test_vanished_reader);
    g_test_add_func("/api/event/threads", test_threads);
    g_test_add_func("/api/event/bad-targets", test_bad_targets);
    return g_test_run();
}
