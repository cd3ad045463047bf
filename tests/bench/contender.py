# SPDX-License-Identifier: LGPL-2.1-or-later
"""kumo and Debian's QEMU machines as processes that are started and measured in the same way."""

import dataclasses
import json
import os
import select
import shutil
import socket
import subprocess
import time

MEMORY_MIB = 128


@dataclasses.dataclass
class Machine:
    """A guest and its devices."""

    kernel: str
    cmdline: str
    initramfs: str | None = None
    cpus: int = 2
    memory_mib: int = MEMORY_MIB
    disks: tuple = ()  # files or block devices
    direct: bool = False  # past the host's page cache
    queues: int = 1  # of each disk
    taps: tuple = ()  # names of interfaces


class Stuck(Exception):
    """What was waited for did not happen in time."""


def cpu_seconds(pid):
    """CPU time of a process since it was made, with all its threads, by its own CPU clock."""
    return time.clock_gettime((~pid << 3) | 2)


def memory_beyond_guest(pid):
    """(RSS, PSS, private dirty) in KiB of all mappings that are not the guest's memory, which are those of its size or more."""
    found = {"Rss": 0, "Pss": 0, "Private_Dirty": 0}
    size = 0
    with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            key, _, rest = line.partition(":")
            if key == "Size":
                size = int(rest.split()[0])
            elif key in found and size < MEMORY_MIB << 10:
                found[key] += int(rest.split()[0])
    return tuple(found.values())


class Contender:
    """One VMM: subclasses give its command line and say how to ask whether its API answers."""

    name = ""
    serial_is_output = False  # of the process: it can write to no file of our choice

    def __init__(self, directory):
        self.directory = directory
        self.socket = os.path.join(directory, "api")
        self.fifo = os.path.join(directory, "serial")
        self.process = None
        self.serial = -1
        self.began = 0.0

    def idle_command(self):
        """Started, the API answers, nothing runs."""
        raise NotImplementedError

    def guest_command(self, kernel, initramfs=None, cmdline=None):
        """A guest with 1 vCPU and MEMORY_MIB, its serial port in the FIFO."""
        raise NotImplementedError

    def device_command(self, machine):
        """For a guest by the PVH ABI with all that MACHINE names, a Machine, and a random number generator, all over PCI."""
        raise NotImplementedError

    def ask(self, connection):
        """One request over the connected API socket, and its answer."""
        raise NotImplementedError

    def start(self, command):
        for path in (self.socket, f"{self.socket}.lock", self.fifo):
            if os.path.lexists(path):
                os.unlink(path)
        os.mkfifo(self.fifo)
        self.serial = os.open(self.fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.began = time.monotonic()
        with open(os.path.join(self.directory, f"{self.name}.log"), "wb") as log:
            try:
                self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._output(log), stderr=log)
            except FileNotFoundError as error:
                raise Stuck(f"{command[0]} is not there") from error

    def _output(self, log):
        # For reading, too: then it opens without waiting, and both ends live as long as the process.
        return os.open(self.fifo, os.O_RDWR | os.O_CLOEXEC) if self.serial_is_output else log

    def _alive(self, seconds):
        if self.process.poll() is not None:
            raise Stuck(f"{self.name} ended with status {self.process.returncode}")
        if time.monotonic() - self.began > seconds:
            raise Stuck(f"{self.name}: nothing within {seconds} s")

    def wait_api(self, seconds=30):
        """Waits for the first answer. Returns (CPU seconds, wall seconds) since the start."""
        while True:
            self._alive(seconds)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.settimeout(5)
                try:
                    connection.connect(self.socket)
                    self.ask(connection)
                except (FileNotFoundError, ConnectionRefusedError):
                    time.sleep(0.0005)
                    continue
            return cpu_seconds(self.process.pid), time.monotonic() - self.began

    def wait_serial(self, text, seconds):
        """Waits until the guest has written TEXT. Returns (CPU seconds, wall seconds) since the start."""
        seen = b""
        while text not in seen:
            self._alive(seconds)
            if select.select([self.serial], [], [], 0.5)[0]:
                data = os.read(self.serial, 65536)
                if not data:
                    time.sleep(0.0002)
                seen += data
        return cpu_seconds(self.process.pid), time.monotonic() - self.began

    def read_serial(self, end, seconds):
        """All that the guest writes until the regular expression END matches."""
        seen = b""
        while not end.search(seen.decode(errors="replace")):
            self._alive(seconds)
            if select.select([self.serial], [], [], 0.5)[0]:
                data = os.read(self.serial, 65536)
                if not data:
                    time.sleep(0.01)
                seen += data
        return seen.decode(errors="replace")

    def stop_process(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self):
        self.stop_process()
        if self.serial >= 0:
            os.close(self.serial)
            self.serial = -1


class Kumo(Contender):
    name = "kumo"

    def idle_command(self):
        return ["kumo", "--api-socket", self.socket]

    def guest_command(self, kernel, initramfs=None, cmdline=None):
        command = [*self.idle_command(), "--kernel", kernel, "--cpus", "boot=1", "--memory", f"size={MEMORY_MIB}M",
                   "--serial", f"file={self.fifo}", "--console", "off"]
        if initramfs:
            command += ["--initramfs", initramfs, "--cmdline", cmdline]
        return command

    def device_command(self, machine):
        command = [*self.idle_command(), "--kernel", machine.kernel, "--cmdline", machine.cmdline, "--cpus", f"boot={machine.cpus}",
                   "--memory", f"size={machine.memory_mib}M", "--serial", f"file={self.fifo}", "--console", "off"]
        if machine.initramfs:
            command += ["--initramfs", machine.initramfs]
        if machine.disks:
            direct = "on" if machine.direct else "off"
            command += ["--disk", *(f"path={disk},num_queues={machine.queues},direct={direct}" for disk in machine.disks)]
        if machine.taps:
            command += ["--net", *(f"tap={tap}" for tap in machine.taps)]
        return command

    def ask(self, connection):
        connection.sendall(b"GET /api/v1/vmm.ping HTTP/1.1\r\nHost: localhost\r\n\r\n")
        if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
            raise Stuck("kumo refuses vmm.ping")


class Qemu(Contender):
    machine = ""
    disk_options = ""

    def _command(self, cpus=1, memory_mib=MEMORY_MIB):
        return ["qemu-system-x86_64", "-M", self.machine, "-accel", "kvm", "-cpu", "host", "-smp", str(cpus), "-m", str(memory_mib),
                "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
                "-qmp", f"unix:{self.socket},server=on,wait=off"]

    def idle_command(self):
        return [*self._command(), "-S"]

    def guest_command(self, kernel, initramfs=None, cmdline=None):
        command = [*self._command(), "-kernel", kernel, "-serial", f"file:{self.fifo}"]
        if initramfs:
            command += ["-initrd", initramfs, "-append", cmdline]
        return command

    def device_command(self, machine):
        # qboot places no BARs, but comes through software KVM in a second where SeaBIOS takes half a minute.
        command = [*self._command(machine.cpus, machine.memory_mib), "-bios", "qboot.rom", "-kernel", machine.kernel,
                   "-append", machine.cmdline, "-serial", f"file:{self.fifo}", "-object", "iothread,id=thread",
                   "-device", "virtio-rng-pci,disable-legacy=on"]
        if machine.initramfs:
            command += ["-initrd", machine.initramfs]
        for i, disk in enumerate(machine.disks):
            driver = "host_device" if disk.startswith("/dev/") else "file"
            direct = "on" if machine.direct else "off"
            command += ["-blockdev", f"driver={driver},filename={disk},node-name=disk{i},aio=io_uring,cache.direct={direct}",
                        "-device", f"virtio-blk-pci,drive=disk{i},disable-legacy=on,num-queues={machine.queues}{self.disk_options}"]
        for i, tap in enumerate(machine.taps):
            command += ["-netdev", f"tap,id=net{i},ifname={tap},script=no,downscript=no,vhost=off",
                        "-device", f"virtio-net-pci,netdev=net{i},disable-legacy=on,romfile="]
        return command

    def ask(self, connection):
        stream = connection.makefile("rw", encoding="utf-8")
        json.loads(stream.readline())
        stream.write('{"execute": "qmp_capabilities"}\n')
        stream.flush()
        if "return" not in json.loads(stream.readline()):
            raise Stuck("QEMU refuses qmp_capabilities")


class QemuMicrovm(Qemu):
    name = "qemu microvm"
    machine = "microvm,acpi=on"


class QemuQ35(Qemu):
    name = "qemu q35"
    machine = "q35"


class QemuIothread(QemuQ35):
    """Its disks have a thread of their own, which they share."""

    name = "qemu iothread"
    disk_options = ",iothread=thread"


class Kvmtool(Contender):
    """The program that the environment's KVMTOOL names, or lkvm. It boots bzImages only, and has no API."""

    name = "kvmtool"
    serial_is_output = True

    @staticmethod
    def program():
        return os.environ.get("KVMTOOL") or shutil.which("lkvm")

    def guest_command(self, kernel, initramfs=None, cmdline=None):
        return [self.program(), "run", "--name", f"bench-{os.getpid()}", "-k", kernel, "-i", initramfs, "-p", cmdline, "-c", "1",
                "-m", str(MEMORY_MIB), "--console", "serial", "--network", "mode=none"]


ALL = (Kumo, QemuMicrovm, QemuQ35)
