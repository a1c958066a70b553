"""The `meta` file: whose data this is. Small JSON, written beside, synced and renamed."""

from __future__ import annotations

import json
import os
from typing import NamedTuple
from zlib import crc32

from zraft.storage.disk import Disk
from zraft.storage.errors import UnsupportedVersion, corrupt
from zraft.storage.format import VERSION

NAME = "meta"
UNFINISHED_NAME = "meta.unfinished"
_MAX_BYTES = 64 * 1024


class Meta(NamedTuple):
    """`store_id`: random, made with the store. `cluster_id`: 0 until the node has learnt it."""

    node_id: str
    store_id: int
    cluster_id: int


def load_meta(disk: Disk, directory: str) -> Meta | None:
    """Read the file; None if there is none. Raises `CorruptLog`, `UnsupportedVersion`, `OSError`."""
    path = os.path.join(directory, NAME)
    try:
        handle = disk.open(path)
    except FileNotFoundError:
        return None
    try:
        data = disk.read(handle, 0, _MAX_BYTES)
    finally:
        disk.close(handle)
    return _decode(path, data)


def save_meta(disk: Disk, directory: str, meta: Meta) -> None:
    """Replace the file durably: a crash leaves the old one or the new one. Raises `OSError`."""
    unfinished = os.path.join(directory, UNFINISHED_NAME)
    handle = disk.create(unfinished)
    try:
        disk.write(handle, 0, [_encode(meta)])
        disk.sync(handle)
    finally:
        disk.close(handle)
    disk.rename(unfinished, os.path.join(directory, NAME))
    disk.sync_directory(directory)


def _encode(meta: Meta) -> bytes:
    fields = {"format": VERSION, "node_id": meta.node_id, "store_id": meta.store_id, "cluster_id": meta.cluster_id}
    fields["crc32"] = _checksum(fields)
    return json.dumps(fields, indent=1).encode() + b"\n"


def _decode(path: str, data: bytes) -> Meta:
    try:
        fields = json.loads(data)
        version, checksum = fields["format"], fields.pop("crc32")
        meta = Meta(fields["node_id"], fields["store_id"], fields["cluster_id"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise corrupt(path, 0, "not the JSON object that was written") from error
    if version != VERSION:
        raise UnsupportedVersion(
            f"{path}: format version {version}, but this zraft knows only {VERSION}: start the version that wrote it"
        )
    if checksum != _checksum(fields):
        raise corrupt(path, 0, "its checksum does not fit its contents")
    return meta


def _checksum(fields: dict[str, object]) -> int:
    return crc32(json.dumps(fields, sort_keys=True).encode())
