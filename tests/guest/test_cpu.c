/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processors: what CPUID tells of the topology, and start-up of all of them. */
#include "tests/guest/acpi.h"
#include "tests/guest/interrupts.h"
#include "tests/guest/pci.h"
#include "tests/guest/tests.h"
#include "tests/guest/virtio.h"

enum {
    IPI_VECTOR = 40,
    MSIX_VECTOR = 41,
    PIN_VECTOR = 42,
    MAX_CPUS = 64,
    FIRST_INTX_PIN = 5,
    N_INTX_PINS = 8,
    MAX_XAPIC_ID = 254,
    APIC_BASE_X2APIC = 1 << 10,
    KVM_FEATURE_MSI_EXT_DEST_ID = 15,
    MSR_ARCH_CAPABILITIES = 0x10a,
    MSR_VMX_BASIC = 0x480,
    EFER_SVME = 1 << 12,
};
#define MSR_EFER 0xc0000080u

static uint32_t seen_apic_id[MAX_CPUS], seen_leaf1_id[MAX_CPUS], seen_leafb_id[MAX_CPUS];

static unsigned bits_for(uint64_t count)
{
    unsigned bits = 0;

    while (1ull << bits < count)
        bits++;
    return bits;
}

/* Registers that tell of features: IA32_ARCH_CAPABILITIES has what the host wants of the bits in
 * msr_mask=. */
static void check_feature_msrs(void)
{
    uint64_t mask = option_number("msr_mask", 0), value = 0;
    bool there = try_rdmsr(MSR_ARCH_CAPABILITIES, &value);

    if (there)
        print("# arch_capabilities %lx\n", value);
    if (mask)
        ok(there && (value & mask) == option_number("msr_value", 0),
           "IA32_ARCH_CAPABILITIES is %lx, of which %lx is asked for", value, mask);
}

/* Nothing to nest with: neither VMX nor SVM, nor SVM's leaf, nor a way to switch it on. */
static void check_no_nesting(void)
{
    uint64_t value = 0;

    ok(!(cpuid(1, 0).ecx & 1 << 5) && !(cpuid(0x80000001, 0).ecx & 1 << 2), "neither VMX nor SVM");
    ok(!cpuid(0x8000000a, 0).eax && !cpuid(0x8000000a, 0).edx, "no leaf about SVM");
    ok(!try_wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME), "SVM cannot be switched on (%lx)",
       rdmsr(MSR_EFER));
    ok(!try_rdmsr(MSR_VMX_BASIC, &value) || !value, "no register of VMX");
}

void test_cpuid(void)
{
    uint64_t threads = option_number("threads", 1),
             cores = option_number("cores", option_number("cpus", 1));
    uint64_t dies = option_number("dies", 1);
    unsigned thread_bits = bits_for(threads),
             package_bits = thread_bits + bits_for(cores) + bits_for(dies);
    Cpuid r = cpuid(1, 0);

    print("# leaf 1 ecx %x\n", r.ecx);
    ok(r.ecx >> 31, "the hypervisor bit is set");
    ok(r.ecx >> 24 & 1, "there is a TSC deadline timer");
    ok(r.ecx >> 21 & 1, "there is an x2APIC");
    ok(r.edx >> 12 & 1, "there are MTRRs");
    ok(r.ebx >> 24 == apic_id(), "leaf 1 has APIC id %u", r.ebx >> 24);
    ok((r.ebx >> 16 & 0xff) == 1u << package_bits, "leaf 1 has %u logical processors",
       r.ebx >> 16 & 0xff);
    r = cpuid(0xb, 0);
    ok(r.eax == thread_bits && r.ebx == threads && r.ecx == 0x100, "leaf 0xb: %u threads a core",
       r.ebx);
    r = cpuid(0xb, 1);
    ok(r.eax == package_bits && r.ebx == threads * cores * dies && r.ecx == 0x201,
       "leaf 0xb: %u processors a package in %u bits", r.ebx, r.eax);
    ok(r.edx == apic_id(), "leaf 0xb has APIC id %u", r.edx);
    r = cpuid(0xb, 2);
    ok((r.ecx >> 8) == 0, "leaf 0xb ends");
    r = cpuid(0x80000008, 0);
    ok((r.eax & 0xff) <= option_number("phys_bits", 46) && (r.eax & 0xff) >= 36,
       "%u physical address bits", r.eax & 0xff);
    r = cpuid(0x40000000, 0);
    ok(r.ebx == 0x4b4d564b && r.eax >= 0x40000010, "KVM's leaves up to %x", r.eax);
    r = cpuid(0x40000010, 0);
    {
        uint64_t tsc = rdtsc(), began = now_us(), khz;

        delay_us(20000);
        khz = (rdtsc() - tsc) * 1000 / (now_us() - began);
        ok(khz > r.eax / 100 * 90 && khz < r.eax / 100 * 110,
           "the TSC runs at %u kHz (measured %lu)", r.eax, khz);
    }
    r = cpuid(7, 0);
    ok(!(r.edx & (1u << 22 | 1u << 24 | 1u << 25)), "no AMX");
    check_feature_msrs();
    if (option_number("no_nesting", 0))
        check_no_nesting();
}

static void record(unsigned number)
{
    uint32_t id = apic_id();

    seen_apic_id[number] = id;
    seen_leaf1_id[number] = cpuid(1, 0).ebx >> 24;
    seen_leafb_id[number] = cpuid(0xb, 0).edx;
}

void test_smp(void)
{
    const uint8_t *madt = acpi_find("APIC");
    unsigned started = 0, sent = 0;
    bool same = true;

    for (const uint8_t *at = madt + 44; at < madt + field(madt, 4, 4) && at[1]; at += at[1]) {
        uint32_t id = (uint32_t)field(at, 4, 4);

        if (at[0] != 9 || !(field(at, 8, 4) & 1) || id == apic_id())
            continue;
        if (!ok(start_cpu(id, record), "processor with APIC id %u starts", id))
            continue;
        ok(seen_apic_id[started] == id, "it has APIC id %u", seen_apic_id[started]);
        same &= seen_leaf1_id[started] == id && seen_leafb_id[started] == id;
        started++;
        send_ipi(id, IPI_VECTOR);
        ok(wait_interrupts(IPI_VECTOR, ++sent, 2000000), "it takes an interrupt from this one");
    }
    ok(same, "CPUID of each tells its own APIC id");
    ok(started + 1 == option_number("cpus", 1), "%u processors run", started + 1);
    send_ipi(apic_id(), IPI_VECTOR);
    ok(wait_interrupts(IPI_VECTOR, sent + 1, 2000000), "an interrupt to itself comes");
}

/* --- ids that the xAPIC has no bits for --- */

static volatile uint32_t taker;
static volatile unsigned n_taken;
static Virtio rng;

static void on_taken(void)
{
    taker = apic_id();
    n_taken++;
}

static void on_pin(void)
{
    /* Reading ends the level. Where interrupts are ended early (see test_intx.c) one more may come.
     */
    if (read8(rng.isr))
        on_taken();
}

/* Whether one interrupt comes, to the processor @id. */
static bool taken_by(uint32_t id)
{
    uint64_t end = now_us() + 2000000;

    while (!n_taken && now_us() < end)
        __asm__ volatile("pause");
    return n_taken == 1 && taker == id;
}

static bool run_rng(Queue *queue)
{
    static uint8_t data[64] __attribute__((aligned(64)));
    const Buffer one = { data, sizeof(data), true };
    uint32_t len;

    n_taken = 0;
    queue_add(queue, &one, 1);
    return queue_run(queue, &len, 2000000);
}

/* One processor beyond the xAPIC's ids, started by its id, takes interrupts of each kind. */
static void check_far_processor(uint32_t id)
{
    unsigned pin = FIRST_INTX_PIN + rng.slot % N_INTX_PINS;
    Queue queue;

    if (!ok(start_cpu(id, record), "processor with APIC id %u starts", id))
        return;
    ok(apic_base_found & APIC_BASE_X2APIC, "its local APIC was in x2APIC mode already (%lx)",
       apic_base_found);
    n_taken = 0;
    send_ipi(id, IPI_VECTOR);
    ok(taken_by(id), "it takes an interrupt from this one");

    msix_on(rng.slot);
    msix_route(rng.slot, 0, msi_address(id), MSIX_VECTOR, false);
    ok(virtio_begin(&rng, 0) && virtio_queue(&rng, 0, 0, &queue), "the rng device can be set up");
    virtio_ready(&rng);
    ok(run_rng(&queue) && taken_by(id), "it takes MSI-X at %lx", msi_address(id));

    write16(pci_config(rng.slot, pci_capability(rng.slot, PCI_CAP_MSIX, 0) + 2), 0);
    ioapic_route_to(pin, id, PIN_VECTOR, true, false);
    ok(virtio_begin(&rng, 0) && virtio_queue(&rng, 0, NO_VECTOR, &queue), "and without MSI-X");
    virtio_ready(&rng);
    ok(run_rng(&queue) && taken_by(id), "it takes IOAPIC pin %u", pin);
    ioapic_route_to(pin, id, PIN_VECTOR, true, true);
    virtio_set_status(&rng, 0);
}

void test_x2apic(void)
{
    const uint8_t *madt = acpi_find("APIC");
    unsigned far = 0, all = 0, n = (unsigned)option_number("start", 4), started = 0;
    unsigned package_bits = cpuid(0xb, 1).eax;
    unsigned every;
    bool same = true;

    ok(cpuid(0x40000001, 0).eax >> KVM_FEATURE_MSI_EXT_DEST_ID & 1,
       "the guest may put 15 bits of an APIC id into messages");
    ok(rdmsr(0x1b) & APIC_BASE_X2APIC && apic_base_found & APIC_BASE_X2APIC,
       "the boot processor began in x2APIC mode (%lx)", apic_base_found);
    if (!ok(virtio_find(VIRTIO_RNG, 0, &rng), "there is an rng device"))
        return;
    interrupt_handler(IPI_VECTOR, on_taken);
    interrupt_handler(MSIX_VECTOR, on_taken);
    interrupt_handler(PIN_VECTOR, on_pin);
    interrupts_on();
    for (const uint8_t *at = madt + 44; at < madt + field(madt, 4, 4) && at[1]; at += at[1]) {
        if (at[0] != 9)
            continue;
        all++;
        far += field(at, 4, 4) > MAX_XAPIC_ID && field(at, 8, 4) & 1;
    }
    ok(all == option_number("max_cpus", 1) && far > 0,
       "MADT has %u processors, %u with an id above 254", all, far);
    /* Evenly spread over them, the last one always. */
    every = far > n ? far / n : 1;
    for (const uint8_t *at = madt + 44; at < madt + field(madt, 4, 4) && at[1]; at += at[1]) {
        uint32_t id = (uint32_t)field(at, 4, 4);

        if (at[0] != 9 || id <= MAX_XAPIC_ID || !(field(at, 8, 4) & 1) || --far % every)
            continue;
        check_far_processor(id);
        same &= seen_apic_id[started] == id && seen_leafb_id[started] == id &&
                seen_leaf1_id[started] == (id & 0xff);
        same &= package_bits == option_number("package_bits", 0);
        started++;
    }
    ok(started >= n && same, "%u started; CPUID tells each its own id, below %u bits of package",
       started, package_bits);
    /* The lowest one in spite of the same low eight bits: nothing above came to it. */
    n_taken = 0;
    send_ipi(apic_id(), IPI_VECTOR);
    ok(taken_by(apic_id()) && interrupt_count[IPI_VECTOR] == started + 1,
       "an interrupt to itself comes");
}
