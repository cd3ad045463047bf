# SPDX-License-Identifier: LGPL-2.1-or-later
"""Readers of serial port and console that stall, leave and come again, and a terminal that changes its size."""

import fcntl
import os
import pty
import re
import signal
import struct
import termios

from harness.console import Console
from kit import case

LINE, CONSOLE_LINES, SERIAL_LINES = 64, 16384, 1200  # as in test_flood.c
RING_BYTES = 65536  # what a reader who comes later finds: KUMO_CONSOLE_RING_BYTES


def flood(lines):
    return "".join(f"line {number:06d} ".ljust(LINE - 1, "x") + "\n" for number in range(lines))


def read_flood(h, reader, lines, label):
    """What a reader has of a flood that it did not read in time: its beginning, and its end; the middle is lost."""
    whole, start = flood(lines), len(reader.seen)
    reader.expect(f"^line {lines - 1:06d} x+\n", 60)
    came = reader.seen[start:]
    first = len(os.path.commonprefix([whole, came]))
    rest = came[first:]
    lost = len(whole) - len(came)
    h.check(whole.endswith(rest) and (len(rest) >= RING_BYTES - LINE or not lost), f"{label}: after a hole the last {len(rest)} bytes came whole")
    return lost


def dropped(vm, device):
    return vm.api("GET", "vm.counters")[device]["tx_dropped_bytes"]


@case
def console_stalled(h):
    vm = h.start("flood", talk=True, console="socket")
    port, serial = vm.port("console"), vm.console
    serial.expect("^ready\n", 30)
    serial.send("c")
    serial.expect("^flooded\n", 60)
    h.check(True, "nobody reads the console, and the guest goes on")
    lost = read_flood(h, port, CONSOLE_LINES, "console")
    h.check(dropped(vm, "__console") == lost > 0, f"the counters tell of {lost} lost bytes")
    serial.send("s")
    port.expect("^flooded\n", 120)
    h.check(True, "nobody reads the serial port, and the guest goes on")
    lost = read_flood(h, serial, SERIAL_LINES, "serial port")
    h.check(dropped(vm, "__serial") == lost, f"the counters tell of {lost} lost bytes")
    serial.send("h")
    port.expect("^hello\n", 30)
    h.check(True, "and both serve on")
    serial.send("q")
    vm.wait_exit(0, 30)


@case
def console_reconnect(h):
    vm = h.start("flood", talk=True, console="socket")
    serial = vm.console
    serial.expect("^ready\n", 30)
    # Nobody is there at all.
    serial.send("c")
    serial.expect("^flooded\n", 60)
    first = vm.port("console")
    first.expect(f"^line {CONSOLE_LINES - 1:06d} x+\n", 30)
    h.check(flood(CONSOLE_LINES).endswith(first.seen) and RING_BYTES - LINE <= len(first.seen) <= RING_BYTES + 8192,
            f"who comes later finds the last {len(first.seen)} bytes")
    second = Console.from_socket(vm.port_path("console"))
    h.t.cleanup(second.close)
    serial.send("h")
    second.expect("^hello\n", 30)
    h.check(first.ended(30), "a second client takes over, and the first one's connection ends")
    # The serial port's client leaves, and another comes.
    seen = serial.seen
    serial.reopen_socket(vm.port_path("serial"))
    serial.send("h")
    second.expect("^hello\n", 30)
    h.check(serial.seen == seen, "a new client of the serial port is heard by the guest")
    serial.send("c")
    serial.expect("^flooded\n", 60)
    h.check(True, "and hears it")
    for _ in range(50):
        serial.reopen_socket(vm.port_path("serial"))
    serial.send("h")
    second.expect("^hello\n", 60)
    h.check(True, "so is the last of fifty")
    serial.send("q")
    vm.wait_exit(0, 30)


def set_size(terminal, columns, rows):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def own_terminal():
    """In a new process: standard input becomes its controlling terminal."""
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@case
def console_double(h):
    """Serial port and virtio-console, by its default, share the terminal: both write, keys go to the serial port, once."""
    master, terminal = pty.openpty()
    set_size(terminal, 100, 30)
    before = termios.tcgetattr(terminal)
    h.t.cleanup(os.close, terminal)
    console = Console(master, h.t.path("terminal.log"))
    h.t.cleanup(console.close)
    vm = h.t.kumo("--kernel", h.elf, "--cmdline", "test=flood wait=1 memory_mib=64 cpus=1 max_cpus=1", "--cpus", "boot=1", "--memory", "size=64M",
                  serial="tty", console=None, stdin=terminal, stdout=terminal, preexec_fn=own_terminal)
    config = vm.info()["config"]
    h.check(config["serial"]["mode"] == config["console"]["mode"] == "Tty", "both are on the terminal")
    console.send("s")
    console.expect("^size 100 30\n", 30)
    console.expect("^ready\n", 30)
    h.check(True, "the guest knows the size of the terminal")
    for _ in range(20):
        console.send("h")
        console.expect("^hello\n", 30)
    h.check(len(re.findall("hello", console.seen)) == 20, "twenty keys came through the serial port, twenty answers through the console")
    console.send("c")
    console.expect("flooded\n", 60)
    h.check(True, "the serial port is heard after a flood from the console")
    console.send("q")
    vm.wait_exit(0, 30)
    h.check(re.search(r"^1\.\.\d+\n", console.drain(), re.MULTILINE), "the guest's last words are there")
    h.check(termios.tcgetattr(terminal) == before, "the terminal is as it was")


@case
def console_size(h):
    master, terminal = pty.openpty()
    h.t.cleanup(os.close, master)
    set_size(terminal, 100, 30)

    vm = h.start("flood", talk=True, console="tty", stdin=terminal, stdout=terminal, preexec_fn=own_terminal)
    os.close(terminal)
    vm.console.expect("^size 100 30\n", 30)
    vm.console.expect("^ready\n", 30)
    h.check(True, "the guest knows the size of the terminal")
    for columns, rows in ((132, 43), (80, 25)):
        # The kernel sends SIGWINCH to the terminal's foreground process.
        set_size(master, columns, rows)
        vm.console.send("w")
        vm.console.expect(f"^size {columns} {rows}\n", 30)
        h.check(True, f"and learns that it is {columns} by {rows} now")
    vm.console.send("h")
    console = Console(os.dup(master))
    h.t.cleanup(console.close)
    console.expect("hello", 30)
    h.check(True, "what it says is on the terminal")
    vm.process.send_signal(signal.SIGWINCH)
    h.check(vm.state() == "Running", "a signal without a change does no harm")
    vm.console.send("q")
    vm.wait_exit(0, 30)
