#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# Fetches what is read but never installed into the cache: libvirt's source package and the kernels.
#
#   libvirt/VERSION/         patched source tree of the installed libvirt; libvirt-source points at it
#   kernels/NAME/            release (text), vmlinuz (bzImage), vmlinux (ELF), lib/modules/RELEASE
#                            NAME: lab (Debian 12), bookworm (Debian 12 cloud), trixie (Debian 13 cloud)
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"
. "$here/private-apt.sh"

declare -A updated=()
update_once() {
    [ -n "${updated[$1]:-}" ] && return
    private_apt_update "$1"
    updated[$1]=1
}

# fetch_kernel NAME RELEASE METAPACKAGE: the kernel package that METAPACKAGE of Debian RELEASE depends on.
fetch_kernel() {
    local name=$1 release=$2 meta=$3 package work kernel
    local target=$KUMO_CACHE/kernels/$name
    [ -e "$target/complete" ] && return
    update_once "$release"
    package=$(private_apt "$release" apt-cache depends "$meta" |
        sed -n 's/^ *Depends: \(linux-image-[0-9][^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] || die "package $meta of Debian $release names no kernel"
    say "fetching $package for kernel '$name'"
    work=$(mktemp -d "$KUMO_CACHE/fetch.XXXXXX")
    (cd "$work" && private_apt "$release" apt-get download "$package" >&2) || die "cannot download $package"
    dpkg-deb -x "$work"/*.deb "$work/tree"
    [ -d "$work/tree/lib" ] || mv "$work/tree/usr/lib" "$work/tree/lib"
    kernel=$(basename "$work"/tree/lib/modules/*)
    mkdir "$work/kernel"
    mv "$work"/tree/boot/vmlinuz-* "$work/kernel/vmlinuz"
    mv "$work/tree/lib" "$work/kernel/lib"
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$work/kernel" "$kernel"
    python3 "$here/bzimage.py" "$work/kernel/vmlinuz" "$work/kernel/vmlinux"
    printf '%s\n' "$kernel" >"$work/kernel/release"
    touch "$work/kernel/complete"
    rm -rf "$target"
    mkdir -p "$(dirname "$target")"
    mv "$work/kernel" "$target"
    rm -rf "$work"
}

fetch_libvirt_source() {
    local release version target work
    release=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    version=$(dpkg-query -W -f '${source:Version}' libvirt-dev) || die "libvirt-dev is not installed"
    target=$KUMO_CACHE/libvirt/$version
    if [ ! -e "$target/complete" ]; then
        update_once "$release"
        say "fetching the source of libvirt $version"
        work=$(mktemp -d "$KUMO_CACHE/fetch.XXXXXX")
        (cd "$work" && private_apt "$release" apt-get source "libvirt=$version" >&2) ||
            die "cannot fetch the source package libvirt $version"
        mkdir -p "$KUMO_CACHE/libvirt"
        rm -rf "$target"
        mv "$work"/libvirt-*/ "$target"
        touch "$target/complete"
        rm -rf "$work"
    fi
    ln -sfn "libvirt/$version" "$KUMO_CACHE/libvirt-source"
}

make_cache
exec 9>"$KUMO_CACHE/fetch.lock"
flock 9
fetch_libvirt_source
fetch_kernel lab bookworm linux-image-amd64
fetch_kernel bookworm bookworm linux-image-cloud-amd64
fetch_kernel trixie trixie linux-image-cloud-amd64
