/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* For tests of the host: says a number every 20 ms until it is told to end by a byte on the serial
 * port. */
#include "tests/guest/interrupts.h"
#include "tests/guest/tests.h"

static volatile uint64_t spins[MAX_APS];

static void spin(unsigned number)
{
    spins[number] = 1;
}

void test_ticks(void)
{
    unsigned n = 0;

    for (uint32_t id = 1; id < option_number("cpus", 1); id++)
        ok(start_cpu(id, spin), "processor %u starts", id);
    while (serial_read(0) < 0) {
        print("tick %u\n", n++);
        delay_us(20000);
    }
    ok(n > 0, "%u ticks", n);
}
