"""From the pieces of a snapshot back to a state machine; `zraft.statemachine.frozen` makes them and describes them.

Pieces come from files and from other nodes. Whatever is wrong with one is a `SnapshotError` in words, before a machine
comes out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import le, lt
from typing import Any

from zraft.errors import ZraftError
from zraft.statemachine.codec import (
    MAX_BATCH_COMMANDS,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    CodecError,
    decode_chunk,
)
from zraft.statemachine.frozen import END, HEAD, KEYS, SESSIONS, STATE_FORMAT, FrozenState
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.record import FIELDS_BYTES, fields_of, is_record_of, make_record
from zraft.statemachine.sessions import MAX_SESSIONS, MAX_UNANSWERED, Session, Sessions
from zraft.statemachine.store import Store

__all__ = ["FrozenState", "Restoring", "SnapshotError"]

_MAX_INTEGER = (1 << 64) - 1
_COLUMNS_FORMAT = 1  # as it was before there were records; read, not written
_HEAD_NUMBERS = ("last_applied", "log_time_ms", "revision", "key count", "session count")


class SnapshotError(ZraftError):
    """What was read is no state of a machine, or one of an unknown format. `str()` says what is wrong with it."""


class Restoring:
    """A state machine in the making: `feed` it all pieces in their order, then `finish`.

    Each call takes about as long as applying `MAX_CHUNK_ROWS` entries. After an error nothing can come of it any more.
    """

    def __init__(self) -> None:
        self._store = Store()
        self._sessions: list[Session] = []
        self._fed = 0
        self._stage = 0  # the kind of the last good piece
        self._format = 0
        self._is_broken = False
        self._last_applied = self._log_time_ms = self._key_count = self._session_count = 0
        self._state_hash = ""
        self._last_key: bytes | None = None

    def feed(self, chunk: bytes) -> None:
        """Take in the next piece. Raises `SnapshotError` if it cannot be, or cannot come here."""
        if self._is_broken:
            raise SnapshotError("an earlier piece of this snapshot was refused")
        self._is_broken = True
        self._fed += 1
        try:
            self._take(decode_chunk(chunk))
        except (CodecError, SnapshotError) as error:
            raise SnapshotError(f"piece {self._fed} of the snapshot is wrong: {error}") from error
        self._is_broken = False

    def finish(self) -> StateMachine:
        """The machine, equal to the one whose pieces were fed; call it once.

        Raises `SnapshotError` if pieces are missing, or do not hold the state that they were made of.
        """
        if self._is_broken:
            raise SnapshotError("an earlier piece of this snapshot was refused")
        if self._stage != END:
            raise SnapshotError(f"the snapshot ends early, after piece {self._fed}")
        sessions = Sessions()
        before = (0, 0)
        for session in sorted(self._sessions, key=_last_used):
            # One entry uses one session, and log time never goes back: expiry relies on both.
            last_used = _last_used(session)
            if last_used[0] == before[0] or last_used[1] < before[1]:
                raise SnapshotError(
                    f"sessions of the snapshot were last used at {before} and at {last_used}: impossible"
                )
            before = last_used
            sessions.load(session)
        machine = StateMachine.restored(self._store, sessions, self._last_applied, self._log_time_ms)
        if machine.state_hash != self._state_hash:
            raise SnapshotError(
                f"the snapshot does not hold the state that it was made of: its state hash is {self._state_hash}, "
                f"that of what it holds is {machine.state_hash}"
            )
        return machine

    def discard_slice(self, count: int) -> bool:
        """Give up, and free up to `count` keys and sessions; False: nothing is left (`StateMachine.discard_slice`)."""
        self._is_broken = True
        freed = self._store.discard(count)
        del self._sessions[len(self._sessions) - min(len(self._sessions), count - freed) :]
        return bool(self._store or self._sessions)

    def _take(self, fields: tuple[Any, ...]) -> None:
        kind, *values = fields
        if kind not in (HEAD, KEYS, SESSIONS, END):
            raise SnapshotError(f"unknown kind {kind}")
        if kind == HEAD:
            self._take_head(values)
        elif not HEAD <= self._stage <= kind or self._stage == END:
            raise SnapshotError(f"kind {kind} cannot follow kind {self._stage}")
        elif kind == KEYS:
            self._take_keys(values)
        elif kind == SESSIONS:
            self._take_rows(values)
        else:
            self._take_end(values)
        self._stage = kind

    def _take_head(self, values: list[Any]) -> None:
        if self._stage:
            raise SnapshotError("a second head")
        # A later format may have any other fields: so this comes first.
        if values and (type(values[0]) is not int or values[0] not in (_COLUMNS_FORMAT, STATE_FORMAT)):
            formats = f"{_COLUMNS_FORMAT} and {STATE_FORMAT}"
            raise SnapshotError(f"its format is {values[0]!r:.40}; this version of zraft reads formats {formats} alone")
        numbers = values[1:]
        if len(numbers) != len(_HEAD_NUMBERS):
            raise SnapshotError(f"a head has {len(_HEAD_NUMBERS)} numbers, not {len(numbers)}")
        self._format = values[0]
        for name, number in zip(_HEAD_NUMBERS, numbers, strict=True):
            _check_integer(name, number, 0, _MAX_INTEGER)
        self._last_applied, self._log_time_ms, revision, self._key_count, self._session_count = numbers
        _check_integer("revision", revision, self._key_count, self._last_applied * MAX_BATCH_COMMANDS)
        _check_integer("session count", self._session_count, 0, MAX_SESSIONS)
        self._store.revision = revision

    def _take_keys(self, values: list[Any]) -> None:
        count = 5 if self._format == _COLUMNS_FORMAT else 2
        if len(values) != count or {type(column) for column in values} != {tuple} or not values[0]:
            raise SnapshotError(f"expected {count} columns with at least one row")
        if len({len(column) for column in values}) != 1:
            raise SnapshotError(f"columns of different lengths: {[len(column) for column in values]}")
        keys = values[0]
        _check_bytes("key", keys, 0, MAX_KEY_BYTES)
        records = _records_of_columns(*values) if self._format == _COLUMNS_FORMAT else values[1]
        if len(self._store) + len(keys) > self._key_count:
            raise SnapshotError(f"more than the {self._key_count} keys that the head says")
        _check_bytes("record", records, FIELDS_BYTES, FIELDS_BYTES + MAX_VALUE_BYTES)
        # In C, for there are many.
        if not all(map(lt, keys, keys[1:])) or (self._last_key is not None and keys[0] <= self._last_key):
            raise SnapshotError("keys that do not ascend")
        _, key_bytes, created, modified, versions = zip(*map(fields_of, records), strict=True)
        if min(created) < 1 or min(versions) < 1:
            raise SnapshotError("revisions and versions must be integers from 1 on")
        if not all(map(le, created, modified)) or not all(map(le, versions, modified)):
            raise SnapshotError("a key that was modified before it was created, or more often than that can be")
        if max(modified) > self._store.revision:
            raise SnapshotError(f"a key of revision {max(modified)} in a state of revision {self._store.revision}")
        if key_bytes != tuple(map(len, keys)) or not all(map(is_record_of, keys, records)):
            raise SnapshotError("a record that is not of its key, or does not hold what it was made of")
        self._store.load(keys, records)
        self._last_key = keys[-1]

    def _take_rows(self, values: list[Any]) -> None:
        if len(values) != 1 or type(values[0]) is not tuple or not values[0]:
            raise SnapshotError("expected one array with at least one row: sessions and their answers")
        for row in values[0]:
            size = len(row) if type(row) is tuple else 0
            if size == 4:
                self._take_session(*row)
            elif size == 2:
                self._take_answer(*row)
            else:
                raise SnapshotError("a row must be a session (4 integers) or an answer (number, result)")

    def _take_session(self, session_id: Any, acknowledged: Any, last_used_index: Any, last_used_ms: Any) -> None:
        if len(self._sessions) == self._session_count:
            raise SnapshotError(f"more than the {self._session_count} sessions that the head says")
        after = self._sessions[-1].session_id if self._sessions else 0
        _check_integer("session id", session_id, after + 1, self._last_applied)
        _check_integer("acknowledged", acknowledged, 0, _MAX_INTEGER)
        _check_integer("last_used_index", last_used_index, session_id, self._last_applied)
        _check_integer("last_used_ms", last_used_ms, 0, self._log_time_ms)
        self._digest_last()
        session = Session(session_id, last_used_ms)
        session.acknowledged, session.last_used_index = acknowledged, last_used_index
        self._sessions.append(session)

    def _take_answer(self, number: Any, answer: Any) -> None:
        if not self._sessions:
            raise SnapshotError("an answer without a session")
        session = self._sessions[-1]
        after = next(reversed(session.answers)) if session.answers else session.acknowledged
        _check_integer("number of an answer", number, after + 1, _MAX_INTEGER)
        if type(answer) is not bytes:
            raise SnapshotError("an answer must be bytes")
        if len(session.answers) == MAX_UNANSWERED:
            raise SnapshotError(f"more than {MAX_UNANSWERED} answers of session {session.session_id}")
        session.record({number: answer})

    def _take_end(self, values: list[Any]) -> None:
        found, expected = (len(self._store), len(self._sessions)), (self._key_count, self._session_count)
        if found != expected:
            raise SnapshotError(
                f"the end comes after {found[0]} of {expected[0]} keys and {found[1]} of {expected[1]} sessions"
            )
        if len(values) != 1 or type(values[0]) is not str or len(values[0]) != 16:
            raise SnapshotError("the end must say the state hash, a text of 16 hexadecimal digits")
        self._state_hash = values[0]
        self._digest_last()

    def _digest_last(self) -> None:
        # Each session is digested when it is complete, for all of them in `finish` would take long. It remembers.
        if self._sessions:
            self._sessions[-1].digest()


def _last_used(session: Session) -> tuple[int, int]:
    return session.last_used_index, session.last_used_ms


def _check_integer(name: str, number: object, least: int, most: int) -> None:
    # bool is an int to isinstance().
    if type(number) is not int or not least <= number <= most:
        raise SnapshotError(f"{name} must be an integer from {least} to {most}, not {number!r:.40}")


def _check_bytes(name: str, column: Sequence[Any], least: int, most: int) -> None:
    if set(map(type, column)) != {bytes} or max(map(len, column)) > most or min(map(len, column)) < least:
        raise SnapshotError(f"a {name} must be bytes, {least} to {most}")


def _records_of_columns(*columns: Sequence[Any]) -> list[bytes]:
    """From the keys, values, create_revisions, mod_revisions and versions that pieces of format 1 have."""
    _check_bytes("value", columns[1], 0, MAX_VALUE_BYTES)
    for column in columns[2:]:
        if set(map(type, column)) != {int} or min(column) < 1:
            raise SnapshotError("revisions and versions must be integers from 1 on")
    return list(map(make_record, *columns))
