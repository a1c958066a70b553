"""Faults of links between nodes, as data: which frames on which directed link are lost, or held back for how long.

`rules_of` gives what a node is told, in the form that it takes over its client port: for each peer what happens to
frames *from* it (`in`) and *to* it (`out`). Frames between clients and nodes are never touched.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Any, NamedTuple


class Rule(NamedTuple):
    """drop: share of the frames that are lost, 1.0: all. delay_ms: (least, most) that a frame is held back."""

    drop: float = 0.0
    delay_ms: tuple[int, int] = (0, 0)


Edges = dict[tuple[str, str], Rule]
"""By (sender, receiver)."""

CUT = Rule(drop=1.0)


def partition(*groups: Iterable[str]) -> Edges:
    """Every link between nodes of different groups is cut."""
    members = [tuple(group) for group in groups]
    return {
        (sender, receiver): CUT
        for here, there in permutations(members, 2)
        for sender in here
        for receiver in there
        if sender != receiver
    }


def one_way(sender: str, receiver: str) -> Edges:
    """Frames from `sender` to `receiver` are lost."""
    return {(sender, receiver): CUT}


def delay(nodes: Iterable[str], least_ms: int, most_ms: int) -> Edges:
    """Every frame between these nodes is held back."""
    return dict.fromkeys(permutations(nodes, 2), Rule(delay_ms=(least_ms, most_ms)))


def drop(nodes: Iterable[str], share: float) -> Edges:
    """This share of the frames between these nodes is lost."""
    return dict.fromkeys(permutations(nodes, 2), Rule(drop=share))


def only_of(edges: Edges, node: str) -> Edges:
    """The part of `edges` that begins or ends at `node`."""
    return {edge: rule for edge, rule in edges.items() if node in edge}


def combine(faults: Iterable[Edges]) -> Edges:
    """All at once: on each link the highest loss and the longest delay of any."""
    combined: Edges = {}
    for edges in faults:
        for edge, rule in edges.items():
            other = combined.get(edge, Rule())
            combined[edge] = Rule(max(rule.drop, other.drop), max(rule.delay_ms, other.delay_ms))
    return combined


def rules_of(edges: Edges, node: str) -> dict[str, dict[str, dict[str, Any]]]:
    """What `node` is to do: {peer: {"in": RULE, "out": RULE}}.

    A cut is made at both ends, so that it holds while one of them does not answer; losses and delays at the sender
    alone, so that they do not come twice.
    """
    rules: dict[str, dict[str, dict[str, Any]]] = {}
    for (sender, receiver), rule in edges.items():
        if node == sender:
            rules.setdefault(receiver, {})["out"] = _as_json(rule)
        elif node == receiver and rule.drop >= 1.0:
            rules.setdefault(sender, {})["in"] = {"drop": 1.0}
    return rules


def _as_json(rule: Rule) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if rule.drop:
        fields["drop"] = rule.drop
    if rule.delay_ms != (0, 0):
        fields["delay_ms"] = list(rule.delay_ms)
    return fields
