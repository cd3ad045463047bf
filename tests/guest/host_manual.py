#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""What people read beside what the programs take: help, manual pages and completions; see host.py."""

import os
import re
import shutil
import sys

from host import case, main

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def manual(name):
    """A manual page as plain text without hyphenation marks, and its source."""
    with open(os.path.join(ROOT, "docs", "man", name), encoding="utf-8") as file:
        source = file.read()
    plain = re.sub(r"\\f[A-Z]", "", source).replace("\\-", "-").replace('"', "")
    return plain, source


def paragraph(plain, option):
    """What stands behind the tag of an option, up to the next tag or heading."""
    match = re.search(rf"^\.TP\n\.(?:B|BI) --{option}\b(.*?)(?=^\.TP|^\.S[SH])", plain, re.MULTILINE | re.DOTALL)
    return match[0] if match else ""


@case
def manual_pages(h):
    plain, _ = manual("kumo.1")
    helped = h.t.run("kumo", "--help")
    options = set(re.findall(r"^  --([\w-]+)", helped, re.MULTILINE))
    h.check(len(options) > 20 and all(len(line) < 120 for line in helped.splitlines()), f"kumo --help has {len(options)} options in short lines")
    for title in ("VMM:", "Logging:", "Payload:", "Virtual machine:"):
        h.check(f"\n{title}\n" in helped, f"kumo --help: group {title}")
    for option in sorted(options):
        h.check(re.search(rf"--{option}\b", plain), f"kumo(1) describes --{option}")
        said = h.t.run("kumo", f"--{option}", "no-such-key=1", status=None, timeout=10) if option not in ("help", "version", "api-socket") else ""
        known = re.search(r"known are: ([\w, ]+)", said)
        for key in known[1].split(", ") if known else ():
            h.check(re.search(rf"\b{key}\b", paragraph(plain, option)), f"kumo(1): --{option}: {key}")
    for option in set(re.findall(r"^\.(?:B|BI) --([\w-]+)", plain, re.MULTILINE)) - options:
        said = h.t.run("kumo", f"--{option}", "x", status=1, timeout=10)
        h.check("not supported yet" in said, f"kumo(1): --{option} is known: {said.strip()}")

    plain, _ = manual("kumo-remote.1")
    helped = h.t.run("kumo-remote", "--help")
    commands = re.findall(r"^  ([a-z][\w-]+)  ", helped, re.MULTILINE)
    h.check(len(commands) == 40, f"kumo-remote --help has {len(commands)} commands")
    for command in commands:
        h.check(re.search(rf"^\.B (?:[\w, -]*\s)?{command}\b", plain, re.MULTILINE), f"kumo-remote(1) describes {command}")
        said = h.t.run("kumo-remote", command, "--help")
        h.check(said.startswith(f"Usage: kumo-remote --api-socket SOCKET {command}") and len(said.splitlines()) > 2, f"{command} --help")
    for page in ("kumo.1", "kumo-remote.1"):
        if shutil.which("groff"):
            said = h.t.run("groff", "-man", "-Tutf8", "-ww", "-z", os.path.join(ROOT, "docs", "man", page), timeout=60)
            h.check(not said.strip(), f"{page}: groff has nothing to say {said}")


@case
def completion(h):
    directory = os.path.join(ROOT, "vmm-core", "remote", "completion")
    helped = h.t.run("kumo-remote", "--help")
    commands = re.findall(r"^  ([a-z][\w-]+)  ", helped, re.MULTILINE)

    def complete(*words):
        script = (f"source {directory}/kumo-remote.bash; COMP_WORDS=({' '.join(words) if words[-1] else ' '.join(words) + chr(39) * 2}); "
                  f"COMP_CWORD={len(words) - 1}; _kumo_remote; echo ${{COMPREPLY[@]}}")
        return h.t.run("bash", "-c", script).split()

    found = complete("kumo-remote", "--api-socket", "/x", "")
    h.check(set(commands) <= set(found) and len([word for word in found if word[0] != "-"]) == len(commands), "bash: all commands, no others")
    h.check(complete("kumo-remote", "--api-socket", "=", "/x", "res") == [name for name in commands if name.startswith("res")], "bash: a beginning")
    h.check(complete("kumo-remote", "--api-socket", "/x", "resize", "--m") == ["--memory"], "bash: an argument")
    for shell, pattern in (("_kumo-remote", r"^        '([a-z][\w-]+):"), ("kumo-remote.fish", r"__fish_use_subcommand -a ([\w-]+)")):
        with open(os.path.join(directory, shell), encoding="utf-8") as file:
            h.check(re.findall(pattern, file.read(), re.MULTILINE) == commands, f"{shell}: all commands, no others")
    for shell, path in (("zsh", "_kumo-remote"), ("fish", "kumo-remote.fish")):
        if shutil.which(shell):
            h.t.run(shell, "-n", os.path.join(directory, path))
            h.check(True, f"{shell} takes {path}")


if __name__ == "__main__":
    sys.exit(main())
