"""consensus and its clients: tokens find their entries, reads wait for a majority, leadership is handed on."""

from __future__ import annotations

import pytest
from consensus_scene import BUSY, NOT_LEADER, OK, REFUSED, UNKNOWN, Scene, propose, stored

from zraft.messages import (
    Appended,
    AppendEntries,
    AppendReply,
    HandedOver,
    HandOver,
    Heartbeat,
    HeartbeatReply,
    Read,
    ReadAt,
    RequestVote,
    TimeoutNow,
    TransferLeadership,
)
from zraft.wire import unpack_entries

# ---- clients -------------------------------------------------------------------------------------------------------


def test_a_batch_of_proposals_is_one_write_one_message_and_each_token_goes_with_its_index() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(10, 11), propose(12))
    [write] = scene.writes()
    [(first, count, term, blob, marked)] = write.batches
    assert (first, count, term, marked) == (2, 3, 1, False)
    assert [entry.data for entry in unpack_entries(blob)] == [b"command 10", b"command 11", b"command 12"]
    sent = scene.to_peers()
    assert [(peer, type(message)) for peer, message in sent] == [("n2", AppendEntries)]  # n3 is still probed
    scene.say("log_writer", Appended(write.sequence))
    scene.peers_say(("n2", AppendReply(1, True, 4, 0, 0)))
    [apply] = scene.apply()
    assert (apply.first_index, apply.tokens) == (2, ((2, 10), (3, 11), (4, 12)))


def test_entries_are_encoded_once() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(10))
    [write] = scene.writes()
    [(_, _, body)] = [message for out in scene.context.taken_for("transport") for message in out.messages]
    assert write.batches[0][3] in body


def test_tokens_of_a_proposal_that_commits_in_parts_go_with_their_parts() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(10, 11, 12))
    scene.sync()
    scene.peers_say(("n2", AppendReply(1, True, 3, 0, 0)))
    assert [apply.tokens for apply in scene.apply()] == [((2, 10), (3, 11))]
    scene.peers_say(("n2", AppendReply(1, True, 4, 0, 0)))
    assert [(apply.first_index, apply.tokens) for apply in scene.apply()] == [(4, ((4, 12),))]


def test_nothing_is_applied_that_is_not_durable_here() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(10))
    scene.peers_say(("n2", AppendReply(1, True, 2, 0, 0)), ("n3", AppendReply(1, True, 2, 0, 0)))
    assert scene.raft.commit_index == 2
    assert scene.apply() == []
    scene.sync()
    assert len(scene.apply()) == 1


def test_who_does_not_lead_says_who_does() -> None:
    scene = Scene(recovered=stored(2))
    scene.tick()
    scene.peers_say(("n2", Heartbeat(5, 0, 0)))
    scene.taken()
    scene.say("frontend", propose(1, 2), Read(((3, b"q"),)), TransferLeadership(4, ""))
    assert scene.replies() == [(number, NOT_LEADER, b"client 2") for number in (1, 2, 3, 4)]


def test_a_deposed_leader_cannot_tell_what_becomes_of_what_waits() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(1, 2), Read(((3, b"q"),)))
    assert scene.replies() == []
    scene.peers_say(("n3", Heartbeat(2, 0, 0)))
    assert sorted(scene.replies()) == [(1, UNKNOWN, b""), (2, UNKNOWN, b""), (3, NOT_LEADER, b"client 3")]
    scene.tick()
    assert scene.replies() == []


def test_a_leader_that_hands_over_takes_no_proposals() -> None:
    scene = Scene().lead()
    scene.say("frontend", TransferLeadership(1, "n2"), propose(2))
    assert scene.replies() == [(2, BUSY, b"")]


def test_a_read_is_handed_on_when_a_majority_has_confirmed_the_leader() -> None:
    scene = Scene().lead()
    scene.say("frontend", Read(((5, b"query"),)), Read(((6, b"other"),)))
    rounds = {message.round for _, message in scene.to_peers() if type(message) is Heartbeat}
    assert scene.context.taken_for("applier") == []
    [read_round] = rounds
    scene.peers_say(("n2", HeartbeatReply(1, read_round)))
    assert scene.context.taken_for("applier") == [ReadAt(1, ((5, b"query"), (6, b"other")))]


# ---- transfers and the end -----------------------------------------------------------------------------------------


def test_a_transfer_is_answered_when_another_leads() -> None:
    scene = Scene().lead()
    scene.say("frontend", TransferLeadership(1, "n2"))
    assert ("n2", TimeoutNow(1)) in scene.to_peers()
    scene.peers_say(("n2", RequestVote(2, 1, 1, False, True)))
    assert scene.replies() == [], "nobody leads yet"
    scene.sync()
    scene.peers_say(("n2", Heartbeat(2, 0, 0)))
    assert scene.replies() == [(1, OK, b"n2")]


def test_a_transfer_that_fails_is_refused_in_the_end() -> None:
    scene = Scene().lead()
    scene.say("frontend", TransferLeadership(1, "n2"))
    for _ in range(40):
        scene.peers_say(("n2", HeartbeatReply(1, 0)), ("n3", HeartbeatReply(1, 0)))
        scene.tick()
    [(token, status, text)] = scene.replies()
    assert (token, status) == (1, REFUSED)
    assert b"did not take over" in text


@pytest.mark.parametrize(("target", "status"), [("n1", OK), ("n9", REFUSED)])
def test_transfers_that_are_answered_at_once(target: str, status: int) -> None:
    scene = Scene().lead()
    scene.say("frontend", TransferLeadership(1, target))
    assert [(token, got) for token, got, _ in scene.replies()] == [(1, status)]


def test_a_node_that_ends_hands_over_first() -> None:
    scene = Scene().lead()
    scene.say("supervisor", HandOver())
    assert scene.context.taken_for("supervisor") == []
    assert any(type(message) is TimeoutNow for _, message in scene.to_peers())
    scene.peers_say(("n2", Heartbeat(2, 0, 0)))
    assert scene.context.taken_for("supervisor") == [HandedOver()]


def test_a_hand_over_that_nobody_takes_ends_as_well() -> None:
    scene = Scene().lead()
    scene.say("supervisor", HandOver())
    for _ in range(40):
        scene.peers_say(("n2", HeartbeatReply(1, 0)), ("n3", HeartbeatReply(1, 0)))
        scene.tick()
    assert scene.context.taken_for("supervisor") == [HandedOver()]


def test_who_does_not_lead_or_is_alone_has_nothing_to_hand_over() -> None:
    for scene in (Scene(), Scene(size=1).lead()):
        scene.taken()
        scene.say("supervisor", HandOver())
        assert scene.context.taken_for("supervisor") == [HandedOver()]
