/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest that has written much of its memory, and is idle or goes on writing, to be moved and put
 * away. */
#include "tests/guest/bench.h"
#include "tests/guest/interrupts.h"

#define FIRST_GPA (64ull << 20)

enum {
    PAGE = 4096,
    SLICE_PAGES = 64,
    TICK_US = 2000,
};

/* In user mode: every page gets content of its own, which no compression or look for zeros makes
 * small. */
static uint64_t user_write(uint64_t at, uint64_t pages, uint64_t seed)
{
    for (uint64_t page = 0; page < pages; page++) {
        volatile uint64_t *words = (volatile uint64_t *)(at + page * PAGE);

        for (unsigned i = 0; i < PAGE / 8; i++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            words[i] = seed;
        }
    }
    return seed;
}

static uint64_t user_touch(uint64_t at, uint64_t pages, uint64_t value)
{
    for (uint64_t page = 0; page < pages; page++)
        *(volatile uint64_t *)(at + page * PAGE) = value;
    return 0;
}

/* fill_mib=: so much is written before "filled"; busy_mib=: so much of it again and again,
 * busy_kpps= thousand pages a second. A line "tick N" every two milliseconds. */
void bench_state(void)
{
    uint64_t fill = option_number("fill_mib", 0) << 20, busy = option_number("busy_mib", 0) << 20;
    uint64_t per_tick = option_number("busy_kpps", 10) * TICK_US / 1000,
             seed = 88172645463325252ull;
    uint64_t next = 0;

    map(FIRST_GPA, fill);
    seed = user_call(user_write, FIRST_GPA, fill / PAGE, seed);
    interrupts_on();
    print("filled\n");
    for (uint64_t tick = 0;; tick++) {
        uint64_t end = now_us() + TICK_US;

        print("tick %lu\n", tick);
        for (uint64_t left = busy ? per_tick : 0; left > 0;) {
            uint64_t n = left < SLICE_PAGES ? left : SLICE_PAGES;

            if (next + n * PAGE > busy)
                next = 0;
            user_call(user_touch, FIRST_GPA + next, n, tick);
            next += n * PAGE;
            left -= n;
        }
        /* Asleep, but for a timer. */
        while (now_us() < end)
            wait_interrupts(FIRST_VECTOR, 1, end - now_us());
    }
}
