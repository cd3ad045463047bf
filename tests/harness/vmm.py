# SPDX-License-Identifier: LGPL-2.1-or-later
"""The process `kumo` and its REST API."""

import collections
import json
import os
import re
import socket
import subprocess
import time

from . import guest
from .console import Console
from .context import PATIENCE, Failure
from .guest import Facts


class ApiError(Exception):
    """The API answered with a status other than 2xx."""

    def __init__(self, request, status, body):
        self.status = status
        self.causes = json.loads(body) if body.startswith("[") else [body]
        self.text = ": ".join(self.causes)
        super().__init__(f"{request}: HTTP status {status}: {self.text}")


def api_request(path, method, endpoint, body=None, timeout=30.0):
    """One request to the API socket PATH. Returns the decoded JSON body, or None for an empty one."""
    payload = b"" if body is None else json.dumps(body).encode()
    head = f"{method} /api/v1/{endpoint} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n"
    if payload:
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout * PATIENCE)
        connection.connect(path)
        connection.sendall(head.encode() + b"\r\n" + payload)
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                raise Failure(f"{method} {endpoint}: the connection ended before the answer: {data!r}")
            data += part
        header, _, rest = data.partition(b"\r\n\r\n")
        lines = header.decode().split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = 0 if method == "HEAD" else int(fields.get("content-length", "0"))
        while len(rest) < length:
            part = connection.recv(65536)
            if not part:
                raise Failure(f"{method} {endpoint}: the connection ended in the body")
            rest += part
    status = int(lines[0].split()[1])
    text = rest[:length].decode()
    if not 200 <= status < 300:
        raise ApiError(f"{method} {endpoint}", status, text)
    return json.loads(text) if text else None


def events_of(path, name):
    """The properties of the events NAME that --event-monitor wrote to the file PATH."""
    with open(path, encoding="utf-8") as stream:
        found = [json.loads(text) for text in stream.read().split("\n\n") if text.strip()]
    return [event["properties"] for event in found if event["event"] == name]


class Kumo:
    """A running kumo, with an API socket if API is true, its standard output and error in kumo-N.log of the test's directory.

    serial: where the serial port goes: "pty", "socket" (both give .console to talk to), "file" (.text() reads it),
    another option string as it is, or None for no such option. console: the same for virtio-console.
    """

    def __init__(self, context, *arguments, serial="socket", console="off", api=True, **options):
        self.context = context
        number = sum(name.startswith("kumo-") and name.endswith(".log") for name in os.listdir(context.directory))
        self.name = f"kumo-{number}"
        self.api_path = context.path(f"{self.name}.api")
        self._consoles = {}
        self._ports = {"serial": serial, "console": console}
        command = ["kumo", *(["--api-socket", self.api_path] if api else []), *map(str, arguments)]
        for port, mode in self._ports.items():
            if mode is not None:
                command += [f"--{port}", self._mode(port, mode)]
        self.process = context.start(*command, name=self.name, **options)
        if api:
            self.wait_api()

    def _mode(self, port, mode):
        if mode in ("socket", "file"):
            return f"{mode}={self.port_path(port)}"
        return mode

    def port_path(self, port):
        suffix = "log" if self._ports[port] == "file" else "socket"
        return self.context.path(f"{self.name}-{port}.{suffix}")

    def wait_api(self, seconds=20.0):
        """Waits until the API answers."""
        seconds *= PATIENCE
        end = time.monotonic() + seconds
        while True:
            try:
                return self.api("GET", "vmm.ping")
            except (FileNotFoundError, ConnectionRefusedError):
                if self.process.poll() is not None:
                    raise Failure(f"kumo ended with status {self.process.returncode} before its API was there") from None
                if time.monotonic() > end:
                    raise Failure(f"no API socket after {seconds:g} s") from None
                time.sleep(0.01)

    def api(self, method, endpoint, body=None, timeout=30.0):
        return api_request(self.api_path, method, endpoint, body, timeout)

    def put(self, endpoint, body=None):
        return self.api("PUT", endpoint, body)

    def info(self):
        return self.api("GET", "vm.info")

    def state(self):
        return self.info()["state"]

    def port(self, port="serial"):
        """The Console of a port in mode pty or socket."""
        if port not in self._consoles:
            log = self.context.path(f"{self.name}-{port}.log")
            if self._ports[port] == "pty":
                path = self.info()["config"][port]["file"]
                console = Console.from_path(path, log)
            else:
                path = self.port_path(port)
                self.context.wait_for(lambda: os.path.exists(path), f"socket {path}")
                console = Console.from_socket(path, log)
            self._consoles[port] = console
            self.context.cleanup(console.close)
        return self._consoles[port]

    @property
    def console(self):
        """The Console of the first port that can be talked to."""
        for port, mode in self._ports.items():
            if mode in ("pty", "socket"):
                return self.port(port)
        raise ValueError("neither port is a pty or a socket")

    def use_console(self, console):
        """Lets .console be one of another process that this one goes on for."""
        self._ports["serial"] = "socket"
        self._consoles["serial"] = console

    def use_port(self, port, mode):
        """Says where a port goes that came with a VM from another process."""
        self._ports[port] = mode

    def text(self, port="serial"):
        """All that came from a port until now."""
        if self._ports[port] == "file":
            with open(self.port_path(port), encoding="utf-8", errors="replace") as stream:
                return stream.read().replace("\r", "")
        return self.port(port).drain()

    def facts(self, port="serial"):
        return Facts(self.text(port))

    def ready(self, seconds=60.0, times=1, port="serial"):
        """Waits for the guest's last start-up line, TIMES of them in all; returns its facts."""
        def count():
            return len(re.findall(r"^guest: ready", self.text(port), re.MULTILINE)) >= times

        self.context.wait_for(lambda: self.process.poll() is not None or count(), "the guest's start", seconds, every=0.05)
        if not count():
            raise Failure(f"kumo ended with status {self.process.returncode} before the guest had started")
        return self.facts(port)

    def shell(self, command, seconds=20.0):
        """Runs a command in the guest's shell; returns its output, or fails with it when the status is not 0."""
        # Quotation marks keep the marks apart from the shell's echo of what is typed.
        self.console.send(f'echo "begin"=; {command}; echo "status"=$?=\n')
        start = self.console.expect(r"^begin=$", seconds).end()
        match = self.console.expect(r"^status=(\d+)=$", seconds)
        output = self.console.seen[start:match.start()].lstrip("\n")
        if match[1] != "0":
            raise Failure(f"in the guest: {command}: status {match[1]}: {output}")
        return output

    def wait_exit(self, status=0, seconds=30.0):
        """Waits for the process to end by itself."""
        seconds *= PATIENCE
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            # A guest that writes must not stall because nobody reads.
            for console in self._consoles.values():
                console.drain()
            if time.monotonic() > end:
                raise Failure(f"kumo has not ended after {seconds:g} s")
            time.sleep(0.02)
        for console in self._consoles.values():
            console.drain()
        if status is not None and self.process.returncode != status:
            raise Failure(f"kumo ended with status {self.process.returncode}, expected {status}")

    def footprint(self):
        """What the process holds: descriptors by what they are, number of threads, number of mappings."""
        base = f"/proc/{self.process.pid}"
        descriptors = []
        for name in os.listdir(f"{base}/fd"):
            try:
                descriptors.append(re.sub(r"\d+", "N", os.readlink(f"{base}/fd/{name}")))
            except FileNotFoundError:
                pass
        with open(f"{base}/maps", encoding="utf-8") as maps:
            mappings = [line.split(maxsplit=5)[5:] for line in maps]
        # AddressSanitizer maps memory of its own for every size and thread, and leaves holes in it: then those of files count.
        if any("libasan" in name[0] for name in mappings if name):
            mappings = [name for name in mappings if name]
        return {"fds": sorted(descriptors), "threads": len(os.listdir(f"{base}/task")), "mappings": len(mappings)}

    def wait_no_more_than(self, before, seconds=10.0):
        """Waits until the process holds nothing that it did not hold in an earlier footprint(); a connection of the API
        may take a moment to end. A mapping or two may come and go with the allocator."""
        def excess():
            now = self.footprint()
            return {"fds": collections.Counter(now["fds"]) - collections.Counter(before["fds"]),
                    "threads": max(0, now["threads"] - before["threads"]),
                    "mappings": max(0, now["mappings"] - before["mappings"] - 2)}

        try:
            self.context.wait_for(lambda: not any(excess().values()), "everything to be given back", seconds, every=0.1)
        except Failure as failure:
            raise Failure(f"{failure}: {excess()} more than before") from None

    def log(self):
        """What kumo printed."""
        with open(self.context.path(f"{self.name}.log"), encoding="utf-8", errors="replace") as stream:
            return stream.read()


def boot(context, kernel, *arguments, cpus=1, memory="256M", words=(), run=None, tty="ttyS0", **options):
    """Starts kumo with a stock kernel and its initramfs. WORDS and RUN go to the kernel command line."""
    return Kumo(context, "--kernel", guest.kernel(kernel), "--initramfs", guest.initramfs(kernel),
                "--cmdline", guest.command_line(*words, run=run, console=tty), "--cpus", f"boot={cpus}",
                "--memory", f"size={memory}", *arguments, **options)


def run_kumo(context, *arguments, timeout=20):
    """Runs kumo to its end. Returns (status, text of stdout and stderr)."""
    done = subprocess.run(["kumo", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=timeout * PATIENCE, check=False, cwd=context.directory)
    return done.returncode, done.stdout.decode(errors="replace")
