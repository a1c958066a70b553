"""The classic mistakes with snapshots and compaction."""

from __future__ import annotations

from copy import copy
from typing import Any

from zraft.actors.snapshot_writer import SnapshotWriter
from zraft.messages import SnapshotSaved
from zraft.raft.snapshots import Snapshots
from zraft.raft.state import SavedSnapshot, State
from zraft.sim.mutant import mutant
from zraft.storage import SnapshotHeader, SnapshotInfo, SnapshotParser, SnapshotStore


@mutant("adopts-any-snapshot", "5", "lets a snapshot that covers no more than is committed take the log's place")
def _adopts_any_snapshot(patch: Any) -> None:
    def on_install_snapshot(self: Snapshots, leader: str, message: Any) -> None:
        self.heard_from_leader(leader)
        self.output.snapshot_pieces.append((leader, message))

    def on_snapshot_saved(self: Snapshots, saved: SavedSnapshot) -> None:
        self.snapshot = saved
        if saved.index != self.applied_index:
            self.log.reset(saved.index, saved.term)
            self.commit_index = saved.index
            self.restore(saved.index)

    patch(Snapshots, "on_install_snapshot", on_install_snapshot)
    patch(Snapshots, "on_snapshot_saved", on_snapshot_saved)


@mutant("keeps-conflicting-log", "5", "keeps a log that conflicts with the snapshot that it adopts")
def _keeps_conflicting_log(patch: Any) -> None:
    original = State.adopt_snapshot

    def adopt_snapshot(self: State) -> None:
        if self.log.last_index < self.snapshot.index:
            original(self)

    patch(State, "adopt_snapshot", adopt_snapshot)


@mutant("saved-before-durable", "19", "says that a leader's snapshot is there before it is whole, synced and named")
def _saved_before_durable(patch: Any) -> None:
    original = SnapshotWriter.finish

    def finish(self: SnapshotWriter, sender: str, source: str, kind: Any) -> None:
        unfinished = self.store._unfinished[kind]
        header = unfinished.parser.header
        if header is not None:
            self.context.send("consensus", SnapshotSaved(source, *header, unfinished.size, 0))
        original(self, sender, source, kind)

    patch(SnapshotWriter, "finish", finish)


@mutant("unsynced-snapshot", "19", "gives a snapshot its name before its bytes are synced")
def _unsynced_snapshot(patch: Any) -> None:
    original = SnapshotStore.finish

    def finish(self: SnapshotStore, kind: Any) -> Any:
        disk = self._disk
        self._disk = copy(disk)
        self._disk.sync = lambda handle: None  # type: ignore[method-assign]
        try:
            return original(self, kind)
        finally:
            self._disk = disk

    patch(SnapshotStore, "finish", finish)


@mutant("trusts-snapshots", "21", "takes a snapshot on disk for whole without a look at it")
def _trusts_snapshots(patch: Any) -> None:
    def check(self: SnapshotStore, index: int, on_progress: Any) -> SnapshotInfo:
        parser = SnapshotParser()
        handle = self._disk.open(self._path(index))
        size = self._disk.size(handle)
        offset = 0
        while parser.header is None and offset < size:
            parser.feed(self._disk.read(handle, offset, 1))
            offset += 1
        self._disk.close(handle)
        return SnapshotInfo(parser.header or SnapshotHeader(index, 1, b""), size)

    patch(SnapshotStore, "_check", check)


@mutant("compacts-to-the-newest", "21", "lets the log go that the older snapshot needs, should the newest be damaged")
def _compacts_to_the_newest(patch: Any) -> None:
    original = Snapshots.compact

    def compact(self: Snapshots, away_ms: int) -> None:
        saved = self.snapshot
        self.snapshot = saved._replace(older_index=saved.index)
        original(self, away_ms)
        self.snapshot = saved

    patch(Snapshots, "compact", compact)


@mutant("compacts-unsaved", "25", "lets go of all that is applied, whatever the snapshot covers")
def _compacts_unsaved(patch: Any) -> None:
    def compact(self: Snapshots, away_ms: int) -> None:
        through = min(self.applied_index, self.log.durable_index)
        if through > self.log.base_index:
            self.log.compact(through)
            self.output.compact = through

    patch(Snapshots, "compact", compact)


@mutant("no-restore", "19", "goes on behind an adopted snapshot with an applier that has not loaded it")
def _no_restore(patch: Any) -> None:
    def restore(self: Snapshots, index: int) -> None:
        self.applying_index = self.applied_index = index
        self.applying_runs.clear()

    patch(Snapshots, "restore", restore)
