"""The processes under test: nodes that the run started itself, or those of a cluster that runs already."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from zraft.testing.harness import Cluster


class Target(Protocol):
    """What a run does to processes, by names of nodes."""

    endpoints: dict[str, str]
    """Of the nodes' client ports, by name."""
    json_addresses: dict[str, tuple[str, int]]
    """Of the nodes' ports for JSON lines, as far as they are known."""
    is_own: bool
    """Whether the run started the nodes: nobody else writes to them, and it may start them again."""

    def kill(self, names: Iterable[str]) -> None:
        """SIGKILL, all at once."""

    def start(self, name: str) -> None:
        """Start a node that does not run."""

    def pause(self, name: str) -> None:
        """SIGSTOP."""

    def resume(self, name: str) -> None:
        """SIGCONT."""

    def is_running(self, name: str) -> bool:
        """Whether there is a process."""

    def expect_end(self, name: str) -> None:
        """The node was told to have a fault that it answers by ending: that is no sign of a bug."""


class OwnNodes:
    """The nodes of a `zraft.testing.Cluster`."""

    is_own = True

    def __init__(self, cluster: Cluster) -> None:
        self._nodes = cluster.nodes
        self.surprises: list[str] = []
        """How nodes ended that nobody had ended."""
        self.endpoints = {name: node.endpoint for name, node in cluster.nodes.items()}
        self.json_addresses = {name: ("127.0.0.1", node.json_port) for name, node in cluster.nodes.items()}

    def kill(self, names: Iterable[str]) -> None:
        """See Target."""
        nodes = [self._nodes[name] for name in names if self._nodes[name].is_running]
        for node in nodes:
            node.signal(signal.SIGKILL)
        for node in nodes:
            node.wait()

    def start(self, name: str) -> None:
        """See Target."""
        node = self._nodes[name]
        if not node.is_running:
            if not node.ended_on_purpose:
                self.surprises.append(f"{name} ended by itself: {node.how_it_ended()}")
            node.start()

    def pause(self, name: str) -> None:
        """See Target."""
        if self._nodes[name].is_running:
            self._nodes[name].pause()

    def resume(self, name: str) -> None:
        """See Target."""
        self._nodes[name].resume()

    def is_running(self, name: str) -> bool:
        """See Target."""
        return self._nodes[name].is_running

    def expect_end(self, name: str) -> None:
        """See Target."""
        self._nodes[name].ended_on_purpose = True


class RunningNodes:
    """Nodes that somebody else started, by what they said of themselves (`Client.status`).

    They are paused where they run on this machine; they are never ended, for this could not start them again.
    """

    is_own = False
    json_addresses: dict[str, tuple[str, int]] = {}

    def __init__(self, reports: Sequence[Mapping[str, Any]]) -> None:
        self.endpoints = {report["node"]: report["endpoint"] for report in reports}
        self._pids = {report["node"]: int(report["pid"]) for report in reports if is_local(report["endpoint"])}

    @property
    def are_local(self) -> bool:
        """Whether all run on this machine."""
        return len(self._pids) == len(self.endpoints)

    def kill(self, names: Iterable[str]) -> None:
        """Never."""
        raise NotImplementedError("a cluster that runs already has its owner: no node of it is ended")

    def start(self, name: str) -> None:
        """None has to be: none was ended."""

    def pause(self, name: str) -> None:
        """See Target."""
        os.kill(self._pids[name], signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """See Target."""
        os.kill(self._pids[name], signal.SIGCONT)

    def is_running(self, name: str) -> bool:
        """See Target."""
        return True

    def expect_end(self, name: str) -> None:
        """Never."""


def is_local(endpoint: str) -> bool:
    """Whether an endpoint is on a loopback address: its process has its id on this machine."""
    try:
        address = socket.gethostbyname(urlsplit(endpoint).hostname or "")
    except OSError:
        return False
    return ipaddress.ip_address(address).is_loopback
