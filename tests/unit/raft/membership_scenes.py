"""What tests of changes of the members have in common: what is asked for, by whom, and what came of it."""

from __future__ import annotations

import json
from typing import Any

from cluster_harness import Cluster, Node

from zraft.messages import (
    EntryKind,
)
from zraft.raft import Membership
from zraft.raft.change import ChangeRefused, parse_change

STORES = {f"n{number}": 100 + number for number in range(1, 10)}


def at(name: str) -> dict[str, str]:
    return {"client": f"tcp://{name}:1", "peer": f"tcp://{name}:2"}


def add(name: str, learner: bool = False) -> dict[str, Any]:
    return {"op": "add", "id": name, **at(name), "learner": learner}


def remove(name: str) -> dict[str, Any]:
    return {"op": "remove", "id": name}


def change_to(*voters: str, new: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"op": "set", "voters": list(voters), "nodes": {name: at(name) for name in new}}


def led(size: int = 3, *waiting: str) -> Cluster:
    """n1 leads; `waiting` wait to be added."""
    cluster = Cluster(size)
    for name, node in cluster.nodes.items():
        node.store_id = STORES[name]
        node.begin()
        cluster.tick(node)
    for name in waiting:
        cluster.join(name, STORES[name])
    cluster.elect("n1")
    cluster.settle()
    return cluster


def ask(cluster: Cluster, change: dict[str, Any], stores: dict[str, int] = STORES, name: str = "n1") -> int:
    """A leader is asked for a change. Returns the index of its first entry."""

    def begin(raft: Any) -> int | ChangeRefused:
        try:
            wanted = parse_change(raft.membership, json.dumps(change).encode())
            return int(raft.change_members(wanted, {node: stores[node] for node in wanted.joining}))
        except ChangeRefused as refusal:
            return refusal

    result = cluster.input(cluster[name], begin)
    if isinstance(result, ChangeRefused):
        raise result
    return int(result)


def members(node: Node) -> Membership:
    return node.raft.membership


def done(cluster: Cluster, *voters: str) -> bool:
    """Whether these are the voters, for the leader, and nothing is under way."""
    leaders = [node for node in cluster.leaders() if node.raft.config_index <= node.raft.commit_index]
    return any(set(members(node).voters) == set(voters) and not members(node).is_changing for node in leaders)


def until(cluster: Cluster, *voters: str, ms: int = 5_000) -> Node:
    assert cluster.run(ms, until=lambda: done(cluster, *voters)), [node.notes[-5:] for node in cluster.nodes.values()]
    cluster.run(100)  # the others hear of it
    return cluster.leader()


def config_entries(node: Node) -> list[Membership]:
    entries = [node.entry(index) for index in range(1, node.raft.log.last_index + 1)]
    return [Membership.decode(entry.data) for entry in entries if entry.kind == EntryKind.CONFIG]
