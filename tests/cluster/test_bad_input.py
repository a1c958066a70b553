"""What a node is not meant to be sent, on each of its three ports: it drops and counts it, and goes on serving."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import msgpack
import pytest
import yaml
import zmq
from cluster import HOST, READ, WRITE, Cluster, Node, eventually

from zraft import Client
from zraft.wire import PEER_VERSION

MAX_FRAME_BYTES = 8 * 1024 * 1024
MAX_GROWTH_BYTES = 64 * 1024 * 1024
FRAMES = 10_000
OVERSIZED_FRAMES = 10
READS = 5_000
SEEDS = {"client": 1, "peer": 2, "json": 3}


def bad_frames(rng: random.Random, good: list[Any]) -> Iterator[bytes]:
    """FRAMES of them: garbage, good ones that are cut or damaged or of another version, and other msgpack."""
    for _ in range(FRAMES):
        fields = rng.choice(good)
        packed = msgpack.packb(fields)
        kind = rng.randrange(5)
        if kind == 0:
            yield b"\xc1" + rng.randbytes(rng.randrange(300))  # a byte that msgpack never uses
        elif kind == 1:
            yield packed[: rng.randrange(len(packed))]
        elif kind == 2:
            yield msgpack.packb([rng.choice((0, 9, 99, -1, None, "1", [1])), *fields[1:]])
        elif kind == 3:
            yield msgpack.packb(rng.choice((None, 1, "x", {}, [], [[1]], [1], [1, 2], [1, [[1, 2]]], {"a": b"b"}, 1.5)))
        else:
            yield packed + rng.randbytes(1 + rng.randrange(20))


def flood(address: str, frames: Iterator[bytes]) -> int:
    """Send them all, and some that are too large. Returns how many that were."""
    context: zmq.Context[Any] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        dealer.linger = 10_000
        dealer.connect(address)
        sent = 0
        for frame in frames:
            dealer.send(frame)
            sent += 1
        for _ in range(OVERSIZED_FRAMES):
            dealer.send(b"\x91" * (MAX_FRAME_BYTES + 1))
        dealer.send_multipart([b"one", b"frame", b"too many"])
        return sent + OVERSIZED_FRAMES + 1
    finally:
        dealer.close()
        context.term()


def serves(node: Node) -> bool:
    """Whether a client that knows only this node can write and read."""
    with Client(node.endpoint, timeout=5.0) as client:
        value = str(time.monotonic())
        client.set("alive", value)
        return client.get("alive") == value.encode()


@pytest.mark.parametrize("port", ["client", "peer"])
def test_random_frames(shared_cluster: Cluster, port: str) -> None:
    node, other = shared_cluster.leader(), shared_cluster.followers()[0]
    if port == "client":
        good: list[Any] = [[1, [[1, kind, b"body"]]] for kind in (1, 2, 3, 4, 5, 6, 9, 10)]
        address = node.endpoint
    else:
        good = [
            [PEER_VERSION, 0, other.name, 1, "", node.name, 0, [b"garbage"]],
            [PEER_VERSION, 7, other.name, 1, "tcp://127.0.0.1:1", "", 0, []],
        ]
        address = f"tcp://{HOST}:{node.peer_port}"
    counter = f"{port}_dropped_in"
    serves(node)
    term, memory = node.status()["term"], node.memory_bytes()
    already = node.status()[counter]
    bad = flood(address, bad_frames(random.Random(SEEDS[port]), good))
    eventually("all are counted", lambda: node.status()[counter] - already == bad)
    assert node.status()["dropped"] >= bad
    assert node.memory_bytes() - memory < MAX_GROWTH_BYTES
    assert serves(node)
    assert node.status()["term"] == term
    assert all(life == 1 for life in node.incarnations().values())


def test_peer_messages_that_are_none(shared_cluster: Cluster) -> None:
    """Right frames around what is wrong: from a stranger, for another node, of another cluster, nonsense inside."""
    node, other = shared_cluster.leader(), shared_cluster.followers()[0]
    status = node.status()
    cluster_id = int(status["cluster_id"], 16)
    garbage = [b"", b"\xc1", msgpack.packb([99]), msgpack.packb([0, -1, 1, 1, False, False]), msgpack.packb({})]
    frames = [
        [PEER_VERSION, 0, "stranger", 1, "", node.name, 0, [b""]],
        [PEER_VERSION, cluster_id, other.name, 1, "", "n9", 0, [b""]],
        [PEER_VERSION, cluster_id ^ 1, other.name, 1, "", node.name, 0, [b""]],
        [PEER_VERSION, cluster_id, other.name, 1, "", node.name, 0, garbage],
    ]
    flood(f"tcp://{HOST}:{node.peer_port}", (msgpack.packb(frame) for frame in frames))
    dropped = status["peer_dropped_in"] + 3 + OVERSIZED_FRAMES + 1
    eventually("counted", lambda: node.status()["peer_dropped_in"] == dropped)
    eventually("counted", lambda: node.status()["peer_undecodable"] == status["peer_undecodable"] + len(garbage))
    assert node.status()["term"] == status["term"]
    assert serves(node)


def test_random_lines_on_the_json_port(shared_cluster: Cluster) -> None:
    """Each is answered by an error, in its place."""
    rng = random.Random(SEEDS["json"])
    node = shared_cluster.leader()
    serves(node)
    already, memory = node.status()["json_dropped_in"], node.memory_bytes()
    good = [b'{"op":"set","key":"a","value":"b"}', b'{"op":"get","key":"a"}']
    lines = []
    for _ in range(FRAMES):
        line = rng.choice(good)
        kind = rng.randrange(4)
        if kind == 0:
            line = rng.randbytes(1 + rng.randrange(200)).replace(b"\n", b" ")
        elif kind == 1:
            line = line[: 1 + rng.randrange(len(line) - 2)]
        elif kind == 2:
            bad_fields: tuple[Any, ...] = (None, 7, [], {}, {"op": "burn"}, {"op": "get"}, {"op": "set", "key": 1})
            line = json.dumps(rng.choice(bad_fields)).encode()
        else:
            line = json.dumps({"op": "get", "key": "k" * 5000}).encode()
        lines.append(b"x" if not line.strip() else line)
    for first in range(0, len(lines), 1000):
        some = lines[first : first + 1000]
        with socket.create_connection((HOST, node.json_port), timeout=20) as connection:
            connection.sendall(b"\n".join(some) + b"\n")
            answers = connection.makefile("rb")
            assert all(json.loads(answers.readline())["ok"] is False for _ in some)
    assert node.status()["json_dropped_in"] == already + FRAMES
    assert node.memory_bytes() - memory < MAX_GROWTH_BYTES
    assert serves(node)


def test_a_line_without_end(shared_cluster: Cluster) -> None:
    node = shared_cluster.nodes["n1"]
    memory = node.memory_bytes()
    with socket.create_connection((HOST, node.json_port), timeout=20) as connection:
        try:
            for _ in range(256):
                connection.sendall(b"x" * 1024 * 1024)
        except ConnectionError:
            pass  # closed by the node
        else:
            raise AssertionError("256 MiB without a newline were taken")
    assert node.memory_bytes() - memory < MAX_GROWTH_BYTES
    assert serves(node)


def test_raw_bytes_on_every_port(shared_cluster: Cluster) -> None:
    """Not ZeroMQ's protocol, or its beginning only; and many connections that say nothing."""
    rng = random.Random(4)
    node = shared_cluster.leader()
    ports = [int(node.endpoint.rsplit(":", 1)[1]), node.peer_port, node.json_port]
    greeting = b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x00NULL"
    with ExitStack() as stack:
        for port in ports:
            for _ in range(50):
                stack.enter_context(socket.create_connection((HOST, port), timeout=10))
            for number in range(100):
                data = (rng.randbytes(500), b"GET / HTTP/1.1\r\n\r\n", greeting, greeting + rng.randbytes(99))
                with socket.create_connection((HOST, port), timeout=10) as connection:
                    connection.sendall(data[number % 4])
        assert serves(node)
    assert serves(node)
    assert all(life == 1 for life in node.incarnations().values())


def test_a_client_that_never_reads(shared_cluster: Cluster) -> None:
    """Its answers are dropped past a limit; others are served meanwhile, and nobody loses leadership over it."""
    node = shared_cluster.leader()
    with Client(node.endpoint) as client:
        client.set("large", "x" * 16 * 1024)
    query = msgpack.packb([1, b"large"])
    status, memory = node.status(), node.memory_bytes()
    context: zmq.Context[Any] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    try:
        dealer.linger = 0
        dealer.rcvhwm = 1
        dealer.rcvbuf = 64 * 1024
        dealer.connect(node.endpoint)
        for request_id in range(READS):
            dealer.send(msgpack.packb([1, [[request_id, READ, query]]]))
        for _ in range(20):
            assert serves(node)
        eventually("all were answered, or dropped", lambda: node.status()["client_pending"] <= 1)
        grown = node.memory_bytes() - memory
        answers = READS * 16 * 1024  # once in ZeroMQ's queue, once on the way there
        assert grown < 2 * answers + MAX_GROWTH_BYTES, f"{grown / 2**20:.0f} MiB"
    finally:
        dealer.close()
        context.term()
    assert node.status()["term"] == status["term"]


def test_json_lines_that_nobody_reads_the_answers_of(shared_cluster: Cluster) -> None:
    """Too many lines, or answers: the connection ends or waits; the others do not."""
    node = shared_cluster.leader()
    with Client(node.endpoint, timeout=15.0) as client:
        client.set("large", "x" * 256 * 1024)
    memory = node.memory_bytes()
    with socket.create_connection((HOST, node.json_port), timeout=5) as connection:
        line = b'{"op":"get","key":"large"}\n'
        connection.settimeout(2)
        try:
            for _ in range(200):
                connection.sendall(line * 1000)
        except (ConnectionError, TimeoutError):
            pass  # closed, or held back
        for _ in range(10):
            with socket.create_connection((HOST, node.json_port), timeout=10) as other:
                other.sendall(b'{"op":"get","key":"absent"}\n')
                assert json.loads(other.makefile("rb").readline())["ok"] is True
        assert serves(node)
        grown = node.memory_bytes() - memory
        assert grown < 2 * MAX_GROWTH_BYTES, f"{grown / 2**20:.0f} MiB"


def test_commands_that_are_none_change_nothing(shared_cluster: Cluster) -> None:
    """They are answered with words; the state machines of all nodes agree on them."""
    rng = random.Random(5)
    node = shared_cluster.leader()
    revision = node.status()["revision"]
    for _ in range(100):
        body = rng.choice((rng.randbytes(rng.randrange(50)), msgpack.packb([1, 1, 0, rng.randrange(9), b"k"])))
        status, answer = node.ask(rng.choice((WRITE, READ)), body)
        assert status == 0 and msgpack.unpackb(answer)[0] != 0
    for body in (b"x" * 2_000_000, msgpack.packb([0, 0, 0, 3, b"k" * 5000, b"v"])):
        status, answer = node.ask(WRITE, body)
        assert status == 4 or msgpack.unpackb(answer)[0] != 0
    reports = shared_cluster.wait_converged()
    assert {report["revision"] for report in reports.values()} == {revision}
    assert {report["actors"]["applier"]["incarnation"] for report in reports.values()} == {1}


def run_node(folder: Any, config: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run one more node, which is expected to end at once."""
    path = folder / "another.yaml"
    path.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "zraft.cli.node", str(path), "--log-level", "error"]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


def test_a_second_node_is_refused(make_cluster: Callable[..., Cluster]) -> None:
    """On the same directory, or on any of the same ports: one line that says which, status 1, and the first goes on."""
    cluster = make_cluster(size=1)
    node = cluster.nodes["n1"]
    own = node.config["cluster"]["n1"]
    free = make_cluster(size=1, data_dir=str(cluster.folder / "unused")).nodes["n1"]
    free.stop()
    other = free.config["cluster"]["n1"]
    spare = {**free.config, "data_dir": str(cluster.folder / "other")}
    cases = {
        str(node.config["data_dir"]): {**free.config, "data_dir": node.config["data_dir"]},
        own["client"]: {**spare, "cluster": {"n1": {**other, "client": own["client"]}}},
        own["peer"]: {**spare, "cluster": {"n1": {**other, "peer": own["peer"]}}},
        node.config["json"]: {**spare, "json": node.config["json"]},
    }
    for named, config in cases.items():
        ended = run_node(cluster.folder, config)
        assert ended.returncode == 1, ended
        assert "Traceback" not in ended.stderr
        last = ended.stderr.strip().splitlines()[-1]
        assert named in last and "in use" in last, ended.stderr
    assert serves(node)
    assert node.stop() == 0
