#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A VMM without a VM, for tests of the libvirt driver.

It takes kumo's command line as the driver writes it, answers the API as kumo does and writes the event stream. Words of the
guest's kernel command line change how it behaves:

    fake.silent=ENDPOINT    never answers that request
    fake.late=ENDPOINT      does what it was asked to, and never answers
    fake.garbage=ENDPOINT   answers it with something that is not HTTP
    fake.refuse=ENDPOINT    answers it with status 400
    fake.die=ENDPOINT       ends while it should answer
    fake.poweroff=SECONDS   the guest powers off that long after it was booted
    fake.reboot=SECONDS     the guest reboots
    fake.crash=SECONDS      the process ends
    fake.deaf               the guest takes no notice of the power button
    fake.keep               the guest lets no device go
    fake.tardy=SECONDS      the events of a pause and of its end come that late
    fake.stubborn           the process takes no notice of SIGTERM
    fake.noise              the event stream has garbage in it
    fake.echo               the serial port's pty says back what it hears
    fake.stream=SECONDS     a stream of the VM takes that long
    fake.short              memory that is read comes without its first byte
    fake.torn               a stream ends with an error
    fake.follows            memory followed the VM to another host when it is asked, and has just come to its end

A program name that ends in -mute, -dead or -deny answers nothing, ends at once, or refuses to be created, before there is a
command line.
"""

import argparse
import array
import base64
import json
import os
import pty
import signal
import socket
import sys
import threading
import time
import tty


class Vm:
    def __init__(self, event_fd):
        self.lock = threading.RLock()
        self.event_fd = event_fd
        self.config = None
        self.state = None
        self.generation = 0
        self.files = []
        self.progress = None
        self.streaming = None

    def emit(self, source, event, properties=None):
        text = json.dumps({"timestamp": {"secs": 1, "nanos": 2}, "source": source, "event": event, "properties": properties}, indent=2)
        os.write(self.event_fd, (text + "\n\n").encode())

    def words(self):
        cmdline = (self.config or {}).get("payload", {}).get("cmdline") or ""
        for word in cmdline.split():
            if word.startswith("fake."):
                key, _, value = word[5:].partition("=")
                yield key, value

    def word(self, wanted):
        return next((value for key, value in self.words() if key == wanted), None)

    def open_pty(self, device):
        section = self.config.get(device) or {}
        if section.get("mode") != "Pty":
            return
        master, slave = pty.openpty()
        tty.setraw(slave)
        section["file"] = os.ttyname(slave)
        self.files += [master, slave]
        if self.word("echo") is not None:
            threading.Thread(target=self.echo, args=(master,), daemon=True).start()

    @staticmethod
    def echo(master):
        while True:
            data = os.read(master, 1024)
            os.write(master, b"echo: " + data)

    def boot(self):
        with self.lock:
            self.state = "Running"
            self.generation += 1
            generation = self.generation
        self.emit("vm", "booting")
        if self.word("noise") is not None:
            os.write(self.event_fd, b"\x00{]not json\n\n{\"source\": 7}\n\n")
        self.emit("vm", "booted")
        for name, action in (("poweroff", self.guest_off), ("reboot", self.guest_reboot), ("crash", lambda: os._exit(3))):
            if self.word(name):
                threading.Thread(target=self.later, args=(float(self.word(name)), generation, action), daemon=True).start()

    def later(self, seconds, generation, action):
        time.sleep(seconds)
        if self.generation == generation:
            action()

    def guest_off(self):
        with self.lock:
            self.state = "Created"
            self.generation += 1
        self.emit("vm", "shutdown")

    def guest_reboot(self):
        self.emit("vm", "rebooting")
        self.emit("vm", "shutdown")
        self.emit("vm", "rebooted")

    def stream(self, finish, event):
        """Ends a stream later, unless it is called off before."""
        self.progress = {"state": "Memory", "iterations": 1, "memory_total_bytes": 1 << 26, "memory_remaining_bytes": 1 << 20,
                         "sent_bytes": 1 << 16, "data_pages": 16, "zero_pages": 7, "bytes_per_second": 1 << 20, "memory_dirty_bytes": 4096}
        self.streaming = threading.Event()
        self.emit("vm", event + "-started")

        def run():
            self.emit("vm", "migration-memory-iteration", {"id": 0})
            cancelled = self.streaming.wait(float(self.word("stream") or 0))
            if cancelled:
                print(f"fake: {event} is called off", file=sys.stderr, flush=True)
            error = "called off" if cancelled else "torn, as asked for" if self.word("torn") is not None else None
            self.streaming = None
            if error is None:
                try:
                    finish()
                except OSError as problem:
                    error = str(problem)
            self.progress["state"] = "Failed" if error else "Finished"
            if error:
                self.emit("vm", event + "-failed", {"error": error})
            else:
                self.emit("vm", event + "-finished")

        threading.Thread(target=run, daemon=True).start()

    def send(self, body, fds):
        if body["destination_url"].startswith("tcp:"):  # to nobody
            self.stream(lambda: None, "migration")
            return 204, None
        if body["destination_url"] != "fd:":
            return 400, [f"destination_url: a fake does not know {body['destination_url']}"]
        config = json.dumps(self.config).encode()

        def write():
            with open(fds[0], "wb") as stream:
                stream.write(b"fake-stream\n" + config)

        self.stream(write, "migration")
        return 204, None

    def receive(self, body, fds):
        if body["receiver_url"].startswith("tcp:"):  # from nobody
            self.config = body["config"]
            self.stream(lambda: None, "migration-receive")
            return 204, None
        if body["receiver_url"] != "fd:":
            return 400, [f"receiver_url: a fake does not know {body['receiver_url']}"]
        self.config = body["config"]

        def read():
            with open(fds[0], "rb") as stream:
                text = stream.read()
            head, _, config = text.partition(b"\n")
            try:
                json.loads(config)
            except ValueError:
                head = None
            if head != b"fake-stream":
                raise OSError("this is no stream")
            self.state = "Paused"
            self.config.setdefault("net", [])
            self.open_pty("serial")
            self.open_pty("console")

        self.stream(read, "migration-receive")
        return 204, None

    def call(self, endpoint, body, fds):
        """Returns (status, JSON value or None)."""
        if endpoint == "vmm.ping":
            return 200, {"build_version": "fake", "version": "fake", "pid": os.getpid(), "features": []}
        if endpoint == "vm.create":
            self.config = {key: value for key, value in body.items() if value is not None}
            for kind in ("net", "disks"):
                self.config.setdefault(kind, [])
            self.state = "Created"
            self.open_pty("serial")
            self.open_pty("console")
            return 204, None
        if endpoint == "vm.receive-migration":
            return self.receive(body, fds)
        if endpoint == "vm.migration-progress" and self.word("follows") is not None:
            self.emit("vm", "migration-finished")
            time.sleep(0.5)
            return 200, {"state": "Postcopy"}
        if endpoint == "vm.migration-progress":
            return (200, self.progress) if self.progress else (404, ["no VM was migrated from here"])
        if endpoint == "vm.cancel-migration":
            if not self.streaming:
                return 404, ["none is under way"]
            self.streaming.set()
            return 204, None
        if self.config is None:
            return 404, ["VM is not created"]
        if endpoint == "vm.send-migration":
            return self.send(body, fds)
        if endpoint == "vm.add-net":
            body["fds"] = len(fds)
            self.config["net"].append(body)
            self.files += fds
            return 204, None
        if endpoint == "vm.remove-device":
            if self.word("keep") is not None:
                self.emit("vm", "device-removal-failed", body)
                return 204, None
            for kind in ("disks", "net"):
                self.config[kind] = [device for device in self.config[kind] if device["id"] != body["id"]]
            self.emit("vm", "device-removed", body)
            return 204, None
        if endpoint == "vm.update-disk" and body.get("write_threshold"):
            number = body["write_threshold"]
            self.emit("virtio-device", "block-threshold", {"id": body["id"], "threshold": number, "excess": 512})
            for error in ("ENOSPC", "EIO"):
                self.emit("virtio-device", "io-error", {"id": body["id"], "operation": "write", "error": error})
            return 204, None
        if endpoint == "vm.add-disk":
            self.config["disks"].append(body)
            return 204, None
        if endpoint in ("vm.update-disk", "vm.update-net", "vm.update-cpus", "vm.update-balloon", "vm.resize-disk", "vm.nmi"):
            return 204, None
        if endpoint == "vm.resize-zone":
            return 204, None
        if endpoint == "vm.resize":
            wanted = body.get("desired_vcpus")
            before = self.config["cpus"]["boot_vcpus"]
            if wanted:
                self.config["cpus"]["boot_vcpus"] = wanted
            for number in range(wanted or 0, before if wanted else 0):
                self.emit("vm", "vcpu-removed", {"id": f"vcpu{number}"})
            return 204, None
        if endpoint == "vm.coredump":
            with open(body["destination_url"].removeprefix("file://"), "xb") as stream:
                stream.write(b"\x7fELF")
            return 204, None
        if endpoint == "vm.read-memory":
            data = bytes((body["address"] + i) // 65536 & 255 for i in range(body["size"]))
            return 200, {"data": base64.b64encode(data if self.word("short") is None else data[1:]).decode()}
        if endpoint == "vm.counters":
            io = {"read_bytes": 512, "read_ops": 1, "write_bytes": 0, "write_ops": 0, "read_latency_avg": 7, "write_latency_avg": 0}
            return 200, {disk["id"]: io for disk in self.config.get("disks") or []}
        if endpoint == "vm.info":
            return 200, {"config": self.config, "state": self.state, "memory_actual_size": 0}
        if endpoint == "vm.boot":
            self.boot()
        elif endpoint in ("vm.pause", "vm.resume"):
            wanted, state, event = {"vm.pause": ("Running", "Paused", "paused"), "vm.resume": ("Paused", "Running", "resumed")}[endpoint]
            if self.state != wanted:
                return 409, [f"VM is {self.state}, not {wanted}"]
            self.state = state
            threading.Timer(float(self.word("tardy") or 0), self.emit, ("vm", event)).start()
        elif endpoint == "vm.reboot":
            self.guest_reboot()
            self.state = "Running"
        elif endpoint == "vm.power-button":
            if self.word("deaf") is None:
                threading.Thread(target=self.later, args=(0.1, self.generation, self.guest_off), daemon=True).start()
        elif endpoint == "vm.shutdown":
            self.guest_off()
        elif endpoint == "vm.delete":
            self.config = self.state = None
        else:
            return 404, [f"no endpoint {endpoint}"]
        return 204, None


def read_request(connection):
    """Returns (endpoint, body, descriptors), or None at the end of the connection."""
    data = b""
    fds = array.array("i")
    while b"\r\n\r\n" not in data:
        chunk, ancillary, _, _ = connection.recvmsg(65536, socket.CMSG_SPACE(64 * 4))
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(content[:len(content) - len(content) % 4])
        if not chunk:
            return None
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    endpoint = lines[0].split(" ")[1].removeprefix("/api/v1/")
    return endpoint, json.loads(body) if body else None, list(fds)


def answer(connection, status, value):
    body = b"" if value is None else json.dumps(value).encode()
    connection.sendall(b"HTTP/1.1 %d Status\r\nServer: fake\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)


def serve(connection, vm, program):
    try:
        serve_requests(connection, vm, program)
    except (ConnectionResetError, BrokenPipeError):
        pass  # a client need not wait for what it no longer wants


def serve_requests(connection, vm, program):
    while (request := read_request(connection)) is not None:
        endpoint, body, fds = request
        if program.endswith("-mute"):
            time.sleep(3600)
        if program.endswith("-deny") and endpoint == "vm.create":
            answer(connection, 400, ["the configuration is not valid", "because it is denied"])
            continue
        if endpoint == "vm.create":
            vm.config = body
        if endpoint == "vm.receive-migration":
            vm.config = body["config"]
        if vm.word("late") == endpoint:  # it does what it was asked to, and does not say so
            vm.call(endpoint, body, fds)
        if endpoint in (vm.word("silent"), vm.word("late")):
            print(f"fake: {endpoint}, and no answer", file=sys.stderr, flush=True)
            time.sleep(3600)
        if vm.word("die") == endpoint:
            print("fake: the end, as asked for", file=sys.stderr, flush=True)
            os._exit(4)
        if vm.word("garbage") == endpoint:
            connection.sendall(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
            return
        if vm.word("refuse") == endpoint:
            answer(connection, 400, [f"{endpoint} refused", "as asked for"])
            continue
        answer(connection, *vm.call(endpoint, body, fds))


def descriptor(text):
    key, _, value = text.partition("=")
    if key != "fd":
        raise argparse.ArgumentTypeError(f"expected fd=N, not {text!r}")
    return int(value)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--api-socket", type=descriptor, required=True)
    parser.add_argument("--event-monitor", type=descriptor, required=True)
    parser.add_argument("--no-shutdown", action="store_true", required=True)
    parser.add_argument("--seccomp", choices=("true", "false", "log", "errno"))
    parser.add_argument("-v", action="count")
    options = parser.parse_args()

    program = os.path.basename(sys.argv[0])
    if program.endswith("-dead"):
        sys.exit("fake: dead on arrival")
    listener = socket.socket(fileno=options.api_socket)
    vm = Vm(options.event_monitor)
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number) if vm.word("stubborn") is None else None)
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve, args=(connection, vm, program), daemon=True).start()


if __name__ == "__main__":
    main()
