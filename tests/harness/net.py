# SPDX-License-Identifier: LGPL-2.1-or-later
"""Tap interfaces in the network namespace of the test."""

import json
import subprocess


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)


class Tap:
    """A persistent tap interface with an address, up. It goes away with the test's network namespace."""

    def __init__(self, context, name="tap0", address="192.168.77.1/24", queues=1):
        context.network()
        self.name = name
        self.address = address.split("/")[0]
        ip("tuntap", "add", "dev", name, "mode", "tap", "vnet_hdr", *(["multi_queue"] if queues > 1 else []))
        ip("address", "add", address, "dev", name)
        ip("link", "set", name, "up")

    def statistic(self, counter):
        """A counter of the interface: direction (rx is from the guest) and unit, such as rx_packets."""
        direction, unit = counter.split("_")
        shown = subprocess.run(["ip", "-json", "-stats", "link", "show", self.name], stdout=subprocess.PIPE, check=True)
        return json.loads(shown.stdout)[0]["stats64"][direction][unit]
