# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of VMs whose memory follows them."""

import contextlib
import os
import signal
import socket
import threading
import time

from moving import Receiving, end_guest, events, expect_running, last_round, move, refusal, start_guest, start_process, url_of, wait_event
from harness.certificates import Authority
from kit import case, make_disk

CHURN = 1500  # pages that each round of the guest writes
SLOW_BYTES, SLOW_SECONDS = 16 << 10, 0.008


class SlowWire:
    """Stands between source and destination. Every other connection, from the first, that of all the rest, on, is slow; each can be cut."""

    def __init__(self, h, target, kind="unix"):
        if kind == "tcp":
            self.listener = socket.create_server(("127.0.0.1", 0))
            self.url = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        else:
            path = h.t.path("slow")
            self.url = f"unix:{path}"
            self.listener = socket.socket(socket.AF_UNIX)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self.listener.bind(path)
            self.listener.listen(16)
        self.target = target
        self.sides = []
        self.slow = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _connect(self):
        kind, address = self.target.split(":", 1)
        if kind == "tcp":
            host, port = address.rsplit(":", 1)
            return socket.create_connection((host, int(port)))
        destination = socket.socket(socket.AF_UNIX)
        destination.connect(address)
        return destination

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                source, _ = self.listener.accept()
                try:
                    destination = self._connect()
                except OSError:
                    source.close()
                    continue
                self.sides.append((source, destination))
                slow = self.slow and len(self.sides) % 2 == 1
                threading.Thread(target=self._forward, args=(source, destination, slow), daemon=True).start()
                threading.Thread(target=self._forward, args=(destination, source, False), daemon=True).start()

    @staticmethod
    def _forward(source, destination, slow):
        with contextlib.suppress(OSError):
            while part := source.recv(SLOW_BYTES):
                destination.sendall(part)
                if slow:
                    time.sleep(SLOW_SECONDS)
        with contextlib.suppress(OSError):
            destination.shutdown(socket.SHUT_WR)

    def cut(self, number):
        for side in self.sides[number]:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def cut_all(self):
        for number in range(len(self.sides)):
            self.cut(number)

    def close(self):
        self.listener.close()
        for pair in self.sides:
            for side in pair:
                side.close()


def has(vm, name):
    return any(event == name for event, _ in events(vm))


def begin(h, vm, label, kind="unix", receive=None, **options):
    """Moves the VM over a slow wire, up to where it runs at the destination and its memory follows. Returns (destination, wire)."""
    destination = start_process(h)
    target = url_of(h, kind)
    receiving = Receiving(h, destination, target, memory_mode="Postcopy", **(receive or {}))
    wire = SlowWire(h, target, kind)
    vm.put("vm.send-migration", {"destination_url": wire.url, "memory_mode": "Postcopy", **options})
    h.check(receiving.wait() == "ok", f"{label}: the destination has the VM: {receiving.answer}")
    wait_event(h, vm, "postcopy-migration-started")
    destination.use_port("serial", "pty")
    progress = vm.api("GET", "vm.migration-progress")
    h.check(progress["state"] == "Postcopy" and progress["memory_remaining_bytes"] > 0, f"{label}: the rest follows: {progress}")
    h.check(not has(destination, "postcopy-migration-completed") and vm.state() == "Paused", f"{label}: it is under way")
    return destination, wire


@case
def postcopy(h):
    """Memory follows the VM: all of it, or what was not sent when that was asked for; of each kind, over each kind of connection."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    ours = Authority(h.t, "ours")
    server, client = ours.directory("server", "server"), ours.directory("client", "client")
    tls = {"kind": "tcp", "receive": {"memory_mode": "Postcopy", "tls_dir": server}, "tls_dir": client}
    for memory_options, ways in (("", ({}, {"kind": "tcp"}, {"paused": True}, {"compression": "Zstd"}, tls)), (",shared=on", ({}, {"kind": "tcp"}))):
        vm = start_guest(h, disk, memory_options=memory_options, churn=CHURN)
        for way in ways:
            options = {"receive": {"memory_mode": "Postcopy"}, **way}
            label = f"memory{memory_options}, {[key for key in way] or 'unix'}"
            if options.pop("paused", False):
                vm.put("vm.pause")
            vm = move(h, vm, label, memory_mode="Postcopy", **options)
            wait_event(h, vm, "postcopy-migration-completed")
            h.check(not has(vm, "postcopy-migration-failed"), f"{label}: all memory is there")
        # Rounds first; then the rest follows a guest that writes more than can be sent.
        for connections in (1, 3):
            label = f"memory{memory_options}, hybrid, {connections} connections"
            destination = start_process(h)
            url = url_of(h, "unix")
            receiving = Receiving(h, destination, url, memory_mode="Hybrid")
            last = last_round(vm)
            vm.put("vm.send-migration", {"destination_url": url, "memory_mode": "Hybrid", "downtime_ms": 1, "max_bandwidth": 16 << 20,
                                         "connections": connections, "keep_process": True})
            wait_event(h, vm, "migration-memory-iteration", count=2)
            vm.put("vm.migration-start-postcopy")
            h.check(receiving.wait() == "ok", f"{label}: the destination answers {receiving.answer}")
            wait_event(h, vm, "migration-finished")
            names = [name for name, _ in events(vm)]
            h.check("postcopy-migration-started" in names and "migration-failed" not in names, f"{label}: it was post-copy")
            progress = vm.api("GET", "vm.migration-progress")
            h.check(progress["state"] == "Finished" and progress["memory_remaining_bytes"] == 0 and progress["iterations"] >= 2, f"{label}: {progress}")
            vm.put("vmm.shutdown")
            vm.wait_exit(0, 30)
            vm = destination
            vm.use_port("serial", "pty")
            later = [int(vm.console.expect("^round ([0-9]+)\n", 30)[1]) for _ in range(3)]
            h.check(last < later[0] and later == list(range(later[0], later[0] + 3)), f"{label}: goes on after round {last}: {later}")
            wait_event(h, vm, "postcopy-migration-completed")
        end_guest(h, vm, f"memory{memory_options}")


@case
def postcopy_refused(h):
    """What is refused, and what may still be called off."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=CHURN)
    destination = start_process(h)
    url = url_of(h, "unix")
    for body, words in (({"local": True}, "memory_mode"), ({"one_way": True}, "memory_mode")):
        status, text = refusal(vm, "vm.send-migration", {"destination_url": url, "memory_mode": "Postcopy", **body})
        h.check(status == 400 and words in text, f"{body}: {text.strip()}")
    status, text = refusal(vm, "vm.migration-start-postcopy")
    h.check(status == 404 and "no migration is sent" in text, f"no migration: {text.strip()}")

    # A destination that was not told.
    receiving = Receiving(h, destination, url)
    vm.put("vm.send-migration", {"destination_url": url, "memory_mode": "Postcopy"})
    error = wait_event(h, vm, "migration-failed")["error"]
    h.check("was not told that it may" in error, f"not told: {error}")
    expect_running(h, vm, "not told")
    # It waits on, for pre-copy, which stays that.
    vm.put("vm.send-migration", {"destination_url": url, "downtime_ms": 1, "max_bandwidth": 1 << 20})
    wait_event(h, vm, "migration-memory-iteration")
    status, text = refusal(vm, "vm.migration-start-postcopy")
    h.check(status == 409 and "precopy" in text, f"of a pre-copy: {text.strip()}")
    vm.put("vm.cancel-migration")
    wait_event(h, vm, "migration-failed", count=2)
    h.check("closed the connection" in receiving.wait(), f"the destination hears it: {receiving.answer}")
    expect_running(h, vm, "called off")

    # Before the switch it can be called off,
    receiving = Receiving(h, destination, url, memory_mode="Hybrid")
    vm.put("vm.send-migration", {"destination_url": url, "memory_mode": "Hybrid", "downtime_ms": 1, "max_bandwidth": 1 << 20})
    wait_event(h, vm, "migration-memory-iteration", count=2)
    vm.put("vm.cancel-migration")
    h.check("called off" in wait_event(h, vm, "migration-failed", count=3)["error"], "before the switch it is called off")
    receiving.wait()
    expect_running(h, vm, "called off before the switch")
    h.check(refusal(destination, "vm.info", method="GET")[0] == 404, "nothing is left at the destination")
    # afterwards at neither end.
    there, wire = begin(h, vm, "too late")
    for side in (vm, there):
        status, text = refusal(side, "vm.cancel-migration")
        h.check(status == 409 and "rest of its memory follows" in text, f"too late: {text.strip()}")
    for endpoint in ("vm.resume", "vm.reboot", "vm.shutdown", "vm.delete"):
        status, text = refusal(vm, endpoint)
        h.check(status == 409 and "is under way" in text, f"{endpoint} at the source: {text.strip()}")
    vm.wait_exit(0, 60)
    wait_event(h, there, "postcopy-migration-completed")
    wire.close()
    expect_running(h, there, "too late")
    end_guest(h, there, "too late")


class Recovering(Receiving):
    """A vm.receive-migration of a VM that is there, and lacks memory."""

    READY = "postcopy-migration-recover-ready"

    def __init__(self, h, vm, url, **options):
        super().__init__(h, vm, url, recover=True, **options)


def pages_of(vm):
    following = vm.api("GET", "vm.info").get("postcopy")
    return following["missing_bytes"] if following else 0


@case
def postcopy_recover(h):
    """Connections break while memory follows, and others take their place, as often as it takes: over each kind; strangers are refused."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    ours = Authority(h.t, "ours")
    server, client = ours.directory("server", "server"), ours.directory("client", "client")
    ways = (("unix", {}, {}), ("tcp", {}, {}), ("tcp", {"tls_dir": server}, {"tls_dir": client, "connections": 3}))
    for kind, receive, options in ways:
        label = f"{kind} {[*options]}"
        vm = start_guest(h, disk, churn=CHURN, memory_options=",shared=on" if kind == "tcp" and not receive else "")
        there, wire = begin(h, vm, label, kind, receive, **options)
        tls = {"tls_dir": client} if receive else {}
        for name, side, words in (("vm.send-migration", vm, "not broken"), ("vm.receive-migration", there, "not broken")):
            url = "destination_url" if side is vm else "receiver_url"
            given = (tls if side is vm else receive)
            status, text = refusal(side, name, {url: wire.url, "recover": True, **given})
            h.check(status == 409 and words in text, f"{label}: while it follows: {text.strip()}")
        for time_of_it in (1, 2):
            missing = pages_of(there)
            wire.cut_all()
            wait_event(h, there, "postcopy-migration-paused", count=time_of_it)
            wait_event(h, vm, "postcopy-migration-paused", count=time_of_it)
            h.check(there.state() == "Running" and 0 < pages_of(there) <= missing, f"{label}: {pages_of(there)} of {missing} bytes are missing")
            # Called off, nothing is lost.
            recovering = Recovering(h, there, wire.target, **receive)
            there.put("vm.cancel-migration")
            h.check("called off" in recovering.wait(), f"{label}: the wait is called off: {recovering.answer}")
            h.check(there.api("GET", "vm.info")["postcopy"]["state"] == "Paused", f"{label}: it can wait again")
            recovering = Recovering(h, there, wire.target, **receive)
            h.check(there.api("GET", "vm.info")["postcopy"]["state"] == "Recover", f"{label}: it waits")
            vm.put("vm.send-migration", {"destination_url": wire.url, "recover": True, **tls})
            h.check(recovering.wait() == "ok", f"{label}: it is recovered: {recovering.answer}")
            wait_event(h, there, "postcopy-migration-recovered", count=time_of_it)
            wait_event(h, vm, "postcopy-migration-recovered", count=time_of_it)
            progress = vm.api("GET", "vm.migration-progress")
            h.check(progress["state"] == "Postcopy" and not progress["error"], f"{label}: {progress}")
        wait_event(h, there, "postcopy-migration-completed")
        vm.wait_exit(0, 60)
        h.check(has(vm, "migration-finished") and not has(vm, "migration-failed"), f"{label}: the source ends well")
        h.check("postcopy" not in there.api("GET", "vm.info"), f"{label}: all memory is there")
        wire.close()
        expect_running(h, there, label)
        # The guest looks at all of its memory.
        end_guest(h, there, label)


@case
def postcopy_recover_refused(h):
    """What a recovery does not take, and from whom; a source that is gone."""
    disk, other_disk = h.t.path("disk.raw"), h.t.path("other.raw")
    make_disk(disk)
    make_disk(other_disk)
    vm = start_guest(h, disk, churn=CHURN)
    stranger = start_guest(h, other_disk, churn=CHURN)
    status, text = refusal(vm, "vm.send-migration", {"destination_url": "unix:/m", "recover": True})
    h.check(status == 409 and "no VM is sent" in text, f"none is sent: {text.strip()}")
    status, text = refusal(vm, "vm.receive-migration", {"receiver_url": "unix:/m", "recover": True})
    h.check(status == 409 and "whose memory follows" in text, f"none has come: {text.strip()}")
    there, wire = begin(h, vm, "the VM")
    stranger_there, stranger_wire = begin(h, stranger, "the stranger")
    for one in (wire, stranger_wire):
        one.cut_all()
    for one in (vm, there, stranger, stranger_there):
        wait_event(h, one, "postcopy-migration-paused")
    for side, name, url, rows in (
            (vm, "vm.send-migration", "destination_url",
             ({"connections": 2}, {"compression": "Zstd"}, {"memory_mode": "Postcopy"}, {"local": True}, {"one_way": True}, {"max_bandwidth": 5},
              {"auto_converge": True}, {"keep_process": True}, {"downtime_ms": 5}, {"peer_timeout_s": 5})),
            (there, "vm.receive-migration", "receiver_url", ({"memory_mode": "Postcopy"}, {"paused": True}, {"peer_timeout_s": 5}))):
        for row in rows:
            status, text = refusal(side, name, {url: wire.target, "recover": True, **row})
            h.check(status == 400 and next(iter(row)) in text, f"{row}: {text.strip()}")
    status, text = refusal(vm, "vm.send-migration", {"destination_url": "tcp:127.0.0.1:1", "recover": True, "tls_dir": "/tmp"})
    h.check(status == 400 and "tls_dir" in text and "without TLS" in text, f"TLS: {text.strip()}")

    # Nobody is there.
    vm.put("vm.send-migration", {"destination_url": "unix:/nowhere/m", "recover": True})
    error = wait_event(h, vm, "postcopy-migration-paused", count=2)["error"]
    h.check("/nowhere/m" in error, f"nobody is there: {error}")
    # One that waits for a whole VM, and one that waits for another's memory.
    empty = start_process(h)
    url = f"unix:{h.t.path('empty')}"
    Receiving(h, empty, url)
    vm.put("vm.send-migration", {"destination_url": url, "recover": True})
    error = wait_event(h, vm, "postcopy-migration-paused", count=3)["error"]
    h.check("waits for a VM, not for the memory of one" in error, f"a destination without VM: {error}")
    empty.put("vmm.shutdown")
    empty.wait_exit(0, 30)
    recovering = Recovering(h, there, wire.target)
    stranger.put("vm.send-migration", {"destination_url": wire.target, "recover": True})
    error = wait_event(h, stranger, "postcopy-migration-paused", count=2)["error"]
    h.check("not the source of the VM that is here" in error, f"another VM's source: {error}")
    stranger.put("vm.shutdown")
    h.check("neither here nor there" in wait_event(h, stranger, "migration-failed")["error"], "the stranger is given up")
    stranger.put("vmm.shutdown")
    stranger.wait_exit(0, 30)
    # The right one still gets through.
    wire.slow = False
    vm.put("vm.send-migration", {"destination_url": wire.url, "recover": True})
    h.check(recovering.wait() == "ok", f"the right one: {recovering.answer}")
    wait_event(h, there, "postcopy-migration-completed")
    vm.wait_exit(0, 30)
    expect_running(h, there, "the right one")
    end_guest(h, there, "the right one")

    # A source that has gone will never come: waiting for it is called off, and the VM can be taken down.
    recovering = Recovering(h, stranger_there, stranger_wire.target)
    status, text = refusal(stranger_there, "vm.resume")
    h.check(status == 409 and "to be recovered" in text, f"meanwhile: {text.strip()}")
    stranger_there.put("vm.cancel-migration")
    recovering.wait()
    h.check(stranger_there.api("GET", "vm.info")["postcopy"]["state"] == "Paused", "it is as before")
    Recovering(h, stranger_there, stranger_wire.target)
    with contextlib.suppress(Exception):
        stranger_there.put("vmm.shutdown")
    h.check(stranger_there.process.wait(20) in (0, 1), "the destination ends while it waits")
    for one in (wire, stranger_wire):
        one.close()


@case
def postcopy_faults(h):
    """The source dies while memory follows, or a connection is cut: the VM runs on at neither end, both say why, and each can be taken
    down; a destination whose machine ends does not hold up the source."""
    disk = h.t.path("disk.raw")
    make_disk(disk)

    def expect_stranded(side, label, words, state="Paused"):
        h.check(side.state() == state, f"{label}: it is {state}")
        for endpoint, body in (("vm.resume", None), ("vm.reboot", None), ("vm.pause", None), ("vm.snapshot", {"destination_url": "file:///tmp"}),
                               ("vm.send-migration", {"destination_url": "unix:/m"})):
            status, text = refusal(side, endpoint, body)
            h.check(status == 409 and words in text, f"{label}: {endpoint}: {text.strip()}")

    for label, number in (("the source is killed", None), ("the connection for requests is cut", 1), ("the other connection is cut", 0)):
        vm = start_guest(h, disk, churn=CHURN)
        there, wire = begin(h, vm, label)
        if number is None:
            os.kill(vm.process.pid, signal.SIGKILL)
        else:
            wire.cut(number)
        error = wait_event(h, there, "postcopy-migration-paused")["error"]
        h.check("cannot follow it from the source" in error, f"{label}: the destination says: {error}")
        expect_stranded(there, f"{label}, destination", "cannot follow it from the source", "Running")
        following = there.api("GET", "vm.info")["postcopy"]
        h.check(following["state"] == "Paused" and following["missing_bytes"] > 0 and following["error"] == error, f"{label}: vm.info: {following}")
        h.check("the rest of the VM's memory cannot follow" in there.log(), f"{label}: and logs it")
        status, text = refusal(there, "vm.cancel-migration")
        h.check(status == 409 and "would be lost" in text, f"{label}: {text.strip()}")
        if number is not None:
            error = wait_event(h, vm, "postcopy-migration-paused")["error"]
            h.check("until the migration is recovered" in error, f"{label}: the source says: {error}")
            expect_stranded(vm, f"{label}, source", "until the migration is recovered")
            progress = vm.api("GET", "vm.migration-progress")
            h.check(progress["state"] == "PostcopyPaused" and progress["error"] == error, f"{label}: {progress}")
            status, text = refusal(vm, "vm.cancel-migration")
            h.check(status == 409 and "would be lost" in text, f"{label}: {text.strip()}")
            # Given up, there is nothing that could be recovered.
            vm.put("vm.delete")
            error = wait_event(h, vm, "migration-failed")["error"]
            h.check("neither here nor there" in error, f"{label}: the source says then: {error}")
            vm.put("vmm.shutdown")
            vm.wait_exit(0, 30)
        # Taking it down may have to wait for who waits for a page; then the process ends all the same.
        with contextlib.suppress(Exception):
            there.put("vmm.shutdown")
        h.check(there.process.wait(20) in (0, 1), f"{label}: the destination ends")
        wire.close()

    # The machine ends at the destination: what has not come is not needed.
    vm = start_guest(h, disk, churn=CHURN)
    there, wire = begin(h, vm, "rebooted")
    there.put("vm.shutdown")
    vm.wait_exit(0, 30)
    h.check(has(vm, "migration-finished") and not has(vm, "migration-failed"), "rebooted: the source ends well")
    h.check(not has(there, "postcopy-migration-failed"), "rebooted: and nothing is lost")
    there.put("vmm.shutdown")
    there.wait_exit(0, 30)
    wire.close()
