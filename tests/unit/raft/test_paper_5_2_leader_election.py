"""Paper, section 5.2: leader election."""

from __future__ import annotations

import pytest
from cluster_harness import SETTINGS, Cluster, Packet, log_of_terms

from zraft.messages import AppendEntries, EntryKind, Heartbeat, HeartbeatReply, RequestVote, VoteReply
from zraft.raft import Role

LEAST, MOST = SETTINGS.election_timeout_ms


def founded(size: int = 3) -> Cluster:
    """All nodes hold the founding entry, in term 1, and none leads."""
    cluster = Cluster(size)
    for name in cluster.nodes:
        cluster.write_log(name, [1], term=1)
    return cluster


def test_when_servers_start_up_they_begin_as_followers() -> None:
    assert {node.raft.role for node in Cluster(3).nodes.values()} == {Role.FOLLOWER}


def test_a_follower_begins_an_election_if_it_receives_no_communication_over_the_election_timeout() -> None:
    cluster = founded()
    cluster.run(LEAST - 10, settle=False)
    assert not cluster.sent
    cluster.run(MOST - LEAST + 10, settle=False)
    assert {packet.sender for packet in cluster.sent} == set(cluster.nodes)


def test_election_timeouts_are_chosen_randomly_from_a_fixed_interval() -> None:
    seen = set()
    for seed in range(60):
        raft = Cluster(3, seed)["n1"].raft
        seen.add(raft.election_deadline_ms - raft.now_ms)
    assert min(seen) >= LEAST and max(seen) <= MOST
    assert len(seen) > 30


def test_a_candidate_increments_its_term_votes_for_itself_and_asks_all_others() -> None:
    cluster = founded()
    cluster.elect("n1")
    node = cluster["n1"]
    assert node.disk.hard_state == (2, "n1")
    asked = [packet for packet in cluster.sent if type(packet.message) is RequestVote and not packet.message.pre_vote]
    assert [packet.receiver for packet in asked] == ["n2", "n3"]
    assert asked[0].message == RequestVote(2, 1, 1, False, False)


def test_it_wins_with_votes_from_a_majority_and_sends_heartbeats_to_establish_its_authority() -> None:
    cluster = founded(5)
    cluster.cut = {(a, b) for a in cluster.nodes for b in cluster.nodes if "n4" in (a, b) or "n5" in (a, b)}
    leader = cluster.elect("n1")
    heartbeats = [p for p in cluster.sent if p.sender == "n1" and type(p.message) in (Heartbeat, AppendEntries)]
    assert {packet.receiver for packet in heartbeats} == {"n2", "n3", "n4", "n5"}
    assert leader.raft.leader_id == cluster["n2"].raft.leader_id == "n1"


def test_half_of_the_votes_is_no_majority() -> None:
    cluster = founded(4)
    cluster.isolate("n3", "n4")
    cluster.run(10 * MOST)
    assert not cluster.leaders()


def test_a_leader_sends_heartbeats_periodically_and_so_prevents_new_elections() -> None:
    cluster = founded()
    leader = cluster.elect("n1")
    before = len(cluster.sent)
    cluster.run(2_000)
    assert cluster.leaders() == [leader] and leader.raft.current_term == 2
    beats = [p for p in cluster.sent[before:] if type(p.message) is Heartbeat and p.receiver == "n2"]
    assert len(beats) == 2_000 // SETTINGS.heartbeat_ms


def test_each_server_votes_for_at_most_one_candidate_in_a_term_first_come_first_served() -> None:
    cluster = founded()
    request = RequestVote(2, 1, 1, False, False)
    cluster.deliver(Packet("n1", "n3", request), Packet("n2", "n3", request))
    cluster.complete(cluster["n3"])
    replies = {packet.receiver: packet.message.granted for packet in cluster.network if packet.sender == "n3"}
    assert replies == {"n1": True, "n2": False}
    assert cluster["n3"].disk.hard_state == (2, "n1")


def test_the_vote_of_a_term_is_remembered_over_a_restart() -> None:
    cluster = founded()
    request = RequestVote(2, 1, 1, False, False)
    cluster.deliver(Packet("n1", "n3", request))
    cluster.complete(cluster["n3"])
    cluster.restart("n3")
    cluster.network.clear()
    cluster.deliver(Packet("n2", "n3", request), Packet("n1", "n3", request))
    assert {packet.receiver: packet.message.granted for packet in cluster.network} == {"n2": False, "n1": True}


def test_a_vote_that_arrives_twice_counts_once() -> None:
    cluster = founded(5)
    node = cluster["n1"]
    cluster.drop = lambda packet: type(packet.message) is RequestVote and not packet.message.pre_vote
    cluster.run(2 * MOST, until=lambda: node.raft.role is Role.CANDIDATE)
    term = node.raft.current_term
    vote = Packet("n2", "n1", VoteReply(term, True, False))
    cluster.deliver(vote, vote, vote)
    assert node.raft.role is Role.CANDIDATE
    cluster.deliver(Packet("n3", "n1", VoteReply(term, True, False)))
    assert node.raft.role is Role.LEADER


@pytest.mark.parametrize("reply", [VoteReply(1, True, False), VoteReply(2, False, False), VoteReply(2, True, True)])
def test_a_vote_of_an_older_term_a_refusal_and_a_pre_vote_do_not_elect(reply: VoteReply) -> None:
    cluster = founded()
    node = cluster["n1"]
    cluster.drop = lambda packet: type(packet.message) is RequestVote and not packet.message.pre_vote
    cluster.run(2 * MOST, until=lambda: node.raft.role is Role.CANDIDATE and node.raft.current_term == 2)
    cluster.deliver(Packet("n2", "n1", reply), Packet("n3", "n1", reply))
    assert node.raft.role is Role.CANDIDATE


@pytest.mark.parametrize("kind", ["AppendEntries", "Heartbeat"])
def test_a_candidate_that_hears_from_the_leader_of_its_term_becomes_its_follower(kind: str) -> None:
    cluster = founded()
    node = cluster["n1"]
    cluster.drop = lambda packet: type(packet.message) is RequestVote and not packet.message.pre_vote
    cluster.run(2 * MOST, until=lambda: node.raft.role is Role.CANDIDATE)
    term = node.raft.current_term
    message = Heartbeat(term, 0, 0) if kind == "Heartbeat" else AppendEntries(term, 1, 1, 0, ())
    cluster.deliver(Packet("n2", "n1", message))
    assert node.raft.role is Role.FOLLOWER and node.raft.leader_id == "n2" and node.raft.current_term == term


def test_a_candidate_refuses_the_leader_of_an_older_term_and_stays_candidate() -> None:
    cluster = founded()
    node = cluster["n1"]
    cluster.drop = lambda packet: type(packet.message) is RequestVote and not packet.message.pre_vote
    cluster.run(2 * MOST, until=lambda: node.raft.role is Role.CANDIDATE)
    cluster.deliver(Packet("n2", "n1", AppendEntries(1, 1, 1, 0, ())))
    assert node.raft.role is Role.CANDIDATE and node.raft.log.last_index == 1
    reply = [packet.message for packet in cluster.network if packet.receiver == "n2"][-1]
    assert (reply.term, reply.success) == (node.raft.current_term, False)


def test_5_1_a_leader_that_hears_of_a_larger_term_steps_down_to_it() -> None:
    cluster = founded()
    leader = cluster.elect("n1")
    cluster.deliver(Packet("n2", "n1", HeartbeatReply(9, 0)))
    assert leader.raft.role is Role.FOLLOWER and leader.raft.leader_id is None
    cluster.complete(leader)
    assert leader.disk.hard_state == (9, None)


def test_if_votes_are_split_a_new_election_with_a_higher_term_follows() -> None:
    cluster = founded(4)
    cluster.isolate("n1", "n3")  # each candidate has one voter beside itself
    for name, friend in (("n1", "n3"), ("n2", "n4")):
        node = cluster[name]
        cluster.input(node, lambda raft: raft.become_candidate(transfer=False))
        cluster.complete(node)
        cluster.notify(node)
        cluster.deliver(*[p for p in cluster.network if p.receiver == friend])
    cluster.settle()
    assert not cluster.leaders() and {n.raft.current_term for n in cluster.nodes.values()} == {2}
    cluster.heal()
    assert cluster.run(5 * MOST, until=cluster.leaders)
    assert cluster.leader().raft.current_term > 2


def test_the_first_leader_founds_the_cluster_with_an_id_and_its_members() -> None:
    cluster = Cluster(3)
    leader = cluster.elect("n2")
    cluster.run(200)
    entry = leader.entry(1)
    assert entry.kind == EntryKind.CONFIG
    ids = {node.raft.membership.cluster_id for node in cluster.nodes.values()}
    assert len(ids) == 1 and 0 not in ids
    assert all(set(node.raft.membership.voters) == {"n1", "n2", "n3"} for node in cluster.nodes.values())


def test_a_later_leader_begins_its_term_with_a_no_op() -> None:
    cluster = founded()
    leader = cluster.elect("n1")
    assert leader.entry(2) == log_of_terms([1], leader.founding)[0]._replace(
        term=2, kind=EntryKind.NOOP, data=b"", time_ms=leader.entry(2).time_ms
    )
    cluster.run(100)
    assert leader.raft.commit_index == 2


def test_a_single_node_elects_itself() -> None:
    cluster = Cluster(1)
    assert cluster.run(MOST + 10, until=cluster.leaders)


def test_a_reply_from_a_stranger_and_a_message_from_oneself_are_ignored() -> None:
    cluster = founded()
    cluster.deliver(Packet("stranger", "n1", VoteReply(9, False, False)))
    cluster.deliver(Packet("n1", "n1", RequestVote(9, 9, 9, False, True)))
    assert cluster["n1"].raft.current_term == 1 and not cluster.network
