"""How answers look: tables for people, tab-separated lines for programs, JSON for both."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from zraft.client.requests import KeyValue

STATUS_COLUMNS = {
    "NODE": "node",
    "ROLE": "role",
    "TERM": "term",
    "LEADER": "leader",
    "COMMIT": "commit_index",
    "APPLIED": "last_applied",
    "LAST": "last_index",
    "REVISION": "revision",
    "STATE": "state_hash",
    "PID": "pid",
}


def print_json(value: object) -> None:
    """Print `value` as one line of JSON."""
    click.echo(json.dumps(value, ensure_ascii=False))


def json_bytes(data: bytes) -> str | dict[str, str]:
    """Bytes as JSON: the text if they are UTF-8, else ``{"base64": "..."}``."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode("ascii")}


def json_entry(entry: KeyValue) -> dict[str, object]:
    """A key with its value and revisions as a JSON object."""
    return {
        "key": json_bytes(entry.key),
        "value": json_bytes(entry.value),
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
    }


def printable(data: bytes) -> str:
    """`data` as text that does no harm to a terminal or a table: what cannot be printed is escaped."""
    text = data.decode("utf-8", "backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their column names: aligned on a terminal, else with one tab between cells."""
    lines = [tuple(columns), *(tuple(row) for row in rows)]
    for line in align(lines) if sys.stdout.isatty() else map("\t".join, lines):
        click.echo(line)


def align(lines: Sequence[Sequence[str]]) -> list[str]:
    """Pad cells so that columns stand below one another."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def print_entries(entries: Sequence[KeyValue]) -> None:
    """Print keys and values: a table with revisions on a terminal, else the raw bytes as KEY, tab, VALUE, newline."""
    if not sys.stdout.isatty():
        for entry in entries:
            click.echo(entry.key + b"\t" + entry.value)
        return
    rows = [
        (printable(entry.key), printable(entry.value), str(entry.mod_revision), str(entry.version)) for entry in entries
    ]
    print_table(("KEY", "VALUE", "REVISION", "VERSION"), rows)


def print_status(status: Sequence[Mapping[str, Any]]) -> None:
    """Print one line a node; of one that did not answer, the endpoint that was asked."""
    rows = []
    for node in status:
        if node.get("error"):
            rows.append((node["endpoint"], "no answer", *["-"] * (len(STATUS_COLUMNS) - 2)))
        else:
            rows.append(tuple(shown(node.get(field)) for field in STATUS_COLUMNS.values()))
    print_table(list(STATUS_COLUMNS), rows)


def shown(value: object) -> str:
    """A cell of a table: `-` for what is unknown."""
    return "-" if value is None or value == "" else str(value)
