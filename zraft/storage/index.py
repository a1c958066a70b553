"""Where each batch of the log is. Memory grows with batches, not entries: 41 bytes a batch."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import NamedTuple

from zraft.errors import impossible


class Place(NamedTuple):
    """A batch of the valid log and where its record is.

    `segment`: number of the segment; `offset`: of the record; `payload_bytes`: length of the payload;
    `seed`: what the record is chained to, for a reader to check it; `marked`: see `Batch`.
    """

    first_index: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    term: int
    segment: int
    offset: int
    payload_bytes: int
    seed: int
    marked: bool = False


class BatchIndex:
    """The valid log as ascending, gapless batches. One added over older entries replaces them and what follows.

    `base`: (index, term) of the entry before those that can be asked for: (0, 0) in a log from its beginning; what a
    reset named; in a log whose oldest segments were removed, its first entry, whose batch is at position 0 then.
    """

    def __init__(self) -> None:
        self.last_index = 0
        self.base = (0, 0)
        self._base_segment = 0
        self._first_indexes = array("Q")
        self._terms = array("Q")
        self._offsets = array("Q")
        self._segments = array("L")
        self._payload_bytes = array("I")
        self._seeds = array("I")
        self._marks = array("B")
        self._columns = (
            self._first_indexes,
            self._terms,
            self._offsets,
            self._segments,
            self._payload_bytes,
            self._seeds,
            self._marks,
        )

    def __len__(self) -> int:
        return len(self._first_indexes)

    def add(self, place: Place) -> None:
        """Append the batch, or replace everything from its first index on. A gap is an `ImpossibleState`."""
        first_index, count = place[:2]
        if not self.base[0] < first_index <= self.last_index + 1 or count < 1:
            raise impossible("gap in the log", first=first_index, count=count, last=self.last_index, base=self.base[0])
        if first_index <= self.last_index:
            self._keep(bisect_right(self._first_indexes, first_index - 1))
        self._append(place)

    def begin_with(self, place: Place) -> None:
        """Forget everything: the first entry of this batch is the base, as the oldest that is left of a log."""
        if place.first_index < 1 or place.count < 1:
            raise impossible("not a batch", first=place.first_index, count=place.count)
        self._keep(0)
        self._append(place)
        self.base = (place.first_index, place.term)
        self._base_segment = place.segment

    def reset(self, index: int, term: int, segment: int) -> None:
        """Forget everything: the log begins after entry `index` of that term, as a record in `segment` says."""
        self._keep(0)
        self.base = (index, term)
        self.last_index = index
        self._base_segment = segment

    def segment_of(self, index: int) -> int:
        """Number of the segment that holds the entry, or for one up to the base, the base. 0: the log's beginning."""
        if index <= self.base[0]:
            return self._base_segment
        return self._segments[self.position_of(index)]

    def drop_through(self, segment: int) -> None:
        """Forget what lies in segments up to that one. If the base does, the oldest entry left is the new one."""
        gone = bisect_right(self._segments, segment)
        if self._base_segment <= segment:
            if gone == len(self):
                raise impossible("nothing would be left of the log", segment=segment, last=self.last_index)
            self.base = (self._first_indexes[gone], self._terms[gone])
            self._base_segment = self._segments[gone]
        for column in self._columns:
            del column[:gone]

    def position_of(self, index: int) -> int:
        """Position of the batch that holds the entry `index`, which must be in the log, behind the base."""
        if not self.base[0] < index <= self.last_index:
            raise impossible("no such entry", index=index, last=self.last_index, base=self.base[0])
        return bisect_right(self._first_indexes, index) - 1

    def place(self, position: int) -> Place:
        """The batch at `position`, counted from 0. Its count is what is still valid of it."""
        first_index = self._first_indexes[position]
        return Place(
            first_index,
            self._end_of(position) - first_index,
            self._terms[position],
            self._segments[position],
            self._offsets[position],
            self._payload_bytes[position],
            self._seeds[position],
            bool(self._marks[position]),
        )

    def marked(self) -> Iterator[Place]:
        """The marked batches with an entry behind the base, ascending."""
        marks = self._marks.tobytes()
        position = marks.find(1, self._begin())
        while position >= 0:
            yield self.place(position)
            position = marks.find(1, position + 1)

    def term_runs(self) -> list[tuple[int, int]]:
        """(first index, term) of each run of equal terms behind the base, ascending."""
        runs: list[tuple[int, int]] = []
        latest = None
        begin = self._begin()
        for first_index, term in zip(self._first_indexes[begin:], self._terms[begin:], strict=True):
            if term != latest:
                runs.append((max(first_index, self.base[0] + 1), term))
                latest = term
        return runs

    def _begin(self) -> int:
        """Position of the first batch with an entry behind the base: all but one that is the base alone."""
        return 1 if len(self) and self._end_of(0) == self.base[0] + 1 else 0

    def _end_of(self, position: int) -> int:
        """Index of the first entry behind the batch."""
        following = position + 1
        return self._first_indexes[following] if following < len(self) else self.last_index + 1

    def _append(self, place: Place) -> None:
        first_index, count, term, segment, offset, payload_bytes, seed, marked = place
        self._first_indexes.append(first_index)
        self._terms.append(term)
        self._offsets.append(offset)
        self._segments.append(segment)
        self._payload_bytes.append(payload_bytes)
        self._seeds.append(seed)
        self._marks.append(marked)
        self.last_index = first_index + count - 1

    def _keep(self, count: int) -> None:
        """Forget the batches from position `count` on; the last one kept is shortened by what is added next."""
        for column in self._columns:
            del column[count:]
