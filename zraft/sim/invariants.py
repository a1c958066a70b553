"""What must hold at every step (paper, figure 3), checked by one who sees all nodes and all disks at once.

Every check is incremental: it looks at what has changed since it last looked at that node. Who is a member, and what
that demands, `configurations` knows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from zraft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    Heartbeat,
    IAm,
    Removed,
    RequestVote,
    VoteReply,
    WhoAreYou,
)
from zraft.raft import Membership, Raft, Role
from zraft.sim.configurations import Configurations, decide
from zraft.sim.durable import Holding
from zraft.sim.reference import Reference
from zraft.sim.violation import Violation
from zraft.wire import peek_bodies, peek_peer

if TYPE_CHECKING:
    from zraft.sim.node import Machine


peek = lru_cache(maxsize=1024)(peek_peer)  # every follower is sent the same


_CONFIG = int(EntryKind.CONFIG)
_OF_NO_TERM = (Removed, WhoAreYou, IAm)


class Seen:
    """What was last looked at of one life of a consensus."""

    def __init__(self, raft: Raft) -> None:
        self.raft = raft
        self.state: tuple[Any, ...] = ()  # applying, commit, term, role, the ends of the log, the snapshot
        self.terms: list[int] = []  # of its log
        self.base_index = 0
        self.last = (-1, -1)  # (last index, last term)
        self.commit_index = 0
        self.current_term = 0
        self.durable_index = 0
        self.led_term = 0  # the term in which it was the leader then
        self.snapshot_index = 0
        self.config: tuple[int, Membership | None] = (0, None)  # the latest in its log, and where
        self.known = -1  # how many configurations were known then
        self.membership: Membership | None = None  # in force, as it says


class Invariants:
    """`committed`: every entry that was ever known to be committed, in order."""

    def __init__(self, founding: Membership, counts: Counter[str]) -> None:
        self.lost: set[str] = set()  # nodes whose disk was wiped or refused
        self.damaged: set[str] = set()  # nodes in whose log a bit was flipped, or in its only snapshot
        self.flipped: set[str] = set()  # nodes in whose newest snapshot a bit was flipped; there is an older one
        self.committed: list[Entry] = []
        self.holdings: dict[str, Holding] = {}
        self.configurations = Configurations(founding, self.committed, self.holdings, counts)
        self.committed_in: list[int] = []  # in which term each was first known to be
        self.leader_of: dict[int, str] = {}
        self.reference = Reference()
        self._entries: dict[tuple[int, int], tuple[Entry, int]] = {}  # (index, term) -> (entry, term of the one before)
        self._leader_runs: dict[int, tuple[list[int], list[int], int]] = {}  # term -> its leader's log at its election
        self._votes: dict[tuple[str, int, int], str] = {}  # (node, its store id, term) -> for whom
        self._hash_at: dict[int, str] = {}
        self._applied: dict[str, tuple[Any, int]] = {}  # node -> its state machine, and the index when last looked at
        self._seen: dict[str, Seen] = {}

    def add(self, name: str) -> None:
        """There is such a machine, and nothing on its disk."""
        self.holdings[name] = Holding(self.committed)

    # --- consensus

    def after_consensus(self, name: str, raft: Raft, now_us: int) -> None:
        """A consensus has taken a batch in."""
        seen = self._seen.get(name)
        if seen is None or seen.raft is not raft:
            self._begins_with_its_disk(name, raft, now_us)
            seen = self._seen[name] = Seen(raft)
        log = raft.log
        state = (
            raft.applying_index, raft.commit_index, raft.current_term, raft.role, log.last_index, log._run_term[-1],
            log.durable_index, log._run_first[0], raft.snapshot, raft.configs[-1][0],
        )  # fmt: skip
        if state == seen.state:
            return
        seen.state = state
        applying, commit, term, role, last, last_term, durable, base, snapshot, _ = state
        if applying > raft.applied_index and (applying > commit or applying > durable):
            raise Violation(
                "applied <= committed and durable",
                f"{name}: applying {applying}, committed {commit}, durable {durable}",
            )
        if commit > last:
            raise Violation("committed <= last", f"{name}: {commit} > {last}")
        if term != seen.current_term:
            self._on_term(name, raft, seen)
        if not base <= snapshot.index <= commit:
            raise Violation(
                "compacted <= snapshot <= committed",
                f"{name}: log after {base}, snapshot {snapshot.index}, committed {commit}",
            )
        before = seen.config
        is_new_log = (last, last_term) != seen.last or base != seen.base_index
        if is_new_log:
            self._log_matching(name, raft, seen)
            if role is Role.LEADER:
                self.configurations.on_leader_log(raft)
        if durable != seen.durable_index:
            self._believed_durable(name, raft, seen, now_us)
        leads = role is Role.LEADER
        if leads and self.leader_of.get(term) != name:
            self._election_safety(name, raft, seen, now_us)
        if is_new_log or seen.known != self.configurations.known:
            seen.known = self.configurations.known
            seen.config = self.configurations.in_force(seen.terms)
        if commit != seen.commit_index:
            self._state_machine_safety(name, raft, seen, before, now_us)
        self._members(name, raft, seen, before, now_us)
        seen.led_term = term if leads else 0

    def _on_term(self, name: str, raft: Raft, seen: Seen) -> None:
        if raft.current_term < seen.current_term:
            raise Violation("term goes back", f"{name}: {raft.current_term} < {seen.current_term}")
        if seen.current_term and raft.voted_for == name and not raft.transfer_election:
            self.configurations.on_raised(name, raft)
        seen.current_term = raft.current_term

    def _members(self, name: str, raft: Raft, seen: Seen, before: tuple[int, Membership | None], now_us: int) -> None:
        """In force is the latest configuration in the log, committed or not (traps 3, 4)."""
        index, config = seen.config
        if seen.config is not before and seen.config != before or raft.membership is not seen.membership:
            if config is not None and raft.membership != config:
                raise Violation(
                    "the latest configuration in the log is in force",
                    f"{name} goes by {raft.membership.describe()}; its log says at {index}: {config.describe()}",
                )
            seen.membership = raft.membership
        if raft.role is Role.LEADER and index > before[0] and seen.terms[index - 1] == raft.current_term:
            self.configurations.on_change(name, raft, seen.terms, index, len(self.committed), now_us)
        snapshot = raft.snapshot
        if snapshot.index != seen.snapshot_index:
            seen.snapshot_index = snapshot.index
            if Membership.decode(snapshot.config) != self.configurations.at(snapshot.index):
                raise Violation(
                    "a snapshot names its members",
                    f"{name}'s, of {snapshot.index}: {Membership.decode(snapshot.config).describe()}, those are "
                    f"{self.configurations.at(snapshot.index).describe()}",
                )

    def _begins_with_its_disk(self, name: str, raft: Raft, now_us: int) -> None:
        """A new consensus knows all that its node has promised: term, vote, entries (the fence of Recover)."""
        holding = self._settled(name, now_us)
        term, voted_for = holding.hard_state
        same_vote = raft.current_term > term or raft.voted_for == voted_for or raft.voted_for and not voted_for
        if raft.current_term < term or not same_vote:
            raise Violation(
                "begins with what is on disk",
                f"{name}: term {raft.current_term}, vote {raft.voted_for}; on disk {holding.hard_state}",
            )
        log, held = raft.log, holding.held(raft.snapshot.index)
        durable = log.durable_index
        knows = durable <= len(held) and (not durable or log.term(durable) == held[durable - 1])
        # What the disk holds beyond, the same batch may have replaced by a leader's entries already.
        if knows and durable < len(held):
            knows = durable < log.last_index and log.term(durable + 1) != held[durable]
        if not knows:
            raise Violation("begins with what is on disk", f"{name}: {durable} entries; on disk {len(held)}")

    def _log_matching(self, name: str, raft: Raft, seen: Seen) -> None:
        """Same index and term: same entry, and the same one before it; so, by induction, the same all the way."""
        log, terms, base = raft.log, seen.terms, raft.log.base_index
        if base and (base > len(self.committed) or log.term(base) != self.committed[base - 1].term):
            raise Violation("a snapshot holds what is committed", f"{name}: after {base} of term {log.term(base)}")
        if base > len(terms) or (base and terms[base - 1] != log.term(base)):
            terms[:] = self.holdings[name].prefix(base)
        elif base > max(seen.base_index, raft.snapshot.older_index):
            raise Violation(
                "a damaged snapshot can be replaced",
                f"{name}: log after {base}, the snapshot before the last one reaches to {raft.snapshot.older_index}",
            )
        seen.base_index = base
        agreed = min(log.last_index, len(terms))
        while agreed > base and log.term(agreed) != terms[agreed - 1]:
            agreed -= 1
        del terms[agreed:]
        before = terms[-1] if terms else 0
        for index in range(agreed + 1, log.last_index + 1):
            term = log.term(index)
            if term < before:
                raise Violation("log matching", f"{name}: term {term} after {before} at {index}")
            if index >= log.tail_first:
                entry = log._entries[index - log.tail_first]  # `slice` would change which tuples the log hands out
                known = self._entries.get((index, term))
                if known is None:
                    known = self._entries[index, term] = (entry, before)
                    if entry.kind == _CONFIG:
                        self.configurations.saw(index, term, entry)
                if known[0] is not entry and known != (entry, before):
                    raise Violation("log matching", f"{name}: {entry} after {before} at {index}, elsewhere {known}")
                if entry.term != term:
                    raise Violation("log matching", f"{name}: {entry} at {index}, its log says term {term}")
            terms.append(term)
            before = term
        seen.last = (log.last_index, log.last_term)

    def _believed_durable(self, name: str, raft: Raft, seen: Seen, now_us: int) -> None:
        """What the core takes for durable here is (traps 7, 8)."""
        durable = seen.durable_index = raft.log.durable_index
        terms, last = self._settled(name, now_us).held(), raft.log.last_index
        if durable > min(last, len(terms)) or (durable and terms[durable - 1] != raft.log.term(durable)):
            found = f"{durable} of {last} for durable; on disk {len(terms)}: {terms[-5:]}"
            raise Violation("durable is on disk", f"{name} takes {found}")

    def _settled(self, name: str, now_us: int) -> Holding:
        holding = self.holdings[name]
        holding.settle(now_us)
        return holding

    def _election_safety(self, name: str, raft: Raft, seen: Seen, now_us: int) -> None:
        """One leader a term, with all in its log that is committed, and with its own vote on its disk."""
        term = raft.current_term
        other = self.leader_of.setdefault(term, name)
        if other != name:
            raise Violation("election safety", f"{other} and {name} lead in term {term}")
        holding = self._settled(name, now_us)
        if holding.hard_state != (term, name):
            raise Violation("durable before said", f"{name} leads term {term}, on disk {holding.hard_state}")
        self._elected(name, raft, seen)
        self.configurations.on_led(name)
        base = raft.log.base_index
        runs = [(base, raft.log.term(base)), *raft.log.term_runs()]
        log = self._leader_runs[term] = [first for first, _ in runs], [term for _, term in runs], raft.log.last_index
        for index in range(len(self.committed), 0, -1):
            if self.committed_in[index - 1] < term:
                self._leader_completeness(term, log, index)
                return  # this one has it, so by log matching all before it

    def _elected(self, name: str, raft: Raft, seen: Seen) -> None:
        """By a majority of the configuration that it campaigned under, of either set in a joint one; and by the data
        directories that are its members."""
        _, config = self.configurations.in_force(seen.terms)
        config = config or self.configurations.founding
        stores = {node: config.stores.get(node, 0) or self.holdings[node].store_id for node in config.electorate}
        own = {name} if self.holdings[name].store_id == stores.get(name) else set()
        term = raft.current_term
        voters = own | {voter for voter, store in stores.items() if self._votes.get((voter, store, term)) == name}
        if not decide(config, voters):
            raise Violation(
                "elected by a majority", f"{name} leads term {term}, voted for by {sorted(voters)}; {config.describe()}"
            )

    def _leader_completeness(self, term: int, log: tuple[list[int], list[int], int], index: int) -> None:
        first, terms, last_index = log
        run = bisect_right(first, max(index, first[0])) - 1  # what lies before the log is committed, and in a snapshot
        if index < first[0]:
            return
        if index > last_index or terms[run] != self.committed[index - 1].term:
            raise Violation("leader completeness", f"{self.leader_of[term]} leads {term} without committed {index}")

    def _state_machine_safety(
        self, name: str, raft: Raft, seen: Seen, before: tuple[int, Membership | None], now_us: int
    ) -> None:
        """What is committed stays so, everywhere."""
        if raft.commit_index < seen.commit_index:
            raise Violation("commit goes back", f"{name}: {raft.commit_index} < {seen.commit_index}")
        committed, log = self.committed, raft.log
        by_snapshot = raft.commit_index == raft.snapshot.index  # of an older leader, whose last piece came late
        led = seen.led_term == raft.current_term and not by_snapshot
        if led and log.term(raft.commit_index) != raft.current_term:
            raise Violation(
                "commits by its own term",
                f"{name}, leader of {raft.current_term}, commits {raft.commit_index} of {log.term(raft.commit_index)}",
            )
        known = min(raft.commit_index, len(committed))
        if known and log.term(known) != committed[known - 1].term:
            was = committed[known - 1].term
            raise Violation("committed changes", f"{name}: entry {known} has term {log.term(known)}, not {was}")
        if raft.commit_index > len(committed):
            # What commits may make the leader take the next step of a change at once, which does not count yet.
            begun = raft.role is Role.LEADER and seen.config[0] > before[0] and before[1] is not None
            self._on_quorum(name, raft, (before if begun else seen.config)[1], now_us)
            for index in range(len(committed) + 1, raft.commit_index + 1):
                entry = self._entries[index, log.term(index)][0]
                committed.append(entry)
                self.committed_in.append(raft.current_term)
                self.reference.take(index, entry)
                if entry.kind == _CONFIG:
                    self.configurations.on_committed(index, entry, now_us)
            for term, leader_log in self._leader_runs.items():
                if term > raft.current_term:
                    self._leader_completeness(term, leader_log, raft.commit_index)
        seen.commit_index = raft.commit_index

    def _on_quorum(self, name: str, raft: Raft, config: Membership | None, now_us: int) -> None:
        """What is first known to be committed is on the disks of a majority, as it is here; of the members by the
        configuration in force, of either set in a joint one. config: None if that is the founding one."""
        index = raft.commit_index
        term = raft.log.term(index)
        config = config or self.configurations.founding
        holders = []
        for node in config.electorate:
            life = self.configurations.life(node, config)
            if life is None:
                continue
            life.settle(now_us)
            terms = life.held()
            if len(terms) >= index and terms[index - 1] == term:
                holders.append(node)
        if not decide(config, holders):
            where = f"durable only on {holders}; {config.describe()}"
            raise Violation("committed is on a quorum", f"{name} commits {index} of {term}, {where}")
        for node, progress in raft.progress.items():
            self._counted(name, raft, node, progress.match_index, now_us)

    def _counted(self, name: str, raft: Raft, node: str, match_index: int, now_us: int) -> None:
        """What a leader takes a member to hold, that member's data directory does (trap 10)."""
        life = self.configurations.life(node, raft.membership)
        if life is not None:
            life.settle(now_us)
        if life is None or life.hard_state.term > raft.current_term:
            return  # or it follows somebody else by now
        terms = life.held()
        known = match_index > raft.log.base_index
        if len(terms) < match_index or known and terms[match_index - 1] != raft.log.term(match_index):
            raise Violation(
                "a leader counts what is durable",
                f"{name} takes {node} to hold {match_index}; on its disk {len(terms)}: {terms[-5:]}",
            )

    # --- applier

    def after_applier(self, name: str, machine: Any, now_us: int) -> None:
        """An applier has taken a batch in."""
        index = machine.last_applied
        if not index or self._applied.get(name) == (machine, index):
            return
        self._applied[name] = (machine, index)
        if index > len(self.committed):
            raise Violation("applied <= committed", f"{name} applied {index}, committed {len(self.committed)}")
        terms = self._settled(name, now_us).held()
        if name not in self.lost and (len(terms) < index or terms[index - 1] != self.committed[index - 1].term):
            raise Violation("applied is durable", f"{name} applied {index}, on its disk {terms[index - 1 : index]}")
        state_hash = machine.state_hash
        if self._hash_at.setdefault(index, state_hash) != state_hash:
            raise Violation("equal state", f"{name} at {index}: {state_hash}, elsewhere {self._hash_at[index]}")
        if machine.revision != self.reference.revision_at[index]:
            raise Violation(
                "applied once",
                f"{name} at {index}: revision {machine.revision}, must be {self.reference.revision_at[index]}",
            )

    # --- what is said

    def on_frame(self, sender: str, receiver: str, frame: bytes, now_us: int) -> None:
        """Trap 7: no term, no vote, no acknowledgement leaves a node before it is durable there."""
        holding = self.holdings[sender]
        holding.settle(now_us)
        term, voted_for = holding.hard_state
        for body in peek_bodies(frame):
            message = peek(body)
            kind = type(message)
            if kind in _OF_NO_TERM or (kind is RequestVote or kind is VoteReply) and message.pre_vote:
                continue
            if message.term > term:
                raise Violation("durable before said", f"{sender} says {message}; on disk {holding.hard_state}")
            granted = kind is VoteReply and message.granted and self.holdings[receiver].terms
            if granted or (kind is AppendReply and message.success):
                self._takes_part(sender, receiver, message)
            if kind is AppendReply and message.success:
                held = len(holding.held())
                if term == message.term and held < message.at_index:
                    raise Violation("durable before said", f"{sender} says {message}; on disk {held} entries")
            elif kind is RequestVote or (kind is VoteReply and message.granted):
                vote = sender if kind is RequestVote else receiver
                if term == message.term and voted_for != vote:
                    raise Violation("durable before said", f"{sender} says {message}; on disk {holding.hard_state}")
                known = self._votes.setdefault((sender, holding.store_id, message.term), vote)
                if known != vote:
                    raise Violation("one vote a term", f"{sender} votes for {known} and {vote} in {message.term}")
            elif (kind is AppendEntries or kind is Heartbeat) and self.leader_of.get(message.term) != sender:
                raise Violation("election safety", f"{sender} says {message}, leader is {self.leader_of.get(term)}")

    def _takes_part(self, sender: str, receiver: str, message: Any) -> None:
        """Trap 22. (To vote for somebody without a log does no harm: it would need everybody's votes.)"""
        if not self.configurations.is_member_store(sender, self.holdings[sender].store_id):
            raise Violation("a wiped node takes no part", f"{sender} says {message} to {receiver}")

    # --- starts

    def on_found(self, machine: Machine, terms: list[int], hard_state: Any, done_us: int, now_us: int) -> None:
        """A log_writer began a life and found this."""
        holding = self.holdings[machine.name]
        if machine.name not in self.lost and not holding.on_found(terms, hard_state, now_us, done_us):
            possible = [(len(each), each[-3:], state) for each, state in holding.possible()]
            raise Violation(
                "what was durable is found",
                f"{machine.name} found {len(terms)} entries {terms[-3:]}, {hard_state}; possible {possible}",
            )

    def on_snapshot_found(self, machine: Machine, index: int, done_us: int, now_us: int) -> None:
        """A snapshot_writer began a life and found this to be the newest."""
        name, holding = machine.name, self.holdings[machine.name]
        is_damaged = name in self.damaged or name in self.flipped
        if name not in self.lost and not holding.on_snapshot_found(index, is_damaged, now_us, done_us):
            possible = sorted(holding.possible_snapshots())
            raise Violation("what was durable is found", f"{name} found snapshot {index}; possible {possible}")

    def on_crash(self, name: str, now_us: int) -> None:
        """What was under way is in doubt."""
        self.holdings[name].crash(now_us)

    def on_wiped(self, name: str, now_us: int) -> None:
        """Its disk is empty now."""
        holding = self._settled(name, now_us)
        self.configurations.former[name, holding.store_id] = holding
        self.add(name)
        for names in (self.damaged, self.flipped):
            names.discard(name)
