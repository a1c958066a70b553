"""Leader election (paper 5.2, 5.4.1), with pre-vote (dissertation 9.6), leader stickiness and check-quorum (6.2)."""

from __future__ import annotations

from zraft.messages import EntryKind, RequestVote, TimeoutNow, VoteReply
from zraft.raft.progress import Progress
from zraft.raft.quorum import is_unanimous
from zraft.raft.reads import Reads
from zraft.raft.state import Role


class Elections(Reads):
    """Who leads, and who stops to."""

    # --- candidate

    def campaign(self) -> None:
        """The election timeout passed: ask whether an election could be won, before raising the term for it."""
        self.arm_election()
        if not self.may_be_needed or self.removed_at:
            return  # trap 13: who has no vote raises no term
        if self.disk_stalled() or not self.applier_known:
            return  # it could not even write its vote, or, still loading its state, answer anybody
        if not self.peers:
            self.become_candidate(transfer=False)
            return
        self.role = Role.PRE_CANDIDATE
        self.leader_id = None
        self.transfer_election = False  # whoever asked for it asked for one election, not for all that follow
        self.votes = {self.id}
        self.note(f"asks for pre-votes for term {self.current_term + 1}")
        self.request_votes(self.current_term + 1, pre_vote=True)

    def become_candidate(self, transfer: bool) -> None:
        """A new term with a vote for oneself, which counts when it is durable, as everybody's (trap 7)."""
        self.role = Role.CANDIDATE
        self.leader_id = None
        self.votes = set()
        self.transfer_election = transfer
        self.set_hard_state(self.current_term + 1, self.id)
        self.arm_election()
        self.note(f"becomes candidate in term {self.current_term}")
        self.request_votes(self.current_term, pre_vote=False)

    def request_votes(self, term: int, pre_vote: bool) -> None:
        """Ask all other voters."""
        log = self.log
        message = RequestVote(term, log.last_index, log.last_term, pre_vote, self.transfer_election)
        for peer in self.peers:
            self.send(peer, message)

    def on_vote_reply(self, peer: str, reply: VoteReply, store_id: int = 0) -> None:
        """The term has been dealt with. store_id: of the voter's data directory, 0 if it does not say."""
        if not reply.granted:
            return
        if self.role is Role.PRE_CANDIDATE and reply.pre_vote and reply.term == self.current_term + 1:
            self.votes.add(peer)
            if self.has_won():
                self.become_candidate(transfer=False)
        elif self.role is Role.CANDIDATE and not reply.pre_vote and reply.term == self.current_term:
            self.votes.add(peer)
            self.voter_stores[peer] = store_id
            self.maybe_become_leader()

    def on_hard_state_durable(self) -> None:
        """The candidate's vote for itself is on its disk."""
        if self.role is Role.CANDIDATE and self.id not in self.votes:
            self.votes.add(self.id)
            self.maybe_become_leader()

    def has_won(self) -> bool:
        """A majority; for the first election of all, everybody (trap 22): afterwards no member is without a hard
        state, so that a wiped disk can be told from a new one."""
        if self.log.last_index == 0:
            return is_unanimous(self.membership.voters, self.votes)
        return self.membership.is_quorum(self.votes)

    def maybe_become_leader(self) -> None:
        """Only with one's own vote, which proves the term to be durable here."""
        if self.id in self.votes and self.has_won():
            self.become_leader()

    def become_leader(self) -> None:
        """Figure 2, leaders: the first entry of the term goes out at once and carries the commits of older terms."""
        self.role = Role.LEADER
        self.leader_id = self.id
        self.note(f"becomes leader of term {self.current_term}, elected by {', '.join(sorted(self.votes))}")
        self.votes = set()
        self.transfer_election = False
        others = [node for node in self.membership.members if node != self.id]
        self.progress = {peer: Progress(self.log.last_index, self.now_ms) for peer in others}
        self.log_clock = (self.log.last_time_ms, self.now_ms)
        self.transferee = None
        if self.log.last_index == 0:
            stores = {**self.voter_stores, self.id: self.store_id}
            cluster_id = self.rng.getrandbits(62) + 1
            founding = self.membership._replace(cluster_id=cluster_id, stores=dict(sorted(stores.items())))
            self.term_start_index = self.append_as_leader(EntryKind.CONFIG, [founding.encode()])
            self.adopt_config(self.term_start_index, founding)
        else:
            self.term_start_index = self.append_as_leader(EntryKind.NOOP, [b""])
        self.heartbeat_due_ms = self.now_ms
        self.roll, self.quickest = [], ()

    # --- voter

    def on_request_vote(self, candidate: str, request: RequestVote) -> None:
        """Figure 2, RequestVote receiver. For a real vote the term has been dealt with."""
        log = self.log
        newer = (request.last_log_term, request.last_log_index) >= (log.last_term, log.last_index)
        newer = newer and bool(self.membership.voters)  # who waits to be added knows no cluster to vote in (trap 22)
        if request.pre_vote:
            granted = newer and request.term > self.current_term
            self.send(candidate, VoteReply(request.term if granted else self.current_term, granted, True))
            return
        granted = newer and request.term == self.current_term and self.voted_for in (None, candidate)
        if granted:
            if self.voted_for is None:
                self.set_hard_state(self.current_term, candidate)
                self.note(f"votes for {candidate} in term {self.current_term}")
            self.arm_election()
        self.send(candidate, VoteReply(self.current_term, granted, False))

    def is_sticky(self) -> bool:
        """Whether this node has a living leader, so that it helps nobody to depose it (dissertation 4.2.3)."""
        if self.role is Role.LEADER:
            return True  # check-quorum sees to it that it reaches a majority
        if self.leader_id is None or self.last_leader_contact_ms is None:
            return False
        return self.now_ms - self.last_leader_contact_ms < self.settings.election_timeout_ms[0]

    # --- leader

    def check_quorum(self) -> None:
        """A leader that has not heard from a majority for an election timeout steps down (trap 11)."""
        oldest = self.now_ms - self.settings.election_timeout_ms[1]
        active = {peer for peer, progress in self.progress.items() if progress.last_contact_ms >= oldest}
        if not self.membership.is_quorum(active | {self.id}):
            self.become_follower(self.current_term, None, f"reaches only {', '.join(sorted(active)) or 'nobody'}")

    def transfer_leadership(self, target: str) -> str:
        """Begin to hand over to target, or ("") to the peer that holds most (dissertation 3.10).

        Returns "" or why it cannot be done. Until it is done or times out, proposals are refused."""
        if self.role is not Role.LEADER:
            return "not the leader"
        if target == self.id:
            return ""
        successors = self.successors()
        if target and target not in successors:
            return f"{target} is not a voting member other than the leader (those are: {', '.join(successors)})"
        if not successors:
            return "there is no other voting member"
        self.transferee = target or max(successors, key=self.reachability)
        self.transfer_deadline_ms = self.now_ms + self.settings.election_timeout_ms[1]
        self.note(f"hands leadership to {self.transferee}")
        self.maybe_send_timeout_now()
        return ""

    def successors(self) -> list[str]:
        """Who may lead next: the other voters, in a joint configuration those who stay."""
        return [node for node in self.membership.voters if node in self.progress]

    def reachability(self, peer: str) -> tuple[bool, int]:
        """How fit a peer is to take over: was it heard from lately, how much does it hold."""
        progress = self.progress[peer]
        recent = self.now_ms - progress.last_contact_ms <= self.settings.election_timeout_ms[0]
        return recent, progress.match_index

    def maybe_send_timeout_now(self) -> None:
        """Once the successor has everything, it may campaign."""
        if self.transferee and self.progress[self.transferee].match_index == self.log.last_index:
            self.send(self.transferee, TimeoutNow(self.current_term))

    def give_up_leadership(self, why: str) -> None:
        """Step down at once, and let the fittest peer campaign without waiting for its timeout."""
        successors = self.successors()
        if successors:
            self.send(max(successors, key=self.reachability), TimeoutNow(self.current_term))
        self.become_follower(self.current_term, None, why)
