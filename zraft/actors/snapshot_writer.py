"""Owns the snapshot files, so that one large fsync stalls no vote and no append.

Whoever has a snapshot to store sends its bytes in pieces and waits for their taking; whoever wants one asks for its
bytes in pieces. A snapshot that was not finished when this actor died is begun again by whoever sent it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from zraft.bus.actor import Actor, Context
from zraft.messages import (
    ReadSnapshot,
    Recover,
    SnapshotFailed,
    SnapshotRead,
    SnapshotSaved,
    SnapshotWritten,
    WriteSnapshot,
)
from zraft.storage import CorruptSnapshot, DiskFull, SnapshotStore, UnsupportedVersion

Kind = Literal["local", "received"]

log = logging.getLogger(__name__)


class SnapshotWriter(Actor):
    """open_store: opens the files anew; it finds out which of them are whole."""

    name = "snapshot_writer"

    def __init__(self, context: Context, open_store: Callable[[], SnapshotStore]) -> None:
        super().__init__(context)
        self.open_store = open_store
        self.unfinished: dict[Kind, tuple[int, int, int]] = {}  # kind -> (index, term, bytes so far)
        self.handlers |= {
            Recover: self.on_recover,
            WriteSnapshot: self.on_write_snapshot,
            ReadSnapshot: self.on_read_snapshot,
        }

    def on_start(self) -> None:
        """Find out what there is."""
        self.store = self.open_store()
        for line in self.store.damaged:
            log.error("%s", line)

    def on_recover(self, sender: str, message: Recover) -> None:
        """Say which snapshot is the newest."""
        self.context.send(sender, self.saved(""))

    def saved(self, source: str) -> SnapshotSaved:
        """The newest, as news."""
        newest, older = self.store.newest, self.store.older
        older_index = older.header.index if older else 0
        if newest is None:
            return SnapshotSaved(source, 0, 0, b"", 0, 0)
        index, term, config = newest.header
        return SnapshotSaved(source, index, term, config, newest.size, older_index)

    def on_write_snapshot(self, sender: str, message: WriteSnapshot) -> None:
        """One more piece, if it is the next one of what is being written. One that is not newer than the newest is no
        snapshot to store."""
        source, index, term, offset, data, is_last = message
        newest = self.store.newest
        if newest is not None and index <= newest.header.index:
            self.context.send(sender, self.saved(source))
            return
        kind: Kind = "received" if source else "local"
        begun, begun_term, size = self.unfinished.get(kind, (0, 0, 0))
        is_begun = (begun, begun_term) == (index, term)
        if not is_begun:
            size = 0
        if offset == size and (is_begun or offset == 0):
            self.context.boundary()
            try:
                if not is_begun:
                    self.unfinished.pop(kind, None)
                    self.store.begin(kind, index)
                size = self.store.write(kind, data)
                self.unfinished[kind] = (index, term, size)
                if is_last:
                    self.finish(sender, source, kind)
                    return
            except (CorruptSnapshot, DiskFull, UnsupportedVersion) as error:
                self.unfinished.pop(kind, None)
                size = 0
                log.error("snapshot of %d entries from %s: %s", index, source or "this node", error)
                if not isinstance(error, CorruptSnapshot):
                    self.context.send(sender, SnapshotFailed(source, index, str(error)))
                    return
        self.context.send(sender, SnapshotWritten(source, index, size))

    def finish(self, sender: str, source: str, kind: Kind) -> None:
        """The last piece is there: make it durable, name it, and tell."""
        self.store.finish(kind)
        del self.unfinished[kind]
        self.context.boundary()
        saved = self.saved(source)
        log.info("saved a snapshot of the first %d entries, %d bytes", saved.index, saved.size)
        self.context.send("consensus", saved)
        if sender != "consensus":
            self.context.send(sender, saved)

    def on_read_snapshot(self, sender: str, message: ReadSnapshot) -> None:
        """A piece for a peer, the applier or a backup."""
        reader, index, offset, max_bytes = message
        newest = self.store.newest
        if not index:
            index = newest.header.index if newest else 0
        data, size = self.store.read(index, offset, max_bytes) if index else (b"", 0)
        self.context.send(sender, SnapshotRead(reader, index if size else 0, offset, data, size))

    def on_stop(self) -> None:
        """Let go of the files."""
        self.store.close()

    def status(self) -> dict[str, Any]:
        """Size of the newest snapshot, and how much of the next is there."""
        newest = self.store.newest
        pending = {kind: {"index": index, "bytes": size} for kind, (index, _, size) in self.unfinished.items()}
        return {"snapshot_bytes": newest.size if newest else 0, "snapshots_unfinished": pending}
