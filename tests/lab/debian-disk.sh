#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# debian-disk.sh TARGET: a disk with a stock Debian 12 as its packages make it, and nothing of ours in it: a GPT with an
# EFI system partition, in which Debian's signed GRUB is, and an ext4 root with systemd and Debian's cloud kernel. root
# has no password; the console is on the serial port.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
. "$here/cache.sh"
. "$here/private-apt.sh"
export PATH=/usr/sbin:/sbin:/usr/bin:/bin

# Its files belong to others than who runs ./dev.
[ "$(id -u)" = 0 ] || {
    as_root env KUMO_CACHE="$KUMO_CACHE" "$(readlink -f "$0")" "$@"
    as_root chown "$(id -u):$(id -g)" "$1"
    exit
}
target=$1
work=$(mktemp -d "$KUMO_CACHE/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
private_apt_update bookworm

say "making a disk with Debian 12"
excluded=()
for what in doc locale man info grub; do
    excluded+=("--dpkgopt=path-exclude=/usr/share/$what/*")
done
root=$work/tree
mmdebstrap --quiet --mode=root --variant=minbase "${excluded[@]}" \
    --include=systemd-sysv,udev,dbus,iproute2,linux-image-cloud-amd64,grub-efi-amd64-signed \
    bookworm "$root" "$KUMO_CACHE/apt/bookworm/sources.list" >&2 || die "mmdebstrap cannot install Debian"
chroot "$root" passwd -d root >&2
echo kumo-guest >"$root/etc/hostname"
echo 'LABEL=kumo-root / ext4 errors=remount-ro 0 1' >"$root/etc/fstab"
rm -rf "$root"/var/lib/apt/lists/*

kernel=$(basename "$root"/boot/vmlinuz-*)
cat >"$work/grub.cfg" <<GRUB
serial --unit=0 --speed=115200
terminal_input serial
terminal_output serial
set timeout=0
search --label kumo-root --set=root
menuentry Debian {
    linux /boot/$kernel root=LABEL=kumo-root console=ttyS0 quiet
    initrd /boot/${kernel/vmlinuz/initrd.img}
}
GRUB
truncate -s 16M "$work/esp"
mkfs.vfat -n ESP "$work/esp" >&2
mmd -i "$work/esp" ::EFI ::EFI/BOOT ::EFI/debian
mcopy -i "$work/esp" "$root/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::EFI/BOOT/BOOTX64.EFI
mcopy -i "$work/esp" "$work/grub.cfg" ::EFI/debian/grub.cfg
truncate -s 480M "$work/root"
mke2fs -q -F -t ext4 -L kumo-root -m 0 -O ^has_journal -E lazy_itable_init=0 -d "$root" "$work/root"

truncate -s 514M "$target"
printf 'label: gpt\nstart=2048, size=32768, type=U\nstart=34816, size=983040, type=L\n' | sfdisk -q "$target"
dd if="$work/esp" of="$target" bs=1M seek=1 conv=notrunc,sparse status=none
dd if="$work/root" of="$target" bs=1M seek=17 conv=notrunc,sparse status=none
