"""Which clients wait for what of consensus, which owns this: for a log entry, between the append and the applier; for
leadership to be handed over."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from zraft.raft import Raft, Role
from zraft.wire import ReplyStatus


class Proposals:
    """The tokens of proposals that this leader appended in one term and has not handed to the applier yet."""

    def __init__(self) -> None:
        self.runs: deque[tuple[int, Sequence[int]]] = deque()  # (first index, tokens), ascending
        self._term = 0

    def add(self, first: int, tokens: Sequence[int], term: int) -> None:
        """The entries from first on were appended for these."""
        self.runs.append((first, tokens))
        self._term = term

    def take(self, last: int) -> list[tuple[int, int]]:
        """(index, token) of those for entries up to last, which wait no more."""
        taken: list[tuple[int, int]] = []
        runs = self.runs
        while runs and runs[0][0] <= last:
            first, tokens = runs.popleft()
            here = last - first + 1
            taken += zip(range(first, first + len(tokens)), tokens[:here], strict=False)
            if here < len(tokens):
                runs.appendleft((last + 1, tokens[here:]))
                break
        return taken

    def give_up(self, raft: Raft) -> list[int]:
        """The tokens of all, if this node leads no more: nobody can tell what becomes of those entries."""
        if raft.role is Role.LEADER and raft.current_term == self._term:
            return []
        tokens = [token for _, tokens in self.runs for token in tokens]
        self.runs.clear()
        return tokens

    def forget(self) -> None:
        """The frontend began a new life: nobody waits any more."""
        self.runs.clear()


class Transfers:
    """The tokens of those who asked for a transfer of leadership that is under way."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def add(self, token: int) -> None:
        """It has begun."""
        self.tokens.append(token)

    def finish(self, raft: Raft) -> list[tuple[int, int, bytes]]:
        """(token, ReplyStatus, body) for the frontend, once it is known how it ended."""
        if raft.role is not Role.LEADER:
            if raft.leader_id is None:
                return []
            answer = (ReplyStatus.OK, raft.leader_id.encode())
        elif raft.transferee is None:
            answer = (ReplyStatus.REFUSED, b"the successor did not take over in time; this node leads on")
        else:
            return []
        tokens, self.tokens = self.tokens, []
        return [(token, *answer) for token in tokens]

    def forget(self) -> None:
        """As Proposals."""
        self.tokens.clear()
