"""Deaths of nodes and of actors, one after the other, for as long as it is wanted."""

from __future__ import annotations

import random
import time

from cluster import ACTORS, Cluster

ACTOR_EVERY_SECONDS = 1.0
NODE_EVERY_SECONDS = 3.0
MAX_BOUNDARY = 6


class Storm:
    """SIGKILLs a node and starts it again every 3 s, and kills an actor every second. Counts both."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.node_kills = 0
        self.actor_kills = 0
        self._cluster = cluster
        self._rng = random.Random(seed)

    def rage(self, seconds: float) -> None:
        """Do so; afterwards every node runs."""
        started = time.monotonic()
        next_actor, next_node = started, started + NODE_EVERY_SECONDS / 2
        while time.monotonic() < started + seconds:
            now = time.monotonic()
            if now >= next_node:
                next_node += NODE_EVERY_SECONDS
                self._kill_node()
            if now >= next_actor:
                next_actor += ACTOR_EVERY_SECONDS
                self._kill_actor()
            time.sleep(0.01)

    def _kill_node(self) -> None:
        """Any node, the leader as often as a follower."""
        node = self._rng.choice(list(self._cluster.nodes.values()))
        node.kill()
        node.start()
        self.node_kills += 1

    def _kill_actor(self) -> None:
        """Of a node that answers: one that was just started has no actors yet."""
        node = self._rng.choice(list(self._cluster.nodes.values()))
        if node.name in self._cluster.statuses([node]):
            boundary = self._rng.choice((0, self._rng.randint(1, MAX_BOUNDARY)))
            node.kill_actor(self._rng.choice(ACTORS), boundary)
            self.actor_kills += 1
