#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Builds the initramfs of the lab machine, and initramfs and disks of the guests, into the cache.

Each image is named by a hash of everything that went into it, so that clones of different versions share one cache.
`images.py` builds what is missing and prints NAME=PATH lines; `image(name)` gives one path.
"""

import fcntl
import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.realpath(__file__))
CACHE = os.environ.get("KUMO_CACHE", "/var/cache/kumo")
BUSYBOX = "/bin/busybox"
GUEST_KERNELS = ("bookworm", "trixie")

LAB_MODULES = "virtio_pci 9p 9pnet_virtio overlay".split()
LAB_LATER_MODULES = """virtio_console kvm-amd tun vhost_net vhost_vsock virtio_blk virtio_rng virtio_net vfio-pci
    vfio_iommu_type1 loop""".split()
GUEST_MODULES = """virtio_pci virtio_blk virtio_net virtio_console virtio_rng virtio_mem virtio_balloon ext4
    button evdev""".split()

# What the benchmark's image holds besides, each with the libraries that it needs.
BENCH_SCRIPT = os.path.join(os.path.dirname(HERE), "bench", "guest-bench.sh")
BENCH_PROGRAMS = ("/usr/bin/fio", "/usr/bin/iperf3")

GUEST_FILES = {
    "etc/passwd": (0o644, b"root::0:0:root:/root:/bin/sh\n"),
    "etc/group": (0o644, b"root:x:0:\n"),
    "etc/hosts": (0o644, b"127.0.0.1 localhost\n"),
    # What busybox acpid runs for the ACPI power button.
    "etc/acpi/PWRF/00000080": (0o755, b"#!/bin/sh\nexec /init poweroff\n"),
}
GUEST_DIRECTORIES = "proc sys dev run tmp root mnt new etc/acpi/PWRF".split()


def kernel_path(name, file=""):
    """A file of kernel NAME (lab, bookworm, trixie) in the cache."""
    return os.path.join(CACHE, "kernels", name, file)


def read(path):
    with open(path, "rb") as stream:
        return stream.read()


class Cpio:
    """An archive in the kernel's newc format; same entries, same bytes."""

    def __init__(self):
        self.parts = []
        self.inode = 0
        self.made = set()

    def _entry(self, name, mode, data=b"", links=1):
        self.inode += 1
        encoded = name.encode() + b"\0"
        fields = (self.inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        for blob in (header + encoded, data):
            self.parts.append(blob + b"\0" * (-len(blob) % 4))

    def directory(self, name):
        if not name or name in self.made:
            return
        self.directory(os.path.dirname(name))
        self.made.add(name)
        self._entry(name, 0o040755, links=2)

    def file(self, name, data, mode=0o644):
        self.directory(os.path.dirname(name))
        self._entry(name, 0o100000 | mode, data)

    def link(self, name, target):
        self.directory(os.path.dirname(name))
        self._entry(name, 0o120777, target.encode())

    def finish(self):
        self._entry("TRAILER!!!", 0)
        return b"".join(self.parts)


def module_key(path):
    return os.path.basename(path).split(".ko")[0].replace("-", "_")


def modules(kernel, names, loaded=()):
    """Yields (file name, bytes) of the modules NAMES and what they need, in loading order.

    Modules that are built in, or in LOADED (file names), are left out.
    """
    release = read(kernel_path(kernel, "release")).decode().strip()
    tree = kernel_path(kernel, f"lib/modules/{release}")
    with open(f"{tree}/modules.builtin", encoding="ascii") as stream:
        builtin = {module_key(line.strip()) for line in stream}
    builtin.update(module_key(name) for name in loaded)
    dependencies = {}
    with open(f"{tree}/modules.dep", encoding="ascii") as stream:
        for line in stream:
            path, needs = line.split(":")
            dependencies[module_key(path)] = (path, needs.split())
    done = {}
    soft = {"ext4": ["crc32c_generic"]}

    def add(key):
        if key in done or key in builtin:
            return
        path, needs = dependencies[key]
        for need in reversed(needs):
            add(module_key(need))
        done[key] = path

    for name in names:
        for extra in soft.get(name, []) + [name]:
            add(extra.replace("-", "_"))
    for path in done.values():
        data = read(f"{tree}/{path}")
        name = os.path.basename(path)
        if name.endswith(".xz"):
            data, name = lzma.decompress(data), name[:-3]
        yield name, data


def add_modules(cpio, kernel, names, directory="modules", loaded=()):
    order = []
    for name, data in modules(kernel, names, loaded):
        cpio.file(f"{directory}/{name}", data)
        order.append(name)
    cpio.file(f"{directory}/order", "".join(f"{name}\n" for name in order).encode())
    return order


def applets():
    listed = subprocess.run([BUSYBOX, "--list"], stdout=subprocess.PIPE, check=True).stdout.decode().split()
    return sorted(set(listed) - {"busybox"})


def guest_files():
    files = dict(GUEST_FILES)
    files["init"] = (0o755, read(f"{HERE}/guest-init.sh"))
    files["etc/udhcpc.sh"] = (0o755, read(f"{HERE}/guest-dhcp.sh"))
    files["bin/busybox"] = (0o755, read(BUSYBOX))
    return files


def build_lab(target):
    cpio = Cpio()
    cpio.directory("dev")
    cpio.file("init", read(f"{HERE}/lab-init.sh"), 0o755)
    cpio.file("bin/busybox", read(BUSYBOX), 0o755)
    first = add_modules(cpio, "lab", LAB_MODULES)
    add_modules(cpio, "lab", LAB_LATER_MODULES, "modules-later", first)
    with open(target, "wb") as stream:
        stream.write(cpio.finish())


def libraries(program):
    """Paths of the shared libraries that PROGRAM loads, as it names them."""
    listed = subprocess.run(["ldd", program], stdout=subprocess.PIPE, check=True).stdout.decode()
    return [word for line in listed.splitlines() for word in line.split() if word.startswith("/")]


def build_guest(kernel, target, programs=(), script=None):
    cpio = Cpio()
    for name in GUEST_DIRECTORIES:
        cpio.directory(name)
    for name, (mode, data) in guest_files().items():
        cpio.file(name, data, mode)
    for applet in applets():
        cpio.link(f"bin/{applet}", "busybox")
    for path in sorted({path for program in programs for path in (program, *libraries(program))}):
        cpio.file(path.lstrip("/"), read(path), 0o755)
    if script:
        cpio.file("bench", read(script))
    add_modules(cpio, kernel, GUEST_MODULES)
    with open(target, "wb") as stream:
        stream.write(cpio.finish())


def build_root(target):
    """A 64 MiB ext4 file system with the same programs as the initramfs."""
    with tempfile.TemporaryDirectory() as tree:
        for name in GUEST_DIRECTORIES:
            os.makedirs(f"{tree}/{name}", exist_ok=True)
        for name, (mode, data) in guest_files().items():
            os.makedirs(os.path.dirname(f"{tree}/{name}"), exist_ok=True)
            with open(f"{tree}/{name}", "wb") as stream:
                stream.write(data)
            os.chmod(f"{tree}/{name}", mode)
        for applet in applets():
            os.symlink("busybox", f"{tree}/bin/{applet}")
        with open(target, "wb") as stream:
            stream.truncate(64 << 20)
        environment = dict(os.environ, PATH="/usr/sbin:/sbin:/usr/bin:/bin", E2FSPROGS_FAKE_TIME="1")
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "kumo-root", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=0",
                        "-U", "6b756d6f-0000-4000-8000-000000000001", "-d", tree, target], env=environment, check=True)


def build_debian(target):
    subprocess.run([f"{HERE}/debian-disk.sh", target], env=dict(os.environ, KUMO_CACHE=CACHE), check=True)


def key(name):
    """Hash of what image NAME is made from."""
    digest = hashlib.sha256()
    inputs = [f"{HERE}/images.py", BUSYBOX]
    if name == "lab":
        inputs += [f"{HERE}/lab-init.sh", kernel_path("lab", "release")]
    elif name == "debian":
        inputs = [f"{HERE}/debian-disk.sh"]
    else:
        inputs += [f"{HERE}/guest-init.sh", f"{HERE}/guest-dhcp.sh"]
    if name.startswith("initramfs-"):
        inputs += [kernel_path(name.split("-")[1], "release")]
    if name.endswith("-bench"):
        inputs += [BENCH_SCRIPT, *BENCH_PROGRAMS]
    for path in inputs:
        digest.update(read(path))
    return digest.hexdigest()[:12]


IMAGES = {"lab": (".img", build_lab), "root": (".ext4", build_root), "debian": (".raw", build_debian)}
for guest_kernel in GUEST_KERNELS:
    IMAGES[f"initramfs-{guest_kernel}"] = (".img", lambda target, kernel=guest_kernel: build_guest(kernel, target))
# The lab's own kernel as a guest: it has more drivers, and code for older machines, than the cloud kernels.
IMAGES["initramfs-lab"] = (".img", lambda target: build_guest("lab", target))
IMAGES["initramfs-bookworm-bench"] = (".img", lambda target: build_guest("bookworm", target, BENCH_PROGRAMS, BENCH_SCRIPT))


def image(name):
    """The path of image NAME (lab, root, debian, initramfs-KERNEL, initramfs-KERNEL-bench), built when it is missing."""
    suffix, build = IMAGES[name]
    directory = os.path.join(CACHE, "images")
    target = os.path.join(directory, f"{name}-{key(name)}{suffix}")
    if os.path.exists(target):
        return target
    os.makedirs(directory, exist_ok=True)
    with open(os.path.join(directory, "lock"), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not os.path.exists(target):
            work = f"{target}.new"
            build(work)
            os.rename(work, target)
            stable = os.path.join(directory, f"{name}{suffix}")
            if os.path.lexists(stable):
                os.unlink(stable)
            os.symlink(os.path.basename(target), stable)
    return target


def copy_image(name, target):
    """Makes a writable sparse copy of image NAME."""
    subprocess.run(["cp", "--sparse=always", image(name), target], check=True)
    os.chmod(target, 0o644)
    return target


def main():
    if not shutil.which(BUSYBOX):
        sys.exit("busybox-static is missing: run ./dev setup")
    for name in sys.argv[1:] or IMAGES:
        print(f"{name}={image(name)}")


if __name__ == "__main__":
    main()
