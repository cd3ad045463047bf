#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every wrong value that one can think of, sent to the API as bytes: host_wrong.py KUMO GUEST.elf CASE [--tap]; see host.py.

Each is answered with the right status, the cause is named, and nothing of it is left in the process.
"""

import array
import contextlib
import json
import os
import random
import socket
import sys
import threading

from host import case, main
from harness.vmm import ApiError

MIB = 1 << 20


class Wrong:
    def __init__(self, h):
        self.h = h
        self.vm = h.t.kumo(serial=None, console=None)
        self.before = self.vm.footprint()

    def raw(self, *parts, fds=()):
        """Sends bytes on a connection of their own. Returns the answer's status and text."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(20)
            connection.connect(self.vm.api_path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                sent = connection.sendmsg([parts[0]], rights)
                for part in (parts[0][sent:], *parts[1:]):
                    connection.sendall(part)
            data = b""
            while True:
                head, end, rest = data.partition(b"\r\n\r\n")
                lengths = [int(line.partition(b":")[2]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
                if end and head.startswith(b"HTTP/1.1 100"):
                    data = rest
                elif end and (len(rest) >= sum(lengths) or parts[0].startswith(b"HEAD")):
                    return int(head.split()[1]), rest.decode()
                else:
                    part = connection.recv(65536)
                    if not part:
                        return 0, data.decode("latin-1")
                    data += part

    def put(self, endpoint, body, fds=()):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"PUT /api/v1/{endpoint} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        return self.raw(head.encode() + body, fds=fds)

    def expect(self, what, answer, status, *words):
        found, text = answer
        if text.startswith("["):
            text = ": ".join(json.loads(text))
        good = found == status and all(word in text for word in words)
        self.h.check(good, f"{what} is answered with {status}, {', '.join(words)}" + ("" if good else f": {found} {text[:300]}"))

    def refused(self, endpoint, body, status, *words, fds=(), what=None):
        shown = body.decode("latin-1") if isinstance(body, bytes) else json.dumps(body)
        self.expect(what or f"{endpoint} {shown[:70]}", self.put(endpoint, body, fds), status, *words)

    def done(self):
        self.h.check(self.vm.api("GET", "vmm.ping")["pid"] == self.vm.process.pid, "the process is still there")
        self.vm.wait_no_more_than(self.before)
        self.h.check(True, "and no descriptor, thread or mapping is left behind")


@case
def wrong_requests(h):
    """What is no HTTP, or not the HTTP that is spoken here."""
    w = Wrong(h)
    end = b" HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for method in ("POST", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "PROPFIND"):
        w.expect(method, w.raw(method.encode() + b" /api/v1/vmm.ping" + end), 400, f"the method {method} is not allowed, must be GET")
    w.expect("HEAD, without a body in the answer", w.raw(b"HEAD /api/v1/vmm.ping" + end), 400)
    for method in ("get", "P\0T", "PUT\t", "", "X" * 100):
        w.expect(f"the method {method[:8]!r}", w.raw(method.encode() + b" /api/v1/vmm.ping" + end), 400)
    for target in ("/api/v1/vmm.ping?x=1", "/api/v1/vmm%2eping", "/api/v1//vmm.ping", "/api/v1/./vmm.ping", "/api/v1/../v1/vmm.ping", "/api/v1/vmm.ping/",
                   "/api/v1/vmm.ping#x", "/api/v1/", "/", "/api/v2/vmm.ping", "/API/V1/VMM.PING", "/api/v1/vm.info%00"):
        w.expect(target, w.raw(f"GET {target}".encode() + end), 404, "no such endpoint", target)
    for target in ("*", "http://localhost/api/v1/vmm.ping", "", "/api/v1/vm.\xe9"):
        w.expect(repr(target), w.raw(f"GET {target}".encode("latin-1") + end), 400, "target")
    for status, field in (
            (400, "Transfer-Encoding: chunked"), (400, "Transfer-Encoding: gzip, chunked\r\nContent-Length: 2"), (400, "Content-Length: 2\r\nContent-Length: 2"),
            (400, "Content-Length: +2"), (400, "Content-Length: 0x2"), (400, "Content-Length: 2,2"), (400, "Content-Length:"), (400, "Content-Length: 2 2"),
            (413, "Content-Length: 99999999999999999999999"), (413, f"Content-Length: {(4 << 20) + 1}"), (417, "Expect: everything"), (400, "Content-Length : 2"),
            (400, " X: folded"), (400, "no colon"), (400, ": no name"), (400, "X: a\0b"), (400, "X: a\rb"), (431, "X: " + "y" * 17000), (400, "Host: a\r\nHost: b")):
        w.expect(repr(field[:50]), w.raw(f"PUT /api/v1/vm.create HTTP/1.1\r\n{field}\r\n\r\n{{}}".encode("latin-1")), status)
    for status, what, data in ((505, "a version to come", b"GET / HTTP/3.1\r\n\r\n"), (400, "HTTP/0.9", b"GET /api/v1/vmm.ping\r\n\r\n"),
                               (400, "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), (400, "TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + b"\0" * 50 + b"\r\n\r\n"),
                               (200, "HTTP/1.0", b"GET /api/v1/vmm.ping HTTP/1.0\r\n\r\n")):
        w.expect(what, w.raw(data), status)
    expect = b"PUT /api/v1/vm.create HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    w.expect("Expect: 100-continue", w.raw(expect, b"{}"), 400, "nothing to boot")
    # A body and its kind do not matter where none is wanted or it is JSON anyway.
    w.refused("vm.boot", {}, 400, "takes no body")
    w.expect("another type of content", w.raw(b"PUT /api/v1/vm.create HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}"), 400, "nothing to boot")
    # Descriptors that nobody wants are closed, also of requests that never end.
    fds = os.pipe()
    for fd in fds:
        h.t.cleanup(os.close, fd)
    w.refused("vm.boot", b"", 400, "takes no descriptors", fds=fds)
    w.refused("vm.create", {"payload": {"kernel": h.elf}}, 400, "2 descriptors came with the request, must be 0", fds=fds)
    w.expect("253 descriptors", w.put("vm.boot", b"", fds=fds[:1] * 253), 400, "descriptors")
    half = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    half.connect(w.vm.api_path)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(50):
            half.sendmsg([b"X"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds * 5))])
    w.h.t.wait_for(lambda: len(w.vm.footprint()["fds"]) <= len(w.before["fds"]) + 1, "500 descriptors of a request without end to be closed", 10)
    half.close()
    w.done()


@case
def wrong_bodies(h):
    """Bodies that are no JSON, or none that means something."""
    w = Wrong(h)
    no_json = {
        "null": b"null", "a number": b"7", "a string": b'"x"', "true": b"true", "an open brace": b"{", "what comes behind": b"{}x", "two objects": b"{}{}",
        "a key twice": b'{"payload":{"kernel":"/a"},"payload":{"kernel":"/b"}}', "a key twice further in": b'{"payload":{"kernel":"/a","kernel":"/b"}}',
        "3000 lists": b"[" * 3000, "3000 objects": b'{"a":' * 3000, "NUL": b'{"payload":{"kernel":"a\0b"}}', "bad UTF-8": b'{"payload":{"kernel":"\xff\xfe"}}',
        "half a surrogate": b'{"payload":{"kernel":"\\ud800"}}', "a byte order mark": b"\xef\xbb\xbf{}", "NaN": b'{"memory":{"size":NaN}}',
        "infinity": b'{"memory":{"size":1e999}}', "23 digits": b'{"memory":{"size":99999999999999999999999}}', "2^63": b'{"memory":{"size":9223372036854775808}}',
        "hexadecimal": b'{"memory":{"size":0x10}}', "a comment": b"{/*x*/}", "single quotes": b"{'a':1}", "a comma too many": b'{"payload":{"kernel":"/a"},}',
        "a line feed in a string": b'{"payload":{"kernel":"a\nb"}}'}
    for what, body in no_json.items():
        w.refused("vm.create", body, 400, "the body is not JSON", "line 1, column", what=what)
    for what, body in (("\\u0000 in a value", b'{"payload":{"kernel":"a\\u0000b"}}'), ("\\u0000 in a key", b'{"a\\u0000b":1}')):
        w.refused("vm.create", body, 400, "u0000 is not allowed", what=what)
    w.refused("vm.create", b"", 400, "the body is missing")
    w.refused("vm.create", b"[]", 400, "a list is not allowed, must be an object")
    w.refused("vm.create", b"[" * 2000 + b"]" * 2000, 400, "must be an object", what="2000 lists that end")
    for key in ("k" * 100000, "\u00e9\u202e\u2603", "a\r\nX: y", "", "__proto__"):
        w.refused("vm.create", {key: 1}, 400, "unknown field", "known are: cpus")
    w.refused("vm.create", b'{"x":"' + b"y" * ((4 << 20) - 8) + b'"}', 400, "unknown field", what="4 MiB")
    w.expect("a byte more than 4 MiB", w.put("vm.create", b'{"x":"' + b"y" * ((4 << 20) - 7) + b'"}'), 413)
    w.done()


@case
def wrong_configurations(h):
    """Configurations with one thing in them that is wrong; what is not a string cannot be shown as one."""
    w = Wrong(h)
    right = {"payload": {"kernel": h.elf}, "console": {"mode": "Off"}, "memory": {"size": 64 * MIB}}
    disk = {"path": "/x"}
    cpus = {"boot_vcpus": 1, "max_vcpus": 1}
    table = [
        ("payload.kernel: a number", {"payload": {"kernel": 5}}), ("nothing to boot", {"payload": {"kernel": ""}}), ("nothing to boot", {"payload": None}),
        ("payload: a list", {"payload": []}), ("exclude each other", {"payload": {"kernel": "/a", "firmware": "/b"}}),
        ("payload.cmdline", {"payload": {"kernel": "/a", "cmdline": "x" * 70000}}), ("nothing to boot", {"payload": {"initramfs": "/a"}}),
        ("cpus.max_vcpus: 2", {"cpus": {"boot_vcpus": 3, "max_vcpus": 2}}), ("cpus.max_vcpus: 100000", {"cpus": {"boot_vcpus": 1, "max_vcpus": 100000}}),
        ("cpus.boot_vcpus: a string", {"cpus": {"boot_vcpus": "1"}}), ("cpus.boot_vcpus: true", {"cpus": {"boot_vcpus": True}}),
        ("topology.threads_per_core: 3", {"cpus": {**cpus, "topology": {"threads_per_core": 3}}}),
        ("affinity[0].vcpu: 9", {"cpus": {**cpus, "affinity": [{"vcpu": 9, "host_cpus": [0]}]}}),
        ("affinity[1].vcpu: 0 is given twice", {"cpus": {**cpus, "affinity": [{"vcpu": 0, "host_cpus": [0]}] * 2}}),
        ("host_cpus[0]: 99999", {"cpus": {**cpus, "affinity": [{"vcpu": 0, "host_cpus": [99999]}]}}),
        ("must not be empty", {"cpus": {**cpus, "affinity": [{"vcpu": 0, "host_cpus": []}]}}),
        ("memory.size: 0", {"memory": {"size": 0}}), ("page size, 4096", {"memory": {"size": 12345}}), ("memory.size: -1", {"memory": {"size": -1}}),
        ("a number with a fraction", {"memory": {"size": 1.5}}), ("a number with a fraction", {"memory": {"size": 1e9}}),
        ("memory.size: 9223372036854775807", {"memory": {"size": 2**63 - 1}}), ("exclude each other", {"memory": {"size": MIB, "shared": True, "mergeable": True}}),
        ("needs hugepages", {"memory": {"size": MIB, "hugepage_size": 2 * MIB}}), ("hotplugged_size", {"memory": {"size": MIB, "hotplugged_size": MIB}}),
        ("must be 0", {"memory": {"size": MIB, "zones": [{"id": "a", "size": MIB}]}}),
        ("without '/'", {"disks": [{**disk, "id": "a/b"}]}), ('start with "__"', {"disks": [{**disk, "id": "__rng"}]}), ("without '/'", {"disks": [{**disk, "id": "a\nb"}]}),
        ("disks[0].id", {"disks": [{**disk, "id": "a" * 300}]}), ("disks[0].pci_device_id: 0", {"disks": [{**disk, "pci_device_id": 0}]}),
        ("disks[0].pci_device_id: 32", {"disks": [{**disk, "pci_device_id": 32}]}), ("disks[0].pci_segment: 1", {"disks": [{**disk, "pci_segment": 1}]}),
        ("disks: an object", {"disks": disk}), ("disks[0]: a list", {"disks": [[]]}), ("disks[0]: null", {"disks": [None]}),
        ("write_threshold: -1", {"disks": [{**disk, "write_threshold": -1}]}), ("31 PCI devices fit", {"disks": [{"path": f"/x{n}"} for n in range(1000)]}),
        ("net[0].mac", {"net": [{"mac": "zz"}]}), ("unicast", {"net": [{"mac": "01:00:5e:00:00:01"}]}), ("ip and mask", {"net": [{"ip": "1.2.3.4"}]}),
        ("must be even", {"net": [{"num_queues": 3}]}), ("net[0].mtu: 10", {"net": [{"mtu": 10}]}), ("0 descriptors came", {"net": [{"fds": [3]}]}),
        ("net[0].tap", {"net": [{"tap": "x" * 20}]}), ("net[0].tap", {"net": [{"tap": "a/b"}]}), ("serial.file", {"serial": {"mode": "File"}}),
        ("serial.mode", {"serial": {"mode": "file"}}), ("serial.socket", {"serial": {"mode": "Socket"}}),
        ("no memory zone", {"numa": [{"guest_numa_id": 0, "memory_zones": ["nope"]}]}), ("num_pci_segments: 97", {"platform": {"num_pci_segments": 97}}),
        ("system_uuid", {"platform": {"system_uuid": "xx"}}), ("not supported yet", {"vdpa": [{"path": "/dev/x"}]})]
    for word, change in table:
        w.refused("vm.create", {**right, **change}, 400, word, what=f"vm.create with {json.dumps(change)[:70]}")
    for word, change in (('"a" is taken by disks[0]', {"disks": [{**disk, "id": "a"}, {"path": "/y", "id": "a"}]}),
                         ('"a" is taken by disks[0]', {"disks": [{**disk, "id": "a"}], "net": [{"id": "a"}]}),
                         ("3 is taken by disks[0]", {"disks": [{**disk, "pci_device_id": 3}, {"path": "/y", "pci_device_id": 3}]})):
        w.refused("vm.create", {**right, **change}, 409, word, what=f"vm.create with {json.dumps(change)[:70]}")
    w.expect("nothing of all that", w.raw(b"GET /api/v1/vm.info HTTP/1.1\r\n\r\n"), 404, "no VM was created")
    w.done()


@case
def wrong_while_running(h):
    """A machine that runs: wrong values, wrong states, devices that fail half way, and many clients at once."""
    w = Wrong(h)
    vm = w.vm
    first, second, empty, directory, pipe = (h.t.path(name) for name in ("first.raw", "second.raw", "empty", "directory", "pipe"))
    for path, size in ((first, MIB), (second, MIB), (empty, 0)):
        with open(path, "wb") as file:
            file.truncate(size)
    os.mkdir(directory)
    os.mkfifo(pipe)
    vm.put("vm.create", {"payload": {"kernel": h.elf, "cmdline": "test=hotplug"}, "console": {"mode": "Off"},
                         "cpus": {"boot_vcpus": 1, "max_vcpus": 4}, "memory": {"size": 64 * MIB, "hotplug_size": 1 << 30}, "balloon": {"size": 0}})
    vm.put("vm.boot")
    for value in (0, 5, 2**32, 2**32 + 1, -1, 1.0, True, [], "2", {}):
        w.refused("vm.resize", {"desired_vcpus": value}, 400, "desired_vcpus")
    for value in (0, 1, 64 * MIB + 4096, 2**63 - 1, 64 * MIB + (2 << 30), -4096, "1G"):
        w.refused("vm.resize", {"desired_ram": value}, 400, "desired_ram")
    for value in (65 * MIB, -1, "1G", False):
        w.refused("vm.resize", {"desired_balloon": value}, 400, "desired_balloon")
    w.refused("vm.resize", {"desired_cpus": 1}, 400, "desired_cpus", "known are")
    w.refused("vm.resize", {"desired_vcpus": 2, "desired_ram": 7}, 400, "desired_ram")
    h.check(vm.info()["config"]["cpus"]["boot_vcpus"] == 1, "what is half wrong is not done half")

    vm.put("vm.add-disk", {"path": first, "id": "d"})
    disk = {"path": second}
    for status, word, body in (
            (400, "the path of the image is missing", {"path": ""}), (400, "Is a directory", {"path": directory}), (400, "not a file or a block device", {"path": pipe}),
            (400, "not a file or a block device", {"path": "/dev/zero"}), (400, "is empty", {"path": empty}), (404, "No such file", {"path": "nowhere"}),
            (400, "too long", {"path": "x" * 5000}), (400, "File name too long", {"path": h.t.path("x" * 300)}), (409, "is taken by disks[0]", {"path": second, "id": "d"}),
            (409, "no write lock", {"path": first, "id": "e"}), (409, "no read lock", {"path": first, "id": "e", "readonly": True}),
            (400, "num_queues: 5", {**disk, "num_queues": 5}), (400, "num_queues: 513", {**disk, "num_queues": 513}), (400, "queue_size: 100", {**disk, "queue_size": 100}),
            (400, "serial", {**disk, "serial": "x" * 21}), (400, "rate_limit_group", {**disk, "rate_limit_group": "none"}),
            (400, "both must be given", {**disk, "rate_limiter_config": {"bandwidth": {"size": 1}}}),
            (400, "refill_time", {**disk, "rate_limiter_config": {"bandwidth": {"size": 1, "refill_time": 2**63 - 1}}}),
            (400, "queue_index: 1", {**disk, "queue_affinity": [{"queue_index": 1, "host_cpus": [0]}]}),
            (400, "the host's CPUs 60000", {**disk, "queue_affinity": [{"queue_index": 0, "host_cpus": [60000]}]}),
            (409, "slot", {**disk, "pci_device_id": 1}), (400, "pci_segment: 1", {**disk, "pci_segment": 1}), (400, "write_threshold", {**disk, "write_threshold": "1G"})):
        w.refused("vm.add-disk", body, status, word)
    for status, word, body in ((400, "lo: is not a tap", {"tap": "lo"}), (400, "net[0].mac", {"mac": "00:00:00:00:00:00"}), (400, "num_queues: 10", {"num_queues": 10}),
                               (400, "0 descriptors", {"fds": [1]}), (400, "net[0].mask", {"ip": "1.2.3.4", "mask": "64"}), (409, "is taken by disks[0]", {"id": "d"})):
        w.refused("vm.add-net", body, status, word)
    for status, word, body in (
            (404, "nope: the VM has no such device", {"id": "nope"}), (404, "an empty id", {"id": ""}), (400, "__rng", {"id": "__rng"}), (400, "__balloon", {"id": "__balloon"}),
            (404, "a/b", {"id": "a/b"}), (404, "\u00e9", {"id": "\u00e9"}), (400, "id: null", {"id": None}), (400, "id: 7", {"id": 7}), (400, "id: is missing", {}),
            (400, 'unknown field', {"id": "d", "x": 1}), (404, "xxx: the VM has no such device", {"id": "x" * MIB})):
        w.refused("vm.remove-device", body, status, word)
    for status, word, size in ((400, "size 0", 0), (400, "size 1", 1), (400, "File too large", 2**63 - 512), (400, "desired_size", -512)):
        w.refused("vm.resize-disk", {"id": "d", "desired_size": size}, status, word)
    for endpoint, status, word, body in (
            ("vm.resize-zone", 404, "x: ", {"id": "x", "desired_ram": 1}), ("vm.coredump", 400, "destination_url", {"destination_url": "http://x"}),
            ("vm.coredump", 409, "File exists", {"destination_url": "file:///dev/null"}), ("vm.coredump", 404, "No such file", {"destination_url": "file:///nowhere/core"}),
            ("vm.snapshot", 409, "Running", {"destination_url": f"file://{directory}"}), ("vm.restore", 409, "Running", {"source_url": f"file://{directory}"}),
            ("vm.receive-migration", 409, "Running", {"receiver_url": f"unix:{h.t.path('m')}"}), ("vm.cancel-migration", 404, "none is under way", b""),
            ("vm.update-migration", 404, "none is sent", {"downtime_ms": 5}), ("vm.update-migration", 400, "downtime_ms", {"downtime_ms": 0}),
            ("vm.update-migration", 400, "connections", {"connections": 2}), ("vm.migration-start-postcopy", 404, "no migration is sent", b""),
            ("vm.update-disk", 404, "nope", {"id": "nope", "write_threshold": 1}), ("vm.update-net", 404, "d: ", {"id": "d", "link_up": True}),
            ("vm.update-cpus", 400, "vcpu: 5", {"affinity": [{"vcpu": 5, "host_cpus": [0]}]}), ("vm.update-cpus", 400, "60000", {"affinity": [{"vcpu": 0, "host_cpus": [60000]}]}),
            ("vm.update-rate-limit-group", 404, "g: ", {"id": "g", "rate_limiter_config": None}), ("vm.resume", 409, "Running", b""), ("vm.boot", 409, "Running", b""),
            ("vm.create", 409, "Running", {"payload": {"kernel": h.elf}})):
        w.refused(endpoint, body, status, word)

    # Devices that fail at different points of their making, 200 times.
    fds = os.pipe()
    for fd in fds:
        h.t.cleanup(os.close, fd)
    half_way = (("vm.add-disk", {**disk, "queue_affinity": [{"queue_index": 0, "host_cpus": [60000]}]}, ()), ("vm.add-disk", {**disk, "pci_device_id": 1}, ()),
                ("vm.add-disk", {"path": first, "id": "again"}, ()), ("vm.add-net", {"fds": [9]}, fds[:1]), ("vm.add-net", {"tap": "lo"}, ()))
    before = None
    for _ in range(200):
        bad = [answer for answer in (w.put(endpoint, body, fds) for endpoint, body, fds in half_way) if answer[0] not in (400, 409)]
        if bad:
            h.check(False, f"what fails half way: {bad}")
        before = before or vm.footprint()
    vm.wait_no_more_than(before)
    h.check(list(entry["id"] for entry in vm.info()["config"]["disks"]) == ["d"], "1000 devices that fail half way leave nothing behind")

    statuses, lock = set(), threading.Lock()

    def client(number):
        choose = random.Random(number)
        for _ in range(40):
            method, endpoint = choose.choice((("GET", "vm.info"), ("GET", "vm.counters"), ("PUT", "vm.pause"), ("PUT", "vm.resume"), ("GET", "vmm.ping")))
            try:
                vm.api(method, endpoint)
                status = 204
            except ApiError as error:
                status = error.status
            with lock:
                statuses.add((endpoint, status))
    threads = [threading.Thread(target=client, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    h.check(statuses <= {("vm.pause", 409), ("vm.resume", 409)} | {(name, 204) for name in ("vm.info", "vm.counters", "vm.pause", "vm.resume", "vmm.ping")},
            f"20 clients at once: {sorted(statuses)}")
    vm.wait_no_more_than(before)
    vm.put("vm.delete")
    vm.put("vmm.shutdown")
    vm.wait_exit(0, 20)


if __name__ == "__main__":
    sys.exit(main())
