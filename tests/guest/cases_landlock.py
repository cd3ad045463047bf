# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of processes that can open what their VM needs, and no other file."""

import os
import shutil
import stat

import moving
from cases_snapshot import bring_back, expect_rounds, refusal, take
from harness.certificates import Authority
from kit import case, make_disk

HINT = "Landlock is in force"


def directories(h):
    """Two directories with a disk each: one that rules are made for, one that none is made for."""
    paths = h.t.path("permitted"), h.t.path("forbidden")
    for path in paths:
        os.mkdir(path)
        make_disk(f"{path}/disk.raw")
    return paths


def rules(*paths):
    return "--landlock", "--landlock-rules", *(f"path={path},access=rw" for path in paths)


def refused(h, function, *words, label):
    message = refusal(function)
    h.check(message and HINT in message and all(word in message for word in words), f"{label}: {message}")


@case
def landlock(h):
    """Boot, hotplug, reboot, another boot; and what belongs to others stays closed."""
    permitted, forbidden = directories(h)
    vm = h.start("hotplug", "--debug-console", f"file={h.t.path('debug')}", *rules(permitted), cpus=2, talk=True)
    vm.console.expect("^ready", 20)
    config = vm.info()["config"]
    h.check(config["landlock_enable"] is True and config["landlock_rules"] == [{"path": permitted, "access": "rw"}], "vm.info tells of it")

    answer = vm.put("vm.add-disk", {"path": f"{permitted}/disk.raw", "id": "hot"})
    vm.console.send("c")
    slot = int(vm.console.expect(r"^came slot (\d+);", 30)[1])
    h.check(answer["bdf"] == f"0000:00:{slot:02x}.0", "a disk below a permitted directory is added, and the guest reads it")
    vm.put("vm.resize-disk", {"id": "hot", "desired_size": 8 << 20})
    vm.console.send("r")
    h.check(int(vm.console.expect(r"^sectors (\d+);", 30)[1]) == (8 << 20) // 512, "and gets another size")
    for path in (f"{forbidden}/disk.raw", "/etc/passwd"):
        refused(h, lambda: vm.put("vm.add-disk", {"path": path, "id": "other", "readonly": True}), path, label="another disk is refused")
    refused(h, lambda: vm.put("vm.add-net", {"tap": "tap-landlock"}), "/dev/net/tun", label="a NIC is refused, since there was none at first")
    h.check(set(vm.info()["device_tree"]) >= {"hot"} and "other" not in vm.info()["device_tree"], "what is refused is not there")
    vm.put("vm.pause")
    refused(h, lambda: vm.put("vm.snapshot", {"destination_url": f"file://{forbidden}"}), forbidden, label="a snapshot elsewhere is refused")
    refused(h, lambda: vm.put("vm.coredump", {"destination_url": f"file://{forbidden}/core"}), forbidden, label="a core dump elsewhere is refused")
    h.check(os.listdir(forbidden) == ["disk.raw"], "nothing is left there")
    vm.put("vm.coredump", {"destination_url": f"file://{permitted}/core"})
    vm.put("vm.resume")

    vm.put("vm.reboot")
    vm.console.expect("waiting$", 30)
    vm.console.send("s")
    vm.console.expect("^ready", 30)
    h.check("hot" in vm.info()["device_tree"], "after a reboot the disk is there again")
    vm.put("vm.shutdown")
    vm.put("vm.boot")
    socket_path = vm.port_path("serial")
    h.check(vm.state() == "Running" and stat.S_ISSOCK(os.stat(socket_path).st_mode), "after a shutdown it boots again, with its socket")

    # The next VM has the rules of both.
    vm.put("vm.delete")
    config = vm_config(h, f"{permitted}/disk.raw")
    vm.put("vm.create", config)
    vm.put("vm.boot")
    h.check(vm.state() == "Running", "another VM of the same files")
    vm.put("vm.delete")
    vm.put("vm.create", {**config, "disks": [{"path": f"{forbidden}/disk.raw"}]})
    refused(h, lambda: vm.put("vm.boot"), f"{forbidden}/disk.raw", label="one of others is refused")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
    left = [path for path in (socket_path, vm.api_path, f"{vm.api_path}.lock") if os.path.exists(path)]
    h.check(not left, f"no socket and no lock is left behind: {left}")


def vm_config(h, disk):
    return {"payload": {"kernel": h.elf, "cmdline": "test=power wait=1"}, "memory": {"size": 64 << 20}, "disks": [{"path": disk}],
            "serial": {"mode": "Null"}, "console": {"mode": "Off"}, "landlock_enable": True}


@case
def landlock_create(h):
    """What is wrong with it, by the API; and rules without it have no effect."""
    permitted, forbidden = directories(h)
    vm = h.t.kumo(serial=None, console=None)
    config = vm_config(h, f"{permitted}/disk.raw")
    for rule, word in (({"path": h.t.path("nowhere"), "access": "r"}, "landlock_rules[1].path"), ({"path": permitted, "access": "x"}, "landlock_rules[1].access"),
                       ({"access": "r"}, "landlock_rules[1].path"), ({"path": permitted}, "landlock_rules[1].access"),
                       ({"path": permitted, "access": "rw", "mode": 1}, "mode")):
        message = refusal(lambda: vm.put("vm.create", {**config, "landlock_rules": [{"path": permitted, "access": "r"}, rule]}))
        h.check(message and word in message, f"{rule} is refused: {message}")
    vm.put("vm.create", {**config, "landlock_enable": False, "landlock_rules": [{"path": permitted, "access": "r"}]})
    vm.put("vm.add-disk", {"path": f"{forbidden}/disk.raw"})
    vm.put("vm.boot")
    h.check("landlock_rules have no effect" in vm.log() and vm.state() == "Running", "rules alone have no effect, which is told")
    vm.put("vm.delete")
    vm.put("vm.create", {**config, "serial": {"mode": "Pty"}})
    os.unlink(f"{permitted}/disk.raw")
    make_disk(f"{permitted}/disk.raw")
    refused(h, lambda: vm.put("vm.boot"), f"{permitted}/disk.raw", label="a file that has taken the place of the VM's is another one")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)


def expect_confined(h, vm, forbidden, label):
    refused(h, lambda: vm.put("vm.add-disk", {"path": f"{forbidden}/disk.raw"}), forbidden, label=f"{label}: another disk is refused")


@case
def landlock_moves(h):
    """Snapshots, restores by both modes, migrations by every way: at the end of each the VM is confined again."""
    permitted, forbidden = directories(h)
    disk = h.t.path("disk.raw")
    make_disk(disk)
    authority = Authority(h.t, "authority")
    client, server = authority.directory("client", "client"), authority.directory("server", "server")
    vm = moving.start_guest(h, disk, churn=1000, options=rules(permitted, client))
    expect_confined(h, vm, forbidden, "booted")
    for mode in ("copy", "ondemand"):
        directory, last = take(h, vm, f"permitted/{mode}")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
        # Only the process that comes back has the rules of the first.
        copy = h.t.path(f"copy-{mode}")
        shutil.copytree(directory, copy)
        vm = bring_back(h, copy, f"resume=on,memory_restore_mode={mode}")
        expect_rounds(h, vm, last, f"{mode}: restored")
        expect_confined(h, vm, forbidden, f"{mode}: restored")
        if mode == "ondemand":
            moving.wait_event(h, vm, "memory-restored")
    vm = moving.move(h, vm, "by UNIX socket")
    expect_confined(h, vm, forbidden, "by UNIX socket")
    h.check(not os.path.exists(h.t.path("migration")), "the socket is gone that it came by")
    vm = moving.move(h, vm, "by TCP, three connections", kind="tcp", connections=3)
    expect_confined(h, vm, forbidden, "by TCP")
    vm = moving.move(h, vm, "by TLS", kind="tcp", receive={"tls_dir": server}, tls_dir=client)
    expect_confined(h, vm, forbidden, "by TLS")
    vm = moving.move(h, vm, "with memory that follows", receive={"memory_mode": "Postcopy"}, memory_mode="Postcopy")
    expect_confined(h, vm, forbidden, "with memory that follows")
    vm.put("vm.reboot")
    vm.console.expect("waiting$", 30)
    vm.console.send("s")
    vm.console.expect("^round 5\n", 30)
    h.check(True, "it reboots from the kernel of the beginning")
    moving.end_guest(h, vm, "moved")
