# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations whose memory follows the guest, or goes compressed, between two daemons on this host."""

import contextlib
import os
import signal
import socket
import threading
import time

import libvirt as lv
from test_migration import LIVE, OFF_MIGRATED, P2P, RESUMED_MIGRATED, RUNNING_MIGRATED, STARTED_MIGRATED, STOPPED_MIGRATED, busy, migrate, runs, start

from harness import cases, test
from harness.virt import Host, refused

POSTCOPY = lv.VIR_MIGRATE_POSTCOPY
RESUME = lv.VIR_MIGRATE_POSTCOPY_RESUME
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
def the_rest_has_a_speed(t):
    """What follows unasked does so no faster than a client wants, by parameter and by call; there is no such speed of a domain that is off."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=CHURN))
    flag = lv.VIR_DOMAIN_MIGRATE_MAX_SPEED_POSTCOPY
    t.equal((dom.migrateGetMaxSpeed(flag), dom.migrateGetMaxSpeed() > 1000), (0, True), "speeds")
    t.run("virsh", "-c", here.uri, "migrate-setspeed", "vm", "900", "--postcopy")
    t.equal((dom.migrateGetMaxSpeed(flag), dom.migrateGetMaxSpeed() > 1000), (900, True), "speeds")
    parameter = {lv.VIR_MIGRATE_PARAM_BANDWIDTH_POSTCOPY: 1}
    refused(t, lv.VIR_ERR_INVALID_ARG, lambda: migrate(dom, there, P2P, **parameter), text="VIR_MIGRATE_POSTCOPY")
    # At the destination it does not run, so it asks for nothing.
    migration = Migration(t, here, there, P2P | lv.VIR_MIGRATE_PAUSED, **parameter)
    dom.migrateStartPostCopy()
    t.wait_for(lambda: dom.state() == PAUSED_POSTCOPY, "the source's state", 30, every=0.05)
    time.sleep(2)
    t.equal(dom.state(), PAUSED_POSTCOPY, "the source's state after two seconds")
    dom.migrateSetMaxSpeed(0, flag)
    migration.join(20)
    t.check(not migration.is_alive() and migration.error is None, f"it ends: {migration.error}")
    there.conn.lookupByName("vm").resume()
    runs(t, there, after=last)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.migrateGetMaxSpeed, flag)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.migrateSetMaxSpeed, 5, flag)


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


class Relay:
    """At an address of this host, in front of a destination at the same port of another one: slow, and can cut all that it carries."""

    FRONT, BEHIND = "127.0.0.1", "127.0.0.2"

    def __init__(self):
        self.listener = socket.create_server((self.FRONT, 0))
        self.port = self.listener.getsockname()[1]
        self.uri = f"tcp://{self.FRONT}:{self.port}"
        self.params = {lv.VIR_MIGRATE_PARAM_URI: self.uri, lv.VIR_MIGRATE_PARAM_LISTEN_ADDRESS: self.BEHIND}
        self.sides = []
        self.slow = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                source, _ = self.listener.accept()
                try:
                    destination = socket.create_connection((self.BEHIND, self.port))
                except OSError:
                    source.close()
                    continue
                self.sides += [source, destination]
                for one, other, carries in ((source, destination, True), (destination, source, False)):
                    threading.Thread(target=self._forward, args=(one, other, carries), daemon=True).start()

    def _forward(self, one, other, carries):
        with contextlib.suppress(OSError):
            while part := one.recv(16 << 10):
                other.sendall(part)
                if self.slow and carries:
                    time.sleep(0.03)
        for side in (one, other):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def cut(self):
        for side in self.sides:
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class Resuming(threading.Thread):
    """A migration that goes on, up to where memory follows again."""

    def __init__(self, t, here, there, flags, relay):
        super().__init__(daemon=True)
        self.error = None
        self.work = lambda: migrate(lv.open(here.uri).lookupByName("vm"), there, flags | POSTCOPY | RESUME, **relay.params)
        self.start()
        dom, moved = here.conn.lookupByName("vm"), there.conn.lookupByName("vm")
        t.wait_for(lambda: dom.state() == PAUSED_POSTCOPY or self.error, "the source's state", 30, every=0.02)
        t.check(self.error is None, f"it goes on: {self.error}")
        t.wait_for(lambda: moved.state() == [lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_POSTCOPY], "the destination's state", 30, every=0.02)
        t.equal(dom.jobInfo()[0], lv.VIR_DOMAIN_JOB_UNBOUNDED, "the job")

    def run(self):
        try:
            self.work()
        except lv.libvirtError as error:
            self.error = error


@test(timeout=150, where="host")
@cases(way=("direct", "peer"))
def resumed(t, way):
    """The connection breaks while memory follows, twice; daemons come back meanwhile; it is resumed, and the guest goes on."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=CHURN))
    flags = P2P if way == "peer" else 0
    relay = Relay()
    refused(t, lv.VIR_ERR_OPERATION_INVALID, lambda: migrate(dom, there, flags | POSTCOPY | RESUME), text="has not failed")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, lambda: migrate(dom, there, flags | RESUME), text="post-copy to be enabled")
    migration = Migration(t, here, there, flags, **relay.params)
    relay.slow = True
    here.lifecycle.clear()
    dom.migrateStartPostCopy()
    t.wait_for(lambda: dom.state() == PAUSED_POSTCOPY, "the source's state", 60, every=0.05)
    moved = there.conn.lookupByName("vm")
    t.wait_for(lambda: moved.state() == [lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_POSTCOPY], "the destination's state", 30, every=0.05)

    def broken(migration, label):
        time.sleep(0.3)  # the source, too, knows that the guest runs there
        relay.cut()
        migration.join(60)
        t.check(migration.error is not None, f"{label}: the migration fails: {migration.error}")
        here.state(dom, *PAUSED_FAILED)
        there.state(moved, *RUNNING_FAILED)
        t.check(SUSPENDED_FAILED in here.lifecycle["vm"] and RESUMED_FAILED in there.lifecycle["vm"],
                f"{label}: events: {here.lifecycle} {there.lifecycle}")

    broken(migration, "the first time")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.resume, text="until the migration is recovered")
    # Nobody gets through: it is as it was.
    nowhere = {lv.VIR_MIGRATE_PARAM_URI: "tcp://127.0.0.1:1", lv.VIR_MIGRATE_PARAM_LISTEN_ADDRESS: "127.0.0.3"}
    try:
        migrate(dom, there, flags | POSTCOPY | RESUME, **nowhere)
        t.check(False, "it went through nowhere")
    except lv.libvirtError as error:
        t.check("127.0.0.1:1" in str(error), f"nowhere: {error}")
    here.state(dom, *PAUSED_FAILED)
    there.state(moved, *RUNNING_FAILED)
    for host in (here, there):
        host.kill()
        host.start()
    dom, moved = here.conn.lookupByName("vm"), there.conn.lookupByName("vm")
    here.state(dom, *PAUSED_FAILED)
    there.state(moved, *RUNNING_FAILED)
    broken(Resuming(t, here, there, flags, relay), "the second time")
    relay.slow = False
    for host in (here, there):
        host.lifecycle.clear()
    if way == "direct":
        t.run("virsh", "-c", here.uri, "migrate", "--live", "--unsafe", "--postcopy", "--postcopy-resume", "--migrateuri", relay.uri,
              "--listen-address", relay.BEHIND, "vm", there.uri, timeout=60)
    else:
        migrate(dom, there, flags | POSTCOPY | RESUME, **relay.params)
    here.state(dom, *OFF_MIGRATED)
    there.state(moved, *RUNNING_MIGRATED)
    here.events("vm", SUSPENDED_POSTCOPY, STOPPED_MIGRATED)
    there.events("vm", RESUMED_POSTCOPY, RESUMED_MIGRATED)
    runs(t, there, after=last)


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
