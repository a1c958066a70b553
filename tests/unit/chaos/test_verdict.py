"""The rows of a verdict: each can hold, and each can be violated."""

from __future__ import annotations

import pytest

from zraft.chaos import statistics, verdict
from zraft.chaos.history import Operation
from zraft.chaos.verdict import Final, Holds, Row


def write(key: str, outcome: str, op: str = "set", result: bool | None = None, ret: float = 1.0) -> Operation:
    args = {"set": ("v",), "cas": ("0", "1"), "delete": ()}[op]
    return Operation(1, op, key, args, result, ret - 0.5, None if outcome == "unknown" else ret, outcome)


@pytest.mark.parametrize(("version", "holds"), [(1, Holds.NO), (2, Holds.YES), (3, Holds.YES), (4, Holds.NO)])
def test_a_tally_lies_between_the_acknowledged_and_those_with_the_unknown(version: int, holds: Holds) -> None:
    operations = [write("t", outcome) for outcome in ("ok", "ok", "unknown", "fail")]
    assert verdict.exactly_once(operations, {"t": Final("v", version)}, {}, None).holds is holds


@pytest.mark.parametrize(("value", "holds"), [(None, Holds.NO), ("1", Holds.YES), ("2", Holds.YES), ("3", Holds.NO)])
def test_a_counter_counts_the_swaps_that_succeeded(value: str | None, holds: Holds) -> None:
    operations = [write("c", "ok", "cas", True), write("c", "ok", "cas", False), write("c", "unknown", "cas")]
    assert verdict.exactly_once(operations, {}, {"c": Final(value, 1)}, None).holds is holds


@pytest.mark.parametrize(("revision", "holds"), [(1, Holds.NO), (2, Holds.YES), (3, Holds.NO)])
def test_the_revision_counts_every_change(revision: int, holds: Holds) -> None:
    operations = [write("k", "ok"), write("k", "ok", "delete", True), write("k", "ok", "delete", False)]
    assert verdict.exactly_once(operations, {}, {}, revision).holds is holds


def test_states_at_one_index_are_equal() -> None:
    ends: dict[str, int | None] = {"n1": 9, "n2": 9}
    same = {"n1": {5: "a", 9: "b"}, "n2": {7: "x", 9: "b"}}
    assert verdict.equal_states(same, ends).holds is Holds.YES
    row = verdict.equal_states({"n1": {5: "a", 9: "b"}, "n2": {5: "z", 9: "b"}}, ends)
    assert row.holds is Holds.NO and "after entry 5" in row.detail
    late = verdict.equal_states(same, {"n1": 9, "n2": None})
    assert late.holds is Holds.NO and "n2" in late.detail


def test_a_run_without_its_faults_says_nothing() -> None:
    kinds = ("actors", "drop")
    assert verdict.faults_happened(kinds, {"actors": 5, "drop": 1}, [3, 4]).holds is Holds.YES
    assert verdict.faults_happened(kinds, {"actors": 5, "drop": 0}, [3, 4]).holds is Holds.UNKNOWN
    assert verdict.faults_happened(kinds, {"actors": 5, "drop": 1}, [2, 4]).holds is Holds.UNKNOWN


def test_one_violation_decides() -> None:
    rows = [Row("", holds, "") for holds in (Holds.YES, Holds.UNKNOWN, Holds.NO)]
    assert [verdict.overall(rows[:count]) for count in (1, 2, 3)] == [Holds.YES, Holds.UNKNOWN, Holds.NO]


def test_service_and_complaints() -> None:
    assert verdict.serves_again(0.2, 30.0).holds is Holds.YES
    assert verdict.serves_again(None, 30.0).holds is Holds.NO
    assert verdict.no_complaints([]).holds is Holds.YES
    assert verdict.no_complaints(["n1 ended by itself", "n2: Traceback"]).detail == "n1 ended by itself (and 1 more)"


def test_figures_by_the_second() -> None:
    operations = [write("k", "ok", ret=0.6), write("k", "ok", ret=0.9), write("k", "fail", ret=2.1)]
    operations.append(write("k", "unknown", ret=1.6))
    first, second, third = statistics.by_second(operations, 2.5)
    assert (first.ok, second.unknown, third.fail) == (2, 1, 1)
    assert first.p50_ms == first.max_ms == pytest.approx(500) and second.p50_ms is None
    assert statistics.by_outcome(operations) == {"set": {"ok": 2, "unknown": 1, "fail": 1}}


def test_the_longest_gap_counts_acknowledged_writes_alone() -> None:
    read = Operation(1, "get", "k", (), None, 2.0, 2.1, "ok")
    operations = [write("k", "ok", ret=0.5), write("k", "ok", ret=1.0), read, write("k", "fail", ret=3.0)]
    gap = statistics.longest_write_gap([*operations, write("k", "ok", ret=4.0)], 0.0, 5.0)
    assert (gap.start_s, gap.end_s) == (1.0, 4.0)
    assert statistics.longest_write_gap([], 0.0, 5.0).seconds == 5.0
