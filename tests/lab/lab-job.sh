#!/bin/busybox sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Second stage of the lab machine, process 1 on the host's root directory: prepares what a booted Debian has, runs the
# job, hands its exit status back and powers off. /run/lab is the directory shared with tests/lab/lab.py. Programs come
# from busybox in memory: each one from the shared root directory costs a tenth of a second.
b=/run/busybox
$b mkdir -p /dev/pts /dev/shm /run/lock
$b mount -t devpts -o mode=620,gid=5,ptmxmode=666 devpts /dev/pts
$b mount -t tmpfs -o mode=1777 tmpfs /dev/shm
$b ln -sfn /proc/self/fd /dev/fd
$b ln -sfn fd/0 /dev/stdin
$b ln -sfn fd/1 /dev/stdout
$b ln -sfn fd/2 /dev/stderr
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo '+cpu +memory +io +pids +cpuset' >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null
. /run/lab/environment
[ -d "$KUMO_LAB_MODULES" ] && $b mkdir -p /lib/modules && $b mount --bind "$KUMO_LAB_MODULES" /lib/modules
$b ip link set lo up
$b hostname lab

until [ -e /run/modules.done ]; do
    $b usleep 20000
done
out=/dev/null
err=/dev/null
for port in /sys/class/virtio-ports/*; do
    read -r name <"$port/name" || continue
    case $name in
        kumo.out) out=/dev/${port##*/} ;;
        kumo.err) err=/dev/${port##*/} ;;
        kumo.beat) $b cat "/dev/${port##*/}" >/dev/null 2>&1 & ;;
    esac
done
[ -e /run/modules.failed ] && $b cat /run/modules.failed >"$err"
[ -n "${KUMO_LAB_CPUS:-}" ] && $b taskset -pc "$KUMO_LAB_CPUS" 1 >/dev/null
echo started >/run/lab/state
cd "$KUMO_LAB_DIRECTORY" || cd /
if [ -e /run/lab/interactive ]; then
    $b stty -F /dev/hvc0 sane rows "${LINES:-24}" cols "${COLUMNS:-80}"
    $b setsid -c /bin/bash /run/lab/command </dev/hvc0 >/dev/hvc0 2>&1
else
    $b setsid /bin/bash /run/lab/command </dev/null >"$out" 2>"$err"
fi
echo $? >/run/lab/status
$b dmesg >/run/lab/dmesg
$b sync
while read -r _ path; do
    $b umount "$path" 2>/dev/null || $b umount -l "$path"
done </run/lab/shares
$b sync
$b poweroff -f
