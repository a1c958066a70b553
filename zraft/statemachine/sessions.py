"""Client sessions: what makes a command that was sent more than once happen once (Ongaro's dissertation, 6.3).

A session keeps the answer to each of its commands until the client says that it has it. Answers are kept by number,
not as 'the last one': many commands may be in flight, and they can arrive in any order (DESIGN trap 16). Sessions are
bounded in number and end after a time without use; both are decided by the log alone (DESIGN trap 17).
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from struct import Struct

MAX_SESSIONS = 10_000
MAX_UNANSWERED = 8192
SESSION_TIMEOUT_MS = 15 * 60 * 1000

_SUM_MASK = (1 << 64) - 1
_DIGEST_HEAD = Struct("<QQQQ").pack
_DIGEST_ANSWER = Struct("<QI").pack


class Session:
    """One client's session.

    - `session_id`: index of the log entry that opened it;
    - `acknowledged`: low-water mark, the client has its answers to all numbers up to and including it;
    - `answers`: number -> encoded result, for numbers above the mark;
    - `last_used_index`, `last_used_ms`: the last entry that named the session, and the log time of that entry.
    """

    __slots__ = ("_digest", "acknowledged", "answers", "last_used_index", "last_used_ms", "session_id")

    def __init__(self, session_id: int, now_ms: int) -> None:
        self.session_id = session_id
        self.acknowledged = 0
        self.answers: dict[int, bytes] = {}
        self.last_used_index = session_id
        self.last_used_ms = now_ms
        self._digest: int | None = None

    def has_room(self, acknowledged: int) -> bool:
        """Whether one more answer may be kept once the client has acknowledged up to `acknowledged`."""
        if len(self.answers) < MAX_UNANSWERED:
            return True
        return sum(number > acknowledged for number in self.answers) < MAX_UNANSWERED

    def use(self, index: int, now_ms: int, acknowledged: int) -> None:
        """Note that entry `index` at log time `now_ms` named the session, and forget acknowledged answers.

        The mark only rises: a retry that was encoded long ago carries an older one.
        """
        self.last_used_index = index
        self.last_used_ms = now_ms
        self._digest = None
        before = self.acknowledged
        if acknowledged > before:
            answers = self.answers
            if acknowledged - before <= len(answers):
                for number in range(before + 1, acknowledged + 1):
                    answers.pop(number, None)
            else:
                self.answers = {number: answer for number, answer in answers.items() if number > acknowledged}
            self.acknowledged = acknowledged

    def record(self, number: int, answer: bytes) -> None:
        """Keep the answer to command `number`, which has none yet."""
        self.answers[number] = answer
        self._digest = None

    def digest(self) -> int:
        """A 64-bit digest of the whole session, independent of the order in which its answers came."""
        if self._digest is None:
            hasher = blake2b(
                _DIGEST_HEAD(self.session_id, self.acknowledged, self.last_used_index, self.last_used_ms), digest_size=8
            )
            for number in sorted(self.answers):
                answer = self.answers[number]
                hasher.update(_DIGEST_ANSWER(number, len(answer)) + answer)
            self._digest = int.from_bytes(hasher.digest(), "little")
        return self._digest


class Sessions:
    """All open sessions, the least recently used first. Times are log time, in ms, and never go back."""

    def __init__(self) -> None:
        self._by_use: OrderedDict[int, Session] = OrderedDict()
        # No session can expire before this log time. A bound and not the exact time, so that the common case of
        # `expire` is one comparison: using the oldest session moves its expiry up, never down.
        self._none_expires_before_ms = 0

    def __len__(self) -> int:
        return len(self._by_use)

    @property
    def digest_sum(self) -> int:
        """Sum modulo 2^64 of the digests of all sessions; only those used since the last call are digested again."""
        return sum(session.digest() for session in self._by_use.values()) & _SUM_MASK

    def find(self, session_id: int, now_ms: int) -> Session | None:
        """The session, or None if it was never opened, has ended, or expires at `now_ms`."""
        session = self._by_use.get(session_id)
        if session is None or session.last_used_ms + SESSION_TIMEOUT_MS <= now_ms:
            return None
        return session

    def open(self, session_id: int, now_ms: int) -> None:
        """Open a session; if there are `MAX_SESSIONS` already, the least recently used one ends."""
        if len(self._by_use) >= MAX_SESSIONS:
            self._by_use.popitem(last=False)
        self._by_use[session_id] = Session(session_id, now_ms)

    def close(self, session_id: int) -> None:
        """End an open session and forget its answers."""
        del self._by_use[session_id]

    def use(self, session: Session, index: int, now_ms: int, acknowledged: int) -> None:
        """`Session.use`, and the session becomes the most recently used one."""
        self._by_use.move_to_end(session.session_id)
        session.use(index, now_ms, acknowledged)

    def expire(self, now_ms: int) -> None:
        """End every session that no entry has named for `SESSION_TIMEOUT_MS` up to the log time `now_ms`."""
        if now_ms < self._none_expires_before_ms:
            return
        by_use = self._by_use
        while by_use and next(iter(by_use.values())).last_used_ms + SESSION_TIMEOUT_MS <= now_ms:
            by_use.popitem(last=False)
        oldest_ms = next(iter(by_use.values())).last_used_ms if by_use else now_ms
        self._none_expires_before_ms = oldest_ms + SESSION_TIMEOUT_MS
