# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that move: the processes that they move between, a guest that is busy meanwhile, and how one sees that it goes on."""

import json
import os
import re
import socket
import threading
import time

from harness.context import Failure
from harness.vmm import ApiError
from kit import REMOTE, RESULT

ROUND = re.compile("^round ([0-9]+)\n", re.MULTILINE)


def events(vm):
    """What the event monitor of a process has told: a list of (event, properties)."""
    with open(vm.events_path, encoding="utf-8") as file:
        parts = [part for part in file.read().split("\n\n") if part.strip()]
    found = []
    for part in parts:
        try:
            event = json.loads(part)
        except json.JSONDecodeError:  # is being written
            break
        found.append((event["event"], event["properties"]))
    return found


def wait_event(h, vm, *names, count=1):
    """Waits for the event with one of the names; returns its properties."""
    def there():
        matching = [properties for name, properties in events(vm) if name in names]
        return matching[count - 1] or {"event": True} if len(matching) >= count else None
    return h.t.wait_for(there, f"the event {' or '.join(names)}", 30)


class Receiving:
    """A vm.receive-migration that waits for its answer."""

    READY = "migration-receive-ready"

    def __init__(self, h, vm, url, **options):
        self.vm = vm
        self.options = options
        self.answer = None
        ready = sum(name == self.READY for name, _ in events(vm))
        self.thread = threading.Thread(target=self._ask, args=(url,), daemon=True)
        self.thread.start()
        try:
            wait_event(h, vm, self.READY, count=ready + 1)
        except Failure as failure:
            raise Failure(f"{failure}; vm.receive-migration answers {self.answer}") from None

    def _ask(self, url):
        try:
            self.vm.api("PUT", "vm.receive-migration", {"receiver_url": url, **self.options}, timeout=120)
            self.answer = "ok"
        except ApiError as error:
            self.answer = error.text
        except Exception as error:  # pylint: disable=broad-except  (the thread's only way to tell)
            self.answer = repr(error)

    def wait(self):
        self.thread.join(60)
        return self.answer


def start_process(h, *arguments, serial=None, **more):
    path = h.t.path(f"events-{len(os.listdir(h.t.directory))}")
    # With its process the end of what a guest wrote to a pty would be gone.
    vm = h.t.kumo("--event-monitor", f"path={path}", "--no-shutdown", *arguments, serial=serial, console=None, **more)
    vm.events_path = path
    return vm


def start_guest(h, disk, *, cpus=2, memory_options="", churn=0, options=(), **more):
    line = f"test=snapshot cpus={cpus} max_cpus={cpus} memory_mib=64 wait=1 churn={churn}"
    vm = start_process(h, "--kernel", h.elf, "--cmdline", line, "--cpus", f"boot={cpus}", "--memory", f"size=64M{memory_options}",
                       "--disk", f"path={disk}", *options, serial="pty", **more)
    vm.console.send("s")
    vm.console.expect("^round 2\n", 30)
    return vm


def last_round(vm):
    """The last round that the guest told of and nobody has seen yet; -1: it has told of none since."""
    return int((ROUND.findall(vm.console.drain()) or ["-1"])[-1])


def expect_running(h, vm, label):
    """The guest goes on."""
    text = vm.console.drain()
    last = int((ROUND.findall(text) or [vm.console.expect("^round ([0-9]+)\n", 30)[1]])[-1])
    vm.console.expect(f"^round {last + 3}\n", 30)
    h.check(vm.state() == "Running", f"{label}: the guest runs on")


def expect_uncertain(h, vm, label, error):
    """The destination was told to run the VM and has not answered: the guest does not go on here until its owner says so."""
    h.check("whether the guest ran there" in error and vm.state() == "Paused", f"{label}: the VM stays paused: {error}")
    h.check(vm.api("GET", "vm.migration-progress")["state"] == "Unknown", f"{label}: the progress says so")
    before = last_round(vm)
    time.sleep(0.3)
    h.check(last_round(vm) == before, f"{label}: the guest stands still")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def url_of(h, kind):
    host = {"tcp": "127.0.0.1", "name": "localhost"}.get(kind)
    return f"tcp:{host}:{free_port()}" if host else f"unix:{h.t.path('migration')}"


def move(h, vm, label, kind="unix", receive=None, **options):
    """Moves the VM into a new process, which is returned."""
    url = url_of(h, kind)
    destination = start_process(h)
    receiving = Receiving(h, destination, url, **(receive or {}))
    last = last_round(vm)
    paused = vm.state() == "Paused"
    before = len(events(vm))
    vm.put("vm.send-migration", {"destination_url": url, **options})
    answer = receiving.wait()
    h.check(answer == "ok", f"{label}: vm.receive-migration answers {answer}")
    vm.wait_exit(0, 30)
    names = [name for name, _ in events(vm)[before:]]
    h.check("migration-started" in names and "migration-finished" in names and "migration-failed" not in names,
            f"{label}: the source tells and ends")
    destination.use_port("serial", "pty")
    h.check(destination.state() == ("Paused" if paused else "Running"), f"{label}: the VM is there")
    if paused:
        destination.put("vm.resume")
    later = [int(destination.console.expect("^round ([0-9]+)\n", 30)[1]) for _ in range(3)]
    h.check(last < later[0] and later == list(range(later[0], later[0] + 3)), f"{label}: goes on after round {last}: {later}")
    return destination


def end_guest(h, vm, label):
    vm.console.send("q")
    vm.console.expect(r"^1\.\.\d+\n", 30)
    h.t.wait_for(lambda: vm.state() == "Created", "the guest's end")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 30)
    for word, what in RESULT.findall(vm.console.seen):
        h.check(word == "ok", f"{label}: {what}")
    h.check("Sanitizer" not in vm.log(), f"{label}: kumo ends well")


def refusal(vm, endpoint, body=None, method="PUT"):
    """(status, text) with which a request is refused; (0, "") if it is not."""
    try:
        vm.api(method, endpoint, body)
        return 0, ""
    except ApiError as error:
        return error.status, error.text


def ask(h, vm, *words, pass_fds=(), status=0):
    return h.t.run(REMOTE, "--api-socket", vm.api_path, *words, pass_fds=pass_fds, status=status)
