"""The one door to the file system. `RealDisk` is the real one; tests and the simulator bring their own."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Protocol


class Disk(Protocol):
    """What the log needs of a disk. A handle is an int; every method raises `OSError` when it fails.

    Nothing but `sync` makes bytes durable, and nothing but `sync_directory` makes names durable.
    """

    def make_directory(self, path: str) -> None:
        """Create `path` and its missing parents durably. No error if it exists."""

    def list_directory(self, path: str) -> list[str]:
        """The names in the directory, in any order."""

    def sync_directory(self, path: str) -> None:
        """Make the directory's present names durable."""

    def lock(self, path: str) -> int:
        """Lock the file at `path` (created if missing) for this handle alone; write the process id into it, in decimal.

        Raises `BlockingIOError` if another handle holds it. `close` of the handle, or the end of the process, lets go.
        """

    def create(self, path: str) -> int:
        """Open a new, empty file for reading and writing; what was at `path` is emptied."""

    def open(self, path: str) -> int:
        """Open an existing file for reading and writing. Raises `FileNotFoundError`."""

    def close(self, handle: int) -> None:
        """Let go of the handle. Syncs nothing."""

    def size(self, handle: int) -> int:
        """Length of the file in bytes."""

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; fewer only where the file ends."""

    def write(self, handle: int, offset: int, parts: Sequence[bytes]) -> None:
        """Write all parts, one after the other, from `offset`. If it raises, any of the bytes may be written."""

    def sync(self, handle: int) -> None:
        """Make the file's bytes, and the size needed to read them, durable."""

    def rename(self, source: str, target: str) -> None:
        """Give the file another name, replacing what has that name, atomically."""

    def unlink(self, path: str) -> None:
        """Remove the name."""


def _choose_sync() -> Callable[[int], None]:
    """The call that reaches the medium: on macOS plain fsync stops at the drive's cache, F_FULLFSYNC does not."""
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if full_sync is not None:

        def sync_to_medium(handle: int) -> None:
            fcntl.fcntl(handle, full_sync)

        return sync_to_medium
    return getattr(os, "fdatasync", os.fsync)


class RealDisk:
    """`Disk` on the operating system's files."""

    def __init__(self) -> None:
        self.sync: Callable[[int], None] = _choose_sync()

    def make_directory(self, path: str) -> None:
        path = os.path.abspath(path)
        if os.path.isdir(path):
            return
        parent = os.path.dirname(path)
        self.make_directory(parent)
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        self.sync_directory(parent)

    def list_directory(self, path: str) -> list[str]:
        return os.listdir(path)

    def sync_directory(self, path: str) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def lock(self, path: str) -> int:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(OSError):  # the holder's name is for people; a full disk must not be what stops a node
                os.ftruncate(handle, 0)
                os.pwrite(handle, str(os.getpid()).encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def create(self, path: str) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)

    def open(self, path: str) -> int:
        return os.open(path, os.O_RDWR)

    def close(self, handle: int) -> None:
        os.close(handle)

    def size(self, handle: int) -> int:
        return os.fstat(handle).st_size

    def read(self, handle: int, offset: int, length: int) -> bytes:
        data = os.pread(handle, length, offset)
        if len(data) == length:
            return data
        parts = [data]
        have = len(data)
        while data and have < length:
            data = os.pread(handle, length - have, offset + have)
            parts.append(data)
            have += len(data)
        return b"".join(parts)

    def write(self, handle: int, offset: int, parts: Sequence[bytes]) -> None:
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        written = os.pwrite(handle, data, offset)
        while written < len(data):
            written += os.pwrite(handle, memoryview(data)[written:], offset + written)

    def rename(self, source: str, target: str) -> None:
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)
