# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `meson install` puts where stock libvirt, systemd, polkit, AppArmor and Augeas look, and that it works from there."""

import configparser
import glob
import os
import re
import stat
import subprocess

import libvirt as lv

from harness import test
from harness.installation import install, installed, installed_environment, start_installed
from harness.virt import Connection, domain, guest_elf, process_of

BUILD = os.environ["KUMO_BUILD"]
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
LENSES = "usr/share/augeas/lenses"
UNITS = ("virtkumod.service", "virtkumod.socket", "virtkumod-ro.socket", "virtkumod-admin.socket")
DATA = (
    "etc/libvirt/virtkumod.conf", "etc/libvirt/kumo.conf", "etc/logrotate.d/virtkumod", "etc/apparmor.d/usr.sbin.virtkumod",
    "etc/apparmor.d/abstractions/libvirt-kumo", "etc/apparmor.d/abstractions/libvirt-qemu.d/kumo", "usr/lib/sysusers.d/kumo.conf",
    "usr/share/polkit-1/rules.d/60-virtkumod.rules", "usr/lib/sysctl.d/60-kumo-postcopy-migration.conf", f"{LENSES}/virtkumod.aug", f"{LENSES}/libvirtd_kumo.aug",
    f"{LENSES}/tests/test_virtkumod.aug", f"{LENSES}/tests/test_libvirtd_kumo.aug",
    *(f"usr/local/share/man/{page}" for page in ("man1/kumo.1", "man5/kumo.conf.5", "man7/kumo-libvirt.7", "man8/virtkumod.8")),
    *(f"usr/local/share/locale/{language}/LC_MESSAGES/kumo.mo" for language in ("de", "es", "fr", "ja", "zh_CN")),
)
PROGRAMS = ("usr/sbin/virtkumod", "usr/lib/*/libvirt/connection-driver/libvirt_driver_kumo.so", "usr/local/bin/kumo",
            "usr/local/bin/kumo-remote")


@test(timeout=60, where="any")
def files(t):
    """All are there, none is writable by others, and none names the directory that it was built in."""
    root = t.path("root")
    install(t, root)
    unit_dir = os.path.dirname(glob.glob(f"{root}/**/virtkumod.service", recursive=True)[0])
    t.check(unit_dir.endswith("lib/systemd/system"), f"the units are in {unit_dir}")
    for path in (*DATA, *PROGRAMS, *(os.path.relpath(f"{unit_dir}/{name}", root) for name in UNITS)):
        found = glob.glob(f"{root}/{path}")
        t.equal(len(found), 1, f"{path} in the installation")
        t.equal(stat.S_IMODE(os.stat(found[0]).st_mode), 0o755 if path in PROGRAMS else 0o644, f"mode of {path}")
    for directory, _, names in os.walk(root):
        for name in names:
            with open(os.path.join(directory, name), "rb") as stream:
                data = stream.read()
            if b"\x7fELF" != data[:4]:  # debug information has source files' names
                t.check(SOURCE.encode() not in data and b"@" + b"sbindir@" not in data, f"{name} names the build")
            else:
                t.check(b"RUNPATH" not in subprocess.run(["readelf", "-d", os.path.join(directory, name)], capture_output=True,
                                                         check=True).stdout, f"{name} has a run path")


@test(timeout=30, where="any")
def socket_permissions(t):
    """The sockets let in whom the configuration's authentication copes with: polkit with everybody, nobody else."""
    root = t.path("root")
    install(t, root)
    with open(f"{root}/etc/libvirt/virtkumod.conf", encoding="utf-8") as stream:
        settings = dict(re.findall(r'^(\w+) = "(.*)"$', stream.read(), re.MULTILINE))
    t.equal(settings, {"auth_unix_ro": "none", "auth_unix_rw": "polkit"}, "settings in force")
    modes = {"virtkumod.socket": "0666", "virtkumod-ro.socket": "0666", "virtkumod-admin.socket": "0600"}
    for name, mode in modes.items():
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str
        unit.read(glob.glob(f"{root}/**/{name}", recursive=True)[0])
        t.equal(unit["Socket"]["SocketMode"], mode, f"mode of {name}")
        suffix = {"virtkumod.socket": "sock", "virtkumod-ro.socket": "sock-ro", "virtkumod-admin.socket": "admin-sock"}[name]
        t.equal(unit["Socket"]["ListenStream"], f"/run/libvirt/virtkumod-{suffix}", f"path of {name}")
        t.equal(unit["Socket"]["Service"], "virtkumod.service", f"service of {name}")


@test(timeout=30, where="any")
def augeas(t):
    """The lenses' own tests, and the installed files as Augeas sees them with every setting that they mention switched on."""
    root = t.path("root")
    install(t, root)
    for name in ("virtkumod", "libvirtd_kumo"):
        t.run("augparse", "-I", f"{root}/{LENSES}", f"{root}/{LENSES}/tests/test_{name}.aug")
    known = {}
    for name in ("virtkumod.conf", "kumo.conf"):
        path = f"{root}/etc/libvirt/{name}"
        with open(path, encoding="utf-8") as stream:
            text = re.sub(r"^#(\w+ = )", r"\1", stream.read(), flags=re.MULTILINE)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        known[name] = set(re.findall(r"^(\w+) = ", text, re.MULTILINE))
        tree = t.run("augtool", "--root", root, "-I", f"{root}/{LENSES}", "print", f"/files/etc/libvirt/{name}")
        t.equal(set(re.findall(rf"^/files/etc/libvirt/{name}/(\w+)", tree, re.MULTILINE)), known[name], f"settings of {name}")
    with open(os.path.join(SOURCE, "driver/conf/kumo_conf.c"), encoding="utf-8") as stream:
        keys = re.search(r"known\[\] = \{(.*?)\};", stream.read(), re.DOTALL)[1]
    t.equal(known["kumo.conf"], set(re.findall(r'"(\w+)"', keys)), "settings that kumo.conf explains and the driver knows")
    with open(os.path.join(SOURCE, "docs/man/kumo.conf.5"), encoding="utf-8") as stream:
        manual = stream.read()
    for key in known["kumo.conf"]:
        t.check(re.search(rf"^\.BR? .*\b{key}\b", manual, re.MULTILINE), f"kumo.conf(5) has no {key}")


@test(timeout=60, where="any")
def apparmor(t):
    """AppArmor's parser takes the daemon's profile, and a VM's made of libvirt's template with our part."""
    root = t.path("root")
    install(t, root)
    base = ("apparmor_parser", "-Q", "-K", "--base", "/etc/apparmor.d", "-I", f"{root}/etc/apparmor.d")
    t.run(*base, f"{root}/etc/apparmor.d/usr.sbin.virtkumod")
    with open("/etc/apparmor.d/libvirt/TEMPLATE.qemu", encoding="utf-8") as stream:
        template = stream.read().replace("LIBVIRT_TEMPLATE", "libvirt-11111111-2222-3333-4444-555555555555")
    for line in ("#include <abstractions/libvirt-kumo>", "#include <abstractions/libvirt-qemu.d>"):
        profile = t.path("profile")
        with open(profile, "w", encoding="utf-8") as stream:
            stream.write(template.replace("#include <abstractions/libvirt-qemu>", f"#include <abstractions/libvirt-qemu>\n  {line}"))
        rules = t.run(*base, "-p", profile)
        t.check("/usr/local/bin/kumo rmix" in rules, f"{line} does not bring the VMM in")
        t.run(*base, profile)


@test(timeout=90, where="host")
def runs_from_there(t):
    """Daemon, module and VMM from their places, with the installed configuration, as the user that sysusers.d makes."""
    installed(t)
    t.run("systemd-analyze", "verify", "--man=no", *(f"/lib/systemd/system/{name}" for name in UNITS))
    daemon = start_installed(t)
    t.equal(os.readlink(f"/proc/{daemon.pid}/exe"), "/usr/sbin/virtkumod", "the daemon's program")

    kernel = guest_elf(t)
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t, words="test=power", path=kernel, emulator=""))
    dom.create()
    pid = process_of(dom)
    t.equal(os.readlink(f"/proc/{pid}/exe"), "/usr/local/bin/kumo", "the VMM's program")
    uid = int(t.run("id", "-u", "kumo"))
    t.equal(os.stat(f"/proc/{pid}").st_uid, uid, "the VMM's user")
    t.equal(os.stat(kernel).st_uid, uid, "the kernel's owner")
    t.check(dom.info()[0] == lv.VIR_DOMAIN_RUNNING, "it does not run")
    dom.destroy()
    t.equal(os.stat(kernel).st_uid, 0, "the kernel's owner afterwards")
    t.run("virt-admin", "-c", "virtkumod:///system", "server-list", env=installed_environment())
