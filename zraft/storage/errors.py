"""The ways in which a data directory can be unusable. Each message says what, where, and what to do."""

from __future__ import annotations

import errno

from zraft.errors import StorageError

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class DirectoryInUse(StorageError):
    """Another process (or another log in this one) holds the lock of the data directory."""


class CorruptLog(StorageError):
    """Bytes that were durable once are missing or changed. Nothing was cut and nothing was written."""


class CorruptSnapshot(StorageError):
    """A snapshot's bytes are not those that were written. It is of no use; another one may be."""


class DiskFull(StorageError):
    """No space (ENOSPC, EDQUOT). Nothing of the call counts as written; the same call may be tried again later.

    As with any write that was in flight, a crash before the next successful append may leave some of it in the log.
    """


class SyncFailed(StorageError):
    """An fsync or another disk operation failed: the log object is dead and every later call raises.

    Never retried: after a failed fsync the kernel may call the lost pages clean (Rebello et al. 2020; trap 20).
    """


class WrongNode(StorageError):
    """The data directory belongs to another node id."""


class WrongCluster(StorageError):
    """The data directory belongs to another cluster id."""


class UnsupportedVersion(StorageError):
    """A file was written in a format that this version of zraft does not know."""


def is_full(error: OSError) -> bool:
    """Whether `error` says that there is no space left, so that trying again later makes sense."""
    return error.errno in _FULL


def corrupt(path: str, offset: int, what: str) -> CorruptLog:
    """Build the error for damaged durable bytes: ``raise corrupt(path, 8192, "bad checksum")``."""
    return CorruptLog(
        f"{path}: corrupt at byte {offset}: {what}; this node would forget what it promised, so it does not start: "
        "check the disk, then remove this node from the cluster, delete its data directory and add it again"
    )
