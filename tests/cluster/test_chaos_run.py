"""zraft-chaos run as a user types it: it breaks a cluster, finds nothing wrong with zraft, and finds what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from zraft.chaos.schedule import KINDS, make_schedule
from zraft.config import ACTORS

MUTANTS = Path(__file__).parent / "mutants"
NODES = ("n1", "n2", "n3")
SHORT_SECONDS = 12.0
LONG_SECONDS = 600.0


def chaos(*arguments: str, mutant: str = "", seconds: float = 110.0) -> subprocess.CompletedProcess[str]:
    """Run zraft-chaos with these arguments, and the mutant in every node that it starts."""
    environment = {**os.environ, "PYTHONPATH": str(MUTANTS / mutant)} if mutant else None
    command = [sys.executable, "-m", "zraft.cli.chaos", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, env=environment)


def seed_that_begins_with(kind: str, what: str, whom: str, seconds: float, least_s: float = 0.0) -> int:
    """A seed whose first fault, after at least a second, is that one, and lasts `least_s`."""

    def begins(seed: int) -> bool:
        first = make_schedule(seed, [kind], NODES, ACTORS, seconds)[0]
        return (first.what, first.whom) == (what, whom) and first.at_s > 1.0 and first.for_s >= least_s

    return next(filter(begins, range(1000)))


def processes_with(text: str) -> list[str]:
    """Command lines that contain `text`."""
    listed = subprocess.check_output(["ps", "-A", "-o", "args="], text=True)
    return [line for line in listed.splitlines() if text in line and "ps -A" not in line]


def check_all_holds(done: subprocess.CompletedProcess[str], kinds: Sequence[str]) -> dict[str, object]:
    verdict: dict[str, object] = json.loads(done.stdout) if done.stdout else {}
    assert done.returncode == 0, (verdict.get("rows"), verdict.get("explanation"), done.stderr[-3000:])
    assert {row["name"]: row["holds"] for row in verdict["rows"]} == dict.fromkeys(  # type: ignore[attr-defined]
        ("linearizable", "exactly once", "equal states", "serves again", "no bug met", "faults took effect"), "holds"
    )
    faults = verdict["faults"]
    assert isinstance(faults, dict) and all(sum(faults[kind].values()) for kind in kinds)
    return verdict


def test_a_short_run_with_every_kind_of_fault(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    done = chaos(
        "run", "--duration", f"{SHORT_SECONDS:g}", "--seed", "5", "--faults", "all", "--history", str(history),
        "-o", "json",
    )  # fmt: skip
    verdict = check_all_holds(done, KINDS)
    assert len(history.read_text().splitlines()) == verdict["operations"]
    checked = chaos("check", str(history))
    assert (checked.returncode, checked.stdout.split(":")[0]) == (0, "linearizable")
    folder = done.stderr.split(" nodes in ")[1].split()[0]
    assert not Path(folder).exists() and not processes_with(folder)


def test_writes_that_a_disk_forgot_are_missed(tmp_path: Path) -> None:
    """Nodes that acknowledge before they sync, all killed at once: what was acknowledged last is gone."""
    seed = seed_that_begins_with("nodes", "kill", "all", 8)
    history = tmp_path / "history.jsonl"
    done = chaos(
        "run", "--duration", "8", "--seed", str(seed), "--faults", "nodes", "--history", str(history),
        mutant="lost_fsync",
    )  # fmt: skip
    check_violation(done, history)


def test_reads_from_a_leader_of_the_past_are_noticed(tmp_path: Path) -> None:
    """Nodes that answer reads without asking whether they still lead, and a leader that is cut off from the others."""
    seed = seed_that_begins_with("partitions", "isolate", "leader", 9, 4.5)
    history = tmp_path / "history.jsonl"
    done = chaos(
        "run", "--duration", "9", "--seed", str(seed), "--faults", "partitions", "--history", str(history),
        "--clients", "12", mutant="stale_leader",
    )  # fmt: skip
    check_violation(done, history)


def check_violation(done: subprocess.CompletedProcess[str], history: Path) -> None:
    assert done.returncode == 1, (done.stdout, done.stderr[-3000:])
    assert "\nlinearizable        violated" in done.stdout
    assert done.stdout.startswith("not linearizable: ")
    assert "no order of its operations explains this one" in done.stdout
    assert len(done.stdout.splitlines()) < 80
    checked = chaos("check", str(history))
    assert (checked.returncode, checked.stdout.split(":")[0]) == (1, "not linearizable")
    folder = Path(done.stderr.split("logs of the nodes: ")[1].split(";")[0])
    assert {path.name for path in folder.glob("*.log")} == {f"{node}.log" for node in NODES}
    assert not processes_with(str(folder))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_ends_it_leaves_nothing_behind(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "zraft.cli.chaos", "run", "--duration", "60", "--faults", "pauses,nodes"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        assert run.stderr is not None
        folder = run.stderr.readline().split(" nodes in ")[1].strip()
        while " leads " not in (line := run.stderr.readline()):
            assert line, "it ended by itself"
        time.sleep(0.5)
        run.send_signal(number)
        rest = run.stderr.read()
        assert run.wait(20) == 130
    assert rest.splitlines()[-1] == "zraft-chaos: interrupted"
    assert not processes_with(folder) and not Path(folder).exists()


def test_a_cluster_that_runs_already(tmp_path: Path) -> None:
    from zraft.testing import Cluster

    with Cluster(3, tmp_path / "nodes") as cluster:
        cluster.start()
        with cluster.client() as client:
            client.set("mine", "untouched")
        options = [option for endpoint in cluster.endpoints for option in ("-e", endpoint)]
        kinds = ("actors", "pauses", "partitions", "delay", "drop")
        done = chaos(*options, "run", "--duration", "8", "--faults", ",".join(kinds), "-o", "json")
        check_all_holds(done, kinds)
        with cluster.client() as client:
            assert [key for key, _ in client.range("")] == [b"mine"]
            assert all(not report.get("faults") for report in client.status())
        refused = chaos(*options, "run", "--duration", "8", "--faults", "nodes")
        assert refused.returncode == 2 and "leave them out" in refused.stderr


def test_a_cluster_that_accepts_no_faults_is_left_alone(tmp_path: Path) -> None:
    from zraft.testing import Cluster

    with Cluster(1, tmp_path / "nodes", chaos=False) as cluster:
        cluster.start()
        done = chaos("-e", cluster.endpoints[0], "run", "--duration", "5", "--faults", "delay")
        assert done.returncode in (1, 2) and "chaos: true" in done.stderr, done
        with cluster.client() as client:
            assert client.range("") == []


@pytest.mark.long
@pytest.mark.timeout(LONG_SECONDS + 400)
def test_ten_minutes_with_every_kind_of_fault() -> None:
    done = chaos(
        "run", "--duration", f"{LONG_SECONDS:g}", "--seed", "11", "--faults", "all", "--nodes", "5", "-o", "json",
        seconds=LONG_SECONDS + 300,
    )  # fmt: skip
    verdict = check_all_holds(done, KINDS)
    print(f"\n{verdict['outcomes']}, {verdict['faults']}, longest write gap {verdict['longest_write_gap_s']} s")
