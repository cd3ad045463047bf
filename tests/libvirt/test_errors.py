# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls with a wrong flag, value or state fail with the codes that libvirt's QEMU driver gives, and leave everything as it was."""

import glob
import json
import os
import shutil
import sys

from harness import test
from harness.virt import domain, fake

PROGRAM = os.path.join(os.path.dirname(os.path.realpath(__file__)), "error_table.py")

# QEMU without what the machine of a test may not have: users of its own, virtlogd, control groups.
QEMU_CONF = """user = "root"
group = "root"
remember_owner = 0
namespaces = []
cgroup_controllers = ["cpuacct"]
security_default_confined = 0
stdio_handler = "file"
"""

QEMU_XML = """<domain type='{}'><name>vm</name><memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type machine='q35'>hvm</type></os>
<devices><controller type='usb' model='none'/></devices></domain>"""


def run(t, name, xml, environment):
    root = t.path(name)
    os.makedirs(f"{root}/etc", exist_ok=True)
    with open(f"{root}.xml", "w", encoding="ascii") as stream:
        stream.write(xml)
    # Into a file: QEMU's helpers keep a pipe open.
    process = t.start(sys.executable, PROGRAM, f"{name}:///embed?root={root}", f"{root}.xml", name=name, env=environment)
    t.equal(process.wait(60), 0, f"status of {name}")
    with open(f"{root}.log", encoding="utf-8") as stream:
        return next(json.loads(line) for line in stream if line.startswith("{"))


@test(timeout=120, where="any")
def as_of_qemu(t):
    """The whole table, against both drivers."""
    if not glob.glob("/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so") or not shutil.which("qemu-system-x86_64"):
        t.skip("libvirt's QEMU driver is not installed")
    kumo = run(t, "kumo", domain(t, emulator=fake(t)), dict(os.environ))
    os.makedirs(t.path("qemu/etc"), exist_ok=True)
    with open(t.path("qemu/etc/qemu.conf"), "w", encoding="ascii") as stream:
        stream.write(QEMU_CONF)
    environment = {key: value for key, value in os.environ.items() if key != "LIBVIRT_DRIVER_DIR"}
    qemu = run(t, "qemu", QEMU_XML.format("kvm" if os.path.exists("/dev/kvm") else "qemu"), environment)
    t.check(len(qemu) > 200, "the table is short")
    t.equal({name for name in kumo if kumo[name] == "ok"}, {name for name in qemu if qemu[name] == "ok"}, "what succeeds")
    different = {name: (kumo.get(name), qemu.get(name)) for name in qemu if kumo.get(name) != qemu[name]}
    # It looks at the control group before it looks at the flags, and takes another machine for a fault in the XML's syntax.
    for name in ("on flag of schedinfo", "define for another machine"):
        different.pop(name, None)
    t.equal(different, {}, "kumo's and QEMU's codes where they differ")
