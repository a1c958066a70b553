"""Once the cluster is calm, every call is answered soon, whatever it was before: random worlds, the clock is by hand.

Calm is: one member leads, a majority works and names the leader. All else may be as bad as before: nodes that were
removed or wiped run on and name whom they like, are busy for ever or silent, addresses lead nowhere.
"""

from __future__ import annotations

import heapq
import json
import random
from typing import NamedTuple

import pytest
from scripted_cluster import Outcome

from zraft.client import requests, term_check
from zraft.client.core import ClientCore
from zraft.client.requests import Request
from zraft.statemachine.machine import StateMachine
from zraft.wire import (
    Condition,
    ReplyStatus,
    RequestKind,
    Statement,
    pack_condition,
    pack_replies,
    pack_statement,
    unpack_requests,
)

POOL = [f"tcp://127.0.0.1:{port}" for port in range(7101, 7110)]
MAX_SECONDS = 10.0

NOT_LEADER, BUSY, UNKNOWN = ReplyStatus.NOT_LEADER, ReplyStatus.BUSY, ReplyStatus.UNKNOWN
MUTE = None  # it answers what it can without a leader, and no more
MOODS = (NOT_LEADER, NOT_LEADER, NOT_LEADER, BUSY, UNKNOWN, MUTE)

Items = tuple[tuple[int, int, bytes], ...]


class Frame(NamedTuple):
    """On its way, over a connection that may be gone when it arrives."""

    at: float
    order: int
    endpoint: str
    connection: int
    life: int | None
    items: Items


class Node:
    """What is at one address. `mood`: what it answers to requests that need a leader, if it does not lead."""

    def __init__(self) -> None:
        self.is_up = True
        self.is_paused = False
        self.is_far = False
        self.life = 1
        self.connection = 1
        self.mood: ReplyStatus | None = NOT_LEADER
        self.hint = ""
        self.members: list[str] = []


class World:
    """One client and the nodes that it may meet."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 100.0
        self.nodes = {endpoint: Node() for endpoint in POOL}
        self.machine = StateMachine()
        self.network: list[Frame] = []
        self.frames = 0
        self.in_term = 0
        self.loss = 0.0
        self.members = POOL[:3]
        self.leader = POOL[0]
        given = self.random.sample(POOL[:5], self.random.randint(1, 3))
        self.core = ClientCore(given, random.Random(seed))
        self.mute = Node()
        self.spoil()

    # ---- what happens --------------------------------------------------------------------------------------------

    def spoil(self) -> None:
        """Something changes, for better or worse."""
        pick = self.random
        node = self.nodes[pick.choice(POOL)]
        kind = pick.randrange(8)
        if kind == 0:
            node.is_up = not node.is_up
            node.connection += 1
        elif kind == 1:
            node.is_paused = not node.is_paused
        elif kind == 2:
            node.life += 1  # restarted
            node.connection += pick.randrange(2)
        elif kind == 3:
            node.connection += 1
        elif kind == 4:
            self.members = pick.sample(POOL, pick.choice((1, 3, 3, 5)))
        elif kind == 5:
            self.loss = pick.choice((0.0, 0.1, 0.5))
        elif kind == 6:
            node.mood = pick.choice(MOODS)
            if node.mood is MUTE and node is not self.mute:  # one alone: waiting for several takes its time
                self.mute.mood, self.mute = NOT_LEADER, node
            node.is_far = pick.random() < 0.2
        self.leader = pick.choice((*self.members, ""))
        for member in self.members:  # the others keep what they knew
            if pick.random() < 0.7:
                self.nodes[member].members = list(self.members)
        node.hint = pick.choice(("", *POOL))
        if pick.random() < 0.1:
            node.members = []  # wiped

    def calm(self) -> None:
        """From now on a majority works."""
        self.loss = 0.0
        working = self.members[: len(self.members) // 2 + 1]
        self.leader = self.random.choice(working)
        for member in working:
            node = self.nodes[member]
            node.is_up, node.is_paused, node.is_far = True, False, False
            node.mood = NOT_LEADER
            node.hint = self.leader
            node.members = list(self.members)
        if not self._can_be_found():
            node = self.nodes[self.core.given_endpoints[0]]
            node.is_up, node.is_paused, node.members = True, False, list(self.members)

    def _can_be_found(self) -> bool:
        """Whether the client knows one that works, or may be told of one by those that it knows."""
        reached: set[str] = set()
        told = set(self.core.endpoints)
        while told - reached:
            endpoint = (told - reached).pop()
            reached.add(endpoint)
            node = self.nodes[endpoint]
            if node.is_up and not node.is_paused:
                told |= {*node.members, *([node.hint] if node.hint and node.mood == NOT_LEADER else [])}
        return self.leader in reached

    # ---- the client's host, and the network ----------------------------------------------------------------------

    def submit(self, request: Request, timeout: float) -> Outcome:
        outcome = Outcome()
        outcome.call = self.core.submit(request, self.now + timeout, outcome)
        return outcome

    def run(self, seconds: float, outcome: Outcome | None = None) -> None:
        """Let time pass, until the outcome is there if one is given."""
        end = self.now + seconds
        while True:
            while self.network and self.network[0].at <= self.now:
                self._deliver(heapq.heappop(self.network))
            self._turn()
            if outcome is not None and outcome.times:
                return
            instants = [frame.at for frame in self.network[:1]] + [self.now + 0.05]
            wakeup = self.core.next_wakeup(self.now)
            if wakeup is not None:
                assert wakeup > self.now
                instants.append(wakeup)
            if self.now >= end:
                return
            self.now = min(end, *instants)

    def _turn(self) -> None:
        core = self.core
        for endpoint in core.refused_endpoints():
            if self.nodes[endpoint].is_up:
                core.on_writable(endpoint, self.now)
        core.tick(self.now)
        for endpoint in core.dropped_endpoints():
            self.nodes[endpoint].connection += 1
        for outgoing in core.frames_to_send(self.now):
            if self.nodes[outgoing.endpoint].is_up:
                self._send(outgoing.endpoint, None, unpack_requests(outgoing.frame))
            else:
                core.on_send_failed(outgoing, self.now)

    def _send(self, endpoint: str, life: int | None, items: Items) -> None:
        self.frames += 1
        node = self.nodes[endpoint]
        at = self.now + (0.15 if node.is_far else self.random.choice((0.0005, 0.005)))
        heapq.heappush(self.network, Frame(at, self.frames, endpoint, node.connection, life, items))

    def _deliver(self, frame: Frame) -> None:
        node = self.nodes[frame.endpoint]
        if not node.is_up or node.connection != frame.connection:
            return
        if frame.life is not None:
            self.core.on_frame(frame.endpoint, pack_replies(frame.life, frame.items), self.now)
        elif not node.is_paused:
            answers = [(number, *self._answer(frame.endpoint, kind, body)) for number, kind, body in frame.items]
            kept = tuple(answer for answer in answers if answer[1] >= 0 and self.random.random() >= self.loss)
            self._send(frame.endpoint, node.life, kept)

    def _answer(self, endpoint: str, kind: int, body: bytes) -> tuple[int, bytes]:
        node = self.nodes[endpoint]
        if kind == RequestKind.PING:
            return int(ReplyStatus.OK), b""
        if kind == RequestKind.ENDPOINTS:
            return int(ReplyStatus.OK), json.dumps(node.members).encode()
        if kind == RequestKind.TERM:
            said = node.mood is not MUTE and self.random.random() < 0.7
            return int(ReplyStatus.OK), pack_statement(Statement(1, 1 + POOL.index(endpoint), 1)) if said else b""
        if endpoint == self.leader:
            machine = self.machine
            if kind == RequestKind.READ_IN_TERM and self.random.random() < 0.8:
                self.in_term += 1
                condition = Condition(1, 1, (1 + POOL.index(self.members[-1]), 1 + POOL.index(self.members[0])))
                return int(ReplyStatus.IN_TERM), pack_condition(condition) + machine.query(body)
            if kind == RequestKind.READ_IN_TERM:
                return int(self.random.choice((ReplyStatus.OK, ReplyStatus.INVALID))), machine.query(body)
            if kind == RequestKind.READ:
                return int(ReplyStatus.OK), machine.query(body)
            return int(ReplyStatus.OK), machine.apply(machine.last_applied + 1, int(self.now * 1000), body)
        if node.mood is MUTE:
            return -1, b""
        return int(node.mood), node.hint.encode() if node.mood == NOT_LEADER else b""


@pytest.mark.parametrize("seed", range(100))
def test_once_calm_every_call_is_answered_soon(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(term_check, "WORTHWHILE_READS", 1)
    world = World(seed)
    for number in range(world.random.randrange(40)):
        world.spoil()
        request = requests.set_key(b"k", b"%d" % number) if number % 2 else requests.get_value(b"k")
        if world.random.random() < 0.8:
            world.submit(request, timeout=world.random.choice((0.1, 1.0, 30.0)))
        world.run(world.random.choice((0.001, 0.05, 0.4, 2.0)))
    world.calm()
    for request in (requests.get_value(b"k"), requests.set_key(b"k", b"last")):
        start = world.now
        outcome = world.submit(request, timeout=60.0)
        world.run(60.0, outcome)
        assert outcome.error is None and outcome.times == 1
        assert world.now - start < MAX_SECONDS
        world.run(0.5)


def test_reads_in_a_term_are_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(term_check, "WORTHWHILE_READS", 1)
    world = World(0)
    world.calm()
    for _ in range(50):
        outcome = world.submit(requests.get_value(b"k"), timeout=60.0)
        world.run(60.0, outcome)
        assert outcome.error is None and outcome.times == 1
        world.run(0.5)
    assert world.in_term >= 5
