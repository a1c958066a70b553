"""An applier and a real snapshot_writer, on a disk in memory: the test carries every message and chooses the order."""

from __future__ import annotations

from typing import Any

from fake_bus import Clock, FakeContext, run_batch
from memory_disk import MemoryDisk

from zraft.actors.applier import Applier, SnapshotPolicy
from zraft.actors.snapshot_writer import SnapshotWriter
from zraft.messages import (
    Apply,
    Entry,
    EntryKind,
    Recover,
)
from zraft.statemachine.codec import Op, encode_command
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.snapshot import Restoring
from zraft.storage import SnapshotStore
from zraft.storage.snapshot_format import SnapshotParser
from zraft.wire import ReplyStatus, pack_entries

NEVER = SnapshotPolicy(entries=1_000_000, bytes=1 << 40)
VALUE = bytes(1_000)
OK, REFUSED = int(ReplyStatus.OK), int(ReplyStatus.REFUSED)


def command(index: int, key: bytes = b"", value: bytes = VALUE) -> Entry:
    """Entry 1 is the members, entry 2 opens session 2, whose commands are the others."""
    if index == 1:
        return Entry(1, 100, EntryKind.CONFIG, b"the members")
    if index == 2:
        return Entry(1, 100, EntryKind.COMMAND, encode_command(0, 0, 0, Op.OPEN_SESSION))
    set_key = encode_command(2, index - 2, index - 3, Op.SET, key or b"key %06d" % index, value)
    return Entry(1 + index // 50, 100 + index, EntryKind.COMMAND, set_key)


def entries(first: int, last: int, *tokens: tuple[int, int]) -> Apply:
    return Apply(first, pack_entries([command(index) for index in range(first, last + 1)]), tokens)


def machine_after(last: int) -> StateMachine:
    machine = StateMachine()
    for index in range(1, last + 1):
        _, time_ms, kind, data = command(index)
        if kind == EntryKind.COMMAND:
            machine.apply(index, time_ms, data)
        else:
            machine.skip(index, time_ms)
    return machine


class Scene:
    """`applier` and `writer` on one disk. `deliver` carries what waits; `life` and `writer_life` begin new lives."""

    def __init__(self, policy: SnapshotPolicy = NEVER, disk: MemoryDisk | None = None) -> None:
        self.clock = Clock()
        self.disk = disk or MemoryDisk()
        self.policy = policy
        self.lives = {"applier": 0, "snapshot_writer": 0}
        self.writer_life()
        self.life()

    def life(self) -> None:
        self.lives["applier"] += 1
        self.context = FakeContext("applier", self.lives["applier"], clock=self.clock)
        self.applier = Applier(self.context, self.policy)
        self.applier.on_start()
        self.writer_context.sent.clear()

    def writer_life(self) -> None:
        self.lives["snapshot_writer"] += 1
        self.writer_context = FakeContext("snapshot_writer", self.lives["snapshot_writer"], clock=self.clock)
        self.writer = SnapshotWriter(self.writer_context, lambda: SnapshotStore.open(self.disk, "/data"))
        self.writer.on_start()
        if self.lives["snapshot_writer"] > 1:
            self.context.taken_for("snapshot_writer")
            self.applier.on_neighbour_restarted("snapshot_writer")
            self.applier.end_batch()

    def say(self, *messages: Any, sender: str = "consensus") -> list[Any]:
        """Returns what consensus is sent."""
        run_batch(self.applier, *((sender, message) for message in messages))
        return self.context.taken_for("consensus")

    def wake(self) -> None:
        assert self.applier.wakeup_ms is not None
        self.clock.now_ms, self.applier.wakeup_ms = max(self.clock.now_ms, self.applier.wakeup_ms), None
        self.applier.on_wakeup(self.clock.now_ms)
        self.applier.end_batch()

    def to_writer(self) -> list[Any]:
        """What the applier has for it reaches the snapshot_writer. Returns it."""
        messages = self.context.taken_for("snapshot_writer")
        run_batch(self.writer, *(("applier", message) for message in messages))
        return messages

    def to_applier(self, most: int = 1_000) -> list[Any]:
        """The answers, `most` of them, reach the applier. Returns them."""
        messages = self.writer_context.taken_for("applier")
        self.writer_context.sent = [("applier", message) for message in messages[most:]]
        run_batch(self.applier, *(("snapshot_writer", message) for message in messages[:most]))
        return messages[:most]

    def deliver(self) -> None:
        """Until nobody has anything to do."""
        for _ in range(100_000):
            carried = self.to_writer() + self.to_applier()
            if self.applier.wakeup_ms is not None:
                self.wake()
            elif not carried:
                return
        raise AssertionError("they do not come to rest")

    def begin(self) -> Scene:
        """Loaded, and consensus knows where it stands."""
        self.deliver()
        self.say(Recover())
        return self

    def replies(self) -> list[tuple[int, int, bytes]]:
        return [reply for message in self.context.taken_for("frontend") for reply in message.replies]

    def files(self) -> dict[int, bytes]:
        return {int(name[-25:-9]): bytes(data) for name, data in self.disk.files.items() if name.endswith(".snapshot")}


def restored(data: bytes) -> tuple[Any, StateMachine]:
    """The header of a snapshot file and the state in it."""
    parser, restoring = SnapshotParser(), Restoring()
    for chunk in parser.feed(data):
        restoring.feed(chunk)
    assert parser.complete
    return parser.header, restoring.finish()
