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


def windows_of(vm, segment):
    """The memory windows of a segment's host bridge below and above 4 GiB, as the guest takes them from ACPI: (start, size)."""
    text = vm.shell(f"grep 'PCI Bus {segment:04x}:00' /proc/iomem")
    ranges = [tuple(int(end, 16) for end in line.split(":")[0].strip().split("-")) for line in text.splitlines()]
    return [(start, end + 1 - start) for start, end in sorted(ranges)]


@test(timeout=150)
def all_segments(t):
    """With acpi=strict a guest takes 96 segments with their windows, the controllers of CPU and memory hotplug, and some hundred vCPUs."""
    vm = boot(t, "bookworm-elf", "--platform", "num_pci_segments=96",
              "--pci-segment", "pci_segment=1,mmio32_aperture_weight=4,mmio64_aperture_weight=13", "pci_segment=95,mmio32_aperture_weight=2",
              "--rng", "src=/dev/urandom,pci_segment=95,pci_device_id=31", cpus="1,max=400", memory="256M,hotplug_size=512M",
              words=("acpi=strict", "nr_cpus=4"))
    facts = vm.ready(120)
    t.equal(facts.all("acpi-problem"), [], "complaints about ACPI in the kernel log")
    t.equal(vm.shell("ls -d /sys/devices/pci*").count("/sys/devices/pci"), 96, "host bridges")
    # Shares of what the first to the last window take together, but for the alignment.
    windows = {segment: windows_of(vm, segment) for segment in (0, 1, 2, 95)}
    t.equal([len(found) for found in windows.values()], [2] * 4, f"windows of a segment: {windows}")
    for number, weights, align in ((0, {1: 4, 2: 1, 95: 2}, 4096), (1, {1: 13, 2: 1}, 4 << 30)):
        first, last = windows[0][number], windows[95][number]
        share = (last[0] + last[1] - first[0]) / (96 + sum(weight - 1 for weight in weights.values()))
        for segment, weight in weights.items():
            size = windows[segment][number][1]
            t.check(abs(size - weight * share) <= align, f"segment {segment} has {size} bytes for weight {weight} with shares of {share:.0f}")
    t.equal(vm.shell("cat /sys/bus/pci/devices/005f:00:1f.0/vendor").strip(), "0x1af4", "device in the last slot of the last segment")
    t.check(vm.facts()["rng"].startswith("virtio_rng"), "the device of the last segment does not work")
    vm.put("vm.resize", {"desired_vcpus": 2, "desired_ram": 384 << 20})
    t.wait_for(lambda: "1" in vm.shell("cat /sys/devices/system/cpu/present").strip()[1:], "the second vCPU", 30)
    vm.shell("echo 1 >/sys/devices/system/cpu/cpu1/online")
    t.wait_for(lambda: "100000000-107ffffff" in vm.shell("cat /proc/iomem"), "the added memory", 30)


@test(timeout=120)
def strict_with_nodes(t):
    """The same with nodes, virtio-mem in a zone, and vCPUs that can come."""
    vm = boot(t, "trixie-elf", "--memory-zone", "id=left,size=256M", "id=right,size=128M,hotplug_size=128M,hotplugged_size=128M",
              "--numa", "guest_numa_id=0,cpus=[0,2],memory_zones=[left],distances=[1@21],pci_segments=[0,2]",
              "guest_numa_id=1,cpus=[1,3],memory_zones=[right],pci_segments=[1,3]", "--platform", "num_pci_segments=4",
              cpus="2,max=4", memory="0,hotplug_method=virtio-mem", words=("acpi=strict",))
    facts = vm.ready()
    t.equal(facts.all("acpi-problem"), [], "complaints about ACPI in the kernel log")
    node = "/sys/devices/system/node"
    t.equal(vm.shell(f"cat {node}/node0/cpulist {node}/node1/cpulist").split(), ["0", "1"], "CPUs of the nodes")
    t.equal(vm.shell("ls -d /sys/devices/pci*").count("/sys/devices/pci"), 4, "host bridges")
    vm.put("vm.resize", {"desired_vcpus": 4})
    t.wait_for(lambda: vm.shell("cat /sys/devices/system/cpu/present").strip() == "0-3", "two more vCPUs", 30)
    vm.shell("for cpu in 2 3; do echo 1 >/sys/devices/system/cpu/cpu$cpu/online; done")
    t.equal(vm.shell(f"cat {node}/node0/cpulist {node}/node1/cpulist").split(), ["0,2", "1,3"], "CPUs of the nodes with those that came")
    t.equal(vm.shell("dmesg | grep -cE 'ACPI.*([Ee]rror|BUG|[Ee]xception)' || true").strip(), "0", "complaints about ACPI since")


@test(timeout=60)
def hyperv(t):
    """Linux takes KVM as its hypervisor though KVM's leaves are behind Hyper-V's."""
    vm = boot(t, "bookworm-elf", cpus="1,kvm_hyperv=on")
    vm.ready()
    t.check("KVM" in vm.shell("dmesg | grep 'Hypervisor detected'"), "the guest does not know its hypervisor")
