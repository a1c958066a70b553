"""A thread that hosts one or several actors: owns their mailboxes and ports, runs them in batches, and survives them.

Frames between threads go over inproc sockets. Two actors of one host hand the messages over in a queue, which spares
the encoding, a system call and a look at every socket for each; whose neighbours those are, no actor can tell.
While an actor that waits for a disk runs, a stand-in may run the others (`bus.baton`): that actor is absent then.

The mailbox belongs to the host, not to the actor: connected inproc peers do not come back when the bound side closes,
and a new PUSH's messages can overtake an older one's, so a restart replaces the actor object and keeps every socket.
Correctness does not rest on emptying a mailbox but on incarnations: a message is delivered only if its sender's
present life sent it to the receiver's present life.
"""

from __future__ import annotations

import logging
import select
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import zmq
from zmq import zmq_poll

from zraft.bus.actor import ActorKilled
from zraft.bus.baton import Baton
from zraft.bus.ports import Port
from zraft.bus.slot import ActorSpec, Envelope, HostedContext, Slot
from zraft.errors import NodeMustStop, StorageError
from zraft.messages import (
    ActorDied,
    ActorRestarted,
    ActorStarted,
    HostStopped,
    KillActor,
    StartActor,
    StopHost,
)
from zraft.wire import pack_bus, unpack_bus

MAX_BATCH = 256  # messages, or frames, that an actor handles before it sends
MAX_HAND_OVERS = 8  # in a row before the sockets are looked at; a peer's frame becomes a client's answer in three
MAX_TURN_NS = 5_000_000  # then the sockets and the clock are looked at, whatever has been handed over
IDLE_POLL_MS = 1000
FATAL_ERRORS = (NodeMustStop, StorageError, OSError, zmq.ZMQError)  # an I/O error is no actor death

_POLLIN = int(zmq.POLLIN)  # to work with a zmq.PollEvent takes a microsecond

log = logging.getLogger(__name__)


def _has_more(socket: zmq.Socket[bytes]) -> bool:
    """Whether something can be received. Cheaper than running into zmq.Again."""
    return bool(zmq_poll([(socket, _POLLIN)], 0))


def _descriptor(socket: Any) -> int:
    """Of a ZeroMQ socket, or of what is one itself."""
    return socket if type(socket) is int else socket.get(zmq.FD)


def mailbox_address(node: str, name: str) -> str:
    """Where the mailbox of an actor (or host) is bound."""
    return f"inproc://{node}/{name}"


class Host:
    """Runs in the thread that calls `run`. Made in the main thread, so that a port in use is an error before any
    actor lives; sockets change hands with the start of the thread, which is a memory barrier."""

    def __init__(self, context: zmq.Context[Any], node: str, name: str, specs: list[ActorSpec]) -> None:
        self.node = node
        self.name = name
        self.sent: dict[str, int] = {}
        self.stopped = False
        self._context = context
        self._pushes: dict[str, zmq.Socket[bytes]] = {}
        self._control = self._bind(name)
        self.slots = {spec.name: Slot(spec, self._bind(spec.name), self._read_queue) for spec in specs}
        self._slots = tuple(self.slots.values())
        self._outgoing: deque[tuple[zmq.Socket[bytes], bytes]] = deque()
        self._turn_ends_ns = 0
        self._handed_over: dict[Slot, None] = {}  # whose queues hold something
        self._later: deque[Slot] = deque()  # of those that are run at present
        self._absent: Slot | None = None  # runs without the baton
        self._outbox: list[tuple[str, Envelope]] = []  # of the absent
        self._put_off: list[Any] = []  # control messages that wait for the absent
        self._stood_in = False
        self._failure: BaseException | None = None  # of the stand-in
        # A descriptor of ZeroMQ's tells once that a socket should be looked at, and not again before that was done
        # (and it counts as done by a send, too). Waiting on descriptors costs one system call, zmq.Poller four for
        # each socket.
        self._poller = select.poll()
        self._readers: dict[int, Callable[[], None]] = {}
        self._unread: dict[int, int] = {}  # descriptors of sockets that may hold more
        control = _descriptor(self._control)
        self._poller.register(control, select.POLLIN)
        self._readers[control] = self._on_control
        self.baton: Baton | None = None
        waiting = [spec for spec in specs if spec.waits]
        if len(specs) > 1 and waiting:
            assert len(waiting) == 1 and not waiting[0].ports, "one can be absent at a time, and the world is not told"
            self.baton = Baton(self._run_meanwhile)
            self._poller.register(self.baton.wake_descriptor, select.POLLIN)
            self._readers[self.baton.wake_descriptor] = self._on_wake

    def _bind(self, name: str) -> zmq.Socket[bytes]:
        mailbox = self._context.socket(zmq.PULL)
        mailbox.setsockopt(zmq.RCVHWM, 0)  # what is in flight is bounded by credits; a full pipe could deadlock
        mailbox.setsockopt(zmq.LINGER, 0)
        mailbox.bind(mailbox_address(self.node, name))
        return mailbox

    # --- sending

    def push_from(self, context: HostedContext, to: str, envelope: Envelope) -> None:
        """As `push`, for an actor. What the absent sends leaves when it is back."""
        if self._absent is not None and self._absent.context is context:
            self._outbox.append((to, envelope))
        else:
            self.push(to, envelope)

    def push(self, to: str, envelope: Envelope) -> None:
        """Queue a message for an actor, or another host. What several actors send to another thread leaves before this
        one waits: woken any earlier, it would contend for Python's lock with this one, which has frames for the network
        to send yet. An actor that is alone may go on to its disk, and nobody waits for that with it."""
        slot = self.slots.get(to)
        if slot is not None:
            slot.queue.append(envelope)
            self._handed_over[slot] = None
        elif len(self.slots) == 1:
            self._socket_to(to).send(pack_bus(*envelope), zmq.NOBLOCK)
        else:
            self._outgoing.append((self._socket_to(to), pack_bus(*envelope)))
        self.sent[to] = self.sent.get(to, 0) + 1

    def push_at_once(self, to: str, frame: bytes) -> None:
        """The same for a frame of `pack_bus`, where this host is not running, or interrupted by a signal."""
        self.sent[to] = self.sent.get(to, 0) + 1
        self._socket_to(to).send(frame, zmq.NOBLOCK)

    def _socket_to(self, to: str) -> zmq.Socket[bytes]:
        """One PUSH for each destination and host, for all lives: order is kept."""
        socket = self._pushes.get(to)
        if socket is None:
            socket = self._context.socket(zmq.PUSH)
            socket.setsockopt(zmq.SNDHWM, 0)
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(mailbox_address(self.node, to))
            self._pushes[to] = socket
        return socket

    def flush(self) -> None:
        """Send what waits for other threads."""
        outgoing = self._outgoing
        while outgoing:
            socket, frame = outgoing[0]
            socket.send(frame, zmq.NOBLOCK)
            outgoing.popleft()

    def tell_supervisor(self, message: Any) -> None:
        """The supervisor has one life, as long as the node."""
        self.push("supervisor", (self.name, 1, 1, message))

    # --- the loop

    def run(self) -> None:
        """Host the actors until StopHost. If a bug ends this thread, another may call run again: the sockets are
        intact, and the actors are treated as dead."""
        if self.baton is None:
            self._run()
            return
        with self.baton.lock:
            self._run()
        self.baton.end()

    def _run(self) -> None:
        for slot in self.slots.values():
            if slot.actor is not None:
                self._died(slot, RuntimeError(f"thread {self.name} ended"))
        self._failure = None
        self._unread[_descriptor(self._control)] = select.POLLIN
        while not self.stopped:
            self.flush()
            self._turn()
        self.flush()

    def _turn(self) -> None:
        due_ms = self._due_ms()
        for descriptor in self._wait(due_ms):
            reader = self._readers.get(descriptor)  # None: its actor died in this very round
            if reader is not None:
                reader()
            if self.stopped:
                return  # what was handed over is for nobody
        now_ns = time.monotonic_ns()
        if due_ms is not None and now_ns >= due_ms * 1_000_000:
            self._wake_up(now_ns // 1_000_000)
            now_ns = time.monotonic_ns()
        self._turn_ends_ns = now_ns + MAX_TURN_NS  # from here, so that something is handed over each time
        for _ in range(MAX_HAND_OVERS):
            if not self._handed_over or time.monotonic_ns() > self._turn_ends_ns:
                return
            self._hand_over()

    def _due_ms(self) -> int | None:
        """When the first of the actors wants to be woken; None: nobody does."""
        due_ms = None
        for slot in self._slots:
            actor = slot.actor
            if actor is None or actor.wakeup_ms is None or slot is self._absent:
                continue
            if due_ms is None or actor.wakeup_ms < due_ms:
                due_ms = actor.wakeup_ms
        return due_ms

    def _wait(self, due_ms: int | None) -> Iterable[int]:
        """Which sockets to look at; waits, but not longer than until then, if there is nothing to do."""
        if self._unread or self._handed_over:
            timeout_ms = 0
        elif due_ms is None:
            timeout_ms = IDLE_POLL_MS
        else:
            timeout_ms = min(IDLE_POLL_MS, max(0, due_ms - time.monotonic_ns() // 1_000_000))
        ready = [descriptor for descriptor, _ in self._poller.poll(timeout_ms)]  # control before all others
        if self._unread:
            unread, self._unread = self._unread, {}
            ready += [descriptor for descriptor in unread if descriptor not in ready]
        return ready

    def _wake_up(self, now_ms: int) -> None:
        for slot in self._slots:
            actor = slot.actor
            if slot is self._absent or actor is None:
                continue
            if actor.wakeup_ms is not None and now_ms >= actor.wakeup_ms:
                actor.wakeup_ms = None
                self._guard(slot, partial(actor.on_wakeup, now_ms))

    def _hand_over(self) -> None:
        """Run the actors that others of this host have sent something to: first those that send to the network, then,
        when other threads have what they wait for, the rest."""
        slots, self._handed_over = self._handed_over, {}
        for slot in slots:
            if not slot.spec.ports:
                self._later.append(slot)
            elif slot.actor is not None:  # else its next life is given it
                self._guard(slot, slot.read_queue)
        self.flush()
        while self._later:
            slot = self._later.popleft()
            if slot.actor is not None:
                self._guard(slot, slot.read_queue)

    def _guard(self, slot: Slot, handle: Callable[[], None]) -> None:
        """Run one batch of an actor's; whatever it raises ends that actor only."""
        if slot is self._absent:
            return
        actor = slot.actor
        assert actor is not None
        try:
            if slot.spec.waits and self.baton is not None:
                self._run_apart(slot, self.baton, handle, actor.end_batch)
            else:
                handle()
                actor.end_batch()
        except (Exception, ActorKilled) as error:
            self._died(slot, error)
        if self._failure is not None:
            raise self._failure
        if slot.port_sockets:
            for socket, _ in zmq_poll(slot.port_polls, 0):
                self._unread[slot.port_sockets[socket]] = select.POLLIN

    # --- an actor that waits for a disk

    def _run_apart(self, slot: Slot, baton: Baton, *calls: Callable[[], None]) -> None:
        """Make these calls of an actor without the baton."""
        self._absent = slot
        baton.put_down()
        try:
            for call in calls:
                call()
        finally:
            baton.take_back()
            self._absent = None
            if slot.queue:
                self._handed_over[slot] = None
            if self._stood_in:
                self._stood_in = False
                self._unread |= dict.fromkeys(self._readers, select.POLLIN)
            outbox, self._outbox = self._outbox, []
            for to, envelope in outbox:
                self.push(to, envelope)

    def _run_meanwhile(self) -> None:
        """The loop, in the stand-in's thread, for all but the absent."""
        absent, baton = self._absent, self.baton
        assert absent is not None and baton is not None
        self._stood_in = True
        self._handed_over |= dict.fromkeys(self._later)
        self._later.clear()
        for descriptor in absent.descriptors:
            self._poller.unregister(descriptor)
        self._unread = dict.fromkeys(self._readers, select.POLLIN)  # the other thread may have been told of some
        try:
            while not baton.wanted and self._failure is None:
                self.flush()
                self._turn()
        except BaseException as error:  # a bug in the host: its own thread ends of it when it is back
            self._failure = error
        finally:
            for descriptor in absent.descriptors:
                self._poller.register(descriptor, select.POLLIN)

    def _on_wake(self) -> None:
        """The absent is back: this turn is the stand-in's last."""
        assert self.baton is not None
        self.baton.drain()

    def _read_mailbox(self, slot: Slot) -> None:
        mailbox = slot.mailbox
        for _ in range(MAX_BATCH):
            if not _has_more(mailbox):
                return
            self._deliver(slot, unpack_bus(mailbox.recv(zmq.NOBLOCK)))
        self._unread[slot.descriptors[0]] = select.POLLIN

    def _read_queue(self, slot: Slot) -> None:
        queue = slot.queue
        for _ in range(min(len(queue), MAX_BATCH)):
            self._deliver(slot, queue.popleft())
            if queue and time.monotonic_ns() > self._turn_ends_ns and slot is not self._absent:
                break
        if queue and slot is not self._absent:
            self._handed_over[slot] = None

    def _deliver(self, slot: Slot, envelope: Envelope) -> None:
        actor, context = slot.actor, slot.context
        assert actor is not None and context is not None
        slot.received += 1
        if context.boundaries_left is not None:
            context.boundary()
        sender, incarnation, to_incarnation, message = envelope
        known = context.neighbours.get(sender, 0)
        if to_incarnation != context.incarnation or incarnation < known:
            context.dropped += 1
        elif type(message) is ActorRestarted:
            self._neighbour_lives(slot, message.actor, message.incarnation)
        else:
            if incarnation > known:
                self._neighbour_lives(slot, sender, incarnation)
            actor.receive(sender, message)

    def _neighbour_lives(self, slot: Slot, name: str, incarnation: int) -> None:
        """Learn of a neighbour's new life, from the supervisor or from itself, whichever comes first."""
        assert slot.actor is not None and slot.context is not None
        known = slot.context.neighbours.get(name, 0)
        if incarnation > known:
            slot.context.neighbours[name] = incarnation
            if known:
                slot.actor.on_neighbour_restarted(name)

    def _read_port(self, slot: Slot, name: str, port: Port) -> None:
        assert slot.actor is not None and slot.context is not None
        slot.context.boundary()
        frames = port.drain(MAX_BATCH)
        if frames:
            slot.actor.receive_frames(name, frames)

    # --- lives

    def _on_control(self) -> None:
        while not self.stopped and (self._put_off and self._absent is None or _has_more(self._control)):
            put_off = self._put_off and self._absent is None
            self._obey(self._put_off.pop(0) if put_off else unpack_bus(self._control.recv(zmq.NOBLOCK))[3])

    def _obey(self, message: Any) -> None:
        if self._absent is not None and (type(message) is StopHost or message.actor == self._absent.spec.name):
            self._put_off.append(message)
        elif type(message) is StartActor:
            self._start(self.slots[message.actor], message)
        elif type(message) is KillActor:
            slot = self.slots[message.actor]
            if slot.context is not None and message.boundary:
                slot.context.kill(message.boundary)
            elif slot.context is not None:
                self._died(slot, ActorKilled())
        elif type(message) is StopHost:
            self._stop()

    def _start(self, slot: Slot, message: StartActor) -> None:
        slot.context = HostedContext(self, slot.spec, message.incarnation, dict(message.neighbours))
        try:
            if slot.spec.waits and self.baton is not None:
                self._run_apart(slot, self.baton, partial(self._begin, slot))
            else:
                self._begin(slot)
        except (Exception, ActorKilled) as error:
            self._died(slot, error)
        if self._failure is not None:
            raise self._failure
        if slot.actor is None:
            return
        self._listen(slot, partial(self._read_mailbox, slot), slot.mailbox)
        if slot.queue:
            self._handed_over[slot] = None
        for name, port in slot.spec.ports.items():
            read = partial(self._read_port, slot, name, port)
            port.watch(partial(self._listen, slot, read))
        self.tell_supervisor(ActorStarted(slot.spec.name, message.incarnation))

    def _begin(self, slot: Slot) -> None:
        slot.actor = slot.spec.factory(slot.context)
        slot.actor.on_start()

    def _listen(self, slot: Slot, read: Callable[[], None], socket: Any) -> None:
        descriptor = _descriptor(socket)
        if type(socket) is not int and socket is not slot.mailbox:
            slot.port_sockets[socket] = descriptor
            slot.port_polls.append((socket, _POLLIN))
        self._poller.register(descriptor, select.POLLIN)
        self._readers[descriptor] = partial(self._guard, slot, read)
        self._unread[descriptor] = select.POLLIN  # what was told before is not told again
        slot.descriptors.append(descriptor)

    def _died(self, slot: Slot, error: BaseException) -> None:
        assert slot.context is not None
        for descriptor in slot.descriptors:
            self._poller.unregister(descriptor)
            del self._readers[descriptor]
        slot.descriptors.clear()
        slot.port_sockets.clear()
        slot.port_polls.clear()
        killed = isinstance(error, ActorKilled)
        fatal = isinstance(error, FATAL_ERRORS)
        reason = "killed on request" if killed else str(error) if fatal else f"{type(error).__name__}: {error}"
        if not killed and not fatal:
            log.error("%s died:\n%s", slot.spec.name, "".join(traceback.format_exception(error)))
        incarnation = slot.context.incarnation
        if slot.actor is not None:
            slot.actor.handlers.clear()  # they refer back to the actor; without them it, and all it holds, goes at once
        slot.actor, slot.context = None, None
        if slot.spec.name == "supervisor":
            self.stopped = True  # nobody is left to decide
            return
        self.tell_supervisor(ActorDied(slot.spec.name, incarnation, reason, killed, fatal))

    def _stop(self) -> None:
        for slot in self.slots.values():
            if slot.actor is not None:
                try:
                    slot.actor.on_stop()
                except Exception as error:  # the node ends anyway; the others shall still be told
                    log.error("%s: while stopping: %s", slot.spec.name, error)
        self.tell_supervisor(HostStopped(self.name))
        self.stopped = True

    def close(self) -> None:
        """Close every socket. Called when the thread has ended."""
        for slot in self.slots.values():
            slot.mailbox.close()
            for port in slot.spec.ports.values():
                port.close()
        for socket in self._pushes.values():
            socket.close()
        self._control.close()
        if self.baton is not None:
            self.baton.close()
