"""The machine as the applier sees it: contiguous, atomic, deterministic, and never raising for any bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from hashlib import blake2b

import pytest
from statemachine_driver import Driver

from zraft.errors import ImpossibleState
from zraft.statemachine import codec
from zraft.statemachine import machine as machine_module
from zraft.statemachine import store as store_module
from zraft.statemachine.codec import Op, Query, ResultCode, decode_result, encode_command, encode_query, pack_batch
from zraft.statemachine.frozen import FrozenState
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.sessions import FrozenSessions, Session, Sessions
from zraft.statemachine.store import FrozenKeys, Plan, Store


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


def drain(frozen: FrozenState) -> list[bytes]:
    return list(iter(lambda: frozen.next_chunk(1), None))  # type: ignore[arg-type]


Failure = Callable[[StateMachine, pytest.MonkeyPatch, int], list[str]]


def fail_at(call: int, patch: pytest.MonkeyPatch, *places: tuple[object, str]) -> list[str]:
    """Have the `call`-th call of any of the places fail; what is returned lists the calls so far."""
    calls: list[str] = []

    def failing(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def instead(*arguments: object, **named: object) -> object:
            calls.append(name)
            if len(calls) == call:
                raise MemoryError
            return original(*arguments, **named)

        return instead

    for owner, name in places:
        patch.setattr(owner, name, failing(name, getattr(owner, name)))
    return calls


def break_answer(machine: StateMachine, patch: pytest.MonkeyPatch, call: int) -> list[str]:
    return fail_at(call, patch, (machine_module, "encode_result"), (machine_module, "encode_revisions"))


def break_decoding(machine: StateMachine, patch: pytest.MonkeyPatch, call: int) -> list[str]:
    places = [(machine_module, name) for name in ("decode_command", "columns_of_sets", "check_arguments")]
    return fail_at(call, patch, *places, (codec, "unpack_fields"))


def break_planning(machine: StateMachine, patch: pytest.MonkeyPatch, call: int) -> list[str]:
    places = [(Plan, name) for name in ("set", "set_all", "delete", "cas")]
    return fail_at(call, patch, (Store, "plan"), *places, (store_module, "begin_digest"))


def break_order(machine: StateMachine, patch: pytest.MonkeyPatch, call: int) -> list[str]:
    keys = machine._store._keys
    return fail_at(call, patch, (keys, "update"), (keys, "add"), (keys, "remove"))


def break_lookup(machine: StateMachine, patch: pytest.MonkeyPatch, call: int) -> list[str]:
    return fail_at(call, patch, (Sessions, "find"), (Session, "expects"), (Session, "room"))


def break_keeping(machine: StateMachine, patch: pytest.MonkeyPatch, call: int) -> list[str]:
    """What is about to change is put aside for a frozen state; it may be put aside without changing then."""
    if machine._frozen is None:
        machine.freeze()
    return fail_at(call, patch, (FrozenKeys, "keep"), (FrozenSessions, "keep"))


BREAKS = [break_answer, break_decoding, break_planning, break_order, break_lookup, break_keeping]
NEW_SET, NEW_CAS, DELETION = (Op.SET, b"new", b"v"), (Op.CAS, b"x", None, b"w"), (Op.DELETE, b"k")
TRAP_18 = {
    "set": [NEW_SET],
    "delete": [DELETION],
    "cas": [NEW_CAS],
    "batch of sets": [(Op.SET, b"a", b"1"), (Op.SET, b"k", b"w"), NEW_SET, (Op.SET, b"a", b"2")],
    "batch of deletions": [DELETION, (Op.DELETE, b"l")],
    "batch of all": [NEW_SET, (Op.SET, b"k", b"w"), NEW_CAS, DELETION, (Op.SET, b"k", b"back"), (Op.DELETE, b"l")],
    "batch that orders much anew": [*((Op.SET, b"a %d" % at, b"v") for at in range(9)), (Op.DELETE, b"l"), DELETION],
}


@pytest.mark.parametrize("breaks", BREAKS)
@pytest.mark.parametrize("name", TRAP_18)
@pytest.mark.parametrize("keys", [0, 60], ids=["few keys", "many keys"])
def test_trap_18_an_exception_leaves_the_state_and_its_index_as_they_were(
    driver: Driver, breaks: Failure, name: str, keys: int
) -> None:
    session = driver.open()
    driver.set(session, 1, b"k", b"v")
    driver.set(session, 2, b"l", b"v")
    for number in range(3, keys + 3):
        driver.set(session, number, b"other %d" % number, b"v", acknowledged=0)
    machine = driver.machine
    # A time that expires nothing, an acknowledgement that forgets an answer: all of it must wait for the whole.
    (op, *arguments), *more = TRAP_18[name]
    if more:
        data = pack_batch(session, keys + 3, 1, TRAP_18[name])
    else:
        data = encode_command(session, keys + 3, 1, op, *arguments)

    def state() -> tuple[object, ...]:
        store = machine._store
        order = list(store._keys)
        assert set(order) == store._records.keys()
        return machine.state_hash, machine.last_applied, machine.revision, machine.key_count, order, driver.keys()

    before, pieces = state(), drain(driver.replayed().freeze())
    driver.time_ms = 9_000
    for call in range(1, 100):  # each call on the way fails once, then none
        with pytest.MonkeyPatch.context() as patch:
            calls = breaks(machine, patch, call)
            try:
                machine.apply(machine.last_applied + 1, driver.time_ms, data)
            except MemoryError:
                assert len(calls) >= call  # more: what puts it right again
            else:
                assert len(calls) == call - 1, f"a failure of {calls[call - 1]} was swallowed"
                break
        assert state() == before, f"after a failure of {calls[call - 1]}, call {call} of {calls}"
    assert call > 1, "nothing was broken"
    assert machine._frozen is None or drain(machine._frozen) == pieces
    driver.entries.append((driver.time_ms, data))
    assert state()[4] == sorted(machine._store._records)
    assert machine.last_applied == keys + 4
    assert machine.state_hash == driver.replayed().state_hash


PLANNING = {"set": (Op.SET, b"k", b"v"), "delete": (Op.DELETE, b"k"), "cas": (Op.CAS, b"k", None, b"v")}


@pytest.mark.parametrize("broken", PLANNING)
def test_a_command_that_raises_is_a_result_and_wedges_nothing(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    session = driver.open()

    def raises(*_: object) -> None:
        raise ValueError("at 0x7f00")

    op, *arguments = PLANNING[broken]
    with monkeypatch.context() as patch:
        patch.setattr(Plan, broken, raises)
        answer = driver.command(session, 1, 0, op, *arguments)
    assert answer == (ResultCode.BAD_COMMAND, "the command failed: ValueError")
    assert driver.command(session, 1, 0, op, *arguments) == answer
    assert driver.set(session, 2, b"k", b"v") == (0, 1)


@pytest.mark.parametrize("has_others", [False, True], ids=["sets alone", "others too"])
def test_a_command_of_a_batch_that_raises_fails_alone(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, has_others: bool
) -> None:
    session = driver.open()
    commands = [(Op.SET, b"a", b"1"), (Op.SET, b"b", b"2"), (Op.SET, b"c", b"3")]
    if has_others:
        commands.append((Op.DELETE, b"c"))  # type: ignore[arg-type]

    class RaisesForB:
        def __init__(self) -> None:
            self.hasher = blake2b(digest_size=8)

        def update(self, data: bytes) -> None:
            if data.endswith(b"b2"):
                raise ValueError("at 0x7f00")
            self.hasher.update(data)

        def digest(self) -> bytes:
            return self.hasher.digest()

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "begin_digest", RaisesForB)
        code, answers = driver.raw(pack_batch(session, 1, 0, commands))
    failed = (ResultCode.BAD_COMMAND, "the command failed: ValueError")
    expected = [(0, 1), failed, (0, 2), (0, True, 3)]
    assert (code, [decode_result(answer) for answer in answers]) == (0, expected[: len(commands)])
    left = [(b"a", b"1", 1, 1, 1), (b"c", b"3", 2, 2, 1)]
    assert driver.keys() == left[: 1 if has_others else 2]
    assert driver.set(session, 2, b"b", b"2") == failed
    assert driver.set(session, 9, b"b", b"2") == (0, len(commands))


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
