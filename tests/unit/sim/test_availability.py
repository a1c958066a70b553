"""Who counts as well to a leader, in the simulator's judgement."""

from __future__ import annotations

from zraft.raft import Role
from zraft.sim.availability import raft_of
from zraft.sim.cluster import Cluster
from zraft.sim.options import Options
from zraft.sim.transcript import Trace


def test_a_member_that_was_wiped_is_none_to_the_leader() -> None:
    """It runs, and is linked; but the leader knows another data directory."""
    cluster = Cluster(1, Options(faults=("kill-actor",), fault_interval_ms=10**9, faults_ms=1_000), Trace())
    cluster.run()
    rafts = {name: raft_of(machine) for name, machine in cluster.machines.items()}
    leader = next(name for name, raft in rafts.items() if raft is not None and raft.role is Role.LEADER)
    wiped = next(name for name in cluster.names if name != leader)
    assert wiped in cluster.availability._well_with(leader)
    cluster.invariants.holdings[wiped].store_id += 1
    assert sorted(cluster.availability._well_with(leader)) == sorted(set(cluster.names) - {wiped})
