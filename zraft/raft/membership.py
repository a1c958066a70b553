"""Who is a member: the contents of a CONFIG entry.

The configuration in force is the latest in the log, committed or not (dissertation 4.1). The first entry of every
log is one: the founding members, and the random id of the cluster that the first leader drew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple


class Address(NamedTuple):
    """Where a member listens, as ``tcp://host:port``."""

    client: str
    peer: str


class Membership(NamedTuple):
    """cluster_id: 63 random bits, 0 before the cluster is founded. voters: node id -> Address."""

    cluster_id: int
    voters: Mapping[str, Address]

    def encode(self) -> bytes:
        """As the data of a CONFIG entry: JSON, the same bytes for the same members."""
        voters = {node: {"client": at.client, "peer": at.peer} for node, at in self.voters.items()}
        return json.dumps({"cluster_id": self.cluster_id, "voters": voters}, sort_keys=True).encode()

    @classmethod
    def decode(cls, data: bytes) -> Membership:
        """The reverse. Raises ValueError or KeyError for anything else: a CONFIG entry is only written by a leader."""
        fields = json.loads(data)
        voters = {node: Address(at["client"], at["peer"]) for node, at in fields["voters"].items()}
        return cls(fields["cluster_id"], voters)
