"""Operators of a run: whom they ask, and what they make of the answers."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from zraft.sim.operators import GIVE_UP_US, MAX_COPIES, Operator, Wish, as_json
from zraft.sim.scheduler import Scheduler
from zraft.sim.transcript import Trace
from zraft.sim.violation import Violation
from zraft.wire import ReplyStatus, RequestKind, pack_replies, unpack_requests

BODY = as_json(op="remove", id="n2")


class World:
    """Nodes that answer what the test says. `asked`: (node, request id) of each copy; `ends`: was it granted?"""

    def __init__(self) -> None:
        self.scheduler = Scheduler()
        self.asked: list[tuple[str, int]] = []
        self.ends: list[bool] = []
        self.reachable = True
        names = ["n1", "n2", "n3"]
        self.cluster: Any = SimpleNamespace(
            seed=1,
            scheduler=self.scheduler,
            network=self,
            counts=Counter(),
            trace=Trace(),
            names=names,
            machines=dict.fromkeys(names),
            node_at={f"tcp://{name}": name for name in names},
            hand_in=lambda node, actor, port, frame: self.send_client("a1", node, frame[1], False),
        )
        self.operator = Operator(self.cluster, "a1")

    def send_client(self, sender: str, receiver: str, frame: bytes, answer: bool) -> bool:
        [(request, kind, body)] = unpack_requests(frame)
        assert (sender, kind, body, answer) == ("a1", RequestKind.MEMBERS, BODY, False)
        if self.reachable:
            self.asked.append((receiver, request))
        return self.reachable

    def ask(self, must_fail: bool = False) -> None:
        self.operator.ask(Wish(BODY, "remove n2", must_fail, self.ends.append), "n1")

    def answer(self, status: ReplyStatus, body: bytes = b"") -> None:
        node, request = self.asked[-1]
        self.operator.take(node, pack_replies(7, [(request, int(status), body)]))

    def pass_us(self, us: int) -> None:
        self.scheduler.run_until(self.scheduler.now_us + us)


def test_a_wish_that_is_granted() -> None:
    world = World()
    world.ask()
    assert not world.operator.is_idle
    world.answer(ReplyStatus.OK, b'{"index": 3}')
    assert world.ends == [True] and world.operator.is_idle


def test_one_that_had_to_be_refused_and_was_not() -> None:
    world = World()
    world.ask(must_fail=True)
    with pytest.raises(Violation, match="a mistaken change is refused"):
        world.answer(ReplyStatus.OK, b'{"index": 3}')


def test_a_refusal_is_counted_and_final() -> None:
    world = World()
    world.ask(must_fail=True)
    world.answer(ReplyStatus.REFUSED, b"no")
    assert world.ends == [False] and world.cluster.counts["changes-refused"] == 1 and world.operator.is_idle


def test_who_does_not_lead_is_left_for_the_one_whom_it_names_or_for_anybody() -> None:
    followed = []
    for _ in range(30):
        world = World()
        world.operator._rng.seed(len(followed))
        world.ask()
        world.answer(ReplyStatus.NOT_LEADER, b"tcp://n3")
        world.pass_us(1)
        followed.append([node for node, _ in world.asked[1:]])
    assert ["n3"] in followed and [] in followed


def test_it_gives_up_after_some_copies() -> None:
    world = World()
    world.reachable = False
    world.ask()
    world.pass_us(10 * GIVE_UP_US[1])
    assert world.ends == [False]
    world = World()
    world.ask()
    for _ in range(MAX_COPIES):
        world.answer(ReplyStatus.BUSY)
        world.pass_us(300_000)
    assert len(world.asked) <= MAX_COPIES and world.ends == [False]


@pytest.mark.parametrize("answered", [True, False])
def test_what_may_take_effect_yet_leaves_it_in_doubt_for_a_while(answered: bool) -> None:
    world = World()
    world.ask()
    if answered:
        world.answer(ReplyStatus.UNKNOWN)
    else:
        world.pass_us(GIVE_UP_US[1])
    assert world.ends == [False] and not world.operator.is_idle
    world.pass_us(GIVE_UP_US[1] + 1)
    assert world.operator.is_idle
