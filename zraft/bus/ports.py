"""The sockets towards the world. A port belongs to one actor, is kept by its host, and survives that actor's lives.

Frames are taken with `recv`, one part at a time (the multipart calls cost twice as much), and a peer's surplus parts
are seen and dropped. Sends never block: what cannot be queued is dropped, and whoever needs it asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import zmq
from zmq import zmq_poll

from zraft.errors import ZraftError
from zraft.wire import MAX_FRAME_BYTES

CLIENT_HWM = 200  # frames that wait in each direction for one connection; TCP holds back the rest
PEER_HWM = 100
_MORE_FOLLOWS = int(zmq.SNDMORE | zmq.NOBLOCK)  # to join them takes two microseconds
HEARTBEAT_MS = 1_000  # of ZMTP: notices links that died without a word

Listen = Callable[[Any], None]


class PortInUse(ZraftError):
    """An address cannot be bound."""


class Port(Protocol):
    """What a host needs of one."""

    def watch(self, listen: Listen) -> None:
        """Name each socket to wait on, now, and, where more are opened later, then."""

    def drain(self, limit: int) -> list[Any]:
        """Take up to limit frames that wait; does not block."""

    def close(self) -> None:
        """Close the sockets."""


def _bind(socket: zmq.Socket[bytes], address: str, what: str) -> None:
    try:
        socket.bind(address)
    except zmq.ZMQError as error:
        socket.close()
        if error.errno == zmq.EADDRINUSE:
            raise PortInUse(
                f"{what} address {address} is in use: is this node running already? Stop it, or change the config"
            ) from None
        raise PortInUse(f"cannot listen on {what} address {address}: {error}") from None


def _dealer(context: zmq.Context[Any], address: str, hwm: int) -> zmq.Socket[bytes]:
    """A DEALER that takes messages only while it is connected: else what was meant for a dead node piles up, and all
    of it arrives when the node returns."""
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IMMEDIATE, 1)
    socket.setsockopt(zmq.SNDHWM, hwm)
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_FRAME_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, 2_000)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
    try:
        socket.connect(address)
    except zmq.ZMQError:
        socket.close()
        raise
    return socket


class RouterPort:
    """A bound ROUTER. Frames in: (routing id, frame)."""

    def __init__(self, context: zmq.Context[Any], address: str, what: str, hwm: int) -> None:
        self.surplus_parts = 0  # messages of more than one frame, which nobody should send: dropped
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, hwm)
        self._socket.setsockopt(zmq.RCVHWM, hwm)
        self._socket.setsockopt(zmq.MAXMSGSIZE, 2 * MAX_FRAME_BYTES)  # somewhat too large is counted, far too large cut
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3 * HEARTBEAT_MS)
        self._socket.setsockopt(zmq.BACKLOG, 512)
        _bind(self._socket, address, what)
        self._waiting = [(self._socket, int(zmq.POLLIN))]

    def watch(self, listen: Listen) -> None:
        """See Port."""
        listen(self._socket)

    def drain(self, limit: int) -> list[tuple[bytes, bytes]]:
        """See Port. No more than some MAX_FRAME_BYTES at a time."""
        frames: list[tuple[bytes, bytes]] = []
        socket, waiting = self._socket, self._waiting
        size = 0
        for _ in range(limit):
            if size > MAX_FRAME_BYTES or not zmq_poll(waiting, 0):
                break
            identity = socket.recv(zmq.NOBLOCK)
            part = socket.recv(zmq.NOBLOCK, copy=False)
            if part.more:
                self.surplus_parts += 1
                while part.more:
                    part = socket.recv(zmq.NOBLOCK, copy=False)
                continue
            frame = part.bytes
            size += len(frame)
            frames.append((identity, frame))
        return frames

    def send(self, identity: bytes, frame: bytes) -> None:
        """Send to one connection; dropped if it is gone or reads nothing."""
        try:
            self._socket.send(identity, _MORE_FOLLOWS)
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            pass

    def close(self) -> None:
        """See Port."""
        self._socket.close()


class PeerPort:
    """The links to the other nodes: one bound ROUTER to receive, a DEALER for each peer to send."""

    def __init__(self, context: zmq.Context[Any], address: str) -> None:
        self._context = context
        self._router = RouterPort(context, address, "peer", PEER_HWM)
        self._dealers: dict[str, tuple[str, zmq.Socket[bytes]]] = {}

    @property
    def surplus_parts(self) -> int:
        """As RouterPort's."""
        return self._router.surplus_parts

    def watch(self, listen: Listen) -> None:
        """See Port."""
        self._router.watch(listen)

    def drain(self, limit: int) -> list[bytes]:
        """See Port."""
        return [frame for _, frame in self._router.drain(limit)]

    def set_peers(self, addresses: dict[str, str]) -> None:
        """Connect to these peers (id -> address) and to no others. There is no link where an address is none,
        or none of TCP: anybody may name one, and inproc are the mailboxes of this node's actors."""
        for peer, (address, socket) in list(self._dealers.items()):
            if addresses.get(peer) != address:
                socket.close()
                del self._dealers[peer]
        for peer, address in addresses.items():
            if peer not in self._dealers and address.startswith("tcp://"):
                with suppress(zmq.ZMQError):
                    self._dealers[peer] = (address, _dealer(self._context, address, PEER_HWM))

    def send(self, peer: str, frame: bytes) -> bool:
        """Queue a frame; False: there is no link, or it is full. Raft repairs."""
        link = self._dealers.get(peer)
        if link is None:
            return False
        try:
            link[1].send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def close(self) -> None:
        """See Port."""
        self._router.close()
        for _, socket in self._dealers.values():
            socket.close()


class ClusterPort:
    """This node as a client of the cluster: a DEALER to each client endpoint, opened when first sent to.

    Frames in: (endpoint, frame)."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self._context = context
        self._dealers: dict[str, zmq.Socket[bytes]] = {}
        self._idle: set[str] = set()
        self._listen: Listen | None = None

    def watch(self, listen: Listen) -> None:
        """See Port."""
        self._listen = listen
        for socket in self._dealers.values():
            listen(socket)

    def send(self, endpoint: str, frame: bytes) -> bool:
        """Queue a frame; False: it is not connected (yet), or full."""
        socket = self._dealers.get(endpoint)
        if socket is None:
            socket = self._dealers[endpoint] = _dealer(self._context, endpoint, CLIENT_HWM)
            if self._listen is not None:
                self._listen(socket)
        elif endpoint in self._idle:
            self._idle.remove(endpoint)
            socket.connect(endpoint)
        try:
            socket.send(frame, zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def drop(self, endpoint: str) -> None:
        """End the connection to an endpoint until it is sent to again. The socket stays, as the host listens to it."""
        socket = self._dealers.get(endpoint)
        if socket is not None and endpoint not in self._idle:
            self._idle.add(endpoint)
            socket.disconnect(endpoint)

    def drop_all(self) -> None:
        """Close every link: what was asked over them is not answered to whoever asks next."""
        for socket in self._dealers.values():
            socket.close()
        self._dealers.clear()
        self._idle.clear()

    def is_writable(self, endpoint: str) -> bool:
        """Whether a frame would be accepted now."""
        socket = self._dealers.get(endpoint)
        return socket is not None and bool(socket.poll(0, zmq.POLLOUT))

    def drain(self, limit: int) -> list[tuple[str, bytes]]:
        """See Port."""
        frames: list[tuple[str, bytes]] = []
        for endpoint, socket in self._dealers.items():
            while len(frames) < limit and socket.poll(0):
                frames.append((endpoint, socket.recv(zmq.NOBLOCK)))
        return frames

    def close(self) -> None:
        """See Port."""
        self.drop_all()
