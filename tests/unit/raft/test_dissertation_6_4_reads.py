"""Dissertation, section 6.4: read-only queries without the log (ReadIndex)."""

from __future__ import annotations

from cluster_harness import SETTINGS, Cluster, Packet

from zraft.messages import Heartbeat, HeartbeatReply
from zraft.raft import Role


def led(size: int = 3) -> Cluster:
    cluster = Cluster(size)
    cluster.elect("n1")
    cluster.run(200)
    return cluster


def rounds_sent(cluster: Cluster) -> list[int]:
    return [p.message.round for p in cluster.network if p.receiver == "n2" and type(p.message) is Heartbeat]


def test_a_read_is_answered_after_a_round_of_heartbeats_at_the_commit_index_of_its_arrival() -> None:
    cluster = led()
    leader = cluster["n1"]
    last = cluster.propose(leader, b"x")
    cluster.settle()
    assert cluster.read(leader, "r")
    assert not leader.answers
    cluster.deliver(*[p for p in cluster.network if p.receiver == "n2"])
    cluster.deliver(*[p for p in cluster.network if p.receiver == "n1"])
    assert leader.answers == [(last, "r")]


def test_all_reads_that_wait_share_one_round() -> None:
    cluster = led()
    leader = cluster["n1"]
    cluster.input(leader, lambda raft: raft.read(["a", "b"]), lambda raft: raft.read(["c"]))
    assert len(rounds_sent(cluster)) == 1
    cluster.read(leader, "d")
    cluster.read(leader, "e")
    assert len(rounds_sent(cluster)) == 1, "a round is under way: they wait for the next"
    cluster.settle()
    assert [context for _, context in leader.answers] == ["a", "b", "c", "d", "e"]


def test_a_read_does_not_join_a_round_that_began_before_it_arrived() -> None:
    """Trap 14: those who answer the older round may have deposed the leader before the read came."""
    cluster = led()
    leader = cluster["n1"]
    cluster.read(leader, "early")
    late_acks = [Packet(peer, "n1", HeartbeatReply(1, leader.raft.read_round)) for peer in ("n2", "n3")]
    cluster.network.clear()
    cluster.read(leader, "late")
    cluster.deliver(late_acks[0])
    assert [context for _, context in leader.answers] == ["early"]
    cluster.deliver(*late_acks)
    assert [context for _, context in leader.answers] == ["early"], "that was the round before"
    cluster.settle()
    assert [context for _, context in leader.answers] == ["early", "late"]


def test_an_answer_of_an_older_round_or_term_does_not_count() -> None:
    cluster = led()
    leader = cluster["n1"]
    cluster.read(leader, "r")
    cluster.network.clear()
    cluster.deliver(Packet("n2", "n1", HeartbeatReply(1, leader.raft.read_round - 1)))
    cluster.deliver(Packet("n2", "n1", HeartbeatReply(0, leader.raft.read_round)))
    assert not leader.answers


def test_one_peers_answer_twice_is_no_majority_of_five() -> None:
    cluster = led(5)
    leader = cluster["n1"]
    cluster.read(leader, "r")
    cluster.network.clear()
    ack = Packet("n2", "n1", HeartbeatReply(1, leader.raft.read_round))
    cluster.deliver(ack, ack, ack)
    assert not leader.answers
    cluster.deliver(Packet("n3", "n1", HeartbeatReply(1, leader.raft.read_round)))
    assert leader.answers


def test_a_lost_round_is_repeated_with_the_next_heartbeat() -> None:
    cluster = led()
    cluster.read(cluster["n1"], "r")
    cluster.network.clear()
    cluster.run(SETTINGS.heartbeat_ms + 10)
    assert cluster["n1"].answers


def test_a_follower_takes_no_read_and_a_deposed_leader_refuses_those_it_has() -> None:
    cluster = led()
    leader = cluster["n1"]
    assert cluster.read(cluster["n2"], "at a follower") is False
    cluster.isolate("n1")
    cluster.read(leader, "in a round")
    cluster.read(leader, "waiting")
    cluster.run(4 * SETTINGS.election_timeout_ms[1])
    assert leader.raft.role is not Role.LEADER
    assert leader.refused == ["in a round", "waiting"] and not leader.answers
    cluster.heal()
    cluster.run(2 * SETTINGS.election_timeout_ms[1])
    cluster.input(cluster.leader(), lambda raft: raft.transfer_leadership("n1"))
    cluster.run(200)
    cluster.read(leader, "as leader again")
    cluster.run(200)
    assert [context for _, context in leader.answers] == ["as leader again"], "what was refused is not answered too"


def test_a_leader_that_was_replaced_without_knowing_serves_no_stale_read() -> None:
    cluster = led()
    old = cluster["n1"]
    cluster.isolate("n1")
    cluster["n2"].raft.last_leader_contact_ms = cluster["n3"].raft.last_leader_contact_ms = None
    cluster.input(cluster["n2"], lambda raft: raft.become_candidate(transfer=True))
    cluster.settle()
    new = cluster["n2"]
    last = cluster.propose(new, b"newer")
    cluster.settle()
    assert new.raft.commit_index == last and old.raft.role is Role.LEADER
    cluster.read(old, "stale")
    cluster.settle()
    cluster.heal()
    cluster.run(200)
    assert old.refused == ["stale"] and not old.answers


def test_a_single_node_answers_at_once() -> None:
    cluster = led(1)
    cluster.read(cluster["n1"], "r")
    assert cluster["n1"].answers == [(1, "r")]


# ---- who is asked --------------------------------------------------------------------------------------------------


def asked(cluster: Cluster) -> set[str]:
    return {packet.receiver for packet in cluster.network if type(packet.message) is Heartbeat}


def let_answer(cluster: Cluster, *names: str) -> None:
    """A heartbeat is due, and answered in this order; the rest of the network stays silent."""
    leader = cluster["n1"]
    cluster.now_ms = leader.raft.heartbeat_due_ms
    cluster.network.clear()
    cluster.tick(leader)
    beats = {packet.receiver: packet for packet in cluster.network if type(packet.message) is Heartbeat}
    assert set(beats) == set(leader.raft.progress), "each heartbeat goes to all"
    cluster.network.clear()
    for name in names:
        cluster.deliver(beats[name])
        cluster.deliver(*[packet for packet in cluster.network if packet.receiver == "n1"])


def test_a_round_asks_those_alone_who_answered_the_last_heartbeat_first() -> None:
    cluster = led()
    for first, second in (("n3", "n2"), ("n2", "n3")):
        let_answer(cluster, first, second)
        let_answer(cluster, second, first)  # from here on the order before counts
        cluster.read(cluster["n1"], first)
        assert asked(cluster) == {first}
        cluster.settle()
        assert cluster["n1"].answers[-1][1] == first


def test_of_five_two_are_asked() -> None:
    cluster = led(5)
    let_answer(cluster, "n4", "n2", "n5", "n3")
    let_answer(cluster)
    cluster.read(cluster["n1"], "r")
    assert asked(cluster) == {"n4", "n2"}
    cluster.settle()
    assert cluster["n1"].answers


def test_a_heartbeat_that_no_majority_answered_tells_nothing() -> None:
    """A new leader, or one whose followers are further away than a heartbeat's time, asks all."""
    cluster = led(5)
    let_answer(cluster, "n4")
    let_answer(cluster)
    cluster.read(cluster["n1"], "r")
    assert asked(cluster) == {"n2", "n3", "n4", "n5"}


def test_who_leads_anew_asks_all() -> None:
    cluster = led()
    for _ in range(2):
        let_answer(cluster, "n3", "n2")
    cluster.input(cluster["n1"], lambda raft: raft.become_follower(2, None, "a test"))
    cluster.elect("n1")
    cluster.network.clear()
    cluster.read(cluster["n1"], "r")
    assert asked(cluster) == {"n2", "n3"}


def test_an_answer_to_an_older_heartbeat_counts_for_no_roll() -> None:
    cluster = led()
    let_answer(cluster)
    late = Packet("n3", "n1", HeartbeatReply(1, cluster["n1"].raft.roll_call))
    let_answer(cluster)
    cluster.deliver(late)
    let_answer(cluster)
    cluster.read(cluster["n1"], "r")
    assert asked(cluster) == {"n2", "n3"}


def test_reads_go_on_while_the_roll_is_called() -> None:
    """The answers to a heartbeat come after the next round has begun."""
    cluster = led()
    leader = cluster["n1"]
    for _ in range(2):
        cluster.now_ms = leader.raft.heartbeat_due_ms
        cluster.network.clear()
        cluster.tick(leader)
        cluster.read(leader, "r")
        cluster.settle()
    assert len(leader.raft.quickest) == 1


def test_with_other_members_all_are_asked() -> None:
    cluster = led()
    let_answer(cluster, "n3", "n2")
    let_answer(cluster)
    leader = cluster["n1"]
    cluster.reconfigure(leader, {name: leader.raft.membership.voters[name] for name in ("n1", "n2")})
    cluster.network.clear()
    cluster.read(leader, "r")
    assert asked(cluster) == {"n2", "n3"}


def test_who_answered_and_is_no_voter_any_more_is_not_asked() -> None:
    cluster = led()
    leader = cluster["n1"]
    let_answer(cluster, "n3", "n2")
    others = {name: leader.raft.membership.voters[name] for name in ("n1", "n2")}
    cluster.input(leader, lambda raft: raft.append_config(raft.membership._replace(voters=others)))
    cluster.network.clear()
    let_answer(cluster)
    cluster.read(leader, "r")
    assert asked(cluster) == {"n2"}


def test_who_is_silent_is_not_waited_for() -> None:
    """All are asked after a few milliseconds, and from the next heartbeat but one on another."""
    cluster = led()
    for _ in range(2):
        let_answer(cluster, "n3", "n2")
    leader = cluster["n1"]
    watch_ms = leader.raft.read_watch_ms
    cluster.isolate("n3")
    cluster.read(leader, "r")
    began_ms = cluster.now_ms
    while not leader.answers and cluster.now_ms < began_ms + 100:
        cluster.now_ms += leader.raft.tick_ms
        cluster.tick(leader)
        cluster.deliver(*[packet for packet in cluster.network if packet.receiver == "n2"])
        cluster.deliver(*[packet for packet in cluster.network if packet.receiver == "n1"])
    assert leader.answers and cluster.now_ms - began_ms <= 3 * watch_ms < SETTINGS.heartbeat_ms
    cluster.run(2 * SETTINGS.heartbeat_ms)
    cluster.network.clear()
    cluster.read(leader, "next")
    assert asked(cluster) == {"n2"}


def test_the_clock_is_looked_at_often_only_while_there_are_reads() -> None:
    cluster = led()
    raft = cluster["n1"].raft
    assert raft.tick_ms == SETTINGS.heartbeat_ms
    cluster.read(cluster["n1"], "r")
    cluster.settle()
    assert raft.tick_ms == raft.read_watch_ms == SETTINGS.heartbeat_ms // 10
    cluster.run(3 * SETTINGS.heartbeat_ms)
    assert raft.tick_ms == SETTINGS.heartbeat_ms
    before = raft.now_ms
    cluster.now_ms = before + SETTINGS.heartbeat_ms + SETTINGS.heartbeat_ms // 2
    cluster.read(cluster["n1"], "another")
    cluster.tick(cluster["n1"])
    assert not [note for note in cluster["n1"].notes if "did not run" in note]
