"""Deliberate bugs: each a classic mistake that a trap of the design names, patched in from outside.

A mutant lives as long as the `with` block that plants it. No production code knows of any.
"""

from __future__ import annotations

from typing import Any

from zraft.actors.applier import Applier
from zraft.actors.log_writer import LogWriter
from zraft.client.term_check import TermChecks
from zraft.messages import Applied, EntryKind
from zraft.raft import membership
from zraft.raft.election import Elections
from zraft.raft.log import RaftLog
from zraft.raft.membership import Membership
from zraft.raft.raft import Raft
from zraft.raft.reads import Reads
from zraft.raft.replication import Replication
from zraft.raft.state import State
from zraft.sim import membership_mutants, snapshot_mutants
from zraft.sim.mutant import MUTANTS, mutant, planted
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.sessions import Answers, Session, Sessions
from zraft.storage import format as layout
from zraft.storage.boundary import BoundaryDisk
from zraft.wire import Condition

__all__ = ["MUTANTS", "membership_mutants", "planted", "snapshot_mutants"]


# --- committing and reading


@mutant("commit-old-term", "1", "counts replicas of entries of older terms (paper, figure 8)")
def _commit_old_term(patch: Any) -> None:
    def maybe_commit(self: Replication) -> None:
        match = {peer: progress.match_index for peer, progress in self.progress.items()}
        match[self.id] = self.log.durable_index
        self.commit_index = max(self.commit_index, self.membership.quorum_index(match))

    patch(Replication, "maybe_commit", maybe_commit)


@mutant("read-before-noop", "2", "begins a read round before the leader's own first entry has committed")
def _read_before_noop(patch: Any) -> None:
    original = Reads.maybe_start_read_round

    def maybe_start_read_round(self: Reads) -> None:
        term_start, self.term_start_index = self.term_start_index, 0
        original(self)
        self.term_start_index = term_start

    patch(Reads, "maybe_start_read_round", maybe_start_read_round)


@mutant("read-without-round", "14", "answers reads from what the leader holds, without asking whether it still leads")
def _read_without_round(patch: Any) -> None:
    def maybe_start_read_round(self: Reads) -> None:
        if self.reads_waiting and self.commit_index >= self.term_start_index:
            self.output.reads_ready.append((self.commit_index, self.reads_waiting))
            self.reads_waiting = []

    patch(Reads, "maybe_start_read_round", maybe_start_read_round)


@mutant("any-round-acks", "14", "takes an acknowledgement of any round for one of the present round")
def _any_round_acks(patch: Any) -> None:
    original = Reads.on_round_ack

    def on_round_ack(self: Reads, peer: str, round_number: int) -> None:
        original(self, peer, self.read_round)

    patch(Reads, "on_round_ack", on_round_ack)


@mutant("join-running-round", "14", "lets a read join a round that was sent before the read arrived")
def _join_running_round(patch: Any) -> None:
    original = Reads.read

    def read(self: Reads, contexts: Any) -> bool:
        taken = original(self, contexts)
        if taken and self.reads_in_round:
            self.reads_in_round += self.reads_waiting
            self.reads_waiting = []
        return taken

    patch(Reads, "read", read)


@mutant("believes-any-condition", "14", "a client takes the leader's conditional answer without asking anybody")
def _believes_any_condition(patch: Any) -> None:
    patch(Condition, "holds", lambda self, statement: True)


@mutant("statement-from-before", "14", "a client takes a statement from before the read for one to the read")
def _statement_from_before(patch: Any) -> None:
    original = TermChecks.begin

    def begin(self: TermChecks, *arguments: Any) -> Any:
        before = self._current
        check = original(self, *arguments)
        if check is not None and before is not None and before.statement is not None:
            check.said, check.statement = True, before.statement
        return check

    patch(TermChecks, "begin", begin)


@mutant("any-partner", "24", "takes every voter for a quorum together with the leader")
def _any_partner(patch: Any) -> None:
    original = Reads.read_partners

    def read_partners(self: Reads) -> tuple[str, ...]:
        original(self)
        self.partners = tuple(peer for peer in self.membership.electorate if peer != self.id)
        return original(self)

    patch(Reads, "read_partners", read_partners)


@mutant("minority-commits", "24", "takes the index that the best node holds for the one that a majority holds")
def _minority_commits(patch: Any) -> None:
    def too_high(voters: Any, match_index: Any) -> int:
        held = sorted((match_index.get(node, 0) for node in voters), reverse=True)
        return int(held[len(held) // 2 - 1]) if held else 0

    patch(membership, "quorum_index", too_high)


@mutant("double-counted-votes", "24", "counts votes, so that a vote that arrives twice counts twice")
def _double_counted_votes(patch: Any) -> None:
    original = Elections.on_vote_reply

    def on_vote_reply(self: Elections, peer: str, reply: Any, store_id: int = 0) -> None:
        counted = peer
        while reply.granted and counted in self.votes:
            counted += "'"
        original(self, counted, reply, store_id)

    def has_won(self: Elections) -> bool:
        if self.log.last_index == 0:
            return all(node in self.votes for node in self.membership.voters)
        return 2 * len(self.votes) > len(self.membership.voters)

    patch(Elections, "on_vote_reply", on_vote_reply)
    patch(Elections, "has_won", has_won)


# --- logs


@mutant("truncate-always", "6", "cuts the log to what an AppendEntries holds, conflict or not")
def _truncate_always(patch: Any) -> None:
    def append_as_follower(self: Replication, prev: int, entries: Any) -> None:
        if entries:
            if prev < self.log.last_index:
                self.log.truncate(prev + 1)
                self.truncate_configs(prev + 1)
            self.log.append(entries)
            for position, added in enumerate(entries, prev + 1):
                if added.kind == EntryKind.CONFIG:
                    self.adopt_config(position, Membership.decode(added.data))

    patch(Replication, "append_as_follower", append_as_follower)


@mutant("aba-ack", "8", "lets the completion of an overwritten append prove what stands there now")
def _aba_ack(patch: Any) -> None:
    original = RaftLog.truncate

    def truncate(self: RaftLog, first: int) -> None:
        writes = [tuple(write) for write in self._writes]
        original(self, first)
        for write, (_, last) in zip(self._writes, writes, strict=True):
            write[1] = last

    patch(RaftLog, "truncate", truncate)


@mutant("ack-before-durable", "7", "acknowledges entries that are not on disk yet")
def _ack_before_durable(patch: Any) -> None:
    def send_when_durable(self: State, peer: str, message: Any) -> None:
        self.send(peer, message)

    patch(State, "send_when_durable", send_when_durable)


@mutant("vote-before-durable", "7", "says terms and votes that are not on disk yet")
def _vote_before_durable(patch: Any) -> None:
    def send(self: State, peer: str, message: Any) -> None:
        self.output.messages.append((peer, message))

    patch(State, "send", send)


@mutant("candidacy-before-durable", "7", "counts the candidate's own vote before it is on disk")
def _candidacy_before_durable(patch: Any) -> None:
    original = Elections.become_candidate

    def become_candidate(self: Elections, transfer: bool) -> None:
        original(self, transfer)
        self.votes.add(self.id)
        self.maybe_become_leader()

    patch(Elections, "become_candidate", become_candidate)


@mutant("leader-counts-unsynced", "9", "counts the leader's own log before its fsync")
def _leader_counts_unsynced(patch: Any) -> None:
    def maybe_commit(self: Replication) -> None:
        match = {peer: progress.match_index for peer, progress in self.progress.items()}
        match[self.id] = self.log.last_index
        index = self.membership.quorum_index(match)
        if index > self.commit_index and self.log.term(index) == self.current_term:
            self.commit_index = index

    patch(Replication, "maybe_commit", maybe_commit)


@mutant("apply-undurable", "25", "applies what is committed but not durable on this node")
def _apply_undurable(patch: Any) -> None:
    original = Replication.apply_committed

    def apply_committed(self: Replication) -> None:
        durable, self.log.durable_index = self.log.durable_index, self.log.last_index
        original(self)
        self.log.durable_index = durable

    patch(Replication, "apply_committed", apply_committed)


@mutant("commit-past-append", "6", "takes leader_commit for its own although its log may differ from there on")
def _commit_past_append(patch: Any) -> None:
    original = Replication.send_heartbeat

    def send_heartbeat(self: Replication, peer: str, progress: Any) -> None:
        match, progress.match_index = progress.match_index, self.commit_index
        original(self, peer, progress)
        progress.match_index = match

    patch(Replication, "send_heartbeat", send_heartbeat)


# --- availability


@mutant("no-check-quorum", "11", "leads on when it reaches no majority")
def _no_check_quorum(patch: Any) -> None:
    patch(Elections, "check_quorum", lambda self: None)


@mutant("no-stickiness", "11", "helps to depose a leader that it hears from")
def _no_stickiness(patch: Any) -> None:
    patch(Elections, "is_sticky", lambda self: False)


@mutant("leads-on-stalled-disk", "12", "leads on while its disk answers nothing")
def _leads_on_stalled_disk(patch: Any) -> None:
    patch(State, "disk_stalled", lambda self: False)
    patch(Raft, "on_disk_full", lambda self, full: None)


@mutant("no-pre-vote", "13", "raises its term without asking whether it could win")
def _no_pre_vote(patch: Any) -> None:
    def campaign(self: Elections) -> None:
        self.arm_election()
        if self.id in self.membership.voters and not self.disk_stalled():
            self.become_candidate(transfer=False)

    patch(Elections, "campaign", campaign)


# --- sessions and the state machine


@mutant("answers-forgotten", "16", "keeps no answers, so that a retry is executed again")
def _answers_forgotten(patch: Any) -> None:
    patch(Session, "record", lambda self, answers: None)


@mutant("last-answer-only", "16", "keeps the last answer of a session only")
def _last_answer_only(patch: Any) -> None:
    original = Session.record

    def record(self: Session, answers: Answers) -> None:
        self.answers.clear()
        original(self, dict([max(answers.items())]) if answers else {})

    patch(Session, "record", record)


@mutant("expiry-by-use", "17", "ends sessions by what this process has seen, not by the log")
def _expiry_by_use(patch: Any) -> None:
    original = Sessions.expire
    calls = [0]  # in this process, by all nodes: as little a function of the log as a clock is

    def expire(self: Sessions, now_ms: int) -> None:
        calls[0] += 1
        if calls[0] % 97 == 0 and len(self) > 1:
            self.close(next(iter(self._by_use)))
        original(self, now_ms)

    patch(Sessions, "expire", expire)


@mutant("index-outlives-state", "18", "remembers the applied index over the loss of the state")
def _index_outlives_state(patch: Any) -> None:
    reached: dict[str, int] = {}
    original = Applier.end_batch

    def on_recover(self: Applier, sender: str, message: Any) -> None:
        self.waiting_reads.clear()
        reached_index = max(self.machine.last_applied, reached.get(_process_of(self), 0))
        self.context.send(sender, Applied(reached_index, self.machine.log_time_ms, True))

    def end_batch(self: Applier) -> None:
        original(self)
        reached[_process_of(self)] = self.machine.last_applied

    patch(Applier, "on_recover", on_recover)
    patch(Applier, "end_batch", end_batch)


def _process_of(actor: Any) -> str:
    seed: str = actor.context._process.seed
    return seed


@mutant("skips-a-command", "18", "moves the applied index past a command that it did not apply")
def _skips_a_command(patch: Any) -> None:
    original = StateMachine.apply

    def apply(self: StateMachine, index: int, time_ms: int, data: bytes) -> bytes:
        if index % 50 == 0:
            self.skip(index, time_ms)
            return b""
        return original(self, index, time_ms, data)

    patch(StateMachine, "apply", apply)


# --- storage


@mutant("sync-retried", "20", "takes the success of a retried fsync for one")
def _sync_retried(patch: Any) -> None:
    original = BoundaryDisk.sync

    def sync(self: BoundaryDisk, handle: int) -> None:
        try:
            original(self, handle)
        except OSError:
            original(self, handle)

    patch(BoundaryDisk, "sync", sync)


@mutant("cuts-damage", "21", "takes every bad record for a torn tail, and cuts it")
def _cuts_damage(patch: Any) -> None:
    patch(layout, "durable_claim", lambda *arguments: 0)
    patch(layout, "decode_mark", lambda *arguments: 0)


@mutant("wiped-takes-part", "22", "goes on with an empty disk as if it had never held anything")
def _wiped_takes_part(patch: Any) -> None:
    original = Raft.step

    def step(self: Raft, sender: str, message: Any, store_id: int = 0, meant_for: int = 0) -> None:
        original(self, sender, message, store_id)

    patch(Raft, "step", step)
    patch(Raft, "stop_if_wiped", lambda self, sender, message: None)


@mutant("first-election-by-majority", "22", "elects the first leader by a majority")
def _first_election_by_majority(patch: Any) -> None:
    patch(Elections, "has_won", lambda self: self.membership.is_quorum(self.votes))


# --- lives of actors


@mutant("no-fence", "Recover", "writes and answers what a dead consensus had asked for")
def _no_fence(patch: Any) -> None:
    patch(LogWriter, "on_neighbour_restarted", lambda self, name: None)


@mutant("writes-not-repeated", "Recover", "does not hand entries to a new log_writer that the old one lost")
def _writes_not_repeated(patch: Any) -> None:
    original = RaftLog.restart_writes

    def restart_writes(self: RaftLog, disk: RaftLog) -> None:
        unsent = self.unsent_index
        original(self, disk)
        self.unsent_index = max(unsent, self.unsent_index)

    patch(RaftLog, "restart_writes", restart_writes)
