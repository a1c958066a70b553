"""The keys: ordered bytes, each with a value and its revisions, and the store-wide revision that counts mutations.

Every change is made in two steps: a `Plan` says what would become of the keys without touching anything, and `commit`
makes it so. Whatever can go wrong goes wrong in the first step (DESIGN trap 18).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import cast

from sortedcontainers import SortedList

from zraft.errors import impossible
from zraft.statemachine.codec import MAX_CHUNK_ROWS, Entry
from zraft.statemachine.record import (
    FIELDS_BYTES,
    begin_digest,
    entry_of,
    fields_of,
    pack_head,
    value_of,
)

# A page of a RANGE stays well under the largest frame that a node sends, whatever the reader asked for.
MAX_RANGE_BYTES = 4 * 1024 * 1024

# What an entry takes in a page besides its key and its value: three revisions and the headers of msgpack. A record has
# its revisions already.
ENTRY_OVERHEAD_BYTES = 40
_RECORD_OVERHEAD_BYTES = ENTRY_OVERHEAD_BYTES - FIELDS_BYTES

_SUM_MASK = (1 << 64) - 1
_from_bytes = int.from_bytes


class Store:
    """All keys, in order. `revision` starts at 0 and grows by one with every command that changes something."""

    def __init__(self) -> None:
        self.revision = 0
        # Not one sorted dictionary: giving a present key another value is the common case, and must not cost more
        # than it does in a plain dictionary.
        self._records: dict[bytes, bytes] = {}  # see `zraft.statemachine.record`
        self._keys: SortedList[bytes] = SortedList()
        self._digest_sum = 0
        self._frozen: FrozenKeys | None = None

    def __len__(self) -> int:
        return len(self._records)

    @property
    def digest_sum(self) -> int:
        """Sum modulo 2^64 of the digests of all keys, values and revisions: the same in whatever order they came."""
        return self._digest_sum

    def plan(self) -> Plan:
        """A plan of what the next entry changes; nothing is changed before `commit`."""
        return Plan(self._records, self.revision)

    def commit(self, plan: Plan) -> None:
        """Make it so. The plan must have been begun at the present revision."""
        records, planned = self._records, plan.records
        # First what allocates: what is put aside (which does no harm if the entry stays), and the order of keys.
        if self._frozen is not None:
            self._frozen.keep(planned, plan.has_deleted)
        changed = planned
        if plan.born or plan.has_deleted:
            changed = {key: record for key, record in planned.items() if record is not None}
            gone = [key for key, record in planned.items() if record is None and key in records]
            self._reorder([key for key in plan.born if key in changed], gone)
            for key in gone:
                del records[key]
        records.update(cast("dict[bytes, bytes]", changed))
        self._digest_sum = (self._digest_sum + plan.digest_change) & _SUM_MASK
        self.revision = plan.revision

    def _reorder(self, come: list[bytes], gone: list[bytes]) -> None:
        """Take keys into the order and others out of it: all, or none if it raises."""
        keys = self._keys
        try:
            keys.update(come)
            for key in gone:
                keys.remove(key)
        except BaseException:
            keys.clear()
            keys.update(self._records)  # which are as they were
            raise

    def get(self, key: bytes) -> Entry | None:
        """The entry of `key`; None if it is absent."""
        record = self._records.get(key)
        return entry_of(key, record) if record is not None else None

    def range(self, start: bytes, end: bytes | None, limit: int, max_bytes: int) -> tuple[list[Entry], bool]:
        """One page of the entries with start <= key < end, in the order of keys (`end` None: to the last key).

        A page ends before its entries would exceed `limit` or take more than `max_bytes` (at most `MAX_RANGE_BYTES`),
        but has at least one entry if there is any. The flag says whether the page was cut short.
        """
        left_bytes = min(max_bytes, MAX_RANGE_BYTES)
        page: list[Entry] = []
        for key in self._keys.irange(start, end, inclusive=(True, False)):
            record = self._records[key]
            left_bytes -= len(key) + len(record) + _RECORD_OVERHEAD_BYTES
            if page and (left_bytes < 0 or len(page) >= limit):
                return page, True
            page.append(entry_of(key, record))
        return page, False

    def freeze(self) -> FrozenKeys:
        """The entries as they are now, to be read in pieces while commits go on. Copies nothing; one at a time."""
        self._frozen = FrozenKeys(self, self._records, self._keys)
        return self._frozen

    def unfreeze(self) -> None:
        """Old entries need not be kept any more."""
        self._frozen = None

    def load(self, keys: Sequence[bytes], records: Sequence[bytes]) -> None:
        """Take over records of another store, in ascending order, all behind those here. `revision` is not touched."""
        self._records.update(zip(keys, records, strict=True))
        self._keys.update(keys)
        added = sum([fields_of(record)[0] for record in records])
        self._digest_sum = (self._digest_sum + added) & _SUM_MASK

    def discard(self, count: int) -> int:
        """Free up to `count` entries of a store that nobody reads any more; return how many they were."""
        records, keys = self._records, self._keys
        count = min(count, len(records))
        for _ in range(count):
            records.popitem()
            keys.pop()
        return count


class Plan:
    """What the commands of one entry, one after the other, would make of the keys. Each sees what those before it do.

    - `records`: of each key that is changed, its new record; None: deleted;
    - `born`: those of them that are absent as yet; `has_deleted`: whether any was deleted on the way;
    - `digest_change`: what that adds to the sum of digests;
    - `revision`: the store's, then.
    """

    __slots__ = ("_present", "born", "digest_change", "has_deleted", "records", "revision")

    def __init__(self, present: dict[bytes, bytes], revision: int) -> None:
        self._present = present
        self.records: dict[bytes, bytes | None] = {}
        self.born: list[bytes] = []
        self.has_deleted = False
        self.digest_change = 0
        self.revision = revision

    def clear(self) -> None:
        """Forget what `set_all` left behind when it raised; the numbers it had not touched yet."""
        self.records.clear()
        self.born.clear()

    def set(self, key: bytes, value: bytes) -> None:
        """Give `key` this value; an equal value is a change like any other."""
        self.set_all((key,), (value,))

    def set_all(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """As `set`, one after the other."""
        records, present = self.records, self._present.get
        revision, digest_change = self.revision, self.digest_change
        for key, value in zip(keys, values, strict=True):
            revision += 1
            old = records[key] if key in records else present(key)
            if old is None:
                create_revision, version = revision, 1
            else:
                digest, _, create_revision, _, version = fields_of(old)
                version += 1
                digest_change -= digest
            head = pack_head(len(key), create_revision, revision, version)  # as make_record
            hasher = begin_digest()
            hasher.update(head + key + value)
            digest_bytes = hasher.digest()
            if old is None and key not in records:
                self.born.append(key)
            records[key] = digest_bytes + head + value
            digest_change += _from_bytes(digest_bytes, "little")
        self.revision, self.digest_change = revision, digest_change

    def delete(self, key: bytes) -> bool:
        """Remove `key`; False: it is absent, so there is nothing to do, and no new revision."""
        record = self._find(key)
        if record is None:
            return False
        self.records[key] = None
        self.has_deleted = True
        self.digest_change -= fields_of(record)[0]
        self.revision += 1
        return True

    def cas(self, key: bytes, expected: bytes | None, new: bytes) -> bool:
        """Give `key` the value `new` if its value is `expected` (None: if it is absent); False: it is not."""
        record = self._find(key)
        if (None if record is None else value_of(record)) != expected:
            return False
        self.set(key, new)
        return True

    def _find(self, key: bytes) -> bytes | None:
        return self.records[key] if key in self.records else self._present.get(key)


class FrozenKeys:
    """The entries of a `Store` as of one moment, handed out in the order of keys while the store goes on.

    Nothing is copied beforehand: the store says what it is about to change (`keep`), and the old entry is put aside if
    it has not been handed out yet. What is put aside is dropped as it is handed out.
    """

    def __init__(self, store: Store, records: dict[bytes, bytes], keys: SortedList[bytes]) -> None:
        self._store = store
        self._records = records
        self._keys = keys
        self._left = len(records)
        # All that lies below has been handed out.
        self._bound = b""
        # What became of a key since the freeze: its record then, or None if it was absent.
        self._kept: dict[bytes, bytes | None] = {}
        # Keys that were deleted since: the store's order of keys does not have them (or has them again).
        self._deleted: SortedList[bytes] = SortedList()

    def keep(self, planned: Mapping[bytes, bytes | None], has_deleted: bool) -> None:
        """The store is about to change these keys (None: to delete one, which is so for some if `has_deleted`)."""
        bound, kept, deleted = self._bound, self._kept, self._deleted
        ahead = [key for key in planned if key >= bound]
        fresh = [key for key in ahead if key not in kept]
        kept.update(zip(fresh, map(self._records.get, fresh), strict=True))
        for key in ahead if has_deleted else ():
            if planned[key] is None and kept[key] is not None and key not in deleted:
                deleted.add(key)

    def take(self, max_bytes: int) -> tuple[list[bytes], list[bytes]] | None:
        """The next keys and their records, at most `MAX_CHUNK_ROWS` of together at most `max_bytes`, but at least one;
        None: no more.

        Where a piece ends is decided by the frozen entries alone, never by what happened to the store since. The work
        is bounded by the piece, and by what was created within its range of keys since the freeze.
        """
        if not self._left:
            return None
        kept, records = self._kept, self._records
        page_keys: list[bytes] = []
        page: list[bytes] = []
        is_full = False
        while not is_full and self._left > len(page):
            seen = self._next_keys()
            if not seen:
                raise impossible("frozen keys got lost", left=self._left - len(page), bound=self._bound)
            self._bound = seen[-1] + b"\0"
            for key in [key for key in seen if kept.get(key, b"") is not None] if kept else seen:
                record = kept.get(key) or records[key]
                max_bytes -= len(key) + len(record) + _RECORD_OVERHEAD_BYTES
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
        return page_keys, page

    def _next_keys(self) -> list[bytes]:
        """The next keys to look at: those that the store has, and those that it had at the freeze."""
        keys = list(islice(self._keys.irange(self._bound), MAX_CHUNK_ROWS))
        if self._deleted:
            gone = islice(self._deleted.irange(self._bound), MAX_CHUNK_ROWS)
            keys = sorted({*keys, *gone})[:MAX_CHUNK_ROWS]
        return keys
