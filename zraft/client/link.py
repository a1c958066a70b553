"""What the client core remembers of one call, and of one connection to a node."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

from zraft.client.requests import Request
from zraft.client.session import Session
from zraft.errors import ZraftError

OnDone = Callable[[Any, ZraftError | None], None]

# After a send that ZeroMQ refused: how long until the link is tried again, or given up for another.
REFUSED_GRACE_SECONDS = 0.03


class Call:
    """One request of the caller, until it is answered.

    Every sending of it is a *copy* with a request id of its own, so that each reply says what became of which copy.
    `doubts` counts the copies that may have taken effect or still may: those that ZeroMQ accepted and no node refused.
    `session` and `number` are set once and stay for every copy (exactly once). `body`: of what is no write in a
    session; such a write is encoded as it is sent. `size_bytes`: what it takes in a frame, about.
    """

    __slots__ = (
        "body",
        "deadline",
        "done",
        "doubts",
        "earlier",
        "in_term_id",
        "link",
        "number",
        "on_done",
        "patience",
        "pinned",
        "request",
        "request_id",
        "sent_at",
        "sent_life",
        "session",
        "size_bytes",
    )

    def __init__(self, request: Request, deadline: float, on_done: OnDone, pinned: bool) -> None:
        self.request = request
        self.deadline = deadline
        self.on_done = on_done
        self.pinned = pinned
        """It is for one node and no other."""
        self.body = request.body
        self.size_bytes = len(request.body)
        self.session: Session | None = None
        self.number = 0
        self.done = False
        self.doubts = 0
        self.patience = 1
        """How many times the usual wait for an answer, as it may be slow."""
        # The latest copy: where (of a pinned call also where to), under which id and life, and when it was sent.
        self.link: Link | None = None
        self.request_id = 0
        self.sent_life: int | None = None
        self.sent_at = 0.0
        self.in_term_id = 0
        """The id of the one copy of a read that was sent as READ_IN_TERM, if there was one."""
        # Copies given up for lost, whose answers still count should they come.
        self.earlier: list[tuple[Link, int]] = []


class Link:
    """One endpoint, and what was heard from it. Times are the caller's monotonic seconds."""

    __slots__ = (
        "connected",
        "dead_until",
        "endpoint",
        "heard_at",
        "life",
        "lost",
        "pending",
        "ping_due",
        "ping_sent_at",
        "pinned",
        "pinned_hold_until",
        "quiet_since",
        "refused_at",
        "scan_at",
    )

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.pending: dict[int, Call] = {}
        """Request id -> the call that waits for this answer; in the order of sending."""
        self.lost: dict[int, Call] = {}
        """Copies that were sent again elsewhere or once more."""
        self.pinned: deque[Call] = deque()
        """Calls for this endpoint alone that wait to be sent."""
        self.pinned_hold_until = 0.0
        """They wait at least until then: ZeroMQ refused one. The search for a leader, which may come back to this very
        link at once, does not shorten this."""
        self.life: int | None = None
        """The frontend's life as the last reply told it."""
        self.heard_at = -inf
        self.connected = False
        """ZeroMQ had a connection at some time: a refused send then means that there is none now."""
        self.refused_at: float | None = None
        """When ZeroMQ refused a send; None once it would take one."""
        self.dead_until = 0.0
        self.quiet_since = 0.0
        self.ping_sent_at: float | None = None
        self.ping_due = False
        self.scan_at = 0.0

    def heard(self, now: float) -> None:
        """Note a sign of life."""
        self.begin_waiting(now)
        self.heard_at = now
        self.dead_until = 0.0
        self.refused_at = None
        self.pinned_hold_until = 0.0
        self.connected = True

    def begin_waiting(self, now: float) -> None:
        """It owed nothing until now, so its silence before says nothing."""
        self.quiet_since = now
        self.ping_sent_at = None
        self.ping_due = False

    def is_dead(self, now: float) -> bool:
        """Whether it is not worth trying at the moment."""
        return now < self.dead_until

    def may_send(self, now: float) -> bool:
        """Whether ZeroMQ may take a frame: it did not refuse one lately."""
        return now >= self.may_send_at()

    def may_send_at(self) -> float:
        """From when on `may_send`."""
        return 0.0 if self.refused_at is None else self.refused_at + REFUSED_GRACE_SECONDS

    def may_send_pinned_at(self) -> float:
        """From when on a call for this endpoint alone may be sent."""
        return max(self.may_send_at(), self.pinned_hold_until)

    def is_owed(self) -> bool:
        """Whether calls wait to be sent there, or for an answer from there, be it a late one."""
        return bool(self.pending or self.pinned or self.lost)

    def set_aside(self, call: Call) -> None:
        """Stop waiting for the latest copy of `call`; should its answer come all the same, it counts."""
        if self.pending.pop(call.request_id, None) is not None:
            self.lost[call.request_id] = call
            call.earlier.append((self, call.request_id))
