"""Changes of the members that go wrong elsewhere: lives of one name that meet, and changes that would stop all."""

from __future__ import annotations

import pytest
from cluster_harness import Cluster, Packet
from membership_scenes import STORES, add, ask, change_to, led, members, remove, until

from zraft.messages import AppendEntries, EntryKind, Heartbeat, HeartbeatReply, Removed, RequestVote, VoteReply
from zraft.raft import Membership, Role
from zraft.raft.change import ChangeRefused


def test_trap_10_who_missed_that_a_node_was_added_again_catches_up_when_that_node_leads() -> None:
    """It knows the leader by its former data directory, and answers the present one all the same."""
    cluster = led(5)
    cluster.isolate("n5")
    ask(cluster, remove("n2"))
    until(cluster, "n1", "n3", "n4", "n5")
    cluster.join("n2", 222)
    ask(cluster, add("n2"), {"n2": 222})
    until(cluster, "n1", "n2", "n3", "n4", "n5")
    cluster.input(cluster["n1"], lambda raft: raft.transfer_leadership("n2"))
    cluster.run(100)
    assert members(cluster["n5"]).stores["n2"] == STORES["n2"]
    cluster.heal()
    cluster.run(1_000)
    assert cluster["n2"].raft.role is Role.LEADER
    assert members(cluster["n5"]).stores["n2"] == 222
    assert cluster["n5"].raft.commit_index == cluster["n2"].raft.commit_index
    assert not cluster["n5"].raft.strangers


def test_trap_10_nor_does_an_entry_that_still_names_the_former_life_mislead_the_answers() -> None:
    """n5 knows of the removal, not of the addition; since it was restarted it does not know what is committed, so the
    entries before the removal count as well (seed 2078)."""
    cluster = led(5)
    ask(cluster, remove("n2"))
    until(cluster, "n1", "n3", "n4", "n5")
    cluster.run(300)
    cluster.isolate("n5")
    cluster.join("n2", 222)
    ask(cluster, add("n2"), {"n2": 222})
    until(cluster, "n1", "n2", "n3", "n4", "n5")
    cluster.input(cluster["n1"], lambda raft: raft.transfer_leadership("n2"))
    cluster.run(100)
    cluster.stop(cluster["n5"])
    cluster.start(cluster["n5"])
    assert "n2" not in members(cluster["n5"]).members
    assert [config.stores["n2"] for config in cluster["n5"].raft.configs_in_doubt() if "n2" in config.stores]
    cluster.heal()
    cluster.run(1_000)
    assert cluster["n2"].raft.role is Role.LEADER
    assert cluster["n5"].raft.commit_index == cluster["n2"].raft.commit_index
    assert not cluster["n5"].raft.strangers


def test_trap_10_what_was_decided_for_a_former_life_is_not_said_to_the_present_one() -> None:
    cluster = led()
    raft = cluster["n3"].raft
    raft.step("n2", RequestVote(9, 99, 9, False, True), STORES["n2"])
    raft.step("n2", Heartbeat(9, 0, 0), 222)
    output = raft.take_output()
    replies = [*output.messages, *(output.write.replies if output.write else [])]
    assert [type(message) for _, message in replies] == [HeartbeatReply]
    assert raft.strangers == {"n2": 222}


def test_trap_10_nor_what_could_have_left_at_once() -> None:
    cluster = led()
    raft = cluster["n3"].raft
    late = RequestVote(raft.current_term - 1, 9, 1, False, True)
    raft.step("n2", late, STORES["n2"])
    raft.step("n2", late, 222)
    assert [type(message) for _, message in raft.take_output().messages] == [VoteReply]


def test_trap_13_a_former_life_that_comes_back_is_told_though_its_name_is_a_members() -> None:
    """n2 was replaced under its name while its machine was away; that is on again, and knows of nothing."""
    cluster = led()
    log = cluster["n2"].raft.log
    last = (log.last_index, log.last_term)
    ask(cluster, remove("n2"))
    until(cluster, "n1", "n3")
    cluster.join("n2", 222)
    ask(cluster, add("n2"), {"n2": 222})
    until(cluster, "n1", "n2", "n3")
    for store in (STORES["n2"], 222):
        said = len(cluster.sent)
        cluster.deliver(Packet("n2", "n1", RequestVote(cluster["n1"].raft.current_term + 1, *last, True, False), store))
        told = [packet.meant_for for packet in cluster.sent[said:] if type(packet.message) is Removed]
        assert told == ([store] if store == STORES["n2"] else [])


def test_trap_13_nobody_tells_a_present_life_whose_addition_is_not_here_yet() -> None:
    cluster = led(5)
    cluster.isolate("n5")
    ask(cluster, remove("n2"))
    until(cluster, "n1", "n3", "n4", "n5")
    cluster.join("n2", 222)
    cluster.isolate("n5")
    ask(cluster, add("n2"), {"n2": 222})
    until(cluster, "n1", "n2", "n3", "n4", "n5")
    log, said = cluster["n2"].raft.log, len(cluster.sent)
    assert members(cluster["n5"]).stores["n2"] == STORES["n2"]
    cluster.heal()
    cluster.deliver(Packet("n2", "n5", RequestVote(9, log.last_index, log.last_term, True, False), 222))
    assert not [packet for packet in cluster.sent[said:] if type(packet.message) is Removed]


def test_a_change_after_which_too_few_would_answer_is_refused() -> None:
    cluster = led()
    cluster.stop(cluster["n3"])
    cluster.run(500)
    with pytest.raises(ChangeRefused, match="n3 do not answer now"):
        ask(cluster, remove("n2"))
    assert set(members(cluster["n1"]).voters) == {"n1", "n2", "n3"} and not members(cluster["n1"]).is_changing
    ask(cluster, remove("n3"))
    until(cluster, "n1", "n2")


def test_who_has_not_answered_a_new_leader_yet_does_not_count_as_one_who_does() -> None:
    cluster = led()
    cluster.stop(cluster["n3"])
    cluster.input(cluster["n1"], lambda raft: raft.transfer_leadership("n2"))
    while cluster["n2"].raft.commit_index < max(2, cluster["n2"].raft.term_start_index):
        cluster.run(10)
    assert cluster["n2"].raft.role is Role.LEADER
    with pytest.raises(ChangeRefused, match="n3 do not answer now"):
        ask(cluster, remove("n1"), name="n2")


def silenced() -> Cluster:
    """n3 and n4 shall be the voters; n3 is down by the time that n4 has caught up."""
    cluster = led(3, "n4")
    cluster.isolate("n4")
    ask(cluster, change_to("n3", "n4", new=("n4",)))
    cluster.stop(cluster["n3"])
    cluster.run(500)
    cluster.heal()
    cluster.run(2_000)
    assert members(cluster["n1"]).target == ("n3", "n4")
    return cluster


def test_a_change_waits_for_voters_that_went_silent_and_goes_on_when_they_are_back() -> None:
    cluster = silenced()
    assert not members(cluster["n1"]).outgoing
    cluster.restart("n3")
    until(cluster, "n3", "n4")


def test_a_change_that_waits_for_voters_is_given_up_by_setting_the_present_ones() -> None:
    cluster = silenced()
    with pytest.raises(ChangeRefused, match="another change is under way"):
        ask(cluster, remove("n3"))
    ask(cluster, change_to("n1", "n2", "n3"))
    until(cluster, "n1", "n2", "n3")
    assert set(members(cluster["n1"]).learners) == {"n4"}


def removed_alone() -> Cluster:
    """n1 leads, and only its own log holds the entry that removes it, of which n2 alone decides."""
    cluster = led(2)

    def is_final(packet: Packet) -> bool:
        entries = packet.message.entries if type(packet.message) is AppendEntries else ()
        configs = [Membership.decode(entry.data) for entry in entries if entry.kind == EntryKind.CONFIG]
        return any(not config.is_changing for config in configs)

    cluster.drop = is_final
    ask(cluster, remove("n1"))
    cluster.run(100)
    cluster.drop = lambda packet: False
    assert list(members(cluster["n1"]).voters) == ["n2"] and members(cluster["n2"]).outgoing
    return cluster


def test_who_is_removed_by_an_entry_that_only_it_holds_campaigns_to_commit_it() -> None:
    """Dissertation 4.2.2: nobody else can be elected, as it has the longest log."""
    cluster = removed_alone()
    cluster.restart("n1")
    until(cluster, "n2")
    assert cluster.leaders() == [cluster["n2"]]


def test_who_campaigned_although_it_was_removed_is_told_when_that_has_committed() -> None:
    cluster = removed_alone()
    cluster.restart("n1")
    until(cluster, "n2")
    cluster.cut = {("n1", "n2"), ("n2", "n1")}
    cluster.run(1_000)
    cluster.heal()
    cluster.run(1_000)
    term, said = cluster["n2"].raft.current_term, len(cluster.sent)
    cluster.run(2_000)
    assert cluster["n1"].raft.standing == "removed"
    assert not [packet for packet in cluster.sent[said:] if packet.sender == "n1"]
    assert cluster["n2"].raft.current_term == term


def test_and_if_it_holds_the_entry_that_removed_it_but_does_not_know_that_it_has_committed() -> None:
    cluster = removed_alone()
    cluster.restart("n1")
    until(cluster, "n2")
    cluster.restart("n1")
    cluster.run(1_000)
    raft, said = cluster["n1"].raft, len(cluster.sent)
    assert raft.commit_index < raft.config_index == raft.removed_at
    cluster.run(2_000)
    assert not [packet for packet in cluster.sent[said:] if packet.sender == "n1"]
