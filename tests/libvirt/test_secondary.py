# SPDX-License-Identifier: LGPL-2.1-or-later
"""Networks, storage and the like through kumo:///system, with stock libvirtd behind."""

import glob
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
def network_restart(t):
    """A network that was stopped and started has a new bridge and no ports: the next daemon puts running domains back into it."""
    t.network()
    libvirtd(t)
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    network = c.conn.networkDefineXML(NETWORK)
    network.create()
    t.run("ip", "link", "add", "br0", "type", "bridge")
    nics = "<interface type='network'><source network='nat'/></interface><interface type='bridge'><source bridge='br0'/></interface>"
    dom = c.conn.defineXML(domain(t, emulator=fake(t), devices=nics))
    dom.create()
    taps = re.findall(r"<target dev='(vnet\d+)'/>", dom.XMLDesc(0))

    def link(tap):
        return json.loads(t.run("ip", "-json", "link", "show", tap))[0]

    def logs():
        return "".join(open(path, encoding="utf-8", errors="replace").read() for path in glob.glob(t.path("virtkumod-*.log")))

    def restart():
        nonlocal daemon, c
        daemon.kill()
        daemon.wait()
        daemon = t.virtkumod()
        c = Connection(t, events=False)

    t.equal([link(tap).get("master") for tap in taps], ["virbr9", "br0"], "bridges")
    port = network.listAllPorts()[0].UUIDString()
    network = c.conn.networkLookupByName("nat")
    network.destroy()
    network.create()
    t.run("ip", "link", "del", "br0")
    t.run("ip", "link", "add", "br0", "type", "bridge")
    t.equal([link(tap).get("master") for tap in taps], [None, None], "bridges meanwhile")
    t.equal(network.listAllPorts(), [], "ports meanwhile")
    restart()
    t.wait_for(lambda: [link(tap).get("master") for tap in taps] == ["virbr9", "br0"], "the taps to be in their bridges")
    network = c.conn.networkLookupByName("nat")
    t.equal([p.UUIDString() for p in network.listAllPorts()], [port], "ports")
    dom = c.conn.lookupByName("vm")
    t.equal(dom.isActive(), 1, "activity")

    # Without the network the guest runs on, its other interface is as it was, and the log tells.
    network.destroy()
    t.run("ip", "link", "set", taps[1], "nomaster")
    restart()
    t.wait_for(lambda: link(taps[1]).get("master") == "br0", "the second tap to be in its bridge")
    t.wait_for(lambda: f"{taps[0]} could not be put back into its network" in logs(), "a warning")
    c.conn.networkLookupByName("nat").create()
    restart()
    t.wait_for(lambda: link(taps[0]).get("master") == "virbr9", "the tap to be in its bridge")
    dom = c.conn.lookupByName("vm")
    t.equal(dom.isActive(), 1, "activity")
    dom.destroy()
    network = c.conn.networkLookupByName("nat")
    t.equal(network.listAllPorts(), [], "ports afterwards")
    network.destroy()


FILTER = """<filter name='own-mac' chain='mac'><rule action='drop' direction='out' priority='500'>
<mac match='no' srcmacaddr='$MAC'/></rule></filter>"""


@test(timeout=90, where="any")
def network_filter(t):
    """An interface's filter is at work as long as the interface is there; one that there is not keeps the domain from starting."""
    t.network()
    t.run("ip", "link", "add", "br0", "type", "bridge")
    libvirtd(t)
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    c.conn.nwfilterDefineXML(FILTER)
    nic = "<interface type='bridge'><mac address='52:54:00:00:00:{}'/><source bridge='br0'/><filterref filter='{}'/></interface>"
    missing = c.conn.defineXML(domain(t, "missing", emulator=fake(t), devices=nic.format("03", "none")))
    refused(t, lv.VIR_ERR_INTERNAL_ERROR, missing.create, text="'none'")
    t.equal([name for name in os.listdir("/sys/class/net") if name.startswith("vnet")], [], "taps after the refusal")
    dom = c.conn.defineXML(domain(t, emulator=fake(t), devices=nic.format("01", "own-mac")))
    dom.create()
    dom.attachDevice(nic.format("02", "own-mac"))

    def rules():
        return t.run("ebtables", "-t", "nat", "-L")

    taps = re.findall(r"<target dev='(vnet\d+)'/>", dom.XMLDesc(0))
    t.equal(sorted(binding.portDev() for binding in c.conn.listAllNWFilterBindings()), sorted(taps), "bindings")
    for tap, mac in zip(taps, ("52:54:00:00:00:01", "52:54:00:00:00:02")):
        t.check(f"-i {tap} " in rules(), f"{tap} passes no rule")
        t.check(re.search(rf"-s !? ?{mac}.* -j DROP", rules()), f"no rule for {mac}")
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.updateDeviceFlags, nic.format("02", "other"), lv.VIR_DOMAIN_AFFECT_LIVE, text="the filter")
    dom.detachDevice(nic.format("02", "own-mac"))
    t.wait_for(lambda: [binding.portDev() for binding in c.conn.listAllNWFilterBindings()] == taps[:1], "the end of the second filter")
    t.check(f"-i {taps[1]} " not in rules(), "rules of an interface that has gone")

    # One that somebody removed comes back with the next daemon, and one that is there is no obstacle.
    dom.attachDevice(nic.format("02", "own-mac"))
    taps = re.findall(r"<target dev='(vnet\d+)'/>", dom.XMLDesc(0))
    c.conn.nwfilterBindingLookupByPortDev(taps[0]).delete()
    t.check(f"-i {taps[0]} " not in rules(), "rules of a binding that was removed")
    daemon.kill()
    daemon.wait()
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    t.wait_for(lambda: {binding.portDev() for binding in c.conn.listAllNWFilterBindings()} == set(taps), "the bindings to be back")
    t.wait_for(lambda: f"-i {taps[0]} " in rules(), "the rules to be back")
    t.equal(dom.isActive(), 1, "activity")
    dom.destroy()
    t.equal(c.conn.listAllNWFilterBindings(), [], "bindings afterwards")
    t.check("vnet" not in rules(), "rules are left")


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
