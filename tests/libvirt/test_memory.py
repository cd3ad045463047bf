# SPDX-License-Identifier: LGPL-2.1-or-later
"""NUMA nodes and memory devices through libvirt, as a stock kernel sees them."""

import glob
import json
import os
import re
import time

import libvirt as lv

from harness import guest, test
from harness.virt import Connection, Stream, configure, domain, fake, kumo, process_of, refused, small, start

MIB = 1024  # KiB
LIVE, CONFIG = lv.VIR_DOMAIN_AFFECT_LIVE, lv.VIR_DOMAIN_AFFECT_CONFIG
SERIAL = "<serial type='pty'/>"


def module(mib):
    return f"<memory model='dimm'><target><size unit='MiB'>{mib}</size></target></memory>"


def virtio_mem(requested, alias="", node="<node>1</node>"):
    return (f"<memory model='virtio-mem'><target><size unit='MiB'>128</size>{node}<block unit='MiB'>2</block>"
            f"<requested unit='MiB'>{requested}</requested></target>{alias}</memory>")


@test(timeout=60, where="lab")  # a host may not let root lock as it likes
def locked_memory(t):
    """All of the guest's memory is in RAM and stays there, taken by as many threads as are asked for."""
    t.virtkumod()
    c = Connection(t)
    backing = "<memoryBacking><locked/><allocation mode='immediate' threads='2'/></memoryBacking>"
    dom, _ = start(t, c, small(t, "test=power", extra=backing))
    with open(f"/proc/{process_of(dom)}/status", encoding="ascii") as stream:
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB$", stream.read(), re.MULTILINE))
    t.check(int(found["VmLck"]) >= 64 * MIB, f"locked: {found['VmLck']} KiB")
    t.check(int(found["VmRSS"]) >= 64 * MIB, f"resident: {found['VmRSS']} KiB")
    socket = glob.glob("/run/libvirt/kumo/**/api.sock", recursive=True)[0]
    memory = json.loads(t.run("kumo-remote", "--api-socket", socket, "info"))["config"]["memory"]
    t.equal((memory["lock"], memory["prefault"], memory["prefault_threads"]), (True, True, 2), "the VMM's memory")
    dom.destroy()
    # Of other domains nothing is locked.
    dom = c.conn.defineXML(small(t, "test=power"))
    dom.create()
    with open(f"/proc/{process_of(dom)}/status", encoding="ascii") as stream:
        t.check(int(re.search(r"^VmLck:\s+(\d+)", stream.read(), re.MULTILINE)[1]) < 64 * MIB, "locked without being asked for")


@test(timeout=60, where="host")
def locked_memory_that_is_too_little(t):
    """A hard limit below the guest's memory: the VMM, or who lets it lock, says what it is about."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(small(t, "test=power", extra="<memoryBacking><locked/></memoryBacking><memtune><hard_limit unit='MiB'>4</hard_limit></memtune>"))
    refused(t, lv.VIR_ERR_OPERATION_FAILED, dom.create, text="lock")


def policies(pid):
    """The policies of a process's memory."""
    with open(f"/proc/{pid}/numa_maps", encoding="utf-8") as stream:
        return {line.split()[1] for line in stream}


@test(timeout=60, where="host")
def memory_from_nodes_in_turn(t):
    """The modes of numatune that are the policy of the process, as the kernel tells of it."""
    if not os.path.exists("/proc/self/numa_maps"):
        t.skip("the host's kernel has no NUMA")
    t.virtkumod()
    c = Connection(t)
    for mode, policy in (("interleave", "interleave:0"), ("preferred", "prefer")):
        dom, _ = start(t, c, small(t, "test=power", extra=f"<numatune><memory mode='{mode}' nodeset='0'/></numatune>"))
        found = policies(process_of(dom))
        t.check(all(one.startswith(policy) for one in found), f"{mode}: {found}")
        shown = t.run("virsh", "-c", c.uri, "numatune", "vm")
        t.check(mode in shown and re.search(r"numa_nodeset *: 0$", shown, re.MULTILINE), shown)
        refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setNumaParameters, {"numa_mode": lv.VIR_DOMAIN_NUMATUNE_MEM_STRICT}, LIVE)
        refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setNumaParameters, {"numa_nodeset": "0"}, LIVE)
        dom.setNumaParameters({"numa_mode": lv.VIR_DOMAIN_NUMATUNE_MEM_STRICT}, CONFIG)
        t.check("<memory mode='strict' nodeset='0'/>" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "the definition")
        dom.destroy()
    dom = c.conn.defineXML(small(t, "test=power"))
    dom.create()
    t.equal(policies(process_of(dom)), {"default"}, "of a domain that says nothing")
    dom.destroy()
    dom = c.conn.defineXML(small(t, "test=power", extra="<numatune><memory mode='interleave' nodeset='0,63'/></numatune>"))
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.create, text="63")


def mapped(dom, path):
    """How a VMM has mapped a file: {permissions: KiB in memory}."""
    with open(f"/proc/{process_of(dom)}/smaps", encoding="ascii") as stream:
        found = re.findall(rf"^\S+ (\S+) \S+ \S+ \d+ +{re.escape(path)}$.*?^Rss: +(\d+) kB", stream.read(), re.MULTILINE | re.DOTALL)
    return {permissions: sum(int(kib) for other, kib in found if other == permissions) for permissions, _ in found}


@test(timeout=60, where="host")
def memory_in_a_file(t):
    """The guest's memory is in a file of the VMM's user while the domain runs, over a restart of the daemon and a save."""
    def backing(mode):
        return f"<memoryBacking><source type='file'/><access mode='{mode}'/><discard/></memoryBacking>"

    configure(t)
    daemon = t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(small(t, "test=power", extra=backing("shared")))
    t.check("<source type='file'/>" in t.run("virsh", "-c", c.uri, "dumpxml", "vm"), "the definition")
    dom.create()
    Stream(t, c.conn, dom).expect("^ready")
    directory = f"/var/lib/libvirt/kumo/ram/{dom.ID()}-vm"
    path = f"{directory}/ram"
    status = os.stat(path)
    t.equal((status.st_size, status.st_mode & 0o777, os.stat(directory).st_mode & 0o777), (64 << 20, 0o600, 0o711), "the file's size, the modes")
    t.equal(status.st_uid, os.stat(f"/proc/{process_of(dom)}").st_uid, "the file's owner")
    t.equal(os.stat(directory).st_uid, 0, "the owner of the directory, where the VMM's user has nothing to put")
    t.check(status.st_blocks > 0, "nothing is in the file")
    t.check("rw-s" in mapped(dom, path), f"mappings: {mapped(dom, path)}")
    with open(path, "rb") as stream:
        t.check(b"test=power" in stream.read(16 << 20), "the guest's command line is not in the file")

    daemon.kill()
    daemon.wait()
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.lookupByName("vm")
    t.wait_for(lambda: dom.state()[0] == lv.VIR_DOMAIN_RUNNING, "the domain to be found")
    dom.managedSave()
    t.equal(os.listdir("/var/lib/libvirt/kumo/ram"), [], "files after the save")
    dom.create()
    path = f"/var/lib/libvirt/kumo/ram/{dom.ID()}-vm/ram"
    with open(path, "rb") as stream:
        t.check(b"test=power" in stream.read(16 << 20), "the guest's command line is not in the new file")
    dom.destroy()
    t.equal(os.listdir("/var/lib/libvirt/kumo/ram"), [], "files afterwards")

    # Private: what the guest writes is its own. Huge pages are no file's, parts of the memory have one each.
    nodes = "<vcpu>2</vcpu><cpu><numa><cell id='0' cpus='0' memory='32768'/><cell id='1' cpus='1' memory='32768' memAccess='shared'/></numa></cpu>"
    dom, _ = start(t, c, small(t, "test=power", extra=backing("private") + nodes).replace("<vcpu>1</vcpu>", ""))
    directory = f"/var/lib/libvirt/kumo/ram/{dom.ID()}-vm"
    t.equal(sorted(os.listdir(directory)), ["ram-node0", "ram-node1"], "files")
    t.check("rw-p" in mapped(dom, f"{directory}/ram-node0"), "the first node is not private")
    t.check("rw-s" in mapped(dom, f"{directory}/ram-node1"), "the second node is not shared")
    with open(f"{directory}/ram-node0", "rb") as stream:
        t.check(not any(stream.read()), "something of the guest's is in the file")
    dom.destroy()


@test(timeout=60, where="host")
def memory_in_a_file_elsewhere(t):
    """memory_backing_dir: another place, and one where there is nothing to be had."""
    place = t.path("memory")
    os.mkdir(place)
    os.chmod(place, 0o711)
    configure(t, memory_backing_dir=place)
    daemon = t.virtkumod()
    c = Connection(t)
    extra = "<memoryBacking><source type='file'/></memoryBacking>"
    dom, _ = start(t, c, small(t, "test=power", extra=extra))
    first = os.listdir(place)
    t.equal(first, [f"{dom.ID()}-vm"], "directories")
    # A daemon that is told of another place meanwhile removes what is in the old one.
    configure(t, memory_backing_dir="/proc/nowhere")
    daemon.kill()
    daemon.wait()
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.lookupByName("vm")
    dom.destroy()
    t.equal(os.listdir(place), [], "directories afterwards")
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, dom.create, text="/proc/nowhere")
    t.equal(dom.isActive(), 0, "activity")


@test(timeout=60, where="any")
def memory_where_others_write(t):
    """Where anybody may make files, as in /dev/shm, what is found in a domain's place is left alone, and what it may lead to."""
    place, precious = t.path("memory"), t.path("precious")
    for directory in (place, precious):
        os.mkdir(directory)
    os.chmod(place, 0o1777)
    kept = os.path.join(precious, "kept")
    with open(kept, "w", encoding="ascii"):
        pass
    configure(t, memory_backing_dir=place, binary=fake(t))
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t, extra="<memoryBacking><source type='file'/></memoryBacking>"))
    dom.create()
    number = dom.ID()
    dom.destroy()
    link, foreign = f"{place}/{number + 1}-vm", f"{place}/{number + 2}-vm"
    os.symlink(precious, link)
    os.mkdir(foreign)
    os.chown(foreign, 65534, 65534)
    with open(f"{foreign}/file", "w", encoding="ascii"):
        pass
    for path in (link, foreign):
        refused(t, lv.VIR_ERR_SYSTEM_ERROR, dom.create, text=path)
    t.equal((os.listdir(precious), os.readlink(link), os.listdir(foreign)), (["kept"], precious, ["file"]), "what others have there")
    # What a daemon left that was killed is the driver's own.
    os.mkdir(f"{place}/{number + 3}-vm")
    with open(f"{place}/{number + 3}-vm/old", "w", encoding="ascii"):
        pass
    dom.create()
    t.equal(os.listdir(f"{place}/{dom.ID()}-vm"), ["ram"], "files")
    # Nor does it remove what somebody else puts into its place.
    os.rename(f"{place}/{dom.ID()}-vm", f"{place}/moved")
    os.symlink(precious, f"{place}/{dom.ID()}-vm")
    dom.destroy()
    t.equal(os.listdir(precious), ["kept"], "what is behind a link")


def stock(t, extra, devices, memory, vcpus=1):
    kernel = "trixie-elf"
    return domain(t, words=guest.command_line("memhp_default_state=online_movable"), path=guest.kernel(kernel),
                  initrd=guest.initramfs(kernel), emulator=kumo(), extra=extra, devices=SERIAL + devices, memory=memory, vcpus=vcpus)


def shell(console, command):
    console.send(f"{command}; echo end-$((6 * 7))\n")
    return console.expect(r"([\s\S]*?)^end-42")[1]


def node_kib(console, number):
    return int(re.search(r"MemTotal:\s+(\d+)", shell(console, f"cat /sys/devices/system/node/node{number}/meminfo"))[1])


@test(timeout=150, where="lab")
def nodes_and_virtio_mem(t):
    """The guest has the nodes, their CPUs, memory and distance; one of them grows and shrinks, and an event tells what it has."""
    t.virtkumod()
    c = Connection(t)
    sizes = []
    c.conn.domainEventRegisterAny(None, lv.VIR_DOMAIN_EVENT_ID_MEMORY_DEVICE_SIZE_CHANGE,
                                  lambda conn, dom, alias, size, opaque: sizes.append((alias, size)), None)
    extra = ("<maxMemory slots='1' unit='MiB'>1024</maxMemory><numatune><memory mode='strict' nodeset='0'/></numatune>"
             "<cpu mode='host-passthrough'><numa><cell id='0' cpus='0' memory='192' unit='MiB'>"
             "<distances><sibling id='0' value='10'/><sibling id='1' value='31'/></distances></cell>"
             "<cell id='1' cpus='1' memory='128' unit='MiB' memAccess='shared'/></numa></cpu>")
    dom = c.conn.defineXML(stock(t, extra, virtio_mem(64), 448, vcpus=2))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.expect(guest.READY, 60)
    t.wait_for(lambda: ("virtiomem0", 64 * MIB) in sizes, "the event of the start", 30)
    t.check("<current unit='KiB'>65536</current>" in dom.XMLDesc(0), "size of the device in the live XML")
    t.equal(dom.info()[2], 384 * MIB, "what the guest has")
    t.equal(shell(console, "cat /sys/devices/system/node/node1/distance").split()[-2:], ["31", "10"], "distances")
    t.check("1" in shell(console, "cat /sys/devices/system/node/node1/cpulist").split(), "CPU of node 1")
    kib = node_kib(console, 1)

    alias = "<alias name='virtiomem0'/>"
    address = re.search(r"<memory model='virtio-mem'>[\s\S]*?(<address type='pci'.*?/>)", dom.XMLDesc(0))[1]
    dom.updateDeviceFlags(virtio_mem(128, alias + address), LIVE)
    t.wait_for(lambda: sizes[-1] == ("virtiomem0", 128 * MIB), "more memory", 30)
    t.wait_for(lambda: node_kib(console, 1) == kib + 64 * MIB, "the new memory to be node 1's", 20)
    dom.updateDeviceFlags(virtio_mem(0, alias + address), LIVE)
    t.wait_for(lambda: sizes[-1] == ("virtiomem0", 0), "less memory", 30)
    t.wait_for(lambda: node_kib(console, 1) == kib - 64 * MIB, "node 1 to have less", 20)
    t.equal(dom.info()[2], 320 * MIB, "what the guest has at last")
    t.check("<requested unit='KiB'>65536</requested>" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "the definition changed")
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.attachDeviceFlags, module(128), LIVE)
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.attachDeviceFlags, virtio_mem(0, node="<node>0</node>"), LIVE)
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.updateDeviceFlags,
            virtio_mem(0, alias + address).replace("<node>1<", "<node>0<"), LIVE, text="node")
    dom.destroy()


@test(timeout=120, where="lab")
def statistics_of_the_balloon(t):
    """A guest that was started without a period tells its statistics from when one is given until it is taken away."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(stock(t, "", "<memballoon model='virtio'/>", 256))
    dom.create()
    Stream(t, c.conn, dom).expect(guest.READY, 60)

    def virsh(*words):
        return dict(line.split() for line in t.run("virsh", "-c", c.uri, "dommemstat", "vm", *words).splitlines() if line)

    first = virsh().get("last_update")  # Linux tells some when its driver starts
    time.sleep(2.5)
    t.equal(virsh().get("last_update"), first, "time of statistics that nobody asks for")
    virsh("--period", "1", "--live")
    t.wait_for(lambda: virsh().get("last_update") != first, "statistics", 20, every=0.2)
    seen = virsh()
    t.check(0 < int(seen["unused"]) < int(seen["available"]) <= 256 * MIB and int(seen["minor_fault"]) > 0, f"statistics: {seen}")
    t.wait_for(lambda: int(virsh()["last_update"]) >= int(seen["last_update"]) + 2, "later ones", 20, every=0.5)
    virsh("--period", "0", "--current")
    last = virsh()["last_update"]
    time.sleep(2.5)
    t.equal(virsh()["last_update"], last, "time of the last statistics")
    t.check("<stats" not in dom.XMLDesc(0) + dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "a period in the XML")
    virsh("--period", "2", "--live", "--config")
    t.check("<stats period='2'/>" in dom.XMLDesc(0) and "<stats period='2'/>" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "no period in the XML")
    t.wait_for(lambda: virsh()["last_update"] != last, "statistics again", 20, every=0.2)
    dom.destroy()


@test(timeout=120, where="lab")
def modules_are_added(t):
    """A memory module comes to a running guest, live and in the definition; none leaves it."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(stock(t, "<maxMemory slots='3' unit='MiB'>704</maxMemory>", module(64), 320))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.expect(guest.READY, 60)

    def total():
        return int(re.search(r"MemTotal:\s+(\d+)", shell(console, "grep MemTotal /proc/meminfo"))[1])

    before = total()
    t.equal(dom.info()[1:3], [320 * MIB, 320 * MIB], "memory")
    dom.attachDeviceFlags(module(128), LIVE | CONFIG)
    t.wait_for(lambda: total() > before + 120 * MIB, "the guest to have more", 30)
    t.equal(dom.info()[1:3], [448 * MIB, 448 * MIB], "memory")
    t.equal(c.devices, [("added", "dimm1")], "events")
    t.check("<address type='dimm' slot='1'/>" in dom.XMLDesc(0), "slot in the live XML")
    t.equal(dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE).count("<memory model='dimm'"), 2, "modules in the definition")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.attachDeviceFlags, module(64), LIVE, text="128 MiB")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.attachDeviceFlags, module(384), LIVE, text="maxMemory")
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.detachDeviceFlags, module(128), LIVE)
    dom.attachDeviceFlags(module(128), LIVE)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.attachDeviceFlags, module(128), LIVE, text="slots")
    dom.detachDeviceFlags(module(128), CONFIG)
    t.equal(dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE).count("<memory model='dimm'"), 1, "modules in the definition")
    dom.reset()
    console = Stream(t, c.conn, dom)
    console.expect(guest.READY, 60)
    t.check(total() > before + 250 * MIB, "what was added is not there after a reset")
    dom.destroy()


@test(timeout=60, where="host")
def a_node_of_the_host(t):
    """Memory is bound to the host's node; one that there is not keeps the domain from starting."""
    t.virtkumod()
    c = Connection(t, events=False)
    for node, there in (("0", True), ("77", False)):
        dom = c.conn.defineXML(small(t, "test=power", extra=f"<numatune><memory mode='strict' nodeset='{node}'/></numatune>"))
        if there:
            dom.create()
            with open(f"/proc/{process_of(dom)}/numa_maps", encoding="ascii") as stream:
                t.check("bind:0" in stream.read(), "no memory is bound to node 0")
            dom.destroy()
        else:
            refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.create)

