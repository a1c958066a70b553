"""Each actor of a leader and of a follower is killed under writes: nothing is lost, and no process has to restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest
from cluster import ACTORS, CHAOS, Cluster, Node, eventually
from workload import Workload

from zraft import Client

MID_HANDLER = (1, 2, 3, 5)
"""Boundaries (of mailbox, send and I/O) that the actor still passes before it dies."""

REFUSED, INVALID = 5, 4


def kill_and_wait(node: Node, actor: str, boundary: int) -> None:
    """One death, and the next life."""
    before = node.incarnations()[actor]
    node.kill_actor(actor, boundary)
    eventually(f"{actor} of {node.name} lives again", lambda: node.incarnations()[actor] > before, 5.0)
    assert node.incarnations()[actor] == before + 1


@pytest.mark.parametrize("role", ["leader", "follower"])
@pytest.mark.parametrize("actor", ACTORS)
def test_every_actor_dies_and_returns(shared_cluster: Cluster, actor: str, role: str) -> None:
    with Workload(shared_cluster.endpoints, threads=4, clients=2) as work:
        work.wait_for(50)
        pids = {node.name: node.pid for node in shared_cluster.running}
        for boundary in (0, *MID_HANDLER):
            node = shared_cluster.leader() if role == "leader" else shared_cluster.followers()[0]
            kill_and_wait(node, actor, boundary)
            work.wait_for(30)
    work.check(shared_cluster)
    assert {name: report["pid"] for name, report in shared_cluster.statuses().items()} == pids
    assert work.longest_pause_seconds < 3.0, work.summary()
    if actor == "json_gateway":
        assert work.unknown == 0, work.summary()


def test_all_actors_of_one_node_die_at_once(shared_cluster: Cluster) -> None:
    with Workload(shared_cluster.endpoints, threads=4, clients=2) as work:
        work.wait_for(50)
        for node in shared_cluster.nodes.values():
            before = node.incarnations()
            for actor in ACTORS:
                node.kill_actor(actor)
            after = {actor: incarnation + 1 for actor, incarnation in before.items()}
            eventually("all live again", lambda node=node, after=after: node.incarnations() == after)
            work.wait_for(50)
    work.check(shared_cluster)


def test_the_applier_dies_while_it_is_given_the_log_again(cluster: Cluster) -> None:
    """From disk, for the log is longer than what memory keeps of it: nothing read for a dead one reaches the next."""
    with Client(cluster.endpoints, timeout=20.0) as client:
        for number in range(100):
            client.set(f"large/{number % 10}", str(number) * 100_000)
    node = cluster.followers()[0]
    for kill in range(40):
        node.kill_actor("applier", 1 + kill % 8)
        time.sleep(0.02)
    cluster.wait_converged()


def test_many_kills_in_a_row_stop_no_node(shared_cluster: Cluster) -> None:
    """Kills on request do not count toward the limit of restarts."""
    node = shared_cluster.leader()
    for _ in range(12):
        kill_and_wait(node, "applier", 0)
    assert node.is_running
    shared_cluster.wait_converged()


def test_chaos_is_refused_where_the_config_does_not_allow_it(make_cluster: Callable[..., Cluster]) -> None:
    node = make_cluster(size=1, chaos=False).nodes["n1"]
    status, text = node.ask(CHAOS, json.dumps({"op": "kill-actor", "actor": "applier", "boundary": 0}).encode())
    assert status == REFUSED and b"chaos: true" in text
    assert node.incarnations()["applier"] == 1


def test_faults_that_are_none_are_refused(shared_cluster: Cluster) -> None:
    node = shared_cluster.nodes["n1"]
    before = node.incarnations()
    for fault in ('{"op": "kill-actor", "actor": "nobody", "boundary": 0}', '{"op": "burn"}', "[]", "{", "\u0000", "7"):
        status, text = node.ask(CHAOS, fault.encode())
        assert status in (REFUSED, INVALID) and text
    assert node.incarnations() == before
