"""What a history says in figures: throughput and latency by the second, outcomes, the longest time without a write."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from zraft.chaos.history import OUTCOMES, Operation


class Second(NamedTuple):
    """One second of a run: operations that ended by outcome, and how long those took that succeeded, in ms."""

    ok: int
    unknown: int
    fail: int
    p50_ms: float | None
    p99_ms: float | None
    max_ms: float | None


class Gap(NamedTuple):
    """The longest time in which no write was acknowledged."""

    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it was."""
        return self.end_s - self.start_s


def by_second(operations: Iterable[Operation], duration_s: float) -> list[Second]:
    """One for each second of the run. Where no answer came, an operation counts at its call."""
    count = max(1, int(duration_s) + (duration_s > int(duration_s)))
    outcomes: list[Counter[str]] = [Counter() for _ in range(count)]
    latencies: list[list[float]] = [[] for _ in range(count)]
    for operation in operations:
        end_s = operation.call if operation.ret is None else operation.ret
        second = min(int(end_s), count - 1)
        outcomes[second][operation.outcome] += 1
        if operation.outcome == "ok" and operation.ret is not None:
            latencies[second].append((operation.ret - operation.call) * 1000)
    seconds = []
    for counts, latency in zip(outcomes, latencies, strict=True):
        latency.sort()
        three = (_at(latency, 0.5), _at(latency, 0.99), latency[-1]) if latency else (None, None, None)
        seconds.append(Second(counts["ok"], counts["unknown"], counts["fail"], *three))
    return seconds


def _at(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def by_outcome(operations: Iterable[Operation]) -> dict[str, dict[str, int]]:
    """Numbers by operation and outcome."""
    table: dict[str, dict[str, int]] = {}
    for operation in operations:
        table.setdefault(operation.op, dict.fromkeys(OUTCOMES, 0))[operation.outcome] += 1
    return dict(sorted(table.items()))


def longest_write_gap(operations: Iterable[Operation], start_s: float, end_s: float) -> Gap:
    """Between `start_s` and `end_s`, over all clients together."""
    times = sorted(
        operation.ret
        for operation in operations
        if operation.ret is not None and operation.outcome == "ok" and is_write(operation)
        if start_s <= operation.ret <= end_s
    )
    edges = [start_s, *times, end_s]
    gaps = [Gap(before, after) for before, after in zip(edges, edges[1:], strict=False)]
    return max(gaps, key=lambda gap: gap.seconds)


def is_write(operation: Operation) -> bool:
    """Whether it went through the log."""
    return operation.op != "get"
