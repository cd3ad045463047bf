/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Processors: what CPUID tells of the topology, and start-up of all of them. */
#include "tests/guest/acpi.h"
#include "tests/guest/interrupts.h"
#include "tests/guest/tests.h"

enum { IPI_VECTOR = 40, MAX_CPUS = 64 };

static uint32_t seen_apic_id[MAX_CPUS], seen_leaf1_id[MAX_CPUS], seen_leafb_id[MAX_CPUS];

static unsigned bits_for(uint64_t count)
{
    unsigned bits = 0;

    while (1ull << bits < count)
        bits++;
    return bits;
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
