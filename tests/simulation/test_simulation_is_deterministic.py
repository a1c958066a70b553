"""The same seed gives the same run, byte for byte, in another process with another order of hashes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from zraft.sim.runner import Plan, run
from zraft.sim.transcript import Trace

ARGUMENTS = ["-m", "zraft.cli.sim", "--seed", "7", "--seconds", "4", "--transcript", "--lines", "0"]


def output_of(hash_seed: str) -> bytes:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    return subprocess.run([sys.executable, *ARGUMENTS], env=environment, stdout=subprocess.PIPE, check=True).stdout


def test_transcript_is_the_same_in_another_process() -> None:
    one, other = output_of("1"), output_of("2")
    assert one == other
    assert one.count(b"\n") > 500


def test_recording_changes_nothing() -> None:
    plan = Plan(4, faults_ms=3_000)
    assert run(plan, time.monotonic).sha256 == run(plan, time.monotonic, Trace(recording=True)).sha256


def test_other_seeds_give_other_runs() -> None:
    assert len({run(Plan(seed, faults_ms=1_000), time.monotonic).sha256 for seed in range(4)}) == 4
