# SPDX-License-Identifier: LGPL-2.1-or-later
"""The first command of Cloud Hypervisor's README for a kernel of one's own, by an ordinary user, as it stands there.

tests/guest/cases_documents.py has all commands, with a small guest; test_firmware.py the one with firmware.
"""

import json
import os
import pty
import re
import shlex
import shutil
import stat
import struct

from harness import Console, guest, test
from harness.context import mount, new_directories

NOBODY = 65534
SECTOR = 512
START = 2048
# Debian's kernels have the drivers of the root disk in an initramfs; the rest is the README's.
COMMAND = ('./kumo --kernel ./vmlinuz --initramfs ./initrd.img --disk path=focal-server-cloudimg-amd64.raw path=/tmp/ubuntu-cloudinit.img '
           '--cmdline "console=hvc0 root=/dev/vda1 rw" --cpus boot=4 --memory size=1024M --net "tap=,mac=,ip=,mask="')


def partitioned(path, root):
    """A disk with one partition, which has the file system ROOT: a partition table of DOS and what it leads to."""
    sectors = os.path.getsize(root) // SECTOR
    with open(path, "wb") as disk, open(root, "rb") as content:
        disk.write(bytes(446) + struct.pack("<B3sB3sII", 0, b"\0\2\0", 0x83, b"\xff\xff\xff", START, sectors) + bytes(48) + b"\x55\xaa")
        disk.seek(START * SECTOR)
        shutil.copyfileobj(content, disk)


def as_udev_has_it(node, device, group, mode):
    """Gives a device the group and the mode that udev's rules give it, for this test: in the lab there is no udev."""
    os.mknod(node, stat.S_IFCHR | mode, os.stat(device).st_rdev)
    os.chown(node, 0, group)
    os.chmod(node, mode)
    mount(node, device)


@test(timeout=120)
def readme_by_an_ordinary_user(t):
    """setcap cap_net_admin+ep and the group kvm are all that it takes: four processors, two disks, a NIC whose tap kumo makes, and the
    root file system on the first partition, with the terminal as the guest's console."""
    t.network()
    new_directories([])  # a mount namespace of the test's own
    group = next(int(line.split(":")[2]) for line in open("/etc/group", encoding="utf-8") if line.startswith("kvm:"))
    for device, owner, mode in (("/dev/kvm", group, 0o660), ("/dev/net/tun", 0, 0o666)):
        as_udev_has_it(t.path(os.path.basename(device)), device, owner, mode)
    shutil.copy(shutil.which("kumo"), t.path("kumo"))
    os.chmod(t.path("kumo"), 0o755)
    t.run("/sbin/setcap", "cap_net_admin+ep", t.path("kumo"))
    for source, name in ((guest.kernel("bookworm-bzimage"), "vmlinuz"), (guest.initramfs("bookworm-bzimage"), "initrd.img")):
        shutil.copy(source, t.path(name))
        os.chmod(t.path(name), 0o644)
    root = guest.root_disk(t.path("root.ext4"))
    cloud_init = t.path("ubuntu-cloudinit.img")
    partitioned(t.path("focal-server-cloudimg-amd64.raw"), root)
    shutil.copy(root, cloud_init)
    for name in ("focal-server-cloudimg-amd64.raw", "ubuntu-cloudinit.img"):
        os.chown(t.path(name), NOBODY, NOBODY)
    master, slave = pty.openpty()
    os.fchown(slave, NOBODY, -1)
    process = t.start(*shlex.split(COMMAND.replace("/tmp/ubuntu-cloudinit.img", cloud_init)), cwd=t.directory, stdin=slave, stdout=slave,
                      user=NOBODY, group=NOBODY, extra_groups=[group])
    terminal = Console(master, t.path("terminal.log"))
    terminal.expect("guest# ", 60)
    with open(f"/proc/{process.pid}/status", encoding="utf-8") as status:
        fields = dict(re.findall(r"^(Uid|CapEff):\s+(.*)$", status.read(), re.MULTILINE))
    t.equal(fields["Uid"].split(), [str(NOBODY)] * 4, "user")
    t.equal(int(fields["CapEff"], 16), 1 << 12, "capabilities")  # CAP_NET_ADMIN alone
    link, = json.loads(t.run("ip", "-json", "address", "show", "vmtap0"))
    t.check("UP" in link["flags"] and all(entry["family"] != "inet" for entry in link["addr_info"]), f"the tap: {link}")
    terminal.send("echo = $(grep -c '^/dev/vda1 / ext4 rw' /proc/mounts) $(nproc) $(cat /sys/block/vdb/size) $(ls /sys/class/net) =\n")
    seen = terminal.expect(r"^= (\d+) (\d+) (\d+) (.*) =$", 30)
    t.equal(seen.groups(), ("1", "4", str(os.path.getsize(cloud_init) // SECTOR), "eth0 lo"),
            "root on vda1, processors, sectors of the second disk, interfaces")
    terminal.send("/init poweroff\n")
    t.wait_for(lambda: (terminal.drain(), process.poll() is not None)[1], "kumo to end", 30)
    t.equal(process.returncode, 0, "exit status")
    os.close(slave)
