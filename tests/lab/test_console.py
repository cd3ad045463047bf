# SPDX-License-Identifier: LGPL-2.1-or-later
"""Serial port and virtio-console in every mode, under a stock kernel."""

import os
import pty
import termios

from harness import Console, boot, cases, test


def talks(t, vm, port):
    """A shell on the console answers, long lines included."""
    console = vm.port(port)
    console.expect("guest# ", 60)
    console.send("echo $((40 + 2)) is the answer\n")
    console.expect("^42 is the answer$", 20)
    console.send("seq -s, 400 | md5sum\n")
    console.expect("^[0-9a-f]{32}  -$", 20)


@test(timeout=60)
@cases(mode=("pty", "socket"))
def serial_talks(t, mode):
    vm = boot(t, "bookworm-elf", serial=mode)
    talks(t, vm, "serial")


@test(timeout=60)
@cases(kernel=("bookworm-elf", "trixie-elf"))
def virtio_console_talks(t, kernel):
    vm = boot(t, kernel, serial="null", console="pty", tty="hvc0")
    talks(t, vm, "console")
    vm.ready(port="console")
    t.check("hvc0" in vm.facts("console")["consoles"], "no hvc0 in the guest")


@test(timeout=60)
def both_at_once(t):
    """Serial port and virtio-console go to two places and do not mix."""
    vm = boot(t, "bookworm-elf", serial="file", console="file", tty="hvc0", run=("facts", "poweroff"), api=False)
    vm.wait_exit(0, 50)
    for port in ("serial", "console"):
        t.equal(vm.facts(port)["consoles"], "hvc0 ttyS0", f"consoles told on {port}")
        t.equal(len(vm.facts(port).all("cpus")), 1, f"times that the facts stand on {port}")


@test(timeout=60)
def off_and_null(t):
    """With the serial port off there is none; null takes what the guest says."""
    vm = boot(t, "bookworm-elf", serial="off", console="file", tty="hvc0", run=("facts", "poweroff"), api=False)
    vm.wait_exit(0, 50)
    t.equal(vm.facts("console")["consoles"], "hvc0", "consoles with the serial port off")
    vm = boot(t, "bookworm-elf", serial="null", console="null", run=("facts", "poweroff"), api=False)
    vm.wait_exit(0, 50)


@test(timeout=60)
@cases(port=("serial", "console"))
def tty(t, port):
    """The process's own terminal is the console, and has its settings back afterwards."""
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    options = {"serial": "off", "console": "off", port: "tty"}
    vm = boot(t, "bookworm-elf", tty={"serial": "ttyS0", "console": "hvc0"}[port], stdin=slave, stdout=slave, **options)
    terminal = Console(master, t.path("terminal.log"))
    terminal.expect("guest# ", 50)
    t.check(termios.tcgetattr(slave) != before, "the terminal is not raw while the guest has it")
    terminal.send("echo $((40 + 2)) is the answer\n")
    terminal.expect("^42 is the answer$", 20)
    terminal.send("/init poweroff\n")
    t.wait_for(lambda: (terminal.drain(), vm.process.poll() is not None)[1], "kumo to end", 20)
    t.equal(vm.process.returncode, 0, "exit status")
    t.equal(termios.tcgetattr(slave), before, "settings of the terminal")
    os.close(slave)
