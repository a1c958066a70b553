"""What is done to a node's data while no node runs on it: a new cluster from a backup, or from a survivor.

Both make a new data directory: a snapshot that names the new members, and an empty log behind it. A directory that is
not whole yet carries a mark, and no node starts on it (`settle`); what was there before is kept.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b
from itertools import takewhile
from pathlib import Path
from random import SystemRandom
from typing import NamedTuple

from zraft.errors import ConfigError, StorageError
from zraft.messages import EntryKind
from zraft.raft import Address, Membership
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.snapshot import Restoring, SnapshotError
from zraft.storage import (
    CorruptSnapshot,
    HardState,
    RealDisk,
    SnapshotEncoder,
    SnapshotHeader,
    SnapshotParser,
    SnapshotStore,
    UnsupportedVersion,
    WriteAheadLog,
)
from zraft.storage.opening import take_lock
from zraft.wire import WireError, unpack_entries

PIECE_BYTES = 1024 * 1024
CHUNK_BYTES = 64 * 1024
READ_LOG_BYTES = 4 * 1024 * 1024

INDEX_JUMP = 1_000_000_000
"""A new cluster counts its entries on from so many further than the state it begins with. The old cluster may have gone
on after that state, and a session's id is the index of an entry: none of them may come to mean another session."""

MARK_NAME = "restore.unfinished"
"""A file in a directory that is not whole yet; locked by who is at work on it."""

Progress = Callable[[int, int], None]

log = logging.getLogger(__name__)


class State(NamedTuple):
    """A state machine with what surrounds it: the term of its last entry, and the members then."""

    machine: StateMachine
    term: int
    members: Membership


class Restored(NamedTuple):
    """What a new data directory holds."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int
    revision: int
    keys: int
    cluster_id: int


class Survivor(NamedTuple):
    """A node that does not run. `state`: with all entries in its log, committed or not. `term`: the latest that it
    knows of. `damaged`: one line for each snapshot of its that could not be used."""

    data_dir: Path
    node: str
    state: State
    term: int
    damaged: list[str]


# --- a backup


def read_backup(backup: Path, on_progress: Progress) -> tuple[State, bytes]:
    """The state in a backup, and a digest of the file. on_progress(bytes done, bytes in all).

    Raises StorageError for what cannot be read, is truncated or altered.
    """
    parser, restoring, digest = SnapshotParser(), Restoring(), blake2b(digest_size=8)
    try:
        with backup.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            while data := file.read(PIECE_BYTES):
                digest.update(data)
                for chunk in parser.feed(data):
                    restoring.feed(chunk)
                on_progress(file.tell(), size)
        if parser.header is None or not parser.complete:
            raise CorruptSnapshot("it stops before its end: it was truncated")
        machine = restoring.finish()
        _check_index(machine, parser.header)
        members = _members_in(parser.header)
    except OSError as error:
        raise StorageError(f"{backup}: cannot read this backup: {error.strerror}") from error
    except UnsupportedVersion as error:
        raise UnsupportedVersion(f"{backup}: {error}; nothing was restored") from error
    except (CorruptSnapshot, SnapshotError) as error:
        raise StorageError(f"{backup}: this is no whole backup: {error}; nothing was restored") from error
    return State(machine, parser.header.term, members), digest.digest()


def restore(backup: Path, data_dir: Path, node: str, members: Mapping[str, Address], on_progress: Progress) -> Restored:
    """Make the data directory of `node` in a new cluster of `members` that begins with the state in the backup.

    The ids of the cluster and of each data directory follow from the backup and the members, so that the same call on
    every node makes one cluster, whose members know one another's directories from the start, as founders do: else one
    that is wiped and added again would count as what it was (trap 10).
    What an interrupted call left in the directory is replaced. Raises StorageError, also if the directory holds
    anything else; ConfigError if the node is no member.
    """
    if node not in members:
        raise ConfigError(f"{node} is not among the members of the new cluster ({', '.join(members)})")
    _refuse_used(data_dir)
    state, digest = read_backup(backup, on_progress)
    named = Membership(0, dict(sorted(members.items())))
    origin = digest + named.encode()
    stores = {member: _id_from(origin + member.encode()) for member in named.voters}
    return _write_store(data_dir, node, state, named._replace(cluster_id=_id_from(origin), stores=stores), state.term)


def _id_from(origin: bytes) -> int:
    return int.from_bytes(blake2b(origin, digest_size=8).digest(), "big") >> 2 | 1


# --- a survivor


@contextmanager
def stopped_node(data_dir: Path, node: str) -> Iterator[Survivor]:
    """The node whose data is there, which cannot be started while this is entered.

    Raises StorageError: in use, damaged, of another node.
    """
    try:
        os.stat(data_dir / "meta")
    except (FileNotFoundError, NotADirectoryError):
        raise StorageError(f"{data_dir}: there is no node's data here") from None
    except OSError as error:
        raise StorageError(f"{data_dir}: cannot look into this directory: {error.strerror}") from error
    disk = RealDisk()
    write_ahead_log = WriteAheadLog.open(disk, str(data_dir), node, new_store_id=_new_store_id())
    try:
        snapshots = SnapshotStore.open(disk, str(data_dir))
        try:
            state = _newest_state(data_dir, snapshots, write_ahead_log)
        finally:
            snapshots.close()
        term = write_ahead_log.hard_state.term if write_ahead_log.hard_state is not None else 0
        yield Survivor(data_dir, node, state, max(term, state.term), snapshots.damaged)
    finally:
        write_ahead_log.close()


def force_new_cluster(survivor: Survivor, address: Address) -> tuple[Restored, Path]:
    """Make the node the only member of a new cluster that begins with its state; its old data is kept beside.

    Returns what was made, and where the old data is now. A crash leaves the old data in its place, or what `settle`
    completes. Raises StorageError.
    """
    data_dir = survivor.data_dir.resolve()
    if data_dir.is_mount():
        raise StorageError(
            f"{data_dir}: is where a disk is mounted, so it cannot be renamed and kept: move its files to a directory "
            "inside it and name that one as `data_dir`"
        )
    fresh = _fresh(data_dir)
    _remove_leftover(fresh)
    cluster_id, stores = SystemRandom().getrandbits(62) + 1, {survivor.node: _new_store_id()}
    members = Membership(cluster_id, {survivor.node: address}, stores=stores)
    made = _write_store(fresh, survivor.node, survivor.state, members, survivor.term + 1)
    old = next(path for path in _names_beside(data_dir) if not path.exists())
    disk = RealDisk()
    try:
        disk.rename(str(data_dir), str(old))
        disk.sync_directory(str(data_dir.parent))
        disk.rename(str(fresh), str(data_dir))
        disk.sync_directory(str(data_dir.parent))
    except OSError as error:
        with suppress(OSError):
            disk.rename(str(old), str(data_dir))  # if that is gone; a directory that is there is not replaced
        if data_dir.exists():
            _remove_leftover(fresh)
        raise StorageError(f"{data_dir}: cannot put {fresh} in its place: {error.strerror}") from error
    return made, old


def settle(data_dir: Path) -> None:
    """Before a node starts: complete a `force_new_cluster` that was cut off between its two renames, where the node
    would find no data; remove what one that came less far left. Raises StorageError if a `restore` did not finish."""
    data_dir = data_dir.resolve()
    if os.path.exists(data_dir / MARK_NAME):  # unlike Path.exists, it raises nothing where one may not look
        raise StorageError(
            f"{data_dir}: a restore into this directory did not finish: run the same `zraft-cli restore` again"
        )
    fresh, disk = _fresh(data_dir), RealDisk()
    try:
        if not os.path.exists(fresh):
            return
        if data_dir.exists():
            disk.close(take_lock(disk, str(data_dir)))  # raises if somebody is at work there
            _remove_leftover(fresh)
            log.warning("removed %s, which an interrupted --force-new-cluster left: it changed nothing", fresh)
        elif not (fresh / MARK_NAME).exists():
            disk.rename(str(fresh), str(data_dir))
            disk.sync_directory(str(data_dir.parent))
            log.warning("completed an interrupted --force-new-cluster: the old data is in %s", _newest_old(data_dir))
    except OSError as error:
        raise StorageError(
            f"{data_dir}: cannot complete the --force-new-cluster that made {fresh}: {error.strerror}"
        ) from error


# --- names


def _fresh(data_dir: Path) -> Path:
    """Where `force_new_cluster` makes the new data."""
    return data_dir.with_name(f"{data_dir.name}.new-cluster")


def _names_beside(data_dir: Path) -> Iterator[Path]:
    number = 1
    while True:
        yield data_dir.with_name(f"{data_dir.name}.old-{number}")
        number += 1


def _newest_old(data_dir: Path) -> Path:
    taken = list(takewhile(Path.exists, _names_beside(data_dir)))
    return taken[-1] if taken else data_dir


def _refuse_used(data_dir: Path) -> None:
    """Nothing may be in the directory but what an unfinished `restore` left."""
    try:
        used = data_dir.exists() and any(data_dir.iterdir()) and not (data_dir / MARK_NAME).exists()
    except OSError as error:
        raise StorageError(f"{data_dir}: cannot look into this directory: {error.strerror}") from error
    if used:
        raise StorageError(f"{data_dir}: not empty: name a new directory, or move this one away first")


def _remove_leftover(fresh: Path) -> None:
    """Of an earlier `force_new_cluster`. Nobody ever ran on it."""
    try:
        if fresh.exists():
            for path in fresh.iterdir():
                path.unlink()
            fresh.rmdir()
    except OSError as error:
        raise StorageError(f"{fresh}: cannot remove what an earlier call left: {error.strerror}") from error


# --- reading


def _members_in(header: SnapshotHeader) -> Membership:
    try:
        return Membership.decode(header.config)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptSnapshot("its members are not what a leader writes") from error


def _check_index(machine: StateMachine, header: SnapshotHeader) -> None:
    if machine.last_applied != header.index:
        raise CorruptSnapshot(f"its state is that of entry {machine.last_applied}, not of {header.index}")


def _newest_state(data_dir: Path, snapshots: SnapshotStore, write_ahead_log: WriteAheadLog) -> State:
    """The newest snapshot, and the log applied to it."""
    newest = snapshots.newest
    state = State(StateMachine(), 0, Membership(0, {})) if newest is None else _load(data_dir, snapshots, newest.header)
    last_applied = state.machine.last_applied
    if write_ahead_log.base[0] > last_applied:
        raise StorageError(
            f"{data_dir}: the log begins after entry {write_ahead_log.base[0]}, but the newest whole snapshot reaches "
            f"only to {last_applied}: what lies between is gone"
        )
    if _term_at(write_ahead_log, last_applied) != state.term:
        return state  # the snapshot came from a leader, and this log is not the one that it stands for
    try:
        return _replay(state, write_ahead_log)
    except (WireError, ValueError, LookupError) as error:
        raise StorageError(f"{data_dir}: an entry of the log is not what was written: {error}") from error


def _term_at(write_ahead_log: WriteAheadLog, index: int) -> int:
    """Of the entry `index` in the log; 0 if it holds none."""
    base, term = write_ahead_log.base
    if index > write_ahead_log.last_index:
        return 0
    for first, run_term in write_ahead_log.term_runs() if index > base else ():
        if first <= index:
            term = run_term
    return term


def _replay(state: State, write_ahead_log: WriteAheadLog) -> State:
    machine, term, members = state
    while machine.last_applied < write_ahead_log.last_index:
        for batch in write_ahead_log.read(machine.last_applied + 1, READ_LOG_BYTES):
            for index, entry in enumerate(unpack_entries(batch.payload)[: batch.count], batch.first_index):
                if index <= machine.last_applied:
                    continue
                if entry.kind == EntryKind.COMMAND:
                    machine.apply(index, entry.time_ms, entry.data)
                else:
                    machine.skip(index, entry.time_ms)
                if entry.kind == EntryKind.CONFIG:
                    members = Membership.decode(entry.data)
                term = entry.term
    return State(machine, term, members)


def _load(data_dir: Path, snapshots: SnapshotStore, header: SnapshotHeader) -> State:
    parser, restoring = SnapshotParser(), Restoring()
    offset = 0
    try:
        while not parser.complete:
            data, _ = snapshots.read(header.index, offset, PIECE_BYTES)
            if not data:
                raise CorruptSnapshot(f"it stops after {offset} bytes")
            offset += len(data)
            for chunk in parser.feed(data):
                restoring.feed(chunk)
        machine = restoring.finish()
        _check_index(machine, header)
        return State(machine, header.term, _members_in(header))
    except (CorruptSnapshot, SnapshotError) as error:
        raise StorageError(f"{data_dir}: the snapshot of entry {header.index} cannot be used: {error}") from error


# --- writing


def _new_store_id() -> int:
    return SystemRandom().randrange(1, 1 << 63)


@contextmanager
def _unfinished(disk: RealDisk, data_dir: Path) -> Iterator[None]:
    """While this is entered the directory carries the mark, and what it held is gone. An error empties it again."""
    mark = data_dir / MARK_NAME
    try:
        disk.make_directory(str(data_dir))
        handle = disk.lock(str(mark))
    except BlockingIOError as error:
        raise StorageError(f"{data_dir}: another program is restoring into this directory") from error
    except OSError as error:
        raise StorageError(
            f"{data_dir}: cannot make this data directory: {error.strerror}: {error.filename or data_dir}"
        ) from error
    try:
        disk.sync_directory(str(data_dir))
        _empty(data_dir)
        yield
        disk.sync_directory(str(data_dir))
        mark.unlink()
        disk.sync_directory(str(data_dir))
    except BaseException as error:
        with suppress(OSError):
            _empty(data_dir)
            mark.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(f"{data_dir}: cannot write this data directory: {error.strerror}") from error
        raise
    finally:
        disk.close(handle)


def _empty(data_dir: Path) -> None:
    for path in data_dir.iterdir():
        if path.name != MARK_NAME:
            path.unlink()


def _write_store(data_dir: Path, node: str, state: State, members: Membership, term: int) -> Restored:
    """A data directory that holds the state and nothing else. members: with the id of this directory; term: the latest
    that the node shall know of."""
    machine = state.machine
    if machine.last_applied < 1:
        raise StorageError("there is nothing to begin a cluster with: no entry was ever applied")
    index = machine.last_applied + INDEX_JUMP
    machine.jump(index)
    disk = RealDisk()
    with _unfinished(disk, data_dir):
        snapshots = SnapshotStore.open(disk, str(data_dir))
        try:
            _write_snapshot(snapshots, machine, SnapshotHeader(index, state.term, members.encode()))
        finally:
            snapshots.close()
        write_ahead_log = WriteAheadLog.open(disk, str(data_dir), node, new_store_id=members.stores[node])
        try:
            write_ahead_log.append([], HardState(term, None), (index, state.term))
            write_ahead_log.set_cluster_id(members.cluster_id)
        finally:
            write_ahead_log.close()
    return Restored(index, term, machine.revision, machine.key_count, members.cluster_id)


def _write_snapshot(snapshots: SnapshotStore, machine: StateMachine, header: SnapshotHeader) -> None:
    encoder, frozen = SnapshotEncoder(header), machine.freeze()
    try:
        snapshots.begin("local", header.index)
        snapshots.write("local", encoder.begin())
        while (chunk := frozen.next_chunk(CHUNK_BYTES)) is not None:
            snapshots.write("local", encoder.add(chunk))
        snapshots.write("local", encoder.finish())
        snapshots.finish("local")
    finally:
        frozen.release()
