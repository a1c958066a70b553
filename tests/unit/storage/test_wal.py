"""The log's calls one by one, on the real disk where that matters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty_disk import MemoryDisk
from hypothesis import given, settings
from hypothesis import strategies as st
from wal_model import Contents, Script, contents_of, open_log, payload

from zraft.errors import ImpossibleState, ZraftError
from zraft.storage import (
    MAX_PAYLOAD_BYTES,
    Batch,
    DirectoryInUse,
    HardState,
    RealDisk,
    StorageError,
    SyncFailed,
    WriteAheadLog,
    WrongCluster,
    WrongNode,
)


def open_real(directory: Path, node_id: str = "n1", segment_bytes: int = 64 * 1024) -> WriteAheadLog:
    return WriteAheadLog.open(RealDisk(), str(directory), node_id, new_store_id=99, segment_bytes=segment_bytes)


def test_fresh_store(tmp_path: Path) -> None:
    log = open_real(tmp_path / "deep" / "data")
    assert log.hard_state is None
    assert (log.first_index, log.last_index, log.cluster_id, log.store_id) == (1, 0, 0, 99)
    assert log.read(1, 1000) == []
    assert log.term_runs() == []
    log.close()


def test_contents_survive_closing(tmp_path: Path) -> None:
    log = open_real(tmp_path)
    log.set_cluster_id(2**64 - 1)
    batches = [Batch(1, 3, 2, b"three"), Batch(4, 1, 2**63, bytes(range(256)) * 500)]
    log.append(batches, HardState(2**63, "n\u00f6de"))
    log.append([], None)
    log.close()
    log = WriteAheadLog.open(RealDisk(), str(tmp_path), "n1", new_store_id=5)
    assert log.store_id == 99
    assert log.cluster_id == 2**64 - 1
    assert log.hard_state == HardState(2**63, "n\u00f6de")
    assert log.last_index == 4
    assert log.read(1, 10**6) == batches
    assert log.term_runs() == [(1, 2), (4, 2**63)]
    log.close()


def test_hard_state_without_a_vote_is_not_a_fresh_store(tmp_path: Path) -> None:
    log = open_real(tmp_path)
    log.append([], HardState(0, None))
    log.close()
    log = open_real(tmp_path)
    assert log.hard_state == HardState(0, None)
    log.close()


def test_read_begins_with_the_batch_that_holds_the_entry_and_keeps_to_max_bytes() -> None:
    log = open_log(MemoryDisk(), segment_bytes=10**5)
    batches = [Batch(1, 5, 1, b"a" * 100), Batch(6, 5, 1, b"b" * 100), Batch(11, 5, 1, b"c" * 100)]
    log.append(batches, None)
    assert log.read(5, 100) == batches[:1]
    assert log.read(5, 199) == batches[:1]
    assert log.read(5, 200) == batches[:2]
    assert log.read(6, 0) == batches[1:2]
    assert log.read(15, 10**6) == batches[2:]
    assert log.read(16, 10**6) == []
    with pytest.raises(ImpossibleState, match="index=0"):
        log.read(0, 100)


def test_overlapping_batches_replace_and_shorten() -> None:
    log = open_log(MemoryDisk(), segment_bytes=10**5)
    log.append([Batch(1, 5, 1, b"old-1"), Batch(6, 5, 1, b"old-2"), Batch(11, 5, 2, b"old-3")], None)
    log.append([Batch(8, 1, 3, b"new")], None)
    assert log.last_index == 8
    assert log.read(1, 100) == [Batch(1, 5, 1, b"old-1"), Batch(6, 2, 1, b"old-2"), Batch(8, 1, 3, b"new")]
    assert log.term_runs() == [(1, 1), (8, 3)]
    log.append([Batch(1, 1, 4, b"all")], None)
    assert log.read(1, 100) == [Batch(1, 1, 4, b"all")]
    assert log.term_runs() == [(1, 4)]


@pytest.mark.parametrize(
    "batch",
    [Batch(3, 1, 1, b""), Batch(0, 1, 1, b""), Batch(2, 0, 1, b""), Batch(2, 1, 1, bytes(MAX_PAYLOAD_BYTES + 1))],
)
def test_impossible_batches_are_refused_before_anything_is_written(batch: Batch) -> None:
    disk = MemoryDisk()
    log = open_log(disk)
    log.append([Batch(1, 1, 1, b"")], None)
    operations = len(disk.operations)
    with pytest.raises(ImpossibleState, match=r"\(.*=\d+"):
        log.append([batch], HardState(7, None))
    assert len(disk.operations) == operations
    log.append([Batch(2, 1, 1, b"")], None)
    assert log.hard_state is None


def test_an_append_is_one_write_one_sync_and_the_mark() -> None:
    disk = MemoryDisk()
    log = open_log(disk)
    disk.operations.clear()
    log.append([Batch(1, 2, 1, b"abc"), Batch(3, 2, 1, b"defg")], HardState(1, "n2"))
    assert [operation.split()[0] for operation in disk.operations if "wal" in operation] == ["write", "sync", "write"]


def test_call_larger_than_a_segment_gets_its_own(tmp_path: Path) -> None:
    log = open_real(tmp_path, segment_bytes=20_000)
    log.append([Batch(1, 1, 1, b"small")], None)
    log.append([Batch(2, 1, 1, bytes(MAX_PAYLOAD_BYTES))], None)
    log.append([Batch(3, 1, 1, b"small")], None)
    log.close()
    log = open_real(tmp_path, segment_bytes=20_000)
    assert [len(batch.payload) for batch in log.read(1, 10**8)] == [5, MAX_PAYLOAD_BYTES, 5]
    log.close()
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("*.wal"))
    assert sizes[0] == sizes[1] == 20_000 < MAX_PAYLOAD_BYTES < sizes[2] < MAX_PAYLOAD_BYTES + 10_000


def test_prepared_spare_makes_a_new_segment_without_writing_zeros() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    script.append([Batch(1, 1, 1, payload(1, 3000))])
    script.log.prepare_ahead()
    disk.operations.clear()
    script.append([Batch(2, 1, 1, payload(1, 3000))])
    assert disk.operations == [
        "write spare",
        "sync spare",
        "rename 0000000000000002.wal",
        "sync_directory data",
        "write 0000000000000002.wal",
        "sync 0000000000000002.wal",
        "write 0000000000000002.wal",
    ]


def test_spare_is_prepared_in_slices_at_the_pace_of_the_appends() -> None:
    disk = MemoryDisk()
    log = open_log(disk, segment_bytes=4 * 256 * 1024)
    disk.operations.clear()
    log.prepare_ahead()
    log.prepare_ahead()
    assert disk.operations == ["create spare", "write spare", "sync spare"]
    log.append([Batch(1, 1, 1, bytes(200 * 1024))], None)
    disk.operations.clear()
    log.prepare_ahead()
    log.prepare_ahead()
    log.prepare_ahead()
    assert disk.operations == ["write spare", "sync spare"]
    assert len(disk.names["/data/spare"].view) == 2 * 256 * 1024


def test_append_prepares_the_spare_where_nobody_else_does() -> None:
    disk = MemoryDisk()
    log = open_log(disk, segment_bytes=4 * 256 * 1024)
    for index in range(1, 9):
        log.append([Batch(index, 1, 1, bytes(100 * 1024))], None)
    assert len(disk.names["/data/spare"].view) >= 3 * 256 * 1024


def test_second_log_on_a_directory_is_refused_with_the_process_id(tmp_path: Path) -> None:
    log = open_real(tmp_path)
    with pytest.raises(DirectoryInUse, match=f"{tmp_path}: in use by process {os.getpid()}: "):
        open_real(tmp_path)
    log.close()
    open_real(tmp_path).close()


APPEND_UNTIL_KILLED = """
import itertools, sys
from zraft.storage import Batch, RealDisk, WriteAheadLog
log = WriteAheadLog.open(RealDisk(), sys.argv[1], "n1", new_store_id=1, segment_bytes=20000)
for index in itertools.count(1):
    log.append([Batch(index, 1, 1, b"%d" % index * 100)], None)
    print(index, flush=True)
"""


def test_killed_process_loses_the_lock_and_nothing_acknowledged(tmp_path: Path) -> None:
    command = [sys.executable, "-c", APPEND_UNTIL_KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(100)]
        with pytest.raises(DirectoryInUse, match=f"process {child.pid}"):
            open_real(tmp_path)
        child.kill()
        lines += child.stdout.read().splitlines(keepends=True)
    acknowledged = max(int(line) for line in lines if line.endswith("\n"))
    log = open_real(tmp_path)
    assert log.last_index in (acknowledged, acknowledged + 1)
    assert [batch.payload for batch in log.read(1, 10**9)] == [b"%d" % i * 100 for i in range(1, log.last_index + 1)]
    log.close()


def test_directory_of_another_node_is_refused_and_let_go(tmp_path: Path) -> None:
    open_real(tmp_path).close()
    with pytest.raises(WrongNode, match=r"belongs to node 'n1', not 'n2'"):
        open_real(tmp_path, "n2")
    open_real(tmp_path).close()


def test_cluster_id_is_set_once(tmp_path: Path) -> None:
    log = open_real(tmp_path)
    log.set_cluster_id(7)
    log.set_cluster_id(7)
    with pytest.raises(WrongCluster, match="cluster 7, not 8"):
        log.set_cluster_id(8)
    with pytest.raises(ImpossibleState):
        log.set_cluster_id(0)
    log.close()
    log = open_real(tmp_path)
    assert log.cluster_id == 7
    log.close()


def test_closed_log_takes_no_calls(tmp_path: Path) -> None:
    log = open_real(tmp_path)
    log.close()
    log.close()
    with pytest.raises(SyncFailed, match="closed"):
        log.append([], HardState(1, None))


def test_path_that_cannot_be_a_directory_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(StorageError) as caught:
            open_real(path)
        assert isinstance(caught.value, ZraftError)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_progress_is_reported_by_segment() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    for index in range(1, 4):
        script.append([Batch(index, 1, 1, bytes(3000))])
    script.log.close()
    steps: list[tuple[int, int]] = []
    WriteAheadLog.open(disk, "/data", "n1", new_store_id=1, on_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_payloads_are_not_kept_in_memory() -> None:
    """The index keeps places, not bytes: a log of large batches stays small in memory."""
    log = open_log(MemoryDisk(), segment_bytes=10**6)
    log.append([Batch(1, 1, 1, bytes(100_000))], None)
    assert not any(isinstance(value, bytes) for value in vars(log._index).values())


operations = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"),
            st.lists(st.tuples(st.integers(0, 6), st.integers(1, 4), st.integers(0, 1500)), max_size=3),
            st.booleans(),
        ),
        st.tuples(st.just("crash"), st.sampled_from(["lost", "kept", "torn-1", "torn-2"]), st.booleans()),
        st.tuples(st.just("prepare"), st.none(), st.booleans()),
    ),
    max_size=25,
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(operations)
def test_any_sequence_of_appends_and_crashes_keeps_what_was_acknowledged(steps: list[tuple[str, object, bool]]) -> None:
    disk = MemoryDisk()
    script = Script(disk)
    contents = Contents()
    for number, (kind, argument, flag) in enumerate(steps, start=1):
        if kind == "append":
            assert isinstance(argument, list)
            batches = []
            last_index = script.log.last_index
            for back, count, length in argument:
                first_index = max(1, last_index + 1 - back)
                batches.append(Batch(first_index, count, number, payload(number, length)))
                last_index = first_index + count - 1
            hard_state = HardState(number, f"n{number}") if flag else None
            script.log.append(batches, hard_state)
            if hard_state is not None:
                contents = contents.with_hard_state(hard_state)
            for batch in batches:
                contents = contents.with_batch(batch)
        elif kind == "crash":
            assert isinstance(argument, str)
            disk = disk.image().after_crash(argument)
            script.log = open_log(disk)
        else:
            script.log.prepare_ahead()
        assert contents_of(script.log) == contents
