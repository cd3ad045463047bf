#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Boots the test guest in kumo and reports what it says: host.py KUMO GUEST.elf CASE [--tap].

A case is one function below, or in cases_*.py. It boots the guest once or more; each line of TAP that a guest prints becomes one line of
this program's, and so does each check that the host makes.
"""

import ast
import collections
import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from harness.context import Context, Failure, Skip  # noqa: E402  (the path to it is set above)
from harness.net import ip  # noqa: E402
from harness.pattern import pattern  # noqa: E402
from harness.vmm import ApiError  # noqa: E402
from kit import CASES, DISK_BYTES, REMOTE, RESULT, Host, Report, case, make_disk, open_tap, restore, snapshot_directory, thread_names  # noqa: E402
import cases_console  # noqa: E402,F401  (these add their cases)
import cases_documents  # noqa: E402,F401
import cases_faults  # noqa: E402,F401
import cases_golden  # noqa: E402,F401
import cases_hotplug  # noqa: E402,F401
import cases_landlock  # noqa: E402,F401
import cases_migration  # noqa: E402,F401
import cases_matrix  # noqa: E402,F401
import cases_postcopy  # noqa: E402,F401
import cases_snapshot  # noqa: E402,F401
import cases_stuck  # noqa: E402,F401


# linux/kvm.h, linux/prctl.h
KVM_CHECK_EXTENSION, KVM_CAP_HYPERV = 0xae03, 44
PR_SCHED_CORE, PR_SCHED_CORE_GET, PR_SCHED_CORE_SCOPE_THREAD = 62, 0, 0


@case
def boot(h):
    initramfs = h.t.path("initramfs")
    content = bytes((i * 7 + i // 256) & 0xff for i in range(5000))
    with open(initramfs, "wb") as file:
        file.write(content)
    h.run("1 vCPU, 64 MiB, initramfs", "boot", "--initramfs", initramfs, words=[f"initramfs={len(content)}"])
    h.run("4 of 6 vCPUs, 4 GiB", "boot", "--platform", "system_serial_number=guest-serial", cpus=4, max_cpus=6, memory_mib=4096,
          words=["smbios_serial=guest-serial"])
    for offset in (0, -86400 * 366, 5 * 3600 + 1800):
        h.run(f"a clock {offset} s ahead", "boot", "--platform", f"rtc_offset={offset}", words=[f"epoch={int(time.time()) + offset}"])


def need_hyperv(h):
    with open("/dev/kvm", "rb") as kvm:
        if fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_HYPERV) <= 0:
            h.t.skip("this host's KVM lacks KVM_CAP_HYPERV")


@case
def hyperv(h):
    need_hyperv(h)
    h.run("hyperv", "hyperv", cpu_options=",kvm_hyperv=on")


@case
def pm1a(h):
    need_hyperv(h)
    h.run("Hyper-V may run inside", "boot", cpu_options=",nested=on,kvm_hyperv=on", words=["pm1a=1"])
    h.run("nothing to nest in", "boot", cpu_options=",nested=off,kvm_hyperv=on")


@case
def cpuid(h):
    h.run("1 vCPU", "cpuid")
    h.run("4 vCPUs", "cpuid", cpus=4)
    h.run("2 threads, 2 cores", "cpuid", cpus=4, cpu_options=",topology=2:2:1:1", words=["threads=2", "cores=2"])
    h.run("3 cores, 2 dies, 2 packages", "cpuid", cpus=1, max_cpus=12, cpu_options=",topology=1:3:2:2",
          words=["cores=3", "dies=2"])
    h.run("40 physical address bits", "cpuid", cpu_options=",max_phys_bits=40", words=["phys_bits=40"])
    h.run("nothing to nest with", "cpuid", cpu_options=",nested=off", words=["no_nesting=1"])

    # Bits of IA32_ARCH_CAPABILITIES that the host's KVM has set and not: one is hidden, one is shown.
    names = {0: "rdctl-no", 4: "ssb-no", 5: "mds-no", 8: "taa-no", 13: "sbdr-ssdp-no", 15: "psdp-no", 26: "gds-no"}
    vm = h.start("cpuid")
    h.finish(vm, "its registers")
    found = re.search("^# arch_capabilities ([0-9a-f]+)$", vm.text(), re.MULTILINE)
    if not found:
        h.report.note("this host's KVM has no IA32_ARCH_CAPABILITIES: no mask of it is tried")
        return
    value = int(found[1], 16)
    hidden = next((bit for bit in names if value >> bit & 1), None)
    shown = next((bit for bit in names if not value >> bit & 1), None)
    mask = [f"-{names[hidden]}"] * (hidden is not None) + [f"+{names[shown]}"] * (shown is not None)
    bits = sum(1 << bit for bit in (hidden, shown) if bit is not None)
    h.run(f"mask {mask} of {value:#x}", "cpuid", cpu_options=f",cpu_mask=[{','.join(mask)}]",
          words=[f"msr_mask={bits}", f"msr_value={1 << shown if shown is not None else 0}"])


@case
def affinity(h):
    """vCPUs run where they are to from the start, before the guest is let go."""
    everywhere = os.sched_getaffinity(0)
    first, last = {min(everywhere)}, {max(everywhere)}
    vm = h.start("ticks", cpus=3, cpu_options=f",affinity=[0@[{min(first)}],2@[{min(last)}]]", talk=True)
    for name, wanted in (("vcpu0", first), ("vcpu1", everywhere), ("vcpu2", last)):
        found = allowed_cpus(vm.process.pid, name)
        h.check(found == wanted, f"{name} runs on {found} of {everywhere}")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)


@case
def smp(h):
    h.run("4 vCPUs", "smp", cpus=4)
    h.run("2 of 8 vCPUs", "smp", cpus=2, max_cpus=8)
    h.run("topology with gaps in the ids", "smp", cpus=6, cpu_options=",topology=1:3:2:1")


@case
def x2apic(h):
    """Processors with APIC ids that only the x2APIC has."""
    h.run("300 vCPUs", "x2apic", cpus=300, words=["start=4", "package_bits=9"], seconds=120)
    h.run("ids with gaps", "x2apic", cpus=125, cpu_options=",topology=1:5:5:5", words=["start=4", "package_bits=6"], seconds=120)


@case
def pci(h):
    h.run("pci", "pci")
    vm = h.start("pci", words=["ask=1"], talk=True)
    before = vm.info()["device_tree"]["_virtio-pci-__rng"]["resources"]
    slot, to = vm.console.expect(r"^moved slot (\d+) to ([0-9a-f]+);", 30).groups()
    tree = vm.info()["device_tree"]
    function = tree["_virtio-pci-__rng"]
    h.check(function["pci_bdf"] == f"0000:00:{int(slot):02x}.0" and function["children"] == ["__rng"], f"vm.info shows the function: {function}")
    h.check(tree["__rng"]["parent"] == "_virtio-pci-__rng" and tree["__rng"]["pci_bdf"] == function["pci_bdf"], "and the device behind it")
    before[0]["PciBar"]["base"] = int(to, 16)
    h.check(function["resources"] == before, f"with its BARs where the guest has them: {function['resources']}")
    vm.console.send("g")
    vm.console.expect(r"^1\.\.\d+\n", 30)
    h.finish(vm, "pci, with a look from outside")


@case
def segments(h):
    """All PCI segments with as many possible vCPUs as there is room for in the ACPI tables, and one more."""
    vm = h.t.kumo(serial=None, console=None)

    def takes(max_cpus, n_segments):
        try:
            vm.put("vm.create", {"payload": {"kernel": h.elf}, "cpus": {"boot_vcpus": 1, "max_vcpus": max_cpus},
                                 "platform": {"num_pci_segments": n_segments}})
        except ApiError as error:
            if error.status != 400 or "cpus.max_vcpus" not in error.text or "platform.num_pci_segments" not in error.text:
                raise
            return False
        vm.put("vm.delete")
        return True

    def most_cpus(n_segments):
        good, bad = 1, 2048
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if takes(middle, n_segments) else (good, middle)
        return good

    for n_segments, at_least in ((96, 450), (60, 1000)):
        most = most_cpus(n_segments)
        h.check(most >= at_least, f"{most} possible vCPUs are taken with {n_segments} segments, not one more")
        # This host's KVM may have fewer.
        h.run(f"{n_segments} segments, {min(most, 1024)} possible vCPUs", "boot", "--platform", f"num_pci_segments={n_segments}",
              max_cpus=min(most, 1024), memory_options=",hotplug_size=1G", seconds=120)
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)


@case
def serial(h):
    for port in (0, 0xe9, 0x9e):
        written = h.t.path("debug")
        options = ("--debug-console", f"file={written},iobase={port:#x}") if port else ()
        vm = h.start("serial", *options, words=[f"debug_port={port}"], talk=True)
        vm.console.expect("^send", 20)
        vm.console.send("kumo")
        h.finish(vm, f"serial, debug port {port:#x}")
        if port:
            with open(written, encoding="utf-8") as file:
                h.check(file.read() == "early words\n", f"the debug console at {port:#x} has what the guest wrote")


@case
def power(h):
    ways = [("a", "reset by the ACPI register"), ("k", "reset by the keyboard controller"), ("t", "reset by a triple fault"),
            ("c", "reset by a CMOS register"), ("a", "a second reset by the ACPI register")]
    for cpus in (1, 3):
        vm = h.start("power", cpus=cpus, talk=True)
        label = f"{cpus} vCPU"
        alive = True
        for letter, what in ways:
            try:
                vm.console.expect("^ready", 20)
                vm.console.send(letter)
                vm.console.expect("^waiting", 20)
                vm.console.send("s")
                vm.console.expect("^ok 1 - boot with fresh memory", 20)
                vm.console.expect("^ok 2 - a device works", 20)
                h.check(True, f"{label}: {what}")
            except AssertionError as failure:
                h.check(False, f"{label}: {what}")
                h.report.note(f"{failure}\n{vm.log()}")
                alive = False
                break
        if alive:
            vm.console.expect("^ready", 20)
            vm.console.send("q")
            vm.console.expect(r"^1\.\.2", 20)
            vm.wait_exit(0, 20)
            h.check(True, f"{label}: power-off ends kumo")
    vm = h.start("power", talk=True)
    vm.console.expect("^ready", 20)
    vm.console.send("h")
    vm.console.expect("^halted\n", 20)
    vm.put("vm.reboot")
    vm.console.expect("^waiting", 20)
    vm.console.send("s")
    vm.console.expect("^ok 1 - boot with fresh memory", 20)
    h.check(True, "a halted guest can be rebooted")
    vm.put("vm.shutdown")
    h.check(True, "a guest can be shut down")
    vm.put("vm.boot")
    h.check(vm.state() == "Running", "and booted again")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
    h.check(True, "kumo ends on request")


@case
def rng(h):
    h.run("rng", "rng")


@case
def blk(h):
    other = h.t.path("other.raw")
    make_disk(other)
    untouched = open(other, "rb").read()
    variants = (
        (1, "off", ""),
        (2, "off", ""),
        (2, "on", ""),
        (2, "on", "_disable_io_uring=on,queue_affinity=[0@[0]]"),
        (1, "off", "_disable_io_uring=on,_disable_aio=on,rate_limit_group=slow,lock_granularity=full"),
    )
    for queues, direct, more in variants:
        disk = h.t.path(f"disk-{queues}-{direct}-{len(more)}.raw")
        make_disk(disk)
        label = f"{queues} queue{'s' if queues > 1 else ''}, direct {direct}{more and ', '}{more}"
        h.run(label, "blk", "--rate-limit-group", "id=slow,bw_size=1M,bw_refill_time=50,ops_size=100,ops_refill_time=50",
              "--disk", f"path={disk},num_queues={queues},direct={direct},serial=kumo-disk{more and ','}{more}",
              f"path={other},readonly=on", words=[f"queues={queues}"], cpus=queues)
        with open(disk, "rb") as file:
            found = file.read()
        h.check(len(found) == DISK_BYTES, f"{label}: the file keeps its size")
        used = os.stat(disk).st_blocks * 512
        h.check(used <= 3 << 20, f"{label}: and has a hole where the guest discarded: {used} bytes are used")
        mib = 1 << 20
        expected = pattern(mib, 1) + pattern(mib // 2, 2) + bytes(mib // 2)
        expected += b"".join(pattern(64 << 10, 100 + i) for i in range(8)) + bytes(DISK_BYTES - 2 * mib - mib // 2)
        wrong = next((i for i in range(0, DISK_BYTES, 512) if found[i:i + 512] != expected[i:i + 512]), None)
        h.check(wrong is None, f"{label}: the file has what the guest wrote (first wrong sector at {wrong})")
    h.check(open(other, "rb").read() == untouched, "the read-only disk is as it was")


@case
def net(h):
    tap = h.t.tap()
    mac = "mac=52:54:00:12:34:56"
    h.run("tap by name", "net", "--net", f"tap={tap.name},{mac}")
    h.check(tap.statistic("rx_packets") >= 41, f"the host counts {tap.statistic('rx_packets')} frames from the guest")
    ip("link", "delete", tap.name)

    with open_tap("given") as fd:
        ip("address", "add", "192.168.77.1/24", "dev", "given")
        ip("link", "set", "given", "up")
        vm = h.start("net", "--net", f"fd=[{fd}],{mac}", talk=True, pass_fds=(fd,))
    h.finish(vm, "tap by descriptor")
    h.check("given" not in dict(map(reversed, socket.if_nameindex())), "it goes with kumo's descriptor")

    # A macvtap on one end of a cable; the host's address is at the other. A bridge would be reached like this. Its node in
    # /dev has the name of its number, which the interface of another network namespace may have, too: only one gets a node.
    ip("link", "add", "cable0", "type", "veth", "peer", "name", "cable1")
    ip("link", "add", "link", "cable0", "name", "macvtap0", "index", str(100000 + os.getpid()),
       "address", mac.removeprefix("mac="), "type", "macvtap", "mode", "bridge")
    ip("address", "add", "192.168.77.1/24", "dev", "cable1")
    for name in ("cable0", "cable1", "macvtap0"):
        ip("link", "set", name, "up")
    with open_tap("macvtap0", f"/dev/tap{socket.if_nametoindex('macvtap0')}") as fd:
        vm = h.start("net", "--net", f"fd=[{fd}],{mac}", talk=True, pass_fds=(fd,))
    h.finish(vm, "macvtap by descriptor")
    ip("link", "delete", "cable0")

    vm = h.start("net", "--net", f"tap=made,ip=192.168.77.1,mask=255.255.255.0,host_mac=02:00:00:00:00:77,mtu=1450,{mac}", talk=True)
    link = json.loads(h.t.run("ip", "-json", "address", "show", "made"))[0]
    h.check(link["mtu"] == 1450 and link["address"] == "02:00:00:00:00:77" and "UP" in link["flags"], f"the tap that is made: {link}")
    local = [(one["local"], one["prefixlen"]) for one in link["addr_info"] if one["family"] == "inet"]
    h.check(local == [("192.168.77.1", 24)], f"its address: {local}")
    h.finish(vm, "new tap")


@case
def net_options(h):
    """What a card's options do for the guest: pairs of queues, offloads, MTU, rate limits."""
    h.t.network()
    mac = "mac=52:54:00:12:34:56"
    tap = "tap=made,ip=192.168.77.1,mask=255.255.255.0"
    h.run("two pairs", "net", "--net", f"{tap},{mac},num_queues=4", words=["pairs=2"], cpus=2)
    h.run("one of two pairs", "net", "--net", f"{tap},{mac},num_queues=4", cpus=2)
    h.run("no offloads", "net", "--net", f"{tap},{mac},offload_tso=off,offload_ufo=off,offload_csum=off", words=["csum=0", "tso=0", "ufo=0"])
    h.run("no segmentation", "net", "--net", f"{tap},{mac},offload_tso=off", words=["tso=0"])
    h.run("MTU", "net", "--net", f"{tap},{mac},mtu=9000", words=["mtu=9000"])

    def flood(label, options, n):
        vm = h.start("net", "--net", f"{tap},{mac}{options}", words=[f"flood={n}"])
        h.finish(vm, label)
        sent, us = (int(number) for number in re.search(r"^sent (\d+) bytes in (\d+) us;", vm.text(), re.MULTILINE).groups())
        return sent, us / 1e6

    # Half a second at the least, beside the burst that is free; a slow host only makes it longer.
    n = 300
    sent, free = flood("no limit", "", n)
    burst, rate = 64 << 10, (64 << 10) / 0.1
    sent, limited = flood("limited bandwidth", ",bw_size=64K,bw_refill_time=100", n)
    least = (sent - burst) / rate
    h.check(limited >= 0.9 * least, f"{sent} bytes take {limited:.2f} s at {rate:.0f} a second, {least:.2f} at the least; {free:.2f} without a limit")
    sent, limited = flood("limited frames", ",ops_size=50,ops_refill_time=100", n)
    h.check(limited >= 0.9 * (n - 50) / 500, f"{n} frames take {limited:.2f} s at 500 a second, 50 of them at once")

    def pour(label, options, n):
        vm = h.start("net", "--net", f"{tap},{mac}{options}", words=[f"take={n}"], talk=True)
        vm.console.expect("^taking\n", 30)
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("made", 0))
            for _ in range(n):
                wire.send(bytes.fromhex("525400123456020000000001" + "88b5") + bytes(1400))
        h.finish(vm, label)
        received, us = (int(number) for number in re.search(r"^received (\d+) bytes in (\d+) us;", vm.text(), re.MULTILINE).groups())
        return received, us / 1e6

    received, free = pour("received without a limit", "", n)
    received, limited = pour("limited bandwidth of what is received", ",bw_size=64K,bw_refill_time=100", n)
    least = (received - burst) / rate
    h.check(limited >= 0.9 * least, f"{received} bytes come in {limited:.2f} s, {least:.2f} at the least; {free:.2f} without a limit")
    received, limited = pour("limited frames that are received", ",ops_size=50,ops_refill_time=100", n)
    h.check(limited >= 0.9 * (n - 50) / 500, f"{n} frames come in {limited:.2f} s at 500 a second, 50 of them at once")


@case
def console(h):
    vm = h.start("console", talk=True, console="socket")
    vm.port("console")
    vm.console.expect("^ready", 20)
    port = vm.port("console")
    port.send("hello, ")
    port.expect("HELLO, ", 10)
    port.send("x" * 3000 + "\n")
    port.expect("X{3000}\n", 20)
    port.send("the end.")
    port.expect("THE END\\.", 10)
    h.check(True, "3 KB come back through the console")
    h.finish(vm, "console")


@case
def pause(h):
    for cpus in (1, 3):
        label = f"{cpus} vCPU"
        vm = h.start("ticks", talk=True, cpus=cpus)
        vm.console.expect("^tick 3$", 20)
        for number in range(3):
            vm.put("vm.pause")
            h.check(vm.state() == "Paused", f"{label}: is paused ({number})")
            time.sleep(0.1)
            before = vm.text()
            time.sleep(0.3)
            h.check(vm.text() == before, f"{label}: says nothing while it is paused")
            last = re.findall("^tick ([0-9]+)$", before, re.MULTILINE)[-1]
            vm.put("vm.resume")
            h.check(vm.state() == "Running", f"{label}: runs again")
            vm.console.expect(f"^tick {int(last) + 3}$", 20)
            h.check(True, f"{label}: goes on where it was")
        vm.console.send("q")
        h.finish(vm, label)


@case
def snapshot(h):
    disk = h.t.path("disk.raw")
    make_disk(disk)
    for cpus, options, mode in ((1, "", "copy"), (2, ",shared=on", "copy"), (2, "", "ondemand"), (2, ",shared=on", "ondemand")):
        label = f"{cpus} vCPU{options} {mode}"
        vm = h.start("snapshot", "--disk", f"path={disk}", cpus=cpus, talk=True, memory_options=options)
        first = vm
        vm.console.expect("^round 2\n", 30)
        last = 0
        for number in range(3):
            directory = snapshot_directory(h, f"snapshot-{len(os.listdir(h.t.directory))}")
            vm.put("vm.pause")
            text = first.console.drain()
            last = int(re.findall("^round ([0-9]+)$", text, re.MULTILINE)[-1])
            vm.put("vm.snapshot", {"destination_url": f"file://{directory}"})
            h.check(vm.state() == "Paused", f"{label}: still paused after the snapshot ({number})")
            h.check(os.stat(f"{directory}/memory-ranges").st_blocks * 512 < 48 << 20, f"{label}: the memory file is sparse")
            vm.put("vmm.shutdown")
            vm.wait_exit(0, 20)
            start = time.monotonic()
            vm = restore(h, directory, resume="off" if number == 1 else "on", mode=mode)
            took = time.monotonic() - start
            if number == 1:
                h.check(vm.state() == "Paused", f"{label}: is restored paused")
                vm.put("vm.resume")
            h.check(vm.state() == "Running", f"{label}: runs again ({took * 1000:.0f} ms)")
            first.console.reopen_socket(first.port_path("serial"))
            later = [int(first.console.expect("^round ([0-9]+)\n", 30)[1]) for _ in range(3)]
            h.check(last < later[0] < last + 500 and later == list(range(later[0], later[0] + 3)),
                    f"{label}: goes on after round {last}: {later}")
        first.console.send("q")
        first.console.expect(r"^1\.\.\d+\n", 30)
        vm.wait_exit(0, 30)
        for word, what in RESULT.findall(first.console.seen):
            h.check(word == "ok", f"{label}: {what}")
        h.check(True, f"{label}: the guest comes to its end")


@case
def fewer_queues(h):
    """A driver that uses one of four queues: pause, snapshot and restore do not wait for the others."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    first = vm = h.start("blk_errors", "--disk", f"path={disk},num_queues=4", cpus=4, words=["use_queues=1"], talk=True)
    console = vm.console

    def read(label):
        console.send("0")
        status = int(console.expect(r"^status (\d+);", 30)[1])
        h.check(status == 0, f"the disk works {label}: status {status}")
        console.expect("^ask", 30)

    console.expect("^ask", 30)
    for number in range(5):
        vm.put("vm.pause")
        vm.api("GET", "vm.counters")
        vm.put("vm.resume")
        read(f"after pause {number}")
    vm.put("vm.pause")
    directory = snapshot_directory(h, "snapshot")
    vm.put("vm.snapshot", {"destination_url": f"file://{directory}"})
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
    vm = restore(h, directory)
    console.reopen_socket(first.port_path("serial"))
    read("after a restore")
    vm.put("vm.pause")
    vm.put("vm.resume")
    read("and a pause")
    console.send("q")
    vm.wait_exit(0, 20)


def memory_kinds(vm):
    """KiB of a process's memory by kind, each page once; and the mappings of at least a MiB that are of files."""
    with open(f"/proc/{vm.process.pid}/smaps", encoding="utf-8", errors="replace") as file:
        text = file.read()
    kinds, files = collections.Counter(), []
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", text, flags=re.MULTILINE)[1:]:
        head = mapping.split("\n", 1)[0].split(maxsplit=5)
        fields = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB", mapping, re.MULTILINE)}
        kinds["anonymous"] += fields["Anonymous"]
        kinds["resident"] += fields["Rss"]
        if len(head) > 5 and fields["Size"] >= 1024 and ("memfd" in head[5] or "shm" in head[5]):
            files.append((head[5], fields["Rss"]))
            kinds["shared"] += fields["Rss"]
    return kinds, files


@case
def private_memory(h):
    """Memory that nobody shares is anonymous, and there once; a file in memory stands for it only with shared=on."""
    kib = 256 << 10
    for options in ("", ",shared=on", ",mergeable=on"):
        vm = h.start("ticks", memory_mib=256, memory_options=f",prefault=on{options}", talk=True)
        vm.console.expect("^tick 1$", 30)
        kinds, files = memory_kinds(vm)
        shared = "shared" in options
        h.check(kib <= kinds["resident"] < kib * 3 // 2, f"'{options}': 256 MiB are there once: {dict(kinds)}")
        h.check(kinds["shared"] == kib if shared else not files and kinds["anonymous"] >= kib, f"'{options}': of the right kind: {files}")
        h.check(any("memfd" in one for one in vm.footprint()["fds"]) == shared, f"'{options}': a descriptor for it: {shared}")
        vm.console.send("q")
        h.finish(vm, f"'{options}'")


def refused(h, directory):
    """What kumo says to a snapshot that it does not take; None: it took it."""
    vm = h.t.kumo("--restore", f"source_url=file://{directory}", serial=None, console=None, api=False)
    try:
        vm.wait_exit(1, 3)
    except Failure as failure:
        if vm.process.poll() is not None:
            raise
        vm.process.terminate()
        vm.wait_exit(None, 20)
        return None
    return vm.log()


@case
def damaged(h):
    """Snapshots that were cut off or written over: the message names the file, and nothing crashes."""
    vm = h.start("ticks", talk=True)
    vm.console.expect("^tick 1\n", 30)
    whole = snapshot_directory(h, "whole")
    vm.put("vm.pause")
    for label, url in (("no such directory", f"file://{h.t.path('nowhere')}"), ("not a file URL", "tcp:there")):
        try:
            vm.put("vm.snapshot", {"destination_url": url})
            h.check(False, f"a snapshot to {label} is refused")
        except AssertionError:
            raise
        except Exception as error:  # ApiError
            h.check(vm.state() == "Paused", f"a snapshot to {label} is refused: {error}")
    vm.put("vm.snapshot", {"destination_url": f"file://{whole}"})
    files = ("config.json", "state.json", "memory-ranges", "memory-checksums")
    for name in files:
        other = snapshot_directory(h, f"taken-{name}")
        with open(f"{other}/{name}", "w", encoding="utf-8") as file:
            file.write("mine")
        try:
            vm.put("vm.snapshot", {"destination_url": f"file://{other}"})
            h.check(False, f"{name} is not overwritten")
        except AssertionError:
            raise
        except Exception as error:
            h.check(os.listdir(other) == [name] and open(f"{other}/{name}", encoding="utf-8").read() == "mine",
                    f"{name} is not overwritten, and the only file: {error}")
    vm.put("vm.resume")
    vm.console.expect("^tick", 30)
    h.check(vm.state() == "Running", "the VM runs on")
    vm.console.send("q")
    h.finish(vm, "after all snapshots")

    for name in files:
        size = os.stat(f"{whole}/{name}").st_size
        for cut in (None, 0, 1, size // 3, size // 2, size - 2):
            directory = snapshot_directory(h, f"cut-{name}-{cut}")
            for other in files:
                os.symlink(f"{whole}/{other}", f"{directory}/{other}") if other != name else None
            if cut is not None:
                shutil.copyfile(f"{whole}/{name}", f"{directory}/{name}")
                os.truncate(f"{directory}/{name}", cut)
            said = refused(h, directory)
            what = "missing" if cut is None else f"cut at {cut} of {size}"
            h.check(said and name in said, f"{name} {what}: {said}")
    with open(f"{whole}/state.json", "rb") as file:
        state = file.read()
    for at in range(7, len(state), len(state) // 12):
        directory = snapshot_directory(h, f"changed-{at}")
        for other in ("config.json", "memory-ranges", "memory-checksums"):
            os.symlink(f"{whole}/{other}", f"{directory}/{other}")
        with open(f"{directory}/state.json", "wb") as file:
            file.write(state[:at] + bytes([state[at] ^ 1]) + state[at + 1:])
        said = refused(h, directory)
        # A blank that became another blank changes nothing.
        h.check(said and "state.json" in said or state[at] in b" \n", f"state.json changed at {at}: {said}")
    # A bit of the guest's memory that has turned over.
    with open(f"{whole}/memory-ranges", "rb") as file:
        at = os.lseek(file.fileno(), 1 << 20, os.SEEK_DATA) + 1234
    directory = snapshot_directory(h, "flipped")
    for other in files:
        shutil.copyfile(f"{whole}/{other}", f"{directory}/{other}")
    with open(f"{directory}/memory-ranges", "r+b") as file:
        byte = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 4]), at)
    said = refused(h, directory)
    h.check(said and "memory-ranges: is damaged" in said, f"a bit of memory that has turned over: {said}")
    for change, message in (({"cpus": {"boot_vcpus": 2, "max_vcpus": 2}}, "__cpu_hotplug"), ({"memory": {"size": 128 << 20}}, "memory"),
                            ({"console": {"mode": "Null"}}, "__console")):
        directory = snapshot_directory(h, f"config-{message}")
        for other in ("state.json", "memory-ranges", "memory-checksums"):
            os.symlink(f"{whole}/{other}", f"{directory}/{other}")
        with open(f"{whole}/config.json", encoding="utf-8") as file:
            config = json.load(file)
        with open(f"{directory}/config.json", "w", encoding="utf-8") as file:
            json.dump({**config, **change}, file)
        said = refused(h, directory)
        h.check(said and message in said, f"another configuration: {said}")


@case
def intx(h):
    h.run("intx", "intx")


@case
def acpi(h):
    """Each table goes through ACPICA's disassembler, and the DSDT through its compiler again."""
    if not shutil.which("iasl"):
        h.t.skip("iasl (package acpica-tools) is not installed")
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = h.start("acpi", "--disk", f"path={disk}", cpus=2)
    h.finish(vm, "acpi")
    for name, text in re.findall("^table ([A-Z]+) ([0-9a-f]+)$", vm.text(), re.MULTILINE):
        with open(h.t.path(f"{name}.aml"), "wb") as file:
            file.write(bytes.fromhex(text))
        output = h.t.run("iasl", "-d", f"{name}.aml", status=None, cwd=h.t.directory)
        good = "rror" not in output and os.path.exists(h.t.path(f"{name}.dsl"))
        if good:
            with open(h.t.path(f"{name}.dsl"), encoding="utf-8") as file:
                good = "Invalid" not in file.read()
        if not h.check(good, f"{name} is disassembled without complaint"):
            h.report.note(output)
        output = h.t.run("iasl", "-oa", "-p", f"{name}-again", f"{name}.dsl", status=None, cwd=h.t.directory)
        if not h.check("0 Errors" in output or name != "DSDT" and "Table [" not in output, f"{name} is compiled again"):
            h.report.note(output)
        warnings = re.search(r"([0-9]+) Warnings", output)
        if name == "DSDT" and not h.check(warnings and warnings[1] == "0", "the compiler has no warnings"):
            h.report.note(output)


@case
def events(h):
    vm = h.start("events", talk=True)
    for _ in range(2):
        vm.console.expect("^press", 20)
        vm.put("vm.power-button")
    h.finish(vm, "events")




def core_cookie(tid):
    """The core scheduling cookie of a thread, 0: none; or minus the error's number."""
    cookie = ctypes.c_uint64()
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    arguments = [ctypes.c_ulong(value) for value in (PR_SCHED_CORE_GET, tid, PR_SCHED_CORE_SCOPE_THREAD, ctypes.addressof(cookie))]
    return cookie.value if prctl(PR_SCHED_CORE, *arguments) == 0 else -ctypes.get_errno()


def core_cookies(vm):
    """Those of the vCPUs' threads and of the others; KVM's own, which vCPUs start, inherit theirs."""
    vcpus, others = {}, {}
    for task in os.listdir(f"/proc/{vm.process.pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            with open(f"/proc/{vm.process.pid}/task/{task}/comm", encoding="utf-8") as file:
                name = file.read().strip()
            if not name.startswith("kvm"):
                (vcpus if name.startswith("vcpu") else others)[f"{name}.{task}"] = core_cookie(int(task))
    return vcpus, others


@case
def core_scheduling(h):
    """What may share a core with a vCPU: vm: its siblings; vcpu: nothing; off: everything."""
    probe = core_cookie(0)
    if probe < 0:
        h.t.skip(f"no core scheduling here: PR_SCHED_CORE_GET: {errno.errorcode[-probe]}")
    for mode, n_cookies in (("vm", 1), ("vcpu", 3), ("off", 0)):
        vm = h.start("resize", cpus=3, max_cpus=4, cpu_options=f",core_scheduling={mode}", talk=True)
        vm.console.expect("^ready", 20)
        n_vcpus = 3
        for label in ("at the start", "with one that came"):
            if mode != "off":
                h.t.wait_for(lambda: all(core_cookies(vm)[0].values()), f"{mode}, {label}: cookies of all vCPUs", 10)
            vcpus, others = core_cookies(vm)
            good = len(vcpus) == n_vcpus and len(set(vcpus.values()) - {0}) == n_cookies and all(vcpus.values()) == (mode != "off")
            h.check(good, f"{mode}, {label}: the vCPUs' cookies: {vcpus}")
            h.check(not set(others.values()) & set(vcpus.values()) - {0}, f"{mode}, {label}: no other thread has one of them: {others}")
            if n_vcpus == 3:
                vm.put("vm.resize", {"desired_vcpus": 4})
                vm.console.send("c")
                vm.console.expect(r"^came (\d+);", 30)
                n_vcpus, n_cookies = 4, 4 if mode == "vcpu" else n_cookies
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)


def allowed_cpus(pid, thread):
    """Where a thread of that name may run."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8") as file:
                if file.read().strip() == thread:
                    return os.sched_getaffinity(int(task))
    raise Failure(f"there is no thread {thread}")


@case
def update(h):
    """Rate limits, affinity and a link's state are changed while the guest runs."""
    tap = h.t.tap()
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = h.start("hotplug", cpus=2, talk=True)
    vm.console.expect("^ready", 20)

    def tell(letter, pattern):
        vm.console.send(letter)
        return vm.console.expect(pattern, 30)[0]

    def remote(*arguments, status=0):
        return h.t.run(REMOTE, "--api-socket", vm.api_path, *arguments, status=status)

    vm.put("vm.add-disk", {"path": disk, "id": "disk", "num_queues": 1})
    tell("c", "^came slot")
    vm.put("vm.add-net", {"tap": tap.name, "id": "net"})
    tell("c", "^came slot")

    everywhere = os.sched_getaffinity(0)
    one = {min(everywhere)}
    vm.put("vm.update-disk", {"id": "disk", "queue_affinity": [{"queue_index": 0, "host_cpus": list(one)}]})
    h.check(allowed_cpus(vm.process.pid, "disk_q0") == one, "the disk's worker runs on one host CPU")
    remote("update-cpus", f"affinity=[1@[{min(one)}]]")
    h.check(allowed_cpus(vm.process.pid, "vcpu1") == one and allowed_cpus(vm.process.pid, "vcpu0") == everywhere,
            "one vCPU runs on one host CPU")
    info = vm.info()["config"]
    h.check(info["cpus"]["affinity"] == [{"vcpu": 1, "host_cpus": list(one)}] and
            info["disks"][0]["queue_affinity"] == [{"queue_index": 0, "host_cpus": list(one)}], "the configuration says so")
    remote("update-net", f"id=net,queue_affinity=[0@[{min(one)}]]")
    h.check(allowed_cpus(vm.process.pid, "net_qp0") == one, "the card's worker runs on one host CPU")
    vm.put("vm.update-cpus", {"affinity": None})
    vm.put("vm.update-disk", {"id": "disk", "queue_affinity": []})
    vm.put("vm.update-net", {"id": "net", "queue_affinity": None})
    h.check(all(allowed_cpus(vm.process.pid, name) == everywhere for name in ("vcpu1", "disk_q0", "net_qp0")), "and everywhere again")

    def read_seconds(letter="t", pattern="^read all;"):
        start = time.monotonic()
        tell(letter, pattern)
        return time.monotonic() - start

    def write_seconds():
        return read_seconds("w", "^wrote all;")

    free = min(read_seconds() for _ in range(3))  # the host may be busy
    write_seconds()  # io_uring may get a thread for that, which stays
    before = vm.footprint()
    remote("update-disk", "id=disk,bw_size=64K,bw_refill_time=200")
    limited = read_seconds()
    h.check(limited > 1.5 > free, f"640 KiB at 320 KiB/s take {limited:.2f} s, not {free:.2f} s")
    remote("update-disk", "id=disk,bw_size=0,bw_refill_time=0")
    again = min(read_seconds() for _ in range(3))
    h.check(again < 1.5, f"and {again:.2f} s when the limit is taken away")
    h.check(not vm.info()["config"]["disks"][0].get("rate_limiter_config"), "the configuration has no limit any more")
    vm.put("vm.pause")
    vm.put("vm.update-disk", {"id": "disk", "rate_limiter_config": {"ops": {"size": 10, "refill_time": 2000}}})
    vm.put("vm.update-net", {"id": "net", "rate_limiter_config": {"ops": {"size": 1000, "refill_time": 100}}})
    vm.put("vm.resume")
    limited = read_seconds()
    h.check(limited > 1.5, f"a limit set while paused holds: {limited:.2f} s")
    # Of one direction only, by bytes and by operations that a large one counts for several of.
    remote("update-disk", "id=disk,read_bw_size=64K,read_bw_refill_time=200")
    limited, written = read_seconds(), write_seconds()
    h.check(limited > 1.5 > written, f"reads are limited: {limited:.2f} s, writes are not: {written:.2f} s")
    remote("update-disk", "id=disk,write_ops_size=20,write_ops_refill_time=400,op_size=4K")
    limited, free = write_seconds(), read_seconds()
    h.check(limited > 1.5 > free, f"writes are limited: {limited:.2f} s, reads are not: {free:.2f} s")
    h.check("op_size" in remote("update-disk", "id=disk,op_size=4K", status=1), "a size of operations without a limit of them is refused")
    vm.put("vm.update-disk", {"id": "disk", "rate_limiter_config": None})
    vm.put("vm.update-net", {"id": "net", "rate_limiter_config": None})

    packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    packets.bind((tap.name, 0))

    def send(number):
        packets.send(b"\xff" * 6 + b"\x52\x54\0\0\0\x01" + b"\x88\xb5" + bytes([number]) * 46)

    send(1)
    h.check(tell("f", r"^frame \d+;") == "frame 1;", "a frame comes through the link")
    vm.put("vm.update-net", {"id": "net", "link_up": False})
    h.check(tell("l", r"^link \d;") == "link 0;", "the guest is told that the link is down")
    for number in range(2, 9):
        send(number)
    time.sleep(0.2)
    remote("update-net", "id=net,link_up=on")
    h.check(tell("l", r"^link \d;") == "link 1;", "the guest is told that the link is up again")
    send(9)
    h.check(tell("f", r"^frame \d+;") == "frame 9;", "frames sent while the link was down are lost")
    vm.wait_no_more_than({**before, "fds": before["fds"] + ["anon_inode:[timerfd]"] * 5})
    h.check(True, "no more than the limits' timers stay")

    cases = (
        ("vm.update-disk", {"id": "disk", "path": "/x"}, 400, "path"),
        ("vm.update-disk", {"id": "disk", "queue_affinity": [{"queue_index": 0, "host_cpus": [100000]}]}, 400, "host_cpus"),
        ("vm.update-disk", {"id": "disk", "queue_affinity": [{"queue_index": 0, "host_cpus": [4095]}]}, 400, "4095"),
        ("vm.update-disk", {"id": "disk", "queue_affinity": [{"queue_index": 1, "host_cpus": [0]}]}, 400, "queue_affinity"),
        ("vm.update-disk", {"id": "disk", "rate_limiter_config": {"bandwidth": {"size": 1}}}, 400, "refill_time"),
        ("vm.update-disk", {"id": "none", "queue_affinity": []}, 404, "none"),
        ("vm.update-net", {"id": "net", "link_up": 1}, 400, "link_up"),
        ("vm.update-net", {"id": "net"}, 400, "link_up"),
        ("vm.update-net", {"link_up": True}, 400, "id"),
        ("vm.update-cpus", {"affinity": [{"vcpu": 2, "host_cpus": [0]}]}, 400, "affinity"),
        ("vm.update-cpus", {"affinity": [{"vcpu": 0, "host_cpus": [4095]}]}, 400, "4095"),
        ("vm.update-cpus", {"max_vcpus": 9}, 400, "max_vcpus"),
    )
    for endpoint, body, status, word in cases:
        try:
            vm.put(endpoint, body)
            h.check(False, f"{endpoint} {body} is refused")
        except ApiError as error:
            h.check(error.status == status and word in error.text, f"{endpoint} {body} is refused: {error}")
    h.check("readonly" in remote("update-disk", "id=disk,readonly=on", status=1), "kumo-remote says which field cannot be changed")
    vm.console.send("q")
    h.finish(vm, "update")

    vm = h.start("hotplug", "--rate-limit-group", "id=group,bw_size=64K,bw_refill_time=200", "--net",
                 f"tap={tap.name},id=pinned,queue_affinity=[0@[{min(one)}]]", talk=True)
    vm.console.expect("^ready", 20)
    h.check(allowed_cpus(vm.process.pid, "pinned_qp0") == one, "a card's worker is pinned from the start")
    vm.put("vm.add-disk", {"path": disk, "id": "disk", "rate_limit_group": "group"})
    tell("c", "^came slot")
    limited = read_seconds()
    h.check(limited > 1.5, f"a group's limit holds for its disk: {limited:.2f} s")
    remote("update-rate-limit-group", "id=group,bw_size=0,bw_refill_time=0")
    again = min(read_seconds() for _ in range(3))
    h.check(again < 1.5, f"and {again:.2f} s when it is taken away")
    vm.put("vm.update-rate-limit-group", {"id": "group", "rate_limiter_config": {"ops": {"size": 10, "refill_time": 2000}}})
    limited = read_seconds()
    h.check(limited > 1.5, f"another one holds: {limited:.2f} s")
    vm.put("vm.update-rate-limit-group", {"id": "group", "rate_limiter_config": None})
    vm.console.send("q")
    h.finish(vm, "update of a group")


@case
def dbus(h):
    """The API and its events on a bus of the test's own, by a stock client and by kumo-remote."""
    socket_path, name, path = h.t.path("bus"), "org.example.Vm1", "/org/example/Vm1"
    interface = "org.cloudhypervisor.DBusApi1"
    h.t.network()
    environment = dict(os.environ, DBUS_SESSION_BUS_ADDRESS=f"unix:path={socket_path}")
    for program in ("dbus-daemon", "gdbus"):
        if not shutil.which(program):
            raise Skip(f"no {program}")
    h.t.start("dbus-daemon", "--session", "--nofork", "--nopidfile", "--nosyslog", f"--address=unix:path={socket_path}")
    h.t.wait_for(lambda: os.path.exists(socket_path), "the bus", 10)
    h.t.start("gdbus", "monitor", "--session", "--dest", name, name="monitor", env=environment)
    vm = h.t.kumo("--dbus-service-name", name, "--dbus-object-path", path, serial=None, console=None, api=False, env=environment)

    def call(method, *arguments, status=0):
        arguments = [json.dumps(argument) if isinstance(argument, dict) else argument for argument in arguments]
        return h.t.run("gdbus", "call", "--session", "--dest", name, "--object-path", path, "--method",
                       f"{interface}.{method}", *arguments, status=status, env=environment)

    def answer(text):
        """The JSON in what gdbus prints: ('...',)."""
        return json.loads(ast.literal_eval(text.strip())[0])

    def remote(*arguments, status=0, **options):
        return h.t.run(REMOTE, "--dbus-service-name", name, "--dbus-object-path", path, *arguments, status=status, env=environment,
                       **options)

    def monitor():
        with open(h.t.path("monitor.log"), encoding="utf-8", errors="replace") as stream:
            return stream.read()

    h.t.wait_for(lambda: "owned by" in monitor() and h.t.run(
        "gdbus", "call", "--session", "--dest", "org.freedesktop.DBus", "--object-path", "/org/freedesktop/DBus", "--method",
        "org.freedesktop.DBus.NameHasOwner", name, env=environment).strip() == "(true,)", "kumo's name", 10)
    ping = answer(call("VmmPing"))
    h.check(ping["pid"] == vm.process.pid, f"VmmPing answers: {ping}")
    told = h.t.run("gdbus", "introspect", "--session", "--dest", name, "--object-path", path, env=environment)
    h.check(all(word in told for word in (interface, "VmAddGenericVhostUser(", "VmSendMigration(", "Event(s event)")),
            "the interface describes itself")
    text = call("VmBoot", status=1)
    h.check("org.freedesktop.DBus.Error.Failed" in text and "no VM was created" in text, f"boot without a VM fails: {text.strip()}")
    text = call("VmCreate", '{"nonsense": 1}', status=1)
    h.check("nonsense" in text, f"a wrong configuration is refused: {text.strip()}")
    h.check("InvalidArgs" in call("VmCreate", status=1), "a configuration that is missing is refused")
    h.check("UnknownMethod" in call("VmFly", status=1), "a method that is not there is refused")
    serial = h.t.path("serial.txt")
    disk = h.t.path("disk.raw")
    make_disk(disk)
    call("VmCreate", {"payload": {"kernel": h.elf, "cmdline": "test=ticks cpus=1 max_cpus=1 memory_mib=64"},
                      "cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 64 << 20},
                      "serial": {"mode": "File", "file": serial}, "console": {"mode": "Off"},
                      "landlock_enable": True, "landlock_rules": [{"path": disk, "access": "rw"}]})
    h.check(call("VmAddDisk", {"path": disk}).strip() == "('',)", "VmAddDisk before the boot has an empty answer")
    call("VmBoot")
    info = answer(call("VmInfo"))
    h.check(info["state"] == "Running" and info["config"]["disks"][0]["path"] == disk, "VmInfo tells of the VM that runs")
    h.t.wait_for(lambda: "tick 3" in open(serial, encoding="utf-8").read(), "the guest", 20)
    counters = answer(call("VmCounters"))
    h.check("_disk0" in counters, f"VmCounters answers: {counters}")
    text = call("VmAddDisk", {"path": h.elf}, status=1)
    h.check("Landlock is in force" in text, f"D-Bus goes on when the process is confined, and another disk is refused: {text.strip()}")
    call("VmPause")
    h.check(json.loads(remote("info"))["state"] == "Paused", "kumo-remote asks over D-Bus, too")
    text = remote("pause", status=1)
    h.check("Paused" in text, f"and says what failed: {text.strip()}")
    remote("resume")
    with open_tap("tap-fd") as fd:
        net = json.loads(remote("add-net", f"fd=[{fd}],id=given", pass_fds=(fd,)))
        h.check(net["id"] == "given", f"a descriptor goes along: {net}")
    h.check("--dbus-object-path is missing" in h.t.run(REMOTE, "--dbus-service-name", name, "ping", status=2, env=environment),
            "half an address is refused")
    text = h.t.run("kumo", "--dbus-service-name", name, "--dbus-object-path", path, status=1, env=environment)
    h.check("somebody else has the name" in text, f"a name that is taken is refused: {text.strip()}")
    call("VmmShutdown")
    vm.wait_exit(0, 20)
    h.check(True, "VmmShutdown is answered, and kumo ends")
    events = ("booting", "booted", "pausing", "paused", "resumed", "shutdown")
    h.t.wait_for(lambda: all(f'"event": "{event}"' in monitor() for event in events), "the events", 10)
    h.check(f"{path}: {interface}.Event" in monitor(), "the events came as signals")


def main():
    kumo, elf, name = sys.argv[1:4]
    programs = os.path.dirname(os.path.abspath(kumo))
    os.environ["PATH"] = f"{programs}:{programs}/remote:{os.environ['PATH']}"
    os.environ["KUMO_MODULE_DIR"] = f"{programs}/dbus:{programs}/tls"
    report = Report()
    context = Context(f"guest/{name}")
    try:
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            raise Skip("no /dev/kvm")
        CASES[name](Host(context, report, os.path.abspath(elf)))
    except Skip as reason:
        print(f"1..{report.count}{'' if report.count else f' # SKIP {reason}'}", flush=True)
        return 0
    except Exception as failure:  # whatever ends a case is its failure
        report.line(False, f"{name}: {type(failure).__name__}: {failure}".splitlines()[0])
        report.note(f"{failure}\n" + "\n".join(context.logs()))
    finally:
        context.close()
        context.remove()
    print(f"1..{report.count}", flush=True)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
