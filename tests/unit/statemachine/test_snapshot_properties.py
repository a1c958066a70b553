"""Random commands with a freeze, its pieces, its release and a restore at every point between them."""

from __future__ import annotations

from typing import Any
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from statemachine_driver import Driver

from zraft.statemachine import sessions, store
from zraft.statemachine.codec import Op, encode_command, pack_batch
from zraft.statemachine.frozen import FrozenState
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.sessions import SESSION_TIMEOUT_MS
from zraft.statemachine.snapshot import Restoring

keys = st.binary(max_size=2) | st.sampled_from([b"a", b"b", b"c", b"d", b"e"])
values = st.sampled_from([b"", b"x", b"a longer value"])
batched = st.one_of(
    st.tuples(st.just(Op.SET), keys, values),
    st.tuples(st.just(Op.DELETE), keys),
    st.tuples(st.just(Op.CAS), keys, st.none() | values, values),
)


class Snapshots(RuleBasedStateMachine):
    """A machine that is frozen again and again, and restored copies of it that are fed the same log further on."""

    def __init__(self) -> None:
        super().__init__()
        # Few, so that a short run has many pieces, and sessions that have to go.
        self.patches = [
            mock.patch.object(store, "MAX_CHUNK_ROWS", 3),
            mock.patch.object(sessions, "MAX_CHUNK_ROWS", 3),
            mock.patch.object(sessions, "MAX_SESSIONS", 4),
        ]
        for patch in self.patches:
            patch.start()
        self.driver = Driver()
        self.opened = [self.driver.open(), self.driver.open()]
        self.number = 0
        self.frozen: FrozenState | None = None
        self.copies: list[StateMachine] = []

    def teardown(self) -> None:
        for patch in self.patches:
            patch.stop()

    def feed(self, data: bytes | None) -> None:
        """One entry, to the machine and to all copies."""
        driver = self.driver
        index, time_ms = driver.machine.last_applied + 1, driver.time_ms
        driver.entries.append((time_ms, data))
        if data is None:
            for machine in (driver.machine, *self.copies):
                machine.skip(index, time_ms)
        else:
            answers = {machine.apply(index, time_ms, data) for machine in (driver.machine, *self.copies)}
            assert len(answers) == 1

    @rule()
    def open_session(self) -> None:
        self.feed(encode_command(0, 0, 0, Op.OPEN_SESSION))
        self.opened.append(self.driver.machine.last_applied)

    @rule(which=st.integers(0, 5), arguments=st.tuples(keys, values))
    def set(self, which: int, arguments: tuple[bytes, bytes]) -> None:
        self.command(which, Op.SET, 5, arguments)

    @rule(which=st.integers(0, 5), behind=st.integers(0, 20), key=keys)
    def delete(self, which: int, behind: int, key: bytes) -> None:
        self.command(which, Op.DELETE, behind, (key,))

    @rule(which=st.integers(0, 5), arguments=st.tuples(keys, st.none() | values, values))
    def cas(self, which: int, arguments: Any) -> None:
        self.command(which, Op.CAS, 20, arguments)

    @rule(count=st.integers(1, 12), stem=keys)
    def set_many(self, count: int, stem: bytes) -> None:
        for number in range(count):
            self.command(0, Op.SET, 1, (stem + b"%d" % number, b"one of many"))

    @rule(count=st.integers(1, 12), stem=keys)
    def delete_many(self, count: int, stem: bytes) -> None:
        for number in range(count):
            self.command(0, Op.DELETE, 1, (stem + b"%d" % number,))

    @rule(which=st.integers(0, 5), behind=st.integers(0, 20), commands=st.lists(batched, min_size=1, max_size=12))
    def batch(self, which: int, behind: int, commands: list[Any]) -> None:
        first = self.number + 1
        self.number += len(commands)
        session = self.opened[-1 - which % len(self.opened)]
        self.feed(pack_batch(session, first, max(0, first - 1 - behind), commands))

    @rule(which=st.integers(0, 5))
    def close_session(self, which: int) -> None:
        self.command(which, Op.CLOSE_SESSION, 1, ())

    @rule(back=st.integers(0, 4))
    def retry(self, back: int) -> None:
        self.feed(self.driver.entries[-1 - back % len(self.driver.entries)][1])

    @rule(step_ms=st.integers(-10, SESSION_TIMEOUT_MS // 2))
    def pass_time(self, step_ms: int) -> None:
        self.driver.time_ms = max(0, self.driver.time_ms + step_ms)
        self.feed(None)

    def command(self, which: int, op: Op, behind: int, arguments: Any) -> None:
        self.number += 1
        session = self.opened[-1 - which % len(self.opened)]
        self.feed(encode_command(session, self.number, max(0, self.number - 1 - behind), op, *arguments))

    @precondition(lambda self: self.frozen is None)
    @rule(max_bytes=st.sampled_from([1, 100, 200, 64 * 1024]))
    def freeze(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        undisturbed = self.driver.replayed().freeze()
        self.expected = list(iter(lambda: undisturbed.next_chunk(max_bytes), None))  # type: ignore[arg-type]
        self.frozen_at, self.frozen_hash = self.driver.machine.last_applied, self.driver.machine.state_hash
        self.restoring = Restoring()
        self.frozen = self.driver.machine.freeze()

    @precondition(lambda self: self.frozen is not None)
    @rule(count=st.integers(1, 3))
    def next_chunk(self, count: int) -> None:
        assert self.frozen is not None
        for _ in range(count):
            chunk = self.frozen.next_chunk(self.max_bytes)
            if chunk is None:
                assert not self.expected
                self.adopt(self.restoring.finish())
                self.frozen = None
                return
            assert chunk == self.expected.pop(0)
            self.restoring.feed(chunk)

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def finish_freeze(self) -> None:
        while self.frozen is not None:
            self.next_chunk(1)

    @precondition(lambda self: self.frozen is not None)
    @rule()
    def release(self) -> None:
        assert self.frozen is not None
        self.frozen.release()
        self.frozen = None

    def adopt(self, machine: StateMachine) -> None:
        """A restored machine catches up, then goes on beside the first."""
        assert (machine.last_applied, machine.state_hash) == (self.frozen_at, self.frozen_hash)
        for index, (time_ms, data) in enumerate(self.driver.entries[self.frozen_at :], start=self.frozen_at + 1):
            if data is None:
                machine.skip(index, time_ms)
            else:
                machine.apply(index, time_ms, data)
        self.copies = [*self.copies[-1:], machine]

    @invariant()
    def all_are_equal(self) -> None:
        machine = self.driver.machine
        for copy in self.copies:
            assert (copy.last_applied, copy.state_hash) == (machine.last_applied, machine.state_hash)
            assert (copy.key_count, copy.session_count) == (machine.key_count, machine.session_count)


TestSnapshots = Snapshots.TestCase
TestSnapshots.settings = settings(deadline=None, derandomize=True, max_examples=60, stateful_step_count=50)
