"""The next segment file, filled with zeros ahead of time so that starting it stalls no append.

Zeros are written, not fallocated: an extent that was only allocated makes the first fdatasync over it write metadata
(DESIGN section 5).
"""

from __future__ import annotations

import os

from zraft.storage.disk import Disk
from zraft.storage.errors import is_full

NAME = "spare"
SLICE_BYTES = 256 * 1024
_ZEROS = bytes(SLICE_BYTES)


class Spare:
    """Prepares one file at a time under the name `spare`; `take` gives it its header and its final name."""

    def __init__(self, disk: Disk, directory: str, segment_bytes: int) -> None:
        self._disk = disk
        self._path = os.path.join(directory, NAME)
        self._segment_bytes = segment_bytes
        self._handle: int | None = None
        self.prepared_bytes = 0

    def prepare_slice(self, target_bytes: int) -> bool:
        """Write and sync one more slice if less than `target_bytes` (at most a segment) are there.

        Returns whether it wrote one. A full disk is no error here: what is missing is made up for later.
        Raises `OSError`.
        """
        target_bytes = min(target_bytes, self._segment_bytes)
        if self.prepared_bytes >= target_bytes:
            return False
        try:
            self._extend(min(self.prepared_bytes + SLICE_BYTES, self._segment_bytes))
        except OSError as error:
            if not is_full(error):
                raise
            return False
        return True

    def take(self, path: str, minimum_bytes: int, header: bytes) -> int:
        """Make the spare ready, at least `minimum_bytes` long, and rename it to `path`. Returns its handle.

        The header is durable before the name can be, so a named segment with a bad header is damage, never a crash.
        The caller syncs the directory. Raises `OSError`; the spare stays usable then.
        """
        size = max(self._segment_bytes, minimum_bytes)
        while self.prepared_bytes < size:
            self._extend(min(self.prepared_bytes + SLICE_BYTES, size))
        handle = self._open()
        self._disk.write(handle, 0, [header])
        self._sync(handle)
        self._disk.rename(self._path, path)
        self._handle = None
        self.prepared_bytes = 0
        return handle

    def close(self) -> None:
        """Let go of the file. What is prepared is removed at the next start."""
        handle, self._handle = self._handle, None
        self.prepared_bytes = 0
        if handle is not None:
            self._disk.close(handle)

    def _open(self) -> int:
        if self._handle is None:
            self._handle = self._disk.create(self._path)
        return self._handle

    def _extend(self, size: int) -> None:
        handle = self._open()
        self._disk.write(handle, self.prepared_bytes, [_ZEROS[: size - self.prepared_bytes]])
        self._sync(handle)
        self.prepared_bytes = size

    def _sync(self, handle: int) -> None:
        """Sync, and begin a new file after a failure: what a failed fsync left of this one is anybody's guess."""
        try:
            self._disk.sync(handle)
        except OSError:
            self.close()
            raise
