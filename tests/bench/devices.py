# SPDX-License-Identifier: LGPL-2.1-or-later
"""Exits, disks and network cards, measured from inside by the guest of tests/guest/bench.c, the same for all contenders.

Contenders take turns, and of each measurement the best turn counts: that is the one which the host disturbed least.
"""

import os
import re
import struct
import sys

import contender
from harness.context import Context
from table import Table

HERE = os.path.dirname(os.path.realpath(__file__))
BUILD = os.environ.get("KUMO_BUILD", os.path.join(os.path.dirname(os.path.dirname(HERE)), "build"))
ELF = os.path.join(BUILD, "tests", "guest", "bench.elf")
RESULT = re.compile(r"^result (\S+) (\d+) (\d+)\r?$", re.MULTILINE)
IN_USE = re.compile(r"^in use\r?$", re.MULTILINE)
PLAN = re.compile(r"^1\.\.\d+\r?$", re.MULTILINE)
TURNS = 4
TURN_SECONDS = 30
DISK_MIB = 256
HOST_MAC, GUEST_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
N_DISKS, N_TAPS = 8, 4


def run_guest(one, command, end=PLAN):
    """Runs the guest until it has printed END. Returns all of it."""
    one.start(command)
    text = one.read_serial(end, TURN_SECONDS)
    if "not ok" in text or "Bail out" in text:
        raise contender.Stuck(f"{one.name}: the guest says\n{text}")
    return text


def best_of(directory, contenders, machine, turns=TURNS):
    """For each contender {measurement: events a second}, the best of its turns."""
    best = {cls: {} for cls in contenders}
    for _ in range(turns):
        for cls in contenders:
            one = cls(directory)
            try:
                found = RESULT.findall(run_guest(one, one.device_command(machine)))
            except contender.Stuck as error:
                print(f"  ({error})", file=sys.stderr)
                continue
            finally:
                one.stop()
            for name, count, nanoseconds in found:
                best[cls][name] = max(best[cls].get(name, 0), int(count) * 1e9 / int(nanoseconds))
    return best


def part_exits(directory):
    contenders = (contender.Kumo, contender.QemuQ35)
    table = Table(contenders)
    best = best_of(directory, contenders, contender.Machine(ELF, "test=exits ms=100"), turns=2 * TURNS)
    for name, what in (("mmio-read", "register read by MMIO, us"), ("mmio-write", "register write by MMIO, us"),
                       ("config-read", "configuration read by ECAM, us"), ("kick", "kick of a queue, us"),
                       ("pio-read", "register read by PIO, us"), ("pio-write", "register write by PIO, us"),
                       ("timer-read", "ACPI timer read, us")):
        table.row(what, [best[cls].get(name) and 1e6 / best[cls][name] for cls in contenders])
    return table.missed


def part_blk(directory):
    contenders = (contender.Kumo, contender.QemuQ35, contender.QemuIothread)
    table = Table(contenders)
    disk = os.path.join(directory, "disk.raw")
    with open(disk, "wb") as stream:
        for _ in range(DISK_MIB):
            stream.write(bytes(1 << 20))
    best = best_of(directory, contenders, contender.Machine(ELF, "test=blk ms=300", disks=(disk,), queues=2))
    table.row("4k random read, 1 at once, us", [best[cls].get("read-1") and 1e6 / best[cls]["read-1"] for cls in contenders])
    for suffix, queues in (("", "1 queue"), ("-2q", "2 queues")):
        for name, what, scale in (("read", "4k random read, 1000/s", 1e3), ("write", "4k random write, 1000/s", 1e3),
                                  ("read-sequential", "sequential read, MiB/s", 8), ("write-sequential", "sequential write, MiB/s", 8)):
            values = [best[cls].get(name + suffix) for cls in contenders]
            table.row(f"{what}, {queues}", [value and value / scale for value in values], more_is_better=True)
    return table.missed


def checksum(data):
    """The Internet checksum (RFC 1071)."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo(message, source, destination, frame_bytes):
    """The 42 bytes with which an ICMP echo request (MESSAGE 8) or reply (0) of FRAME_BYTES begins; the rest is zeroes."""
    ip = bytearray(struct.pack(">BBHHHBBH4s4s", 0x45, 0, frame_bytes - 14, 0, 0, 64, 1, 0, source, destination))
    struct.pack_into(">H", ip, 10, checksum(ip))
    icmp = bytearray(struct.pack(">BBHHH", message, 0, 0, 0x4B55, 1))
    struct.pack_into(">H", icmp, 2, checksum(icmp))
    return HOST_MAC + GUEST_MAC + b"\x08\x00" + ip + icmp


def part_net(directory):
    contenders = (contender.Kumo, contender.QemuQ35)
    table = Table(contenders)
    context = Context("bench/net")
    try:
        tap = context.tap()
        context.run("ip", "link", "set", tap.name, "address", HOST_MAC.hex(":"))
        context.run("ip", "neighbour", "add", "192.168.77.2", "lladdr", GUEST_MAC.hex(":"), "dev", tap.name)
        # Nobody answers a reply: what is sent of them is not held up by what comes back.
        frames = {name: echo(message, bytes((192, 168, 77, 2)), bytes((192, 168, 77, 1)), size).hex()
                  for name, message, size in (("small", 8, 60), ("large", 8, 1514), ("mute-small", 0, 60), ("mute-large", 0, 1514))}
        line = "test=net ms=300 " + " ".join(f"{name}={frame}" for name, frame in frames.items())
        best = best_of(directory, contenders, contender.Machine(ELF, line, taps=(tap.name,)))
    finally:
        context.close()
        context.remove()
    table.row("echo, 1 under way, us", [best[cls].get("echo-1") and 1e6 / best[cls]["echo-1"] for cls in contenders])
    for name, what in (("echo", "echoes of 60 bytes, 64 under way, 1000/s"), ("echo-large", "echoes of 1514 bytes, 64 under way, 1000/s"),
                       ("send", "frames sent of 60 bytes, 1000/s"), ("send-large", "frames sent of 1514 bytes, 1000/s")):
        values = [best[cls].get(name) for cls in contenders]
        table.row(what, [value and value / 1e3 for value in values], more_is_better=True)
    return table.missed


def part_memory(directory):
    contenders = (contender.Kumo, contender.QemuQ35)
    table = Table(contenders)
    context = Context("bench/memory")
    found = []
    try:
        taps = [context.tap(f"tap{i}", f"192.168.{77 + i}.1/24").name for i in range(N_TAPS)]
        disks = [os.path.join(directory, f"disk{i}.raw") for i in range(N_DISKS)]
        for disk in disks:
            with open(disk, "wb") as stream:
                stream.truncate(1 << 20)
        machine = contender.Machine(ELF, f"test=devices disks={N_DISKS} nics={N_TAPS}", disks=tuple(disks), taps=tuple(taps))
        for cls in contenders:
            one = cls(directory)
            try:
                run_guest(one, one.device_command(machine), IN_USE)
                pid = one.process.pid
                found.append((*contender.memory_beyond_guest(pid), len(os.listdir(f"/proc/{pid}/task"))))
            finally:
                one.stop()
    finally:
        context.close()
        context.remove()
    for i, (what, scale) in enumerate((("RSS beyond the guest's memory, MiB", 1024), ("PSS beyond the guest's memory, MiB", 1024), ("private dirty beyond the guest's, MiB", 1024),
                                       ("threads", 1))):
        table.row(what, [values[i] / scale for values in found])
    return table.missed


PARTS = {"exits": part_exits, "blk": part_blk, "net": part_net, "memory": part_memory}
