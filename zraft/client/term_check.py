"""Linearizable reads in the time of one exchange: while the leader is asked, another voter is asked for its term.

The leader answers at once, under a condition: that a certain voter is still in its term (`zraft.wire.Condition`). If
one that was asked after the read began says so, no newer leader had been elected when it began, so what the leader has
committed is all that was answered to anybody by then. It is the round of ReadIndex (dissertation 6.4, DESIGN trap 14)
with the client in the middle; one that began before the read, or that somebody else asked for, proves nothing.

Worth it for a caller who waits for each answer: many reads on their way share one round of the leader's. Whatever goes
wrong here, a late statement or another term, costs that read a second copy, which the leader answers by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from math import inf

from zraft.client.link import Call, Link
from zraft.client.requests import READ
from zraft.client.route import Route
from zraft.wire import Condition, ReplyStatus, Statement, WireError, split_condition, unpack_statement

# A second connection is opened for a client that has read so often with nothing else on its way.
WORTHWHILE_READS = 16

# In one check at most.
MAX_CHECKED_READS = 16

# Once the leader has answered, the statement is waited for no longer than this; then the leader is asked again.
STATEMENT_SECONDS = 0.005

# How long a node is passed over that was late, or is in another term, or none that the condition names; and all of them
# where the leader prefers to ask by itself. Also how long it is at least between two attempts to reach one.
PASS_OVER_SECONDS = 1.0


class TermCheck:
    """A node (`partner`) that is asked for its term in a request of this id, and the leader's answers that wait for
    what it says. The reads that are part of it have the ids that come next."""

    __slots__ = ("due_at", "held", "partner", "request_id", "said", "statement")

    def __init__(self, partner: Link, request_id: int) -> None:
        self.partner = partner
        self.request_id = request_id
        self.said = False
        """It said what it has to say, or is not waited for any more."""
        self.statement: Statement | None = None
        self.held: list[tuple[Call, Link, Condition, bytes]] = []
        self.due_at = inf


class TermChecks:
    """Decides which reads are checked and by whom, and which answers are valid.

    Only the latest check counts: a new one begins when nothing is on its way to the leader and nothing waits here.
    """

    def __init__(self, route: Route) -> None:
        self._route = route
        self._current: TermCheck | None = None
        self._lonely_reads = 0
        self._partner: Link | None = None
        self._passed_over: dict[Link, float] = {}  # until when
        self._paused_until = 0.0
        self._next_ping_at = 0.0

    # ---- the questions -------------------------------------------------------------------------------------------

    def begin(self, ready: list[Call], new_request_id: Callable[[], int], now: float) -> TermCheck | None:
        """A check for these calls, which are all that goes to the leader next; None: they go as they are."""
        if not ready or any(call.request.kind != READ or call.in_term_id for call in ready):
            return None
        if self._route.is_searching or self._route.target.pending or (self._current is not None and self._current.held):
            return None
        self._lonely_reads += 1
        if self._lonely_reads < WORTHWHILE_READS or now < self._paused_until:
            return None
        partner = self._partner
        if partner is None or not self._is_usable(partner, now):
            partner = self._partner = self._next_partner(now)
        self._current = None if partner is None else TermCheck(partner, new_request_id())
        return self._current

    def pause(self, now: float) -> None:
        """The leader prefers to ask by itself, or is of a version that knows no other way."""
        self._paused_until = now + PASS_OVER_SECONDS

    # ---- the answers ---------------------------------------------------------------------------------------------

    @property
    def due_at(self) -> float:
        """When the partner is too late."""
        return inf if self._current is None else self._current.due_at

    def on_conditional(self, call: Call, link: Link, body: bytes, now: float) -> bool:
        """The leader, at `link`, answers under a condition. Returns False if nobody will know whether that holds: it
        belongs to an older check, or is no condition."""
        check = self._current
        if check is None or call.in_term_id < check.request_id:
            return False
        try:
            condition, result = split_condition(body)
        except WireError:
            return False
        check.held.append((call, link, condition, result))
        check.due_at = min(check.due_at, now + STATEMENT_SECONDS)
        return True

    def on_statement(self, link: Link, request_id: int, status: int, body: bytes) -> None:
        """An answer to no call from `link`: the partner's, maybe."""
        check = self._current
        if check is None or request_id != check.request_id or link is not check.partner or check.said:
            return
        check.said = True
        if status == ReplyStatus.OK:
            with suppress(WireError):
                check.statement = unpack_statement(body)

    def on_refused(self, link: Link) -> None:
        """ZeroMQ takes nothing for `link`: it was not asked, or has no way to answer."""
        if self._current is not None and self._current.partner is link:
            self._current.said = True

    def take_settled(self, now: float) -> tuple[list[tuple[Call, Link, bytes]], list[Call]]:
        """(the valid answers, the reads that the leader must be asked again), of those that waited."""
        check = self._current
        if check is None or not check.held or not (check.said or now >= check.due_at):
            return [], []
        check.said = True
        held, check.held = check.held, []
        check.due_at = inf
        valid: list[tuple[Call, Link, bytes]] = []
        refuted: list[Call] = []
        for call, link, condition, result in held:
            if call.done:
                continue
            if condition.holds(check.statement):
                valid.append((call, link, result))
            else:
                refuted.append(call)
        if refuted:
            self._passed_over[check.partner] = now + PASS_OVER_SECONDS
        return valid, refuted

    # ---- whom to ask ---------------------------------------------------------------------------------------------

    def _is_usable(self, link: Link, now: float) -> bool:
        route = self._route
        return (
            link is not route.target
            and link.connected
            and link.may_send(now)
            and not link.is_dead(now)
            and now >= self._passed_over.get(link, 0.0)
            and route.links.get(link.endpoint) is link
        )

    def _next_partner(self, now: float) -> Link | None:
        """One that is connected; else one is asked for a sign of life, which makes it so."""
        self._passed_over = {link: until for link, until in self._passed_over.items() if now < until}
        others = [link for link in self._route.known_links() if link is not self._route.target]
        usable = next((link for link in others if self._is_usable(link, now)), None)
        strangers = [link for link in others if not link.connected]
        if usable is None and strangers and now >= self._next_ping_at:
            min(strangers, key=lambda link: link.dead_until).ping_due = True
            self._next_ping_at = now + PASS_OVER_SECONDS
        return usable
