"""Faults inside live nodes, by zraft-chaos as it is typed: links cut, late and lossy, disks slow, full and failing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from cluster import CHAOS, OK, READ, Cluster, NoAnswer, Node, eventually
from workload import Workload

from zraft import Client

REFUSED = 5
QUERY = msgpack.packb([1, b"k"])


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "zraft.cli.chaos", *words]


def environment(cluster: Cluster) -> dict[str, str]:
    return {**os.environ, "ZRAFT_ENDPOINTS": ",".join(cluster.endpoints)}


def chaos(cluster: Cluster, *words: str, status: int = 0) -> str:
    """What zraft-chaos says."""
    done = subprocess.run(command(*words), env=environment(cluster), capture_output=True, text=True, timeout=30)
    assert done.returncode == status, (words, done.returncode, done.stdout, done.stderr)
    return done.stdout + done.stderr


def faults(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(chaos(cluster, "faults", "--json"))
    return found


def leader_but(cluster: Cluster, *others: Node) -> Node:
    """The node that leads, once it is none of these."""

    def leads() -> Node | None:
        leader = cluster.leader()
        return leader if leader not in others else None

    node: Node = eventually("another node leads", leads)
    return node


def serves_reads(node: Node) -> bool:
    """Whether that node alone answers a linearizable read, within a time that is long for one that can."""
    try:
        status, _ = node.ask(READ, QUERY, 0.5)
    except NoAnswer:
        return False
    return status == OK


def fastest_write_ms(client: Client, count: int = 10) -> float:
    """Of some writes: what else the machine does makes none of them faster."""
    times = []
    for number in range(count):
        started = time.monotonic()
        client.set("k", str(number))
        times.append(1000 * (time.monotonic() - started))
    return min(times)


# ---- links ---------------------------------------------------------------------------------------------------------


def test_the_leader_is_partitioned_away(shared_cluster: Cluster) -> None:
    """The others elect and serve; it stops answering; what was acknowledged meanwhile is there when it is healed."""
    with Workload(shared_cluster.endpoints, threads=4) as work:
        work.wait_for(50)
        old = shared_cluster.leader()
        others = [node.name for node in shared_cluster.followers()]
        eventually("the leader serves", lambda: serves_reads(old))
        chaos(shared_cluster, "partition", old.name, "/", ",".join(others))
        new = leader_but(shared_cluster, old)
        work.wait_for(50)
        eventually("the new leader serves", lambda: serves_reads(new))
        eventually(f"{old.name} has stepped down", lambda: old.status()["role"] != "leader", 5.0)
        assert not serves_reads(old)
        term = old.status()["term"]
        time.sleep(0.5)
        assert old.status()["term"] == term, "who is cut off raises no term"
        assert chaos(shared_cluster, "heal") == "healed n1, n2, n3\n"
        shared_cluster.wait_following(old)
        eventually("the old leader serves", lambda: serves_reads(shared_cluster.leader()))
    work.check(shared_cluster)


def test_one_way(shared_cluster: Cluster) -> None:
    """A follower that hears nothing of the leader, and is heard, disturbs nobody and catches up afterwards."""
    with Workload(shared_cluster.endpoints, threads=4) as work:
        work.wait_for(50)
        leader, deaf = shared_cluster.leader(), shared_cluster.followers()[0]
        term = leader.status()["term"]
        chaos(shared_cluster, "one-way", leader.name, deaf.name)
        eventually("it has lost the leader", lambda: deaf.status()["leader"] is None, 3.0)
        before = deaf.status()["last_index"]
        work.wait_for(50)
        assert deaf.status()["last_index"] == before
        assert leader.status()["role"] == "leader" and leader.status()["term"] == term
        chaos(shared_cluster, "heal", leader.name)
        shared_cluster.wait_following(deaf)
    work.check(shared_cluster)


def test_delay_is_seen_in_the_time_of_a_write(shared_cluster: Cluster) -> None:
    with Client(shared_cluster.endpoints) as client:
        assert fastest_write_ms(client) < 60
        chaos(shared_cluster, "delay", "all", "30")
        assert 60 <= fastest_write_ms(client) < 120, "30 ms there, 30 ms back"
        chaos(shared_cluster, "delay", "all", "0")
        assert faults(shared_cluster) == {"n1": {}, "n2": {}, "n3": {}}
        assert fastest_write_ms(client) < 60


def test_a_cluster_that_loses_a_fifth_of_its_messages_serves(shared_cluster: Cluster) -> None:
    with Workload(shared_cluster.endpoints, threads=8) as work:
        work.wait_for(20)
        chaos(shared_cluster, "drop", "all", "20")
        work.wait_for(100)
        chaos(shared_cluster, "heal")
    work.check(shared_cluster)


def test_faults_combine_and_outlive_every_actor_but_not_the_process(cluster: Cluster) -> None:
    node, other = cluster.followers()[0], cluster.followers()[1].name
    chaos(cluster, "partition", f"{node.name} | {other}")
    chaos(cluster, "delay", node.name, "5", "--jitter", "2")
    chaos(cluster, "slow-disk", node.name, "10")
    in_force = faults(cluster)[node.name]
    late = {"delay_ms": [3, 7]}
    assert in_force["links"] == {
        other: {"in": {"drop": 1, **late}, "out": {"drop": 1, **late}},
        "*": {"in": late, "out": late},
    }
    before = node.incarnations()
    for actor in before:
        node.kill_actor(actor)
    after = {actor: incarnation + 1 for actor, incarnation in before.items()}
    eventually("all live again", lambda: node.incarnations() == after)
    assert faults(cluster)[node.name] == in_force
    assert chaos(cluster, "kill-node", node.name).startswith(f"killed {node.name} (process {node.pid})")
    node.ended_on_purpose = True
    node.wait()
    node.start()
    cluster.wait_following(node)
    assert faults(cluster)[node.name] == {}


# ---- disks ---------------------------------------------------------------------------------------------------------


def test_the_leaders_disk_is_full(shared_cluster: Cluster) -> None:
    """Leadership moves, writes go on, and the node catches up when there is space."""
    with Workload(shared_cluster.endpoints, threads=4) as work:
        work.wait_for(50)
        old = shared_cluster.leader()
        chaos(shared_cluster, "full-disk", old.name)
        leader_but(shared_cluster, old)
        work.wait_for(50)
        assert faults(shared_cluster)[old.name] == {"disk": {"full": True}}
        chaos(shared_cluster, "heal", old.name)
    work.check(shared_cluster)


def test_a_very_slow_disk_is_told_and_healed_at_once(shared_cluster: Cluster) -> None:
    """A node whose disk takes a minute for a write says so, and the minute ends when it is healed."""
    with Workload(shared_cluster.endpoints, threads=4) as work:
        work.wait_for(20)
        old = shared_cluster.leader()
        chaos(shared_cluster, "slow-disk", old.name, "60000")
        leader_but(shared_cluster, old)
        work.wait_for(20)
        assert faults(shared_cluster)[old.name] == {"disk": {"slow_ms": [60000, 60000]}}
        started = time.monotonic()
        chaos(shared_cluster, "heal")
        shared_cluster.wait_following(old)
        assert time.monotonic() - started < 15.0
    work.check(shared_cluster)


def test_disks_that_stall_hold_up_writes_alone(shared_cluster: Cluster) -> None:
    """Both followers stall far beyond an election timeout, but still answer the leader, so it leads and reads."""
    leader, followers = shared_cluster.leader(), shared_cluster.followers()
    with shared_cluster.client() as client, shared_cluster.client(timeout=30.0) as patient:
        client.set("k", "before")
        term = shared_cluster.statuses()[leader.name]["term"]
        for follower in followers:
            chaos(shared_cluster, "slow-disk", follower.name, "60000")
        write = threading.Thread(target=patient.set, args=("k", "after"))
        write.start()
        until = time.monotonic() + 3.0
        while time.monotonic() < until:
            assert client.get("k") == b"before"
            time.sleep(0.05)
        statuses = shared_cluster.statuses()
        assert {status["term"] for status in statuses.values()} == {term}
        assert [name for name, status in statuses.items() if status["role"] == "leader"] == [leader.name]
        chaos(shared_cluster, "heal")
        write.join(30.0)
        assert client.get("k") == b"after"


@pytest.mark.parametrize("role", ["leader", "follower"])
def test_a_failed_fsync_stops_the_node(cluster: Cluster, role: str) -> None:
    with Workload(cluster.endpoints, threads=4) as work:
        work.wait_for(50)
        node = cluster.leader() if role == "leader" else cluster.followers()[0]
        node.ended_on_purpose = True
        chaos(cluster, "fail-fsync", node.name)
        assert node.wait() == 1
        last_line = node.log().splitlines()[-1]
        assert last_line.startswith(f"zraft-node: {node.name} stopped: log_writer: syncing "), last_line
        assert "Input/output error, by an injected fault" in last_line
        work.wait_for(50)
        node.start()
        cluster.wait_following(node)
    work.check(cluster)


# ---- processes -----------------------------------------------------------------------------------------------------


def test_a_pause_ends_with_its_command(shared_cluster: Cluster) -> None:
    leader = shared_cluster.leader()
    words = command("pause", leader.name, "--for", "60")
    with subprocess.Popen(words, env=environment(shared_cluster), stdout=subprocess.PIPE, text=True) as pausing:
        assert pausing.stdout is not None
        assert "stands still for 60 s" in pausing.stdout.readline()
        leader_but(shared_cluster, leader)
        with pytest.raises(NoAnswer):
            leader.status(0.0)
        pausing.send_signal(signal.SIGINT)
        assert pausing.wait(10) == 130
    shared_cluster.wait_following(leader)


# ---- who takes no faults -------------------------------------------------------------------------------------------


def test_without_chaos_all_faults_are_refused_and_logged(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(size=1, chaos=False)
    node = cluster.nodes["n1"]
    for words in (["isolate", "n1"], ["slow-disk", "n1", "5"], ["full-disk", "n1"], ["fail-fsync", "n1"]):
        said = chaos(cluster, *words, status=1)
        assert "n1 accepts no injected faults: its config does not say 'chaos: true'" in said
    assert node.log().count("chaos refused: ") == 4
    assert faults(cluster) == {"n1": {}}
    assert node.ask(CHAOS, b'{"op": "heal"}')[0] == REFUSED
    with Client(cluster.endpoints) as client:
        client.set("k", "v")


def test_without_chaos_a_node_has_none_of_the_code() -> None:
    program = "import zraft.node, sys; print([name for name in sys.modules if name.startswith('zraft.chaos')])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
