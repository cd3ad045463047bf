# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls that have to fail, and what they fail with: error_table.py URI XML-FILE prints {call: code or "ok"} as JSON.

The same calls go to any libvirt driver. Each is made twice, of a domain that is off and of one that runs, as long as it is
undamaged: a call that changes the definition or ends the domain ends the program."""

import ctypes
import json
import os
import sys
import threading
import traceback

import libvirt as lv

PR_SET_CHILD_SUBREAPER = 36
WRONG = 1 << 30
LIVE, CONFIG = lv.VIR_DOMAIN_AFFECT_LIVE, lv.VIR_DOMAIN_AFFECT_CONFIG
DISK = "<disk type='file'><source file='/nonexistent/image'/><target dev='vdx' bus='virtio'/></disk>"
NIC = "<interface type='ethernet'><mac address='52:54:00:00:00:99'/></interface>"

FLAGS = {  # a flag that nothing knows
    "create": lambda dom: dom.createWithFlags(WRONG),
    "destroy": lambda dom: dom.destroyFlags(WRONG),
    "shutdown": lambda dom: dom.shutdownFlags(WRONG),
    "reboot": lambda dom: dom.reboot(WRONG),
    "reset": lambda dom: dom.reset(WRONG),
    "dumpxml": lambda dom: dom.XMLDesc(WRONG),
    "setvcpus": lambda dom: dom.setVcpusFlags(1, WRONG),
    "vcpus": lambda dom: dom.vcpusFlags(WRONG),
    "setmem": lambda dom: dom.setMemoryFlags(65536, WRONG),
    "setmem-period": lambda dom: dom.setMemoryStatsPeriod(5, WRONG),
    "attach": lambda dom: dom.attachDeviceFlags(DISK, WRONG),
    "detach": lambda dom: dom.detachDeviceFlags(DISK, WRONG),
    "detach-alias": lambda dom: dom.detachDeviceAlias("virtio-disk9", WRONG),
    "update": lambda dom: dom.updateDeviceFlags(DISK, WRONG),
    "blockresize": lambda dom: dom.blockResize("vdx", 1, WRONG),
    "blockinfo": lambda dom: dom.blockInfo("vdx", WRONG),
    "blockstats": lambda dom: dom.blockStatsFlags("vdx", WRONG),
    "threshold": lambda dom: dom.setBlockThreshold("vdx", 1, WRONG),
    "iotune": lambda dom: dom.blockIoTune("vdx", WRONG),
    "domiftune": lambda dom: dom.interfaceParameters("vnet99", WRONG),
    "domifaddr": lambda dom: dom.interfaceAddresses(0, WRONG),
    "metadata": lambda dom: dom.metadata(lv.VIR_DOMAIN_METADATA_TITLE, None, WRONG),
    "set-metadata": lambda dom: dom.setMetadata(lv.VIR_DOMAIN_METADATA_TITLE, "x", None, None, WRONG),
    "dump": lambda dom: dom.coreDump("/nonexistent/core", WRONG),
    "nmi": lambda dom: dom.injectNMI(WRONG),
    "undefine": lambda dom: dom.undefineFlags(WRONG),
    "state": lambda dom: dom.state(WRONG),
    "control": lambda dom: dom.controlInfo(WRONG),
    "cpu-stats": lambda dom: dom.getCPUStats(True, WRONG),
    "vcpupin": lambda dom: dom.pinVcpuFlags(0, (True,), WRONG),
    "vcpupin-info": lambda dom: dom.vcpuPinInfo(WRONG),
    "emulatorpin": lambda dom: dom.pinEmulator((True,), WRONG),
    "emulatorpin-info": lambda dom: dom.emulatorPinInfo(WRONG),
    "schedinfo": lambda dom: dom.schedulerParametersFlags(WRONG),
    "memtune": lambda dom: dom.memoryParameters(WRONG),
    "blkiotune": lambda dom: dom.blkioParameters(WRONG),
    "numatune": lambda dom: dom.numaParameters(WRONG),
    "rename": lambda dom: dom.rename("other", WRONG),
    "messages": lambda dom: dom.messages(WRONG),
    "hostname": lambda dom: dom.hostname(WRONG),
    "managed-save?": lambda dom: dom.hasManagedSaveImage(WRONG),
    "peek": lambda dom: dom.blockPeek("vdx", 0, 1, WRONG),
    "perf": lambda dom: dom.perfEvents(WRONG),
    "set-perf": lambda dom: dom.setPerfEvents({"page_faults": True}, WRONG),
    "agent timeout": lambda dom: dom.agentSetResponseTimeout(5, WRONG),
    "memory peek": lambda dom: dom.memoryPeek(0, 1, WRONG),
    "disk errors": lambda dom: dom.diskErrors(WRONG),
    "blockjob": lambda dom: dom.blockJobInfo("vdx", WRONG),
    "blockjob abort": lambda dom: dom.blockJobAbort("vdx", WRONG),
    "blockjob speed": lambda dom: dom.blockJobSetSpeed("vdx", 1, WRONG),
    "snapshots": lambda dom: dom.listAllSnapshots(WRONG),
    "number of snapshots": lambda dom: dom.snapshotNum(WRONG),
    "names of snapshots": lambda dom: dom.snapshotListNames(WRONG),
    "current snapshot?": lambda dom: dom.hasCurrentSnapshot(WRONG),
    "current snapshot": lambda dom: dom.snapshotCurrent(WRONG),
    "checkpoints": lambda dom: dom.listAllCheckpoints(WRONG),
    "setvcpu": lambda dom: dom.setVcpu("0", 1, WRONG),
    "guestvcpus": lambda dom: dom.setGuestVcpus("0", 1, WRONG),
    "ssh keys": lambda dom: dom.authorizedSSHKeysGet("root", WRONG),
    "pm suspend": lambda dom: dom.pMSuspendForDuration(0, 0, WRONG),
    "iothreads": lambda dom: dom.ioThreadInfo(WRONG),
    "iothreadpin": lambda dom: dom.pinIOThread(1, (True,), WRONG),
    "iothreadadd": lambda dom: dom.addIOThread(1, WRONG),
    "iothreaddel": lambda dom: dom.delIOThread(1, WRONG),
    "iothreadset": lambda dom: dom.setIOThreadParams(1, {"poll_max_ns": 1}, WRONG),
}

STATES = {  # right for one state, wrong for the other; those that would succeed are made in the wrong one only
    "off suspend": lambda dom: dom.suspend(),
    "off resume": lambda dom: dom.resume(),
    "off shutdown": lambda dom: dom.shutdown(),
    "off reboot": lambda dom: dom.reboot(0),
    "off reset": lambda dom: dom.reset(0),
    "off destroy": lambda dom: dom.destroy(),
    "off setvcpus": lambda dom: dom.setVcpus(1),
    "off setvcpus live": lambda dom: dom.setVcpusFlags(1, LIVE),
    "off setmem": lambda dom: dom.setMemory(65536),
    "off setmem live": lambda dom: dom.setMemoryFlags(65536, LIVE),
    "off attach": lambda dom: dom.attachDevice(NIC),
    "off attach live": lambda dom: dom.attachDeviceFlags(NIC, LIVE),
    "off detach": lambda dom: dom.detachDevice(NIC),
    "off update live": lambda dom: dom.updateDeviceFlags(NIC, LIVE),
    "off blockresize": lambda dom: dom.blockResize("vdx", 1),
    "off blockstats": lambda dom: dom.blockStats("vdx"),
    "off domifstat": lambda dom: dom.interfaceStats("vnet99"),
    "off dommemstat": lambda dom: dom.memoryStats(),
    "off domifaddr": lambda dom: dom.interfaceAddresses(lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP),
    "off dump": lambda dom: dom.coreDump("/nonexistent/core"),
    "off nmi": lambda dom: dom.injectNMI(),
    "off cpu-stats": lambda dom: dom.getCPUStats(True),
    "off vcpus": lambda dom: dom.vcpus(),
    "off vcpupin": lambda dom: dom.pinVcpu(0, (True,)),
    "off emulatorpin live": lambda dom: dom.pinEmulator((True,), LIVE),
    "off vcpupin-info live": lambda dom: dom.vcpuPinInfo(LIVE),
    "off schedinfo live": lambda dom: dom.schedulerParametersFlags(LIVE),
    "off memtune live": lambda dom: dom.memoryParameters(LIVE),
    "off numatune live": lambda dom: dom.numaParameters(LIVE),
    "off iotune live": lambda dom: dom.blockIoTune("vdx", LIVE),
    "off set-metadata live": lambda dom: dom.setMetadata(lv.VIR_DOMAIN_METADATA_TITLE, "x", None, None, LIVE),
    "off metadata live": lambda dom: dom.metadata(lv.VIR_DOMAIN_METADATA_TITLE, None, LIVE),
    "off control": lambda dom: dom.controlInfo(),
    "off threshold": lambda dom: dom.setBlockThreshold("vdx", 1),
    "off iothreads live": lambda dom: dom.ioThreadInfo(LIVE),
    "off iothreadpin live": lambda dom: dom.pinIOThread(1, (True,), LIVE),
    "off iothreadadd live": lambda dom: dom.addIOThread(1, LIVE),
    "off iothreaddel live": lambda dom: dom.delIOThread(1, LIVE),
    "off iothreadset live": lambda dom: dom.setIOThreadParams(1, {"poll_max_ns": 1}, LIVE),
    "off perf live": lambda dom: dom.perfEvents(LIVE),
    "off set-perf live": lambda dom: dom.setPerfEvents({"page_faults": True}, LIVE),
    "off speed of what follows": lambda dom: dom.migrateGetMaxSpeed(lv.VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY),
    "off set-speed of what follows": lambda dom: dom.migrateSetMaxSpeed(5, lv.VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY),
    "off memory peek": lambda dom: dom.memoryPeek(0, 1, lv.VIR_MEMORY_PHYSICAL),
    "off memory peek by virtual address": lambda dom: dom.memoryPeek(0, 1, lv.VIR_MEMORY_VIRTUAL),
    "off disk errors": lambda dom: dom.diskErrors(),
    "off blockjob": lambda dom: dom.blockJobInfo("vdx"),
    "off blockjob abort": lambda dom: dom.blockJobAbort("vdx"),
    "off setvcpu live": lambda dom: dom.setVcpu("0", 1, LIVE),
    "off shutdown by the agent": lambda dom: dom.shutdownFlags(lv.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT),
    "off reboot by the agent": lambda dom: dom.reboot(lv.VIR_DOMAIN_REBOOT_GUEST_AGENT),
    "off guestvcpus": lambda dom: dom.setGuestVcpus("0", 1),
    "off vcpus of the guest": lambda dom: dom.vcpusFlags(lv.VIR_DOMAIN_VCPU_GUEST | LIVE),
    "off pm suspend": lambda dom: dom.pMSuspendForDuration(0, 0),
    "off ssh keys": lambda dom: dom.authorizedSSHKeysGet("root"),
    "off agent": lambda dom: dom.fsInfo(),
    "off hostname": lambda dom: dom.hostname(),
    "on create": lambda dom: dom.create(),
    "on rename": lambda dom: dom.rename("other"),
    "on setmaxmem": lambda dom: dom.setMaxMemory(131072),
    "on setvcpus maximum": lambda dom: dom.setVcpusFlags(2, LIVE | lv.VIR_DOMAIN_VCPU_MAXIMUM),
    "on iothreadpin of none": lambda dom: dom.pinIOThread(9, (True,), LIVE),
    "on iothreaddel of none": lambda dom: dom.delIOThread(9, LIVE),
    "on iothreadset of none": lambda dom: dom.setIOThreadParams(9, {"poll_max_ns": 1}, LIVE),
    "on disk errors": lambda dom: dom.diskErrors(),
    "on blockjob": lambda dom: dom.blockJobInfo("vdx"),
    "on blockjob abort": lambda dom: dom.blockJobAbort("vdx"),
    "on setvcpu": lambda dom: dom.setVcpu("0", 1, LIVE),
    "on setvcpu off": lambda dom: dom.setVcpu("0", 0, LIVE),
    "on setvcpu of none": lambda dom: dom.setVcpu("9", 1, LIVE),
    "on shutdown by the agent": lambda dom: dom.shutdownFlags(lv.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT),
    "on reboot by the agent": lambda dom: dom.reboot(lv.VIR_DOMAIN_REBOOT_GUEST_AGENT),
    "on guestvcpus": lambda dom: dom.setGuestVcpus("0", 1),
    "on vcpus of the guest": lambda dom: dom.vcpusFlags(lv.VIR_DOMAIN_VCPU_GUEST | LIVE),
    "on setvcpus of the guest": lambda dom: dom.setVcpusFlags(1, lv.VIR_DOMAIN_VCPU_GUEST | LIVE),
    "on pm suspend": lambda dom: dom.pMSuspendForDuration(0, 0),
    "on ssh keys": lambda dom: dom.authorizedSSHKeysGet("root"),
    "on agent": lambda dom: dom.fsInfo(),
    "on time": lambda dom: dom.setTime({"seconds": 1, "nseconds": 0}),
}

VALUES = {  # in either state
    "setvcpus 0": lambda dom: dom.setVcpusFlags(0, CONFIG),
    "setvcpus 9999": lambda dom: dom.setVcpusFlags(9999, CONFIG),
    "setmem 0": lambda dom: dom.setMemoryFlags(0, CONFIG),
    "setmem too much": lambda dom: dom.setMemoryFlags(1 << 40, CONFIG),
    "vcpupin of none": lambda dom: dom.pinVcpuFlags(99, (True,), CONFIG),
    "vcpupin nowhere": lambda dom: dom.pinVcpuFlags(0, (False,), CONFIG),
    "emulatorpin nowhere": lambda dom: dom.pinEmulator((False,), CONFIG),
    "iothreadpin of none": lambda dom: dom.pinIOThread(9, (True,), CONFIG),
    "iothreadpin nowhere": lambda dom: dom.pinIOThread(9, (False,), CONFIG),
    "iothreadadd 0": lambda dom: dom.addIOThread(0, CONFIG),
    "iothreaddel of none": lambda dom: dom.delIOThread(9, CONFIG),
    "iothreaddel 0": lambda dom: dom.delIOThread(0, CONFIG),
    "iothreadset of none": lambda dom: dom.setIOThreadParams(9, {"poll_max_ns": 1}, CONFIG),
    "iothreadset 0": lambda dom: dom.setIOThreadParams(0, {"poll_max_ns": 1}, CONFIG),
    "iothreadset of the unknown": lambda dom: dom.setIOThreadParams(9, {"poll": 1}, CONFIG),
    "perf": lambda dom: dom.perfEvents(CONFIG),
    "agent timeout": lambda dom: dom.agentSetResponseTimeout(5),
    "agent timeout of never": lambda dom: dom.agentSetResponseTimeout(-3),
    "memory peek without a kind": lambda dom: dom.memoryPeek(0, 1, 0),
    "memory peek of both kinds": lambda dom: dom.memoryPeek(0, 1, lv.VIR_MEMORY_PHYSICAL | lv.VIR_MEMORY_VIRTUAL),
    "peek of none": lambda dom: dom.blockPeek("vdx", 0, 1, 0),
    "setvcpu of none": lambda dom: dom.setVcpu("9", 1, CONFIG),
    "setvcpu of the first": lambda dom: dom.setVcpu("0", 0, CONFIG),
    "setvcpu of garbage": lambda dom: dom.setVcpu("fish", 0, CONFIG),
    "setvcpu to what": lambda dom: dom.setVcpu("1", 2, CONFIG),
    "snapshots": lambda dom: dom.listAllSnapshots(),
    "names of snapshots": lambda dom: dom.snapshotListNames(),
    "snapshot of none": lambda dom: dom.snapshotLookupByName("none"),
    "current snapshot": lambda dom: dom.snapshotCurrent(),
    "checkpoints": lambda dom: dom.listAllCheckpoints(),
    "checkpoint of none": lambda dom: dom.checkpointLookupByName("none"),
    "launch security": lambda dom: dom.launchSecurityInfo(),
    "blockinfo of none": lambda dom: dom.blockInfo("vdx"),
    "iotune of none": lambda dom: dom.blockIoTune("vdx", CONFIG),
    "set-iotune of none": lambda dom: dom.setBlockIoTune("vdx", {"total_bytes_sec": 1}, CONFIG),
    "domiftune of none": lambda dom: dom.interfaceParameters("52:54:00:00:00:99", CONFIG),
    "set-domiftune of none": lambda dom: dom.setInterfaceParameters("52:54:00:00:00:99", {"inbound.average": 1}, CONFIG),
    "detach disk of none": lambda dom: dom.detachDeviceFlags(DISK, CONFIG),
    "detach interface of none": lambda dom: dom.detachDeviceFlags(NIC, CONFIG),
    "detach alias of none": lambda dom: dom.detachDeviceAlias("ua-none", CONFIG),
    "update disk of none": lambda dom: dom.updateDeviceFlags(DISK, CONFIG),
    "update interface of none": lambda dom: dom.updateDeviceFlags(NIC, CONFIG),
    "attach garbage": lambda dom: dom.attachDeviceFlags("<disk", CONFIG),
    "attach an unknown thing": lambda dom: dom.attachDeviceFlags("<fish/>", CONFIG),
    "attach a disk without target": lambda dom: dom.attachDeviceFlags("<disk type='file'/>", CONFIG),
    "attach nothing": lambda dom: dom.attachDeviceFlags("", CONFIG),
    "metadata of none": lambda dom: dom.metadata(lv.VIR_DOMAIN_METADATA_ELEMENT, "urn:none", CONFIG),
    "title of none": lambda dom: dom.metadata(lv.VIR_DOMAIN_METADATA_TITLE, None, CONFIG),
    "title with a line's end": lambda dom: dom.setMetadata(lv.VIR_DOMAIN_METADATA_TITLE, "a\nb", None, None, CONFIG),
    "metadata of an unknown kind": lambda dom: dom.setMetadata(77, "a", None, None, CONFIG),
    "metadata that is no XML": lambda dom: dom.setMetadata(lv.VIR_DOMAIN_METADATA_ELEMENT, "<a", "k", "urn:a", CONFIG),
    "hostname by both": lambda dom: dom.hostname(lv.VIR_DOMAIN_GET_HOSTNAME_LEASE | lv.VIR_DOMAIN_GET_HOSTNAME_AGENT),
    "domifaddr by none": lambda dom: dom.interfaceAddresses(77),
}

CONNECTION = {
    "lookup by name": lambda conn: conn.lookupByName("nobody"),
    "lookup by id": lambda conn: conn.lookupByID(777),
    "lookup by uuid": lambda conn: conn.lookupByUUIDString("00000000-0000-0000-0000-00000000000f"),
    "define garbage": lambda conn: conn.defineXML("<domain"),
    "define another document": lambda conn: conn.defineXML("<network/>"),
    "define without a name": lambda conn: conn.defineXML("<domain type='kvm'/>"),
    "define an unknown type": lambda conn: conn.defineXML("<domain type='steam'><name>x</name></domain>"),
    "define without memory": lambda conn: conn.defineXML("<domain type='kvm'><name>x</name><os><type>hvm</type></os></domain>"),
    "define a name with a slash": lambda conn: conn.defineXML("<domain type='kvm'><name>a/b</name><memory>65536</memory><os><type>hvm</type></os></domain>"),
    "define for another machine": lambda conn: conn.defineXML("<domain type='kvm'><name>x</name><memory>65536</memory><os><type machine='toaster'>hvm</type></os></domain>"),
    "define for another processor": lambda conn: conn.defineXML("<domain type='kvm'><name>x</name><memory>65536</memory><os><type arch='z80'>hvm</type></os></domain>"),
    "define with a wrong flag": lambda conn: conn.defineXMLFlags("<domain/>", WRONG),
    "create garbage": lambda conn: conn.createXML("<domain"),
    "create with a wrong flag": lambda conn: conn.createXML("<domain/>", WRONG),
    "domcapabilities of no type": lambda conn: conn.getDomainCapabilities(None, None, None, "steam"),
    "domcapabilities of no machine": lambda conn: conn.getDomainCapabilities(None, "x86_64", "toaster", "kvm"),
    "domcapabilities of no processor": lambda conn: conn.getDomainCapabilities(None, "z80", None, "kvm"),
    "domcapabilities with a wrong flag": lambda conn: conn.getDomainCapabilities(None, None, None, None, WRONG),
    "models of no processor": lambda conn: conn.getCPUModelNames("z80"),
    "compare garbage": lambda conn: conn.compareCPU("<cpu", 0),
    "compare with a wrong flag": lambda conn: conn.compareCPU("<cpu/>", WRONG),
    "baseline of garbage": lambda conn: conn.baselineCPU(["<cpu"], 0),
    "cpu-stats of no processor": lambda conn: conn.getCPUStats(9999),
    "memory of no node": lambda conn: conn.getMemoryStats(9999),
    "free pages of no node": lambda conn: conn.getFreePages([4], 9999, 1),
    "suspend the host for a moment": lambda conn: conn.suspendForDuration(lv.VIR_NODE_SUSPEND_TARGET_MEM, 1, WRONG),
    "list with a wrong flag": lambda conn: conn.listAllDomains(WRONG),
    "statistics with a wrong flag": lambda conn: conn.getAllDomainStats(0, WRONG),
    "native of an unknown kind": lambda conn: conn.domainXMLToNative("steam", "<domain/>", 0),
}


def code(call, argument):
    try:
        call(argument)
    except lv.libvirtError as error:
        return error.get_error_code()
    return "ok"


def main():
    lv.registerErrorHandler(lambda opaque, error: None, None)
    lv.virEventRegisterDefaultImpl()
    threading.Thread(target=lambda: [lv.virEventRunDefaultImpl() for _ in iter(int, 1)], daemon=True).start()
    conn = lv.open(sys.argv[1])
    with open(sys.argv[2], encoding="utf-8") as stream:
        dom = conn.defineXML(stream.read())
    found = {name: code(call, conn) for name, call in CONNECTION.items()}

    def all_of(state):
        before = dom.XMLDesc(0), dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), dom.state()
        for table, prefix in ((FLAGS, "flag of "), (VALUES, "")):
            found.update({f"{state} {prefix}{name}": code(call, dom) for name, call in table.items()})
        found.update({name: code(call, dom) for name, call in STATES.items() if name.startswith(state + " ")})
        if (dom.XMLDesc(0), dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), dom.state()) != before:
            found[f"{state}: damaged"] = dom.XMLDesc(0)

    all_of("off")
    dom.create()
    all_of("on")
    dom.destroy()
    dom.undefine()
    conn.close()
    print(json.dumps(found))


def as_init(function):
    """Runs a function in a child process, and waits for everybody whom it leaves behind: libvirt waits until a QEMU that it ended
    is gone, and one that nobody has waited for is not."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    child = os.fork()
    if child == 0:
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    pid = status = None
    while pid != child:
        pid, status = os.wait()
    sys.exit(os.waitstatus_to_exitcode(status))


as_init(main)
