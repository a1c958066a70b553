"""One run: machines, network, clients, faults and invariants of one seed, from the first event to the verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from random import Random
from typing import Any

from zraft.actors.applier import Applier, SnapshotPolicy
from zraft.actors.consensus import Consensus
from zraft.actors.election_timer import ElectionTimer
from zraft.actors.frontend import Frontend
from zraft.actors.log_writer import LogWriter
from zraft.actors.snapshot_writer import SnapshotWriter
from zraft.actors.transport import Transport
from zraft.raft import Address, Membership, Role, Settings
from zraft.sim.availability import Availability, raft_of
from zraft.sim.clients import SimClient
from zraft.sim.disk import SimDisk
from zraft.sim.durable import WatchedLog, WatchedSnapshots, terms_of
from zraft.sim.faults import Faults
from zraft.sim.invariants import Invariants
from zraft.sim.network import Network
from zraft.sim.node import Machine, Process
from zraft.sim.operators import OPERATORS, Operator
from zraft.sim.options import Options
from zraft.sim.read_watch import AnswerWatch
from zraft.sim.scheduler import Scheduler
from zraft.sim.slot import Port
from zraft.sim.transcript import Trace
from zraft.sim.violation import Violation
from zraft.storage import HardState, SnapshotStore, WriteAheadLog
from zraft.storage.boundary import BoundaryDisk

ACTORS = ("log_writer", "snapshot_writer", "applier", "election_timer", "transport", "consensus", "frontend")
PEER_INBOX = 100  # frames; TCP holds back the rest until it loses its patience
CLIENT_INBOX = 200
SLICE_US = 50_000
CHANGE_US = 2_000_000  # so long a change of members may take after the faults, before an operator gives it up
CANCEL_US = 1_000_000


class LogOpener:
    """As node.LogOpener: closes what a former life of the log_writer left open."""

    def __init__(self, cluster: Cluster, machine: Machine) -> None:
        self._cluster = cluster
        self._machine = machine
        self._log: WriteAheadLog | None = None

    def open(self, boundary: Callable[[], None]) -> WriteAheadLog:
        """Open it, and compare what is found with what must be there."""
        cluster, machine = self._cluster, self._machine
        if self._log is not None:
            self._log.close()
        log = WatchedLog.open(
            BoundaryDisk(machine.disk, boundary),
            f"/{machine.name}",
            machine.name,
            new_store_id=cluster.disk_rng.randrange(1, 1 << 63),
            segment_bytes=cluster.options.segment_bytes,
        )
        assert isinstance(log, WatchedLog)
        now_us = cluster.scheduler.now_us
        hard_state = log.hard_state or HardState(0, None)
        holding = cluster.invariants.holdings[machine.name]
        if machine.name not in cluster.invariants.damaged:
            holding.store_id = log.store_id
        cluster.invariants.on_found(machine, terms_of(log, holding), hard_state, machine.disk.now_us, now_us)
        log.watch(holding, machine.disk)
        self._log = log
        return log


class EagerPolicy(SnapshotPolicy):
    """As often as it was drawn, however little log there is: the states here are small, and their sessions are not."""

    def is_due(self, entries: int, log_bytes: int, snapshot_bytes: int) -> bool:
        """See SnapshotPolicy."""
        return entries >= self.entries


class SnapshotsOpener:
    """As node.SnapshotsOpener."""

    def __init__(self, cluster: Cluster, machine: Machine) -> None:
        self._cluster = cluster
        self._machine = machine
        self._store: SnapshotStore | None = None

    def open(self, boundary: Callable[[], None]) -> SnapshotStore:
        """Open them, and compare what is found with what must be there."""
        cluster, machine = self._cluster, self._machine
        if self._store is not None:
            self._store.close()
        store = WatchedSnapshots.open(BoundaryDisk(machine.disk, boundary), f"/{machine.name}")
        assert isinstance(store, WatchedSnapshots)
        newest = 0 if store.newest is None else store.newest.header.index
        cluster.invariants.on_snapshot_found(machine, newest, machine.disk.now_us, cluster.scheduler.now_us)
        store.watch(cluster.invariants.holdings[machine.name], machine.disk, cluster.counts)
        self._store = store
        return store


class Cluster:
    """`run` raises Violation. `counts`: how often each fault took effect."""

    def __init__(self, seed: int, options: Options, trace: Trace) -> None:
        self.seed = seed
        self.options = options
        self.trace = trace
        self.scheduler = Scheduler()
        self.counts: Counter[str] = Counter()
        self.actor_rng = Random(f"actors {seed}")
        self.disk_rng = Random(f"disks {seed}")
        self.names: list[str] = []  # of the machines that there are
        founders = [f"n{number}" for number in range(1, options.nodes + 1)]
        possible = [*founders, *(f"n{options.nodes + number}" for number in range(1, options.spares + 1))]
        self.addresses = {
            name: Address(f"tcp://127.0.0.1:71{name[1:]:0>2}", f"tcp://127.0.0.1:72{name[1:]:0>2}") for name in possible
        }
        self.founding = Membership(0, {name: self.addresses[name] for name in founders})
        self.endpoint_of = {name: at.client for name, at in self.addresses.items()}
        self.node_at = {at.client: name for name, at in self.addresses.items()}
        self._peer_at = {at.peer: name for name, at in self.addresses.items()}
        self.settings = Settings(options.election_timeout_ms, options.heartbeat_ms, options.snapshot_keep)
        self.invariants = Invariants(self.founding, self.counts)
        self.answers = AnswerWatch()
        self.network = Network(self, options, Random(f"network {seed}"), self.counts)
        self.machines: dict[str, Machine] = {}
        self.clients: dict[str, SimClient] = {}
        self.availability = Availability(self)
        for name in founders:
            self.add_machine(name, joins=False)
        self.operators = {name: Operator(self, name) for name in OPERATORS}
        self.faults = Faults(self, Random(f"faults {seed}"))

    def add_machine(self, name: str, joins: bool) -> Machine:
        """One more, switched off."""
        disk = SimDisk(self.scheduler, Random(f"disk {self.seed} {name}"), self.options.sync_us, self.counts)
        self.names.append(name)
        machine = self.machines[name] = Machine(self, name, disk, joins)
        self.invariants.add(name)
        self.availability.add(name)
        return machine

    def asker(self, name: str) -> SimClient | Operator:
        """Who is connected to frontends by that name."""
        return self.operators.get(name) or self.clients[name]

    # --- what machines ask

    def actors_of(
        self, machine: Machine, process: Process
    ) -> Iterator[tuple[str, Callable[[Any], Any], dict[str, Port]]]:
        """(name, factory, ports) in the order of their start, as node.Node puts them together."""
        name, own = machine.name, self.addresses[machine.name]
        founding = Membership(0, {}) if machine.joins else self.founding
        overrides = {name: own} if machine.joins else self.founding.voters
        opener, snapshots = LogOpener(self, machine), SnapshotsOpener(self, machine)
        policy = EagerPolicy(self.options.snapshot_entries)
        peers = {"peers": Port(partial(self._from_transport, name), PEER_INBOX)}
        clients = {"clients": Port(partial(self._from_frontend, name), CLIENT_INBOX)}
        yield "log_writer", lambda c: LogWriter(c, lambda: opener.open(c.boundary)), {}
        yield "snapshot_writer", lambda c: SnapshotWriter(c, lambda: snapshots.open(c.boundary)), {}
        yield "applier", lambda c: Applier(c, policy), {}
        yield "election_timer", ElectionTimer, {}
        yield "transport", lambda c: Transport(c, name, own), peers
        yield "consensus", lambda c: Consensus(c, name, founding, overrides, self.settings), {}
        yield "frontend", lambda c: Frontend(c, name, ACTORS, None, {}), clients

    def kill_at_birth(self, machine: Machine, actor: str) -> int | None:
        """At which boundary the life that begins shall end; None: it shall not."""
        return self.faults.kill_at_birth(machine, actor)

    def _from_transport(self, sender: str, to: str, frame: bytes) -> bool:
        process = self.machines[sender].process
        peers = {} if process is None else process.slots["transport"].ports["peers"].peers
        receiver = self._peer_at.get(peers.get(to, ""), "")
        if receiver not in self.machines:
            return False
        self.invariants.on_frame(sender, receiver, frame, self.scheduler.now_us)
        return self.network.send_peer(sender, receiver, frame)

    def _from_frontend(self, sender: str, connection: bytes, frame: bytes) -> bool:
        return self.network.send_client(sender, connection.decode(), frame, answer=True)

    def hand_in(self, name: str, actor: str, port_name: str, frame: Any) -> None:
        """A frame arrives at a machine."""
        process = self.machines[name].process
        if process is None:
            return
        slot = process.slots[actor]
        port = slot.ports[port_name]
        if len(port.inbox) < port.limit:
            port.inbox.append(frame)
            process.wake(slot)

    def after_run(self, process: Process, actor: Any) -> None:
        """A consensus or an applier has taken a batch in."""
        name, now_us = process.machine.name, self.scheduler.now_us
        if type(actor) is Applier:
            self.invariants.after_applier(name, actor.machine, now_us)
        elif actor.raft is not None:
            self.invariants.after_consensus(name, actor.raft, now_us)
            self.availability.after_consensus(process.machine, actor.raft)

    def on_actor_died(
        self, process: Process, actor: str, reason: str, killed: bool, fatal: bool, shown: Callable[[], list[str]]
    ) -> None:
        """Whatever was not asked for, or does not follow from a fault, is a bug."""
        machine = process.machine
        self.availability.disturbed(machine.name)
        self.trace.event(self.scheduler.now_us, f"{machine.name}: {actor} died: {reason}")
        if killed:
            self.counts["actor-deaths"] += 1
        elif not fatal:
            raise Violation("no actor dies of an error", f"{actor} of {machine.name}: {''.join(shown())}")

    def on_process_ended(self, machine: Machine, status: int, reason: str) -> None:
        """The supervisor has decided so."""
        now_us = self.scheduler.now_us
        self.trace.event(now_us, f"{machine.name} ended with status {status}: {reason}")
        self.invariants.on_crash(machine.name, now_us)
        self.faults.on_process_ended(machine, status, reason)

    def on_crash(self, machine: Machine) -> None:
        """The process is dead; what was under way on its disk is in doubt."""
        self.invariants.on_crash(machine.name, self.scheduler.now_us)

    # --- the run

    def run(self) -> None:
        """Start, faults, calm. Raises Violation."""
        for number in range(1, self.options.clients + 1):
            name = f"c{number}"
            self.clients[name] = SimClient(self, name)
        self.faults.begin()
        end_us = self.options.faults_ms * 1000
        while self.scheduler.now_us < end_us:
            self.scheduler.run_until(min(end_us, self.scheduler.now_us + SLICE_US))
            self.availability.look()
            if self.options.max_events and self.scheduler.events >= self.options.max_events:
                break
        self.faults.end()
        self.availability.look()
        self._calm()

    def _calm(self) -> None:
        """Without faults the cluster must elect, commit and converge, and every client must be served. A change of
        members that is under way comes to its end, or can be given up."""
        self.trace.event(self.scheduler.now_us, "calm begins")
        if self.faults.is_majority_lost():
            self.counts["majority-lost"] += 1
            self.trace.event(self.scheduler.now_us, "no majority is whole: nothing can be expected")
            return
        deadline_us = self.scheduler.now_us + self.options.calm_ms * 1000
        before = {name: client.acknowledged for name, client in self.clients.items()}
        while not all(client.acknowledged > before[name] for name, client in self.clients.items()):
            self._wait("every client is served", deadline_us)
        for client in self.clients.values():
            client.stop()
        while any(client.open_operations for client in self.clients.values()):
            self._wait("every call ends", deadline_us)
        cancel_us = self.scheduler.now_us + CHANGE_US
        while self._is_changing():
            if self.scheduler.now_us >= cancel_us:
                self.faults.cancel_change()
                cancel_us += CANCEL_US
            self._wait("a change of members ends", deadline_us)
        while not self._is_converged():
            self._wait("all nodes converge", deadline_us)
        self.trace.event(self.scheduler.now_us, f"converged at {len(self.invariants.committed)} entries")

    def _wait(self, what: str, deadline_us: int) -> None:
        if self.scheduler.now_us >= deadline_us:
            raise Violation("liveness", f"not within {self.options.calm_ms} ms of calm: {what}; {self.describe()}")
        self.scheduler.run_until(self.scheduler.now_us + SLICE_US)
        self.availability.look()

    def _is_changing(self) -> bool:
        """Whether the leader's configuration is not the last of a change, or there is no leader."""
        rafts = [raft for raft in map(raft_of, self.machines.values()) if raft is not None]
        leader = max(rafts, key=lambda raft: (raft.role is Role.LEADER, raft.current_term), default=None)
        if leader is None or leader.role is not Role.LEADER or not leader.is_voter:
            return True
        return leader.membership.is_changing or leader.config_index > leader.commit_index

    def _is_converged(self) -> bool:
        states = set()
        members = self.invariants.configurations.newest
        for name in members.members:
            machine = self.machines[name]
            if machine.given_up or members.stores[name] != self.invariants.holdings[name].store_id:
                continue
            applier = None if machine.process is None else machine.process.actor("applier")
            if applier is None:
                return False
            states.add((applier.machine.last_applied, applier.machine.state_hash))
        return len(states) == 1 and min(states)[0] == len(self.invariants.committed)

    def describe(self) -> str:
        """Every node in a few words."""
        texts = []
        for name, machine in self.machines.items():
            process = machine.process
            if process is None:
                texts.append(f"{name} is down {machine.given_up}")
                continue
            consensus, applier = process.actor("consensus"), process.actor("applier")
            raft = None if consensus is None else consensus.raft
            if raft is None:
                texts.append(f"{name} recovers")
                continue
            applied = None if applier is None else applier.machine.last_applied
            texts.append(
                f"{name} {raft.standing} term {raft.current_term} commit {raft.commit_index} "
                f"durable {raft.log.durable_index} last {raft.log.last_index} applied {applied}"
            )
        return "; ".join(texts)
