# SPDX-License-Identifier: LGPL-2.1-or-later
"""Runs test files and prints TAP, what a test said before its result: python3 -m harness.runner [OPTION…] FILE…

Each test runs in a child process that leads a session of its own. The runner adopts whatever the test leaves behind
(it is a child subreaper) and ends it, so a hanging test or a forgotten daemon cannot disturb the next test.
"""

import argparse
import ctypes
import fnmatch
import importlib.util
import os
import signal
import sys
import time
import traceback

from .context import PATIENCE, Context, Failure, Skip, TimedOut

PR_SET_CHILD_SUBREAPER = 36
PASSED, FAILED, SKIPPED, TIMED_OUT, KILLED = 0, 1, 2, 3, 4


class Test:
    """One function with one set of case values."""

    def __init__(self, file, function, values):
        self.function = function
        self.values = values
        ring = os.path.basename(os.path.dirname(os.path.abspath(file)))
        module = os.path.basename(file)[:-3].removeprefix("test_")
        label = ",".join(str(value) for value in values.values())
        self.name = f"{ring}/{module}/{function.__name__.removeprefix('test_')}" + (f"[{label}]" if label else "")
        self.timeout = function.kumo_test["timeout"]
        self.where = function.kumo_test["where"]
        self.retry = function.kumo_test["retry"]


def load(file):
    """The tests of a file, in the order of its text."""
    spec = importlib.util.spec_from_file_location(os.path.basename(file)[:-3], file)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, os.path.dirname(os.path.abspath(file)))
    spec.loader.exec_module(module)
    functions = [value for value in vars(module).values()
                 if hasattr(value, "kumo_test") and value.__module__ == module.__name__]
    for function in sorted(functions, key=lambda value: value.__code__.co_firstlineno):
        for values in getattr(function, "kumo_cases", [{}]):
            yield Test(file, function, values)


def comment(text):
    for line in str(text).splitlines():
        printable = "".join(char if char.isprintable() or char == "\t" else "?" for char in line)
        print(f"#   {printable}")
    sys.stdout.flush()


def children():
    found = []
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/children", encoding="ascii") as stream:
            found += [int(word) for word in stream.read().split()]
    return found


def end_leftovers():
    """Kills and reaps every process that the last test left behind."""
    for _ in range(100):
        left = children()
        if not left:
            return
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.01)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass


def run_child(test, report):
    """In the child process: runs the test; its outcome goes through the pipe REPORT as text."""
    os.setsid()
    context = Context(test.name)
    os.write(report, f"{context.directory}\n".encode())
    status, text = PASSED, ""
    try:
        test.function(context, **test.values)
    except Skip as reason:
        status, text = SKIPPED, str(reason)
    except TimedOut:
        status, text = TIMED_OUT, traceback.format_exc()
    except Failure as failure:
        frames = [frame for frame in traceback.extract_tb(failure.__traceback__) if "/harness/" not in frame.filename]
        place = f"line {frames[-1].lineno}: " if frames else ""
        status, text = FAILED, f"{place}{failure}"
    except BaseException:  # whatever ends a test has to be reported
        status, text = FAILED, traceback.format_exc()
    if status in (FAILED, TIMED_OUT):
        text = "\n".join([text, *context.logs()])
    context.close()
    os.write(report, text.encode())
    os._exit(status)


def run_test(test, seconds):
    """Runs a test with a time limit. Returns (status, text)."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        run_child(test, writer)
    os.close(writer)
    os.set_blocking(reader, False)
    end = time.monotonic() + seconds
    received, status = b"", None
    while status is None:
        time.sleep(0.02)
        try:
            received += os.read(reader, 1 << 20)
        except BlockingIOError:
            pass
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = os.waitstatus_to_exitcode(code)
        elif time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            status = KILLED
    try:
        while data := os.read(reader, 1 << 20):
            received += data
    except BlockingIOError:
        pass
    os.close(reader)
    directory, _, text = received.decode(errors="replace").partition("\n")
    context = Context.__new__(Context)
    context.directory = directory
    if status == KILLED:
        status = TIMED_OUT
        text = "\n".join([f"not done after {seconds:g} s", *context.logs()])
    elif status < 0:
        status, text = FAILED, f"the test's process died of signal {-status}"
    elif status not in (PASSED, SKIPPED, TIMED_OUT):
        status = FAILED
    end_leftovers()
    if os.path.isdir(directory):
        context.remove()
    return status, text


def claim_of(name):
    """File name that stands for a test."""
    return name.replace("/", "+")


def claim(directory, name, text):
    """Whether the test NAME was nobody's before; it is this process's from now on."""
    try:
        with open(os.path.join(directory, claim_of(name)), "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        return False
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--list", action="store_true", help="print each test's place and name, run nothing")
    parser.add_argument("--where", action="append", help="run only tests of this place (any, host, lab)")
    parser.add_argument("--match", action="append", help="run only tests whose name fits this pattern")
    parser.add_argument("--claims", metavar="DIRECTORY", help="run only tests that have no file of their name there yet; make it")
    parser.add_argument("--claim-as", metavar="TEXT", default="", help="what is written into that file")
    parser.add_argument("files", nargs="*")
    options = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    tests = [test for file in options.files for test in load(file)]
    if options.where:
        tests = [test for test in tests if test.where in options.where]
    if options.match:
        tests = [test for test in tests if any(fnmatch.fnmatch(test.name, f"*{pattern}*") for pattern in options.match)]
    if options.list:
        for test in tests:
            print(test.where, test.name)
        return
    number = 0
    for test in tests:
        if options.claims and not claim(options.claims, test.name, options.claim_as):
            continue
        number += 1
        began = time.monotonic()
        status, text = run_test(test, test.timeout * PATIENCE)
        if status == TIMED_OUT and test.retry and os.environ.get("KUMO_IN_LAB") == "1":
            comment(f"{test.name} timed out, trying once more:\n{text}")
            status, text = run_test(test, test.timeout * PATIENCE)
        seconds = time.monotonic() - began
        if status in (FAILED, TIMED_OUT):
            comment(text)
        if status == SKIPPED:
            print(f"ok {number} {test.name} # SKIP {text}", flush=True)
        else:
            print(f"{'ok' if status == PASSED else 'not ok'} {number} {test.name} # {seconds:.1f} s", flush=True)
    print(f"1..{number}", flush=True)


if __name__ == "__main__":
    main()
