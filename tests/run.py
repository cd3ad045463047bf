#!/usr/bin/python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs the rings of tests and prints one closing line: N passed, N failed, N skipped. See docs/testing.md.

Every ring speaks TAP: the C programs of the rings unit, guest and fuzz, known from meson's list of tests, and the Python
files of the rings lab and libvirt, run by harness/runner.py. A result is one TAP line, not one program.
"""

import argparse
import concurrent.futures
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

TESTS = os.path.dirname(os.path.realpath(__file__))
BUILD = os.environ.get("KUMO_BUILD", os.path.join(os.path.dirname(TESTS), "build"))
RINGS = ("unit", "guest", "lab", "libvirt", "fuzz")
# Ring of C programs: the build directory that it runs in. Those of the sanitized build run in the other one if there is none.
SANITIZED = f"{BUILD}-asan" if os.path.exists(f"{BUILD}-asan/build.ninja") else BUILD
PROGRAM_RINGS = {"unit": SANITIZED, "guest": BUILD, "fuzz": SANITIZED}
LAB = os.path.join(TESTS, "lab", "lab.py")
LAB_BOOTS = 4
# No test of the lab is silent for longer, so a machine that says nothing for so many seconds hangs.
LAB_SILENCE = 400

sys.path[:0] = [TESTS, os.path.join(TESTS, "lab")]

import kvm_probe  # noqa: E402  (the path to it is set above)
import doctor  # noqa: E402
from harness.runner import claim_of  # noqa: E402

TAP_LINE = re.compile(r"^(not ok|ok)\b\s*\d*\s*-?\s*(.*)$")


class Results:
    """Counts and names; each result is printed as it comes, for people or as TAP."""

    def __init__(self, tap=False):
        self.tap = tap
        self.passed = 0
        self.failed = []
        self.skipped = []
        self.lock = threading.Lock()

    def add_with_notes(self, result, notes):
        """One result and what the test said, undivided though several machines run tests side by side."""
        with self.lock:
            self.add(*result)
            for line in notes:
                self.note(line)

    def add(self, outcome, name, detail=""):
        if outcome == "passed":
            self.passed += 1
        elif outcome == "skipped":
            self.skipped.append((name, detail))
        else:
            self.failed.append(name)
        if self.tap:
            self._print_tap(outcome, name, detail)
            return
        words = {"passed": "ok  ", "skipped": "skip", "failed": "FAIL"}
        print(f"{words[outcome]} {name}{'  ' if detail else ''}{detail}", flush=True)

    @staticmethod
    def _print_tap(outcome, name, detail):
        detail = f"SKIP {detail}" if outcome == "skipped" else detail
        print(f"{'not ok' if outcome == 'failed' else 'ok'} - {name}{' # ' if detail else ''}{detail}", flush=True)

    def note(self, line):
        """One line that explains a failure."""
        print(f"# {line}" if self.tap else f"     | {line}", flush=True)

    def close(self):
        """Prints the summary. Returns the exit status."""
        if self.tap:
            return 0
        for name, reason in self.skipped:
            print(f"skipped: {name}: {reason}")
        for name in self.failed:
            print(f"failed:  {name}")
        print(f"{self.passed} passed, {len(self.failed)} failed, {len(self.skipped)} skipped", flush=True)
        return 1 if self.failed or not self.passed + len(self.skipped) else 0


def parse_tap(line):
    """(outcome, name, detail) of a TAP result line, or None."""
    match = TAP_LINE.match(line)
    if not match:
        return None
    name, _, detail = match[2].partition(" # ")
    if name.startswith("# "):
        name, detail = "", name[2:]
    if re.match(r"(?i)skip|todo", detail):
        return "skipped", name.strip(), re.sub(r"(?i)^(skip|todo)\S*\s*", "", detail) or "no reason given"
    return ("passed" if match[1] == "ok" else "failed"), name.strip(), detail


def meson_tests(build, suite):
    """The tests of a suite as meson lists them."""
    if not os.path.exists(f"{build}/build.ninja"):
        return []
    listed = subprocess.run(["meson", "introspect", "--tests", build], stdout=subprocess.PIPE, check=True)
    return [test for test in json.loads(listed.stdout) if any(name.split(":")[-1] == suite for name in test["suite"])]


def run_program(test):
    """Runs one C test program. Returns (lines of output, why it failed as a program or '')."""
    command = list(test["cmd"])
    if test["protocol"] == "tap" and "--tap" not in command:
        command.append("--tap")
    environment = dict(os.environ, **test["env"])
    environment.setdefault("ASAN_OPTIONS", "abort_on_error=0:detect_stack_use_after_return=1")
    environment.setdefault("UBSAN_OPTIONS", "print_stacktrace=1:halt_on_error=1")
    limit = test["timeout"] or 30
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               cwd=test["workdir"], env=environment, start_new_session=True)
    why = ""
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        why = f"not done after {limit} s"
    if not why and process.returncode != 0:
        status = process.returncode
        why = f"died of signal {-status}" if status < 0 else f"ended with status {status}"
    return output.decode(errors="replace").splitlines(), why


def report_program(results, ring, test, lines, why):
    prefix = f"{ring}/{test['name']}"
    before = len(results.failed)
    planned, seen = None, 0
    for line in lines:
        plan = re.match(r"^1\.\.(\d+)", line)
        if plan:
            planned = int(plan[1])
        result = parse_tap(line)
        if result:
            seen += 1
            results.add(result[0], f"{prefix} {result[1]}", result[2])
    if planned is None and not why and test["protocol"] == "tap":
        why = "printed no plan"
    if planned is not None and seen < planned:
        why = f"{why or 'ended early'}, {planned - seen} of its {planned} tests did not run"
    if test["protocol"] != "tap":
        results.add("failed" if why else "passed", prefix, why)
    elif why and (len(results.failed) == before or (planned or 0) > seen):
        results.add("failed", prefix, why)
    if len(results.failed) > before:
        for line in lines[-60:]:
            results.note(line)


def run_program_ring(results, ring, match):
    tests = meson_tests(PROGRAM_RINGS[ring], ring)
    if match:
        tests = [test for test in tests if any(word in test["name"] for word in match)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        waiting = {pool.submit(run_program, test): test for test in tests}
        for done in concurrent.futures.as_completed(waiting):
            report_program(results, ring, waiting[done], *done.result())


def runner_command(*arguments):
    return [sys.executable, "-m", "harness.runner", *arguments]


def list_tests(files, places, match):
    """Names of the Python tests of these files that run in one of these places."""
    if not files:
        return []
    command = runner_command("--list", *match, *files)
    listed = subprocess.run(command, cwd=TESTS, stdout=subprocess.PIPE, check=True).stdout.decode()
    pairs = [line.split(" ", 1) for line in listed.splitlines()]
    return [name for where, name in pairs if where in places]


def stream(results, command, running=None, silence=None):
    """Runs a command that prints TAP, counting its results as they come. Comments belong to the result after them. The
    process is in RUNNING, a set, as long as it lives, and is ended when it says nothing for SILENCE seconds. Returns
    (names seen, exit status)."""
    names, notes = [], []
    with subprocess.Popen(command, cwd=TESTS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        if running is not None:
            running.add(process)
        watchdog = None
        try:
            while True:
                if silence:
                    watchdog = threading.Timer(silence, process.terminate)
                    watchdog.start()
                raw = process.stdout.readline()
                if watchdog:
                    watchdog.cancel()
                if not raw:
                    break
                line = raw.decode(errors="replace").rstrip("\r\n")
                result = parse_tap(line)
                if result:
                    names.append(result[1])
                    results.add_with_notes(result, notes)
                    notes = []
                elif line.startswith("#"):
                    notes.append(line[1:].strip())
        except BaseException:
            process.terminate()
            raise
        finally:
            if watchdog:
                watchdog.cancel()
            if running is not None:
                running.discard(process)
    with results.lock:
        for line in notes:
            results.note(line)
    return names, process.returncode


def run_here(results, files, places, match):
    names = list_tests(files, places, match)
    if not names:
        return
    where = [word for place in places for word in ("--where", place)]
    seen, status = stream(results, runner_command(*where, *match, *files))
    for name in names:
        if name not in seen:
            results.add("failed", name, f"did not run: the runner ended with status {status}")


class LabRing:
    """Tests that lab machines work off side by side. A machine claims a test by making a file of its name, which tells
    after the machine's end in which test it ended; that one is tried once more."""

    def __init__(self, results, names, arguments):
        self.results = results
        self.names = names
        self.arguments = arguments
        os.makedirs(f"{BUILD}/dev-test", exist_ok=True)
        self.claims = tempfile.mkdtemp(prefix="claims-", dir=f"{BUILD}/dev-test")
        self.hung_in = set()
        self.seen = set()
        self.running = set()
        self.stopped = False

    def left(self):
        return [name for name in self.names if name not in self.seen]

    def claimed_by(self, machine):
        """Tests that a machine began and did not end."""
        found = []
        for name in self.left():
            try:
                with open(f"{self.claims}/{claim_of(name)}", encoding="utf-8") as claim:
                    if claim.read() == machine:
                        found.append(name)
            except FileNotFoundError:
                pass
        return found

    def work(self, machine):
        """Boots machine after machine until every test is claimed or the machine has ended too often."""
        for _ in range(LAB_BOOTS):
            unclaimed = [name for name in self.left() if not os.path.exists(f"{self.claims}/{claim_of(name)}")]
            if not unclaimed or self.stopped:
                return
            command = [LAB, "--timeout", str(300 + 120 * len(unclaimed)), "--log", f"{BUILD}/dev-test/lab-{machine}.log",
                       "--", *runner_command("--claims", self.claims, "--claim-as", machine, *self.arguments)]
            seen, status = stream(self.results, command, self.running, LAB_SILENCE)
            self.seen.update(seen)
            for name in [] if self.stopped else self.claimed_by(machine):
                self.gave_up(name, status)

    def gave_up(self, name, status):
        if name in self.hung_in:
            self.seen.add(name)
            self.results.add_with_notes(("failed", name, f"the lab machine stopped in it twice, status {status}"), [])
            return
        self.hung_in.add(name)
        with self.results.lock:
            self.results.note(f"the lab machine stopped in {name}, status {status}: trying once more")
        os.unlink(f"{self.claims}/{claim_of(name)}")

    def run(self):
        machines = max(1, min(os.cpu_count() or 1, len(self.names) // 2))
        try:
            self.work_with(machines)
        finally:
            shutil.rmtree(self.claims)
        for name in self.left():
            self.results.add("failed", name, "did not run: the lab machine stopped too often")

    def work_with(self, machines):
        with concurrent.futures.ThreadPoolExecutor(machines) as pool:
            try:
                for done in [pool.submit(self.work, str(number)) for number in range(machines)]:
                    done.result()
            except BaseException:
                self.stopped = True
                for process in list(self.running):
                    process.terminate()
                raise


def run_in_lab(results, files, places, match):
    names = list_tests(files, places, match)
    if names:
        where = [word for place in places for word in ("--where", place)]
        LabRing(results, names, [*where, *match, *files]).run()


def python_files(rings):
    return [file for ring in rings if ring not in PROGRAM_RINGS for file in sorted(glob.glob(f"{TESTS}/{ring}/test_*.py"))]


def main():
    parser = argparse.ArgumentParser(prog="./dev test", description="Runs tests.")
    parser.add_argument("--match", action="append", default=[], metavar="WORD", help="only tests with WORD in their name")
    parser.add_argument("--tap", action="store_true", help="print TAP instead of the closing line")
    parser.add_argument("--without-lab", action="store_true", help="leave out the ring lab, and what else does not run right on this host")
    parser.add_argument("rings", nargs="*", metavar="RING", help=f"of {', '.join(RINGS)}; all by default")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs below, the lab too, is ended with us
    for ring in options.rings:
        if ring not in RINGS:
            parser.error(f"unknown ring '{ring}', allowed are {', '.join(RINGS)}")
    rings = options.rings or [ring for ring in RINGS if not (options.without_lab and ring == "lab")]
    os.environ["PYTHONPATH"] = TESTS
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    results = Results(options.tap)
    kvm, _ = kvm_probe.probe()
    match = [word for pattern in options.match for word in ("--match", pattern)]
    files = python_files(rings)
    for ring in rings:
        if ring == "guest" and kvm == "none" and meson_tests(BUILD, "guest"):
            if options.without_lab:
                results.add("skipped", "guest", "there is no /dev/kvm")
            elif stream(results, [LAB, "--timeout", "900", "--", sys.executable, __file__, "--tap", "guest"])[1] != 0:
                results.add("failed", "guest", "the ring did not come to its end inside the lab")
        elif ring in PROGRAM_RINGS:
            run_program_ring(results, ring, options.match)
    here = ["any"] + (["host"] if kvm != "none" else [])
    if options.without_lab:
        run_here(results, files, here, match)
        return results.close()
    if doctor.place(kvm) == "direct":
        here.append("lab")
    run_here(results, files, here, match)
    run_in_lab(results, files, [place for place in ("host", "lab") if place not in here], match)
    return results.close()


if __name__ == "__main__":
    sys.exit(main())
