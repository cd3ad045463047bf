# SPDX-License-Identifier: LGPL-2.1-or-later
"""A whole Debian from its disk, by the way it goes on any PC: UEFI firmware, GRUB, kernel, systemd."""

from harness import Kumo, guest, test


@test(timeout=240)
def debian_boots_from_its_disk(t):
    """EDK2's firmware for Cloud Hypervisor finds the EFI system partition; systemd comes up without a failed unit, and the
    power button brings it down."""
    disk = guest.debian_disk(t.path("debian.raw"))
    vm = Kumo(t, "--firmware", guest.firmware(), "--disk", f"path={disk}", "--memory", "size=768M", "--cpus", "boot=1")
    vm.console.expect(r"Welcome to GRUB", 60)
    vm.console.expect(r"kumo-guest login: ", 150)
    vm.console.send("root\n")
    vm.console.expect(r"# ", 30)
    # A shell and a terminal without decorations.
    vm.console.send("exec env TERM=dumb sh\n")
    vm.console.expect(r"# ", 30)
    vm.console.send("PS1=\n")
    t.equal(vm.shell("systemctl is-system-running --wait || systemctl --failed --plain --no-legend", 60).strip(), "running",
            "what systemd says of itself, and failed units")
    vm.shell("grep -q 'VERSION_CODENAME=bookworm' /etc/os-release")
    vm.shell("test -d /sys/firmware/efi")
    t.equal(vm.shell("cat /sys/class/dmi/id/sys_vendor").strip(), "Cloud Hypervisor", "the maker that SMBIOS names")
    t.equal(vm.shell("findmnt -n -o SOURCE /").strip(), "/dev/vda2", "root file system")
    vm.put("vm.power-button")
    vm.wait_exit(0, 60)
