"""The bus without threads and sockets: what an actor is given, and a node that hosts actors step by step.

`FakeContext` alone is enough to test one actor: it records what the actor sends. `FakeNode` hosts all actors of a
node with the real supervisor, by the rules of `zraft.bus.host`: batches, boundaries, incarnations, order kept from
each sender and from nobody else. Time stands where the clock is put, and a seed decides who runs next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, NamedTuple

from zraft.bus.actor import Actor, ActorKilled
from zraft.bus.host import FATAL_ERRORS, MAX_BATCH
from zraft.bus.supervisor import Supervisor
from zraft.messages import (
    ActorDied,
    ActorRestarted,
    ActorStarted,
    HostDied,
    HostStopped,
    KillActor,
    StartActor,
    StopHost,
)
from zraft.wire import pack_bus, unpack_bus


class Clock:
    """Virtual monotonic time."""

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.now_ms = now_ms


class FakePort:
    """Stands for any of `zraft.bus.ports`: a test puts frames into `inbox` and finds in `sent` what the actor sent.

    `accepts`: whether sends succeed; `on_send` is told of those that do.
    """

    def __init__(self, on_send: Callable[[Any, bytes], None] = lambda to, frame: None) -> None:
        self.inbox: deque[Any] = deque()
        self.sent: list[tuple[Any, bytes]] = []
        self.accepts = True
        self.peers: dict[str, str] = {}
        self.surplus_parts = 0
        self.dropped: list[str] = []
        self.on_send = on_send

    def drain(self, limit: int) -> list[Any]:
        return [self.inbox.popleft() for _ in range(min(limit, len(self.inbox)))]

    def send(self, to: Any, frame: bytes) -> bool:
        if self.accepts:
            self.sent.append((to, frame))
            self.on_send(to, frame)
        return self.accepts

    def drop_all(self) -> None:
        self.inbox.clear()

    def drop(self, endpoint: str) -> None:
        self.dropped.append(endpoint)

    def is_writable(self, to: Any) -> bool:
        return self.accepts

    def set_peers(self, peers: Mapping[str, str]) -> None:
        self.peers = dict(peers)


class FakeTcpPort(FakePort):
    """Stands for `zraft.bus.tcp_port`: frames are (connection number, bytes). `finished`: those the actor closed."""

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[int] = []
        self.gone: set[int] = set()
        self.drops = 0

    def finish(self, number: int) -> None:
        self.finished.append(number)

    def is_open(self, number: int) -> bool:
        return number not in self.finished and number not in self.gone

    def drop_all(self) -> None:
        self.drops += 1


class FakeContext:
    """A `Context`. Without `post` what is sent is recorded in `sent`; `kill(k)`: dies at the boundary after k others.

    `boundaries` counts those that were passed.
    """

    def __init__(
        self,
        name: str,
        incarnation: int = 1,
        neighbours: dict[str, int] | None = None,
        *,
        clock: Clock | None = None,
        seed: object = 0,
        ports: Mapping[str, Any] | None = None,
        post: Callable[[FakeContext, str, Any], None] | None = None,
    ) -> None:
        self.name = name
        self.incarnation = incarnation
        self.neighbours = {} if neighbours is None else neighbours
        self.clock = clock or Clock()
        self.rng = Random(f"{seed} {name} {incarnation}")
        self.ports = ports or {}
        self.sent: list[tuple[str, Any]] = []
        self.boundaries = 0
        self.dropped = 0
        self._dies_after: int | None = None
        self._post = post

    def send(self, to: str, message: Any) -> None:
        self.boundary()
        if self._post is None:
            self.sent.append((to, message))
        else:
            self._post(self, to, message)

    def boundary(self) -> None:
        if self._dies_after is not None and self.boundaries >= self._dies_after:
            raise ActorKilled
        self.boundaries += 1

    def kill(self, boundaries: int) -> None:
        self._dies_after = self.boundaries + boundaries

    def spare(self) -> None:
        """Take a kill back."""
        self._dies_after = None

    def now_ms(self) -> int:
        return self.clock.now_ms

    def taken(self) -> list[tuple[str, Any]]:
        """What was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent

    def taken_for(self, to: str) -> list[Any]:
        """What was sent to one neighbour since the last call; the rest stays."""
        mine = [message for receiver, message in self.sent if receiver == to]
        self.sent = [(receiver, message) for receiver, message in self.sent if receiver != to]
        return mine


def run_batch(actor: Actor, *messages: tuple[str, Any]) -> None:
    """One batch: (sender, message) pairs, then its end."""
    for sender, message in messages:
        actor.receive(sender, message)
    actor.end_batch()


class FakeSlot:
    """The place of one actor: mailbox and ports stay, lives come and go. A queue for each sender in the mailbox."""

    def __init__(self, name: str, factory: Callable[[FakeContext], Actor], ports: Mapping[str, FakePort]) -> None:
        self.name = name
        self.factory = factory
        self.ports = ports
        self.mailbox: dict[str, deque[bytes]] = {}
        self.actor: Actor | None = None
        self.context: FakeContext | None = None
        self.deaths: list[str] = []

    def is_ready(self, now_ms: int) -> bool:
        if self.actor is None:
            return False
        due = self.actor.wakeup_ms is not None and now_ms >= self.actor.wakeup_ms
        return due or any(self.mailbox.values()) or any(port.inbox for port in self.ports.values())


class ActorPlace(NamedTuple):
    """How an actor of a FakeNode is made, and what ports it has."""

    factory: Callable[[FakeContext], Actor]
    ports: Mapping[str, FakePort] = {}


class FakeNode:
    """One node: each actor on a host of its own, and the supervisor. `step` runs one batch of one of them."""

    def __init__(self, name: str, places: Mapping[str, ActorPlace], clock: Clock, rng: Random) -> None:
        self.name = name
        self.clock = clock
        self.rng = rng
        self.slots = {actor: FakeSlot(actor, *place) for actor, place in places.items()}
        self.control: dict[str, deque[Any]] = {f"host of {actor}": deque() for actor in places}
        self.ended = False
        self.threads_started: list[str] = []
        self.broken_hosts: set[str] = set()
        host_of = {actor: f"host of {actor}" for actor in places}

        def make_supervisor(context: FakeContext) -> Supervisor:
            return Supervisor(context, list(places), host_of, self.queue_lengths, self.start_thread)

        slot = self.slots["supervisor"] = FakeSlot("supervisor", make_supervisor, {})
        self._begin_life(slot, StartActor("supervisor", 1, {}))
        assert isinstance(slot.actor, Supervisor)
        self.supervisor = slot.actor

    # --- what hosts do

    def post(self, context: FakeContext, to: str, message: Any) -> None:
        if to == "main":
            self.ended = True
        elif to in self.control:
            self.control[to].append(message)
        else:
            frame = pack_bus(context.name, context.incarnation, context.neighbours.get(to, 0), message)
            self.slots[to].mailbox.setdefault(context.name, deque()).append(frame)

    def tell_supervisor(self, host: str, message: Any) -> None:
        self.slots["supervisor"].mailbox.setdefault(host, deque()).append(pack_bus(host, 1, 1, message))

    def queue_lengths(self) -> dict[str, int]:
        return {name: sum(map(len, slot.mailbox.values())) for name, slot in self.slots.items()}

    def start_thread(self, host: str) -> None:
        """As a new thread does: the actors found are dead."""
        self.threads_started.append(host)
        self.broken_hosts.discard(host)
        slot = self.slots[host.removeprefix("host of ")]
        if slot.actor is not None:
            self._died(slot, RuntimeError(f"thread {host} ended"))

    def break_thread(self, actor: str) -> None:
        """The host's thread ends by a bug of its own; nothing runs there until the supervisor starts another."""
        host = f"host of {actor}"
        self.broken_hosts.add(host)
        self.tell_supervisor(host, HostDied(host, "RuntimeError: a test"))

    def _on_control(self, host: str) -> None:
        message = self.control[host].popleft()
        if type(message) is StartActor:
            self._begin_life(self.slots[message.actor], message)
        elif type(message) is KillActor:
            slot = self.slots[message.actor]
            if slot.context is not None and message.boundary:
                slot.context.kill(message.boundary)
            elif slot.context is not None:
                self._died(slot, ActorKilled())
        elif type(message) is StopHost:
            slot = self.slots[host.removeprefix("host of ")]
            if slot.actor is not None:
                slot.actor.on_stop()
            slot.actor = slot.context = None
            self.tell_supervisor(host, HostStopped(host))

    def _begin_life(self, slot: FakeSlot, message: StartActor) -> None:
        slot.context = FakeContext(
            slot.name,
            message.incarnation,
            dict(message.neighbours),
            clock=self.clock,
            seed=(self.name, self.rng.random()),
            ports=slot.ports,
            post=self.post,
        )
        self.on_context(slot.context)
        try:
            slot.actor = slot.factory(slot.context)
            slot.actor.on_start()
        except (Exception, ActorKilled) as error:
            self._died(slot, error)
            return
        self.tell_supervisor(f"host of {slot.name}", ActorStarted(slot.name, message.incarnation))

    def on_context(self, context: FakeContext) -> None:
        """A life begins; for a test to arm a kill in it."""

    def _died(self, slot: FakeSlot, error: BaseException) -> None:
        assert slot.context is not None
        killed, fatal = isinstance(error, ActorKilled), isinstance(error, FATAL_ERRORS)
        incarnation = slot.context.incarnation
        slot.deaths.append("killed" if killed else f"{type(error).__name__}: {error}")
        slot.actor = slot.context = None
        assert slot.name != "supervisor", error
        self.tell_supervisor(f"host of {slot.name}", ActorDied(slot.name, incarnation, slot.deaths[-1], killed, fatal))

    # --- running

    def kill(self, actor: str, boundary: int = 0) -> None:
        """As a KillActor does, at once."""
        slot = self.slots[actor]
        if slot.context is not None and boundary:
            slot.context.kill(boundary)
        elif slot.context is not None:
            self._died(slot, ActorKilled())

    def ready(self) -> list[str]:
        """Who could run: hosts with control messages, actors with messages, frames or a wakeup that is due."""
        if self.ended:
            return []
        now_ms = self.clock.now_ms
        hosts = [host for host, queue in self.control.items() if queue and host not in self.broken_hosts]
        return hosts + [
            name
            for name, slot in self.slots.items()
            if slot.is_ready(now_ms) and f"host of {name}" not in self.broken_hosts
        ]

    def step(self, who: str) -> None:
        """One control message of a host, or one turn of an actor: mailbox, ports, wakeup, each with its batch's end."""
        if who in self.control:
            self._on_control(who)
            return
        slot = self.slots[who]
        if any(slot.mailbox.values()):
            self._guard(slot, lambda: self._read_mailbox(slot))
        for name, port in slot.ports.items():
            if port.inbox and slot.actor is not None:
                self._guard(slot, lambda name=name, port=port: self._read_port(slot, name, port))
        actor = slot.actor
        if actor is not None and actor.wakeup_ms is not None and self.clock.now_ms >= actor.wakeup_ms:
            actor.wakeup_ms = None
            self._guard(slot, lambda: actor.on_wakeup(self.clock.now_ms))

    def next_wakeup_ms(self) -> int | None:
        times = [slot.actor.wakeup_ms for slot in self.slots.values() if slot.actor and slot.actor.wakeup_ms]
        return min(times, default=None)

    def settle(self, max_steps: int = 10_000) -> None:
        """Run until nobody has anything to do at this instant."""
        for _ in range(max_steps):
            ready = self.ready()
            if not ready:
                return
            self.step(self.rng.choice(ready))
        raise AssertionError(f"{self.name} does not come to rest")

    def _guard(self, slot: FakeSlot, handle: Callable[[], None]) -> None:
        assert slot.actor is not None
        try:
            handle()
            slot.actor.end_batch()
        except (Exception, ActorKilled) as error:
            self._died(slot, error)

    def _read_mailbox(self, slot: FakeSlot) -> None:
        actor, context = slot.actor, slot.context
        assert actor is not None and context is not None
        for _ in range(MAX_BATCH):
            senders = [sender for sender, queue in slot.mailbox.items() if queue]
            if not senders:
                break
            frame = slot.mailbox[self.rng.choice(senders)].popleft()
            context.boundary()
            sender, incarnation, to_incarnation, message = unpack_bus(frame)
            known = context.neighbours.get(sender, 0)
            if to_incarnation != context.incarnation or incarnation < known:
                context.dropped += 1
            elif type(message) is ActorRestarted:
                self._neighbour_lives(actor, context, message.actor, message.incarnation)
            else:
                self._neighbour_lives(actor, context, sender, incarnation)
                actor.receive(sender, message)

    def _neighbour_lives(self, actor: Actor, context: FakeContext, name: str, incarnation: int) -> None:
        known = context.neighbours.get(name, 0)
        if incarnation > known:
            context.neighbours[name] = incarnation
            if known:
                actor.on_neighbour_restarted(name)

    def _read_port(self, slot: FakeSlot, name: str, port: FakePort) -> None:
        assert slot.actor is not None and slot.context is not None
        slot.context.boundary()
        frames = port.drain(MAX_BATCH)
        if frames:
            slot.actor.receive_frames(name, frames)
