# SPDX-License-Identifier: LGPL-2.1-or-later
"""Limits that control groups hold a domain to: version 1 or 2, whichever the host has. Most have no VM in their VMM."""

import glob
import os
import time

import libvirt as lv

from harness import guest, test
from harness.virt import Connection, Stream, disk, domain, fake, kumo, process_of, refused, small, start

LIVE, CONFIG = lv.VIR_DOMAIN_AFFECT_LIVE, lv.VIR_DOMAIN_AFFECT_CONFIG
INACTIVE = lv.VIR_DOMAIN_XML_INACTIVE
V2 = os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def groups():
    """Every control group of a domain, as path below a hierarchy."""
    found = set()
    for root in ["/sys/fs/cgroup"] if V2 else glob.glob("/sys/fs/cgroup/*"):
        for path, names, _ in os.walk(os.path.join(root, "machine")):
            found |= {os.path.relpath(os.path.join(path, name), os.path.join(root, "machine")) for name in names}
    return found


def value(dom, controller, file, part=""):
    """What a file of a domain's group says."""
    root = "/sys/fs/cgroup" if V2 else f"/sys/fs/cgroup/{controller}"
    with open(f"{root}/machine/kumo-{dom.ID()}-{dom.name()}.libvirt-kumo/{part}/{file}", encoding="ascii") as stream:
        return stream.read().strip()


def quota(dom, part=""):
    """(period, quota) of a group, without a limit (period, -1)."""
    if V2:
        limit, period = value(dom, "cpu", "cpu.max", part).split()
        return int(period), -1 if limit == "max" else int(limit)
    return int(value(dom, "cpu", "cpu.cfs_period_us", part)), int(value(dom, "cpu", "cpu.cfs_quota_us", part))


def shares(dom):
    return int(value(dom, "cpu", "cpu.weight" if V2 else "cpu.shares"))


def memory(dom):
    return int(value(dom, "memory", "memory.max" if V2 else "memory.limit_in_bytes"))


def needs(t, *controllers):
    """Skips where the host has no such controllers to give."""
    t.libvirt_directories()
    have = []
    if V2:
        with open("/sys/fs/cgroup/cgroup.controllers", encoding="ascii") as stream:
            have = stream.read().split()
    elif os.path.isdir("/sys/fs/cgroup"):
        have = os.listdir("/sys/fs/cgroup")
    for controller in controllers:
        if controller not in have:
            t.skip(f"no cgroup controller {controller} here")


TUNED = """<memtune><hard_limit unit='MiB'>512</hard_limit></memtune>
  <cputune><shares>300</shares><period>50000</period><quota>20000</quota><global_period>100000</global_period><global_quota>150000</global_quota>
  <emulator_period>40000</emulator_period><emulator_quota>30000</emulator_quota></cputune>
  <numatune><memory mode='strict' nodeset='0'/></numatune>"""


def threads_of(dom):
    """The threads of a VMM: number, name, and the last part of the name of the control group."""
    tasks = f"/proc/{process_of(dom)}/task"
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/comm", encoding="ascii") as comm, open(f"{tasks}/{task}/cgroup", encoding="ascii") as file:
            group = next(line.rstrip().rpartition("/")[2] for line in file if line.startswith("0::") or not V2 and ":cpu:" in line or ":cpu," in line)
            yield int(task), comm.read().strip(), group


@test(timeout=60, where="host")
def limits_from_the_definition(t):
    """Each vCPU's thread is in its own group, the others in one; a vCPU that comes later, and those of another boot, too."""
    needs(t, "cpu", "cpuset", "memory")
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(small(t, "test=power", extra=TUNED.replace("<cputune>", "<vcpu current='1'>2</vcpu><cputune>")).replace("<vcpu>1</vcpu>", ""))
    dom.createWithFlags(lv.VIR_DOMAIN_START_PAUSED)
    t.check("<partition>/machine</partition>" in dom.XMLDesc(0), "no partition in the live definition")
    dom.resume()
    dom.setVcpus(2)
    t.equal(quota(dom), (100000, 150000), "limit of the whole")
    t.equal([quota(dom, part) for part in ("emulator", "vcpu0", "vcpu1")], [(40000, 30000), (50000, 20000), (50000, 20000)], "limits of threads")
    t.equal(memory(dom), 512 << 20, "limit of memory")
    t.equal(shares(dom), 300, "weight")
    for part in ("emulator", "vcpu0", "vcpu1"):
        t.equal(value(dom, "cpuset", "cpuset.mems", part), "0", f"NUMA nodes of {part}")

    def places():
        found = {}
        for _, name, group in threads_of(dom):
            if not name.startswith("kvm-"):  # the kernel's own, which the first vCPU to run started
                found.setdefault(name if name.startswith("vcpu") else "other", set()).add(group)
        return found

    expected = {"vcpu0": {"vcpu0"}, "vcpu1": {"vcpu1"}, "other": {"emulator"}}
    t.equal(places(), expected, "groups of threads")
    dom.reset()
    t.wait_for(lambda: places() == expected, "groups of threads after a reset")
    t.check(dom.getCPUStats(True)[0]["cpu_time"] > 0, "no processor time")
    dom.destroy()
    t.equal(groups(), set(), "groups left")


@test(timeout=60, where="host")
def limits_of_io_threads(t):
    """The threads of a disk that names an I/O thread are in its group, those of other disks with the emulator's; over a reset, a hotplug and by call."""
    needs(t, "cpu", "cpuset")
    t.virtkumod()
    c = Connection(t, events=False)
    images = [disk(t, f"{name}.img", target=f"vd{name}")[1] for name in "abc"]
    one, two, none = (xml.replace("<source", f"<driver name='qemu' type='raw'{words}/><source") for xml, words in
                      zip(images, (" queues='2' iothread='1'", " iothread='2'", "")))
    extra = ("<iothreads>2</iothreads><cputune><iothread_period>40000</iothread_period><iothread_quota>10000</iothread_quota>"
             "<iothreadsched iothreads='1' scheduler='batch'/></cputune>")
    dom, _ = start(t, c, small(t, "test=power", vcpus=2, extra=extra, devices=f"<serial type='pty'/>{one}{none}"))

    def threads():
        """Group and policy of each queue's thread."""
        return {name: (group, os.sched_getscheduler(tid)) for tid, name, group in threads_of(dom) if "_q" in name}

    expected = {"virtio-disk0_q0": ("iothread1", os.SCHED_BATCH), "virtio-disk0_q1": ("iothread1", os.SCHED_BATCH),
                "virtio-disk2_q0": ("emulator", os.SCHED_OTHER)}
    t.equal(threads(), expected, "groups of threads")
    t.equal([quota(dom, part) for part in ("iothread1", "iothread2")], [(40000, 10000)] * 2, "limits")
    dom.attachDevice(two)
    expected["virtio-disk1_q0"] = "iothread2", os.SCHED_OTHER
    t.equal(threads(), expected, "groups of threads after a disk has come")
    dom.reset()
    t.wait_for(lambda: threads() == expected, "groups of threads after a reset")
    dom.addIOThread(7, LIVE)
    t.equal(quota(dom, "iothread7"), (40000, 10000), "limit of a new one")
    dom.setSchedulerParametersFlags({"iothread_quota": 20000}, LIVE)
    t.equal([quota(dom, f"iothread{number}") for number in (1, 2, 7)], [(40000, 20000)] * 3, "limits that were changed")
    live = dom.schedulerParametersFlags(LIVE)
    t.equal((live["iothread_period"], live["iothread_quota"]), (40000, 20000), "live parameters")
    t.check("<iothread_quota>20000</iothread_quota>" in dom.XMLDesc(0) and "<iothread_quota>10000</iothread_quota>" in dom.XMLDesc(INACTIVE), "XML")
    t.run("virsh", "-c", c.uri, "schedinfo", "vm", "--config", "iothread_period=50000")
    t.equal(dom.schedulerParametersFlags(CONFIG)["iothread_period"], 50000, "defined parameter")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setSchedulerParametersFlags, {"iothread_quota": 1}, LIVE, text="iothread_quota")
    dom.delIOThread(7, LIVE)
    t.check(not any(group.endswith("iothread7") for group in groups()), "the group of an I/O thread that is gone")
    for number, name in enumerate("de"):
        xml = disk(t, f"{name}.img", target=f"vd{name}")[1].replace("<source", f"<driver name='qemu' type='raw' iothread='{number + 1}'/><source")
        dom.attachDevice(xml.replace("</disk>", f"<alias name='ua-much-too-long-{number}'/></disk>"))
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.addIOThread, 7, LIVE, text="ua-much-too-long-0")
    t.equal([thread[0] for thread in dom.ioThreadInfo(LIVE)], [1, 2], "I/O threads after a refusal")
    dom.destroy()
    t.equal(groups(), set(), "groups left")

    # Names of threads end after 15 characters.
    long = [xml.replace("</disk>", f"<alias name='ua-much-too-long-{number}'/></disk>") for number, xml in enumerate((one, two))]
    dom = c.conn.defineXML(small(t, "test=power", extra=extra, vcpus=2, devices=f"<serial type='pty'/>{long[0]}{long[1]}"))
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.create, text="'ua-much-too-long-0' and 'ua-much-too-long-1'")
    t.equal(groups(), set(), "groups left")


@test(timeout=60, where="any")
def limits_that_change(t):
    """schedinfo, memtune, numatune, live and in the definition; a refusal changes nothing."""
    needs(t, "cpu", "cpuset", "memory")
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t))
    for call in (lambda: dom.setSchedulerParametersFlags({"cpu_shares": 10}, LIVE), lambda: dom.memoryParameters(LIVE), lambda: dom.getCPUStats(True)):
        refused(t, lv.VIR_ERR_OPERATION_INVALID, call)
    dom.create()
    t.equal(tuple(dom.schedulerType()), ("posix", 9), "scheduler")

    for flags in (LIVE, CONFIG):  # the binding looks at what there is, which is of one kind
        dom.setSchedulerParametersFlags({"cpu_shares": 500, "global_quota": 70000, "emulator_period": 20000}, flags)
    t.equal((shares(dom), quota(dom), quota(dom, "emulator")), (500, (100000, 70000), (20000, -1)), "what the kernel does")
    live, config = dom.schedulerParametersFlags(LIVE), dom.schedulerParametersFlags(CONFIG)
    t.equal((live["cpu_shares"], live["global_quota"], live["emulator_period"]), (500, 70000, 20000), "live parameters")
    t.equal((config["cpu_shares"], config["global_quota"], config["vcpu_quota"]), (500, 70000, 0), "defined parameters")
    t.check("<global_quota>70000</global_quota>" in dom.XMLDesc(INACTIVE), "not in the definition")
    t.wait_for(lambda: c.tunables == [{"cputune.cpu_shares": 500, "cputune.emulator_period": 20000, "cputune.global_quota": 70000}], "the event")

    before = dom.XMLDesc(0), dom.XMLDesc(INACTIVE), shares(dom), quota(dom), quota(dom, "emulator")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setSchedulerParametersFlags, {"cpu_shares": 9, "global_quota": 1}, LIVE, text="global_quota")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setSchedulerParametersFlags, {"cpu_shares": 9, "vcpu_period": 10 << 20}, LIVE, text="vcpu_period")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setMemoryParameters, {"hard_limit": 1 << 20, "swap_hard_limit": 1 << 10}, LIVE)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setNumaParameters, {"numa_mode": lv.VIR_DOMAIN_NUMATUNE_MEM_INTERLEAVE, "numa_nodeset": "0"}, LIVE)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setNumaParameters, {"numa_nodeset": "0,^0"}, LIVE)
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setBlkioParameters, {"device_read_bytes_sec": "/dev/x"}, CONFIG)
    t.equal((dom.XMLDesc(0), dom.XMLDesc(INACTIVE), shares(dom), quota(dom), quota(dom, "emulator")), before, "after refusals")

    for flags in (LIVE, CONFIG):
        dom.setMemoryParameters({"hard_limit": 1 << 20, "soft_limit": 1 << 19}, flags)
    t.equal(memory(dom), 1 << 30, "limit of memory")
    t.equal(dom.memoryParameters(LIVE)["soft_limit"], 1 << 19, "live soft limit")
    t.check("<hard_limit unit='KiB'>1048576</hard_limit>" in dom.XMLDesc(INACTIVE), "not in the definition")
    for flags in (LIVE, CONFIG):
        dom.setNumaParameters({"numa_mode": lv.VIR_DOMAIN_NUMATUNE_MEM_STRICT, "numa_nodeset": "0"}, flags)
    t.equal(dom.numaParameters(LIVE), {"numa_mode": lv.VIR_DOMAIN_NUMATUNE_MEM_STRICT, "numa_nodeset": "0"}, "NUMA parameters")
    t.check("<memory mode='strict' nodeset='0'/>" in dom.XMLDesc(INACTIVE), "no numatune in the definition")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setNumaParameters, {"numa_mode": lv.VIR_DOMAIN_NUMATUNE_MEM_RESTRICTIVE}, LIVE)
    dom.setBlkioParameters({"device_read_bytes_sec": "/dev/null,1000000"}, CONFIG)
    t.equal(dom.blkioParameters(CONFIG)["device_read_bytes_sec"], "/dev/null,1000000", "defined limit of a disk")


@test(timeout=60, where="any")
def groups_come_and_go_with_the_domain(t):
    """They are found again by a new daemon, and removed though the VMM ended while there was none, or its start failed."""
    needs(t, "cpu", "cpuset", "memory")
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    for name in ("here", "gone"):
        c.conn.defineXML(domain(t, name, extra="<cputune><shares>300</shares></cputune>")).create()
    t.equal({group for group in groups() if "/" not in group}, {"kumo-1-here.libvirt-kumo", "kumo-2-gone.libvirt-kumo"}, "groups")
    broken = c.conn.defineXML(domain(t, "broken", emulator=fake(t, "-deny")))
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, broken.create)
    t.check(not any("broken" in group for group in groups()), f"a start that failed left {groups()}")

    pid = process_of(c.conn.lookupByName("gone"))
    daemon.kill()
    daemon.wait()
    os.kill(pid, 9)
    t.virtkumod()
    c = Connection(t, events=False)
    here = c.conn.lookupByName("here")
    here.setSchedulerParametersFlags({"cpu_shares": 400}, LIVE)
    t.equal(shares(here), 400, "weight")
    t.wait_for(lambda: not any("gone" in group for group in groups()), f"the groups' end: {groups()}")
    here.destroy()
    t.equal(groups(), set(), "groups left")


@test(timeout=60, where="any")
def a_host_without_controllers(t):
    """What the host cannot do is refused when the domain starts, by name; other domains run."""
    t.libvirt_directories()
    with open("/etc/libvirt/kumo.conf", "w", encoding="ascii") as stream:
        stream.write('cgroup_controllers = ["cpuacct"]\n')
    t.virtkumod()
    c = Connection(t, events=False)
    for name, extra in (("shares", "<cputune><shares>300</shares></cputune>"), ("quota", "<cputune><quota>3000</quota></cputune>"),
                        ("memtune", "<memtune><hard_limit>100000</hard_limit></memtune>"),
                        ("blkiotune", "<blkiotune><weight>300</weight></blkiotune>"),
                        ("numatune", "<numatune><memory mode='strict' nodeset='0'/></numatune>")):
        dom = c.conn.defineXML(domain(t, name, extra=extra))
        refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.create)
    dom = c.conn.defineXML(domain(t, "plain"))
    dom.create()
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.schedulerParameters, text="cpu")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setSchedulerParameters, {"cpu_shares": 3})
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setMemoryParameters, {"hard_limit": 1 << 20}, LIVE)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setNumaParameters, {"numa_nodeset": "0"}, LIVE)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.blkioParameters, LIVE)
    dom.setMemoryParameters({"hard_limit": 1 << 20}, CONFIG)
    t.check("<hard_limit unit='KiB'>1048576<" in dom.XMLDesc(INACTIVE), "not in the definition")


@test(timeout=150, where="lab")
def limits_of_a_real_disk(t):
    """blkiotune, from the definition and while the guest runs: it reads and writes a block device as fast as it may."""
    needs(t, "io" if V2 else "blkio")
    if not V2:
        t.skip("direct I/O alone is limited by version 1")
    with open(t.path("backing"), "wb") as file:
        file.truncate(64 << 20)
    device = t.run("losetup", "--find", "--show", t.path("backing")).strip()
    t.cleanup(t.run, "losetup", "--detach", device)
    number = f"{os.major(os.stat(device).st_rdev)}:{os.minor(os.stat(device).st_rdev)}"
    t.virtkumod()
    c = Connection(t, events=False)
    xml = f"<disk type='block'><driver type='raw' cache='none'/><source dev='{device}'/><target dev='vda' bus='virtio'/></disk>"
    tune = f"<blkiotune><weight>300</weight><device><path>{device}</path><read_bytes_sec>{1 << 20}</read_bytes_sec></device></blkiotune>"
    kernel = "bookworm-elf"
    dom = c.conn.defineXML(domain(t, words=guest.command_line(), path=guest.kernel(kernel), initrd=guest.initramfs(kernel), emulator=kumo(),
                                  devices=f"<serial type='pty'/>{xml}", memory=256, extra=tune))
    dom.create()

    def held_to():
        lines = value(dom, "io", "io.max").splitlines()
        return next((line.partition(" ")[2] for line in lines if line.startswith(f"{number} ")), None)

    t.equal((held_to(), value(dom, "io", "io.weight").splitlines()[0]), (f"rbps={1 << 20} wbps=max riops=max wiops=max", "default 300"), "limits at the start")
    console = Stream(t, c.conn, dom)
    console.expect(guest.READY, 60)
    place = 0

    def takes(command):
        """How long 3 MiB take that nobody has touched before."""
        nonlocal place
        place += 3
        begin = time.monotonic()
        console.shell(command.format(place=place), 60)
        return time.monotonic() - begin

    reads = "dd if=/dev/vda of=/dev/null bs=1M count=3 skip={place} 2>/dev/null"
    writes = "dd if=/dev/zero of=/dev/vda bs=1M count=3 seek={place} conv=fsync 2>/dev/null"
    slow = takes(reads)
    t.check(2.4 < slow < 20, f"3 MiB at 1 MiB per second were read in {slow} s")
    dom.setBlkioParameters({"device_read_bytes_sec": f"{device},0", "device_write_bytes_sec": f"{device},{1 << 20}"}, LIVE)
    t.equal(held_to(), f"rbps=max wbps={1 << 20} riops=max wiops=max", "limits after a change")
    fast, slow = takes(reads), takes(writes)
    t.check(fast < 2, f"3 MiB without a limit were read in {fast} s")
    t.check(2.4 < slow < 20, f"3 MiB at 1 MiB per second were written in {slow} s")
    dom.setBlkioParameters({"device_read_iops_sec": f"{device},2", "device_write_bytes_sec": f"{device},0", "weight": 500}, LIVE)
    t.equal((held_to(), value(dom, "io", "io.weight").splitlines()[0]), ("rbps=max wbps=max riops=2 wiops=max", "default 500"), "limits after another")
    slow = takes(reads)
    t.check(2.4 < slow < 40, f"3 MiB in 2 requests per second were read in {slow} s")
    live, config = dom.blkioParameters(LIVE), dom.blkioParameters(CONFIG)
    t.equal((live["weight"], live["device_read_iops_sec"], live["device_read_bytes_sec"]), (500, f"{device},2", ""), "live parameters")
    t.equal((config["weight"], config["device_read_bytes_sec"]), (300, f"{device},{1 << 20}"), "parameters of the definition")
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, dom.setBlkioParameters, {"device_read_iops_sec": "/nonexistent/disk,8"}, LIVE)
    t.equal(held_to(), "rbps=max wbps=max riops=2 wiops=max", "limits after a refusal")
    dom.destroy()
    t.equal(groups(), set(), "groups left")


@test(timeout=60, where="host")
def a_guest_that_ends_at_once(t):
    """Its vCPU threads may be gone before they are placed: it has started nevertheless."""
    needs(t, "cpu")
    t.virtkumod()
    c = Connection(t, events=False)
    # Without a serial port it reads all ones, which is no word that it knows.
    dom = c.conn.defineXML(small(t, "test=power", devices="", vcpus=3))
    for _ in range(12):
        dom.create()
        c.state(dom, lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
