"""Where a write's time went, from the stages that nodes with `profile` timed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zraft.bench.histogram import Histogram
from zraft.bench.report import align_right, shown_us
from zraft.bench.run import Measured

PARALLEL = ("log", "network")
WHERE = {
    "frontend": "taken from the client, handed on",
    "to consensus": "waits for its turn",
    "consensus": "in the log in memory, handed to disk and peers",
    "log": "on this node's disk",
    "network": "there and back, on a majority's disks",
    "to applier": "committed, waits for its turn",
    "apply": "applied with its batch",
    "to frontend": "waits for its turn",
    "reply": "handed to the client",
}
CLIENT = "client, TCP"
BAR = 20

Profile = Mapping[str, Any]
"""What a node says under `profile` in its status."""


class StageTimes:
    """Between two looks at the nodes: stages, of all nodes that led together; writes of the log, by node."""

    def __init__(self, before: Mapping[str, Profile], after: Mapping[str, Profile]) -> None:
        self.stages = {name: Histogram() for name in (*WHERE, "node")}
        self.log_writes: dict[str, Histogram] = {}
        for node, profile in after.items():
            for name in self.stages:
                self.stages[name].add(_since(before, node, profile, "stages", name))
            self.log_writes[node] = _since(before, node, profile, "log_writes")

    @property
    def samples(self) -> int:
        """Writes that were timed all the way."""
        return self.stages["node"].count


def _since(before: Mapping[str, Profile], node: str, profile: Profile, *path: str) -> Histogram:
    early: Any = before.get(node)
    late: Any = profile
    for name in path:
        early, late = early and early[name], late[name]
    histogram = Histogram.from_json(late)
    return histogram.since(Histogram.from_json(early)) if early else histogram


def lines_of(times: StageTimes, measured: Measured) -> list[str]:
    """For a terminal: stages in the order of a write, with their share of the time that the client waited."""
    if not times.samples:
        return ["no write was timed: none was answered, or too few for the nodes' `profile`"]
    total = measured.outcome.latencies["put"].mean_us()
    node = times.stages["node"]
    rows = [["stage", "mean", "p50", "p99", "share", ""]]
    for name, words in WHERE.items():
        histogram = times.stages[name]
        share = histogram.mean_us() / total if total else 0.0
        label = f"{name} |" if name in PARALLEL else name
        rows.append([label, *_cells(histogram), f"{share:.0%}", f"{'#' * round(BAR * share):<{BAR}}  {words}"])
    outside = max(0.0, total - node.mean_us())
    rows.append([CLIENT, shown_us(outside), "", "", f"{outside / total:.0%}" if total else "", _bar(outside, total)])
    rows.append(["all, in the node", *_cells(node), "", ""])
    rows.append(["all, for the client", *_cells(measured.outcome.latencies["put"]), "", ""])
    lines = align_right([row[:-1] for row in rows])
    width = max(map(len, lines))
    lines = [f"{line:<{width}}  {row[-1]}".rstrip() for line, row in zip(lines, rows, strict=True)]
    writes = [["writes of the log", "mean", "p50", "p99", "count"]]
    for name, histogram in sorted(times.log_writes.items()):
        writes.append([name, *_cells(histogram), f"{histogram.count:,}"])
    return [
        *lines,
        "",
        "| at the same time: what comes next waits for both. A node's part of `network` is its write of the log:",
        "",
        *align_right(writes),
    ]


def _cells(histogram: Histogram) -> list[str]:
    return [shown_us(us) for us in (histogram.mean_us(), histogram.quantile_us(0.5), histogram.quantile_us(0.99))]


def _bar(part: float, total: float) -> str:
    return "#" * round(BAR * part / total) if total else ""


def as_json(times: StageTimes) -> dict[str, Any]:
    """For machines, in microseconds."""

    def figures(histogram: Histogram) -> dict[str, float]:
        return {
            "count": histogram.count,
            "mean": histogram.mean_us(),
            "p50": histogram.quantile_us(0.5),
            "p99": histogram.quantile_us(0.99),
            "max": histogram.max_us,
        }

    return {
        "samples": times.samples,
        "stages_us": {name: figures(histogram) for name, histogram in times.stages.items()},
        "log_writes_us": {node: figures(histogram) for node, histogram in times.log_writes.items()},
    }
