# SPDX-License-Identifier: LGPL-2.1-or-later
"""Calls for which virsh has no word, and flags that few ask for."""

import struct

import libvirt as lv

from harness import test
from harness.virt import Connection, Stream, configure, domain, fake, guest_elf, refused, small, start

PT_LOAD = 1
PHYSICAL = lv.VIR_MEMORY_PHYSICAL


def code_of(path):
    """The largest segment of an ELF file of 64 bits: (physical address, its bytes)."""
    with open(path, "rb") as stream:
        data = stream.read()
    at, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    parts = [struct.unpack_from("<IIQQQQ", data, at + i * size) for i in range(count)]
    _, _, offset, _, address, length = max((part for part in parts if part[0] == PT_LOAD), key=lambda part: part[5])
    return address, data[offset:offset + length]


@test(timeout=60, where="host")
def memory_of_a_guest(t):
    """virDomainMemoryPeek by physical address, while the guest runs and while it does not, more than the VMM gives at once."""
    t.virtkumod()
    c = Connection(t, events=False)
    dom, _ = start(t, c, small(t, "test=power"))
    address, code = code_of(guest_elf(t))
    code = code[:4096]
    begin = address - (100 << 10)
    for state in (lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_PAUSED):
        t.equal(dom.state()[0], state, "state")
        t.check(dom.memoryPeek(address, len(code), PHYSICAL) == code, "the guest's code is not where it runs")
        t.check(dom.memoryPeek(begin, 300 << 10, PHYSICAL)[100 << 10:][:len(code)] == code, "nor in more of its memory")
        t.equal(len(dom.memoryPeek(0, 4 << 20, PHYSICAL)), 4 << 20, "as much as libvirt passes on")
        for first, size in (((64 << 20) - 1, 2), (64 << 20, 1), (0xfec00000, 4)):
            refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, dom.memoryPeek, first, size, PHYSICAL, text="there is no RAM")
        refused(t, lv.VIR_ERR_INVALID_ARG, dom.memoryPeek, 1 << 63, 1, PHYSICAL, text="0x8000000000000000")
        refused(t, lv.VIR_ERR_OPERATION_UNSUPPORTED, dom.memoryPeek, 0, 1, lv.VIR_MEMORY_VIRTUAL, text="VIR_MEMORY_VIRTUAL")
        if state == lv.VIR_DOMAIN_RUNNING:
            dom.suspend()
    reader = lv.openReadOnly("kumo:///system").lookupByName("vm")
    refused(t, lv.VIR_ERR_OPERATION_DENIED, reader.memoryPeek, 0, 1, PHYSICAL)
    dom.destroy()


@test(timeout=30, where="any")
def memory_by_halves(t):
    """Each part of what is read is where it belongs; an answer that is short is an error."""
    configure(t, binary=fake(t))
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.createXML(domain(t))
    expected = bytes((7 + i) // 65536 & 255 for i in range(200000))
    t.check(dom.memoryPeek(7, len(expected), PHYSICAL) == expected, "parts are in the wrong place")
    dom.destroy()
    dom = c.conn.createXML(domain(t, words="fake.short"))
    refused(t, lv.VIR_ERR_INTERNAL_ERROR, dom.memoryPeek, 0, 70000, PHYSICAL, text="not the memory")
    dom.destroy()


@test(timeout=60, where="host")
def statistics_over_a_save(t):
    """Whatever the period of statistics became while the guest ran, the guest finds its balloon again."""
    t.virtkumod()
    c = Connection(t, events=False)
    for first, periods in (("<stats period='1'/>", (0, 4)), ("", (3, 0))):
        dom, _ = start(t, c, small(t, "test=power", devices=f"<serial type='pty'/><memballoon model='virtio'>{first}</memballoon>"))
        for period in periods:
            dom.setMemoryStatsPeriod(period, lv.VIR_DOMAIN_AFFECT_LIVE)
            dom.managedSave()
            dom.create()
            t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
            t.equal(f"<stats period='{period}'/>" in dom.XMLDesc(0), period > 0, "a period in the live XML")
        dom.destroy()


@test(timeout=60, where="host")
def performance_counters(t):
    """The kernel's counters of the VMM and its vCPUs: by the definition and by call, over a daemon's end, never of a domain that is off."""
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    xml = small(t, "test=power", extra="<perf><event name='task_clock' enabled='yes'/><event name='cpu_clock' enabled='no'/></perf>")
    dom = c.conn.defineXML(xml)
    t.equal([name for name, on in dom.perfEvents().items() if on], ["task_clock"], "events of the definition")
    dom.create()
    Stream(t, c.conn, dom).expect("^ready")

    def counted():
        record, = c.conn.getAllDomainStats(lv.VIR_DOMAIN_STATS_PERF)
        return record[1]

    t.equal(list(counted()), ["perf.task_clock"], "what is counted")
    t.check(0 < counted()["perf.task_clock"] <= dom.info()[4] + 10**9, f"task_clock: {counted()}")
    text = t.run("virsh", "-c", c.uri, "perf", "vm", "--enable", "page_faults", "--disable", "task_clock", "--live")
    t.check("page_faults" in text, text)
    t.equal(list(counted()), ["perf.page_faults"], "what is counted then")
    live = dom.XMLDesc(0)
    t.check("<event name='page_faults' enabled='yes'/>" in live and "<event name='task_clock' enabled='no'/>" in live, live)
    dom.setPerfEvents({"cpu_clock": True}, lv.VIR_DOMAIN_AFFECT_CONFIG)
    t.equal({name for name, on in dom.perfEvents(lv.VIR_DOMAIN_AFFECT_CONFIG).items() if on}, {"task_clock", "cpu_clock"}, "events of the definition")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.setPerfEvents, {"cmt": True}, lv.VIR_DOMAIN_AFFECT_LIVE)
    c.conn.close()
    daemon.kill()
    daemon.wait()
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    t.equal([name for name, on in dom.perfEvents(lv.VIR_DOMAIN_AFFECT_LIVE).items() if on], ["page_faults"], "events after the daemon's end")
    t.equal(list(counted()), ["perf.page_faults"], "what is counted then")
    dom.destroy()
    t.equal(counted(), {}, "what is counted of a domain that is off")
    dom = c.conn.defineXML(xml.replace("task_clock", "cmt"))
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.create, text="cmt")
    t.equal(dom.state()[0], lv.VIR_DOMAIN_SHUTOFF, "state")
