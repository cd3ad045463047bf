# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a test function is and what it gets.

    @test(timeout=60, where="lab")
    def test_something(t):
        vm = t.kumo("--kernel", guest.kernel("bookworm-elf"), …)

A test gets a Context: a directory of its own, a network namespace of its own, and clean-up of everything it started.
"""

import ctypes
import itertools
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
BOOT_TIME = 2  # in utmp

# Where libvirt's daemons keep sockets, configuration, state and logs.
LIBVIRT_DIRECTORIES = ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")

# Everything that waits waits this much longer than on a machine of its own: the lab's processor is emulated, and other
# work may want the host's.
PATIENCE = 3.0 if os.environ.get("KUMO_IN_LAB") == "1" else 1.0


class Skip(Exception):
    """Raised by Context.skip: the test cannot run here; the text says why."""


class Failure(AssertionError):
    """Raised by the checks of a Context."""


class TimedOut(Failure):
    """What was expected did not come in time. In the lab such a test is tried once more, see test()."""


def test(timeout=60, where="lab", retry=True):
    """Marks a test function.

    timeout: seconds until it is ended as failed (three times as many in the lab, as for everything that waits).
    where: "lab" needs a KVM that runs stock kernels, so it runs in the lab unless the host's KVM is native; "host" runs
    directly on any host with /dev/kvm, software KVM too; "any" needs no KVM.
    retry: whether a time-out in the lab is tried once more, as other work on the host may stop the lab for long.
    """
    def mark(function):
        function.kumo_test = {"timeout": timeout, "where": where, "retry": retry}
        return function
    return mark


def cases(**parameters):
    """Runs a test once for each combination of the named values, which are passed by keyword."""
    def mark(function):
        names = list(parameters)
        function.kumo_cases = [dict(zip(names, values)) for values in itertools.product(*parameters.values())]
        return function
    return mark


def _libc(name, *arguments):
    """Calls a function of the C library that returns 0 or sets errno."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def new_network():
    """Moves this process into a network namespace of its own, with the loopback interface up."""
    _libc("unshare", CLONE_NEWNET)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def mount(source, target, kind=None, options=""):
    """Mounts a file system of KIND, or without one binds SOURCE to TARGET, in this process's mount namespace."""
    _libc("mount", source.encode(), target.encode(), kind.encode() if kind else None, 0 if kind else MS_BIND, options.encode())


def new_directories(paths):
    """Puts an empty directory in memory over each path, for this process and what it starts."""
    _libc("unshare", CLONE_NEWNS)
    _libc("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    for path in paths:
        os.makedirs(path, exist_ok=True)
        mount("tmpfs", path, "tmpfs", "mode=755")


def listens(path):
    """Whether somebody takes connections at a socket. One that was killed leaves a socket where nobody does."""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(path)
        except OSError:
            return False
    return True


class PrivateCgroups:
    """Control groups of the test's own: this process, what it starts and what virtkumod starts for it see nobody else's, and
    /sys/fs/cgroup looks as before. Needs a mount namespace of the test's own. Without the right to make groups the test gets
    none, as in many a container."""

    def __init__(self, name):
        with open("/proc/self/mounts", encoding="utf-8") as stream:
            mounts = [line.split() for line in stream]
        self._mounts = [(path, kind, options) for _, path, kind, options, *_ in mounts
                        if kind in ("cgroup", "cgroup2") and path.startswith("/sys/fs/cgroup")]
        with open("/proc/self/cgroup", encoding="ascii") as stream:
            self._homes = [line.rstrip("\n").split(":", 2) for line in stream]
        self._name = name
        self._made = []  # (the hierarchy's root as a descriptor, where this process was in it)
        try:
            self._enter()
        except OSError:
            self.leave()
            self._made = None
        self._mount()

    def _home(self, kind, options):
        """Where this process is in a hierarchy."""
        for _, controllers, path in self._homes:
            if kind == "cgroup2" and controllers == "" or kind == "cgroup" and controllers and set(controllers.split(",")) <= set(options.split(",")):
                return path.lstrip("/")
        return ""

    def _enter(self):
        for path, kind, options in self._mounts:
            root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._made.append((root, self._home(kind, options)))
            os.mkdir(self._name, dir_fd=root)
            if kind == "cgroup":  # such a group of CPUs has none at first
                for file in ("cpuset.cpus", "cpuset.mems"):
                    try:
                        self._write(root, f"{self._name}/{file}", self._read(root, file))
                    except FileNotFoundError:
                        pass
            self._write(root, f"{self._name}/cgroup.procs", str(os.getpid()))
        _libc("unshare", CLONE_NEWCGROUP)

    @staticmethod
    def _read(root, file):
        with open(os.open(file, os.O_RDONLY, dir_fd=root), encoding="ascii") as stream:
            return stream.read()

    @staticmethod
    def _write(root, file, text):
        with open(os.open(file, os.O_WRONLY, dir_fd=root), "w", encoding="ascii") as stream:
            stream.write(text)

    def _mount(self):
        """Mounts what this process may see of each hierarchy, over what was there."""
        ctypes.CDLL(None).umount2(b"/sys/fs/cgroup", MNT_DETACH)
        if not self._made:
            return
        if len(self._mounts) > 1:
            _libc("mount", b"tmpfs", b"/sys/fs/cgroup", b"tmpfs", 0, b"mode=755")
        for path, kind, options in self._mounts:
            os.makedirs(path, exist_ok=True)
            wanted = ",".join(word for word in options.split(",") if word not in ("rw", "relatime", "nosuid", "nodev", "noexec"))
            _libc("mount", b"none", path.encode(), kind.encode(), 0, wanted.encode() if kind == "cgroup" else None)
            if kind == "cgroup2":  # a group that has processes gives no controllers to others
                os.mkdir(f"{path}/test")
                with open(f"{path}/test/cgroup.procs", "w", encoding="ascii") as stream:
                    stream.write(str(os.getpid()))

    def leave(self):
        """Goes back, ends what is still in the groups, and removes them."""
        for root, home in self._made or []:
            try:
                self._write(root, os.path.join(home, "cgroup.procs"), str(os.getpid()))
                self._remove(root, self._name)
            except OSError:
                pass
            os.close(root)
        self._made = []

    def _remove(self, root, path, seconds=3.0):
        end = time.monotonic() + seconds
        for entry in os.scandir(f"/proc/self/fd/{root}/{path}"):
            if entry.is_dir(follow_symlinks=False):
                self._remove(root, f"{path}/{entry.name}")
        while True:
            try:
                return os.rmdir(path, dir_fd=root)
            except OSError:
                if time.monotonic() > end:
                    raise
            try:
                for pid in self._read(root, f"{path}/cgroup.procs").split():
                    os.kill(int(pid), signal.SIGKILL)
            except OSError:  # threads of a process that is in another group, or it is gone already
                pass
            time.sleep(0.02)


def new_kvm_device(directory):
    """Puts a /dev/kvm that everybody may open over the one there is, for this process and what it starts. That is what udev's
    rules make of it; without udev only root may open it."""
    node = os.path.join(directory, "kvm")
    os.mknod(node, stat.S_IFCHR | 0o666, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o666)
    mount(node, "/dev/kvm")


def note_boot_time():
    """Writes the time of boot where init notes it. libvirt does not trust the owner that it noted for a file before another
    boot, and without this it computes the time from the uptime, to a second more or less."""
    with open("/proc/stat", encoding="ascii") as stream:
        seconds = next(int(line.split()[1]) for line in stream if line.startswith("btime "))
    with open("/run/utmp", "wb") as stream:
        stream.write(struct.pack("=hxxi32s4s32s256shhiii16x20x", BOOT_TIME, 0, b"~", b"~~", b"reboot", b"", 0, 0, 0, seconds, 0))


def open_to_all(path):
    """Whether every user may get to this program and run it."""
    path = os.path.realpath(path)
    while True:
        mode = os.stat(path).st_mode
        if not mode & stat.S_IXOTH:
            return False
        if path == "/":
            return True
        path = os.path.dirname(path)


class Context:
    """Everything a running test uses. close() undoes it in reverse order."""

    def __init__(self, name):
        self.name = name
        self.directory = tempfile.mkdtemp(prefix="kumo-test-")
        os.chmod(self.directory, 0o711)  # virtkumod's VMs run as another user and open their disks here
        self._cleanups = []
        self._network = False
        self._private = set()
        self._count = 0

    def path(self, name):
        return os.path.join(self.directory, name)

    def skip(self, reason):
        raise Skip(reason)

    def cleanup(self, function, *arguments):
        """Calls function(*arguments) when the test has ended, however it ended."""
        self._cleanups.append((function, arguments))

    def network(self):
        """Gives the test a network namespace of its own, once."""
        if not self._network:
            if os.geteuid() != 0:
                self.skip("a network namespace needs root")
            new_network()
            self._network = True

    def private_directories(self, *paths):
        """Gives the test empty directories at these absolute paths, which nobody else sees."""
        if os.geteuid() != 0:
            self.skip("private directories need root")
        new_directories([path for path in paths if path not in self._private])
        self._private.update(paths)

    def libvirt_directories(self):
        """Gives the test system directories of its own for libvirt, and devices as a host with udev has them, once."""
        if self._private.issuperset(LIBVIRT_DIRECTORIES):
            return
        self.private_directories(*LIBVIRT_DIRECTORIES)
        os.makedirs("/run/lock", exist_ok=True)  # libvirt locks consoles there
        note_boot_time()
        self.cleanup(PrivateCgroups(os.path.basename(self.directory)).leave)
        if os.path.exists("/dev/kvm"):
            new_kvm_device("/run")
        self.let_everybody_run("kumo")

    def let_everybody_run(self, program):
        """libvirt's driver runs the VMM as a user of its own. Where the checkout's directory is closed to others, as in
        root's home, a copy of the program goes in front of PATH."""
        path = shutil.which(program)
        if path and not open_to_all(path):
            directory = self.path("bin")
            os.mkdir(directory)
            os.chmod(directory, 0o755)
            os.chmod(shutil.copy(path, directory), 0o755)
            os.environ["PATH"] = f"{directory}:{os.environ['PATH']}"

    def virtkumod(self, *arguments):
        """Starts the daemon on system sockets and directories of the test's own: stock clients reach it as
        kumo:///system from this test, and nobody else does."""
        self.libvirt_directories()
        process = self.start("virtkumod", *arguments, name=f"virtkumod-{self._count}")
        self.wait_for(lambda: process.poll() is not None or listens("/run/libvirt/virtkumod-sock"), "virtkumod's socket", 30)
        if process.poll() is not None:
            raise Failure(f"virtkumod ended with status {process.returncode} at its start")
        return process

    def check(self, condition, message):
        if not condition:
            raise Failure(message)

    def equal(self, found, expected, what="value"):
        if found != expected:
            raise Failure(f"{what}: found {found!r}, expected {expected!r}")

    def wait_for(self, condition, what, seconds=10.0, every=0.02):
        """Polls condition() until it is true; returns what it returned."""
        seconds *= PATIENCE
        end = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > end:
                raise TimedOut(f"waited {seconds:g} s for {what}")
            time.sleep(every)

    def start(self, *command, name=None, **options):
        """Starts a process whose output goes to a log of the test, and ends it with the test."""
        self._count += 1
        name = name or f"{os.path.basename(command[0])}-{self._count}"
        options.setdefault("stdin", subprocess.DEVNULL)
        with open(self.path(f"{name}.log"), "wb") as log:
            options.setdefault("stdout", log)
            options.setdefault("stderr", log)
            try:
                process = subprocess.Popen(command, **options)
            except FileNotFoundError:
                raise Failure(f"{command[0]}: no such program; is the build in front of PATH (./dev run)?") from None
        self.cleanup(end_process, process)
        return process

    def run(self, *command, status=0, timeout=30, **options):
        """Runs a command to its end and returns its output (stdout and stderr); another exit status is a failure."""
        options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                              timeout=timeout * PATIENCE, **options)
        text = done.stdout.decode(errors="replace")
        if status is not None and done.returncode != status:
            raise Failure(f"{' '.join(command)}: status {done.returncode}, expected {status}\n{text}")
        return text

    def kumo(self, *arguments, **options):
        """Starts kumo; see vmm.Kumo."""
        from .vmm import Kumo
        return Kumo(self, *arguments, **options)

    def tap(self, *arguments, **options):
        """Makes a tap interface; see net.Tap."""
        from .net import Tap
        return Tap(self, *arguments, **options)

    def logs(self, lines=25):
        """The last lines of every log in the test's directory, for the report of a failure."""
        for name in sorted(os.listdir(self.directory)):
            if name.endswith(".log") and os.path.isfile(self.path(name)):
                with open(self.path(name), "rb") as stream:
                    text = stream.read().decode(errors="replace")
                kept = [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]
                if kept:
                    yield f"--- {name}"
                    yield from kept

    def close(self):
        while self._cleanups:
            function, arguments = self._cleanups.pop()
            try:
                function(*arguments)
            except Exception as error:  # the rest must be cleaned up too
                print(f"# clean-up of {self.name}: {error}", flush=True)

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)


def end_process(process, seconds=3.0):
    """Ends a process that we started, first gently."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
