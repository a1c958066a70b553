"""Segment files by name, and the one that is written to."""

from __future__ import annotations

import os
import re

from zraft.storage.format import DATA_START, identity_of

_NAME = re.compile(r"[0-9]{16}\.wal")


def segment_path(directory: str, number: int) -> str:
    """Path of the segment; names sort as their numbers do."""
    return os.path.join(directory, f"{number:016d}.wal")


def segment_numbers(names: list[str]) -> list[int]:
    """The numbers of the segments among the names of a directory, ascending."""
    return sorted(int(name[:16]) for name in names if _NAME.fullmatch(name))


class Tail:
    """The last segment: its open file and where the next record goes.

    `capacity`: size of the file in bytes; `end`: offset of the next record, everything before it is durable;
    `crc`: what that record is chained to.
    """

    __slots__ = ("capacity", "crc", "end", "handle", "identity", "number", "path")

    def __init__(self, directory: str, store_id: int, number: int, handle: int, capacity: int, crc: int) -> None:
        self.path = segment_path(directory, number)
        self.number = number
        self.identity = identity_of(store_id, number)
        self.handle = handle
        self.capacity = capacity
        self.end = DATA_START
        self.crc = crc
