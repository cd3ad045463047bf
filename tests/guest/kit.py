# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the host's half of every guest test works with: the guest, the report, disks."""

import collections
import contextlib
import fcntl
import os
import re
import struct

from harness.context import Failure
from harness.pattern import pattern

CASES = {}
RESULT = re.compile(r"^(ok|not ok) \d+ - (.*)$", re.MULTILINE)
DISK_BYTES = 4 << 20
REMOTE = "kumo-remote"
TUNSETIFF = 0x400454ca
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x2, 0x1000, 0x4000


def case(function):
    CASES[function.__name__] = function
    return function


class Report:
    """Numbers the lines of TAP."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def line(self, good, text):
        self.count += 1
        self.failed += not good
        # The marks of TAP's directives must not come from a guest.
        print(f"{'ok' if good else 'not ok'} {self.count} - {text.replace('#', '')}", flush=True)
        return good

    def note(self, text):
        for line in text.splitlines():
            print("#   " + "".join(char if char.isprintable() else "?" for char in line), flush=True)


class Host:
    """What a case works with: the test's directory and clean-up (t), the report, the guest."""

    def __init__(self, context, report, elf):
        self.t = context
        self.report = report
        self.elf = elf

    def check(self, good, text):
        return self.report.line(bool(good), text)

    def start(self, test, *arguments, words=(), cpus=1, cpu_options="", max_cpus=None, memory_mib=64, memory_options="", talk=False,
              **options):
        """Starts kumo with the guest. With talk it waits for a byte before it begins."""
        max_cpus = max_cpus or cpus
        line = ["test=" + test, "word=a=b,c", f"memory_mib={memory_mib}", f"cpus={cpus}", f"max_cpus={max_cpus}", *words]
        if talk:
            line.append("wait=1")
        vm = self.t.kumo("--kernel", self.elf, "--cmdline", " ".join(line), "--cpus", f"boot={cpus},max={max_cpus}{cpu_options}",
                         "--memory", f"size={memory_mib}M{memory_options}", *arguments, serial="socket" if talk else "file", api=talk,
                         **options)
        if talk:
            vm.console.send("s")
        return vm

    def repeated(self, label, results):
        """Reports what a guest says again and again: one line for each thing that always held, and each failure with its place."""
        times = collections.Counter(what for word, what in results if word == "ok")
        for number, (word, what) in enumerate(results, 1):
            if word != "ok":
                self.report.line(False, f"{label}: {what} (line {number} of {len(results)}; {times[what]} times it held)")
        failed = {what for word, what in results if word != "ok"}
        for what, count in times.items():
            if what not in failed:
                self.report.line(True, f"{label}: {what} ({count} times)")

    def finish(self, vm, label, seconds=60):
        """Waits for the guest's end and reports its lines."""
        try:
            vm.wait_exit(0, seconds)
            end = ""
        except Failure as failure:
            end = str(failure)
        text = vm.text()
        results = RESULT.findall(text)
        for word, what in results:
            self.report.line(word == "ok", f"{label}: {what}")
        plan = re.search(r"^1\.\.(\d+)$", text, re.MULTILINE)
        complete = plan and int(plan[1]) == len(results) and not end
        self.check(complete, f"{label}: the guest comes to its end and kumo ends with it")
        if not complete or any(word != "ok" for word, _ in results):
            self.report.note(f"{end}\n{text}\n{vm.log()}")

    def run(self, label, test, *arguments, seconds=60, **options):
        self.finish(self.start(test, *arguments, **options), label, seconds)


def make_disk(path):
    with open(path, "wb") as file:
        file.write(pattern(1 << 20, 1))
        file.truncate(DISK_BYTES)


@contextlib.contextmanager
def open_tap(name, node="/dev/net/tun"):
    """Makes a tap interface, or opens the macvtap interface of that node. Yields the descriptor; a tap lives by it."""
    fd = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        yield fd
    finally:
        os.close(fd)


def snapshot_directory(h, name):
    path = h.t.path(name)
    os.mkdir(path)
    return path


def restore(h, directory, *arguments, resume="on", mode="copy", prefault="off"):
    """A new process with the VM of a snapshot; its serial port is the one that the first had."""
    options = f"source_url=file://{directory},resume={resume},memory_restore_mode={mode},prefault={prefault}"
    return h.t.kumo("--restore", options, *arguments, serial=None, console=None)


def thread_names(vm):
    names = []
    for task in os.listdir(f"/proc/{vm.process.pid}/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
            with open(f"/proc/{vm.process.pid}/task/{task}/comm", encoding="utf-8") as file:
                names.append(file.read().strip())
    return names
