# SPDX-License-Identifier: LGPL-2.1-or-later
"""Cases of guests, images and users that do harm, and of what kumo has to bear with."""

import contextlib
import os
import re
import resource
import shutil
import signal
import time

from harness.context import Failure, new_directories, new_kvm_device
from harness.pattern import pattern
from harness.vmm import ApiError, events_of
from kit import DISK_BYTES, RESULT, case, make_disk


# What may come and go of a guest's memory.
VIRTIO_MEM = ",hotplug_method=virtio-mem,hotplug_size=256M,hotplugged_size=64M"
ACPI_MEMORY = ",hotplug_size=1G"
BALLOON = ("--balloon", "size=0,deflate_on_oom=on,free_page_reporting=on,stats_period=1")


@case
def hostile(h):
    tap = h.t.tap()
    for seed, cpus, memory, words in ((1, 1, VIRTIO_MEM, []), (2, 2, VIRTIO_MEM + ",lock=on", []), (3, 1, ACPI_MEMORY, ["acpi_memory=1"])):
        disk = h.t.path(f"disk-{seed}.raw")
        make_disk(disk)
        h.run(f"seed {seed}", "hostile", "--disk", f"path={disk}", "--net", f"tap={tap.name}", *BALLOON,
              "--debug-console", f"file={h.t.path('debug.txt')}", memory_options=memory,
              console=f"file={h.t.path('console.txt')}", words=[f"seed={seed}", *words], cpus=cpus, seconds=180)


def noise_round(h, vm, label, seconds, word="n", memory_mib=0):
    """Lets a guest make noise until it is there again, by its own reset or because it hit itself. MEMORY_MIB: what it is given meanwhile."""
    end = time.monotonic() + 3 * seconds + 60
    pauses = 0
    start = len(vm.console.seen)
    vm.console.send(word + chr(33 + start % 90))
    if memory_mib:
        vm.put("vm.resize", {"desired_ram": memory_mib << 20})
        vm.put("vm.resize", {"desired_balloon": (memory_mib << 20) // 4})
    while "waiting\n" not in vm.console.drain()[start:]:
        # The API, too, looks at devices that the guest is busy with.
        vm.put("vm.pause")
        vm.info()
        vm.api("GET", "vm.counters")
        vm.put("vm.resume")
        pauses += 1
        time.sleep(0.05)
        if time.monotonic() > end:
            raise Failure(f"{label}: the guest does not come to an end")
    quiet = re.search(r"quiet after (\d+) operations", vm.console.seen[start:])
    h.check(True, f"{label}: {'quiet after ' + quiet[1] + ' operations' if quiet else 'the guest crashed'}, {pauses} pauses")
    for good, what in RESULT.findall(vm.console.seen[start:]):
        h.check(good == "ok", f"{label}: {what}")
    vm.console.expect("waiting$", 20)
    vm.console.send("s")
    vm.console.expect("^ready", 30)


@case
def noise(h):
    """Noise from all processors on everything. By hand for longer: KUMO_NOISE_ROUNDS=60 KUMO_NOISE_SEED=7."""
    seconds = 3
    rounds = int(os.environ.get("KUMO_NOISE_ROUNDS", "1"))
    seeds = [int(os.environ["KUMO_NOISE_SEED"])] if "KUMO_NOISE_SEED" in os.environ else [1, 2]
    tap = h.t.tap()
    for seed in seeds:
        cpus = 1 + seed % 3
        label = f"seed {seed}, {cpus} vCPU"
        acpi = seed % 2 == 0
        disks = []
        for number in range(3):
            disks.append(h.t.path(f"disk-{seed}-{number}.raw"))
            make_disk(disks[-1])
        vm = h.start("noise", "--platform", "num_pci_segments=2",
                     "--disk", f"path={disks[0]}", f"path={disks[1]},num_queues={cpus},pci_segment=1",
                     f"path={disks[2]},readonly=on,_disable_io_uring=on",
                     "--net", f"tap={tap.name}", "pci_segment=1", *BALLOON, "--debug-console", f"file={h.t.path('debug.txt')}",
                     memory_options=ACPI_MEMORY if acpi else VIRTIO_MEM, talk=True, cpus=cpus,
                     words=[f"seed={seed}", f"seconds={seconds}", f"acpi_memory={acpi:d}"], console=f"file={h.t.path('console.txt')}")
        vm.console.expect("^ready", 30)
        for number in range(rounds):
            noise_round(h, vm, f"{label}, round {number}", seconds, memory_mib=192 if number == 0 else 0)
            if cpus > 1:
                noise_round(h, vm, f"{label}, INIT and NMI, round {number}", seconds, "m")
        vm.console.send("w")
        vm.console.expect(r"^1\.\.\d+", 60)
        results = RESULT.findall(vm.console.seen.rpartition("ready")[2])
        for word, what in results:
            h.check(word == "ok", f"{label}: {what}")
        h.check(len(results) == 10, f"{label}: all devices are there again: {len(results)}")
        vm.wait_exit(0, 30)
        h.check("Sanitizer" not in vm.log(), f"{label}: kumo ends well")


@case
def reboots(h):
    """A hundred reboots in one process leave nothing behind."""
    # AddressSanitizer keeps what was freed, so that the memory of a sanitized kumo only grows: here it must not.
    kept = "quarantine_size_mb=0:thread_local_quarantine_size_kb=0"
    environment = {**os.environ, "ASAN_OPTIONS": ":".join(filter(None, (os.environ.get("ASAN_OPTIONS"), kept)))}
    tap = h.t.tap()
    disk = h.t.path("disk.raw")
    make_disk(disk)
    vm = h.start("power", "--disk", f"path={disk},num_queues=2",
                 "--net", f"tap={tap.name},num_queues=2", "--debug-console", f"file={h.t.path('debug')}",
                 cpus=2, talk=True, console="pty", env=environment)

    def resident():
        with open(f"/proc/{vm.process.pid}/smaps_rollup", encoding="ascii") as file:
            return int(re.search(r"^Private_Dirty: +(\d+)", file.read(), re.MULTILINE)[1])

    before = None
    for number in range(110):
        vm.console.expect("^ok 2 - a device works", 30)
        vm.console.expect("^ready", 30)
        if number == 10:
            before, kib = vm.footprint(), resident()
        vm.console.send("akct"[number % 4])
        vm.console.expect("^waiting", 30)
        vm.console.send("s")
    vm.console.expect("^ready", 30)
    vm.wait_no_more_than(before)
    h.check(True, "100 reboots leave no descriptor, thread or mapping")
    grown = resident() - kib
    h.check(grown < 1024, f"and {grown} KiB of memory")
    vm.console.send("q")
    vm.wait_exit(0, 30)


@case
def blk_errors(h):
    """What goes wrong with an image is an error of the guest's request, and nothing else."""
    small = h.t.path("small")
    h.t.private_directories(small)
    h.t.run("mount", "-t", "tmpfs", "-o", "size=2M", "none", small)
    ok, failed = 0, 1
    for engine in ("", ",_disable_io_uring=on", ",_disable_io_uring=on,_disable_aio=on"):
        disk, filler = f"{small}/disk.raw", f"{small}/filler"
        make_disk(disk)
        label = f"engine{engine or ' default'}"

        events = h.t.path(f"events{engine}")

        def start(**options):
            vm = h.start("blk_errors", "--disk", f"path={disk},serial=kumo-disk,id=d,write_threshold=2M{engine}", "--event-monitor",
                         f"path={events}", talk=True, **options)
            vm.console.expect("^ask", 30)
            return vm

        def tell(vm, letter, expected, what):
            vm.console.send(letter)
            status = int(vm.console.expect(r"^status (\d+);", 30)[1])
            h.check(status == expected, f"{label}: {what}: status {status}")
            vm.console.expect("^ask", 30)

        vm = start()
        tell(vm, "w", ok, "a block is written")
        os.truncate(disk, 1 << 20)
        tell(vm, "r", failed, "reading behind the end of an image that was cut short")
        tell(vm, "0", ok, "reading what is left of it")
        os.truncate(disk, DISK_BYTES)
        tell(vm, "r", ok, "reading when it is whole again")
        with open(filler, "wb", buffering=0) as file:
            with contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
        tell(vm, "w", failed, "writing to a full file system")
        tell(vm, "0", ok, "reading from it")
        os.unlink(filler)
        tell(vm, "w", ok, "writing when there is room again")
        tell(vm, "f", ok, "flushing")
        vm.console.send("q")
        h.finish(vm, label)
        errors = events_of(events, "io-error")
        h.check(errors == [{"id": "d", "operation": "read", "error": "EIO"}, {"id": "d", "operation": "write", "error": "ENOSPC"}],
                f"{label}: the events tell of what the host refused: {errors}")
        told = events_of(events, "block-threshold")
        h.check(told == [{"id": "d", "threshold": 2 << 20, "excess": (1 << 20) + (64 << 10)}], f"{label}: and once of a write beyond 2 MiB: {told}")
        with open(disk, "rb") as file:
            file.seek(3 << 20)
            h.check(file.read(64 << 10) == pattern(64 << 10, 7), f"{label}: the file has what was written at last")

        limit = 2 << 20
        vm = start(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
        tell(vm, "w", failed, "writing beyond the process's limit of file sizes")
        tell(vm, "0", ok, "reading after it")
        vm.console.send("q")
        h.finish(vm, f"{label}, limited")
        h.check(events_of(events, "io-error")[-1] == {"id": "d", "operation": "write", "error": "EFBIG"}, f"{label}: that is told, too")
        os.unlink(disk)


@case
def process(h):
    """Signals, the end of the guest, the log."""
    for number, status in ((signal.SIGTERM, 0), (signal.SIGINT, 0), (signal.SIGHUP, -signal.SIGHUP)):
        events = h.t.path(f"events-{number}")
        vm = h.start("ticks", "--event-monitor", f"path={events}", talk=True)
        vm.console.expect("^tick 1$", 30)
        vm.process.send_signal(signal.SIGWINCH)  # no terminal: nothing happens
        vm.process.send_signal(signal.SIGCHLD)
        vm.process.send_signal(signal.SIGPIPE)
        vm.process.send_signal(signal.SIGXFSZ)
        vm.console.expect("^tick", 30)
        vm.process.send_signal(number)
        vm.wait_exit(status, 20)
        h.check(True, f"{signal.Signals(number).name} ends kumo with status {status}")
        with open(events, encoding="utf-8") as file:
            text = file.read()
        clean = number != signal.SIGHUP
        h.check(('"shutdown"' in text) == clean, f"its last event is vmm shutdown: {clean}")
        h.check(os.path.exists(vm.api_path) != clean, f"and its API socket is gone: {clean}")

    for stay in (False, True):
        vm = h.start("ticks", *(["--no-shutdown"] if stay else []), talk=True)
        vm.console.expect("^tick 1$", 30)
        vm.console.send("q")
        if not stay:
            vm.wait_exit(0, 20)
            h.check(True, "kumo ends with the guest")
            continue
        vm.console.expect(r"^1\.\.", 30)
        h.t.wait_for(lambda: vm.state() == "Created", "the guest's end")
        h.check(vm.process.poll() is None, "with --no-shutdown kumo stays")
        vm.put("vm.boot")
        h.check(vm.state() == "Running", "and boots the VM again")
        vm.put("vmm.shutdown")
        vm.wait_exit(0, 20)

    log = h.t.path("log")
    for options, pattern_of_line, level in (([], None, "WARN"), (["-v"], "INFO", "INFO"), (["-vv"], "DEBUG", "DEBUG"),
                                            (["--log-format", "{levelchar} {msg}", "-v"], "^I ", "I")):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(log)
        vm = h.start("ticks", "--log-file", log, *options, talk=True)
        vm.console.expect("^tick 1$", 30)
        vm.console.send("q")
        vm.wait_exit(0, 20)
        with open(log, encoding="utf-8") as file:
            text = file.read()
        good = re.search(pattern_of_line, text, re.MULTILINE) if pattern_of_line else "INFO" not in text
        if not h.check(good and vm.log() == "", f"the log with {options}: up to {level}"):
            h.report.note(text + vm.log())


NOBODY = 65534


@contextlib.contextmanager
def limited(t, vm, name, number):
    """A lower limit of the process for a while, as of a service manager; set by the user whose process it is, as nobody else
    may in a container without CAP_SYS_RESOURCE."""
    def prlimit(*arguments):
        return t.run("prlimit", f"--pid={vm.process.pid}", *arguments, user=NOBODY, group=NOBODY, extra_groups=[])

    before = prlimit("--raw", "--noheadings", "--output=SOFT", f"--{name}").strip()
    prlimit(f"--{name}={number}:")
    try:
        yield
    finally:
        prlimit(f"--{name}={before}:")


@case
def host_failures(h):
    """What the host refuses is its failure, not the client's: 500, with the chain of causes down to the system's word. Nothing
    is lost by it: when the reason is gone, the same request works."""
    t = h.t
    if os.geteuid() != 0:
        t.skip("running kumo as another user needs root")
    new_directories([])  # a mount namespace of the test's own
    os.chmod(t.directory, 0o777)  # for the API's socket, which the other user makes
    elf, disk, more = (t.path(name) for name in ("guest.elf", "disk.raw", "more.raw"))
    shutil.copy(h.elf, elf)
    make_disk(disk)
    make_disk(more)
    t.let_everybody_run("kumo")
    closed = t.path("closed")
    os.mkdir(closed, 0o755)
    vm = t.kumo(serial=None, console=None, user=NOBODY, group=NOBODY, extra_groups=[])

    def fails(endpoint, body, *words, status=500):
        try:
            vm.put(endpoint, body)
        except ApiError as error:
            good = error.status == status and len(error.causes) >= 2 and all(word in error.text for word in words)
            h.check(good, f"{endpoint} is answered with {status} and {', '.join(words)}: {error.status} {error.causes}")
            return
        h.check(False, f"{endpoint} fails ({', '.join(words)})")

    def works(endpoint, body=None):
        try:
            vm.put(endpoint, body)
            h.check(True, f"{endpoint} works when the reason is gone")
        except ApiError as error:
            h.check(False, f"{endpoint} works when the reason is gone: {error}")

    vm.put("vm.create", {"payload": {"kernel": elf, "cmdline": "test=ticks cpus=1 max_cpus=1 memory_mib=64"},
                         "cpus": {"boot_vcpus": 1, "max_vcpus": 1}, "memory": {"size": 64 << 20},
                         "disks": [{"path": disk, "id": "disk"}],
                         "serial": {"mode": "File", "file": t.path("serial.txt")}, "console": {"mode": "Off"}})
    fails("vm.boot", None, "/dev/kvm", "Permission denied")
    new_kvm_device(t.directory)
    os.chmod(disk, 0o600)
    fails("vm.boot", None, "disk.raw", "Permission denied")
    os.chmod(disk, 0o666)
    for attempt in range(2):
        os.chmod(elf, 0o600)
        fails("vm.boot", None, "guest.elf", "Permission denied")
        os.chmod(elf, 0o644)
        with limited(t, vm, "as", 1 << 20):
            fails("vm.boot", None, "Cannot allocate memory")
        with limited(t, vm, "nofile", len(vm.footprint()["fds"]) + 2):
            fails("vm.boot", None, "Too many open files")
        # The first time makes what stays: stacks and heaps that the C library keeps.
        before = vm.footprint() if attempt == 0 else before
    h.check(vm.state() == "Created", "the VM is still there, and not started")
    vm.wait_no_more_than(before)
    h.check(True, "and nothing is left of the attempts")
    works("vm.boot")
    t.wait_for(lambda: "tick 2" in open(t.path("serial.txt"), encoding="utf-8").read(), "the guest", 20)

    before = vm.footprint()
    os.chmod(more, 0o600)
    added = {"path": more, "id": "more"}
    fails("vm.add-disk", added, "more.raw", "Permission denied")
    os.chmod(more, 0o666)
    with limited(t, vm, "nofile", len(vm.footprint()["fds"]) + 2):
        fails("vm.add-disk", added, "Too many open files")
    fails("vm.add-net", {"id": "nic"}, "tap vmtap")  # no right to make one, or to open /dev/net/tun
    with limited(t, vm, "fsize", DISK_BYTES):
        fails("vm.resize-disk", {"id": "disk", "desired_size": 2 * DISK_BYTES}, "disk.raw", "File too large", status=400)
    h.check(os.path.getsize(disk) == DISK_BYTES, "the disk has its size")
    vm.put("vm.pause")
    fails("vm.snapshot", {"destination_url": f"file://{closed}"}, closed, "Permission denied")
    vm.put("vm.resume")
    vm.wait_no_more_than(before)
    h.check(True, "nothing is left of the attempts")
    works("vm.add-disk", added)
    works("vm.resize-disk", {"id": "disk", "desired_size": 2 * DISK_BYTES})
    ticks = open(t.path("serial.txt"), encoding="utf-8").read().count("tick")
    t.wait_for(lambda: open(t.path("serial.txt"), encoding="utf-8").read().count("tick") > ticks + 2, "the guest to go on", 20)
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)
