"""transport: one message inwards and one frame to each peer a batch; what is not for us is dropped and counted."""

from __future__ import annotations

import logging
import re
from typing import Any

import msgpack
import pytest
from fake_bus import FakeContext, FakePort, run_batch

from zraft.actors.transport import MAX_GUESTS, Transport
from zraft.messages import FindNode, Identity, Inbound, NodeFound, Outbound
from zraft.raft import Address
from zraft.raft.change import MAX_MEMBERS
from zraft.wire import PeerFrame, pack_peer_frame, unpack_peer_frame

CLUSTER, STORE = 0xABC, 11
ADDRESSES = {"n2": "tcp://two", "n3": "tcp://three"}
PEERS = {"n2": ("tcp://two", 22), "n3": ("tcp://three", 0)}
OWN = Address("tcp://one-client", "tcp://one")


class Scene:
    def __init__(self, cluster_id: int = CLUSTER) -> None:
        self.port = FakePort()
        self.context = FakeContext("transport", ports={"peers": self.port})
        self.actor = Transport(self.context, "n1", OWN)
        self.actor.on_start()
        if cluster_id >= 0:
            self.say(Identity(cluster_id, STORE, False, PEERS))

    def say(self, *messages: Any) -> list[tuple[str, Any]]:
        run_batch(self.actor, *(("consensus", message) for message in messages))
        return self.context.taken()

    def frames(self, *frames: bytes) -> list[tuple[str, Any]]:
        self.actor.receive_frames("peers", list(frames))
        self.actor.end_batch()
        return self.context.taken()


def frame(*bodies: bytes, cluster: int = CLUSTER, sender: str = "n2", receiver: str = "n1", meant: int = 0) -> bytes:
    return pack_peer_frame(PeerFrame(cluster, sender, 22, f"tcp://{sender}", receiver, meant, bodies))


def inbound(*bodies: bytes, sender: str = "n2", meant: int = 0) -> tuple[str, int, int, tuple[bytes, ...]]:
    return (sender, 22, meant, bodies)


def test_the_links_are_those_of_the_identity() -> None:
    assert Scene().port.peers == ADDRESSES


def test_a_batch_from_outside_is_one_message() -> None:
    sent = Scene().frames(frame(b"a", b"b"), frame(b"c", sender="n3"), frame(b"d"))
    assert sent == [("consensus", Inbound((inbound(b"a", b"b"), inbound(b"c", sender="n3"), inbound(b"d"))))]


def test_a_batch_to_outside_is_one_frame_to_each_peer_in_order() -> None:
    scene = Scene()
    scene.say(Outbound((("n2", 0, b"a"), ("n3", 0, b"b"))), Outbound((("n2", 0, b"c"),)))
    frames = {to: unpack_peer_frame(data) for to, data in scene.port.sent}
    assert len(scene.port.sent) == 2
    assert frames["n2"] == PeerFrame(CLUSTER, "n1", STORE, "tcp://one", "n2", 22, (b"a", b"c"))
    assert frames["n3"] == PeerFrame(CLUSTER, "n1", STORE, "tcp://one", "n3", 0, (b"b",))
    assert scene.say() == []
    assert len(scene.port.sent) == 2


def test_a_reply_may_be_meant_for_another_data_directory_than_the_members() -> None:
    scene = Scene()
    scene.say(Outbound((("n2", 0, b"a"), ("n2", 99, b"b"), ("n2", 0, b"c"))))
    frames = [unpack_peer_frame(data) for _, data in scene.port.sent]
    assert [(each.receiver_store_id, each.bodies) for each in frames] == [(22, (b"a", b"c")), (99, (b"b",))]


def test_large_bodies_go_in_frames_of_their_own_so_that_none_is_too_large() -> None:
    scene = Scene()
    big = bytes(700_000)
    scene.say(Outbound((("n2", 0, big), ("n2", 0, b"small"), ("n2", 0, big))))
    assert [unpack_peer_frame(data).bodies for _, data in scene.port.sent] == [(big,), (b"small",), (big,)]


def test_what_a_link_does_not_take_is_lost_and_counted() -> None:
    scene = Scene()
    scene.port.accepts = False
    scene.say(Outbound((("n2", 0, b"a"),)))
    scene.port.accepts = True
    scene.say(Outbound((("n2", 0, b"b"),)))
    assert [unpack_peer_frame(data).bodies for _, data in scene.port.sent] == [(b"b",)]
    status = scene.actor.status()
    assert (status["peer_frames_out"], status["peer_dropped_out"]) == (1, 1)


DROPPED = {
    "garbage": (b"\xc1garbage", "unknown sender"),
    "another version": (msgpack.packb([9, CLUSTER, "n2", 22, "", "n1", 0, [b"a"]]), "version 9"),
    "another receiver": (frame(b"a", receiver="n4"), "takes this node .n1. for n4"),
    "no member": (frame(b"a", sender="n7", cluster=0), "no member"),
    "another cluster": (
        frame(b"a", cluster=0xDEF),
        "belongs to cluster 0000000000000def, this node to 0000000000000abc",
    ),
    "oneself": (frame(b"a", sender="n1"), "goes by the name of this node"),
}


@pytest.mark.parametrize(("data", "why"), DROPPED.values(), ids=DROPPED)
def test_what_is_not_for_us_is_dropped_counted_and_told_once(
    data: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    with caplog.at_level(logging.WARNING):
        assert scene.frames(data, frame(b"good"), data) == [("consensus", Inbound((inbound(b"good"),)))]
    status = scene.actor.status()
    assert (status["peer_frames_in"], status["peer_dropped_in"]) == (1, 2)
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("a frame from ")
    assert re.search(why, caplog.text)


def test_many_different_bad_frames_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.frames(*(frame(b"a", sender=f"x{number}", cluster=0) for number in range(300)))
    assert len(caplog.records) == 100
    assert scene.actor.status()["peer_dropped_in"] == 300


def test_before_the_cluster_has_an_id_any_is_taken() -> None:
    """A follower learns it with its first entries."""
    assert Scene(cluster_id=0).frames(frame(b"a", cluster=5)) == [("consensus", Inbound((inbound(b"a"),)))]
    assert Scene().frames(frame(b"a", cluster=0)) == [("consensus", Inbound((inbound(b"a"),)))]


def test_a_new_life_takes_nothing_before_it_knows_who_it_is() -> None:
    scene = Scene(cluster_id=-1)
    assert scene.frames(frame(b"a")) == []
    scene.say(Identity(CLUSTER, STORE, False, PEERS))
    assert scene.frames(frame(b"b")) == [("consensus", Inbound((inbound(b"b"),)))]


def test_nor_does_it_say_anything_before() -> None:
    """Replies that waited for the disk may come first. Without the data directory that they come from they would count
    for any, also, if they are late, for one that is there no more (trap 10)."""
    scene = Scene(cluster_id=-1)
    scene.say(Outbound((("n2", 0, b"a"),)))
    assert scene.port.sent == [] and scene.actor.status()["peer_dropped_out"] == 1
    scene.say(Identity(CLUSTER, STORE, False, PEERS), Outbound((("n2", 0, b"b"),)))
    assert [unpack_peer_frame(data).store_id for _, data in scene.port.sent] == [STORE]


def test_surplus_parts_count_as_dropped() -> None:
    scene = Scene()
    scene.port.surplus_parts = 4
    assert scene.actor.status()["peer_dropped_in"] == 4


# ---- who is no peer ------------------------------------------------------------------------------------------------


def test_one_of_this_cluster_is_heard_and_answered_though_this_node_does_not_know_him_yet() -> None:
    """He may have been added by an entry that is not here."""
    scene = Scene()
    assert scene.frames(frame(b"a", sender="n7")) == [("consensus", Inbound((inbound(b"a", sender="n7"),)))]
    scene.say(Outbound((("n7", 0, b"b"),)))
    assert scene.port.peers == {**ADDRESSES, "n7": "tcp://n7"}
    assert unpack_peer_frame(scene.port.sent[-1][1]).receiver == "n7"
    scene.say(Identity(CLUSTER, STORE, False, {**PEERS, "n7": ("tcp://elsewhere", 5)}))
    assert scene.port.peers == {**ADDRESSES, "n7": "tcp://elsewhere"}, "as the members say, from then on"


def test_so_is_one_who_knows_this_data_directory_before_this_node_knows_its_cluster() -> None:
    """A founder that was away since the first election: all who lead may have been added meanwhile."""
    scene = Scene(cluster_id=0)
    assert scene.frames(frame(b"a", sender="n7", meant=STORE)) == [
        ("consensus", Inbound((inbound(b"a", sender="n7", meant=STORE),)))
    ]
    scene.say(Outbound((("n7", 22, b"b"),)))
    assert sent_to(scene) == [("n7", 22, (b"b",))]
    assert scene.frames(frame(b"a", sender="n8"), frame(b"a", sender="n8", meant=STORE + 1)) == []


def test_who_becomes_a_member_has_one_link_and_when_he_leaves_none() -> None:
    scene = Scene()
    scene.say(FindNode("tcp://four"))
    scene.frames(frame(b"a", sender="n7"))
    joined = {**PEERS, "n4": ("tcp://four", 44), "n7": ("tcp://elsewhere", 5)}
    scene.say(Identity(CLUSTER, STORE, False, joined))
    assert scene.port.peers == {**ADDRESSES, "n4": "tcp://four", "n7": "tcp://elsewhere"}
    scene.say(Identity(CLUSTER, STORE, False, PEERS))
    assert scene.port.peers == ADDRESSES


def test_strangers_get_only_so_many_links() -> None:
    scene = Scene()
    scene.frames(*(frame(b"a", sender=f"n{number}") for number in range(10, 110)))
    assert len(scene.port.peers) == len(PEERS) + MAX_GUESTS
    assert "n109" in scene.port.peers and "n10" not in scene.port.peers


def test_as_many_as_may_be_members_can_be_asked_at_once_who_they_are() -> None:
    """The first question to each goes before the link is there: it has to be there for the second."""
    scene = Scene()
    addresses = [f"tcp://n{number}" for number in range(MAX_MEMBERS)]
    scene.say(*map(FindNode, addresses))
    assert set(addresses) < set(scene.port.peers)


def sent_to(scene: Scene) -> list[tuple[str, int, tuple[bytes, ...]]]:
    """(link, store that it is meant for, bodies) of what was sent since this was asked last."""
    frames = [(link, unpack_peer_frame(data)) for link, data in scene.port.sent]
    scene.port.sent.clear()
    return [(link, sent.receiver_store_id, sent.bodies) for link, sent in frames]


def test_what_is_meant_for_another_data_directory_goes_where_that_was_heard() -> None:
    """n2 was added again, with another directory and elsewhere, by an entry that is not here yet."""
    scene = Scene()
    again = pack_peer_frame(PeerFrame(CLUSTER, "n2", 99, "tcp://moved", "n1", STORE, (b"a",)))
    assert scene.frames(again) == [("consensus", Inbound((("n2", 99, STORE, (b"a",)),)))]
    scene.say(Outbound((("n2", 99, b"answer"), ("n2", 0, b"question"), ("n3", 0, b"question"))))
    asked = [("n2", 22, (b"question",)), ("n3", 0, (b"question",))]
    answered = [("n2", 99, (b"answer",)), ("tcp://moved", 99, (b"answer",))]
    assert sent_to(scene) == [*answered, *asked], "there too where it is known: the config may say how to reach it"
    assert scene.port.peers == {**ADDRESSES, "tcp://moved": "tcp://moved"}
    scene.say(Identity(CLUSTER, STORE, False, {**PEERS, "n2": ("tcp://moved", 99)}), Outbound((("n2", 0, b"b"),)))
    assert sent_to(scene) == [("n2", 99, (b"b",))], "known as it is"


def test_so_does_it_where_no_data_directory_was_known() -> None:
    """As by a founder that has no log yet: n3 was added again, elsewhere."""
    scene = Scene()
    scene.frames(pack_peer_frame(PeerFrame(CLUSTER, "n3", 99, "tcp://moved", "n1", STORE, (b"a",))))
    scene.say(Outbound((("n3", 99, b"answer"),)))
    assert sent_to(scene) == [("n3", 99, (b"answer",)), ("tcp://moved", 99, (b"answer",))]


@pytest.mark.parametrize("lost", ["it does not say where it is", "it is back where it was", "others pushed it out"])
def test_or_to_the_known_address_where_there_is_no_link_to_another(lost: str) -> None:
    scene = Scene()
    moved = "" if lost == "it does not say where it is" else "tcp://moved"
    scene.frames(pack_peer_frame(PeerFrame(CLUSTER, "n2", 99, moved, "n1", STORE, (b"a",))))
    if lost == "it is back where it was":
        scene.frames(pack_peer_frame(PeerFrame(CLUSTER, "n2", 98, "tcp://two", "n1", STORE, (b"a",))))
    elif lost == "others pushed it out":
        scene.say(*(FindNode(f"tcp://n{number}") for number in range(MAX_GUESTS)))
        scene.port.sent.clear()
    scene.say(Outbound((("n2", 99, b"answer"),)))
    assert sent_to(scene) == [("n2", 99, (b"answer",))]


def test_at_its_old_address_too() -> None:
    scene = Scene()
    scene.frames(pack_peer_frame(PeerFrame(CLUSTER, "n2", 99, "tcp://two", "n1", STORE, (b"a",))))
    scene.say(Outbound((("n2", 99, b"a"), ("n2", 0, b"b"))))
    assert sent_to(scene) == [("n2", 99, (b"a",)), ("n2", 22, (b"b",))]
    assert scene.port.peers == ADDRESSES


def test_who_waits_to_be_added_hears_only_who_has_asked_him() -> None:
    scene = Scene(cluster_id=-1)
    scene.say(Identity(0, STORE, True, {}))
    assert scene.frames(frame(b"a"), frame(b"b", meant=STORE + 1)) == []
    assert scene.frames(frame(b"c", meant=STORE)) == [("consensus", Inbound((inbound(b"c", meant=STORE),)))]


def test_frames_name_the_store_that_they_are_meant_for() -> None:
    scene = Scene()
    assert scene.frames(frame(b"a", meant=7)) == [("consensus", Inbound((inbound(b"a", meant=7),)))]


def test_asking_who_is_there() -> None:
    """Also across clusters: only so can a refusal say which one it is."""
    asking, asked = Scene(), Scene(cluster_id=-1)
    asked.actor.node = "n4"
    asked.say(Identity(0xDEF, 44, True, {}))
    asking.say(FindNode("tcp://four"))
    to, question = asking.port.sent[-1]
    assert to == "tcp://four" and asking.port.peers["tcp://four"] == "tcp://four"
    assert asked.frames(question) == []
    to, answer = asked.port.sent[-1]
    assert to == "tcp://one"
    found = NodeFound("tcp://four", "n4", 44, 0xDEF, True, "tcp://one-client")
    assert asking.frames(answer) == [("consensus", found)]


def test_junk_that_is_for_whoever_listens_is_dropped() -> None:
    scene = Scene()
    assert scene.frames(frame(b"\xc1", receiver=""), frame(receiver="")) == [] and scene.port.sent == []
    assert scene.actor.status()["peer_dropped_in"] == 1


@pytest.mark.parametrize(
    ("meant", "why"),
    [
        (STORE, ""),
        (0, "it has not asked who this node is"),
        (99, "by another data directory than this one, .* remove n1 from the cluster and add it again"),
    ],
)
def test_who_waits_to_be_added_listens_to_those_who_know_its_data_directory(
    meant: int, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not to those who know one that was here before and was wiped."""
    scene = Scene(cluster_id=-1)
    scene.say(Identity(0, STORE, True, {}))
    taken = scene.frames(frame(b"a", meant=meant))
    assert taken == ([] if why else [("consensus", Inbound((inbound(b"a", meant=meant),)))])
    assert bool(why) == bool(caplog.text) and re.search(why, caplog.text)
