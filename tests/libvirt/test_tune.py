# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits, places, dumps, names, CPU models: what is set is what holds, live and in the definition."""

import glob
import json
import os
import re
import time

import libvirt as lv

from harness import test
from harness.virt import Connection, Stream, configure, disk, domain, process_of, refused, small, start

LIVE, CONFIG = lv.VIR_DOMAIN_AFFECT_LIVE, lv.VIR_DOMAIN_AFFECT_CONFIG
INACTIVE = lv.VIR_DOMAIN_XML_INACTIVE


def affinity(dom, name):
    """Where the thread of that name may run."""
    pid = process_of(dom)
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as stream:
            if stream.read().strip() == name:
                return os.sched_getaffinity(int(task))
    return None


@test(timeout=60, where="host")
def limits_of_disks_and_interfaces(t):
    t.network()
    t.virtkumod()
    c = Connection(t)
    nic = "<interface type='ethernet'><target dev='tap7'/></interface>"
    dom = c.conn.defineXML(small(t, "test=power", devices=f"<serial type='pty'/>{disk(t)[1]}{nic}"))
    dom.create()
    for flags in (LIVE, CONFIG):
        dom.setBlockIoTune("vda", {"total_bytes_sec": 1 << 20}, flags)
    dom.setBlockIoTune("vda", {"total_iops_sec": 100}, LIVE)
    live, config = dom.blockIoTune("vda", LIVE), dom.blockIoTune("vda", CONFIG)
    t.equal((live["total_bytes_sec"], live["total_iops_sec"]), (1 << 20, 100), "live limits")
    t.equal((config["total_bytes_sec"], config["total_iops_sec"]), (1 << 20, 0), "defined limits")
    t.check("<total_iops_sec>100<" in dom.XMLDesc(0) and "iops" not in dom.XMLDesc(INACTIVE), "limits are not in the XML")
    t.wait_for(lambda: c.tunables[1:] == [{"blkdeviotune.disk": "vda", "blkdeviotune.total_iops_sec": 100}], "the event")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setBlockIoTune, "vda", {"read_bytes_sec": 1000, "total_bytes_sec": 2000}, LIVE, text="bytes_sec")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.setBlockIoTune, "vda", {"read_bytes_sec": 1000, "read_bytes_sec_max": 9}, LIVE, text="read_bytes_sec_max")
    t.equal(dom.blockIoTune("vda", LIVE), live, "limits after what was refused")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setBlockIoTune, "vdx", {"total_bytes_sec": 1000}, LIVE)
    for flags in (LIVE, CONFIG):
        dom.setBlockIoTune("vda", {"total_bytes_sec": 0, "total_iops_sec": 0}, flags)
    t.check("iotune" not in dom.XMLDesc(0) + dom.XMLDesc(INACTIVE), "limits that were taken away")

    limits = {"inbound.average": 1000, "outbound.average": 500, "outbound.peak": 800}
    dom.setInterfaceParameters("tap7", limits, CONFIG)
    dom.setInterfaceParameters("tap7", {"inbound.average": 0}, CONFIG)
    config = dom.interfaceParameters("tap7", CONFIG)
    t.equal((config["inbound.average"], config["outbound.average"], config["outbound.peak"]), (0, 500, 800), "defined bandwidth")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setInterfaceParameters, "tap8", {"inbound.average": 1}, LIVE)
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.setInterfaceParameters, "tap7", {"inbound.floor": 1}, CONFIG)
    # A kernel without the queueing disciplines refuses the live limits: then nothing of them may stay.
    try:
        dom.setInterfaceParameters("tap7", limits, LIVE)
        set_limits = limits
    except lv.libvirtError:
        set_limits = dict.fromkeys(limits, 0)
    live = dom.interfaceParameters("tap7", LIVE)
    t.equal({key: live[key] for key in limits}, set_limits, "live bandwidth")
    t.equal("htb" in t.run("tc", "qdisc", "show", "dev", "tap7"), set_limits["inbound.average"] > 0, "limit of the tap")
    dom.setInterfaceParameters("tap7", dict.fromkeys(limits, 0), LIVE)
    t.check("htb" not in t.run("tc", "qdisc", "show", "dev", "tap7"), "the tap still has a limit")


@test(timeout=60, where="host")
def limits_of_one_direction(t):
    """A guest's reads are limited and its writes are not, and the other way round."""
    t.virtkumod()
    c = Connection(t)
    dom, console = start(t, c, small(t, "test=hotplug", vcpus=2))
    limits = "<iotune><read_bytes_sec>327680</read_bytes_sec><size_iops_sec>4096</size_iops_sec><write_iops_sec>10000</write_iops_sec></iotune></disk>"
    dom.attachDeviceFlags(disk(t)[1].replace("</disk>", limits), LIVE)
    console.send("c")
    console.expect("^came slot")

    def seconds(letter):
        start = time.monotonic()
        console.send(letter)
        console.expect("^(read|wrote) all;")
        return time.monotonic() - start

    def tune(*options):
        t.run("virsh", "-c", "kumo:///system", "blkdeviotune", "vm", "vda", "--live", *options)

    reads, writes = seconds("t"), seconds("w")
    t.check(reads > 0.9 and writes < 0.9, f"640 KiB at 320 KiB/s: {reads:.2f} s; written without a limit: {writes:.2f} s")
    tune("--write-bytes-sec", "327680")
    found = dom.blockIoTune("vda", LIVE)
    t.equal((found["read_bytes_sec"], found["write_bytes_sec"], found["write_iops_sec"]), (0, 327680, 10000), "limits")
    reads, writes = seconds("t"), seconds("w")
    t.check(writes > 0.9 and reads < 0.9, f"640 KiB at 320 KiB/s written: {writes:.2f} s; read without a limit: {reads:.2f} s")
    # Operations of 32 KiB count for eight.
    tune("--total-bytes-sec", "0", "--read-iops-sec", "80", "--size-iops-sec", "4096")
    reads, writes = seconds("t"), seconds("w")
    t.check(reads > 0.9 and writes < 0.9, f"160 operations at 80/s: {reads:.2f} s; written without a limit: {writes:.2f} s")
    tune("--read-bytes-sec", "1000000", "--write-bytes-sec", "2000000")
    t.check("<read_bytes_sec>1000000<" in dom.XMLDesc(0), "the XML")
    tune("--total-bytes-sec", "3000000")
    found = dom.blockIoTune("vda", LIVE)
    t.equal((found["read_bytes_sec"], found["total_bytes_sec"], found["read_iops_sec"]), (0, 3000000, 80), "limits of both directions again")


def shown(dom, *targets, flags=LIVE):
    """(iops, group) of disks."""
    found = [dom.blockIoTune(target, flags) for target in targets]
    return [(one["total_iops_sec"], one["group_name"] or None) for one in found]


@test(timeout=60, where="host")
def disks_that_share_their_limits(t):
    """Of libvirt's definition, of a running domain, and by hotplug; what the VMM has is asked of it."""
    t.virtkumod()
    c = Connection(t)
    group = "<iotune><total_iops_sec>500</total_iops_sec><group_name>data base</group_name></iotune></disk>"
    disks = [disk(t, f"{target}.img", target=target)[1] for target in ("vda", "vdb", "vdc", "vdd")]
    devices = disks[0].replace("</disk>", group) + disks[1].replace("</disk>", group.replace("<total_iops_sec>500</total_iops_sec>", "")) + disks[2]
    dom = c.conn.defineXML(small(t, "test=power", devices=f"<serial type='pty'/>{devices}"))
    dom.create()
    t.equal(shown(dom, "vda", "vdb", "vdc"), [(500, "data base")] * 2 + [(0, None)], "the limits at the start")
    # A change of one is a change of all; who comes in has what they have, but for what is said.
    dom.setBlockIoTune("vdb", {"total_iops_sec": 600}, LIVE)
    t.equal(shown(dom, "vda", "vdb"), [(600, "data base")] * 2, "the limits of the group")
    for flags in (LIVE, CONFIG):
        dom.setBlockIoTune("vdc", {"group_name": "data base"}, flags)
    t.equal(shown(dom, "vda", "vdb", "vdc"), [(600, "data base")] * 3, "the group with a new disk")
    t.equal(shown(dom, "vda", "vdb", "vdc", flags=CONFIG), [(500, "data base")] * 3, "the group of the definition")
    t.check({"blkdeviotune.disk": "vdc", "blkdeviotune.group_name": "data base"} in c.tunables, f"{c.tunables}")
    # Into a group of its own, which is new, and out of all groups.
    t.run("virsh", "-c", "kumo:///system", "blkdeviotune", "vm", "vda", "--group-name", "other", "--total-iops-sec", "70")
    t.equal(shown(dom, "vda", "vdb"), [(70, "other"), (600, "data base")], "two groups")
    dom.setBlockIoTune("vdc", {"total_iops_sec": 0}, LIVE)
    t.equal(shown(dom, "vdb", "vdc"), [(600, "data base"), (0, None)], "a disk that left its group")
    dom.setBlockIoTune("vdc", {"total_iops_sec": 80}, LIVE)
    dom.attachDeviceFlags(disks[3].replace("</disk>", group.replace("500", "70").replace("data base", "other")), LIVE)
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.setBlockIoTune, "vdc", {"group_name": "none", "total_iops_sec": 0}, LIVE, text="'none'")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.setBlockIoTune, "vda", {"read_iops_sec": 5, "read_iops_sec_max": 4}, LIVE, text="read_iops_sec_max")
    t.equal(shown(dom, "vda", "vdb", "vdc", "vdd"), [(70, "other"), (600, "data base"), (80, None), (70, "other")], "the limits in the end")

    # The VMM's own words.
    socket = glob.glob("/run/libvirt/kumo/**/api.sock", recursive=True)
    config = json.loads(t.run("kumo-remote", "--api-socket", socket[0], "info"))["config"]
    t.equal([one["rate_limit_group"] for one in config["disks"]], ["other", "data base", None, "other"], "groups in the VMM")
    t.equal({one["id"]: one["rate_limiter_config"]["ops"]["size"] for one in config["rate_limit_groups"]}, {"data base": 600, "other": 70}, "limits in the VMM")


@test(timeout=60, where="host")
def places_of_threads(t):
    """vCPUs and the rest of the process run where they are told to, also after a reboot of the guest."""
    t.virtkumod()
    c = Connection(t)
    xml = small(t, "test=power", vcpus=2, extra="<cputune><vcpupin vcpu='1' cpuset='1'/><emulatorpin cpuset='0'/></cputune>")
    dom, _ = start(t, c, xml)
    both = os.sched_getaffinity(0)
    t.equal([affinity(dom, name) for name in ("vcpu0", "vcpu1", "kumo")], [both, {1}, {0}], "places at the start")
    t.equal(dom.vcpuPinInfo(LIVE)[1][:2], (False, True), "information")
    t.equal(dom.emulatorPinInfo(LIVE)[:2], (True, False), "information on the emulator")
    dom.pinVcpuFlags(0, (True, False), LIVE | CONFIG)
    dom.pinEmulator((False, True), LIVE)
    t.equal([affinity(dom, name) for name in ("vcpu0", "vcpu1", "kumo")], [{0}, {1}, {1}], "places")
    t.wait_for(lambda: [list(event.items()) for event in c.tunables] == [[("cputune.vcpupin0", "0")], [("cputune.emulatorpin", "1")]], "events")
    t.check("<vcpupin vcpu='0' cpuset='0'/>" in dom.XMLDesc(INACTIVE), "not in the definition")
    t.check("<emulatorpin cpuset='0'/>" in dom.XMLDesc(INACTIVE), "the definition changed")
    dom.reset()
    t.wait_for(lambda: affinity(dom, "vcpu1") == {1} and affinity(dom, "vcpu0") == {0}, "places after a reset")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.pinVcpu, 2, (True,))
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.pinVcpu, 0, (False,))
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.pinVcpu, 0, (False,) * 63 + (True,))
    t.equal(affinity(dom, "vcpu0"), {0}, "place after a refusal")


def on_thread(t, name, number):
    return disk(t, f"{name}.img", target=name)[1].replace("<source", f"<driver type='raw' iothread='{number}'/><source")


@test(timeout=60, where="host")
def io_threads(t):
    """The threads of a disk's queues run where its I/O thread is pinned to, whatever becomes of the emulator."""
    if os.cpu_count() < 2:
        t.skip("it takes two CPUs")
    t.virtkumod()
    c = Connection(t)
    disks = on_thread(t, "vda", 1) + on_thread(t, "vdb", 2)
    xml = small(t, "test=power", devices=f"<serial type='pty'/>{disks}", extra="<iothreads>2</iothreads><cputune><emulatorpin cpuset='0'/>"
                "<iothreadpin iothread='2' cpuset='1'/></cputune>")
    dom, _ = start(t, c, xml)
    names = ("kumo", "virtio-disk0_q0", "virtio-disk1_q0")
    both = os.sched_getaffinity(0)
    t.equal([affinity(dom, name) for name in names], [{0}, both, {1}], "places at the start")
    t.equal([(number, tuple(cpus[:2])) for number, cpus in dom.ioThreadInfo(LIVE)], [(1, (True, True)), (2, (False, True))], "information")
    dom.pinEmulator((False, True), LIVE)
    t.equal([affinity(dom, name) for name in names], [{1}, both, {1}], "places after the emulator has moved")
    dom.pinIOThread(2, (True, False), LIVE | CONFIG)
    dom.pinIOThread(1, (False, True), LIVE)
    t.equal([affinity(dom, name) for name in names], [{1}, {1}, {0}], "places after both have moved")
    t.wait_for(lambda: [list(event.items()) for event in c.tunables[1:]] == [[("cputune.iothreadpin2", "0")], [("cputune.iothreadpin1", "1")]], "events")
    t.check("<iothreadpin iothread='2' cpuset='0'/>" in dom.XMLDesc(INACTIVE) and "iothread='1' cpuset" not in dom.XMLDesc(INACTIVE), "the definition")
    dom.reset()
    t.wait_for(lambda: [affinity(dom, name) for name in names] == [{1}, {1}, {0}], "places after a reset")

    dom.addIOThread(7, LIVE)
    dom.pinIOThread(7, (True, False), LIVE)
    dom.attachDeviceFlags(on_thread(t, "vdc", 7), LIVE)
    t.equal(affinity(dom, "virtio-disk2_q0"), {0}, "place of a disk that was attached")
    dom.pinIOThread(7, (False, True), LIVE)
    t.equal(affinity(dom, "virtio-disk2_q0"), {1}, "its place after its I/O thread has moved")
    t.equal(c.conn.domainListGetStats([dom], lv.VIR_DOMAIN_STATS_IOTHREAD)[0][1], {"iothread.count": 3}, "statistics")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.delIOThread, 7, LIVE, text="vdc")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.addIOThread, 7, LIVE, text="7")
    dom.addIOThread(9, LIVE | CONFIG)
    dom.delIOThread(9, LIVE | CONFIG)
    t.equal([number for number, _ in dom.ioThreadInfo(LIVE)], [1, 2, 7], "I/O threads of the running domain")
    t.equal([number for number, _ in dom.ioThreadInfo(CONFIG)], [1, 2], "I/O threads of the definition")
    for call in (dom.pinIOThread, dom.delIOThread):
        refused(t, lv.VIR_ERR_INVALID_ARG, call, *((9, (True,), LIVE) if call == dom.pinIOThread else (9, LIVE)))
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.pinIOThread, 2, (False,) * 63 + (True,), LIVE)
    t.equal([affinity(dom, name) for name in names], [{1}, {1}, {0}], "places after a refusal")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.setIOThreadParams, 2, {"poll_max_ns": 5000}, LIVE, text="poll_max_ns")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.setIOThreadParams, 2, {"thread_pool_max": 4}, CONFIG, text="thread_pool_max")


@test(timeout=60, where="host")
def dumps_and_interrupts(t):
    """A core dump is an ELF file of root's; the guest goes on, or does not, as the flags say."""
    t.virtkumod()
    c = Connection(t)
    dom, _ = start(t, c, small(t, "test=power"))
    c.lifecycle.clear()
    path = t.path("core")
    os.chmod(t.directory, 0o755)
    dom.coreDump(path, lv.VIR_DUMP_MEMORY_ONLY)
    with open(path, "rb") as stream:
        t.equal(stream.read(4), b"\x7fELF", "what a dump begins with")
    t.equal((os.stat(path).st_uid, oct(os.stat(path).st_mode)[-3:]), (0, "600"), "who may read it")
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
    c.events("vm", (lv.VIR_DOMAIN_EVENT_SUSPENDED, 0), (lv.VIR_DOMAIN_EVENT_RESUMED, 0))
    dom.coreDump(path, lv.VIR_DUMP_LIVE)  # for a moment it stands still all the same
    c.events("vm", (lv.VIR_DOMAIN_EVENT_SUSPENDED, 0), (lv.VIR_DOMAIN_EVENT_RESUMED, 0))
    os.unlink(path)
    dom.coreDump(path, lv.VIR_DUMP_BYPASS_CACHE | lv.VIR_DUMP_MEMORY_ONLY)
    c.events("vm", (lv.VIR_DOMAIN_EVENT_SUSPENDED, 0), (lv.VIR_DOMAIN_EVENT_RESUMED, 0))
    with open(path, "rb") as stream:
        t.equal(stream.read(4), b"\x7fELF", "what a dump past the page cache begins with")
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, dom.coreDump, "/nonexistent/core", 0)
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.coreDumpWithFormat, path, lv.VIR_DOMAIN_CORE_DUMP_FORMAT_KDUMP_ZLIB, 0)
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state after refusals")
    dom.coreDump(path, lv.VIR_DUMP_CRASH)
    t.equal(dom.state(), [lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_CRASHED], "state after a crash dump")
    t.equal([name for name in os.listdir(t.directory) if name.startswith(".kumo")], [], "what is left")
    for call in (dom.injectNMI, lambda: dom.coreDump(path)):
        refused(t, lv.VIR_ERR_OPERATION_INVALID, call)

    # This guest takes none.
    dom.create()
    Stream(t, c.conn, dom).expect("^ready")
    dom.injectNMI()
    t.wait_for(lambda: not dom.isActive(), "the guest's end by an interrupt that it does not know")


@test(timeout=30, where="any")
def a_look_into_a_disk(t):
    """What is in an image, running or not; no more than there is; and no other kind of file."""
    t.virtkumod()
    c = Connection(t, events=False)
    path, xml = disk(t)
    with open(path, "r+b") as stream:
        stream.seek(1000)
        stream.write(b"here it is")
    size = os.path.getsize(path)
    dom = c.conn.defineXML(domain(t, devices=xml))
    for _ in range(2):
        t.equal(dom.blockPeek("vda", 1000, 10, 0), b"here it is", "by the target")
        t.equal(dom.blockPeek(path, size - 4, 4, 0), bytes(4), "by the path")
        for offset, length in ((size - 4, 5), (size, 1), (1 << 62, 1), ((1 << 63) - 1, 10)):
            refused(t, lv.VIR_ERR_INVALID_ARG, dom.blockPeek, "vda", offset, length, 0)
        refused(t, lv.VIR_ERR_INVALID_ARG, dom.blockPeek, "vdb", 0, 1, 0, text="vdb")
        if not dom.isActive():
            dom.create()
    t.equal((dom.diskErrors(), dom.blockJobInfo("vda")), ({}, {}), "errors and jobs")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.blockJobAbort, "vda", text="vda")
    dom.destroy()
    os.unlink(path)
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, dom.blockPeek, "vda", 0, 1, 0)
    os.mkfifo(path)
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.blockPeek, "vda", 0, 1, 0, text="neither")


@test(timeout=60, where="any")
def another_name(t):
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t, "old"))
    c.conn.defineXML(domain(t, "taken"))
    dom.setAutostart(True)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.rename, "taken")
    refused(t, lv.VIR_ERR_XML_ERROR, dom.rename, "a/b")
    dom.rename("new")
    refused(t, lv.VIR_ERR_NO_DOMAIN, c.conn.lookupByName, "old")
    dom = c.conn.lookupByName("new")
    t.equal(dom.autostart(), 1, "autostart")
    t.equal(sorted(os.listdir("/etc/libvirt/kumo")), ["autostart", "new.xml", "taken.xml"], "files")
    t.equal(os.readlink("/etc/libvirt/kumo/autostart/new.xml"), "/etc/libvirt/kumo/new.xml", "link")
    t.check("<name>new<" in dom.XMLDesc(0), "the old name is in the definition")
    c.events("new", (lv.VIR_DOMAIN_EVENT_DEFINED, lv.VIR_DOMAIN_EVENT_DEFINED_RENAMED))
    dom.create()
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.rename, "again")


@test(timeout=60, where="any")
def cpu_models(t):
    """What Nova asks at its start."""
    t.virtkumod()
    conn = Connection(t, events=False).conn
    t.check("Haswell" in conn.getCPUModelNames("x86_64"), "no model names")
    host = re.search(r"<cpu>.*?</cpu>", conn.getCapabilities(), re.DOTALL)[0]
    t.check(conn.compareCPU(host) in (lv.VIR_CPU_COMPARE_IDENTICAL, lv.VIR_CPU_COMPARE_SUPERSET), "the host differs from itself")
    t.check(conn.compareHypervisorCPU(None, None, None, None, host) > 0, "the host's CPU does not do")
    t.check("<feature" in conn.baselineCPU([host], lv.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES), "no features")
    t.check("<model" in conn.baselineHypervisorCPU(None, None, "pc", "kvm", [host]), "no model")
    missing = "<cpu mode='custom' match='exact'><model>Haswell</model><feature policy='require' name='avx512f'/><feature policy='require' name='ibs'/></cpu>"
    t.equal(conn.compareCPU(missing), lv.VIR_CPU_COMPARE_INCOMPATIBLE, "a CPU that no host is")
    refused(t, lv.VIR_ERR_INVALID_ARG, conn.getCPUModelNames, "z80")
    refused(t, lv.VIR_ERR_INVALID_ARG, conn.compareHypervisorCPU, None, None, "pseries", None, host)


@test(timeout=60, where="any")
def actions_and_messages(t):
    """What becomes of a domain can be changed while it runs; what is unusual about it is told, until it ends."""
    configure(t, user="root")
    t.virtkumod()
    c = Connection(t)
    cpu = "<cpu mode='host-passthrough'/>"
    dom = c.conn.defineXML(domain(t, extra=cpu))
    t.equal(dom.messages(), [], "messages of a domain that is off")
    dom.create()
    t.equal(len(dom.messages(lv.VIR_DOMAIN_MESSAGE_TAINTING)), 2, "messages")
    t.equal(dom.messages(lv.VIR_DOMAIN_MESSAGE_DEPRECATION), [], "deprecation messages")
    dom.setLifecycleAction(lv.VIR_DOMAIN_LIFECYCLE_POWEROFF, lv.VIR_DOMAIN_LIFECYCLE_ACTION_RESTART, LIVE)
    t.check("<on_poweroff>restart<" in dom.XMLDesc(0) and "<on_poweroff>destroy<" in dom.XMLDesc(INACTIVE), "the action is not the live one")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.setLifecycleAction, lv.VIR_DOMAIN_LIFECYCLE_CRASH, lv.VIR_DOMAIN_LIFECYCLE_ACTION_PRESERVE, LIVE)
    dom.shutdown()
    t.wait_for(lambda: c.reboots == ["vm"], "the restart")
    t.equal(dom.isActive(), 1, "activity")
    dom.setLifecycleAction(lv.VIR_DOMAIN_LIFECYCLE_REBOOT, lv.VIR_DOMAIN_LIFECYCLE_ACTION_DESTROY, CONFIG)
    t.check("<on_reboot>destroy<" in dom.XMLDesc(INACTIVE), "the action is not in the definition")
    dom.destroy()
    t.equal(dom.messages(), [], "messages afterwards")
