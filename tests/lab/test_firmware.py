# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole Debian from its disk, by the way it goes on any PC: UEFI firmware, GRUB, kernel, systemd; and what is done to it from outside
while it runs."""

import re
import signal

from harness import Kumo, events_of, guest, test
from harness.clients import Curl, Remote

MIB, GIB = 1 << 20, 1 << 30
NIC = "$(ls /sys/class/net | grep -v '^lo$')"
MEMORY = "$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)"


def log_in(vm):
    vm.console.expect(r"Welcome to GRUB", 60)
    vm.console.expect(r"kumo-guest login: ", 150)
    print("# Debian is up", flush=True)  # a machine of the lab that says nothing for long is taken for dead
    vm.console.send("root\n")
    vm.console.expect(r"# ", 30)
    # A shell and a terminal without decorations.
    vm.console.send("exec env TERM=dumb sh\n")
    vm.console.expect(r"# ", 30)
    vm.console.send("PS1=\n")


def check_debian(t, vm):
    t.equal(vm.shell("systemctl is-system-running --wait || systemctl --failed --plain --no-legend", 60).strip(), "running",
            "what systemd says of itself, and failed units")
    vm.shell("grep -q 'VERSION_CODENAME=bookworm' /etc/os-release")
    vm.shell("test -d /sys/firmware/efi")
    t.equal(vm.shell("cat /sys/class/dmi/id/sys_vendor").strip(), "Cloud Hypervisor", "the maker that SMBIOS names")
    t.equal(vm.shell("findmnt -n -o SOURCE /").strip(), "/dev/vda2", "root file system")


def wait_vcpus(vm, number):
    """The guest is left with NUMBER vCPUs; those that came are brought online, as docs/hotplug.md of Cloud Hypervisor does it."""
    vm.shell(f"until [ $(ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l) = {number} ]; do sleep 0.2; done; "
             "for cpu in /sys/devices/system/cpu/cpu[1-9]*; do [ ! -e $cpu ] || [ $(cat $cpu/online) = 1 ] || echo 1 >$cpu/online; done; "
             f"[ $(nproc) = {number} ]", 40)


def resize_all(t, vm, disk, events):
    """vCPUs, memory and a disk, up and down by each client. Returns how many requests to resize the VM that took."""
    remote, curl = Remote(t, vm), Curl(t, vm)
    for client, vcpus, removed in ((remote, 3, 0), (curl, 1, 2), (curl, 4, 2), (remote, 2, 4)):
        client.resize(vcpus=vcpus)
        wait_vcpus(vm, vcpus)
        t.wait_for(lambda: len(events_of(events, "vcpu-removed")) == removed, f"{removed} events of vCPUs that went", 20)
        t.equal(client.query("info")["config"]["cpus"]["boot_vcpus"], vcpus, "vCPUs in vm.info")
    vm.shell("echo online >/sys/devices/system/memory/auto_online_blocks")
    for client, mib in ((remote, 1024), (curl, 1280)):
        before = int(vm.shell(f"echo {MEMORY}"))
        old = client.query("info")["memory_actual_size"]
        client.resize(ram=mib * MIB)
        vm.shell(f"until [ {MEMORY} -ge {before + (mib * MIB - old) // 1024} ]; do sleep 0.2; done", 40)
        t.equal(client.query("info")["memory_actual_size"], mib * MIB, "memory in vm.info")
    curl.resize(ram=1024 * MIB)  # by ACPI nothing is taken away from a guest that runs; the next boot has less
    for client, size in ((remote, 24 * MIB), (curl, 16 * MIB)):
        client.resize_disk(disk, size)
        vm.shell(f"until [ $(cat /sys/block/vdb/size) = {size // 512} ]; do sleep 0.2; done", 30)
    for client in (remote, curl):
        for wrong in ({"vcpus": 5}, {"vcpus": 0}, {"ram": 1281 * MIB}, {"ram": 4 * GIB}):
            client.resize(**wrong, wrong=True)
    return 7


@test(timeout=300)
def debian_boots_from_its_disk(t):
    """EDK2's firmware for Cloud Hypervisor finds the EFI system partition; systemd comes up without a failed unit. While the host's
    echoes get through, vCPUs, memory and a disk are resized by kumo-remote and by curl. The power button brings Debian down."""
    t.network()
    disk, second, events = guest.debian_disk(t.path("debian.raw")), t.path("ubuntu-cloudinit.img"), t.path("events")
    with open(second, "wb") as file:
        file.truncate(8 * MIB)
    # The command of Cloud Hypervisor's README, with room to grow.
    vm = Kumo(t, "--kernel", guest.firmware(), "--disk", f"path={disk}", f"path={second}", "--cpus", "boot=1,max=4",
              "--memory", "size=768M,hotplug_size=1G", "--net", "tap=,mac=,ip=192.168.77.1,mask=255.255.255.0",
              "--event-monitor", f"path={events}")
    log_in(vm)
    check_debian(t, vm)
    vm.shell(f"ip link set {NIC} up && ip address add 192.168.77.2/24 dev {NIC}")
    t.run("ping", "-c", "1", "-W", "5", "192.168.77.2")
    ping = t.start("ping", "-i", "0.5", "192.168.77.2", name="ping")
    requests = resize_all(t, vm, "_disk1", events)
    ping.send_signal(signal.SIGINT)
    ping.wait()
    with open(t.path("ping.log"), encoding="utf-8") as log:
        summary = re.search(r"(\d+) packets transmitted, (\d+) received", log.read())
    t.check(int(summary[1]) >= 20 and int(summary[2]) >= int(summary[1]) - 1, f"echoes while Debian was resized: {summary[0]}")
    t.equal((len(events_of(events, "resizing")), len(events_of(events, "resized"))), (requests, requests), "events of resizing")
    # The firmware has used the disk before the kernel did, and has reset it then.
    t.check({"id": "_disk0"} in events_of(events, "reset"), "no event tells that the firmware has reset its disk")
    vm.put("vm.power-button")
    vm.wait_exit(0, 60)
