"""Feeds a state machine as the applier does: one entry after the other, each at the next index."""

from __future__ import annotations

from typing import Any

from zraft.statemachine.codec import Op, Query, decode_result, encode_command, encode_query
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.snapshot import Restoring


def restored(pieces: list[bytes]) -> StateMachine:
    """The machine that these pieces of a frozen state make."""
    restoring = Restoring()
    for piece in pieces:
        restoring.feed(piece)
    return restoring.finish()


class Driver:
    """A machine and the log that it is fed. `time_ms` is what the next entries are stamped with."""

    def __init__(self) -> None:
        self.machine = StateMachine()
        self.time_ms = 1_000
        self.entries: list[tuple[int, bytes | None]] = []

    def raw(self, data: bytes) -> tuple[Any, ...]:
        self.entries.append((self.time_ms, data))
        return decode_result(self.machine.apply(self.machine.last_applied + 1, self.time_ms, data))

    def skip(self) -> None:
        self.entries.append((self.time_ms, None))
        self.machine.skip(self.machine.last_applied + 1, self.time_ms)

    def open(self) -> int:
        code, session_id = self.raw(encode_command(0, 0, 0, Op.OPEN_SESSION))
        assert code == 0
        assert session_id == self.machine.last_applied
        return int(session_id)

    def command(self, session: int, number: int, acknowledged: int, op: int, *arguments: Any) -> tuple[Any, ...]:
        return self.raw(encode_command(session, number, acknowledged, op, *arguments))

    def set(self, session: int, number: int, key: bytes, value: bytes, acknowledged: int = 0) -> tuple[Any, ...]:
        return self.command(session, number, acknowledged, Op.SET, key, value)

    def get(self, key: bytes) -> Any:
        code, entry, _ = decode_result(self.machine.query(encode_query(Query.GET, key)))
        assert code == 0
        return entry

    def keys(self) -> list[Any]:
        code, entries, more, _ = decode_result(self.machine.query(encode_query(Query.RANGE, b"", None, 1000, 1 << 20)))
        assert (code, more) == (0, False)
        return list(entries)

    def replayed(self) -> StateMachine:
        """A fresh machine that was fed the same log."""
        machine = StateMachine()
        for index, (time_ms, data) in enumerate(self.entries, start=1):
            if data is None:
                machine.skip(index, time_ms)
            else:
                machine.apply(index, time_ms, data)
        return machine
