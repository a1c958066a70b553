"""A cluster of FakeNodes with the real actors, in one thread and virtual time, and a client that never stops writing.

Checked at every step: what a node says to a peer about its vote and its log is on its disk already; no node votes twice
in a term; a term has one leader; two nodes never have different states, or snapshots of different bytes, at the same
index; a log begins nowhere that no snapshot reaches. `Writer.check` and `Cluster.check_equal_states` judge the end.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from fake_bus import ActorPlace, Clock, FakeNode, FakePort, FakeTcpPort
from memory_disk import MemoryDisk

from zraft.actors.applier import Applier, SnapshotPolicy
from zraft.actors.consensus import Consensus
from zraft.actors.election_timer import ElectionTimer
from zraft.actors.frontend import Frontend
from zraft.actors.json_gateway import JsonGateway
from zraft.actors.log_writer import LogWriter
from zraft.actors.snapshot_writer import SnapshotWriter
from zraft.actors.transport import Transport
from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.errors import Unavailable
from zraft.messages import AppendReply, RequestVote, VoteReply
from zraft.raft import Address, Membership, Role, Settings
from zraft.statemachine.codec import Query, decode_result, encode_query
from zraft.storage import SnapshotStore, WriteAheadLog
from zraft.storage.boundary import BoundaryDisk
from zraft.wire import unpack_peer, unpack_peer_frame

ACTORS = (
    "log_writer",
    "snapshot_writer",
    "applier",
    "election_timer",
    "transport",
    "consensus",
    "frontend",
    "json_gateway",
)
# So small that snapshots are taken, and segments removed, all the time.
SEGMENT_BYTES = 9_000  # of which the first 8 KiB are a header
POLICY = SnapshotPolicy(entries=6, bytes=64 * 1024)
SETTINGS = Settings(snapshot_keep=2)
LATENCY_MS = 1


def endpoint(node: str) -> str:
    return f"tcp://127.0.0.1:71{node[1:]:0>2}"


class ClusterNode(FakeNode):
    """A node as `zraft.node` puts it together."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.disk = MemoryDisk()
        self.log: WriteAheadLog | None = None
        self.snapshots: SnapshotStore | None = None
        self.kill_at_birth: dict[tuple[str, int], int] = {}  # (actor, incarnation) -> boundaries that it passes
        members = {node: Address(endpoint(node), f"peer of {node}") for node in cluster.names}
        founding = Membership(0, members)
        own_first = [endpoint(name), *(endpoint(node) for node in cluster.names if node != name)]
        self.clients = FakePort(partial(cluster.to_client, name))
        self.peers = FakePort(partial(cluster.to_peer, self))
        self.lines = FakeTcpPort()
        self.as_client = FakePort(lambda to, frame: cluster.to_node(to, f"json of {name}".encode(), frame))
        places = {
            "log_writer": ActorPlace(lambda c: LogWriter(c, partial(self._open_log, c.boundary))),
            "snapshot_writer": ActorPlace(lambda c: SnapshotWriter(c, partial(self._open_snapshots, c.boundary))),
            "applier": ActorPlace(lambda c: Applier(c, POLICY)),
            "election_timer": ActorPlace(ElectionTimer),
            "transport": ActorPlace(lambda c: Transport(c, name, Address(name, name)), {"peers": self.peers}),
            "consensus": ActorPlace(lambda c: Consensus(c, name, founding, members, SETTINGS)),
            "frontend": ActorPlace(lambda c: Frontend(c, name, ACTORS, None, {}), {"clients": self.clients}),
            "json_gateway": ActorPlace(
                lambda c: JsonGateway(c, own_first), {"json": self.lines, "cluster": self.as_client}
            ),
        }
        super().__init__(name, places, cluster.clock, cluster.rng)

    def _open_log(self, boundary: Callable[[], None]) -> WriteAheadLog:
        if self.log is not None:
            self.log.close()
        disk = BoundaryDisk(self.disk, boundary)
        store_id = 1 + self.rng.getrandbits(40)
        self.log = WriteAheadLog.open(
            disk, f"/{self.name}", self.name, new_store_id=store_id, segment_bytes=SEGMENT_BYTES
        )
        return self.log

    def _open_snapshots(self, boundary: Callable[[], None]) -> SnapshotStore:
        if self.snapshots is not None:
            self.snapshots.close()
        self.snapshots = SnapshotStore.open(BoundaryDisk(self.disk, boundary), f"/{self.name}")
        return self.snapshots

    def on_context(self, context: Any) -> None:
        boundary = self.kill_at_birth.pop((context.name, context.incarnation), None)
        if boundary is not None:
            context.kill(boundary)

    def durable_index(self) -> int:
        """Up to which entry the disk holds the log, or a snapshot that stands for it."""
        newest = self.snapshots.newest if self.snapshots is not None else None
        return max(self.log.last_index if self.log is not None else 0, newest.header.index if newest else 0)

    @property
    def raft(self) -> Any:
        actor = self.slots["consensus"].actor
        return None if actor is None else actor.raft  # type: ignore[attr-defined]

    @property
    def machine(self) -> Any:
        actor = self.slots["applier"].actor
        return None if actor is None else actor.machine  # type: ignore[attr-defined]

    def deaths(self) -> dict[str, list[str]]:
        """Actor -> how its lives ended, kills on request left out."""
        return {
            name: bad for name, slot in self.slots.items() if (bad := [why for why in slot.deaths if why != "killed"])
        }


class Cluster:
    """`run_until` lets it run. Messages between nodes take a millisecond and keep their order on each link."""

    def __init__(self, seed: object, size: int = 3) -> None:
        self.rng = Random(f"cluster {seed}")
        self.clock = Clock()
        self.names = [f"n{number}" for number in range(1, size + 1)]
        self.in_flight: list[tuple[int, int, Callable[[], None]]] = []
        self.sequence = 0
        self.hash_at: dict[int, str] = {}
        self.snapshot_at: dict[int, bytes] = {}
        self.away: set[str] = set()  # nodes that reach no other, and are reached by none
        self.writers: dict[bytes, Writer] = {}
        self.broken_promises: list[str] = []
        self.votes: dict[tuple[str, int], str] = {}  # (voter, term) -> for whom
        self.leaders: dict[int, str] = {}  # by term
        self.nodes = {name: ClusterNode(name, self) for name in self.names}

    # --- the network

    def _later(self, deliver: Callable[[], None]) -> None:
        self.sequence += 1
        heapq.heappush(self.in_flight, (self.clock.now_ms + LATENCY_MS, self.sequence, deliver))

    def to_peer(self, sender: ClusterNode, receiver: str, frame: bytes) -> None:
        for body in unpack_peer_frame(frame).bodies:
            try:
                message = unpack_peer(body)
                check_promise(sender, receiver, message)
                self.check_vote(sender, receiver, message)
            except AssertionError as error:  # it must not pass for a death of transport
                self.broken_promises.append(str(error))
        if receiver in self.nodes and not {sender.name, receiver} & self.away:
            self._later(partial(self.nodes[receiver].peers.inbox.append, frame))

    def to_node(self, to: str, connection: bytes, frame: bytes) -> None:
        for name in self.names:
            if endpoint(name) == to and name in self.nodes:
                self._later(partial(self.nodes[name].clients.inbox.append, (connection, frame)))

    def to_client(self, sender: str, connection: bytes, frame: bytes) -> None:
        inbox = self.nodes[connection[-2:].decode()].as_client.inbox if connection.startswith(b"json") else None
        if inbox is None:
            inbox = self.writers[connection].inbox
        self._later(partial(inbox.append, (endpoint(sender), frame)))

    # --- running

    def step(self) -> None:
        """One batch of somebody; if nobody has anything to do, time goes on to the next event."""
        now_ms = self.clock.now_ms
        while self.in_flight and self.in_flight[0][0] <= now_ms:
            heapq.heappop(self.in_flight)[2]()
        ready = [(node, who) for node in self.nodes.values() for who in node.ready()]
        ready += [(writer, "") for writer in self.writers.values() if writer.is_ready(now_ms)]
        if ready:
            who_where: Any = self.rng.choice(ready)
            who_where[0].step(who_where[1])
            if who_where[1] == "applier":
                self.check_state(who_where[0])
            elif who_where[1] == "consensus":
                self.check_leader(who_where[0])
            elif who_where[1] in ("snapshot_writer", "log_writer"):
                self.check_snapshots(who_where[0])
            return
        times = [node.next_wakeup_ms() for node in self.nodes.values() if not node.ended]
        times += [writer.wakeup_ms for writer in self.writers.values()]
        times += [self.in_flight[0][0]] if self.in_flight else []
        self.clock.now_ms = max(now_ms + 1, min(time for time in times if time is not None))

    def run_until(self, condition: Callable[[], object], within_ms: int = 5_000) -> None:
        end_ms = self.clock.now_ms + within_ms
        while not condition():
            if self.clock.now_ms > end_ms:
                raise AssertionError(f"not within {within_ms} ms: {self.describe()}")
            self.step()
            assert not self.broken_promises, self.broken_promises

    def run_for(self, duration_ms: int) -> None:
        end_ms = self.clock.now_ms + duration_ms
        self.run_until(lambda: self.clock.now_ms >= end_ms, duration_ms + 1_000)

    # --- what there is

    def leader(self) -> ClusterNode | None:
        """Who leads the newest term, once its first entry has committed."""
        leading = [node for node in self.nodes.values() if node.raft is not None and node.raft.role is Role.LEADER]
        best = max(leading, key=lambda node: node.raft.current_term, default=None)
        return best if best is not None and best.raft.commit_index >= best.raft.term_start_index else None

    def elect(self) -> ClusterNode:
        self.run_until(self.leader)
        leader = self.leader()
        assert leader is not None
        return leader

    def describe(self) -> str:
        lines = []
        for node in self.nodes.values():
            raft, machine = node.raft, node.machine
            lives = {name: life for name, life in node.supervisor.incarnations.items() if life > 1}
            said = "recovering" if raft is None else f"{raft.role.value} term {raft.current_term}"
            indices = "" if raft is None else f"commit {raft.commit_index} last {raft.log.last_index}"
            lines.append(f"{node.name}: {said} {indices} applied {machine and machine.last_applied} lives {lives}")
        waiting = [writer.describe() for writer in self.writers.values()]
        return "; ".join([*lines, *waiting])

    # --- what must hold

    def check_state(self, node: ClusterNode) -> None:
        machine = node.machine
        if machine is not None and machine.last_applied:
            assert machine.last_applied <= node.durable_index(), f"{node.name} applied what is not on its disk"
            first = self.hash_at.setdefault(machine.last_applied, machine.state_hash)
            assert machine.state_hash == first, f"{node.name} differs at index {machine.last_applied}"

    def check_snapshots(self, node: ClusterNode) -> None:
        """Trap 25: what has left the log is in a durable snapshot; and snapshots are a function of the log."""
        assert node.log is not None
        files = {int(name[-25:-9]): data for name, data in node.disk.files.items() if name.endswith(".snapshot")}
        assert node.log.base[0] <= max(files, default=0), f"{node.name}: nothing before {node.log.base}: {list(files)}"
        for index, data in files.items():
            first = self.snapshot_at.setdefault(index, bytes(data))
            assert data == first, f"{node.name}'s snapshot of {index} entries differs"

    def check_vote(self, sender: ClusterNode, receiver: str, message: Any) -> None:
        """One vote a term, whatever lives the voter had in it (paper 5.2)."""
        if type(message) is VoteReply and message.granted and not message.pre_vote:
            candidate = receiver
        elif type(message) is RequestVote and not message.pre_vote:
            candidate = sender.name
        else:
            return
        first = self.votes.setdefault((sender.name, message.term), candidate)
        assert first == candidate, f"{sender.name} votes for {first} and for {candidate} in term {message.term}"

    def check_leader(self, node: ClusterNode) -> None:
        """One leader a term (election safety, paper figure 3)."""
        raft = node.raft
        if raft is not None and raft.role is Role.LEADER:
            first = self.leaders.setdefault(raft.current_term, node.name)
            assert first == node.name, f"{first} and {node.name} lead term {raft.current_term}"

    def check_equal_states(self) -> None:
        """Soon all nodes have applied the same and are equal; time passes for each, and none died but on request."""

        def settled() -> bool:
            applied = {node.machine and node.machine.last_applied for node in self.nodes.values()}
            return len(applied) == 1 and None not in applied

        self.run_until(settled)
        assert len({node.machine.state_hash for node in self.nodes.values()}) == 1
        self.run_for(2 * SETTINGS.heartbeat_ms)
        for node in self.nodes.values():
            assert self.clock.now_ms - node.raft.now_ms <= SETTINGS.heartbeat_ms, f"{node.name}'s clock stands still"
            assert not node.deaths(), f"{node.name}: {node.deaths()}"
            assert node.supervisor.exit_status is None, node.supervisor.exit_reason


def check_promise(sender: ClusterNode, receiver: str, message: Any) -> None:
    """Trap 7: no vote and no entry is acknowledged that is not on disk."""
    log = sender.log
    assert log is not None
    if type(message) is VoteReply and message.granted and not message.pre_vote:
        state = log.hard_state
        assert state is not None and state.term >= message.term
        assert state.term > message.term or state.voted_for == receiver, (sender.name, message, state)
    elif type(message) is AppendReply and message.success:
        assert log.hard_state is not None and log.hard_state.term >= message.term
        if log.hard_state.term == message.term:
            assert sender.durable_index() >= message.at_index, (sender.name, message, sender.durable_index())


class Writer:
    """A client (the real protocol core) that keeps `window` calls in flight: sets of a few keys, reads, status."""

    def __init__(self, cluster: Cluster, window: int = 6, keys: Sequence[bytes] = (b"a", b"b", b"c")) -> None:
        self.cluster = cluster
        self.window = window
        self.keys = keys
        self.name = f"writer {len(cluster.writers)}".encode()
        self.core = ClientCore([endpoint(name) for name in cluster.names], cluster.rng)
        self.inbox: deque[tuple[str, bytes]] = deque()
        self.wakeup_ms: int | None = cluster.clock.now_ms
        self.submitted: Counter[bytes] = Counter()
        self.acknowledged: Counter[bytes] = Counter()
        self.revisions: list[int] = []
        self.errors: list[Exception] = []
        self.ack_times: list[int] = []
        self.running = True
        self.open_calls = 0
        self.open_status = False  # at most one is asked for, so that a node that is gone does not hold the rest up
        cluster.writers[self.name] = self

    @property
    def writes(self) -> int:
        return len(self.revisions)

    def describe(self) -> str:
        return f"{self.name.decode()}: {self.writes} acknowledged, {self.open_calls} open, errors {self.errors}"

    def is_ready(self, now_ms: int) -> bool:
        return bool(self.inbox) or (self.wakeup_ms is not None and self.wakeup_ms <= now_ms)

    def step(self, who: str) -> None:
        now = self.cluster.clock.now_ms / 1000
        while self.inbox:
            sender, frame = self.inbox.popleft()
            self.core.on_frame(sender, frame, now)
        while self.running and self.open_calls < self.window:
            self._submit(now)
        self.core.tick(now)
        for outgoing in self.core.frames_to_send(now):
            self.cluster.to_node(outgoing.endpoint, self.name, outgoing.frame)
        wakeup = self.core.next_wakeup(now)
        self.wakeup_ms = None if wakeup is None else max(int(wakeup * 1000), self.cluster.clock.now_ms) + 1

    def _submit(self, now: float) -> None:
        total = self.submitted.total()
        key = self.keys[total % len(self.keys)]
        dice = self.cluster.rng.random()
        if dice < 0.3 and not self.open_status:
            self.open_status = True
            node = self.cluster.rng.choice(list(self.cluster.nodes))
            self.core.submit(requests.status(), now + 1, partial(self._on_status, node), endpoint(node))
            return
        self.open_calls += 1
        if dice < 0.5:
            done = partial(self._on_read, key, self.acknowledged[key])
            self.core.submit(requests.get_entry(key), now + 60, done)
            return
        self.submitted[key] += 1
        self.core.submit(requests.set_key(key, b"%d" % total), now + 60, partial(self._on_written, key))

    def _on_written(self, key: bytes, revision: Any, error: Exception | None) -> None:
        self.open_calls -= 1
        if error is not None:
            self.errors.append(error)
            return
        self.acknowledged[key] += 1
        self.revisions.append(revision)
        self.ack_times.append(self.cluster.clock.now_ms)

    def _on_read(self, key: bytes, at_least: int, entry: Any, error: Exception | None) -> None:
        self.open_calls -= 1
        version = 0 if entry is None else entry.version
        if error is not None:
            self.errors.append(error)
        elif not at_least <= version <= self.submitted[key]:
            self.errors.append(AssertionError(f"read version {version} of {key!r} after {at_least} acknowledged"))

    def _on_status(self, node: str, report: Any, error: Exception | None) -> None:
        self.open_status = False
        if isinstance(error, Unavailable):
            return  # it is not asked twice where the first copy may have been lost with a frontend
        if error is not None or report["node"] != node or set(report["actors"]) != set(ACTORS):
            self.errors.append(error or AssertionError(f"status of {node}: {report}"))

    def finish(self, within_ms: int = 5_000) -> None:
        """Submit no more and wait for the answers."""
        self.running = False
        self.cluster.run_until(lambda: not self.open_calls and not self.open_status, within_ms)

    def longest_gap_ms(self) -> int:
        """The longest time without an acknowledged write."""
        pairs = zip(self.ack_times, self.ack_times[1:], strict=False)
        return max((later - sooner for sooner, later in pairs), default=0)

    def check(self) -> None:
        """After `finish`: each write took effect exactly once, in each node's state."""
        assert not self.errors, self.errors[:3]
        assert len(set(self.revisions)) == len(self.revisions), "two writes were told the same revision"
        for node in self.cluster.nodes.values():
            for key in self.keys:
                if self.submitted[key]:
                    _, entry, _ = decode_result(node.machine.query(encode_query(Query.GET, key)))
                    assert entry is not None and entry[4] == self.submitted[key], (node.name, entry, self.submitted)
