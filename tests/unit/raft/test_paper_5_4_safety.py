"""Paper, section 5.4: safety."""

from __future__ import annotations

import pytest
from cluster_harness import Cluster, Packet

from zraft.messages import RequestVote
from zraft.raft import Role


@pytest.mark.parametrize(
    ("voter", "candidate", "granted"),
    [
        ([1, 2], [1, 2], True),
        ([1, 2], [1, 2, 2], True),
        ([1, 2, 2], [1, 2], False),  # same last term: the longer log is more up-to-date
        ([1, 2, 2, 2], [1, 3], True),  # the later last term is more up-to-date, whatever the length
        ([1, 3], [1, 2, 2, 2], False),
    ],
)
def test_5_4_1_the_voter_denies_its_vote_if_its_own_log_is_more_up_to_date(
    voter: list[int], candidate: list[int], granted: bool
) -> None:
    for pre_vote in (False, True):
        cluster = Cluster(3)
        cluster.write_log("n1", voter, term=3)
        request = RequestVote(4, len(candidate), candidate[-1], pre_vote, False)
        cluster.deliver(Packet("n2", "n1", request))
        cluster.complete(cluster["n1"])
        assert cluster.network[0].message.granted is granted, f"pre_vote={pre_vote}"


def test_5_4_1_a_candidate_without_all_committed_entries_cannot_win() -> None:
    cluster = Cluster(3)
    cluster.write_log("n1", [1, 1, 1], term=1)
    cluster.write_log("n2", [1, 1, 1], term=1)
    cluster.write_log("n3", [1], term=1)
    cluster["n3"].raft.election_deadline_ms = cluster.now_ms
    assert cluster.run(3_000, until=cluster.leaders)
    assert cluster.leader().id != "n3"
    cluster.run(200)
    assert cluster["n3"].log_terms[:3] == [1, 1, 1]


def figure_8_c() -> Cluster:
    """Five servers. (a) n1, leader of term 2, replicated index 2 to n2 only. (b) n5, leader of term 3 by votes of n3,
    n4 and itself, accepted another entry at index 2. (c) n1 is elected again, in term 4."""
    cluster = Cluster(5)
    cluster.write_log("n1", [1, 2], term=3)
    cluster.write_log("n2", [1, 2], term=3)
    cluster.write_log("n3", [1], term=3, voted_for="n5")
    cluster.write_log("n4", [1], term=3, voted_for="n5")
    cluster.write_log("n5", [1, 3], term=3, voted_for="n5")
    cluster.isolate("n5")
    return cluster


def test_figure_8_d_an_entry_of_an_older_term_on_a_majority_is_not_committed_and_may_be_overwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zraft.raft.log.MAX_RUN_BYTES", 1)  # entries go one by one, as in the figure
    cluster = figure_8_c()

    def beyond_index_2(packet: Packet) -> bool:
        after = getattr(packet.message, "prev_log_index", 0)
        return packet.sender == "n1" and after >= 2 and cluster[packet.receiver].raft.log.last_index >= 2

    cluster.drop = beyond_index_2
    leader = cluster.elect("n1")
    cluster.run(100)
    assert leader.raft.current_term == 4 and leader.log_terms == [1, 2, 4]
    assert [cluster[name].log_terms for name in ("n2", "n3", "n4")] == [[1, 2]] * 3, "index 2 is on a majority"
    assert leader.raft.commit_index < 2
    assert all(node.raft.commit_index < 2 for node in cluster.nodes.values())
    # (d) n1 crashes; n5, whose last entry has the later term, is elected by n2, n3, n4. It overwrites index 2.
    cluster.stop(leader)
    cluster.heal()
    cluster.drop = lambda packet: False
    cluster["n5"].disk.hard_state = (4, None)
    cluster.restart("n5")
    cluster.elect("n5")
    cluster.run(200)
    assert [cluster[name].log_terms[:2] for name in ("n2", "n3", "n4", "n5")] == [[1, 3]] * 4


def test_figure_8_e_an_entry_of_the_own_term_on_a_majority_commits_all_before_it() -> None:
    cluster = figure_8_c()
    leader = cluster.elect("n1")
    cluster.run(100)
    assert leader.raft.commit_index == 3 and leader.log_terms == [1, 2, 4]
    cluster.stop(leader)
    cluster.heal()
    cluster["n5"].raft.election_deadline_ms = cluster.now_ms
    assert cluster.run(3_000, until=lambda: cluster.leaders())
    cluster.run(300)
    assert cluster.leader().id != "n5"
    assert cluster["n5"].log_terms[:3] == [1, 2, 4]


def test_5_4_3_a_new_leader_holds_what_was_committed_even_if_its_commit_index_is_behind() -> None:
    cluster = Cluster(3)
    leader = cluster.elect("n1")
    cluster.isolate("n3")
    last = cluster.propose(leader, b"x")
    cluster.settle()
    assert leader.raft.commit_index == last and cluster["n2"].raft.commit_index < last
    cluster.stop(leader)
    cluster.heal()
    successor = cluster.elect("n2")
    cluster.run(200)
    assert successor.entry(last).data == b"x" and successor.raft.commit_index == last + 1


def test_5_5_a_node_that_restarts_applies_the_same_again_in_the_same_order() -> None:
    cluster = Cluster(3)
    cluster.elect("n1")
    for number in range(10):
        cluster.propose(cluster["n1"], b"%d" % number)
    cluster.run(100)
    before = list(cluster["n2"].applied)
    for name in cluster.nodes:
        cluster.stop(cluster[name])
    for name in cluster.nodes:
        cluster.start(cluster[name])
    assert cluster["n2"].raft.commit_index == 0
    cluster.elect("n3")
    cluster.run(200)
    assert cluster["n2"].applied[: len(before)] == before and len(before) == 11


def test_a_restarted_consensus_goes_on_from_what_its_state_machine_has_applied() -> None:
    """Not the process dies but one actor: DESIGN section 3. It follows, and does not lead the term that it found."""
    cluster = Cluster(3)
    leader = cluster.elect("n1")
    cluster.propose(leader, b"x")
    cluster.run(100)
    term, applied = leader.raft.current_term, list(leader.applied)
    leader.disk.lose_queue()
    leader.begin()
    cluster.tick(leader)
    assert leader.raft.role is Role.FOLLOWER and leader.raft.commit_index == len(applied) == 2
    cluster.run(2_000)
    assert cluster.leader().raft.current_term > term
    assert leader.applied[:2] == applied
