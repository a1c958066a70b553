"""One Raft node: the inputs that it takes and the outputs that it gives. Start reading here.

Inputs: `tick`, `step` (a peer's message), `propose`, `read`, `transfer_leadership`, `change_members`, `on_appended`,
`on_applied`, `on_log_read`, `on_disk_full`, `on_log_writer_restarted`, `on_applier_restarted`, and of `snapshots`
`on_snapshot_read`, `on_snapshot_written`, `on_snapshot_saved`. None of them does anything but
change variables; after a batch of them `take_output` says what is to be written, sent, applied and answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from zraft.errors import NodeMustStop
from zraft.messages import (
    PEER_REPLIES,
    AppendEntries,
    AppendReply,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Removed,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from zraft.raft.log import RaftLog
from zraft.raft.reconfiguration import Reconfiguration
from zraft.raft.replication import MAX_TAIL_BYTES
from zraft.raft.state import NOTHING, Output, Role


class Raft(Reconfiguration):
    """See the module, and `State` for the variables."""

    # --- time

    @property
    def tick_ms(self) -> int:
        """How often this wants to know the time: a leader acts once a heartbeat, and looks after reads while there are
        some; others have a deadline to meet."""
        heartbeat_ms = self.settings.heartbeat_ms
        if self.role is not Role.LEADER:
            return max(1, heartbeat_ms // 2)
        return heartbeat_ms if self.now_ms >= self.watch_reads_until_ms else self.read_watch_ms

    def tick(self, now_ms: int) -> None:
        """Time is now_ms (monotonic). If it jumped, this process did not run meanwhile, and neither did the messages
        that wait in its sockets reach it: the time that it did not see does not count against anybody."""
        before, self.now_ms = self.now_ms, now_ms
        if not before:
            self.arm_election()
        else:
            heartbeat_ms = self.settings.heartbeat_ms
            longest_tick_ms = heartbeat_ms if self.role is Role.LEADER else self.tick_ms
            missed_ms = now_ms - before - longest_tick_ms - heartbeat_ms // 2
            if missed_ms > 0:
                self.forgive(missed_ms)
        if self.role is Role.LEADER:
            self.tick_leader()
        elif now_ms >= self.election_deadline_ms:
            self.campaign()

    def forgive(self, missed_ms: int) -> None:
        """Move every deadline by the time that this node did not see."""
        if missed_ms >= self.settings.election_timeout_ms[0] // 2:
            self.note(f"did not run for {missed_ms} ms")
        self.election_deadline_ms += missed_ms
        self.transfer_deadline_ms += missed_ms
        self.applier_lost_ms += missed_ms
        if self.oldest_write_ms is not None:
            self.oldest_write_ms += missed_ms
        for progress in self.progress.values():
            progress.last_contact_ms += missed_ms
            progress.last_progress_ms += missed_ms

    def tick_leader(self) -> None:
        """Heartbeats, check-quorum, a transfer that failed, a disk that does not answer."""
        if self.disk_stalled():
            self.give_up_leadership("its disk is full" if self.disk_full else "its disk does not answer")
            return
        applier_missing_ms = 0 if self.applier_known else self.now_ms - self.applier_lost_ms
        if applier_missing_ms > self.settings.election_timeout_ms[1] and self.peers:
            self.give_up_leadership("its state machine does not come back; it may load a large snapshot")
            return
        self.check_quorum()
        if self.role is not Role.LEADER:
            return
        if self.transferee and self.now_ms >= self.transfer_deadline_ms:
            if not self.is_voter:
                self.give_up_leadership("it is no member any more")
                return
            self.note(f"{self.transferee} did not take over: leads on")
            self.transferee = None
        if self.now_ms >= self.heartbeat_due_ms:
            self.heartbeat_due_ms = self.now_ms + self.settings.heartbeat_ms
            self.send_heartbeats()
            self.maybe_send_timeout_now()
            # What a follower held back that has caught up since, or is away for long: others come back.
            self.compact(self.settings.long_away_ms)
        else:
            self.watch_read_round()

    # --- peers

    def step(self, sender: str, message: Any, store_id: int = 0, meant_for: int = 0) -> None:
        """A message from a peer. Terms first (paper 5.1), then what it says.

        A request is taken from whoever sends it: it may be a member by an entry that is not here yet (dissertation
        4.1). A reply counts only from a member, and from its present life. store_id: of the sender's data directory;
        meant_for: of the one that the sender takes this node to have (0: it does not say, or know)."""
        if sender == self.id:
            return
        if meant_for and self.store_id and meant_for != self.store_id:
            self.on_mistaken(sender)
            return
        kind = type(message)
        membership = self.membership
        is_reply = kind in PEER_REPLIES
        if is_reply:
            if not (sender in membership.members and membership.is_store(sender, store_id)):
                return  # trap 10
        elif store_id and (self.strangers or store_id != membership.stores.get(sender)):
            self.hear_store(sender, store_id)
        if self.fresh and self.id in membership.voters:
            if sender not in membership.voters:
                return
            self.stop_if_wiped(sender, message)
        if kind is Removed:
            self.on_removed(sender, message)
            return
        if kind is RequestVote and self.tell_if_removed(sender, message):
            return
        term = message.term
        if term < self.current_term:
            self.step_older_term(sender, message)
            return
        if term > self.current_term and not self.step_newer_term(sender, message):
            return
        if is_reply:
            self.step_reply(sender, message, store_id)
        elif kind is AppendEntries:
            self.on_append_entries(sender, message)
        elif kind is Heartbeat:
            self.on_heartbeat(sender, message)
        elif kind is InstallSnapshot:
            self.on_install_snapshot(sender, message)
        elif kind is RequestVote:
            self.on_request_vote(sender, message)
        elif kind is TimeoutNow:
            self.on_timeout_now(sender)

    def step_reply(self, sender: str, message: Any, store_id: int) -> None:
        """From a member, in the current term."""
        kind = type(message)
        if kind is VoteReply:
            self.on_vote_reply(sender, message, store_id)
        elif self.role is Role.LEADER:
            if kind is AppendReply:
                self.on_append_reply(sender, message)
                self.maybe_send_timeout_now()
            elif kind is HeartbeatReply:
                self.on_heartbeat_contact(self.progress[sender])
                self.on_round_ack(sender, message.round)
            elif kind is InstallSnapshotReply:
                self.on_install_snapshot_reply(sender, message)

    def on_mistaken(self, sender: str) -> None:
        """The sender knows the member of this name by another data directory (trap 10): what it says is not meant for
        this one. A founder that has promised nothing stops, as below; who was added may be about to be added again.
        A member knows better: the sender has not heard yet that it is one."""
        if self.membership.stores.get(self.id) == self.store_id:
            return
        if self.fresh and self.id in self.membership.voters:
            self.stop_as_wiped(sender)
        if sender not in self.mistaken:
            self.mistaken.add(sender)
            self.note(
                f"{sender} knows {self.id} by another data directory than this one, which is no member. If the data of "
                f"{self.id} was lost, remove {self.id} from the cluster and add it again, with an empty data directory"
            )

    def stop_if_wiped(self, sender: str, message: Any) -> None:
        """Trap 22: a node without any hard state cannot have taken part in this cluster's first election, which was
        unanimous, so if there is a leader or a log, its own data was lost, and its votes with it; to go on could
        elect two leaders in a term."""
        kind = type(message)
        leads = kind in (AppendEntries, Heartbeat, TimeoutNow, InstallSnapshot)
        has_data = leads or kind is RequestVote and message.last_log_index > 0
        if has_data:
            self.stop_as_wiped(sender)

    def stop_as_wiped(self, sender: str) -> NoReturn:
        """Raises NodeMustStop."""
        raise NodeMustStop(
            f"{self.id}: its data directory is empty, but {sender} has data of a cluster with {self.id} in it: "
            f"{self.id}'s data was lost. Remove {self.id} from the cluster and add it again as a new node"
        )

    def step_newer_term(self, sender: str, message: Any) -> bool:
        """Returns whether the message, of a term above ours, is still to be handled in (or for) that term."""
        kind = type(message)
        if kind is RequestVote:
            if not message.transfer and self.is_sticky():
                if message.pre_vote:
                    self.send(sender, VoteReply(self.current_term, False, True))
                return False
            if message.pre_vote:
                self.on_request_vote(sender, message)
                return False
        if kind is VoteReply and message.pre_vote and message.granted:
            self.on_vote_reply(sender, message)
            return False
        if self.fresh and kind is not RequestVote and self.id in self.membership.voters:
            return False  # trap 22: only a vote ends freshness, else a wiped disk that heard of a term could vote again
        leads = kind in (AppendEntries, Heartbeat, InstallSnapshot)
        self.become_follower(message.term, sender if leads else None, f"{sender} is in term {message.term}")
        return True

    def step_older_term(self, sender: str, message: Any) -> None:
        """Who leads or campaigns in an old term is told of the present one; all else is late and means nothing."""
        kind = type(message)
        if kind is AppendEntries:
            refusal = AppendReply(self.current_term, False, message.prev_log_index, 0, self.log.last_index + 1)
            self.send(sender, refusal)
        elif kind is Heartbeat:
            self.send(sender, HeartbeatReply(self.current_term, message.round))
        elif kind is InstallSnapshot:
            self.send(sender, InstallSnapshotReply(self.current_term, message.last_included_index, 0))
        elif kind is RequestVote:
            self.send(sender, VoteReply(self.current_term, False, message.pre_vote))

    def on_timeout_now(self, sender: str) -> None:
        """The leader wants this node to take over (dissertation 3.10). Late ones, of a leader that went on or is gone,
        are recognised by the term. Who holds nothing has nothing to take over: it would be taken for a candidate of
        the first election by a wiped disk (trap 22). Nor does who has not read its clock yet: the log's clock would
        jump when it does (trap 17). The leader asks again."""
        may_campaign = self.now_ms > 0 and self.is_voter and self.log.last_index > 0 and not self.disk_stalled()
        if may_campaign and self.applier_known and self.role in (Role.FOLLOWER, Role.PRE_CANDIDATE):
            self.note(f"{sender} hands leadership over")
            self.become_candidate(transfer=True)

    # --- clients

    def propose(self, commands: Sequence[bytes]) -> int | None:
        """Append commands to the log of this leader. Returns the index of the first; None: refused, none appended."""
        if self.role is not Role.LEADER or self.transferee or self.log.tail_bytes > MAX_TAIL_BYTES:
            return None
        return self.append_as_leader(EntryKind.COMMAND, commands)

    # --- this node's disk and state machine

    def on_appended(self, sequence: int) -> None:
        """All writes up to this one are durable."""
        self.durable_sequence = max(self.durable_sequence, sequence)
        self.oldest_write_ms = None if sequence >= self.sequence else self.now_ms
        self.log.synced(sequence)
        if self.hard_state_durable:
            self.on_hard_state_durable()

    def on_disk_full(self, full: bool) -> None:
        """There is no space for more, or there is again."""
        self.note("the disk is full" if full else "the disk has space again")
        self.disk_full = full
        if full and self.role is Role.LEADER:
            self.give_up_leadership("its disk is full")

    def on_log_writer_lost(self) -> None:
        """It began a new life: nothing is handed to it before it has said what is durable. Until then the disk counts
        as one that does not answer (trap 12)."""
        self.log_writer_known = False
        if self.oldest_write_ms is None:
            self.oldest_write_ms = self.now_ms

    def on_log_writer_restarted(self, disk_log: RaftLog) -> None:
        """What was handed to it and not acknowledged may be lost: the rest is written again. Replies that waited for
        it are lost, as packets are."""
        self.log_writer_known = True
        self.log.restart_writes(disk_log)
        self.durable_sequence = self.sequence
        self.oldest_write_ms = None
        self.disk_full = False
        if not self.fresh:
            self.set_hard_state(self.current_term, self.voted_for)
        self.reading_for_applier = False
        for progress in self.progress.values():
            progress.reading = False

    def on_applier_lost(self) -> None:
        """It began a new life: nothing is handed to it before it has said what it holds; what was read from disk for
        the old life, earlier in this batch, neither."""
        self.applier_known = False
        self.applier_lost_ms = self.now_ms
        self.output.apply.clear()

    def on_applier_restarted(self, applied: int, time_ms: int) -> None:
        """It holds the state up to applied, where the log's clock showed time_ms; the rest is handed to it again. If
        what comes next has left the log, it missed a snapshot that was adopted meanwhile."""
        if applied > self.log.last_index:
            raise NodeMustStop(
                f"the disk has lost what it had made durable: {applied} entries were applied, those up to "
                f"{self.log.last_index} are there. Check the disk; then remove this node and add it again as a new one"
            )
        if applied < self.log.base_index:
            self.restore(self.snapshot.index)
            return
        self.commit_index = max(self.commit_index, applied)
        self.log.last_time_ms = max(self.log.last_time_ms, time_ms)
        self.output.restore = 0  # if it was to be asked for in this batch, it has loaded that by itself
        self.applier_known = True
        self.applied_index = self.applying_index = applied
        self.applying_runs.clear()
        self.reading_for_applier = False

    # --- output

    def take_output(self) -> Output:
        """What is to be done now, once a batch of inputs was taken in; the caller does it in the order of Output."""
        if self.role is Role.LEADER:
            self.maybe_commit()
            self.maybe_change_members()
            self.replicate()
            self.send_snapshots()
            self.maybe_start_read_round()
        if self.applying_index < self.commit_index:
            self.apply_committed()
        write = self.take_write()
        if write is None and self.output.is_empty():
            return NOTHING
        output, self.output = self.output, Output()
        output.write = write
        return output
