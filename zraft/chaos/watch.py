"""Looks after the nodes of a run: what each says of itself, and that each has the faults that it is to have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NamedTuple

from zraft.client.aio import AsyncClient
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable

POLL_SECONDS = 0.2
"""Between two questions how it is."""
LOOK_SECONDS = 0.02
"""Between two looks whether it has the faults that it is to have."""
ANSWER_SECONDS = 1.0
FRESH_SECONDS = 1.2
"""An older report says nothing of the present."""


class Sample(NamedTuple):
    """A node took a role at `at_s`: leader, follower, candidate.., or `away`: it does not answer."""

    at_s: float
    node: str
    role: str
    term: int


class NodeWatch:
    """One node. clock: seconds since the start of the run."""

    def __init__(self, name: str, endpoint: str, clock: Callable[[], float]) -> None:
        self.name = name
        self.endpoint = endpoint
        self.is_away = False
        """It was killed or paused on purpose: nobody asks it anything."""
        self.rules: dict[str, Any] = {}
        """The faults of links that it is to have, as its client port takes them."""
        self.disk: dict[str, Any] = {}
        """The faults of its disk, likewise."""
        self.samples: list[Sample] = []
        self.incarnations: dict[tuple[int, str], int] = {}
        """The highest seen, by (process id, actor)."""
        self.hashes: dict[int, str] = {}
        """Of its state, by the index that was applied last."""
        self.report: dict[str, Any] | None = None
        self.answered_at_s = -1.0
        self._clock = clock
        self._asked_at_s = -POLL_SECONDS
        self._client = AsyncClient([endpoint], ANSWER_SECONDS)
        self._in_force: object = None

    async def run(self) -> None:
        """Look after it until cancelled."""
        try:
            while True:
                if not self.is_away:
                    if self._clock() - self._asked_at_s >= POLL_SECONDS:
                        self._asked_at_s = self._clock()
                        await self._ask()
                    await self._enforce()
                self._note_role()
                await asyncio.sleep(LOOK_SECONDS)
        finally:
            await self._client.close()

    async def check_willing(self) -> None:
        """Raises InvalidRequest if the node refuses injected faults, Unavailable or OutcomeUnknown if it is silent."""
        await self._inject({"op": "heal"})

    @property
    def is_fresh(self) -> bool:
        """Whether what it said last is about the present."""
        return self.report is not None and not self.is_away and self._clock() - self.answered_at_s < FRESH_SECONDS

    @property
    def is_as_told(self) -> bool:
        """Whether exactly the faults that it is to have are in force."""
        return self.is_fresh and self.report is not None and self._in_force == self._wanted(self.report["pid"])

    @property
    def deaths(self) -> dict[str, int]:
        """How often each of its actors died, as the incarnations tell."""
        deaths: dict[str, int] = {}
        for (_, actor), incarnation in self.incarnations.items():
            deaths[actor] = deaths.get(actor, 0) + incarnation - 1
        return deaths

    async def kill_actor(self, actor: str, boundary: int) -> bool:
        """Tell it so; False: it surely was not told. The answer may die with the actor: incarnations tell the rest."""
        try:
            await self._inject({"op": "kill-actor", "actor": actor, "boundary": boundary})
        except (Unavailable, InvalidRequest):
            return False
        except OutcomeUnknown:
            pass
        return True

    async def _ask(self) -> None:
        (report,) = await self._client.status()
        if report.get("error"):
            return
        self.report = report
        self.answered_at_s = self._clock()
        if report.get("state_hash"):
            self.hashes[report["last_applied"]] = report["state_hash"]
        for actor, facts in report["actors"].items():
            key = (report["pid"], actor)
            self.incarnations[key] = max(self.incarnations.get(key, 1), facts["incarnation"])

    async def _enforce(self) -> None:
        """Faults do not outlive a process: they are told to each one anew."""
        if self.report is None:
            return
        wanted = self._wanted(self.report["pid"])
        if wanted == self._in_force or (self._in_force is None and not self.rules and not self.disk):
            self._in_force = wanted
            return
        try:
            await self._inject({"op": "links", "rules": self.rules})
            await self._inject({"op": "disk", **self.disk})
        except (Unavailable, OutcomeUnknown, InvalidRequest):
            # Refused, as by one that has just begun a life and knows no peers yet. Tried again at the next look.
            return
        self._in_force = wanted

    def _wanted(self, pid: int) -> object:
        return (pid, self.rules, self.disk)

    async def _inject(self, fault: dict[str, Any]) -> None:
        await self._client.inject_fault(self.endpoint, fault)

    def _note_role(self) -> None:
        role, term = "away", 0
        if self.is_fresh and self.report is not None:
            # A consensus that has just begun a new life knows neither yet.
            role, term = self.report.get("role") or "starting", self.report.get("term") or 0
        if not self.samples or self.samples[-1][2:] != (role, term):
            self.samples.append(Sample(self._clock(), self.name, role, term))


def leader_of(watches: dict[str, NodeWatch]) -> tuple[str, int] | None:
    """Who leads, and its term; of two that believe they do, the later."""
    found = [
        (int(watch.report["term"]), name)
        for name, watch in watches.items()
        if watch.is_fresh and watch.report is not None and watch.report.get("role") == "leader"
    ]
    return (max(found)[1], max(found)[0]) if found else None
