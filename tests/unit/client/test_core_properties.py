"""Exactly once, and no lie about it, under whatever a cluster can do: random schedules against the real state machine.

The cluster here is one log, shared; a node that "leads" appends to it what reaches it. Frames are delayed, lost with
their connection, answered twice or never; leaders, lives and connections change; sessions are closed from outside.
"""

from __future__ import annotations

import random

import pytest
from scripted_cluster import NOT_LEADER, UNKNOWN, A, B, C, Copy, Outcome, Script

from zraft.client import requests
from zraft.errors import OutcomeUnknown, Unavailable
from zraft.statemachine.codec import Op, decode_command, encode_command
from zraft.statemachine.machine import StateMachine
from zraft.wire import ReplyStatus, RequestKind

ENDPOINTS = (A, B, C)


class Cluster:
    """Three nodes that do to requests all that nodes may do."""

    def __init__(self, seed: int, faults: float) -> None:
        self.random = random.Random(seed)
        self.faults = faults
        self.script = Script()
        self.machine = StateMachine()
        self.leader: str | None = A
        self.network: list[tuple[str, Copy, int, bytes]] = []  # requests ("to") and answers ("from") on their way
        self.applied: dict[bytes, int] = {}

    def step(self) -> None:
        pick = self.random
        self.network += [("to", copy, 0, b"") for copy in self.script.sent(after=pick.choice((0.0, 0.001, 0.01)))]
        pick.shuffle(self.network)
        for _ in range(pick.randrange(len(self.network) + 1)):
            self._deliver(*self.network.pop())
        for endpoint in ENDPOINTS:
            if endpoint not in self.script.down and pick.random() < 0.9:
                self.script.sign_of_life(endpoint)
        if pick.random() < self.faults:
            self._fault()

    def heal(self) -> None:
        self.faults = 0.0
        self.script.down = set()
        self.leader = self.random.choice(ENDPOINTS)

    def _deliver(self, direction: str, copy: Copy, status: int, body: bytes) -> None:
        if direction == "from":
            if copy.endpoint not in self.script.down:
                self.script.reply(copy, status, body)
            return
        lossy = self.random.random() < self.faults
        if copy.endpoint != self.leader:
            answer = (NOT_LEADER, (self.leader or "").encode())
        elif lossy and self.random.random() < 0.5:
            return  # lost on the way
        elif copy.kind == RequestKind.READ:
            answer = (ReplyStatus.OK, self.machine.query(copy.body))
        else:
            answer = (ReplyStatus.OK, self._apply(copy.body))
        if lossy and copy.endpoint == self.leader:
            answer = (UNKNOWN, b"")
        self.network.append(("from", copy, *answer))

    def _apply(self, command: bytes) -> bytes:
        before = self.machine.revision
        result = self.machine.apply(self.machine.last_applied + 1, int(self.script.now * 1000), command)
        if self.machine.revision > before:
            value = decode_command(command)[4][1]
            self.applied[value] = self.applied.get(value, 0) + 1
        return result

    def _fault(self) -> None:
        pick = self.random
        kind = pick.randrange(5)
        if kind == 0:
            self.leader = pick.choice((*ENDPOINTS, None))
        elif kind == 1:
            self.script.life[pick.choice(ENDPOINTS)] += 10
        elif kind == 2:
            self.script.down = {endpoint for endpoint in ENDPOINTS if pick.random() < 0.4}
        elif kind == 3:
            self.network = [message for message in self.network if pick.random() < 0.5]
        else:
            self._end_sessions()

    def _end_sessions(self) -> None:
        for session in range(1, self.machine.last_applied + 1):
            self._apply(encode_command(session, 2**40, 0, Op.CLOSE_SESSION))


@pytest.mark.parametrize("seed", range(40))
def test_each_write_takes_effect_at_most_once_and_its_answer_is_true(seed: int) -> None:
    cluster = Cluster(seed, faults=(0.02, 0.1, 0.3)[seed % 3])
    script = cluster.script
    outcomes: dict[bytes, Outcome] = {}
    for number in range(60):
        value = b"%d" % number
        timeout = cluster.random.choice((0.05, 0.5, 5.0))
        outcomes[value] = script.submit(requests.set_key(b"k%d" % (number % 5), value), timeout)
        if number % 10 == 0:
            script.get(timeout)
        for _ in range(cluster.random.randrange(6)):
            cluster.step()
    cluster.heal()
    last = script.set(b"last", timeout=10.0)
    for _ in range(3000):
        cluster.step()
        if last.times and not cluster.network and all(outcome.times for outcome in outcomes.values()):
            break
    assert last.error is None and last.times == 1
    for value, outcome in outcomes.items():
        count = cluster.applied.get(value, 0)
        assert outcome.times == 1
        assert count <= 1
        if outcome.error is None:
            assert count == 1
        elif isinstance(outcome.error, Unavailable):
            assert count == 0
        else:
            assert isinstance(outcome.error, OutcomeUnknown)


def test_the_schedules_reach_all_three_outcomes() -> None:
    seen: dict[str, int] = {}
    for seed in range(12):
        cluster = Cluster(seed, faults=0.2)
        outcomes = []
        for number in range(60):
            outcomes.append(cluster.script.submit(requests.set_key(b"k", b"%d" % number), 0.3))
            for _ in range(4):
                cluster.step()
        for outcome in outcomes:
            name = type(outcome.error).__name__ if outcome.error else "done"
            seen[name] = seen.get(name, 0) + 1
    assert min(seen[name] for name in ("done", "Unavailable", "OutcomeUnknown")) > 10
