"""A disk that is slow, full or failing: what stands around the log's where a node's config says `chaos: true`."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from random import Random

from zraft.chaos.faults import Faults
from zraft.storage import Disk

LOOK_MS = 20
"""How often a slow operation looks whether it is still to be slow."""


class FaultyDisk:
    """Passes everything on to `disk`, unless `faults` has it otherwise: see `DiskRule`.

    sleep: takes seconds, and is called for some LOOK_MS at a time."""

    def __init__(self, disk: Disk, faults: Faults, rng: Random, sleep: Callable[[float], None] = time.sleep) -> None:
        self._disk = disk
        self._faults = faults
        self._rng = rng
        self._sleep = sleep
        self.make_directory = disk.make_directory
        self.list_directory = disk.list_directory
        self.lock = disk.lock
        self.create = disk.create
        self.open = disk.open
        self.close = disk.close
        self.size = disk.size
        self.read = disk.read
        self.rename = disk.rename
        self.unlink = disk.unlink

    def write(self, handle: int, offset: int, parts: Sequence[bytes]) -> None:
        """See Disk. A write that finds no space has written nothing."""
        self._slow_down()
        if self._faults.disk.full:
            raise OSError(errno.ENOSPC, "No space left on device, by an injected fault")
        self._disk.write(handle, offset, parts)

    def sync(self, handle: int) -> None:
        """See Disk."""
        self._slow_down()
        self._fail_sync()
        self._disk.sync(handle)

    def sync_directory(self, path: str) -> None:
        """See Disk."""
        self._slow_down()
        self._fail_sync()
        self._disk.sync_directory(path)

    def _slow_down(self) -> None:
        """Take the time that the rule says, or until there is another rule."""
        rule = self._faults.disk
        least_ms, most_ms = rule.slow_ms
        left_ms = self._rng.uniform(least_ms, most_ms)
        while left_ms > 0 and self._faults.disk is rule:
            self._sleep(min(left_ms, LOOK_MS) / 1000)
            left_ms -= LOOK_MS

    def _fail_sync(self) -> None:
        if self._faults.disk.fail_sync:
            raise OSError(errno.EIO, "Input/output error, by an injected fault")
