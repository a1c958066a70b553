"""Changes of the members as a run draws them: at any time, several at once, sensible and not.

What an operator is told (docs/OPERATIONS.md) it does most of the time: a node joins with an empty data directory, and
one that was a member is wiped before it joins again. At times it does not, which has to be refused, or do no harm.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from zraft.raft import Membership, Role
from zraft.sim.availability import raft_of
from zraft.sim.link_faults import LinkFaults, both_ways
from zraft.sim.operators import OPERATORS, Wish, as_json

if TYPE_CHECKING:
    from zraft.sim.cluster import Cluster
    from zraft.sim.node import Machine

MAX_VOTERS = 7
SEEK_US = 1_000
SEEK_FOR_US = 3_000_000
HELD_US = 100_000
UNHEARD_US = 300_000
CUT_US = (200_000, 2_000_000)
SPREAD_US = 60_000


class MemberFaults(LinkFaults):
    """As LinkFaults: each `_kind` says what it did."""

    def __init__(self, cluster: Cluster, rng: Random) -> None:
        super().__init__(cluster, rng)
        self._configurations = cluster.invariants.configurations

    def _start(self, machine: Machine) -> None:
        raise NotImplementedError

    def _crash(self, machine: Machine, power: bool) -> str:
        raise NotImplementedError

    # --- who is there

    def _possible_members(self) -> set[str]:
        """By what is committed, and by what may be."""
        configs = (self._configurations.newest, *self._configurations.pending())
        return {node for members in configs for node in members.members}

    def is_whole(self, name: str, members: Membership) -> bool:
        """Whether that member has all that it ever held, and will have."""
        invariants = self._cluster.invariants
        if name not in self._cluster.machines or name in invariants.lost or name in invariants.damaged:
            return False
        store = members.stores.get(name, 0)
        return not store or store == invariants.holdings[name].store_id

    def stays_electable(self, members: Membership, but: str = "") -> bool:
        """Whether enough members are whole, without `but`, to elect and to commit, now and after the change that is
        under way."""
        target = set(members.target) & members.members.keys()
        for voters in (members.voters, members.outgoing, target):
            whole = [name for name in voters if name != but and self.is_whole(name, members)]
            if voters and 2 * len(whole) <= len(voters):
                return False
        return True

    def is_majority_lost(self) -> bool:
        """Whether changes and damage together have left too few of the members that decide now."""
        configurations = self._configurations
        return not all(self.stays_electable(members) for members in (configurations.newest, *configurations.held()))

    def _members_may_change(self) -> bool:
        """Whether a change is under way, or may be."""
        idle = all(operator.is_idle for operator in self._cluster.operators.values())
        return not idle or self._configurations.newest.is_changing or bool(self._configurations.pending())

    # --- machines that join

    def _ready_joiner(self) -> str:
        """A machine that waits to be added, if need be a new one; "": there is none."""
        members = self._possible_members()
        names = [name for name in self._cluster.addresses if name not in members]
        if not names:
            return ""
        name = self._rng.choice(names)
        machine = self._cluster.machines.get(name) or self._cluster.add_machine(name, joins=True)
        if machine.process is None or not self._is_empty(machine):
            if self._is_only_hope(name):
                return ""
            self._wipe_to_join(machine)
        return name

    def _is_only_hope(self, name: str) -> bool:
        """Whether a client knows no member but through this node, which was one: whoever wipes it has to wait until
        the clients have asked again who the members are (docs/OPERATIONS.md)."""
        configurations = self._configurations
        known = [client.known_nodes() for client in self._cluster.clients.values()]
        for members in (configurations.newest, *configurations.held()):
            others = members.members.keys() - {name}
            if any(others.isdisjoint(nodes) for nodes in known):
                return True
        return False

    def _is_empty(self, machine: Machine) -> bool:
        holding = self._cluster.invariants.holdings[machine.name]
        return machine.joins and not holding.terms and not holding.snapshot_index

    def _wipe_to_join(self, machine: Machine) -> None:
        """As one is told to, with a node that is no member, or not any more."""
        if machine.processes:
            machine.crash(power=True)
            machine.disk.wipe()
            self._cluster.invariants.on_wiped(machine.name, self._scheduler.now_us)
            self._cluster.counts["joiners-wiped"] += 1
        self._cluster.invariants.lost.discard(machine.name)
        machine.given_up = ""
        machine.joins = True
        self._start(machine)

    # --- what is asked for

    def _add(self, node: str, learner: bool) -> Wish:
        at = self._cluster.addresses[node]
        body = as_json(op="add", id=node, peer=at.peer, client=at.client, learner=learner)
        return Wish(body, f"add {node}{' as a learner' if learner else ''}")

    def _draw_wish(self) -> Wish | None:
        rng, members = self._rng, self._configurations.newest
        catching_up = [node for node in members.learners if node in members.target]
        if members.is_changing and rng.random() < 0.4:
            if catching_up:
                return self._remove(rng.choice(catching_up))
            return self._set(list(members.voters), [])
        if members.learners and rng.random() < 0.4:
            node = rng.choice(list(members.learners))
            return Wish(as_json(op="promote", id=node), f"promote {node}")
        wanted = self._cluster.options.nodes
        dice = rng.random() + 0.15 * (len(members.voters) - wanted)
        if dice < 0.4:
            node = self._ready_joiner()
            return self._add(node, rng.random() < 0.3) if node else None
        if dice < 0.7:
            return self._draw_set(members)
        leader = max(self._cluster.invariants.leader_of.items(), default=(0, ""))[1]
        node = leader if leader and rng.random() < 0.35 else rng.choice(list(members.members))
        return self._remove(node)

    def _draw_set(self, members: Membership) -> Wish:
        known = list(members.members)
        kept = self._rng.sample(known, self._rng.randint(min(len(known), 1), min(len(known), MAX_VOTERS)))
        joiners = {self._ready_joiner() for _ in range(self._rng.choice([0, 0, 1, 1, 2, 3]))} - {""}
        joining = sorted(joiners)[: MAX_VOTERS - len(kept)]
        if len(kept) > 1 and joining and self._rng.random() < 0.5:
            kept = kept[len(joining) :]  # any set to any other, none in common, too
        return self._set(kept, joining)

    def _set(self, kept: list[str], joining: list[str]) -> Wish:
        voters = kept + joining
        nodes = {node: self._cluster.addresses[node]._asdict() for node in joining}
        return Wish(as_json(op="set", voters=voters, nodes=nodes), f"set {' '.join(voters)}")

    def _remove(self, node: str) -> Wish:
        return Wish(as_json(op="remove", id=node), f"remove {node}")

    # --- kinds

    def _ask(self, wish: Wish, node: str, operator: str = "") -> str:
        name = operator or self._rng.choice(list(self._cluster.operators))
        self._cluster.availability.unsettle()
        self._cluster.operators[name].ask(wish, node)
        return f"{name} asks {node} to {wish.what}"

    def _members(self, machine: Machine) -> str:
        wish = self._draw_wish()
        return self._ask(wish, machine.name) if wish else ""

    def _members_at_once(self, machine: Machine) -> str:
        """Several wishes that exclude each other, at the same time and at several nodes, which may be apart."""
        wishes = [wish for wish in (self._draw_wish() for _ in range(self._rng.randint(2, 4))) if wish]
        if self._rng.random() < 0.5:
            self._cut(both_ways(machine.name, self._others(machine)), self._rng.random() < 0.4, 1_000_000)
        for number, wish in enumerate(wishes):
            node = machine.name if number == 0 else self._rng.choice(self._cluster.names)
            at_us = self._scheduler.now_us + self._rng.randrange(SPREAD_US)
            self._scheduler.at(at_us, self._ask_later, (wish, node))
        return "; ".join(wish.what for wish in wishes)

    def _ask_later(self, asked: tuple[Wish, str]) -> None:
        self._ask(*asked)

    def _unfit_joiner(self, machine: Machine) -> str:
        """A node that is off, another one than was meant, one with data of an earlier life, a member's address."""
        cluster, members = self._cluster, self._possible_members()
        others = [name for name in cluster.names if name not in members]
        at = cluster.addresses[machine.name]
        what = self._rng.choice(["other", "dead", "unwiped", "unwiped"])
        if what == "other" or not others:
            name = f"x{machine.name}"
            client = at.client if self._rng.random() < 0.5 else "tcp://127.0.0.1:9999"
            body = as_json(op="add", id=name, peer=at.peer, client=client, learner=False)
            return self._ask(Wish(body, f"add {name} where {machine.name} is", must_fail=True), machine.name)
        other = cluster.machines[self._rng.choice(others)]
        if what == "dead":
            other.crash(power=False)
            return self._ask(self._add(other.name, False), machine.name)
        if other.process is None:
            self._start(other)
        store = cluster.invariants.holdings[other.name].store_id
        former = self._configurations.is_member_store(other.name, store)
        wish = self._add(other.name, False)
        return self._ask(wish._replace(what=f"{wish.what}{', as it is' if former else ''}"), machine.name)

    def _rejoin(self, machine: Machine) -> str:
        """A member is removed, wiped and added again; what it said before comes through only then (trap 10)."""
        leader, name = self._leader(), machine.name
        if leader is None or leader.name == name or name not in self._configurations.newest.voters:
            return ""
        if self._members_may_change() or self._is_only_hope(name):
            return ""
        self._cluster.network.cut_link(name, leader.name, hold=True)
        self._scheduler.at(self._scheduler.now_us + HELD_US, self._ask_later, (self._remove(name), leader.name))
        self._seek_removal((machine, leader, self._scheduler.now_us + SEEK_FOR_US))
        return name

    def _seek_removal(self, sought: tuple[Machine, Machine, int]) -> None:
        machine, leader, end_us = sought
        now_us = self._scheduler.now_us
        if not self._active or now_us >= end_us:
            self._cluster.network.heal_link(machine.name, leader.name)
        elif machine.name in self._possible_members():
            self._scheduler.at(now_us + SEEK_US, self._seek_removal, sought)
        else:
            frames = self._cluster.network.take_held(machine.name, leader.name)
            self._wipe_to_join(machine)
            self._ask(self._add(machine.name, self._rng.random() < 0.3), leader.name)
            self._seek_return((machine, leader, frames, now_us + SEEK_FOR_US))

    def _seek_return(self, sought: tuple[Machine, Machine, list[bytes], int]) -> None:
        machine, leader, frames, end_us = sought
        now_us, raft = self._scheduler.now_us, raft_of(leader)
        if not self._active or now_us >= end_us:
            return
        if raft is None or machine.name not in raft.membership.members:
            self._scheduler.at(now_us + SEEK_US, self._seek_return, sought)
        else:
            self._cluster.counts["rejoin"] += 1
            self._cluster.network.arrive_late(leader.name, frames)

    def _crash_in_change(self, machine: Machine) -> str:
        """Something happens to the leader, or to whoever shall vote, while a configuration is not committed yet."""
        if self._rng.random() < 0.4:
            return self._promote_unheard()
        asked = self._members(machine)
        self._seek_change(self._scheduler.now_us + SEEK_FOR_US)
        return asked

    def _promote_unheard(self) -> str:
        """A learner becomes a voter without whom nothing is decided, and does not hear of it before the leader is gone
        (trap 23)."""
        leader, members = self._leader(), self._configurations.newest
        if leader is None or members.is_changing or leader.name not in members.voters:
            return ""
        if not members.learners:
            node = self._ready_joiner()
            return self._ask(self._add(node, learner=True), leader.name) if node else ""
        node, other = self._rng.choice(list(members.learners)), self._rng.choice(list(members.voters))
        self._cluster.availability.unsettle()
        self._cluster.operators[OPERATORS[0]].ask(self._set([node, other], []), leader.name, at_once=True)
        self._cut([(leader.name, node)], False, self._rng.randint(*CUT_US))
        self._seek_joint((leader, self._scheduler.now_us + UNHEARD_US))
        return f"{leader.name} is asked to set {node} {other}, and not heard by {node}"

    def _seek_joint(self, sought: tuple[Machine, int]) -> None:
        leader, end_us = sought
        now_us, raft = self._scheduler.now_us, raft_of(leader)
        if not self._active or raft is None or now_us >= end_us:
            return
        if not raft.membership.outgoing:
            self._scheduler.at(now_us + SEEK_US, self._seek_joint, sought)
            return
        self._cluster.counts["crash-in-change"] += 1
        self._crash(leader, power=False)

    def _seek_change(self, end_us: int) -> None:
        now_us, leader = self._scheduler.now_us, self._leader()
        raft = None if leader is None else raft_of(leader)
        if not self._active or now_us >= end_us:
            return
        if raft is None or raft.config_index <= max(raft.commit_index, 1):
            self._scheduler.at(now_us + SEEK_US, self._seek_change, end_us)
        else:
            self._scheduler.at(now_us + self._rng.randrange(15_000), self._strike_change, leader)

    def _strike_change(self, leader: Machine) -> None:
        raft = raft_of(leader)
        if not self._active or raft is None:
            return
        self._cluster.counts["crash-in-change"] += 1
        members = raft.membership
        others = [name for name in members.members if name in self._cluster.machines and name != leader.name]
        newest = [name for name in others if name not in self._configurations.newest.voters]
        victim = self._cluster.machines[self._rng.choice([leader.name, leader.name, *newest[:1], *others[-1:]])]
        what = self._rng.choice(["power", "process", "cut", "cut", "consensus"])
        self._cluster.trace.event(self._scheduler.now_us, f"fault: amid a change of members: {victim.name}: {what}")
        if what == "cut":
            cut_us = self._rng.randint(*CUT_US)
            self._cut(both_ways(victim.name, self._others(victim)), self._rng.random() < 0.4, cut_us)
        elif what == "consensus" and victim.process is not None:
            self._cluster.availability.disturbed(victim.name)
            victim.process.ask_kill("consensus", 0)
        else:
            self._crash(victim, power=what == "power")
        if self._rng.random() < 0.5:
            self._seek_new_leader((leader, self._scheduler.now_us + SEEK_FOR_US))

    def _seek_new_leader(self, sought: tuple[Machine, int]) -> None:
        """Who leads next is asked for a change before it knows what is committed (trap 2)."""
        former, end_us = sought
        now_us, leader = self._scheduler.now_us, self._leader()
        raft = None if leader is None else raft_of(leader)
        if not self._active or now_us >= end_us:
            return
        if leader is None or leader is former or raft is None or raft.commit_index >= raft.term_start_index:
            self._scheduler.at(now_us + SEEK_US // 5, self._seek_new_leader, sought)
            return
        wish = self._remove(self._rng.choice(list(raft.membership.members)))
        self._cluster.availability.unsettle()
        self._cluster.operators[OPERATORS[0]].ask(wish, leader.name, at_once=True)
        self._cluster.trace.event(now_us, f"fault: {leader.name}, which has just begun, is asked to {wish.what}")

    def _leader(self) -> Machine | None:
        """Who leads the latest term."""
        rafts = [raft for raft in map(raft_of, self._cluster.machines.values()) if raft is not None]
        leading = [raft for raft in rafts if raft.role is Role.LEADER]
        best = max(leading, key=lambda raft: raft.current_term, default=None)
        return None if best is None else self._cluster.machines[best.id]

    # --- the calm phase

    def cancel_change(self) -> None:
        """What does not come to its end is given up: whoever does not catch up is removed again."""
        leader, members = self._leader(), self._configurations.newest
        if leader is None:
            return
        for node in members.learners:
            if node in members.target:
                self._ask(self._remove(node), leader.name)
                return
