"""Batches of writes: one entry, whose commands take effect and are answered as if each had come alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from batch_driver import KEYS_OF_LOG, VALUES, WRONG_COMMANDS, Command, Pair, any_command, send
from statemachine_driver import Driver

from zraft.statemachine import sessions
from zraft.statemachine.codec import MAX_KEY_BYTES, MAX_VALUE_BYTES, Op, ResultCode, columns_of_sets, pack_batch
from zraft.statemachine.sessions import MAX_UNANSWERED, SESSION_TIMEOUT_MS, Session

MOST = 2**64 - 1


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_each_command_of_a_batch_has_an_effect_and_an_answer_of_its_own(driver: Driver) -> None:
    session = driver.open()
    assert send(
        driver, session, 1, 0,
        (Op.SET, b"a", b"1"), (Op.CAS, b"a", b"1", b"2"), (Op.CAS, b"a", b"1", b"3"), (Op.DELETE, b"b"),
        (Op.SET, "a", b"9"), (Op.SET, b"b", b""), (Op.DELETE, b"a"), (Op.CAS, b"a", None, b"4"),
    ) == [
        (0, 1), (0, True, 2), (0, False, 2), (0, False, 2),
        (ResultCode.BAD_COMMAND, "key must be bytes, not str"), (0, 3), (0, True, 4), (0, True, 5),
    ]  # fmt: skip
    assert driver.keys() == [(b"a", b"4", 5, 5, 1), (b"b", b"", 3, 3, 1)]
    assert (driver.machine.last_applied, driver.machine.revision, driver.machine.key_count) == (2, 5, 2)
    assert send(driver, session, 9, 8, (Op.SET, b"b", b"1"), (Op.SET, b"b", b"2"), (Op.SET, b"c", b"3")) == [
        (0, 6), (0, 7), (0, 8),
    ]  # fmt: skip
    assert driver.keys() == [(b"a", b"4", 5, 5, 1), (b"b", b"2", 3, 7, 3), (b"c", b"3", 8, 8, 1)]


@pytest.mark.parametrize("commands", [[(Op.SET, b"k", b"v")] * 2, [(Op.SET, b"k", b"v"), (Op.DELETE, b"k")]])
@pytest.mark.parametrize("session", [0, 1, 3, MOST])
def test_a_batch_of_no_session_has_one_answer_and_no_effect(
    driver: Driver, session: int, commands: list[Command]
) -> None:
    driver.skip()
    assert driver.open() == 2
    assert driver.raw(pack_batch(session, 1, 0, commands)) == (ResultCode.SESSION_UNKNOWN,)
    assert (driver.machine.session_count, driver.machine.revision, driver.machine.last_applied) == (1, 0, 3)


def test_trap_17_a_batch_keeps_its_session_and_one_that_comes_too_late_does_not(driver: Driver) -> None:
    session = driver.open()
    for number in (1, 3):
        driver.time_ms += SESSION_TIMEOUT_MS - 1
        assert len(send(driver, session, number, 0, (Op.SET, b"k", b"v"), (Op.SET, b"l", b"v"))) == 2
    driver.time_ms += SESSION_TIMEOUT_MS
    assert driver.raw(pack_batch(session, 5, 0, [(Op.SET, b"k", b"v")])) == (ResultCode.SESSION_UNKNOWN,)
    assert (driver.machine.session_count, driver.machine.revision) == (0, 4)


# ---- as one by one -----------------------------------------------------------------------------------------------


def any_commands(rng: random.Random) -> list[Command]:
    count = rng.choice([1, 2, 3, 5, 8, 13])
    if rng.random() < 0.5:
        return [(Op.SET, rng.choice(KEYS_OF_LOG), rng.choice(VALUES)) for _ in range(count)]
    wrong = rng.choice([0.0, 0.3])
    return [any_command(rng, wrong) for _ in range(count)]


def run(seed: int, pair: Pair) -> None:
    """A random log of few keys and few numbers: copies in other groupings, late ones, full sessions are among it."""
    rng = random.Random(seed)
    opened: list[int] = []
    sent: list[tuple[int, int, int, list[Command]]] = []
    tops: dict[int, int] = {}
    for _ in range(250):
        if len(opened) < 2 or rng.random() < 0.03:
            opened.append(pair.open())
        if rng.random() < 0.1:
            pair.move(rng.choice([-50, 1, 40, 40, SESSION_TIMEOUT_MS // 2, SESSION_TIMEOUT_MS]))
        if sent and rng.random() < 0.3:
            pair.send(*rng.choice(sent[-5:]))
            continue
        session = rng.choice([*opened[-2:]] * 5 + [opened[0], 77_777])
        top = tops.get(session, 0)
        first = max(1, top + 1 - rng.choice([0, 0, 0, 1, 3, 8, 20]) + rng.choice([0, 0, 0, 2]))
        acknowledged = max(0, first - 1 - rng.choice([0, 2, 10, 14, 30, 40, 100]))
        commands = any_commands(rng)
        tops[session] = max(top, first + len(commands) - 1)
        sent.append((session, first, acknowledged, commands))
        pair.send(*sent[-1])


@pytest.mark.parametrize("seed", range(30))
def test_a_batch_does_what_its_commands_do_one_by_one(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Few, so that sessions are often full and often have just room for a part of a batch.
    monkeypatch.setattr(sessions, "MAX_UNANSWERED", 16)
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    pair = Pair()
    run(seed, pair)
    assert pair.codes == set(ResultCode)
    assert pair.single.machine.revision > 100
    assert pair.batched.replayed().state_hash == pair.single.machine.state_hash


@pytest.mark.parametrize("seed", range(8))
def test_the_quick_way_of_right_sets_does_what_the_slow_one_does(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_UNANSWERED", 40)
    pair = Pair()
    run(seed, pair)
    quick = 0

    def never(session: Session, first: int, count: int) -> bool:
        nonlocal quick
        quick += expects(session, first, count)
        return False

    expects = Session.expects
    monkeypatch.setattr(Session, "expects", never)
    assert pair.batched.replayed().state_hash == pair.batched.machine.state_hash
    assert quick > 20


@pytest.mark.parametrize("room", range(5))
@pytest.mark.parametrize("last", [(Op.SET, b"z", b"v"), (Op.DELETE, b"z")], ids=["sets alone", "others too"])
def test_a_session_takes_as_many_commands_of_a_batch_as_it_has_room_for(room: int, last: Command) -> None:
    pair = Pair()
    session = pair.open()
    first = MAX_UNANSWERED - room + 1
    for number in range(1, first, 64):
        pair.send(session, number, 0, [(Op.DELETE, b"absent")] * min(64, first - number))
    commands = [*((Op.SET, b"k %d" % at, b"v") for at in range(3)), last]
    pair.send(session, first, 0, commands)
    assert len(pair.batched.machine._sessions.find(session, 0).answers) == min(MAX_UNANSWERED, first + 3)  # type: ignore[union-attr]
    assert (ResultCode.TOO_MANY_UNANSWERED in pair.codes) == (room < 4)
    # What was not executed still can be, when the client has acknowledged enough.
    pair.send(session, first, 4 - room, commands)
    held = pair.batched.keys()
    assert {entry[0] for entry in held} >= {b"k 0", b"k 1", b"k 2"}


@pytest.mark.parametrize("wrong", WRONG_COMMANDS, ids=range(len(WRONG_COMMANDS)))
@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_command_with_wrong_arguments_fails_alone(wrong: Command, at: int) -> None:
    pair = Pair()
    session = pair.open()
    commands: list[Command] = [(Op.SET, b"a", b"1"), (Op.SET, b"b", b"2")]
    commands.insert(at, wrong)
    pair.send(session, 1, 0, commands)
    assert pair.codes == {ResultCode.OK, ResultCode.BAD_COMMAND}
    held = pair.batched.keys()
    assert [entry[:2] for entry in held] == [(b"a", b"1"), (b"b", b"2")]
    pair.send(session, 1, 0, commands)


def test_the_largest_keys_and_values_and_the_last_numbers_are_taken_in_batches(driver: Driver) -> None:
    session = driver.open()
    commands = [(Op.SET, b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES), (Op.SET, b"", b"")]
    assert columns_of_sets(commands) is not None
    assert send(driver, session, MOST - 1, 0, *commands) == [(0, 1), (0, 2)]
    assert driver.set(session, MOST, b"x", b"v") == (0, 2)


# ---- exactly once ------------------------------------------------------------------------------------------------


def groupings(rng: random.Random, count: int) -> Iterator[tuple[int, int]]:
    """Parts (first, end) of 0..count, one after the other."""
    first = 0
    while first < count:
        end = rng.randint(first + 1, count)
        yield first, end
        first = end


@pytest.mark.parametrize("is_mixed", [False, True], ids=["sets alone", "others too"])
def test_trap_16_a_batch_is_exactly_once_sent_again_whole_in_parts_or_in_other_groupings(
    driver: Driver, is_mixed: bool
) -> None:
    session, rng = driver.open(), random.Random(16)
    commands: list[Command] = [(Op.SET, b"k%d" % (at % 5), b"%d" % at) for at in range(40)]
    if is_mixed:
        commands[7::5] = [(Op.DELETE, b"k%d" % (at % 5)) for at in range(7)]
        commands[9::5] = [(Op.CAS, b"k1", b"%d" % at, b"swapped") for at in range(7)]
    answers = send(driver, session, 1, 0, *commands)
    assert all(answer[0] == ResultCode.OK for answer in answers)
    before = driver.keys(), driver.machine.revision
    for _ in range(50):
        parts = list(groupings(rng, len(commands)))
        rng.shuffle(parts)
        for first, end in parts:
            assert send(driver, session, first + 1, 0, *commands[first:end]) == answers[first:end]
    for number, (op, *arguments) in enumerate(commands, start=1):
        assert driver.command(session, number, 0, op, *arguments) == answers[number - 1]
    assert (driver.keys(), driver.machine.revision) == before


def test_trap_16_of_overlapping_batches_each_command_is_applied_once(driver: Driver) -> None:
    session, rng = driver.open(), random.Random(61)
    answers: dict[int, Any] = {}
    while len(answers) < 200:
        first = rng.randint(1, 200)
        numbers = range(first, min(200, first + rng.randint(0, 15)) + 1)
        sets = [(Op.SET, b"counter", b"%d" % number) for number in numbers]
        for number, answer in zip(numbers, send(driver, session, first, 0, *sets), strict=True):
            assert answers.setdefault(number, answer) == answer
    assert driver.get(b"counter")[4] == driver.machine.revision == 200
    assert sorted(revision for _, revision in answers.values()) == list(range(1, 201))


def test_a_batch_of_what_was_acknowledged_is_not_executed(driver: Driver) -> None:
    session = driver.open()
    sets = [(Op.SET, b"k", b"%d" % number) for number in range(1, 7)]
    send(driver, session, 1, 0, *sets[:4])
    assert send(driver, session, 5, 3, sets[4]) == [(0, 5)]
    acknowledged = (ResultCode.ALREADY_ANSWERED,)
    assert send(driver, session, 1, 0, *sets) == [acknowledged, acknowledged, acknowledged, (0, 4), (0, 5), (0, 6)]
    assert driver.get(b"k") == (b"k", b"6", 1, 6, 6)
    # Acknowledged before it ever arrived, and no answers in the way.
    other = driver.open()
    driver.command(other, 1000, 3, Op.DELETE, b"absent")
    assert send(driver, other, 1, 0, *sets) == [acknowledged] * 3 + [(0, 7), (0, 8), (0, 9)]


def test_what_a_session_has_room_for_is_counted_once_for_a_batch(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counting goes through all answers: once for each command, one batch would keep a node for a tenth of a second."""
    counted = []
    original = Session.room

    def room(session: Session, acknowledged: int, wanted: int) -> int:
        counted.append(wanted)
        return original(session, acknowledged, wanted)

    monkeypatch.setattr(Session, "room", room)
    assert len(send(driver, driver.open(), 1, 0, *[(Op.DELETE, b"k")] * 9)) == 9
    assert counted == [9]
