# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's PCI devices on their way to a guest and back: nodedev-detach, -reattach, -reset."""

import glob
import os

import libvirt as lv

from harness import test
from harness.virt import Connection, libvirtd, refused

URI = "kumo:///system"
SPARE = "52:54:00:73:70:61"  # the network card that the lab machine has for this (tests/lab/lab.py)


def driver_of(device):
    link = f"/sys/bus/pci/devices/{device}/driver"
    return os.path.basename(os.readlink(link)) if os.path.exists(link) else None


@test(timeout=60, where="any")
def refused_by_name(t):
    """A device that is not there, one that is no PCI device, a driver that there is not, and a host without an IOMMU."""
    libvirtd(t, only=("nodedev",))
    t.virtkumod()
    c = Connection(t, events=False)
    for verb in ("detach", "reattach", "reset"):
        t.check("Could not find matching device" in t.run("virsh", "-c", URI, f"nodedev-{verb}", "pci_ffff_ff_1f_7", status=1), verb)
    device = c.conn.nodeDeviceLookupByName("net_lo_00_00_00_00_00_00")
    refused(t, lv.VIR_ERR_INVALID_ARG, device.reset, text="is not a PCI device")
    refused(t, lv.VIR_ERR_INVALID_ARG, device.reAttach, text="is not a PCI device")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, device.detachFlags, "kvm")
    refused(t, lv.VIR_ERR_INVALID_ARG, device.detachFlags, None, 1 << 30, text="unsupported flags")
    if os.path.exists("/dev/vfio/vfio") and os.listdir("/sys/kernel/iommu_groups"):
        refused(t, lv.VIR_ERR_INVALID_ARG, device.dettach, text="is not a PCI device")
    else:
        refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, device.dettach, text="IOMMU")
    if lv.getVersion() < 11000000:  # a later one tries any
        refused(t, lv.VIR_ERR_INVALID_ARG, device.detachFlags, "fish", text="'fish'")
    device = lv.openReadOnly(URI).nodeDeviceLookupByName(device.name())
    for call in (device.dettach, device.reAttach, device.reset):
        refused(t, lv.VIR_ERR_OPERATION_DENIED, call)


@test(timeout=120, where="lab")
def to_vfio_and_back(t):
    """A network card leaves its driver for vfio-pci and comes back, is reset meanwhile, and cannot be taken twice."""
    if not os.environ.get("KUMO_IN_LAB"):
        t.skip("only the lab machine has a network card to spare")
    card = next(path for path in glob.glob("/sys/bus/pci/devices/*/virtio*/net/*/address") if open(path, encoding="ascii").read().strip() == SPARE)
    address = card.split("/")[5]
    name = "pci_" + address.replace(":", "_").replace(".", "_")
    libvirtd(t, only=("nodedev",))
    t.virtkumod()
    t.equal(driver_of(address), "virtio-pci", "the driver at first")
    t.check("detached" in t.run("virsh", "-c", URI, "nodedev-detach", name), "virsh's answer")
    t.equal(driver_of(address), "vfio-pci", "the driver of what was detached")
    t.check(not os.path.exists(card), "the interface is still there")
    group = os.path.basename(os.readlink(f"/sys/bus/pci/devices/{address}/iommu_group"))
    t.check(os.path.exists(f"/dev/vfio/{group}"), "the group's device")
    t.run("virsh", "-c", URI, "nodedev-reset", name)
    t.run("virsh", "-c", URI, "nodedev-detach", name, "--driver", "vfio")
    t.equal(driver_of(address), "vfio-pci", "the driver after a second time")
    t.check("re-attached" in t.run("virsh", "-c", URI, "nodedev-reattach", name), "virsh's answer")
    t.equal(driver_of(address), "virtio-pci", "the driver of what is back")
    t.wait_for(lambda: os.path.exists(card), "the interface")
    t.run("virsh", "-c", URI, "nodedev-reset", name)
    t.equal(driver_of(address), "virtio-pci", "the driver after a reset")
    c = Connection(t, events=False)
    if lv.getVersion() < 11000000:
        refused(t, lv.VIR_ERR_INVALID_ARG, c.conn.nodeDeviceLookupByName(name).detachFlags, "fish")
