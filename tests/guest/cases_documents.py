# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands of Cloud Hypervisor's README and docs, with kumo and kumo-remote in the place of its programs.

The tables hold each command as the document has it, only the program's name and what belongs to the shell left out. What has no
counterpart here yet must be refused by its name, not taken and ignored.
"""

import json
import os
import re
import shlex
import shutil
import subprocess

from harness.vmm import ApiError
from kit import DISK_BYTES, REMOTE, case

GIB, MIB = 1 << 30, 1 << 20
NOT_YET = "not supported yet"

# (document, options of cloud-hypervisor, what vm.info's configuration must say then)
COMMANDS = (
    ("README", '--kernel ./hypervisor-fw --disk path=focal-server-cloudimg-amd64.raw path=/tmp/ubuntu-cloudinit.img --cpus boot=4 '
     '--memory size=1024M --net "tap=,mac=,ip=,mask="',
     {"cpus.boot_vcpus": 4, "memory.size": GIB, "disks.0.path": "focal-server-cloudimg-amd64.raw", "disks.1.path": "/tmp/ubuntu-cloudinit.img",
      "net.0.id": "_net0", "console.mode": "Tty", "serial.mode": "Null"}),
    ("README", '--firmware ./hypervisor-fw --disk path=focal-server-cloudimg-amd64.raw path=/tmp/ubuntu-cloudinit.img --cpus boot=4 '
     '--memory size=1024M --net "tap=,mac=,ip=,mask="', {"payload.firmware": "./hypervisor-fw"}),
    ("README", '--kernel ./hypervisor-fw --disk path=focal-server-cloudimg-amd64.raw path=/tmp/ubuntu-cloudinit.img --cpus boot=4 '
     '--memory size=1024M --net "tap=,mac=,ip=,mask=" --serial tty --console off', {"serial.mode": "Tty", "console.mode": "Off"}),
    ("README", '--kernel ./linux-cloud-hypervisor/arch/x86/boot/compressed/vmlinux.bin '
     '--disk path=focal-server-cloudimg-amd64.raw path=/tmp/ubuntu-cloudinit.img --cmdline "console=hvc0 root=/dev/vda1 rw" --cpus boot=4 '
     '--memory size=1024M --net "tap=,mac=,ip=,mask="', {"payload.cmdline": "console=hvc0 root=/dev/vda1 rw"}),
    ("README", '--kernel ./linux-cloud-hypervisor/arch/x86/boot/compressed/vmlinux.bin --console off --serial tty '
     '--disk path=focal-server-cloudimg-amd64.raw --cmdline "console=ttyS0 root=/dev/vda1 rw" --cpus boot=4 --memory size=1024M '
     '--net "tap=,mac=,ip=,mask="', {"serial.mode": "Tty"}),
    ("uefi", "--firmware ./CLOUDHV.fd --disk path=guest.raw", {"payload.firmware": "./CLOUDHV.fd"}),
    ("debug-port", "--kernel ~/rust-hypervisor-firmware/target/release/hypervisor-fw --disk path=~/hypervisor/images/focal-server-cloudimg-amd64.raw "
     "--cpus boot=4 --memory size=1024M --rng --log-file /tmp/ch-fw.log -vvv", {"rng.src": "/dev/urandom"}),
    ("cpu", "--cpus boot=2", {"cpus.boot_vcpus": 2, "cpus.max_vcpus": 2}),
    ("cpu", "--cpus max=3", {"cpus.boot_vcpus": 1, "cpus.max_vcpus": 3}),
    ("cpu", "--cpus boot=2,topology=1:1:2:1", {"cpus.topology.dies_per_package": 2}),
    ("cpu", "--cpus max_phys_bits=40", {"cpus.max_phys_bits": 40}),
    ("cpu", "--cpus nested=on", {"cpus.nested": True}),
    ("cpu", "--cpus boot=2,core_scheduling=vm", {"cpus.core_scheduling": "Vm"}),
    ("memory", "--memory size=1G", {"memory.size": GIB}),
    ("memory", "--memory size=1G,mergeable=on", {"memory.mergeable": True}),
    ("memory", "--memory size=1G,hotplug_method=acpi", {"memory.hotplug_method": "Acpi"}),
    ("memory", "--memory size=1G,hotplug_size=1G", {"memory.hotplug_size": GIB}),
    ("memory", "--memory size=1G,hotplug_method=virtio-mem,hotplug_size=1G,hotplugged_size=512M",
     {"memory.hotplug_method": "VirtioMem", "memory.hotplugged_size": 512 * MIB}),
    ("memory", "--memory size=1G,shared=on", {"memory.shared": True}),
    ("memory", "--memory size=1G,prefault=on", {"memory.prefault": True}),
    ("memory", "--memory size=1G,thp=on", {"memory.thp": True}),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G", {"memory.size": 0, "memory.zones.0.size": GIB}),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G,file=/foo/bar", {"memory.zones.0.file": "/foo/bar"}),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G,shared=on", {"memory.zones.0.shared": True}),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G,host_numa_node=0", {"memory.zones.0.host_numa_node": 0}),
    ("memory", "--memory size=0,hotplug_method=virtio-mem --memory-zone id=mem0,size=1G,hotplug_size=1G", {"memory.zones.0.hotplug_size": GIB}),
    ("memory", "--memory size=0,hotplug_method=virtio-mem --memory-zone id=mem0,size=1G,hotplug_size=1G,hotplugged_size=512M",
     {"memory.zones.0.hotplugged_size": 512 * MIB}),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G,prefault=on", {"memory.zones.0.prefault": True}),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G,mergeable=on", {"memory.zones.0.mergeable": True}),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G id=mem1,size=1G id=mem2,size=1G "
     "--numa guest_numa_id=0,memory_zones=[mem0,mem2] guest_numa_id=1,memory_zones=mem1", {"numa.0.memory_zones": ["mem0", "mem2"]}),
    ("memory", "--cpus boot=4 --memory size=0 --memory-zone id=mem0,size=1G id=mem1,size=1G "
     "--numa guest_numa_id=0,cpus=[0-1],memory_zones=mem0,distances=[1@15] --numa guest_numa_id=1,cpus=[2-3],memory_zones=mem1",
     {"numa.0.cpus": [0, 1], "numa.0.distances.0.distance": 15}),
    ("memory", "--platform num_pci_segments=2 --memory size=0 --memory-zone size=16G,host_numa_node=0,id=mem0 --memory-zone size=16G,id=mem1 "
     "--numa guest_numa_id=0,memory_zones=mem0,pci_segments=[0] --numa guest_numa_id=1,memory_zones=mem1,pci_segments=[1]",
     {"platform.num_pci_segments": 2, "memory.zones.1.size": 16 * GIB, "numa.1.pci_segments": [1]}),
    ("balloon", "--memory size=2G --balloon size=1G", {"balloon.size": GIB}),
    ("balloon", "--memory size=3G --balloon size=2G,deflate_on_oom=on", {"balloon.deflate_on_oom": True}),
    ("balloon", "--balloon size=0,free_page_reporting=on", {"balloon.free_page_reporting": True}),
    ("disk_locking", "--disk path=/foo.img,lock_granularity=byte-range", {"disks.0.lock_granularity": "ByteRange"}),
    ("disk_locking", "--disk path=/bar.img,lock_granularity=full", {"disks.0.lock_granularity": "Full"}),
    ("io_throttling", "--disk path=disk0.raw,ops_size=1000,ops_refill_time=1000", {"disks.0.rate_limiter_config.ops.size": 1000}),
    ("io_throttling", "--disk path=disk0.raw,ops_size=10,ops_refill_time=10", {"disks.0.rate_limiter_config.ops.refill_time": 10}),
    ("io_throttling", "--disk path=disk0.raw,rate_limit_group=group0 path=disk1.raw,rate_limit_group=group0 "
     "--rate-limit-group id=group0,bw_size=1048576,bw_refill_time=100",  # the document forgets the id, see WRONG
     {"disks.1.rate_limit_group": "group0", "rate_limit_groups.0.rate_limiter_config.bandwidth.size": 1048576}),
    ("device_model", "--disk path=disk0.raw,pci_device_id=7 --platform num_pci_segments=2 --net tap=,pci_segment=1",
     {"disks.0.pci_device_id": 7, "net.0.pci_segment": 1}),
    ("logging", "--log-file /tmp/ch.log -v", {}),
    ("logging", "--log-file /tmp/ch.log -vv --log-format '{glog} {tid} {levelchar} {location} {msg}'", {}),
    ("live_migration", '--kernel ~/workloads/vmlinux --disk path=~/workloads/focal.raw --cpus boot=1 --memory size=1G,shared=on '
     '--cmdline "root=/dev/vda1 console=ttyS0" --serial tty --console off --api-socket=/tmp/api1', {"memory.shared": True}),
    ("live_migration", '--serial tty --console off --cpus boot=2 --memory size=4G --kernel /var/images/linux --initramfs /var/images/initrd '
     '--cmdline "console=ttyS0" --api-socket /tmp/api', {"payload.initramfs": "/var/images/initrd"}),
    ("windows-kdcom-debugging", "--cpus boot=4 --memory size=8192M --kernel ./OVMF/CLOUDHV.fd --disk path=./windows.raw --console off "
     "--serial socket=/tmp/serial.sock --net tap=tap0", {"serial.socket": "/tmp/serial.sock", "net.0.tap": "tap0"}),
)

# What depends on the host: (document, options, the word of the refusal where the host has not what it takes).
PERHAPS = (
    ("cpu", "--cpus kvm_hyperv=on", "kvm_hyperv"),
    ("cpu", "--cpus features=amx", "features.amx"),
    ("cpu", "--cpus boot=3,affinity=[0@[2,3],1@[0,1]]", "cpus.affinity"),
    ("memory", "--memory size=1G,hugepages=on,hugepage_size=2M", "huge pages"),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G,hugepages=on,hugepage_size=2M", "huge pages"),
    ("windows", "--kernel ./OVMF/CLOUDHV.fd --disk path=./windows.raw --cpus boot=1,kvm_hyperv=on --memory size=4G --serial tty --console off "
     "--net tap=", "kvm_hyperv"),
)

# (document, options of cloud-hypervisor, the option that is refused)
REFUSED = (
    ("amd_sev_snp", "--platform sev_snp=on --cpus boot=1 --memory size=1G --disk path=ubuntu.img", "--platform sev_snp"),
    ("intel_tdx", "--platform tdx=on --firmware OVMF.fd --cpus boot=1 --memory size=1G --disk path=tdx_guest_img", "--platform tdx"),
    ("fs", '--cpus boot=1 --memory size=1G,shared=on --disk path=focal-server-cloudimg-amd64.raw --kernel vmlinux '
     '--cmdline "console=hvc0 root=/dev/vda1 rw" --fs tag=myfs,socket=/tmp/virtiofs,num_queues=1,queue_size=512', "--fs"),
    ("fw_cfg", "--kernel vmlinux --fw-cfg-config initramfs=off,items=[name=opt/org.mycorp/setup_info,file=/tmp/guest_setup.txt]", "--fw-cfg-config"),
    ("gdb", '--kernel hypervisor-fw --disk path=bionic-server-cloudimg-amd64.raw --cpus boot=1 --memory size=1024M --net "tap=,mac=,ip=,mask=" '
     '--console off --serial tty --gdb path=/tmp/ch-gdb-sock', "--gdb"),
    ("generic-vhost-user", '--memory size=1G,shared=on --kernel vmlinux --generic-vhost-user "socket=\\"/tmp/fs\\",device_type=26,queue_sizes=[512,512]"',
     "--generic-vhost-user"),
    ("heap-profiling", '--kernel ~/src/linux/vmlinux --pmem file=~/workloads/focal.raw --cpus boot=1 --memory size=1G '
     '--cmdline "root=/dev/pmem0p1 console=ttyS0"', "--pmem"),
    ("iommu", "--cpus boot=1 --memory size=512M --disk path=focal-server-cloudimg-amd64.raw,iommu=on --kernel custom-vmlinux", "--disk iommu"),
    ("iommu", "--cpus boot=1 --memory size=1G --kernel custom-vmlinux --net tap=,mac=,iommu=on", "--net iommu"),
    ("iommu", "--cpus boot=1 --memory size=4G --kernel custom-vmlinux --device path=/sys/bus/pci/devices/0000:00:04.0", "--device"),
    ("iommu", "--cpus boot=1 --memory size=4G --kernel custom-vmlinux --platform num_pci_segments=2,iommu_segments=1", "--platform iommu_segments"),
    ("ivshmem", "--kernel vmlinux --disk path=focal-server-cloudimg-amd64.raw --cpus boot=4 --memory size=1024M "
     "--ivshmem path=/tmp/ivshmem.data,size=1M", "--ivshmem"),
    ("memory", "--kernel vmlinux --numa guest_numa_id=2,device_id=gpu0,distances=[0@25,1@30]", "--numa device_id"),
    ("tpm", '--kernel ./hypervisor-fw --disk path=focal-server-cloudimg-amd64.raw --cpus boot=4 --memory size=1024M --tpm socket="/var/run/swtpm.socket"',
     "--tpm"),
    ("vdpa", "--cpus boot=1 --memory size=1G --kernel vmlinux --vdpa path=/dev/vhost-vdpa-0,num_queues=1", "--vdpa"),
    ("vfio", "--kernel ~/vmlinux --cpus boot=4 --memory size=512M --device path=/sys/bus/pci/devices/0000:01:00.0/", "--device"),
    ("vfio-user", "--memory size=1G,shared=on --kernel vmlinux --user-device socket=/tmp/vfio-user.sock", "--user-device"),
    ("vhost-user-blk-testing", "--kernel vmlinux --memory size=1024M,shared=true --disk path=images/focal-server-cloudimg-amd64.raw "
     "vhost_user=true,socket=/var/tmp/vhost.1,num_queues=4,queue_size=128", "--disk vhost_user"),
    ("vhost-user-net-testing", "--kernel vmlinux --net mac=52:54:00:02:d9:01,vhost_user=true,socket=/tmp/vhost-user1,num_queues=4,vhost_mode=server",
     "--net vhost_user"),
    ("vsock", "--cpus boot=1 --memory size=4G --firmware CLOUDHV.fd --disk path=jammy-server-cloudimg.raw --vsock cid=3,socket=/tmp/ch.vsock", "--vsock"),
)

# (document, sub-command of ch-remote, what is refused)
REMOTE_REFUSED = (
    ("hotplug", "add-device path=/sys/bus/pci/devices/0000:01:00.0/", "vm.add-device"),
    ("hotplug", "add-fs tag=myfs,socket=/foo/bar/virtiofs.sock", "vm.add-fs"),
    ("hotplug", "add-pmem file=/foo/bar.cloud.img", "vm.add-pmem"),
    ("hotplug", "add-vsock cid=3,socket=/foo/bar/vsock.sock", "vm.add-vsock"),
    ("iommu", "add-device path=/sys/bus/pci/devices/0000:00:04.0,iommu=on,pci_segment=1", "vm.add-device"),
)

# (document, options, what is wrong with it): Cloud Hypervisor refuses these, too.
WRONG = (
    ("io_throttling", "--disk path=disk0.raw,rate_limit_group=group0 path=disk1.raw,rate_limit_group=group0 "
     "--rate-limit-group bw_size=1048576,bw_refill_time=100", "rate_limit_groups[0].id"),
    ("memory", "--memory size=0 --memory-zone id=mem0,size=1G,hugepage_size=2M", "hugepage_size"),
)

# PUT requests of docs/api.md, in their order.
CREATE = """{
    "cpus":{"boot_vcpus": 4, "max_vcpus": 4},
    "payload":{"kernel":"/opt/clh/kernel/vmlinux-virtio-fs-virtio-iommu", "cmdline":"console=ttyS0 console=hvc0 root=/dev/vda1 rw"},
    "disks":[{"path":"/opt/clh/images/focal-server-cloudimg-amd64.raw"}],
    "rng":{"src":"/dev/urandom"},
    "net":[{"ip":"192.168.10.10", "mask":"255.255.255.0", "mac":"12:34:56:78:90:01"}]
}"""


class Documents:
    """The place where the documents' files are: each path of theirs, but in /dev and /sys, is one below the test's directory."""

    def __init__(self, h):
        self.h = h
        self.t = h.t
        h.t.network()  # for the taps
        if not shutil.which("curl"):
            h.t.skip("no curl")

    def here(self, text):
        text = text.replace("~/", "/home/me/")
        return re.sub(r"(?<![\w.\]])/(tmp|opt|foo|home|var|bar\.img|foo\.img)\b", rf"{self.t.directory}/\1", text)

    def place(self, path, content=None):
        """Puts the guest, or a disk, where a command looks for it."""
        path = os.path.join(self.t.directory, path)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not os.path.exists(path):
            if content:
                shutil.copy(content, path)
            else:
                with open(path, "wb") as file:
                    file.truncate(DISK_BYTES)

    def words(self, options):
        """A command's words, with its files made, and a kernel if it has none: many documents show single options only."""
        words = shlex.split(self.here(options))
        if "--kernel" not in words and "--firmware" not in words:
            words = ["--kernel", "vmlinux", *words]
        for option, value in zip(words, words[1:]):
            if option in ("--kernel", "--firmware", "--initramfs"):
                self.place(value, self.h.elf)
        for word in words:
            path = re.match(r"path=([^,]+)", word)
            if path and not path[1].startswith(("/dev/", "/sys/")):
                self.place(path[1])
            file = re.search(r",file=([^,]+)", word)
            if file:  # of a memory zone: a directory
                os.makedirs(file[1], exist_ok=True)
            log = re.match(r"--log-file|--api-socket|--serial", word)
            if log:
                os.makedirs(self.t.path("tmp"), exist_ok=True)
        return words

    def start(self, options):
        """Starts a command. Returns the VM, with its API at the command's socket or at one added."""
        words = self.words(options)
        api = next((words[i + 1] if word == "--api-socket" else word.partition("=")[2] for i, word in enumerate(words)
                    if word.startswith("--api-socket")), None)
        vm = self.t.kumo(*words, serial=None, console=None, api=not api, cwd=self.t.directory)
        if api:
            vm.api_path = api
            vm.wait_api()
        return vm

    def refused(self, label, document, options, *expected):
        done = subprocess.run(["kumo", *self.words(options)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              cwd=self.t.directory, timeout=30, check=False)
        text = done.stdout.decode(errors="replace").strip()
        good = done.returncode == 1 and all(word in text for word in expected)
        self.h.check(good, f"{document}: {label}: {' '.join(expected)}" + ("" if good else f": status {done.returncode}: {text[-300:]}"))


def value_at(config, path):
    for key in path.split("."):
        config = config[int(key)] if isinstance(config, list) else config[key]
    return config


@case
def documented(h):
    """Every command line of the documents starts a guest with what it asks for, or is refused by the name of what is missing."""
    documents = Documents(h)
    for document, options, expected in COMMANDS:
        label = f"{document}: {options[:90]}"
        try:
            vm = documents.start(options)
            info = vm.info()
            found = {key: value_at(info["config"], key) for key in expected}
            wanted = {key: documents.here(value) if isinstance(value, str) else value for key, value in expected.items()}
            h.check(info["state"] == "Running" and found == wanted, f"{label}" + ("" if found == wanted else f": {found}, not {wanted}"))
            if "--serial tty" in options:
                h.t.wait_for(lambda vm=vm: "tick" in vm.log(), "the guest's words on the terminal", 20)
            vm.put("vmm.shutdown")
            vm.wait_exit(0, 20)
        except (AssertionError, ApiError, KeyError, IndexError) as failure:
            h.check(False, f"{label}: {failure}")
    for document, options, word in PERHAPS:
        vm = h.t.kumo(*documents.words(options), "--api-socket", h.t.path("perhaps"), serial=None, console=None, api=False, cwd=h.t.directory)
        vm.api_path = h.t.path("perhaps")
        h.t.wait_for(lambda vm=vm: vm.process.poll() is not None or os.path.exists(vm.api_path), "kumo's start", 20)
        try:
            running = vm.process.poll() is None and vm.state() == "Running"
        except (ApiError, OSError, AssertionError):
            running = False
        if running:
            vm.put("vmm.shutdown")
        vm.wait_exit(0 if running else 1, 20)
        h.check(running or word in vm.log(), f"{document}: {options}: {'runs' if running else 'this host has not what it takes: ' + vm.log().strip()[-150:]}")


@case
def documented_refusals(h):
    """What the documents show of devices that are not there yet is refused by name; so is what they get wrong."""
    documents = Documents(h)
    for document, options, name in REFUSED:
        documents.refused("is refused", document, options, name, NOT_YET)
    for document, options, word in WRONG:
        documents.refused("is wrong", document, options, word)
    vm = documents.start("--kernel vmlinux")
    for document, command, word in REMOTE_REFUSED:
        text = h.t.run(REMOTE, "--api-socket", vm.api_path, *shlex.split(documents.here(command)), status=None, cwd=h.t.directory)
        h.check(word in text and "support" in text, f"{document}: {command}: {text.strip()[-150:]}")
    h.check(vm.state() == "Running", "and the guest goes on")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)


def curl(documents, api, *arguments):
    """curl as docs/api.md calls it. Returns status and body."""
    text = documents.t.run("curl", "--silent", "--unix-socket", api, "-i", *arguments)
    head, _, body = text.replace("\r", "").partition("\n\n")
    return int(head.split()[1]), body


@case
def documented_requests(h):
    """The requests of docs/api.md by curl, and the sub-commands of the documents on hot-plugging, snapshots and migration by
    kumo-remote, one after the other as a reader types them."""
    documents = Documents(h)
    api = documents.here("/tmp/cloud-hypervisor.sock")
    base = "http://localhost/api/v1/"
    json_in, json_out = ("-H", "Content-Type: application/json"), ("-H", "Accept: application/json")
    for form in ("path=", ""):
        os.makedirs(h.t.path("tmp"), exist_ok=True)
        vm = h.t.kumo("--api-socket", f"{form}{api}", serial=None, console=None, api=False)
        vm.api_path = api
        h.t.wait_for(lambda: os.path.exists(api), "the API's socket", 10)
        h.check(vm.wait_api()["pid"] == vm.process.pid, f"api: --api-socket {form}/tmp/cloud-hypervisor.sock")
        if form:
            vm.put("vmm.shutdown")
            vm.wait_exit(0, 20)
    body = json.loads(documents.here(CREATE))
    documents.place(body["payload"]["kernel"], h.elf)
    documents.place(body["disks"][0]["path"])
    status, text = curl(documents, api, "-X", "PUT", f"{base}vm.create", *json_out, *json_in, "-d", documents.here(CREATE))
    h.check(status == 204, f"api: vm.create: {status} {text}")
    for name, state in (("boot", "Running"), ("reboot", "Running"), ("shutdown", "Created")):
        status, text = curl(documents, api, "-X", "PUT", f"{base}vm.{name}")
        h.check(status == 204 and vm.state() == state, f"api: vm.{name}: {status} {text}, {vm.state()}")
        status, text = curl(documents, api, "-X", "GET", f"{base}vm.info", *json_out)
        h.check(status == 200 and json.loads(text)["config"]["net"][0]["ip"] == "192.168.10.10", f"api: vm.info after vm.{name}")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)

    def remote(document, command, vm, status=0):
        try:
            text = h.t.run(REMOTE, f"--api-socket={vm.api_path}", *shlex.split(documents.here(command)), status=status, cwd=h.t.directory)
        except AssertionError as failure:
            h.check(False, f"{document}: {command}: {failure}")
            return None
        h.check(True, f"{document}: {command}")
        return json.loads(text) if text.startswith("{") else text

    vm = documents.start('--kernel custom-vmlinux.bin --cmdline "console=ttyS0 console=hvc0 root=/dev/vda1 rw" --disk path=focal-server-cloudimg-amd64.raw '
                         '--cpus boot=4,max=8 --memory size=1024M,hotplug_size=8192M --net "tap=,mac=,ip=,mask=" --rng --api-socket=/tmp/ch-socket')
    documents.place(documents.here("/foo/bar/cloud.img"))
    remote("hotplug", "resize --cpus 8", vm)
    h.check(vm.info()["config"]["cpus"]["boot_vcpus"] == 8, "the VM has 8 vCPUs")
    remote("hotplug", "resize --memory 3G", vm)
    h.check(vm.info()["memory_actual_size"] == 3 * GIB, "and 3 GiB")
    for command, expected in (("add-disk path=/foo/bar/cloud.img", "_disk1"), ("add-net tap=chtap0", "_net1")):
        added = remote("hotplug", command, vm)
        h.check(added and added["id"] == expected and re.fullmatch(r"0000:00:[01][0-9a-f]\.0", added["bdf"]), f"the answer: {added}")
    remote("hotplug", "remove-device _disk0", vm)
    remote("hotplug", "resize --cpus 2", vm)
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)

    vm = documents.start('--kernel custom-vmlinux.bin --cmdline "console=ttyS0 console=hvc0 root=/dev/vda1 rw" --disk path=focal-server-cloudimg-amd64.raw '
                         '--memory size=1024M,hotplug_size=8192M,hotplug_method=virtio-mem --net "tap=,mac=,ip=,mask=" --api-socket=/tmp/ch-socket')
    remote("hotplug", "resize --memory 3G", vm)
    h.check(vm.api("GET", "vm.counters")["mem0"]["requested_bytes"] == 2 * GIB, "virtio-mem asks the guest to take 2 GiB")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)

    vm = documents.start('--api-socket /tmp/cloud-hypervisor.sock --cpus boot=4 --memory size=4G --kernel vmlinux '
                         '--cmdline "root=/dev/vda1 console=hvc0 rw" --disk path=focal-server-cloudimg-amd64.raw')
    os.makedirs(documents.here("/home/foo/snapshot"))
    remote("snapshot_restore", "pause", vm)
    remote("snapshot_restore", "snapshot file:///home/foo/snapshot", vm)
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
    url = "source_url=file:///home/foo/snapshot"
    for more, state in (("", "Paused"), (",resume=true", "Running"), (",memory_restore_mode=ondemand", "Paused")):
        vm = h.t.kumo("--api-socket", api, "--restore", documents.here(url) + more, serial=None, console=None, api=False, cwd=h.t.directory)
        vm.api_path = api
        h.t.wait_for(lambda: os.path.exists(api), "the API's socket", 10)
        vm.wait_api()
        h.check(vm.state() == state, f"snapshot_restore: --restore source_url=…{more}: {vm.state()}")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
    vm = h.t.kumo("--api-socket", api, serial=None, console=None, api=False, cwd=h.t.directory)
    vm.api_path = api
    h.t.wait_for(lambda: os.path.exists(api), "the API's socket", 10)
    vm.wait_api()
    remote("snapshot_restore", f"restore {url}", vm)
    remote("snapshot_restore", "resume", vm)
    h.check(vm.state() == "Running", "the guest runs again")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
