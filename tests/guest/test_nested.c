/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A hypervisor on AMD's processors (AMD64 Architecture Programmer's Manual, volume 2, chapter 15),
 * up to where it would run its guest. */
#include "tests/guest/machine.h"
#include "tests/guest/tests.h"

enum {
    MSR_EFER = 0xc0000080u,
    EFER_SVME = 1 << 12,
};

static void wait_for_host(const char *what)
{
    print("%s\n", what);
    while (serial_read(0) < 0)
        ;
}

void test_nested(void)
{
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SVME);
    wait_for_host("enabled");
    __asm__ volatile("clgi" ::: "memory");
    wait_for_host("closed");
    __asm__ volatile("stgi" ::: "memory");
    wait_for_host("open");
    ok(rdmsr(MSR_EFER) & EFER_SVME, "SVM is as it was");
}
