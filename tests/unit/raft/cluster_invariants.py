"""What must hold at every moment (paper, figure 3), checked by somebody who sees all nodes and all disks at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zraft.messages import AppendReply, Entry, EntryKind, Removed, RequestVote, VoteReply
from zraft.raft import Membership, Role

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
        self._configs_seen: dict[str, Any] = {}
        self._commit_seen: dict[str, tuple[int, int]] = {}

    def after_step(self, node: Node) -> None:
        """A node took a batch of inputs in."""
        raft = node.raft
        log = raft.log
        durable, unsent = log.durable_index, log.unsent_index
        assert durable < unsent <= log.last_index + 1, f"{node.id}: {durable} < {unsent} <= {log.last_index} + 1"
        assert raft.applied_index <= raft.applying_index, (raft.applied_index, raft.applying_index)
        assert raft.applying_index <= max(min(raft.commit_index, log.durable_index), len(node.applied))
        assert log.base_index <= raft.snapshot.index <= raft.commit_index, (log.base_index, raft.snapshot, raft)
        assert raft.snapshot == node.disk.saved() or raft.snapshot.index < node.disk.saved().index or not node.running
        assert node.disk.base[0] <= node.disk.saved().index, f"{node.id}: its log begins after its newest snapshot"
        self.log_matching(node)
        self.members(node)
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
        before, time_ms = log.term(log.base_index), 0
        if log.base_index:
            held = node.disk.holds(log.base_index)
            assert held and held.term == before, f"{node.id}: begins after {log.base_index}/{before}, has {held}"
        for index in range(log.base_index + 1, log.last_index + 1):
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
            self.durable_on_majority(node, index, entry)
            self.committed.append(entry)
            self.committed_in.append(term)
            for later in self.leader_logs:
                if later > term:
                    self.leader_completeness(later, index, entry)
        self._commit_seen[node.id] = (node.lives, max(checked, commit))

    def members(self, node: Node) -> None:
        """In force is the latest configuration, in the log or behind it (traps 3 and 4)."""
        log, configs = node.raft.log, node.raft.configs
        if self._configs_seen.get(node.id) == (self._log_seen[node.id], configs):
            return
        self._configs_seen[node.id] = (self._log_seen[node.id], list(configs))
        found = [(0, node.founding)]
        for index in range(1, log.last_index + 1):
            entry = node.entry(index)
            if entry.kind == EntryKind.CONFIG:
                found.append((index, Membership.decode(entry.data)))
        known = dict(found)
        first = configs[0]
        behind = [members for index, members in found if index <= first[0]][-1]
        assert first[1] == behind, f"{node.id}: at {first[0]} the members are {behind}, not {first[1]}"
        in_log = [(index, members) for index, members in found if index > max(first[0], log.base_index)]
        assert configs[len(configs) - len(in_log) :] == in_log, f"{node.id}: {configs}, in the log: {in_log}"
        assert all(known.get(index) == members for index, members in configs[1:]), f"{node.id}: {configs}, not {found}"
        assert node.raft.membership == found[-1][1], f"{node.id}: members {node.raft.membership}, not {found[-1]}"

    def on_saved(self, node: Node) -> None:
        """A snapshot covers nothing but what is committed, and all of it up to its index (trap 25)."""
        for snapshot in node.disk.snapshots[-1:]:
            assert snapshot.index <= len(self.committed), f"{node.id}: a snapshot of what is not committed: {snapshot}"
            assert list(snapshot.state) == self.committed[: snapshot.index], f"{node.id}: a snapshot of something else"

    def on_compact(self, node: Node, through: int) -> None:
        """Compacted <= older snapshot <= snapshot, compacted <= applied (trap 25)."""
        indices = [snapshot.index for snapshot in node.disk.snapshots]
        assert len(indices) == 2 and through <= indices[0], f"{node.id}: compacts to {through}, snapshots {indices}"
        assert through <= len(node.applied), f"{node.id}: compacts to {through}, applied {len(node.applied)}"

    def durable_on_majority(self, node: Node, index: int, entry: Entry) -> None:
        """By the members that its leader, the first to know, knew when it committed it (trap 24); others may be in
        force since the same step."""
        holders = []
        for other in self.nodes.values():
            if other.id == self.wiped or other.disk.holds(index) == entry:
                holders.append(other.id)
        configs = [members for _, members in node.raft.configs[-2:]]
        assert any(members.is_quorum(holders) for members in configs), (
            f"entry {index} committed, durable only on {holders}"
        )

    def on_apply(self, node: Node, first: int, entries: tuple[Entry, ...]) -> None:
        """Applied in order, only what is committed and durable here, and not half-known."""
        assert first == len(node.applied) + 1, f"{node.id} applies {first} after {len(node.applied)}"
        last = first + len(entries) - 1
        assert list(entries) == self.committed[first - 1 : last], f"{node.id} applies what is not committed: {first}.."
        held = [node.disk.holds(index) for index in range(first, last + 1)]
        assert list(entries) == held, f"{node.id} applies what is not durable: {first}.."
        assert node.applied == self.committed[: first - 1], f"{node.id}'s state is not what was committed"

    def on_send(self, packet: Packet) -> None:
        """Trap 7: no term, no vote, no acknowledgement leaves a node before it is durable there."""
        message: Any = packet.message
        if type(message) is Removed:
            return
        disk = self.nodes[packet.sender].disk
        raft = self.nodes[packet.sender].raft
        log = raft.log
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
            held = disk.holds(message.at_index) if message.at_index else None
            if term == message.term and message.at_index:
                assert held, f"{packet}: on disk up to {len(disk.entries)}"
                known = raft.current_term == term and log.base_index <= message.at_index <= log.last_index
                assert not known or held.term == log.term(message.at_index), f"{packet}: on disk {held}"
        if vote:
            assert term > message.term or voted_for == vote, f"{packet}: {voted_for} on disk"
            known = self.votes.setdefault((packet.sender, message.term), vote)
            assert known == vote, f"{packet.sender} votes for {known} and {vote} in term {message.term}"
