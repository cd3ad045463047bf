# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each way of migrating, and what goes wrong with it: the stream is cut or changed behind each of its records and in between, an end is
killed, it is called off, the disk is full. Whatever it is, one VM runs on, or says why not, and the next migration works."""

import contextlib
import fcntl
import os
import random
import signal
import socket
import struct
import threading

from moving import (Receiving, ask, end_guest, events, expect_running, expect_uncertain, free_port, last_round, move, refusal, start_guest,
                             start_process, wait_event)
from harness.certificates import Authority
from kit import case, make_disk

HEADER = struct.Struct("<IIQQ")
PAGES = 4
KINDS = {"STATE": 6, "GO": 7}


class Faulty:
    """Stands between source and destination, on all their connections, and does something once: AT is (connection, records, bytes
    behind them) of what the source sends; records may be "STATE" or "GO": in front of that one, or None: so many bytes of
    whatever it is. ACTION is called with the bytes that would
    have gone on, and what it returns goes on; None: all connections end there."""

    def __init__(self, h, kind, at, action):
        self.at, self.action = at, action
        self.done = threading.Event()
        self.deaf = False  # what the destination says gets nowhere
        self.types = {}  # of the records that went on, by connection; not over TLS
        self.bytes = {}
        self.family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
        self.inner, self.outer = (free_port(), free_port()) if kind == "tcp" else (h.t.path("target"), h.t.path("faulty"))
        self.sides, self.threads = [], []
        self.listener = socket.socket(self.family)
        if kind != "tcp":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.outer)
        self.listener.bind(self._address(self.outer))
        self.listener.listen(16)
        self.accepting = threading.Thread(target=self._accept, daemon=True)
        self.accepting.start()

    def _address(self, place):
        return place if self.family == socket.AF_UNIX else ("127.0.0.1", place)

    def url(self, place):
        return f"unix:{place}" if self.family == socket.AF_UNIX else f"tcp:127.0.0.1:{place}"

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                source, _ = self.listener.accept()
                destination = socket.socket(self.family)
                number = len(self.sides)
                self.sides.append((source, destination))
                try:
                    destination.connect(self._address(self.inner))
                except OSError:  # it has been killed
                    source.shutdown(socket.SHUT_RDWR)
                    continue
                for function, arguments in ((self._forward, (number, source, destination)), (self._back, (destination, source))):
                    self.threads.append(threading.Thread(target=function, args=arguments, daemon=True))
                    self.threads[-1].start()

    def _back(self, source, destination):
        with contextlib.suppress(OSError):
            while part := source.recv(65536):
                if not self.deaf:
                    destination.sendall(part)
        for side, how in ((source, socket.SHUT_RDWR), (destination, socket.SHUT_WR)):
            with contextlib.suppress(OSError):
                side.shutdown(how)

    def _hit(self, data):
        self.done.set()
        data = self.action(data)
        if data is None:
            self.hang_up()
        return data

    def _forward(self, number, source, destination):
        with contextlib.suppress(OSError):
            if self.at[1] is None:
                self._forward_bytes(number, source, destination)
            else:
                self._forward_records(number, source, destination)
        with contextlib.suppress(OSError):
            destination.shutdown(socket.SHUT_WR)

    def _forward_bytes(self, number, source, destination):
        passed = 0
        while True:
            mine = number == self.at[0] and not self.done.is_set() and self.at[2] is not None
            part = source.recv(min(65536, self.at[2] - passed) if mine and passed < self.at[2] else 65536)
            if mine and passed == self.at[2] and part:
                part = self._hit(part)
            if not part:
                return
            destination.sendall(part)
            passed += len(part)
            self.bytes[number] = passed

    @staticmethod
    def _read(source, count, fds):
        data = b""
        while len(data) < count:
            if source.family == socket.AF_UNIX:
                part, came, _, _ = socket.recv_fds(source, min(count - len(data), 1 << 20), 4)
                fds.extend(came)
            else:
                part = source.recv(min(count - len(data), 1 << 20))
            if not part:
                break
            data += part
        return data

    def _is_there(self, number, kind, types):
        where, count, _ = self.at
        return number == where and not self.done.is_set() and (KINDS.get(count) == kind or len(types) == count)

    def _forward_records(self, number, source, destination):
        types = self.types.setdefault(number, [])
        while True:
            fds = []
            record = self._read(source, HEADER.size, fds)
            if len(record) < HEADER.size:
                return
            _, kind, length, _ = HEADER.unpack(record)
            record += self._read(source, length, fds)
            if self._is_there(number, kind, types):
                cut_at = min(self.at[2], len(record) - 1)
                destination.sendall(record[:cut_at])
                record = self._hit(record[cut_at:])
            if record and fds:
                socket.send_fds(destination, [record], fds)
            elif record:
                destination.sendall(record)
            for fd in fds:
                os.close(fd)
            if record is None:
                return
            types.append(kind)

    def hang_up(self):
        for pair in list(self.sides):
            for side in pair:
                with contextlib.suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)

    def close(self):
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.accepting.join()
        self.hang_up()
        for thread in self.threads:
            thread.join()
        for pair in self.sides:
            for side in pair:
                side.close()


class Mode:
    """A way of migrating."""

    def __init__(self, name, kind="unix", memory="", churn=100, records=True, n_connections=1, receive=None, **send):
        self.name, self.kind, self.memory, self.churn = name, kind, memory, churn
        self.records, self.n_connections = records, n_connections
        self.receive, self.send = receive or {}, send
        self.follows = send.get("memory_mode") == "Postcopy"


def modes(h):
    ours = Authority(h.t, "ours")
    tls = {"receive": {"tls_dir": ours.directory("server", "server")}, "tls_dir": ours.directory("client", "client")}
    return (
        Mode("TLS", kind="tcp", records=False, **tls),
        Mode("zstd", compression="Zstd"),
        Mode("local", memory=",shared=on", local=True),
        Mode("auto_converge", churn=600, auto_converge=True, downtime_ms=20),
        Mode("connections", connections=3, n_connections=3),
        Mode("post-copy", memory_mode="Postcopy", n_connections=2, receive={"memory_mode": "Postcopy"}),
    )


class Attempts:
    """Migrations of one VM, each of which goes wrong somewhere."""

    def __init__(self, h, mode, disk):
        self.h, self.mode, self.disk = h, mode, disk
        self.destination = self.wire = None
        self.start()

    def start(self):
        self.vm = start_guest(self.h, self.disk, memory_options=self.mode.memory, churn=self.mode.churn)

    def n_begun(self):
        return sum(name == "migration-receive-started" for name, _ in events(self.destination))

    def failures(self):
        return [properties["error"] for name, properties in events(self.vm) if name in ("migration-failed", "postcopy-migration-paused")]

    def one(self, label, at, action, paused=False):
        """Returns the wire, and whether the VM has moved."""
        h, mode = self.h, self.mode
        label = f"{mode.name}: {label}"
        if not self.destination or self.destination.process.poll() is not None:
            self.destination = start_process(h)
        destination = self.destination
        wire = self.wire = Faulty(h, mode.kind, at, lambda data: action(self, data))
        receiving = Receiving(h, destination, wire.url(wire.inner), **mode.receive)
        before = len(self.failures())
        begun = self.n_begun()
        if paused:
            self.vm.put("vm.pause")
        self.vm.put("vm.send-migration", {"destination_url": wire.url(wire.outer), "peer_timeout_s": 2, **mode.send})
        h.t.wait_for(lambda: self.vm.process.poll() is not None or len(self.failures()) > before, f"{label}: the end", 30)
        if destination.process.poll() is None and self.n_begun() == begun:
            refusal(destination, "vm.cancel-migration")  # it takes nobody for a source yet
        wire.close()
        receiving.wait()
        if self.vm.process.poll() is not None:
            h.check(receiving.answer == "ok", f"{label}: the destination has the VM")
            self.vm.wait_exit(0, 10)
            destination.use_port("serial", "pty")
            self.vm, self.destination = destination, None
            if paused:
                self.vm.put("vm.resume")
            expect_running(h, self.vm, label)
            return wire, True
        error = self.failures()[-1]
        if "neither here nor there" in error or "until the migration is recovered" in error:
            self.stranded(label, error)
            return wire, False
        if "whether the guest ran there" in error:
            expect_uncertain(h, self.vm, label, error)
            self.vm.put("vm.resume")  # for we know that it never ran there
        elif paused:
            h.check(self.vm.state() == "Paused", f"{label}: the VM is as paused as it was: {error}")
            self.vm.put("vm.resume")
        expect_running(h, self.vm, f"{label}: {error}")
        if destination.process.poll() is None:
            h.check(refusal(destination, "vm.info", method="GET")[0] == 404, f"{label}: nothing is left at the destination")
        else:
            destination.wait_exit(-signal.SIGKILL, 10)
        return wire, False

    def stranded(self, label, error):
        """Memory was to follow: both ends say that it cannot, or not without another connection. The guest is begun anew."""
        h = self.h
        h.check(self.mode.follows, f"{label}: {error}")
        for side in (self.vm, self.destination):
            if side.process.poll() is not None:
                continue
            h.t.wait_for(lambda one=side: "cannot follow" in refusal(one, "vm.resume")[1], f"{label}: the reason why it cannot run")
            h.check(side.state() == ("Paused" if side is self.vm else "Running"), f"{label}: is {side.state()}")
            os.kill(side.process.pid, signal.SIGKILL)
            side.process.wait(10)
        self.destination = None
        self.start()


def cut(_attempts, _data):
    return None


def flip(_attempts, data):
    return bytes((data[0] ^ 0x40,)) + data[1:]


def kill(attempts, _data):
    os.kill(attempts.destination.process.pid, signal.SIGKILL)
    return None


def cancel_source(attempts, data):
    refusal(attempts.vm, "vm.cancel-migration")
    return data


def cancel_destination(attempts, data):
    refusal(attempts.destination, "vm.cancel-migration")
    return data


def documents(types):
    """Where a changed byte is in a document: (records, bytes behind them)."""
    return [(number, more) for number, kind in enumerate(types) for more in (0, 4, 16, 30) if kind != PAGES or more < 30]


def go_wrong_in_records(attempts, rng):
    mode = attempts.mode
    wire, moved = attempts.one("cut at GO", (0, "GO", 0), cut)
    attempts.h.check(not moved, f"{mode.name}: has records {wire.types}")
    types = wire.types[0]
    count = len(types)
    for number in range(count):
        attempts.one(f"cut behind record {number}", (0, number, 0), cut)
    for number in rng.sample(range(count + 1), 2):
        attempts.one(f"cut in the middle of record {number + 1}", (0, number, rng.randrange(1, 4000)), cut)
    for number, more in rng.sample(documents(types), 4):
        attempts.one(f"a bit is changed {more} bytes behind record {number}", (0, number, more), flip)
    pages = [number for number, kind in enumerate(types) if kind == PAGES]
    for number in rng.sample(pages, min(2, len(pages))):
        attempts.one(f"a bit of pages is changed behind record {number}", (0, number, rng.randrange(100, 2000)), flip)
    for number in range(1, mode.n_connections):
        attempts.one(f"cut on connection {number}", (number, rng.randrange(2), rng.randrange(1, 24)), cut)
    for number in rng.sample(range(1, count + 1), 2):
        attempts.one(f"the destination is killed behind record {number}", (0, number, rng.randrange(24)), kill)
    for number in rng.sample(range(1, count + 1), 2):
        attempts.one(f"called off at the source behind record {number}", (0, number, 0), cancel_source)
        attempts.one(f"called off at the destination behind record {number}", (0, number, 0), cancel_destination)
    attempts.one("paused, cut in front of GO", (0, "GO", 0), cut, paused=True)
    attempts.one("paused, called off", (0, "STATE", 0), cancel_source, paused=True)


def go_wrong_in_bytes(attempts, rng):
    """Records cannot be told from each other from outside."""
    wire, moved = attempts.one("nothing is wrong", (0, None, None), cut)
    attempts.h.check(moved, f"{attempts.mode.name}: moves")
    total = wire.bytes[0]
    for count in (0, 1, 300, 1500, *sorted(rng.randrange(2000, total) for _ in range(4)), total - 40):
        attempts.one(f"cut behind {count} of {total} bytes", (0, None, count), cut)
    for count in (600, *sorted(rng.randrange(3000, total) for _ in range(3))):
        attempts.one(f"a bit is changed behind {count} bytes", (0, None, count), flip)
    for action, what in ((kill, "the destination is killed"), (cancel_source, "called off at the source"),
                         (cancel_destination, "called off at the destination")):
        attempts.one(f"{what} behind half of its bytes", (0, None, total // 2), action)
    attempts.one("paused, cut", (0, None, total // 3), cut, paused=True)


@case
def migrate_matrix(h):
    """Each way of migrating goes wrong at each of its steps."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    seed = random.randrange(1 << 30)
    h.report.note(f"seed {seed}")
    for mode in modes(h):
        attempts = Attempts(h, mode, disk)
        (go_wrong_in_records if mode.records else go_wrong_in_bytes)(attempts, random.Random(seed))
        vm = move(h, attempts.vm, f"{mode.name}: after all", kind=mode.kind, receive=mode.receive, **mode.send)
        if mode.follows:
            wait_event(h, vm, "postcopy-migration-completed")
        end_guest(h, vm, mode.name)
        if attempts.destination:
            os.kill(attempts.destination.process.pid, signal.SIGKILL)


@case
def migrate_unheard(h):
    """The destination runs the guest, which writes to its disk there, and dies before the source hears of it. The source has an older
    memory than the disk: it does not run the guest by itself."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    for label, options, receive in (("precopy", {}, {}), ("post-copy", {"memory_mode": "Postcopy"}, {"memory_mode": "Postcopy"})):
        vm = start_guest(h, disk, churn=100)
        destination = start_process(h)

        def go_deaf(data):
            wire.deaf = True  # pylint: disable=cell-var-from-loop
            return data

        wire = Faulty(h, "unix", (0, "GO", 0), go_deaf)
        receiving = Receiving(h, destination, wire.url(wire.inner), **receive)
        last = last_round(vm)
        vm.put("vm.send-migration", {"destination_url": wire.url(wire.outer), **options})
        h.check(receiving.wait() == "ok", f"{label}: the VM is there: {receiving.answer}")
        if not options:  # with post-copy it waits for pages of a source that does not know that it runs
            destination.use_port("serial", "pty")
            later = [int(destination.console.expect("^round ([0-9]+)\n", 30)[1]) for _ in range(3)]
            h.check(later[0] >= last, f"{label}: it goes on there from round {last}: {later}")
        os.kill(destination.process.pid, signal.SIGKILL)
        destination.wait_exit(-signal.SIGKILL, 10)
        error = wait_event(h, vm, "migration-failed")["error"]
        expect_uncertain(h, vm, label, error)
        # Nobody else gets the disk meanwhile, and all that its owner may want works: the next migration, too.
        other = start_process(h)
        receiving = Receiving(h, other, f"unix:{h.t.path('target')}")
        vm.put("vm.send-migration", {"destination_url": f"unix:{h.t.path('target')}"})
        h.check(receiving.wait() == "ok" and other.state() == "Paused", f"{label}: it moves as it is: {receiving.answer}")
        vm.wait_exit(0, 10)
        wire.close()
        for one in ("vm.delete", "vmm.shutdown"):
            other.put(one)
        other.wait_exit(0, 30)


@case
def migrate_lost_lock(h):
    """Somebody takes the disk's lock while neither end has it: neither runs the guest, and the source can when it gets the lock."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = start_guest(h, disk, churn=100)
    destination = start_process(h)
    with open(disk, "r+b") as file:

        def take(data):
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
            return data

        wire = Faulty(h, "unix", (0, "GO", 0), take)
        receiving = Receiving(h, destination, wire.url(wire.inner))
        vm.put("vm.send-migration", {"destination_url": wire.url(wire.outer)})
        h.check("lock" in receiving.wait(), f"the destination cannot run it: {receiving.answer}")
        error = wait_event(h, vm, "migration-failed")["error"]
        h.check("cannot be had again" in error and vm.state() == "Paused", f"nor does the source: {error}")
        status, text = refusal(vm, "vm.resume")
        h.check(status == 409 and "lock" in text and vm.state() == "Paused", f"resume is refused: {status} {text}")
    vm.put("vm.resume")
    expect_running(h, vm, "when the disk is free")
    wire.close()
    destination.put("vmm.shutdown")
    end_guest(h, vm, "lost lock")


def split(image):
    """Where the records of a stream begin."""
    at, found = 0, []
    while at < len(image):
        found.append(at)
        at += HEADER.size + HEADER.unpack_from(image, at)[2]
    return found


@case
def migrate_matrix_file(h):
    """A VM that is written one way: the disk gets full at each size, and of the file something is missing or changed."""
    disk, room = h.t.path("disk.raw"), h.t.path("room")
    make_disk(disk)
    os.mkdir(room)
    h.t.run("mount", "-t", "tmpfs", "-o", "size=16M", "none", room)
    h.t.cleanup(lambda: h.t.run("umount", room))
    vm = start_guest(h, disk, churn=500)
    vm.put("vm.pause")
    last = last_round(vm)
    seed = random.randrange(1 << 30)
    h.report.note(f"seed {seed}")
    rng = random.Random(seed)
    n_failed = n_done = 0

    def write(path, kind):
        with open(path, "wb") as file:
            ask(h, vm, "send-migration", f"destination_url=fd:{file.fileno()},one_way=on,compression={kind}", pass_fds=(file.fileno(),))

    images = {}
    for kind in ("none", "zstd"):
        write(f"{room}/whole", kind)
        n_done += 1
        wait_event(h, vm, "migration-finished", count=n_done)
        with open(f"{room}/whole", "rb") as file:
            images[kind] = file.read()
        os.unlink(f"{room}/whole")
        size = len(images[kind])
        for room_left in (0, 8192, *(rng.randrange(8192, size - 4096) for _ in range(3))):
            left = os.statvfs(room)
            with open(f"{room}/filler", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, left.f_bavail * left.f_frsize - (room_left & ~4095))
            write(f"{room}/image", kind)
            n_failed += 1
            error = wait_event(h, vm, "migration-failed", count=n_failed)["error"]
            h.check("No space left" in error and vm.state() == "Paused", f"{kind}: room for {room_left} of {size} bytes: {error}")
            for name in ("filler", "image"):
                os.unlink(f"{room}/{name}")
    vm.put("vm.resume")
    expect_running(h, vm, "after all")
    vm.put("vm.delete")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 30)

    destination = start_process(h)
    path = f"{room}/image"

    def load(image, status=0):
        with open(path, "wb") as file:
            file.write(image)
        with open(path, "rb") as file:
            return ask(h, destination, "receive-migration", f"receiver_url=fd:{file.fileno()}", pass_fds=(file.fileno(),), status=status)

    for kind, image in images.items():
        starts = split(image)
        for at in (*rng.sample(starts, min(4, len(starts))), *(rng.randrange(len(image)) for _ in range(3)), len(image) - 1):
            text = load(image[:at], status=1)
            h.check("ends before it is complete" in text, f"{kind}: cut behind {at} of {len(image)} bytes: {text.strip()}")
        places = [start + more for start, end in zip(starts, [*starts[1:], len(image)])
                  for more in (0, 4, 16, HEADER.size + 8, end - start - 2, rng.randrange(end - start)) if more < end - start]
        for at in (*rng.sample(places, min(8, len(places))), *(rng.randrange(len(image)) for _ in range(4))):
            text = load(image[:at] + bytes((image[at] ^ 0x20,)) + image[at + 1:], status=1)
            h.check("migration stream" in text or "complete" in text, f"{kind}: a bit is changed at {at}: {text.strip()}")
        h.check(refusal(destination, "vm.info", method="GET")[0] == 404, f"{kind}: nothing is left of them")
    load(images["zstd"])
    destination.use_port("serial", "pty")
    destination.put("vm.resume")
    later = int(destination.console.expect("^round ([0-9]+)\n", 30)[1])
    h.check(last < later <= last + 3, f"the whole one goes on after round {last}: {later}")
    end_guest(h, destination, "from a file")
