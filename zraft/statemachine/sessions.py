"""Client sessions: what makes a command that was sent more than once happen once (Ongaro's dissertation, 6.3).

A session keeps the answer to each of its commands until the client says that it has it. Answers are kept by number,
not as 'the last one': many commands may be in flight, and they can arrive in any order (DESIGN trap 16). Sessions are
bounded in number and end after a time without use; both are decided by the log alone (DESIGN trap 17).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from hashlib import blake2b
from struct import Struct

from zraft.statemachine.codec import MAX_CHUNK_ROWS

MAX_SESSIONS = 10_000
MAX_UNANSWERED = 8192
SESSION_TIMEOUT_MS = 15 * 60 * 1000

# What a row takes in a piece of a frozen state besides an answer: up to four integers and the headers of msgpack.
_ROW_OVERHEAD_BYTES = 40

Answers = dict[int, bytes]
"""Number -> encoded result."""

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
        self.answers: Answers = {}
        self.last_used_index = session_id
        self.last_used_ms = now_ms
        self._digest: int | None = None

    def room(self, acknowledged: int, wanted: int) -> int:
        """How many more answers may be kept, of those wanted, once the client has acknowledged up to `acknowledged`."""
        if len(self.answers) + wanted <= MAX_UNANSWERED:
            return wanted
        return MAX_UNANSWERED - sum(number > acknowledged for number in self.answers)

    def expects(self, first: int, count: int) -> bool:
        """Whether all `count` commands from number `first` on come for the first time, and surely have room."""
        answers = self.answers
        return (
            first > self.acknowledged
            and len(answers) + count <= MAX_UNANSWERED
            and answers.keys().isdisjoint(range(first, first + count))
        )

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

    def record(self, answers: Answers) -> None:
        """Keep the answers to commands that have none yet."""
        self.answers.update(answers)
        self._digest = None

    def copy(self) -> Session:
        """The session as it is now; what happens to this one later does not touch the copy."""
        copy = Session(self.session_id, self.last_used_ms)
        copy.acknowledged = self.acknowledged
        copy.answers = dict(self.answers)
        copy.last_used_index = self.last_used_index
        copy._digest = self._digest
        return copy

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
        self._frozen: FrozenSessions | None = None

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
            self._end_oldest()
        self._by_use[session_id] = Session(session_id, now_ms)

    def close(self, session_id: int) -> None:
        """End an open session and forget its answers."""
        session = self._by_use.pop(session_id)
        if self._frozen is not None:
            self._frozen.keep_ended(session)

    def keep(self, session: Session) -> None:
        """Put the session aside as it is now, if a frozen state needs it: it is about to be used."""
        if self._frozen is not None:
            self._frozen.keep(session)

    def use(self, session: Session, index: int, now_ms: int, acknowledged: int) -> None:
        """`Session.use`, and the session becomes the most recently used one. `keep` comes first."""
        self._by_use.move_to_end(session.session_id)
        session.use(index, now_ms, acknowledged)

    def expire(self, now_ms: int) -> None:
        """End every session that no entry has named for `SESSION_TIMEOUT_MS` up to the log time `now_ms`."""
        if now_ms < self._none_expires_before_ms:
            return
        by_use = self._by_use
        while by_use and next(iter(by_use.values())).last_used_ms + SESSION_TIMEOUT_MS <= now_ms:
            self._end_oldest()
        oldest_ms = next(iter(by_use.values())).last_used_ms if by_use else now_ms
        self._none_expires_before_ms = oldest_ms + SESSION_TIMEOUT_MS

    def freeze(self) -> FrozenSessions:
        """The sessions as they are now, to be read in pieces while they are used. O(sessions); one at a time."""
        self._frozen = FrozenSessions(self._by_use)
        return self._frozen

    def unfreeze(self) -> None:
        """Old sessions need not be kept any more."""
        self._frozen = None

    def load(self, session: Session) -> None:
        """Take over a session of another machine; they come in the order of their last use."""
        self._by_use[session.session_id] = session

    def discard(self, count: int) -> int:
        """Free sessions that nobody uses any more, until they and their answers are `count`; return how many it was."""
        freed = 0
        while self._by_use and freed < count:
            _, session = self._by_use.popitem()
            freed += 1 + len(session.answers)
        return freed

    def _end_oldest(self) -> None:
        _, session = self._by_use.popitem(last=False)
        if self._frozen is not None:
            self._frozen.keep_ended(session)


SessionRow = tuple[int, int, int, int]
"""A session as frozen rows carry it: (session_id, acknowledged, last_used_index, last_used_ms)."""

AnswerRow = tuple[int, bytes]
"""An answer of the session whose row came last: (number, encoded result)."""


class FrozenSessions:
    """The `Sessions` as of one moment, handed out in ascending order of ids while they are used.

    A session that is about to change is copied first, unless that was done already or it has been handed out.
    """

    def __init__(self, by_use: OrderedDict[int, Session]) -> None:
        self._by_use = by_use
        self._ids = sorted(by_use)
        self._last = self._ids[-1] if self._ids else 0
        # All ids below are handed out, or on their way and not touched by what happens to their session any more.
        self._bound = 0
        # Sum modulo 2^64 of the digests of the sessions that were handed out: in the end, of all.
        self.digest_sum = 0
        self._kept: dict[int, Session] = {}
        self._rows = self._all_rows()
        self._next_row: SessionRow | AnswerRow | None = next(self._rows, None)

    def keep(self, session: Session) -> None:
        """An open session is about to be used."""
        if self._bound <= session.session_id <= self._last and session.session_id not in self._kept:
            self._kept[session.session_id] = session.copy()

    def keep_ended(self, session: Session) -> None:
        """A session has just ended. Nothing changes it any more, so that it needs no copy."""
        if self._bound <= session.session_id <= self._last:
            self._kept.setdefault(session.session_id, session)

    def take(self, max_bytes: int) -> list[SessionRow | AnswerRow]:
        """The next rows, at most `MAX_CHUNK_ROWS` of together at most `max_bytes`, but at least one; []: no more.

        Each session's row is followed by its answers in ascending order of numbers, be it over several pieces.
        """
        page: list[SessionRow | AnswerRow] = []
        while (row := self._next_row) is not None:
            max_bytes -= _ROW_OVERHEAD_BYTES + (len(row[1]) if len(row) == 2 else 0)
            if page and (max_bytes < 0 or len(page) >= MAX_CHUNK_ROWS):
                break
            page.append(row)
            self._next_row = next(self._rows, None)
        return page

    def _all_rows(self) -> Iterator[SessionRow | AnswerRow]:
        for session_id in self._ids:
            session = self._kept.pop(session_id, None) or self._by_use[session_id]
            answers = sorted(session.answers.items())
            self._bound = session_id + 1
            self.digest_sum = (self.digest_sum + session.digest()) & _SUM_MASK
            yield session_id, session.acknowledged, session.last_used_index, session.last_used_ms
            yield from answers
