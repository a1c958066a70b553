"""The log as consensus sees it: all terms, the entries of the tail, and what of it is durable here.

Entries before the tail are on disk only and are read when a lagging peer or a new applier needs them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Sequence

from zraft.errors import NodeMustStop, impossible
from zraft.messages import Entry

ENTRY_OVERHEAD_BYTES = 100  # of an Entry in memory, beside its data
MAX_APPLY_BYTES = 128 * 1024  # of entries for the state machine at a time: batches hold thousands of commands
MARK_BYTES = 1024 * 1024  # of entries between two indices that are remembered for `index_before`
MAX_RUN_BYTES = 1024 * 1024  # of entries in one message or one write, unless a single entry is larger


def first_run(entries: Sequence[Entry], most_bytes: int | None = None) -> tuple[Entry, ...]:
    """As many entries as go into one message: MAX_RUN_BYTES, or so many, at least one. Their number is bounded by
    that, too (each counts ENTRY_OVERHEAD_BYTES), and every receiver relies on it (`wire.MAX_ARRAY`)."""
    most_bytes = MAX_RUN_BYTES if most_bytes is None else most_bytes
    size = 0
    for count, entry in enumerate(entries):
        size += len(entry.data) + ENTRY_OVERHEAD_BYTES
        if size > most_bytes and count:
            return tuple(entries[:count])
    return tuple(entries)


class RaftLog:
    """Indices begin at 1. What the log begins after is its *base*: index 0, of term 0, or where it was compacted; of
    the base the term alone is known.

    Invariant: durable_index < unsent_index <= last_index + 1, and entries at or below durable_index are on this
    node's disk exactly as they are here (those up to the base in a snapshot).
    """

    def __init__(
        self,
        term_runs: Iterable[tuple[int, int]],
        last_index: int,
        tail: Sequence[Entry],
        base: tuple[int, int] = (0, 0),
    ) -> None:
        """term_runs: (first index, term) of each run of equal terms after the base, ascending. tail: the entries up to
        last_index, at least the last one (if there is any). base: (index, term). All of it is durable."""
        self._run_first: list[int] = [base[0]]
        self._run_term: list[int] = [base[1]]
        for first, term in term_runs:
            if term != self._run_term[-1]:
                self._run_first.append(first)
                self._run_term.append(term)
        self.last_index = last_index
        self._entries: list[Entry] = list(tail)
        self.tail_first = last_index - len(tail) + 1  # the first index whose entry is in memory
        self.tail_bytes = sum(len(entry.data) + ENTRY_OVERHEAD_BYTES for entry in tail)
        if last_index > base[0] and not tail:
            raise impossible("a log without its last entry", last_index=last_index)
        self.last_time_ms = tail[-1].time_ms if tail else 0  # the log's own clock; not turned back by a truncation
        self.durable_index = last_index
        self.unsent_index = last_index + 1  # the first entry that was not handed to the disk yet
        self.reset_unsent = False  # the disk has not been told yet that the log begins anew, at this base
        self._writes: deque[list[int]] = deque()  # [sequence, last index that its completion proves durable]
        self._marks: list[int] = []  # ascending; MARK_BYTES of entries, or more, lie between two of them
        self._unmarked_bytes = 0  # appended since the last of them
        self._run_cache: tuple[int, int, tuple[Entry, ...]] = (0, 0, ())

    # --- reading

    @property
    def last_term(self) -> int:
        """Term of the last entry, 0 if there is none."""
        return self._run_term[-1]

    @property
    def base_index(self) -> int:
        """The index that the log begins after."""
        return self._run_first[0]

    def _run(self, index: int) -> int:
        if not self._run_first[0] <= index <= self.last_index:
            raise impossible("no such log index", index=index, base=self._run_first[0], last_index=self.last_index)
        return bisect_right(self._run_first, index) - 1

    def term(self, index: int) -> int:
        """The term of the entry at index, from the base on (0 for index 0)."""
        if index == self.last_index:
            return self._run_term[-1]
        return self._run_term[self._run(index)]

    def has(self, index: int, term: int) -> bool:
        """Whether the log holds an entry of that term at that index (paper figure 2, AppendEntries 2); of what lies
        before the base nothing is known."""
        return self._run_first[0] <= index <= self.last_index and self.term(index) == term

    def first_index_of_run(self, index: int) -> int:
        """The first index, from the base on, of the entries around index that share its term."""
        return max(1, self._run_first[self._run(index)])

    def last_index_of_term(self, term: int) -> int:
        """The last index, from the base on, whose entry has a term of at most this one; the base if there is none."""
        run = bisect_right(self._run_term, term)
        if run == 0:
            return self.base_index
        return self._run_first[run] - 1 if run < len(self._run_first) else self.last_index

    def term_runs(self) -> list[tuple[int, int]]:
        """(first index, term) of each run after the base, ascending."""
        first = self.base_index + 1
        runs = list(zip(self._run_first[1:], self._run_term[1:], strict=True))
        if self.last_index >= first and (not runs or runs[0][0] > first):
            runs.insert(0, (first, self._run_term[0]))
        return runs

    def slice(self, first: int, last: int) -> tuple[Entry, ...]:
        """Entries first..last of the tail, as many as MAX_RUN_BYTES allow, at least one. The same tuple for the same
        run, so that whoever encodes it can do so once. The caller sees to it that first is in memory."""
        if first > last:
            return ()
        if not self.tail_first <= first <= last <= self.last_index:
            raise impossible("not in memory", first=first, last=last, tail=self.tail_first, end=self.last_index)
        cached_first, cached_last, cached = self._run_cache
        if cached_first == first and cached_last == last:
            return cached
        entries = first_run(self._entries[first - self.tail_first : last - self.tail_first + 1])
        self._run_cache = (first, last, entries)
        return entries

    def index_before(self, index: int, size_bytes: int) -> int:
        """Behind which index, up to `index`, so many bytes of entries came, or somewhat more; the base if fewer did
        since this node's start, for of older entries no sizes are known here."""
        position = bisect_right(self._marks, index) - size_bytes // MARK_BYTES - 1
        return self._marks[position] if position >= 0 else self.base_index

    def tail(self) -> tuple[Entry, ...]:
        """All entries in memory, from tail_first on."""
        return tuple(self._entries)

    # --- growing and shrinking

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries after the last one."""
        self._entries.extend(entries)
        index = self.last_index
        term = self._run_term[-1]
        before = self.tail_bytes
        for entry_term, _, _, data in entries:
            index += 1
            self.tail_bytes += len(data) + ENTRY_OVERHEAD_BYTES
            if entry_term != term:
                term = entry_term
                self._run_first.append(index)
                self._run_term.append(term)
        if entries:
            self.last_index = index
            self.last_time_ms = max(self.last_time_ms, entries[-1].time_ms)
            self._unmarked_bytes += self.tail_bytes - before
            if self._unmarked_bytes >= MARK_BYTES:
                self._marks.append(index)
                self._unmarked_bytes = 0

    def truncate(self, first: int) -> None:
        """Remove the entries from first on. Completions of writes already under way prove nothing about what will
        stand there (trap 8): each is capped, and the new entries count as unsent."""
        if not self.base_index < first <= self.last_index:
            raise impossible("truncation outside of the log", first=first, last_index=self.last_index)
        kept = max(0, first - self.tail_first)
        for entry in self._entries[kept:]:
            self.tail_bytes -= len(entry.data) + ENTRY_OVERHEAD_BYTES
        del self._entries[kept:]
        self.tail_first = min(self.tail_first, first)
        self.last_index = first - 1
        del self._marks[bisect_right(self._marks, first - 1) :]
        while self._run_first[-1] >= first:
            del self._run_first[-1], self._run_term[-1]
        self.durable_index = min(self.durable_index, first - 1)
        self.unsent_index = min(self.unsent_index, first)
        for write in self._writes:
            write[1] = min(write[1], first - 1)
        self._run_cache = (0, 0, ())

    def compact(self, through: int) -> None:
        """Entries up to `through` are covered by a snapshot and leave the log: it is the new base (paper section 7)."""
        if not self.base_index <= through <= self.durable_index:
            raise impossible("compaction outside of the log", through=through, base=self.base_index)
        term = self.term(through)
        run = self._run(through)
        self._run_first[: run + 1] = [through]
        self._run_term[: run + 1] = [term]
        del self._marks[: bisect_right(self._marks, through)]
        gone = max(0, through - self.tail_first + 1)
        for entry in self._entries[:gone]:
            self.tail_bytes -= len(entry.data) + ENTRY_OVERHEAD_BYTES
        del self._entries[:gone]
        self.tail_first += gone

    def reset(self, index: int, term: int) -> None:
        """Drop all entries: a snapshot up to index, of that term, is on this node's disk, and the log goes on after it
        (paper figure 13, step 7). Completions of writes under way prove nothing about what will stand there."""
        self._run_first, self._run_term = [index], [term]
        self._marks.clear()
        self.last_index = self.durable_index = index
        self.unsent_index = index + 1
        self._entries, self.tail_first, self.tail_bytes = [], index + 1, 0
        self.reset_unsent = True
        for write in self._writes:
            write[1] = min(write[1], index)
        self._run_cache = (0, 0, ())

    def forget(self, through: int, keep_bytes: int) -> None:
        """Let go of entries at or below `through` (durable and applied) from memory while they exceed keep_bytes.

        A sixteenth at once: deleting from the front moves the rest, and deleting very much takes its time, too.
        """
        if self.tail_bytes <= keep_bytes + keep_bytes // 16:
            return
        through = min(through, self.durable_index)
        count = 0
        for entry in self._entries[: max(0, through - self.tail_first + 1)]:
            if self.tail_bytes <= keep_bytes:
                break
            self.tail_bytes -= len(entry.data) + ENTRY_OVERHEAD_BYTES
            count += 1
        del self._entries[:count]
        self.tail_first += count

    # --- what is durable here

    def sent(self, sequence: int, last: int) -> None:
        """Entries up to last were handed to the disk with this write."""
        self._writes.append([sequence, last])
        self.unsent_index = last + 1

    def synced(self, sequence: int) -> None:
        """All writes up to this sequence are durable."""
        while self._writes and self._writes[0][0] <= sequence:
            self.durable_index = max(self.durable_index, self._writes.popleft()[1])

    def restart_writes(self, disk: RaftLog) -> None:
        """The disk's owner began a new life: only what it reports is durable, the rest is sent again.

        By log matching the two logs agree up to the last index at which they agree. If not even the base is there, a
        snapshot was adopted, and the disk was not told.
        """
        agreed = min(self.last_index, disk.last_index)
        while agreed > self.base_index and not disk.has(agreed, self.term(agreed)):
            agreed -= 1
        agreed = max(agreed, self.base_index)
        self.reset_unsent = not disk.has(agreed, self.term(agreed))
        if agreed < self.durable_index:
            # No actor's successor could know this: it would take the shorter log for all that there ever was.
            raise NodeMustStop(
                f"the disk has lost what it had made durable: entries up to {self.durable_index} were, those up to "
                f"{agreed} are there. Check the disk; then remove this node and add it again as a new one"
            )
        self._writes.clear()
        self.durable_index = agreed
        self.unsent_index = agreed + 1
