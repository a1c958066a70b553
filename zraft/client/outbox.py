"""The calls that wait to be sent, in the order in which they go, and how they become frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from zraft.client.link import Call, Link
from zraft.client.requests import OPEN_SESSION, WRITE
from zraft.client.session import Session
from zraft.client.term_check import MAX_CHECKED_READS, TermCheck
from zraft.statemachine.codec import (
    MAX_BATCH_COMMANDS,
    CodecError,
    Op,
    ResultCode,
    batch_results,
    decode_result,
    pack_batch,
    pack_command,
)
from zraft.wire import RequestKind, pack_requests

# Of request bodies; half of what a node takes, so that no envelope makes a frame too large.
MAX_FRAME_BODY_BYTES = 4 * 1024 * 1024

# A node takes more, but where thousands wait, the first can be answered while the others are sent.
MAX_CALLS_PER_FRAME = 256

# Of a batch of writes, which is one entry of the log, unless it is a single write.
MAX_BATCH_BYTES = 128 * 1024
BATCHED_OPS = frozenset(map(int, (Op.SET, Op.DELETE, Op.CAS)))

# What a write takes besides its arguments, at most.
_WRITE_OVERHEAD_BYTES = 64

# A batch is one request, of which each call has an id of its own, one after the other. Over the wire goes the first
# call's id and, in its lowest bits, how many more there are.
_MORE_BITS = 10
_MORE_MASK = (1 << _MORE_BITS) - 1


def split_request_id(wire_id: int) -> tuple[int, int]:
    """(request id of the first call, how many calls) of an answer."""
    return wire_id >> _MORE_BITS, (wire_id & _MORE_MASK) + 1


def split_results(body: bytes, count: int) -> Iterable[bytes]:
    """The results of the `count` commands of a batch. One that is not OK holds for each; so does one that nobody
    understands."""
    try:
        result = decode_result(body)
        return batch_results(result, count) if result[0] == ResultCode.OK else repeat(body, count)
    except CodecError:
        return repeat(b"", count)


_READ_IN_TERM = int(RequestKind.READ_IN_TERM)


class Outgoing(NamedTuple):
    """A frame to be sent to an endpoint. `calls`: whose copies it carries; none in a ping."""

    endpoint: str
    frame: bytes
    calls: Sequence[Call]


class Outbox:
    """Queues of calls: one for the leader, one for each endpoint that calls are pinned to.

    For the leader go first the calls that were sent before, then reads, then writes that still need a number: those
    wait for a session, and for room in it.
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        self._ready: deque[Call] = deque()
        self._writes: deque[Call] = deque()
        self._last_id = 0

    # ---- queues --------------------------------------------------------------------------------------------------

    def add(self, call: Call) -> None:
        """Queue a call for the leader, behind all of its kind. What opens a session does not wait for one."""
        if call.request.kind == WRITE and call.session is None and call.request is not OPEN_SESSION:
            self._writes.append(call)
        else:
            self._ready.append(call)

    def put_back(self, call: Call) -> None:
        """Queue a call that was sent before, in front of all others."""
        if call.pinned and call.link is not None:
            call.link.pinned.appendleft(call)
        else:
            self._ready.appendleft(call)

    def has_calls(self) -> bool:
        """Whether anything waits for the leader."""
        return bool(self._ready or self._writes)

    def needs_session(self) -> bool:
        """Whether writes wait and there is no session to number them in."""
        return self.session is None and bool(self._writes)

    def take_writes(self) -> list[Call]:
        """Remove and return the writes that have no number yet."""
        writes = [call for call in self._writes if not call.done]
        self._writes.clear()
        return writes

    def drop_done(self) -> None:
        """Free what is over; such calls would otherwise stay until their turn to be sent."""
        self._ready = deque(call for call in self._ready if not call.done)
        self._writes = deque(call for call in self._writes if not call.done)

    # ---- frames --------------------------------------------------------------------------------------------------

    def new_request_id(self) -> int:
        """For a request that is no call."""
        self._last_id += 1
        return self._last_id

    def ping(self, endpoint: str) -> Outgoing:
        """Ask for a sign of life. The answer is known by none: that it comes is all."""
        return _pack_bare(endpoint, self.new_request_id(), int(RequestKind.PING))

    def ask_term(self, check: TermCheck) -> Outgoing:
        """The question of `check` to its partner."""
        return _pack_bare(check.partner.endpoint, check.request_id, int(RequestKind.TERM))

    def ready_calls(self) -> list[Call]:
        """What goes to the leader next if it is a few calls and no write is among them; else nothing."""
        if self._writes or len(self._ready) > MAX_CHECKED_READS:
            return []
        return [call for call in self._ready if not call.done]

    def pack_pinned(self, link: Link, room: int, now: float) -> Outgoing | None:
        """One frame of at most `room` calls that only `link` can answer, noted as sent; None if there are none."""
        return self._pack(link, room, now, _take_pinned)

    def pack(self, link: Link, room: int, now: float, check: TermCheck | None = None) -> Outgoing | None:
        """One frame of at most `room` calls for the leader, noted as sent to `link`; None if none can go now. `check`:
        for reads alone, which are part of it."""
        return self._pack(link, room, now, self._take, check)

    def unsend(self, link: Link, calls: Sequence[Call]) -> None:
        """Undo a frame that ZeroMQ did not accept: its copies never were."""
        for call in reversed(calls):
            del link.pending[call.request_id]
            call.doubts -= 1
            self.put_back(call)

    def _pack(
        self,
        link: Link,
        room: int,
        now: float,
        take: Callable[[Link], Call | None],
        check: TermCheck | None = None,
    ) -> Outgoing | None:
        if not link.pending:
            link.begin_waiting(now)
        room = min(room, MAX_CALLS_PER_FRAME)
        request_id = self._last_id
        size_bytes = 0
        calls: list[Call] = []
        while len(calls) < room:
            call = take(link)
            if call is None:
                break
            size_bytes += call.size_bytes
            if size_bytes > MAX_FRAME_BODY_BYTES and calls:
                self.put_back(call)
                break
            request_id += 1
            call.link = link
            call.request_id = request_id
            call.sent_life = link.life
            call.sent_at = now
            call.doubts += 1
            link.pending[request_id] = call
            calls.append(call)
        self._last_id = request_id
        if not calls:
            return None
        if check is None:
            return Outgoing(link.endpoint, pack_requests(_items(calls)), calls)
        for call in calls:
            call.in_term_id = call.request_id
        items = [(call.request_id << _MORE_BITS, _READ_IN_TERM, call.body) for call in calls]
        return Outgoing(link.endpoint, pack_requests(items), calls)

    def _take(self, link: Link) -> Call | None:
        while self._ready:
            call = self._ready.popleft()
            if not call.done:
                return call
        session = self.session
        if session is None or not session.has_room():
            return None
        while self._writes:
            call = self._writes.popleft()
            if not call.done:
                number(call, session)
                return call
        return None


def _pack_bare(endpoint: str, request_id: int, kind: int) -> Outgoing:
    return Outgoing(endpoint, pack_requests([(request_id << _MORE_BITS, kind, b"")]), ())


def number(call: Call, session: Session) -> None:
    """Give a write its number in `session`. It stays for every copy: that is what makes them one."""
    call.session = session
    call.number = session.next_number()
    call.size_bytes = _WRITE_OVERHEAD_BYTES
    for argument in call.request.arguments:
        if argument is not None:
            call.size_bytes += len(argument)


def _items(calls: Sequence[Call]) -> list[tuple[int, int, bytes]]:
    """The requests of a frame. Writes whose numbers follow one another go as batches: a node does for a batch what it
    does for a single command, but for what the state machine makes of it."""
    items: list[tuple[int, int, bytes]] = []
    begin, count = 0, len(calls)
    while begin < count:
        call = calls[begin]
        end = begin + 1
        session = call.session
        if session is None:
            body = call.body
        else:
            request = call.request
            if request.op in BATCHED_OPS:
                end = _end_of_batch(calls, begin)
            if end == begin + 1:
                body = pack_command(session.id, call.number, session.low_water, request.op, request.arguments)
            else:
                commands = [(one.request.op, *one.request.arguments) for one in calls[begin:end]]
                body = pack_batch(session.id, call.number, session.low_water, commands)
        items.append((call.request_id << _MORE_BITS | end - begin - 1, call.request.kind, body))
        begin = end
    return items


def _end_of_batch(calls: Sequence[Call], begin: int) -> int:
    """Up to where, from `begin` on, they go as one."""
    first = calls[begin]
    session, offset = first.session, first.number - begin
    left_bytes = MAX_BATCH_BYTES - first.size_bytes
    end = begin + 1
    for call in calls[end : begin + MAX_BATCH_COMMANDS]:
        left_bytes -= call.size_bytes
        if (
            call.session is not session
            or call.number - end != offset
            or left_bytes < 0
            or call.request.op not in BATCHED_OPS
        ):
            break
        end += 1
    return end


def _take_pinned(link: Link) -> Call | None:
    while link.pinned:
        call = link.pinned.popleft()
        if not call.done:
            return call
    return None
