# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the parts of the benchmark show what they found, and what becomes of a line where kumo is not ahead."""

import os
import re
import textwrap

REASONS = os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "docs", "performance.md")

# Lines on which kumo may be behind: what they are called, the words with which the reason begins in docs/performance.md,
# and the ratio that is still explained by it. Beyond that, or without the reason, the line is missed.
EXPLAINED = (
    (r"(register|configuration|kick|ACPI timer) ?.*, us", "An exit", 1.1),
    (r"(fio )?sequential (read|write), MiB/s, 1 queue", "Sequential reads and writes at one queue", 0.6),
    (r"(fio )?sequential write, MiB/s, 2 queues", "Sequential writes at two queues", 0.7),
    (r"(fio )?4k random write, 1(000)?/s, \d queues?", "Writes of 4 KiB into a file's page cache", 0.7),
    (r"fio .*, 2 queues", "Two queues on one processor, as in the lab", 0.15),
    (r"threads", "Threads", 3.0),
    (r"migration, local, .*: guest still, ms", "Standing still", 1.8),
    (r"migration, local, .*: total, ms", "The total of a local migration", 4.0),
    (r"migration, TCP, .*: total, ms", "Checksums of a plain stream", 1.5),
    (r"one TCP stream with checksums, MiB/s", "Checksums of a plain stream", 0.65),
)


def reason_of(heading):
    """The item of docs/performance.md that begins with HEADING and a colon, or None."""
    with open(REASONS, encoding="utf-8") as stream:
        found = re.search(rf"^- ({re.escape(heading)}:.*?)\n(?=\S|\n)", stream.read(), re.MULTILINE | re.DOTALL)
    return found and " ".join(found[1].split())


def check_reasons():
    """Ends the program when the table names a reason that nobody gives."""
    for _, heading, _ in EXPLAINED:
        if reason_of(heading) is None:
            raise SystemExit(f"bench: docs/performance.md has no item that begins with '{heading}:'")


def explain(what, ratio, more_is_better):
    """The reason for a line that is not ahead, or None if it has to be."""
    for pattern, heading, bound in EXPLAINED:
        if re.fullmatch(pattern, what) and (ratio >= bound if more_is_better else ratio <= bound):
            return reason_of(heading)
    return None


class Table:
    """Rows of one value for each contender, of which kumo is the first, and the ratio of kumo's to each other's."""

    def __init__(self, contenders):
        self.missed = []
        self.names = [cls.name for cls in contenders]
        self._line("", self.names + [f"{self.names[0]} : {name}" for name in self.names[1:]])

    @staticmethod
    def _line(what, cells):
        print(f"{what:42}" + "".join(f"{cell:>22}" for cell in cells), flush=True)

    def row(self, what, values, goal=None, more_is_better=False):
        """VALUES are numbers, or None where there is none; GOAL is the most that kumo's may be."""
        cells = ["-" if value is None else f"{value:.2f}" for value in values]
        own, *others = values
        reasons = []
        if own is None:
            self.missed.append(f"{what}: kumo did not come to its end")
        for name, other in zip(self.names[1:], others):
            ratio = own / other if own is not None and other else None
            cells.append("-" if ratio is None else f"{ratio:.3f}")
            if ratio is None or (ratio > 1 if more_is_better else ratio < 1):
                continue
            reason = explain(what, ratio, more_is_better)
            if reason is None:
                self.missed.append(f"{what}: not ahead of {name}")
            elif reason not in reasons:
                reasons.append(reason)
        if goal is not None and own is not None and own > goal:
            self.missed.append(f"{what}: the goal is {goal:g}")
        self._line(what, cells)
        for reason in reasons:
            print(textwrap.fill(reason, 118, initial_indent="    ", subsequent_indent="    "), flush=True)
