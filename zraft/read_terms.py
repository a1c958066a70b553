"""What consensus says to clients that read in the leader's term: which other voter they must find in it, and the term.

The leader of a term may answer a read from its state if no newer leader was elected before the read began. Instead of
asking the others itself (ReadIndex, dissertation 6.4) it can leave that to the reader, who asks one of them while it
asks the leader. A voter that was in this term at any time after the read began has not voted in a newer one before. If
it is a quorum together with the leader, nobody was elected by then, for two quorums share a node.
"""

from __future__ import annotations

from collections.abc import Iterable

from zraft.messages import ReadAt
from zraft.raft import Raft
from zraft.wire import Condition, ReplyStatus, Statement, pack_condition, pack_statement


class Conditions:
    """Packs a condition once for each term and configuration."""

    def __init__(self) -> None:
        self._partners: tuple[str, ...] = ()
        self._cluster_and_term = (0, 0)
        self._packed = b""

    def read_at(self, raft: Raft | None, cluster_id: int, reads: tuple[tuple[int, bytes], ...]) -> ReadAt | None:
        """What the applier shall answer, at the present commit index and under which condition. None: it takes a round,
        or another node. No single voter would do, or only one whose data directory is not known (trap 10)."""
        condition = b"" if raft is None else self._pack(raft, cluster_id)
        return ReadAt(raft.commit_index, reads, condition) if raft is not None and condition else None

    def _pack(self, raft: Raft, cluster_id: int) -> bytes:
        partners = raft.read_partners()
        cluster_and_term = (cluster_id, raft.current_term)
        if partners is not self._partners or cluster_and_term != self._cluster_and_term:
            known = raft.membership.stores
            stores = tuple(known[peer] for peer in partners if known.get(peer))
            self._partners, self._cluster_and_term = partners, cluster_and_term
            self._packed = pack_condition(Condition(*cluster_and_term, stores)) if stores and cluster_id else b""
        return self._packed


def state_term(
    raft: Raft | None, cluster_id: int, store_id: int, tokens: Iterable[int]
) -> list[tuple[int, ReplyStatus, bytes]]:
    """Replies with this node's term; with nothing while that is not on its disk (trap 7), or there is none."""
    body = b""
    if raft is not None and not raft.fresh and cluster_id and raft.hard_state_durable:
        body = pack_statement(Statement(cluster_id, store_id, raft.current_term))
    return [(token, ReplyStatus.OK, body) for token in tokens]
