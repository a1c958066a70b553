"""Each deliberate bug is found, by the seed and the invariant that docs/TESTING.md names; clean code is not accused."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from zraft.sim.mutants import MUTANTS, planted
from zraft.sim.runner import Plan, run

FAULTS_SECONDS = 10
TABLE = Path(__file__).resolve().parents[2] / "docs" / "TESTING.md"


class Row(NamedTuple):
    mutant: str
    trap: str
    seed: int
    seconds: int
    invariant: str


def rows() -> list[Row]:
    """The table in the document: | mutant | trap | the mistake | seed, or: seed (seconds s) | invariant |"""
    found = []
    for line in TABLE.read_text().splitlines():
        match = re.fullmatch(r"\| `([a-z-]+)` \| ([^|]+) \| [^|]+ \| (\d+)(?: \((\d+) s\))? \| ([^|]+) \|", line)
        if match is not None:
            seconds = int(match[4] or FAULTS_SECONDS)
            found.append(Row(match[1], match[2].strip(), int(match[3]), seconds, match[5].strip()))
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.mutant)
def test_mutant_is_found_by_its_seed(row: Row) -> None:
    result = run(Plan(row.seed, faults_ms=row.seconds * 1000, mutant=row.mutant), time.monotonic)
    assert result.invariant == row.invariant, result.what


@pytest.mark.parametrize(("seed", "seconds"), sorted({(row.seed, row.seconds) for row in rows()}))
def test_without_the_bug_the_seed_is_clean(seed: int, seconds: int) -> None:
    result = run(Plan(seed, faults_ms=seconds * 1000), time.monotonic)
    assert not result.invariant, result.what


def test_every_mutant_is_in_the_document() -> None:
    named = set(re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \| ", TABLE.read_text(), re.MULTILINE))
    assert named == {(name, each.trap) for name, each in MUTANTS.items()}


@pytest.mark.parametrize("name", sorted(MUTANTS))
def test_mutant_leaves_nothing_behind(name: str) -> None:
    plan = Plan(3, faults_ms=300)
    before = run(plan, time.monotonic).sha256
    with planted(name):
        pass
    assert run(plan, time.monotonic).sha256 == before
