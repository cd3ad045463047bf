# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt in tests: domains, connections that remember events, and the VMM without a VM (tests/fakes/fake-kumo.py)."""

import glob
import os
import re
import shutil
import threading
import time
import uuid
from xml.sax.saxutils import escape

import libvirt

from .context import LIBVIRT_DIRECTORIES, Failure

FAKE = os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "fakes", "fake-kumo.py")

libvirt.registerErrorHandler(lambda opaque, error: None, None)


def fake(t, kind=""):
    """The path of a fake VMM; KIND is "-mute", "-dead" or "-deny"."""
    path = t.path(f"fake-kumo{kind}")
    if not os.path.exists(path):
        os.chmod(shutil.copy(FAKE, path), 0o755)  # the user that runs it may not get into the checkout
    return path


def kernel(t):
    """A file that stands for a kernel where nothing boots."""
    path = t.path("kernel")
    with open(path, "ab"):
        pass
    return path


def domain(t, name="vm", words="", emulator=None, path=None, devices="<serial type='pty'/>", extra="", initrd=None, memory=64, vcpus=1):
    """The XML of a domain: WORDS is its kernel command line, EXTRA goes before <os>. A fake VMM runs it unless told otherwise."""
    initrd = f"<initrd>{initrd}</initrd>" if initrd else ""
    emulator = f"<emulator>{emulator or fake(t)}</emulator>" if emulator != "" else ""
    return f"""<domain type='kvm'>
  <name>{name}</name>
  <uuid>{uuid.uuid5(uuid.NAMESPACE_DNS, name)}</uuid>
  <memory unit='MiB'>{memory}</memory>
  <vcpu>{vcpus}</vcpu>
  {extra}
  <os>
    <type>hvm</type>
    <kernel>{path or kernel(t)}</kernel>{initrd}
    <cmdline>{escape(words)}</cmdline>
  </os>
  <devices>{emulator}{devices}</devices>
</domain>
"""


def disk(t, name="disk.img", size=1 << 20, target="vda"):
    """Makes a raw image; returns its path and its XML."""
    path = t.path(name)
    with open(path, "wb") as stream:
        stream.truncate(size)
    return path, f"<disk type='file'><source file='{path}'/><target dev='{target}' bus='virtio'/></disk>"


def configure(t, **settings):
    """Writes kumo.conf for the daemon that the test starts next."""
    t.libvirt_directories()
    with open("/etc/libvirt/kumo.conf", "w", encoding="ascii") as stream:
        for key, value in settings.items():
            stream.write(f"{key} = {value}\n" if isinstance(value, int) else f'{key} = "{value}"\n')


class EventLoop:
    """libvirt's event loop in a thread of its own, one per process."""
    started = False

    @classmethod
    def start(cls):
        if cls.started:
            return
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=cls.run, daemon=True).start()
        cls.started = True

    @staticmethod
    def run():
        while True:
            libvirt.virEventRunDefaultImpl()


class Connection:
    """A connection that remembers what it was told: .lifecycle of a domain as (event, detail), .reboots, .devices as
    ("added", "removed" or "kept", alias), .disks as ("error", path, alias, reason) or ("threshold", target, path, threshold,
    excess), .balloons in KiB, .tunables, .jobs (parameters of those that ended), .iterations."""

    run_directory = "/run/libvirt/kumo"
    _busy = None

    def __init__(self, t, uri="kumo:///system", events=True):
        self.t = t
        self.uri = uri
        EventLoop.start()
        self.open(events)

    def open(self, events=True):
        self.conn = libvirt.open(self.uri)
        self.remember(events)

    def remember(self, events):
        self.lifecycle = {}
        self.reboots = []
        self.devices = []
        self.disks = []
        self.balloons = []
        self.tunables = []
        self.jobs = []
        self.iterations = []
        if events:
            for event, callback in ((libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, self._added),
                                    (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, self._removed),
                                    (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED, self._kept),
                                    (libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, self._io_error),
                                    (libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_THRESHOLD, self._threshold),
                                    (libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE, self._balloon),
                                    (libvirt.VIR_DOMAIN_EVENT_ID_TUNABLE, self._tunable),
                                    (libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._job),
                                    (libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION, self._iteration)):
                self.conn.domainEventRegisterAny(None, event, callback, None)
            self.conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None)
            self.conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot, None)

    def process_of(self, name):
        """The pid of a domain's VMM."""
        return process_of(self.conn.lookupByName(name), self.run_directory)

    def _lifecycle(self, conn, dom, event, detail, opaque):
        self.lifecycle.setdefault(dom.name(), []).append((event, detail))

    def _reboot(self, conn, dom, opaque):
        self.reboots.append(dom.name())

    def _added(self, conn, dom, alias, opaque):
        self.devices.append(("added", alias))

    def _removed(self, conn, dom, alias, opaque):
        self.devices.append(("removed", alias))

    def _kept(self, conn, dom, alias, opaque):
        self.devices.append(("kept", alias))

    def _io_error(self, conn, dom, path, alias, action, reason, opaque):
        self.disks.append(("error", path, alias, reason))

    def _threshold(self, conn, dom, target, path, threshold, excess, opaque):
        self.disks.append(("threshold", target, path, threshold, excess))

    def _balloon(self, conn, dom, actual, opaque):
        self.balloons.append(actual)

    def _tunable(self, conn, dom, params, opaque):
        self.tunables.append(params)

    def _job(self, conn, dom, params, opaque):
        self.jobs.append(params)

    def _iteration(self, conn, dom, number, opaque):
        self.iterations.append(number)

    def background(self, function, *arguments):
        """Calls a function that waits for the guest; join() gives its end, and raises what it raised."""
        result = {}

        def run():
            try:
                result["value"] = function(*arguments)
            except libvirt.libvirtError as error:
                result["error"] = error

        thread = threading.Thread(target=run, daemon=True)
        self._busy = thread, result
        thread.start()

    def join(self, seconds=30):
        thread, result = self._busy
        thread.join(seconds)
        if thread.is_alive():
            raise Failure(f"a call has not come back after {seconds} s")
        if "error" in result:
            raise result["error"]
        return result["value"]

    def events(self, name, *expected, seconds=10):
        """Waits until the events of a domain are exactly these, and forgets them."""
        end = time.monotonic() + seconds
        while self.lifecycle.get(name, []) != list(expected) and time.monotonic() < end:
            time.sleep(0.02)
        found = self.lifecycle.pop(name, [])
        if found != list(expected):
            raise Failure(f"events of {name}: found {found}, expected {list(expected)}")

    def state(self, dom, *expected, seconds=10):
        """Waits until a domain has this (state, reason)."""
        end = time.monotonic() + seconds
        while tuple(dom.state()) != expected and time.monotonic() < end:
            time.sleep(0.02)
        if tuple(dom.state()) != expected:
            raise Failure(f"state of {dom.name()}: found {tuple(dom.state())}, expected {expected}")


class Host(Connection):
    """A virtkumod as on a host of its own, with its own UUID and directories, in this test's network; and a connection to it."""

    def __init__(self, t, name, settings=""):
        self.root = t.path(name)
        self.run_directory = f"{self.root}/run/libvirt/kumo"
        t.network()
        t.libvirt_directories()
        for directory in LIBVIRT_DIRECTORIES:
            os.makedirs(self.root + directory)
        os.chmod(self.root, 0o711)
        os.makedirs(f"{self.root}/run/lock")
        with open(f"{self.root}/etc/libvirt/virtkumod.conf", "w", encoding="ascii") as stream:
            stream.write(f'host_uuid = "{uuid.uuid4()}"\n')
        with open(f"{self.root}/etc/libvirt/kumo.conf", "w", encoding="ascii") as stream:
            stream.write(f'{settings}\nmigration_host = "127.0.0.1"\ncgroup_controllers = []\n')  # the groups would be the same ones
        self.socket = f"{self.root}/run/libvirt/virtkumod-sock"
        self.t = t
        self.launch()
        super().__init__(t, f"kumo+unix:///system?socket={self.socket}")

    def launch(self):
        binds = " && ".join(f"mount --bind {self.root}{path} {path}" for path in LIBVIRT_DIRECTORIES)
        self.process = self.t.start("unshare", "--mount", "sh", "-c", f"{binds} && exec virtkumod", name=f"virtkumod-{os.path.basename(self.root)}-{time.monotonic_ns()}")
        self.t.wait_for(lambda: self.process.poll() is not None or os.path.exists(self.socket), "virtkumod's socket", 30)

    def open(self, events=True):
        def connect():
            try:
                self.conn = libvirt.open(self.uri)
            except libvirt.libvirtError:
                return False  # it does not listen yet
            return True

        self.t.wait_for(connect, "the daemon's answer")
        self.remember(events)

    def kill(self):
        self.process.kill()
        self.process.wait()
        os.unlink(self.socket)

    def start(self):
        self.launch()
        self.open()


def refused(t, code, function, *arguments, text=None):
    """Calls a function of libvirt that has to fail with this error code, and with TEXT in its message."""
    try:
        result = function(*arguments)
    except libvirt.libvirtError as error:
        t.equal(error.get_error_code(), code, f"code of '{error}'")
        if text is not None:
            t.check(text in str(error), f"'{text}' is not in '{error}'")
        return
    t.check(False, f"{getattr(function, '__name__', function)} succeeded with {result!r}")


def kumo():
    return os.path.join(os.environ["KUMO_BUILD"], "vmm-core", "kumo")


def guest_elf(t):
    """A copy of the test guest in tests/guest: a file that a running domain uses changes its owner."""
    path = t.path("guest.elf")
    if not os.path.exists(path):
        shutil.copy(os.path.join(os.environ["KUMO_BUILD"], "tests/guest/guest.elf"), path)
    return path


def small(t, words, **options):
    """A domain of the test guest."""
    return domain(t, words=words, path=guest_elf(t), emulator=kumo(), **options)


class Stream:
    """A domain's console as text."""

    def __init__(self, t, conn, dom, alias=None, flags=libvirt.VIR_DOMAIN_CONSOLE_FORCE):
        self.t = t
        self.seen = ""
        self.stream = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
        dom.openConsole(alias, self.stream, flags)

    def read(self):
        while True:
            data = self.stream.recv(4096)
            if data in (-2, b""):
                return
            self.seen += data.decode(errors="replace")

    def expect(self, pattern, seconds=30):
        def found():
            self.read()
            return re.search(pattern, self.seen, re.MULTILINE)
        match = self.t.wait_for(found, f"/{pattern}/ on the console", seconds, every=0.05)
        self.seen = self.seen[match.end():]
        return match

    def send(self, text):
        self.stream.send(text.encode())

    def shell(self, command, seconds=20):
        """Runs a command in the guest's shell; returns its output, or fails with it when the status is not 0."""
        # Quotation marks keep the marks apart from the shell's echo of what is typed.
        self.send(f'echo "begin"=; {command}; echo "status"=$?=\n')
        self.expect(r"^begin=\r?$", seconds)
        match = self.expect(r"^status=(\d+)=\r?$", seconds)
        output = match.string[:match.start()].lstrip("\r\n").replace("\r\n", "\n")
        if match[1] != "0":
            raise Failure(f"in the guest: {command}: status {match[1]}: {output}")
        return output

    def close(self):
        self.stream.finish()


def start(t, c, xml):
    """Defines a domain of the test guest and starts it. Returns it, and its console when the guest is ready."""
    dom = c.conn.defineXML(xml)
    dom.create()
    console = Stream(t, c.conn, dom)
    console.expect("^ready")
    return dom, console


def process_of(dom, directory="/run/libvirt/kumo"):
    """The pid of a domain's VMM, from its run directory."""
    path = f"{directory}/domain-{dom.ID()}-{dom.name()}/pid"
    with open(path, encoding="ascii") as stream:
        return int(stream.read())


def libvirtd(t, only=("interface", "network", "nodedev", "nwfilter", "secret", "storage")):
    """Starts stock libvirtd in the directories of the test, with these of its drivers. Returns its process."""
    if not shutil.which("libvirtd"):
        t.skip("libvirtd is not installed")
    t.network()
    t.libvirt_directories()
    modules = t.path("modules")
    os.mkdir(modules)
    for name in only:
        for path in glob.glob(f"/usr/lib/*/libvirt/connection-driver/libvirt_driver_{name}.so"):
            os.symlink(path, os.path.join(modules, os.path.basename(path)))
    environment = dict(os.environ, LIBVIRT_DRIVER_DIR=modules)
    process = t.start("libvirtd", env=environment, name="libvirtd")
    t.wait_for(lambda: os.path.exists("/run/libvirt/libvirt-sock") or process.poll() is not None, "libvirtd's socket", 30)
    t.equal(process.poll(), None, "libvirtd's exit status")
    return process


def nat_network(t, conn):
    """Defines and starts libvirt's network "default" as its package has it: NAT, DHCP from 192.168.122.2 on, bridge virbr0."""
    with open("/usr/share/libvirt/networks/default.xml", encoding="utf-8") as stream:
        network = conn.networkDefineXML(stream.read())
    network.create()
    t.cleanup(network.destroy)
    return network
