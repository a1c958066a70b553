"""The model of a disk: durable is what a completed sync covers, and a crash can strike between issue and completion."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from zraft.sim.disk import SimDisk
from zraft.sim.scheduler import Scheduler

PATH = "/n1/0000000000000001.wal"


def make(seed: int = 0) -> tuple[Scheduler, SimDisk]:
    scheduler = Scheduler()
    return scheduler, SimDisk(scheduler, Random(seed), 1_000, Counter())


def wait(scheduler: Scheduler, disk: SimDisk) -> None:
    """Until what was asked for has completed."""
    scheduler.run_until(scheduler.now_us + disk.elapsed_us)
    disk.elapsed_us = 0


def stored(disk: SimDisk) -> bytes:
    handle = disk.open(PATH)
    data = disk.read(handle, 0, 10_000)
    disk.close(handle)
    return data


def durable_file(scheduler: Scheduler, disk: SimDisk) -> int:
    handle = disk.create(PATH)
    disk.write(handle, 0, [b"old"])
    disk.sync(handle)
    disk.sync_directory("/n1")
    wait(scheduler, disk)
    return handle


@pytest.mark.parametrize("seed", range(20))
def test_a_completed_sync_survives_a_power_failure(seed: int) -> None:
    scheduler, disk = make(seed)
    handle = durable_file(scheduler, disk)
    disk.write(handle, 0, [b"new"])
    disk.sync(handle)
    wait(scheduler, disk)
    disk.crash(power=True)
    assert stored(disk) == b"new"


def test_a_sync_that_had_not_completed_may_be_lost_or_kept() -> None:
    found = set()
    for seed in range(40):
        scheduler, disk = make(seed)
        handle = durable_file(scheduler, disk)
        disk.write(handle, 0, [b"new"])
        disk.sync(handle)
        scheduler.run_until(scheduler.now_us + disk.elapsed_us - 1)
        disk.crash(power=True)
        found.add(stored(disk))
    assert found == {b"old", b"new"}


def test_what_was_issued_after_the_crash_never_was() -> None:
    scheduler, disk = make()
    handle = durable_file(scheduler, disk)
    disk.elapsed_us = 500
    disk.write(handle, 0, [b"new"])
    scheduler.run_until(scheduler.now_us + 499)
    disk.crash(power=False)
    assert stored(disk) == b"old"


def test_the_end_of_a_process_keeps_the_page_cache_and_power_failure_after_it_may_not() -> None:
    found = set()
    for seed in range(40):
        scheduler, disk = make(seed)
        handle = durable_file(scheduler, disk)
        disk.write(handle, 0, [b"new"])
        wait(scheduler, disk)
        disk.crash(power=False)
        assert stored(disk) == b"new"
        disk.crash(power=True)
        found.add(stored(disk))
    assert found == {b"old", b"new"}


def test_a_name_is_lost_without_a_directory_sync() -> None:
    found = set()
    for seed in range(40):
        scheduler, disk = make(seed)
        handle = disk.create(PATH)
        disk.sync(handle)
        wait(scheduler, disk)
        disk.crash(power=True)
        found.update(disk.list_directory("/n1") or ["none"])
    assert found == {"none", "0000000000000001.wal"}


def test_sectors_of_one_write_are_torn_apart() -> None:
    torn = 0
    for seed in range(40):
        scheduler, disk = make(seed)
        handle = durable_file(scheduler, disk)
        disk.write(handle, 0, [b"x" * 2048])
        wait(scheduler, disk)
        disk.crash(power=True)
        sectors = {stored(disk)[start : start + 512] == b"x" * 512 for start in range(0, 2048, 512)}
        torn += len(sectors) == 2
    assert torn > 0


def test_a_failed_sync_makes_no_later_one_write_its_pages() -> None:
    """As on Linux (Rebello et al. 2020): the second sync says yes, and the bytes are not there."""
    found = set()
    for seed in range(40):
        scheduler, disk = make(seed)
        handle = durable_file(scheduler, disk)
        disk.write(handle, 0, [b"new"])
        disk.failing_syncs = 1
        with pytest.raises(OSError):
            disk.sync(handle)
        disk.sync(handle)
        wait(scheduler, disk)
        disk.crash(power=True)
        found.add(stored(disk))
    assert b"old" in found


def test_a_full_disk_refuses_and_leaves_some_of_it() -> None:
    scheduler, disk = make()
    handle = durable_file(scheduler, disk)
    disk.full_until_us = scheduler.now_us + 1_000_000
    disk.full_for_overwrites = True
    with pytest.raises(OSError):
        disk.write(handle, 0, [b"NEW"])
    assert stored(disk) == b"NEd"


def test_a_stalled_disk_answers_when_the_stall_ends() -> None:
    scheduler, disk = make()
    handle = durable_file(scheduler, disk)
    disk.stalled_until_us = scheduler.now_us + 5_000_000
    disk.sync(handle)
    assert disk.elapsed_us >= 5_000_000


def test_a_second_lock_is_refused_until_a_crash() -> None:
    _, disk = make()
    disk.lock("/n1/lock")
    with pytest.raises(BlockingIOError):
        disk.lock("/n1/lock")
    disk.crash(power=False)
    disk.lock("/n1/lock")


def test_a_flipped_bit_is_one_bit() -> None:
    scheduler, disk = make()
    durable_file(scheduler, disk)
    disk.crash(power=False)
    assert disk.flip_bit(".wal") or stored(disk) == b"old"
    flipped = int.from_bytes(stored(disk)[:3], "big") ^ int.from_bytes(b"old", "big")
    assert flipped.bit_count() <= 1
