"""The machine as the applier sees it: contiguous, atomic, deterministic, and never raising for any bytes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable

import msgpack
import pytest
from statemachine_driver import Driver

from zraft.errors import ImpossibleState
from zraft.statemachine import machine as machine_module
from zraft.statemachine.codec import MAX_KEY_BYTES, Op, Query, ResultCode, decode_result, encode_command, encode_query
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.sessions import SESSION_TIMEOUT_MS, Sessions
from zraft.statemachine.store import Store


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_an_empty_machine() -> None:
    machine = StateMachine()
    assert (machine.last_applied, machine.revision, machine.key_count, machine.session_count) == (0, 0, 0, 0)
    assert machine.state_hash == StateMachine().state_hash
    assert len(machine.state_hash) == 16
    assert int(machine.state_hash, 16) >= 0


def test_results_of_the_commands(driver: Driver) -> None:
    session = driver.open()
    assert driver.set(session, 1, b"k", b"v") == (0, 1)
    assert driver.command(session, 2, 0, Op.CAS, b"k", b"x", b"w") == (0, False, 1)
    assert driver.command(session, 3, 0, Op.CAS, b"k", b"v", b"w") == (0, True, 2)
    assert driver.command(session, 4, 0, Op.DELETE, b"absent") == (0, False, 2)
    assert driver.command(session, 5, 0, Op.DELETE, b"k") == (0, True, 3)
    assert driver.command(session, 6, 0, Op.CAS, b"k", None, b"x") == (0, True, 4)
    assert (driver.machine.revision, driver.machine.key_count, driver.machine.last_applied) == (4, 1, 7)


def test_results_of_the_queries(driver: Driver) -> None:
    session = driver.open()
    for number, key in enumerate((b"a", b"b", b"c"), start=1):
        driver.set(session, number, key, key.upper())

    def query(query: Query, *arguments: bytes | int | None) -> tuple[object, ...]:
        return decode_result(driver.machine.query(encode_query(query, *arguments)))

    assert query(Query.GET, b"b") == (0, (b"b", b"B", 2, 2, 1), 3)
    assert query(Query.GET, b"x") == (0, None, 3)
    assert query(Query.RANGE, b"b", None, 1, 1000) == (0, ((b"b", b"B", 2, 2, 1),), True, 3)
    assert query(Query.RANGE, b"b", b"c", 9, 1000) == (0, ((b"b", b"B", 2, 2, 1),), False, 3)


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x92\x01\xa1k", b"\xdd\xff\xff\xff\xff", b"\x93\x01\x01\x01"])
def test_a_bad_query_is_answered_and_changes_nothing(driver: Driver, data: bytes) -> None:
    before = driver.machine.state_hash
    code, text = decode_result(driver.machine.query(data))
    assert code == ResultCode.BAD_COMMAND
    assert text
    assert driver.machine.state_hash == before


@pytest.mark.parametrize("data", [b"", b"garbage", b"\x94\x01\x01\x00\xa13", b"\xdd\xff\xff\xff\xff"])
def test_a_bad_command_is_a_result_and_the_next_entry_goes_on(driver: Driver, data: bytes) -> None:
    session = driver.open()
    code, text = driver.raw(data)
    assert code == ResultCode.BAD_COMMAND
    assert text
    assert driver.machine.last_applied == 2
    assert driver.set(session, 1, b"k", b"v") == (0, 1)


@pytest.mark.parametrize("index", [-1, 0, 1, 3])
def test_entries_are_taken_one_after_the_other(driver: Driver, index: int) -> None:
    session = driver.open()
    data = encode_command(session, 1, 0, Op.SET, b"k", b"v")
    with pytest.raises(ImpossibleState, match=f"index={index}, last_applied=1"):
        driver.machine.apply(index, 0, data)
    with pytest.raises(ImpossibleState, match=f"index={index}, last_applied=1"):
        driver.machine.skip(index, 0)
    assert (driver.machine.last_applied, driver.machine.revision) == (1, 0)


def fail(*_: object, **__: object) -> None:
    raise MemoryError


def break_answer(machine: StateMachine, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machine_module, "encode_result", fail)


def break_decoding(machine: StateMachine, patch: pytest.MonkeyPatch) -> None:
    for decode in ("decode_command", "unpack_fields"):
        patch.setattr(machine_module, decode, fail)


def break_planning(machine: StateMachine, patch: pytest.MonkeyPatch) -> None:
    for plan in ("plan_set", "plan_delete", "plan_cas"):
        patch.setattr(Store, plan, fail)


def break_order(machine: StateMachine, patch: pytest.MonkeyPatch) -> None:
    for change in ("add", "remove"):
        patch.setattr(machine._store._keys, change, fail)


def break_lookup(machine: StateMachine, patch: pytest.MonkeyPatch) -> None:
    for look_up in ("find", "expecting"):
        patch.setattr(Sessions, look_up, fail)


@pytest.mark.parametrize("breaks", [break_answer, break_decoding, break_planning, break_order, break_lookup])
@pytest.mark.parametrize(
    ("op", "arguments"), [(Op.SET, (b"new", b"v")), (Op.DELETE, (b"k",)), (Op.CAS, (b"x", None, b"w"))]
)
def test_trap_18_an_exception_leaves_the_state_and_its_index_as_they_were(
    driver: Driver, breaks: Callable[[StateMachine, pytest.MonkeyPatch], None], op: Op, arguments: tuple[bytes, ...]
) -> None:
    session = driver.open()
    driver.set(session, 1, b"k", b"v")
    driver.set(session, 2, b"l", b"v")
    machine = driver.machine
    # A time that expires nothing, an acknowledgement that forgets an answer: all of it must wait for the whole.
    data = encode_command(session, 3, 1, op, *arguments)
    before = (machine.state_hash, machine.last_applied, machine.revision, machine.key_count, driver.keys())
    with pytest.MonkeyPatch.context() as patch:
        breaks(machine, patch)
        with pytest.raises(MemoryError):
            machine.apply(4, 9_000, data)
    assert (machine.state_hash, machine.last_applied, machine.revision, machine.key_count, driver.keys()) == before
    driver.time_ms = 9_000
    assert driver.raw(data)[0] == ResultCode.OK
    assert machine.state_hash == driver.replayed().state_hash


def any_command(rng: random.Random, sessions: list[int]) -> bytes:
    """Mostly sets, of few keys and numbers, so that copies, late ones and full sessions are among them; some wrong."""
    fields: list[object] = [rng.choice([*sessions, 77]), rng.randrange(0, 40), rng.randrange(0, 12), int(Op.SET)]
    fields += rng.choice(
        [[b"k%d" % rng.randrange(4), b"v%d" % rng.randrange(9)]] * 6 + [[b"k"], ["k", b"v"], [b"k", 1]]
    )
    if rng.random() < 0.1:
        fields[rng.randrange(4)] = rng.choice([True, -1, 1.0, None, b"", int(Op.DELETE), 2**64 - 1])
    if rng.random() < 0.05:
        fields[4] = bytes(MAX_KEY_BYTES + rng.randrange(2))
    return b"garbage" if rng.random() < 0.02 else msgpack.packb(fields)


@pytest.mark.parametrize("seed", range(20))
def test_the_short_way_of_a_set_does_what_the_long_one_does(seed: int) -> None:
    rng = random.Random(seed)
    short, long = StateMachine(), StateMachine()
    sessions: list[int] = []
    time_ms = 0
    for index in range(1, 600):
        time_ms += rng.choice([-5, 1, 40]) if rng.random() < 0.98 else SESSION_TIMEOUT_MS
        data = any_command(rng, sessions[-3:])
        if len(sessions) < 3 or rng.random() < 0.05:
            sessions.append(index)
            data = encode_command(0, 0, 0, Op.OPEN_SESSION)
        answer = short.apply(index, time_ms, data)
        assert answer == long._apply_any(index, max(long.log_time_ms, time_ms), data)
        assert short.state_hash == long.state_hash
    assert short.revision > 20


def test_a_command_that_raises_is_a_result_and_wedges_nothing(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    session = driver.open()

    def raises(*_: object) -> None:
        raise ValueError("at 0x7f00")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "plan_set", raises)
        answer = driver.set(session, 1, b"k", b"v")
    assert answer == (ResultCode.BAD_COMMAND, "the command failed: ValueError")
    assert driver.set(session, 1, b"k", b"v") == answer
    assert driver.set(session, 2, b"k", b"v") == (0, 1)


# ---- the hash ----------------------------------------------------------------------------------------------------


def varied_log(driver: Driver) -> None:
    """A short log that leaves keys, deleted keys, several sessions, kept and forgotten answers."""
    first, second = driver.open(), driver.open()
    for number in range(1, 20):
        driver.time_ms += 7
        driver.set(first, number, b"key-%d" % (number % 5), b"value-%d" % number, acknowledged=number // 2)
        driver.command(second, 20 - number, 0, Op.DELETE, b"key-%d" % (number % 3))
    driver.skip()
    driver.raw(b"garbage")
    closed = driver.open()
    driver.command(closed, 1, 0, Op.CLOSE_SESSION)


def test_the_same_log_gives_the_same_state_and_hash(driver: Driver) -> None:
    varied_log(driver)
    assert driver.replayed().state_hash == driver.machine.state_hash
    assert driver.machine.state_hash == driver.machine.state_hash


def test_the_hash_is_the_same_in_every_process_and_version(driver: Driver) -> None:
    # A fixed number: nodes of one cluster may run different Python versions, and compare hashes all the same.
    varied_log(driver)
    assert driver.machine.state_hash == "ba88fca0b43045be"
    script = "import test_state_machine as t; d = t.Driver(); t.varied_log(d); print(d.machine.state_hash)"
    for seed in ("1", "2"):
        paths = os.pathsep.join(path for path in sys.path if path)
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.strip() == driver.machine.state_hash


def test_the_hash_does_not_depend_on_the_way_to_the_state() -> None:
    hashes = set()
    for key in (b"x", b"y"):
        for numbers in ((1, 2, 3), (3, 1, 2)):
            driver = Driver()
            session = driver.open()
            driver.set(session, 10, key, b"v")
            driver.command(session, 11, 10, Op.DELETE, key)
            driver.set(session, 12, b"k", b"v", acknowledged=11)
            other = driver.open()
            for number in numbers:
                driver.command(other, number, 0, Op.DELETE, b"absent")
            hashes.add(driver.machine.state_hash)
    assert len(hashes) == 1


def test_the_hash_tells_states_apart() -> None:
    def state(*commands: tuple[object, ...], skip_ms: int = 0) -> str:
        driver = Driver()
        session = driver.open()
        for number, acknowledged, op, *arguments in commands:
            driver.command(session, number, acknowledged, op, *arguments)  # type: ignore[arg-type]
        driver.time_ms += skip_ms
        driver.skip()
        return driver.machine.state_hash

    states = [
        state(),
        state(skip_ms=1),
        state((1, 0, Op.SET, b"k", b"v")),
        state((1, 0, Op.SET, b"k", b"w")),
        state((1, 0, Op.SET, b"l", b"v")),
        state((2, 0, Op.SET, b"k", b"v")),
        state((2, 1, Op.SET, b"k", b"v")),
        state((1, 0, Op.CAS, b"k", None, b"v")),
        state((1, 0, Op.DELETE, b"k")),
        state((1, 0, Op.SET, b"k", b"v"), (2, 1, Op.SET, b"k", b"v")),
        state((1, 0, Op.SET, b"k", b"v"), (2, 0, Op.SET, b"k", b"v")),
        state((1, 0, Op.SET, b"k", b"v"), (2, 0, Op.DELETE, b"k"), (3, 2, Op.SET, b"k", b"v")),
        state((1, 0, Op.SET, b"j", b"v"), (2, 0, Op.SET, b"k", b"v"), (3, 2, Op.DELETE, b"j")),
        state((1, 0, Op.CLOSE_SESSION)),
    ]
    assert len(set(states)) == len(states)
