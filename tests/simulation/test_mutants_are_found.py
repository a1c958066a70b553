"""Each deliberate bug is found, by the seed and the invariant that docs/TESTING.md names; clean code is not accused."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from zraft.sim.mutants import MUTANTS, planted
from zraft.sim.runner import Plan, run

FAULTS_MS = 10_000
TABLE = Path(__file__).resolve().parents[2] / "docs" / "TESTING.md"


class Row(NamedTuple):
    mutant: str
    trap: str
    seed: int
    invariant: str


def rows() -> list[Row]:
    """The table in the document: | mutant | trap | the mistake | seed | invariant |"""
    found = []
    for line in TABLE.read_text().splitlines():
        match = re.fullmatch(r"\| `([a-z-]+)` \| ([^|]+) \| [^|]+ \| (\d+) \| ([^|]+) \|", line)
        if match is not None:
            found.append(Row(match[1], match[2].strip(), int(match[3]), match[4].strip()))
    return found


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.mutant)
def test_mutant_is_found_by_its_seed(row: Row) -> None:
    result = run(Plan(row.seed, faults_ms=FAULTS_MS, mutant=row.mutant), time.monotonic)
    assert result.invariant == row.invariant, result.what


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
