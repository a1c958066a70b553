"""Clusters in which somebody needs a snapshot."""

from __future__ import annotations

from cluster_harness import SETTINGS, Cluster, Node
from model_disk import Snapshot

from zraft.messages import Entry, EntryKind
from zraft.raft import SavedSnapshot

_, MOST = SETTINGS.election_timeout_ms


def snapshot(cluster: Cluster, *names: str) -> None:
    """Taken, and durable."""
    for name in names:
        cluster.take_snapshot(cluster[name])
    cluster.settle()


def grow(cluster: Cluster, *names: str) -> None:
    """Three more entries, and a snapshot behind them, at these nodes."""
    cluster.propose(cluster.leader(), b"x", b"y", b"z")
    cluster.run(60)  # so that followers know of the commit
    snapshot(cluster, *names)


def left_behind(size: int = 3) -> Cluster:
    """n1 leads; n3 holds the first entry only and is cut off; n1 and n2 begin their logs after entry 4, of 10; their
    snapshots are of 4 and 7."""
    cluster = Cluster(size)
    cluster.elect("n1")
    cluster.run(200)
    cluster.isolate("n3")
    cluster.run(MOST + 10)
    for _ in range(2):
        grow(cluster, *[name for name in cluster.nodes if name != "n3"])
    cluster.propose(cluster["n1"], b"x", b"y", b"z")
    cluster.settle()
    assert cluster["n1"].raft.log.base_index == 4 == cluster["n1"].disk.base[0]
    assert cluster["n1"].raft.snapshot.index == 7 and cluster["n3"].raft.log.last_index == 1
    return cluster


def settled(cluster: Cluster, within_ms: int = 3_000) -> None:
    """n3 has all that n1 has."""
    cluster.heal()
    want = cluster["n1"].applied
    assert cluster.run(within_ms, until=lambda: len(cluster["n3"].applied) >= len(want) and not cluster.network)
    assert cluster["n3"].applied == cluster.leader().applied


def follower(log: list[int]) -> tuple[Cluster, Node]:
    """n2 in term 3 with a log of these terms; n1 leads."""
    cluster = Cluster(3, check=False)
    cluster.write_log("n2", log, term=3)
    return cluster, cluster["n2"]


def saved_snapshot(node: Node, index: int, term: int) -> SavedSnapshot:
    """It is on n2's disk."""
    entries = [Entry(min(term, 1 + place // 2), 0, EntryKind.COMMAND, b"%d" % place) for place in range(index)]
    config = node.founding._replace(cluster_id=9).encode()
    node.disk.save(Snapshot(index, term, config, tuple(entries)))
    return node.disk.saved()
