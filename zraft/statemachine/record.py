"""What the store holds of a key: one bytes object, the same in memory and in the pieces of a snapshot.

    digest            8 bytes   blake2b of the next four fields, the key and the value
    length of key     4
    create_revision   8
    mod_revision      8
    version           8
    value             the rest

All integers are little-endian. A tuple of five objects would be nearer at hand; but in a large state each object of a
record lies elsewhere in memory, and a write waits for each. A snapshot takes records over as they are.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from zraft.statemachine.codec import Entry

pack_head = Struct("<IQQQ").pack
"""The fields between digest and value: the length of the key, create_revision, mod_revision, version."""

_FIELDS = Struct("<QIQQQ")
fields_of = _FIELDS.unpack_from
"""(digest, length of the key, create_revision, mod_revision, version) of a record."""

DIGEST_BYTES = 8

begin_digest = blake2b(digest_size=DIGEST_BYTES).copy
"""A new digest of nothing as yet. A copy, for to name the size each time costs as much as to digest a short record."""

FIELDS_BYTES = _FIELDS.size
"""What a record has more than its value."""


def make_record(key: bytes, value: bytes, create_revision: int, mod_revision: int, version: int) -> bytes:
    """The record of these. Raises struct.error for a number that has no room in it.

    `Plan.set_all` does the same without a call for each."""
    head = pack_head(len(key), create_revision, mod_revision, version)
    return digest_of(key, head, value) + head + value


def digest_of(key: bytes, head: bytes, value: bytes) -> bytes:
    """The digest of a record: not Python's hash(), which differs from process to process, nor a CRC: those of equally
    long records add up to the same when two keys swap their values."""
    digest = begin_digest()
    digest.update(head + key + value)
    return digest.digest()


def is_record_of(key: bytes, record: bytes) -> bool:
    """Whether the digest of `record`, which has at least FIELDS_BYTES, is that of what it holds, under this key."""
    return record[:DIGEST_BYTES] == digest_of(key, record[DIGEST_BYTES:FIELDS_BYTES], record[FIELDS_BYTES:])


def value_of(record: bytes) -> bytes:
    """The value in it."""
    return record[FIELDS_BYTES:]


def entry_of(key: bytes, record: bytes) -> Entry:
    """The entry as readers see it."""
    _, _, create_revision, mod_revision, version = fields_of(record)
    return key, value_of(record), create_revision, mod_revision, version
