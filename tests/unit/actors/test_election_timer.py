"""election_timer: ticks as often as it was armed for, once for a stall, and not for a consensus that never armed it."""

from __future__ import annotations

from fake_bus import Clock, FakeContext

from zraft.actors.election_timer import ElectionTimer
from zraft.messages import Arm, Tick


class Scene:
    def __init__(self) -> None:
        self.clock = Clock()
        self.context = FakeContext("election_timer", clock=self.clock)
        self.actor = ElectionTimer(self.context)
        self.actor.on_start()

    def wake(self, late_ms: int = 0) -> list[tuple[str, object]]:
        assert self.actor.wakeup_ms is not None
        self.clock.now_ms, self.actor.wakeup_ms = self.actor.wakeup_ms + late_ms, None
        self.actor.on_wakeup(self.clock.now_ms)
        self.actor.end_batch()
        return self.context.taken()


def test_unarmed_it_never_wakes() -> None:
    assert Scene().actor.wakeup_ms is None


def test_armed_it_ticks_at_once_and_then_at_its_interval() -> None:
    scene = Scene()
    began_ms = scene.clock.now_ms
    scene.actor.receive("consensus", Arm(12))
    ticks = [scene.wake() for _ in range(3)]
    assert ticks == [[("consensus", Tick(began_ms + 12 * number))] for number in range(3)]


def test_after_a_stall_there_is_one_tick_and_no_queue_of_them() -> None:
    scene = Scene()
    scene.actor.receive("consensus", Arm(12))
    scene.wake()
    assert scene.wake(late_ms=500) == [("consensus", Tick(scene.clock.now_ms))]
    assert scene.actor.wakeup_ms == scene.clock.now_ms + 12


def test_for_a_new_consensus_the_clock_stands_still_until_it_arms_it() -> None:
    scene = Scene()
    scene.actor.receive("consensus", Arm(12))
    scene.actor.on_neighbour_restarted("consensus")
    assert scene.actor.wakeup_ms is None
    scene.actor.receive("consensus", Arm(30))
    scene.wake()
    assert scene.actor.wakeup_ms == scene.clock.now_ms + 30


def test_other_neighbours_new_lives_stop_no_clock() -> None:
    scene = Scene()
    scene.actor.receive("consensus", Arm(12))
    scene.actor.on_neighbour_restarted("log_writer")
    assert scene.wake()
