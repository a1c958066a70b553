"""consensus: hosts the Raft object. Its life begins by asking; what it cannot know any more it says is unknown."""

from __future__ import annotations

from typing import Any

import pytest
from fake_bus import Clock, FakeContext

from zraft.actors.consensus import TICKS_PER_HEARTBEAT, Consensus
from zraft.messages import (
    Append,
    Appended,
    AppendEntries,
    AppendReply,
    Applied,
    Apply,
    Arm,
    DiskFull,
    Entry,
    EntryKind,
    HandedOver,
    HandOver,
    Heartbeat,
    HeartbeatReply,
    Identity,
    Inbound,
    LogRead,
    Outbound,
    Propose,
    Read,
    ReadAt,
    ReadLog,
    Recover,
    Recovered,
    Replies,
    RequestVote,
    SaveClusterId,
    StatusReply,
    StatusRequest,
    Tick,
    TimeoutNow,
    TransferLeadership,
    VoteReply,
)
from zraft.raft import Address, Membership, Role, Settings
from zraft.wire import EntriesCache, ReplyStatus, pack_entries, pack_peer, unpack_entries, unpack_peer

OK, NOT_LEADER, BUSY, UNKNOWN, REFUSED = (
    int(ReplyStatus[name]) for name in ("OK", "NOT_LEADER", "BUSY", "UNKNOWN", "REFUSED")
)
FRESH = Recovered(0, "", True, 0, (), (), (), 0, 77)


def members(count: int) -> dict[str, Address]:
    return {f"n{number}": Address(f"client {number}", f"peer {number}") for number in range(1, count + 1)}


class Scene:
    """Consensus of n1 in a cluster of `size`, whose neighbours are played by the test.

    `writes` and `applied` say what the log_writer and the applier were given since they were last emptied.
    """

    def __init__(self, size: int = 3, recovered: Recovered | None = FRESH, applied: int = 0) -> None:
        self.clock = Clock()
        self.context = FakeContext("consensus", clock=self.clock)
        founding = members(size)
        self.actor = Consensus(self.context, "n1", Membership(0, founding), founding, Settings())
        self.actor.on_start()
        assert self.taken() == [("log_writer", Recover()), ("applier", Recover())]
        if recovered is not None:
            self.say("log_writer", recovered)
            self.say("applier", Applied(applied))

    def taken(self) -> list[tuple[str, Any]]:
        return self.context.taken()

    def say(self, sender: str, *messages: Any) -> None:
        for message in messages:
            self.actor.receive(sender, message)
        self.actor.end_batch()

    def peers_say(self, *messages: tuple[str, Any]) -> None:
        packed = tuple((peer, pack_peer(message, EntriesCache())) for peer, message in messages)
        self.say("transport", Inbound(packed))

    def restarted(self, name: str) -> None:
        self.actor.on_neighbour_restarted(name)
        self.actor.end_batch()

    def tick(self, passed_ms: int = 12) -> None:
        self.clock.now_ms += passed_ms
        self.say("election_timer", Tick(self.clock.now_ms))

    def writes(self) -> list[Append]:
        return [message for message in self.context.taken_for("log_writer") if type(message) is Append]

    def to_peers(self) -> list[tuple[str, Any]]:
        outbound = [message for message in self.context.taken_for("transport") if type(message) is Outbound]
        return [(peer, unpack_peer(body)) for message in outbound for peer, body in message.messages]

    def replies(self) -> list[tuple[int, int, bytes]]:
        return [item for message in self.context.taken_for("frontend") for item in message.replies]

    def sync(self) -> list[tuple[str, Any]]:
        """The log_writer finishes all that it was given. Returns the replies that it releases."""
        writes = self.writes()
        if writes:
            self.say("log_writer", Appended(writes[-1].sequence))
        return [(peer, unpack_peer(body)) for write in writes for peer, body in write.replies]

    @property
    def raft(self) -> Any:
        return self.actor.raft

    def lead(self) -> Scene:
        """Become leader of term 1 (with everybody's vote: it is the first), its first entry committed and applied."""
        peers = [name for name in members(len(self.actor.founding.voters)) if name != "n1"]
        self.tick()
        while self.raft.role is Role.FOLLOWER:
            self.tick()
        self.peers_say(*((peer, VoteReply(1, True, True)) for peer in peers))
        self.sync()
        self.peers_say(*((peer, VoteReply(1, True, False)) for peer in peers))
        assert self.raft.role is Role.LEADER
        self.commit_all()
        self.taken()
        return self

    def commit_all(self) -> None:
        """Disk and n2 hold everything, and the applier applies what it is given."""
        self.sync()
        if len(self.actor.founding.voters) > 1:
            self.peers_say(("n2", AppendReply(1, True, self.raft.log.last_index, 0, 0)))
        self.apply()

    def apply(self) -> list[Apply]:
        given = [message for message in self.context.taken_for("applier") if type(message) is Apply]
        for message in given:
            self.say("applier", Applied(message.first_index + len(unpack_entries(message.entries)) - 1))
        return given


def propose(*tokens: int) -> Propose:
    return Propose(tuple((token, b"command %d" % token) for token in tokens))


# ---- the beginning of a life ---------------------------------------------------------------------------------------


def test_until_both_have_answered_it_takes_part_in_nothing() -> None:
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
    scene.say("applier", Applied(0))
    assert scene.actor.raft is not None


@pytest.mark.parametrize("first", ["log_writer", "applier"])
def test_whoever_answers_first_it_then_tells_who_it_is_and_wants_ticks(first: str) -> None:
    scene = Scene(recovered=None)
    answers = {"log_writer": FRESH, "applier": Applied(0)}
    for name in (first, *(name for name in answers if name != first)):
        scene.say(name, answers[name])
    assert scene.taken() == [
        ("transport", Identity(0, 77, {"n2": "peer 2", "n3": "peer 3"})),
        ("election_timer", Arm(Settings().heartbeat_ms // TICKS_PER_HEARTBEAT)),
    ]


def stored(last: int, term: int = 4, voted_for: str = "n1", cluster_id: int = 9) -> Recovered:
    """A log of `last` entries: the members, then commands, all of term 3."""
    config = Entry(3, 0, EntryKind.CONFIG, Membership(9, members(3)).encode())
    entries = [config] + [Entry(3, 0, EntryKind.COMMAND, b"%d" % index) for index in range(2, last + 1)]
    batch = (1, last, 3, pack_entries(entries))
    return Recovered(term, voted_for, False, last, ((1, 3),), (batch,), (batch,), cluster_id, 77)


def test_it_begins_as_a_follower_of_what_is_durable_and_applied() -> None:
    scene = Scene(recovered=stored(5), applied=3)
    raft = scene.raft
    assert (raft.role, raft.current_term, raft.voted_for) == (Role.FOLLOWER, 4, "n1")
    assert (raft.log.last_index, raft.commit_index, raft.applied_index) == (5, 3, 3)
    assert scene.taken()[0] == ("transport", Identity(9, 77, {"n2": "peer 2", "n3": "peer 3"}))


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
    head = (1, 1, 1, pack_entries([scene.raft.log.slice(1, 1)[0]]))
    scene.say("log_writer", Recovered(1, "n1", False, 1, ((1, 1),), (head,), (head,), 0, 77))
    [write] = scene.writes()
    assert write.sequence > lost.sequence
    assert write.hard_state == (1, "n1")
    assert [(first, count) for first, count, _, _ in write.batches] == [(2, 2)]
    assert scene.raft.log.durable_index == 1
    scene.say("log_writer", Appended(write.sequence))
    assert scene.raft.log.durable_index == 3


def test_a_new_log_writer_that_comes_while_consensus_itself_recovers() -> None:
    scene = Scene(recovered=None)
    scene.restarted("log_writer")
    assert scene.taken() == [("log_writer", Recover())]
    scene.say("log_writer", FRESH)
    scene.say("applier", Applied(0))
    assert scene.raft is not None


def test_a_new_applier_is_given_nothing_before_it_has_said_where_it_stands_and_then_everything() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(1))
    scene.restarted("applier")
    scene.commit_all()
    assert scene.context.taken_for("applier") == []
    scene.restarted("applier")
    assert scene.context.taken_for("applier") == [Recover()]
    scene.say("applier", Applied(0))
    [apply] = scene.apply()
    assert apply.first_index == 1
    assert len(unpack_entries(apply.entries)) == 2
    assert apply.tokens == ((2, 1),), "who still waits is answered"
    scene.say("frontend", propose(2))
    scene.commit_all()
    assert scene.raft.applied_index == 3


def test_an_applier_that_begins_anew_while_consensus_recovers_is_waited_for() -> None:
    scene = Scene(recovered=None)
    scene.say("applier", Applied(7))
    scene.restarted("applier")
    scene.say("log_writer", stored(9))
    assert scene.raft is None
    scene.say("applier", Applied(0))
    assert scene.raft.commit_index == 0


def test_a_new_transport_and_a_new_timer_are_told_again() -> None:
    scene = Scene().lead()
    scene.restarted("transport")
    cluster_id = scene.raft.membership.cluster_id
    assert scene.taken() == [("transport", Identity(cluster_id, 77, {"n2": "peer 2", "n3": "peer 3"}))]
    scene.restarted("election_timer")
    assert scene.taken() == [("election_timer", Arm(12))]


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


# ---- clients -------------------------------------------------------------------------------------------------------


def test_a_batch_of_proposals_is_one_write_one_message_and_each_token_goes_with_its_index() -> None:
    scene = Scene().lead()
    scene.say("frontend", propose(10, 11), propose(12))
    [write] = scene.writes()
    [(first, count, term, blob)] = write.batches
    assert (first, count, term) == (2, 3, 1)
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
    [(_, body)] = [message for out in scene.context.taken_for("transport") for message in out.messages]
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


# ---- disk ----------------------------------------------------------------------------------------------------------


def test_the_vote_goes_with_the_write_that_makes_it_durable() -> None:
    scene = Scene(recovered=stored(2))
    scene.taken()
    scene.peers_say(("n2", RequestVote(5, 9, 3, False, False)))
    assert scene.to_peers() == []
    [write] = scene.writes()
    assert write.hard_state == (5, "n2")
    assert [(peer, unpack_peer(body)) for peer, body in write.replies] == [("n2", VoteReply(5, True, False))]


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
    head, tail = (1, 4, 3, pack_entries(entries[:4])), (5, 1, 3, pack_entries(entries[4:]))
    scene = Scene(recovered=Recovered(4, "", False, 5, ((1, 3),), (head,), (tail,), 9, 77))
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
    scene.say("transport", Inbound((("n2", b"\xc1"), ("n2", body), ("n3", b"\x91\x00"))))
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
    assert fields["members"][0] == {"id": "n1", "client": "client 1", "peer": "peer 1", "role": "voter"}
