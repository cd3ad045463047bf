/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/sandbox.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"

/* From the C library, GLib and the log, on every thread. */
static const KumoSyscall common_calls[] = {
    { KUMO_SYSCALL(read) },
    { KUMO_SYSCALL(write) },
    { KUMO_SYSCALL(close) },
    { KUMO_SYSCALL(futex) },
    { KUMO_SYSCALL_MASKED(mmap, 2, PROT_EXEC, 0) },
    { KUMO_SYSCALL_MASKED(mprotect, 2, PROT_EXEC, 0) },
    { KUMO_SYSCALL(munmap) },
    { KUMO_SYSCALL(mremap) },
    { KUMO_SYSCALL(madvise) },
    { KUMO_SYSCALL(mlock2) }, /* of the guest's memory; with munlock, when some of it goes */
    { KUMO_SYSCALL(munlock) },
    { KUMO_SYSCALL(brk) },
    { KUMO_SYSCALL(exit) },
    { KUMO_SYSCALL(exit_group) },
    { KUMO_SYSCALL(getpid) },
    { KUMO_SYSCALL(gettid) },
    { KUMO_SYSCALL(tgkill) },
    { KUMO_SYSCALL(rt_sigaction) },
    { KUMO_SYSCALL(rt_sigprocmask) },
    { KUMO_SYSCALL(rt_sigreturn) },
    { KUMO_SYSCALL(restart_syscall) },
    { KUMO_SYSCALL(clock_gettime) },
    { KUMO_SYSCALL(clock_nanosleep) },
    { KUMO_SYSCALL(gettimeofday) },
    { KUMO_SYSCALL(getrandom) },
    { KUMO_SYSCALL(sched_yield) },
    { KUMO_SYSCALL(sched_getaffinity) }, /* malloc(3) counts the processors for its arenas */
    { KUMO_SYSCALL_IF(prctl, 0, PR_SET_NAME) },
    { KUMO_SYSCALL_IF(prctl, 0, PR_GET_NAME) },
    /* Landlock, which each thread has to enforce upon itself; the rules are the main thread's. */
    { KUMO_SYSCALL_IF(prctl, 0, PR_SET_NO_NEW_PRIVS) },
    { KUMO_SYSCALL(landlock_restrict_self) },
#ifdef __SANITIZE_ADDRESS__
    /* The sanitizers' run-time library, which symbolises in a child and looks for leaks in a clone.
     */
    { KUMO_SYSCALL(sigaltstack) },
    { KUMO_SYSCALL(clone) },
    { KUMO_SYSCALL(fork) },
    { KUMO_SYSCALL(execve) },
    { KUMO_SYSCALL(pipe) },
    { KUMO_SYSCALL(pipe2) },
    { KUMO_SYSCALL(dup2) },
    { KUMO_SYSCALL(fcntl) },
    { KUMO_SYSCALL(ptrace) },
    { KUMO_SYSCALL(wait4) },
    { KUMO_SYSCALL(kill) },
    { KUMO_SYSCALL(getppid) },
    { KUMO_SYSCALL(prctl) },
    { KUMO_SYSCALL(mmap) },
    { KUMO_SYSCALL(mprotect) },
    { KUMO_SYSCALL(open) },
    { KUMO_SYSCALL(openat) },
    { KUMO_SYSCALL(stat) },
    { KUMO_SYSCALL(fstat) },
    { KUMO_SYSCALL(newfstatat) },
    { KUMO_SYSCALL(readlink) },
    { KUMO_SYSCALL(getdents) },
    { KUMO_SYSCALL(getdents64) },
    { KUMO_SYSCALL(prlimit64) },
    { KUMO_SYSCALL(getrlimit) },
    { KUMO_SYSCALL(setrlimit) },
    { KUMO_SYSCALL(personality) },
    { KUMO_SYSCALL(process_vm_readv) },
#endif
};

const KumoSyscallTable kumo_common_syscalls = KUMO_SYSCALL_TABLE(common_calls);

/* Starting threads, but no processes, and what a thread does before it enters its own filter. */
static const KumoSyscall thread_calls[] = {
    { KUMO_SYSCALL_MASKED(clone, 0, CLONE_VM | CLONE_THREAD, CLONE_VM | CLONE_THREAD) },
    /* Its flags are in memory, where no filter looks: pthread_create(3) uses clone(2) then. */
    { KUMO_SYSCALL(clone3), .errno_value = ENOSYS },
    { KUMO_SYSCALL(set_robust_list) },
    { KUMO_SYSCALL(rseq) },
    { KUMO_SYSCALL_IF(seccomp, 0, SECCOMP_SET_MODE_FILTER) },
};

const KumoSyscallTable kumo_thread_start_syscalls = KUMO_SYSCALL_TABLE(thread_calls);

static const KumoSandboxParams *sandbox; /* NULL: none; written before there are threads */

/* --- the report of a forbidden call, from a signal handler --- */

static char *append_text(char *at, const char *end, const char *text)
{
    while (*text && at < end)
        *at++ = *text++;
    return at;
}

static char *append_number(char *at, const char *end, unsigned long number, unsigned base)
{
    char digits[24];
    unsigned n = 0;

    do {
        digits[n++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0);
    while (n > 0 && at < end)
        *at++ = digits[--n];
    return at;
}

/* Only what is safe in a signal handler and allowed to every thread. */
static void on_forbidden_call(int signal_number, siginfo_t *info, void *context)
{
    static const struct sigaction standard = { .sa_handler = SIG_DFL };
    char thread[16] = "";
    char text[256];
    char *at = text;
    const char *end = text + sizeof(text);

    prctl(PR_GET_NAME, thread);
    at = append_text(at, end, "kumo: thread ");
    at = append_text(at, end, thread);
    at = append_text(at, end, ": forbidden system call ");
    at = append_number(at, end, (unsigned long)(unsigned)info->si_syscall, 10);
    at = append_text(at, end, " of architecture 0x");
    at = append_number(at, end, info->si_arch, 16);
    at = append_text(at, end, ", see --seccomp in kumo(1)\n");
    kumo_log_write_raw(text, (size_t)(at - text));
    /* The end that the signal has without a handler, so that whoever waits for the process sees it.
     */
    sigaction(signal_number, &standard, NULL);
    syscall(SYS_tgkill, getpid(), gettid(), signal_number);
}

static void install_report(void)
{
    const struct sigaction action = { .sa_sigaction = on_forbidden_call, .sa_flags = SA_SIGINFO };

    sigaction(SIGSYS, &action, NULL);
}

/* With the signal blocked, the kernel would end the process without the handler. */
static void unblock_report(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGSYS);
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* Returns: 0 or an errno. */
static int load(const KumoThreadKind *kind, unsigned flags)
{
    for (const KumoSandboxProgram *program = sandbox->programs; program->kind; program++) {
        if (program->mode == sandbox->mode && strcmp(program->kind, kind->name) == 0) {
            const struct sock_fprog filter = {
                .len = program->length,
                .filter = (struct sock_filter *)program->code, /* which the kernel copies */
            };

            /* With TSYNC a positive result is the thread that could not follow. */
            errno = 0;
            return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &filter) == 0
                       ? 0
                       : (errno ? errno : EBUSY);
        }
    }
    return ENOENT;
}

static int compare_nothing(const void *a, const void *b)
{
    (void)a;
    (void)b;
    return 0;
}

/* Lets an arena grow and be trimmed: before the first time malloc(3) looks how memory is committed.
 * Only threads other than the main one have such arenas. */
static void *use_arena(void *opaque)
{
    char
        *volatile blocks[8]; /* of more than M_TRIM_THRESHOLD, each of less than M_MMAP_THRESHOLD */
    enum { BLOCK_BYTES = 64 << 10 };

    for (size_t i = 0; i < G_N_ELEMENTS(blocks); i++)
        blocks[i] = malloc(BLOCK_BYTES);
    if (blocks[0])
        qsort(blocks[0], 2, BLOCK_BYTES / 2, compare_nothing);
    for (size_t i = 0; i < G_N_ELEMENTS(blocks); i++)
        free(blocks[i]);
    return opaque;
}

/* What the C library asks the system when it is first needed, be it by a thread that may not ask:
 * malloc(3) counts the processors and looks how memory is committed, qsort(3) how much there is. */
static int settle_c_library(void)
{
    pthread_t thread;
    int err;

    mallopt(M_ARENA_MAX, 8 * (int)g_get_num_processors()); /* the default */
    err = pthread_create(&thread, NULL, use_arena, NULL);
    return err ? err : pthread_join(thread, NULL);
}

bool kumo_sandbox_start(const KumoSandboxParams *params, GError **error)
{
    int err;

    if (params->mode == KUMO_SANDBOX_OFF)
        return true;
    err = settle_c_library();
    if (err) {
        kumo_set_error_errno(error, err, "a thread before the system call filter");
        return false;
    }
    sandbox = params;
    if (params->mode == KUMO_SANDBOX_TRAP) {
        install_report();
        unblock_report();
    }
    err = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? errno : 0;
    if (!err)
        err = load(params->main, SECCOMP_FILTER_FLAG_TSYNC);
    if (!err)
        return true;
    sandbox = NULL;
    kumo_set_error_errno(error, err, "system call filter of the process");
    return false;
}

void kumo_sandbox_enter(const KumoThreadKind *kind)
{
    int err;

    if (!sandbox)
        return;
    if (sandbox->mode == KUMO_SANDBOX_TRAP)
        unblock_report();
    err = load(kind, 0);
    if (err) {
        kumo_error("system call filter of a thread of the kind %s: %s", kind->name,
                   g_strerror(err));
        _exit(EXIT_FAILURE);
    }
}
