"""zraft-chaos: faults for a live cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zraft.cli import chaos_faults, chaos_processes
from zraft.cli.chaos_nodes import Which, find, survey
from zraft.cli.chaos_run import check_command, run_command
from zraft.cli.common import ExitStatus, Failure, Group, cluster_options, version_option
from zraft.config import ACTORS
from zraft.errors import OutcomeUnknown

if TYPE_CHECKING:
    from zraft.client.sync import Client

PROGRAM = "zraft-chaos"
ANSWER_SECONDS = 1.0
"""How long a node may take to say that it does what it was told."""
RETURN_SECONDS = 10.0
"""How long a killed actor may take to be back."""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@cluster_options
@version_option(PROGRAM)
@click.pass_context
def cli(context: click.Context, endpoint: tuple[str, ...], config: Path | None) -> None:
    """Inject faults into a running cluster whose nodes' configuration says `chaos: true`.

    Faults of links and disks add up; `faults` shows those in force, `heal` takes them back.

    Exit status: 0 done; 1 refused; 2 usage; 3 no answer in time.
    """
    context.obj = (endpoint, config)


@cli.command("kill-actor")
@click.argument("node")
@click.argument("actor", type=click.Choice(ACTORS), metavar="ACTOR")
@click.option("--mid-handler", is_flag=True, help="Kill it in the middle of its next message, not between two.")
@click.pass_obj
def kill_actor_command(which: Which, node: str, actor: str, mid_handler: bool) -> None:
    """Kill one ACTOR of NODE.

    Waits until it lives again, and prints how long that took. Actors: frontend, transport, consensus, election_timer,
    log_writer, applier, json_gateway. The node's process goes on. With --mid-handler the actor dies when it next has
    something to do.

    Example: zraft-chaos kill-actor n1 consensus
    """
    # pyzmq takes a while to import: not for --help, --version or a usage error.
    from zraft.client.sync import Client

    report = find(survey(which), node)
    endpoint, before = report["endpoint"], _incarnation(report, actor)
    with Client(endpoint) as client:
        started = time.monotonic()
        try:
            fault = {"op": "kill-actor", "actor": actor, "boundary": int(mid_handler)}
            client.inject_fault(endpoint, fault, timeout=ANSWER_SECONDS)
        except OutcomeUnknown:
            pass  # the answer may have died with the actor: the incarnation tells
        after = _wait_for_return(client, node, actor, before, started + RETURN_SECONDS)
        took_ms = (time.monotonic() - started) * 1000
    click.echo(f"killed {actor} of {node}; it was back after {took_ms:.0f} ms (incarnation {before} -> {after})")


def _incarnation(report: Mapping[str, Any], actor: str) -> int:
    actors = report.get("actors") or {}
    if actor not in actors:
        running = ", ".join(sorted(actors)) or "none known"
        raise Failure(f"{report['node']} does not run {actor}; its actors: {running}", ExitStatus.NO)
    return int(actors[actor]["incarnation"])


def _wait_for_return(client: Client, node: str, actor: str, before: int, deadline: float) -> int:
    """The actor's new incarnation; or ends the program at `deadline` (monotonic seconds)."""
    while time.monotonic() < deadline:
        for report in client.status():
            actors = report.get("actors") or {}
            if report.get("node") == node and actor in actors and actors[actor]["incarnation"] > before:
                return int(actors[actor]["incarnation"])
        time.sleep(0.005)
    raise Failure(f"{actor} of {node} is not back after {RETURN_SECONDS:.0f} s", ExitStatus.NO_ANSWER)


for _command in (*chaos_processes.COMMANDS, *chaos_faults.COMMANDS):
    cli.add_command(_command)

cli.add_command(run_command)
cli.add_command(check_command)


def main() -> None:
    """Run zraft-chaos with this process's arguments; never returns."""
    sys.exit(cli.main(prog_name=PROGRAM))


if __name__ == "__main__":
    main()
