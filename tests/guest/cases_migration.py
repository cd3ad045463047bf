# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of VMs that move from one process to another."""

import contextlib
import json
import os
import random
import signal
import socket
import ssl
import struct
import threading

from harness.certificates import Authority
from kit import case, make_disk, open_tap
from moving import (ask, end_guest, events, expect_running, expect_uncertain, last_round, move, Receiving, refusal, start_guest,
                    start_process, url_of, wait_event)


@case
def migrate(h):
    """To and fro over both kinds of connection, running and paused, with memory copied and handed over."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    for memory_options, churn, ways in (("", 500, ({}, {"kind": "tcp"}, {"kind": "name"}, {"paused": True}, {"connections": 4}, {"kind": "tcp", "connections": 128},
                                                   {"paused": True, "connections": 2})),
                                        (",shared=on", 500, ({"local": True}, {}, {"local": True, "paused": True}, {"kind": "tcp"}))):
        vm = start_guest(h, disk, memory_options=memory_options, churn=churn)
        for way in ways:
            options = dict(way)
            label = f"memory{memory_options}, {way or 'unix'}"
            if options.pop("paused", False):
                vm.put("vm.pause")
            vm = move(h, vm, label, **options)
        end_guest(h, vm, f"memory{memory_options}")


@case
def migrate_refused(h):
    """What is refused, and that a migration that fails leaves the VM running and the destination ready for the next."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=100)
    destination = start_process(h)
    nowhere = f"unix:{h.t.path('nowhere')}"

    def refused(which, label, status, words, endpoint, body=None, method="PUT"):
        found, text = refusal(which, endpoint, body, method)
        h.check(found == status and words in text, f"{label}: {endpoint}: {found} {text.strip()}")

    send = {"destination_url": nowhere}
    refused(destination, "no VM", 404, "no VM", "vm.send-migration", send)
    refused(destination, "no migration", 404, "none is under way", "vm.cancel-migration")
    refused(destination, "no migration", 404, "no VM was migrated", "vm.migration-progress", method="GET")
    refused(vm, "a VM is here", 409, "in the state Running", "vm.receive-migration", {"receiver_url": nowhere})
    for url in ("nonsense", "unix:", "tcp:host", "tcp::1", f"unix:/{'x' * 200}"):
        refused(destination, f"URL {url[:20]}", 400, "receiver_url", "vm.receive-migration", {"receiver_url": url})
    refused(vm, "private memory", 400, "shared", "vm.send-migration", {**send, "local": True})
    refused(vm, "unknown", 400, "colour", "vm.send-migration", {**send, "colour": "red"})

    vm.put("vm.send-migration", send)
    failure = wait_event(h, vm, "migration-failed")
    h.check("No such file" in failure["error"], f"nobody listens: {failure['error']}")
    expect_running(h, vm, "nobody listens")
    h.check(vm.api("GET", "vm.migration-progress")["state"] == "Failed", "the progress tells of the failure")

    # A destination that takes the connection and says nothing.
    path = h.t.path("silent")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen(1)
        vm.put("vm.send-migration", {"destination_url": f"unix:{path}"})
        for endpoint, body in (("vm.pause", None), ("vm.resume", None), ("vm.reboot", None), ("vm.shutdown", None), ("vm.delete", None),
                               ("vm.boot", None), ("vm.power-button", None), ("vm.nmi", None), ("vm.resize", {"desired_vcpus": 1}),
                               ("vm.resize-zone", {"id": "z", "desired_ram": 4096}), ("vm.resize-disk", {"id": "_disk0", "desired_size": 4096}),
                               ("vm.add-disk", {"path": disk}), ("vm.add-net", {}), ("vm.remove-device", {"id": "_disk0"}),
                               ("vm.update-disk", {"id": "_disk0", "rate_limiter_config": None}), ("vm.update-cpus", {"affinity": []}),
                               ("vm.snapshot", {"destination_url": "file:///tmp"}), ("vm.coredump", {"destination_url": "file:///tmp/c"}),
                               ("vm.restore", {"source_url": "file:///tmp"}), ("vm.create", {"payload": {"kernel": h.elf}}),
                               ("vm.send-migration", send), ("vm.receive-migration", {"receiver_url": nowhere})):
            refused(vm, "while it is sent", 409, f"a migration to unix:{path} is under way", endpoint, body)
        h.check(vm.state() == "Running" and "_disk0" in vm.api("GET", "vm.counters"), "vm.info and vm.counters answer")
        progress = h.t.wait_for(lambda: (now := vm.api("GET", "vm.migration-progress"))["memory_total_bytes"] == 64 << 20 and now,
                                "the size of the memory in vm.migration-progress")
        h.check(progress["state"] == "Connecting", f"and vm.migration-progress: {progress}")
        vm.put("vm.cancel-migration")
        h.check("called off" in wait_event(h, vm, "migration-failed", count=2)["error"], "it is called off")
    expect_running(h, vm, "called off")

    url = url_of(h, "unix")
    # The destination opens the same things; here one is missing.
    os.rename(disk, f"{disk}.away")
    receiving = Receiving(h, destination, url)
    refused(destination, "while one arrives", 409, f"a migration from {url} is under way", "vm.create", {"payload": {"kernel": h.elf}})
    refused(destination, "while one arrives", 409, f"a migration from {url} is under way", "vm.info", method="GET")
    vm.put("vm.send-migration", {"destination_url": url})
    failure = wait_event(h, vm, "migration-failed", count=3)["error"]
    h.check("the destination says" in failure and disk in failure, f"no disk there: {failure}")
    h.check(disk in receiving.wait(), f"and the destination says so: {receiving.answer}")
    os.rename(f"{disk}.away", disk)
    expect_running(h, vm, "no disk there")
    refused(destination, "afterwards", 404, "no VM", "vm.info", method="GET")
    # The wait for a VM can be called off, and begun again.
    receiving = Receiving(h, destination, url)
    destination.put("vm.cancel-migration")
    h.check("called off" in receiving.wait(), f"the wait is called off: {receiving.answer}")
    receiving = Receiving(h, destination, url)
    # Who connects and is no source does not end it.
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(url.removeprefix("unix:"))
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n" * 3)
        with contextlib.suppress(ConnectionResetError):
            while stranger.recv(1000):
                pass
    h.check(True, "a stranger is turned away")
    vm.put("vm.send-migration", {"destination_url": url, "downtime_ms": 1000})
    h.check(receiving.wait() == "ok", f"then it works: {receiving.answer}")
    vm.wait_exit(0, 30)
    destination.use_port("serial", "pty")
    expect_running(h, destination, "at last")
    end_guest(h, destination, "at last")


@case
def migrate_config(h):
    """The destination builds the machine from a configuration of its own: other paths, another tap by descriptor, another port;
    what a guest would see is refused by name, and the source runs on."""
    h.t.network()
    disk, same = h.t.path("disk.raw"), h.t.path("same.raw")
    make_disk(disk)
    os.link(disk, same)
    with open_tap("source") as fd:
        vm = start_guest(h, disk, options=("--net", f"id=n,fd=[{fd}],mac=52:54:00:12:34:56"), pass_fds=(fd,))
    own = vm.info()["config"]
    serial = own["disks"][0]["serial"]
    own["disks"][0] |= {"path": same, "serial": None}
    own["net"][0] |= {"mac": None, "pci_device_id": None}
    own["serial"] = {"mode": "Null"}
    own["memory"]["shared"] = True

    def offer(label, change):
        """The destination's answer when it has been told another configuration."""
        other = json.loads(json.dumps(own))
        change(other)
        url = url_of(h, "unix")
        destination = start_process(h)
        receiving = Receiving(h, destination, url, config={**other, "net": None})
        failures = sum(name == "migration-failed" for name, _ in events(vm))
        vm.put("vm.send-migration", {"destination_url": url})
        error = wait_event(h, vm, "migration-failed", count=failures + 1)["error"]
        answer = receiving.wait()
        h.check("the destination says" in error, f"{label}: the source hears it: {error}")
        expect_running(h, vm, label)
        h.check(refusal(destination, "vm.info", method="GET")[0] == 404, f"{label}: nothing is left at the destination")
        return answer

    answer = offer("one vCPU more", lambda config: config["cpus"].update(boot_vcpus=1))
    h.check("cpus.boot_vcpus: the VM has 2, this configuration 1" in answer, f"vCPUs: {answer}")
    answer = offer("no network", lambda config: None)
    h.check('net: "n" is only in the VM' in answer, f"network: {answer}")

    # Without a configuration the destination could not have the descriptors.
    destination = start_process(h)
    receiving = Receiving(h, destination, url_of(h, "unix"))
    failures = sum(name == "migration-failed" for name, _ in events(vm))
    vm.put("vm.send-migration", {"destination_url": url_of(h, "unix")})
    error = wait_event(h, vm, "migration-failed", count=failures + 1)["error"]
    h.check("net n was given to the source as descriptors" in error and "net n was given" in receiving.wait(), f"no configuration: {error}")
    expect_running(h, vm, "no configuration")
    destination.put("vmm.shutdown")

    destination = start_process(h)
    url = url_of(h, "unix")
    own["serial"] = {"mode": "Socket", "socket": destination.port_path("serial")}
    own["net"][0]["fds"] = [-1]  # goes along
    with open_tap("destination") as fd:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(destination.api_path)
            body = json.dumps({"receiver_url": url, "wait": False, "config": own}).encode()
            head = f"PUT /api/v1/vm.receive-migration HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            socket.send_fds(client, [head + body], [fd])
            h.check(b" 204 " in client.recv(4096), "a configuration is given with a descriptor")
    last = last_round(vm)
    vm.put("vm.send-migration", {"destination_url": url})
    wait_event(h, destination, "migration-receive-finished")
    vm.wait_exit(0, 30)
    destination.use_port("serial", "socket")
    later = [int(destination.console.expect("^round ([0-9]+)\n", 30)[1]) for _ in range(3)]
    h.check(last < later[0] and later == list(range(later[0], later[0] + 3)), f"goes on after round {last}: {later}")
    now = destination.info()["config"]
    h.check(now["disks"][0]["serial"] == serial, f"the disk's serial number stays {serial}")
    h.check(now["disks"][0]["path"] == same and now["memory"]["shared"] and now["net"][0]["mac"] == "52:54:00:12:34:56",
            "with the destination's own paths, and the address that the guest knows")
    names = dict(map(reversed, socket.if_nameindex()))
    h.check("destination" in names and "source" not in names, f"the tap is the destination's: {sorted(names)}")
    end_guest(h, destination, "own configuration")


@case
def migrate_file(h):
    """A paused VM is written to a file, stays and goes on; from the file it comes back in another process."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=100)
    path = h.t.path("image")
    with open(path, "wb") as file:
        text = ask(h, vm, "send-migration", f"destination_url=fd:{file.fileno()},one_way=on", pass_fds=(file.fileno(),), status=1)
    h.check("one_way: the VM has to be paused" in text, f"a VM that runs is refused: {text.strip()}")
    vm.put("vm.pause")
    last = last_round(vm)
    with open("/dev/full", "wb") as file:
        ask(h, vm, "send-migration", f"destination_url=fd:{file.fileno()},one_way=on", pass_fds=(file.fileno(),))
        error = wait_event(h, vm, "migration-failed")["error"]
    h.check("No space left" in error and vm.state() == "Paused", f"a full disk: {error}")
    with open(path, "wb") as file:
        ask(h, vm, "send-migration", f"destination_url=fd:{file.fileno()},one_way=on", pass_fds=(file.fileno(),))
    wait_event(h, vm, "migration-finished")
    h.check(vm.state() == "Paused", "the VM stays, paused")
    h.check(vm.api("GET", "vm.migration-progress")["state"] == "Finished", "the progress tells of the end")
    size = os.path.getsize(path)
    h.check(size < 64 << 20, f"pages of zeros are not written: {size} bytes")

    def load(destination, start=0, status=0):
        with open(path, "rb") as file:
            file.seek(start)
            return ask(h, destination, "receive-migration", f"receiver_url=fd:{file.fileno()}", pass_fds=(file.fileno(),), status=status)

    destination = start_process(h)
    text = load(destination, status=1)
    h.check("lock" in text, f"while the source has its disk it cannot be loaded: {text.strip()}")
    vm.put("vm.resume")
    expect_running(h, vm, "after it was written")
    vm.put("vm.delete")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 30)

    # Behind something else, as in a file with a header of its own.
    with open(path, "rb") as file:
        image = file.read()
    with open(path, "wb") as file:
        file.write(b"header" + image[:-30])
    text = load(destination, len("header"), status=1)
    h.check("ends before it is complete" in text, f"a file that was cut: {text.strip()}")
    h.check(refusal(destination, "vm.info", method="GET")[0] == 404, "leaves nothing")
    with open(path, "wb") as file:
        file.write(b"header" + image)
    load(destination, len("header"))
    h.check(destination.state() == "Paused", "it comes back paused")
    destination.use_port("serial", "pty")
    destination.put("vm.resume")
    later = int(destination.console.expect("^round ([0-9]+)\n", 30)[1])
    h.check(last < later <= last + 3, f"goes on after round {last}: {later}")
    end_guest(h, destination, "from a file")


@case
def migrate_converge(h):
    """A guest that writes faster than its memory may be sent: without auto_converge the time is up, with it the guest gets slower until
    it can go."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=1000)
    destination = start_process(h)
    url = url_of(h, "unix")
    limits = {"destination_url": url, "max_bandwidth": 8 << 20, "downtime_ms": 30, "timeout_s": 4}
    receiving = Receiving(h, destination, url)
    vm.put("vm.send-migration", limits)
    error = wait_event(h, vm, "migration-failed")["error"]
    h.check("timeout_s" in error, f"without: {error}")
    receiving.wait()
    expect_running(h, vm, "without")
    receiving = Receiving(h, destination, url)
    vm.put("vm.send-migration", {**limits, "timeout_s": 100, "auto_converge": True, "auto_converge_increment": 20})
    highest = 0
    while vm.process.poll() is None:
        with contextlib.suppress(Exception):
            highest = max(highest, vm.api("GET", "vm.migration-progress")["throttle_percent"])
    h.check(receiving.wait() == "ok" and highest >= 20, f"with: {receiving.answer}, {highest} % in the end")
    vm.wait_exit(0, 30)
    destination.use_port("serial", "pty")
    expect_running(h, destination, "with")
    end_guest(h, destination, "with")


@case
def migrate_tls(h):
    """Over TLS, with one connection and with several; whoever has no certificate of the same authority is refused, with a message at
    both ends, and the wait goes on."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    ours, others = Authority(h.t, "ours"), Authority(h.t, "others")
    server, client = ours.directory("server", "server"), ours.directory("client", "client")
    vm = start_guest(h, disk, churn=100)

    for label, words, endpoint, body in (
            ("no directory", "ca-cert.pem", "vm.send-migration", {"destination_url": "tcp:127.0.0.1:1", "tls_dir": "/nowhere"}),
            ("no key", "client-cert.pem", "vm.send-migration", {"destination_url": "tcp:127.0.0.1:1", "tls_dir": server}),
            ("an old one", "has expired", "vm.send-migration",
             {"destination_url": "tcp:127.0.0.1:1", "tls_dir": ours.directory("old", "client", days=-1)}),
            ("unix:", "tcp:", "vm.send-migration", {"destination_url": "unix:/m", "tls_dir": client})):
        status, text = refusal(vm, endpoint, body)
        h.check(status == 400 and words in text, f"{label}: {text.strip()}")

    destination = start_process(h)
    url = url_of(h, "tcp")
    receiving = Receiving(h, destination, url, tls_dir=server)
    failures = 0

    def refused(label, ours_says, theirs_says, **options):
        nonlocal failures
        failures += 1
        vm.put("vm.send-migration", {"destination_url": url, **options})
        error = wait_event(h, vm, "migration-failed", count=failures)["error"]
        h.check(ours_says in error, f"{label}: the source says: {error}")
        h.t.wait_for(lambda: destination.log().count("who connected is no source") >= failures, f"{label}: the destination's warning", 20)
        line = [line for line in destination.log().splitlines() if "who connected is no source" in line][-1]
        h.check(theirs_says in line, f"{label}: the destination says: {line.partition('no source: ')[2]}")

    refused("no TLS", "the other side", "does not speak TLS")
    refused("another authority's client", "refuses this connection", "the certificate of the source",
            tls_dir=others.directory("wrong-client", "client", ca=ours))
    refused("another authority's server", "the certificate of the destination 127.0.0.1", "refuses this connection",
            tls_dir=ours.directory("wrong-ca", "client", ca=others))
    refused("a server's certificate", "refuses this connection", "the certificate of the source",
            tls_dir=ours.directory("wrong-purpose", "client", purpose="server"))
    for label, theirs_says, certificate in (("no certificate", "the source has shown no certificate", None),
                                            ("an expired certificate", "expired", h.t.path("old"))):
        stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
        if certificate:
            stranger.load_cert_chain(f"{certificate}/client-cert.pem", f"{certificate}/client-key.pem")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as connection, \
                stranger.wrap_socket(connection) as wrapped:
            wrapped.recv(1)
        h.t.wait_for(lambda: f"{theirs_says}" in destination.log(), f"{label}: the destination's warning", 20)  # pylint: disable=cell-var-from-loop
        h.check(True, f"{label}: the destination says: {theirs_says}")
    expect_running(h, vm, "refused")
    destination.put("vm.cancel-migration")
    receiving.wait()
    destination.put("vmm.shutdown")

    destination = start_process(h)
    url = url_of(h, "tcp")
    receiving = Receiving(h, destination, url, tls_dir=ours.directory("elsewhere", "server", address="127.0.0.9"))
    failures += 1
    vm.put("vm.send-migration", {"destination_url": url, "tls_dir": client})
    error = wait_event(h, vm, "migration-failed", count=failures)["error"]
    h.check("the certificate of the destination 127.0.0.1" in error and "name" in error, f"another host's certificate: {error}")
    destination.put("vm.cancel-migration")
    receiving.wait()
    receiving = Receiving(h, destination, url)
    failures += 1
    vm.put("vm.send-migration", {"destination_url": url, "tls_dir": client})
    error = wait_event(h, vm, "migration-failed", count=failures)["error"]
    h.check("does it speak TLS" in error or "does not speak TLS" in error, f"the destination has no TLS: {error}")
    h.t.wait_for(lambda: "the other side speaks TLS" in destination.log(), "the destination's warning", 20)
    destination.put("vm.cancel-migration")
    receiving.wait()
    destination.put("vmm.shutdown")
    expect_running(h, vm, "refused again")

    for connections in (1, 4):
        vm = move(h, vm, f"TLS, {connections} connections", kind="tcp", receive={"tls_dir": server}, tls_dir=client, connections=connections)
    end_guest(h, vm, "TLS")


class Wire:
    """Stands between source and destination, forwards, and ends both connections where it is told to: so many bytes behind
    so many records from the source. Before that it can do something else."""

    HEADER = struct.Struct("<IIQQ")

    def __init__(self, h, target, records, more=0, action=None):
        self.path = h.t.path("wire")
        self.target = target
        self.records = records
        self.more = more
        self.action = action
        self.seen = []  # the types of the records that were forwarded
        self.listener = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        source, _ = self.listener.accept()
        self.listener.close()
        destination = socket.socket(socket.AF_UNIX)
        destination.connect(self.target)
        back = threading.Thread(target=self._back, args=(destination, source), daemon=True)
        back.start()
        with contextlib.suppress(OSError):
            self._forward(source, destination)
        if self.action:
            self.action()
        for side in (source, destination):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
        back.join()
        source.close()
        destination.close()

    @staticmethod
    def _back(source, destination):
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                destination.sendall(part)

    def _pass(self, source, destination, count):
        """Forwards so many bytes; None at the end of the stream."""
        data = b""
        while count:
            data = source.recv(min(count, 65536))
            if not data:
                return None
            destination.sendall(data)
            count -= len(data)
        return data

    def _forward(self, source, destination):
        while len(self.seen) < self.records:
            header = self._pass(source, destination, self.HEADER.size)
            if not header or len(header) < self.HEADER.size:
                return
            _, kind, length, _ = self.HEADER.unpack(header)
            if length and self._pass(source, destination, length) is None:
                return
            self.seen.append(kind)
        self._pass(source, destination, self.more)


class Lanes:
    """Stands between source and destination of a migration with several connections, and after so many bytes of one of them ends that
    one, or all."""

    def __init__(self, h, target, number, count, alone):
        self.path = h.t.path("lanes")
        self.target = target
        self.number, self.count, self.alone = number, count, alone
        self.sides = []
        self.listener = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self.listener.bind(self.path)
        self.listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                source, _ = self.listener.accept()
                destination = socket.socket(socket.AF_UNIX)
                destination.connect(self.target)
                number = len(self.sides)
                self.sides.append((source, destination))
                for way in ((source, destination, number == self.number and self.count), (destination, source, False)):
                    threading.Thread(target=self._forward, args=(number, *way), daemon=True).start()

    def _forward(self, number, source, destination, limit):
        passed = 0
        with contextlib.suppress(OSError):
            while (limit is False or passed < limit) and (part := source.recv(65536 if limit is False else min(65536, limit - passed))):
                destination.sendall(part)
                passed += len(part)
        for pair in self.sides[number:number + 1] if self.alone else list(self.sides):
            for side in pair:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()
        for pair in self.sides:
            for side in pair:
                side.close()


@case
def migrate_lanes(h):
    """One of several connections ends, at its beginning, in its HELLO, or in the middle of pages: the guest runs on at the source, and
    destination and source are ready for the next try."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=200)
    destination = start_process(h)
    target = h.t.path("target")
    before = None
    for tries, (number, count, alone) in enumerate(((1, 0, True), (2, 10, True), (1, 150, True), (3, 125, True), (2, 130, False),
                                                    (0, 40000, True)), 1):
        label = f"connection {number} ends after {count} bytes{'' if alone else ', and all others'}"
        receiving = Receiving(h, destination, f"unix:{target}")
        lanes = Lanes(h, target, number, count, alone)
        vm.put("vm.send-migration", {"destination_url": f"unix:{lanes.path}", "connections": 4, "downtime_ms": 1})
        error = wait_event(h, vm, "migration-failed", count=tries)["error"]
        if count <= 10 and number:  # it may still wait for that connection
            refusal(destination, "vm.cancel-migration")
        answer = receiving.wait()
        lanes.close()
        h.check(answer != "ok", f"{label}: the destination says {answer}")
        expect_running(h, vm, f"{label}: {error}")
        h.check(refusal(destination, "vm.info", method="GET")[0] == 404, f"{label}: nothing is left at the destination")
        if before:
            destination.wait_no_more_than({**before, "mappings": 1 << 20})
        elif count > 10:
            before = destination.footprint()
    end_guest(h, move(h, vm, "after all", connections=4), "after all")


@case
def migrate_compressed(h):
    """With compressed pages: over one connection and several, with TLS, and into a file, which gets smaller; what does not go together is
    refused."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=500)
    for words, options in (("compression_level", {"compression_level": 3}), ("compression_level", {"compression": "Zstd", "compression_level": 21}),
                           ("compression and local", {"compression": "Zstd", "local": True}), ("compression", {"compression": "Lz4"})):
        status, text = refusal(vm, "vm.send-migration", {"destination_url": "unix:/m", **options})
        h.check(status == 400 and words in text, f"{options}: {text.strip()}")
    for options in ({}, {"connections": 4, "compression_level": 9}, {"kind": "tcp", "max_bandwidth": 64 << 20}):
        vm = move(h, vm, f"compressed, {options}", compression="Zstd", **options)

    # What the source says of it; TLS around it.
    ours = Authority(h.t, "ours")
    destination = start_process(h)
    url = url_of(h, "tcp")
    receiving = Receiving(h, destination, url, tls_dir=ours.directory("server", "server"))
    last = last_round(vm)
    text = ask(h, vm, "send-migration", f"destination_url={url},tls_dir={ours.directory('client', 'client')},compression=zstd,keep_process=on")
    h.check(receiving.wait() == "ok", f"with TLS: {receiving.answer} {text}")
    wait_event(h, vm, "migration-finished")
    progress = vm.api("GET", "vm.migration-progress")
    h.check(0 < progress["compressed_pages"] <= progress["data_pages"], f"pages went compressed: {progress}")
    h.check(progress["compressed_bytes"] < progress["compressed_pages"] * 4096 // 2, "and became less than half")
    # All else on the wire: pages that did not get smaller, tables, the documents.
    rest = (progress["data_pages"] - progress["compressed_pages"]) * 4096
    h.check(progress["compressed_bytes"] + rest <= progress["sent_bytes"] < progress["compressed_bytes"] + rest + (1 << 20),
            "what was sent is that and little else")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 30)
    vm = destination
    vm.use_port("serial", "pty")
    later = [int(vm.console.expect("^round ([0-9]+)\n", 30)[1]) for _ in range(3)]
    h.check(last < later[0] and later == list(range(later[0], later[0] + 3)), f"goes on after round {last}: {later}")

    vm.put("vm.pause")
    sizes, path = {}, h.t.path("image")
    for count, kind in enumerate(("none", "zstd"), 1):
        with open(path, "wb") as file:
            ask(h, vm, "send-migration", f"destination_url=fd:{file.fileno()},one_way=on,compression={kind}", pass_fds=(file.fileno(),))
        wait_event(h, vm, "migration-finished", count=count)
        sizes[kind] = os.path.getsize(path)
    h.check(sizes["zstd"] < sizes["none"] // 2, f"a file is less than half as large: {sizes}")
    last = last_round(vm)
    vm.put("vm.delete")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 30)

    def load(status=0):
        with open(path, "rb") as file:
            return ask(h, destination, "receive-migration", f"receiver_url=fd:{file.fileno()}", pass_fds=(file.fileno(),), status=status)

    # A bit that has turned over in compressed pages.
    with open(path, "r+b") as file:
        file.seek(sizes["zstd"] // 2)
        byte = file.read(1)
        file.seek(sizes["zstd"] // 2)
        file.write(bytes((byte[0] ^ 0x10,)))
    destination = start_process(h)
    text = load(status=1)
    h.check("PAGES" in text, f"a file that is damaged: {text.strip()}")
    h.check(refusal(destination, "vm.info", method="GET")[0] == 404, "leaves nothing")
    with open(path, "r+b") as file:
        file.seek(sizes["zstd"] // 2)
        file.write(byte)
    load()
    destination.use_port("serial", "pty")
    destination.put("vm.resume")
    later = int(destination.console.expect("^round ([0-9]+)\n", 30)[1])
    h.check(last < later <= last + 3, f"goes on after round {last}: {later}")
    end_guest(h, destination, "from a compressed file")


GO = 7


@case
def migrate_faults(h):
    """The stream is cut behind every record and at bytes in between, or the destination is killed there: one VM runs
    on, and a destination that lives takes the next."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=50)
    destination = start_process(h)
    failures = 0

    def attempt(label, kill=False, **cut):
        """One migration over a wire that breaks. Returns (the wire, whether the VM has moved)."""
        nonlocal failures
        target = h.t.path("target")  # of one that is killed the next takes it over
        receiving = Receiving(h, destination, f"unix:{target}")
        wire = Wire(h, target, action=(lambda: os.kill(destination.process.pid, signal.SIGKILL)) if kill else None, **cut)
        vm.put("vm.send-migration", {"destination_url": f"unix:{wire.path}"})
        h.t.wait_for(lambda: vm.process.poll() is not None or sum(name == "migration-failed" for name, _ in events(vm)) > failures,
                     f"the end of the migration, {label}", 60)
        wire.thread.join()
        if len(wire.seen) < 2 and not kill:  # it may not have taken that for a source, and wait on
            refusal(destination, "vm.cancel-migration")
        receiving.wait()
        if vm.process.poll() is not None:
            return wire, True
        failures += 1
        error = [properties["error"] for name, properties in events(vm) if name == "migration-failed"][-1]
        if "whether the guest ran there" in error:
            expect_uncertain(h, vm, label, error)
            vm.put("vm.resume")
        expect_running(h, vm, f"{label}: {error}")
        if not kill:
            h.check(refusal(destination, "vm.info", method="GET")[0] == 404, f"{label}: nothing is left at the destination")
        return wire, False

    rng = random.Random(5)
    records = 0
    while True:
        before = destination.footprint()
        wire, moved = attempt(f"cut behind record {records}", records=records)
        if GO in wire.seen:
            break
        if records > 2:  # by then it has had a machine; mappings are the allocator's affair
            destination.wait_no_more_than({**before, "mappings": 1 << 20})
        more = rng.randrange(1, Wire.HEADER.size)
        wire, moved = attempt(f"cut {more} bytes behind record {records}", records=records, more=more)
        if GO in wire.seen:  # what the guest writes decides whether there is one record more or less
            break
        records += 1
    # Its answer is lost: the one that has the disk's lock first has the VM.
    h.check(wire.seen[-1] == GO, f"cut behind GO: the {'destination' if moved else 'source'} has the VM ({wire.seen})")
    if moved:
        destination.use_port("serial", "pty")
        expect_running(h, destination, "cut behind GO")
        vm.wait_exit(0, 10)
        vm, failures = destination, 0

    # Now the destination dies, too.
    for number in (1, 2, records - 2, records - 1):
        destination = start_process(h)
        attempt(f"killed behind record {number}", kill=True, records=number)
    for _ in range(4):
        destination = start_process(h)
        number, more = rng.randrange(records - 1), rng.randrange(1, Wire.HEADER.size)
        attempt(f"killed {more} bytes behind record {number}", kill=True, records=number, more=more)
    end_guest(h, move(h, vm, "after all"), "after all")
