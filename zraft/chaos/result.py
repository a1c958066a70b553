"""A run and what came of it, as one value: for the verdict table, the report, and machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zraft.chaos import statistics, verdict
from zraft.chaos.history import Operation
from zraft.chaos.linearizability import Report, explain
from zraft.chaos.runner import SERVE_SECONDS, Plan, Seen
from zraft.chaos.verdict import Holds, Row

FULL_SECONDS = 60.0
"""A run that is shorter than this need not come to every actor of every node often enough."""


@dataclass(frozen=True)
class Result:
    """All that is known of a run."""

    plan: Plan
    nodes: tuple[str, ...]
    seen: Seen
    check: Report
    rows: tuple[Row, ...]

    @property
    def holds(self) -> Holds:
        """The verdict on the whole."""
        return verdict.overall(self.rows)

    @property
    def operations(self) -> list[Operation]:
        """The history."""
        return self.seen.recorder.operations

    @property
    def gap(self) -> statistics.Gap:
        """The longest time without an acknowledged write, while there were faults."""
        return statistics.longest_write_gap(self.operations, 0.0, self.seen.healed_s)

    @property
    def fault_counts(self) -> dict[str, dict[str, int]]:
        """How often each fault came, by kind and variant; of actors, how often each was told to die."""
        counts: dict[str, Counter[str]] = {kind: Counter() for kind in self.plan.kinds}
        for fault in self.seen.injected:
            counts[fault.kind][fault.what] += 1
        return {kind: dict(sorted(variants.items())) for kind, variants in counts.items()}

    @property
    def explanation(self) -> list[str]:
        """Why the history is not linearizable, in lines; empty if it is."""
        return explain(self.check) if self.check.failure is not None else []

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        outcomes = Counter(operation.outcome for operation in self.operations)
        return {
            "verdict": self.holds.value,
            "rows": [{"name": row.name, "holds": row.holds.value, "detail": row.detail} for row in self.rows],
            "plan": {**self.plan._asdict(), "nodes": len(self.nodes)},
            "operations": len(self.operations),
            "outcomes": {outcome: outcomes[outcome] for outcome in ("ok", "unknown", "fail")},
            "operations_by_outcome": statistics.by_outcome(self.operations),
            "faults": self.fault_counts,
            "actor_deaths": self.seen.deaths,
            "longest_write_gap_s": round(self.gap.seconds, 3),
            "served_after_s": self.seen.served_after_s,
            "timeline": [asdict(fault) for fault in self.seen.injected],
            "roles": [sample._asdict() for sample in self.seen.samples],
            "seconds": [second._asdict() for second in statistics.by_second(self.operations, self.seen.healed_s)],
            "explanation": self.explanation,
        }


def make_result(plan: Plan, actors: Sequence[str], seen: Seen, check: Report, complaints: Sequence[str]) -> Result:
    """The verdict on what was seen."""
    operations = seen.recorder.operations
    once = verdict.exactly_once(operations, seen.tallies, seen.counters, seen.revision)
    if not seen.was_read:
        once = Row(once.name, Holds.UNKNOWN, "the last read of all keys was not answered")
    kills = []
    if "actors" in plan.kinds and plan.duration_s >= FULL_SECONDS:
        kills = [deaths.get(actor, 0) for deaths in seen.deaths.values() for actor in actors]
    counts = Counter(fault.kind for fault in seen.injected)
    rows = (
        verdict.linearizable(check),
        once,
        verdict.equal_states(seen.hashes, seen.ends),
        verdict.serves_again(seen.served_after_s, SERVE_SECONDS),
        verdict.no_complaints(complaints),
        verdict.faults_happened(plan.kinds, {kind: counts[kind] for kind in plan.kinds}, kills),
    )
    return Result(plan, tuple(sorted(seen.deaths)), seen, check, rows)
