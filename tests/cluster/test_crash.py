"""SIGKILL of processes under writes: what was acknowledged is there afterwards, and nothing was applied twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import msgpack
from cluster import OK, PING, READ, Cluster, eventually
from workload import Workload

from zraft import AsyncClient, Client


def test_leader_is_killed_and_returns(cluster: Cluster) -> None:
    with Workload(cluster.endpoints) as work:
        work.wait_for(200)
        for _ in range(2):
            old = cluster.leader()
            old.kill()
            new = cluster.leader()
            assert new is not old
            work.wait_for(100)
            old.start()
            cluster.wait_following(old)
    work.check(cluster)


def test_the_rest_reads_what_the_killed_leader_acknowledged(cluster: Cluster) -> None:
    with Client(cluster.endpoints) as client:
        for number in range(5):
            client.set("k", str(number))
            leader = cluster.leader()
            leader.kill()
            started = time.monotonic()
            assert client.get("k") == str(number).encode()
            assert time.monotonic() - started < 2.0
            leader.start()
            cluster.wait_converged()


def test_follower_is_killed_and_returns(cluster: Cluster) -> None:
    """The service goes on meanwhile."""
    with Workload(cluster.endpoints) as work:
        work.wait_for(200)
        leader, term = cluster.leader(), cluster.leader().status()["term"]
        for follower in cluster.followers():
            follower.kill()
            work.wait_for(100)
            follower.start()
            cluster.wait_following(follower)
    assert cluster.leader() is leader and leader.status()["term"] == term, "its death and return disturb nobody"
    assert work.unknown == 0, work.summary()
    work.check(cluster)


def test_two_of_three_are_killed_and_return(cluster: Cluster) -> None:
    with Workload(cluster.endpoints, timeout_seconds=15.0) as work:
        work.wait_for(200)
        leader = cluster.leader()
        victims = [leader, cluster.followers()[0]]
        for node in victims:
            node.kill()
        time.sleep(0.5)
        for node in victims:
            node.start()
        work.wait_for(200)
    work.check(cluster)


def test_all_nodes_are_killed_during_writes(cluster: Cluster) -> None:
    with Workload(cluster.endpoints, timeout_seconds=15.0) as work:
        for _ in range(2):
            work.wait_for(300)
            for node in cluster.nodes.values():
                node.kill()
            for node in cluster.nodes.values():
                node.start()
        work.wait_for(300)
    work.check(cluster)


def test_kills_at_random_moments_soon_after_the_start(cluster: Cluster) -> None:
    """Nodes that die while they recover, campaign, or catch up."""
    rng = random.Random(7)
    with Workload(cluster.endpoints, threads=4, timeout_seconds=20.0) as work:
        work.wait_for(100)
        for _ in range(8):
            node = rng.choice(list(cluster.nodes.values()))
            node.kill()
            node.start()
            time.sleep(rng.uniform(0.2, 0.9))
        work.wait_for(100)
    work.check(cluster)


def test_a_node_that_was_away_for_many_entries_catches_up(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster()
    away = cluster.followers()[0]
    away.kill()
    with Workload(cluster.endpoints, threads=48, clients=2) as work:
        work.wait_for(6000)
    away.start()
    started = time.monotonic()
    reports = cluster.wait_converged()
    took_seconds = time.monotonic() - started
    assert reports[away.name]["revision"] >= 6000
    assert took_seconds < 10.0, f"{took_seconds:.1f} s"
    work.check(cluster)


def test_a_paused_leader_serves_no_stale_read(cluster: Cluster) -> None:
    """Trap 14. Reads reach a leader that is stopped; when it goes on, another has led and written meanwhile."""
    query = msgpack.packb([1, b"k"])
    with Client(cluster.endpoints, timeout=10.0) as client:
        for number in range(4):
            old = cluster.leader()
            client.set("k", f"old {number}")
            with old.connect() as reader:
                reader.send(PING, b"")
                assert reader.receive() == (OK, b"")
                old.pause()
                try:
                    client.set("k", f"new {number}")
                    reader.send(READ, query)
                    time.sleep(0.02)
                finally:
                    old.resume()
                status, body = reader.receive()
            if status == OK:
                assert msgpack.unpackb(body)[1][1] == f"new {number}".encode()
    cluster.wait_converged()


def test_followers_that_are_paused_delay_nothing_for_long(cluster: Cluster) -> None:
    with Workload(cluster.endpoints, threads=4, clients=2) as work:
        work.wait_for(100)
        for follower in cluster.followers():
            follower.pause()
            work.wait_for(100)
            time.sleep(0.6)
            follower.resume()
            work.wait_for(100)
    assert work.unknown == 0, work.summary()
    work.check(cluster)


def test_very_many_small_writes_are_read_back_after_a_restart_and_after_the_appliers_death(
    make_cluster: Callable[..., Cluster],
) -> None:
    """More entries than a message may hold fit into what is read from disk at once, if they are small."""
    cluster = make_cluster(1)
    node = cluster.nodes["n1"]
    count = 30_000

    async def write() -> None:
        async with AsyncClient(node.endpoint, timeout=60.0) as client:
            for first in range(0, count, 2_000):
                await asyncio.gather(*(client.set(b"%d" % (first % 7), b"") for _ in range(2_000)))

    asyncio.run(write())
    node.stop()
    node.start()
    cluster.leader()
    before = cluster.wait_converged()["n1"]
    assert before["revision"] == count
    node.kill_actor("applier")
    eventually("the applier has all again", lambda: node.incarnations()["applier"] == 2)
    eventually("the state is back", lambda: node.status()["state_hash"] == before["state_hash"])
