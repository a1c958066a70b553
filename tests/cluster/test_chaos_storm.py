"""Everything at once: nodes and actors die while 16 threads write. What was acknowledged must be there afterwards."""

from __future__ import annotations

import os

import pytest
from cluster import Cluster
from storm import Storm
from workload import Workload

SHORT_SECONDS = 12.0
LONG_SECONDS = float(os.environ.get("ZRAFT_TEST_STORM_SECONDS", "60"))
"""The long test also needs this many writes a minute."""
WRITES_A_MINUTE = 20_000


def weather(cluster: Cluster, seconds: float, seed: int) -> Workload:
    """A storm over 16 writers, and the check of what it left. Returns the workload, for its figures."""
    storm = Storm(cluster, seed)
    with Workload(cluster.endpoints, threads=16, clients=8, timeout_seconds=20.0) as work:
        work.wait_for(100)
        storm.rage(seconds)
        work.wait_for(100)
    reports = cluster.wait_converged()
    length = reports["n1"]["last_applied"]
    print(
        f"\n{seconds:g} s: {storm.node_kills} nodes and {storm.actor_kills} actors killed; {work.summary()}; "
        f"{length} log entries"
    )
    work.check(cluster)
    assert storm.node_kills >= seconds / 3 - 1 and storm.actor_kills >= seconds / 2
    return work


def test_a_short_storm(cluster: Cluster) -> None:
    weather(cluster, SHORT_SECONDS, seed=1)


@pytest.mark.long
@pytest.mark.timeout(LONG_SECONDS + 180)
def test_a_long_storm(cluster: Cluster) -> None:
    work = weather(cluster, LONG_SECONDS, seed=2)
    assert work.acknowledged >= WRITES_A_MINUTE * LONG_SECONDS / 60, work.summary()
