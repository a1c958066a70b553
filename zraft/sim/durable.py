"""What a machine's disk must hold: the model that every found log and snapshot is compared with.

An append is in doubt from its begin until the moment at which it returns, in virtual time; if it never does (a crash,
a kill, a full disk), then until the next one succeeds. A log that is found at a start must be what was certain, or
that with a prefix of something in doubt. So must the newest snapshot, which stands for the committed entries that it
covers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from zraft.messages import Entry
from zraft.sim.disk import NEVER_US, SimDisk
from zraft.storage import Batch, HardState, SnapshotInfo, SnapshotStore, WriteAheadLog
from zraft.storage.snapshots import Kind

Items = list[Any]  # a HardState, (first index, count, term) of a batch, or (index,): the log begins anew behind it


class Holding:
    """`terms`: of the entries 1.. of the log, those before its beginning included; `hard_state`; `snapshot_index`: of
    the newest snapshot: all as certainly durable at the last `settle`. committed: all entries that are known to be."""

    def __init__(self, committed: list[Entry]) -> None:
        self.committed = committed
        self.store_id = 0  # of the data directory; 0: it was never opened
        self.terms: list[int] = []
        self.hard_state = HardState(0, None)
        self.snapshot_index = 0
        self._doubts: list[tuple[int | None, Items]] = []  # (when it completes: None if it never did, what)
        self._found: tuple[list[int], HardState] | None = None
        self._found_us = 0
        self._snapshot_doubts: list[tuple[int, int]] = []  # (when it completes, index)

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
        if self._snapshot_doubts:
            done = [index for done_us, index in self._snapshot_doubts if done_us <= now_us]
            self.snapshot_index = max(self.snapshot_index, *done, 0)
            self._snapshot_doubts = [doubt for doubt in self._snapshot_doubts if doubt[1] > self.snapshot_index]

    def prefix(self, index: int) -> list[int]:
        """The terms of the first entries, which a snapshot of index stands for."""
        return [entry.term for entry in self.committed[:index]]

    def held(self, snapshot: int | None = None) -> list[int]:
        """The terms of what log and snapshot hold together; snapshot: its index, if the newest is not meant."""
        index = self.snapshot_index if snapshot is None else snapshot
        terms = self.terms
        if index and (len(terms) < index or terms[index - 1] != self.committed[index - 1].term):
            return self.prefix(index)
        return terms

    # --- the log

    def _take(self, items: Items) -> None:
        for item in items:
            if type(item) is HardState:
                self.hard_state = item
            elif len(item) == 1:
                self.terms = self.prefix(item[0])
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
        self._snapshot_doubts = [(NEVER_US, index) for _, index in self._snapshot_doubts]

    def possible(self) -> list[tuple[list[int], HardState]]:
        """Every content that a start may find now."""
        states = [(self.terms, self.hard_state)]
        for _, items in self._doubts:
            if items and type(items[0]) is tuple and type(items[0][0]) is list:
                states.append(items[0])
                continue
            attempt = Holding(self.committed)
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

    # --- snapshots

    def begin_snapshot(self, index: int) -> None:
        """The file is about to get its name."""
        self._snapshot_doubts.append((NEVER_US, index))

    def complete_snapshot(self, done_us: int) -> None:
        """It is whole, named and durable at done_us."""
        self._snapshot_doubts[-1] = (done_us, self._snapshot_doubts[-1][1])

    def possible_snapshots(self) -> set[int]:
        """Every index of the newest one that a start may find now."""
        return {self.snapshot_index, *(index for _, index in self._snapshot_doubts)}

    def on_snapshot_found(self, index: int, is_damaged: bool, now_us: int, done_us: int) -> bool:
        """A start found this to be the newest whole one, and has made its name durable at done_us. False: it cannot be,
        unless a newer one is damaged."""
        self.settle(now_us)
        if index not in self.possible_snapshots() and not (is_damaged and index < self.snapshot_index):
            return False
        self._snapshot_doubts = [(done_us, index)] if index > self.snapshot_index else []
        self.snapshot_index = min(self.snapshot_index, index)
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
        items: Items = [] if hard_state is None else [hard_state]
        items += [] if reset is None else [(reset[0],)]
        items += [(batch.first_index, batch.count, batch.term) for batch in batches]
        self.holding.begin(self.sim_disk.now_us, items)
        super().append(batches, hard_state, reset)
        self.holding.complete(self.sim_disk.now_us)


class WatchedSnapshots(SnapshotStore):
    """The same for the snapshots."""

    holding: Holding
    sim_disk: SimDisk
    counts: Counter[str]

    def watch(self, holding: Holding, disk: SimDisk, counts: Counter[str]) -> None:
        """From now on."""
        self.holding, self.sim_disk, self.counts = holding, disk, counts

    def finish(self, kind: Kind) -> SnapshotInfo:
        """See SnapshotStore."""
        self.holding.begin_snapshot(self._unfinished[kind].index)
        info = super().finish(kind)
        self.holding.complete_snapshot(self.sim_disk.now_us)
        self.counts[f"snapshots-{kind}"] += 1
        return info


def terms_of(log: WriteAheadLog, holding: Holding) -> list[int]:
    """The term of each entry; of those before the log's beginning, which are committed, too."""
    base_index, base_term = log.base
    terms = holding.prefix(base_index)
    if base_index and (len(terms) < base_index or terms[-1] != base_term):
        return []  # it begins after something that was never committed
    runs = log.term_runs()
    for position, (first, term) in enumerate(runs):
        end = runs[position + 1][0] if position + 1 < len(runs) else log.last_index + 1
        terms += [term] * (end - first)
    return terms
