"""An actor that waits for a disk holds up itself alone: a host with one such actor, on real inproc sockets."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from random import Random
from types import MappingProxyType
from typing import Any

import pytest
import zmq

from zraft.bus import baton as baton_module
from zraft.bus.actor import Actor, Context
from zraft.bus.host import Host, mailbox_address
from zraft.bus.slot import ActorSpec
from zraft.messages import (
    ActorDied,
    ActorStarted,
    Appended,
    HostDied,
    HostStopped,
    KillActor,
    StartActor,
    StopHost,
)
from zraft.wire import pack_bus, unpack_bus

WAIT_MS = 10_000
RAISE, KILL_THREAD, WAKE_ME, PASS_ON, TAKE_TIME = 10_001, 10_002, 10_003, 10_004, 10_005
LIVES = {"test": 1, "supervisor": 1, "echo": 1, "disk": 1}


class Echo(Actor):
    """Sends each number back, at once; told otherwise by a number."""

    name = "echo"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.handlers[Appended] = self.on_appended

    def on_appended(self, sender: str, message: Appended) -> None:
        if message.sequence == RAISE:
            raise ValueError("asked to")
        if message.sequence == KILL_THREAD:
            raise SystemExit
        if message.sequence == WAKE_ME:
            self.wakeup_ms = self.context.now_ms() + 5
        if message.sequence == PASS_ON:
            for number in (1, TAKE_TIME, 2):
                self.context.send("disk", Appended(number))
        self.context.send("test", message)

    def on_wakeup(self, now_ms: int) -> None:
        self.context.send("test", Appended(-1))


class Disk:
    """What the actor waits for: `wait` returns when it may, `open` says that it may."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self._gate = threading.Event()
        self._gate.set()
        self.delays: list[float] = []

    def wait(self) -> None:
        self.entered.release()
        if self.delays:
            time.sleep(self.delays.pop())
        assert self._gate.wait(WAIT_MS / 1000)

    def shut(self) -> None:
        self._gate.clear()
        while self.entered.acquire(blocking=False):
            pass

    def open(self) -> None:
        self._gate.set()


class Writer(Echo):
    """Waits at the end of a batch, then sends its numbers back. Also waits as it starts, if it is held up then."""

    name = "disk"

    def __init__(self, context: Context, disk: Disk) -> None:
        super().__init__(context)
        self.disk = disk
        self.numbers: list[int] = []
        disk.wait()

    def on_appended(self, sender: str, message: Appended) -> None:
        self.numbers.append(message.sequence)
        if message.sequence == TAKE_TIME:
            time.sleep(0.02)

    def end_batch(self) -> None:
        numbers, self.numbers = self.numbers, []
        if numbers:
            self.context.send("test", Appended(-numbers[0]))
            self.disk.wait()
            for number in numbers:
                self.context.send("test", Appended(number))
            if numbers[-1] == RAISE:
                raise ValueError("asked to")


class Bench:
    """Host "h" with `echo` and `disk`, and the sockets of the test: mailboxes `supervisor` and `test`."""

    def __init__(self) -> None:
        self.zmq: zmq.Context[Any] = zmq.Context()
        self.disk = Disk()
        ports: Any = MappingProxyType({})
        specs = [
            ActorSpec("echo", Echo, ports),
            ActorSpec("disk", lambda context: Writer(context, self.disk), ports, waits=True),
        ]
        self.host = Host(self.zmq, "node", "h", specs)
        assert self.host.baton is not None
        self.baton = self.host.baton
        self.pulls = {name: self._socket(zmq.PULL, name) for name in ("supervisor", "test")}
        self.pushes = {name: self._socket(zmq.PUSH, name) for name in ("h", "echo", "disk")}
        self.threads = [threading.Thread(target=self.baton.stand_in)]
        self.threads[0].start()
        self.run()
        for name in ("echo", "disk"):
            self.control(StartActor(name, 1, LIVES))
            assert self.told() == ActorStarted(name, 1)

    def _socket(self, kind: int, name: str) -> Any:
        socket = self.zmq.socket(kind)
        socket.linger = 0
        if kind == zmq.PULL:
            socket.bind(mailbox_address("node", name))
        else:
            socket.connect(mailbox_address("node", name))
        return socket

    def run(self) -> None:
        self.threads.append(threading.Thread(target=self._run))
        self.threads[-1].start()

    def _run(self) -> None:
        try:
            self.host.run()
        except BaseException as error:
            self.host.push_at_once("supervisor", pack_bus("h", 1, 1, HostDied("h", type(error).__name__)))

    def control(self, message: Any) -> None:
        self.pushes["h"].send(pack_bus("supervisor", 1, 1, message))

    def say(self, to: str, number: int, its: int = 1) -> None:
        self.pushes[to].send(pack_bus("test", 1, its, Appended(number)))

    def told(self) -> Any:
        """What the supervisor is told next."""
        assert self.pulls["supervisor"].poll(WAIT_MS), "the supervisor is told nothing"
        return unpack_bus(self.pulls["supervisor"].recv())[3]

    def heard(self) -> tuple[str, int]:
        """(sender, number) of what the test is sent next."""
        assert self.pulls["test"].poll(WAIT_MS), "the test is sent nothing"
        sender, _, _, message = unpack_bus(self.pulls["test"].recv())
        return sender, message.sequence

    def hold_up(self, number: int = 7, its: int = 1) -> None:
        """The writer waits, with a batch of this number."""
        self.disk.shut()
        self.say("disk", number, its)
        assert self.disk.entered.acquire(timeout=WAIT_MS / 1000)

    def close(self) -> None:
        self.disk.open()
        self.control(StopHost())
        for thread in self.threads:
            thread.join(WAIT_MS / 1000)
            assert not thread.is_alive()
        self.host.close()
        self.zmq.destroy(linger=0)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr("zraft.bus.host.IDLE_POLL_MS", 3_600_000)  # nobody is woken by chance
    bench = Bench()
    yield bench
    bench.close()


def test_others_go_on_while_one_waits(bench: Bench) -> None:
    for waits in range(3):
        bench.hold_up()
        for number in range(5):
            bench.say("echo", number)
            assert bench.heard() == ("echo", number)
        bench.say("echo", WAKE_ME)
        assert [bench.heard(), bench.heard()] == [("echo", WAKE_ME), ("echo", -1)]
        assert not bench.pulls["test"].poll(20), f"it is not back: {waits}"
        bench.disk.open()
        assert [bench.heard(), bench.heard()] == [("disk", -7), ("disk", 7)]


def test_what_comes_for_the_absent_waits_for_it_in_order(bench: Bench) -> None:
    bench.hold_up()
    bench.say("echo", PASS_ON)
    assert bench.heard() == ("echo", PASS_ON)
    bench.disk.open()
    assert [bench.heard() for _ in range(6)] == [("disk", n) for n in (-7, 7, -1, 1, TAKE_TIME, 2)]
    bench.hold_up()
    for number in range(100, 120):
        bench.say("disk", number)
    bench.say("echo", 5)
    assert bench.heard() == ("echo", 5)
    bench.disk.open()
    numbers = [number for _, number in (bench.heard() for _ in range(23))]
    assert numbers == [-7, 7, -100, *range(100, 120)]


def test_a_short_wait_is_not_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    taken_up: list[int] = []
    monkeypatch.setattr(baton_module, "PATIENCE_NS", 3_600_000_000_000)
    monkeypatch.setattr(bench.baton, "_run_meanwhile", lambda: taken_up.append(1))
    bench.say("disk", 1)
    assert [bench.heard(), bench.heard()] == [("disk", -1), ("disk", 1)]
    assert taken_up == []


def test_a_disk_that_was_just_slow_is_not_waited_for_and_then_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(number: int, seconds: float = 0.0) -> None:
        bench.disk.delays.append(seconds)
        bench.say("disk", number)
        assert [bench.heard(), bench.heard()] == [("disk", -number), ("disk", number)]

    monkeypatch.setattr(baton_module, "PATIENCE_NS", 3_600_000_000_000)
    monkeypatch.setattr(baton_module, "SLOW_NS", 50_000_000)  # that nothing but a wait of this test takes
    for _ in range(2):
        write(1, 0.06)
        write(2)
        bench.hold_up()
        bench.say("echo", 5)
        assert bench.heard() == ("echo", 5), "no patience"
        bench.disk.open()
        assert [bench.heard(), bench.heard()] == [("disk", -7), ("disk", 7)]
        for number in range(3, 13):
            write(number)
        taken_up: list[int] = []
        with monkeypatch.context() as patch:
            patch.setattr(bench.baton, "_run_meanwhile", lambda taken_up=taken_up: taken_up.append(1))
            write(13)
        assert taken_up == [], "it was not slow while it was not waited for"


def test_all_that_waits_for_the_absent_is_one_batch_however_long_the_turn_takes(bench: Bench) -> None:
    bench.say("echo", PASS_ON)
    assert bench.heard() == ("echo", PASS_ON)
    assert [bench.heard() for _ in range(4)] == [("disk", n) for n in (-1, 1, TAKE_TIME, 2)]


def test_a_kill_of_the_absent_waits_for_it(bench: Bench) -> None:
    bench.hold_up()
    bench.control(KillActor("disk", 0))
    bench.say("echo", 5)
    assert bench.heard() == ("echo", 5)
    assert not bench.pulls["supervisor"].poll(20)
    bench.disk.open()
    assert bench.told() == ActorDied("disk", 1, "killed on request", killed=True, fatal=False)
    assert [bench.heard(), bench.heard()] == [("disk", -7), ("disk", 7)], "what it did before"
    bench.control(StartActor("disk", 2, LIVES))
    assert bench.told() == ActorStarted("disk", 2)


def test_what_it_sent_before_it_died_is_sent(bench: Bench) -> None:
    bench.hold_up(RAISE)
    bench.say("echo", 5)
    assert bench.heard() == ("echo", 5)
    bench.disk.open()
    assert [bench.heard(), bench.heard()] == [("disk", -RAISE), ("disk", RAISE)]
    assert bench.told() == ActorDied("disk", 1, "ValueError: asked to", killed=False, fatal=False)


def test_a_stop_waits_for_the_absent(bench: Bench) -> None:
    bench.hold_up()
    bench.control(StopHost())
    assert not bench.pulls["supervisor"].poll(50)
    bench.disk.open()
    assert bench.told() == HostStopped("h")


def test_another_dies_and_lives_again_meanwhile(bench: Bench) -> None:
    bench.hold_up()
    bench.say("echo", RAISE)
    assert bench.told() == ActorDied("echo", 1, "ValueError: asked to", killed=False, fatal=False)
    bench.control(StartActor("echo", 1, LIVES))
    assert bench.told() == ActorStarted("echo", 1)
    bench.say("echo", 5)
    assert bench.heard() == ("echo", 5)


def test_others_go_on_while_one_starts(bench: Bench) -> None:
    bench.control(KillActor("disk", 0))
    bench.told()
    bench.disk.shut()
    bench.control(StartActor("disk", 2, LIVES))
    assert bench.disk.entered.acquire(timeout=WAIT_MS / 1000)
    bench.say("echo", 5)
    assert bench.heard() == ("echo", 5)
    bench.disk.open()
    assert bench.told() == ActorStarted("disk", 2)


def test_a_bug_of_the_host_in_the_stand_in_ends_the_host_s_thread(bench: Bench) -> None:
    bench.hold_up()
    bench.say("echo", KILL_THREAD)
    until = time.monotonic() + WAIT_MS / 1000
    while bench.host._failure is None:
        assert time.monotonic() < until
        time.sleep(0.001)
    bench.disk.open()
    assert bench.told() == HostDied("h", "SystemExit")
    bench.run()
    assert {bench.told().actor, bench.told().actor} == {"echo", "disk"}, "all begin again"
    for name in ("echo", "disk"):
        bench.control(StartActor(name, 2, LIVES))
        assert bench.told() == ActorStarted(name, 2)
    assert [bench.heard(), bench.heard()] == [("disk", -7), ("disk", 7)], "of the first life"
    bench.hold_up(8, its=2)
    bench.say("echo", 5, its=2)
    assert bench.heard() == ("echo", 5)


@pytest.mark.parametrize("patience_ns", [200_000, 2_000_000])
def test_nothing_is_lost_or_overtakes(bench: Bench, monkeypatch: pytest.MonkeyPatch, patience_ns: int) -> None:
    """Waits of all lengths around the patience, with numbers for both all the time."""
    monkeypatch.setattr(baton_module, "PATIENCE_NS", patience_ns)
    rng = Random(patience_ns)
    bench.disk.delays += [rng.choice((0, 0.0001, 0.0005, 0.002, 0.005)) for _ in range(2_000)]
    count = 600
    heard: dict[str, list[int]] = {"echo": [], "disk": []}
    for number in range(count):
        bench.say("echo", number)
        bench.say("disk", number + 1)
        if not number % 7:
            time.sleep(rng.choice((0, 0.001, 0.004)))
        while bench.pulls["test"].poll(0):
            sender, answer = bench.heard()
            heard[sender].append(answer)
    while len(heard["echo"]) < count or heard["disk"][-1] != count:
        sender, answer = bench.heard()
        heard[sender].append(answer)
    assert heard["echo"] == list(range(count))
    assert [number for number in heard["disk"] if number > 0] == list(range(1, count + 1))
