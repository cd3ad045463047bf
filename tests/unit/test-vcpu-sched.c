/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Core scheduling by a kernel that is played here, as prctl(2) of this program. */
#include <errno.h>
#include <linux/prctl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "vmm-core/base/log.h"
#include "vmm-core/core/vcpu_sched.h"

enum { VCPUS = 4 };

static GMutex lock;
static GHashTable *cookies; /* of threads, by their ids */
static unsigned n_cookies;
static int refusal; /* errno of all calls, or 0 */

int prctl(int option, ...)
{
    unsigned long command, pid, scope;
    gpointer cookie;
    va_list args;

    va_start(args, option);
    command = va_arg(args, unsigned long);
    pid = va_arg(args, unsigned long);
    scope = va_arg(args, unsigned long);
    va_end(args);
    g_assert_cmpint(option, ==, PR_SCHED_CORE);
    g_assert_cmpuint(scope, ==, PR_SCHED_CORE_SCOPE_THREAD);
    if (refusal) {
        errno = refusal;
        return -1;
    }
    g_mutex_lock(&lock);
    if (command == PR_SCHED_CORE_CREATE) {
        g_assert_cmpuint(pid, ==, 0);
        cookie = GUINT_TO_POINTER(++n_cookies);
    } else {
        g_assert_cmpuint(command, ==, PR_SCHED_CORE_SHARE_FROM);
        cookie = g_hash_table_lookup(cookies, GUINT_TO_POINTER((unsigned)pid));
        g_assert_nonnull(cookie);
    }
    g_hash_table_insert(cookies, GUINT_TO_POINTER((unsigned)gettid()), cookie);
    g_mutex_unlock(&lock);
    return 0;
}

typedef struct {
    KumoVcpuCookie *cookie;
    KumoCoreScheduling scheduling;
    unsigned index;
    unsigned ret_cookie;
} Vcpu;

static void *run(void *opaque)
{
    Vcpu *vcpu = opaque;

    kumo_vcpu_join_core(vcpu->cookie, vcpu->scheduling, vcpu->index);
    g_mutex_lock(&lock);
    vcpu->ret_cookie =
        GPOINTER_TO_UINT(g_hash_table_lookup(cookies, GUINT_TO_POINTER((unsigned)gettid())));
    g_mutex_unlock(&lock);
    return NULL;
}

/* vCPU 0 comes last: the others wait for its cookie. */
static void join_all(KumoCoreScheduling scheduling, Vcpu vcpus[VCPUS])
{
    pthread_t threads[VCPUS];
    KumoVcpuCookie cookie = { 0 };

    kumo_vcpu_cookie_init(&cookie);
    cookies = g_hash_table_new(NULL, NULL);
    n_cookies = 0;
    for (unsigned i = VCPUS; i-- > 0;) {
        vcpus[i] = (Vcpu){ .cookie = &cookie, .scheduling = scheduling, .index = i };
        g_assert_cmpint(pthread_create(&threads[i], NULL, run, &vcpus[i]), ==, 0);
    }
    for (unsigned i = 0; i < VCPUS; i++)
        pthread_join(threads[i], NULL);
    g_hash_table_unref(cookies);
    kumo_vcpu_cookie_clear(&cookie);
}

static void test_cookies(void)
{
    Vcpu vcpus[VCPUS];

    join_all(KUMO_CORE_SCHEDULING_VM, vcpus);
    g_assert_cmpuint(n_cookies, ==, 1);
    for (unsigned i = 0; i < VCPUS; i++)
        g_assert_cmpuint(vcpus[i].ret_cookie, ==, 1);

    join_all(KUMO_CORE_SCHEDULING_VCPU, vcpus);
    g_assert_cmpuint(n_cookies, ==, VCPUS);
    for (unsigned i = 0; i < VCPUS; i++) {
        g_assert_cmpuint(vcpus[i].ret_cookie, !=, 0);
        for (unsigned n = 0; n < i; n++)
            g_assert_cmpuint(vcpus[i].ret_cookie, !=, vcpus[n].ret_cookie);
    }

    join_all(KUMO_CORE_SCHEDULING_OFF, vcpus);
    g_assert_cmpuint(n_cookies, ==, 0);
    for (unsigned i = 0; i < VCPUS; i++)
        g_assert_cmpuint(vcpus[i].ret_cookie, ==, 0);
}

/* A kernel without it: the vCPUs run all the same. */
static void test_refused(void)
{
    static const int errors[] = { ENODEV, EINVAL, EPERM };
    Vcpu vcpus[VCPUS];

    kumo_log_level = KUMO_LOG_ERROR;
    for (unsigned i = 0; i < G_N_ELEMENTS(errors); i++) {
        refusal = errors[i];
        join_all(KUMO_CORE_SCHEDULING_VM, vcpus);
        join_all(KUMO_CORE_SCHEDULING_VCPU, vcpus);
        for (unsigned n = 0; n < VCPUS; n++)
            g_assert_cmpuint(vcpus[n].ret_cookie, ==, 0);
    }
    refusal = 0;
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/vcpu-sched/cookies", test_cookies);
    g_test_add_func("/vcpu-sched/refused", test_refused);
    return g_test_run();
}
