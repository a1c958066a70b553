"""Whole clusters in virtual time: a hundred short seeds in every run of the tests, long ones with `--long`."""

from __future__ import annotations

import time

import pytest

from zraft.sim.options import FAULTS
from zraft.sim.runner import Plan, Result, run

BATCH = 5
SHORT_MS = 10_000


def run_or_fail(plan: Plan) -> Result:
    result = run(plan, time.monotonic)
    if result.invariant:
        pytest.fail(f"{result.line()}\n{result.what}\nreplay: {plan.command()}")
    return result


@pytest.mark.parametrize("first", range(0, 100, BATCH))
def test_no_invariant_is_violated(first: int) -> None:
    results = [run_or_fail(Plan(seed, faults_ms=SHORT_MS)) for seed in range(first, first + BATCH)]
    assert sum(result.acknowledged for result in results) > 0


@pytest.mark.long
@pytest.mark.timeout(3_000)
@pytest.mark.parametrize("first", range(1_000, 1_100, BATCH))
def test_no_invariant_is_violated_in_a_minute(first: int) -> None:
    for seed in range(first, first + BATCH):
        run_or_fail(Plan(seed))


def test_the_seeds_of_every_run_inject_every_kind_of_fault() -> None:
    """A fault that no draw ever chooses would test nothing; which took effect, the summary of --seeds counts."""
    from zraft.sim.options import draw_options, nodes_of

    drawn = {kind for seed in range(100) for kind in draw_options(seed, nodes_of(seed), SHORT_MS).faults}
    assert drawn == set(FAULTS)
