"""Medians over rounds as a table in Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from machine import QUIET_CORES

BASE = "etcd"
HEAD = ["store", "op", "in flight", "ops/s", "min-max", f"x {BASE}", "p50 ms", "p99 ms", "p99.9 ms",
        "CPU s/1,000: nodes", "client", "quiet rounds"]  # fmt: skip
CellKey = tuple[str, str, int]


def is_clean(cell: Mapping[str, Any]) -> bool:
    """Whether others left the machine to it."""
    return bool(cell["others_cores"] < QUIET_CORES)


def render(documents: Sequence[Mapping[str, Any]]) -> str:
    """All rounds of these documents together. Disturbed cells count only where there are no others."""
    rounds = [each for document in documents for each in document["rounds"]]
    cells: dict[CellKey, list[Mapping[str, Any]]] = {}
    for cell in (cell for each in rounds for cell in each["cells"]):
        cells.setdefault((cell["peer"], cell["operation"], cell["in_flight"]), []).append(cell)
    used = {key: [cell for cell in found if is_clean(cell)] or found for key, found in cells.items()}
    rows = [_row(key, used[key], found, used.get((BASE, *key[1:]))) for key, found in cells.items()]
    parts = [_heading(documents[-1]), _markdown(HEAD, rows), _yardsticks(rounds), _memory(rounds)]
    errors = sorted({error for each in rounds for error in each["errors"]})
    return "\n\n".join(filter(None, [*parts, *errors]))


def _row(key: CellKey, used: Sequence[Mapping[str, Any]], found: Sequence[Any], base: Any) -> list[str]:
    rates = [cell["ops_per_s"] for cell in used]
    rate = statistics.median(rates)
    ratio = f"{rate / statistics.median(cell['ops_per_s'] for cell in base):.2f}" if base else ""
    return [
        *map(str, key),
        f"{rate:,.0f}",
        f"{min(rates):,.0f}-{max(rates):,.0f}",
        ratio,
        *(_median(used, field, 1000) for field in ("p50_us", "p99_us", "p999_us")),
        *(_median(used, field, 1, 3) for field in ("nodes_cpu_s_per_1000", "client_cpu_s_per_1000")),
        f"{sum(map(is_clean, found))}/{len(found)}",
    ]


def _median(cells: Iterable[Mapping[str, Any]], field: str, unit: float, digits: int = 2) -> str:
    values = [cell[field] for cell in cells if cell[field] is not None]
    return f"{statistics.median(values) / unit:.{digits}f}" if values else ""


def _heading(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    lines = [
        f"{document['date']}: {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux "
        f"{machine['kernel']}; Python {machine['python']}, pyzmq {machine['pyzmq']}, libzmq {machine['libzmq']}"
    ]
    if document.get("keys"):
        lines[0] += f"; {document['keys']:,} keys"
    lines += [f"- {name}: {peer['version']}; {peer['about']}" for name, peer in document["peers"].items()]
    return "\n".join(lines)


def _yardsticks(rounds: Sequence[Mapping[str, Any]]) -> str:
    names = dict.fromkeys(name for each in rounds for name in each["yardsticks"])
    rows = [[name, f"{statistics.median(each['yardsticks'][name] for each in rounds):,.0f}"] for name in names]
    return _markdown(["yardstick", "median"], rows)


def _memory(rounds: Sequence[Mapping[str, Any]]) -> str:
    peers = dict.fromkeys(peer for each in rounds for peer in each["memory"])
    rows = []
    for peer in peers:
        found = [each["memory"][peer] for each in rounds if peer in each["memory"]]
        rows.append([peer, *(f"{statistics.median(one[k] for one in found):.0f}" for k in ("empty_mib", "loaded_mib"))])
    return _markdown(["MiB of a node", "empty", "after all loads"], rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [head, ["-" * width for width in widths], *rows]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in padded)
