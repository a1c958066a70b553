"""Owns the write-ahead log. Everything that must be durable goes through here, in order, one fdatasync a batch.

What depends on durability travels as data: an Append carries the replies to peers that wait for it, and they are
released when it, and all before it, are on disk (trap 7; the idea is etcd-io/raft's asynchronous storage writes).
An I/O error is raised and stops the node: to read again after a failed fsync could take lost data for durable
(trap 20). Only a full disk is waited out (trap 12).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from zraft.bus.actor import Actor, Context
from zraft.messages import (
    Append,
    Appended,
    CompactLog,
    DiskFull,
    LogRead,
    Outbound,
    ReadLog,
    Recover,
    Recovered,
    SaveClusterId,
)
from zraft.storage import Batch, HardState, WriteAheadLog
from zraft.storage import DiskFull as NoSpace

RETRY_FULL_DISK_MS = 200
TAIL_BYTES = 4 * 1024 * 1024  # of the log's end that a new consensus is given
TAIL_ENTRIES = 8192
MAX_WRITE_BYTES = 8 * 1024 * 1024  # in one write, unless a single Append holds more


log = logging.getLogger(__name__)


class LogWriter(Actor):
    """open_log: opens the log anew, after closing the one that a former life held; all that it holds is durable."""

    name = "log_writer"

    def __init__(self, context: Context, open_log: Callable[[], WriteAheadLog]) -> None:
        super().__init__(context)
        self.open_log = open_log
        self.pending: list[Append] = []  # accepted, not written
        self.full = False
        self.retry_ms: int | None = None  # when to try again what found the disk full; nothing is written before
        self.writes = 0
        self.compact_through = 0  # entries up to there are in a snapshot, and may still have segments
        self.handlers |= {
            Recover: self.on_recover,
            Append: self.on_append,
            ReadLog: self.on_read_log,
            CompactLog: self.on_compact_log,
            SaveClusterId: self.on_save_cluster_id,
        }

    def on_start(self) -> None:
        """Find out what is durable."""
        self.log = self.open_log()

    def on_neighbour_restarted(self, name: str) -> None:
        """The fence of Recover: what a dead consensus wanted written, and is not, is never written or answered."""
        if name == "consensus":
            self.pending.clear()
            self.full = False
            self.retry_ms = self.wakeup_ms = None
            self.compact_through = 0  # its successor knows a log that begins where this one does now

    def on_recover(self, sender: str, message: Recover) -> None:
        """Say what is durable. (Writes of this consensus that are pending stay so: it asks before its first.)"""
        log = self.log
        hard_state = log.hard_state or HardState(0, None)
        answer = Recovered(
            hard_state.term,
            hard_state.voted_for or "",
            log.hard_state is None,
            log.base,
            log.last_index,
            tuple(log.term_runs()),
            tuple(log.marked()),
            tuple(self.read_tail()),
            log.cluster_id,
            log.store_id,
        )
        self.context.send(sender, answer)

    def read_tail(self) -> list[Batch]:
        """The last batches of the log, some TAIL_BYTES of them."""
        first, last = self.log.base[0] + 1, self.log.last_index
        distance = TAIL_ENTRIES
        while last >= first:
            batches = self.log.read(max(first, last - distance), TAIL_BYTES)
            if batches[-1].first_index + batches[-1].count > last:
                return batches
            distance //= 2
        return []

    def on_append(self, sender: str, message: Append) -> None:
        """Gather; end_batch writes."""
        self.pending.append(message)

    def end_batch(self) -> None:
        """Write all that was gathered, with one fdatasync unless it is very much, and release what waited for it."""
        writes = self.writes
        if not self.pending:
            self.log.prepare_ahead()
        while self.pending and self.retry_ms is None:
            self.write(self.take_pending())
        # What was written is announced first: a segment takes some milliseconds to remove.
        more = self.compact_through and (self.writes > writes or self.compact())
        self.wakeup_ms = 0 if more else self.retry_ms

    def compact(self) -> bool:
        """Remove one segment. Whether there are more."""
        if not self.log.compact(self.compact_through):
            self.compact_through = 0
        return self.compact_through > 0

    def take_pending(self) -> list[Append]:
        """The oldest of what waits, some MAX_WRITE_BYTES; it stays in pending until it is written."""
        size = 0
        for count, append in enumerate(self.pending, 1):
            for batch in append.batches:
                size += len(batch[3])
            if count < len(self.pending) and self.pending[count].reset:
                return self.pending[:count]  # it comes before the batches of a write
            if size >= MAX_WRITE_BYTES:
                return self.pending[:count]
        return self.pending[:]

    def write(self, appends: list[Append]) -> None:
        """Make durable, then answer. A full disk changes nothing; the same is tried again later."""
        batches = [Batch(*batch) for append in appends for batch in append.batches]
        states = [append.hard_state for append in appends if append.hard_state]
        hard_state = HardState(states[-1][0], states[-1][1] or None) if states else None
        reset = (appends[0].reset[0], appends[0].reset[1]) if appends[0].reset else None
        self.context.boundary()
        try:
            self.log.append(batches, hard_state, reset)
        except NoSpace as error:
            self.retry_ms = self.context.now_ms() + RETRY_FULL_DISK_MS
            if not self.full:
                self.full = True
                log.error("%s; until then this node acknowledges nothing and does not lead", error)
                self.context.send("consensus", DiskFull(True))
            return
        self.writes += 1
        self.context.boundary()
        del self.pending[: len(appends)]
        replies = tuple(reply for append in appends for reply in append.replies)
        if replies:
            self.context.send("transport", Outbound(replies))
        self.context.send("consensus", Appended(appends[-1].sequence))
        if self.full:
            self.full = False
            self.context.send("consensus", DiskFull(False))

    def on_wakeup(self, now_ms: int) -> None:
        """Try again what found the disk full, or go on with compaction: end_batch follows."""
        if self.retry_ms is not None and now_ms >= self.retry_ms:
            self.retry_ms = None

    def on_read_log(self, sender: str, message: ReadLog) -> None:
        """For a peer that lags, or the applier."""
        batches = self.log.read(message.first_index, message.max_bytes)
        self.context.send(sender, LogRead(message.reader, message.first_index, tuple(batches)))

    def on_compact_log(self, sender: str, message: CompactLog) -> None:
        """When there is nothing to write; end_batch does it."""
        self.compact_through = max(self.compact_through, message.through)

    def on_save_cluster_id(self, sender: str, message: SaveClusterId) -> None:
        """Once in a store's life."""
        with suppress(NoSpace):  # consensus sends it again at its next start; until then the log knows it
            self.log.set_cluster_id(message.cluster_id)

    def on_stop(self) -> None:
        """Give the directory free."""
        self.log.close()

    def status(self) -> dict[str, Any]:
        """How many writes (fdatasyncs) this life did."""
        return {"log_writes": self.writes, "disk_full": self.full}
