# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock kernel's life, told by the two clients that people have at hand: kumo-remote and curl."""

from harness import Kumo, boot, cases, events_of, guest, test
from harness.clients import Curl, Remote
from harness.console import Console

MIB = 1 << 20
SHELL_SECONDS = 30


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


@test(timeout=120)
@cases(what=("memory", "zone"))
def virtio_mem_by_both_clients(t, what):
    """Memory grows and shrinks by either client, while a NIC loses nothing, and a reboot keeps it; each is told by events."""
    t.tap("tap0", "192.168.77.1/24")
    events = t.path("events")
    plain = what == "memory"
    options = [] if plain else ["--memory-zone", "id=mem0,size=256M,hotplug_size=128M"]
    vm = boot(t, "bookworm-elf", *options, "--net", "tap=tap0", "--event-monitor", f"path={events}",
              memory="256M,hotplug_method=virtio-mem,hotplug_size=128M" if plain else "0,hotplug_method=virtio-mem",
              words=("memhp_default_state=online_movable",), run=("facts", "ip:192.168.77.2/24"))
    vm.ready()
    vm.shell("ping -i 0.5 192.168.77.1 >/ping 2>&1 & :")
    before = int(vm.facts()["memory"].split()[0])
    total = "$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)"
    remote, curl = Remote(t, vm), Curl(t, vm)
    steps = ((remote, 384), (curl, 288), (curl, 384), (remote, 256), (curl, 320))
    for client, mib in steps:
        if plain:
            client.resize(ram=mib * MIB)
        else:
            client.resize_zone("mem0", mib * MIB)
        t.wait_for(lambda: client.query("info")["memory_actual_size"] == mib * MIB, f"memory_actual_size to be {mib} MiB", 40, every=0.1)
        low, high = before + (mib - 256) * 1024 - 8192, before + (mib - 256) * 1024 + 8192
        vm.shell(f"until [ {total} -ge {low} ] && [ {total} -le {high} ]; do sleep 0.1; done", 30)
    vm.shell("killall -INT ping")
    loss = vm.shell("until grep loss /ping; do sleep 0.1; done")
    t.equal(guest.lost_echoes(loss), 0, f"echoes lost meanwhile, {loss.strip()}")
    t.equal((len(events_of(events, "resizing")), len(events_of(events, "resized"))), (len(steps),) * 2, "events of resizing")
    t.equal(events_of(events, "reset"), [], "events of devices that were reset")
    activated = len(events_of(events, "activated"))
    vm.shell("nic=$(basename $(readlink /sys/class/net/eth0/device)); cd /sys/bus/virtio/drivers/virtio_net && echo $nic >unbind && echo $nic >bind")
    t.equal(events_of(events, "reset"), [{"id": "_net0"}], "events of devices that were reset")
    t.equal(events_of(events, "activated")[activated:], [{"id": "_net0"}], "events of devices that were used again")
    vm.console.send("/init reboot\n")
    vm.ready(times=2)
    t.wait_for(lambda: vm.info()["memory_actual_size"] == 320 * MIB, "the size to be the same after the reboot", 40, every=0.1)
