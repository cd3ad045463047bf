#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The REST API with the test guest behind it: host_api.py KUMO GUEST.elf CASE [--tap]; see host.py."""

import os
import shutil
import struct
import sys

from host import case, main
from harness.vmm import ApiError

ET_CORE, EM_X86_64, PT_LOAD, PT_NOTE, NT_PRSTATUS = 4, 62, 1, 4, 1
PRSTATUS_REGS, REG_RIP, REG_CR3 = 112, 16, 3


def segments(data):
    """The program headers of an ELF file of 64 bits: (type, file offset, physical address, size in the file)."""
    offset, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for i in range(count):
        kind, _, at, _, physical, length = struct.unpack_from("<IIQQQQ", data, offset + i * size)
        yield kind, at, physical, length


def notes(data, at, length):
    """The notes of a core: (name, type, content)."""
    end = at + length
    while at < end:
        name_len, content_len, kind = struct.unpack_from("<III", data, at)
        at += 12
        name = data[at:at + name_len - 1].decode()
        at += (name_len + 3) & ~3
        yield name, kind, data[at:at + content_len]
        at += (content_len + 3) & ~3


def check_core(h, path, label, cpus, memory_mib):
    with open(path, "rb") as file:
        core = file.read()
    h.check(core[:6] == b"\x7fELF\x02\x01" and struct.unpack_from("<HH", core, 16) == (ET_CORE, EM_X86_64), f"{label}: an ELF core")
    parts = list(segments(core))
    memory = [part for part in parts if part[0] == PT_LOAD]
    h.check(sum(part[3] for part in memory) == memory_mib << 20, f"{label}: all memory is in it")
    h.check(memory[-1][1] + memory[-1][3] == len(core), f"{label}: and nothing behind it")
    with open(h.elf, "rb") as file:
        guest = file.read()
    code = max((part for part in segments(guest) if part[0] == PT_LOAD), key=lambda part: part[3])
    home = next(part for part in memory if part[2] <= code[2] < part[2] + part[3])
    found = core[home[1] + code[2] - home[2]:][:4096]
    h.check(found == guest[code[1]:][:4096], f"{label}: the guest's code is where it runs")
    described = list(notes(core, *[part for part in parts if part[0] == PT_NOTE][0][1::2]))
    h.check([(name, kind) for name, kind, _ in described] == [("CORE", NT_PRSTATUS), ("QEMU", 0)] * cpus, f"{label}: two notes per vCPU")
    for index in range(cpus):
        status, system = described[2 * index][2], described[2 * index + 1][2]
        rip, = struct.unpack_from("<Q", status, PRSTATUS_REGS + REG_RIP * 8)
        version, size = struct.unpack_from("<II", system)
        cr = struct.unpack_from("<5Q", system, len(system) - 48)
        h.check((version, size) == (1, len(system)) and struct.unpack_from("<Q", system, 8 + 16 * 8)[0] == rip,
                f"{label}: vCPU {index}: the notes agree")
        if index == 0:
            h.check(code[2] <= rip < code[2] + code[3], f"{label}: vCPU 0 is in the guest's code: {rip:#x}")
            h.check(cr[0] & 0x80000001 == 0x80000001 and cr[REG_CR3], f"{label}: vCPU 0 has paging: {cr[0]:#x}, {cr[REG_CR3]:#x}")


@case
def coredump(h):
    events = h.t.path("events")

    def refused(vm, url, status, what):
        try:
            vm.put("vm.coredump", {"destination_url": url})
            h.check(False, f"{what} is refused")
        except ApiError as error:
            h.check(error.status == status, f"{what} is refused with {status}: {error}")

    for label, cpus, memory, options in (("private memory", 1, 64, ""), ("2 vCPUs, shared memory", 2, 96, ",shared=on"),
                                         ("memory above 4 GiB", 1, 3200, "")):
        path = h.t.path(f"core-{cpus}-{memory}")
        vm = h.start("power", "--event-monitor", f"path={events}", cpus=cpus, memory_mib=memory, memory_options=options, talk=True)
        vm.console.expect("^ready", 30)
        vm.put("vm.coredump", {"destination_url": f"file://{path}"})
        h.check(vm.state() == "Running", f"{label}: the guest runs on")
        h.check(os.stat(path).st_mode & 0o777 == 0o600, f"{label}: nobody else may read the core")
        h.check(os.stat(path).st_blocks * 512 < 32 << 20, f"{label}: pages of zeros take no room")
        if memory < 1024:
            check_core(h, path, label, cpus, memory)
        else:
            with open(path, "rb") as file:
                loads = [part for part in segments(file.read(4096)) if part[0] == PT_LOAD]
            h.check(sum(part[3] for part in loads) == memory << 20 and loads[-1][2] == 1 << 32, f"{label}: all memory is in it: {loads}")
        vm.put("vm.pause")
        refused(vm, f"file://{path}", 409, "an existing file")
        refused(vm, f"file://{h.t.path('nowhere')}/core", 404, "a directory that is not there")
        refused(vm, path, 400, "a path that is no URL")
        refused(vm, "file://core", 400, "a path that is not absolute")
        os.unlink(path)
        vm.put("vm.coredump", {"destination_url": f"file://{path}"})
        h.check(vm.state() == "Paused", f"{label}: a paused VM stays so")
        vm.put("vm.resume")
        vm.console.send("q")
        vm.wait_exit(0, 20)
        with open(events, encoding="utf-8") as file:
            h.check(file.read().count('"coredumping"') >= 2, f"{label}: the events tell")
        if shutil.which("gdb"):
            said = h.t.run("gdb", "-nx", "-batch", "-ex", "info threads", h.elf, path, status=None, timeout=60)
            h.check(said.count("LWP") >= cpus or "Thread" in said, f"{label}: gdb reads it")
        os.unlink(path)
    vm = h.t.kumo(serial=None, console=None)
    refused(vm, f"file://{h.t.path('core')}", 404, "a core of no VM")
    vm.put("vm.create", {"payload": {"kernel": h.elf}})
    refused(vm, f"file://{h.t.path('core')}", 409, "a core of a VM that does not run")
    h.check(not os.path.exists(h.t.path("core")), "what failed leaves no file")


if __name__ == "__main__":
    sys.exit(main())
