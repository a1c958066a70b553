"""Properties of the machine under random logs: it never raises, equals a naive model, and replays to itself."""

from __future__ import annotations

from typing import Any

import msgpack
from hypothesis import given, settings
from hypothesis import strategies as st
from statemachine_driver import Driver

from zraft.statemachine.codec import Op, ResultCode, encode_command
from zraft.statemachine.sessions import SESSION_TIMEOUT_MS

scalars = st.none() | st.booleans() | st.integers(-2, 8) | st.binary(max_size=3) | st.text(max_size=2) | st.floats()
garbage = st.binary(max_size=30) | st.lists(scalars, max_size=8).map(msgpack.packb)


@given(st.lists(garbage, max_size=30))
@settings(deadline=None, derandomize=True)
def test_apply_and_query_answer_any_bytes(entries: list[bytes]) -> None:
    driver = Driver()
    driver.open()
    for data in entries:
        before = driver.machine.state_hash
        driver.machine.query(data)
        assert driver.machine.state_hash == before
        code, *_ = driver.raw(data)
        assert code in set(ResultCode)
    assert driver.machine.last_applied == 1 + len(entries)
    assert driver.replayed().state_hash == driver.machine.state_hash


class Model:
    """What the machine should be, the slow and plain way: every answer ever given is kept, nothing is incremental."""

    def __init__(self) -> None:
        self.keys: dict[bytes, tuple[bytes, int, int, int]] = {}
        self.revision = 0
        self.answers: dict[tuple[int, int], tuple[Any, ...]] = {}
        self.marks: dict[int, int] = {}
        self.last_used_ms: dict[int, int] = {}
        self.now_ms = 0

    def tick(self, time_ms: int) -> None:
        self.now_ms = max(self.now_ms, time_ms)
        for session, used_ms in list(self.last_used_ms.items()):
            if self.now_ms - used_ms >= SESSION_TIMEOUT_MS:
                del self.last_used_ms[session]

    def open(self, index: int) -> None:
        self.last_used_ms[index] = self.now_ms
        self.marks[index] = 0

    def command(self, session: int, number: int, acknowledged: int, op: Op, arguments: tuple[Any, ...]) -> Any:
        if session not in self.last_used_ms:
            return (ResultCode.SESSION_UNKNOWN,)
        self.last_used_ms[session] = self.now_ms
        mark, self.marks[session] = self.marks[session], max(self.marks[session], acknowledged)
        if number <= mark:
            return (ResultCode.ALREADY_ANSWERED,)
        if (session, number) not in self.answers:
            self.answers[session, number] = self.execute(op, *arguments)
        return self.answers[session, number]

    def execute(self, op: Op, key: bytes, *values: Any) -> tuple[Any, ...]:
        held = self.keys.get(key)
        if op == Op.DELETE:
            done = self.keys.pop(key, None) is not None
            self.revision += done
            return (0, done, self.revision)
        if op == Op.CAS and (held[0] if held else None) != values[0]:
            return (0, False, self.revision)
        self.revision += 1
        created, version = (held[1], held[3] + 1) if held else (self.revision, 1)
        self.keys[key] = (values[-1], created, self.revision, version)
        return (0, self.revision) if op == Op.SET else (0, True, self.revision)


keys = st.sampled_from([b"a", b"b", b"c"])
values = st.sampled_from([b"", b"x", b"y"])
operations = st.one_of(
    st.tuples(st.just(Op.SET), keys, values),
    st.tuples(st.just(Op.DELETE), keys),
    st.tuples(st.just(Op.CAS), keys, st.none() | values, values),
)
# Each distinct command of a session is drawn once, then arrives in any order and any number of times.
steps = st.lists(
    st.one_of(
        st.just(("open",)),
        st.tuples(st.just("command"), st.integers(0, 3), st.integers(1, 8), st.integers(0, 4)),
        st.tuples(st.just("time"), st.integers(-10, SESSION_TIMEOUT_MS // 2)),
    ),
    max_size=60,
)


@given(st.lists(operations, min_size=8, max_size=8), steps)
@settings(deadline=None, derandomize=True, max_examples=200)
def test_the_machine_equals_a_naive_model(commands: list[Any], steps: list[Any]) -> None:
    driver, model = Driver(), Model()
    opened: list[int] = [77]
    for kind, *detail in steps:
        if kind == "time":
            driver.time_ms += detail[0]
            driver.skip()
            model.tick(driver.time_ms)
        elif kind == "open":
            opened.append(driver.open())
            model.tick(driver.time_ms)
            model.open(opened[-1])
        else:
            which, number, behind = detail
            session = opened[-1 - which % len(opened)]
            acknowledged = max(0, number - 1 - behind)
            op, *arguments = commands[number - 1]
            model.tick(driver.time_ms)
            expected = model.command(session, number, acknowledged, op, tuple(arguments))
            assert driver.raw(encode_command(session, number, acknowledged, op, *arguments)) == expected
    assert driver.keys() == [(key, *model.keys[key]) for key in sorted(model.keys)]
    assert driver.machine.revision == model.revision
    assert driver.machine.session_count == len(model.last_used_ms)
    assert driver.replayed().state_hash == driver.machine.state_hash
