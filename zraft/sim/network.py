"""The network: delay, loss, duplication, reordering, and links that are cut, in one direction or both.

Between nodes frames may be lost, doubled and reordered. Between a client and a node runs one TCP connection: in order,
each frame once, or lost with the connection.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

from zraft.sim.options import Options

if TYPE_CHECKING:
    from zraft.sim.cluster import Cluster

LONG_DELAY = 100  # times the usual
HELD_FRAMES = 50  # the first that a cut link holds back until it heals, where it does not lose them; then it is full


class Network:
    """`cut`: directed pairs between which nothing passes. Names are of nodes and of clients."""

    def __init__(self, cluster: Cluster, options: Options, rng: Random, counts: Counter[str]) -> None:
        self.cut: dict[tuple[str, str], bool] = {}  # pair -> whether frames are held back and delivered when it heals
        self.loss = options.loss
        self.duplication = options.duplication
        self.long_delay = options.long_delay
        self._least_us = options.delay_us[0]
        self._spread_us = options.delay_us[1] - options.delay_us[0]
        self._cluster = cluster
        self._trace = cluster.trace
        self._scheduler = cluster.scheduler
        self._random = rng.random
        self._counts = counts
        self.lag_us: dict[tuple[str, str], int] = {}  # directed pairs whose frames take so much longer
        self._held: dict[tuple[str, str], list[bytes]] = {}
        self._latest: dict[tuple[str, str], int] = {}  # pair -> arrival of the last frame

    # --- links

    def cut_link(self, sender: str, receiver: str, hold: bool) -> None:
        """Stop one direction of a link."""
        self.cut[sender, receiver] = hold

    def heal_link(self, sender: str, receiver: str) -> None:
        """Let one direction pass again; what TCP still held comes through in its order, old as it is."""
        pair = (sender, receiver)
        if self.cut.pop(pair, None) is not None:
            arrival_us = self._scheduler.now_us
            held = self._held.pop(pair, [])
            if held:
                self._cluster.availability.unsettle()
            for frame in held:
                self._counts["held-frames"] += 1
                arrival_us += self._draw_usual_us()
                self._latest[pair] = max(arrival_us, self._latest.get(pair, 0))
                self._scheduler.at(arrival_us, self._arrive_at_peer, (receiver, frame))

    def take_held(self, sender: str, receiver: str) -> list[bytes]:
        """Let one direction pass again. What was held back is returned, for `arrive_late`."""
        self.cut.pop((sender, receiver), None)
        return self._held.pop((sender, receiver), [])

    def arrive_late(self, receiver: str, frames: list[bytes]) -> None:
        """What was said over a connection of former times comes through."""
        for frame in frames:
            self._counts["held-frames"] += 1
            self._scheduler.at(self._scheduler.now_us + self._draw_usual_us(), self._arrive_at_peer, (receiver, frame))

    def heal(self) -> None:
        """All links are whole."""
        self.lag_us.clear()
        for sender, receiver in list(self.cut):
            self.heal_link(sender, receiver)

    def is_cut(self, one: str, other: str) -> bool:
        """Whether nothing passes in at least one direction."""
        return (one, other) in self.cut or (other, one) in self.cut

    def is_well(self, one: str, other: str) -> bool:
        """Whether frames pass in both directions, and as fast as usual."""
        pairs = (one, other), (other, one)
        return not any(pair in self.cut or pair in self.lag_us for pair in pairs)

    # --- frames

    def _draw_usual_us(self) -> int:
        return self._least_us + int(self._random() * self._spread_us)

    def _draw_delay_us(self) -> int:
        delay_us = self._draw_usual_us()
        if self.long_delay and self._random() < self.long_delay:
            delay_us *= 1 + int(self._random() * LONG_DELAY)
        return delay_us

    def send_peer(self, sender: str, receiver: str, frame: bytes) -> bool:
        """Between nodes. False: no connection."""
        pair = (sender, receiver)
        if pair in self.cut:
            self._counts["cut-frames"] += 1
            self._trace.frame(self._scheduler.now_us, sender, receiver, "cut", frame)
            if self.cut[pair]:
                held = self._held.setdefault(pair, [])
                if len(held) < HELD_FRAMES:
                    held.append(frame)
            return self.cut[pair]
        if self.loss and self._random() < self.loss:
            self._counts["lost-frames"] += 1
            self._trace.frame(self._scheduler.now_us, sender, receiver, "lost", frame)
            return True
        self._trace.frame(self._scheduler.now_us, sender, receiver, "sent", frame)
        self._carry(pair, frame)
        if self.duplication and self._random() < self.duplication:
            self._counts["doubled-frames"] += 1
            self._carry(pair, frame)
        return True

    def _carry(self, pair: tuple[str, str], frame: bytes) -> None:
        scheduler = self._scheduler
        arrival_us = scheduler.now_us + self._draw_delay_us() + self.lag_us.get(pair, 0)
        if arrival_us < self._latest.get(pair, 0):
            self._counts["reordered-frames"] += 1
        else:
            self._latest[pair] = arrival_us
        scheduler.at(arrival_us, self._arrive_at_peer, (pair[1], frame))

    def _arrive_at_peer(self, arrival: tuple[str, bytes]) -> None:
        receiver, frame = arrival
        self._cluster.hand_in(receiver, "transport", "peers", frame)

    def send_client(self, sender: str, receiver: str, frame: bytes, answer: bool) -> bool:
        """Between a client and a node (answer: from the node). False: no connection."""
        pair = (sender, receiver)
        if pair in self.cut:
            return False
        arrival_us = max(self._latest.get(pair, 0) + 1, self._scheduler.now_us + self._draw_delay_us())
        self._latest[pair] = arrival_us
        self._scheduler.at(arrival_us, self._arrive_at_client if answer else self._arrive_from_client, (pair, frame))
        return True

    def _arrive_at_client(self, arrival: tuple[tuple[str, str], bytes]) -> None:
        (sender, receiver), frame = arrival
        if (sender, receiver) not in self.cut:
            self._cluster.asker(receiver).take(sender, frame)

    def _arrive_from_client(self, arrival: tuple[tuple[str, str], Any]) -> None:
        (sender, receiver), frame = arrival
        if (sender, receiver) not in self.cut:
            self._cluster.hand_in(receiver, "frontend", "clients", (sender.encode(), frame))
