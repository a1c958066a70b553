"""A second, naive state machine, fed with each entry once, when it is first known to be committed.

It shares no code with the shipped one but the decoder. It knows no expiry: runs are shorter than a session's time-out.
"""

from __future__ import annotations

from zraft.messages import Entry, EntryKind
from zraft.statemachine.codec import CodecError, Op, decode_command


class Reference:
    """`revision_at[i]`: the store's revision after entry i. Each (session, number) takes effect once."""

    def __init__(self) -> None:
        self.revision_at = [0]
        self._values: dict[bytes, bytes] = {}
        self._sessions: dict[int, set[int]] = {}
        self._marks: dict[int, int] = {}

    def take(self, index: int, entry: Entry) -> None:
        """Entry `index` is committed."""
        changes = self._apply(index, entry.data) if entry.kind == EntryKind.COMMAND else 0
        self.revision_at.append(self.revision_at[-1] + changes)

    def _apply(self, index: int, data: bytes) -> int:
        """How many times a key changed."""
        try:
            session, number, acknowledged, op, arguments = decode_command(data)
        except CodecError:
            return 0
        if op == Op.OPEN_SESSION:
            self._sessions[index] = set()
            self._marks[index] = 0
            return 0
        done = self._sessions.get(session)
        if done is None:
            return 0
        commands = arguments[0] if op == Op.BATCH else [(op, *arguments)]
        changes = 0
        for position, (what, *rest) in enumerate(commands):
            one = number + position
            if one in done or one <= self._marks[session]:
                continue
            if what == Op.CLOSE_SESSION:
                del self._sessions[session]
                return 0
            done.add(one)
            changes += self._change(what, *rest)
        self._marks[session] = max(self._marks[session], acknowledged)
        return changes

    def _change(self, op: int, key: bytes, *values: bytes | None) -> bool:
        """Whether the key changed."""
        if op == Op.DELETE:
            return self._values.pop(key, None) is not None
        if op == Op.CAS and self._values.get(key) != values[0]:
            return False
        new = values[-1]
        assert new is not None
        self._values[key] = new
        return True
