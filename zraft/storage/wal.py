"""The write-ahead log: batches of entries and the hard state, durable when `append` returns (DESIGN section 5).

Its owner is one thread. It knows bytes and indexes, nothing of Raft.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from zraft.errors import StorageError, impossible
from zraft.storage import format as layout
from zraft.storage import meta as meta_file
from zraft.storage import spare as spare_file
from zraft.storage.disk import Disk
from zraft.storage.errors import DiskFull, SyncFailed, WrongCluster, corrupt, is_full
from zraft.storage.format import DATA_START, Batch, Encoder, HardState, SegmentHeader
from zraft.storage.index import Place
from zraft.storage.meta import Meta
from zraft.storage.opening import load_or_create, take_lock
from zraft.storage.reader import Reader
from zraft.storage.recovery import Progress, Recovered, recover
from zraft.storage.segment import Tail, segment_numbers, segment_path
from zraft.storage.spare import Spare

SEGMENT_BYTES = 16 * 1024 * 1024


class WriteAheadLog:
    """A log in a directory of its own. Made by `open`; after a `SyncFailed` every call raises it again.

    The attributes `hard_state` (None: never written, a fresh store), `store_id`, `cluster_id` (0: not set yet), `base`
    and `last_index` (that of the base: empty) describe what is durable.
    """

    def __init__(self, disk: Disk, directory: str, lock: int, meta: Meta, found: Recovered, segment_bytes: int) -> None:
        self.hard_state = found.hard_state
        self._disk = disk
        self._directory = directory
        self._lock: int | None = lock
        self._meta = meta
        self._index = found.batches
        self._tail = found.tail
        self._oldest = found.oldest
        self._spare = Spare(disk, directory, segment_bytes)
        self._reader = Reader(disk, directory, meta.store_id)
        self._attempt = 0
        self._dead: str | None = None

    @classmethod
    def open(
        cls,
        disk: Disk,
        directory: str,
        node_id: str,
        *,
        new_store_id: int,
        segment_bytes: int = SEGMENT_BYTES,
        on_progress: Progress | None = None,
    ) -> WriteAheadLog:
        """Open the log, or create it on first use. All that it then holds is durable.

        `new_store_id`: a random number of up to 63 bits, used if the store is new. `segment_bytes`: size of new segment
        files. `on_progress(done, total)`: segments read so far. Raises `DirectoryInUse`, `WrongNode`, `CorruptLog`,
        `UnsupportedVersion`, `DiskFull`, `StorageError`.
        """
        if segment_bytes <= DATA_START or not 0 < new_store_id < 1 << 63:
            raise impossible("wrong parameters", segment_bytes=segment_bytes, new_store_id=new_store_id)
        try:
            disk.make_directory(directory)
            lock = take_lock(disk, directory)
            try:
                meta = load_or_create(disk, directory, node_id, new_store_id, segment_bytes)
                numbers = segment_numbers(disk.list_directory(directory))
                if not numbers:
                    raise corrupt(segment_path(directory, 1), 0, "the segment's file is missing")
                found = recover(disk, directory, meta, numbers, on_progress)
            except BaseException:
                disk.close(lock)
                raise
        except OSError as error:
            if is_full(error):
                raise DiskFull(f"{directory}: no space to open the log ({error}): free some space") from error
            raise StorageError(f"{directory}: cannot open the log: {error}: check path, owner and disk") from error
        return cls(disk, directory, lock, meta, found, segment_bytes)

    @property
    def store_id(self) -> int:
        """Random number of this store, made with it."""
        return self._meta.store_id

    @property
    def cluster_id(self) -> int:
        """The cluster that this store belongs to; 0 until `set_cluster_id`."""
        return self._meta.cluster_id

    @property
    def last_index(self) -> int:
        """Index of the last entry; that of the base if nothing follows it."""
        return self._index.last_index

    @property
    def base(self) -> tuple[int, int]:
        """(index, term) of the entry just before those that can be asked for; (0, 0) in a log from its first entry.

        After a reset it is what that named; after a compaction the oldest entry left serves as base. The owner must
        hold a snapshot that reaches at least that far: storage cannot tell a lost segment from a compacted one.
        """
        return self._index.base

    @property
    def first_index(self) -> int:
        """Index of the first entry that can be asked for."""
        return self._index.base[0] + 1

    def set_cluster_id(self, cluster_id: int) -> None:
        """Remember the cluster durably. Raises `WrongCluster` if another is set, `DiskFull`, `SyncFailed`."""
        self._require_alive()
        if not 0 < cluster_id < 1 << 64:
            raise impossible("not a cluster id", cluster_id=cluster_id)
        if cluster_id == self.cluster_id:
            return
        if self.cluster_id:
            raise WrongCluster(
                f"{self._directory}: belongs to cluster {self.cluster_id:x}, not {cluster_id:x}: "
                "use the data directory of this cluster, or an empty one"
            )
        meta = self._meta._replace(cluster_id=cluster_id)
        path = os.path.join(self._directory, meta_file.NAME)
        try:
            meta_file.save_meta(self._disk, self._directory, meta)
        except OSError as error:
            if is_full(error):
                raise DiskFull(f"{path}: no space to write it ({error}): free some space") from error
            raise self._die("writing", path, error) from error
        except BaseException:
            self._dead = "interrupted while it wrote"
            raise
        self._meta = meta

    def append(
        self, batches: Sequence[Batch], hard_state: HardState | None, reset: tuple[int, int] | None = None
    ) -> None:
        """Write the hard state (if any), the reset (if any) and the batches; all is durable when this returns.

        A batch whose first index is at most `last_index` replaces everything from there on. A reset (index, term)
        forgets all entries: the log then begins after that index, which a durable snapshot must cover. If the node
        crashes meanwhile, a prefix of (hard state, reset, batch, batch, ...) is found afterwards. A call larger than a
        segment gets a segment of its own size. Raises `DiskFull` (nothing counts as written, try again later),
        `SyncFailed`.
        """
        self._require_alive()
        if not batches and hard_state is None and reset is None:
            return
        size = self._check(batches, hard_state, reset)
        try:
            self._keep_spare_in_step()
            if self._tail.end + size > self._tail.capacity:
                self._start_segment(DATA_START + size)
            self._write(batches, hard_state, reset)
        except StorageError:
            raise
        except BaseException:
            self._dead = "interrupted while it wrote"
            raise

    def compact(self, through: int) -> bool:
        """Remove the oldest segment if all that is valid in it lies before entry `through`, which stays.

        Returns whether another call would remove another. One segment a call, oldest first and each durably, so that a
        crash leaves a log without a gap. A durable snapshot must cover `through`. Raises `SyncFailed`.
        """
        self._require_alive()
        if not 0 <= through <= self.last_index:
            raise impossible("compaction past the log's end", through=through, last=self.last_index)
        needed = self._index.segment_of(through)
        number = self._oldest
        if number >= needed:
            return False
        path = segment_path(self._directory, number)
        try:
            self._reader.forget(number)
            self._disk.unlink(path)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            raise self._die("removing", path, error) from error
        except BaseException:
            self._dead = "interrupted while it removed a segment"
            raise
        self._index.drop_through(number)
        self._oldest = number + 1
        return self._oldest < needed

    def prepare_ahead(self) -> None:
        """Do one slice of the work for the next segment. For the owner to call when an append's replies are out.

        Without these calls `append` does the work itself, later and with the replies waiting. Raises `SyncFailed`.
        """
        self._require_alive()
        try:
            self._spare.prepare_slice(2 * self._tail.end)
        except OSError as error:
            raise self._die("preparing", os.path.join(self._directory, spare_file.NAME), error) from error
        except BaseException:
            self._dead = "interrupted while it wrote"
            raise

    def read(self, first_index: int, max_bytes: int) -> list[Batch]:
        """The batches from the one that holds `first_index` on: `max_bytes` of payload at most, but one batch at least.

        The first may begin before `first_index`; none if that is past `last_index`. An index up to the base is an
        `ImpossibleState`. Raises `CorruptLog`, `SyncFailed`.
        """
        self._require_alive()
        if first_index > self.last_index:
            return []
        position = self._index.position_of(first_index)
        batches: list[Batch] = []
        room = max_bytes
        try:
            while position < len(self._index):
                place = self._index.place(position)
                if batches and place.payload_bytes > room:
                    break
                batches.append(self._reader.read(place, self._tail))
                room -= place.payload_bytes
                position += 1
        except OSError as error:
            raise self._die("reading", self._directory, error) from error
        return batches

    def marked(self) -> list[Batch]:
        """The valid marked batches with an entry behind the base, ascending. Raises `CorruptLog`, `SyncFailed`."""
        self._require_alive()
        try:
            return [self._reader.read(place, self._tail) for place in self._index.marked()]
        except OSError as error:
            raise self._die("reading", self._directory, error) from error

    def term_runs(self) -> list[tuple[int, int]]:
        """(first index, term) of each run of entries of equal term behind the base, ascending."""
        return self._index.term_runs()

    def close(self) -> None:
        """Let go of the files and the lock. Writes nothing: all is durable already. May be called again."""
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        self._dead = self._dead or "closed"
        self._spare.close()
        self._reader.close()
        self._disk.close(self._tail.handle)
        self._disk.close(lock)

    def _require_alive(self) -> None:
        if self._dead is not None:
            raise SyncFailed(f"{self._directory}: the log takes no more calls: {self._dead}")

    def _die(self, doing: str, path: str, error: OSError) -> SyncFailed:
        self._dead = f"{doing} {path} failed: {error}"
        return SyncFailed(
            f"{self._dead}: what is on disk is unknown now, so this node stops: check the disk, then start it again"
        )

    def _check(self, batches: Sequence[Batch], hard_state: HardState | None, reset: tuple[int, int] | None) -> int:
        """Bytes that the call takes in a segment. Raises `ImpossibleState` on a gap, before anything is written."""
        size = 0 if hard_state is None else layout.hard_state_record_bytes(hard_state)
        base, last_index = self._index.base[0], self._index.last_index
        if reset is not None:
            if reset[0] < max(1, base):
                raise impossible("reset to before the log's begin", index=reset[0], base=base, last=last_index)
            base = last_index = reset[0]
            size += layout.RESET_RECORD_BYTES
        for first_index, count, _, payload, _ in batches:
            payload_bytes = len(payload)
            if not base < first_index <= last_index + 1 or count < 1:
                raise impossible("gap in the log", first=first_index, count=count, last=last_index, base=base)
            if payload_bytes > layout.MAX_PAYLOAD_BYTES:
                raise impossible("batch too large", bytes=payload_bytes, limit=layout.MAX_PAYLOAD_BYTES)
            last_index = first_index + count - 1
            size += layout.batch_record_bytes(payload_bytes)
        return size

    def _write(self, batches: Sequence[Batch], hard_state: HardState | None, reset: tuple[int, int] | None) -> None:
        """One gathered write, one sync, the mark. The hard state goes first: no torn tail has entries without it."""
        tail = self._tail
        encoder = Encoder(tail.crc, tail.end, self._attempt, tail.identity)
        offset = tail.end
        if hard_state is not None:
            encoder.add_hard_state(hard_state)
            offset += layout.hard_state_record_bytes(hard_state)
        if reset is not None:
            encoder.add_reset(*reset)
            offset += layout.RESET_RECORD_BYTES
        places = []
        for batch in batches:
            first_index, count, term, payload, marked = batch
            payload_bytes = len(payload)
            places.append(Place(first_index, count, term, tail.number, offset, payload_bytes, encoder.crc, marked))
            encoder.add_batch(batch)
            offset += layout.batch_record_bytes(payload_bytes)
        try:
            self._disk.write(tail.handle, tail.end, encoder.parts)
        except OSError as error:
            if not is_full(error):
                raise self._die("writing", tail.path, error) from error
            self._attempt += 1
            raise self._full(tail.path, error) from error
        try:
            self._disk.sync(tail.handle)
        except OSError as error:
            raise self._die("syncing", tail.path, error) from error
        tail.end = offset
        tail.crc = encoder.crc
        if hard_state is not None:
            self.hard_state = hard_state
        if reset is not None:
            self._index.reset(*reset, tail.number)
        for place in places:
            self._index.add(place)
        self._write_mark()

    def _write_mark(self) -> None:
        """Note how far the segment is durable. A hint for the next start, so a full disk doesn't matter to it."""
        tail = self._tail
        try:
            self._disk.write(tail.handle, layout.MARK_OFFSET, [layout.encode_mark(tail.end, tail.identity)])
        except OSError as error:
            if not is_full(error):
                raise self._die("writing", tail.path, error) from error

    def _keep_spare_in_step(self) -> None:
        """Where nobody calls `prepare_ahead`, prepare as much as was appended, so that a new segment finds its file."""
        try:
            while self._spare.prepare_slice(self._tail.end - DATA_START):
                pass
        except OSError as error:
            raise self._die("preparing", os.path.join(self._directory, spare_file.NAME), error) from error

    def _start_segment(self, minimum_bytes: int) -> None:
        """Seal the tail and go on in the next segment, whose header says where the old one ends."""
        old = self._tail
        path = segment_path(self._directory, old.number + 1)
        header = SegmentHeader(old.number + 1, self.store_id, self.cluster_id, old.end, old.crc, self.hard_state)
        try:
            handle = self._spare.take(path, minimum_bytes, layout.encode_header(header))
        except OSError as error:
            if is_full(error):
                raise self._full(path, error) from error
            raise self._die("preparing", path, error) from error
        try:
            self._disk.sync_directory(self._directory)
            capacity = self._disk.size(handle)
        except BaseException as error:
            self._disk.close(handle)
            if isinstance(error, OSError):
                raise self._die("syncing", self._directory, error) from error
            raise
        self._tail = Tail(self._directory, self.store_id, header.number, handle, capacity, old.crc)
        self._disk.close(old.handle)

    def _full(self, path: str, error: OSError) -> DiskFull:
        return DiskFull(f"{path}: no space ({error}): nothing was appended: free some space")
