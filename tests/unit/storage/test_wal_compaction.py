"""A log that ends at both ends: compaction, resets, marked batches, and what a start makes of the rest (trap 25)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from faulty_disk import CRASH_MODES, Killed, MemoryDisk
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_model import open_store, put
from test_wal_corruption import damaged
from wal_model import Contents, Script, contents_of, open_log, payload

from zraft.errors import ImpossibleState
from zraft.storage import Batch, CorruptLog, HardState, RealDisk, SyncFailed, UnsupportedVersion, WriteAheadLog
from zraft.storage import format as layout

BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


def segments(disk: MemoryDisk) -> list[int]:
    return sorted(int(name[-20:-4]) for name in disk.names if name.endswith(".wal"))


def found_later(script: Script) -> WriteAheadLog:
    """The log that a start finds after a crash which kept nothing that was not synced."""
    return open_log(script.disk.image().after_crash("lost"))


def filled(count: int = 8, size: int = 1200) -> Script:
    """Batches of 3 entries, three batches a segment, terms 1, 1, 2, 2, ..."""
    script = Script(MemoryDisk())
    for number in range(count):
        script.append([Batch(number * 3 + 1, 3, number // 2 + 1, payload(number, size))], HardState(number + 1, "n1"))
    return script


def test_segments_before_the_entry_are_removed_one_a_call_oldest_first() -> None:
    script = filled()
    assert segments(script.disk) == [1, 2, 3]
    script.disk.operations.clear()
    assert script.log.compact(22)
    assert script.disk.operations == ["unlink 0000000000000001.wal", "sync_directory data"]
    assert script.log.base == (10, 2)
    assert not script.log.compact(22)
    assert segments(script.disk) == [3]
    assert (script.log.base, script.log.last_index) == ((19, 4), 24)
    assert not script.log.compact(22)
    assert not script.log.compact(24)
    assert segments(script.disk) == [3]


def test_segment_that_holds_the_entry_stays() -> None:
    for through in range(25):
        script = filled()
        while script.log.compact(through):
            pass
        base = script.log.base[0]
        assert base == max([0, *(first for first in (10, 19) if first <= through)])
        assert segments(script.disk)[0] == (base + 8) // 9 + (base == 0)
        assert script.log.first_index == base + 1


def test_the_first_entry_left_is_the_base_and_not_offered() -> None:
    script = filled()
    before = contents_of(script.log)
    script.compact(22)
    for log in (script.log, found_later(script)):
        assert contents_of(log) == before.with_base(19)
        assert log.term_runs() == [(20, 4)]
        assert [batch.first_index for batch in log.read(20, 10**6)] == [19, 22]
        with pytest.raises(ImpossibleState, match="index=19, last=24, base=19"):
            log.read(19, 100)
        with pytest.raises(ImpossibleState, match="first=19"):
            log.append([Batch(19, 1, 9, b"")], None)


def test_log_can_end_with_its_base() -> None:
    script = filled(7)
    script.append([Batch(20, 1, 5, payload(1, 3500))])
    script.append([Batch(21, 1, 6, payload(1, 3500))])
    script.compact(21)
    for log in (script.log, found_later(script)):
        assert (log.base, log.last_index, log.first_index) == ((21, 6), 21, 22)
        assert log.term_runs() == []
        assert log.read(22, 100) == []
        assert not log.compact(21)
    script.append([Batch(22, 2, 6, b"x")])
    assert contents_of(found_later(script)) == script.contents


def test_compaction_past_the_end_is_a_programming_error() -> None:
    script = filled()
    for through in (25, -1):
        with pytest.raises(ImpossibleState, match=f"through={through}, last=24"):
            script.log.compact(through)
    assert segments(script.disk) == [1, 2, 3]


def test_tail_is_never_removed() -> None:
    """Not even if all that is valid lies in older segments... which then hold the base."""
    script = filled(3)
    script.append([Batch(10, 1, 3, payload(1, 3000))])
    script.append([Batch(2, 1, 4, b"")], HardState(9, None))
    script.log.compact(2)
    assert contents_of(found_later(script)) == contents_of(script.log)
    assert segments(script.disk)[-1] == 2


def test_a_batch_that_once_replaced_the_first_one_left_is_the_beginning() -> None:
    """The oldest segment left begins with a batch that was overwritten from further back: the base goes down."""
    script = filled(6)  # two segments: 1..9, 10..18
    script.append([Batch(19, 3, 3, payload(7, 1300))])
    assert segments(script.disk) == [1, 2, 3]
    script.append([Batch(5, 2, 7, payload(8, 100)), Batch(7, 3, 7, payload(9, 100))])
    assert script.log.base == (0, 0)
    script.compact(9)
    assert segments(script.disk) == [3]
    assert script.contents.base == (5, 7)
    for mode in ("lost", "kept"):
        log = open_log(script.disk.image().after_crash(mode))
        assert contents_of(log) == script.contents
        assert log.last_index == 9


def test_a_batch_that_replaced_the_first_one_left_at_its_own_index_is_the_base() -> None:
    script = filled(3)
    script.append([Batch(10, 3, 2, payload(1, 1300))])
    script.append([Batch(10, 2, 3, payload(2, 100))])
    script.compact(11)
    assert contents_of(found_later(script)) == script.contents
    assert script.contents.base == (10, 3)


def test_hard_state_and_cluster_outlive_the_segments_that_they_were_written_to() -> None:
    script = filled(3)
    script.set_cluster_id(77)
    for index in (10, 11, 12):
        script.append([Batch(index, 1, 2, payload(1, 3900))])
    script.compact(12)
    log = found_later(script)
    assert (log.hard_state, log.cluster_id) == (HardState(3, "n1"), 77)
    assert len(segments(script.disk)) == 1


def test_removed_segment_that_was_being_read_is_let_go() -> None:
    script = filled()
    assert script.log.read(1, 0)[0].first_index == 1
    script.compact(24)
    assert all(inode.path in script.disk.names for inode in script.disk.handles.values())
    assert [batch.first_index for batch in script.log.read(20, 10**6)] == [19, 22]


def test_compaction_on_a_real_disk(tmp_path: Path) -> None:
    log = WriteAheadLog.open(RealDisk(), str(tmp_path), "n1", new_store_id=1, segment_bytes=12_288)
    for index in range(1, 5):
        log.append([Batch(index, 1, 1, bytes(3000))], None)
    while log.compact(4):
        pass
    log.close()
    assert sorted(name for name in os.listdir(tmp_path) if name.endswith(".wal")) == ["0000000000000004.wal"]
    log = WriteAheadLog.open(RealDisk(), str(tmp_path), "n1", new_store_id=1)
    assert (log.base, log.last_index) == ((4, 1), 4)
    log.close()


def test_missing_segment_in_the_middle_is_refused() -> None:
    for missing in (2, 3):
        copy = filled(11).disk.image().after_crash("kept")
        copy.unlink(f"/data/{missing:016d}.wal")
        with pytest.raises(CorruptLog, match=rf"{missing}\.wal.*missing"):
            open_log(copy)


def test_log_without_any_entry_that_it_could_begin_with_is_refused() -> None:
    """No compaction leaves that: the removed segments held what the log was about."""
    script = filled(3)
    script.append([], HardState(9, "n" * 1000))
    script.append([], HardState(10, "n" * 1000))
    script.append([], HardState(11, "n" * 1000))
    script.append([], HardState(12, "n" * 1000))
    copy = script.disk.image().after_crash("kept")
    copy.unlink("/data/0000000000000001.wal")
    with pytest.raises(CorruptLog, match="no entry is left that the log begins with"):
        open_log(copy)
    assert not copy.handles


@pytest.mark.parametrize("error", [BROKEN, Killed()])
def test_error_or_kill_at_every_operation_of_a_compaction(error: BaseException) -> None:
    for position in range(4):
        script = filled()
        with script.disk.failing(position, error) as hit, pytest.raises((SyncFailed, Killed)):
            script.compact(24)
        assert hit
        with pytest.raises(SyncFailed):
            script.log.append([Batch(25, 1, 9, b"")], None)
        script.log.close()
        for mode in CRASH_MODES:
            assert contents_of(open_log(script.disk.image().after_crash(mode))) in script.allowed
        assert contents_of(open_log(script.disk)) in script.allowed


def test_reset_begins_behind_a_snapshot() -> None:
    script = filled()
    script.append([Batch(101, 2, 9, b"new")], HardState(9, None), (100, 8))
    for log in (script.log, found_later(script)):
        assert contents_of(log) == Contents(HardState(9, None), ((9, b"new", 0), (9, b"new", 1)), (100, 8))
        assert log.first_index == 101
        with pytest.raises(ImpossibleState):
            log.read(100, 100)
        with pytest.raises(ImpossibleState, match="first=100"):
            log.append([Batch(100, 1, 9, b"")], None)
    script.append([], None, (102, 9))
    assert found_later(script).last_index == 102


def test_reset_may_go_back_but_not_before_the_base() -> None:
    """A snapshot that conflicts with the log lies before its end; one before the base would be older than what is."""
    script = filled()
    script.append([], None, (20, 9))
    assert contents_of(found_later(script)) == Contents(HardState(8, "n1"), (), (20, 9))
    for index in (19, 0):
        with pytest.raises(ImpossibleState, match=f"index={index}, base=20"):
            script.log.append([], None, (index, 9))
    script.append([], None, (20, 9))


def test_all_segments_before_a_reset_can_go() -> None:
    script = filled()
    script.append([], None, (100, 8))
    script.compact(100)
    assert segments(script.disk) == [3]
    assert script.contents.base == (100, 8)
    assert contents_of(found_later(script)) == script.contents
    script.append([Batch(101, 1, 8, payload(1, 4000))])
    script.append([Batch(102, 1, 8, payload(1, 4000))])
    script.compact(100)
    assert script.contents.base == (100, 8), "its record is the base"
    script.compact(102)
    assert script.contents.base == (102, 8)
    assert contents_of(found_later(script)) == script.contents


def test_first_append_of_a_restored_node_is_a_reset() -> None:
    script = Script(MemoryDisk())
    script.append([], HardState(4, None), (50, 4))
    log = found_later(script)
    assert (log.base, log.last_index, log.hard_state) == ((50, 4), 50, HardState(4, None))


def test_marked_batches_are_found_again() -> None:
    script = filled()
    marked = [Batch(25, 2, 9, b"config 1", True), Batch(27, 1, 9, payload(1, 4000), True)]
    script.append([marked[0], Batch(27, 3, 9, b"old", True)])
    script.append([marked[1], Batch(28, 1, 9, b"no config")])
    for log in (script.log, found_later(script)):
        assert log.marked() == marked
        assert log.read(27, 10**6) == [marked[1], Batch(28, 1, 9, b"no config")]
    script.append([Batch(26, 1, 10, b"cut")])
    assert script.log.marked() == [marked[0]._replace(count=1)]


def test_marked_batch_that_is_the_base_alone_is_not_offered() -> None:
    for count in (1, 2):
        script = filled(3)
        script.append([Batch(10, count, 2, payload(1, 3000), True)])
        script.compact(10)
        for log in (script.log, found_later(script)):
            assert log.base == (10, 2)
            assert len(log.marked()) == count - 1


def test_damaged_marked_batch_is_refused() -> None:
    script = Script(MemoryDisk())
    script.append([Batch(1, 1, 1, b"config", True)])
    script.disk.names["/data/0000000000000001.wal"].view[8192 + 60] ^= 1
    with pytest.raises(CorruptLog, match="byte 8192"):
        script.log.marked()


def test_unknown_flags_are_refused_as_a_newer_version(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(MemoryDisk())
    tail = script.log._tail
    newer = layout.Encoder(tail.crc, tail.end, 0, tail.identity)
    monkeypatch.setattr(layout, "_MARKED", 2)
    newer.add_batch(Batch(1, 1, 1, b"", True))
    monkeypatch.undo()
    with pytest.raises(UnsupportedVersion, match="flags at byte 8192"):
        open_log(damaged(script.disk, tail.path, tail.end, b"".join(newer.parts)))


@pytest.mark.parametrize("kind", ["batch", "reset then batch"])
def test_sound_records_below_a_known_base_are_refused(kind: str) -> None:
    """Only where older segments are gone, and no reset says otherwise, may a batch begin below the base."""
    script = filled()
    script.compact(24)
    tail = script.log._tail
    wrong = layout.Encoder(tail.crc, tail.end, 0, tail.identity)
    if kind == "batch":
        wrong.add_batch(Batch(26, 1, 1, b""))
    else:
        wrong.add_reset(30, 5)
        wrong.add_batch(Batch(30, 1, 1, b""))
    with pytest.raises(CorruptLog, match="gap in the log"):
        open_log(damaged(script.disk, tail.path, tail.end, b"".join(wrong.parts)))


@pytest.mark.parametrize("mode", CRASH_MODES)
def test_crash_at_every_step_of_taking_and_installing_a_snapshot(mode: str) -> None:
    """Log and snapshots on one disk, in the order in which a node uses them (traps 19, 25).

    Whatever is found: the snapshot reaches at least to the log's base, and what was acknowledged is in one of them.
    """
    disk = MemoryDisk()
    moments = []
    promised = {"last": 0, "term": 0}
    disk.after = lambda: moments.append((disk.image(), dict(promised)))
    log, store = open_log(disk), open_store(disk)

    def append(batches: list[Batch], hard_state: HardState | None, reset: tuple[int, int] | None = None) -> None:
        log.append(batches, hard_state, reset)
        promised["last"] = log.last_index
        promised["term"] = log.hard_state.term if log.hard_state else 0

    for number in range(6):
        append([Batch(number * 3 + 1, 3, 1, payload(number, 1300))], HardState(1, "n1"))
    put(store, 12)
    while log.compact(12):
        pass
    append([Batch(19, 3, 2, payload(1, 3000))], HardState(2, "n2"))
    put(store, 20)
    while log.compact(20):
        pass
    put(store, 60, "received")
    append([Batch(61, 1, 4, b"")], HardState(4, None), (60, 4))
    while log.compact(60):
        pass
    append([Batch(62, 2, 4, payload(2, 3900))], None)
    put(store, 63)
    while log.compact(63):
        pass
    assert log.base == (62, 4)
    assert segments(disk)[0] > 2
    for image, before in moments:
        copy = image.after_crash(mode)
        log, store = open_log(copy), open_store(copy)
        covered = 0 if store.newest is None else store.newest.header.index
        assert store.damaged == []
        assert log.base[0] <= covered
        assert max(log.last_index, covered) >= before["last"]
        assert (log.hard_state.term if log.hard_state else 0) >= before["term"]


operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"),
            st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(0, 1500)), max_size=3),
            st.booleans(),
        ),
        st.tuples(st.just("reset"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("compact"), st.integers(0, 6), st.booleans()),
        st.tuples(st.just("crash"), st.sampled_from(["lost", "kept", "torn-1", "torn-2"]), st.booleans()),
    ),
    max_size=30,
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(operations)
def test_any_sequence_of_appends_resets_compactions_and_crashes(steps: list[tuple[str, object, bool]]) -> None:
    """`contents_of` compares marked batches, term runs and pages with one another on the way."""
    script = Script(MemoryDisk())
    for number, (kind, argument, flag) in enumerate(steps, start=1):
        base, last_index = script.log.base[0], script.log.last_index
        if kind == "append":
            assert isinstance(argument, list)
            batches = []
            for back, count, length in argument:
                first_index = max(base + 1, last_index + 1 - back)
                batches.append(Batch(first_index, count, number, payload(number, length), flag))
                last_index = first_index + count - 1
            script.append(batches, HardState(number, f"n{number}") if flag else None)
        elif kind == "reset":
            assert isinstance(argument, int)
            index = max(1, base, last_index - 3 + argument)
            script.append([Batch(index + 1, 2, number, b"behind")] if flag else [], None, (index, number))
        elif kind == "compact":
            assert isinstance(argument, int)
            script.compact(max(base, last_index - argument))
        else:
            assert isinstance(argument, str)
            script.disk = script.disk.image().after_crash(argument)
            script.log = open_log(script.disk)
        assert contents_of(script.log) == script.contents
