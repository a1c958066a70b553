"""zraft-sim: one line and a status; a failing seed prints its transcript and what replays it."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner, Result

from zraft.cli.sim import cli


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_a_seed_ends_with_one_line_and_the_hash_of_all_events() -> None:
    result = invoke("--seed", "2", "--seconds", "1", "--nodes", "3")
    assert result.exit_code == 0
    assert re.fullmatch(r"seed 2: ok; 3 nodes, .* sha256 [0-9a-f]{64}", result.stdout.strip())
    assert "wall time" in result.stderr


def test_a_violation_shows_what_led_there_and_how_to_replay_it() -> None:
    arguments = ("--seed", "0", "--seconds", "2", "--mutant", "ack-before-durable")
    result = invoke(*arguments, "--lines", "20")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert len(lines) <= 21
    assert any("AppendEntries" in line for line in lines)
    assert "VIOLATION of 'durable before said'" in lines[-1]
    assert "replay: bin/zraft-sim --seed 0 --seconds 2 --mutant ack-before-durable" in result.stderr
    assert invoke(*arguments, "--lines", "20").stdout == result.stdout


def test_many_seeds_end_with_a_table_of_what_took_effect() -> None:
    result = invoke("--seeds", "5:6", "--seconds", "1")
    assert result.exit_code == 0
    assert re.search(r"^kill-actor +[\d,]+$", result.stdout, re.MULTILINE)
    assert result.stdout.splitlines()[-1].startswith("1 seeds, 0.00 virtual hours: 0 failed")


def test_many_seeds_name_those_that_fail() -> None:
    result = invoke("--seeds", "0:1", "--seconds", "1", "--mutant", "ack-before-durable")
    assert result.exit_code == 1
    assert "replay: bin/zraft-sim --seed 0" in result.stdout


def test_steps_end_the_faults_early() -> None:
    result = invoke("--seed", "2", "--steps", "500")
    match = re.search(r" ([\d.]+) virtual s", result.stdout)
    assert match is not None and float(match[1]) < 30


def test_naive_shows_how_a_write_is_lost() -> None:
    result = invoke("--scenario", "naive", "--seed", "1")
    assert result.exit_code == 0
    assert "an acknowledged write is lost" in result.stdout
    assert len(result.stdout.splitlines()) < 60


@pytest.mark.parametrize(
    "arguments", [(), ("--seed", "1", "--seeds", "1:2"), ("--seeds", "3"), ("--seeds", "3:3"), ("--mutant", "none")]
)
def test_wrong_usage_is_refused(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments).exit_code == 2
