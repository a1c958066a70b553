"""The scenario to teach with: without terms and a log, an acknowledged write is lost."""

from __future__ import annotations

import time

import pytest

from zraft.sim.naive import run_naive


@pytest.mark.parametrize("seed", range(10))
def test_naive_replication_loses_an_acknowledged_write(seed: int) -> None:
    lines, invariant, _ = run_naive(seed, time.monotonic)
    assert invariant == "linearizable"
    assert len(lines) < 60
    acknowledged = next(place for place, line in enumerate(lines) if "x = b is ACKNOWLEDGED" in line)
    read = next(place for place, line in enumerate(lines) if line.endswith("n2 -> client: x = a"))
    assert acknowledged < read


def test_the_same_seed_gives_the_same_transcript() -> None:
    assert run_naive(3, time.monotonic) == run_naive(3, time.monotonic)
    assert run_naive(3, time.monotonic)[2] != run_naive(4, time.monotonic)[2]
