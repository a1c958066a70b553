"""What a host keeps for each of its actors, and what it gives them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import zmq

from zraft.bus.actor import Actor, ActorKilled
from zraft.bus.ports import Port

if TYPE_CHECKING:
    from zraft.bus.host import Host

Envelope = tuple[str, int, int, Any]
"""Sender, its incarnation, the receiver's incarnation as the sender knew it, message."""


class ActorSpec(NamedTuple):
    """name; factory: makes a life of the actor from its Context; ports: name -> the sockets that it may use; waits:
    for a disk, as others of its host may not (it has no ports then)."""

    name: str
    factory: Callable[[Any], Actor]
    ports: Mapping[str, Port]
    waits: bool = False


class HostedContext:
    """The Context of an actor in a Host."""

    def __init__(self, host: Host, spec: ActorSpec, incarnation: int, neighbours: dict[str, int]) -> None:
        self.name = spec.name
        self.incarnation = incarnation
        self.ports = spec.ports
        self.rng = Random()  # seeded by the operating system
        self.neighbours = neighbours
        self.dropped = 0  # messages of, or for, older lives
        self._host = host
        self.boundaries_left: int | None = None  # until it dies; None: it shall live

    def send(self, to: str, message: Any) -> None:
        """See Context."""
        if self.boundaries_left is not None:
            self.boundary()
        self._host.push_from(self, to, (self.name, self.incarnation, self.neighbours.get(to, 0), message))

    def boundary(self) -> None:
        """See Context."""
        if self.boundaries_left is not None:
            if self.boundaries_left <= 0:
                raise ActorKilled
            self.boundaries_left -= 1

    def kill(self, boundaries: int) -> None:
        """Die at that many boundaries from now."""
        self.boundaries_left = boundaries

    def now_ms(self) -> int:
        """See Context."""
        return time.monotonic_ns() // 1_000_000


class Slot:
    """The place of one actor in its host: the mailbox stays, lives come and go."""

    def __init__(self, spec: ActorSpec, mailbox: zmq.Socket[bytes], read_queue: Callable[[Slot], None]) -> None:
        self.spec = spec
        self.mailbox = mailbox
        self.queue: deque[Envelope] = deque()  # from actors of the same host
        self.read_queue = partial(read_queue, self)
        self.received = 0
        self.descriptors: list[int] = []  # that are listened to while the actor lives
        self.port_sockets: dict[Any, int] = {}  # those of ZeroMQ's among them, but for the mailbox,
        self.port_polls: list[tuple[zmq.Socket[bytes], int]] = []  # and as they are looked at
        self.actor: Actor | None = None
        self.context: HostedContext | None = None
