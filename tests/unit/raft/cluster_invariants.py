"""What must hold at every moment (paper, figure 3), checked by somebody who sees all nodes and all disks at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zraft.messages import AppendReply, Entry, RequestVote, VoteReply
from zraft.raft import Role

if TYPE_CHECKING:
    from cluster_harness import Node, Packet


class Invariants:
    """Raises AssertionError, with numbers, at the step that breaks one."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes
        self.leader_of: dict[int, str] = {}  # term -> who leads it
        self.leader_logs: dict[int, list[int]] = {}  # term -> terms of its leader's log when it was elected
        self.entries: dict[tuple[int, int], tuple[Entry, int]] = {}  # (index, term) -> (entry, term of the one before)
        self.votes: dict[tuple[str, int], str] = {}  # (voter, term) -> for whom
        self.committed: list[Entry] = []
        self.committed_in: list[int] = []  # the term in which each was first known as committed
        self.wiped: str | None = None  # a node that lost its disk; what it held before counts as held
        self._log_seen: dict[str, tuple[int, int, int]] = {}
        self._commit_seen: dict[str, tuple[int, int]] = {}

    def after_step(self, node: Node) -> None:
        """A node took a batch of inputs in."""
        raft = node.raft
        log = raft.log
        durable, unsent = log.durable_index, log.unsent_index
        assert durable < unsent <= log.last_index + 1, f"{node.id}: {durable} < {unsent} <= {log.last_index} + 1"
        assert raft.applied_index <= raft.applying_index, (raft.applied_index, raft.applying_index)
        assert raft.applying_index <= max(min(raft.commit_index, log.durable_index), len(node.applied))
        self.log_matching(node)
        if raft.role is Role.LEADER:
            self.election_safety(node)
        self.state_machine_safety(node)

    def election_safety(self, node: Node) -> None:
        """At most one leader a term; it was elected with all that is committed; it never steps back in its log."""
        term = node.raft.current_term
        assert self.leader_of.setdefault(term, node.id) == node.id, f"two leaders in term {term}"
        assert node.disk.hard_state == (term, node.id), f"{node.id} leads term {term}, on disk: {node.disk.hard_state}"
        if term not in self.leader_logs:
            self.leader_logs[term] = node.log_terms
            for index, entry in enumerate(self.committed, 1):
                if self.committed_in[index - 1] < term:
                    self.leader_completeness(term, index, entry)

    def leader_completeness(self, term: int, index: int, entry: Entry) -> None:
        terms = self.leader_logs[term]
        assert index <= len(terms) and terms[index - 1] == entry.term, f"leader of {term} lacks committed entry {index}"

    def log_matching(self, node: Node) -> None:
        """Same index and term: same entry, and the same one before it; so, by induction, the same all the way."""
        log = node.raft.log
        seen = (node.lives, log.last_index, log.last_term)
        if self._log_seen.get(node.id) == seen:
            return
        self._log_seen[node.id] = seen
        before, time_ms = 0, 0
        for index in range(1, log.last_index + 1):
            entry = node.entry(index)
            assert entry.term == log.term(index), f"{node.id}: entry {index} has term {entry.term}, not as the runs say"
            assert entry.term >= before, f"{node.id}: terms go back at {index}"
            assert entry.time_ms >= time_ms, f"{node.id}: the log's clock goes back at {index}"
            known = self.entries.setdefault((index, entry.term), (entry, before))
            assert known == (entry, before), f"{node.id}: {entry} after {before} at {index}, elsewhere {known}"
            before, time_ms = entry.term, entry.time_ms

    def state_machine_safety(self, node: Node) -> None:
        """What is committed stays, everywhere; it is durable on a majority when first known as committed."""
        commit, term = node.raft.commit_index, node.raft.current_term
        lives, checked = self._commit_seen.get(node.id, (0, 0))
        if lives != node.lives:
            checked = 0
        for index in range(checked + 1, commit + 1):
            entry = node.entry(index)
            if index <= len(self.committed):
                assert entry == self.committed[index - 1], f"{node.id}: another entry was committed at {index}"
                continue
            self.durable_on_majority(index, entry)
            self.committed.append(entry)
            self.committed_in.append(term)
            for later in self.leader_logs:
                if later > term:
                    self.leader_completeness(later, index, entry)
        self._commit_seen[node.id] = (node.lives, max(checked, commit))

    def durable_on_majority(self, index: int, entry: Entry) -> None:
        holders = []
        for other in self.nodes.values():
            entries = other.disk.entries
            if other.id == self.wiped or len(entries) >= index and entries[index - 1] == entry:
                holders.append(other.id)
        assert 2 * len(holders) > len(self.nodes), f"entry {index} committed, durable only on {holders}"

    def on_apply(self, node: Node, first: int, entries: tuple[Entry, ...]) -> None:
        """Applied in order, only what is committed and durable here, and not half-known."""
        assert first == len(node.applied) + 1, f"{node.id} applies {first} after {len(node.applied)}"
        last = first + len(entries) - 1
        assert list(entries) == self.committed[first - 1 : last], f"{node.id} applies what is not committed: {first}.."
        assert list(entries) == node.disk.entries[first - 1 : last], f"{node.id} applies what is not durable: {first}.."

    def on_send(self, packet: Packet) -> None:
        """Trap 7: no term, no vote, no acknowledgement leaves a node before it is durable there."""
        message: Any = packet.message
        disk = self.nodes[packet.sender].disk
        term, voted_for = disk.hard_state or (0, None)
        if type(message) in (RequestVote, VoteReply) and message.pre_vote:
            if not getattr(message, "granted", True):
                assert message.term <= term, f"{packet}: term {term} on disk"
            return
        assert message.term <= term, f"{packet}: term {term} on disk"
        vote = None
        if type(message) is RequestVote:
            vote = packet.sender
        elif type(message) is VoteReply and message.granted:
            vote = packet.receiver
        elif type(message) is AppendReply and message.success:
            held = len(disk.entries)
            assert held >= message.at_index or term > message.term, f"{packet}: {held} on disk"
        if vote:
            assert term > message.term or voted_for == vote, f"{packet}: {voted_for} on disk"
            known = self.votes.setdefault((packet.sender, message.term), vote)
            assert known == vote, f"{packet.sender} votes for {known} and {vote} in term {message.term}"
