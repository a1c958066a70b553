"""Puts one node together: sockets, threads, actors, supervisor. The only place that knows all of them."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random, SystemRandom
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import zmq

from zraft import __version__
from zraft.actors.applier import Applier, SnapshotPolicy
from zraft.actors.consensus import Consensus
from zraft.actors.election_timer import ElectionTimer
from zraft.actors.frontend import Frontend
from zraft.actors.json_gateway import JsonGateway
from zraft.actors.log_writer import LogWriter
from zraft.actors.snapshot_writer import SnapshotWriter
from zraft.actors.transport import Transport
from zraft.bus.baton import Baton
from zraft.bus.host import Host
from zraft.bus.ports import CLIENT_HWM, ClusterPort, PeerPort, RouterPort
from zraft.bus.slot import ActorSpec
from zraft.bus.supervisor import Supervisor
from zraft.bus.tcp_port import TcpPort
from zraft.config import Config
from zraft.errors import ZraftError
from zraft.messages import HostDied, KillRequest, SetFaults, StartActor, StopRequest
from zraft.offline import settle
from zraft.raft import Address, Membership, Settings
from zraft.storage import Disk, RealDisk, SnapshotStore, WriteAheadLog
from zraft.storage.boundary import BoundaryDisk
from zraft.wire import pack_bus

if TYPE_CHECKING:
    from zraft.chaos.faults import Faults

START_ORDER = (
    "log_writer",
    "snapshot_writer",
    "applier",
    "election_timer",
    "transport",
    "consensus",
    "frontend",
    "json_gateway",
)
JOIN_SECONDS = 1.0
SLOW_START_SECONDS = 1.0

log = logging.getLogger(__name__)


class Progress:
    """Says how far a slow start is, about once a second."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._say_at = time.monotonic() + SLOW_START_SECONDS

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() >= self._say_at:
            self._say_at += SLOW_START_SECONDS
            log.info("%s: %d of %d", self._what, done, total)


class LogOpener:
    """Opens the write-ahead log on `disk` for each life of the log_writer, after closing what a former life left."""

    def __init__(self, config: Config, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        self._log: WriteAheadLog | None = None

    def open(self, boundary: Callable[[], None]) -> WriteAheadLog:
        """boundary: called around every disk operation. Raises StorageError."""
        if self._log is not None:
            self._log.close()
        self._log = WriteAheadLog.open(
            BoundaryDisk(self._disk, boundary),
            str(self._config.data_dir),
            self._config.node,
            new_store_id=SystemRandom().randrange(1, 1 << 63),
            on_progress=Progress("reads the log, segment"),
        )
        return self._log


class SnapshotsOpener:
    """The same for the snapshots."""

    def __init__(self, config: Config, disk: Disk) -> None:
        self._config = config
        self._disk = disk
        self._store: SnapshotStore | None = None

    def open(self, boundary: Callable[[], None]) -> SnapshotStore:
        """boundary: called around every disk operation. Raises StorageError."""
        if self._store is not None:
            self._store.close()
        disk = BoundaryDisk(self._disk, boundary)
        self._store = SnapshotStore.open(disk, str(self._config.data_dir), Progress("reads a snapshot, byte"))
        return self._store


class Makers(NamedTuple):
    """What makes the actors that a write passes, from a Context and what the actor's class says."""

    frontend: Callable[..., Frontend]
    consensus: Callable[..., Consensus]
    applier: Callable[..., Applier]

    @classmethod
    def of(cls, config: Config) -> Makers:
        """The plain ones or, where the config says profile, those that stamp."""
        if not config.profile:
            return cls(Frontend, Consensus, Applier)
        # Imported here, as what belongs to faults is.
        from zraft.bench.profiled import ProfiledApplier, ProfiledConsensus, ProfiledFrontend
        from zraft.bench.stages import Stages

        stages = Stages(config.profile, lambda: time.monotonic_ns() // 1000)
        return cls(
            partial(ProfiledFrontend, stages), partial(ProfiledConsensus, stages), partial(ProfiledApplier, stages)
        )


class World:
    """What an actor meets of the world: links and disk as they are or, where the config says chaos, with faults."""

    def __init__(self, config: Config, peer_port: PeerPort) -> None:
        self.peer_port: Any = peer_port
        self.disk: Disk = RealDisk()
        self.transport: type[Transport] = Transport
        self.faults: Faults | None = None
        self.parse_fault: Callable[[bytes], KillRequest | SetFaults] | None = None
        if config.chaos:
            self._surround_with_faults()

    def _surround_with_faults(self) -> None:
        # Imported here: a node without faults has nothing of them, not even the code.
        from zraft.chaos.faults import Faults, parse_fault
        from zraft.chaos.faulty_disk import FaultyDisk
        from zraft.chaos.faulty_links import FaultyPeerPort, FaultyTransport

        self.faults = Faults()
        self.parse_fault = parse_fault
        self.peer_port = FaultyPeerPort(self.peer_port, self.faults, Random(), _monotonic_ms)
        self.transport = FaultyTransport
        self.disk = FaultyDisk(self.disk, self.faults, Random())


def _monotonic_ms() -> int:
    return time.monotonic_ns() // 1_000_000


def short_name(actors: Sequence[str]) -> str:
    """What top, perf and zraft-bench call the thread of these actors; Linux takes 15 characters."""
    return (actors[0] if len(actors) == 1 else f"{actors[0]}+{len(actors) - 1}")[:15]


def _name_this_thread(name: str) -> None:
    with suppress(OSError):  # elsewhere than on Linux
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)


def _reachable(address: str) -> str:
    """Where others reach what listens here, as far as that alone tells; "": not at all."""
    return "" if "*" in address or "0.0.0.0" in address else address


class Node:
    """One node. `run` blocks until it ends; `stop` may be called from a signal handler or another thread.

    Raises PortInUse from the constructor.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.context: zmq.Context[Any] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 4096)
        try:
            specs = self._specs()
        except ZraftError:
            self.context.destroy(linger=0)
            raise
        groups = [[name for name in group if name in specs] for group in config.threads]
        self.hosts = [
            Host(self.context, config.node, "thread of " + ", ".join(group), [specs[name] for name in group])
            for group in groups
            if group
        ]
        self.threads: dict[str, threading.Thread] = {}
        self.stand_ins: dict[str, threading.Thread] = {}
        self.actors = [name for name in START_ORDER if name in specs]
        spec = ActorSpec("supervisor", self._make_supervisor, MappingProxyType({}))
        self.main = Host(self.context, config.node, "main", [spec])
        self.supervisor: Supervisor | None = None
        self.stop_reason = ""

    # --- parts

    def _specs(self) -> dict[str, ActorSpec]:
        """Bind what must be bound, and say how each actor is made."""
        config, context = self.config, self.context
        members = {node: Address(at.client, at.peer) for node, at in config.cluster.items()}
        settings = Settings(config.election_timeout_ms, config.heartbeat_ms, config.snapshot_keep)
        policy = SnapshotPolicy(config.snapshot_entries, config.snapshot_bytes, config.snapshot_keep)
        founding = Membership(0, {} if config.join else members)
        own = members.get(config.node) or Address(*(_reachable(at) for at in (config.bind_client, config.bind_peer)))
        endpoints = [
            at.client for at in (own, *(at for node, at in members.items() if node != config.node)) if at.client
        ]
        names = [name for name in START_ORDER if name != "json_gateway" or config.json]
        facts = {"version": __version__, "pid": os.getpid(), "threads": config.threads}
        clients: Mapping[str, Any] = {"clients": RouterPort(context, config.bind_client, "client", CLIENT_HWM)}
        peer_port = PeerPort(context, config.bind_peer)
        world, make = World(config, peer_port), Makers.of(config)
        self.faults = world.faults
        opener, snapshots = LogOpener(config, world.disk), SnapshotsOpener(config, world.disk)
        peers: Mapping[str, Any] = {"peers": world.peer_port}
        none: Mapping[str, Any] = {}
        specs = [
            ActorSpec("log_writer", lambda c: LogWriter(c, lambda: opener.open(c.boundary)), none, waits=True),
            ActorSpec("snapshot_writer", lambda c: SnapshotWriter(c, lambda: snapshots.open(c.boundary)), none),
            ActorSpec("applier", lambda c: make.applier(c, policy), none),
            ActorSpec("election_timer", ElectionTimer, none),
            ActorSpec("transport", lambda c: world.transport(c, config.node, own), peers),
            ActorSpec("consensus", lambda c: make.consensus(c, config.node, founding, members, settings), none),
            ActorSpec("frontend", lambda c: make.frontend(c, config.node, names, world.parse_fault, facts), clients),
        ]
        if config.json:
            ports: Mapping[str, Any] = {"json": TcpPort(config.json), "cluster": ClusterPort(context)}
            specs.append(ActorSpec("json_gateway", lambda c: JsonGateway(c, endpoints), ports))
        return {spec.name: spec for spec in specs}

    def _make_supervisor(self, context: Any) -> Supervisor:
        host_of = {name: host.name for host in self.hosts for name in host.slots}
        self.supervisor = Supervisor(context, self.actors, host_of, self.queue_lengths, self.start_thread, self.faults)
        return self.supervisor

    def queue_lengths(self) -> dict[str, int]:
        """How many messages wait for each actor: those sent less those taken. The counts are read while others
        change them, so they may be off by what is on its way."""
        lengths = {}
        for host in self.hosts:
            for name, slot in host.slots.items():
                sent = sum(other.sent.get(name, 0) for other in (*self.hosts, self.main))
                lengths[name] = max(0, sent - slot.received)
        return lengths

    # --- threads

    def start_thread(self, name: str) -> None:
        """Run a host in a new thread."""
        host = next(host for host in self.hosts if host.name == name)
        thread = threading.Thread(target=self._run_host, args=(host,), name=name, daemon=True)
        self.threads[name] = thread
        thread.start()
        if host.baton is not None and name not in self.stand_ins:
            self.stand_ins[name] = threading.Thread(target=self._stand_in, args=(host.baton,), daemon=True)
            self.stand_ins[name].start()

    def _run_host(self, host: Host) -> None:
        _name_this_thread(short_name(list(host.slots)))
        try:
            host.run()
        except BaseException as error:  # a bug in the host itself; its sockets are intact
            log.exception("thread %s", host.name)
            with suppress(zmq.ZMQError):
                host.flush()
            died = HostDied(host.name, f"{type(error).__name__}: {error}")
            host.push_at_once("supervisor", pack_bus(host.name, 1, 1, died))

    def _stand_in(self, baton: Baton) -> None:
        _name_this_thread("stand-in")
        baton.stand_in()

    # --- the whole

    def run(self) -> int:
        """Run until stopped. Returns the exit status: 0 if it was asked to stop, else 1 (see `stop_reason`)."""
        for host in self.hosts:
            self.start_thread(host.name)
        self.main.push("main", ("main", 1, 1, StartActor("supervisor", 1, {})))
        self.main.run()
        for host in self.hosts:
            if host.baton is not None:
                host.baton.end()  # also where the thread of the host has not come to its end
        threads = [*self.threads.values(), *self.stand_ins.values()]
        for thread in threads:
            thread.join(JOIN_SECONDS)
        if not any(thread.is_alive() for thread in threads):
            for host in (*self.hosts, self.main):
                host.close()
            self.context.destroy(linger=0)
        if self.supervisor is None or self.supervisor.exit_status is None:
            self.stop_reason = "the supervisor died; this is a bug, its traceback is in the log"
            return 1
        self.stop_reason = self.supervisor.exit_reason
        return self.supervisor.exit_status

    def stop(self, reason: str) -> None:
        """Ask for a clean end. Called in the main thread (where the main host's sockets live)."""
        self.main.push_at_once("supervisor", pack_bus("main", 1, 1, StopRequest(reason)))


def run(config: Config, log_level: str = "info") -> int:
    """Run a node in the foreground until SIGTERM or SIGINT. Returns the exit status.

    Raises ZraftError (one line) for what a user can mend: a port or data directory in use, a damaged log.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=log_level.upper(),
        format=f"%(asctime)s %(levelname)-7s {config.node} %(name)s: %(message)s",
    )
    sys.setswitchinterval(0.001)  # seconds; nobody shall wait long for Python's lock
    settle(config.data_dir)
    node = Node(config)
    # A full collection looks at every entry and key in memory, with all threads stopped: 150 ms for 100,000 objects on
    # a busy machine, longer than a heartbeat. What dies here dies by reference counting; cycles are rare and young.
    gc.freeze()
    gc.set_threshold(10_000, 10, 1_000_000_000)

    def on_signal(number: int, frame: Any) -> None:
        node.stop(signal.Signals(number).name)

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    log.info("zraft %s: clients at %s, peers at %s", __version__, config.bind_client, config.bind_peer)
    status = node.run()
    if status:
        raise ZraftError(f"{config.node} stopped: {node.stop_reason}")
    return status
