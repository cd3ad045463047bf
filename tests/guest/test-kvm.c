/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The KVM backend with the real core around it, driven by the guests of kvm_guests.S. */
#include <string.h>
#include <unistd.h>

#include "vmm-core/base/error.h"
#include "vmm-core/base/fd.h"
#include "vmm-core/core/vcpu.h"
#include "vmm-core/kvm/kvm.h"

enum {
    RAM_BYTES = 1 << 20,
    CODE_GPA = 0x10000,
    GDT_GPA = 0x2000,
    IDT_GPA = 0x3000,
    STACK_GPA = 0x4000,
    LOG_MAX = 64,
    PAUSES = 100,
    LEVEL_INTERRUPTS = 3,
    LEVEL_PIN = 5,
    MSI_VECTOR = 0x40,
    LEVEL_VECTOR = 0x41,
};

#define MMIO_GPA     0xd0000000ULL
#define DOORBELL_GPA 0xd0001000ULL
#define CR0_PE       1ULL

#define GUEST(name) extern const uint8_t guest_##name[], guest_##name##_end[]
GUEST(io);
GUEST(count);
GUEST(spin);
GUEST(triple_fault);
GUEST(run_mmio);
GUEST(doorbell);
GUEST(irq);
extern const uint8_t guest_irq_msi[], guest_irq_level[];

typedef struct {
    KumoHv *hv;
    KumoMachine machine;
    KumoVcpus *vcpus;
    KumoHvVcpu *vcpu;
    int n_requests[3]; /* atomic; by KumoMachineRequest */

    /* The vCPU's thread writes; the test looks when it is parked or after a counter says so. */
    uint8_t log[LOG_MAX];
    int n_log;        /* atomic */
    int finished;     /* atomic */
    uint32_t counter; /* what port 0x90 gives next */
    uint8_t registers[16];
    int level_left; /* interrupts until the line falls */
} Fixture;

static void on_request(void *opaque, KumoMachineRequest request)
{
    Fixture *fixture = opaque;

    g_atomic_int_inc(&fixture->n_requests[request]);
}

static void log_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    Fixture *fixture = opaque;

    if (data[0] == LEVEL_VECTOR && --fixture->level_left == 0)
        kumo_irq_set_level(fixture->machine.irq, LEVEL_PIN, false);
    fixture->log[fixture->n_log % LOG_MAX] = data[0];
    g_atomic_int_inc(&fixture->n_log);
}

static void finish_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    g_atomic_int_set(&((Fixture *)opaque)->finished, 1);
}

static void counter_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    Fixture *fixture = opaque;

    memcpy(data, &fixture->counter, size);
    fixture->counter++;
}

static void registers_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    memcpy(data, ((Fixture *)opaque)->registers + offset, size);
}

static void registers_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    memcpy(((Fixture *)opaque)->registers + offset, data, size);
}

static void ioapic_read(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    kumo_irq_ioapic_read(opaque, offset, data, size);
}

static void ioapic_write(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    kumo_irq_ioapic_write(opaque, offset, data, size);
}

static const KumoBusOps log_ops = { .write = log_write };
static const KumoBusOps finish_ops = { .write = finish_write };
static const KumoBusOps counter_ops = { .read = counter_read };
static const KumoBusOps registers_ops = { .read = registers_read, .write = registers_write };
static const KumoBusOps ioapic_ops = { .read = ioapic_read, .write = ioapic_write };

static void add_devices(Fixture *fixture)
{
    KumoMachine *machine = &fixture->machine;

    g_assert_true(kumo_bus_add(machine->pio, 0x80, 1, &log_ops, fixture, "log", NULL));
    g_assert_true(kumo_bus_add(machine->pio, 0x82, 1, &finish_ops, fixture, "finish", NULL));
    g_assert_true(kumo_bus_add(machine->pio, 0x90, 4, &counter_ops, fixture, "counter", NULL));
    g_assert_true(kumo_bus_add(machine->mmio, MMIO_GPA, sizeof(fixture->registers), &registers_ops,
                               fixture, "registers", NULL));
    g_assert_true(
        kumo_bus_add(machine->mmio, 0xfec00000, 0x20, &ioapic_ops, machine->irq, "ioapic", NULL));
}

/* A gate for @vector to @handler of the guest irq. */
static void set_gate(Fixture *fixture, unsigned vector, const uint8_t *handler)
{
    uint32_t gpa = CODE_GPA + (uint32_t)(handler - guest_irq);
    const uint64_t gate =
        (gpa & 0xffff) | 0x8ULL << 16 | 0x8eULL << 40 | (uint64_t)(gpa >> 16) << 48;

    g_assert_true(
        kumo_memory_write(fixture->machine.memory, IDT_GPA + vector * 8, &gate, sizeof(gate)));
}

static void set_up_vcpu(Fixture *fixture)
{
    static const uint64_t gdt[] = { 0, 0x00cf9b000000ffff, 0x00cf93000000ffff };
    const KumoHvSegment code = {
        .limit = 0xffffffff, .selector = 8, .type = 0xb, .s = 1, .present = 1, .db = 1, .g = 1
    };
    const KumoHvSegment data = {
        .limit = 0xffffffff, .selector = 16, .type = 3, .s = 1, .present = 1, .db = 1, .g = 1
    };
    const KumoHvRegs regs = { .rip = CODE_GPA, .rsp = STACK_GPA, .rflags = 2 };
    g_autoptr(GArray) cpuid = NULL;
    g_autoptr(GError) error = NULL;
    KumoHvSregs sregs;

    g_assert_true(kumo_memory_write(fixture->machine.memory, GDT_GPA, gdt, sizeof(gdt)));
    cpuid = fixture->hv->ops->cpuid_base(fixture->hv, &error);
    g_assert_no_error(error);
    g_assert_true(fixture->vcpu->ops->set_cpuid(
        fixture->vcpu, (const KumoHvCpuid *)(void *)cpuid->data, cpuid->len, &error));
    g_assert_true(fixture->vcpu->ops->get_sregs(fixture->vcpu, &sregs, &error));
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.gdt = (KumoHvTable){ .base = GDT_GPA, .limit = sizeof(gdt) - 1 };
    sregs.idt = (KumoHvTable){ .base = IDT_GPA, .limit = 0x7ff };
    sregs.cr0 |= CR0_PE;
    g_assert_true(fixture->vcpu->ops->set_sregs(fixture->vcpu, &sregs, &error));
    g_assert_true(fixture->vcpu->ops->set_regs(fixture->vcpu, &regs, &error));
    g_assert_no_error(error);
}

static void set_up(Fixture *fixture, gconstpointer unused)
{
    const KumoHvVmParams params = { .max_vcpus = 1 };
    const KumoMemoryConfig memory = { .size_bytes = RAM_BYTES };
    const KumoMemRange range = { 0, RAM_BYTES };
    KumoMachine *machine = &fixture->machine;
    g_autoptr(GError) error = NULL;

    fixture->hv = kumo_kvm_ops.open(&error);
    if (g_error_matches(error, KUMO_ERROR, KUMO_ERROR_NOT_FOUND) ||
        g_error_matches(error, KUMO_ERROR, KUMO_ERROR_DENIED)) {
        g_test_skip(error->message);
        return;
    }
    g_assert_no_error(error);
    machine->hv = fixture->hv->ops->vm_create(fixture->hv, &params, &error);
    g_assert_no_error(error);
    machine->memory = kumo_memory_new(&memory, &range, 1, 0, machine->hv, &error);
    g_assert_no_error(error);
    machine->pio = kumo_bus_new("pio", 1);
    machine->mmio = kumo_bus_new("mmio", 1);
    machine->irq = kumo_irq_new(machine->hv);
    machine->request = on_request;
    machine->request_opaque = fixture;
    add_devices(fixture);
    fixture->vcpus = kumo_vcpus_new(machine);
    fixture->vcpu = kumo_vcpus_add(fixture->vcpus, 0, 0, NULL, &error);
    g_assert_no_error(error);
    set_up_vcpu(fixture);
    g_assert_true(kumo_vcpus_start(fixture->vcpus, &error));
}

static void tear_down(Fixture *fixture, gconstpointer unused)
{
    if (!fixture->hv)
        return;
    kumo_vcpus_free(fixture->vcpus);
    kumo_irq_free(fixture->machine.irq);
    kumo_bus_free(fixture->machine.mmio);
    kumo_bus_free(fixture->machine.pio);
    kumo_memory_free(fixture->machine.memory);
    fixture->machine.hv->ops->destroy(fixture->machine.hv);
    fixture->hv->ops->close(fixture->hv);
}

static void start(Fixture *fixture, const uint8_t *code, const uint8_t *end)
{
    g_assert_true(kumo_memory_write(fixture->machine.memory, CODE_GPA, code, (size_t)(end - code)));
    kumo_vcpus_resume(fixture->vcpus);
}

#define START(fixture, name) start(fixture, guest_##name, guest_##name##_end)

/* Until the counter is at least that, or the machine asked for something else. */
static void wait_for(Fixture *fixture, int *counter, int at_least)
{
    int64_t limit = g_get_monotonic_time() + 30 * G_TIME_SPAN_SECOND;

    while (g_atomic_int_get(counter) < at_least) {
        if (counter != &fixture->n_requests[KUMO_MACHINE_REQUEST_FAILED])
            g_assert_cmpint(g_atomic_int_get(&fixture->n_requests[KUMO_MACHINE_REQUEST_FAILED]), ==,
                            0);
        g_assert_cmpint(g_get_monotonic_time(), <, limit);
        g_usleep(200);
    }
}

static uint32_t guest_u32(Fixture *fixture, uint64_t gpa)
{
    uint32_t value;

    g_assert_true(kumo_memory_read(fixture->machine.memory, gpa, &value, sizeof(value)));
    return value;
}

static void test_io(Fixture *fixture, gconstpointer unused)
{
    static const uint8_t registers[8] = { 0x11, 0xaa, 0x22, 0x22, 0x44, 0x44, 0x44, 0x44 };
    uint8_t bytes[8];

    if (!fixture->hv)
        return;
    fixture->counter = 0x10;
    fixture->registers[1] = 0xaa;
    g_assert_true(kumo_memory_write(fixture->machine.memory, 0x7000, "Hello", 5));
    START(fixture, io);
    wait_for(fixture, &fixture->finished, 1);
    g_assert_cmpmem(fixture->log, fixture->n_log, "Hello", 5);
    g_assert_true(kumo_memory_read(fixture->machine.memory, 0x5000, bytes, 8));
    g_assert_cmpmem(bytes, 8, "\x10\x11\x12\x13\x14\x15\x16\x17", 8);
    g_assert_cmphex(guest_u32(fixture, 0x5008) & 0xffff, ==, 0x18);
    g_assert_cmphex(guest_u32(fixture, 0x500c), ==, 0x19);
    g_assert_cmpmem(fixture->registers, 8, registers, 8);
    g_assert_cmphex(guest_u32(fixture, 0x5010), ==, 0x44444444);
    g_assert_cmphex(guest_u32(fixture, 0x5014), ==, 0xaa);
    g_assert_cmphex(guest_u32(fixture, 0x5018), ==, 0xffffffff);
}

/* A pause never leaves a read half done: what the device gave is in the register. */
static void test_pause_completes(Fixture *fixture, gconstpointer unused)
{
    if (!fixture->hv)
        return;
    START(fixture, count);
    for (unsigned i = 0; i < PAUSES; i++) {
        g_autoptr(GError) error = NULL;
        KumoHvRegs regs;
        uint32_t before, loops;

        g_usleep(i % 7 * 100);
        g_assert_true(kumo_vcpus_pause(fixture->vcpus, &error));
        before = fixture->counter;
        g_assert_true(fixture->vcpu->ops->get_regs(fixture->vcpu, &regs, &error));
        if (before > 0)
            g_assert_cmpuint(regs.rax, ==, before - 1);
        loops = guest_u32(fixture, 0x6000);
        g_assert_true(loops == before || loops + 1 == before);
        g_assert_cmpuint(fixture->counter, ==, before);
        kumo_vcpus_resume(fixture->vcpus);
    }
    g_assert_cmpuint(fixture->counter, >, 0);
}

/* A guest that never leaves by itself can be stopped. */
static void test_spin(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    int64_t before;

    if (!fixture->hv)
        return;
    START(fixture, spin);
    wait_for(fixture, &fixture->finished, 1);
    for (unsigned i = 0; i < 20; i++) {
        before = g_get_monotonic_time();
        g_assert_true(kumo_vcpus_pause(fixture->vcpus, &error));
        g_assert_cmpint(g_get_monotonic_time() - before, <, G_TIME_SPAN_SECOND);
        kumo_vcpus_resume(fixture->vcpus);
    }
}

static void test_triple_fault(Fixture *fixture, gconstpointer unused)
{
    if (!fixture->hv)
        return;
    START(fixture, triple_fault);
    wait_for(fixture, &fixture->n_requests[KUMO_MACHINE_REQUEST_RESET], 1);
    g_assert_cmpint(fixture->n_requests[KUMO_MACHINE_REQUEST_FAILED], ==, 0);
}

/* Code in a device's registers: nothing can execute that; the vCPU fails and the process does not.
 */
static void test_failure(Fixture *fixture, gconstpointer unused)
{
    if (!fixture->hv)
        return;
    START(fixture, run_mmio);
    wait_for(fixture, &fixture->n_requests[KUMO_MACHINE_REQUEST_FAILED], 1);
}

static void test_ioeventfd(Fixture *fixture, gconstpointer unused)
{
    const uint64_t match = 7;
    KumoHvVm *vm = fixture->machine.hv;
    g_autoptr(GError) error = NULL;
    kumo_auto_fd fd = -1;

    if (!fixture->hv)
        return;
    fd = kumo_eventfd_new(&error);
    g_assert_true(vm->ops->ioeventfd(vm, fd, DOORBELL_GPA, 4, &match, false, true, &error));
    g_assert_no_error(error);
    START(fixture, doorbell);
    wait_for(fixture, &fixture->finished, 1);
    g_assert_cmpuint(kumo_eventfd_drain(fd), ==, 1); /* the 8 went elsewhere */
    g_assert_false(vm->ops->ioeventfd(vm, fd, DOORBELL_GPA, 4, &match, false, true, &error));
    g_assert_error(error, KUMO_ERROR, KUMO_ERROR_HYPERVISOR);
    g_clear_error(&error);
    g_assert_true(vm->ops->ioeventfd(vm, fd, DOORBELL_GPA, 4, &match, false, false, &error));
}

static void test_interrupts(Fixture *fixture, gconstpointer unused)
{
    g_autoptr(GError) error = NULL;
    KumoMsi *msi;

    if (!fixture->hv)
        return;
    set_gate(fixture, MSI_VECTOR, guest_irq_msi);
    set_gate(fixture, LEVEL_VECTOR, guest_irq_level);
    START(fixture, irq);
    wait_for(fixture, &fixture->finished, 1);

    /* The line stays up: each EOI brings the next one, until the handler's write takes it down. */
    fixture->level_left = LEVEL_INTERRUPTS;
    kumo_irq_set_level(fixture->machine.irq, LEVEL_PIN, true);
    wait_for(fixture, &fixture->n_log, LEVEL_INTERRUPTS);
    g_usleep(20000);
    g_assert_cmpint(g_atomic_int_get(&fixture->n_log), ==, LEVEL_INTERRUPTS);
    fixture->level_left = 1;
    kumo_irq_set_level(fixture->machine.irq, LEVEL_PIN, true);
    wait_for(fixture, &fixture->n_log, LEVEL_INTERRUPTS + 1);

    msi = kumo_msi_new(fixture->machine.irq, &error);
    g_assert_true(kumo_msi_route(msi, true, 0xfee00000, MSI_VECTOR, &error));
    for (int i = 1; i <= 5; i++) {
        kumo_msi_trigger(msi);
        wait_for(fixture, &fixture->n_log, LEVEL_INTERRUPTS + 1 + i);
        g_assert_cmphex(fixture->log[LEVEL_INTERRUPTS + i], ==, MSI_VECTOR);
    }
    /* Disconnected, the eventfd wakes nobody. */
    g_assert_true(kumo_msi_route(msi, false, 0, 0, &error));
    kumo_msi_trigger(msi);
    g_usleep(20000);
    g_assert_cmpint(g_atomic_int_get(&fixture->n_log), ==, LEVEL_INTERRUPTS + 6);
    kumo_msi_free(msi);
}

static void test_capabilities(Fixture *fixture, gconstpointer unused)
{
    uint64_t bitmap[(RAM_BYTES / 4096) / 64];
    KumoHvVm *vm = fixture->machine.hv;
    const KumoMemRegion *region;
    g_autoptr(GError) error = NULL;
    uint64_t ns;

    if (!fixture->hv)
        return;
    region = &fixture->machine.memory->regions[0];
    g_assert_cmpuint(fixture->hv->ops->tsc_khz(fixture->hv), >, 0);
    g_assert_cmpuint(fixture->hv->ops->max_vcpus(fixture->hv), >=, 1);
    g_assert_true(vm->ops->clock_get(vm, &ns, &error));
    g_assert_true(vm->ops->clock_set(vm, ns, &error));
    g_assert_true(vm->ops->set_memory(vm, region->slot, region->gpa, region->size_bytes,
                                      region->hva, KUMO_HV_MEM_LOG_DIRTY, &error));
    fixture->counter = 0;
    START(fixture, io);
    wait_for(fixture, &fixture->finished, 1);
    memset(bitmap, 0, sizeof(bitmap));
    g_assert_true(vm->ops->dirty_get(vm, region->slot, bitmap, RAM_BYTES / 4096, &error));
    g_assert_no_error(error);
    g_assert_true(bitmap[0] & 1 << 5); /* the guest wrote to 0x5000 */
    g_assert_false(bitmap[0] & 1 << 6);
}

#define ADD(path, func) g_test_add(path, Fixture, NULL, set_up, func, tear_down)

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    ADD("/kvm/io", test_io);
    ADD("/kvm/pause-completes", test_pause_completes);
    ADD("/kvm/spin", test_spin);
    ADD("/kvm/triple-fault", test_triple_fault);
    ADD("/kvm/failure", test_failure);
    ADD("/kvm/ioeventfd", test_ioeventfd);
    ADD("/kvm/interrupts", test_interrupts);
    ADD("/kvm/capabilities", test_capabilities);
    return g_test_run();
}
