# SPDX-License-Identifier: LGPL-2.1-or-later
"""A daemon is killed in the middle of a migration and comes back, or a client goes: one VM is left, both ends know what it is, and
nothing is left over."""

import os
import signal
import time

import libvirt as lv
from test_migration import P2P, PERSIST, RUNNING_MIGRATED, busy, migrate, runs, start

from harness import cases, test
from harness.virt import Host

ROOT = 'user = "root"\ngroup = "root"\n'  # may use userfaultfd on any host
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
