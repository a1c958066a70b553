"""Who was removed, and lives of a data directory (paper 6; dissertation 4): traps 4, 10, 13, 22, 23."""

from __future__ import annotations

import pytest
from cluster_harness import Cluster, Node, Packet
from membership_scenes import STORES, add, ask, led, members, remove, until

from zraft.errors import NodeMustStop
from zraft.messages import (
    AppendEntries,
    AppendReply,
    Heartbeat,
    Removed,
    RequestVote,
    VoteReply,
)
from zraft.raft import Role

# ---- who was removed -----------------------------------------------------------------------------------------------


def test_trap_13_a_removed_node_is_told_and_changes_no_term() -> None:
    cluster = led()
    ask(cluster, remove("n3"))
    until(cluster, "n1", "n2")
    term = cluster["n1"].raft.current_term
    cluster.run(3_000)
    assert cluster["n3"].raft.standing == "removed"
    assert [node.raft.current_term for node in cluster.nodes.values()] == [term] * 3
    asked = [packet for packet in cluster.sent if packet.sender == "n3" and type(packet.message) is RequestVote]
    assert 0 < len(asked) <= 4, "it asked, was told, and asked no more"


def test_trap_13_a_removed_node_that_is_not_told_changes_no_term_either() -> None:
    cluster = led()
    ask(cluster, remove("n3"))
    cluster.drop = lambda packet: packet.receiver == "n3"
    until(cluster, "n1", "n2")
    term = cluster["n1"].raft.current_term
    cluster.run(5_000)
    assert cluster["n3"].raft.standing == "pre-candidate"
    assert {node.raft.current_term for node in cluster.nodes.values()} == {term}


def told(cluster: Cluster, candidate: str, last_log_index: int) -> bool:
    """Whether n2 tells a candidate whose log ends there, in the present term, that it was removed."""
    before = len(cluster.sent)
    term = cluster["n2"].raft.current_term
    cluster.deliver(Packet(candidate, "n2", RequestVote(term + 1, last_log_index, term, True, False)))
    return any(type(packet.message) is Removed for packet in cluster.sent[before:])


def test_nobody_is_told_of_a_removal_that_has_not_committed() -> None:
    cluster = led()
    cluster.drop = lambda packet: type(packet.message) is AppendReply and "n3" not in members(cluster["n1"]).members
    ask(cluster, remove("n3"))
    cluster.settle()
    raft = cluster["n2"].raft
    assert "n3" not in members(cluster["n2"]).members and raft.commit_index < raft.config_index
    assert not told(cluster, "n3", 1)
    cluster.drop = lambda packet: False
    until(cluster, "n1", "n2")
    assert raft.commit_index >= raft.config_index and told(cluster, "n3", 1)


def test_nor_who_may_have_been_added_by_an_entry_that_is_not_here_yet() -> None:
    cluster = led()
    index = cluster["n2"].raft.config_index
    cluster.run(100)
    assert cluster["n2"].raft.commit_index >= index
    assert [told(cluster, "n4", last) for last in (index - 1, index, index + 5)] == [True, True, False]


def test_a_removed_node_is_told_even_if_it_began_a_change_of_its_own_in_vain() -> None:
    """As the leader of a minority: that entry stands further on in its log than the one that removed it."""
    cluster = led(5)
    cluster.isolate("n1", "n2")
    cluster.propose(cluster["n1"], *[b"never committed"] * 20)
    ask(cluster, remove("n5"))
    assert cluster.run(2_000, until=lambda: any(node.id in ("n3", "n4", "n5") for node in cluster.leaders()))
    cluster.run(100)
    ask(cluster, remove("n1"), name=cluster.leader().id)
    cluster.run(1_000)
    cluster.heal()
    leader = until(cluster, "n2", "n3", "n4", "n5")
    cluster.run(1_000)
    assert cluster["n1"].raft.config_index > leader.raft.config_index and cluster["n1"].raft.standing == "removed"


def test_a_late_word_of_a_removal_does_not_reach_who_was_added_again_since() -> None:
    cluster = led()
    raft = cluster["n3"].raft
    cluster.deliver(Packet("n2", "n3", Removed(10**6, 1)))
    assert not raft.removed_at, "it has a leader: it is a member"
    cluster.drop = lambda packet: type(packet.message) is Heartbeat  # n3 holds this, and cannot know that it committed
    last = cluster.propose(cluster["n1"], b"x")
    cluster.settle()
    cluster.isolate("n3")
    cluster.run(1_000)
    cluster.heal()
    assert last is not None and raft.commit_index < last == raft.log.last_index
    for index in (raft.commit_index, last):
        cluster.deliver(Packet("n2", "n3", Removed(index, raft.log.term(index))))
        assert not raft.removed_at, "it holds that entry, and is a member by what came after"
    cluster.deliver(Packet("n2", "n3", Removed(10**6, 1)))
    assert raft.removed_at == 10**6
    cluster.run(500)
    assert not raft.removed_at, "a leader sends it entries: it is a member"


# ---- lives of a data directory -------------------------------------------------------------------------------------


def test_trap_10_acknowledgements_of_a_former_life_do_not_count() -> None:
    cluster = led()
    cluster.propose(cluster["n1"], b"x")
    cluster.settle()
    late = Packet("n3", "n1", AppendReply(1, True, cluster["n1"].raft.log.last_index, 0, 0), STORES["n3"])
    ask(cluster, remove("n3"))
    until(cluster, "n1", "n2")
    cluster.join("n3", 333)
    cluster.isolate("n3")
    ask(cluster, add("n3"), {"n3": 333})
    cluster.settle()
    assert cluster["n1"].raft.current_term == 1
    cluster.heal()
    cluster.drop = lambda packet: packet.sender == "n3"
    cluster.deliver(late)
    assert cluster["n1"].raft.progress["n3"].match_index == 0
    cluster.drop = lambda packet: False
    until(cluster, "n1", "n2", "n3")
    assert cluster["n3"].applied == cluster["n1"].applied


def away_while_n2_was_replaced() -> Cluster:
    """Of n1..n4, n3 knows n2 as it was before it was removed, wiped and added again."""
    cluster = led(3, "n4")
    ask(cluster, add("n4"))
    until(cluster, "n1", "n2", "n3", "n4")
    cluster.isolate("n3")
    ask(cluster, remove("n2"))
    until(cluster, "n1", "n3", "n4")
    cluster.join("n2", 222)
    cluster.isolate("n3")
    ask(cluster, add("n2"), {"n2": 222})
    until(cluster, "n1", "n2", "n3", "n4")
    return cluster


def test_trap_10_who_was_away_while_another_was_replaced_under_its_name_follows_it() -> None:
    cluster = away_while_n2_was_replaced()
    cluster.input(cluster["n1"], lambda raft: raft.transfer_leadership("n2"))
    cluster.run(300)
    leader = cluster.leader()
    cluster.heal()
    cluster.stop(cluster["n1"])
    index = cluster.propose(leader, b"needs n3")
    cluster.run(500)
    assert leader.id == "n2" and leader.raft.role is Role.LEADER
    assert index is not None and leader.raft.commit_index >= index
    assert members(cluster["n3"]).stores["n2"] == 222
    assert not any("another data directory" in note for note in leader.notes), "n3 is behind, n2 is a member"


def test_trap_10_and_elects_it() -> None:
    cluster = away_while_n2_was_replaced()
    cluster.stop(cluster["n1"])
    cluster.heal()
    cluster.run(200)
    cluster.elect("n2")
    cluster.run(500)
    assert members(cluster["n3"]).stores["n2"] == 222


def test_trap_22_a_member_that_was_wiped_counts_no_more() -> None:
    """It was added, so it waits to be added again: it may neither vote nor acknowledge for what it was."""
    cluster = led(3, "n4")
    ask(cluster, add("n4"))
    until(cluster, "n1", "n2", "n3", "n4")
    assert cluster.invariants
    cluster.invariants.wiped = "n4"
    cluster.join("n4", 444)
    cluster.run(1_000)
    assert cluster["n4"].raft.log.last_index == 0 and cluster["n4"].raft.standing == "joining"
    assert any("another data directory" in note for note in cluster["n4"].notes)
    cluster.deliver(Packet("n1", "n4", RequestVote(9, 0, 0, False, True), STORES["n1"]))
    cluster.settle()
    votes = [p.message for p in cluster.sent if p.sender == "n4" and type(p.message) is VoteReply]
    assert not any(vote.granted for vote in votes)
    cluster.deliver(Packet("n4", "n1", VoteReply(cluster["n1"].raft.current_term, True, False), 444))


def test_trap_22_a_founder_that_was_wiped_stops() -> None:
    cluster = led()
    raft = Node("n3", ["n1", "n2", "n3"], cluster.rng).raft
    raft.store_id = 333
    with pytest.raises(NodeMustStop, match="data was lost"):
        raft.step("n1", Heartbeat(1, 0, 0), STORES["n1"], STORES["n3"])


def test_a_node_that_is_added_again_and_reads_in_the_log_that_it_was_a_voter_is_none_by_that() -> None:
    cluster = led()
    ask(cluster, remove("n3"))
    until(cluster, "n1", "n2")
    node = cluster.join("n3", 333)
    founding = cluster["n1"].entry(1)
    message = AppendEntries(1, 0, 0, 0, (founding,))
    cluster.deliver(Packet("n1", "n3", message, STORES["n1"], 333))
    assert "n3" in members(node).voters and not node.raft.is_voter
    cluster.run(1_000)
    assert node.raft.role is Role.FOLLOWER and node.raft.current_term == 1


def test_trap_23_a_learner_that_is_asked_to_vote_answers() -> None:
    """The candidate may know that it was promoted; it does not yet."""
    cluster = led(3, "n4")
    ask(cluster, add("n4", learner=True))
    cluster.run(500)
    term, log = cluster["n4"].raft.current_term, cluster["n4"].raft.log
    cluster.stop(cluster["n1"])
    cluster.deliver(Packet("n2", "n4", RequestVote(term + 1, log.last_index, log.last_term, False, True), STORES["n2"]))
    cluster.settle()
    assert [p.message.granted for p in cluster.sent if p.sender == "n4" and type(p.message) is VoteReply] == [True]


def test_trap_22_who_waits_to_be_added_votes_for_nobody() -> None:
    cluster = led(3, "n4")
    cluster.deliver(Packet("n1", "n4", RequestVote(5, 9, 1, False, True), STORES["n1"], STORES["n4"]))
    cluster.settle()
    assert [p.message.granted for p in cluster.sent if p.sender == "n4" and type(p.message) is VoteReply] == [False]


def test_trap_4_who_joins_by_a_snapshot_knows_the_members_that_it_covers() -> None:
    cluster = led(3, "n4", "n5")
    ask(cluster, add("n4"))
    until(cluster, "n1", "n2", "n3", "n4")
    for round_number in range(2):
        cluster.propose(cluster["n1"], *[b"%d" % round_number] * 20)
        cluster.run(100)
        cluster.take_snapshot(cluster["n1"])
        cluster.run(100)
    assert cluster["n1"].raft.log.base_index > 10
    ask(cluster, add("n5"))
    until(cluster, "n1", "n2", "n3", "n4", "n5")
    assert cluster["n5"].raft.snapshot.index > 10 and cluster["n5"].applied == cluster["n1"].applied
    assert members(cluster["n5"]) == members(cluster["n1"])
