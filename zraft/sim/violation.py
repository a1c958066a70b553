"""What a run ends with when something that must hold does not."""

from __future__ import annotations


class Violation(BaseException):
    """An invariant does not hold. `invariant`: its short name. It is a BaseException, so that no actor's guard takes it
    for a death of that actor."""

    def __init__(self, invariant: str, what: str) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
