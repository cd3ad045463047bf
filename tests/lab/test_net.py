# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtio-net on a tap interface under a stock kernel."""

import hashlib
import random
import socket
import threading

from harness import boot, cases, test

MAC = "52:54:00:ab:cd:01"


@test(timeout=60)
@cases(kernel=("bookworm-elf", "trixie-elf"), cpus=(1, 2))
def pings_over_tap(t, kernel, cpus):
    """The guest reaches the host and the host reaches the guest."""
    tap = t.tap("tap0", "192.168.77.1/24")
    vm = boot(t, kernel, "--net", f"tap={tap.name},mac={MAC}", cpus=cpus,
              run=("facts", "ip:192.168.77.2/24", "ping:192.168.77.1"))
    facts = vm.ready()
    t.equal(facts.all("net"), [f"eth0 mac {MAC}"], "network interfaces")
    t.equal(facts.runs(), {"ip:192.168.77.2/24": "ok", "ping:192.168.77.1": "ok"}, "outcome of the commands")
    t.run("ping", "-c", "3", "-i", "0.2", "-W", "5", "192.168.77.2")
    t.check(tap.statistic("rx_packets") >= 6, "the host got less packets than were sent")


def serve(t, port, work):
    """Takes one connection on the tap's address and gives it to WORK; returns the list that its result will be in."""
    listener = socket.create_server(("192.168.77.1", port))
    t.cleanup(listener.close)
    results = []

    def take():
        connection, _ = listener.accept()
        with connection:
            results.append(work(connection))

    threading.Thread(target=take, daemon=True).start()
    return results


def receive_all(connection):
    data = bytearray()
    while part := connection.recv(65536):
        data += part
    return bytes(data)


@test(timeout=60)
def carries_bulk_data(t):
    """A stream of some MiB arrives unharmed in both directions."""
    t.tap("tap0", "192.168.77.1/24")
    data = random.Random(1).randbytes(3 << 20)
    serve(t, 7001, lambda connection: connection.sendall(data))
    received = serve(t, 7002, receive_all)
    vm = boot(t, "bookworm-elf", "--net", f"tap=tap0,mac={MAC}", run=("ip:192.168.77.2/24",))
    vm.ready()
    found = vm.shell("nc 192.168.77.1 7001 </dev/null >/tmp/data; md5sum </tmp/data").split()[0]
    t.equal(found, hashlib.md5(data).hexdigest(), "checksum in the guest")
    vm.shell("nc 192.168.77.1 7002 </tmp/data")
    t.wait_for(lambda: received, "the data to come back")
    t.check(received[0] == data, "the data that came back differ")
