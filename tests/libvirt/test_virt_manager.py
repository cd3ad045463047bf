# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-manager on a virtual screen: what it shows of a VM, and its buttons and console at work."""

import os
import re

import libvirt as lv

from harness import test
from harness.desktop import Desktop
from harness.virt import Connection, disk, libvirtd, nat_network, small

URI = "kumo:///system"
WINDOW = "vm on kumo"
SETTINGS = "[org/virt-manager/virt-manager/stats]\n" + "".join(f"enable-{what}-poll=true\n" for what in ("disk", "net", "memory"))


@test(timeout=150, where="host")
def list_start_console_graphs(t):
    libvirtd(t)
    t.virtkumod()
    c = Connection(t, events=False)
    nat_network(t, c.conn)
    devices = f"{disk(t)[1]}<serial type='pty'/><interface type='network'><source network='default'/></interface><memballoon model='virtio'/>"
    dom = c.conn.defineXML(small(t, "test=power wait=1", devices=devices))

    desktop = Desktop(t)
    os.environ["GSETTINGS_BACKEND"] = "keyfile"
    os.makedirs(t.path("home/.config/glib-2.0/settings"))
    with open(t.path("home/.config/glib-2.0/settings/keyfile"), "w", encoding="ascii") as stream:
        stream.write(SETTINGS)
    manager = t.start("virt-manager", "--no-fork", "--debug", "--connect", URI, name="virt-manager")
    desktop.expect(r"table cell\|kumo\|")
    desktop.expect(r"table cell\|vm Shutoff\|")

    t.run("virt-manager", "--connect", URI, "--show-domain-console", "vm")
    desktop.expect(r"label\|Guest is not running.\|")
    desktop.press(WINDOW, "button", "Run")
    desktop.expect(r"table cell\|vm Running\|")
    t.equal(dom.state()[0], lv.VIR_DOMAIN_RUNNING, "state")
    desktop.expect(r"terminal\|.*\|waiting$")
    desktop.type(WINDOW, "s")
    desktop.expect(r"terminal\|.*\|waiting ok 1 - boot with fresh memory ")
    desktop.type(WINDOW, "h")
    desktop.expect(r"terminal\|.*\|waiting .* halted$")

    desktop.press(WINDOW, "radio button", "Details")
    t.run("virt-manager", "--connect", URI, "--show-domain-performance", "vm")
    desktop.expect(r"panel\|CPU usage\|")

    def graphs():
        """The figures below the graphs: "Disabled" where the driver has no statistics."""
        labels = [line.split("|")[1] for line in desktop.tree() if line.startswith("label|")]
        return all(any(re.fullmatch(pattern, label) for label in labels) for pattern in (
r"\d+ %", r"\s*\d+ MiB of 64 MiB", r"\d+ KiB/s read \d+ KiB/s write", r"\d+ KiB/s in \d+ KiB/s out"))

    t.wait_for(graphs, "the graphs' figures", 30, every=1)
    picture = os.environ.get("KUMO_PICTURES")
    if picture:
        desktop.picture(os.path.join(picture, "virt-manager-graphs.png"))

    desktop.press(WINDOW, "radio button", "Console")
    desktop.press(WINDOW, "toggle button", "Pause")
    desktop.expect(r"table cell\|vm Paused\|")
    desktop.press(WINDOW, "toggle button", "Pause")
    desktop.expect(r"table cell\|vm Running\|")
    if picture:
        desktop.picture(os.path.join(picture, "virt-manager-console.png"))
    dom.destroy()
    desktop.expect(r"table cell\|vm Shutoff\|")
    t.equal(dom.state()[0], lv.VIR_DOMAIN_SHUTOFF, "state at the end")
    t.equal(manager.poll(), None, "virt-manager's status")
    with open(t.path("virt-manager.log"), encoding="utf-8") as stream:
        t.check("Traceback" not in stream.read(), "an exception in virt-manager")
