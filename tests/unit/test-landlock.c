/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Landlock: which rules a VM has, and that all threads of the process are bound by them. */
#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <pthread.h>
#include <seccomp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fakes/fake_vmm.h"
#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/base/loop.h"
#include "vmm-core/vmm/vmm_landlock.h"

/* linux/landlock.h, written out: the kernel's ABI is what is tested. */
enum {
    EXECUTE = 1 << 0,
    WRITE_FILE = 1 << 1,
    READ_FILE = 1 << 2,
    READ_DIR = 1 << 3,
    REMOVE_FILE = 1 << 5,
    MAKE_SOCK = 1 << 9,
    REFER = 1 << 13,
    TRUNCATE = 1 << 14,
    ALL_ABI_1 = (1 << 13) - 1,
};

static void test_rights(void)
{
    static const struct {
        unsigned access;
        bool directory;
        int abi;
        uint64_t rights;
    } rows[] = {
        { KUMO_LANDLOCK_READ, true, 3, READ_FILE | READ_DIR },
        { KUMO_LANDLOCK_READ, false, 3, READ_FILE },
        { KUMO_LANDLOCK_READ | KUMO_LANDLOCK_EXECUTE, false, 3, READ_FILE | EXECUTE },
        { KUMO_LANDLOCK_WRITE, false, 3, WRITE_FILE | TRUNCATE },
        { KUMO_LANDLOCK_WRITE, false, 2, WRITE_FILE },
        { KUMO_LANDLOCK_WRITE, true, 7,
          (ALL_ABI_1 & ~(EXECUTE | READ_FILE | READ_DIR)) | REFER | TRUNCATE },
        { KUMO_LANDLOCK_WRITE, true, 2, (ALL_ABI_1 & ~(EXECUTE | READ_FILE | READ_DIR)) | REFER },
        { KUMO_LANDLOCK_WRITE, true, 1, ALL_ABI_1 & ~(EXECUTE | READ_FILE | READ_DIR) },
        { KUMO_LANDLOCK_READ | KUMO_LANDLOCK_WRITE | KUMO_LANDLOCK_EXECUTE, true, 1, ALL_ABI_1 },
        { KUMO_LANDLOCK_SOCKETS, true, 3, MAKE_SOCK | REMOVE_FILE },
        { KUMO_LANDLOCK_SOCKETS, false, 3, 0 },
    };

    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++)
        g_assert_cmphex(kumo_landlock_rights(rows[i].access, rows[i].directory, rows[i].abi), ==,
                        rows[i].rights);
}

/* --- the rules of a VM --- */

static const KumoHvOps *const backends[] = { &fake_hv_ops, NULL };

static int compare_lines(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Returns: (transfer full): "PATH rwxs" lines, sorted, without the resolver's files. */
static char *describe(const char *json, const KumoVmmArrival *arrival, const char *const *removed)
{
    json_t *root = json_loads(json, 0, NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(KumoVmConfig) config = kumo_vm_config_from_json(root, &error);
    g_autoptr(GPtrArray) rules = NULL;
    g_autoptr(GPtrArray) lines = g_ptr_array_new_with_free_func(g_free);
    g_auto(GStrv) words = NULL;

    g_assert_no_error(error);
    g_assert_true(kumo_vm_config_validate(config, &error));
    json_decref(root);
    rules = kumo_vmm_landlock_rules(config, arrival, backends, removed);
    for (guint i = 0; i < rules->len; i++) {
        const KumoLandlockRule *rule = rules->pdata[i];

        if (g_str_has_prefix(rule->path, "/etc/")) {
            g_assert_cmpuint(rule->access, ==, KUMO_LANDLOCK_READ);
            continue;
        }
        g_ptr_array_add(lines, g_strdup_printf("%s %s%s%s%s%s\n", rule->path,
                                               rule->access & KUMO_LANDLOCK_READ ? "r" : "",
                                               rule->access & KUMO_LANDLOCK_WRITE ? "w" : "",
                                               rule->access & KUMO_LANDLOCK_EXECUTE ? "x" : "",
                                               rule->access & KUMO_LANDLOCK_SOCKETS ? "s" : "",
                                               rule->required ? "!" : ""));
    }
    g_ptr_array_sort(lines, compare_lines);
    g_ptr_array_add(lines, NULL);
    return g_strjoinv("", (char **)lines->pdata);
}

static void test_rules(void)
{
    static const char *const removed[] = { "/run/kumo/api", NULL };
    const KumoVmmArrival on_demand = { .memory_on_demand = true };
    const KumoVmmArrival received = { .socket = "/run/in/socket" };
    g_autofree char *least = describe(
        "{\"payload\": {\"kernel\": \"/k\"}, \"console\": {\"mode\": \"Null\"}}", NULL, NULL);
    g_autofree char *most = describe(
        "{\"payload\": {\"kernel\": \"/k\", \"initramfs\": \"/i\"},"
        " \"memory\": {\"size\": 0, \"zones\": [{\"id\": \"z\", \"size\": 1048576, \"file\": "
        "\"/m\"}]},"
        " \"disks\": [{\"path\": \"/d0\"}, {\"path\": \"/d1\", \"readonly\": true}],"
        " \"net\": [{\"tap\": \"t\"}], \"rng\": {\"src\": \"/dev/hwrng\"},"
        " \"serial\": {\"mode\": \"Socket\", \"socket\": \"/run/c/serial\"},"
        " \"console\": {\"mode\": \"File\", \"file\": \"/var/c\", \"log_file\": \"/var/l\"},"
        " \"debug_console\": {\"mode\": \"Pty\"},"
        " \"landlock_rules\": [{\"path\": \"/snap\", \"access\": \"rw\"},"
        "  {\"path\": \"/d1\", \"access\": \"w\"}, {\"path\": \"/lib\", \"access\": \"r\"}]}",
        &on_demand, removed);
    g_autofree char *firmware = describe(
        "{\"payload\": {\"firmware\": \"/f\"}, \"console\": {\"mode\": \"Off\"}}", &received, NULL);

    g_assert_cmpstr(least, ==, "/dev/null rw\n/dev/urandom r\n/k r\n");
    g_assert_cmpstr(most, ==,
                    "/d0 rw\n/d1 rw!\n/dev/hwrng r\n/dev/net/tun rw\n/dev/null rw\n/dev/ptmx rw\n"
                    "/dev/pts rw\n/dev/userfaultfd rw\n/i r\n/k r\n/lib rx!\n/m rw\n/run/c s\n"
                    "/run/c/serial rw\n/run/kumo s\n/snap rwx!\n/var/c rw\n/var/l rw\n");
    g_assert_cmpstr(firmware, ==,
                    "/dev/null rw\n/dev/urandom r\n/f r\n/run/in s\n/run/in/socket rw\n");
}

/* --- enforcing --- */

typedef struct {
    char *top, *readable, *writable, *sockets, *forbidden; /* the last three: directories */
} Files;

static char *make_directory(const char *top, const char *name)
{
    char *path = g_build_filename(top, name, NULL);

    g_assert_cmpint(g_mkdir(path, 0700), ==, 0);
    return path;
}

/* Removed by the process that waits, which nothing restricts. */
static void make_files(const char *top, Files *files)
{
    g_autofree char *secret = NULL;

    files->top = g_strdup(top);
    files->readable = g_build_filename(top, "readable", NULL);
    files->writable = make_directory(top, "writable");
    files->sockets = make_directory(top, "sockets");
    files->forbidden = make_directory(top, "forbidden");
    secret = g_build_filename(files->forbidden, "secret", NULL);
    g_assert_true(g_file_set_contents(files->readable, "x", 1, NULL));
    g_assert_true(g_file_set_contents(secret, "x", 1, NULL));
}

/* Returns: the errno of opening DIRECTORY/@name, 0 for success. */
static int try_open(const char *directory, const char *name, int flags)
{
    g_autofree char *path = name ? g_build_filename(directory, name, NULL) : g_strdup(directory);
    kumo_auto_fd fd = open(path, flags | O_CLOEXEC, 0600);

    return fd < 0 ? errno : 0;
}

static int try_socket(const char *directory)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    kumo_auto_fd fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    g_snprintf(address.sun_path, sizeof(address.sun_path), "%s/socket", directory);
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return errno;
    return unlink(address.sun_path) < 0 ? errno : 0;
}

static void assert_confined(const Files *files)
{
    g_autofree char *secret = g_build_filename(files->forbidden, "secret", NULL);

    g_assert_cmpint(try_open(files->readable, NULL, O_RDONLY), ==, 0);
    g_assert_cmpint(try_open(files->readable, NULL, O_RDWR), ==, EACCES);
    g_assert_cmpint(try_open(files->forbidden, "secret", O_RDONLY), ==, EACCES);
    g_assert_cmpint(try_open(files->forbidden, NULL, O_RDONLY | O_DIRECTORY), ==, EACCES);
    g_assert_cmpint(try_open(files->forbidden, "new", O_WRONLY | O_CREAT), ==, EACCES);
    g_assert_cmpint(truncate(secret, 0), ==, -1);
    g_assert_cmpint(errno, ==, EACCES);
    g_assert_cmpint(unlink(secret), ==, -1);
    g_assert_cmpint(errno, ==, EACCES);
    g_assert_cmpint(try_open(files->writable, "new", O_RDWR | O_CREAT), ==, 0);
    g_assert_cmpint(try_open(files->sockets, "new", O_WRONLY | O_CREAT), ==, EACCES);
    g_assert_cmpint(try_socket(files->sockets), ==, 0);
    g_assert_cmpint(try_socket(files->forbidden), ==, EACCES);
}

static GPtrArray *rules_for(const Files *files)
{
    GPtrArray *rules = kumo_landlock_rules_new();

    kumo_landlock_rules_add(rules, files->readable, KUMO_LANDLOCK_READ);
    kumo_landlock_rules_add(rules, "/nowhere", KUMO_LANDLOCK_READ);
    kumo_landlock_rules_add(rules, NULL, KUMO_LANDLOCK_READ);
    kumo_landlock_rules_add(rules, files->sockets, KUMO_LANDLOCK_SOCKETS);
    kumo_landlock_rules_require(rules, "landlock_rules[0].path", files->writable,
                                KUMO_LANDLOCK_READ | KUMO_LANDLOCK_WRITE);
    return rules;
}

/* A thread that waits in a system call until it is told to look around. */
typedef struct {
    const Files *files;
    int pipe[2];
} Sleeper;

static void *sleeper_main(void *opaque)
{
    const Sleeper *sleeper = opaque;
    char byte;

    g_assert_cmpint(read(sleeper->pipe[0], &byte, 1), ==, 1);
    assert_confined(sleeper->files);
    return NULL;
}

static void on_loop(void *opaque)
{
    assert_confined(opaque);
}

static const KumoSyscallTable *const no_tables[] = { NULL };
static const KumoThreadKind worker_kind = { .name = "worker", .tables = no_tables };

/* Runs the test that calls this again in a process of its own. Returns: whether that is this one.
 */
static bool is_child(void)
{
    g_autofree char *top = NULL;
    static const char *const left[] = { "readable", "forbidden/secret", "writable/new",
                                        "writable", "sockets",          "forbidden",
                                        "" };

    if (g_test_subprocess())
        return true;
    top = g_dir_make_tmp("kumo-landlock-XXXXXX", NULL);
    g_setenv("KUMO_TEST_DIRECTORY", top, TRUE);
    g_test_trap_subprocess(NULL, 0, G_TEST_SUBPROCESS_INHERIT_STDERR);
    for (size_t i = 0; i < G_N_ELEMENTS(left); i++) {
        g_autofree char *file = g_build_filename(top, left[i], NULL);

        g_remove(file);
    }
    g_test_trap_assert_passed();
    return false;
}

/* Threads of libraries and of ours, old and new, are all bound. */
static void test_threads(void)
{
    Files files;
    g_autoptr(GPtrArray) rules = NULL;
    g_autoptr(GError) error = NULL;
    Sleeper sleepers[4];
    pthread_t threads[G_N_ELEMENTS(sleepers)], late;
    sigset_t all, old;
    KumoLoop *loop;
    Sleeper last;

    if (!is_child())
        return;
    loop = kumo_loop_new("worker", &worker_kind, &error);
    make_files(g_getenv("KUMO_TEST_DIRECTORY"), &files);
    rules = rules_for(&files);
    /* As some libraries do. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (size_t i = 0; i < G_N_ELEMENTS(sleepers); i++) {
        sleepers[i].files = &files;
        g_assert_cmpint(pipe(sleepers[i].pipe), ==, 0);
        g_assert_cmpint(pthread_create(&threads[i], NULL, sleeper_main, &sleepers[i]), ==, 0);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    g_assert_false(kumo_landlock_is_enforced());
    g_assert_cmpint(try_open(files.forbidden, "secret", O_RDONLY), ==, 0);
    g_assert_true(kumo_landlock_enforce(rules, &error));
    g_assert_no_error(error);
    g_assert_true(kumo_landlock_is_enforced());

    assert_confined(&files);
    kumo_loop_call(loop, on_loop, &files);
    for (size_t i = 0; i < G_N_ELEMENTS(sleepers); i++) {
        g_assert_cmpint(write(sleepers[i].pipe[1], "x", 1), ==, 1);
        pthread_join(threads[i], NULL);
    }
    last = (Sleeper){ .files = &files };
    g_assert_cmpint(pipe(last.pipe), ==, 0);
    g_assert_cmpint(write(last.pipe[1], "x", 1), ==, 1);
    g_assert_cmpint(pthread_create(&late, NULL, sleeper_main, &last), ==, 0);
    pthread_join(late, NULL);

    /* A second set takes away, and gives nothing back. */
    g_ptr_array_set_size(rules, 0);
    kumo_landlock_rules_add(rules, files.readable, KUMO_LANDLOCK_READ | KUMO_LANDLOCK_WRITE);
    g_assert_true(kumo_landlock_enforce(rules, &error));
    g_assert_cmpint(try_open(files.readable, NULL, O_RDONLY), ==, 0);
    g_assert_cmpint(try_open(files.readable, NULL, O_RDWR), ==, EACCES);
    g_assert_cmpint(try_open(files.writable, "new", O_RDWR), ==, EACCES);
    kumo_set_error_errno(&error, EACCES, "disk");
    g_assert_nonnull(strstr(error->message, "landlock_rules"));
    _exit(0);
}

/* Raw, for the C library does not block this one. */
static void *deaf_main(void *opaque)
{
    const uint64_t all = ~0ull;

    g_assert_cmpint(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, NULL, sizeof(all)), ==, 0);
    g_assert_cmpint(write(((Sleeper *)opaque)->pipe[1], "x", 1), ==, 1);
    pause();
    return NULL;
}

/* Whoever cannot be reached is not left as it is without a word. */
static void test_deaf_thread(void)
{
    g_autoptr(GPtrArray) rules = kumo_landlock_rules_new();
    g_autoptr(GError) error = NULL;
    Sleeper sleeper = { 0 };
    pthread_t thread;
    char byte;

    if (!is_child())
        return;
    g_assert_cmpint(pipe(sleeper.pipe), ==, 0);
    g_assert_cmpint(pthread_create(&thread, NULL, deaf_main, &sleeper), ==, 0);
    g_assert_cmpint(read(sleeper.pipe[0], &byte, 1), ==, 1);
    g_assert_false(kumo_landlock_enforce(rules, &error));
    g_assert_nonnull(strstr(error->message, "landlock: thread "));
    g_assert_false(kumo_landlock_is_enforced());
    _exit(0);
}

static void test_missing(void)
{
    g_autoptr(GPtrArray) rules = kumo_landlock_rules_new();
    g_autoptr(GError) error = NULL;

    kumo_landlock_rules_require(rules, "landlock_rules[3].path", "/nowhere/at/all",
                                KUMO_LANDLOCK_READ);
    g_assert_false(kumo_landlock_enforce(rules, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_INVALID);
    g_assert_cmpstr(error->message, ==,
                    "landlock_rules[3].path: \"/nowhere/at/all\" does not exist");
    g_assert_false(kumo_landlock_is_enforced());
}

/* What the kernel answers without Landlock, or with it switched off. */
static void test_no_kernel(void)
{
    static const struct {
        int err;
        const char *why;
    } rows[] = {
        { ENOSYS, "this kernel has no Landlock" },
        { EOPNOTSUPP, "switched off" },
    };

    if (!is_child())
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GPtrArray) rules = kumo_landlock_rules_new();
        g_autoptr(GError) error = NULL;
        scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);

        g_assert_cmpint(seccomp_rule_add(filter, SCMP_ACT_ERRNO((uint32_t)rows[i].err),
                                         SCMP_SYS(landlock_create_ruleset), 0),
                        ==, 0);
        if (fork() == 0) {
            g_assert_cmpint(seccomp_load(filter), ==, 0);
            g_assert_false(kumo_landlock_enforce(rules, &error));
            g_assert_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED);
            g_assert_nonnull(strstr(error->message, rows[i].why));
            _exit(0);
        } else {
            int status = -1;

            g_assert_cmpint(wait(&status), >, 0);
            g_assert_cmpint(status, ==, 0);
        }
        seccomp_release(filter);
    }
    _exit(0);
}

/* The VMM: what is wrong leaves no VM behind, nor the process confined. */
static void test_vmm(void)
{
    g_autoptr(KumoVmm) vmm = fake_vmm_new(&fake_arch_ops, NULL, NULL);
    KumoVmConfig *config = fake_vmm_config_new(2 << 20, 1, 1);
    KumoLandlockRuleConfig *rule = g_new0(KumoLandlockRuleConfig, 1);

    config->landlock_enable = true;
    rule->path = g_strdup("/nowhere");
    rule->access = g_strdup("r");
    g_ptr_array_add(config->landlock_rules, rule);
    assert_refused(kumo_vmm_create(vmm, config, error), KUMO_ERROR_INVALID);
    assert_refused(kumo_vmm_delete(vmm, error), KUMO_ERROR_NOT_FOUND);
    g_assert_false(kumo_landlock_is_enforced());
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/landlock/rights", test_rights);
    g_test_add_func("/landlock/rules", test_rules);
    g_test_add_func("/landlock/threads", test_threads);
    g_test_add_func("/landlock/deaf-thread", test_deaf_thread);
    g_test_add_func("/landlock/missing", test_missing);
    g_test_add_func("/landlock/no-kernel", test_no_kernel);
    g_test_add_func("/landlock/vmm", test_vmm);
    return g_test_run();
}
