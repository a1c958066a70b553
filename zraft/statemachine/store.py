"""The keys: ordered bytes, each with a value and its revisions, and the store-wide revision that counts mutations.

Every change is made in two steps: a `plan_*` method says what would become of a key without touching anything, and
`commit` makes it so. Whatever can go wrong goes wrong in the first step (DESIGN trap 18).
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

from sortedcontainers import SortedList

from zraft.statemachine.codec import Entry

# A page of a RANGE stays well under the largest frame that a node sends, whatever the reader asked for.
MAX_RANGE_BYTES = 4 * 1024 * 1024

# What an entry takes in a page besides its key and its value: three revisions and the headers of msgpack.
ENTRY_OVERHEAD_BYTES = 40

_SUM_MASK = (1 << 64) - 1
_DIGEST_HEAD = Struct("<IQQQ").pack

# value, create_revision, mod_revision, version, digest. A plain tuple: one is built for every set.
_Record = tuple[bytes, int, int, int, int]


Change = tuple[bytes, _Record | None]
"""What one command makes of one key at the next revision: (key, its new record or None if it is deleted)."""


class Store:
    """All keys, in order. `revision` starts at 0 and grows by one with every command that changes something."""

    def __init__(self) -> None:
        self.revision = 0
        # Not one sorted dictionary: giving a present key another value is the common case, and must not cost more
        # than it does in a plain dictionary.
        self._records: dict[bytes, _Record] = {}
        self._keys: SortedList[bytes] = SortedList()
        self._digest_sum = 0

    def __len__(self) -> int:
        return len(self._records)

    @property
    def digest_sum(self) -> int:
        """Sum modulo 2^64 of the digests of all keys, values and revisions: the same in whatever order they came."""
        return self._digest_sum

    def plan_set(self, key: bytes, value: bytes) -> Change:
        """The change that gives `key` this value; an equal value is a change like any other."""
        old = self._records.get(key)
        revision = self.revision + 1
        create_revision, version = (revision, 1) if old is None else (old[1], old[3] + 1)
        digest = _digest(key, value, create_revision, revision, version)
        return key, (value, create_revision, revision, version, digest)

    def plan_delete(self, key: bytes) -> Change | None:
        """The change that removes `key`; None if it is absent: nothing to do, and no new revision."""
        return (key, None) if key in self._records else None

    def plan_cas(self, key: bytes, expected: bytes | None, new: bytes) -> Change | None:
        """The change that gives `key` the value `new` if its value is `expected` (None: it is absent); None if not."""
        old = self._records.get(key)
        held = old[0] if old is not None else None
        return self.plan_set(key, new) if held == expected else None

    def commit(self, change: Change) -> None:
        """Make `change`, which must have been planned at the present revision, and count it."""
        key, record = change
        old = self._records.get(key)
        if record is None:
            self._keys.remove(key)
            del self._records[key]
        else:
            if old is None:
                self._keys.add(key)
            self._records[key] = record
        gone, come = old[4] if old is not None else 0, record[4] if record is not None else 0
        self._digest_sum = (self._digest_sum - gone + come) & _SUM_MASK
        self.revision += 1

    def get(self, key: bytes) -> Entry | None:
        """The entry of `key`; None if it is absent."""
        record = self._records.get(key)
        return (key, *record[:4]) if record is not None else None

    def range(self, start: bytes, end: bytes | None, limit: int, max_bytes: int) -> tuple[list[Entry], bool]:
        """One page of the entries with start <= key < end, in the order of keys (`end` None: to the last key).

        A page ends before its entries would exceed `limit` or take more than `max_bytes` (at most `MAX_RANGE_BYTES`),
        but has at least one entry if there is any. The flag says whether the page was cut short.
        """
        left_bytes = min(max_bytes, MAX_RANGE_BYTES)
        page: list[Entry] = []
        for key in self._keys.irange(start, end, inclusive=(True, False)):
            record = self._records[key]
            left_bytes -= len(key) + len(record[0]) + ENTRY_OVERHEAD_BYTES
            if page and (left_bytes < 0 or len(page) >= limit):
                return page, True
            page.append((key, *record[:4]))
        return page, False


def _digest(key: bytes, value: bytes, create_revision: int, mod_revision: int, version: int) -> int:
    # blake2b and not Python's hash(), which differs from process to process, nor a CRC: those of equally long records
    # add up to the same when two keys swap their values.
    head = _DIGEST_HEAD(len(key), create_revision, mod_revision, version)
    return int.from_bytes(blake2b(head + key + value, digest_size=8).digest(), "little")
