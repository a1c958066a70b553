"""TCP ports for a cluster's nodes, kept for one cluster as long as it exists, however often its nodes restart."""

from __future__ import annotations

import random
import socket
import sys

HOST = "127.0.0.1"
FIRST_PORT = 10_000
LAST_PORT = 32_000
"""Below what systems give to outgoing connections: a port from there can be taken by any client's connection while its
node is down, even by one that tries to reach that node and so meets itself."""


class PortReservation:
    """Finds free ports and holds each with a bound socket that never listens.

    Linux lets a node listen on such a port as both sockets allow the reuse of the address, and refuses it to whoever
    looks for a port for itself. Other systems do not; there a port is free again between two lives of its node.
    """

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self) -> int:
        """A port that nobody else has."""
        while True:
            port = random.randrange(FIRST_PORT, LAST_PORT)
            holder = socket.socket()
            try:
                holder.bind((HOST, port))  # exclusively: fails where another holds or uses it
            except OSError:
                holder.close()
                continue
            if sys.platform == "linux":
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._held.append(holder)
            else:
                holder.close()
            return port

    def close(self) -> None:
        """Give all ports back."""
        for holder in self._held:
            holder.close()
        self._held.clear()
