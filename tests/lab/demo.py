#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demo: stock virsh defines, starts, talks to and shuts down a stock Debian kernel that runs in kumo.

First through the daemon, kumo:///system, then with no daemon at all, kumo:///embed. Run by ./dev demo, directly where KVM
is native and inside the lab elsewhere. Everything is in directories, processes and a network namespace of its own.
"""

import os
import pty
import shlex
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from harness import Console, Failure, TimedOut, guest  # noqa: E402  (the path to it is set above)
from harness.context import Context  # noqa: E402

KERNEL = "bookworm-bzimage"
HOST_ADDRESS, GUEST_ADDRESS = "192.168.77.1", "192.168.77.2"

DOMAIN = """<domain type='kvm'>
  <name>{name}</name>
  <memory unit='MiB'>256</memory>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{disk}'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='ethernet'>
      <mac address='52:54:00:6b:75:6d'/>
      <target dev='{tap}' managed='no'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'/>
    <console type='pty'/>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  </devices>
</domain>
"""


def title(text):
    print(f"\n== {text}", flush=True)


def shown(*command):
    """Runs a command as a person would, showing it and what it prints; returns the output."""
    print(f"$ {shlex.join(command)}", flush=True)
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          timeout=60, check=False)
    text = done.stdout.decode(errors="replace").rstrip()
    if text:
        print(text, flush=True)
    if done.returncode != 0:
        raise Failure(f"{shlex.join(command)}: status {done.returncode}")
    return text


class Virsh:
    """virsh on a terminal of its own, for commands that want one; it shows what comes."""

    def __init__(self, context, *command):
        print(f"$ {shlex.join(command)}", flush=True)
        master, slave = pty.openpty()
        # A plain terminal: readline would put marks of its own between the lines.
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        env=dict(os.environ, TERM="dumb"))
        os.close(slave)
        self.console = Console(master)
        self.printed = 0
        context.cleanup(self.close)

    def expect(self, pattern, seconds=60):
        try:
            return self.console.expect(pattern, seconds)
        finally:
            self.show()

    def show(self):
        text = self.console.seen[self.printed:]
        self.printed = len(self.console.seen)
        sys.stdout.write("".join(f"  {line}" for line in text.splitlines(True)))
        sys.stdout.flush()

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()
        self.console.close()


def domain(context, name, tap):
    """Writes a domain's XML and its disk; returns the path of the XML."""
    disk = guest.root_disk(context.path(f"{name}.ext4"))
    words = guest.command_line("root=/dev/vda", run=("facts", f"ip:{GUEST_ADDRESS}/24", f"ping:{HOST_ADDRESS}"))
    path = context.path(f"{name}.xml")
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(DOMAIN.format(name=name, kernel=guest.kernel(KERNEL), initrd=guest.initramfs(KERNEL), cmdline=words,
                                   disk=disk, tap=tap))
    return path


def converse(virsh):
    """What is said on the guest's console: its facts, then a shell that answers."""
    virsh.expect(r"^guest: ready")
    virsh.expect(r"guest# ")
    virsh.console.send("uname -a\n")
    virsh.expect(r"^Linux .*\n")
    virsh.show()
    facts = guest.Facts(virsh.console.seen)
    for key in ("cpus", "memory", "disk", "net"):
        if not facts.all(key):
            raise Failure(f"the guest told nothing about its {key}")
    if facts.runs().get(f"ping:{HOST_ADDRESS}") != "ok":
        raise Failure("the guest did not reach the host over its network")


def wait_shut_off(connection, name, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        state = subprocess.run(["virsh", "-c", connection, "domstate", name], stdout=subprocess.PIPE, check=True).stdout
        if state.strip() == b"shut off":
            return
        time.sleep(0.3)
    raise Failure(f"{name} has not shut down after {seconds} s")


def daemon_demo(context, tap):
    title("A daemon of our own, stock virsh: kumo:///system")
    connection = "kumo:///system"
    print("$ virtkumod &", flush=True)
    context.virtkumod()
    xml = domain(context, "demo", tap)
    shown("virsh", "-c", connection, "version")
    shown("virsh", "-c", connection, "define", xml)
    shown("virsh", "-c", connection, "start", "demo")
    console = Virsh(context, "virsh", "-c", connection, "console", "demo", "--force")
    converse(console)
    console.console.send("\x1d")
    shown("virsh", "-c", connection, "list", "--all")
    shown("virsh", "-c", connection, "shutdown", "demo")
    wait_shut_off(connection, "demo")
    shown("virsh", "-c", connection, "domstate", "demo", "--reason")
    shown("virsh", "-c", connection, "undefine", "demo")


def embedded_demo(context, tap):
    title("No daemon at all: kumo:///embed")
    root = context.path("embed")
    os.mkdir(root)
    connection = f"kumo:///embed?root={root}"
    xml = domain(context, "embedded", tap)
    virsh = Virsh(context, "virsh", "-c", connection)
    virsh.expect(r"virsh # ")
    for command, answer in ((f"define {xml}", r"defined from"), ("start embedded", r"started")):
        virsh.console.send(f"{command}\n")
        virsh.expect(answer)
        virsh.expect(r"virsh # ")
    virsh.console.send("console embedded --force\n")
    converse(virsh)
    virsh.console.send("\x1d")
    virsh.expect(r"virsh # ")
    virsh.console.send("shutdown embedded\n")
    virsh.expect(r"virsh # ")
    for _ in range(100):
        virsh.console.send("domstate embedded\n")
        if virsh.expect(r"^(shut off|running|in shutdown)$")[1] == "shut off":
            break
        time.sleep(0.3)
    else:
        raise Failure("the embedded domain has not shut down")
    virsh.console.send("quit\n")
    virsh.process.wait(20)


def main():
    if os.geteuid() != 0:
        sys.exit("demo: a network and directories of its own need root")
    context = Context("demo")
    status = 1
    try:
        tap = context.tap("demo0", f"{HOST_ADDRESS}/24")
        daemon_demo(context, tap.name)
        embedded_demo(context, tap.name)
        status = 0
    except (Failure, TimedOut, OSError, subprocess.SubprocessError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        for line in context.logs():
            print(f"  {line}", file=sys.stderr)
    finally:
        context.close()
        context.remove()
    if status == 0:
        title("Done: a stock Debian kernel ran twice, and was shut down by stock virsh")
    return status


if __name__ == "__main__":
    sys.exit(main())
