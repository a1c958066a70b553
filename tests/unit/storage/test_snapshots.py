"""The calls of the snapshot store one by one, on the real disk where that matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from zlib import crc32

import pytest
from faulty_disk import MemoryDisk
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshot_model import DIRECTORY, bytes_of, info_of, open_store, path_of, pieces_of, put, read_all

from zraft.errors import ImpossibleState, StorageError
from zraft.storage import (
    CorruptSnapshot,
    RealDisk,
    SnapshotEncoder,
    SnapshotHeader,
    SnapshotStore,
    SyncFailed,
    WriteAheadLog,
)
from zraft.storage.errors import UnsupportedVersion
from zraft.storage.snapshots import MAX_INDEX, SYNC_EVERY_BYTES, VERIFY_BYTES


def changed(disk: MemoryDisk, index: int, offset: int, data: bytes) -> MemoryDisk:
    """A copy of the disk with other bytes in one snapshot."""
    copy = disk.image().after_crash("kept")
    inode = copy.names[path_of(index)]
    inode.view[offset : offset + len(data)] = data
    inode.durable = bytes(inode.view)
    return copy


@pytest.fixture
def disk() -> MemoryDisk:
    """With the snapshots 10 and 20."""
    disk = MemoryDisk()
    store = open_store(disk)
    put(store, 10)
    put(store, 20)
    store.close()
    return disk


def test_first_start_makes_the_directory_and_finds_nothing(tmp_path: Path) -> None:
    store = SnapshotStore.open(RealDisk(), str(tmp_path / "deep" / "data"))
    assert (store.newest, store.older, store.damaged) == (None, None, [])
    assert store.read(0, 0, 100) == (b"", 0)
    assert store.read(5, 0, 100) == (b"", 0)
    store.close()


def test_snapshots_survive_closing_and_the_two_newest_are_kept(tmp_path: Path) -> None:
    store = SnapshotStore.open(RealDisk(), str(tmp_path))
    for index in (10, 20, 30):
        put(store, index)
    for _ in range(2):
        assert (store.newest, store.older) == (info_of(30), info_of(20))
        assert sorted(os.listdir(tmp_path)) == ["0000000000000020.snapshot", "0000000000000030.snapshot"]
        assert (tmp_path / "0000000000000030.snapshot").read_bytes() == bytes_of(30) == read_all(store, 0)
        assert read_all(store, 20) == bytes_of(20)
        assert read_all(store, 10) == b""
        store.close()
        store = SnapshotStore.open(RealDisk(), str(tmp_path))
    store.close()


def test_write_says_how_many_bytes_there_are(disk: MemoryDisk) -> None:
    store = open_store(disk)
    store.begin("received", 30)
    data = bytes_of(30)
    assert store.write("received", data[:100]) == 100
    assert store.write("received", b"") == 100
    assert store.write("received", data[100:]) == len(data)
    assert store.newest == info_of(20)
    assert store.finish("received") == info_of(30) == store.newest


def test_read_gives_pieces_and_the_size(disk: MemoryDisk) -> None:
    store = open_store(disk)
    data = bytes_of(20)
    assert store.read(0, 0, 50) == (data[:50], len(data))
    assert store.read(20, 40, 10**6) == (data[40:], len(data))
    assert store.read(20, len(data), 50) == (b"", len(data))
    assert store.read(11, 0, 50) == (b"", 0)


def test_a_taken_and_a_received_snapshot_do_not_meet(disk: MemoryDisk) -> None:
    store = open_store(disk)
    store.begin("local", 30)
    store.begin("received", 31)
    for one, other in zip(pieces_of(30), pieces_of(31), strict=True):
        store.write("local", one)
        store.write("received", other)
    store.finish("received")
    store.finish("local")
    assert (store.newest, store.older) == (info_of(31), info_of(30))


def test_begin_drops_what_was_unfinished_of_that_kind(disk: MemoryDisk) -> None:
    store = open_store(disk)
    store.begin("local", 30)
    store.write("local", bytes_of(30)[:700])
    put(store, 40)
    assert store.newest == info_of(40)
    assert read_all(store, 40) == bytes_of(40)
    store.close()
    assert not disk.handles


def test_same_index_is_replaced(disk: MemoryDisk) -> None:
    store = open_store(changed(disk, 20, 100, b"damage"))
    assert store.newest == info_of(10)
    put(store, 20, "received")
    assert (store.newest, store.older) == (info_of(20), info_of(10))
    assert read_all(store, 20, 50) == bytes_of(20)


def test_readers_of_a_replaced_snapshot_go_on_in_the_new_one(disk: MemoryDisk) -> None:
    store = open_store(disk)
    start, size = store.read(20, 0, 300)
    put(store, 20)
    assert not disk.handles, "the replaced file would keep its space"
    assert start + store.read(20, 300, size)[0] == bytes_of(20)
    store.close()
    assert not disk.handles


def test_one_older_than_both_kept_is_not_kept(disk: MemoryDisk) -> None:
    store = open_store(disk)
    put(store, 5, "received")
    assert (store.newest, store.older) == (info_of(20), info_of(10))
    put(store, 15, "received")
    assert (store.newest, store.older) == (info_of(20), info_of(15))
    assert sorted(disk.names) == [path_of(15), path_of(20)]


def test_every_damaged_byte_is_found_and_the_older_one_is_taken(disk: MemoryDisk) -> None:
    for offset in range(len(bytes_of(20))):
        flipped = bytes([bytes_of(20)[offset] ^ 1 << offset % 8])
        store = open_store(changed(disk, 20, offset, flipped))
        assert (store.newest, store.older) == (info_of(10), None)
        (line,) = store.damaged
        assert line.startswith(f"{path_of(20)}: snapshot corrupt at byte ")
        assert "\n" not in line
        assert store.read(20, 0, 10) == (b"", 0)


def test_every_torn_length_is_found(disk: MemoryDisk) -> None:
    for length in range(len(bytes_of(20))):
        copy = disk.image().after_crash("kept")
        del copy.names[path_of(20)].view[length:]
        store = open_store(copy)
        assert store.newest == info_of(10)
        assert store.damaged == [f"{path_of(20)}: snapshot stops after {length} bytes, before its end: it is not used"]
    assert open_store(changed(disk, 20, len(bytes_of(20)), b"\0")).newest == info_of(10)


def test_an_older_one_that_is_damaged_is_not_claimed(disk: MemoryDisk) -> None:
    store = open_store(changed(disk, 10, 90, b"damage"))
    assert (store.newest, store.damaged) == (info_of(20), [])
    assert store.read(10, 0, 10) == (b"", 0)
    assert store.older is None
    assert len(store.damaged) == 1
    put(store, 30)
    assert store.older == info_of(20)


def test_damaged_files_are_removed_behind_the_next_snapshot(disk: MemoryDisk) -> None:
    copy = changed(disk, 20, 90, b"damage")
    store = open_store(copy)
    put(store, 30)
    assert sorted(copy.names) == [path_of(10), path_of(30)]
    assert (store.newest, store.older) == (info_of(30), info_of(10))


def test_all_damaged_is_like_none(disk: MemoryDisk) -> None:
    store = open_store(changed(changed(disk, 20, 90, b"damage"), 10, 90, b"damage"))
    assert store.newest is None
    assert [line.split(":")[0] for line in store.damaged] == [path_of(20), path_of(10)]
    put(store, 5)
    assert store.newest == info_of(5)


def test_file_under_the_name_of_another_is_not_taken(disk: MemoryDisk) -> None:
    disk.rename(path_of(20), path_of(30))
    store = open_store(disk)
    assert store.newest == info_of(10)
    assert store.damaged == [f"{path_of(30)}: snapshot of index 20 under the name of 30: it is not used"]


def test_file_of_a_newer_version_is_refused_in_words(disk: MemoryDisk) -> None:
    """It is no damage: to fall back to the older one would throw away what the newer zraft took care to keep."""
    preamble = b"zraftsnp\x02\0\0\0"
    newer = preamble + crc32(preamble).to_bytes(4, "little")
    copy = changed(disk, 20, 0, newer)
    with pytest.raises(UnsupportedVersion, match=f"{path_of(20)}: snapshot of format version 2"):
        open_store(copy)
    assert not copy.handles


def test_other_names_are_left_alone(tmp_path: Path) -> None:
    names = ["meta", "0000000000000001.wal", "1.snapshot", "0000000000000001.snapshot.old"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    store = SnapshotStore.open(RealDisk(), str(tmp_path))
    for index in (10, 20, 30):
        put(store, index)
    store.close()
    kept = ["0000000000000020.snapshot", "0000000000000030.snapshot"]
    assert sorted(os.listdir(tmp_path)) == sorted(names + kept)


def test_unfinished_files_are_removed_at_the_start(tmp_path: Path) -> None:
    for kind in ("local", "received"):
        (tmp_path / f"snapshot.unfinished.{kind}").write_bytes(bytes_of(10))
    SnapshotStore.open(RealDisk(), str(tmp_path)).close()
    assert os.listdir(tmp_path) == []


def test_damage_on_the_way_costs_the_received_snapshot(disk: MemoryDisk) -> None:
    store = open_store(disk)
    data = bytearray(bytes_of(30))
    data[200] ^= 1
    store.begin("received", 30)
    with pytest.raises(CorruptSnapshot, match="corrupt at byte"):
        store.write("received", bytes(data))
    assert sorted(disk.names) == [path_of(10), path_of(20)]
    with pytest.raises(ImpossibleState, match="kind='received'"):
        store.write("received", b"")
    put(store, 30, "received")
    assert not disk.handles


def test_snapshot_of_another_index_than_announced_is_refused(disk: MemoryDisk) -> None:
    store = open_store(disk)
    store.begin("received", 31)
    with pytest.raises(CorruptSnapshot, match="index 30, not 31"):
        store.write("received", bytes_of(30))
    assert path_of(31) not in disk.names


@pytest.mark.parametrize("length", [0, 10, 200, len(bytes_of(30)) - 1])
def test_finish_of_a_part_is_refused(disk: MemoryDisk, length: int) -> None:
    store = open_store(disk)
    store.begin("received", 30)
    store.write("received", bytes_of(30)[:length])
    with pytest.raises(CorruptSnapshot, match=f"stops after {length} bytes"):
        store.finish("received")
    assert sorted(disk.names) == [path_of(10), path_of(20)]
    assert not disk.handles


def test_calls_that_no_owner_may_make(disk: MemoryDisk) -> None:
    store = open_store(disk)
    for index in (0, -1, MAX_INDEX + 1):
        with pytest.raises(ImpossibleState):
            store.begin("local", index)
    for call in (lambda: store.write("local", b""), lambda: store.finish("local")):
        with pytest.raises(ImpossibleState):
            call()
    store.close()
    store.close()
    with pytest.raises(SyncFailed, match="closed"):
        store.read(0, 0, 1)


def test_largest_index_has_a_name() -> None:
    disk = MemoryDisk()
    put(open_store(disk), MAX_INDEX)
    assert open_store(disk).newest == info_of(MAX_INDEX)


def test_reader_under_way_outlives_the_removal_of_its_snapshot(tmp_path: Path) -> None:
    store = SnapshotStore.open(RealDisk(), str(tmp_path))
    put(store, 10)
    data, size = store.read(0, 0, 100)
    for index in (20, 30, 40, 50):
        put(store, index)
        piece, still = store.read(10, len(data), 100)
        assert still == size
        data += piece
    assert not (tmp_path / "0000000000000010.snapshot").exists()
    assert data + store.read(10, len(data), size)[0] == bytes_of(10)
    store.close()


def test_removed_files_that_nobody_reads_any_more_give_their_space_back() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    put(store, 10)
    store.read(10, 0, 100)
    put(store, 20)
    put(store, 30)
    assert len(disk.handles) == 0, "nobody read 10 between 20 and 30"
    assert store.read(10, 100, 100) == (b"", 0)


def test_at_most_two_removed_files_are_kept_for_readers() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    for index in range(10, 100, 10):
        put(store, index)
        for reader in range(10, index + 10, 10):
            store.read(reader, 0, 10)
    served = [index for index in range(10, 100, 10) if store.read(index, 0, 10)[1]]
    assert served == [60, 70, 80, 90]
    assert len(disk.handles) == 4
    store.close()
    assert not disk.handles


def test_large_snapshots_are_synced_on_the_way_and_verified_in_pieces() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    encoder = SnapshotEncoder(SnapshotHeader(7, 1, b""))
    store.begin("local", 7)
    store.write("local", encoder.begin())
    disk.operations.clear()
    for _ in range(11):
        store.write("local", encoder.add(bytes(1024 * 1024)))
    assert [operation.split()[0] for operation in disk.operations] == (["write"] * 4 + ["sync"]) * 2 + ["write"] * 3
    assert SYNC_EVERY_BYTES == 4 * 1024 * 1024
    store.write("local", encoder.finish())
    size = store.finish("local").size
    store.close()
    steps: list[tuple[int, int]] = []
    disk.operations.clear()
    SnapshotStore.open(disk, DIRECTORY, lambda done, total: steps.append((done, total)))
    assert steps == [(offset, size) for offset in range(0, size, VERIFY_BYTES)] + [(size, size)]
    assert disk.operations.count("read 0000000000000007.snapshot") == 12


def test_path_that_cannot_be_a_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        SnapshotStore.open(RealDisk(), str(tmp_path / "file" / "data"))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


SNAPSHOTS_UNTIL_KILLED = """
import itertools, sys
from zraft.storage import Batch, RealDisk, SnapshotEncoder, SnapshotHeader, SnapshotStore, WriteAheadLog
log = WriteAheadLog.open(RealDisk(), sys.argv[1], "n1", new_store_id=1, segment_bytes=20000)
store = SnapshotStore.open(RealDisk(), sys.argv[1])
for index in itertools.count(1):
    log.append([Batch(index, 1, 1, bytes(5000))], None)
    encoder = SnapshotEncoder(SnapshotHeader(index, 1, b""))
    store.begin("local", index)
    store.write("local", encoder.begin())
    for _ in range(20):
        store.write("local", encoder.add(bytes(5000)))
    store.write("local", encoder.finish())
    store.finish("local")
    print(index, flush=True)
    log.compact(index)
"""


def test_killed_process_leaves_its_last_snapshot_and_a_log_that_reaches_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SNAPSHOTS_UNTIL_KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(20)]
        child.kill()
        lines += child.stdout.read().splitlines(keepends=True)
    finished = max(int(line) for line in lines if line.endswith("\n"))
    log = WriteAheadLog.open(RealDisk(), str(tmp_path), "n1", new_store_id=2)
    store = SnapshotStore.open(RealDisk(), str(tmp_path))
    assert store.damaged == []
    assert store.newest is not None and store.older is not None
    assert store.newest.header.index in (finished, finished + 1)
    assert 1 < log.base[0] <= store.newest.header.index <= log.last_index
    log.close()
    store.close()


calls = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from(["local", "received"]), st.integers(1, 40)),
    st.tuples(st.just("write"), st.sampled_from(["local", "received"]), st.integers(1, 900)),
    st.tuples(st.just("finish"), st.sampled_from(["local", "received"]), st.just(0)),
    st.tuples(st.just("crash"), st.sampled_from(["lost", "kept", "torn-1", "torn-2"]), st.just(0)),
    st.tuples(st.just("read"), st.just(""), st.integers(0, 40)),
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(st.lists(calls, max_size=40))
def test_any_sequence_of_calls_keeps_the_two_newest(steps: list[tuple[str, str, int]]) -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    writing: dict[str, tuple[int, int]] = {}
    finished: set[int] = set()
    for call, what, number in steps:
        if call == "begin":
            store.begin(what, number)  # type: ignore[arg-type]
            writing[what] = (number, 0)
        elif call == "write" and what in writing:
            index, begin = writing[what]
            piece = bytes_of(index)[begin : begin + number]
            assert store.write(what, piece) == begin + len(piece)  # type: ignore[arg-type]
            writing[what] = (index, begin + len(piece))
        elif call == "finish" and what in writing:
            index, begin = writing.pop(what)
            store.write(what, bytes_of(index)[begin:])  # type: ignore[arg-type]
            assert store.finish(what) == info_of(index)  # type: ignore[arg-type]
            finished = set(sorted({*finished, index})[-2:])
        elif call == "crash":
            disk = disk.image().after_crash(what)
            store = open_store(disk)
            writing = {}
        elif call == "read":
            found = read_all(store, number)
            assert found in (b"", bytes_of(number or max(finished, default=1)))
            assert found or number not in finished
        expected = [info_of(index) for index in sorted(finished, reverse=True)]
        assert [info for info in (store.newest, store.older) if info is not None] == expected
        assert store.damaged == []
