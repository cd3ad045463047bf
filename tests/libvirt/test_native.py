# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cloud Hypervisor's JSON and command line become domain XML, and domain XML becomes JSON."""

import json

import libvirt as lv

from harness import test
from harness.virt import Connection, disk, domain, kernel, refused

VM = {
    "cpus": {"boot_vcpus": 1, "max_vcpus": 2, "affinity": [{"vcpu": 1, "host_cpus": [0, 1]}]},
    "memory": {"size": 256 << 20, "shared": True},
    "payload": {"kernel": "/boot/vmlinux", "cmdline": "console=ttyS0 root=/dev/vda", "initramfs": "/boot/initrd"},
    "disks": [{"path": "/images/a.img", "readonly": True, "serial": "one"},
              {"path": "/dev/sdb", "direct": True, "rate_limiter_config": {"ops": {"size": 100, "refill_time": 1000}}}],
    "net": [{"tap": "tap0", "mac": "52:54:00:00:00:01", "mtu": 1400}],
    "serial": {"mode": "Pty"}, "console": {"mode": "Off"}, "rng": {"src": "/dev/urandom"},
    "balloon": {"size": 64 << 20, "deflate_on_oom": True},
    "platform": {"system_serial_number": "a<b&c", "oem_strings": ["x"], "rtc_offset": -60},
}
COMMAND = """cloud-hypervisor --api-socket /run/a.sock -v --kernel /boot/vmlinux --cmdline "console=ttyS0 root=/dev/vda"
             --cpus boot=2 --memory size=512M --disk path=/images/a.img path=/images/b.img,readonly=on --net mac=52:54:00:00:00:01
             --serial file=/tmp/log --console off"""


@test(timeout=60, where="any")
def from_native(t):
    """What is written is the same VM again, and what has no word in the domain format is refused by name."""
    t.virtkumod()
    conn = Connection(t, events=False).conn
    xml = conn.domainXMLFromNative("kumo-json", json.dumps(VM), 0)
    for word in ("<vcpu placement='static' current='1'>2</vcpu>", "<vcpupin vcpu='1' cpuset='0-1'/>", "<access mode='shared'/>", "<source dev='/dev/sdb'/>",
                 "<serial>one</serial>", "<total_iops_sec>100</total_iops_sec>", "<mtu size='1400'/>", "<currentMemory unit='KiB'>196608<",
                 "adjustment='-60'", "a&lt;b&amp;c", "<kernel>/boot/vmlinux</kernel>", "<target dev='tap0'/>"):
        t.check(word in xml, f"{word} is not in\n{xml}")
    again = json.loads(conn.domainXMLToNative("kumo-json", xml, 0))
    t.equal([disk["path"] for disk in again["disks"]], ["/images/a.img", "/dev/sdb"], "disks")
    t.equal((again["balloon"]["size"], again["net"][0]["mac"]), (64 << 20, "52:54:00:00:00:01"), "balloon and net")
    t.equal(conn.domainXMLFromNative("kumo-json", json.dumps(again), 0).count("<disk "), 2, "disks of the JSON that was written")
    conn.defineXML(xml)

    xml = conn.domainXMLFromNative("kumo-argv", COMMAND, 0)
    for word in ("<vcpu placement='static'>2</vcpu>", "<memory unit='KiB'>524288<", "<source file='/images/b.img'/>", "<cmdline>console=ttyS0 root=/dev/vda<",
                 "<serial type='file'>"):
        t.check(word in xml, f"{word} is not in\n{xml}")
    t.equal(xml.count("<disk "), 2, "disks")

    unsupported = lv.VIR_ERR_CONFIG_UNSUPPORTED
    for change, text in (({"cpus": {"boot_vcpus": 1, "max_vcpus": 1, "nested": False}}, "cpus.nested"),
                         ({"serial": {"mode": "Tty"}}, "serial.mode"),
                         ({"net": [{"ip": "10.0.0.1", "mask": "255.0.0.0"}]}, "net[0].ip"),
                         ({"memory": {"size": 256 << 20, "mergeable": True}}, "memory.mergeable"),
                         ({"nonsense": 1}, "nonsense")):
        refused(t, unsupported, conn.domainXMLFromNative, "kumo-json", json.dumps(VM | change), 0, text=text)
    refused(t, unsupported, conn.domainXMLFromNative, "kumo-json", "{", 0)
    refused(t, unsupported, conn.domainXMLFromNative, "kumo-argv", "kumo --disk path=/a,wrong=1", 0, text="wrong")
    refused(t, unsupported, conn.domainXMLFromNative, "kumo-argv", "kumo 'open", 0)
    refused(t, lv.VIR_ERR_INVALID_ARG, conn.domainXMLFromNative, "qemu-argv", "qemu", 0)
    refused(t, lv.VIR_ERR_INVALID_ARG, conn.domainXMLToNative, "qemu-argv", domain(t), 0)


@test(timeout=60, where="any")
def to_native(t):
    """Stock virsh writes what the VMM would be told, of a defined domain and of a file."""
    t.virtkumod()
    path, image = disk(t)
    xml = t.path("vm.xml")
    with open(xml, "w", encoding="utf-8") as stream:
        stream.write(domain(t, devices=image, vcpus=2))
    uri = ("virsh", "-c", "kumo:///system")
    t.run(*uri, "define", xml)
    for source in ((xml,), ("--domain", "vm")):
        native = json.loads(t.run(*uri, "domxml-to-native", "kumo-json", *source))
        t.equal((native["cpus"]["boot_vcpus"], native["disks"][0]["path"], native["payload"]["kernel"]), (2, path, kernel(t)), "configuration")
    text = t.path("vm.json")
    with open(text, "w", encoding="utf-8") as stream:
        json.dump(native, stream)
    t.check(f"<source file='{path}'/>" in t.run(*uri, "domxml-from-native", "kumo-json", text), "the disk is lost")
