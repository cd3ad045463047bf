/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Consoles by TCP, and those that connect: peers that are late, that go, that never take a byte. */
#include <errno.h>
#include <glib/gstdio.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/devices/console/backend.h"

enum { WAIT_MS = 10000 };

static GMutex input_lock;
static GString *input;

static size_t can_receive(void *opaque)
{
    return 100;
}

static void receive(void *opaque, const uint8_t *data, size_t len)
{
    g_mutex_lock(&input_lock);
    g_string_append_len(input, (const char *)data, (gssize)len);
    g_mutex_unlock(&input_lock);
}

static const KumoConsoleSink sink = { .can_receive = can_receive, .receive = receive };

static void expect_input(const char *text)
{
    bool same = false;

    for (int i = 0; i < WAIT_MS && !same; i++) {
        g_mutex_lock(&input_lock);
        same = strcmp(input->str, text) == 0;
        g_mutex_unlock(&input_lock);
        if (!same)
            g_usleep(1000);
    }
    g_assert_true(same);
}

/* A listener on the loopback interface. *@port 0: any, and is set. */
static int listen_tcp(int *port)
{
    struct sockaddr_in addr = { .sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                .sin_port = htons((uint16_t)*port) };
    socklen_t len = sizeof(addr);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;

    g_assert_cmpint(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)), ==, 0);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, len), ==, 0);
    g_assert_cmpint(listen(fd, 4), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&addr, &len), ==, 0);
    *port = ntohs(addr.sin_port);
    return fd;
}

static int free_port(void)
{
    int port = 0;

    close(listen_tcp(&port));
    return port;
}

static int accept_one(int listener)
{
    struct pollfd ready = { .fd = listener, .events = POLLIN };

    g_assert_cmpint(poll(&ready, 1, WAIT_MS), ==, 1);
    return accept4(listener, NULL, NULL, SOCK_CLOEXEC);
}

static int connect_to(int port)
{
    struct sockaddr_in addr = { .sin_family = AF_INET,
                                .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                .sin_port = htons((uint16_t)port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return fd;
}

static void expect_text(int fd, const char *text)
{
    size_t len = strlen(text), got = 0;
    g_autofree char *buf = g_malloc0(len + 1);

    while (got < len) {
        struct pollfd ready = { .fd = fd, .events = POLLIN };
        ssize_t n;

        g_assert_cmpint(poll(&ready, 1, WAIT_MS), ==, 1);
        n = read(fd, buf + got, len - got);
        g_assert_cmpint(n, >, 0);
        got += (size_t)n;
    }
    g_assert_cmpstr(buf, ==, text);
}

static void expect_eof(int fd)
{
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    char byte;

    g_assert_cmpint(poll(&ready, 1, WAIT_MS), ==, 1);
    g_assert_cmpint(read(fd, &byte, 1), ==, 0);
}

static KumoVmConfig *tcp_config(int port, bool connects, uint32_t reconnect_s)
{
    KumoVmConfig *config = kumo_vm_config_new();

    config->console.mode = KUMO_CONSOLE_OFF;
    config->serial.mode = KUMO_CONSOLE_TCP;
    config->serial.tcp = g_strdup_printf("127.0.0.1:%d", port);
    config->serial.connect = connects;
    config->serial.reconnect_s = reconnect_s;
    return config;
}

static KumoConsoleSet *open_set(KumoVmConfig *config)
{
    g_autoptr(GError) error = NULL;
    KumoConsoleSet *set = kumo_console_set_open(config, &error);

    g_assert_no_error(error);
    input = g_string_new(NULL);
    kumo_console_attach(kumo_console_set_serial(set), &sink, NULL);
    return set;
}

static void close_set(KumoConsoleSet *set)
{
    kumo_console_detach(kumo_console_set_serial(set));
    kumo_console_set_close(set);
    g_string_free(input, TRUE);
}

static void write_text(KumoConsoleSet *set, const char *text)
{
    kumo_console_write(kumo_console_set_serial(set), (const uint8_t *)text, strlen(text));
}

static json_int_t counter(KumoConsoleSet *set, const char *name)
{
    json_t *counters = kumo_console_counters(kumo_console_set_serial(set));
    json_int_t value = json_integer_value(json_object_get(counters, name));

    json_decref(counters);
    return value;
}

static void wait_for_dropped(KumoConsoleSet *set, json_int_t at_least)
{
    for (int i = 0; i < WAIT_MS && counter(set, "tx_dropped_bytes") < at_least; i++)
        g_usleep(1000);
    g_assert_cmpint(counter(set, "tx_dropped_bytes"), >=, at_least);
}

static void test_tcp_listen(void)
{
    int port = free_port();
    g_autoptr(KumoVmConfig) config = tcp_config(port, false, 0);
    g_autoptr(KumoVmConfig) same = tcp_config(port, false, 0);
    g_autoptr(GError) error = NULL;
    KumoConsoleSet *set = open_set(config);
    int first, second;

    g_assert_null(kumo_console_set_open(same, &error));
    g_assert_nonnull(strstr(error->message, same->serial.tcp));

    write_text(set, "kept. ");
    first = connect_to(port);
    expect_text(first, "kept. ");
    g_assert_true(kumo_write_full(first, "one ", 4));
    expect_input("one ");
    /* The newest client is the one. */
    second = connect_to(port);
    expect_eof(first);
    write_text(set, "second");
    expect_text(second, "second");
    g_assert_true(kumo_write_full(second, "two", 3));
    expect_input("one two");
    close_set(set);
    expect_eof(second);
    close(first);
    close(second);
}

/* Without a time to try again: there at the start or not at all, and once only. */
static void test_connect_once(void)
{
    int port = 0;
    int listener = listen_tcp(&port);
    g_autoptr(KumoVmConfig) config = tcp_config(port, true, 0);
    g_autoptr(KumoVmConfig) refused = tcp_config(free_port(), true, 0);
    g_autoptr(GError) error = NULL;
    KumoConsoleSet *set;
    int peer;

    g_assert_null(kumo_console_set_open(refused, &error));
    g_assert_nonnull(strstr(error->message, refused->serial.tcp));
    g_assert_nonnull(strstr(error->message, g_strerror(ECONNREFUSED)));

    set = open_set(config);
    peer = accept_one(listener);
    write_text(set, "hello");
    expect_text(peer, "hello");
    g_assert_true(kumo_write_full(peer, "you", 3));
    expect_input("you");
    g_assert_cmpint(counter(set, "tx_dropped_bytes"), ==, 0);

    close(peer);
    for (int i = 0; i < WAIT_MS && counter(set, "tx_dropped_bytes") == 0; i++) {
        write_text(set, "x");
        g_usleep(1000);
    }
    g_assert_cmpint(counter(set, "tx_dropped_bytes"), >, 0);
    close_set(set);
    close(listener);
}

/* The peer comes late, goes, and comes again; what was said meanwhile is told. */
static void test_reconnect(void)
{
    int port = free_port();
    g_autoptr(KumoVmConfig) config = tcp_config(port, true, 1);
    KumoConsoleSet *set = open_set(config);
    int listener, peer;

    write_text(set, "early. ");
    g_usleep(50000);
    listener = listen_tcp(&port);
    peer = accept_one(listener);
    expect_text(peer, "early. ");
    g_assert_true(kumo_write_full(peer, "a", 1));
    expect_input("a");

    close(peer);
    peer = accept_one(listener);
    write_text(set, "again");
    expect_text(peer, "again");
    g_assert_true(kumo_write_full(peer, "b", 1));
    expect_input("ab");
    close_set(set);
    expect_eof(peer);
    close(peer);
    close(listener);
}

/* A peer that reads nothing, and one that answers nothing: nobody waits for them. */
static void test_stalled(void)
{
    int port = 0;
    int listener = listen_tcp(&port);
    g_autoptr(KumoVmConfig) config = tcp_config(port, true, 1);
    g_autofree uint8_t *block = g_malloc0(10000);
    KumoConsoleSet *set = open_set(config);
    int peer = accept_one(listener);
    int64_t start = g_get_monotonic_time();

    for (unsigned i = 0; i < 2000; i++)
        kumo_console_write(kumo_console_set_serial(set), block, 10000);
    g_assert_cmpint(g_get_monotonic_time() - start, <, WAIT_MS * 1000);
    wait_for_dropped(set, 1000000);
    close_set(set);
    close(peer);
    close(listener);
}

static int listen_unix(const char *path, int backlog)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, backlog), ==, 0);
    return fd;
}

static void test_connect_unix(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-console-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    g_autoptr(GError) error = NULL;
    KumoConsoleSet *set;
    int listener, peer;

    config->console.mode = KUMO_CONSOLE_OFF;
    config->serial.mode = KUMO_CONSOLE_SOCKET;
    config->serial.socket = g_strdup(path);
    config->serial.connect = true;
    g_assert_null(kumo_console_set_open(config, &error));
    g_assert_nonnull(strstr(error->message, path));

    listener = listen_unix(path, 4);
    set = open_set(config);
    peer = accept_one(listener);
    write_text(set, "hello");
    expect_text(peer, "hello");
    g_assert_true(kumo_write_full(peer, "you", 3));
    expect_input("you");
    close_set(set);
    expect_eof(peer);
    close(peer);
    close(listener);
    /* The socket is its owner's. */
    g_assert_cmpint(g_unlink(path), ==, 0);

    /* With a time to try again nobody has to be there. */
    config->serial.reconnect_s = 1;
    set = open_set(config);
    listener = listen_unix(path, 4);
    peer = accept_one(listener);
    close(peer);
    peer = accept_one(listener);
    write_text(set, "again");
    expect_text(peer, "again");
    close_set(set);
    close(peer);
    close(listener);
    g_unlink(path);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

/* Closing in the middle of an attempt leaves nothing behind. */
static void test_close_early(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-console-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();

    config->console.mode = KUMO_CONSOLE_OFF;
    config->serial.mode = KUMO_CONSOLE_SOCKET;
    config->serial.socket = g_strdup(path);
    config->serial.connect = true;
    config->serial.reconnect_s = 1;
    for (unsigned i = 0; i < 20; i++) {
        KumoConsoleSet *set = open_set(config);

        write_text(set, "nobody hears it");
        close_set(set);
    }
    g_assert_cmpint(g_rmdir(dir), ==, 0);
}

/* A name that there is not is an error, but for who tries again and again: he looks for it, too. */
static void test_names(void)
{
    g_autoptr(KumoVmConfig) config = tcp_config(1, true, 0);

    g_free(config->serial.tcp);
    config->serial.tcp = g_strdup("no-such-host.invalid:1");
    for (unsigned i = 0; i < 2; i++) {
        g_autoptr(GError) error = NULL;

        config->serial.connect = i == 0;
        g_assert_null(kumo_console_set_open(config, &error));
        g_assert_nonnull(strstr(error->message, "no-such-host.invalid:1"));
    }
    config->serial.connect = true;
    config->serial.reconnect_s = 1;
    for (unsigned i = 0; i < 5; i++) {
        KumoConsoleSet *set = open_set(config);

        write_text(set, "nobody hears it");
        g_usleep(i * 50000);
        close_set(set);
    }
}

/* One that has to be looked up is connected to as any other. */
static void test_name_reconnect(void)
{
    int port = 0, fd;
    int listener = listen_tcp(&port);
    g_autoptr(KumoVmConfig) config = tcp_config(port, true, 1);
    KumoConsoleSet *set;

    g_free(config->serial.tcp);
    config->serial.tcp = g_strdup_printf("localhost:%d", port);
    set = open_set(config);
    write_text(set, "hello");
    fd = accept_one(listener);
    expect_text(fd, "hello");
    close(fd);
    close_set(set);
    close(listener);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/console-connect/tcp-listen", test_tcp_listen);
    g_test_add_func("/console-connect/once", test_connect_once);
    g_test_add_func("/console-connect/reconnect", test_reconnect);
    g_test_add_func("/console-connect/stalled", test_stalled);
    g_test_add_func("/console-connect/unix", test_connect_unix);
    g_test_add_func("/console-connect/close-early", test_close_early);
    g_test_add_func("/console-connect/names", test_names);
    g_test_add_func("/console-connect/name-reconnect", test_name_reconnect);
    return g_test_run();
}
