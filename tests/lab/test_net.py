# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtio-net on a tap interface under a stock kernel."""

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


@test(timeout=60)
def carries_bulk_data(t):
    """A stream of some MiB arrives unharmed in both directions."""
    t.tap("tap0", "192.168.77.1/24")
    with open(t.path("data"), "wb") as stream:
        for number in range(4 << 10):
            stream.write(number.to_bytes(4, "little") * 256)
    expected = t.run("md5sum", t.path("data")).split()[0]
    t.start("busybox", "nc", "-l", "-s", "192.168.77.1", "-p", "7001", "-e", "cat", t.path("data"), name="server")
    t.start("sh", "-c", f"busybox nc -l -s 192.168.77.1 -p 7002 >{t.path('back')}", name="receiver")
    vm = boot(t, "bookworm-elf", "--net", f"tap=tap0,mac={MAC}", run=("ip:192.168.77.2/24",))
    vm.ready()
    found = vm.shell("nc 192.168.77.1 7001 </dev/null >/tmp/data; md5sum </tmp/data").split()[0]
    t.equal(found, expected, "checksum in the guest")
    vm.shell("nc 192.168.77.1 7002 </tmp/data")
    t.wait_for(lambda: t.run("md5sum", t.path("back")).split()[0] == expected, "the data to come back", every=0.2)
