"""Dissertation, section 3.10: leadership transfer."""

from __future__ import annotations

from cluster_harness import SETTINGS, Cluster, Packet

from zraft.messages import AppendEntries, RequestVote, TimeoutNow
from zraft.raft import Role


def led(size: int = 3) -> Cluster:
    cluster = Cluster(size)
    cluster.elect("n1")
    cluster.run(200)
    return cluster


def transfer(cluster: Cluster, target: str = "") -> str:
    return cluster.input(cluster["n1"], lambda raft: raft.transfer_leadership(target))


def test_the_target_takes_over_at_once_though_all_hear_from_the_leader() -> None:
    cluster = led()
    assert transfer(cluster, "n3") == ""
    cluster.settle()
    assert [node.id for node in cluster.leaders()] == ["n3"]
    assert cluster["n3"].raft.current_term == 2


def test_the_target_is_told_only_when_it_has_every_entry() -> None:
    cluster = led()
    cluster.drop = lambda packet: packet.receiver == "n3" and type(packet.message) is AppendEntries
    cluster.propose(cluster["n1"], b"x")
    transfer(cluster, "n3")
    cluster.settle()
    assert not any(type(packet.message) is TimeoutNow for packet in cluster.sent)
    cluster.drop = lambda packet: False
    cluster.run(SETTINGS.election_timeout_ms[1], until=lambda: cluster["n3"].raft.role is Role.LEADER)
    assert cluster["n3"].raft.role is Role.LEADER and cluster["n3"].entry(2).data == b"x"


def test_without_a_target_it_is_the_peer_that_holds_most_and_was_heard_from() -> None:
    cluster = led()
    cluster.drop = lambda packet: packet.receiver == "n2" and type(packet.message) is AppendEntries
    cluster.propose(cluster["n1"], b"x")
    cluster.settle()
    transfer(cluster)
    assert cluster["n1"].raft.transferee == "n3"
    cluster.settle()
    assert cluster["n3"].raft.role is Role.LEADER


def test_no_commands_are_taken_during_a_transfer() -> None:
    cluster = led()
    transfer(cluster, "n2")
    assert cluster.propose(cluster["n1"], b"x") is None


def test_if_the_target_does_not_take_over_within_an_election_timeout_the_leader_leads_on() -> None:
    cluster = led()
    cluster.stop(cluster["n3"])
    transfer(cluster, "n3")
    cluster.run(SETTINGS.election_timeout_ms[1] - 20)
    assert cluster.propose(cluster["n1"], b"x") is None
    cluster.run(30)
    last = cluster.propose(cluster["n1"], b"x")
    cluster.settle()
    assert cluster["n1"].raft.commit_index == last and cluster["n1"].raft.current_term == 1


def test_a_lost_timeout_now_is_repeated() -> None:
    cluster = led()
    transfer(cluster, "n2")
    cluster.network.clear()
    cluster.run(SETTINGS.heartbeat_ms + 10)
    assert cluster["n2"].raft.role is Role.LEADER


def test_timeout_now_twice_or_late_deposes_nobody() -> None:
    cluster = led()
    transfer(cluster, "n2")
    cluster.settle()
    late = Packet("n1", "n2", TimeoutNow(1))
    cluster.deliver(late, late)
    cluster.run(500)
    assert cluster["n2"].raft.role is Role.LEADER and cluster["n2"].raft.current_term == 2


def test_what_cannot_be_done_is_refused_in_words() -> None:
    cluster = led()
    assert cluster.input(cluster["n2"], lambda raft: raft.transfer_leadership("n1")) == "not the leader"
    assert "n9 is not a voting member" in transfer(cluster, "n9") and "n2, n3" in transfer(cluster, "n9")
    assert transfer(cluster, "n1") == "", "it leads already"
    assert cluster["n1"].raft.transferee is None


def test_a_transfer_in_a_cluster_of_one_is_refused() -> None:
    cluster = led(1)
    assert transfer(cluster) == "there is no other voting member"


def test_a_target_with_a_stalled_disk_does_not_campaign() -> None:
    cluster = led()
    cluster.input(cluster["n2"], lambda raft: raft.on_disk_full(True))
    cluster.deliver(Packet("n1", "n2", TimeoutNow(1)))
    assert cluster["n2"].raft.role is Role.FOLLOWER and cluster["n2"].raft.current_term == 1


def test_the_elections_after_a_failed_transfer_are_ordinary_ones_again() -> None:
    """Else a node that was asked once would, for ever after, be let past the others' loyalty to a living leader, and
    raise the term without being able to win (trap 13)."""
    cluster = led()
    target = cluster["n2"]
    cluster.drop = lambda packet: type(packet.message) is RequestVote and packet.message.transfer
    cluster.deliver(Packet("n1", "n2", TimeoutNow(1)))
    cluster.drop = lambda packet: packet.receiver == "n2"
    cluster.run(400)
    assert target.raft.role is Role.PRE_CANDIDATE and target.raft.current_term == 2
    asked = [p.message for p in cluster.sent if p.sender == "n2" and type(p.message) is RequestVote]
    assert asked[-1].pre_vote and not asked[-1].transfer
    assert cluster["n1"].raft.role is Role.LEADER


def test_who_has_not_read_its_clock_yet_does_not_take_over() -> None:
    """Its log's clock would begin at 0 and jump by the uptime of the machine: every session would end."""
    cluster = led()
    cluster["n3"].begin()
    cluster.deliver(Packet("n1", "n3", TimeoutNow(1)))
    cluster.settle()
    assert cluster["n3"].raft.role is Role.FOLLOWER
    cluster.tick(cluster["n3"])
    transfer(cluster, "n3")
    cluster.run(300, until=lambda: cluster["n3"].raft.role is Role.LEADER)
    assert cluster["n3"].raft.role is Role.LEADER
    cluster.propose(cluster["n3"], b"x")
    times = [cluster["n3"].entry(index).time_ms for index in range(1, cluster["n3"].raft.log.last_index + 1)]
    assert times[-1] - times[0] < 1_000
