"""Which fault comes when: made from a seed alone, before a run.

Two strands of faults go on at the same time, each with one fault after the other and calm in between: what happens to
processes and disks, and what happens to links. Kinds take turns, and so do the variants of a kind, in an order that the
seed draws. Deaths of actors are a strand of their own: every actor of every node in turn.

Whom a fault hits is said by role (the leader of the moment, any node, a majority, all) and drawn when it comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import Any

KINDS = ("actors", "nodes", "pauses", "partitions", "delay", "drop", "disk")
PROCESS_KINDS = ("nodes", "pauses", "disk")
LINK_KINDS = ("partitions", "delay", "drop")

VARIANTS: dict[str, tuple[tuple[str, str, float, float], ...]] = {
    "nodes": (
        ("kill", "leader", 0.3, 2.0),
        ("kill", "any", 0.3, 3.0),
        ("kill", "majority", 0.5, 1.5),
        ("kill", "all", 0.3, 1.0),
    ),
    "pauses": (
        ("pause", "leader", 0.5, 3.0),
        ("pause", "any", 0.5, 4.0),
        ("pause", "majority", 0.5, 1.5),
    ),
    "disk": (
        ("slow", "leader", 1.0, 3.0),
        ("slow", "majority", 1.0, 3.0),
        ("full", "leader", 1.0, 2.5),
        ("full", "any", 1.0, 3.0),
        ("fail-fsync", "leader", 1.0, 2.0),
        ("fail-fsync", "any", 1.0, 2.0),
    ),
    "partitions": (
        ("isolate", "leader", 3.0, 5.0),
        ("isolate", "any", 2.0, 4.0),
        ("halves", "all", 2.0, 4.0),
        ("one-way", "leader", 2.0, 4.0),
        ("cut-pair", "leader", 2.0, 4.0),
    ),
    "delay": (
        ("delay", "all", 2.0, 4.0),
        ("delay", "leader", 2.0, 4.0),
    ),
    "drop": (
        ("drop", "all", 2.0, 4.0),
        ("drop", "leader", 2.0, 4.0),
    ),
}
"""Of each kind: (what, to whom, least and most seconds that it lasts)."""

CALM_SECONDS = (0.5, 2.0)
"""Between two faults of a strand."""
SECONDS_A_KIND = 6.0
"""Room for the longest fault of any kind, and calm."""
LEAST_KILLS = 3
"""Of each actor on each node in a run of a minute or more."""
MIN_KILL_EVERY_SECONDS = 0.4
"""More often, and a cluster would have no time to serve: a short run does not come to all actors."""
MAX_KILL_EVERY_SECONDS = 1.0
MAX_BOUNDARY = 6
"""Mailbox, send and disk operations that an actor may come to before it dies."""


@dataclass(frozen=True)
class Fault:
    """One fault: at `at_s` seconds after the start of the run, for `for_s` seconds.

    kind: one of KINDS; what: its variant; whom: leader, any, majority, all, or the name of a node. draw: decides, when
    the fault comes, what is left to decide. parameters: of this variant.
    """

    at_s: float
    for_s: float
    kind: str
    what: str
    whom: str
    draw: int
    parameters: dict[str, Any] = field(default_factory=dict)


def make_schedule(
    seed: int, kinds: Iterable[str], nodes: Sequence[str], actors: Sequence[str], duration_s: float
) -> list[Fault]:
    """All faults of a run in order of time; the last one ends before the run does.

    Equal arguments give equal schedules, whatever the process's hash seed.
    """
    chosen = set(kinds)
    faults = _actor_deaths(Random(f"{seed} actors"), nodes, actors, duration_s) if "actors" in chosen else []
    for strand in (PROCESS_KINDS, LINK_KINDS):
        names = [kind for kind in strand if kind in chosen]
        if names:
            faults += _strand(Random(f"{seed} {' '.join(names)}"), names, duration_s)
    return sorted(faults, key=lambda fault: fault.at_s)


def _actor_deaths(rng: Random, nodes: Sequence[str], actors: Sequence[str], duration_s: float) -> list[Fault]:
    """Rounds in which every actor of every node dies once, each round in an order of its own."""
    pairs = [(node, actor) for node in nodes for actor in actors]
    # Half a round more than must be: some kills come while their node is away, and are made up for later.
    every_s = duration_s / (len(pairs) * (LEAST_KILLS + 0.5))
    every_s = min(max(every_s, MIN_KILL_EVERY_SECONDS), MAX_KILL_EVERY_SECONDS)
    faults: list[Fault] = []
    at_s = every_s
    while at_s < duration_s:
        for node, actor in rng.sample(pairs, len(pairs)):
            boundary = rng.choice((0, 0, rng.randint(1, MAX_BOUNDARY)))
            if at_s < duration_s:
                parameters = {"actor": actor, "boundary": boundary}
                faults.append(Fault(at_s, 0.0, "actors", "kill-actor", node, rng.getrandbits(32), parameters))
            at_s += every_s
    return faults


def _strand(rng: Random, kinds: list[str], duration_s: float) -> list[Fault]:
    faults: list[Fault] = []
    order = cycle(rng.sample(kinds, len(kinds)))
    variants = {kind: _turns(rng, VARIANTS[kind]) for kind in kinds}
    # In a short run all is shorter, so that every kind comes.
    scale = min(1.0, duration_s / (SECONDS_A_KIND * len(kinds)))
    at_s = rng.uniform(*CALM_SECONDS) * scale
    while True:
        kind = next(order)
        what, whom, least_s, most_s = next(variants[kind])
        for_s = rng.uniform(least_s, most_s) * scale
        if at_s + for_s > duration_s:
            return faults
        faults.append(Fault(at_s, for_s, kind, what, whom, rng.getrandbits(32), _parameters(rng, what)))
        at_s += for_s + rng.uniform(*CALM_SECONDS) * scale


def _turns(rng: Random, variants: Sequence[tuple[str, str, float, float]]) -> Iterator[tuple[str, str, float, float]]:
    while True:
        yield from rng.sample(variants, len(variants))


def _parameters(rng: Random, what: str) -> dict[str, Any]:
    if what == "slow":
        least = rng.randint(1, 20)
        return {"ms": [least, least + rng.randint(5, 60)]}
    if what == "delay":
        least = rng.choice((1, 5, 20))
        return {"ms": [least, least + rng.choice((10, 40, 120))]}
    if what == "drop":
        return {"share": rng.choice((0.02, 0.1, 0.25))}
    return {}
