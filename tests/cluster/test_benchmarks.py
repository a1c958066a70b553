"""benchmarks/: its table, what it refuses, and zraft as one of its stores. The others need programs that a machine for
tests need not have."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LOAD_ZRAFT = """
import json
from peers.zraft import Zraft
from workload import Cell, measure
peer = Zraft()
peer.start()
try:
    peer.fill()
    print(json.dumps([measure(peer, Cell(operation, 8, 0.1, 0.5)) for operation in peer.operations]))
finally:
    peer.stop()
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=BENCHMARKS, capture_output=True, text=True, timeout=60)


def cell(peer: str, ops_per_s: float, others_cores: float) -> dict[str, Any]:
    latencies = {"p50_us": 1000.0, "p99_us": 2000.0, "p999_us": None, "max_us": 9000.0}
    cpu = {"nodes_cpu_s_per_1000": 0.1, "client_cpu_s_per_1000": None, "others_cores": others_cores}
    return {"peer": peer, "operation": "put", "in_flight": 64, "ops_per_s": ops_per_s, **latencies, **cpu}


def test_a_table_of_old_runs_leaves_disturbed_cells_out(tmp_path: Path) -> None:
    rounds = []
    for zraft, etcd, others in ((3000.0, 1000.0, 0.0), (3400.0, 1100.0, 0.1), (10.0, 10.0, 1.5)):
        cells = [cell("zraft", zraft, others), cell("etcd", etcd, others)]
        rounds.append({"cells": cells, "memory": {}, "yardsticks": {"echoes": 5.0}, "errors": ["redis: it is gone"]})
    machine = {"cpu": "a", "cores": 2, "memory_gib": 4, "kernel": "6", "python": "3", "pyzmq": "27", "libzmq": "4"}
    peers = {"zraft": {"version": "1", "about": "so"}}
    document = tmp_path / "old.json"
    document.write_text(json.dumps({"date": "today", "machine": machine, "peers": peers, "rounds": rounds}))
    done = run("run.py", "--show", str(document))
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if line.startswith("| zraft"))
    cells = [cell.strip() for cell in row.strip("| ").split("|")]
    assert cells == [
        "zraft", "put", "64", "3,200", "3,000-3,400", "3.05", "1.00", "2.00", "", "0.100", "", "2/3",
    ]  # fmt: skip
    assert done.stdout.count("redis: it is gone") == 1


def test_an_unknown_store_is_refused() -> None:
    done = run("run.py", "--only", "oracle")
    assert done.returncode == 2
    assert "no such store: oracle; there are zraft, etcd, zookeeper" in done.stderr


def test_zraft_is_one_of_the_stores() -> None:
    done = run("-c", LOAD_ZRAFT)
    assert done.returncode == 0, done.stderr
    put, get = json.loads(done.stdout)
    for found in (put, get):
        assert found["ops_per_s"] > 0 and found["errors"] == 0
        assert 0 < found["p50_us"] <= found["p99_us"] <= found["max_us"]
        assert found["total"] >= found["ops_per_s"] * 0.5
        assert found["nodes_cpu_s_per_1000"] > 0 and found["client_cpu_s_per_1000"] > 0
