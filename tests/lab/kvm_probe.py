#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tells what /dev/kvm is: native, software or none; and which features of the processor a guest cannot use on it.

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
KVM_GET_SUPPORTED_CPUID = 0xC008AE05
KVM_SET_CPUID2 = 0x4008AE90
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


# Features by libvirt's names, and an instruction of each, in 64-bit mode. RDI points at 4 KiB of scratch memory.
INSTRUCTIONS = (
    ("fpu", "dbe3"),                  # fninit
    ("mmx", "0f6f07"),                # movq mm0, [rdi]
    ("fxsr", "480fae07"),             # fxsave64 [rdi]
    ("sse", "0f2807"),                # movaps xmm0, [rdi]
    ("sse2", "0faef0"),               # mfence
    ("clflush", "0fae3f"),            # clflush [rdi]
    ("cx16", "480fc70f"),             # cmpxchg16b [rdi]
    ("sse4.2", "f20f38f1c0"),         # crc32 eax, eax
    ("popcnt", "f30fb8c0"),           # popcnt eax, eax
    ("movbe", "0f38f007"),            # movbe eax, [rdi]
    ("rdtscp", "0f01f9"),             # rdtscp
    ("rdrand", "0fc7f0"),             # rdrand eax
    ("rdseed", "0fc7f8"),             # rdseed eax
    ("bmi1", "c4e278f2c0"),           # andn eax, eax, eax
    ("bmi2", "c4e27bf7c0"),           # shrx eax, eax, eax
    ("adx", "660f38f6c0"),            # adcx eax, eax
    ("clflushopt", "660fae3f"),       # clflushopt [rdi]
    ("clwb", "660fae37"),             # clwb [rdi]
    ("fsgsbase", "f3480faec0"),       # rdfsbase rax
    ("rdpid", "f30fc7f8"),            # rdpid rax
    ("smap", "0f01ca"),               # clac
    ("invpcid", "31c0 660f388207"),   # invpcid eax, [rdi]
    ("xsave", "31c9 0f01d0"),         # xor ecx, ecx; xgetbv
    ("xsave", "6a01 58 31d2 480fae27"),   # eax = 1, edx = 0; xsave64 [rdi]
    ("xsaveopt", "6a01 58 31d2 480fae37"),  # xsaveopt64 [rdi]
    ("xsavec", "6a01 58 31d2 480fc727"),  # xsavec64 [rdi]
    ("xsaves", "6a01 58 31d2 480fc72f"),  # xsaves64 [rdi]
    ("avx", "31c9 31d2 6a07 58 0f01d1 c5fc2807"),  # xsetbv(0, 7); vmovaps ymm0, [rdi]
)

# In these bits KVM says whether it offers the feature: (leaf, subleaf, register, bit).
OFFERED = {
    "fpu": (1, 0, 3, 0), "mmx": (1, 0, 3, 23), "fxsr": (1, 0, 3, 24), "sse": (1, 0, 3, 25), "sse2": (1, 0, 3, 26),
    "clflush": (1, 0, 3, 19), "cx16": (1, 0, 2, 13), "sse4.2": (1, 0, 2, 20), "popcnt": (1, 0, 2, 23), "movbe": (1, 0, 2, 22),
    "rdrand": (1, 0, 2, 30), "xsave": (1, 0, 2, 26), "avx": (1, 0, 2, 28), "rdtscp": (0x80000001, 0, 3, 27),
    "fsgsbase": (7, 0, 1, 0), "bmi1": (7, 0, 1, 3), "bmi2": (7, 0, 1, 8), "invpcid": (7, 0, 1, 10), "rdseed": (7, 0, 1, 18),
    "adx": (7, 0, 1, 19), "smap": (7, 0, 1, 20), "clflushopt": (7, 0, 1, 23), "clwb": (7, 0, 1, 24), "rdpid": (7, 0, 2, 22),
    "xsaveopt": (0xD, 1, 0, 0), "xsavec": (0xD, 1, 0, 1), "xsaves": (0xD, 1, 0, 3),
}

PROBE_BYTES = 0x8000
PROBE_CODE_GPA, TABLES_GPA, SCRATCH_GPA, STACK_GPA = 0x1000, 0x2000, 0x6000, 0x6000


def supported_cpuid(kvm):
    """The bytes (mutable, for ioctl takes only few others) of struct kvm_cpuid2 that KVM supports, and the registers by (leaf, subleaf)."""
    room = 256
    cpuid = bytearray(struct.pack("<II", room, 0) + bytes(40 * room))
    fcntl.ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid)
    count = struct.unpack_from("<I", cpuid)[0]
    entries = [struct.unpack_from("<7I", cpuid, 8 + 40 * i) for i in range(count)]
    return cpuid[:8 + 40 * count], {(leaf, subleaf): registers for leaf, subleaf, _, *registers in entries}


def executes(kvm, cpuid, code):
    """Runs CODE at privilege level 0 of a new VM. Returns whether it got to its end: no fault, no failed emulation."""
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    vcpu = -1
    memory = mmap.mmap(-1, PROBE_BYTES)
    buffer = ctypes.c_char.from_buffer(memory)
    try:
        memory[PROBE_CODE_GPA:PROBE_CODE_GPA + len(code) + 1] = code + b"\xf4"
        for level, entry in enumerate((TABLES_GPA + 0x1000, TABLES_GPA + 0x2000, 0x80)):
            struct.pack_into("<Q", memory, TABLES_GPA + 0x1000 * level, entry | 3)
        fcntl.ioctl(vm, KVM_SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, PROBE_BYTES, ctypes.addressof(buffer)))
        fcntl.ioctl(vm, KVM_SET_TSS_ADDR, UNUSED_GPA)
        vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
        fcntl.ioctl(vcpu, KVM_SET_CPUID2, cpuid)
        with mmap.mmap(vcpu, fcntl.ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE)) as run:
            special = bytearray(312)
            fcntl.ioctl(vcpu, KVM_GET_SREGS, special)
            # A 64-bit code segment: present, long, no default size.
            special[0:24] = struct.pack("<QIHBBBBBBBBBB", 0, 0xFFFFFFFF, 8, 11, 1, 0, 0, 1, 1, 1, 0, 0, 0)
            for offset in range(24, 144, 24):
                special[offset:offset + 24] = flat_segment(3, 16)
            cr0, _, _, cr4 = struct.unpack_from("<4Q", special, 224)
            # Protected mode, native FPU errors, paging; PAE, FXSR, SSE exceptions, FSGSBASE, XSAVE.
            cr4 |= 1 << 5 | 1 << 9 | 1 << 10
            for feature, bit in (("fsgsbase", 16), ("xsave", 18)):
                cr4 |= offers(supported_cpuid(kvm)[1], feature) << bit
            struct.pack_into("<4Q", special, 224, (cr0 | 0x80000021) & ~0x6000000C, 0, TABLES_GPA, cr4)
            struct.pack_into("<Q", special, 264, 0x500)  # EFER: long mode enabled and active
            fcntl.ioctl(vcpu, KVM_SET_SREGS, bytes(special))
            registers = [0] * 18
            registers[5] = SCRATCH_GPA
            registers[6] = STACK_GPA
            registers[16] = PROBE_CODE_GPA
            registers[17] = 2
            fcntl.ioctl(vcpu, KVM_SET_REGS, struct.pack("<18Q", *registers))
            fcntl.ioctl(vcpu, KVM_RUN, 0)
            return struct.unpack_from("<I", run, 8)[0] == KVM_EXIT_HLT
    except OSError:
        return False
    finally:
        del buffer
        for descriptor in (vcpu, vm):
            if descriptor >= 0:
                os.close(descriptor)


def offers(leaves, feature):
    leaf, subleaf, register, bit = OFFERED[feature]
    return leaves.get((leaf, subleaf), (0, 0, 0, 0))[register] >> bit & 1


def cpu_mask():
    """The features that /dev/kvm offers to guests though their instructions do not work at privilege level 0, as a list for
    kumo's --cpus cpu_mask=. Empty for a native KVM; None if the probe's own code does not run."""
    kvm = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    try:
        cpuid, leaves = supported_cpuid(kvm)
        if not executes(kvm, cpuid, b"\x90"):
            return None
        broken = []
        for feature, code in INSTRUCTIONS:
            if feature not in broken and offers(leaves, feature) and not executes(kvm, cpuid, bytes.fromhex(code)):
                broken.append(feature)
        return [f"-{feature}" for feature in broken]
    finally:
        os.close(kvm)


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
