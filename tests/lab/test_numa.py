# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory zones, NUMA nodes and PCI segments as a stock guest sees them."""

from harness import boot, test


@test(timeout=90)
def two_nodes_and_segments(t):
    """SRAT and SLIT give two nodes their CPUs, memory and distance; a second segment has its device and its node."""
    vm = boot(t, "bookworm-elf", "--memory-zone", "id=left,size=128M,prefault=on,host_numa_node=0", "id=right,size=192M,shared=on",
              "--numa", "guest_numa_id=0,cpus=[0],memory_zones=[left],distances=[1@33],pci_segments=[0]",
              "guest_numa_id=1,cpus=[1],memory_zones=[right],pci_segments=[1]",
              "--platform", "num_pci_segments=2", "--rng", "src=/dev/urandom,pci_segment=1,pci_device_id=0",
              cpus="2,cpu_mask=[-sse4.2],affinity=[0@[0]]", memory="0")
    facts = vm.ready()
    t.equal(facts.all("acpi-problem"), [], "complaints about ACPI in the kernel log")
    node = "/sys/devices/system/node"
    t.equal(vm.shell(f"cat {node}/online").strip(), "0-1", "nodes")
    t.equal(vm.shell(f"cat {node}/node0/cpulist {node}/node1/cpulist").split(), ["0", "1"], "CPUs of the nodes")
    t.equal(vm.shell(f"cat {node}/node0/distance {node}/node1/distance").split(), ["10", "33", "33", "10"], "distances")
    for number, mib in ((0, 128), (1, 192)):
        line = vm.shell(f"grep MemTotal {node}/node{number}/meminfo")
        kib = int(line.split()[3])
        t.check((mib - 64) * 1024 < kib <= mib * 1024, f"node {number} has {kib} KiB of {mib} MiB")
    t.equal(vm.shell("cat /sys/bus/pci/devices/0001:00:00.0/vendor").strip(), "0x1af4", "device in slot 0 of segment 1")
    t.equal(vm.shell("cat /sys/bus/pci/devices/0001:00:00.0/numa_node").strip(), "1", "its node")
    t.check("sse4_2" not in vm.shell("grep -m1 flags /proc/cpuinfo").split(), "a masked feature is shown")


@test(timeout=60)
def hyperv(t):
    """Linux takes KVM as its hypervisor though KVM's leaves are behind Hyper-V's."""
    vm = boot(t, "bookworm-elf", cpus="1,kvm_hyperv=on")
    vm.ready()
    t.check("KVM" in vm.shell("dmesg | grep 'Hypervisor detected'"), "the guest does not know its hypervisor")
