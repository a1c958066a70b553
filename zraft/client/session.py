"""The client's side of a session (dissertation 6.3; DESIGN trap 16)."""

from __future__ import annotations

# Numbers beyond the low-water mark that may be in use at once. A node keeps an answer for each number above the mark
# it was told last, at most 8,192 of them (`TOO_MANY_UNANSWERED`); every command of ours is within 4,096 of the mark it
# carries, so no order of arrival can make a node keep more than that.
MAX_UNANSWERED = 4096


class Session:
    """Numbers a client's writes and knows up to where it needs no answer any more.

    `id`: index of the log entry that opened it. `low_water`: this number and all below it are settled: answered, or
    given up for good. A node forgets the answers up to the mark that it is told, so a number that may still be sent
    must be above it.
    """

    __slots__ = ("_last", "_settled", "id", "low_water")

    def __init__(self, session_id: int) -> None:
        self.id = session_id
        self.low_water = 0
        self._last = 0
        self._settled: set[int] = set()

    def has_room(self) -> bool:
        """Whether one more number may be in use."""
        return self._last - self.low_water < MAX_UNANSWERED

    def next_number(self) -> int:
        """A number that was not used before: 1, 2, 3.."""
        self._last += 1
        return self._last

    def settle(self, number: int) -> None:
        """Note that no copy of `number` will be sent any more. Each number is settled once, in any order."""
        if number != self.low_water + 1:
            self._settled.add(number)
            return
        settled = self._settled
        while settled and number + 1 in settled:
            number += 1
            settled.remove(number)
        self.low_water = number
