/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tests, one function each; tests.c lists them. */
#pragma once

#include "tests/guest/runtime.h"

void test_boot(void);
void test_cpuid(void);
void test_nested(void);
void test_power(void);
void test_pci(void);
void test_serial(void);
void test_smp(void);
void test_x2apic(void);
void test_rng(void);
void test_blk(void);
void test_blk_errors(void);
void test_net(void);
void test_console(void);
void test_flood(void);
void test_ticks(void);
void test_hostile(void);
void test_intx(void);
void test_noise(void);
void test_acpi(void);
void test_events(void);
void test_hotplug(void);
void test_hyperv(void);
void test_resize(void);
void test_snapshot(void);
void test_golden(void);
