"""The line format of histories: round trips, and what is refused with the line it is in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from history_maker import make_history

from zraft.chaos.history import HistoryError, Operation, parse_line, read_lines, to_line
from zraft.errors import ZraftError

LINE = {"client": 3, "op": "cas", "key": "a", "args": ["1", "2"], "result": True,
        "call": 12.5, "ret": 12.9, "outcome": "ok"}  # fmt: skip


def changed(**fields: Any) -> str:
    return json.dumps({**LINE, **fields})


def test_the_documented_line_is_read_and_written_as_it_stands() -> None:
    text = '{"client":3,"op":"cas","key":"a","args":["1","2"],"result":true,"call":12.5,"ret":12.9,"outcome":"ok"}'
    operation = parse_line(text)
    assert operation == Operation(3, "cas", "a", ("1", "2"), True, 12.5, 12.9, "ok")
    assert to_line(operation) == text


def test_a_history_comes_back_from_its_lines() -> None:
    history = make_history(1, operations=50, keys=3)
    lines = [to_line(operation) for operation in history]
    back = list(read_lines(["\n", *lines, ""]))
    assert [to_line(operation) for operation in back] == lines
    assert [operation.line for operation in back] == list(range(2, 52))


@pytest.mark.parametrize(
    "text",
    [
        changed(op="get", args=[], result=None),
        changed(op="get", args=[], result=7),
        changed(op="set", args=["v"], result="anything"),
        changed(op="delete", args=[], result=False),
        changed(op="cas", args=[None, "v"], result=False),
        changed(op="append", args=["v"], result="v"),
        changed(op="append", args=["v"], result=None),
        changed(outcome="unknown", result=None, ret=None),
        changed(outcome="fail", ret=None, result="whatever"),
        changed(client="process 5", call=12, ret=12, node="n1"),
    ],
)
def test_lines_that_are_operations(text: str) -> None:
    assert parse_line(text)


def test_arguments_may_be_left_out_where_there_are_none() -> None:
    fields = {name: field for name, field in LINE.items() if name != "args"}
    assert parse_line(json.dumps({**fields, "op": "get", "result": None})).args == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1]", "expected a JSON object"),
        (changed(op="put"), "op must be one of get, set, delete, cas, append, not 'put'"),
        (changed(op=["get"]), "op must be one of"),
        (changed(outcome="lost"), "outcome must be one of ok, unknown, fail, not 'lost'"),
        (changed(client=None), "client must be"),
        (changed(key=5), "key must be a string, not 5"),
        (changed(call=None), "call must be a time"),
        (changed(call="1"), "call must be a time in seconds, not '1'"),
        (changed(call=True), "call must be a time"),
        (changed(ret=float("nan")), "ret must be a time"),
        (changed(ret=None), "so must ret where the outcome is ok"),
        (changed(ret=12.4), "returned at 12.4, before its call at 12.5"),
        (changed(args=["1"]), r"args of cas must be an array of 2 \(expected, new\)"),
        (changed(args="12"), "args of cas must be an array"),
        (changed(args=["1", None]), "new of cas must be a string or a whole number, not None"),
        (changed(args=[True, "2"]), "expected of cas must be a string or a whole number"),
        (changed(args=["1", 2.5]), "new of cas must be"),
        (changed(op="append", args=[5]), "suffix of append must be a string, not 5"),
        (changed(op="set", args=[None]), "value of set must be"),
        (changed(op="get", args=["x"]), r"array of 0 \(none\)"),
        (changed(result=None), "result of cas must be true or false, not None"),
        (changed(op="delete", args=[], result=1), "result of delete must be true or false, not 1"),
        (changed(op="get", args=[], result=True), "result of get must be a string, a whole number or null, not True"),
        (changed(op="get", args=[], result=["x"]), "result of get must be"),
        (changed(op="append", args=["x"], result=5), "result of append must be a string or null, not 5"),
    ],
)
def test_a_line_that_is_no_operation_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(HistoryError, match=f"^line 2: .*{words}") as caught:
        list(read_lines([changed(), text]))
    assert isinstance(caught.value, ZraftError)
    assert "\n" not in str(caught.value)


def test_operations_are_shown_for_reading() -> None:
    assert str(parse_line(changed(), 7)) == 'line 7: client 3 cas "1" "2" -> true  [12.5 .. 12.9]'
    assert str(parse_line(changed(op="set", args=["v"]))) == 'client 3 set "v"  [12.5 .. 12.9]'
    lost = parse_line(changed(op="get", args=[], outcome="unknown", ret=None), 1)
    assert str(lost) == "line 1: client 3 get (unknown)  [12.5 .. ]"
