"""The load of one client: what it asks when, and how long each answer took. Pure: a client core and the time go in.

*Closed loop*: so many operations are in flight at any time; the next one begins when one ends. *Open loop* (a rate is
given): operations have an instant at which they are due, whatever became of those before. The time that one takes
counts from that instant, not from when the client came to send it: else a store that stands still for a second would be
asked less in that second, and the wait of those not asked would be left out ("coordinated omission").
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from typing import Any, NamedTuple

from zraft.bench.histogram import Histogram
from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.client.requests import Request
from zraft.errors import ZraftError

KEY_BYTES = 16
KEY_SPACE = 10**10
ANSWER_SECONDS = 5.0
"""How long an operation may take before it counts as failed."""
FILL_IN_FLIGHT = 256


class Plan(NamedTuple):
    """What one client does. Times are monotonic seconds, the same for all processes of a machine."""

    endpoints: tuple[str, ...]
    put_share: float
    """Of the operations; the others get."""
    in_flight: int
    """Closed loop: operations at a time. Open loop: not looked at."""
    rate: float
    """Open loop: operations a second; 0: closed loop."""
    keys: int
    """Size of the key space; each operation draws its key."""
    fill: bool
    """Write all keys first."""
    value_bytes: int
    duration_s: float
    """Measured, after the warm-up."""
    warm_up_s: float
    client: int
    """This client's number, from 0 on."""
    clients: int
    seed: int


def key_of(number: int) -> bytes:
    """The 16 bytes of a key."""
    return b"bench/%010d" % number


class Load:
    """From `begin` on `turn` is called again and again; the answers come through the core. `is_over` ends it."""

    def __init__(self, plan: Plan, core: ClientCore, clock: Callable[[], float]) -> None:
        self.plan = plan
        self.seconds: dict[int, dict[str, Histogram]] = {}  # of the measured time -> latencies of its operations
        self.completed = 0  # within the measured time
        self.answered = 0  # in all
        self.errors: Counter[str] = Counter()
        self._core = core
        self._clock = clock
        self._rng = Random(f"{plan.seed} {plan.client}")
        self._value = os.urandom(plan.value_bytes)
        self._open = 0
        self._next = 0
        self._start = self._measured_from = self._end = 0.0

    def fill(self) -> Iterator[Request]:
        """Puts of this client's share of all keys, and of one at least: that has it find the leader."""
        yield requests.set_key(key_of(self.plan.client % self.plan.keys), self._value)
        for number in range(self.plan.client, self.plan.keys * self.plan.fill, self.plan.clients):
            yield requests.set_key(key_of(number), self._value)

    def begin(self, start: float) -> None:
        """The warm-up begins then."""
        self._start = start
        self._measured_from = start + self.plan.warm_up_s
        self._end = self._measured_from + self.plan.duration_s

    def turn(self, now: float) -> float:
        """Ask what is due. Returns when to call again at the latest."""
        plan = self.plan
        if now >= self._end and not plan.rate:
            return now + ANSWER_SECONDS
        if not plan.rate:
            while self._open < plan.in_flight:
                self._ask(now)
            return self._end
        due = self._due()
        while due <= now and due < self._end:
            self._next += 1
            self._ask(due)
            due = self._due()
        return due if due < self._end else now + ANSWER_SECONDS

    def _due(self) -> float:
        # Clients take turns.
        return self._start + (self._next + self.plan.client / self.plan.clients) / self.plan.rate

    def is_over(self, now: float) -> bool:
        """Whether all that was to be asked was asked and answered."""
        return now >= self._end and not self._open and (not self.plan.rate or self._due() >= self._end)

    def _ask(self, due: float) -> None:
        plan, random = self.plan, self._rng.random
        key = key_of(int(random() * plan.keys))
        if plan.put_share and (plan.put_share == 1.0 or random() < plan.put_share):
            kind, request = "put", requests.set_key(key, self._value)
        else:
            kind, request = "get", requests.get_value(key)
        self._open += 1
        self._core.submit(request, self._clock() + ANSWER_SECONDS, partial(self._on_done, kind, due))

    def _on_done(self, kind: str, due: float, value: Any, error: ZraftError | None) -> None:
        now = self._clock()
        self._open -= 1
        self.answered += 1
        if not self._measured_from <= (due if self.plan.rate else now) < self._end:
            return  # warming up, or after the end
        if error is not None:
            self.errors[f"{type(error).__name__}: {error}"] += 1
        elif now < self._end:
            self.completed += 1
        # One that failed counts with the time that it was waited for: to leave it out would flatter.
        latency_us = int((now - due) * 1_000_000)
        second = int(min(now, self._end - 1e-6) - self._measured_from)
        histograms = self.seconds.get(second)
        if histograms is None:
            histograms = self.seconds[second] = {"put": Histogram(), "get": Histogram()}
        histograms[kind].record(latency_us)

    @property
    def latencies(self) -> dict[str, Histogram]:
        """Of all operations in the measured time."""
        total = {"put": Histogram(), "get": Histogram()}
        for kinds in self.seconds.values():
            for kind, histogram in kinds.items():
                total[kind].add(histogram)
        return total

    def as_json(self) -> dict[str, Any]:
        """The result, for `Result.from_json`."""
        return {
            "completed": self.completed,
            "answered": self.answered,
            "errors": dict(self.errors),
            "latencies": {kind: histogram.as_json() for kind, histogram in self.latencies.items()},
            "seconds": [
                [second, {kind: histogram.as_json() for kind, histogram in kinds.items()}]
                for second, kinds in sorted(self.seconds.items())
            ],
        }


class Outcome:
    """What all clients of a run measured, together. completed: in the measured time; answered, cpu_s: from the
    beginning of the warm-up on; seconds: of the measured time -> histograms by kind."""

    def __init__(self) -> None:
        self.completed = 0
        self.answered = 0
        self.cpu_s = 0.0
        self.errors: Counter[str] = Counter()
        self.latencies = {"put": Histogram(), "get": Histogram()}
        self.seconds: dict[int, dict[str, Histogram]] = {}

    def add(self, fields: Mapping[str, Any]) -> None:
        """What `Load.as_json` of one client gave."""
        self.completed += fields["completed"]
        self.answered += fields["answered"]
        self.cpu_s += fields["cpu_s"]
        self.errors.update(fields["errors"])
        _add_kinds(self.latencies, fields["latencies"])
        for second, kinds in fields["seconds"]:
            _add_kinds(self.seconds.setdefault(second, {"put": Histogram(), "get": Histogram()}), kinds)


def _add_kinds(histograms: dict[str, Histogram], fields: Mapping[str, Mapping[str, Any]]) -> None:
    for kind, histogram in fields.items():
        histograms[kind].add(Histogram.from_json(histogram))
