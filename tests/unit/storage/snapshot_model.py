"""Snapshots for the tests, and the script of calls that the crash tests run."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from faulty_disk import Image, MemoryDisk

from zraft.storage import SnapshotEncoder, SnapshotHeader, SnapshotInfo, SnapshotStore
from zraft.storage.snapshots import Kind

DIRECTORY = "/data"


def path_of(index: int) -> str:
    return f"{DIRECTORY}/{index:016d}.snapshot"


def pieces_of(index: int, size: int = 1500) -> list[bytes]:
    """A snapshot in pieces, as an owner writes it. The same index: the same bytes."""
    encoder = SnapshotEncoder(SnapshotHeader(index, index // 10, b"config %d" % index))
    chunks = [(b"%d." % index * size)[:size], b"%d" % index]
    return [encoder.begin(), *(encoder.add(chunk) for chunk in chunks), encoder.finish()]


def bytes_of(index: int) -> bytes:
    return b"".join(pieces_of(index))


def info_of(index: int) -> SnapshotInfo:
    return SnapshotInfo(SnapshotHeader(index, index // 10, b"config %d" % index), len(bytes_of(index)))


def put(store: SnapshotStore, index: int, kind: Kind = "local") -> None:
    store.begin(kind, index)
    for piece in pieces_of(index):
        store.write(kind, piece)
    assert store.finish(kind) == info_of(index)


def read_all(store: SnapshotStore, index: int, step: int = 700) -> bytes:
    data = b""
    size = None
    while len(data) != size:
        piece, size = store.read(index, len(data), step)
        if not piece:
            break
        data += piece
    return data


def open_store(disk: MemoryDisk) -> SnapshotStore:
    return SnapshotStore.open(disk, DIRECTORY)


class Moment(NamedTuple):
    """A disk between two operations, and the indexes of the snapshots that may be the newest after a crash then."""

    image: Image
    newest: set[int]


class Script:
    """Runs calls on a store and keeps what it must hold; with `record`, a `Moment` behind every disk operation."""

    def __init__(self, disk: MemoryDisk, record: bool = False) -> None:
        self.disk = disk
        self.moments: list[Moment] = []
        self.newest = 0
        self.allowed = {0}
        if record:
            disk.after = lambda: self.moments.append(Moment(disk.image(), set(self.allowed)))
        self.store = open_store(disk)

    def finish(self, kind: Kind, index: int) -> None:
        self.allowed = {self.newest, max(index, self.newest)}
        assert self.store.finish(kind) == info_of(index)
        self.newest = max(index, self.newest)
        self.allowed = {self.newest}

    def put(self, index: int, kind: Kind = "local") -> None:
        self.store.begin(kind, index)
        for piece in pieces_of(index):
            self.store.write(kind, piece)
        self.finish(kind, index)

    def begin(self, index: int, kind: Kind) -> None:
        self.store.begin(kind, index)
        self.store.write(kind, pieces_of(index)[0])

    def go_on(self, index: int, kind: Kind) -> None:
        for piece in pieces_of(index)[1:]:
            self.store.write(kind, piece)
        self.finish(kind, index)

    def reopen(self) -> None:
        self.store.close()
        self.store = open_store(self.disk)


STEPS: list[Callable[[Script], None]] = [
    lambda s: s.put(10),
    lambda s: s.put(20),
    lambda s: s.begin(30, "local"),
    lambda s: s.begin(40, "received"),
    lambda s: s.go_on(30, "local"),
    lambda s: s.go_on(40, "received"),
    lambda s: s.begin(44, "received"),
    Script.reopen,
    lambda s: s.put(40),
    lambda s: s.begin(50, "local"),
    lambda s: s.begin(51, "local"),
    lambda s: s.go_on(51, "local"),
    lambda s: s.put(45, "received"),
    lambda s: s.put(60, "received"),
]


def run_steps(script: Script) -> Script:
    for step in STEPS:
        step(script)
    return script
