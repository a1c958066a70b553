"""How long the service is away when something dies, with the shipped timeouts; and that load alone is no death.

The figures depend on the machine and on what else it does; `pytest -s` shows them as a table.
"""

from __future__ import annotations

import os
import statistics
import time

import pytest
from cluster import ACTORS, Cluster, eventually
from probe import Prober, fill
from workload import Workload

pytestmark = pytest.mark.long

KILLS = int(os.environ.get("ZRAFT_TEST_KILLS", "20"))
"""Of each actor."""
LEADER_KILLS = 10
LOG_ENTRIES = int(os.environ.get("ZRAFT_TEST_LOG_ENTRIES", "10000"))
LOAD_SECONDS = float(os.environ.get("ZRAFT_TEST_LOAD_SECONDS", "600"))


def row(what: str, gaps: list[float]) -> str:
    """One line of a table, in milliseconds."""
    ordered = [f"{gap * 1000:6.0f}" for gap in (min(gaps), statistics.median(gaps), max(gaps))]
    return f"{what:28} {len(gaps):5} {' '.join(ordered)}"


HEADING = f"{'longest pause of writes, ms':28} kills  least median  worst"


@pytest.mark.timeout(900)
def test_any_actor_of_the_leader_dies(cluster: Cluster) -> None:
    """Back within 1 s (median of 20 kills of each actor), at worst 2 s, in the same process."""
    fill(cluster.endpoints, LOG_ENTRIES)
    pids = {node.name: node.pid for node in cluster.running}
    gaps: dict[str, list[float]] = {}
    with Prober(cluster.endpoints) as prober:
        for actor in ACTORS:
            gaps[actor] = []
            for _ in range(KILLS):
                node = cluster.leader()
                lives = node.incarnations()[actor]
                prober.wait_steady()
                killed = time.monotonic()
                node.kill_actor(actor)
                prober.wait_steady()
                gaps[actor].append(prober.longest_gap_seconds(killed))
                assert node.incarnations()[actor] == lives + 1
    reports = cluster.wait_converged()
    table = [HEADING, *(row(actor, gaps[actor]) for actor in ACTORS)]
    print("\n" + "\n".join(table), f"\nlog: {reports['n1']['last_index']} entries at the end, {LOG_ENTRIES} at first")
    assert {node.name: node.pid for node in cluster.running} == pids
    for actor in ACTORS:
        assert statistics.median(gaps[actor]) < 1.0, actor
        assert max(gaps[actor]) < 2.0, actor


@pytest.mark.timeout(300)
def test_the_leaders_process_dies(cluster: Cluster) -> None:
    """SIGKILL: the longest pause of writes is under 600 ms, median of 10."""
    fill(cluster.endpoints, LOG_ENTRIES)
    gaps = []
    with Prober(cluster.endpoints) as prober:
        for _ in range(LEADER_KILLS):
            leader = cluster.leader()
            prober.wait_steady()
            killed = time.monotonic()
            leader.kill()
            prober.wait_steady()
            gaps.append(prober.longest_gap_seconds(killed))
            leader.start()
            cluster.wait_following(leader)
            eventually("it has caught up", lambda leader=leader: is_caught_up(cluster, leader.name))
    reports = cluster.wait_converged()
    print("\n" + HEADING + "\n" + row("the leader's process", gaps), f"\nlog: {reports['n1']['last_index']} entries")
    assert statistics.median(gaps) < 0.6


def is_caught_up(cluster: Cluster, name: str) -> bool:
    """Whether a node has applied what the others had applied a moment ago."""
    most = max(report["last_applied"] for report in cluster.statuses().values())
    return bool(cluster.nodes[name].status()["last_applied"] >= most)


@pytest.mark.timeout(LOAD_SECONDS + 240)
def test_full_load_elects_nobody(cluster: Cluster) -> None:
    """With all cores busy, by clients that write as fast as they can, the leader of the beginning leads at the end."""
    before = cluster.leader().status()
    with Workload(cluster.endpoints, threads=64, clients=2, timeout_seconds=20.0) as work:
        time.sleep(LOAD_SECONDS)
    work.check(cluster)
    after = cluster.leader().status()
    attempts = sum(node.log().count("asks for pre-votes") for node in cluster.nodes.values())
    print(f"\n{LOAD_SECONDS:g} s of load: {work.summary()}; {attempts} pre-votes asked for in all")
    assert (after["term"], after["leader"]) == (before["term"], before["leader"])
