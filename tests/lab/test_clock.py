# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a pause does to a stock guest's clocks."""

import time

from harness import boot, guest, test


@test(timeout=60)
def clock_stands_still_in_a_pause(t):
    """Paused for some seconds while all vCPUs and a disk work, the guest's clocks neither count that time nor go back, and its
    kernel complains of nothing."""
    vm = boot(t, "bookworm-elf", "--disk", f"path={guest.root_disk(t.path('root.ext4'))}", cpus=2)
    vm.ready()
    t.equal(vm.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip(), "kvm-clock", "clock source")
    vm.shell("dmesg -c >/dev/null; mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")
    vm.shell("(while [ ! -e /stop ]; do dd if=/dev/zero of=/mnt/load bs=64k count=8 conv=fsync 2>/dev/null || touch /bad-disk; done) & "
             "(while [ ! -e /stop ]; do :; done) & "
             "(last=0; while [ ! -e /stop ]; do read now _ </proc/uptime; now=${now%.*}${now#*.}; "
             "[ $now -ge $last ] || echo $last $now >>/backwards; last=$now; done) & :")

    def clocks():
        """Seconds that the guest says it has been up, and its date."""
        up, date = vm.shell("read up _ </proc/uptime; echo $up $(date +%s)").split()
        return float(up), int(date)

    # As long as without a pause, which the load makes longer than it were.
    start = time.monotonic()
    first = clocks()
    second = clocks()
    usual = time.monotonic() - start
    paused = max(3.0, 4 * usual)
    for _ in range(2):
        before = clocks()
        vm.put("vm.pause")
        time.sleep(paused)
        vm.put("vm.resume")
        after = clocks()
        t.check(0 < after[0] - before[0] < 0.75 * paused, f"the uptime went from {before[0]} to {after[0]} over a pause of {paused:.1f} s")
        t.check(0 <= after[1] - before[1] < 0.75 * paused + 1, f"the date went from {before[1]} to {after[1]} over a pause of {paused:.1f} s")
    t.check(second[0] >= first[0], f"the uptime went back from {first[0]} to {second[0]}")
    vm.shell("touch /stop; wait; [ ! -e /backwards ] && [ ! -e /bad-disk ]", 30)
    said = vm.shell("dmesg | grep -i -E 'unstable|lockup|stall|hung task' || :")
    t.equal(said.strip(), "", "what the guest's kernel complains of")
    t.equal(vm.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip(), "kvm-clock", "clock source afterwards")
