#!/usr/bin/env python3
"""Measures zraft beside the stores that a user might take instead, on this machine, in rounds.

    .venv/bin/python benchmarks/run.py                        all that are installed, 5 rounds; table, JSON
    .venv/bin/python benchmarks/run.py --quick --only zraft,etcd
    .venv/bin/python benchmarks/run.py --show results/*.json

A round goes through all stores once, so what the machine does besides meets all of them. README.md says how to install
them, what is measured, and what to mind.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # zraft, where it is not installed

import machine
import table
from peers import NotInstalled, Peer, all_peers
from workload import KEYS, Cell, measure

IN_FLIGHT = (1, 16, 64, 256)
ROUNDS = 5


class Pace:
    """Seconds of a cell, and how many operations are in flight in them."""

    def __init__(self, quick: bool, in_flight: tuple[int, ...]) -> None:
        self.warm_up_s, self.duration_s = (0.5, 1.5) if quick else (1.0, 5.0)
        self.in_flight = in_flight or ((1, 64) if quick else IN_FLIGHT)
        self.settle_s = 1.0 if quick else 4.0


def say(text: str) -> None:
    """What goes on, for who waits."""
    click.echo(f"{time.strftime('%H:%M:%S')} {text}", err=True)


def one_peer(peer: Peer, pace: Pace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All cells of a store, and what its nodes weigh."""
    peer.start()
    try:
        empty_mib = machine.memory_mib(peer.pids())
        peer.fill()
        for operation in peer.operations:
            peer.load(Cell(operation, 64, 0.0, pace.settle_s))  # heaps grow, compilers compile
        cells = []
        for operation in peer.operations:
            for in_flight in pace.in_flight:
                machine.wait_until_quiet()
                cell = measure(peer, Cell(operation, in_flight, pace.warm_up_s, pace.duration_s))
                cells.append(cell)
                disturbed = "" if table.is_clean(cell) else f" (others used {cell['others_cores']:.2f} cores)"
                say(f"{peer.name}: {operation} x {in_flight}: {cell['ops_per_s']:,.0f}/s{disturbed}")
        return cells, {"empty_mib": empty_mib, "loaded_mib": machine.memory_mib(peer.pids())}
    finally:
        peer.stop()


def one_round(peers: list[Peer], pace: Pace) -> dict[str, Any]:
    """Every store once. One that breaks costs the others nothing."""
    found: dict[str, Any] = {"cells": [], "memory": {}, "yardsticks": machine.yardsticks(), "errors": []}
    for peer in peers:
        try:
            cells, found["memory"][peer.name] = one_peer(peer, pace)
            found["cells"] += cells
        except Exception as error:
            say(f"{peer.name} failed: {type(error).__name__}: {error}")
            found["errors"].append(f"{peer.name}: {type(error).__name__}: {error}")
    return found


def chosen(only: str) -> list[Peer]:
    """Those that are named, or all that are installed."""
    known = all_peers()
    names = [name.strip() for name in only.split(",") if name.strip()] or list(known)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise click.UsageError(f"no such store: {', '.join(unknown)}; there are {', '.join(known)}")
    peers = []
    for name in names:
        try:
            peer = known[name]()
            peer.version()
            peers.append(peer)
        except (NotInstalled, OSError, subprocess.CalledProcessError) as error:
            if only:
                raise click.UsageError(f"{name}: {error}") from None
            say(f"leaves {name} out: {error}")
    return peers


def numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    """From a list with commas. Raises BadParameter."""
    try:
        found = tuple(int(word) for word in value.split(",") if word.strip())
    except ValueError:
        raise click.BadParameter(f"expected whole numbers with commas between them, got {value!r}") from None
    if any(number < 1 for number in found):
        raise click.BadParameter("expected numbers from 1 on")
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--quick", is_flag=True, help="One round of short cells: to see that it runs, not for figures.")
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help=f"[default: {ROUNDS}; 1 if --quick]")
@click.option("--only", default="", metavar="LIST", help="Names of stores, with commas between them.")
@click.option(
    "--in-flight",
    callback=numbers,
    default="",
    metavar="LIST",
    help="How many operations, with commas between them.  [default: 1,16,64,256]",
)
@click.option(
    "--keys",
    type=click.IntRange(min=1),
    default=KEYS,
    show_default=True,
    metavar="N",
    help="So many keys are there, and drawn from.",
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.json",
              help="[default: benchmarks/results/<date>.json]")  # fmt: skip
@click.option("--show", is_flag=True, help="Measure nothing; print the table of the FILEs together.")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, exists=True), metavar="[FILE.json]...")
def main(
    quick: bool, rounds: int | None, only: str, in_flight: tuple[int, ...], keys: int, output: Path | None, show: bool,
    files: tuple[Path, ...],
) -> None:  # fmt: skip
    """Measure zraft beside other stores on this machine, and print the medians as a table."""
    if show:
        documents = [json.loads(file.read_text()) for file in files]
        click.echo(table.render(documents))
        return
    pace = Pace(quick, in_flight)
    peers = chosen(only)
    for peer in peers:
        peer.keys = keys
    now = datetime.datetime.now()
    path = output or Path(__file__).parent / "results" / f"{now:%Y-%m-%d-%H%M}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {peer.name: {"version": peer.version(), "about": peer.about} for peer in peers}
    document = {"date": f"{now:%Y-%m-%d %H:%M}", "quick": quick, "keys": keys, "machine": machine.describe()}
    document["peers"] = about
    document["rounds"] = []
    for number in range(rounds or (1 if quick else ROUNDS)):
        say(f"round {number + 1}")
        document["rounds"].append(one_round(peers, pace))
        path.write_text(json.dumps(document, indent=1))
    click.echo(table.render([document]))
    say(f"written to {path}")


if __name__ == "__main__":
    main()
