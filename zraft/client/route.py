"""Which endpoint is believed to be the leader's, and when to try which other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from zraft.client.endpoints import is_endpoint
from zraft.client.link import Link

# With nobody known to lead, or a node that has too much to do: how long to wait, with jitter against a herd.
MIN_HOLD_SECONDS = 0.020
MAX_HOLD_SECONDS = 0.050

# How long a link that is down or silent is passed over, unless it gives a sign of life before.
DEAD_SECONDS = 1.0

# While nobody has proved to lead, only so many requests are out at once: a whole window refused by each node in turn
# would be sent over and over in vain. And in all: a node answers BUSY to more, so more would only be sent twice.
MAX_PROBES = 32
MAX_IN_FLIGHT = 4096

# A client lives with redirects to nodes that joined later; this many are more than a cluster has.
MAX_LINKS = 64


class Random(Protocol):
    """What the core needs of `random.Random`."""

    def uniform(self, a: float, b: float, /) -> float: ...


class Route:
    """The believed leader (`target`), and the rules that change it.

    A node that refuses, or cannot be reached, is *tried*; as long as there is an untried one, that comes next at once.
    When all were tried, the client holds back for a moment and begins anew. An answer from the target ends the search.
    """

    def __init__(self, endpoints: Sequence[str], rng: Random) -> None:
        self.links = {endpoint: Link(endpoint) for endpoint in endpoints}
        self.target = self.links[endpoints[0]]
        self.hold_until = 0.0
        """Nothing goes to the target before this time."""
        self._rng = rng
        self._tried: set[str] = set()
        self._searching = True

    def link(self, endpoint: str) -> Link:
        """The link to `endpoint`; from now on it is among those that may lead."""
        if endpoint not in self.links:
            self.links[endpoint] = Link(endpoint)
        return self.links[endpoint]

    def room(self, link: Link) -> int:
        """How many more requests may be sent to `link` now."""
        limit = MAX_PROBES if self._searching and link is self.target else MAX_IN_FLIGHT
        return limit - len(link.pending)

    def settled(self, link: Link) -> None:
        """`link` did what only a leader, or a node that reaches one, can do."""
        if self._searching and link is self.target:
            self._searching = False
            self._tried.clear()

    def not_leader(self, link: Link, hint: str, now: float) -> None:
        """`link` says that it does not lead, and that `hint` (or "") does."""
        if link is not self.target:
            return  # the answer to an older copy; the target knows better
        self._fail(link)
        hinted = self._find(hint)
        if hinted is None or hinted is link or hinted.is_dead(now):
            self._try_next(now)
            return
        if hinted.endpoint in self._tried:
            self.hold(now)  # nodes that name each other
        self._aim(hinted)

    def lost(self, link: Link, now: float) -> None:
        """`link` is down or silent: pass it over for a while."""
        link.dead_until = now + DEAD_SECONDS
        if link is self.target:
            self._fail(link)
            self._try_next(now)

    def writable(self, link: Link) -> None:
        """ZeroMQ has a connection to `link`. The first one wins while the target has none."""
        link.refused_at = None
        link.pinned_hold_until = 0.0
        link.dead_until = 0.0
        link.connected = True
        if self.target.refused_at is not None and not self.target.connected:
            self.target = link

    def hold(self, now: float) -> None:
        """Send nothing to the target for a moment; afterwards every endpoint may be tried again."""
        self.hold_until = now + self._rng.uniform(MIN_HOLD_SECONDS, MAX_HOLD_SECONDS)
        self._tried.clear()

    def _fail(self, link: Link) -> None:
        self._searching = True
        self._tried.add(link.endpoint)

    def _find(self, hint: str) -> Link | None:
        if hint in self.links or (len(self.links) < MAX_LINKS and is_endpoint(hint)):
            return self.link(hint)
        return None

    def _try_next(self, now: float) -> None:
        links = list(self.links.values())
        here = links.index(self.target)
        others = links[here + 1 :] + links[: here + 1]
        alive = [link for link in others if not link.is_dead(now)]
        for link in alive:
            if link.endpoint not in self._tried:
                self._aim(link)
                return
        self.hold(now)
        self._aim(alive[0] if alive else min(others, key=lambda link: link.dead_until))

    def _aim(self, link: Link) -> None:
        self.target = link
        link.refused_at = None  # a new target gets a new attempt, whatever ZeroMQ said before
