"""Runs seeds and judges them: one, or a range on all cores."""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from zraft.actors import applier, consensus
from zraft.chaos.history import Operation
from zraft.chaos.linearizability import Verdict, check, explain
from zraft.client import term_check
from zraft.raft import progress
from zraft.sim.cluster import Cluster
from zraft.sim.mutants import planted
from zraft.sim.options import draw_options, nodes_of
from zraft.sim.transcript import NotesHandler, Trace
from zraft.sim.violation import Violation

JUDGE_SECONDS = 60.0  # of the clock that is handed in
DEFAULT_FAULTS_MS = 60_000


class Plan(NamedTuple):
    """What to run. nodes 0: as the seed says. steps: end the faults after so many events; 0: no limit."""

    seed: int
    nodes: int = 0
    faults_ms: int = DEFAULT_FAULTS_MS
    steps: int = 0
    mutant: str = ""

    def command(self) -> str:
        """What replays it."""
        words = ["bin/zraft-sim", "--seed", str(self.seed), "--seconds", f"{self.faults_ms / 1000:g}"]
        if self.nodes:
            words += ["--nodes", str(self.nodes)]
        if self.steps:
            words += ["--steps", str(self.steps)]
        if self.mutant:
            words += ["--mutant", self.mutant]
        return " ".join(words)


class Result(NamedTuple):
    """invariant: the one that was violated, "" for none; what: in words. sha256: of all events."""

    plan: Plan
    nodes: int
    invariant: str
    what: str
    sha256: str
    virtual_us: int
    events: int
    operations: int
    acknowledged: int
    committed: int
    counts: Counter[str]

    def line(self) -> str:
        """The run in one line."""
        verdict = f"VIOLATION of '{self.invariant}'" if self.invariant else "ok"
        return (
            f"seed {self.plan.seed}: {verdict}; {self.nodes} nodes, {self.virtual_us / 1_000_000:.1f} virtual s, "
            f"{self.events} events, {self.acknowledged} of {self.operations} operations acknowledged, "
            f"{self.committed} entries; sha256 {self.sha256}"
        )


def run(plan: Plan, clock: Callable[[], float], trace: Trace | None = None) -> Result:
    """Run one seed. clock: seconds; it bounds only how long the judge of the history may think."""
    trace = trace or Trace()
    nodes = plan.nodes or nodes_of(plan.seed)
    options = draw_options(plan.seed, nodes, plan.faults_ms)._replace(max_events=plan.steps)
    invariant = what = ""
    with small_sizes(options.piece_bytes), planted(plan.mutant), _quiet_log() as package_log:
        cluster = Cluster(plan.seed, options, trace)
        if trace.recording:
            package_log.addHandler(NotesHandler(trace, lambda: cluster.scheduler.now_us))
            package_log.setLevel(logging.INFO)
        try:
            cluster.run()
        except Violation as violation:
            invariant, what = violation.invariant, str(violation)
    history = [operation for client in cluster.clients.values() for operation in client.history]
    if not invariant:
        invariant, what = judge(history, clock)
    if what:
        trace.event(cluster.scheduler.now_us, f"VIOLATION: {what.splitlines()[0]}")
    return Result(
        plan,
        nodes,
        invariant,
        what,
        trace.digest(),
        cluster.scheduler.now_us,
        cluster.scheduler.events,
        len(history),
        sum(client.acknowledged for client in cluster.clients.values()),
        len(cluster.invariants.committed),
        cluster.counts,
    )


def judge(history: list[Operation], clock: Callable[[], float]) -> tuple[str, str]:
    """("", "") if the history is linearizable, else the invariant's name and the explanation."""
    report = check(history, clock, JUDGE_SECONDS)
    if report.verdict is Verdict.LINEARIZABLE:
        return "", ""
    name = "linearizable" if report.verdict is Verdict.NOT_LINEARIZABLE else "no verdict on linearizability"
    return name, "\n".join(explain(report))


@contextmanager
def small_sizes(piece_bytes: int) -> Iterator[None]:
    """Snapshots travel in pieces of this size, so that those of small states have many, too; clients read in the
    leader's term almost from the beginning."""
    window = 4 * piece_bytes
    sizes = (
        (progress, "SNAPSHOT_PIECE_BYTES", piece_bytes), (progress, "SNAPSHOT_WINDOW_BYTES", window),
        (consensus, "SNAPSHOT_PIECE_BYTES", piece_bytes),
        (term_check, "WORTHWHILE_READS", 2),
        (applier, "PIECE_BYTES", piece_bytes), (applier, "WINDOW_BYTES", window),
    )  # fmt: skip
    saved = [(module, name, getattr(module, name)) for module, name, _ in sizes]
    for module, name, size in sizes:
        setattr(module, name, size)
    try:
        yield
    finally:
        for module, name, size in saved:
            setattr(module, name, size)


@contextmanager
def _quiet_log() -> Iterator[logging.Logger]:
    """What actors log goes to the transcript or nowhere; cyclic garbage is left alone, there is next to none."""
    package_log = logging.getLogger("zraft")
    saved = package_log.handlers[:], package_log.level, package_log.propagate
    package_log.handlers, package_log.propagate = [logging.NullHandler()], False
    package_log.setLevel(logging.CRITICAL)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield package_log
    finally:
        if was_enabled:
            gc.enable()
            gc.collect()
        package_log.handlers, _, package_log.propagate = saved
        package_log.setLevel(saved[1])


def cut_for_reader(lines: list[str], most: int) -> list[str]:
    """The last lines of a transcript, without the heartbeats that only say that all is well."""
    told = [line for line in lines if ": Heartbeat" not in line]
    return told[-most:]
