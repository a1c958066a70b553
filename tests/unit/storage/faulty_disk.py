"""A disk in memory that knows which bytes and names are durable, and fails where it is told to.

Model: bytes written since a file's last sync and names changed since the directory's last sync are pending. At a crash
each pending 512-byte sector is kept or lost on its own; of the pending name changes a prefix is kept (a journal), or
any of them (POSIX promises no order).
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

SECTOR_BYTES = 512
CRASH_MODES = ("lost", "kept", "names", "bytes", *(f"torn-{seed}" for seed in range(12)))


class Killed(BaseException):
    """The actor that owned the log was killed at a disk operation."""


class Inode:
    def __init__(self, durable: bytes = b"") -> None:
        self.path = ""  # its present name
        self.durable = durable
        self.view = bytearray(durable)
        self.pending: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        put(self.view, offset, data)
        self.pending.append((offset, data))


def put(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class MemoryDisk:
    """`before(operation, path)` may raise instead of the operation; `after()` is called behind each that changes."""

    def __init__(self) -> None:
        self.names: dict[str, Inode] = {}
        self.durable_names: dict[str, Inode] = {}
        self.pending_names: list[tuple[str, str, Inode | None]] = []
        self.handles: dict[int, Inode] = {}
        self.locked: dict[Inode, int] = {}
        self.before: Callable[[str, str], None] = lambda operation, path: None
        self.after: Callable[[], None] = lambda: None
        self.next_handle = 3
        self.operations: list[str] = []

    def _begin(self, operation: str, path: str) -> None:
        self.operations.append(f"{operation} {os.path.basename(path)}")
        self.before(operation, path)

    def _open(self, inode: Inode) -> int:
        self.next_handle += 1
        self.handles[self.next_handle] = inode
        return self.next_handle

    def _rename(self, path: str, inode: Inode | None, source: str = "") -> None:
        _apply_name(self.names, (path, source, inode))
        if inode is not None:
            inode.path = path
        self.pending_names.append((path, source, inode))

    def make_directory(self, path: str) -> None:
        self._begin("make_directory", path)

    def list_directory(self, path: str) -> list[str]:
        return [os.path.basename(name) for name in self.names if os.path.dirname(name) == path]

    def sync_directory(self, path: str) -> None:
        self._begin("sync_directory", path)
        self.durable_names = dict(self.names)
        self.pending_names = []
        self.after()

    def lock(self, path: str) -> int:
        self._begin("lock", path)
        inode = self.names.get(path)
        if inode is not None and inode in self.locked:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        if inode is None:
            inode = Inode()
            self._rename(path, inode)
        handle = self._open(inode)
        inode.write(0, b"4711")
        self.locked[inode] = handle
        self.after()
        return handle

    def create(self, path: str) -> int:
        self._begin("create", path)
        inode = Inode()
        self._rename(path, inode)
        self.after()
        return self._open(inode)

    def open(self, path: str) -> int:
        self._begin("open", path)
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self._open(self.names[path])

    def close(self, handle: int) -> None:
        inode = self.handles.pop(handle)
        if self.locked.get(inode) == handle:
            del self.locked[inode]

    def size(self, handle: int) -> int:
        return len(self.handles[handle].view)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        inode = self.handles[handle]
        self._begin("read", inode.path)
        return bytes(inode.view[offset : offset + length])

    def write(self, handle: int, offset: int, parts: Sequence[bytes]) -> None:
        inode = self.handles[handle]
        data = b"".join(parts)
        try:
            self._begin("write", inode.path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                inode.write(offset, data[: len(data) * 2 // 3])
            raise
        inode.write(offset, data)
        self.after()

    def sync(self, handle: int) -> None:
        inode = self.handles[handle]
        try:
            self._begin("sync", inode.path)
        except OSError:
            inode.pending = []  # as Linux does: the pages are called clean, and the next sync says yes
            raise
        inode.durable = _with(inode.durable, inode.pending)
        inode.pending = []
        self.after()

    def rename(self, source: str, target: str) -> None:
        self._begin("rename", target)
        self._rename(target, self.names[source], source)
        self.after()

    def unlink(self, path: str) -> None:
        self._begin("unlink", path)
        if path not in self.names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._rename(path, None)
        self.after()

    def image(self) -> Image:
        return Image(self)

    @contextmanager
    def failing(self, position: int, error: BaseException, only: Sequence[str] = ()) -> Iterator[list[str]]:
        """Raise `error` instead of operation number `position` (from 0; of the kinds `only`, if any are named).

        Yields a list that then names it.
        """
        count = 0
        hit: list[str] = []

        def before(operation: str, path: str) -> None:
            nonlocal count
            count += not only or operation in only
            if not hit and count == position + 1:
                hit.append(operation)
                raise error

        self.before = before
        try:
            yield hit
        finally:
            self.before = lambda operation, path: None


class Image:
    """What a crash at this moment can leave."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._names = dict(disk.durable_names)
        self._pending_names = list(disk.pending_names)
        inodes = {*disk.names.values(), *disk.durable_names.values()}
        inodes.update(inode for _, _, inode in disk.pending_names if inode is not None)
        self._contents = {inode: (inode.durable, list(inode.pending)) for inode in inodes}

    def after_crash(self, mode: str) -> MemoryDisk:
        """The disk as the next start finds it: `mode` is one of `CRASH_MODES`."""
        dice = random.Random(mode)
        names = dict(self._names)
        changes = [] if mode in ("lost", "bytes") else self._pending_names
        if mode.startswith("torn"):
            if dice.random() < 0.5:
                changes = changes[: dice.randint(0, len(changes))]
            else:
                changes = [change for change in changes if dice.random() < 0.5]
        for change in changes:
            _apply_name(names, change)
        disk = MemoryDisk()
        settled = {inode: Inode(self._settle(inode, mode, dice)) for inode in dict.fromkeys(names.values())}
        disk.names = {path: settled[inode] for path, inode in names.items()}
        for path, inode in disk.names.items():
            inode.path = path
        disk.durable_names = dict(disk.names)
        return disk

    def _settle(self, inode: Inode, mode: str, dice: random.Random) -> bytes:
        durable, pending = self._contents[inode]
        if mode in ("lost", "names"):
            return durable
        if mode in ("kept", "bytes"):
            return _with(durable, pending)
        return _with(durable, [part for part in _sectors(pending) if dice.random() < 0.5])


def _apply_name(names: dict[str, Inode], change: tuple[str, str, Inode | None]) -> None:
    path, source, inode = change
    if source:
        names.pop(source, None)
    if inode is None:
        names.pop(path, None)
    else:
        names[path] = inode


def _with(durable: bytes, writes: Sequence[tuple[int, bytes]]) -> bytes:
    content = bytearray(durable)
    for offset, data in writes:
        put(content, offset, data)
    return bytes(content)


def _sectors(writes: Sequence[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    for offset, data in writes:
        begin = 0
        while begin < len(data):
            end = begin + SECTOR_BYTES - (offset + begin) % SECTOR_BYTES
            yield offset + begin, data[begin:end]
            begin = end
