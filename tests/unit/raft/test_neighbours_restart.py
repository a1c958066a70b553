"""What Raft hands to a log_writer or applier that began a new life, and what not."""

from __future__ import annotations

from random import Random

from zraft.messages import Entry, EntryKind, Heartbeat
from zraft.raft import Address, Durable, Membership, Raft, Settings
from zraft.raft.log import RaftLog

MEMBERS = Membership(7, {name: Address(f"tcp://{name}:1", f"tcp://{name}:2") for name in ("n1", "n2", "n3")})
ENTRIES = [Entry(1, 0, EntryKind.COMMAND, b"%d" % index) for index in range(1, 11)]


def follower() -> Raft:
    """Ten entries on disk, the last three in memory, all committed, none applied."""
    raft = Raft("n1", MEMBERS, Durable(1, None, RaftLog([(1, 1)], 10, ENTRIES[7:]), False), Settings(), Random(1))
    raft.tick(1)
    raft.step("n2", Heartbeat(1, 10, 0))
    assert raft.take_output().log_reads == [("", 1)]
    return raft


def test_what_was_read_for_a_dead_applier_is_not_handed_to_its_successor() -> None:
    raft = follower()
    raft.on_log_read("", 1, ENTRIES[:7])
    raft.on_applier_lost()  # in the same batch
    assert raft.take_output().apply == []
    raft.on_log_read("", 1, ENTRIES[:7])
    assert raft.take_output().apply == [], "before it has said where it stands"
    raft.on_applier_restarted(0)
    assert raft.take_output().log_reads == [("", 1)]
    raft.on_log_read("", 1, ENTRIES[:7])
    assert [(first, len(run)) for first, run in raft.take_output().apply] == [(1, 7), (8, 3)]


def test_nothing_is_written_before_a_new_log_writer_has_said_what_is_durable() -> None:
    raft = follower()
    raft.on_log_writer_lost()
    raft.step("n2", Heartbeat(2, 10, 0))
    assert raft.take_output().write is None
    raft.on_log_writer_restarted(RaftLog([(1, 1)], 10, ENTRIES[9:]))
    write = raft.take_output().write
    assert write is not None and write.hard_state == (2, None)
    assert [type(message).__name__ for _, message in write.replies] == ["HeartbeatReply"]
