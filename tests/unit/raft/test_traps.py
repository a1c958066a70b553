"""One test or more for each trap of section 4 of the design that the core can fall into, by number."""

from __future__ import annotations

import pytest
from cluster_harness import SETTINGS, Cluster, ModelDisk, Packet

from zraft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from zraft.raft import Role

LEAST, MOST = SETTINGS.election_timeout_ms


def led(size: int = 3) -> Cluster:
    """n1 leads in term 1; all hold, and know as committed, the founding entry."""
    cluster = Cluster(size)
    cluster.elect("n1")
    cluster.run(200)
    return cluster


def command(term: int, data: bytes = b"x") -> Entry:
    return Entry(term, 10_000, EntryKind.COMMAND, data)


def to(cluster: Cluster, receiver: str) -> list[object]:
    return [packet.message for packet in cluster.network if packet.receiver == receiver]


def test_trap_01_only_entries_of_the_current_term_commit_by_counting() -> None:
    """Figure 8 itself is in test_paper_5_4_safety."""
    cluster = Cluster(3, check=False)  # the acknowledgements are forged
    for name in ("n1", "n2", "n3"):
        cluster.write_log(name, [1, 1, 1], term=1)
    cluster.drop = lambda packet: type(packet.message) is AppendEntries
    leader = cluster.elect("n1")
    for peer in ("n2", "n3"):
        cluster.deliver(Packet(peer, "n1", AppendReply(2, True, 3, 0, 0)))
    assert leader.raft.commit_index == 0
    cluster.deliver(Packet("n2", "n1", AppendReply(2, True, 4, 0, 0)))
    assert leader.raft.commit_index == 4


def test_trap_02_no_read_before_the_leaders_own_no_op_has_committed() -> None:
    """A new leader's commit_index may be behind what its predecessor has acknowledged."""
    cluster = led()
    cluster.isolate("n3")
    last = cluster.propose(cluster["n1"], b"acknowledged")
    cluster.settle()
    cluster.stop(cluster["n1"])
    cluster.heal()
    cluster.drop = lambda packet: type(packet.message) in (AppendEntries, AppendReply)
    leader = cluster.elect("n2")
    assert leader.raft.commit_index < last
    cluster.read(leader, "r")
    cluster.run(2 * SETTINGS.heartbeat_ms)
    assert leader.raft.role is Role.LEADER and not leader.answers
    cluster.drop = lambda packet: False
    cluster.run(2 * SETTINGS.heartbeat_ms)
    assert leader.answers == [(last + 1, "r")]


def test_trap_06_a_late_shorter_append_removes_nothing() -> None:
    cluster = led()
    first = cluster.propose(cluster["n1"], b"a")
    late = next(packet for packet in cluster.network if packet.receiver == "n2")
    cluster.propose(cluster["n1"], b"b", b"c")
    cluster.settle()
    cluster.deliver(late)
    cluster.deliver(late._replace(message=late.message._replace(entries=())))
    assert cluster["n2"].raft.log.last_index == first + 2 == len(cluster["n2"].disk.entries)
    cluster.settle()
    assert cluster["n2"].disk.entries == cluster["n1"].disk.entries


def test_trap_06_only_the_conflicting_suffix_goes() -> None:
    cluster = Cluster(3)
    cluster.write_log("n2", [1, 1, 1, 1, 1], term=1)
    kept = list(cluster["n2"].disk.entries[:3])
    entries = (cluster["n2"].disk.entries[2], command(2))
    cluster.deliver(Packet("n1", "n2", AppendEntries(2, 2, 1, 0, entries)))
    assert cluster["n2"].log_terms == [1, 1, 1, 2]
    cluster.settle()
    assert cluster["n2"].disk.entries == [*kept, command(2)]


def test_trap_06_an_append_that_agrees_but_ends_earlier_commits_no_further_than_it_proves() -> None:
    """The follower's own entries after it may be others than those the leader has committed there."""
    cluster = Cluster(3, check=False)
    cluster.write_log("n2", [1, 2, 2, 2], term=3)
    node = cluster["n2"]
    cluster.deliver(Packet("n1", "n2", AppendEntries(3, 1, 1, 4, ())))
    assert node.raft.commit_index == 1


def test_trap_06_a_heartbeat_tells_no_commit_beyond_what_the_follower_is_known_to_hold() -> None:
    cluster = led()
    cluster.drop = lambda packet: packet.receiver == "n3" and type(packet.message) is AppendEntries
    cluster.propose(cluster["n1"], b"x")
    cluster.run(100)
    beats = [p.message for p in cluster.sent if p.receiver == "n3" and type(p.message) is Heartbeat]
    assert cluster["n1"].raft.commit_index == 2 and beats[-1].leader_commit == 1


def test_trap_07_a_vote_is_granted_only_when_it_is_durable() -> None:
    cluster = led()
    node = cluster["n3"]
    node.raft.last_leader_contact_ms = None
    cluster.deliver(Packet("n2", "n3", RequestVote(2, 1, 1, False, False)))
    assert not cluster.network and node.disk.queue[0].hard_state == (2, "n2")
    cluster.complete(node)
    assert to(cluster, "n2") == [VoteReply(2, True, False)]


def test_trap_07_a_candidate_asks_and_counts_itself_only_when_its_own_vote_is_durable() -> None:
    cluster = led()
    node = cluster["n2"]
    cluster.deliver(Packet("n1", "n2", TimeoutNow(1)))
    assert node.raft.role is Role.CANDIDATE and not cluster.network
    cluster.deliver(*[Packet(peer, "n2", VoteReply(2, True, False)) for peer in ("n1", "n3")])
    assert node.raft.role is Role.CANDIDATE, "two of three have voted, but its own vote is not on disk"
    cluster.complete(node)
    cluster.notify(node)
    assert node.raft.role is Role.LEADER


def test_trap_07_no_answer_carries_a_term_that_is_not_durable() -> None:
    cluster = led()
    node = cluster["n3"]
    cluster.deliver(Packet("n2", "n3", Heartbeat(5, 0, 0)))
    assert not cluster.network
    cluster.deliver(Packet("n2", "n3", Heartbeat(5, 0, 1)))
    cluster.deliver(Packet("n1", "n3", Heartbeat(1, 0, 0)))
    assert not cluster.network
    cluster.complete(node)
    assert [(m.term, type(m)) for m in to(cluster, "n2")] == [(5, HeartbeatReply)] * 2
    assert to(cluster, "n1") == [HeartbeatReply(5, 0)]


def test_trap_07_an_entry_is_acknowledged_only_when_it_is_durable() -> None:
    cluster = led()
    node = cluster["n2"]
    append = Packet("n1", "n2", AppendEntries(1, 1, 1, 1, (command(1),)))
    cluster.deliver(append)
    cluster.deliver(append)  # once more while the first write is under way
    assert not cluster.network and node.raft.log.last_index == 2
    cluster.complete(node, 1)
    assert to(cluster, "n1") == [AppendReply(1, True, 2, 0, 0)]
    cluster.complete(node)
    assert to(cluster, "n1") == [AppendReply(1, True, 2, 0, 0)] * 2


def test_trap_07_what_a_killed_log_writer_had_not_written_is_written_again_term_and_vote_too() -> None:
    cluster = led()
    node = cluster["n3"]
    node.raft.last_leader_contact_ms = None
    cluster.deliver(Packet("n2", "n3", RequestVote(2, 1, 1, False, False)))
    cluster.deliver(Packet("n2", "n3", AppendEntries(2, 1, 1, 1, (command(2),))))
    cluster.restart_log_writer(node)
    assert not node.disk.queue, "nothing is written before it has said what it holds"
    cluster.notify(node)
    assert not cluster.network, "the replies that waited are lost, not released"
    cluster.deliver(Packet("n2", "n3", Heartbeat(2, 1, 0)))
    assert not cluster.network
    cluster.complete(node)
    assert node.disk.hard_state == (2, "n2") and node.disk.entries[1:] == [command(2)]
    assert to(cluster, "n2") == [HeartbeatReply(2, 0)]


def test_trap_08_the_completion_of_an_overwritten_append_makes_no_newer_entry_durable() -> None:
    """Entry 3 of term 1 is on its way to disk; entry 3 of term 2 replaces it; then the first write completes."""
    cluster = led()
    node = cluster["n2"]
    log = node.raft.log
    cluster.deliver(Packet("n1", "n2", AppendEntries(1, 1, 1, 1, (command(1), command(1), command(1)))))
    cluster.deliver(Packet("n3", "n2", AppendEntries(2, 2, 1, 1, (command(2), command(2)))))
    assert log.last_index == 4 and log.durable_index == 1
    cluster.complete(node, 1)
    cluster.notify(node)
    assert log.durable_index == 2
    assert not to(cluster, "n3"), "nothing of term 2 is durable"
    cluster.complete(node)
    cluster.notify(node)
    assert log.durable_index == 4 and to(cluster, "n3") == [AppendReply(2, True, 4, 0, 0)]


def test_trap_08_aba_the_same_index_replaced_twice() -> None:
    cluster = led()
    node = cluster["n2"]
    for term, leader in ((1, "n1"), (2, "n3"), (3, "n1")):
        cluster.deliver(Packet(leader, "n2", AppendEntries(term, 1, 1, 1, (command(term),))))
    for expected in (1, 1, 2):
        cluster.complete(node, 1)
        cluster.notify(node)
        assert node.raft.log.durable_index == expected
    assert node.disk.entries[1] == command(3)


def test_trap_08_a_leader_counts_no_acknowledgement_of_an_older_term() -> None:
    cluster = led()
    cluster.propose(cluster["n1"], b"x")
    cluster["n1"].disk.stalled = True
    cluster.network.clear()
    cluster.deliver(*[Packet(peer, "n1", AppendReply(0, True, 2, 0, 0)) for peer in ("n2", "n3")])
    assert cluster["n1"].raft.progress["n2"].match_index == 1 and cluster["n1"].raft.commit_index == 1


def test_trap_09_a_single_voter_commits_only_after_its_fsync() -> None:
    cluster = led(1)
    node = cluster["n1"]
    last = cluster.propose(node, b"x")
    assert node.raft.commit_index == last - 1 and not node.applying
    cluster.complete(node)
    assert not node.applying
    cluster.notify(node)
    assert node.raft.commit_index == last and node.applying


def test_trap_11_cloudflare_2020_one_link_of_three_is_cut_and_the_leader_stays() -> None:
    cluster = led()
    cluster.cut = {("n1", "n3"), ("n3", "n1")}
    cluster.run(20 * MOST)
    assert cluster["n1"].raft.role is Role.LEADER and cluster["n1"].raft.current_term == 1
    last = cluster.propose(cluster["n1"], b"x")
    cluster.run(100)
    assert cluster["n1"].raft.commit_index == last


def test_trap_11_omnipaxos_quorum_loss_only_the_hub_reaches_a_majority_and_takes_over() -> None:
    """Five nodes, every link is cut but those of n3; the leader n1 steps down, and n3 is the only one that can win."""
    cluster = led(5)
    cluster.connect_only(("n3", "n1"), ("n3", "n2"), ("n3", "n4"), ("n3", "n5"))
    assert cluster.run(2 * MOST, until=lambda: cluster["n1"].raft.role is not Role.LEADER)
    assert cluster.run(10 * MOST, until=lambda: cluster["n3"].raft.role is Role.LEADER)
    term = cluster["n3"].raft.current_term
    last = cluster.propose(cluster["n3"], b"x")
    cluster.run(20 * MOST)
    assert cluster["n3"].raft.commit_index >= last
    assert cluster["n3"].raft.role is Role.LEADER and cluster["n3"].raft.current_term == term, "and it stays"


def test_trap_11_omnipaxos_chained_the_ends_of_a_chain_do_not_depose_each_others_leader() -> None:
    cluster = led()
    cluster.connect_only(("n1", "n2"), ("n2", "n3"))
    cluster.run(20 * MOST)
    assert [node.id for node in cluster.leaders()] == ["n1"] and cluster["n2"].raft.current_term == 1


def test_trap_12_a_leader_whose_disk_stalls_gives_leadership_up_and_acknowledges_nothing() -> None:
    cluster = led()
    leader = cluster["n1"]
    leader.disk.stalled = True
    cluster.propose(leader, b"x")
    applied = len(leader.applied)
    assert cluster.run(SETTINGS.disk_stall_ms + 2 * MOST, until=lambda: leader.raft.role is not Role.LEADER)
    assert len(leader.applied) == applied
    cluster.run(MOST)
    assert any(node.id != "n1" for node in cluster.leaders()), "and its heir was told to hurry"
    cluster.run(5 * MOST)
    assert leader.raft.role is not Role.LEADER and len(leader.applied) == applied
    leader.disk.stalled = False
    cluster.run(500)
    assert leader.applied == cluster.leader().applied


def test_trap_12_a_full_disk_ends_leadership_at_once_and_candidacy_until_there_is_space() -> None:
    cluster = led()
    leader = cluster["n1"]
    leader.disk.stalled = True
    cluster.input(leader, lambda raft: raft.on_disk_full(True))
    assert leader.raft.role is Role.FOLLOWER
    assert cluster.propose(leader, b"x") is None
    cluster.stop(cluster["n2"])
    cluster.stop(cluster["n3"])
    cluster.run(5 * MOST)
    assert leader.raft.role is Role.FOLLOWER and leader.raft.current_term == 1
    leader.disk.stalled = False
    cluster.input(leader, lambda raft: raft.on_disk_full(False))
    cluster.run(MOST)
    assert leader.raft.role is Role.PRE_CANDIDATE


@pytest.mark.parametrize("size", [2, 3, 5])
def test_trap_13_a_node_that_reaches_no_quorum_never_raises_a_term(size: int) -> None:
    cluster = led(size)
    for name in list(cluster.nodes)[1 : size // 2 + 1]:
        cluster.stop(cluster[name])
    if size == 3:
        cluster.stop(cluster["n3"])
    cluster.run(30 * MOST)
    assert {node.raft.current_term for node in cluster.nodes.values()} == {1}


def test_trap_13_a_node_that_is_no_member_never_campaigns() -> None:
    cluster = led()
    node = cluster["n3"]
    members = node.raft.membership
    others = {name: at for name, at in members.voters.items() if name != "n3"}
    cluster.invariants = None  # no entry says so
    node.raft.configs.append((node.raft.log.last_index, members._replace(voters=others)))
    cluster.isolate("n3")
    cluster.run(10 * MOST)
    assert node.raft.role is Role.FOLLOWER and node.raft.current_term == 1
    cluster.deliver(Packet("n1", "n3", TimeoutNow(1)))
    assert node.raft.role is Role.FOLLOWER


def test_trap_14_a_leader_that_was_paused_and_deposed_serves_no_stale_read() -> None:
    """It resumes with the acknowledgements of its last heartbeats in its mailbox, and with a read."""
    cluster = led()
    old = cluster["n1"]
    cluster.read(old, "before")
    cluster.settle()
    waiting = [Packet(peer, "n1", HeartbeatReply(1, old.raft.read_round)) for peer in ("n2", "n3")]
    cluster.isolate("n1")
    for _ in range(100):  # n1's process is stopped meanwhile
        cluster.now_ms += 10
        cluster.tick(cluster["n2"], cluster["n3"])
        cluster.settle()
    new = cluster.leader()
    cluster.propose(new, b"newer")
    cluster.settle()
    assert new is not old and new.raft.commit_index > old.raft.commit_index
    cluster.heal()
    cluster.tick(old)
    assert old.raft.role is Role.LEADER
    cluster.read(old, "stale")
    cluster.deliver(*waiting)
    assert [context for _, context in old.answers] == ["before"]
    cluster.settle()
    assert [context for _, context in old.answers] == ["before"] and old.refused == ["stale"]


def test_trap_20_25_the_applier_gets_only_what_is_committed_and_durable_here() -> None:
    """With the leader's own write in parallel, the two others can commit what it does not have on disk yet."""
    cluster = led()
    leader = cluster["n1"]
    leader.disk.stalled = True
    last = cluster.propose(leader, b"x")
    cluster.settle()
    assert leader.raft.commit_index == last, "n2 and n3 hold it"
    assert len(leader.applied) == last - 1 and not leader.applying
    leader.disk.stalled = False
    cluster.settle()
    assert len(leader.applied) == last


def test_trap_20_25_a_follower_applies_nothing_that_its_disk_does_not_have() -> None:
    cluster = led()
    cluster["n3"].disk.stalled = True
    last = cluster.propose(cluster["n1"], b"x")
    cluster.run(100)
    cluster.deliver(Packet("n1", "n3", AppendEntries(1, last, 1, last, ())))
    assert cluster["n3"].raft.commit_index == last and len(cluster["n3"].applied) == last - 1


# --- trap 22: a wiped disk


def wipe(cluster: Cluster, name: str) -> None:
    cluster.stop(cluster[name])
    cluster[name].disk = ModelDisk()
    if cluster.invariants:
        cluster.invariants.wiped = name
    cluster.start(cluster[name])


@pytest.mark.parametrize(
    "message",
    [
        RequestVote(9, 1, 1, False, False),
        RequestVote(9, 1, 1, True, False),
        AppendEntries(1, 0, 0, 0, ()),
        Heartbeat(1, 0, 0),
        TimeoutNow(1),
    ],
)
def test_trap_22_a_node_without_hard_state_stops_when_a_peer_shows_data(message: object) -> None:
    cluster = Cluster(3)
    cluster.deliver(Packet("n2", "n1", message))
    assert not cluster["n1"].running and "Remove n1 from the cluster and add it again" in cluster["n1"].stop_reason
    assert not cluster.network and not cluster["n1"].disk.queue


def test_trap_22_the_first_election_is_unanimous() -> None:
    cluster = Cluster(3)
    cluster.isolate("n3")
    cluster.run(20 * MOST)
    assert not cluster.leaders()
    cluster.heal()
    assert cluster.run(10 * MOST, until=cluster.leaders)
    assert all(node.disk.hard_state[1] == cluster.leader().id for node in cluster.nodes.values())


def test_trap_22_later_elections_need_a_majority_only() -> None:
    cluster = led()
    cluster.stop(cluster["n1"])
    assert cluster.run(10 * MOST, until=cluster.leaders)


def test_trap_22_a_wiped_node_that_hears_only_of_a_term_remains_without_a_vote() -> None:
    """n3 voted for n1 in term 2 and lost its disk. n2, still in term 1, refuses its pre-vote and then asks for its vote
    in term 2: with it there would be two leaders."""
    cluster = Cluster(3)
    for name in cluster.nodes:
        cluster.write_log(name, [1, 1], term=1)
    cluster.isolate("n2")
    cluster.elect("n1")
    assert cluster["n3"].disk.hard_state == (2, "n1")
    cluster.isolate("n1")
    wipe(cluster, "n3")
    cluster["n2"].raft.election_deadline_ms = cluster.now_ms + 10 * MOST
    cluster.run(2 * MOST)
    asked = [p for p in cluster.sent if p.sender == "n3" and type(p.message) is RequestVote and p.receiver == "n2"]
    assert asked and cluster["n3"].raft.fresh and cluster["n3"].disk.hard_state is None
    cluster["n2"].raft.election_deadline_ms = cluster.now_ms
    cluster.run(2 * MOST)
    assert not cluster["n3"].running
    assert [node.id for node in cluster.leaders()] in ([], ["n1"])


@pytest.mark.parametrize("message", [VoteReply(5, False, True), VoteReply(5, True, False), HeartbeatReply(5, 0)])
def test_trap_22_a_term_alone_does_not_end_freshness(message: object) -> None:
    cluster = Cluster(3)
    cluster.deliver(Packet("n2", "n1", message))
    cluster.run(100)
    assert cluster["n1"].raft.fresh and cluster["n1"].disk.hard_state is None


def test_trap_22_a_node_without_a_log_does_not_campaign_when_told_to() -> None:
    """Its request for votes would look like one of the first election to a wiped disk."""
    cluster = Cluster(3)
    cluster.write_log("n1", [], term=1, voted_for="n2")
    cluster.deliver(Packet("n2", "n1", TimeoutNow(1)))
    assert cluster["n1"].raft.role is Role.FOLLOWER and cluster["n1"].raft.current_term == 1


def test_trap_22_the_first_election_succeeds_though_some_are_a_term_ahead() -> None:
    cluster = Cluster(3)
    cluster.isolate("n1")
    cluster.input(cluster["n1"], lambda raft: raft.become_candidate(transfer=False))
    cluster.settle()
    cluster.heal()
    assert cluster["n1"].disk.hard_state == (1, "n1")
    assert cluster.run(10 * MOST, until=cluster.leaders)
    cluster.run(200)
    assert all(node.raft.commit_index == 1 for node in cluster.nodes.values())


def test_trap_22_a_wiped_member_stops_and_the_others_go_on() -> None:
    cluster = led()
    wipe(cluster, "n3")
    cluster.run(200)
    assert not cluster["n3"].running and "data was lost" in cluster["n3"].stop_reason
    last = cluster.propose(cluster["n1"], b"x")
    cluster.run(100)
    assert cluster["n1"].raft.commit_index == last
