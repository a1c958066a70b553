"""Log replication (paper 5.3, 5.4) and the disk's answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from zraft.errors import impossible
from zraft.messages import AppendEntries, AppendReply, Entry, EntryKind, Heartbeat, HeartbeatReply
from zraft.raft.log import ENTRY_OVERHEAD_BYTES, MAX_APPLY_BYTES, first_run
from zraft.raft.membership import Membership
from zraft.raft.progress import Progress, ProgressState
from zraft.raft.state import Role, State

MAX_APPLYING_RUNS = 16  # runs of entries (RaftLog.slice) handed to the applier and not applied yet
MAX_TAIL_BYTES = 128 * 1024 * 1024  # in memory, so: not durable, not committed or not applied; then no more is taken
KEEP_TAIL_BYTES = 16 * 1024 * 1024  # of applied entries in memory, for peers that lag a little
REPLAY_SAID_EVERY_MS = 1_000


class Replication(State):
    """A leader's appends, a follower's answers, and what is committed."""

    # --- leader

    def append_as_leader(self, kind: EntryKind, datas: Iterable[bytes]) -> int:
        """Add entries of this term. Returns the index of the first."""
        first = self.log.last_index + 1
        base_log_ms, base_now_ms = self.log_clock
        time_ms = max(self.log.last_time_ms, base_log_ms + self.now_ms - base_now_ms)
        term = self.current_term
        new = tuple.__new__  # of a NamedTuple, quicker than its own
        self.log.append([new(Entry, (term, time_ms, kind, data)) for data in datas])
        return first

    def replicate(self) -> None:
        """Send every follower what its window allows."""
        last_index = self.log.last_index
        for peer, progress in self.progress.items():
            if progress.next_index > last_index and progress.state is ProgressState.REPLICATE:
                continue
            while progress.may_send():
                if progress.next_index <= self.log.base_index:
                    self.note(f"{peer} needs entry {progress.next_index}, which has left the log: sends a snapshot")
                    self.begin_snapshot(progress)
                    break
                behind = progress.next_index <= self.log.last_index
                if not behind and progress.state is ProgressState.REPLICATE:
                    break
                if behind and progress.next_index < self.log.tail_first:
                    progress.reading = True
                    self.output.log_reads.append((peer, progress.next_index))
                    break
                self.send_append_entries(peer, progress, self.log.slice(progress.next_index, self.log.last_index))

    def begin_snapshot(self, progress: Progress) -> None:
        """Send the newest snapshot from its beginning; `snapshots` does the rest."""
        index, term, _, size, _ = self.snapshot
        progress.begin_snapshot(index, term, size, self.now_ms)

    def send_append_entries(self, peer: str, progress: Progress, entries: tuple[Entry, ...]) -> None:
        """Entries from next_index on; empty: a probe whether the logs agree up to there."""
        prev_log_index = progress.next_index - 1
        message = AppendEntries(
            self.current_term, prev_log_index, self.log.term(prev_log_index), self.commit_index, entries
        )
        self.send(peer, message)
        size = sum([len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in entries])
        progress.sent(prev_log_index + len(entries), size, self.now_ms)

    def on_log_read(self, reader: str, first: int, entries: Sequence[Entry]) -> None:
        """Entries that were only on disk. reader: a peer, or "" for the applier; first: what was asked for."""
        if reader:
            progress = self.progress.get(reader)
            if progress is None or not progress.reading:
                return
            progress.reading = False
            run = first_run(entries)
            if not run or progress.next_index != first or first <= self.log.base_index:
                return  # the latter: compacted meanwhile, it needs a snapshot
            if self.log.has(first + len(run) - 1, run[-1].term):
                self.send_append_entries(reader, progress, run)
        elif self.applier_known and first == self.applying_index + 1:  # else asked for an older life of the applier
            self.reading_for_applier = False
            last = min(self.commit_index, self.log.durable_index)
            rest = entries[: max(0, last - first + 1)]
            if rest and not self.log.has(first + len(rest) - 1, rest[-1].term):
                return
            while rest:
                run = first_run(rest)
                self.hand_to_applier(self.applying_index + 1, run)
                rest = rest[len(run) :]

    def on_append_reply(self, peer: str, reply: AppendReply) -> None:
        """A follower holds our entries durably, or refused them (paper 5.3)."""
        progress = self.progress[peer]
        progress.last_contact_ms = self.now_ms
        if reply.success:
            if reply.at_index <= self.log.last_index:
                progress.matched(reply.at_index, self.now_ms)
            return
        retry = reply.conflict_index
        if reply.conflict_term:
            ours = self.log.last_index_of_term(reply.conflict_term)
            if ours and self.log.term(ours) == reply.conflict_term:
                retry = ours + 1
        if progress.rejected(reply.at_index, retry):
            self.note(f"{peer} refused entries after {reply.at_index}: back to {progress.next_index}")

    def send_heartbeat(self, peer: str, progress: Progress) -> None:
        """Show that this leader is there; also the carrier of ReadIndex rounds. Never tells a follower of a commit
        beyond what it is known to hold: its log may differ there."""
        self.send(peer, Heartbeat(self.current_term, min(self.commit_index, progress.match_index), self.read_round))

    def on_heartbeat_contact(self, progress: Progress) -> None:
        """A follower follows, and the link works."""
        progress.last_contact_ms = self.now_ms
        progress.retry_if_overdue(self.now_ms, self.settings.heartbeat_ms)

    def maybe_commit(self) -> None:
        """Figure 2, last rule for leaders: a majority holds it durably and it is of the current term (trap 1)."""
        if self.commit_index == self.log.last_index:
            return
        match = {peer: progress.match_index for peer, progress in self.progress.items()}
        match[self.id] = self.log.durable_index
        index = self.membership.quorum_index(match)
        if index > self.commit_index and self.log.term(index) == self.current_term:
            self.commit_index = index

    # --- follower

    def on_append_entries(self, leader: str, message: AppendEntries) -> None:
        """Figure 2, AppendEntries receiver. The term has been dealt with: `leader` leads the current one."""
        self.heard_from_leader(leader)
        log = self.log
        prev, entries = message.prev_log_index, message.entries
        last_new = prev + len(entries)
        if prev < log.base_index:  # what a snapshot covers is committed, so it is what the leader holds
            entries = entries[log.base_index - prev :]
            prev = min(log.base_index, last_new)
        elif not log.has(prev, message.prev_log_term):
            conflict_index, conflict_term = log.last_index + 1, 0
            if prev <= log.last_index:
                conflict_term = log.term(prev)
                conflict_index = log.first_index_of_run(prev)
            self.send(leader, AppendReply(self.current_term, False, prev, conflict_term, conflict_index))
            return
        if log.tail_bytes > MAX_TAIL_BYTES:
            return  # the disk or the applier does not keep up: as if lost; the leader tries again
        self.append_as_follower(prev, entries)
        self.learn_commit(min(message.leader_commit, last_new))
        reply = AppendReply(self.current_term, True, last_new, 0, 0)
        if last_new <= log.durable_index:
            self.send(leader, reply)
        else:
            self.send_when_durable(leader, reply)

    def append_as_follower(self, prev: int, entries: Sequence[Entry]) -> None:
        """Add what is new; truncate only on a real conflict of terms (trap 6: a late, shorter message removes none)."""
        log = self.log
        for offset, entry in enumerate(entries):
            index = prev + 1 + offset
            if log.has(index, entry.term):
                continue
            if index <= log.last_index:
                self.truncate(index)
            new = entries[offset:]
            log.append(new)
            for position, added in enumerate(new, index):
                if added.kind == EntryKind.CONFIG:
                    self.adopt_config(position, Membership.decode(added.data))
            return

    def truncate(self, first: int) -> None:
        """Remove a conflicting suffix; nothing committed may be in it."""
        if first <= self.commit_index:
            raise impossible("a committed entry conflicts with the leader's", index=first, commit=self.commit_index)
        self.note(f"removes entries {first}..{self.log.last_index}: they conflict with the leader's")
        self.log.truncate(first)
        self.truncate_configs(first)

    def on_heartbeat(self, leader: str, message: Heartbeat) -> None:
        """Answer for the leader's check-quorum and its ReadIndex rounds."""
        self.heard_from_leader(leader)
        self.learn_commit(message.leader_commit)
        self.send(leader, HeartbeatReply(self.current_term, message.round))

    def heard_from_leader(self, leader: str) -> None:
        """The current term's leader is alive (paper 5.2)."""
        if self.role is Role.LEADER:
            raise impossible("two leaders in one term", term=self.current_term, this=self.id, other=leader)
        if self.role is not Role.FOLLOWER or self.leader_id != leader:
            self.become_follower(self.current_term, leader, f"{leader} leads")
        self.last_leader_contact_ms = self.now_ms
        self.removed_at = 0
        self.arm_election()

    def learn_commit(self, leader_commit: int) -> None:
        """Figure 2, AppendEntries 5."""
        if leader_commit > self.commit_index:
            self.commit_index = min(leader_commit, self.log.last_index)

    # --- both

    def apply_committed(self) -> None:
        """Hand on what is committed *and durable here*: with the leader's own write in parallel to replication, a
        majority of others can commit what its disk does not have yet (dissertation 10.2.1)."""
        last = min(self.commit_index, self.log.durable_index) if self.applier_known else 0
        while self.applying_index < last and len(self.applying_runs) < MAX_APPLYING_RUNS:
            first = self.applying_index + 1
            if first < self.log.tail_first:
                if not self.reading_for_applier:
                    self.reading_for_applier = True
                    self.output.log_reads.append(("", first))
                return
            # Of what fits, the same tuple that the peers are sent, which is encoded once.
            self.hand_to_applier(first, first_run(self.log.slice(first, last), MAX_APPLY_BYTES))

    def hand_to_applier(self, first: int, entries: tuple[Entry, ...]) -> None:
        """The next committed entries."""
        self.output.apply.append((first, entries))
        self.applying_index += len(entries)
        self.applying_runs.append(self.applying_index)

    def on_applied(self, index: int, spare: int = 0) -> None:
        """The state machine has applied up to index; what peers are unlikely to need may leave memory. spare: up to
        there the log need not keep entries behind a snapshot, although they are among the last `snapshot_keep`."""
        self.applied_index = max(self.applied_index, index)
        self.spare_index = max(self.spare_index, spare)
        while self.applying_runs and self.applying_runs[0] <= index:
            self.applying_runs.popleft()
        self.log.forget(self.applied_index, KEEP_TAIL_BYTES)
        if self.replay_until:
            self.say_replay()

    def say_replay(self) -> None:
        """A start that takes long says how far it is, about once a second."""
        if self.applied_index >= self.replay_until:
            self.replay_until = 0
        elif self.now_ms - self.replay_said_ms >= REPLAY_SAID_EVERY_MS:
            if self.replay_said_ms:
                self.note(f"replays the log: entry {self.applied_index} of {self.replay_until}")
            self.replay_said_ms = self.now_ms
