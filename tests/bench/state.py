# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots, restores and migrations of a guest with 1 GiB of which it has written most, beside QEMU's of the same guest.

The guest of tests/guest/bench_state.c prints a line every two milliseconds, so what its console says, and when, tells how long it
stood still and when it ran again, whoever runs it. Files are in memory (/dev/shm): the host's disk is not what is measured.
"""

import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time

import contender
from devices import ELF
from harness.vmm import api_request
from table import Table

MEMORY_MIB = 1024
FILL_MIB = 768
BUSY = "busy_mib=64 busy_kpps=8"  # 32 MiB a second
TURNS = 3
SECONDS = 60
GOAL_ON_DEMAND_MS = 10.0
GOAL_DOWNTIME_MS = {"local": 10.0, "tcp": 30.0}
TICK = re.compile(rb"tick \d+")


class Console:
    """What all processes of one guest print: they have the same FIFO."""

    def __init__(self, one):
        self.one = one

    def drain(self):
        try:
            while os.read(self.one.serial, 1 << 20):
                pass
        except BlockingIOError:
            pass

    def wait(self, pattern=TICK, seconds=SECONDS):
        """Waits for a line. Returns when it came."""
        end = time.monotonic() + seconds
        seen = b""
        while time.monotonic() < end:
            try:
                seen += os.read(self.one.serial, 65536)
            except BlockingIOError:
                pass
            if pattern.search(seen):
                return time.monotonic()
            time.sleep(0.0002)
        raise contender.Stuck(f"{self.one.name}: the guest says nothing: {seen[-200:]!r}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Vmm:
    """One VMM with the guest; subclasses say how it is asked."""

    kind = None

    def __init__(self, directory, words="", shared=False, sending=None):
        self.directory = tempfile.mkdtemp(dir=directory)
        self.one = self.kind(self.directory)
        self.words = words
        self.shared = shared
        self.sending = sending or {}  # more members of kumo's vm.send-migration
        self.others = []
        self.console = Console(self.one)

    def line(self):
        return f"test=state fill_mib={FILL_MIB} {self.words}"

    def begin(self):
        self.one.start(self.command())
        self.console.wait(re.compile(rb"filled\r?\n"))
        self.console.wait()
        return self

    def spawn(self, command):
        """Another process of the same guest."""
        other = self.kind(self.directory)
        other.name, other.socket = f"{self.kind.name}-{len(self.others) + 1}", f"{self.one.socket}-{len(self.others) + 1}"
        other.began = time.monotonic()
        with open(os.path.join(self.directory, f"{other.name}.log"), "wb") as log:
            other.process = contender.subprocess.Popen(command(other), stdin=contender.subprocess.DEVNULL, stdout=log, stderr=log)
        self.others.append(other)
        return other

    def end(self):
        for one in (self.one, *self.others):
            one.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self.begin()

    def __exit__(self, *_):
        self.end()


class Kumo(Vmm):
    kind = contender.Kumo
    name = "kumo"

    def command(self):
        self.events = os.path.join(self.directory, "events")
        return [*self.one.idle_command(), "--event-monitor", f"path={self.events}", "--kernel", ELF, "--cmdline", self.line(), "--cpus", "boot=1",
                "--memory", f"size={MEMORY_MIB}M{',shared=on' if self.shared else ''}", "--serial", f"file={self.one.fifo}", "--console", "off"]

    def put(self, endpoint, body=None, one=None):
        return api_request((one or self.one).socket, "PUT", endpoint, body, 120)

    def snapshot(self):
        self.files = os.path.join(self.directory, "snapshot")
        os.mkdir(self.files)
        self.put("vm.pause")
        start = time.monotonic()
        self.put("vm.snapshot", {"destination_url": f"file://{self.files}"})
        return time.monotonic() - start

    def restore(self, mode):
        self.one.stop_process()
        self.console.drain()
        other = self.spawn(lambda one: ["kumo", "--api-socket", one.socket, "--restore",
                                        f"source_url=file://{self.files},resume=on,memory_restore_mode={mode}"])
        return self.console.wait() - other.began

    def move(self, kind):
        url = f"tcp:127.0.0.1:{free_port()}" if kind == "tcp" else f"unix:{self.directory}/migration"
        other = self.spawn(lambda one: ["kumo", "--api-socket", one.socket])
        other.wait_api()
        self.put("vm.receive-migration", {"receiver_url": url, "wait": False}, other)
        start = time.monotonic()
        self.put("vm.send-migration", {"destination_url": url, "local": kind == "local", **self.sending})
        return start, self.moved

    def moved(self):
        with open(self.events, "rb") as file:
            text = file.read()
        if b'"migration-failed"' in text:
            raise contender.Stuck("kumo: the migration failed")
        return b'"migration-finished"' in text


class Qemu(Vmm):
    kind = contender.QemuQ35
    name = "qemu q35"

    def command(self, one=None, incoming=None):
        one = one or self.one
        # Firmware as in contender.py. Memory as for kumo's local hand-over, where it is shared.
        command = ["qemu-system-x86_64", "-M", "q35,memory-backend=ram", "-accel", "kvm", "-cpu", "host", "-smp", "1", "-m", str(MEMORY_MIB),
                   "-object", self.backend(), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                   "-qmp", f"unix:{one.socket},server=on,wait=off", "-bios", "qboot.rom", "-kernel", ELF, "-append", self.line(),
                   "-serial", f"file:{self.one.fifo}"]
        return [*command, "-incoming", incoming] if incoming else command

    def backend(self):
        if self.shared:
            return f"memory-backend-file,id=ram,size={MEMORY_MIB}M,share=on,mem-path={self.directory}/ram"
        return f"memory-backend-ram,id=ram,size={MEMORY_MIB}M"

    def qmp(self, one, *commands):
        """The answers to COMMANDS, (name, arguments) each, on a connection of their own."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(one.socket)
            stream = connection.makefile("rw", encoding="utf-8")
            stream.readline()
            answers = []
            for name, arguments in (("qmp_capabilities", {}), *commands):
                stream.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
                stream.flush()
                answer = {}
                while "return" not in answer:
                    answer = json.loads(stream.readline())
                    if "error" in answer:
                        raise contender.Stuck(f"qemu: {name}: {answer['error']['desc']}")
                answers.append(answer["return"])
            return answers[1:]

    def prepare(self, *others):
        for one in (self.one, *others):
            self.qmp(one, ("migrate-set-parameters", {"max-bandwidth": 1 << 40}),
                     ("migrate-set-capabilities", {"capabilities": [{"capability": "x-ignore-shared", "state": self.shared}]}))

    def completed(self):
        status = self.qmp(self.one, ("query-migrate", {}))[0].get("status")
        if status == "failed":
            raise contender.Stuck("qemu: the migration failed")
        return status == "completed"

    def snapshot(self):
        self.files = os.path.join(self.directory, "snapshot")
        self.prepare()
        self.qmp(self.one, ("stop", {}))
        start = time.monotonic()
        self.qmp(self.one, ("migrate", {"uri": f"exec:cat > {self.files}"}))
        while not self.completed():
            time.sleep(0.001)
        return time.monotonic() - start

    def restore(self, mode):
        self.one.stop_process()
        self.console.drain()
        other = self.spawn(lambda one: self.command(one, f"exec:cat {self.files}"))
        other.wait_api()
        # It was stopped when it was written down.
        while self.qmp(other, ("query-status", {}))[0]["status"] == "inmigrate":
            time.sleep(0.001)
        self.qmp(other, ("cont", {}))
        return self.console.wait() - other.began

    def move(self, kind):
        url = f"tcp:127.0.0.1:{free_port()}" if kind == "tcp" else f"unix:{self.directory}/migration"
        other = self.spawn(lambda one: self.command(one, "defer"))
        other.wait_api()
        self.prepare(other)
        self.qmp(other, ("migrate-incoming", {"uri": url}))
        start = time.monotonic()
        self.qmp(self.one, ("migrate", {"uri": url}))
        return start, self.completed


def gap_and_total(vmm, kind):
    """Moves the guest. Returns (the longest time for which it said nothing, time until the source has done all)."""
    vmm.console.drain()
    start, done = vmm.move(kind)
    last = vmm.console.wait()
    longest, total = 0.0, None
    after = 0
    next_look = 0.0
    while after < 20:
        now = vmm.console.wait()
        longest = max(longest, now - last)
        last = now
        if total is None and now >= next_look:
            next_look = now + 0.002
            if done():
                total = time.monotonic() - start
        after += total is not None
        if now - start > SECONDS:
            raise contender.Stuck(f"{vmm.name}: the migration does not end")
    return longest, total


def best(cls, directory, measure, turns=TURNS, **options):
    """The best of each of the numbers that MEASURE returns, over some guests; None where none came to its end."""
    found = []
    for _ in range(turns):
        vmm = cls(directory, **options)
        try:
            found.append(measure(vmm.begin()))
        except (contender.Stuck, OSError) as error:
            print(f"  ({error})", file=sys.stderr)
        finally:
            vmm.end()
    return [min(values) for values in zip(*found)] if found else None


def measure_snapshot(vmm):
    taken = vmm.snapshot()
    times = [vmm.restore("copy")]
    if isinstance(vmm, Kumo):
        for other in vmm.others:
            other.stop_process()
        times.append(vmm.restore("ondemand"))
    return [taken, *times]


def part_state(_):
    contenders = (contender.Kumo, contender.QemuQ35)
    table = Table(contenders)
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="kumo-bench-") as directory:
        kumo, qemu = (best(cls, directory, measure_snapshot) for cls in (Kumo, Qemu))
        table.row("snapshot, ms", [value and value[0] * 1000 for value in (kumo, qemu)])
        table.row("restore by copying until the guest runs, ms", [value and value[1] * 1000 for value in (kumo, qemu)])
        # QEMU has nothing of the kind: beside its restore.
        table.row("restore on demand until the guest runs, ms", [kumo and kumo[2] * 1000, qemu and qemu[1] * 1000], GOAL_ON_DEMAND_MS)
        for kind, words, shared, what in (("local", "", True, "local, idle"), ("local", BUSY, True, "local, busy"),
                                          ("tcp", "", False, "TCP, idle"), ("tcp", BUSY, False, "TCP, busy")):
            values = [best(cls, directory, lambda vmm, kind=kind: gap_and_total(vmm, kind), words=words, shared=shared)
                      for cls in (Kumo, Qemu)]
            table.row(f"migration, {what}: guest still, ms", [value and value[0] * 1000 for value in values],
                      GOAL_DOWNTIME_MS[kind] if not words else None)
            table.row(f"migration, {what}: total, ms", [value and value[1] * 1000 for value in values])
            if kind == "tcp" and not words:
                # QEMU's stream has no checksums.
                plain = best(Kumo, directory, lambda vmm: gap_and_total(vmm, "tcp"), sending={"checksum": False})
                for what, value in (("with checksums", values[0]), ("without", plain)):
                    table.row(f"one TCP stream {what}, MiB/s", [one and FILL_MIB / one[1] for one in (value, values[1])], more_is_better=True)
    return table.missed


PARTS = {"state": part_state}
