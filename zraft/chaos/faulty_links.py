"""Links that lose and delay: what stands around a node's port to its peers where its config says `chaos: true`."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from random import Random
from typing import Any, Protocol

from zraft.actors.transport import Transport
from zraft.bus.actor import Context
from zraft.chaos.faults import Faults
from zraft.raft import Address
from zraft.wire import WireError, unpack_peer_frame

MAX_HELD_FRAMES = 20_000
MAX_HELD_BYTES = 64 * 1024 * 1024
"""Of frames on their way; past it they are lost, as in a router whose queue is full."""

CUT = 1.0


class Links(Protocol):
    """What is wrapped: see bus.ports.PeerPort."""

    surplus_parts: int

    def watch(self, listen: Any) -> None:
        """See PeerPort."""

    def drain(self, limit: int) -> list[bytes]:
        """See PeerPort."""

    def set_peers(self, addresses: dict[str, str]) -> None:
        """See PeerPort."""

    def send(self, peer: str, frame: bytes) -> bool:
        """See PeerPort."""

    def close(self) -> None:
        """See PeerPort."""


class FaultyPeerPort:
    """A PeerPort whose frames fare as `faults` say. Delayed ones are kept here, over the lives of transport; whoever
    uses the port calls `take_due` at `due_ms` or later.

    A frame that is held back is lost if its link is cut meanwhile. now_ms: the monotonic clock."""

    def __init__(self, port: Links, faults: Faults, rng: Random, now_ms: Callable[[], int]) -> None:
        self._port = port
        self._faults = faults
        self._rng = rng
        self._held: list[tuple[float, int, str, str, bytes]] = []  # heap: due, number, direction, peer, frame
        self._held_bytes = 0
        self._last_number = 0
        self._now_ms = now_ms
        self.watch = port.watch
        self.close = port.close

    @property
    def surplus_parts(self) -> int:
        """See PeerPort."""
        return self._port.surplus_parts

    @property
    def due_ms(self) -> int | None:
        """When the next frame has been held back long enough (monotonic); None: none is held back."""
        return math.ceil(self._held[0][0]) if self._held else None

    def set_peers(self, addresses: dict[str, str]) -> None:
        """See PeerPort."""
        self._faults.peers = frozenset(addresses)
        self._port.set_peers(addresses)

    def drain(self, limit: int) -> list[bytes]:
        """See PeerPort."""
        frames = self._port.drain(limit)
        if not self._faults.any_link:
            return frames
        return [frame for frame in frames if self._passes("in", _sender(frame), frame)]

    def send(self, peer: str, frame: bytes) -> bool:
        """See PeerPort. True too for what is lost on the way."""
        if self._faults.any_link and not self._passes("out", peer, frame):
            return True
        return self._port.send(peer, frame)

    def take_due(self) -> list[bytes]:
        """Send on what went out and has been held back long enough; returns what came in and has."""
        frames = []
        now_ms = self._now_ms()
        while self._held and self._held[0][0] <= now_ms:
            _, _, direction, peer, frame = heapq.heappop(self._held)
            self._held_bytes -= len(frame)
            if self._faults.link(peer, direction).drop >= CUT:
                continue
            if direction == "in":
                frames.append(frame)
            else:
                self._port.send(peer, frame)
        return frames

    def _passes(self, direction: str, peer: str, frame: bytes) -> bool:
        """Whether the frame goes on at once. If not, it is lost or held back."""
        drop, (least_ms, most_ms) = self._faults.link(peer, direction)
        if drop and self._rng.random() < drop:
            return False
        if not most_ms:
            return True
        if len(self._held) < MAX_HELD_FRAMES and self._held_bytes + len(frame) <= MAX_HELD_BYTES:
            self._last_number += 1
            self._held_bytes += len(frame)
            due_ms = self._now_ms() + self._rng.uniform(least_ms, most_ms)
            heapq.heappush(self._held, (due_ms, self._last_number, direction, peer, frame))
        return False


def _sender(frame: bytes) -> str:
    try:
        return unpack_peer_frame(frame).sender
    except WireError:
        return ""  # no peer's: transport drops and counts it


class FaultyTransport(Transport):
    """Transport that also wakes when its FaultyPeerPort has a frame due."""

    def __init__(self, context: Context, node: str, own: Address) -> None:
        super().__init__(context, node, own)
        self.faulty_port: FaultyPeerPort = context.ports["peers"]

    def on_start(self) -> None:
        """Frames may be on their way since a former life."""
        self.wakeup_ms = self.faulty_port.due_ms

    def on_wakeup(self, now_ms: int) -> None:
        """Deliver what is due; end_batch follows."""
        frames = self.faulty_port.take_due()
        if frames:
            self.receive_frames("peers", frames)

    def end_batch(self) -> None:
        """As Transport's."""
        super().end_batch()
        self.wakeup_ms = self.faulty_port.due_ms
