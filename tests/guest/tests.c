/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tests/guest/tests.h"

extern const GuestTest guest_tests[];

const GuestTest guest_tests[] = {
    { "boot", test_boot },
    { "cpuid", test_cpuid },
    { "nested", test_nested },
    { "power", test_power },
    { "pci", test_pci },
    { "serial", test_serial },
    { "smp", test_smp },
    { "x2apic", test_x2apic },
    { "rng", test_rng },
    { "blk", test_blk },
    { "blk_errors", test_blk_errors },
    { "net", test_net },
    { "console", test_console },
    { "flood", test_flood },
    { "ticks", test_ticks },
    { "hostile", test_hostile },
    { "intx", test_intx },
    { "noise", test_noise },
    { "acpi", test_acpi },
    { "events", test_events },
    { "hotplug", test_hotplug },
    { "hyperv", test_hyperv },
    { "resize", test_resize },
    { "snapshot", test_snapshot },
    { "golden", test_golden },
    { NULL, NULL },
};
