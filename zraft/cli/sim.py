"""zraft-sim: whole clusters in virtual time, from a seed."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator

import click

from zraft.cli.common import ExitStatus, Failure, version_option
from zraft.sim.mutants import MUTANTS
from zraft.sim.naive import run_naive
from zraft.sim.options import FAULTS
from zraft.sim.runner import Plan, Result, cut_for_reader, run
from zraft.sim.transcript import Trace

PROGRAM = "zraft-sim"
SHOWN_LINES = 60
EFFECTS = (
    *FAULTS, "actor-deaths", "lost-frames", "doubled-frames", "reordered-frames", "cut-frames", "held-frames",
    "torn-or-lost-writes", "snapshots-local", "snapshots-received", "joiners-wiped", "learners-added", "voters-added",
    "voters-removed", "changes-joint", "changes-cancelled", "changes-refused", "majority-lost",
)  # fmt: skip
"""What the summary counts: faults that took effect, what they did to frames and writes, and snapshots."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="Run this seed, and show what led there if an invariant is violated.")
@click.option("--seeds", metavar="A:B", help="Run the seeds A to B-1 on all cores.")
@click.option("--nodes", type=click.IntRange(1, 9), default=None, help="How many nodes.  [default: as the seed says]")
@click.option("--seconds", type=float, default=60.0, show_default=True, help="Virtual time with faults; calm follows.")
@click.option("--steps", type=click.IntRange(min=0), default=0, help="End the faults after so many events.")
@click.option("--mutant", type=click.Choice(sorted(MUTANTS)), metavar="NAME", help="Plant a deliberate bug first.")
@click.option("--scenario", type=click.Choice(["naive"]), help="naive: replication without Raft loses a write.")
@click.option("--lines", default=SHOWN_LINES, show_default=True, help="Of the transcript, on a violation; 0: all.")
@click.option("--transcript", is_flag=True, help="Show the transcript even if all is well.")
@version_option(PROGRAM)
def cli(
    seed: int | None,
    seeds: str | None,
    nodes: int | None,
    seconds: float,
    steps: int,
    mutant: str | None,
    scenario: str | None,
    lines: int,
    transcript: bool,
) -> None:
    """Run zraft's own actors in a simulated world: virtual time, and a network, disks and clocks with faults.

    The same seed gives the same run. Exit status: 0 all invariants held; 1 a violation; 2 usage.
    """
    if scenario is not None:
        _show_naive(seed or 0)
        return
    if (seed is None) == (seeds is None):
        raise click.UsageError("give either --seed N or --seeds A:B")
    plan = Plan(seed or 0, nodes or 0, int(seconds * 1000), steps, mutant or "")
    if seed is not None:
        _run_one(plan, lines, transcript)
    else:
        _run_many([plan._replace(seed=number) for number in _parse_range(seeds or "")])


def _parse_range(text: str) -> range:
    first, colon, end = text.partition(":")
    if not (colon and first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise click.UsageError(f"--seeds {text}: expected A:B with A < B, such as 0:100")
    return range(int(first), int(end))


def _show_naive(seed: int) -> None:
    lines, invariant, sha256 = run_naive(seed, time.monotonic)
    click.echo("\n".join(lines))
    click.echo(f"naive, seed {seed}: {'an acknowledged write is lost' if invariant else 'ok'}; sha256 {sha256}")


def _run_one(plan: Plan, lines: int, transcript: bool) -> None:
    started = time.monotonic()
    result = run(plan, time.monotonic)
    if result.invariant or transcript:
        trace = Trace(recording=True)
        run(plan, time.monotonic, trace)
        shown = list(trace.lines) if lines == 0 or (transcript and not result.invariant) else None
        click.echo("\n".join(shown if shown is not None else cut_for_reader(list(trace.lines), lines)))
    click.echo(f"{time.monotonic() - started:.1f} s of wall time", err=True)
    click.echo(result.line())
    if result.invariant:
        raise Failure(f"{result.what}\nreplay: {plan.command()}", ExitStatus.NO)


def _run_many(plans: list[Plan]) -> None:
    started = time.monotonic()
    failed: list[Result] = []
    counts: Counter[str] = Counter()
    virtual_us = 0
    for done, result in enumerate(_results(plans), 1):
        counts.update(result.counts)
        virtual_us += result.virtual_us
        if result.invariant:
            failed.append(result)
            click.echo(f"\r{result.line()}\n  {result.what.splitlines()[0]}\n  replay: {result.plan.command()}")
        if sys.stderr.isatty() or done == len(plans):
            bar = "#" * (30 * done // len(plans))
            click.echo(f"\r[{bar:<30}] {done}/{len(plans)} seeds, {len(failed)} failed", err=True, nl=False)
    wall_s = time.monotonic() - started
    click.echo("", err=True)
    click.echo(f"{'took effect':<22}{'times':>12}")
    for name in EFFECTS:
        click.echo(f"{name:<22}{counts[name]:>12,}")
    click.echo(f"{wall_s:.0f} s of wall time, {virtual_us / 1_000_000 / wall_s:.1f} virtual seconds a second", err=True)
    click.echo(f"{len(plans)} seeds, {virtual_us / 3_600_000_000:.2f} virtual hours: {len(failed)} failed")
    if failed:
        raise Failure(f"{len(failed)} of {len(plans)} seeds failed", ExitStatus.NO)


def _results(plans: list[Plan]) -> Iterator[Result]:
    """In the order of the plans, from as many processes as there are cores."""
    if len(plans) == 1:
        yield _work(plans[0])
        return
    with multiprocessing.get_context("spawn").Pool() as pool:
        yield from pool.imap(_work, plans)


def _work(plan: Plan) -> Result:
    return run(plan, time.monotonic)


def main() -> None:
    """Run zraft-sim with this process's arguments; never returns."""
    sys.exit(cli.main(prog_name=PROGRAM))


if __name__ == "__main__":
    main()
