"""A `zraft.storage.Disk` in memory, for tests of actors. An actor's death loses nothing that was written.

What a crash of the machine can leave is the matter of the tests of storage.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence


class MemoryDisk:
    """`before(operation)` may raise instead of an operation that changes something. `syncs` counts file syncs."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.handles: dict[int, bytearray] = {}
        self.locks: dict[str, int] = {}
        self.syncs = 0
        self.before: Callable[[str], None] = lambda operation: None
        self._last_handle = 2

    def _open(self, content: bytearray) -> int:
        self._last_handle += 1
        self.handles[self._last_handle] = content
        return self._last_handle

    def make_directory(self, path: str) -> None:
        self.before("make_directory")

    def list_directory(self, path: str) -> list[str]:
        return [os.path.basename(name) for name in self.files if os.path.dirname(name) == path]

    def sync_directory(self, path: str) -> None:
        self.before("sync_directory")

    def lock(self, path: str) -> int:
        if path in self.locks:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        self.locks[path] = self._open(self.files.setdefault(path, bytearray()))
        return self.locks[path]

    def create(self, path: str) -> int:
        self.before("create")
        self.files[path] = bytearray()
        return self._open(self.files[path])

    def open(self, path: str) -> int:
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self._open(self.files[path])

    def close(self, handle: int) -> None:
        del self.handles[handle]
        self.locks = {path: holder for path, holder in self.locks.items() if holder != handle}

    def size(self, handle: int) -> int:
        return len(self.handles[handle])

    def read(self, handle: int, offset: int, length: int) -> bytes:
        return bytes(self.handles[handle][offset : offset + length])

    def write(self, handle: int, offset: int, parts: Sequence[bytes]) -> None:
        self.before("write")
        content, data = self.handles[handle], b"".join(parts)
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def sync(self, handle: int) -> None:
        self.before("sync")
        self.syncs += 1

    def rename(self, source: str, target: str) -> None:
        self.before("rename")
        self.files[target] = self.files.pop(source)

    def unlink(self, path: str) -> None:
        self.before("unlink")
        del self.files[path]
