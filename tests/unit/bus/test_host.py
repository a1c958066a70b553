"""A host's thread on real inproc sockets: batches, kills, lives, and what reaches which of them.

The test plays supervisor and neighbours on sockets of its own; the host runs in a thread, as in a node.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from zraft.bus.actor import Actor, Context
from zraft.bus.host import MAX_BATCH, Host, mailbox_address
from zraft.bus.slot import ActorSpec
from zraft.errors import NodeMustStop
from zraft.messages import (
    ActorDied,
    ActorRestarted,
    ActorStarted,
    Appended,
    HostDied,
    HostStopped,
    KillActor,
    Propose,
    Recover,
    StartActor,
    StatusReply,
    StatusRequest,
    StopHost,
)
from zraft.wire import pack_bus, unpack_bus

WAIT_MS = 5_000


class Echo(Actor):
    """Answers each batch with what it held: Propose of (token, b"") for each Appended; told otherwise by a number."""

    name = "echo"
    RAISE, STOP_NODE, KILL_THREAD, WAKE_ME, WORK, HAND_OVER = 1001, 1002, 1003, 1004, 1005, 1006

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.batch: list[int] = []
        self.handlers |= {Appended: self.on_appended, Recover: lambda sender, message: None}

    def on_start(self) -> None:
        self.context.send("test", Recover())

    def on_appended(self, sender: str, message: Appended) -> None:
        if message.sequence == self.RAISE:
            raise ValueError("asked to")
        if message.sequence == self.STOP_NODE:
            raise NodeMustStop("the disk is gone")
        if message.sequence == self.KILL_THREAD:
            raise SystemExit  # neither an Exception nor a kill: what a bug of the host itself would look like
        if message.sequence == self.WAKE_ME:
            self.wakeup_ms = self.context.now_ms() + 5
        if message.sequence == self.WORK:
            time.sleep(0.002)
        if message.sequence == self.HAND_OVER:
            for _ in range(100):
                self.context.send("other", Appended(self.WORK))
        self.batch.append(message.sequence)

    def on_wakeup(self, now_ms: int) -> None:
        self.context.send("test", Appended(int(self.wakeup_ms is None)))

    def on_neighbour_restarted(self, name: str) -> None:
        self.batch.append(-1)

    def receive_frames(self, port: str, frames: list[Any]) -> None:
        self.batch += frames

    def end_batch(self) -> None:
        if self.batch:
            batch, self.batch = self.batch, []
            self.context.send("test", Propose(tuple((number, b"") for number in batch)))
            self.context.send("test", Appended(len(batch)))


class OtherEcho(Echo):
    name = "other"


class PipePort:
    """A port: an inproc PULL that the test pushes numbers into."""

    def __init__(self, context: zmq.Context[Any]) -> None:
        self.socket = context.socket(zmq.PULL)
        self.socket.bind("inproc://port")

    def watch(self, listen: Callable[[Any], None]) -> None:
        listen(self.socket)

    def drain(self, limit: int) -> list[int]:
        frames = []
        while len(frames) < limit and self.socket.poll(0):
            frames.append(int(self.socket.recv()))
        return frames

    def close(self) -> None:
        self.socket.close(linger=0)


class Bench:
    """Host "h" with the actors `echo` and `other`, and the sockets of the test: mailboxes `supervisor` and `test`."""

    def __init__(self) -> None:
        self.zmq: zmq.Context[Any] = zmq.Context()
        port = PipePort(self.zmq)
        specs = [ActorSpec("echo", Echo, {"in": port}), ActorSpec("other", OtherEcho, {})]
        self.host = Host(self.zmq, "node", "h", specs)
        self.pulls = {name: self._socket(zmq.PULL, name) for name in ("supervisor", "test")}
        self.pushes = {name: self._socket(zmq.PUSH, name) for name in ("h", "echo", "other")}
        self.port = self.zmq.socket(zmq.PUSH)
        self.port.connect("inproc://port")
        self.threads: list[threading.Thread] = []
        self.run()

    def _socket(self, kind: int, name: str) -> Any:
        socket = self.zmq.socket(kind)
        socket.linger = 0
        if kind == zmq.PULL:
            socket.bind(mailbox_address("node", name))
        else:
            socket.connect(mailbox_address("node", name))
        return socket

    def run(self) -> None:
        thread = threading.Thread(target=self._run)
        self.threads.append(thread)
        thread.start()

    def _run(self) -> None:
        try:
            self.host.run()
        except BaseException as error:
            self.host.push_at_once("supervisor", pack_bus("h", 1, 1, HostDied("h", type(error).__name__)))

    def control(self, message: Any) -> None:
        self.pushes["h"].send(pack_bus("supervisor", 1, 1, message))

    def start(self, name: str = "echo", incarnation: int = 1, test_lives: int = 1) -> None:
        self.control(StartActor(name, incarnation, {"test": test_lives, "supervisor": 1}))
        assert self.told() == ActorStarted(name, incarnation)
        assert self.heard() == (name, incarnation, test_lives, Recover())

    def kill_at_next_boundary(self) -> None:
        """Of `echo`. Not by a message to the host: that looks at mailboxes in no certain order, and each look at a port
        is a boundary."""
        context = self.host.slots["echo"].context
        assert context is not None
        context.kill(0)

    def say(self, number: int, to: str = "echo", *, mine: int = 1, its: int = 1) -> None:
        self.pushes[to].send(pack_bus("test", mine, its, Appended(number)))

    def told(self) -> Any:
        """What the supervisor is told next."""
        assert self.pulls["supervisor"].poll(WAIT_MS), "the supervisor is told nothing"
        return unpack_bus(self.pulls["supervisor"].recv())[3]

    def heard(self) -> tuple[str, int, int, Any]:
        """What the test, as a neighbour, is sent next."""
        assert self.pulls["test"].poll(WAIT_MS), "the test is sent nothing"
        return unpack_bus(self.pulls["test"].recv())

    def answer(self) -> list[int]:
        """The numbers of the next batch."""
        numbers = [token for token, _ in self.heard()[3].proposals]
        assert self.heard()[3] == Appended(len(numbers))
        return numbers

    def close(self) -> None:
        self.control(StopHost())
        for thread in self.threads:
            thread.join(WAIT_MS / 1000)
            assert not thread.is_alive()
        self.host.close()
        self.zmq.destroy(linger=0)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_start_and_stop(bench: Bench) -> None:
    bench.start()
    bench.control(StopHost())
    assert bench.told() == HostStopped("h")


def test_what_is_handed_over_keeps_nobody_waiting(bench: Bench) -> None:
    for name in ("echo", "other"):
        bench.control(StartActor(name, 1, {"test": 1, "supervisor": 1, "echo": 1, "other": 1}))
        bench.told()
        bench.heard()
    bench.say(Echo.HAND_OVER)
    assert bench.answer() == [Echo.HAND_OVER]
    bench.say(1)
    worked = 0
    while (numbers := bench.answer()) != [1]:
        worked += len(numbers)
    assert worked < 50, "the host goes to its sockets between them"
    while worked < 100:
        worked += len(bench.answer())


def test_an_actor_alone_in_its_thread_sends_at_once(bench: Bench) -> None:
    context: zmq.Context[Any] = bench.zmq
    alone = Host(context, "node", "thread", [ActorSpec("alone", Echo, {})])
    alone.push("test", ("alone", 1, 1, Appended(7)))
    assert bench.heard()[3] == Appended(7)
    alone.close()


def test_a_host_that_is_told_twice_stops_once(bench: Bench) -> None:
    bench.start()
    bench.control(KillActor("echo", 0))
    bench.control(StopHost())
    bench.control(StopHost())
    bench.told()
    assert bench.told() == HostStopped("h")
    bench.threads[0].join(WAIT_MS / 1000)
    assert not bench.pulls["supervisor"].poll(0)


def test_messages_that_wait_are_one_batch_of_bounded_size(bench: Bench) -> None:
    for number in range(MAX_BATCH + 10):
        bench.say(number)
    bench.start()
    assert bench.answer() == list(range(MAX_BATCH))
    assert bench.answer() == list(range(MAX_BATCH, MAX_BATCH + 10))


def test_frames_of_a_port_are_batches_too(bench: Bench) -> None:
    for number in range(MAX_BATCH + 1):
        bench.port.send(b"%d" % number)
    bench.start()
    assert bench.answer() == list(range(MAX_BATCH))
    assert bench.answer() == [MAX_BATCH]


def test_a_wakeup_comes_once_and_not_before_its_time(bench: Bench) -> None:
    bench.start()
    bench.say(Echo.WAKE_ME)
    assert bench.answer() == [Echo.WAKE_ME]
    assert bench.heard()[3] == Appended(1), "wakeup_ms is None while it is called"
    assert not bench.pulls["test"].poll(50)


def test_a_handler_that_raises_ends_its_actor_alone(bench: Bench) -> None:
    bench.start()
    bench.start("other")
    bench.say(Echo.RAISE)
    assert bench.told() == ActorDied("echo", 1, "ValueError: asked to", killed=False, fatal=False)
    bench.say(5, "other")
    assert bench.heard()[0] == "other"


def test_an_error_that_no_life_survives_is_fatal(bench: Bench) -> None:
    bench.start()
    bench.say(Echo.STOP_NODE)
    assert bench.told() == ActorDied("echo", 1, "the disk is gone", killed=False, fatal=True)


def test_a_factory_that_raises_is_a_death(bench: Bench) -> None:
    def fail(context: Context) -> Actor:
        raise ValueError("no")

    bench.host.slots["other"].spec = bench.host.slots["other"].spec._replace(factory=fail)
    bench.control(StartActor("other", 1, {}))
    assert bench.told() == ActorDied("other", 1, "ValueError: no", killed=False, fatal=False)


def test_a_kill_between_two_messages(bench: Bench) -> None:
    bench.start()
    bench.control(KillActor("echo", 0))
    assert bench.told() == ActorDied("echo", 1, "killed on request", killed=True, fatal=False)
    bench.control(KillActor("echo", 0))  # there is nobody to kill
    bench.start(incarnation=2)


def test_a_kill_in_the_middle_of_a_batch(bench: Bench) -> None:
    """Boundaries: taking the message, the first send, the second send. This actor has no port, which were one more."""
    bench.start("other")
    context = bench.host.slots["other"].context
    assert context is not None
    context.kill(2)
    bench.say(7, "other")
    assert bench.heard()[3] == Propose(((7, b""),)), "the first send passed"
    assert bench.told() == ActorDied("other", 1, "killed on request", killed=True, fatal=False)
    bench.start("other", incarnation=2)  # whose Recover is the next that is heard: the second send never was


def test_a_kill_with_a_boundary_is_one_from_there(bench: Bench) -> None:
    bench.start("other")
    bench.control(KillActor("other", 1))
    for _ in range(2):  # the first may be handled before the kill is heard of
        bench.say(7, "other")
    assert bench.told() == ActorDied("other", 1, "killed on request", killed=True, fatal=False)


def test_a_kill_at_the_mailbox(bench: Bench) -> None:
    bench.start()
    bench.say(1)
    assert bench.answer() == [1]
    bench.kill_at_next_boundary()
    bench.say(2)
    assert bench.told() == ActorDied("echo", 1, "killed on request", killed=True, fatal=False)
    bench.start(incarnation=2)


def test_a_kill_at_a_port(bench: Bench) -> None:
    bench.start()
    bench.say(1)
    assert bench.answer() == [1]
    bench.kill_at_next_boundary()
    bench.port.send(b"5")
    assert bench.told() == ActorDied("echo", 1, "killed on request", killed=True, fatal=False)
    bench.start(incarnation=2)
    assert bench.answer() == [5], "frames in the port's sockets are there for the next life"


def test_a_message_to_an_older_life_is_dropped(bench: Bench) -> None:
    bench.start()
    bench.control(KillActor("echo", 0))
    bench.told()
    bench.say(1, its=1)
    bench.start(incarnation=2)
    bench.say(2, its=1)
    bench.say(3, its=2)
    assert bench.answer() == [3]


def test_a_message_from_an_older_life_is_dropped(bench: Bench) -> None:
    bench.start(test_lives=3)
    bench.say(1, mine=2)
    bench.say(2, mine=3)
    assert bench.answer() == [2]


def test_a_neighbour_s_new_life_is_noticed_once_from_whoever_tells_first(bench: Bench) -> None:
    bench.start()
    bench.say(1, mine=2)  # its own message
    bench.pushes["echo"].send(pack_bus("supervisor", 1, 1, ActorRestarted("test", 2)))
    bench.say(2, mine=1)
    bench.say(3, mine=2)
    heard: list[int] = []
    while 3 not in heard:
        sender, incarnation, to_incarnation, message = bench.heard()
        assert to_incarnation == 2, "it is spoken to as what it is now"
        heard += [token for token, _ in message.proposals] if type(message) is Propose else []
    assert heard == [-1, 1, 3]


def test_the_supervisor_s_news_of_a_neighbour(bench: Bench) -> None:
    bench.start()
    bench.pushes["echo"].send(pack_bus("supervisor", 1, 1, ActorRestarted("test", 2)))
    assert bench.answer() == [-1]
    bench.say(1, mine=1)
    bench.pushes["echo"].send(pack_bus("supervisor", 1, 1, ActorRestarted("test", 2)))
    bench.say(2, mine=2)
    assert bench.answer() == [2]


def test_somebody_unknown_is_no_restarted_neighbour(bench: Bench) -> None:
    bench.start()
    bench.pushes["echo"].send(pack_bus("stranger", 4, 1, Appended(1)))
    assert bench.answer() == [1]


def test_a_thread_that_ends_is_replaced_on_the_same_mailboxes(bench: Bench) -> None:
    bench.start()
    bench.start("other")
    bench.say(Echo.KILL_THREAD)
    assert bench.told() == HostDied("h", "SystemExit")
    bench.threads[-1].join(WAIT_MS / 1000)
    bench.say(8, its=2)  # for the next life
    bench.run()
    deaths = {bench.told().actor, bench.told().actor}
    assert deaths == {"echo", "other"}
    bench.start(incarnation=2)
    assert bench.answer() == [8]
    bench.start("other", incarnation=2)
    bench.say(9, "other", its=2)
    assert bench.answer() == [9]


def test_status_is_answered_and_the_queue_is_counted(bench: Bench) -> None:
    bench.start()
    bench.pushes["echo"].send(pack_bus("test", 1, 1, StatusRequest(6)))
    assert bench.heard()[3] == StatusReply(6, {})
    assert bench.host.slots["echo"].received == 1
    assert bench.host.sent["test"] == 2
