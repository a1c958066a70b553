"""zraft-cli: read and write the keys of a cluster, and see how its nodes are."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zraft.cli import output
from zraft.cli.backup import backup_command, compact_command, restore_command
from zraft.cli.common import (
    ExitStatus,
    Failure,
    Group,
    cluster_options,
    endpoints_of,
    leader_in,
    need_answer,
    timeout_option,
    version_option,
)
from zraft.cli.members import members_group

if TYPE_CHECKING:
    from zraft.client.sync import Client

PROGRAM = "zraft-cli"

_COMPLETION_LINES = {
    "bash": 'eval "$(_ZRAFT_CLI_COMPLETE=bash_source zraft-cli)"',
    "zsh": 'eval "$(_ZRAFT_CLI_COMPLETE=zsh_source zraft-cli)"',
    "fish": "_ZRAFT_CLI_COMPLETE=fish_source zraft-cli | source",
}


@dataclass(frozen=True)
class Session:
    """What the options before the command say."""

    endpoint: tuple[str, ...]
    config: Path | None
    timeout: float
    """Seconds."""
    as_json: bool

    def connect(self) -> Client:
        """A client of the cluster that is meant. Raises ConfigError."""
        # pyzmq takes a while to import: not for --help, --version or a usage error.
        from zraft.client.sync import Client

        return Client(endpoints_of(self.endpoint, self.config), timeout=self.timeout)

    def status_of(self, client: Client) -> list[dict[str, Any]]:
        """What the nodes at the `-e` endpoints say of themselves or, without any, all members."""
        return client.status(all_members=not self.endpoint)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@cluster_options
@timeout_option(5.0)
@click.option(
    "-o",
    "--output",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help='How to print answers. In JSON, a key or value that is not UTF-8 is {"base64": "..."}.',
)
@version_option(PROGRAM)
@click.pass_context
def cli(
    context: click.Context, endpoint: tuple[str, ...], config: Path | None, timeout: float, output_format: str
) -> None:
    """Read and write the keys of a zraft cluster.

    Exit status: 0 done; 1 absent, false or refused; 2 usage; 3 no answer in time, or no quorum. stderr tells an
    unknown outcome (it may have been applied) from one that surely was not applied.

    Put -- before a key or value that begins with a dash.
    """
    context.obj = Session(endpoint, config, timeout, output_format == "json")


@cli.command("set")
@click.argument("key")
@click.argument("value")
@click.pass_obj
def set_command(session: Session, key: str, value: str) -> None:
    """Give KEY the value VALUE and print the revision. VALUE - is read from stdin, every byte of it."""
    data = sys.stdin.buffer.read() if value == "-" else os.fsencode(value)
    with session.connect() as client:
        revision = client.set(os.fsencode(key), data)
    if session.as_json:
        output.print_json({"revision": revision})
    else:
        click.echo(revision)


@cli.command("get")
@click.argument("key")
@click.pass_obj
def get_command(session: Session, key: str) -> None:
    """Print the value of KEY alone; status 1 if there is none."""
    with session.connect() as client:
        entry = client.get_entry(os.fsencode(key))
    if session.as_json:
        output.print_json(None if entry is None else output.json_entry(entry))
    elif entry is not None:
        click.echo(entry.value)
    if entry is None:
        raise Failure(f"{key!r} is absent", ExitStatus.NO)


@cli.command("delete")
@click.argument("key")
@click.pass_obj
def delete_command(session: Session, key: str) -> None:
    """Delete KEY; status 1 if there was none."""
    with session.connect() as client:
        deleted = client.delete(os.fsencode(key))
    if session.as_json:
        output.print_json({"deleted": deleted})
    elif deleted:
        click.echo("deleted")
    if not deleted:
        raise Failure(f"{key!r} is absent", ExitStatus.NO)


@cli.command("cas")
@click.option("--absent", is_flag=True, help="Expect no value at all: cas --absent KEY NEW.")
@click.argument("key")
@click.argument("values", nargs=-1, required=True, metavar="[OLD] NEW")
@click.pass_obj
def cas_command(session: Session, absent: bool, key: str, values: tuple[str, ...]) -> None:
    """Give KEY the value NEW if its value is OLD (with --absent: if it has none); status 1 if it is not."""
    if len(values) != (1 if absent else 2):
        raise click.UsageError("expected KEY OLD NEW, or --absent KEY NEW")
    expected = None if absent else os.fsencode(values[0])
    with session.connect() as client:
        swapped = client.cas(os.fsencode(key), expected, os.fsencode(values[-1]))
    if session.as_json:
        output.print_json({"swapped": swapped})
    elif swapped:
        click.echo("swapped")
    if not swapped:
        raise Failure(f"not swapped: {key!r} {'has a value' if absent else 'has another value or none'}", ExitStatus.NO)


@cli.command("range")
@click.argument("prefix")
@click.pass_obj
def range_command(session: Session, prefix: str) -> None:
    """Print all keys that begin with PREFIX ("" for all), in order, with their values."""
    with session.connect() as client:
        entries = client.range(os.fsencode(prefix))
    if session.as_json:
        output.print_json([output.json_entry(entry) for entry in entries])
    else:
        output.print_entries(entries)


@cli.command("status")
@click.pass_obj
def status_command(session: Session) -> None:
    """Print what each node says of itself; status 3 if none answers.

    With -e, the nodes there; else all members, also those that joined later than the configuration tells.
    """
    with session.connect() as client:
        status = session.status_of(client)
    if session.as_json:
        output.print_json(status)
    else:
        output.print_status(status)
    need_answer(status)


@cli.group("leader")
def leader_group() -> None:
    """The leader of the cluster."""


@leader_group.command("transfer")
@click.argument("node", required=False)
@click.pass_obj
def leader_transfer_command(session: Session, node: str | None) -> None:
    """Have the leader hand over to NODE, or to whichever node is furthest, and print who leads then."""
    deadline = time.monotonic() + session.timeout
    with session.connect() as client:
        before = leader_in(client.status(all_members=True))
        if before is not None and before["node"] == node:
            raise Failure(f"{node} is the leader already", ExitStatus.NO)
        client.transfer_leadership(node)
        leader = _wait_for_leader(client, node, before, deadline)
    if session.as_json:
        output.print_json({"leader": leader["node"], "term": leader["term"]})
    else:
        click.echo(f"{leader['node']} leads, term {leader['term']}")


def _wait_for_leader(
    client: Client, wanted: str | None, before: Mapping[str, Any] | None, deadline: float
) -> Mapping[str, Any]:
    """The leader after `before`, or ends the program at `deadline` (monotonic seconds)."""
    term_before = before["term"] if before is not None else 0
    while True:
        leader = leader_in(client.status(all_members=True))
        if leader is not None and leader["term"] > term_before and wanted in (None, leader["node"]):
            return leader
        if time.monotonic() >= deadline:
            goal = f"{wanted} does not lead" if wanted else "no other node leads"
            raise Failure(f"the leader was asked to hand over, but {goal} in time", ExitStatus.NO_ANSWER)
        time.sleep(0.05)


cli.add_command(members_group)
cli.add_command(compact_command)
cli.add_command(backup_command)
cli.add_command(restore_command)


@cli.command("completion")
@click.argument("shell", type=click.Choice(list(_COMPLETION_LINES)))
def completion_command(shell: str) -> None:
    """Print the line that, in the shell's start-up file, makes it complete zraft-cli's commands and options.

    zraft-cli must be on the PATH.
    """
    click.echo(_COMPLETION_LINES[shell])


def main() -> None:
    """Run zraft-cli with this process's arguments; never returns."""
    sys.exit(cli.main(prog_name=PROGRAM))


if __name__ == "__main__":
    main()
