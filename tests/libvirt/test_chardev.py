# SPDX-License-Identifier: LGPL-2.1-or-later
"""Serial ports and consoles on sockets, with a guest at one end and a plain client or server at the other."""

import os
import re
import signal
import socket

import libvirt as lv

from harness import cases, test
from harness.virt import Connection, refused, small

INACTIVE = lv.VIR_DOMAIN_XML_INACTIVE


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def listen(address, family):
    server = socket.socket(family)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.settimeout(30)
    server.bind(address)
    server.listen(1)
    return server


class Peer:
    """The other end as text."""

    def __init__(self, t, connection):
        self.t = t
        self.socket = connection
        self.socket.settimeout(30)
        self.seen = ""

    def expect(self, pattern):
        while not re.search(pattern, self.seen, re.MULTILINE):
            data = self.socket.recv(4096)
            self.t.check(data, f"the connection ended before /{pattern}/: {self.seen}")
            self.seen += data.decode(errors="replace")

    def ends(self):
        """Waits for the end of the connection."""
        while self.socket.recv(4096):
            pass

    def send(self, text):
        self.socket.sendall(text.encode())


@test(timeout=90, where="host")
def tcp_that_listens(t):
    """The running domain tells of it as QEMU's does, a daemon that comes later finds it, a newer client takes over, a log has it all."""
    daemon = t.virtkumod()
    c = Connection(t)
    port, log = free_port(), t.path("serial.log")
    source = f"<source mode='bind' host='127.0.0.1' service='{port}'/><protocol type='raw'/><log file='{log}'/>"
    dom = c.conn.defineXML(small(t, "test=power wait=1", devices=f"<serial type='tcp'>{source}</serial>"))
    dom.create()
    for element in ("serial", "console"):
        text = re.search(f"<{element} type='tcp'>.*?</{element}>", dom.XMLDesc(0), re.DOTALL)[0]
        t.check(f"<source mode='bind' host='127.0.0.1' service='{port}' tls='no'/>" in text, text)
        t.check("<protocol type='raw'/>" in text and f"<log file='{log}'/>" in text and "<alias name='serial0'/>" in text, text)
    t.check("tls=" not in dom.XMLDesc(INACTIVE), "the definition tells of TLS")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.openConsole, None, c.conn.newStream(lv.VIR_STREAM_NONBLOCK), text="tcp")

    first = Peer(t, socket.create_connection(("127.0.0.1", port)))
    first.send("s")
    first.expect("^ready")
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    os.unlink("/run/libvirt/virtkumod-sock")
    t.virtkumod()
    c.open()
    dom = c.conn.lookupByName("vm")
    t.check(f"service='{port}'" in dom.XMLDesc(0), "the daemon that came later does not tell of it")
    second = Peer(t, socket.create_connection(("127.0.0.1", port)))
    second.send("a")
    second.expect("^waiting")
    first.ends()
    second.send("s")
    second.expect("^ready")
    second.send("q")
    c.state(dom, lv.VIR_DOMAIN_SHUTOFF, lv.VIR_DOMAIN_SHUTOFF_SHUTDOWN)
    with open(log, encoding="utf-8", errors="replace") as stream:
        t.equal(len(re.findall("^ready", stream.read(), re.MULTILINE)), 2, "times the log has the guest's word")


@test(timeout=90, where="host")
@cases(kind=("tcp", "unix"))
def connecting(t, kind):
    """Without <reconnect> a peer has to be there at the start; with it he may come late, and again."""
    t.virtkumod()
    c = Connection(t)
    port, path = free_port(), t.path("peer.sock")
    address = ("127.0.0.1", port) if kind == "tcp" else path
    family = socket.AF_INET if kind == "tcp" else socket.AF_UNIX
    shown = f"127.0.0.1:{port}" if kind == "tcp" else path

    def define(more=""):
        where = f"host='127.0.0.1' service='{port}'" if kind == "tcp" else f"path='{path}'"
        return c.conn.defineXML(small(t, "test=power wait=1", devices=f"<serial type='{kind}'><source mode='connect' {where}>{more}</source></serial>"))

    dom = define()
    try:
        dom.create()
        t.check(False, "started without a peer")
    except lv.libvirtError as error:
        t.check(shown in str(error), f"'{shown}' is not in '{error}'")
    server = listen(address, family)
    dom.create()
    peer = Peer(t, server.accept()[0])
    peer.send("s")
    peer.expect("^ready")
    refused(t, lv.VIR_ERR_OPERATION_INVALID, dom.openConsole, None, c.conn.newStream(lv.VIR_STREAM_NONBLOCK))
    # He goes; the guest does not notice.
    peer.socket.close()
    dom.suspend()
    dom.resume()
    dom.destroy()
    server.close()

    if kind == "tcp":
        dom = define("<reconnect enabled='yes' timeout='1'/>")
        t.check("<reconnect enabled='yes' timeout='1'/>" in dom.XMLDesc(0), "the definition has no reconnect")
        dom.create()
        server = listen(address, family)
    else:
        os.unlink(path)
        server = listen(address, family)
        dom = define("<reconnect enabled='yes' timeout='1'/>")
        dom.create()
    peer = Peer(t, server.accept()[0])
    peer.send("s")
    peer.expect("^ready")
    peer.socket.close()
    peer = Peer(t, server.accept()[0])
    peer.send("a")
    peer.expect("^waiting")
    dom.destroy()
    peer.ends()
    t.check(kind == "tcp" or os.path.exists(path), "somebody else's socket was removed")
