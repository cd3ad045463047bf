#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Says in plain words what this host can do, and what ./dev demo and ./dev test choose because of it.

--kvm prints only native, software or none; --place prints only direct or lab; --cpu-mask prints what --cpus cpu_mask=[…]
needs on a KVM that offers features which it does not emulate.
"""

import glob
import os
import shutil
import subprocess
import sys

import kvm_probe


def place(kvm):
    """Where stock kernels run: direct or lab. KUMO_LAB=always|never overrides; inside the lab it is always direct."""
    wish = os.environ.get("KUMO_LAB", "auto")
    if wish not in ("auto", "always", "never"):
        sys.exit(f"KUMO_LAB: '{wish}' is not one of auto, always, never")
    if os.environ.get("KUMO_IN_LAB") == "1":
        return "direct"
    if wish != "auto":
        return "lab" if wish == "always" else "direct"
    return "direct" if kvm == "native" else "lab"


def output(*command):
    """The first line a command prints, or None when it is missing or fails."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    lines = done.stdout.decode(errors="replace").splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def device(path):
    if not os.path.exists(path):
        return "missing"
    return "usable" if os.access(path, os.R_OK | os.W_OK) else "present, but not accessible for this user"


def hugepages():
    found = []
    for directory in sorted(glob.glob("/sys/kernel/mm/hugepages/hugepages-*kB")):
        with open(f"{directory}/nr_hugepages", encoding="ascii") as total, \
                open(f"{directory}/free_hugepages", encoding="ascii") as free:
            size = int(directory.rsplit("-", 1)[1][:-2])
            found.append(f"{size} KiB: {total.read().strip()} reserved, {free.read().strip()} free")
    return "; ".join(found) or "not supported by this kernel"


KVM_WORDS = {
    "native": "native: guest kernels run at the processor's speed",
    "software": "software: our own small guests run; stock kernels do not get through their start",
    "none": "none: no guest runs directly on this host",
}


def main():
    kvm, why = kvm_probe.probe()
    if "--kvm" in sys.argv[1:]:
        print(kvm)
        return
    if "--cpu-mask" in sys.argv[1:]:
        print(",".join(kvm_probe.cpu_mask() or []) if kvm == "software" else "")
        return
    if "--place" in sys.argv[1:]:
        print(place(kvm))
        return
    where = {"direct": "directly on this host", "lab": "inside the lab (./dev lab, QEMU with emulated AMD SVM)"}[place(kvm)]
    guests = "directly on this host" if kvm != "none" else "inside the lab"
    mask = kvm_probe.cpu_mask() if kvm == "software" else []
    if mask is None:
        hidden = "not known: 64-bit code does not run"
    elif mask:
        hidden = f"--cpus cpu_mask=[{','.join(mask)}]: offered by this KVM, but a guest's kernel cannot use them"
    else:
        hidden = "nothing"
    for name, value in (
        ("KVM", f"{KVM_WORDS[kvm]}\n{'':16}({why})"),
        ("to be masked", hidden),
        ("MSHV", f"/dev/mshv {device('/dev/mshv')}"),
        ("TAP networks", f"/dev/net/tun {device('/dev/net/tun')}"),
        ("huge pages", hugepages()),
        ("libvirt", output("pkg-config", "--modversion", "libvirt") or "no development files: run ./dev setup"),
        ("virsh", output("virsh", "--version") or "missing: run ./dev setup"),
        ("QEMU", output("qemu-system-x86_64", "--version") or "missing: the lab needs it, run ./dev setup"),
        ("small guests", f"run {guests}"),
        ("stock kernels", f"run {where}"),
    ):
        print(f"{name + ':':<16}{value}")


if __name__ == "__main__":
    main()
