# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=bash
# The root directory with Debian 13 that debian13.sh builds and tests in. To be sourced after private-apt.sh.

debian13_packages=(
    meson ninja-build gcc libc6-dev pkg-config gettext perl python3 libglib2.0-dev libjansson-dev liburing-dev
    libseccomp-dev libxxhash-dev libzstd-dev libxml2-dev libvirt-dev libtirpc-dev rpcsvc-proto libgnutls28-dev libnl-3-dev libnl-route-3-dev
    libsasl2-dev xsltproc libxml2-utils binutils
    libvirt-daemon-system libvirt-daemon-driver-network libvirt-daemon-driver-storage libvirt-daemon-driver-nodedev
    libvirt-daemon-driver-secret libvirt-daemon-driver-nwfilter libvirt-daemon-driver-interface libvirt-daemon-driver-qemu
    qemu-system-x86 libvirt-clients python3-libvirt libsys-virt-perl virtinst virt-top prometheus-libvirt-exporter
    virt-manager xvfb xdotool gir1.2-atspi-2.0 at-spi2-core
    dnsmasq-base iptables iproute2 iputils-ping dbus polkitd openssh-server augeas-tools apparmor systemd procps kmod
    libglib2.0-bin python3-yaml openssl bzip2 xz-utils zstd curl e2fsprogs libcap2-bin acpica-tools
)

# make_debian13 DIRECTORY: makes in DIRECTORY the root directory, root/, and source/, the source of its libvirt.
make_debian13() {
    local home=$1 version uri name sum patch
    rm -rf "$home"
    mkdir -p "$home/source"
    private_apt_update trixie
    say "making a root directory with Debian 13"
    mmdebstrap --quiet --mode=root --variant=minbase --include="$(IFS=,; echo "${debian13_packages[*]}")" trixie "$home/root" \
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
}
