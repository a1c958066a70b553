"""What consensus says of its core in the node's status."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zraft.raft import Address, Membership, Raft

AddressOf = Callable[[Membership, str], Address]


def report_of(raft: Raft, cluster_id: int, store_id: int, address: AddressOf) -> dict[str, Any]:
    """Role, term, indices, and the members, who are reached where `address` says."""
    return {
        "role": raft.standing,
        "term": raft.current_term,
        "leader": raft.leader_id,
        "commit_index": raft.commit_index,
        "last_index": raft.log.last_index,
        "durable_index": raft.log.durable_index,
        "snapshot_index": raft.snapshot.index,
        "compacted_index": raft.log.base_index,
        "cluster_id": f"{cluster_id:016x}",
        "store_id": f"{store_id:016x}",
        "members": [
            {"id": node, **address(raft.membership, node)._asdict(), **report}
            for node, report in raft.describe_members().items()
        ],
        "members_index": raft.config_index,
        "change": raft.describe_change(),
    }
