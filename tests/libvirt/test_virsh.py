# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stock virsh: every command that the driver has to answer, each on its own connection."""

import os
import re

from harness import test
from harness.virt import configure, disk, domain, fake

URI = "kumo:///system"

# Command line (with {xml} for a file) and what the output has to have.
HOST = (
    ("version", "KUMO 26.11.0"), ("uri", URI), ("hostname", r"\S"), ("nodeinfo", "CPU model"), ("nodecpumap", "CPU map"),
    ("nodecpustats", "idle"), ("nodememstats", "free"), ("freecell --all", "KiB"), ("freepages --all", "4KiB"),
    ("allocpages 2M 0 --add", ""), ("node-memory-tune", "Shared memory"), ("cpu-models x86_64", "Haswell"),
    ("maxvcpus", r"\d+"), ("maxvcpus kvm", r"\d+"), ("capabilities", "<os_type>hvm"), ("domcapabilities", "<domain>kvm"),
    ("domcapabilities --machine pc --virttype kvm --arch x86_64", "<machine>kumo-1"), ("list --all", "vm"),
)
INACTIVE = (
    ("define {xml}", "defined"), ("define --validate {xml}", "defined"), ("dominfo vm", "shut off"), ("domid vm", "-"),
    ("domuuid vm", r"\w{8}-"), ("domstate vm --reason", "shut off"), ("dumpxml vm", "kumo-1"), ("dumpxml vm --inactive", "kumo-1"),
    ("dumpxml vm --security-info", "kumo-1"), ("dumpxml vm --migratable", "kumo-1"), ("domblklist vm", "vda"),
    ("domiflist vm", "Interface"), ("vcpucount vm", "maximum"), ("vcpucount vm --maximum --config", "^2$"), ("vcpupin vm", "0-"),
    ("autostart vm", "marked"), ("list --all --autostart --name", "^vm$"), ("autostart vm --disable", "unmarked"),
    ("list --inactive --persistent --no-autostart --without-snapshot --without-managed-save --name", "^vm$"),
    ("desc vm --title --new-desc A-title", ""), ("desc vm --title", "A-title"), ("desc vm --new-desc Some-text", ""),
    ("metadata vm --uri http://a.example --key a --set <thing/>", ""), ("metadata vm --uri http://a.example", "thing"),
    ("list --all --title", "A-title"), ("dommemstat vm", None), ("snapshot-list vm", "Name"), ("domstats vm", "block.count=1"),
    ("domblkinfo vm vda", "Capacity"), ("attach-device vm {disk} --config", "attached"), ("domblklist vm", "vdb"),
    ("detach-disk vm vdb --config", "detached"), ("setvcpus vm 1 --config", ""), ("setvcpus vm 2 --config", ""),
    ("setmem vm 32M --config", ""), ("setmem vm 64M --config", ""), ("blkdeviotune vm vda --total-bytes-sec 1000000 --config", ""),
    ("blkdeviotune vm vda --config", "1000000"), ("vcpupin vm 0 0 --config", ""), ("vcpupin vm --config", "0 +0$"),
    ("emulatorpin vm", r"\*: +0-"), ("domiflist vm", "Interface"), ("iothreadinfo vm", "No IOThreads"), ("domblkerror vm", None), ("snapshot-list vm --tree", ""), ("checkpoint-list vm", "Name"),
    ("dumpxml vm --update-cpu", "kumo-1"), ("setvcpu vm 1 --disable --config", ""), ("setvcpu vm 1 --enable --config", ""),
    ("iothreadadd vm 3 --config", ""), ("iothreadpin vm 3 0 --config", ""), ("iothreadinfo vm --config", r"3 +0$"), ("iothreaddel vm 3 --config", ""),
    ("set-lifecycle-action vm poweroff restart --config", ""),
    ("set-lifecycle-action vm poweroff destroy --config", ""), ("domfsinfo vm", None), ("domtime vm", None), ("perf vm", "page_faults *: disabled"), ("perf vm --enable page_faults --config", ""),
    ("perf vm --config", "page_faults *: enabled"), ("perf vm --disable page_faults --config", ""), ("guest-agent-timeout vm --timeout 5", ""),
)
RUNNING = (
    ("start vm", "started"), ("dominfo vm", "running"), ("domid vm", r"^\d+$"), ("domname 1", "^vm$"), ("domstate vm --reason", "booted"),
    ("domcontrol vm", "ok"), ("domjobinfo vm", "Job type: *None"), ("vcpuinfo vm", "running"), ("vcpucount vm --current --live", "^2$"),
    ("ttyconsole vm", "^/dev/pts/"), ("dumpxml vm", "<alias name='virtio-disk0'/>"), ("list --state-running --name", "^vm$"),
    ("domstats vm", "block.0.rd.bytes=512"), ("domstats --block --nowait", "rd.times=7000"), ("domblkstat vm vda", "rd_bytes 512"),
    ("domblkstat vm", "rd_req 1"), ("domblkinfo vm vda --human", "MiB"), ("dommemstat vm", "rss"), ("attach-disk vm {image} vdc", "attached"),
    ("domblklist vm", "vdc"), ("blockresize vm vdc 2M", "resized"), ("detach-disk vm vdc --live", "detached"),
    ("attach-device vm {disk} --live", "attached"), ("detach-device-alias vm virtio-disk1 --live", "request"), ("detach-disk vm vdc", None),
    ("setvcpus vm 1", ""), ("vcpucount vm --current --live", "^1$"), ("setvcpus vm 2", ""), ("setmem vm 32M", ""),
    ("blkdeviotune vm vda --total-iops-sec 100", ""), ("blkdeviotune vm vda", "total_iops_sec *: 100"), ("vcpupin vm 0 0 --live", ""),
    ("emulatorpin vm 0 --live", ""), ("emulatorpin vm", r"\*: +0$"), ("inject-nmi vm", ""), ("dump vm {dump} --memory-only", "dumped"), ("dump vm {dump} --bypass-cache", "dumped"),
    ("iothreadadd vm 4", ""), ("iothreadpin vm 4 0", ""), ("iothreadinfo vm", r"4 +0$"), ("domstats vm --iothread", "iothread.count=1"),
    ("iothreadset vm 4 --poll-max-ns 5000", None), ("iothreaddel vm 4", ""), ("iothreadinfo vm", "No IOThreads"),
    ("domblkerror vm", "No errors"), ("dommemstat vm --period 2 --live", ""), ("domdirtyrate-calc vm", None), ("blockjob vm vda", "No current block job"), ("setvcpu vm 1 --disable", ""), ("setvcpu vm 1 --enable", ""),
    ("shutdown vm --mode agent", None), ("reboot vm --mode agent", None),
    ("send-key vm KEY_A", None), ("screenshot vm", None), ("domif-getlink vm vnet0", None), ("domrename vm other", None),
    ("suspend vm", "suspended"), ("list --state-paused --name", "^vm$"), ("resume vm", "resumed"), ("reset vm", "reset"),
    ("reboot vm", "rebooted"), ("shutdown vm --mode acpi", "shutdown"),
)
END = (
    ("start vm --paused --reset-nvram", "started"), ("domstate vm", "paused"), ("resume vm", "resumed"), ("destroy vm --graceful --remove-logs", "destroyed"),
    ("undefine vm --managed-save --nvram --snapshots-metadata --checkpoints-metadata", "undefined"), ("create {xml} --reset-nvram", "created"),
    ("list --transient --name", "^vm$"), ("destroy vm", "destroyed"), ("list --all --name", r"\A\s*\Z"),
)


@test(timeout=90, where="any")
def sweep(t):
    """What is expected to be refused says that it is not supported, and nothing else."""
    configure(t, binary=fake(t))
    t.virtkumod()
    xml = t.path("vm.xml")
    with open(xml, "w", encoding="utf-8") as stream:
        stream.write(domain(t, devices=f"{disk(t)[1]}<serial type='pty'/><memballoon model='virtio'/>", vcpus=2))
    image, new = disk(t, "new.img", target="vdb")
    with open(t.path("disk.xml"), "w", encoding="utf-8") as stream:
        stream.write(new)
    os.chmod(t.directory, 0o755)
    files = {"xml": xml, "image": image, "disk": t.path("disk.xml"), "dump": t.path("dump")}
    t.run("virsh", "-c", URI, "define", xml)

    def commands(table):
        for line, expected in table:
            command = [word.format(**files) for word in line.split()]
            text = t.run("virsh", "-c", URI, *command, status=1 if expected is None else 0)
            if expected is None:
                t.check(re.search("not supported|argument unsupported|not running|not found|No disk|No interface|has to be shutoff", text), f"{line}: {text}")
            else:
                t.check(re.search(expected, text, re.MULTILINE), f"{line}: /{expected}/ is not in:\n{text}")

    commands(HOST)
    commands(INACTIVE)
    commands(RUNNING)
    t.wait_for(lambda: "shut off" in t.run("virsh", "-c", URI, "domstate", "vm"), "the guest's end")
    commands(END)


@test(timeout=30, where="any")
def events(t):
    """virsh event prints what happens."""
    t.virtkumod()
    watcher = t.start("virsh", "-c", URI, "event", "--all", "--loop", "--timeout", "25", name="events")
    xml = t.path("vm.xml")
    with open(xml, "w", encoding="utf-8") as stream:
        stream.write(domain(t))
    other = t.path("other.xml")
    with open(other, "w", encoding="utf-8") as stream:
        stream.write(domain(t).replace("<name>vm</name>", "<name>other</name>"))

    def listens():
        """virsh does not say when it has subscribed: the first event that it prints does."""
        t.run("virsh", "-c", URI, "define", other)
        t.run("virsh", "-c", URI, "undefine", "other")
        with open(t.path("events.log"), encoding="utf-8") as log:
            return "Undefined" in log.read()

    t.wait_for(listens, "virsh to subscribe")
    for command in (("define", xml), ("start", "vm"), ("suspend", "vm"), ("resume", "vm"), ("desc", "vm", "--new-desc", "x"),
                    ("destroy", "vm"), ("undefine", "vm")):
        t.run("virsh", "-c", URI, *command)
    watcher.terminate()
    watcher.wait()
    with open(t.path("events.log"), encoding="utf-8") as stream:
        text = stream.read()
    for word in ("Defined Added", "Started Booted", "Suspended Paused", "Resumed Unpaused", "Stopped Destroyed", "Undefined Removed",
                 "type description"):
        t.check(re.search(f"'vm'.*{word}", text), f"'{word}' is not in:\n{text}")
