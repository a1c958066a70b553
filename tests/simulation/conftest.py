"""Puts the harness of the Raft core's tests (`cluster_harness`, `cluster_invariants`) on the path for scenarios."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "unit" / "raft"))
