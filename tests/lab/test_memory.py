# SPDX-License-Identifier: LGPL-2.1-or-later
"""What guest memory is made of on the host, with the test guest in it."""

import os
import re

from harness import cases, test

HUGE = "/sys/kernel/mm/hugepages/hugepages-2048kB"
GUEST = os.path.join(os.environ["KUMO_BUILD"], "tests/guest/guest.elf")


def start(t, *options):
    """The test guest, ticking."""
    vm = t.kumo("--kernel", GUEST, "--cmdline", "test=ticks wait=1", *options)
    vm.console.send("s")
    vm.console.expect("^tick 1$", 30)
    return vm


def end(vm):
    vm.console.send("q")
    vm.wait_exit(0, 20)


def mapping(vm, size):
    """What smaps says of the first mapping of SIZE bytes."""
    with open(f"/proc/{vm.process.pid}/smaps", encoding="ascii", errors="replace") as file:
        parts = re.split(r"^([0-9a-f]+)-([0-9a-f]+) ", file.read(), flags=re.MULTILINE)
    for first, last, text in zip(parts[1::3], parts[2::3], parts[3::3]):
        if int(last, 16) - int(first, 16) == size:
            return text
    raise AssertionError(f"no mapping of {size} bytes")


@test(timeout=60)
@cases(options=("hugepages=on,hugepage_size=2M", "hugepages=on,shared=on", "hugepages=on,prefault=on"))
def huge_pages(t, options):
    """Huge pages back the guest, are taken from the pool and go back to it."""
    with open(f"{HUGE}/nr_hugepages", "w", encoding="ascii") as file:
        file.write("48")

    def free():
        with open(f"{HUGE}/free_hugepages", encoding="ascii") as file:
            return int(file.read())

    before = free()
    t.check(before >= 32, f"only {before} huge pages")
    vm = start(t, "--memory", f"size=64M,{options}")
    t.check("KernelPageSize:     2048 kB" in mapping(vm, 64 << 20), "guest memory is not in huge pages")
    used = before - free()
    t.check(used == 32 if "prefault" in options else 0 < used <= 32, f"{used} huge pages are used")
    end(vm)
    t.equal(free(), before, "free huge pages at the end")


@test(timeout=60)
def too_few_huge_pages(t):
    """What the pool does not hold is an error at boot, not a signal later."""
    with open(f"{HUGE}/nr_hugepages", "w", encoding="ascii") as file:
        file.write("8")
    vm = t.kumo("--kernel", GUEST, "--memory", "size=64M,hugepages=on", api=False)
    vm.wait_exit(1, 20)
    t.check("huge pages" in vm.log(), vm.log())


@test(timeout=60)
def zone_in_hugetlbfs(t):
    """A zone in a file of huge pages, on a node of the host."""
    with open(f"{HUGE}/nr_hugepages", "w", encoding="ascii") as file:
        file.write("48")
    t.private_directories("/mnt")
    t.run("mount", "-t", "hugetlbfs", "none", "/mnt")
    vm = start(t, "--memory", "size=0", "--memory-zone", "id=a,size=64M,file=/mnt,shared=on,host_numa_node=0,prefault=on")
    t.check("KernelPageSize:     2048 kB" in mapping(vm, 64 << 20), "the zone is not in huge pages")
    with open(f"/proc/{vm.process.pid}/numa_maps", encoding="ascii") as file:
        t.check(re.search(r"bind:0.*huge", file.read()), "the zone is not bound to node 0")
    end(vm)
