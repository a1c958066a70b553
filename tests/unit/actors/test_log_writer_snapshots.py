"""log_writer and snapshots: the log that begins anew behind one, and the segments that go, one at a time."""

from __future__ import annotations

import pytest
from test_log_writer import BROKEN, FULL, Scene, append

from zraft.actors import log_writer as module
from zraft.actors.log_writer import RETRY_FULL_DISK_MS
from zraft.bus.actor import ActorKilled
from zraft.errors import StorageError
from zraft.messages import Append, Appended, CompactLog, DiskFull, LogRead, Outbound, ReadLog, Recover, Recovered

PAYLOAD = bytes(20_000)  # two of them fill a segment


def large(index: int, sequence: int = 0, replies: tuple[tuple[str, bytes], ...] = ()) -> Append:
    return Append(sequence or index, (), ((index, 1, 1, PAYLOAD, False),), replies, ())


def grown(last: int = 20) -> Scene:
    """Entries 1 to `last`, over many segments."""
    scene = Scene()
    for index in range(1, last + 1):
        scene.say(large(index))
    assert scene.log is not None
    return scene


def base(scene: Scene) -> int:
    assert scene.log is not None
    return scene.log.base[0]


# ---- a log that begins anew ----------------------------------------------------------------------------------------


def test_a_reset_comes_between_what_was_asked_before_and_after_it() -> None:
    scene = Scene()
    sent = scene.say(
        append(1, 1, count=3, hard_state=(2, "n2"), replies=(("n2", 0, b"1"),)),
        append(2, hard_state=(5, "n3"), reset=(100, 4), replies=(("n2", 0, b"2"),)),
        append(3, 101, term=5, count=2, replies=(("n2", 0, b"3"),)),
    )
    assert sent == [
        ("transport", Outbound((("n2", 0, b"1"),))),
        ("consensus", Appended(1)),
        ("transport", Outbound((("n2", 0, b"2"), ("n2", 0, b"3")))),
        ("consensus", Appended(3)),
    ]
    for life in (1, 2):
        if life == 2:
            scene.life(2)
        answer = scene.recover()
        assert (answer.base, answer.last_index, answer.term_runs) == ((100, 4), 102, ((101, 5),))
        assert (answer.term, answer.voted_for, answer.configs) == (5, "n3", ())
        assert answer.tail == ((101, 2, 5, b"entries 101 of term 5", False),)


def test_a_reset_with_entries_and_another_reset_behind_it() -> None:
    scene = Scene()
    sent = scene.say(append(1, 1), append(2, 101, term=4, reset=(100, 4)), append(3, reset=(200, 6)))
    assert [message for _, message in sent] == [Appended(1), Appended(2), Appended(3)]
    answer = scene.recover()
    assert (answer.base, answer.last_index, answer.term_runs, answer.tail) == ((200, 6), 200, (), ())


def test_a_reset_waits_for_space_with_all_that_follows() -> None:
    scene = Scene()
    scene.say(append(1, 1, count=3))
    scene.fail(FULL)
    assert scene.say(append(2, reset=(100, 4)), append(3, 101, term=5)) == [("consensus", DiskFull(True))]
    assert scene.recover().base == (0, 0)
    scene.fail(None)
    assert scene.wake() == [("consensus", Appended(3)), ("consensus", DiskFull(False))]
    assert (scene.recover().base, scene.recover().last_index) == ((100, 4), 101)


def test_killed_in_a_reset_the_next_life_has_the_log_before_or_behind_it() -> None:
    found = set()
    for boundary in range(30):
        scene = Scene()
        scene.say(append(1, 1, count=3))
        scene.context.kill(boundary)
        try:
            scene.say(append(2, 101, term=5, reset=(100, 4)))
        except ActorKilled:
            pass
        else:
            break
        scene.life(2)
        answer = scene.recover()
        found.add((answer.base[0], answer.last_index))
    else:
        raise AssertionError("it never came through")
    assert found == {(0, 3), (100, 101)}


# ---- compaction ----------------------------------------------------------------------------------------------------


def test_an_idle_log_is_compacted_segment_by_segment_at_once() -> None:
    scene = grown()
    bases = [base(scene)]
    assert scene.say(CompactLog(15)) == []
    while scene.actor.wakeup_ms is not None:
        assert scene.actor.wakeup_ms == 0
        bases.append(base(scene))
        assert scene.wake() == []
    bases.append(base(scene))
    assert bases == sorted(bases) and len(set(bases)) > 4, bases
    assert 10 < bases[-1] <= 15
    answer = scene.recover()
    assert (answer.base, answer.last_index) == ((bases[-1], 1), 20)
    assert answer.term_runs == ((bases[-1] + 1, 1),)
    scene.life(2)
    assert scene.recover() == answer
    batches = tuple((index, 1, 1, PAYLOAD, False) for index in (17, 18))
    assert scene.say(ReadLog("n3", 17, 40_000)) == [("consensus", LogRead("n3", 17, batches))]


def test_under_load_a_segment_goes_only_when_the_replies_are_out() -> None:
    scene = grown()
    unlinked: list[int] = []

    def before(operation: str) -> None:
        if operation == "unlink":
            unlinked.append(len(scene.context.sent))

    scene.disk.before = before
    scene.actor.receive("consensus", CompactLog(15))
    for index in range(21, 24):
        unlinked.clear()
        sent = scene.say(large(index, replies=(("n2", 0, b"reply"),)))
        assert sent == [("transport", Outbound((("n2", 0, b"reply"),))), ("consensus", Appended(index))]
        assert unlinked == [] and scene.actor.wakeup_ms == 0, "not in the batch of these answers"
        scene.wake()
        assert len(unlinked) == 1, "one at a time"


def test_what_comes_while_compaction_goes_on_is_written_with_its_batch() -> None:
    """One alarm clock serves both, but only a full disk has writes wait."""
    scene = grown()
    scene.say(CompactLog(15))
    assert scene.actor.wakeup_ms == 0
    assert scene.say(large(21)) == [("consensus", Appended(21))]


def test_a_full_disk_is_compacted_at_once_and_tried_again_in_its_time() -> None:
    scene = grown()
    scene.fail(FULL, "write")
    assert scene.say(CompactLog(15), append(21, 21)) == [("consensus", DiskFull(True))]
    began_ms = scene.clock.now_ms
    before = base(scene)
    while scene.actor.wakeup_ms == 0:
        scene.actor.wakeup_ms = None
        scene.actor.on_wakeup(scene.clock.now_ms)
        scene.actor.end_batch()
        assert scene.context.taken() == []
    assert base(scene) > before
    assert scene.actor.wakeup_ms == began_ms + RETRY_FULL_DISK_MS
    scene.fail(None)
    assert scene.wake() == [("consensus", Appended(21)), ("consensus", DiskFull(False))]
    assert scene.actor.wakeup_ms is None


def test_a_new_consensus_is_not_robbed_of_the_log_that_it_was_told_of() -> None:
    """It would ask for entries that the compaction for its predecessor has removed meanwhile."""
    scene = grown()
    scene.say(CompactLog(15))
    scene.actor.on_neighbour_restarted("consensus")
    answer = scene.recover()
    for _ in range(9):
        scene.say()
    assert base(scene) == answer.base[0]
    assert scene.actor.wakeup_ms is None
    first = answer.base[0] + 1
    [(_, read)] = scene.say(ReadLog("n3", first, 1))
    assert read.batches[0][0] == first


def test_the_newest_wish_counts_and_an_old_one_takes_nothing_back() -> None:
    scene = grown()
    scene.say(CompactLog(15), CompactLog(8))
    while scene.actor.wakeup_ms is not None:
        scene.wake()
    assert base(scene) > 10
    assert scene.say(CompactLog(8)) == []
    assert base(scene) > 10 and scene.actor.wakeup_ms is None


def test_killed_while_it_compacts_the_next_life_has_a_log_without_a_gap() -> None:
    bases = set()
    for boundary in range(40):
        scene = grown()
        scene.context.kill(boundary)
        try:
            scene.say(CompactLog(15))
            while scene.actor.wakeup_ms is not None:
                scene.wake()
        except ActorKilled:
            scene.life(2)
        else:
            break
        answer = scene.recover()
        bases.add(answer.base[0])
        assert (answer.last_index, answer.base[0] <= 15) == (20, True)
        assert scene.say(append(1, 21)) == [("consensus", Appended(1))]
        for first in range(answer.base[0] + 1, 21):
            [(_, read)] = scene.say(ReadLog("n3", first, 1))
            assert read.batches[0][0] == first
    else:
        raise AssertionError("it never came through")
    assert len(bases) > 4


def test_a_segment_that_cannot_be_removed_stops_the_node() -> None:
    scene = grown()
    scene.fail(BROKEN, "unlink")
    with pytest.raises(StorageError):
        scene.say(CompactLog(15))


def test_members_in_the_middle_of_a_compacted_log_are_found() -> None:
    scene = grown(10)
    config = (11, 1, 1, b"members", True)
    scene.say(Append(11, (), (config,), (), ()), *(large(index) for index in range(12, 31)))
    assert scene.recover().configs == (config,)
    scene.say(CompactLog(10))
    while scene.actor.wakeup_ms is not None:
        scene.wake()
    scene.life(2)
    assert scene.recover().configs == (config,)
    scene.say(CompactLog(25))
    while scene.actor.wakeup_ms is not None:
        scene.wake()
    assert scene.recover().configs == (), "a snapshot knows them"


def test_the_tail_of_a_compacted_log_begins_behind_its_base(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TAIL_BYTES", 1 << 40)
    scene = grown()
    scene.say(CompactLog(19))
    while scene.actor.wakeup_ms is not None:
        scene.wake()
    [(_, answer)] = scene.say(Recover())
    assert type(answer) is Recovered
    assert answer.base[0] >= 18
    assert [batch[0] for batch in answer.tail] == list(range(answer.base[0] + 1, 21))
