# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of a stock kernel."""

import os
import time

from harness import boot, guest, test


@test(timeout=120)
def counter_goes_on_in_another_process(t):
    """A guest that counts, with an ext4 root and a process's memory of its own, goes on after a restore in a new process."""
    disk = guest.root_disk(t.path("root.ext4"))
    vm = boot(t, "trixie-elf", "--disk", f"path={disk}", cpus=2, words=("root=/dev/vda",), run=("facts", "rng"))
    vm.ready()
    checksum = vm.shell("dd if=/dev/urandom of=/pattern bs=64k count=32 2>/dev/null; md5sum /pattern").split()[0]
    vm.shell("n=0; while true; do n=$((n + 1)); echo $n > /tmp/count; usleep 20000; done & sleep 0.5")
    console, path = vm.console, vm.port_path("serial")
    for number in range(2):
        directory = t.path(f"snapshot-{number}")
        os.mkdir(directory)
        before = int(vm.shell("cat /tmp/count"))
        uptime = float(vm.shell("cat /proc/uptime").split()[0])
        vm.put("vm.pause")
        vm.put("vm.snapshot", {"destination_url": f"file://{directory}"})
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
        start = time.monotonic()
        mode = "ondemand" if number else "copy"
        restored = t.kumo("--restore", f"source_url=file://{directory},resume=on,memory_restore_mode={mode}", serial=None, console=None)
        t.equal(restored.state(), "Running", "state")
        print(f"# restored by {mode} in {time.monotonic() - start:.3f} s", flush=True)
        console.reopen_socket(path)
        restored.use_console(console)
        vm = restored
        after = int(vm.shell("sleep 0.5; cat /tmp/count"))
        t.check(before < after, f"the counter was {before} and is {after}")
        later = float(vm.shell("cat /proc/uptime").split()[0])
        t.check(uptime <= later < uptime + 60, f"uptime was {uptime} and is {later}")
        t.equal(vm.shell("md5sum /pattern").split()[0], checksum, "checksum of a file")
        vm.shell(f"echo {number} > /after-{number}; sync; dd if=/dev/hwrng of=/dev/null bs=64 count=1 2>/dev/null")
        t.equal(vm.shell("dmesg | grep -ciE 'soft lockup|rcu.*stall|i/o error|hung' || true").strip(), "0", "complaints of the kernel")
    vm.console.send("/init poweroff\n")
    vm.wait_exit(0, 30)
