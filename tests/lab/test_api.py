# SPDX-License-Identifier: LGPL-2.1-or-later
"""The REST API's life cycle with a stock kernel."""

import os
import re
import time

from harness import ApiError, Kumo, boot, guest, test


def config(kernel, run=None, **sections):
    """A VmConfig as the API takes it."""
    return {
        "payload": {"kernel": guest.kernel(kernel), "initramfs": guest.initramfs(kernel),
                    "cmdline": guest.command_line(run=run)},
        "cpus": {"boot_vcpus": 1, "max_vcpus": 1},
        "memory": {"size": 256 << 20},
        "console": {"mode": "Off"},
        **sections,
    }


def refused(t, vm, endpoint, what):
    try:
        vm.put(endpoint)
    except ApiError as error:
        t.check(400 <= error.status < 600 and error.text, f"{what}: {error}")
        return
    t.check(False, f"{what} was accepted")


@test(timeout=90)
def create_boot_shutdown_delete(t):
    """An empty process is given a VM, runs it, loses it, and is given it again."""
    vm = Kumo(t, serial=None, console=None)
    refused(t, vm, "vm.boot", "boot without a VM")
    serial = t.path("guest.log")
    vm.put("vm.create", config("bookworm-elf", serial={"mode": "File", "file": serial}))
    t.equal(vm.state(), "Created", "state")
    for _ in range(2):
        vm.put("vm.boot")
        t.equal(vm.state(), "Running", "state")
        t.wait_for(lambda: "guest: ready" in open(serial, encoding="utf-8", errors="replace").read(),
                   "the guest's start", 40, every=0.1)
        vm.put("vm.shutdown")
        t.equal(vm.state(), "Created", "state")
        os.truncate(serial, 0)
    vm.put("vm.delete")
    refused(t, vm, "vm.boot", "boot of a deleted VM")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 10)


@test(timeout=60)
def pause_and_resume(t):
    """Paused, the guest does nothing; resumed, it goes on where it was."""
    vm = boot(t, "bookworm-elf", cpus=2)
    vm.ready()
    vm.console.send("while :; do echo tick $((n += 1)); sleep 0.1; done\n")
    vm.console.expect("^tick 5$", 20)
    vm.put("vm.pause")
    t.equal(vm.state(), "Paused", "state")
    time.sleep(0.3)
    quiet = len(vm.console.drain())
    time.sleep(1.5)
    t.equal(len(vm.console.drain()), quiet, "characters from the paused guest")
    last = int(re.findall(r"^tick (\d+)$", vm.console.seen, re.MULTILINE)[-1])
    vm.put("vm.resume")
    t.equal(vm.state(), "Running", "state")
    vm.console.expect(f"^tick {last + 1}$", 10)
    vm.console.expect(f"^tick {last + 5}$", 10)


@test(timeout=90)
def reboot(t):
    """vm.reboot starts the guest afresh in the same process."""
    vm = boot(t, "trixie-elf", cpus=2, serial="file")
    vm.ready()
    vm.put("vm.reboot")
    vm.ready(times=2)
    t.check(vm.process.poll() is None, "kumo ended at the reboot")
    t.equal(vm.state(), "Running", "state")
    vm.put("vm.power-button")
    vm.wait_exit(0, 20)
