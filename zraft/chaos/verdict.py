"""What must hold at the end of a run, each as one row: it does, it does not, or nobody can tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from zraft.chaos.history import Operation
from zraft.chaos.linearizability import Report, Verdict
from zraft.chaos.schedule import LEAST_KILLS


class Holds(Enum):
    """Of a row, and of all."""

    YES = "holds"
    NO = "violated"
    UNKNOWN = "no verdict"


class Row(NamedTuple):
    """One thing that must hold, whether it does, and the figures that tell."""

    name: str
    holds: Holds
    detail: str


class Final(NamedTuple):
    """A key at the end of a run: its value, and how often it was written since its creation. Absent: None, 0."""

    value: str | None
    version: int


def overall(rows: Iterable[Row]) -> Holds:
    """One violation decides; else one row that nobody can tell."""
    found = {row.holds for row in rows}
    return next((holds for holds in (Holds.NO, Holds.UNKNOWN) if holds in found), Holds.YES)


def linearizable(report: Report) -> Row:
    """The checker's verdict on the history, in which the last reads of all keys stand, too."""
    holds = {Verdict.LINEARIZABLE: Holds.YES, Verdict.NOT_LINEARIZABLE: Holds.NO, Verdict.NONE: Holds.UNKNOWN}
    detail = f"{report.operations:,} operations on {report.keys} keys"
    if report.failure is not None:
        detail = f"key {report.failure.operation.key!r}: {report.failure.operation}"
    return Row("linearizable", holds[report.verdict], report.reason or detail)


def exactly_once(
    operations: Sequence[Operation],
    tallies: Mapping[str, Final],
    counters: Mapping[str, Final],
    revision: int | None,
) -> Row:
    """What was acknowledged was applied once, what is unknown at most once, and nothing else.

    tallies: keys that are only ever set: their version is the number of sets. counters: keys whose value is the number
    of successful cas. revision: of the store, which each change raises by one; None: others write, too.
    """
    wrong: list[str] = []
    counted = 0
    for key, final in tallies.items():
        sure, perhaps = _changes(operation for operation in operations if operation.key == key)
        counted += sure
        wrong += _outside(f"{key!r} was written", final.version, sure, perhaps)
    for key, final in counters.items():
        sure, perhaps = _changes(operation for operation in operations if operation.key == key)
        counted += sure
        wrong += _outside(f"{key!r} counts", int(final.value or "0"), sure, perhaps)
    detail = f"{counted:,} increments counted"
    if revision is not None:
        sure, perhaps = _changes(operations)
        wrong += _outside("the store's revision is", revision, sure, perhaps)
        detail += f"; revision {revision:,}, {sure:,} changes acknowledged and {perhaps:,} of unknown outcome"
    return Row("exactly once", Holds.NO if wrong else Holds.YES, "; ".join(wrong) or detail)


def _changes(operations: Iterable[Operation]) -> tuple[int, int]:
    """How many changes were acknowledged, and how many may have been made besides."""
    sure = perhaps = 0
    for operation in operations:
        if operation.op == "get":
            continue
        if operation.outcome == "unknown":
            perhaps += 1
        elif operation.outcome == "ok" and operation.result is not False:
            sure += 1
    return sure, perhaps


def _outside(what: str, number: int, sure: int, perhaps: int) -> list[str]:
    if sure <= number <= sure + perhaps:
        return []
    return [f"{what} {number}, of {sure} acknowledged and {perhaps} of unknown outcome"]


def equal_states(hashes: Mapping[str, Mapping[int, str]], ends: Mapping[str, int | None]) -> Row:
    """All nodes that applied the same hold the same.

    hashes: of each node's state, by the index applied last, whenever somebody looked. ends: where each came to in the
    end; None: it did not come to where the others are.
    """
    compared = 0
    first: dict[int, tuple[str, str]] = {}
    for node, seen in hashes.items():
        for index, state in seen.items():
            other, expected = first.setdefault(index, (node, state))
            compared += other != node
            if state != expected:
                detail = f"after entry {index}, {other} has {expected} and {node} has {state}"
                return Row("equal states", Holds.NO, detail)
    late = [node for node, end in ends.items() if end is None]
    if late:
        return Row("equal states", Holds.NO, f"not caught up in time: {', '.join(late)}")
    detail = f"{len(ends)} nodes at entry {max(filter(None, ends.values()), default=0):,}; {compared:,} comparisons"
    return Row("equal states", Holds.YES, detail)


def serves_again(after_s: float | None, limit_s: float) -> Row:
    """A write is acknowledged after the faults have ended. after_s: how soon; None: not within `limit_s`."""
    if after_s is None:
        return Row("serves again", Holds.NO, f"no write was acknowledged within {limit_s:g} s after the faults")
    return Row("serves again", Holds.YES, f"{after_s * 1000:.0f} ms after the faults")


def no_complaints(complaints: Sequence[str]) -> Row:
    """No node ended by itself or met a bug."""
    if complaints:
        more = f" (and {len(complaints) - 1} more)" if len(complaints) > 1 else ""
        return Row("no bug met", Holds.NO, complaints[0] + more)
    return Row("no bug met", Holds.YES, "no node ended by itself, no traceback in a log")


def faults_happened(wanted: Iterable[str], counts: Mapping[str, int], kills: Sequence[int]) -> Row:
    """A run without the faults that it was to have says nothing.

    counts: by kind. kills: how often each actor of each node died; empty where they need not all have died.
    """
    missing = [kind for kind in wanted if not counts.get(kind)]
    if missing:
        return Row("faults took effect", Holds.UNKNOWN, f"there was none: {', '.join(missing)}")
    detail = ", ".join(f"{kind} {count}" for kind, count in counts.items())
    if kills:
        detail += f"; each actor of each node died {min(kills)} times or more"
    enough = min(kills, default=LEAST_KILLS) >= LEAST_KILLS
    return Row("faults took effect", Holds.YES if enough else Holds.UNKNOWN, detail)
