"""What a read must see: all that was committed, as far as anybody knew, when it arrived (trap 14).

That is what a round of ReadIndex promises (dissertation 6.4). Had a later leader committed anything by then, a majority
would have been in its term, and none of them acknowledges a round of an older term; what leaders of older terms
committed is in the log before the leader's own first entry. A client could tell only if the state that answers lacks
it too; this looks at the promise itself, when consensus hands the read on with the index that is to be applied first.
"""

from __future__ import annotations

from zraft.messages import Read, ReadAt, ReadInTerm
from zraft.sim.violation import Violation


class ReadWatch:
    """The reads of one life of a process: token -> how many entries were committed when it arrived."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._arrived: dict[int, int] = {}

    def arrive(self, message: Read | ReadInTerm, committed: int) -> None:
        """frontend hands them to consensus."""
        for token, _ in message.reads:
            self._arrived[token] = committed

    def leave(self, message: ReadAt) -> None:
        """consensus hands them to the applier. Of an answer under a condition it promises nothing: see AnswerWatch."""
        for token, _ in message.reads:
            committed = self._arrived.pop(token)
            if not message.condition:
                check(f"{self._node} reads", message.read_index, committed, "it arrived")


class AnswerWatch:
    """The same for reads in the leader's term (`zraft.client.term_check`), when the client takes an answer for good."""

    def __init__(self) -> None:
        self._read_index: dict[tuple[str, int], int] = {}  # (client, request id) ->

    def leave(self, client: str, request_id: int, read_index: int) -> None:
        """consensus hands it to the applier."""
        self._read_index[client, request_id] = read_index

    def arrive(self, client: str, request_id: int, committed: int) -> None:
        """Whoever asked has the answer. committed: how many entries were, when the read began."""
        read_index = self._read_index.pop((client, request_id), None)
        if read_index is not None:  # the leader may have asked the others by itself
            check(f"{client} was answered", read_index, committed, "it asked")


def check(who: str, read_index: int, committed: int, when: str) -> None:
    """Raises Violation."""
    if read_index < committed:
        raise Violation(
            "a read sees what was committed", f"{who} at {read_index}, but when {when} {committed} were committed"
        )
