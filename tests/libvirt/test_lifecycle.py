# SPDX-License-Identifier: LGPL-2.1-or-later
"""A domain's life through the system daemon, with a VMM that has no VM in it: states, reasons, events, errors."""

import os
import signal
import time

import libvirt as lv

from harness import test
from harness.virt import Connection, configure, disk, domain, fake, process_of, refused

RUNNING_BOOTED = (lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_BOOTED)
RUNNING_UNPAUSED = (lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_UNPAUSED)
PAUSED_USER = (lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_USER)
OFF_SHUTDOWN = (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
OFF_DESTROYED = (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_DESTROYED)
OFF_CRASHED = (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_CRASHED)
OFF_FAILED = (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_FAILED)

DEFINED = (lv.VIR_DOMAIN_EVENT_DEFINED, lv.VIR_DOMAIN_EVENT_DEFINED_ADDED)
REDEFINED = (lv.VIR_DOMAIN_EVENT_DEFINED, lv.VIR_DOMAIN_EVENT_DEFINED_UPDATED)
UNDEFINED = (lv.VIR_DOMAIN_EVENT_UNDEFINED, lv.VIR_DOMAIN_EVENT_UNDEFINED_REMOVED)
STARTED = (lv.VIR_DOMAIN_EVENT_STARTED, lv.VIR_DOMAIN_EVENT_STARTED_BOOTED)
SUSPENDED = (lv.VIR_DOMAIN_EVENT_SUSPENDED, lv.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED)
RESUMED = (lv.VIR_DOMAIN_EVENT_RESUMED, lv.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED)
POWERED_OFF = (lv.VIR_DOMAIN_EVENT_SHUTDOWN, lv.VIR_DOMAIN_EVENT_SHUTDOWN_GUEST)
STOPPED_SHUTDOWN = (lv.VIR_DOMAIN_EVENT_STOPPED, lv.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN)
STOPPED_DESTROYED = (lv.VIR_DOMAIN_EVENT_STOPPED, lv.VIR_DOMAIN_EVENT_STOPPED_DESTROYED)
STOPPED_FAILED = (lv.VIR_DOMAIN_EVENT_STOPPED, lv.VIR_DOMAIN_EVENT_STOPPED_FAILED)


@test(timeout=60, where="any")
def define_start_stop(t):
    """Each state with its reason, each event once and in order; an id of its own for each run."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t))
    c.events("vm", DEFINED)
    t.equal((dom.isActive(), dom.isPersistent(), dom.ID(), dom.OSType()), (0, 1, -1, "hvm"), "defined domain")

    dom.create()
    c.state(dom, *RUNNING_BOOTED)
    first = c.conn.lookupByName("vm").ID()
    dom.suspend()
    c.state(dom, *PAUSED_USER)
    dom.suspend()  # of a paused domain: nothing happens, nothing is told
    dom.resume()
    c.state(dom, *RUNNING_UNPAUSED)
    dom.shutdown()
    c.state(dom, *OFF_SHUTDOWN)
    c.events("vm", STARTED, SUSPENDED, RESUMED, POWERED_OFF, STOPPED_SHUTDOWN)

    dom.create()
    t.check(c.conn.lookupByName("vm").ID() > first, "a new run has no new id")
    dom.destroy()
    c.state(dom, *OFF_DESTROYED)
    c.events("vm", STARTED, STOPPED_DESTROYED)
    dom.undefine()
    c.events("vm", UNDEFINED)
    refused(t, lv.VIR_ERR_NO_DOMAIN, c.conn.lookupByName, "vm")


@test(timeout=60, where="any")
def events_that_come_late(t):
    """What the VMM tells of a pause when it is over already is no other pause."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t, words="fake.tardy=0.5"))
    dom.create()
    dom.suspend()
    dom.resume()
    time.sleep(1)
    c.state(dom, *RUNNING_UNPAUSED)
    c.events("vm", DEFINED, STARTED, SUSPENDED, RESUMED)
    dom.suspend()
    time.sleep(1)
    c.state(dom, *PAUSED_USER)
    c.events("vm", SUSPENDED)


@test(timeout=60, where="any")
def start_paused(t):
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t, words="fake.poweroff=1.5"))
    dom.createWithFlags(lv.VIR_DOMAIN_START_PAUSED)
    c.state(dom, *PAUSED_USER)
    time.sleep(2)
    c.state(dom, *PAUSED_USER)  # the guest has not run
    dom.resume()
    c.state(dom, *RUNNING_UNPAUSED)
    c.state(dom, *OFF_SHUTDOWN)
    c.events("vm", DEFINED, STARTED, SUSPENDED, RESUMED, POWERED_OFF, STOPPED_SHUTDOWN)


@test(timeout=60, where="any")
def reboots(t):
    """The guest's own, by the API in order and by reset: one event each, and no end of the domain."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t, words="fake.reboot=0.3"))
    dom.create()
    t.wait_for(lambda: len(c.reboots) == 1, "the guest's own reboot")
    dom.reboot()
    t.wait_for(lambda: len(c.reboots) == 2, "the reboot that was asked for")
    c.state(dom, *RUNNING_BOOTED)
    before = len(c.reboots)
    dom.reset()
    t.wait_for(lambda: len(c.reboots) > before, "the reset")
    t.equal(dom.isActive(), 1, "activity after reboots")
    dom.destroy()
    c.events("vm", DEFINED, STARTED, STOPPED_DESTROYED)


@test(timeout=60, where="any")
def lifecycle_actions(t):
    """on_reboot destroy, on_poweroff restart, on_crash restart and destroy."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t, "rebooter", "fake.reboot=0.3", extra="<on_reboot>destroy</on_reboot>"))
    dom.create()
    c.state(dom, *OFF_SHUTDOWN)
    c.events("rebooter", DEFINED, STARTED, STOPPED_SHUTDOWN)

    dom = c.conn.defineXML(domain(t, "restarter", extra="<on_poweroff>restart</on_poweroff>"))
    dom.create()
    dom.shutdown()
    t.wait_for(lambda: "restarter" in c.reboots, "the restart after power-off")
    c.state(dom, *RUNNING_BOOTED)
    dom.destroy()

    dom = c.conn.defineXML(domain(t, "crasher", "fake.crash=0.3"))
    dom.create()
    c.state(dom, *OFF_CRASHED)
    c.events("crasher", DEFINED, STARTED, STOPPED_FAILED)

    dom = c.conn.defineXML(domain(t, "phoenix", extra="<on_crash>restart</on_crash>"))
    dom.create()
    os.kill(process_of(dom), signal.SIGKILL)
    c.state(dom, lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_CRASHED)
    c.events("phoenix", DEFINED, STARTED, STOPPED_FAILED, STARTED)


@test(timeout=60, where="any")
def transient_and_persistent(t):
    """createXML as virt-install does it: run first, then define over the running domain; and the other way round."""
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.createXML(domain(t, words="first"))
    t.equal((dom.isPersistent(), dom.isActive()), (0, 1), "transient domain")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.setAutostart, 1)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.undefine)
    dom = c.conn.defineXML(domain(t, words="second"))
    t.equal(dom.isPersistent(), 1, "persistence after define")
    t.check("first" in dom.XMLDesc(0), "the live definition changed")
    t.check("second" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "the next definition is not the new one")
    dom.destroy()
    t.check("second" in dom.XMLDesc(0), "the new definition is not in force")
    dom.create()
    dom.undefine()
    t.equal((dom.isPersistent(), dom.isActive()), (0, 1), "undefined while running")
    dom.destroy()
    t.equal(c.conn.listAllDomains(), [], "domains left")


@test(timeout=60, where="any")
def autodestroy(t):
    t.virtkumod()
    watcher = Connection(t)
    owner = Connection(t, events=False)
    owner.conn.createXML(domain(t), lv.VIR_DOMAIN_START_AUTODESTROY)
    pid = process_of(watcher.conn.lookupByName("vm"))
    owner.conn.close()
    watcher.events("vm", STARTED, STOPPED_DESTROYED)
    t.equal(watcher.conn.listAllDomains(), [], "domains left")
    t.check(not os.path.exists(f"/proc/{pid}") or "zombie" in open(f"/proc/{pid}/status", encoding="ascii").read(),
            "the process is still there")


@test(timeout=60, where="any")
def autostart(t):
    """What is marked starts with the daemon, once per boot of the host."""
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    for name in ("one", "two"):
        c.conn.defineXML(domain(t, name))
    c.conn.lookupByName("one").setAutostart(1)
    t.equal([c.conn.lookupByName(name).autostart() for name in ("one", "two")], [1, 0], "autostart")
    t.check(os.path.islink("/etc/libvirt/kumo/autostart/one.xml"), "no link")
    c.conn.close()
    daemon.terminate()
    daemon.wait()
    os.unlink("/run/libvirt/kumo/autostarted")  # as after a reboot
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    t.equal([c.conn.lookupByName(name).isActive() for name in ("one", "two")], [1, 0], "activity")
    one = c.conn.lookupByName("one")
    one.setAutostart(0)
    t.check(not os.path.lexists("/etc/libvirt/kumo/autostart/one.xml"), "the link is still there")


# libvirt has it since 11.2.
if hasattr(lv.virDomain, "setAutostartOnce"):

    @test(timeout=60, where="any")
    def autostart_once(t):
        """What is marked for the next boot starts then, and not at the one after it; the mark goes along with another name."""
        daemon = t.virtkumod()
        dom = Connection(t, events=False).conn.defineXML(domain(t, "old"))
        virsh = ("virsh", "-c", "kumo:///system")
        t.run(*virsh, "autostart", "--once", "old")
        t.equal((dom.autostart(), dom.autostartOnce()), (0, 1), "autostart, and once")
        t.run(*virsh, "autostart", "--once", "--disable", "old")
        t.equal(dom.autostartOnce(), 0, "autostart once when it was taken back")
        dom.setAutostartOnce(1)
        dom.rename("vm")
        for active in (1, 0):
            daemon.terminate()
            daemon.wait()
            os.unlink("/run/libvirt/kumo/autostarted")  # as after a reboot
            daemon = t.virtkumod()
            dom = Connection(t, events=False).conn.lookupByName("vm")
            t.equal((dom.isActive(), dom.autostartOnce()), (active, 0), "activity, and the mark")
            if active:
                dom.destroy()
        t.equal(os.listdir("/etc/libvirt/kumo/autostart"), [], "links")


@test(timeout=60, where="any")
def daemon_restarts(t):
    """VMs do not notice; what happened meanwhile is found out, with its reason."""
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    names = {"running": "", "paused": "", "powering-off": "fake.poweroff=1", "dying": "fake.crash=1", "waiting": ""}
    domains = {name: c.conn.defineXML(domain(t, name, words)) for name, words in names.items()}
    for name, dom in domains.items():
        dom.createWithFlags(lv.VIR_DOMAIN_START_PAUSED if name == "waiting" else 0)
    domains["paused"].suspend()
    pids = {name: process_of(dom) for name, dom in domains.items()}
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    os.unlink("/run/libvirt/virtkumod-sock")
    time.sleep(1.2)
    t.virtkumod()
    c = Connection(t)
    for name, expected in (("running", RUNNING_BOOTED), ("paused", PAUSED_USER), ("powering-off", OFF_SHUTDOWN),
                           ("dying", OFF_CRASHED), ("waiting", PAUSED_USER)):
        c.state(c.conn.lookupByName(name), *expected)
    for name in ("running", "paused", "waiting"):
        dom = c.conn.lookupByName(name)
        t.equal(process_of(dom), pids[name], f"process of {name}")
    c.conn.lookupByName("waiting").resume()
    c.conn.lookupByName("paused").resume()
    for name in ("running", "paused", "waiting"):
        dom = c.conn.lookupByName(name)
        c.state(dom, lv.VIR_DOMAIN_RUNNING, dom.state()[1])
        c.lifecycle.pop(name, None)
        dom.shutdown()
        c.state(dom, *OFF_SHUTDOWN)
        c.events(name, POWERED_OFF, STOPPED_SHUTDOWN)
    new = c.conn.defineXML(domain(t, "new"))
    new.create()
    t.equal(new.ID(), 6, "id after a restart")


@test(timeout=90, where="any")
def a_silent_vmm_blocks_nobody(t):
    """While one VMM does not answer, every other call does; and destroy ends it."""
    configure(t, timeout=4)
    t.virtkumod()
    c = Connection(t, events=False)
    mute = c.conn.defineXML(domain(t, "mute", emulator=fake(t, "-mute")))
    silent = c.conn.defineXML(domain(t, "silent", "fake.silent=vm.pause"))
    silent.create()

    start = time.monotonic()
    refused(t, lv.VIR_ERR_OPERATION_FAILED, mute.create)
    t.check(3 < time.monotonic() - start < 12, f"start gave up after {time.monotonic() - start:.1f} s")
    t.equal(tuple(mute.state()), OFF_FAILED, "state")

    virsh = t.start("virsh", "-c", "kumo:///system", "suspend", "silent")
    time.sleep(0.7)
    start = time.monotonic()
    t.equal(sorted(dom.name() for dom in c.conn.listAllDomains()), ["mute", "silent"], "domains")
    c.conn.lookupByName("silent").info()
    c.conn.lookupByName("silent").XMLDesc(0)
    t.check(time.monotonic() - start < 1.5, "other calls had to wait")
    start = time.monotonic()
    silent.destroy()
    t.check(time.monotonic() - start < 2.5, "destroy had to wait")
    virsh.wait(10)
    t.check(virsh.returncode != 0, "the suspend that was never answered succeeded")
    c.state(silent, *OFF_DESTROYED)


@test(timeout=60, where="any")
def a_start_that_fails_leaves_nothing(t):
    """Each way a VMM can fail at the start ends in an error that says why, with host and definition as before."""
    t.virtkumod()
    c = Connection(t, events=False)
    path, xml = disk(t)
    owner = os.stat(path).st_uid
    cases = {
        "dead": (dict(emulator=fake(t, "-dead")), "dead on arrival"),
        "deny": (dict(emulator=fake(t, "-deny")), "because it is denied"),
        "dies-at-create": (dict(words="fake.die=vm.create"), "as asked for"),
        "dies-at-boot": (dict(words="fake.die=vm.boot"), "as asked for"),
        "refuses-boot": (dict(words="fake.refuse=vm.boot"), "vm.boot refused"),
        "garbage": (dict(words="fake.garbage=vm.boot"), "vm.boot"),
        "garbage-info": (dict(words="fake.garbage=vm.info"), "vm.info"),
        "no-such-binary": (dict(emulator="/nonexistent/kumo"), ""),
    }
    for name, (options, text) in cases.items():
        dom = c.conn.defineXML(domain(t, name, devices=xml + "<serial type='pty'/>", **options))
        try:
            dom.create()
        except lv.libvirtError as error:
            t.check(text in str(error), f"{name}: '{text}' is not in '{error}'")
        else:
            t.check(False, f"{name} started")
        t.equal(tuple(dom.state()), OFF_FAILED, f"state of {name}")
        t.equal(os.stat(path).st_uid, owner, f"owner of the disk after {name}")
        t.check("<alias" not in dom.XMLDesc(0), f"{name} kept something of its run")
    left = [entry for entry in os.listdir("/run/libvirt/kumo") if entry.startswith("domain-") or entry.endswith(".xml")]
    t.equal(left, [], "files of runs")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, c.conn.createXML, domain(t, "gone", emulator=fake(t, "-dead")))
    refused(t, lv.VIR_ERR_NO_DOMAIN, c.conn.lookupByName, "gone")


@test(timeout=60, where="any")
def an_unprivileged_process(t):
    """The VMM runs as nobody special, may open its disk, and the disk is its owner's again afterwards."""
    t.virtkumod()
    c = Connection(t, events=False)
    path, xml = disk(t)
    os.chown(path, 1234, 1235)
    dom = c.conn.defineXML(domain(t, devices=xml))
    dom.create()
    pid = process_of(dom)
    status = open(f"/proc/{pid}/status", encoding="ascii").read()
    uid = int(status.split("Uid:")[1].split()[0])
    t.check(uid != 0, "the VMM runs as root")
    t.equal(os.stat(path).st_uid, uid, "owner of the disk while the VM runs")
    capabilities = int(status.split("CapEff:")[1].split()[0], 16)
    t.equal(capabilities, 0, "capabilities")
    t.check(oct(os.stat(f"/run/libvirt/kumo/domain-{dom.ID()}-vm").st_mode)[-2:] == "00", "others may enter the run directory")
    labels = dom.securityLabelList()
    t.check(any(f"{uid}" in label[0] for label in labels), f"no label names the user: {labels}")
    dom.destroy()
    t.equal((os.stat(path).st_uid, os.stat(path).st_gid), (1234, 1235), "owner of the disk afterwards")


@test(timeout=60, where="any")
def garbage_in_the_event_stream(t):
    t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t, words="fake.noise fake.poweroff=0.5"))
    dom.create()
    c.state(dom, *OFF_SHUTDOWN)
    c.events("vm", DEFINED, STARTED, POWERED_OFF, STOPPED_SHUTDOWN)


@test(timeout=60, where="any")
def error_codes(t):
    """The codes that tools tell cases apart by."""
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t))
    no, invalid = lv.VIR_ERR_NO_DOMAIN, lv.VIR_ERR_OPERATION_INVALID
    refused(t, no, c.conn.lookupByName, "other")
    refused(t, no, c.conn.lookupByUUIDString, "00000000-0000-0000-0000-000000000001")
    refused(t, no, c.conn.lookupByID, 77)
    for call in (dom.suspend, dom.resume, dom.shutdown, dom.reboot, dom.reset, dom.destroy, dom.vcpus):
        refused(t, invalid, call)
    refused(t, invalid, dom.shutdownFlags, lv.VIR_DOMAIN_SHUTDOWN_GUEST_AGENT)
    refused(t, lv.VIR_ERR_NO_NAME, c.conn.defineXML, "<domain type='kvm'><name/></domain>")
    refused(t, lv.VIR_ERR_XML_DETAIL, c.conn.defineXML, "no XML")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, c.conn.defineXML, domain(t, "g", devices="<watchdog model='i6300esb'/>"),
            text="/domain/devices/watchdog")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, c.conn.defineXML, domain(t).replace("<name>vm<", "<name>same-uuid<"))
    refused(t, lv.VIR_ERR_NO_SUPPORT, dom.blockPull, "vda")
    refused(t, lv.VIR_ERR_INVALID_ARG, c.conn.getDomainCapabilities, None, None, "pseries", None)
    dom.create()
    refused(t, invalid, dom.create)
    refused(t, invalid, c.conn.createXML, domain(t))
    dom.destroy()
    readonly = lv.openReadOnly("kumo:///system")
    refused(t, lv.VIR_ERR_OPERATION_DENIED, readonly.lookupByName("vm").create)


@test(timeout=60, where="any")
def the_log_of_a_domain(t):
    """Each run begins and ends with a line, the command is there, and it is root's alone."""
    configure(t, log_level=2, seccomp="log")
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t))
    dom.create()
    os.kill(process_of(dom), signal.SIGKILL)
    c.state(dom, *OFF_CRASHED)
    dom.create()
    dom.destroy()
    path = "/var/log/libvirt/kumo/vm.log"
    with open(path, encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    found = [line.partition(": ")[2] for line in lines if "domain vm" in line]
    t.equal(found, ["starting domain vm", "domain vm is off, reason: crashed", "starting domain vm", "domain vm is off, reason: destroyed"], "lines")
    dom.create()
    daemon.kill()
    daemon.wait()
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    os.kill(process_of(dom), signal.SIGKILL)
    c.state(dom, *OFF_CRASHED)
    with open(path, encoding="utf-8") as stream:
        t.check(stream.read().rstrip().endswith("domain vm is off, reason: crashed"), "no end of a run that another daemon began")
    t.equal(len([line for line in lines if "-vv" in line and "--seccomp log" in line and "--no-shutdown" in line]), 2, "commands")
    t.equal(oct(os.stat(path).st_mode)[-3:], "600", "mode")
    for name in ("vm.log.1", "vm.log.10", "vm2.log", "vm.log.log"):
        with open(f"/var/log/libvirt/kumo/{name}", "w", encoding="ascii"):
            pass
    dom.create()
    dom.destroyFlags(lv.VIR_DOMAIN_DESTROY_REMOVE_LOGS)
    t.equal(sorted(os.listdir("/var/log/libvirt/kumo")), ["vm.log.log", "vm2.log"], "logs of others")
