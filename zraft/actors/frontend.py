"""Client connections: takes request frames, hands commands on unopened, and sends each client its replies.

It knows which requests wait for an answer and nothing else. If it dies they are forgotten; the clients notice by the
new `life` in its successor's frames, and ask again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from zraft.bus.actor import Actor, Context
from zraft.errors import InvalidRequest
from zraft.messages import (
    ChangeMembers,
    Endpoints,
    KillRequest,
    Propose,
    Read,
    ReadInTerm,
    ReadSnapshot,
    Replies,
    SetFaults,
    SnapshotRead,
    StatusReply,
    StatusRequest,
    TakeSnapshot,
    TermRequest,
    TransferLeadership,
)
from zraft.wire import (
    MAX_REQUESTS_PER_FRAME,
    ReplyStatus,
    RequestKind,
    WireError,
    pack_piece,
    pack_replies,
    unpack_requests,
)

if TYPE_CHECKING:  # what runs these actors without sockets does not load ZeroMQ
    from zraft.bus.ports import RouterPort

MAX_COMMAND_BYTES = 2_200_000  # a cas with a largest key and two largest values, and what frames them
MAX_PENDING = 100_000  # requests without an answer, over all clients; past it: BUSY
MAX_PENDING_BYTES = 64 * 1024 * 1024  # of them
REPLY_FRAME_BYTES = 1024 * 1024
DISK_OWNERS = {"log_writer", "snapshot_writer"}
STATUS_PATIENCE_MS = 300  # for what they have to say of themselves, who may be waiting for the disk
STATUS_AGAIN_MS = 50  # between two looks whether that is all that is missing

SNAPSHOT_PIECE_BYTES = 256 * 1024
MAX_INTEGER = (1 << 63) - 1  # in a request's JSON

WRITE, READ, STATUS, TRANSFER, CHAOS, PING, COMPACT, SNAPSHOT, MEMBERS, ENDPOINTS, READ_IN_TERM, TERM = (
    int(kind) for kind in RequestKind
)

log = logging.getLogger(__name__)


class StatusQuery:
    """A status request that is being put together. due_ms: from when on it does not wait for the disk."""

    def __init__(self, client: tuple[bytes, int], missing: Sequence[str], due_ms: int) -> None:
        self.client = client
        self.due_ms = due_ms
        self.missing = set(missing)
        self.fields: dict[str, Any] = {}


class Frontend(Actor):
    """node: this node's id. actors: all actors, for status. parse_fault: makes of a client's JSON what the supervisor
    shall do, or raises InvalidRequest; None: no faults may be injected. facts: what else status shall say."""

    name = "frontend"

    def __init__(
        self,
        context: Context,
        node: str,
        actors: Sequence[str],
        parse_fault: Callable[[bytes], KillRequest | SetFaults] | None,
        facts: dict[str, Any],
    ) -> None:
        super().__init__(context)
        self.node = node
        self.parse_fault = parse_fault
        self.facts = facts
        self.status_sources = [*actors, "supervisor"]
        self.port: RouterPort = context.ports["clients"]
        self.life = context.rng.getrandbits(62)
        self.last_token = context.incarnation << 40  # no token of an older life ever means anything in this one
        self.pending: dict[int, tuple[bytes, int, int, int]] = {}  # token -> (connection, request id, kind, bytes)
        self.pending_bytes = 0
        self.status_queries: dict[int, StatusQuery] = {}
        self.endpoints = b"[]"  # where clients reach the members, as ENDPOINTS is answered
        self.proposals: list[tuple[int, bytes]] = []
        self.reads: list[tuple[int, bytes]] = []
        self.reads_in_term: list[tuple[int, bytes]] = []
        self.term_requests: list[int] = []
        self.replies: dict[bytes, list[tuple[int, int, bytes]]] = {}
        self.counts = {"client_frames_in": 0, "client_dropped_in": 0, "client_requests": 0, "client_refused": 0}
        self.handlers |= {
            Replies: self.on_replies,
            Endpoints: self.on_endpoints,
            StatusReply: self.on_status_reply,
            SnapshotRead: self.on_snapshot_read,
        }

    # --- from clients

    def receive_frames(self, port: str, frames: list[tuple[bytes, bytes]]) -> None:
        """From clients, or from anybody who found the port."""
        for connection, frame in frames:
            try:
                requests = unpack_requests(frame)
            except WireError as error:
                self.counts["client_dropped_in"] += 1
                log.debug("a frame from a client was dropped: %s", error)
                continue
            self.counts["client_frames_in"] += 1
            self.counts["client_requests"] += len(requests)
            for request_id, kind, body in requests:
                self.on_request(connection, request_id, kind, body)

    def on_request(self, connection: bytes, request_id: int, kind: int, body: bytes) -> None:
        """One request. Commands and queries are not opened here."""
        if kind == PING:
            self.reply(connection, request_id, ReplyStatus.OK, b"")
        elif kind == ENDPOINTS:
            self.reply(connection, request_id, ReplyStatus.OK, self.endpoints)
        elif len(body) > MAX_COMMAND_BYTES:
            self.refuse(connection, request_id, f"too large: {len(body)} bytes (at most {MAX_COMMAND_BYTES})")
        elif len(self.pending) >= MAX_PENDING or self.pending_bytes > MAX_PENDING_BYTES:
            self.reply(connection, request_id, ReplyStatus.BUSY, b"")
        elif kind == WRITE:
            self.proposals.append((self.token(connection, request_id, kind, len(body)), body))
        elif kind == READ:
            self.reads.append((self.token(connection, request_id, kind, len(body)), body))
        elif kind == READ_IN_TERM:
            self.reads_in_term.append((self.token(connection, request_id, kind, len(body)), body))
        elif kind == TERM:
            self.term_requests.append(self.token(connection, request_id, kind))
        elif kind == STATUS:
            self.on_status(connection, request_id)
        elif kind == TRANSFER:
            self.on_transfer(connection, request_id, body)
        elif kind == MEMBERS:
            token = self.token(connection, request_id, kind, len(body))
            self.context.send("consensus", ChangeMembers(token, body))
        elif kind == CHAOS:
            self.on_chaos(connection, request_id, body)
        elif kind in (COMPACT, SNAPSHOT):
            self.on_snapshot_request(connection, request_id, kind, body)
        else:
            self.refuse(connection, request_id, f"no request of kind {kind} in this version")

    def token(self, connection: bytes, request_id: int, kind: int, size: int = 0) -> int:
        """A number under which the answer will come back."""
        self.last_token += 1
        self.pending[self.last_token] = (connection, request_id, kind, size)
        self.pending_bytes += size
        return self.last_token

    def refuse(self, connection: bytes, request_id: int, text: str) -> None:
        """Final: a request that no node would take."""
        self.counts["client_refused"] += 1
        self.reply(connection, request_id, ReplyStatus.INVALID, text.encode())

    def on_transfer(self, connection: bytes, request_id: int, body: bytes) -> None:
        """Leadership to another node."""
        try:
            target = body.decode()
        except UnicodeDecodeError:
            self.refuse(connection, request_id, "a node id is text in UTF-8")
            return
        token = self.token(connection, request_id, TRANSFER)
        self.context.send("consensus", TransferLeadership(token, target))

    def on_chaos(self, connection: bytes, request_id: int, body: bytes) -> None:
        """A fault on purpose, where the config allows it."""
        if self.parse_fault is None:
            log.warning("chaos refused: %s", body[:200])
            text = f"{self.node} accepts no injected faults: its config does not say 'chaos: true'"
            self.reply(connection, request_id, ReplyStatus.REFUSED, text.encode())
            return
        try:
            fault = self.parse_fault(body)
        except InvalidRequest as error:
            self.refuse(connection, request_id, str(error))
            return
        self.context.send("supervisor", fault._replace(token=self.token(connection, request_id, CHAOS)))

    # --- snapshots

    def on_snapshot_request(self, connection: bytes, request_id: int, kind: int, body: bytes) -> None:
        """Take one, or read some bytes of one, for a backup."""
        names = ("revision",) if kind == COMPACT else ("index", "offset")
        try:
            fields = json.loads(body)
            values = [fields[name] for name in names]
        except (ValueError, KeyError, TypeError, RecursionError):
            values = []
        if not values or not all(type(value) is int and 0 <= value <= MAX_INTEGER for value in values):
            self.refuse(connection, request_id, f"expected a JSON object with numbers {' and '.join(names)}")
            return
        # What comes back counts as waiting, so that no client has the pieces of many large answers wait here.
        token = self.token(connection, request_id, kind, SNAPSHOT_PIECE_BYTES if kind == SNAPSHOT else 0)
        if kind == COMPACT:
            self.context.send("applier", TakeSnapshot(token, values[0]))
        else:
            self.context.send("snapshot_writer", ReadSnapshot(str(token), values[0], values[1], SNAPSHOT_PIECE_BYTES))

    def on_snapshot_read(self, sender: str, message: SnapshotRead) -> None:
        """Some bytes for a backup."""
        reader, index, offset, data, size = message
        waiting = self.pending.pop(int(reader), None)
        if waiting is None:
            return
        self.pending_bytes -= waiting[3]
        if size:
            self.reply(waiting[0], waiting[1], ReplyStatus.OK, pack_piece(index, offset, size, data))
        else:
            text = f"{self.node} has no such snapshot (any more)"
            self.reply(waiting[0], waiting[1], ReplyStatus.REFUSED, text.encode())

    # --- status

    def on_status(self, connection: bytes, request_id: int) -> None:
        """Ask everybody."""
        token = self.token(connection, request_id, STATUS)
        due_ms = self.context.now_ms() + STATUS_PATIENCE_MS
        self.status_queries[token] = StatusQuery((connection, request_id), self.status_sources, due_ms)
        if self.wakeup_ms is None:
            self.wakeup_ms = due_ms
        for name in self.status_sources:
            if name != self.name:
                self.context.send(name, StatusRequest(token))
        self.add_status(token, self.name, self.status())

    def on_status_reply(self, sender: str, message: StatusReply) -> None:
        """One part."""
        self.add_status(message.token, sender, message.fields)

    def add_status(self, token: int, source: str, fields: dict[str, Any]) -> None:
        """Answer when all parts are there."""
        query = self.status_queries.get(token)
        if query is None or source not in query.missing:
            return
        query.missing.remove(source)
        query.fields |= fields
        if not query.missing:
            self.answer_status(token, query)

    def on_wakeup(self, now_ms: int) -> None:
        """Answer without those whose disk does not: of a node with a stalled disk one wants to know."""
        for token, query in list(self.status_queries.items()):
            if query.due_ms <= now_ms and query.missing <= DISK_OWNERS:
                self.answer_status(token, query)
        if self.status_queries:
            self.wakeup_ms = max(now_ms + STATUS_AGAIN_MS, min(query.due_ms for query in self.status_queries.values()))

    def answer_status(self, token: int, query: StatusQuery) -> None:
        """With what has come."""
        del self.status_queries[token], self.pending[token]
        dropped = {name: count for name, count in query.fields.items() if "dropped" in name or "undecodable" in name}
        answer = {"node": self.node, **self.facts, **query.fields, "dropped": sum(dropped.values())}
        self.reply(*query.client, ReplyStatus.OK, json.dumps(answer).encode())

    # --- to clients

    def on_endpoints(self, sender: str, message: Endpoints) -> None:
        """The members are others, or elsewhere."""
        self.endpoints = json.dumps(message.clients).encode()

    def on_replies(self, sender: str, message: Replies) -> None:
        """From whoever answers."""
        pending = self.pending
        for token, status, body in message.replies:
            waiting = pending.pop(token, None)
            if waiting is not None:
                self.pending_bytes -= waiting[3]
                self.reply(waiting[0], waiting[1], status, body)

    def reply(self, connection: bytes, request_id: int, status: int, body: bytes) -> None:
        """Gather; end_batch sends one frame to each connection."""
        replies = self.replies.get(connection)
        if replies is None:
            self.replies[connection] = [(request_id, status, body)]
        else:
            replies.append((request_id, status, body))

    def end_batch(self) -> None:
        """One message to consensus, one frame to each client (more where they are large)."""
        if self.proposals:
            proposals, self.proposals = tuple(self.proposals), []
            self.context.send("consensus", Propose(proposals))
        if self.reads:
            reads, self.reads = tuple(self.reads), []
            self.context.send("consensus", Read(reads))
        if self.reads_in_term:
            reads, self.reads_in_term = tuple(self.reads_in_term), []
            self.context.send("consensus", ReadInTerm(reads))
        if self.term_requests:
            tokens, self.term_requests = tuple(self.term_requests), []
            self.context.send("consensus", TermRequest(tokens))
        if self.replies:
            all_replies, self.replies = self.replies, {}
            for connection, replies in all_replies.items():
                self.context.boundary()
                self.send_replies(connection, replies)

    def send_replies(self, connection: bytes, replies: list[tuple[int, int, bytes]]) -> None:
        """In frames of some REPLY_FRAME_BYTES, and of no more replies than a frame has requests."""
        size, start = 0, 0
        for position, reply in enumerate(replies, 1):
            size += len(reply[2])
            if size > REPLY_FRAME_BYTES or position - start == MAX_REQUESTS_PER_FRAME:
                self.port.send(connection, pack_replies(self.life, replies[start:position]))
                size, start = 0, position
        if start < len(replies):
            self.port.send(connection, pack_replies(self.life, replies[start:]))

    def on_neighbour_restarted(self, name: str) -> None:
        """Whoever was to answer may be gone: clients ask again (sessions make that safe)."""
        for token, query in self.status_queries.items():
            if name in query.missing:
                self.context.send(name, StatusRequest(token))
        if name not in ("consensus", "applier", "snapshot_writer"):
            return
        for token in [token for token in self.pending if token not in self.status_queries]:
            connection, request_id, kind, size = self.pending[token]
            if kind != CHAOS and (kind == SNAPSHOT) == (name == "snapshot_writer"):
                del self.pending[token]
                self.pending_bytes -= size
                self.reply(connection, request_id, ReplyStatus.UNKNOWN, b"")

    def status(self) -> dict[str, Any]:
        """Frames and requests taken and dropped, and how many wait."""
        counts = dict(self.counts)
        counts["client_dropped_in"] += self.port.surplus_parts
        return {**counts, "client_pending": len(self.pending)}
