"""Where each batch of the log is. Memory grows with batches, not entries: 48 bytes a batch."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import NamedTuple

from zraft.errors import impossible


class Place(NamedTuple):
    """A batch of the valid log and where its record is.

    `segment`: number of the segment; `offset`: of the record; `payload_bytes`: length of the payload;
    `seed`: what the record is chained to, for a reader to check it.
    """

    first_index: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    term: int
    segment: int
    offset: int
    payload_bytes: int
    seed: int


class BatchIndex:
    """The valid log as ascending, gapless batches. One added over older entries replaces them and what follows."""

    def __init__(self) -> None:
        self.last_index = 0
        self._first_indexes = array("Q")
        self._terms = array("Q")
        self._offsets = array("Q")
        self._segments = array("L")
        self._payload_bytes = array("I")
        self._seeds = array("I")

    def __len__(self) -> int:
        return len(self._first_indexes)

    def add(self, place: Place) -> None:
        """Append the batch, or replace everything from its first index on. A gap is an `ImpossibleState`."""
        first_index = place.first_index
        if not 1 <= first_index <= self.last_index + 1 or place.count < 1:
            raise impossible("gap in the log", first=first_index, count=place.count, last=self.last_index)
        if first_index <= self.last_index:
            self._truncate(first_index)
        self._first_indexes.append(first_index)
        self._terms.append(place.term)
        self._offsets.append(place.offset)
        self._segments.append(place.segment)
        self._payload_bytes.append(place.payload_bytes)
        self._seeds.append(place.seed)
        self.last_index = first_index + place.count - 1

    def position_of(self, index: int) -> int:
        """Position of the batch that holds the entry `index`, which must be in the log."""
        if not 1 <= index <= self.last_index:
            raise impossible("no such entry", index=index, last=self.last_index)
        return bisect_right(self._first_indexes, index) - 1

    def place(self, position: int) -> Place:
        """The batch at `position`, counted from 0. Its count is what is still valid of it."""
        first_index = self._first_indexes[position]
        following = position + 1
        end = self._first_indexes[following] if following < len(self._first_indexes) else self.last_index + 1
        return Place(
            first_index,
            end - first_index,
            self._terms[position],
            self._segments[position],
            self._offsets[position],
            self._payload_bytes[position],
            self._seeds[position],
        )

    def term_runs(self) -> list[tuple[int, int]]:
        """(first index, term) of each run of equal terms, ascending."""
        runs: list[tuple[int, int]] = []
        latest = None
        for first_index, term in zip(self._first_indexes, self._terms, strict=True):
            if term != latest:
                runs.append((first_index, term))
                latest = term
        return runs

    def _truncate(self, index: int) -> None:
        """Forget the entries from `index` on; a batch that begins before it stays, shortened by its successor."""
        keep = bisect_right(self._first_indexes, index - 1)
        del self._first_indexes[keep:]
        del self._terms[keep:]
        del self._offsets[keep:]
        del self._segments[keep:]
        del self._payload_bytes[keep:]
        del self._seeds[keep:]
