"""Owns the state machine: applies what is committed, in order, and answers the clients of this node.

Its death loses the whole state; its successor says so (Applied 0), and consensus hands it the log again.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from zraft.bus.actor import Actor, Context
from zraft.errors import impossible
from zraft.messages import Applied, Apply, EntryKind, ReadAt, Recover, Replies
from zraft.statemachine.machine import StateMachine
from zraft.wire import ReplyStatus, unpack_entries

MAX_ANSWER_BYTES = 4 * 1024 * 1024  # to reads in one batch; then the others get a turn

_COMMAND = int(EntryKind.COMMAND)
_OK = int(ReplyStatus.OK)


class Applier(Actor):
    """One state machine a life."""

    name = "applier"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.machine = StateMachine()
        self.waiting_reads: deque[tuple[int, int, bytes]] = deque()  # (read_index, token, query)
        self.replies: list[tuple[int, int, bytes]] = []
        self.answer_bytes = 0  # to reads, in this batch
        self.announced = -1
        self.handlers |= {Recover: self.on_recover, Apply: self.on_apply, ReadAt: self.on_read_at}

    def on_recover(self, sender: str, message: Recover) -> None:
        """A consensus began a life, or saw this one begin: tell it where to go on. Reads of an older one are void."""
        self.waiting_reads.clear()
        self.announced = self.machine.last_applied
        self.context.send(sender, Applied(self.announced))

    def on_apply(self, sender: str, message: Apply) -> None:
        """The next committed entries."""
        machine = self.machine
        index = message.first_index
        if index != machine.last_applied + 1:
            raise impossible("a gap in what is applied", first_index=index, last_applied=machine.last_applied)
        tokens = dict(message.tokens)
        for _, time_ms, kind, data in unpack_entries(message.entries):
            if kind == _COMMAND:
                result = machine.apply(index, time_ms, data)
                if index in tokens:
                    self.replies.append((tokens[index], _OK, result))
            else:
                machine.skip(index, time_ms)
            index += 1
        self.answer_reads()

    def on_read_at(self, sender: str, message: ReadAt) -> None:
        """Reads wait for their index."""
        self.waiting_reads.extend((message.read_index, token, query) for token, query in message.reads)
        self.answer_reads()

    def answer_reads(self) -> None:
        """Those whose index is applied; they are in the order of their indices. Many large ones in several batches."""
        machine, waiting = self.machine, self.waiting_reads
        while waiting and waiting[0][0] <= machine.last_applied:
            if self.answer_bytes > MAX_ANSWER_BYTES:
                self.wakeup_ms = 0  # at once, but after this batch
                return
            _, token, query = waiting.popleft()
            result = machine.query(query)
            self.answer_bytes += len(result)
            self.replies.append((token, _OK, result))

    def on_wakeup(self, now_ms: int) -> None:
        """Go on with the reads."""
        self.answer_reads()

    def end_batch(self) -> None:
        """One message to each."""
        self.answer_bytes = 0
        if self.replies:
            replies, self.replies = tuple(self.replies), []
            self.context.send("frontend", Replies(replies))
        if self.machine.last_applied > self.announced >= 0:
            self.announced = self.machine.last_applied
            self.context.send("consensus", Applied(self.announced))

    def status(self) -> dict[str, Any]:
        """last_applied, and the state at it."""
        machine = self.machine
        return {
            "last_applied": machine.last_applied,
            "revision": machine.revision,
            "state_hash": machine.state_hash,
            "keys": machine.key_count,
            "sessions": machine.session_count,
        }
