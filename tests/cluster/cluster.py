"""Real nodes for zraft's own tests: `zraft.testing`, but asked in the client's wire format (docs/PROTOCOL.md), without
zraft's client, so that a bug in the client cannot hide one in the nodes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgpack
import zmq

from zraft import testing
from zraft.testing.harness import START_SECONDS, eventually
from zraft.testing.ports import HOST

__all__ = ["ACTORS", "CHAOS", "HOST", "OK", "PING", "READ", "STATUS", "TRANSFER", "WRITE"]
__all__ += ["Cluster", "Connection", "NoAnswer", "Node", "eventually"]

WRITE, READ, STATUS, TRANSFER, CHAOS, PING = 1, 2, 3, 4, 5, 6
OK = 0
ACTORS = (
    "frontend",
    "transport",
    "consensus",
    "election_timer",
    "log_writer",
    "snapshot_writer",
    "applier",
    "json_gateway",
)

STATUS_SECONDS = 3.0
STATUS_AGAIN_SECONDS = 0.5


class NoAnswer(Exception):
    """A node did not answer in time."""


class Connection:
    """A client's connection that follows no redirect and repeats nothing. A context manager."""

    def __init__(self, context: zmq.Context[Any], endpoint: str) -> None:
        self._endpoint = endpoint
        self._socket = context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(endpoint)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def send(self, kind: int, body: bytes) -> None:
        """One request."""
        self._socket.send(msgpack.packb([1, [[1, kind, body]]]))

    def receive(self, seconds: float = STATUS_SECONDS) -> tuple[int, bytes]:
        """The next answer: (ReplyStatus, body). Raises NoAnswer."""
        if not self._socket.poll(int(seconds * 1000)):
            raise NoAnswer(f"{self._endpoint} does not answer")
        version, _, [[request_id, status, answer]] = msgpack.unpackb(self._socket.recv())
        assert (version, request_id) == (1, 1)
        return status, answer


class Node(testing.Node):
    """One node: its configuration, its process while one runs, and what it answers."""

    def __init__(self, context: zmq.Context[Any], folder: Path, config: dict[str, Any]) -> None:
        super().__init__(folder, config)
        self._context = context

    def connect(self) -> Connection:
        """A connection to its client port."""
        return Connection(self._context, self.endpoint)

    def ask(self, kind: int, body: bytes = b"", seconds: float = STATUS_SECONDS) -> tuple[int, bytes]:
        """One request over a connection of its own: (ReplyStatus, body). Raises NoAnswer."""
        with self.connect() as connection:
            connection.send(kind, body)
            return connection.receive(seconds)

    def status(self, seconds: float = STATUS_SECONDS) -> dict[str, Any]:
        """What it says of itself. Asked again now and then, for a question dies with its frontend. Raises NoAnswer."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                status, body = self.ask(STATUS, b"", STATUS_AGAIN_SECONDS)
            except NoAnswer:
                if time.monotonic() > deadline:
                    raise
                continue
            assert status == OK, (status, body)
            report: dict[str, Any] = json.loads(body)
            return report

    def kill_actor(self, actor: str, boundary: int = 0) -> None:
        """Have it kill one of its actors. The answer may die with the actor; incarnations tell what became of it."""
        fault = json.dumps({"op": "kill-actor", "actor": actor, "boundary": boundary}).encode()
        try:
            status, body = self.ask(CHAOS, fault, 0.5)
        except NoAnswer:
            return
        assert status == OK, (status, body)

    def incarnations(self) -> dict[str, int]:
        """How many lives each actor has had in the present process."""
        return {actor: int(report["incarnation"]) for actor, report in self.status()["actors"].items()}


class Cluster(testing.Cluster):
    """`size` nodes n1, n2.. on this machine. A context manager: at its end all processes have ended."""

    nodes: dict[str, Node]

    def __init__(self, folder: Path, size: int = 3, **settings: Any) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self.expected_complaints: list[str] = []
        """A line in a log that holds one of these is no complaint."""
        super().__init__(size, folder, **settings)

    def complaints(self) -> list[str]:
        """But for those that a test expects."""
        found = super().complaints()
        return [line for line in found if not any(expected in line for expected in self.expected_complaints)]

    def make_node(self, config: dict[str, Any]) -> Node:
        """One that is asked without zraft's client."""
        return Node(self._context, self.folder, config)

    def close(self) -> None:
        """End all processes at once; nothing in this can hang."""
        super().close()
        self._context.destroy(linger=0)

    def statuses(self, nodes: Iterable[testing.Node] | None = None) -> dict[str, dict[str, Any]]:
        """Of those that answer, by name."""
        reports = {}
        for name in [node.name for node in (self.running if nodes is None else nodes)]:
            try:
                reports[name] = self.nodes[name].status(0.0)
            except NoAnswer:
                continue
        return reports

    def leader(self, seconds: float = START_SECONDS) -> Node:
        """See the base class."""
        return self.nodes[super().leader(seconds).name]

    @property
    def running(self) -> list[Node]:
        """Nodes with a process."""
        return [node for node in self.nodes.values() if node.is_running]

    def followers(self) -> list[Node]:
        """Those that run and do not lead."""
        leader = self.leader()
        return [node for node in self.running if node is not leader]
