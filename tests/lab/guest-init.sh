#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# /init of every test guest, in its initramfs and on its ext4 root.
#
# Says what the machine has in lines "guest: KEY VALUE…", does the commands in the kernel argument kumo.run= (words
# separated by commas), then offers a root shell with the prompt "guest# " on every console. With root=/dev/vdX the
# ext4 root is mounted and takes over from the initramfs. `/init poweroff` and `/init reboot` end the guest cleanly.
export PATH=/bin HOME=/root PS1='guest# '

finish() {
    sync
    mount -o remount,ro / 2>/dev/null
    "$1" -f
}

case $1 in
    poweroff | reboot) finish "$1" ;;
esac

# argument NAME: the value of NAME=… on the kernel command line.
argument() {
    local word
    for word in $(cat /proc/cmdline); do
        case $word in
            "$1"=*) echo "${word#*=}" && return ;;
        esac
    done
    return 1
}

tell() {
    local console
    for console in $consoles; do
        echo "guest: $*" >"/dev/$console"
    done
}

find_consoles() {
    local driver kind
    consoles=
    for driver in /sys/bus/virtio/drivers/virtio_console/virtio*; do
        [ -e "$driver" ] && consoles=hvc0
    done
    while read -r driver kind _; do
        case $driver$kind in
            0:uart:unknown) ;;
            0:uart:*) consoles="$consoles ttyS0" ;;
        esac
    done </proc/tty/driver/serial
    consoles=${consoles# }
    [ -n "$consoles" ] || consoles=console
}

facts() {
    local key value rest path name cpus online memory
    read -r _ _ value _ </proc/version
    tell "kernel $value"
    read -r online </sys/devices/system/cpu/online
    cpus=0
    for path in /sys/devices/system/cpu/cpu[0-9]*; do
        [ "$path" = /sys/devices/system/cpu/cpu0 ] || read -r value <"$path/online"
        [ "${path##*/}" = cpu0 ] && value=1
        cpus=$((cpus + value))
    done
    tell "cpus $cpus online $online"
    while read -r key value rest; do
        [ "$key" = MemTotal: ] && memory=$value
    done </proc/meminfo
    tell "memory $memory KiB"
    for path in /sys/block/vd*; do
        [ -e "$path" ] || continue
        read -r value <"$path/size"
        read -r rest <"$path/ro"
        [ "$rest" = 1 ] && rest=readonly || rest=writable
        tell "disk ${path##*/} $((value * 512)) bytes $rest"
    done
    for path in /sys/class/net/*; do
        name=${path##*/}
        [ "$name" = lo ] && continue
        read -r value <"$path/address"
        tell "net $name mac $value"
    done
    read -r value 2>/dev/null </sys/class/misc/hw_random/rng_current && [ "$value" != none ] && tell "rng $value"
    tell "consoles $consoles"
    tell "root $root"
    dmesg | grep -E 'ACPI.*([Ee]rror|[Ww]arning|BUG|[Ee]xception|[Ff]ail)|Firmware (Bug|Error|Warn)' >/run/acpi-problems
    value=0
    while read -r rest; do
        value=$((value + 1))
        tell "acpi-problem $rest"
    done </run/acpi-problems
    tell "acpi-problems $value"
}

# write_read DEVICE: an ext4 file system keeps what was written to it over a remount.
write_read() {
    mount -t ext4 "$1" /mnt || return 1
    dd if=/dev/urandom of=/mnt/pattern bs=64k count=16 2>/dev/null || return 2
    set -- "$1" "$(md5sum </mnt/pattern)"
    umount /mnt && echo 3 >/proc/sys/vm/drop_caches && mount -t ext4 "$1" /mnt || return 1
    [ "$2" = "$(md5sum </mnt/pattern)" ]
    set -- $?
    umount /mnt
    return "$1"
}

# boot_count: counts boots in a file of the root file system.
boot_count() {
    local count=0
    read -r count 2>/dev/null </boot-count
    echo $((count + 1)) >/boot-count
    sync
    tell "boot-count $((count + 1))"
}

run() {
    case $1 in
        facts) facts ;;
        ip:*) ip link set eth0 up && ip address add "${1#ip:}" dev eth0 ;;
        dhcp) udhcpc -q -n -t 10 -T 1 -i eth0 -s /etc/udhcpc.sh ;;
        ping:*) ping -c 3 -i 0.2 -W 10 "${1#ping:}" ;;
        write-read) write_read /dev/vda ;;
        write-read:*) write_read "${1#*:}" ;;
        boot-count) boot_count ;;
        bench:*) . /bench && bench "${1#*:}" ;;
        rng) [ "$(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | wc -c)" = 32 ] ;;
        sleep:*) sleep "${1#*:}" ;;
        poweroff | reboot) tell "run $1" && finish "$1" ;;
        *) return 127 ;;
    esac
}

mount_all() {
    mount -t proc proc /proc
    mount -t sysfs sysfs /sys
    mount -t devtmpfs devtmpfs /dev 2>/dev/null
    mkdir -p /dev/pts /dev/shm
    mount -t devpts devpts /dev/pts
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /tmp
}

root=initramfs
if [ "$1" = on-root ]; then
    root=$2
else
    mount_all
    if [ -e /modules/order ]; then
        while read -r module; do
            insmod "/modules/$module"
        done </modules/order
    fi
    if [ -e /modules/order ] && device=$(argument root); then
        tries=0
        until [ -e "$device" ] || [ $((tries += 1)) -gt 100 ]; do
            sleep 0.05
        done
        if mount -t ext4 "$device" /new; then
            for tree in proc sys dev run tmp; do
                mount --move /$tree /new/$tree
            done
            exec switch_root /new /init on-root "$device"
        fi
        echo "guest: cannot mount $device" >/dev/console
    elif [ ! -e /modules/order ]; then
        root=$(argument root)
        mount -o remount,rw /
    fi
fi

find_consoles
ip link set lo up
acpid -d >/run/acpid.log 2>&1 &
commands=$(argument kumo.run) || commands=facts
for word in $(echo "$commands" | tr ',' ' '); do
    run "$word" >/run/command.log 2>&1
    status=$?
    if [ "$status" = 0 ]; then
        [ "$word" = facts ] || tell "run $word ok"
    else
        tell "run $word failed $status"
        while read -r line; do
            tell "run $word said $line"
        done </run/command.log
    fi
done
tell "ready"

cd /root || cd /
for console in $consoles; do
    while :; do
        setsid -c sh -i <"/dev/$console" >"/dev/$console" 2>&1
        sleep 0.2
    done &
done
while :; do
    wait
    sleep 1
done
