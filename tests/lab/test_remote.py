# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock kernel's life, told by the two clients that people have at hand: kumo-remote and curl."""

import json

from harness import Kumo, cases, guest, test
from harness.console import Console

MIB = 1 << 20
SHELL_SECONDS = 30


class Remote:
    """kumo-remote, by its sub-commands and option strings."""

    def __init__(self, t, vm):
        self.t = t
        self.command = ("kumo-remote", "--api-socket", vm.api_path)

    def ask(self, *words, status=0):
        return self.t.run(*self.command, *words, status=status)

    def simple(self, name):
        return self.ask(name)

    def create(self, config):
        path = self.t.path("vm.json")
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(config, stream)
        self.ask("create", path)

    def query(self, name):
        return json.loads(self.ask(name))

    def add_disk(self, path):
        return json.loads(self.ask("add-disk", f"path={path},id=extra"))

    def add_net(self, tap):
        return json.loads(self.ask("add-net", f"tap={tap},id=second"))

    def remove(self, device):
        self.ask("remove-device", device)

    def resize(self, vcpus=None, ram=None, wrong=False):
        words = (["--cpus", str(vcpus)] if vcpus is not None else []) + (["--memory", str(ram)] if ram is not None else [])
        return self.ask("resize", *words, status=1 if wrong else 0)


class Curl:
    """curl on the UNIX socket, by endpoints and JSON."""

    def __init__(self, t, vm):
        self.t = t
        self.command = ("curl", "--silent", "--show-error", "--unix-socket", vm.api_path)

    def ask(self, method, endpoint, body=None, wrong=False):
        words = [] if body is None else ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        text = self.t.run(*self.command, "--request", method, "--write-out", "\n%{http_code}", *words,
                          f"http://localhost/api/v1/{endpoint}")
        answer, _, status = text.rpartition("\n")
        self.t.check(status.startswith("4" if wrong else "2"), f"{method} {endpoint} {body}: {status} {answer}")
        return answer

    def simple(self, name):
        return self.ask("PUT", f"vm.{name}")

    def create(self, config):
        self.ask("PUT", "vm.create", config)

    def query(self, name):
        return json.loads(self.ask("GET", "vmm.ping" if name == "ping" else f"vm.{name}"))

    def add_disk(self, path):
        return json.loads(self.ask("PUT", "vm.add-disk", {"path": path, "id": "extra"}))

    def add_net(self, tap):
        return json.loads(self.ask("PUT", "vm.add-net", {"tap": tap, "id": "second"}))

    def remove(self, device):
        self.ask("PUT", "vm.remove-device", {"id": device})

    def resize(self, vcpus=None, ram=None, wrong=False):
        wanted = {"desired_vcpus": vcpus, "desired_ram": ram}
        return self.ask("PUT", "vm.resize", {key: value for key, value in wanted.items() if value is not None}, wrong)


@test(timeout=120)
@cases(client=("kumo-remote", "curl"))
def manages_a_guest(t, client):
    """Create, boot, add and remove a disk and a NIC, more and fewer CPUs, more memory, pause, resume, counters, the power
    button: each seen by the guest."""
    t.tap("tap0")
    vm = Kumo(t, serial=None, console=None)
    serial = t.path("serial.socket")
    remote = {"kumo-remote": Remote, "curl": Curl}[client](t, vm)
    t.check(remote.query("ping")["version"], "no version")
    remote.create({
        "payload": {"kernel": guest.kernel("bookworm-elf"), "initramfs": guest.initramfs("bookworm-elf"),
                    "cmdline": guest.command_line()},
        "cpus": {"boot_vcpus": 1, "max_vcpus": 2},
        "memory": {"size": 256 * MIB, "hotplug_size": 256 * MIB},
        "serial": {"mode": "Socket", "socket": serial}, "console": {"mode": "Off"},
    })
    t.equal(remote.query("info")["state"], "Created", "state")
    remote.simple("boot")
    vm.use_console(Console.from_socket(serial, t.path("serial.log")))
    vm.ready()

    extra = t.path("extra.raw")
    with open(extra, "wb") as stream:
        stream.truncate(MIB)
    disk, net = remote.add_disk(extra), remote.add_net("tap0")
    t.equal((disk["id"], net["id"]), ("extra", "second"), "ids")
    vm.shell("until [ -e /dev/vda ] && [ -e /sys/class/net/eth0 ]; do sleep 0.1; done", SHELL_SECONDS)
    t.check(remote.query("counters")["extra"], "the disk counts nothing")
    for device in ("extra", "second"):
        remote.remove(device)
    vm.shell("until [ ! -e /dev/vda ] && [ ! -e /sys/class/net/eth0 ]; do sleep 0.1; done", SHELL_SECONDS)

    remote.resize(vcpus=2)
    vm.shell("until echo 1 >/sys/devices/system/cpu/cpu1/online; do sleep 0.1; done 2>/dev/null; taskset 2 true", SHELL_SECONDS)
    remote.resize(vcpus=1)
    vm.shell("while [ -e /sys/devices/system/cpu/cpu1 ]; do sleep 0.1; done", SHELL_SECONDS)
    vm.shell("echo online >/sys/devices/system/memory/auto_online_blocks")
    remote.resize(ram=384 * MIB)
    vm.shell("until [ $(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo) -gt 300000 ]; do sleep 0.1; done", SHELL_SECONDS)
    t.equal(remote.query("info")["memory_actual_size"], 384 * MIB, "memory in vm.info")
    for wrong in ({"vcpus": 3}, {"vcpus": 0}, {"ram": 385 * MIB}, {"ram": 1024 * MIB}):
        remote.resize(**wrong, wrong=True)

    remote.simple("pause")
    t.equal(remote.query("info")["state"], "Paused", "state")
    remote.simple("resume")
    vm.shell("true")
    remote.simple("power-button")
    vm.wait_exit(0, 30)
