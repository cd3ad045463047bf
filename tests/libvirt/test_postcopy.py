# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations whose memory follows the guest, or goes compressed, between two daemons on this host."""

import os
import signal
import threading

import libvirt as lv
from test_migration import LIVE, OFF_MIGRATED, P2P, RESUMED_MIGRATED, RUNNING_MIGRATED, STARTED_MIGRATED, STOPPED_MIGRATED, busy, migrate, runs, start

from harness import cases, test
from harness.virt import Host, refused

POSTCOPY = lv.VIR_MIGRATE_POSTCOPY
CHURN = 1500
ROOT = 'user = "root"\ngroup = "root"\n'  # may use userfaultfd on any host
SUSPENDED_POSTCOPY = (lv.VIR_DOMAIN_EVENT_SUSPENDED, lv.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY)
SUSPENDED_FAILED = (lv.VIR_DOMAIN_EVENT_SUSPENDED, lv.VIR_DOMAIN_EVENT_SUSPENDED_POSTCOPY_FAILED)
RESUMED_POSTCOPY = (lv.VIR_DOMAIN_EVENT_RESUMED, lv.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY)
PAUSED_POSTCOPY = [lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_POSTCOPY]
PAUSED_FAILED = (lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_POSTCOPY_FAILED)
RUNNING_FAILED = (lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_POSTCOPY_FAILED)
RESUMED_FAILED = (lv.VIR_DOMAIN_EVENT_RESUMED, lv.VIR_DOMAIN_EVENT_RESUMED_POSTCOPY_FAILED)
SLOW = {lv.VIR_MIGRATE_PARAM_BANDWIDTH: 4}


def pair(t):
    return Host(t, "here", ROOT), Host(t, "there", ROOT)


class Migration(threading.Thread):
    """One that is under way, by a connection of its own: that waits."""

    def __init__(self, t, here, there, flags, **params):
        super().__init__(daemon=True)
        self.error = None
        self.work = lambda: migrate(lv.open(here.uri).lookupByName("vm"), there, flags | POSTCOPY, **SLOW, **params)
        self.start()
        dom = here.conn.lookupByName("vm")
        t.wait_for(lambda: dom.jobStats().get("memory_iteration", 0) >= 2, "the second round", 60)

    def run(self):
        try:
            self.work()
        except lv.libvirtError as error:
            self.error = error


@test(timeout=120, where="host")
@cases(way=("direct", "peer"))
def switched(t, way):
    """States, reasons and events of a migration that is switched to post-copy."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=CHURN))
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.migrateStartPostCopy, text="being migrated")
    here.lifecycle.clear()
    migration = Migration(t, here, there, P2P if way == "peer" else 0)
    dom.migrateStartPostCopy()
    migration.join(60)
    t.check(not migration.is_alive() and migration.error is None, f"it ends: {migration.error}")
    moved = there.conn.lookupByName("vm")
    there.state(moved, *RUNNING_MIGRATED)
    last = runs(t, there, after=last)
    here.state(dom, *OFF_MIGRATED)
    here.events("vm", SUSPENDED_POSTCOPY, STOPPED_MIGRATED)
    there.events("vm", STARTED_MIGRATED, RESUMED_POSTCOPY, RESUMED_MIGRATED)
    stats = dom.jobStats(lv.VIR_DOMAIN_JOB_STATS_COMPLETED)
    t.equal((stats["type"], stats["memory_remaining"]), (lv.VIR_DOMAIN_JOB_COMPLETED, 0), "the job of the source")
    # Back by virsh, which asks for it after so many seconds; and, soon enough, without memory that follows.
    t.run("virsh", "-c", there.uri, "migrate", "--live", "--unsafe", "--postcopy", "--timeout", "1", "--timeout-postcopy", "--bandwidth", "4", "vm",
          here.uri, timeout=60)
    last = runs(t, here, after=last)
    there.events("vm", SUSPENDED_POSTCOPY, STOPPED_MIGRATED)
    migrate(here.conn.lookupByName("vm"), there, POSTCOPY | P2P)
    runs(t, there, after=last)


@test(timeout=90, where="host")
def switch_refused(t):
    """Without the flag, or where userfaultfd is not allowed."""
    here, there = Host(t, "here"), Host(t, "there")
    dom, last = start(t, here, busy(t, churn=CHURN))
    with open("/proc/sys/vm/unprivileged_userfaultfd", encoding="ascii") as file:
        allowed = file.read().strip() == "1"
    if not allowed:
        refused(t, lv.VIR_ERR_OPERATION_FAILED, lambda: migrate(dom, there, POSTCOPY | P2P), text="userfaultfd")
    thread = threading.Thread(target=lambda: migrate(lv.open(here.uri).lookupByName("vm"), there, P2P, **SLOW), daemon=True)
    thread.start()
    t.wait_for(lambda: dom.jobStats().get("memory_iteration", 0) >= 1, "the first round", 60)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.migrateStartPostCopy, text="VIR_MIGRATE_POSTCOPY")
    dom.migrateSetMaxSpeed(1000)
    thread.join(60)
    runs(t, there, after=last)


@test(timeout=120, where="host")
@cases(who=("source", "destination"))
def vmm_dies(t, who):
    """A VMM dies while memory follows: the guest runs at neither end, and both daemons say so."""
    t.network()
    t.run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "40mbit", "burst", "256k", "latency", "2s")
    here, there = pair(t)
    dom, _ = start(t, here, busy(t, churn=CHURN))
    migration = Migration(t, here, there, P2P)
    t.run("tc", "qdisc", "change", "dev", "lo", "root", "tbf", "rate", "8mbit", "burst", "256k", "latency", "2s")
    dom.migrateStartPostCopy()
    t.wait_for(lambda: dom.state() == PAUSED_POSTCOPY, "the source's state", 60, every=0.05)
    moved = there.conn.lookupByName("vm")
    t.wait_for(lambda: moved.state() == [lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_POSTCOPY], "the destination's state", 30, every=0.05)
    t.equal(dom.state(), PAUSED_POSTCOPY, "the source's state then")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.abortJob, text="destination")
    victim, survivor, left = (here, there, moved) if who == "source" else (there, here, dom)
    os.kill(victim.process_of("vm"), signal.SIGKILL)
    t.run("tc", "qdisc", "del", "dev", "lo", "root")
    migration.join(60)
    t.check(migration.error is not None, "the migration fails")
    # At the destination it gets as far as it can without.
    survivor.state(left, *(RUNNING_FAILED if who == "source" else PAUSED_FAILED))
    t.check((RESUMED_FAILED if who == "source" else SUSPENDED_FAILED) in survivor.lifecycle["vm"], f"events: {survivor.lifecycle}")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, left.suspend if who == "source" else left.resume, text="memory")
    left.destroy()


@test(timeout=90, where="host")
def compressed(t):
    """With zstd, the one method that there is."""
    here, there = Host(t, "here"), Host(t, "there")
    dom, last = start(t, here, busy(t, churn=CHURN))
    flags = lv.VIR_MIGRATE_COMPRESSED
    method = lv.VIR_MIGRATE_PARAM_COMPRESSION
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, lambda: migrate(dom, there, flags, **{method: "xbzrle"}), text="xbzrle")
    refused(t, lv.VIR_ERR_INVALID_ARG, lambda: migrate(dom, there, **{method: "zstd"}), text="VIR_MIGRATE_COMPRESSED")
    migrate(dom, there, flags | P2P)
    last = runs(t, there, after=last)
    stats = dom.jobStats(lv.VIR_DOMAIN_JOB_STATS_COMPLETED)
    t.check(stats["memory_processed"] < stats["memory_normal_bytes"] // 2, f"less went than there was: {stats}")
    t.run("virsh", "-c", there.uri, "migrate", "--live", "--unsafe", "--compressed", "--comp-methods", "zstd", "vm", here.uri, timeout=60)
    runs(t, here, after=last)


@test(timeout=90, where="host")
def suspended(t):
    """A guest that writes too much is suspended, by virsh after so many seconds, and runs on at the destination."""
    here, there = Host(t, "here"), Host(t, "there")
    dom, last = start(t, here, busy(t, churn=CHURN))
    here.lifecycle.clear()
    t.run("virsh", "-c", here.uri, "migrate", "--live", "--unsafe", "--bandwidth", "4", "--timeout", "2", "vm", there.uri, timeout=60)
    there.state(there.conn.lookupByName("vm"), *RUNNING_MIGRATED)
    here.state(dom, *OFF_MIGRATED)
    runs(t, there, after=last)
