# SPDX-License-Identifier: LGPL-2.1-or-later
"""vCPUs and ACPI memory that are added and taken away under a stock kernel."""

import os
import shutil

from harness import ApiError, boot, events_of, guest, test

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


def refused(t, vm, status, word, **wanted):
    try:
        vm.put("vm.resize", wanted)
        t.check(False, f"accepted: {wanted}")
    except ApiError as error:
        t.check(error.status == status and word in error.text, f"{wanted}: {error}")


@test(timeout=120)
def vcpus_of_a_stuck_guest(t):
    """A guest that does nothing for a while: another number has to wait, the same one asks again, and an event tells when the
    vCPU goes after all."""
    events = t.path("events")
    realtime = os.path.join(os.environ["KUMO_BUILD"], "tests/guest/realtime")
    # As large as a disk may be: a multiple of its blocks.
    shutil.copy(realtime, t.path("realtime"))
    os.truncate(t.path("realtime"), (os.path.getsize(realtime) + 511) & ~511)
    vm = boot(t, "bookworm-elf", "--disk", f"path={t.path('realtime')},readonly=on", "--event-monitor", f"path={events}", cpus="2,max=3")
    vm.ready()
    vm.shell("cat /dev/vda >/realtime && chmod +x /realtime && echo -1 >/proc/sys/kernel/sched_rt_runtime_us")
    # Each processor is kept by a task of the highest priority, so that not even the interrupt of ACPI's event device is handled.
    vm.shell("echo 'echo; echo stuck $1; read now _ </proc/uptime; end=$((${now%.*} + 12)); while [ ${now%.*} -lt $end ]; do "
             "read now _ </proc/uptime; done; echo; echo free $1' >/hog")
    vm.console.send("for n in 0 1; do taskset $((1 << n)) /realtime sh /hog $n & done\n")
    for _ in range(2):
        vm.console.expect(r"^stuck \d", 20)
    vm.put("vm.resize", {"desired_vcpus": 1})
    refused(t, vm, 429, "asked to let go of 1 vCPUs", desired_vcpus=3)
    refused(t, vm, 429, "asked again to let go of 1 vCPUs", desired_vcpus=1)
    t.equal(events_of(events, "vcpu-removed"), [], "vCPUs that the stuck guest let go")
    for _ in range(2):
        vm.console.expect(r"^free \d", 40)
    t.wait_for(lambda: events_of(events, "vcpu-removed") == [{"id": "vcpu1"}], "the event of the vCPU that goes", 20, every=0.1)
    vm.put("vm.resize", {"desired_vcpus": 3})
    online(vm, 1, 2)


@test(timeout=120)
def vcpus_of_a_guest_that_refuses(t):
    """A guest that says no is heard, keeps its vCPU, may be asked for another number at once and says yes the next time."""
    events = t.path("events")
    vm = boot(t, "bookworm-elf", "--event-monitor", f"path={events}", cpus="2,max=3")
    vm.ready()
    vm.shell("echo 0 >/sys/firmware/acpi/hotplug/processor/enabled")
    vm.put("vm.resize", {"desired_vcpus": 1})
    t.wait_for(lambda: events_of(events, "device-removal-failed"), "the event of the refusal", 20, every=0.1)
    t.equal(events_of(events, "device-removal-failed"), [{"id": "vcpu1", "status": 0x80}], "refusals")
    t.equal(vm.info()["config"]["cpus"]["boot_vcpus"], 2, "configured vCPUs")
    vm.shell("echo 1 >/sys/firmware/acpi/hotplug/processor/enabled")
    vm.put("vm.resize", {"desired_vcpus": 3})
    online(vm, 2, 2)
    vm.put("vm.resize", {"desired_vcpus": 1})
    wait_present(vm, 0)
    t.equal(len(events_of(events, "device-removal-failed")), 1, "refusals")


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
