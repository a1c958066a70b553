"""Traps 4, 5, 19 and 25 of section 4 of the design: snapshots. The transfer itself is in test_paper_7_snapshots."""

from __future__ import annotations

import pytest
from cluster_harness import SETTINGS, Cluster, Packet
from model_disk import Snapshot
from test_traps import command, led, to

from zraft.messages import AppendEntries, AppendReply, Entry, EntryKind, InstallSnapshot
from zraft.raft import Address, Role

_, MOST = SETTINGS.election_timeout_ms


def moved(cluster: Cluster, number: int) -> dict[str, Address]:
    return {name: Address(f"tcp://{name}:{number}", f"tcp://{name}:2") for name in cluster.nodes}


def with_snapshots(members: bool = False) -> Cluster:
    """n3 was away from the first entry on; n1 and n2 have snapshots of 4 and 7 or (members) one entry more, which is a
    CONFIG."""
    cluster = led()
    cluster.isolate("n3")
    cluster.run(MOST + 10)
    if members:
        cluster.reconfigure(cluster["n1"], moved(cluster, 99))
    for _ in range(2):
        cluster.propose(cluster["n1"], b"x", b"y", b"z")
        cluster.run(60)
        for name in ("n1", "n2"):
            cluster.take_snapshot(cluster[name])
        cluster.settle()
    return cluster


def test_trap_03_04_a_truncated_members_entry_behind_a_snapshot_restores_the_snapshots_members() -> None:
    cluster = with_snapshots(members=True)
    cluster.heal()
    cluster.run(1_000)
    node = cluster["n3"]
    last = node.raft.log.last_index
    assert node.raft.log.base_index == last == 8 and node.raft.membership.voters == moved(cluster, 99)
    config = node.raft.membership._replace(voters=moved(cluster, 5)).encode()
    uncommitted = Entry(1, 10_000, EntryKind.CONFIG, config)
    cluster.deliver(Packet("n1", "n3", AppendEntries(1, last, 1, last, (uncommitted,))))
    assert node.raft.membership.voters == moved(cluster, 5)
    cluster.deliver(Packet("n2", "n3", AppendEntries(2, last, 1, last, (command(2),))))
    assert node.raft.membership.voters == moved(cluster, 99) and node.raft.configs[0][0] == 8


def test_trap_04_a_snapshot_brings_the_members_that_it_covers() -> None:
    cluster = with_snapshots(members=True)
    assert cluster["n3"].raft.membership.voters != moved(cluster, 99)
    cluster.heal()
    cluster.run(1_000)
    assert cluster["n3"].raft.log.base_index == 8 and cluster["n3"].raft.membership.voters == moved(cluster, 99)
    cluster.restart("n3")
    assert cluster["n3"].raft.membership.voters == moved(cluster, 99), "also from the disk alone"


def test_trap_05_a_snapshot_at_or_below_the_commit_index_is_ignored() -> None:
    cluster = with_snapshots()
    node = cluster["n2"]
    before = (node.raft.log.last_index, node.raft.commit_index, node.raft.log.base_index)
    for index in (2, 4, node.raft.commit_index):
        cluster.deliver(Packet("n1", "n2", InstallSnapshot(1, index, 1, 0, 9, b"something")))
        assert to(cluster, "n1") == [AppendReply(1, True, node.raft.commit_index, 0, 0)], (
            "no loop: it says how far it is"
        )
        cluster.network.clear()
    assert not node.disk.files and not node.must_load
    assert before == (node.raft.log.last_index, node.raft.commit_index, node.raft.log.base_index)


def test_trap_05_a_snapshot_that_is_saved_when_more_is_committed_drops_nothing() -> None:
    cluster = led()
    node = cluster["n3"]
    cluster.propose(cluster["n1"], b"a", b"b", b"c")
    cluster.run(100)
    cluster.take_snapshot(node)
    cluster.propose(cluster["n1"], b"d")
    cluster.run(100)
    assert node.raft.snapshot.index == 4 and node.raft.log.last_index == 5 == node.raft.commit_index
    assert node.raft.log.base_index == 0 and len(node.applied) == 5 and not node.must_load


def test_trap_05_a_snapshot_that_conflicts_with_the_log_drops_all_of_it() -> None:
    """n3 led alone and has more entries than the snapshot; none of them is committed, and all of them go."""
    cluster = led()
    old = cluster["n3"]
    cluster.input(cluster["n1"], lambda raft: raft.transfer_leadership("n3"))
    cluster.run(200)
    assert old.raft.role is Role.LEADER
    cluster.isolate("n3")
    cluster.propose(old, *[b"alone"] * 20)
    cluster.complete(old)
    cluster.notify(old)
    cluster.run(4 * MOST, until=lambda: any(node.id != "n3" for node in cluster.leaders()))
    for _ in range(2):
        cluster.propose(cluster.leader(), b"x", b"y")
        cluster.run(MOST + 10)
        for name in ("n1", "n2"):
            cluster.take_snapshot(cluster[name])
        cluster.settle()
    leader = cluster.leader()
    index = leader.raft.snapshot.index
    assert leader.raft.log.base_index > 2 and index < old.raft.log.last_index
    cluster.heal()
    cluster.run(2_000)
    assert old.raft.log.base_index == index == old.disk.base[0] and old.applied == leader.applied
    assert b"alone" not in [entry.data for entry in old.disk.entries[index:]]


@pytest.mark.parametrize("written", range(3))
@pytest.mark.parametrize("filed", range(4))
@pytest.mark.parametrize("told", [False, True])
def test_trap_19_a_crash_at_each_step_of_installing_a_snapshot(
    written: int, filed: int, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces on their way to the disk, some of them or all there, consensus told of it or not, its log begun anew on
    disk or not, the state loaded or not."""
    monkeypatch.setattr("zraft.raft.progress.SNAPSHOT_PIECE_BYTES", 400)
    cluster = with_snapshots()
    node = cluster["n3"]
    node.disk.stalled = True
    cluster.heal()
    cluster.run(400, until=lambda: node.disk.files)
    assert len(node.disk.files) == 3
    if told:
        cluster.store(node, filed)
        cluster.notify(node)
        assert bool(node.must_load) == (filed == 3)
    cluster.stop(node, written, 0, 0 if told else filed)
    assert bool(node.disk.snapshots) == (filed == 3)
    cluster.start(node)
    assert node.raft.log.base_index == (7 if filed == 3 else 0)
    node.disk.stalled = False
    cluster.run(1_000)
    assert node.applied == cluster["n1"].applied and node.disk.base[0] == 7
    cluster.restart("n3")
    cluster.run(100)
    assert node.applied == cluster["n1"].applied


@pytest.mark.parametrize("actor", ["consensus", "log_writer", "applier", "snapshot_writer"])
@pytest.mark.parametrize("step", ["piece", "saved", "adopted", "reset", "loaded"])
def test_trap_19_an_actor_dies_at_each_step_of_installing_a_snapshot(actor: str, step: str) -> None:
    cluster = with_snapshots()
    node = cluster["n3"]
    node.disk.stalled = True
    cluster.heal()
    cluster.run(400, until=lambda: node.disk.files)
    assert len(node.disk.files) == 1
    if step != "piece":
        cluster.store(node)
    if step not in ("piece", "saved"):
        cluster.notify(node)
        assert node.must_load and node.disk.queue[0].reset == (7, 1)
    if step in ("reset", "loaded"):
        cluster.complete(node)
    if step == "loaded":
        cluster.load(node)
    if actor == "consensus":
        cluster.restart_consensus(node)
    elif actor == "log_writer":
        cluster.restart_log_writer(node)
    elif actor == "applier":
        cluster.restart_applier(node)
    else:
        cluster.restart_snapshot_writer(node)
    node.disk.stalled = False
    cluster.run(1_500)
    assert node.applied == cluster["n1"].applied and node.disk.base == (7, 1)
    last = cluster.propose(cluster["n1"], b"after")
    cluster.run(100)
    assert len(node.applied) == last


@pytest.mark.parametrize("filed", range(2))
def test_trap_19_a_crash_while_a_snapshot_is_taken_leaves_the_one_before(filed: int) -> None:
    cluster = with_snapshots()
    node = cluster["n2"]
    cluster.propose(cluster["n1"], b"x")
    cluster.run(60)
    node.disk.stalled = True
    cluster.take_snapshot(node)
    cluster.stop(node, filed=filed)
    assert node.disk.saved().index == (8 if filed else 7)
    node.disk.stalled = False
    cluster.start(node)
    assert node.raft.commit_index >= 7 and node.raft.log.base_index == 4
    cluster.run(200)
    assert node.applied == cluster["n1"].applied


def test_trap_25_only_what_two_snapshots_cover_leaves_the_log() -> None:
    """compacted <= older snapshot <= snapshot <= applied <= committed, at every moment (`cluster_invariants`)."""
    cluster = led()
    node = cluster["n1"]
    node.disk.stalled = True
    cluster.take_snapshot(node)
    cluster.propose(node, b"x")
    cluster.settle()
    assert node.raft.snapshot.index == 0, "not durable"
    node.disk.stalled = False
    cluster.settle()
    assert (node.raft.snapshot.index, node.raft.log.base_index) == (1, 0)
    cluster.take_snapshot(node)
    cluster.settle()
    assert (node.raft.snapshot.index, node.raft.log.base_index, node.disk.base[0]) == (2, 1, 1)


def test_trap_25_nothing_that_the_applier_has_not_applied_leaves_the_log() -> None:
    """Both snapshots came from elsewhere, while the log held what they cover and the applier was behind."""
    cluster = led()
    node = cluster["n3"]
    first = cluster.propose(cluster["n1"], *[b"%d" % number for number in range(6)])
    cluster.run(100)
    for index in (first + 2, first + 4):
        node.disk.save(Snapshot.of(node.applied[:index]))
    node.raft.applied_index = first
    saved = node.disk.saved()
    node.raft.on_snapshot_saved(saved)
    assert node.raft.log.base_index == first < saved.older_index
