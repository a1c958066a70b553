"""applier and snapshots: when one is taken, what is in it, loading one, and whatever may come in between.

The snapshot_writer is the real one, on a disk in memory; the test carries every message and chooses the order.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_bus import Clock, FakeContext, run_batch
from memory_disk import MemoryDisk

from zraft.actors import applier as module
from zraft.actors.applier import MAX_REQUESTS, Applier, SnapshotPolicy
from zraft.actors.snapshot_writer import SnapshotWriter
from zraft.errors import ImpossibleState, NodeMustStop
from zraft.messages import (
    Applied,
    Apply,
    Entry,
    EntryKind,
    ReadAt,
    ReadSnapshot,
    Recover,
    RestoreSnapshot,
    SnapshotFailed,
    SnapshotRead,
    SnapshotSaved,
    SnapshotWritten,
    TakeSnapshot,
    WriteSnapshot,
)
from zraft.statemachine.codec import Op, Query, decode_result, encode_command, encode_query
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.snapshot import Restoring
from zraft.storage import SnapshotStore
from zraft.storage.snapshot_format import SnapshotEncoder, SnapshotHeader, SnapshotParser
from zraft.wire import ReplyStatus, pack_entries

NEVER = SnapshotPolicy(entries=1_000_000, bytes=1 << 40)
VALUE = bytes(1_000)
OK, REFUSED = int(ReplyStatus.OK), int(ReplyStatus.REFUSED)


def command(index: int, key: bytes = b"", value: bytes = VALUE) -> Entry:
    """Entry 1 is the members, entry 2 opens session 2, whose commands are the others."""
    if index == 1:
        return Entry(1, 100, EntryKind.CONFIG, b"the members")
    if index == 2:
        return Entry(1, 100, EntryKind.COMMAND, encode_command(0, 0, 0, Op.OPEN_SESSION))
    set_key = encode_command(2, index - 2, index - 3, Op.SET, key or b"key %06d" % index, value)
    return Entry(1 + index // 50, 100 + index, EntryKind.COMMAND, set_key)


def entries(first: int, last: int, *tokens: tuple[int, int]) -> Apply:
    return Apply(first, pack_entries([command(index) for index in range(first, last + 1)]), tokens)


def machine_after(last: int) -> StateMachine:
    machine = StateMachine()
    for index in range(1, last + 1):
        _, time_ms, kind, data = command(index)
        if kind == EntryKind.COMMAND:
            machine.apply(index, time_ms, data)
        else:
            machine.skip(index, time_ms)
    return machine


class Scene:
    """`applier` and `writer` on one disk. `deliver` carries what waits; `life` and `writer_life` begin new lives."""

    def __init__(self, policy: SnapshotPolicy = NEVER, disk: MemoryDisk | None = None) -> None:
        self.clock = Clock()
        self.disk = disk or MemoryDisk()
        self.policy = policy
        self.lives = {"applier": 0, "snapshot_writer": 0}
        self.writer_life()
        self.life()

    def life(self) -> None:
        self.lives["applier"] += 1
        self.context = FakeContext("applier", self.lives["applier"], clock=self.clock)
        self.applier = Applier(self.context, self.policy)
        self.applier.on_start()
        self.writer_context.sent.clear()

    def writer_life(self) -> None:
        self.lives["snapshot_writer"] += 1
        self.writer_context = FakeContext("snapshot_writer", self.lives["snapshot_writer"], clock=self.clock)
        self.writer = SnapshotWriter(self.writer_context, lambda: SnapshotStore.open(self.disk, "/data"))
        self.writer.on_start()
        if self.lives["snapshot_writer"] > 1:
            self.context.taken_for("snapshot_writer")
            self.applier.on_neighbour_restarted("snapshot_writer")
            self.applier.end_batch()

    def say(self, *messages: Any, sender: str = "consensus") -> list[Any]:
        """Returns what consensus is sent."""
        run_batch(self.applier, *((sender, message) for message in messages))
        return self.context.taken_for("consensus")

    def wake(self) -> None:
        assert self.applier.wakeup_ms is not None
        self.clock.now_ms, self.applier.wakeup_ms = max(self.clock.now_ms, self.applier.wakeup_ms), None
        self.applier.on_wakeup(self.clock.now_ms)
        self.applier.end_batch()

    def to_writer(self) -> list[Any]:
        """What the applier has for it reaches the snapshot_writer. Returns it."""
        messages = self.context.taken_for("snapshot_writer")
        run_batch(self.writer, *(("applier", message) for message in messages))
        return messages

    def to_applier(self, most: int = 1_000) -> list[Any]:
        """The answers, `most` of them, reach the applier. Returns them."""
        messages = self.writer_context.taken_for("applier")
        self.writer_context.sent = [("applier", message) for message in messages[most:]]
        run_batch(self.applier, *(("snapshot_writer", message) for message in messages[:most]))
        return messages[:most]

    def deliver(self) -> None:
        """Until nobody has anything to do."""
        for _ in range(100_000):
            carried = self.to_writer() + self.to_applier()
            if self.applier.wakeup_ms is not None:
                self.wake()
            elif not carried:
                return
        raise AssertionError("they do not come to rest")

    def begin(self) -> Scene:
        """Loaded, and consensus knows where it stands."""
        self.deliver()
        self.say(Recover())
        return self

    def replies(self) -> list[tuple[int, int, bytes]]:
        return [reply for message in self.context.taken_for("frontend") for reply in message.replies]

    def files(self) -> dict[int, bytes]:
        return {int(name[-25:-9]): bytes(data) for name, data in self.disk.files.items() if name.endswith(".snapshot")}


def restored(data: bytes) -> tuple[Any, StateMachine]:
    """The header of a snapshot file and the state in it."""
    parser, restoring = SnapshotParser(), Restoring()
    for chunk in parser.feed(data):
        restoring.feed(chunk)
    assert parser.complete
    return parser.header, restoring.finish()


# ---- when ----------------------------------------------------------------------------------------------------------


def test_the_policy_counts_entries_and_bytes_and_spares_large_states() -> None:
    policy = SnapshotPolicy(entries=100, bytes=5_000)
    assert not policy.is_due(99, 4_999, 0)
    assert policy.is_due(100, 10, 0)
    assert policy.is_due(1, 5_000, 0)
    assert not policy.is_due(100, 2_499, 5_000), "half as many bytes again as the last one has"
    assert policy.is_due(100, 2_500, 5_000)


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


# ---- loading -------------------------------------------------------------------------------------------------------


def taken(last: int) -> MemoryDisk:
    """A disk with a snapshot of that many entries."""
    scene = Scene().begin()
    scene.say(entries(1, last), TakeSnapshot(9, 0))
    scene.deliver()
    return scene.disk


def test_a_life_begins_with_the_newest_snapshot() -> None:
    scene = Scene(disk=taken(1_500))
    scene.say(Recover())
    while scene.applier.loading is not None:
        assert not scene.context.taken_for("consensus"), "nothing is announced meanwhile"
        scene.to_writer()
        scene.to_applier()
    assert scene.context.taken_for("consensus") == [Applied(1_500, 1_600, 1)]
    assert scene.applier.machine.state_hash == machine_after(1_500).state_hash
    assert (scene.applier.term, scene.applier.config) == (31, b"the members")
    scene.say(entries(1_501, 1_501))
    assert scene.applier.machine.last_applied == 1_501


def test_its_own_next_snapshot_has_members_and_term_of_the_one_that_it_loaded() -> None:
    scene = Scene(disk=taken(20)).begin()
    scene.say(entries(21, 21), TakeSnapshot(9, 0))
    scene.deliver()
    assert sorted(scene.files()) == [20, 21]
    assert restored(scene.files()[21])[0] == (21, 1, b"the members")


def test_every_question_is_counted_in_the_answer() -> None:
    """Else consensus would take the answer to the first one for that to the second, and hand entries on twice."""
    scene = Scene(disk=taken(30))
    scene.say(Recover(), RestoreSnapshot(30))
    scene.deliver()
    assert scene.context.taken_for("consensus") == [Applied(30, 130, 2)]
    assert scene.say(RestoreSnapshot(30)) == [Applied(30, 130, 1)]
    scene.say(entries(31, 31))


def test_questions_of_an_older_consensus_do_not_count() -> None:
    scene = Scene(disk=taken(30))
    scene.say(Recover())
    scene.applier.on_neighbour_restarted("consensus")
    scene.say(Recover())
    scene.deliver()
    assert scene.context.taken_for("consensus") == [Applied(30, 130, 1)]


@pytest.mark.parametrize("carried", range(14))
def test_a_snapshot_writer_that_begins_anew_while_one_is_loaded(carried: int) -> None:
    scene = Scene(disk=taken(1_500))
    for _ in range(carried):
        scene.to_writer()
        scene.to_applier()
    scene.writer_life()
    scene.deliver()
    assert scene.applier.machine.state_hash == machine_after(1_500).state_hash


def test_a_snapshot_that_is_gone_in_the_middle_gives_way_to_the_newest() -> None:
    disk = taken(1_500)
    scene = Scene(disk=disk)
    scene.to_writer()
    scene.to_applier()
    assert scene.applier.loading is not None and scene.applier.loading.offset > 0
    newer = taken(1_600)
    disk.files = newer.files
    scene.writer_life()
    scene.deliver()
    assert scene.applier.machine.last_applied == 1_600
    assert not scene.applier.discarded


def test_reads_wait_until_it_is_loaded() -> None:
    scene = Scene(disk=taken(30))
    scene.say(Recover(), ReadAt(25, ((70, encode_query(Query.GET, b"key %06d" % 20)),)))
    assert scene.replies() == []
    scene.deliver()
    [(token, status, body)] = scene.replies()
    assert (token, status, decode_result(body)[1][1]) == (70, OK, VALUE)


# ---- the leader's snapshot replaces the state ----------------------------------------------------------------------


def behind(last: int, snapshot: int) -> Scene:
    """An applier at `last` on whose disk a snapshot from the leader has just been stored."""
    scene = Scene().begin()
    scene.say(entries(1, last))
    data = next(iter(data for name, data in taken(snapshot).files.items() if name.endswith(".snapshot")))
    for offset in range(0, len(data), 100_000):
        piece = bytes(data[offset : offset + 100_000])
        last_piece = offset + len(piece) == len(data)
        message = WriteSnapshot("n2", snapshot, command(snapshot).term, offset, piece, last_piece)
        run_batch(scene.writer, ("consensus", message))
    assert list(scene.files()) == [snapshot]
    scene.writer_context.taken()
    return scene


def test_restoring_replaces_the_state_and_frees_the_old_one_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DISCARD_KEYS", 100)
    scene = behind(1_000, 1_500)
    old = scene.applier.machine
    assert scene.say(RestoreSnapshot(1_500)) == []
    left = old.key_count
    while scene.applier.discarded:
        scene.wake()
        assert left - 101 <= old.key_count <= left, "a slice at a time"
        left = old.key_count
    assert left == 0
    scene.deliver()
    assert scene.context.taken_for("consensus") == [Applied(1_500, 1_600, 1)]
    assert scene.applier.machine.state_hash == machine_after(1_500).state_hash


def test_restoring_ends_a_snapshot_that_is_being_taken() -> None:
    scene = behind(1_000, 1_500)
    scene.say(TakeSnapshot(9, 998), sender="frontend")
    scene.wake()
    scene.to_writer()
    scene.say(RestoreSnapshot(1_500))
    assert scene.applier.taking is None
    scene.deliver()
    assert scene.applier.machine.last_applied == 1_500
    assert [(token, json.loads(body)["index"]) for token, _, body in scene.replies()] == [(9, 1_500)]
    assert list(scene.files()) == [1_500]


def test_a_state_that_is_as_far_is_kept() -> None:
    scene = behind(1_500, 1_500)
    machine = scene.applier.machine
    assert scene.say(RestoreSnapshot(1_500)) == [Applied(1_500, 1_600, 1)]
    assert scene.applier.machine is machine


def test_restoring_while_that_very_one_or_a_newer_one_is_loaded_goes_on_with_it() -> None:
    scene = Scene(disk=taken(1_500))
    scene.to_writer()
    scene.to_applier()
    loading = scene.applier.loading
    scene.say(Recover(), RestoreSnapshot(1_500))
    scene.say(RestoreSnapshot(1_400))
    assert scene.applier.loading is loading
    scene.deliver()
    assert scene.context.taken_for("consensus") == [Applied(1_500, 1_600, 3)]


def test_restoring_while_an_older_one_is_loaded_begins_with_the_newest() -> None:
    scene = Scene(disk=taken(1_000))
    scene.to_writer()
    scene.to_applier()
    data = next(data for name, data in taken(1_500).files.items() if name.endswith(".snapshot"))
    run_batch(scene.writer, ("consensus", WriteSnapshot("n2", 1_500, 31, 0, bytes(data), True)))
    restoring = scene.applier.loading.restoring if scene.applier.loading else None
    scene.say(RestoreSnapshot(1_500))
    assert scene.applier.discarded == [restoring], "what was loaded of it is freed in slices"
    scene.deliver()
    assert scene.applier.machine.last_applied == 1_500
    assert not scene.applier.discarded


def test_late_answers_for_another_snapshot_or_place_are_not_taken_in() -> None:
    scene = Scene(disk=taken(1_500))
    scene.to_writer()
    [first] = scene.writer_context.taken_for("applier")
    wrong = [SnapshotRead("", 1_500, 7, b"x", 10), SnapshotRead("", 1_500, 1 << 20, b"x", 10)]
    scene.say(*wrong, first, first, SnapshotRead("", 1_400, len(first.data), b"x", 10), sender="snapshot_writer")
    scene.deliver()
    assert scene.applier.machine.state_hash == machine_after(1_500).state_hash
    scene.say(first, sender="snapshot_writer")
    assert scene.applier.machine.last_applied == 1_500


def test_a_whole_snapshot_of_a_state_that_is_not_known_stops_the_node_in_words() -> None:
    """Another life of the applier would fail of it, too."""
    encoder = SnapshotEncoder(SnapshotHeader(9, 3, b"the members"))
    data = encoder.begin() + encoder.add(b"\x91\x63") + encoder.finish()
    scene = Scene()
    with pytest.raises(NodeMustStop, match="first 9 entries is whole, but no state that this version knows"):
        scene.say(SnapshotRead("", 9, 0, data, len(data)), sender="snapshot_writer")


def test_reads_ask_for_pieces_of_bounded_size() -> None:
    scene = Scene(disk=taken(1_500))
    [ask] = scene.context.taken_for("snapshot_writer")
    assert ask == ReadSnapshot("", 0, 0, module.PIECE_BYTES)


def test_large_reads_and_a_snapshot_take_turns() -> None:
    """One alarm clock serves them all."""
    scene = Scene().begin()
    big = encode_command(2, 1, 0, Op.SET, b"k", bytes(1_000_000))
    scene.say(entries(1, 2), Apply(3, pack_entries([Entry(1, 100, EntryKind.COMMAND, big)]), ()))
    scene.say(TakeSnapshot(99, 0), sender="frontend")
    scene.say(ReadAt(3, tuple((token, encode_query(Query.GET, b"k")) for token in range(12))))
    scene.deliver()
    assert sorted(token for token, _, _ in scene.replies()) == [*range(12), 99]
    assert list(scene.files()) == [3]
