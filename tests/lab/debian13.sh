#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# debian13.sh [PATTERN…]: builds everything against Debian 13's libvirt and runs the ring libvirt there, but for what needs
# stock kernels, in a root directory with Debian 13 that is kept in the cache. All of it in a mount namespace of its own.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
top=$(dirname "$(dirname "$here")")
. "$here/cache.sh"
. "$here/private-apt.sh"

# chroot, mounts and network namespaces are root's.
[ "$(id -u)" = 0 ] || {
    as_root env KUMO_CACHE="$KUMO_CACHE" "$(readlink -f "$0")" "$@"
    exit
}
if [ "${KUMO_DEBIAN13:-}" != inside ]; then
    make_cache
    KUMO_DEBIAN13=inside exec unshare --mount --propagation private "$(readlink -f "$0")" "$@"
fi
exec 9>"$KUMO_CACHE/debian13.lock"
flock 9

packages=(
    meson ninja-build gcc libc6-dev pkg-config gettext perl python3 libglib2.0-dev libjansson-dev liburing-dev
    libseccomp-dev libxxhash-dev libzstd-dev libxml2-dev libvirt-dev libtirpc-dev libgnutls28-dev libnl-3-dev libnl-route-3-dev libsasl2-dev xsltproc
    libxml2-utils binutils
    libvirt-daemon-system prometheus-libvirt-exporter libvirt-daemon-driver-network libvirt-daemon-driver-storage libvirt-daemon-driver-nodedev
    libvirt-daemon-driver-secret libvirt-daemon-driver-nwfilter libvirt-daemon-driver-interface libvirt-clients
    python3-libvirt libsys-virt-perl virtinst virt-top dnsmasq-base iptables iproute2 iputils-ping dbus polkitd openssh-server
    augeas-tools apparmor systemd procps kmod libglib2.0-bin python3-yaml openssl bzip2 xz-utils zstd
)
home=$KUMO_CACHE/debian13
stamp=$(printf '%s\n' "${packages[@]}" | cat "$0" - | sha256sum | cut -c1-16)
if [ ! -e "$home/complete-$stamp" ]; then
    rm -rf "$home"
    mkdir -p "$home/source"
    private_apt_update trixie
    say "making a root directory with Debian 13"
    mmdebstrap --quiet --mode=root --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" trixie "$home/root" \
        "$KUMO_CACHE/apt/trixie/sources.list" >&2 || die "mmdebstrap cannot install Debian 13"

    # Not with `apt-get source`, which wants the description beside the archives; mirrors lack it for days after an update.
    version=$(chroot "$home/root" dpkg-query -W -f '${source:Version}' libvirt-dev)
    private_apt trixie apt-get --print-uris source "libvirt=$version" | grep -E "^'.*\.tar\.xz' " >"$home/uris"
    [ "$(wc -l <"$home/uris")" = 2 ] || die "no two archives of the source of libvirt $version: $(cat "$home/uris")"
    while read -r uri name _ sum; do
        curl -fsSL --retry 3 -o "$home/$name" "$(tr -d "'" <<<"$uri")" || die "cannot fetch $name"
        [ "$(sha256sum "$home/$name" | cut -d' ' -f1)" = "${sum#SHA256:}" ] || die "$name is not what apt expects"
    done <"$home/uris"
    tar -xf "$home"/libvirt_*.orig.tar.xz -C "$home/source" --strip-components=1
    tar -xf "$home"/libvirt_*.debian.tar.xz -C "$home/source"
    while read -r patch; do
        patch -s -p1 -d "$home/source" <"$home/source/debian/patches/$patch" || die "$patch does not fit"
    done < <(grep -vE '^(#|$)' "$home/source/debian/patches/series")
    touch "$home/complete-$stamp"
fi

# The new root is a mount of its own, as tests change how its mounts propagate. The checkout is read-only in it.
root=$home/root
mkdir -p "$root/checkout" "$root/source" "$root/build"
mount --bind "$root" "$root"
mount --bind "$top" "$root/checkout"
mount -o remount,ro,bind "$root/checkout"
mount --bind "$home/source" "$root/source"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys" # with its control groups
mount --rbind /dev "$root/dev"
grep -qw "$(uname -n)" "$root/etc/hosts" || echo "127.0.1.1 $(uname -n)" >>"$root/etc/hosts" # as Debian's installer has it
matches=()
for pattern in "$@"; do
    matches+=(--match "$pattern")
done
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    bash -eu -s -- "${matches[@]}" <<'INSIDE'
[ -e /build/build.ninja ] || meson setup /build /checkout -Dlibvirt_source=/source >&2
ninja -C /build >&2
export KUMO_BUILD=/build LIBVIRT_DRIVER_DIR=/build/driver VIRTD_PATH=/build/driver KUMO_MODULE_DIR=/build/vmm-core/dbus:/build/vmm-core/tls
export PATH=/build/vmm-core:/build/vmm-core/remote:/build/driver/daemon:/build/driver:/build/domain-xml:$PATH
where=(--where any)
[ -e /dev/kvm ] && where+=(--where host)
cd /checkout/tests
files=(libvirt/test_*.py)
files=("${files[@]/libvirt\/test_virt_manager.py/}") # a screen and a desktop are not installed
# shellcheck disable=SC2068
python3 -m harness.runner "${where[@]}" "$@" ${files[@]} </dev/null | tee /tmp/results
for program in /build/tests/driver/test-driver-*; do
    [ -x "$program" ] && [ -f "$program" ] && KUMO_DOMAIN_XML=/checkout/tests/domain-xml "$program" | tee -a /tmp/results
done
# grep's status is 1 when it counts none.
passed=$(grep -c '^ok ' /tmp/results) || true
failed=$(grep -c '^not ok ' /tmp/results) || true
grep '^not ok ' /tmp/results || true
echo "Debian 13, libvirt $(virsh --version): $passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
INSIDE
