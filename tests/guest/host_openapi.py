#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Walks the OpenAPI description (vmm-core/api/kumo.yaml) against the running program: host_openapi.py KUMO GUEST.elf CASE [--tap].

The program's refusals tell what it knows: an unknown field is answered with the names of the known ones, a value of another
type with what is allowed. Both are compared with the description, so neither can have what the other lacks.
"""

import copy
import os
import re
import sys

import yaml

from host import case, main
from harness.vmm import ApiError

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
DESCRIPTION = os.path.join(ROOT, "vmm-core", "api", "kumo.yaml")
ENDPOINTS = os.path.join(ROOT, "vmm-core", "api", "endpoints.c")
U32_MAX = 2**32 - 1
WRONG = "must be described in vmm-core/api/kumo.yaml"


class Description:
    """The OpenAPI file, with references and allOf resolved where they are looked at."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.root = yaml.safe_load(file)

    def resolve(self, schema):
        while "$ref" in schema:
            found = self.root
            for word in schema["$ref"].removeprefix("#/").split("/"):
                found = found[word]
            schema = found
        if "allOf" not in schema:
            return schema
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        merged["properties"], merged["required"] = {}, []
        for part in map(self.resolve, schema["allOf"]):
            merged.setdefault("type", part.get("type"))
            merged["properties"].update(part.get("properties", {}))
            merged["required"] += part.get("required", [])
        return merged

    def operations(self):
        for path, methods in self.root["paths"].items():
            for method, operation in methods.items():
                yield path.removeprefix("/"), method.upper(), operation

    def body(self, operation):
        """The schema of a request's body, or None."""
        content = operation.get("requestBody", {}).get("content", {})
        return self.resolve(content["application/json"]["schema"]) if content else None

    def answer(self, operation):
        """The schema of the answer 200, or None."""
        response = self.resolve(operation["responses"].get("200", {}))
        return self.resolve(response["content"]["application/json"]["schema"]) if "content" in response else None


class Walker:
    def __init__(self, h):
        self.h = h
        self.d = Description(DESCRIPTION)
        self.vm = h.t.kumo(serial=None, console=None)
        self.seen = set()

    def ask(self, method, endpoint, body=None):
        """The status and the text of an answer."""
        try:
            self.vm.api(method, endpoint, body)
            return 204, ""
        except ApiError as error:
            return error.status, error.text

    def create(self, config):
        """Whether vm.create takes a configuration: the status and the message."""
        status, text = self.ask("PUT", "vm.create", config)
        if status == 204:
            self.vm.put("vm.delete")
        return status, text

    def same(self, found, expected, what):
        self.h.check(found == expected, f"{what}: {found!r}" + ("" if found == expected else f", expected {expected!r}; it {WRONG}"))

    # What is allowed, in the words of the program.

    def allowed(self, schema):
        schema = self.d.resolve(schema)
        low, high = schema.get("minimum"), schema.get("maximum")
        if "enum" in schema:
            return "one of " + ", ".join(schema["enum"])
        if schema["type"] == "boolean":
            return "true or false"
        if schema["type"] == "string":
            return f"a string of at most {schema['maxLength']} bytes" if "maxLength" in schema else "a string"
        if schema["type"] == "integer" and schema.get("format") == "int64":
            kind = "a power of two in bytes" if schema.get("x-power-of-two") else "a size in bytes"
            if high is None:
                return f"{kind}, at least {low}" if low else kind
            return f"{kind} from {low} to {high}"
        if schema["type"] == "integer":
            kind = "a power of two" if schema.get("x-power-of-two") else "a number"
            return f"{kind} from {low} to {U32_MAX if high is None else high}"
        if schema["type"] == "array":
            item = self.d.resolve(schema["items"])
            if schema.get("x-descriptors"):
                return "a list of descriptors"
            if item["type"] == "object" or "properties" in item:
                return "a list of objects"
            return "a list of strings" if item["type"] == "string" else f"a list of numbers from {item['minimum']} to {item['maximum']}"
        return "an object"

    # The walk over one schema. PUT(value) sends the body in which the value stands where the schema belongs; NAME is the
    # program's name for that place.

    def walk(self, schema, put, name):
        schema = self.d.resolve(schema)
        status, text = put({"not-there": 1})
        known = re.search(r"known are: ([\w, ]+)", text)
        self.h.check(status == 400 and known and "not-there" in text, f"{name or 'body'}: an unknown field is refused by name")
        if known:
            # Old names are taken but not recommended.
            current = [key for key, field in schema["properties"].items() if not self.d.resolve(field).get("deprecated")]
            self.same(sorted(set(known[1].split(", "))), sorted(current), f"{name or 'body'}: fields")
        for key, field in schema["properties"].items():
            self.field(self.d.resolve(field), lambda value, key=key: put({key: value}), f"{name}.{key}" if name else key)

    def field(self, schema, put, name):
        is_object = schema.get("type") == "object" or "properties" in schema
        wrong = {"object": 7, "array": {}, "string": 7, "integer": "x", "boolean": "x"}["object" if is_object else schema["type"]]
        status, text = put(wrong)
        said = re.search(r"is not allowed, must be (.*)$", text)
        self.h.check(status == 400 and f"{name}: " in text, f"{name}: a value of another type is refused: {text}")
        allowed = self.allowed(schema)
        if said and not (is_object and said[1] == "an object"):
            self.same(said[1], allowed, name)
        for value in schema.get("enum", ()):
            _, text = put(value)
            self.h.check("is not allowed" not in text and "not supported" not in text, f"{name}: takes {value} {text}")
        if "enum" in schema:
            status, text = put("Bogus")
            self.h.check(status == 400 and name in text, f"{name}: does not take Bogus")
        self.bounds(schema, put, name)
        if is_object:
            self.walk(schema, put, name)
        elif schema["type"] == "array" and "properties" in self.d.resolve(schema["items"]):
            self.walk(schema["items"], lambda value: put([value]), f"{name}[0]")

    def bounds(self, schema, put, name):
        if schema.get("type") == "integer":
            outside = [schema[key] + step for key, step in (("minimum", -1), ("maximum", 1)) if key in schema]
            outside += [2**53 + 0.5]
        elif schema.get("type") == "string" and "maxLength" in schema:
            outside = ["x" * (schema["maxLength"] + 1)]
        else:
            return
        for value in outside:
            status, text = put(value)
            self.h.check(status == 400 and name in text, f"{name}: does not take {str(value)[:24]}")
        if schema["type"] == "integer" and "maximum" in schema:
            for value in (schema["minimum"], schema["maximum"]):
                _, text = put(value)
                self.h.check(f"{name}: {value} is not allowed, must be {self.allowed(schema)}" not in text, f"{name}: takes {value}")

    # Bodies that have no section of the configuration behind them.

    def conforms(self, schema, value, where, complete=True):
        """Yields what is wrong with an answer. With complete, each described field that is not x-optional has to be there."""
        schema = self.d.resolve(schema)
        if value is None:
            if not schema.get("nullable"):
                yield f"{where}: null"
            return
        types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
        kind = schema.get("type") or "object"
        if not isinstance(value, types[kind]) or (kind == "integer" and isinstance(value, bool)):
            yield f"{where}: {value!r} is no {kind}"
            return
        if "enum" in schema and value not in schema["enum"]:
            yield f"{where}: {value!r} is none of {schema['enum']}"
        if kind == "integer" and value < schema.get("minimum", value) or kind == "integer" and value > schema.get("maximum", value):
            yield f"{where}: {value} is out of range"
        if kind == "array":
            for i, item in enumerate(value):
                yield from self.conforms(schema["items"], item, f"{where}[{i}]", complete)
        if kind != "object":
            return
        fields = schema.get("properties", {})
        more = schema.get("additionalProperties")
        for key, item in value.items():
            if key in fields:
                yield from self.conforms(fields[key], item, f"{where}.{key}", complete)
            elif more:
                yield from self.conforms(more, item, f"{where}.{key}", complete)
            elif fields:
                yield f"{where}.{key}: {WRONG}"
        for key, field in fields.items():
            may_lack = self.d.resolve(field).get("writeOnly") or self.d.resolve(field).get("x-optional")
            if key not in value and (key in schema.get("required", ()) or (complete and not may_lack)):
                yield f"{where}.{key}: is missing"

    def check_answer(self, schema, value, what, complete=True):
        faults = list(self.conforms(schema, value, what, complete))
        self.h.check(not faults, f"{what}: the answer is as described {'; '.join(faults)}")

    def defaults(self, schema, value, name):
        schema = self.d.resolve(schema)
        for key, field in schema.get("properties", {}).items():
            field = self.d.resolve(field)
            if "default" in field and not field.get("writeOnly"):
                self.same(value.get(key), field["default"], f"{name}.{key}: default")
            elif isinstance(value.get(key), dict):
                self.defaults(field, value[key], f"{name}.{key}")
            elif isinstance(value.get(key), list) and value[key] and "properties" in self.d.resolve(field.get("items", {})):
                self.defaults(field["items"], value[key][0], f"{name}.{key}[0]")


@case
def openapi_paths(h):
    w = Walker(h)
    served = {}
    with open(ENDPOINTS, encoding="utf-8") as file:
        rows = re.findall(r"\{ \.name = \"([\w.-]+)\",([^}]*)\}", file.read())
    for name, row in rows:
        served[name] = "func" in row
    h.check(len(rows) > 25, f"{len(rows)} endpoints in {os.path.basename(ENDPOINTS)}")
    described = {endpoint for endpoint, _, _ in w.d.operations()}
    for name, is_served in served.items():
        h.check((name in described) == is_served, f"{name} is described if it is served" + ("" if is_served else ", which it is not"))
        if not is_served:
            h.check(w.ask("PUT", name, {}) == (400, f"{name}: not supported yet"), f"{name} is refused by name")
    for endpoint, method, operation in w.d.operations():
        h.check(endpoint in served, f"{endpoint} is served")
        for other in ("GET", "PUT", "POST", "DELETE", "PATCH", "HEAD", "OPTIONS"):
            if other != method:
                status, text = w.ask(other, endpoint)
                h.check(status == 400 and (f"must be {method}" in text or other == "HEAD"), f"{other} {endpoint} is refused: {status}")
        body = w.d.body(operation)
        if body:
            status, text = w.ask(method, endpoint)
            h.check(status == 400 and "missing" in text, f"{endpoint} needs a body")
            for wrong in ([], 7, "x", None):
                status, text = w.ask(method, endpoint, wrong) if wrong is not None else (400, "")
                h.check(status == 400, f"{endpoint} does not take {wrong!r}: {status} {text}")
        else:
            status, text = w.ask(method, endpoint, {})
            h.check(status == 400 and "no body" in text, f"{endpoint} takes no body")
    h.check(w.ask("GET", "vm.bogus")[0] == 404, "an unknown path is not found")
    # Without a VM everything but the program's own and what makes one is not found.
    right = {"vm.resize": {"desired_vcpus": 1}, "vm.resize-disk": {"id": "x", "desired_size": 1}, "vm.resize-zone": {"id": "x", "desired_ram": 1},
             "vm.read-memory": {"address": 0, "size": 1}}
    for endpoint, method, operation in w.d.operations():
        if endpoint.startswith("vmm.") or endpoint in ("vm.create", "vm.restore", "vm.cancel-migration", "vm.update-migration", "vm.migration-progress",
                                                         "vm.migration-start-postcopy") or "404" not in operation["responses"]:
            continue
        body = w.d.body(operation)
        if body:
            keys = {key: "x" for key in body.get("required", ())}
            body = right.get(endpoint, keys)
        status, text = w.ask(method, endpoint, body)
        h.check(status == 404 and "no VM was created" in text, f"{endpoint} without a VM: {status} {text}")


@case
def openapi_fields(h):
    w = Walker(h)
    payload = {"payload": {"kernel": h.elf}}
    for endpoint, _, operation in w.d.operations():
        schema = w.d.body(operation)
        if not schema:
            continue
        if endpoint == "vm.create":
            w.walk(schema, lambda value: w.create({**payload, **value}), "")
        elif endpoint.startswith("vm.add-"):
            # The same sections as in vm.create, which was walked: here only that they are the same.
            _, text = w.ask("PUT", endpoint, {"not-there": 1})
            names = re.search(r"known are: ([\w, ]+)", text)[1].split(", ")
            w.same(sorted(set(names)), sorted(schema["properties"]), f"{endpoint}: fields")
        else:
            w.walk(schema, lambda value, endpoint=endpoint: w.ask("PUT", endpoint, value), "")
            for key in schema.get("required", ()):
                right = {other: 1 if w.d.resolve(field)["type"] == "integer" else "x" for other, field in schema["properties"].items()
                         if other != key and other in schema["required"]}
                status, text = w.ask("PUT", endpoint, right)
                h.check(status == 400 and key in text, f"{endpoint}: {key} is needed: {text}")


@case
def openapi_answers(h):
    w = Walker(h)
    operations = {endpoint: operation for endpoint, _, operation in w.d.operations()}
    schemas = {endpoint: w.d.answer(operation) for endpoint, operation in operations.items()}
    w.check_answer(schemas["vmm.ping"], w.vm.api("GET", "vmm.ping"), "vmm.ping")
    disk = h.t.path("disk.raw")
    with open(disk, "wb") as file:
        file.truncate(1 << 20)
    config = {"payload": {"kernel": h.elf, "cmdline": "test=power wait=1 memory_mib=128"}, "console": {"mode": "Null"}, "memory": {"size": 128 << 20},
              "disks": [{"path": disk, "id": "first", "queue_affinity": [{"queue_index": 0, "host_cpus": [0]}]}],
              "platform": {"oem_strings": ["one"]}}
    w.vm.put("vm.create", config)
    created = w.vm.info()
    w.check_answer(schemas["vm.info"], {**created, "device_tree": {}}, "vm.info of a created VM")
    minimal = copy.deepcopy(created["config"])
    w.vm.put("vm.delete")
    w.vm.put("vm.create", minimal)
    h.check(w.vm.info() == created, "vm.create takes what vm.info gave, and vm.info gives it again")
    w.vm.put("vm.delete")
    full = {"cpus": {"boot_vcpus": 2, "topology": {"threads_per_core": 1, "cores_per_die": 2, "dies_per_package": 1, "packages": 1},
                     "affinity": [{"vcpu": 0, "host_cpus": [0]}], "cpu_mask": ["-avx"]},
            "memory": {"size": 0, "zones": [{"id": "low", "size": 64 << 20}]},
            "payload": {"kernel": h.elf}, "rate_limit_groups": [{"id": "g", "rate_limiter_config": {"ops": {"size": 9, "refill_time": 9}}}],
            "disks": [{"path": disk, "rate_limit_group": "g"}], "net": [{"rate_limiter_config": {"bandwidth": {"size": 9, "refill_time": 9}}}],
            "numa": [{"guest_numa_id": 0, "cpus": [0, 1], "memory_zones": ["low"], "distances": [{"destination": 0, "distance": 10}]}],
            "platform": {"num_pci_segments": 2}, "pci_segments": [{"pci_segment": 1, "mmio32_aperture_weight": 2}]}
    w.vm.put("vm.create", {**full, "console": {"mode": "Off"}})
    shown = w.vm.info()
    w.check_answer(schemas["vm.info"], {**shown, "device_tree": {}}, "vm.info of a VM with everything")
    w.vm.put("vm.delete")
    w.vm.put("vm.create", shown["config"])
    h.check(w.vm.info() == shown, "and that is taken and given again, too")
    w.vm.put("vm.delete")
    # Nothing but a payload: everything else has its default, the ones of a disk and a network device among it. A console on the
    # terminal, the default, needs one.
    w.vm.put("vm.create", {"payload": {"kernel": h.elf}, "console": {"mode": "Off"}, "disks": [{"path": disk}], "net": [{}]})
    config = w.vm.info()["config"]
    config["console"]["mode"] = "Tty"
    w.defaults(w.d.root["components"]["schemas"]["VmConfig"], config, "config")
    w.vm.put("vm.delete")
    w.vm.put("vm.create", minimal)
    w.vm.put("vm.boot")
    w.check_answer(schemas["vm.info"], w.vm.info(), "vm.info of a running VM")
    w.check_answer(schemas["vm.counters"], w.vm.api("GET", "vm.counters"), "vm.counters")
    h.check("first" in w.vm.api("GET", "vm.counters"), "the disk has counters")
    tap = h.t.tap()
    other = h.t.path("other.raw")
    with open(other, "wb") as file:
        file.truncate(1 << 20)
    w.check_answer(schemas["vm.add-disk"], w.vm.put("vm.add-disk", {"path": other, "id": "second"}), "vm.add-disk")
    w.check_answer(schemas["vm.add-net"], w.vm.put("vm.add-net", {"tap": tap.name}), "vm.add-net")
    w.check_answer(schemas["vm.info"], w.vm.info(), "vm.info with devices added")
    w.check_answer(schemas["vm.counters"], w.vm.api("GET", "vm.counters"), "vm.counters with them")
    w.vm.put("vm.pause")
    w.check_answer(schemas["vm.info"], w.vm.info(), "vm.info of a paused VM")
    h.check(w.vm.state() == "Paused", "whose state is Paused")
    w.vm.put("vmm.shutdown")
    w.vm.wait_exit(0, 20)


if __name__ == "__main__":
    sys.exit(main())
