"""The state of a machine as of one moment, serialized in pieces while the machine goes on.

The pieces are a pure function of the state: two machines that are equal at the same index give equal bytes, whatever
is applied to each of them meanwhile. `zraft.statemachine.snapshot` reads them.

    head      [1, format, last_applied, log_time_ms, revision, key count, session count]
    keys      [2, keys, records]    two columns; keys ascend over all pieces; `zraft.statemachine.record` has the other
    sessions  [3, rows]     a session: [id, acknowledged, last_used_index, last_used_ms], ids ascend over all pieces;
                            then its answers, over several pieces if need be: [number, answer], numbers ascend
    end       [4, state_hash]
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from zraft.errors import impossible
from zraft.statemachine.codec import encode_chunk
from zraft.statemachine.sessions import Sessions
from zraft.statemachine.store import Store

STATE_FORMAT = 2

HEAD, KEYS, SESSIONS, END = 1, 2, 3, 4

CHUNK_BYTES = 64 * 1024

# So that a chunk is smaller than the largest that is read, with what msgpack adds to its rows.
_MOST_BYTES = 4 * 1024 * 1024


_HASH_FIELDS = Struct("<QQQQ").pack


def hash_state(revision: int, log_time_ms: int, keys_sum: int, sessions_sum: int) -> str:
    """The `state_hash` of what has these sums of digests: 16 hexadecimal digits."""
    return blake2b(_HASH_FIELDS(revision, log_time_ms, keys_sum, sessions_sum), digest_size=8).hexdigest()


class FrozenState:
    """What `StateMachine.freeze` returns: call `next_chunk` until it gives None, or `release` to end it early.

    Until then the machine puts aside what it changes, if it has not been serialized yet: that is all it costs.
    """

    def __init__(self, store: Store, sessions: Sessions, last_applied: int, log_time_ms: int) -> None:
        self._store = store
        self._sessions = sessions
        self._keys = store.freeze()
        self._rows = sessions.freeze()
        # The digests of sessions are added up on the way, for all at once would take long.
        self._hash_fields = (store.revision, log_time_ms, store.digest_sum)
        counts = (len(store), len(sessions))
        self._head: bytes | None = encode_chunk(HEAD, STATE_FORMAT, last_applied, log_time_ms, store.revision, *counts)
        self._is_done = False
        self.is_over = False
        """Whether all was handed out, or it was released."""

    def next_chunk(self, max_bytes: int = CHUNK_BYTES) -> bytes | None:
        """The next piece of the state; None: that was all, and the machine puts nothing aside any more.

        A piece has at most `MAX_CHUNK_ROWS` rows that take about `max_bytes` (at most 4 MiB), but at least one: a value
        of 1 MiB makes a piece of that size. Equal pieces want the same `max_bytes` on every node.
        Raises `ImpossibleState` after `release`.
        """
        if self.is_over:
            if self._is_done:
                return None
            raise impossible("a piece of a state that was released")
        if self._head is not None:
            head, self._head = self._head, None
            return head
        max_bytes = min(max_bytes, _MOST_BYTES)
        page = self._keys.take(max_bytes)
        if page is not None:
            return encode_chunk(KEYS, *page)
        rows = self._rows.take(max_bytes)
        if rows:
            return encode_chunk(SESSIONS, rows)
        end = encode_chunk(END, hash_state(*self._hash_fields, self._rows.digest_sum))
        self._is_done = True
        self.release()
        return end

    def release(self) -> None:
        """End it, done or not; more than once does no harm."""
        if not self.is_over:
            self.is_over = True
            self._store.unfreeze()
            self._sessions.unfreeze()
            del self._keys, self._rows
