# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-install --import of a Debian disk on libvirt's NAT network, and every change of it while it runs."""

import re

import libvirt as lv

from harness import guest, test
from harness.context import PATIENCE
from harness.virt import Connection, Stream, configure, disk, kumo, libvirtd, nat_network

URI = "kumo:///system"
BASE = ("--connect", URI, "--import", "--noautoconsole")
# systemd-networkd of the guest: DHCP on every card, as cloud images have it.
NETWORK_FILE = "[Match]\nName=en* eth*\n[Network]\nDHCP=ipv4\n[DHCPv4]\nClientIdentifier=mac\n"


def virsh(t, *command, status=0):
    return t.run("virsh", "-c", URI, *command, status=status)


def debugfs(t, path, *commands):
    """Works on the root file system of the Debian disk."""
    with open(t.path("commands"), "w", encoding="ascii") as stream:
        stream.writelines(f"{command}\n" for command in commands)
    return t.run("debugfs", "-w", "-f", t.path("commands"), f"{path}?offset={34816 * 512}")


def debian_disk(t):
    """The Debian disk, whose systemd-networkd asks for an address; and kernel and initrd out of it, which saves the minute
    that firmware and GRUB take in the lab (lab/firmware has them)."""
    path = guest.debian_disk(t.path("debian.raw"))
    with open(t.path("dhcp.network"), "w", encoding="ascii") as stream:
        stream.write(NETWORK_FILE)
    wants = "/etc/systemd/system/multi-user.target.wants"
    names = re.findall(r"(?:vmlinuz|initrd\.img)-\S+?(?=/)", debugfs(
        t, path, "cd /etc/systemd/network", f"write {t.path('dhcp.network')} dhcp.network",
        f"symlink {wants}/systemd-networkd.service /lib/systemd/system/systemd-networkd.service", "ls -p /boot"))
    debugfs(t, path, *(f"dump /boot/{name} {t.path(name.split('-')[0])}" for name in names))
    return path, t.path("vmlinuz"), t.path("initrd.img")


class Shell:
    """A root shell on the Debian guest's serial console."""

    def __init__(self, t, conn, dom):
        self.console = Stream(t, conn, dom)
        self.console.expect(r"kumo-guest login: ", 200)
        self.console.send("root\n")
        self.console.expect(r"# ", 60)
        self.console.send("exec env TERM=dumb sh\n")
        self.console.expect(r"# ", 30)
        self.console.send("PS1=\n")

    def run(self, command, seconds=30):
        self.console.send(f'echo "begin"=; {command}; echo "status"=$?=\n')
        self.console.expect(r"^begin=\r?$", seconds)
        return self.console.expect(r"([\s\S]*?)^status=0=\r?$", seconds)[1].replace("\r", "").strip()


@test(timeout=320, where="lab")
def debian_on_libvirts_network(t):
    """virt-install --import of a Debian disk on the network "default": a lease, and every change while it runs."""
    libvirtd(t)
    configure(t, binary=kumo())
    t.virtkumod()
    c = Connection(t)
    nat_network(t, c.conn)
    image, kernel, initrd = debian_disk(t)
    t.run("virt-install", *BASE, "--name", "web", "--memory", "640", "--vcpus", "1,maxvcpus=2", "--osinfo", "debian11", "--disk",
          f"path={image},format=raw,bus=virtio", "--network", "network=default,model=virtio", "--memballoon", "model=virtio", "--boot",
          f"kernel={kernel},initrd={initrd},kernel_args=root=LABEL=kumo-root console=ttyS0 quiet mitigations=off fsck.mode=skip modprobe.blacklist=kvm_amd,aesni_intel,ghash_clmulni_intel,powernow_k8", timeout=60)
    t.check(re.search("State: +running", virsh(t, "dominfo", "web")), "it does not run")
    t.check(re.search("Persistent: +yes", virsh(t, "dominfo", "web")), "it is not persistent")
    dom = c.conn.lookupByName("web")
    shell = Shell(t, c.conn, dom)

    def address():
        return re.search(r"vnet\d+ +\S+ +ipv4 +(192\.168\.122\.\d+)/24", virsh(t, "domifaddr", "web"))

    lease = t.wait_for(address, "a lease", 60, every=1)[1]
    t.check(f"inet {lease}/24" in shell.run("ip -4 addr"), "the guest has not the leased address")

    def known_by_arp():
        t.run("ping", "-c", "1", "-W", "20", lease)
        return lease in virsh(t, "domifaddr", "web", "--source", "arp")

    t.wait_for(known_by_arp, "an address by ARP", 30, every=1)

    extra = disk(t, "extra.img", size=3 << 20)[0]
    virsh(t, "attach-disk", "web", extra, "vdb", "--targetbus", "virtio", "--driver", "qemu", "--subdriver", "raw", "--live", "--config")
    t.equal(shell.run("until [ -b /dev/vdb ]; do sleep 1; done; cat /sys/block/vdb/size"), str((3 << 20) // 512), "the new disk's sectors")
    virsh(t, "attach-interface", "web", "network", "default", "--model", "virtio", "--mac", "52:54:00:11:22:33", "--live", "--config")
    t.wait_for(lambda: re.search(r"52:54:00:11:22:33 +ipv4 +192\.168\.122\.", virsh(t, "domifaddr", "web")), "the new card's lease", 60, every=1)
    virsh(t, "setvcpus", "web", "2", "--live")
    shell.run("until [ $(nproc) = 2 ]; do for cpu in /sys/devices/system/cpu/cpu1/online; do echo 1 >$cpu; done; sleep 1; done 2>/dev/null", 60)
    virsh(t, "setmem", "web", "512M", "--live")
    t.wait_for(lambda: dom.info()[2] == 512 << 10, "the balloon", 60, every=0.5)
    t.check(int(shell.run("awk '/MemTotal/ {print $2}' /proc/meminfo")) < 520 << 10, "the guest keeps its memory")

    stats = dict(re.findall(r"^ *(\S+)=(.*)$", virsh(t, "domstats", "web"), re.MULTILINE))
    for key, value in {"state.state": "1", "vcpu.current": "2", "vcpu.maximum": "2", "balloon.current": str(512 << 10), "net.count": "2",
                       "block.count": "2", "block.1.name": "vdb", "block.1.path": extra}.items():
        t.equal(stats.get(key), value, f"domstats: {key}")
    for key in ("cpu.time", "net.0.rx.bytes", "net.0.tx.pkts", "block.0.rd.bytes", "block.0.rd.reqs", "balloon.rss"):
        t.check(int(stats.get(key, 0)) > 0, f"domstats: {key} is {stats.get(key)}")

    virsh(t, "detach-disk", "web", "vdb", "--live", "--config")
    shell.run("while [ -e /sys/block/vdb ]; do sleep 1; done")
    virsh(t, "detach-interface", "web", "network", "--mac", "52:54:00:11:22:33", "--live", "--config")
    shell.run("until [ $(ls -d /sys/class/net/e* | wc -l) = 1 ]; do sleep 1; done")
    t.wait_for(lambda: "vdb" not in virsh(t, "domblklist", "web") and "11:22:33" not in virsh(t, "domiflist", "web"), "their end", 20, every=1)
    virsh(t, "setvcpus", "web", "1", "--live")
    t.equal(shell.run("nproc"), "1", "CPUs afterwards")

    virsh(t, "shutdown", "web")
    c.state(dom, lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN, seconds=60 * PATIENCE)
    virsh(t, "undefine", "web")
