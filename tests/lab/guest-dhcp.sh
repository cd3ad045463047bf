#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# What busybox udhcpc calls in a guest: sets the address and route of a lease.
case $1 in
    deconfig) ip link set "$interface" up ;;
    bound | renew)
        ip address replace "$ip/$mask" dev "$interface"
        for hop in $router; do
            ip route replace default via "$hop" dev "$interface"
        done
        echo "guest: lease $interface $ip/$mask"
        ;;
esac
