"""Who is a member from now on (paper section 6; dissertation 4): a change from its first entry to its last.

The leader takes every step when the one before has committed; so does its successor, for the steps are in the log.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from zraft.messages import EntryKind, Removed, RequestVote
from zraft.raft.change import Change, ChangeRefused, first_step, next_step
from zraft.raft.election import Elections
from zraft.raft.membership import Membership
from zraft.raft.progress import Progress
from zraft.raft.quorum import is_quorum
from zraft.raft.state import Role


class Reconfiguration(Elections):
    """A leader's changes of the members, and what those make of it who were removed."""

    # --- leader

    def why_no_change(self) -> str:
        """Why no change of the members may begin now, "" if one may."""
        if self.role is not Role.LEADER:
            return "not the leader"
        if self.commit_index < self.term_start_index:
            return "this leader has just begun; try again"  # trap 2: it does not know yet what is committed
        if self.transferee:
            return "leadership is being handed over; try again"
        if self.config_index > self.commit_index:
            return "another change is under way: wait for it"  # trap 3
        return ""

    def change_members(self, change: Change, stores: Mapping[str, int]) -> int:
        """Begin a change, of which the rest follows by itself. stores: the data directories of those who join.

        Returns the index of its first entry. Raises ChangeRefused."""
        refusal = self.why_no_change()
        if refusal:
            raise ChangeRefused(refusal)
        step = first_step(self.membership, change, stores)
        silent = self.too_many_silent(step.target, change.joining)
        if silent:
            raise ChangeRefused(
                f"of the voters {', '.join(step.target)} too few would be at work: {', '.join(silent)} do not answer "
                "now, and the cluster could decide nothing any more. Start them first, or change to others"
            )
        return self.append_config(step)

    def too_many_silent(self, voters: Collection[str], joining: Collection[str] = ()) -> list[str]:
        """Which of these voters the leader does not hear from, if the others are no majority; else none. joining: who
        just said who they are. To change to such a set would be the last that the cluster decides."""
        oldest = self.now_ms - self.settings.election_timeout_ms[1]
        answer = {self.id, *joining}
        for peer, progress in self.progress.items():
            if progress.match_index and progress.last_contact_ms >= oldest:
                answer.add(peer)
        return [] if is_quorum(voters, answer) or not voters else [node for node in voters if node not in answer]

    def maybe_change_members(self) -> None:
        """The next step of a change, once the last one has committed; and once this leader is out, its end."""
        membership = self.membership
        if membership is self.settled_config:
            return
        for peer in membership.learners:
            progress = self.progress.get(peer)
            if progress is not None:
                progress.follow_round(self.log.last_index, self.now_ms)
        if self.why_no_change():
            return
        if not self.is_voter:
            self.transfer_leadership("")
            return
        if not membership.learners and not membership.is_changing:
            self.settled_config = membership  # nothing to look for until there is another
            return
        step = next_step(self.membership, self.close_learners())
        if step is None or (step.outgoing and self.too_many_silent(step.voters)):
            return
        self.append_config(step)

    def close_learners(self) -> set[str]:
        """Who has caught up so far that its vote would hold nothing up (trap 26)."""
        timeout_ms = self.settings.election_timeout_ms[0]
        learners = self.membership.learners
        return {peer for peer in learners if self.progress[peer].is_close(self.now_ms, timeout_ms)}

    def append_config(self, membership: Membership) -> int:
        """Put a configuration in force."""
        progress = {}
        for node in membership.members:
            if node != self.id:
                progress[node] = self.progress.get(node) or Progress(self.log.last_index, self.now_ms)
        index = self.append_as_leader(EntryKind.CONFIG, [membership.encode()])
        self.progress = progress
        self.adopt_config(index, membership)
        if self.reads_in_round:
            self.maybe_finish_read_round()  # who has seen it may suffice now, and there may be nobody else to answer
        return index

    # --- who was removed

    def tell_if_removed(self, candidate: str, request: RequestVote) -> bool:
        """Whether a candidate is no member by what is committed, and cannot know it: then it is told. So is the former
        life of a member, which may come back from where nobody wiped it."""
        index, membership = self.config_index, self.membership
        is_member = candidate in membership.members and membership.is_store(candidate, self.strangers.get(candidate, 0))
        if is_member or not 0 < index <= self.commit_index:
            return False
        term = self.log.term(index)
        knows = (request.last_log_term, request.last_log_index) >= (term, index)
        if knows and not self.log.has(request.last_log_index, request.last_log_term):
            return False  # it holds later entries: it may have been added by one that is not here yet
        self.send(candidate, Removed(index, term))
        return True

    def on_removed(self, sender: str, message: Removed) -> None:
        """A member says that this node is none. It stops to campaign until a leader sends it entries again. If it holds
        the entry in question, and is a member all the same, it knows better; that it has later ones says little: they
        may not have been committed."""
        index, term = message
        if self.role is Role.LEADER or self.is_sticky() or index <= self.commit_index:
            return
        if self.id in self.membership.members and self.log.has(index, term):
            return
        if not self.removed_at:
            self.note(f"was removed from the cluster by entry {index}, says {sender}: campaigns no more")
        self.removed_at = index
        if self.role is not Role.FOLLOWER:
            self.become_follower(self.current_term, None, "it was removed")

    @property
    def standing(self) -> str:
        """What this node is, for people: its role as a voter; "learner"; "joining": it receives the log, or waits to;
        "removed"."""
        if self.removed_at:
            return "removed"
        if self.is_voter or self.role is not Role.FOLLOWER:
            return self.role.value
        if self.id in self.membership.learners:
            return "learner"
        return "joining" if self.is_sticky() or not self.membership.voters else "removed"

    def describe_members(self) -> dict[str, dict[str, Any]]:
        """For people, by id: role; outgoing: votes only until the change is complete; and, which only a leader knows,
        match_index: up to where it holds the log, active: whether it was heard from lately."""
        membership, leads = self.membership, self.role is Role.LEADER
        reports = {}
        for node in membership.members:
            progress = self.progress.get(node)
            match_index, active = (self.log.durable_index, True) if leads and node == self.id else (None, None)
            if progress is not None:
                match_index = progress.match_index
                active = self.now_ms - progress.last_contact_ms <= self.settings.election_timeout_ms[1]
            reports[node] = {
                "role": "learner" if node in membership.learners else "voter",
                "outgoing": node in membership.outgoing and node not in membership.voters,
                "match_index": match_index,
                "active": active,
            }
        return reports

    def describe_change(self) -> dict[str, Any] | None:
        """For people: the change of the members that is under way. target: who shall vote; joint: old and new voters
        decide together."""
        membership = self.membership
        if not membership.is_changing:
            return None
        return {"target": list(membership.target or membership.voters), "joint": bool(membership.outgoing)}
