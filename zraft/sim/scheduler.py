"""Virtual time: events in the order of their time, and of their making where times are equal."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Any

Event = tuple[int, int, Callable[[Any], None], Any]


class Scheduler:
    """`now_us`: virtual microseconds since the run began. `events`: how many have been handled."""

    def __init__(self) -> None:
        self.now_us = 0
        self.events = 0
        self.queue: list[Event] = []  # a heap; (time, number, action, argument) of what is to come
        self.numbers = count()

    def at(self, time_us: int, action: Callable[[Any], None], argument: Any) -> None:
        """Call action(argument) at time_us, or now if that has passed."""
        now_us = self.now_us
        heappush(self.queue, (time_us if time_us > now_us else now_us, next(self.numbers), action, argument))

    def run_until(self, end_us: int) -> None:
        """Handle all events up to end_us."""
        queue, pop = self.queue, heappop
        handled = 0
        try:
            while queue and queue[0][0] <= end_us:
                self.now_us, _, action, argument = pop(queue)
                handled += 1
                action(argument)
        finally:  # an invariant's violation ends it, too
            self.events += handled
        self.now_us = max(self.now_us, end_us)
