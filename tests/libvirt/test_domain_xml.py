# SPDX-License-Identifier: LGPL-2.1-or-later
"""docs/domain-xml.md against libvirt's schema, the examples and the refusals."""

import glob
import os
import re
import xml.etree.ElementTree as ET

import libvirt

from harness import test
from harness.virt import Connection, disk, domain, refused

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
SCHEMA = "/usr/share/libvirt/schemas/domain.rng"
RNG = "{http://relaxng.org/ns/structure/1.0}"


def read_schema(path, definitions, seen):
    """Collects the definitions of a schema and of what it includes. Returns its root."""
    if path in seen:
        return None
    seen.add(path)
    root = ET.parse(path).getroot()
    for node in root.iter():
        if node.tag == RNG + "include":
            read_schema(os.path.join(os.path.dirname(path), node.get("href")), definitions, seen)
        elif node.tag == RNG + "define":
            definitions.setdefault(node.get("name"), []).append(node)
    return root


def schema_paths():
    """The path of each element and attribute that a domain may have."""
    definitions, found = {}, set()

    def visit(node, path, stack):
        for child in node:
            name = child.get("name") or (child.findtext(RNG + "name") or "*")
            if child.tag == RNG + "element":
                found.add(f"{path}/{name}")
                visit(child, f"{path}/{name}", stack)
            elif child.tag == RNG + "attribute":
                found.add(f"{path}/@{name}")
            elif child.tag == RNG + "ref":
                if child.get("name") not in stack:  # a chain of backing images never ends
                    for definition in definitions.get(child.get("name"), []):
                        visit(definition, path, stack + (child.get("name"),))
            else:
                visit(child, path, stack)

    visit(read_schema(SCHEMA, definitions, set()).find(RNG + "start"), "", ())
    return found


def example_paths():
    """What the examples use, which all have to be taken."""
    found = set()

    def visit(element, path):
        path = f"{path}/{element.tag}"
        found.add(path)
        found.update(f"{path}/@{name}" for name in element.attrib)
        if path != "/domain/metadata":
            for child in element:
                if not child.tag.startswith("{"):  # kumo's own namespace is no part of the schema
                    visit(child, path)

    for file in glob.glob(os.path.join(TOP, "tests/domain-xml/*.xml")):
        visit(ET.parse(file).getroot(), "")
    return found


def refused_paths():
    """What the driver's messages name in the table of refusals."""
    with open(os.path.join(TOP, "tests/driver/test-domain-xml.c"), encoding="utf-8") as stream:
        text = stream.read().replace('IN_DISK "', '"/domain/devices/disk').replace('IN_NET "', '"/domain/devices/interface')
    messages = re.findall(r'\.message = "(/[^"]*)"', text)
    paths = {re.split("[ :]", re.sub(r"\[[^]]*\]", "", message))[0].rstrip("/") for message in messages}
    return {path for path in paths if path.startswith("/domain")}


def expand(pattern):
    """{a,b} is both."""
    match = re.search(r"\{([^}]*)\}", pattern)
    if not match:
        return [pattern]
    return [path for word in match[1].split(",") for path in expand(pattern[:match.start()] + word + pattern[match.end():])]


def read_table():
    """{path: (verdict, remark)}, with /** at the end of some paths."""
    table = {}
    with open(os.path.join(TOP, "docs/domain-xml.md"), encoding="utf-8") as stream:
        for line in stream:
            row = re.match(r"\| `(/[^`]*)` \| (mapped|accepted|refused) \| (.*)\|$", line)
            for path in expand(row[1]) if row else ():
                assert path not in table, f"{path} has two rows"
                table[path] = (row[2], row[3])
    return table


def verdict_of(table, path):
    """The row of a path: its own, or that of the nearest element that stands for all below it."""
    if path in table:
        return table[path]
    while path:
        if path + "/**" in table:
            return table[path + "/**"]
        path = path.rpartition("/")[0]
    return None


@test(timeout=30, where="any")
def the_table_is_whole_and_true(t):
    if not os.path.exists(SCHEMA):
        t.skip(f"{SCHEMA} is not installed")
    if libvirt.getVersion() >= 9001000:
        t.skip("the table is of the schema of libvirt 9.0.0")
    table, schema, examples, refused = read_table(), schema_paths(), example_paths(), refused_paths()

    def report(paths, what):
        t.check(not paths, f"{what}:\n" + "\n".join(sorted(paths)))

    report({path for path in schema if not verdict_of(table, path)}, "no row in docs/domain-xml.md")
    report({path for path in examples if not (verdict_of(table, path) or ("", ""))[0]}, "in an example and not in the table")
    # An element whose row says refused may be taken with one value; then the remark says which.
    report({path for path in examples if verdict_of(table, path)[0] == "refused" and "accepted" not in verdict_of(table, path)[1]},
           "refused by the table, and in an example")

    def is_shown(row):
        path = row.removesuffix("/**")
        return path in examples or (row != path and any(known.startswith(path + "/") for known in examples))

    def is_proven(row):
        path = row.removesuffix("/**")
        return any(known == path or known.startswith(path + "/") or path.startswith(known + "/") for known in refused)

    report({row for row, (verdict, remark) in table.items() if verdict != "refused" and not re.search("dropped|of running domains|at the start", remark) and not is_shown(row)},
           "mapped or accepted, and in no example")
    report({row for row, (verdict, remark) in table.items()
            if verdict == "refused" and "by libvirt" not in remark and "as " not in remark and not is_proven(row)},
           "refused, and in no case of test-domain-xml.c")
    # What is taken with some values only says which.
    report({path for path in refused if (verdict_of(table, path) or ("mapped", ""))[0] != "refused" and not verdict_of(table, path)[1].strip()},
           "refused by the driver, and not by the table")


if libvirt.getVersion() >= 11003000:
    @test(timeout=30, where="any")
    def what_is_newer_than_the_table(t):
        """Elements that libvirt 11.3.0 has and 9.0.0 has not are refused by name as well."""
        t.virtkumod()
        c = Connection(t, events=False)
        group = "<throttlegroups><throttlegroup><group_name>g</group_name><total_iops_sec>9</total_iops_sec></throttlegroup></throttlegroups>"
        filtered = disk(t)[1].replace("<source", "<throttlefilters><throttlefilter group='g'/></throttlefilters><source")
        for name, extra, devices in (("/domain/throttlegroups", group, ""),
                                     ("/domain/devices/crypto", "", "<crypto model='virtio' type='qemu'><backend model='builtin' queues='1'/></crypto>"),
                                     ("/domain/devices/pstore", "", "<pstore backend='acpi-erst'><path>/tmp/p</path><size unit='KiB'>64</size></pstore>")):
            refused(t, libvirt.VIR_ERR_CONFIG_UNSUPPORTED, c.conn.defineXML, domain(t, extra=extra, devices=devices), text=name)
        # A filter stands for nothing without its group, which is refused: libvirt sees that before the driver does.
        refused(t, libvirt.VIR_ERR_XML_ERROR, c.conn.defineXML, domain(t, devices=filtered), text="throttle group 'g'")
        shim = domain(t).replace("</os>", "<shim>/tmp/shim</shim></os>")
        refused(t, libvirt.VIR_ERR_CONFIG_UNSUPPORTED, c.conn.defineXML, shim, text="/domain/os/shim")
