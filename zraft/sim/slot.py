"""The place of one actor in a process of a run: its mailbox, its ports, and the Context of its present life."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from zraft.bus.actor import Actor, ActorKilled
from zraft.messages import Read, ReadAt, ReadInTerm
from zraft.sim.disk import SimDisk

if TYPE_CHECKING:
    from zraft.sim.node import Process

NEVER_US = 1 << 62

Envelope = tuple[str, int, int, Any]  # sender, its incarnation, the receiver's as the sender knew it, message


class Port:
    """Frames that came in for an actor. What goes out is handed to `carry`."""

    def __init__(self, carry: Callable[[Any, bytes], bool], limit: int) -> None:
        self.inbox: deque[Any] = deque()
        self.surplus_parts = 0
        self.limit = limit
        self.peers: dict[str, str] = {}
        self.send = carry  # as bus.ports.PeerPort and RouterPort do

    def drain(self, limit: int) -> list[Any]:
        """See bus.ports.Port."""
        inbox = self.inbox
        if len(inbox) <= limit:
            frames = list(inbox)
            inbox.clear()
            return frames
        return [inbox.popleft() for _ in range(limit)]

    def set_peers(self, addresses: dict[str, str]) -> None:
        """See bus.ports.PeerPort."""
        self.peers = addresses


class SimContext:
    """The Context of one life of an actor."""

    def __init__(self, process: Process, slot: Slot, incarnation: int, neighbours: dict[str, int]) -> None:
        self.name = slot.name
        self.incarnation = incarnation
        self.ports: Mapping[str, Any] = slot.ports
        self.neighbours = neighbours
        self.rng = Random(f"{process.seed} {slot.name} {incarnation}")
        self._process = process
        self._slot = slot
        self.boundaries_left: int | None = None  # until it dies; None: it does not

    def send(self, to: str, message: Any) -> None:
        """See Context."""
        if self.boundaries_left is not None:
            self.boundary()
        kind = type(message)
        if kind is Read or kind is ReadInTerm or kind is ReadAt:
            self._process.watch_reads(message)
        envelope = (self.name, self.incarnation, self.neighbours.get(to, 0), message)
        outbox = self._slot.outbox
        if outbox is None:
            self._process.deliver(to, envelope)
        else:
            outbox.append((to, envelope))

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
        return self._process.machine.now_ms()


class Slot:
    """The place of one actor in its process."""

    __slots__ = (
        "actor",
        "began_us",
        "busy_until_us",
        "context",
        "disk",
        "factory",
        "label",
        "latest",
        "machine",
        "mailbox",
        "name",
        "next_run_us",
        "outbox",
        "paused_until_us",
        "port",
        "port_name",
        "ports",
        "waiting",
        "watched",
    )

    def __init__(
        self,
        machine: str,
        name: str,
        factory: Callable[[Any], Actor],
        ports: dict[str, Port],
        disk: SimDisk | None,
        watched: bool,
    ) -> None:
        self.machine = machine
        self.name = name
        self.label = f" {machine} {name} "  # for the transcript
        self.watched = watched  # whether the invariants want to know when it has run
        self.factory = factory
        self.ports = ports
        self.port_name = next(iter(ports), "")  # no actor has more than one
        self.port = ports.get(self.port_name)
        self.disk = disk
        self.mailbox: dict[str, deque[Envelope]] = {}
        self.latest: deque[Envelope] = deque()  # the queue in mailbox to which the last message was added
        self.waiting = 0  # messages
        self.actor: Actor | None = None
        self.context: SimContext | None = None
        self.next_run_us = NEVER_US
        self.began_us = 0  # where it has a disk: when what it does, or last did there, began
        self.busy_until_us = 0
        self.paused_until_us = 0
        self.outbox: list[tuple[str, Envelope]] | None = None  # not None: its handler runs, and takes time
