"""What consensus says to clients that read in the leader's term."""

from __future__ import annotations

from consensus_scene import NOT_LEADER, OK, Scene, members, stored

from zraft.messages import (
    AppendReply,
    Heartbeat,
    Inbound,
    ReadAt,
    ReadInTerm,
    TermRequest,
    VoteReply,
)
from zraft.raft import Membership, Role
from zraft.wire import Condition, EntriesCache, Statement, pack_condition, pack_peer, pack_statement, unpack_statement

READS = ReadInTerm(((5, b"query"), (6, b"other")))
STORES = {"n2": 22, "n3": 33, "n4": 44, "n5": 55}


def say_from_stores(scene: Scene, message: object, stores: dict[str, int]) -> None:
    """Peers say it, with their data directories."""
    for peer, store_id in stores.items():
        scene.say("transport", Inbound(((peer, store_id, 0, (pack_peer(message, EntriesCache()),)),)))


def leading(size: int = 3, stores: dict[str, int] | None = None, commit: bool = True) -> Scene:
    """The leader of term 1, which knows the others' data directories; its first entry is committed."""
    if stores is None:
        stores = {peer: STORES[peer] for peer in members(size) if peer != "n1"}
    scene = Scene(size)
    scene.tick()
    while scene.raft.role is Role.FOLLOWER:
        scene.tick()
    for pre_vote in (True, False):
        say_from_stores(scene, VoteReply(1, True, pre_vote), stores)
        scene.sync()
    assert scene.raft.role is Role.LEADER
    scene.sync()
    if commit:
        say_from_stores(scene, AppendReply(1, True, scene.raft.log.last_index, 0, 0), stores)
        scene.apply()
    scene.taken()
    return scene


def condition(scene: Scene, *stores: int) -> bytes:
    return pack_condition(Condition(scene.actor.cluster_id, 1, stores))


def test_a_leader_of_three_answers_at_once_if_either_follower_is_in_its_term() -> None:
    scene = leading()
    scene.say("frontend", READS)
    assert scene.to_peers() == []
    assert scene.context.taken_for("applier") == [ReadAt(1, READS.reads, condition(scene, 22, 33))]


def test_five_take_a_round() -> None:
    scene = leading(5)
    scene.say("frontend", READS)
    assert scene.context.taken_for("applier") == []
    assert {type(message) for _, message in scene.to_peers()} == {Heartbeat}


def test_one_alone_needs_nobody() -> None:
    scene = leading(1)
    scene.say("frontend", READS)
    assert scene.context.taken_for("applier") == [ReadAt(1, READS.reads)]


def test_nothing_is_read_before_the_own_first_entry_has_committed() -> None:
    """Trap 2."""
    scene = leading(commit=False)
    scene.say("frontend", READS)
    assert scene.context.taken_for("applier") == []


def test_the_clusters_id_is_needed_and_may_be_known_later() -> None:
    scene = leading()
    cluster_id, scene.actor.cluster_id = scene.actor.cluster_id, 0
    scene.say("frontend", READS)
    assert scene.context.taken_for("applier") == []
    scene.actor.cluster_id = cluster_id
    scene.say("frontend", READS)
    assert scene.context.taken_for("applier") == [ReadAt(1, READS.reads, condition(scene, 22, 33))]


def test_only_known_data_directories_count() -> None:
    """Trap 10: a node whose disk was wiped says what it likes."""
    scene = leading()
    founding = scene.raft.membership
    half = Membership(founding.cluster_id, founding.voters, stores={"n1": 77, "n3": 33})
    scene.raft.configs.append((scene.raft.log.last_index, half))
    scene.say("frontend", READS)
    assert scene.context.taken_for("applier") == [ReadAt(1, READS.reads, condition(scene, 33))]
    scene.raft.configs.append((scene.raft.log.last_index, half._replace(stores={})))
    scene.say("frontend", READS)
    assert {type(message) for _, message in scene.to_peers()} == {Heartbeat}


def test_while_the_voters_change_a_partner_is_a_quorum_of_both_sets() -> None:
    scene = leading()
    voters = scene.raft.membership.voters
    stores = {"n1": 77, **STORES}
    both = {node: members(4)[node] for node in ("n1", "n2", "n4")}
    joint = Membership(scene.actor.cluster_id, both, outgoing=voters, stores=stores)
    scene.raft.configs.append((scene.raft.log.last_index, joint))
    scene.say("frontend", READS)
    assert scene.context.taken_for("applier") == [ReadAt(1, READS.reads, condition(scene, 22))]


def test_who_does_not_lead_says_so() -> None:
    scene = Scene(recovered=stored(2))
    scene.tick()
    scene.peers_say(("n2", Heartbeat(5, 0, 0)))
    scene.taken()
    scene.say("frontend", READS)
    assert scene.replies() == [(5, NOT_LEADER, b"client 2"), (6, NOT_LEADER, b"client 2")]
    scene = Scene(recovered=None)
    scene.say("frontend", READS)
    assert [status for _, status, _ in scene.replies()] == [NOT_LEADER, NOT_LEADER]


def test_a_follower_states_its_term() -> None:
    scene = leading()
    scene.say("frontend", TermRequest((8, 9)))
    statement = pack_statement(Statement(scene.actor.cluster_id, 77, 1))
    assert scene.replies() == [(8, OK, statement), (9, OK, statement)]
    scene.peers_say(("n3", Heartbeat(4, 0, 0)))
    scene.sync()
    scene.taken()
    scene.say("frontend", TermRequest((10,)))
    [(_, _, body)] = scene.replies()
    stated = unpack_statement(body)
    assert stated is not None
    assert stated.term == 4


def test_a_term_is_stated_when_it_is_durable() -> None:
    """Trap 7."""
    scene = leading()
    scene.peers_say(("n3", Heartbeat(4, 0, 0)))
    scene.say("frontend", TermRequest((8,)))
    assert scene.replies() == [(8, OK, b"")]


def test_who_has_promised_nothing_yet_states_nothing() -> None:
    for scene in (Scene(recovered=None), Scene()):
        scene.say("frontend", TermRequest((8,)))
        assert scene.replies() == [(8, OK, b"")]
