# SPDX-License-Identifier: LGPL-2.1-or-later
"""Live migration between two daemons on this host, each with directories of its own: with our own small guest, and with a
stock kernel."""

import os
import re
import signal
import time

import libvirt as lv

from harness import cases, guest, test
from harness.certificates import Authority
from harness.virt import Host, Stream, disk, domain, kumo, refused, small
from harness.workload import KERNEL, MAC, MEMORY_MIB, ROUNDS, RUN, WORDS, Workload

LIVE, P2P = lv.VIR_MIGRATE_LIVE, lv.VIR_MIGRATE_PEER2PEER
PERSIST, UNDEFINE = lv.VIR_MIGRATE_PERSIST_DEST, lv.VIR_MIGRATE_UNDEFINE_SOURCE
RUNNING_MIGRATED = (lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_MIGRATED)
RUNNING_BOOTED = (lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_BOOTED)
PAUSED_USER = (lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_USER)
OFF_MIGRATED = (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_MIGRATED)
OFF_BEFORE = (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_UNKNOWN)  # before this daemon was started

DEFINED = (lv.VIR_DOMAIN_EVENT_DEFINED, lv.VIR_DOMAIN_EVENT_DEFINED_ADDED)
UNDEFINED = (lv.VIR_DOMAIN_EVENT_UNDEFINED, lv.VIR_DOMAIN_EVENT_UNDEFINED_REMOVED)
STARTED = (lv.VIR_DOMAIN_EVENT_STARTED, lv.VIR_DOMAIN_EVENT_STARTED_BOOTED)
STARTED_MIGRATED = (lv.VIR_DOMAIN_EVENT_STARTED, lv.VIR_DOMAIN_EVENT_STARTED_MIGRATED)
SUSPENDED_MIGRATED = (lv.VIR_DOMAIN_EVENT_SUSPENDED, lv.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED)
SUSPENDED = (lv.VIR_DOMAIN_EVENT_SUSPENDED, lv.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED)
RESUMED_MIGRATED = (lv.VIR_DOMAIN_EVENT_RESUMED, lv.VIR_DOMAIN_EVENT_RESUMED_MIGRATED)
STOPPED_MIGRATED = (lv.VIR_DOMAIN_EVENT_STOPPED, lv.VIR_DOMAIN_EVENT_STOPPED_MIGRATED)
STOPPED_FAILED = (lv.VIR_DOMAIN_EVENT_STOPPED, lv.VIR_DOMAIN_EVENT_STOPPED_FAILED)

ROUND = r"^round (\d+)\r?\n"
ALL_OF_IT = r"Migration: \[ *100(\.00)? %\]"  # as virsh shows it
SLOW = {lv.VIR_MIGRATE_PARAM_BANDWIDTH: 1}
# Milliseconds; a migration of the small guest takes some 150 of them.
DELAYS = (0, 10, 20, 30, 40, 55, 70, 85, 100, 130, 200)


def busy(t, name="vm", churn=0, memory=64, devices="<serial type='pty'/>"):
    """The domain of a guest that writes its memory over and over, CHURN pages of it in every round, and checks it."""
    path, xml = disk(t, f"{name}.img", 8 << 20)
    os.chmod(path, 0o666)
    words = f"test=snapshot cpus=1 max_cpus=1 memory_mib={memory} wait=1 churn={churn}"
    return small(t, words, name=name, memory=memory, devices=devices + xml)


def start(t, c, xml):
    """Starts it and waits until it is at work. Returns the domain and the last round seen."""
    dom = c.conn.defineXML(xml)
    dom.create()
    console = Stream(t, c.conn, dom)
    console.send("s")
    last = int(console.expect(r"^round (2)\r?\n", 60)[1])
    console.close()
    return dom, last


def runs(t, c, name="vm", after=0):
    """The guest goes on at this end; returns the last of three rounds in a row."""
    console = Stream(t, c.conn, c.conn.lookupByName(name))
    rounds = [int(console.expect(ROUND, 60)[1]) for _ in range(3)]
    console.close()
    t.check(after < rounds[0] and rounds == list(range(rounds[0], rounds[0] + 3)), f"rounds {rounds} after {after}")
    return rounds[2]


def migrate(dom, there, flags=0, **params):
    """Goes the way that FLAGS say; returns the domain at the destination, or None with P2P."""
    flags |= LIVE | lv.VIR_MIGRATE_UNSAFE
    if flags & P2P:
        dom.migrateToURI3(there.uri, params, flags)
        return None
    return dom.migrate3(there.conn, params, flags)


@test(timeout=90, where="host")
def memory_in_files(t):
    """Memory in files of either end: what the guest knows is in the destination's, and the source's has gone."""
    here, there = Host(t, "here"), Host(t, "there")
    for mode in ("shared", "private"):
        backing = f"<memoryBacking><source type='file'/><access mode='{mode}'/></memoryBacking>"
        xml = busy(t, mode, churn=500).replace("<os>", f"{backing}<os>", 1)
        dom, last = start(t, here, xml)
        dom.managedSave()
        t.equal(os.listdir(f"{here.root}/var/lib/libvirt/kumo/ram"), [], f"{mode}: files after the save")
        dom.create()
        last = runs(t, here, mode, last)
        moved = migrate(dom, there)
        runs(t, there, mode, last)
        t.equal(os.listdir(f"{here.root}/var/lib/libvirt/kumo/ram"), [], f"{mode}: files at the source")
        path = f"{there.root}/var/lib/libvirt/kumo/ram/{moved.ID()}-{mode}/ram"
        t.equal(os.stat(path).st_size, 64 << 20, f"{mode}: the file's size")
        with open(path, "rb") as stream:
            t.equal(any(stream.read()), mode == "shared", f"{mode}: something is in the file")
        moved.destroy()
        t.equal(os.listdir(f"{there.root}/var/lib/libvirt/kumo/ram"), [], f"{mode}: files afterwards")



def taken(setting, value):
    """Sets it, if there still is a domain."""
    try:
        setting(value)
    except lv.libvirtError as error:
        if error.get_error_code() not in (lv.VIR_ERR_OPERATION_INVALID, lv.VIR_ERR_NO_DOMAIN):
            raise
        return False
    return True


def let_go(dom):
    """Lets one that would take too long come to its end; it may be over."""
    if taken(dom.migrateSetMaxDowntime, 5000):
        taken(dom.migrateSetMaxSpeed, 4000)


def pair(t):
    return Host(t, "here"), Host(t, "there")


@test(timeout=120, where="host")
@cases(way=("direct", "peer"))
def to_and_fro(t, way):
    """States, reasons, events, numbers, definitions."""
    here, there = pair(t)
    p2p = P2P if way == "peer" else 0
    dom, last = start(t, here, busy(t))
    here.lifecycle.clear()
    migrate(dom, there, p2p | PERSIST | UNDEFINE)
    moved = there.conn.lookupByName("vm")
    there.state(moved, *RUNNING_MIGRATED)
    last = runs(t, there, after=last)
    here.events("vm", SUSPENDED_MIGRATED, STOPPED_MIGRATED, UNDEFINED)
    there.events("vm", STARTED_MIGRATED, RESUMED_MIGRATED, DEFINED)
    refused(t, lv.VIR_ERR_NO_DOMAIN, here.conn.lookupByName, "vm")
    t.equal(moved.isPersistent(), 1, "persistence")
    t.check(here.iterations and here.iterations[0] == 1, f"iterations: {here.iterations}")
    t.equal(here.jobs[-1]["operation"], lv.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT, "the job that ended")
    stats = moved.jobStats(lv.VIR_DOMAIN_JOB_STATS_COMPLETED)
    t.equal((stats["type"], stats["operation"]), (lv.VIR_DOMAIN_JOB_COMPLETED, lv.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN), "the job there")
    t.check(stats["downtime"] > 0 and stats["memory_total"] >= 64 << 20 and stats["memory_remaining"] == 0, f"{stats}")

    # Back, and it stays defined there.
    migrate(moved, here, p2p)
    last = runs(t, here, after=last)
    there.state(moved, *OFF_MIGRATED)
    t.equal(here.conn.lookupByName("vm").isPersistent(), 0, "persistence here")
    stats = moved.jobStats(lv.VIR_DOMAIN_JOB_STATS_COMPLETED)
    t.equal(stats["type"], lv.VIR_DOMAIN_JOB_COMPLETED, "the job of the source")

    # Under another name, paused.
    moved.undefine()
    back = here.conn.lookupByName("vm")
    back.suspend()
    migrate(back, there, p2p, destination_name="other")
    other = there.conn.lookupByName("other")
    there.state(other, *PAUSED_USER)
    other.resume()
    runs(t, there, "other", after=last)


@test(timeout=90, where="host")
def arrives_paused(t):
    here, there = pair(t)
    dom, last = start(t, here, busy(t))
    migrate(dom, there, lv.VIR_MIGRATE_PAUSED | P2P)
    moved = there.conn.lookupByName("vm")
    there.state(moved, *PAUSED_USER)
    there.events("vm", STARTED_MIGRATED, SUSPENDED)
    moved.resume()
    runs(t, there, after=last)


@test(timeout=90, where="host")
def by_virsh(t):
    """As people do it: with progress, to another daemon, and back with a definition of one's own."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t))
    text = t.run("virsh", "-c", here.uri, "migrate", "--live", "--verbose", "--unsafe", "--persistent", "--undefinesource", "vm", there.uri,
                 timeout=60)
    t.check(re.search(ALL_OF_IT, text), text)
    last = runs(t, there, after=last)
    xml = t.path("there.xml")
    with open(xml, "w", encoding="utf-8") as stream:
        stream.write(there.conn.lookupByName("vm").XMLDesc(lv.VIR_DOMAIN_XML_MIGRATABLE).replace("<name>vm</name>", "<name>vm</name><title>mine</title>"))
    t.run("virsh", "-c", there.uri, "migrate", "--live", "--p2p", "--unsafe", "--persistent", "--xml", xml, "--persistent-xml", xml, "vm", here.uri,
          "tcp://127.0.0.1", timeout=60)
    runs(t, here, after=last)
    dom = here.conn.lookupByName("vm")
    t.check("mine" in dom.XMLDesc(0) and "mine" in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "the definition that was given")


@test(timeout=90, where="host")
def settings(t):
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    dom.migrateSetMaxDowntime(400)
    t.equal(dom.migrateGetMaxDowntime(), 400, "downtime")
    t.run("virsh", "-c", here.uri, "migrate-setspeed", "vm", "1000")
    t.equal(dom.migrateGetMaxSpeed(), 1000, "speed")
    t.check("1000" in t.run("virsh", "-c", here.uri, "migrate-getspeed", "vm"), "speed by virsh")
    refused(t, lv.VIR_ERR_INVALID_ARG, dom.migrateSetMaxDowntime, 0)
    migrate(dom, there)
    last = runs(t, there, after=last)

    # While one is under way that would never come to its end: faster, and with a guest that may stand still for longer.
    moved = there.conn.lookupByName("vm")
    moved.migrateSetMaxSpeed(1)
    moved.migrateSetMaxDowntime(1)
    there.background(lambda: migrate(moved, here))
    under_way(t, there, moved)
    time.sleep(1)
    t.equal(moved.jobStats()["type"], lv.VIR_DOMAIN_JOB_UNBOUNDED, "the job's type")
    t.run("virsh", "-c", there.uri, "migrate-setspeed", "vm", "4000")
    t.run("virsh", "-c", there.uri, "migrate-setmaxdowntime", "vm", "5000")
    there.join(60)
    runs(t, here, after=last)


def connections_of(pid):
    """How many connections this process has made to ports where VMs come in."""
    inodes = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except OSError:
            pass  # it has been closed meanwhile
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as stream:
        sockets = [line.split() for line in stream.readlines()[1:]]
    return sum(words[3] == "01" and 49152 <= int(words[2].rpartition(":")[2], 16) <= 49215 and f"socket:[{words[9]}]" in inodes for words in sockets)


@test(timeout=90, where="host")
def settings_at_any_moment(t):
    """Before the VMM sends, while it does, when it has just ended: it is taken, or there is no domain any more."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    source, target = here, there
    for _ in range(4):
        dom = source.conn.lookupByName("vm")
        dom.migrateSetMaxSpeed(16)
        source.background(lambda: migrate(dom, target))  # pylint: disable=cell-var-from-loop
        speed = 16
        while taken(dom.migrateSetMaxSpeed, speed + 1) and taken(dom.migrateSetMaxDowntime, speed * 4):
            speed += 1
        t.check(speed > 20, f"{speed - 16} changes")
        source.join(60)
        last = runs(t, target, after=last)
        source, target = target, source


@test(timeout=90, where="host")
@cases(way=("direct", "peer"))
def parallel(t, way):
    """Over as many connections as were asked for, or over two."""
    here, there = pair(t)
    p2p = P2P if way == "peer" else 0
    dom, last = start(t, here, busy(t, churn=500))
    refused(t, lv.VIR_ERR_INVALID_ARG, lambda: migrate(dom, there, p2p, **{lv.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS: 4}), text="VIR_MIGRATE_PARALLEL")
    refused(t, lv.VIR_ERR_INVALID_ARG, lambda: migrate(dom, there, p2p | lv.VIR_MIGRATE_PARALLEL, **{lv.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS: 129}),
            text="parallel.connections")
    for source, target, options, expected in ((here, there, {lv.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS: 4}, 4), (there, here, {}, 2)):
        dom = source.conn.lookupByName("vm")
        source.background(lambda: migrate(dom, target, p2p | lv.VIR_MIGRATE_PARALLEL, **options, **SLOW))  # pylint: disable=cell-var-from-loop
        # The guest writes more than the connections may carry, so they stay until it is let go.
        under_way(t, source, dom)
        t.equal(connections_of(source.process_of("vm")), expected, "connections")
        let_go(dom)
        source.join(60)
        last = runs(t, target, after=last)


@test(timeout=90, where="host")
def auto_converge(t):
    """A guest that writes more than can be sent gets less time, as much less as was asked for, until it is there."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=1000))
    how = {lv.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INITIAL: 60, lv.VIR_MIGRATE_PARAM_AUTO_CONVERGE_INCREMENT: 15}
    refused(t, lv.VIR_ERR_INVALID_ARG, lambda: migrate(dom, there, **how), text="VIR_MIGRATE_AUTO_CONVERGE")
    dom.migrateSetMaxDowntime(1)
    here.background(lambda: migrate(dom, there, lv.VIR_MIGRATE_AUTO_CONVERGE, **how, bandwidth=4))
    seen = []

    def throttled():
        seen.append(dom.jobStats().get("auto_converge_throttle", 0))
        return seen[-1] >= 75

    t.wait_for(throttled, "a guest that is slowed down twice", 60, every=0.1)
    t.check(set(seen) <= {0, 60, 75, 90, 99}, f"steps {seen}")
    text = t.run("virsh", "-c", here.uri, "domjobinfo", "vm")
    t.check(re.search(r"^Auto converge throttle: +(75|90|99) *$", text, re.MULTILINE), text)
    let_go(dom)
    here.join(60)
    runs(t, there, after=last)


@test(timeout=90, where="host")
def tls(t):
    """With the certificates that kumo.conf names; that of the destination has to be for its host, or for who the client says."""
    here, there = (Host(t, name, f'migrate_tls_x509_cert_dir = "{t.path(name)}-tls"') for name in ("here", "there"))
    dom, last = start(t, here, busy(t))
    flags = lv.VIR_MIGRATE_TLS
    for way in (0, P2P):
        try:
            migrate(dom, there, flags | way)
            t.check(False, "there are no certificates")
        except lv.libvirtError as error:
            t.check("there-tls/ca-cert.pem" in str(error), str(error))
        t.equal(there.conn.listAllDomains(), [], "domains left at the destination")

    authority = Authority(t, "authority")
    authority.directory("here-tls", "server", "client")
    authority.directory("there-tls", "server", "client", address="127.0.0.9")
    refused(t, lv.VIR_ERR_INVALID_ARG, lambda: migrate(dom, there, **{lv.VIR_MIGRATE_PARAM_TLS_DESTINATION: "127.0.0.9"}), text="VIR_MIGRATE_TLS")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, lambda: migrate(dom, there, flags), text="the certificate of the destination 127.0.0.1")
    t.wait_for(lambda: there.conn.listAllDomains() == [], "the destination to be empty")
    last = runs(t, here, after=last)
    t.run("virsh", "-c", here.uri, "migrate", "--live", "--unsafe", "--tls", "--tls-destination", "127.0.0.9", "vm", there.uri, timeout=60)
    last = runs(t, there, after=last)
    migrate(there.conn.lookupByName("vm"), here, flags | P2P | lv.VIR_MIGRATE_PARALLEL)
    runs(t, here, after=last)


@test(timeout=90, where="host")
def refusals(t):
    """What is not supported is refused by its name, what is unsafe by its reason; the guest does not notice."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t))
    unsafe = lv.VIR_MIGRATE_UNSAFE
    refused(t, lv.VIR_ERR_MIGRATE_UNSAFE, dom.migrate3, there.conn, {}, LIVE)
    for flag, word in ((lv.VIR_MIGRATE_TUNNELLED | P2P, "tunnelled"), (lv.VIR_MIGRATE_NON_SHARED_DISK, "copying disks"),
                       (lv.VIR_MIGRATE_NON_SHARED_INC, "copying disks"), (lv.VIR_MIGRATE_RDMA_PIN_ALL, "RDMA"),
                       (lv.VIR_MIGRATE_ZEROCOPY | lv.VIR_MIGRATE_PARALLEL, "zero-copy")):
        if flag & P2P:
            refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.migrateToURI3, there.uri, {}, flag | unsafe, text=word)
        else:
            refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.migrate3, there.conn, {}, flag | unsafe, text=word)
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.migrate3, here.conn, {}, unsafe, text="its own host")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, lambda: migrate(dom, there, migrate_uri="rdma://127.0.0.1"), text="rdma")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, lambda: migrate(dom, there, migrate_disks="vda"), text="migrate_disks")
    xml = dom.XMLDesc(lv.VIR_DOMAIN_XML_MIGRATABLE)
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, lambda: migrate(dom, there, destination_xml=xml.replace(">1</vcpu>", ">2</vcpu>")), text="vCPU")
    missing = xml.replace("vm.img", "missing.img")
    for way in (0, P2P):
        try:
            migrate(dom, there, way, destination_xml=missing)
            t.check(False, "the destination has no such disk")
        except lv.libvirtError as error:
            t.check("missing.img" in str(error), str(error))
        t.equal(there.conn.listAllDomains(), [], "domains left at the destination")
    t.equal(tuple(dom.state()), RUNNING_BOOTED, "state")
    t.equal(dom.jobStats()["type"], lv.VIR_DOMAIN_JOB_NONE, "job")
    there.conn.createXML(domain(t, "vm"))
    refused(t, lv.VIR_ERR_OPERATION_INVALID, migrate, dom, there, text="already active")
    runs(t, here, after=last)


@test(timeout=60, where="any")
def offline(t):
    """Only the definition goes."""
    here, there = pair(t)
    dom = here.conn.defineXML(domain(t))
    flags = lv.VIR_MIGRATE_OFFLINE | PERSIST
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.migrate3, there.conn, {}, lv.VIR_MIGRATE_OFFLINE, text="persistent")
    dom.migrate3(there.conn, {}, flags)
    t.equal((there.conn.lookupByName("vm").isPersistent(), here.conn.lookupByName("vm").isPersistent()), (1, 1), "definitions")
    there.conn.lookupByName("vm").undefine()
    dom.migrateToURI3(there.uri, {}, flags | UNDEFINE | P2P)
    t.equal(there.conn.lookupByName("vm").isPersistent(), 1, "the definition there")
    refused(t, lv.VIR_ERR_NO_DOMAIN, here.conn.lookupByName, "vm")


def under_way(t, here, dom):
    """Waits until memory is being sent."""
    return t.wait_for(lambda: (stats := dom.jobStats()).get("memory_iteration") and stats, "a migration under way", 30, every=0.1)


@test(timeout=90, where="host")
@cases(way=("direct", "peer"))
def aborted(t, way):
    """By domjobabort, with its numbers, and then it goes."""
    here, there = pair(t)
    p2p = P2P if way == "peer" else 0
    dom, last = start(t, here, busy(t, churn=16))
    here.background(lambda: migrate(dom, there, p2p, **SLOW))
    stats = under_way(t, here, dom)
    t.equal(stats["operation"], lv.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT, "operation")
    for key in ("memory_total", "memory_processed", "memory_remaining", "memory_bps", "memory_normal", "memory_dirty_rate", "setup_time", "data_total"):
        t.check(key in stats, f"no {key} in {stats}")
    t.check("Memory processed" in t.run("virsh", "-c", here.uri, "domjobinfo", "vm"), "numbers by virsh")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, there.conn.lookupByName("vm").abortJob, text="incoming")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, there.conn.lookupByName("vm").jobStats, text="source")
    t.run("virsh", "-c", here.uri, "domjobabort", "vm")
    refused(t, lv.VIR_ERR_OPERATION_ABORTED, here.join)
    t.wait_for(lambda: there.conn.listAllDomains() == [], "the destination to be empty")
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
    t.equal(dom.jobStats(lv.VIR_DOMAIN_JOB_STATS_COMPLETED)["type"], lv.VIR_DOMAIN_JOB_CANCELLED, "the job afterwards")
    last = runs(t, here, after=last)


@test(timeout=120, where="host")
@cases(who=("destination's VMM", "source's VMM", "destination's daemon", "source's daemon", "client"))
def somebody_dies(t, who):
    """In the middle: one VM is left, and runs."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    dom.migrateSetMaxDowntime(1)  # or it may come to its end before
    if who == "client":
        client = t.start("virsh", "-c", here.uri, "migrate", "--live", "--unsafe", "--bandwidth", "1", "vm", there.uri)
    else:
        here.background(lambda: migrate(dom, there, 0, **SLOW))
    under_way(t, here, dom)
    if who == "client":
        client.kill()
    elif who == "destination's VMM":
        os.kill(there.process_of("vm"), signal.SIGKILL)
    elif who == "source's VMM":
        os.kill(here.process_of("vm"), signal.SIGKILL)
    elif who == "destination's daemon":
        there.kill()
    else:
        here.kill()

    # A daemon that comes back while the VMMs are at it finds nobody who would go on.
    if who == "destination's daemon":
        there.start()
    if who != "client":
        try:
            here.join(60)
            t.check(False, "the migration came to its end")
        except lv.libvirtError:
            pass
    if who == "source's daemon":
        here.start()
    if who == "source's VMM":
        here.state(dom, lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_CRASHED)
        t.wait_for(lambda: there.conn.listAllDomains() == [], "the destination to be empty")
        return
    t.wait_for(lambda: there.conn.listAllDomains() == [], "the destination to be empty", 40)
    dom = here.conn.lookupByName("vm")
    t.wait_for(lambda: dom.jobStats()["type"] == lv.VIR_DOMAIN_JOB_NONE, "the job's end")
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
    last = runs(t, here, after=last)
    dom.migrateSetMaxDowntime(300)
    migrate(dom, there)
    runs(t, there, after=last)


def idle(dom):
    """Whether no job holds it; one that brings the VM in has no numbers."""
    try:
        return dom.jobStats()["type"] == lv.VIR_DOMAIN_JOB_NONE
    except lv.libvirtError as error:
        if error.get_error_code() != lv.VIR_ERR_OPERATION_INVALID:
            raise
        return False


def active(at):
    """Whether the VM runs at this end, for its daemon."""
    return bool(at.conn.listAllDomains(lv.VIR_CONNECT_LIST_DOMAINS_ACTIVE))


def files_of(at):
    """Of the domain's run: its status, and the directory with sockets and the pid."""
    return sorted(re.sub(r"-\d+-", "-N-", name) for name in os.listdir(at.run_directory) if "vm" in name)


def vmms():
    """The VMMs in this test's network."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/exe") == os.path.realpath(kumo()) and os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net"):
                found.append(int(pid))
        except OSError:
            pass  # it has ended, or is a thread of the kernel's
    return found


def listeners():
    """Ports where VMs would come in."""
    with open("/proc/self/net/tcp", encoding="ascii") as stream:
        sockets = [line.split() for line in stream.readlines()[1:]]
    ports = [int(words[1].rpartition(":")[2], 16) for words in sockets if words[3] == "0A"]
    return [port for port in ports if 49152 <= port <= 49215]


def at_one_end(t, here, there, flags):
    """Waits until the VM is at one end for both daemons, and checks that there is nothing of it at the other but what FLAGS of
    the migration left there: a definition. Returns the end where it is, and the other."""
    t.wait_for(lambda: active(here) != active(there), "the VM at one end", 40)
    at, other = (here, there) if active(here) else (there, here)
    dom = at.conn.lookupByName("vm")
    t.wait_for(lambda: idle(dom), "the job's end", 40)
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
    t.wait_for(lambda: files_of(other) == [], f"the other end's files to be gone: {files_of(other)}")
    t.equal(files_of(at), ["domain-N-vm", "vm.xml"], "files of the run")
    with open(f"{at.run_directory}/vm.xml", encoding="utf-8") as stream:
        t.check("<kumoJob" not in stream.read(), "a job in the status file")
    t.wait_for(lambda: vmms() == [at.process_of("vm")], "the end of all VMMs but one")
    t.wait_for(lambda: not listeners(), "the end of all that listens for VMs")
    if at is here:
        t.equal(dom.isPersistent(), 1, "persistence at the source")
        t.equal(there.conn.listAllDomains(), [], "domains at the destination")
    else:
        t.equal(dom.state(), list(RUNNING_MIGRATED), "state")
        t.equal(dom.isPersistent(), int(bool(flags & PERSIST)), "persistence at the destination")
        # Only who has confirmed it may have taken the definition away.
        for left in here.conn.listAllDomains():
            t.check(left.isPersistent() and tuple(left.state()) in (OFF_MIGRATED, OFF_BEFORE), f"the source's domain: {left.state()}")
        t.check(flags & UNDEFINE or here.conn.listAllDomains(), "the source's definition is lost")
    for end in (here, there):
        t.equal({f"{dom.name()}.xml" for dom in end.conn.listAllDomains() if dom.isPersistent()},
                {name for name in os.listdir(f"{end.root}/etc/libvirt/kumo") if name.endswith(".xml")}, "domains and files of definitions")
    return at, other


@test(timeout=90, where="host")
@cases(way=("direct", "peer"), side=("source", "destination"), delay=DELAYS)
def a_daemon_dies_at_any_moment(t, way, side, delay):
    """From Begin to Confirm, whatever it is about: one VM is left and runs, and the next migration finds nothing in its way."""
    here, there = pair(t)
    flags = PERSIST | UNDEFINE if DELAYS.index(delay) % 2 else 0
    dom, last = start(t, here, busy(t, churn=16))
    here.background(lambda: migrate(dom, there, flags | (P2P if way == "peer" else 0)))
    time.sleep(delay / 1000)
    victim = here if side == "source" else there
    victim.kill()
    try:
        here.join(60)
    except lv.libvirtError:
        pass  # or it had come to its end, or goes on without the one that died
    victim.start()
    at, other = at_one_end(t, here, there, flags)
    last = runs(t, at, after=last)
    migrate(at.conn.lookupByName("vm"), other)
    runs(t, other, after=last)


class Guest:
    """The workload's guest as a domain, at the end where it is at present."""

    def __init__(self, t, at, dom):
        self.t, self.at, self.dom = t, at, dom
        self.console = Stream(t, at.conn, dom)
        self.shell = self.console.shell

    def move(self, target):
        self.console.close()
        text = self.t.run("virsh", "-c", self.at.uri, "migrate", "--live", "--verbose", "--unsafe", "--persistent", "--undefinesource", "vm", target.uri,
                          timeout=120)
        self.t.check(re.search(ALL_OF_IT, text), text)
        moved = target.conn.lookupByName("vm")
        target.state(moved, *RUNNING_MIGRATED)
        return Guest(self.t, target, moved)


@test(timeout=150 + 30 * ROUNDS, where="lab")
def debian(t):
    """A stock kernel at work on memory, disk and network goes to and fro by virsh, and nothing of it is lost; an abort in the
    middle leaves it where it is."""
    t.network()
    here, there = pair(t)

    def start(t, root):
        os.chmod(root, 0o666)
        devices = (f"<disk type='file'><driver type='raw'/><source file='{root}'/><target dev='vda' bus='virtio'/></disk>"
                   f"<interface type='bridge'><mac address='{MAC}'/><source bridge='br0'/></interface><serial type='pty'/>")
        dom = here.conn.defineXML(domain(t, words=guest.command_line(*WORDS, run=RUN), path=guest.kernel(KERNEL), initrd=guest.initramfs(KERNEL),
                                         emulator=kumo(), devices=devices, memory=MEMORY_MIB))
        dom.create()
        vm = Guest(t, here, dom)
        vm.console.expect(guest.READY, 90)
        return vm

    work = Workload(t, start)
    for number in range(ROUNDS):
        work.vm = work.vm.move(here if number % 2 else there)
        work.went_on(f"{number + 1}, to {os.path.basename(work.vm.at.root)}")
    source, target = work.vm.at, there if work.vm.at is here else here
    source.background(lambda: work.vm.dom.migrateToURI3(target.uri, {lv.VIR_MIGRATE_PARAM_BANDWIDTH: 4}, LIVE | P2P | lv.VIR_MIGRATE_UNSAFE))
    under_way(t, source, work.vm.dom)
    t.run("virsh", "-c", source.uri, "domjobabort", "vm", timeout=60)
    refused(t, lv.VIR_ERR_OPERATION_ABORTED, source.join, 60)
    work.went_on("an abort")
    work.end()
    source.state(work.vm.dom, lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
