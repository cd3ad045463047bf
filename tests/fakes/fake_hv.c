/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/fakes/fake_hv.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"

enum { FAKE_MAX_VCPUS = 64, FAKE_TSC_KHZ = 2000000, FAKE_PAGE = 4096 };

typedef struct {
    enum { STEP_EXIT, STEP_ACCESS, STEP_CALL } what;
    KumoHvExit exit;
    bool pio, write;
    uint64_t addr, value;
    unsigned size;
    uint64_t *ret;
    int *done;
    void (*func)(void *opaque);
    void *opaque;
} Step;

static FakeHvVm *last_vm;
static FakeHvVcpu *vcpus_of_last[FAKE_MAX_VCPUS];
static const KumoHvVcpuOps vcpu_ops, vcpu_signals_only_ops;

static bool fails(FakeHvVm *vm, const char *operation, GError **error)
{
    if (g_strcmp0(vm->fail, operation) != 0)
        return false;
    g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR, "fake: %s", operation);
    return true;
}

/* --- vCPU --- */

static void vcpu_destroy(KumoHvVcpu *base)
{
    FakeHvVcpu *vcpu = (FakeHvVcpu *)base;
    FakeHvVm *vm = (FakeHvVm *)base->vm;
    Step *step;

    while ((step = g_async_queue_try_pop(vcpu->script)))
        g_free(step);
    g_async_queue_unref(vcpu->script);
    g_array_unref(vcpu->cpuid);
    g_array_unref(vcpu->msrs);
    close(vcpu->wake_fd);
    vm->n_vcpus--;
    if (vm == last_vm)
        vcpus_of_last[base->index] = NULL;
    g_free(vcpu);
}

static void step_access(FakeHvVcpu *vcpu, const Step *step)
{
    uint64_t value = step->value;
    uint8_t *data = (uint8_t *)&value;

    if (step->pio && step->write)
        vcpu->bus->pio_write(vcpu->opaque, (uint16_t)step->addr, data, step->size);
    else if (step->pio)
        vcpu->bus->pio_read(vcpu->opaque, (uint16_t)step->addr, data, step->size);
    else if (step->write)
        vcpu->bus->mmio_write(vcpu->opaque, step->addr, data, step->size);
    else
        vcpu->bus->mmio_read(vcpu->opaque, step->addr, data, step->size);
    if (step->ret)
        *step->ret = value;
    if (step->done)
        g_atomic_int_set(step->done, 1);
}

static bool vcpu_run(KumoHvVcpu *base, KumoHvExit *ret_exit, GError **error)
{
    FakeHvVcpu *vcpu = (FakeHvVcpu *)base;

    if (g_atomic_int_get(&vcpu->n_runs) == 0)
        sched_getaffinity(0, sizeof(vcpu->first_cpus), &vcpu->first_cpus);
    g_atomic_int_inc(&vcpu->n_runs);
    ret_exit->kind = KUMO_HV_EXIT_ERROR;
    if (fails((FakeHvVm *)base->vm, "run", error))
        return false;
    for (;;) {
        struct pollfd wake = { .fd = vcpu->wake_fd, .events = POLLIN };
        g_autofree Step *step = NULL;

        if (g_atomic_int_get(&vcpu->immediate_exit)) {
            ret_exit->kind = KUMO_HV_EXIT_AGAIN;
            return true;
        }
        step = g_async_queue_try_pop(vcpu->script);
        if (step && step->what == STEP_EXIT) {
            *ret_exit = step->exit;
            if (step->exit.kind != KUMO_HV_EXIT_ERROR)
                return true;
            g_set_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR, "fake: scripted failure");
            return false;
        }
        if (step && step->what == STEP_ACCESS) {
            step_access(vcpu, step);
            continue;
        }
        if (step) {
            step->func(step->opaque);
            continue;
        }
        if (poll(&wake, 1, -1) < 0) {
            g_assert_cmpint(errno, ==, EINTR);
            ret_exit->kind = KUMO_HV_EXIT_AGAIN;
            return true;
        }
        kumo_eventfd_drain(vcpu->wake_fd);
    }
}

static void vcpu_set_immediate_exit(KumoHvVcpu *base, bool on)
{
    FakeHvVcpu *vcpu = (FakeHvVcpu *)base;

    g_atomic_int_set(&vcpu->immediate_exit, on);
}

static bool vcpu_get_regs(KumoHvVcpu *base, KumoHvRegs *ret, GError **error)
{
    *ret = ((FakeHvVcpu *)base)->regs;
    return true;
}

static bool vcpu_set_regs(KumoHvVcpu *base, const KumoHvRegs *regs, GError **error)
{
    ((FakeHvVcpu *)base)->regs = *regs;
    return true;
}

static bool vcpu_get_sregs(KumoHvVcpu *base, KumoHvSregs *ret, GError **error)
{
    *ret = ((FakeHvVcpu *)base)->sregs;
    return true;
}

static bool vcpu_set_sregs(KumoHvVcpu *base, const KumoHvSregs *sregs, GError **error)
{
    ((FakeHvVcpu *)base)->sregs = *sregs;
    return true;
}

static bool vcpu_set_cpuid(KumoHvVcpu *base, const KumoHvCpuid *entries, size_t n_entries,
                           GError **error)
{
    FakeHvVcpu *vcpu = (FakeHvVcpu *)base;

    if (fails((FakeHvVm *)base->vm, "set_cpuid", error))
        return false;
    g_array_set_size(vcpu->cpuid, 0);
    if (n_entries)
        g_array_append_vals(vcpu->cpuid, entries, (guint)n_entries);
    return true;
}

static KumoHvMsr *find_msr(FakeHvVcpu *vcpu, uint32_t index)
{
    for (unsigned i = 0; i < vcpu->msrs->len; i++) {
        KumoHvMsr *msr = &g_array_index(vcpu->msrs, KumoHvMsr, i);

        if (msr->index == index)
            return msr;
    }
    return NULL;
}

static bool vcpu_get_msrs(KumoHvVcpu *base, KumoHvMsr *msrs, size_t n_msrs, GError **error)
{
    for (size_t i = 0; i < n_msrs; i++) {
        const KumoHvMsr *msr = find_msr((FakeHvVcpu *)base, msrs[i].index);

        msrs[i].value = msr ? msr->value : 0;
    }
    return true;
}

static bool vcpu_set_msrs(KumoHvVcpu *base, const KumoHvMsr *msrs, size_t n_msrs, GError **error)
{
    FakeHvVcpu *vcpu = (FakeHvVcpu *)base;

    if (fails((FakeHvVm *)base->vm, "set_msrs", error))
        return false;
    for (size_t i = 0; i < n_msrs; i++) {
        KumoHvMsr *msr = find_msr(vcpu, msrs[i].index);

        if (msr)
            msr->value = msrs[i].value;
        else
            g_array_append_val(vcpu->msrs, msrs[i]);
    }
    return true;
}

static bool vcpu_get_lapic(KumoHvVcpu *base, KumoHvLapic *ret, GError **error)
{
    *ret = ((FakeHvVcpu *)base)->lapic;
    return true;
}

static bool vcpu_set_lapic(KumoHvVcpu *base, const KumoHvLapic *lapic, GError **error)
{
    ((FakeHvVcpu *)base)->lapic = *lapic;
    return true;
}

static GArray *vcpu_get_cpuid(KumoHvVcpu *base, GError **error)
{
    return g_array_copy(((FakeHvVcpu *)base)->cpuid);
}

static GArray *vcpu_get_all_msrs(KumoHvVcpu *base, GError **error)
{
    if (fails((FakeHvVm *)base->vm, "get_all_msrs", error))
        return NULL;
    return g_array_copy(((FakeHvVcpu *)base)->msrs);
}

static GByteArray *vcpu_get_xsave(KumoHvVcpu *base, GError **error)
{
    FakeHvVcpu *vcpu = (FakeHvVcpu *)base;

    return g_byte_array_append(g_byte_array_new(), vcpu->xsave, (guint)vcpu->xsave_len);
}

static bool vcpu_set_xsave(KumoHvVcpu *base, const uint8_t *data, size_t len, GError **error)
{
    FakeHvVcpu *vcpu = (FakeHvVcpu *)base;

    if (len != vcpu->xsave_len) {
        g_set_error(error, KUMO_ERROR, KUMO_ERROR_NOT_SUPPORTED, "fake: xsave of %zu bytes", len);
        return false;
    }
    memcpy(vcpu->xsave, data, len);
    return true;
}

#define GETTER(name, type, member)                                                                 \
    static bool vcpu_get_##name(KumoHvVcpu *base, type *ret, GError **error)                       \
    {                                                                                              \
        *ret = ((FakeHvVcpu *)base)->member;                                                       \
        return true;                                                                               \
    }

GETTER(xcr0, uint64_t, xcr0)
GETTER(debug_regs, KumoHvDebugRegs, debug_regs)
GETTER(events, KumoHvEvents, events)
GETTER(mp_state, KumoHvMpState, mp_state)

static bool vcpu_set_xcr0(KumoHvVcpu *base, uint64_t xcr0, GError **error)
{
    ((FakeHvVcpu *)base)->xcr0 = xcr0;
    return true;
}

static bool vcpu_set_debug_regs(KumoHvVcpu *base, const KumoHvDebugRegs *regs, GError **error)
{
    ((FakeHvVcpu *)base)->debug_regs = *regs;
    return true;
}

static bool vcpu_set_events(KumoHvVcpu *base, const KumoHvEvents *events, GError **error)
{
    ((FakeHvVcpu *)base)->events = *events;
    return !fails((FakeHvVm *)base->vm, "set_events", error);
}

static bool vcpu_set_mp_state(KumoHvVcpu *base, KumoHvMpState state, GError **error)
{
    ((FakeHvVcpu *)base)->mp_state = state;
    return true;
}

static bool vcpu_set_tsc_khz(KumoHvVcpu *base, uint32_t khz, GError **error)
{
    ((FakeHvVcpu *)base)->tsc_khz = khz;
    return true;
}

static bool vcpu_nmi(KumoHvVcpu *base, GError **error)
{
    ((FakeHvVcpu *)base)->n_nmis++;
    return true;
}

static void vcpu_clock_paused(KumoHvVcpu *base)
{
    ((FakeHvVcpu *)base)->n_clock_paused++;
}

#define VCPU_OPS_EXCEPT_IMMEDIATE_EXIT                                                             \
    .destroy = vcpu_destroy, .run = vcpu_run, .get_regs = vcpu_get_regs,                           \
    .set_regs = vcpu_set_regs, .get_sregs = vcpu_get_sregs, .set_sregs = vcpu_set_sregs,           \
    .set_cpuid = vcpu_set_cpuid, .get_msrs = vcpu_get_msrs, .set_msrs = vcpu_set_msrs,             \
    .get_lapic = vcpu_get_lapic, .set_lapic = vcpu_set_lapic, .nmi = vcpu_nmi,                     \
    .clock_paused = vcpu_clock_paused, .get_cpuid = vcpu_get_cpuid,                                \
    .get_all_msrs = vcpu_get_all_msrs, .get_xsave = vcpu_get_xsave, .set_xsave = vcpu_set_xsave,   \
    .get_xcr0 = vcpu_get_xcr0, .set_xcr0 = vcpu_set_xcr0, .get_debug_regs = vcpu_get_debug_regs,   \
    .set_debug_regs = vcpu_set_debug_regs, .get_events = vcpu_get_events,                          \
    .set_events = vcpu_set_events, .get_mp_state = vcpu_get_mp_state,                              \
    .set_mp_state = vcpu_set_mp_state, .set_tsc_khz = vcpu_set_tsc_khz

static const KumoHvVcpuOps vcpu_ops = {
    VCPU_OPS_EXCEPT_IMMEDIATE_EXIT,
    .set_immediate_exit = vcpu_set_immediate_exit,
};

static const KumoHvVcpuOps vcpu_signals_only_ops = { VCPU_OPS_EXCEPT_IMMEDIATE_EXIT };

/* --- VM --- */

static void vm_destroy(KumoHvVm *base)
{
    FakeHvVm *vm = (FakeHvVm *)base;

    g_assert_cmpuint(vm->n_vcpus, ==, 0);
    if (vm == last_vm)
        last_vm = NULL;
    g_array_unref(vm->routes);
    g_array_unref(vm->msis);
    g_array_unref(vm->irqfds);
    g_array_unref(vm->ioeventfds);
    g_array_unref(vm->slots);
    g_array_unref(vm->dirty);
    g_mutex_clear(&vm->lock);
    g_free(vm);
}

static bool vm_set_memory(KumoHvVm *base, uint32_t slot, uint64_t gpa, uint64_t size_bytes,
                          void *hva, uint32_t flags, GError **error)
{
    FakeHvVm *vm = (FakeHvVm *)base;
    FakeSlot entry = { slot, gpa, size_bytes, hva, flags };

    if (fails(vm, "set_memory", error))
        return false;
    g_assert_cmpuint(gpa % FAKE_PAGE, ==, 0);
    g_assert_cmpuint(size_bytes % FAKE_PAGE, ==, 0);
    g_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->slots->len; i++) {
        if (g_array_index(vm->slots, FakeSlot, i).slot == slot) {
            g_array_remove_index(vm->slots, i);
            break;
        }
    }
    if (size_bytes)
        g_array_append_val(vm->slots, entry);
    g_mutex_unlock(&vm->lock);
    return true;
}

static bool vm_set_gsi_routing(KumoHvVm *base, const KumoHvMsiRoute *routes, size_t n_routes,
                               GError **error)
{
    FakeHvVm *vm = (FakeHvVm *)base;

    if (fails(vm, "set_gsi_routing", error))
        return false;
    g_mutex_lock(&vm->lock);
    g_array_set_size(vm->routes, 0);
    if (n_routes)
        g_array_append_vals(vm->routes, routes, (guint)n_routes);
    vm->n_routing++;
    g_mutex_unlock(&vm->lock);
    return true;
}

static bool vm_irqfd(KumoHvVm *base, int fd, int resample_fd, uint32_t gsi, bool assign,
                     GError **error)
{
    FakeHvVm *vm = (FakeHvVm *)base;
    FakeIrqfd entry = { fd, gsi };
    bool found = false;

    if (fails(vm, "irqfd", error))
        return false;
    g_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->irqfds->len && !found; i++) {
        const FakeIrqfd *old = &g_array_index(vm->irqfds, FakeIrqfd, i);

        if (old->fd == fd && old->gsi == gsi) {
            found = true;
            if (!assign)
                g_array_remove_index(vm->irqfds, i);
        }
    }
    g_assert_true(found != assign);
    if (assign)
        g_array_append_val(vm->irqfds, entry);
    g_mutex_unlock(&vm->lock);
    return true;
}

static bool vm_ioeventfd(KumoHvVm *base, int fd, uint64_t addr, unsigned len,
                         const uint64_t *datamatch, bool pio, bool assign, GError **error)
{
    FakeHvVm *vm = (FakeHvVm *)base;
    FakeIoeventfd entry = { fd, addr, len, datamatch != NULL, datamatch ? *datamatch : 0, pio };
    bool found = false;

    if (fails(vm, "ioeventfd", error))
        return false;
    g_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->ioeventfds->len && !found; i++) {
        const FakeIoeventfd *old = &g_array_index(vm->ioeventfds, FakeIoeventfd, i);

        if (old->addr == addr && old->len == len && old->pio == pio &&
            old->has_datamatch == entry.has_datamatch && old->datamatch == entry.datamatch &&
            (assign || old->fd == fd)) {
            found = true;
            if (!assign)
                g_array_remove_index(vm->ioeventfds, i);
        }
    }
    g_assert_true(found != assign);
    if (assign)
        g_array_append_val(vm->ioeventfds, entry);
    g_mutex_unlock(&vm->lock);
    return true;
}

static bool vm_signal_msi(KumoHvVm *base, uint64_t address, uint32_t data, GError **error)
{
    FakeHvVm *vm = (FakeHvVm *)base;
    FakeMsi msi = { address, data };

    if (fails(vm, "signal_msi", error))
        return false;
    g_mutex_lock(&vm->lock);
    g_array_append_val(vm->msis, msi);
    g_mutex_unlock(&vm->lock);
    return true;
}

static KumoHvVcpu *vm_vcpu_create(KumoHvVm *base, uint32_t index, uint32_t apic_id,
                                  const KumoHvBusOps *bus, void *opaque, GError **error)
{
    FakeHvVm *vm = (FakeHvVm *)base;
    FakeHvVcpu *vcpu;

    if (fails(vm, "vcpu_create", error))
        return NULL;
    g_assert_cmpuint(index, <, FAKE_MAX_VCPUS);
    vcpu = g_new0(FakeHvVcpu, 1);
    vcpu->base.ops =
        base->hv->ops == &fake_hv_signals_only_ops ? &vcpu_signals_only_ops : &vcpu_ops;
    vcpu->base.vm = base;
    vcpu->base.index = index;
    vcpu->bus = bus;
    vcpu->opaque = opaque;
    vcpu->apic_id = apic_id;
    vcpu->xsave_len = 64;
    vcpu->wake_fd = kumo_eventfd_new(NULL);
    vcpu->script = g_async_queue_new();
    vcpu->cpuid = g_array_new(FALSE, TRUE, sizeof(KumoHvCpuid));
    vcpu->msrs = g_array_new(FALSE, TRUE, sizeof(KumoHvMsr));
    vm->n_vcpus++;
    if (vm == last_vm)
        vcpus_of_last[index] = vcpu;
    return &vcpu->base;
}

static bool vm_pause(KumoHvVm *base, GError **error)
{
    if (fails((FakeHvVm *)base, "pause", error))
        return false;
    ((FakeHvVm *)base)->n_pauses++;
    return true;
}

static bool vm_resume(KumoHvVm *base, GError **error)
{
    ((FakeHvVm *)base)->n_resumes++;
    return true;
}

static bool vm_clock_get(KumoHvVm *base, uint64_t *ret_ns, GError **error)
{
    *ret_ns = ((FakeHvVm *)base)->clock_ns;
    return !fails((FakeHvVm *)base, "clock_get", error);
}

static bool vm_clock_set(KumoHvVm *base, uint64_t ns, GError **error)
{
    ((FakeHvVm *)base)->clock_ns = ns;
    return true;
}

static bool vm_dirty_get(KumoHvVm *base, uint32_t slot, uint64_t *bitmap, size_t n_pages,
                         GError **error)
{
    FakeHvVm *vm = (FakeHvVm *)base;

    if (fails(vm, "dirty_get", error))
        return false;
    memset(bitmap, 0, (n_pages + 63) / 64 * sizeof(uint64_t));
    g_mutex_lock(&vm->lock);
    for (unsigned i = vm->dirty->len; i-- > 0;) {
        const FakePage *page = &g_array_index(vm->dirty, FakePage, i);

        if (page->slot != slot)
            continue;
        g_assert_cmpuint(page->page, <, n_pages);
        if (vm->lost_dirty)
            vm->lost_dirty--;
        else
            bitmap[page->page / 64] |= 1ULL << page->page % 64;
        g_array_remove_index_fast(vm->dirty, i);
    }
    g_mutex_unlock(&vm->lock);
    return true;
}

void fake_hv_guest_writes(FakeHvVm *vm, uint64_t gpa, const void *data, size_t len)
{
    g_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->slots->len; i++) {
        const FakeSlot *slot = &g_array_index(vm->slots, FakeSlot, i);
        uint64_t offset = gpa - slot->gpa;

        if (offset >= slot->size_bytes)
            continue;
        g_assert_cmpuint(len, <=, slot->size_bytes - offset);
        memcpy((char *)slot->hva + offset, data, len);
        for (uint64_t page = offset / FAKE_PAGE;
             (slot->flags & KUMO_HV_MEM_LOG_DIRTY) && page <= (offset + len - 1) / FAKE_PAGE;
             page++) {
            const FakePage entry = { slot->slot, page };

            g_array_append_val(vm->dirty, entry);
        }
    }
    g_mutex_unlock(&vm->lock);
}

static const KumoHvVmOps vm_ops = {
    .destroy = vm_destroy,
    .set_memory = vm_set_memory,
    .set_gsi_routing = vm_set_gsi_routing,
    .irqfd = vm_irqfd,
    .ioeventfd = vm_ioeventfd,
    .signal_msi = vm_signal_msi,
    .vcpu_create = vm_vcpu_create,
    .pause = vm_pause,
    .resume = vm_resume,
    .clock_get = vm_clock_get,
    .clock_set = vm_clock_set,
    .dirty_get = vm_dirty_get,
};

FakeHvVm *fake_hv_vm_new(void)
{
    FakeHvVm *vm = g_new0(FakeHvVm, 1);

    vm->base.ops = &vm_ops;
    vm->base.hv = &vm->hv;
    vm->hv.ops = &fake_hv_ops;
    vm->routes = g_array_new(FALSE, FALSE, sizeof(KumoHvMsiRoute));
    vm->msis = g_array_new(FALSE, FALSE, sizeof(FakeMsi));
    vm->irqfds = g_array_new(FALSE, FALSE, sizeof(FakeIrqfd));
    vm->ioeventfds = g_array_new(FALSE, FALSE, sizeof(FakeIoeventfd));
    vm->slots = g_array_new(FALSE, FALSE, sizeof(FakeSlot));
    vm->dirty = g_array_new(FALSE, FALSE, sizeof(FakePage));
    g_mutex_init(&vm->lock);
    last_vm = vm;
    return vm;
}

FakeHvVm *fake_hv_last_vm(void)
{
    return last_vm;
}

FakeHvVcpu *fake_hv_vcpu(FakeHvVm *vm, unsigned index)
{
    return vm && vm == last_vm && index < FAKE_MAX_VCPUS ? vcpus_of_last[index] : NULL;
}

/* --- hypervisor --- */

static KumoHv *hv_open(GError **error)
{
    KumoHv *hv = g_new0(KumoHv, 1);

    hv->ops = &fake_hv_ops;
    return hv;
}

static KumoHv *hv_open_signals_only(GError **error)
{
    KumoHv *hv = g_new0(KumoHv, 1);

    hv->ops = &fake_hv_signals_only_ops;
    return hv;
}

static void hv_close(KumoHv *hv)
{
    g_free(hv);
}

static uint32_t hv_caps(KumoHv *hv)
{
    return KUMO_HV_CAP_PIO_IOEVENTFD;
}

static uint32_t hv_max_vcpus(KumoHv *hv)
{
    return FAKE_MAX_VCPUS;
}

static uint32_t hv_tsc_khz(KumoHv *hv)
{
    return FAKE_TSC_KHZ;
}

static GArray *hv_cpuid_base(KumoHv *hv, GError **error)
{
    return g_array_new(FALSE, TRUE, sizeof(KumoHvCpuid));
}

static KumoHvVm *hv_vm_create(KumoHv *hv, const KumoHvVmParams *params, GError **error)
{
    FakeHvVm *vm = fake_hv_vm_new();

    vm->base.hv = hv;
    return &vm->base;
}

#define HV_OPS_EXCEPT_OPEN                                                                         \
    .device_path = "/dev/null", .close = hv_close, .caps = hv_caps, .max_vcpus = hv_max_vcpus,     \
    .tsc_khz = hv_tsc_khz, .cpuid_base = hv_cpuid_base, .vm_create = hv_vm_create

const KumoHvOps fake_hv_ops = {
    .name = "fake",
    HV_OPS_EXCEPT_OPEN,
    .open = hv_open,
};

const KumoHvOps fake_hv_signals_only_ops = {
    .name = "fake-signals-only",
    HV_OPS_EXCEPT_OPEN,
    .open = hv_open_signals_only,
};

/* --- scripts --- */

static void push(FakeHvVcpu *vcpu, Step step)
{
    g_async_queue_push(vcpu->script, g_memdup2(&step, sizeof(step)));
    kumo_eventfd_signal(vcpu->wake_fd);
}

void fake_hv_push_exit(FakeHvVcpu *vcpu, KumoHvExitKind kind, uint8_t vector)
{
    push(vcpu, (Step){ .what = STEP_EXIT, .exit = { .kind = kind, .vector = vector } });
}

void fake_hv_push_access(FakeHvVcpu *vcpu, bool pio, bool write, uint64_t addr, uint64_t value,
                         unsigned size, uint64_t *ret, int *done)
{
    push(vcpu, (Step){ .what = STEP_ACCESS,
                       .pio = pio,
                       .write = write,
                       .addr = addr,
                       .value = value,
                       .size = size,
                       .ret = ret,
                       .done = done });
}

void fake_hv_push_call(FakeHvVcpu *vcpu, void (*func)(void *opaque), void *opaque)
{
    push(vcpu, (Step){ .what = STEP_CALL, .func = func, .opaque = opaque });
}
