"""Who is a member: the contents of a CONFIG entry.

The configuration in force is the latest in the log, committed or not (dissertation 4.1). The first entry of every
log is one: the founding members, and the random id of the cluster that the first leader drew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from zraft.raft.quorum import is_quorum, quorum_index


class Address(NamedTuple):
    """Where a member listens, as ``tcp://host:port``."""

    client: str
    peer: str


Addresses = Mapping[str, Address]


class Membership(NamedTuple):
    """cluster_id: 63 random bits, 0 before the cluster is founded. voters, learners (who receive the log and do not
    vote), outgoing: node id -> Address.

    outgoing: the voters of the old configuration while this is a joint one (paper section 6), else nobody: elections
    and commits then need a majority of either. target: the ids of the voters that were asked for and are not in force
    yet, () if there are none; those of them that are learners still catch up. stores: node id -> the random id of its
    data directory, which tells a member from what it was before its disk was wiped (trap 10); one that is missing or 0
    is not known.
    """

    cluster_id: int
    voters: Addresses
    learners: Addresses = {}
    outgoing: Addresses = {}
    target: tuple[str, ...] = ()
    stores: Mapping[str, int] = {}

    @property
    def electorate(self) -> Addresses:
        """Who votes, and may lead."""
        return {**self.outgoing, **self.voters} if self.outgoing else self.voters

    @property
    def members(self) -> Addresses:
        """Everybody who receives the log."""
        return {**self.electorate, **self.learners} if self.learners else self.electorate

    @property
    def is_changing(self) -> bool:
        """Whether a change was asked for that is not complete."""
        return bool(self.outgoing or self.target)

    def is_quorum(self, agreeing: Collection[str]) -> bool:
        """Whether these are a majority of the voters; in a joint configuration of either set (paper section 6)."""
        return is_quorum(self.voters, agreeing) and (not self.outgoing or is_quorum(self.outgoing, agreeing))

    def quorum_index(self, match_index: Mapping[str, int]) -> int:
        """The largest index that such a majority holds durably (trap 24)."""
        index = quorum_index(self.voters, match_index)
        return min(index, quorum_index(self.outgoing, match_index)) if self.outgoing else index

    def is_store(self, node: str, store_id: int) -> bool:
        """Whether a node with this data directory may be the member of that name (0: it does not say)."""
        known = self.stores.get(node, 0)
        return not known or not store_id or known == store_id

    def describe(self) -> str:
        """In a few words, for the log file."""
        text = ", ".join(self.voters) or "nobody"
        if self.outgoing:
            text += f"; jointly with {', '.join(self.outgoing)}"
        if self.learners:
            text += f"; learners: {', '.join(self.learners)}"
        if self.target:
            text += f"; to become: {', '.join(self.target)}"
        return text

    def encode(self) -> bytes:
        """As the data of a CONFIG entry: JSON, the same bytes for the same members. What is empty is left out."""
        fields: dict[str, Any] = {"cluster_id": self.cluster_id}
        for name in ("voters", "learners", "outgoing"):
            nodes: Addresses = getattr(self, name)
            if nodes or name == "voters":
                fields[name] = {node: {"client": at.client, "peer": at.peer} for node, at in nodes.items()}
        if self.target:
            fields["target"] = list(self.target)
        if self.stores:
            fields["stores"] = dict(self.stores)
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Membership:
        """The reverse. Raises ValueError or KeyError for anything else: a CONFIG entry is only written by a leader."""
        fields = json.loads(data)
        cluster_id, voters = fields["cluster_id"], _decode_nodes(fields["voters"])
        learners, outgoing = (_decode_nodes(fields.get(name, {})) for name in ("learners", "outgoing"))
        return cls(
            cluster_id, voters, learners, outgoing, tuple(fields.get("target", ())), dict(fields.get("stores", {}))
        )


def _decode_nodes(nodes: Any) -> Addresses:
    return {node: Address(at["client"], at["peer"]) for node, at in nodes.items()}
