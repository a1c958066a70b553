"""Bytes, checksums and fsync: the write-ahead log. Knows no Raft and no sockets.

Everything a node promises passes through here, so every class takes its `Disk` from outside: the tests crash it at
each single operation.
"""

from zraft.errors import StorageError
from zraft.storage.disk import Disk, RealDisk
from zraft.storage.errors import (
    CorruptLog,
    DirectoryInUse,
    DiskFull,
    SyncFailed,
    UnsupportedVersion,
    WrongCluster,
    WrongNode,
)
from zraft.storage.format import MAX_PAYLOAD_BYTES, Batch, HardState
from zraft.storage.wal import WriteAheadLog

__all__ = [
    "MAX_PAYLOAD_BYTES",
    "Batch",
    "CorruptLog",
    "DirectoryInUse",
    "Disk",
    "DiskFull",
    "HardState",
    "RealDisk",
    "StorageError",
    "SyncFailed",
    "UnsupportedVersion",
    "WriteAheadLog",
    "WrongCluster",
    "WrongNode",
]
