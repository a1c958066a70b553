"""applier and snapshots: loading one at the beginning of a life, or in place of the present state."""

from __future__ import annotations

import json

import pytest
from fake_bus import run_batch
from memory_disk import MemoryDisk
from snapshot_scene import OK, VALUE, Scene, command, entries, machine_after, restored

from zraft.actors import applier as module
from zraft.errors import NodeMustStop
from zraft.messages import (
    Applied,
    Apply,
    Entry,
    EntryKind,
    ReadAt,
    ReadSnapshot,
    Recover,
    RestoreSnapshot,
    SnapshotRead,
    TakeSnapshot,
    WriteSnapshot,
)
from zraft.statemachine.codec import Op, Query, decode_result, encode_command, encode_query
from zraft.storage.snapshot_format import SnapshotEncoder, SnapshotHeader
from zraft.wire import pack_entries

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
