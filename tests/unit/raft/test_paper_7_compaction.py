"""Paper, section 7: how much of the log a snapshot lets go of, and a node that begins with one."""

from __future__ import annotations

import pytest
from cluster_harness import SETTINGS, Cluster
from snapshot_cases import follower, grow, left_behind

from zraft.errors import NodeMustStop
from zraft.messages import AppendEntries


def test_compaction_keeps_what_is_behind_the_older_snapshot() -> None:
    cluster = Cluster(1)
    cluster.elect("n1")
    node = cluster["n1"]
    cluster.run(50)
    seen = []
    for _ in range(3):
        grow(cluster, "n1")
        seen.append((node.raft.snapshot.index, node.raft.log.base_index, node.disk.base[0]))
    assert seen == [(4, 0, 0), (7, 4, 4), (10, 7, 7)]


def test_compaction_keeps_some_entries_for_followers_that_lag() -> None:
    cluster = Cluster(1)
    cluster.elect("n1")
    node = cluster["n1"]
    node.raft.settings = SETTINGS._replace(snapshot_keep=8)
    for expected in (0, 0, 2, 5):
        grow(cluster, "n1")
        assert node.raft.log.base_index == expected == node.raft.snapshot.index - 8 or not expected


def test_compaction_keeps_fewer_entries_where_they_are_batches() -> None:
    cluster = Cluster(1)
    cluster.elect("n1")
    raft = cluster["n1"].raft
    raft.settings = SETTINGS._replace(snapshot_keep=100)
    for spare, expected in ((0, 0), (2, 2), (3, 3), (2, 3), (9, 9), (99, 16)):
        raft.on_applied(raft.applied_index, spare)
        grow(cluster, "n1")
        assert raft.log.base_index == expected, "at most what is behind the older snapshot"


def test_nothing_goes_before_a_new_applier_has_said_what_it_holds() -> None:
    """It may have loaded the snapshot before those that were saved meanwhile."""
    cluster = Cluster(1)
    cluster.elect("n1")
    node = cluster["n1"]
    cluster.run(50)
    for _ in range(2):
        grow(cluster, "n1")
    assert node.raft.log.base_index == 4
    cluster.propose(node, b"x", b"y", b"z")
    cluster.settle()
    cluster.take_snapshot(node)
    cluster.input(node, lambda raft: raft.on_applier_lost())
    cluster.store(node)
    cluster.notify(node)
    assert (node.raft.snapshot.index, node.raft.log.base_index) == (10, 4)
    node.stand()
    cluster.run(2 * SETTINGS.heartbeat_ms)
    assert node.raft.log.base_index == 7


def test_what_is_kept_and_what_is_held_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zraft.raft.log.MARK_BYTES", 1)  # each append has a mark
    for name, settings in (("MAX_KEPT_BYTES", SETTINGS._replace(snapshot_keep=100)), ("MAX_HELD_BYTES", SETTINGS)):
        cluster = Cluster(3)
        cluster.elect("n1")
        cluster.run(200)
        raft = cluster["n1"].raft
        raft.settings = settings
        if name == "MAX_HELD_BYTES":
            cluster.drop = lambda packet: packet.receiver == "n3" and type(packet.message) is AppendEntries
        for size_bytes, has_gone in ((1000, False), (2, True)):
            monkeypatch.setattr(f"zraft.raft.snapshots.{name}", size_bytes)
            for _ in range(3):
                grow(cluster, "n1")
                cluster.run(100)
            assert (raft.log.base_index > 1) == has_gone, name


@pytest.mark.parametrize(("held", "base"), [(100, 1), (5, 8), (0, 10)])
def test_compaction_holds_back_for_a_follower_that_answers_but_not_for_ever(
    held: int, base: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zraft.raft.snapshots.MAX_HELD_ENTRIES", held)
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.run(200)
    cluster.drop = lambda packet: packet.receiver == "n3" and type(packet.message) is AppendEntries
    raft = cluster["n1"].raft
    for _ in range(4):
        grow(cluster, "n1")
        just_behind_it = raft.log.base_index
        cluster.run(100)
    assert raft.snapshot.index == 13 and just_behind_it == base
    assert raft.log.base_index == (1 if held == 100 else 10), "who is sent a snapshot holds nothing back"


@pytest.mark.parametrize("is_away", [False, True])
def test_what_a_follower_held_back_goes_when_it_has_it_or_is_away_although_nothing_is_written(is_away: bool) -> None:
    cluster = Cluster(3)
    cluster.elect("n1")
    cluster.run(200)
    raft = cluster["n1"].raft
    cluster.drop = lambda packet: packet.receiver == "n3" and (is_away or type(packet.message) is AppendEntries)
    for _ in range(3):
        grow(cluster, "n1")
    assert raft.snapshot.older_index == 7 and raft.log.base_index == 1
    if not is_away:
        cluster.drop = lambda packet: False
    cluster.run(1000)
    assert raft.log.base_index == (1 if is_away else 7), "who is away for a second comes back"
    cluster.run(2500)
    assert raft.log.base_index == 7


def test_an_older_snapshot_that_was_found_damaged_is_not_relied_on() -> None:
    cluster = Cluster(1)
    cluster.elect("n1")
    raft = cluster["n1"].raft
    raft.settings = SETTINGS._replace(snapshot_keep=100)
    for _ in range(3):
        grow(cluster, "n1")
    assert raft.snapshot.older_index == 7 and raft.log.base_index == 0
    disk = cluster["n1"].disk
    del disk.snapshots[0]
    raft.on_snapshot_saved(disk.saved())  # from a new snapshot_writer, which looked at both
    raft.settings = SETTINGS
    cluster.run(200)
    assert raft.log.base_index == 0


def test_a_node_whose_log_begins_after_its_newest_whole_snapshot_stops_in_words() -> None:
    cluster = left_behind()
    node = cluster["n1"]
    cluster.stop(node)
    node.disk.snapshots = [node.disk.snapshots[0]._replace(index=3)]
    cluster.start(node)
    assert not node.running
    assert "the log begins after entry 4, but the newest whole snapshot reaches only to 3" in node.stop_reason
    assert "Bring the missing snapshot file back; or remove this node" in node.stop_reason


def test_an_older_snapshot_is_enough_when_the_newer_one_is_damaged() -> None:
    cluster = left_behind()
    node = cluster["n2"]
    cluster.stop(node)
    del node.disk.snapshots[-1]
    cluster.start(node)
    cluster.run(300)
    assert node.applied == cluster["n1"].applied and node.raft.snapshot.index == 4


def test_durable_entries_that_the_applier_had_and_the_log_has_not_stop_the_node() -> None:
    cluster, node = follower([1, 1, 2])
    with pytest.raises(NodeMustStop, match="4 entries were applied, those up to 3 are there"):
        node.raft.on_applier_restarted(4, 0)


def test_a_replay_that_takes_long_says_how_far_it_is() -> None:
    cluster = Cluster(1)
    node = cluster.elect("n1")
    cluster.propose(node, *[b"x"] * 99)
    cluster.run(20)
    cluster.restart("n1")
    raft = node.raft
    assert raft.replay_until == raft.log.last_index == 100
    for index in (20, 40, 60, 80, 100):
        raft.now_ms += 600
        raft.on_applied(index)
    assert [note for note in raft.output.notes if "replays" in note] == [
        "replays the log: entry 60 of 100",
    ]
    assert not raft.replay_until
