"""The data directory before the log in it is read: its lock, whose it is, and the making of a new one."""

from __future__ import annotations

import os

from zraft.storage import format as layout
from zraft.storage import meta as meta_file
from zraft.storage import spare as spare_file
from zraft.storage.disk import Disk
from zraft.storage.errors import DirectoryInUse, WrongNode, corrupt
from zraft.storage.format import DATA_START, SegmentHeader
from zraft.storage.meta import Meta
from zraft.storage.recovery import read_header
from zraft.storage.segment import segment_numbers, segment_path
from zraft.storage.spare import Spare

LOCK_NAME = "lock"


def take_lock(disk: Disk, directory: str) -> int:
    """Lock the directory. Returns the handle that holds the lock. Raises `DirectoryInUse`, `OSError`."""
    path = os.path.join(directory, LOCK_NAME)
    try:
        return disk.lock(path)
    except BlockingIOError as error:
        handle = disk.open(path)
        try:
            holder = disk.read(handle, 0, 20).decode("ascii", "replace").strip()
        finally:
            disk.close(handle)
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise DirectoryInUse(
            f"{directory}: in use by {who}: stop that one first, or give this node another data directory"
        ) from error


def load_or_create(disk: Disk, directory: str, node_id: str, new_store_id: int, segment_bytes: int) -> Meta:
    """The store's meta, after making the store if there is none. Removes what an unfinished write left.

    Raises `WrongNode`, `CorruptLog`, `UnsupportedVersion`, `OSError`.
    """
    names = disk.list_directory(directory)
    for name in (meta_file.UNFINISHED_NAME, spare_file.NAME):
        if name in names:
            disk.unlink(os.path.join(directory, name))
    meta = meta_file.load_meta(disk, directory)
    if meta is None:
        meta = Meta(node_id, new_store_id, 0)
        _create_store(disk, directory, meta, segment_numbers(names), segment_bytes)
    if meta.node_id != node_id:
        raise WrongNode(
            f"{directory}: belongs to node {meta.node_id!r}, not {node_id!r}: "
            "check `node` and `data_dir` in the configuration, or use an empty directory"
        )
    return meta


def _create_store(disk: Disk, directory: str, meta: Meta, numbers: list[int], segment_bytes: int) -> None:
    """Make the first segment, then `meta`: a store with meta and no segment has lost it, and is no fresh one."""
    if numbers:
        _check_unfinished_segment(disk, directory, numbers)
    header = SegmentHeader(1, meta.store_id, meta.cluster_id, 0, layout.first_seed(meta.store_id), None)
    spare = Spare(disk, directory, segment_bytes)
    try:
        disk.close(spare.take(segment_path(directory, 1), segment_bytes, layout.encode_header(header)))
    finally:
        spare.close()
    disk.sync_directory(directory)
    meta_file.save_meta(disk, directory, meta)


def _check_unfinished_segment(disk: Disk, directory: str, numbers: list[int]) -> None:
    """Segments without `meta`: all right only if it is one without records, which an unfinished creation left."""
    path = segment_path(directory, numbers[0])
    header = read_header(disk, path)
    handle = disk.open(path)
    try:
        records = disk.read(handle, DATA_START, disk.size(handle))
    finally:
        disk.close(handle)
    if numbers != [1] or header.number != 1 or records.strip(b"\0"):
        raise corrupt(os.path.join(directory, meta_file.NAME), 0, "the file is missing, but there are segments")
