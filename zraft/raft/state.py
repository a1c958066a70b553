"""The variables of one Raft node, grouped by lifetime (as in Ongaro's TLA+ specification), and what it puts out.

Nothing here decides; the rooms above (`replication`, `reads`, `election`, `raft`) do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any, NamedTuple

from zraft.enums import direct_members
from zraft.errors import NodeMustStop
from zraft.messages import TO_WHO_ASKED, Entry, EntryKind, InstallSnapshot
from zraft.raft.log import RaftLog
from zraft.raft.membership import Membership
from zraft.raft.progress import Progress


@direct_members
class Role(Enum):
    """What a node is at present (paper figure 4; PRE_CANDIDATE: dissertation 9.6)."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Settings(NamedTuple):
    """election_timeout_ms: (least, most) of the randomized timeout. heartbeat_ms: how often a leader shows itself.
    snapshot_keep: entries that stay in the log behind a snapshot, for followers that lag."""

    election_timeout_ms: tuple[int, int] = (150, 300)
    heartbeat_ms: int = 50
    snapshot_keep: int = 5_000

    @property
    def disk_stall_ms(self) -> int:
        """A leader whose disk answers nothing for so long gives leadership up (trap 12)."""
        return 5 * self.election_timeout_ms[1]

    @property
    def long_away_ms(self) -> int:
        """A follower that was not heard for so long was not only restarted, and the log is not held back for it."""
        return 10 * self.election_timeout_ms[1]


class SavedSnapshot(NamedTuple):
    """A snapshot on this node's disk, whole and durable. index 0: there is none. config: the members at index, as in a
    CONFIG entry. size: in bytes. older_index: of the one before it, which is kept in case this one is found damaged."""

    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int = 0
    config: bytes = b""
    size: int = 0
    older_index: int = 0


class Durable(NamedTuple):
    """What a node finds on its disk. fresh: nothing, not even a term (trap 22). applied: what the state machine of
    this process has applied already; committed therefore; None: it does not know yet. snapshot: the newest. configs:
    (index, members) of the CONFIG entries in the log that are known; those in the log's tail need not be among them.
    store_id: of the data directory, 0 if nobody asks."""

    term: int
    voted_for: str | None
    log: RaftLog
    fresh: bool
    applied: int | None = 0
    snapshot: SavedSnapshot = SavedSnapshot()
    configs: tuple[tuple[int, Membership], ...] = ()
    store_id: int = 0


class Write(NamedTuple):
    """To make durable as one unit, in the order of `sequence`. runs: (first index, entries of one term). replies:
    (peer, message) to release when this and all earlier writes are durable. reset: (index, term) where the log begins
    anew, before the runs."""

    sequence: int
    hard_state: tuple[int, str | None] | None
    runs: list[tuple[int, tuple[Entry, ...]]]
    replies: list[tuple[str, Any]]
    reset: tuple[int, int] | None = None


@dataclass(slots=True)
class Output:
    """What a node wants done after a batch of inputs, in this order: write, send, apply, answer."""

    write: Write | None = None
    messages: list[tuple[str, Any]] = field(default_factory=list)  # (peer, message) to send at once
    apply: list[tuple[int, tuple[Entry, ...]]] = field(default_factory=list)  # (first index, committed entries)
    reads_ready: list[tuple[int, list[Any]]] = field(default_factory=list)  # (read_index, contexts)
    reads_refused: list[Any] = field(default_factory=list)  # contexts; this node cannot answer them
    log_reads: list[tuple[str, int]] = field(default_factory=list)  # (peer or "" for the applier, first index)
    snapshot_reads: list[tuple[str, int, int]] = field(default_factory=list)  # (peer, snapshot's index, offset)
    snapshot_pieces: list[tuple[str, InstallSnapshot]] = field(default_factory=list)  # (leader, piece) to store
    restore: int = 0  # the snapshot that the state machine shall load
    compact: int = 0  # through which entry the disk may let go of the log
    notes: list[str] = field(default_factory=list)  # for the log file

    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (
            self.messages or self.apply or self.write or self.reads_ready or self.notes or self.reads_refused
            or self.log_reads or self.snapshot_reads or self.snapshot_pieces or self.restore or self.compact
        )  # fmt: skip


def is_reply_to(peer: str, message: tuple[str, Any]) -> bool:
    """Whether this (receiver, message) answers that peer."""
    return message[0] == peer and type(message[1]) in TO_WHO_ASKED


NOTHING = Output()
"""What every batch is answered with that changed nothing: most do."""


class State:
    """See the module. `voted_for` is None for nobody; node ids are strings; all times are milliseconds handed in."""

    def __init__(self, node_id: str, membership: Membership, durable: Durable, settings: Settings, rng: Random) -> None:
        self.id = node_id
        self.settings = settings
        self.rng = rng
        # On disk before anything that depends on it is said (trap 7).
        self.current_term = durable.term
        self.voted_for = durable.voted_for
        self.log = durable.log
        self.fresh = durable.fresh
        self.store_id = durable.store_id
        self.snapshot = durable.snapshot
        # Lost with this object.
        self.role = Role.FOLLOWER
        self.leader_id: str | None = None
        applied = durable.applied or 0
        self.commit_index = max(applied, self.snapshot.index)
        self.applying_index = applied  # handed to the applier
        self.applied_index = applied
        self.spare_index = 0  # as the applier says (`Applied`)
        self.applying_runs: deque[int] = deque()  # last index of each run that the applier has not finished
        self.reading_for_applier = False  # entries for it are being read from disk
        self.replay_until = self.log.last_index if self.log.last_index > applied else 0  # what was there at the start
        self.replay_said_ms = 0
        self.now_ms = 0
        self.election_deadline_ms = 0
        self.last_leader_contact_ms: int | None = None
        self.strangers: dict[str, int] = {}  # peers that ask from a data directory that is no member's: see hear_store
        self._voter_by: Membership | None = None  # the configuration that `is_voter` was worked out for
        self._is_voter = False
        self.mistaken: set[str] = set()  # peers that know this node by another data directory
        self.removed_at = 0  # the entry that removed this node, as a member told it, which had committed it
        self.disk_full = False
        # Candidates only.
        self.votes: set[str] = set()
        self.transfer_election = False  # the leader asked for it: voters shall not stick to the leader
        self.voter_stores: dict[str, int] = {}  # the data directories of those who voted for it
        self.prepare_to_lead()
        # Whether the owners of the disk and of the state machine have said where they stand.
        self.log_writer_known = True
        self.applier_known = durable.applied is not None
        self.applier_lost_ms = 0  # when it was lost
        # Writes under way.
        self.sequence = 0
        self.durable_sequence = 0
        self.hard_state_sequence = 0
        self.hard_state_changed = False
        self.oldest_write_ms: int | None = None
        self._replies: list[tuple[str, Any]] = []
        self.output = Output()
        # The configurations in the log, ascending; the first is that of the snapshot, or the founding one.
        self.configs: list[tuple[int, Membership]] = [(0, membership)]
        self.check_snapshot()
        if self.snapshot.index:
            self.adopt_snapshot()
        self.find_configs(durable.configs)
        self.arm_election()

    def prepare_to_lead(self) -> None:
        """The variables of leaders only, before there is anything in them."""
        self.progress: dict[str, Progress] = {}
        self.term_start_index = 0  # of this leader's own first entry
        self.settled_config: Membership | None = None  # one that this leader has nothing more to do for
        self.transferee: str | None = None
        self.transfer_deadline_ms = 0
        self.heartbeat_due_ms = 0
        self.log_clock: tuple[int, int] = (0, 0)  # (log time, monotonic time) when this leader began
        self.read_round = 0  # the latest number that heartbeats carry
        self.read_round_acks: set[str] = set()
        self.reads_in_round: list[Any] = []
        self.reads_waiting: list[Any] = []
        self.read_index = 0
        self.read_round_ms = 0  # when it was sent
        self.few_asked = False  # in this round
        self.watch_reads_until_ms = 0
        self.roll_call = 0  # the number of the last heartbeat that was sent to all,
        self.roll: list[str] = []  # and who answered it, in this order
        self.quickest: tuple[str, ...] = ()  # as the roll call before it has shown,
        self.quickest_of: Membership | None = None  # in this configuration
        self.partners: tuple[str, ...] = ()  # for reads, see read_partners
        self.partners_of: Membership | None = None  # in this configuration

    # --- who is a member

    def find_configs(self, configs: Iterable[tuple[int, Membership]]) -> None:
        """At a start: those in the log, which are known, and those in its tail."""
        for index, config in configs:
            if self.configs[-1][0] < index <= self.log.last_index:  # not those of a log that the snapshot replaced
                self.configs.append((index, config))
        for index, entry in enumerate(self.log.tail(), self.log.tail_first):
            if entry.kind == EntryKind.CONFIG and index > self.configs[-1][0]:
                self.configs.append((index, Membership.decode(entry.data)))

    def check_snapshot(self) -> None:
        """Whether snapshot and log, as they were found on disk, go together. Raises NodeMustStop."""
        if self.log.base_index > self.snapshot.index:
            raise NodeMustStop(
                f"the log begins after entry {self.log.base_index}, but the newest whole snapshot reaches only to "
                f"{self.snapshot.index}: what lies between was damaged or removed. Bring the missing snapshot file "
                "back; or remove this node from the cluster and add it again as a new one, with an empty data directory"
            )
        if self.snapshot.index and self.fresh:
            raise NodeMustStop(
                f"{self.id}: there is a snapshot, but no log that goes with it: the log was removed or lost, and what "
                f"{self.id} had promised with it. Remove {self.id} from the cluster and add it again as a new node, "
                "with an empty data directory"
            )

    @property
    def membership(self) -> Membership:
        """The configuration in force: the latest in the log, committed or not (dissertation 4.1)."""
        return self.configs[-1][1]

    @property
    def config_index(self) -> int:
        """Where its entry stands in the log; 0: it is the founding one, which has none yet."""
        return self.configs[-1][0]

    def configs_in_doubt(self) -> list[Membership]:
        """The latest that is known to be committed, and those after it: any of them may be in force in the end."""
        committed = sum(1 for index, _ in self.configs if index <= self.commit_index)
        return [membership for _, membership in self.configs[max(0, committed - 1) :]]

    @property
    def is_voter(self) -> bool:
        """Whether this node votes, and may lead; not if the vote is that of its life before its data was lost."""
        membership = self.membership
        if membership is not self._voter_by:
            self._voter_by = membership
            self._is_voter = self.id in membership.electorate and membership.is_store(self.id, self.store_id)
        return self._is_voter

    @property
    def may_be_needed(self) -> bool:
        """Whether this node votes, or did until an entry of its log that is not known to be committed: so long it may
        hold what nobody can be elected without (dissertation 4.2.2)."""
        if self.is_voter:
            return True
        in_doubt = self.configs_in_doubt()
        return any(self.id in each.electorate and each.is_store(self.id, self.store_id) for each in in_doubt)

    @property
    def peers(self) -> list[str]:
        """The other voters."""
        return [node for node in self.membership.electorate if node != self.id]

    def adopt_config(self, index: int, membership: Membership) -> None:
        """A CONFIG entry has entered the log: it is in force at once (dissertation 4.1)."""
        self.configs.append((index, membership))
        self.note(f"members from entry {index} on: {membership.describe()}")

    def truncate_configs(self, first: int) -> None:
        """Entries from first on left the log: the configuration before them is in force again (trap 3)."""
        while self.configs[-1][0] >= first:
            self.configs.pop()

    def adopt_snapshot(self) -> None:
        """The newest snapshot names the members at its index, and where its entry is not in the log, the log begins
        anew behind it (trap 4; paper figure 13)."""
        index, term, config, _, _ = self.snapshot
        if not self.log.has(index, term):
            self.log.reset(index, term)
            self.configs = []
        later = [(at, members) for at, members in self.configs if at > index]
        self.configs = [(index, Membership.decode(config)), *later]

    # --- saying things

    def note(self, text: str) -> None:
        """A line for the log file."""
        self.output.notes.append(text)

    @property
    def hard_state_durable(self) -> bool:
        """Whether the term and vote that this node holds are on its disk."""
        return not self.hard_state_changed and self.hard_state_sequence <= self.durable_sequence

    def send(self, peer: str, message: Any) -> None:
        """Say something that depends on nothing but the term (and vote) being durable (trap 7)."""
        if self.hard_state_durable:
            self.output.messages.append((peer, message))
        else:
            self._replies.append((peer, message))

    def send_when_durable(self, peer: str, message: Any) -> None:
        """Say something that depends on all that was decided so far being durable."""
        self._replies.append((peer, message))

    def hear_store(self, peer: str, store_id: int) -> None:
        """A peer asks something, from this data directory: its replies go there. It may be one that no entry here names
        yet, of a node that was removed, wiped and added again, and drops what is meant for its former life (which an
        older entry here may still name). Replies to that life which have not left yet are dropped here."""
        stranger = 0 if store_id == self.membership.stores.get(peer) else store_id
        if stranger == self.strangers.get(peer, 0):
            return
        self.output.messages = [each for each in self.output.messages if not is_reply_to(peer, each)]
        self._replies = [each for each in self._replies if not is_reply_to(peer, each)]
        if stranger:
            self.strangers[peer] = stranger
        else:
            del self.strangers[peer]

    # --- changing term, vote, role

    def set_hard_state(self, term: int, voted_for: str | None) -> None:
        """Take on a term and a vote; both reach the disk before any message that depends on them."""
        self.current_term, self.voted_for = term, voted_for
        self.hard_state_changed = True
        self.fresh = False

    def become_follower(self, term: int, leader_id: str | None, why: str) -> None:
        """Paper 5.1: whoever learns of a newer term follows in it. The vote is kept within a term."""
        if term > self.current_term:
            self.set_hard_state(term, None)
        if self.role is not Role.FOLLOWER:
            self.note(f"{self.role.value} becomes follower in term {self.current_term}: {why}")
            self.arm_election()
        elif leader_id and leader_id != self.leader_id:
            self.note(f"follows {leader_id} in term {self.current_term}")
        self.role = Role.FOLLOWER
        self.leader_id = leader_id
        self.votes = set()
        self.transfer_election = False
        self.progress = {}
        self.transferee = None
        self.output.reads_refused += self.reads_in_round + self.reads_waiting
        self.reads_in_round, self.reads_waiting = [], []

    def arm_election(self) -> None:
        """Begin a new randomized election timeout (paper 5.2)."""
        least, most = self.settings.election_timeout_ms
        self.election_deadline_ms = self.now_ms + self.rng.randint(least, most)

    # --- the disk

    def take_write(self) -> Write | None:
        """All that must become durable now: hard state, new entries, and the replies that wait for either."""
        if not self.log_writer_known:
            return None
        log = self.log
        if log.unsent_index > log.last_index and not (self._replies or self.hard_state_changed or log.reset_unsent):
            return None
        runs: list[tuple[int, tuple[Entry, ...]]] = []
        first = log.unsent_index
        while first <= log.last_index:
            entries = log.slice(first, log.last_index)
            if entries[-1].term != entries[0].term:  # one term a run: the disk keeps terms by run
                entries = log.slice(first, log.last_index_of_term(entries[0].term))
            runs.append((first, entries))
            first += len(entries)
        reset = (log.base_index, log.term(log.base_index)) if log.reset_unsent else None
        nothing_under_way = self.durable_sequence == self.sequence
        if not runs and not self.hard_state_changed and reset is None and nothing_under_way:
            self.output.messages += self._replies  # there is nothing that they could depend on
            self._replies = []
            return None
        self.sequence += 1
        hard_state = (self.current_term, self.voted_for) if self.hard_state_changed else None
        if self.hard_state_changed:
            self.hard_state_sequence = self.sequence
            self.hard_state_changed = False
        if runs:
            log.sent(self.sequence, log.last_index)
        log.reset_unsent = False
        if self.oldest_write_ms is None:
            self.oldest_write_ms = self.now_ms
        replies, self._replies = self._replies, []
        return Write(self.sequence, hard_state, runs, replies, reset)

    def disk_stalled(self) -> bool:
        """Whether the disk is full, or has answered nothing for too long (trap 12)."""
        if self.disk_full:
            return True
        return self.oldest_write_ms is not None and self.now_ms - self.oldest_write_ms > self.settings.disk_stall_ms
