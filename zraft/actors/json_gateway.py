"""`get` and `set` as JSON lines over plain TCP, for people with nc, for shells, and for other languages.

A client of the cluster like any other: it has a session of its own and runs the client's protocol core, so that a
line sent to any node finds the leader, and a retry is applied once.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from typing import Any

from zraft.bus.actor import Actor, Context
from zraft.bus.ports import ClusterPort, StreamPort
from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.errors import InvalidRequest, OutcomeUnknown, ZraftError

TIMEOUT_SECONDS = 5.0
MAX_LINE_BYTES = 2 * 1024 * 1024
MAX_WAITING_LINES = 10_000  # of one connection, answered or not: then it is closed
MAX_CONNECTIONS = 1_000


class Connection:
    """One TCP connection. Lines are answered in the order in which they came."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.answers: deque[Answer] = deque()


class Answer:
    """The place of one line's answer; None: not yet."""

    def __init__(self) -> None:
        self.line: bytes | None = None

    def say(self, fields: dict[str, Any]) -> None:
        """The answer is there."""
        self.line = json.dumps(fields, ensure_ascii=False).encode() + b"\n"


class JsonGateway(Actor):
    """endpoints: client endpoints of the cluster, this node's first."""

    name = "json_gateway"

    def __init__(self, context: Context, endpoints: Sequence[str]) -> None:
        super().__init__(context)
        self.stream: StreamPort = context.ports["json"]
        self.cluster: ClusterPort = context.ports["cluster"]
        self.core = ClientCore(endpoints, context.rng)
        self.connections: dict[bytes, Connection] = {}
        self.dropped = 0

    # --- lines in

    def receive_frames(self, port: str, frames: list[Any]) -> None:
        """Bytes from outside, or answers from the cluster."""
        if port == "cluster":
            now = self.now()
            for endpoint, frame in frames:
                self.core.on_frame(endpoint, frame, now)
            return
        for identity, data in frames:
            self.on_bytes(identity, data)

    def on_bytes(self, identity: bytes, data: bytes) -> None:
        """Bytes of one connection; none: it has opened or closed."""
        connection = self.connections.get(identity)
        if not data:
            if connection is not None:
                del self.connections[identity]
            elif len(self.connections) < MAX_CONNECTIONS:
                self.connections[identity] = Connection()
            else:
                self.drop(identity, "too many connections")
            return
        if connection is None:
            connection = self.connections[identity] = Connection()  # it was open before this life began
        connection.buffer += data
        if b"\n" in data:
            *lines, rest = bytes(connection.buffer).split(b"\n")
            connection.buffer = bytearray(rest)
            for line in lines:
                if line.strip():
                    self.on_line(connection, line)
        if len(connection.buffer) > MAX_LINE_BYTES:
            self.drop(identity, f"a line of more than {MAX_LINE_BYTES} bytes")
        elif len(connection.answers) > MAX_WAITING_LINES:
            self.drop(identity, f"more than {MAX_WAITING_LINES} lines wait for their answers")

    def drop(self, identity: bytes, why: str) -> None:
        """Say why, and close the connection."""
        self.dropped += 1
        self.connections.pop(identity, None)
        self.stream.send(identity, json.dumps({"ok": False, "error": why}).encode() + b"\n")
        self.stream.send(identity, b"")

    def on_line(self, connection: Connection, line: bytes) -> None:
        """One request."""
        answer = Answer()
        connection.answers.append(answer)
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise InvalidRequest("a request is a JSON object")
            self.submit(fields, answer)
        except (ValueError, RecursionError) as error:
            self.dropped += 1
            answer.say({"ok": False, "error": f"not JSON: {error}"})
        except InvalidRequest as error:
            self.dropped += 1
            answer.say({"ok": False, "error": str(error)})

    def submit(self, fields: dict[str, Any], answer: Answer) -> None:
        """Hand the request to the client's core. Raises InvalidRequest."""
        op = fields.get("op")
        if op == "set":
            request = requests.set_key(text(fields, "key"), text(fields, "value"))
        elif op == "get":
            request = requests.get_at_revision(text(fields, "key"))
        else:
            raise InvalidRequest(f'unknown op {json.dumps(op)[:40]}: this port knows "get" and "set"')

        def on_done(value: Any, error: ZraftError | None) -> None:
            if isinstance(error, OutcomeUnknown):
                answer.say({"ok": False, "error": str(error), "outcome": "unknown"})
            elif error is not None:
                answer.say({"ok": False, "error": str(error)})
            elif op == "set":
                answer.say({"ok": True, "revision": value})
            else:
                answer.say(found(*value))

        self.core.submit(request, self.now() + TIMEOUT_SECONDS, on_done)

    # --- answers out

    def end_batch(self) -> None:
        """Send what the core wants sent, and the answers that are there, in order."""
        now = self.now()
        for endpoint in self.core.refused_endpoints():
            if self.cluster.is_writable(endpoint):
                self.core.on_writable(endpoint, now)
        self.core.tick(now)
        for outgoing in self.core.frames_to_send(now):
            self.context.boundary()
            if not self.cluster.send(outgoing.endpoint, outgoing.frame):
                self.core.on_send_failed(outgoing, now)
        for identity, connection in list(self.connections.items()):
            lines = []
            while connection.answers and connection.answers[0].line is not None:
                lines.append(connection.answers.popleft().line)
            if lines and not self.stream.send(identity, b"".join(filter(None, lines))):
                del self.connections[identity]
        wakeup = self.core.next_wakeup(now)
        self.wakeup_ms = None if wakeup is None else int(wakeup * 1000) + 1

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
