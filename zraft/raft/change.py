"""Changes of the members: what may be asked for, and the configurations that lead there (paper section 6).

One command goes any way: new nodes become learners first (trap 26), then one joint configuration leads from the old
voters to the new ones. Every step is a CONFIG entry, so that whichever node leads goes on where the last one stopped.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from zraft.errors import ZraftError
from zraft.raft.membership import Address, Addresses, Membership

MAX_MEMBERS = 64


class ChangeRefused(ZraftError):
    """A change of the members that is not granted. The message says why, and what would be."""


class Change(NamedTuple):
    """What was asked for: these voters and learners, of whom `joining` are not members yet. cancels: it ends another
    change, which waits for a learner to catch up, or for voters to answer."""

    voters: tuple[str, ...]
    learners: tuple[str, ...]
    joining: Addresses
    cancels: bool = False


def parse_change(members: Membership, data: bytes) -> Change:
    """A client's JSON, read against the present members: {"op": "add", "id", "peer", "client", "learner": bool},
    {"op": "remove", "id"}, {"op": "promote", "id"}, or {"op": "set", "voters": [id, ...], "nodes": {id: {"peer",
    "client"}}}. Raises ChangeRefused."""
    try:
        fields = json.loads(data)
        op = fields["op"]
        if op == "add":
            at = Address(_text(fields["client"]), _text(fields["peer"]))
            return _add(members, _text(fields["id"]), at, fields.get("learner", False) is True)
        if op == "remove":
            return _remove(members, _text(fields["id"]))
        if op == "promote":
            return _promote(members, _text(fields["id"]))
        if op == "set":
            nodes = {
                _text(node): Address(_text(at["client"]), _text(at["peer"])) for node, at in fields["nodes"].items()
            }
            return _set(members, [_text(node) for node in fields["voters"]], nodes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ChangeRefused("not a change of the members that this version knows") from None
    raise ChangeRefused(f"not a change of the members that this version knows: {reprlib.repr(op)}")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 300 or not (value.isascii() and value.isprintable()):
        raise ValueError  # JSON can spell what no encoding can write
    return value


def _listed(nodes: Iterable[str]) -> str:
    return ", ".join(nodes) or "nobody"


def _add(members: Membership, node: str, at: Address, learner: bool) -> Change:
    if node in members.members:
        what = "a learner" if node in members.learners else "a voting member"
        raise ChangeRefused(f"{node} is {what} already (members: {_listed(members.members)})")
    voters = tuple(members.voters) + (() if learner else (node,))
    return Change(voters, (*members.learners, node) if learner else tuple(members.learners), {node: at})


def _remove(members: Membership, node: str) -> Change:
    if node not in members.members:
        raise ChangeRefused(f"{node} is not a member (those are: {_listed(members.members)})")
    voters = tuple(voter for voter in members.voters if voter != node)
    cancels = node in members.learners and node in members.target
    return Change(voters, tuple(learner for learner in members.learners if learner != node), {}, cancels)


def _promote(members: Membership, node: str) -> Change:
    if node in members.voters:
        raise ChangeRefused(f"{node} votes already")
    if node not in members.learners:
        raise ChangeRefused(f"{node} is not a member (those are: {_listed(members.members)}); add it first")
    voters = (*members.voters, node)
    return Change(voters, tuple(learner for learner in members.learners if learner != node), {})


def _set(members: Membership, wanted: list[str], nodes: Addresses) -> Change:
    voters = tuple(dict.fromkeys(wanted))
    unknown = [node for node in voters if node not in members.members and node not in nodes]
    if unknown:
        raise ChangeRefused(f"the addresses of {_listed(unknown)} are not known: give them, or add them first")
    surplus = [node for node in nodes if node not in voters]
    if surplus:
        raise ChangeRefused(f"addresses are given for {_listed(surplus)}, who shall not be members")
    known = [node for node in nodes if node in members.members]
    if known:
        raise ChangeRefused(f"{_listed(known)} cannot get other addresses: remove and add again")
    learners = tuple(node for node in members.learners if node not in voters)
    cancels = bool(members.target) and not members.outgoing and set(voters) == set(members.voters)
    return Change(voters, learners, nodes, cancels)


def first_step(members: Membership, change: Change, stores: Mapping[str, int]) -> Membership:
    """The configuration that begins this change, and after which the leader goes on by itself (`next_step`).

    stores: the data directories of those who join. Raises ChangeRefused: one change at a time (trap 3), and none that
    changes nothing or leaves nobody."""
    if not change.voters:
        raise ChangeRefused("no voting member would be left")
    if members.is_changing and not change.cancels:
        raise ChangeRefused(
            f"another change is under way, to {_listed(members.target)}: wait for it, remove the nodes that do not "
            "catch up, or set the present voters"
        )
    everybody = {**members.members, **change.joining}
    _check_addresses(everybody)
    target = () if set(change.voters) == set(members.voters) else change.voters
    stay = {*members.voters, *change.voters, *change.learners}
    learners = {node: at for node, at in everybody.items() if node in stay and node not in members.voters}
    known = {node: store for node, store in {**members.stores, **stores}.items() if node in stay}
    step = members._replace(learners=learners, target=target, stores=known)
    if step == members:
        raise ChangeRefused("that is how it is already")
    return step


def _check_addresses(everybody: Addresses) -> None:
    if len(everybody) > MAX_MEMBERS:
        raise ChangeRefused(f"at most {MAX_MEMBERS} members")
    users: dict[str, str] = {}
    for node, at in everybody.items():
        for use, address in zip(Address._fields, at, strict=True):
            user = users.setdefault(address, f"the {use} address of {node}")
            if user != f"the {use} address of {node}":
                raise ChangeRefused(f"{node}: {address} is {user} already")


def next_step(members: Membership, close: Collection[str]) -> Membership | None:
    """What follows a committed configuration, if a change is under way. close: the learners that have caught up."""
    if members.outgoing:
        return _final(members)
    if not members.target or any(node in members.learners and node not in close for node in members.target):
        return None
    everybody = members.members
    voters = {node: everybody[node] for node in members.target}
    learners = {node: at for node, at in members.learners.items() if node not in voters}
    return members._replace(voters=voters, learners=learners, outgoing=members.voters)


def _final(members: Membership) -> Membership:
    """The new voters alone."""
    stay = {*members.voters, *members.learners}
    stores = {node: store for node, store in members.stores.items() if node in stay}
    return members._replace(outgoing={}, target=(), stores=stores)
