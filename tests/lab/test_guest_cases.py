# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of the guest ring with what a software KVM lacks: Hyper-V's interfaces, and nested virtualization."""

import os
import re
import shutil
import sys

from harness import boot, cases, test

TESTS = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))


@test(timeout=180)
@cases(name=("hyperv", "pm1a", "cpuid", "nested"))
def guest_case(t, name):
    """Its lines of TAP are all good, and it skips nothing."""
    kumo = os.path.realpath(shutil.which("kumo"))
    elf = os.path.join(os.path.dirname(os.path.dirname(kumo)), "tests", "guest", "guest.elf")
    output = t.run(sys.executable, os.path.join(TESTS, "guest", "host.py"), kumo, elf, name, status=None, timeout=170)
    results = re.findall(r"^(ok|not ok) \d+ - ", output, re.MULTILINE)
    t.check(results and "not ok" not in results and f"1..{len(results)}" in output, output)


@test(timeout=90)
def nesting(t):
    """The guest has SVM or VMX when the host lets it, and not with nested=off."""
    for nested in ("on", "off"):
        vm = boot(t, "bookworm-elf", cpus=f"1,nested={nested}")
        vm.ready()
        flags = vm.shell("grep -m1 ^flags /proc/cpuinfo").split()
        t.equal("svm" in flags or "vmx" in flags, nested == "on", f"nested={nested}: {' '.join(flags)}")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
