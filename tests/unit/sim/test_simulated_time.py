"""Virtual time, clocks that drift, and the reference that entries are compared with."""

from __future__ import annotations

from typing import Any

from zraft.messages import Entry, EntryKind
from zraft.sim.reference import Reference
from zraft.sim.scheduler import Scheduler
from zraft.statemachine.codec import Op, encode_command


def test_events_come_in_the_order_of_their_times_and_of_their_making() -> None:
    scheduler, seen = Scheduler(), []
    for time_us, name in ((30, "c"), (10, "a"), (30, "d"), (20, "b")):
        scheduler.at(time_us, lambda argument: seen.append((scheduler.now_us, argument)), name)
    scheduler.run_until(29)
    assert seen == [(10, "a"), (20, "b")] and scheduler.now_us == 29
    scheduler.run_until(100)
    assert seen[2:] == [(30, "c"), (30, "d")] and scheduler.events == 4


def test_what_is_due_in_the_past_is_due_now() -> None:
    scheduler, seen = Scheduler(), []
    scheduler.run_until(50)
    scheduler.at(10, lambda argument: seen.append(scheduler.now_us), None)
    scheduler.run_until(50)
    assert seen == [50]


def command(*fields: Any) -> Entry:
    return Entry(1, 0, EntryKind.COMMAND, encode_command(*fields))


def test_reference_applies_a_retry_once_and_what_no_session_sent_never() -> None:
    reference = Reference()
    entries = [
        command(0, 0, 0, Op.OPEN_SESSION),
        command(1, 2, 0, Op.SET, b"k", b"b"),
        command(1, 1, 0, Op.SET, b"k", b"a"),
        command(1, 2, 0, Op.SET, b"k", b"b"),
        command(9, 1, 0, Op.SET, b"k", b"c"),
        command(1, 3, 2, Op.CAS, b"k", b"b", b"d"),
        command(1, 4, 3, Op.DELETE, b"k"),
        command(1, 4, 3, Op.DELETE, b"k"),
        Entry(1, 0, EntryKind.NOOP, b""),
    ]
    for index, entry in enumerate(entries, 1):
        reference.take(index, entry)
    assert reference.revision_at == [0, 0, 1, 2, 2, 2, 2, 3, 3, 3]
