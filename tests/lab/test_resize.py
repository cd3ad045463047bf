# SPDX-License-Identifier: LGPL-2.1-or-later
"""vCPUs and ACPI memory that are added and taken away under a stock kernel."""

from harness import ApiError, boot, guest, test

MIB = 1 << 20
CYCLES = 4


def resize_busy(t, vm, **wanted):
    """As vm.resize, again while the guest has not let go of vCPUs yet."""
    def done():
        try:
            vm.put("vm.resize", wanted)
        except ApiError as error:
            if error.status != 429:
                raise
            return False
        return True
    t.wait_for(done, f"resize to {wanted}", 20, every=0.1)


def online(vm, first, last):
    vm.shell("; ".join(f"until echo 1 >/sys/devices/system/cpu/cpu{n}/online; do sleep 0.1; done"
                       for n in range(first, last + 1)) + " 2>/dev/null; "
             f"[ \"$(cat /sys/devices/system/cpu/online)\" = 0-{last} ] && taskset {1 << last:x} true", 30)


def wait_present(vm, last):
    wanted = f"0-{last}" if last else "0"
    vm.shell(f"until [ \"$(cat /sys/devices/system/cpu/online)\" = {wanted} ] && "
             f"[ ! -e /sys/devices/system/cpu/cpu{last + 1} ]; do sleep 0.1; done", 30)


def memory_mib(facts, index):
    return int(facts.all("memory")[index].split()[0]) // 1024


TOTAL = "$(sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)"


def grow(t, vm, size, expected):
    """The guest gets SIZE MiB, of which it has EXPECTED for itself."""
    vm.put("vm.resize", {"desired_ram": size * MIB})
    vm.shell(f"until [ {TOTAL} -ge {expected * 1024} ]; do sleep 0.1; done", 30)
    t.equal(vm.info()["memory_actual_size"], size * MIB, "memory in vm.info")


@test(timeout=120)
def acpi_memory(t):
    """256 MiB become 512 and 640 while the guest runs, and are used; less does not take away what it has."""
    vm = boot(t, "bookworm-elf", memory="256M,hotplug_size=1G")
    before = memory_mib(vm.ready(), 0)
    vm.shell("echo online >/sys/devices/system/memory/auto_online_blocks")
    for size in (512, 640):
        grow(t, vm, size, before + size - 256)
    vm.shell("mount -t tmpfs -o size=90% none /mnt && dd if=/dev/zero of=/mnt/fill bs=1M count=300 2>/dev/null && "
             "rm /mnt/fill && umount /mnt", 60)
    vm.put("vm.resize", {"desired_ram": 384 * MIB})
    vm.shell(f"[ {TOTAL} -ge {(before + 384) * 1024} ]")
    for wrong in (0, 641 * MIB, 4096 * MIB):
        try:
            vm.put("vm.resize", {"desired_ram": wrong})
            t.check(False, f"accepted: {wrong}")
        except ApiError as error:
            t.equal(error.status, 400, f"status of {wrong}")


@test(timeout=120)
def acpi_memory_and_reboot(t):
    """After a reboot the guest has what was wanted last, and can get more again."""
    vm = boot(t, "bookworm-elf", memory="256M,hotplug_size=1G")
    before = memory_mib(vm.ready(), 0)
    vm.put("vm.resize", {"desired_ram": 512 * MIB})
    vm.put("vm.resize", {"desired_ram": 384 * MIB})
    vm.console.send("/init reboot\n")
    after = memory_mib(vm.ready(times=2), -1)
    t.check(before + 100 < after < before + 150, f"{after} MiB after the reboot, {before} before")
    vm.shell("echo online >/sys/devices/system/memory/auto_online_blocks")
    grow(t, vm, 512, after + 128)


@test(timeout=120)
def vcpus_under_load(t):
    """1, 4, 2, 3 vCPUs while a NIC carries traffic; what is pending is told by 429."""
    t.tap("tap0", "192.168.77.1/24")
    vm = boot(t, "bookworm-elf", "--net", "tap=tap0", cpus="1,max=4", run=("facts", "ip:192.168.77.2/24"))
    vm.ready()
    vm.shell("ping -i 0.5 192.168.77.1 >/ping 2>&1 & :")
    vm.put("vm.resize", {"desired_vcpus": 4})
    online(vm, 1, 3)
    t.equal(vm.info()["config"]["cpus"]["boot_vcpus"], 4, "configured vCPUs")
    vm.put("vm.resize", {"desired_vcpus": 2})
    wait_present(vm, 1)
    resize_busy(t, vm, desired_vcpus=3)
    online(vm, 2, 2)
    vm.shell("killall -INT ping")
    loss = vm.shell("until grep loss /ping; do sleep 0.1; done")
    t.equal(guest.lost_echoes(loss), 0, f"echoes lost meanwhile, {loss.strip()}")


@test(timeout=120)
def vcpus_and_reboot(t):
    """A reboot has the last number wanted, whatever the guest did."""
    vm = boot(t, "bookworm-elf", cpus="1,max=4")
    vm.ready()
    vm.put("vm.resize", {"desired_vcpus": 3})
    online(vm, 1, 2)
    vm.put("vm.resize", {"desired_vcpus": 2})
    vm.console.send("/init reboot\n")
    facts = vm.ready(times=2)
    t.equal(facts.all("cpus")[-1], "2 online 0-1", "vCPUs after the reboot")


@test(timeout=120)
def vcpus_again_and_again(t):
    """In and out, and nothing stays behind in the process."""
    vm = boot(t, "bookworm-elf", cpus="1,max=2")
    vm.ready()
    before = None
    for _ in range(CYCLES):
        resize_busy(t, vm, desired_vcpus=2)
        online(vm, 1, 1)
        vm.put("vm.resize", {"desired_vcpus": 1})
        wait_present(vm, 0)
        before = before or vm.footprint()
    vm.wait_no_more_than(before)
