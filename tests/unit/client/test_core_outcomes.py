"""What a call may say when it fails, and exactly-once: DESIGN section 7, trap 16."""

from __future__ import annotations

import pytest
from scripted_cluster import BUSY, NOT_LEADER, UNKNOWN, A, B, C, Script, ok

from zraft.client import requests
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable
from zraft.statemachine.codec import Op, ResultCode, encode_result
from zraft.wire import ReplyStatus

SESSION_UNKNOWN = encode_result(ResultCode.SESSION_UNKNOWN)


def expire(script: Script) -> None:
    """Let all deadlines pass while every link gives signs of life."""
    for _ in range(20):
        script.sent(after=0.3)
        for endpoint in (A, B, C):
            script.sign_of_life(endpoint)


# ---- deadlines -----------------------------------------------------------------------------------------------------


def test_a_write_that_was_never_sent_is_unavailable() -> None:
    script = Script()
    script.down = {A, B, C}
    outcome = script.set(timeout=1.0)
    expire(script)
    assert isinstance(outcome.error, Unavailable)
    assert "surely not applied" in str(outcome.error)


def test_a_write_whose_session_never_opened_is_unavailable() -> None:
    script = Script()
    outcome = script.set(timeout=1.0)
    assert script.sent()[0].command[3] == Op.OPEN_SESSION
    expire(script)
    assert isinstance(outcome.error, Unavailable)


def test_a_write_refused_by_every_node_is_unavailable() -> None:
    script = Script().with_session()
    outcome = script.set(timeout=1.0)
    refusals = 0
    for _ in range(300):
        for copy in script.sent(after=0.01):
            refusals += 1
            script.reply(copy, (NOT_LEADER, BUSY)[refusals % 2])
    assert refusals > 10
    assert isinstance(outcome.error, Unavailable)
    assert "last: " in str(outcome.error)


def test_a_write_without_an_answer_has_an_unknown_outcome() -> None:
    script = Script().with_session()
    outcome = script.set(timeout=0.5)
    script.sent()
    expire(script)
    assert isinstance(outcome.error, OutcomeUnknown)
    assert "may have been applied" in str(outcome.error)


def test_one_copy_in_doubt_is_enough_whatever_later_copies_are_told() -> None:
    script = Script().with_session()
    outcome = script.set(timeout=2.0)
    (first,) = script.sent()
    script.reply(first, UNKNOWN)
    for _ in range(300):
        for copy in script.sent(after=0.01):
            assert copy.body == first.body
            script.reply(copy, NOT_LEADER)
    assert isinstance(outcome.error, OutcomeUnknown)


def test_a_late_refusal_takes_the_doubt_away() -> None:
    script = Script().with_session()
    outcome = script.set(timeout=1.0)
    (first,) = script.sent()
    (second,) = script.sent(after=0.45)  # A was silent
    assert second.endpoint == B
    script.reply(second, NOT_LEADER)
    script.reply(first, NOT_LEADER)  # so A's copy was not appended either
    script.down = {A, B, C}
    script.sent(after=1.0)
    assert isinstance(outcome.error, Unavailable)


def test_a_copy_that_zeromq_refused_leaves_no_doubt() -> None:
    script = Script().with_session()
    script.down = {A, B, C}
    outcome = script.set(timeout=1.0)
    script.sent(after=1.1)
    assert isinstance(outcome.error, Unavailable)


def test_a_copy_sent_to_a_life_that_ended_stays_in_doubt() -> None:
    script = Script().with_session()
    outcome = script.set(timeout=1.0)
    script.sent()
    script.life[A] += 1
    script.sign_of_life(A)
    (again,) = script.sent()
    script.reply(again, NOT_LEADER)
    script.down = {A, B, C}
    script.sent(after=1.1)
    assert isinstance(outcome.error, OutcomeUnknown)


def test_a_read_is_never_in_doubt() -> None:
    script = Script()
    outcome = script.get(timeout=0.5)
    (copy,) = script.sent()
    script.reply(copy, UNKNOWN)
    script.sent(after=0.6)
    assert isinstance(outcome.error, Unavailable)
    assert "applied" not in str(outcome.error)


def test_deadlines_are_kept_to_a_hundredth_and_each_for_itself() -> None:
    script = Script().with_session()
    script.down = {A, B, C}
    outcomes = [script.set(timeout=0.1 * step) for step in range(1, 6)]
    for step in range(1, 6):
        script.sent(after=0.089)
        assert [outcome.times for outcome in outcomes] == [1] * (step - 1) + [0] * (6 - step)
        script.sent(after=0.011)
    script.sent(after=0.011)
    assert [outcome.times for outcome in outcomes] == [1] * 5


def test_an_expired_call_is_not_sent_later() -> None:
    script = Script().with_session()
    script.down = {A, B, C}
    script.set(timeout=0.1)
    script.sent(after=0.2)
    script.down = set()
    kept = script.set()
    (copy,) = script.sent(after=0.2)
    script.reply(copy, body=ok(5))
    assert kept.value == 5


def test_a_core_whose_calls_are_over_has_nothing_to_wake_for() -> None:
    script = Script()
    script.down = {A, B, C}
    script.get(timeout=0.1)
    script.submit(requests.status(), timeout=0.1, endpoint=B)
    script.sent(after=0.2)
    assert script.core.next_wakeup(script.now) is None


# ---- exactly once ---------------------------------------------------------------------------------------------------


def test_every_copy_of_a_write_has_the_same_bytes() -> None:
    script = Script().with_session()
    outcome = script.set(timeout=30.0)
    other = script.set()
    first, second = script.sent()
    script.reply(second, body=ok(3))  # the low-water mark could move now, were it not for the first
    bodies = [first.body]
    answers = iter([UNKNOWN, NOT_LEADER, BUSY, UNKNOWN, None, ok(2)])
    copy = first
    for answer in answers:
        if isinstance(answer, bytes):
            script.reply(copy, body=answer)
        elif answer is not None:
            script.reply(copy, answer)
        if not outcome.times:
            copy = script.next_copy()
            bodies.append(copy.body)
    assert outcome.value == 2 and other.value == 3
    assert len(bodies) == 6 and set(bodies) == {first.body}


def test_each_copy_has_a_request_id_of_its_own() -> None:
    script = Script().with_session()
    script.set()
    (first,) = script.sent()
    (second,) = script.sent(after=0.45)
    assert first.id != second.id


# ---- the session ended ----------------------------------------------------------------------------------------------


def test_an_unknown_session_is_replaced_where_no_copy_can_have_had_effect() -> None:
    script = Script().with_session()
    outcomes = [script.set(value) for value in (b"1", b"2")]
    copies = script.sent()
    script.reply(copies[0], NOT_LEADER, B.encode())
    (moved,) = script.sent()
    script.reply(moved, body=SESSION_UNKNOWN)
    (one,) = script.open_session(script.sent())
    assert one.command == (1001, 1, 0, Op.SET, (b"k", b"1"))
    script.reply(copies[1], body=SESSION_UNKNOWN)
    (two,) = script.sent()  # in the session that is there already
    assert two.command == (1001, 2, 0, Op.SET, (b"k", b"2"))
    script.reply_all([(one, 0, ok(8)), (two, 0, ok(9))])
    assert [outcome.value for outcome in outcomes] == [8, 9]


def test_a_whole_window_of_an_expired_session_opens_one_new_session() -> None:
    script = Script().with_session()
    for _ in range(10):
        script.set()
    copies = script.sent()
    script.reply_all([(copy, 0, SESSION_UNKNOWN) for copy in copies])
    again = script.open_session(script.sent())
    assert [copy.command[:3] for copy in again] == [(1001, number, 0) for number in range(1, 11)]


@pytest.mark.parametrize("doubt", ["unknown", "silent", "new life"])
def test_an_unknown_session_after_a_copy_in_doubt_is_an_unknown_outcome(doubt: str) -> None:
    script = Script().with_session()
    outcome = script.set()
    (first,) = script.sent()
    if doubt == "unknown":
        script.reply(first, UNKNOWN)
    elif doubt == "new life":
        script.life[A] += 1
        script.sign_of_life(A)
    second = script.next_copy()
    assert second.body == first.body
    script.reply(second, body=SESSION_UNKNOWN)
    assert isinstance(outcome.error, OutcomeUnknown)
    script.set()
    (opening,) = script.sent()
    assert opening.command[3] == Op.OPEN_SESSION


def test_a_late_unknown_session_leaves_the_verdict_to_the_copy_under_way() -> None:
    script = Script().with_session()
    outcome = script.set(b"x")
    (first,) = script.sent()
    (second,) = script.sent(after=0.45)
    script.reply(first, body=SESSION_UNKNOWN)
    assert outcome.times == 0
    script.reply(second, body=SESSION_UNKNOWN)
    (third,) = script.open_session(script.sent())
    assert third.command == (1001, 1, 0, Op.SET, (b"k", b"x"))


def test_a_session_that_is_refused_fails_the_writes_that_wait_for_it() -> None:
    script = Script()
    outcomes = [script.set(), script.set()]
    read = script.get()
    opening, _ = script.sent()
    script.reply(opening, ReplyStatus.INVALID, b"no")
    assert [type(outcome.error) for outcome in outcomes] == [InvalidRequest, InvalidRequest]
    assert read.times == 0


@pytest.mark.parametrize("status", [NOT_LEADER, BUSY, UNKNOWN])
def test_opening_a_session_is_repeated_like_any_request(status: ReplyStatus) -> None:
    script = Script()
    script.set()
    (opening,) = script.sent()
    script.reply(opening, status, B.encode() if status == NOT_LEADER else b"")
    again = script.next_copy(within=0.06)
    assert (again.endpoint, again.body) == (B if status == NOT_LEADER else A, opening.body)
    script.reply(again, body=ok(1000))
    assert script.sent()[0].command[:2] == (1000, 1)


def test_opening_a_session_goes_on_as_long_as_writes_wait() -> None:
    script = Script()
    outcome = script.set(timeout=20.0)
    for _ in range(40):
        script.sent(after=0.3)
        for endpoint in (A, B, C):
            script.sign_of_life(endpoint)
    assert outcome.times == 0
    opening = script.next_copy(within=8.0)
    assert opening.command[3] == Op.OPEN_SESSION
    script.reply(opening, body=ok(4242))
    (copy,) = script.sent()
    assert copy.command[:2] == (4242, 1)


# ---- odd answers ----------------------------------------------------------------------------------------------------


def test_an_answer_that_was_forgotten_is_an_unknown_outcome() -> None:
    script = Script().with_session()
    outcome = script.set()
    (copy,) = script.sent()
    script.reply(copy, body=encode_result(ResultCode.ALREADY_ANSWERED))
    assert isinstance(outcome.error, OutcomeUnknown)


def test_too_many_unanswered_is_tried_again_later() -> None:
    script = Script().with_session()
    script.set()
    (copy,) = script.sent()
    script.reply(copy, body=encode_result(ResultCode.TOO_MANY_UNANSWERED))
    assert script.sent() == []
    assert [again.body for again in script.sent(after=0.1)] == [copy.body]


@pytest.mark.parametrize("body", [b"", b"garbage", b"\x90", encode_result(ResultCode.OK), encode_result(77)])
def test_an_answer_that_is_not_understood_ends_the_call_alone(body: bytes) -> None:
    script = Script().with_session()
    write, read, other = script.set(), script.get(), script.set()
    copies = sorted(script.sent(), key=lambda copy: (copy.kind, copy.id))
    script.reply_all([(copies[0], 0, body), (copies[2], 0, body), (copies[1], 0, ok(3))])
    assert isinstance(write.error, OutcomeUnknown)
    assert isinstance(read.error, Unavailable)
    assert other.value == 3


def test_a_status_code_of_a_later_version_ends_the_call() -> None:
    script = Script().with_session()
    outcome = script.set()
    script.reply(script.sent()[0], 99)
    assert isinstance(outcome.error, OutcomeUnknown)


# ---- requests about the cluster -------------------------------------------------------------------------------------


def test_a_transfer_follows_the_leader() -> None:
    script = Script()
    outcome = script.submit(requests.transfer_leadership("n2"))
    (copy,) = script.sent()
    assert copy.body == b"n2"
    script.reply(copy, NOT_LEADER, C.encode())
    (copy,) = script.sent()
    assert copy.endpoint == C
    script.reply(copy)
    assert outcome.times == 1 and outcome.error is None


def test_a_transfer_in_doubt_is_not_repeated() -> None:
    script = Script().with_session()
    told = script.submit(requests.transfer_leadership(None))
    script.reply(script.sent()[0], UNKNOWN)
    assert isinstance(told.error, OutcomeUnknown)
    orphan = script.submit(requests.transfer_leadership(None))
    script.sent()
    script.life[A] += 1
    script.sign_of_life(A)
    assert isinstance(orphan.error, OutcomeUnknown)
    silent = script.submit(requests.transfer_leadership(None), timeout=2.0)
    assert len(script.sent()) == 1
    assert script.sent(after=2.1) == []
    assert isinstance(silent.error, OutcomeUnknown)


def test_a_fault_goes_to_its_node_and_a_refusal_is_final() -> None:
    script = Script()
    busy = script.submit(requests.inject_fault({"op": "kill-actor"}), endpoint=B)
    refused = script.submit(requests.inject_fault({"op": "kill-actor"}), endpoint=B)
    first, second = script.sent()
    assert first.endpoint == second.endpoint == B
    script.reply(first, BUSY)
    script.reply(second, ReplyStatus.REFUSED, b"chaos is off")
    assert isinstance(busy.error, Unavailable)
    assert isinstance(refused.error, InvalidRequest) and "chaos is off" in str(refused.error)
    assert script.sent(after=1.0) == []
