"""Logs that end: snapshots taken, installed, lost, damaged, backed up and restored, with real processes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from cluster import Cluster, Node, eventually
from probe import fill
from snapshot_kills import Compacting, SnapshotKills
from workload import Workload

from zraft import Client

OFTEN = {"entries": 200, "keep": 50}
SEGMENT_BYTES = 16 * 1024 * 1024


def snapshots_of(node: Node) -> list[Path]:
    """Its snapshot files, the older first."""
    return sorted(Path(node.config["data_dir"]).glob("*.snapshot"))


def disk_bytes(node: Node) -> int:
    """What its data directory takes, with the segment that is prepared for later."""
    return sum(path.stat().st_size for path in Path(node.config["data_dir"]).iterdir())


def contents(endpoints: str | list[str]) -> list[tuple[bytes, bytes, int, int, int]]:
    """All keys with all that a range tells of them."""
    with Client(endpoints, timeout=20.0) as client:
        return [
            (entry.key, entry.value, entry.create_revision, entry.mod_revision, entry.version)
            for entry in client.range(b"")
        ]


def program(name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run one of zraft's programs to its end."""
    command = [sys.executable, "-m", f"zraft.cli.{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60)


def cli(*arguments: str) -> str:
    """What zraft-cli printed; it must have done what it was told."""
    done = program("main", *arguments)
    assert done.returncode == 0, done
    return done.stdout


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_log_ends(make_cluster: Callable[..., Cluster]) -> None:
    """64 MiB of writes to 2 MiB of state; behind snapshots the segments go."""
    cluster = make_cluster(snapshot={"entries": 8, "bytes": 4 * 1024 * 1024, "keep": 4})
    value = bytes(512 * 1024)
    with Client(cluster.endpoints, timeout=30.0) as client:
        for number in range(128):
            client.set(f"k{number % 4}", value)
    cluster.wait_converged()
    for node in cluster.nodes.values():
        names = sorted(path.name for path in Path(node.config["data_dir"]).glob("*.wal"))
        assert "0000000000000001.wal" not in names and len(names) <= 2, names
        assert len(snapshots_of(node)) == 2
        assert disk_bytes(node) < 3 * SEGMENT_BYTES + 3 * 4 * len(value)

    node.kill()
    for path in snapshots_of(node):
        flip_a_byte(path)
    refused = program("node", str(node.config_path))
    assert refused.returncode == 1 and "Traceback" not in refused.stderr, refused
    assert "what lies between was damaged or removed" in refused.stderr.splitlines()[-1], refused.stderr


def catch_up(make_cluster: Callable[..., Cluster], writes: int, settings: dict[str, int]) -> float:
    """Bring a follower that missed so many writes up to date, under load. Returns how many seconds that took."""
    cluster = make_cluster(snapshot=settings)
    leader, away = cluster.leader(), cluster.followers()[0]
    fill(cluster.endpoints, 500)
    away.kill()
    missed = leader.status()["last_index"]
    fill(cluster.endpoints, writes)
    eventually("the log behind is gone", lambda: leader.status()["compacted_index"] > missed)
    term = leader.status()["term"]
    with Workload(cluster.endpoints, threads=8, clients=2) as work:
        work.wait_for(50)
        away.start()
        started = time.monotonic()

        def is_level() -> bool:
            report = cluster.statuses([away]).get(away.name, {})
            return int(report.get("last_applied") or 0) >= leader.status()["commit_index"] - 200

        eventually(f"{away.name} is up to date", is_level, 60.0)
        took_seconds = time.monotonic() - started
        work.wait_for(100)
        # At the size of the default run's state a snapshot comes in two pieces; that it came at all is in the log.
        assert "adopts a snapshot" in away.log() and "loaded the snapshot" in away.log()
        assert leader.status()["role"] == "leader" and leader.status()["term"] == term
    assert work.unknown == 0 and work.longest_pause_seconds < 2.0, work.summary()
    work.check(cluster)
    return took_seconds


def test_a_follower_that_was_away_catches_up_by_snapshot_under_load(make_cluster: Callable[..., Cluster]) -> None:
    catch_up(make_cluster, 5_000, OFTEN)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_follower_that_was_away_for_200_000_writes(make_cluster: Callable[..., Cluster]) -> None:
    """With the settings that a node has by default."""
    print(f"up to date after {catch_up(make_cluster, 200_000, {}):.1f} s")


def test_all_nodes_start_from_snapshots_and_from_the_older_one_if_the_newest_is_damaged(
    make_cluster: Callable[..., Cluster],
) -> None:
    cluster = make_cluster(snapshot=OFTEN)
    with Workload(cluster.endpoints, threads=16, clients=2) as work:
        eventually("two snapshots each", lambda: all(len(snapshots_of(node)) == 2 for node in cluster.running), 30.0)
        work.wait_for(300)
    before = contents(cluster.endpoints)
    for node in cluster.nodes.values():
        node.kill()
    for node in cluster.nodes.values():
        node.start()
    work.check(cluster)
    assert contents(cluster.endpoints) == before
    assert all("loaded the snapshot of the first" in node.log() for node in cluster.nodes.values())

    leader = cluster.leader()
    for node in cluster.nodes.values():
        node.kill()
    older, newest = snapshots_of(leader)
    flip_a_byte(newest)
    cluster.expected_complaints.append(str(newest))
    for node in cluster.nodes.values():
        node.start()
    work.check(cluster)
    assert contents(cluster.endpoints) == before
    assert f"{newest}: snapshot corrupt at byte" in leader.log() and "it is not used" in leader.log()
    assert f"loaded the snapshot of the first {int(older.stem)} entries" in leader.log()

    leader.kill()
    for path in snapshots_of(leader):
        flip_a_byte(path)
        cluster.expected_complaints.append(str(path))
    leader.start()  # the first segment of its log is there still
    work.check(cluster)
    assert contents(cluster.endpoints) == before


def wipe_and_restore(cluster: Cluster, file: Path) -> list[str]:
    """Kill all nodes, and make a new cluster from the backup. Returns what the restores printed."""
    for node in cluster.nodes.values():
        node.kill()
        shutil.rmtree(node.config["data_dir"])
    printed = [cli("-c", str(node.config_path), "restore", str(file)) for node in cluster.nodes.values()]
    for node in cluster.nodes.values():
        node.start()
    cluster.leader()
    return printed


def test_backup_wipe_restore(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    """The keys are the same ones, revisions too; a client that was there before goes on as if nothing had been."""
    cluster = make_cluster(snapshot=OFTEN)
    file = tmp_path / "backup"
    options = [part for endpoint in cluster.endpoints for part in ("-e", endpoint)]
    with Client(cluster.endpoints, timeout=20.0) as client:
        for number in range(600):
            client.set(f"k{number % 100}", str(number))
        client.delete("k7")
        before, printed = contents(cluster.endpoints), cli(*options, "range", "")
        answer = json.loads(cli(*options, "-o", "json", "backup", str(file)))
        assert answer["bytes"] == file.stat().st_size
        client.set("k1", "after the backup")
        made = wipe_and_restore(cluster, file)
        assert all(f"{len(before)} keys at revision 601" in line for line in made), made
        assert contents(cluster.endpoints) == before
        assert cli(*options, "range", "") == printed
        assert client.set("k1", "again") == 602
    cluster.wait_converged()
    assert len({report["cluster_id"] for report in cluster.statuses().values()}) == 1


def test_a_session_that_the_backup_does_not_know_is_nobodys(
    make_cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    """It must not be taken for one that the new cluster opened at the same place, whose writes would then count as
    answered."""
    cluster = make_cluster(size=1)
    with ExitStack() as stack:

        def client() -> Client:
            return stack.enter_context(Client(cluster.endpoints, timeout=20.0))

        first = client()
        first.set("k", "in the backup")
        cli("-e", cluster.endpoints[0], "backup", str(tmp_path / "backup"))
        young = []
        for number in range(6):
            young.append(client())
            young[-1].set("young", "in a session that the backup does not know")
            if number == 2:
                first.set("k", "so that the next sessions have odd numbers, or even ones")
        wipe_and_restore(cluster, tmp_path / "backup")
        others = [client() for _ in range(8)]
        for number, other in enumerate(others):
            other.set(f"others/{number}", "first")
        for one in young:
            one.set("young", "in a new session")
        for number, other in enumerate(others):
            other.set(f"others/{number}", "second")
        assert [value for _, value in first.range("others/")] == [b"second"] * len(others)
        assert first.get("young") == b"in a new session"


def leads(cluster: Cluster, node: Node) -> bool:
    return cluster.statuses([node]).get(node.name, {}).get("role") == "leader"


def run_alone(cluster: Cluster, node: Node) -> None:
    """Have the node go on alone; end it once it leads."""
    command = [sys.executable, "-m", "zraft.cli.node", str(node.config_path), "--force-new-cluster", "--yes"]
    with open(node.log_path, "ab") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually("it leads", lambda: leads(cluster, node))
        finally:
            process.terminate()
    assert process.returncode == 0


def test_force_new_cluster_on_the_one_that_is_left(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(snapshot=OFTEN)
    with Client(cluster.endpoints, timeout=10.0) as client:
        for number in range(500):
            client.set(f"k{number % 50}", str(number))
    cluster.wait_converged()
    before = contents(cluster.endpoints)
    survivor, *others = cluster.nodes.values()
    in_use = program("node", str(survivor.config_path), "--force-new-cluster", "--yes")
    assert in_use.returncode == 1 and f"in use by process {survivor.pid}" in in_use.stderr
    for node in cluster.nodes.values():
        node.kill()
    asked = program("node", str(survivor.config_path), "--force-new-cluster", stdin="no\n")
    assert asked.returncode == 1 and asked.stderr.endswith("zraft-node: nothing was changed\n"), asked
    assert not list(cluster.folder.glob("n1.*-*"))

    run_alone(cluster, survivor)
    survivor.start()
    eventually("it leads", lambda: leads(cluster, survivor))
    assert contents(survivor.endpoint) == before
    assert [member["id"] for member in survivor.status()["members"]] == ["n1"]
    assert (cluster.folder / "n1.old-1" / "meta").exists()
    with Client(survivor.endpoint) as client:
        client.set("k1", "of the new cluster")
    for node in others:
        node.start()
    leader = eventually("one of them leads", lambda: next((node for node in others if leads(cluster, node)), None))
    words = f"a frame from '{leader.name}' was dropped: it belongs to cluster"
    eventually("it is refused", lambda: words in survivor.log())
    assert contents(survivor.endpoint) != before
    assert contents([node.endpoint for node in others]) == before
    # Once more, after a restart: it is alone already, and nothing is done to it.
    survivor.kill()
    run_alone(cluster, survivor)
    assert not (cluster.folder / "n1.old-2").exists()


def kill_rounds(make_cluster: Callable[..., Cluster], rounds: int, seed: int) -> tuple[SnapshotKills, Workload]:
    """Under writes, and while each node takes one snapshot after the other."""
    cluster = make_cluster(snapshot={"entries": 100, "keep": 20})
    with Client(cluster.endpoints, timeout=20.0) as client:
        for number in range(40):  # a state that takes a while to be sent
            client.set(f"large/{number}", bytes([number]) * 50_000)
    with Workload(cluster.endpoints, threads=8, clients=4, timeout_seconds=30.0) as work:
        kills = SnapshotKills(cluster, work, seed)
        with Compacting(cluster):
            work.wait_for(200)
            kills.rounds(rounds, entries_away=250)
        work.wait_for(50)
        eventually("all nodes answer", lambda: len(cluster.statuses()) == len(cluster.nodes), 30.0)
    work.check(cluster)
    assert any("adopts a snapshot" in node.log() for node in cluster.nodes.values())
    return kills, work


def test_kills_while_snapshots_are_taken_and_installed(make_cluster: Callable[..., Cluster]) -> None:
    kills, _ = kill_rounds(make_cluster, 10, seed=5)
    assert kills.counts["kills"] >= 10, kills.summary()


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_200_rounds_of_kills_while_snapshots_are_taken_and_installed(make_cluster: Callable[..., Cluster]) -> None:
    started = time.monotonic()
    kills, work = kill_rounds(make_cluster, 200, seed=6)
    print(f"{time.monotonic() - started:.0f} s; {kills.summary()}; writes: {work.summary()}")
    assert kills.counts["taking a snapshot"] >= 10 and kills.counts["installing a snapshot"] >= 10, kills.summary()
