"""consensus and snapshots: how a life begins with one, how one goes to a peer and comes from a leader, and what of it
is lost with each neighbour."""

from __future__ import annotations

import pytest
from consensus_scene import NO_SNAPSHOT, Scene, members, progress, propose, standing, stored

from zraft.errors import NodeMustStop
from zraft.messages import (
    Append,
    Appended,
    AppendEntries,
    AppendReply,
    CompactLog,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    ReadLog,
    ReadSnapshot,
    Recover,
    Recovered,
    RestoreSnapshot,
    SnapshotFailed,
    SnapshotRead,
    SnapshotSaved,
    SnapshotWritten,
    VoteReply,
    WriteSnapshot,
)
from zraft.raft import Membership, Role, Settings
from zraft.raft.progress import SNAPSHOT_PIECE_BYTES
from zraft.wire import pack_entries, unpack_entries

CONFIG = Membership(9, members(3)).encode()
SHORT = Settings(snapshot_keep=2)


def saved(index: int, source: str = "", older: int = 0, term: int = 3) -> SnapshotSaved:
    return SnapshotSaved(source, index, term, CONFIG, 1_000, older)


def log(base: int, last: int, term: int = 4) -> Recovered:
    """A log that begins after `base`; all of it, and what is before it, is of term 3."""
    tail = ()
    if last > base:
        run = [Entry(3, 0, EntryKind.COMMAND, b"%d" % index) for index in range(base + 1, last + 1)]
        tail = ((base + 1, len(run), 3, pack_entries(run), False),)
    runs = ((base + 1, 3),) if tail else ()
    return Recovered(term, "", False, (base, 3), last, runs, (), tail, 9, 77)


# ---- the beginning of a life ---------------------------------------------------------------------------------------


def test_a_life_on_a_snapshot_and_the_log_behind_it() -> None:
    scene = Scene(recovered=log(80, 120), applied=100, snapshot=saved(100, older=70))
    raft = scene.raft
    assert (raft.log.base_index, raft.log.last_index, raft.commit_index, raft.applied_index) == (80, 120, 100, 100)
    assert list(raft.membership.voters) == ["n1", "n2", "n3"], "which are in no entry that is left"
    assert (raft.membership.cluster_id, scene.actor.cluster_id) == (9, 9)
    scene.tick()
    scene.peers_say(("n2", AppendEntries(5, 120, 3, 110, ())))
    assert [(apply.first_index, len(unpack_entries(apply.entries))) for apply in scene.apply()] == [(101, 10)]


def test_a_log_that_begins_behind_the_newest_snapshot_cannot_be_used() -> None:
    with pytest.raises(NodeMustStop, match="begins after entry 80, but the newest whole snapshot reaches only to 70"):
        Scene(recovered=log(80, 120), snapshot=saved(70))


def test_an_install_that_was_interrupted_is_finished() -> None:
    """The snapshot is on disk, and the log was not told: it ends far before it."""
    scene = Scene(recovered=log(0, 50), applied=None, snapshot=saved(100, older=0))
    [write] = scene.writes()
    assert (write.reset, write.batches) == ((100, 3), ())
    scene.say("applier", standing(100))
    assert scene.context.taken_for("applier") == []
    assert scene.raft.applied_index == 100
    scene.say("log_writer", Appended(write.sequence))
    scene.tick()
    scene.peers_say(("n2", AppendEntries(5, 100, 3, 100, (Entry(5, 0, EntryKind.COMMAND, b"x"),))))
    [write] = scene.writes()
    assert [(first, count) for first, count, *_ in write.batches] == [(101, 1)]
    assert write.reset == ()


def test_an_applier_that_missed_the_snapshot_is_told_to_load_it() -> None:
    scene = Scene(recovered=log(0, 50), applied=40, snapshot=saved(100))
    assert scene.context.taken_for("applier") == [RestoreSnapshot(100)]
    scene.say("applier", standing(100))
    assert scene.raft.applied_index == 100


def test_the_applier_may_answer_late_but_until_then_this_node_campaigns_for_nothing() -> None:
    scene = Scene(recovered=stored(5), applied=None)
    for _ in range(100):
        scene.tick()
    assert scene.raft.role is Role.FOLLOWER and scene.to_peers() == []
    scene.peers_say(("n2", AppendEntries(5, 5, 3, 5, ())))
    scene.sync()
    assert scene.context.taken_for("applier") == []
    scene.say("applier", standing(3))
    assert [apply.first_index for apply in scene.apply()] == [4]


# ---- the applier's answers -----------------------------------------------------------------------------------------


def follower(last: int = 5) -> Scene:
    """In term 5, led by n2, all of its log applied."""
    scene = Scene(recovered=stored(last), applied=last)
    scene.tick()
    scene.peers_say(("n2", Heartbeat(5, last, 0)))
    scene.sync()
    scene.taken()
    return scene


def install(scene: Scene, index: int) -> None:
    scene.say("snapshot_writer", saved(index, "n2"))


def test_a_snapshot_from_the_leader_resets_the_log_and_the_state() -> None:
    scene = follower()
    install(scene, 100)
    sent = scene.taken()
    [append] = [message for to, message in sent if type(message) is Append]
    assert append.reset == (100, 3)
    assert ("applier", RestoreSnapshot(100)) in sent
    assert not scene.raft.applier_known
    scene.say("applier", progress(5))
    assert scene.raft.applied_index == 5
    scene.say("applier", standing(100))
    assert scene.raft.applied_index == 100 and scene.raft.applier_known


def hand_on(scene: Scene) -> list[int]:
    """The leader sends two entries behind 100. Returns where what the applier is handed begins."""
    entries = (Entry(5, 0, EntryKind.COMMAND, b"x"), Entry(5, 0, EntryKind.COMMAND, b"y"))
    scene.peers_say(("n2", AppendEntries(5, 100, 3, 102, entries)))
    scene.sync()
    return [apply.first_index for apply in scene.context.taken_for("applier")]


def test_an_answer_that_another_question_has_overtaken_hands_on_nothing() -> None:
    """Recover and RestoreSnapshot are both under way; each will be answered, perhaps at once, perhaps one by one."""
    for answers in ([standing(100), standing(100)], [standing(5), standing(100)], [standing(100)._replace(standing=2)]):
        scene = follower()
        scene.restarted("applier")
        install(scene, 100)
        assert scene.context.taken_for("applier") == [Recover(), RestoreSnapshot(100)]
        handed = []
        for answer in answers:
            handed += hand_on(scene)
            scene.say("applier", answer)
            handed += [getattr(message, "first_index", message) for message in scene.context.taken_for("applier")]
        assert handed == [101], answers


def test_an_answer_in_the_batch_of_the_news_is_one_to_an_older_question() -> None:
    scene = follower()
    scene.restarted("applier")
    scene.actor.receive("snapshot_writer", saved(100, "n2"))
    scene.actor.receive("applier", standing(100))
    scene.actor.end_batch()
    assert scene.context.taken_for("applier") == [Recover(), RestoreSnapshot(100)]
    assert hand_on(scene) == []
    scene.say("applier", standing(100))
    assert [message.first_index for message in scene.context.taken_for("applier")] == [101]


def test_an_applier_that_dies_while_it_restores_is_asked_again() -> None:
    scene = follower()
    install(scene, 100)
    scene.taken()
    scene.restarted("applier")
    assert scene.context.taken_for("applier") == [Recover()]
    scene.say("applier", standing(60))  # the newest was damaged
    assert scene.context.taken_for("applier") == [RestoreSnapshot(100)]
    scene.say("applier", standing(100))
    assert hand_on(scene) == [101]


@pytest.mark.parametrize("news_first", [True, False])
def test_a_new_applier_may_know_of_a_snapshot_before_consensus_does(news_first: bool) -> None:
    """It has loaded what the snapshot_writer has just stored; that is no disk that has lost its log."""
    scene = follower()
    scene.restarted("applier")
    scene.say("applier", standing(100))
    assert scene.context.taken_for("snapshot_writer") == [ReadSnapshot("", 0, 0, 1)]
    news, answer = saved(100, "n2"), SnapshotRead("", 100, 0, b"x", 1_000)
    if news_first:
        scene.say("snapshot_writer", news)
        scene.say("snapshot_writer", answer)
    else:  # the snapshot_writer dies before it has told; its successor does
        scene.restarted("snapshot_writer")
        assert scene.context.taken_for("snapshot_writer") == [Recover(), ReadSnapshot("", 0, 0, 1)]
        scene.say("snapshot_writer", saved(100), answer)
    assert scene.context.taken_for("applier")[1:] == [RestoreSnapshot(100)]
    scene.say("applier", standing(100))
    assert hand_on(scene) == [101]


def test_a_disk_that_has_lost_what_was_applied_still_stops_the_node() -> None:
    scene = follower()
    scene.restarted("applier")
    scene.say("applier", standing(100))
    with pytest.raises(NodeMustStop, match="100 entries were applied, those up to 5 are there"):
        scene.say("snapshot_writer", saved(3), SnapshotRead("", 3, 0, b"x", 1_000))


# ---- a snapshot from the leader ------------------------------------------------------------------------------------


def piece(offset: int, size: int, data: bytes, index: int = 100, term: int = 5) -> InstallSnapshot:
    return InstallSnapshot(term, index, 3, offset, size, data)


def test_pieces_go_to_the_snapshot_writer_and_its_answers_to_the_leader() -> None:
    scene = follower()
    scene.peers_say(("n2", piece(0, 10, b"abcdef")), ("n2", piece(6, 10, b"ghij")))
    assert scene.context.taken_for("snapshot_writer") == [
        WriteSnapshot("n2", 100, 3, 0, b"abcdef", False),
        WriteSnapshot("n2", 100, 3, 6, b"ghij", True),
    ]
    scene.say("snapshot_writer", SnapshotWritten("n2", 100, 6))
    assert scene.to_peers() == [("n2", InstallSnapshotReply(5, 100, 6))]
    install(scene, 100)
    assert scene.to_peers() == [("n2", AppendReply(5, True, 100, 0, 0))]


def test_what_is_answered_about_an_older_leader_s_pieces_goes_to_nobody() -> None:
    scene = follower()
    scene.peers_say(("n2", piece(0, 10, b"abcdef")), ("n3", Heartbeat(6, 5, 0)))
    scene.sync()
    scene.taken()
    scene.say("snapshot_writer", SnapshotWritten("n2", 100, 6), SnapshotFailed("n2", 100, "no space"))
    assert scene.to_peers() == []


def test_one_that_is_not_needed_is_answered_at_once() -> None:
    scene = follower()
    scene.peers_say(("n2", piece(0, 10, b"abcdef", index=4)))
    assert scene.context.taken_for("snapshot_writer") == []
    assert scene.to_peers() == [("n2", AppendReply(5, True, 5, 0, 0))]


def test_before_consensus_has_begun_pieces_are_dropped() -> None:
    scene = Scene(recovered=None)
    scene.peers_say(("n2", piece(0, 10, b"abcdef")))
    scene.say("snapshot_writer", SnapshotWritten("n2", 100, 6), SnapshotRead("n2", 100, 0, b"x", 1))
    assert scene.taken() == []


def test_a_new_log_writer_is_told_of_a_reset_that_died_with_the_old_one() -> None:
    scene = follower()
    install(scene, 100)
    scene.taken()
    scene.restarted("log_writer")
    scene.say("log_writer", stored(5, term=5))
    [write] = scene.writes()
    assert (write.reset, write.hard_state) == ((100, 3), (5, ""))
    scene.restarted("log_writer")
    scene.say("log_writer", log(100, 100, term=5))
    assert [write.reset for write in scene.writes()] == [()], "and not once more if it had been written"


# ---- a snapshot for a follower -------------------------------------------------------------------------------------


def leader_without_the_log_s_beginning() -> Scene:
    """n1 leads term 5 with a log behind 80; n2 has all of it, n3 has nothing."""
    scene = Scene(recovered=log(80, 120), applied=100, snapshot=saved(100, older=90), settings=SHORT)
    scene.tick()
    while scene.raft.role is Role.FOLLOWER:
        scene.tick()
    for pre_vote in (True, False):
        scene.peers_say(("n2", VoteReply(5, True, pre_vote)))
        scene.sync()
    assert scene.raft.role is Role.LEADER
    scene.peers_say(("n2", AppendReply(5, True, 121, 0, 0)))
    scene.apply()
    scene.taken()
    scene.peers_say(("n3", AppendReply(5, False, 120, 0, 1)))
    return scene


def test_a_follower_whose_entries_have_left_the_log_is_sent_the_snapshot() -> None:
    scene = leader_without_the_log_s_beginning()
    assert scene.context.taken_for("snapshot_writer") == [ReadSnapshot("n3", 100, 0, SNAPSHOT_PIECE_BYTES)]
    scene.say("snapshot_writer", SnapshotRead("n3", 100, 0, b"x" * 1_000, 1_000))
    assert ("n3", InstallSnapshot(5, 100, 3, 0, 1_000, b"x" * 1_000)) in scene.to_peers()
    scene.peers_say(("n3", InstallSnapshotReply(5, 100, 1_000)))
    scene.peers_say(("n3", AppendReply(5, True, 100, 0, 0)))
    sent = [(peer, m.prev_log_index, len(m.entries)) for peer, m in scene.to_peers() if type(m) is AppendEntries]
    assert sent == [("n3", 100, 21)]


def test_a_snapshot_writer_that_begins_anew_is_asked_again_for_what_a_follower_waits_for() -> None:
    scene = leader_without_the_log_s_beginning()
    scene.taken()
    scene.restarted("snapshot_writer")
    scene.say("snapshot_writer", saved(100, older=90))
    asked = []
    for _ in range(40):
        scene.peers_say(("n2", HeartbeatReply(5, 0)), ("n3", HeartbeatReply(5, 0)))
        scene.tick()
        asked += [m for m in scene.context.taken_for("snapshot_writer") if type(m) is ReadSnapshot]
    assert asked and set(asked) == {ReadSnapshot("n3", 100, 0, SNAPSHOT_PIECE_BYTES)}


def test_a_snapshot_that_is_gone_gives_way_to_the_newest_one() -> None:
    scene = leader_without_the_log_s_beginning()
    scene.say("snapshot_writer", saved(110, older=100))
    scene.taken()
    scene.say("snapshot_writer", SnapshotRead("n3", 0, 0, b"", 0))
    assert scene.context.taken_for("snapshot_writer") == [ReadSnapshot("n3", 110, 0, SNAPSHOT_PIECE_BYTES)]
    scene.say("snapshot_writer", SnapshotRead("n3", 100, 0, b"late", 1_000))
    assert scene.to_peers() == []


def test_a_newest_snapshot_that_is_gone_is_not_asked_for_in_a_storm() -> None:
    """Its file was found damaged by a new life of the snapshot_writer: eight answers must not be 64 questions."""
    scene = leader_without_the_log_s_beginning()
    scene.taken()
    for _ in range(8):
        scene.say("snapshot_writer", SnapshotRead("n3", 0, 0, b"", 0))
    assert scene.context.taken_for("snapshot_writer") == []


def test_the_log_is_compacted_behind_the_older_snapshot_once_followers_have_it() -> None:
    scene = Scene(settings=SHORT).lead()
    for number in range(20):
        scene.say("frontend", propose(number))
    scene.commit_all()
    for index, older in ((8, 0), (16, 8)):
        scene.say("snapshot_writer", SnapshotSaved("", index, 1, CONFIG, 1_000, older))
    assert scene.raft.log.base_index == 0, "n3 has answered nothing, and was there a moment ago"
    scene.peers_say(("n3", AppendReply(1, True, 21, 0, 0)))
    scene.taken()
    scene.say("snapshot_writer", SnapshotSaved("", 20, 1, CONFIG, 1_000, 16))
    assert scene.context.taken_for("log_writer") == [CompactLog(16)]
    assert scene.raft.log.base_index == 16


def test_a_lagging_follower_s_entries_are_read_if_they_are_there() -> None:
    scene = Scene(recovered=log(80, 120)._replace(tail=log(100, 120).tail), applied=100, snapshot=saved(100, older=90))
    scene.tick()
    while scene.raft.role is Role.FOLLOWER:
        scene.tick()
    for pre_vote in (True, False):
        scene.peers_say(("n2", VoteReply(5, True, pre_vote)))
        scene.sync()
    scene.taken()
    scene.peers_say(("n3", AppendReply(5, False, 120, 0, 90)))
    reads = [message for message in scene.context.taken_for("log_writer") if type(message) is ReadLog]
    assert [(read.reader, read.first_index) for read in reads] == [("n3", 90)]


def test_a_snapshot_that_is_not_whole_any_more_stops_the_node() -> None:
    """The snapshot_writer began a new life, and found the newest one damaged: nothing may rest on it."""
    scene = Scene(recovered=log(80, 120), applied=100, snapshot=saved(100, older=90))
    scene.taken()
    scene.say("snapshot_writer", saved(100, older=90))
    assert scene.taken() == []
    with pytest.raises(NodeMustStop, match="first 100 entries was whole, and is not now; .* reaches to 60"):
        scene.say("snapshot_writer", NO_SNAPSHOT._replace(index=60))
