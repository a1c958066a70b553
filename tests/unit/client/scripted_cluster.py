"""Drives a `ClientCore` by hand: the clock stands where a test puts it, each copy is answered as the test says."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

from batches import singles

from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.client.link import Call
from zraft.client.requests import Request
from zraft.errors import ZraftError
from zraft.statemachine.codec import Op, ResultCode, decode_command, encode_result
from zraft.wire import ReplyStatus, RequestKind, pack_replies, unpack_requests

A, B, C = (f"tcp://127.0.0.1:{port}" for port in (7101, 7102, 7103))
NOT_LEADER, BUSY, UNKNOWN = ReplyStatus.NOT_LEADER, ReplyStatus.BUSY, ReplyStatus.UNKNOWN


class Copy(NamedTuple):
    """A request as a node received it."""

    endpoint: str
    id: int
    kind: int
    body: bytes

    @property
    def command(self) -> tuple[int, int, int, int, tuple[Any, ...]]:
        return decode_command(self.body)

    @property
    def number(self) -> int:
        return self.command[1]


class Outcome:
    """What became of one submitted request."""

    def __init__(self) -> None:
        self.times = 0
        self.value: Any = None
        self.error: ZraftError | None = None
        self.call: Call | None = None

    def __call__(self, value: Any, error: ZraftError | None) -> None:
        self.times += 1
        self.value = value
        self.error = error


def ok(*values: object) -> bytes:
    return encode_result(ResultCode.OK, *values)


class Script:
    """A core with endpoints A, B and C, and what it sent. `down`: endpoints that ZeroMQ has no connection to.

    `members`: what each endpoint answers at once when it is asked for the members' endpoints; one that is not there
    knows of none; `members_answer`: what all answer instead; `held`, where it is a list: questions (endpoint, request
    id) that are not answered at once. `asked`: those that were asked so.
    """

    def __init__(self, *endpoints: str) -> None:
        self.core = ClientCore(endpoints or (A, B, C), random.Random(1))
        self.now = 100.0
        self.down: set[str] = set()
        self.frames = 0
        self.pings = 0
        self.members: dict[str, list[str]] = {}
        self.members_answer: tuple[int, bytes] | None = None
        self.asked: list[str] = []
        self.held: list[tuple[str, int]] | None = None
        self.dropped: list[str] = []
        self.life = {A: 1, B: 2, C: 3}
        self.sessions = iter(range(1000, 9000))

    def submit(self, request: Request, timeout: float = 5.0, endpoint: str | None = None) -> Outcome:
        outcome = Outcome()
        outcome.call = self.core.submit(request, self.now + timeout, outcome, endpoint)
        return outcome

    def set(self, value: bytes = b"v", timeout: float = 5.0) -> Outcome:
        return self.submit(requests.set_key(b"k", value), timeout)

    def get(self, timeout: float = 5.0) -> Outcome:
        return self.submit(requests.get_value(b"k"), timeout)

    def sent(self, after: float = 0.0) -> list[Copy]:
        """Let time pass, as often as the core asks for; return the copies that went out. Pings are only counted."""
        end = self.now + after
        copies = self._turn()
        while (wakeup := self.core.next_wakeup(self.now)) is not None and wakeup <= end:
            assert wakeup > self.now, "a core that asks to be woken for what it does not do then spins"
            self.now = wakeup
            copies += self._turn()
        self.now = max(self.now, end)
        return copies

    def next_copy(self, within: float = 0.5) -> Copy:
        """The one copy that is sent next; time passes until then and no further."""
        end = self.now + within
        while not (copies := self.sent()):
            assert self.now < end, "nothing was sent"
            self.now += 0.001
        (copy,) = copies
        return copy

    def _turn(self) -> list[Copy]:
        self.core.tick(self.now)
        self.dropped += self.core.dropped_endpoints()
        copies = []
        for outgoing in self.core.frames_to_send(self.now):
            items = unpack_requests(outgoing.frame)
            if outgoing.endpoint in self.down:
                self.core.on_send_failed(outgoing, self.now)
                continue
            if [kind for _, kind, _ in items] == [RequestKind.ENDPOINTS]:
                self._answer_endpoints(outgoing.endpoint, items[0][0])
                continue
            self.frames += 1
            for request_id, kind, body in singles(items):
                if kind == RequestKind.PING:
                    self.pings += 1
                else:
                    copies.append(Copy(outgoing.endpoint, request_id, kind, body))
        return copies

    def _answer_endpoints(self, endpoint: str, request_id: int) -> None:
        self.asked.append(endpoint)
        if self.held is None:
            self.answer_endpoints(endpoint, request_id)
        else:
            self.held.append((endpoint, request_id))

    def answer_endpoints(self, endpoint: str, request_id: int) -> None:
        answer = self.members_answer or (ReplyStatus.OK, json.dumps(self.members.get(endpoint, [])).encode())
        frame = pack_replies(self.life.setdefault(endpoint, 9), [(request_id, int(answer[0]), answer[1])])
        self.core.on_frame(endpoint, frame, self.now)

    def reply(self, copy: Copy, status: int = ReplyStatus.OK, body: bytes = b"") -> None:
        self.reply_all([(copy, status, body)])

    def reply_all(self, answers: list[tuple[Copy, int, bytes]]) -> None:
        """All in one frame; the copies are of one endpoint."""
        endpoint = answers[0][0].endpoint
        items = [(copy.id, int(status), body) for copy, status, body in answers]
        self.core.on_frame(endpoint, pack_replies(self.life.setdefault(endpoint, 9), items), self.now)

    def sign_of_life(self, endpoint: str) -> None:
        self.core.on_frame(endpoint, pack_replies(self.life[endpoint], []), self.now)

    def open_session(self, copies: list[Copy]) -> list[Copy]:
        """Answer the opening of a session, which must be all that was sent; return what is sent then."""
        (opening,) = copies
        assert opening.command == (0, 0, 0, Op.OPEN_SESSION, ())
        self.reply(opening, body=ok(next(self.sessions)))
        return self.sent()

    def with_session(self) -> Script:
        """A core that has its session already, and knows A as the leader."""
        outcome = self.set()
        (copy,) = self.open_session(self.sent())
        self.reply(copy, body=ok(1))
        assert outcome.value == 1
        return self
