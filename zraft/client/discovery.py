"""When a client asks whom for the members' endpoints, and what it makes of the answers.

It asks when it first reaches a node, whenever a search for the leader ended or went through all nodes in vain, and
every so often while it lives, idle or not: so it goes on serving when every node that it was told of is replaced, one
after the other or all at once.

Only who has just proved to lead, or to reach the leader, is taken at its word that others are no members any more. A
node that was removed, or is cut off, still answers, and knows the members of its time: such answers only add. A
question is overtaken by the next one, but for what an answer adds: in a search the next one may always come first.
"""

from __future__ import annotations

import json
from math import inf
from typing import Any

from zraft.client.link import Call, Link
from zraft.client.requests import Request
from zraft.client.route import Route
from zraft.errors import ZraftError
from zraft.wire import RequestKind

ASK_EVERY_SECONDS = 10.0
ANSWER_SECONDS = 1.0
# After a question without an answer, or where the node asked knew of no members yet.
ASK_AGAIN_SECONDS = 1.0
# While a search for the leader is in vain.
ASK_IN_SEARCH_SECONDS = 0.1


def _to_endpoints(result: tuple[Any, ...]) -> list[str]:
    endpoints = json.loads(result[1])
    if not isinstance(endpoints, list) or not all(isinstance(endpoint, str) for endpoint in endpoints):
        raise ValueError("endpoints that are no list of texts")
    return endpoints


ASK_ENDPOINTS = Request("endpoints", int(RequestKind.ENDPOINTS), _to_endpoints)


class Discovery:
    """The questions of one client. `due_at`: when to ask next, the caller's monotonic seconds; inf: no node was reached
    yet."""

    def __init__(self, route: Route) -> None:
        self.due_at = inf
        self._route = route
        self._asked = 0
        self._believed = 0  # the latest question to one who is taken at its word
        self._asked_at = -inf
        self._last_asked = ""

    def hurry(self, now: float) -> None:
        """No node that is known leads, or knows who does."""
        if self.due_at != inf:
            self.due_at = min(self.due_at, max(now, self._asked_at + ASK_IN_SEARCH_SECONDS))

    def ask(self, now: float) -> tuple[Link, Call]:
        """A question, and the link that it goes to. Until it is answered it counts as answered well."""
        route = self._route
        proven = route.take_proof()
        link = route.target if proven else route.next_known(self._last_asked, now)
        self._asked += 1
        self._asked_at = now
        self._last_asked = link.endpoint
        self.due_at = now + ASK_EVERY_SECONDS
        number = self._asked
        if proven:
            self._believed = number

        def on_done(endpoints: Any, error: ZraftError | None) -> None:
            if number == self._asked:
                self._on_answer(endpoints or [], proven, now)
            elif number > self._believed:
                self._route.add_known(endpoints or [])

        return link, Call(ASK_ENDPOINTS, now + ANSWER_SECONDS, on_done, True)

    def _on_answer(self, endpoints: list[str], proven: bool, asked_at: float) -> None:
        if not endpoints:
            self.due_at = asked_at + ASK_AGAIN_SECONDS + ANSWER_SECONDS
        elif proven:
            self._route.replace_known(endpoints)
        else:
            self._route.add_known(endpoints)
