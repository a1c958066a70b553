"""What the leader knows of a follower."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.raft.progress import MAX_INFLIGHT_MESSAGES, Progress, ProgressState


def replicating(match: int = 5, last: int = 5) -> Progress:
    progress = Progress(last, now_ms=0)
    progress.matched(match, 0)
    return progress


def test_it_begins_with_a_probe_after_the_leaders_last_entry() -> None:
    progress = Progress(7, now_ms=0)
    assert (progress.state, progress.next_index, progress.match_index) == (ProgressState.PROBE, 8, 0)


def test_one_probe_at_a_time() -> None:
    progress = Progress(7, now_ms=0)
    assert progress.may_send()
    progress.sent(7, 0, 0)
    assert not progress.may_send() and progress.next_index == 8


def test_an_acknowledged_probe_opens_the_pipeline() -> None:
    progress = replicating()
    assert progress.state is ProgressState.REPLICATE and progress.next_index == 6
    for number in range(MAX_INFLIGHT_MESSAGES):
        assert progress.may_send()
        progress.sent(6 + number, 10, 0)
    assert not progress.may_send()
    progress.matched(6, 1)
    assert progress.may_send() and progress.next_index == 6 + MAX_INFLIGHT_MESSAGES


def test_the_window_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zraft.raft.progress.MAX_INFLIGHT_BYTES", 100)
    progress = replicating()
    progress.sent(6, 99, 0)
    assert progress.may_send()
    progress.sent(7, 99, 0)
    assert not progress.may_send()
    progress.matched(7, 0)
    assert progress.may_send()


def test_nothing_is_sent_while_entries_are_read_from_disk() -> None:
    progress = replicating()
    progress.reading = True
    assert not progress.may_send()


@pytest.mark.parametrize(("refused", "retry", "next_index"), [(7, 6, 6), (7, 3, 4), (7, 99, 7)])
def test_a_refused_probe_goes_back_but_never_to_what_is_known_to_match(
    refused: int, retry: int, next_index: int
) -> None:
    progress = Progress(7, now_ms=0)
    progress.match_index = 3
    progress.sent(7, 0, 0)
    assert progress.rejected(refused, retry)
    assert progress.next_index == next_index and progress.may_send()


def test_a_late_refusal_changes_nothing() -> None:
    probing = Progress(7, now_ms=0)
    probing.sent(7, 0, 0)
    assert not probing.rejected(5, 1)
    assert probing.next_index == 8 and probing.probe_sent
    ahead = replicating(5)
    assert not ahead.rejected(5, 1)
    assert ahead.state is ProgressState.REPLICATE


def test_a_refusal_in_the_pipeline_goes_back_to_probing() -> None:
    progress = replicating(5)
    progress.sent(6, 10, 0)
    progress.sent(7, 10, 0)
    assert progress.rejected(6, 6)
    assert (progress.state, progress.next_index) == (ProgressState.PROBE, 6)
    progress.matched(7, 0)
    progress.retry_if_overdue(9_999, 50)
    assert progress.next_index == 8 and progress.state is ProgressState.REPLICATE, "the window was emptied"


def test_the_pipeline_is_sent_again_when_it_had_no_answer_for_three_heartbeats() -> None:
    progress = replicating()
    progress.retry_if_overdue(1_000, 50)
    assert progress.state is ProgressState.REPLICATE, "nothing was on its way"
    progress.sent(6, 10, 1_000)
    progress.sent(7, 10, 1_100)
    progress.retry_if_overdue(1_149, 50)
    assert progress.state is ProgressState.REPLICATE
    progress.matched(6, 1_150)
    progress.retry_if_overdue(1_299, 50)
    assert progress.state is ProgressState.REPLICATE, "there was progress meanwhile"
    progress.retry_if_overdue(1_300, 50)
    assert (progress.state, progress.next_index) == (ProgressState.PROBE, 7)


def test_a_probe_is_sent_again_ever_less_often_from_where_it_was() -> None:
    progress = Progress(7, now_ms=0)
    now_ms = 0
    waits = []
    for _ in range(6):
        progress.sent(7, 0, now_ms)
        sent_ms = now_ms
        while not progress.may_send():
            now_ms += 25
            progress.retry_if_overdue(now_ms, 50)
        waits.append(now_ms - sent_ms)
        assert progress.next_index == 8
    assert waits == [25, 50, 100, 200, 400, 400]
    progress.sent(7, 0, now_ms)
    progress.matched(7, now_ms)
    assert progress.retries == 0


INPUTS = st.one_of(
    st.tuples(st.just("sent"), st.integers(0, 5)),
    st.tuples(st.just("matched"), st.integers(0, 30)),
    st.tuples(st.just("rejected"), st.integers(0, 30), st.integers(0, 40)),
    st.tuples(st.just("probe")),
)


@settings(deadline=None, derandomize=True)
@given(st.lists(INPUTS, max_size=40))
def test_match_never_goes_back_and_stays_below_next(inputs: list[tuple]) -> None:
    progress = Progress(10, now_ms=0)
    before = 0
    for name, *arguments in inputs:
        if name == "sent" and progress.may_send():
            progress.sent(progress.next_index - 1 + arguments[0], 1, 0)
        elif name == "matched":
            progress.matched(arguments[0], 0)
        elif name == "rejected":
            progress.rejected(*arguments)
        elif name == "probe":
            progress.probe()
        assert before <= progress.match_index < progress.next_index
        before = progress.match_index
