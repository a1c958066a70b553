"""One machine of a run, and the process on it: hosts the shipped actors by the rules of `bus.host`, in virtual time.

Each actor has a host of its own, the weakest of all settings: order is kept from each sender and between no two. An
actor with something to do runs after a drawn delay, takes its mailbox in batches, and is busy for as long as its disk
operations took; what it said meanwhile leaves it when they are done.
"""

from __future__ import annotations

import traceback
from collections import deque
from functools import partial
from heapq import heappush
from typing import TYPE_CHECKING, Any

from zraft.actors.frontend import Frontend
from zraft.bus.actor import Actor, ActorKilled
from zraft.bus.supervisor import Supervisor
from zraft.client.outbox import split_request_id
from zraft.errors import NodeMustStop, StorageError
from zraft.messages import (
    ActorDied,
    ActorRestarted,
    ActorStarted,
    HostDied,
    HostStopped,
    KillActor,
    Read,
    ReadAt,
    ReadInTerm,
    StartActor,
    StopHost,
    StopRequest,
)
from zraft.sim.disk import SimDisk
from zraft.sim.read_watch import ReadWatch
from zraft.sim.slot import NEVER_US, Envelope, Port, SimContext, Slot

if TYPE_CHECKING:
    from zraft.sim.cluster import Cluster

MAX_BATCH = 256  # as in bus.host
CONTROL_US = 30
WATCHED = ("consensus", "applier")  # what the invariants look at
FATAL_ERRORS = (NodeMustStop, StorageError, OSError)  # as in bus.host

DISK_OWNERS = ("log_writer", "snapshot_writer")


class Process:
    """One life of a node's process, from its start to a crash or to its end by itself."""

    def __init__(self, machine: Machine, cluster: Cluster, number: int) -> None:
        self.machine = machine
        self.cluster = cluster
        self.scheduler = cluster.scheduler
        self.seed = f"{cluster.seed} {machine.name} {number}"
        self.alive = True
        self.paused_until_us = 0
        self.broken_hosts: set[str] = set()
        self._reads = ReadWatch(machine.name)
        self._trace = cluster.trace
        self._rng = cluster.actor_rng
        self._random = self._rng.random
        self._run_slot = self._run  # bound once
        self._delay_us = cluster.options.actor_delay_us
        self.slots: dict[str, Slot] = {}
        for name, factory, ports in cluster.actors_of(machine, self):
            disk = machine.disk if name in DISK_OWNERS else None
            self.slots[name] = Slot(machine.name, name, factory, ports, disk, name in WATCHED)
        host_of = {name: f"host of {name}" for name in self.slots}
        self._hosts = {host: name for name, host in host_of.items()}
        names = list(self.slots)

        def make_supervisor(context: Any) -> Actor:
            return Supervisor(context, names, host_of, self.queue_lengths, self.start_thread)

        self.slots["supervisor"] = Slot(machine.name, "supervisor", make_supervisor, {}, None, False)
        self._begin_life(self.slots["supervisor"], StartActor("supervisor", 1, {}))
        supervisor = self.slots["supervisor"].actor
        assert isinstance(supervisor, Supervisor)
        self.supervisor = supervisor

    # --- messages

    def watch_reads(self, message: Read | ReadInTerm | ReadAt) -> None:
        """Reads begin or end their way through consensus."""
        if isinstance(message, Read | ReadInTerm):
            self._reads.arrive(message, len(self.cluster.invariants.committed))
            return
        self._reads.leave(message)
        frontend = self.slots["frontend"].actor
        if message.condition and isinstance(frontend, Frontend):
            for token, _ in message.reads:
                if token in frontend.pending:
                    client, wire_id, *_ = frontend.pending[token]
                    self.cluster.answers.leave(client.decode(), split_request_id(wire_id)[0], message.read_index)

    def deliver(self, to: str, envelope: Envelope) -> None:
        """Into a mailbox of this process."""
        slot = self.slots.get(to)
        if slot is not None:
            queue = slot.mailbox.get(envelope[0])
            if queue is None:
                slot.mailbox[envelope[0]] = queue = deque()
            queue.append(envelope)
            slot.latest = queue
            slot.waiting += 1
            self.wake(slot)
        elif to == "main":
            self.scheduler.at(self.scheduler.now_us, self._on_ended, None)
        else:
            control = (self.slots[self._hosts[to]], envelope[3])
            self.scheduler.at(self.scheduler.now_us + CONTROL_US, self._on_control, control)

    def _deliver_late(self, outbox: list[tuple[str, Envelope]]) -> None:
        if self.alive:
            for to, envelope in outbox:
                self.deliver(to, envelope)

    def tell_supervisor(self, slot: Slot, message: Any) -> None:
        """As a host does."""
        envelope = (f"host of {slot.name}", 1, 1, message)
        if slot.outbox is not None:
            slot.outbox.append(("supervisor", envelope))
        else:
            self.deliver("supervisor", envelope)

    def queue_lengths(self) -> dict[str, int]:
        """For the supervisor's status."""
        return {name: slot.waiting for name, slot in self.slots.items()}

    # --- running

    def wake(self, slot: Slot) -> None:
        """Something waits for the actor."""
        scheduler = self.scheduler
        time_us = scheduler.now_us + 10 + int(self._random() * self._delay_us)
        if time_us < slot.next_run_us:
            slot.next_run_us = time_us
            heappush(scheduler.queue, (time_us, next(scheduler.numbers), self._run_slot, slot))

    def _run_at(self, slot: Slot, time_us: int) -> None:
        if time_us < slot.next_run_us:
            slot.next_run_us = time_us
            self.scheduler.at(time_us, self._run, slot)

    def _run(self, slot: Slot) -> None:
        now_us = self.scheduler.now_us
        if slot.next_run_us != now_us:
            return  # it was woken earlier
        slot.next_run_us = NEVER_US
        actor = slot.actor  # if it dies now, what it said before counts all the same
        if not self.alive or actor is None:
            return
        if slot.busy_until_us > now_us or slot.paused_until_us > now_us or self.paused_until_us > now_us:
            self._run_at(slot, max(slot.busy_until_us, slot.paused_until_us, self.paused_until_us))
            return
        self._trace.step(now_us, slot)
        disk = slot.disk
        if disk is not None:
            self._begin_work(slot)
        try:
            if slot.waiting:
                self._read_mailbox(slot, actor)
                actor.end_batch()
            if slot.port is not None and slot.port.inbox:
                self._read_port(slot, actor, slot.port)
                actor.end_batch()
            if actor.wakeup_ms is not None:
                now_ms = self.machine.now_ms()
                if now_ms >= actor.wakeup_ms:
                    actor.wakeup_ms = None
                    actor.on_wakeup(now_ms)
                    actor.end_batch()
        except (Exception, ActorKilled) as error:  # as bus.host: whatever a batch raises ends that actor only
            self._died(slot, error)
        if disk is not None:
            self._end_work(slot)
        if slot.waiting or actor.wakeup_ms is not None or (slot.port is not None and slot.port.inbox):
            self._look_again(slot)
        if slot.watched:
            self.cluster.after_run(self, actor)

    def _begin_work(self, slot: Slot) -> None:
        assert slot.disk is not None
        slot.disk.elapsed_us = 0
        slot.began_us = self.scheduler.now_us
        slot.outbox = []

    def _end_work(self, slot: Slot) -> None:
        """Let what was said go when the disk operations are done."""
        assert slot.disk is not None
        outbox, slot.outbox = slot.outbox, None
        slot.busy_until_us = self.scheduler.now_us + slot.disk.elapsed_us
        if outbox:
            self.scheduler.at(slot.busy_until_us, self._deliver_late, outbox)

    def _look_again(self, slot: Slot) -> None:
        """See when the actor is to run again."""
        actor = slot.actor
        if actor is None:
            return
        if slot.waiting or (slot.port is not None and slot.port.inbox):
            self.wake(slot)
        if actor.wakeup_ms is not None:
            self._run_at(slot, max(self.scheduler.now_us + 1, self.machine.time_of_us(actor.wakeup_ms)))

    def _read_mailbox(self, slot: Slot, actor: Actor) -> None:
        context = slot.context
        assert context is not None
        if slot.waiting == 1 == len(slot.latest):  # as it mostly is
            slot.waiting = 0
            self._hand_over(actor, context, slot.latest.popleft())
            return
        queues = [queue for queue in slot.mailbox.values() if queue]
        for _ in range(MAX_BATCH):
            if not queues:
                return
            queue = queues[0] if len(queues) == 1 else self._rng.choice(queues)
            envelope = queue.popleft()
            if not queue:
                queues.remove(queue)
            slot.waiting -= 1
            self._hand_over(actor, context, envelope)

    def _hand_over(self, actor: Actor, context: SimContext, envelope: Envelope) -> None:
        sender, incarnation, to_incarnation, message = envelope
        if context.boundaries_left is not None:
            context.boundary()
        known = context.neighbours.get(sender, 0)
        if to_incarnation != context.incarnation or incarnation < known:
            return
        kind = type(message)
        if kind is ActorRestarted:
            self._neighbour_lives(actor, context, message.actor, message.incarnation)
            return
        if incarnation > known:
            self._neighbour_lives(actor, context, sender, incarnation)
        actor.handlers[kind](sender, message)

    def _neighbour_lives(self, actor: Actor, context: SimContext, name: str, incarnation: int) -> None:
        known = context.neighbours.get(name, 0)
        if incarnation > known:
            context.neighbours[name] = incarnation
            if known:
                actor.on_neighbour_restarted(name)

    def _read_port(self, slot: Slot, actor: Actor, port: Port) -> None:
        context = slot.context
        assert context is not None
        if context.boundaries_left is not None:
            context.boundary()
        actor.receive_frames(slot.port_name, port.drain(MAX_BATCH))

    # --- lives

    def _on_control(self, control: tuple[Slot, Any]) -> None:
        slot, message = control
        if not self.alive:
            return
        resume_us = max(slot.busy_until_us, slot.paused_until_us, self.paused_until_us)
        if resume_us > self.scheduler.now_us:
            self.scheduler.at(resume_us, self._on_control, control)
            return
        if slot.name in self.broken_hosts:
            self.scheduler.at(self.scheduler.now_us + CONTROL_US, self._on_control, control)
            return
        if type(message) is StartActor:
            self._begin_life(slot, message)
        elif type(message) is KillActor:
            self.kill(slot.name, message.boundary)
        elif type(message) is StopHost:
            if slot.actor is not None:
                slot.actor.on_stop()
            slot.actor = slot.context = None
            self.tell_supervisor(slot, HostStopped(f"host of {slot.name}"))

    def _begin_life(self, slot: Slot, message: StartActor) -> None:
        slot.context = SimContext(self, slot, message.incarnation, dict(message.neighbours))
        kill_at = self.cluster.kill_at_birth(self.machine, slot.name)
        if kill_at is not None:
            slot.context.kill(kill_at)
        if slot.disk is not None:
            self._begin_work(slot)
        try:
            slot.actor = slot.factory(slot.context)
            slot.actor.on_start()
        except (Exception, ActorKilled) as error:
            self._died(slot, error)
        else:
            self.tell_supervisor(slot, ActorStarted(slot.name, message.incarnation))
        if slot.disk is not None:
            self._end_work(slot)
        self._look_again(slot)

    def ask_kill(self, name: str, boundary: int) -> None:
        """As the supervisor does for a KillRequest."""
        self.deliver(f"host of {name}", ("supervisor", 1, 1, KillActor(name, boundary)))

    def kill(self, name: str, boundary: int) -> None:
        """As a KillActor: now, or at that many boundaries from now."""
        slot = self.slots[name]
        if slot.context is not None and boundary:
            slot.context.kill(boundary)
        elif slot.context is not None:
            self._died(slot, ActorKilled())

    def _died(self, slot: Slot, error: BaseException) -> None:
        assert slot.context is not None
        killed, fatal = isinstance(error, ActorKilled), isinstance(error, FATAL_ERRORS)
        incarnation = slot.context.incarnation
        slot.actor = slot.context = None
        reason = "killed" if killed else f"{type(error).__name__}: {error}"
        self.cluster.on_actor_died(self, slot.name, reason, killed, fatal, partial(traceback.format_exception, error))
        self.tell_supervisor(slot, ActorDied(slot.name, incarnation, reason, killed, fatal))

    def end_thread(self, name: str) -> None:
        """A bug ended the host's thread: nothing runs there until the supervisor starts another."""
        slot = self.slots[name]
        self.broken_hosts.add(name)
        slot.paused_until_us = NEVER_US
        self.tell_supervisor(slot, HostDied(f"host of {name}", "a simulated end of the thread"))

    def start_thread(self, host: str) -> None:
        """As a new thread does: the actors that it finds are dead."""
        slot = self.slots[self._hosts[host]]
        self.broken_hosts.discard(slot.name)
        slot.paused_until_us = 0
        if slot.actor is not None:
            self._died(slot, ActorKilled())

    def is_paused(self) -> bool:
        """Whether it, or one of its actors, does not run for a while."""
        now_us = self.scheduler.now_us
        return self.paused_until_us > now_us or any(slot.paused_until_us > now_us for slot in self.slots.values())

    def resume(self) -> None:
        """Run again whatever was paused."""
        self.paused_until_us = 0
        for slot in self.slots.values():
            if slot.name not in self.broken_hosts:
                slot.paused_until_us = 0
            self.wake(slot)

    def stop(self, reason: str) -> None:
        """Ask for a clean end, as a signal does."""
        self.deliver("supervisor", ("main", 1, 1, StopRequest(reason)))

    def _on_ended(self, _argument: None) -> None:
        if self.alive:
            self.alive = False
            self.machine.process = None
            self.machine.disk.crash(power=False)
            self.cluster.on_process_ended(self.machine, self.supervisor.exit_status or 0, self.supervisor.exit_reason)

    def actor(self, name: str) -> Any:
        """The present life of an actor; None between two."""
        return self.slots[name].actor


class Machine:
    """What stays when a process ends: disk, clock, name, address, config."""

    def __init__(self, cluster: Cluster, name: str, disk: SimDisk, joins: bool) -> None:
        self.name = name
        self.joins = joins  # its config says `join: true`: it waits to be added, and founds nothing
        self.disk = disk
        self.process: Process | None = None
        self.processes = 0
        self.given_up = ""  # why it is not started again
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._clock_base = (0, 1_000_000_000)  # (virtual, own) microseconds at the last change of speed
        self._clock_ppm = 1_000_000

    def now_ms(self) -> int:
        """This machine's monotonic clock."""
        base_us, own_us = self._clock_base
        return (own_us + (self._scheduler.now_us - base_us) * self._clock_ppm // 1_000_000) // 1000

    def time_of_us(self, own_ms: int) -> int:
        """When that clock will show own_ms."""
        base_us, own_us = self._clock_base
        return base_us - (own_us - own_ms * 1000) * 1_000_000 // self._clock_ppm

    def is_clock_right(self) -> bool:
        """Whether it runs at the right speed."""
        return self._clock_ppm == 1_000_000

    def set_clock_speed(self, ppm: int) -> None:
        """Parts per million: 1,000,000 is right."""
        base_us, own_us = self._clock_base
        now_us = self._scheduler.now_us
        self._clock_base = (now_us, own_us + (now_us - base_us) * self._clock_ppm // 1_000_000)
        self._clock_ppm = ppm

    def start(self) -> None:
        """Begin a process."""
        assert self.process is None
        self.processes += 1
        self.process = Process(self, self._cluster, self.processes)

    def crash(self, power: bool) -> None:
        """The process dies without a word; with power, so does what no sync had completed."""
        if self.process is not None:
            self.process.alive = False
            self.process = None
            self._cluster.on_crash(self)
        self.disk.crash(power)
