"""Real nodes for tests: processes on free ports, each in a folder of its own, ended by the pid that was started.

Independent of zraft's own code: it starts the program, and asks for status in the client's wire format (frames as in
docs/PROTOCOL.md), so a bug in zraft's client cannot hide one in its nodes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgpack
import yaml
import zmq
from ports import HOST, PortReservation

WRITE, READ, STATUS, TRANSFER, CHAOS, PING = 1, 2, 3, 4, 5, 6
OK = 0
ACTORS = ("frontend", "transport", "consensus", "election_timer", "log_writer", "applier", "json_gateway")

START_SECONDS = 15.0
"""Long, as other programs may keep the machine busy: what a test demands of the time is up to the test."""
STOP_SECONDS = 10.0
STATUS_SECONDS = 3.0
STATUS_AGAIN_SECONDS = 0.5
POLL_SECONDS = 0.02


class NoAnswer(Exception):
    """A node did not answer in time."""


def eventually(what: str, condition: Callable[[], Any], seconds: float = START_SECONDS) -> Any:
    """The first true value of `condition`, asked again and again; fails the test when there is none in time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}; last: {value!r}")
        time.sleep(POLL_SECONDS)


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


class Node:
    """One node: its configuration, and its process while one runs."""

    def __init__(self, context: zmq.Context[Any], folder: Path, config: dict[str, Any]) -> None:
        self.name: str = config["node"]
        self.config = config
        self.config_path = folder / f"{self.name}.yaml"
        self.log_path = folder / f"{self.name}.log"
        self.endpoint = f"tcp://{HOST}:{_port(config['cluster'][self.name]['client'])}"
        self.json_port = _port(config["json"])
        self.peer_port = _port(config["cluster"][self.name]["peer"])
        self.process: subprocess.Popen[bytes] | None = None
        self.ended_on_purpose = True
        self._context = context
        self.config_path.write_text(yaml.safe_dump(config))

    # --- its process

    @property
    def pid(self) -> int:
        """Of the latest process."""
        assert self.process is not None
        return self.process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Begin a process; what it prints is appended to its log."""
        assert not self.is_running, f"{self.name} runs"
        with open(self.log_path, "ab") as log:
            command = [sys.executable, "-m", "zraft.cli.node", str(self.config_path)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.ended_on_purpose = False

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def pause(self) -> None:
        """SIGSTOP."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self.signal(signal.SIGCONT)

    def signal(self, number: int) -> None:
        """To the process that this object started, and to no other."""
        assert self.process is not None and self.process.poll() is None, f"{self.name} does not run"
        self.ended_on_purpose = self.ended_on_purpose or number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        self.process.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Until the process has ended; returns its exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def memory_bytes(self) -> int:
        """Resident memory of the process."""
        if sys.platform == "linux":
            return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 1024 * int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(self.pid)]))

    def log(self) -> str:
        """All that its processes printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # --- asking it

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


class Cluster:
    """`size` nodes n1, n2.. on this machine. A context manager: at its end all processes have ended.

    settings: keys of every node's configuration beside those that make it a cluster.
    """

    def __init__(self, folder: Path, size: int = 3, **settings: Any) -> None:
        self.folder = folder
        self._ports = PortReservation()
        self._context: zmq.Context[Any] = zmq.Context()
        names = [f"n{number}" for number in range(1, size + 1)]
        members = {name: {"client": self._address(), "peer": self._address()} for name in names}
        self.nodes = {name: Node(self._context, folder, self._config(name, members, settings)) for name in names}

    def _address(self) -> str:
        return f"tcp://{HOST}:{self._ports.take()}"

    def _config(self, name: str, members: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
        own = {"node": name, "data_dir": str(self.folder / name), "json": self._address()}
        return {**own, "cluster": members, "chaos": True, **settings}

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def endpoints(self) -> list[str]:
        """Of all nodes, for clients."""
        return [node.endpoint for node in self.nodes.values()]

    @property
    def running(self) -> list[Node]:
        """Nodes with a process."""
        return [node for node in self.nodes.values() if node.is_running]

    def start(self) -> None:
        """Start every node, and wait until one leads."""
        for node in self.nodes.values():
            node.start()
        self.leader()

    def close(self) -> None:
        """End all processes at once; nothing in this can hang."""
        for node in self.running:
            node.kill()
        self._context.destroy(linger=0)
        self._ports.close()

    # --- what they say

    def statuses(self, nodes: Iterable[Node] | None = None) -> dict[str, dict[str, Any]]:
        """Of those that answer, by name."""
        reports = {}
        for node in self.running if nodes is None else nodes:
            try:
                reports[node.name] = node.status(0.0)
            except NoAnswer:
                continue
        return reports

    def leader(self, seconds: float = START_SECONDS) -> Node:
        """The node that leads, as soon as a majority of all nodes agrees on it."""

        def agreed() -> Node | None:
            reports = self.statuses()
            for name, report in reports.items():
                followers = [other for other in reports.values() if other.get("leader") == name]
                if report["role"] == "leader" and 2 * len(followers) > len(self.nodes):
                    return self.nodes[name]
            return None

        node: Node = eventually("a majority follows one leader", agreed, seconds)
        return node

    def followers(self) -> list[Node]:
        """Those that run and do not lead."""
        leader = self.leader()
        return [node for node in self.running if node is not leader]

    def wait_following(self, node: Node, seconds: float = START_SECONDS) -> None:
        """Wait until a node that was started again follows a leader."""

        def follows() -> bool:
            report = self.statuses([node]).get(node.name, {})
            return report.get("role") == "follower" and report["leader"] is not None

        eventually(f"{node.name} follows a leader", follows, seconds)

    def wait_converged(self, seconds: float = START_SECONDS) -> dict[str, dict[str, Any]]:
        """Wait until all nodes have applied the same, all there is; their states must be equal then."""

        def converged() -> dict[str, dict[str, Any]] | None:
            reports = self.statuses()
            if len(reports) < len(self.nodes):
                return None
            ends = {(report.get("last_applied"), report.get("last_index")) for report in reports.values()}
            if len(ends) > 1 or any(applied != last for applied, last in ends):
                return None
            return reports

        reports: dict[str, dict[str, Any]] = eventually("all nodes have applied the same", converged, seconds)
        hashes = {name: report["state_hash"] for name, report in reports.items()}
        assert len(set(hashes.values())) == 1, f"at one last_applied, the states differ: {hashes}"
        return reports

    def complaints(self) -> list[str]:
        """What no test may leave behind: a node that ended by itself, an actor or a program that met a bug."""
        found = []
        for node in self.nodes.values():
            if not node.is_running and not node.ended_on_purpose:
                status = node.process.poll() if node.process is not None else None
                found.append(f"{node.name} ended by itself with status {status}")
            found += [f"{node.name}: {line}" for line in node.log().splitlines() if _is_complaint(line)]
        return found

    def logs(self) -> str:
        """The ends of all logs."""
        parts = []
        for node in self.nodes.values():
            lines = node.log().splitlines()[-80:]
            parts.append("\n".join([f"--- log of {node.name} ({node.log_path})", *lines]))
        return "\n".join(parts)


def _is_complaint(line: str) -> bool:
    if "by an injected fault" in line:
        return False
    return "Traceback" in line or "Assertion" in line or " ERROR " in line or "impossible:" in line


def _port(address: str) -> int:
    return int(address.rsplit(":", 1)[1])
