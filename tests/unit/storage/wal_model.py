"""What a log must hold, kept beside it, and the script of calls that the crash tests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from faulty_disk import Image, MemoryDisk

from zraft.errors import ImpossibleState
from zraft.storage import Batch, HardState, WriteAheadLog

DIRECTORY = "/data"
SEGMENT_BYTES = 8192 + 4096
STORE_ID = 0x1234_5678_9ABC

Entry = tuple[int, bytes, int]  # term, payload of its batch, position in the batch


class Contents(NamedTuple):
    """Everything of a log that matters to its user. `entries`: those behind `base`."""

    hard_state: HardState | None = None
    entries: tuple[Entry, ...] = ()
    base: tuple[int, int] = (0, 0)

    def with_hard_state(self, hard_state: HardState) -> Contents:
        return self._replace(hard_state=hard_state)

    def with_batch(self, batch: Batch) -> Contents:
        new = tuple((batch.term, batch.payload, position) for position in range(batch.count))
        return self._replace(entries=self.entries[: batch.first_index - 1 - self.base[0]] + new)

    def with_base(self, index: int) -> Contents:
        """The same with the entry `index` for its base."""
        if index == self.base[0]:
            return self
        gone = index - self.base[0]
        return Contents(self.hard_state, self.entries[gone:], (index, self.entries[gone - 1][0]))


def prefixes(
    before: Contents, batches: list[Batch], hard_state: HardState | None, reset: tuple[int, int] | None = None
) -> list[Contents]:
    """What a crash during the append may leave: a prefix of its records. The last is all of it."""
    states = [before]
    if hard_state is not None:
        states.append(before.with_hard_state(hard_state))
    if reset is not None:
        states.append(Contents(states[-1].hard_state, (), reset))
    for batch in batches:
        states.append(states[-1].with_batch(batch))
    return states


def open_log(disk: MemoryDisk, node_id: str = "n1", segment_bytes: int = SEGMENT_BYTES) -> WriteAheadLog:
    return WriteAheadLog.open(disk, DIRECTORY, node_id, new_store_id=STORE_ID, segment_bytes=segment_bytes)


def contents_of(log: WriteAheadLog, page_bytes: int = 3000) -> Contents:
    """Read the whole log back, page by page, checking that the pages fit together."""
    contents = Contents(log.hard_state, base=log.base)
    entries: list[Entry] = []
    begin = log.base[0] + 1
    marked = []
    while len(entries) < log.last_index - log.base[0]:
        page = log.read(begin + len(entries), page_bytes)
        assert page, "entries are missing"
        for batch in page:
            skipped = 0 if entries else begin - batch.first_index  # the base, where its batch goes on behind it
            assert batch.first_index + skipped == begin + len(entries)
            entries += [(batch.term, batch.payload, position) for position in range(skipped, batch.count)]
            marked += [batch] * batch.marked
    assert log.read(log.last_index + 1, page_bytes) == []
    assert log.term_runs() == _term_runs(begin, entries)
    assert log.marked() == marked
    with pytest.raises(ImpossibleState):
        log.read(begin - 1, page_bytes)
    return contents._replace(entries=tuple(entries))


def _term_runs(begin: int, entries: list[Entry]) -> list[tuple[int, int]]:
    terms = [-1] + [term for term, _, _ in entries]
    return [(begin + i - 1, terms[i]) for i in range(1, len(terms)) if terms[i] != terms[i - 1]]


class Moment(NamedTuple):
    """A disk between two operations, and what a start after a crash then may find."""

    image: Image
    contents: list[Contents]
    cluster_ids: set[int]


class Script:
    """Runs calls on a log and keeps `contents`; with `record` it keeps a `Moment` behind every disk operation."""

    def __init__(self, disk: MemoryDisk, record: bool = False) -> None:
        self.disk = disk
        self.moments: list[Moment] = []
        self.contents = Contents()
        self.cluster_id = 0
        self.allowed = [self.contents]
        self.cluster_ids = {0}
        if record:
            disk.after = self._note
        self.log = open_log(disk)

    def append(
        self, batches: list[Batch], hard_state: HardState | None = None, reset: tuple[int, int] | None = None
    ) -> None:
        self.allowed = prefixes(self.contents, batches, hard_state, reset)
        self.log.append(batches, hard_state, reset)
        self.contents = self.allowed[-1]
        self.allowed = [self.contents]

    def compact(self, through: int) -> None:
        """Compact as far as it goes. Every base on the way is a possible one, none is past `through`."""
        self.allowed = [self.contents.with_base(index) for index in range(self.contents.base[0], through + 1)]
        while self.log.compact(through):
            pass
        self.contents = self.contents.with_base(self.log.base[0])
        assert self.contents in self.allowed
        self.allowed = [self.contents]

    def set_cluster_id(self, cluster_id: int) -> None:
        self.cluster_ids = {self.cluster_id, cluster_id}
        self.log.set_cluster_id(cluster_id)
        self.cluster_id = cluster_id
        self.cluster_ids = {cluster_id}

    def reopen(self) -> None:
        self.log.close()
        self.log = open_log(self.disk)

    def _note(self) -> None:
        self.moments.append(Moment(self.disk.image(), self.allowed, self.cluster_ids))


def payload(number: int, length: int) -> bytes:
    return (b"%d." % number * (length // 2 + 1))[:length]


STEPS: list[Callable[[Script], None]] = [
    lambda s: s.append([], HardState(1, "n1")),
    lambda s: s.set_cluster_id(77),
    lambda s: s.append([Batch(1, 1, 1, payload(1, 10))]),
    lambda s: s.append([Batch(2, 3, 1, payload(2, 700)), Batch(5, 1, 1, payload(3, 600)), Batch(6, 2, 1, b"")]),
    lambda s: s.log.prepare_ahead(),
    lambda s: s.append([Batch(8, 1, 2, payload(4, 1500))], HardState(2, "n2")),
    lambda s: s.append([Batch(9, 4, 2, payload(5, 1800))]),
    lambda s: s.append([Batch(10, 1, 3, payload(6, 300)), Batch(11, 1, 3, payload(7, 300))], HardState(3, None)),
    Script.reopen,
    lambda s: s.append([Batch(12, 1, 3, payload(8, 9000))]),
    lambda s: s.append([Batch(13, 2, 3, payload(9, 2500))]),
    lambda s: s.log.prepare_ahead(),
    lambda s: s.append([Batch(3, 1, 4, payload(10, 900)), Batch(4, 5, 4, payload(11, 1100))], HardState(4, "n3")),
    lambda s: s.append([Batch(4, 1, 5, payload(12, 40)), Batch(4, 2, 5, payload(13, 50))], HardState(5, "n3")),
    Script.reopen,
    lambda s: s.append([], HardState(6, None)),
    lambda s: s.append([Batch(6, 1, 6, payload(14, 20))]),
    lambda s: s.append([Batch(7, 2, 6, payload(15, 3000), marked=True)]),
    lambda s: s.append([Batch(9, 3, 6, payload(16, 2500)), Batch(12, 1, 6, payload(17, 700))]),
    lambda s: s.compact(10),
    lambda s: s.append([Batch(10, 1, 7, payload(18, 900), marked=True)], HardState(7, "n1")),
    lambda s: s.compact(10),
    lambda s: s.append([Batch(91, 2, 8, payload(19, 30))], HardState(8, "n1"), (90, 8)),
    Script.reopen,
    lambda s: s.append([Batch(93, 3, 8, payload(20, 3500)), Batch(96, 1, 8, b"", marked=True)]),
    lambda s: s.compact(90),
    lambda s: s.append([Batch(94, 2, 9, payload(21, 2000))], HardState(9, None)),
    lambda s: s.compact(95),
    Script.reopen,
    lambda s: s.append([Batch(96, 1, 9, payload(22, 3900))]),
]


def run_steps(script: Script) -> Script:
    for step in STEPS:
        step(script)
    return script
