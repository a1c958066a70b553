"""What the leader knows of a follower."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.raft.progress import (
    MAX_INFLIGHT_MESSAGES,
    SNAPSHOT_PIECE_BYTES,
    SNAPSHOT_WINDOW_BYTES,
    Progress,
    ProgressState,
)


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


# --- state SNAPSHOT


def sending(pieces: int = 20, match: int = 3) -> Progress:
    """A snapshot of 50, of so many pieces; the window is of eight."""
    progress = replicating(match)
    progress.begin_snapshot(50, 2, pieces * SNAPSHOT_PIECE_BYTES - 1, 0)
    return progress


def pieces(progress: Progress) -> list[int]:
    """Those that may go now, by number."""
    found = []
    while (offset := progress.next_piece()) is not None:
        found.append(offset // SNAPSHOT_PIECE_BYTES)
    return found


def test_while_a_snapshot_is_sent_no_entries_are() -> None:
    progress = sending()
    assert progress.state is ProgressState.SNAPSHOT and not progress.may_send()
    assert not progress.rejected(3, 1) and progress.state is ProgressState.SNAPSHOT
    progress.matched(10, 0)
    assert (progress.match_index, progress.state) == (10, ProgressState.SNAPSHOT), "late news of entries"


def test_pieces_go_as_the_window_allows() -> None:
    progress = sending(10)
    assert pieces(progress) == list(range(8)) and pieces(progress) == []
    progress.snapshot_taken(SNAPSHOT_PIECE_BYTES, 1)
    assert pieces(progress) == [8]
    progress.snapshot_taken(SNAPSHOT_PIECE_BYTES, 1)
    assert pieces(progress) == [], "the same news"
    progress.snapshot_taken(3 * SNAPSHOT_PIECE_BYTES, 1)
    assert pieces(progress) == [9], "there are no more"
    assert progress.match_index == 3


def test_a_transfer_that_is_resumed_skips_what_the_follower_has() -> None:
    progress = sending(20)
    assert pieces(progress) == list(range(8))
    progress.snapshot_taken(12 * SNAPSHOT_PIECE_BYTES, 1)
    assert pieces(progress) == list(range(12, 20))


def test_a_follower_that_lost_it_gets_it_from_the_beginning_when_it_is_overdue() -> None:
    progress = sending(20)
    pieces(progress)
    progress.snapshot_taken(0, 1)
    assert pieces(progress) == [], "the first piece was lost: that is a matter of time"
    progress.snapshot_taken(2 * SNAPSHOT_PIECE_BYTES, 1)
    assert pieces(progress) == [8, 9]
    progress.snapshot_taken(0, 1)
    progress.snapshot_taken(0, 1)
    assert pieces(progress) == [], "its disk may be full, and is not fuller at once"
    progress.retry_if_overdue(1 + 3 * 50, 50)
    assert pieces(progress) == list(range(8))


def test_a_transfer_that_fails_again_and_again_goes_on_ever_less_often() -> None:
    """There is room for the first pieces and never for the rest."""
    progress = sending(20)
    sent = now_ms = 0
    while now_ms < 20_000:
        now_ms += 10
        taken = pieces(progress)
        sent += len(taken)
        if taken:
            progress.snapshot_taken(5 * SNAPSHOT_PIECE_BYTES, now_ms)
            progress.snapshot_taken(0, now_ms)
        progress.retry_if_overdue(now_ms, 50)
    assert 20 <= sent <= 150, sent


def test_a_snapshot_that_is_not_heard_of_goes_again_from_what_is_there() -> None:
    progress = sending(20)
    pieces(progress)
    progress.snapshot_taken(2 * SNAPSHOT_PIECE_BYTES, 100)
    assert pieces(progress) == [8, 9]
    progress.retry_if_overdue(249, 50)
    assert pieces(progress) == []
    progress.retry_if_overdue(250, 50)
    assert pieces(progress) == list(range(2, 10))
    progress.retry_if_overdue(549, 50)
    assert pieces(progress) == []
    progress.retry_if_overdue(550, 50)
    assert pieces(progress) == list(range(2, 10)), "ever less often"


def test_of_a_snapshot_that_is_all_there_the_last_piece_goes_again_until_its_being_saved_is_heard() -> None:
    progress = sending(3)
    pieces(progress)
    progress.snapshot_taken(progress.snapshot_size, 0)
    assert pieces(progress) == []
    progress.retry_if_overdue(150, 50)
    assert [*pieces(progress)] == [1], "its last piece's bytes, wherever they begin"
    progress.matched(49, 200)
    assert progress.state is ProgressState.SNAPSHOT
    progress.matched(50, 200)
    assert (progress.state, progress.match_index, progress.next_index) == (ProgressState.REPLICATE, 50, 51)
    assert progress.may_send() and pieces(progress) == []


def test_a_newer_snapshot_begins_from_its_first_piece_and_with_new_patience() -> None:
    progress = sending(20)
    pieces(progress)
    progress.retry_if_overdue(150, 50)
    progress.begin_snapshot(70, 2, 2 * SNAPSHOT_PIECE_BYTES, 400)
    assert pieces(progress) == [0, 1]
    progress.retry_if_overdue(549, 50)
    assert pieces(progress) == []
    progress.retry_if_overdue(550, 50)
    assert pieces(progress) == [0, 1]


INPUTS = st.one_of(
    st.tuples(st.just("sent"), st.integers(0, 5)),
    st.tuples(st.just("matched"), st.integers(0, 30)),
    st.tuples(st.just("rejected"), st.integers(0, 30), st.integers(0, 40)),
    st.tuples(st.just("probe")),
    st.tuples(st.just("snapshot"), st.integers(1, 40), st.integers(1, 4_000_000)),
    st.tuples(st.just("taken"), st.integers(0, 4_000_000)),
    st.tuples(st.just("overdue")),
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
        elif name == "probe" and progress.state is not ProgressState.SNAPSHOT:
            progress.probe()
        elif name == "snapshot":
            progress.begin_snapshot(progress.match_index + arguments[0], 1, arguments[1], 0)
        elif name == "taken" and progress.state is ProgressState.SNAPSHOT:
            progress.snapshot_taken(arguments[0], 0)
        elif name == "overdue":
            progress.retry_if_overdue(99_999, 50)
        if progress.state is ProgressState.SNAPSHOT:
            offset = progress.next_piece()
            assert 0 <= progress.snapshot_acked <= progress.snapshot_size >= progress.snapshot_next
            assert offset is None or offset < progress.snapshot_acked + SNAPSHOT_WINDOW_BYTES
            assert progress.match_index < progress.snapshot_index
        assert before <= progress.match_index < progress.next_index
        before = progress.match_index


def test_a_lost_last_piece_of_a_snapshot_is_sent_again_from_where_the_follower_stands() -> None:
    """It is shorter than the others: beginning a whole piece before the end would begin where nobody waits for it."""
    size = 3 * SNAPSHOT_PIECE_BYTES + 7
    progress = Progress(7, now_ms=0)
    progress.begin_snapshot(9, 1, size, 0)
    assert [progress.next_piece() for _ in range(5)] == [*range(0, size, SNAPSHOT_PIECE_BYTES), None]
    progress.snapshot_taken(3 * SNAPSHOT_PIECE_BYTES, 10)
    progress.retry_if_overdue(1_000, 50)
    assert [progress.next_piece(), progress.next_piece()] == [3 * SNAPSHOT_PIECE_BYTES, None]
    progress.snapshot_taken(size, 1_010)
    progress.retry_if_overdue(2_000, 50)
    assert progress.next_piece() == size - SNAPSHOT_PIECE_BYTES, "and if all is there, its end, to hear that it is"
