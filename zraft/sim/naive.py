"""Replication without Raft: five nodes, a fixed leader, a majority's answers; no terms, no log. It loses a write.

The scenario to teach with. Each write goes from the leader to all nodes, and is acknowledged when three of the five
(the leader among them) have it. When the leader cannot be reached, the next node in the list takes its place, as it
is. What it holds is what the client then reads: the majority that had the write need not have this node in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from random import Random

from zraft.chaos.history import Operation
from zraft.sim.runner import judge
from zraft.sim.scheduler import Scheduler

NAMES = ("n1", "n2", "n3", "n4", "n5")
SECOND_US = 1_000_000


class NaiveCluster:
    """`lines`: the transcript. `history`: what the one client called and was answered."""

    def __init__(self, seed: int) -> None:
        self.lines: list[str] = []
        self.history: list[Operation] = []
        self._rng = Random(f"naive {seed}")
        self._scheduler = Scheduler()
        self._values: dict[str, str | None] = dict.fromkeys(NAMES)
        self._cut_off: set[str] = set()
        self._leader = NAMES[0]
        self._answers: dict[str, set[str]] = {}
        self._called_us: dict[str, int] = {}

    def _say(self, text: str) -> None:
        self.lines.append(f"{self._scheduler.now_us / SECOND_US:9.6f}  {text}")

    def run(self) -> None:
        """Three writes, a partition in the middle, the leader's end, and a read."""
        at = self._scheduler.at
        at(100_000, self._write, "a")
        at(200_000, self._cut, None)
        at(300_000, self._write, "b")
        at(500_000, self._crash_leader, None)
        at(600_000, self._heal, None)
        at(700_000, self._read, None)
        self._scheduler.run_until(SECOND_US)

    def _later(self, action: Callable[[tuple[str, str]], None], node: str, value: str) -> None:
        delay_us = self._rng.randint(500, 5_000)
        self._scheduler.at(self._scheduler.now_us + delay_us, action, (node, value))

    def _write(self, value: str) -> None:
        leader = self._leader
        self._called_us[value] = self._scheduler.now_us
        self._say(f"client -> {leader}: set x = {value}")
        self._values[leader] = value
        self._answers[value] = {leader}
        for node in NAMES:
            if node != leader:
                self._say(f"{leader} -> {node}: store x = {value}{' (lost)' if node in self._cut_off else ''}")
                if node not in self._cut_off:
                    self._later(self._store, node, value)

    def _store(self, delivery: tuple[str, str]) -> None:
        node, value = delivery
        self._values[node] = value
        self._say(f"{node} has x = {value}, and says so to {self._leader}")
        self._later(self._take_answer, node, value)

    def _take_answer(self, answer: tuple[str, str]) -> None:
        node, value = answer
        answers = self._answers[value]
        answers.add(node)
        if len(answers) == 1 + len(NAMES) // 2:
            self._say(f"{self._leader} has {len(answers)} of {len(NAMES)}: {', '.join(sorted(answers))}")
            self._say(f"{self._leader} -> client: x = {value} is ACKNOWLEDGED")
            self._note("set", (value,), None, self._called_us[value])

    def _cut(self, _argument: None) -> None:
        others = [NAMES[1], self._rng.choice(NAMES[2:])]
        self._cut_off = set(others)
        self._say(f"fault: {' and '.join(sorted(others))} are cut off; a majority remains")

    def _crash_leader(self, _argument: None) -> None:
        self._say(f"fault: {self._leader} crashes")
        self._leader = NAMES[1]

    def _heal(self, _argument: None) -> None:
        self._cut_off = set()
        self._say(f"the network is whole; {self._leader} is next in the list and takes over, as it is")

    def _read(self, _argument: None) -> None:
        value = self._values[self._leader]
        called_us = self._scheduler.now_us
        self._say(f"client -> {self._leader}: get x")
        self._scheduler.now_us += 1_000
        self._say(f"{self._leader} -> client: x = {value}")
        self._note("get", (), value, called_us)

    def _note(self, op: str, args: tuple[str, ...], result: str | None, called_us: int) -> None:
        times = (called_us / SECOND_US, self._scheduler.now_us / SECOND_US)
        self.history.append(Operation("client", op, "x", args, result, *times, "ok", len(self.history) + 1))


def run_naive(seed: int, clock: Callable[[], float]) -> tuple[list[str], str, str]:
    """(transcript with the verdict, the violated invariant or "", SHA-256 of the transcript)."""
    cluster = NaiveCluster(seed)
    cluster.run()
    invariant, what = judge(cluster.history, clock)
    lines = cluster.lines + what.splitlines()
    return lines, invariant, hashlib.sha256("\n".join(lines).encode()).hexdigest()
