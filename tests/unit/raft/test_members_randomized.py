"""Members that come and go by dice, between cuts, restarts, snapshots and messages that come late; who was removed is
wiped and added again under its name, as another member. The invariants are checked at every step; then the faults end,
and everybody in the last committed configuration must come to the same log, and nobody else disturb them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from random import Random

import pytest
from cluster_harness import Cluster, Node, Packet
from membership_scenes import STORES, add, ask, change_to, remove

from zraft.messages import EntryKind
from zraft.raft import Membership, Raft
from zraft.raft.change import ChangeRefused

NAMES = [f"n{number}" for number in range(1, 7)]
STEPS = 60
FIRST_ADDED = 1_000  # store ids from here on are of those who were added


class Comings:
    """One seeded run."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = Random(seed)
        self.stores = dict(STORES)
        self.new_stores = count(FIRST_ADDED)
        self.late: list[Packet] = []
        self.cluster = cluster = Cluster(rng.choice([2, 3, 3, 4, 5]), seed)
        for name, node in cluster.nodes.items():
            node.store_id = STORES[name]
            node.begin()
            cluster.tick(node)
        assert cluster.run(3_000, until=cluster.leaders)
        self.drop_share = rng.choice([0, 0.02, 0.1])
        cluster.drop = self.lose_or_keep
        weights = {
            self.add: 5,
            self.remove: 4,
            self.change: 4,
            self.promote: 2,
            self.cut: 3,
            self.heal: rng.choice([0.5, 2]),
            self.crash: 3,
            self.start: 3,
            self.restart: 3,
            self.snapshot: rng.choice([0, 2]),
            self.transfer: 2,
            self.write: 4,
            self.arrive_late: 2,
        }
        self.kinds, self.weights = list(weights), list(weights.values())

    # --- what is known of the members

    def newest(self) -> Membership:
        """The last configuration that is committed."""
        assert self.cluster.invariants
        configs = [entry for entry in self.cluster.invariants.committed if entry.kind == EntryKind.CONFIG]
        return Membership.decode(configs[-1].data)

    def possible(self) -> Iterator[Membership]:
        """It, and those after it in any log: they may be committed yet."""
        assert self.cluster.invariants
        yield self.newest()
        for node in self.cluster.nodes.values():
            yield from (each for index, each in node.raft.configs if index > len(self.cluster.invariants.committed))
            pending = node.disk.entries[len(self.cluster.invariants.committed) :]
            yield from (Membership.decode(entry.data) for entry in pending if entry.kind == EntryKind.CONFIG)

    def joiners(self, most: int) -> list[str]:
        """Some that are no members, and cannot be by what is under way; each with an empty disk from now on."""
        taken = {name for config in self.possible() for name in config.members}
        chosen = [name for name in NAMES if name not in taken]
        self.rng.shuffle(chosen)
        for name in chosen[:most]:
            self.stores[name] = next(self.new_stores)
            self.cluster.join(name, self.stores[name])
        return chosen[:most]

    # --- what happens

    def lose_or_keep(self, packet: Packet) -> bool:
        if self.rng.random() >= self.drop_share:
            return False
        self.late.append(packet)
        return True

    def arrive_late(self) -> None:
        self.rng.shuffle(self.late)
        for packet in self.late[:5]:
            self.cluster.deliver(packet)
        self.late.clear()

    def running(self) -> list[Node]:
        return [node for node in self.cluster.nodes.values() if node.running]

    def ask(self, change: dict[str, object]) -> None:
        for leader in self.cluster.leaders():
            try:
                ask(self.cluster, change, self.stores, leader.id)
            except ChangeRefused:
                continue

    def add(self) -> None:
        for name in self.joiners(1):
            self.ask(add(name, learner=self.rng.random() < 0.3))

    def remove(self) -> None:
        self.ask(remove(self.rng.choice(list(self.newest().members))))

    def promote(self) -> None:
        learners = list(self.newest().learners)
        if learners:
            self.ask({"op": "promote", "id": self.rng.choice(learners)})

    def change(self) -> None:
        known = list(self.newest().members)
        kept = self.rng.sample(known, self.rng.randint(0, len(known)))
        new = self.joiners(self.rng.randint(0, 3))
        if kept or new:
            self.ask(change_to(*kept, *new, new=tuple(new)))

    def cut(self) -> None:
        names = list(self.cluster.nodes)
        self.cluster.isolate(*self.rng.sample(names, self.rng.randint(1, len(names) // 2)))

    def heal(self) -> None:
        self.cluster.heal()

    def crash(self) -> None:
        self.cluster.stop(self.rng.choice(list(self.cluster.nodes.values())))

    def start(self) -> None:
        for node in self.cluster.nodes.values():
            if not node.running:
                self.cluster.start(node)

    def restart(self) -> None:
        node = self.rng.choice(self.running() or [self.cluster["n1"]])
        self.cluster.stop(node)
        self.cluster.start(node)

    def snapshot(self) -> None:
        for node in self.running():
            if node.applied and not node.must_load:
                self.cluster.take_snapshot(node)

    def transfer(self, to: str = "") -> None:
        self.ask_leaders(lambda raft: raft.transfer_leadership(to or self.rng.choice([*raft.membership.voters, ""])))

    def write(self) -> None:
        self.ask_leaders(lambda raft: raft.propose([b"x"] * self.rng.randint(1, 5)))

    def ask_leaders(self, what: Callable[[Raft], object]) -> None:
        for leader in self.cluster.leaders():
            self.cluster.input(leader, what)

    def step(self) -> None:
        [kind] = self.rng.choices(self.kinds, self.weights)
        kind()
        self.cluster.run(self.rng.choice([10, 10, 50, 200, 500]))

    # --- the end

    def end(self) -> None:
        """The faults end when one that was added leads, if there is one that can, and others were restarted: these do
        not know what is committed."""
        self.cluster.drop = lambda packet: False
        newest = self.newest()
        added = [name for name in newest.voters if newest.stores[name] >= FIRST_ADDED]
        if added:
            self.transfer(self.rng.choice(added))
        self.cluster.run(200)
        self.start()
        for node in self.cluster.nodes.values():
            if self.rng.random() < 0.7 and node not in self.cluster.leaders():
                self.cluster.restart(node.id)
        self.cluster.heal()

    def is_whole(self) -> bool:
        """Whether a leader, and all members that it has, know of the same commits, and no change is under way."""
        leaders = self.cluster.leaders()
        if not leaders:
            return False
        raft = self.cluster.leader().raft
        nodes = [self.cluster[name] for name in raft.membership.members]
        return (
            raft.config_index <= raft.commit_index == raft.log.last_index
            and not raft.membership.is_changing
            and raft.membership == self.newest()
            and all(
                node.store_id == raft.membership.stores[node.id]
                and (node.raft.commit_index, node.raft.membership) == (raft.commit_index, raft.membership)
                and node.applied == self.cluster[raft.id].applied
                for node in nodes
            )
        )

    def describe(self) -> str:
        lines = []
        for node in self.cluster.nodes.values():
            raft = node.raft
            lines.append(
                f"{node.id}:{node.store_id} {raft.standing} term {raft.current_term} commit {raft.commit_index} of "
                f"{raft.log.last_index}, from {raft.config_index} on {raft.membership.describe()} "
                f"{dict(raft.membership.stores)} {raft.strangers} {node.stop_reason} {node.notes[-6:]}"
            )
        return "\n".join(lines)


def come_and_go(seed: int) -> Comings:
    run = Comings(seed)
    for _ in range(STEPS):
        run.step()
    run.end()
    assert run.cluster.run(5_000, until=run.is_whole), f"seed {seed}\n{run.describe()}"
    run.cluster.run(1_000)
    assert run.is_whole(), f"seed {seed}\n{run.describe()}"
    term = run.cluster.leader().raft.current_term
    run.cluster.run(1_000)
    assert run.cluster.leader().raft.current_term == term, f"seed {seed}: disturbed\n{run.describe()}"
    return run


# In the first of them answers would not arrive if they went to former data directories that a log still names.
@pytest.mark.parametrize("seed", [61, 73, 81, 93, *range(2)])
def test_whoever_is_a_member_in_the_end_has_all_of_the_log(seed: int) -> None:
    come_and_go(seed)
