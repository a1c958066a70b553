"""What a batch of writes costs in a cluster of three, counted: bus messages, frames, syncs, encodings.

These are exact, and the same on every machine. Where a change makes one of them another, the number here is changed on
purpose, or the change is a mistake. The clock's ticks and heartbeats are left out: they come whether anybody writes or
not; and what the applier has applied, of which it tells once for many batches.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import fake_cluster
import pytest
from fake_bus import FakeContext, FakeNode
from fake_cluster import Cluster, ClusterNode, Writer

from zraft import wire
from zraft.actors.applier import SnapshotPolicy
from zraft.client import requests, term_check
from zraft.messages import AppendEntries, AppendReply, Applied, Arm, Heartbeat, Inbound, Outbound, Tick
from zraft.statemachine import codec
from zraft.wire import peek_bodies, peek_peer

TURN_MS = 2 * fake_cluster.SETTINGS.heartbeat_ms
REPLICATION = (AppendEntries, AppendReply)


class InOrder(Random):
    """Of all that could run, the first: one interleaving, for counts that do not depend on a seed."""

    def choice(self, seq: Any) -> Any:
        return seq[0]


class Costs:
    """Counts from its making on, in all nodes; `spent` returns them and begins anew."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        self._patch = monkeypatch.setattr
        post, to_peer, to_node, to_client = FakeNode.post, Cluster.to_peer, Cluster.to_node, Cluster.to_client

        def count_post(node: FakeNode, context: FakeContext, to: str, message: Any) -> None:
            if not is_idle_talk(message):
                self.counts[f"bus: {type(message).__name__}"] += 1
            post(node, context, to, message)

        def count_peer(cluster: Cluster, sender: ClusterNode, receiver: str, frame: bytes) -> None:
            bodies = peek_bodies(frame)
            if is_replication(bodies):
                self.counts["frames between nodes"] += 1
            for message in map(peek_peer, bodies):
                if type(message) is Heartbeat and message.round != sender.raft.roll_call:
                    self.counts["heartbeats for reads"] += 1
            to_peer(cluster, sender, receiver, frame)

        def count_client(name: str, carry: Callable[..., None], *arguments: Any) -> None:
            self.counts[name] += 1
            carry(*arguments)

        self._patch(FakeNode, "post", count_post)
        self._patch(Cluster, "to_peer", count_peer)
        self._patch(Cluster, "to_node", lambda *given: count_client("frames from clients", to_node, *given))
        self._patch(Cluster, "to_client", lambda *given: count_client("frames to clients", to_client, *given))
        self._count_calls(wire, "pack_entries", "encodings of entries")
        self._count_calls(codec, "pack_command", "encodings of commands")
        self._count_calls(codec, "pack_batch", "encodings of commands")
        self._count_calls(codec, "encode_result", "encodings of results")

    def _count_calls(self, module: Any, name: str, label: str) -> None:
        """Wherever it was imported to."""
        function = getattr(module, name)

        def counted(*arguments: Any) -> Any:
            self.counts[label] += 1
            return function(*arguments)

        for other in [each for each_name, each in sys.modules.items() if each_name.startswith("zraft.")]:
            if getattr(other, name, None) is function:
                self._patch(other, name, counted)

    def spent(self, cluster: Cluster) -> dict[str, int]:
        """Since the last call, syncs of files included."""
        syncs = sum(node.disk.syncs for node in cluster.nodes.values())
        self.counts["syncs"] += syncs
        spent = {name: count for name, count in self.counts.items() if count}
        self.counts.clear()
        self.counts["syncs"] -= syncs
        return spent


def is_replication(bodies: tuple[bytes, ...]) -> bool:
    return any(isinstance(peek_peer(body), REPLICATION) for body in bodies)


def is_idle_talk(message: Any) -> bool:
    if isinstance(message, Outbound):
        return not is_replication(tuple(body for *_, body in message.messages))
    if isinstance(message, Inbound):
        return not any(is_replication(bodies) for *_, bodies in message.frames)
    return isinstance(message, Tick | Applied | Arm)


class Client(Writer):
    """Asks what it is told to, and nothing else."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(cluster, window=0)
        self.unanswered = 0

    def ask(self, wanted: list[requests.Request]) -> None:
        """All at the same time; returns when they are answered, and a little later."""
        for request in wanted:
            self.unanswered += 1
            self.core.submit(request, self.cluster.clock.now_ms / 1000 + 60, self.on_done)
        self.wakeup_ms = self.cluster.clock.now_ms
        self.cluster.run_until(lambda: not self.unanswered)
        self.cluster.run_for(TURN_MS)  # until the followers have heard that it is committed

    def on_done(self, value: Any, error: Exception | None) -> None:
        assert error is None, error
        self.unanswered -= 1


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> tuple[Client, Costs]:
    """A client that has a session and knows the leader; no snapshots, no new segments."""
    monkeypatch.setattr(fake_cluster, "POLICY", SnapshotPolicy())
    monkeypatch.setattr(fake_cluster, "SEGMENT_BYTES", 1024 * 1024)
    monkeypatch.setattr(fake_cluster, "Random", InOrder)
    costs = Costs(monkeypatch)
    cluster = Cluster("costs")
    cluster.elect()
    client = Client(cluster)
    client.ask([requests.set_key(b"k", b"v")])
    costs.spent(cluster)
    return client, costs


def puts(count: int) -> list[requests.Request]:
    return [requests.set_key(b"key %d" % number, bytes(256)) for number in range(count)]


NODES = 3
# However many operations there are in a frame of the client's.
WRITES = {
    "frames from clients": 1,
    "bus: Propose": 1,
    "bus: Append": NODES,  # to the log_writer
    "bus: Outbound": NODES,  # the leader's entries, each follower's reply
    "frames between nodes": 4,  # to each follower and back
    "bus: Inbound": 3,
    "syncs": NODES,
    "bus: Appended": NODES,
    "bus: Apply": NODES,
    "bus: Replies": 1,
    "frames to clients": 1,
    "encodings of entries": NODES,  # each node once; the leader's serves its disk, both followers and its applier
}
READS = {
    "frames from clients": 1,
    "bus: Read": 1,
    "heartbeats for reads": 1,  # in which the leader asks whether it still leads; of two followers one suffices
    "bus: ReadAt": 1,
    "bus: Replies": 1,
    "frames to clients": 1,
}


READS_IN_TERM = {
    "frames from clients": 2,  # to the leader, and to another voter, which is asked for its term
    "bus: ReadInTerm": 1,
    "bus: TermRequest": 1,
    "bus: ReadAt": 1,
    "bus: Replies": 2,
    "frames to clients": 2,
}


@pytest.mark.parametrize("count", [1, 64, 256])
def test_writes(scene: tuple[Client, Costs], count: int) -> None:
    client, costs = scene
    client.ask(puts(count))
    # All nodes keep the answers; several writes are one command, whose answer holds theirs.
    results = NODES * (count + (count > 1))
    assert costs.spent(client.cluster) == {**WRITES, "encodings of commands": 1, "encodings of results": results}


def test_entries(scene: tuple[Client, Costs]) -> None:
    client, _ = scene
    leader = client.cluster.elect()
    before = leader.raft.commit_index
    client.ask(puts(256))
    assert leader.raft.commit_index == before + 1


@pytest.mark.parametrize("count", [1, 64, 256])
def test_reads(scene: tuple[Client, Costs], count: int) -> None:
    client, costs = scene
    client.ask([requests.get_value(b"k")] * count)
    assert costs.spent(client.cluster) == {**READS, "encodings of results": count}


@pytest.mark.parametrize("count", [1, term_check.MAX_CHECKED_READS])
def test_reads_of_who_waits_for_each(scene: tuple[Client, Costs], count: int) -> None:
    """Two messages there and two back, as with a round of the leader's, but both at the same time."""
    client, costs = scene
    for _ in range(term_check.WORTHWHILE_READS + 1):
        client.ask([requests.get_value(b"k")])
    costs.spent(client.cluster)
    client.ask([requests.get_value(b"k")] * count)
    assert costs.spent(client.cluster) == {**READS_IN_TERM, "encodings of results": count}


def test_what_is_asked_one_by_one_costs_that_much_more(scene: tuple[Client, Costs]) -> None:
    client, costs = scene
    for request in puts(3):
        client.ask([request])
    spent = costs.spent(client.cluster)
    assert {name: spent[name] for name in WRITES} == {name: 3 * count for name, count in WRITES.items()}
