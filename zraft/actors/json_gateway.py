"""`get` and `set` as JSON lines over plain TCP, for people with nc, for shells, and for other languages.

A client of the cluster like any other: it has a session of its own and runs the client's protocol core, so that a
line sent to any node finds the leader, and a retry is applied once.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Sequence
from typing import Any

from zraft.bus.actor import Actor, Context
from zraft.bus.ports import ClusterPort
from zraft.bus.tcp_port import TcpPort
from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.errors import InvalidRequest, OutcomeUnknown, ZraftError

TIMEOUT_SECONDS = 5.0
MAX_LINE_BYTES = 2 * 1024 * 1024
MAX_WAITING_LINES = 10_000  # of one connection: then it is closed
MAX_WAITING_BYTES = 8 * 1024 * 1024
ANSWER_BYTES = 64 * 1024  # are gathered before they are sent
RETRY_MS = 50  # to send to a connection whose other end reads too slowly


class Connection:
    """One TCP connection. Its lines are done one after the other: a get sees what the set before it wrote."""

    def __init__(self) -> None:
        self.buffer = bytearray()  # of a line that has not ended
        self.lines: deque[bytes] = deque()  # not begun
        self.waiting_bytes = 0  # of these
        self.busy = False  # the core is asked what the line before them wants
        self.answers = bytearray()  # not sent
        self.ended = False  # the other end sends no more lines; those that it sent are still answered
        self.closing = False  # takes no lines any more: it broke a rule

    def say(self, fields: dict[str, Any]) -> None:
        """Answer a line."""
        self.busy = False
        self.answers += json.dumps(fields, ensure_ascii=False).encode() + b"\n"


class JsonGateway(Actor):
    """endpoints: client endpoints of the cluster, this node's first."""

    name = "json_gateway"

    def __init__(self, context: Context, endpoints: Sequence[str]) -> None:
        super().__init__(context)
        self.tcp: TcpPort = context.ports["json"]
        self.cluster: ClusterPort = context.ports["cluster"]
        self.core = ClientCore(endpoints, context.rng)
        self.connections: dict[int, Connection] = {}
        self.dropped = 0

    def on_start(self) -> None:
        """What an older life was asked is not answered any more: its connections end, so that nobody waits in vain, and
        its links, whose late answers would be taken for answers to this life."""
        self.tcp.drop_all()
        self.cluster.drop_all()

    # --- lines in

    def receive_frames(self, port: str, frames: list[Any]) -> None:
        """Bytes from outside, or answers from the cluster."""
        if port == "cluster":
            now = self.now()
            for endpoint, frame in frames:
                self.core.on_frame(endpoint, frame, now)
            return
        for number, data in frames:
            self.on_bytes(number, data)

    def on_bytes(self, number: int, data: bytes) -> None:
        """Bytes of one connection; none: it sends no more."""
        connection = self.connections.get(number)
        if connection is None:
            connection = self.connections[number] = Connection()
        if connection.closing:
            return
        if not data:
            connection.ended = True
            data = b"\n"  # the last line may lack its end
        connection.buffer += data
        if b"\n" in data:
            *lines, rest = bytes(connection.buffer).split(b"\n")
            connection.buffer = bytearray(rest)
            wanted = [line for line in lines if line.strip()]
            connection.lines.extend(wanted)
            connection.waiting_bytes += sum(map(len, wanted))
        if len(connection.buffer) > MAX_LINE_BYTES:
            self.drop(connection, f"a line of more than {MAX_LINE_BYTES} bytes")
        elif len(connection.lines) > MAX_WAITING_LINES or connection.waiting_bytes > MAX_WAITING_BYTES:
            why = f"more than {MAX_WAITING_LINES} lines or {MAX_WAITING_BYTES} bytes wait: read answers meanwhile"
            self.drop(connection, why)

    def drop(self, connection: Connection, why: str) -> None:
        """Take no more lines, say why, and close the connection."""
        self.dropped += 1
        connection.closing = True
        connection.buffer.clear()
        connection.lines.clear()
        connection.say({"ok": False, "error": why})

    def on_line(self, connection: Connection, line: bytes) -> None:
        """One request."""
        connection.waiting_bytes -= len(line)
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise InvalidRequest("a request is a JSON object")
            self.submit(fields, connection)
        except (ValueError, RecursionError) as error:
            self.dropped += 1
            connection.say({"ok": False, "error": f"not JSON: {error}"})
        except InvalidRequest as error:
            self.dropped += 1
            connection.say({"ok": False, "error": str(error)})

    def submit(self, fields: dict[str, Any], connection: Connection) -> None:
        """Hand the request to the client's core. Raises InvalidRequest."""
        op = fields.get("op")
        if op == "set":
            request = requests.set_key(text(fields, "key"), text(fields, "value"))
        elif op == "get":
            request = requests.get_at_revision(text(fields, "key"))
        else:
            raise InvalidRequest(f'unknown op {json.dumps(op)[:40]}: this port knows "get" and "set"')

        def on_done(value: Any, error: ZraftError | None) -> None:
            if connection.closing:
                return
            if isinstance(error, OutcomeUnknown):
                connection.say({"ok": False, "error": str(error), "outcome": "unknown"})
            elif error is not None:
                connection.say({"ok": False, "error": str(error)})
            elif op == "set":
                connection.say({"ok": True, "revision": value})
            else:
                connection.say(found(*value))

        connection.busy = True
        self.core.submit(request, self.now() + TIMEOUT_SECONDS, on_done)

    # --- answers out

    def end_batch(self) -> None:
        """Answer, begin the next lines, and send what the core wants sent for them."""
        now = self.now()
        for endpoint in self.core.refused_endpoints():
            if self.cluster.is_writable(endpoint):
                self.core.on_writable(endpoint, now)
        self.core.tick(now)
        for endpoint in self.core.dropped_endpoints():
            self.cluster.drop(endpoint)
        late = [not self.serve(*item) for item in list(self.connections.items())]
        for outgoing in self.core.frames_to_send(now):
            self.context.boundary()
            if not self.cluster.send(outgoing.endpoint, outgoing.frame):
                self.core.on_send_failed(outgoing, now)
        wakeup = self.core.next_wakeup(now)
        self.wakeup_ms = None if wakeup is None else int(wakeup * 1000) + 1
        if any(late):
            self.wakeup_ms = min(self.wakeup_ms or sys.maxsize, self.context.now_ms() + RETRY_MS)

    def serve(self, number: int, connection: Connection) -> bool:
        """Send the answers that are there and begin what can be begun. False: not all of it could be sent now."""
        while True:
            while connection.lines and not connection.busy and len(connection.answers) < ANSWER_BYTES:
                self.on_line(connection, connection.lines.popleft())
            if not connection.answers:
                break
            if not self.tcp.send(number, bytes(connection.answers)):
                return False
            connection.answers.clear()
        finished = connection.closing or (connection.ended and not connection.busy)
        if finished:
            self.tcp.finish(number)
        if finished or not self.tcp.is_open(number):
            del self.connections[number]
        return True

    def on_wakeup(self, now_ms: int) -> None:
        """The core's time has come; end_batch follows."""

    def now(self) -> float:
        """Monotonic seconds, as the core wants them."""
        return self.context.now_ms() / 1000

    def status(self) -> dict[str, Any]:
        """Lines that were no request."""
        return {"json_connections": len(self.connections), "json_dropped_in": self.dropped}


def text(fields: dict[str, Any], name: str) -> bytes:
    """A field that is text, as UTF-8. Raises InvalidRequest."""
    value = fields.get(name)
    if not isinstance(value, str):
        raise InvalidRequest(f'"{name}" is text and must be given')
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f'"{name}" has a character that is none (half of a surrogate pair)') from None


def found(value: bytes | None, revision: int) -> dict[str, Any]:
    """What get answers."""
    if value is None:
        return {"ok": True, "value": None, "revision": revision}
    try:
        return {"ok": True, "value": value.decode(), "revision": revision}
    except UnicodeDecodeError:
        return {"ok": False, "error": "the value is not text in UTF-8: read it with zraft-cli or a zraft.Client"}
