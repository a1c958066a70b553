"""Commands, queries and results of the key-value machine, to and from msgpack: the one place that knows their bytes.

Clients encode commands and queries and decode results; the state machine does the opposite. Everything between them
(frontend, log, transport) passes the bytes on unopened.

    command  [session, number, acknowledged, op, *arguments]
    batch    [session, first number, acknowledged, BATCH, [[op, *arguments], ...]]     several commands as one
    query    [query, *arguments]
    result   [code, *values]
    chunk    [kind, *fields]            a piece of a snapshot: `snapshot.py`

What is decoded comes from strangers: sizes are bounded before anything is allocated for them, and whatever does not
fit raises `CodecError` with words that can be handed to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import partial
from operator import itemgetter
from struct import Struct
from typing import Any

import msgpack

from zraft.enums import direct_members
from zraft.errors import ZraftError

MAX_KEY_BYTES = 4096
MAX_VALUE_BYTES = 1024 * 1024

# A range bound may be the successor of the longest key (`key + b"\0"`): that is how a reader asks for the next page.
MAX_BOUND_BYTES = MAX_KEY_BYTES + 1

# A piece of a snapshot has so many rows at most, so that making one takes about half a millisecond, and so many bytes.
MAX_CHUNK_ROWS = 256
MAX_CHUNK_BYTES = 8 * 1024 * 1024

# A batch is one log entry: applying it must not take long, nor what waits behind it.
MAX_BATCH_COMMANDS = 256

# The largest integer that msgpack carries.
_MAX_INTEGER = (1 << 64) - 1

Packer = msgpack.Packer  # one for each value, as `msgpack.packb` does it, without its detour
# No request has maps, and no array is longer than a batch: without these limits a few bytes of nested array headers
# would have msgpack allocate gigabytes.
unpack_fields = partial(msgpack.unpackb, use_list=False, max_array_len=MAX_BATCH_COMMANDS, max_map_len=0, max_ext_len=0)

Arguments = tuple[Any, ...]
Command = tuple[Any, ...]
"""A command in a batch: (op, \\*arguments)."""

Entry = tuple[bytes, bytes, int, int, int]
"""A key as results carry it: (key, value, create_revision, mod_revision, version)."""


class CodecError(ZraftError):
    """Bytes or values that are no command, query or result. `str()` says what was wrong and what was expected."""


@direct_members
class Op(IntEnum):
    """What a command does. OPEN_SESSION carries session 0 and number 0: it is what a session is made by. BATCH: several
    of SET, DELETE and CAS, each with the next number, an effect and an answer of its own."""

    OPEN_SESSION = 1
    CLOSE_SESSION = 2
    SET = 3
    DELETE = 4
    CAS = 5
    BATCH = 6


@direct_members
class Query(IntEnum):
    """What a query reads."""

    GET = 1
    RANGE = 2


@direct_members
class ResultCode(IntEnum):
    """How a command or query ended. Only OK means that it took effect now or, for a retry, when it was first applied.

    - OK: followed by the values of the operation.
    - SESSION_UNKNOWN: the session expired, was closed, or never existed; this copy had no effect.
    - BAD_COMMAND: followed by a text; the command or query is wrong in itself and had no effect.
    - ALREADY_ANSWERED: the client had said that it has this answer, so the answer was forgotten.
    - TOO_MANY_UNANSWERED: the session keeps as many answers as it may; acknowledge some, then retry. No effect.
    """

    OK = 0
    SESSION_UNKNOWN = 1
    BAD_COMMAND = 2
    ALREADY_ANSWERED = 3
    TOO_MANY_UNANSWERED = 4


# Looking an enum's member up costs more than the comparison; these are on the hot path.
_OPEN_SESSION, _SET, _BATCH = int(Op.OPEN_SESSION), int(Op.SET), int(Op.BATCH)
_BATCHED = frozenset(map(int, (Op.SET, Op.DELETE, Op.CAS)))
_GET = int(Query.GET)
_first = itemgetter(0)


# ---- commands ----------------------------------------------------------------------------------------------------


def encode_command(session: int, number: int, acknowledged: int, op: int, *arguments: bytes | None) -> bytes:
    """One command as log entries carry it.

    `session`: id of the client's session (0 only for OPEN_SESSION); `number`: 1, 2, 3.. within the session;
    `acknowledged`: the client has its answers to all numbers up to and including this one.
    Raises `CodecError` if a field or an argument is out of its limits.
    """
    op = int(op)
    check_envelope(session, number, acknowledged, op)
    check_arguments(op, arguments)
    return pack_command(session, number, acknowledged, op, arguments)


def pack_command(session: int, number: int, acknowledged: int, op: int, arguments: Arguments) -> bytes:
    """As `encode_command`, of what has been checked."""
    packed: bytes = Packer().pack((session, number, acknowledged, op, *arguments))
    return packed


def pack_batch(session: int, first: int, acknowledged: int, commands: Sequence[Command]) -> bytes:
    """Commands with the numbers from `first` on as one, of what has been checked: 1 to `MAX_BATCH_COMMANDS` of SET,
    DELETE and CAS, each as (op, \\*arguments)."""
    packed: bytes = Packer().pack((session, first, acknowledged, _BATCH, commands))
    return packed


def decode_command(data: bytes) -> tuple[int, int, int, int, Arguments]:
    """Return (session, number, acknowledged, op, arguments), all but the arguments checked.

    `op` may be one that is not known here, and the arguments are checked by `check_arguments`: such a command still
    belongs to a session, which keeps its answer. Of a BATCH, the one argument is a tuple of commands, of which only the
    arguments are unchecked. Raises `CodecError` if there is no such envelope.
    """
    fields = _unpack_request(data, "command")
    if len(fields) < 4:
        raise CodecError(f"a command has at least 4 fields (session, number, acknowledged, op), not {len(fields)}")
    session, number, acknowledged, op = fields[:4]
    # Once more what `check_envelope` says, in one expression: nearly all commands are right, and this is done for each.
    if not (
        type(session) is type(number) is type(acknowledged) is type(op) is int
        and session >= 0
        and 0 <= acknowledged < number
        and op != _OPEN_SESSION
    ):
        check_envelope(session, number, acknowledged, op)
    if op == _BATCH:
        _check_batch(number, fields[4:])
    return session, number, acknowledged, op, fields[4:]


def _check_batch(first: int, arguments: Arguments) -> None:
    """Raise `CodecError` unless this is a batch, its commands' arguments aside."""
    _check_count("a batch", arguments, 1, "[command, ...]")
    commands = arguments[0]
    if type(commands) is not tuple or set(map(type, commands)) != {tuple} or () in commands:
        raise CodecError("a batch takes an array of commands, each an array that begins with what it does")
    # In C, for there are many. Types first: 3.0 is 3 to a set, and a map is no member of one.
    if set(map(type, map(_first, commands))) != {int} or not _BATCHED.issuperset(map(_first, commands)):
        raise CodecError("a batch takes SET, DELETE and CAS alone")
    if first + len(commands) - 1 > _MAX_INTEGER:
        raise CodecError(f"numbers must be at most {_MAX_INTEGER}")


def columns_of_sets(commands: Sequence[Command]) -> tuple[Sequence[bytes], Sequence[bytes]] | None:
    """(keys, values) of a checked batch of right SETs alone, as nearly all are; None: something else is in it."""
    if set(map(len, commands)) != {3}:
        return None
    ops, keys, values = zip(*commands, strict=True)
    if (
        set(ops) == {_SET}
        and set(map(type, keys)) == set(map(type, values)) == {bytes}
        and max(map(len, keys)) <= MAX_KEY_BYTES
        and max(map(len, values)) <= MAX_VALUE_BYTES
    ):
        return keys, values
    return None


def check_envelope(session: object, number: object, acknowledged: object, op: object) -> None:
    """Raise `CodecError` unless the four fields that every command has are integers that fit each other."""
    # bool is an int to isinstance(), and msgpack keeps the two apart: so the exact type.
    if type(session) is not int or not 0 <= session <= _MAX_INTEGER:
        raise CodecError(f"session must be an integer from 0 to {_MAX_INTEGER}")
    if type(number) is not int or not 0 <= number <= _MAX_INTEGER:
        raise CodecError(f"number must be an integer from 0 to {_MAX_INTEGER}")
    if type(acknowledged) is not int or acknowledged < 0:
        raise CodecError(f"acknowledged must be an integer from 0 to {_MAX_INTEGER}")
    if type(op) is not int:
        raise CodecError("op must be an integer")
    if number <= acknowledged or op == _OPEN_SESSION:
        if op != _OPEN_SESSION:
            raise CodecError(f"number must be above acknowledged, not {number} with {acknowledged} acknowledged")
        if session or number or acknowledged:
            raise CodecError("opening a session takes session 0, number 0 and acknowledged 0")


def check_arguments(op: int, arguments: Arguments) -> None:
    """Raise `CodecError` unless `arguments` are what command `op` takes, in number, types and sizes."""
    check = _ARGUMENT_CHECKS.get(op)
    if check is None:
        raise CodecError(f"unknown command {op}; known are {', '.join(f'{o.value} ({o.name})' for o in Op)}")
    check(arguments)


def _check_none(arguments: Arguments) -> None:
    _check_count("opening or closing a session", arguments, 0, "none")


def _check_set(arguments: Arguments) -> None:
    if len(arguments) != 2:
        _check_count("set", arguments, 2, "key, value")
    key, value = arguments
    if type(key) is not bytes or len(key) > MAX_KEY_BYTES:
        check_key(key)
    if type(value) is not bytes or len(value) > MAX_VALUE_BYTES:
        check_value(value)


def _check_key_alone(arguments: Arguments) -> None:
    _check_count("get or delete", arguments, 1, "key")
    check_key(arguments[0])


def _check_cas(arguments: Arguments) -> None:
    _check_count("cas", arguments, 3, "key, expected, new")
    check_key(arguments[0])
    if arguments[1] is not None:
        check_value(arguments[1])
    check_value(arguments[2])


_ARGUMENT_CHECKS: dict[int, Callable[[Arguments], None]] = {
    Op.OPEN_SESSION: _check_none,
    Op.CLOSE_SESSION: _check_none,
    Op.SET: _check_set,
    Op.DELETE: _check_key_alone,
    Op.CAS: _check_cas,
}


# ---- queries -----------------------------------------------------------------------------------------------------


def encode_query(query: int, *arguments: bytes | int | None) -> bytes:
    """One query: GET takes (key), RANGE takes (start, end or None, limit, max_bytes). Raises `CodecError`."""
    query = int(query)
    check_query(query, arguments)
    packed: bytes = Packer().pack((query, *arguments))
    return packed


def decode_query(data: bytes) -> tuple[int, Arguments]:
    """Return (query, arguments), both checked. Raises `CodecError`."""
    fields = _unpack_request(data, "query")
    if not fields or type(fields[0]) is not int:
        raise CodecError("a query begins with an integer that says what it reads")
    check_query(fields[0], fields[1:])
    return fields[0], fields[1:]


def check_query(query: int, arguments: Arguments) -> None:
    """Raise `CodecError` unless `arguments` are what `query` takes, in number, types and sizes."""
    if query == _GET:
        _check_key_alone(arguments)
    elif query == Query.RANGE:
        _check_range(arguments)
    else:
        raise CodecError(f"unknown query {query}; known are {', '.join(f'{q.value} ({q.name})' for q in Query)}")


def _check_range(arguments: Arguments) -> None:
    _check_count("range", arguments, 4, "start, end, limit, max_bytes")
    start, end, limit, max_bytes = arguments
    _check_bytes("range start", start, MAX_BOUND_BYTES)
    if end is not None:
        _check_bytes("range end", end, MAX_BOUND_BYTES)
    for name, bound in (("limit", limit), ("max_bytes", max_bytes)):
        if type(bound) is not int or not 1 <= bound <= _MAX_INTEGER:
            raise CodecError(f"range {name} must be an integer from 1 to {_MAX_INTEGER}")


def prefix_end(prefix: bytes) -> bytes | None:
    """The `end` of the RANGE from `prefix` that holds exactly the keys beginning with it; None: to the end of keys."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else None


# ---- results -----------------------------------------------------------------------------------------------------


def encode_result(code: int, *values: object) -> bytes:
    """The answer to one command or query."""
    packed: bytes = Packer().pack((code, *values))
    return packed


_SMALL_REVISION, _LARGE_REVISION = 1 << 16, 1 << 32
_REVISION = Struct(">HBI").pack


def encode_revisions(first: int, count: int) -> list[bytes]:
    """As `encode_result(OK, revision)`, for `count` revisions from `first` on: what sets are answered."""
    if _SMALL_REVISION <= first < _LARGE_REVISION - count:
        # Put together by hand, for there are many: [0, unsigned integer of 32 bits].
        return [_REVISION(0x9200, 0xCE, revision) for revision in range(first, first + count)]
    return [encode_result(ResultCode.OK, revision) for revision in range(first, first + count)]


def batch_results(result: tuple[Any, ...], count: int) -> Sequence[bytes]:
    """The results of the `count` commands of a batch, from its own, which is OK. Raises `CodecError`."""
    if len(result) < 2 or type(result[1]) is not tuple or len(result[1]) != count:
        raise CodecError(f"not the results of {count} commands")
    if set(map(type, result[1])) != {bytes}:
        raise CodecError("a result that is no bytes")
    return result[1]


def decode_result(data: bytes) -> tuple[Any, ...]:
    """Return (code, \\*values); arrays within come as tuples, so an entry is an `Entry`. Raises `CodecError`.

    A code that is not in `ResultCode` is handed on: it is one of a newer version.
    """
    try:
        fields = msgpack.unpackb(data, use_list=False, max_map_len=0, max_ext_len=0)
    except Exception as error:  # msgpack has no common base for what damaged bytes raise
        raise CodecError(f"not a result: {_reason(error)}") from error
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise CodecError("not a result: expected an array that begins with an integer code")
    return fields


# ---- pieces of a snapshot ----------------------------------------------------------------------------------------


def encode_chunk(kind: int, *fields: object) -> bytes:
    """One piece of a snapshot. Equal fields give equal bytes."""
    packed: bytes = msgpack.packb((kind, *fields))
    return packed


def decode_chunk(data: bytes) -> tuple[Any, ...]:
    """Return (kind, \\*fields), the fields unchecked; arrays within come as tuples. Raises `CodecError`."""
    if len(data) > MAX_CHUNK_BYTES:
        raise CodecError(f"{len(data)} bytes; the limit is {MAX_CHUNK_BYTES}")
    try:
        fields = msgpack.unpackb(data, use_list=False, max_array_len=MAX_CHUNK_ROWS, max_map_len=0, max_ext_len=0)
    except Exception as error:  # msgpack has no common base for what damaged bytes raise
        raise CodecError(_reason(error)) from error
    if type(fields) is not tuple or not fields or type(fields[0]) is not int:
        raise CodecError("expected an array that begins with an integer")
    return fields


# ---- checks ------------------------------------------------------------------------------------------------------


def check_key(key: object) -> None:
    """Raise `CodecError` unless `key` is bytes of at most `MAX_KEY_BYTES`. The empty key is a key."""
    if type(key) is not bytes or len(key) > MAX_KEY_BYTES:
        _check_bytes("key", key, MAX_KEY_BYTES)


def check_value(value: object) -> None:
    """Raise `CodecError` unless `value` is bytes of at most `MAX_VALUE_BYTES`."""
    if type(value) is not bytes or len(value) > MAX_VALUE_BYTES:
        _check_bytes("value", value, MAX_VALUE_BYTES)


def _check_bytes(name: str, field: object, limit_bytes: int) -> None:
    if not isinstance(field, bytes):
        raise CodecError(f"{name} must be bytes, not {type(field).__name__}")
    if len(field) > limit_bytes:
        raise CodecError(f"{name} has {len(field)} bytes; the limit is {limit_bytes}")


def _check_count(name: str, arguments: Arguments, count: int, expected: str) -> None:
    if len(arguments) != count:
        raise CodecError(f"{name} takes {count} arguments ({expected}), not {len(arguments)}")


def _unpack_request(data: bytes, what: str) -> tuple[Any, ...]:
    try:
        fields = unpack_fields(data)
    except MemoryError:
        raise  # this node's trouble and not the request's: elsewhere the same bytes go through
    except Exception as error:  # msgpack has no common base for what damaged bytes raise
        raise CodecError(f"not a {what}: {_reason(error)}") from error
    if type(fields) is not tuple:
        raise CodecError(f"not a {what}: expected an array, not {type(fields).__name__}")
    return fields


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
