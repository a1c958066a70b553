"""The stages of a write add up, on the real actors with stamps; what dies on the way does no harm."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import fake_cluster
import pytest
from fake_cluster import Cluster, ClusterNode, Writer

from zraft.bench import stages
from zraft.bench.histogram import Histogram
from zraft.bench.profiled import ProfiledApplier, ProfiledConsensus, ProfiledFrontend
from zraft.bench.stages import STAGES, Stages

EVERY = 3
IN_ORDER = ("frontend", "to consensus", "consensus", "to applier", "apply", "to frontend", "reply")


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> dict[str, Stages]:
    """By node. Their clock counts how often it was looked at: no two stamps are equal."""
    clock = itertools.count().__next__
    made = {f"n{number}": Stages(EVERY, clock) for number in (1, 2, 3)}

    def profiled(actor: Callable[..., Any]) -> Callable[..., Any]:
        return lambda context, *arguments: actor(made[context._post.__self__.name], context, *arguments)

    for name, actor in (
        ("Frontend", ProfiledFrontend),
        ("Consensus", ProfiledConsensus),
        ("Applier", ProfiledApplier),
    ):
        monkeypatch.setattr(fake_cluster, name, profiled(actor))
    return made


def times(recorder: Stages) -> dict[str, Histogram]:
    report = recorder.report()["stages"]
    return {name: Histogram.from_json(report[name]) for name in STAGES}


def load(seed: object) -> tuple[Cluster, ClusterNode, Writer]:
    cluster = Cluster(seed)
    leader = cluster.elect()
    return cluster, leader, Writer(cluster, window=8)


@pytest.mark.parametrize("seed", range(3))
def test_stages_add_up_to_what_the_node_took(recorders: dict[str, Stages], seed: int) -> None:
    cluster, leader, writer = load(seed)
    cluster.run_until(lambda: writer.writes >= 500)
    writer.finish()
    cluster.check_equal_states()
    found = times(recorders[leader.name])
    timed = found["node"].count
    assert timed >= 90 / EVERY / 3, "tokens go to reads and status requests, too"
    assert {histogram.count for histogram in found.values()} == {timed}
    in_parallel = max(found["log"].total_us, found["network"].total_us)
    in_order = sum(found[name].total_us for name in IN_ORDER)
    assert (
        in_order + in_parallel
        <= found["node"].total_us
        <= in_order + sum(found[name].total_us for name in ("log", "network"))
    )
    for name in IN_ORDER:
        assert found[name].total_us >= timed, f"{name} takes its time"
    for node in cluster.names:
        writes = Histogram.from_json(recorders[node].report()["log_writes"])
        assert writes.count >= 90 / 8 and writes.total_us > 0, f"{node} times the writes of its log"
        assert node == leader.name or not times(recorders[node])["node"].count


def test_a_write_on_its_own_is_timed_exactly() -> None:
    """What the points are, by a clock that is moved by hand."""
    now = [0]
    recorder = Stages(1, lambda: now[0])

    def at(now_us: int) -> None:
        now[0] = now_us

    recorder.arrived(5, [(7, b"")])
    at(10)
    recorder.mark(stages.PROPOSED, [7])
    at(30)
    recorder.appended(100, [7])
    at(35)
    recorder.sent()
    at(235)
    recorder.progressed(99, 100)
    at(335)
    recorder.progressed(100, 100)
    at(340)
    recorder.mark(stages.APPLYING, [7])
    at(350)
    recorder.mark(stages.APPLIED, [7])
    at(351)
    recorder.answered([7])
    at(353)
    recorder.replied()
    assert {name: histogram.total_us for name, histogram in times(recorder).items()} == {
        "frontend": 5, "to consensus": 20, "consensus": 5, "log": 300, "network": 200, "to applier": 5, "apply": 10,
        "to frontend": 1, "reply": 2, "node": 348,
    }  # fmt: skip


@pytest.mark.parametrize("actor", ["frontend", "consensus", "applier", "log_writer"])
def test_deaths_on_the_way_do_no_harm(
    recorders: dict[str, Stages], monkeypatch: pytest.MonkeyPatch, actor: str
) -> None:
    monkeypatch.setattr(stages, "MAX_OPEN", 4)
    cluster, leader, writer = load(actor)
    for round_number in range(3):
        cluster.run_until(lambda target=writer.writes + 20: writer.writes >= target)
        leader.kill(actor, round_number)
    cluster.run_until(lambda: leader.slots[actor].actor is not None)
    cluster.run_until(lambda target=writer.writes + 40: writer.writes >= target)
    writer.finish()
    cluster.check_equal_states()
    writer.check()
    for recorder in recorders.values():
        assert len(recorder._open) <= 2 * 4 + 8 and len(recorder._waiting) <= 4
        assert all(histogram.max_us < 10**7 for histogram in times(recorder).values())


def test_what_was_refused_is_not_counted() -> None:
    recorder = Stages(1, lambda: 1)
    recorder.arrived(0, [(1, b"")])
    recorder.mark(stages.PROPOSED, [1])
    recorder.answered([1])
    recorder.replied()
    assert not times(recorder)["node"].count and not recorder._open
