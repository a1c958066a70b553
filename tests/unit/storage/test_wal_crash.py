"""A crash behind every single disk operation: what `append` returned for is there, and nothing comes back."""

from __future__ import annotations

import pytest
from faulty_disk import CRASH_MODES, Killed, MemoryDisk
from wal_model import STEPS, STORE_ID, Contents, Moment, Script, contents_of, open_log, prefixes, run_steps

from zraft.storage import Batch, HardState, SyncFailed


@pytest.fixture(scope="module")
def moments() -> list[Moment]:
    found = run_steps(Script(MemoryDisk(), record=True)).moments
    assert len(found) > 80
    return found


def check_survivor(disk: MemoryDisk, contents: list[Contents], cluster_ids: set[int]) -> Contents:
    """Open after a crash: allowed contents; durable once opened; and it takes appends that survive the next crash."""
    log = open_log(disk)
    found = contents_of(log)
    assert found in contents
    assert log.cluster_id in cluster_ids
    assert log.store_id == STORE_ID
    assert contents_of(open_log(disk.image().after_crash("lost"))) == found
    batch = Batch(max(log.first_index, log.last_index), 2, 9, b"after")
    log.append([batch], HardState(9, "n9"))
    last = open_log(disk.image().after_crash("lost"))
    assert contents_of(last) == found.with_batch(batch).with_hard_state(HardState(9, "n9"))
    return found


@pytest.mark.parametrize("mode", CRASH_MODES)
def test_crash_at_every_disk_operation(moments: list[Moment], mode: str) -> None:
    for moment in moments:
        check_survivor(moment.image.after_crash(mode), moment.contents, moment.cluster_ids)


@pytest.mark.parametrize("mode", ["lost", "kept", "torn-1", "torn-2"])
def test_crash_at_every_disk_operation_of_the_recovery_from_a_crash(moments: list[Moment], mode: str) -> None:
    for moment in moments:
        disk = moment.image.after_crash("torn-3")
        images = []
        disk.after = lambda disk=disk, images=images: images.append(disk.image())  # type: ignore[misc]
        open_log(disk)
        for image in images:
            check_survivor(image.after_crash(mode), moment.contents, moment.cluster_ids)


def test_both_outcomes_of_a_crash_in_an_append_occur(moments: list[Moment]) -> None:
    """Guards the tests above: if the disk model never lost or never kept anything, they would prove nothing."""
    outcomes = set()
    for moment in moments:
        if len(moment.contents) > 2:
            for mode in CRASH_MODES:
                found = contents_of(open_log(moment.image.after_crash(mode)))
                outcomes.add((mode, moment.contents.index(found)))
    assert ("lost", 0) in outcomes
    assert ("kept", 3) in outcomes
    assert any(mode.startswith("torn") and position in (1, 2) for mode, position in outcomes)


def test_actor_killed_at_every_disk_operation_then_log_opened_again_on_the_same_disk() -> None:
    position = 0
    while True:
        disk = MemoryDisk()
        script = None
        step = -1
        with disk.failing(position, Killed()) as hit:
            try:
                script = Script(disk)
                for step in range(len(STEPS)):
                    STEPS[step](script)
            except Killed:
                pass
        if not hit:
            break
        allowed = [Contents()] if script is None else script.allowed
        if script is not None:
            with pytest.raises(SyncFailed):
                script.log.append([], HardState(9, None))
            script.log.close()
            script.log.close()
        assert not disk.handles, f"handles leak after a kill at {disk.operations[-1]}"
        check_survivor(disk, allowed, {0} if script is None else script.cluster_ids)
        position += 1
    assert position > 80


def test_an_overwritten_tail_never_comes_back() -> None:
    """The torn rest of an append must stay dead, even if its lost first record is written again (trap 21)."""
    disk = MemoryDisk()
    script = Script(disk)
    first, second = Batch(1, 1, 1, b"a" * 456), Batch(2, 1, 1, b"b" * 100)
    images = []
    disk.after = lambda: images.append(disk.image())
    script.append([first, second])
    written = images[0].after_crash("kept")
    path = next(name for name in written.names if name.endswith(".wal"))
    inode = written.names[path]
    assert bytes(inode.view[8192 + 512 : 8192 + 516]) == b"zRec"
    torn = bytearray(inode.durable)
    torn[8192 : 8192 + 512] = bytes(512)
    inode.durable = bytes(torn)
    inode.view = torn
    log = open_log(written)
    assert log.last_index == 0
    log.append([first], None)
    log = open_log(written.image().after_crash("kept"))
    assert contents_of(log) == Contents().with_batch(first)


def test_prefixes_of_an_append_are_what_the_crash_tests_allow() -> None:
    batch = Batch(1, 2, 1, b"p")
    states = prefixes(Contents(), [batch], HardState(1, None))
    assert states == [
        Contents(),
        Contents(HardState(1, None)),
        Contents(HardState(1, None), ((1, b"p", 0), (1, b"p", 1))),
    ]
