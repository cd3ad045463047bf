# SPDX-License-Identifier: LGPL-2.1-or-later
# shellcheck shell=sh
# What the benchmark does in a stock guest, at the word bench:WHAT of kumo.run=; sourced by tests/lab/guest-init.sh.
# Results are lines "guest: result NAME NUMBER".

PATH=$PATH:/usr/bin

# fio_job NAME FIELD OPTION… : one run of fio; FIELD of its terse output is the result (7 and 48: KiB/s read and written, 8 and
# 49: requests a second).
fio_job() {
    local name=$1 field=$2 value
    shift 2
    value=$(fio --name=job --filename=/dev/vda --direct=1 --ioengine=libaio --thread --group_reporting --time_based \
        --runtime=2 --ramp_time=0.5 --randrepeat=1 --norandommap --output-format=terse --terse-version=3 "$@" |
        cut -d ';' -f "$field") || return 1
    tell "result $name $value"
}

# disk JOBS: each job has a processor, and so a queue, of its own.
disk() {
    fio_job read 8 --numjobs="$1" --rw=randread --bs=4k --iodepth=32 &&
        fio_job write 49 --numjobs="$1" --rw=randwrite --bs=4k --iodepth=32 &&
        fio_job read-sequential 7 --numjobs="$1" --rw=read --bs=128k --iodepth=8 --offset_increment=64m --size=64m &&
        fio_job write-sequential 48 --numjobs="$1" --rw=write --bs=128k --iodepth=8 --offset_increment=64m --size=64m
}

# stream NAME OPTION… : one run of iperf3 with the host; the result is what arrived, in Mbit/s.
stream() {
    local name=$1 value
    shift
    value=$(iperf3 -c "$server" -t 4 -O 1 -f m "$@" | awk '/receiver/ { for (i = 2; i <= NF; i++) if ($i == "Mbits/sec") print $(i - 1) }')
    [ -n "$value" ] && tell "result $name $value"
}

network() {
    local value
    server=$1
    ping -c 5 -i 0.1 "$server" || return 1
    value=$(ping -q -c 200 -i 0.01 "$server" | sed -n 's|.*min/avg/max = [^/]*/\([^/]*\)/.*|\1|p')
    tell "result ping $value"
    stream send && stream receive -R
}

bench() {
    case $1 in
        disk-1) fio_job read-1 8 --numjobs=1 --rw=randread --bs=4k --iodepth=1 && disk 1 ;;
        disk-*) disk "${1#*-}" ;;
        network:*) network "${1#*:}" ;;
        *) return 127 ;;
    esac
}
