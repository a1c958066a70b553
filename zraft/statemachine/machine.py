"""The state machine that zraft replicates: committed log entries in, answers out.

Two machines that applied the same entries are equal, whatever computer, process or Python they ran on, and so are
their answers and their `state_hash`.
"""

from __future__ import annotations

from zraft.errors import impossible
from zraft.statemachine.codec import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Arguments,
    CodecError,
    Op,
    Query,
    ResultCode,
    check_arguments,
    decode_command,
    decode_query,
    encode_result,
    unpack_fields,
)
from zraft.statemachine.frozen import FrozenState, hash_state
from zraft.statemachine.sessions import MAX_UNANSWERED, Session, Sessions
from zraft.statemachine.store import Change, Store

# Looking an enum's member up costs more than the comparison, and these are compared for every entry.
_OPEN_SESSION, _CLOSE_SESSION, _SET, _DELETE = int(Op.OPEN_SESSION), int(Op.CLOSE_SESSION), int(Op.SET), int(Op.DELETE)
_OK = int(ResultCode.OK)

_SESSION_UNKNOWN = encode_result(ResultCode.SESSION_UNKNOWN)
_ALREADY_ANSWERED = encode_result(ResultCode.ALREADY_ANSWERED)
_TOO_MANY_UNANSWERED = encode_result(ResultCode.TOO_MANY_UNANSWERED)
_CLOSED = encode_result(ResultCode.OK)


class StateMachine:
    """Keys and sessions as of the entry `last_applied`.

    `apply` and `skip` take the log's entries one after the other without a gap. They first find out what an entry
    does without changing anything, then change it all: an exception on the way leaves the state and `last_applied`
    as they were, together (DESIGN trap 18).
    """

    def __init__(self) -> None:
        self._store = Store()
        self._sessions = Sessions()
        self.last_applied = 0
        """Index of the last entry that was applied or skipped; 0: none."""
        self.log_time_ms = 0
        """The log's own clock at the last applied entry."""
        self._frozen: FrozenState | None = None

    @classmethod
    def restored(cls, store: Store, sessions: Sessions, last_applied: int, log_time_ms: int) -> StateMachine:
        """A machine that goes on from the state of another one. It owns `store` and `sessions` from now on."""
        machine = cls()
        machine._store, machine._sessions = store, sessions
        machine.last_applied, machine.log_time_ms = last_applied, log_time_ms
        return machine

    @property
    def revision(self) -> int:
        """The store-wide revision: how many commands have changed a key."""
        return self._store.revision

    @property
    def key_count(self) -> int:
        """How many keys there are."""
        return len(self._store)

    @property
    def session_count(self) -> int:
        """How many sessions are open."""
        return len(self._sessions)

    @property
    def state_hash(self) -> str:
        """16 hexadecimal digits that tell two states apart: keys with revisions, store revision, sessions, log time.

        Keys are accounted for as they change; a call digests the sessions that were used since the last one.
        """
        store = self._store
        return hash_state(store.revision, self.log_time_ms, store.digest_sum, self._sessions.digest_sum)

    def apply(self, index: int, time_ms: int, data: bytes) -> bytes:
        """Apply the committed command `data` at `index` and return its encoded result.

        `time_ms` is the time that the leader stamped on the entry; log time is the largest stamp so far. No content
        of `data` raises: what is wrong with a command is its result. Raises `ImpossibleState` if `index` does not
        follow `last_applied`.
        """
        if index != self.last_applied + 1:
            raise impossible("an entry applied out of order", index=index, last_applied=self.last_applied)
        now_ms = time_ms if time_ms > self.log_time_ms else self.log_time_ms
        # Nearly every entry is a set that is right, and the first copy of it. For that one, this does what the rest
        # does for all, in a sixth less time: half of what a busy node does is done here.
        try:
            session_id, number, acknowledged, op, key, value = unpack_fields(data)
        except (ValueError, TypeError):
            return self._apply_any(index, now_ms, data)
        if not (
            op == _SET
            and type(session_id) is type(number) is type(acknowledged) is type(op) is int
            and 0 <= acknowledged < number
            and type(key) is type(value) is bytes
            and len(key) <= MAX_KEY_BYTES
            and len(value) <= MAX_VALUE_BYTES
        ):
            return self._apply_any(index, now_ms, data)
        sessions, store = self._sessions, self._store
        session = sessions.expecting(session_id, number, now_ms)
        if session is None:
            return self._apply_any(index, now_ms, data)
        try:
            answer = encode_result(_OK, store.revision + 1)
            change = store.plan_set(key, value)
        except Exception:  # it will come again, and is told there what it means
            return self._apply_any(index, now_ms, data)
        # From here on nothing is computed any more, only assigned.
        store.commit(change)
        sessions.use(session, index, now_ms, acknowledged)
        session.record(number, answer)
        self._advance(index, now_ms)
        return answer

    def _apply_any(self, index: int, now_ms: int, data: bytes) -> bytes:
        try:
            session_id, number, acknowledged, op, arguments = decode_command(data)
        except CodecError as error:
            self._advance(index, now_ms)
            return encode_result(ResultCode.BAD_COMMAND, str(error))
        if op == _OPEN_SESSION:
            return self._open_session(index, now_ms, arguments)
        session = self._sessions.find(session_id, now_ms)
        if session is None:
            self._advance(index, now_ms)
            return _SESSION_UNKNOWN
        answer = session.answers.get(number)
        change = None
        is_first = False
        if answer is None:
            if number <= session.acknowledged:
                answer = _ALREADY_ANSWERED
            elif op == _CLOSE_SESSION and not arguments:
                return self._close_session(index, now_ms, session)
            elif len(session.answers) >= MAX_UNANSWERED and not session.has_room(acknowledged):
                answer = _TOO_MANY_UNANSWERED
            else:
                answer, change = self._plan(op, arguments)
                is_first = True
        # From here on nothing is computed any more, only assigned.
        if change is not None:
            self._store.commit(change)
        self._sessions.use(session, index, now_ms, acknowledged)
        if is_first:
            session.record(number, answer)
        self._advance(index, now_ms)
        return answer

    def skip(self, index: int, time_ms: int) -> None:
        """Pass over a committed entry that is no command, such as a leader's no-op; its time counts all the same."""
        if index != self.last_applied + 1:
            raise impossible("an entry skipped out of order", index=index, last_applied=self.last_applied)
        self._advance(index, max(self.log_time_ms, time_ms))

    def jump(self, index: int) -> None:
        """Go on after entry `index`, with the present state: it begins another log, whose entries are counted from
        there. Raises `ImpossibleState` for an index that was passed already."""
        if index < self.last_applied:
            raise impossible("a jump back", index=index, last_applied=self.last_applied)
        self.last_applied = index

    def query(self, data: bytes) -> bytes:
        """Answer a query from the present state. Changes nothing and raises for no content of `data`."""
        try:
            query, arguments = decode_query(data)
        except CodecError as error:
            return encode_result(ResultCode.BAD_COMMAND, str(error))
        if query == Query.GET:
            return encode_result(_OK, self._store.get(*arguments), self._store.revision)
        page, more = self._store.range(*arguments)
        return encode_result(_OK, page, more, self._store.revision)

    def freeze(self) -> FrozenState:
        """The state as it is now, to be serialized in pieces while entries are applied.

        Takes O(sessions) and copies no keys. Raises `ImpossibleState` if an earlier one is neither done nor released.
        """
        if self._frozen is not None and not self._frozen.is_over:
            raise impossible("a state frozen twice", last_applied=self.last_applied)
        self._frozen = FrozenState(self._store, self._sessions, self.last_applied, self.log_time_ms)
        return self._frozen

    def discard_slice(self, count: int) -> bool:
        """Free up to `count` keys, sessions and answers (one more session with its answers) of a machine that nobody
        needs any more; False: nothing is left.

        To drop a million keys at once would hold the interpreter's lock for too long. No other method may be called
        on the machine from the first call on. A frozen state is released.
        """
        if self._frozen is not None:
            self._frozen.release()
        freed = self._store.discard(count)
        if freed < count:
            self._sessions.discard(count - freed)
        return bool(self._store or self._sessions)

    def _advance(self, index: int, now_ms: int) -> None:
        self._sessions.expire(now_ms)
        self.log_time_ms = now_ms
        self.last_applied = index

    def _open_session(self, index: int, now_ms: int, arguments: Arguments) -> bytes:
        if arguments:
            result, _ = self._plan(_OPEN_SESSION, arguments)
            self._advance(index, now_ms)
            return result
        result = encode_result(_OK, index)
        self._advance(index, now_ms)
        self._sessions.open(index, now_ms)
        return result

    def _close_session(self, index: int, now_ms: int, session: Session) -> bytes:
        self._sessions.close(session.session_id)
        self._advance(index, now_ms)
        return _CLOSED

    def _plan(self, op: int, arguments: Arguments) -> tuple[bytes, Change | None]:
        """The result of a command, and what it changes if it changes anything. Touches nothing."""
        try:
            check_arguments(op, arguments)
            store = self._store
            if op == _SET:
                return encode_result(_OK, store.revision + 1), store.plan_set(*arguments)
            change = store.plan_delete(*arguments) if op == _DELETE else store.plan_cas(*arguments)
            done = change is not None
            return encode_result(_OK, done, store.revision + done), change
        except CodecError as error:
            return encode_result(ResultCode.BAD_COMMAND, str(error)), None
        except MemoryError:
            raise  # this node's trouble and not the command's: elsewhere the same entry goes through
        except Exception as error:
            # It would come again on every node and after every restart: so it is the command's answer, and the next
            # entry gets its turn. No more than the class is told, for a message may differ from node to node.
            return encode_result(ResultCode.BAD_COMMAND, f"the command failed: {type(error).__name__}"), None
