/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/base/landlock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/log.h"

/* Of Linux 6.2; the headers may be older. */
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif

enum {
    ABI_REFER = 2,    /* Linux 5.19: files may be renamed from one directory into another */
    ABI_TRUNCATE = 3, /* Linux 6.2 */
    THREAD_PATIENCE_US = 3000000,
    THREAD_INTERVAL_US = 50,
};

/* What can be allowed for what is no directory. */
#define FILE_RIGHTS                                                                                \
    (LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE |   \
     LANDLOCK_ACCESS_FS_TRUNCATE)

#define WRITE_RIGHTS                                                                               \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |                               \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | \
     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |   \
     LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER |      \
     LANDLOCK_ACCESS_FS_TRUNCATE)

enum { ASKED = -1 };

/*
 * The signal that no thread blocks, be it a library's that blocks all: sigfillset(3) leaves it out,
 * for the C library reaches threads by it when the process changes its user. kumo never does, nor
 * may it by its filter of system calls.
 */
enum { SIGNAL = 33 };

static const char denied_hint[] =
    " (Landlock is in force: only what the configuration named at first and what landlock_rules "
    "name can be opened)";

static _Atomic bool enforced;

/* Main thread only. Kept, since /proc cannot be opened any more once rules are in force. */
static DIR *threads;

/* What one thread, and no other, is asked to do in a signal handler. */
static struct {
    _Atomic int ruleset_fd; /* -1: nothing */
    _Atomic int tid;
    _Atomic int result; /* ASKED, 0, or an errno */
} request = { .ruleset_fd = -1 };

/* --- rules --- */

static void rule_free(void *opaque)
{
    KumoLandlockRule *rule = opaque;

    g_free(rule->path);
    g_free(rule->required);
    g_free(rule);
}

GPtrArray *kumo_landlock_rules_new(void)
{
    return g_ptr_array_new_with_free_func(rule_free);
}

static KumoLandlockRule *find_rule(const GPtrArray *rules, const char *path)
{
    for (guint i = 0; i < rules->len; i++) {
        KumoLandlockRule *rule = rules->pdata[i];

        if (strcmp(rule->path, path) == 0)
            return rule;
    }
    return NULL;
}

void kumo_landlock_rules_add(GPtrArray *rules, const char *path, unsigned access)
{
    KumoLandlockRule *rule = path ? find_rule(rules, path) : NULL;

    if (!path)
        return;
    if (!rule) {
        rule = g_new0(KumoLandlockRule, 1);
        rule->path = g_strdup(path);
        g_ptr_array_add(rules, rule);
    }
    rule->access |= access;
}

void kumo_landlock_rules_require(GPtrArray *rules, const char *name, const char *path,
                                 unsigned access)
{
    KumoLandlockRule *rule;

    kumo_landlock_rules_add(rules, path, access);
    rule = find_rule(rules, path);
    if (!rule->required)
        rule->required = g_strdup(name);
}

uint64_t kumo_landlock_rights(unsigned access, bool is_directory, int abi)
{
    uint64_t rights = 0;

    if (access & KUMO_LANDLOCK_READ)
        rights |= LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
    if (access & KUMO_LANDLOCK_WRITE)
        rights |= WRITE_RIGHTS;
    if (access & KUMO_LANDLOCK_EXECUTE)
        rights |= LANDLOCK_ACCESS_FS_EXECUTE;
    if (access & KUMO_LANDLOCK_SOCKETS)
        rights |= LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_REMOVE_FILE;
    if (!is_directory)
        rights &= FILE_RIGHTS;
    if (abi < ABI_REFER)
        rights &= ~LANDLOCK_ACCESS_FS_REFER;
    if (abi < ABI_TRUNCATE)
        rights &= ~LANDLOCK_ACCESS_FS_TRUNCATE;
    return rights;
}

/* --- the ruleset --- */

static int landlock_create_ruleset(const struct landlock_ruleset_attr *attr, size_t size,
                                   uint32_t flags)
{
    return (int)syscall(SYS_landlock_create_ruleset, attr, size, flags);
}

/* Returns: the kernel's ABI; 0 with @error. */
static int find_abi(GError **error)
{
    int abi = landlock_create_ruleset(NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

    if (abi >= 1)
        return abi;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED,
                errno == EOPNOTSUPP
                    ? "landlock_enable: this kernel has Landlock, but it is switched off (it is "
                      "not in the list lsm= of its command line)"
                    : "landlock_enable: this kernel has no Landlock (Linux 5.13 or later with "
                      "CONFIG_SECURITY_LANDLOCK is needed)");
    return 0;
}

static bool is_missing(int err)
{
    return err == ENOENT || err == ENOTDIR || err == ENXIO;
}

static bool add_rule(int ruleset_fd, const KumoLandlockRule *rule, int abi, GError **error)
{
    kumo_auto_fd fd = open(rule->path, O_PATH | O_CLOEXEC);
    struct landlock_path_beneath_attr attr;
    struct stat file;

    if (fd < 0 && !rule->required) {
        /* Whoever needs it will say that it is not there. */
        kumo_debug("landlock: %s: %s: no rule", rule->path, g_strerror(errno));
        return true;
    }
    if (fd < 0 && is_missing(errno)) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_INVALID, "%s: \"%s\" does not exist",
                    rule->required, rule->path);
        return false;
    }
    if (fd < 0 || fstat(fd, &file) < 0) {
        kumo_set_error_errno(error, errno, "%s: \"%s\"", rule->required, rule->path);
        return false;
    }
    attr = (struct landlock_path_beneath_attr){
        .allowed_access = kumo_landlock_rights(rule->access, S_ISDIR(file.st_mode), abi),
        .parent_fd = fd,
    };
    if (!attr.allowed_access ||
        syscall(SYS_landlock_add_rule, ruleset_fd, LANDLOCK_RULE_PATH_BENEATH, &attr, 0) == 0)
        return true;
    /* Pipes, sockets and the like, which no rule is needed for. */
    if (errno == EBADFD)
        return true;
    kumo_set_error_errno(error, errno, "landlock: rule for %s", rule->path);
    return false;
}

static int make_ruleset(const GPtrArray *rules, GError **error)
{
    int abi = find_abi(error);
    struct landlock_ruleset_attr attr;
    kumo_auto_fd fd = -1;

    if (!abi)
        return -1;
    if (abi < ABI_TRUNCATE)
        kumo_warn("landlock: the kernel's (ABI %d) does not keep files from being truncated", abi);
    attr = (struct landlock_ruleset_attr){
        .handled_access_fs = kumo_landlock_rights(
            KUMO_LANDLOCK_READ | KUMO_LANDLOCK_WRITE | KUMO_LANDLOCK_EXECUTE, true, abi),
    };
    /* What newer kernels can handle besides is behind it in the structure. */
    fd = landlock_create_ruleset(
        &attr, offsetof(struct landlock_ruleset_attr, handled_access_fs) + sizeof(uint64_t), 0);
    if (fd < 0) {
        kumo_set_error_errno(error, errno, "landlock: set of rules");
        return -1;
    }
    for (guint i = 0; i < rules->len; i++) {
        if (!add_rule(fd, rules->pdata[i], abi, error))
            return -1;
    }
    return kumo_fd_steal(&fd);
}

/* --- enforcing them on all threads --- */

/* Async-signal-safe. Returns: 0 or an errno. */
static int restrict_thread(int ruleset_fd)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        syscall(SYS_landlock_restrict_self, ruleset_fd, 0) < 0)
        return errno;
    return 0;
}

static void on_request(int signal_number)
{
    int saved_errno = errno;
    int fd = atomic_load(&request.ruleset_fd);

    if (fd >= 0 && atomic_load(&request.tid) == gettid() && atomic_load(&request.result) == ASKED)
        atomic_store(&request.result, restrict_thread(fd));
    errno = saved_errno;
}

/* sigaction(3) does not take the signal, so another one, which is not used, lends what it makes for
 * the kernel. Returns: FALSE with errno set. */
static bool take_signal(void)
{
    const struct sigaction action = { .sa_handler = on_request, .sa_flags = SA_RESTART };
    struct sigaction before;
    unsigned long made[16];
    const size_t mask_size = _NSIG / 8;
    bool ok;

    if (sigaction(SIGRTMAX, &action, &before) < 0)
        return false;
    ok = syscall(SYS_rt_sigaction, SIGRTMAX, NULL, made, mask_size) == 0 &&
         syscall(SYS_rt_sigaction, SIGNAL, made, NULL, mask_size) == 0;
    sigaction(SIGRTMAX, &before, NULL);
    return ok;
}

static bool is_alive(int tid)
{
    return syscall(SYS_tgkill, getpid(), tid, 0) == 0;
}

static bool ask_thread(int tid, GError **error)
{
    gint64 deadline_us = g_get_monotonic_time() + THREAD_PATIENCE_US;
    int result = ASKED;

    atomic_store(&request.tid, tid);
    atomic_store(&request.result, ASKED);
    syscall(SYS_tgkill, getpid(), tid, SIGNAL);
    while (is_alive(tid) && g_get_monotonic_time() < deadline_us) {
        result = atomic_load(&request.result);
        if (result != ASKED)
            break;
        g_usleep(THREAD_INTERVAL_US);
    }
    if (result == 0 || !is_alive(tid))
        return true;
    kumo_set_error_errno(error, result == ASKED ? ETIMEDOUT : result, "landlock: thread %d", tid);
    return false;
}

/* Returns: whether all that were found had been asked before; FALSE, too, with @error. */
static bool ask_new_threads(GHashTable *asked, GError **error)
{
    const struct dirent *entry;
    bool found = false;

    rewinddir(threads);
    while ((entry = readdir(threads))) {
        int tid = atoi(entry->d_name);

        if (tid <= 0 || tid == gettid() || !g_hash_table_add(asked, GINT_TO_POINTER(tid)))
            continue;
        found = true;
        if (!ask_thread(tid, error))
            return false;
    }
    return !found;
}

/*
 * The kernel restricts the thread that asks for it, and those that it starts afterwards. Others are
 * asked by a signal; a thread that one of them started before it was asked is in the list when that
 * is read the next time.
 */
static bool ask_other_threads(int ruleset_fd, GError **error)
{
    g_autoptr(GHashTable) asked = g_hash_table_new(NULL, NULL);
    g_autoptr(GError) local = NULL;

    if (!threads)
        threads = opendir("/proc/self/task");
    if (!threads) {
        kumo_set_error_errno(error, errno, "landlock: /proc/self/task");
        return false;
    }
    if (!take_signal()) {
        kumo_set_error_errno(error, errno, "landlock: signal %d", SIGNAL);
        return false;
    }
    atomic_store(&request.ruleset_fd, ruleset_fd);
    while (!ask_new_threads(asked, &local) && !local)
        ;
    atomic_store(&request.ruleset_fd, -1);
    if (!local)
        return true;
    g_propagate_error(error, g_steal_pointer(&local));
    return false;
}

bool kumo_landlock_enforce(const GPtrArray *rules, GError **error)
{
    kumo_auto_fd fd = make_ruleset(rules, error);
    int err;

    if (fd < 0 || !ask_other_threads(fd, error))
        return false;
    err = restrict_thread(fd);
    if (err == E2BIG) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_RESOURCE,
                    "landlock: this process has been restricted as often as the kernel allows");
        return false;
    }
    if (err) {
        kumo_set_error_errno(error, err, "landlock");
        return false;
    }
    atomic_store(&enforced, true);
    kumo_error_set_denied_hint(denied_hint);
    return true;
}

bool kumo_landlock_is_enforced(void)
{
    return atomic_load(&enforced);
}
