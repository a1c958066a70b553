"""Histories: what concurrent clients called and what came back, one JSON object a line (times in seconds).

    {"client":3,"op":"cas","key":"a","args":["1","2"],"result":true,"call":12.5,"ret":12.9,"outcome":"ok"}

| op     | args            | result                                                        |
| ------ | --------------- | ------------------------------------------------------------- |
| get    |                 | the value; null: the key was absent                           |
| set    | value           | ignored                                                       |
| delete |                 | true: the key was there                                       |
| cas    | expected, new   | true: swapped; an expected null means that the key is absent  |
| append | suffix          | the new whole value; null: not known. Absent counts as empty  |

Outcomes: `ok`, it took effect once between `call` and `ret` and gave `result`; `unknown`, it may have taken effect at
any time after `call`, or never; `fail`, it surely had no effect. Fields that are not named here are ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from zraft.errors import ZraftError

Value = str | int | None

ARGUMENTS = {"get": (), "set": ("value",), "delete": (), "cas": ("expected", "new"), "append": ("suffix",)}
OUTCOMES = ("ok", "unknown", "fail")


class HistoryError(ZraftError):
    """A line that is no operation. `str()` names the line, what is wrong with it, and what was expected."""


@dataclass(frozen=True)
class Operation:
    """One call of one client and what became of it.

    `call`, `ret`: seconds on one clock for the whole history; `ret` is None where no answer came.
    `line`: where it stands in its file, counted from 1; 0: nowhere.
    """

    client: int | str
    op: str
    key: str
    args: tuple[Value, ...]
    result: Value | bool
    call: float
    ret: float | None
    outcome: str
    line: int = 0

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        args = "".join(f" {json.dumps(argument, ensure_ascii=False)}" for argument in self.args)
        returned = "" if self.ret is None else f"{self.ret:.6g}"
        if self.outcome == "ok":
            answer = "" if self.op == "set" else f" -> {json.dumps(self.result, ensure_ascii=False)}"
        else:
            answer = f" ({self.outcome})"
        return f"{where}client {self.client} {self.op}{args}{answer}  [{self.call:.6g} .. {returned}]"


def to_line(operation: Operation) -> str:
    """The operation as one line of a history, without the newline."""
    fields = {
        "client": operation.client,
        "op": operation.op,
        "key": operation.key,
        "args": list(operation.args),
        "result": operation.result,
        "call": operation.call,
        "ret": operation.ret,
        "outcome": operation.outcome,
    }
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"))


def read_lines(lines: Iterable[str]) -> Iterator[Operation]:
    """The operations of a history, in the order of its lines; empty lines are passed over. Raises `HistoryError`."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield parse_line(line, number)


def parse_line(line: str, number: int = 0) -> Operation:
    """One operation from one line, checked in all its fields. Raises `HistoryError`, which names line `number`."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise HistoryError(f"line {number}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise HistoryError(f"line {number}: expected a JSON object, not {line.strip()[:40]}")
    try:
        return _operation(fields, number)
    except ValueError as error:
        raise HistoryError(f"line {number}: {error}") from error


def _operation(fields: dict[str, Any], line: int) -> Operation:
    op, outcome = fields.get("op"), fields.get("outcome")
    if not isinstance(op, str) or op not in ARGUMENTS:
        raise ValueError(f"op must be one of {', '.join(ARGUMENTS)}, not {op!r}")
    if outcome not in OUTCOMES:
        raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, not {outcome!r}")
    client, key = fields.get("client"), fields.get("key")
    if not isinstance(client, int | str):
        raise ValueError(f"client must be a number or a string, not {client!r}")
    if not isinstance(key, str):
        raise ValueError(f"key must be a string, not {key!r}")
    call, ret = _seconds(fields, "call"), _seconds(fields, "ret")
    if call is None or (outcome == "ok" and ret is None):
        raise ValueError("call must be a time in seconds, and so must ret where the outcome is ok")
    if ret is not None and ret < call:
        raise ValueError(f"returned at {ret}, before its call at {call}")
    args = _arguments(op, fields.get("args", []))
    result = _result(op, fields.get("result")) if outcome == "ok" else None
    return Operation(client, op, key, args, result, call, ret, outcome, line)


def _seconds(fields: dict[str, Any], name: str) -> float | None:
    seconds = fields.get(name)
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not math.isfinite(seconds):
        raise ValueError(f"{name} must be a time in seconds, not {seconds!r}")
    return seconds


def _arguments(op: str, args: object) -> tuple[Value, ...]:
    expected = ARGUMENTS[op]
    if not isinstance(args, list) or len(args) != len(expected):
        raise ValueError(f"args of {op} must be an array of {len(expected)} ({', '.join(expected) or 'none'})")
    for name, argument in zip(expected, args, strict=True):
        if op == "append" and not isinstance(argument, str):
            raise ValueError(f"{name} of {op} must be a string, not {argument!r}")
        if not _is_value(argument) or (argument is None and name != "expected"):
            raise ValueError(f"{name} of {op} must be a string or a whole number, not {argument!r}")
    return tuple(args)


def _result(op: str, result: object) -> Any:
    if op == "set":
        return None
    if op in ("delete", "cas"):
        if not isinstance(result, bool):
            raise ValueError(f"result of {op} must be true or false, not {result!r}")
    elif op == "append":
        if result is not None and not isinstance(result, str):
            raise ValueError(f"result of append must be a string or null, not {result!r}")
    elif not _is_value(result):
        raise ValueError(f"result of {op} must be a string, a whole number or null, not {result!r}")
    return result


def _is_value(value: object) -> bool:
    # Neither true and false nor fractions: 1, 1.0 and true are equal to Python, and no client meant them to be.
    return value is None or (isinstance(value, str | int) and not isinstance(value, bool))
