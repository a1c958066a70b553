"""What users do with a cluster that is well: every request, through every node."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable

import pytest
from cluster import HOST, READ, STATUS, TRANSFER, WRITE, Cluster, Node, eventually
from workload import Workload

from zraft import Client, InvalidRequest, Unavailable

NOT_LEADER, REFUSED = 1, 5


def json_lines(node: Node, *requests: dict[str, object]) -> list[dict[str, object]]:
    """Send lines to the node's JSON port all at once, and read as many answers."""
    with socket.create_connection((HOST, node.json_port), timeout=10) as connection:
        connection.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
        with connection.makefile("rb") as answers:
            return [json.loads(answers.readline()) for _ in requests]


def test_every_operation_through_every_node(shared_cluster: Cluster) -> None:
    for name, node in shared_cluster.nodes.items():
        with Client(node.endpoint) as client:
            key = f"{name}/a"
            first = client.set(key, "1")
            assert client.get(key) == b"1"
            assert client.set(key, "2") > first
            assert client.cas(key, "2", "3") is True
            assert client.cas(key, "2", "4") is False
            assert client.cas(f"{name}/b", None, b"\xff\x00") is True
            assert client.cas(f"{name}/b", None, "again") is False
            assert client.range(f"{name}/") == [(key.encode(), b"3"), (f"{name}/b".encode(), b"\xff\x00")]
            entry = client.get_entry(key)
            assert entry is not None
            assert (entry.version, entry.create_revision) == (3, first)
            assert client.delete(key) is True
            assert client.delete(key) is False
            assert client.get(key) is None
    shared_cluster.wait_converged()


def test_a_read_anywhere_sees_a_write_anywhere(shared_cluster: Cluster) -> None:
    clients = [Client(endpoint) for endpoint in shared_cluster.endpoints]
    try:
        for number in range(60):
            value = str(number).encode()
            clients[number % 3].set("k", value)
            assert [client.get("k") for client in clients] == [value] * 3
    finally:
        for client in clients:
            client.close()


def test_large_values_and_long_ranges(shared_cluster: Cluster) -> None:
    large = bytes(range(256)) * 4096  # 1 MiB: the most there may be
    with Client(shared_cluster.endpoints, timeout=15.0) as client:
        client.set("large", large)
        assert client.get("large") == large
        with pytest.raises(InvalidRequest):
            client.set("larger", large + b"x")
        for number in range(6):
            client.set(f"page/{number}", large[: 600 * 1024])
        assert [(key, len(value)) for key, value in client.range("page/")] == [
            (f"page/{number}".encode(), 600 * 1024) for number in range(6)
        ]
    shared_cluster.wait_converged()


def test_a_follower_names_the_leader(shared_cluster: Cluster) -> None:
    leader = shared_cluster.leader()
    for follower in shared_cluster.followers():
        for kind in (WRITE, READ):
            assert follower.ask(kind, b"whatever: only the leader's applier opens it") == (
                NOT_LEADER,
                leader.endpoint.encode(),
            )


def test_status_of_each_node(cluster: Cluster) -> None:
    with Client(cluster.endpoints) as client:
        client.set("a", "b")
        cluster.wait_converged()
        reports = client.status()
    assert [report["node"] for report in reports] == ["n1", "n2", "n3"]
    assert sorted(report["role"] for report in reports) == ["follower", "follower", "leader"]
    for report in reports:
        assert report["pid"] == cluster.nodes[report["node"]].pid
        assert report["leader"] == cluster.leader().name
        assert report["term"] >= 1
        assert report["revision"] == 1
        assert report["last_applied"] == report["commit_index"] == report["last_index"]
        assert {member["id"] for member in report["members"]} == {"n1", "n2", "n3"}
        assert all(actor["incarnation"] == 1 for actor in report["actors"].values())
        assert report["dropped"] == 0, report


def test_a_node_that_is_down_has_nulls_in_the_status(cluster: Cluster) -> None:
    down = cluster.followers()[0]
    down.kill()
    with Client(cluster.endpoints) as client:
        started = time.monotonic()
        reports = {report["endpoint"]: report for report in client.status()}
        assert time.monotonic() - started < 2.0
    assert reports[down.endpoint]["node"] is None
    assert reports[down.endpoint]["error"]
    assert sum(report.get("error") is None for report in reports.values()) == 2


def test_a_single_node(make_cluster: Callable[..., Cluster]) -> None:
    cluster = make_cluster(size=1)
    node = cluster.nodes["n1"]
    with Client(cluster.endpoints) as client:
        for number in range(200):
            client.set("k", str(number))
    node.kill()
    node.start()
    with Client(cluster.endpoints) as client:
        assert client.get("k") == b"199"
    assert node.stop() == 0


def test_json_lines_through_every_node(cluster: Cluster) -> None:
    for number, node in enumerate(cluster.nodes.values(), 1):
        answers = json_lines(
            node,
            {"op": "get", "key": "absent"},
            {"op": "set", "key": "a", "value": f"b{number}"},
            {"op": "get", "key": "a"},
            {"op": "steal", "key": "a"},
        )
        assert answers[0]["ok"] is True and answers[0]["value"] is None
        assert answers[1] == {"ok": True, "revision": number}
        assert answers[2] == {"ok": True, "value": f"b{number}", "revision": number}
        assert answers[3]["ok"] is False


def test_json_lines_pipelined_by_many(shared_cluster: Cluster) -> None:
    """Answers come in the order of the lines, also while others use the port."""
    failures: list[str] = []

    def talk(number: int) -> None:
        node = list(shared_cluster.nodes.values())[number % 3]
        requests: list[dict[str, object]] = []
        for value in range(100):
            requests += [{"op": "set", "key": f"k{number}", "value": str(value)}, {"op": "get", "key": f"k{number}"}]
        answers = json_lines(node, *requests)
        if not all(answer["ok"] for answer in answers) or answers[-1]["value"] != "99":
            failures.append(f"connection {number}: {answers[-3:]}")

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not failures


def test_leadership_is_transferred_under_writes(cluster: Cluster) -> None:
    with (
        Workload(cluster.endpoints, threads=4, clients=2, pause_seconds=0.002) as work,
        Client(cluster.endpoints) as operator,
    ):
        work.wait_for(100)
        for _ in range(3):
            old = cluster.leader()
            target = cluster.followers()[0]
            operator.transfer_leadership(target.name)
            eventually(f"{target.name} leads", lambda target=target: cluster.leader() is target)
            assert old.status()["role"] == "follower"
            work.wait_for(50)
        status, text = cluster.leader().ask(TRANSFER, b"n9")
        assert status == REFUSED and b"n9" in text
    assert work.unknown == 0, work.summary()
    assert work.longest_pause_seconds < 1.0, work.summary()
    work.check(cluster)


def test_a_leader_that_is_stopped_hands_over(cluster: Cluster) -> None:
    """SIGTERM: status 0, and the writes go on without the wait for an election timeout."""
    with Workload(cluster.endpoints, threads=4, clients=2, pause_seconds=0.002) as work:
        work.wait_for(100)
        leader = cluster.leader()
        assert leader.stop() == 0
        assert "hands leadership to" in leader.log()
        work.wait_for(100)
        leader.start()
        work.wait_for(100)
    assert work.unknown == 0, work.summary()
    assert work.longest_pause_seconds < 1.0, work.summary()
    work.check(cluster)


def test_every_node_ends_cleanly(cluster: Cluster) -> None:
    """One after the other; the last one has nobody to hand over to, and no quorum."""
    with Client(cluster.endpoints) as client:
        client.set("k", "v")
    for node in list(cluster.nodes.values()):
        started = time.monotonic()
        assert node.stop() == 0
        assert time.monotonic() - started < 5.0
        assert "Traceback" not in node.log()


def test_without_a_quorum_nothing_is_acknowledged(cluster: Cluster) -> None:
    for follower in cluster.followers():
        follower.kill()
    (alone,) = cluster.running
    eventually("the leader has given up", lambda: alone.status()["role"] != "leader")
    with Client(cluster.endpoints, timeout=1.0) as client:
        with pytest.raises(Unavailable):
            client.set("k", "v")
        with pytest.raises(Unavailable):
            client.get("k")
    term = alone.status()["term"]
    time.sleep(1.0)
    assert alone.status()["term"] == term, "who reaches no quorum raises no term"
    assert alone.ask(STATUS)[0] == 0
