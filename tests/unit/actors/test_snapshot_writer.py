"""snapshot_writer: pieces become files, files become pieces; what is wrong, late or twice harms nothing."""

from __future__ import annotations

import errno
import struct
import zlib
from typing import Any

import pytest
from fake_bus import FakeContext, run_batch
from memory_disk import MemoryDisk

from zraft.actors.snapshot_writer import SnapshotWriter
from zraft.bus.actor import ActorKilled
from zraft.bus.host import FATAL_ERRORS
from zraft.errors import StorageError
from zraft.messages import (
    ReadSnapshot,
    Recover,
    SnapshotFailed,
    SnapshotRead,
    SnapshotSaved,
    SnapshotWritten,
    WriteSnapshot,
)
from zraft.storage import RealDisk, SnapshotStore
from zraft.storage.boundary import BoundaryDisk
from zraft.storage.snapshot_format import SnapshotEncoder, SnapshotHeader

PIECE = 100
FULL = OSError(errno.ENOSPC, "no space")


def snapshot(index: int, term: int = 3, size: int = 500) -> bytes:
    encoder = SnapshotEncoder(SnapshotHeader(index, term, b"members of %d" % index))
    parts = [encoder.begin(), *(encoder.add(b"%d" % index * (size // 10)) for _ in range(size // 100))]
    return b"".join([*parts, encoder.finish()])


def pieces(index: int, source: str = "n2", term: int = 3, data: bytes = b"") -> list[WriteSnapshot]:
    data = data or snapshot(index, term)
    offsets = range(0, len(data), PIECE)
    return [
        WriteSnapshot(source, index, term, offset, data[offset : offset + PIECE], offset + PIECE >= len(data))
        for offset in offsets
    ]


def saved(index: int, source: str = "n2", older: int = 0, term: int = 3) -> SnapshotSaved:
    return SnapshotSaved(source, index, term, b"members of %d" % index, len(snapshot(index, term)), older)


class Scene:
    """A snapshot_writer on a disk in memory; `life` begins another one on the same disk."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.store: SnapshotStore | None = None
        self.incarnation = 0
        self.life()

    def open(self) -> SnapshotStore:
        if self.store is not None:
            self.store.close()
        self.store = SnapshotStore.open(BoundaryDisk(self.disk, self.context.boundary), "/data")
        return self.store

    def life(self) -> None:
        self.incarnation += 1
        self.context = FakeContext("snapshot_writer", self.incarnation)
        self.actor = SnapshotWriter(self.context, self.open)
        self.actor.on_start()

    def say(self, *messages: Any, sender: str = "consensus") -> list[tuple[str, Any]]:
        run_batch(self.actor, *((sender, message) for message in messages))
        return self.context.taken()

    def newest(self) -> int:
        [(_, answer)] = self.say(Recover())
        return answer.index  # type: ignore[no-any-return]

    def fail(self, error: OSError | None, operation: str = "write") -> None:
        def before(name: str) -> None:
            if error is not None and name == operation:
                raise error

        self.disk.before = before


def test_where_there_is_none_it_says_so() -> None:
    scene = Scene()
    assert scene.say(Recover()) == [("consensus", SnapshotSaved("", 0, 0, b"", 0, 0))]
    assert scene.say(ReadSnapshot("n3", 0, 0, 100)) == [("consensus", SnapshotRead("n3", 0, 0, b"", 0))]
    assert scene.actor.status() == {"snapshot_bytes": 0, "snapshots_unfinished": {}}


def test_each_piece_is_answered_and_the_last_one_when_all_is_durable() -> None:
    scene = Scene()
    *first, last = pieces(10)
    for piece in first:
        end = piece.offset + len(piece.data)
        assert scene.say(piece) == [("consensus", SnapshotWritten("n2", 10, end))]
        assert scene.actor.status()["snapshots_unfinished"] == {"received": {"index": 10, "bytes": end}}
    assert scene.newest() == 0
    syncs = scene.disk.syncs
    assert scene.say(last) == [("consensus", saved(10))]
    assert scene.disk.syncs > syncs
    assert scene.actor.status() == {"snapshot_bytes": len(snapshot(10)), "snapshots_unfinished": {}}


def test_consensus_and_the_applier_hear_of_one_that_the_applier_took() -> None:
    sent = Scene().say(*pieces(10, ""), sender="applier")
    assert sent[-2:] == [("consensus", saved(10, "")), ("applier", saved(10, ""))]
    assert {to for to, _ in sent[:-2]} == {"applier"}


def test_the_older_one_is_named_and_the_one_before_it_is_gone() -> None:
    scene = Scene()
    for index, older in ((10, 0), (20, 10), (30, 20)):
        assert scene.say(*pieces(index))[-1] == ("consensus", saved(index, older=older))
    assert scene.say(Recover()) == [("consensus", saved(30, "", 20))]
    scene.life()
    assert scene.say(Recover()) == [("consensus", saved(30, "", 20))]
    assert sum(name.endswith(".snapshot") for name in scene.disk.files) == 2


def test_a_piece_that_comes_twice_is_taken_once() -> None:
    scene = Scene()
    sent = [scene.say(piece, piece)[-1] for piece in pieces(10)[:-1]]
    assert [message.offset for _, message in sent] == [piece.offset + PIECE for piece in pieces(10)[:-1]]
    assert scene.say(pieces(10)[-1])[-1] == ("consensus", saved(10))
    assert scene.say(pieces(10)[-1]) == [("consensus", saved(10))], "and so is the last one"
    assert scene.say(pieces(10)[0]) == [("consensus", saved(10))]


def test_pieces_out_of_order_are_told_where_to_go_on() -> None:
    scene = Scene()
    first, second, third, *rest = pieces(10)
    assert scene.say(second) == [("consensus", SnapshotWritten("n2", 10, 0))]
    assert scene.say(first, third) == [("consensus", SnapshotWritten("n2", 10, PIECE))] * 2
    assert scene.say(second, first, third, *rest)[-1] == ("consensus", saved(10))


def test_another_leader_goes_on_with_the_same_snapshot() -> None:
    scene = Scene()
    scene.say(*pieces(10, "n2")[:2])
    assert scene.say(*pieces(10, "n3")[2:])[-1] == ("consensus", saved(10, "n3"))


@pytest.mark.parametrize(("index", "term"), [(20, 3), (10, 4), (9, 3)])
def test_the_first_piece_of_another_one_drops_what_was_begun(index: int, term: int) -> None:
    scene = Scene()
    scene.say(*pieces(10)[:2])
    other = pieces(index, term=term)
    assert scene.say(other[1]) == [("consensus", SnapshotWritten("n2", index, 0))], "not its second"
    assert scene.say(pieces(10)[2]) == [("consensus", SnapshotWritten("n2", 10, 3 * PIECE))]
    assert scene.say(*other)[-1] == ("consensus", saved(index, term=term))


def test_taking_and_receiving_do_not_disturb_each_other() -> None:
    scene = Scene()
    ours, theirs = pieces(10, ""), pieces(12)
    for own, other in zip(ours[:-1], theirs[:-1], strict=True):
        assert scene.say(own, sender="applier") == [("applier", SnapshotWritten("", 10, own.offset + PIECE))]
        assert scene.say(other) == [("consensus", SnapshotWritten("n2", 12, other.offset + PIECE))]
    assert scene.say(theirs[-1]) == [("consensus", saved(12))]
    assert scene.say(ours[-1], sender="applier") == [("applier", saved(12, ""))], "no file that is not the newest"
    assert scene.newest() == 12


def test_one_that_is_not_newer_is_not_stored() -> None:
    scene = Scene()
    scene.say(*pieces(20))
    assert scene.say(*pieces(10)) == [("consensus", saved(20))] * len(pieces(10))
    assert scene.actor.unfinished == {}


@pytest.mark.parametrize("place", [0, 3, 40, 150, -1])
def test_a_damaged_one_is_begun_again(place: int) -> None:
    scene = Scene()
    data = bytearray(snapshot(10))
    data[place] ^= 0x40
    answers = [message for _, message in scene.say(*pieces(10, data=bytes(data)))]
    assert answers[-1] in (SnapshotWritten("n2", 10, 0), SnapshotFailed("n2", 10, getattr(answers[-1], "reason", "")))
    assert scene.newest() == 0 and scene.actor.unfinished == {}
    assert scene.say(*pieces(10))[-1] == ("consensus", saved(10))


def test_one_that_ends_early_or_is_another_than_announced_is_begun_again() -> None:
    for data in (snapshot(10)[:-5], snapshot(11)):
        scene = Scene()
        assert scene.say(*pieces(10, data=data))[-1] == ("consensus", SnapshotWritten("n2", 10, 0))
        assert scene.newest() == 0 and scene.actor.unfinished == {}


def test_one_of_another_version_of_zraft_stops_nobody() -> None:
    """A leader that was upgraded first sends what this node cannot read."""
    scene = Scene()
    preamble = snapshot(10)[:8] + struct.pack("<I", 99)
    data = preamble + struct.pack("<I", zlib.crc32(preamble)) + b"whatever that version says"
    [(to, failed)] = scene.say(pieces(10, data=data)[0])
    assert (to, type(failed), failed.index) == ("consensus", SnapshotFailed, 10)
    assert "version 99" in failed.reason
    assert scene.say(*pieces(10))[-1] == ("consensus", saved(10))


# ---- the disk ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename"])
def test_a_full_disk_costs_the_snapshot_and_nothing_else(operation: str) -> None:
    scene = Scene()
    scene.say(*pieces(5))
    scene.fail(FULL, operation)
    sent = [message for _, message in scene.say(*pieces(10))]
    [failed] = [message for message in sent if type(message) is SnapshotFailed][:1]
    assert (failed.source, failed.index) == ("n2", 10) and "no space" in failed.reason
    assert not any(type(message) is SnapshotSaved for message in sent)
    scene.fail(None)
    assert not any("unfinished" in name for name in scene.disk.files), "its bytes are free again"
    assert scene.newest() == 5
    assert scene.say(*pieces(10))[-1] == ("consensus", saved(10, older=5))


def test_a_full_disk_while_another_one_is_begun() -> None:
    scene = Scene()
    scene.say(*pieces(10)[:2])
    scene.fail(FULL, "create")
    assert type(scene.say(pieces(20)[0])[0][1]) is SnapshotFailed
    scene.fail(None)
    assert scene.say(pieces(10)[2]) == [("consensus", SnapshotWritten("n2", 10, 0))], "10 was dropped before that"
    assert scene.say(*pieces(20))[-1] == ("consensus", saved(20))


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_directory"])
def test_a_failing_disk_stops_the_node(operation: str) -> None:
    scene = Scene()
    scene.fail(OSError(errno.EIO, "broken"), operation)
    with pytest.raises(StorageError, match="check the disk") as caught:
        scene.say(*pieces(10))
    assert isinstance(caught.value, FATAL_ERRORS)
    assert not any(type(message) is SnapshotSaved for _, message in scene.context.taken())


def test_killed_at_any_boundary_the_next_life_has_all_or_nothing_of_it() -> None:
    """It takes the snapshot anew, and nobody was told of one that is not there."""
    found = set()
    for boundary in range(60):
        scene = Scene()
        scene.say(*pieces(5))
        scene.context.kill(boundary)
        try:
            scene.say(*pieces(10))
        except ActorKilled:
            pass
        else:
            break
        told = [message.index for _, message in scene.context.taken() if type(message) is SnapshotSaved]
        scene.life()
        newest = scene.newest()
        assert newest >= max(told, default=5)
        found.add(newest)
        assert scene.say(*pieces(10))[-1] == ("consensus", saved(10, older=5))
        assert not scene.actor.unfinished
    else:
        raise AssertionError("it never came through")
    assert found == {5, 10}


def test_killed_while_it_begins_it_begins_again() -> None:
    for boundary in range(10):
        scene = Scene()
        scene.say(*pieces(5))
        scene.say(*pieces(10)[:2])
        scene.context = FakeContext("snapshot_writer", 2)
        scene.context.kill(boundary)
        try:
            SnapshotWriter(scene.context, scene.open).on_start()
        except ActorKilled:
            scene.life()
            assert scene.newest() == 5
            assert not any("unfinished" in name for name in scene.disk.files)
            continue
        return
    raise AssertionError("it never came through")


def test_a_damaged_file_is_told_of_and_the_older_one_taken(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.say(*pieces(5), *pieces(10))
    [name] = [name for name in scene.disk.files if name.endswith("10.snapshot")]
    scene.disk.files[name][60] ^= 1
    scene.life()
    assert scene.newest() == 5
    assert name in caplog.text
    assert scene.say(*pieces(10))[-1] == ("consensus", saved(10, older=5))


# ---- reading -------------------------------------------------------------------------------------------------------


def test_reading_gives_the_bytes_to_whoever_asked() -> None:
    scene = Scene()
    scene.say(*pieces(5), *pieces(10))
    data = snapshot(10)
    size = len(data)
    assert scene.say(ReadSnapshot("n3", 10, 0, 100)) == [("consensus", SnapshotRead("n3", 10, 0, data[:100], size))]
    read = ReadSnapshot("77", 0, 100, size)
    assert scene.say(read, sender="frontend") == [("frontend", SnapshotRead("77", 10, 100, data[100:], size))]
    assert scene.say(ReadSnapshot("", 5, 0, 9), sender="applier") == [
        ("applier", SnapshotRead("", 5, 0, snapshot(5)[:9], len(snapshot(5))))
    ]
    assert scene.say(ReadSnapshot("n3", 7, 0, 9)) == [("consensus", SnapshotRead("n3", 0, 0, b"", 0))]


def test_who_reads_one_may_finish_though_newer_ones_came() -> None:
    scene = Scene()
    scene.say(*pieces(5))
    scene.say(ReadSnapshot("n3", 5, 0, 100))
    for place, index in enumerate((10, 20, 30), 1):
        scene.say(*pieces(index))
        [(_, answer)] = scene.say(ReadSnapshot("n3", 5, 100 * place, 100))
        assert answer.data == snapshot(5)[100 * place : 100 * place + 100]


def test_no_offset_that_a_client_can_think_of_stops_the_node(tmp_path: Any) -> None:
    context = FakeContext("snapshot_writer")
    actor = SnapshotWriter(context, lambda: SnapshotStore.open(RealDisk(), str(tmp_path)))
    actor.on_start()
    run_batch(actor, *(("consensus", piece) for piece in pieces(10)))
    context.taken()
    size = len(snapshot(10))
    for offset in (size, size + 1, 1 << 40, (1 << 63) - 1):
        run_batch(actor, ("frontend", ReadSnapshot("1", 10, offset, 256 * 1024)))
        assert context.taken() == [("frontend", SnapshotRead("1", 10, offset, b"", size))]
    run_batch(actor, ("frontend", ReadSnapshot("1", (1 << 63) - 1, 0, 9)))
    assert context.taken() == [("frontend", SnapshotRead("1", 0, 0, b"", 0))]
    actor.on_stop()


def test_stopping_lets_go_of_the_files() -> None:
    scene = Scene()
    scene.say(*pieces(5), *pieces(10)[:2], ReadSnapshot("n3", 5, 0, 9))
    assert scene.disk.handles
    scene.actor.on_stop()
    assert not scene.disk.handles
