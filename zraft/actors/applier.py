"""Owns the state machine: applies what is committed, in order, answers the clients of this node, takes snapshots.

Its death loses the whole state; its successor loads the newest snapshot and says where it stands, and consensus hands
it the log from there.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from typing import Any, NamedTuple

from zraft.bus.actor import Actor, Context
from zraft.errors import NodeMustStop, impossible
from zraft.messages import (
    Applied,
    Apply,
    EntryKind,
    ReadAt,
    ReadSnapshot,
    Recover,
    Replies,
    RestoreSnapshot,
    SnapshotFailed,
    SnapshotRead,
    SnapshotSaved,
    SnapshotWritten,
    TakeSnapshot,
    WriteSnapshot,
)
from zraft.raft.replication import MAX_APPLYING_RUNS
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.snapshot import FrozenState, Restoring, SnapshotError
from zraft.storage.snapshot_format import SnapshotEncoder, SnapshotHeader, SnapshotParser
from zraft.wire import ReplyStatus, unpack_rows

MAX_ANSWER_BYTES = 4 * 1024 * 1024  # to reads in one batch; then the others get a turn
PIECE_BYTES = 128 * 1024  # of a snapshot in one message
WINDOW_BYTES = 8 * PIECE_BYTES  # on their way to the snapshot_writer
SLICE_PAUSE_MS = 2  # between two slices of a snapshot: taking one must not take the processor from the hot path
SMALL_SNAPSHOT_BYTES = 1024 * 1024  # up to which one is cheap
LEAST_LOG_BYTES = 12 * 1024 * 1024  # behind one that is not
DISCARD_KEYS = 500  # of a state that is replaced, at a time
MARKS = 64  # of how many commands were applied up to where; they span twice `SnapshotPolicy.keep` commands
ANNOUNCED_RUNS = MAX_APPLYING_RUNS // 2  # consensus hands on so many more, so it is told twice in each window
MAX_REQUESTS = 1_000  # by hand, for a state that is not there yet; the oldest gives way

_COMMAND = int(EntryKind.COMMAND)
_CONFIG = int(EntryKind.CONFIG)
_OK = int(ReplyStatus.OK)
_IN_TERM = int(ReplyStatus.IN_TERM)

log = logging.getLogger(__name__)


class SnapshotPolicy(NamedTuple):
    """When to take a snapshot: so many entries after the last one, or so many bytes of them, but not before those are
    half as many bytes as the last snapshot has: else a large state would be written over and over. Two such logs, the
    two snapshots that are kept and the one being written are four times the state. Nor before they are some MiB, if the
    last one was not small: a state of some MiB that changes fast would be written all the time, to the disk that the
    log waits for. keep: entries that stay in the log behind a snapshot. A batch of commands counts as so many entries.
    """

    entries: int = 10_000
    bytes: int = 64 * 1024 * 1024
    keep: int = 5_000

    def is_due(self, entries: int, log_bytes: int, snapshot_bytes: int) -> bool:
        """entries, log_bytes: applied since the last snapshot; snapshot_bytes: its size."""
        least = snapshot_bytes / 2
        if snapshot_bytes > SMALL_SNAPSHOT_BYTES:
            least = max(least, min(LEAST_LOG_BYTES, self.bytes))
        return log_bytes >= least and (entries >= self.entries or log_bytes >= self.bytes)


class Taking:
    """A snapshot on its way to the snapshot_writer. revision: of the state in it; commands: that the machine had
    applied then. log_bytes: applied since the last."""

    def __init__(
        self, frozen: FrozenState, header: SnapshotHeader, revision: int, commands: int, log_bytes: int
    ) -> None:
        self.frozen: FrozenState | None = frozen
        self.revision = revision
        self.commands = commands
        self.log_bytes = log_bytes
        self.index, self.term = header.index, header.term
        self.encoder = SnapshotEncoder(header)
        self.buffer = self.encoder.begin()
        self.sent = 0
        self.written = 0

    def next_slice(self) -> WriteSnapshot | None:
        """Serialize a little more; a piece to send when one is full. Nothing while the window is."""
        if self.frozen is None or self.sent - self.written >= WINDOW_BYTES:
            return None
        chunk = self.frozen.next_chunk()
        self.buffer += self.encoder.finish() if chunk is None else self.encoder.add(chunk)
        if chunk is None:
            self.frozen = None
        elif len(self.buffer) < PIECE_BYTES:
            return None
        piece = WriteSnapshot("", self.index, self.term, self.sent, self.buffer, self.frozen is None)
        self.sent += len(self.buffer)
        self.buffer = b""
        return piece


class Loading:
    """A snapshot on its way from the snapshot_writer. index 0: the newest, whichever it is."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.offset = 0
        self.parser = SnapshotParser()
        self.restoring = Restoring()

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises CorruptSnapshot, SnapshotError."""
        self.offset += len(data)
        for chunk in self.parser.feed(data):
            self.restoring.feed(chunk)


class Applier(Actor):
    """One state machine a life. policy: when to take snapshots."""

    name = "applier"

    def __init__(self, context: Context, policy: SnapshotPolicy) -> None:
        super().__init__(context)
        self.policy = policy
        self.machine = StateMachine()
        self.term = 0  # of the last applied entry
        self.config = b""  # the data of the last applied CONFIG entry
        self.loading: Loading | None = Loading(0)
        self.discarded: list[StateMachine | Restoring] = []  # freed in slices
        self.questions = 0  # of consensus, where this stands, without an answer
        self.taking: Taking | None = None
        self.requests: list[tuple[int, int]] = []  # (token, revision) of snapshots that were asked for by hand
        self.snapshot_index = 0
        self.snapshot_commands = 0  # that the machine had applied then
        self.marks: deque[tuple[int, int]] = deque(maxlen=MARKS)  # (index, commands applied up to there), now and then
        self.spare = 0  # see Applied
        self.snapshot_bytes = 0
        self.log_bytes = 0  # applied since the last snapshot
        self.retry_index = self.retry_commands = 0  # no snapshot before one of these is applied: the last one failed
        self.waiting_reads: deque[tuple[int, int, bytes, bytes]] = deque()  # (read_index, token, query)
        self.replies: list[tuple[int, int, bytes]] = []
        self.answer_bytes = 0  # to reads, in this batch
        self.unannounced_runs = 0  # Applies since consensus was told how far this is
        self.handlers |= {
            Recover: self.on_recover,
            Apply: self.on_apply,
            ReadAt: self.on_read_at,
            RestoreSnapshot: self.on_restore_snapshot,
            SnapshotRead: self.on_snapshot_read,
            SnapshotWritten: self.on_snapshot_written,
            SnapshotSaved: self.on_snapshot_saved,
            SnapshotFailed: self.on_snapshot_failed,
            TakeSnapshot: self.on_take_snapshot,
        }

    # --- loading a snapshot

    def on_start(self) -> None:
        """Load the newest snapshot, if there is one."""
        self.read_more()

    def load(self) -> None:
        """Begin with the newest snapshot, instead of any that is being loaded."""
        if self.loading is not None:
            self.discarded.append(self.loading.restoring)
            self.wakeup_ms = 0
        self.loading = Loading(0)
        self.read_more()

    def read_more(self) -> None:
        """Ask for the next bytes of what is loaded."""
        if self.loading is not None:
            ask = ReadSnapshot("", self.loading.index, self.loading.offset, PIECE_BYTES)
            self.context.send("snapshot_writer", ask)

    def on_snapshot_read(self, sender: str, message: SnapshotRead) -> None:
        """Some bytes of it."""
        _, index, offset, data, size = message
        loading = self.loading
        if loading is None or offset != loading.offset or loading.index not in (0, index or loading.index):
            return  # asked for before the snapshot_writer's or this actor's mind changed
        if not size:
            if loading.index:
                self.load()  # a newer one took its place
            else:
                self.loading = None  # there is none: the log has everything
                self.stand()
            return
        loading.index = index
        try:
            loading.feed(data)
            if loading.parser.complete:
                self.loaded(loading, size)
        except SnapshotError as error:  # no other life of this actor could read it either
            raise NodeMustStop(
                f"the snapshot of the first {index} entries is whole, but no state that this version knows ({error}): "
                "start the version that wrote it"
            ) from error
        if not loading.parser.complete:
            self.read_more()

    def loaded(self, loading: Loading, size: int) -> None:
        """Take the state over."""
        header = loading.parser.header
        if header is None:
            raise impossible("a whole snapshot without a header", index=loading.index)
        self.machine = loading.restoring.finish()
        if self.machine.last_applied != header.index:
            raise impossible("a snapshot of another index", header=header.index, state=self.machine.last_applied)
        self.term, self.config = header.term, header.config
        self.snapshot_index, self.snapshot_bytes, self.log_bytes = header.index, size, 0
        self.snapshot_commands = self.retry_commands = self.machine.commands
        self.marks.clear()
        self.loading = None
        log.info("loaded the snapshot of the first %d entries: %d keys", header.index, self.machine.key_count)
        self.stand()
        self.answer_reads()

    def on_restore_snapshot(self, sender: str, message: RestoreSnapshot) -> None:
        """The leader's snapshot goes further than this state."""
        self.questions += 1
        if self.loading is not None:
            if self.loading.index < message.index:
                self.load()
        elif self.machine.last_applied >= message.index:
            self.stand()
        else:
            self.stop_taking("the leader's snapshot replaces this node's state")
            self.discarded.append(self.machine)
            self.wakeup_ms = 0
            self.machine = StateMachine()
            self.load()

    def on_recover(self, sender: str, message: Recover) -> None:
        """A consensus began a life, or saw this one begin: tell it where to go on. Reads of an older one are void."""
        self.waiting_reads.clear()
        self.questions += 1
        self.stand()

    def stand(self) -> None:
        """Tell consensus where this stands, if it asked and there is nothing to load."""
        if self.questions and self.loading is None:
            questions, self.questions = self.questions, 0
            self.announce(questions)

    def announce(self, questions: int) -> None:
        """Tell consensus how far this is; questions: how many of its questions that answers."""
        self.unannounced_runs = 0
        machine = self.machine
        self.context.send("consensus", Applied(machine.last_applied, machine.log_time_ms, questions, self.spare))

    # --- entries and reads

    def on_apply(self, sender: str, message: Apply) -> None:
        """The next committed entries."""
        machine = self.machine
        index = message.first_index
        if index != machine.last_applied + 1:
            raise impossible("a gap in what is applied", first_index=index, last_applied=machine.last_applied)
        tokens = dict(message.tokens)
        entries = unpack_rows(message.entries)
        for _, time_ms, kind, data in entries:
            if kind == _COMMAND:
                result = machine.apply(index, time_ms, data)
                if index in tokens:
                    self.replies.append((tokens[index], _OK, result))
            else:
                machine.skip(index, time_ms)
                if kind == _CONFIG:
                    self.config = data
            index += 1
        if entries:
            self.term = entries[-1][0]
        self.log_bytes += len(message.entries)
        if not self.marks or machine.commands - self.marks[-1][1] > self.policy.keep // (MARKS // 2):
            self.marks.append((machine.last_applied, machine.commands))
        self.unannounced_runs += 1
        self.answer_reads()

    def on_read_at(self, sender: str, message: ReadAt) -> None:
        """Reads wait for their index."""
        read_index, reads, condition = message
        self.waiting_reads.extend((read_index, token, query, condition) for token, query in reads)
        self.answer_reads()

    def answer_reads(self) -> None:
        """Those whose index is applied, in the order in which they came. Many large ones in several batches."""
        machine, waiting = self.machine, self.waiting_reads
        while waiting and waiting[0][0] <= machine.last_applied:
            if self.answer_bytes > MAX_ANSWER_BYTES:
                self.wakeup_ms = 0  # at once, but after this batch
                return
            _, token, query, condition = waiting.popleft()
            result = machine.query(query)
            self.answer_bytes += len(result)
            self.replies.append((token, _IN_TERM, condition + result) if condition else (token, _OK, result))

    # --- taking a snapshot

    def on_take_snapshot(self, sender: str, message: TakeSnapshot) -> None:
        """By hand."""
        self.requests.append((message.token, message.revision))
        if len(self.requests) > MAX_REQUESTS:
            token, revision = self.requests.pop(0)
            self.replies.append((token, int(ReplyStatus.REFUSED), f"revision {revision} is not there yet".encode()))

    def is_snapshot_due(self) -> bool:
        """By the policy, or because somebody asked for one that the last one is too old for."""
        machine = self.machine
        if self.taking is not None or self.loading is not None or not self.config:
            return False
        if any(revision <= machine.revision for _, revision in self.requests):
            return True
        entries = max(machine.last_applied - self.snapshot_index, machine.commands - self.snapshot_commands)
        if machine.last_applied < self.retry_index and machine.commands < self.retry_commands:
            return False
        return self.policy.is_due(entries, self.log_bytes, self.snapshot_bytes)

    def take_snapshot(self) -> None:
        """Begin one of the present state. It is serialized in slices between batches (dissertation 5.1)."""
        machine = self.machine
        if machine.last_applied == self.snapshot_index:
            self.answer_requests(machine.revision)  # nothing was applied since the last one
            return
        header = SnapshotHeader(machine.last_applied, self.term, self.config)
        kept_from = machine.commands - self.policy.keep
        self.spare = max((index for index, commands in self.marks if commands <= kept_from), default=self.spare)
        self.taking = Taking(machine.freeze(), header, machine.revision, machine.commands, self.log_bytes)
        self.announce(0)  # before the snapshot is saved: what the log may let go of then
        self.wakeup_ms = 0

    def continue_snapshot(self) -> None:
        """One slice."""
        if self.taking is None or self.taking.frozen is None:
            return
        piece = self.taking.next_slice()
        if piece is not None:
            self.context.send("snapshot_writer", piece)
        if self.wakeup_ms is None:
            self.wakeup_ms = self.context.now_ms() + SLICE_PAUSE_MS

    def stop_taking(self, why: str) -> None:
        """No more of the snapshot that is being taken. Why it is given up; "": it is saved, maybe by a snapshot_writer
        that died before it said so, and this was the second attempt."""
        if self.taking is not None:
            if why:
                log.warning("gives up the snapshot of the first %d entries: %s", self.taking.index, why)
            if self.taking.frozen is not None:
                self.taking.frozen.release()
            self.taking = None

    def on_snapshot_written(self, sender: str, message: SnapshotWritten) -> None:
        """A piece is taken; 0: it was found damaged on its way, which must not be."""
        taking = self.taking
        if taking is None or message.index != taking.index:
            return
        if message.offset < taking.written:
            raise impossible("a snapshot was not accepted", index=message.index, offset=message.offset)
        taking.written = message.offset

    def on_snapshot_saved(self, sender: str, message: SnapshotSaved) -> None:
        """It is durable. A late answer to pieces of an older one says nothing of what is being taken now."""
        if message.index >= self.snapshot_index:
            self.snapshot_index, self.snapshot_bytes = message.index, message.size
        taking = self.taking
        if taking is None or message.index < taking.index:
            return
        self.stop_taking("" if taking.index == message.index else f"there is one of the first {message.index}")
        self.log_bytes -= taking.log_bytes
        self.snapshot_commands = taking.commands
        self.answer_requests(taking.revision)  # a newer one does as well

    def answer_requests(self, revision: int) -> None:
        """Those by hand that the newest snapshot, of a state of this revision, fulfils."""
        body = json.dumps({"index": self.snapshot_index, "bytes": self.snapshot_bytes}).encode()
        self.replies += [(token, _OK, body) for token, least in self.requests if least <= revision]
        self.requests = [(token, least) for token, least in self.requests if least > revision]

    def on_snapshot_failed(self, sender: str, message: SnapshotFailed) -> None:
        """There is no space: try again somewhat later."""
        self.stop_taking(message.reason)
        wait = max(1, self.policy.entries // 10)
        self.retry_index, self.retry_commands = self.machine.last_applied + wait, self.machine.commands + wait
        text = f"no snapshot was taken: {message.reason}".encode()
        self.replies += [(token, int(ReplyStatus.REFUSED), text) for token, _ in self.requests]
        self.requests.clear()

    def on_neighbour_restarted(self, name: str) -> None:
        """The snapshot_writer has lost what it had of a snapshot, and what it was asked for."""
        if name == "snapshot_writer":
            self.stop_taking("the snapshot_writer was restarted")
            self.read_more()
        elif name == "frontend":
            self.requests.clear()
        elif name == "consensus":
            self.questions = 0

    # --- the end of a batch

    def on_wakeup(self, now_ms: int) -> None:
        """Go on with reads, a snapshot, or the end of an old state."""
        self.answer_reads()
        self.continue_snapshot()
        if self.discarded:
            if not self.discarded[-1].discard_slice(DISCARD_KEYS):
                self.discarded.pop()
            self.wakeup_ms = 0

    def end_batch(self) -> None:
        """One message to each."""
        self.answer_bytes = 0
        if self.is_snapshot_due():
            self.take_snapshot()
        if self.replies:
            replies, self.replies = tuple(self.replies), []
            self.context.send("frontend", Replies(replies))
        if self.unannounced_runs >= ANNOUNCED_RUNS and self.loading is None:
            self.announce(0)

    def status(self) -> dict[str, Any]:
        """last_applied, and the state at it."""
        machine = self.machine
        return {
            "last_applied": machine.last_applied,
            "revision": machine.revision,
            "state_hash": machine.state_hash,
            "keys": machine.key_count,
            "sessions": machine.session_count,
            "loading": self.loading is not None,
            "taking_snapshot": self.taking.index if self.taking is not None else None,
        }
