"""The client's protocol, pure: no sockets, no clock, no threads.

Time is handed in as `now`, monotonic seconds. Whoever runs a core does, again and again:

    for each frame that arrived:          core.on_frame(endpoint, frame, now)
    core.tick(now)                        # after the frames: what has arrived must not count as silence
    for endpoint in core.dropped_endpoints():
        close the DEALER there, if there is one
    for outgoing in core.frames_to_send(now):
        send outgoing.frame on a DEALER connected to outgoing.endpoint (opened when first named), without blocking;
        where ZeroMQ refuses:             core.on_send_failed(outgoing, now)
    sleep until a socket has something, or until core.next_wakeup(now), of the same now: what came due since then
        has not been looked at;
        where one of core.refused_endpoints() became writable: core.on_writable(endpoint, now)

`submit` takes a request at any time between these; its `on_done(value, error)` is called exactly once, from within
one of the methods here (or `submit` itself, on a closed core).

Exactly once: a write keeps its session and its number however often it is sent, alone or with others in a batch, and a
node applies the first copy and answers the others alike. What a failed call may say follows from its copies: if each
was refused by ZeroMQ or by a node that surely did not append it, `Unavailable`; else `OutcomeUnknown`. A read has no
effect: always `Unavailable`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from math import inf
from typing import Any

from zraft.client.discovery import ASK_ENDPOINTS, Discovery
from zraft.client.link import REFUSED_GRACE_SECONDS, Call, Link, OnDone
from zraft.client.outbox import Outbox, Outgoing, number, split_request_id, split_results
from zraft.client.requests import CLOSE_SESSION, OPEN_SESSION, READ, WRITE, Request
from zraft.client.route import Random, Route
from zraft.client.session import Session
from zraft.client.term_check import TermChecks
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable
from zraft.statemachine.codec import CodecError, ResultCode, decode_result, encode_command
from zraft.wire import ReplyStatus, RequestKind, WireError, unpack_replies

# A link that owes answers and is silent for the first is asked for a sign of life; silent for the second, it is dead.
PING_AFTER_SECONDS = 0.1
DEAD_AFTER_PING_SECONDS = 0.3

# A link can be alive and have lost a request all the same (a connection that broke and came back). A copy unanswered
# for so long is followed by another; the wait doubles with each, for the request may just be slow to commit. Copies
# that were refused, or lost with their link, do not count: where nobody leads there are thousands.
REPEAT_AFTER_SECONDS = 1.0
MAX_PATIENCE = 8
SCAN_EVERY_SECONDS = 0.25

# Opening a session is tried for so long at a time, as long as there are writes that need one.
OPEN_SECONDS = 5.0

# Deadlines are kept to this: looking over all calls for each one's own instant would be quadratic.
EXPIRY_SECONDS = 0.01

_IN_TERM = int(ReplyStatus.IN_TERM)
_OK, _OK_CODE = int(ReplyStatus.OK), int(ResultCode.OK)
_KINDS_WITHOUT_EFFECT = (READ, int(RequestKind.STATUS), int(RequestKind.ENDPOINTS))


class ClientCore:
    """One client: one session, any number of requests in flight.

    `endpoints`: at least one, asked in this order; more are learnt from redirects, and from the nodes, which are asked
    for the members (`discovery`). `rng`: jitter for waiting.
    """

    def __init__(self, endpoints: Sequence[str], rng: Random) -> None:
        self._route = Route(endpoints, rng)
        self._discovery = Discovery(self._route)
        self._outbox = Outbox()
        self._checks = TermChecks(self._route)
        self._live: dict[Call, None] = {}
        self._next_expiry = inf
        self._opening = False
        self._closed = False
        self._trouble: tuple[str, str] | None = None

    # ---- the caller's side ---------------------------------------------------------------------------------------

    @property
    def given_endpoints(self) -> list[str]:
        """Those that the client was told of at first."""
        return self._route.given

    @property
    def endpoints(self) -> list[str]:
        """All endpoints known: those given, then those learnt."""
        return self._route.endpoints

    def submit(self, request: Request, deadline: float, on_done: OnDone, endpoint: str | None = None) -> Call:
        """Take a request; the call returned is good for `cancel`.

        `endpoint`: ask the node there and no other; None: the leader, wherever it is.
        `on_done(value, None)` or `on_done(None, error)` is called once, at the latest shortly after `deadline`.
        """
        call = Call(request, deadline, on_done, endpoint is not None)
        if self._closed:
            call.done = True
            on_done(None, Unavailable(f"{request.name}: this client is closed"))
            return call
        self._admit(call)
        if endpoint is not None:
            call.link = self._route.link(endpoint)
            call.link.pinned.append(call)
        else:
            self._outbox.add(call)
        return call

    def cancel(self, call: Call) -> None:
        """Forget a call: nothing more is sent for it and its `on_done` is not called. It may have taken effect."""
        if not call.done:
            self._retire(call)

    def close(self, deadline: float, on_closed: Callable[[], None]) -> None:
        """Fail all calls, take no more, and end the session; `on_closed` is called when that is done or too late."""
        self._closed = True
        for call in list(self._live):
            self._give_up(call, "the client was closed")
        self._drop_done()
        session, self._outbox.session = self._outbox.session, None
        if session is None:
            on_closed()
            return
        call = Call(CLOSE_SESSION, deadline, lambda value, error: on_closed(), False)
        number(call, session)
        self._admit(call)
        self._outbox.add(call)

    def _admit(self, call: Call) -> None:
        self._live[call] = None
        if call.deadline < self._next_expiry:
            self._next_expiry = call.deadline

    # ---- the network's side: out ---------------------------------------------------------------------------------

    def frames_to_send(self, now: float) -> Iterator[Outgoing]:
        """What to send now. A refusal must be reported (`on_send_failed`) before the next frame is taken."""
        route, outbox = self._route, self._outbox
        if route.take_all_failed():
            self._discovery.hurry(now)
        if now >= self._discovery.due_at and not self._closed:
            self._ask_endpoints(now)
        for link in list(route.links.values()):
            if link.ping_due:
                link.ping_due = False
                yield outbox.ping(link.endpoint)
            while link.pinned and now >= link.may_send_pinned_at():
                outgoing = outbox.pack_pinned(link, route.room(link), now)
                if outgoing is None:
                    break
                yield outgoing
        if outbox.needs_session() and not self._opening:
            self._open_session(now)
        while outbox.has_calls() and now >= route.hold_until and route.target.may_send(now):
            check = self._checks.begin(outbox.ready_calls(), outbox.new_request_id, now)
            outgoing = outbox.pack(route.target, route.room(route.target), now, check)
            if outgoing is None:
                break
            yield outgoing
            if check is not None:
                yield outbox.ask_term(check)

    def on_send_failed(self, outgoing: Outgoing, now: float) -> None:
        """ZeroMQ did not accept this frame: none of its copies exists."""
        link = self._route.links[outgoing.endpoint]
        self._outbox.unsend(link, outgoing.calls)
        link.refused_at = now
        self._checks.on_refused(link)
        if any(call.pinned for call in outgoing.calls):
            link.pinned_hold_until = now + REFUSED_GRACE_SECONDS
        if not outgoing.calls or (link.connected and not link.pending):
            # Silent, and now without connection; or it was connected and owes nothing: not a full queue, it is down.
            self._lose(link, now)
        for call in outgoing.calls:
            if call.request is ASK_ENDPOINTS:
                self._give_up(call, f"{link.endpoint} cannot be reached")  # another link will do

    def refused_endpoints(self) -> list[str]:
        """Endpoints where ZeroMQ refused the last send: worth knowing when they become writable."""
        return [link.endpoint for link in self._route.links.values() if link.refused_at is not None]

    def dropped_endpoints(self) -> set[str]:
        """Endpoints that are not needed any more, since the last call: no members' now, and they owe nothing."""
        return self._route.take_dropped()

    def on_writable(self, endpoint: str, now: float) -> None:
        """ZeroMQ would take a frame for this endpoint."""
        link = self._route.links.get(endpoint)
        if link is not None:
            self._route.writable(link)

    # ---- the network's side: in ----------------------------------------------------------------------------------

    def on_frame(self, endpoint: str, frame: bytes, now: float) -> None:
        """A frame arrived from this endpoint. One that is no reply frame is ignored: the calls will be repeated."""
        link = self._route.links.get(endpoint)
        if link is None:
            return  # a late word from a node that was dropped
        try:
            life, items = unpack_replies(frame)
        except WireError as error:
            self._trouble = (endpoint, f"sent what is no answer: {error}")
            return
        link.heard(now)
        if self._discovery.due_at == inf:
            self._discovery.due_at = now
        for wire_id, status, body in items:
            request_id, count = split_request_id(wire_id)
            if count == 1:
                self._on_reply(link, request_id, status, body, now)
                continue
            bodies = split_results(body, count) if status == _OK else repeat(body, count)
            for one, its_body in enumerate(bodies, start=request_id):
                self._on_reply(link, one, status, its_body, now)
        self._settle_checks(now)
        if life != link.life:
            self._on_new_life(link, life)

    def _on_reply(self, link: Link, request_id: int, status: int, body: bytes, now: float) -> None:
        current = link.pending.pop(request_id, None)
        call = current or link.lost.pop(request_id, None)
        if call is None:
            return self._checks.on_statement(link, request_id, status, body)  # or a ping, or a call that is over
        if request_id == call.in_term_id:
            self._on_reply_in_term(call, link, status, body, current is not None, now)
        elif status == _OK:
            self._on_ok(call, link, body, current is not None, now)
        else:
            self._on_refusal(call, link, status, body, current is not None, now)

    def _on_reply_in_term(self, call: Call, link: Link, status: int, body: bytes, current: bool, now: float) -> None:
        """A copy that was sent as READ_IN_TERM was answered. Not `current`: a READ that follows it is under way."""
        if status == _IN_TERM:
            if current and not self._checks.on_conditional(call, link, body, now):
                self._outbox.put_back(call)
        elif status == _OK:
            self._checks.pause(now)  # the leader prefers to ask the others by itself
            self._on_ok(call, link, body, current, now)
        elif status == ReplyStatus.INVALID:  # if that is not because it is of a version without, READ is refused, too
            self._checks.pause(now)
            if current:
                self._outbox.put_back(call)
        else:
            self._on_refusal(call, link, status, body, current, now)

    def _settle_checks(self, now: float) -> None:
        """Hand on conditional answers that are known to be valid. For the others the leader is asked again."""
        valid, refuted = self._checks.take_settled(now)
        for call, link, result in valid:
            self._on_ok(call, link, result, True, now)
        for call in reversed(refuted):
            self._outbox.put_back(call)

    def _on_ok(self, call: Call, link: Link, body: bytes, current: bool, now: float) -> None:
        kind = call.request.kind
        try:
            if kind in (WRITE, READ):
                result = decode_result(body)
                if self._route.settled(link):
                    self._discovery.due_at = now
                if result[0] != _OK_CODE:
                    self._on_result(call, result, current, now)
                    return
                value = call.request.convert(result)
            else:
                value = call.request.convert((0, body))
        except (CodecError, WireError, LookupError, TypeError, ValueError, RecursionError) as error:
            self._give_up(call, f"{link.endpoint} gave an answer that is not understood ({error})")
            return
        self._retire(call)
        call.on_done(value, None)

    def _on_result(self, call: Call, result: tuple[Any, ...], current: bool, now: float) -> None:
        """A node applied, or did not apply, this copy with a result other than OK."""
        code = result[0]
        if code == ResultCode.BAD_COMMAND:
            self._refuse(call, str(result[1]) if len(result) > 1 else "not a command that the nodes know")
        elif code == ResultCode.SESSION_UNKNOWN:
            call.doubts -= 1
            if current:
                self._on_session_unknown(call)
        elif code == ResultCode.TOO_MANY_UNANSWERED:
            call.doubts -= 1
            if current:
                self._outbox.add(call)
                self._route.hold(now)
        else:  # ALREADY_ANSWERED: never so for a number that is still in use; or a code of a later version
            self._give_up(call, f"answered with code {code}")

    def _on_session_unknown(self, call: Call) -> None:
        # This copy had no effect, and no later one can have any. An earlier one may have had its effect while the
        # session lived; only if there is none may the command become a new one in a new session.
        if call.session is self._outbox.session:
            self._outbox.session = None
        if call.doubts or call.request is CLOSE_SESSION:
            self._give_up(call, "the session ended meanwhile")
            return
        call.session = None
        self._outbox.add(call)

    def _on_refusal(self, call: Call, link: Link, status: int, body: bytes, current: bool, now: float) -> None:
        """A copy was answered by anything but OK. Not `current`: another copy of the call is under way already."""
        text = body.decode(errors="replace")
        if status == ReplyStatus.NOT_LEADER or status == ReplyStatus.BUSY:
            call.doubts -= 1
        elif status in (ReplyStatus.INVALID, ReplyStatus.REFUSED):
            self._refuse(call, text or "refused by the node")
            return
        elif status != ReplyStatus.UNKNOWN or not call.request.repeatable:
            self._give_up(call, f"{link.endpoint} cannot tell what became of it (status {status})")
            return
        if not current:
            if status == ReplyStatus.NOT_LEADER:
                self._route.late_hint(text)
            return
        if status == ReplyStatus.NOT_LEADER:
            self._trouble = (link.endpoint, f"says that {text} leads" if text else "knows no leader")
        elif status == ReplyStatus.BUSY:
            self._trouble = (link.endpoint, "is busy")
        else:
            self._trouble = (link.endpoint, "lost track of it")
        if call.pinned:
            self._give_up(call, f"{link.endpoint} {self._trouble[1]}")
            return
        self._outbox.add(call)
        if status == ReplyStatus.NOT_LEADER:
            self._route.not_leader(link, text, now)
        else:
            self._route.busy(link, now)

    def _on_new_life(self, link: Link, life: int) -> None:
        """The frontend there began anew: what an earlier life was asked is not answered any more."""
        link.life = life
        orphans = [call for call in link.pending.values() if call.sent_life is not None and call.sent_life != life]
        self._repeat(link, orphans, "was restarted")

    # ---- time ----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due: calls past their deadline, pings, silent links, copies unanswered for long."""
        if now >= self._next_expiry:
            self._expire(now)
        target = self._route.target
        unreachable = target.refused_at is not None and not target.pending and target.may_send(now)
        if unreachable and self._outbox.has_calls():
            self._lose(target, now)
        self._settle_checks(now)
        for link in list(self._route.links.values()):
            if link.pending:
                self._watch(link, now)

    def next_wakeup(self, now: float) -> float | None:
        """When `tick` and `frames_to_send`, called last with this `now`, have something to do again if nothing happens
        before; None: never."""
        wakeup = self._next_expiry if self._closed else min(self._next_expiry, self._discovery.due_at)
        wakeup = min(wakeup, self._checks.due_at)
        route = self._route
        if self._outbox.has_calls():
            wakeup = _sooner(wakeup, route.hold_until, now)
            wakeup = _sooner(wakeup, route.target.may_send_at(), now)
        for link in route.links.values():
            if link.pending:
                if link.ping_sent_at is None:
                    wakeup = min(wakeup, link.quiet_since + PING_AFTER_SECONDS)
                else:
                    wakeup = min(wakeup, link.ping_sent_at + DEAD_AFTER_PING_SECONDS)
            if link.pinned:
                wakeup = _sooner(wakeup, link.may_send_pinned_at(), now)
        return None if wakeup == inf else wakeup

    def _watch(self, link: Link, now: float) -> None:
        """Look after a link that owes answers."""
        if link.ping_sent_at is not None:
            if now >= link.ping_sent_at + DEAD_AFTER_PING_SECONDS:
                self._lose(link, now)
                return
        elif now >= link.quiet_since + PING_AFTER_SECONDS:
            link.ping_sent_at = now
            link.ping_due = True
        oldest = next(iter(link.pending.values()))
        if now - oldest.sent_at >= REPEAT_AFTER_SECONDS and now >= link.scan_at:
            link.scan_at = now + SCAN_EVERY_SECONDS
            overdue = [call for call in link.pending.values() if _is_overdue(call, now)]
            for call in overdue:
                call.patience = min(2 * call.patience, MAX_PATIENCE)
            if overdue:
                self._repeat(link, overdue, "does not answer")
                self._route.not_leader(link, "", now)

    def _lose(self, link: Link, now: float) -> None:
        """Pass over a link that is down or silent: its calls go elsewhere."""
        self._trouble = (link.endpoint, "does not answer" if link.connected else "cannot be reached")
        link.ping_sent_at = None
        link.ping_due = False
        link.quiet_since = now
        movable = [call for call in link.pending.values() if not call.pinned and call.request.repeatable]
        self._repeat(link, movable, self._trouble[1])
        self._route.lost(link, now)

    def _repeat(self, link: Link, calls: Sequence[Call], why: str) -> None:
        """Send these calls, whose latest copy is on `link` and seems lost, once more; first those sent first."""
        for call in reversed(calls):
            if call.request.repeatable:
                link.set_aside(call)
                self._outbox.put_back(call)
            else:
                self._give_up(call, f"{link.endpoint} {why}")

    def _expire(self, now: float) -> None:
        due = [call for call in self._live if call.deadline <= now]
        for call in due:
            self._give_up(call, self._why_late(call))
        if due:
            self._drop_done()
        earliest = min((call.deadline for call in self._live), default=inf)
        self._next_expiry = max(earliest, now + EXPIRY_SECONDS) if self._live else inf

    def _drop_done(self) -> None:
        self._outbox.drop_done()
        for link in self._route.links.values():
            link.pinned = deque(call for call in link.pinned if not call.done)

    def _why_late(self, call: Call) -> str:
        if call.pinned and call.link is not None:
            reachable = call.link.connected and call.link.refused_at is None
            return f"{call.link.endpoint} {'does not answer' if reachable else 'cannot be reached'}"
        links = self._route.links.values()
        if not any(link.connected for link in links):
            return f"no answer in time; no node can be reached at {', '.join(self._route.links)}"
        if self._trouble is None:
            return "no answer in time"
        return f"no answer in time; last: {' '.join(self._trouble)}"

    # ---- the members ---------------------------------------------------------------------------------------------

    def _ask_endpoints(self, now: float) -> None:
        link, call = self._discovery.ask(now)
        self._admit(call)
        call.link = link
        link.pinned.append(call)

    # ---- sessions ------------------------------------------------------------------------------------------------

    def _open_session(self, now: float) -> None:
        # Asked twice, it opens two: the one without commands expires. So it needs no session to be retried in.
        self._opening = True
        call = Call(OPEN_SESSION, now + OPEN_SECONDS, self._on_session, False)
        call.body = encode_command(0, 0, 0, OPEN_SESSION.op)
        self._admit(call)
        self._outbox.put_back(call)

    def _on_session(self, value: Any, error: Exception | None) -> None:
        self._opening = False
        if error is None:
            self._outbox.session = Session(value)
        elif isinstance(error, InvalidRequest):
            for call in self._outbox.take_writes():
                self._refuse(call, str(error))

    # ---- the end of a call ---------------------------------------------------------------------------------------

    def _retire(self, call: Call) -> None:
        """Forget a call and all its copies. Its number, if it has one, is settled: no copy will be sent any more."""
        call.done = True
        self._live.pop(call, None)
        if call.session is not None:
            call.session.settle(call.number)
        if call.link is not None:
            call.link.pending.pop(call.request_id, None)
        for link, request_id in call.earlier:
            link.lost.pop(request_id, None)

    def _refuse(self, call: Call, text: str) -> None:
        self._retire(call)
        call.on_done(None, InvalidRequest(f"{call.request.name}: {text}"))

    def _give_up(self, call: Call, reason: str) -> None:
        self._retire(call)
        request = call.request
        if request.kind in _KINDS_WITHOUT_EFFECT:
            call.on_done(None, Unavailable(f"{request.name}: {reason}"))
        elif call.doubts:
            call.on_done(None, OutcomeUnknown(f"{request.name}: {reason}; it may have been applied, now or later"))
        else:
            call.on_done(None, Unavailable(f"{request.name}: {reason}; it was surely not applied"))


def _is_overdue(call: Call, now: float) -> bool:
    return call.request.repeatable and not call.pinned and now - call.sent_at >= REPEAT_AFTER_SECONDS * call.patience


def _sooner(wakeup: float, instant: float, now: float) -> float:
    """`instant` if it is to come, and before `wakeup`."""
    return instant if now < instant < wakeup else wakeup
