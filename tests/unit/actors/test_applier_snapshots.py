"""applier and snapshots: when one is taken, what is in it, and whatever may come in between."""

from __future__ import annotations

import json

import pytest
from fake_bus import run_batch
from snapshot_scene import OK, REFUSED, Scene, command, entries, machine_after, restored

from zraft.actors import applier as module
from zraft.actors.applier import MAX_REQUESTS, SnapshotPolicy
from zraft.errors import ImpossibleState
from zraft.messages import (
    Apply,
    Entry,
    EntryKind,
    SnapshotFailed,
    SnapshotSaved,
    SnapshotWritten,
    TakeSnapshot,
)
from zraft.statemachine.codec import Op, pack_batch
from zraft.wire import pack_entries

# ---- when ----------------------------------------------------------------------------------------------------------


def test_the_policy_counts_entries_and_bytes_and_spares_large_states() -> None:
    policy = SnapshotPolicy(entries=100, bytes=5_000)
    assert not policy.is_due(99, 4_999, 0)
    assert policy.is_due(100, 10, 0)
    assert policy.is_due(1, 5_000, 0)
    assert not policy.is_due(100, 2_499, 5_000), "half as many bytes again as the last one has"
    assert policy.is_due(100, 2_500, 5_000)


def test_a_state_of_some_mib_that_changes_fast_is_not_written_all_the_time() -> None:
    mib = 1024 * 1024
    policy = SnapshotPolicy(entries=100)
    assert policy.is_due(100, mib // 2, mib), "a small one is cheap"
    assert not policy.is_due(100_000, 12 * mib - 1, mib + 1)
    assert policy.is_due(100, 12 * mib, mib + 1) and policy.is_due(100, 12 * mib, 24 * mib)
    assert not policy.is_due(100, 15 * mib - 1, 30 * mib)
    assert SnapshotPolicy(entries=100, bytes=2 * mib).is_due(1, 2 * mib, 3 * mib), "nobody waits for more than that"


def test_a_snapshot_is_taken_when_it_is_due_and_not_before() -> None:
    scene = Scene(SnapshotPolicy(entries=10)).begin()
    scene.say(entries(1, 9))
    assert scene.applier.status()["taking_snapshot"] is None
    scene.say(entries(10, 10))
    assert scene.applier.status()["taking_snapshot"] == 10
    scene.deliver()
    assert scene.applier.status()["taking_snapshot"] is None
    header, machine = restored(scene.files()[10])
    assert header == (10, 1, b"the members")
    assert machine.state_hash == machine_after(10).state_hash
    scene.say(entries(11, 19))
    assert scene.applier.taking is None, "ten more, and as many bytes as the last one has"


def batch(index: int, first: int, count: int) -> Apply:
    """A batch of `count` sets as entry `index`, in the session of `command`."""
    commands = [(int(Op.SET), b"key %06d" % number, b"v" * 1_000) for number in range(first, first + count)]
    entry = Entry(1, 100, EntryKind.COMMAND, pack_batch(2, first, first - 1, commands))
    return Apply(index, pack_entries([entry]), ())


def test_a_batch_counts_as_its_commands() -> None:
    scene = Scene(SnapshotPolicy(entries=100, keep=50)).begin()
    scene.say(entries(1, 2))
    scene.say(batch(3, 1, 60), batch(4, 61, 30))
    assert scene.applier.taking is None
    assert [message.spare for message in scene.say(batch(5, 91, 12))] == [2], (
        "of the last fifty commands before the snapshot entry 3 has some; consensus hears before it is saved"
    )
    assert scene.applier.taking is not None
    scene.deliver()
    assert list(scene.files()) == [5]
    scene.say(*[batch(6 + k, 103 + k, 1) for k in range(8)])
    scene.say(batch(14, 111, 60))
    assert scene.applier.taking is None, "as many bytes as half of the last one, but not as many commands"
    assert [message.spare for message in scene.say(batch(15, 171, 40))] == [13], (
        "entry 14 has the ten that are missing from fifty"
    )
    scene.deliver()
    assert list(scene.files()) == [5, 15]


def test_none_is_taken_before_the_members_are_known() -> None:
    scene = Scene(SnapshotPolicy(entries=1)).begin()
    scene.say(Apply(1, pack_entries([Entry(1, 0, EntryKind.NOOP, b"")]), ()))
    assert scene.applier.taking is None
    scene.say(Apply(2, pack_entries([command(1)]), ()))
    scene.deliver()
    assert list(scene.files()) == [2]


def test_what_is_applied_meanwhile_is_not_in_it() -> None:
    """Between any two slices more entries come, for keys before and behind the slice."""
    scene = Scene().begin()
    scene.say(entries(1, 2_000))
    scene.say(TakeSnapshot(9, 0), sender="frontend")
    assert scene.applier.taking is not None
    index = 2_001
    while scene.applier.taking is not None:
        run = [command(index + k, b"key %06d" % (3 + (index * 7 + 391 * k) % 2_600)) for k in range(40)]
        scene.say(Apply(index, pack_entries(run), ()))
        index += 40
        scene.to_writer()
        scene.to_applier(1)
        if scene.applier.wakeup_ms is not None:
            scene.wake()
    assert index > 2_400, "it took several slices"
    header, machine = restored(scene.files()[2_000])
    assert header == (2_000, 41, b"the members")
    assert machine.state_hash == machine_after(2_000).state_hash
    assert scene.applier.machine.last_applied == index - 1


def test_two_nodes_snapshots_of_one_index_are_equal_whatever_came_in_between() -> None:
    scene, other = Scene().begin(), Scene().begin()
    for each in (scene, other):
        each.say(entries(1, 600))
        each.say(TakeSnapshot(9, 0), sender="frontend")
    scene.deliver()
    scene.say(entries(601, 700))
    other.say(entries(601, 700))
    other.deliver()
    assert scene.files() == other.files() != {}


# ---- the window ----------------------------------------------------------------------------------------------------


def test_no_more_is_on_its_way_than_the_window_holds() -> None:
    scene = Scene().begin()
    scene.say(entries(1, 4_000))
    scene.say(TakeSnapshot(9, 0), sender="frontend")
    for _ in range(200):
        scene.wake()
    pieces = scene.context.taken_for("snapshot_writer")
    sent = sum(len(piece.data) for piece in pieces)
    assert module.WINDOW_BYTES <= sent < module.WINDOW_BYTES + 2 * module.PIECE_BYTES
    assert [piece.offset for piece in pieces] == [sum(len(p.data) for p in pieces[:k]) for k in range(len(pieces))]
    run_batch(scene.writer, ("applier", pieces[0]))
    scene.to_applier()
    scene.wake()
    scene.wake()
    scene.wake()
    assert len(scene.context.taken_for("snapshot_writer")) == 1, "a credit is one more piece"


def test_slices_leave_time_for_the_hot_path() -> None:
    scene = Scene().begin()
    scene.say(entries(1, 3_000))
    scene.say(TakeSnapshot(9, 0), sender="frontend")
    scene.wake()
    assert scene.applier.wakeup_ms == scene.clock.now_ms + module.SLICE_PAUSE_MS
    before = scene.applier.taking
    scene.say(entries(3_001, 3_001))
    assert scene.applier.taking is before
    assert scene.applier.wakeup_ms == scene.clock.now_ms + module.SLICE_PAUSE_MS, "a batch serializes nothing"


# ---- a snapshot_writer that fails or begins anew -------------------------------------------------------------------


@pytest.mark.parametrize("carried", [0, 1, 2, 5, 11])
def test_a_snapshot_writer_that_begins_anew_gets_another_snapshot(carried: int) -> None:
    scene = Scene(SnapshotPolicy(entries=1_500)).begin()
    scene.say(entries(1, 1_500))
    for _ in range(carried):
        scene.wake()
        scene.to_writer()
        scene.to_applier()
    scene.say(entries(1_501, 1_510))
    scene.writer_life()
    assert scene.applier.status()["taking_snapshot"] == 1_510, "due is due, whatever was tried before"
    scene.deliver()
    assert [*scene.files()] == [1_510]
    assert restored(scene.files()[1_510])[1].state_hash == machine_after(1_510).state_hash


def test_an_applier_that_begins_anew_can_take_the_same_snapshot_again() -> None:
    """The snapshot_writer has half of it, from the former life; its bytes are the same."""
    scene = Scene(SnapshotPolicy(entries=1_500)).begin()
    scene.say(entries(1, 1_500))
    for _ in range(6):
        scene.wake()
        scene.to_writer()
    assert scene.writer.unfinished["local"][:2] == (1_500, 31)
    scene.life()
    scene.begin()
    scene.say(entries(1, 1_500))
    scene.deliver()
    assert restored(scene.files()[1_500])[1].state_hash == machine_after(1_500).state_hash


def test_a_snapshot_that_its_writer_saved_and_died_before_it_said_so() -> None:
    """The next attempt is of the same index, and its first piece is answered: it is there."""
    scene = Scene().begin()
    scene.say(entries(1, 1_500), TakeSnapshot(9, 0))
    while 1_500 not in scene.files():
        scene.wake()
        scene.to_writer()
        if 1_500 not in scene.files():
            scene.to_applier()
    scene.writer_life()
    assert scene.applier.status()["taking_snapshot"] == 1_500
    scene.deliver()
    assert [(token, json.loads(body)["index"]) for token, _, body in scene.replies()] == [(9, 1_500)]
    scene.say(entries(1_501, 1_501), TakeSnapshot(10, 0))
    scene.deliver()
    assert sorted(scene.files()) == [1_500, 1_501]


def test_without_space_it_is_tried_again_somewhat_later_and_who_asked_is_told() -> None:
    scene = Scene(SnapshotPolicy(entries=100)).begin()
    scene.say(TakeSnapshot(9, 50), sender="frontend")
    scene.say(entries(1, 100))
    scene.say(SnapshotFailed("", 100, "no space"), sender="snapshot_writer")
    assert scene.replies() == [(9, REFUSED, b"no snapshot was taken: no space")]
    assert scene.applier.taking is None
    scene.say(SnapshotWritten("", 100, 0), sender="snapshot_writer")  # the answer to a piece behind the one that failed
    scene.say(entries(101, 109))
    assert scene.applier.taking is None
    scene.say(entries(110, 110))
    assert scene.applier.status()["taking_snapshot"] == 110


def test_a_failed_snapshot_of_a_large_state_need_not_wait_for_as_much_log_again() -> None:
    scene = Scene(SnapshotPolicy(entries=100)).begin()
    scene.say(entries(1, 100))
    scene.deliver()
    size = scene.applier.snapshot_bytes
    assert size > 90_000
    scene.say(entries(101, 210))
    assert scene.applier.status()["taking_snapshot"] == 210
    scene.say(SnapshotFailed("", 210, "no space"), sender="snapshot_writer")
    scene.say(entries(211, 220))
    assert scene.applier.status()["taking_snapshot"] == 220


def test_a_snapshot_that_is_not_accepted_is_a_bug_that_is_heard_of() -> None:
    scene = Scene().begin()
    scene.say(entries(1, 1_000))
    scene.say(TakeSnapshot(9, 0), sender="frontend")
    for _ in range(9):
        scene.wake()
        scene.to_writer()
    assert [type(message) for message in scene.to_applier(1)] == [SnapshotWritten]
    with pytest.raises(ImpossibleState, match="not accepted"):
        scene.say(SnapshotWritten("", 1_000, 0), sender="snapshot_writer")


def test_a_newer_one_from_the_leader_ends_the_one_that_is_taken_and_serves_who_asked() -> None:
    """Else the same would be begun again and again until the state is as far."""
    scene = Scene().begin()
    scene.say(entries(1, 500), TakeSnapshot(9, 100))
    assert scene.applier.taking is not None
    scene.say(SnapshotSaved("", 900, 3, b"the members", 12_345, 0), sender="snapshot_writer")
    assert scene.applier.taking is None
    assert [(token, status, json.loads(body)) for token, status, body in scene.replies()] == [
        (9, OK, {"index": 900, "bytes": 12_345})
    ]
    scene.say(entries(501, 501))
    assert scene.applier.taking is None


def test_late_news_of_an_older_one_ends_nothing_and_answers_nobody() -> None:
    """A snapshot_writer that finds a snapshot saved already says so for each piece of it that waits in its mailbox."""
    scene = Scene().begin()
    scene.say(entries(1, 500), TakeSnapshot(9, 498))
    assert scene.applier.taking is not None and scene.applier.taking.index == 500
    scene.say(SnapshotSaved("", 400, 3, b"the members", 12_345, 0), sender="snapshot_writer")
    assert scene.applier.taking is not None and scene.replies() == []
    scene.deliver()
    assert [(token, json.loads(body)["index"]) for token, _, body in scene.replies()] == [(9, 500)]


# ---- by hand -------------------------------------------------------------------------------------------------------


def test_a_request_is_answered_when_the_snapshot_is_durable() -> None:
    scene = Scene().begin()
    scene.say(entries(1, 300))
    scene.say(TakeSnapshot(9, 250), TakeSnapshot(10, 298), sender="frontend")
    assert scene.replies() == []
    scene.deliver()
    [size] = map(len, scene.files().values())
    replies = scene.replies()
    assert [(token, status) for token, status, _ in replies] == [(9, OK), (10, OK)]
    assert {body for _, _, body in replies} == {json.dumps({"index": 300, "bytes": size}).encode()}
    scene.say(TakeSnapshot(11, 0), sender="frontend")
    assert [token for token, _, _ in scene.replies()] == [11], "nothing was applied since: it is there"
    assert scene.applier.taking is None


def test_a_request_for_a_revision_to_come_waits_for_it() -> None:
    scene = Scene().begin()
    scene.say(entries(1, 300))
    scene.say(TakeSnapshot(9, 299), sender="frontend")
    scene.deliver()
    assert scene.replies() == [] and not scene.files()
    scene.say(entries(301, 301))  # entries 1 and 2 change no key: this is revision 299
    scene.deliver()
    assert [token for token, _, _ in scene.replies()] == [9]


def test_a_request_that_the_snapshot_under_way_is_too_old_for_gets_another() -> None:
    scene = Scene().begin()
    scene.say(entries(1, 300), TakeSnapshot(9, 0))
    scene.say(entries(301, 310), TakeSnapshot(10, 305))
    scene.deliver()
    assert [(token, json.loads(body)["index"]) for token, _, body in scene.replies()] == [(9, 300), (10, 310)]


def test_requests_for_what_never_comes_are_bounded() -> None:
    scene = Scene().begin()
    scene.say(*(TakeSnapshot(token, 1 << 60) for token in range(MAX_REQUESTS + 3)), sender="frontend")
    assert [(token, status) for token, status, _ in scene.replies()] == [(0, REFUSED), (1, REFUSED), (2, REFUSED)]
    assert len(scene.applier.requests) == MAX_REQUESTS


def test_a_new_frontend_asks_for_itself() -> None:
    scene = Scene().begin()
    scene.say(TakeSnapshot(9, 5), sender="frontend")
    scene.applier.on_neighbour_restarted("frontend")
    scene.say(entries(1, 10))
    assert scene.applier.taking is None
