"""Linearizable reads without a log entry: ReadIndex (dissertation 6.4).

One round of heartbeats is shared by all reads that wait when it begins. A read joins only a round that is first
sent after the read arrived, and only acknowledgements of that round in this term count (trap 14): a leader that was
paused past its timeout and deposed cannot answer from what it held before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zraft.raft.snapshots import Snapshots
from zraft.raft.state import Role


class Reads(Snapshots):
    """Reads are opaque contexts, handed back with the index that must be applied before they are answered."""

    def read(self, contexts: Sequence[Any]) -> bool:
        """Queue reads; they come back in Output.reads_ready or reads_refused. False: this node does not lead."""
        if self.role is not Role.LEADER:
            return False
        self.reads_waiting.extend(contexts)
        return True

    def maybe_start_read_round(self) -> None:
        """Begin a round if reads wait and none is under way."""
        if not self.reads_waiting or self.reads_in_round:
            return
        if self.commit_index < self.term_start_index:
            return  # not before this leader's own first entry has committed: it does not know the commit index (trap 2)
        self.reads_in_round, self.reads_waiting = self.reads_waiting, []
        self.read_index = self.commit_index
        self.read_round += 1
        self.read_round_acks = {self.id}
        for peer, progress in self.progress.items():
            self.send_heartbeat(peer, progress)
        self.maybe_finish_read_round()

    def on_round_ack(self, peer: str, round_number: int) -> None:
        """A follower has seen the round in this term."""
        if self.reads_in_round and round_number == self.read_round:
            self.read_round_acks.add(peer)
            self.maybe_finish_read_round()

    def maybe_finish_read_round(self) -> None:
        """With a quorum, no newer leader had committed anything before the round began."""
        if self.membership.is_quorum(self.read_round_acks):
            self.output.reads_ready.append((self.read_index, self.reads_in_round))
            self.reads_in_round = []
            self.maybe_start_read_round()
