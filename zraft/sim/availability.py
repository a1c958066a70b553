"""Invariants of availability, which must hold while faults go on and not only after them (traps 11, 12, 13).

A majority is one of the configuration that a node goes by itself, in a joint one of either set.

They bound how long a wrong state may last, so each is judged only where nothing else disturbed the nodes it speaks of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zraft.raft import Membership, Raft, Role
from zraft.sim.configurations import decide
from zraft.sim.network import LONG_DELAY
from zraft.sim.options import MAX_LAG_US
from zraft.sim.violation import Violation

if TYPE_CHECKING:
    from zraft.sim.cluster import Cluster
    from zraft.sim.node import Machine

MAX_LATE_TERMS = 3
"""Terms that a node may still raise after it was cut off: answers that were on their way make it do so."""
UNDISTURBED_US = 1_500_000
"""For so long a leader and a majority must have been well, all the time, until its term has to stay."""
LOOK_US = 100_000
"""Longer than it is between two looks."""
WELL_DELAY_US = 5_000
"""Slower networks let honest followers lose patience."""
LONG_WRITE_US = 50_000


class Watch:
    """Since when, in virtual microseconds, something has been so without a break; None: it is not."""

    __slots__ = (
        "cut_off_us", "disturbed_us", "is_full", "members", "out_us", "raised", "stalled_us", "term", "writes_us"
    )  # fmt: skip

    def __init__(self) -> None:
        self.cut_off_us: int | None = None  # it cannot exchange a frame with any majority
        self.members: Membership | None = None  # that it went by then
        self.out_us: int | None = None  # it leads, and knows that it is no member any more
        self.stalled_us: int | None = None  # its disk answers nothing, or is full
        self.writes_us: int | None = None  # its consensus waits for a write
        self.is_full = False  # its disk takes nothing, rather than to keep everybody waiting
        self.disturbed_us = 0  # when it last did not run as it should: restarts, pauses, kills
        self.term: int | None = None  # when last looked at while it was cut off
        self.raised = 0  # how often it has raised it since


class Availability:
    """`look` is called at short intervals, `after_consensus` after each batch of a consensus."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._watches = {name: Watch() for name in cluster.names}
        timeout_ms = cluster.options.election_timeout_ms[1]
        on_their_way_us = cluster.options.delay_us[1] * (1 + LONG_DELAY)
        on_their_way_us += MAX_LAG_US if "lag" in cluster.options.faults else 0
        self._cut_off_limit_us = 3 * timeout_ms * 1000 + 200_000 + on_their_way_us
        self._stall_limit_us = 2 * cluster.settings.disk_stall_ms * 1000 + 300_000
        self._out_limit_us = 4 * timeout_ms * 1000 + 200_000
        options = cluster.options
        self._is_network_well = options.delay_us[1] <= WELL_DELAY_US and options.actor_delay_us <= WELL_DELAY_US
        self._leader = ("", 0)  # who is well, with a majority that is, and its term
        self._well_since_us: dict[str, int] = {}  # since when who is well, and the link between it and the leader

    def add(self, name: str) -> None:
        """There is one more node."""
        self._watches[name] = Watch()

    def disturbed(self, name: str) -> None:
        """This node's process did not run as it should: it is owed time."""
        self._watches[name].disturbed_us = self._cluster.scheduler.now_us

    def unsettle(self) -> None:
        """Leadership is asked to move, or what was said long ago comes through: no leader has to stay."""
        self._leader = ("", 0)

    def look(self) -> None:
        """Note what each node is in now."""
        cluster, now_us = self._cluster, self._cluster.scheduler.now_us
        for name, watch in self._watches.items():
            process = cluster.machines[name].process
            if process is not None and process.is_paused():
                self.disturbed(name)
            self._look_at_links(name, watch, now_us)
            disk = cluster.machines[name].disk
            watch.is_full = disk.full_until_us > now_us and disk.full_for_overwrites
            if not watch.is_full and disk.stalled_until_us <= now_us:
                watch.stalled_us = None
            elif watch.stalled_us is None:
                watch.stalled_us = now_us
        self._look_at_leader()

    def _look_at_links(self, name: str, watch: Watch, now_us: int) -> None:
        cluster, raft = self._cluster, raft_of(self._cluster.machines[name])
        if raft is not None and raft.membership is not watch.members:
            watch.members = raft.membership
            watch.cut_off_us = watch.term = None
        if watch.members is None:
            return
        reached = {name}
        for other in watch.members.electorate:
            machine = cluster.machines.get(other)
            if machine is not None and machine.process is not None and not cluster.network.is_cut(name, other):
                reached.add(other)
        if decide(watch.members, reached):
            watch.cut_off_us = watch.term = None
        elif watch.cut_off_us is None:
            watch.cut_off_us = now_us

    # --- one machine

    def after_consensus(self, machine: Machine, raft: Raft) -> None:
        """Judge a consensus that has just run."""
        watch, (leader, term) = self._watches[machine.name], self._leader
        if raft.oldest_write_ms is None:
            watch.writes_us = None
        elif watch.writes_us is None:
            watch.writes_us = self._cluster.scheduler.now_us
        is_out = raft.role is Role.LEADER and raft.settled_config is not raft.configs[-1][1]
        is_out = is_out and not raft.is_voter and raft.commit_index >= raft.config_index
        if not is_out:
            watch.out_us = None
        elif watch.out_us is None:
            watch.out_us = self._cluster.scheduler.now_us
        calm = watch.cut_off_us is None and watch.stalled_us is None and not is_out
        if calm and not (leader and raft.current_term > term):
            return
        violation = self._judge(machine, raft)
        if violation is not None:
            self.look()  # links, disks and processes may have changed since the last time
            violation = self._judge(machine, raft)
        if violation is not None:
            raise violation

    def _judge(self, machine: Machine, raft: Raft) -> Violation | None:
        watch = self._watches[machine.name]
        now_us = self._cluster.scheduler.now_us
        if watch.cut_off_us is not None:
            quiet_us = now_us - max(watch.cut_off_us, watch.disturbed_us)
            if quiet_us > self._cut_off_limit_us:
                return self._judge_cut_off(machine, raft, watch, quiet_us)
        if watch.stalled_us is not None and watch.writes_us is not None and raft.role is Role.LEADER:
            led_us = machine.time_of_us(raft.log_clock[1])  # a vote may have been done between two stalls
            answered_us = max(watch.writes_us, self._answered_us(machine, watch))  # compaction may have begun before
            quiet_us = now_us - max(watch.stalled_us, watch.disturbed_us, led_us, answered_us)
            if quiet_us > self._stall_limit_us:
                return Violation("a leader's disk works", f"{machine.name} leads, its disk stalled for {quiet_us} us")
        if watch.out_us is not None:
            quiet_us = now_us - max(watch.out_us, watch.disturbed_us)
            if quiet_us > self._out_limit_us:
                return Violation("who was removed leads no more", f"{machine.name} leads on for {quiet_us} us")
        leader, term = self._leader
        if leader and raft.current_term > term:
            settled = [name for name, us in self._well_since_us.items() if now_us - us > UNDISTURBED_US]
            if self._is_majority_of(leader, settled):
                return Violation(
                    "a leader that reaches a quorum stays",
                    f"{machine.name} is in term {raft.current_term}; {leader} leads {term}, undisturbed with {settled}",
                )
            self.unsettle()  # what was begun before all was well
        return None

    def _answered_us(self, machine: Machine, watch: Watch) -> int:
        """When its disk last did: where stalls follow each other closely, what began in one completes in the next."""
        return 0 if watch.is_full or machine.process is None else machine.process.slots["log_writer"].began_us

    def _judge_cut_off(self, machine: Machine, raft: Raft, watch: Watch, quiet_us: int) -> Violation | None:
        if raft.role is Role.LEADER:
            # Votes that were held back may have elected it while it was cut off.
            led_for_us = self._cluster.scheduler.now_us - machine.time_of_us(raft.log_clock[1])
            if led_for_us <= self._cut_off_limit_us:
                return None
            return Violation("a leader reaches a quorum", f"{machine.name} leads, cut off for {quiet_us} us")
        if watch.term is None:
            watch.term, watch.raised = raft.current_term, 0
        elif raft.current_term > watch.term:
            # A leader's wish to hand over asks nobody first, and may reach a node that reaches nobody else.
            watch.raised += raft.voted_for == machine.name and not raft.transfer_election
            watch.term = raft.current_term
        if watch.raised > MAX_LATE_TERMS:
            return Violation(
                "who is cut off raises no term",
                f"{machine.name}, cut off for {quiet_us} us, raised it {watch.raised} times, now {raft.current_term}",
            )
        return None

    # --- the leader and its majority

    def _is_majority_of(self, leader: str, names: list[str]) -> bool:
        """Of those that the leader goes by, itself among them."""
        raft = raft_of(self._cluster.machines[leader])
        return raft is not None and leader in raft.membership.voters and decide(raft.membership, names)

    def _look_at_leader(self) -> None:
        """Go on trusting the leader, or begin with another."""
        leader, _ = self._leader
        well = self._well_with(leader) if leader else []
        if well and self._is_majority_of(leader, well):
            now_us = self._cluster.scheduler.now_us
            self._well_since_us = {name: self._well_since_us.get(name, now_us) for name in well}
            return
        self._leader = ("", 0)
        network = self._cluster.network
        if not self._is_network_well or network.loss or network.long_delay:
            return
        rafts = [raft for raft in map(raft_of, self._cluster.machines.values()) if raft is not None]
        best = max(rafts, key=lambda raft: (raft.current_term, raft.role is Role.LEADER), default=None)
        terms = [self._cluster.invariants.holdings[name].hard_state.term for name in self._cluster.names]
        if best is None or best.role is not Role.LEADER or max(terms) > best.current_term:
            return
        well = self._well_with(best.id)
        if self._is_majority_of(best.id, well):
            self._leader = (best.id, best.current_term)
            self._well_since_us = dict.fromkeys(well, self._cluster.scheduler.now_us)

    def _well_with(self, leader: str) -> list[str]:
        """Those nodes that are well and linked to the leader, itself among them; none if it is not well. A member that
        was wiped may be well, and is none to the leader (trap 10)."""
        network, raft = self._cluster.network, raft_of(self._cluster.machines[leader])
        if raft is None or network.loss or network.long_delay or not self._is_well(leader):
            return []
        stores, holdings = raft.membership.stores, self._cluster.invariants.holdings
        names = [name for name in self._cluster.names if stores.get(name) in (None, 0, holdings[name].store_id)]
        return [name for name in names if self._is_well(name) and network.is_well(name, leader)]

    def _is_well(self, name: str) -> bool:
        machine, watch, now_us = self._cluster.machines[name], self._watches[name], self._cluster.scheduler.now_us
        process, disk = machine.process, machine.disk
        if process is None or raft_of(machine) is None or now_us - watch.disturbed_us < LOOK_US:
            return False
        waits = process.slots["log_writer"].busy_until_us > now_us + LONG_WRITE_US
        if waits or disk.factor > 1 or disk.stalled_until_us > now_us or disk.full_until_us > now_us:
            self.disturbed(name)
            return False
        return not process.is_paused() and machine.is_clock_right()


def raft_of(machine: Machine) -> Raft | None:
    """The core that runs there; None: none does now."""
    consensus = None if machine.process is None else machine.process.actor("consensus")
    return None if consensus is None else consensus.raft
