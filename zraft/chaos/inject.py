"""Faults of links and disks from outside: what to tell which node, on top of what is in force there, and the telling.

Rules are plain data, as they travel (docs/PROTOCOL.md): links are peer -> "in" or "out" -> rule; what is drawn here as
`added` is laid over what `status` shows as in force with `combine_links` and `combine_disk`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zraft.chaos.faults import ANY_PEER, DIRECTIONS
from zraft.errors import OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from zraft.client.sync import Client

Rule = Mapping[str, Any]
Links = Mapping[str, Mapping[str, Rule]]

CUT: Rule = {"drop": 1}
HEAL: Mapping[str, Any] = {"op": "heal"}

SEND_SECONDS = 5.0
SEND_AGAIN_SECONDS = 0.5


# --- links


def partition(groups: Sequence[Sequence[str]]) -> dict[str, Links]:
    """What each node has to be told so that no frame passes between two groups. Who is in no group keeps all links."""
    return {
        node: {peer: dict.fromkeys(DIRECTIONS, CUT) for other in groups if other is not group for peer in other}
        for group in groups
        for node in group
    }


def isolate() -> Links:
    """For one node: no link works."""
    return {ANY_PEER: dict.fromkeys(DIRECTIONS, CUT)}


def one_way(peer: str) -> Links:
    """For one node: what it sends to `peer` is lost, what `peer` sends arrives."""
    return {peer: {"out": CUT}}


def delay(least_ms: float, most_ms: float, directions: Sequence[str] = DIRECTIONS) -> Links:
    """For one node: all its frames in these directions take so much longer. 0, 0: no longer."""
    return {ANY_PEER: {direction: {"delay_ms": [least_ms, most_ms]} for direction in directions}}


def drop(share: float, directions: Sequence[str] = DIRECTIONS) -> Links:
    """For one node: this share of its frames (0 to 1) in these directions is lost."""
    return {ANY_PEER: {direction: {"drop": share} for direction in directions}}


def combine_links(in_force: Links, added: Links) -> dict[str, Any]:
    """The rules that do both. Where both speak of one thing on one link `added` wins, but a cut link stays cut."""
    combined: dict[str, Any] = {}
    for peer in dict.fromkeys((*in_force, *added)):
        old, new = _of(in_force, peer), _of(added, peer)
        combined[peer] = {
            direction: _combine_rules(old.get(direction, {}), new.get(direction, {}))
            for direction in DIRECTIONS
            if direction in old or direction in new
        }
    return combined


def _of(links: Links, peer: str) -> Mapping[str, Rule]:
    return links.get(peer, links.get(ANY_PEER, {}))


def _combine_rules(old: Rule, new: Rule) -> dict[str, Any]:
    return {**old, **new, **(CUT if is_cut(old) else {})}


def is_cut(rule: Rule) -> bool:
    """Whether nothing passes by that rule."""
    return bool(rule.get("drop", 0) >= 1)


# --- disks


def combine_disk(in_force: Rule, added: Rule) -> dict[str, Any]:
    """The rule that does both; where both speak of one thing `added` wins."""
    return {**in_force, **added}


# --- telling nodes


def links_fault(rules: Links) -> dict[str, Any]:
    """What tells a node to have these link faults and no others."""
    return {"op": "links", "rules": rules}


def disk_fault(rule: Rule) -> dict[str, Any]:
    """What tells a node to have these disk faults and no others."""
    return {"op": "disk", **rule}


def in_force(report: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The faults of a part ("links" or "disk") in what a node said of itself."""
    return (report.get("faults") or {}).get(part) or {}


def send(client: Client, endpoint: str, fault: Mapping[str, Any], timeout_seconds: float = SEND_SECONDS) -> None:
    """Have the node at `endpoint` put a fault of links or disk in force; it is when this returns.

    Said again when the answer is lost, as with a frontend that is killed: the same faults twice are the same faults.
    Raises InvalidRequest if the node refuses, OutcomeUnknown or Unavailable if it does not answer in time.
    """
    deadline = time.monotonic() + timeout_seconds
    in_doubt = False  # some copy of it may be in force
    while True:
        try:
            client.inject_fault(endpoint, fault, timeout=min(SEND_AGAIN_SECONDS, timeout_seconds))
            return
        except (OutcomeUnknown, Unavailable) as error:
            in_doubt = in_doubt or isinstance(error, OutcomeUnknown)
            if time.monotonic() >= deadline:
                if in_doubt and isinstance(error, Unavailable):
                    raise OutcomeUnknown(f"{endpoint} does not answer any more; the fault may be in force") from error
                raise


def survey(endpoints: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What each node says of itself, by name: those at `endpoints`, and whoever else they know as a member.

    One that does not answer has an `error`; its `endpoint` is there all the same.
    """
    # pyzmq takes a while to import: not for --help or a usage error of the program that asks.
    from zraft.client.sync import Client

    with Client(endpoints) as client:
        reports = {report["endpoint"]: report for report in client.status()}
    members = {member["id"]: member["client"] for report in reports.values() for member in report.get("members") or ()}
    unasked = [endpoint for endpoint in members.values() if endpoint not in reports]
    if unasked:
        with Client(unasked) as client:
            reports |= {report["endpoint"]: report for report in client.status()}
    nodes = {report["node"]: report for report in reports.values() if not report.get("error")}
    for name, endpoint in members.items():
        if name not in nodes:
            nodes[name] = {"node": name, "endpoint": endpoint, "error": reports[endpoint].get("error") or "no answer"}
    return dict(sorted(nodes.items()))
