"""Which endpoint is believed to be the leader's, and when to try which other one."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Protocol

from zraft.client.endpoints import is_endpoint
from zraft.client.link import Link

# With nobody known to lead, or a node that has too much to do: how long to wait, with jitter against a herd.
MIN_HOLD_SECONDS = 0.020
MAX_HOLD_SECONDS = 0.050

# A node that has had too much to do, or lost track of requests, for so long without an answer is passed over.
BUSY_SECONDS = 1.0

# How long a link that is down or silent is passed over, unless it gives a sign of life before.
DEAD_SECONDS = 1.0

# After so long a search among the members it knows, a client asks at the endpoints that it was given, too.
LAST_RESORT_SECONDS = 1.0

# While nobody has proved to lead, only so many requests are out at once: a whole window refused by each node in turn
# would be sent over and over in vain. And in all: a node answers BUSY to more, so more would only be sent twice.
MAX_PROBES = 32
MAX_IN_FLIGHT = 4096

# A client lives with redirects to nodes that joined later; this many are more than a cluster has. To learn of one more
# it forgets another, the one that it heard nothing of for longest.
MAX_LINKS = 64


class Random(Protocol):
    """What the core needs of `random.Random`."""

    def uniform(self, a: float, b: float, /) -> float: ...


class Route:
    """The believed leader (`target`), and the rules that change it.

    A node that refuses, or cannot be reached, is *tried*; as long as there is an untried one, that comes next at once.
    One that others say leads comes before, a second time after a moment, but no third time: they may know no better.
    One that is busy for long is passed over as well. When all were tried, the client holds back for a moment and begins
    anew. An answer from the target ends the search.

    *Known* are the endpoints that are taken for members': at first those given, later those learnt. Given ones that are
    not known any more come last, when none of the known is alive or the search takes long: they are tried, and asked
    for the members, too.
    """

    def __init__(self, endpoints: Sequence[str], rng: Random) -> None:
        self.links = {endpoint: Link(endpoint) for endpoint in endpoints}
        self.target = self.links[endpoints[0]]
        self.hold_until = 0.0
        """Nothing goes to the target before this time."""
        self.given = list(endpoints)
        self._known = dict.fromkeys(endpoints)
        self._dropped: set[str] = set()
        self._rng = rng
        self._tried: set[str] = set()
        self._tried_again: set[str] = set()  # because others named them
        self._searching = True
        self._searching_since = 0.0
        self._busy_since = inf
        self._proof = False
        self._all_failed = False

    def link(self, endpoint: str) -> Link:
        """The link to `endpoint`, whoever is there."""
        if endpoint not in self.links:
            self.links[endpoint] = Link(endpoint)
        return self.links[endpoint]

    def room(self, link: Link) -> int:
        """How many more requests may be sent to `link` now."""
        limit = MAX_PROBES if self._searching and link is self.target else MAX_IN_FLIGHT
        return limit - len(link.pending)

    # ---- the leader ----------------------------------------------------------------------------------------------

    @property
    def is_searching(self) -> bool:
        """Whether the target has not shown yet that it leads, or reaches a leader, since that was last in doubt."""
        return self._searching

    def settled(self, link: Link) -> bool:
        """`link` did what only a leader, or a node that reaches one, can do. Returns whether that ends a search."""
        if link is not self.target:
            return False
        self._proof = True
        self._busy_since = inf
        if not self._searching:
            return False
        self._searching = False
        self._tried.clear()
        self._tried_again.clear()
        return True

    def not_leader(self, link: Link, hint: str, now: float) -> None:
        """`link` says that it does not lead, and that `hint` (or "") does."""
        if link is not self.target:
            self.late_hint(hint)  # the answer to an older copy; the target knows better
            return
        self._fail(link, now)
        hinted = self._find(hint)
        if hinted is None or hinted is link or hinted.is_dead(now):
            self._try_next(now)
            return
        if hinted.endpoint in self._tried:  # it may have become the leader since, or two nodes name each other
            if hinted.endpoint in self._tried_again:
                self._try_next(now)
                return
            self._tried_again.add(hinted.endpoint)
            self._pause(now)
        self._aim(hinted)

    def late_hint(self, hint: str) -> None:
        """Somebody who is not asked any more said that `hint` (or "") leads: in a search one more to be tried."""
        if self._searching:
            self.add_known([hint])

    def busy(self, link: Link, now: float) -> None:
        """`link` has too much to do, or lost track of a request: mostly so for a moment, and by the leader."""
        if link is not self.target:
            return
        self._busy_since = min(self._busy_since, now)
        if now - self._busy_since < BUSY_SECONDS:
            self.hold(now)
            return
        self._fail(link, now)
        self._pause(now)
        self._try_next(now)

    def lost(self, link: Link, now: float) -> None:
        """`link` is down or silent: pass it over for a while."""
        link.dead_until = now + DEAD_SECONDS
        if link is self.target:
            self._fail(link, now)
            self._try_next(now)

    def writable(self, link: Link) -> None:
        """ZeroMQ has a connection to `link`. The first one wins while the target has none."""
        link.refused_at = None
        link.pinned_hold_until = 0.0
        link.dead_until = 0.0
        link.connected = True
        known = link.endpoint in self._known or link.endpoint in self.given
        if known and self.target.refused_at is not None and not self.target.connected:
            self.target = link

    def hold(self, now: float) -> None:
        """Send nothing to the target for a moment; afterwards every endpoint may be tried again."""
        self._pause(now)
        self._tried.clear()
        self._tried_again.clear()

    def _pause(self, now: float) -> None:
        self.hold_until = now + self._rng.uniform(MIN_HOLD_SECONDS, MAX_HOLD_SECONDS)

    def _fail(self, link: Link, now: float) -> None:
        if not self._searching:
            self._searching = True
            self._searching_since = now
        self._proof = False
        self._tried.add(link.endpoint)

    def _find(self, hint: str) -> Link | None:
        if hint not in self._known:
            self.add_known([hint])
        return self.links[hint] if hint in self._known else None

    def _try_next(self, now: float) -> None:
        others = self.known_links()
        alive = [link for link in others if not link.is_dead(now)]
        last_resort = self._last_resort(now)
        others += last_resort
        alive += [link for link in last_resort if not link.is_dead(now)]
        for link in alive:
            if link.endpoint not in self._tried:
                self._aim(link)
                return
        self._all_failed = True
        self.hold(now)
        self._aim(alive[0] if alive else min(others, key=lambda link: link.dead_until))

    def _aim(self, link: Link) -> None:
        self.target = link
        link.refused_at = None  # a new target gets a new attempt, whatever ZeroMQ said before

    def known_links(self) -> list[Link]:
        """The links to those that are taken for members, those after the target first."""
        return _after(self.target.endpoint, [self.links[known] for known in self._known])

    # ---- the members ---------------------------------------------------------------------------------------------

    @property
    def endpoints(self) -> list[str]:
        """Those given, then those learnt."""
        return list(dict.fromkeys((*self.given, *self._known)))

    def add_known(self, endpoints: Sequence[str]) -> None:
        """These are members' as well, as far as they are endpoints."""
        for endpoint in endpoints:
            if endpoint in self._known or not is_endpoint(endpoint):
                continue
            if len(self._known) >= MAX_LINKS and not self._forget_one(endpoints):
                return
            self._known[endpoint] = None
            self.link(endpoint)

    def replace_known(self, endpoints: Sequence[str]) -> None:
        """These are all members'. Links to others are closed, but for one that is in use: the next time, perhaps."""
        known, self._known = self._known, {}
        self.add_known(endpoints)
        if not self._known:
            self._known = known
            return
        for link in list(self.links.values()):
            if link.endpoint not in self._known and not self._is_in_use(link):
                self._close(link)

    def _forget_one(self, spared: Sequence[str]) -> bool:
        """Make room among the known, at the expense of none of these. Returns whether that was possible."""
        needed = set(spared)
        links = [self.links[endpoint] for endpoint in self._known if endpoint not in needed]
        idle = [link for link in links if not self._is_in_use(link)]
        if not idle:
            return False
        silent = min(idle, key=lambda link: link.heard_at)
        del self._known[silent.endpoint]
        self._close(silent)
        return True

    def _is_in_use(self, link: Link) -> bool:
        return link is self.target or link.is_owed()

    def _close(self, link: Link) -> None:
        del self.links[link.endpoint]
        self._dropped.add(link.endpoint)
        if link.endpoint in self.given:
            self.links[link.endpoint] = Link(link.endpoint)  # opened again when it is needed

    def take_dropped(self) -> set[str]:
        """Endpoints the connections to which are not needed, since the last call."""
        dropped, self._dropped = self._dropped, set()
        return dropped

    def take_proof(self) -> bool:
        """Whether the target has shown, since the last call, that it leads or reaches a leader."""
        proof, self._proof = self._proof, False
        return proof

    def take_all_failed(self) -> bool:
        """Whether, since the last call, a search went through all nodes in vain."""
        all_failed, self._all_failed = self._all_failed, False
        return all_failed

    def next_known(self, endpoint: str, now: float) -> Link:
        """The link that comes after `endpoint` among the known and the last resort and is not dead, if there is one."""
        links = [self.links[known] for known in self._known] + self._last_resort(now)
        others = _after(endpoint, links)
        return next((link for link in others if not link.is_dead(now)), others[0])

    def _last_resort(self, now: float) -> list[Link]:
        """Given ones that are not known, if now is the time for them."""
        is_long = self._searching and now - self._searching_since >= LAST_RESORT_SECONDS
        if not is_long and not all(self.links[endpoint].is_dead(now) for endpoint in self._known):
            return []
        return [self.links[endpoint] for endpoint in self.given if endpoint not in self._known]


def _after(endpoint: str, links: list[Link]) -> list[Link]:
    """The same links, beginning after that of `endpoint` if it is among them."""
    start = next((position for position, link in enumerate(links, 1) if link.endpoint == endpoint), 0)
    return links[start:] + links[:start]
