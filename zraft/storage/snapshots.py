"""The snapshot files of a node: written beside, verified, synced, renamed; the two newest are kept (DESIGN section 5).

Their owner is one thread, not the log's: the large fsync of a snapshot must stall no append. The bytes are verified as
they are written and all of them again at a start; whoever restores or receives them verifies them once more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal, NamedTuple

from zraft.errors import StorageError, impossible
from zraft.storage.disk import Disk
from zraft.storage.errors import CorruptSnapshot, DiskFull, SyncFailed, UnsupportedVersion, is_full
from zraft.storage.snapshot_format import SnapshotHeader, SnapshotParser

Kind = Literal["local", "received"]
KINDS: tuple[Kind, ...] = ("local", "received")
Progress = Callable[[int, int], None]

SYNC_EVERY_BYTES = 4 * 1024 * 1024
VERIFY_BYTES = 1024 * 1024
KEPT_SNAPSHOTS = 2
MAX_INDEX = 10**16 - 1

_NAME = re.compile(r"[0-9]{16}\.snapshot")


class SnapshotInfo(NamedTuple):
    """A whole and valid snapshot on disk. `size`: of its file, in bytes."""

    header: SnapshotHeader
    size: int


class _Unfinished:
    """A file that is being written, and what has been verified of it. `unsynced`: bytes since the last sync."""

    __slots__ = ("handle", "index", "parser", "path", "size", "unsynced")

    def __init__(self, path: str, index: int, handle: int) -> None:
        self.path = path
        self.index = index
        self.handle = handle
        self.parser = SnapshotParser()
        self.size = 0
        self.unsynced = 0

    def info(self) -> SnapshotInfo:
        """Of the finished file. Raises `CorruptSnapshot` if it is not whole."""
        return _whole(self.parser, self.index, self.size)


class _Reading:
    """A finished file that is open for readers. `used`: somebody read since the last snapshot was finished."""

    __slots__ = ("handle", "size", "used")

    def __init__(self, handle: int, size: int) -> None:
        self.handle = handle
        self.size = size
        self.used = True


class SnapshotStore:
    """The snapshots in a node's data directory. Made by `open`, while the log holds the directory's lock.

    `damaged`: one line for each file that was found to be no whole snapshot. After a `SyncFailed` every call raises it.
    """

    def __init__(self, disk: Disk, directory: str, indexes: list[int]) -> None:
        self.damaged: list[str] = []
        self._disk = disk
        self._directory = directory
        self._unchecked = indexes  # of files that nobody verified yet, ascending
        self._valid: dict[int, SnapshotInfo] = {}
        self._unfinished: dict[Kind, _Unfinished] = {}
        self._readings: dict[int, _Reading] = {}  # the least recently used first
        self._dead: str | None = None

    @classmethod
    def open(cls, disk: Disk, directory: str, on_progress: Progress | None = None) -> SnapshotStore:
        """Find the newest valid snapshot; remove what unfinished ones left. The directory is made if it is missing.

        `on_progress(done, total)`: bytes of the file that is being verified. A damaged file is noted in `damaged` and
        the next older one is taken. Raises `UnsupportedVersion`, `StorageError`.
        """
        try:
            disk.make_directory(directory)
            names = disk.list_directory(directory)
            for kind in KINDS:
                if _unfinished_name(kind) in names:
                    disk.unlink(os.path.join(directory, _unfinished_name(kind)))
            # A crash of the process alone may leave a finished snapshot whose name is not durable yet.
            disk.sync_directory(directory)
            store = cls(disk, directory, sorted(int(name[:16]) for name in names if _NAME.fullmatch(name)))
            store._check_until(1, on_progress)
        except OSError as error:
            raise StorageError(
                f"{directory}: cannot open the snapshots: {error}: check path, owner and disk"
            ) from error
        return store

    @property
    def newest(self) -> SnapshotInfo | None:
        """The valid snapshot of the largest index."""
        return self._at(0)

    @property
    def older(self) -> SnapshotInfo | None:
        """The second newest valid snapshot. The first call after `open` reads and verifies all of it."""
        self._require_alive()
        with self._guard("reading", self._directory):
            self._check_until(KEPT_SNAPSHOTS, None)
        return self._at(1)

    def begin(self, kind: Kind, index: int) -> None:
        """Start a new unfinished file of that kind, which drops an old one. Raises `DiskFull`, `SyncFailed`."""
        self._require_alive()
        if not 1 <= index <= MAX_INDEX:
            raise impossible("not the index of a snapshot", index=index)
        path = os.path.join(self._directory, _unfinished_name(kind))
        with self._guard("creating", path, dropped=kind):
            self._drop(kind)
            self._unfinished[kind] = _Unfinished(path, index, self._disk.create(path))

    def write(self, kind: Kind, data: bytes) -> int:
        """Append to the unfinished file of that kind and return its bytes so far. Verifies before it writes.

        After `CorruptSnapshot`, `UnsupportedVersion` and `DiskFull` the unfinished file is gone. Raises these and
        `SyncFailed`.
        """
        unfinished = self._unfinished_of(kind)
        with self._guard("writing", unfinished.path, dropped=kind):
            unfinished.parser.feed(data)
            header = unfinished.parser.header
            if header is not None and header.index != unfinished.index:
                raise CorruptSnapshot(f"snapshot of index {header.index}, not {unfinished.index} as announced")
            self._disk.write(unfinished.handle, unfinished.size, [data])
            unfinished.size += len(data)
            unfinished.unsynced += len(data)
            if unfinished.unsynced >= SYNC_EVERY_BYTES:
                self._disk.sync(unfinished.handle)
                unfinished.unsynced = 0
        return unfinished.size

    def finish(self, kind: Kind) -> SnapshotInfo:
        """Make the unfinished file of that kind durable under its final name, then remove all but the two newest.

        One of the same index is replaced; two of larger indexes outlive this one. Raises as `write` does,
        `CorruptSnapshot` also if the file is not whole.
        """
        unfinished = self._unfinished_of(kind)
        path = self._path(unfinished.index)
        with self._guard("writing", unfinished.path, dropped=kind):
            info = unfinished.info()
            self._disk.sync(unfinished.handle)
            self._disk.rename(unfinished.path, path)
        del self._unfinished[kind]
        self._disk.close(unfinished.handle)
        with self._guard("finishing", path):
            self._disk.sync_directory(self._directory)
            self._take_in(info)
            self._remove_superfluous()
        return info

    def read(self, index: int, offset: int, max_bytes: int) -> tuple[bytes, int]:
        """(bytes from `offset` on, size of the file); (b"", 0) if there is no such snapshot. Index 0: the newest.

        The file stays readable after its removal for a reader that goes on. Raises `SyncFailed`.
        """
        self._require_alive()
        index = index or max(self._valid, default=0)
        with self._guard("reading", self._path(index)):
            reading = self._readings.pop(index, None) or self._open_reading(index)
            if reading is None:
                return b"", 0
            self._readings[index] = reading
            reading.used = True
            if offset >= reading.size:  # a stranger's offset may be larger than the operating system takes
                return b"", reading.size
            return self._disk.read(reading.handle, offset, max_bytes), reading.size

    def close(self) -> None:
        """Let go of the files. What is unfinished is removed at the next start. May be called again."""
        self._dead = self._dead or "closed"
        for unfinished in self._unfinished.values():
            self._disk.close(unfinished.handle)
        for reading in self._readings.values():
            self._disk.close(reading.handle)
        self._unfinished.clear()
        self._readings.clear()

    # --- what is there

    def _path(self, index: int) -> str:
        return os.path.join(self._directory, f"{index:016d}.snapshot")

    def _at(self, position: int) -> SnapshotInfo | None:
        """The valid snapshot at that position, the newest first."""
        indexes = sorted(self._valid, reverse=True)
        return self._valid[indexes[position]] if position < len(indexes) else None

    def _check_until(self, count: int, on_progress: Progress | None) -> None:
        """Verify files, the newest first, until the `count` newest valid ones are known."""
        while self._unchecked:
            index = self._unchecked[-1]
            if sum(valid > index for valid in self._valid) >= count:
                return
            try:
                self._valid[index] = self._check(index, on_progress)
            except CorruptSnapshot as error:
                self.damaged.append(f"{self._path(index)}: {error}: it is not used")
            except UnsupportedVersion as error:
                raise UnsupportedVersion(f"{self._path(index)}: {error}") from error
            self._unchecked.pop()

    def _check(self, index: int, on_progress: Progress | None) -> SnapshotInfo:
        """Read and verify a whole file. Raises `CorruptSnapshot`, `UnsupportedVersion`, `OSError`."""
        parser = SnapshotParser()
        handle = self._disk.open(self._path(index))
        try:
            size = self._disk.size(handle)
            for offset in range(0, size, VERIFY_BYTES):
                if on_progress is not None:
                    on_progress(offset, size)
                parser.feed(self._disk.read(handle, offset, VERIFY_BYTES))
        finally:
            self._disk.close(handle)
        if on_progress is not None:
            on_progress(size, size)
        return _whole(parser, index, size)

    def _take_in(self, info: SnapshotInfo) -> None:
        """A finished file has its name. Readers of one that it replaced go on in it: equal state is equal bytes."""
        index = info.header.index
        self._valid[index] = info
        with suppress(ValueError):
            self._unchecked.remove(index)
        replaced = self._readings.pop(index, None)
        if replaced is not None:
            self._disk.close(replaced.handle)

    def _remove_superfluous(self) -> None:
        """Unlink all but the newest valid ones, and let go of files that nobody has read for long."""
        self._check_until(KEPT_SNAPSHOTS, None)
        kept = sorted(self._valid, reverse=True)[:KEPT_SNAPSHOTS]
        for name in sorted(self._disk.list_directory(self._directory)):
            if _NAME.fullmatch(name) and int(name[:16]) not in kept:
                self._disk.unlink(os.path.join(self._directory, name))
        self._valid = {index: self._valid[index] for index in kept}
        self._unchecked = []
        idle = [index for index, reading in self._readings.items() if not reading.used]
        removed = [index for index in self._readings if index not in kept and index not in idle]
        for index in idle + removed[:-KEPT_SNAPSHOTS]:
            self._disk.close(self._readings.pop(index).handle)
        for reading in self._readings.values():
            reading.used = False

    def _open_reading(self, index: int) -> _Reading | None:
        if index in self._unchecked:
            self._check_until(KEPT_SNAPSHOTS, None)
        info = self._valid.get(index)
        return None if info is None else _Reading(self._disk.open(self._path(index)), info.size)

    # --- what is being written

    def _unfinished_of(self, kind: Kind) -> _Unfinished:
        self._require_alive()
        unfinished = self._unfinished.get(kind)
        if unfinished is None:
            raise impossible("no snapshot of this kind is being written", kind=kind)
        return unfinished

    def _drop(self, kind: Kind) -> None:
        """Remove the unfinished file of that kind, if there is one. Raises `OSError`."""
        unfinished = self._unfinished.pop(kind, None)
        if unfinished is not None:
            self._disk.close(unfinished.handle)
            self._disk.unlink(unfinished.path)

    def _drop_or_die(self, kind: Kind) -> None:
        try:
            self._drop(kind)
        except OSError as error:
            raise self._die("removing", self._directory, error) from error

    @contextmanager
    def _guard(self, doing: str, path: str, dropped: Kind | None = None) -> Iterator[None]:
        """What goes wrong becomes a `StorageError`. `dropped`: the unfinished file that damage or a full disk costs.

        Even a sync may find the disk full: nobody was promised anything of an unfinished file, so it can be given up.
        """
        try:
            yield
        except (CorruptSnapshot, UnsupportedVersion):
            if dropped is not None:
                self._drop_or_die(dropped)
            raise
        except OSError as error:
            if dropped is None or not is_full(error):
                raise self._die(doing, path, error) from error
            self._drop_or_die(dropped)
            raise DiskFull(f"{path}: no space ({error}): no snapshot was made: free some space") from error
        except BaseException:
            self._dead = "interrupted in an operation"
            raise

    def _die(self, doing: str, path: str, error: OSError) -> SyncFailed:
        self._dead = f"{doing} {path} failed: {error}"
        return SyncFailed(
            f"{self._dead}: what is on disk is unknown now, so this node stops: check the disk, then start it again"
        )

    def _require_alive(self) -> None:
        if self._dead is not None:
            raise SyncFailed(f"{self._directory}: the snapshots take no more calls: {self._dead}")


def _whole(parser: SnapshotParser, index: int, size: int) -> SnapshotInfo:
    """Of a file whose `size` bytes were parsed. Raises `CorruptSnapshot` if it is not the whole snapshot `index`."""
    header = parser.header
    if header is None or not parser.complete:
        raise CorruptSnapshot(f"snapshot stops after {size} bytes, before its end")
    if header.index != index:
        raise CorruptSnapshot(f"snapshot of index {header.index} under the name of {index}")
    return SnapshotInfo(header, size)


def _unfinished_name(kind: Kind) -> str:
    return f"snapshot.unfinished.{kind}"
