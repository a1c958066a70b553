"""transport: one message inwards and one frame to each peer a batch; what is not for us is dropped and counted."""

from __future__ import annotations

import logging
import re
from typing import Any

import msgpack
import pytest
from fake_bus import FakeContext, FakePort, run_batch

from zraft.actors.transport import Transport
from zraft.messages import Identity, Inbound, Outbound
from zraft.wire import PeerFrame, pack_peer_frame, unpack_peer_frame

CLUSTER, STORE = 0xABC, 11
PEERS = {"n2": "tcp://two", "n3": "tcp://three"}


class Scene:
    def __init__(self, cluster_id: int = CLUSTER) -> None:
        self.port = FakePort()
        self.context = FakeContext("transport", ports={"peers": self.port})
        self.actor = Transport(self.context, "n1")
        self.actor.on_start()
        if cluster_id >= 0:
            self.say(Identity(cluster_id, STORE, PEERS))

    def say(self, *messages: Any) -> list[tuple[str, Any]]:
        run_batch(self.actor, *(("consensus", message) for message in messages))
        return self.context.taken()

    def frames(self, *frames: bytes) -> list[tuple[str, Any]]:
        self.actor.receive_frames("peers", list(frames))
        self.actor.end_batch()
        return self.context.taken()


def frame(*bodies: bytes, cluster: int = CLUSTER, sender: str = "n2", receiver: str = "n1") -> bytes:
    return pack_peer_frame(cluster, sender, 22, receiver, bodies)


def test_the_links_are_those_of_the_identity() -> None:
    assert Scene().port.peers == PEERS


def test_a_batch_from_outside_is_one_message() -> None:
    sent = Scene().frames(frame(b"a", b"b"), frame(b"c", sender="n3"), frame(b"d"))
    assert sent == [("consensus", Inbound((("n2", b"a"), ("n2", b"b"), ("n3", b"c"), ("n2", b"d"))))]


def test_a_batch_to_outside_is_one_frame_to_each_peer_in_order() -> None:
    scene = Scene()
    scene.say(Outbound((("n2", b"a"), ("n3", b"b"))), Outbound((("n2", b"c"),)))
    frames = {to: unpack_peer_frame(data) for to, data in scene.port.sent}
    assert len(scene.port.sent) == 2
    assert frames["n2"] == PeerFrame(CLUSTER, "n1", STORE, "n2", (b"a", b"c"))
    assert frames["n3"] == PeerFrame(CLUSTER, "n1", STORE, "n3", (b"b",))
    assert scene.say() == []
    assert len(scene.port.sent) == 2


def test_large_bodies_go_in_frames_of_their_own_so_that_none_is_too_large() -> None:
    scene = Scene()
    big = bytes(700_000)
    scene.say(Outbound((("n2", big), ("n2", b"small"), ("n2", big))))
    assert [unpack_peer_frame(data).bodies for _, data in scene.port.sent] == [(big,), (b"small",), (big,)]


def test_what_a_link_does_not_take_is_lost_and_counted() -> None:
    scene = Scene()
    scene.port.accepts = False
    scene.say(Outbound((("n2", b"a"),)))
    scene.port.accepts = True
    scene.say(Outbound((("n2", b"b"),)))
    assert [unpack_peer_frame(data).bodies for _, data in scene.port.sent] == [(b"b",)]
    status = scene.actor.status()
    assert (status["peer_frames_out"], status["peer_dropped_out"]) == (1, 1)


DROPPED = {
    "garbage": (b"\xc1garbage", "unknown sender"),
    "another version": (msgpack.packb([9, CLUSTER, "n2", 22, "n1", [b"a"]]), "version 9"),
    "another receiver": (frame(b"a", receiver="n4"), "takes this node .n1. for n4"),
    "no member": (frame(b"a", sender="n7"), "no member"),
    "another cluster": (frame(b"a", cluster=0xDEF), "belongs to cluster def, this node to abc"),
    "oneself": (frame(b"a", sender="n1"), "no member"),
}


@pytest.mark.parametrize(("data", "why"), DROPPED.values(), ids=DROPPED)
def test_what_is_not_for_us_is_dropped_counted_and_told_once(
    data: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    with caplog.at_level(logging.WARNING):
        assert scene.frames(data, frame(b"good"), data) == [("consensus", Inbound((("n2", b"good"),)))]
    status = scene.actor.status()
    assert (status["peer_frames_in"], status["peer_dropped_in"]) == (1, 2)
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("a frame from ")
    assert re.search(why, caplog.text)


def test_many_different_bad_frames_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.frames(*(frame(b"a", sender=f"x{number}") for number in range(300)))
    assert len(caplog.records) == 100
    assert scene.actor.status()["peer_dropped_in"] == 300


def test_before_the_cluster_has_an_id_any_is_taken() -> None:
    """A follower learns it with its first entries."""
    assert Scene(cluster_id=0).frames(frame(b"a", cluster=5)) == [("consensus", Inbound((("n2", b"a"),)))]
    assert Scene().frames(frame(b"a", cluster=0)) == [("consensus", Inbound((("n2", b"a"),)))]


def test_a_new_life_takes_nothing_before_it_knows_who_it_is() -> None:
    scene = Scene(cluster_id=-1)
    assert scene.frames(frame(b"a")) == []
    scene.say(Identity(CLUSTER, STORE, PEERS))
    assert scene.frames(frame(b"b")) == [("consensus", Inbound((("n2", b"b"),)))]


def test_surplus_parts_count_as_dropped() -> None:
    scene = Scene()
    scene.port.surplus_parts = 4
    assert scene.actor.status()["peer_dropped_in"] == 4
