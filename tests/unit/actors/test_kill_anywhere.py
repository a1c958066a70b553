"""Any one actor may be killed at any of its boundaries: nothing acknowledged is lost, and the node serves again.

Three nodes with the real actors, supervisors and client core, on the bus of `fake_bus` (DESIGN section 3). A run is one
kill; the boundary moves on by one from run to run. `check_promise` and `check_state` watch every run.
"""

from __future__ import annotations

from random import Random

import pytest
from fake_cluster import ACTORS, Cluster, ClusterNode, Writer

SERVES_AGAIN_MS = 1_000
ROLES = ("leader", "follower")


def pick(cluster: Cluster, role: str) -> ClusterNode:
    leader = cluster.elect()
    return leader if role == "leader" else next(node for node in cluster.nodes.values() if node is not leader)


def serve_and_check(cluster: Cluster, writer: Writer, more: int = 8) -> None:
    """Some more writes are acknowledged, and everything is as it should be."""
    target = writer.writes + more
    cluster.run_until(lambda: writer.writes >= target)
    writer.finish()
    cluster.check_equal_states()
    writer.check()


def kill_under_load(role: str, actor: str, boundary: int, seed: object) -> None:
    cluster = Cluster(seed)
    node = pick(cluster, role)
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: writer.writes >= 3)
    node.kill(actor, boundary)
    cluster.run_until(lambda: node.slots[actor].deaths)
    cluster.run_until(lambda: node.slots[actor].actor is not None)
    serve_and_check(cluster, writer)
    assert node.supervisor.incarnations == {name: 2 if name == actor else 1 for name in ACTORS}
    assert writer.longest_gap_ms() < SERVES_AGAIN_MS


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("actor", [name for name in ACTORS if name != "json_gateway"])
def test_kill_at_each_boundary_under_load(actor: str, role: str) -> None:
    for boundary in range(12):
        kill_under_load(role, actor, boundary, boundary)
    for boundary in range(12, 200, 17):
        kill_under_load(role, actor, boundary, boundary)


@pytest.mark.parametrize("actor", ACTORS)
def test_kill_at_each_boundary_of_the_first_life(actor: str) -> None:
    """From the very start: no leader, no cluster id, half of the actors not there yet."""
    for boundary in range(14):
        kill_at_birth(actor, {(actor, 1): boundary})


def kill_at_birth(actor: str, plan: dict[tuple[str, int], int]) -> None:
    cluster = Cluster(str(plan))
    node = cluster.nodes["n1"]
    node.kill_at_birth = dict(plan)
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: node.slots[actor].deaths)
    serve_and_check(cluster, writer)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("actor", ("consensus", "log_writer", "applier", "transport", "frontend"))
def test_kill_while_another_recovers(actor: str, role: str) -> None:
    """Two deaths at once or one after the other, in any order: each restart meets a neighbour that is new as well."""
    for seed in range(12):
        kill_two(actor, role, seed)


def kill_two(actor: str, role: str, seed: int) -> None:
    dice = Random(f"{actor} {role} {seed}")
    cluster = Cluster(f"{actor} {role} {seed}")
    node = pick(cluster, role)
    writer = Writer(cluster, window=4)
    cluster.run_until(lambda: writer.writes >= 5)
    second = dice.choice(ACTORS)
    node.kill_at_birth = {(actor, 2): dice.randrange(6), (second, 2): dice.randrange(6)}
    node.kill(actor, dice.randrange(30))
    node.kill(second, dice.randrange(8))
    cluster.run_until(lambda: node.slots[actor].deaths)
    serve_and_check(cluster, writer, more=30)
