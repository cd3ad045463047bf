# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock guest at work on its memory, its disk and a TCP connection to the host, that tells whether anything was lost."""

import json
import os
import socket
import threading
import time

from . import guest
from .vmm import boot

# How often a guest moves in a test of migration.
ROUNDS = int(os.environ.get("KUMO_MIGRATION_ROUNDS", "4"))

HOST, GUEST, PORT = "192.168.77.1", "192.168.77.2", 7001

# Memory is copied and compared again and again, a file on the disk is written, synced and compared, and who finds something else than
# there should be says so. The pauses leave time for all else where one emulated processor does everything.
LOAD = ("mkdir -p /ram && mount -t tmpfs none /ram && dd if=/dev/urandom of=/ram/file bs=64k count=8 2>/dev/null && md5sum /ram/file >/ram/sum",
        "(n=0; while true; do n=$((n + 1)); echo $n >>/ram/count; usleep 50000; done) & true",
        "(while true; do cp /ram/file /ram/copy; cmp -s /ram/file /ram/copy || echo memory >>/ram/bad; echo >>/ram/copies; usleep 300000; done) & true",
        "(while true; do dd if=/ram/file of=/written bs=64k conv=fsync 2>/dev/null; cmp -s /ram/file /written || echo disk >>/ram/bad; "
        "echo >>/ram/writes; usleep 500000; done) & true",
        f"(nc {HOST} {PORT} </dev/null >/ram/stream) & true",
        f"(n=0; while true; do echo $n; n=$((n + 1)); usleep 100000; done | nc {HOST} {PORT + 1} >/dev/null) & true",
        "sleep 2")


KERNEL, MEMORY_MIB, MAC = "trixie-elf", 128, "52:54:00:ab:cd:01"
WORDS, RUN = ("root=/dev/vda",), (f"ip:{GUEST}/24",)


def in_a_process(t, disk):
    """The guest in a VMM that nothing manages."""
    vm = boot(t, KERNEL, "--disk", f"path={disk}", "--net", f"mac={MAC}", cpus=1, memory=f"{MEMORY_MIB}M", words=WORDS, run=RUN, serial="pty")
    plug(t)
    vm.ready()
    return vm


def plug(t):
    """Puts the taps that kumo made into the bridge."""
    for link in json.loads(t.run("ip", "-json", "link", "show")):
        if link["ifname"].startswith("vmtap") and link.get("master") != "br0":
            t.run("ip", "link", "set", link["ifname"], "master", "br0", "up")


class Workload:
    """The guest and the host's half of its connections. vm is who has it at present: something with a shell in the guest. START
    makes the first of these of the test and the path of the guest's disk."""

    def __init__(self, t, start=in_a_process):
        self.t = t
        t.network()
        for command in ("link add br0 type bridge", f"address add {HOST}/24 dev br0", "link set br0 up"):
            t.run("ip", *command.split())
        self.sent = 0
        self.received = b""
        self._serve(PORT, self._send)
        self._serve(PORT + 1, self._receive)
        self.vm = start(t, guest.root_disk(t.path("root.ext4")))
        for command in LOAD:
            self.vm.shell(command, 60)
        self.before, self.looked = self.look(), time.time()

    def _serve(self, port, work):
        listener = socket.create_server((HOST, port))
        self.t.cleanup(listener.close)

        def run():
            connection, _ = listener.accept()
            with connection:
                work(connection)

        threading.Thread(target=run, daemon=True).start()

    def _send(self, connection):
        while self.sent < 100000:
            connection.sendall(f"{self.sent}\n".encode())
            self.sent += 1
            time.sleep(0.1)

    def _receive(self, connection):
        while data := connection.recv(65536):
            self.received += data

    def look(self):
        """What the guest tells: a dictionary of numbers that only grow."""
        words = self.vm.shell("md5sum -c /ram/sum >/dev/null && dd if=/dev/hwrng of=/dev/null bs=64 count=1 2>/dev/null; "
                              "echo $? $(tail -n 1 /ram/count) $(wc -l </ram/copies) $(wc -l </ram/writes) $(tail -n 1 /ram/stream) "
                              "$(cut -d . -f 1 /proc/uptime) $(date +%s)", 30).split()
        self.t.equal(words[0], "0", "the file in memory and random numbers")
        return dict(zip(("count", "copies", "writes", "stream", "uptime", "clock"), map(int, words[1:])))

    def went_on(self, label):
        """Checks, after the guest has come to another process, that all goes on."""
        plug(self.t)
        sent, received = self.sent, len(self.received)

        def moved():
            now = self.look()
            grown = all(now[key] > self.before[key] for key in ("count", "copies", "writes"))
            return now if grown and now["stream"] >= sent and len(self.received) > received else None

        after = self.t.wait_for(moved, f"{label}: memory, disk and both directions of TCP to go on", 40, every=0.2)
        self.t.check(self.before["uptime"] <= after["uptime"] < self.before["uptime"] + 120,
                     f"{label}: uptime was {self.before['uptime']} and is {after['uptime']}")
        # Its clock stands still while nobody runs it.
        passed, now = after["clock"] - self.before["clock"], time.time()
        self.t.check(0 <= passed <= now - self.looked + 3, f"{label}: the guest's clock went on by {passed} s in {now - self.looked:.0f} s")
        self.before, self.looked = after, now

    def end(self):
        """Checks what was said in all that time, and lets the guest power off."""
        said = self.vm.shell("echo 3 >/proc/sys/vm/drop_caches; cat /ram/bad 2>/dev/null; awk '$1 != NR - 1 { print \"stream\" }' /ram/stream; "
                             "dmesg | grep -iE 'soft lockup|rcu.*stall|i/o error|hung|segfault' || true", 30).strip()
        self.t.equal(said, "", "what was found wrong")
        lines = self.received.split(b"\n")[:-1]
        self.t.check(lines == [str(number).encode() for number in range(len(lines))] and len(lines) > 20,
                     f"{len(lines)} numbers came from the guest in their order")
        self.vm.console.send("/init poweroff\n")
