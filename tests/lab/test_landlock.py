# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock kernel in a process that Landlock confines."""

import os

from harness import ApiError, boot, guest, test


@test(timeout=120)
def confined(t):
    """Root disk, NIC, hotplug of what is permitted and of what is not, a reboot of the guest."""
    tap = t.tap("tap0", "192.168.77.1/24")
    root, other = guest.root_disk(t.path("root.ext4")), t.path("other.raw")
    permitted = t.path("permitted")
    os.mkdir(permitted)
    for path in (other, f"{permitted}/disk.raw"):
        with open(path, "wb") as file:
            file.truncate(16 << 20)
    vm = boot(t, "trixie-elf", "--disk", f"path={root}", "--net", f"tap={tap.name}", "--landlock", "--landlock-rules",
              f"path={permitted},access=rw", words=("root=/dev/vda",), run=("facts", "ip:192.168.77.2/24", "ping:192.168.77.1", "boot-count"))
    facts = vm.ready()
    t.equal(facts.runs(), {"ip:192.168.77.2/24": "ok", "ping:192.168.77.1": "ok", "boot-count": "ok"}, "outcome of the commands")
    vm.put("vm.add-disk", {"path": f"{permitted}/disk.raw"})
    t.wait_for(lambda: "vdb" in vm.shell("ls /sys/block"), "the disk in the guest", 20)
    try:
        vm.put("vm.add-disk", {"path": other})
        t.check(False, "a disk that no rule covers is added")
    except ApiError as error:
        t.check(error.status == 500 and "Landlock is in force" in error.text, f"the disk is refused with {error.status}: {error.text}")
    vm.console.send("/init reboot\n")
    vm.ready(times=2)
    t.check("vdb" in vm.shell("ls /sys/block"), "the disk that was added is there after a reboot")
