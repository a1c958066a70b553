"""Plain TCP connections for the JSON lines port.

Not zmq.STREAM: that closes a connection as soon as the other end has finished sending, before it can be answered, and
finishing is just what ``printf ... | nc -q1`` (and every program that sends and then reads to the end) does.
"""

from __future__ import annotations

import errno
import selectors
import socket
from typing import Any

from zraft.bus.ports import Listen, PortInUse

READ_BYTES = 64 * 1024
MAX_CONNECTIONS = 256  # more wait in the kernel's queue until one ends


class _Connection:
    def __init__(self, peer: socket.socket) -> None:
        self.socket = peer
        self.outgoing = b""  # what the kernel would not take yet
        self.ended = False  # the other end sends no more
        self.close_when_sent = False


class TcpPort:
    """A listening socket and its connections, behind one selector whose descriptor the host waits on.

    Frames in: (connection number, bytes); no bytes: the other end has finished sending, or is gone.
    """

    def __init__(self, address: str) -> None:
        """address: ``tcp://host:port``. Raises PortInUse."""
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind(("" if host == "*" else host, int(port)))
        except OSError as error:
            self._listener.close()
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(f"json address {address} is in use: stop what uses it, or change the config") from None
            raise PortInUse(f"cannot listen on json address {address}: {error}") from None
        self._listener.listen(128)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._connections: dict[int, _Connection] = {}
        self._last_number = 0

    def watch(self, listen: Listen) -> None:
        """See Port."""
        listen(self._selector.fileno())  # epoll and kqueue have one

    def drain(self, limit: int) -> list[tuple[int, bytes]]:
        """See Port."""
        frames = []
        for key, events in self._selector.select(0)[:limit]:
            if key.data is None:
                self._accept()
                continue
            number, connection = key.data, self._connections[key.data]
            if events & selectors.EVENT_WRITE:
                self._flush(number, connection)
            if events & selectors.EVENT_READ and number in self._connections:
                data = self._read(number, connection)
                if data is not None:
                    frames.append((number, data))
        return frames

    def send(self, number: int, data: bytes) -> bool:
        """Send; False: not now, the other end reads too slowly. To a connection that is gone: into the void."""
        connection = self._connections.get(number)
        if connection is None:
            return True
        if connection.outgoing:
            return False
        connection.outgoing = data
        self._flush(number, connection)
        return True

    def finish(self, number: int) -> None:
        """Read no more from a connection, and close it once all that was sent is out."""
        connection = self._connections.get(number)
        if connection is not None:
            connection.ended = connection.close_when_sent = True
            self._flush(number, connection)

    def is_open(self, number: int) -> bool:
        """Whether there is still such a connection."""
        return number in self._connections

    def drop_all(self) -> None:
        """Close every connection at once: nobody is left who knows what they wait for."""
        for number in list(self._connections):
            self._drop(number)

    def close(self) -> None:
        """See Port."""
        self.drop_all()
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        try:
            peer, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and self._connections:
                self._selector.unregister(self._listener)  # it would tell again at once; a drop registers it again
            return
        try:
            peer.setblocking(False)
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(peer, selectors.EVENT_READ, self._last_number + 1)
        except OSError:
            peer.close()  # it is gone again
            return
        self._last_number += 1
        self._connections[self._last_number] = _Connection(peer)
        if len(self._connections) >= MAX_CONNECTIONS:
            self._selector.unregister(self._listener)

    def _read(self, number: int, connection: _Connection) -> bytes | None:
        """None: nothing is there after all. A connection that fails, in whatever way, is gone; the node goes on."""
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            self._drop(number)
            return b""
        if not data:
            connection.ended = True
            self._wait_for(connection, number)
        return data

    def _flush(self, number: int, connection: _Connection) -> None:
        try:
            while connection.outgoing:
                sent = connection.socket.send(connection.outgoing)
                connection.outgoing = connection.outgoing[sent:]
        except BlockingIOError:
            pass
        except OSError:
            self._drop(number)
            return
        if connection.close_when_sent and not connection.outgoing:
            self._drop(number)
        else:
            self._wait_for(connection, number)

    def _wait_for(self, connection: _Connection, number: int) -> None:
        """Wait for what there is to wait for; for nothing: the selector knows no such thing, so not at all."""
        events = 0 if connection.ended else selectors.EVENT_READ
        events |= selectors.EVENT_WRITE if connection.outgoing else 0
        registered: Any = self._selector.get_map().get(connection.socket)
        if registered is None and events:
            self._selector.register(connection.socket, events, number)
        elif registered is not None and not events:
            self._selector.unregister(connection.socket)
        elif registered is not None and registered.events != events:
            self._selector.modify(connection.socket, events, number)

    def _drop(self, number: int) -> None:
        connection = self._connections.pop(number)
        selected = self._selector.get_map()
        if connection.socket in selected:
            self._selector.unregister(connection.socket)
        connection.socket.close()
        if self._listener not in selected:
            self._selector.register(self._listener, selectors.EVENT_READ, None)
