"""What is done to a run: a seeded schedule of faults, each with its own end.

Bounds: what destroys a disk's contents (a flipped bit, a wiped disk) happens to so few nodes that a majority stays
whole, as nothing could be promised otherwise. Everything else may hit all nodes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from zraft.sim.link_faults import both_ways
from zraft.sim.member_faults import MemberFaults
from zraft.sim.operators import OPERATORS
from zraft.sim.options import FAULTS
from zraft.sim.violation import Violation
from zraft.wire import RequestKind, pack_requests

if TYPE_CHECKING:
    from zraft.sim.cluster import Cluster
    from zraft.sim.node import Machine, Process

DOWN_US = (50_000, 3_000_000)  # how long a crashed node stays down
MAX_BOUNDARY = 12
SEEK_US = 1_000
SEEK_FOR_US = 400_000
COUNTED_LATER = (  # when they take effect
    "stalled-disk", "slow-disk", "full-disk", "failing-sync", "kill-in-write", "crash-in-snapshot", "cut-with-tail",
    "rejoin", "crash-in-change",
)  # fmt: skip
DAMAGE = ("corrupt", "version", "what lies between was damaged")  # why a damaged node does not start
KILLABLE = ("frontend", "transport", "consensus", "log_writer", "snapshot_writer", "applier", "election_timer")


class Faults(MemberFaults):
    """`begin` starts the nodes and the schedule; `end` takes all faults back."""

    def __init__(self, cluster: Cluster, rng: Random) -> None:
        super().__init__(cluster, rng)
        self._births: dict[tuple[str, str], int] = {}  # (machine, actor) -> boundary at which its next life dies
        self._kinds = cluster.options.faults
        self._actions: dict[str, Callable[[Machine], str]] = {
            kind: getattr(self, "_" + kind.replace("-", "_")) for kind in FAULTS
        }
        self._wiped_founders: set[str] = set()

    # --- the schedule

    def begin(self) -> None:
        """Start all nodes, at slightly different times."""
        self._active = True
        for machine in self._cluster.machines.values():
            self._scheduler.at(self._rng.randrange(300_000), self._start, machine)
        self._plan()

    def _plan(self) -> None:
        mean_us = self._cluster.options.fault_interval_ms * 1000
        self._scheduler.at(self._scheduler.now_us + int(self._rng.expovariate(1 / mean_us)), self._strike, None)

    def _strike(self, _argument: None) -> None:
        if not self._active:
            return
        kind = self._rng.choice(self._kinds)
        machine = self._pick()
        done = self._actions[kind](machine)
        if done:
            self._cluster.counts[kind] += kind not in COUNTED_LATER
            self._cluster.trace.event(self._scheduler.now_us, f"fault: {kind}: {done}")
        self._plan()

    def _pick(self) -> Machine:
        """Whom it hits: anybody, or, more often than chance would, whoever leads."""
        cluster = self._cluster
        leader = max(cluster.invariants.leader_of.items(), default=(0, ""))[1]
        name = leader if leader and self._rng.random() < 0.35 else self._rng.choice(cluster.names)
        return cluster.machines[name]

    def end(self) -> None:
        """No faults any more: links, clocks and disks are right, and every node that may run is started."""
        cluster = self._cluster
        self._active = False
        self._births.clear()
        network = cluster.network
        network.heal()
        network.loss = network.duplication = network.long_delay = 0.0
        for machine in cluster.machines.values():
            machine.set_clock_speed(1_000_000)
            self._resume(machine)
            self._heal_disk(machine)
            self._start(machine)

    def _later(self, action: Callable[[Machine], None], machine: Machine, least_us: int, most_us: int) -> int:
        delay_us = self._rng.randint(least_us, most_us)
        self._scheduler.at(self._scheduler.now_us + delay_us, action, machine)
        return delay_us

    # --- processes

    def _start(self, machine: Machine) -> None:
        if machine.process is None and not machine.given_up:
            self._cluster.trace.event(self._scheduler.now_us, f"{machine.name} starts")
            self._cluster.availability.disturbed(machine.name)
            machine.start()

    def on_process_ended(self, machine: Machine, status: int, reason: str) -> None:
        """Ends that follow from a fault are right; an operator starts the node again, where that is any use."""
        invariants = self._cluster.invariants
        if status and not machine.joins and "data was lost" in reason and machine.name in self._wiped_founders:
            machine.given_up = reason
            return
        if status and machine.name in invariants.damaged and any(text in reason for text in DAMAGE):
            machine.given_up = reason
            invariants.lost.add(machine.name)
            return
        expected = ("input/output error", "no space", "takes no more calls")
        if status and not any(text in reason for text in expected):
            raise Violation("no node ends by itself", f"{machine.name}: {reason}")
        if self._active:
            self._later(self._start, machine, 100_000, 1_500_000)
        else:
            self._scheduler.at(self._scheduler.now_us + 100_000, self._start, machine)

    def _crash(self, machine: Machine, power: bool) -> str:
        if machine.process is None:
            return ""
        machine.crash(power)
        down_us = self._later(self._start, machine, *DOWN_US)
        return f"{machine.name} for {down_us} us"

    def _crash_process(self, machine: Machine) -> str:
        return self._crash(machine, power=False)

    def _crash_power(self, machine: Machine) -> str:
        return self._crash(machine, power=True)

    def _crash_all(self, machine: Machine) -> str:
        return ", ".join(self._crash(each, power=True) or f"{each.name} was down" for each in self._machines())

    def _machines(self) -> list[Machine]:
        return list(self._cluster.machines.values())

    def _clean_stop(self, machine: Machine) -> str:
        if machine.process is None:
            return ""
        self._cluster.availability.unsettle()
        machine.process.stop("a simulated SIGTERM")
        return machine.name

    def _transfer(self, machine: Machine) -> str:
        self._cluster.availability.unsettle()
        target = self._rng.choice(["", *self._cluster.names])
        frame = pack_requests([(0, int(RequestKind.TRANSFER), target.encode())])
        self._cluster.hand_in(machine.name, "frontend", "clients", (OPERATORS[0].encode(), frame))
        return f"{machine.name} is asked to hand over to {target or 'anybody'}"

    # --- actors

    def _kill_actor(self, machine: Machine) -> str:
        process = machine.process
        if process is None:
            return ""
        actor, boundary = self._rng.choice(KILLABLE), self._rng.randrange(MAX_BOUNDARY)
        if self._rng.random() < 0.2:
            self._births[machine.name, actor] = self._rng.randrange(MAX_BOUNDARY)
        self._cluster.availability.disturbed(machine.name)
        process.ask_kill(actor, boundary)
        return f"{actor} of {machine.name} at boundary {boundary}"

    def kill_at_birth(self, machine: Machine, actor: str) -> int | None:
        """For a life that begins: the boundary at which it dies at once; None: it does not."""
        boundary = self._births.pop((machine.name, actor), None)
        if boundary is not None:
            self._cluster.availability.disturbed(machine.name)
        return boundary

    def _kill_in_write(self, machine: Machine) -> str:
        """consensus dies while its disk is busy and another of its Appends waits, with votes and acknowledgements in
        it that its successor must never see done after it was told what is durable (the fence of Recover)."""
        process = machine.process
        if process is None:
            return ""
        machine.disk.factor = self._rng.choice([20, 100])
        self._later(self._heal_disk, machine, SEEK_FOR_US, 2 * SEEK_FOR_US)
        self._seek_write((process, self._scheduler.now_us + SEEK_FOR_US))
        return f"consensus of {machine.name}, its disk slow by {machine.disk.factor}"

    def _seek_write(self, sought: tuple[Process, int]) -> None:
        process, end_us = sought
        if not (self._active and process.alive):
            return
        now_us, writer = self._scheduler.now_us, process.slots["log_writer"]
        if writer.busy_until_us > now_us + SEEK_US and writer.mailbox.get("consensus"):
            self._cluster.counts["kill-in-write"] += 1
            self._cluster.availability.disturbed(process.machine.name)
            process.kill("consensus", 0)
        elif now_us < end_us:
            self._scheduler.at(now_us + SEEK_US, self._seek_write, sought)

    def _crash_in_snapshot(self, machine: Machine) -> str:
        """Something dies while a snapshot is taken, sent, stored, adopted or loaded (trap 19)."""
        if machine.process is None:
            return ""
        self._seek_snapshot((machine.process, self._scheduler.now_us + 4 * SEEK_FOR_US))
        return machine.name

    def _seek_snapshot(self, sought: tuple[Process, int]) -> None:
        process, end_us = sought
        if not (self._active and process.alive):
            return
        now_us = self._scheduler.now_us
        applier, writer = process.actor("applier"), process.actor("snapshot_writer")
        busy = applier is not None and (applier.taking is not None or applier.loading is not None)
        if busy or (writer is not None and writer.unfinished):
            self._scheduler.at(now_us + self._rng.randrange(20_000), self._strike_snapshot, process)
        elif now_us < end_us:
            self._scheduler.at(now_us + SEEK_US, self._seek_snapshot, sought)

    def _strike_snapshot(self, process: Process) -> None:
        if not (self._active and process.alive):
            return
        self._cluster.counts["crash-in-snapshot"] += 1
        what = self._rng.choice(["power", "process", "snapshot_writer", "applier", "consensus", "log_writer"])
        self._cluster.trace.event(self._scheduler.now_us, f"fault: amid a snapshot: {process.machine.name}: {what}")
        if what in ("power", "process"):
            self._crash(process.machine, power=what == "power")
        else:
            self._cluster.availability.disturbed(process.machine.name)
            process.ask_kill(what, self._rng.randrange(MAX_BOUNDARY))

    def _thread_death(self, machine: Machine) -> str:
        process = machine.process
        if process is None or not process.supervisor.up:
            return ""
        deaths = process.supervisor.deaths
        actor = self._rng.choice(KILLABLE)
        if len(deaths.get(f"host of {actor}", ())) > 2:
            return ""  # more would rightly stop the node
        self._cluster.availability.disturbed(machine.name)
        process.end_thread(actor)
        return f"{actor} of {machine.name}"

    def _pause_node(self, machine: Machine) -> str:
        if machine.process is None:
            return ""
        self._cluster.availability.disturbed(machine.name)
        pause_us = self._rng.randint(10_000, 2_000_000)
        machine.process.paused_until_us = self._scheduler.now_us + pause_us
        self._scheduler.at(machine.process.paused_until_us, self._note_resumed, machine)
        return f"{machine.name} for {pause_us} us"

    def _pause_actor(self, machine: Machine) -> str:
        if machine.process is None:
            return ""
        actor = self._rng.choice(KILLABLE)
        pause_us = self._rng.randint(10_000, 1_500_000)
        self._pause_slot(machine, actor, pause_us)
        if actor == "transport" and self._rng.random() < 0.7:
            self._pause_slot(machine, "election_timer", pause_us)
            actor += " and election_timer"
        return f"{actor} of {machine.name} for {pause_us} us"

    def _pause_slot(self, machine: Machine, actor: str, pause_us: int) -> None:
        assert machine.process is not None
        self._cluster.availability.disturbed(machine.name)
        slot = machine.process.slots[actor]
        slot.paused_until_us = max(slot.paused_until_us, self._scheduler.now_us + pause_us)
        self._scheduler.at(slot.paused_until_us, self._note_resumed, machine)

    def _note_resumed(self, machine: Machine) -> None:
        self._cluster.availability.disturbed(machine.name)

    def _resume(self, machine: Machine) -> None:
        if machine.process is not None:
            machine.process.resume()

    def _clock_drift(self, machine: Machine) -> str:
        ppm = self._rng.randint(800_000, 1_250_000)
        machine.set_clock_speed(ppm)
        return f"{machine.name} at {ppm / 1_000_000}"

    # --- disks

    def _slow_disk(self, machine: Machine) -> str:
        machine.disk.factor = self._rng.choice([5, 20, 100])
        self._later(self._heal_disk, machine, 100_000, 3_000_000)
        return f"{machine.name} by {machine.disk.factor}"

    def _stalled_disk(self, machine: Machine) -> str:
        stall_us = self._rng.randint(100_000, 6_000_000)
        machine.disk.stalled_until_us = self._scheduler.now_us + stall_us
        return f"{machine.name} for {stall_us} us"

    def _stall_and_cut(self, machine: Machine) -> str:
        """The disk answers nothing while the node is cut off from the others, nor for a while after: what a leader had
        under way there is overwritten by its successor's entries before it completes (trap 8)."""
        cut_us = self._rng.randint(300_000, 1_200_000)
        stall_us = cut_us + self._rng.randint(20_000, 600_000)
        machine.disk.stalled_until_us = self._scheduler.now_us + stall_us
        self._cut(both_ways(machine.name, self._others(machine)), False, cut_us)
        return f"{machine.name} is cut off for {cut_us} us, its disk stalled for {stall_us} us"

    def _full_disk(self, machine: Machine) -> str:
        full_us = self._rng.randint(200_000, 6_000_000)
        machine.disk.full_until_us = self._scheduler.now_us + full_us
        machine.disk.full_for_overwrites = self._rng.random() < 0.7
        return f"{machine.name} for {full_us} us"

    def _failing_sync(self, machine: Machine) -> str:
        machine.disk.failing_syncs = 1
        return machine.name

    def _heal_disk(self, machine: Machine) -> None:
        disk = machine.disk
        disk.factor = 1
        if not self._active:
            disk.failing_syncs = disk.full_until_us = disk.stalled_until_us = 0

    def _may_lose(self, machine: Machine) -> bool:
        """Not before the first election, which needs everybody (trap 22), and nobody without whom there could be no
        majority, now or after a change that is under way. Who is no member may lose anything."""
        if self._rng.random() >= 0.6 or not self._cluster.invariants.committed or self._members_may_change():
            return False
        return self.stays_electable(self._configurations.newest, but=machine.name)

    def _bit_flip(self, machine: Machine) -> str:
        if machine.process is None or not self._may_lose(machine):
            return ""
        machine.crash(power=False)
        self._later(self._start, machine, *DOWN_US)
        if not machine.disk.flip_bit(".wal"):
            return ""
        self._cluster.invariants.damaged.add(machine.name)
        return machine.name

    def _snapshot_flip(self, machine: Machine) -> str:
        """Damage the newest snapshot. The node goes on with the one before it, if that goes with the log."""
        process = machine.process
        if process is None or machine.name in self._cluster.invariants.flipped or not self._may_lose(machine):
            return ""
        consensus = process.actor("consensus")
        raft = None if consensus is None else consensus.raft
        if raft is None or not raft.snapshot.index:
            return ""
        replaceable = raft.snapshot.older_index >= raft.log.base_index
        machine.crash(power=False)
        self._later(self._start, machine, *DOWN_US)
        if not machine.disk.flip_bit(".snapshot"):
            return ""
        invariants = self._cluster.invariants
        (invariants.flipped if replaceable else invariants.damaged).add(machine.name)
        return f"{machine.name}, {'there is an older one' if replaceable else 'its only one'}"

    def _wiped_disk(self, machine: Machine) -> str:
        if machine.process is None or not self._may_lose(machine):
            return ""
        machine.crash(power=True)
        machine.disk.wipe()
        invariants = self._cluster.invariants
        invariants.on_wiped(machine.name, self._scheduler.now_us)
        if machine.name in self._configurations.newest.members:
            invariants.lost.add(machine.name)
        # Its config may still say that it founds the cluster: not that of all founders, who would found another one.
        founds = not machine.joins and 2 * (len(self._wiped_founders) + 1) < self._cluster.options.nodes
        machine.joins = not founds or self._rng.random() < 0.5
        if not machine.joins:
            self._wiped_founders.add(machine.name)
        self._later(self._start, machine, *DOWN_US)
        return f"{machine.name}{', which waits to be added' if machine.joins else ''}"
