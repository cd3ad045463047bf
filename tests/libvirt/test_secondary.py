# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks, storage and the like through kumo:///system, with stock libvirtd behind."""

import json
import os
import re

import libvirt as lv

from harness import test
from harness.virt import Connection, domain, fake, libvirtd, refused

NETWORK = """<network>
  <name>nat</name>
  <bridge name='virbr9'/>
  <ip address='192.168.99.1' netmask='255.255.255.0'><dhcp><range start='192.168.99.2' end='192.168.99.9'/></dhcp></ip>
</network>
"""


@test(timeout=90, where="any")
def all_of_them(t):
    """Each secondary driver answers through our connection; without libvirtd the error says what is missing."""
    t.network()
    t.virtkumod()
    c = Connection(t, events=False)
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, c.conn.listAllNetworks, text="virtnetworkd-sock")
    c.conn.close()
    libvirtd(t)
    c = Connection(t, events=False)
    t.equal(c.conn.listAllNetworks(), [], "networks")
    t.equal(c.conn.listAllStoragePools(), [], "pools")
    t.equal(c.conn.listAllSecrets(), [], "secrets")
    t.check(isinstance(c.conn.listAllNWFilters(), list), "filters")
    t.check(c.conn.listAllDevices() is not None, "devices")


@test(timeout=90, where="any")
def network_port(t):
    """An interface of a libvirt network: a port while it runs, with its tap in the network's bridge."""
    t.network()
    libvirtd(t)
    t.virtkumod()
    c = Connection(t, events=False)
    network = c.conn.networkDefineXML(NETWORK)
    xml = domain(t, emulator=fake(t), devices="<interface type='network'><source network='nat'/></interface>")
    dom = c.conn.defineXML(xml)
    try:
        dom.create()
        t.check(False, "the network does not run")
    except lv.libvirtError as error:
        t.check("not active" in str(error), str(error))
    network.create()
    t.cleanup(network.destroy)
    dom.create()
    live = dom.XMLDesc(0)
    t.check("bridge='virbr9'" in live and "portid=" in live, "no port in the definition")
    tap = re.search(r"<target dev='(vnet\d+)'/>", live)[1]
    t.check("master virbr9" in t.run("ip", "link", "show", tap), "the tap is not in the bridge")
    t.equal(len(network.listAllPorts()), 1, "ports")
    refused(t, lv.VIR_ERR_NO_HOSTNAME, dom.hostname, lv.VIR_DOMAIN_GET_HOSTNAME_LEASE)
    mac = re.search("<mac address='([^']*)'", live)[1]
    with open("/var/lib/libvirt/dnsmasq/virbr9.status", "w", encoding="ascii") as stream:  # what dnsmasq would note
        json.dump([{"ip-address": "192.168.99.5", "mac-address": mac, "hostname": "guest5", "expiry-time": 1 << 32}], stream)
    t.equal(dom.hostname(lv.VIR_DOMAIN_GET_HOSTNAME_LEASE), "guest5", "the host name in the lease")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.hostname, lv.VIR_DOMAIN_GET_HOSTNAME_AGENT)
    dom.destroy()
    t.equal(network.listAllPorts(), [], "ports afterwards")


@test(timeout=90, where="any")
def volume(t):
    """A disk of a storage pool is the file behind it."""
    t.network()
    libvirtd(t)
    t.virtkumod()
    c = Connection(t, events=False)
    directory = t.path("pool")
    os.mkdir(directory)
    pool = c.conn.storagePoolCreateXML(f"<pool type='dir'><name>p</name><target><path>{directory}</path></target></pool>")
    pool.createXML("<volume><name>v.img</name><capacity unit='MiB'>2</capacity><target><format type='raw'/></target></volume>")
    disk = "<disk type='volume'><driver type='raw'/><source pool='p' volume='v.img'/><target dev='vda' bus='virtio'/></disk>"
    dom = c.conn.defineXML(domain(t, emulator=fake(t), devices=disk))
    dom.create()
    uid = os.stat(f"{directory}/v.img").st_uid
    t.check(uid != 0, "the volume is not the VMM's")
    dom.destroy()
    t.equal(os.stat(f"{directory}/v.img").st_uid, 0, "owner afterwards")
    missing = c.conn.defineXML(domain(t, "missing", emulator=fake(t), devices=disk.replace("v.img", "w.img")))
    refused(t, lv.VIR_ERR_NO_STORAGE_VOL, missing.create)
