"""Sessions, numbering, coalescing, windows: the core with a cluster that does as it should."""

from __future__ import annotations

import pytest
from scripted_cluster import A, Script, ok

from zraft.client import requests
from zraft.client.outbox import MAX_CALLS_PER_FRAME, MAX_FRAME_BODY_BYTES
from zraft.client.route import MAX_PROBES
from zraft.client.session import MAX_UNANSWERED
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable
from zraft.statemachine.codec import MAX_KEY_BYTES, MAX_VALUE_BYTES, Op, ResultCode, encode_result
from zraft.wire import ReplyStatus, RequestKind


def test_the_first_write_opens_a_session_and_then_goes_out_in_it() -> None:
    script = Script()
    outcome = script.set(b"v1")
    (copy,) = script.open_session(script.sent())
    assert copy.endpoint == A
    assert copy.command == (1000, 1, 0, Op.SET, (b"k", b"v1"))
    script.reply(copy, body=ok(7))
    assert (outcome.value, outcome.error, outcome.times) == (7, None, 1)


def test_writes_that_wait_for_one_session_open_only_one_and_keep_their_order() -> None:
    script = Script()
    for value in (b"1", b"2", b"3"):
        script.set(value)
    copies = script.open_session(script.sent())
    assert [(copy.number, copy.command[4][1]) for copy in copies] == [(1, b"1"), (2, b"2"), (3, b"3")]
    assert script.frames == 2


def test_a_read_needs_no_session() -> None:
    script = Script()
    outcome = script.get()
    (copy,) = script.sent()
    assert copy.kind == RequestKind.READ
    script.reply(copy, body=ok((b"k", b"v", 3, 4, 2), 9))
    assert outcome.value == b"v"
    entry = script.submit(requests.get_entry(b"k"))
    at_revision = script.submit(requests.get_at_revision(b"k"))
    absent = script.get()
    first, second, third = script.sent()
    script.reply(first, body=ok((b"k", b"v", 3, 4, 2), 9))
    script.reply(second, body=ok((b"k", b"v", 3, 4, 2), 9))
    script.reply(third, body=ok(None, 9))
    assert (entry.value.create_revision, entry.value.mod_revision, entry.value.version) == (3, 4, 2)
    assert at_revision.value == (b"v", 9)
    assert absent.times == 1 and absent.value is None


def test_delete_and_cas_answer_whether() -> None:
    script = Script().with_session()
    outcomes = [
        script.submit(requests.delete_key("k")),
        script.submit(requests.compare_and_set("k", None, "n")),
        script.submit(requests.compare_and_set("k", "o", "n")),
    ]
    copies = script.sent()
    assert [copy.command[3:] for copy in copies] == [
        (Op.DELETE, (b"k",)),
        (Op.CAS, (b"k", None, b"n")),
        (Op.CAS, (b"k", b"o", b"n")),
    ]
    script.reply_all([(copy, 0, ok(answer, 5)) for copy, answer in zip(copies, (True, False, True), strict=True)])
    assert [outcome.value for outcome in outcomes] == [True, False, True]


def test_low_water_is_below_the_lowest_number_without_an_answer() -> None:
    script = Script().with_session()
    for _ in range(4):
        script.set()
    two, three, four, five = script.sent()
    assert [copy.number for copy in (two, three, four, five)] == [2, 3, 4, 5]
    script.reply(four, body=ok(4))
    script.reply(three, body=ok(3))
    script.set()
    (six,) = script.sent()
    assert six.command[:3] == (1000, 6, 1)  # 2 is unanswered
    script.reply(two, body=ok(2))
    script.set()
    (seven,) = script.sent()
    assert seven.command[:3] == (1000, 7, 4)  # 5 is
    script.reply_all([(five, 0, ok(5)), (six, 0, ok(6)), (seven, 0, ok(7))])
    script.set()
    assert script.sent()[0].command[:3] == (1000, 8, 7)


def test_a_number_given_up_holds_the_low_water_mark_down_no_longer() -> None:
    script = Script().with_session()
    late = script.set(timeout=0.05)
    (two,) = script.sent()
    script.sent(after=0.1)
    assert isinstance(late.error, OutcomeUnknown)
    script.set()
    assert script.sent()[0].command[:3] == (1000, 3, 2)
    script.reply(two, body=ok(2))  # too late
    assert late.times == 1


def test_what_is_queued_together_travels_in_one_frame() -> None:
    script = Script().with_session()
    frames = script.frames
    for _ in range(20):
        script.set()
        script.get()
    assert len(script.sent()) == 40
    assert script.frames == frames + 1


def test_frames_are_bounded_in_number_and_size() -> None:
    script = Script().with_session()
    frames = script.frames
    for _ in range(4 * MAX_CALLS_PER_FRAME + 1):
        script.get()
    assert len(script.sent()) == 4 * MAX_CALLS_PER_FRAME + 1
    assert script.frames == frames + 5
    for _ in range(5):
        script.set(b"x" * MAX_VALUE_BYTES)
    copies = script.sent()
    assert [copy.number for copy in copies] == [2, 3, 4, 5, 6]
    assert script.frames == frames + 7
    assert 3 * MAX_VALUE_BYTES < MAX_FRAME_BODY_BYTES < 4 * len(copies[0].body)


def test_numbers_stay_within_the_window_above_the_low_water_mark() -> None:
    script = Script().with_session()
    for _ in range(MAX_UNANSWERED + 10):
        script.set()
    copies = script.sent()
    assert len(copies) == MAX_UNANSWERED
    script.reply_all([(copy, 0, ok(1)) for copy in copies[1:]])
    assert script.sent() == []  # one answer is missing: nodes keep all answers above it
    script.reply(copies[0], body=ok(1))
    (first, *rest) = script.sent()
    assert len(rest) == 9
    assert first.number - first.command[2] == 1


def test_an_unproven_leader_gets_few_requests_until_it_answers_one() -> None:
    script = Script()
    for _ in range(MAX_PROBES + 50):
        script.get()
    copies = script.sent()
    assert len(copies) == MAX_PROBES
    script.reply(copies[0], body=ok(None, 1))
    assert len(script.sent()) == 50


def test_a_cancelled_call_is_not_answered_and_others_are() -> None:
    script = Script().with_session()
    before, cancelled, after = script.set(), script.set(), script.set()
    assert cancelled.call is not None
    copies = script.sent()
    script.core.cancel(cancelled.call)
    script.core.cancel(cancelled.call)
    script.reply_all([(copy, 0, ok(copy.number)) for copy in copies])
    assert (before.value, cancelled.times, after.value) == (2, 0, 4)
    unsent = script.set()
    assert unsent.call is not None
    script.core.cancel(unsent.call)
    script.set()
    assert [copy.command[:3] for copy in script.sent()] == [(1000, 5, 4)]


def test_what_is_too_large_is_refused_before_it_is_sent() -> None:
    for build in (
        lambda: requests.set_key(b"k" * (MAX_KEY_BYTES + 1), b""),
        lambda: requests.set_key(b"k", b"v" * (MAX_VALUE_BYTES + 1)),
        lambda: requests.compare_and_set(b"k", b"v" * (MAX_VALUE_BYTES + 1), b""),
        lambda: requests.get_value("k" * (MAX_KEY_BYTES + 1)),
        lambda: next(requests.range_pages("k" * (MAX_KEY_BYTES + 1))),
        lambda: requests.set_key("\udcff", b""),
    ):
        with pytest.raises(InvalidRequest):
            build()
    with pytest.raises(TypeError, match="a key is bytes or str, not int"):
        requests.get_value(7)  # type: ignore[arg-type]


def test_an_invalid_request_is_final() -> None:
    script = Script().with_session()
    by_node, by_machine, refused = script.set(), script.set(), script.submit(requests.transfer_leadership("n9"))
    copies = {copy.body: copy for copy in script.sent()}
    two, three, transfer = sorted(copies.values(), key=lambda copy: (copy.kind, copy.id))
    script.reply(two, ReplyStatus.INVALID, b"too large")
    script.reply(three, body=encode_result(ResultCode.BAD_COMMAND, "no such op"))
    script.reply(transfer, ReplyStatus.REFUSED, b"n9 is no member")
    for outcome, text in ((by_node, "too large"), (by_machine, "no such op"), (refused, "n9 is no member")):
        assert isinstance(outcome.error, InvalidRequest)
        assert text in str(outcome.error)
    assert script.sent(after=10.0) == []


def test_ranges_come_in_pages() -> None:
    script = Script()
    plan = requests.range_pages(b"a\xff")
    first = next(plan)
    outcome = script.submit(first)
    (copy,) = script.sent()
    script.reply(copy, body=ok(((b"a\xff1", b"x", 1, 1, 1),), True, 5))
    second = plan.send(outcome.value)
    outcome = script.submit(second)
    (copy,) = script.sent()
    assert b"a\xff1\0" in copy.body and b"b" in copy.body
    script.reply(copy, body=ok(((b"a\xff2", b"y", 2, 2, 1),), False, 5))
    with pytest.raises(StopIteration) as end:
        plan.send(outcome.value)
    assert end.value.value == [(b"a\xff1", b"x"), (b"a\xff2", b"y")]


def test_closing_fails_what_waits_ends_the_session_and_takes_no_more() -> None:
    script = Script().with_session()
    sent = script.set()
    (copy,) = script.sent()
    unsent, read = script.set(), script.get()
    closed: list[bool] = []
    script.core.close(script.now + 0.2, lambda: closed.append(True))
    assert [type(outcome.error) for outcome in (sent, unsent, read)] == [OutcomeUnknown, Unavailable, Unavailable]
    after = script.set()
    assert isinstance(after.error, Unavailable)
    (closing,) = script.sent()
    assert closing.command == (1000, 3, 2, Op.CLOSE_SESSION, ())
    assert not closed
    script.reply(closing, body=ok())
    assert closed == [True]
    assert script.core.next_wakeup(script.now) is None or script.sent(after=1.0) == []


def test_closing_waits_no_longer_than_its_deadline() -> None:
    script = Script().with_session()
    closed: list[bool] = []
    script.core.close(script.now + 0.2, lambda: closed.append(True))
    script.sent(after=0.19)
    assert not closed
    script.sent(after=0.03)
    assert closed == [True]


def test_closing_without_a_session_is_done_at_once() -> None:
    script = Script()
    waiting = script.set()
    closed: list[bool] = []
    script.core.close(script.now + 0.2, lambda: closed.append(True))
    assert closed == [True]
    assert isinstance(waiting.error, Unavailable)
    assert script.sent(after=1.0) == []
