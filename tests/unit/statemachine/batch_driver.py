"""Feeds batches to a state machine, and to another one the same commands one by one."""

from __future__ import annotations

import random
from typing import Any

from statemachine_driver import Driver

from zraft.statemachine.codec import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Op,
    ResultCode,
    batch_results,
    decode_result,
    pack_batch,
    pack_command,
)

Command = tuple[Any, ...]


def send(driver: Driver, session: int, first: int, acknowledged: int, *commands: Command) -> list[tuple[Any, ...]]:
    """The decoded answers to the commands of one batch."""
    result = driver.raw(pack_batch(session, first, acknowledged, commands))
    assert result[0] == ResultCode.OK
    return [decode_result(answer) for answer in batch_results(result, len(commands))]


KEYS_OF_LOG = [b"k%d" % number for number in range(6)]
VALUES = [b"", b"x", b"a longer value"]
WRONG_COMMANDS: list[Command] = [
    (Op.SET,), (Op.SET, b"k1"), (Op.SET, "k1", b"x"), (Op.SET, b"k1", None), (Op.SET, b"k1", (b"x", (b"y",))),
    (Op.SET, b"k1", b"x", b"x"), (Op.SET, bytes(MAX_KEY_BYTES + 1), b""), (Op.SET, b"", bytes(MAX_VALUE_BYTES + 1)),
    (Op.DELETE,), (Op.DELETE, 1.5), (Op.DELETE, b"k1", b"x"), (Op.CAS, b"k1", None, None), (Op.CAS, b"k1", True, b""),
]  # fmt: skip


def any_command(rng: random.Random, wrong: float) -> Command:
    if rng.random() < wrong:
        return rng.choice(WRONG_COMMANDS)
    op = rng.choice((Op.SET, Op.SET, Op.DELETE, Op.CAS))
    if op == Op.DELETE:
        return op, rng.choice(KEYS_OF_LOG)
    return op, rng.choice(KEYS_OF_LOG), *([rng.choice([None, *VALUES])] if op == Op.CAS else []), rng.choice(VALUES)


class Pair:
    """A machine that is fed batches, and one that is fed their commands one by one, at the same time.

    Before a batch, the first passes over as many entries as the other one takes more: so sessions have the same ids, a
    batch is at the index of its last command, and the whole states must be equal, not their keys alone.
    """

    def __init__(self) -> None:
        self.batched, self.single = Driver(), Driver()
        self.codes: set[int] = set()

    def move(self, step_ms: int) -> None:
        for each in (self.batched, self.single):
            each.time_ms = max(0, each.time_ms + step_ms)
            each.skip()

    def open(self) -> int:
        session = self.batched.open()
        assert self.single.open() == session
        return session

    def send(self, session: int, first: int, acknowledged: int, commands: list[Command]) -> None:
        expected = [
            self.single.raw(pack_command(session, number, acknowledged, op, tuple(arguments)))
            for number, (op, *arguments) in enumerate(commands, start=first)
        ]
        for _ in commands[1:]:
            self.batched.skip()
        result = self.batched.raw(pack_batch(session, first, acknowledged, commands))
        if result[0] == ResultCode.OK:
            assert [decode_result(answer) for answer in batch_results(result, len(commands))] == expected
        else:
            assert [result] * len(commands) == expected
        self.codes.update(answer[0] for answer in expected)
        self.assert_equal()

    def assert_equal(self) -> None:
        one, other = self.batched.machine, self.single.machine
        assert self.batched.keys() == self.single.keys()
        assert one._store.digest_sum == other._store.digest_sum
        assert (one.revision, one.key_count, one.session_count) == (
            other.revision,
            other.key_count,
            other.session_count,
        )
        assert (one.last_applied, one.log_time_ms, one.state_hash) == (
            other.last_applied,
            other.log_time_ms,
            other.state_hash,
        )
