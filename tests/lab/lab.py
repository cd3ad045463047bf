#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs a command in the lab machine: QEMU TCG with emulated AMD SVM, Debian's kernel and the host's files.

The machine sees the host's root directory read-only below a layer in memory, and the checkout and the cache writable at
their own paths. Output and exit status of the command come back as if it ran here; the kernel log goes to a file.
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time

import images

HERE = os.path.dirname(os.path.realpath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
BOOT_SECONDS = 120
BEAT_SECONDS = 1
EXIT_TIMEOUT = 124
EXIT_BROKEN = 125
PASSED_ON = ("PATH", "HOME", "LANG", "TERM", "COLUMNS", "LINES", "V", "KVMTOOL")
PASSED_ON_PREFIXES = ("KUMO_", "LC_", "LIBVIRT_", "VIRT", "ASAN_", "UBSAN_", "G_", "PYTHON", "QEMU_")


def environment_script(extra):
    """Shell lines that set the environment of the job."""
    chosen = {name: value for name, value in os.environ.items()
              if name.isidentifier() and (name in PASSED_ON or name.startswith(PASSED_ON_PREFIXES))}
    chosen.update(extra)
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(chosen.items()))


class Lab:
    """One boot of the lab machine for one command. Use as a context manager; leaving it ends QEMU."""

    def __init__(self, command, memory_mib=4096, cpus=1, timeout=600, log=None):
        self.command = command
        self.memory_mib = memory_mib
        self.cpus = cpus
        self.timeout = timeout
        self.kept_log = log
        self.job = tempfile.mkdtemp(prefix="kumo-lab-")
        self.qemu = None
        self.beat = None
        self.pumps = []
        self.terminal = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        if self.kept_log:
            with open(self.kept_log, "wb") as stream:
                for name in ("console.log", "qemu.log", "dmesg"):
                    stream.write(self.read(name).encode())
        shutil.rmtree(self.job, ignore_errors=True)

    def read(self, name):
        try:
            with open(os.path.join(self.job, name), encoding="utf-8", errors="replace") as stream:
                return stream.read()
        except FileNotFoundError:
            return ""

    def _write(self, name, text):
        with open(os.path.join(self.job, name), "w", encoding="utf-8") as stream:
            stream.write(text)

    def _shares(self):
        """Directories that the machine may write, outermost first; one inside another needs no share."""
        chosen = []
        for path in sorted({CHECKOUT, os.path.realpath(images.CACHE)}):
            if not any(path.startswith(above + "/") for above in chosen):
                chosen.append(path)
        return chosen

    def _prepare(self):
        interactive = not self.command
        extra = {
            "KUMO_IN_LAB": "1",
            "KUMO_LAB_DIRECTORY": os.getcwd(),
            "KUMO_LAB_MODULES": os.path.realpath(images.kernel_path("lab", "lib/modules")),
            "HOME": os.environ.get("HOME", "/root"),
        }
        if self.cpus > 1:
            extra["KUMO_LAB_CPUS"] = f"1-{self.cpus}"
        if interactive:
            size = shutil.get_terminal_size()
            extra.update(LINES=str(size.lines), COLUMNS=str(size.columns))
            self._write("interactive", "")
            self._write("command", "PS1='lab:\\w# ' exec /bin/bash --norc -i\n")
        else:
            self._write("command", f"exec {shlex.join(self.command)}\n")
        self._write("environment", environment_script(extra))
        for direction in ("in", "out"):
            os.mkfifo(f"{self.job}/beat.{direction}")
        # Open for reading too, so that it does not matter when QEMU comes and goes.
        self.beat = os.open(f"{self.job}/beat.in", os.O_RDWR | os.O_NONBLOCK)
        self._write("shares", "".join(f"share{i} {path}\n" for i, path in enumerate(self._shares())))
        shutil.copy(f"{HERE}/lab-job.sh", self.job)
        return interactive

    def _pump(self, target):
        """A pipe whose bytes go to the descriptor TARGET; returns its writing end."""
        reader, writer = os.pipe()

        def copy():
            while data := os.read(reader, 65536):
                view = memoryview(data)
                while view:
                    view = view[os.write(target, view):]
            os.close(reader)

        thread = threading.Thread(target=copy, daemon=True)
        thread.start()
        self.pumps.append(thread)
        return writer

    def _processors(self):
        """How many processors QEMU emulates. With more than one, TCG must not run guests on the first: any other one that
        loads FPU state rewrites a word of the first one's state (env->hflags2, in cpu_clear_ignne) from its own thread, and
        an update lost there leaves the global interrupt flag or nested paging wrong. So the first is set aside then."""
        return self.cpus if self.cpus == 1 else self.cpus + 1

    def start(self):
        interactive = self._prepare()
        command = [
            "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,+svm,+npt",
            "-smp", str(self._processors()), "-m", str(self.memory_mib), "-nodefaults", "-no-user-config", "-nographic", "-no-reboot",
            "-device", "intel-iommu,intremap=off",  # before what is behind it
            "-kernel", images.kernel_path("lab", "vmlinux"), "-initrd", images.image("lab"),
            "-append", "console=ttyS0 loglevel=5 panic=-1 mitigations=off cryptomgr.notests tsc=reliable no_timer_check intel_iommu=on",
            "-chardev", f"file,id=log,path={self.job}/console.log", "-serial", "chardev:log",
            "-device", "virtio-serial-pci", "-device", "virtio-rng-pci",
            "-device", "pcie-root-port,id=spare,chassis=1", "-device", "virtio-net-pci,bus=spare,mac=52:54:00:73:70:61",
            "-chardev", f"pipe,id=beat,path={self.job}/beat", "-device", "virtserialport,chardev=beat,name=kumo.beat",
        ]
        shares = [("root", "/", ",readonly=on"), ("job", self.job, "")]
        shares += [(f"share{i}", path, "") for i, path in enumerate(self._shares())]
        for tag, path, mode in shares:
            path = path.replace(",", ",,")
            command += ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap{mode}",
                        "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]
        passed = []
        if interactive:
            command += ["-chardev", "stdio,id=tty,signal=off", "-device", "virtconsole,chardev=tty"]
            if sys.stdin.isatty():
                self.terminal = termios.tcgetattr(0)
        else:
            for port, target in (("out", 1), ("err", 2)):
                writer = self._pump(target)
                passed.append(writer)
                command += ["-chardev", f"file,id={port},path=/proc/self/fd/{writer}",
                            "-device", f"virtserialport,chardev={port},name=kumo.{port}"]
        with open(f"{self.job}/qemu.log", "wb") as log:
            self.qemu = subprocess.Popen(command, stdin=None if interactive else subprocess.DEVNULL,
                                         stdout=None if interactive else log, stderr=log, pass_fds=passed,
                                         start_new_session=not interactive)
        for writer in passed:
            os.close(writer)

    def _heartbeat(self):
        """Causes an interrupt in the machine. TCG's VMRUN marks a virtual interrupt in a word that other threads mark real
        ones in, without a lock, so one may be lost: the timer's is not set again then, and the machine stands still. Any
        other interrupt lets it see the one that waits."""
        try:
            os.write(self.beat, b".")
        except BlockingIOError:
            pass  # nobody has read for 18 hours

    def wait(self):
        """Waits for power-off. Returns the job's exit status, or EXIT_TIMEOUT / EXIT_BROKEN after saying why."""
        began = time.monotonic()
        next_beat = 0.0
        while True:
            try:
                self.qemu.wait(timeout=0.1 if self.read("state") else 0.25)
                break
            except subprocess.TimeoutExpired:
                pass
            elapsed = time.monotonic() - began
            if elapsed >= next_beat:
                self._heartbeat()
                next_beat = elapsed + BEAT_SECONDS
            if elapsed > self.timeout:
                return self._give_up(f"the command did not end within {self.timeout} s", EXIT_TIMEOUT)
            if elapsed > BOOT_SECONDS and not self.read("state"):
                return self._give_up(f"the lab machine did not come up within {BOOT_SECONDS} s", EXIT_BROKEN)
        for thread in self.pumps:
            thread.join(timeout=5)
        status = self.read("status").strip()
        if not status:
            return self._give_up("the lab machine stopped before the command ended", EXIT_BROKEN)
        return int(status)

    def _give_up(self, reason, status):
        self.stop()
        print(f"lab: {reason}; the last lines of its kernel log and of QEMU:", file=sys.stderr)
        for name in ("console.log", "qemu.log"):
            for line in self.read(name).splitlines()[-15:]:
                print(f"lab: {line}", file=sys.stderr)
        return status

    def stop(self):
        """Ends QEMU, by its own process id only, and gives the terminal back as it was."""
        if self.qemu and self.qemu.poll() is None:
            self.qemu.terminate()
            try:
                self.qemu.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.qemu.kill()
                self.qemu.wait()
        if self.terminal:
            termios.tcsetattr(0, termios.TCSADRAIN, self.terminal)
            self.terminal = None
        if self.beat is not None:
            os.close(self.beat)
            self.beat = None


def main():
    parser = argparse.ArgumentParser(prog="./dev lab", description="Runs CMD (or a shell) in the lab machine.")
    parser.add_argument("--timeout", type=float, help="seconds until the command is given up (600; a shell has none)")
    parser.add_argument("--memory", type=int, default=4096, metavar="MIB")
    parser.add_argument("--cpus", type=int, default=1, help="processors that the command may use (1)")
    parser.add_argument("--log", help="keep the kernel log of the lab machine in this file")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD")
    options = parser.parse_args()
    if options.command[:1] == ["--"]:
        options.command = options.command[1:]
    timeout = options.timeout or (600 if options.command else float("inf"))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with Lab(options.command, options.memory, options.cpus, timeout, options.log) as lab:
            lab.start()
            return lab.wait()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
