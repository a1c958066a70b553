"""A disk in memory, in virtual time: what is durable when, and what a crash at any moment leaves.

Model: a write changes what is read at once, and is durable when a sync of its file that was issued after it has
completed. Operations take time; each is noted with the moment of its issue. A crash at time T undoes what was issued
after T. If only the process died, the rest stays, as in a page cache. If power failed, each 512-byte sector that no
completed sync covers is kept or lost on its own, and of the names that no completed directory sync covers some are.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Sequence
from random import Random

from zraft.sim.scheduler import Scheduler

SECTOR_BYTES = 512
NEVER_US = 1 << 62
"""'Durable at' of what a failed sync left: Linux calls such pages clean, so that no later sync writes them."""
WRITE_US = 10


class File:
    """`view`: what is read. `pending`: [issued_us, durable_us or None, offset, data] of writes not yet in `durable`."""

    __slots__ = ("durable", "path", "pending", "view")

    def __init__(self) -> None:
        self.path = ""
        self.durable = bytearray()
        self.view = bytearray()
        self.pending: list[tuple[int, int | None, int, bytes]] = []

    def fold(self, now_us: int) -> None:
        """Move what has become durable, as far as order allows."""
        count = 0
        for _, durable_us, offset, data in self.pending:
            if durable_us is None or durable_us > now_us:
                break
            put(self.durable, offset, data)
            count += 1
        if count:
            del self.pending[:count]

    def crash(self, now_us: int, power: bool, rng: Random) -> None:
        """Become what a crash leaves."""
        writes = [write for write in self.pending if write[0] <= now_us]
        if power:
            chance = rng.choice((0.0, 1.0, 0.5))
            for _, durable_us, offset, data in writes:
                if durable_us is not None and durable_us <= now_us:
                    put(self.durable, offset, data)
                    continue
                for start, sector in sectors(offset, data):
                    if rng.random() < chance:
                        put(self.durable, start, sector)
            writes = []
        self.pending = [
            (issued, durable if durable is None or durable <= now_us or durable == NEVER_US else None, offset, data)
            for issued, durable, offset, data in writes
        ]
        self.view = bytearray(self.durable)
        for _, _, offset, data in self.pending:
            put(self.view, offset, data)


def put(target: bytearray, offset: int, data: bytes) -> None:
    """Write into a file's bytes; a gap reads as zeros."""
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


def sectors(offset: int, data: bytes) -> list[tuple[int, bytes]]:
    """A write, cut where sectors end."""
    parts = []
    begin = 0
    while begin < len(data):
        end = begin + SECTOR_BYTES - (offset + begin) % SECTOR_BYTES
        parts.append((offset + begin, data[begin:end]))
        begin = end
    return parts


class SimDisk:
    """`storage.Disk` of one machine. Faults are attributes that `faults` sets; `counts` says which took effect."""

    def __init__(self, scheduler: Scheduler, rng: Random, sync_us: int, counts: Counter[str]) -> None:
        self.elapsed_us = 0  # that the present handler has spent here; its host begins it at 0
        self.factor = 1  # slower by
        self.stalled_until_us = 0
        self.full_until_us = 0
        self.full_for_overwrites = False  # as on a copy-on-write file system
        self.failing_syncs = 0  # so many of the next ones fail
        self._scheduler = scheduler
        self._rng = rng
        self._sync_us = sync_us
        self._counts = counts
        self._next_handle = 3
        self._forget_all()

    def _forget_all(self) -> None:
        self._names: dict[str, File] = {}
        self._durable_names: dict[str, File] = {}
        self._name_changes: list[tuple[int, int | None, str, str, File | None]] = []
        self._handles: dict[int, File] = {}
        self._locked: dict[int, int] = {}  # id of a File -> handle

    # --- time and faults

    @property
    def now_us(self) -> int:
        """The moment at which the next operation is issued."""
        return self._scheduler.now_us + self.elapsed_us

    def _spend(self, mean_us: int) -> None:
        self.elapsed_us += int(mean_us * self.factor * (0.5 + self._rng.random()))
        wait_us = self.stalled_until_us - self._scheduler.now_us - self.elapsed_us
        if wait_us > 0:
            self._counts["stalled-disk"] += 1
            self.elapsed_us += wait_us
        elif self.factor > 1:
            self._counts["slow-disk"] += 1

    def _is_full(self, file: File, end: int) -> bool:
        if self.now_us >= self.full_until_us:
            return False
        return self.full_for_overwrites or end > len(file.view)

    # --- Disk

    def make_directory(self, path: str) -> None:
        """See Disk: the one directory of a node is there from the beginning."""

    def list_directory(self, path: str) -> list[str]:
        """See Disk."""
        return [os.path.basename(name) for name in self._names]

    def sync_directory(self, path: str) -> None:
        """See Disk."""
        began_us = self.now_us
        self._spend(self._sync_us)
        done_us = self.now_us
        self._name_changes = [
            (issued, done_us if durable is None and issued <= began_us else durable, name, source, file)
            for issued, durable, name, source, file in self._name_changes
        ]
        self._fold_names()

    def lock(self, path: str) -> int:
        """See Disk."""
        file = self._names.get(path)
        if file is None:
            file = self._new(path)
        if id(file) in self._locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        handle = self._open(file)
        self._locked[id(file)] = handle
        return handle

    def create(self, path: str) -> int:
        """See Disk."""
        return self._open(self._new(path))

    def open(self, path: str) -> int:
        """See Disk."""
        file = self._names.get(path)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self._open(file)

    def close(self, handle: int) -> None:
        """See Disk."""
        file = self._handles.pop(handle)
        if self._locked.get(id(file)) == handle:
            del self._locked[id(file)]

    def size(self, handle: int) -> int:
        """See Disk."""
        return len(self._handles[handle].view)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """See Disk."""
        self.elapsed_us += WRITE_US
        return bytes(self._handles[handle].view[offset : offset + length])

    def write(self, handle: int, offset: int, parts: Sequence[bytes]) -> None:
        """See Disk."""
        file = self._handles[handle]
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        issued_us = self._scheduler.now_us + self.elapsed_us
        self.elapsed_us += WRITE_US + len(data) // 1_000
        if issued_us < self.full_until_us and self._is_full(file, offset + len(data)):
            self._counts["full-disk"] += 1
            data = data[: len(data) * 2 // 3]
            put(file.view, offset, data)
            file.pending.append((issued_us, None, offset, data))
            raise OSError(errno.ENOSPC, "no space left on device")
        put(file.view, offset, data)
        file.pending.append((issued_us, None, offset, data))

    def sync(self, handle: int) -> None:
        """See Disk."""
        file = self._handles[handle]
        self._spend(self._sync_us)
        done_us = self.now_us
        if self.failing_syncs:
            self.failing_syncs -= 1
            self._counts["failing-sync"] += 1
            done_us = NEVER_US
        file.pending = [
            (issued, done_us if durable is None else durable, offset, data)
            for issued, durable, offset, data in file.pending
        ]
        if done_us == NEVER_US:
            raise OSError(errno.EIO, "input/output error")
        file.fold(self._scheduler.now_us)

    def rename(self, source: str, target: str) -> None:
        """See Disk."""
        self._change_name(target, source, self._names[source])

    def unlink(self, path: str) -> None:
        """See Disk."""
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._change_name(path, "", None)

    def _open(self, file: File) -> int:
        self._next_handle += 1
        self._handles[self._next_handle] = file
        return self._next_handle

    def _new(self, path: str) -> File:
        file = File()
        self._change_name(path, "", file)
        return file

    def _change_name(self, path: str, source: str, file: File | None) -> None:
        self._name_changes.append((self.now_us, None, path, source, file))
        apply_name(self._names, path, source, file)

    def _fold_names(self) -> None:
        count = 0
        for _, durable_us, path, source, file in self._name_changes:
            if durable_us is None or durable_us > self._scheduler.now_us:
                break
            apply_name(self._durable_names, path, source, file)
            count += 1
        del self._name_changes[:count]

    # --- what happens to it

    def crash(self, power: bool) -> None:
        """The process ended now, or (power) the machine. Handles and locks are gone."""
        now_us, rng = self._scheduler.now_us, self._rng
        files = {id(file): file for file in self._durable_names.values()}
        names = dict(self._durable_names)
        changes = [change for change in self._name_changes if change[0] <= now_us]
        in_order = rng.random() < 0.5
        kept_changes = []
        lost = False
        for issued, durable, path, source, file in changes:
            is_durable = durable is not None and durable <= now_us
            if power and not is_durable:
                lost = (lost and in_order) or rng.random() < 0.5
                if lost:
                    continue
            apply_name(names, path, source, file)
            kept_changes.append((issued, durable if is_durable else None, path, source, file))
            if file is not None:
                files[id(file)] = file
        for file in files.values():
            if file.pending:
                torn = power and any(durable is None or durable > now_us for _, durable, _, _ in file.pending)
                self._counts["torn-or-lost-writes"] += torn
                file.crash(now_us, power, rng)
        self._names = names
        self._durable_names = dict(names) if power else self._durable_names
        self._name_changes = [] if power else kept_changes
        self._handles = {}
        self._locked = {}

    def flip_bit(self, kind: str) -> bool:
        """Damage one bit of a log segment (kind ".wal") or of the newest snapshot (".snapshot"), where it has contents.
        False: there is none. The process is not running."""
        paths = sorted(path for path, file in self._names.items() if path.endswith(kind) and any(file.view))
        if not paths:
            return False
        file = self._names[self._rng.choice(paths) if kind == ".wal" else paths[-1]]
        places = [start for start in range(0, len(file.view), 64) if any(file.view[start : start + 64])]
        offset = self._rng.choice(places) + self._rng.randrange(64)
        if offset >= len(file.view):
            return False
        flipped = bytes([file.view[offset] ^ (1 << self._rng.randrange(8))])
        put(file.view, offset, flipped)
        file.pending.append((self._scheduler.now_us, self._scheduler.now_us, offset, flipped))
        return True

    def wipe(self) -> None:
        """An empty disk was put in its place. The process is not running."""
        self._forget_all()


def apply_name(names: dict[str, File], path: str, source: str, file: File | None) -> None:
    """Create or remove (file is None) a name, or rename source to it."""
    if source:
        names.pop(source, None)
    if file is None:
        names.pop(path, None)
    else:
        names[path] = file
