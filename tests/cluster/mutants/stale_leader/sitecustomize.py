"""Where this folder is on PYTHONPATH, nodes answer reads without asking whether they still lead, and never doubt it."""

from __future__ import annotations

import sys

if "zraft.cli.node" in sys.orig_argv:
    from zraft.sim.mutants import MUTANTS

    for name in ("read-without-round", "no-check-quorum"):
        MUTANTS[name].plant(setattr)
