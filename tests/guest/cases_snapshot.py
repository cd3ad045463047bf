# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of snapshots whose memory comes back on demand, and of what may go on meanwhile."""

import filecmp
import json
import os
import random
import shutil

import moving
from harness.context import Failure
from harness.vmm import ApiError
from kit import case, make_disk


def take(h, vm, name):
    """A snapshot of a guest that runs, whose process ends. Returns its directory and the last round."""
    directory = h.t.path(name)
    os.mkdir(directory)
    vm.put("vm.pause")
    last = moving.last_round(vm)
    vm.put("vm.snapshot", {"destination_url": f"file://{directory}"})
    return directory, last


def bring_back(h, directory, options="resume=on,memory_restore_mode=ondemand"):
    vm = moving.start_process(h, "--restore", f"source_url=file://{directory},{options}")
    vm.use_port("serial", "pty")
    return vm


def expect_rounds(h, vm, last, label):
    later = [int(vm.console.expect("^round ([0-9]+)\n", 30)[1]) for _ in range(3)]
    h.check(last < later[0] and later == list(range(later[0], later[0] + 3)), f"{label}: goes on after round {last}: {later}")


def zones(h):
    one, two = h.t.path("zone-one"), h.t.path("zone-two")
    shm = f"/dev/shm/kumo-test-{os.getpid()}"
    h.t.cleanup(lambda: os.path.exists(shm) and os.unlink(shm))
    # What was there before is no part of the guest's memory, neither after a boot nor after a restore.
    for path in (one, two, shm):
        with open(path, "wb") as file:
            file.write(b"\xaa" * (1 << 20))
    return ("--memory", "size=0", "--memory-zone", "id=disk,size=32M,shared=on,file=" + one, "id=tmpfs,size=16M,shared=on,file=" + shm,
            "id=plain,size=16M,host_numa_node=0"), shm


@case
def ondemand(h):
    """Memory of every kind comes on demand; snapshots and migrations begin while it does."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    for kind in ("private", "shared", "prefault", "locked"):
        options = {"private": "", "shared": ",shared=on", "prefault": ",prefault=on", "locked": ",lock=on"}[kind]
        vm = moving.start_guest(h, disk, cpus=2, churn=1000, memory_options=options)
        directory, last = take(h, vm, kind)
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
        vm = bring_back(h, directory)
        expect_rounds(h, vm, last, f"{kind}: on demand")
        moving.wait_event(h, vm, "memory-restored")
        h.check(vm.info()["config"]["memory"]["prefault"] == (kind == "prefault"), f"{kind}: prefault is as configured")
        # Each of these starts at once after a restore, and touches all.
        second, last = take(h, vm, f"{kind}-second")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
        vm = bring_back(h, second, "memory_restore_mode=ondemand")
        third = h.t.path(f"{kind}-third")
        os.mkdir(third)
        vm.put("vm.snapshot", {"destination_url": f"file://{third}"})
        h.check(filecmp.cmp(f"{second}/memory-ranges", f"{third}/memory-ranges", shallow=False), f"{kind}: a snapshot while memory comes is the same")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
        vm = bring_back(h, third, "resume=on,memory_restore_mode=ondemand")
        for file in ("config.json", "state.json", "memory-ranges", "memory-checksums"):
            os.unlink(f"{third}/{file}")
        expect_rounds(h, vm, last, f"{kind}: from files that are gone")
        again, last = take(h, vm, f"{kind}-again")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
        vm = bring_back(h, again, "resume=on,memory_restore_mode=ondemand")
        vm = moving.move(h, vm, f"{kind}: moved while memory comes", **({"local": True} if kind == "shared" else {}))
        moving.end_guest(h, vm, kind)


@case
def nested(h):
    """The state of a guest that is about to run a machine of its own is refused, and can be had before and after. Needs AMD's SVM."""
    vm = moving.start_process(h, "--kernel", h.elf, "--cmdline", "test=nested cpus=1 max_cpus=1 memory_mib=64 wait=1", "--memory", "size=64M",
                                       serial="pty")
    vm.console.send("s")
    for step, allowed in (("enabled", True), ("closed", False), ("open", True)):
        vm.console.expect(f"^{step}\n", 30)
        directory = h.t.path(step)
        os.mkdir(directory)
        vm.put("vm.pause")
        status, text = moving.refusal(vm, "vm.snapshot", {"destination_url": f"file://{directory}"})
        h.check((status == 0) == allowed and (allowed or "machines of its own" in text), f"{step}: {status} {text.strip()}")
        h.check(bool(os.listdir(directory)) == allowed, f"{step}: files")
        vm.put("vm.resume")
        if not allowed:
            failures = sum(name == "migration-failed" for name, _ in moving.events(vm))
            there, url = moving.start_process(h), f"unix:{h.t.path('m')}"
            receiving = moving.Receiving(h, there, url)
            vm.put("vm.send-migration", {"destination_url": url})
            error = moving.wait_event(h, vm, "migration-failed", count=failures + 1)["error"]
            h.check("machines of its own" in error and receiving.wait() != "ok" and vm.state() == "Running", f"{step}: a migration: {error}")
        vm.console.send("s")
    vm.console.expect(r"^1\.\.\d+\n", 30)


@case
def zone_updates(h):
    """Zones of every kind of file come back, by copying and on demand, bound to the nodes that are named."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    options, shm = zones(h)
    line = "test=snapshot cpus=1 max_cpus=1 memory_mib=64 wait=1 churn=1000"
    vm = moving.start_process(h, "--kernel", h.elf, "--cmdline", line, *options, "--disk", f"path={disk}", serial="pty")
    vm.console.send("s")
    vm.console.expect("^round 2\n", 30)
    for number, mode in enumerate(("copy", "ondemand", "copy")):
        directory, last = take(h, vm, f"zones-{number}")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
        with open(shm, "r+b") as file:
            file.write(b"\xaa" * (16 << 20))
        for wrong, message in (("[none@0]", "none: the snapshot has no memory zone"), ("[plain@1024]", "must be like"), ("[plain]", "must be like"),
                               ("[plain@1000]", "host_numa_node 1000")):
            refused = h.t.kumo("--restore", f"source_url=file://{directory},zone_updates={wrong}", serial=None, console=None, api=False)
            refused.wait_exit(1, 20)
            h.check(message in refused.log(), f"{mode}: zone_updates={wrong} is refused: {refused.log().strip()}")
        vm = bring_back(h, directory, f"resume=on,memory_restore_mode={mode},zone_updates=[plain@0,tmpfs@0]")
        expect_rounds(h, vm, last, f"{mode}: zones")
        nodes = {zone["id"]: zone["host_numa_node"] for zone in vm.info()["config"]["memory"]["zones"]}
        h.check(nodes["plain"] == 0 and nodes["tmpfs"] == 0 and nodes["disk"] is None, f"{mode}: the configuration has the new nodes: {nodes}")
    moving.end_guest(h, vm, "zones")


@case
def other_path(h):
    """A disk that was given no serial number keeps the one that the guest knows, though its image is another file."""
    disk, other = h.t.path("disk.raw"), h.t.path("other.raw")
    make_disk(disk)
    vm = moving.start_guest(h, disk, cpus=1, churn=100)
    serial = vm.info()["config"]["disks"][0]["serial"]
    h.check(serial, f"the guest's disk has the serial number {serial}")
    directory, last = take(h, vm, "other")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
    shutil.copyfile(disk, other)
    with open(f"{directory}/config.json", encoding="utf-8") as file:
        config = json.load(file)
    config["disks"][0]["path"] = other
    with open(f"{directory}/config.json", "w", encoding="utf-8") as file:
        json.dump(config, file)
    vm = bring_back(h, directory)
    expect_rounds(h, vm, last, "another path")
    found = vm.info()["config"]["disks"][0]
    h.check(found["path"] == other and found["serial"] == serial, f"the same number on {found['path']}: {found['serial']}")
    moving.end_guest(h, vm, "another path")
    # Of itself it would have another one.
    vm = moving.start_guest(h, other, cpus=1)
    h.check(vm.info()["config"]["disks"][0]["serial"] != serial, "which is not what the other file would have by itself")


def refusal(function):
    try:
        function()
        return None
    except ApiError as error:
        return error.text


@case
def snapshot_faults(h):
    """Where nothing can be written, and what has random bytes: kumo says what it is, and the guest that was to be saved goes on."""
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = moving.start_guest(h, disk, cpus=2, churn=1000)
    room = h.t.path("room")
    os.mkdir(room)
    h.t.run("mount", "-t", "tmpfs", "-o", "size=1M", "none", room)
    h.t.cleanup(lambda: h.t.run("umount", room))
    for label, prepare, said in (("full", lambda: None, "No space left on device"),
                                 ("read-only", lambda: h.t.run("mount", "-o", "remount,ro", room), "Read-only file system")):
        prepare()
        vm.put("vm.pause")
        message = refusal(lambda: vm.put("vm.snapshot", {"destination_url": f"file://{room}"}))
        h.check(message and said in message and room in message, f"a file system that is {label}: {message}")
        h.check(os.listdir(room) == [], f"{label}: nothing is left there")
        h.check(vm.state() == "Paused", f"{label}: the VM is paused as before")
        vm.put("vm.resume")
        moving.expect_running(h, vm, label)
    directory, last = take(h, vm, "good")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)

    seed = random.randrange(1 << 30)
    h.report.note(f"random bytes of seed {seed}")
    chance = random.Random(seed)
    process = moving.start_process(h)
    taken = 0
    for name in ("config.json", "state.json"):
        with open(f"{directory}/{name}", "rb") as file:
            good = file.read()
        for _ in range(25):
            bad = bytearray(good)
            for _ in range(chance.choice((1, 1, 4))):
                bad[chance.randrange(len(bad))] = chance.randrange(256)
            with open(f"{directory}/{name}", "wb") as file:
                file.write(bad)
            message = refusal(lambda: process.put("vm.restore", {"source_url": f"file://{directory}", "memory_restore_mode": "OnDemand"}))
            if message is None:
                # A blank, or a name or a number that may as well be another.
                taken += 1
                process.put("vm.delete")
            elif not ("snapshot" in message or "state" in message or "device" in message or "config" in message or "memory" in message or
                      "disk" in message):
                h.check(False, f"{name} with random bytes: {message}")
            if refusal(process.info) is None:
                h.check(False, f"{name} with random bytes: no VM is half made")
        with open(f"{directory}/{name}", "wb") as file:
            file.write(good)
    h.check(True, f"50 snapshots with random bytes: {50 - taken} refused")
    process.put("vm.restore", {"source_url": f"file://{directory}", "resume": True})
    process.use_port("serial", "pty")
    expect_rounds(h, process, last, "the same process takes a good one then")
    moving.end_guest(h, process, "at last")


@case
def memory_lost(h):
    """The disk with the snapshot fails while memory comes from it: kumo says so and ends, whatever waits for a page."""
    disk, image, room = h.t.path("disk.raw"), h.t.path("image"), h.t.path("room")
    make_disk(disk)
    os.mkdir(room)
    for resume in (True, False):
        label = "running" if resume else "paused"
        vm = moving.start_guest(h, disk, cpus=2, churn=1000)
        with open(image, "wb") as file:
            file.truncate(64 << 20)
        h.t.run("mkfs.ext4", "-q", "-F", image)
        h.t.run("mount", "-o", "loop", image, room)
        unmount = lambda: os.path.ismount(room) and h.t.run("umount", "--lazy", room)  # noqa: E731
        h.t.cleanup(unmount)
        vm.put("vm.pause")
        vm.put("vm.snapshot", {"destination_url": f"file://{room}"})
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)
        # Out of the page cache; the small files, and where the large one has its data, into it again.
        h.t.run("umount", room)
        h.t.run("mount", "-o", "loop,ro", image, room)
        for name in ("config.json", "state.json", "memory-checksums"):
            with open(f"{room}/{name}", "rb") as file:
                file.read()
        with open(f"{room}/memory-ranges", "rb") as file:
            at = 0
            while True:
                try:
                    at = os.lseek(file.fileno(), os.lseek(file.fileno(), at, os.SEEK_DATA), os.SEEK_HOLE)
                except OSError:
                    break
        os.truncate(image, 0)
        vm = moving.start_process(h)
        try:
            vm.put("vm.restore", {"source_url": f"file://{room}", "memory_restore_mode": "OnDemand", "resume": resume})
        except (Failure, OSError):  # the process has ended before it could answer
            pass
        vm.wait_exit(1, 20)
        wanted = f"the guest's memory is lost: snapshot {room}/memory-ranges: reading at "
        h.check(wanted in vm.log() and "Input/output error" in vm.log(), f"{label}: {vm.log().strip()}")
        failed = [properties for name, properties in moving.events(vm) if name == "memory-failed"]
        h.check(len(failed) == 1 and "Input/output error" in failed[0]["error"], f"{label}: the event {failed}")
        unmount()


@case
def fewer_vcpus_than_queues(h):
    """A VM that has fewer vCPUs than a disk has queues can still be changed, saved, moved and made again."""
    disk, wide, more = (h.t.path(name) for name in ("disk.raw", "wide.raw", "more.raw"))
    for path in (disk, wide, more):
        make_disk(path)
    vm = moving.start_guest(h, disk, cpus=2, options=(f"path={wide},num_queues=2,id=wide",))
    vm.put("vm.resize", {"desired_vcpus": 1})
    h.check(vm.info()["config"]["cpus"]["boot_vcpus"] == 1, "one vCPU is wanted")
    message = refusal(lambda: vm.put("vm.add-disk", {"path": more, "num_queues": 3}))
    h.check(message and "num_queues: 3" in message, f"more queues than the VM may have vCPUs are refused: {message}")
    for name, body in (("vm.add-disk", {"path": more, "id": "more", "num_queues": 2}),
                       ("vm.update-disk", {"id": "wide", "queue_affinity": [{"queue_index": 1, "host_cpus": [0]}]})):
        message = refusal(lambda: vm.put(name, body))
        h.check(message is None, f"{name}: {message or 'is done'}")
    directory, last = take(h, vm, "snapshot")
    config = vm.info()["config"]
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
    vm = bring_back(h, directory, "resume=on")
    expect_rounds(h, vm, last, "restored")
    vm = moving.move(h, vm, "moved")
    moving.end_guest(h, vm, "fewer vCPUs than queues")
    vm = moving.start_process(h)
    message = refusal(lambda: vm.put("vm.create", config))
    h.check(message is None, f"vm.create takes what vm.info gave: {message or 'done'}")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
