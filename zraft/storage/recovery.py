"""What a start does with the segments that it finds: check them all, cut a torn tail, refuse damage (traps 20, 21)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from zraft.errors import ImpossibleState
from zraft.storage import format as layout
from zraft.storage.disk import Disk
from zraft.storage.errors import UnsupportedVersion, corrupt, is_full
from zraft.storage.format import BATCH_BODY_BYTES, DATA_START, HardState, Kind, Record, SegmentHeader
from zraft.storage.index import BatchIndex, Place
from zraft.storage.meta import Meta
from zraft.storage.segment import Tail, segment_path

Progress = Callable[[int, int], None]

_RECORD_DAMAGED = "a record that was durable is damaged or missing"


class Recovered(NamedTuple):
    """The log as found. Everything in it is durable. `oldest`: number of its first segment. The tail's file is open."""

    batches: BatchIndex
    hard_state: HardState | None
    oldest: int
    tail: Tail


def read_header(disk: Disk, path: str) -> SegmentHeader:
    """The header of a segment. Raises `CorruptLog`, `UnsupportedVersion`, `OSError`."""
    handle = disk.open(path)
    try:
        header = layout.decode_header(disk.read(handle, 0, layout.HEADER_BYTES))
    except layout.UnknownVersion as error:
        raise UnsupportedVersion(
            f"{path}: format version {error.version}, but this zraft knows only {layout.VERSION}: "
            "start the version that wrote it"
        ) from error
    finally:
        disk.close(handle)
    if header is None:
        raise corrupt(path, 0, "the segment's header is damaged")
    return header


def recover(disk: Disk, directory: str, meta: Meta, numbers: list[int], on_progress: Progress | None) -> Recovered:
    """Read all segments (`numbers`: ascending, at least one), cut a torn tail and make the rest durable.

    The oldest may be missing, for they were compacted: what is left begins with any batch, whose first entry is the
    base. A batch that begins below that one replaced it once, and is the beginning in its place.

    `on_progress(done, total)`: segments. Raises `CorruptLog`, `UnsupportedVersion`, `OSError`.
    """
    return _Recovery(disk, directory, meta, numbers).run(on_progress)


class _Recovery:
    def __init__(self, disk: Disk, directory: str, meta: Meta, numbers: list[int]) -> None:
        self._disk = disk
        self._directory = directory
        self._meta = meta
        self._numbers = numbers
        self._index = BatchIndex()
        self._hard_state: HardState | None = None
        self._crc = layout.first_seed(meta.store_id)
        self._previous_end = 0
        self._durable_claim = DATA_START
        self._base_is_known = True

    def run(self, on_progress: Progress | None) -> Recovered:
        numbers = range(self._numbers[0], self._numbers[-1] + 1)
        paths = [segment_path(self._directory, number) for number in numbers]
        for number, path in zip(numbers, paths, strict=True):
            if number not in self._numbers:
                raise corrupt(path, 0, "the segment's file is missing")
        headers = [read_header(self._disk, path) for path in paths]
        if numbers[0] > 1:
            self._begin_behind_compacted(headers[0])
        for position, path in enumerate(paths[:-1]):
            if on_progress is not None:
                on_progress(position, len(paths))
            self._check_header(path, numbers[position], headers[position])
            self._read_sealed(path, numbers[position], headers[position + 1].previous_end)
        if on_progress is not None:
            on_progress(len(paths) - 1, len(paths))
        self._check_header(paths[-1], numbers[-1], headers[-1])
        tail = self._read_last(paths[-1], numbers[-1])
        if on_progress is not None:
            on_progress(len(paths), len(paths))
        return Recovered(self._index, self._hard_state, numbers[0], tail)

    def _begin_behind_compacted(self, header: SegmentHeader) -> None:
        """The oldest segment left says what came before it."""
        self._crc = header.seed
        self._previous_end = header.previous_end
        self._hard_state = header.hard_state
        self._base_is_known = False

    def _check_header(self, path: str, number: int, header: SegmentHeader) -> None:
        """The header must continue exactly what was read so far."""
        meta = self._meta
        if header.store_id != meta.store_id or header.cluster_id not in (0, meta.cluster_id):
            raise corrupt(path, 0, "the segment belongs to another store")
        if header != SegmentHeader(
            number, meta.store_id, header.cluster_id, self._previous_end, self._crc, self._hard_state
        ):
            raise corrupt(path, 0, "the segment does not continue the one before it")

    def _read_sealed(self, path: str, number: int, end: int) -> None:
        """All of a segment with a successor is durable up to `end`; what lies behind was never acknowledged."""
        handle = self._disk.open(path)
        try:
            data = self._disk.read(handle, 0, end)
        finally:
            self._disk.close(handle)
        found = self._scan(path, number, data)
        if found != end:
            raise corrupt(path, found, _RECORD_DAMAGED)
        self._previous_end = end

    def _read_last(self, path: str, number: int) -> Tail:
        handle = self._disk.open(path)
        try:
            capacity = self._disk.size(handle)
            data = self._disk.read(handle, 0, capacity)
            tail = Tail(self._directory, self._meta.store_id, number, handle, capacity, self._crc)
            tail.end = self._scan(path, number, data)
            tail.crc = self._crc
            self._settle(tail, data)
            return tail
        except BaseException:
            self._disk.close(handle)
            raise

    def _settle(self, tail: Tail, data: bytes) -> None:
        """Tell a torn tail from damage, then make what is valid durable.

        The bytes that no mark vouches for are written again before the sync: they may be in the page cache alone, and
        after a failed fsync in a former life of this process the kernel may hold them for clean and sync nothing.
        """
        mark = layout.decode_mark(data[layout.MARK_OFFSET : layout.MARK_OFFSET + layout.MARK_BYTES], tail.identity)
        if self._index.base == (0, 0) and not self._base_is_known:
            raise corrupt(tail.path, tail.end, "older segments are gone, and no entry is left that the log begins with")
        leftover_end = layout.content_end(data, tail.end)
        behind = layout.durable_claim(data, tail.end, leftover_end, tail.identity)
        if max(mark, behind) > tail.end:
            raise corrupt(tail.path, tail.end, _RECORD_DAMAGED)
        if len(data) < DATA_START:
            raise corrupt(tail.path, len(data), "the segment's file was shortened")
        durable = max(mark, self._durable_claim)
        unsure = data[durable : tail.end] + bytes(leftover_end - tail.end)
        if unsure:
            self._disk.write(tail.handle, durable, [unsure])
        self._disk.sync(tail.handle)
        try:
            self._disk.write(tail.handle, layout.MARK_OFFSET, [layout.encode_mark(tail.end, tail.identity)])
        except OSError as error:  # a hint for the next start, which no full disk shall cost this one
            if not is_full(error):
                raise
        self._disk.sync_directory(self._directory)

    def _scan(self, path: str, number: int, data: bytes) -> int:
        """Take in the chained records of `data`. Returns the offset of the first that is not."""
        identity = layout.identity_of(self._meta.store_id, number)
        offset = DATA_START
        self._durable_claim = DATA_START
        while (record := layout.record_at(data, offset, identity, self._crc)) is not None:
            self._take(path, number, offset, data, record)
            self._durable_claim = record.durable
            self._crc = record.crc
            offset = record.end
        return offset

    def _take(self, path: str, number: int, offset: int, data: bytes, record: Record) -> None:
        try:
            if record.kind == Kind.BATCH:
                self._take_batch(number, offset, data, record)
            elif record.kind == Kind.HARD_STATE:
                self._hard_state = layout.hard_state_of(data, record)
            elif record.kind == Kind.RESET:
                self._index.reset(*layout.reset_of(data, record), number)
                self._base_is_known = True
            else:
                raise layout.UnknownVersion(record.kind)
        except ImpossibleState as error:
            raise corrupt(path, offset, str(error)) from error
        except layout.UnknownVersion as error:
            raise UnsupportedVersion(
                f"{path}: a record of unknown kind {record.kind} or flags at byte {offset}: "
                "start the version that wrote it"
            ) from error

    def _take_batch(self, number: int, offset: int, data: bytes, record: Record) -> None:
        first_index, term, count, marked = layout.batch_fields(data, record)
        place = Place(first_index, count, term, number, offset, record.length - BATCH_BODY_BYTES, self._crc, marked)
        if not self._base_is_known and (not len(self._index) or first_index <= self._index.base[0]):
            self._index.begin_with(place)
        else:
            self._index.add(place)
