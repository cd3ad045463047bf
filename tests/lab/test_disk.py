# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtio-blk under a stock kernel."""

import os

from harness import boot, cases, guest, test

E2FSCK_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


@test(timeout=90)
@cases(kernel=("bookworm-elf", "trixie-elf"))
def root_survives_a_reboot(t, kernel):
    """ext4 as the root file system: written, rebooted inside the same process, read back, clean afterwards."""
    disk = guest.root_disk(t.path("root.ext4"))
    vm = boot(t, kernel, "--disk", f"path={disk}", words=("root=/dev/vda",), run=("facts", "boot-count"))
    facts = vm.ready()
    t.equal(facts["root"], "/dev/vda", "root file system")
    t.equal(facts.all("disk"), ["vda 67108864 bytes writable"], "disks")
    t.equal(facts.all("boot-count"), ["1"], "boots counted")
    pid = vm.process.pid
    checksum = vm.shell("dd if=/dev/urandom of=/pattern bs=64k count=32 2>/dev/null; sync; md5sum /pattern").split()[0]
    vm.console.send("/init reboot\n")
    t.equal(vm.ready(times=2).all("boot-count"), ["1", "2"], "boots counted")
    t.equal(vm.process.pid, pid, "process")
    t.check(vm.process.poll() is None, "kumo ended at the guest's reboot")
    t.equal(vm.shell("md5sum /pattern").split()[0], checksum, "checksum of the file after the reboot")
    vm.console.send("/init poweroff\n")
    vm.wait_exit(0, 20)
    t.run("e2fsck", "-fn", disk, env=dict(os.environ, PATH=E2FSCK_PATH))


@test(timeout=60)
def data_disk(t):
    """A second disk holds what is written to it; a read-only one refuses."""
    first, second = guest.root_disk(t.path("first.ext4")), guest.root_disk(t.path("second.ext4"))
    vm = boot(t, "bookworm-elf", "--disk", f"path={first}", f"path={second},readonly=on", serial="file", cpus=2,
              run=("facts", "write-read:/dev/vda", "write-read:/dev/vdb", "poweroff"), api=False)
    vm.wait_exit(0, 50)
    facts = vm.facts()
    t.equal(facts.all("disk"), ["vda 67108864 bytes writable", "vdb 67108864 bytes readonly"], "disks")
    t.equal(facts.runs()["write-read:/dev/vda"], "ok", "writing to vda")
    t.check(facts.runs()["write-read:/dev/vdb"].startswith("failed"), "the read-only disk was written")
    t.run("e2fsck", "-fn", first, env=dict(os.environ, PATH=E2FSCK_PATH))


@test(timeout=60)
def block_device(t):
    """A block device is a disk; when it grows, the guest is told."""
    backing = t.path("backing")
    with open(backing, "wb") as file:
        file.truncate(32 << 20)
    device = t.run("losetup", "--find", "--show", backing).strip()
    t.cleanup(t.run, "losetup", "--detach", device)
    vm = boot(t, "bookworm-elf", "--disk", f"path={device},direct=on,id=loop")
    facts = vm.ready()
    t.equal(facts.all("disk"), [f"vda {32 << 20} bytes writable"], "disks")
    os.truncate(backing, 48 << 20)
    t.run("losetup", "--set-capacity", device)
    vm.put("vm.resize-disk", {"id": "loop", "desired_size": 48 << 20})
    vm.shell(f"until [ $(cat /sys/block/vda/size) = {(48 << 20) // 512} ]; do sleep 0.1; done")
    vm.shell("printf kumo | dd of=/dev/vda bs=1M seek=47 conv=fsync 2>/dev/null")
    with open(backing, "rb") as file:
        file.seek(47 << 20)
        t.equal(file.read(4), b"kumo", "what the guest wrote behind the old end")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
