/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/devices/console/backend.h"

enum { WAIT_MS = 5000 };

/* A sink that keeps what it gets, as much as it was given room for. */
typedef struct {
    GMutex lock;
    GByteArray *got;
    size_t room;
} Sink;

static size_t sink_can_receive(void *opaque)
{
    Sink *sink = opaque;
    size_t room;

    g_mutex_lock(&sink->lock);
    room = sink->room;
    g_mutex_unlock(&sink->lock);
    return room;
}

static void sink_receive(void *opaque, const uint8_t *data, size_t len)
{
    Sink *sink = opaque;

    g_mutex_lock(&sink->lock);
    g_assert_cmpuint(len, <=, sink->room);
    sink->room -= len;
    g_byte_array_append(sink->got, data, (guint)len);
    g_mutex_unlock(&sink->lock);
}

static const KumoConsoleSink sink_ops = {
    .can_receive = sink_can_receive,
    .receive = sink_receive,
};

static void sink_init(Sink *sink, size_t room)
{
    memset(sink, 0, sizeof(*sink));
    g_mutex_init(&sink->lock);
    sink->got = g_byte_array_new();
    sink->room = room;
}

static void sink_clear(Sink *sink)
{
    g_byte_array_unref(sink->got);
    g_mutex_clear(&sink->lock);
}

static bool sink_wait(Sink *sink, const char *text)
{
    size_t len = strlen(text);
    bool ok = false;

    for (int i = 0; i < WAIT_MS && !ok; i++) {
        g_mutex_lock(&sink->lock);
        ok = sink->got->len == len && memcmp(sink->got->data, text, len) == 0;
        g_mutex_unlock(&sink->lock);
        if (!ok)
            g_usleep(1000);
    }
    return ok;
}

static void sink_give_room(Sink *sink, size_t room)
{
    g_mutex_lock(&sink->lock);
    sink->room += room;
    g_mutex_unlock(&sink->lock);
}

static KumoVmConfig *config_new(KumoConsoleMode serial, const char *target)
{
    KumoVmConfig *config = kumo_vm_config_new();

    config->serial.mode = serial;
    config->serial.file = serial == KUMO_CONSOLE_FILE ? g_strdup(target) : NULL;
    config->serial.socket = serial == KUMO_CONSOLE_SOCKET ? g_strdup(target) : NULL;
    config->console.mode = KUMO_CONSOLE_OFF;
    return config;
}

static KumoConsoleSet *open_set(KumoVmConfig *config)
{
    g_autoptr(GError) error = NULL;
    KumoConsoleSet *set = kumo_console_set_open(config, &error);

    g_assert_no_error(error);
    g_assert_nonnull(set);
    return set;
}

static void write_text(KumoConsole *console, const char *text)
{
    kumo_console_write(console, (const uint8_t *)text, strlen(text));
}

/* Reads until exactly @text has come; what differs or is missing fails the test. */
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

static json_int_t counter(KumoConsole *console, const char *name)
{
    json_t *counters = kumo_console_counters(console);
    json_int_t value = json_integer_value(json_object_get(counters, name));

    json_decref(counters);
    return value;
}

static void test_null(void)
{
    g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_NULL, NULL);
    g_autoptr(KumoConsoleSet) set = open_set(config);

    g_assert_null(kumo_console_set_serial(set));
    g_assert_null(kumo_console_set_console(set));
    g_assert_null(kumo_console_set_serial(NULL));
    kumo_console_attach(NULL, &sink_ops, NULL);
    write_text(NULL, "dropped");
    kumo_console_input_ready(NULL);
    g_assert_null(kumo_console_counters(NULL));
    g_assert_false(kumo_console_size(NULL, NULL, NULL));
    kumo_console_detach(NULL);
}

static void test_file(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-console-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "log", NULL);
    g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_FILE, path);
    g_autoptr(GError) error = NULL;
    g_autofree char *content = NULL;
    KumoConsoleSet *set;

    g_assert_true(g_file_set_contents(path, "of the last run\n", -1, NULL));
    set = open_set(config);
    /* Everything is in the file when the set is closed. */
    for (unsigned i = 0; i < 1000; i++)
        write_text(kumo_console_set_serial(set), "0123456789abcdef0123456789abcde\n");
    g_assert_cmpint(counter(kumo_console_set_serial(set), "tx_bytes"), ==, 32000);
    kumo_console_set_close(set);
    g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
    g_assert_cmpuint(strlen(content), ==, 32000);
    g_assert_true(g_str_has_prefix(content, "0123456789abcdef"));
    unlink(path);
    g_rmdir(dir);

    g_assert_null(kumo_console_set_open(config, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND);
    g_assert_nonnull(strstr(error->message, path));
    g_assert_true(g_str_has_prefix(error->message, "serial: "));
}

/* Each of the three has its own file. */
static void test_three(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-console-XXXXXX", NULL);
    g_autoptr(KumoVmConfig) config = kumo_vm_config_new();
    KumoConsoleConfig *all[] = { &config->serial, &config->console,
                                 &config->debug_console.console };
    KumoConsoleSet *set;

    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        all[i]->mode = KUMO_CONSOLE_FILE;
        all[i]->file = g_strdup_printf("%s/%u", dir, i);
    }
    set = open_set(config);
    write_text(kumo_console_set_serial(set), "serial");
    write_text(kumo_console_set_console(set), "console");
    write_text(kumo_console_set_debug(set), "debug");
    kumo_console_set_close(set);
    for (unsigned i = 0; i < G_N_ELEMENTS(all); i++) {
        static const char *const texts[] = { "serial", "console", "debug" };
        g_autofree char *content = NULL;

        g_assert_true(g_file_get_contents(all[i]->file, &content, NULL, NULL));
        g_assert_cmpstr(content, ==, texts[i]);
        unlink(all[i]->file);
    }
    g_rmdir(dir);
    g_assert_null(kumo_console_set_debug(NULL));
}

static void test_pty(void)
{
    g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_PTY, NULL);
    g_autoptr(KumoConsoleSet) set = open_set(config);
    KumoConsole *console = kumo_console_set_serial(set);
    struct winsize size = { .ws_col = 132, .ws_row = 43 };
    uint16_t columns = 0, rows = 0;
    Sink sink;
    int fd;

    sink_init(&sink, 3);
    g_assert_cmpstr(config->serial.file, ==, kumo_console_pty_path(console));
    g_assert_true(g_str_has_prefix(config->serial.file, "/dev/pts/"));
    g_assert_false(kumo_console_size(console, &columns, &rows));

    write_text(console, "before anyone looks\r\n");
    fd = open(config->serial.file, O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    expect_text(fd, "before anyone looks\r\n");
    g_assert_cmpint(ioctl(fd, TIOCSWINSZ, &size), ==, 0);
    g_assert_true(kumo_console_size(console, &columns, &rows));
    g_assert_cmpuint(columns, ==, 132);
    g_assert_cmpuint(rows, ==, 43);

    /* Input waits for the device: nobody is attached, then there is room for three bytes only. */
    g_assert_true(kumo_write_full(fd, "abcde\r\x03", 7));
    g_usleep(10000);
    kumo_console_attach(console, &sink_ops, &sink);
    g_assert_true(sink_wait(&sink, "abc"));
    g_usleep(10000);
    g_assert_true(sink_wait(&sink, "abc"));
    sink_give_room(&sink, 100);
    kumo_console_input_ready(console);
    g_assert_true(sink_wait(&sink, "abcde\r\x03"));

    /* A reboot: another device attaches, the reader stays. */
    kumo_console_detach(console);
    kumo_console_attach(console, &sink_ops, &sink);
    write_text(console, "again");
    expect_text(fd, "again");
    g_assert_true(kumo_write_full(fd, "!", 1));
    g_assert_true(sink_wait(&sink, "abcde\r\x03!"));
    close(fd);
    kumo_console_detach(console);
    sink_clear(&sink);
}

/* Nobody reads: the guest is not held up, no thread spins, and a later reader gets the newest
 * output. */
static void test_pty_unread(void)
{
    g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_PTY, NULL);
    g_autoptr(KumoConsoleSet) set = open_set(config);
    KumoConsole *console = kumo_console_set_serial(set);
    g_autofree char *tail = g_malloc(1 << 20);
    struct rusage before, after;
    size_t got = 0;
    int fd;

    for (unsigned i = 0; i < 20000; i++) {
        g_autofree char *line = g_strdup_printf("line number %08u of many\r\n", i);

        write_text(console, line);
    }
    write_text(console, "the end");
    g_usleep(20000);
    getrusage(RUSAGE_SELF, &before);
    g_usleep(200000);
    getrusage(RUSAGE_SELF, &after);
    g_assert_cmpint((after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000 +
                        after.ru_utime.tv_usec - before.ru_utime.tv_usec +
                        (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000 +
                        after.ru_stime.tv_usec - before.ru_stime.tv_usec,
                    <, 50000);

    fd = open(config->serial.file, O_RDONLY | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(fd, >=, 0);
    for (;;) {
        struct pollfd ready = { .fd = fd, .events = POLLIN };
        ssize_t n;

        g_assert_cmpuint(got, <, (1 << 20) - 4096);
        if (got >= 7 && memcmp(tail + got - 7, "the end", 7) == 0)
            break;
        g_assert_cmpint(poll(&ready, 1, WAIT_MS), ==, 1);
        n = read(fd, tail + got, 4096);
        g_assert_cmpint(n, >, 0);
        got += (size_t)n;
    }
    g_assert_cmpuint(got, >=, 16384);
    g_assert_nonnull(memmem(tail, got, "line number 00019999 of many\r\nthe end", 37));
    g_assert_null(memmem(tail, got, "line number 00000100 ", 21));
    close(fd);
}

static int client_new(const char *path)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return fd;
}

static void expect_eof(int fd)
{
    struct pollfd ready = { .fd = fd, .events = POLLIN };
    char byte;

    g_assert_cmpint(poll(&ready, 1, WAIT_MS), ==, 1);
    g_assert_cmpint(read(fd, &byte, 1), ==, 0);
}

static void test_socket(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-console-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_SOCKET, path);
    KumoConsoleSet *set = open_set(config);
    KumoConsole *console = kumo_console_set_serial(set);
    Sink sink;
    int first, second;

    sink_init(&sink, 1000);
    kumo_console_attach(console, &sink_ops, &sink);
    write_text(console, "kept for the first client. ");
    first = client_new(path);
    expect_text(first, "kept for the first client. ");
    write_text(console, "live");
    expect_text(first, "live");
    g_assert_true(kumo_write_full(first, "one ", 4));
    g_assert_true(sink_wait(&sink, "one "));

    /* A second client takes over. */
    second = client_new(path);
    expect_eof(first);
    close(first);
    write_text(console, "for the second");
    expect_text(second, "for the second");
    g_assert_true(kumo_write_full(second, "two ", 4));
    g_assert_true(sink_wait(&sink, "one two "));

    /* It goes; a third one comes back to what was said meanwhile. */
    shutdown(second, SHUT_WR);
    expect_eof(second);
    close(second);
    write_text(console, "meanwhile");
    first = client_new(path);
    expect_text(first, "meanwhile");
    g_assert_true(kumo_write_full(first, "three", 5));
    g_assert_true(sink_wait(&sink, "one two three"));

    kumo_console_detach(console);
    kumo_console_set_close(set);
    expect_eof(first);
    close(first);
    g_assert_cmpint(access(path, F_OK), <, 0);
    g_assert_cmpint(g_rmdir(dir), ==, 0);
    sink_clear(&sink);
}

static void test_socket_stalled(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-console-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_SOCKET, path);
    KumoConsoleSet *set = open_set(config);
    KumoConsole *console = kumo_console_set_serial(set);
    g_autofree uint8_t *block = g_malloc0(10000);
    int fd = client_new(path);
    int64_t start;

    write_text(console, "x");
    expect_text(fd, "x");
    start = g_get_monotonic_time();
    for (unsigned i = 0; i < 200; i++)
        kumo_console_write(console, block, 10000);
    g_assert_cmpint(g_get_monotonic_time() - start, <, WAIT_MS * 1000);
    g_assert_cmpint(counter(console, "tx_bytes"), ==, 2000001);
    g_assert_cmpint(counter(console, "tx_dropped_bytes"), >, 1000000);
    kumo_console_set_close(set);
    close(fd);
    g_rmdir(dir);
}

static void test_socket_file(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-console-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "socket", NULL);
    g_autofree char *longer = g_strnfill(200, 'x');
    g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_SOCKET, path);
    g_autoptr(KumoVmConfig) too_long = config_new(KUMO_CONSOLE_SOCKET, longer);
    g_autoptr(GError) error = NULL;
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    KumoConsoleSet *set;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    /* A stale file is replaced. */
    g_strlcpy(addr.sun_path, path, sizeof(addr.sun_path));
    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    close(fd);
    set = open_set(config);

    /* A live one is not, and its client does not notice the attempt. */
    fd = client_new(path);
    write_text(kumo_console_set_serial(set), "a");
    expect_text(fd, "a");
    g_assert_null(kumo_console_set_open(config, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_clear_error(&error);
    write_text(kumo_console_set_serial(set), "b");
    expect_text(fd, "b");
    close(fd);
    kumo_console_set_close(set);

    /* Nor is anything that is no socket. */
    g_assert_true(g_file_set_contents(path, "precious", -1, NULL));
    g_assert_null(kumo_console_set_open(config, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_CONFLICT);
    g_clear_error(&error);
    g_assert_cmpint(access(path, F_OK), ==, 0);
    unlink(path);

    g_assert_null(kumo_console_set_open(too_long, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_rmdir(dir);
}

/*
 * The terminal, in a process of its own: standard input and output are a pty's slave or what a test
 * gives. The child opens a set with serial (and with @both virtio-console) on the terminal, tells
 * "ready", echoes its input in brackets and ends as it is told by it.
 */
typedef struct {
    bool both;
    bool own_session; /* the slave becomes its controlling terminal */
} ChildOptions;

static size_t echo_can_receive(void *opaque)
{
    return 16;
}

static void echo_receive(void *opaque, const uint8_t *data, size_t len)
{
    KumoConsole *console = opaque;

    write_text(console, "[");
    kumo_console_write(console, data, len);
    write_text(console, "]");
    if (data[0] == 'q')
        exit(0);
    if (data[0] == 'a')
        abort();
    if (data[0] == 'k')
        kill(getpid(), SIGTERM);
}

static const KumoConsoleSink echo_ops = {
    .can_receive = echo_can_receive,
    .receive = echo_receive,
};

G_NORETURN static void child_main(int in, int out, const ChildOptions *options)
{
    g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_TTY, NULL);
    struct rlimit no_core = { 0 };
    KumoConsoleSet *set;

    setrlimit(RLIMIT_CORE, &no_core);
    for (int sig = 1; sig < 32; sig++)
        signal(sig, SIG_DFL);
    if (options->own_session) {
        setsid();
        ioctl(in, TIOCSCTTY, 0);
    }
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    if (options->both)
        config->console.mode = KUMO_CONSOLE_TTY;
    set = kumo_console_set_open(config, NULL);
    if (!set)
        _exit(99);
    write_text(kumo_console_set_serial(set), "ready");
    kumo_console_attach(kumo_console_set_serial(set), &echo_ops, kumo_console_set_serial(set));
    if (options->both) {
        kumo_console_attach(kumo_console_set_console(set), &echo_ops,
                            kumo_console_set_console(set));
        write_text(kumo_console_set_console(set), "+");
    }
    for (;;)
        pause();
}

static int wait_child(pid_t pid)
{
    int status = 0;

    for (int i = 0; i < WAIT_MS; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid)
            return status;
        g_usleep(1000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    g_assert_not_reached();
}

static void new_pty(int *ret_master, int *ret_slave)
{
    *ret_master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(unlockpt(*ret_master), ==, 0);
    *ret_slave = ioctl(*ret_master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    g_assert_cmpint(*ret_slave, >=, 0);
}

static bool is_raw(int fd)
{
    struct termios termios;

    g_assert_cmpint(tcgetattr(fd, &termios), ==, 0);
    return !(termios.c_lflag & (ICANON | ECHO | ISIG)) && !(termios.c_oflag & OPOST);
}

static void assert_same_settings(int fd, const struct termios *wanted)
{
    struct termios now;

    g_assert_cmpint(tcgetattr(fd, &now), ==, 0);
    g_assert_cmphex(now.c_iflag, ==, wanted->c_iflag);
    g_assert_cmphex(now.c_oflag, ==, wanted->c_oflag);
    g_assert_cmphex(now.c_cflag, ==, wanted->c_cflag);
    g_assert_cmphex(now.c_lflag, ==, wanted->c_lflag);
}

static void test_tty_restore(gconstpointer data)
{
    const char *way = data;
    ChildOptions options = { .own_session = true };
    struct termios before;
    int master, slave, status;
    pid_t pid;

    new_pty(&master, &slave);
    g_assert_cmpint(tcgetattr(slave, &before), ==, 0);
    g_assert_true(before.c_lflag & ICANON);
    pid = fork();
    if (pid == 0)
        child_main(slave, slave, &options);
    expect_text(master, "ready");
    g_assert_true(is_raw(slave));
    /* Neither Ctrl-C nor Ctrl-D are for the VMM. */
    g_assert_true(kumo_write_full(master, "\x03", 1));
    expect_text(master, "[\x03]");
    g_assert_true(kumo_write_full(master, "\x04", 1));
    expect_text(master, "[\x04]");
    if (g_str_has_prefix(way, "SIG")) {
        int sig = atoi(way + 3);

        kill(pid, sig);
        status = wait_child(pid);
        g_assert_true(WIFSIGNALED(status));
        g_assert_cmpint(WTERMSIG(status), ==, sig);
    } else {
        g_assert_true(kumo_write_full(master, way, 1));
        status = wait_child(pid);
        if (way[0] == 'q')
            g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        else
            g_assert_true(WIFSIGNALED(status));
    }
    assert_same_settings(slave, &before);
    close(slave);
    close(master);
}

/* All output is in the log, whoever reads it from the pty or not. */
static void test_log(void)
{
    g_autofree char *dir = g_dir_make_tmp("kumo-console-XXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "log", NULL);
    g_autofree char *content = NULL;
    g_autoptr(GError) error = NULL;
    KumoConsoleSet *set;

    for (unsigned append = 0; append < 2; append++) {
        g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_PTY, NULL);

        g_assert_true(g_file_set_contents(path, "before\n", -1, NULL));
        config->serial.log_file = g_strdup(path);
        config->serial.log_append = append;
        set = open_set(config);
        for (unsigned i = 0; i < 2000; i++)
            write_text(kumo_console_set_serial(set), "0123456789abcdef0123456789abcde\n");
        kumo_console_set_close(set);
        g_clear_pointer(&content, g_free);
        g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
        g_assert_cmpuint(strlen(content), ==, 2000 * 32 + (append ? strlen("before\n") : 0));
        g_assert_true(g_str_has_prefix(content, append ? "before\n0123" : "0123"));
    }
    unlink(path);
    g_rmdir(dir);

    {
        g_autoptr(KumoVmConfig) config = config_new(KUMO_CONSOLE_PTY, NULL);

        config->serial.log_file = g_strdup(path);
        g_assert_null(kumo_console_set_open(config, &error));
        g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND);
    }
}

/* Both consoles on one terminal: both write, and one key press arrives once. */
static void test_tty_double(void)
{
    ChildOptions options = { .both = true, .own_session = true };
    int master, slave;
    char got[64] = { 0 };
    size_t len = 0;
    pid_t pid;

    new_pty(&master, &slave);
    pid = fork();
    if (pid == 0)
        child_main(slave, slave, &options);
    while (len < 6) {
        ssize_t n = read(master, got + len, sizeof(got) - len);

        g_assert_cmpint(n, >, 0);
        len += (size_t)n;
    }
    g_assert_true(g_str_equal(got, "ready+") || strchr(got, '+'));
    for (unsigned i = 0; i < 20; i++) {
        g_assert_true(kumo_write_full(master, "z", 1));
        expect_text(master, "[z]");
    }
    kill(pid, SIGKILL);
    wait_child(pid);
    close(slave);
    close(master);
}

/* Input from a pipe or /dev/null ends; the console goes on writing. */
static void test_tty_not_a_terminal(void)
{
    ChildOptions options = { 0 };
    int in[2], out[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
    pid_t pid;

    g_assert_cmpint(pipe2(in, O_CLOEXEC), ==, 0);
    g_assert_cmpint(pipe2(out, O_CLOEXEC), ==, 0);
    pid = fork();
    if (pid == 0)
        child_main(in[0], out[1], &options);
    expect_text(out[0], "ready");
    g_assert_true(kumo_write_full(in[1], "hello", 5));
    expect_text(out[0], "[hello]");
    /* The description that others share has not become non-blocking. */
    g_assert_false(fcntl(out[1], F_GETFL) & O_NONBLOCK);
    g_assert_false(fcntl(in[0], F_GETFL) & O_NONBLOCK);
    close(in[1]);
    close(in[0]);
    g_usleep(50000);
    g_assert_cmpint(waitpid(pid, NULL, WNOHANG), ==, 0);
    kill(pid, SIGKILL);
    wait_child(pid);

    pid = fork();
    if (pid == 0)
        child_main(null, out[1], &options);
    expect_text(out[0], "ready");
    g_usleep(50000);
    g_assert_cmpint(waitpid(pid, NULL, WNOHANG), ==, 0);
    /* The reader of its output goes: no SIGPIPE. */
    close(out[0]);
    close(out[1]);
    g_usleep(20000);
    g_assert_cmpint(waitpid(pid, NULL, WNOHANG), ==, 0);
    kill(pid, SIGKILL);
    wait_child(pid);
    close(null);
}

/* In a background process group: not stopped, the terminal untouched, output written; then in
 * front. */
static void test_tty_background(void)
{
    ChildOptions options = { 0 };
    struct termios before;
    int master, slave, sync[2], status;
    char byte;
    pid_t leader;

    new_pty(&master, &slave);
    g_assert_cmpint(pipe2(sync, O_CLOEXEC), ==, 0);
    g_assert_cmpint(tcgetattr(slave, &before), ==, 0);
    leader = fork();
    if (leader == 0) {
        pid_t child;

        setsid();
        ioctl(slave, TIOCSCTTY, 0);
        child = fork();
        if (child == 0) {
            setpgid(0, 0);
            child_main(slave, slave, &options);
        }
        setpgid(child, child);
        if (read(sync[0], &byte, 1) != 1)
            _exit(1);
        signal(SIGTTOU, SIG_IGN);
        tcsetpgrp(slave, child);
        waitpid(child, &status, WUNTRACED);
        _exit(WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : 2);
    }
    expect_text(master, "ready");
    g_assert_false(is_raw(slave));
    assert_same_settings(slave, &before);
    g_assert_true(kumo_write_full(sync[1], "f", 1));
    for (int i = 0; i < WAIT_MS && !is_raw(slave); i++)
        g_usleep(1000);
    g_assert_true(is_raw(slave));
    g_assert_true(kumo_write_full(master, "q", 1));
    status = wait_child(leader);
    g_assert_true(WIFEXITED(status));
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
    close(sync[0]);
    close(sync[1]);
    close(slave);
    close(master);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/console/null", test_null);
    g_test_add_func("/console/file", test_file);
    g_test_add_func("/console/log", test_log);
    g_test_add_func("/console/three", test_three);
    g_test_add_func("/console/pty", test_pty);
    g_test_add_func("/console/pty-unread", test_pty_unread);
    g_test_add_func("/console/socket", test_socket);
    g_test_add_func("/console/socket-stalled", test_socket_stalled);
    g_test_add_func("/console/socket-file", test_socket_file);
    g_test_add_data_func("/console/tty/exit", "q", test_tty_restore);
    g_test_add_data_func("/console/tty/abort", "a", test_tty_restore);
    g_test_add_data_func("/console/tty/own-kill", "k", test_tty_restore);
    g_test_add_data_func("/console/tty/SIGHUP", "SIG1", test_tty_restore);
    g_test_add_data_func("/console/tty/SIGINT", "SIG2", test_tty_restore);
    g_test_add_data_func("/console/tty/SIGQUIT", "SIG3", test_tty_restore);
    g_test_add_data_func("/console/tty/SIGTERM", "SIG15", test_tty_restore);
    g_test_add_data_func("/console/tty/SIGSEGV", "SIG11", test_tty_restore);
    g_test_add_func("/console/tty/double", test_tty_double);
    g_test_add_func("/console/tty/not-a-terminal", test_tty_not_a_terminal);
    g_test_add_func("/console/tty/background", test_tty_background);
    return g_test_run();
}
