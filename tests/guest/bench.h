/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Measurements from inside a guest, of any VMM that boots it by the PVH ABI and shows virtio over
 * PCI. Each result is a line "result NAME COUNT NANOSECONDS".
 */
#pragma once

#include "tests/guest/runtime.h"
#include "tests/guest/virtio.h"

void bench_exits(void);
void bench_blk(void);
void bench_net(void);
void bench_devices(void);
void bench_state(void);

/* How long one measurement takes: ms= on the command line. */
uint64_t bench_ticks(void);

/* @count of what was measured took @ticks of the time stamp counter. */
void report(const char *name, uint64_t count, uint64_t ticks);

/* As virtio_find(), where the firmware may have placed no BARs. Reports what is missing. */
bool bench_find(unsigned type, unsigned nth, Virtio *ret);
