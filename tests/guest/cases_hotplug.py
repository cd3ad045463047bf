# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of disks, NICs, vCPUs and memory that come and go while the guest runs."""

import os
import socket
import threading
import time

from harness.vmm import ApiError, events_of
from kit import DISK_BYTES, REMOTE, RESULT, case, make_disk, open_tap, restore, snapshot_directory, thread_names

REFUSAL = "device-removal-failed"


@case
def hotplug(h):
    tap = h.t.tap()
    disk, events = h.t.path("disk.raw"), h.t.path("events")
    make_disk(disk)
    vm = h.start("hotplug", "--event-monitor", f"path={events}", cpus=2, talk=True)
    vm.console.expect("^ready", 20)

    def tell(letter, pattern):
        vm.console.send(letter)
        return vm.console.expect(pattern, 30)[1]

    def gone(device):
        h.t.wait_for(lambda: device not in vm.info()["device_tree"], f"{device} to go", 10)

    def refused(endpoint, body, status):
        try:
            vm.put(endpoint, body)
            h.check(False, f"refused: {endpoint} {body}")
        except ApiError as error:
            h.check(error.status == status, f"{endpoint} {body} is refused with {status} ({error.status})")

    new_disk = {"path": disk, "id": "disk"}
    new_net = {"tap": tap.name, "id": "net"}
    tell("n", "^(quiet);")
    before, slots = None, set()
    for cycle in range(200):
        for body, endpoint in ((new_disk, "vm.add-disk"), (new_net, "vm.add-net")):
            answer = vm.put(endpoint, body)
            slot = tell("c", r"^came slot (\d+);")
            slots.add((body["id"], answer["bdf"]))
            if answer["bdf"] != f"0000:00:{int(slot):02x}.0":
                h.check(False, f"{answer} is told as slot {slot}")
        for device in ("disk", "net"):
            vm.put("vm.remove-device", {"id": device})
            tell("gb"[cycle % 2], r"^went slot (\d+);")
            gone(device)
        before = before or vm.footprint()
    vm.wait_no_more_than(before)
    h.check(True, "200 cycles leave no descriptor, thread or mapping")
    h.check(len(slots) == 2, f"always the same slots: {sorted(slots)}")
    with open(events, encoding="utf-8") as file:
        h.check(file.read().count('"device-removed"') == 400, "400 events of removed devices")

    # A NIC whose tap comes as a descriptor: the request's, the configuration's and the device's copies all go again.
    before = vm.footprint()
    with open_tap("tap-fd") as fd:
        h.t.run(REMOTE, "--api-socket", vm.api_path, "add-net", f"fd=[{fd}],id=given", pass_fds=(fd,))
        tell("c", r"^came slot (\d+);")
    h.check("tap-fd" in dict(map(reversed, socket.if_nameindex())), "kumo holds the tap whose descriptor it was given")
    h.t.run(REMOTE, "--api-socket", vm.api_path, "remove-device", "given")
    tell("b", r"^went slot (\d+);")
    gone("given")
    vm.wait_no_more_than(before)
    h.check("tap-fd" not in dict(map(reversed, socket.if_nameindex())), "the tap goes with the last descriptor")

    vm.put("vm.add-disk", new_disk)
    tell("c", r"^came slot (\d+);")
    refused("vm.add-disk", new_disk, 409)
    refused("vm.add-net", {"tap": tap.name, "num_queues": 6}, 400)
    refused("vm.remove-device", {"id": "__rng"}, 400)
    refused("vm.remove-device", {"id": "nobody"}, 404)
    refused("vm.resize-disk", {"id": "disk", "desired_size": 1000}, 400)
    for size in (DISK_BYTES * 2, DISK_BYTES // 2, DISK_BYTES * 4):
        vm.put("vm.resize-disk", {"id": "disk", "desired_size": size})
        h.check(int(tell("r", r"^sectors (\d+);")) == size // 512, f"the guest learns of {size} bytes")
        h.check(os.stat(disk).st_size == size, f"the file has {size} bytes")
    for _ in range(2):
        vm.put("vm.remove-device", {"id": "disk"})
        tell("i", r"^ignored slot (\d+);")
        h.check("disk" in vm.info()["device_tree"], "a guest that does not eject keeps the disk")
    vm.put("vm.remove-device", {"id": "disk"})
    slot = int(tell("o", r"^refused slot (\d+);"))
    h.check(events_of(events, REFUSAL) == [{"id": "disk", "bdf": f"0000:00:{slot:02x}.0", "status": 0x82}], f"a guest that refuses is heard once: {events_of(events, REFUSAL)}")
    vm.put("vm.remove-device", {"id": "disk"})
    vm.put("vm.pause")
    answer = vm.put("vm.add-net", new_net)
    h.check(answer["id"] == "net", "a NIC is added to a paused VM")
    vm.put("vm.resume")
    tell("c", r"^came slot (\d+);")
    results = RESULT.findall(vm.console.seen)
    vm.put("vm.reboot")
    vm.console.expect("waiting$", 30)
    vm.console.send("s")
    vm.console.expect("^ready", 30)
    info = vm.info()
    h.check("disk" not in info["device_tree"] and not info["config"].get("disks"), "what was asked to go is not there after a reboot")
    h.check(info["device_tree"].get("net", {}).get("pci_bdf") == answer["bdf"], "what came is where it was")
    vm.put("vm.remove-device", {"id": "net"})
    tell("o", r"^refused slot (\d+);")
    vm.put("vm.reboot")
    vm.console.expect("waiting$", 30)
    vm.console.send("s")
    vm.console.expect("^ready", 30)
    h.check("net" in vm.info()["device_tree"], "what the guest refused to let go is there after a reboot")
    vm.console.send("q")
    vm.console.expect(r"^1\.\.1", 20)
    vm.wait_exit(0, 20)
    h.repeated("guest", results)


@case
def resize(h):
    events = h.t.path("events")
    vm = h.start("resize", "--event-monitor", f"path={events}", cpus=2, max_cpus=4, memory_options=",hotplug_size=1G",
                 words=["acpi_memory=1"], talk=True)
    console = vm.console
    console.expect("^ready", 20)

    def tell(letter, pattern):
        console.send(letter)
        return console.expect(pattern, 30)[1]

    def cpus(wanted):
        h.t.run(REMOTE, "--api-socket", vm.api_path, "resize", "--cpus", str(wanted))

    def threads():
        return sorted(name for name in thread_names(vm) if name.startswith("vcpu"))

    def wait_threads(n):
        h.t.wait_for(lambda: threads() == [f"vcpu{i}" for i in range(n)], f"{n} vCPU threads", 10)

    def refused(body, status, *words):
        try:
            vm.put("vm.resize", body)
            h.check(False, f"refused: {body}")
        except ApiError as error:
            h.check(error.status == status and all(word in str(error) for word in words),
                    f"{body} is refused with {status}: {error}")

    tell("n", "^(quiet);")
    for body in ({"desired_vcpus": 0}, {"desired_vcpus": 5}, {"desired_vcpus": 1 << 40}, {"desired_vcpus": -1},
                 {"desired_vcpus": "2"}, {"desired_vcpus": 1.5}):
        refused(body, 400, "desired_vcpus")
    refused({"desired_cpus": 1}, 400, "desired_cpus")
    for ram in (0, 1, 65 << 20, (64 << 20) + 4096, 2 << 30, 1 << 60, -1, "1G"):
        refused({"desired_ram": ram}, 400, "desired_ram")
    refused({"desired_vcpus": 3, "desired_ram": 1}, 400, "desired_ram")
    h.check(threads() == ["vcpu0", "vcpu1"], "a request that is half wrong changes nothing")
    for more in (128, 384):
        h.t.run(REMOTE, "--api-socket", vm.api_path, "resize", "--memory", f"{more + 64}M")
        h.check(tell("m", r"^memory (\w+ \w+);") == {128: "100000000 8000000", 384: "108000000 10000000"}[more],
                f"there are {more} MiB more")
    h.check(vm.info()["memory_actual_size"] == 448 << 20, "vm.info has the memory")
    cpus(4)
    h.check(tell("c", r"^came (\d+);") == "2", "two vCPUs come and run")
    cpus(1)
    h.check(tell("i", r"^ignored (\d+);") == "3", "three are asked to go")
    h.check(vm.info()["config"]["cpus"]["boot_vcpus"] == 1, "the configuration has what is wanted")
    refused({"desired_vcpus": 3}, 429, "3 vCPUs")
    refused({"desired_vcpus": 1}, 429, "again")
    h.check(tell("i", r"^ignored (\d+);") == "3", "they are asked again")
    refused({"desired_vcpus": 1}, 429, "again")
    h.check(tell("g", r"^went (\d+);") == "3", "they go")
    wait_threads(1)
    # A guest that says no: the number is what it has, and it can be asked again, for another number, too.
    cpus(4)
    tell("c", r"^came (\d+);")
    cpus(2)
    h.check(tell("o", r"^refused (\d+);") == "2" and vm.info()["config"]["cpus"]["boot_vcpus"] == 4, "it keeps the two vCPUs")
    h.check(events_of(events, REFUSAL) == [{"id": "vcpu2", "status": 0x82}, {"id": "vcpu3", "status": 0x82}], f"and is heard once for each: {events_of(events, REFUSAL)}")
    cpus(3)
    h.check(tell("o", r"^refused (\d+);") == "1" and len(events_of(events, REFUSAL)) == 3, "another number is not refused with 429")
    h.check(tell("l", r"^late (\d+);") == "0", "what it was asked for it may let go later")
    wait_threads(3)
    h.check(vm.info()["config"]["cpus"]["boot_vcpus"] == 3, "which the configuration follows")
    cpus(4)
    tell("c", r"^came (\d+);")
    h.check(tell("l", r"^late (\d+);") == "1", "but not what came afterwards")
    cpus(1)
    tell("g", r"^went (\d+);")
    wait_threads(1)
    tell("e", "^memory (refused);")
    h.check(events_of(events, "device-insertion-failed") == [{"id": f"memory{n}", "status": 1} for n in range(2)], "memory that the guest does not take is told")
    before = None
    for cycle in range(20):
        vm.put("vm.resize", {"desired_vcpus": 4})
        wait_threads(4)
        if tell("c", r"^came (\d+);") != "3":
            h.check(False, "three vCPUs come")
        vm.put("vm.resize", {"desired_vcpus": 2})
        if tell("gs"[cycle % 2], r"^went (\d+);") != "2":
            h.check(False, "two vCPUs go")
        wait_threads(2)
        vm.put("vm.resize", {"desired_vcpus": 1})
        tell("sg"[cycle % 2], r"^went (\d+);")
        wait_threads(1)
        before = before or vm.footprint()
    vm.wait_no_more_than(before)
    # Without the guest's part in it, which takes the time.
    for cycle in range(200):
        vm.put("vm.resize", {"desired_vcpus": 4})
        tell("a", r"^noted (\d+);")
        vm.put("vm.resize", {"desired_vcpus": 1})
        tell("g", r"^went (\d+);")
        h.t.wait_for(lambda: threads() == ["vcpu0"], "the vCPU threads to end", 10)
    vm.wait_no_more_than(before)
    h.check(True, "220 cycles leave no descriptor, thread or mapping")

    # In a pause, and across a snapshot with a vCPU that is asked to go.
    vm.put("vm.pause")
    cpus(3)
    vm.put("vm.resume")
    h.check(tell("c", r"^came (\d+);") == "2", "vCPUs come that were added in a pause")
    tell("n", "^(quiet);")
    cpus(4)
    tell("c", r"^came (\d+);")
    cpus(2)
    first = vm
    vm.put("vm.pause")
    directory = snapshot_directory(h, "snapshot")
    vm.put("vm.snapshot", {"destination_url": f"file://{directory}"})
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
    vm = restore(h, directory)
    console.reopen_socket(first.port_path("serial"))
    wait_threads(4)
    refused({"desired_vcpus": 3}, 429, "2 vCPUs")
    h.check(tell("k", r"^kept (\d+);") == "2", "the added memory is as it was after a restore")
    h.check(tell("g", r"^went (\d+);") == "2", "two vCPUs go in a restored VM")
    wait_threads(2)
    vm.put("vm.resize", {"desired_vcpus": 3, "desired_ram": 576 << 20})
    h.check(tell("m", r"^memory (\w+ \w+);") == "118000000 8000000", "a restored VM gets more memory")
    h.check(tell("p", r"^present (\w+);") == "7", "and a vCPU")
    results = RESULT.findall(console.seen)
    vm.put("vm.reboot")
    console.expect("waiting$", 30)
    console.send("s")
    console.expect("^ready", 30)
    h.check(tell("p", r"^present (\w+);") == "7", "a reboot has the last number")
    refused({"desired_ram": 2 << 30}, 400, "desired_ram")
    cpus(1)
    vm.put("vm.resize", {"desired_ram": 64 << 20})
    h.check(vm.info()["config"]["memory"]["size"] == 64 << 20, "less memory is for the next reboot")
    console.send("q")
    console.expect(r"^1\.\.1", 20)
    vm.wait_exit(0, 20)
    for word, what in results:
        h.check(word == "ok", f"guest: {what}")


@case
def resize_race(h):
    """vCPUs come and go while somebody else pauses and resumes the VM all the time: neither waits for the other."""
    vm = h.start("resize", cpus=1, max_cpus=4, talk=True)
    console = vm.console
    console.expect("^ready", 20)
    done, pauses, failures = threading.Event(), 0, []

    def disturb():
        nonlocal pauses
        while not done.is_set():
            try:
                vm.put("vm.pause")
                vm.put("vm.resume")
                pauses += 1
            except Exception as failure:  # whatever it is, it is this test's failure
                failures.append(str(failure))
                return
            time.sleep(0.01)

    def tell(letter, pattern):
        console.send(letter)
        return console.expect(pattern, 60)[1]

    other = threading.Thread(target=disturb)
    other.start()
    good = 0
    try:
        for cycle in range(30):
            vm.put("vm.resize", {"desired_vcpus": 4})
            came = tell("c", r"^came (\d+);")
            vm.put("vm.resize", {"desired_vcpus": 1})
            went = tell("gs"[cycle % 2], r"^went (\d+);")
            good += came == went == "3"
    finally:
        done.set()
        other.join()
    h.check(good == 30 and not failures, f"{good} of 30 times three vCPUs come and go in {pauses} pauses: {failures}")
    h.check(pauses >= 10, f"there were {pauses} pauses")
    h.t.wait_for(lambda: not any(f"vcpu{n}" in thread_names(vm) for n in (1, 2, 3)), "the vCPUs' threads to end", 10)
    console.send("q")
    console.expect(r"^1\.\.1", 30)
    vm.wait_exit(0, 20)
