"""What a node's log_writer, snapshot_writer and their disk do, in the test's hands: queues, in order; what is completed
is durable."""

from __future__ import annotations

import json
from collections import deque
from typing import NamedTuple

from zraft.messages import Entry, EntryKind, InstallSnapshot
from zraft.raft import Membership, SavedSnapshot, Write, progress
from zraft.raft.log import RaftLog

LOCAL, RECEIVED = "local", "received"


class LogRead(NamedTuple):
    """consensus wants entries that are only on disk; reader as in Output.log_reads."""

    reader: str
    first: int


class CompactLog(NamedTuple):
    """consensus lets go of the entries up to through."""

    through: int


class Snapshot(NamedTuple):
    """The state machine of these tests is the list of all entries that it has applied."""

    index: int
    term: int
    config: bytes
    state: tuple[Entry, ...]

    @classmethod
    def of(cls, state: list[Entry]) -> Snapshot:
        """Of what is applied."""
        config = [entry.data for entry in state if entry.kind == EntryKind.CONFIG][-1]
        return cls(len(state), state[-1].term, config, tuple(state))

    def encode(self) -> bytes:
        """As the bytes of a file: the same state, the same bytes."""
        entries = [[term, time_ms, int(kind), data.hex()] for term, time_ms, kind, data in self.state]
        return json.dumps([self.index, self.term, self.config.hex(), entries]).encode()

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """The reverse. Raises ValueError for a file that is not whole."""
        index, term, config, entries = json.loads(data)
        state = tuple(Entry(term, ms, EntryKind(kind), bytes.fromhex(text)) for term, ms, kind, text in entries)
        return cls(index, term, bytes.fromhex(config), state)


class SaveSnapshot(NamedTuple):
    """applier -> snapshot_writer: all of a snapshot that it took."""

    snapshot: Snapshot


class StorePiece(NamedTuple):
    """consensus -> snapshot_writer: a piece from a leader."""

    leader: str
    piece: InstallSnapshot


class ReadPiece(NamedTuple):
    """consensus -> snapshot_writer: a piece for a follower."""

    peer: str
    index: int
    offset: int


class Gone(NamedTuple):
    """The place of an entry that was compacted, or that a snapshot stands for."""


GONE = Gone()


class ModelDisk:
    """`entries`: entry 1 first, GONE where there is none any more: up to `base`. `snapshots`: the two newest that are
    whole, ascending. `segment`: the log is compacted by multiples of so many entries."""

    def __init__(self) -> None:
        self.hard_state: tuple[int, str | None] | None = None
        self.entries: list[Entry] = []
        self.base = (0, 0)
        self.segment = 1
        self.queue: deque[Write | LogRead | CompactLog] = deque()
        self.snapshots: list[Snapshot] = []
        self.files: deque[SaveSnapshot | StorePiece | ReadPiece] = deque()
        self.unfinished: tuple[int, int, bytes] = (0, 0, b"")  # (index, term, bytes so far) of the one from a leader
        self.stalled = False

    # --- the log

    def write(self, write: Write, parts: int | None = None) -> None:
        """Make durable: the hard state, the reset, all runs, or only the first `parts` of the latter (a torn tail)."""
        if write.hard_state is not None:
            self.hard_state = write.hard_state
        if write.reset is not None and parts != 0:
            assert self.snapshots and write.reset[0] <= self.snapshots[-1].index, f"no snapshot for {write.reset}"
            self.begin_after(*write.reset)
            self.entries = self.entries[: write.reset[0]]
        if write.reset is not None and parts:
            parts -= 1
        for first, entries in write.runs[:parts]:
            assert self.base[0] < first <= len(self.entries) + 1, f"gap on disk: {first} after {len(self.entries)}"
            assert len({entry.term for entry in entries}) == 1, "one term a run"
            self.entries[first - 1 :] = entries

    def begin_after(self, index: int, term: int) -> None:
        """The entries up to index are gone."""
        self.base = (index, term)
        self.entries[:index] = [GONE] * index  # type: ignore[list-item]

    def compact(self, through: int) -> None:
        """Whole segments go; the last entry of them is still there as the base."""
        through -= through % self.segment
        if through > self.base[0]:
            self.begin_after(through, self.entries[through - 1].term)

    def read(self, first: int) -> list[Entry]:
        """A few entries at a time, of any terms."""
        assert first > self.base[0], f"entry {first} is asked for, the log on disk begins after {self.base[0]}"
        return self.entries[first - 1 : first + 2]

    def log(self, tail: int | None = None) -> RaftLog:
        """As recovered from disk, the last `tail` entries (at least one; all by default) in memory."""
        base = self.base[0]
        runs: list[tuple[int, int]] = []
        for index, entry in enumerate(self.entries[base:], base + 1):
            if not runs or runs[-1][1] != entry.term:
                runs.append((index, entry.term))
        count = len(self.entries)
        kept = count - base if tail is None else min(count - base, max(1, tail))
        return RaftLog(runs, count, self.entries[count - kept :], self.base)

    def configs(self) -> tuple[tuple[int, Membership], ...]:
        """(index, members) of the CONFIG entries in the log."""
        entries = enumerate(self.entries[self.base[0] :], self.base[0] + 1)
        found = [(index, entry.data) for index, entry in entries if entry.kind == EntryKind.CONFIG]
        return tuple((index, Membership.decode(data)) for index, data in found)

    def holds(self, index: int) -> Entry | None:
        """The entry, in the log or in a snapshot."""
        for snapshot in self.snapshots:
            if index <= snapshot.index:
                return snapshot.state[index - 1]
        return self.entries[index - 1] if self.base[0] < index <= len(self.entries) else None

    # --- snapshots

    def saved(self) -> SavedSnapshot:
        """The newest."""
        if not self.snapshots:
            return SavedSnapshot()
        newest = self.snapshots[-1]
        older_index = self.snapshots[0].index if len(self.snapshots) > 1 else 0
        return SavedSnapshot(newest.index, newest.term, newest.config, len(newest.encode()), older_index)

    def save(self, snapshot: Snapshot) -> bool:
        """Make it durable, if it is newer than the newest. The two newest are kept."""
        if self.snapshots and snapshot.index <= self.snapshots[-1].index:
            return False
        self.snapshots = [*self.snapshots[-1:], snapshot]
        return True

    def store(self, piece: InstallSnapshot) -> int | None:
        """A piece from a leader, if it is the next one. Returns how much of it there is; None: it is saved, or not
        needed."""
        _, index, term, offset, size, data = piece
        if self.snapshots and index <= self.snapshots[-1].index:
            return None
        if self.unfinished[:2] != (index, term):
            if offset:
                return 0
            self.unfinished = (index, term, b"")
        found = self.unfinished[2]
        if offset == len(found):
            found += data
            self.unfinished = (index, term, found)
            if offset + len(data) == size:
                self.save(Snapshot.decode(found))
                self.unfinished = (0, 0, b"")
                return None
        return len(found)

    def read_piece(self, index: int, offset: int) -> tuple[int, bytes, int]:
        """(index, data, size); (0, nothing, 0): there is no such snapshot."""
        for snapshot in self.snapshots:
            if snapshot.index == index:
                data = snapshot.encode()
                return index, data[offset : offset + progress.SNAPSHOT_PIECE_BYTES], len(data)
        return 0, b"", 0

    # --- crashes

    def lose_queue(self, written: int = 0, torn_parts: int = 0) -> None:
        """The log_writer ends: of its queue the first `written` items reached the disk, and of the next a part."""
        for position, item in enumerate(self.queue):
            if isinstance(item, Write) and position <= written:
                self.write(item, None if position < written else torn_parts)
            elif isinstance(item, CompactLog) and position < written:
                self.compact(item.through)
            if position == written:
                break
        self.queue.clear()

    def lose_files(self, written: int = 0) -> None:
        """The snapshot_writer ends: the first `written` items of its queue were done, what is not whole is gone."""
        for item in list(self.files)[:written]:
            if isinstance(item, SaveSnapshot):
                self.save(item.snapshot)
            elif isinstance(item, StorePiece):
                self.store(item.piece)
        self.files.clear()
        self.unfinished = (0, 0, b"")
