"""Members come and go while the cluster serves (paper 6; dissertation 4): traps 2, 3, 24, 26."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cluster_harness import SETTINGS, Cluster, Packet
from membership_scenes import STORES, add, ask, at, change_to, config_entries, done, led, members, remove, until

from zraft.messages import (
    AppendReply,
    HeartbeatReply,
    TimeoutNow,
)
from zraft.raft import Address, Membership, Role
from zraft.raft.change import ChangeRefused, parse_change
from zraft.raft.progress import Progress

# ---- what a change is made of --------------------------------------------------------------------------------------


def test_a_new_node_learns_first_and_joins_by_a_joint_configuration() -> None:
    cluster = led(3, "n4")
    ask(cluster, add("n4"))
    until(cluster, "n1", "n2", "n3", "n4")
    founding, learning, joint, final = config_entries(cluster["n1"])
    assert (list(learning.learners), learning.target) == (["n4"], ("n1", "n2", "n3", "n4"))
    assert set(learning.voters) == {"n1", "n2", "n3"} and not learning.outgoing
    assert set(joint.voters) == {"n1", "n2", "n3", "n4"} and set(joint.outgoing) == {"n1", "n2", "n3"}
    assert final == founding._replace(voters=final.voters, stores=final.stores)
    assert set(final.voters) == {"n1", "n2", "n3", "n4"} and final.stores == {
        name: STORES[name] for name in final.voters
    }
    assert members(cluster["n4"]) == final and cluster["n4"].raft.is_voter
    assert cluster["n4"].applied == cluster["n1"].applied


def test_the_founders_know_each_others_data_directories_from_the_first_election_on() -> None:
    assert members(led()["n2"]).stores == {name: STORES[name] for name in ("n1", "n2", "n3")}


def test_a_learner_does_not_count_and_stays_one_until_it_is_promoted() -> None:
    cluster = led(3, "n4")
    ask(cluster, add("n4", learner=True))
    cluster.run(1_000)
    assert list(members(cluster["n1"]).learners) == ["n4"] and cluster["n4"].raft.standing == "learner"
    assert not members(cluster["n1"]).is_changing
    cluster.isolate("n1", "n4")
    before = cluster["n1"].raft.commit_index
    cluster.propose(cluster["n1"], b"only a learner has it")
    cluster.settle()
    assert cluster["n4"].raft.log.last_index > before == cluster["n1"].raft.commit_index
    cluster.heal()
    cluster.run(2_000, until=cluster.leaders)
    cluster.run(500)
    ask(cluster, {"op": "promote", "id": "n4"}, name=cluster.leader().id)
    until(cluster, "n1", "n2", "n3", "n4")


def test_trap_26_who_does_not_catch_up_does_not_become_a_voter() -> None:
    cluster = led(3, "n4")
    cluster.isolate("n4")
    ask(cluster, add("n4"))
    cluster.run(3_000)
    assert members(cluster["n1"]).target and "n4" not in members(cluster["n1"]).electorate
    assert cluster.propose(cluster["n1"], b"x") and cluster.run(100) is False
    assert cluster["n1"].raft.commit_index == cluster["n1"].raft.log.last_index
    cluster.heal()
    until(cluster, "n1", "n2", "n3", "n4")


def test_trap_26_who_caught_up_once_and_fell_silent_does_not_become_a_voter() -> None:
    cluster = led(3, "n4")
    ask(cluster, add("n4", learner=True))
    cluster.run(1_000)
    cluster.isolate("n4")
    cluster.run(SETTINGS.election_timeout_ms[0] + 60)
    ask(cluster, {"op": "promote", "id": "n4"})
    cluster.run(2_000)
    assert "n4" not in members(cluster["n1"]).electorate


def test_trap_26_close_is_whose_last_round_was_short_and_whose_present_one_is() -> None:
    """Each round ends with what was in the log when it began, as dissertation 4.2.1 has it."""
    progress = Progress(1_000, 0)

    def holds(match_index: int, last_index: int, now_ms: int) -> bool:
        progress.last_contact_ms = now_ms
        progress.matched(match_index, now_ms)
        progress.follow_round(last_index, now_ms)
        return progress.is_close(now_ms, 150)

    assert not holds(999, 1_500, 50), "the first round has not ended"
    assert not holds(1_000, 2_000, 400), "it took longer than an election"
    assert not holds(1_999, 2_100, 500)
    assert holds(2_000, 2_200, 550), "the second did not"
    assert holds(2_199, 9_000, 700)
    assert not holds(2_199, 9_000, 701), "but the third does"


def test_an_addition_that_cannot_end_is_cancelled_by_removing_the_learner() -> None:
    cluster = led(3, "n4")
    cluster.isolate("n4")
    ask(cluster, add("n4"))
    cluster.settle()
    ask(cluster, remove("n4"))
    cluster.settle()
    assert done(cluster, "n1", "n2", "n3") and not members(cluster["n1"]).learners
    assert "n4" not in members(cluster["n1"]).stores


def test_all_voters_are_replaced_in_one_step() -> None:
    cluster = led(3, "n4", "n5", "n6")
    ask(cluster, change_to("n4", "n5", "n6", new=("n4", "n5", "n6")))
    leader = until(cluster, "n4", "n5", "n6")
    assert leader.id in ("n4", "n5", "n6")
    for name in ("n1", "n2", "n3"):
        assert cluster[name].raft.role is Role.FOLLOWER
    index = cluster.propose(leader, b"the new ones alone")
    cluster.run(200)
    assert index is not None and leader.raft.commit_index >= index


def test_who_stays_keeps_its_progress_and_who_leaves_is_forgotten() -> None:
    cluster = led(3, "n4")
    before = cluster["n1"].raft.progress["n2"]
    ask(cluster, change_to("n1", "n2", "n4", new=("n4",)))
    until(cluster, "n1", "n2", "n4")
    assert cluster["n1"].raft.progress["n2"] is before and set(cluster["n1"].raft.progress) == {"n2", "n4"}
    assert set(members(cluster["n1"]).stores) == {"n1", "n2", "n4"}


def test_the_leader_that_is_removed_commits_that_without_its_own_vote_hands_over_and_is_out() -> None:
    cluster = led()
    cluster.isolate("n3")
    ask(cluster, remove("n1"))
    cluster.settle()
    assert members(cluster["n1"]).outgoing, "n2 is no majority of n2, n3"
    cluster.heal()
    leader = until(cluster, "n2", "n3")
    assert leader.id != "n1"
    assert cluster["n1"].raft.standing == "removed"
    assert not any("election timeout" in note for note in leader.notes)
    handed = [packet for packet in cluster.sent if type(packet.message).__name__ == "TimeoutNow"]
    assert handed and handed[0].sender == "n1"


def test_a_removed_leader_whose_successor_does_not_take_over_steps_down() -> None:
    cluster = led()
    cluster.drop = lambda packet: type(packet.message).__name__ == "TimeoutNow"
    ask(cluster, remove("n1"))
    assert cluster.run(2_000, until=lambda: any(node.id != "n1" for node in cluster.leaders()))
    assert done(cluster, "n2", "n3") and cluster["n1"].raft.role is Role.FOLLOWER


def test_setting_the_present_voters_gives_a_change_up_but_not_a_joint_one() -> None:
    wanted = json.dumps(change_to("n1", "n2")).encode()
    two, three = ({f"n{n}": Address(f"c{n}", f"p{n}") for n in range(1, count + 1)} for count in (2, 3))
    assert parse_change(Membership(1, two, {"n3": three["n3"]}, {}, ("n1", "n2", "n3")), wanted).cancels
    assert not parse_change(Membership(1, two, {}, three, ("n1", "n2")), wanted).cancels


def test_a_cluster_of_one_grows_and_a_cluster_of_two_shrinks_to_one() -> None:
    cluster = led(1, "n2")
    ask(cluster, add("n2"))
    until(cluster, "n1", "n2")
    ask(cluster, remove("n1"))
    assert until(cluster, "n2").id == "n2"


@pytest.mark.parametrize("step", range(12))
def test_whoever_leads_goes_on_where_the_last_leader_stopped(step: int) -> None:
    """The leader dies after so many deliveries of a change from three members to three others."""
    cluster = led(3, "n4", "n5", "n6")
    ask(cluster, change_to("n4", "n5", "n3", new=("n4", "n5")))
    cluster.run(30 * step, settle=True)
    victim = cluster.leader()
    cluster.stop(victim)
    assert cluster.run(4_000, until=lambda: any(node.running for node in cluster.leaders()))
    cluster.run(500)
    cluster.start(victim)
    cluster.load(victim)
    until(cluster, "n3", "n4", "n5")


# ---- joint consensus -----------------------------------------------------------------------------------------------


def joint_cluster() -> Cluster:
    """n1 leads n1, n2, n3 jointly with n3, n4, n5. All have the entry; no answer has reached n1."""
    cluster = led(3, "n4", "n5")
    for name in ("n4", "n5"):
        ask(cluster, add(name, learner=True))
        cluster.run(500)
    ask(cluster, change_to("n3", "n4", "n5"))
    cluster.drop = lambda packet: type(packet.message) is AppendReply and bool(members(cluster["n1"]).outgoing)
    cluster.run(100)
    cluster.drop = lambda packet: False
    assert all(members(node).outgoing for node in cluster.nodes.values())
    assert cluster["n1"].raft.config_index > cluster["n1"].raft.commit_index
    return cluster


@pytest.mark.parametrize(("reached", "commits"), [(("n2",), False), (("n4", "n5"), False), (("n2", "n4", "n5"), True)])
def test_trap_24_a_joint_configuration_needs_a_majority_of_either(reached: tuple[str, ...], commits: bool) -> None:
    cluster = joint_cluster()
    cluster.isolate("n1", *reached)
    index = cluster["n1"].raft.config_index
    cluster.run(250)
    assert (cluster["n1"].raft.commit_index >= index) is commits


@pytest.mark.parametrize(("voting", "wins"), [(("n2",), False), (("n4", "n5"), False), (("n2", "n4"), True)])
def test_trap_24_so_does_an_election(voting: tuple[str, ...], wins: bool) -> None:
    cluster = joint_cluster()
    cluster.stop(cluster["n1"])
    cluster.isolate("n3", *voting)
    cluster.run(3_000, until=lambda: any(node.running for node in cluster.leaders()))
    assert any(node.running for node in cluster.leaders()) is wins


def test_trap_24_a_read_round_too() -> None:
    cluster = joint_cluster()
    cluster.isolate("n1", "n2")
    cluster.read(cluster["n1"], "r")
    cluster.run(60)
    assert not cluster["n1"].answers


def test_reads_that_wait_for_who_leaves_are_answered_when_the_leader_is_alone() -> None:
    """Nobody is left then who could answer the round."""
    cluster = led(2)
    cluster.drop = lambda packet: type(packet.message) is HeartbeatReply
    ask(cluster, remove("n2"))
    assert cluster.read(cluster["n1"], "r")
    assert cluster.run(200, until=lambda: done(cluster, "n1"))
    assert [context for _, context in cluster["n1"].answers] == ["r"]


def test_a_leader_that_reaches_a_majority_of_one_half_alone_steps_down() -> None:
    cluster = joint_cluster()
    cluster.isolate("n1", "n2")
    cluster.run(2 * SETTINGS.election_timeout_ms[1])
    assert cluster["n1"].raft.role is not Role.LEADER


# ---- one at a time, and not too early ------------------------------------------------------------------------------


def test_trap_2_no_change_before_the_leaders_own_first_entry_has_committed() -> None:
    cluster = led()
    cluster.stop(cluster["n1"])
    cluster.drop = lambda packet: type(packet.message) is AppendReply
    cluster.elect("n3")
    assert cluster["n3"].raft.commit_index < cluster["n3"].raft.term_start_index
    with pytest.raises(ChangeRefused, match="has just begun"):
        ask(cluster, remove("n1"), name="n3")


def test_trap_3_one_change_at_a_time() -> None:
    cluster = led(3, "n4", "n5")
    cluster.isolate("n1")
    ask(cluster, add("n4"))
    with pytest.raises(ChangeRefused, match="under way"):
        ask(cluster, add("n5"))
    cluster.heal()
    cluster.isolate("n4")
    cluster.run(1_000)
    with pytest.raises(ChangeRefused, match="another change is under way, to n1, n2, n3, n4"):
        ask(cluster, add("n5"), name=cluster.leader().id)


def test_trap_3_a_change_that_is_truncated_leaves_the_members_of_before() -> None:
    cluster = led(3, "n4")
    before = members(cluster["n1"])
    cluster.isolate("n1", "n4")
    ask(cluster, add("n4"))
    cluster.settle()
    assert "n4" in members(cluster["n1"]).members and "n4" in members(cluster["n4"]).members
    cluster.run(2_000, until=lambda: any(node.id != "n1" for node in cluster.leaders()))
    cluster.heal()
    cluster.run(500)
    assert members(cluster["n1"]) == before


def test_of_two_changes_on_either_side_of_a_partition_one_wins() -> None:
    cluster = led(5, "n6")
    cluster.isolate("n1", "n2", "n6")
    ask(cluster, remove("n5"))
    assert cluster.run(2_000, until=lambda: any(node.id in ("n3", "n4", "n5") for node in cluster.leaders()))
    cluster.run(100)
    other = next(node for node in cluster.leaders() if node.id in ("n3", "n4", "n5"))
    ask(cluster, remove("n2"), name=other.id)
    cluster.run(500)
    cluster.heal()
    until(cluster, "n1", "n3", "n4", "n5")


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (add("n2"), "n2 is a voting member already"),
        (remove("n9"), "n9 is not a member"),
        ({"op": "promote", "id": "n9"}, "add it first"),
        ({"op": "promote", "id": "n2"}, "votes already"),
        (change_to(), "no voting member would be left"),
        (change_to("n1", "n2", "n3"), "how it is already"),
        (change_to("n1", "n7"), "the addresses of n7 are not known"),
        (change_to("n1", new=("n7",)), "shall not be members"),
        (change_to("n1", "n2", new=("n2",)), "cannot get other addresses"),
        ({**add("n4"), "peer": "tcp://n2:2"}, "tcp://n2:2 is the peer address of n2"),
        ({**add("n4"), "peer": "tcp://n4:1"}, "tcp://n4:1 is the client address of n4"),
        ({"op": "add", "id": "n4"}, "not a change"),
        ({"op": "add", "id": "", **at("n4")}, "not a change"),
        ({**add("n4"), "peer": "tcp://\ud800:1"}, "not a change"),
        (remove("\ud800"), "not a change"),
        (change_to("n1", "\ud800"), "not a change"),
        ({"op": "\ud800"}, "ud800"),
        ({"op": "dance"}, "'dance'"),
        ({"op": "set", "voters": "n1", "nodes": []}, "not a change"),
    ],
    ids=str,
)
def test_a_change_that_makes_no_sense_is_refused_in_words_and_nothing_is_logged(change: Any, why: str) -> None:
    cluster = led()
    before = cluster["n1"].raft.log.last_index
    with pytest.raises(ChangeRefused, match=why):
        ask(cluster, change)
    assert cluster["n1"].raft.log.last_index == before


def test_a_refusal_repeats_no_more_than_a_few_words_of_what_it_refuses() -> None:
    with pytest.raises(ChangeRefused, match="knows: 'xxx") as refusal:
        parse_change(Membership(1, {"n1": Address("a", "b")}), json.dumps({"op": "x" * 900_000}).encode())
    assert len(str(refusal.value)) < 200


@pytest.mark.parametrize("data", [b"", b"[1]", b"{}", b"\xff", b'{"op": 5}', b"[" * 5000])
def test_what_is_no_change_is_refused(data: bytes) -> None:
    with pytest.raises(ChangeRefused, match="not a change"):
        parse_change(Membership(1, {"n1": Address("a", "b")}), data)


def test_only_voters_are_handed_leadership() -> None:
    cluster = led(3, "n4")
    ask(cluster, add("n4", learner=True))
    cluster.run(500)
    assert "not a voting member" in cluster.input(cluster["n1"], lambda raft: raft.transfer_leadership("n4"))
    term = cluster["n1"].raft.current_term
    cluster.deliver(Packet("n1", "n4", TimeoutNow(term), STORES["n1"], STORES["n4"]))
    assert (cluster["n4"].raft.role, cluster["n4"].raft.current_term) == (Role.FOLLOWER, term), "nor takes it"
    cluster.isolate("n1", "n4")
    cluster.input(cluster["n1"], lambda raft: raft.give_up_leadership("test"))
    assert not any(type(p.message).__name__ == "TimeoutNow" and p.receiver == "n4" for p in cluster.sent)
