"""A run as one HTML file that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections import Counter
from html import escape

from zraft.chaos import charts, statistics
from zraft.chaos.page import legend, page, section, tiles
from zraft.chaos.result import Result
from zraft.chaos.verdict import Holds

CLASSES = {Holds.YES: "holds", Holds.NO: "violated", Holds.UNKNOWN: "open"}
WORDS = {Holds.YES: "All holds", Holds.NO: "Violated", Holds.UNKNOWN: "No verdict"}


def render(result: Result) -> str:
    """The whole file."""
    end_s = max(result.seen.healed_s, 1.0)
    seconds = statistics.by_second((operation for operation in result.operations if operation.call < end_s), end_s)
    kinds = [kind for kind in charts.LANES if kind in result.plan.kinds]
    nodes = result.nodes
    body = [
        _header(result),
        _tiles(result),
        _verdict(result),
        _failing(result),
        section("timeline", "Faults", "By node: deaths of actors, then process and disk, then links.",
                 legend((kind, kind) for kind in kinds), charts.timeline(result.seen.injected, nodes, end_s)),
        section("leaders", "Leaders", "Who led, in which term; grey where a node did not answer.",
                 charts.leaders(result.seen.samples, nodes, end_s)),
        section("throughput", "Throughput", "Operations that ended in each second.",
                 legend([("ok", "ok"), ("unknown", "outcome unknown"), ("fail", "surely not applied")]),
                 charts.throughput(seconds, end_s)),
        section("latency", "Latency", "Of operations that succeeded, by second; logarithmic.",
                 legend([("p50", "median"), ("p99", "99 %"), ("max", "longest")]), charts.latency(seconds, end_s)),
        f'<div class="pair">{_operations(result)}{_faults(result)}</div>',
        _again(result),
    ]  # fmt: skip
    return page(f"zraft-chaos: {WORDS[result.holds]}", body, {**result.as_json(), "end_s": end_s})


def _header(result: Result) -> str:
    plan = result.plan
    about = f"{len(result.nodes)} nodes, {plan.duration_s:g} s, seed {plan.seed}, faults: {', '.join(plan.kinds)}"
    badge = f'<span class="badge {CLASSES[result.holds]}">{WORDS[result.holds]}</span>'
    return f"<header><h1>zraft-chaos</h1>{badge}<p>{escape(about)}</p></header>"


def _tiles(result: Result) -> str:
    outcomes = Counter(operation.outcome for operation in result.operations)
    gap = result.gap
    return tiles([
        (f"{len(result.operations):,}", "operations"),
        (f"{outcomes['ok'] / max(result.seen.healed_s, 1.0):,.0f}/s", "succeeded"),
        (f"{outcomes['unknown']:,}", "of unknown outcome"),
        (f"{len(result.seen.injected):,}", "faults"),
        (f"{gap.seconds:.2f} s", f"longest without a write, from {gap.start_s:.1f} s on"),
    ])  # fmt: skip


def _verdict(result: Result) -> str:
    rows = "".join(
        f'<tr><td>{escape(row.name)}</td><td class="{CLASSES[row.holds]}">{row.holds.value}</td>'
        f"<td>{escape(row.detail)}</td></tr>"
        for row in result.rows
    )
    return section("verdict", "Verdict", "", f"<table>{rows}</table>")


def _failing(result: Result) -> str:
    failure = result.check.failure
    if failure is None:
        return ""
    about = f"Key {failure.operation.key}: no order of its operations explains the red one."
    drawing = charts.failing_history(failure)
    colours = legend([("bad", "fits nowhere"), ("ok", "ok"), ("unknown", "unknown: at any later time, or never")])
    text = f"<pre>{escape(chr(10).join(result.explanation))}</pre>"
    return section("failing-history", "The failing history", about, colours, drawing, text)


def _operations(result: Result) -> str:
    head = "".join(f'<th class="number">{name}</th>' for name in ("ok", "unknown", "not applied"))
    rows = "".join(
        f"<tr><td>{op}</td>" + "".join(f'<td class="number">{count:,}</td>' for count in outcomes.values()) + "</tr>"
        for op, outcomes in statistics.by_outcome(result.operations).items()
    )
    return section("operations", "Operations", "", f"<table><tr><th></th>{head}</tr>{rows}</table>")


def _faults(result: Result) -> str:
    rows = []
    for kind, variants in result.fault_counts.items():
        listed = ", ".join(f"{what} {count}" for what, count in variants.items())
        count = f'<td class="number">{sum(variants.values())}</td>'
        rows.append(f"<tr><td>{kind}</td>{count}<td>{escape(listed)}</td></tr>")
    return section("faults", "Faults by kind", "", f"<table>{''.join(rows)}</table>")


def _again(result: Result) -> str:
    plan = result.plan
    command = (
        f"zraft-chaos run --duration {plan.duration_s:g} --seed {plan.seed} --faults {','.join(plan.kinds)} "
        f"--clients {plan.clients} --keys {plan.keys} --nodes {len(result.nodes)}"
    )
    return f'<p class="note">The same faults again: <code>{escape(command)}</code></p>'
