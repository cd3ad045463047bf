#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Builds EDK2's firmware for Cloud Hypervisor from Debian's source package, which has it but makes no binary package of
# it, into the cache: firmware/VERSION/CLOUDHV.fd, with firmware/CLOUDHV.fd pointing at it. Some minutes on two processors.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"
. "$here/private-apt.sh"

make_cache
exec 9>"$KUMO_CACHE/firmware.lock"
flock 9
# Changes of this script make another firmware.
mark=$(sha256sum "$0" | cut -c1-12)
built=$KUMO_CACHE/firmware/$mark/CLOUDHV.fd
ln_current() { ln -sfn "$mark/CLOUDHV.fd" "$KUMO_CACHE/firmware/CLOUDHV.fd"; }
if [ -e "$built" ]; then
    ln_current
    exit 0
fi

work=$(mktemp -d "$KUMO_CACHE/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
private_apt_update bookworm
say "fetching the source of EDK2 and building the firmware"
(cd "$work" && private_apt bookworm apt-get source edk2 >&2) || die "cannot fetch the source package edk2"
cd "$work"/edk2-*/

# Leaving an interrupt, EDK2 writes back the task priority (CR8) that it found, which is what it is already. QEMU's
# emulated SVM, on which the lab runs, ends with a failed assertion on such a write while an interrupt waits.
sed -i 's/mov  *cr8, rax/nop/' UefiCpuPkg/Library/CpuExceptionHandlerLib/X64/*.nasm

build_firmware() {
    export PATH=/usr/sbin:/sbin:/usr/bin:/bin PYTHON_COMMAND=/usr/bin/python3
    export WORKSPACE=$PWD EDK_TOOLS_PATH=$PWD/BaseTools CONF_PATH=$PWD/Conf
    make -s -C BaseTools/Source/C -j2
    mkdir -p Conf
    # edksetup.sh is not written for these.
    set +eu
    . ./edksetup.sh BaseTools
    set -eu
    build -a X64 -t GCC5 -b RELEASE -n 2 -p OvmfPkg/CloudHv/CloudHvX64.dsc \
        -D NETWORK_ENABLE=FALSE -D SECURE_BOOT_ENABLE=TRUE -D FD_SIZE_4MB
}
(build_firmware) >"$work/log" 2>&1 || {
    tail -n 30 "$work/log" >&2
    die "the firmware cannot be built"
}
mkdir -p "$(dirname "$built")"
mv Build/CloudHvX64/RELEASE_GCC5/FV/CLOUDHV.fd "$built"
ln_current
