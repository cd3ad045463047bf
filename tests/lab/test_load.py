# SPDX-License-Identifier: LGPL-2.1-or-later
"""A stock guest that works on its memory, its disk and the network goes through snapshots, and from process to process.

KUMO_MIGRATION_ROUNDS says how often it moves; 20 is a good number for a long look.
"""

import os
import threading

from harness import test
from harness.workload import ROUNDS, Workload, plug


def refusal(vm):
    try:
        vm.info()
        return ""
    except Exception as error:  # pylint: disable=broad-except  (ApiError, by its text)
        return str(error)


def move(t, work, url):
    destination = t.kumo(serial=None, console=None)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(destination.api("PUT", "vm.receive-migration", {"receiver_url": url}, 120)),
                              daemon=True)
    thread.start()
    # It answers with the VM; until then it tells that it waits.
    t.wait_for(lambda: "migration" in refusal(destination), "the destination to wait")
    work.vm.put("vm.send-migration", {"destination_url": url, "downtime_ms": 1000, "timeout_s": 20, "timeout_strategy": "Ignore"})
    thread.join(120)
    t.equal(answers, [None], "answer of vm.receive-migration")
    plug(t)
    work.vm.wait_exit(0, 30)
    destination.use_port("serial", "pty")
    work.vm = destination


@test(timeout=100 + 15 * ROUNDS)
def moves_under_load(t):
    """Back and forth over UNIX and TCP."""
    work = Workload(t)
    for number in range(ROUNDS):
        url = "tcp:127.0.0.1:7100" if number % 2 else f"unix:{t.path('move')}"
        move(t, work, url)
        work.went_on(f"{number + 1}, {url}")
    work.end()
    work.vm.wait_exit(0, 60)


@test(timeout=150)
def restored_under_load(t):
    """Snapshots that are taken at any moment of the work, by copying and on demand; the next begins while memory comes."""
    work = Workload(t)
    for number, mode in enumerate(("Copy", "OnDemand", "OnDemand")):
        directory = t.path(f"snapshot-{number}")
        os.mkdir(directory)
        work.vm.put("vm.pause")
        work.vm.put("vm.snapshot", {"destination_url": f"file://{directory}"})
        work.vm.put("vmm.shutdown")
        work.vm.wait_exit(0, 20)
        work.vm = t.kumo(serial=None, console=None)
        work.vm.put("vm.restore", {"source_url": f"file://{directory}", "memory_restore_mode": mode, "resume": True})
        work.vm.use_port("serial", "pty")
        if number != 1:
            work.went_on(f"{number + 1}, {mode}")
    work.end()
    work.vm.wait_exit(0, 60)
