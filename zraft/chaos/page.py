"""What every HTML report has: one file that needs nothing else, no network, no other file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
"""So that a browser fetches nothing even if a mistake in the report asked it to."""


def page(title: str, body: Iterable[str], data: Mapping[str, Any]) -> str:
    """The whole file. body: parts that are HTML; empty ones are left out. data: what the cursor through the charts
    shows (`seconds`, `timeline`, `end_s`), and whatever else a reader of the file may want."""
    # What could end the script element early is written as an escape that JSON knows.
    embedded = json.dumps(data).replace("<", "\\u003c")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n"
        f"<style>\n{_resource('report.css')}</style>\n</head>\n"
        f'<body>\n<main>\n{chr(10).join(part for part in body if part)}\n</main>\n<div id="tip"></div>\n'
        f'<script type="application/json" id="data">{embedded}</script>\n'
        f"<script>\n{_resource('report.js')}</script>\n</body>\n</html>\n"
    )


def _resource(name: str) -> str:
    return files("zraft.chaos").joinpath(name).read_text(encoding="utf-8")


def section(name: str, title: str, about: str, *parts: str) -> str:
    """A card. name: its id; parts: HTML."""
    words = f"<p>{escape(about)}</p>" if about else ""
    return f'<section id="{name}"><h2>{title}</h2>{words}{"".join(parts)}</section>'


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Large figures, each with what it is."""
    return '<div class="tiles">' + "".join(
        f'<div class="tile"><b>{escape(number)}</b><span>{escape(what)}</span></div>' for number, what in figures
    ) + "</div>"  # fmt: skip


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """What colours mean: (variable of the style sheet, words)."""
    items = [f'<span><i style="background:var(--{colour})"></i>{escape(name)}</span>' for colour, name in entries]
    return f'<div class="legend">{"".join(items)}</div>'
