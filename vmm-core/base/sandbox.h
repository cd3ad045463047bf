/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What system calls a thread may make. Each kind of thread has tables of them beside its function;
 * everything else is stopped. A thread has its parent's filter, too, so the main thread's allows
 * whatever any other's does. libseccomp makes the filters of the tables when kumo is built
 * (main/sandbox_compile.c): that takes longer than all the rest of a start. docs/threads.md tells
 * how to add a call.
 */
#pragma once

#include <glib.h>
#include <linux/filter.h>
#include <seccomp.h>
#include <stdbool.h>
#include <stdint.h>

/* A system call that may be made, if one of its arguments, as looked at through a mask of 32 bits,
 * is as it should. */
typedef struct {
    int number;
    int errno_value; /* not 0: it may not be made, but fails with this, which the C library knows
                        how to take */
    bool looks;      /* at the argument: else any do */
    unsigned argument;
    uint32_t mask, value;
} KumoSyscall;

/* Rows of a table: the call with any arguments; with one of them as given; with some bits of one as
 * given. */
#define KUMO_SYSCALL(name) .number = SCMP_SYS(name)
#define KUMO_SYSCALL_IF(name, n, wanted)                                                           \
    .number = SCMP_SYS(name), .looks = true, .argument = (n), .mask = UINT32_MAX,                  \
    .value = (uint32_t)(wanted)
#define KUMO_SYSCALL_MASKED(name, n, bits, wanted)                                                 \
    .number = SCMP_SYS(name), .looks = true, .argument = (n), .mask = (uint32_t)(bits),            \
    .value = (uint32_t)(wanted)
#define KUMO_IOCTL(request) KUMO_SYSCALL_IF(ioctl, 1, request)

typedef struct {
    const KumoSyscall *calls;
    size_t n_calls;
} KumoSyscallTable;

#define KUMO_SYSCALL_TABLE(array)                                                                  \
    {                                                                                              \
        .calls = (array), .n_calls = G_N_ELEMENTS(array)                                           \
    }

/* What all threads do: the C library, GLib, the log. */
extern const KumoSyscallTable kumo_common_syscalls;

/* Starting threads, but no processes; of the main thread, and of others that start some. */
extern const KumoSyscallTable kumo_thread_start_syscalls;

/* What a thread asks of the hypervisor, whose system calls are added to its own. */
typedef enum {
    KUMO_THREAD_RUNS_VCPU = 1 << 0,
    KUMO_THREAD_HAS_DEVICES = 1 << 1,
    KUMO_THREAD_READS_DIRTY_LOG = 1 << 2,
} KumoThreadRoles;

typedef struct {
    const char *name;                      /* of this kind only: "vcpu" */
    unsigned roles;                        /* of KumoThreadRoles */
    const KumoSyscallTable *const *tables; /* NULL-terminated; what all threads do is added */
} KumoThreadKind;

/* What a hypervisor's operations do, by the role of the thread; the rest is the main thread's. */
typedef struct {
    const KumoSyscallTable *vcpu, *device, *dirty_log, *machine;
} KumoHypervisorSyscalls;

typedef enum {
    KUMO_SANDBOX_OFF,
    KUMO_SANDBOX_TRAP,  /* a forbidden call ends the process, with a report on standard error or in
                           the log */
    KUMO_SANDBOX_LOG,   /* it is made, and the kernel's audit log tells it */
    KUMO_SANDBOX_ERRNO, /* it fails with EPERM */
} KumoSandboxMode;

/* What seccomp(2) takes for the threads of one kind. */
typedef struct {
    const char *kind; /* its name; NULL: the end of a table of programs */
    KumoSandboxMode mode;
    unsigned short length; /* instructions */
    const struct sock_filter *code;
} KumoSandboxProgram;

typedef struct {
    KumoSandboxMode mode;
    const KumoThreadKind *main;
    const KumoSandboxProgram *programs; /* of all kinds and modes */
} KumoSandboxParams;

/**
 * kumo_sandbox_start:
 * @params: kept by reference
 *
 * Restricts all threads of the process to what the main thread and all other kinds may do, and lets
 * kumo_sandbox_enter() restrict further. Called once. Sets no_new_privs.
 *
 * Returns: TRUE, or FALSE with @error and nothing changed.
 */
bool kumo_sandbox_start(const KumoSandboxParams *params, GError **error);

/**
 * kumo_sandbox_enter:
 * @kind: one that has a program for kumo_sandbox_start()
 *
 * The first thing in a thread's function. Does nothing unless kumo_sandbox_start() was called. Ends
 * the process, with a message, if there is no program or the kernel has no memory for it: no thread
 * works without.
 */
void kumo_sandbox_enter(const KumoThreadKind *kind);
