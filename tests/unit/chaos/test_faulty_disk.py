"""A disk that is slow, full or failing, under the log that ships."""

from __future__ import annotations

import errno
from random import Random
from typing import Any

import pytest

from zraft.chaos.faults import Faults
from zraft.chaos.faulty_disk import LOOK_MS, FaultyDisk
from zraft.storage import Batch, DiskFull, RealDisk, SyncFailed, WriteAheadLog


class Scene:
    """A disk whose sleeps are noted, not slept. `during_sleep` is called in each."""

    def __init__(self) -> None:
        self.faults = Faults()
        self.slept_ms: list[float] = []
        self.during_sleep = lambda: None
        self.disk = FaultyDisk(RealDisk(), self.faults, Random(1), self.sleep)

    def sleep(self, seconds: float) -> None:
        self.slept_ms.append(1000 * seconds)
        self.during_sleep()

    def rule(self, **rule: Any) -> None:
        assert self.faults.set({"disk": rule}) == ""

    def open(self, directory: Any) -> WriteAheadLog:
        return WriteAheadLog.open(self.disk, str(directory), "n1", new_store_id=5, segment_bytes=64 * 1024)


def batch(index: int) -> Batch:
    return Batch(index, 1, 1, b"x" * 100)


def test_slow_each_write_and_sync_takes_its_time(tmp_path: Any) -> None:
    scene = Scene()
    handle = scene.disk.create(str(tmp_path / "f"))
    scene.rule(slow_ms=[50, 50])
    for operation in (
        lambda: scene.disk.write(handle, 0, [b"abc"]),
        lambda: scene.disk.sync(handle),
        lambda: scene.disk.sync_directory(str(tmp_path)),
    ):
        scene.slept_ms.clear()
        operation()
        assert scene.slept_ms == [20, 20, 10]
    scene.slept_ms.clear()
    assert scene.disk.read(handle, 0, 9) == b"abc" and scene.disk.size(handle) == 3
    assert scene.slept_ms == []
    scene.disk.close(handle)


def test_slow_is_drawn_from_a_span(tmp_path: Any) -> None:
    scene = Scene()
    handle = scene.disk.create(str(tmp_path / "f"))
    scene.rule(slow_ms=[5, 15])
    for _ in range(50):
        scene.disk.sync(handle)
    assert all(5 <= ms <= 15 for ms in scene.slept_ms) and len(set(scene.slept_ms)) == 50
    scene.disk.close(handle)


def test_another_rule_ends_the_waiting(tmp_path: Any) -> None:
    """Else a disk that was made to take a minute could not be healed for a minute."""
    scene = Scene()
    handle = scene.disk.create(str(tmp_path / "f"))
    scene.rule(slow_ms=[60_000, 60_000])
    scene.during_sleep = scene.rule
    scene.disk.sync(handle)
    assert scene.slept_ms == [LOOK_MS]
    scene.disk.close(handle)


def test_full_nothing_is_written_until_there_is_space(tmp_path: Any) -> None:
    scene = Scene()
    log = scene.open(tmp_path)
    log.append([batch(1)], None)
    scene.rule(full=True)
    with pytest.raises(DiskFull, match="by an injected fault"):
        log.append([batch(2)], None)
    log.prepare_ahead()
    scene.rule()
    log.append([batch(2)], None)
    log.close()
    assert scene.open(tmp_path).last_index == 2


def test_a_log_is_opened_on_a_full_disk(tmp_path: Any) -> None:
    """A new life of log_writer finds the disk as full as the one before did."""
    scene = Scene()
    log = scene.open(tmp_path)
    log.append([batch(1)], None)
    log.close()
    scene.rule(full=True)
    log = scene.open(tmp_path)
    assert log.last_index == 1
    log.close()


def test_a_failed_sync_ends_the_log_even_if_it_is_healed(tmp_path: Any) -> None:
    scene = Scene()
    log = scene.open(tmp_path)
    scene.rule(fail_sync=True)
    with pytest.raises(SyncFailed, match="by an injected fault"):
        log.append([batch(1)], None)
    scene.rule()
    with pytest.raises(SyncFailed):
        log.append([batch(1)], None)
    log.close()
    with pytest.raises(OSError, match="injected") as caught:
        scene.rule(fail_sync=True)
        scene.disk.sync_directory(str(tmp_path))
    assert caught.value.errno == errno.EIO
