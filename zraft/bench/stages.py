"""Where the time of a write goes inside a node: stamps on some of the writes, taken where they pass an actor.

A node has one recorder if its config says `profile: N`, else none, nor this code: `bench.profiled` has the actors that
stamp. Every Nth token that the frontend gives out is sampled, so that whoever sees a token can tell. Besides, each node
times every write of its log. The clock is handed in.

The actors of a node run in several threads. Each stamp is one assignment in a dict, of a point that one actor alone
stamps; each histogram is filled by one actor. What an actor's death interrupts is forgotten when MAX_OPEN is reached.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from zraft.bench.histogram import Histogram

MAX_OPEN = 4096  # sampled writes on their way

# The points that a write passes on the leader, in the order of a write (docs/PERFORMANCE.md shows the way).
ARRIVED, PROPOSED, TAKEN, SENT, DURABLE, COMMITTED, APPLYING, APPLIED, ANSWERED, REPLIED = range(10)

STAGES: dict[str, tuple[int, int]] = {
    "frontend": (ARRIVED, PROPOSED),
    "to consensus": (PROPOSED, TAKEN),
    "consensus": (TAKEN, SENT),
    "log": (SENT, DURABLE),
    "network": (SENT, COMMITTED),
    "to applier": (-1, APPLYING),
    "apply": (APPLYING, APPLIED),
    "to frontend": (APPLIED, ANSWERED),
    "reply": (ANSWERED, REPLIED),
    "node": (ARRIVED, REPLIED),
}
"""Name -> the points that it lies between. log and network run at the same time; what comes next (-1) waits for
both."""


class Stages:
    """every: sample each such token. now_us: monotonic microseconds."""

    def __init__(self, every: int, now_us: Callable[[], int]) -> None:
        self.every = every
        self.now_us = now_us
        self._open: dict[int, dict[int, int]] = {}  # token -> point -> when
        self._unsent: list[dict[int, int]] = []
        self._waiting: deque[tuple[int, dict[int, int]]] = deque()  # by log index, until committed and durable here
        self._ending: list[int] = []  # tokens
        self._histograms = {name: Histogram() for name in STAGES}
        self._writing: dict[int, int] = {}  # sequence -> when it was handed to log_writer
        self._log_writes = Histogram()

    # --- frontend

    def arrived(self, at_us: int, proposals: Iterable[tuple[int, bytes]]) -> None:
        """These (token, command) were in the frames that the frontend began to read then."""
        if len(self._open) > MAX_OPEN:
            self._open = {}
        for token, _ in proposals:
            if not token % self.every:
                self._open[token] = {ARRIVED: at_us}

    def answered(self, tokens: Iterable[int]) -> None:
        """The frontend has taken the answers to these."""
        self._ending += self.mark(ANSWERED, tokens)

    def replied(self) -> None:
        """The answers taken are on their way to the clients."""
        for token in self._ending:
            stamps = self._open.pop(token, {})
            stamps[REPLIED] = self.now_us()
            if len(stamps) == REPLIED + 1:  # not so if it was refused
                self._count(stamps)
        self._ending.clear()

    def _count(self, stamps: dict[int, int]) -> None:
        stamps[-1] = max(stamps[DURABLE], stamps[COMMITTED])
        for name, (begin, end) in STAGES.items():
            self._histograms[name].record(max(0, stamps[end] - stamps[begin]))

    # --- whoever passes it on

    def mark(self, point: int, tokens: Iterable[int]) -> list[int]:
        """Those of `tokens` that are sampled are at this point now; returns them."""
        sampled = [token for token in tokens if not token % self.every and token in self._open]
        if sampled:
            now_us = self.now_us()
            for token in sampled:
                stamps = self._open.get(token)
                if stamps is not None:
                    stamps[point] = now_us
        return sampled

    # --- consensus

    def appended(self, first: int, tokens: Sequence[int]) -> None:
        """The leader has appended these to its log, from index first on."""
        for token in self.mark(TAKEN, tokens):
            stamps = self._open.get(token)
            if stamps is not None:
                self._unsent.append(stamps)
                self._waiting.append((first + tokens.index(token), stamps))
        while len(self._waiting) > MAX_OPEN:
            self._waiting.popleft()

    def progressed(self, durable_index: int, commit_index: int) -> None:
        """So far the log is on this node's disk, and committed."""
        now_us = self.now_us()
        for index, stamps in self._waiting:
            if index <= durable_index:
                stamps.setdefault(DURABLE, now_us)
            if index <= commit_index:
                stamps.setdefault(COMMITTED, now_us)
        while self._waiting and self._waiting[0][0] <= min(durable_index, commit_index):
            self._waiting.popleft()

    def sent(self) -> None:
        """What was appended is with log_writer and transport."""
        if self._unsent:
            now_us = self.now_us()
            for stamps in self._unsent:
                stamps[SENT] = now_us
            self._unsent.clear()

    def writing(self, sequence: int) -> None:
        """This write is with log_writer: on the leader, or on a follower."""
        if len(self._writing) > MAX_OPEN:
            self._writing.clear()
        self._writing[sequence] = self.now_us()

    def written(self, sequence: int) -> None:
        """All up to it are durable."""
        now_us = self.now_us()
        for number in [number for number in self._writing if number <= sequence]:
            self._log_writes.record(now_us - self._writing.pop(number))

    # --- what is known

    def report(self) -> dict[str, Any]:
        """For the node's status: histograms since its start."""
        return {
            "every": self.every,
            "stages": {name: histogram.as_json() for name, histogram in self._histograms.items()},
            "log_writes": self._log_writes.as_json(),
        }
