# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock kernel moves from process to process."""

import json
import socket
import threading
import time

from harness import boot, guest, test

HOST, GUEST, PORT = "192.168.77.1", "192.168.77.2", 7001


def bridge(t):
    """A bridge with the host's address. Returns a function that puts all taps into it which kumo made."""
    t.network()
    for command in ("link add br0 type bridge", f"address add {HOST}/24 dev br0", "link set br0 up"):
        t.run("ip", *command.split())

    def plug():
        for link in json.loads(t.run("ip", "-json", "link", "show")):
            if link["ifname"].startswith("vmtap") and link.get("master") != "br0":
                t.run("ip", "link", "set", link["ifname"], "master", "br0", "up")
    return plug


def count_to_guest(t):
    """Sends a number every 50 ms to the first who connects; returns the list of what was sent."""
    listener = socket.create_server((HOST, PORT))
    t.cleanup(listener.close)
    sent = []

    def send():
        connection, _ = listener.accept()
        with connection:
            while len(sent) < 100000:
                connection.sendall(f"{len(sent)}\n".encode())
                sent.append(time.monotonic())
                time.sleep(0.05)

    threading.Thread(target=send, daemon=True).start()
    return sent


def move(t, vm, plug, url):
    destination = t.kumo(serial=None, console=None)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(destination.api("PUT", "vm.receive-migration", {"receiver_url": url}, 120)),
                              daemon=True)
    thread.start()
    # It answers with the VM; until then it tells that it waits.
    t.wait_for(lambda: "migration" in refusal(destination), "the destination to wait")
    vm.put("vm.send-migration", {"destination_url": url, "downtime_ms": 500})
    thread.join(120)
    t.equal(answers, [None], "answer of vm.receive-migration")
    plug()
    vm.wait_exit(0, 30)
    destination.use_port("serial", "pty")
    t.equal(destination.state(), "Running", "state")
    return destination


def refusal(vm):
    try:
        vm.info()
        return ""
    except Exception as error:  # pylint: disable=broad-except  (ApiError, by its text)
        return str(error)


@test(timeout=120)
def moves_to_and_fro(t):
    """A guest with an ext4 root that counts, keeps a file in memory and a TCP connection to the host goes from process to process, over
    UNIX and TCP."""
    plug = bridge(t)
    disk = guest.root_disk(t.path("root.ext4"))
    vm = boot(t, "trixie-elf", "--disk", f"path={disk}", "--net", "mac=52:54:00:ab:cd:01", cpus=2, memory="128M",
              words=("root=/dev/vda",), run=(f"ip:{GUEST}/24",), serial="pty")
    plug()
    vm.ready()
    sent = count_to_guest(t)
    vm.shell("mkdir -p /ram && mount -t tmpfs none /ram && dd if=/dev/urandom of=/ram/file bs=64k count=32 2>/dev/null && "
             "md5sum /ram/file >/ram/sum; (n=0; while true; do n=$((n + 1)); echo $n >>/ram/count; usleep 20000; done) & "
             f"nc {HOST} {PORT} </dev/null >/ram/stream & sleep 0.2")

    def look():
        """The guest's counter, its uptime, and the last number that came over TCP; its file is what it was."""
        words = vm.shell("md5sum -c /ram/sum >/dev/null && sync && dd if=/dev/hwrng of=/dev/null bs=64 count=1 2>/dev/null; "
                         "echo $? $(tail -n 1 /ram/count) $(cut -d . -f 1 /proc/uptime) $(tail -n 1 /ram/stream)").split()
        t.equal(words[0], "0", "file in memory, disk and random numbers")
        return [int(word) for word in words[1:]]

    for url in (f"unix:{t.path('move')}", "tcp:127.0.0.1:7100"):
        before = look()
        vm = move(t, vm, plug, url)
        reached = len(sent)
        after = t.wait_for(lambda: (now := look())[2] >= reached and now, f"{url}: what was sent over TCP since", 30, every=0.2)
        t.check(before[0] < after[0], f"{url}: the counter was {before[0]} and is {after[0]}")
        t.check(before[1] <= after[1] < before[1] + 120, f"{url}: uptime was {before[1]} and is {after[1]}")
    count, gaps, complaints = vm.shell("awk 'BEGIN { gaps = 0 } $1 != NR - 1 { gaps++ } END { print NR, gaps }' /ram/stream; "
                                       "dmesg | grep -ciE 'soft lockup|rcu.*stall|i/o error|hung' || true").split()
    t.check(int(count) > 20 and gaps == "0", f"of {count} numbers over TCP {gaps} are not in their place")
    t.equal(complaints, "0", "complaints of the kernel")
    vm.console.send("/init poweroff\n")
    vm.wait_exit(0, 30)
