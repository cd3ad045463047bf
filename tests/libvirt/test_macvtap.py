# SPDX-License-Identifier: LGPL-2.1-or-later
"""Interfaces of type direct: a macvtap on a network device of the host. It outlives its descriptors, so each test looks whether one
is left when its interface has gone."""

import json
import os
import re
import socket
import time

import libvirt as lv

from harness import cases, guest, test
from harness.virt import Connection, Host, Stream, disk, domain, fake, kumo, libvirtd, refused, small, start

MAC = "52:54:00:12:34:56"  # what the small guest expects


def nic(mode="bridge", mac=MAC, parent="cable0", more=""):
    return f"<interface type='direct'><mac address='{mac}'/><source dev='{parent}' mode='{mode}'/><model type='virtio'/>{more}</interface>"


def host(t, *cables):
    """Cables whose ends have the host's addresses. Nodes of macvtaps are in /dev for all namespaces together and have the number of
    the interface: a test that runs at the same time shall not get the same numbers."""
    t.network()
    batch = "".join(f"link add spare{number} type veth peer name peer{number}\n" for number in range(10 + os.getpid() % 30))
    for number, cable in enumerate(cables or ("cable",)):
        batch += f"link add {cable}0 type veth peer name {cable}1\naddress add 192.168.{77 + number}.1/24 dev {cable}1\n"
        batch += f"link set {cable}0 up\nlink set {cable}1 up\n"
    with open(t.path("links"), "w", encoding="ascii") as stream:
        stream.write(batch)
    t.run("ip", "-batch", t.path("links"))


def macvtaps(t):
    """{name: what ip says of it}"""
    links = json.loads(t.run("ip", "-json", "-details", "link"))
    return {link["ifname"]: link for link in links if link.get("linkinfo", {}).get("info_kind") == "macvtap"}


def address(t, name):
    return json.loads(t.run("ip", "-json", "link", "show", name))[0]["address"]


def name_in(dom):
    return re.search(r"<target dev='(macvtap\d+)'/>", dom.XMLDesc(0))[1]


@test(timeout=60, where="any")
@cases(mode=(("bridge", "bridge"), ("vepa", "vepa"), ("private", "private"), ("passthrough", "passthru")))
def modes(t, mode):
    """As it is asked for, and gone at the end; a device that was passed through has its own address again."""
    host(t)
    t.run("ip", "link", "set", "cable0", "down")
    before = address(t, "cable0")
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t, devices=nic(mode[0], more="<mtu size='1400'/>")))
    dom.createWithFlags(lv.VIR_DOMAIN_START_PAUSED)
    t.check("UP" not in macvtaps(t)[name_in(dom)]["flags"], "the macvtap is up though the guest does not run")
    dom.resume()
    made = macvtaps(t)
    t.equal(list(made), [name_in(dom)], "macvtaps")
    link = made[name_in(dom)]
    t.equal((link["link"], link["address"], link["mtu"], link["linkinfo"]["info_data"]["mode"]), ("cable0", MAC, 1400, mode[1]), "the macvtap")
    t.check("UP" in link["flags"], "it is not up")
    t.check("UP" in t.run("ip", "link", "show", "cable0"), "the device below is not up")
    t.equal(address(t, "cable0") == MAC, mode[0] == "passthrough", "whether the device has the guest's address")
    t.equal(dom.interfaceStats(name_in(dom))[3], 0, "errors")
    if mode[0] == "passthrough":
        other = c.conn.defineXML(domain(t, "other", devices=nic(mode[0], "52:54:00:00:00:09")))
        refused(t, lv.VIR_ERR_OPERATION_FAILED, other.create, text="cable0 is already passed through")
        t.equal(address(t, "cable0"), MAC, "address after the refusal")
        unwritable = "<serial type='file'><source path='/none/log'/></serial>"
        other = c.conn.defineXML(domain(t, "other", devices=unwritable + nic(mode[0], more="<target dev='mine0'/>")))
        refused(t, lv.VIR_ERR_SYSTEM_ERROR, other.create, text="/none/log")
        t.equal(address(t, "cable0"), MAC, "address after a start that got nowhere")
    dom.destroy()
    t.equal(macvtaps(t), {}, "macvtaps afterwards")
    t.equal(address(t, "cable0"), before, "address of the device afterwards")


@test(timeout=60, where="any")
def a_start_that_fails(t):
    """Nothing is left of it, and nothing taken that is another's."""
    host(t)
    t.virtkumod()
    c = Connection(t, events=False)
    first = c.conn.defineXML(domain(t, "first", devices=nic(more="<target dev='mine0'/>")))
    first.create()
    t.equal(list(macvtaps(t)), ["mine0"], "macvtaps")
    for code, text, devices in ((lv.VIR_ERR_OPERATION_FAILED, "device mine0", nic("bridge", "52:54:00:00:00:02") + nic(more="<target dev='mine0'/>")),
                                (lv.VIR_ERR_OPERATION_FAILED, "no network device none0", nic(parent="none0") + nic(more="<target dev='mine0'/>")),
                                (lv.VIR_ERR_SYSTEM_ERROR, "MTU", nic("bridge", "52:54:00:00:00:02", more="<mtu size='9000'/>"))):
        dom = c.conn.defineXML(domain(t, devices=devices))
        refused(t, code, dom.create, text=text)
        t.equal(list(macvtaps(t)), ["mine0"], f"macvtaps after '{text}'")
        refused(t, code, first.attachDevice, devices[devices.rindex("<interface"):] if "none0" not in text else nic(parent="none0"), text=text)
        t.equal(list(macvtaps(t)), ["mine0"], f"macvtaps after an attach with '{text}'")
    dead = c.conn.defineXML(domain(t, emulator=fake(t, "-dead"), devices=nic("bridge", "52:54:00:00:00:02")))
    try:
        dead.create()
        t.check(False, "the VMM does not live")
    except lv.libvirtError:
        pass
    t.equal(list(macvtaps(t)), ["mine0"], "macvtaps after the end of the VMM")
    first.destroy()
    t.equal(macvtaps(t), {}, "macvtaps afterwards")


@test(timeout=60, where="host")
@cases(queues=(1, 2))
def a_guest(t, queues):
    """The small guest talks with the host at the other end of the cable."""
    host(t)
    t.virtkumod()
    c = Connection(t)
    more = f"<driver queues='{queues}'/>" if queues > 1 else ""
    dom = c.conn.defineXML(small(t, f"test=net pairs={queues}", vcpus=queues, devices="<serial type='pty'/>" + nic(more=more)))
    dom.create()
    console = Stream(t, c.conn, dom)
    match = console.expect(r"^1\.\.\d+\r?\n", 30)
    # A tap answers where the guest sent; a macvtap spreads what it receives by a hash, which the guest cannot foretell.
    steps = [step for step in re.findall(r"^(?:not )?ok \d+ - .*", match.string[:match.end()], re.MULTILINE)
             if queues == 1 or not re.search("by pair|interrupts for received", step)]
    t.equal([step for step in steps if step.startswith("not")], [], "steps that failed")
    t.equal(sum("40 of 40 echo requests are answered" in step for step in steps), 2 * queues - 1, "rounds of echo requests")
    t.wait_for(lambda: not dom.isActive(), "the guest's end")
    t.equal(macvtaps(t), {}, "macvtaps afterwards")


@test(timeout=60, where="host")
def hotplug(t):
    host(t)
    t.virtkumod()
    c = Connection(t)
    dom, console = start(t, c, small(t, "test=hotplug", vcpus=2))
    dom.attachDevice(nic())
    console.send("c")
    console.expect(r"^came slot \d+;")
    t.equal(list(macvtaps(t)), [name_in(dom)], "macvtaps")
    t.check("UP" in macvtaps(t)[name_in(dom)]["flags"], "it is not up")
    for changed in (nic(parent="cable1"), nic("vepa")):
        refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.updateDeviceFlags, changed, lv.VIR_DOMAIN_AFFECT_LIVE)
    dom.updateDeviceFlags(nic(more="<link state='down'/>"), lv.VIR_DOMAIN_AFFECT_LIVE)
    t.check("<link state='down'/>" in dom.XMLDesc(0), "the link's state")
    c.background(dom.detachDevice, nic())
    console.send("g")
    console.expect(r"^went slot \d+;")
    c.join()
    t.wait_for(lambda: macvtaps(t) == {}, "the macvtap's end")


@test(timeout=90, where="any")
@cases(moment=("vm.create", "vm.boot", "running", "vm.add-net", "gone"))
def the_daemon_is_killed(t, moment):
    """In the middle of a start or an attach, or while the domain runs or ends: the next daemon removes what the first one made."""
    host(t)
    before = address(t, "cable0")
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    words = f"fake.silent={moment}" if "vm." in moment else ""
    attach = moment == "vm.add-net"
    dom = c.conn.defineXML(domain(t, words=words, devices="" if attach else nic("passthrough")))
    log = "/var/log/libvirt/kumo/vm.log"
    if attach:
        with open(t.path("nic.xml"), "w", encoding="ascii") as stream:
            stream.write(nic("passthrough"))
    call = ("attach-device", "vm", t.path("nic.xml")) if attach else ("start", "vm")
    if words and not attach:
        client = t.start("virsh", "-c", "kumo:///system", *call)
    else:
        dom.create()
        client = attach and t.start("virsh", "-c", "kumo:///system", *call)

    def asked():
        if not os.path.exists(log):
            return False
        with open(log, encoding="utf-8", errors="replace") as stream:
            return f"fake: {moment}, and no answer" in stream.read()

    if words:
        t.wait_for(asked, f"the middle of {call[0]}", every=0.005)
    t.equal(len(macvtaps(t)), 1, "macvtaps")
    pid = int(open(f"/run/libvirt/kumo/domain-{dom.ID()}-vm/pid", encoding="ascii").read()) if moment == "gone" else 0
    daemon.kill()
    daemon.wait()
    if client:
        client.wait(20)
    if pid:
        os.kill(pid, 9)
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    if moment == "running":
        t.equal(list(macvtaps(t)), [name_in(dom)], "macvtaps of the running domain")
        dom.destroy()
    elif attach:
        t.wait_for(lambda: "direct" not in dom.XMLDesc(0), "the interface's end in the definition")
        t.equal(dom.isActive(), 1, "activity")
    else:
        t.wait_for(lambda: not dom.isActive(), "the domain's end")
    t.wait_for(lambda: macvtaps(t) == {}, "the macvtap's end")
    t.wait_for(lambda: address(t, "cable0") == before, "the device's own address")


@test(timeout=90, where="any")
@cases(mode=("bridge", "private", "vepa", "passthrough"))
def a_network(t, mode):
    """Interfaces of a libvirt network that hands out its devices."""
    host(t, "cable", "wire")
    libvirtd(t)
    t.virtkumod()
    c = Connection(t, events=False)
    network = c.conn.networkDefineXML(f"<network><name>pool</name><forward mode='{mode}'><interface dev='cable0'/><interface dev='wire0'/></forward></network>")
    network.create()
    t.cleanup(network.destroy)
    devices = "".join(f"<interface type='network'><mac address='52:54:00:00:00:{mac:02}'/><source network='pool'/></interface>" for mac in (1, 2))
    dom = c.conn.defineXML(domain(t, devices=devices))
    dom.create()
    t.equal(sorted(macvtaps(t)), sorted(re.findall(r"<target dev='(macvtap\d+)'/>", dom.XMLDesc(0))), "macvtaps")
    t.equal({link["link"] for link in macvtaps(t).values()}, {"cable0", "wire0"}, "devices of the network")
    t.equal(len(network.listAllPorts()), 2, "ports")
    dom.destroy()
    t.equal((macvtaps(t), network.listAllPorts()), ({}, []), "macvtaps and ports afterwards")
    filtered = c.conn.defineXML(domain(t, "filtered", devices=devices.replace("</interface>", "<filterref filter='clean-traffic'/></interface>")))
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, filtered.create, text="filterref of a network")
    t.equal((macvtaps(t), network.listAllPorts()), ({}, []), "macvtaps and ports after the refusal")


@test(timeout=90, where="host")
@cases(way=("precopy", "postcopy"))
def migrates(t, way):
    """Two hosts that are one: only one end's macvtap, of one address on one device, is up at a time."""
    host(t)
    root = 'user = "root"\ngroup = "root"\n' if way == "postcopy" else ""  # it may use userfaultfd on any host
    here, there = Host(t, "here", root), Host(t, "there", root)
    path, xml = disk(t, "vm.img", 8 << 20)
    os.chmod(path, 0o666)
    words = "test=snapshot cpus=1 max_cpus=1 memory_mib=64 wait=1 churn=1000"
    dom = here.conn.defineXML(small(t, words, memory=64, devices=f"<serial type='pty'/>{nic()}{xml}"))
    dom.create()
    console = Stream(t, here.conn, dom)
    console.send("s")
    console.expect(r"^round 2\r?\n", 60)
    source = name_in(dom)

    def up():
        return {name: "UP" in link["flags"] for name, link in macvtaps(t).items()}

    def go(mib=0):
        params = {lv.VIR_MIGRATE_PARAM_BANDWIDTH: mib} if mib else {}
        flags = lv.VIR_MIGRATE_LIVE | lv.VIR_MIGRATE_UNSAFE | (lv.VIR_MIGRATE_POSTCOPY if way == "postcopy" else 0)
        return dom.migrate3(there.conn, params, flags)

    # One that is called off.
    here.background(go, 1)
    t.wait_for(lambda: len(up()) == 2 and dom.jobStats().get("data_processed", 0) > 1 << 20, "the migration to be under way")
    target = next(name for name in up() if name != source)
    t.equal((up(), {link["address"] for link in macvtaps(t).values()}), ({source: True, target: False}, {MAC}), "macvtaps during a migration")
    dom.abortJob()
    refused(t, lv.VIR_ERR_OPERATION_ABORTED, here.join)
    t.wait_for(lambda: up() == {source: True}, "the destination's macvtap to be gone")

    # One that comes to its end.
    if way == "postcopy":
        here.background(go, 1)
        t.wait_for(lambda: dom.jobStats().get("data_processed", 0) > 1 << 20, "the migration to be under way")
        dom.migrateStartPostCopy()
        here.join()
    else:
        go()
    moved = there.conn.lookupByName("vm")
    t.equal((up(), name_in(moved) in up()), ({name_in(moved): True}, True), "macvtaps afterwards")
    t.equal(macvtaps(t)[name_in(moved)]["address"], MAC, "address")
    Stream(t, there.conn, moved).expect(r"^round \d+\r?\n", 60)

    # Back, to a guest that stands still: it is up when the guest runs.
    moved.suspend()
    moved.migrate3(here.conn, {}, lv.VIR_MIGRATE_LIVE | lv.VIR_MIGRATE_UNSAFE)
    back = here.conn.lookupByName("vm")
    t.equal(up(), {name_in(back): False}, "macvtaps of a guest that stands still")
    back.resume()
    t.equal(up(), {name_in(back): True}, "macvtaps of a guest that runs")
    back.destroy()
    t.equal(macvtaps(t), {}, "macvtaps at the end")


LIMITS = "<bandwidth><inbound average='1000' peak='2000' burst='64'/><outbound average='200'/></bandwidth>"
SENT_BYTES = 1024 << 10
RECEIVED_BYTES = 3000 << 10


def limits(t, name):
    """What tc knows: (sent by the guest, received by it)."""
    sent = re.search(r"rate (\S+) ", t.run("tc", "class", "show", "dev", name))
    received = re.search(r"police .* rate (\S+) ", t.run("tc", "filter", "show", "dev", name, "parent", "ffff:"))
    return tuple(found and found[1].lower() for found in (sent, received))


def seconds(console, command, work):
    """How long a connection of the guest's to port 7000 takes that WORK serves."""
    with socket.create_server(("192.168.77.1", 7000)) as server:
        console.send(command + "\n")
        connection, _ = server.accept()
        with connection:
            begin = time.monotonic()
            work(connection)
            return time.monotonic() - begin


def receive(connection):
    count = 0
    while data := connection.recv(65536):
        count += len(data)
    if count != SENT_BYTES:
        raise ValueError(f"{count} bytes came")


def send(connection):
    connection.sendall(bytes(RECEIVED_BYTES))
    connection.shutdown(socket.SHUT_WR)
    if connection.recv(1) != b"":
        raise ValueError("the guest has sent something")


@test(timeout=150, where="lab")
def bandwidth(t):
    """A real guest is held to the limits, each in its direction; they change while it runs, and come back with the daemon."""
    host(t)
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    words = guest.command_line(run=("ip:192.168.77.2/24", "ping:192.168.77.1"))
    dom = c.conn.defineXML(domain(t, words=words, path=guest.kernel("bookworm-elf"), initrd=guest.initramfs("bookworm-elf"), emulator=kumo(),
                                  devices="<serial type='pty'/>" + nic(more=LIMITS), memory=256))
    dom.create()
    t.equal(limits(t, name_in(dom)), ("1600kbit", "8mbit"), "limits at the start")
    console = Stream(t, c.conn, dom)
    console.expect(guest.READY, 60)
    sends = f"dd if=/dev/zero bs=1k count={SENT_BYTES >> 10} | nc 192.168.77.1 7000"
    received = seconds(console, "nc 192.168.77.1 7000 </dev/null >/dev/null", send)
    t.check(2.4 < received < 40, f"{RECEIVED_BYTES} bytes at 1000 KiB per second took {received} s")
    slow = seconds(console, sends, receive)
    t.check(4.5 < slow < 20, f"{SENT_BYTES} bytes at 200 KiB per second took {slow} s")
    dom.setInterfaceParameters(MAC, {"outbound.average": 0}, lv.VIR_DOMAIN_AFFECT_LIVE)
    t.equal(limits(t, name_in(dom)), (None, "8mbit"), "limits after a change")
    fast = seconds(console, sends, receive)
    t.check(fast < 0.7 * slow, f"{SENT_BYTES} bytes took {fast} s without a limit, {slow} s with it")
    console.close()

    dom.setInterfaceParameters(MAC, {"outbound.average": 250}, lv.VIR_DOMAIN_AFFECT_LIVE)
    name = name_in(dom)
    daemon.kill()
    daemon.wait()
    for which in ("root", "ingress"):
        t.run("tc", "qdisc", "del", "dev", name, which)
    t.equal(limits(t, name), (None, None), "limits that somebody removed")
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    t.wait_for(lambda: limits(t, name_in(dom)) == ("2mbit", "8mbit"), "the limits to be back")
    dom.destroy()
    t.equal(macvtaps(t), {}, "macvtaps afterwards")
