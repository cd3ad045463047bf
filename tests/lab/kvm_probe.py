#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells what /dev/kvm is: native, software or none.

A guest kernel runs at privilege level 0. Hardware virtualisation runs that at the speed of the processor; a KVM that works
without it (PVM) emulates each such instruction, hundreds of times slower, and stock kernels do not get through their start
there. So the probe times a loop at level 0 in a guest of one page.
"""

import ctypes
import fcntl
import mmap
import os
import struct
import sys
import time

KVM_GET_API_VERSION = 0xAE00
KVM_CREATE_VM = 0xAE01
KVM_GET_VCPU_MMAP_SIZE = 0xAE04
KVM_CREATE_VCPU = 0xAE41
KVM_SET_TSS_ADDR = 0xAE47
KVM_RUN = 0xAE80
KVM_SET_USER_MEMORY_REGION = 0x4020AE46
KVM_SET_REGS = 0x4090AE82
KVM_GET_SREGS = 0x8138AE83
KVM_SET_SREGS = 0x4138AE84
KVM_EXIT_HLT = 5

ITERATIONS = 40_000
NATIVE_PER_SECOND = 3_000_000
CODE_GPA = 0x1000
UNUSED_GPA = 0x70000000

# mov ecx, ITERATIONS; again: dec ecx; jnz again; hlt
CODE = b"\xb9" + struct.pack("<I", ITERATIONS) + b"\x49\x75\xfd" + b"\xf4"


def flat_segment(kind, selector):
    """struct kvm_segment of a flat 32-bit segment at level 0."""
    return struct.pack("<QIHBBBBBBBBBB", 0, 0xFFFFFFFF, selector, kind, 1, 0, 1, 1, 0, 1, 0, 0, 0)


def run_once(kvm):
    """Runs the loop in a new VM; returns iterations per second."""
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    vcpu = -1
    memory = mmap.mmap(-1, 4096)
    buffer = ctypes.c_char.from_buffer(memory)
    try:
        memory[:len(CODE)] = CODE
        region = struct.pack("<IIQQQ", 0, 0, CODE_GPA, 4096, ctypes.addressof(buffer))
        fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, region)
        fcntl.ioctl(vm, KVM_SET_TSS_ADDR, UNUSED_GPA)
        vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
        with mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE)) as run:
            special = bytearray(312)
            fcntl.ioctl(vcpu, KVM_GET_SREGS, special)
            special[0:24] = flat_segment(11, 8)
            for offset in range(24, 144, 24):
                special[offset:offset + 24] = flat_segment(3, 16)
            cr0 = struct.unpack_from("<Q", special, 224)[0]
            struct.pack_into("<Q", special, 224, cr0 | 1)
            fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(special))
            registers = [0] * 18
            registers[16] = CODE_GPA
            registers[17] = 2
            fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("<18Q", *registers))
            began = time.perf_counter()
            fcntl.ioctl(vcpu, KVM_RUN, 0)
            seconds = time.perf_counter() - began
            reason = struct.unpack_from("<I", run, 8)[0]
            if reason != KVM_EXIT_HLT:
                raise OSError(f"the probe guest left with exit reason {reason}")
            return ITERATIONS / seconds
    finally:
        del buffer
        for descriptor in (vcpu, vm):
            if descriptor >= 0:
                os.close(descriptor)


def vendor():
    """The vendor modules of KVM that are loaded."""
    names = ("kvm_intel", "kvm_amd", "kvm_pvm", "pvm")
    return [name for name in names if os.path.isdir(f"/sys/module/{name}")]


def probe():
    """Returns (kind, explanation): kind is native, software or none."""
    try:
        kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return "none", f"/dev/kvm: {error.strerror}"
    try:
        if fcntl.ioctl(kvm, KVM_GET_API_VERSION) != 12:
            return "none", "/dev/kvm speaks an API version other than 12"
        rate = max(run_once(kvm) for _ in range(2))
    except OSError as error:
        return "none", f"/dev/kvm is there but runs no guest: {error}"
    finally:
        os.close(kvm)
    modules = ", ".join(vendor()) or "none named in /sys/module"
    speed = f"{rate / 1e6:.1f} million loop rounds a second at privilege level 0; vendor modules: {modules}"
    return ("native" if rate > NATIVE_PER_SECOND else "software"), speed


if __name__ == "__main__":
    KIND, WHY = probe()
    print(KIND)
    if "-v" in sys.argv[1:]:
        print(WHY, file=sys.stderr)
