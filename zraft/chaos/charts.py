"""The drawings of a report, as SVG. All with time on the x-axis have it at the same place."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from html import escape

from zraft.chaos.history import Operation
from zraft.chaos.injector import Injected
from zraft.chaos.linearizability import Failure
from zraft.chaos.statistics import Second
from zraft.chaos.watch import Sample

WIDTH, LEFT, RIGHT = 1080, 64, 1070
AXIS = 22
LANE, ROW = 9, 36
PLOT = 150
LANES = {"actors": 0, "nodes": 1, "pauses": 1, "disk": 1, "partitions": 2, "delay": 2, "drop": 2}
SHOWN_OPERATIONS = 40
LEAST_OPERATIONS = 12

Scale = Callable[[float], float]


def scale(end_s: float, start_s: float = 0.0, left: int = LEFT) -> Scale:
    """From seconds to x."""
    span = max(end_s - start_s, 1e-9)
    return lambda at_s: left + (RIGHT - left) * (min(max(at_s, start_s), end_s) - start_s) / span


def timeline(faults: Sequence[Injected], nodes: Sequence[str], end_s: float) -> str:
    """A row for each node, in it a lane for deaths of actors, one for process and disk, one for links."""
    x = scale(end_s)
    parts = []
    for row, node in enumerate(nodes):
        top = row * ROW
        parts.append(_name(node, top + ROW / 2 + 2))
        parts += [_rect(LEFT, top + 4 + lane * (LANE + 1), RIGHT - LEFT, LANE, "track") for lane in range(3)]
    for fault in faults:
        start, stop = x(fault.start_s), x(end_s if fault.end_s is None else fault.end_s)
        width = max(stop - start, 2.0)
        title = f"{fault.start_s:.1f} s: {fault}"
        for node in fault.nodes:
            top = nodes.index(node) * ROW + 4 + LANES[fault.kind] * (LANE + 1)
            parts.append(_rect(start, top, width, LANE, "", f"var(--{fault.kind})", title))
    return _svg(parts, len(nodes) * ROW, end_s)


def leaders(samples: Iterable[Sample], nodes: Sequence[str], end_s: float) -> str:
    """A row for each node: when it led, in which term, and when it did not answer."""
    x = scale(end_s)
    parts = []
    by_node: dict[str, list[Sample]] = {node: [] for node in nodes}
    for sample in samples:
        by_node[sample.node].append(sample)
    for row, (node, own) in enumerate(by_node.items()):
        top = row * 26 + 4
        parts.append(_name(node, top + 13))
        parts.append(_rect(LEFT, top, RIGHT - LEFT, 18, "track"))
        for sample, end in zip(own, [*(later.at_s for later in own[1:]), end_s], strict=True):
            if sample.at_s >= end_s or sample.role not in ("leader", "away"):
                continue
            start, width = x(sample.at_s), max(x(end) - x(sample.at_s), 1.5)
            colour = "var(--leader)" if sample.role == "leader" else "var(--fail)"
            what = f"leads in term {sample.term}" if sample.role == "leader" else "does not answer"
            parts.append(_rect(start, top, width, 18, "", colour, f"{sample.at_s:.1f} s: {node} {what}"))
            if sample.role == "leader" and width > 14 + 6 * len(str(sample.term)):
                parts.append(f'<text class="inside" x="{start + 5:.1f}" y="{top + 13}">{sample.term}</text>')
    return _svg(parts, len(nodes) * 26 + 4, end_s)


def throughput(seconds: Sequence[Second], end_s: float) -> str:
    """A bar for each second: operations that ended, by outcome."""
    x = scale(end_s)
    most = _round_up(max((second.ok + second.unknown + second.fail for second in seconds), default=1))
    parts = _grid([(share * most, PLOT * (1 - share)) for share in (0, 0.5, 1)], "")
    for number, second in enumerate(seconds):
        left, width = x(number), max(x(number + 1) - x(number) - 1, 0.6)
        base = float(PLOT)
        for outcome in ("ok", "unknown", "fail"):
            height = PLOT * getattr(second, outcome) / most
            if height:
                base -= height
                parts.append(_rect(left, base, width, height, "", f"var(--{outcome})"))
    return _svg(parts, PLOT, end_s)


def latency(seconds: Sequence[Second], end_s: float) -> str:
    """Lines for the median, the 99th percentile and the longest of each second, on a logarithmic scale."""
    x = scale(end_s)
    values = [second.max_ms for second in seconds if second.max_ms]
    low, high = -1, max(1, math.ceil(math.log10(max(values, default=10.0))))

    def y(value: float) -> float:
        return PLOT * (high - max(math.log10(max(value, 1e-9)), low)) / (high - low)

    parts = _grid([(10.0**power, y(10.0**power)) for power in range(low, high + 1)], " ms")
    for field in ("max", "p99", "p50"):
        run: list[str] = []
        for number, second in enumerate([*seconds, None]):
            value = None if second is None else getattr(second, f"{field}_ms")
            if value is not None:
                run.append(f"{x(number + 0.5):.1f},{y(value):.1f}")
            elif run:
                points = " ".join(run if len(run) > 1 else run * 2)
                style = f'fill="none" stroke="var(--{field})" stroke-width="1.8" stroke-linejoin="round"'
                parts.append(f'<polyline points="{points}" {style} stroke-linecap="round"/>')
                run = []
    return _svg(parts, PLOT, end_s)


def failing_history(failure: Failure) -> str:
    """A bar for each operation from its call to its return, a row for each client; the one that fits nowhere in red.

    Where little was under way, what came before it stands there, too.
    """
    culprit = failure.operation
    window = list(failure.window)
    if len(window) < LEAST_OPERATIONS:
        window += [each for each in failure.prefix[-LEAST_OPERATIONS:] if each not in window]
    end_s = culprit.ret if culprit.ret is not None else culprit.call
    sure = [each for each in window if each.outcome == "ok" and each is not culprit]
    open_ended = [each for each in window if each.outcome == "unknown" and each is not culprit]
    shown = sorted([*sure[-SHOWN_OPERATIONS:], *open_ended[-8:], culprit], key=lambda each: each.call)
    start_s = min(each.call for each in shown if each.outcome == "ok" or each is culprit)
    margin = (end_s - start_s) * 0.03 + 1e-6
    x = scale(end_s + margin, start_s - margin, left=LEFT + 20)
    parts = []
    row = 0
    for client in sorted({str(each.client) for each in shown}, key=lambda name: (len(name), name)):
        parts.append(_name(f"client {client}" if len(client) < 4 else client, row * 20 + 15))
        for each in (each for each in shown if str(each.client) == client):
            left = x(each.call)
            right = x(end_s + margin if each.ret is None or each.outcome == "unknown" else each.ret)
            colour = "var(--bad)" if each is culprit else f"var(--{each.outcome})"
            parts.append(_rect(left, row * 20 + 4, max(right - left, 2.5), 14, "", colour, str(each)))
            label = escape(_label(each))
            place = f'x="{right + 5:.1f}"' if right < 700 else f'x="{left - 5:.1f}" text-anchor="end"'
            parts.append(f'<text {place} y="{row * 20 + 15}">{label}</text>')
            row += 1
    height = row * 20 + 6
    parts += _times(x, start_s, end_s, height)
    return f'<svg viewBox="0 0 {WIDTH} {height + AXIS}" role="img">{"".join(parts)}</svg>'


def _label(operation: Operation) -> str:
    words = f"{operation.op} {' '.join(str(argument) for argument in operation.args)}".strip()
    if operation.outcome == "unknown":
        return f"{words} ?"
    return words if operation.op == "set" else f"{words} → {operation.result}"


# --- parts


def _svg(parts: Iterable[str], height: float, end_s: float) -> str:
    axis = "".join(_times(scale(end_s), 0.0, end_s, height))
    size = f'viewBox="0 0 {WIDTH} {height + AXIS:.0f}"'
    return f'<svg {size} data-left="{LEFT}" data-right="{RIGHT}" role="img">{"".join(parts)}{axis}</svg>'


def _times(x: Scale, start_s: float, end_s: float, height: float) -> list[str]:
    step = _step(end_s - start_s)
    digits = max(0, -math.floor(math.log10(step)))
    first = math.ceil(start_s / step)
    times = [number * step for number in range(first, int(end_s / step) + 1)]
    return [
        f'<text x="{x(at_s):.1f}" y="{height + 16:.0f}" text-anchor="middle">{at_s:.{digits}f} s</text>'
        for at_s in times
    ]


def _step(span: float) -> float:
    """A round number of seconds, of which about ten fit."""
    raw = max(span, 1e-6) / 10
    power = 10.0 ** math.floor(math.log10(raw))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)


def _round_up(most: int) -> int:
    power = 10 ** max(0, len(str(max(most, 1))) - 1)
    return next(power * factor // 2 for factor in (2, 3, 4, 6, 8, 10, 15, 20) if power * factor // 2 >= most)


def _grid(lines: Iterable[tuple[float, float]], unit: str) -> list[str]:
    return [
        f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}{unit}</text>'
        for value, y in lines
    ]


def _name(name: str, y: float) -> str:
    return f'<text class="name" x="0" y="{y:.0f}">{escape(name)}</text>'


def _rect(x: float, y: float, width: float, height: float, name: str, colour: str = "", title: str = "") -> str:
    style = f'class="{name}"' if name else f'fill="{colour}"'
    inner = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect {style} x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5">{inner}</rect>'
