#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Make what libvirt's build would generate and our module and daemon include.

libvirt_driver_kumo.so and virtkumod use libvirt's internal headers, which the -dev package does not
carry. This program reads an unpacked libvirt source tree and writes the generated ones, without
configuring libvirt itself:

    libvirt-headers.py check   SOURCE INSTALLED   is SOURCE usable with the INSTALLED version?
    libvirt-headers.py outputs                    names of the generated files, one per line
    libvirt-headers.py generate SOURCE OUTDIR     write them

A version is supported when it has an entry in VERSIONS below, after its private interface has been
read and tested; every other one is refused.
"""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

# How the XDR code of a version is made: "perl" is src/rpc/genprotocol.pl around the system's rpcgen,
# "python" is libvirt's own generator.
VERSIONS = {
    "9.0.0": {"rpcgen": "perl"},
    "11.3.0": {"rpcgen": "python"},
}

PROGRAMS = ("remote", "qemu", "lxc")

# The features that the daemon's own files ask for. None of them changes a structure that is shared
# with libvirt.so.0, so they need not repeat how the distribution configured it.
MESON_CONFIG = {
    "PACKAGE": '"libvirt"',
    "PACKAGE_NAME": '"libvirt"',
    "SIZEOF_LONG": "8",
    "WITH_LIBINTL_H": "1",
    "WITH_LIBNL": "1",
    "WITH_SASL": "1",
    "WITH_POLKIT": "1",
    "WITH_NET_IF_H": "1",
    "WITH_STRUCT_IFREQ": "1",
    "WITH_GETUID": "1",
    "WITH_GETGID": "1",
    "WITH_GETEUID": "1",
    "WITH_GETEGID": "1",
}

# Where stock libvirt.so.0 was told to look; the daemon has to agree with its clients.
CONFIGMAKE = {
    "BINDIR": "/usr/bin",
    "DATADIR": "/usr/share",
    "LIBDIR": "@libdir@",
    "LIBEXECDIR": "/usr/lib/libvirt",
    "LOCALEDIR": "/usr/share/locale",
    "LOCALSTATEDIR": "/var",
    "MANDIR": "/usr/share/man",
    "PKGDATADIR": "/usr/share/libvirt",
    "PREFIX": "/usr",
    "RUNSTATEDIR": "/run",
    "SBINDIR": "@sbindir@",
    "SYSCONFDIR": "/etc",
}

ACL_HEADERS = {
    "remote": "viraccessapicheck.h",
    "qemu": "viraccessapicheckqemu.h",
    "lxc": "viraccessapichecklxc.h",
}

# The changes to remote_daemon_dispatch.c: (pattern, replacement, how often it has to match).
DISPATCH_PATCHES = (
    # The daemon gives secondary drivers only to hypervisor types that it knows by name.
    (r'STREQ\(type, "CH"\)\)', 'STREQ(type, "CH") || STREQ(type, "KUMO"))', 1),
    # Networks, storage and the like: by their modular daemon, else by libvirtd.
    (r'URI = ("[a-z]+:///(?:system|session)");', r"URI = kumoSecondaryURI(\1);", None),
    (r'(#include "configmake\.h"\n)', r'\1#include "driver/daemon/secondary_uri.h"\n', 1),
)


def outputs():
    names = ["meson-config.h", "configmake.h", "remote_daemon_dispatch.c"]
    names += ACL_HEADERS.values()
    for program in PROGRAMS:
        names += [f"{program}_protocol.h", f"{program}_daemon_dispatch_stubs.h"]
    names += ["admin_protocol.h", "admin_protocol.c", "admin_server_dispatch_stubs.h"]
    names += ["virnetprotocol.h", "virkeepaliveprotocol.h"]
    return names


def source_version(source):
    try:
        with open(os.path.join(source, "meson.build"), encoding="utf-8") as file:
            text = file.read(4096)
    except OSError as error:
        sys.exit(f"libvirt_source {source!r}: {error.strerror}: expected libvirt's unpacked source")
    match = re.search(r"project\(\s*'libvirt'.*?version:\s*'([0-9.]+)'", text, re.S)
    if not match:
        sys.exit(f"libvirt_source {source!r} is not libvirt's source tree")
    return match.group(1)


def check(source, installed):
    version = source_version(source)
    if version != installed:
        sys.exit(
            f"libvirt_source {source!r} is version {version}, but libvirt {installed} is installed: "
            "the two must be the same"
        )
    if version not in VERSIONS:
        sys.exit(
            f"libvirt {version} is not supported, only {', '.join(VERSIONS)}: a driver uses libvirt's "
            "private interface, which differs between versions"
        )
    print(version)


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def run(command, path=None):
    """Run a generator; its standard output goes to path, if one is given."""
    result = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if result.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {result.returncode}")
    if path:
        with open(path, "wb") as file:
            file.write(result.stdout)


def dispatch(source, out, mode, program, name):
    protocol_dir = "admin" if program == "admin" else "remote"
    run(
        [
            "perl",
            "-w",
            f"{source}/src/rpc/gendispatch.pl",
            f"--mode={mode}",
            program,
            program.upper(),
            f"{source}/src/{protocol_dir}/{program}_protocol.x",
        ],
        os.path.join(out, name),
    )


def protocol(source, out, how, mode, relative, name):
    path = os.path.join(out, name)
    if how == "perl":
        flag = {"header": "-h", "source": "-c"}[mode]
        run(["perl", "-w", f"{source}/src/rpc/genprotocol.pl", "rpcgen", flag,
             f"{source}/src/{relative}", path])
    else:
        command = [sys.executable, "-B", f"{source}/scripts/rpcgen/main.py", f"--mode={mode}"]
        if mode == "source":
            command.append(f"--header={name.removesuffix('.c')}.h")
        run(command + [f"{source}/src/{relative}", path])


def patch_dispatch(source):
    with open(f"{source}/src/remote/remote_daemon_dispatch.c", encoding="utf-8") as file:
        text = file.read()
    for pattern, replacement, expected in DISPATCH_PATCHES:
        text, count = re.subn(pattern, replacement, text)
        if count == 0 or (expected is not None and count != expected):
            sys.exit(f"remote_daemon_dispatch.c: {pattern!r} matched {count} times")
    return text


def generate(source, out, libdir, sbindir):
    version = source_version(source)
    how = VERSIONS[version]["rpcgen"]
    os.makedirs(out, exist_ok=True)

    config = dict(MESON_CONFIG)
    config["VERSION"] = config["PACKAGE_VERSION"] = f'"{version}"'
    write(f"{out}/meson-config.h",
          "#pragma once\n" + "".join(f"#define {key} {value}\n" for key, value in config.items()))
    write(f"{out}/configmake.h",
          "#pragma once\n" + "".join(
              f'#define {key} "{value}"\n'.replace("@libdir@", libdir).replace("@sbindir@", sbindir)
              for key, value in CONFIGMAKE.items()))
    write(f"{out}/remote_daemon_dispatch.c", patch_dispatch(source))

    jobs = [(dispatch, (source, out, "aclheader", program, name))
            for program, name in ACL_HEADERS.items()]
    for program in PROGRAMS:
        jobs.append((dispatch, (source, out, "server", program,
                                f"{program}_daemon_dispatch_stubs.h")))
        jobs.append((protocol, (source, out, how, "header", f"remote/{program}_protocol.x",
                                f"{program}_protocol.h")))
    jobs.append((dispatch, (source, out, "server", "admin", "admin_server_dispatch_stubs.h")))
    for mode, suffix in (("header", "h"), ("source", "c")):
        jobs.append((protocol, (source, out, how, mode, "admin/admin_protocol.x",
                                f"admin_protocol.{suffix}")))
    for name in ("virnetprotocol", "virkeepaliveprotocol"):
        jobs.append((protocol, (source, out, how, "header", f"rpc/{name}.x", f"{name}.h")))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for future in [pool.submit(function, *args) for function, args in jobs]:
            future.result()

    # Some of libvirt's files name this one with its directory.
    os.makedirs(f"{out}/admin", exist_ok=True)
    write(f"{out}/admin/admin_protocol.h", '#include "../admin_protocol.h"\n')

    missing = [name for name in outputs() if not os.path.exists(os.path.join(out, name))]
    if missing:
        sys.exit(f"not generated: {', '.join(missing)}")


def main(argv):
    if argv[1:2] == ["outputs"]:
        print("\n".join(outputs()))
    elif argv[1:2] == ["check"] and len(argv) == 4:
        check(argv[2], argv[3])
    elif argv[1:2] == ["generate"] and len(argv) == 6:
        generate(*argv[2:6])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv)
