# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two clients of the REST API that people have at hand: kumo-remote and curl. Both classes have the same methods."""

import json


def _short(size):
    """A size as people type it: "3G", "384M"."""
    for unit, letter in ((1 << 30, "G"), (1 << 20, "M")):
        if size and size % unit == 0:
            return f"{size // unit}{letter}"
    return str(size)


class Remote:
    """kumo-remote, by its sub-commands and option strings."""

    def __init__(self, t, vm):
        self.t = t
        self.command = ("kumo-remote", "--api-socket", vm.api_path)

    def ask(self, *words, status=0):
        return self.t.run(*self.command, *words, status=status)

    def simple(self, name):
        return self.ask(name)

    def create(self, config):
        path = self.t.path("vm.json")
        with open(path, "w", encoding="utf-8") as stream:
            json.dump(config, stream)
        self.ask("create", path)

    def query(self, name):
        return json.loads(self.ask(name))

    def add_disk(self, path):
        return json.loads(self.ask("add-disk", f"path={path},id=extra"))

    def add_net(self, tap):
        return json.loads(self.ask("add-net", f"tap={tap},id=second"))

    def remove(self, device):
        self.ask("remove-device", device)

    def resize(self, vcpus=None, ram=None, wrong=False):
        words = (["--cpus", str(vcpus)] if vcpus is not None else []) + (["--memory", _short(ram)] if ram is not None else [])
        return self.ask("resize", *words, status=1 if wrong else 0)

    def resize_zone(self, zone, ram):
        self.ask("resize-zone", "--id", zone, "--size", _short(ram))

    def resize_disk(self, disk, size):
        self.ask("resize-disk", "--disk", disk, "--size", _short(size))


class Curl:
    """curl on the UNIX socket, by endpoints and JSON."""

    def __init__(self, t, vm):
        self.t = t
        self.command = ("curl", "--silent", "--show-error", "--unix-socket", vm.api_path)

    def ask(self, method, endpoint, body=None, wrong=False):
        words = [] if body is None else ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        text = self.t.run(*self.command, "--request", method, "--write-out", "\n%{http_code}", *words,
                          f"http://localhost/api/v1/{endpoint}")
        answer, _, status = text.rpartition("\n")
        self.t.check(status.startswith("4" if wrong else "2"), f"{method} {endpoint} {body}: {status} {answer}")
        return answer

    def simple(self, name):
        return self.ask("PUT", f"vm.{name}")

    def create(self, config):
        self.ask("PUT", "vm.create", config)

    def query(self, name):
        return json.loads(self.ask("GET", "vmm.ping" if name == "ping" else f"vm.{name}"))

    def add_disk(self, path):
        return json.loads(self.ask("PUT", "vm.add-disk", {"path": path, "id": "extra"}))

    def add_net(self, tap):
        return json.loads(self.ask("PUT", "vm.add-net", {"tap": tap, "id": "second"}))

    def remove(self, device):
        self.ask("PUT", "vm.remove-device", {"id": device})

    def resize(self, vcpus=None, ram=None, wrong=False):
        wanted = {"desired_vcpus": vcpus, "desired_ram": ram}
        return self.ask("PUT", "vm.resize", {key: value for key, value in wanted.items() if value is not None}, wrong)

    def resize_zone(self, zone, ram):
        self.ask("PUT", "vm.resize-zone", {"id": zone, "desired_ram": ram})

    def resize_disk(self, disk, size):
        self.ask("PUT", "vm.resize-disk", {"id": disk, "desired_size": size})
