"""A read is answered at an index that covers what was committed when it arrived."""

from __future__ import annotations

import pytest

from zraft.messages import Read, ReadAt
from zraft.sim.read_watch import ReadWatch
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
    with pytest.raises(Violation, match="n1 reads at 7 what arrived when 8 were committed"):
        watch.leave(ReadAt(7, ((1, b"q"), (2, b"q"))))
