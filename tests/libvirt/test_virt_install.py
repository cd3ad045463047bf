# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-install, virt-clone and virt-xml: what they write, and that it works."""

import re
import xml.etree.ElementTree as ElementTree

import libvirt as lv

from harness import test
from harness.virt import Connection, configure, disk, fake, libvirtd, nat_network

URI = "kumo:///system"
BASE = ("--connect", URI, "--import", "--noautoconsole")  # "import" takes the disk as it is


def print_xml(t, *arguments):
    return ElementTree.fromstring(t.run("virt-install", *BASE, "--print-xml", *arguments, timeout=60))


@test(timeout=60, where="any")
def what_virt_install_writes(t):
    """The XML that --print-xml makes of our capabilities is one that the driver takes, and --dry-run agrees."""
    libvirtd(t)
    configure(t, binary=fake(t))
    t.virtkumod()
    c = Connection(t, events=False)
    image = disk(t, "web.raw")[0]
    arguments = ("--name", "web", "--memory", "256", "--vcpus", "2", "--osinfo", "debian11", "--network", "none", "--disk",
                 f"path={image}", "--boot", f"kernel={image},kernel_args=console=ttyS0")
    found = print_xml(t, *arguments)
    found.remove(found.find("uuid"))
    found.remove(found.find("metadata"))
    t.equal(ElementTree.canonicalize(ElementTree.tostring(found), strip_text=True), ElementTree.canonicalize(f"""
<domain type="kvm"><name>web</name><memory>262144</memory><currentMemory>262144</currentMemory><vcpu>2</vcpu>
<os><type arch="x86_64" machine="kumo-1">hvm</type><kernel>{image}</kernel><cmdline>console=ttyS0</cmdline></os>
<features><acpi/><apic/></features><clock offset="utc"/>
<devices><emulator>{fake(t)}</emulator>
<disk type="file" device="disk"><source file="{image}"/><target dev="hda" bus="ide"/></disk>
<console type="pty"/><input type="tablet" bus="usb"/><graphics type="vnc" port="-1"/><video><model type="vga"/></video>
</devices></domain>""", strip_text=True), "XML")
    dom = c.conn.defineXML(ElementTree.tostring(found, encoding="unicode"))
    t.check(not re.search("<graphics|<video|<input", dom.XMLDesc(0)), "a screen is left in the definition")
    dom.create()
    dom.destroy()
    dom.undefine()
    t.check("Dry run completed" in t.run("virt-install", *BASE, "--dry-run", *arguments), "--dry-run")
    t.equal(c.conn.listAllDomains(), [], "domains after --dry-run")


@test(timeout=60, where="any")
def an_empty_drive(t):
    """A CD-ROM drive as virt-install makes one; virt-xml and virsh put a medium into it, and take it out."""
    libvirtd(t)
    configure(t, binary=fake(t))
    t.virtkumod()
    c = Connection(t, events=False)
    image, iso = disk(t, "web.raw")[0], disk(t, "tools.iso")[0]
    t.run("virt-install", *BASE, "--name", "web", "--memory", "256", "--osinfo", "debian11", "--network", "none", "--boot", f"kernel={image}",
          "--disk", f"path={image}", "--disk", "device=cdrom", timeout=60)
    dom = c.conn.lookupByName("web")

    def drive(flags):
        found = ElementTree.fromstring(dom.XMLDesc(flags)).find("devices/disk[@device='cdrom']")
        source = found.find("source")
        return found.find("target").get("dev"), None if source is None else source.get("file")

    target, source = drive(0)
    t.equal(source, None, "what is in the drive")
    t.run("virt-xml", "--connect", URI, "web", "--edit", f"target={target}", "--disk", f"path={iso}", timeout=60)
    t.equal(drive(lv.VIR_DOMAIN_XML_INACTIVE), (target, iso), "the drive of the definition")
    t.run("virsh", "-c", URI, "change-media", "web", target, "--eject", "--config")
    t.equal(drive(lv.VIR_DOMAIN_XML_INACTIVE), (target, None), "the drive of the definition")
    t.run("virsh", "-c", URI, "change-media", "web", target, iso, "--insert", "--live")
    t.equal(drive(0), (target, iso), "the drive")
    dom.destroy()
    dom.create()
    t.equal(drive(0), (target, None), "the drive at the next start")


@test(timeout=90, where="any")
def transient_then_persistent(t):
    """virt-install starts a transient domain and defines it while it runs; --transient and --autostart do as they say."""
    libvirtd(t)
    configure(t, binary=fake(t))
    t.virtkumod()
    c = Connection(t)
    image = disk(t, "web.raw")[0]
    common = ("--memory", "256", "--osinfo", "debian11", "--network", "none", "--boot", f"kernel={image}")
    t.run("virt-install", *BASE, "--name", "web", "--autostart", "--disk", f"path={image}", *common, timeout=60)
    dom = c.conn.lookupByName("web")
    t.equal((dom.isActive(), dom.isPersistent(), dom.autostart()), (1, 1, 1), "active, persistent, autostart")
    t.equal(c.lifecycle["web"][0][0], lv.VIR_DOMAIN_EVENT_STARTED, "first event")
    t.check((lv.VIR_DOMAIN_EVENT_DEFINED, lv.VIR_DOMAIN_EVENT_DEFINED_ADDED) in c.lifecycle["web"], "it was not defined afterwards")
    dom.destroy()
    dom.undefine()
    t.run("virt-install", *BASE, "--name", "web", "--transient", "--disk", "none", *common, timeout=60)
    dom = c.conn.lookupByName("web")
    t.equal((dom.isActive(), dom.isPersistent()), (1, 0), "active, persistent")
    dom.destroy()
    t.equal(c.conn.listAllDomains(), [], "domains")


@test(timeout=90, where="any")
def clone_and_edit(t):
    """virt-clone copies disk and definition under a new name, UUID and MAC; virt-xml edits, adds and removes, live as well."""
    libvirtd(t)
    configure(t, binary=fake(t))
    t.virtkumod()
    c = Connection(t, events=False)
    nat_network(t, c.conn)
    image = disk(t, "web.raw")[0]
    with open(image, "r+b") as stream:
        stream.write(b"kumo")
    xml = print_xml(t, "--name", "web", "--memory", "256", "--osinfo", "debian11", "--network", "network=default,model=virtio", "--disk",
                    f"path={image},format=raw", "--boot", f"kernel={image}")
    web = c.conn.defineXML(ElementTree.tostring(xml, encoding="unicode"))
    copy = t.path("copy.raw")
    t.run("virt-clone", "--connect", URI, "--original", "web", "--name", "copy", "--file", copy, timeout=60)
    with open(copy, "rb") as stream:
        t.equal(stream.read(4), b"kumo", "the copied disk")
    clone = ElementTree.fromstring(c.conn.lookupByName("copy").XMLDesc(0))
    original = ElementTree.fromstring(web.XMLDesc(0))
    t.equal(clone.find("devices/disk/source").get("file"), copy, "the clone's disk")
    for path, attribute in (("uuid", None), ("devices/interface/mac", "address")):
        one, other = (tree.find(path).get(attribute) if attribute else tree.findtext(path) for tree in (original, clone))
        t.check(one != other, f"original and clone have the same {path}: {one}")

    def edit(*arguments):
        return t.run("virt-xml", "--connect", URI, "copy", *arguments, timeout=60)

    edit("--edit", "--memory", "memory=512,currentMemory=512")
    edit("--edit", "--vcpus", "4")
    edit("--edit", "--metadata", "title=A copy")
    extra = disk(t, "extra.raw")[0]
    dom = c.conn.lookupByName("copy")
    t.equal((dom.maxMemory(), dom.vcpusFlags(lv.VIR_DOMAIN_VCPU_MAXIMUM), dom.metadata(lv.VIR_DOMAIN_METADATA_TITLE, None)), (512 << 10, 4, "A copy"), "edited")
    dom.create()
    edit("--add-device", "--disk", f"path={extra},format=raw,target.bus=virtio,target.dev=vdb", "--update")
    for flags in (0, lv.VIR_DOMAIN_XML_INACTIVE):
        t.check(extra in dom.XMLDesc(flags), f"no new disk in the definition with flags {flags}")
    edit("--remove-device", "--disk", "target.dev=vdb", "--update")
    for flags in (0, lv.VIR_DOMAIN_XML_INACTIVE):
        t.check(extra not in dom.XMLDesc(flags), f"the new disk is still in the definition with flags {flags}")
    dom.destroy()
