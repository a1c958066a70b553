"""The log as consensus sees it, against a plain list."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.errors import ImpossibleState, NodeMustStop
from zraft.messages import Entry, EntryKind
from zraft.raft.log import ENTRY_OVERHEAD_BYTES, MARK_BYTES, MAX_APPLY_BYTES, RaftLog, first_run


def entry(term: int, data: bytes = b"x", time_ms: int = 0) -> Entry:
    return Entry(term, time_ms, EntryKind.COMMAND, data)


def log_of(*terms: int) -> RaftLog:
    log = RaftLog([], 0, [])
    log.append([entry(term) for term in terms])
    return log


def test_index_0_has_term_0_and_is_in_every_log() -> None:
    log = RaftLog([], 0, [])
    assert (log.last_index, log.last_term, log.term(0)) == (0, 0, 0)
    assert log.has(0, 0) and not log.has(1, 0)


def test_terms_and_runs() -> None:
    log = log_of(1, 1, 2, 2, 2, 5)
    assert [log.term(index) for index in range(7)] == [0, 1, 1, 2, 2, 2, 5]
    assert log.term_runs() == [(1, 1), (3, 2), (6, 5)]
    assert [log.first_index_of_run(index) for index in (1, 2, 3, 5, 6)] == [1, 1, 3, 3, 6]
    assert [log.last_index_of_term(term) for term in (0, 1, 2, 3, 4, 5, 9)] == [0, 2, 5, 5, 5, 6, 6]
    assert log.has(5, 2) and not log.has(5, 5) and not log.has(7, 5)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_outside_is_a_programming_error_with_numbers(index: int) -> None:
    with pytest.raises(ImpossibleState, match=f"index={index}, base=0, last_index=2"):
        log_of(1, 1).term(index)


def test_a_recovered_log_knows_all_terms_and_only_the_tails_entries() -> None:
    log = RaftLog([(1, 1), (3, 2)], 4, [entry(2, b"d", time_ms=9)])
    assert (log.tail_first, log.last_time_ms, log.durable_index, log.unsent_index) == (4, 9, 4, 5)
    assert log.term(1) == 1 and log.slice(4, 4)[0].data == b"d"
    with pytest.raises(ImpossibleState, match="not in memory"):
        log.slice(3, 4)
    with pytest.raises(ImpossibleState, match="without its last entry"):
        RaftLog([(1, 1)], 1, [])


def test_slices_are_bounded_in_bytes_but_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zraft.raft.log.MAX_RUN_BYTES", 2 * (ENTRY_OVERHEAD_BYTES + 50))
    log = RaftLog([], 0, [])
    log.append([entry(1, bytes(50)) for _ in range(5)] + [entry(1, bytes(5_000))])
    assert len(log.slice(1, 6)) == 2
    assert len(log.slice(6, 6)) == 1
    assert log.slice(4, 3) == ()


def test_the_same_slice_is_the_same_object_until_the_log_changes_there() -> None:
    log = log_of(1, 1, 1)
    assert log.slice(2, 3) is log.slice(2, 3)
    log.truncate(3)
    log.append([entry(2)])
    assert [found.term for found in log.slice(2, 3)] == [1, 2]


def test_a_truncation_outside_is_a_programming_error() -> None:
    for first in (0, 3):
        with pytest.raises(ImpossibleState, match="truncation"):
            log_of(1, 1).truncate(first)


def test_the_logs_clock_is_not_turned_back_by_a_truncation() -> None:
    log = RaftLog([], 0, [])
    log.append([entry(1, time_ms=5), entry(1, time_ms=9)])
    log.truncate(2)
    assert log.last_time_ms == 9
    log.append([entry(2, time_ms=7)])
    assert log.last_time_ms == 9


def test_what_was_handed_to_the_disk_is_durable_when_its_write_is() -> None:
    log = log_of(1, 1)
    log.sent(1, 2)
    log.append([entry(1)])
    log.sent(2, 3)
    assert (log.durable_index, log.unsent_index) == (0, 4)
    log.synced(1)
    assert log.durable_index == 2
    log.synced(2)
    assert log.durable_index == 3


def test_trap_08_a_truncation_caps_the_writes_under_way() -> None:
    log = log_of(1, 1, 1)
    log.sent(1, 3)
    log.truncate(2)
    log.append([entry(2), entry(2)])
    assert log.unsent_index == 2
    log.sent(2, 3)
    log.synced(1)
    assert log.durable_index == 1
    log.synced(2)
    assert log.durable_index == 3


def test_a_truncation_of_durable_entries_makes_their_places_undurable() -> None:
    log = RaftLog([(1, 1)], 3, [entry(1)] * 3)
    log.truncate(2)
    log.append([entry(2)])
    assert (log.durable_index, log.unsent_index) == (1, 2)


def test_only_durable_entries_leave_memory_and_a_part_at_once() -> None:
    log = log_of(*[1] * 10)
    each = log.tail_bytes // 10
    log.forget(10, keep_bytes=0)
    assert log.tail_first == 1, "nothing is durable"
    log.sent(1, 8)
    log.synced(1)
    log.forget(10, keep_bytes=10 * each)
    assert log.tail_first == 1, "it fits"
    log.forget(10, keep_bytes=10 * each - each // 2)
    assert log.tail_first == 1, "less than a sixteenth too much"
    log.forget(6, keep_bytes=8 * each)
    assert (log.tail_first, log.tail_bytes) == (3, 8 * each)
    log.forget(6, keep_bytes=0)
    assert log.tail_first == 7, "what may leave"
    log.forget(10, keep_bytes=0)
    assert log.tail_first == 9 and log.term(2) == 1


def test_a_restarted_log_writer_is_sent_what_its_disk_does_not_have() -> None:
    log = log_of(1, 1, 2, 2)
    log.sent(1, 2)
    log.synced(1)
    log.sent(2, 4)
    log.restart_writes(log_of(1, 1, 2))  # of the second write a part had reached the disk
    assert (log.durable_index, log.unsent_index) == (3, 4)
    log.synced(2)
    assert log.durable_index == 3, "a late completion of the older life proves nothing"


def test_a_restarted_log_writer_may_hold_a_suffix_that_was_replaced_meanwhile() -> None:
    log = RaftLog([(1, 1)], 4, [entry(1)] * 4)
    log.truncate(3)
    log.append([entry(2), entry(2)])
    log.restart_writes(log_of(1, 1, 1, 1))
    assert (log.durable_index, log.unsent_index) == (2, 3)


def test_durable_entries_that_are_gone_stop_the_node() -> None:
    log = RaftLog([(1, 1)], 4, [entry(1)] * 4)
    with pytest.raises(NodeMustStop, match="up to 4 were, those up to 2 are there"):
        log.restart_writes(log_of(1, 1))


# --- a log that does not begin at entry 1


def behind(index: int, term: int, *terms: int) -> RaftLog:
    """It begins after (index, term); all of it is durable and in memory."""
    runs: list[tuple[int, int]] = []
    for place, each in enumerate(terms, index + 1):
        if not runs or runs[-1][1] != each:
            runs.append((place, each))
    return RaftLog(runs, index + len(terms), [entry(each) for each in terms], (index, term))


def test_of_the_base_the_term_is_known_and_of_what_is_before_it_nothing() -> None:
    log = behind(5, 2, 2, 3, 3)
    assert (log.base_index, log.last_index, log.last_term, log.tail_first, log.durable_index) == (5, 8, 3, 6, 8)
    assert [log.term(index) for index in (5, 6, 7, 8)] == [2, 2, 3, 3]
    assert log.has(5, 2) and not log.has(5, 1) and not log.has(4, 2) and not log.has(0, 0)
    with pytest.raises(ImpossibleState, match="index=4, base=5, last_index=8"):
        log.term(4)


def test_runs_begin_after_the_base() -> None:
    assert behind(5, 2, 2, 3, 3).term_runs() == [(6, 2), (7, 3)]
    assert behind(5, 2, 3, 3).term_runs() == [(6, 3)]
    assert behind(5, 2).term_runs() == []
    log = behind(5, 2, 2, 3, 3)
    assert [log.first_index_of_run(index) for index in (5, 6, 7, 8)] == [5, 5, 7, 7]
    assert [log.last_index_of_term(term) for term in (1, 2, 3, 4)] == [5, 6, 8, 8]


def test_an_empty_log_behind_a_snapshot_grows_and_shrinks_down_to_it() -> None:
    log = behind(5, 2)
    assert (log.last_index, log.last_term, log.tail_first, log.unsent_index) == (5, 2, 6, 6)
    log.append([entry(2), entry(4)])
    assert log.term_runs() == [(6, 2), (7, 4)] and len(log.slice(6, 7)) == 2
    log.truncate(6)
    assert (log.last_index, log.last_term) == (5, 2)
    with pytest.raises(ImpossibleState, match="truncation"):
        log.truncate(5)


def test_a_compacted_log_begins_after_the_last_entry_that_went() -> None:
    log = behind(0, 0, 1, 1, 2, 2, 2, 5)
    for through, runs, tail in ((3, [(4, 2), (6, 5)], 3), (3, [(4, 2), (6, 5)], 3), (5, [(6, 5)], 1), (6, [], 0)):
        log.compact(through)
        assert (log.base_index, log.term_runs(), len(log.tail())) == (through, runs, tail)
        assert log.tail_bytes == tail * (ENTRY_OVERHEAD_BYTES + 1) and log.tail_first == through + 1
        assert (log.last_index, log.last_term, log.durable_index) == (6, 5, 6)
    log.append([entry(5)])
    assert log.term_runs() == [(7, 5)] and log.slice(7, 7)


def test_compaction_of_entries_that_had_left_memory() -> None:
    log = RaftLog([(1, 1), (3, 2)], 5, [entry(2)])
    log.compact(3)
    assert (log.base_index, log.tail_first, log.term(4)) == (3, 5, 2)


@pytest.mark.parametrize("through", [1, 5])
def test_compaction_outside_of_what_is_durable_is_a_programming_error(through: int) -> None:
    log = behind(2, 1, 1, 1)
    log.append([entry(1)])
    with pytest.raises(ImpossibleState, match="compaction"):
        log.compact(through)


def test_a_reset_drops_all_and_the_disk_is_to_be_told() -> None:
    log = behind(0, 0, 1, 1, 1)
    log.append([entry(1)] * 4)
    log.sent(1, 7)
    log.reset(5, 2)
    assert log.reset_unsent and (log.base_index, log.last_index, log.last_term, log.term_runs()) == (5, 5, 2, [])
    assert (log.durable_index, log.unsent_index, log.tail_bytes, log.tail()) == (5, 6, 0, ())
    log.append([entry(3)] * 2)
    log.synced(1)
    assert log.durable_index == 5, "the completion of what stood there before"
    log.sent(2, 7)
    log.synced(2)
    assert log.durable_index == 7


def test_slices_after_a_reset_are_those_of_the_new_entries() -> None:
    log = log_of(1, 1, 1, 1)
    assert len(log.slice(3, 4)) == 2
    log.reset(2, 2)
    log.append([entry(3), entry(3)])
    assert [found.term for found in log.slice(3, 4)] == [3, 3]


@pytest.mark.parametrize(
    ("disk", "durable", "told"),
    [
        (lambda: log_of(1, 1, 1), 5, False),  # shorter: it was not told of the reset
        (lambda: log_of(1, 1, 1, 1, 1, 1, 1, 1), 5, False),  # longer, but other entries
        (lambda: behind(5, 2), 5, True),  # it was
        (lambda: behind(5, 2, 3), 6, True),  # and of a part of what follows
        (lambda: behind(5, 2, 3, 3), 7, True),
        (lambda: behind(3, 2, 2, 2, 3, 4), 6, True),  # it begins before that, and agrees
    ],
)
def test_a_restarted_log_writer_is_told_of_a_reset_that_its_disk_does_not_have(
    disk: Callable[[], RaftLog], durable: int, told: bool
) -> None:
    log = log_of(1, 1, 1)
    log.reset(5, 2)
    log.append([entry(3), entry(3)])
    log.reset_unsent = False  # it is on its way
    log.sent(1, 7)
    log.restart_writes(disk())
    assert (log.durable_index, log.unsent_index, log.reset_unsent) == (durable, durable + 1, not told)
    log.synced(1)
    assert log.durable_index == durable


def test_a_disk_that_has_not_compacted_yet_is_no_disk_to_reset() -> None:
    log = behind(0, 0, 1, 1, 2, 2)
    log.compact(3)
    log.restart_writes(log_of(1, 1, 2, 2))
    assert not log.reset_unsent and log.durable_index == 4


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 4)),  # raise the term by, how many
        st.tuples(st.just("truncate"), st.integers(0, 5)),
        st.tuples(st.just("send")),
        st.tuples(st.just("sync"), st.integers(1, 3)),
        st.tuples(st.just("forget"), st.integers(0, 1_000)),
        st.tuples(st.just("compact"), st.integers(0, 5)),
        st.tuples(st.just("reset"), st.integers(1, 4)),  # so far beyond what is durable
        st.tuples(st.just("restart"), st.integers(0, 3)),  # so many of the writes had reached the disk
    ),
    max_size=40,
)


Writing = tuple[int, "tuple[int, int] | None", int, list[Entry]]


class Model:
    """Entries of a list from 1 on; those up to the base are only remembered by their terms. The disk: a list, too."""

    def __init__(self) -> None:
        self.log = RaftLog([], 0, [])
        self.entries: list[Entry] = []
        self.base = 0
        self.disk: list[Entry] = []
        self.disk_base = 0
        self.queue: list[Writing] = []
        self.term, self.sequence = 1, 0

    def append(self, number: int, raised: int, count: int) -> None:
        self.term += raised
        new = [entry(self.term, b"%d" % number) for _ in range(count)]
        self.log.append(new)
        self.entries += new

    def truncate(self, number: int, back: int) -> None:
        first = max(self.base + 1, len(self.entries) - back)
        if first <= len(self.entries):
            self.log.truncate(first)
            del self.entries[first - 1 :]
            self.term += 1

    def send(self, number: int) -> None:
        log = self.log
        if log.unsent_index <= log.last_index or log.reset_unsent:
            self.sequence += 1
            reset = (log.base_index, log.term(log.base_index)) if log.reset_unsent else None
            self.queue.append((self.sequence, reset, log.unsent_index, self.entries[log.unsent_index - 1 :]))
            log.reset_unsent = False
            log.sent(self.sequence, log.last_index)

    def write(self, count: int) -> None:
        for _, reset, first, entries in self.queue[:count]:
            if reset:
                self.disk = [entry(reset[1])] * reset[0]
                self.disk_base = reset[0]
            assert self.disk_base < first <= len(self.disk) + 1, "no gap"
            self.disk[first - 1 :] = entries

    def sync(self, number: int, count: int) -> None:
        self.write(count)
        for sequence, *_ in self.queue[:count]:
            self.log.synced(sequence)
        del self.queue[:count]

    def forget(self, number: int, keep_bytes: int) -> None:
        self.log.forget(self.log.durable_index, keep_bytes)

    def compact(self, number: int, count: int) -> None:
        self.base = min(self.base + count, self.log.durable_index)
        self.log.compact(self.base)

    def reset(self, number: int, beyond: int) -> None:
        self.base = self.log.durable_index + beyond
        self.term += 1
        self.entries = [entry(self.term)] * self.base
        self.log.reset(self.base, self.term)

    def restart(self, number: int, written: int) -> None:
        self.write(written)
        self.queue.clear()
        runs = []
        for index, each in enumerate(self.disk[self.disk_base :], self.disk_base + 1):
            if not runs or runs[-1][1] != each.term:
                runs.append((index, each.term))
        base = (self.disk_base, self.disk[self.disk_base - 1].term if self.disk_base else 0)
        self.log.restart_writes(RaftLog(runs, len(self.disk), self.disk[self.disk_base :], base))

    def check(self) -> None:
        log, entries = self.log, self.entries
        assert (log.base_index, log.last_index) == (self.base, len(entries))
        assert [log.term(index) for index in range(max(1, self.base), len(entries) + 1)] == [
            item.term for item in entries[max(0, self.base - 1) :]
        ]
        again = RaftLog(log.term_runs(), log.last_index, entries[self.base :], (self.base, log.term(self.base)))
        assert again.term_runs() == log.term_runs()
        assert list(log.slice(log.tail_first, log.last_index)) == entries[log.tail_first - 1 :]
        assert log.tail_bytes == sum(len(item.data) + ENTRY_OVERHEAD_BYTES for item in entries[log.tail_first - 1 :])
        assert log.base_index <= log.durable_index < log.unsent_index <= log.last_index + 1
        assert self.disk[self.base : log.durable_index] == entries[self.base : log.durable_index]


@settings(deadline=None, derandomize=True, max_examples=400)
@given(STEPS)
def test_it_behaves_as_a_list_and_never_calls_durable_what_the_disk_does_not_hold(steps: list[tuple]) -> None:
    model = Model()
    for number, (name, *arguments) in enumerate(steps):
        getattr(model, name)(number, *arguments)
        model.check()


def test_index_before_so_many_bytes() -> None:
    log = RaftLog([], 0, [])
    quarter = bytes(MARK_BYTES // 4 - ENTRY_OVERHEAD_BYTES)
    for _ in range(40):
        log.append([entry(1, quarter)])
    assert [log.index_before(40, size * MARK_BYTES) for size in (0, 1, 3, 8, 9, 10, 99)] == [40, 36, 28, 8, 4, 0, 0]
    assert log.index_before(38, MARK_BYTES) == 32, "at least so many bytes up to there"
    log.truncate(34)
    assert log.index_before(33, MARK_BYTES) == 28
    log.synced(0)
    log.durable_index = 33
    log.compact(6)
    assert [log.index_before(33, size * MARK_BYTES) for size in (5, 6, 7)] == [12, 8, 6], "never before the base"
    log.reset(50, 2)
    log.append([entry(2, quarter)])
    assert log.index_before(51, MARK_BYTES) == 50


def test_a_run_for_the_state_machine_is_the_same_tuple_unless_it_is_large() -> None:
    log = RaftLog([], 0, [])
    log.append([entry(1, bytes(MAX_APPLY_BYTES // 4))] * 6)
    small = log.slice(1, 3)
    assert first_run(small, MAX_APPLY_BYTES) is small, "so it is encoded once, for the peers and for this node"
    assert len(first_run(log.slice(1, 6), MAX_APPLY_BYTES)) == 3
