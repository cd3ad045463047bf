# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon is killed in the middle of a migration and comes back, or a client goes: one VM is left, both ends know what it is, and
nothing is left over."""

import glob
import os
import re
import signal
import time

import libvirt as lv
from test_migration import (OFF_MIGRATED, P2P, PERSIST, RESUMED_MIGRATED, RUNNING_BOOTED, RUNNING_MIGRATED, UNDEFINE, at_one_end, busy, idle, migrate, runs,
                            start, under_way)
from test_postcopy import CHURN, PAUSED_FAILED, PAUSED_POSTCOPY, ROOT, RUNNING_FAILED, Migration

from harness import cases, test
from harness.virt import Connection, Host, domain, refused

IMPATIENT = "timeout = 1\n"  # of a daemon with its VMM


def pair(t, settings=""):
    return Host(t, "here", settings), Host(t, "there", settings)


def stopped(pid):
    """Whether all threads of a process stand still."""
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/stat", encoding="ascii") as stream:
            if stream.read().rpartition(")")[2].split()[0] != "T":
                return False
    return True


def ended(pid):
    """Whether there is no such process, or it only waits for its parent."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as stream:
            return stream.read().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def freeze(t, pid):
    os.kill(pid, signal.SIGSTOP)
    t.wait_for(lambda: stopped(pid), "a process that stands still", every=0.005)


def arrived_unseen(t, here, there, flags=0):
    """Migrates until the VM is at the destination, whose daemon stands still and has not heard of it. Returns the last round
    seen, and the destination's VMM."""
    dom, last = start(t, here, busy(t, churn=16))
    here.background(lambda: migrate(dom, there, flags, bandwidth=1))
    t.wait_for(lambda: dom.jobStats().get("memory_iteration"), "a migration under way", 30, every=0.05)
    pid = there.process_of("vm")
    freeze(t, there.process.pid)
    dom.migrateSetMaxDowntime(5000)
    dom.migrateSetMaxSpeed(4000)
    t.wait_for(lambda: dom.state() == [lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_MIGRATION], "the guest's departure", 30, every=0.02)
    time.sleep(1)  # it has been told to go, and goes
    return last, pid


def failed(t, here):
    """The client of a migration hears of an error, whatever became of the VM."""
    try:
        here.join(60)
    except lv.libvirtError:
        return
    t.check(False, "the migration succeeded")


def virsh(t, here, there, *options):
    """A client that migrates directly."""
    return t.start("virsh", "-c", here.uri, "migrate", "--live", "--unsafe", *options, "vm", there.uri)


def over(here):
    """The migration ends for its client, who hears of an error or not."""
    try:
        here.join(60)
    except lv.libvirtError:
        pass


@test(timeout=120, where="host")
@cases(way=("direct", "peer"), who=("daemon that comes back", "last step"))
def a_vmm_does_not_answer(t, way, who):
    """The VM has come, and its VMM stands still when somebody looks for it: it is kept, and taken up when it answers."""
    here, there = pair(t, IMPATIENT)
    last, pid = arrived_unseen(t, here, there, PERSIST | (P2P if way == "peer" else 0))
    freeze(t, pid)
    if who == "last step":
        os.kill(there.process.pid, signal.SIGCONT)
    else:
        there.kill()
    failed(t, here)
    if who != "last step":
        there.start()
    time.sleep(3)  # several times what the daemon waits for an answer
    t.check(stopped(pid), "the VMM has gone")
    os.kill(pid, signal.SIGCONT)
    moved = there.conn.lookupByName("vm")
    there.state(moved, *RUNNING_MIGRATED, seconds=20)
    t.wait_for(lambda: moved.isPersistent() == 1, "the definition")
    runs(t, there, after=last)
    t.wait_for(lambda: not here.conn.lookupByName("vm").isActive(), "the source's end")


@test(timeout=90, where="host")
def a_vmm_that_has_nothing_does_not_answer(t):
    """As long as it does not say so, it is kept, and can be destroyed."""
    here, there = pair(t, IMPATIENT)
    dom, last = start(t, here, busy(t, churn=16))
    for destroyed in (False, True):
        here.background(lambda: migrate(dom, there, bandwidth=1))
        t.wait_for(lambda: dom.jobStats().get("memory_iteration"), "a migration under way", 30, every=0.05)
        pid = there.process_of("vm")
        freeze(t, pid)
        there.kill()
        there.start()
        time.sleep(3)
        t.check(stopped(pid), "the VMM has gone")
        if destroyed:
            there.conn.lookupByName("vm").destroy()
        else:
            dom.abortJob()
            os.kill(pid, signal.SIGCONT)
        t.wait_for(lambda: there.conn.listAllDomains() == [], "the destination to be empty", 20)
        failed(t, here)
        last = runs(t, here, after=last)


def phase_of(at):
    """The phase of the migration in the domain's status file."""
    try:
        with open(f"{at.run_directory}/vm.xml", encoding="utf-8") as stream:
            found = re.search(r"<kumoJob type='[a-z-]*' phase='([a-z-]*)'", stream.read())
    except FileNotFoundError:
        return None
    return found and found[1]


def nothing_of(t, at, name):
    """Waits until there is no file of the domain's run any more."""
    t.wait_for(lambda: not [entry for entry in os.listdir(at.run_directory) if name in entry], "the end of the run's files")


def off_or_gone(t, here, undefined):
    """The source knows that the VM has gone, and has its definition unless that was to go, too."""
    nothing_of(t, here, "vm")
    if undefined:
        refused(t, lv.VIR_ERR_NO_DOMAIN, here.conn.lookupByName, "vm")
        t.equal(glob.glob(f"{here.root}/etc/libvirt/kumo/*.xml"), [], "definitions")
    else:
        here.state(here.conn.lookupByName("vm"), *OFF_MIGRATED)
        t.equal(here.conn.lookupByName("vm").isPersistent(), 1, "persistence")


@test(timeout=120, where="host")
@cases(way=("direct", "peer"), flags=(0, UNDEFINE | PERSIST), vmm=("alive", "gone"))
def source_dies_in_confirm(t, way, flags, vmm):
    """The source's daemon is killed when the destination's has said that the VM is there."""
    here, there = pair(t)
    last, _ = arrived_unseen(t, here, there, flags | (P2P if way == "peer" else 0))
    pid = here.process_of("vm")
    freeze(t, pid)  # so it does not end at once when it is told to
    os.kill(there.process.pid, signal.SIGCONT)
    moved = there.conn.lookupByName("vm")
    there.state(moved, *RUNNING_MIGRATED)
    t.wait_for(lambda: phase_of(here) == ("confirm" if flags else "perform-done"), "the last step", every=0.01)
    time.sleep(0.5)
    here.kill()
    over(here)
    if vmm == "gone":
        os.kill(pid, signal.SIGKILL)
    here.start()
    t.wait_for(lambda: ended(pid), "the end of the VMM", 20)
    off_or_gone(t, here, bool(flags))
    t.equal(moved.isPersistent(), 1 if flags else 0, "persistence at the destination")
    last = runs(t, there, after=last)
    migrate(moved, here)
    runs(t, here, after=last)


@test(timeout=90, where="host")
@cases(daemon=("there", "killed"))
def source_vmm_dies_when_all_is_sent(t, daemon):
    """It has nothing any more that could be lost."""
    here, there = pair(t)
    last, _ = arrived_unseen(t, here, there)
    pid = here.process_of("vm")
    if daemon == "killed":
        here.kill()
    os.kill(pid, signal.SIGKILL)
    if daemon == "killed":
        here.start()
    here.state(here.conn.lookupByName("vm"), *OFF_MIGRATED)
    os.kill(there.process.pid, signal.SIGCONT)
    there.state(there.conn.lookupByName("vm"), *RUNNING_MIGRATED)
    over(here)
    runs(t, there, after=last)
    off_or_gone(t, here, False)


def throttle(t, verb, rate):
    """The network's speed, in bits."""
    t.run("tc", "qdisc", verb, "dev", "lo", "root", "tbf", "rate", rate, "burst", "256k", "latency", "2s")


def memory_follows(t, way):
    """A guest that is at the destination, with memory that takes its time. Returns both ends, the source's domain, and the last
    round seen."""
    t.network()
    throttle(t, "add", "40mbit")
    here, there = pair(t, ROOT)
    dom, last = start(t, here, busy(t, churn=CHURN))
    migration = Migration(t, here, there, P2P if way == "peer" else 0)
    throttle(t, "change", "8mbit")
    dom.migrateStartPostCopy()
    t.wait_for(lambda: dom.state() == PAUSED_POSTCOPY, "the source's state", 60, every=0.05)
    moved = there.conn.lookupByName("vm")
    there.state(moved, lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_POSTCOPY, seconds=30)
    return here, there, migration, last


@test(timeout=120, where="host")
@cases(way=("direct", "peer"), side=("source", "destination"))
def daemon_dies_while_memory_follows(t, way, side):
    """When it comes back it sees the migration to its end."""
    here, there, migration, last = memory_follows(t, way)
    victim = here if side == "source" else there
    victim.kill()
    victim.start()
    moved = there.conn.lookupByName("vm")
    t.equal(here.conn.lookupByName("vm").state(), PAUSED_POSTCOPY, "the source's state then")
    t.equal(moved.state(), [lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_POSTCOPY], "the destination's state then")
    throttle(t, "change", "400mbit")
    there.state(moved, *RUNNING_MIGRATED, seconds=30)
    t.check(there.lifecycle["vm"][-1] == RESUMED_MIGRATED, f"events: {there.lifecycle}")
    migration.join(60)
    t.wait_for(lambda: idle(moved), "the job's end")
    here.state(here.conn.lookupByName("vm"), *OFF_MIGRATED, seconds=30)
    off_or_gone(t, here, False)
    last = runs(t, there, after=last)
    migrate(moved, here)
    runs(t, here, after=last)


@test(timeout=90, where="host")
@cases(way=("direct", "peer"), side=("source", "destination"), delay=(0, 60, 200, 600))
def a_daemon_dies_at_any_moment_of_postcopy(t, way, side, delay):
    """DELAY: milliseconds since the switch. The memory takes more than a second."""
    t.network()
    throttle(t, "add", "40mbit")
    here, there = pair(t, ROOT)
    flags = PERSIST | UNDEFINE if delay in (60, 600) else 0
    dom, last = start(t, here, busy(t, churn=CHURN))
    migration = Migration(t, here, there, flags | (P2P if way == "peer" else 0))
    dom.migrateStartPostCopy()
    time.sleep(delay / 1000)
    victim = here if side == "source" else there
    victim.kill()
    victim.start()
    migration.join(60)
    throttle(t, "change", "1gbit")
    at, other = at_one_end(t, here, there, flags)
    last = runs(t, at, after=last)
    migrate(at.conn.lookupByName("vm"), other)
    runs(t, other, after=last)


@test(timeout=120, where="host")
@cases(side=("source", "destination"))
def memory_is_lost_without_a_daemon(t, side):
    """While no daemon looks, the other VMM dies: the one that comes back knows that the guest can run no more."""
    here, there, migration, _ = memory_follows(t, "peer")
    at, other = (here, there) if side == "source" else (there, here)
    at.kill()
    os.kill(other.process_of("vm"), signal.SIGKILL)
    t.run("tc", "qdisc", "del", "dev", "lo", "root")
    time.sleep(2)
    at.start()
    left = at.conn.lookupByName("vm")
    at.state(left, *(PAUSED_FAILED if side == "source" else RUNNING_FAILED), seconds=30)
    migration.join(60)
    t.wait_for(lambda: idle(left), "the job's end")
    left.destroy()


@test(timeout=60, where="any")
def memory_has_just_followed(t):
    """The source's daemon comes back, asks whether memory follows still, and the event of its end comes before the answer."""
    t.network()
    daemon = t.virtkumod()
    Connection(t).conn.defineXML(domain(t, words="fake.follows")).create()
    daemon.kill()
    daemon.wait()
    status = f"{Connection.run_directory}/vm.xml"
    with open(status, encoding="utf-8") as stream:
        text = stream.read()
    job = f"<kumoJob type='migration-out' phase='perform' flags='{lv.VIR_MIGRATE_LIVE | lv.VIR_MIGRATE_POSTCOPY}'/>"
    with open(status, "w", encoding="utf-8") as stream:
        stream.write(re.sub(r"(<kumoDirectory [^>]*/>)", rf"\1{job}", text))
    t.virtkumod()
    c = Connection(t)
    c.state(c.conn.lookupByName("vm"), *OFF_MIGRATED)


@test(timeout=60, where="host")
def client_dies_before_anything_is_sent(t):
    """Between Prepare and Perform: the guest runs on, and the destination has nothing of it."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    here.lifecycle.clear()
    client = virsh(t, here, there)
    t.wait_for(lambda: phase_of(there) == "prepare", "the second step", every=0.002)
    freeze(t, client.pid)
    incoming = there.conn.lookupByName("vm")
    there.state(incoming, lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_MIGRATION)
    t.equal(phase_of(here), "begin", "the source's phase")
    pid = there.process_of("vm")
    client.kill()
    client.wait()
    t.wait_for(lambda: there.conn.listAllDomains() == [], "the destination to be empty", 20)
    t.wait_for(lambda: ended(pid), "the end of its VMM")
    t.wait_for(lambda: idle(dom), "the job's end")
    nothing_of(t, there, "vm")
    here.state(dom, *RUNNING_BOOTED)
    t.equal(here.lifecycle, {}, "events of the source")
    last = runs(t, here, after=last)
    migrate(dom, there)
    runs(t, there, after=last)


@test(timeout=60, where="host")
@cases(when=("before Finish", "before Confirm"), flags=("", "--persistent --undefinesource"))
def client_dies_when_all_is_sent(t, when, flags):
    """The VM is the destination's, which has the domain, with or without the last steps."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    client = virsh(t, here, there, "--bandwidth", "1", *flags.split())
    under_way(t, here, dom)
    frozen = client.pid if when == "before Finish" else there.process.pid
    freeze(t, frozen)
    dom.migrateSetMaxDowntime(5000)
    dom.migrateSetMaxSpeed(4000)
    t.wait_for(lambda: phase_of(here) == "perform-done", "the guest's departure", 30, every=0.02)
    if when == "before Confirm":
        time.sleep(0.5)  # the client has asked for Finish
        freeze(t, client.pid)
        os.kill(frozen, signal.SIGCONT)
    moved = there.conn.lookupByName("vm")
    there.state(moved, *RUNNING_MIGRATED)
    if when == "before Confirm":
        t.wait_for(lambda: phase_of(there) is None, "the end of Finish", every=0.02)
    t.equal(dom.state(), [lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_MIGRATION], "the source's state before")
    client.kill()
    client.wait()
    here.state(dom, *OFF_MIGRATED, seconds=20)
    off_or_gone(t, here, False)  # nobody has confirmed that its definition may go
    t.wait_for(lambda: moved.isPersistent() == bool(flags), "the destination's definition")
    t.wait_for(lambda: idle(moved), "the job's end")
    there.state(moved, *RUNNING_MIGRATED)
    last = runs(t, there, after=last)
    migrate(moved, here)
    runs(t, here, after=last)


@test(timeout=60, where="host")
@cases(way=("direct", "peer"))
def suspended_when_it_fails(t, way):
    """A guest that is to stand still does so, though the migration comes to its end before it could be stopped for that."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    here.background(lambda: migrate(dom, there, P2P if way == "peer" else 0, bandwidth=1))
    under_way(t, here, dom)
    pid = there.process_of("vm")
    freeze(t, pid)  # what is sent is not answered
    time.sleep(0.5)
    suspend = t.start("virsh", "-c", here.uri, "suspend", "vm")
    time.sleep(0.5)
    t.equal((suspend.poll(), dom.state()[0]), (None, lv.VIR_DOMAIN_RUNNING), "a call that waits, and a guest that runs")
    os.kill(pid, signal.SIGKILL)
    t.equal(suspend.wait(20), 0, "virsh's exit status")
    t.equal(dom.state(), [lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_USER], "state")
    failed(t, here)
    t.equal(dom.state(), [lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_USER], "state afterwards")
    dom.resume()
    runs(t, here, after=last)


@test(timeout=90, where="host")
def source_returns_and_its_vmm_does_not_answer(t):
    """The VM has been sent, which no daemon has heard of, and the VMM is silent for longer than it is waited for at once."""
    here, there = pair(t, IMPATIENT)
    dom, last = start(t, here, busy(t, churn=16))
    dom.migrateSetMaxDowntime(1)
    here.background(lambda: migrate(dom, there, bandwidth=1))
    under_way(t, here, dom)
    pid = here.process_of("vm")
    api = f"{here.root}/run/libvirt/kumo/domain-{dom.ID()}-vm/api.sock"
    freeze(t, here.process.pid)
    t.run("curl", "--silent", "--fail", "--unix-socket", api, "-X", "PUT", "-d", '{"downtime_ms": 5000, "max_bandwidth": 4000000000}',
          "http://localhost/api/v1/vm.update-migration")
    moved = there.conn.lookupByName("vm")
    there.state(moved, *RUNNING_MIGRATED)
    time.sleep(0.5)
    freeze(t, pid)
    here.kill()
    over(here)
    here.start()
    time.sleep(13)
    os.kill(pid, signal.SIGCONT)
    at_one_end(t, here, there, 0)
    runs(t, there, after=last)
    off_or_gone(t, here, False)
