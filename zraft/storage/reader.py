"""Reads batches back and checks each: a damaged entry must not travel to a peer or into the state machine."""

from __future__ import annotations

from zraft.storage import format as layout
from zraft.storage.disk import Disk
from zraft.storage.errors import corrupt
from zraft.storage.format import Batch
from zraft.storage.index import Place
from zraft.storage.segment import Tail, segment_path


class Reader:
    """Reads from the tail's open file, and keeps the sealed segment that was read last open."""

    def __init__(self, disk: Disk, directory: str, store_id: int) -> None:
        self._disk = disk
        self._directory = directory
        self._store_id = store_id
        self._number = 0
        self._handle = 0

    def read(self, place: Place, tail: Tail) -> Batch:
        """The batch at `place`. Raises `CorruptLog`, `OSError`."""
        if place.segment == tail.number:
            handle = tail.handle
        else:
            if place.segment != self._number:
                self._switch_to(place.segment)
            handle = self._handle
        data = self._disk.read(handle, place.offset, layout.batch_record_bytes(place.payload_bytes))
        record = layout.record_at(data, 0, layout.identity_of(self._store_id, place.segment), place.seed)
        if record is None:
            path = segment_path(self._directory, place.segment)
            raise corrupt(path, place.offset, "a record that was durable is damaged or missing")
        payload = data[record.body + layout.BATCH_BODY_BYTES : record.body + record.length]
        return Batch(place.first_index, place.count, place.term, payload, place.marked)

    def forget(self, number: int) -> None:
        """Let go of the segment's file, if it is the open one: it is being removed."""
        if number == self._number:
            self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._number:
            self._number = 0
            self._disk.close(self._handle)

    def _switch_to(self, number: int) -> None:
        self.close()
        self._handle = self._disk.open(segment_path(self._directory, number))
        self._number = number
