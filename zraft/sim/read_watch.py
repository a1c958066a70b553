"""What a read must see: all that was committed, as far as anybody knew, when it arrived (trap 14).

That is what a round of ReadIndex promises (dissertation 6.4). Had a later leader committed anything by then, a majority
would have been in its term, and none of them acknowledges a round of an older term; what leaders of older terms
committed is in the log before the leader's own first entry. A client could tell only if the state that answers lacks
it too; this looks at the promise itself, when consensus hands the read on with the index that is to be applied first.
"""

from __future__ import annotations

from zraft.messages import Read, ReadAt
from zraft.sim.violation import Violation


class ReadWatch:
    """The reads of one life of a process: token -> how many entries were committed when it arrived."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._arrived: dict[int, int] = {}

    def arrive(self, message: Read, committed: int) -> None:
        """frontend hands them to consensus."""
        for token, _ in message.reads:
            self._arrived[token] = committed

    def leave(self, message: ReadAt) -> None:
        """consensus hands them to the applier."""
        for token, _ in message.reads:
            committed = self._arrived.pop(token)
            if message.read_index < committed:
                raise Violation(
                    "a read sees what was committed",
                    f"{self._node} reads at {message.read_index} what arrived when {committed} were committed",
                )
