# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that run: our own small one on any KVM, stock Debian kernels where they can."""

import os
import re
import signal
import time

import libvirt as lv

from harness import cases, guest, test, tiny_guest
from harness.virt import Connection, Stream, disk, domain, kumo, process_of, small

OFF_SHUTDOWN = (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
BRIDGE = "<interface type='bridge'><mac address='52:54:00:6b:75:6d'/><source bridge='br0'/></interface>"


@test(timeout=60, where="host")
def console_and_power(t):
    """The small guest answers over the stream, resets itself, and its end is the domain's."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(small(t, "test=power wait=1"))
    dom.create()
    t.check(re.search(r"<console type='pty' tty='/dev/pts/\d+'", dom.XMLDesc(0)), "no pty in the definition")
    console = Stream(t, c.conn, dom)
    console.send("s")
    console.expect("^ready")
    busy = c.conn.newStream(lv.VIR_STREAM_NONBLOCK)
    try:
        dom.openConsole("serial0", busy, lv.VIR_DOMAIN_CONSOLE_SAFE)
        t.check(False, "two at one console")
    except lv.libvirtError as error:
        t.equal(error.get_error_code(), lv.VIR_ERR_OPERATION_FAILED, "code for a console in use")
    console.send("a")
    console.expect("^waiting")
    t.wait_for(lambda: c.reboots == ["vm"], "the reboot's event")
    console.send("s")
    console.expect("^ready")
    console.send("q")
    c.state(dom, *OFF_SHUTDOWN)


@test(timeout=120, where="host")
def fifty_of_them(t):
    """On one host: all run, a daemon that comes later knows them, one that stands still is nobody else's affair, and nothing is left."""
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    image = t.path("tiny.elf")
    with open(image, "wb") as stream:
        stream.write(tiny_guest.image())
    log = t.path("said-{}.log")
    for number in range(50):
        devices = f"<serial type='pty'><log file='{log.format(number)}'/></serial>" + disk(t, f"disk{number}.img")[1]
        c.conn.createXML(domain(t, f"vm{number}", path=image, emulator=kumo(), devices=devices))

    def lives(pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                return stream.read() != b""  # or it is only waited for
        except OSError:
            return False

    def spoke(number):
        with open(log.format(number), encoding="ascii") as stream:
            return stream.read() == "K"

    t.wait_for(lambda: all(spoke(number) for number in range(50)), "the one byte of each guest", 30, every=0.2)
    pids = {dom.name(): process_of(dom) for dom in c.conn.listAllDomains()}
    t.equal(len(set(pids.values())), 50, "processes")
    daemon.kill()
    daemon.wait()
    t.virtkumod()
    c = Connection(t, events=False)
    os.kill(pids["vm7"], signal.SIGSTOP)
    t.cleanup(os.kill, pids["vm7"], signal.SIGCONT)
    other = Connection(t, events=False)
    other.background(other.conn.lookupByName("vm7").suspend)
    begin = time.monotonic()
    for name in set(pids) - {"vm7"}:
        dom = c.conn.lookupByName(name)
        dom.suspend()
        t.equal(dom.state()[0], lv.VIR_DOMAIN_PAUSED, f"state of {name}")
        dom.resume()
    stats = c.conn.getAllDomainStats(lv.VIR_DOMAIN_STATS_STATE | lv.VIR_DOMAIN_STATS_BLOCK, lv.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
    t.equal(sum("block.count" in values for _, values in stats), 50, "domains with statistics")
    t.check(time.monotonic() - begin < 20, f"the others answered in {time.monotonic() - begin:.1f} s")
    os.kill(pids["vm7"], signal.SIGCONT)
    other.join()
    t.equal(c.conn.lookupByName("vm7").state()[0], lv.VIR_DOMAIN_PAUSED, "state of the one that stood still")
    for dom in c.conn.listAllDomains():
        dom.destroy()
    t.equal(c.conn.listAllDomains(), [], "domains")
    t.equal([name for name, pid in pids.items() if lives(pid)], [], "processes that are left")
    t.equal([name for name in os.listdir("/run/libvirt/kumo") if name.startswith("domain-")], [], "directories of runs that are left")


@test(timeout=60, where="host")
def a_log_of_the_console(t):
    """What Nova shows as an instance's console: a file beside the pty, new at each start or kept, as it is asked for."""
    t.virtkumod()
    c = Connection(t, events=False)
    path = t.path("console.log")
    for append in ("off", "on"):
        with open(path, "w", encoding="ascii") as stream:
            stream.write("before\n")
        dom = c.conn.defineXML(small(t, "test=power", devices=f"<serial type='pty'><log file='{path}' append='{append}'/></serial>"))
        dom.create()

        def log():
            with open(path, encoding="utf-8", errors="replace") as stream:
                return stream.read()

        t.wait_for(lambda: "ready" in log(), "the guest's words in the log")
        t.equal("before" in log(), append == "on", "what was in the file")
        Stream(t, c.conn, dom).expect("^ready")
        dom.destroy()


@test(timeout=60, where="host")
def pause_resume_destroy(t):
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(small(t, "test=power", vcpus=2))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.expect("^ready")
    dom.suspend()
    spent = [dom.info()[4] for _ in range(2)][1]
    t.equal(dom.state()[0], lv.VIR_DOMAIN_PAUSED, "state")
    t.check(dom.info()[4] - spent < 50_000_000, "a paused guest uses CPU time")
    dom.resume()
    t.equal(len(dom.vcpus()[0]), 2, "vCPUs")
    dom.destroy()
    t.equal(dom.state(), [lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_DESTROYED], "state")


@test(timeout=60, where="host")
def taps_are_the_drivers(t):
    """An unprivileged VMM gets its taps by descriptor; the bridge has them while it runs."""
    t.network()
    t.run("ip", "link", "add", "br0", "type", "bridge")
    t.run("ip", "link", "set", "br0", "up")
    t.virtkumod()
    c = Connection(t, events=False)
    ethernet = "<interface type='ethernet'><target dev='tap7'/><mtu size='1400'/></interface>"
    dom = c.conn.defineXML(small(t, "test=power", devices=BRIDGE + ethernet))
    dom.create()
    name = re.search(r"<target dev='(vnet\d+)'/>", dom.XMLDesc(0))[1]
    t.check("master br0" in t.run("ip", "link", "show", name), "the tap is not in the bridge")
    t.check("mtu 1400" in t.run("ip", "link", "show", "tap7"), "the MTU is not the tap's")
    with open(f"/proc/{process_of(dom)}/status", encoding="ascii") as stream:
        t.check("CapEff:\t0000000000000000" in stream.read(), "the VMM has capabilities")
    dom.destroy()
    for tap in (name, "tap7"):
        t.run("ip", "link", "show", tap, status=1)
    broken = c.conn.defineXML(small(t, "test=power", devices=BRIDGE.replace("br0", "br9")))
    try:
        broken.create()
        t.check(False, "there is no bridge br9")
    except lv.libvirtError as error:
        t.check("br9" in str(error), str(error))


@test(timeout=60, where="host")
@cases(clock=(("offset='variable' basis='utc' adjustment='-31536000'", -31536000), ("offset='timezone' timezone='Asia/Tokyo'", 9 * 3600),
              ("offset='absolute' start='NOW+7200'", 7200)))
def another_clock(t, clock):
    """What a guest reads in the real-time clock is as far from UTC as the definition says."""
    t.virtkumod()
    c = Connection(t, events=False)
    attributes, ahead = clock
    attributes = attributes.replace("NOW+7200", str(int(time.time()) + 7200))
    dom = c.conn.defineXML(small(t, f"test=boot epoch={int(time.time()) + ahead} wait=1", extra=f"<clock {attributes}/>"))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.send("s")
    t.equal(console.expect(r"^(ok|not ok) \d+ - the real-time clock shows.*")[1], "ok", "the clock")


@test(timeout=120, where="lab")
@cases(kernel=("bookworm-elf", "trixie-bzimage"))
def debian(t, kernel):
    """A stock kernel with disk, network, serial and virtio console: boots, is reached, writes, shuts down, boots again."""
    t.network()
    for command in ("link add br0 type bridge", "addr add 192.168.77.1/24 dev br0", "link set br0 up"):
        t.run("ip", *command.split())
    t.virtkumod()
    c = Connection(t)
    root = guest.root_disk(t.path("root.ext4"))
    devices = (f"<disk type='file'><driver type='raw'/><source file='{root}'/><target dev='vda' bus='virtio'/></disk>"
               f"{disk(t, target='vdb')[1]}{BRIDGE}<serial type='pty'/>")
    words = guest.command_line("root=/dev/vda", run=("facts", "boot-count", "ip:192.168.77.2/24", "ping:192.168.77.1"))
    dom = c.conn.defineXML(domain(t, words=words, path=guest.kernel(kernel), initrd=guest.initramfs(kernel), emulator=kumo(),
                                  devices=devices, memory=256, vcpus=2))
    for boots in ("1", "2"):
        dom.create()
        console = Stream(t, c.conn, dom)
        seen = console.expect(r"[\s\S]*^guest: ready", 60)[0]
        facts = guest.Facts(seen)
        t.equal(facts["cpus"], "2 online 0-1", "CPUs")
        t.check("52:54:00:6b:75:6d" in facts["net"], f"network: {facts['net']}")
        t.equal(len(facts.all("disk")), 2, "disks")
        t.equal(facts["boot-count"], boots, "boots")
        t.equal(facts.runs()["ping:192.168.77.1"], "ok", "ping")
        console.close()
        dom.shutdown()
        c.state(dom, *OFF_SHUTDOWN, seconds=40)


@test(timeout=120, where="lab")
def debian_survives_the_daemon(t):
    """A guest works on while the daemon is gone, and a new daemon's reboot reaches it."""
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    words = guest.command_line(run=("facts",))
    kernel = "bookworm-elf"
    dom = c.conn.defineXML(domain(t, words=words, path=guest.kernel(kernel), initrd=guest.initramfs(kernel), emulator=kumo(), memory=256))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.expect(guest.READY, 60)
    console.send("while :; do echo tick $((n += 1)); sleep 0.2; done &\n")
    count = int(console.expect(r"^tick (\d+)")[1])
    daemon.kill()
    daemon.wait()
    os.unlink("/run/libvirt/virtkumod-sock")
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.lookupByName("vm")
    console = Stream(t, c.conn, dom)
    t.check(int(console.expect(r"^tick (\d+)\r?\n")[1]) > count, "the guest stood still")
    dom.reboot()
    t.wait_for(lambda: c.reboots == ["vm"], "the event of the reboot", 60)
    console = Stream(t, c.conn, dom)  # the serial port of the new start is a new pty
    console.expect(guest.READY, 60)
    dom.destroy()


CPUS = {
    "host-model": "<cpu mode='host-model'/>", "host-passthrough": "<cpu mode='host-passthrough'/>", "maximum": "<cpu mode='maximum'/>",
    "small": "<cpu mode='custom' match='exact' check='partial'><model fallback='forbid'>qemu64</model><feature policy='disable' name='svm'/></cpu>",
    "whatever is there": "<cpu mode='custom' match='exact' check='none'><model fallback='forbid'>SandyBridge</model></cpu>",
}


@test(timeout=60, where="host")
@cases(cpu=tuple(CPUS))
def every_cpu_mode(t, cpu):
    """A guest runs with each, by the names of CPU features that this version of libvirt has, and moves to a file and back."""
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(small(t, "test=power", extra=CPUS[cpu]))
    dom.create()
    Stream(t, c.conn, dom).expect("^ready")
    if cpu in ("small", "host-model"):
        t.check("check='full'" in dom.XMLDesc(0), f"CPU of the running domain: {dom.XMLDesc(0)}")
    dom.save(t.path("image"))
    c.conn.restore(t.path("image"))
    c.state(dom, lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_RESTORED)
    dom.destroy()


@test(timeout=90, where="lab")
def cpu_models(t):
    """A stock kernel sees the features of the model that the running domain's XML names, and no others."""
    t.virtkumod()
    c = Connection(t, events=False)
    kernel = "bookworm-elf"
    for cpu, shown, hidden in (
            ("<cpu mode='custom' match='exact' check='partial'><model fallback='forbid'>qemu64</model><feature policy='disable' name='cx16'/></cpu>",
             ("sse2", "pni"), ("cx16", "sse4_1", "avx", "rdtscp")),
            ("<cpu mode='host-model'/>", ("sse2", "pni", "cx16", "x2apic"), ("constant_tsc_none",)),
            ("<cpu mode='host-passthrough'><feature policy='disable' name='pclmuldq'/></cpu>", ("cx16",), ("pclmulqdq",))):
        dom = c.conn.defineXML(domain(t, words=guest.command_line(), path=guest.kernel(kernel), initrd=guest.initramfs(kernel),
                                      emulator=kumo(), memory=256, extra=cpu))
        dom.create()
        console = Stream(t, c.conn, dom)
        console.expect(guest.READY, 60)
        console.send("grep -m1 flags /proc/cpuinfo; echo end-$((6 * 7))\n")
        flags = console.expect(r"([\s\S]*?)^end-42")[1].split()
        t.equal([name for name in shown if name not in flags], [], f"missing with {cpu}")
        t.equal([name for name in hidden if name in flags], [], f"shown with {cpu}")
        live = dom.XMLDesc(0)
        if "passthrough" not in cpu:
            t.check("<cpu mode='custom' match='exact' check='full'>" in live, f"CPU of the running domain: {live}")
            model = re.search(r"<model fallback='forbid'>(.*)</model>", live)[1]
            t.check(model != "qemu64" if "host-model" in cpu else model == "qemu64", f"model {model}")
            # Not AVX: in the lab Linux turns it off, with all that needs XSAVE, for the emulated processor's XSAVE area puzzles it.
            wrong = [name for name in re.findall(r"<feature policy='require' name='([a-z0-9]+)'/>", live)
                     if name in ("svm", "vme", "aes", "movbe", "rdtscp") and name not in flags]
            t.equal(wrong, [], "features that the XML has and the guest has not")
        dom.destroy()
