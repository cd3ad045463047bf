# SPDX-License-Identifier: LGPL-2.1-or-later
"""The driver is built for libvirt versions that it knows, and for the one that is installed."""

import os
import sys

import libvirt as lv

from harness import test

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
INSTALLED = "{}.{}.{}".format(lv.getVersion() // 1000000, lv.getVersion() // 1000 % 1000, lv.getVersion() % 1000)


def source_of(t, version):
    """The only file of libvirt's source that is looked at before anything else."""
    directory = t.path(f"libvirt-{version}")
    os.mkdir(directory)
    with open(f"{directory}/meson.build", "w", encoding="ascii") as stream:
        stream.write(f"project(\n  'libvirt', 'c',\n  version: '{version}',\n)\n")
    return directory


@test(timeout=30, where="any")
def only_known_ones(t):
    check = os.path.join(SOURCE, "driver/daemon/libvirt-headers.py")
    for version in ("9.0.0", "11.3.0"):
        t.equal(t.run(sys.executable, check, "check", source_of(t, version), version).strip(), version, "version")
    for version in ("8.10.0", "9.0.1", "10.0.0", "11.4.0", "12.5.0"):
        text = t.run(sys.executable, check, "check", source_of(t, version), version, status=1)
        t.check(f"libvirt {version} is not supported, only 9.0.0, 11.3.0" in text, text)
    t.check("must be the same" in t.run(sys.executable, check, "check", t.path("libvirt-9.0.0"), "11.3.0", status=1), "another version's source")
    t.check("expected libvirt's unpacked source" in t.run(sys.executable, check, "check", "/nonexistent", "9.0.0", status=1), "no source")


@test(timeout=90, where="any")
def meson_refuses_others(t):
    """At configure time, with the reason; unless the driver is not wanted."""
    other = source_of(t, "10.0.0")
    text = t.run("meson", "setup", t.path("build"), SOURCE, f"-Dlibvirt_source={other}", status=1, timeout=80)
    t.check(f"is version 10.0.0, but libvirt {INSTALLED} is installed" in text, text[-2000:])
