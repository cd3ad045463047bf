# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways to connect, as root and as an ordinary user, and what tools ask first."""

import os
import pty
import pwd
import re
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import libvirt as lv

from harness import cases, test
from harness.console import Console
from harness.virt import Connection, EventLoop, configure, domain, fake, refused, small


DAEMON = os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../driver/daemon")


def virsh(t, uri, *command, status=0):
    return t.run("virsh", "-c", uri, *command, status=status)


def first_questions(t, c):
    """What Nova's driver asks at its start, in that order, and what virt-manager asks."""
    t.check(c.getLibVersion() >= 8000000, "libvirt's version")
    t.check(c.getVersion() >= 8002002, "the hypervisor's version")
    t.equal(c.getType(), "KUMO", "type")
    caps = ElementTree.fromstring(c.getCapabilities())
    t.check(caps.findtext("host/uuid"), "no host UUID")
    t.check(caps.findtext("host/cpu/arch") == "x86_64", "no CPU architecture")
    t.check(caps.find("host/topology/cells/cell/cpus/cpu") is not None, "no CPU topology")
    t.equal([guest.findtext("os_type") for guest in caps.findall("guest")], ["hvm"], "guests")
    machines = [machine.text for machine in caps.findall("guest/arch/machine")]
    t.check({"kumo-1", "kumo", "q35", "pc"} <= set(machines), f"machines: {machines}")
    t.equal({found.get("type") for found in caps.findall("guest/arch/domain")}, {"kvm"}, "domain types")
    for machine in (None, "pc", "q35", "kumo", "kumo-1"):
        found = ElementTree.fromstring(c.getDomainCapabilities(None, "x86_64", machine, "kvm"))
        t.equal(found.findtext("machine"), "kumo-1", f"machine for {machine}")
        t.equal(found.find("cpu/mode[@name='host-passthrough']").get("supported"), "yes", "host-passthrough")
    c.getInfo()
    c.getCPUMap()
    c.getCPUStats(lv.VIR_NODE_CPU_STATS_ALL_CPUS, 0)
    c.getMemoryStats(lv.VIR_NODE_MEMORY_STATS_ALL_CELLS, 0)
    t.check(c.getCellsFreeMemory(0, 1)[0] > 0, "no free memory in cell 0")
    t.check(c.getFreeMemory() > 0, "no free memory")
    t.check(c.getHostname(), "no host name")
    t.check(c.getMaxVcpus("kvm") > 1, "no vCPUs")
    t.check(c.isAlive() and c.isSecure() and not c.isEncrypted(), "what the connection is")
    t.check(c.listAllDomains() == [] and c.numOfDomains() == 0 and c.numOfDefinedDomains() == 0, "domains")


@test(timeout=30, where="any")
def system(t):
    configure(t, binary=fake(t))
    t.virtkumod()
    c = Connection(t)
    t.equal(c.conn.getURI(), "kumo:///system", "URI")
    first_questions(t, c.conn)
    for uri in ("kumo+unix:///system", "kumo:///system?mode=direct"):
        t.check("KUMO" in virsh(t, uri, "version"), f"no version by {uri}")
    t.check("try kumo:///system" in virsh(t, "kumo:///session", "list", status=1), "root's session is not refused")


@test(timeout=30, where="any")
def embed(t):
    """No daemon: the driver is in the client. What one client started, the next one finds."""
    root = t.path("root")
    uri = f"kumo:///embed?root={root}"
    t.run("mkdir", "-p", f"{root}/etc")
    with open(f"{root}/etc/kumo.conf", "w", encoding="ascii") as stream:
        stream.write(f'binary = "{fake(t)}"\n')
    EventLoop.start()
    first_questions(t, lv.open(uri))
    refused(t, lv.VIR_ERR_INVALID_ARG, lv.open, "kumo:///embed?root=/elsewhere")

    xml = t.path("vm.xml")
    with open(xml, "w", encoding="utf-8") as stream:
        stream.write(domain(t, emulator=""))
    other = f"kumo:///embed?root={t.path('other')}"
    t.run("mkdir", "-p", t.path("other/etc"))
    with open(t.path("other/etc/kumo.conf"), "w", encoding="ascii") as stream:
        stream.write(f'binary = "{fake(t)}"\n')
    virsh(t, other, "define", xml)
    virsh(t, other, "start", "vm")
    t.check("running (booted)" in virsh(t, other, "domstate", "vm", "--reason"), "it is not found again")
    virsh(t, other, "suspend", "vm")
    t.check("paused (user)" in virsh(t, other, "domstate", "vm", "--reason"), "its state is not found again")
    virsh(t, other, "resume", "vm")
    virsh(t, other, "shutdown", "vm")
    t.wait_for(lambda: "shut off" in virsh(t, other, "domstate", "vm"), "the guest's end")
    virsh(t, other, "undefine", "vm")
    t.equal(virsh(t, other, "list", "--all", "--name").strip(), "", "domains")


@test(timeout=30, where="any")
def embed_needs_its_directory_for_itself(t):
    root = t.path("root")
    script = "import libvirt, sys; libvirt.virEventRegisterDefaultImpl(); c = libvirt.open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    holder = subprocess.Popen([sys.executable, "-c", script, f"kumo:///embed?root={root}"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE)
    t.equal(holder.stdout.readline(), b"open\n", "first client")
    virsh(t, f"kumo:///embed?root={root}", "list", status=1)
    holder.stdin.close()
    holder.wait()
    virsh(t, f"kumo:///embed?root={root}", "list")


class Ordinary:
    """An ordinary user's surroundings, with a home and a runtime directory of its own and no daemon: .run() runs a command in them."""

    def __init__(self, t):
        self.t = t
        t.libvirt_directories()
        self.home = t.path("home")
        self.user = pwd.getpwnam("nobody").pw_uid
        for directory, mode in (("", 0o755), ("run", 0o700), ("libvirt", 0o755)):
            os.mkdir(f"{self.home}/{directory}", mode)
            os.chown(f"{self.home}/{directory}", self.user, self.user)
        self.environment = dict(os.environ, HOME=self.home, XDG_RUNTIME_DIR=f"{self.home}/run", XDG_CONFIG_HOME=f"{self.home}/config",
                                XDG_CACHE_HOME=f"{self.home}/cache", VIRTD_PATH=os.path.join(os.environ["KUMO_BUILD"], "driver"))
        self.environment.pop("LIBVIRT_DRIVER_DIR")
        self.identity = dict(env=self.environment, user=self.user, group=self.user, extra_groups=[])

    def run(self, *command, status=0):
        return self.t.run(*command, status=status, **self.identity)

    def write(self, name, text):
        """A file of the user's, with this text."""
        path = f"{self.home}/{name}"
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chown(path, self.user, self.user)
        return path

    def process(self):
        """The pid of the one VMM that runs."""
        directory = f"{self.home}/run/libvirt/kumo/run"
        name = next(entry for entry in os.listdir(directory) if entry.startswith("domain-"))
        with open(f"{directory}/{name}/pid", encoding="ascii") as stream:
            return int(stream.read())


@test(timeout=40, where="any")
def session(t):
    """An ordinary user, with no daemon running: the client starts one, VMs run as that user."""
    user = Ordinary(t)
    xml = user.write("vm.xml", domain(t))

    def client(*command, status=0):
        return user.run("virsh", "-c", "kumo:///session?mode=direct", *command, status=status)

    t.equal(client("uri").strip(), "kumo:///session?mode=direct", "URI")
    client("define", xml)
    client("start", "vm")
    t.check("running" in client("domstate", "vm"), "it does not run")
    t.equal(os.stat(f"/proc/{user.process()}").st_uid, user.user, "user of the VMM")
    t.check(os.path.exists(f"{user.home}/cache/libvirt/kumo/log/vm.log"), "no log")
    for command in ("schedinfo", "memtune", "blkiotune"):
        t.check("session mode" in client(command, "vm", status=1), f"{command} does not name the reason")
    t.check("numa_mode" in client("numatune", "vm"), "no NUMA parameters")
    client("destroy", "vm")
    client("undefine", "vm")
    user.write("vm.xml", domain(t, extra="<memtune><hard_limit>100000</hard_limit></memtune>"))
    client("define", xml)
    t.check("/domain/memtune" in client("start", "vm", status=1), "a limit that nobody holds the domain to")
    client("undefine", "vm")
    # Without control groups the process itself takes memory from nowhere else.
    user.write("vm.xml", domain(t, extra="<numatune><memory mode='strict' nodeset='0'/></numatune>"))
    client("define", xml)
    client("start", "vm")
    if os.path.exists("/proc/self/numa_maps"):
        with open(f"/proc/{user.process()}/numa_maps", encoding="utf-8") as stream:
            t.equal({line.split()[1] for line in stream}, {"bind:0"}, "policies of memory")
    client("destroy", "vm")
    user.write("vm.xml", domain(t, extra="<numatune><memory mode='restrictive' nodeset='0'/></numatune>"))
    client("define", xml)
    t.check("/domain/numatune" in client("start", "vm", status=1), "a restriction that nobody holds the domain to")
    client("undefine", "vm")


@test(timeout=60, where="host")
def a_guest_of_an_ordinary_user(t):
    """Stock virsh as a user of no group, without a daemon at first: a real guest, its console, a reset, its end, and a daemon of
    the user's own that comes back to it."""
    user = Ordinary(t)
    xml = user.write("vm.xml", small(t, "test=power wait=1"))
    uri = "kumo:///session?mode=direct"
    user.run("virsh", "-c", uri, "define", xml)
    user.run("virsh", "-c", uri, "start", "vm")
    with open(f"/proc/{user.process()}/status", encoding="ascii") as stream:
        status = stream.read()
    t.check(re.search(rf"^Uid:(\t{user.user}){{4}}$", status, re.MULTILINE), "the VMM is not the user's")
    t.check("CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status, f"the VMM has rights: {status}")
    t.check("Seccomp:\t2" in status, "the VMM is not confined")

    master, slave = pty.openpty()
    t.start("setsid", "-c", "virsh", "-q", "-c", uri, "console", "vm", "--force", stdin=slave, stdout=slave, stderr=slave, **user.identity)
    os.close(slave)
    console = Console(master)
    console.expect("^waiting")
    console.send("s")
    console.expect("^ready")
    console.send("a")  # a reset
    console.expect("^waiting")
    console.send("s")
    console.expect("^ready")
    text = user.run("virsh", "-c", uri, "domstats", "vm")
    t.check("state.state=1" in text and "vcpu.current=1" in text, text)
    t.equal(t.run("virsh", "-c", "kumo:///system?mode=direct", "list", status=1, **user.identity).count("Failed to connect"), 1, "another user's")

    with open(f"{user.home}/run/libvirt/virtkumod.pid", encoding="ascii") as stream:
        daemon = int(stream.read())
    t.equal(os.stat(f"/proc/{daemon}").st_uid, user.user, "user of the daemon")
    os.kill(daemon, signal.SIGKILL)
    t.check("running" in user.run("virsh", "-c", uri, "domstate", "vm"), "the next daemon does not know it")
    user.run("virsh", "-c", uri, "destroy", "vm")
    t.check("shut off (destroyed)" in user.run("virsh", "-c", uri, "domstate", "vm", "--reason"), "it still runs")
    user.run("virsh", "-c", uri, "undefine", "vm")
    t.equal(user.run("virsh", "-c", uri, "list", "--all", "--name").strip(), "", "domains")

@test(timeout=30, where="any")
def a_user_without_rights(t):
    """With the configuration that is installed: whom polkit does not let in gets nothing but the read-only socket."""
    t.libvirt_directories()
    for name in ("virtkumod.conf", "kumo.conf"):
        shutil.copy(os.path.join(DAEMON, name), "/etc/libvirt")
    t.virtkumod()
    ordinary = dict(user="nobody", group="nogroup", extra_groups=[])
    text = t.run("virsh", "-c", "kumo:///system", "list", status=1, **ordinary)
    t.check("uthenti" in text or "Permission denied" in text or "polkit" in text or "system bus" in text, text)
    t.run("virsh", "-r", "-c", "kumo:///system", "list", **ordinary)


@test(timeout=30, where="any")
@cases(line=("nonsense = 1", 'migrate_tls_x509_cert_dir = ""', "log_level = 9", "timeout = 0", 'seccomp = "maybe"', "user = 7", 'cgroup_controllers = ["gravity"]', 'user = "no-such-user"'))
def a_wrong_configuration(t, line):
    """The daemon says what is wrong with kumo.conf and does not start."""
    t.libvirt_directories()
    with open("/etc/libvirt/kumo.conf", "w", encoding="ascii") as stream:
        stream.write(line + "\n")
    process = t.start("virtkumod", name="daemon")
    process.wait(20)
    with open(t.path("daemon.log"), encoding="utf-8") as stream:
        t.check(line.split()[0].strip("'\"=") in stream.read(), "the setting is not named")


@test(timeout=40, where="any")
def many_domains(t):
    """A thousand definitions: listing them and finding one stays quick."""
    configure(t, binary=fake(t))
    t.virtkumod()
    c = Connection(t, events=False)
    for number in range(1000):
        c.conn.defineXML(domain(t, f"vm{number}", emulator="", devices=""))
    start = time.monotonic()
    t.equal(len(c.conn.listAllDomains(lv.VIR_CONNECT_LIST_DOMAINS_INACTIVE)), 1000, "domains")
    c.conn.lookupByName("vm567").XMLDesc(0)
    t.check(time.monotonic() - start < 1, f"it took {time.monotonic() - start:.2f} s")
