"""Carries a schedule of faults out, and undoes all of it at the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from zraft.chaos import links
from zraft.chaos.links import Edges
from zraft.chaos.schedule import Fault
from zraft.chaos.target import Target
from zraft.chaos.watch import NodeWatch, leader_of

LEADER_SECONDS = 2.0
"""So long a fault for the leader waits for one; then it comes to any node."""
LOOK_SECONDS = 0.05
MOST_LATE = 20
"""Deaths of actors that are made up for once their node is back; more would all come at once."""


@dataclass
class Injected:
    """A fault that was carried out: to these nodes, from `start_s` to `end_s` (None: it goes on)."""

    kind: str
    what: str
    nodes: tuple[str, ...]
    start_s: float
    end_s: float | None = None

    def __str__(self) -> str:
        return f"{self.what} {', '.join(self.nodes)}"


class Injector:
    """watches, by name. clock: seconds since the start of the run."""

    def __init__(
        self, target: Target, watches: dict[str, NodeWatch], schedule: Sequence[Fault], clock: Callable[[], float]
    ) -> None:
        self.injected: list[Injected] = []
        self._target = target
        self._watches = watches
        self._schedule = schedule
        self._clock = clock
        self._edges: dict[int, Edges] = {}
        self._late: list[Fault] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def in_force(self) -> list[Injected]:
        """What goes on now."""
        return [fault for fault in self.injected if fault.end_s is None]

    async def run(self) -> None:
        """Carry all of the schedule out."""
        for fault in self._schedule:
            await asyncio.sleep(max(0.0, fault.at_s - self._clock()))
            self._tasks.append(asyncio.create_task(self._carry_out(fault)))
            self._tasks = [task for task in self._tasks if not task.done() or task.result()]
        for task in self._tasks:
            await task

    async def heal(self) -> None:
        """End every fault, and start and resume what does not run. Does not wait for the nodes."""
        await self.cancel()
        self._edges.clear()
        for name, watch in self._watches.items():
            watch.disk = {}
            self._target.resume(name)
            self._target.start(name)
            self._set_away([name], False)
        self._tell_links()
        for fault in self.in_force:
            fault.end_s = self._clock()

    async def cancel(self) -> None:
        """Begin nothing more, and leave what goes on as it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry_out(self, fault: Fault) -> None:
        if fault.kind == "actors":
            await self._kill_actor(fault)
            return
        nodes = await self._whom(fault)
        happened = Injected(fault.kind, fault.what, nodes, self._clock())
        self.injected.append(happened)
        if fault.kind == "nodes":
            await self._kill_nodes(nodes, fault.for_s)
        elif fault.kind == "pauses":
            await self._pause(nodes, fault.for_s)
        elif fault.kind == "disk":
            await self._break_disks(fault, nodes)
        else:
            self._edges[id(happened)] = self._edges_of(fault, nodes)
            self._tell_links()
            await asyncio.sleep(fault.for_s)
            del self._edges[id(happened)]
            self._tell_links()
        happened.end_s = self._clock()

    async def _whom(self, fault: Fault) -> tuple[str, ...]:
        names = sorted(self._watches)
        rng = Random(fault.draw)
        if fault.whom == "all":
            return tuple(names)
        if fault.whom == "majority":
            return tuple(sorted(rng.sample(names, len(names) // 2 + 1)))
        drawn = rng.choice(names)
        if fault.whom == "leader":
            for _ in range(int(LEADER_SECONDS / LOOK_SECONDS)):
                leader = leader_of(self._watches)
                if leader is not None:
                    return (leader[0],)
                await asyncio.sleep(LOOK_SECONDS)
        return (drawn,)

    # --- processes and disks

    async def _kill_nodes(self, nodes: Sequence[str], for_s: float) -> None:
        self._set_away(nodes, True)
        self._target.kill(nodes)
        await asyncio.sleep(for_s)
        for name in nodes:
            self._target.start(name)
        self._set_away(nodes, False)

    async def _pause(self, nodes: Sequence[str], for_s: float) -> None:
        self._set_away(nodes, True)
        for name in nodes:
            self._target.pause(name)
        await asyncio.sleep(for_s)
        for name in nodes:
            self._target.resume(name)
        self._set_away(nodes, False)

    def _set_away(self, nodes: Sequence[str], is_away: bool) -> None:
        for name in nodes:
            self._watches[name].is_away = is_away

    async def _break_disks(self, fault: Fault, nodes: Sequence[str]) -> None:
        broken: dict[str, Any] = {"full": True} if fault.what == "full" else {"fail_sync": True}
        if fault.what == "slow":
            broken = {"slow_ms": fault.parameters["ms"]}
        for name in nodes:
            if fault.what != "slow":  # a log_writer that is killed on a full disk may be unable to open the log
                self._target.expect_end(name)
            self._watches[name].disk = broken
        await asyncio.sleep(fault.for_s)
        for name in nodes:
            self._watches[name].disk = {}
            if not self._target.is_running(name):
                self._target.start(name)

    # --- links

    def _edges_of(self, fault: Fault, nodes: Sequence[str]) -> Edges:
        names = sorted(self._watches)
        one = nodes[0]
        others = [name for name in names if name != one]
        rng = Random(fault.draw + 1)
        if fault.what == "isolate":
            return links.partition([one], others)
        if fault.what == "halves":
            group = rng.sample(names, len(names) // 2)
            return links.partition(group, [name for name in names if name not in group])
        if fault.what == "one-way":
            pair = [one, rng.choice(others)]
            rng.shuffle(pair)
            return links.one_way(*pair)
        if fault.what == "cut-pair":
            return links.partition([one], [rng.choice(others)])
        if fault.what == "delay":
            edges = links.delay(names, *fault.parameters["ms"])
        else:
            edges = links.drop(names, fault.parameters["share"])
        return edges if fault.whom == "all" else links.only_of(edges, one)

    def _tell_links(self) -> None:
        edges = links.combine(self._edges.values())
        for name, watch in self._watches.items():
            watch.rules = links.rules_of(edges, name)

    # --- actors

    async def _kill_actor(self, fault: Fault) -> None:
        """Kill one, and those whose nodes were away when it was their turn and are back."""
        turns, self._late = [*self._late, fault], []
        for turn in turns:
            watch = self._watches[turn.whom]
            actor = str(turn.parameters["actor"])
            if watch.is_fresh and await watch.kill_actor(actor, int(turn.parameters["boundary"])):
                now_s = self._clock()
                self.injected.append(Injected("actors", actor, (turn.whom,), now_s, now_s))
            elif len(self._late) < MOST_LATE:
                self._late.append(turn)
