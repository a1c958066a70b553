"""Any one actor may be killed at any of its boundaries: nothing acknowledged is lost, and the node serves again.

Three nodes with the real actors, supervisors and client core, on the bus of `fake_bus` (DESIGN section 3). A run is one
kill; the boundary moves on by one from run to run. `check_promise` and `check_state` watch every run.

Snapshots are taken every few entries and travel in tiny pieces, so that every kill happens amid them.
"""

from __future__ import annotations

from random import Random

import fake_cluster
import pytest
from fake_cluster import ACTORS, Cluster, ClusterNode, Writer

from zraft.actors import applier, consensus
from zraft.actors.applier import SnapshotPolicy
from zraft.messages import StopRequest
from zraft.raft import Role, progress

SERVES_AGAIN_MS = 1_000
ROLES = ("leader", "follower")
PIECE_BYTES = 150


@pytest.fixture(autouse=True)
def tiny_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(applier, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(applier, "WINDOW_BYTES", 3 * PIECE_BYTES)
    monkeypatch.setattr(consensus, "SNAPSHOT_PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(progress, "SNAPSHOT_PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(progress, "SNAPSHOT_WINDOW_BYTES", 3 * PIECE_BYTES)


def pick(cluster: Cluster, role: str) -> ClusterNode:
    leader = cluster.elect()
    return leader if role == "leader" else next(node for node in cluster.nodes.values() if node is not leader)


def serve_and_check(cluster: Cluster, writer: Writer, more: int = 8) -> None:
    """Some more writes are acknowledged, and everything is as it should be."""
    target = writer.writes + more
    cluster.run_until(lambda: writer.writes >= target)
    writer.finish()
    cluster.check_equal_states()
    writer.check()


def kill_under_load(role: str, actor: str, boundary: int, seed: object) -> None:
    cluster = Cluster(seed)
    node = pick(cluster, role)
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: writer.writes >= 3)
    node.kill(actor, boundary)
    cluster.run_until(lambda: node.slots[actor].deaths)
    cluster.run_until(lambda: node.slots[actor].actor is not None)
    serve_and_check(cluster, writer)
    assert node.supervisor.incarnations == {name: 2 if name == actor else 1 for name in ACTORS}
    assert writer.longest_gap_ms() < SERVES_AGAIN_MS


NO_GATEWAY = [name for name in ACTORS if name != "json_gateway"]  # it has lines of its own, below


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("actor", NO_GATEWAY)
def test_kill_at_boundaries_under_load(actor: str, role: str) -> None:
    for boundary in (*range(9), 13, 29, 47):
        kill_under_load(role, actor, boundary, boundary)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("actor", NO_GATEWAY)
def test_kill_at_each_of_the_first_boundaries_under_load(actor: str, role: str) -> None:
    for boundary in range(10, 250):
        kill_under_load(role, actor, boundary, boundary)


@pytest.mark.parametrize("actor", ACTORS)
def test_kill_at_each_boundary_of_the_first_life(actor: str) -> None:
    """From the very start: no leader, no cluster id, half of the actors not there yet."""
    for boundary in range(12):
        kill_at_birth(actor, {(actor, 1): boundary})


def kill_at_birth(actor: str, plan: dict[tuple[str, int], int]) -> None:
    cluster = Cluster(str(plan))
    node = cluster.nodes["n1"]
    node.kill_at_birth = dict(plan)
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: node.slots[actor].deaths)
    serve_and_check(cluster, writer)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("actor", ("consensus", "log_writer", "snapshot_writer", "applier", "transport", "frontend"))
def test_kill_while_another_recovers(actor: str, role: str) -> None:
    """Two deaths at once or one after the other, in any order: each restart meets a neighbour that is new as well."""
    for seed in range(8):
        kill_two(actor, role, seed)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("actor", ("consensus", "log_writer", "snapshot_writer", "applier", "transport", "frontend"))
def test_kill_while_another_recovers_many_times(actor: str, role: str) -> None:
    for seed in range(8, 200):
        kill_two(actor, role, seed)


def kill_two(actor: str, role: str, seed: int) -> None:
    dice = Random(f"{actor} {role} {seed}")
    cluster = Cluster(f"{actor} {role} {seed}")
    node = pick(cluster, role)
    writer = Writer(cluster, window=4)
    cluster.run_until(lambda: writer.writes >= 5)
    second = dice.choice(ACTORS)
    node.kill_at_birth = {(actor, 2): dice.randrange(6), (second, 2): dice.randrange(6)}
    node.kill(actor, dice.randrange(30))
    node.kill(second, dice.randrange(8))
    cluster.run_until(lambda: node.slots[actor].deaths)
    serve_and_check(cluster, writer, more=30)


@pytest.mark.parametrize("seed", range(10))
def test_kills_during_elections(seed: int) -> None:
    kill_during_elections(seed)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kills_during_many_elections() -> None:
    for seed in range(10, 200):
        kill_during_elections(seed)


def kill_during_elections(seed: int) -> None:
    """Candidates and voters forget everything but what is on their disks: still no two votes, no two leaders a term."""
    dice = Random(f"elections {seed}")
    cluster = Cluster(f"elections {seed}")
    writer = Writer(cluster, window=2)
    cluster.elect()
    for _ in range(8):
        for node in cluster.nodes.values():
            if node.raft is not None and node.raft.role is Role.LEADER:
                node.kill("consensus")
            elif dice.random() < 0.7:
                node.kill(dice.choice(("consensus", "consensus", "log_writer", "transport")), dice.randrange(60))
        cluster.run_for(dice.randrange(100, 400))
    cluster.run_until(lambda: all(node.raft is not None for node in cluster.nodes.values()))
    for node in cluster.nodes.values():
        for slot in node.slots.values():
            if slot.context is not None:
                slot.context.spare()
    cluster.elect()
    serve_and_check(cluster, writer)


SNAPSHOT_ACTORS = ("consensus", "log_writer", "snapshot_writer", "applier", "transport")


def away_too_long(seed: object) -> tuple[Cluster, ClusterNode, ClusterNode, Writer]:
    """A node comes back that needs entries which no other has any more. Returns also the leader."""
    cluster = Cluster(seed)
    away = pick(cluster, "follower")
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: writer.writes >= 3)
    cluster.away.add(away.name)
    others = [node for node in cluster.nodes.values() if node is not away]
    cluster.run_until(lambda: all(node.log.base[0] > away.raft.log.last_index for node in others))
    cluster.away.clear()
    leader = cluster.leader()
    assert leader is not None
    return cluster, leader, away, writer


def test_a_node_that_was_away_too_long_gets_a_snapshot() -> None:
    cluster, leader, away, writer = away_too_long("snapshot")
    had = away.raft.log.last_index
    assert leader.log.base[0] > 0, "segments were removed"
    cluster.run_until(lambda: away.raft.log.base_index > had)
    assert away.raft.snapshot.index > had
    serve_and_check(cluster, writer)
    assert away.log.base[0] > had
    assert all(life == 1 for node in cluster.nodes.values() for life in node.supervisor.incarnations.values())


@pytest.mark.parametrize("end", ["sender", "receiver"])
@pytest.mark.parametrize("actor", SNAPSHOT_ACTORS)
def test_kill_while_a_snapshot_is_installed(actor: str, end: str) -> None:
    for boundary in (*range(0, 24, 2), 31, 47):
        kill_during_install(actor, end, boundary)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", ["sender", "receiver"])
@pytest.mark.parametrize("actor", SNAPSHOT_ACTORS)
def test_kill_at_each_boundary_while_a_snapshot_is_installed(actor: str, end: str) -> None:
    for boundary in range(150):
        kill_during_install(actor, end, boundary)


def kill_during_install(actor: str, end: str, boundary: int) -> None:
    cluster, leader, away, writer = away_too_long(f"{actor} {end} {boundary}")
    node = leader if end == "sender" else away
    node.kill(actor, boundary)
    cluster.run_until(lambda: node.slots[actor].deaths)
    cluster.run_until(lambda: node.slots[actor].actor is not None)
    serve_and_check(cluster, writer)


@pytest.mark.parametrize("seed", range(12))
def test_kills_of_many_while_a_snapshot_is_installed(seed: int) -> None:
    kill_many_during_install(seed)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kills_of_many_while_many_snapshots_are_installed() -> None:
    for seed in range(12, 300):
        kill_many_during_install(seed)


def kill_many_during_install(seed: int) -> None:
    dice = Random(f"install {seed}")
    cluster, leader, away, writer = away_too_long(f"many {seed}")
    for _ in range(4):
        node, actor = dice.choice((leader, away)), dice.choice(SNAPSHOT_ACTORS)
        node.kill(actor, dice.randrange(40))
        cluster.run_for(dice.randrange(25))
    for node in (leader, away):
        for slot in node.slots.values():
            if slot.context is not None:
                slot.context.spare()
    serve_and_check(cluster, writer)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("actor", NO_GATEWAY)
def test_a_thread_that_ends_takes_its_actor_along_and_both_come_back(actor: str, role: str) -> None:
    cluster = Cluster(f"thread {actor}")
    node = pick(cluster, role)
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: writer.writes >= 3)
    node.break_thread(actor)
    cluster.run_until(lambda: node.threads_started and node.slots[actor].actor is not None)
    node.slots[actor].deaths.clear()  # "thread ... ended" is the one that is meant
    serve_and_check(cluster, writer)
    assert node.supervisor.incarnations[actor] == 2


@pytest.mark.parametrize("boundary", range(8))
def test_kill_the_gateway_that_people_send_lines_to(boundary: int) -> None:
    cluster = Cluster(boundary)
    node = pick(cluster, "follower")
    line = b'{"op":"set","key":"k","value":"v"}\n'
    node.lines.inbox.append((1, line))
    cluster.run_until(lambda: node.lines.sent)
    assert b'"ok": true' in node.lines.sent.pop()[1]
    node.kill("json_gateway", boundary)
    for number in range(2, 6):  # each sends a line; those whose connection the new life ends try again
        node.lines.inbox.append((number, line))
        cluster.run_for(20)
    cluster.run_until(lambda: node.slots["json_gateway"].actor is not None and node.slots["json_gateway"].deaths)
    node.lines.inbox.append((9, line))
    cluster.run_until(lambda: any(number == 9 and b'"ok": true' in data for number, data in node.lines.sent))
    cluster.check_equal_states()


def test_a_clean_end_hands_leadership_over_and_the_others_go_on() -> None:
    cluster = Cluster("clean end")
    node = pick(cluster, "leader")
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: writer.writes >= 10)
    node.tell_supervisor("main", StopRequest("SIGTERM"))
    cluster.run_until(lambda: node.ended)
    assert (node.supervisor.exit_status, node.supervisor.exit_reason) == (0, "SIGTERM")
    assert not node.disk.locks
    del cluster.nodes[node.name]
    target = writer.writes + 20
    cluster.run_until(lambda: writer.writes >= target)
    writer.finish()
    cluster.check_equal_states()
    writer.check()
    assert writer.longest_gap_ms() < 500, "nobody waited for an election timeout"


def test_a_disk_that_fails_stops_its_node_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_cluster, "POLICY", SnapshotPolicy())  # none, so that it is the log that is written
    cluster = Cluster("broken disk")
    node = pick(cluster, "leader")
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: writer.writes >= 10)

    def broken(operation: str) -> None:
        if operation == "sync":
            raise OSError(5, "broken")

    node.disk.before = broken
    cluster.run_until(lambda: node.ended)
    assert node.supervisor.exit_status == 1
    assert "log_writer" in node.supervisor.exit_reason and "check the disk" in node.supervisor.exit_reason
    del cluster.nodes[node.name]
    target = writer.writes + 20
    cluster.run_until(lambda: writer.writes >= target)
    writer.finish()
    cluster.check_equal_states()
    writer.check()


def test_a_full_disk_costs_the_leadership_and_nothing_else() -> None:
    cluster = Cluster("full disk")
    node = pick(cluster, "leader")
    writer = Writer(cluster, window=3)
    cluster.run_until(lambda: writer.writes >= 10)

    def full(operation: str) -> None:
        if operation == "write":
            raise OSError(28, "no space")

    node.disk.before = full
    cluster.run_until(lambda: cluster.leader() not in (None, node))
    target = writer.writes + 20
    cluster.run_until(lambda: writer.writes >= target)
    node.disk.before = lambda operation: None
    serve_and_check(cluster, writer)
