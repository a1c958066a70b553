"""What a machine's disk must hold: the model that every found log is compared with.

An append is in doubt from its begin until the moment at which it returns, in virtual time; if it never does (a crash,
a kill, a full disk), then until the next one succeeds. A log that is found at a start must be what was certain, or
that with a prefix of something in doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zraft.errors import impossible
from zraft.sim.disk import SimDisk
from zraft.storage import Batch, HardState, WriteAheadLog

Items = list[Any]  # a HardState, or (first index, count, term) of a batch


class Holding:
    """`terms`: of the entries 1.., `hard_state`: both as certainly durable at the last `settle`."""

    def __init__(self) -> None:
        self.terms: list[int] = []
        self.hard_state = HardState(0, None)
        self._doubts: list[tuple[int | None, Items]] = []  # (when it completes: None if it never did, what)
        self._found: tuple[list[int], HardState] | None = None
        self._found_us = 0

    def settle(self, now_us: int) -> None:
        """Take for certain what has completed by now."""
        if self._found is not None and self._found_us <= now_us:
            self.terms, self.hard_state = self._found
            self._found = None
            self._doubts.clear()
        if self._doubts:
            done_us, items = self._doubts[-1]
            if done_us is not None and done_us <= now_us:
                self._doubts.clear()
                self._take(items)

    def _take(self, items: Items) -> None:
        for item in items:
            if type(item) is HardState:
                self.hard_state = item
            else:
                first, count, term = item
                del self.terms[first - 1 :]
                self.terms += [term] * count

    def begin(self, now_us: int, items: Items) -> None:
        """An append begins."""
        self.settle(now_us)
        self._doubts.append((None, items))

    def complete(self, done_us: int) -> None:
        """It returns at done_us."""
        self._doubts[-1] = (done_us, self._doubts[-1][1])

    def crash(self, now_us: int) -> None:
        """What has not completed by now never will."""
        self.settle(now_us)
        self._doubts = [(None, items) for _, items in self._doubts]
        if self._found is not None:
            self._doubts.append((None, [self._found]))
            self._found = None

    def possible(self) -> list[tuple[list[int], HardState]]:
        """Every content that a start may find now."""
        states = [(self.terms, self.hard_state)]
        for _, items in self._doubts:
            if items and type(items[0]) is tuple and len(items[0]) == 2 and type(items[0][0]) is list:
                states.append(items[0])
                continue
            attempt = Holding()
            attempt.terms, attempt.hard_state = list(self.terms), self.hard_state
            for item in items:
                attempt._take([item])
                states.append((list(attempt.terms), attempt.hard_state))
        return states

    def on_found(self, terms: list[int], hard_state: HardState, now_us: int, done_us: int) -> bool:
        """A start found this, and has made it durable at done_us. False: it cannot be."""
        self.settle(now_us)
        if (terms, hard_state) not in self.possible():
            return False
        self._found, self._found_us = (terms, hard_state), done_us
        return True


class WatchedLog(WriteAheadLog):
    """The shipped log, with somebody who notes what it promises."""

    holding: Holding
    sim_disk: SimDisk

    def watch(self, holding: Holding, disk: SimDisk) -> None:
        """From now on."""
        self.holding, self.sim_disk = holding, disk

    def append(
        self, batches: Sequence[Batch], hard_state: HardState | None, reset: tuple[int, int] | None = None
    ) -> None:
        """See WriteAheadLog."""
        if reset is not None:
            raise impossible("the model of what is durable knows no resets", reset=reset)
        items: Items = [] if hard_state is None else [hard_state]
        items += [(batch.first_index, batch.count, batch.term) for batch in batches]
        self.holding.begin(self.sim_disk.now_us, items)
        super().append(batches, hard_state)
        self.holding.complete(self.sim_disk.now_us)


def terms_of(log: WriteAheadLog) -> list[int]:
    """The term of each entry."""
    terms: list[int] = []
    runs = log.term_runs()
    for position, (first, term) in enumerate(runs):
        end = runs[position + 1][0] if position + 1 < len(runs) else log.last_index + 1
        terms += [term] * (end - first)
    return terms
