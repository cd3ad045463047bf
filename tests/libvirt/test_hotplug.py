# SPDX-License-Identifier: LGPL-2.1-or-later
"""Devices that come to a running domain, leave it or change in it, with a small guest on the other side."""

import os
import re
import xml.etree.ElementTree as ElementTree

import libvirt as lv

from harness import test
from harness.pattern import pattern
from harness.virt import Connection, Stream, configure, disk, domain, fake, refused, small

LIVE, CONFIG = lv.VIR_DOMAIN_AFFECT_LIVE, lv.VIR_DOMAIN_AFFECT_CONFIG
NIC = "<interface type='ethernet'><mac address='52:54:00:00:00:07'/><target dev='tap7'/><model type='virtio'/>{}</interface>"


def begin(t, **options):
    """A running guest that follows orders. Returns the connection, the domain, and how to give an order."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(small(t, "test=hotplug", vcpus=2, **options))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.expect("^ready")

    def tell(letter, expected):
        console.send(letter)
        return console.expect(expected)

    return c, dom, tell


def images(t):
    path, xml = disk(t, "new.img", 8 << 20, "vdb")
    with open(path, "r+b") as stream:
        stream.write(pattern(1 << 20))
    os.chown(path, 1234, 1235)
    return path, xml


@test(timeout=60, where="host")
def disks_come_and_go(t):
    """Attach live and in the definition, by XML and by alias; the guest sees each, and the image is its owner's again."""
    c, dom, tell = begin(t)
    path, xml = images(t)
    dom.attachDeviceFlags(xml, LIVE | CONFIG)
    tell("c", r"^came slot \d+;")
    t.wait_for(lambda: c.devices == [("added", "virtio-disk1")], "the event")
    t.check("<alias name='virtio-disk1'/>" in dom.XMLDesc(0), "no alias in the live definition")
    t.check("vdb" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "not in the definition")
    t.check(os.stat(path).st_uid != 1234, "the image was not labelled")
    refused(t, lv.VIR_ERR_XML_ERROR, dom.attachDeviceFlags, xml, LIVE, text="vdb")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.attachDeviceFlags, xml, CONFIG, text="vdb")

    size = 16 << 20
    dom.blockResize("vdb", size, lv.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    t.equal(tell("r", r"^sectors (\d+);")[1], str(size // 512), "sectors")
    t.equal(os.stat(path).st_size, size, "size of the file")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.blockResize, "vdx", 1024)

    dom.detachDeviceFlags(xml, CONFIG)
    t.check("vdb" not in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "still in the definition")
    c.background(dom.detachDeviceFlags, xml, LIVE)
    tell("g", r"^went slot \d+;")
    t.wait_for(lambda: c.devices[1:] == [("removed", "virtio-disk1")], "the event")
    t.check("vdb" not in dom.XMLDesc(0), "still in the live definition")
    t.equal(os.stat(path).st_uid, 1234, "owner of the image")
    c.join()
    refused(t, lv.VIR_ERR_DEVICE_MISSING, dom.detachDeviceFlags, xml, LIVE, text="vdb")
    refused(t, lv.VIR_ERR_DEVICE_MISSING, dom.detachDeviceFlags, xml, CONFIG, text="vdb")
    refused(t, lv.VIR_ERR_INTERNAL_ERROR, dom.detachDeviceAlias, "virtio-disk1", LIVE, text="virtio-disk1")  # libvirt's own code

    dom.attachDevice(xml)
    tell("c", r"^came slot \d+;")
    c.background(dom.detachDeviceAlias, "virtio-disk1", LIVE)
    tell("g", r"^went slot \d+;")
    c.join()
    t.check("vdb" not in dom.XMLDesc(0), "detached by its alias it is still there")


@test(timeout=60, where="host")
def a_guest_that_keeps_its_disk(t):
    """A detach that the guest does not answer succeeds as a request; the device goes when the guest lets it."""
    c, dom, tell = begin(t)
    path, xml = images(t)
    dom.attachDevice(xml)
    tell("c", r"^came slot \d+;")
    c.background(dom.detachDevice, xml)
    tell("i", r"^ignored slot \d+;")
    c.join()
    t.check("vdb" in dom.XMLDesc(0), "gone though the guest has it")
    c.background(dom.detachDevice, xml)
    tell("i", r"^ignored slot \d+;")
    c.join()
    t.equal(c.devices, [("added", "virtio-disk1")], "events")
    dom.reset()
    t.wait_for(lambda: c.devices[1:] == [("removed", "virtio-disk1")], "the event after a reset")
    t.check("vdb" not in dom.XMLDesc(0), "still there after a reset")
    t.equal(os.stat(path).st_uid, 1234, "owner of the image")


def change_media(t, *words, status=0):
    return t.run("virsh", "-c", "kumo:///system", "change-media", "vm", "sda", *words, status=status)


@test(timeout=90, where="host")
def media_that_are_changed(t):
    """An empty drive, as virt-install and virt-manager leave it: a medium comes as a device and goes as one, the drive stays."""
    empty = "<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><target dev='sda' bus='sata'/><readonly/></disk>"
    c, dom, tell = begin(t, devices=f"<serial type='pty'/>{empty}")
    trays = []
    c.conn.domainEventRegisterAny(None, lv.VIR_DOMAIN_EVENT_ID_TRAY_CHANGE, lambda conn, dom, alias, what, opaque: trays.append((alias, what)), None)
    first = images(t)[0]
    second = disk(t, "second.iso", 8 << 20)[0]
    with open(second, "r+b") as stream:
        stream.write(pattern(1 << 20))

    def source(flags=0):
        found = ElementTree.fromstring(dom.XMLDesc(flags)).find("devices/disk[@device='cdrom']/source")
        return None if found is None else found.get("file")

    t.equal((source(), source(lv.VIR_DOMAIN_XML_INACTIVE)), (None, None), "what is in the drive")
    t.equal(dom.blockStats("sda"), (0, 0, 0, 0, -1), "what was read of an empty drive")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.blockInfo, "sda", text="sda")
    t.check(c.conn.getAllDomainStats(lv.VIR_DOMAIN_STATS_BLOCK)[0][1]["block.count"] == 1, "statistics of an empty drive")
    # The definition alone, then the running domain alone.
    change_media(t, first, "--insert", "--config")
    t.equal((source(), source(lv.VIR_DOMAIN_XML_INACTIVE)), (None, first), "what is in the drive")
    change_media(t, "--eject", "--config")
    change_media(t, first, "--insert", "--live")
    t.equal((source(), source(lv.VIR_DOMAIN_XML_INACTIVE)), (first, None), "what is in the drive")
    tell("c", r"^came slot \d+;")
    t.check(os.stat(first).st_uid != 1234, "the image was not labelled")
    t.check("has media" in change_media(t, second, "--insert", "--live", status=1), "a second medium")

    # A guest that does not let it go: an error, and the medium is there; a reset takes it.
    c.background(dom.updateDeviceFlags, empty, LIVE)
    tell("i", r"^ignored slot \d+;")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, c.join, text="'sda'")
    t.equal(source(), first, "what is in the drive")
    t.check("tray='open'" in dom.XMLDesc(0), "the tray of a medium that is asked for")
    dom.reset()
    t.wait_for(lambda: source() is None, "the medium's end")
    t.check("tray" not in dom.XMLDesc(0), "the tray of an empty drive")

    # A guest that lets it go; and one medium for another.
    tell("\n", "^ready")
    change_media(t, first, "--insert", "--live")
    tell("c", r"^came slot \d+;")
    c.background(dom.updateDeviceFlags, empty.replace("<target", f"<source file='{second}'/><target"), LIVE)
    tell("g", r"^went slot \d+;")
    c.join()
    t.equal(source(), second, "what is in the drive")
    tell("c", r"^came slot \d+;")
    c.background(dom.updateDeviceFlags, empty, LIVE)
    tell("g", r"^went slot \d+;")
    c.join()
    t.equal(source(), None, "what is in the drive")
    t.wait_for(lambda: len(trays) == 6, f"the tray's events: {trays}")
    t.equal(trays, [("virtio-disk-sda", lv.VIR_DOMAIN_EVENT_TRAY_CHANGE_CLOSE), ("virtio-disk-sda", lv.VIR_DOMAIN_EVENT_TRAY_CHANGE_OPEN)] * 3, "trays")
    t.equal(c.devices, [], "events of devices")

    # What cannot be put in leaves the drive empty.
    t.check("nowhere" in change_media(t, t.path("nowhere"), "--insert", "--live", status=1), "a medium that is not there")
    t.equal(source(), None, "what is in the drive")
    dom.detachDeviceFlags(empty, LIVE)
    t.check("cdrom" not in dom.XMLDesc(0), "the drive")
    dom.attachDeviceFlags(empty, LIVE)
    t.check("cdrom" in dom.XMLDesc(0), "no drive")


@test(timeout=60, where="any")
def half_of_an_update(t):
    """An update whose first half is done when the second fails: the next daemon knows the half, and the definition has nothing of it."""
    configure(t, binary=fake(t))
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    drive = "<disk type='file' device='cdrom'>{}<driver name='qemu' type='raw'/><target dev='sda' bus='sata'/><readonly/></disk>"
    dom = c.conn.defineXML(domain(t, devices=drive.format("")))
    dom.create()
    wanted = drive.format(f"<source file='{t.path('none.iso')}'/><iotune><total_iops_sec>77</total_iops_sec></iotune>")
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, dom.updateDeviceFlags, wanted, LIVE | CONFIG, text="none.iso")
    live = dom.XMLDesc(0)
    t.check("<total_iops_sec>77<" in live and "none.iso" not in live, live)
    t.check("iotune" not in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "the definition has it")
    c.conn.close()
    daemon.kill()
    daemon.wait()
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    t.equal(dom.XMLDesc(0), live, "what the next daemon knows")
    dom.destroy()


@test(timeout=60, where="host")
def a_cdrom_as_tools_ask_for_it(t):
    """On a bus of a PC, with a name that another disk has on its bus: a read-only virtio disk with a slot and an id of its own."""
    first = disk(t)[1]
    config = disk(t, "config.iso")[1].replace("<disk type='file'", "<disk type='file' device='cdrom'").replace("dev='vda' bus='virtio'", "dev='hda' bus='ide'")
    c, dom, tell = begin(t, devices=f"<serial type='pty'/>{first}{config}")
    live = ElementTree.fromstring(dom.XMLDesc(0))
    t.equal([(found.find("target").get("dev"), found.find("target").get("bus"), found.find("alias").get("name"), found.find("address").get("slot"))
             for found in live.iter("disk")],
            [("vda", "virtio", "virtio-disk0", "0x01"), ("hda", "virtio", "virtio-disk-hda", "0x02")], "disks")
    path, xml = images(t)
    dom.attachDeviceFlags(xml.replace("<disk type='file'", "<disk type='file' device='cdrom'").replace("dev='vdb' bus='virtio'", "dev='sda' bus='sata'"), LIVE)
    tell("c", r"^came slot \d+;")
    t.wait_for(lambda: c.devices == [("added", "virtio-disk-sda")], "the event")
    added = next(found for found in ElementTree.fromstring(dom.XMLDesc(0)).iter("disk") if found.find("source").get("file") == path)
    t.check(added.find("readonly") is not None and added.find("address").get("type") == "pci", "it can be written, or has no slot")


@test(timeout=60, where="host")
def what_cannot_be_attached(t):
    """A refusal leaves domain, definition and host as they were."""
    c, dom, _ = begin(t)
    before = dom.XMLDesc(0), dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE)
    path, xml = images(t)
    unsupported, config = lv.VIR_ERR_OPERATION_UNSUPPORTED, lv.VIR_ERR_CONFIG_UNSUPPORTED
    floppy = f"<disk type='file' device='floppy'><source file='{path}'/><target dev='fda' bus='fdc'/></disk>"
    for code, device in ((config, floppy), (unsupported, "<controller type='usb' index='3'/>"),
                         (unsupported, "<rng model='virtio'><backend model='random'/></rng>"),
                         (config, xml.replace("<disk type='file'", "<disk type='file' device='lun'")),
                         (lv.VIR_ERR_SYSTEM_ERROR, xml.replace(path, "/nonexistent")),
                         (lv.VIR_ERR_XML_DETAIL, "no XML")):
        refused(t, code, dom.attachDeviceFlags, device, LIVE)
    refused(t, config, dom.attachDeviceFlags, "<rng model='virtio'><backend model='random'/></rng>", CONFIG, text="rng[2]")
    refused(t, unsupported, dom.attachDeviceFlags, "<graphics type='vnc'/>", CONFIG)
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.attachDeviceFlags, xml, 1 << 9)
    t.equal((dom.XMLDesc(0), dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE)), before, "definitions")
    t.equal(os.stat(path).st_uid, 1234, "owner of the image")
    t.equal(c.devices, [], "events")
    dom.destroy()
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.attachDevice, xml)
    dom.attachDeviceFlags(xml, lv.VIR_DOMAIN_AFFECT_CURRENT)
    t.check("vdb" in dom.XMLDesc(0), "not in the definition of a domain that is off")
    dom.detachDeviceFlags(xml, CONFIG)


@test(timeout=60, where="host")
def interfaces_come_change_and_go(t):
    """A tap is made for a NIC that comes; its link goes down and up before the guest's eyes, in the definition too."""
    t.network()
    c, dom, tell = begin(t)
    dom.attachDeviceFlags(NIC.format(""), LIVE | CONFIG)
    tell("c", r"^came slot \d+;")
    t.run("ip", "link", "show", "tap7")
    t.check("<alias name='net0'/>" in dom.XMLDesc(0), "no alias")
    for state, seen in (("down", "0"), ("up", "1")):
        dom.updateDeviceFlags(NIC.format(f"<link state='{state}'/>"), LIVE | CONFIG)
        t.equal(tell("l", r"^link (\d);")[1], seen, f"link {state}")
        for flags in (0, lv.VIR_DOMAIN_XML_INACTIVE):
            t.check(f"<link state='{state}'/>" in dom.XMLDesc(flags), f"link {state} is not in the XML")
    changed = NIC.format("<mtu size='1400'/>")
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.updateDeviceFlags, changed, LIVE, text="MTU")
    dom.updateDeviceFlags(changed, CONFIG)
    t.check("1400" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "the MTU is not in the definition")
    other = NIC.format("").replace(":07", ":08")
    refused(t, lv.VIR_ERR_DEVICE_MISSING, dom.updateDeviceFlags, other, LIVE)
    refused(t, lv.VIR_ERR_DEVICE_MISSING, dom.detachDeviceFlags, other, LIVE)

    c.background(dom.detachDeviceFlags, NIC.format(""), LIVE | CONFIG)
    tell("g", r"^went slot \d+;")
    c.join()
    t.wait_for(lambda: c.devices == [("added", "net0"), ("removed", "net0")], "the events")
    t.check("interface" not in dom.XMLDesc(0) + dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "it is still there")
    t.run("ip", "link", "show", "tap7", status=1)


@test(timeout=60, where="host")
def a_reader_stays_at_the_console(t):
    """virsh console and the like outlive a reboot that the guest does by powering off."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(small(t, "test=power wait=1"))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.send("s")
    console.expect("^ready")
    tty = re.search("/dev/pts/[0-9]+", dom.XMLDesc(0))[0]
    dom.reboot()
    console.send("q")
    t.wait_for(lambda: c.reboots == ["vm"], "the reboot's event")
    t.equal(re.search("/dev/pts/[0-9]+", dom.XMLDesc(0))[0], tty, "the terminal")
    console.send("s")
    console.expect("^ready")


@test(timeout=60, where="any")
def what_a_disk_and_a_refusal_are_told_by(t):
    """Errors of the host, a mark that a write went beyond, a guest that will not let a device go."""
    t.virtkumod()
    c = Connection(t)
    path, xml = disk(t)
    dom = c.conn.defineXML(domain(t, words="fake.keep", devices=xml))
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setBlockThreshold, "vda", 4096)
    dom.create()
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setBlockThreshold, "vdx", 4096)
    dom.setBlockThreshold("vda", 4096)
    t.wait_for(lambda: c.disks == [("threshold", "vda", path, 4096, 512), ("error", path, "virtio-disk0", "enospc"),
                                   ("error", path, "virtio-disk0", "")], "what the disk tells")
    if lv.getVersion() >= 11001000:
        message, = dom.messages(lv.VIR_DOMAIN_MESSAGE_IOERRORS)
        t.check("disk='vda'" in message and path in message and "EIO" in message, message)
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, dom.detachDevice, xml, text="virtio-disk0")
    t.wait_for(lambda: c.devices == [("kept", "virtio-disk0")], "the event of the refusal")
    t.check("vda" in dom.XMLDesc(0), "gone though the guest has it")


@test(timeout=60, where="any")
def what_an_agent_would_be_asked(t):
    """The answers of a domain without an agent, which tools know."""
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t))
    calls = (dom.getTime, lambda: dom.setTime(time={"seconds": 1, "nseconds": 0}), lambda: dom.setUserPassword("root", "x"), dom.fsFreeze,
             dom.fsThaw, lambda: dom.fSTrim(None, 0), dom.fsInfo, dom.guestInfo, dom.hostname)
    for code, prepare in ((lv.VIR_ERR_OPERATION_INVALID, None), (lv.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.create),
                          (lv.VIR_ERR_OPERATION_INVALID, dom.suspend)):
        if prepare:
            prepare()
        for call in calls:
            refused(t, code, call)


@test(timeout=60, where="host")
def a_disk_that_gets_full(t):
    """The guest writes beyond the mark, and then beyond what its image's file system has room for."""
    t.virtkumod()
    c = Connection(t)
    small_disk = t.path("small")
    os.mkdir(small_disk)
    t.run("mount", "-t", "tmpfs", "-o", "size=2m,mode=711", "none", small_disk)
    t.cleanup(t.run, "umount", "-l", small_disk)
    path, xml = disk(t, "small/disk.img", 4 << 20)
    with open(path, "r+b") as stream:
        stream.write(pattern(1 << 20))
    dom = c.conn.defineXML(small(t, "test=blk", devices="<serial type='pty'/>" + xml))
    dom.createWithFlags(lv.VIR_DOMAIN_START_PAUSED)
    dom.setBlockThreshold("vda", 1 << 20)
    dom.resume()
    t.wait_for(lambda: {event[0] for event in c.disks} == {"threshold", "error"}, "the events", 20)
    mark = next(event for event in c.disks if event[0] == "threshold")
    t.equal(mark[:4], ("threshold", "vda", path, 1 << 20), "the mark")
    t.check(mark[4] > 0, "nothing was written beyond the mark")
    t.check(("error", path, "virtio-disk0", "enospc") in c.disks, f"what the disk tells: {c.disks}")


@test(timeout=60, where="host")
def a_guest_that_refuses(t):
    """It says so: the detach fails at once, and the device stays."""
    c, dom, tell = begin(t)
    path, xml = images(t)
    dom.attachDevice(xml)
    tell("c", r"^came slot \d+;")
    c.background(dom.detachDevice, xml)
    tell("o", r"^refused slot \d+;")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, c.join, text="virtio-disk1")
    t.wait_for(lambda: c.devices == [("added", "virtio-disk1"), ("kept", "virtio-disk1")], "the events")
    t.check("vdb" in dom.XMLDesc(0), "gone though the guest has it")
    t.check(os.stat(path).st_uid != 1234, "the image's label")
    c.background(dom.detachDevice, xml)
    tell("g", r"^went slot \d+;")
    c.join()
    t.equal(os.stat(path).st_uid, 1234, "owner of the image")
