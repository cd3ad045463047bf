# SPDX-License-Identifier: LGPL-2.1-or-later
"""Clients that are not root: polkit at the socket, polkit for each call, read-only connections, over SSH."""

import os
import pwd
import shutil

import libvirt as lv

from harness import cases, test
from harness.context import mount
from harness.virt import Connection, configure, domain, fake, libvirtd, refused

SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
URI = "kumo:///system"
# Two users of the test's own: one of the group libvirt, one of no group.
USERS = {"kumo-alice": 59001, "kumo-bob": 59002}
OWN_RULES = """
polkit.addRule(function(action, subject) {
    if (action.id == "org.libvirt.unix.manage" && subject.user == "kumo-bob") {
        return polkit.Result.YES;
    }
    if (action.id.indexOf("org.libvirt.api.") != 0) {
        return polkit.Result.NOT_HANDLED;
    }
    if (action.lookup("connect_driver") != "KUMO") {
        return polkit.Result.NO;
    }
    if (subject.user == "kumo-alice") {
        return polkit.Result.YES;
    }
    var allowed = ["connect.getattr", "connect.search-domains", "domain.getattr", "domain.read", "domain.start", "domain.stop"];
    var name = action.lookup("domain_name");
    if (allowed.indexOf(action.id.substring("org.libvirt.api.".length)) >= 0 && (!name || name == "his")) {
        return polkit.Result.YES;
    }
    return polkit.Result.NO;
});
"""


def users(t):
    """Adds the users to /etc/passwd and /etc/group as this test sees them."""
    t.libvirt_directories()
    for name, lines in (("passwd", [f"{user}:x:{number}:{number}::/nonexistent:/bin/sh\n" for user, number in USERS.items()]),
                        ("group", [f"{user}:x:{number}:\n" for user, number in USERS.items()])):
        with open(f"/etc/{name}", encoding="utf-8") as stream:
            text = stream.readlines()
        if name == "group":
            text = [line for line in text if not line.startswith("libvirt:")] + ["libvirt:x:59000:kumo-alice\n"]
        with open(t.path(name), "w", encoding="utf-8") as stream:
            stream.writelines(text + lines)
        os.chmod(t.path(name), 0o644)
        mount(t.path(name), f"/etc/{name}")


def polkit(t, rules=""):
    """Starts the system's message bus and polkit, with our rules, RULES, and nobody else's."""
    directory = t.path("rules.d")
    os.mkdir(directory, 0o755)
    os.chmod(directory, 0o755)
    shutil.copy(os.path.join(SOURCE, "driver/data/60-virtkumod.rules"), directory)
    with open(f"{directory}/50-test.rules", "w", encoding="utf-8") as stream:
        stream.write(rules)
    mount(directory, "/usr/share/polkit-1/rules.d")
    os.mkdir("/run/dbus")
    t.run("dbus-daemon", "--system", "--fork")
    t.start("/usr/lib/polkit-1/polkitd", "--no-debug", name="polkitd")
    t.wait_for(lambda: "PolicyKit1" in t.run("dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/",
                                         "org.freedesktop.DBus.ListNames"), "polkit on the bus", 20, every=0.2)


def as_user(t, name, *command, status=0, uri=URI):
    number = USERS[name]
    return t.run("virsh", "-c", uri, *command, status=status, user=number, group=number, extra_groups=[])


def daemon_configuration(*lines):
    shutil.copy(os.path.join(SOURCE, "driver/daemon/virtkumod.conf"), "/etc/libvirt")
    with open("/etc/libvirt/virtkumod.conf", "a", encoding="ascii") as stream:
        stream.write("".join(line + "\n" for line in lines))


def define(t, *names):
    c = Connection(t, events=False)
    for name in names:
        c.conn.defineXML(domain(t, name))
    return c


def rules_for_each_call(t):
    """access_drivers = ["polkit"] and rules that give each user something else."""
    users(t)
    configure(t, binary=fake(t))
    daemon_configuration('access_drivers = [ "polkit" ]')
    polkit(t, OWN_RULES)


@test(timeout=60, where="any")
def polkit_at_the_socket(t):
    """As installed: the group libvirt gets in, others read only."""
    users(t)
    configure(t, binary=fake(t))
    daemon_configuration()
    polkit(t)
    t.virtkumod()
    define(t, "vm")
    as_user(t, "kumo-alice", "start", "vm")
    t.check("running" in as_user(t, "kumo-alice", "domstate", "vm"), "it does not run")
    text = as_user(t, "kumo-bob", "destroy", "vm", status=1)
    t.check("authenti" in text.lower() or "polkit" in text, text)
    t.check("running" in t.run("virsh", "-r", "-c", URI, "domstate", "vm", user=USERS["kumo-bob"], group=USERS["kumo-bob"],
                               extra_groups=[]), "no reading")


@test(timeout=60, where="any")
def polkit_for_each_call(t):
    """access_drivers = ["polkit"]: a user sees, starts and stops the domain that the rules give him, and no other."""
    rules_for_each_call(t)
    t.virtkumod()
    define(t, "his", "hers")
    t.equal(as_user(t, "kumo-alice", "list", "--all", "--name").split(), ["hers", "his"], "what the one may see")
    t.equal(as_user(t, "kumo-bob", "list", "--all", "--name").split(), ["his"], "what the other may see")
    as_user(t, "kumo-bob", "start", "his")
    as_user(t, "kumo-bob", "domstate", "his")
    for command in (("suspend", "his"), ("setvcpus", "his", "1"), ("undefine", "his"), ("dumpxml", "his", "--security-info"),
                    ("attach-disk", "his", "/etc/hostname", "vdb"), ("desc", "his", "--new-desc", "mine"), ("dump", "his", "/tmp/x"),
                    ("destroy", "hers"), ("define", t.path("none"))):
        with open(t.path("none"), "w", encoding="utf-8") as stream:
            stream.write(domain(t, "more"))
        os.chmod(t.path("none"), 0o644)
        text = as_user(t, "kumo-bob", *command, status=1)
        t.check("access denied" in text or "failed to get domain" in text, f"{' '.join(command)}: {text}")
    t.equal(as_user(t, "kumo-alice", "list", "--all", "--name").split(), ["his", "hers"], "domains afterwards")
    as_user(t, "kumo-bob", "destroy", "his")


@test(timeout=60, where="any")
def polkit_for_node_devices(t):
    """A device of the host is for whom the rules give it to, though libvirtd, which knows it, would give it to root's daemon."""
    rules_for_each_call(t)
    libvirtd(t, only=("nodedev",))
    t.virtkumod()
    for verb in ("reattach", "reset"):
        text = as_user(t, "kumo-bob", f"nodedev-{verb}", "net_lo_00_00_00_00_00_00", status=1)
        t.check("access denied" in text, f"{verb} by the one: {text}")
        text = as_user(t, "kumo-alice", f"nodedev-{verb}", "net_lo_00_00_00_00_00_00", status=1)
        t.check("not a PCI device" in text, f"{verb} by the other: {text}")


@test(timeout=40, where="any")
def read_only(t):
    """The read-only socket, for everybody: reading is allowed, and nothing else."""
    configure(t, binary=fake(t))
    t.virtkumod()
    define(t, "vm").conn.lookupByName("vm").create()
    conn = lv.openReadOnly(URI)
    dom = conn.lookupByName("vm")
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
    t.check("<name>vm</name>" in dom.XMLDesc(0) and conn.getAllDomainStats() != [], "XML and statistics")
    for function, arguments in ((dom.destroy, ()), (dom.suspend, ()), (dom.undefine, ()), (dom.reset, ()), (dom.setVcpus, (1,)),
                                (dom.setMemory, (1024,)), (dom.attachDevice, ("<disk/>",)), (dom.XMLDesc, (lv.VIR_DOMAIN_XML_SECURE,)),
                                (conn.defineXML, (domain(t, "more"),)), (conn.createXML, (domain(t, "more"),)),
                                (dom.setAutostart, (1,)), (dom.injectNMI, ()), (dom.rename, ("x",))):
        refused(t, lv.VIR_ERR_OPERATION_DENIED, function, *arguments)
    refused(t, lv.VIR_ERR_OPERATION_DENIED, dom.openConsole, None, conn.newStream(0))


@test(timeout=60, where="any")
@cases(transport=("ext", "ssh"))
def from_another_host(t, transport):
    """Through libvirt's virt-ssh-helper, by a command of our own and by a real SSH server on the loopback interface."""
    t.network()
    configure(t, binary=fake(t))
    t.virtkumod()
    define(t, "vm")
    if transport == "ext":
        command = t.path("helper")
        with open(command, "w", encoding="ascii") as stream:
            stream.write(f"#!/bin/sh\nexec virt-ssh-helper {URI}\n")
        os.chmod(command, 0o755)
        uri = f"kumo+ext:///system?command={command}"
    else:
        os.makedirs("/run/sshd", exist_ok=True)
        for key in ("host", "user"):
            t.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", t.path(key))
        with open(t.path("sshd_config"), "w", encoding="ascii") as stream:
            stream.write(f"Port 2222\nListenAddress 127.0.0.1\nHostKey {t.path('host')}\nAuthorizedKeysFile {t.path('user.pub')}\n"
                         f"StrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\nPidFile none\nSetEnv PATH={os.environ['PATH']}\n")
        t.start("/usr/sbin/sshd", "-D", "-e", "-f", t.path("sshd_config"), name="sshd")
        t.wait_for(lambda: "SSH-2.0" in t.run("ssh-keyscan", "-p", "2222", "127.0.0.1", status=None), "sshd", every=0.2)
        user = pwd.getpwuid(os.geteuid()).pw_name
        uri = f"kumo+ssh://{user}@127.0.0.1:2222/system?keyfile={t.path('user')}&no_verify=1&no_tty=1"
    c = Connection(t, uri)
    t.equal(c.conn.getType(), "KUMO", "type")
    dom = c.conn.lookupByName("vm")
    dom.create()
    c.events("vm", (lv.VIR_DOMAIN_EVENT_STARTED, lv.VIR_DOMAIN_EVENT_STARTED_BOOTED))
    dom.destroy()
    t.equal(t.run("virsh", "-c", uri, "list", "--all", "--name").strip(), "vm", "virsh's list")
