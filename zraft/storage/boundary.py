"""A disk on which the actor that uses it can be killed before any operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from zraft.storage.disk import Disk


class BoundaryDisk:
    """Passes everything on to `disk`, and through `boundary` before each operation that changes it."""

    def __init__(self, disk: Disk, boundary: Callable[[], None]) -> None:
        self._disk = disk
        self._boundary = boundary
        self.make_directory = disk.make_directory
        self.list_directory = disk.list_directory
        self.lock = disk.lock
        self.open = disk.open
        self.close = disk.close
        self.size = disk.size
        self.read = disk.read

    def create(self, path: str) -> int:
        """See Disk."""
        self._boundary()
        return self._disk.create(path)

    def write(self, handle: int, offset: int, parts: Sequence[bytes]) -> None:
        """See Disk."""
        self._boundary()
        self._disk.write(handle, offset, parts)

    def sync(self, handle: int) -> None:
        """See Disk."""
        self._boundary()
        self._disk.sync(handle)

    def sync_directory(self, path: str) -> None:
        """See Disk."""
        self._boundary()
        self._disk.sync_directory(path)

    def rename(self, source: str, target: str) -> None:
        """See Disk."""
        self._boundary()
        self._disk.rename(source, target)

    def unlink(self, path: str) -> None:
        """See Disk."""
        self._boundary()
        self._disk.unlink(path)
