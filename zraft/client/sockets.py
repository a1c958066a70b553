"""The sockets under a client core, whoever runs it (DESIGN section 8)."""

from __future__ import annotations

import zmq

from zraft.client.core import ClientCore
from zraft.client.outbox import Outgoing
from zraft.wire import MAX_FRAME_BYTES

# Frames are bounded in size and requests in number, so this bounds memory; a full queue is refused, not waited for.
_SEND_QUEUE_FRAMES = 64
_RECONNECT_MS = 50
_RECONNECT_MAX_MS = 500
_HEARTBEAT_MS = 1000
_HEARTBEAT_TIMEOUT_MS = 3000


class Sockets:
    """One DEALER per endpoint, opened when first sent to. All calls come from one thread."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self.by_endpoint: dict[str, zmq.Socket[bytes]] = {}
        self.endpoint_of: dict[zmq.Socket[bytes], str] = {}

    def send(self, core: ClientCore, outgoing: Outgoing, now: float) -> None:
        """Send one frame of the core's without blocking; where ZeroMQ refuses, tell the core."""
        try:
            socket = self.by_endpoint.get(outgoing.endpoint)
            if socket is None:
                socket = self._open(outgoing.endpoint)
            socket.send(outgoing.frame, zmq.NOBLOCK)
        except zmq.ZMQError:  # no connection, a full queue, or an address that cannot be one
            core.on_send_failed(outgoing, now)

    def drop(self, endpoint: str) -> None:
        """Close the connection to an endpoint, which there must be, and which nobody waits on any more."""
        socket = self.by_endpoint.pop(endpoint)
        del self.endpoint_of[socket]
        socket.close()

    def close(self) -> None:
        """Close all sockets, dropping what is queued, and end the context."""
        for socket in self.by_endpoint.values():
            socket.close()
        self.by_endpoint.clear()
        self.endpoint_of.clear()
        self._context.term()

    def _open(self, endpoint: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        try:
            socket.linger = 0
            # Without a connection a send is refused at once; else it would be queued and delivered long after.
            socket.immediate = 1
            socket.sndhwm = _SEND_QUEUE_FRAMES
            socket.maxmsgsize = MAX_FRAME_BYTES
            socket.reconnect_ivl = _RECONNECT_MS
            socket.reconnect_ivl_max = _RECONNECT_MAX_MS
            socket.heartbeat_ivl = _HEARTBEAT_MS
            socket.heartbeat_timeout = _HEARTBEAT_TIMEOUT_MS
            socket.ipv6 = 1
            socket.connect(endpoint)
        except zmq.ZMQError:
            socket.close()
            raise
        self.by_endpoint[endpoint] = socket
        self.endpoint_of[socket] = endpoint
        return socket
