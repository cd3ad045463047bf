# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab machine, the guest material and the harness: what the other tests stand on."""

import os
import re
import signal
import struct
import subprocess
import sys

from harness import Failure, guest, test

sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import bzimage  # noqa: E402  (the path to it is set above)
import images  # noqa: E402
import kvm_probe  # noqa: E402


@test(timeout=30)
def kvm_is_native(t):
    kind, why = kvm_probe.probe()
    t.equal(kind, "native", why)


@test(timeout=60, where="host")
def mask_of_the_doctor(t):
    """A guest under the mask that doctor derives runs, and finds none of the masked features."""
    mask = t.run(sys.executable, os.path.join(os.path.dirname(os.path.realpath(__file__)), "doctor.py"), "--cpu-mask").strip()
    t.equal(bool(mask), kvm_probe.probe()[0] == "software", f"is there a mask: {mask}")
    mask = mask or "-cx16"
    vm = t.kumo("--kernel", os.path.join(os.environ["KUMO_BUILD"], "tests/guest/guest.elf"), "--cmdline", "test=cpuid cpus=1 max_cpus=1",
                "--cpus", f"boot=1,cpu_mask=[{mask}]", serial="file", api=False)
    vm.wait_exit(0, 30)
    leaf_1 = re.search(r"^# leaf 1 ecx ([0-9a-f]+)$", vm.text(), re.MULTILINE)
    t.check("-cx16" not in mask or int(leaf_1[1], 16) >> 13 & 1 == 0, f"cx16 is masked by {mask}, but the guest has {leaf_1}")
    t.check("not ok" not in vm.text(), vm.text())


@test(timeout=30)
def devices(t):
    for path in ("/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock", "/dev/vfio/vfio", "/dev/pts/ptmx", "/dev/shm"):
        t.check(os.path.exists(path), f"{path} is missing")
    t.check("cgroup2" in t.run("cat", "/proc/mounts"), "no cgroup2 is mounted")


@test(timeout=30)
def tap_in_namespace(t):
    tap = t.tap(address="192.168.99.1/24")
    t.check("192.168.99.1" in t.run("ip", "address", "show", tap.name), "the tap has no address")
    t.equal(tap.statistic("rx_packets"), 0, "packets of a tap that nobody uses")


@test(timeout=30, where="any")
def private_directories(t):
    """A test's own directories are empty, and gone for everybody else."""
    if os.geteuid() != 0:
        t.skip("private directories need root")
    t.private_directories("/run", "/etc/libvirt")
    with open("/run/kumo-test-mark", "w", encoding="ascii") as stream:
        stream.write("here")
    t.equal(os.listdir("/run"), ["kumo-test-mark"], "what is in /run")
    t.equal(os.path.exists(f"/proc/{os.getppid()}/root/run/kumo-test-mark"), False, "the file is outside, too")


@test(timeout=30, where="any")
def images_are_reproducible(t):
    for name in ("lab", "initramfs-bookworm", "initramfs-trixie"):
        again = t.path("again.img")
        images.IMAGES[name][1](again)
        t.check(images.read(again) == images.read(images.image(name)), f"{name} differs when it is built again")


@test(timeout=30, where="any")
def root_disk_is_clean(t):
    disk = guest.root_disk(t.path("root.ext4"))
    t.run("e2fsck", "-fn", disk, env=dict(os.environ, PATH="/usr/sbin:/sbin:/usr/bin:/bin"))


@test(timeout=30, where="any")
def elf_is_the_kernel_in_the_bzimage(t):
    for release in images.GUEST_KERNELS:
        elf = images.read(guest.kernel(f"{release}-elf"))
        t.equal(elf[:5], b"\x7fELF\x02", f"first bytes of {release}'s vmlinux")
        version = images.read(images.kernel_path(release, "release")).strip()
        t.check(b"Linux version " + version in elf, f"{release}'s vmlinux does not name {version}")


@test(timeout=30, where="any")
def bad_bzimages_are_refused(t):
    image = bytearray(images.read(guest.kernel("bookworm-bzimage")))
    outside = bytearray(image)
    struct.pack_into("<I", outside, 0x24C, len(image))
    for name, bad in (("empty", b""), ("no header", bytes(1 << 16)), ("payload outside", bytes(outside))):
        try:
            bzimage.extract(bad)
        except bzimage.BadKernel:
            continue
        raise Failure(f"{name}: was accepted")


@test(timeout=20, where="any")
def leftovers_are_ended(t):
    """A process that a test leaves in another session is ended by the runner, even when the test is killed."""
    inner = t.path("test_inner.py")
    with open(inner, "w", encoding="utf-8") as text:
        text.write("import os, subprocess, time\nfrom harness import test\n\n"
                   "@test(timeout=1, where='any', retry=False)\ndef hangs(t):\n"
                   f"    child = subprocess.Popen(['sleep', '60'], start_new_session=True)\n"
                   f"    open({t.path('pid')!r}, 'w').write(str(child.pid))\n    time.sleep(60)\n\n"
                   "@test(where='any')\ndef fails(t):\n    t.check(False, 'on purpose')\n")
    done = subprocess.run([sys.executable, "-m", "harness.runner", inner], stdout=subprocess.PIPE, check=True,
                          cwd=os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
    output = done.stdout.decode()
    lines = [line for line in output.splitlines() if line.startswith("not ok")]
    t.equal(len(lines), 2, output)
    t.check("not done after 1 s" in output and "on purpose" in output, output)
    with open(t.path("pid"), encoding="ascii") as text:
        pid = int(text.read())
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    raise Failure("the process that the test left behind is still there")
