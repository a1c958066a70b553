"""Paper, section 7: log compaction; figure 13: InstallSnapshot."""

from __future__ import annotations

import pytest
from cluster_harness import SETTINGS, Cluster, Packet
from model_disk import StorePiece
from snapshot_cases import follower, grow, left_behind, saved_snapshot, settled

from zraft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    InstallSnapshot,
    InstallSnapshotReply,
    RequestVote,
    VoteReply,
)
from zraft.raft import Durable, Raft, Role, SavedSnapshot
from zraft.raft.log import RaftLog
from zraft.raft.progress import ProgressState

LEAST, MOST = SETTINGS.election_timeout_ms


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zraft.raft.progress.SNAPSHOT_PIECE_BYTES", 100)
    monkeypatch.setattr("zraft.raft.progress.SNAPSHOT_WINDOW_BYTES", 300)


def pieces(cluster: Cluster, to: str = "n3") -> list[Packet]:
    return [p for p in cluster.network if p.receiver == to and type(p.message) is InstallSnapshot]


def first_pieces(cluster: Cluster) -> list[Packet]:
    """All links work again; up to the moment when the first pieces are on their way to n3."""
    cluster.heal()
    for _ in range(200):
        cluster.now_ms += 5
        cluster.tick(*[node for node in cluster.nodes.values() if node.id != "n3" or node.raft.role is Role.FOLLOWER])
        for _ in range(3):
            for packet in [p for p in cluster.network if type(p.message) is not InstallSnapshot]:
                cluster.deliver(packet)
            for node in cluster.nodes.values():
                cluster.complete(node)
                cluster.store(node)
                cluster.notify(node)
            if pieces(cluster):
                return pieces(cluster)
    raise AssertionError("no snapshot is sent")


def test_a_follower_that_was_away_for_long_gets_a_snapshot_and_then_the_entries_behind_it() -> None:
    cluster = left_behind()
    cluster.heal()
    assert cluster.run(2_000, until=lambda: len(cluster["n3"].applied) == len(cluster["n1"].applied))
    node = cluster["n3"]
    assert node.raft.snapshot.index == 7 == node.raft.log.base_index == node.disk.base[0]
    assert node.applied == cluster["n1"].applied and cluster["n1"].raft.progress["n3"].state is ProgressState.REPLICATE
    installs = [p.message for p in cluster.sent if type(p.message) is InstallSnapshot]
    assert len({message.offset for message in installs}) == len(installs) > 3, "each piece was sent once"
    last = cluster.propose(cluster["n1"], b"after")
    cluster.run(100)
    assert len(node.applied) == last


def test_what_was_read_from_disk_is_not_sent_if_the_log_was_compacted_meanwhile() -> None:
    """The follower could not be reached for an election timeout, so that nothing was kept for it."""
    cluster = left_behind()
    node = cluster["n1"]
    progress = node.raft.progress["n3"]
    progress.probe()
    progress.next_index, progress.reading = 3, True
    entries = node.applied[2:6]
    cluster.input(node, lambda raft: raft.on_log_read("n3", 3, entries))
    assert not progress.reading and progress.state is ProgressState.SNAPSHOT


def conflicting(config: bool = False) -> Durable:
    """A snapshot of 3, of term 2, and a log of five entries of term 1, of which the last may be a CONFIG."""
    cluster = Cluster(3)
    members = cluster["n1"].founding
    entries = [Entry(1, 0, EntryKind.COMMAND, b"%d" % index) for index in range(1, 6)]
    if config:
        entries[4] = Entry(1, 0, EntryKind.CONFIG, members._replace(cluster_id=5).encode())
    saved = SavedSnapshot(3, 2, members._replace(cluster_id=7).encode(), 10, 0)
    configs = ((5, members._replace(cluster_id=5)),) if config else ()
    return Durable(2, None, RaftLog([(1, 1)], 5, entries[3:]), False, None, saved, configs)


def test_trap_04_members_in_a_log_that_the_snapshot_replaced_are_not_in_force_after_a_restart() -> None:
    cluster = Cluster(3)
    node = cluster["n1"]
    raft = Raft("n1", node.founding, conflicting(config=True), SETTINGS, node.rng)
    assert (raft.log.base_index, raft.log.last_index) == (3, 3)
    assert raft.membership.cluster_id == 7


def test_a_restore_that_has_become_needless_is_not_asked_for() -> None:
    """The applier began a new life and loaded the leader's snapshot by itself, before consensus had asked it to; both
    pieces of news come in one batch. Asked all the same, it would say once more where it stands, and be handed the
    same entries twice."""
    cluster = left_behind()
    node = cluster["n3"]
    cluster.input(node, lambda raft: raft.on_applier_lost())
    newest = cluster["n1"].disk.saved()
    node.disk.save(cluster["n1"].disk.snapshots[-1])
    node.applied = list(node.disk.snapshots[-1].state)
    saved = node.disk.saved()
    assert saved == newest._replace(older_index=0)
    node.raft.on_snapshot_saved(saved)
    node.raft.on_applier_restarted(7, 0)
    output = node.raft.take_output()
    assert not output.restore and node.raft.applier_known and node.raft.applying_index == 7


def test_a_snapshot_that_is_gone_is_replaced_by_the_newest_once() -> None:
    """Each piece of the window that was asked for is answered with: gone."""
    cluster = left_behind()
    first_pieces(cluster)
    cluster.isolate("n3")
    leader = cluster["n1"]
    progress = leader.raft.progress["n3"]
    grow(cluster, "n1")
    grow(cluster, "n1")
    newest = leader.raft.snapshot.index
    assert progress.snapshot_index == 7 < newest
    leader.disk.files.clear()
    gone = [lambda raft, at=offset: raft.on_snapshot_read("n3", 0, at, b"", 0) for offset in (0, 100, 200)]
    cluster.input(leader, gone[0])
    assert progress.snapshot_index == newest and len(leader.disk.files) == 3
    for late in gone[1:]:
        cluster.input(leader, late)
    assert len(leader.disk.files) == 3, "the window, once"


# --- the transfer


@pytest.mark.parametrize("lost", range(4))
def test_a_piece_that_is_lost_is_sent_again(lost: int) -> None:
    cluster = left_behind()
    seen: list[Packet] = []

    def drop(packet: Packet) -> bool:
        if type(packet.message) is not InstallSnapshot:
            return False
        seen.append(packet)
        return len(seen) == lost + 1

    cluster.drop = drop
    settled(cluster)
    assert (
        sum(p.message.offset == seen[lost].message.offset for p in seen) == 2 and cluster["n3"].raft.snapshot.index == 7
    )


def test_only_a_window_of_pieces_is_under_way_and_goes_again_when_nothing_is_heard_of_it() -> None:
    cluster = left_behind()
    found = first_pieces(cluster)
    leader, progress = cluster["n1"], cluster["n1"].raft.progress["n3"]
    assert [p.message.offset for p in found] == [0, 100, 200] and progress.snapshot_size > 600
    cluster.network[:] = [p for p in cluster.network if type(p.message) is not InstallSnapshot]
    cluster.input(leader, lambda raft: raft.tick(cluster.now_ms))
    assert not leader.disk.files
    for _ in range(3):
        cluster.now_ms += SETTINGS.heartbeat_ms
        cluster.tick(leader)
    cluster.input(leader, lambda raft: raft.on_heartbeat_contact(progress))
    cluster.store(leader)
    cluster.notify(leader)
    assert [p.message.offset for p in pieces(cluster)] == [0, 100, 200]


def test_doubled_and_reordered_pieces_do_no_harm() -> None:
    cluster = left_behind()
    found = first_pieces(cluster)
    for packet in [*reversed(found), *found, found[0], *found]:
        cluster.deliver(packet)
    node = cluster["n3"]
    cluster.store(node)
    cluster.notify(node)
    assert node.disk.unfinished[0] == 7 and len(node.disk.unfinished[2]) == 300
    for packet in [p for p in cluster.network if type(p.message) is InstallSnapshotReply]:
        cluster.deliver(packet)
    assert cluster["n1"].raft.progress["n3"].snapshot_acked == 300
    settled(cluster)
    assert node.raft.snapshot.index == 7


def test_match_is_not_moved_by_what_a_follower_has_of_a_snapshot() -> None:
    """Nor is anything by a reply to an older transfer, or of a snapshot that is not sent."""
    cluster = left_behind()
    first_pieces(cluster)
    progress = cluster["n1"].raft.progress["n3"]
    size = progress.snapshot_size
    for index, offset in ((4, size), (9, size), (7, size)):
        cluster.deliver(Packet("n3", "n1", InstallSnapshotReply(1, index, offset)))
        assert progress.match_index == 1 and progress.state is ProgressState.SNAPSHOT
        assert progress.snapshot_acked == (size if index == 7 else 0)
    cluster.deliver(Packet("n3", "n1", AppendReply(1, True, 7, 0, 0)))
    assert progress.match_index == 7 and progress.state is ProgressState.REPLICATE


def test_a_follower_whose_snapshot_writer_died_begins_again() -> None:
    cluster = left_behind()
    for packet in first_pieces(cluster):
        cluster.deliver(packet)
    node = cluster["n3"]
    cluster.store(node)
    cluster.restart_snapshot_writer(node)
    assert not node.disk.unfinished[2]
    settled(cluster)
    assert node.raft.snapshot.index == 7


def test_a_leader_that_takes_newer_snapshots_meanwhile_goes_on_with_the_one_it_sends() -> None:
    cluster = left_behind()
    for packet in first_pieces(cluster):
        cluster.deliver(packet)
    leader = cluster["n1"]
    cluster.cut = {("n1", "n3"), ("n3", "n1")}
    for _ in range(2):
        grow(cluster, "n1", "n2")
    cluster.store(cluster["n3"])
    assert leader.raft.snapshot.index == 16 and leader.raft.progress["n3"].snapshot_index == 7
    assert leader.raft.log.base_index == 7, "what follows the snapshot that is being sent is kept"
    settled(cluster)
    assert cluster["n3"].raft.snapshot.index == 16, "that of 7 was gone, and another begun"


def test_a_new_leader_goes_on_where_the_old_one_stopped() -> None:
    """Equal states are equal bytes: what the follower has of the snapshot is good."""
    cluster = left_behind()
    for packet in first_pieces(cluster):
        cluster.deliver(packet)
    node = cluster["n3"]
    cluster.store(node)
    cluster.notify(node)
    cluster.stop(cluster["n1"])
    cluster.network.clear()
    assert cluster.run(5_000, until=lambda: node.raft.snapshot.index == 7)
    offsets = [p.message.offset for p in cluster.sent if p.sender == "n2" and type(p.message) is InstallSnapshot]
    assert offsets[:3] == [0, 100, 200], "it does not know"
    assert max(offsets.count(offset) for offset in offsets) == 1, "the answer tells it"


def test_a_deposed_leaders_snapshot_is_refused_with_the_new_term() -> None:
    cluster = left_behind()
    found = first_pieces(cluster)
    node = cluster["n3"]
    cluster.deliver(Packet("n2", "n3", AppendEntries(5, 1, 1, 1, ())))
    cluster.complete(node)
    cluster.notify(node)
    cluster.network.clear()
    cluster.deliver(found[0])
    assert not node.disk.files and [p.message for p in cluster.network] == [InstallSnapshotReply(5, 7, 0)]


def test_a_snapshot_of_a_deposed_leader_that_is_saved_late_counts_all_the_same() -> None:
    """What it covers is committed, whoever sent it; the leader of now is told how far that is."""
    cluster = left_behind()
    first_pieces(cluster)
    node = cluster["n3"]
    node.disk.save(cluster["n1"].disk.snapshots[-1])
    cluster.deliver(Packet("n2", "n3", AppendEntries(5, 1, 1, 1, ())))
    cluster.complete(node)
    cluster.network.clear()
    cluster.restart_snapshot_writer(node)
    cluster.notify(node)
    assert (node.raft.commit_index, node.raft.log.last_index, node.must_load) == (7, 7, True)
    replies = [p for p in cluster.network if type(p.message) is AppendReply]
    assert [(p.receiver, p.message.at_index, p.message.term) for p in replies] == [("n2", 7, 5)]


def test_what_the_writer_took_of_a_deposed_leaders_snapshot_is_told_to_nobody() -> None:
    cluster = left_behind()
    first_pieces(cluster)
    node = cluster["n3"]
    cluster.network.clear()
    cluster.input(node, lambda raft: raft.on_snapshot_written("n2", 7, 100))
    assert not cluster.network
    cluster.input(node, lambda raft: raft.on_snapshot_written("n1", 7, 100))
    assert [p.message for p in cluster.network] == [InstallSnapshotReply(1, 7, 100)]


# --- what a follower makes of one


def install(index: int, term: int) -> Packet:
    return Packet("n1", "n2", InstallSnapshot(3, index, term, 0, 5, b"bytes"))


def test_one_whose_last_entry_the_log_holds_is_not_needed_and_commits_it() -> None:
    cluster, node = follower([1, 1, 2, 2])
    cluster.deliver(install(3, 2))
    assert not node.disk.files and node.raft.commit_index == 3 and node.raft.log.last_index == 4
    assert [p.message for p in cluster.network] == [AppendReply(3, True, 3, 0, 0)]


def test_one_that_goes_beyond_the_log_replaces_it() -> None:
    cluster, node = follower([1, 1, 2])
    cluster.deliver(install(5, 2))
    assert [type(item) for item in node.disk.files] == [StorePiece] and not cluster.network
    cluster.input(node, lambda raft: raft.on_snapshot_saved(saved_snapshot(node, 5, 2)))
    log = node.raft.log
    assert (log.base_index, log.last_index, log.last_term, node.raft.commit_index) == (5, 5, 2, 5)
    assert node.must_load and node.disk.queue[-1].reset == (5, 2) and not node.disk.queue[-1].runs
    assert [p.message for p in cluster.network] == [AppendReply(3, True, 5, 0, 0)]


def test_one_that_was_covered_by_the_log_when_it_was_saved_drops_nothing() -> None:
    cluster, node = follower([1, 1, 2])
    cluster.deliver(install(5, 2))
    entries = (
        Entry(2, 90, EntryKind.COMMAND, b"4"),
        Entry(2, 90, EntryKind.COMMAND, b"5"),
        Entry(3, 90, EntryKind.COMMAND, b"6"),
    )
    cluster.deliver(Packet("n1", "n2", AppendEntries(3, 3, 2, 0, entries)))
    cluster.input(node, lambda raft: raft.on_snapshot_saved(saved_snapshot(node, 5, 2)))
    assert (node.raft.log.base_index, node.raft.log.last_index, node.raft.commit_index) == (0, 6, 5)
    assert not node.must_load
    replies = [p.message.at_index for p in cluster.network if type(p.message) is AppendReply]
    assert replies == [3], "only what is durable"


def test_append_entries_that_begin_before_the_base_are_taken_from_the_base_on() -> None:
    cluster, node = follower([1, 1, 2])
    cluster.input(node, lambda raft: raft.on_snapshot_saved(saved_snapshot(node, 5, 2)))
    entries = tuple(Entry(2, 90, EntryKind.COMMAND, b"%d" % index) for index in range(3, 8))
    for prev, count, last, acked in (
        (0, 2, 5, 2),
        (2, 0, 5, 2),
        (2, 3, 5, 5),
        (4, 1, 5, 5),
        (2, 5, 7, 7),
        (6, 0, 7, 6),
    ):
        cluster.network.clear()
        sent = entries[max(0, prev - 2) : max(0, prev - 2) + count]
        cluster.deliver(Packet("n1", "n2", AppendEntries(3, prev, 1 if prev < 3 else 2, 7, sent)))
        cluster.complete(node) if acked <= 5 else None
        assert node.raft.log.last_index == last
        if acked <= 5:
            assert [p.message for p in cluster.network if type(p.message) is AppendReply][-1].at_index == acked
    assert [node.raft.log.slice(index, index)[0] for index in (6, 7)] == list(entries[3:])


def test_completions_of_writes_under_way_prove_nothing_about_what_follows_the_snapshot() -> None:
    """Five entries are on their way to the disk when a snapshot of two replaces them; then three others follow."""
    cluster, node = follower([1])
    old = tuple(Entry(1, 90, EntryKind.COMMAND, b"old") for _ in range(5))
    cluster.deliver(Packet("n1", "n2", AppendEntries(3, 1, 1, 0, old)))
    cluster.input(node, lambda raft: raft.on_snapshot_saved(saved_snapshot(node, 3, 2)))
    new = tuple(Entry(3, 95, EntryKind.COMMAND, b"new") for _ in range(3))
    cluster.deliver(Packet("n1", "n2", AppendEntries(3, 3, 2, 0, new)))
    first = node.disk.queue[0].sequence
    cluster.input(node, lambda raft: raft.on_appended(first))
    assert (node.raft.log.durable_index, node.raft.log.last_index) == (3, 6)
    resets = [item.reset for item in node.disk.queue if item.reset]
    assert resets == [(3, 2)]


def test_votes_compare_the_end_of_an_empty_log_behind_a_snapshot() -> None:
    cluster, node = follower([1, 1, 2])
    cluster.input(node, lambda raft: raft.on_snapshot_saved(saved_snapshot(node, 5, 2)))
    node.raft.last_leader_contact_ms = None
    for index, term, granted in ((9, 1, False), (4, 2, False), (5, 2, True), (1, 3, True)):
        cluster.network.clear()
        cluster.deliver(Packet("n3", "n2", RequestVote(4, index, term, True, False)))
        assert [p.message.granted for p in cluster.network if type(p.message) is VoteReply] == [granted]
    cluster.load(node)
    node.applied = [Entry(2, 0, EntryKind.NOOP, b"")] * 5
    cluster.input(node, lambda raft: raft.on_applier_restarted(5, 0))
    cluster.network.clear()
    node.raft.election_deadline_ms = cluster.now_ms
    cluster.tick(node)
    asked = [p.message for p in cluster.network if type(p.message) is RequestVote]
    assert {(message.last_log_index, message.last_log_term) for message in asked} == {(5, 2)}


def test_a_node_that_loads_its_state_neither_campaigns_nor_takes_leadership_over() -> None:
    cluster, node = follower([1, 1, 2])
    cluster.input(node, lambda raft: raft.on_snapshot_saved(saved_snapshot(node, 5, 2)))
    node.raft.election_deadline_ms = cluster.now_ms
    cluster.tick(node)
    assert node.raft.role is Role.FOLLOWER


def test_the_state_is_asked_for_again_when_the_applier_stands_before_the_logs_base() -> None:
    """It had not been told, or its answer is that of a life before."""
    cluster = left_behind()
    settled(cluster)
    node = cluster["n3"]
    assert not node.must_load
    cluster.input(node, lambda raft: raft.on_applier_restarted(1, 0))
    assert node.must_load and not node.applying and not node.raft.applier_known
