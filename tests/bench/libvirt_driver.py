# SPDX-License-Identifier: LGPL-2.1-or-later
"""The libvirt driver beside libvirt's own for QEMU, in stock libvirtd with no other driver: stock virsh and python3-libvirt
on 1,000 definitions, and on small guests that run."""

import statistics
import subprocess
import time

import libvirt

from harness import tiny_guest
from harness.context import Context
from harness.virt import domain, kumo, libvirtd
from table import Table

DEFINITIONS = 1000
GUESTS = 10
MANY_GUESTS = 50
STARTS = 5
GOAL_LIST_MS = 1000
GOAL_DAEMON_MIB = 40
# Root runs QEMU here as is, as no confinement of kumo's is in the figures either but its own system call filter.
QEMU_CONF = 'user = "root"\ngroup = "root"\nsecurity_driver = "none"\nnamespaces = []\ncgroup_controllers = []\nstdio_handler = "file"\n'


class Driver:
    """One driver by its daemon and URI."""

    def __init__(self, context):
        self.t = context
        self.kernel = context.path(f"{self.machine}.elf")  # a file that a running domain uses changes its owner
        with open(self.kernel, "wb") as stream:
            stream.write(tiny_guest.image())
        self.pid = self.daemon()
        self.conn = libvirt.open(self.uri)
        context.cleanup(self.destroy_all)

    def destroy_all(self):
        """Guests outlive their daemon."""
        for found in self.conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            found.destroy()

    def virsh(self, *command):
        return self.t.run("virsh", "-q", "-c", self.uri, *command, timeout=120)

    def timed(self, *command):
        """Milliseconds that virsh takes, its own start and connection in it."""
        start = time.perf_counter()
        self.virsh(*command)
        return (time.perf_counter() - start) * 1000

    def median(self, *command, count=5):
        return statistics.median(self.timed(*command) for _ in range(count))

    def memory_mib(self):
        with open(f"/proc/{self.pid}/smaps_rollup", encoding="ascii") as stream:
            return next(int(line.split()[1]) for line in stream if line.startswith("Pss:")) / 1024

    def xml(self, number):
        devices = self.devices if number >= MANY_GUESTS else "<serial type='pty'/>"
        return domain(self.t, f"vm{number}", emulator=self.emulator(), path=self.kernel, devices=devices, memory=32,
                      extra=self.extra).replace("<type>", f"<type machine='{self.machine}'>")


class Kumo(Driver):
    name = "kumo"
    uri = "kumo:///system"
    machine = "kumo-1"
    extra = ""
    devices = ("<disk type='file'><driver name='qemu' type='raw'/><source file='/tmp/none.img'/><target dev='vda' bus='virtio'/></disk>"
               "<interface type='ethernet'><model type='virtio'/></interface><serial type='pty'/>")

    def daemon(self):
        return self.t.virtkumod().pid

    def emulator(self):
        return kumo()


class Qemu(Driver):
    name = "qemu q35"
    uri = "qemu:///system"
    machine = "q35"
    extra = ""
    devices = Kumo.devices

    def daemon(self):
        self.t.libvirt_directories()
        with open("/etc/libvirt/qemu.conf", "w", encoding="ascii") as stream:
            stream.write(QEMU_CONF)
        return libvirtd(self.t, only=("qemu",)).pid

    def emulator(self):
        return "/usr/bin/qemu-system-x86_64"


def part_libvirt(_):
    contenders = (Kumo, Qemu)
    table = Table(contenders)
    context = Context("bench/libvirt")
    try:
        drivers = [cls(context) for cls in contenders]

        def row(what, function, **options):
            table.row(what, [function(driver) for driver in drivers], **options)

        def define(driver):
            start = time.perf_counter()
            for number in range(DEFINITIONS):
                driver.conn.defineXML(driver.xml(number))
            return (time.perf_counter() - start) * 1000 / DEFINITIONS

        def undefine(driver):
            start = time.perf_counter()
            for found in driver.conn.listAllDomains():
                found.undefine()
            return (time.perf_counter() - start) * 1000 / DEFINITIONS

        def start(driver):
            """The domain runs when virsh comes back; its end is not measured."""
            times = []
            for _ in range(STARTS):
                times.append(driver.timed("start", "vm0"))
                driver.virsh("destroy", "vm0")
            return statistics.median(times)

        def many(driver, count):
            """Seconds to start so many guests, milliseconds of list and domstats, the daemon's memory, seconds to end them."""
            begin = time.perf_counter()
            for number in range(count):
                driver.conn.lookupByName(f"vm{number}").create()
            started = time.perf_counter() - begin
            figures = [driver.median("list"), driver.median("domstats", "--list-running"), driver.memory_mib()]
            begin = time.perf_counter()
            driver.destroy_all()
            return started, *figures, time.perf_counter() - begin

        row("defining one of 1,000, ms", define)
        row("virsh list --all, 1,000 domains, ms", lambda driver: driver.median("list", "--all"), goal=GOAL_LIST_MS)
        row("virsh domstats, 1,000 domains, ms", lambda driver: driver.median("domstats"), goal=GOAL_LIST_MS)
        row("daemon's PSS with 1,000 domains, MiB", Driver.memory_mib, goal=GOAL_DAEMON_MIB)
        row("virsh start until it runs, ms", start)
        lines = ("starting {} guests, s", "virsh list, {} guests run, ms", "virsh domstats, {} guests run, ms", "daemon's PSS then, MiB",
                 "destroying {} guests, s")
        for what, *values in zip(lines, *(many(driver, GUESTS) for driver in drivers)):
            table.row(what.format(GUESTS), values)
        # QEMU's firmware takes software KVM minutes of CPU time with so many.
        for what, value in zip(lines, many(drivers[0], MANY_GUESTS)):
            table.row(what.format(MANY_GUESTS), [value])
        row("undefining one of 1,000, ms", undefine)
    except subprocess.TimeoutExpired as error:
        table.missed.append(str(error))
    finally:
        context.close()
        context.remove()
    return table.missed


PARTS = {"libvirt": part_libvirt}
