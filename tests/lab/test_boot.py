# SPDX-License-Identifier: LGPL-2.1-or-later
"""Stock kernels start, see the machine that was asked for, and go down cleanly."""

from harness import boot, cases, guest, test


@test(timeout=60)
@cases(kernel=guest.KERNELS, cpus=(1, 2))
def boots_and_powers_off(t, kernel, cpus):
    """Each kernel in each format finds CPUs, memory, ACPI tables and hwrng in order, and its own power-off ends kumo."""
    vm = boot(t, kernel, cpus=cpus, memory="256M", serial="file", words=("acpi=strict",), run=("facts", "rng", "poweroff"), api=False)
    vm.wait_exit(0, 50)
    facts = vm.facts()
    t.equal(facts["kernel"], guest.release(kernel), "the running kernel")
    t.equal(facts["cpus"], f"{cpus} online 0" + (f"-{cpus - 1}" if cpus > 1 else ""), "CPUs")
    kib = int(facts["memory"].split()[0])
    t.check(180 * 1024 < kib < 256 * 1024, f"the guest has {kib} KiB of 256 MiB")
    t.equal(facts.all("acpi-problem"), [], "complaints about ACPI in the kernel log")
    t.equal(facts["acpi-problems"], "0", "number of complaints about ACPI")
    t.check(facts["rng"].startswith("virtio_rng"), f"hwrng is {facts['rng']}")
    t.equal(facts.runs(), {"rng": "ok", "poweroff": ""}, "outcome of the commands")


@test(timeout=60)
@cases(kernel=("bookworm-elf", "trixie-bzimage"))
def power_button(t, kernel):
    """The API's power button reaches the guest through ACPI, and its orderly shutdown ends kumo."""
    vm = boot(t, kernel, serial="file")
    vm.ready()
    vm.put("vm.power-button")
    vm.wait_exit(0, 20)


@test(timeout=90)
def boots_without_acpi(t):
    """With acpi=off processors and interrupts come from the MP table, and PCI from its ports; the keyboard controller resets. Debian's
    cloud kernels cannot read the table, its other ones can."""
    vm = boot(t, "lab-elf", "--disk", f"path={guest.root_disk(t.path('root.ext4'))}", cpus="2,max=3", words=("acpi=off",))
    facts = vm.ready()
    t.equal(facts["cpus"], "2 online 0-1", "CPUs")
    t.equal(facts.all("disk"), [f"vda {64 << 20} bytes writable"], "disks")
    t.check(facts["rng"].startswith("virtio_rng"), f"hwrng is {facts['rng']}")
    log = vm.shell("dmesg")
    t.check("Intel MultiProcessor Specification v1.4" in log, f"the MP table is not used: {log}")
    t.check("found SMP MP-table at" in log and "BIOS bug" not in log, f"complaints about the MP table: {log}")
    t.equal(vm.shell("ls /sys/firmware/acpi/tables 2>/dev/null || true"), "", "ACPI tables that are used")
    t.check("IO-APIC" in vm.shell("grep ttyS0 /proc/interrupts"), "the serial port's interrupt does not come by the MP table's way")
    vm.shell("mount -t ext4 /dev/vda /mnt && sync && umount /mnt")
    vm.console.send("/init reboot\n")
    t.equal(vm.ready(times=2)["cpus"], "2 online 0-1", "CPUs after a reset")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)


@test(timeout=60)
def memory_above_the_hole(t):
    """RAM beyond the 3 GiB hole is found and usable."""
    vm = boot(t, "bookworm-elf", memory="3328M")
    facts = vm.ready()
    kib = int(facts["memory"].split()[0])
    t.check(3100 * 1024 < kib < 3328 * 1024, f"the guest has {kib} KiB of 3328 MiB")
    vm.shell("grep -q '100000000-' /proc/iomem")


@test(timeout=60)
def clock_and_timers(t):
    """The guest sleeps as long as the host sees, on kvm-clock."""
    vm = boot(t, "bookworm-elf", cpus=2)
    vm.ready()
    t.equal(vm.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip(), "kvm-clock", "clock source")
    before, after = (float(line) for line in vm.shell("cut -d' ' -f1 /proc/uptime; sleep 2; cut -d' ' -f1 /proc/uptime").split())
    t.check(1.9 < after - before < 4, f"2 s of sleep took {after - before} s of guest time")
    t.equal(vm.shell("dmesg | grep -ciE 'clocksource.*unstable|timer doesn.t work|MP-BIOS bug' || true").strip(), "0",
            "complaints about timers")
