"""Bytes of the log's segment files, format version 1. Pure: no file is touched here.

A segment is a header block, a mark block, then records, then zeros up to the file's preallocated size. Little endian.

    0     header   written and synced before the file gets its name, never changed:
                   magic, version, CRC32 of the rest of the block; number of the segment, store id, cluster id,
                   where the previous segment ends, CRC of its last record, the hard state so far
    4096  mark     rewritten after each fsync, itself not synced: everything before this offset is durable; CRC32
    8192  records  each begins at a multiple of 8

A record is 32 bytes of header and a body:

    magic   4   so that records behind a damaged one can be found
    check   4   CRC32 of the 20 bytes from `length` on, begun with `crc` and the identity of the store and the segment:
                it tells a record's header from user data that looks like one
    crc     4   CRC32 of those 20 bytes and the body, begun with the previous record's `crc`: a record is only valid
                behind the one it was written behind, so the rest of an overwritten tail can never come back
    length  4   bytes of the body
    durable 8   everything before this offset of the segment was durable when the record was written
    attempt 4   how often an append ran into a full disk before, so that what such a one left behind never chains
    kind    1   and 3 bytes of zeros

Body of a batch: first index 8, term 8, count 4, flags 4 (bit 0: marked), payload. Body of a hard state: term 8, length
of the vote 2 (0xFFFF: none), vote in UTF-8. Body of a reset: index 8, term 8; the log is empty from there on, and
begins after that index, whose term it was.

A log may lack its oldest segments: they were compacted. The header of the oldest one left has all that is needed of
what came before, and its first valid entry is the base.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple
from zlib import crc32

from zraft.enums import direct_members
from zraft.errors import impossible

VERSION = 1
HEADER_BYTES = 4096
MARK_OFFSET = 4096
DATA_START = 8192
MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
MAX_NODE_ID_BYTES = 1024

_SEGMENT_MAGIC = b"zraftwal"
_RECORD_MAGIC = b"zRec"
_NO_VOTE = 0xFFFF

_PREAMBLE = struct.Struct("<8sII")
_HEADER = struct.Struct("<QQQQIBQH")
_MARK = struct.Struct("<QI")
_OFFSET = struct.Struct("<Q")
_CHECKS = struct.Struct("<4sII")
_RECORD = struct.Struct("<4sIIIQIB3x")
_TAIL = struct.Struct("<IQIB3x")
_BATCH_TAIL = struct.Struct("<IQIB3xQQII")
_BATCH = struct.Struct("<QQII")
_HARD_STATE = struct.Struct("<QH")
_RESET = struct.Struct("<QQ")
_MARKED = 1
_ZEROS = bytes(64 * 1024)
_PADDING = (b"", b"\0" * 7, b"\0" * 6, b"\0" * 5, b"\0" * 4, b"\0" * 3, b"\0" * 2, b"\0")

RECORD_HEADER_BYTES = _RECORD.size
BATCH_BODY_BYTES = _BATCH.size


class HardState(NamedTuple):
    """What a node must never forget of an election: the latest term it has seen, and whom it voted for in it."""

    term: int
    voted_for: str | None


class Batch(NamedTuple):
    """Consecutive entries of one term, encoded by someone else: `first_index`, `first_index + 1`, ... `count` of them.

    After a logical truncation `count` may be smaller than the number of entries in `payload`; only the first
    `count` are valid then. `marked`: its owner wants to find it without reading the whole log.
    """

    first_index: int
    count: int  # type: ignore[assignment]  # hides tuple.count, which nobody needs here
    term: int
    payload: bytes
    marked: bool = False


@direct_members
class Kind(IntEnum):
    """What a record's body is."""

    BATCH = 1
    HARD_STATE = 2
    RESET = 3


class SegmentHeader(NamedTuple):
    """The decoded header block. `seed`: CRC that the first record is chained to. `previous_end`: 0 in the first one."""

    number: int
    store_id: int
    cluster_id: int
    previous_end: int
    seed: int
    hard_state: HardState | None


class Record(NamedTuple):
    """A record whose header is in order. `end`: offset where the next one begins. `body`: offset of the body."""

    crc: int
    length: int
    durable: int
    kind: int
    body: int
    end: int


class UnknownVersion(Exception):
    """The header block names a version that this code does not know."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


def identity_of(store_id: int, number: int) -> int:
    """A number that ties record headers and marks to one segment of one store."""
    return crc32(_OFFSET.pack(number), crc32(_OFFSET.pack(store_id)))


def first_seed(store_id: int) -> int:
    """What the very first record of a store is chained to."""
    return crc32(b"zraft", crc32(_OFFSET.pack(store_id)))


def encode_header(header: SegmentHeader) -> bytes:
    """The header block, `HEADER_BYTES` long."""
    number, store_id, cluster_id, previous_end, seed, hard_state = header
    term, vote_length, vote = (0, _NO_VOTE, b"") if hard_state is None else _split_hard_state(hard_state)
    known = hard_state is not None
    fields = _HEADER.pack(number, store_id, cluster_id, previous_end, seed, known, term, vote_length) + vote
    rest = fields.ljust(HEADER_BYTES - _PREAMBLE.size, b"\0")
    return _PREAMBLE.pack(_SEGMENT_MAGIC, VERSION, crc32(rest)) + rest


def decode_header(block: bytes) -> SegmentHeader | None:
    """The header, or None where the block is damaged. Raises `UnknownVersion`."""
    if len(block) != HEADER_BYTES:
        return None
    magic, version, checksum = _PREAMBLE.unpack_from(block)
    if magic != _SEGMENT_MAGIC:
        return None
    if version != VERSION:
        raise UnknownVersion(version)
    if crc32(block[_PREAMBLE.size :]) != checksum:
        return None
    number, store_id, cluster_id, previous_end, seed, known, term, vote_length = _HEADER.unpack_from(
        block, _PREAMBLE.size
    )
    hard_state = None
    if known:
        begin = _PREAMBLE.size + _HEADER.size
        hard_state = _join_hard_state(term, vote_length, block[begin:])
    return SegmentHeader(number, store_id, cluster_id, previous_end, seed, hard_state)


def encode_mark(durable: int, identity: int) -> bytes:
    """The mark: everything before `durable` is on disk."""
    offset = _OFFSET.pack(durable)
    return _MARK.pack(durable, crc32(offset, identity))


def decode_mark(data: bytes, identity: int) -> int:
    """The durable offset, or 0 where the mark is missing, torn or damaged."""
    if len(data) < _MARK.size:
        return 0
    durable, checksum = _MARK.unpack_from(data)
    return int(durable) if crc32(data[: _OFFSET.size], identity) == checksum else 0


MARK_BYTES = _MARK.size


def batch_record_bytes(payload_bytes: int) -> int:
    """Bytes that a batch takes in a segment, padding included."""
    return (RECORD_HEADER_BYTES + BATCH_BODY_BYTES + payload_bytes + 7) & ~7


def hard_state_record_bytes(hard_state: HardState) -> int:
    """Bytes that a hard state takes in a segment, padding included."""
    return (RECORD_HEADER_BYTES + _HARD_STATE.size + len(_split_hard_state(hard_state)[2]) + 7) & ~7


RESET_RECORD_BYTES = RECORD_HEADER_BYTES + _RESET.size


class Encoder:
    """Encodes the records of one gathered write. `crc` is the chain's end: what the next record is chained to."""

    __slots__ = ("_attempt", "_durable", "_identity", "crc", "parts")

    def __init__(self, crc: int, durable: int, attempt: int, identity: int) -> None:
        self.crc = crc
        self.parts: list[bytes] = []
        self._durable = durable
        self._attempt = attempt
        self._identity = identity

    def add_batch(self, batch: Batch) -> None:
        first_index, count, term, payload, marked = batch
        length = BATCH_BODY_BYTES + len(payload)
        flags = _MARKED if marked else 0
        tail = _BATCH_TAIL.pack(length, self._durable, self._attempt, Kind.BATCH, first_index, term, count, flags)
        self.crc = crc = crc32(payload, crc32(tail, self.crc))
        check = crc32(tail[: _TAIL.size], crc ^ self._identity)
        self.parts += (_CHECKS.pack(_RECORD_MAGIC, check, crc), tail, payload, _PADDING[length & 7])

    def add_hard_state(self, hard_state: HardState) -> None:
        term, vote_length, vote = _split_hard_state(hard_state)
        self._add(Kind.HARD_STATE, _HARD_STATE.pack(term, vote_length) + vote)

    def add_reset(self, index: int, term: int) -> None:
        self._add(Kind.RESET, _RESET.pack(index, term))

    def _add(self, kind: Kind, body: bytes) -> None:
        tail = _TAIL.pack(len(body), self._durable, self._attempt, kind)
        self.crc = crc = crc32(body, crc32(tail, self.crc))
        check = crc32(tail, crc ^ self._identity)
        self.parts += (_CHECKS.pack(_RECORD_MAGIC, check, crc), tail, body, _PADDING[len(body) & 7])


def record_header_at(data: bytes, offset: int, identity: int) -> Record | None:
    """The record whose header is at `offset` of `data`, or None if there is none. Its body is not looked at."""
    body = offset + RECORD_HEADER_BYTES
    if body > len(data):
        return None
    magic, check, crc, length, durable, _attempt, kind = _RECORD.unpack_from(data, offset)
    if magic != _RECORD_MAGIC or crc32(data[body - _TAIL.size : body], crc ^ identity) != check:
        return None
    return Record(crc, length, durable, kind, body, (body + length + 7) & ~7)


def record_at(data: bytes, offset: int, identity: int, seed: int) -> Record | None:
    """The record at `offset` of `data` if it is whole and chained to `seed`, else None."""
    record = record_header_at(data, offset, identity)
    if record is None or record.end > len(data):
        return None
    body_end = record.body + record.length
    with memoryview(data) as view:
        return record if crc32(view[record.body - _TAIL.size : body_end], seed) == record.crc else None


def content_end(data: bytes, begin: int) -> int:
    """Offset in `data` behind which, from `begin` on, all is zeros."""
    end = len(data)
    while end - begin > len(_ZEROS) and data[end - len(_ZEROS) : end] == _ZEROS:
        end -= len(_ZEROS)
    return begin + len(data[begin:end].rstrip(b"\0"))


def durable_claim(data: bytes, begin: int, end: int, identity: int) -> int:
    """The largest durable offset that any record header in `data[begin:end]` names; 0 if there is none."""
    claim = 0
    position = data.find(_RECORD_MAGIC, begin, end)
    while position >= 0:
        if position % 8 == 0:
            record = record_header_at(data, position, identity)
            if record is not None:
                claim = max(claim, record.durable)
        position = data.find(_RECORD_MAGIC, position + 1, end)
    return claim


def batch_fields(data: bytes, record: Record) -> tuple[int, int, int, bool]:
    """(first_index, term, count, marked) of a batch record; its payload begins `BATCH_BODY_BYTES` into the body.

    Raises `UnknownVersion` on a flag that this version does not know.
    """
    first_index, term, count, flags = _BATCH.unpack_from(data, record.body)
    if flags & ~_MARKED:
        raise UnknownVersion(flags)
    return first_index, term, count, flags == _MARKED


def reset_of(data: bytes, record: Record) -> tuple[int, int]:
    """(index, term) of a reset record."""
    index, term = _RESET.unpack_from(data, record.body)
    return index, term


def hard_state_of(data: bytes, record: Record) -> HardState:
    """The hard state in a hard state record."""
    term, vote_length = _HARD_STATE.unpack_from(data, record.body)
    begin = record.body + _HARD_STATE.size
    return _join_hard_state(term, vote_length, data[begin : record.body + record.length])


def _split_hard_state(hard_state: HardState) -> tuple[int, int, bytes]:
    term, voted_for = hard_state
    if voted_for is None:
        return term, _NO_VOTE, b""
    vote = voted_for.encode()
    if len(vote) > MAX_NODE_ID_BYTES:
        raise impossible("node id too long to be stored", bytes=len(vote), limit=MAX_NODE_ID_BYTES)
    return term, len(vote), vote


def _join_hard_state(term: int, vote_length: int, vote: bytes) -> HardState:
    return HardState(term, None if vote_length == _NO_VOTE else vote[:vote_length].decode())
