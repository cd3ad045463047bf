# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtkumod is killed in the middle of each call. The next one finds a world that fits together: no process, tap, label, control
group or file that belongs to no domain, and no domain that is half of something."""

import os
import signal
import socket
import time

import libvirt as lv

from harness import cases, test
from harness.virt import Connection, configure, disk, domain, fake, process_of, refused

NIC = "<interface type='ethernet'><mac address='52:54:00:00:00:07'/><target dev='tap7'/><model type='virtio'/></interface>"
RUN = "/run/libvirt/kumo"


def processes(t):
    """The fake VMMs of this test."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as stream:
                if os.fsencode(fake(t)) in stream.read():
                    found.append(int(pid))
        except OSError:
            pass
    return found


def interfaces():
    return {name for _, name in socket.if_nameindex() if name.startswith("tap")}


def kill_during(t, daemon, call, done):
    """Kills the daemon when a call by virsh has got as far as DONE says; starts the next."""
    virsh = t.start("virsh", "-c", "kumo:///system", *call)
    t.wait_for(done, f"the middle of {call[0]}", every=0.005)
    daemon.kill()
    daemon.wait()
    virsh.wait(20)
    t.virtkumod()
    return Connection(t)


def asked(endpoint, log="/var/log/libvirt/kumo/vm.log"):
    """Whether the VMM was asked, and does not answer."""
    def check():
        try:
            with open(log, encoding="utf-8", errors="replace") as stream:
                return f"fake: {endpoint}, and no answer" in stream.read()
        except FileNotFoundError:
            return False
    return check


def begin(t, words="", vcpus=1, start=True):
    """A domain with a disk and a tap, whose image is somebody's, and the daemon that runs it."""
    t.network()
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    path, xml = disk(t)
    os.chown(path, 1234, 1235)
    dom = c.conn.defineXML(domain(t, words=words, devices=xml + NIC, vcpus=vcpus))
    if start:
        dom.create()
    return daemon, c, dom, path


def nothing_runs(t, c, path):
    """Waits until the domain is off and all that it had of the host is given back."""
    t.wait_for(lambda: not c.conn.lookupByName("vm").isActive(), "the domain's end")
    t.wait_for(lambda: not processes(t), "the end of the VMM")
    t.equal(interfaces(), set(), "taps")
    t.equal((os.stat(path).st_uid, os.stat(path).st_gid), (1234, 1235), "owner of the image")
    t.equal([name for name in os.listdir(RUN) if "vm" in name], [], "files of runs")
    dom = c.conn.lookupByName("vm")
    dom.undefine()
    c.conn.defineXML(domain(t)).create()
    t.equal(len(processes(t)), 1, "processes of a new run")


@test(timeout=90, where="any")
@cases(endpoint=("vm.ping", "vm.create", "vm.boot", "vm.info"))
def a_start(t, endpoint):
    daemon, c, dom, path = begin(t, f"fake.silent={endpoint}", start=False)
    if endpoint == "vm.ping":  # before the configuration: nothing tells it to be silent
        dom = c.conn.defineXML(dom.XMLDesc(0).replace(fake(t), fake(t, "-mute")))
        kill_at = lambda: os.path.exists(f"{RUN}/vm.xml") and bool(interfaces())
    else:
        kill_at = asked(endpoint)
    c = kill_during(t, daemon, ("start", "vm"), kill_at)
    nothing_runs(t, c, path)


@test(timeout=90, where="any")
@cases(delay=(0, 10, 20, 40, 80, 160))
def a_start_at_any_moment(t, delay):
    """DELAY: milliseconds."""
    daemon, c, _, path = begin(t, "fake.silent=vm.boot", start=False)
    began = []
    def late():
        began.append(time.monotonic())
        return began[-1] - began[0] > delay / 1000
    c = kill_during(t, daemon, ("start", "vm"), late)
    nothing_runs(t, c, path)


@test(timeout=90, where="any")
@cases(how=("silent", "late"))
def an_attach(t, how):
    """The next daemon asks the VMM whether it has the disk."""
    daemon, c, dom, _ = begin(t, f"fake.{how}=vm.add-disk")
    new, xml = disk(t, "new.img", target="vdb")
    os.chown(new, 1234, 1235)
    with open(t.path("new.xml"), "w", encoding="ascii") as stream:
        stream.write(xml)
    c = kill_during(t, daemon, ("attach-device", "vm", t.path("new.xml"), "--live", "--config"), asked("vm.add-disk"))
    dom = c.conn.lookupByName("vm")
    has = how == "late"
    t.wait_for(lambda: ("vdb" in dom.XMLDesc(0)) == has, f"the live definition: vdb {'in' if has else 'out'}")
    t.equal(os.stat(new).st_uid != 1234, has, "whether the image is the VMM's")
    t.check("vdb" not in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "half attached: in the definition")
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
    dom.destroy()
    t.equal(os.stat(new).st_uid, 1234, "owner of the image afterwards")


@test(timeout=90, where="any")
@cases(how=("silent", "late"))
def an_attach_of_an_interface(t, how):
    daemon, c, dom, _ = begin(t, f"fake.{how}=vm.add-net")
    with open(t.path("new.xml"), "w", encoding="ascii") as stream:
        stream.write(NIC.replace("tap7", "tap8").replace(":07", ":08"))
    c = kill_during(t, daemon, ("attach-device", "vm", t.path("new.xml")), asked("vm.add-net"))
    dom = c.conn.lookupByName("vm")
    has = how == "late"
    t.wait_for(lambda: ("tap8" in dom.XMLDesc(0)) == has, f"the live definition: tap8 {'in' if has else 'out'}")
    dom.destroy()
    t.wait_for(lambda: interfaces() == set(), "the taps' end")


@test(timeout=90, where="any")
@cases(how=("silent", "late"))
def a_detach(t, how):
    """What the guest let go meanwhile is gone, with its label."""
    daemon, c, dom, path = begin(t, f"fake.{how}=vm.remove-device")
    c = kill_during(t, daemon, ("detach-disk", "vm", "vda"), asked("vm.remove-device"))
    dom = c.conn.lookupByName("vm")
    has = how == "silent"
    t.wait_for(lambda: ("vda" in dom.XMLDesc(0)) == has, f"the live definition: vda {'in' if has else 'out'}")
    t.wait_for(lambda: (os.stat(path).st_uid != 1234) == has, "the image's label")
    t.check("vda" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "out of the definition")


@test(timeout=90, where="any")
@cases(how=("silent", "late"))
def a_change_of_vcpus(t, how):
    daemon, c, dom, _ = begin(t, f"fake.{how}=vm.resize", start=False)
    dom = c.conn.defineXML(dom.XMLDesc(0).replace("<vcpu placement='static'>1</vcpu>", "<vcpu current='1'>3</vcpu>"))
    dom.create()
    c = kill_during(t, daemon, ("setvcpus", "vm", "3", "--live"), asked("vm.resize"))
    dom = c.conn.lookupByName("vm")
    t.wait_for(lambda: dom.vcpusFlags(lv.VIR_DOMAIN_AFFECT_LIVE) == (3 if how == "late" else 1), "the number of vCPUs")
    t.equal(dom.vcpusFlags(lv.VIR_DOMAIN_AFFECT_CONFIG), 1, "defined vCPUs")


@test(timeout=90, where="any")
def a_change_of_a_disks_size(t):
    daemon, c, dom, _ = begin(t, "fake.silent=vm.resize-disk")
    before = dom.XMLDesc(0)
    c = kill_during(t, daemon, ("blockresize", "vm", "vda", "2048"), asked("vm.resize-disk"))
    dom = c.conn.lookupByName("vm")
    c.state(dom, lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_BOOTED)
    t.equal(dom.XMLDesc(0), before, "definition")


@test(timeout=90, where="any")
def a_pause(t):
    """What the VMM does is what holds."""
    daemon, c, dom, _ = begin(t, "fake.late=vm.pause")
    c = kill_during(t, daemon, ("suspend", "vm"), asked("vm.pause"))
    dom = c.conn.lookupByName("vm")
    t.wait_for(lambda: dom.state()[0] == lv.VIR_DOMAIN_PAUSED, "the pause")


@test(timeout=90, where="any")
def a_destroy(t):
    """The VMM does not end at once, so there is a middle."""
    daemon, c, dom, path = begin(t, "fake.stubborn")
    pid = process_of(dom)
    began = []
    def a_little_later():
        began.append(time.monotonic())
        return began[-1] - began[0] > 0.3
    c = kill_during(t, daemon, ("destroy", "vm"), a_little_later)
    dom = c.conn.lookupByName("vm")
    t.equal((dom.isActive(), process_of(dom)), (1, pid), "the domain that nobody ended")
    dom.destroy()
    nothing_runs(t, c, path)


@test(timeout=120, where="any")
def define_and_undefine(t):
    """At many moments: each file is a whole definition, old or new."""
    t.libvirt_directories()
    for number in range(6):
        daemon = t.virtkumod()
        script = "".join(f"virsh -c kumo:///system define {t.path('a.xml')}; virsh -c kumo:///system autostart vm; virsh -c kumo:///system undefine vm; " for _ in range(20))
        with open(t.path("a.xml"), "w", encoding="ascii") as stream:
            stream.write(domain(t, words="x" * 1000))
        shell = t.start("sh", "-c", script)
        time.sleep(0.15 + 0.07 * number)
        daemon.kill()
        daemon.wait()
        os.kill(shell.pid, signal.SIGKILL)
        shell.wait()
        second = t.virtkumod()
        c = Connection(t, events=False)
        files = {name for name in os.listdir("/etc/libvirt/kumo") if name != "autostart"}
        t.equal({f"{dom.name()}.xml" for dom in c.conn.listAllDomains()}, {name for name in files if name.endswith(".xml")}, "domains and files")
        for dom in c.conn.listAllDomains():
            dom.undefine()
        t.equal(os.listdir("/etc/libvirt/kumo/autostart"), [], "links to nothing")
        c.conn.close()
        second.terminate()
        second.wait(20)


@test(timeout=90, where="any")
def a_stopped_vmm(t):
    """A VMM that stands still holds up calls about its own domain only, and those for no longer than their time."""
    configure(t, timeout=2)
    t.virtkumod()
    c = Connection(t, events=False)
    still, other = [c.conn.defineXML(domain(t, name)) for name in ("still", "other")]
    still.create()
    other.create()
    pid = process_of(still)
    os.kill(pid, signal.SIGSTOP)
    waiting = t.start("virsh", "-c", "kumo:///system", "suspend", "still")
    time.sleep(0.3)
    start = time.monotonic()
    other.suspend()
    other.resume()
    t.equal(len(c.conn.getAllDomainStats(flags=lv.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)), 2, "statistics")
    still.info()
    t.equal(still.controlInfo()[0], lv.VIR_DOMAIN_CONTROL_JOB, "what the domain is busy with")
    t.check(time.monotonic() - start < 1.5, "calls about others had to wait")
    t.equal(waiting.wait(20) != 0, True, "the pause of a VMM that stands still succeeded")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, still.suspend, text="vm.pause")
    os.kill(pid, signal.SIGCONT)
    t.wait_for(lambda: still.state()[0] == lv.VIR_DOMAIN_PAUSED, "the pause that came late")
    still.resume()
    os.kill(pid, signal.SIGSTOP)
    start = time.monotonic()
    still.destroy()
    t.check(time.monotonic() - start < 15, "destroy of a VMM that stands still took too long")
    t.equal(still.isActive(), 0, "activity")


@test(timeout=30, where="any")
def a_note_of_a_run(t):
    """Of a status file that is half written nothing is left, and the one before it holds."""
    daemon, _, dom, path = begin(t)
    pid = process_of(dom)
    daemon.kill()
    daemon.wait()
    with open(f"{RUN}/vm.xml.new", "w", encoding="ascii") as stream:
        stream.write("<domstatus state='run")
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    t.equal((dom.isActive(), process_of(dom)), (1, pid), "the domain")
    t.wait_for(lambda: not os.path.exists(f"{RUN}/vm.xml.new"), "the half file's end")
    dom.destroy()
    nothing_runs(t, c, path)
