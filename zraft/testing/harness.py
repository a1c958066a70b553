"""A cluster of real nodes on this machine, with faults on demand."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from zraft.chaos import inject, links
from zraft.chaos.links import Edges
from zraft.client.survey import who_knows_best
from zraft.client.sync import Client
from zraft.errors import InvalidRequest, OutcomeUnknown, ZraftError
from zraft.testing.node import Node
from zraft.testing.ports import HOST, PortReservation

START_SECONDS = 15.0
"""Long, as other programs may keep the machine busy."""
POLL_SECONDS = 0.02
FAULT_SECONDS = 2.0
"""How long a node may take to say that a fault is in force."""

Found = TypeVar("Found")


class NotInTime(ZraftError, AssertionError):
    """What was waited for did not come: `str()` says what, for how long, and what was seen last."""


def eventually(what: str, condition: Callable[[], Found], seconds: float = START_SECONDS) -> Found:
    """The first true value of `condition`, asked again and again. Raises NotInTime."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise NotInTime(f"not within {seconds:g} s: {what}; last: {value!r}")
        time.sleep(POLL_SECONDS)


class Cluster:
    """`nodes` nodes n1, n2.. on free ports of this machine. A context manager: at its end all their processes end.

    folder: where configurations, data and logs go, made if missing; None: a temporary one, which goes with the cluster.
    settings: keys of every node's configuration file beside those that make it a cluster (`heartbeat_ms=20`).
    """

    def __init__(self, nodes: int = 3, folder: Path | None = None, **settings: Any) -> None:
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="zraft-")) if folder is None else folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._ports = PortReservation()
        self._client: Client | None = None
        self._edges: Edges = {}
        self._settings = settings
        names = [f"n{number}" for number in range(1, nodes + 1)]
        members = {name: {"client": self._address(), "peer": self._address()} for name in names}
        self.nodes: dict[str, Node] = {
            name: self.make_node({**self._own_part(name), "cluster": members, "chaos": True, **settings})
            for name in names
        }

    def _address(self) -> str:
        return f"tcp://{HOST}:{self._ports.take()}"

    def _own_part(self, name: str) -> dict[str, Any]:
        return {"node": name, "data_dir": str(self.folder / name), "json": self._address()}

    def make_node(self, config: dict[str, Any]) -> Node:
        """The object for one node."""
        return Node(self.folder, config)

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
        """Start every node, and wait until one leads. Raises NotInTime."""
        for node in self.nodes.values():
            node.start()
        self.leader()

    def close(self) -> None:
        """End all processes at once; nothing in this can hang. Closing again does nothing."""
        for node in self.running:
            node.kill()
        if self._client is not None:
            self._client.close()
            self._client = None
        self._ports.close()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def client(self, timeout: float = 5.0) -> Client:
        """A new client of this cluster; whoever asked for it closes it."""
        return Client(self.endpoints, timeout)

    def start_joining(self, name: str) -> Node:
        """Start one more node, which is empty and waits for `Client.add_member(name, node.peer, node.endpoint)`.

        Raises NotInTime.
        """
        if name in self.nodes:
            raise ZraftError(f"there is a node {name} already")
        own = {name: {"client": self._address(), "peer": self._address()}}
        node = self.make_node({**self._own_part(name), "cluster": own, "join": True, "chaos": True, **self._settings})
        self.nodes[name] = node
        if self._client is not None:
            self._client.close()  # the next one knows this node as well
            self._client = None
        node.start()
        eventually(f"{name} waits to be added", lambda: self.statuses([node]).get(name, {}).get("role") == "joining")
        return node

    # --- processes

    def kill_node(self, name: str) -> None:
        """SIGKILL."""
        self.nodes[name].kill()

    def restart_node(self, name: str) -> None:
        """Start a node that ended, or end it (SIGKILL) and start it. Does not wait until it serves.

        Faults of links and disk do not outlive a process.
        """
        node = self.nodes[name]
        if node.is_running:
            node.kill()
        node.start()

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.nodes[name].pause()

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.nodes[name].resume()

    # --- faults within nodes

    def kill_actor(self, name: str, actor: str, boundary: int = 0) -> None:
        """Kill one actor (`consensus`, `log_writer`..) of a node whose process goes on.

        boundary: it dies at the so-manieth mailbox, send or disk operation that it comes to; 0: between two messages.
        """
        fault = {"op": "kill-actor", "actor": actor, "boundary": boundary}
        with suppress(OutcomeUnknown):  # the answer may have died with the actor
            self._own_client().inject_fault(self.nodes[name].endpoint, fault, timeout=FAULT_SECONDS)

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut every link between nodes of different groups; nodes that are in none are not touched.

        Each of these adds to what is in force, until `heal`. Clients still reach every node. A node that waits to be
        added, or was removed, has no links; a fault of all links holds for those that are there when it is injected.
        """
        self._add_links(links.partition(*groups))

    def isolate(self, name: str) -> None:
        """Cut all links between a node and the others."""
        self._add_links(links.partition([name], [other for other in self.nodes if other != name]))

    def one_way(self, sender: str, receiver: str) -> None:
        """Lose what `sender` sends to `receiver`, and nothing in the other direction."""
        self._add_links(links.one_way(sender, receiver))

    def delay(self, least_ms: int, most_ms: int) -> None:
        """Hold back every frame between nodes for so long, each drawn on its own: they overtake one another."""
        self._add_links(links.delay(self.nodes, least_ms, most_ms))

    def drop(self, share: float) -> None:
        """Lose this share (0 to 1) of the frames between nodes."""
        self._add_links(links.drop(self.nodes, share))

    def slow_disk(self, name: str, least_ms: int, most_ms: int) -> None:
        """Each write and sync of the node's log takes that much longer."""
        self._inject(name, {"op": "disk", "slow_ms": [least_ms, most_ms]})

    def full_disk(self, name: str) -> None:
        """The node's log finds no space."""
        self._inject(name, {"op": "disk", "full": True})

    def fail_fsync(self, name: str) -> None:
        """The next fsync of the node's log fails: it stops, as it should."""
        self.nodes[name].ended_on_purpose = True
        self._inject(name, {"op": "disk", "fail_sync": True})

    def heal(self) -> None:
        """Start what does not run, resume what is paused, end all faults of links and disks.

        Does not wait until the cluster serves: `wait_for_leader`, `wait_converged` do. Raises ZraftError if a node does
        not answer.
        """
        self._edges = {}
        for node in self.nodes.values():
            if node.is_running:
                node.resume()
            else:
                node.start()
        for name in self.nodes:
            self._inject(name, {"op": "heal"}, START_SECONDS)

    def _add_links(self, edges: Edges) -> None:
        self._edges = links.combine([self._edges, edges])
        for name, node in self.nodes.items():
            if not node.is_running:
                continue
            rules = links.rules_of(self._edges, name)
            try:
                self._inject(name, {"op": "links", "rules": rules})
            except InvalidRequest:  # it has no link to who waits to be added, or was removed, and takes no rule for him
                report = self.statuses([node]).get(name, {})
                members = [member["id"] for member in report.get("members", ())]
                rules = {peer: rule for peer, rule in rules.items() if peer in members}
                self._inject(name, {"op": "links", "rules": rules})

    def _inject(self, name: str, fault: Mapping[str, Any], seconds: float = FAULT_SECONDS) -> None:
        inject.send(self._own_client(), self.nodes[name].endpoint, fault, seconds)

    # --- what the nodes say

    def _own_client(self) -> Client:
        if self._client is None:
            self._client = self.client()
        return self._client

    def statuses(self, nodes: Iterable[Node] | None = None) -> dict[str, dict[str, Any]]:
        """What those nodes (None: all) that answer say of themselves, by name: the fields of `Client.status`."""
        wanted = {node.name for node in (self.nodes.values() if nodes is None else nodes)}
        reports = self._own_client().status()
        return {report["node"]: report for report in reports if not report.get("error") and report["node"] in wanted}

    def leader(self, seconds: float = START_SECONDS) -> Node:
        """The node that leads, as soon as a majority of the voting members agrees on it. Raises NotInTime."""

        def agreed() -> Node | None:
            reports = self.statuses()
            for name, report in reports.items():
                if report["role"] != "leader":
                    continue
                voters = [member["id"] for member in report["members"] if member["role"] == "voter"]
                agreeing = [voter for voter in voters if reports.get(voter, {}).get("leader") == name]
                if 2 * len(agreeing) > len(voters):
                    return self.nodes[name]
            return None

        node = eventually("a majority follows one leader", agreed, seconds)
        assert node is not None
        return node

    def wait_for_leader(self, seconds: float = START_SECONDS) -> str:
        """The name of the node that leads, as soon as a majority of the voters agrees on it. Raises NotInTime."""
        return self.leader(seconds).name

    def followers(self) -> list[Node]:
        """Those that run and do not lead. Raises NotInTime if nobody leads."""
        leader = self.leader()
        return [node for node in self.running if node is not leader]

    def wait_following(self, node: Node, seconds: float = START_SECONDS) -> None:
        """Wait until a node that was started again follows a leader. Raises NotInTime."""

        def follows() -> bool:
            report = self.statuses([node]).get(node.name, {})
            return report.get("role") == "follower" and report["leader"] is not None

        eventually(f"{node.name} follows a leader", follows, seconds)

    def wait_converged(self, seconds: float = START_SECONDS) -> dict[str, dict[str, Any]]:
        """Wait until all members have applied the same, all there is; returns their statuses.

        Nothing may write meanwhile. Raises NotInTime, and AssertionError if their states differ then.
        """

        def converged() -> dict[str, dict[str, Any]] | None:
            all_reports = self.statuses()
            best = who_knows_best(list(all_reports.values()))
            members = {member["id"] for member in best["members"]} if best else set()
            reports = {name: report for name, report in all_reports.items() if name in members}
            if not best or len(reports) < len(members):
                return None
            ends = {(report.get("last_applied"), report.get("last_index")) for report in reports.values()}
            if len(ends) > 1 or any(applied != last for applied, last in ends):
                return None
            return reports

        reports = eventually("all members have applied the same", converged, seconds)
        assert reports is not None
        hashes = {name: report["state_hash"] for name, report in reports.items()}
        if len(set(hashes.values())) > 1:
            raise AssertionError(f"at one last_applied, the states differ: {hashes}")
        return reports

    def complaints(self) -> list[str]:
        """What no test may leave behind: a node that ended by itself, an actor or a program that met a bug."""
        return [line for node in self.nodes.values() for line in node.complaints()]

    def logs(self) -> str:
        """The ends of all logs."""
        parts = []
        for node in self.nodes.values():
            lines = node.log().splitlines()[-80:]
            parts.append("\n".join([f"--- log of {node.name} ({node.log_path})", *lines]))
        return "\n".join(parts)
