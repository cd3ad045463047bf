# SPDX-License-Identifier: LGPL-2.1-or-later
"""Migrations whose other end is lost or stuck: a daemon that is stopped or killed at a certain moment, or its VMM."""

import json
import os
import signal
import socket
import struct
import threading
import time

import libvirt as lv
from test_migration import OFF_MIGRATED, P2P, RUNNING_BOOTED, SLOW, busy, migrate, runs, start, under_way
from test_postcopy import CHURN, PAUSED_POSTCOPY, ROOT, Migration

from harness import cases, test
from harness.certificates import Authority
from harness.virt import Host, domain, refused

QUICK = "keepalive_interval = 1\nkeepalive_count = 2\nmigration_connect_timeout = 3\n"


def pair(t, settings=QUICK):
    return Host(t, "here", settings), Host(t, "there", settings)


def stop(t, pid):
    """Stops a process until the test's end at the latest."""
    os.kill(pid, signal.SIGSTOP)
    t.cleanup(go_on, pid)


def go_on(pid):
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        pass


def shape(t, what, rate):
    """Makes this network as slow as that."""
    t.run("tc", "qdisc", what, "dev", "lo", "root", "tbf", "rate", rate, "burst", "256k", "latency", "2s")


def threads(host):
    """Of calls to other daemons."""
    names = []
    for task in os.listdir(f"/proc/{host.process.pid}/task"):
        try:
            with open(f"/proc/{host.process.pid}/task/{task}/comm", encoding="ascii") as stream:
                names.append(stream.read().strip())
        except FileNotFoundError:
            pass  # it has ended meanwhile
    return [name for name in names if name == "kumo-peer"]


def descriptors(host):
    return len(os.listdir(f"/proc/{host.process.pid}/fd"))


def runs_on(t, here, dom, last):
    """The domain is as if nobody had asked for a migration."""
    t.equal(tuple(dom.state()), RUNNING_BOOTED, "state")
    t.equal(dom.jobStats()["type"], lv.VIR_DOMAIN_JOB_NONE, "job")
    return runs(t, here, after=last)


def arrives(t, there, last):
    """The guest runs at the destination, whose daemon may have to find out about it yet."""
    t.wait_for(lambda: "/dev/pts/" in there.conn.lookupByName("vm").XMLDesc(), "the domain to be whole")
    runs(t, there, after=last)


@test(timeout=90, where="host")
@cases(how=("given up", "aborted", "destroyed"))
def a_daemon_that_answers_no_connection(t, how):
    """The source does not wait for longer than it is told to, and lets itself be told that it is enough."""
    here, there = pair(t, QUICK.replace("= 3", "= 3" if how == "given up" else "= 600"))
    dom, last = start(t, here, busy(t))
    before = descriptors(here)
    stop(t, there.process.pid)
    begun = time.monotonic()
    here.background(lambda: migrate(dom, there, P2P))
    t.wait_for(lambda: threads(here), "the call")
    if how == "given up":
        refused(t, lv.VIR_ERR_OPERATION_FAILED, here.join, text=there.uri)
        t.check(2 < time.monotonic() - begun < 10, f"after {time.monotonic() - begun} s")
    elif how == "aborted":
        t.run("virsh", "-c", here.uri, "domjobabort", "vm", timeout=5)
        refused(t, lv.VIR_ERR_OPERATION_ABORTED, here.join, 2)
    else:
        dom.destroy()
        refused(t, lv.VIR_ERR_OPERATION_FAILED, here.join, 2, text="ended")
    t.equal(len(threads(here)), 1, "threads that are left alone")
    if how != "destroyed":
        last = runs_on(t, here, dom, last)
    # The answer that nobody waits for any more.
    go_on(there.process.pid)
    t.wait_for(lambda: not threads(here), "the end of the call")
    t.wait_for(lambda: descriptors(here) <= before, f"{before} descriptors")
    if how != "destroyed":
        migrate(dom, there, P2P)
        runs(t, there, after=last)


def slow_emulator(t):
    """A VMM that begins only when a file is there: its destination's daemon is in Prepare meanwhile."""
    path = t.path("emulator")
    with open(path, "w", encoding="ascii") as stream:
        stream.write(f'#!/bin/sh\nwhile [ ! -e {t.path("go")} ]; do sleep 0.1; done\nexec {os.environ["KUMO_BUILD"]}/vmm-core/kumo "$@"\n')
    os.chmod(path, 0o755)
    return path


@test(timeout=90, where="host")
@cases(how=("stuck", "killed", "aborted"))
def in_prepare(t, how):
    """The destination's daemon starts a VMM: it is stopped, killed, or the migration is aborted."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t))
    xml = dom.XMLDesc(lv.VIR_DOMAIN_XML_MIGRATABLE)
    emulator = xml[xml.index("<emulator>"):xml.index("</emulator>")]
    here.background(lambda: migrate(dom, there, P2P, destination_xml=xml.replace(emulator, f"<emulator>{slow_emulator(t)}")))
    t.wait_for(lambda: there.conn.listAllDomains(), "the destination's domain")
    begun = time.monotonic()
    if how == "aborted":
        t.run("virsh", "-c", here.uri, "domjobabort", "vm", timeout=5)
        refused(t, lv.VIR_ERR_OPERATION_ABORTED, here.join, 2)
    else:
        if how == "stuck":
            stop(t, there.process.pid)
        else:
            there.kill()
        refused(t, lv.VIR_ERR_OPERATION_FAILED, here.join, text=there.uri)
        t.check(time.monotonic() - begun < 10, f"after {time.monotonic() - begun} s")
    last = runs_on(t, here, dom, last)
    with open(t.path("go"), "w", encoding="ascii"):
        pass
    go_on(there.process.pid)
    if how == "killed":
        there.start()
    t.wait_for(lambda: not there.conn.listAllDomains(), "the destination to be empty")
    t.wait_for(lambda: not threads(here), "the end of the call")
    migrate(dom, there, P2P)
    runs(t, there, after=last)


@test(timeout=90, where="host")
@cases(how=("stuck", "killed"))
def in_perform(t, how):
    """The destination's daemon is lost while memory goes: as far as the VMMs are concerned all would be well."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=500))
    here.background(lambda: migrate(dom, there, P2P, **SLOW))
    under_way(t, here, dom)
    begun = time.monotonic()
    if how == "stuck":
        stop(t, there.process.pid)
    else:
        there.kill()
    refused(t, lv.VIR_ERR_OPERATION_FAILED, here.join, text=there.uri)
    t.check(time.monotonic() - begun < 10, f"after {time.monotonic() - begun} s")
    last = runs_on(t, here, dom, last)
    go_on(there.process.pid)
    if how == "killed":
        there.start()
    t.wait_for(lambda: not there.conn.listAllDomains(), "the destination to be empty", 40)
    migrate(dom, there, P2P)
    runs(t, there, after=last)


@test(timeout=120, where="host")
@cases(how=("stuck", "killed"))
def in_postcopy(t, how):
    """The destination's daemon is lost when the guest runs there already: its memory follows without."""
    t.network()
    shape(t, "add", "40mbit")
    here, there = pair(t, QUICK + ROOT)
    dom, last = start(t, here, busy(t, churn=CHURN))
    migration = Migration(t, here, there, P2P)
    shape(t, "change", "8mbit")
    dom.migrateStartPostCopy()
    t.wait_for(lambda: dom.state() == PAUSED_POSTCOPY, "the source's state", 60, every=0.05)
    t.wait_for(lambda: there.conn.lookupByName("vm").state()[1] == lv.VIR_DOMAIN_RUNNING_POSTCOPY, "the destination's state", 30, every=0.05)
    if how == "stuck":
        stop(t, there.process.pid)
        time.sleep(4)  # longer than it may say nothing
    else:
        there.kill()
    t.equal(dom.state(), PAUSED_POSTCOPY, "the source's state without the other daemon")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.abortJob, text="destination")
    shape(t, "change", "1gbit")
    migration.join(60)
    t.check(there.uri in str(migration.error), f"{migration.error}")
    here.state(dom, *OFF_MIGRATED)
    if how == "stuck":
        go_on(there.process.pid)
    else:
        there.start()
    arrives(t, there, last)


@test(timeout=90, where="host")
@cases(way=("direct", "peer"))
def a_vmm_that_stands_still(t, way):
    """The destination's, while memory goes: an abort does not wait for it, and nobody else does."""
    here, there = pair(t, QUICK + ("timeout = 3\n" if way == "direct" else ""))
    second = lv.open(there.uri)
    other = second.createXML(domain(t, "other"))
    dom, last = start(t, here, busy(t, churn=500))
    here.background(lambda: migrate(dom, there, P2P if way == "peer" else 0, **SLOW))
    under_way(t, here, dom)
    pid = there.process_of("vm")
    stop(t, pid)
    begun = time.monotonic()
    t.run("virsh", "-c", here.uri, "domjobabort", "vm", timeout=10)
    for _ in range(5):
        asked = time.monotonic()
        other.suspend()
        other.resume()
        second.listAllDomains(lv.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        t.check(time.monotonic() - asked < 1.5, f"calls about others had to wait for {time.monotonic() - asked} s")
        time.sleep(0.2)
    refused(t, lv.VIR_ERR_OPERATION_ABORTED, here.join, 12)
    t.check(time.monotonic() - begun < 12, f"after {time.monotonic() - begun} s")
    last = runs_on(t, here, dom, last)
    if way == "direct":
        # A client does not hand on that the source has the guest: the VMM is kept until it says what it has.
        go_on(pid)
        t.wait_for(lambda: len(there.conn.listAllDomains()) == 1, "the destination to be empty")
    t.equal([left.name() for left in there.conn.listAllDomains()], ["other"], "domains left at the destination")
    migrate(dom, there, P2P)
    runs(t, there, after=last)


@test(timeout=60, where="host")
def a_vmm_that_sends_and_does_not_say_so(t):
    """The source's: when the request to send has no answer in time, it is called off, too."""
    here, there = pair(t, QUICK + "timeout = 2\n")
    dom = here.conn.createXML(domain(t, words="fake.late=vm.send-migration fake.stream=50"))
    refused(t, lv.VIR_ERR_OPERATION_FAILED, lambda: migrate(dom, there, P2P), text="vm.send-migration")
    with open(f"{here.root}/var/log/libvirt/kumo/vm.log", encoding="utf-8") as stream:
        log = stream.read()
    t.check("migration is called off" in log, log)
    t.equal(tuple(dom.state()), RUNNING_BOOTED, "state")
    t.wait_for(lambda: not there.conn.listAllDomains(), "the destination to be empty")


def left_over(host):
    """What the daemon keeps of domains: files and directories of its runs, their processes and its own descriptors."""
    files = sorted(os.path.relpath(os.path.join(where, name), host.root) for where, dirs, names in os.walk(host.run_directory) for name in dirs + names)
    processes = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.stat(f"/proc/{host.process.pid}/ns/mnt").st_ino:
                with open(f"/proc/{pid}/comm", encoding="ascii") as stream:
                    processes.append(stream.read().strip())
        except OSError:
            pass  # it has ended meanwhile
    return {"domains": [left.name() for left in host.conn.listAllDomains()], "files": files, "processes": sorted(processes),
            "descriptors": descriptors(host)}


@test(timeout=90, where="host")
@cases(option=("tls", "compressed", "parallel", "auto-converge", "postcopy"), way=("direct", "peer"))
def abort(t, option, way):
    """By domjobabort, whatever the migration is like: the guest runs on, and nothing of it is left at the destination."""
    here, there = (Host(t, name, f'{ROOT}migrate_tls_x509_cert_dir = "{t.path(name)}-tls"\n') for name in ("here", "there"))
    if option == "tls":
        authority = Authority(t, "authority")
        for name in ("here-tls", "there-tls"):
            authority.directory(name, "server", "client")
    dom, last = start(t, here, busy(t, churn=CHURN))
    before = left_over(there)
    options = {"compressed": ("--compressed", "--comp-methods", "zstd"), "parallel": ("--parallel", "--parallel-connections", "4")}.get(option, (f"--{option}",))
    how = ("virsh", "-c", here.uri, "migrate", "--live", "--unsafe", "--bandwidth", "1", *options, *(("--p2p",) if way == "peer" else ()), "vm", there.uri)
    for _ in range(2):
        client = t.start(*how, name=f"virsh-{time.monotonic_ns()}")
        under_way(t, here, dom)
        during = left_over(there)
        t.check(during["domains"] == ["vm"] and len(during["processes"]) > len(before["processes"]) and len(during["files"]) > len(before["files"]), f"{during}")
        t.run("virsh", "-c", here.uri, "domjobabort", "vm", timeout=10)
        t.check(client.wait(10) != 0, "the migration succeeded")
        last = runs_on(t, here, dom, last)
        t.wait_for(lambda: left_over(there) == before, f"the destination to be as before: {before}, is {left_over(there)}")
        t.equal(dom.jobStats(lv.VIR_DOMAIN_JOB_STATS_COMPLETED)["type"], lv.VIR_DOMAIN_JOB_CANCELLED, "the job afterwards")
    migrate(dom, there, P2P)
    runs(t, there, after=last)


@test(timeout=90, where="host")
@cases(way=("direct", "peer"))
def by_unix_socket(t, way):
    """Between two daemons of one host, without its network: in any way in which memory may go."""
    here, there = pair(t, ROOT)
    last = start(t, here, busy(t))[1]
    path = t.path("migration.sock")
    source, target = here, there
    for flags in (0, lv.VIR_MIGRATE_PARALLEL | lv.VIR_MIGRATE_COMPRESSED, lv.VIR_MIGRATE_POSTCOPY):
        migrate(source.conn.lookupByName("vm"), target, flags | (P2P if way == "peer" else 0), migrate_uri=f"unix://{path}")
        last = runs(t, target, after=last)
        t.check(not os.path.exists(path), f"{path} is left")
        source, target = target, source
    options = ("--p2p",) if way == "peer" else ()
    t.run("virsh", "-c", source.uri, "migrate", "--live", "--unsafe", *options, "--desturi", target.uri, "--migrateuri", f"unix://{path}", "vm", timeout=30)
    runs(t, target, after=last)


@test(timeout=60, where="host")
def unix_sockets_that_are_refused(t):
    """By what is wrong with them; the guest does not notice."""
    here, there = Host(t, "here"), Host(t, "there")
    dom, last = start(t, here, busy(t))
    path = t.path("migration.sock")
    refused(t, lv.VIR_ERR_ARGUMENT_UNSUPPORTED, lambda: migrate(dom, there, P2P | lv.VIR_MIGRATE_TLS, migrate_uri=f"unix://{path}"), text="TLS")
    for way in (0, P2P):
        for uri, more, code, text in ((f"unix://host{path}", {}, lv.VIR_ERR_INVALID_ARG, "unix:///PATH"), ("unix:", {}, lv.VIR_ERR_INVALID_ARG, "unix:///PATH"),
                                      (f"unix://{path}", {"listen_address": "127.0.0.1"}, lv.VIR_ERR_INVALID_ARG, "127.0.0.1"),
                                      (f"unix:///{'x' * 200}", {}, lv.VIR_ERR_CONFIG_UNSUPPORTED, "1 to 107 bytes"),
                                      ("unix:///proc/none.sock", {}, lv.VIR_ERR_OPERATION_FAILED, "/proc/none.sock")):
            refused(t, code, lambda: migrate(dom, there, way, migrate_uri=uri, **more), text=text)  # pylint: disable=cell-var-from-loop
            t.equal(there.conn.listAllDomains(), [], "domains left at the destination")
    runs_on(t, here, dom, last)


@test(timeout=60, where="host")
def a_unix_socket_that_is_nobodys(t):
    """Of a VMM that was killed: it is no hindrance, also for one that is not root's."""
    here, there = Host(t, "here"), Host(t, "there")
    dom, last = start(t, here, busy(t))
    directory = t.path("sockets")
    os.mkdir(directory)
    os.chmod(directory, 0o777)
    path = f"{directory}/migration.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    os.chmod(path, 0o777)
    migrate(dom, there, P2P, migrate_uri=f"unix://{path}")
    runs(t, there, after=last)
    t.equal(os.listdir(directory), [], "sockets that are left")


class Relay:
    """Between the two VMMs: holds the first record of a type that the source sends, or the answer to it, until let go."""

    HELLO, ROUND, STATE, GO, ACK = 1, 5, 6, 7, 8
    HERE, THERE = "127.0.0.1", "127.0.0.2"

    def __init__(self, t, hold, answer=False):
        self.hold, self.answer = hold, answer
        self.held, self.go = threading.Event(), threading.Event()
        t.cleanup(self.go.set)
        self.server = socket.create_server((self.HERE, 0))
        t.cleanup(self.server.close)
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def parameters(self):
        return {"migrate_uri": f"tcp://{self.HERE}:{self.port}", "listen_address": self.THERE}

    def serve(self):
        while True:
            try:
                source = self.server.accept()[0]
            except OSError:
                return  # the test is over
            target = socket.create_connection((self.THERE, self.port))
            threading.Thread(target=self.pump, args=(source, target, False), daemon=True).start()
            threading.Thread(target=self.pump, args=(target, source, True), daemon=True).start()

    def pump(self, source, target, back):
        """Record by record: a header of 24 bytes, with the type and the length of what follows."""
        try:
            with source.makefile("rb") as stream:
                while header := stream.read(24):
                    kind, length = struct.unpack_from("<IQ", header, 4)
                    payload = stream.read(length)
                    record = json.loads(payload)["answers"] if kind == self.ACK else kind
                    if record == self.hold and back == self.answer and not self.held.is_set():
                        self.held.set()
                        self.go.wait()
                    target.sendall(header + payload)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one of them has hung up
        finally:
            source.close()


def hold(t, here, dom, there, *what):
    """Begins a migration and returns its relay when that holds what it was told to."""
    relay = Relay(t, *what)
    here.background(lambda: migrate(dom, there, P2P, **relay.parameters))
    t.check(relay.held.wait(30), f"{what} has not come")
    return relay


def back_again(t, here, dom, there, last):
    """The guest runs on at the source, the destination has nothing, and the next migration succeeds."""
    t.wait_for(lambda: dom.state()[0] == lv.VIR_DOMAIN_RUNNING, "the guest that runs on", 15)
    t.equal(dom.jobStats()["type"], lv.VIR_DOMAIN_JOB_NONE, "job")
    last = runs(t, here, after=last)
    t.wait_for(lambda: not there.conn.listAllDomains(), "the destination to be empty", 30)
    migrate(dom, there, P2P)
    runs(t, there, after=last)


@test(timeout=90, where="host")
@cases(phase=("HELLO", "ROUND", "STATE"), what=("aborted", "killed"))
def at_a_certain_record(t, phase, what):
    """Until GO the source gets its guest back, whatever the destination has of it."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    hold(t, here, dom, there, getattr(Relay, phase))
    if what == "aborted":
        dom.abortJob()
        refused(t, lv.VIR_ERR_OPERATION_ABORTED, here.join, 10)
    else:
        there.kill()
        refused(t, lv.VIR_ERR_OPERATION_FAILED, here.join, 10, text=there.uri)
        there.start()
    back_again(t, here, dom, there, last)


@test(timeout=90, where="host")
@cases(what=("aborted", "killed"))
def when_go_is_held(t, what):
    """The source has said it, and the destination does not hear it, and lets go after ten seconds. If the source does not hear
    that first, it cannot know it: the guest stands still there, and the client is told so."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    hold(t, here, dom, there, Relay.GO)
    if what == "aborted":
        refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.abortJob, text="told to run")
    else:
        there.kill()
    try:
        here.join(40)
        t.check(False, "the migration succeeded")
    except lv.libvirtError as error:
        t.equal(error.get_error_code(), lv.VIR_ERR_OPERATION_FAILED, f"code of '{error}'")
        if dom.state()[0] == lv.VIR_DOMAIN_PAUSED:
            t.check("stays paused" in str(error), str(error))
            dom.resume()
    if what == "killed":
        there.start()
    back_again(t, here, dom, there, last)


@test(timeout=90, where="host")
@cases(what=("aborted", "killed"))
def when_the_answer_to_go_is_held(t, what):
    """The guest runs at the destination, and the source does not hear it: the locks say so."""
    here, there = pair(t)
    dom, last = start(t, here, busy(t, churn=16))
    hold(t, here, dom, there, Relay.GO, True)
    if what == "aborted":
        refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.abortJob, text="told to run")
        here.join(40)
    else:
        there.kill()
        refused(t, lv.VIR_ERR_OPERATION_FAILED, here.join, 40, text=there.uri)
        there.start()
    here.state(dom, *OFF_MIGRATED)
    arrives(t, there, last)
