# SPDX-License-Identifier: LGPL-2.1-or-later
"""Changes of devices in use, as a stock kernel sees them."""

from harness import boot, test

MAC = "52:54:00:ab:cd:01"


@test(timeout=60)
def link_goes_down_and_up(t):
    """The guest sees the link's state change at run time, and nothing passes while it is down."""
    tap = t.tap("tap0", "192.168.77.1/24")
    vm = boot(t, "bookworm-elf", "--net", f"tap={tap.name},mac={MAC},id=nic", run=("ip:192.168.77.2/24", "ping:192.168.77.1"))
    vm.ready()
    carrier = "/sys/class/net/eth0/carrier"
    vm.shell(f"[ $(cat {carrier}) = 1 ]")
    for _ in range(2):
        vm.put("vm.update-net", {"id": "nic", "link_up": False})
        vm.shell(f"until [ $(cat {carrier}) = 0 ]; do sleep 0.05; done")
        t.run("ping", "-c", "1", "-W", "1", "192.168.77.2", status=1)
        t.equal(vm.info()["config"]["net"][0]["link_up"], False, "link_up as vm.info tells it")
        vm.put("vm.update-net", {"id": "nic", "link_up": True})
        vm.shell(f"until [ $(cat {carrier}) = 1 ]; do sleep 0.05; done")
        vm.shell("ping -c 1 -W 10 192.168.77.1")
