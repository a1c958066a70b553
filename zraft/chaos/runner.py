"""One run: a workload and faults at the same time, then calm, then the question what is left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, NamedTuple, TextIO

from zraft.chaos.injector import Injected, Injector
from zraft.chaos.recorder import Recorder
from zraft.chaos.schedule import make_schedule
from zraft.chaos.target import Target
from zraft.chaos.verdict import Final
from zraft.chaos.watch import NodeWatch, Sample, leader_of
from zraft.chaos.workload import TIMEOUT_SECONDS, JsonWorker, Keys, Reader, Worker
from zraft.client.aio import AsyncClient
from zraft.errors import Unavailable, ZraftError

SERVE_SECONDS = 30.0
"""How soon after the faults a write must be acknowledged."""
CONVERGE_SECONDS = 60.0
"""How soon all nodes must have caught up."""
FINAL_READ_SECONDS = 15.0
HEAL_SECONDS = 5.0
"""After Ctrl-C, how long nodes that go on running may take to say that their faults are off."""
TICK_SECONDS = 0.1
CANCEL_AGAIN_SECONDS = 0.5


class Plan(NamedTuple):
    """What a run does. kinds: of faults (`schedule.KINDS`). prefix: of the names of all keys."""

    duration_s: float
    seed: int
    kinds: tuple[str, ...]
    clients: int
    keys: int
    prefix: str = ""


@dataclass
class Seen:
    """What was seen in a run. Times in seconds since its start."""

    recorder: Recorder
    injected: list[Injected]
    samples: list[Sample] = field(default_factory=list)
    deaths: dict[str, dict[str, int]] = field(default_factory=dict)
    """How often each actor died, by node."""
    hashes: dict[str, dict[int, str]] = field(default_factory=dict)
    ends: dict[str, int | None] = field(default_factory=dict)
    healed_s: float = 0.0
    served_after_s: float | None = None
    was_read: bool = False
    """Whether the last read of all keys was answered."""
    tallies: dict[str, Final] = field(default_factory=dict)
    counters: dict[str, Final] = field(default_factory=dict)
    revision: int | None = None


class Now(NamedTuple):
    """The present of a run, for a live view."""

    at_s: float
    phase: str
    leader: tuple[str, int] | None
    outcomes: dict[str, int]
    faults: Sequence[Injected]
    injected: int


class Run:
    """actors: names of those that can be killed. history: every operation is written there. show: is told the present
    ten times a second."""

    def __init__(
        self, plan: Plan, target: Target, actors: Sequence[str], history: TextIO, show: Callable[[Now], None]
    ) -> None:
        self._plan = plan
        self._target = target
        self._show = show
        self._start_s = time.monotonic()
        self._recorder = Recorder(self._clock, history)
        self._keys = Keys(plan.prefix, plan.keys)
        schedule = make_schedule(plan.seed, plan.kinds, sorted(target.endpoints), actors, plan.duration_s)
        self._watches = {name: NodeWatch(name, at, self._clock) for name, at in target.endpoints.items()}
        self._injector = Injector(target, self._watches, schedule, self._clock)
        self._workers = self._make_workers()
        self._phase = "faults"

    def _clock(self) -> float:
        return time.monotonic() - self._start_s

    def _make_workers(self) -> list[Worker]:
        plan = self._plan
        endpoints = list(self._target.endpoints.values())
        workers = [
            Worker(number, endpoints, self._keys, self._recorder, plan.seed) for number in range(1, plan.clients + 1)
        ]
        rest = count(plan.clients + 1)
        workers += [Reader(next(rest), [endpoint], self._keys, self._recorder, plan.seed) for endpoint in endpoints]
        workers += [
            JsonWorker(next(rest), host, port, self._keys, self._recorder, plan.seed)
            for host, port in self._target.json_addresses.values()
        ]
        return workers

    async def run(self) -> Seen:
        """Do it. However it ends, every fault has ended then. Raises ZraftError if a node refuses faults."""
        for watch in self._watches.values():
            await watch.check_willing()
        self._start_s = time.monotonic()
        seen = Seen(self._recorder, self._injector.injected)
        looking = _spawn(watch.run() for watch in self._watches.values())
        working = _spawn(worker.run() for worker in self._workers)
        injecting = _spawn([self._injector.run()])
        tasks = looking + working + injecting
        try:
            await self._until(lambda: self._clock() >= self._plan.duration_s, self._plan.duration_s + 1, tasks)
            self._phase = "heals"
            await _cancel(injecting)
            await self._injector.heal()
            seen.healed_s = self._clock()
            await self._until(lambda: self._served_after(seen.healed_s) is not None, SERVE_SECONDS, looking + working)
            seen.served_after_s = self._served_after(seen.healed_s)
            for worker in self._workers:
                worker.stop()
            await asyncio.wait(working, timeout=2 * TIMEOUT_SECONDS)
            self._phase = "converges"
            await self._until(self._has_converged, CONVERGE_SECONDS, looking)
            await self._read_all(seen)
        finally:
            if not self._target.is_own:  # own nodes end with the run
                await self._injector.heal()
                await self._wait_healed()
            await _cancel(tasks)
            await self._injector.cancel()
        return seen

    # --- phases

    async def _until(self, condition: Callable[[], bool], limit_s: float, tasks: Iterable[asyncio.Task[None]]) -> None:
        """Until the condition holds, or `limit_s` have passed. Raises what one of the tasks raised."""
        deadline = time.monotonic() + limit_s
        while not condition() and time.monotonic() < deadline:
            for task in tasks:
                if task.done():
                    task.result()
            self._show(self._now())
            await asyncio.sleep(TICK_SECONDS)

    def _now(self) -> Now:
        return Now(
            self._clock(),
            self._phase,
            leader_of(self._watches),
            dict(self._recorder.outcomes),
            self._injector.in_force,
            len(self._injector.injected),
        )

    def _served_after(self, start_s: float) -> float | None:
        for operation in reversed(self._recorder.operations):
            if operation.ret is not None and operation.ret < start_s - TIMEOUT_SECONDS:
                return None
            if operation.op == "set" and operation.outcome == "ok" and operation.call >= start_s:
                return (operation.ret or operation.call) - start_s
        return None

    def _has_converged(self) -> bool:
        return None not in self._ends().values()

    def _ends(self) -> dict[str, int | None]:
        """Where each node's state is, None for one that is behind, does not answer, or still has a fault."""
        reports = [watch.report for watch in self._watches.values() if watch.report is not None]
        last = max((report.get("last_index") or 0 for report in reports), default=0)
        ends: dict[str, int | None] = {}
        for name, watch in self._watches.items():
            report = watch.report if watch.is_as_told else None
            applied = report.get("last_applied") if report and report.get("leader") else None
            near = applied is not None and (applied == last or not self._target.is_own)
            ends[name] = applied if near else None
        return ends

    async def _read_all(self, seen: Seen) -> None:
        """The last read of every key, as part of the history; and how often the counting keys were written."""
        tallies = [self._keys.tally(worker.number) for worker in self._workers if type(worker) is Worker]
        endpoints = list(self._target.endpoints.values())
        async with AsyncClient(endpoints, FINAL_READ_SECONDS) as client:
            for key in (*self._keys.shared, *self._keys.counters, *tallies):
                await self._recorder.call("end", "get", key, (), client.get(key))
            try:
                entries = {entry.key.decode(): entry for entry in await client.range(self._plan.prefix)}
                if not self._target.is_own:
                    for key in entries:
                        await client.delete(key)
            except Unavailable:
                entries = None
        if entries is not None:
            seen.was_read = True
            final = {key: Final(entry.value.decode(), entry.version) for key, entry in entries.items()}
            absent = Final(None, 0)
            seen.tallies = {key: final.get(key, absent) for key in tallies}
            seen.counters = {key: final.get(key, absent) for key in self._keys.counters}
        seen.ends = self._ends()
        seen.hashes = {name: watch.hashes for name, watch in self._watches.items()}
        seen.deaths = {name: watch.deaths for name, watch in self._watches.items()}
        seen.samples = sorted(sample for watch in self._watches.values() for sample in watch.samples)
        if self._target.is_own and self._has_converged():
            seen.revision = max(int(watch.report["revision"]) for watch in self._watches.values() if watch.report)

    async def _wait_healed(self) -> None:
        deadline = time.monotonic() + HEAL_SECONDS
        while not all(watch.is_as_told for watch in self._watches.values()) and time.monotonic() < deadline:
            await asyncio.sleep(TICK_SECONDS)


def _spawn(work: Iterable[Coroutine[Any, Any, None]]) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(coroutine) for coroutine in work]


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """End them. Asked again and again: before Python 3.12, `asyncio.wait_for` can lose a cancellation."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_SECONDS)
    for task in tasks:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, ZraftError):
            raise error
