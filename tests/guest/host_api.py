#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The REST API with the test guest behind it: host_api.py KUMO GUEST.elf CASE [--tap]; see host.py."""

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import struct
import sys
import time

from host import case, main
from harness.console import Console
from harness.vmm import ApiError, api_request, run_kumo

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
def read_memory(h):
    """The guest's code is where the ELF file says, while it runs and while it does not; what is no RAM is refused."""
    with open(h.elf, "rb") as file:
        guest = file.read()
    code = max((part for part in segments(guest) if part[0] == PT_LOAD), key=lambda part: part[3])
    wanted = guest[code[1]:][:min(code[3], 4096)]
    vm = h.start("power", cpus=1, memory_mib=64, talk=True)
    vm.console.expect("^ready", 30)

    def read(address, size):
        return base64.b64decode(vm.put("vm.read-memory", {"address": address, "size": size})["data"], validate=True)

    for state in ("Running", "Paused"):
        h.check(read(code[2], len(wanted)) == wanted, f"{state}: the guest's code is where it runs")
        h.check(read(code[2] + 5, 1) == wanted[5:6], f"{state}: a byte of it")
        h.check(len(read((64 << 20) - (64 << 10), 64 << 10)) == 64 << 10, f"{state}: the last 64 KiB")
        for status, body in ((400, {"address": 64 << 20, "size": 1}), (400, {"address": (64 << 20) - 1, "size": 2}), (400, {"address": (1 << 63) - 1, "size": 65536}),
                             (400, {"address": 0, "size": 0}), (400, {"address": 0, "size": 65537}), (400, {"address": -1, "size": 1}), (400, {"address": 0}),
                             (400, {"address": 0xfec00000, "size": 4}), (400, {"address": "0", "size": 1}), (400, {"address": 0, "size": 1, "x": 1})):
            try:
                vm.put("vm.read-memory", body)
                h.check(False, f"{state}: {body} is refused")
            except ApiError as error:
                h.check(error.status == status, f"{state}: {body} is refused with {status}: {error}")
        if state == "Running":
            vm.put("vm.pause")
    vm.put("vm.resume")
    vm.console.send("q")
    vm.wait_exit(0, 20)
    vm = h.t.kumo(serial=None, console=None)
    for status in (404, 409):
        try:
            vm.put("vm.read-memory", {"address": 0, "size": 1})
            h.check(False, "memory of no VM is refused")
        except ApiError as error:
            h.check(error.status == status, f"memory of no VM is refused with {status}: {error}")
        if status == 404:
            vm.put("vm.create", {"payload": {"kernel": h.elf}})


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
        vm.put("vm.coredump", {"destination_url": f"file://{path}", "direct": memory < 1024})
        h.check(vm.state() == "Paused", f"{label}: a paused VM stays so")
        if memory < 1024:
            check_core(h, path, f"{label}, past the page cache", cpus, memory)
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


class UnixConnection(http.client.HTTPConnection):
    """Python's HTTP client over a UNIX socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=60)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class PythonClient:
    """One connection for all requests."""
    name = "http.client"

    def __init__(self, h, vm):
        self.connection = UnixConnection(vm.api_path)

    def ask(self, method, endpoint, body=None):
        payload = None if body is None else json.dumps(body)
        self.connection.request(method, f"/api/v1/{endpoint}", payload, {"Content-Type": "application/json"} if payload else {})
        response = self.connection.getresponse()
        return response.status, response.read().decode()


class CurlClient:
    """A process for each request."""
    name = "curl"

    def __init__(self, h, vm):
        self.h, self.path = h, vm.api_path

    def ask(self, method, endpoint, body=None):
        command = ["curl", "-sS", "--max-time", "60", "--unix-socket", self.path, "-X", method, "-w", "\n%{http_code}"]
        if body is not None:
            command += ["-H", "Content-Type: application/json", "--data-binary", json.dumps(body)]
        text, _, status = self.h.t.run(*command, f"http://localhost/api/v1/{endpoint}", timeout=70).rpartition("\n")
        return int(status), text


class RemoteClient:
    """kumo-remote, which has a sub-command for each endpoint; its exit status stands for the HTTP status."""
    name = "kumo-remote"

    def __init__(self, h, vm):
        self.h, self.path = h, vm.api_path

    def ask(self, method, endpoint, body=None):
        commands = {"vmm.ping": "ping", "vmm.shutdown": "shutdown-vmm"}
        words = [commands.get(endpoint, endpoint.removeprefix("vm."))]
        if endpoint in ("vm.add-disk", "vm.add-net", "vm.restore"):
            words.append(",".join(f"{key}={value}" for key, value in body.items()))
        elif endpoint == "vm.resize-disk":
            words += ["--disk", body["id"], "--size", str(body["desired_size"])]
        elif endpoint == "vm.create":
            path = self.h.t.path("config.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(body, file)
            words.append(path)
        elif body is not None:
            words.append(*body.values())
        text = self.h.t.run("kumo-remote", "--api-socket", self.path, *words, status=None)
        return (0 if text.startswith("kumo-remote: ") else 200 if text else 204), text


@case
def api(h):
    """Every endpoint against a running guest, by each client, and what is refused in each state."""
    tap = h.t.tap()
    for make in (PythonClient, CurlClient, RemoteClient):
        life_of_a_vm(h, make, tap)


def life_of_a_vm(h, make, tap):
    disk, snapshot = h.t.path(f"{make.__name__}.raw"), h.t.path(f"{make.__name__}-snapshot")
    serial = h.t.path(f"{make.__name__}-serial")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    os.mkdir(snapshot)
    events = h.t.path(f"{make.__name__}-events")
    vm = h.t.kumo("--event-monitor", f"path={events}", "--no-shutdown", serial=None, console=None)
    client = make(h, vm)

    def done(endpoint, body=None, status=204, method="PUT"):
        found, text = client.ask(method, endpoint, body)
        h.check(found == status, f"{client.name}: {method} {endpoint}: {found} {text[:120] if found != status else ''}")
        return json.loads(text) if text and found == 200 else None

    def refused(endpoint, status, *words, body=None, method="PUT"):
        found, text = client.ask(method, endpoint, body)
        good = found in (status, 0) and all(word in text for word in words)
        if found:
            good = good and all(isinstance(line, str) for line in json.loads(text))
        h.check(good, f"{client.name}: {method} {endpoint} is refused with {status}: {found} {text.strip()}")

    def state():
        return done("vm.info", status=200, method="GET")["state"]

    steps = ("vm.boot", "vm.pause", "vm.resume", "vm.shutdown", "vm.reboot", "vm.power-button", "vm.nmi")
    ping = done("vmm.ping", status=200, method="GET")
    h.check(ping["pid"] == vm.process.pid and "guest_debug" in ping["features"], f"{client.name}: {ping}")
    _, version = run_kumo(h.t, "--version", "-v")
    h.check(version.split("Enabled features:\n")[1].split() == ping["features"], f"{client.name}: --version -v has the same features")
    for endpoint in (*steps, "vm.delete"):
        refused(endpoint, 404, "no VM was created")
    for endpoint in ("vm.info", "vm.counters"):
        refused(endpoint, 404, "no VM was created", method="GET")
    refused("vm.add-disk", 404, "no VM was created", body={"path": disk})
    config = {"payload": {"kernel": h.elf, "cmdline": "test=power wait=1 memory_mib=64 cpus=1 max_cpus=1"}, "memory": {"size": 64 << 20},
              "console": {"mode": "Off"}, "serial": {"mode": "Socket", "socket": serial}}
    refused("vm.create", 400, "payload", body={})
    refused("vm.create", 400, "unknown field", "colour", body={**config, "colour": "red"})
    refused("vm.create", 400, "memory.size", "must be", body={**config, "memory": {"size": "much"}})
    refused("vm.create", 400, "cpus.boot_vcpus", "0 is not allowed", body={**config, "cpus": {"boot_vcpus": 0}})
    refused("vm.create", 400, "not supported yet", body={**config, "vdpa": [{"path": "/dev/x"}]})
    done("vm.create", config)
    refused("vm.create", 409, "in the state Created", body=config)
    h.check(state() == "Created", f"{client.name}: created")
    for endpoint in steps[1:]:
        refused(endpoint, 409, "in the state Created")
    refused("vm.counters", 409, "in the state Created", method="GET")
    refused("vm.resize-disk", 409, "in the state Created", body={"id": "cold", "desired_size": 4096})
    refused("vm.snapshot", 409, "in the state Created", body={"destination_url": f"file://{snapshot}"})
    # Before the boot devices come and go in the configuration alone, and nothing is answered.
    done("vm.add-disk", {"path": disk, "id": "cold"})
    done("vm.add-net", {"tap": tap.name, "id": "gone"})
    refused("vm.add-disk", 409, "cold", body={"path": disk, "id": "cold"})
    done("vm.remove-device", {"id": "gone"})
    refused("vm.remove-device", 404, "gone", body={"id": "gone"})
    found = done("vm.info", status=200, method="GET")["config"]
    h.check([entry["id"] for entry in found["disks"]] == ["cold"] and not found["net"], f"{client.name}: devices added before the boot")
    # A boot that fails leaves the VM as it was.
    os.rename(disk, f"{disk}.away")
    refused("vm.boot", 404, f"{disk}")
    os.rename(f"{disk}.away", disk)
    h.check(state() == "Created", f"{client.name}: a boot that failed can be tried again")
    done("vm.boot")
    refused("vm.boot", 409, "in the state Running")
    refused("vm.resume", 409, "in the state Running")
    refused("vm.snapshot", 409, "in the state Running", body={"destination_url": f"file://{snapshot}"})
    refused("vm.restore", 409, "in the state Running", body={"source_url": f"file://{snapshot}"})
    refused("vm.create", 409, "in the state Running", body=config)
    h.t.wait_for(lambda: os.path.exists(serial), "the serial port")
    console = Console.from_socket(serial)
    console.send("s")
    console.expect("^ready", 30)
    added = done("vm.add-net", {"tap": tap.name, "id": "net"}, status=200)
    h.check(added["id"] == "net" and added["bdf"].startswith("0000:00:"), f"{client.name}: {added}")
    refused("vm.add-net", 409, "net", body={"tap": tap.name, "id": "net"})
    refused("vm.add-disk", 404, "/nowhere", body={"path": "/nowhere"})
    refused("vm.add-disk", 400, "path", body={"id": "other"})
    done("vm.resize-disk", {"id": "cold", "desired_size": 2 << 20})
    h.check(os.stat(disk).st_size == 2 << 20, f"{client.name}: the disk has its new size")
    refused("vm.resize-disk", 404, "nothing", body={"id": "nothing", "desired_size": 4096})
    done("vm.remove-device", {"id": "net"})
    refused("vm.remove-device", 400, "__rng", body={"id": "__rng"})
    counters = done("vm.counters", status=200, method="GET")
    h.check(set(counters["cold"]) == {f"{way}_{what}" for way in ("read", "write")
                                      for what in ("bytes", "ops", "latency_min", "latency_max", "latency_avg")}, f"{client.name}: {counters}")
    h.check(set(counters["net"]) == {f"{way}_{what}" for way in ("rx", "tx") for what in ("bytes", "frames")}, f"{client.name}: {counters}")
    done("vm.power-button")
    done("vm.pause")
    refused("vm.pause", 409, "in the state Paused")
    refused("vm.boot", 409, "in the state Paused")
    h.check(state() == "Paused", f"{client.name}: paused")
    # A guest that was asked to let a device go and has not: its snapshot would not be whole.
    refused("vm.snapshot", 429, "net", body={"destination_url": f"file://{snapshot}"})
    done("vm.resume")
    done("vm.reboot")
    console.expect("waiting$", 30)
    console.send("s")
    console.expect("^ready", 30)
    done("vm.pause")
    done("vm.coredump", {"destination_url": f"file://{snapshot}/core"})
    os.unlink(f"{snapshot}/core")
    done("vm.snapshot", {"destination_url": f"file://{snapshot}"})
    refused("vm.snapshot", 409, "exists", body={"destination_url": f"file://{snapshot}"})
    done("vm.shutdown")
    h.check(state() == "Created", f"{client.name}: the configuration outlives the machine")
    refused("vm.shutdown", 409, "in the state Created")
    done("vm.delete")
    refused("vm.delete", 404, "no VM was created")
    console.close()
    refused("vm.restore", 400, "file:///", body={"source_url": snapshot})
    done("vm.restore", {"source_url": f"file://{snapshot}"})
    h.check(state() == "Paused", f"{client.name}: restored")
    done("vm.resume")
    done("vm.nmi")
    h.t.wait_for(lambda: vm.state() == "Created", "the guest to give up at the NMI, for which it has no handler")
    h.check(True, f"{client.name}: --no-shutdown keeps the process")
    done("vmm.shutdown")
    vm.wait_exit(0, 20)
    with open(events, encoding="utf-8") as file:
        found = [json.loads(text) for text in file.read().split("\n\n") if text.strip()]
    order = [event["event"] for event in found if event["source"] in ("vmm", "vm") and event["event"] != "rebooting"]
    wanted = ["starting", "booting", "booting", "booted", "pausing", "paused", "resuming", "resumed", "device-removed", "rebooted", "pausing",
              "paused", "coredumping", "snapshotting", "snapshotted", "snapshotting", "shutdown", "deleted", "restoring", "restored", "resuming", "resumed"]
    h.check(order[:len(wanted)] == wanted and order[-1] == "shutdown", f"{client.name}: the events are {order}")
    h.check([event["properties"]["id"] for event in found if event["source"] == "virtio-device"]
            == ["__rng"] * 2, f"{client.name}: the guest's driver is seen at its start, once per boot")
    h.check(all(set(event) == {"timestamp", "source", "event", "properties"} for event in found), f"{client.name}: their fields")


@case
def clients(h):
    """Clients that are slow, silent or talk nonsense, beside one that does not."""
    vm = h.t.kumo(serial=None, console=None)
    vm.put("vm.create", {"payload": {"kernel": h.elf}})
    before = vm.footprint()

    def connect(*texts):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(vm.api_path)
        connection.settimeout(20)
        for text in texts:
            with contextlib.suppress(BrokenPipeError):  # refused before all was sent
                connection.sendall(text.encode("latin-1"))
        return connection

    def rest(connection):
        with contextlib.suppress(ConnectionResetError):  # the other side has not read all of it
            return connection.recv(65536)

    def quick(what):
        began = time.monotonic()
        vm.info()
        seconds = time.monotonic() - began
        h.check(seconds < 2, f"{what}: the next client is answered ({seconds * 1000:.1f} ms)")

    head = "PUT /api/v1/vm.create HTTP/1.1\r\nContent-Length: {}\r\n\r\n"
    held = [connect(), connect("GET /api/v1/vm.in"), connect(head.format(1000), "{"), connect(head.format(4 << 20), " " * 100000),
            connect("GET /api/v1/vm.info HTTP/1.1\r\n" + "X: y\r\n" * 100)]
    quick("silent clients")
    # One that sends and never reads.
    greedy = connect()
    greedy.setblocking(False)
    request = b"GET /api/v1/vm.info HTTP/1.1\r\n\r\n" * 100
    try:
        for _ in range(1000):
            greedy.send(request)
    except BlockingIOError:
        pass
    quick("a client that never reads")
    for what, status, texts in (
            ("garbage", 400, ("\0\1\2\3 garbage\r\n\r\n",)), ("another protocol", 505, ("GET / HTTP/3.0\r\n\r\n",)),
            ("no length that is one", 400, (head.format("many"),)), ("a negative length", 400, (head.format(-1),)),
            ("too much", 413, (head.format((4 << 20) + 1),)), ("a head without end", 431, ("GET / HTTP/1.1\r\n" + "a: b\r\n" * 4000,)),
            ("chunks", 400, ("PUT /api/v1/vm.create HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",)),
            ("bare line feeds", 400, ("GET /api/v1/vmm.ping HTTP/1.1\n\n",))):
        connection = connect(*texts)
        answer = connection.recv(65536).decode()
        h.check(answer.startswith(f"HTTP/1.1 {status} ") and "Connection: close" in answer, f"{what} is answered with {status}: {answer[:40]!r}")
        h.check(not rest(connection), f"{what}: and the connection ends")
        connection.close()
        quick(what)
    # The largest body that is taken, and several requests at once on one connection, answered in order.
    client = UnixConnection(vm.api_path)
    client.request("PUT", "/api/v1/vm.remove-device", json.dumps({"id": "x" * ((4 << 20) - 10)}))
    response = client.getresponse()
    h.check(response.status == 404 and response.read(), f"a body of 4 MiB is taken: {response.status}")
    for _ in range(3):
        client.request("GET", "/api/v1/vmm.ping")
        h.check(client.getresponse().read(), "the connection stays open")
    client.close()
    connection = connect("GET /api/v1/vmm.ping HTTP/1.1\r\n\r\nPUT /api/v1/vm.pause HTTP/1.1\r\n\r\n"
                         "GET /api/v1/vm.info HTTP/1.1\r\nConnection: close\r\n\r\n")
    answers = b""
    while part := connection.recv(65536):
        answers += part
    found = re.findall(rb"HTTP/1.1 (\d+)", answers)
    h.check(found == [b"200", b"409", b"200"], f"requests that come together are answered in order: {found}")
    for other in (connection, greedy, *held):
        other.close()
    # More clients than the server keeps: the most silent one goes.
    many = [connect() for _ in range(100)]
    quick("a hundred connections")
    for other in many:
        other.close()
    vm.wait_no_more_than(before)
    h.check(True, "no descriptor is left behind")


def race_for_socket(h, path, number):
    """Several processes find one stale socket at once: one of them takes it, the others say who has it and change nothing."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
        stale.bind(path)
    names = [f"racer-{number}-{one}" for one in range(4)]
    racers = [h.t.start("kumo", "--api-socket", path, name=name) for name in names]
    h.t.wait_for(lambda: sum(one.poll() is None for one in racers) <= 1, "all but one to end", 20)
    losers = [name for name, one in zip(names, racers) if one.poll() is not None]
    winner = next((one for one in racers if one.poll() is None), None)
    if not h.check(winner and len(losers) == 3 and {one.returncode for one in racers if one is not winner} == {1},
                   f"race {number}: one of four has the socket: {[one.returncode for one in racers]}"):
        return
    for name in losers:
        with open(h.t.path(f"{name}.log"), encoding="utf-8") as file:
            said = file.read()
        if "another process holds it" not in said:
            h.check(False, f"race {number}: a loser says why: {said}")
    h.t.wait_for(lambda: h.t.run("kumo-remote", "--api-socket", path, "ping", status=None).startswith("{"), "the winner", 20)
    h.check(api_request(path, "GET", "vmm.ping")["pid"] == winner.pid, f"race {number}: who has it serves it")
    api_request(path, "PUT", "vmm.shutdown")
    winner.wait(timeout=20)
    h.check(not os.path.exists(path) and not os.path.exists(f"{path}.lock"), f"race {number}: nothing is left")


@case
def api_socket(h):
    """--api-socket in its forms, and the lock that tells a stale socket from one in use."""
    path = h.t.path("api")
    first = h.t.start("kumo", "--api-socket", f"path={path}")
    h.t.wait_for(lambda: os.path.exists(path), "the socket")
    h.check(os.stat(path).st_mode & 0o777 == 0o600, "only the owner may connect")
    said = h.t.run("kumo", "--api-socket", path, status=1)
    h.check("another process holds it" in said, f"a socket in use is not taken: {said.strip()}")
    h.check(api_request(path, "GET", "vmm.ping")["pid"] == first.pid, "and goes on being served")
    first.kill()
    first.wait()
    h.check(os.path.exists(path), "a process that was killed leaves its socket")
    second = h.t.start("kumo", "--api-socket", path)
    h.t.wait_for(lambda: h.t.run("kumo-remote", "--api-socket", path, "ping", status=None).startswith("{"), "the second process")
    h.check(api_request(path, "GET", "vmm.ping")["pid"] == second.pid, "which the next process takes over")
    api_request(path, "PUT", "vmm.shutdown")
    h.check(second.wait(timeout=20) == 0, "it ends on request")
    h.check(not os.path.exists(path) and not os.path.exists(f"{path}.lock"), "and leaves neither socket nor lock")
    for number in range(10):
        race_for_socket(h, path, number)
    with open(path, "w", encoding="utf-8"):
        pass
    said = h.t.run("kumo", "--api-socket", path, status=1)
    h.check("no socket" in said and os.path.isfile(path), f"a file in the way stays: {said.strip()}")
    os.unlink(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        third = h.t.start("kumo", "--api-socket", f"fd={listener.fileno()}", pass_fds=[listener.fileno()])
        h.check(api_request(path, "GET", "vmm.ping")["pid"] == third.pid, "a socket that came as a descriptor is served")
        api_request(path, "PUT", "vmm.shutdown")
        h.check(third.wait(timeout=20) == 0 and os.path.exists(path), "and is left where it was")
    for wrong in ("", "fd=999", "fd=x", "path=", f"path={'x' * 200}", "/nowhere/api"):
        said = h.t.run("kumo", "--api-socket", wrong, status=1, timeout=10)
        h.check(said.startswith("kumo: ") and said.count("\n") == 1, f"--api-socket '{wrong[:20]}' is refused: {said.strip()[:100]}")


if __name__ == "__main__":
    sys.exit(main())
