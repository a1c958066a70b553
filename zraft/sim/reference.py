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
        changed = entry.kind == EntryKind.COMMAND and self._apply(index, entry.data)
        self.revision_at.append(self.revision_at[-1] + changed)

    def _apply(self, index: int, data: bytes) -> bool:
        """Whether a key changed."""
        try:
            session, number, acknowledged, op, arguments = decode_command(data)
        except CodecError:
            return False
        if op == Op.OPEN_SESSION:
            self._sessions[index] = set()
            self._marks[index] = 0
            return False
        done = self._sessions.get(session)
        if done is None:
            return False
        is_first = number not in done and number > self._marks[session]
        if op == Op.CLOSE_SESSION:
            if is_first:
                del self._sessions[session]
            return False
        self._marks[session] = max(self._marks[session], acknowledged)
        if not is_first:
            return False
        done.add(number)
        if op == Op.SET:
            self._values[arguments[0]] = arguments[1]
            return True
        if op == Op.DELETE:
            return self._values.pop(arguments[0], None) is not None
        key, expected, new = arguments
        if self._values.get(key) != expected:
            return False
        self._values[key] = new
        return True
