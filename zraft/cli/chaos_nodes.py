"""What the commands of zraft-chaos share: which node is meant, and telling several of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from zraft.chaos import inject
from zraft.cli.common import ExitStatus, Failure, endpoints_of
from zraft.errors import OutcomeUnknown, Unavailable, ZraftError

Which = tuple[tuple[str, ...], Path | None]
"""What -e and -c say."""
Nodes = Mapping[str, Mapping[str, Any]]
"""What each node says of itself, by name."""


class Number(click.FloatRange):
    """A number between bounds. NaN is between all bounds to click, and is none here."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """From the text (click calls this)."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is no number.", param, ctx)
        return number


def survey(which: Which) -> Nodes:
    """All nodes of the cluster. Ends the program if none answers."""
    nodes = inject.survey(endpoints_of(*which))
    if all(report.get("error") for report in nodes.values()):
        raise Failure("no node answers; are they running, and are these their endpoints?", ExitStatus.NO_ANSWER)
    return nodes


def find(nodes: Nodes, name: str) -> Mapping[str, Any]:
    """What that node says of itself. Ends the program if there is none, or if it says nothing."""
    if name not in nodes:
        raise Failure(f"there is no node {name!r}; there are: {', '.join(nodes)}", ExitStatus.NO)
    if nodes[name].get("error"):
        answering = ", ".join(other for other, report in nodes.items() if not report.get("error"))
        raise Failure(f"{name} does not answer; nodes that do: {answering}", ExitStatus.NO_ANSWER)
    return nodes[name]


def add_links(nodes: Nodes, added: Mapping[str, inject.Links]) -> None:
    """Lay link faults (node -> rules) over those in force. Ends the program before anything if a node is silent."""
    reports = {name: find(nodes, name) for name in added}
    send_all(
        nodes,
        {
            name: inject.links_fault(inject.combine_links(inject.in_force(reports[name], "links"), links))
            for name, links in added.items()
        },
    )


def add_disk(nodes: Nodes, name: str, added: inject.Rule) -> None:
    """Lay disk faults over those in force on one node."""
    rule = inject.combine_disk(inject.in_force(find(nodes, name), "disk"), added)
    send_all(nodes, {name: inject.disk_fault(rule)})


def send_all(nodes: Nodes, faults: Mapping[str, Mapping[str, Any]]) -> None:
    """Tell each node its fault. Ends the program at the first that does not take it, and says which have."""
    from zraft.client.sync import Client

    done: list[str] = []
    with Client([nodes[name]["endpoint"] for name in faults]) as client:
        for name, fault in faults.items():
            try:
                inject.send(client, nodes[name]["endpoint"], fault)
            except ZraftError as error:
                status = ExitStatus.NO_ANSWER if isinstance(error, OutcomeUnknown | Unavailable) else ExitStatus.NO
                already = f" ({', '.join(done)}: done already)" if done else ""
                raise Failure(f"{error}{already}", status) from error
            done.append(name)
