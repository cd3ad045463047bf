# SPDX-License-Identifier: LGPL-2.1-or-later
"""What OpenStack Nova's driver calls, in its order: at its start, to boot and to delete an instance, to attach a volume."""

import os
import xml.etree.ElementTree as ElementTree

import libvirt as lv

from harness import test
from harness.virt import Connection, configure, disk, domain, fake, refused

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
LIVE, CONFIG = lv.VIR_DOMAIN_AFFECT_LIVE, lv.VIR_DOMAIN_AFFECT_CONFIG
# The least versions that Nova asks for, now and from its next release on, whatever the type of the hypervisor.
MIN_LIBVIRT, MIN_HYPERVISOR = 8000000, 8002002


def connect(t):
    configure(t, binary=fake(t))
    t.virtkumod()
    credentials = [[lv.VIR_CRED_AUTHNAME, lv.VIR_CRED_NOECHOPROMPT], lambda wanted, opaque: 0, None]
    opened = lv.openAuth("kumo:///system", credentials, 0)
    t.check(opened.isAlive(), "openAuth")
    opened.close()


@test(timeout=60, where="any")
def start_of_the_service(t):
    """init_host and get_available_resource: none of these calls may fail, or the service does not start."""
    connect(t)
    conn = Connection(t, events=False).conn
    for event in (lv.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lv.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, lv.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED):
        t.check(conn.domainEventRegisterAny(None, event, lambda *arguments: None, None) >= 0, f"event {event}")
    conn.registerCloseCallback(lambda *arguments: None, None)
    t.check(conn.getLibVersion() >= MIN_LIBVIRT, "libvirt's version")
    t.check(conn.getVersion() >= MIN_HYPERVISOR, "the hypervisor's version")

    caps = ElementTree.fromstring(conn.getCapabilities())
    cpu = caps.find("host/cpu")
    t.check(all(cpu.find(name) is not None for name in ("arch", "model", "topology")), "the host's CPU")
    for cell in caps.findall("host/topology/cells/cell"):
        t.check(int(cell.findtext("memory")) > 0 and cell.findall("pages"), "memory of a NUMA cell")
        t.check(all(set(found.attrib) >= {"id", "socket_id", "core_id", "siblings"} for found in cell.findall("cpus/cpu")), "CPUs of a cell")
    # Nova knows a list of types and gives up at any other.
    t.check({found.get("type") for found in caps.findall("guest/arch/domain")} <= {"kvm", "hyperv"}, "domain types")
    machines = {found.text: found.get("canonical") for found in caps.findall("guest/arch/machine")}
    t.check("pc" in machines and "q35" in machines, "machine types")

    text = ElementTree.tostring(cpu, encoding="unicode")
    baseline = ElementTree.fromstring(conn.baselineCPU([text], lv.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES))
    # Of the models that have what this host has, which one is libvirt's choice.
    t.check(baseline.findtext("model") in conn.getCPUModelNames("x86_64"), f"an unknown model: {baseline.findtext('model')}")
    t.check(conn.compareCPU(ElementTree.tostring(baseline, encoding="unicode")) > lv.VIR_CPU_COMPARE_INCOMPATIBLE, "this host is less than its own baseline")
    t.check(baseline.findall("feature"), "features of the baseline")
    for machine in ("pc", "q35", machines["pc"]):
        found = ElementTree.fromstring(conn.getDomainCapabilities(None, "x86_64", machine, "kvm", 0))
        t.check("virtio" in [value.text for value in found.findall("devices/disk/enum[@name='bus']/value")], "disk buses")
        t.check(found.find("cpu/mode[@name='host-model']").get("supported") == "yes", "host-model, Nova's default")
    t.check(conn.compareHypervisorCPU(None, None, None, None, text, 0) > lv.VIR_CPU_COMPARE_INCOMPATIBLE, "the host's CPU fits the host")
    t.check(cpu.findtext("model") in conn.getCPUModelNames("x86_64"), "the model in the list of models")

    model, memory_mib, cpus, mhz, *_ = conn.getInfo()
    total, online, running = conn.getCPUMap()
    t.check(memory_mib > 0 and mhz >= 0 and total >= running > 0 and cpus >= running and len(online) == total, "the host's resources")
    t.check(set(conn.getCPUStats(lv.VIR_NODE_CPU_STATS_ALL_CPUS)) >= {"kernel", "user", "idle", "iowait"}, "CPU statistics")
    t.equal(conn.getHostname(), os.uname().nodename, "host name")
    t.check(conn.getType() not in ("QEMU", ""), "the type: 'QEMU' would bring calls to a monitor")
    t.equal(conn.listAllDomains(lv.VIR_CONNECT_LIST_DOMAINS_ACTIVE), [], "instances")


@test(timeout=60, where="any")
def an_instance(t):
    """Spawn, state, metadata, volume, soft and hard reboot, stop, delete."""
    connect(t)
    c = Connection(t)
    conn = c.conn
    root, volume = disk(t, "root.raw")[1], disk(t, "volume.raw", target="vdb")[1]
    interface = "<interface type='ethernet'><mac address='fa:16:3e:00:00:01'/><target dev='tap8' managed='yes'/><model type='virtio'/></interface>"
    xml = domain(t, "instance-00000001", devices=f"{root}<serial type='pty'><log file='{t.path('console.log')}' append='off'/></serial>"
                 "<memballoon model='virtio'><stats period='10'/></memballoon>", vcpus=2)
    refused(t, lv.VIR_ERR_NO_DOMAIN, conn.lookupByUUIDString, "2c5a8d3e-0000-4000-8000-000000000001")

    dom = conn.defineXML(xml)
    dom.createWithFlags(lv.VIR_DOMAIN_START_PAUSED)
    t.equal(dom.state()[0], lv.VIR_DOMAIN_PAUSED, "state until the network is ready")
    dom.resume()
    t.equal(conn.listAllDomains(lv.VIR_CONNECT_LIST_DOMAINS_ACTIVE)[0].UUIDString(), dom.UUIDString(), "instances")
    t.equal(len(dom.vcpus()[0]), 2, "vCPUs")
    live = ElementTree.fromstring(dom.XMLDesc(0))
    t.equal(live.find("devices/console").get("type"), "pty", "the console beside the serial port")
    t.check(all(found.find("alias") is not None for found in live.findall("devices/disk")), "aliases")
    dom.setMetadata(lv.VIR_DOMAIN_METADATA_ELEMENT, "<instance/>", "instance", "http://openstack.org/xmlns/libvirt/nova/1.1", LIVE | CONFIG)

    dom.attachDeviceFlags(volume, LIVE | CONFIG)
    dom.attachDeviceFlags(interface, LIVE | CONFIG)
    alias = next(found.find("alias").get("name") for found in ElementTree.fromstring(dom.XMLDesc(0)).findall("devices/disk")
                 if found.find("target").get("dev") == "vdb")
    dom.blockResize("vdb", 2 << 20, lv.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    for flags in (CONFIG, LIVE):  # Nova takes it out of the definition first, and waits for the event of the other
        dom.detachDeviceFlags(volume, flags)
    t.wait_for(lambda: ("removed", alias) in c.devices, "the event of the volume's removal")
    for flags in (0, lv.VIR_DOMAIN_XML_INACTIVE):
        t.check("vdb" not in dom.XMLDesc(flags), "the volume is still there")
    refused(t, lv.VIR_ERR_DEVICE_MISSING, dom.detachDeviceFlags, volume, LIVE)
    dom.detachDeviceFlags(interface, LIVE | CONFIG)

    for values in (dom.blockStats("vda"), dom.memoryStats().values(), dom.info(), [dom.maxMemory()]):
        t.check(all(value >= -1 for value in values), "diagnostics")
    number = dom.ID()
    dom.shutdown()  # the soft reboot: Nova polls until it is off, and starts it again
    c.state(dom, lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
    dom.create()
    t.check(dom.ID() != number, "the number of the new boot is that of the old one")

    dom.destroy()  # the hard one defines it anew
    dom.undefine()
    dom = conn.defineXML(xml)
    dom.create()
    dom.suspend()
    dom.resume()
    dom.destroy()
    dom.undefineFlags(lv.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | lv.VIR_DOMAIN_UNDEFINE_NVRAM)
    refused(t, lv.VIR_ERR_NO_DOMAIN, conn.lookupByName, "instance-00000001")
    t.check(os.path.exists(t.path("console.log")), "no log of the console")
