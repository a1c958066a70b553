"""The state machine that zraft replicates: committed log entries in, answers out.

Two machines that applied the same entries are equal, whatever computer, process or Python they ran on, and so are
their answers and their `state_hash`.
"""

from __future__ import annotations

from collections.abc import Sequence

from zraft.errors import impossible
from zraft.statemachine.codec import (
    Arguments,
    CodecError,
    Command,
    Op,
    Query,
    ResultCode,
    check_arguments,
    columns_of_sets,
    decode_command,
    decode_query,
    encode_result,
    encode_revisions,
)
from zraft.statemachine.frozen import FrozenState, hash_state
from zraft.statemachine.sessions import Answers, Session, Sessions
from zraft.statemachine.store import Plan, Store

# Looking an enum's member up costs more than the comparison, and these are compared for every entry.
_OPEN_SESSION, _CLOSE_SESSION = int(Op.OPEN_SESSION), int(Op.CLOSE_SESSION)
_SET, _DELETE, _BATCH = int(Op.SET), int(Op.DELETE), int(Op.BATCH)
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
        self.commands = 0
        """How many this machine has applied since it was made; those of a batch count one by one."""
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
        if op == _CLOSE_SESSION and not arguments and number > session.acknowledged and number not in session.answers:
            return self._close_session(index, now_ms, session)
        plan = self._store.plan()
        fresh: Answers = {}
        if op == _BATCH:
            answers = self._answer_batch(session, number, acknowledged, arguments[0], plan, fresh)
            answer = encode_result(_OK, answers)
        else:
            answer = self._answer(session, number, session.room(acknowledged, 1), op, arguments, plan, fresh)
        self._sessions.keep(session)
        # From here on nothing is computed any more, only assigned.
        if plan.records:
            self._store.commit(plan)
        self._sessions.use(session, index, now_ms, acknowledged)
        session.record(fresh)
        self.commands += len(arguments[0]) if op == _BATCH else 1
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
            result = self._execute(_OPEN_SESSION, arguments, self._store.plan())
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

    def _answer_batch(
        self, session: Session, first: int, acknowledged: int, commands: Sequence[Command], plan: Plan, fresh: Answers
    ) -> Sequence[bytes]:
        """The results of the commands of a batch, which `_answer` tells; nearly all batches are sets that are right and
        come for the first time, and for these the same is found out for all at once."""
        count = len(commands)
        columns = columns_of_sets(commands) if session.expects(first, count) else None
        if columns is not None:
            try:
                answers = encode_revisions(plan.revision + 1, count)
                plan.set_all(*columns)
            except MemoryError:
                raise  # see _execute
            except Exception:
                plan.clear()  # each command finds out for itself, and the one that it comes from fails alone
            else:
                fresh.update(zip(range(first, first + count), answers, strict=True))
                return answers
        room = session.room(acknowledged, count)
        return [
            self._answer(session, number, room, command[0], command[1:], plan, fresh)
            for number, command in enumerate(commands, start=first)
        ]

    def _answer(
        self,
        session: Session,
        number: int,
        room: int,
        op: int,
        arguments: Arguments,
        plan: Plan,
        fresh: Answers,
    ) -> bytes:
        """The result of one command, which may be one of earlier. What it changes goes into `plan`, and its answer into
        `fresh`, which has room for so many, if it is executed now. Touches nothing else."""
        answer = session.answers.get(number)
        if answer is not None:
            return answer
        if number <= session.acknowledged:
            return _ALREADY_ANSWERED
        if len(fresh) >= room:
            return _TOO_MANY_UNANSWERED
        fresh[number] = answer = self._execute(op, arguments, plan)
        return answer

    def _execute(self, op: int, arguments: Arguments, plan: Plan) -> bytes:
        try:
            check_arguments(op, arguments)
            if op == _SET:
                answer = encode_result(_OK, plan.revision + 1)
                plan.set(*arguments)
                return answer
            done = plan.delete(*arguments) if op == _DELETE else plan.cas(*arguments)
            return encode_result(_OK, done, plan.revision)
        except CodecError as error:
            return encode_result(ResultCode.BAD_COMMAND, str(error))
        except MemoryError:
            raise  # this node's trouble and not the command's: elsewhere the same entry goes through
        except Exception as error:
            # It would come again on every node and after every restart: so it is the command's answer, and the next
            # entry gets its turn. No more than the class is told, for a message may differ from node to node.
            return encode_result(ResultCode.BAD_COMMAND, f"the command failed: {type(error).__name__}")
