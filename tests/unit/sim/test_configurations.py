"""What the simulator demands of changes of members, shown on configurations that a leader must not write."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from zraft.messages import Entry, EntryKind
from zraft.raft import Address, Membership, Settings
from zraft.sim.configurations import ANSWER_US, MAX_LATE_TERMS, Configurations, decide
from zraft.sim.durable import Holding
from zraft.sim.violation import Violation

STORES = {f"n{number}": 100 + number for number in range(1, 7)}


def nodes(*names: str) -> dict[str, Address]:
    return {name: Address(f"client {name}", f"peer {name}") for name in names}


def members(*voters: str, learners: tuple[str, ...] = (), outgoing: tuple[str, ...] = ()) -> Membership:
    everybody = (*voters, *learners, *outgoing)
    stores = {name: STORES[name] for name in everybody}
    return Membership(1, nodes(*voters), nodes(*learners), nodes(*outgoing), (), stores)


def entry(config: Membership, term: int = 1) -> Entry:
    return Entry(term, 0, int(EntryKind.CONFIG), config.encode())


class World:
    """n1 leads term 1, in which all entries are; its log is `configs`, of which `committed` are."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.holdings = {name: Holding(self.entries) for name in STORES}
        for name, holding in self.holdings.items():
            holding.store_id = STORES[name]
        self.configurations = Configurations(members("n1", "n2", "n3"), self.entries, self.holdings, Counter())
        self.now_us = 1_000_000
        self.terms: list[int] = []

    def log(self, config: Membership, commit: bool = True) -> None:
        self.terms.append(1)
        self.configurations.saw(len(self.terms), 1, entry(config))
        if commit:
            self.entries.append(entry(config))
            self.configurations.on_committed(len(self.terms), entry(config), self.now_us)

    def raft(self, **fields: Any) -> Any:
        last = len(self.terms)
        log = SimpleNamespace(last_index=last)
        known = {"id": "n1", "current_term": 1, "commit_index": len(self.entries), "now_ms": 10_000, "log": log}
        return SimpleNamespace(settings=Settings(), **(known | fields))

    def judge(self, config: Membership, **fields: Any) -> None:
        """n1 appends it."""
        self.log(config, commit=False)
        raft = self.raft(**fields)
        index = len(self.terms)
        self.configurations.on_change("n1", raft, self.terms, index, len(self.entries), self.now_us)


@pytest.fixture
def world() -> World:
    made = World()
    made.log(members("n1", "n2", "n3"))
    return made


def test_a_majority_of_either_set_decides() -> None:
    joint = members("n1", "n4", "n5", outgoing=("n1", "n2", "n3"))
    assert decide(joint, {"n1", "n2", "n4"})
    assert not decide(joint, {"n1", "n4", "n5"}) and not decide(joint, {"n1", "n2", "n3"})
    assert not decide(members("n1", learners=("n4", "n5")), {"n4", "n5"})
    assert not decide(Membership(1, {}), set())


def test_a_change_as_it_should_be(world: World) -> None:
    world.judge(members("n1", "n2", "n3", learners=("n4",)))
    world.log(members("n1", "n2", "n3", learners=("n4",)))
    world.entries.append(world.entries[0])
    world.judge(members("n1", "n2", "n4", outgoing=("n1", "n2", "n3")))


def test_one_change_at_a_time(world: World) -> None:
    world.judge(members("n1", "n2", "n3", learners=("n4",)))
    with pytest.raises(Violation, match="one change at a time"):
        world.judge(members("n1", "n2", "n3", learners=("n4", "n5")))


def test_no_change_before_the_leaders_own_entry(world: World) -> None:
    with pytest.raises(Violation, match="no change before the leader's own first entry"):
        world.judge(members("n1", "n2", "n3", learners=("n4",)), commit_index=0)


@pytest.mark.parametrize("config", [members("n1", "n2"), members("n1", "n2", "n4", outgoing=("n1", "n2"))])
def test_voters_change_by_a_joint_configuration(world: World, config: Membership) -> None:
    with pytest.raises(Violation, match="a change of voters is joint"):
        world.judge(config)


def test_nobody_is_added_with_the_data_of_a_former_life(world: World) -> None:
    world.holdings["n3"].terms = [1]
    world.log(members("n1", "n2"))
    world.now_us += ANSWER_US + 1
    with pytest.raises(Violation, match="who was removed stays out"):
        world.judge(members("n1", "n2", learners=("n3",)))


def test_nobody_is_added_whose_data_directory_is_another(world: World) -> None:
    with pytest.raises(Violation, match="a joiner is who was meant"):
        world.judge(members("n1", "n2", "n3", learners=("n4",))._replace(stores=STORES | {"n4": 999}))


@pytest.mark.parametrize(("held", "close"), [(0, False), (1, False), (2, True)])
def test_a_new_voter_is_close(world: World, held: int, close: bool) -> None:
    world.log(members("n1", "n2", "n3", learners=("n4",)))
    world.configurations.on_leader_log(world.raft(now_ms=9_000))
    world.holdings["n4"].terms = [1] * held
    joint = members("n1", "n2", "n3", "n4", outgoing=("n1", "n2", "n3"))
    if close:
        world.judge(joint)
        return
    with pytest.raises(Violation, match="a new voter is close"):
        world.judge(joint)


def test_what_was_wiped_does_not_hold_what_it_held(world: World) -> None:
    former = world.holdings["n3"]
    world.configurations.former["n3", STORES["n3"]] = former
    world.holdings["n3"] = Holding(world.entries)
    assert world.configurations.life("n3", members("n3")) is former
    again = members("n3")._replace(stores={"n3": 333})
    assert world.configurations.life("n3", again) is None
    world.holdings["n3"].store_id = 333
    assert world.configurations.life("n3", again) is world.holdings["n3"]


def test_the_latest_in_a_log_is_in_force_and_another_log_has_another(world: World) -> None:
    world.configurations.saw(2, 1, entry(members("n1", "n2")))
    world.configurations.saw(2, 2, entry(members("n1", "n3"), term=2))
    found = [world.configurations.in_force(terms) for terms in ([1], [1, 1], [1, 2], [1, 2, 2])]
    assert [(index, list(config.voters) if config else None) for index, config in found] == [
        (1, ["n1", "n2", "n3"]),
        (2, ["n1", "n2"]),
        (2, ["n1", "n3"]),
        (2, ["n1", "n3"]),
    ]


def test_who_has_no_vote_raises_no_term(world: World) -> None:
    world.log(members("n1", "n2"))
    raft = SimpleNamespace(current_term=5)
    for _ in range(MAX_LATE_TERMS):
        world.configurations.on_raised("n3", raft)  # type: ignore[arg-type]
        world.configurations.on_raised("n2", raft)  # type: ignore[arg-type]
    world.configurations.on_raised("n2", raft)  # type: ignore[arg-type]
    with pytest.raises(Violation, match="who has no vote raises no term"):
        world.configurations.on_raised("n3", raft)  # type: ignore[arg-type]
