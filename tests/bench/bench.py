#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compares kumo with Debian's QEMU, machines microvm and q35, in one run, each part with a table of its own.

Any KVM will do for these parts:
api      what the API of a running machine takes, with the small test guest
start    CPU time until the API answers and until the guest runs, and memory beyond the guest's own, with a guest of eleven bytes
exits, blk, net, memory
         exits, disks and network cards with the guest of tests/guest/bench.c: devices.py
state    snapshots, restores and migrations: state.py
libvirt  the libvirt driver beside libvirt's driver for QEMU: libvirt_driver.py
These need KVM that runs stock kernels:
boot     time to the guest's first instruction, and to its user space
fio, iperf
         disks and network cards under a stock kernel: stock.py

./dev bench runs each where it can. A line on which kumo may be behind has its reason from docs/performance.md printed below
it (EXPLAINED in table.py says how far behind). Status 1 when a goal is missed, or kumo is not ahead without such a reason.
"""

import os
import statistics
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.realpath(__file__))
BUILD = os.environ.get("KUMO_BUILD", os.path.join(os.path.dirname(os.path.dirname(HERE)), "build"))
sys.path.insert(0, os.path.dirname(HERE))
sys.path.insert(0, HERE)
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "guest"))

import contender  # noqa: E402  (the path to it is set above)
import devices  # noqa: E402
import libvirt_driver  # noqa: E402
import state  # noqa: E402
import stock  # noqa: E402
from harness import guest, tiny_guest  # noqa: E402
from harness.context import Context  # noqa: E402
from host import pattern  # noqa: E402
from table import Table, check_reasons  # noqa: E402

KERNEL = "bookworm-elf"
GOAL_API_CPU_MS = 3.0
GOAL_PSS_MIB = 3.0
GOAL_REQUEST_MS = 1.0
# The small guest takes QEMU's firmware with it, which software KVM runs for many seconds.
GUEST_SECONDS = 60


def samples(directory, cls, command, measure, count):
    """Medians of what MEASURE returns over COUNT starts; None when one does not come to its end."""
    found = []
    for _ in range(count):
        one = cls(directory)
        try:
            one.start(command(one))
            found.append(measure(one))
        except contender.Stuck as error:
            print(f"  ({error})", file=sys.stderr)
            return None
        finally:
            one.stop()
    return [statistics.median(values) for values in zip(*found)]


def part_start(directory):
    table = Table(contender.ALL)
    kernel = os.path.join(directory, "tiny.elf")
    with open(kernel, "wb") as stream:
        stream.write(tiny_guest.image())

    def running(one):
        cpu, _ = one.wait_serial(b"K", GUEST_SECONDS)
        return cpu, *contender.memory_beyond_guest(one.process.pid)

    ready = [samples(directory, cls, lambda one: one.idle_command(), lambda one: one.wait_api(), 15) for cls in contender.ALL]
    run = [samples(directory, cls, lambda one: one.guest_command(kernel), running, 7 if cls is contender.Kumo else 2)
           for cls in contender.ALL]
    table.row("CPU to API ready, ms", [value and value[0] * 1000 for value in ready], GOAL_API_CPU_MS)
    table.row("wall time to API ready, ms", [value and value[1] * 1000 for value in ready])
    table.row("CPU to running, ms", [value and value[0] * 1000 for value in run])
    table.row("PSS beyond the guest's memory, MiB", [value and value[2] / 1024 for value in run], GOAL_PSS_MIB)
    table.row("private dirty beyond the guest's, MiB", [value and value[3] / 1024 for value in run])
    return table.missed


def part_boot(directory):
    contenders = contender.ALL + ((contender.Kvmtool,) if contender.Kvmtool.program() else ())
    table = Table(contenders)
    tiny = os.path.join(directory, "tiny.elf")
    with open(tiny, "wb") as stream:
        stream.write(tiny_guest.image())
    stock = {"initramfs": guest.initramfs(KERNEL), "cmdline": guest.command_line()}

    def stock_command(one):
        return one.guest_command(guest.kernel("bookworm-bzimage" if isinstance(one, contender.Kvmtool) else KERNEL), **stock)

    first = [samples(directory, cls, lambda one: one.guest_command(tiny), lambda one: one.wait_serial(b"K", 60), 3)
             for cls in contender.ALL]
    init = [samples(directory, cls, stock_command, lambda one: one.wait_serial(b"guest: kernel", 90), 2) for cls in contenders]
    without = [None] * (len(contenders) - len(first))  # kvmtool does not boot the ELF file
    table.row("time to the guest's first instruction, ms", [value and value[1] * 1000 for value in first] + without)
    table.row("stock kernel to user space, s", [value and value[1] for value in init])
    table.row("CPU to user space, s", [value and value[0] for value in init])
    return table.missed


def median_ms(action, count):
    times = []
    for _ in range(count):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def part_api(_):
    """Of kumo alone. The client is Python's; each request makes its own connection, as curl's do."""
    table = Table((contender.Kumo,))
    elf = os.path.join(BUILD, "tests", "guest", "guest.elf")
    context = Context("bench/api")
    try:
        disk = context.path("disk.raw")
        with open(disk, "wb") as stream:
            stream.write(pattern(1 << 20, 1))
        vm = context.kumo("--kernel", elf, "--cmdline", "test=hotplug wait=1 memory_mib=64 cpus=1 max_cpus=1", "--cpus", "boot=1",
                          "--memory", "size=64M")
        vm.console.send("s")
        vm.console.expect("^ready", GUEST_SECONDS)
        table.row("vmm.ping, ms", [median_ms(lambda: vm.api("GET", "vmm.ping"), 500)], GOAL_REQUEST_MS)
        table.row("vm.info of a running VM, ms", [median_ms(vm.info, 500)], GOAL_REQUEST_MS)
        seen, answered = [], []
        for _ in range(30):
            # It waits for the event device's interrupt, reads who came, and says so after a first read from the disk.
            vm.console.send("c")
            start = time.perf_counter()
            vm.put("vm.add-disk", {"path": disk, "id": "disk"})
            answered.append((time.perf_counter() - start) * 1000)
            vm.console.expect(r"^came slot \d+;", GUEST_SECONDS)
            seen.append((time.perf_counter() - start) * 1000)
            vm.put("vm.remove-device", {"id": "disk"})
            vm.console.send("g")
            vm.console.expect(r"^went slot \d+;", GUEST_SECONDS)
            context.wait_for(lambda: "disk" not in vm.info()["device_tree"], "the disk to go", 10, every=0.002)
        table.row("vm.add-disk until the answer, ms", [statistics.median(answered)])
        table.row("and until the guest has read from it, ms", [statistics.median(seen)])
    finally:
        context.close()
        context.remove()
    return table.missed


PARTS = {"api": part_api, "start": part_start, "boot": part_boot, **devices.PARTS, **state.PARTS, **libvirt_driver.PARTS, **stock.PARTS}


def main():
    wanted = sys.argv[1:] or list(PARTS)
    for name in wanted:
        if name not in PARTS:
            sys.exit(f"bench: unknown part '{name}', there are {', '.join(PARTS)}")
    check_reasons()
    missed = []
    with tempfile.TemporaryDirectory() as directory:
        for name in wanted:
            missed += PARTS[name](directory)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
