"""Dissertation, section 9.6: pre-vote, and 4.2.3: voters that hear from a leader help nobody to depose it."""

from __future__ import annotations

import pytest
from cluster_harness import SETTINGS, Cluster, Packet

from zraft.messages import RequestVote, VoteReply
from zraft.raft import Role

LEAST, MOST = SETTINGS.election_timeout_ms


def led(size: int = 3) -> Cluster:
    cluster = Cluster(size)
    cluster.elect("n1")
    cluster.run(200)
    return cluster


def test_a_node_asks_whether_it_could_win_before_it_raises_its_term() -> None:
    cluster = led()
    cluster.stop(cluster["n1"])
    cluster.run(2 * MOST, settle=False)
    asked = [packet.message for packet in cluster.network if type(packet.message) is RequestVote]
    assert asked and all(message.pre_vote and message.term == 2 for message in asked)
    assert cluster["n2"].raft.current_term == 1 and cluster["n2"].disk.hard_state == (1, "n1")


def test_a_pre_vote_changes_nothing_at_the_voter_and_may_be_given_to_several() -> None:
    cluster = led()
    cluster.run(MOST, settle=False)
    cluster.network.clear()
    voter = cluster["n3"]
    voter.raft.last_leader_contact_ms = None
    deadline = voter.raft.election_deadline_ms
    for candidate in ("n1", "n2"):
        cluster.deliver(Packet(candidate, "n3", RequestVote(2, 1, 1, True, False)))
    assert [packet.message for packet in cluster.network] == [VoteReply(2, True, True)] * 2
    assert (voter.raft.current_term, voter.raft.voted_for) == (1, "n1") and not voter.disk.queue
    assert voter.raft.election_deadline_ms == deadline


def test_a_node_that_was_cut_off_comes_back_without_disturbing_the_leader() -> None:
    cluster = led()
    cluster.isolate("n3")
    cluster.run(20 * MOST)
    assert cluster["n3"].raft.role is Role.PRE_CANDIDATE and cluster["n3"].raft.current_term == 1
    cluster.heal()
    cluster.run(1_000)
    assert cluster["n1"].raft.role is Role.LEADER and cluster["n1"].raft.current_term == 1
    assert cluster["n3"].raft.leader_id == "n1"


@pytest.mark.parametrize("pre_vote", [True, False])
def test_4_2_3_a_voter_that_hears_from_a_leader_grants_nothing_and_keeps_its_term(pre_vote: bool) -> None:
    cluster = led()
    cluster.run(100)
    for voter in ("n1", "n2"):  # the leader itself, and a follower of it
        cluster.deliver(Packet("n3", voter, RequestVote(9, 9, 9, pre_vote, False)))
        assert cluster[voter].raft.current_term == 1
    assert not any(packet.message.granted for packet in cluster.network)


def test_4_2_3_the_voter_is_free_once_it_has_not_heard_for_the_least_election_timeout() -> None:
    cluster = led()
    cluster.stop(cluster["n1"])
    voter = cluster["n2"]
    voter.raft.election_deadline_ms += 10_000
    heard = voter.raft.last_leader_contact_ms
    request = Packet("n3", "n2", RequestVote(2, 1, 1, True, False))
    while cluster.now_ms < heard + LEAST - 10:
        cluster.now_ms += 10
        cluster.tick(voter)
    cluster.deliver(request)
    assert cluster.network.pop().message.granted is False
    cluster.now_ms += 10
    cluster.tick(voter)
    cluster.deliver(request)
    assert cluster.network.pop().message.granted is True


def test_4_2_3_a_voter_does_help_when_the_leader_itself_asked_for_the_election() -> None:
    cluster = led()
    cluster.deliver(Packet("n3", "n2", RequestVote(2, 1, 1, False, True)))
    cluster.complete(cluster["n2"])
    assert cluster.network[-1].message == VoteReply(2, True, False)


def test_a_refusal_from_a_newer_term_is_taken_over_so_that_the_next_try_can_succeed() -> None:
    cluster = led()
    cluster.stop(cluster["n1"])
    cluster["n2"].disk.hard_state = (7, None)
    cluster.restart("n2")
    cluster["n2"].raft.election_deadline_ms += 10_000
    cluster.run(10 * MOST)
    assert cluster["n3"].raft.role is Role.LEADER and cluster["n3"].raft.current_term == 8


def test_a_late_pre_vote_for_another_term_does_not_count() -> None:
    cluster = led()
    cluster.isolate("n3")
    node = cluster["n3"]
    cluster.run(3 * MOST)
    assert node.raft.role is Role.PRE_CANDIDATE
    cluster.heal()
    cluster.deliver(Packet("n2", "n3", VoteReply(1, True, True)), Packet("n2", "n3", VoteReply(5, True, True)))
    assert node.raft.role is Role.PRE_CANDIDATE and node.raft.current_term == 1
    cluster.deliver(Packet("n2", "n3", VoteReply(2, True, True)))
    assert node.raft.role is Role.CANDIDATE
