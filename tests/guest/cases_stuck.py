# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of migrations whose other side says nothing: it is stopped, or what it sends gets nowhere."""

import contextlib
import os
import signal
import socket
import struct
import threading
import time

from moving import Receiving, end_guest, events, expect_running, expect_uncertain, free_port, refusal, start_guest, start_process, wait_event
from cases_postcopy import CHURN, SlowWire
from harness.context import mount, new_directories
from kit import case, make_disk

HELLO, CONFIG, ROUND, STATE, GO = 1, 3, 5, 6, 7
HEADER = struct.Struct("<IIQQ")
SHORT = {"peer_timeout_s": 1}


class Valve:
    """Stands between source and destination of one connection, over UNIX sockets or TCP. In front of the first record of a type it does
    something, and goes on when that has come back; nothing else is held up."""

    def __init__(self, h, kind, kind_of_record, action):
        self.record, self.action = kind_of_record, action
        self.inner = h.t.path("target") if kind == "unix" else free_port()
        self.outer = h.t.path("valve") if kind == "unix" else free_port()
        self.family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        self.listener = socket.socket(self.family)
        if kind == "unix":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.outer)
        else:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind(self._address(self.outer))
        self.listener.listen(1)
        self.receiver_url, self.destination_url = self._url(self.inner), self._url(self.outer)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _address(self, place):
        return place if self.family == socket.AF_UNIX else ("127.0.0.1", place)

    def _url(self, place):
        return f"unix:{place}" if self.family == socket.AF_UNIX else f"tcp:127.0.0.1:{place}"

    def _run(self):
        with self.listener, socket.socket(self.family) as destination:
            source, _ = self.listener.accept()
            with source:
                destination.connect(self._address(self.inner))
                back = threading.Thread(target=self._copy, args=(destination, source), daemon=True)
                back.start()
                self._forward(source, destination)
                back.join()

    @staticmethod
    def _copy(source, destination):
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                destination.sendall(part)
        for side in (source, destination):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR if side is source else socket.SHUT_WR)

    @staticmethod
    def _read(source, count):
        data = b""
        while len(data) < count and (part := source.recv(min(count - len(data), 1 << 20))):
            data += part
        return data

    def _forward(self, source, destination):
        with contextlib.suppress(OSError):
            while len(header := self._read(source, HEADER.size)) == HEADER.size:
                _, kind, length, _ = HEADER.unpack(header)
                if kind == self.record and self.action:
                    self.action, action = None, self.action
                    action()
                destination.sendall(header + self._read(source, length))
        with contextlib.suppress(OSError):
            destination.shutdown(socket.SHUT_WR)


def stop(vm):
    os.kill(vm.process.pid, signal.SIGSTOP)


def go_on(vm):
    os.kill(vm.process.pid, signal.SIGCONT)


def failures(vm):
    return [properties["error"] for name, properties in events(vm) if name == "migration-failed"]


def expect_empty(h, vm, label):
    h.t.wait_for(lambda: refusal(vm, "vm.info", method="GET")[0] == 404, f"{label}: nothing is left at the destination", 30)


@case
def stuck(h):
    """A destination is stopped at each step, over UNIX sockets and TCP: the source gives up, and the guest runs on there. At GO it does not
    by itself, for who is told to run it may have done so; and the destination that goes on cannot have the disk any more. A source
    that is stopped there has lost nothing either."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=100)
    destination = start_process(h)
    for kind in ("unix", "tcp"):
        for record, name in ((HELLO, "HELLO"), (CONFIG, "CONFIG"), (ROUND, "ROUND"), (STATE, "STATE"), (GO, "GO")):
            label = f"{kind}: the destination is stopped at {name}"
            valve = Valve(h, kind, record, lambda: stop(destination))
            receiving = Receiving(h, destination, valve.receiver_url)
            before = len(failures(vm))
            vm.put("vm.send-migration", {"destination_url": valve.destination_url, **SHORT})
            began = time.monotonic()
            h.t.wait_for(lambda: len(failures(vm)) > before, f"{label}: the source to give up", 20)  # pylint: disable=cell-var-from-loop
            error = failures(vm)[-1]
            h.check("has said nothing for" in error, f"{label}: after {time.monotonic() - began:.1f} s: {error}")
            if record == GO:
                expect_uncertain(h, vm, label, error)
            else:
                expect_running(h, vm, label)
            go_on(destination)
            if record == HELLO:  # it takes nobody for a source yet
                refusal(destination, "vm.cancel-migration")
            answer = receiving.wait()
            h.check(answer != "ok", f"{label}: it says when it goes on: {answer}")
            if record == GO:
                h.check("lock" in answer, f"{label}: the source has the disk")
                vm.put("vm.resume")
                expect_running(h, vm, label)
            expect_empty(h, destination, label)
            valve.thread.join(10)

        label = f"{kind}: the source is stopped in front of GO"
        valve = Valve(h, kind, GO, lambda: None)
        held = threading.Event()
        valve.action = lambda: (stop(vm), held.wait(30))  # pylint: disable=cell-var-from-loop
        receiving = Receiving(h, destination, valve.receiver_url, **SHORT)
        before = len(failures(vm))
        vm.put("vm.send-migration", {"destination_url": valve.destination_url})
        answer = receiving.wait()
        h.check("waiting for GO" in answer, f"{label}: the destination gives up: {answer}")
        expect_empty(h, destination, label)
        held.set()
        go_on(vm)
        h.t.wait_for(lambda: len(failures(vm)) > before, f"{label}: the source to hear it", 20)  # pylint: disable=cell-var-from-loop
        h.check("waiting for GO" in failures(vm)[-1], f"{label}: the source hears it: {failures(vm)[-1]}")
        expect_running(h, vm, label)
    end_guest(h, vm, "stuck")


@case
def stuck_cancel(h):
    """Each wait for a destination that says nothing can be called off, until GO."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=100)
    destination = start_process(h)
    for end in ("source", "destination"):
        for record, name in ((CONFIG, "CONFIG"), (ROUND, "ROUND"), (STATE, "STATE"), (GO, "GO")):
            label = f"{name} is held, called off at the {end}"
            reached, held = threading.Event(), threading.Event()
            valve = Valve(h, "unix", record, lambda: (reached.set(), held.wait(30)))  # pylint: disable=cell-var-from-loop
            receiving = Receiving(h, destination, valve.receiver_url)
            before = len(failures(vm))
            vm.put("vm.send-migration", {"destination_url": valve.destination_url})
            h.check(reached.wait(20), f"{label}: gets there")
            side = vm if end == "source" else destination
            began = time.monotonic()
            status, text = refusal(side, "vm.cancel-migration")
            took = time.monotonic() - began
            late = end == "source" and record == GO
            h.check(took < 5 and (status, late) in ((0, False), (409, True)), f"{label}: answered {status} {text.strip()} in {took:.1f} s")
            if late:
                h.check("was told to run the VM" in text, f"{label}: it is too late")
                refusal(destination, "vm.cancel-migration")
            held.set()
            h.t.wait_for(lambda: len(failures(vm)) > before, f"{label}: the end", 20)  # pylint: disable=cell-var-from-loop
            expect_running(h, vm, f"{label}: {failures(vm)[-1]}")
            receiving.wait()
            expect_empty(h, destination, label)
            valve.thread.join(10)
    end_guest(h, vm, "cancelled")


@case
def stuck_network(h):
    """What is sent gets nowhere, which no side is told of: while memory goes, and in front of GO."""
    h.t.network()
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=200)
    destination = start_process(h)
    for label, options in (("in a round", {"max_bandwidth": 4 << 20, "downtime_ms": 1}), ("over several connections",
                                                                                       {"max_bandwidth": 4 << 20, "downtime_ms": 1, "connections": 3})):
        url = f"tcp:127.0.0.1:{free_port()}"
        receiving = Receiving(h, destination, url)
        before = len(failures(vm))
        rounds = sum(name == "migration-memory-iteration" for name, _ in events(vm))
        vm.put("vm.send-migration", {"destination_url": url, **SHORT, **options})
        wait_event(h, vm, "migration-memory-iteration", count=rounds + 1)
        h.t.run("ip", "link", "set", "lo", "down")
        began = time.monotonic()
        h.t.wait_for(lambda: len(failures(vm)) > before, f"{label}: the source to give up", 20)  # pylint: disable=cell-var-from-loop
        h.check("has said nothing for" in failures(vm)[-1], f"{label}: after {time.monotonic() - began:.1f} s: {failures(vm)[-1]}")
        expect_running(h, vm, label)
        # The destination has no VM, and waits on as long as its user likes.
        h.check(refusal(destination, "vm.info", method="GET")[0] == 409, f"{label}: the destination answers")
        h.check(refusal(destination, "vm.cancel-migration")[0] == 0, f"{label}: and lets itself be called off")
        receiving.wait()
        h.t.run("ip", "link", "set", "lo", "up")
        expect_empty(h, destination, label)
    end_guest(h, vm, "network")


def ask_ourselves(h, timeout_s):
    """From here on names are looked up at 127.0.0.1, in a network and with mounts of the test's own."""
    h.t.network()
    new_directories([])
    configuration = h.t.path("resolv.conf")
    with open(configuration, "w", encoding="utf-8") as file:
        file.write(f"nameserver 127.0.0.1\noptions timeout:{timeout_s} attempts:3\n")
    mount(configuration, os.path.realpath("/etc/resolv.conf"))


def answer(query):
    """A name server's answer: every name is 127.0.0.1, and has no address of IPv6."""
    end = query.index(b"\0", 12) + 1
    question = query[12:end + 4]
    is_a = question[-4:-2] == b"\0\1"
    record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if is_a else b""
    return query[:2] + b"\x81\x80\0\1" + bytes([0, is_a]) + b"\0\0\0\0" + question + record


@case
def stuck_console_name(h):
    """A console's name at a name server that says nothing: who connects again and again does when it answers; else it is an error soon."""
    ask_ourselves(h, 2)
    disk = h.t.path("disk.raw")
    make_disk(disk)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server, socket.create_server(("127.0.0.1", 0)) as listener:
        server.bind(("127.0.0.1", 53))
        server.settimeout(20)
        listener.settimeout(20)
        port = listener.getsockname()[1]
        began = time.monotonic()
        vm = start_guest(h, disk, cpus=1, options=("--console", f"tcp=somewhere.example:{port},connect=on,reconnect=1"))
        h.check(time.monotonic() - began < 15 and vm.state() == "Running", "the guest does not wait")
        h.check(b"somewhere" in server.recv(1000), "the name is asked for")
        done = threading.Event()

        def serve():
            while not done.is_set():
                with contextlib.suppress(TimeoutError):
                    query, client = server.recvfrom(1000)
                    server.sendto(answer(query), client)

        server.settimeout(0.2)
        thread = threading.Thread(target=serve)
        thread.start()
        client = listener.accept()[0]
        h.check(True, "the console is connected when there is an answer")
        done.set()
        thread.join()
        client.close()
        expect_running(h, vm, "connected")
        end_guest(h, vm, "connected")

        # Nobody answers, and it ends as if nothing were.
        vm = start_guest(h, disk, cpus=1, options=("--console", f"tcp=somewhere.example:{port},connect=on,reconnect=1"))
        expect_running(h, vm, "no answer")
        end_guest(h, vm, "no answer")
        began = time.monotonic()
        for mode in (",connect=on", ""):
            text = h.t.run("kumo", "--kernel", h.elf, "--serial", f"tcp=somewhere.example:{port}{mode}", status=1)
            h.check("somewhere.example" in text and "no name server answers" in text, f"refused: {text.strip()}")
        h.check(time.monotonic() - began < 15, f"both within {time.monotonic() - began:.1f} s")


@case
def stuck_resolver(h):
    """A name server that says nothing holds neither the guest nor who calls the migration off."""
    ask_ourselves(h, 10)
    disk = h.t.path("disk.raw")
    make_disk(disk)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        server.settimeout(20)
        vm = start_guest(h, disk, cpus=1)
        vm.put("vm.send-migration", {"destination_url": "tcp:somewhere.example:6000"})
        h.check(b"somewhere" in server.recv(1000), "the name is asked for")
        began = time.monotonic()
        h.check(vm.state() == "Running", "the API answers")
        status, text = refusal(vm, "vm.cancel-migration")
        took = time.monotonic() - began
        h.check(status == 0 and took < 3, f"it is called off in {took:.1f} s: {status} {text}")
        h.check("called off" in wait_event(h, vm, "migration-failed")["error"], "and says so")
        expect_running(h, vm, "no answer")
        end_guest(h, vm, "no answer")


@case
def stuck_postcopy(h):
    """Memory follows, and one end is stopped: the other gives up when it waits for it, says so, and answers its API all the time."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    for label, side in (("the source is stopped", "source"), ("the destination is stopped", "destination")):
        vm = start_guest(h, disk, churn=CHURN)
        there = start_process(h)
        target = h.t.path("target")
        receiving = Receiving(h, there, f"unix:{target}", memory_mode="Postcopy", **(SHORT if side == "source" else {}))
        wire = SlowWire(h, f"unix:{target}")
        vm.put("vm.send-migration", {"destination_url": wire.url, "memory_mode": "Postcopy", **(SHORT if side == "destination" else {})})
        h.check(receiving.wait() == "ok", f"{label}: the VM is there: {receiving.answer}")
        wait_event(h, vm, "postcopy-migration-started")
        if side == "source":
            stop(vm)
            error = wait_event(h, there, "postcopy-migration-paused")["error"]
            h.check("waiting for pages that follow" in error, f"{label}: {error}")
            h.check(there.api("GET", "vm.info")["postcopy"]["state"] == "Paused", f"{label}: it waits there")
            go_on(vm)
            error = wait_event(h, vm, "postcopy-migration-paused")["error"]
            h.check("until the migration is recovered" in error, f"{label}: the source says when it goes on: {error}")
        else:
            stop(there)
            error = wait_event(h, vm, "postcopy-migration-paused")["error"]
            h.check("until the migration is recovered" in error, f"{label}: {error}")
            h.check(vm.state() == "Paused", f"{label}: it answers")
            go_on(there)
            error = wait_event(h, there, "postcopy-migration-paused")["error"]
            h.check("cannot follow it from the source" in error, f"{label}: the destination says when it goes on: {error}")
        vm.put("vm.delete")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 30)
        with contextlib.suppress(Exception):
            there.put("vmm.shutdown")
        h.check(there.process.wait(20) in (0, 1), f"{label}: the destination ends")
        wire.close()
