# SPDX-License-Identifier: LGPL-2.1-or-later
"""Snapshots of a stock kernel."""

import os
import time

from harness import boot, cases, guest, test

GUEST = os.path.join(os.environ["KUMO_BUILD"], "tests/guest/guest.elf")
HUGE = "/sys/kernel/mm/hugepages/hugepages-2048kB"


@test(timeout=120)
def counter_goes_on_in_another_process(t):
    """A guest that counts, with an ext4 root and a process's memory of its own, goes on after a restore in a new process."""
    disk = guest.root_disk(t.path("root.ext4"))
    vm = boot(t, "trixie-elf", "--disk", f"path={disk}", cpus=2, words=("root=/dev/vda",), run=("facts", "rng"))
    vm.ready()
    checksum = vm.shell("dd if=/dev/urandom of=/pattern bs=64k count=32 2>/dev/null; md5sum /pattern").split()[0]
    vm.shell("n=0; while true; do n=$((n + 1)); echo $n > /tmp/next; mv /tmp/next /tmp/count; usleep 20000; done & sleep 0.5")
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


@test(timeout=90)
@cases(options=("hugepages=on,hugepage_size=2M", "hugepages=on,shared=on"))
def huge_pages_on_demand(t, options):
    """Huge pages come when they are touched; those of which the snapshot has nothing are not taken from the pool."""
    with open(f"{HUGE}/nr_hugepages", "w", encoding="ascii") as file:
        file.write("40")
    disk, directory, events = t.path("disk.raw"), t.path("snapshot"), t.path("events")
    os.mkdir(directory)
    with open(disk, "wb") as file:
        file.truncate(4 << 20)
    vm = t.kumo("--kernel", GUEST, "--cmdline", "test=snapshot cpus=1 max_cpus=1 memory_mib=64 wait=1 churn=500", "--memory",
                f"size=64M,{options}", "--disk", f"path={disk}", serial="pty")
    vm.console.send("s")
    vm.console.expect("^round 2$", 30)
    vm.put("vm.pause")
    vm.put("vm.snapshot", {"destination_url": f"file://{directory}"})
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
    vm = t.kumo("--event-monitor", f"path={events}", serial=None, console=None)
    vm.put("vm.restore", {"source_url": f"file://{directory}", "memory_restore_mode": "OnDemand", "resume": True})
    vm.use_port("serial", "pty")
    vm.console.expect("^round", 30)
    t.wait_for(lambda: "memory-restored" in open(events, encoding="utf-8").read(), "the last page to come", 20)
    with open(f"{HUGE}/free_hugepages", encoding="ascii") as file:
        free = int(file.read())
    t.check(free > 20, f"only {free} of 40 pages are free")
    vm.console.send("q")
    text = vm.console.expect(r"(?s).*^1\.\.\d+$", 30)[0]
    t.check("not ok" not in text, text)


@test(timeout=90)
@cases(options=("hugepages=on,hugepage_size=2M", "hugepages=on,shared=on"))
def huge_pages_follow(t, options):
    """With post-copy, memory of huge pages goes to a machine that has some, and from there to one that has none and back."""
    with open(f"{HUGE}/nr_hugepages", "w", encoding="ascii") as file:
        file.write("80")
    disk = t.path("disk.raw")
    with open(disk, "wb") as file:
        file.truncate(4 << 20)
    vm = t.kumo("--kernel", GUEST, "--cmdline", "test=snapshot cpus=1 max_cpus=1 memory_mib=64 wait=1 churn=500", "--memory",
                f"size=64M,{options}", "--disk", f"path={disk}", serial="pty")
    vm.console.send("s")
    vm.console.expect("^round 2$", 30)
    huge = vm.info()["config"]
    for number, config in enumerate((huge, {**huge, "memory": {"size": 64 << 20}}, huge)):
        events, url = t.path(f"events-{number}"), f"unix:{t.path('migration')}"
        there = t.kumo("--event-monitor", f"path={events}", serial=None, console=None)
        there.put("vm.receive-migration", {"receiver_url": url, "memory_mode": "Postcopy", "wait": False, "config": config})
        vm.put("vm.send-migration", {"destination_url": url, "memory_mode": "Postcopy"})
        vm.wait_exit(0, 30)
        t.wait_for(lambda path=events: "postcopy-migration-completed" in open(path, encoding="utf-8").read(), "the last page to come", 20)
        vm = there
        vm.use_port("serial", "pty")
        vm.console.expect("^round", 30)
    vm.console.send("q")
    text = vm.console.expect(r"(?s).*^1\.\.\d+$", 30)[0]
    t.check("not ok" not in text, text)
