"""Who is a member where: every configuration that any log held, and what must be true of changes of the members.

It reads them from the logs themselves and shares no majority with the code that it judges. A member is a data directory
(a *store*), not a name: what a wiped or removed one had promised is nothing that its successor could stand for.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection

from zraft.messages import Entry
from zraft.raft import Membership, Raft
from zraft.raft.admission import ADMISSION_MS
from zraft.sim.durable import Holding
from zraft.sim.violation import Violation

MAX_LATE_TERMS = 3
"""Terms that a node may still raise after it was removed: answers that were on their way make it do so."""
ANSWER_US = 1_500 * ADMISSION_MS
"""So old, by a clock that goes wrong, is the answer by which somebody is added at most: he may have joined since then,
and have been removed again."""


def is_majority(nodes: Collection[str], agreeing: Collection[str]) -> bool:
    """Whether more than half of the nodes agree."""
    return 2 * len([node for node in nodes if node in agreeing]) > len(nodes)


def decide(config: Membership, agreeing: Collection[str]) -> bool:
    """Whether these can elect and commit: in a joint configuration with a majority of either set (trap 24)."""
    return is_majority(config.voters, agreeing) and (not config.outgoing or is_majority(config.outgoing, agreeing))


class Configurations:
    """`committed`: (index, members) of every one that is known to be, ascending; the first is the founding one."""

    def __init__(
        self, founding: Membership, entries: list[Entry], holdings: dict[str, Holding], counts: Counter[str]
    ) -> None:
        self.founding = founding
        self.committed: list[tuple[int, Membership]] = [(0, founding)]
        self.former: dict[tuple[str, int], Holding] = {}  # what wiped data directories held
        self._entries = entries
        self._holdings = holdings
        self._counts = counts
        self._known: list[tuple[int, int, Membership]] = []  # (index, term, members), ascending
        self._member_stores: set[tuple[str, int]] = set()  # that any configuration ever named
        self._retired_us: dict[tuple[str, int], int] = {}  # since when those that were members are none any more
        self._grown: dict[str, deque[tuple[int, int]]] = {}  # of each leader's log: (when by its clock, to which index)
        self._raised: Counter[str] = Counter()  # terms, by nodes that are no voters

    # --- which one holds

    @property
    def newest(self) -> Membership:
        """The latest that is known to be committed."""
        return self.committed[-1][1]

    def pending(self) -> list[Membership]:
        """Those in any log that may be committed yet."""
        end = len(self._entries)
        return [members for index, _, members in self._known if index > end]

    @property
    def known(self) -> int:
        """How many there are in all logs."""
        return len(self._known)

    def held(self) -> list[Membership]:
        """Those newer than the newest committed one that members hold durably: whoever leads next goes by one."""
        newest_at, newest = self.committed[-1]
        lives = [self.life(name, newest) for name in newest.members]
        found = [self.in_force(life.held()) for life in lives if life is not None]
        return [members for index, members in found if members is not None and index > newest_at]

    def saw(self, index: int, term: int, entry: Entry) -> None:
        """A CONFIG entry is in a log."""
        members = Membership.decode(entry.data)
        self._known.append((index, term, members))
        self._known.sort(key=lambda known: known[:2])
        self._member_stores.update(members.stores.items())

    def in_force(self, terms: list[int], through: int | None = None) -> tuple[int, Membership | None]:
        """(index, members) of the latest in a log of these terms (its first entries alone, if so asked); None: it has
        none."""
        last = len(terms) if through is None else through
        for index, term, members in reversed(self._known):
            if index <= last and terms[index - 1] == term:
                return index, members
        return 0, None

    def at(self, index: int) -> Membership:
        """The committed one at a committed index."""
        for at, members in reversed(self.committed):
            if at <= index:
                return members
        return self.committed[0][1]

    def life(self, name: str, config: Membership) -> Holding | None:
        """What that member's data directory holds, or held when it was wiped; None: there never was such a one."""
        holding, store = self._holdings.get(name), config.stores.get(name, 0)
        if holding is None or not store or holding.store_id == store:
            return holding
        return self.former.get((name, store))

    def is_member_store(self, name: str, store_id: int) -> bool:
        """Whether a member was ever known by this data directory."""
        return (name, store_id) in self._member_stores

    # --- what must hold

    def on_change(self, name: str, raft: Raft, terms: list[int], index: int, committed: int, now_us: int) -> None:
        """The leader's log has a new configuration of its own term, at index."""
        uncommitted = [at for at, term, _ in self._known if committed < at <= len(terms) and terms[at - 1] == term]
        if len(uncommitted) > 1:
            raise Violation("one change at a time", f"{name}'s log holds {uncommitted}, committed are {committed}")
        first = terms.index(raft.current_term) + 1
        if index > 1 and raft.commit_index < first:
            raise Violation(
                "no change before the leader's own first entry",
                f"{name} appends {index} in term {raft.current_term}, began at {first}, commits {raft.commit_index}",
            )
        _, before = self.in_force(terms, index - 1)
        _, after = self.in_force(terms, index)
        if before is not None and after is not None:
            self._judge_step(name, before, after, now_us)
            for node in sorted(after.voters.keys() - before.electorate.keys()):
                self._judge_promotion(raft, node, after, now_us)

    def _judge_step(self, name: str, before: Membership, after: Membership, now_us: int) -> None:
        joint = after.outgoing and not before.outgoing
        if before.outgoing and (after.outgoing or after.voters.keys() != before.voters.keys()):
            raise Violation("one change at a time", f"{name}: from {before.describe()} to {after.describe()}")
        if not before.outgoing and not joint and after.voters.keys() != before.voters.keys():
            raise Violation("a change of voters is joint", f"{name}: from {before.describe()} to {after.describe()}")
        if joint and after.outgoing.keys() != before.voters.keys():
            raise Violation("a change of voters is joint", f"{name}: from {before.describe()} to {after.describe()}")
        for node in sorted(after.members.keys() - before.members.keys()):
            life = self.life(node, after)
            retired_us = self._retired_us.get((node, after.stores.get(node, 0)), now_us)
            if retired_us < now_us - ANSWER_US and life is not None and life.held():
                raise Violation("who was removed stays out", f"{name} adds {node} with the data of its former life")
            if life is None:
                raise Violation("a joiner is who was meant", f"{name} adds {node}, whose data directory it is not")

    def _judge_promotion(self, raft: Raft, node: str, after: Membership, now_us: int) -> None:
        """Trap 26: it holds all that its leader had in its log two election timeouts ago: a round of catching up takes
        one at most, and the next one has not run for longer."""
        then_ms = raft.now_ms - 2 * raft.settings.election_timeout_ms[0] - raft.settings.heartbeat_ms
        known = max([index for at_ms, index in self._grown.get(raft.id, ()) if at_ms <= then_ms], default=0)
        life = self.life(node, after)
        if life is not None:
            life.settle(now_us)
        held = 0 if life is None else len(life.held())
        if held < known:
            raise Violation(
                "a new voter is close",
                f"{raft.id} makes {node} a voter, which holds {held}; itself held {known} a while ago",
            )

    def on_leader_log(self, raft: Raft) -> None:
        """A leader's log has grown."""
        grown = self._grown.setdefault(raft.id, deque())
        grown.append((raft.now_ms, raft.log.last_index))
        while len(grown) > 1 and grown[1][0] < raft.now_ms - 4 * raft.settings.election_timeout_ms[0]:
            grown.popleft()

    def on_led(self, name: str) -> None:
        """Another term of a leader begins: what it had in its log before is another matter."""
        self._grown.pop(name, None)

    def on_committed(self, index: int, entry: Entry, now_us: int) -> None:
        """A CONFIG entry is known to be committed."""
        members, before = Membership.decode(entry.data), self.newest
        self._retired_us |= dict.fromkeys(sorted(before.stores.items() - members.stores.items()), now_us)
        self.committed.append((index, members))
        counts = self._counts
        counts["changes-joint"] += bool(members.outgoing)
        counts["voters-added"] += len(members.voters.keys() - before.electorate.keys())
        counts["voters-removed"] += len(before.outgoing.keys() - members.electorate.keys())
        counts["learners-added"] += len(members.learners.keys() - before.members.keys())
        if before.target and not members.target and not before.outgoing:
            counts["changes-cancelled"] += 1
        for node in members.electorate:
            self._raised.pop(node, None)

    def on_raised(self, name: str, raft: Raft) -> None:
        """A node has raised its term to campaign, without being asked to."""
        store = self._holdings[name].store_id
        for members in (self.newest, *self.pending()):
            if name in members.electorate and members.stores.get(name, store) == store:
                return
        self._raised[name] += 1
        if self._raised[name] > MAX_LATE_TERMS:
            raise Violation(
                "who has no vote raises no term",
                f"{name}, no voter of {self.newest.describe()}, raised it again, now {raft.current_term}",
            )
