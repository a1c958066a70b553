"""Links that lose and delay, in virtual time: the wrapper of the port, and the transport that wakes for it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from fake_bus import Clock, FakeContext, FakePort, run_batch

from zraft.actors.transport import Transport
from zraft.chaos import faulty_links
from zraft.chaos.faults import Faults
from zraft.chaos.faulty_links import FaultyPeerPort, FaultyTransport
from zraft.messages import Identity, Inbound, Outbound
from zraft.raft import Address
from zraft.wire import PeerFrame, pack_peer_frame, unpack_peer_frame

PEERS = {"n2": "tcp://two", "n3": "tcp://three"}
OWN = Address("tcp://one-client", "tcp://one")
CUT = {"drop": 1}


def frame(body: bytes, sender: str = "n2") -> bytes:
    return pack_peer_frame(PeerFrame(1, sender, 22, "", "n1", 0, (body,)))


class Scene:
    """A transport of n1 behind a faulty port. `inner` is what is wrapped."""

    def __init__(self) -> None:
        self.clock = Clock(1_000)
        self.inner = InnerPort()
        self.faults = Faults()
        self.port = FaultyPeerPort(self.inner, self.faults, Random(1), lambda: self.clock.now_ms)
        self.new_life()

    def new_life(self) -> None:
        self.context = FakeContext("transport", clock=self.clock, ports={"peers": self.port})
        self.actor = FaultyTransport(self.context, "n1", OWN)
        self.actor.on_start()
        run_batch(
            self.actor, ("consensus", Identity(1, 11, False, {name: (address, 0) for name, address in PEERS.items()}))
        )

    def rules(self, **rules: Any) -> None:
        assert self.faults.set({"links": rules}) == ""

    def send(self, *messages: tuple[str, bytes]) -> list[tuple[str, bytes]]:
        """What leaves at once when consensus says these."""
        run_batch(self.actor, ("consensus", Outbound(tuple((peer, 0, body) for peer, body in messages))))
        return self.inner.left()

    def receive(self, *frames: bytes) -> list[tuple[str, bytes]]:
        """What consensus hears at once when these arrive."""
        self.inner.inbox.extend(frames)
        taken = self.port.drain(100)
        if taken:
            self.actor.receive_frames("peers", taken)
        self.actor.end_batch()
        return self.heard()

    def heard(self) -> list[tuple[str, bytes]]:
        heard = [message for _, message in self.context.taken() if type(message) is Inbound]
        return [(peer, body) for message in heard for peer, _, _, bodies in message.frames for body in bodies]

    def wake(self) -> int | None:
        """As the host does at the time that the actor named; returns that time."""
        due_ms = self.actor.wakeup_ms
        if due_ms is not None:
            self.clock.now_ms = max(self.clock.now_ms, due_ms)
            self.actor.wakeup_ms = None
            self.actor.on_wakeup(self.clock.now_ms)
            self.actor.end_batch()
        return due_ms


class InnerPort(FakePort):
    def watch(self, listen: Any) -> None:
        self.listen = listen

    def close(self) -> None:
        self.closed = True

    def left(self) -> list[tuple[str, bytes]]:
        sent, self.sent = self.sent, []
        return [(to, body) for to, data in sent for body in unpack_peer_frame(data).bodies]


def test_without_faults_everything_passes_at_once() -> None:
    scene = Scene()
    assert scene.inner.peers == PEERS and set(scene.faults.peers) == set(PEERS)
    assert scene.send(("n2", b"a"), ("n3", b"b")) == [("n2", b"a"), ("n3", b"b")]
    assert scene.receive(frame(b"c"), frame(b"d", "n3")) == [("n2", b"c"), ("n3", b"d")]
    assert scene.actor.wakeup_ms is None
    scene.inner.accepts = False
    assert scene.port.send("n2", b"") is False
    scene.inner.surplus_parts = 4
    assert scene.port.surplus_parts == 4
    scene.port.watch(list)
    scene.port.close()
    assert scene.inner.listen is list and scene.inner.closed


def test_a_cut_link_loses_everything_in_its_direction() -> None:
    scene = Scene()
    scene.rules(n2={"in": CUT}, n3={"out": CUT})
    assert scene.send(("n2", b"a"), ("n3", b"b")) == [("n2", b"a")]
    assert scene.receive(frame(b"c"), frame(b"d", "n3")) == [("n3", b"d")]
    assert scene.actor.counts["peer_dropped_out"] == 0, "lost on the way, which no sender sees"
    scene.rules()
    assert scene.send(("n3", b"e")) == [("n3", b"e")]
    assert scene.receive(frame(b"f")) == [("n2", b"f")]
    assert scene.actor.wakeup_ms is None, "what was cut is lost, not held back"


def test_a_share_is_lost() -> None:
    scene = Scene()
    scene.rules(**{"*": {"in": {"drop": 0.25}, "out": {"drop": 0.75}}})
    arrived = sum(len(scene.receive(frame(b"x"))) for _ in range(1000))
    left = sum(len(scene.send(("n3", b"x"))) for _ in range(1000))
    assert 700 < arrived < 800 and 200 < left < 300


def test_delayed_frames_come_when_they_are_due() -> None:
    scene = Scene()
    scene.rules(n2={"in": {"delay_ms": [30, 30]}, "out": {"delay_ms": [50, 50]}})
    assert scene.receive(frame(b"a"), frame(b"b", "n3"), frame(b"c")) == [("n3", b"b")]
    assert scene.send(("n2", b"d"), ("n3", b"e")) == [("n3", b"e")]
    assert scene.wake() == 1_030
    assert scene.heard() == [("n2", b"a"), ("n2", b"c")]
    assert scene.inner.left() == []
    assert scene.wake() == 1_050
    assert scene.inner.left() == [("n2", b"d")]
    assert scene.heard() == [] and scene.actor.wakeup_ms is None


def test_each_frame_is_delayed_for_itself_so_they_reorder() -> None:
    scene = Scene()
    scene.rules(**{"*": {"in": {"delay_ms": [10, 40.5]}}})
    bodies = [b"%d" % number for number in range(50)]
    assert scene.receive(*map(frame, bodies)) == []
    arrived: list[bytes] = []
    while (due_ms := scene.wake()) is not None:
        assert 1_010 <= due_ms <= 1_041
        arrived += [body for _, body in scene.heard()]
    assert arrived != bodies and sorted(arrived) == sorted(bodies)


def test_a_wakeup_that_comes_early_delivers_nothing() -> None:
    scene = Scene()
    scene.rules(n2={"in": {"delay_ms": [30, 30]}})
    scene.receive(frame(b"a"))
    scene.actor.wakeup_ms = None
    scene.actor.on_wakeup(scene.clock.now_ms)
    scene.actor.end_batch()
    assert scene.heard() == [] and scene.actor.wakeup_ms == 1_030


def test_frames_on_their_way_outlive_the_transport() -> None:
    scene = Scene()
    scene.rules(n2={"in": {"delay_ms": [30, 30]}, "out": {"delay_ms": [30, 30]}})
    scene.send(("n2", b"a"))
    scene.receive(frame(b"b"))
    scene.new_life()
    assert scene.wake() == 1_030
    assert (scene.inner.left(), scene.heard()) == ([("n2", b"a")], [("n2", b"b")])
    assert scene.send(("n2", b"c")) == [], "and so do the faults"


def test_a_new_life_is_woken_before_anybody_speaks_to_it() -> None:
    scene = Scene()
    scene.rules(n2={"out": {"delay_ms": [30, 30]}})
    scene.send(("n2", b"a"))
    successor = FaultyTransport(FakeContext("transport", ports={"peers": scene.port}), "n1", OWN)
    successor.on_start()
    assert successor.wakeup_ms == 1_030


def test_frames_on_their_way_are_lost_where_the_link_is_cut_meanwhile() -> None:
    scene = Scene()
    scene.rules(**{"*": {"in": {"delay_ms": [30, 30]}, "out": {"delay_ms": [30, 30]}}})
    scene.send(("n2", b"a"), ("n3", b"b"))
    scene.receive(frame(b"c"), frame(b"d", "n3"))
    scene.rules(n2={"in": CUT, "out": CUT})
    scene.wake()
    assert (scene.inner.left(), scene.heard()) == ([("n3", b"b")], [("n3", b"d")])


def test_what_is_held_back_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faulty_links, "MAX_HELD_FRAMES", 3)
    scene = Scene()
    scene.rules(n2={"in": {"delay_ms": [30, 30]}})
    for _ in range(2):
        scene.receive(*(frame(b"%d" % number) for number in range(5)))
        scene.wake()
        assert scene.heard() == [("n2", b"0"), ("n2", b"1"), ("n2", b"2")]
    monkeypatch.setattr(faulty_links, "MAX_HELD_BYTES", 1_000)
    scene.receive(frame(b"small"), frame(bytes(1_000)))
    scene.wake()
    assert scene.heard() == [("n2", b"small")]


def test_junk_is_left_to_transport() -> None:
    scene = Scene()
    scene.rules(n2={"in": CUT})
    assert scene.receive(b"junk", frame(b"a", "n3")) == [("n3", b"a")]
    assert scene.actor.counts["peer_dropped_in"] == 1


def test_it_is_a_transport() -> None:
    assert FaultyTransport.name == Transport.name
