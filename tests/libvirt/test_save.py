# SPDX-License-Identifier: LGPL-2.1-or-later
"""Saving to a file and restoring from it, managed save, and the jobs that they are: with a VMM that has no VM, with our own small
guest, and with a stock kernel."""

import os
import shutil
import time

import libvirt as lv

from harness import cases, guest, test
from harness.context import mount
from harness.virt import Connection, Stream, configure, domain, kumo, refused, small

RUNNING_RESTORED = (lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_RESTORED)
RUNNING_CANCELED = (lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_SAVE_CANCELED)
PAUSED_USER = (lv.VIR_DOMAIN_PAUSED, lv.VIR_DOMAIN_PAUSED_USER)
OFF_SAVED = (lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SAVED)

DEFINED = (lv.VIR_DOMAIN_EVENT_DEFINED, lv.VIR_DOMAIN_EVENT_DEFINED_ADDED)
STARTED = (lv.VIR_DOMAIN_EVENT_STARTED, lv.VIR_DOMAIN_EVENT_STARTED_BOOTED)
STARTED_RESTORED = (lv.VIR_DOMAIN_EVENT_STARTED, lv.VIR_DOMAIN_EVENT_STARTED_RESTORED)
SUSPENDED = (lv.VIR_DOMAIN_EVENT_SUSPENDED, lv.VIR_DOMAIN_EVENT_SUSPENDED_PAUSED)
SUSPENDED_RESTORED = (lv.VIR_DOMAIN_EVENT_SUSPENDED, lv.VIR_DOMAIN_EVENT_SUSPENDED_RESTORED)
RESUMED = (lv.VIR_DOMAIN_EVENT_RESUMED, lv.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED)
RESUMED_RESTORED = (lv.VIR_DOMAIN_EVENT_RESUMED, lv.VIR_DOMAIN_EVENT_RESUMED_FROM_SNAPSHOT)
STOPPED_SAVED = (lv.VIR_DOMAIN_EVENT_STOPPED, lv.VIR_DOMAIN_EVENT_STOPPED_SAVED)
STOPPED_FAILED = (lv.VIR_DOMAIN_EVENT_STOPPED, lv.VIR_DOMAIN_EVENT_STOPPED_FAILED)

MANAGED = "/var/lib/libvirt/kumo/save/vm.save"


def virsh(t, *command, status=0):
    return t.run("virsh", "-c", "kumo:///system", *command, status=status)


def damage(path, offset, data):
    with open(path, "r+b") as stream:
        stream.seek(offset)
        stream.write(data)


@test(timeout=60, where="any")
def save_and_restore(t):
    """States, reasons, events and the image of each: running, paused, and as the flags want it."""
    t.virtkumod()
    c = Connection(t)
    path = t.path("vm.image")
    dom = c.conn.defineXML(domain(t))
    dom.create()
    dom.save(path)
    c.state(dom, *OFF_SAVED)
    t.equal(os.stat(path).st_mode & 0o777, 0o600, "mode of the image")
    c.conn.restore(path)
    c.state(dom, *RUNNING_RESTORED)
    t.check("/dev/pts/" in dom.XMLDesc(0), "no pty after the restore")
    c.events("vm", DEFINED, STARTED, SUSPENDED, STOPPED_SAVED, STARTED_RESTORED, RESUMED_RESTORED)
    t.equal(c.jobs[-1]["operation"], lv.VIR_DOMAIN_JOB_OPERATION_SAVE, "the job that ended")

    refused(t, lv.VIR_ERR_OPERATION_INVALID, c.conn.restore, path, text="already active")
    dom.suspend()
    dom.save(path)
    c.conn.restore(path)
    c.state(dom, *PAUSED_USER)
    c.events("vm", SUSPENDED, STOPPED_SAVED, STARTED_RESTORED, SUSPENDED_RESTORED)
    dom.resume()
    dom.saveFlags(path, None, lv.VIR_DOMAIN_SAVE_PAUSED)
    c.conn.restore(path)
    c.state(dom, *PAUSED_USER)
    dom.destroy()
    c.conn.restoreFlags(path, None, lv.VIR_DOMAIN_SAVE_RUNNING)
    c.state(dom, *RUNNING_RESTORED)
    dom.destroy()
    dom.undefine()
    c.conn.restore(path)  # a transient one
    t.equal(c.conn.lookupByName("vm").isPersistent(), 0, "persistence")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, c.conn.lookupByName("vm").managedSave)


@test(timeout=60, where="any")
@cases(compression=("gzip", "bzip2", "xz", "zstd"))
def compressed(t, compression):
    configure(t, save_image_format=compression)
    t.virtkumod()
    c = Connection(t, events=False)
    path = t.path("vm.image")
    dom = c.conn.defineXML(domain(t))
    dom.create()
    dom.save(path)
    with open(path, "rb") as stream:
        t.check(b"fake-stream" not in stream.read(), "the stream is not compressed")
    c.conn.restore(path)
    c.state(dom, *RUNNING_RESTORED)


@test(timeout=60, where="any")
def compressed_by_nothing(t):
    """Without the format's program neither way works: that is said, nothing is lost, and no file is closed twice."""
    configure(t, save_image_format="zstd")
    t.virtkumod()
    c = Connection(t, events=False)
    path = t.path("vm.image")
    dom = c.conn.defineXML(domain(t))
    dom.create()
    dom.save(path)
    program = shutil.which("zstd")
    mount("/dev/null", program)
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, c.conn.restore, path, text="zstd")
    t.run("umount", program)
    c.conn.restore(path)
    c.state(dom, *RUNNING_RESTORED)
    mount("/dev/null", program)
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, dom.save, t.path("other.image"), text="zstd")
    c.state(dom, *RUNNING_CANCELED)
    t.check(not os.path.exists(t.path("other.image")), "an image is left")
    with open(t.path("virtkumod-0.log"), encoding="utf-8", errors="replace") as stream:
        t.check("invalid fd" not in stream.read(), "a descriptor was closed twice")


@test(timeout=60, where="any")
def bypassing_the_cache(t):
    """Through libvirt's helper, which writes and reads with O_DIRECT."""
    t.virtkumod()
    c = Connection(t, events=False)
    path = os.path.join("/var/tmp", f"kumo-{os.getpid()}.image")  # not in memory
    t.cleanup(lambda: os.path.exists(path) and os.unlink(path))
    dom = c.conn.defineXML(domain(t))
    dom.create()
    dom.saveFlags(path, None, lv.VIR_DOMAIN_SAVE_BYPASS_CACHE)
    c.conn.restoreFlags(path, None, lv.VIR_DOMAIN_SAVE_BYPASS_CACHE)
    c.state(dom, *RUNNING_RESTORED)


@test(timeout=60, where="any")
def the_xml_of_an_image(t):
    """Shown, changed where that keeps the machine, refused where not."""
    t.virtkumod()
    c = Connection(t, events=False)
    path = t.path("vm.image")
    dom = c.conn.defineXML(domain(t))
    dom.create()
    dom.save(path)
    xml = c.conn.saveImageGetXMLDesc(path)
    t.check("<name>vm</name>" in xml and "/dev/pts" not in xml, xml)
    changed = xml.replace("<name>vm</name>", "<name>vm</name>\n  <title>saved</title>")
    c.conn.saveImageDefineXML(path, changed, lv.VIR_DOMAIN_SAVE_PAUSED)
    t.check("saved" in virsh(t, "save-image-dumpxml", path), "the change is not in the image")
    refused(t, lv.VIR_ERR_CONFIG_UNSUPPORTED, c.conn.saveImageDefineXML, path,
            changed.replace("<vcpu placement='static'>1<", "<vcpu placement='static'>2<"), 0, text="vCPU")
    t.run("env", "EDITOR=sed -i s/saved/edited/", "virsh", "-c", "kumo:///system", "save-image-edit", path)
    c.conn.restore(path)
    c.state(dom, *PAUSED_USER)
    t.check("edited" in dom.XMLDesc(0), "the definition of the image is not in force")
    t.check("edited" not in dom.XMLDesc(lv.VIR_DOMAIN_XML_INACTIVE), "the persistent definition has changed")
    dom.destroy()
    c.conn.restoreFlags(path, changed.replace("saved", "given"), 0)
    t.check("given" in dom.XMLDesc(0), "the definition that came with the restore is not in force")


@test(timeout=60, where="any")
def wrong_images(t):
    t.virtkumod()
    c = Connection(t, events=False)
    path = t.path("vm.image")
    dom = c.conn.defineXML(domain(t))
    dom.create()
    dom.save(path)

    def broken(name, change, text):
        copy = t.path(name)
        shutil.copy(path, copy)
        change(copy)
        refused(t, lv.VIR_ERR_OPERATION_FAILED, c.conn.restore, copy, text=text)
        t.equal(dom.isActive(), 0, f"activity after {name}")

    broken("foreign", lambda copy: damage(copy, 0, b"LibvirtQemudSave"), "is not a save image of kumo")
    broken("empty", lambda copy: os.truncate(copy, 0), "is not a save image of kumo")
    broken("partial", lambda copy: damage(copy, 0, b"kumo-save-part\0\0"), "is not complete")
    broken("newer", lambda copy: damage(copy, 16, b"\x09\0\0\0"), "version 9")
    broken("format", lambda copy: damage(copy, 20, b"\x63\0\0\0"), "header")
    broken("xml", lambda copy: damage(copy, 80, b"?"), "is damaged")
    broken("cut", lambda copy: os.truncate(copy, 1000), "cut off")
    broken("torn", lambda copy: os.truncate(copy, os.path.getsize(path) - 20), "this is no stream")
    broken("packed", lambda copy: damage(copy, 20, b"\x01\0\0\0"), "is damaged")
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, c.conn.restore, t.path("missing"), text="missing")
    c.conn.restore(path)


@test(timeout=60, where="any")
def failed_saves(t):
    """The guest runs on, and there is no image."""
    t.virtkumod()
    c = Connection(t)
    path = t.path("vm.image")
    dom = c.conn.defineXML(domain(t, words="fake.torn"))
    dom.create()
    refused(t, lv.VIR_ERR_OPERATION_FAILED, dom.save, path, text="torn, as asked for")
    c.state(dom, *RUNNING_CANCELED)
    t.check(not os.path.exists(path), "an image is left")
    refused(t, lv.VIR_ERR_SYSTEM_ERROR, dom.save, "/nowhere/vm.image")
    c.state(dom, *RUNNING_CANCELED)
    c.events("vm", DEFINED, STARTED, SUSPENDED, RESUMED, SUSPENDED, RESUMED)
    refused(t, lv.VIR_ERR_OPERATION_FAILED, dom.managedSave)
    t.equal(dom.hasManagedSaveImage(), 0, "managed save image")
    dom.destroy()


@test(timeout=60, where="any")
def a_full_disk(t):
    full = t.path("full")
    os.mkdir(full)
    t.libvirt_directories()
    t.run("mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", full)
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t))
    dom.create()
    with open(os.path.join(full, "filler"), "wb") as stream:
        stream.write(bytes(60 * 1024))
    image = os.path.join(full, "vm.image")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, dom.save, image, text="No space left")
    c.state(dom, *RUNNING_CANCELED)
    t.check(not os.path.exists(image), "an image is left")


@test(timeout=60, where="any")
def a_job_under_way(t):
    """Numbers, an abort, other calls meanwhile, and the job afterwards."""
    t.virtkumod()
    c = Connection(t)
    path = t.path("vm.image")
    dom = c.conn.defineXML(domain(t, words="fake.stream=60"))
    dom.create()
    t.equal(dom.jobStats()["type"], lv.VIR_DOMAIN_JOB_NONE, "type without a job")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.abortJob, text="no job is active")
    c.background(dom.save, path)
    stats = t.wait_for(lambda: dom.jobStats().get("memory_total") and dom.jobStats(), "a job with numbers")
    t.equal(stats["type"], lv.VIR_DOMAIN_JOB_UNBOUNDED, "type")
    wanted = ("operation", "time_elapsed", "time_remaining", "data_total", "data_processed", "data_remaining", "memory_total",
              "memory_processed", "memory_remaining", "memory_bps", "memory_constant", "memory_normal", "memory_normal_bytes",
              "memory_iteration", "memory_dirty_rate", "memory_page_size", "setup_time", "disk_total", "disk_processed", "disk_remaining")
    for key in wanted:
        t.check(key in stats, f"no {key} in {stats}")
    t.equal((stats["memory_total"], stats["memory_normal"], stats["memory_constant"]), (1 << 26, 16, 7), "numbers")
    t.equal(dom.jobInfo()[3:6], [1 << 26, 1 << 16, 1 << 20], "the old call's numbers")
    text = virsh(t, "domjobinfo", "vm")
    t.check("Save" in text and "Memory total" in text, text)
    dom.memoryStats()
    virsh(t, "domjobabort", "vm")
    refused(t, lv.VIR_ERR_OPERATION_ABORTED, c.join)
    c.state(dom, *RUNNING_CANCELED)
    t.check(not os.path.exists(path), "an image is left")
    keep = lv.VIR_DOMAIN_JOB_STATS_COMPLETED | lv.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    t.equal(dom.jobStats(keep)["type"], lv.VIR_DOMAIN_JOB_CANCELLED, "type afterwards")
    t.equal(dom.jobStats(lv.VIR_DOMAIN_JOB_STATS_COMPLETED)["type"], lv.VIR_DOMAIN_JOB_CANCELLED, "type afterwards")
    t.equal(dom.jobStats(lv.VIR_DOMAIN_JOB_STATS_COMPLETED)["type"], lv.VIR_DOMAIN_JOB_NONE, "type when it has been told")
    t.equal(len(c.jobs), 1, "events of ended jobs")

    c.background(dom.save, path)
    t.wait_for(lambda: dom.jobStats().get("memory_total"), "a job with numbers")
    dom.destroy()
    refused(t, lv.VIR_ERR_OPERATION_FAILED, c.join, text="ended")
    t.check(not os.path.exists(path), "an image is left")


@test(timeout=60, where="any")
def the_daemon_dies_in_a_save(t):
    """The next one finds a paused guest with nobody who wants it saved, and lets it run."""
    daemon = t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t, words="fake.stream=60"))
    dom.create()
    c.background(dom.save, t.path("vm.image"))
    t.wait_for(lambda: dom.jobStats()["type"] == lv.VIR_DOMAIN_JOB_UNBOUNDED, "a job")
    time.sleep(0.5)
    daemon.kill()
    daemon.wait()
    os.unlink("/run/libvirt/virtkumod-sock")
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    c.state(dom, *RUNNING_CANCELED)
    t.equal(dom.jobStats()["type"], lv.VIR_DOMAIN_JOB_NONE, "type")
    refused(t, lv.VIR_ERR_OPERATION_FAILED, c.conn.restore, t.path("vm.image"), text="not complete")


@test(timeout=90, where="any")
def managed_save(t):
    daemon = t.virtkumod()
    c = Connection(t)
    dom = c.conn.defineXML(domain(t))
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.managedSave)
    dom.create()
    dom.managedSave()
    c.state(dom, *OFF_SAVED)
    t.equal(dom.hasManagedSaveImage(), 1, "managed save image")
    t.equal(len(c.conn.listAllDomains(lv.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)), 1, "domains with a managed save image")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.undefine, text="managed save image")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.rename, "other")
    t.check("<name>vm</name>" in virsh(t, "managedsave-dumpxml", "vm"), "no XML")
    changed = dom.managedSaveGetXMLDesc().replace("<name>vm</name>", "<name>vm</name>\n  <title>kept</title>")
    dom.managedSaveDefineXML(changed)
    dom.create()
    c.state(dom, *RUNNING_RESTORED)
    t.check("kept" in dom.XMLDesc(0), "the definition of the image is not in force")
    t.equal(dom.hasManagedSaveImage(), 0, "managed save image after the start")
    c.events("vm", DEFINED, STARTED, SUSPENDED, STOPPED_SAVED, STARTED_RESTORED, RESUMED_RESTORED)

    dom.managedSave()
    dom.createWithFlags(lv.VIR_DOMAIN_START_PAUSED)
    c.state(dom, *PAUSED_USER)
    dom.resume()
    dom.managedSave(lv.VIR_DOMAIN_SAVE_PAUSED)
    virsh(t, "start", "--force-boot", "vm")
    c.state(dom, lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_BOOTED)
    t.equal(dom.hasManagedSaveImage(), 0, "managed save image after a forced boot")

    dom.managedSave()
    virsh(t, "managedsave-remove", "vm")
    t.check(not os.path.exists(MANAGED), "the image is still there")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.managedSaveGetXMLDesc)
    dom.create()
    dom.managedSave()
    dom.setAutostart(1)
    c.conn.close()
    daemon.terminate()
    daemon.wait()
    os.unlink("/run/libvirt/kumo/autostarted")  # as after a reboot
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.lookupByName("vm")
    c.state(dom, *RUNNING_RESTORED)
    dom.managedSave()
    dom.undefineFlags(lv.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)
    t.check(not os.path.exists(MANAGED), "the image is still there")


@test(timeout=60, where="any")
def a_damaged_managed_save(t):
    """What is no image is dropped and the domain boots afresh; what is one but does not load stays, and says why."""
    t.virtkumod()
    c = Connection(t, events=False)
    dom = c.conn.defineXML(domain(t))
    dom.create()
    dom.managedSave()
    damage(MANAGED, 0, b"rubbish")
    dom.create()
    c.state(dom, lv.VIR_DOMAIN_RUNNING, lv.VIR_DOMAIN_RUNNING_BOOTED)
    t.check(not os.path.exists(MANAGED), "the damaged image is still there")
    dom.managedSave()
    os.truncate(MANAGED, os.path.getsize(MANAGED) - 400)
    refused(t, lv.VIR_ERR_OPERATION_FAILED, dom.create, text="this is no stream")
    t.equal((dom.isActive(), dom.hasManagedSaveImage()), (0, 1), "activity and managed save image")
    dom.createWithFlags(lv.VIR_DOMAIN_START_FORCE_BOOT)


@test(timeout=90, where="host")
@cases(compression=("raw", "zstd"))
def small_guest(t, compression):
    """Our own guest goes on where it was: what it has in memory, and its console."""
    configure(t, save_image_format=compression)
    t.virtkumod()
    c = Connection(t, events=False)
    path = t.path("vm.image")
    dom = c.conn.defineXML(small(t, "test=power wait=1", vcpus=2))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.send("s")
    console.expect("^ready")
    console.close()
    dom.save(path)
    c.state(dom, *OFF_SAVED)
    c.conn.restore(path)
    c.state(dom, *RUNNING_RESTORED)
    console = Stream(t, c.conn, dom)
    console.send("q")  # what it waited for when it was saved
    c.state(dom, lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN)


@test(timeout=180, where="lab")
def debian(t):
    """A stock kernel with disk and network: counter, files and addresses are there again, over save and over managed save."""
    t.network()
    for command in ("link add br0 type bridge", "addr add 192.168.77.1/24 dev br0", "link set br0 up"):
        t.run("ip", *command.split())
    t.virtkumod()
    c = Connection(t, events=False)
    root = guest.root_disk(t.path("root.ext4"))
    kernel = "bookworm-elf"
    devices = (f"<disk type='file'><driver type='raw'/><source file='{root}'/><target dev='vda' bus='virtio'/></disk>"
               "<interface type='bridge'><mac address='52:54:00:6b:75:6d'/><source bridge='br0'/></interface><serial type='pty'/>")
    words = guest.command_line("root=/dev/vda", run=("ip:192.168.77.2/24",))
    dom = c.conn.defineXML(domain(t, words=words, path=guest.kernel(kernel), initrd=guest.initramfs(kernel), emulator=kumo(),
                                  devices=devices, memory=256, vcpus=2))
    dom.create()
    console = Stream(t, c.conn, dom)
    console.expect(guest.READY, 60)
    console.send("n=0; while :; do echo tick $((n += 1)); sleep 0.2; done &\n")
    count = int(console.expect(r"^tick (\d+)\r?\n")[1])
    path = t.path("vm.image")
    for round in ("save", "managed save"):
        console.close()
        if round == "save":
            virsh(t, "save", "vm", path)
            virsh(t, "restore", path)
        else:
            virsh(t, "managedsave", "vm")
            virsh(t, "start", "vm")
        c.state(dom, *RUNNING_RESTORED)
        console = Stream(t, c.conn, dom)
        found = int(console.expect(r"^tick (\d+)\r?\n", 60)[1])
        t.check(count < found < count + 200, f"tick {found} after {count}: {round} is no going on")
        count = found
        t.run("ping", "-c", "2", "-W", "5", "192.168.77.2")
    dom.destroy()
