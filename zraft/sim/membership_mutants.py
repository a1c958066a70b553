"""The classic mistakes with changes of the members."""

from __future__ import annotations

from typing import Any

from zraft.actors.consensus import Consensus
from zraft.actors.transport import Transport
from zraft.messages import AppendReply, NodeFound
from zraft.raft.admission import Admission
from zraft.raft.election import Elections
from zraft.raft.membership import Membership
from zraft.raft.quorum import is_quorum, quorum_index
from zraft.raft.raft import Raft
from zraft.raft.reconfiguration import Reconfiguration
from zraft.raft.replication import Replication
from zraft.raft.state import Role, State
from zraft.sim.mutant import mutant

# --- when a change may begin, and from when on it holds


@mutant("change-before-noop", "2", "goes on with a change of members before the leader's own first entry has committed")
def _change_before_noop(patch: Any) -> None:
    original = Reconfiguration.why_no_change

    def why_no_change(self: Reconfiguration) -> str:
        term_start, self.term_start_index = self.term_start_index, 0
        refusal = original(self)
        self.term_start_index = term_start
        return refusal

    def on_change_members(self: Consensus, sender: str, message: Any) -> None:
        raft = self.raft
        if raft is None or raft.role is not Role.LEADER or raft.transferee:
            self.refuse([message.token])
        else:
            self.changes.request(raft, message.token, message.change)

    patch(Reconfiguration, "why_no_change", why_no_change)
    patch(Consensus, "on_change_members", on_change_members)


@mutant("two-changes-at-once", "3", "begins the next configuration before the last one has committed")
def _two_changes_at_once(patch: Any) -> None:
    original = Reconfiguration.why_no_change

    def why_no_change(self: Reconfiguration) -> str:
        refusal = original(self)
        return "" if refusal.startswith("another change") else refusal

    patch(Reconfiguration, "why_no_change", why_no_change)


@mutant("members-outlive-truncation", "3", "goes by a configuration that has left the log with its entry")
def _members_outlive_truncation(patch: Any) -> None:
    patch(State, "truncate_configs", lambda self, first: None)


@mutant("snapshot-without-members", "4", "does not take the members from a snapshot that it adopts")
def _snapshot_without_members(patch: Any) -> None:
    original = State.adopt_snapshot

    def adopt_snapshot(self: State) -> None:
        known = self.configs[-1]
        original(self)
        self.configs[0] = (self.configs[0][0], known[1])

    patch(State, "adopt_snapshot", adopt_snapshot)


@mutant("members-when-committed", "6", "goes by a configuration only when it has committed")
def _members_when_committed(patch: Any) -> None:
    def membership(self: State) -> Membership:
        committed = [members for index, members in self.configs if index <= self.commit_index]
        return committed[-1] if committed else self.configs[0][1]

    patch(State, "membership", property(membership))


@mutant("without-joint", "24", "goes from the old voters to the new ones in one step")
def _without_joint(patch: Any) -> None:
    original = Reconfiguration.append_config

    def append_config(self: Reconfiguration, membership: Membership) -> int:
        return original(self, membership._replace(outgoing={}, target=()) if membership.outgoing else membership)

    patch(Reconfiguration, "append_config", append_config)


# --- who counts


@mutant("joint-by-new-voters", "24", "asks only the new voters while a configuration is joint")
def _joint_by_new_voters(patch: Any) -> None:
    patch(Membership, "is_quorum", lambda self, agreeing: is_quorum(self.voters, agreeing))
    patch(Membership, "quorum_index", lambda self, match_index: quorum_index(self.voters, match_index))


@mutant("joint-by-old-voters", "24", "asks only the old voters while a configuration is joint")
def _joint_by_old_voters(patch: Any) -> None:
    patch(Membership, "is_quorum", lambda self, agreeing: is_quorum(self.outgoing or self.voters, agreeing))
    patch(Membership, "quorum_index", lambda self, match_index: quorum_index(self.outgoing or self.voters, match_index))


@mutant("learners-counted", "24", "counts learners where voters decide")
def _learners_counted(patch: Any) -> None:
    patch(Membership, "is_quorum", lambda self, agreeing: is_quorum(self.members, agreeing))
    patch(Membership, "quorum_index", lambda self, match_index: quorum_index(self.members, match_index))


@mutant("removed-leader-counts-itself", "24", "counts the log of a leader that is no voter any more")
def _removed_leader_counts_itself(patch: Any) -> None:
    original = Membership.quorum_index

    def maybe_commit(self: Replication) -> None:
        match = {peer: progress.match_index for peer, progress in self.progress.items()}
        match[self.id] = self.log.durable_index
        membership = self.membership
        if self.id not in membership.electorate:
            missing = min(membership.voters, key=lambda voter: match.get(voter, 0))
            match[missing] = match[self.id]
        index = original(membership, match)
        if index > self.commit_index and self.log.term(index) == self.current_term:
            self.commit_index = index

    patch(Replication, "maybe_commit", maybe_commit)


@mutant("former-life-acks", "10", "counts what a node had acknowledged before it was wiped and added again")
def _former_life_acks(patch: Any) -> None:
    original = Raft.step

    def step(self: Raft, sender: str, message: Any, store_id: int = 0, meant_for: int = 0) -> None:
        if type(message) is AppendReply:
            store_id = self.membership.stores.get(sender, store_id)
        original(self, sender, message, store_id, meant_for)

    patch(Raft, "step", step)


def _take_what_is_meant_for_the_name(patch: Any) -> None:
    """Who waits to be added takes frames that are meant for a member of its name."""
    original = Transport.why_refused

    def why_refused(self: Transport, frame: Any) -> str:
        return "" if self.identity.waiting and frame.receiver == self.node else original(self, frame)

    patch(Transport, "why_refused", why_refused)


@mutant("stores-ignored", "22", "takes a member with a wiped disk for what it was, by its name alone")
def _stores_ignored(patch: Any) -> None:
    original = Raft.step

    def step(self: Raft, sender: str, message: Any, store_id: int = 0, meant_for: int = 0) -> None:
        original(self, sender, message, self.membership.stores.get(sender, store_id))

    patch(Raft, "step", step)
    _take_what_is_meant_for_the_name(patch)


@mutant("joiner-votes", "22", "votes, and by its name alone, while it waits to be added and knows no cluster")
def _joiner_votes(patch: Any) -> None:
    original, answer = Raft.step, Elections.on_request_vote

    def step(self: Raft, sender: str, message: Any, store_id: int = 0, meant_for: int = 0) -> None:
        original(self, sender, message, store_id, meant_for if self.membership.voters else 0)

    def on_request_vote(self: Elections, candidate: str, request: Any) -> None:
        waiting, configs = not self.membership.voters, self.configs
        if waiting:
            self.configs = [(0, self.membership._replace(voters={candidate: None}))]  # type: ignore[dict-item]
        answer(self, candidate, request)
        self.configs = configs

    patch(Raft, "step", step)
    patch(Elections, "on_request_vote", on_request_vote)
    _take_what_is_meant_for_the_name(patch)


@mutant("adds-anybody", "10", "adds whoever answers at an address, whatever it holds and whoever it is")
def _adds_anybody(patch: Any) -> None:
    original = Admission.on_found

    def on_found(self: Admission, cluster_id: int, found: NodeFound) -> None:
        if found.address in self._missing:
            node, client = self._missing[found.address]
            original(self, cluster_id, found._replace(node=node, client=client, waiting=True))

    patch(Admission, "on_found", on_found)


# --- availability


@mutant("removed-campaigns", "13", "campaigns on, in ever new terms, when it is no member any more")
def _removed_campaigns(patch: Any) -> None:
    original = Elections.campaign

    def campaign(self: Elections) -> None:
        if self.is_voter or not self.log.last_index:
            original(self)
        else:
            self.become_candidate(transfer=False)

    patch(Elections, "campaign", campaign)


@mutant("removed-leader-leads-on", "13", "leads on when it is no member any more")
def _removed_leader_leads_on(patch: Any) -> None:
    original = Reconfiguration.maybe_change_members

    def maybe_change_members(self: Reconfiguration) -> None:
        if self.is_voter:
            original(self)

    patch(Reconfiguration, "maybe_change_members", maybe_change_members)


@mutant("silent-learner", "23", "answers no candidate while it takes itself for a learner")
def _silent_learner(patch: Any) -> None:
    original = Elections.on_request_vote

    def on_request_vote(self: Elections, candidate: str, request: Any) -> None:
        if self.id not in self.membership.learners:
            original(self, candidate, request)

    patch(Elections, "on_request_vote", on_request_vote)


@mutant("promotes-at-once", "26", "makes a learner a voter however far it is behind")
def _promotes_at_once(patch: Any) -> None:
    patch(Reconfiguration, "close_learners", lambda self: set(self.membership.learners))
