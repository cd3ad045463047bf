#!/bin/bash
# SPDX-License-Identifier: LGPL-2.1-or-later
# debian13.sh [ARGUMENT…]: builds everything on Debian 13, against its libvirt, and runs the tests there but for what needs
# stock kernels, in a root directory with Debian 13 that is kept in the cache. The arguments are those of tests/run.py. All of
# it in a mount namespace of its own.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
top=$(dirname "$(dirname "$here")")
. "$here/cache.sh"
. "$here/private-apt.sh"
. "$here/debian13-root.sh"

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

home=$KUMO_CACHE/debian13
stamp=$(cat "$here"/{debian13-root.sh,private-apt.sh} | sha256sum | cut -c1-16)
if [ ! -e "$home/complete-$stamp" ]; then
    make_debian13 "$home"
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
chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
    bash -eu -s -- "$@" <<'INSIDE'
[ -e /build/build.ninja ] || meson setup /build /checkout -Dlibvirt_source=/source >&2
ninja -C /build >&2
export KUMO_BUILD=/build LIBVIRT_DRIVER_DIR=/build/driver VIRTD_PATH=/build/driver KUMO_MODULE_DIR=/build/vmm-core/dbus:/build/vmm-core/tls
export PATH=/build/vmm-core:/build/vmm-core/remote:/build/driver/daemon:/build/driver:/build/domain-xml:$PATH
echo "Debian $(cat /etc/debian_version), libvirt $(virsh --version), $(gcc --version | head -1)"
exec python3 /checkout/tests/run.py --without-lab "$@" </dev/null
INSIDE
