"""Snapshots instead of a log that grows for ever (paper section 7; dissertation 5).

Their bytes are somebody else's: this decides when a follower gets one, what a follower makes of one, and how much of
the log may go.
"""

from __future__ import annotations

from zraft.errors import NodeMustStop
from zraft.messages import AppendReply, InstallSnapshot, InstallSnapshotReply
from zraft.raft.progress import ProgressState
from zraft.raft.replication import Replication
from zraft.raft.state import Role, SavedSnapshot

MAX_HELD_ENTRIES = 500_000
MAX_HELD_BYTES = 1024 * 1024 * 1024
"""A leader keeps so much, at most, for a follower that is being brought up to date: else each snapshot that it gets
would be too old by the time that it has it."""

MAX_KEPT_BYTES = 16 * 1024 * 1024
"""Of `Settings.snapshot_keep`: with entries of a hundred KiB, which batches of writes are, sending more would take
longer than a snapshot."""


class Snapshots(Replication):
    """Sending, receiving, and letting go of the log."""

    # --- leader

    def send_snapshots(self) -> None:
        """Have the next pieces read for every follower that needs a snapshot, as its window allows."""
        for peer, progress in self.progress.items():
            if progress.state is not ProgressState.SNAPSHOT:
                continue
            while (offset := progress.next_piece()) is not None:
                self.output.snapshot_reads.append((peer, progress.snapshot_index, offset))

    def on_snapshot_read(self, peer: str, index: int, offset: int, data: bytes, size: int) -> None:
        """A piece for a follower; size 0: that snapshot is gone, a newer one has taken its place. If that is being sent
        already, this is a late answer; if there is none, what was asked for is asked for again when it is overdue."""
        progress = self.progress.get(peer)
        if progress is None or progress.state is not ProgressState.SNAPSHOT:
            return
        if not size:
            if progress.snapshot_index < self.snapshot.index:
                self.begin_snapshot(progress)
        elif index == progress.snapshot_index:
            self.send(peer, InstallSnapshot(self.current_term, index, progress.snapshot_term, offset, size, data))

    def on_install_snapshot_reply(self, peer: str, reply: InstallSnapshotReply) -> None:
        """How much of it the follower has."""
        progress = self.progress[peer]
        progress.last_contact_ms = self.now_ms
        if progress.state is ProgressState.SNAPSHOT and reply.last_included_index == progress.snapshot_index:
            progress.snapshot_taken(reply.offset, self.now_ms)

    # --- follower

    def on_install_snapshot(self, leader: str, message: InstallSnapshot) -> None:
        """Figure 13, InstallSnapshot receiver. The term has been dealt with. One that covers no more than what this
        node knows to be committed, or has in its log, is not needed (trap 5)."""
        self.heard_from_leader(leader)
        index = message.last_included_index
        if index > self.commit_index and self.log.has(index, message.last_included_term):
            self.learn_commit(index)
        if index > self.commit_index:
            self.output.snapshot_pieces.append((leader, message))
            return
        held = min(self.commit_index, self.log.durable_index)
        self.send(leader, AppendReply(self.current_term, True, held, 0, 0))

    def on_snapshot_written(self, leader: str, index: int, offset: int) -> None:
        """The disk has taken a piece."""
        if self.role is Role.FOLLOWER and self.leader_id == leader:
            self.send(leader, InstallSnapshotReply(self.current_term, index, offset))

    # --- both

    def on_snapshot_saved(self, saved: SavedSnapshot) -> None:
        """A snapshot is durable: this node's own, or one from a leader, which then stands for the log up to its index
        unless the log holds that much itself. What it covers is committed, whoever sent it."""
        if saved.index < self.snapshot.index:
            raise NodeMustStop(
                f"the snapshot of the first {self.snapshot.index} entries was whole, and is not now; the newest that "
                f"is one reaches to {saved.index}. Check the disk, then start the node again: it tries that one"
            )
        is_known = saved.index == self.snapshot.index
        self.snapshot = saved  # of a known one, too: the older one may have been found damaged since
        if is_known:
            return
        if self.log.has(saved.index, saved.term) or saved.index <= self.commit_index:
            self.commit_index = max(self.commit_index, saved.index)
            if self.log.has(saved.index, saved.term):
                self.adopt_snapshot()
        else:
            self.note(f"adopts a snapshot of the first {saved.index} entries")
            self.adopt_snapshot()
            self.commit_index = saved.index
            self.restore(saved.index)
        if self.role is Role.FOLLOWER and self.leader_id is not None:
            held = min(self.commit_index, self.log.durable_index)
            self.send(self.leader_id, AppendReply(self.current_term, True, held, 0, 0))
        self.compact(self.settings.election_timeout_ms[1])

    def restore(self, index: int) -> None:
        """Have the state machine load the snapshot; nothing is handed to it until it has."""
        self.applier_known = False
        self.applier_lost_ms = self.now_ms
        self.output.apply.clear()
        self.output.restore = index

    def compact(self, away_ms: int) -> None:
        """Let go of the log that is behind the *older* of the two snapshots on disk, so that the newer one may turn
        out damaged, and that no follower is likely to need (trap 25: compacted <= snapshot). Who was not heard for
        away_ms needs nothing."""
        if not self.applier_known:
            return  # what a new life holds may be less than the last one had applied
        index, log = self.snapshot.index, self.log
        kept = max(index - self.settings.snapshot_keep, self.spare_index, log.index_before(index, MAX_KEPT_BYTES))
        held = max(index - MAX_HELD_ENTRIES, log.index_before(index, MAX_HELD_BYTES))
        through = min(self.snapshot.older_index, kept, self.applied_index)
        for progress in self.progress.values():
            if self.now_ms - progress.last_contact_ms <= away_ms:
                needed = max(progress.match_index, progress.snapshot_index)
                through = min(through, max(needed, held))
        if through > log.base_index:
            log.compact(through)
            self.output.compact = through
