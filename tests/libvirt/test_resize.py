# SPDX-License-Identifier: LGPL-2.1-or-later
"""More and fewer vCPUs, more and less memory, and what a domain has done: with a small guest, and without a guest."""

import libvirt as lv

from harness import test
from harness.virt import Connection, Stream, configure, disk, domain, fake, refused, small

LIVE, CONFIG, MAXIMUM = lv.VIR_DOMAIN_AFFECT_LIVE, lv.VIR_DOMAIN_AFFECT_CONFIG, lv.VIR_DOMAIN_VCPU_MAXIMUM
BALLOON = "<memballoon model='virtio'><stats period='1'/></memballoon>"


def with_current(xml, current):
    return xml.replace("<vcpu>", f"<vcpu current='{current}'>")


@test(timeout=60, where="host")
def vcpus_come_and_go(t):
    """The guest gets a vCPU, lets one go when it is asked, and one that it keeps is gone after a reboot."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(with_current(small(t, "test=resize wait=1 max_cpus=3", vcpus=3), 2))
    dom.create()
    console = Stream(t, c.conn, dom)

    def tell(letter, expected):
        console.send(letter)
        return console.expect(expected)

    def count():
        return len(dom.vcpus()[0]), dom.vcpusFlags(CONFIG), dom.vcpusFlags(LIVE | MAXIMUM)

    console.send("s")
    console.expect("^ready")
    t.equal(count(), (2, 2, 3), "vCPUs")
    dom.setVcpusFlags(3, LIVE | CONFIG)
    t.equal(tell("c", r"^came (\d+);")[1], "1", "vCPUs that came")
    t.equal(count(), (3, 3, 3), "vCPUs")
    console.send("g")  # the guest waits for what comes
    try:
        dom.setVcpusFlags(1, LIVE)
    except lv.libvirtError as error:  # on a busy host it may need longer than the call waits
        t.equal(error.get_error_code(), lv.VIR_ERR_OPERATION_TIMEOUT, f"code of {error}")
    t.equal(console.expect(r"^went (\d+);")[1], "2", "vCPUs that went")
    t.wait_for(lambda: count() == (1, 3, 3), "the vCPUs to be gone")
    refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.setVcpu, "2", 1, LIVE, text="order")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setVcpu, "1", 0, LIVE, text="already")
    dom.setVcpu("1", 1, LIVE)
    tell("c", r"^came \d+;")

    c.background(dom.setVcpusFlags, 1, LIVE | CONFIG)
    tell("i", r"^ignored \d+;")
    refused(t, lv.VIR_ERR_OPERATION_TIMEOUT, c.join)
    t.equal(count(), (2, 3, 3), "vCPUs of a guest that keeps them")
    dom.reset()
    t.wait_for(lambda: count() == (1, 3, 3), "the vCPU to be gone after a reset")

    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setVcpus, 4)
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setVcpusFlags, 4, CONFIG)
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setVcpusFlags, 4, LIVE | MAXIMUM)
    dom.setVcpusFlags(4, CONFIG | MAXIMUM)
    t.equal(dom.vcpusFlags(CONFIG | MAXIMUM), 4, "maximum of the definition")
    dom.destroy()
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setVcpus, 1)
    dom.setVcpu("1-2", 0, CONFIG)
    t.equal(dom.vcpusFlags(CONFIG), 1, "vCPUs of the definition")
    dom.setVcpu("1-3", 1, CONFIG)
    t.equal(dom.vcpusFlags(CONFIG), 4, "vCPUs of the definition")


@test(timeout=60, where="host")
def memory_is_asked_back(t):
    """The balloon is asked for, live and in the definition; what the guest has is what it says."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(small(t, "test=power", devices=f"<serial type='pty'/>{BALLOON}", memory=128))
    dom.create()
    Stream(t, c.conn, dom).expect("^ready")
    mib = 1024
    dom.setMemory(96 * mib)
    t.equal(dom.info()[1:3], [128 * mib, 128 * mib], "memory before the guest did anything")
    dom.setMemoryFlags(64 * mib, LIVE | CONFIG)
    t.check("<currentMemory unit='KiB'>65536<" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "not in the definition")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.setMemory, 129 * mib)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setMaxMemory, 256 * mib)
    stats = dom.memoryStats()
    t.equal(stats["actual"], 128 * mib, "actual")
    t.check(stats["rss"] > 0, f"memory of the process: {stats}")
    dom.setMemoryStatsPeriod(3, LIVE)
    t.check("<stats period='3'/>" in dom.XMLDesc(0) and "<stats period='1'/>" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "the period of the live domain")
    dom.setMemoryStatsPeriod(5, CONFIG)
    t.check("<stats period='3'/>" in dom.XMLDesc(0), "the period of the live domain")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.setMemoryStatsPeriod, 86401, LIVE)
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.setMemoryStatsPeriod, 86401, LIVE | CONFIG)
    t.check("<stats period='3'/>" in dom.XMLDesc(0), "the period after what was refused")
    t.check("<stats period='5'/>" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "period is not in the definition")
    dom.destroy()
    dom.setMaxMemory(256 * mib)
    t.equal(dom.maxMemory(), 256 * mib, "maximum")
    none = c.conn.defineXML(small(t, "test=power", name="none"))
    none.create()
    refused(t, lv.VIR_ERR_OPERATION_INVALID, none.setMemory, 32 * mib)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, none.setMemoryStatsPeriod, 5, CONFIG)
    none.destroy()
    none.setMaxMemory(96 * mib)
    t.equal(none.info()[1:3], [96 * mib, 96 * mib], "without a balloon all memory is the guest's")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, none.setMemoryFlags, 32 * mib, CONFIG, text="memballoon")


# What virt-manager, virt-top and Nova read.
KEYS = ("state.state", "state.reason", "cpu.time", "cpu.user", "cpu.system", "vcpu.current", "vcpu.maximum", "vcpu.0.state", "vcpu.0.time",
        "vcpu.1.time", "balloon.current", "balloon.maximum", "balloon.rss", "block.count", "block.0.name", "block.0.path",
        "block.0.rd.reqs", "block.0.rd.bytes", "block.0.rd.times", "block.0.wr.reqs", "block.0.wr.bytes", "block.0.wr.times",
        "block.0.allocation", "block.0.capacity", "block.0.physical", "net.count", "net.0.name", "net.0.rx.bytes", "net.0.rx.pkts",
        "net.0.rx.errs", "net.0.rx.drop", "net.0.tx.bytes", "net.0.tx.pkts")


@test(timeout=60, where="host")
def statistics(t):
    """Every key that tools read is there, in one call and in those of one device each."""
    t.network()
    t.virtkumod()
    c = Connection(t, events=False)
    path, image = disk(t, size=1 << 20)
    nic = "<interface type='ethernet'><mac address='52:54:00:00:00:07'/><target dev='tap7'/></interface>"
    dom = c.conn.defineXML(small(t, "test=power", vcpus=2, devices=f"<serial type='pty'/>{image}{nic}{BALLOON}"))
    off = c.conn.getAllDomainStats()[0][1]
    t.equal((off["state.state"], off["vcpu.current"], off["block.0.capacity"]), (lv.VIR_DOMAIN_SHUTOFF, 2, 1 << 20), "of a domain that is off")
    dom.create()
    Stream(t, c.conn, dom).expect("^ready")
    (named, stats), = c.conn.getAllDomainStats()
    t.equal(named.name(), "vm", "name")
    t.equal([key for key in KEYS if key not in stats], [], "missing keys")
    t.equal((stats["block.0.path"], stats["block.0.physical"], stats["net.0.name"], stats["vcpu.maximum"]), (path, 1 << 20, "tap7", 2), "values")
    t.check(stats["cpu.time"] > 0 and stats["vcpu.0.time"] > 0, "no CPU time")
    few = c.conn.domainListGetStats([dom], lv.VIR_DOMAIN_STATS_STATE | lv.VIR_DOMAIN_STATS_VCPU, lv.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)[0][1]
    t.check("vcpu.current" in few and "balloon.current" not in few, f"groups: {sorted(few)}")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, c.conn.getAllDomainStats, lv.VIR_DOMAIN_STATS_DIRTYRATE,
            lv.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ENFORCE_STATS)
    t.equal(c.conn.getAllDomainStats(0, lv.VIR_CONNECT_GET_ALL_DOMAINS_STATS_INACTIVE), [], "domains that are off")

    t.equal(dom.blockInfo("vda")[0], 1 << 20, "capacity")
    t.equal(len(dom.blockStats("vda")), 5, "block statistics")
    t.check(dom.blockStatsFlags("")["rd_bytes"] >= 0, "statistics of all disks")
    t.equal(len(dom.interfaceStats("tap7")), 8, "interface statistics")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.blockStats, "vdx")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.blockInfo, "vdx")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.interfaceStats, "tap8")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.interfaceAddresses, lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_AGENT)
    dom.destroy()
    for call in (lambda: dom.blockStats("vda"), lambda: dom.interfaceStats("tap7"), dom.memoryStats,
                 lambda: dom.interfaceAddresses(lv.VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_ARP)):
        refused(t, lv.VIR_ERR_OPERATION_INVALID, call)


@test(timeout=60, where="any")
def a_silent_vmm_holds_up_no_statistics(t):
    """Tools that do not want to wait get what the driver knows itself."""
    configure(t, timeout=20)
    t.virtkumod()
    c = Connection(t, events=False)
    silent = c.conn.defineXML(domain(t, "silent", "fake.silent=vm.pause", emulator=fake(t)))
    silent.create()
    stuck = Connection(t, events=False)
    stuck.background(stuck.conn.lookupByName("silent").suspend)
    t.wait_for(lambda: silent.controlInfo()[0] == lv.VIR_DOMAIN_CONTROL_JOB, "the job")
    stats = c.conn.getAllDomainStats(0, lv.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)[0][1]
    t.equal(stats["balloon.current"], 64 * 1024, "memory")
    t.check("cpu.time" in stats, "no CPU time")
    silent.destroy()
    refused(t, lv.VIR_ERR_OPERATION_FAILED, stuck.join)
