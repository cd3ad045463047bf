# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks and network cards under a stock kernel, measured with fio and iperf3 in the guest (guest-bench.sh).

In the lab the disk is a block device in memory, past the page cache; elsewhere a file in the page cache. Contenders
take turns, and the best of each line counts.
"""

import os
import re
import subprocess
import sys

import contender
from harness import guest
from harness.context import Context
from table import Table

KERNEL = "bookworm-elf"
RESULT = re.compile(r"^guest: result (\S+) ([0-9.]+)\r?$", re.MULTILINE)
READY = re.compile(r"^guest: ready\r?$", re.MULTILINE)
TURNS = 2
TURN_SECONDS = 120
MEMORY_MIB = 512
DISK_MIB = 256
RAM_DISK = "/dev/ram0"


def results(directory, cls, word, cpus, **devices):
    """{measurement: number} of a guest that does WORD."""
    machine = contender.Machine(guest.kernel(KERNEL), guest.command_line(run=(*devices.pop("first", ()), word)),
                                guest.bench_initramfs(KERNEL), cpus, MEMORY_MIB, **devices)
    one = cls(directory)
    try:
        one.start(one.device_command(machine))
        text = one.read_serial(READY, TURN_SECONDS)
    except contender.Stuck as error:
        print(f"  ({error})", file=sys.stderr)
        return {}
    finally:
        one.stop()
    if f"run {word} ok" not in text:
        print(text, file=sys.stderr)
    return {name: float(number) for name, number in RESULT.findall(text)}


def make_disk(directory):
    """Returns (path, whether to go past the page cache)."""
    if os.environ.get("KUMO_IN_LAB"):
        subprocess.run(["modprobe", "brd", "rd_nr=1", f"rd_size={DISK_MIB << 10}"], check=True)
        path = RAM_DISK
    else:
        path = os.path.join(directory, "disk.raw")
    with open(path, "wb") as stream:
        for _ in range(DISK_MIB):
            stream.write(bytes(1 << 20))
    return path, path == RAM_DISK


def part_fio(directory):
    contenders = (contender.Kumo, contender.QemuQ35, contender.QemuIothread)
    table = Table(contenders)
    disk, direct = make_disk(directory)
    for queues in (1, 2):
        found = [{} for _ in contenders]
        for _ in range(TURNS):
            for best, cls in zip(found, contenders):
                turn = results(directory, cls, f"bench:disk-{queues}", queues, disks=(disk,), direct=direct, queues=queues)
                best.update({name: max(number, best.get(name, 0)) for name, number in turn.items()})
        suffix = ", 1 queue" if queues == 1 else f", {queues} queues"
        if queues == 1:
            table.row("fio 4k random read, 1 at once, 1/s", [values.get("read-1") for values in found], more_is_better=True)
        for name, what, scale in (("read", "fio 4k random read, 1/s", 1), ("write", "fio 4k random write, 1/s", 1),
                                  ("read-sequential", "fio sequential read, MiB/s", 1024),
                                  ("write-sequential", "fio sequential write, MiB/s", 1024)):
            numbers = [values.get(name) for values in found]
            table.row(what + suffix, [number and number / scale for number in numbers], more_is_better=True)
    return table.missed


def part_iperf(directory):
    contenders = (contender.Kumo, contender.QemuQ35)
    table = Table(contenders)
    context = Context("bench/iperf")
    try:
        tap = context.tap()
        context.start("iperf3", "-s", "-B", tap.address)
        found = [results(directory, cls, f"bench:network:{tap.address}", 1, first=("ip:192.168.77.2/24",), taps=(tap.name,))
                 for cls in contenders]
    finally:
        context.close()
        context.remove()
    table.row("ping, ms", [values.get("ping") for values in found])
    table.row("iperf3 from the guest, Mbit/s", [values.get("send") for values in found], more_is_better=True)
    table.row("iperf3 to the guest, Mbit/s", [values.get("receive") for values in found], more_is_better=True)
    return table.missed


PARTS = {"fio": part_fio, "iperf": part_iperf}
