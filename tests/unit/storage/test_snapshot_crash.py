"""A crash, a kill or an error at every disk operation of taking and receiving snapshots (trap 19)."""

from __future__ import annotations

import errno
import os

import pytest
from faulty_disk import CRASH_MODES, Killed, MemoryDisk
from snapshot_model import STEPS, Moment, Script, bytes_of, info_of, open_store, path_of, put, read_all, run_steps

from zraft.errors import ImpossibleState, StorageError
from zraft.storage import DiskFull, SyncFailed, snapshots

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.fixture(autouse=True)
def many_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "SYNC_EVERY_BYTES", 1000)


@pytest.fixture
def moments(many_syncs: None) -> list[Moment]:
    found = run_steps(Script(MemoryDisk(), record=True)).moments
    assert len(found) > 80
    return found


def check_survivor(disk: MemoryDisk, allowed: set[int]) -> int:
    """Open after a crash: an allowed snapshot, whole; durable once opened; and the next one can be taken."""
    store = open_store(disk)
    assert store.damaged == []
    index = 0 if store.newest is None else store.newest.header.index
    assert index in allowed
    if index:
        assert store.newest == info_of(index)
        assert read_all(store, 0) == bytes_of(index)
    older = store.older
    assert older is None or read_all(store, older.header.index) == bytes_of(older.header.index)
    again = open_store(disk.image().after_crash("lost"))
    assert (again.newest, again.older) == (store.newest, older)
    put(store, 99)
    assert sorted(name for name in disk.names if "unfinished" in name) == []
    again = open_store(disk.image().after_crash("lost"))
    assert again.newest == info_of(99)
    assert again.older == (info_of(index) if index else None)
    return index


@pytest.mark.parametrize("mode", CRASH_MODES)
def test_crash_at_every_disk_operation(moments: list[Moment], mode: str) -> None:
    for moment in moments:
        check_survivor(moment.image.after_crash(mode), moment.newest)


@pytest.mark.parametrize("mode", ["lost", "kept", "torn-1"])
def test_crash_at_every_disk_operation_of_the_start_after_a_crash(moments: list[Moment], mode: str) -> None:
    for moment in moments:
        disk = moment.image.after_crash("torn-3")
        images = []
        disk.after = lambda disk=disk, images=images: images.append(disk.image())  # type: ignore[misc]
        open_store(disk)
        for image in images:
            check_survivor(image.after_crash(mode), moment.newest)


def test_both_outcomes_of_a_crash_in_finish_occur(moments: list[Moment]) -> None:
    """Guards the tests above: a disk that never lost or never kept anything would prove nothing."""
    outcomes = set()
    for moment in moments:
        if len(moment.newest) == 2:
            for mode in CRASH_MODES:
                found = open_store(moment.image.after_crash(mode)).newest
                index = 0 if found is None else found.header.index
                outcomes.add((mode[:4], index == max(moment.newest)))
    assert {("lost", False), ("kept", True), ("torn", False), ("torn", True)} <= outcomes


def test_actor_killed_at_every_disk_operation_then_opened_again_on_the_same_disk() -> None:
    position = 0
    while True:
        disk = MemoryDisk()
        script = None
        with disk.failing(position, Killed()) as hit:
            try:
                script = Script(disk)
                for step in STEPS:
                    step(script)
            except Killed:
                pass
        if not hit:
            break
        if script is not None:
            with pytest.raises(SyncFailed):
                script.store.begin("local", 98)
            script.store.close()
            script.store.close()
        assert not disk.handles, f"handles leak after a kill at {disk.operations[-1]}"
        check_survivor(disk, {0} if script is None else script.allowed)
        position += 1
    assert position > 80


def test_io_error_at_every_disk_operation() -> None:
    """Whatever fails: every call after it raises without touching the disk, and no finished snapshot is lost."""
    position = 0
    while True:
        disk = MemoryDisk()
        script = None
        with disk.failing(position, BROKEN) as hit:
            try:
                script = Script(disk)
                for step in STEPS:
                    step(script)
            except StorageError as error:
                assert "Input/output error" in str(error)
                assert "/data" in str(error)
                assert "\n" not in str(error)
        if not hit:
            break
        if script is not None:
            operations = len(disk.operations)
            for call in (
                lambda store: store.begin("local", 98),
                lambda store: store.write("local", b""),
                lambda store: store.finish("received"),
                lambda store: store.read(0, 0, 1),
                lambda store: store.older,
            ):
                with pytest.raises(SyncFailed):
                    call(script.store)
            assert len(disk.operations) == operations
            script.store.close()
        assert not disk.handles
        allowed = {0} if script is None else script.allowed
        for mode in ("lost", "kept"):
            check_survivor(disk.image().after_crash(mode), allowed)
        position += 1
    assert position > 80


def test_full_disk_at_every_operation_costs_only_the_unfinished_snapshot() -> None:
    """Space is needed up to the rename. The unfinished file is removed, and the next attempt succeeds."""
    position = 0
    while True:
        disk = MemoryDisk()
        store = open_store(disk)
        put(store, 10)
        error = None
        with disk.failing(position, FULL, only=["create", "write", "sync", "rename"]) as hit:
            try:
                put(store, 20)
            except DiskFull as caught:
                error = caught
        if not hit:
            break
        assert error is not None and "free some space" in str(error)
        assert sorted(disk.names) == [path_of(10)]
        with pytest.raises(ImpossibleState):
            store.write("local", b"")
        assert store.newest == info_of(10)
        put(store, 20)
        assert open_store(disk.image().after_crash("lost")).newest == info_of(20)
        assert not disk.handles
        position += 1
    assert position == 8


def test_full_disk_when_the_rename_is_made_durable_is_fatal() -> None:
    """It has its name already: whether that survives is unknown."""
    disk = MemoryDisk()
    script = Script(disk)
    with disk.failing(0, FULL, only=["sync_directory"]), pytest.raises(SyncFailed):
        put(script.store, 20)


def test_failed_sync_is_not_retried_and_never_trusted() -> None:
    """The page cache shows what the disk does not have, and the next fsync says yes (trap 20)."""
    disk = MemoryDisk()
    script = Script(disk)
    put(script.store, 10)
    for position in range(2):
        copy = disk.image().after_crash("kept")
        store = open_store(copy)
        with copy.failing(position, BROKEN, only=["sync"]) as hit, pytest.raises(SyncFailed):
            put(store, 20)
        assert hit
        store.close()
        assert open_store(copy).newest == info_of(10)


def test_the_new_name_is_durable_before_an_old_file_goes() -> None:
    disk = MemoryDisk()
    store = open_store(disk)
    put(store, 10)
    put(store, 20)
    disk.operations.clear()
    put(store, 30)
    renamed = disk.operations.index("rename 0000000000000030.snapshot")
    assert disk.operations[renamed - 1 :] == [
        "sync snapshot.unfinished.local",
        "rename 0000000000000030.snapshot",
        "sync_directory data",
        "unlink 0000000000000010.snapshot",
    ]
