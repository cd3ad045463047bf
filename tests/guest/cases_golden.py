# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots and migration streams of earlier releases, kept in tests/data/state, are restored for ever.

make_golden, which is no test, makes those of the present release:

    KUMO_GOLDEN=tests/data/state/26.11 python3 tests/guest/host.py BUILD/vmm-core/kumo BUILD/tests/guest/guest.elf make_golden

A machine is a directory with config.json, state.json and memory-checksums as they are, memory-ranges.tar.xz (a sparse tar), and stream.xz, what its source
sent when it moved. Processors show as few features as a guest can do with, so that as many hosts as possible can go on with them.
"""

import hashlib
import json
import lzma
import os
import re
import shutil
import socket
import struct
import subprocess
import tarfile
import threading

import moving
from harness.context import Skip
from kit import case

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DATA = os.path.join(SOURCE, "tests", "data", "state")
DISK_BYTES = 1 << 20
TAP = "kumogolden"
BASELINE = ("fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge", "mca", "cmov", "pat", "pse36", "clflush", "mmx",
            "fxsr", "sse", "sse2", "ht", "syscall", "nx", "lm", "cx16", "x2apic", "tsc-deadline", "hypervisor", "lahf_lm", "arat")
HEADER = struct.Struct("<4sIQQ")
RECORDS = {1: "HELLO", 2: "MEMORY_FD", 3: "CONFIG", 4: "PAGES", 5: "ROUND", 6: "STATE", 7: "GO", 8: "ACK"}
ANSWERED = ("HELLO", "CONFIG", "ROUND", "STATE", "GO")


def other_features():
    """All features that kumo knows by name but for the baseline."""
    with open(os.path.join(SOURCE, "vmm-core", "config", "cpu_features.c"), encoding="utf-8") as file:
        names = re.findall(r'\[\d+\] = "([^"]+)"', file.read())
    return sorted({name for name in names if name not in BASELINE})


def machines(h):
    """Every kind of device; virtio-mem and memory that ACPI adds exclude each other."""
    disks = [h.t.path("one.raw"), h.t.path("two.raw")]
    common = ["--disk", f"path={disks[0]}", f"path={disks[1]},serial=golden,bw_size=1048576,bw_refill_time=100",
              "--net", f"tap={TAP},mac=52:54:00:12:34:56", "--rng", "src=/dev/urandom", "--balloon", "size=0,deflate_on_oom=on",
              "--debug-console", "null", "--console", "null"]
    return {"virtio-mem": (["--memory", "size=64M,hotplug_method=virtio-mem,hotplug_size=128M,hotplugged_size=4M", *common], "virtio_mem=1"),
            "acpi": (["--memory", "size=64M,hotplug_size=256M", *common], "")}


def make_disks(h):
    for name in ("one.raw", "two.raw"):
        with open(h.t.path(name), "wb") as file:
            file.truncate(DISK_BYTES)


def with_features(command):
    """@command with as few features as possible."""
    return [*command, "--cpus", "boot=2,max=4,cpu_mask=[" + ",".join("-" + name for name in other_features()) + "]"]


# --- the stream ---

def read_exactly(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise EOFError(f"the connection ended after {len(data)} of {count} bytes")
        data += part
    return data


def read_record(read):
    header = read(HEADER.size)
    magic, kind, length, _ = HEADER.unpack(header)
    assert magic == b"kumo", magic
    return RECORDS[kind], header, read(length)


def json_record(kind, document):
    payload = json.dumps(document).encode()
    number = next(number for number, name in RECORDS.items() if name == kind)
    return HEADER.pack(b"kumo", number, len(payload), struct.unpack("<Q", hashlib.sha256(payload).digest()[:8])[0]) + payload


class Recorder:
    """A destination that says yes to everything and keeps what it was sent."""

    def __init__(self, path):
        self.data = b""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        connection, _ = self.listener.accept()
        with connection:
            kind = None
            while kind != "GO":
                kind, header, payload = read_record(lambda count: read_exactly(connection, count))
                self.data += header + payload
                if kind in ANSWERED:
                    number = next(number for number, name in RECORDS.items() if name == kind)
                    connection.sendall(json_record("ACK", {"answers": number, "error": None}))


def replay(path, data, edit):
    """Sends a stream that was recorded to a destination. Returns: None, or what the destination says against it."""
    at = 0

    def take(count):
        nonlocal at
        at += count
        return data[at - count:at]

    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(path)
        while at < len(data):
            kind, header, payload = read_record(take)
            if kind == "CONFIG":
                connection.sendall(json_record(kind, edit(json.loads(payload))))
            else:
                connection.sendall(header + payload)
            if kind in ANSWERED:
                _, _, answer = read_record(lambda count: read_exactly(connection, count))
                error = json.loads(answer)["error"]
                if error:
                    return error
    return None


# --- making them ---

def neutral(config):
    """The configuration without the paths of the place where it was made."""
    for number, disk in enumerate(config["disks"], 1):
        disk["path"] = f"/disk{number}.raw"
    config["payload"]["kernel"] = "/guest.elf"
    config["serial"] = {"mode": "Null"}
    return config


def neutral_stream(data):
    at, result = 0, b""

    def take(count):
        nonlocal at
        at += count
        return data[at - count:at]

    while at < len(data):
        kind, header, payload = read_record(take)
        if kind == "CONFIG":
            document = json.loads(payload)
            result += json_record(kind, {**document, "config": neutral(document["config"])})
        else:
            result += header + payload
    return result


@case
def make_golden(h):
    target = os.environ["KUMO_GOLDEN"]
    make_disks(h)
    h.t.tap(TAP)
    for name, (options, words) in machines(h).items():
        directory = os.path.join(target, name)
        os.makedirs(directory)
        line = f"test=golden cpus=2 memory_mib=64 wait=1 net=1 {words}"
        vm = moving.start_process(h, "--kernel", h.elf, "--cmdline", line, *with_features(options), serial="pty")
        vm.console.send("s")
        vm.console.expect("^round 2\n", 30)
        vm.put("vm.pause")
        snapshot = h.t.path(f"snapshot-{name}")
        os.mkdir(snapshot)
        vm.put("vm.snapshot", {"destination_url": f"file://{snapshot}"})
        recorder = Recorder(h.t.path(f"{name}.migration"))
        vm.put("vm.send-migration", {"destination_url": f"unix:{h.t.path(f'{name}.migration')}"})
        recorder.thread.join(60)
        vm.wait_exit(0, 30)
        for file in ("state.json", "memory-checksums"):
            shutil.copyfile(f"{snapshot}/{file}", f"{directory}/{file}")
        with open(f"{snapshot}/config.json", encoding="utf-8") as old, open(f"{directory}/config.json", "w", encoding="utf-8") as new:
            json.dump(neutral(json.load(old)), new, indent=1)
        subprocess.run(["tar", "--create", "--sparse", "--xz", "--file", os.path.abspath(f"{directory}/memory-ranges.tar.xz"), "--owner=0",
                        "--group=0", "--mtime=@0", "--directory", snapshot, "memory-ranges"], check=True)
        with lzma.open(f"{directory}/stream.xz", "wb", preset=9) as file:
            file.write(neutral_stream(recorder.data))
        h.check(True, f"{name}: " + ", ".join(f"{file} {os.stat(f'{directory}/{file}').st_size}" for file in sorted(os.listdir(directory))))


# --- restoring them ---

def edited(h, config):
    """The configuration with the files of this test."""
    for disk, name in zip(config["disks"], ("one.raw", "two.raw")):
        disk["path"] = h.t.path(name)
    config["serial"] = {"mode": "Pty"}
    config["payload"]["kernel"] = h.elf
    return config


def check_host(message):
    """Ends the test if this host's processor cannot go on with the guest's."""
    for reason in ("features that this host lacks", "TSC", "MSR"):
        if reason in (message or ""):
            raise Skip(f"the processor of this host: {message.strip()}")


def goes_on(h, vm, label):
    vm.use_port("serial", "pty")
    if vm.state() == "Paused":
        vm.put("vm.resume")
    first = int(vm.console.expect("^round ([0-9]+)\n", 30)[1])
    h.check(first in (3, 4), f"{label}: the guest goes on with round {first}")
    vm.console.expect(f"^round {first + 3}\n", 30)
    moving.end_guest(h, vm, label)


@case
def golden(h):
    h.t.tap(TAP)
    for release in sorted(os.listdir(DATA)):
        for name in sorted(os.listdir(os.path.join(DATA, release))):
            source = os.path.join(DATA, release, name)
            make_disks(h)
            for mode in ("copy", "ondemand"):
                label = f"{release} {name} {mode}"
                directory = h.t.path(label.replace(" ", "-"))
                os.mkdir(directory)
                with tarfile.open(f"{source}/memory-ranges.tar.xz") as archive:
                    archive.extractall(directory)
                for file in ("state.json", "memory-checksums"):
                    if os.path.exists(f"{source}/{file}"):
                        shutil.copyfile(f"{source}/{file}", f"{directory}/{file}")
                with open(f"{source}/config.json", encoding="utf-8") as old, open(f"{directory}/config.json", "w", encoding="utf-8") as new:
                    json.dump(edited(h, json.load(old)), new)
                vm = moving.start_process(h)
                try:
                    vm.put("vm.restore", {"source_url": f"file://{directory}", "memory_restore_mode": {"copy": "Copy"}.get(mode, "OnDemand")})
                except moving.ApiError as error:
                    check_host(error.text)
                    raise
                goes_on(h, vm, label)
            label = f"{release} {name} stream"
            vm = moving.start_process(h)
            path = h.t.path("replay")
            receiving = moving.Receiving(h, vm, f"unix:{path}")
            with lzma.open(f"{source}/stream.xz") as file:
                said = replay(path, file.read(), lambda document: {**document, "config": edited(h, document["config"])})
            check_host(said)
            h.check(said is None and receiving.wait() == "ok", f"{label}: is taken: {said}")
            goes_on(h, vm, label)
