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
        self.read_round_ms = self.now_ms
        quickest = self.quickest if self.quickest_of is self.membership else ()
        self.few_asked = bool(quickest)
        if quickest:
            self.watch_reads_until_ms = self.now_ms + 2 * self.settings.heartbeat_ms
        for peer in quickest or self.progress:
            self.send_heartbeat(peer, self.progress[peer])
        self.maybe_finish_read_round()

    def read_partners(self) -> tuple[str, ...]:
        """The voters each of whom is a quorum together with this leader; nobody where it must not read yet (trap 2)."""
        if self.role is not Role.LEADER or self.commit_index < self.term_start_index:
            return ()
        membership = self.membership
        if self.partners_of is not membership:
            self.partners_of = membership
            others = [peer for peer in membership.electorate if peer != self.id]
            self.partners = tuple(peer for peer in others if membership.is_quorum({self.id, peer}))
        return self.partners

    def send_heartbeats(self) -> None:
        """To all, once every `heartbeat_ms`. Who answers first is asked for the next rounds of reads."""
        self.choose_quickest()
        if not self.reads_in_round:
            self.read_round += 1  # so that no older answer is taken for one to this
        self.roll_call, self.roll = self.read_round, []
        self.ask_all()

    def ask_all(self) -> None:
        """A heartbeat to everybody, which carries the round of reads, if one is under way."""
        self.few_asked = False
        for peer, progress in self.progress.items():
            self.send_heartbeat(peer, progress)

    def choose_quickest(self) -> None:
        """The first to answer the last heartbeat that are a quorum, together with this node; none if they were not."""
        membership = self.quickest_of = self.membership
        self.quickest = ()
        voters = [peer for peer in self.roll if peer in membership.electorate]
        for count in range(1, len(voters) + 1):
            if membership.is_quorum({self.id, *voters[:count]}):
                self.quickest = tuple(voters[:count])
                return

    def watch_read_round(self) -> None:
        """Ask all if few were asked and have not answered for so long."""
        if self.few_asked and self.reads_in_round and self.now_ms - self.read_round_ms >= 2 * self.read_watch_ms:
            self.ask_all()

    @property
    def read_watch_ms(self) -> int:
        """How often a leader looks after a round that it has sent to few."""
        return max(1, self.settings.heartbeat_ms // 10)

    def on_round_ack(self, peer: str, round_number: int) -> None:
        """A follower has seen the round in this term."""
        if round_number == self.roll_call and peer not in self.roll:
            self.roll.append(peer)
        if self.reads_in_round and round_number == self.read_round:
            self.read_round_acks.add(peer)
            self.maybe_finish_read_round()

    def maybe_finish_read_round(self) -> None:
        """With a quorum, no newer leader had committed anything before the round began."""
        if self.membership.is_quorum(self.read_round_acks):
            self.output.reads_ready.append((self.read_index, self.reads_in_round))
            self.reads_in_round = []
            self.maybe_start_read_round()
