"""Clients of a run: the shipped protocol core, a drawn workload, and the history of what was called and answered."""

from __future__ import annotations

import heapq
from collections import deque
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from zraft.chaos.history import Operation
from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.client.link import Call
from zraft.errors import OutcomeUnknown

if TYPE_CHECKING:
    from zraft.sim.cluster import Cluster

NEVER_US = 1 << 62


class Asked(NamedTuple):
    """One operation, as it began. committed: how many entries were then. calls: the core's one call for it."""

    op: str
    key: str
    args: tuple[str | None, ...]
    called_us: int
    committed: int
    calls: list[Call]


class SimClient:
    """`history` holds every operation that ended; `open_operations` counts the others."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.running = True
        self.open_operations = 0
        self.acknowledged = 0
        self.history: list[Operation] = []
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._rng = Random(f"client {cluster.seed} {name}")
        self._options = cluster.options
        self._reads = self._rng.choice(cluster.options.read_parts)
        self._node_at = cluster.node_at
        endpoints = [cluster.endpoint_of[name] for name in cluster.names]
        self._rng.shuffle(endpoints)
        self._core = ClientCore(endpoints, self._rng)
        self._inbox: deque[tuple[str, bytes]] = deque()
        self._ready_us: list[int] = []  # when each idle part of the window asks next
        self._next_run_us = NEVER_US
        self._written = 0
        self._seen: dict[str, str | None] = {}  # key -> a value that it had once
        for _ in range(self._options.client_window):
            self._rest()
        self._run_at(self._ready_us[0])

    def _rest(self) -> None:
        pause_us = int(self._options.think_ms * 2000 * self._rng.random())
        heapq.heappush(self._ready_us, self._scheduler.now_us + 1 + pause_us)

    def take(self, node: str, frame: bytes) -> None:
        """A frame from a node."""
        self._inbox.append((self._cluster.endpoint_of[node], frame))
        self._run_at(self._scheduler.now_us)

    def known_nodes(self) -> list[str]:
        """Those whose addresses it was given or has learnt."""
        return [self._node_at[endpoint] for endpoint in self._core.endpoints]

    def stop(self) -> None:
        """Ask nothing more; what is open goes on until its deadline."""
        self.running = False

    def _run_at(self, time_us: int) -> None:
        if time_us < self._next_run_us:
            self._next_run_us = time_us
            self._scheduler.at(time_us, self._run, time_us)

    def _run(self, planned_us: int) -> None:
        if planned_us != self._next_run_us:
            return  # it was woken earlier
        self._next_run_us = NEVER_US
        now_us = self._scheduler.now_us
        now = now_us / 1_000_000
        core = self._core
        while self._inbox:
            endpoint, frame = self._inbox.popleft()
            core.on_frame(endpoint, frame, now)
        while self.running and self._ready_us and self._ready_us[0] <= now_us:
            heapq.heappop(self._ready_us)
            burst = [self._options.burst]
            for _ in range(self._options.burst):
                self._ask(now, burst)
        core.tick(now)
        for outgoing in core.frames_to_send(now):
            if not self._cluster.network.send_client(
                self.name, self._node_at[outgoing.endpoint], outgoing.frame, answer=False
            ):
                core.on_send_failed(outgoing, now)
        wakeup = core.next_wakeup(now)
        time_us = NEVER_US if wakeup is None else max(now_us + 1_000, int(wakeup * 1_000_000) + 1)
        if self.running and self._ready_us:
            time_us = min(time_us, max(now_us + 1, self._ready_us[0]))
        self._run_at(time_us)

    # --- operations

    def _ask(self, now: float, burst: list[int]) -> None:
        """One operation. burst: how many of those begun with it are not answered yet."""
        rng = self._rng
        key = f"k{rng.randrange(self._options.keys)}"
        least_ms, most_ms = self._options.client_timeout_ms
        deadline = now + rng.randint(least_ms, most_ms) / 1000
        reads, dice = rng.random() < self._reads, rng.random()
        self._written += 1
        value = f"{self.name}:{self._written}"
        args: tuple[str | None, ...] = ()
        if reads:
            op, request = "get", requests.get_value(key)
        elif dice < 0.6:
            op, args, request = "set", (value,), requests.set_key(key, value)
        elif dice < 0.88:
            expected = self._seen.get(key)
            op, args, request = "cas", (expected, value), requests.compare_and_set(key, expected, value)
        else:
            op, request = "delete", requests.delete_key(key)
        self.open_operations += 1
        asked = Asked(op, key, args, self._scheduler.now_us, len(self._cluster.invariants.committed), [])
        call = self._core.submit(request, deadline, partial(self._on_done, asked, burst))
        asked.calls.append(call)

    def _on_done(self, asked: Asked, burst: list[int], value: Any, error: Exception | None) -> None:
        op, key, args, called_us, committed, calls = asked
        self.open_operations -= 1
        outcome, result = "ok", None
        if isinstance(error, OutcomeUnknown):
            outcome = "unknown"
        elif error is not None:
            outcome = "fail"
        elif op == "get":
            result = None if value is None else value.decode()
            if calls[0].request_id == calls[0].in_term_id:
                self._cluster.answers.arrive(self.name, calls[0].in_term_id, committed)
            self._seen[key] = result
        elif op in ("cas", "delete"):
            result = value
        if outcome == "ok":
            self.acknowledged += 1
            if op == "set" or (op == "cas" and result):
                self._seen[key] = args[-1]
        now_us = self._scheduler.now_us
        operation = Operation(
            self.name, op, key, args, result, called_us / 1_000_000, now_us / 1_000_000, outcome, len(self.history) + 1
        )
        self.history.append(operation)
        self._cluster.trace.event(now_us, f"{self.name} {op} {key} {args} -> {outcome} {result}")
        burst[0] -= 1
        if not burst[0]:
            self._rest()
