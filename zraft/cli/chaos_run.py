"""zraft-chaos run and check: faults and a workload at the same time, and the verdict on a history."""

from __future__ import annotations

import asyncio
import json
import secrets
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from zraft.chaos.history import HistoryError, Operation, read_lines
from zraft.chaos.linearizability import Verdict, check, explain
from zraft.chaos.schedule import KINDS
from zraft.chaos.verdict import Holds
from zraft.cli.common import Command, ExitStatus, Failure, endpoints_of, terminable
from zraft.cli.output import align, print_json
from zraft.config import ACTORS

if TYPE_CHECKING:
    from zraft.chaos.result import Result
    from zraft.chaos.runner import Plan, Seen
    from zraft.chaos.target import Target

CHECK_SECONDS = 120.0
"""The checker may take so long."""
STATUSES = {Holds.YES: 0, Holds.NO: 1, Holds.UNKNOWN: 2}
VERDICT_STATUSES = {Verdict.LINEARIZABLE: 0, Verdict.NOT_LINEARIZABLE: 1, Verdict.NONE: 2}


def _kinds(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """A list of kinds of faults with commas between them; `all` is all of them."""
    names = [name.strip() for name in value.split(",") if name.strip()]
    if names == ["all"]:
        return KINDS
    unknown = [name for name in names if name not in KINDS]
    if unknown or not names:
        shown = f"{', '.join(map(repr, unknown))}: no kind of fault" if unknown else "no kind of fault is named"
        raise click.BadParameter(f"{shown}; there are: {', '.join(KINDS)}, or all")
    return tuple(kind for kind in KINDS if kind in names)


class Files(NamedTuple):
    """Where a run writes: what the user named, else into `folder`."""

    folder: Path
    history: Path
    report: Path | None


@click.command("run", cls=Command)
@click.option(
    "--duration",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Seconds with faults; healing and checking come after.",
)
@click.option("--seed", type=int, default=1, show_default=True, metavar="N", help="Decides which fault comes when.")
@click.option(
    "--faults",
    callback=_kinds,
    default="all",
    show_default=True,
    metavar="LIST",
    help=f"Kinds of faults, with commas: {', '.join(KINDS)}; or all.",
)
@click.option(
    "--clients",
    type=click.IntRange(1, 100),
    default=8,
    show_default=True,
    metavar="C",
    help="Clients at a time, each with a session of its own; besides, for each node a reader and a client "
    "of its port for JSON lines.",
)
@click.option(
    "--keys",
    type=click.IntRange(1, 1000),
    default=8,
    show_default=True,
    metavar="K",
    help="Keys that all clients share.",
)
@click.option(
    "--nodes",
    type=click.Choice(["3", "5"]),
    default="3",
    show_default=True,
    help="Of the cluster that is started for the run.",
)
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write a report for readers there, and beside it one for machines, FILE.json.",
)
@click.option(
    "--history",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.jsonl",
    help="Write the history there (else it is kept only if something was violated).",
)
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to print the verdict.")
@click.pass_obj
def run_command(
    which: tuple[tuple[str, ...], Path | None], duration: float, seed: int, faults: tuple[str, ...], clients: int,
    keys: int, nodes: str, report: Path | None, history: Path | None, output: str,
) -> None:  # fmt: skip
    """Break a cluster on purpose while clients use it, then see that nothing was lost.

    Starts a cluster of its own in a temporary folder; with -e or -c before `run`, takes one that runs already (whose
    nodes are then not killed, and paused only on this machine). Ends, heals and restarts all that it broke.

    Exit status: 0 all holds; 1 something was violated; 2 usage, or no verdict.
    """
    # ZeroMQ takes a while to import: not for --help or a usage error.
    from zraft.chaos.runner import Plan

    _check_writable(history, report)
    folder = Path(tempfile.mkdtemp(prefix="zraft-chaos-"))
    files = Files(folder, history or folder / "history.jsonl", report)
    own = not any(which)
    plan = Plan(duration, seed, faults, clients, keys, "" if own else f"zraft-chaos/{secrets.token_hex(4)}/")
    keep = own  # the logs tell what became of the nodes
    try:
        with terminable():
            result = _run_own(plan, int(nodes), files) if own else _run_on(endpoints_of(*which), plan, files)
        _write_report(result, files)
        _print(result, output)
        keep = result.holds is not Holds.YES
    except KeyboardInterrupt:
        keep = False
        raise
    except OSError as error:
        raise Failure(f"{error.filename or folder}: {error.strerror}", ExitStatus.USAGE) from error
    finally:
        if keep:
            places = shlex.quote(str(folder)), shlex.quote(str(files.history))
            click.echo("logs of the nodes: {}; the history: {}".format(*places), err=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    click.get_current_context().exit(STATUSES[result.holds])


def _check_writable(*paths: Path | None) -> None:
    """Now, and not when the run is over."""
    for path in filter(None, paths):
        try:
            path.touch()
        except OSError as error:
            raise Failure(f"{path}: {error.strerror}", ExitStatus.USAGE) from error


def _run_own(plan: Plan, nodes: int, files: Files) -> Result:
    from zraft.chaos.target import OwnNodes
    from zraft.testing import Cluster

    click.echo(f"starts {nodes} nodes in {files.folder}", err=True)
    with Cluster(nodes, files.folder) as cluster:
        cluster.start()
        target = OwnNodes(cluster)
        seen = _drive(plan, target, ACTORS, files.history)
        complaints = target.surprises + [
            line for node in cluster.nodes.values() for line in node.complaints() if _is_bug(line)
        ]
    return _judge(plan, ACTORS, seen, complaints)


def _is_bug(line: str) -> bool:
    # Errors that are logged are none: a node says so when its disk is full, for instance.
    return " ERROR " not in line or "impossible:" in line


def _run_on(endpoints: Sequence[str], plan: Plan, files: Files) -> Result:
    from zraft.chaos.target import RunningNodes
    from zraft.client.sync import Client

    with Client(endpoints) as client:
        reports = client.status()
    silent = [report["endpoint"] for report in reports if report.get("error")]
    if silent:
        raise Failure(f"{', '.join(silent)} does not answer: begin with a cluster that is whole", ExitStatus.USAGE)
    target = RunningNodes(reports)
    if "nodes" in plan.kinds or "disk" in plan.kinds:
        text = "nodes and disk faults end processes, which only a cluster that is started for the run can bear"
        raise Failure(f"{text}: leave them out, or leave -e and -c out", ExitStatus.USAGE)
    if "pauses" in plan.kinds and not target.are_local:
        raise Failure("pauses: not all nodes run on this machine; leave pauses out", ExitStatus.USAGE)
    actors = sorted(set(ACTORS).intersection(*(report["actors"] for report in reports)))
    return _judge(plan, actors, _drive(plan, target, actors, files.history), [])


def _drive(plan: Plan, target: Target, actors: Sequence[str], history: Path) -> Seen:
    from zraft.chaos.live import LiveView
    from zraft.chaos.runner import Run

    view = LiveView(plan.duration_s)
    with open(history, "w", encoding="utf-8") as file:

        async def drive() -> Seen:
            return await Run(plan, target, actors, file, view.show).run()

        return asyncio.run(drive())


def _judge(plan: Plan, actors: Sequence[str], seen: Seen, complaints: Sequence[str]) -> Result:
    from zraft.chaos.result import make_result

    operations = seen.recorder.operations
    click.echo(f"checks {len(operations):,} operations", err=True)
    return make_result(plan, actors, seen, check(operations, time.monotonic, CHECK_SECONDS), complaints)


def _write_report(result: Result, files: Files) -> None:
    from zraft.chaos.report import render

    if files.report is not None:
        files.report.write_text(render(result), encoding="utf-8")
        files.report.with_suffix(".json").write_text(json.dumps(result.as_json()), encoding="utf-8")


def _print(result: Result, output: str) -> None:
    if output == "json":
        print_json(result.as_json())
        return
    for line in result.explanation:
        click.echo(line)
    outcomes = result.seen.recorder.outcomes
    gap = result.gap
    click.echo(
        f"{len(result.operations):,} operations: {outcomes['ok']:,} ok, {outcomes['unknown']:,} of unknown outcome, "
        f"{outcomes['fail']:,} surely not applied"
    )
    for kind, variants in result.fault_counts.items():
        click.echo(f"{kind}: {', '.join(f'{what} {count}' for what, count in variants.items()) or 'none'}")
    click.echo(f"longest time without a write: {gap.seconds * 1000:.0f} ms, from {gap.start_s:.1f} s on")
    click.echo("")
    for line in align([("CHECK", "VERDICT", ""), *((row.name, row.holds.value, row.detail) for row in result.rows)]):
        click.echo(line)
    click.echo(f"\nverdict: {'all holds' if result.holds is Holds.YES else result.holds.value}")


@click.command("check", cls=Command)
@click.argument("history", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), metavar="HISTORY.jsonl")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    metavar="S",
    help="Give up without a verdict after so many seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def check_command(history: Path, timeout: float, as_json: bool) -> None:
    """Say whether a recorded history is linearizable, and if not, show what cannot have happened.

    Exit status: 0 linearizable; 1 not; 2 no verdict, or a file that is no history.
    """
    try:
        operations = _read(history)
    except HistoryError as error:
        raise Failure(f"{history}: {error}", ExitStatus.USAGE) from error
    except OSError as error:
        raise Failure(f"{history}: {error.strerror}", ExitStatus.USAGE) from error
    except UnicodeDecodeError as error:
        raise Failure(f"{history}: not UTF-8 ({error.reason} at byte {error.start})", ExitStatus.USAGE) from error
    report = check(operations, time.monotonic, timeout)
    if as_json:
        failure = report.failure
        print_json(
            {
                "verdict": report.verdict.value,
                "operations": report.operations,
                "keys": report.keys,
                "reason": report.reason or None,
                "key": None if failure is None else failure.operation.key,
                "lines": [] if failure is None else [operation.line for operation in failure.window],
                "explanation": explain(report),
            }
        )
    else:
        click.echo("\n".join(explain(report)))
    click.get_current_context().exit(VERDICT_STATUSES[report.verdict])


def _read(history: Path) -> list[Operation]:
    if str(history) == "-":
        return list(read_lines(sys.stdin))
    with open(history, encoding="utf-8") as file:
        return list(read_lines(file))
