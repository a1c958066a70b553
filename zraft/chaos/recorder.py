"""Keeps what clients called and what came back, as a history."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TextIO

from zraft.chaos.history import Operation, Value, to_line
from zraft.errors import OutcomeUnknown, Unavailable


class Recorder:
    """clock: seconds since the start of the run, monotonic. file: every operation is written there when it ends."""

    def __init__(self, clock: Callable[[], float], file: TextIO) -> None:
        self._clock = clock
        self._file = file
        self.operations: list[Operation] = []
        self.outcomes: Counter[str] = Counter()

    async def call(
        self, client: int | str, op: str, key: str, args: tuple[Value, ...], answer: Awaitable[object]
    ) -> Operation | None:
        """Await the answer to an operation and note it. Returns it if its outcome is known to be success, else None.

        What is cancelled is noted, too: it may have been applied.
        """
        call_s = self._clock()
        try:
            result = _as_result(op, await answer)
        except Unavailable:
            self._note(Operation(client, op, key, args, None, call_s, self._clock(), "fail"))
            return None
        except (OutcomeUnknown, asyncio.CancelledError) as error:
            # Of a read there is nothing that could have been applied.
            outcome = "fail" if op == "get" else "unknown"
            self._note(Operation(client, op, key, args, None, call_s, None, outcome))
            if isinstance(error, asyncio.CancelledError):
                raise
            return None
        operation = Operation(client, op, key, args, result, call_s, self._clock(), "ok")
        self._note(operation)
        return operation

    def _note(self, operation: Operation) -> None:
        self.operations.append(operation)
        self.outcomes[operation.outcome] += 1
        self._file.write(to_line(operation) + "\n")


def _as_result(op: str, answer: object) -> Value | bool:
    """What a history says of an answer: of set nothing, of get the value as text."""
    if op == "set" or answer is None:
        return None
    if isinstance(answer, bytes):
        return answer.decode()
    return bool(answer)
