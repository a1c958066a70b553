"""Dissertation, section 6.2: a leader that reaches no majority steps down; pauses do not count."""

from __future__ import annotations

import pytest
from cluster_harness import SETTINGS, Cluster, Packet

from zraft.messages import HeartbeatReply
from zraft.raft import Role

LEAST, MOST = SETTINGS.election_timeout_ms


def led(size: int = 3) -> Cluster:
    cluster = Cluster(size)
    cluster.elect("n1")
    cluster.run(200)
    return cluster


def test_a_leader_cut_off_steps_down_within_two_timeouts() -> None:
    cluster = led()
    cluster.isolate("n1")
    cluster.run(LEAST)
    assert cluster["n1"].raft.role is Role.LEADER, "not at the first lost heartbeat"
    assert cluster.run(2 * MOST - LEAST, until=lambda: cluster["n1"].raft.role is not Role.LEADER)
    assert cluster["n1"].raft.leader_id is None
    assert "reaches only nobody" in " ".join(cluster["n1"].notes)


@pytest.mark.parametrize("late_ms", [0, SETTINGS.heartbeat_ms // 2])
def test_late_ticks_are_not_taken_for_a_pause(late_ms: int) -> None:
    """Else a busy leader that reaches nobody would go on for as much longer."""
    cluster = led()
    cluster.isolate("n1")
    raft = cluster["n1"].raft
    began_ms = last_ms = raft.now_ms
    contacts = {peer: progress.last_contact_ms for peer, progress in raft.progress.items()}
    while raft.role is Role.LEADER:
        assert {peer: progress.last_contact_ms for peer, progress in raft.progress.items()} == contacts
        last_ms += raft.tick_ms + late_ms
        raft.tick(last_ms)
    assert last_ms - began_ms <= 2 * MOST


def test_a_longer_pause_does_not_count() -> None:
    cluster = led()
    raft = cluster["n1"].raft
    before = {peer: progress.last_contact_ms for peer, progress in raft.progress.items()}
    raft.tick(raft.now_ms + raft.tick_ms + SETTINGS.heartbeat_ms // 2 + 10)
    assert {peer: progress.last_contact_ms - 10 for peer, progress in raft.progress.items()} == before


def test_a_leader_with_a_majority_stays_without_the_minority() -> None:
    cluster = led(5)
    cluster.isolate("n4", "n5")
    cluster.run(10 * MOST)
    assert cluster["n1"].raft.role is Role.LEADER and cluster["n1"].raft.current_term == 1


def test_half_of_four_is_not_enough() -> None:
    cluster = led(4)
    cluster.isolate("n3", "n4")
    cluster.run(2 * MOST)
    assert cluster["n1"].raft.role is not Role.LEADER


def test_links_that_only_carry_the_leaders_messages_do_not_keep_it() -> None:
    """It is heard but hears nothing: it must give way, else nobody can commit anything."""
    cluster = led()
    cluster.cut = {("n2", "n1"), ("n3", "n1")}
    cluster.run(2 * MOST)
    assert cluster["n1"].raft.role is not Role.LEADER
    assert cluster.run(4 * MOST, until=lambda: any(node.id != "n1" for node in cluster.leaders()))


def test_answers_of_an_older_term_do_not_keep_it() -> None:
    cluster = led()
    cluster.isolate("n1")
    stale = [Packet(peer, "n1", HeartbeatReply(0, 0)) for peer in ("n2", "n3")]
    for _ in range(2 * MOST // 10):
        cluster.run(10)
        for packet in stale:
            cluster.input(cluster["n1"], lambda raft, p=packet: raft.step(p.sender, p.message))
    assert cluster["n1"].raft.role is not Role.LEADER


def test_time_in_which_the_leaders_process_did_not_run_does_not_count_against_its_peers() -> None:
    cluster = led()
    cluster.now_ms += 60_000
    cluster.tick(cluster["n1"])
    assert cluster["n1"].raft.role is Role.LEADER
    cluster.isolate("n1")
    assert cluster.run(2 * MOST, until=lambda: cluster["n1"].raft.role is not Role.LEADER), "but only that time"


def test_a_follower_that_was_paused_does_not_campaign_before_it_has_listened() -> None:
    cluster = led()
    node = cluster["n3"]
    left_ms = node.raft.election_deadline_ms - cluster.now_ms
    cluster.now_ms += 60_000
    cluster.tick(node)
    assert node.raft.role is Role.FOLLOWER
    assert left_ms - SETTINGS.heartbeat_ms <= node.raft.election_deadline_ms - cluster.now_ms <= left_ms


def test_a_write_under_way_while_the_process_was_paused_is_no_stalled_disk() -> None:
    cluster = led()
    cluster.propose(cluster["n1"], b"x")
    cluster.now_ms += 60_000
    cluster.tick(cluster["n1"])
    assert not cluster["n1"].raft.disk_stalled() and cluster["n1"].raft.role is Role.LEADER


def test_a_single_node_stays() -> None:
    cluster = led(1)
    cluster.run(10 * MOST)
    assert cluster["n1"].raft.role is Role.LEADER and cluster["n1"].raft.current_term == 1
