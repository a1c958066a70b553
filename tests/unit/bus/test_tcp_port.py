"""The port of the JSON lines, on real connections: bytes in and out, half-closed ends, slow readers, resets."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from zraft.bus import tcp_port
from zraft.bus.ports import PortInUse
from zraft.bus.tcp_port import TcpPort

WAIT_SECONDS = 5.0


class Bench:
    """A port and its clients."""

    def __init__(self) -> None:
        self.port = TcpPort("tcp://127.0.0.1:0")
        self.address = self.port._listener.getsockname()
        self.clients: list[socket.socket] = []
        watched: list[Any] = []
        self.port.watch(watched.append)
        self.descriptor = watched[0]

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.address, WAIT_SECONDS)
        self.clients.append(client)
        return client

    def drain_until(self, done: Callable[[list[tuple[int, bytes]]], object]) -> list[tuple[int, bytes]]:
        """Drain as a host does, whenever the descriptor tells, until the frames are what is waited for."""
        frames: list[tuple[int, bytes]] = []
        end = time.monotonic() + WAIT_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.descriptor, selectors.EVENT_READ)
            while not done(frames):
                assert time.monotonic() < end, f"only {[(number, len(data)) for number, data in frames]}"
                if selector.select(0.05):
                    frames += self.port.drain(256)
        return frames

    def bytes_of(self, count: int, number: int = 1) -> bytes:
        def done(frames: list[tuple[int, bytes]]) -> bool:
            return sum(len(data) for one, data in frames if one == number) >= count

        return b"".join(data for one, data in self.drain_until(done) if one == number)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for client in bench.clients:
        client.close()
    bench.port.close()


def receive_all(client: socket.socket) -> bytes:
    parts = []
    while data := client.recv(65536):
        parts.append(data)
    return b"".join(parts)


def test_bytes_in_and_out(bench: Bench) -> None:
    first, second = bench.connect(), bench.connect()
    first.sendall(b"one")
    second.sendall(b"two")
    frames = bench.drain_until(lambda frames: len(frames) == 2)
    numbers = {data: number for number, data in frames}
    assert set(numbers) == {b"one", b"two"}
    assert bench.port.send(numbers[b"two"], b"2") and bench.port.send(numbers[b"one"], b"1")
    assert (first.recv(9), second.recv(9)) == (b"1", b"2")


def test_who_has_finished_sending_is_still_answered(bench: Bench) -> None:
    client = bench.connect()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert bench.drain_until(lambda frames: (1, b"") in frames) == [(1, b"question"), (1, b"")]
    assert bench.port.drain(256) == [], "the end is told once"
    assert bench.port.is_open(1)
    assert bench.port.send(1, b"answer")
    bench.port.finish(1)
    assert receive_all(client) == b"answer"
    assert not bench.port.is_open(1)


def test_a_slow_reader_is_sent_nothing_more_until_it_reads(bench: Bench) -> None:
    client = bench.connect()
    client.sendall(b"x")
    bench.bytes_of(1)
    big = bytes(8_000_000)
    assert bench.port.send(1, big)
    assert not bench.port.send(1, b"more")
    bench.port.finish(1)
    received = 0
    while received < len(big):
        received += len(client.recv(1 << 20))
        bench.port.drain(256)
    assert client.recv(9) == b""
    assert not bench.port.is_open(1)


def test_a_reset_connection_is_an_end_and_harms_no_other(bench: Bench) -> None:
    first, second = bench.connect(), bench.connect()
    first.sendall(b"x")
    second.sendall(b"y")
    frames = bench.drain_until(lambda frames: len(frames) == 2)
    number = next(number for number, data in frames if data == b"x")
    first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    first.close()
    assert bench.drain_until(lambda frames: frames) == [(number, b"")]
    assert not bench.port.is_open(number)
    assert bench.port.send(number, b"into the void")
    bench.port.finish(number)
    assert bench.port.send(3 - number, b"still here")
    assert second.recv(20) == b"still here"


@pytest.mark.parametrize("error", [OSError(113, "no route to host"), ConnectionResetError(), TimeoutError()])
def test_whatever_fails_is_one_connection_and_not_the_node(bench: Bench, error: OSError) -> None:
    """An OSError that came out of a port would be fatal (`bus.host.FATAL_ERRORS`)."""
    client = bench.connect()
    client.sendall(b"x")
    bench.bytes_of(1)

    class Failing:
        def __init__(self, real: socket.socket) -> None:
            self.fileno, self.close = real.fileno, real.close

        def recv(self, size: int) -> bytes:
            raise error

        send = recv  # type: ignore[assignment]

    connection = bench.port._connections[1]
    connection.socket = Failing(connection.socket)  # type: ignore[assignment]
    client.sendall(b"y")
    assert bench.drain_until(lambda frames: frames) == [(1, b"")]
    assert not bench.port.is_open(1)


def test_nothing_there_after_all_is_no_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    client = bench.connect()
    client.sendall(b"x")
    bench.bytes_of(1)
    monkeypatch.setattr(bench.port, "_read", lambda number, connection: None)
    client.sendall(b"y")
    with selectors.DefaultSelector() as selector:
        selector.register(bench.descriptor, selectors.EVENT_READ)
        assert selector.select(WAIT_SECONDS)
    assert bench.port.drain(256) == []
    monkeypatch.undo()
    assert bench.bytes_of(1) == b"y"


def test_more_connections_than_the_limit_wait_their_turn(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp_port, "MAX_CONNECTIONS", 2)
    for number in range(3):
        bench.connect().sendall(b"%d" % number)
    frames = bench.drain_until(lambda frames: len(frames) == 2)
    assert {data for _, data in frames} == {b"0", b"1"}
    assert bench.port.drain(256) == []
    bench.port.finish(frames[0][0])
    assert [data for _, data in bench.drain_until(lambda frames: frames)] == [b"2"]


def test_a_new_life_ends_the_connections_of_the_old_one(bench: Bench) -> None:
    client = bench.connect()
    client.sendall(b"x")
    bench.bytes_of(1)
    bench.port.drop_all()
    assert client.recv(9) == b""
    again = bench.connect()
    again.sendall(b"y")
    assert bench.drain_until(lambda frames: frames) == [(2, b"y")], "no number means two connections"


def test_an_address_in_use_is_refused_in_words(bench: Bench) -> None:
    with pytest.raises(PortInUse, match="is in use: stop what uses it"):
        TcpPort(f"tcp://127.0.0.1:{bench.address[1]}")
