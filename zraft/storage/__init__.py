"""Bytes, checksums and fsync: the write-ahead log and the snapshots. Knows no Raft and no sockets.

Everything a node promises passes through here, so every class takes its `Disk` from outside: the tests crash it at
each single operation.
"""

from zraft.errors import StorageError
from zraft.storage.disk import Disk, RealDisk
from zraft.storage.errors import (
    CorruptLog,
    CorruptSnapshot,
    DirectoryInUse,
    DiskFull,
    SyncFailed,
    UnsupportedVersion,
    WrongCluster,
    WrongNode,
)
from zraft.storage.format import MAX_PAYLOAD_BYTES, Batch, HardState
from zraft.storage.snapshot_format import MAX_CHUNK_BYTES, SnapshotEncoder, SnapshotHeader, SnapshotParser
from zraft.storage.snapshots import SnapshotInfo, SnapshotStore
from zraft.storage.wal import WriteAheadLog

__all__ = [
    "MAX_CHUNK_BYTES",
    "MAX_PAYLOAD_BYTES",
    "Batch",
    "CorruptLog",
    "CorruptSnapshot",
    "DirectoryInUse",
    "Disk",
    "DiskFull",
    "HardState",
    "RealDisk",
    "SnapshotEncoder",
    "SnapshotHeader",
    "SnapshotInfo",
    "SnapshotParser",
    "SnapshotStore",
    "StorageError",
    "SyncFailed",
    "UnsupportedVersion",
    "WriteAheadLog",
    "WrongCluster",
    "WrongNode",
]
