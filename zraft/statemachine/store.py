"""The keys: ordered bytes, each with a value and its revisions, and the store-wide revision that counts mutations.

Every change is made in two steps: a `plan_*` method says what would become of a key without touching anything, and
`commit` makes it so. Whatever can go wrong goes wrong in the first step (DESIGN trap 18).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice
from struct import Struct

from sortedcontainers import SortedList

from zraft.errors import impossible
from zraft.statemachine.codec import MAX_CHUNK_ROWS, Entry

# A page of a RANGE stays well under the largest frame that a node sends, whatever the reader asked for.
MAX_RANGE_BYTES = 4 * 1024 * 1024

# What an entry takes in a page besides its key and its value: three revisions and the headers of msgpack.
ENTRY_OVERHEAD_BYTES = 40

_SUM_MASK = (1 << 64) - 1
_DIGEST_HEAD = Struct("<IQQQ").pack
_from_bytes = int.from_bytes

# value, create_revision, mod_revision, version, digest. A plain tuple: one is built for every set.
_Record = tuple[bytes, int, int, int, int]


Change = tuple[bytes, _Record | None]
"""What one command makes of one key at the next revision: (key, its new record or None if it is deleted)."""

EntryColumns = tuple[Sequence[bytes], Sequence[bytes], Sequence[int], Sequence[int], Sequence[int]]
"""Many entries by their fields: keys, values, create_revisions, mod_revisions, versions."""


class Store:
    """All keys, in order. `revision` starts at 0 and grows by one with every command that changes something."""

    def __init__(self) -> None:
        self.revision = 0
        # Not one sorted dictionary: giving a present key another value is the common case, and must not cost more
        # than it does in a plain dictionary.
        self._records: dict[bytes, _Record] = {}
        self._keys: SortedList[bytes] = SortedList()
        self._digest_sum = 0
        self._frozen: FrozenKeys | None = None

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
        if old is None:
            create_revision, version = revision, 1
        else:
            create_revision, version = old[1], old[3] + 1
        head = _DIGEST_HEAD(len(key), create_revision, revision, version)  # as _digest, without a call for each set
        digest = _from_bytes(blake2b(head + key + value, digest_size=8).digest(), "little")
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
        if self._frozen is not None:
            self._frozen.keep(key, old, record is None)
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

    def freeze(self) -> FrozenKeys:
        """The entries as they are now, to be read in pieces while commits go on. Copies nothing; one at a time."""
        self._frozen = FrozenKeys(self, self._records, self._keys)
        return self._frozen

    def unfreeze(self) -> None:
        """Old entries need not be kept any more."""
        self._frozen = None

    def load(self, entries: EntryColumns) -> None:
        """Take over entries of another store, in ascending order, all behind those here. `revision` is not touched."""
        records, add, added = self._records, self._keys.add, 0
        for key, value, create_revision, mod_revision, version in zip(*entries, strict=True):
            digest = _digest(key, value, create_revision, mod_revision, version)
            records[key] = (value, create_revision, mod_revision, version, digest)
            add(key)
            added += digest
        self._digest_sum = (self._digest_sum + added) & _SUM_MASK

    def discard(self, count: int) -> int:
        """Free up to `count` entries of a store that nobody reads any more; return how many they were."""
        records, keys = self._records, self._keys
        count = min(count, len(records))
        for _ in range(count):
            records.popitem()
            keys.pop()
        return count


class FrozenKeys:
    """The entries of a `Store` as of one moment, handed out in the order of keys while the store goes on.

    Nothing is copied beforehand: the store says what it is about to change (`keep`), and the old entry is put aside if
    it has not been handed out yet. What is put aside is dropped as it is handed out.
    """

    def __init__(self, store: Store, records: dict[bytes, _Record], keys: SortedList[bytes]) -> None:
        self._store = store
        self._records = records
        self._keys = keys
        self._left = len(records)
        # All that lies below has been handed out.
        self._bound = b""
        # What became of a key since the freeze: its record then, or None if it was absent.
        self._kept: dict[bytes, _Record | None] = {}
        # Keys that were deleted since: the store's order of keys does not have them (or has them again).
        self._deleted: SortedList[bytes] = SortedList()

    def keep(self, key: bytes, old: _Record | None, is_deletion: bool) -> None:
        """The store is about to change `key`, whose record is `old` (None: absent)."""
        if key < self._bound:
            return
        frozen = self._kept.setdefault(key, old)
        if is_deletion and frozen is not None and key not in self._deleted:
            self._deleted.add(key)

    def take(self, max_bytes: int) -> EntryColumns | None:
        """The next entries, at most `MAX_CHUNK_ROWS` of together at most `max_bytes`, but at least one; None: no more.

        Where a piece ends is decided by the frozen entries alone, never by what happened to the store since. The work
        is bounded by the piece, and by what was created within its range of keys since the freeze.
        """
        if not self._left:
            return None
        kept, records = self._kept, self._records
        page_keys: list[bytes] = []
        page: list[_Record] = []
        is_full = False
        while not is_full and self._left > len(page):
            seen = self._next_keys()
            if not seen:
                raise impossible("frozen keys got lost", left=self._left - len(page), bound=self._bound)
            self._bound = seen[-1] + b"\0"
            for key in [key for key in seen if kept.get(key, b"") is not None] if kept else seen:
                record = kept.get(key) or records[key]
                max_bytes -= len(key) + len(record[0]) + ENTRY_OVERHEAD_BYTES
                if page and (max_bytes < 0 or len(page) == MAX_CHUNK_ROWS):
                    self._bound = key
                    is_full = True
                    break
                page_keys.append(key)
                page.append(record)
        self._left -= len(page)
        if not self._left:
            self._store.unfreeze()
        elif kept:
            for key in page_keys:
                kept.pop(key, None)
        values, create_revisions, mod_revisions, versions, _ = zip(*page, strict=True)
        return page_keys, values, create_revisions, mod_revisions, versions

    def _next_keys(self) -> list[bytes]:
        """The next keys to look at: those that the store has, and those that it had at the freeze."""
        keys = list(islice(self._keys.irange(self._bound), MAX_CHUNK_ROWS))
        if self._deleted:
            gone = islice(self._deleted.irange(self._bound), MAX_CHUNK_ROWS)
            keys = sorted({*keys, *gone})[:MAX_CHUNK_ROWS]
        return keys


def _digest(key: bytes, value: bytes, create_revision: int, mod_revision: int, version: int) -> int:
    # blake2b and not Python's hash(), which differs from process to process, nor a CRC: those of equally long records
    # add up to the same when two keys swap their values.
    head = _DIGEST_HEAD(len(key), create_revision, mod_revision, version)
    return _from_bytes(blake2b(head + key + value, digest_size=8).digest(), "little")
