# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stock virsh, continued: interfaces, tuning, CPU models, edits, what there is only in another driver, and wrong arguments."""

import os
import re

from harness import test
from harness.context import Failure
from harness.virt import configure, disk, domain, fake

URI = "kumo:///system"

# Command line and what its output has to have, or (in REFUSED) what its error has to have.
HOST = (
    ("cpu-baseline {cpu}", "<model"), ("cpu-baseline {cpu} --features", "<feature"), ("cpu-compare {cpu}", "identical|superset"),
    ("hypervisor-cpu-compare {cpu}", "identical|superset"), ("hypervisor-cpu-baseline {cpu}", "<model"),
    ("nodecpumap --pretty", "CPU map"), ("freecell 0", "KiB"), ("freepages 0 4KiB", "4KiB"), ("domid vm", "-"),
)
INACTIVE = (
    ("dumpxml vm --xpath //devices/interface", "tap8"), ("domiflist vm", "tap8 +ethernet"), ("setmaxmem vm 128M --config", ""),
    ("dominfo vm", "Max memory: +131072 KiB"), ("setmem vm 128M --config", ""), ("domif-setlink vm tap8 down --config", "updated"),
    ("dumpxml vm --xpath //devices/interface/link", "state=.down."), ("domif-getlink vm tap8 --config", "tap8 down"),
    ("domif-setlink vm tap8 up --config", "updated"), ("domiftune vm tap8 --inbound 1000,2000,3000 --config", ""),
    ("domiftune vm tap8 --config", "inbound.average: 1000"),
    ("domiftune vm tap8 --inbound 0 --config", ""), ("domiftune vm tap8 --config", "inbound.average: 0"), ("attach-interface vm bridge br7 --model virtio --config", "attached"),
    ("domiflist vm", "br7"), ("detach-interface vm bridge --mac {mac} --config", "detached"), ("update-device vm {update} --config", "updated"),
    ("dumpxml vm --xpath //devices/disk/driver", "cache=.none."), ("dommemstat vm --period 7 --config", ""),
    ("dumpxml vm --xpath //devices/memballoon", "period=.7."), ("domxml-to-native kumo-json --domain vm", '"disks"'), ("edit vm", "not changed"),
    ("desc vm --edit", ""), ("vcpucount vm --config --current", "^2$"), ("domblklist vm --details", "file +disk +vda"),
)
RUNNING = (
    ("start vm", "started"), ("domifstat vm tap8", "rx_bytes"), ("domstats vm --interface", "net.0.name=tap8"), ("domstats --raw --vcpu", "vcpu.current=2"),
    ("domif-setlink vm tap8 down", "updated"), ("domif-getlink vm tap8", "tap8 down"), ("domif-setlink vm tap8 up", "updated"),
    ("domiftune vm tap8 --live", "inbound.average: 0"),
    ("domcontrol vm", "ok"), ("vcpuinfo vm --pretty", "CPU Affinity"), ("guestvcpus vm", None), ("guestvcpus vm 1 --disable", None), ("get-user-sshkeys vm root", None),
    ("qemu-monitor-command vm info", None), ("dompmsuspend vm mem", None), ("domfstrim vm", None), ("list --with-snapshot", "Id"),
    ("list --managed-save", "Id"), ("domstate vm", "running"), ("destroy vm", "destroyed"), ("undefine vm", "undefined"),
)
# Arguments that do not fit, and the words of the error.
REFUSED = (
    ("start nobody", "failed to get domain"), ("define /dev/null", "XML|empty"), ("setvcpus vm 99 --config", "greater than max"), ("setvcpus vm 0 --config", ""),
    ("setmem vm 9999G --config", "higher than max|greater"), ("attach-disk vm /nonexistent vda --config", "already exists"),
    ("detach-disk vm vdz --config", "No disk|not found"), ("detach-device-alias vm nothing", "not running|not found|no device"), ("blockresize vm vda 1M", "not running"), ("domblkinfo vm vdz", "vdz"),
    ("blkdeviotune vm vda --size-iops-sec 5 --config", "size_iops_sec|not supported"), ("vcpupin vm 9 0 --config", "out of range"), ("vcpupin vm 0 4000 --config", ""),
    ("suspend vm", "not running"), ("resume vm", "not running"), ("reset vm", "not running"), ("shutdown vm", "not running"), ("destroy vm", "not running"),
    ("inject-nmi vm", "not running"), ("domifstat vm tap8", "not running"), ("dump vm /tmp/x", "not running"), ("domcapabilities --machine none", "none"),
    ("domcapabilities --arch aarch64", "aarch64"), ("domcapabilities --virttype xen", "xen"), ("cpu-models sparc", "sparc|cannot"), ("domrename vm a/b", "a/b"),
    ("define {other}", "already exists|already defined"),
)


def write(t, name, text):
    with open(t.path(name), "w", encoding="utf-8") as stream:
        stream.write(text)
    return t.path(name)


@test(timeout=90, where="any")
def sweep(t):
    t.network()
    configure(t, binary=fake(t))
    t.virtkumod()
    mac = "52:54:00:6b:75:01"
    interface = "<interface type='ethernet'><mac address='52:54:00:6b:75:00'/><target dev='tap8'/><model type='virtio'/></interface>"
    own = disk(t)[1]
    xml = domain(t, devices=f"{own}{interface}<serial type='pty'/><memballoon model='virtio'/>", vcpus=2)
    files = {"xml": write(t, "vm.xml", xml), "mac": mac, "update": write(t, "update.xml", own.replace("<source", "<driver name='qemu' type='raw' cache='none'/><source")),
             "other": write(t, "other.xml", xml.replace("<name>vm<", "<name>other<"))}
    files["cpu"] = write(t, "cpu.xml", re.search("<cpu>.*?</cpu>", t.run("virsh", "-c", URI, "capabilities"), re.DOTALL)[0])
    t.run("virsh", "-c", URI, "define", files["xml"])
    environment = dict(os.environ, EDITOR="true", VISUAL="true")

    wrong = []

    def commands(table, fails=False):
        for line, expected in table:
            command = [word.format(**files) for word in line.split()]
            if line.startswith("attach-interface"):
                command += ["--mac", mac]
            fails_now = fails or expected is None
            expected = expected if expected is not None else "not supported|agent"
            try:
                text = t.run("virsh", "-c", URI, *command, status=1 if fails_now else 0, env=environment)
            except Failure as failure:
                wrong.append(str(failure))
            else:
                if not re.search(expected, text, re.MULTILINE):
                    wrong.append(f"{line}: /{expected}/ was expected, not\n{text}")

    commands(HOST)
    commands(REFUSED, fails=True)
    t.equal(t.run("virsh", "-c", URI, "list", "--all", "--name").split(), ["vm"], "domains after what was refused")
    commands(INACTIVE)
    commands(RUNNING)
    t.check(not wrong, "\n".join(wrong))
