"""Faults of links between nodes (clients, and operators): cut in one direction or both, slow, lossy, or on and off."""

from __future__ import annotations

from functools import partial
from random import Random
from typing import TYPE_CHECKING

from zraft.raft import Role
from zraft.sim.availability import raft_of
from zraft.sim.options import MAX_LAG_US

if TYPE_CHECKING:
    from zraft.sim.cluster import Cluster
    from zraft.sim.node import Machine

CUT_WITH_TAIL_US = 3_000_000
SEEK_CONFLICT_US = 1_000

Pairs = list[tuple[str, str]]  # directed: (sender, receiver)


class LinkFaults:
    """Each `_kind` does it for a drawn time and says what it did; "" if there was nothing to do."""

    def __init__(self, cluster: Cluster, rng: Random) -> None:
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._rng = rng
        self._active = False

    def _pause_slot(self, machine: Machine, actor: str, pause_us: int) -> None:
        raise NotImplementedError

    def _others(self, machine: Machine) -> list[str]:
        return [name for name in self._cluster.names if name != machine.name]

    def _cut_for(self, pairs: Pairs, what: str, sleeper: Machine | None = None) -> str:
        """Cut links for a drawn time. sleeper: its clock stands still meanwhile, so that it notices nothing."""
        hold = self._rng.random() < 0.4
        cut_us = self._rng.choice([self._rng.randint(50_000, 2_000_000), self._rng.randint(2_000_000, 8_000_000)])
        self._cut(pairs, hold, cut_us)
        if sleeper is not None and sleeper.process is not None:
            self._pause_slot(sleeper, "election_timer", cut_us)
        return f"{what} for {cut_us} us{', frames are held' if hold else ''}"

    def _cut(self, pairs: Pairs, hold: bool, cut_us: int) -> None:
        for sender, receiver in pairs:
            self._cluster.network.cut_link(sender, receiver, hold)
        self._scheduler.at(self._scheduler.now_us + cut_us, self._heal_pairs, pairs)

    def _heal_pairs(self, pairs: Pairs) -> None:
        for sender, receiver in pairs:
            self._cluster.network.heal_link(sender, receiver)

    def _partition(self, machine: Machine) -> str:
        everybody = [*self._cluster.names, *self._cluster.clients, *self._cluster.operators]
        side = {name for name in everybody if self._rng.random() < 0.5}
        pairs = [(one, two) for one in everybody for two in everybody if (one in side) != (two in side)]
        return self._cut_for(pairs, f"{' '.join(name for name in everybody if name in side)} from the rest")

    def _isolate(self, machine: Machine) -> str:
        """From the other nodes, though clients may still reach it."""
        others = self._others(machine)
        if self._rng.random() < 0.3:
            others += [*self._cluster.clients, *self._cluster.operators]
        sleeper = machine if self._rng.random() < 0.5 else None
        what = f"{machine.name}{' asleep' if sleeper else ''} from {' '.join(others)}"
        return self._cut_for(both_ways(machine.name, others), what, sleeper)

    def _one_way(self, machine: Machine) -> str:
        pairs = [(machine.name, other) for other in self._others(machine)]
        if self._rng.random() < 0.5:
            pairs = [(other, name) for name, other in pairs]
        return self._cut_for(pairs, shown(pairs))

    def _one_link(self, machine: Machine) -> str:
        """Two nodes, in one direction or both; all others see both of them, and one of the two may lead (trap 11)."""
        others = self._others(machine)
        if not others:
            return ""
        both = both_ways(machine.name, [self._rng.choice(others)])
        pairs = self._rng.choice([both, both[:1], both[1:]])
        return self._cut_for(pairs, shown(pairs))

    def _partial(self, machine: Machine) -> str:
        """Some pairs of nodes do not see each other, though both see others (Cloudflare 2020)."""
        names = self._cluster.names
        pairs = [(one, two) for one in names for two in names if one < two and self._rng.random() < 0.4]
        both = pairs + [(two, one) for one, two in pairs]
        return self._cut_for(both, " ".join(f"{one}|{two}" for one, two in pairs)) if pairs else ""

    def _flap(self, machine: Machine) -> str:
        others = self._others(machine)
        if not others:
            return ""
        other = self._rng.choice(others)
        start_us = self._scheduler.now_us
        pairs = both_ways(machine.name, [other])
        for number in range(self._rng.randint(3, 12)):
            at_us = start_us + number * 200_000
            self._scheduler.at(at_us, partial(self._cut_pairs, pairs), None)
            self._scheduler.at(at_us + self._rng.randint(20_000, 180_000), self._heal_pairs, pairs)
        return f"{machine.name} and {other}"

    def _cut_pairs(self, pairs: Pairs, _argument: None) -> None:
        if self._active:
            for sender, receiver in pairs:
                self._cluster.network.cut_link(sender, receiver, hold=False)

    def _lag(self, machine: Machine) -> str:
        """What others say to a node (or it to them) is late, all by the same: what it hears may be true no more when
        it hears it, such as that they follow it (trap 14)."""
        pairs = [(other, machine.name) for other in self._others(machine)]
        if self._rng.random() < 0.3:
            pairs = [(name, other) for other, name in pairs]
        lag_us = self._rng.randint(50_000, MAX_LAG_US)
        end_us = self._scheduler.now_us + self._rng.randint(500_000, 3_000_000)
        for pair in pairs:
            self._cluster.network.lag_us[pair] = lag_us
        self._scheduler.at(end_us, self._end_lag, pairs)
        return f"{shown(pairs)} by {lag_us} us" if pairs else ""

    def _end_lag(self, pairs: Pairs) -> None:
        for pair in pairs:
            self._cluster.network.lag_us.pop(pair, None)

    def _cut_with_tail(self, machine: Machine) -> str:
        """The leader is cut off, asleep, while clients go on to fill its log. It is back as soon as its successor has a
        snapshot of something else than what stands there, and no log before that (trap 5)."""
        rafts = {name: raft_of(each) for name, each in self._cluster.machines.items()}
        leading = [name for name, raft in rafts.items() if raft is not None and raft.role is Role.LEADER]
        if not leading or len(rafts) == 1:
            return ""
        leader = self._cluster.machines[leading[0]]
        self._pause_slot(leader, "election_timer", CUT_WITH_TAIL_US)
        pairs = both_ways(leader.name, self._others(leader))
        self._cut(pairs, False, CUT_WITH_TAIL_US)
        self._seek_conflict((leader, pairs, self._scheduler.now_us + CUT_WITH_TAIL_US))
        return leader.name

    def _seek_conflict(self, sought: tuple[Machine, Pairs, int]) -> None:
        machine, pairs, end_us = sought
        now_us, raft = self._scheduler.now_us, raft_of(machine)
        if not self._active or raft is None or now_us >= end_us:
            return
        for other in map(raft_of, self._cluster.machines.values()):
            if other is None or other.role is not Role.LEADER or other.current_term <= raft.current_term:
                continue
            index = other.snapshot.index
            if other.log.base_index > raft.commit_index and raft.log.base_index < index <= raft.log.last_index:
                self._cluster.counts["cut-with-tail"] += 1
                self._heal_pairs(pairs)
                return
        self._scheduler.at(now_us + SEEK_CONFLICT_US, self._seek_conflict, sought)

    def _loss_burst(self, machine: Machine) -> str:
        network, options = self._cluster.network, self._cluster.options
        network.loss, network.duplication = self._rng.uniform(0, 0.3), self._rng.uniform(0, 0.5)
        network.long_delay = 0.1
        burst_us = self._rng.randint(100_000, 3_000_000)

        def end(_argument: None) -> None:
            if self._active:
                network.loss, network.duplication = options.loss, options.duplication
                network.long_delay = options.long_delay

        self._scheduler.at(self._scheduler.now_us + burst_us, end, None)
        return f"for {burst_us} us"


def both_ways(name: str, others: list[str]) -> Pairs:
    """All links between a node and others."""
    return [(name, other) for other in others] + [(other, name) for other in others]


def shown(pairs: Pairs) -> str:
    """For a reader."""
    return " ".join(f"{sender}>{receiver}" for sender, receiver in pairs)
