"""The commands of zraft-chaos that put faults of links and disks in force, show them, and take them back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from zraft.chaos import inject
from zraft.chaos.faults import ANY_PEER, MAX_DELAY_MS
from zraft.cli.chaos_nodes import Nodes, Number, Which, add_disk, add_links, find, send_all, survey
from zraft.cli.common import Command, ExitStatus, Failure
from zraft.cli.output import print_json, print_table
from zraft.errors import OutcomeUnknown

ALL = "all"

MILLISECONDS = Number(0, MAX_DELAY_MS)

HEAL_ALL = "take it back: zraft-chaos heal"


def _heal(node: str) -> str:
    return HEAL_ALL if node == ALL else f"{HEAL_ALL} {node}"


# --- links


@click.command("partition", cls=Command)
@click.argument("groups", nargs=-1, required=True, metavar="GROUP / GROUP...")
@click.pass_obj
def partition_command(which: Which, groups: tuple[str, ...]) -> None:
    """Cut all links between groups of nodes. Names in a GROUP are joined by commas, groups by a slash.

    A | is as good as a slash, but has to be quoted: shells take it for a pipe. A node that is in no group keeps all
    its links. Clients reach every node as before.

    \b
    Example: zraft-chaos partition n1 / n2,n3
             zraft-chaos partition "n1 | n2,n3"
    """
    parsed = parse_groups(" ".join(groups))
    add_links(survey(which), inject.partition(parsed))
    sides = " and ".join(",".join(group) for group in parsed)
    click.echo(f"no link between {sides} works; {HEAL_ALL}")


def parse_groups(text: str) -> list[list[str]]:
    """The groups that `n1 | n2,n3` names. Raises UsageError if they are no partition."""
    groups = [[name for name in re.split(r"[\s,]+", group) if name] for group in re.split(r"[|/]", text)]
    if len(groups) < 2 or not all(groups):
        raise click.UsageError(
            "expected two groups of nodes or more, like n1 / n2,n3 (a | has to be quoted, or the shell takes it)"
        )
    names = [name for group in groups for name in group]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise click.UsageError(f"{', '.join(twice)} cannot be in two groups, or twice in one")
    return groups


@click.command("isolate", cls=Command)
@click.argument("node")
@click.pass_obj
def isolate_command(which: Which, node: str) -> None:
    """Cut all links of NODE to other nodes. Clients still reach it.

    Example: zraft-chaos isolate n2
    """
    add_links(survey(which), {node: inject.isolate()})
    click.echo(f"no link of {node} works; {_heal(node)}")


@click.command("one-way", cls=Command)
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@click.pass_obj
def one_way_command(which: Which, source: str, target: str) -> None:
    """Lose what FROM sends to TO, and nothing that TO sends to FROM.

    Example: zraft-chaos one-way n1 n3
    """
    if source == target:
        raise click.UsageError(f"expected two nodes; {source} has no link to itself")
    nodes = survey(which)
    if target not in nodes:
        find(nodes, target)
    add_links(nodes, {source: inject.one_way(target)})
    click.echo(f"what {source} sends to {target} is lost; {_heal(source)}")


@click.command("delay", cls=Command)
@click.argument("node", metavar="NODE|all")
@click.argument("ms", type=MILLISECONDS)
@click.option(
    "--jitter", type=MILLISECONDS, default=0, metavar="MS", help="Vary it by up to so much, more and less; reorders."
)
@click.pass_obj
def delay_command(which: Which, node: str, ms: float, jitter: float) -> None:
    """Delay messages between nodes.

    Every message between NODE and the others, or between all nodes, takes MS milliseconds longer, each way: a question
    and its answer take twice that. Delays of NODE and of all add up. MS 0 takes a delay back.

    Example: zraft-chaos delay all 30 --jitter 10
    """
    if ms + jitter > MAX_DELAY_MS:
        raise click.UsageError(f"expected a delay of at most {MAX_DELAY_MS} ms, got {ms + jitter:g} ms")
    least_ms, most_ms = max(0, ms - jitter), ms + jitter
    nodes = survey(which)
    add_links(nodes, {name: inject.delay(least_ms, most_ms, ways) for name, ways in _meant(nodes, node)})
    if most_ms:
        click.echo(f"{_links_of(node)} take {_span([least_ms, most_ms])} longer, each way; {_heal(node)}")
    else:
        click.echo(f"{_links_of(node)} take no longer than usual")


@click.command("drop", cls=Command)
@click.argument("node", metavar="NODE|all")
@click.argument("percent", type=Number(0, 100))
@click.pass_obj
def drop_command(which: Which, node: str, percent: float) -> None:
    """Lose some of the messages between nodes.

    PERCENT of those between NODE and the others, or between all nodes, each way. A link that is cut stays cut.
    PERCENT 0 takes a loss back.

    Example: zraft-chaos drop n1 20
    """
    nodes = survey(which)
    add_links(nodes, {name: inject.drop(percent / 100, ways) for name, ways in _meant(nodes, node)})
    if percent:
        click.echo(f"{_links_of(node)} lose {percent:g} % of the messages, each way; {_heal(node)}")
    else:
        click.echo(f"{_links_of(node)} lose nothing, unless they are cut")


def _meant(nodes: Nodes, node: str) -> list[tuple[str, Sequence[str]]]:
    """(node, directions): of one node both; of all, each takes care of what it sends."""
    if node == ALL:
        return [(name, ("out",)) for name in nodes]
    return [(node, ("in", "out"))]


def _links_of(node: str) -> str:
    return "all links" if node == ALL else f"the links of {node}"


# --- disks


@click.command("slow-disk", cls=Command)
@click.argument("node")
@click.argument("ms", type=MILLISECONDS)
@click.pass_obj
def slow_disk_command(which: Which, node: str, ms: float) -> None:
    """Slow down the disk of NODE's log.

    Each write and each fsync takes MS milliseconds longer. MS 0 takes it back.

    Example: zraft-chaos slow-disk n1 50
    """
    add_disk(survey(which), node, {"slow_ms": [ms, ms]})
    if ms:
        click.echo(f"each write and fsync of {node} takes {ms:g} ms longer; {_heal(node)}")
    else:
        click.echo(f"writes and fsyncs of {node} take no longer than usual")


@click.command("full-disk", cls=Command)
@click.argument("node")
@click.pass_obj
def full_disk_command(which: Which, node: str) -> None:
    """Have NODE's log find no space. It acknowledges nothing until there is space again, and does not lead.

    Example: zraft-chaos full-disk n1
    """
    add_disk(survey(which), node, {"full": True})
    click.echo(f"the disk of {node} is full; {_heal(node)}")


@click.command("fail-fsync", cls=Command)
@click.argument("node")
@click.pass_obj
def fail_fsync_command(which: Which, node: str) -> None:
    """Fail the next fsync of NODE's log. The node stops then, with status 1: start it again.

    A node that writes nothing has no next fsync: on a follower it comes with the next write to the cluster.

    Example: zraft-chaos fail-fsync n1
    """
    try:
        add_disk(survey(which), node, {"fail_sync": True})
    except Failure as failure:
        # A node that is busy has its next fsync, and is gone, before it has said that it will fail.
        if isinstance(failure.__cause__, OutcomeUnknown) and survey(which)[node].get("error"):
            click.echo(f"{node} does not answer any more: that fsync has failed; start it again")
            return
        raise
    click.echo(f"{node} stops at its next fsync, which fails; before that, {_heal(node)}; after it, start it again")


# --- all


@click.command("heal", cls=Command)
@click.argument("node", required=False)
@click.pass_obj
def heal_command(which: Which, node: str | None) -> None:
    """Take back all faults in force.

    Those of links and disks, of NODE or of all nodes; who was killed stays dead. A link that both its ends cut works
    when both are healed.

    Example: zraft-chaos heal
    """
    nodes = survey(which)
    if node is not None:
        nodes = {node: find(nodes, node)}
    faulty = [name for name, report in nodes.items() if report.get("faults")]
    send_all(nodes, dict.fromkeys(faulty, inject.HEAL))
    silent = [name for name, report in nodes.items() if report.get("error")]
    if faulty:
        click.echo(f"healed {', '.join(faulty)}")
    elif not silent:
        click.echo("no faults were in force")
    if silent:
        raise Failure(f"{', '.join(silent)}: no answer, so faults there stay in force", ExitStatus.NO_ANSWER)


@click.command("faults", cls=Command)
@click.option(
    "-o", "--output", "output_format", type=click.Choice(["text", "json"]), default="text", help="How to print them."
)
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@click.pass_obj
def faults_command(which: Which, output_format: str, as_json: bool) -> None:
    """Show the faults in force.

    Those of links and disks, for each node that has any. As JSON, an object: each node's faults by its name, null for
    one that does not answer.

    Example: zraft-chaos faults
    """
    nodes = survey(which)
    silent = [name for name, report in nodes.items() if report.get("error")]
    if as_json or output_format == "json":
        print_json({name: None if name in silent else report.get("faults") or {} for name, report in nodes.items()})
    else:
        rows = [(name, *row) for name, report in nodes.items() for row in _rows(report)]
        if rows:
            print_table(("NODE", "WHERE", "FAULT"), rows)
        elif not silent:
            click.echo("no faults in force")
    if silent:
        raise Failure(f"{', '.join(silent)}: no answer", ExitStatus.NO_ANSWER)


def _rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(where, what) of each fault of a node."""
    rows = []
    links = inject.in_force(report, "links")
    for peer, rules in sorted(links.items()):
        whom = ("other peers" if len(links) > 1 else "all peers") if peer == ANY_PEER else peer
        for direction, rule in sorted(rules.items(), reverse=True):
            rows.append((f"{'to' if direction == 'out' else 'from'} {whom}", _link_words(rule)))
    disk = inject.in_force(report, "disk")
    words = [f"{_span(disk['slow_ms'])} slower"] if "slow_ms" in disk else []
    words += ["full"] if disk.get("full") else []
    words += ["next fsync fails"] if disk.get("fail_sync") else []
    return [*rows, ("disk", ", ".join(words))] if words else rows


def _link_words(rule: Mapping[str, Any]) -> str:
    if inject.is_cut(rule):
        return "cut"
    words = [f"{100 * rule['drop']:.3g} % lost"] if "drop" in rule else []
    words += [f"{_span(rule['delay_ms'])} later"] if "delay_ms" in rule else []
    return ", ".join(words)


def _span(span: Sequence[float]) -> str:
    least_ms, most_ms = span
    return f"{least_ms:g} ms" if least_ms == most_ms else f"{least_ms:g} to {most_ms:g} ms"


COMMANDS = (
    partition_command,
    isolate_command,
    one_way_command,
    delay_command,
    drop_command,
    slow_disk_command,
    full_disk_command,
    fail_fsync_command,
    heal_command,
    faults_command,
)
