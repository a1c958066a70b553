"""log_writer: one write a batch, replies only after it, the fence of Recover, full disks, failing disks."""

from __future__ import annotations

import errno
from functools import partial
from typing import Any

import pytest
from fake_bus import Clock, FakeContext, run_batch
from memory_disk import MemoryDisk

from zraft.actors import log_writer as module
from zraft.actors.log_writer import RETRY_FULL_DISK_MS, TAIL_ENTRIES, LogWriter
from zraft.bus.actor import ActorKilled
from zraft.bus.host import FATAL_ERRORS
from zraft.errors import StorageError
from zraft.messages import Append, Appended, DiskFull, LogRead, Outbound, ReadLog, Recover, Recovered, SaveClusterId
from zraft.storage import WriteAheadLog
from zraft.storage.boundary import BoundaryDisk


class Scene:
    """A log_writer on a disk in memory; `life` begins another one on the same disk."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.clock = Clock()
        self.log: WriteAheadLog | None = None
        self.life(1)

    def open(self) -> WriteAheadLog:
        if self.log is not None:
            self.log.close()
        disk = BoundaryDisk(self.disk, self.context.boundary)
        self.log = WriteAheadLog.open(disk, "/data", "n1", new_store_id=77, segment_bytes=64 * 1024)
        return self.log

    def life(self, incarnation: int) -> None:
        self.context = FakeContext("log_writer", incarnation, clock=self.clock)
        self.actor = LogWriter(self.context, self.open)
        self.actor.on_start()

    def say(self, *messages: Any) -> list[tuple[str, Any]]:
        run_batch(self.actor, *(("consensus", message) for message in messages))
        return self.context.taken()

    def wake(self) -> list[tuple[str, Any]]:
        assert self.actor.wakeup_ms is not None
        self.clock.now_ms, self.actor.wakeup_ms = self.actor.wakeup_ms, None
        self.actor.on_wakeup(self.clock.now_ms)
        self.actor.end_batch()
        return self.context.taken()

    def recover(self) -> Recovered:
        [(to, answer)] = self.say(Recover())
        assert to == "consensus"
        return answer  # type: ignore[no-any-return]

    def fail(self, error: OSError | None, operation: str = "write") -> None:
        def before(name: str) -> None:
            if error is not None and name == operation:
                raise error

        self.disk.before = before


def append(sequence: int, first: int = 0, term: int = 1, count: int = 1, **fields: Any) -> Append:
    """An Append of a batch at `first` (0: none)."""
    marked = fields.get("marked", False)
    batches = ((first, count, term, b"entries %d of term %d" % (first, term), marked),) if first else ()
    return Append(sequence, fields.get("hard_state", ()), batches, fields.get("replies", ()), fields.get("reset", ()))


FULL = OSError(errno.ENOSPC, "no space")
BROKEN = OSError(errno.EIO, "broken")


def test_a_fresh_store_says_so() -> None:
    assert Scene().recover() == Recovered(0, "", True, (0, 0), 0, (), (), (), 0, 77)


def test_what_was_appended_is_recovered() -> None:
    scene = Scene()
    scene.say(append(1, 1, hard_state=(3, "n2"), marked=True), append(2, 2, term=3, count=2))
    scene.life(2)
    answer = scene.recover()
    assert (answer.term, answer.voted_for, answer.fresh, answer.last_index) == (3, "n2", False, 3)
    assert answer.term_runs == ((1, 1), (2, 3))
    assert answer.configs == ((1, 1, 1, b"entries 1 of term 1", True),)
    assert answer.tail == ((1, 1, 1, b"entries 1 of term 1", True), (2, 2, 3, b"entries 2 of term 3", False))


def test_no_vote_is_an_empty_one() -> None:
    scene = Scene()
    scene.say(append(1, hard_state=(3, "")))
    answer = scene.recover()
    assert (answer.term, answer.voted_for, answer.fresh) == (3, "", False)


def test_a_batch_of_appends_is_one_write_and_one_answer() -> None:
    scene = Scene()
    syncs = scene.disk.syncs
    sent = scene.say(
        append(1, 1, replies=(("n2", 0, b"first"),)),
        append(2, 2, replies=(("n2", 0, b"second"), ("n3", 0, b"third"))),
        append(3, hard_state=(2, "n2")),
    )
    assert sent == [
        ("transport", Outbound((("n2", 0, b"first"), ("n2", 0, b"second"), ("n3", 0, b"third")))),
        ("consensus", Appended(3)),
    ]
    assert scene.disk.syncs == syncs + 1
    assert scene.actor.status() == {"log_writes": 1, "disk_full": False}


def test_very_much_is_written_in_order_by_several_writes_each_released_on_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WRITE_BYTES", 30)
    scene = Scene()
    sent = scene.say(*(append(number, number, replies=(("n2", 0, b"%d" % number),)) for number in range(1, 6)))
    assert sent == [
        ("transport", Outbound((("n2", 0, b"1"), ("n2", 0, b"2")))),
        ("consensus", Appended(2)),
        ("transport", Outbound((("n2", 0, b"3"), ("n2", 0, b"4")))),
        ("consensus", Appended(4)),
        ("transport", Outbound((("n2", 0, b"5"),))),
        ("consensus", Appended(5)),
    ]


def test_where_the_disk_fills_up_between_two_writes_the_rest_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WRITE_BYTES", 1)
    scene = Scene()
    scene.actor.receive("consensus", append(1, 1))
    scene.actor.receive("consensus", append(2, 2))

    def before(operation: str) -> None:
        if operation == "write" and b"entries 1" in b"".join(map(bytes, scene.disk.files.values())):
            raise FULL

    scene.disk.before = before
    assert scene.say() == [("consensus", Appended(1)), ("consensus", DiskFull(True))]
    scene.fail(None)
    assert scene.wake() == [("consensus", Appended(2)), ("consensus", DiskFull(False))]
    assert scene.recover().last_index == 2


def test_the_latest_hard_state_of_a_batch_is_written() -> None:
    scene = Scene()
    scene.say(append(1, hard_state=(2, "n2")), append(2, hard_state=(3, "")), append(3, 1, term=3))
    answer = scene.recover()
    assert (answer.term, answer.voted_for) == (3, "")


def test_replies_without_entries_wait_for_nothing_but_their_turn() -> None:
    scene = Scene()
    assert scene.say(append(1, replies=(("n2", 0, b"reply"),))) == [
        ("transport", Outbound((("n2", 0, b"reply"),))),
        ("consensus", Appended(1)),
    ]


def test_nothing_leaves_before_the_sync() -> None:
    """Killed at any boundary up to the sync's end, it has released no reply."""
    for boundary in range(1, 8):
        scene = Scene()
        scene.context.kill(boundary)
        syncs = scene.disk.syncs
        try:
            scene.say(append(1, 1, replies=(("n2", 0, b"vote"),)))
        except ActorKilled:
            pass
        else:
            return
        assert scene.disk.syncs > syncs or not scene.context.sent
    raise AssertionError("it never came through")


def test_an_overlapping_batch_replaces_the_rest() -> None:
    scene = Scene()
    scene.say(append(1, 1), append(2, 2), append(3, 3))
    scene.say(append(4, 2, term=2))
    answer = scene.recover()
    assert (answer.last_index, answer.term_runs) == (2, ((1, 1), (2, 2)))


def test_the_fence_discards_what_an_older_consensus_wanted() -> None:
    """DESIGN section 3: else a dead consensus's vote is answered after its successor has loaded the older term."""
    scene = Scene()
    scene.actor.receive("consensus", append(1, 1, hard_state=(9, "n3"), replies=(("n3", 0, b"vote of term 9"),)))
    scene.actor.on_neighbour_restarted("consensus")
    sent = scene.say(Recover())
    assert sent == [("consensus", Recovered(0, "", True, (0, 0), 0, (), (), (), 0, 77))]
    assert scene.say(append(1, 1, hard_state=(1, "n1"))) == [("consensus", Appended(1))]
    assert scene.recover().term == 1


def test_the_fence_holds_for_what_a_full_disk_kept_waiting() -> None:
    scene = Scene()
    scene.fail(FULL)
    assert scene.say(append(1, 1, replies=(("n3", 0, b"vote"),))) == [("consensus", DiskFull(True))]
    scene.actor.on_neighbour_restarted("consensus")
    scene.fail(None)
    assert scene.actor.wakeup_ms is None
    assert [type(message) for _, message in scene.say(Recover())] == [Recovered]
    assert scene.say(append(1, 1)) == [("consensus", Appended(1))]


def test_another_neighbour_s_new_life_discards_nothing() -> None:
    scene = Scene()
    scene.actor.receive("consensus", append(1, 1))
    scene.actor.on_neighbour_restarted("transport")
    assert scene.say() == [("consensus", Appended(1))]


def test_recover_keeps_what_this_consensus_has_asked_for() -> None:
    scene = Scene()
    sent = scene.say(Recover(), append(1, 1))
    assert [type(message) for _, message in sent] == [Recovered, Appended]


def test_a_full_disk_is_waited_out() -> None:
    scene = Scene()
    scene.fail(FULL)
    assert scene.say(append(1, 1, replies=(("n2", 0, b"reply"),))) == [("consensus", DiskFull(True))]
    assert scene.actor.wakeup_ms == scene.clock.now_ms + RETRY_FULL_DISK_MS
    assert scene.actor.status()["disk_full"]
    assert scene.say(append(2, 2)) == [], "not tried with each message"
    assert scene.wake() == [], "consensus is told once"
    scene.fail(None)
    assert scene.wake() == [
        ("transport", Outbound((("n2", 0, b"reply"),))),
        ("consensus", Appended(2)),
        ("consensus", DiskFull(False)),
    ]
    assert scene.actor.wakeup_ms is None
    assert scene.recover().last_index == 2


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_a_failing_disk_is_fatal_and_stays_so(operation: str) -> None:
    scene = Scene()
    scene.fail(BROKEN, operation)
    with pytest.raises(StorageError) as caught:
        scene.say(append(1, 1, replies=(("n2", 0, b"reply"),)))
    assert isinstance(caught.value, FATAL_ERRORS)
    assert scene.context.taken() == []
    scene.fail(None)
    with pytest.raises(StorageError):
        scene.actor.end_batch()


def test_killed_in_a_write_the_next_life_has_all_or_nothing_of_it() -> None:
    """Whatever it finds is synced, and the log goes on from there."""
    found = set()
    for boundary in range(30):
        scene = Scene()
        scene.say(append(1, 1))
        scene.context.kill(boundary)
        try:
            scene.say(append(2, 2, hard_state=(2, "n2")))
        except ActorKilled:
            pass
        else:
            break
        scene.life(2)
        last = scene.recover().last_index
        found.add(last)
        assert scene.say(append(1, last + 1)) == [("consensus", Appended(1))]
        assert scene.recover().last_index == last + 1
    else:
        raise AssertionError("it never came through")
    assert found == {1, 2}


def test_entries_are_read_for_whom_they_are_wanted() -> None:
    scene = Scene()
    scene.say(append(1, 1, count=3), append(2, 4))
    batches = ((1, 3, 1, b"entries 1 of term 1", False), (4, 1, 1, b"entries 4 of term 1", False))
    assert scene.say(ReadLog("n3", 2, 1000)) == [("consensus", LogRead("n3", 2, batches))]
    assert scene.say(ReadLog("", 4, 1)) == [("consensus", LogRead("", 4, batches[1:]))]
    assert scene.say(ReadLog("n3", 5, 1000)) == [("consensus", LogRead("n3", 5, ()))]


def test_what_is_read_in_a_batch_is_what_was_there_before_it() -> None:
    scene = Scene()
    sent = scene.say(append(1, 1), ReadLog("n3", 1, 1000))
    assert sent[0] == ("consensus", LogRead("n3", 1, ()))


def test_the_tail_ends_with_the_last_entry_however_long_the_log_is() -> None:
    scene = Scene()
    last = 3 * TAIL_ENTRIES
    scene.say(append(1, 1, count=last - 1, marked=True), append(2, last))
    answer = scene.recover()
    assert answer.tail[-1][0] + answer.tail[-1][1] - 1 == last
    assert [batch[0] for batch in answer.configs] == [1]


def test_the_tail_of_large_entries_is_bounded() -> None:
    scene = Scene()
    for index in range(1, 30):
        scene.actor.receive("consensus", Append(index, (), ((index, 1, 1, bytes(1_000_000), False),), (), ()))
    scene.say()
    answer = scene.recover()
    assert answer.tail[-1][0] == 29
    assert sum(len(batch[3]) for batch in answer.tail) <= 5_000_000


def test_the_cluster_s_id_is_kept() -> None:
    scene = Scene()
    scene.say(SaveClusterId(1234))
    scene.life(2)
    assert scene.recover().cluster_id == 1234


def test_without_space_the_cluster_s_id_is_kept_another_time() -> None:
    scene = Scene()
    scene.fail(FULL)
    assert scene.say(SaveClusterId(1234)) == []
    scene.fail(None)
    scene.say(SaveClusterId(1234))
    assert scene.recover().cluster_id == 1234


def test_stopping_gives_the_directory_free() -> None:
    scene = Scene()
    assert scene.disk.locks
    scene.actor.on_stop()
    assert not scene.disk.locks
    again = partial(WriteAheadLog.open, scene.disk, "/data", "n1", new_store_id=78, segment_bytes=64 * 1024)
    assert again().store_id == 77
