# SPDX-License-Identifier: LGPL-2.1-or-later
"""AppArmor confines the daemon and its VMs: the installed profiles in force in a stock kernel."""

import os
import re
import shutil

import libvirt as lv

from harness import test
from harness.context import mount
from harness.installation import installed, start_installed
from harness.virt import Connection, Stream, disk, domain, guest_elf, process_of

FILESYSTEM = "/sys/kernel/security"
PROFILES = ("usr.sbin.virtkumod", "usr.lib.libvirt.virt-aa-helper")
IMAGES = "/var/lib/libvirt/images"


def profile_of(pid):
    with open(f"/proc/{pid}/attr/current", encoding="ascii") as stream:
        return stream.read().rstrip("\n\0")


def denials(t):
    return [line for line in t.run("dmesg").splitlines() if 'apparmor="DENIED"' in line]


@test(timeout=120, where="lab")
def confined(t):
    """A VM lives its life without a denial: disks, a tap, a disk that comes later, save and restore, an end. It may not read what
    is not its own."""
    if os.environ.get("KUMO_IN_LAB") != "1":
        t.skip("it would load profiles into this host's kernel")
    installed(t)
    mount("securityfs", FILESYSTEM, "securityfs")
    with open("/sys/module/apparmor/parameters/enabled", encoding="ascii") as stream:
        t.equal(stream.read(), "Y\n", "AppArmor in this kernel")
    with open("/etc/apparmor.d/abstractions/libvirt-qemu", encoding="utf-8") as stream:
        if "libvirt-qemu.d" not in stream.read():
            with open("/etc/apparmor.d/local/abstractions/libvirt-qemu", "a", encoding="ascii") as local:
                local.write("#include <abstractions/libvirt-kumo>\n")
    with open("/etc/libvirt/kumo.conf", "a", encoding="ascii") as stream:
        stream.write('security_driver = "apparmor"\n')
    for name in PROFILES:
        t.run("apparmor_parser", "-r", f"/etc/apparmor.d/{name}", timeout=60)
        t.cleanup(t.run, "apparmor_parser", "-R", f"/etc/apparmor.d/{name}")
    before = len(denials(t))
    daemon = start_installed(t)
    t.equal(profile_of(daemon.pid), "/usr/sbin/virtkumod (enforce)", "the daemon's profile")

    os.makedirs(IMAGES)
    first, second = (disk(t, f"{name}.img", target=name) for name in ("vda", "vdb"))
    kernel = shutil.move(guest_elf(t), f"{IMAGES}/guest.elf")
    for path, _ in (first, second):
        shutil.move(path, IMAGES)
    one, two = (xml.replace(t.directory, IMAGES) for _, xml in (first, second))
    c = Connection(t, events=False)
    tap = "<interface type='ethernet'><target dev='tap7'/></interface>"
    dom = c.conn.defineXML(domain(t, words="test=power wait=1", path=kernel, emulator="", devices=f"<serial type='pty'/>{one}{tap}"))
    dom.create()
    name = f"libvirt-{dom.UUIDString()}"
    t.equal(profile_of(process_of(dom)), f"{name} (enforce)", "the VMM's profile")
    t.equal(dom.securityLabel(), [name, True], "the label that libvirt tells")
    console = Stream(t, c.conn, dom)
    console.send("s")
    console.expect("^ready")
    console.close()
    dom.attachDevice(two)
    t.equal(dom.blockInfo("vdb")[0], 1 << 20, "the size of the disk that was added")

    def may_read(path):
        return "denied" not in t.run("aa-exec", "-p", name, "--", "cat", path, status=None)

    t.check(may_read(f"{IMAGES}/vdb.img"), "it may not read its disk")
    t.equal(denials(t)[before:], [], "what was denied")
    t.check(not may_read("/etc/shadow") and not may_read("/etc/libvirt/kumo.conf"), "it may read the host's files")
    before = len(denials(t))

    dom.save(f"{IMAGES}/vm.save")
    c.conn.restore(f"{IMAGES}/vm.save")
    dom = c.conn.lookupByName("vm")
    t.equal(profile_of(process_of(dom)), f"{name} (enforce)", "the VMM's profile after the restore")
    dom.managedSave()
    dom.create()
    console = Stream(t, c.conn, dom)
    console.send("q")
    c.state(dom, lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
    t.equal(denials(t)[before:], [], "what was denied")
    with open(f"{FILESYSTEM}/apparmor/profiles", encoding="ascii") as stream:
        t.check(not re.search(rf"^{name}\b", stream.read(), re.MULTILINE), "its profile is still there")
