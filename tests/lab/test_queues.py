# SPDX-License-Identifier: LGPL-2.1-or-later
"""Several queues, offloads, discard and SMBIOS, as the tools of a stock Debian tell them."""

import hashlib
import json
import os
import random
import re
import socket
import threading

from harness import boot, guest, test

MIB = 1 << 20
DISK = 32 * MIB
MTU = 1400
ADDRESS = "192.168.77.1"
OFFLOAD_BITS = (0, 1, 7, 8, 11, 12)  # CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6 of virtio-net
SMBIOS = {  # key of --platform: file in /sys/class/dmi/id
    "system_manufacturer": "sys_vendor", "system_product_name": "product_name", "system_version": "product_version",
    "system_serial_number": "product_serial", "system_uuid": "product_uuid", "system_sku_number": "product_sku",
    "system_family": "product_family", "chassis_asset_tag": "chassis_asset_tag",
}


class Peer:
    """Hands out DATA at one port, takes data at the next, from as many as connect."""

    def __init__(self, t, port, data):
        self.data = data
        self.taken = []
        for number, work in ((port, self._give), (port + 1, self._take)):
            listener = socket.create_server((ADDRESS, number))
            t.cleanup(listener.close)
            threading.Thread(target=self._serve, args=(listener, work), daemon=True).start()

    @staticmethod
    def _serve(listener, work):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:  # closed with the test
                return
            with connection:
                work(connection)

    def _give(self, connection):
        connection.sendall(self.data)

    def _take(self, connection):
        data = bytearray()
        while part := connection.recv(65536):
            data += part
        self.taken.append(bytes(data))


def features(vm, nic):
    """ethtool -k: name and "on" or "off", whether it can be changed or not."""
    return dict(re.findall(r"^\s*([\w-]+): (on|off)", vm.shell(f"ethtool -k {nic}"), re.MULTILINE))


def packets(vm, nic, direction):
    """Packets that the guest's driver counts for each queue."""
    text = vm.shell(f"ethtool -S {nic}")
    return [int(count) for count in re.findall(rf"^\s*{direction}_queue_\d+_packets: (\d+)$", text, re.MULTILINE)]


def interrupts(vm, word):
    """Interrupts of the device's queues whose names have WORD in them, of all processors together."""
    text = vm.shell(f"grep -E ' virtio[0-9]+-{word}' /proc/interrupts")
    return [sum(int(count) for count in line.split()[1:] if count.isdigit()) for line in text.splitlines()]


def exchange(t, vm, peer, port, cpu=0):
    """DATA comes to the guest and goes back, on one processor."""
    digest = hashlib.md5(peer.data).hexdigest()
    before = len(peer.taken)
    found = vm.shell(f"taskset {1 << cpu:x} nc {ADDRESS} {port} </dev/null >/tmp/data; md5sum </tmp/data", 40).split()[0]
    t.equal(found, digest, f"checksum of what came to the guest on CPU {cpu}")
    vm.shell(f"taskset {1 << cpu:x} nc {ADDRESS} {port + 1} </tmp/data", 40)
    t.wait_for(lambda: len(peer.taken) > before, "the data to come back", 20)
    t.check(peer.taken[-1] == peer.data, f"what came back from CPU {cpu} differs")


def sent(t, vm, peer, port):
    """One exchange. Returns packets that the guest sent and received for it."""
    before = sum(packets(vm, "eth0", "tx")), sum(packets(vm, "eth0", "rx"))
    exchange(t, vm, peer, port)
    return sum(packets(vm, "eth0", "tx")) - before[0], sum(packets(vm, "eth0", "rx")) - before[1]


def check_queues(t, vm, peer):
    """Two pairs, each used by a processor of its own; one after ethtool -L; two again."""
    t.equal(re.findall(r"^Combined:\s+(\d+)$", vm.shell("ethtool -l eth0"), re.MULTILINE), ["2", "2"], "pairs: at most, and in use")
    before = packets(vm, "eth0", "tx"), packets(vm, "eth0", "rx"), interrupts(vm, "input")
    for cpu in (0, 1):
        exchange(t, vm, peer, 7001, cpu)
    after = packets(vm, "eth0", "tx"), packets(vm, "eth0", "rx"), interrupts(vm, "input")
    for what, old, new in zip(("sent", "received", "interrupts"), before, after):
        t.check(len(new) >= 2 and all(n > o for n, o in zip(new[:2], old)), f"queues, {what}: {old}, then {new}")
    vm.shell("ethtool -L eth0 combined 1")
    before = packets(vm, "eth0", "tx")
    exchange(t, vm, peer, 7001, 1)
    after = packets(vm, "eth0", "tx")
    t.check(after[0] > before[0] and after[1:] == before[1:], f"one pair: sent {before}, then {after}")
    vm.shell("ethtool -L eth0 combined 2")
    exchange(t, vm, peer, 7001, 1)


def check_offloads(t, vm, peer):
    """What the guest turns off, the host does not do any more; every time the data are the same."""
    t.equal(vm.shell("cat /sys/class/net/eth0/mtu").strip(), str(MTU), "MTU in the guest")
    names = ("tx-checksumming", "tcp-segmentation-offload", "rx-checksumming", "rx-gro-hw", "generic-receive-offload")
    on = {name: "on" for name in names}

    def named():
        return {name: value for name, value in features(vm, "eth0").items() if name in names}

    t.equal(named(), on, "features")
    segments = len(peer.data) // MTU
    few = sent(t, vm, peer, 7001)
    vm.shell("ethtool -K eth0 tx off tso off gro off rx-gro-hw off")
    many = sent(t, vm, peer, 7001)
    t.check(many[0] >= segments and many[1] >= segments, f"without offloads {many} packets were sent and received for {segments} segments")
    t.equal(named(), {name: "on" if name == "rx-checksumming" else "off" for name in names}, "features that were turned off")
    vm.shell("ethtool -K eth0 tx on tso on gro on rx-gro-hw on")
    t.equal(named(), on, "features when all are on again")
    again = sent(t, vm, peer, 7001)
    # Acknowledgements are among them, and TCP makes what it leaves to be cut in pieces as small as the time allows: how many fewer
    # there are says nothing.
    for offloaded in (few, again):
        t.check(all(some < every for some, every in zip(offloaded, many)),
                f"packets sent and received: {few} with offloads, {many} without, {again} with offloads again")


def check_disk(t, vm, disk):
    """Each processor has a queue of its own. What the guest discards or trims, the host's file does not hold any more."""
    t.equal(vm.shell("ls /sys/block/vda/mq").split(), ["0", "1"], "queues of the disk")
    for cpu in (0, 1):
        before = interrupts(vm, "req")[:2]  # behind them comes the disk with the tools
        vm.shell(f"taskset {1 << cpu:x} dd if=/dev/vda of=/dev/null bs=4k count=32 iflag=direct 2>/dev/null")
        after = interrupts(vm, "req")[:2]
        t.check(after[cpu] >= before[cpu] + 8, f"CPU {cpu} has read, interrupts of the disk's queues: {before}, then {after}")

    def held():
        return os.stat(disk).st_blocks * 512

    vm.shell("dd if=/dev/urandom of=/dev/vda bs=1M count=8 oflag=direct 2>/dev/null")
    t.check(held() >= 8 * MIB, f"the file holds {held()} bytes of 8 MiB")
    vm.shell(f"blkdiscard -o {2 * MIB} -l {4 * MIB} /dev/vda")
    t.check(held() <= 4 * MIB + 65536, f"the file holds {held()} bytes after 4 of 8 MiB were discarded")
    vm.shell(f"[ \"$(dd if=/dev/vda bs=1M skip=2 count=4 iflag=direct 2>/dev/null | tr -d '\\0' | wc -c)\" = 0 ]")
    vm.shell("mke2fs /dev/vda >/dev/null 2>&1 && mount -t ext4 /dev/vda /mnt && dd if=/dev/urandom of=/mnt/file bs=1M count=12 2>/dev/null && sync")
    full = held()
    t.check(full >= 12 * MIB, f"the file holds {full} bytes of 12 MiB")
    vm.shell("rm /mnt/file && sync && fstrim /mnt")
    t.check(held() <= full - 11 * MIB, f"the file holds {held()} bytes of {full} after fstrim")
    vm.shell("umount /mnt")


def check_write_cache(t, vm):
    """The guest may switch the disk's write-back cache off and on."""
    for mode in ("write back", "write through", "write back"):
        vm.shell(f"echo '{mode}' >/sys/block/vda/cache_type")
        t.equal(vm.shell("cat /sys/block/vda/cache_type /sys/block/vda/queue/write_cache").splitlines(), [mode, mode], "cache of the disk")
        vm.shell("dd if=/dev/urandom of=/tmp/written bs=64k count=4 2>/dev/null; dd if=/tmp/written of=/dev/vda bs=64k conv=fsync 2>/dev/null && "
                 "dd if=/dev/vda bs=64k count=4 iflag=direct 2>/dev/null | cmp - /tmp/written")


@test(timeout=150)
def queues_offloads_discard_and_smbios(t):
    """A NIC with two pairs of queues, one without offloads, a disk with two queues, and every field of --platform."""
    t.network()
    disk = t.path("disk.raw")
    with open(disk, "wb") as file:
        file.truncate(DISK)
    values = {key: f"kumo's {key.replace('_', ' ')}" for key in SMBIOS}
    values["system_uuid"] = "6b756d6f-0000-4000-8000-00000000abcd"
    strings = ["first of three", "second, with a comma", "third"]
    platform = ",".join([*(f'{key}="{value}"' for key, value in values.items()),
                         "oem_strings=[" + ",".join(f'"{text}"' for text in strings) + "]"])
    tools = guest.programs_disk(t.path("tools.tar"), "/usr/sbin/ethtool", "/usr/sbin/dmidecode")
    vm = boot(t, "bookworm-elf", "--disk", f"path={disk},num_queues=2", f"path={tools},readonly=on",
              "--net", f"tap=tap0,ip={ADDRESS},mask=255.255.255.0,mac=52:54:00:ab:cd:01,num_queues=4,mtu={MTU}",
              "tap=tap1,mac=52:54:00:ab:cd:02,ip=192.168.78.1,mask=255.255.255.0,offload_tso=off,offload_ufo=off,offload_csum=off",
              "--platform", platform, cpus=2, run=("facts", "ip:192.168.77.2/24"))
    vm.ready()
    vm.shell("tar xf /dev/vdb -C /")
    t.equal(json.loads(t.run("ip", "-json", "link", "show", "tap0"))[0]["mtu"], MTU, "MTU of the tap")
    peer = Peer(t, 7001, random.Random(1).randbytes(MIB))
    check_queues(t, vm, peer)
    check_offloads(t, vm, peer)
    # Linux calls what it checks by itself rx-checksumming, too; what was negotiated says more.
    off = features(vm, "eth1")
    for name in ("tx-checksumming", "tcp-segmentation-offload", "rx-gro-hw"):
        t.equal(off[name], "off", f"{name} of the NIC without offloads")
    for nic, expected in (("eth0", "1"), ("eth1", "0")):
        bits = vm.shell(f"cat /sys/class/net/{nic}/device/features").strip()
        t.equal({bits[bit] for bit in OFFLOAD_BITS}, {expected}, f"features of {nic} that are offloads, of {bits}")
    vm.shell("ip link set eth0 down && ip link set eth1 up && ip address add 192.168.78.2/24 dev eth1 && ip route add default via 192.168.78.1")
    exchange(t, vm, peer, 7001)
    check_disk(t, vm, disk)
    check_write_cache(t, vm)
    for key, file in SMBIOS.items():
        t.equal(vm.shell(f"cat /sys/class/dmi/id/{file}").strip(), values[key], f"{key} in /sys/class/dmi/id/{file}")
    t.equal(re.findall(r"^\s*String \d+: (.*)$", vm.shell("dmidecode -t 11"), re.MULTILINE), strings, "OEM strings")
    t.equal(vm.shell("dmidecode -s chassis-asset-tag").strip(), values["chassis_asset_tag"], "asset tag by dmidecode")
    t.equal(vm.shell("dmidecode 2>&1 >/dev/null").strip(), "", "complaints of dmidecode")
