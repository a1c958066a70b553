"""Messages <-> bytes (msgpack): the one place that encodes. docs/PROTOCOL.md describes the two public formats.

Three layers use it: the bus inside a node (trusted, same process), the frames between peers, and the frames
between clients and nodes. What comes over TCP is checked here, type by type: whatever does not fit raises
`WireError`, and the caller drops and counts it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, get_type_hints

import msgpack

from zraft.enums import direct_members
from zraft.errors import ZraftError
from zraft.messages import BUS_MESSAGES, PEER_MESSAGES, AppendEntries, Entry

CLIENT_VERSION = 1
PEER_VERSION = 2  # 1 knew no batches, nor states of format 2
MAX_FRAME_BYTES = 8 * 1024 * 1024
MAX_REQUESTS_PER_FRAME = 1024
MAX_ARRAY = 16 * 1024  # elements; a run of log entries has fewer (raft.log.MAX_RUN_BYTES)

Packer = msgpack.Packer  # one for each value: they are not for several threads
unpackb = msgpack.unpackb
_new = tuple.__new__  # of a NamedTuple, where the fields have been counted: quicker than its _make


class WireError(ZraftError):
    """A frame that is not what it should be. The message says in a few words what is wrong."""


def _unpack(frame: bytes, max_array: int = MAX_ARRAY) -> Any:
    """Decode one msgpack value, tuples for arrays. Raises WireError for anything that is none.

    max_array: msgpack makes room for as many elements as an array claims to have, at each level of nesting."""
    try:
        return unpackb(frame, use_list=False, raw=False, max_array_len=max_array, max_map_len=0, max_ext_len=0)
    except Exception as error:  # msgpack raises half a dozen unrelated classes for bad input
        raise WireError(f"not msgpack: {type(error).__name__}") from None


# --- the bus ---------------------------------------------------------------------------------------------------

_BUS_TAGS = {cls: tag for tag, cls in enumerate(BUS_MESSAGES)}
_BUS_MAKERS = [cls._make for cls in BUS_MESSAGES]


def pack_bus(sender: str, incarnation: int, to_incarnation: int, message: Any) -> bytes:
    """The envelope of the bus around one message of `messages.BUS_MESSAGES`."""
    return Packer().pack((sender, incarnation, to_incarnation, _BUS_TAGS[type(message)], message))


def unpack_bus(frame: bytes) -> tuple[str, int, int, Any]:
    """(sender, sender's incarnation, receiver's incarnation as the sender knew it, message)."""
    sender, incarnation, to_incarnation, tag, fields = unpackb(frame, use_list=False)
    return sender, incarnation, to_incarnation, _BUS_MAKERS[tag](fields)


# --- log entries -----------------------------------------------------------------------------------------------


def pack_entries(entries: Sequence[Entry]) -> bytes:
    """A run of consecutive entries, as it is sent, stored and applied: encoded once, passed on unopened."""
    return Packer().pack(entries)


def unpack_entries(blob: bytes) -> list[Entry]:
    """The reverse, for what this process or its disk (with a CRC) holds. Raises WireError for anything else."""
    return [_new(Entry, fields) for fields in unpack_rows(blob)]


def unpack_rows(blob: bytes) -> Sequence[tuple[int, int, int, bytes]]:
    """As `unpack_entries`, but plain tuples of the entries' fields."""
    rows: Sequence[tuple[int, int, int, bytes]] = _unpack(blob)
    try:
        if set(map(len, rows)) <= _ENTRY_LENGTHS:
            return rows
    except TypeError:
        pass
    raise WireError("not a list of log entries")


_ENTRY_TYPES = (int, int, int, bytes)
_ENTRY_LENGTHS = {len(_ENTRY_TYPES)}
_ENTRY_COLUMNS = [{kind} for kind in _ENTRY_TYPES]


def _check_entries(entries: Iterable[Entry]) -> None:
    columns = list(zip(*entries, strict=True))
    if [set(map(type, column)) for column in columns] != _ENTRY_COLUMNS[: len(columns)] or any(
        min(column) < 0 for column in columns[:2]
    ):
        raise WireError("a log entry with wrong fields")


# --- between peers ---------------------------------------------------------------------------------------------

_PEER_TAGS = {cls: tag for tag, cls in enumerate(PEER_MESSAGES)}


def _peer_field_types() -> list[tuple[type, ...]]:
    types = []
    for cls in PEER_MESSAGES:
        hints = get_type_hints(cls)
        types.append(tuple(bytes if name == "entries" else hints[name] for name in cls._fields))
    return types


_PEER_TYPES = _peer_field_types()
_PEER_NUMBERS = [tuple(position for position, kind in enumerate(types) if kind is int) for types in _PEER_TYPES]
_APPEND_ENTRIES = _PEER_TAGS[AppendEntries]


class EntriesCache:
    """Remembers the last encoded run, and the last AppendEntries, so that one append is encoded once for the disk and
    all followers.

    Keyed by the identity of the tuple (which the cache keeps alive): raft hands out the same tuple for the same run.
    """

    def __init__(self) -> None:
        self._entries: Sequence[Entry] = ()
        self._blob = pack_entries(())
        self._append: tuple[Any, ...] = ()  # its fields but the entries
        self._body = b""

    def pack(self, entries: Sequence[Entry]) -> bytes:
        """As `pack_entries`."""
        if entries is not self._entries:
            self._entries, self._blob = entries, pack_entries(entries)
            self._append = ()
        return self._blob

    def pack_append(self, message: AppendEntries) -> bytes:
        """As `pack_peer`. Followers that keep up are sent the same."""
        blob = self.pack(message.entries)
        fields = message[:4]
        if fields != self._append:
            self._append, self._body = fields, Packer().pack((_APPEND_ENTRIES, *fields, blob))
        return self._body


def pack_peer(message: Any, cache: EntriesCache) -> bytes:
    """One message of `messages.PEER_MESSAGES`: [tag, *fields]; entries are a nested encoded run."""
    if type(message) is AppendEntries:
        return cache.pack_append(message)
    return Packer().pack((_PEER_TAGS[type(message)], *message))


def unpack_peer(body: bytes) -> Any:
    """The reverse, checked. Raises WireError."""
    fields = _unpack(body)
    if type(fields) is not tuple or not fields or type(fields[0]) is not int or not 0 <= fields[0] < len(_PEER_TYPES):
        raise WireError("no message that this version knows")
    tag = fields[0]
    types = _PEER_TYPES[tag]
    fields = fields[1 : len(types) + 1]  # what a later version adds at the end, this one does without
    if (*map(type, fields),) != types:
        raise WireError(f"{PEER_MESSAGES[tag].__name__} with wrong fields")
    for position in _PEER_NUMBERS[tag]:
        if fields[position] < 0:
            raise WireError(f"{PEER_MESSAGES[tag].__name__} with a negative number")
    if tag == _APPEND_ENTRIES:
        entries = tuple(unpack_entries(fields[4]))
        _check_entries(entries)
        return _new(AppendEntries, (*fields[:4], entries))
    return _new(PEER_MESSAGES[tag], fields)


class PeerFrame(NamedTuple):
    """What one TCP frame between nodes says: of which cluster it is (0: the sender knows none yet); from whom, with
    which data directory (its store id), listening where; to whom, with which data directory as far as the sender knows
    (0: it does not); which messages. receiver "": whoever listens there."""

    cluster_id: int
    sender: str
    store_id: int
    address: str
    receiver: str
    receiver_store_id: int
    bodies: tuple[bytes, ...]


_FRAME_TYPES = (int, int, str, int, str, str, int, tuple)


def pack_peer_frame(frame: PeerFrame) -> bytes:
    """[version, cluster id, sender, its store id, its address, receiver, its store id, [body, ...]]."""
    return Packer().pack((PEER_VERSION, *frame))


def unpack_peer_frame(frame: bytes) -> PeerFrame:
    """The reverse, checked, bodies unopened. Raises WireError."""
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {len(frame)} bytes (at most {MAX_FRAME_BYTES})")
    fields = _unpack(frame)
    if type(fields) is not tuple or not fields:
        raise WireError("no peer frame")
    if fields[0] != PEER_VERSION:
        raise WireError(f"version {str(fields[0])[:20]} (this node speaks {PEER_VERSION})")
    fields = fields[: len(_FRAME_TYPES)]  # as in unpack_peer
    if (*map(type, fields),) != _FRAME_TYPES:
        raise WireError("a peer frame with wrong fields")
    for body in fields[7]:
        if type(body) is not bytes:
            raise WireError("a peer frame with wrong fields")
    return _new(PeerFrame, fields[1:])


def peek_bodies(frame: bytes) -> tuple[bytes, ...]:
    """The bodies in a frame of `pack_peer_frame`. For an onlooker in this process: it checks nothing."""
    bodies: tuple[bytes, ...] = unpackb(frame, use_list=False)[7]
    return bodies


def peek_peer(body: bytes) -> Any:
    """The message in a body of `pack_peer`; an AppendEntries with its entries unopened. Checks nothing, either."""
    fields = unpackb(body, use_list=False)
    return _new(PEER_MESSAGES[fields[0]], fields[1:])


# --- between clients and nodes ---------------------------------------------------------------------------------


@direct_members
class RequestKind(IntEnum):
    """What a client asks."""

    WRITE = 1  # body: a command of the state machine
    READ = 2  # body: a query of the state machine; linearizable
    STATUS = 3  # body: empty; answered by this node about itself, UTF-8 JSON
    TRANSFER = 4  # body: UTF-8 node id, or empty: the leader hands leadership over
    CHAOS = 5  # body: UTF-8 JSON: a fault to inject, where the config allows it
    PING = 6  # body: empty; answered at once
    COMPACT = 7  # body: JSON, {"revision": of a state that the snapshot shall not be older than}: this node takes one
    SNAPSHOT = 8  # body: JSON, {"index": of a snapshot, 0 for the newest, "offset": of the wanted bytes}
    MEMBERS = 9  # body: UTF-8 JSON: a change of members (raft.change); the leader answers JSON, {"index": of its entry}
    ENDPOINTS = 10  # body: empty; answered by this node: UTF-8 JSON, a list of the members' client endpoints
    READ_IN_TERM = 11  # as READ, by who asks another voter at the same time for its TERM; answered IN_TERM, or as READ
    TERM = 12  # body: empty; answered by this node: pack_statement, or nothing if it cannot say


@direct_members
class ReplyStatus(IntEnum):
    """What became of a request."""

    OK = 0  # body: the result
    NOT_LEADER = 1  # body: UTF-8 client endpoint of the leader, or empty; this copy was not appended
    BUSY = 2  # this copy was not appended; try again in a little while
    UNKNOWN = 3  # this copy may or may not take effect; ask again
    INVALID = 4  # body: UTF-8 text; malformed or too large, final
    REFUSED = 5  # body: UTF-8 text; an admin request that is not granted, final
    IN_TERM = 6  # body: pack_condition, then the result, which is only valid if the condition holds


class ReplyFrame(NamedTuple):
    """life: random, the frontend's present life. items: (request id, ReplyStatus, body), ..."""

    life: int
    items: tuple[tuple[int, int, bytes], ...]


def pack_piece(index: int, offset: int, size: int, data: bytes) -> bytes:
    """Body of the reply to SNAPSHOT: some bytes, from offset on, of the snapshot of index, which has size bytes."""
    return Packer().pack((index, offset, size, data))


def unpack_piece(body: bytes) -> tuple[int, int, int, bytes]:
    """The reverse, checked. Raises WireError."""
    fields = _unpack(body)
    if type(fields) is not tuple or tuple(map(type, fields)) != (int, int, int, bytes) or min(fields[:3]) < 0:
        raise WireError("no piece of a snapshot")
    index, offset, size, data = fields
    return index, offset, size, data


class Statement(NamedTuple):
    """What a node says of itself when it is asked for its TERM: its cluster, its data directory, its present term."""

    cluster_id: int
    store_id: int
    term: int


def pack_statement(statement: Statement) -> bytes:
    """[cluster id, store id, term]."""
    return Packer().pack(statement)


def unpack_statement(body: bytes) -> Statement | None:
    """The reverse, checked; None for a node that cannot say. Raises WireError."""
    if not body:
        return None
    fields = _first_three(_unpack(body))
    if (*map(type, fields),) != (int, int, int) or min(fields) < 1:
        raise WireError("no statement of a term")
    return Statement(*fields)


def _first_three(fields: Any) -> tuple[Any, ...]:
    """As in unpack_peer: what a later version adds is left out."""
    return fields[:3] if type(fields) is tuple else ()


class Condition(NamedTuple):
    """Of an answer of the leader of `term`: one of the nodes with these data directories was still in that term at some
    time after the question. Each of them is a quorum together with the leader."""

    cluster_id: int
    term: int
    stores: tuple[int, ...]

    def holds(self, statement: Statement | None) -> bool:
        """Whether a node that was asked at that time or later fulfils it."""
        return (
            statement is not None
            and statement.term == self.term
            and statement.cluster_id == self.cluster_id
            and statement.store_id in self.stores
        )


def pack_condition(condition: Condition) -> bytes:
    """Its length in two bytes, then [cluster id, term, [store id, ...]]."""
    packed = Packer().pack(condition)
    return len(packed).to_bytes(2, "big") + packed


def split_condition(body: bytes) -> tuple[Condition, bytes]:
    """(condition, result) of the reply IN_TERM, the condition checked. Raises WireError."""
    end = 2 + int.from_bytes(body[:2], "big")
    fields = _first_three(_unpack(body[2:end]))
    if (*map(type, fields),) != (int, int, tuple) or min(fields[:2]) < 1 or not set(map(type, fields[2])) <= {int}:
        raise WireError("no condition before an answer")
    return Condition(*fields), body[end:]


def pack_requests(items: Sequence[tuple[int, int, bytes]]) -> bytes:
    """[version, [[request id, RequestKind, body], ...]]."""
    return Packer().pack((CLIENT_VERSION, items))


def unpack_requests(frame: bytes) -> tuple[tuple[int, int, bytes], ...]:
    """The reverse, checked. Raises WireError."""
    fields = _client_fields(frame, 2)
    items: tuple[tuple[int, int, bytes], ...] = fields[1]
    if len(items) > MAX_REQUESTS_PER_FRAME:
        raise WireError(f"{len(items)} requests in a frame (at most {MAX_REQUESTS_PER_FRAME})")
    return items


def pack_replies(life: int, items: Sequence[tuple[int, int, bytes]]) -> bytes:
    """[version, life, [[request id, ReplyStatus, body], ...]]."""
    return Packer().pack((CLIENT_VERSION, life, items))


def unpack_replies(frame: bytes) -> ReplyFrame:
    """The reverse, checked. Raises WireError."""
    fields = _client_fields(frame, 3)
    if type(fields[1]) is not int:
        raise WireError("a client frame with wrong fields")
    return ReplyFrame(fields[1], fields[2])


_ITEM_TYPES = (int, int, bytes)


def _client_fields(frame: bytes, length: int) -> tuple[Any, ...]:
    """Split a client frame of `length` fields, the last of which is a list of (int, int, bytes)."""
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {len(frame)} bytes (at most {MAX_FRAME_BYTES})")
    fields: tuple[Any, ...] = _unpack(frame)
    if type(fields) is not tuple or not fields:
        raise WireError("no client frame")
    if fields[0] != CLIENT_VERSION:
        raise WireError(f"version {str(fields[0])[:20]} (this side speaks {CLIENT_VERSION})")
    if len(fields) != length or type(fields[-1]) is not tuple:
        raise WireError("a client frame with wrong fields")
    for item in fields[-1]:
        if type(item) is not tuple or (*map(type, item),) != _ITEM_TYPES or item[0] < 0:
            raise WireError("a client frame with wrong fields")
    return fields
