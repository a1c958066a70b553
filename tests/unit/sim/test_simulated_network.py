"""Links that hold frames back, and links that lag."""

from __future__ import annotations

from typing import Any

from zraft.sim.cluster import Cluster
from zraft.sim.network import HELD_FRAMES
from zraft.sim.options import Options
from zraft.sim.transcript import Trace

DELAY_US = (1_000, 20_000)


class Arrivals:
    """A network of two nodes, and what arrived from n1 at n2 when."""

    def __init__(self) -> None:
        self.cluster = Cluster(1, Options(nodes=2, clients=0, delay_us=DELAY_US), Trace())
        self.network = self.cluster.network
        self.scheduler = self.cluster.scheduler
        self.seen: list[tuple[int, Any]] = []
        self.cluster.hand_in = self._arrive  # type: ignore[method-assign]

    def _arrive(self, name: str, actor: str, port_name: str, frame: Any) -> None:
        self.seen.append((self.scheduler.now_us, frame))

    def send(self, number: int) -> None:
        self.network.send_peer("n1", "n2", b"%d" % number)

    def frames(self) -> list[bytes]:
        self.scheduler.run_until(self.scheduler.now_us + 10_000_000)
        return [frame for _, frame in self.seen]


def test_a_cut_link_that_holds_frames_delivers_the_first_of_them_in_order() -> None:
    link = Arrivals()
    link.network.cut_link("n1", "n2", hold=True)
    for number in range(HELD_FRAMES + 10):
        link.send(number)
    assert link.frames() == []
    link.network.heal_link("n1", "n2")
    assert link.frames() == [b"%d" % number for number in range(HELD_FRAMES)]


def test_a_cut_link_that_holds_nothing_loses_all() -> None:
    link = Arrivals()
    link.network.cut_link("n1", "n2", hold=False)
    link.send(1)
    link.network.heal_link("n1", "n2")
    assert link.frames() == []


def test_a_link_lags_in_one_direction() -> None:
    link = Arrivals()
    link.network.lag_us["n1", "n2"] = 400_000
    assert not link.network.is_well("n2", "n1")
    link.send(1)
    link.network.send_peer("n2", "n1", b"back")
    assert link.frames() == [b"back", b"1"]
    back_us, there_us = (time_us for time_us, _ in link.seen)
    assert back_us < DELAY_US[1] < 400_000 < there_us
    link.network.heal()
    assert link.network.is_well("n2", "n1")


def test_frames_overtake_each_other_where_nothing_is_held() -> None:
    link = Arrivals()
    for number in range(20):
        link.send(number)
    frames = link.frames()
    assert frames != [b"%d" % number for number in range(20)] and len(frames) == 20


def test_what_a_link_held_back_may_come_through_later_than_what_follows_it() -> None:
    link = Arrivals()
    link.network.cut_link("n1", "n2", hold=True)
    link.send(1)
    held = link.network.take_held("n1", "n2")
    link.send(2)
    assert link.frames() == [b"2"]
    link.network.arrive_late("n2", held)
    assert link.frames() == [b"2", b"1"]
    assert link.network.take_held("n1", "n2") == []
