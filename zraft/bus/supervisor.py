"""The policy of lives: starts the actors in order, begins a new life for one that died, stops the node when it must.

A handler like any actor, so that a simulator can run it; it lives as long as the node.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from zraft.bus.actor import Actor, Context
from zraft.messages import (
    ActorDied,
    ActorRestarted,
    ActorStarted,
    HandedOver,
    HandOver,
    HostDied,
    HostStopped,
    KillActor,
    KillRequest,
    Replies,
    SetFaults,
    StartActor,
    StopHost,
    StopRequest,
)
from zraft.wire import ReplyStatus

MAX_DEATHS = 5  # of one actor, not counting kills on request,
DEATHS_WINDOW_MS = 10_000  # in so long: then the node stops
HAND_OVER_MS = 1_000
STOP_HOSTS_MS = 3_000

log = logging.getLogger(__name__)


class FaultyWorld(Protocol):
    """The faults around a node's actors: see chaos.faults.Faults."""

    def set(self, faults: Mapping[str, Any]) -> str:
        """Put in force. Returns why not, or ""."""

    def in_force(self) -> Mapping[str, Any]:
        """For status."""


class Supervisor(Actor):
    """start_order: actor names. host_of: actor -> host. queue_lengths: () -> actor -> messages that wait for it.
    start_thread: runs a host (by name) in a new thread. faults: where they may be injected.

    `exit_status` is None while the node runs, then 0 (clean) or 1, with `exit_reason`.
    """

    name = "supervisor"

    def __init__(
        self,
        context: Context,
        start_order: Sequence[str],
        host_of: Mapping[str, str],
        queue_lengths: Callable[[], Mapping[str, int]],
        start_thread: Callable[[str], None],
        faults: FaultyWorld | None = None,
    ) -> None:
        super().__init__(context)
        self.start_order = list(start_order)
        self.host_of = dict(host_of)
        self.queue_lengths = queue_lengths
        self.start_thread = start_thread
        self.faults = faults
        self.incarnations: dict[str, int] = {}
        self.deaths: dict[str, deque[int]] = {}
        self.up = False
        self.exit_status: int | None = None
        self.exit_reason = ""
        self.hosts_running = list(dict.fromkeys(self.host_of.values()))
        self._stopping = ""  # "", "hand over", "stop hosts"
        self._status = 0
        self.handlers |= {
            ActorStarted: self.on_started,
            ActorDied: self.on_died,
            KillRequest: self.on_kill_request,
            SetFaults: self.on_set_faults,
            StopRequest: self.on_stop_request,
            HandedOver: self.on_handed_over,
            HostStopped: self.on_host_stopped,
            HostDied: self.on_host_died,
        }

    def on_start(self) -> None:
        """Start the first actor; each that has started is followed by the next."""
        self.start(self.start_order[0], 1)

    def start(self, name: str, incarnation: int) -> None:
        """Begin a life. Its neighbours' lives are the present ones; those not yet started will have number 1."""
        self.incarnations[name] = incarnation
        neighbours = {other: self.incarnations.get(other, 1) for other in self.start_order if other != name}
        neighbours["supervisor"] = 1
        self.context.send(self.host_of[name], StartActor(name, incarnation, neighbours))

    def on_started(self, sender: str, message: ActorStarted) -> None:
        """Go on with the next, or, after a restart, tell everybody."""
        log.debug("%s started, incarnation %d", message.actor, message.incarnation)
        if message.actor == self.name:
            return
        if not self.up and not self._stopping:
            following = self.start_order.index(message.actor) + 1
            if following < len(self.start_order):
                self.start_if_new(self.start_order[following])
            else:
                self.up = True
                log.info("all %d actors are up", len(self.start_order))

    def start_if_new(self, name: str) -> None:
        """An actor's first life begins once."""
        if name not in self.incarnations:
            self.start(name, 1)

    def on_died(self, sender: str, message: ActorDied) -> None:
        """Another life, unless it dies too often or of something that no life survives."""
        name = message.actor
        if self._stopping == "stop hosts" or message.incarnation != self.incarnations[name]:
            return
        if message.fatal:
            self.stop(f"{name}: {message.reason}", 1)
            return
        if self._stopping:
            return
        if not message.killed and self.dies_too_often(name, message.reason):
            return
        incarnation = message.incarnation + 1
        log.warning("%s: %s; incarnation %d begins", name, message.reason, incarnation)
        self.start(name, incarnation)
        for other in self.incarnations:
            if other != name:
                self.tell(other, ActorRestarted(name, incarnation))

    def dies_too_often(self, name: str, reason: str) -> bool:
        """Count a death of an actor or a host's thread; past the limit the node stops."""
        now_ms = self.context.now_ms()
        deaths = self.deaths.setdefault(name, deque())
        deaths.append(now_ms)
        while now_ms - deaths[0] > DEATHS_WINDOW_MS:
            deaths.popleft()
        if len(deaths) <= MAX_DEATHS:
            return False
        self.stop(f"{name} died {len(deaths)} times within {DEATHS_WINDOW_MS // 1000} s, at last of: {reason}", 1)
        return True

    def on_host_died(self, sender: str, message: HostDied) -> None:
        """A thread ended; a new one takes over its sockets and finds its actors dead."""
        log.error("%s ended: %s", message.host, message.reason)
        if not self._stopping and not self.dies_too_often(message.host, message.reason):
            self.start_thread(message.host)

    def tell(self, name: str, message: Any) -> None:
        """Send to an actor's present life, which the supervisor always knows."""
        self.context.neighbours[name] = self.incarnations[name]
        self.context.send(name, message)

    def on_kill_request(self, sender: str, message: KillRequest) -> None:
        """A fault injected on purpose; the frontend has seen that the config allows it."""
        if message.actor not in self.host_of:
            known = ", ".join(self.start_order)
            status, text = ReplyStatus.REFUSED, f"no actor {message.actor!r} on this node; there are: {known}"
        else:
            log.warning("chaos: kill %s at boundary %d", message.actor, message.boundary)
            status, text = ReplyStatus.OK, ""
            self.context.send(self.host_of[message.actor], KillActor(message.actor, message.boundary))
        self.tell(sender, Replies(((message.token, status, text.encode()),)))

    def on_set_faults(self, sender: str, message: SetFaults) -> None:
        """Faults around the actors. They live here, where nobody dies and nothing is slow."""
        why_not = self.faults.set(message.faults) if self.faults is not None else "this node can have no faults"
        if not why_not:
            log.warning("chaos: %s", ", ".join(f"{part} {rules or 'healed'}" for part, rules in message.faults.items()))
        status = ReplyStatus.REFUSED if why_not else ReplyStatus.OK
        self.tell(sender, Replies(((message.token, status, why_not.encode()),)))

    def on_neighbour_restarted(self, name: str) -> None:
        """The supervisor itself decides on lives."""

    # --- the end

    def on_stop_request(self, sender: str, message: StopRequest) -> None:
        """A clean end: leadership first. Asked twice: at once."""
        if self._stopping:
            self.stop_hosts()
            return
        log.info("stops: %s", message.reason)
        self.exit_reason = message.reason
        if not self.up:
            self.stop_hosts()
            return
        self._stopping = "hand over"
        self.wakeup_ms = self.context.now_ms() + HAND_OVER_MS
        self.tell("consensus", HandOver())

    def on_handed_over(self, sender: str, message: HandedOver) -> None:
        """This node does not lead any more."""
        if self._stopping == "hand over":
            self.stop_hosts()

    def on_wakeup(self, now_ms: int) -> None:
        """What was waited for did not come: go on without."""
        if self._stopping == "hand over":
            self.stop_hosts()
        elif self._stopping == "stop hosts":
            log.warning("%s did not end in time", ", ".join(self.hosts_running))
            self.finish()

    def stop(self, reason: str, status: int) -> None:
        """An end without a hand-over: the node cannot be trusted with it."""
        log.error("the node stops: %s", reason)
        self.exit_reason = reason
        self.stop_hosts(status)

    def stop_hosts(self, status: int = 0) -> None:
        """Let every host end."""
        if self._stopping == "stop hosts":
            return
        self._stopping = "stop hosts"
        self._status = status
        self.wakeup_ms = self.context.now_ms() + STOP_HOSTS_MS
        for host in self.hosts_running:
            self.context.send(host, StopHost())

    def on_host_stopped(self, sender: str, message: HostStopped) -> None:
        """One less."""
        self.hosts_running.remove(message.host)
        if not self.hosts_running:
            self.finish()

    def finish(self) -> None:
        """The program may end."""
        self.exit_status = self._status
        self.context.send("main", StopHost())

    def status(self) -> dict[str, Any]:
        """The lives and queues of all actors, and the faults around them."""
        queues = self.queue_lengths()
        return {
            "faults": self.faults.in_force() if self.faults is not None else {},
            "actors": {
                name: {"incarnation": self.incarnations.get(name, 0), "queue": queues.get(name, 0)}
                for name in self.start_order
            },
        }
