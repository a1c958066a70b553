"""Sessions (dissertation 6.3; DESIGN traps 16 and 17): applied once, answered the same, bounded, ended by the log."""

from __future__ import annotations

import random

import pytest
from statemachine_driver import Driver

from zraft.statemachine import sessions
from zraft.statemachine.codec import Op, ResultCode, encode_command
from zraft.statemachine.sessions import MAX_SESSIONS, MAX_UNANSWERED, SESSION_TIMEOUT_MS, Session

SESSION_UNKNOWN = (ResultCode.SESSION_UNKNOWN,)
ALREADY_ANSWERED = (ResultCode.ALREADY_ANSWERED,)
TOO_MANY_UNANSWERED = (ResultCode.TOO_MANY_UNANSWERED,)


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_a_sessions_id_is_the_index_of_the_entry_that_opened_it(driver: Driver) -> None:
    driver.skip()
    assert [driver.open(), driver.open()] == [2, 3]
    assert driver.machine.session_count == 2


def test_trap_16_a_retry_is_not_applied_again_and_gets_the_first_answer(driver: Driver) -> None:
    session = driver.open()
    assert driver.command(session, 1, 0, Op.CAS, b"k", None, b"v") == (0, True, 1)
    other = driver.open()
    driver.set(other, 1, b"k", b"of another")
    assert driver.command(session, 1, 0, Op.CAS, b"k", None, b"v") == (0, True, 1)
    assert driver.get(b"k")[1:] == (b"of another", 1, 2, 2)


def test_trap_16_numbers_may_arrive_in_any_order(driver: Driver) -> None:
    session = driver.open()
    driver.set(session, 6, b"k", b"six")
    assert driver.set(session, 5, b"k", b"five") == (0, 2), "a first arrival of 5 after 6 is executed"
    driver.set(session, 7, b"k", b"seven")
    assert driver.set(session, 5, b"k", b"five") == (0, 2), "a retry of 5 after 6 is answered, not dropped"
    assert driver.set(session, 6, b"k", b"six") == (0, 1)
    assert driver.get(b"k")[1:] == (b"seven", 1, 3, 3)


def test_an_acknowledged_answer_is_forgotten_and_the_mark_only_rises(driver: Driver) -> None:
    session = driver.open()
    for number in (1, 2, 3):
        driver.set(session, number, b"k", b"v")
    driver.set(session, 4, b"k", b"v", acknowledged=2)
    assert driver.set(session, 2, b"k", b"v") == ALREADY_ANSWERED
    assert driver.set(session, 1, b"k", b"v") == ALREADY_ANSWERED, "the retry's older mark does not lower it"
    assert driver.set(session, 3, b"k", b"v") == (0, 3)
    assert driver.get(b"k")[4] == 4


def test_a_number_acknowledged_before_it_ever_arrived_is_not_executed(driver: Driver) -> None:
    session = driver.open()
    driver.set(session, 1000, b"k", b"v", acknowledged=999)
    assert driver.set(session, 5, b"k", b"late") == ALREADY_ANSWERED
    assert driver.get(b"k")[1] == b"v"


def test_a_large_step_of_the_mark_forgets_all_answers_below_it_and_no_other(driver: Driver) -> None:
    session = driver.open()
    for number in (1, 2, 10**15, 10**15 + 2):
        driver.set(session, number, b"k", b"v")
    driver.set(session, 10**15 + 3, b"k", b"v", acknowledged=10**15)
    assert driver.set(session, 10**15, b"k", b"v") == ALREADY_ANSWERED
    assert driver.set(session, 10**15 + 2, b"k", b"v") == (0, 4)


def test_an_error_of_the_command_itself_is_recorded_like_any_answer(driver: Driver) -> None:
    session = driver.open()
    first = driver.raw(encode_command(session, 1, 0, Op.CLOSE_SESSION)[:-1] + b"\x63")
    assert first[0] == ResultCode.BAD_COMMAND
    assert "unknown command 99" in first[1]
    assert driver.set(session, 1, b"k", b"v") == first, "the number has its answer"
    assert driver.machine.revision == 0


@pytest.mark.parametrize("session", [0, 1, 3, 2**64 - 1])
def test_a_session_that_was_never_opened_is_an_error_and_no_new_one(driver: Driver, session: int) -> None:
    driver.skip()
    assert driver.open() == 2
    assert driver.set(session, 1, b"k", b"v") == SESSION_UNKNOWN
    assert (driver.machine.session_count, driver.machine.revision) == (1, 0)


def test_a_closed_session_is_gone_with_its_answers(driver: Driver) -> None:
    session, other = driver.open(), driver.open()
    driver.set(session, 1, b"k", b"v")
    assert driver.command(session, 2, 1, Op.CLOSE_SESSION) == (0,)
    assert driver.machine.session_count == 1
    assert driver.command(session, 2, 1, Op.CLOSE_SESSION) == SESSION_UNKNOWN
    assert driver.set(session, 1, b"k", b"v") == SESSION_UNKNOWN
    assert driver.set(other, 1, b"k", b"v") == (0, 2)


def test_a_closing_with_arguments_closes_nothing(driver: Driver) -> None:
    session = driver.open()
    code, text = driver.raw(encode_command(session, 1, 0, Op.DELETE, b"k").replace(b"\x04", b"\x02", 1))
    assert (code, driver.machine.session_count) == (ResultCode.BAD_COMMAND, 1)
    assert "0 arguments" in text


def test_an_unanswered_command_is_not_executed_when_the_session_is_full(driver: Driver) -> None:
    session = driver.open()
    for number in range(2, MAX_UNANSWERED + 2):
        assert driver.command(session, number, 0, Op.DELETE, b"absent")[0] == 0
    before = driver.machine.revision
    assert driver.set(session, 1, b"k", b"v") == TOO_MANY_UNANSWERED
    assert driver.machine.revision == before
    assert driver.command(session, 2, 0, Op.DELETE, b"absent") == (0, False, 0), "a retry is answered all the same"
    # Not recorded: with one answer acknowledged there is room, and the number can still be executed.
    assert driver.set(session, MAX_UNANSWERED + 2, b"x", b"v", acknowledged=2)[0] == 0
    assert driver.set(session, MAX_UNANSWERED + 3, b"x", b"v", acknowledged=2) == TOO_MANY_UNANSWERED
    assert driver.set(session, MAX_UNANSWERED + 3, b"x", b"v", acknowledged=3)[0] == 0
    assert driver.command(session, MAX_UNANSWERED + 4, 3, Op.CLOSE_SESSION) == (0,), "a full session can be closed"


def test_trap_17_a_session_expires_by_log_time_at_the_entry_that_reaches_it(driver: Driver) -> None:
    session = driver.open()
    driver.time_ms += SESSION_TIMEOUT_MS - 1
    driver.skip()
    assert driver.machine.session_count == 1
    driver.time_ms += 1
    driver.skip()
    assert driver.machine.session_count == 0
    assert driver.set(session, 1, b"k", b"v") == SESSION_UNKNOWN


def test_trap_17_an_entry_that_comes_too_late_for_its_session_does_not_keep_it(driver: Driver) -> None:
    session = driver.open()
    driver.time_ms += SESSION_TIMEOUT_MS
    assert driver.set(session, 1, b"k", b"v") == SESSION_UNKNOWN
    assert (driver.machine.session_count, driver.machine.revision) == (0, 0)


def test_every_use_keeps_a_session_a_retry_and_an_error_too(driver: Driver) -> None:
    session = driver.open()
    driver.set(session, 1, b"k", b"v")
    for number, acknowledged in ((1, 0), (2, 1), (1, 0)):  # a retry, a first arrival, one that was acknowledged
        driver.time_ms += SESSION_TIMEOUT_MS - 1
        assert driver.set(session, number, b"k", b"v", acknowledged) != SESSION_UNKNOWN
    driver.time_ms += SESSION_TIMEOUT_MS
    assert driver.set(session, 3, b"k", b"v") == SESSION_UNKNOWN


def test_log_time_never_goes_back(driver: Driver) -> None:
    driver.time_ms = SESSION_TIMEOUT_MS
    driver.skip()
    driver.time_ms = 5  # the next leader's clock is behind
    session = driver.open()
    driver.time_ms = 2 * SESSION_TIMEOUT_MS - 1
    assert driver.set(session, 1, b"k", b"v") == (0, 1)
    driver.time_ms = 10
    driver.set(session, 2, b"k", b"v")
    driver.time_ms = 3 * SESSION_TIMEOUT_MS - 2
    assert driver.set(session, 3, b"k", b"v") == (0, 3)


def test_only_the_sessions_that_were_not_used_expire(driver: Driver) -> None:
    first, second, third = driver.open(), driver.open(), driver.open()
    driver.time_ms += SESSION_TIMEOUT_MS // 2
    driver.set(first, 1, b"k", b"v")
    driver.set(third, 1, b"k", b"v")
    driver.time_ms += SESSION_TIMEOUT_MS // 2
    driver.skip()
    assert driver.machine.session_count == 2
    assert driver.set(second, 1, b"k", b"v") == SESSION_UNKNOWN
    assert driver.set(first, 2, b"k", b"v") == (0, 3)


def test_one_session_more_than_may_be_ends_the_least_recently_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    driver = Driver()
    first, second, third = driver.open(), driver.open(), driver.open()
    driver.set(first, 1, b"k", b"v")
    fourth = driver.open()
    assert driver.machine.session_count == 3
    assert driver.set(second, 1, b"k", b"v") == SESSION_UNKNOWN
    for session in (first, third, fourth):
        assert driver.set(session, 2, b"k", b"v")[0] == ResultCode.OK


def test_an_expired_session_makes_room_before_a_living_one_has_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    driver = Driver()
    driver.open()
    driver.time_ms += SESSION_TIMEOUT_MS - 1
    living = driver.open()
    driver.time_ms += 1
    driver.open()
    assert driver.set(living, 1, b"k", b"v")[0] == ResultCode.OK


def test_the_bounds_are_the_documented_ones() -> None:
    assert (MAX_SESSIONS, MAX_UNANSWERED, SESSION_TIMEOUT_MS) == (10_000, 8192, 900_000)


def test_an_opening_with_arguments_opens_nothing(driver: Driver) -> None:
    code, text = driver.raw(b"\x95\x00\x00\x00\x01\xc4\x00")
    assert code == ResultCode.BAD_COMMAND
    assert "0 arguments" in text
    assert driver.machine.session_count == 0


def test_a_sessions_digest_follows_everything_that_happens_to_it() -> None:
    session = Session(7, 1_000)
    digests = [session.digest()]
    for change in (
        lambda: session.record({2: b"answer"}),
        lambda: session.record({1: b"answer"}),
        lambda: session.use(8, 1_000, 0),
        lambda: session.use(8, 1_001, 0),
        lambda: session.use(8, 1_001, 1),
    ):
        change()
        digests.append(session.digest())
        assert session.digest() == digests[-1]
    assert len(set(digests)) == len(digests)


def test_many_in_flight_shuffled_and_repeated_are_each_applied_once(driver: Driver) -> None:
    shuffle = random.Random(16)
    session = driver.open()
    first_answers: dict[int, tuple[object, ...]] = {}
    arrivals = [number for number in range(1, 201) for _ in range(3)]
    shuffle.shuffle(arrivals)
    for number in arrivals:
        answer = driver.set(session, number, b"counter", b"%d" % number)
        assert first_answers.setdefault(number, answer) == answer
    assert driver.get(b"counter")[4] == driver.machine.revision == 200
