"""The log as consensus sees it, against a plain list."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.errors import ImpossibleState, NodeMustStop
from zraft.messages import Entry, EntryKind
from zraft.raft.log import ENTRY_OVERHEAD_BYTES, RaftLog


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
    with pytest.raises(ImpossibleState, match=f"index={index}, last_index=2"):
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
    log.restart_writes([(1, 1), (3, 2)], 3)  # of the second write a part had reached the disk
    assert (log.durable_index, log.unsent_index) == (3, 4)
    log.synced(2)
    assert log.durable_index == 3, "a late completion of the older life proves nothing"


def test_a_restarted_log_writer_may_hold_a_suffix_that_was_replaced_meanwhile() -> None:
    log = RaftLog([(1, 1)], 4, [entry(1)] * 4)
    log.truncate(3)
    log.append([entry(2), entry(2)])
    log.restart_writes([(1, 1)], 4)
    assert (log.durable_index, log.unsent_index) == (2, 3)


def test_durable_entries_that_are_gone_stop_the_node() -> None:
    log = RaftLog([(1, 1)], 4, [entry(1)] * 4)
    with pytest.raises(NodeMustStop, match="up to 4 were, those up to 2 are there"):
        log.restart_writes([(1, 1)], 2)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.integers(1, 4)),  # raise the term by, how many
        st.tuples(st.just("truncate"), st.integers(0, 5)),
        st.tuples(st.just("send")),
        st.tuples(st.just("sync"), st.integers(1, 3)),
        st.tuples(st.just("forget"), st.integers(0, 1_000)),
    ),
    max_size=40,
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(STEPS)
def test_it_behaves_as_a_list_and_never_calls_durable_what_the_disk_does_not_hold(steps: list[tuple]) -> None:
    log, model = RaftLog([], 0, []), []
    disk: list[Entry] = []
    queue: list[tuple[int, int, list[Entry]]] = []
    term, sequence = 1, 0
    for number, (name, *arguments) in enumerate(steps):
        if name == "append":
            term += arguments[0]
            new = [entry(term, b"%d" % number) for _ in range(arguments[1])]
            log.append(new)
            model += new
        elif name == "truncate" and model:
            first = max(1, len(model) - arguments[0])
            log.truncate(first)
            del model[first - 1 :]
            term += 1
        elif name == "send" and log.unsent_index <= log.last_index:
            sequence += 1
            queue.append((sequence, log.unsent_index, model[log.unsent_index - 1 :]))
            log.sent(sequence, log.last_index)
        elif name == "sync" and queue:
            for done, first, entries in queue[: arguments[0]]:
                disk[first - 1 :] = entries
                log.synced(done)
            del queue[: arguments[0]]
        elif name == "forget":
            log.forget(log.durable_index, arguments[0])
        assert log.last_index == len(model)
        assert [log.term(index) for index in range(1, len(model) + 1)] == [item.term for item in model]
        assert list(log.slice(log.tail_first, log.last_index)) == model[log.tail_first - 1 :]
        assert log.tail_bytes == sum(len(item.data) + ENTRY_OVERHEAD_BYTES for item in model[log.tail_first - 1 :])
        assert log.durable_index < log.unsent_index <= log.last_index + 1
        assert disk[: log.durable_index] == model[: log.durable_index]
