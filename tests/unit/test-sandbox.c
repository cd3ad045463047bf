/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The system call filter: every kind of thread is stopped at what is not its business. */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "vmm-core/base/sandbox.h"
#include "vmm-core/main/threads.h"

static void start(KumoSandboxMode mode)
{
    static KumoSandboxParams params;
    GError *error = NULL;

    params = (KumoSandboxParams){ .mode = mode,
                                  .main = &kumo_main_thread,
                                  .programs = kumo_sandbox_programs };
    g_assert_true(kumo_sandbox_start(&params, &error));
    g_assert_no_error(error);
}

/* A call that this test makes; its result says nothing of the filter unless the errno is EPERM or
 * ENOSYS. */
typedef struct {
    long number, first, second, third;
} Call;

typedef struct {
    const KumoThreadKind *kind; /* NULL: a thread of a library */
    Call call;
    int err;
} Thread;

static void *thread_main(void *opaque)
{
    Thread *self = opaque;

    pthread_setname_np(pthread_self(), "under-test");
    if (self->kind)
        kumo_sandbox_enter(self->kind);
    errno = 0;
    if (syscall(self->call.number, self->call.first, self->call.second, self->call.third) < 0)
        self->err = errno;
    return NULL;
}

/* Returns: the errno with which a thread of @kind makes @call, 0 for success. */
static int call_as(const KumoThreadKind *kind, Call call)
{
    Thread self = { .kind = kind, .call = call };
    pthread_t thread;

    g_assert_cmpint(pthread_create(&thread, NULL, thread_main, &self), ==, 0);
    pthread_join(thread, NULL);
    return self.err;
}

static const KumoThreadKind *find_kind(const char *name)
{
    for (const KumoThreadKind *const *kind = kumo_thread_kinds; *kind; kind++) {
        if (g_str_equal((*kind)->name, name))
            return *kind;
    }
    g_error("there is no kind of thread %s", name);
}

/* One that no other thread may make, one that others do, and one that it makes itself: with
 * descriptor -1, EBADF. */
static const struct {
    const char *kind;
    Call never, not_here, fine;
} kinds[] = {
    { "vcpu",
      { SYS_mount, 0, 0, 0 },
      { SYS_socket, AF_INET, SOCK_STREAM, 0 },
      { SYS_ioctl, -1, KVM_RUN, 0 } },
    { "disk",
      { SYS_mount, 0, 0, 0 },
      { SYS_io_uring_setup, 1, 0, 0 },
      { SYS_fdatasync, -1, 0, 0 } },
    { "network", { SYS_mount, 0, 0, 0 }, { SYS_ioctl, -1, KVM_RUN, 0 }, { SYS_writev, -1, 0, 0 } },
    { "slow-devices",
      { SYS_mount, 0, 0, 0 },
      { SYS_io_uring_setup, 1, 0, 0 },
      { SYS_ioctl, -1, KVM_SIGNAL_MSI, 0 } },
    { "console",
      { SYS_ioctl, -1, TIOCSTI, 0 },
      { SYS_socket, AF_NETLINK, SOCK_RAW, 0 },
      { SYS_ioctl, -1, TIOCGWINSZ, 0 } },
    { "prefault",
      { SYS_mount, 0, 0, 0 },
      { SYS_epoll_create1, 0, 0, 0 },
      { SYS_madvise, 1, 0, MADV_NORMAL } },
    { "migration",
      { SYS_ioctl, -1, TIOCSTI, 0 },
      { SYS_ioctl, -1, KVM_RUN, 0 },
      { SYS_ioctl, -1, KVM_GET_DIRTY_LOG, 0 } },
    { "userfault",
      { SYS_mount, 0, 0, 0 },
      { SYS_socket, AF_UNIX, SOCK_STREAM, 0 },
      { SYS_ioctl, -1, UFFDIO_COPY, 0 } },
};

static void assert_stopped(const Call *call)
{
    g_autofree char *report = g_strdup_printf(
        "*thread under-test: forbidden system call %ld of architecture 0x*--seccomp*",
        call->number);

    g_test_trap_assert_failed();
    g_test_trap_assert_stderr(report);
}

static void test_kind(gconstpointer data)
{
    size_t index = GPOINTER_TO_SIZE(data);
    const Call *forbidden[] = { &kinds[index].never, &kinds[index].not_here };

    for (size_t i = 0; i < G_N_ELEMENTS(forbidden); i++) {
        g_autofree char *path = g_strdup_printf("/sandbox/subprocess/%s/%zu", kinds[index].kind, i);

        g_test_trap_subprocess(path, 0, G_TEST_SUBPROCESS_DEFAULT);
        assert_stopped(forbidden[i]);
    }
}

static void subprocess_kind(gconstpointer data)
{
    size_t code = GPOINTER_TO_SIZE(data);
    const KumoThreadKind *kind = find_kind(kinds[code / 2].kind);
    int err;

    start(KUMO_SANDBOX_TRAP);
    err = call_as(kind, kinds[code / 2].fine);
    g_assert_true(err == EBADF || err == EINVAL);
    call_as(kind, code % 2 ? kinds[code / 2].not_here : kinds[code / 2].never);
}

static int compare_nothing(const void *a, const void *b)
{
    (void)a;
    (void)b;
    return 0;
}

/* An arena of its own grows and is trimmed, and a sort is too large for the stack: what the C
 * library then reads from files it has read before. */
static void *use_c_library(void *opaque)
{
    enum { N_BLOCKS = 64, BLOCK_BYTES = 64 << 10 };
    char *volatile blocks[N_BLOCKS];

    kumo_sandbox_enter(opaque);
    for (size_t i = 0; i < N_BLOCKS; i++) {
        blocks[i] = malloc(BLOCK_BYTES);
        blocks[i][0] = (char)i;
    }
    qsort(blocks[0], 2, BLOCK_BYTES / 2, compare_nothing);
    for (size_t i = 0; i < N_BLOCKS; i++)
        free(blocks[i]);
    return NULL;
}

static void test_c_library(gconstpointer data)
{
    size_t index = GPOINTER_TO_SIZE(data);

    if (g_test_subprocess()) {
        pthread_t thread;

        start(KUMO_SANDBOX_TRAP);
        g_assert_cmpint(
            pthread_create(&thread, NULL, use_c_library, (void *)find_kind(kinds[index].kind)), ==,
            0);
        pthread_join(thread, NULL);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_passed();
}

/* The table above has each kind there is. */
static void test_complete(void)
{
    size_t n = 0;

    while (kumo_thread_kinds[n])
        g_assert_nonnull(find_kind(kinds[n++].kind));
    g_assert_cmpuint(n, ==, G_N_ELEMENTS(kinds));
}

static void test_main_thread(void)
{
    if (g_test_subprocess()) {
        start(KUMO_SANDBOX_TRAP);
        pthread_setname_np(pthread_self(), "under-test");
        g_assert_cmpint(syscall(SYS_socket, AF_NETLINK + 100, 0, 0), ==, -1);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    assert_stopped(&(Call){ SYS_socket, 0, 0, 0 });
}

/* Threads that were there before, and those that libraries start, have the main thread's filter. */
static void *wait_and_mount(void *opaque)
{
    uint64_t value;

    pthread_setname_np(pthread_self(), "under-test");
    g_assert_cmpint(read(*(int *)opaque, &value, sizeof(value)), ==, sizeof(value));
    syscall(SYS_mount, 0, 0, 0, 0, 0);
    return NULL;
}

static void test_older_thread(void)
{
    if (g_test_subprocess()) {
        int fd = eventfd(0, 0);
        uint64_t value = 1;
        pthread_t thread;

        g_assert_cmpint(pthread_create(&thread, NULL, wait_and_mount, &fd), ==, 0);
        start(KUMO_SANDBOX_TRAP);
        g_assert_cmpint(write(fd, &value, sizeof(value)), ==, sizeof(value));
        pthread_join(thread, NULL);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    assert_stopped(&(Call){ SYS_mount, 0, 0, 0 });
}

static void test_library_thread(void)
{
    if (g_test_subprocess()) {
        start(KUMO_SANDBOX_TRAP);
        call_as(NULL, (Call){ SYS_mount, 0, 0, 0 });
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    assert_stopped(&(Call){ SYS_mount, 0, 0, 0 });
}

/* Signals are blocked on workers: the report comes all the same. */
static void test_blocked_signals(void)
{
    if (g_test_subprocess()) {
        sigset_t all;

        start(KUMO_SANDBOX_TRAP);
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, NULL);
        call_as(find_kind("network"), (Call){ SYS_mount, 0, 0, 0 });
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    assert_stopped(&(Call){ SYS_mount, 0, 0, 0 });
}

static void test_errno(void)
{
    if (g_test_subprocess()) {
        start(KUMO_SANDBOX_ERRNO);
        for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
            g_assert_cmpint(call_as(find_kind(kinds[i].kind), kinds[i].never), ==, EPERM);
            g_assert_cmpint(call_as(find_kind(kinds[i].kind), kinds[i].not_here), ==, EPERM);
        }
        /* As a kernel without it. */
        g_assert_cmpint(call_as(NULL, (Call){ SYS_clone3, 0, 0, 0 }), ==, ENOSYS);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_passed();
}

static void test_log(void)
{
    if (g_test_subprocess()) {
        start(KUMO_SANDBOX_LOG);
        g_assert_cmpint(call_as(find_kind("disk"), (Call){ SYS_getppid, 0, 0, 0 }), ==, 0);
        g_assert_cmpint(call_as(find_kind("disk"), (Call){ SYS_connect, -1, 0, 0 }), ==, EBADF);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_passed();
}

static void test_off(void)
{
    if (g_test_subprocess()) {
        start(KUMO_SANDBOX_OFF);
        g_assert_cmpint(call_as(find_kind("disk"), (Call){ SYS_connect, -1, 0, 0 }), ==, EBADF);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_passed();
}

#ifndef __SANITIZE_ADDRESS__ /* its library maps whatever it likes, and makes processes */
static void test_no_code(void)
{
    if (g_test_subprocess()) {
        start(KUMO_SANDBOX_ERRNO);
        g_assert_cmpint(
            call_as(find_kind("vcpu"), (Call){ SYS_mmap, 0, 4096, PROT_READ | PROT_EXEC }), ==,
            EPERM);
        g_assert_cmpint(
            call_as(find_kind("disk"), (Call){ SYS_mprotect, 0, 4096, PROT_WRITE | PROT_EXEC }), ==,
            EPERM);
        g_assert_cmpint(call_as(NULL, (Call){ SYS_clone, SIGCHLD, 0, 0 }), ==, EPERM);
        g_assert_cmpint(call_as(NULL, (Call){ SYS_execve, 0, 0, 0 }), ==, EPERM);
        return;
    }
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_DEFAULT);
    g_test_trap_assert_passed();
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        g_autofree char *path = g_strdup_printf("/sandbox/kind/%s", kinds[i].kind);

        g_autofree char *library = g_strdup_printf("/sandbox/c-library/%s", kinds[i].kind);

        g_test_add_data_func(path, GSIZE_TO_POINTER(i), test_kind);
        g_test_add_data_func(library, GSIZE_TO_POINTER(i), test_c_library);
        for (size_t j = 0; j < 2; j++) {
            g_autofree char *sub = g_strdup_printf("/sandbox/subprocess/%s/%zu", kinds[i].kind, j);

            g_test_add_data_func(sub, GSIZE_TO_POINTER(2 * i + j), subprocess_kind);
        }
    }
    g_test_add_func("/sandbox/complete", test_complete);
    g_test_add_func("/sandbox/main", test_main_thread);
    g_test_add_func("/sandbox/older-thread", test_older_thread);
    g_test_add_func("/sandbox/library-thread", test_library_thread);
    g_test_add_func("/sandbox/blocked-signals", test_blocked_signals);
    g_test_add_func("/sandbox/errno", test_errno);
    g_test_add_func("/sandbox/log", test_log);
    g_test_add_func("/sandbox/off", test_off);
#ifndef __SANITIZE_ADDRESS__
    g_test_add_func("/sandbox/no-code", test_no_code);
#endif
    return g_test_run();
}
