#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# First program of the lab machine, in its initramfs: loads modules, puts a writable layer over the host's root
# directory and goes on there with lab-job.sh.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /host /layer /new
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev

fail() {
    echo "lab: $*" >/dev/console
    /bin/busybox poweroff -f
}

while read -r module; do
    /bin/busybox insmod "/modules/$module" || fail "cannot load $module"
done </modules/order

p9=trans=virtio,version=9p2000.L,msize=512000
/bin/busybox mount -t 9p -o "$p9,cache=loose,ro" root /host || fail "no 9p share of the root directory"
/bin/busybox mount -t tmpfs -o mode=755 tmpfs /layer
/bin/busybox mkdir /layer/upper /layer/work
/bin/busybox mount -t overlay -o lowerdir=/host,upperdir=/layer/upper,workdir=/layer/work overlay /new ||
    fail "no overlay"

/bin/busybox mkdir -p /new/proc /new/sys /new/dev /new/run /new/tmp
/bin/busybox mount -t tmpfs -o mode=755 tmpfs /new/run
/bin/busybox mount -t tmpfs -o mode=1777 tmpfs /new/tmp

# The larger modules load on the second CPU meanwhile. switch_root empties this file system under the loader, so it
# works in a copy, by relative paths.
/bin/busybox mv /modules-later /new/run/modules
/bin/busybox cp /bin/busybox /new/run/busybox
(
    cd /new/run/modules || exit
    while read -r module; do
        ../busybox insmod "./$module" || echo "lab: cannot load $module" >../modules.failed
    done <order
    echo >../modules.done
) &

/bin/busybox mkdir /new/run/lab
/bin/busybox mount -t 9p -o "$p9,cache=none" job /new/run/lab || fail "no 9p share of the job"
# Directories shared for writing, each at the path it has on the host: lines "TAG PATH".
while read -r tag path; do
    /bin/busybox mkdir -p "/new$path"
    /bin/busybox mount -t 9p -o "$p9,cache=loose" "$tag" "/new$path" || fail "no 9p share of $path"
done </new/run/lab/shares
for tree in proc sys dev; do
    /bin/busybox mount --move /$tree /new/$tree
done
exec /bin/busybox switch_root /new /run/busybox sh /run/lab/lab-job.sh
