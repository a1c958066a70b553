"""Disk operations that fail: a full disk costs only the call, any other failure ends the log object (trap 20)."""

from __future__ import annotations

import errno
import os

import pytest
from faulty_disk import Inode, MemoryDisk
from wal_model import STEPS, Script, contents_of, open_log, payload

from zraft.errors import StorageError
from zraft.storage import Batch, DiskFull, HardState, SyncFailed

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


def fail_at(disk: MemoryDisk, operation: str, name: str, error: OSError) -> list[str]:
    """Every operation of that kind on files whose name ends with `name` fails from now on. Returns what was asked."""
    seen: list[str] = []

    def before(asked: str, path: str) -> None:
        seen.append(f"{asked} {os.path.basename(path)}")
        if asked == operation and path.endswith(name):
            raise error

    disk.before = before
    return seen


def heal(disk: MemoryDisk) -> None:
    disk.before = lambda operation, path: None


def test_io_error_at_every_disk_operation() -> None:
    """Whatever fails: every call after it raises without touching the disk, and nothing acknowledged is lost."""
    position = 0
    while True:
        disk = MemoryDisk()
        script = Script(disk)
        with disk.failing(position, BROKEN) as hit:
            try:
                for step in STEPS:
                    step(script)
            except StorageError as error:
                assert "Input/output error" in str(error)
                assert "\n" not in str(error)
        if not hit:
            break
        operations = len(disk.operations)
        for call in (
            lambda log: log.append([Batch(1, 1, 9, b"")], None),
            lambda log: log.append([], HardState(9, None)),
            lambda log: log.append([], None),
            lambda log: log.read(1, 100),
            lambda log: log.prepare_ahead(),
            lambda log: log.set_cluster_id(77),
        ):
            with pytest.raises(SyncFailed):
                call(script.log)
        assert len(disk.operations) == operations
        script.log.close()
        assert not disk.handles
        found = contents_of(open_log(disk.image().after_crash("lost")))
        assert found in script.allowed
        position += 1
    assert position > 60


def test_read_error_ends_the_log() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    script.append([Batch(1, 1, 1, b"x")])
    fail_at(disk, "read", ".wal", BROKEN)
    with pytest.raises(SyncFailed, match="reading /data failed"):
        script.log.read(1, 100)
    heal(disk)
    with pytest.raises(SyncFailed, match="reading /data failed"):
        script.log.append([], HardState(1, None))


def test_failed_sync_is_not_laundered_by_opening_the_log_again() -> None:
    """After a failed fsync the page cache shows what the disk does not have, and the next fsync says yes.

    The next start under the same kernel must announce only what it has made durable itself.
    """
    disk = MemoryDisk()
    script = Script(disk)
    script.append([Batch(1, 1, 1, payload(1, 700))])
    fail_at(disk, "sync", ".wal", BROKEN)
    with pytest.raises(SyncFailed):
        script.append([Batch(2, 1, 1, payload(2, 700)), Batch(3, 1, 1, payload(3, 700))])
    script.log.close()
    heal(disk)
    announced = contents_of(open_log(disk))
    assert len(announced.entries) == 3
    assert contents_of(open_log(disk.image().after_crash("lost"))) == announced


def test_failed_sync_is_not_retried() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    seen = fail_at(disk, "sync", ".wal", BROKEN)
    with pytest.raises(SyncFailed, match=r"syncing /data/0000000000000001\.wal failed"):
        script.append([Batch(1, 1, 1, b"")])
    with pytest.raises(SyncFailed):
        script.append([Batch(1, 1, 1, b"")])
    assert [operation for operation in seen if operation.startswith("sync")] == ["sync 0000000000000001.wal"]
    assert script.log.last_index == 0


def test_no_space_error_of_a_sync_is_fatal_too() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    fail_at(disk, "sync", ".wal", FULL)
    with pytest.raises(SyncFailed):
        script.append([Batch(1, 1, 1, b"")])


def test_full_disk_at_every_write_then_the_same_append_again() -> None:
    """Some bytes are written when ENOSPC comes. The call counts for nothing; later the same call succeeds."""
    position = 0
    full_disks = 0
    while True:
        disk = MemoryDisk()
        script = Script(disk)
        with disk.failing(position, FULL, only=["write", "create", "rename"]) as hit:
            for step in STEPS:
                try:
                    step(script)
                except DiskFull as error:
                    assert "free some space" in str(error)
                    if step is not Script.reopen:
                        assert contents_of(script.log) == script.contents
                    full_disks += 1
                    step(script)
                except StorageError:
                    break
            else:
                check_untouched(script)
        if not hit:
            break
        position += 1
    assert full_disks > 15


def check_untouched(script: Script) -> None:
    assert contents_of(script.log) == script.contents
    for mode in ("lost", "kept"):
        assert contents_of(open_log(script.disk.image().after_crash(mode))) == script.contents


def test_what_a_full_disk_left_behind_never_comes_back() -> None:
    """[a, b] hits a full disk with `a` and `b` written; [a] then succeeds. `b` must not be found behind it."""
    disk = MemoryDisk()
    script = Script(disk)
    first, second, third = Batch(1, 1, 1, b"a" * 100), Batch(2, 1, 1, b"b" * 100), Batch(3, 1, 1, b"c" * 300)
    fail_at(disk, "write", ".wal", FULL)
    with pytest.raises(DiskFull):
        script.log.append([first, second, third], None)
    heal(disk)
    script.append([first])
    assert contents_of(open_log(disk.image().after_crash("kept"))) == script.contents
    assert len(script.contents.entries) == 1


def test_what_a_full_disk_left_behind_a_sealed_segment_is_not_read() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    fail_at(disk, "write", ".wal", FULL)
    with pytest.raises(DiskFull):
        script.log.append([Batch(1, 1, 1, b"a" * 100), Batch(2, 1, 1, b"b" * 300)], None)
    heal(disk)
    script.append([Batch(1, 1, 2, b"c" * 5000)])
    assert sorted(name for name in disk.names if name.endswith(".wal"))[-1].endswith("2.wal")
    assert contents_of(open_log(disk.image().after_crash("kept"))) == script.contents


@pytest.mark.parametrize("operation", ["create", "write", "sync"])
def test_no_space_for_the_spare_fails_no_append_that_fits(operation: str) -> None:
    disk = MemoryDisk()
    script = Script(disk)
    fail_at(disk, operation, "spare", FULL)
    for index in range(1, 10):
        script.append([Batch(index, 1, 1, payload(index, 350))])
        script.log.prepare_ahead()
    with pytest.raises(DiskFull):
        script.append([Batch(10, 1, 1, payload(10, 1000))])
    script.append([Batch(10, 1, 1, b"small")])
    heal(disk)
    disk.operations.clear()
    script.append([Batch(11, 1, 1, payload(11, 1000))])
    assert ("create spare" in disk.operations) == (operation != "write"), "a file whose sync failed is used no more"
    assert contents_of(open_log(disk.image().after_crash("lost"))) == script.contents


def test_no_space_for_the_mark_fails_no_append() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    writes = 0

    def before(operation: str, path: str) -> None:
        nonlocal writes
        writes += operation == "write" and path.endswith(".wal")
        if operation == "write" and writes == 2:
            raise FULL

    disk.before = before
    script.append([Batch(1, 1, 1, b"x")])
    heal(disk)
    assert contents_of(open_log(disk.image().after_crash("kept"))) == script.contents


def test_no_space_for_the_cluster_id_can_be_tried_again() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    fail_at(disk, "write", "meta.unfinished", FULL)
    with pytest.raises(DiskFull):
        script.log.set_cluster_id(5)
    assert script.log.cluster_id == 0
    heal(disk)
    script.log.set_cluster_id(5)
    assert open_log(disk.image().after_crash("lost")).cluster_id == 5


def test_full_disk_at_first_start_then_space_again() -> None:
    disk = MemoryDisk()
    fail_at(disk, "write", "spare", FULL)
    with pytest.raises(DiskFull, match="free some space"):
        open_log(disk)
    assert not disk.handles
    heal(disk)
    assert open_log(disk).hard_state is None


def test_io_error_at_every_operation_of_a_start() -> None:
    disk = MemoryDisk()
    script = Script(disk)
    script.append([Batch(1, 1, 1, b"x" * 3000)], HardState(1, "n1"))
    script.append([Batch(2, 1, 1, b"x" * 3000)])
    script.log.close()
    position = 0
    while True:
        copy = disk.image().after_crash("kept")
        with copy.failing(position, BROKEN) as hit:
            try:
                open_log(copy)
            except StorageError as error:
                assert "Input/output error" in str(error)
        if not hit:
            break
        assert not copy.handles
        assert contents_of(open_log(copy)) == script.contents
        position += 1
    assert position > 10


def test_model_of_the_disk_loses_and_keeps() -> None:
    inode = Inode(b"old")
    inode.write(0, b"new")
    assert inode.durable == b"old"
    assert bytes(inode.view) == b"new"
