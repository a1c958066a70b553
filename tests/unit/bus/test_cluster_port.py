"""ClusterPort over real sockets: links to client endpoints that are opened, dropped and opened again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import zmq

from zraft.bus.ports import ClusterPort


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_dropped_link_is_gone_until_it_is_sent_to_again() -> None:
    context: zmq.Context[Any] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    endpoint = f"tcp://127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}"
    port = ClusterPort(context)
    listened: list[Any] = []
    port.watch(listened.append)
    try:
        eventually(lambda: port.send(endpoint, b"one"))
        identity, frame = router.recv_multipart()
        assert frame == b"one" and len(listened) == 1

        port.drop(endpoint)
        port.drop(endpoint)
        port.drop("tcp://127.0.0.1:1")
        eventually(lambda: not port.is_writable(endpoint))
        router.router_mandatory = 1

        def is_gone() -> bool:
            try:
                router.send_multipart([identity, b"lost"])
            except zmq.ZMQError:
                return True
            return False

        eventually(is_gone)
        assert port.drain(10) == []

        eventually(lambda: port.send(endpoint, b"two"))
        identity, frame = router.recv_multipart()
        assert frame == b"two"
        router.send_multipart([identity, b"answer"])
        eventually(lambda: bool(listened[0].poll(10)))
        assert port.drain(10) == [(endpoint, b"answer")]
        assert len(listened) == 1, "the host listens to the same socket as before"
    finally:
        port.close()
        router.close()
        context.term()
