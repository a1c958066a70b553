"""consensus: hosts the Raft object. Its life begins by asking; what it cannot know any more it says is unknown."""

from __future__ import annotations

from itertools import permutations

import pytest
from consensus_scene import FRESH, NO_SNAPSHOT, NOT_LEADER, UNKNOWN, Scene, members, propose, standing, stored

from zraft.messages import (
    Appended,
    AppendEntries,
    AppendReply,
    Arm,
    DiskFull,
    Endpoints,
    Entry,
    EntryKind,
    HandedOver,
    HandOver,
    Heartbeat,
    Identity,
    Inbound,
    LogRead,
    Read,
    ReadLog,
    Recover,
    Recovered,
    Replies,
    RequestVote,
    SaveClusterId,
    StatusReply,
    StatusRequest,
    Tick,
    TransferLeadership,
    VoteReply,
)
from zraft.raft import Membership, Role, Settings
from zraft.wire import EntriesCache, pack_entries, pack_peer, unpack_entries, unpack_peer

PEERS = {"n2": ("peer 2", 0), "n3": ("peer 3", 0)}

# ---- the beginning of a life ---------------------------------------------------------------------------------------


def test_until_the_owners_of_the_disk_have_answered_it_takes_part_in_nothing() -> None:
    scene = Scene(recovered=None)
    scene.peers_say(("n2", RequestVote(5, 0, 0, False, False)))
    scene.tick(10_000)
    scene.say("log_writer", Appended(1), LogRead("n2", 1, ()), DiskFull(True))
    scene.say("frontend", propose(1), Read(((2, b"q"),)), TransferLeadership(3, "n2"))
    assert scene.taken() == [("frontend", Replies(((1, NOT_LEADER, b""), (2, NOT_LEADER, b""), (3, NOT_LEADER, b""))))]
    scene.say("frontend", StatusRequest(4))
    assert scene.taken() == [("frontend", StatusReply(4, {"role": "recovering"}))]
    scene.say("supervisor", HandOver())
    assert scene.taken() == [("supervisor", HandedOver())]
    scene.say("log_writer", FRESH)
    assert scene.actor.raft is None
    assert scene.taken() == []
    scene.say("applier", standing(0))
    assert scene.actor.raft is None, "where the state stands says nothing of the disk"
    assert scene.taken() == []
    scene.say("snapshot_writer", NO_SNAPSHOT)
    assert scene.actor.raft is not None


@pytest.mark.parametrize("order", list(permutations(("log_writer", "snapshot_writer", "applier"))), ids="-".join)
def test_whoever_answers_first_it_then_tells_who_it_is_and_wants_ticks(order: tuple[str, ...]) -> None:
    scene = Scene(recovered=None)
    answers = {"log_writer": FRESH, "snapshot_writer": NO_SNAPSHOT, "applier": standing(0)}
    for name in order:
        scene.say(name, answers[name])
    assert scene.raft.applier_known
    assert scene.taken() == [
        ("transport", Identity(0, 77, False, PEERS)),
        ("frontend", Endpoints(("client 1", "client 2", "client 3"))),
        ("election_timer", Arm(Settings().heartbeat_ms // 2)),
    ]


def test_it_begins_as_a_follower_of_what_is_durable_and_applied() -> None:
    scene = Scene(recovered=stored(5), applied=3)
    raft = scene.raft
    assert (raft.role, raft.current_term, raft.voted_for) == (Role.FOLLOWER, 4, "n1")
    assert (raft.log.last_index, raft.commit_index, raft.applied_index) == (5, 3, 3)
    assert scene.taken()[0] == ("transport", Identity(9, 77, False, PEERS))


def test_it_does_not_lead_the_term_that_it_found() -> None:
    """It voted for itself in term 4, but not even its votes of then make the new life leader of it."""
    scene = Scene(recovered=stored(5))
    scene.peers_say(("n2", VoteReply(4, True, False)), ("n3", VoteReply(4, True, False)))
    assert scene.raft.role is Role.FOLLOWER
    assert scene.raft.current_term == 4


def test_its_vote_is_remembered() -> None:
    scene = Scene(recovered=stored(5, voted_for="n2"))
    scene.taken()
    scene.peers_say(("n3", RequestVote(4, 9, 3, False, True)))
    assert scene.to_peers() == [("n3", VoteReply(4, False, False))]


# ---- neighbours that begin anew ------------------------------------------------------------------------------------


def test_a_new_log_writer_is_given_nothing_before_it_has_said_what_it_has_and_then_the_rest() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(1))
    [lost] = scene.writes()
    scene.restarted("log_writer")
    scene.say("frontend", propose(2))
    assert scene.context.taken_for("log_writer") == [Recover()]
    head = (1, 1, 1, pack_entries([scene.raft.log.slice(1, 1)[0]]), True)
    scene.say("log_writer", Recovered(1, "n1", False, (0, 0), 1, ((1, 1),), (head,), (head,), 0, 77))
    [write] = scene.writes()
    assert write.sequence > lost.sequence
    assert write.hard_state == (1, "n1")
    assert [(first, count) for first, count, *_ in write.batches] == [(2, 2)]
    assert scene.raft.log.durable_index == 1
    scene.say("log_writer", Appended(write.sequence))
    assert scene.raft.log.durable_index == 3


def test_a_new_log_writer_that_comes_while_consensus_itself_recovers() -> None:
    scene = Scene(recovered=None)
    scene.restarted("log_writer")
    assert scene.taken() == [("log_writer", Recover())]
    scene.say("log_writer", FRESH)
    scene.say("snapshot_writer", NO_SNAPSHOT)
    assert scene.raft is not None


def test_a_new_applier_is_given_nothing_before_it_has_said_where_it_stands_and_then_everything() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(1))
    scene.restarted("applier")
    scene.commit_all()
    assert scene.context.taken_for("applier") == []
    scene.restarted("applier")
    assert scene.context.taken_for("applier") == [Recover()]
    scene.say("applier", standing(0))
    [apply] = scene.apply()
    assert apply.first_index == 1
    assert len(unpack_entries(apply.entries)) == 2
    assert apply.tokens == ((2, 1),), "who still waits is answered"
    scene.say("frontend", propose(2))
    scene.commit_all()
    assert scene.raft.applied_index == 3


def test_an_applier_that_begins_anew_while_consensus_recovers_is_waited_for() -> None:
    scene = Scene(recovered=None)
    scene.say("applier", standing(7))
    scene.restarted("applier")
    scene.say("log_writer", stored(9))
    scene.say("snapshot_writer", NO_SNAPSHOT)
    assert not scene.raft.applier_known, "what its former life held is gone"
    assert scene.raft.commit_index == 0
    scene.say("applier", standing(0))
    assert scene.raft.applier_known


def test_a_new_transport_and_a_new_timer_are_told_again() -> None:
    scene = Scene().lead()
    scene.restarted("transport")
    cluster_id = scene.raft.membership.cluster_id
    assert scene.taken() == [("transport", Identity(cluster_id, 77, False, PEERS))]
    scene.restarted("election_timer")
    assert scene.taken() == [("election_timer", Arm(50))]


def test_a_leader_wants_a_tick_for_each_heartbeat_and_others_two() -> None:
    scene = Scene()
    assert scene.context.taken_for("election_timer") == [Arm(25)]
    for _ in range(2):  # as long as nobody else is heard
        scene.tick()
        assert scene.context.taken_for("election_timer") == []
    scene.lead()
    assert scene.actor.tick_ms == 50
    scene.peers_say(("n2", Heartbeat(2, 0, 0)))
    assert scene.context.taken_for("election_timer") == [Arm(25)]


def test_before_it_has_begun_there_is_nothing_to_tell_them() -> None:
    scene = Scene(recovered=None)
    scene.restarted("transport")
    scene.restarted("election_timer")
    assert scene.taken() == []


def test_a_new_frontend_waits_for_nothing() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(1), TransferLeadership(2, "n3"))
    scene.restarted("frontend")
    scene.sync()
    scene.peers_say(("n2", AppendReply(1, True, 2, 0, 0)))
    [apply] = scene.apply()
    assert apply.tokens == ()
    scene.tick(1000)
    assert scene.replies() == []


# ---- disk ----------------------------------------------------------------------------------------------------------


def test_the_vote_goes_with_the_write_that_makes_it_durable() -> None:
    scene = Scene(recovered=stored(2))
    scene.taken()
    scene.peers_say(("n2", RequestVote(5, 9, 3, False, False)))
    assert scene.to_peers() == []
    [write] = scene.writes()
    assert write.hard_state == (5, "n2")
    assert [(peer, unpack_peer(body)) for peer, _, body in write.replies] == [("n2", VoteReply(5, True, False))]


def test_no_vote_is_an_empty_string_in_the_write() -> None:
    scene = Scene(recovered=stored(2))
    scene.taken()
    scene.peers_say(("n2", Heartbeat(5, 0, 0)))
    assert [write.hard_state for write in scene.writes()] == [(5, "")]


def test_a_single_voter_acknowledges_nobody_before_its_disk() -> None:
    scene = Scene(size=1).lead()
    scene.say("frontend", propose(1))
    assert scene.apply() == []
    scene.sync()
    assert [apply.tokens for apply in scene.apply()] == [((2, 1),)]


def test_a_full_disk_costs_the_leadership() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(1))
    scene.say("log_writer", DiskFull(True))
    assert scene.raft.role is Role.FOLLOWER
    assert scene.replies() == [(1, UNKNOWN, b"")]
    scene.say("log_writer", DiskFull(False))
    assert not scene.raft.disk_full


def test_the_cluster_s_id_is_saved_once_it_is_committed() -> None:
    scene = Scene()
    scene.lead()
    other = Scene(recovered=stored(2, cluster_id=0))
    other.taken()
    other.tick()
    other.peers_say(("n2", AppendEntries(5, 2, 3, 2, ())))
    assert ("log_writer", SaveClusterId(9)) in other.taken()
    other.tick()
    assert SaveClusterId(9) not in other.context.taken_for("log_writer")
    assert scene.actor.cluster_id == scene.raft.membership.cluster_id


def test_what_has_left_memory_is_read_for_the_applier() -> None:
    """A log of which only the last entry came along."""
    entries = [Entry(3, 0, EntryKind.CONFIG, Membership(9, members(3)).encode())]
    entries += [Entry(3, 0, EntryKind.COMMAND, b"%d" % index) for index in range(2, 6)]
    head, tail = (1, 4, 3, pack_entries(entries[:4]), True), (5, 1, 3, pack_entries(entries[4:]), False)
    scene = Scene(recovered=Recovered(4, "", False, (0, 0), 5, ((1, 3),), (head,), (tail,), 9, 77))
    scene.tick()
    scene.peers_say(("n2", AppendEntries(5, 5, 3, 5, ())))
    reads = [message for message in scene.context.taken_for("log_writer") if type(message) is ReadLog]
    assert [(read.reader, read.first_index) for read in reads] == [("", 1)]
    scene.say("log_writer", LogRead("", 1, (head,)))
    assert [(apply.first_index, len(unpack_entries(apply.entries))) for apply in scene.apply()] == [(1, 4), (5, 1)]


# ---- time and peers ------------------------------------------------------------------------------------------------


def test_what_peers_said_comes_before_the_time() -> None:
    """A stall: the heartbeat that waited is handled before the tick that would have begun an election."""
    scene = Scene(recovered=stored(2))
    scene.tick()
    scene.taken()
    for _ in range(60):
        scene.clock.now_ms += 12
        scene.actor.receive("election_timer", Tick(scene.clock.now_ms))
        scene.peers_say(("n2", Heartbeat(5, 0, 0)))
    assert scene.raft.role is Role.FOLLOWER
    assert scene.raft.leader_id == "n2"


def test_only_the_last_tick_of_a_batch_counts() -> None:
    scene = Scene(recovered=stored(2))
    scene.tick()
    scene.actor.receive("election_timer", Tick(scene.clock.now_ms + 5))
    scene.actor.receive("election_timer", Tick(scene.clock.now_ms + 9))
    scene.actor.end_batch()
    assert scene.raft.now_ms == scene.clock.now_ms + 9


def test_what_cannot_be_decoded_is_dropped_and_counted() -> None:
    scene = Scene()
    body = pack_peer(RequestVote(5, 0, 0, True, False), EntriesCache())
    scene.taken()
    scene.say("transport", Inbound((("n2", 0, 0, (b"\xc1", body)), ("n3", 0, 0, (b"\x91\x00",)))))
    assert [peer for peer, _ in scene.to_peers()] == ["n2"]
    scene.say("frontend", StatusRequest(1))
    [reply] = scene.context.taken_for("frontend")
    assert reply.fields["peer_undecodable"] == 2


def test_status() -> None:
    scene = Scene().lead()
    scene.say("frontend", StatusRequest(1))
    [reply] = scene.context.taken_for("frontend")
    fields = reply.fields
    assert {"role": "leader", "term": 1, "leader": "n1", "commit_index": 1, "last_index": 1}.items() <= fields.items()
    member = {"id": "n1", "client": "client 1", "peer": "peer 1", "role": "voter", "outgoing": False}
    assert fields["members"][0] == {**member, "match_index": 1, "active": True}
    assert (fields["members_index"], fields["change"]) == (1, None)
