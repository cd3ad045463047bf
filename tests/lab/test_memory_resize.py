# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that comes and goes under a stock kernel: virtio-mem, and the balloon."""

from harness import ApiError, boot, cases, test

MIB = 1 << 20
# What the guest is given by virtio-mem may be taken from it again only if nothing in it must stay in its place.
MOVABLE = "memhp_default_state=online_movable"
CYCLES = 20


def counters(vm, device):
    return vm.api("GET", "vm.counters")[device]


def resident(vm):
    """The process's memory in the host, in bytes."""
    with open(f"/proc/{vm.process.pid}/status", encoding="utf-8") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


def memory_of(vm, file, field):
    """A line of meminfo in the guest, in bytes."""
    return int(vm.shell(f"grep -o '{field}:.*' {file}").split()[1]) * 1024


def total(vm):
    return memory_of(vm, "/proc/meminfo", "MemTotal")


def mount_and_fill(vm, name, mib, source="/dev/zero"):
    """A file of MIB MiB in the guest's memory, in a file system of its own."""
    vm.shell(f"mkdir /{name} && mount -t tmpfs -o size={mib + 1}m tmpfs /{name} && "
             f"dd if={source} of=/{name}/file bs=1M count={mib} 2>/dev/null", 60)


def resize(t, vm, mib, seconds=40):
    """The guest has MIB MiB in the end, the balloon's not counted."""
    vm.put("vm.resize", {"desired_ram": mib * MIB})
    wait_actual(t, vm, mib, seconds)


def wait_actual(t, vm, mib, seconds=40):
    t.wait_for(lambda: vm.info()["memory_actual_size"] == mib * MIB, f"memory_actual_size to be {mib} MiB", seconds, every=0.1)


def refused(t, vm, endpoint, body, status, word):
    try:
        vm.put(endpoint, body)
    except ApiError as error:
        t.check(error.status == status and word in error.text, f"{endpoint} {body}: {error}")
        return
    t.check(False, f"{endpoint} {body} was not refused")


@test(timeout=90)
@cases(kernel=("bookworm-elf", "trixie-elf"))
def virtio_mem_grows_and_shrinks(t, kernel):
    """Memory grows, shrinks and grows again; the host has back what went, and no byte of what stays is another one."""
    vm = boot(t, kernel, memory="256M,hotplug_method=virtio-mem,hotplug_size=128M", words=(MOVABLE,))
    vm.ready()
    before = total(vm)
    t.equal(vm.info()["memory_actual_size"], 256 * MIB, "memory at boot")
    resize(t, vm, 384)
    t.equal(counters(vm, "mem0"), {"plugged_bytes": 128 * MIB, "requested_bytes": 128 * MIB}, "counters")
    t.equal(vm.info()["config"]["memory"]["hotplugged_size"], 128 * MIB, "hotplugged_size")
    vm.shell(f"until [ $(sed -n 's/MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo) -ge {(before >> 10) + 120 * 1024} ]; "
             "do sleep 0.1; done", 30)
    # Movable memory is taken first, so the files are in what was added.
    mount_and_fill(vm, "kept", 8, "/dev/urandom")
    checksum = vm.shell("md5sum /kept/file")
    mount_and_fill(vm, "gone", 64)
    full = resident(vm)
    vm.shell("umount /gone")
    resize(t, vm, 288)
    t.check(resident(vm) < full - 24 * MIB, f"the host has {resident(vm)} bytes of {full} still in use")
    t.check(total(vm) < before + 36 * MIB, "the guest still counts what it has given back")
    resize(t, vm, 352)
    t.equal(vm.shell("md5sum /kept/file"), checksum, "checksum of the file after the memory moved")


@test(timeout=60)
def virtio_mem_and_reboot(t):
    """What the zone does not have, or blocks cannot make up, is refused. The next machine has what was wanted last."""
    vm = boot(t, "bookworm-elf", memory="256M,hotplug_method=virtio-mem,hotplug_size=128M", words=(MOVABLE,))
    vm.ready()
    vm.put("vm.resize", {"desired_ram": 320 * MIB})
    for wrong in (128 * MIB, 448 * MIB, 256 * MIB + 4096):
        refused(t, vm, "vm.resize", {"desired_ram": wrong}, 400, "desired_ram")
    refused(t, vm, "vm.resize-zone", {"id": "mem0", "desired_ram": 256 * MIB}, 404, "mem0")
    vm.console.send("/init reboot\n")
    vm.ready(times=2)
    wait_actual(t, vm, 320)


@test(timeout=120)
def virtio_mem_again_and_again(t):
    """Twenty times in and out, and nothing stays behind in the process: no descriptor, thread or mapping, no memory of the guest."""
    vm = boot(t, "bookworm-elf", memory="256M,hotplug_method=virtio-mem,hotplug_size=128M,hotplugged_size=8M", words=(MOVABLE,))
    vm.ready()
    wait_actual(t, vm, 264)
    before = None
    for cycle in range(CYCLES):
        resize(t, vm, 288)
        resize(t, vm, 264)
        # The first times make what stays for good: caches of the guest and of the allocator.
        if cycle == 2:
            before, used = vm.footprint(), resident(vm)
    vm.wait_no_more_than(before)
    t.check(resident(vm) < used + 16 * MIB, f"{resident(vm)} bytes are in use, {used} after three of {CYCLES} cycles")
    t.equal(counters(vm, "mem0"), {"plugged_bytes": 8 * MIB, "requested_bytes": 8 * MIB}, "counters")


@test(timeout=90)
def zones_grow_by_themselves(t):
    """Each zone has a device of its own, which adds to the zone's NUMA node."""
    vm = boot(t, "trixie-elf", "--memory-zone", "id=a,size=192M", "id=b,size=64M,hotplug_size=128M,hotplugged_size=64M,shared=on",
              "--numa", "guest_numa_id=0,memory_zones=a,cpus=0", "guest_numa_id=1,memory_zones=b",
              memory="0,hotplug_method=virtio-mem", words=(MOVABLE,))
    vm.ready()

    def node(number):
        return memory_of(vm, f"/sys/devices/system/node/node{number}/meminfo", "MemTotal")

    wait_actual(t, vm, 320)
    before = node(0), node(1)
    t.check(before[1] > 90 * MIB, f"node 1 has {before[1]} bytes")
    vm.put("vm.resize-zone", {"id": "b", "desired_ram": 192 * MIB})
    wait_actual(t, vm, 384)
    t.check(node(0) == before[0] and node(1) >= before[1] + 60 * MIB, "the nodes' memory after growing")
    vm.put("vm.resize-zone", {"id": "b", "desired_ram": 64 * MIB})
    wait_actual(t, vm, 256)
    refused(t, vm, "vm.resize-zone", {"id": "a", "desired_ram": 256 * MIB}, 400, "hotplug_size")
    refused(t, vm, "vm.resize-zone", {"id": "c", "desired_ram": 256 * MIB}, 404, "c")
    refused(t, vm, "vm.resize", {"desired_ram": 512 * MIB}, 400, "zones")


@test(timeout=90)
def balloon_takes_and_gives(t):
    """What is in the balloon is the host's, and the guest's again afterwards; statistics say how the guest does."""
    vm = boot(t, "bookworm-elf", "--balloon", "size=0,stats_period=1", memory="160M")
    vm.ready()
    mount_and_fill(vm, "big", 64)
    vm.shell("rm /big/file")
    full = resident(vm)
    vm.put("vm.resize", {"desired_balloon": 64 * MIB})
    wait_actual(t, vm, 96)
    t.check(resident(vm) < full - 24 * MIB, f"the host has {resident(vm)} bytes of {full} still in use")
    t.equal(vm.info()["config"]["balloon"]["size"], 64 * MIB, "size in the configuration")
    now = total(vm)
    t.wait_for(lambda: counters(vm, "__balloon").get("total_memory") == now, "statistics of now", 20, every=0.2)
    seen = counters(vm, "__balloon")
    t.check(0 < seen["free_memory"] < seen["total_memory"] < 96 * MIB and 0 < seen["available_memory"] < seen["total_memory"] and
            seen["minor_faults"] > 0, f"statistics: {seen}")
    t.equal((seen["actual_bytes"], seen["target_bytes"], seen["inflated_bytes"]), (64 * MIB,) * 3, "the balloon")
    vm.put("vm.resize", {"desired_balloon": 0})
    wait_actual(t, vm, 160)
    t.check(total(vm) >= now + 64 * MIB, "the guest has not all of its memory again")
    vm.shell("dd if=/dev/zero of=/big/file bs=1M count=8 2>/dev/null", 60)
    refused(t, vm, "vm.resize", {"desired_balloon": 512 * MIB}, 400, "balloon")


@test(timeout=90)
def balloon_yields_to_the_guest(t):
    """A guest out of memory takes some from the balloon before it kills."""
    vm = boot(t, "trixie-elf", "--balloon", "size=96M,deflate_on_oom=on")
    vm.ready()
    wait_actual(t, vm, 160)
    mount_and_fill(vm, "big", 112)
    t.check(vm.info()["memory_actual_size"] > 160 * MIB, "the balloon gave nothing")
    t.equal(vm.shell("grep oom_kill /proc/vmstat").split(), ["oom_kill", "0"], "processes that the guest killed")


@test(timeout=90)
def free_pages_are_reported(t):
    """Memory that the guest has freed goes back to the host by itself."""
    vm = boot(t, "trixie-elf", "--balloon", "size=0,free_page_reporting=on")
    vm.ready()
    mount_and_fill(vm, "big", 96)
    full = resident(vm)
    vm.shell("rm /big/file")
    t.wait_for(lambda: resident(vm) < full - 48 * MIB, f"the {full} bytes in use to become less", 40, every=0.2)
    t.check(counters(vm, "__balloon")["reported_bytes"] > 48 * MIB, "reported_bytes")
