/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vmm-core/core/vcpu.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/log.h"
#include "vmm-core/base/signals.h"
#include "vmm-core/core/vcpu_sched.h"

enum {
    KICK_INTERVAL_MS = 10,    /* a signal may be lost on hypervisors without an immediate exit */
    PAUSE_TIMEOUT_MS = 10000, /* for a vCPU inside a device: a reset waits for requests in flight */
    STOP_WARNING_MS = 5000,
    THROTTLE_SLICE_US = 10000, /* that a throttled vCPU runs between two rests */
    THROTTLE_MAX_PERCENT = 99,
};

/* What the main thread wants of all vCPUs. */
typedef enum {
    WANT_RUN,
    WANT_PARK,
    WANT_STOP,
} Want;

typedef struct {
    KumoVcpus *vcpus;
    KumoHvVcpu *hv;
    unsigned index;
    pthread_t thread;
    bool has_thread;    /* main thread */
    bool was_started;   /* main thread: it has had a thread */
    bool retired;       /* main thread: not there, but kept */
    _Atomic bool leave; /* the thread is to end, whatever the others do */
    _Atomic bool rest;  /* it is to rest for a while; under vcpus->lock, but read without */
    bool named;         /* under vcpus->lock: the thread bears its name, by which others find it */
    bool parked;        /* under vcpus->lock */
    bool ended;         /* the same: leave has been seen */
    bool dead;          /* vCPU thread only: waits for the stop and never runs again */
    bool resumed;       /* was parked after having run; another thread sets it only while parked */
} Vcpu;

struct KumoVcpus {
    KumoMachine *machine;
    GPtrArray *vcpus; /* of Vcpu by index, NULL where there was never one; main thread */

    _Atomic int want; /* of Want; written by the main thread under lock, read by all without */
    GMutex lock;      /* each vCPU's parked and ended */
    GCond changed;
    unsigned rest_percent; /* under lock: of the time that the vCPUs are not to run */
    GThread *throttle;     /* main thread: makes them rest; NULL while rest_percent is 0 */
    KumoVcpuCookie cookie;
};

/* --- bus, called by the backend on the vCPU's thread --- */

static void pio_read(void *opaque, uint16_t port, uint8_t *data, unsigned size)
{
    const Vcpu *vcpu = opaque;

    kumo_bus_read(vcpu->vcpus->machine->pio, vcpu->index, port, data, size);
}

static void pio_write(void *opaque, uint16_t port, const uint8_t *data, unsigned size)
{
    const Vcpu *vcpu = opaque;

    kumo_bus_write(vcpu->vcpus->machine->pio, vcpu->index, port, data, size);
}

static void mmio_read(void *opaque, uint64_t gpa, uint8_t *data, unsigned size)
{
    const Vcpu *vcpu = opaque;

    kumo_bus_read(vcpu->vcpus->machine->mmio, vcpu->index, gpa, data, size);
}

static void mmio_write(void *opaque, uint64_t gpa, const uint8_t *data, unsigned size)
{
    const Vcpu *vcpu = opaque;

    kumo_bus_write(vcpu->vcpus->machine->mmio, vcpu->index, gpa, data, size);
}

static bool mem_read(void *opaque, uint64_t gpa, void *data, unsigned size)
{
    const Vcpu *vcpu = opaque;

    return kumo_memory_read(vcpu->vcpus->machine->memory, gpa, data, size);
}

static bool mem_write(void *opaque, uint64_t gpa, const void *data, unsigned size)
{
    const Vcpu *vcpu = opaque;

    return kumo_memory_write(vcpu->vcpus->machine->memory, gpa, data, size);
}

static const KumoHvBusOps bus_ops = {
    .pio_read = pio_read,
    .pio_write = pio_write,
    .mmio_read = mmio_read,
    .mmio_write = mmio_write,
    .mem_read = mem_read,
    .mem_write = mem_write,
};

/* --- the vCPU's thread --- */

static const KumoSyscallTable *const vcpu_tables[] = { &kumo_device_syscalls, NULL };

const KumoThreadKind kumo_vcpu_thread = {
    .name = "vcpu",
    .roles = KUMO_THREAD_RUNS_VCPU | KUMO_THREAD_HAS_DEVICES,
    .tables = vcpu_tables,
};

static void set_immediate_exit(Vcpu *vcpu, bool on)
{
    if (vcpu->hv->ops->set_immediate_exit)
        vcpu->hv->ops->set_immediate_exit(vcpu->hv, on);
}

static bool is_to_end(const Vcpu *vcpu)
{
    return atomic_load(&vcpu->leave) || atomic_load(&vcpu->vcpus->want) == WANT_STOP;
}

/* Waits until it may run. Returns: FALSE when the thread is to end. */
static bool park(Vcpu *vcpu)
{
    KumoVcpus *vcpus = vcpu->vcpus;
    bool end;

    g_mutex_lock(&vcpus->lock);
    vcpu->parked = true;
    g_cond_broadcast(&vcpus->changed);
    while (!(end = is_to_end(vcpu)) && (vcpu->dead || atomic_load(&vcpus->want) == WANT_PARK))
        g_cond_wait(&vcpus->changed, &vcpus->lock);
    /* Who ends stays parked: stop_running() may look only now. */
    vcpu->parked = end;
    vcpu->ended = end;
    if (end)
        g_cond_broadcast(&vcpus->changed);
    g_mutex_unlock(&vcpus->lock);
    if (end)
        return false;

    /* In this order: a request that comes in between sets the immediate exit again after we cleared
     * it, or is seen by the caller's look at want, which follows. */
    set_immediate_exit(vcpu, false);
    if (vcpu->resumed && vcpu->hv->ops->clock_paused)
        vcpu->hv->ops->clock_paused(vcpu->hv);
    vcpu->resumed = true;
    return true;
}

static void run_once(Vcpu *vcpu)
{
    KumoMachine *machine = vcpu->vcpus->machine;
    KumoHvExit hv_exit;
    g_autoptr(GError) error = NULL;

    if (!vcpu->hv->ops->run(vcpu->hv, &hv_exit, &error)) {
        kumo_error("%s", error->message);
        vcpu->dead = true;
        kumo_machine_request(machine, KUMO_MACHINE_REQUEST_FAILED);
        return;
    }
    switch (hv_exit.kind) {
    case KUMO_HV_EXIT_AGAIN:
        break;
    case KUMO_HV_EXIT_IOAPIC_EOI:
        kumo_irq_eoi(machine->irq, hv_exit.vector);
        break;
    case KUMO_HV_EXIT_RESET:
        kumo_info("vCPU %u: triple fault or reset", vcpu->index);
        vcpu->dead = true;
        kumo_machine_request(machine, KUMO_MACHINE_REQUEST_RESET);
        break;
    case KUMO_HV_EXIT_SHUTDOWN:
        vcpu->dead = true;
        kumo_machine_request(machine, KUMO_MACHINE_REQUEST_SHUTDOWN);
        break;
    case KUMO_HV_EXIT_ERROR:
        g_assert_not_reached(); /* run() returned TRUE */
    }
}

/* Does not run for a while, unless something else is wanted. */
static void take_rest(Vcpu *vcpu)
{
    KumoVcpus *vcpus = vcpu->vcpus;
    int64_t end = g_get_monotonic_time();

    g_mutex_lock(&vcpus->lock);
    end += THROTTLE_SLICE_US * vcpus->rest_percent / (100 - vcpus->rest_percent);
    while (vcpus->rest_percent && !atomic_load(&vcpu->leave) &&
           atomic_load(&vcpus->want) == WANT_RUN &&
           g_cond_wait_until(&vcpus->changed, &vcpus->lock, end))
        ;
    atomic_store(&vcpu->rest, false);
    /* As in park(): the caller looks at want afterwards. */
    set_immediate_exit(vcpu, false);
    g_mutex_unlock(&vcpus->lock);
}

/* Finishes what the last exit left half done, so that the state can be read. */
static void settle(Vcpu *vcpu)
{
    if (vcpu->hv->ops->set_immediate_exit && !vcpu->dead &&
        (atomic_load(&vcpu->leave) || atomic_load(&vcpu->vcpus->want) == WANT_PARK)) {
        set_immediate_exit(vcpu, true);
        run_once(vcpu);
    }
}

static void *vcpu_thread(void *opaque)
{
    Vcpu *vcpu = opaque;
    KumoVcpus *vcpus = vcpu->vcpus;
    char name[16];
    sigset_t kick;

    g_snprintf(name, sizeof(name), "vcpu%u", vcpu->index);
    pthread_setname_np(pthread_self(), name);
    g_mutex_lock(&vcpus->lock);
    vcpu->named = true;
    g_cond_broadcast(&vcpus->changed);
    g_mutex_unlock(&vcpus->lock);
    sigemptyset(&kick);
    sigaddset(&kick, SIGRTMIN);
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL);

    if (vcpus->machine->config)
        kumo_vcpu_join_core(&vcpus->cookie, vcpus->machine->config->cpus.core_scheduling,
                            vcpu->index);
    kumo_sandbox_enter(&kumo_vcpu_thread);
    while (park(vcpu)) {
        while (!vcpu->dead && !atomic_load(&vcpu->leave) && atomic_load(&vcpus->want) == WANT_RUN) {
            run_once(vcpu);
            if (G_UNLIKELY(atomic_load_explicit(&vcpu->rest, memory_order_relaxed)))
                take_rest(vcpu);
        }
        settle(vcpu);
    }
    if (atomic_load(&vcpu->leave) && vcpus->machine->device_ejected)
        vcpus->machine->device_ejected(vcpus->machine->request_opaque);
    return NULL;
}

/* --- the main thread's side --- */

KumoVcpus *kumo_vcpus_new(KumoMachine *machine)
{
    KumoVcpus *vcpus = g_new0(KumoVcpus, 1);

    vcpus->machine = machine;
    vcpus->vcpus = g_ptr_array_new();
    atomic_store(&vcpus->want, WANT_PARK);
    g_mutex_init(&vcpus->lock);
    g_cond_init(&vcpus->changed);
    kumo_vcpu_cookie_init(&vcpus->cookie);
    return vcpus;
}

/* Returns: vCPU @index if it is there, else NULL. */
static Vcpu *find(const KumoVcpus *vcpus, unsigned index)
{
    Vcpu *vcpu = index < vcpus->vcpus->len ? vcpus->vcpus->pdata[index] : NULL;

    return vcpu && !vcpu->retired ? vcpu : NULL;
}

KumoHvVcpu *kumo_vcpus_add(KumoVcpus *vcpus, unsigned index, uint32_t apic_id, bool *ret_again,
                           GError **error)
{
    KumoHvVm *vm = vcpus->machine->hv;
    Vcpu *vcpu = index < vcpus->vcpus->len ? vcpus->vcpus->pdata[index] : NULL;

    g_return_val_if_fail(!find(vcpus, index), NULL);
    if (!vcpu) {
        vcpu = g_new0(Vcpu, 1);
        vcpu->vcpus = vcpus;
        vcpu->index = index;
        vcpu->hv = vm->ops->vcpu_create(vm, index, apic_id, &bus_ops, vcpu, error);
        if (!vcpu->hv) {
            g_free(vcpu);
            return NULL;
        }
        if (index >= vcpus->vcpus->len)
            g_ptr_array_set_size(vcpus->vcpus, (int)index + 1);
        vcpus->vcpus->pdata[index] = vcpu;
    }
    vcpu->retired = vcpu->dead = vcpu->named = vcpu->parked = vcpu->ended = vcpu->resumed = false;
    atomic_store(&vcpu->leave, false);
    if (ret_again)
        *ret_again = vcpu->was_started;
    return vcpu->hv;
}

/* Interrupts the system call that the vCPU's thread is in; there is nothing else to do. */
static void on_kick(int signal_number)
{
}

static void install_kick_handler(void)
{
    const struct sigaction action = { .sa_handler = on_kick };

    sigaction(SIGRTMIN, &action, NULL);
}

bool kumo_vcpus_start(KumoVcpus *vcpus, GError **error)
{
    const KumoVmConfig *config = vcpus->machine->config;
    sigset_t old;
    bool ok = true;

    install_kick_handler();
    kumo_signals_block(&old);
    for (unsigned i = 0; i < vcpus->vcpus->len && ok; i++) {
        Vcpu *vcpu = find(vcpus, i);

        if (!vcpu || vcpu->has_thread)
            continue;
        ok = kumo_vcpu_thread_create(config ? &config->cpus : NULL, i, &vcpu->thread, vcpu_thread,
                                     vcpu, error);
        vcpu->has_thread = ok;
        vcpu->was_started |= ok;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);

    g_mutex_lock(&vcpus->lock);
    for (unsigned i = 0; i < vcpus->vcpus->len; i++) {
        const Vcpu *vcpu = find(vcpus, i);

        while (vcpu && vcpu->has_thread && !vcpu->named)
            g_cond_wait(&vcpus->changed, &vcpus->lock);
    }
    g_mutex_unlock(&vcpus->lock);
    return ok;
}

/* Sets what all vCPUs shall do and kicks those that are not parked until they are, or @timeout_ms
 * passed
 * (-1: never). Returns: how many are not; @ret_busy is one of them. */
static unsigned stop_running(KumoVcpus *vcpus, Want want, int timeout_ms, unsigned *ret_busy)
{
    int64_t start = g_get_monotonic_time();
    int64_t warned = start;
    unsigned n_busy;

    g_mutex_lock(&vcpus->lock);
    atomic_store(&vcpus->want, want);
    g_cond_broadcast(&vcpus->changed); /* who rests */
    for (;;) {
        int64_t now = g_get_monotonic_time();

        n_busy = 0;
        for (unsigned i = 0; i < vcpus->vcpus->len; i++) {
            Vcpu *vcpu = find(vcpus, i);

            if (vcpu && vcpu->has_thread && !vcpu->parked) {
                n_busy++;
                *ret_busy = vcpu->index;
                set_immediate_exit(vcpu, true);
                pthread_kill(vcpu->thread, SIGRTMIN);
            }
        }
        if (n_busy == 0 ||
            (timeout_ms >= 0 && now - start > (int64_t)timeout_ms * G_TIME_SPAN_MILLISECOND))
            break;
        if (now - warned > (int64_t)STOP_WARNING_MS * G_TIME_SPAN_MILLISECOND) {
            kumo_warn("vCPU %u is still inside a device", *ret_busy);
            warned = now;
        }
        g_cond_wait_until(&vcpus->changed, &vcpus->lock,
                          now + KICK_INTERVAL_MS * G_TIME_SPAN_MILLISECOND);
    }
    g_mutex_unlock(&vcpus->lock);
    return n_busy;
}

/* Sets what one vCPU shall do and kicks it until its thread is at its end, or @timeout_ms passed.
 * Returns: whether it is. */
static bool stop_one(Vcpu *vcpu, int timeout_ms)
{
    KumoVcpus *vcpus = vcpu->vcpus;
    int64_t now = g_get_monotonic_time();
    int64_t last = now + (int64_t)timeout_ms * G_TIME_SPAN_MILLISECOND;
    bool ended;

    g_mutex_lock(&vcpus->lock);
    atomic_store(&vcpu->leave, true);
    g_cond_broadcast(&vcpus->changed);
    while (!vcpu->ended && now <= last) {
        if (!vcpu->parked) {
            set_immediate_exit(vcpu, true);
            pthread_kill(vcpu->thread, SIGRTMIN);
        }
        g_cond_wait_until(&vcpus->changed, &vcpus->lock,
                          now + KICK_INTERVAL_MS * G_TIME_SPAN_MILLISECOND);
        now = g_get_monotonic_time();
    }
    ended = vcpu->ended;
    g_mutex_unlock(&vcpus->lock);
    return ended;
}

bool kumo_vcpus_retire(KumoVcpus *vcpus, unsigned index, GError **error)
{
    Vcpu *vcpu = find(vcpus, index);

    g_return_val_if_fail(vcpu, false);
    if (vcpu->has_thread) {
        if (!stop_one(vcpu, PAUSE_TIMEOUT_MS)) {
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_BUSY,
                        "vCPU %u is inside a device since %d ms and did not stop", index,
                        PAUSE_TIMEOUT_MS);
            return false;
        }
        pthread_join(vcpu->thread, NULL);
        vcpu->has_thread = false;
    }
    vcpu->retired = true;
    return true;
}

bool kumo_vcpus_pause(KumoVcpus *vcpus, GError **error)
{
    unsigned busy = 0;

    if (stop_running(vcpus, WANT_PARK, PAUSE_TIMEOUT_MS, &busy) == 0)
        return true;
    kumo_vcpus_resume(vcpus);
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_BUSY,
                "vCPU %u is inside a device since %d ms and did not stop", busy, PAUSE_TIMEOUT_MS);
    return false;
}

void kumo_vcpus_freeze(KumoVcpus *vcpus)
{
    unsigned busy;

    stop_running(vcpus, WANT_PARK, 0, &busy);
}

void kumo_vcpus_resume(KumoVcpus *vcpus)
{
    g_mutex_lock(&vcpus->lock);
    atomic_store(&vcpus->want, WANT_RUN);
    g_cond_broadcast(&vcpus->changed);
    g_mutex_unlock(&vcpus->lock);
}

/* --- throttling --- */

static void *throttle_thread(void *opaque)
{
    KumoVcpus *vcpus = opaque;
    unsigned percent;

    g_mutex_lock(&vcpus->lock);
    while ((percent = vcpus->rest_percent)) {
        int64_t next = g_get_monotonic_time() + THROTTLE_SLICE_US * 100 / (100 - percent);

        for (unsigned i = 0; i < vcpus->vcpus->len; i++) {
            Vcpu *vcpu = find(vcpus, i);

            if (!vcpu || !vcpu->has_thread || vcpu->parked)
                continue;
            atomic_store(&vcpu->rest, true);
            set_immediate_exit(vcpu, true);
            pthread_kill(vcpu->thread, SIGRTMIN);
        }
        while (vcpus->rest_percent == percent &&
               g_cond_wait_until(&vcpus->changed, &vcpus->lock, next))
            ;
    }
    g_mutex_unlock(&vcpus->lock);
    return NULL;
}

void kumo_vcpus_throttle(KumoVcpus *vcpus, unsigned percent)
{
    g_mutex_lock(&vcpus->lock);
    vcpus->rest_percent = MIN(percent, THROTTLE_MAX_PERCENT);
    g_cond_broadcast(&vcpus->changed);
    g_mutex_unlock(&vcpus->lock);
    if (percent && !vcpus->throttle)
        vcpus->throttle = g_thread_new("throttle", throttle_thread, vcpus);
    else if (!percent && vcpus->throttle)
        g_thread_join(g_steal_pointer(&vcpus->throttle));
}

void kumo_vcpus_free(KumoVcpus *vcpus)
{
    unsigned busy;

    if (!vcpus)
        return;
    kumo_vcpus_throttle(vcpus, 0);
    stop_running(vcpus, WANT_STOP, -1, &busy);
    g_mutex_lock(&vcpus->lock);
    g_cond_broadcast(&vcpus->changed);
    g_mutex_unlock(&vcpus->lock);
    for (unsigned i = 0; i < vcpus->vcpus->len; i++) {
        Vcpu *vcpu = g_ptr_array_index(vcpus->vcpus, i);

        if (!vcpu)
            continue;
        if (vcpu->has_thread)
            pthread_join(vcpu->thread, NULL);
        vcpu->hv->ops->destroy(vcpu->hv);
        g_free(vcpu);
    }
    g_ptr_array_unref(vcpus->vcpus);
    g_mutex_clear(&vcpus->lock);
    g_cond_clear(&vcpus->changed);
    kumo_vcpu_cookie_clear(&vcpus->cookie);
    g_free(vcpus);
}

unsigned kumo_vcpus_end(const KumoVcpus *vcpus)
{
    unsigned end = vcpus->vcpus->len;

    while (end > 0 && !find(vcpus, end - 1))
        end--;
    return end;
}

KumoHvVcpu *kumo_vcpus_get(const KumoVcpus *vcpus, unsigned index)
{
    const Vcpu *vcpu = find(vcpus, index);

    return vcpu ? vcpu->hv : NULL;
}

void kumo_vcpus_have_run(KumoVcpus *vcpus)
{
    g_mutex_lock(&vcpus->lock);
    for (unsigned i = 0; i < vcpus->vcpus->len; i++) {
        Vcpu *vcpu = find(vcpus, i);

        if (vcpu)
            vcpu->resumed = true;
    }
    g_mutex_unlock(&vcpus->lock);
}

bool kumo_vcpus_nmi(KumoVcpus *vcpus, GError **error)
{
    for (unsigned i = 0; i < vcpus->vcpus->len; i++) {
        Vcpu *vcpu = find(vcpus, i);

        if (vcpu && !vcpu->hv->ops->nmi(vcpu->hv, error))
            return false;
    }
    return true;
}

static bool bind_all(KumoVcpus *vcpus, const KumoCpusConfig *cpus, GError **error)
{
    for (unsigned i = 0; i < vcpus->vcpus->len; i++) {
        const Vcpu *vcpu = find(vcpus, i);

        if (vcpu && vcpu->has_thread && !kumo_vcpu_thread_bind(cpus, i, vcpu->thread, error))
            return false;
    }
    return true;
}

bool kumo_vcpus_bind(KumoVcpus *vcpus, const KumoCpusConfig *cpus, GError **error)
{
    if (bind_all(vcpus, cpus, error))
        return true;
    bind_all(vcpus, &vcpus->machine->config->cpus, NULL);
    return false;
}
