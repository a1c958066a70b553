"""Schedules: made from the seed alone, within what the guarantees allow, and with every kind in them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from zraft.chaos.schedule import KINDS, LINK_KINDS, PROCESS_KINDS, Fault, make_schedule
from zraft.config import ACTORS

THREE, FIVE = ("n1", "n2", "n3"), ("n1", "n2", "n3", "n4", "n5")


def schedule(seed: int, kinds: tuple[str, ...] = KINDS, seconds: float = 60.0) -> list[Fault]:
    return make_schedule(seed, kinds, THREE, ACTORS, seconds)


def test_equal_seeds_give_equal_schedules_in_any_process() -> None:
    code = (
        "from zraft.chaos.schedule import *; from zraft.config import ACTORS; "
        "print(make_schedule(7, KINDS, ('n1', 'n2', 'n3'), ACTORS, 60.0))"
    )
    texts = {
        subprocess.check_output([sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, text=True)
        for seed in ("1", "2")
    }
    assert texts == {f"{schedule(7)}\n"}
    assert schedule(7) != schedule(8)


@pytest.mark.parametrize("nodes", [THREE, FIVE])
def test_a_minute_of_actors_has_each_of_them_at_least_three_times(nodes: tuple[str, ...]) -> None:
    for seed in range(20):
        faults = make_schedule(seed, ["actors"], nodes, ACTORS, 60.0)
        deaths = Counter((fault.whom, fault.parameters["actor"]) for fault in faults)
        assert len(deaths) == len(nodes) * len(ACTORS) and min(deaths.values()) >= 3
        boundaries = {fault.parameters["boundary"] for fault in faults}
        assert 0 in boundaries and len(boundaries) > 3, "some between two messages, some within one"


@pytest.mark.parametrize("seconds", [12.0, 60.0, 300.0])
def test_every_kind_comes_and_all_ends_in_time(seconds: float) -> None:
    for seed in range(50):
        faults = schedule(seed, seconds=seconds)
        assert {fault.kind for fault in faults} == set(KINDS), seed
        assert all(fault.at_s > 0 and fault.at_s + fault.for_s <= seconds for fault in faults)
        assert faults == sorted(faults, key=lambda fault: fault.at_s)


@pytest.mark.parametrize("strand", [PROCESS_KINDS, LINK_KINDS])
def test_one_fault_of_a_strand_at_a_time(strand: tuple[str, ...]) -> None:
    for seed in range(20):
        own = [fault for fault in schedule(seed, seconds=300.0) if fault.kind in strand]
        for before, after in zip(own, own[1:], strict=False):
            assert before.at_s + before.for_s < after.at_s


def test_only_the_kinds_that_were_asked_for() -> None:
    assert {fault.kind for fault in schedule(1, ("nodes", "drop"))} == {"nodes", "drop"}
    assert schedule(1, ()) == []
