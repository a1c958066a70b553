"""What Raft hands to a log_writer or applier that began a new life, and what not."""

from __future__ import annotations

from random import Random

from zraft.messages import AppendReply, Entry, EntryKind, Heartbeat, HeartbeatReply, VoteReply
from zraft.raft import Address, Durable, Membership, Raft, Role, Settings
from zraft.raft.log import RaftLog
from zraft.wire import MAX_ARRAY, EntriesCache, pack_peer, unpack_peer

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
    raft.on_applier_restarted(0, 0)
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


def test_many_small_entries_read_from_disk_are_handed_on_in_runs_that_a_message_can_hold() -> None:
    count = 30_000
    small = [Entry(1, 0, EntryKind.COMMAND, b"")] * count
    raft = Raft("n1", MEMBERS, Durable(1, None, RaftLog([(1, 1)], count, small[-5:]), False), Settings(), Random(1))
    raft.tick(1)
    raft.step("n2", Heartbeat(1, count, 0))
    assert raft.take_output().log_reads == [("", 1)]
    raft.on_log_read("", 1, small[:-5])
    runs = raft.take_output().apply
    assert max(len(run) for _, run in runs) <= MAX_ARRAY
    assert [first for first, _ in runs] == [1 + sum(len(run) for _, run in runs[:place]) for place in range(len(runs))]
    assert sum(len(run) for _, run in runs) == count


def test_what_was_read_for_a_lagging_peer_is_sent_in_messages_that_it_can_decode() -> None:
    raft = leader(RaftLog([(1, 1)], 30_000, [Entry(1, 0, EntryKind.COMMAND, b"")] * 5))
    raft.step("n2", AppendReply(2, False, 30_000, 0, 1))
    assert ("n2", 1) in raft.take_output().log_reads
    raft.on_log_read("n2", 1, [Entry(1, 0, EntryKind.COMMAND, b"")] * 29_000)
    [message] = [message for peer, message in raft.take_output().messages if peer == "n2"]
    assert unpack_peer(pack_peer(message, EntriesCache())) == message and len(message.entries) > 1_000


def test_a_leader_whose_log_writer_does_not_come_back_gives_leadership_up() -> None:
    raft = leader(RaftLog([(1, 1)], 10, ENTRIES[7:]))
    write = raft.sequence
    raft.on_appended(write)
    raft.on_log_writer_lost()  # with nothing on its way
    for now_ms in range(1_000, 4_000, 40):
        raft.tick(now_ms)
        for peer in ("n2", "n3"):
            raft.step(peer, HeartbeatReply(raft.current_term, 0))
        raft.take_output()
    assert raft.role is Role.FOLLOWER and raft.leader_id is None


def leader(log: RaftLog) -> Raft:
    """n1, elected in term 2 at 300 ms or so, with its first entry on its way to the disk."""
    raft = Raft("n1", MEMBERS, Durable(1, None, log, False), Settings(), Random(1))
    for now_ms in range(10, 400, 40):
        raft.tick(now_ms)
    for pre_vote in (True, False):
        raft.step("n2", VoteReply(2, True, pre_vote))
        write = raft.take_output().write
        if write is not None:
            raft.on_appended(write.sequence)
    assert raft.role is Role.LEADER
    raft.take_output()
    return raft
