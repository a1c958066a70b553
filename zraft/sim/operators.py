"""Operators of a run: they ask for changes of the members, over the same path as clients, and rely on nothing.

An operator asks one node, follows a hint to the leader or asks somebody else instead, and gives up after a while. It
may be on either side of a partition, and so may others, who want something else at the same time.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from zraft.sim.violation import Violation
from zraft.wire import ReplyStatus, RequestKind, pack_requests, unpack_replies

if TYPE_CHECKING:
    from zraft.sim.cluster import Cluster

OPERATORS = ("a1", "a2", "a3")
MAX_COPIES = 4
ASK_AGAIN_US = (10_000, 300_000)
GIVE_UP_US = (500_000, 5_000_000)
FOLLOWS_HINTS = 0.7


class Wish(NamedTuple):
    """body: of the request. what: for a reader. must_fail: it is a mistake that has to be refused. on_done: called
    with whether it was granted."""

    body: bytes
    what: str
    must_fail: bool = False
    on_done: Callable[[bool], None] | None = None


class Asked:
    """A wish under way."""

    def __init__(self, wish: Wish, deadline_us: int) -> None:
        self.wish = wish
        self.deadline_us = deadline_us
        self.copies = 0


class Operator:
    """`doubtful_until_us`: until then something that was asked may take effect, though no answer says so."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.doubtful_until_us = 0
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._rng = Random(f"operator {cluster.seed} {name}")
        self._asked: dict[int, Asked] = {}
        self._requests = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing that it asked for may take effect any more."""
        return not self._asked and self._scheduler.now_us >= self.doubtful_until_us

    def ask(self, wish: Wish, node: str, at_once: bool = False) -> None:
        """Ask that node first. at_once: it hears it now, as if this had been sent before."""
        give_up_us = self._rng.randint(*GIVE_UP_US)
        self._send(Asked(wish, self._scheduler.now_us + give_up_us), node, at_once)

    def _send(self, asked: Asked, node: str, at_once: bool = False) -> None:
        self._requests += 1
        asked.copies += 1
        self._asked[self._requests] = asked
        frame = pack_requests([(self._requests, int(RequestKind.MEMBERS), asked.wish.body)])
        if at_once:
            self._cluster.hand_in(node, "frontend", "clients", (self.name.encode(), frame))
        elif not self._cluster.network.send_client(self.name, node, frame, answer=False):
            del self._asked[self._requests]
            self._try_elsewhere(asked, "")
            return
        self._scheduler.at(asked.deadline_us, self._give_up, self._requests)

    def _try_elsewhere(self, asked: Asked, hint: str) -> None:
        """This copy had no effect."""
        now_us = self._scheduler.now_us
        if asked.copies >= MAX_COPIES or now_us >= asked.deadline_us:
            self._end(asked, "nobody took it", False)
            return
        hinted = self._cluster.node_at.get(hint, "")
        if hinted in self._cluster.machines and self._rng.random() < FOLLOWS_HINTS:
            node, wait_us = hinted, 0
        else:
            node, wait_us = self._rng.choice(self._cluster.names), self._rng.randint(*ASK_AGAIN_US)
        self._scheduler.at(now_us + wait_us, self._ask_again, (asked, node))

    def _ask_again(self, again: tuple[Asked, str]) -> None:
        self._send(*again)

    def take(self, node: str, frame: bytes) -> None:
        """An answer."""
        for request, status, body in unpack_replies(frame).items:
            asked = self._asked.pop(request, None)
            if asked is None:
                continue
            if status in (ReplyStatus.NOT_LEADER, ReplyStatus.BUSY):
                self._try_elsewhere(asked, body.decode())
            elif status == ReplyStatus.OK:
                self._end(asked, f"done, entry {json.loads(body)['index']}", True)
            elif status == ReplyStatus.UNKNOWN:
                self._doubt()
                self._end(asked, "unknown", False)
            else:
                self._cluster.counts["changes-refused"] += 1
                self._end(asked, f"refused by {node}: {body.decode()}", False)

    def _give_up(self, request: int) -> None:
        asked = self._asked.pop(request, None)
        if asked is not None:
            self._doubt()
            self._end(asked, "no answer", False)

    def _doubt(self) -> None:
        self.doubtful_until_us = self._scheduler.now_us + GIVE_UP_US[1]

    def _end(self, asked: Asked, how: str, granted: bool) -> None:
        wish = asked.wish
        self._cluster.trace.event(self._scheduler.now_us, f"{self.name} {wish.what} -> {how}")
        if granted and wish.must_fail:
            raise Violation("a mistaken change is refused", f"{self.name} {wish.what} -> {how}")
        if wish.on_done is not None:
            wish.on_done(granted)


def as_json(**fields: Any) -> bytes:
    """The body of a request."""
    return json.dumps(fields).encode()
