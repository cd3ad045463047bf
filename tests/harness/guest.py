# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stock kernels and the images that go with them, and what the guests say (tests/lab/guest-init.sh)."""

import os
import re
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lab"))

import images  # noqa: E402  (the path to it is set above)

PROMPT = r"guest# "
READY = r"^guest: ready"

# The name of a kernel in tests: RELEASE-FORMAT.
KERNELS = ("bookworm-elf", "bookworm-bzimage", "trixie-elf", "trixie-bzimage")


def kernel(name):
    """The file of a kernel."""
    release, form = name.split("-")
    return images.kernel_path(release, {"elf": "vmlinux", "bzimage": "vmlinuz"}[form])


def release(name):
    """The release of a kernel, as uname -r prints it in the guest."""
    return images.read(images.kernel_path(name.split("-")[0], "release")).decode().strip()


def initramfs(name):
    """The initramfs that goes with a kernel."""
    return images.image(f"initramfs-{name.split('-')[0]}")


def bench_initramfs(name):
    """The same with fio, iperf3 and tests/bench/guest-bench.sh."""
    return images.image(f"initramfs-{name.split('-')[0]}-bench")


def root_disk(path):
    """A writable copy of the ext4 root."""
    return images.copy_image("root", path)


def programs_disk(path, *programs):
    """A disk with programs of the host and their libraries, which `tar xf /dev/vdX -C /` gives to a guest, the programs in /bin."""
    with tarfile.open(path, "w", dereference=True) as archive:
        for name in programs:
            archive.add(name, f"bin/{os.path.basename(name)}")
        for name in sorted({name for program in programs for name in images.libraries(program)}):
            archive.add(name)
    return path


def debian_disk(path):
    """A writable copy of the disk with a whole Debian 12, which boots from its EFI system partition."""
    return images.copy_image("debian", path)


def firmware():
    """EDK2's firmware for Cloud Hypervisor."""
    return os.path.join(images.CACHE, "firmware", "CLOUDHV.fd")


def command_line(*words, run=None, console="ttyS0"):
    """The kernel command line of a test guest; RUN lists commands for kumo.run=."""
    parts = [f"console={console}", "loglevel=1", "panic=-1", "mitigations=off", *words]
    if run:
        parts.append("kumo.run=" + ",".join(run))
    return " ".join(parts)


def lost_echoes(summary):
    """How many echoes ping missed by its summary. The last one may be on its way when ping is ended, so it does not count."""
    sent, received = (int(number) for number in re.search(r"(\d+) packets transmitted, (\d+) packets received", summary).groups())
    return max(0, sent - received - 1)


class Facts:
    """The facts in what a guest printed: facts["cpus"] is the first value, facts.all("disk") every one."""

    def __init__(self, text):
        self.lines = re.findall(r"^guest: (\S+) (.*?)\s*$", text, re.MULTILINE)

    def __getitem__(self, key):
        for name, value in self.lines:
            if name == key:
                return value
        raise KeyError(f"the guest told no '{key}'; it told {self.lines}")

    def all(self, key):
        return [value for name, value in self.lines if name == key]

    def runs(self):
        """The outcome of each kumo.run command: a dictionary of command to 'ok' or 'failed N'."""
        outcome = {}
        for value in self.all("run"):
            command, _, result = value.partition(" ")
            if not result.startswith("said "):
                outcome[command] = result
        return outcome
