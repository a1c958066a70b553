"""SIGKILLs of nodes that take or install snapshots, while others write."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any

from cluster import Cluster, NoAnswer, Node
from workload import Workload

from zraft import Client, ZraftError

FAR_EVERY_ROUNDS = 3
"""So often the victim stays away until it needs a snapshot, and is killed again while it installs that."""
WAIT_SECONDS = 3.0
"""For the moment to kill at; then any other moment will do."""


class Compacting:
    """A context manager: while it is entered, every node takes one snapshot after the other."""

    def __init__(self, cluster: Cluster) -> None:
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(node,), name=f"compacts {node.name}", daemon=True)
            for node in cluster.nodes.values()
        ]

    def __enter__(self) -> Compacting:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(10)

    def _run(self, node: Node) -> None:
        with Client(node.endpoint) as client:
            while not self._stopping.wait(0.05):
                try:
                    client.compact(node.endpoint, timeout=1.0)
                except ZraftError:
                    continue  # it is dead at present


class SnapshotKills:
    """Kills a random node in each round and starts it again; `counts` tells what the victims were at."""

    def __init__(self, cluster: Cluster, work: Workload, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._cluster = cluster
        self._work = work
        self._rng = random.Random(seed)

    def rounds(self, count: int, entries_away: int) -> None:
        """entries_away: writes after which a node that was away needs a snapshot. Afterwards every node runs."""
        for number in range(count):
            node = self._rng.choice(list(self._cluster.nodes.values()))
            if number % FAR_EVERY_ROUNDS == FAR_EVERY_ROUNDS - 1:
                self._kill(node)
                self._work.wait_for(entries_away)
                node.start()
                self._kill_when(node, is_installing)
            elif self._rng.random() < 0.5:
                self._kill_when(node, is_taking)
            else:
                time.sleep(self._rng.uniform(0.0, 0.3))
                self._kill(node)
            node.start()

    def _kill_when(self, node: Node, condition: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            report = _report(node)
            if report is not None and condition(report):
                time.sleep(self._rng.uniform(0.0, 0.03))
                break
        self._kill(node)

    def _kill(self, node: Node) -> None:
        report = _report(node) or {}
        self.counts["kills"] += 1
        self.counts["taking a snapshot"] += is_taking(report)
        self.counts["installing a snapshot"] += is_installing(report)
        self.counts["leading"] += report.get("role") == "leader"
        node.kill()

    def summary(self) -> str:
        """In one line."""
        return ", ".join(f"{name}: {count}" for name, count in self.counts.items())


def _report(node: Node) -> dict[str, Any] | None:
    try:
        return node.status(0.0)
    except NoAnswer:
        return None


def is_taking(report: dict[str, Any]) -> bool:
    """It serializes its state, or writes that down."""
    return report.get("taking_snapshot") is not None


def is_installing(report: dict[str, Any]) -> bool:
    """A leader's snapshot is on its way to its disk or to its state machine."""
    return "received" in report.get("snapshots_unfinished", {}) or bool(
        report.get("loading") and report.get("snapshot_index")
    )
