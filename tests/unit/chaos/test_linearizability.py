"""The checker: small histories with a known verdict, agreement with trying every order, limits, and explanations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from history_maker import execute, make_history
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.chaos import search
from zraft.chaos.history import Operation, Value
from zraft.chaos.linearizability import Report, Verdict, check, explain
from zraft.chaos.moves import UNASKED


def stopped() -> float:
    return 0.0


def verdict(*operations: Operation) -> Verdict:
    return check(operations, stopped, 1.0).verdict


def ok(call: float, ret: float, op: str, *args: Value, result: Any = None, key: str = "k") -> Operation:
    return Operation(1, op, key, args, result, call, ret, "ok")


def unknown(call: float, op: str, *args: Value, ret: float | None = None) -> Operation:
    return Operation(2, op, "k", args, None, call, ret, "unknown")


YES, NO = Verdict.LINEARIZABLE, Verdict.NOT_LINEARIZABLE


@pytest.mark.parametrize(
    ("expected", "operations"),
    [
        (YES, []),
        (YES, [ok(0, 1, "get", result=None)]),
        (NO, [ok(0, 1, "get", result="a")]),
        (YES, [ok(0, 1, "set", "a"), ok(2, 3, "get", result="a")]),
        (NO, [ok(0, 1, "set", "a"), ok(2, 3, "get", result=None)]),
        (YES, [ok(0, 3, "set", "a"), ok(1, 2, "get", result=None)]),
        (YES, [ok(0, 3, "set", "a"), ok(1, 2, "get", result="a")]),
        # At the very same time: the clock cannot tell which came first.
        (YES, [ok(0, 1, "set", "a"), ok(1, 2, "get", result=None)]),
        # A value seen by one and then missed by another (a stale read).
        (NO, [ok(0, 9, "set", "a"), ok(1, 2, "get", result="a"), ok(3, 4, "get", result=None)]),
        # Two that wrote at once: readers agree on who came last, or they do not.
        (YES, [ok(0, 9, "set", "a"), ok(0, 9, "set", "b"), ok(1, 2, "get", result="a"), ok(3, 4, "get", result="b")]),
        (NO, [ok(0, 2, "set", "a"), ok(0, 2, "set", "b"), ok(3, 4, "get", result="a"), ok(5, 6, "get", result="b")]),
        # A set that outlasts the one that overwrote it may come after it all the same.
        (YES, [ok(0, 2, "set", "a"), ok(1, 3, "set", "b"), ok(4, 5, "get", result="a")]),
        (YES, [ok(0, 1, "set", "a"), ok(2, 3, "delete", result=True), ok(4, 5, "delete", result=False)]),
        (NO, [ok(0, 1, "delete", result=True)]),
        (NO, [ok(0, 1, "set", "a"), ok(2, 3, "delete", result=False)]),
        (NO, [ok(0, 1, "set", "a"), ok(2, 9, "delete", result=True), ok(2, 9, "delete", result=True)]),
        (YES, [ok(0, 1, "cas", None, "a", result=True), ok(2, 3, "cas", "a", "b", result=True)]),
        (NO, [ok(0, 9, "cas", None, "a", result=True), ok(0, 9, "cas", None, "b", result=True)]),
        (NO, [ok(0, 1, "cas", None, "a", result=False)]),
        (YES, [ok(0, 9, "cas", None, "a", result=False), ok(1, 2, "set", "x")]),
        (YES, [ok(0, 9, "append", "b", result="ab"), ok(0, 9, "append", "a", result="a")]),
        (NO, [ok(0, 1, "append", "b", result="b"), ok(2, 3, "append", "a", result="a")]),
        (YES, [ok(0, 9, "append", "b"), ok(0, 9, "append", "a"), ok(10, 11, "get", result="ba")]),
        (NO, [ok(0, 9, "append", "b"), ok(0, 9, "append", "a"), ok(10, 11, "get", result="b")]),
        (NO, [ok(0, 1, "set", 1), ok(2, 3, "get", result="1")]),
        # Unknown: at any time after its call, after its answer was given up too, or never.
        (YES, [unknown(0, "set", "a"), ok(1, 2, "get", result=None), ok(3, 4, "get", result="a")]),
        (YES, [unknown(0, "set", "a", ret=1), ok(2, 3, "get", result=None), ok(4, 5, "get", result="a")]),
        (YES, [unknown(0, "set", "a"), ok(1, 2, "get", result=None)]),
        (NO, [unknown(5, "set", "a"), ok(1, 2, "get", result="a")]),
        (NO, [unknown(0, "set", "a"), *(ok(t, t + 1, "cas", "a", "b", result=True) for t in (2, 4))]),
        (YES, [unknown(0, "set", "a"), unknown(1, "set", "a"),
               *(ok(t, t + 1, "cas", "a", "b", result=True) for t in (2, 4))]),
        (YES, [unknown(0, "get"), unknown(0, "delete"), ok(1, 2, "set", "a"), ok(3, 4, "get", result=None)]),
        (YES, [unknown(0, "append", "b"), ok(1, 2, "append", "a", result="a"), ok(3, 4, "get", result="ab")]),
        (YES, [unknown(0, "append", "b"), unknown(0, "append", "a"), ok(1, 2, "get", result="ab")]),
        (YES, [unknown(0, "append", "b"), unknown(0, "set", "a"), ok(1, 2, "get", result="ab")]),
        (YES, [unknown(0, "append", "b"), ok(0, 3, "set", "a"), ok(1, 2, "get", result="ab")]),
        (NO, [ok(0, 1, "set", 1), ok(2, 3, "get", result=1), ok(4, 5, "append", "x", result="1x")]),
        # Without effect.
        (NO, [replace(ok(0, 1, "set", "a"), outcome="fail"), ok(2, 3, "get", result="a")]),
        (YES, [replace(ok(0, 1, "set", "a"), outcome="fail"), ok(2, 3, "get", result=None)]),
    ],
)  # fmt: skip
def test_verdicts_on_small_histories(expected: Verdict, operations: list[Operation]) -> None:
    assert verdict(*operations) is expected
    assert verdict(*reversed(operations)) is expected, "the order of the lines says nothing"


def test_keys_are_independent_and_one_that_fails_is_enough() -> None:
    good = [ok(0, 1, "set", "a"), ok(2, 3, "get", result="a")]
    bad = ok(0, 1, "get", result="x", key="other")
    assert verdict(*good, ok(4, 5, "get", result=None, key="other")) is YES
    report = check([*good, bad], stopped, 1.0)
    assert (report.verdict, report.keys, report.operations) == (NO, 2, 3)
    assert report.failure is not None
    assert report.failure.operation is bad


# ---- agreement with trying every order ---------------------------------------------------------------------------


def every_order(operations: list[Operation], value: Value = None) -> bool:
    """Whether some order explains these operations, found by trying all of them."""
    must = [each for each in operations if each.outcome == "ok"]
    if not must:
        return True
    first_return = min(each.ret for each in must if each.ret is not None)
    for each in operations:
        if each.call > first_return:
            continue
        result, after = execute(each.op, each.args, value)
        fits = each.outcome == "unknown" or each.op == "set" or each.result == result
        if not fits and not (each.op == "append" and each.result is None):
            continue
        rest = [other for other in operations if other is not each]
        if every_order(rest, after):
            return True
    return False


@st.composite
def small_histories(draw: st.DrawFn) -> list[Operation]:
    values = st.sampled_from(["a", "b"])
    history = []
    for number in range(draw(st.integers(1, 7))):
        op = draw(st.sampled_from(["get", "set", "delete", "cas", "append"]))
        call = draw(st.integers(0, 8))
        ret = call + draw(st.integers(0, 6))
        args: tuple[Value, ...] = ()
        result: Any = None
        if op == "get":
            result = draw(st.sampled_from([None, "a", "b", "ab", "ba"]))
        elif op in ("set", "append"):
            args = (draw(values),)
            result = draw(st.sampled_from([None, "a", "ab", "ba"])) if op == "append" else None
        else:
            args = (draw(st.none() | values), draw(values)) if op == "cas" else ()
            result = draw(st.booleans())
        lost = draw(st.integers(0, 3)) == 0
        if lost:
            given_up = draw(st.sampled_from([None, ret]))
            history.append(Operation(number, op, "k", args, None, call, given_up, "unknown"))
        else:
            history.append(Operation(number, op, "k", args, result, call, ret, "ok"))
    return history


@given(small_histories())
@settings(deadline=None, derandomize=True, max_examples=600)
def test_the_verdict_is_that_of_trying_every_order(history: list[Operation]) -> None:
    report = check(history, stopped, 1.0)
    assert (report.verdict is YES) == every_order(history)
    check_failure(history, report)


@given(st.integers(0, 10**9), st.integers(2, 5), st.sampled_from([0, 1, 3]), st.data())
@settings(deadline=None, derandomize=True, max_examples=300)
def test_a_spoilt_history_is_judged_as_by_trying_every_order(
    seed: int, clients: int, values: int, data: st.DataObject
) -> None:
    history = make_history(seed, clients=clients, operations=9, values=values, unknown=0.15)
    assert verdict(*history) is YES
    place = data.draw(st.integers(0, len(history) - 1))
    if data.draw(st.booleans()):
        del history[place]
    else:
        spoilt = {"delete": not history[place].result, "cas": not history[place].result}
        history[place] = replace(history[place], result=spoilt.get(history[place].op, "v0"))
    report = check(history, stopped, 1.0)
    assert (report.verdict is YES) == every_order(history)
    check_failure(history, report)


def check_failure(history: list[Operation], report: Report) -> None:
    """What a failure says of the history holds."""
    if report.failure is None:
        return
    failure = report.failure
    assert not every_order(list(failure.prefix)), "the prefix fails"
    end = failure.operation.ret
    assert end is not None
    assert set(failure.prefix) == {each for each in history if each.call <= end}
    # Shortest: whatever had not returned before the failing operation did may be left open.
    opened = [
        each
        if each.outcome != "ok" or (each.ret is not None and each.ret < end)
        else replace(each, outcome="unknown", result=None, ret=None)
        for each in failure.prefix
        if each is not failure.operation
    ]
    assert every_order(opened), "without the operation it does not"
    assert len(set(failure.order)) == len(failure.order)
    for each in failure.prefix:
        if each.outcome == "unknown":
            assert each in failure.window
        elif each.outcome == "ok" and each.ret is not None and each.ret < end and each in failure.window:
            assert each in failure.order, "it had returned: the order has to explain it"
    assert set(failure.order) <= set(failure.window) <= set(failure.prefix)
    assert any(explains(failure.order, value) for value in failure.values if value != UNASKED) or (
        UNASKED in failure.values
    )
    assert explain(report)[0].startswith("not linearizable")


def explains(order: tuple[Operation, ...], value: Value) -> bool:
    for place, each in enumerate(order):
        result, after = execute(each.op, each.args, value)
        not_known = each.op == "set" or (each.op == "append" and each.result is None)
        if each.outcome == "ok" and not not_known and each.result != result:
            return False
        if any(later.ret is not None and later.ret < each.call for later in order[place:] if later.outcome == "ok"):
            return False
        value = after
    return True


@pytest.mark.parametrize("width", [1, 3, 1000])
def test_the_width_of_the_search_changes_no_verdict(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_WIDTH", width)
    for seed in range(15):
        history = make_history(seed, clients=4, operations=60, values=3, unknown=0.05)
        assert verdict(*history) is YES
        gets = [each for each in history if each.op == "get" and each.outcome == "ok"]
        spoilt = [replace(each, result="never written") if each is gets[-1] else each for each in history]
        report = check(spoilt, stopped, 1.0)
        assert report.failure is not None
        assert report.failure.operation.result == "never written"


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param({"clients": 16, "operations": 2000, "keys": 1, "kinds": ("get", "set")}, id="one hot key"),
        pytest.param(
            {"clients": 16, "operations": 3000, "keys": 8, "kinds": ("get", "set", "delete", "cas")}, id="all"
        ),
        pytest.param({"clients": 10, "operations": 1500, "keys": 1, "kinds": ("get", "append")}, id="appends"),
    ],
)
def test_long_histories_with_values_of_their_own_are_judged_in_time(shape: dict[str, Any]) -> None:
    history = make_history(1, values=0, unknown=0.02, **shape)
    ticks = count()
    report = check(history, lambda: float(next(ticks)), 400)  # each tick is 256 steps of the search
    assert report.verdict is YES, report.reason


# ---- limits ------------------------------------------------------------------------------------------------------


def hard_history() -> list[Operation]:
    """Fourteen that write at once, again and again, and a reader that nobody can explain at the end."""
    history = [
        ok(
            number + 100 * turn,
            90 + number + 100 * turn,
            "cas",
            f"v{number % 3}",
            f"v{(number + turn) % 4}",
            result=True,
        )
        for turn in range(3)
        for number in range(14)
    ]
    return [*history, *(unknown(0, "set", f"v{number % 4}") for number in range(40))]


def test_at_the_time_limit_there_is_no_verdict() -> None:
    ticks = count()
    report = check(hard_history(), lambda: float(next(ticks)), 3)
    assert report.verdict is Verdict.NONE
    assert report.reason == "key 'k': the time limit was reached"
    assert explain(report)[0].startswith("no verdict")
    assert next(ticks) < 10, "and the search ends soon after"


def test_at_the_limit_of_memory_there_is_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MAX_CONFIGURATIONS", 300)
    report = check(hard_history(), stopped, 1.0)
    assert (report.verdict, report.reason) == (Verdict.NONE, "key 'k': more than 300 configurations")


def test_a_key_without_a_verdict_does_not_hide_one_that_fails() -> None:
    ticks = count()
    bad = [ok(number, number, "get", result=None, key="z") for number in range(100)]
    bad.append(ok(200, 201, "get", result="x", key="z"))
    assert len(bad) > len(hard_history()), "it is searched after the other one"
    report = check([*hard_history(), *bad], lambda: float(next(ticks)), 12)
    assert report.verdict is NO


# ---- explanations ------------------------------------------------------------------------------------------------


def test_a_failure_is_explained_from_the_last_quiet_moment_on() -> None:
    history = [
        replace(each, line=line)
        for line, each in enumerate(
            [
                ok(0, 1, "set", "old"),
                ok(2, 3, "get", result="old"),
                ok(4, 6, "set", "a"),
                ok(5, 7, "set", "b"),
                ok(8, 9, "get", result="a"),
                ok(10, 11, "get", result="b"),
                ok(12, 13, "get", result="b"),
            ],
            start=1,
        )
    ]
    report = check(history, stopped, 1.0)
    assert report.failure is not None
    assert report.failure.operation.line == 6
    assert [each.line for each in report.failure.prefix] == [1, 2, 3, 4, 5, 6]
    assert explain(report) == [
        "not linearizable: 7 operations on 1 keys",
        "key 'k': no order of its operations explains this one:",
        '  line 6: client 1 get -> "b"  [10 .. 11]',
        "without it, and what returned later, there is one; the shortest failing part has 6 of the key's operations",
        "at 9 nothing of known outcome was under way, and the value was 'a'",
        "called since then, or of unknown outcome:",
        '  line 6: client 1 get -> "b"  [10 .. 11]',
        "an order that explains all that had returned before:",
        "  none",
    ]


def test_what_was_given_up_before_the_quiet_moment_can_be_in_the_order_after_it() -> None:
    lost = unknown(0, "set", "a", ret=1)
    seen = ok(4.5, 5, "get", result="a")
    history = [lost, ok(2, 3, "get", result=None), ok(4, 6, "set", "b"), seen, ok(5.2, 5.5, "get", result="x")]
    failure = check(history, stopped, 1.0).failure
    assert failure is not None
    assert (failure.since, failure.values, failure.order) == (3, (None,), (lost, seen))


def test_long_lists_are_cut_in_the_explanation_and_not_in_the_failure() -> None:
    history = [ok(0, 99, "set", f"v{number}") for number in range(30)]
    report = check([*history, ok(1, 50, "get", result="x")], stopped, 1.0)
    assert report.failure is not None
    assert len(report.failure.window) == 31
    lines = explain(report)
    assert "  (11 earlier ones are not shown)" in lines
    assert "at the start the value was absent" in lines
    assert len(lines) < 40


def test_a_linearizable_history_is_explained_in_one_line() -> None:
    assert explain(check([ok(0, 1, "set", "a")], stopped, 1.0)) == ["linearizable: 1 operations on 1 keys"]


def test_the_clock_is_the_one_handed_in() -> None:
    asked: list[Callable[[], float]] = []

    def clock() -> float:
        asked.append(clock)
        return 5.0

    check([ok(0, 1, "set", "a")], clock, 1.0)
    assert asked
