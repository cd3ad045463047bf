# SPDX-License-Identifier: LGPL-2.1-or-later
"""Disks and NICs that come and go under a stock kernel, while others are in use."""

import os

from harness import ApiError, boot, events_of, guest, test

MIB = 1 << 20
CYCLES = 8


def empty_file(t, name, size):
    path = t.path(name)
    with open(path, "wb") as stream:
        stream.truncate(size)
    return path


def ids(vm):
    info = vm.info()
    configured = [device["id"] for key in ("disks", "net") for device in info["config"].get(key) or []]
    return sorted(configured), set(info["device_tree"])


def wait_gone(t, vm, device):
    def gone():
        configured, tree = ids(vm)
        return device not in configured and device not in tree
    t.wait_for(gone, f"{device} to go", 20, every=0.1)


@test(timeout=120)
def come_and_go_under_load(t):
    """Again and again a disk and a NIC come and go, while a disk and a NIC that stay carry traffic without an error; nothing
    stays behind in the process."""
    t.tap("tap0", "192.168.77.1/24")
    t.tap("tap1", "192.168.78.1/24")
    events = t.path("events")
    extra = empty_file(t, "extra.raw", 8 * MIB)
    vm = boot(t, "bookworm-elf", "--disk", f"path={guest.root_disk(t.path('root.ext4'))}", "--net", "tap=tap0",
              "--event-monitor", f"path={events}", cpus=2, run=("facts", "ip:192.168.77.2/24"))
    vm.ready()
    vm.shell("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")
    vm.shell("(while [ ! -e /stop ]; do dd if=/dev/zero of=/mnt/load bs=64k count=8 conv=fsync 2>/dev/null || "
             "touch /bad-disk; sleep 0.3; done; touch /stopped) & ping -i 0.5 192.168.77.1 >/ping 2>&1 & :")
    slots = set()
    before = None
    for cycle in range(CYCLES):
        disk = vm.put("vm.add-disk", {"path": extra, "id": "extra"})
        net = vm.put("vm.add-net", {"tap": "tap1", "mac": "52:54:00:00:00:77"})
        t.equal(disk["id"], "extra", "id of the disk")
        slots.update((disk["bdf"], net["bdf"]))
        vm.shell("until [ -e /dev/vdb ] && [ -e /sys/class/net/eth1 ]; do sleep 0.2; done; "
                 f"echo cycle {cycle} | dd of=/dev/vdb bs=512 count=1 conv=sync,fsync 2>/dev/null && "
                 f"dd if=/dev/vdb bs=512 count=1 2>/dev/null | grep -q 'cycle {cycle}' && ip link set eth1 up && "
                 "ip address add 192.168.78.2/24 dev eth1 && ping -c 1 -W 10 192.168.78.1", 30)
        vm.put("vm.remove-device", {"id": disk["id"]})
        vm.put("vm.remove-device", {"id": net["id"]})
        vm.shell("until [ ! -e /dev/vdb ] && [ ! -e /sys/class/net/eth1 ]; do sleep 0.2; done", 30)
        wait_gone(t, vm, disk["id"])
        wait_gone(t, vm, net["id"])
        # The first time makes what stays for good: a worker that devices share, caches of the allocator.
        before = before or vm.footprint()
    t.equal(len(slots), 2, "slots that were used")
    vm.wait_no_more_than(before)
    with open(events, encoding="utf-8") as stream:
        text = stream.read()
    t.equal(text.count('"device-removed"'), 2 * CYCLES, "events of removed devices")
    t.check(disk["bdf"] in text and '"extra"' in text, "the events do not name device and address")
    vm.shell("touch /stop; killall -INT ping; until [ -e /stopped ]; do sleep 0.1; done; [ ! -e /bad-disk ]", 30)
    loss = vm.shell("grep loss /ping")
    t.equal(guest.lost_echoes(loss), 0, f"echoes lost by the NIC that stays, {loss.strip()}")
    vm.shell("umount /mnt && mount -t ext4 /dev/vda /mnt && [ $(wc -c </mnt/load) = 524288 ]")


@test(timeout=120)
def into_another_segment(t):
    """Devices come into and go from segment 1 and slots that were asked for, and work there; a wrong place is refused."""
    t.tap("tap0", "192.168.77.1/24")
    events = t.path("events")
    disks = [empty_file(t, f"disk{number}.raw", MIB) for number in range(4)]
    vm = boot(t, "bookworm-elf", "--platform", "num_pci_segments=2", "--rng", "src=/dev/urandom,pci_segment=1,pci_device_id=3",
              "--event-monitor", f"path={events}", cpus="1,max=2")
    t.equal(vm.ready().all("acpi-problem"), [], "complaints about ACPI in the kernel log")
    places = (("vm.add-disk", {"path": disks[0], "id": "first", "pci_segment": 1, "pci_device_id": 0}, "0001:00:00.0"),
              ("vm.add-disk", {"path": disks[1], "id": "last", "pci_segment": 1, "pci_device_id": 31}, "0001:00:1f.0"),
              ("vm.add-disk", {"path": disks[2], "id": "here", "pci_device_id": 20}, "0000:00:14.0"),
              ("vm.add-net", {"tap": "tap0", "id": "nic", "pci_segment": 1}, "0001:00:01.0"))
    kinds = {"vm.add-disk": ("0x1042", "0x018000"), "vm.add-net": ("0x1041", "0x020000")}
    device = "/sys/bus/pci/devices"

    def add_all():
        for endpoint, body, place in places:
            t.equal(vm.put(endpoint, body), {"id": body["id"], "bdf": place}, f"answer to {endpoint} {body}")
            vm.shell(f"until [ -e {device}/{place}/virtio*/driver ]; do sleep 0.1; done", 30)
            seen = vm.shell(f"cd {device}/{place} && cat vendor device class").split()
            t.equal(seen, ["0x1af4", *kinds[endpoint]], f"what the guest has at {place}")
        t.equal({id: tree["pci_bdf"] for id, tree in vm.info()["device_tree"].items() if id in ("first", "last", "here", "nic")},
                {body["id"]: place for _, body, place in places}, "vm.info's device tree")

    def use_all():
        for _, body, place in places[:3]:
            vm.shell(f"name=$(ls {device}/{place}/virtio*/block) && echo {body['id']} | dd of=/dev/$name bs=512 count=1 conv=sync,fsync 2>/dev/null")
            with open(body["path"], "rb") as stream:
                t.equal(stream.read(len(body["id"])), body["id"].encode(), f"what the guest wrote to the disk at {place}")
        vm.shell(f"[ $(ls {device}/{places[3][2]}/virtio*/net) = eth0 ] && ip link set eth0 up && "
                 "ip address add 192.168.77.2/24 dev eth0 && ping -c 2 -W 10 192.168.77.1", 30)

    add_all()
    use_all()
    for body, status, word in (({"pci_segment": 2}, 400, "pci_segment"), ({"pci_segment": 1, "pci_device_id": 32}, 400, "pci_device_id"),
                               ({"pci_device_id": 0}, 400, "pci_device_id"), ({"pci_segment": 1, "pci_device_id": 31}, 409, "31 is taken"),
                               ({"pci_segment": 1, "pci_device_id": 3}, 409, "3 is taken"), ({"pci_device_id": -1}, 400, "pci_device_id")):
        try:
            vm.put("vm.add-disk", {"path": disks[3], "id": "wrong", **body})
            t.check(False, f"accepted: {body}")
        except ApiError as error:
            t.check(error.status == status and word in error.text, f"{body}: {error}")
    for _, body, place in places:
        vm.put("vm.remove-device", {"id": body["id"]})
        vm.shell(f"until [ ! -e {device}/{place} ]; do sleep 0.1; done", 30)
        wait_gone(t, vm, body["id"])
    t.equal(events_of(events, "device-removed"), [{"id": body["id"], "bdf": place} for _, body, place in places], "events of removed devices")
    t.equal(events_of(events, "reset"), [{"id": body["id"]} for _, body, _ in places], "events of devices that the guest has reset")
    vm.shell(f"[ -e {device}/0001:00:03.0/virtio*/driver ]")
    add_all()
    use_all()


@test(timeout=60)
def a_disk_tells_of_errors_and_of_its_threshold(t):
    """The events io-error and block-threshold, of what a stock guest reads and writes."""
    path, events = empty_file(t, "data.raw", 8 * MIB), t.path("events")
    vm = boot(t, "bookworm-elf", "--disk", f"path={path},id=data", "--event-monitor", f"path={events}")
    vm.ready()
    vm.put("vm.update-disk", {"id": "data", "write_threshold": 4 * MIB})
    vm.shell("dd if=/dev/zero of=/dev/vda bs=64k count=32 conv=fsync 2>/dev/null")
    t.equal(events_of(events, "block-threshold"), [], "events below the threshold")
    t.equal(vm.info()["config"]["disks"][0]["write_threshold"], 4 * MIB, "threshold")
    vm.shell("dd if=/dev/zero of=/dev/vda bs=64k seek=64 count=2 conv=fsync 2>/dev/null")
    t.wait_for(lambda: events_of(events, "block-threshold"), "the event", 10, every=0.1)
    told = events_of(events, "block-threshold")
    t.check(len(told) == 1 and told[0]["id"] == "data" and told[0]["threshold"] == 4 * MIB and 0 < told[0]["excess"] <= 128 << 10, f"{told}")
    vm.put("vm.reboot")
    vm.ready(times=2)
    t.equal(vm.info()["config"]["disks"][0]["write_threshold"], 0, "threshold after the event and a reboot")
    os.truncate(path, MIB)
    vm.shell("! dd if=/dev/vda of=/dev/null bs=4k skip=512 count=1 2>/dev/null")
    t.wait_for(lambda: {"id": "data", "operation": "read", "error": "EIO"} in events_of(events, "io-error"), "the event of the error", 10, every=0.1)


@test(timeout=120)
def survives_a_reboot(t):
    """A disk added at run time is there after the guest's reboot, at the same address; a removed one is not."""
    vm = boot(t, "bookworm-elf", "--disk", f"path={empty_file(t, 'first.raw', MIB)},serial=first", cpus=2)
    vm.ready()
    added = vm.put("vm.add-disk", {"path": empty_file(t, "second.raw", 2 * MIB), "serial": "second"})
    vm.shell("until [ -e /dev/vdb ]; do sleep 0.05; done; cat /sys/block/vdb/serial | grep second")
    vm.put("vm.remove-device", {"id": "_disk0"})
    wait_gone(t, vm, "_disk0")
    vm.console.send("/init reboot\n")
    facts = vm.ready(times=2)
    t.equal(facts.all("disk")[-1], f"vda {2 * MIB} bytes writable", "disk after the reboot")
    t.check(added["bdf"] in vm.shell("readlink -f /sys/block/vda"), f"the disk has moved from {added['bdf']}")
    t.equal(ids(vm)[0], [added["id"]], "configured devices")


@test(timeout=120)
def grows_a_disk(t):
    """vm.resize-disk changes the file and the guest's idea of it, without a reboot."""
    path = empty_file(t, "data.raw", 4 * MIB)
    vm = boot(t, "bookworm-elf", "--disk", f"path={path},id=data")
    vm.ready()
    for size in (16 * MIB, 2 * MIB, 64 * MIB):
        vm.put("vm.resize-disk", {"id": "data", "desired_size": size})
        t.equal(os.stat(path).st_size, size, "size of the file")
        vm.shell(f"until [ $(cat /sys/block/vda/size) = {size // 512} ]; do sleep 0.05; done")
    vm.shell(f"echo end | dd of=/dev/vda bs=512 seek={64 * MIB // 512 - 1} conv=sync,fsync 2>/dev/null")
    with open(path, "rb") as stream:
        stream.seek(-512, os.SEEK_END)
        t.equal(stream.read(4), b"end\n", "what was written to the new end")
    for body, status in (({"id": "data", "desired_size": 1000}, 400), ({"id": "data", "desired_size": 0}, 400),
                         ({"id": "nobody", "desired_size": MIB}, 404), ({"id": "__rng", "desired_size": MIB}, 400)):
        try:
            vm.put("vm.resize-disk", body)
            t.check(False, f"accepted: {body}")
        except ApiError as error:
            t.equal(error.status, status, f"status of {body}")
