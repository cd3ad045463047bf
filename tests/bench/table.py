# SPDX-License-Identifier: LGPL-2.1-or-later
"""How the parts of the benchmark show what they found."""


class Table:
    """Rows of one value for each contender, of which kumo is the first, and the ratio of kumo's to each other's."""

    def __init__(self, contenders):
        self.missed = []
        names = [cls.name for cls in contenders]
        self._line("", names + [f"{names[0]} : {name}" for name in names[1:]])

    @staticmethod
    def _line(what, cells):
        print(f"{what:42}" + "".join(f"{cell:>22}" for cell in cells), flush=True)

    def row(self, what, values, goal=None, more_is_better=False):
        """VALUES are numbers, or None where there is none; GOAL is the most that kumo's may be."""
        cells = ["-" if value is None else f"{value:.2f}" for value in values]
        own, *others = values
        for other in others:
            cells.append(f"{own / other:.3f}" if own is not None and other else "-")
            if own is not None and other and (own <= other if more_is_better else own >= other):
                self.missed.append(f"{what}: not ahead of QEMU")
        if goal is not None and (own is None or own > goal):
            self.missed.append(f"{what}: the goal is {goal:g}")
        self._line(what, cells)
