"""A new cluster from a backup or a survivor: what is refused, and what a crash at any moment leaves."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from zraft import offline
from zraft.errors import ConfigError, StorageError
from zraft.messages import Entry, EntryKind
from zraft.offline import INDEX_JUMP, MARK_NAME
from zraft.raft import Address, Membership
from zraft.statemachine.codec import Op, encode_command
from zraft.statemachine.machine import StateMachine
from zraft.storage import (
    Batch,
    HardState,
    RealDisk,
    SnapshotEncoder,
    SnapshotHeader,
    SnapshotParser,
    SnapshotStore,
    WriteAheadLog,
)
from zraft.wire import pack_entries

OLD_CLUSTER = 77
MEMBERS = {f"n{n}": Address(f"tcp://127.0.0.1:710{n}", f"tcp://127.0.0.1:720{n}") for n in (1, 2, 3)}
CONFIG = Membership(OLD_CLUSTER, MEMBERS).encode()
SNAPSHOT_INDEX, LAST_INDEX = 60, 100


def entry_at(index: int) -> Entry:
    """The founding members, a session, then keys."""
    if index == 1:
        return Entry(1, 1000, int(EntryKind.CONFIG), CONFIG)
    if index == 2:
        return Entry(1, 1000, int(EntryKind.COMMAND), encode_command(0, 0, 0, Op.OPEN_SESSION))
    key = b"k%d" % (index % 30)
    command = encode_command(2, index - 2, 0 if index < 40 else index - 30, Op.SET, key, b"v%d" % index * 20)
    return Entry(1 if index < 50 else 2, 1000 + index, int(EntryKind.COMMAND), command)


def state_at(last: int) -> StateMachine:
    machine = StateMachine()
    for index in range(1, last + 1):
        entry = entry_at(index)
        if entry.kind == EntryKind.COMMAND:
            machine.apply(index, entry.time_ms, entry.data)
        else:
            machine.skip(index, entry.time_ms)
    return machine


def encoded(machine: StateMachine, term: int = 1, config: bytes = CONFIG) -> bytes:
    """A snapshot as a file; also what a backup is."""
    encoder = SnapshotEncoder(SnapshotHeader(machine.last_applied, term, config))
    frozen, parts = machine.freeze(), [encoder.begin()]
    while (chunk := frozen.next_chunk(500)) is not None:
        parts.append(encoder.add(chunk))
    return b"".join((*parts, encoder.finish()))


def make_node(data_dir: Path, snapshots: tuple[int, ...] = (SNAPSHOT_INDEX,), node: str = "n1") -> Path:
    """Data of a node of the old cluster: a log of LAST_INDEX entries, and snapshots."""
    store = SnapshotStore.open(RealDisk(), str(data_dir))
    for index in snapshots:
        store.begin("local", index)
        store.write("local", encoded(state_at(index), entry_at(index).term))
        store.finish("local")
    store.close()
    log = WriteAheadLog.open(RealDisk(), str(data_dir), node, new_store_id=5)
    log.set_cluster_id(OLD_CLUSTER)
    entries = [(index, entry_at(index)) for index in range(1, LAST_INDEX + 1)]
    batches = [Batch(index, 1, entry.term, pack_entries([entry]), index == 1) for index, entry in entries]
    log.append(batches, HardState(4, "n2"))
    log.close()
    return data_dir


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small segments are quickly filled with zeros; a process that dies leaves what it wrote, synced or not."""
    monkeypatch.setattr("zraft.storage.disk._choose_sync", lambda: lambda handle: None)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(WriteAheadLog, "open", partial(WriteAheadLog.open, segment_bytes=64 * 1024))


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    file = tmp_path / "backup"
    file.write_bytes(encoded(state_at(LAST_INDEX), 2))
    return file


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def restore(backup: Path, data_dir: Path, node: str = "n1") -> offline.Restored:
    return offline.restore(backup, data_dir, node, MEMBERS, quiet)


def force(data_dir: Path, node: str = "n1") -> tuple[offline.Restored, Path]:
    with offline.stopped_node(data_dir, node) as survivor:
        return offline.force_new_cluster(survivor, MEMBERS[node])


class Found:
    """What a node that starts on the directory finds."""

    def __init__(self, data_dir: Path, node: str = "n1") -> None:
        offline.settle(data_dir)
        log = WriteAheadLog.open(RealDisk(), str(data_dir), node, new_store_id=6)
        self.store_id, self.cluster_id, self.hard_state, self.base, self.last_index = (
            log.store_id,
            log.cluster_id,
            log.hard_state,
            log.base,
            log.last_index,
        )
        log.close()
        with offline.stopped_node(data_dir, node) as survivor:
            self.state = survivor.state
        self.hash = self.state.machine.state_hash

    @property
    def is_old(self) -> bool:
        return self.cluster_id == OLD_CLUSTER and self.hash == state_at(LAST_INDEX).state_hash


def names(path: Path) -> list[str] | bool:
    """What is in a directory (but for a segment that is prepared for later), or whether there is anything else."""
    return sorted(path.name for path in path.iterdir() if path.name != "spare") if path.is_dir() else path.exists()


def words(data_dir: Path, call: Callable[[], object]) -> str:
    """Of the error, which is one line, and changes nothing."""
    before = names(data_dir)
    with pytest.raises(StorageError) as caught:
        call()
    assert names(data_dir) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- restore


def test_restore_makes_each_member_of_one_new_cluster(tmp_path: Path, backup: Path) -> None:
    made = {node: restore(backup, tmp_path / "new" / node, node) for node in MEMBERS}
    assert len({one.cluster_id for one in made.values()}) == 1 and made["n1"].cluster_id not in (0, OLD_CLUSTER)
    for node, one in made.items():
        found = Found(tmp_path / "new" / node, node)
        assert found.hash == state_at(LAST_INDEX).state_hash
        assert found.cluster_id == one.cluster_id == found.state.members.cluster_id
        assert found.state.members.voters == MEMBERS
        assert (found.base, found.last_index) == ((LAST_INDEX + INDEX_JUMP, 2), LAST_INDEX + INDEX_JUMP)
        assert found.hard_state == HardState(2, None)
        assert (one.keys, one.revision) == (30, 98)


def test_trap_10_the_members_of_a_restored_cluster_know_one_anothers_data_directories(
    tmp_path: Path, backup: Path
) -> None:
    """Else one that is removed, wiped and added again counts as the voter that an older configuration names."""
    found = {}
    for node in MEMBERS:
        restore(backup, tmp_path / node, node)
        found[node] = Found(tmp_path / node, node)
    stores = {node: one.store_id for node, one in found.items()}
    assert [one.state.members.stores for one in found.values()] == [stores] * len(MEMBERS)
    assert len({0, *stores.values()}) == 1 + len(MEMBERS)


def test_trap_10_and_so_does_a_survivor_its_own(tmp_path: Path) -> None:
    data_dir = make_node(tmp_path / "n1")
    force(data_dir)
    first = Found(data_dir)
    assert first.state.members.stores == {"n1": first.store_id}
    force(data_dir)
    assert Found(data_dir).store_id != first.store_id


def test_equal_members_in_another_order_are_the_same_cluster_and_others_are_not(tmp_path: Path, backup: Path) -> None:
    one = restore(backup, tmp_path / "a")
    other = offline.restore(backup, tmp_path / "b", "n1", dict(reversed(MEMBERS.items())), quiet)
    fewer = offline.restore(backup, tmp_path / "c", "n1", {"n1": MEMBERS["n1"]}, quiet)
    assert one == other and fewer.cluster_id != one.cluster_id


def test_a_session_opened_after_the_backup_means_nobody_in_the_new_cluster(tmp_path: Path, backup: Path) -> None:
    """Its id is the index of an entry that the old cluster had, and the new one never has."""
    restore(backup, tmp_path / "new")
    machine = Found(tmp_path / "new").state.machine
    stale = encode_command(LAST_INDEX + 1, 1, 0, Op.SET, b"k", b"v")
    opened = encode_command(0, 0, 0, Op.OPEN_SESSION)
    first = machine.last_applied + 1
    machine.apply(first, 5000, opened)
    revision = machine.revision
    machine.apply(first + 1, 5000, stale)
    assert machine.revision == revision
    machine.apply(first + 2, 5000, encode_command(2, LAST_INDEX - 1, 0, Op.SET, b"k", b"v"))
    assert machine.revision == revision + 1, "a session that the backup knows goes on"


def test_restore_refuses_a_node_that_is_no_member(tmp_path: Path, backup: Path) -> None:
    with pytest.raises(ConfigError, match=r"^n9 is not among the members of the new cluster \(n1, n2, n3\)$"):
        restore(backup, tmp_path / "new", "n9")
    assert not (tmp_path / "new").exists()


def test_restore_into_an_empty_directory_but_never_into_a_used_one(tmp_path: Path, backup: Path) -> None:
    (tmp_path / "empty").mkdir()
    restore(backup, tmp_path / "empty")
    for used in (tmp_path / "empty", make_node(tmp_path / "n1")):
        assert "not empty" in words(used, lambda used=used: restore(backup, used))
    assert Found(tmp_path / "n1").is_old


def test_restore_where_no_directory_can_be(tmp_path: Path, backup: Path) -> None:
    assert words(backup, lambda: restore(backup, backup / "new")).endswith(f"File exists: {backup}")
    assert "Not a directory" in words(backup, lambda: restore(backup, backup))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_restore_without_permission(tmp_path: Path, backup: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "Permission denied" in words(tmp_path / "closed", lambda: restore(backup, tmp_path / "closed" / "new"))


def test_a_backup_cut_at_any_byte_is_refused(tmp_path: Path, backup: Path) -> None:
    whole = backup.read_bytes()
    for length in [*range(200), *range(200, len(whole), 37), *range(len(whole) - 60, len(whole))]:
        backup.write_bytes(whole[:length])
        text = words(tmp_path / "new", lambda: restore(backup, tmp_path / "new"))
        assert text.startswith(f"{backup}: this is no whole backup: ") and "truncated" in text, length


def test_a_backup_with_any_byte_altered_is_refused(tmp_path: Path, backup: Path) -> None:
    """Magic, version, header, members, the frame of a chunk, its contents, the end."""
    whole = backup.read_bytes()
    for offset in [*range(300), *range(300, len(whole), 41), *range(len(whole) - 60, len(whole))]:
        backup.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x10]) + whole[offset + 1 :])
        text = words(tmp_path / "new", lambda: restore(backup, tmp_path / "new"))
        assert text.startswith(f"{backup}: ") and text.endswith("nothing was restored"), offset


def renumbered(whole: bytes, version: int) -> bytes:
    """The backup, as if a zraft of another format version had written it."""
    preamble = whole[:8] + version.to_bytes(4, "little")
    return preamble + crc32(preamble).to_bytes(4, "little") + whole[16:]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda whole: b"", "truncated"),
        (lambda whole: b"\x7fELF" + bytes(5000), "corrupt at byte 0"),
        (lambda whole: whole + b"x", "bytes behind its end"),
        (lambda whole: whole * 2, "bytes behind its end"),
        (lambda whole: renumbered(whole, 2), "format version 2"),
        (lambda whole: encoded(state_at(20), 1, b"[]"), "its members are not what a leader writes"),
        (lambda whole: encoded(state_at(20), 1, b'{"cluster_id": 1, "voters": 5}'), "its members are not"),
        (lambda whole: moved(whole), "its state is that of entry 100, not of 101"),
    ],
)
def test_what_is_no_backup(tmp_path: Path, backup: Path, change: Callable[[bytes], bytes], expected: str) -> None:
    backup.write_bytes(change(backup.read_bytes()))
    text = words(tmp_path / "new", lambda: restore(backup, tmp_path / "new"))
    assert text.startswith(f"{backup}: ") and expected in text


def moved(whole: bytes) -> bytes:
    """Valid in all its checksums, but its header is not that of its state."""
    encoder = SnapshotEncoder(SnapshotHeader(LAST_INDEX + 1, 2, CONFIG))
    return b"".join((encoder.begin(), *map(encoder.add, SnapshotParser().feed(whole)), encoder.finish()))


def test_a_backup_that_is_not_there_or_a_directory(tmp_path: Path) -> None:
    for file, expected in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        text = words(tmp_path / "new", lambda file=file: restore(file, tmp_path / "new"))
        assert text.startswith(f"{file}: cannot read this backup: ") and expected in text


# --- a survivor


def test_force_new_cluster_keeps_the_state_and_the_old_data(tmp_path: Path) -> None:
    data_dir = make_node(tmp_path / "n1")
    made, old = force(data_dir)
    found = Found(data_dir)
    assert found.hash == state_at(LAST_INDEX).state_hash
    assert list(found.state.members.voters) == ["n1"]
    assert found.cluster_id == made.cluster_id not in (0, OLD_CLUSTER)
    assert found.hard_state == HardState(5, None)
    assert (old, Found(old).is_old) == (tmp_path / "n1.old-1", True)
    assert force(data_dir)[1] == tmp_path / "n1.old-2", "nothing that was kept is replaced"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n1", "n1.old-1", "n1.old-2"]


def test_a_data_directory_behind_a_link_stays_on_its_disk(tmp_path: Path) -> None:
    make_node(tmp_path / "disk" / "n1")
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "n1")
    _, old = force(tmp_path / "link")
    assert old == (tmp_path / "disk" / "n1.old-1").resolve()
    assert (tmp_path / "link").is_symlink() and not Found(tmp_path / "link").is_old


def test_a_mounted_directory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_dir = make_node(tmp_path / "n1")
    monkeypatch.setattr(Path, "is_mount", lambda self: self == data_dir)
    assert "mounted" in words(tmp_path, lambda: force(data_dir))


def test_the_newest_snapshot_is_damaged(tmp_path: Path) -> None:
    data_dir = make_node(tmp_path / "n1", (30, SNAPSHOT_INDEX))
    newest = data_dir / f"{SNAPSHOT_INDEX:016d}.snapshot"
    newest.write_bytes(newest.read_bytes()[:-1])
    with offline.stopped_node(data_dir, "n1") as survivor:
        assert survivor.state.machine.state_hash == state_at(LAST_INDEX).state_hash
        assert len(survivor.damaged) == 1 and str(newest) in survivor.damaged[0]


def test_a_log_that_begins_behind_the_snapshot_is_refused(tmp_path: Path) -> None:
    data_dir = make_node(tmp_path / "n1", (30,))
    log = WriteAheadLog.open(RealDisk(), str(data_dir), "n1", new_store_id=5)
    log.append([], None, (LAST_INDEX, 2))
    log.close()
    text = words(data_dir, lambda: force(data_dir))
    assert "the log begins after entry 100, but the newest whole snapshot reaches only to 30" in text


def test_a_log_that_a_received_snapshot_stands_for_is_not_replayed(tmp_path: Path) -> None:
    """Its node died before it reset the log: the entries behind were never committed."""
    data_dir = make_node(tmp_path / "n1")
    store = SnapshotStore.open(RealDisk(), str(data_dir))
    store.begin("received", 80)
    store.write("received", encoded(state_at(80), 3))
    store.finish("received")
    store.close()
    with offline.stopped_node(data_dir, "n1") as survivor:
        assert (survivor.state.machine.last_applied, survivor.state.term, survivor.term) == (80, 3, 4)
    make_node(tmp_path / "n2", (), "n2")
    with offline.stopped_node(tmp_path / "n2", "n2") as survivor:
        assert (survivor.state.machine.last_applied, survivor.state.members.voters) == (LAST_INDEX, MEMBERS)


def test_what_is_no_survivor(tmp_path: Path) -> None:
    data_dir = make_node(tmp_path / "n1")
    assert "there is no node's data here" in words(tmp_path, lambda: force(tmp_path / "none"))
    assert "there is no node's data here" in words(tmp_path, lambda: force(tmp_path))
    assert "belongs to node 'n1', not 'n2'" in words(data_dir, lambda: force(data_dir, "n2"))
    with offline.stopped_node(data_dir, "n1"):
        assert f"in use by process {os.getpid()}" in words(data_dir, lambda: force(data_dir))
    assert Found(data_dir).is_old


def test_a_node_that_never_applied_anything(tmp_path: Path) -> None:
    WriteAheadLog.open(RealDisk(), str(tmp_path / "n1"), "n1", new_store_id=5).close()
    assert "there is nothing to begin a cluster with" in words(tmp_path / "n1", lambda: force(tmp_path / "n1"))
    assert [path.name for path in tmp_path.iterdir()] == ["n1"]


# --- crashes and errors on the way


class Interposed(RealDisk):
    """Calls `before(number of this operation)` ahead of each operation that changes the disk."""

    before: Callable[[int], None]
    operations = 0

    def __init__(self) -> None:
        super().__init__()
        for name in ("sync", "sync_directory", "create", "write", "rename", "unlink", "lock"):
            setattr(self, name, self._interposed(getattr(self, name)))

    def _interposed(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            type(self).operations += 1
            type(self).before(type(self).operations)
            return operation(*arguments)

        return run


def interpose(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None]) -> type[Interposed]:
    disk = type("Disk", (Interposed,), {"before": staticmethod(before)})
    monkeypatch.setattr(offline, "RealDisk", disk)
    return disk


def dies(monkeypatch: pytest.MonkeyPatch, call: Callable[[], object], at: int) -> bool:
    """Run `call` in a process that ends at once, without any clean-up, at that operation. False: it was through."""
    child = os.fork()
    if not child:
        status = 1
        try:
            interpose(monkeypatch, lambda number: os._exit(9) if number == at else None)
            call()
            status = 0
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9)
    return status == 9


def test_a_crash_anywhere_in_a_restore(tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No node starts on what it left; the same call again makes what the first one would have made."""
    expected = restore(backup, tmp_path / "whole")
    refused = 0
    for at in range(1, 500):
        data_dir = tmp_path / f"died-{at}"
        died = dies(monkeypatch, lambda data_dir=data_dir: restore(backup, data_dir), at)
        try:
            offline.settle(data_dir)
        except StorageError as error:
            assert "run the same `zraft-cli restore` again" in str(error)
            refused += 1
        else:
            if data_dir.exists() and any(data_dir.iterdir()):
                assert Found(data_dir).hash == state_at(LAST_INDEX).state_hash
                shutil.rmtree(data_dir)
        assert restore(backup, data_dir) == expected
        assert not (data_dir / MARK_NAME).exists() and Found(data_dir).cluster_id == expected.cluster_id
        if not died:
            break
    assert not died and refused > 15


def test_a_crash_anywhere_in_force_new_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that starts then finds all of the old data or all of the new; never nothing."""
    outcomes = set()
    for at in range(1, 500):
        folder = tmp_path / f"died-{at}"
        data_dir = make_node(folder / "n1")
        died = dies(monkeypatch, lambda data_dir=data_dir: force(data_dir), at)
        found = Found(data_dir)
        assert found.hash == state_at(LAST_INDEX).state_hash
        outcomes.add(found.is_old)
        kept = folder / "n1.old-1"
        assert found.is_old or Found(kept).is_old
        force(data_dir)
        assert not Found(data_dir).is_old
        assert names(folder) == ["n1", "n1.old-1", "n1.old-2"][: 2 if found.is_old else 3]
        shutil.rmtree(folder)
        if not died:
            break
    assert not died and outcomes == {True, False}


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_an_error_anywhere_leaves_what_was_there(
    tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch, failure: int
) -> None:
    """From that operation on, all fail until the call ends."""

    def fail_from(first: int) -> Callable[[int], None]:
        def before(number: int) -> None:
            if number >= first:
                raise OSError(failure, os.strerror(failure))

        return before

    data_dir = make_node(tmp_path / "n1")
    for at in range(1, 100, 3):
        disk = interpose(monkeypatch, fail_from(at))
        try:
            with pytest.raises(StorageError) as caught:
                restore(backup, tmp_path / "new")
            assert "\n" not in str(caught.value)
            assert not (tmp_path / "new").exists() or not any((tmp_path / "new").iterdir())
            disk.operations = 0
            with pytest.raises(StorageError) as caught:
                force(data_dir)
            assert "\n" not in str(caught.value)
        except BaseException:
            if disk.operations < at:
                break
            raise
        monkeypatch.setattr(offline, "RealDisk", RealDisk)
        found = Found(data_dir)
        assert found.hash == state_at(LAST_INDEX).state_hash
        if not found.is_old:
            break


def test_the_old_data_goes_back_if_the_new_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Disk(RealDisk):
        def rename(self, source: str, target: str) -> None:
            if source.endswith(".new-cluster"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().rename(source, target)

    data_dir = make_node(tmp_path / "n1")
    monkeypatch.setattr(offline, "RealDisk", Disk)
    with pytest.raises(StorageError, match="cannot put .*new-cluster in its place: Input/output error"):
        force(data_dir)
    assert names(tmp_path) == ["n1"] and Found(data_dir).is_old


def test_ctrl_c_in_a_restore_leaves_nothing(tmp_path: Path, backup: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(number: int) -> None:
        if number == 12:
            raise KeyboardInterrupt

    interpose(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        restore(backup, tmp_path / "new")
    assert not any((tmp_path / "new").iterdir())


def test_two_restores_into_one_directory_at_once(tmp_path: Path, backup: Path) -> None:
    (tmp_path / "new").mkdir()
    other = RealDisk().lock(str(tmp_path / "new" / MARK_NAME))
    assert "another program is restoring" in words(tmp_path / "new", lambda: restore(backup, tmp_path / "new"))
    os.close(other)
    restore(backup, tmp_path / "new")


def test_a_node_that_starts_leaves_the_work_of_another_program_alone(tmp_path: Path) -> None:
    data_dir = make_node(tmp_path / "n1")
    with offline.stopped_node(data_dir, "n1"):
        (tmp_path / "n1.new-cluster").mkdir()
        assert "in use by process" in words(tmp_path, lambda: offline.settle(data_dir))
    offline.settle(data_dir)
    assert not (tmp_path / "n1.new-cluster").exists()
