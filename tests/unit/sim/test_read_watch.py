"""A read is answered at an index that covers what was committed when it arrived."""

from __future__ import annotations

import pytest

from zraft.messages import Read, ReadAt, ReadInTerm
from zraft.sim.read_watch import AnswerWatch, ReadWatch
from zraft.sim.violation import Violation


def test_a_read_at_what_was_committed_when_it_arrived_is_right() -> None:
    watch = ReadWatch("n1")
    watch.arrive(Read(((1, b"q"), (2, b"q"))), 7)
    watch.arrive(Read(((3, b"q"),)), 9)
    watch.leave(ReadAt(7, ((1, b"q"), (2, b"q"))))
    watch.leave(ReadAt(12, ((3, b"q"),)))


def test_a_read_below_that_is_a_violation() -> None:
    watch = ReadWatch("n1")
    watch.arrive(Read(((1, b"q"),)), 7)
    watch.arrive(Read(((2, b"q"),)), 8)
    with pytest.raises(Violation, match="n1 reads at 7, but when it arrived 8 were committed"):
        watch.leave(ReadAt(7, ((1, b"q"), (2, b"q"))))


def test_an_answer_under_a_condition_promises_nothing_yet() -> None:
    watch = ReadWatch("n1")
    watch.arrive(ReadInTerm(((1, b"q"),)), 7)
    watch.arrive(ReadInTerm(((2, b"q"),)), 7)
    watch.leave(ReadAt(5, ((1, b"q"),), b"condition"))
    with pytest.raises(Violation, match="n1 reads at 5"):
        watch.leave(ReadAt(5, ((2, b"q"),)))


def test_what_a_client_takes_for_good_is_what_was_committed_when_it_asked() -> None:
    watch = AnswerWatch()
    watch.leave("c1", 10, 5)
    watch.leave("c1", 11, 5)
    watch.leave("c2", 10, 5)
    watch.arrive("c1", 10, 5)
    watch.arrive("c1", 99, 6)  # one that the leader answered after a round of its own
    with pytest.raises(Violation, match="c2 was answered at 5, but when it asked 6 were committed"):
        watch.arrive("c2", 10, 6)
