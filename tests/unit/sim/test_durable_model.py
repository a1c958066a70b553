"""The model of what a log must hold: certain, in doubt, and what a start may find."""

from __future__ import annotations

from zraft.sim.durable import Holding
from zraft.storage import HardState

VOTE = HardState(1, "n1")


def holding() -> Holding:
    made = Holding([])
    made.begin(0, [VOTE, (1, 2, 1)])
    made.complete(100)
    return made


def test_an_append_is_certain_when_it_returns() -> None:
    made = holding()
    made.settle(99)
    assert made.terms == []
    made.settle(100)
    assert (made.terms, made.hard_state) == ([1, 1], VOTE)


def test_after_a_crash_a_prefix_of_what_was_under_way_may_be_found() -> None:
    made = holding()
    made.crash(99)
    for found in ([], HardState(0, None)), ([], VOTE), ([1, 1], VOTE):
        assert found in made.possible()
    assert not made.on_found([1], VOTE, 200, 300)
    assert not made.on_found([1, 1], HardState(0, None), 200, 300)
    assert made.on_found([], VOTE, 200, 300)


def test_what_returned_must_be_found() -> None:
    made = holding()
    made.crash(100)
    assert not made.on_found([], VOTE, 200, 300)
    assert made.on_found([1, 1], VOTE, 200, 300)


def test_what_a_start_found_is_certain_when_its_sync_is_done() -> None:
    made = holding()
    made.crash(50)
    assert made.on_found([1, 1], VOTE, 200, 300)
    made.crash(250)  # before the start had made it durable
    assert made.on_found([], HardState(0, None), 400, 500)
    made.settle(500)
    assert made.terms == []


def test_a_failed_append_is_in_doubt_until_the_next_succeeds() -> None:
    made = holding()
    made.begin(200, [(3, 1, 1)])  # the disk was full
    assert ([1, 1, 1], VOTE) in made.possible()
    made.begin(300, [(2, 1, 2)])
    made.complete(400)
    made.settle(400)
    assert made.possible() == [([1, 2], VOTE)]
