# SPDX-License-Identifier: LGPL-2.1-or-later
"""The harness of the lab and libvirt rings: see docs/testing.md."""

from .context import Failure, Skip, cases, test
from .console import Console, TimedOut
from .net import Tap
from .vmm import ApiError, Kumo, boot, events_of, run_kumo
from . import guest

__all__ = ["ApiError", "Console", "Failure", "Kumo", "Skip", "Tap", "TimedOut", "boot", "cases", "events_of", "guest",
           "run_kumo", "test"]
