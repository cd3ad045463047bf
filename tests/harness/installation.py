# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `meson install` makes, in a directory or, for the test alone, in its real places."""

import os
import shutil
import stat
import subprocess

from .context import mount, new_directories


def install(t, directory):
    """Installs into DIRECTORY."""
    build = os.environ["KUMO_BUILD"]
    options = subprocess.run(["meson", "introspect", "--buildoptions", build], capture_output=True, check=True).stdout
    if b'"value": "/usr/local"' not in options:
        t.skip("the build is configured for another prefix than /usr/local")
    t.run("meson", "install", "-C", build, "--no-rebuild", "--destdir", directory, timeout=60)


def installed(t):
    """Installs into the real directories, in layers of memory above them that only this test sees; /dev/kvm is as udev makes it."""
    t.network()
    layers = t.path("layers")
    new_directories([layers])
    for directory in ("usr", "etc"):
        for part in (directory, f"{directory}-work"):
            os.mkdir(f"{layers}/{part}")
        mount("overlay", f"/{directory}", "overlay", f"lowerdir=/{directory},upperdir={layers}/{directory},workdir={layers}/{directory}-work")
    shutil.rmtree("/etc/libvirt", ignore_errors=True)
    t.private_directories("/run", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")
    os.makedirs("/run/lock", exist_ok=True)
    install(t, "/")
    t.run("systemd-sysusers", "/usr/lib/sysusers.d/kumo.conf")
    node = t.path("kvm")
    os.mknod(node, stat.S_IFCHR | 0o660, os.stat("/dev/kvm").st_rdev)
    os.chmod(node, 0o660)
    shutil.chown(node, group="kvm")
    mount(node, "/dev/kvm")


def installed_environment():
    """Without what leads to the build directory."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LIBVIRT_", "KUMO_", "VIRTD_"))}
    environment["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return environment


def start_installed(t):
    """Starts the installed daemon; returns its process."""
    daemon = t.start("virtkumod", env=installed_environment(), name="virtkumod")
    t.wait_for(lambda: daemon.poll() is not None or os.path.exists("/run/libvirt/virtkumod-sock"), "the socket", 30)
    t.equal(daemon.poll(), None, "virtkumod's status")
    return daemon
