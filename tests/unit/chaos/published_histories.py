"""Reads the published histories in their own formats into ours; times are line numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from zraft.chaos.history import Operation

FOLDER = Path(__file__).resolve().parents[3].parent / "shared" / "histories"

_JEPSEN = re.compile(r"INFO\s+jepsen\.util\s+-\s+(\d+)\s+:(\w+)\s+:(\w+)\s+(.*\S)\s*$")
_KV = re.compile(r'\{:process (\d+), :type :(\w+), :f :(\w+), :key "(.*?)", :value (nil|".*")\}$')


def read_jepsen(lines: Iterable[str]) -> list[Operation]:
    """Reads, writes and compare-and-sets of one register, which begins absent."""
    calls: dict[int, tuple[int, str, tuple[int, ...]]] = {}
    operations: list[Operation] = []

    def end(process: int, ret: int | None, outcome: str, result: int | bool | None = None) -> None:
        call, op, args = calls.pop(process)
        operations.append(Operation(process, op, "r", args, result, call, ret, outcome, call))

    for number, line in enumerate(lines, start=1):
        match = _JEPSEN.match(line)
        if match is None:
            continue
        process, event, op, text = int(match[1]), match[2], match[3], match[4]
        numbers = tuple(int(digits) for digits in re.findall(r"\d+", text))
        if event == "invoke":
            calls[process] = (number, {"read": "get", "write": "set", "cas": "cas"}[op], numbers)
        elif event == "info":
            end(process, None, "unknown")
        elif event == "fail" and text == ":timed-out":
            end(process, number, "fail")
        elif op == "read":
            end(process, number, "ok", numbers[0] if numbers else None)
        else:
            end(process, number, "ok", event == "ok" if op == "cas" else None)
    for process in list(calls):
        end(process, None, "unknown")
    return operations


def read_kv(lines: Iterable[str]) -> list[Operation]:
    """Gets, puts and appends; nothing puts an empty string, so that an empty key can be read as an absent one."""
    calls: dict[int, tuple[int, str]] = {}
    operations: list[Operation] = []
    for number, line in enumerate(lines, start=1):
        match = _KV.match(line)
        assert match is not None, line
        process, event, op, key, text = int(match[1]), match[2], match[3], match[4], match[5].strip('"')
        if event == "invoke":
            calls[process] = (number, text)
            continue
        call, argument = calls.pop(process)
        args = () if op == "get" else (argument,)
        result = text or None if op == "get" else None
        op = "set" if op == "put" else op
        operations.append(Operation(process, op, key, args, result, call, number, "ok", call))
    assert not calls
    return operations
