"""What a run found, as lines for a reader and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zraft.bench import cpu
from zraft.bench.histogram import Histogram
from zraft.bench.run import DISTURBED, LEADER, Measured, Workload
from zraft.chaos.statistics import Second

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def shown_us(duration_us: float) -> str:
    """A duration with three digits."""
    if duration_us < 999.5:
        return f"{duration_us:.0f} us"
    unit, value = ("ms", duration_us / 1e3) if duration_us < 999_500 else ("s", duration_us / 1e6)
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f} {unit}"


def align_right(lines: Sequence[Sequence[str]]) -> list[str]:
    """Pad cells so that columns stand below one another: the first to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def about(workload: Workload) -> str:
    """What was asked for, in one line."""
    loop = f"{workload.rate:g} a second (open loop)" if workload.rate else f"{workload.in_flight} in flight"
    clients = f"{workload.clients} client{'s' * (workload.clients > 1)}"
    reads = f", {1 - workload.put_share:.0%} gets" if 0 < workload.put_share < 1 else ""
    return (
        f"{workload.name}{reads}: {loop}, {clients}; {workload.keys:,} keys of 16 bytes, values of "
        f"{workload.value_bytes} bytes; {workload.duration_s:g} s after {workload.warm_up_s:g} s of warm-up"
    )


def kinds(measured: Measured) -> dict[str, Histogram]:
    """Kind of operation -> latencies, of those that the workload has."""
    return {kind: histogram for kind, histogram in measured.outcome.latencies.items() if histogram.count}


def latency_lines(measured: Measured) -> list[str]:
    """Throughput, and the latencies by kind of operation."""
    found = kinds(measured)
    rows = [["", "ops/s", *QUANTILES, "max"]]
    total = sum(histogram.count for histogram in found.values())
    for kind, histogram in found.items():
        per_s = measured.ops_per_s * histogram.count / total
        cells = [shown_us(histogram.quantile_us(share)) for share in QUANTILES.values()]
        rows.append([kind, f"{per_s:,.0f}", *cells, shown_us(histogram.max_us)])
    if not found:
        return ["nothing was answered in the measured time"]
    return align_right(rows)


def cpu_table(measured: Measured, threads: Mapping[str, str]) -> list[list[str]]:
    """CPU seconds per 1,000 operations: a row for each thread, a column for each node, then the clients.

    threads: what threads are called -> the actors in them."""
    thousands = measured.outcome.completed / 1000
    if not thousands or not any(measured.nodes.values()):
        return []

    def cell(seconds: float) -> str:
        return f"{seconds / thousands:.4f}"

    names = {name: None for times in measured.nodes.values() for name in times}
    sums = {name: sum(times.get(name, 0.0) for times in measured.nodes.values()) for name in names}
    rows = [["CPU s per 1,000 ops (* leads)", *measured.nodes, "all nodes"]]
    for name in sorted(names, key=lambda name: -sums[name]):
        if sums[name] / thousands >= 0.00005:
            label = "supervisor" if name == cpu.MAIN else threads.get(name, name)
            cells = [cell(times.get(name, 0.0)) for times in measured.nodes.values()]
            rows.append([label, *cells, cell(sums[name])])
    by_node = [sum(times.values()) for times in measured.nodes.values()]
    rows.append(["all threads", *map(cell, by_node), cell(sum(by_node))])
    for number, seconds in enumerate(measured.clients, 1):
        rows.append([f"client {number}", *[""] * len(measured.nodes), cell(seconds)])
    return rows


def remarks(measured: Measured) -> list[str]:
    """What a reader of the figures must know."""
    lines = [f"client-bound: {text}" for text in measured.client_bound()]
    if measured.disturbance() >= DISTURBED:
        lines.append(
            f"disturbed: other programs used {measured.disturbance():.2f} cores meanwhile; a quiet machine would show "
            "other figures"
        )
    lines += [f"failed: {count:,} x {text}" for text, count in measured.outcome.errors.most_common(5)]
    return lines


def lines_of(measured: Measured, threads: Mapping[str, str]) -> list[str]:
    """The whole, for a terminal."""
    table = cpu_table(measured, threads)
    parts = [[about(measured.workload)], latency_lines(measured), align_right(table) if table else []]
    parts.append(remarks(measured))
    lines: list[str] = []
    for part in filter(None, parts):
        lines += [*([""] if lines else []), *part]
    return lines


def seconds_of(measured: Measured) -> list[Second]:
    """The measured time by the second, all kinds of operations together."""
    seconds = []
    for number in range(max(1, round(measured.workload.duration_s + 0.499))):
        all_kinds = Histogram()
        for histogram in measured.outcome.seconds.get(number, {}).values():
            all_kinds.add(histogram)
        p50, p99, longest = (
            us / 1000 for us in (all_kinds.quantile_us(0.5), all_kinds.quantile_us(0.99), all_kinds.max_us)
        )
        some = bool(all_kinds.count)
        latencies = (p50, p99, longest) if some else (None, None, None)
        seconds.append(Second(all_kinds.count, 0, 0, *latencies))
    return seconds


def as_json(measured: Measured, threads: Mapping[str, str]) -> dict[str, Any]:
    """For machines. Latencies in microseconds, CPU in seconds."""
    outcome = measured.outcome
    thousands = max(outcome.completed, 1) / 1000
    return {
        "workload": measured.workload._asdict(),
        "ops_per_s": measured.ops_per_s,
        "completed": outcome.completed,
        "errors": dict(outcome.errors),
        "latency_us": {
            kind: {
                **{name: histogram.quantile_us(share) for name, share in QUANTILES.items()},
                "max": histogram.max_us,
                "mean": histogram.mean_us(),
                "count": histogram.count,
            }
            for kind, histogram in kinds(measured).items()
        },
        "cpu_s_per_1000_ops": {
            "nodes": {
                node.rstrip(LEADER): {threads.get(name, name): seconds / thousands for name, seconds in times.items()}
                for node, times in measured.nodes.items()
            },
            "clients": [seconds / thousands for seconds in measured.clients],
        },
        "leader": next((node.rstrip(LEADER) for node in measured.nodes if node.endswith(LEADER)), None),
        "client_bound": bool(measured.client_bound()),
        "others_cores": measured.disturbance(),
        "seconds": [second._asdict() for second in seconds_of(measured)],
    }
