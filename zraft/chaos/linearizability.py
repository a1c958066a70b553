"""Is a history of a key-value store linearizable? And if not, what cannot have happened.

Linearizable: every operation can be given one moment between its call and its return (one of unknown outcome: any
moment after its call, or none) so that, executed in that order, all give the results that they gave. Keys are
independent of each other, so each is searched alone (Herlihy and Wing 1990, theorem 1: locality). A key begins absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from zraft.chaos.history import Operation, Value
from zraft.chaos.moves import UNASKED
from zraft.chaos.search import DeadEnd, KeySearch, LimitReached

# Longer lists than this explain nothing to a reader; the whole is in `Failure`.
_SHOWN_OPERATIONS = 20


class Verdict(Enum):
    """What the checker found out. NONE: the limit of time or of memory was reached first."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    NONE = "no verdict"


@dataclass(frozen=True)
class Failure:
    """Why a key's history is not linearizable.

    - `operation`: the one that fits nowhere: all that returned before it can be explained, with it nothing can;
    - `prefix`: the shortest failing history: all operations of the key that were called before `operation` returned;
    - `since`, `values`: at that time (None: the start) nothing was under way, and the value can have been any of these;
    - `window`: the part of `prefix` that was called after `since`, or is of unknown outcome;
    - `order`: one order of operations since then that explains all of them which had returned before `operation` did.
    """

    operation: Operation
    prefix: tuple[Operation, ...]
    since: float | None
    values: tuple[Value, ...]
    window: tuple[Operation, ...]
    order: tuple[Operation, ...]


@dataclass(frozen=True)
class Report:
    """The verdict on a whole history. `reason` says why there is none; `failure` is there if it is not linearizable."""

    verdict: Verdict
    operations: int
    keys: int
    reason: str = ""
    failure: Failure | None = None


def check(operations: Iterable[Operation], clock: Callable[[], float], limit_s: float) -> Report:
    """Search every key's history, the shortest ones first, until one fails or all are explained.

    `clock` gives seconds, monotonic; after `limit_s` of them the search ends without a verdict. Each key has an equal
    share of what is left of them, so that one that is hard to search hides no failure of another.
    """
    by_key: dict[str, list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    count = sum(map(len, by_key.values()))
    end_s = clock() + limit_s
    unsettled: list[str] = []
    for place, key in enumerate(sorted(by_key, key=lambda key: (len(by_key[key]), key))):
        now_s = clock()
        share_s = (end_s - now_s) / (len(by_key) - place)
        try:
            dead_end = KeySearch(by_key[key], clock, now_s + share_s).run()
        except LimitReached as limit:
            unsettled.append(f"key {key!r}: {limit}")
            continue
        if dead_end is not None:
            return Report(Verdict.NOT_LINEARIZABLE, count, len(by_key), failure=_failure(by_key[key], dead_end))
    if unsettled:
        more = f" (and {len(unsettled) - 1} more keys)" if len(unsettled) > 1 else ""
        return Report(Verdict.NONE, count, len(by_key), reason=unsettled[0] + more)
    return Report(Verdict.LINEARIZABLE, count, len(by_key))


def explain(report: Report) -> list[str]:
    """The report in lines for a reader; the first one is the verdict."""
    lines = [f"{report.verdict.value}: {report.operations} operations on {report.keys} keys"]
    if report.reason:
        lines.append(report.reason)
    failure = report.failure
    if failure is None:
        return lines
    values = " or ".join(map(_shown, failure.values))
    lines += [
        f"key {failure.operation.key!r}: no order of its operations explains this one:",
        f"  {failure.operation}",
        f"without it, and what returned later, there is one; the shortest failing part has {len(failure.prefix)} "
        f"of the key's operations",
        f"at the start the value was {values}" if failure.since is None
        else f"at {failure.since:.6g} nothing of known outcome was under way, and the value was {values}",
        "called since then, or of unknown outcome:",
        *_listed(failure.window),
        "an order that explains all that had returned before:",
        *_listed(failure.order),
    ]  # fmt: skip
    return lines


def _listed(operations: tuple[Operation, ...]) -> list[str]:
    if not operations:
        return ["  none"]
    left_out = len(operations) - _SHOWN_OPERATIONS
    head = [f"  ({left_out} earlier ones are not shown)"] if left_out > 0 else []
    return head + [f"  {operation}" for operation in operations[-_SHOWN_OPERATIONS:]]


def _shown(value: Value) -> str:
    if value == UNASKED:
        return "one that no operation asks for"
    return "absent" if value is None else repr(value)


def _failure(operations: list[Operation], dead_end: DeadEnd) -> Failure:
    end, since = dead_end.operation.ret, dead_end.since
    prefix = tuple(sorted((each for each in operations if end is None or each.call <= end), key=lambda each: each.call))
    window = tuple(each for each in prefix if since is None or each.call > since or each.outcome == "unknown")
    # Each step of the search ends with an operation that returned; so did the last one before `since`.
    earlier = [place for place, each in enumerate(dead_end.order) if _had_returned(each, since)]
    order = dead_end.order[earlier[-1] + 1 :] if earlier else dead_end.order
    return Failure(dead_end.operation, prefix, since, dead_end.values, window, tuple(order))


def _had_returned(operation: Operation, time_s: float | None) -> bool:
    if time_s is None or operation.ret is None or operation.outcome == "unknown":
        return False
    return operation.ret <= time_s
