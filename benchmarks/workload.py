"""What every store is asked, and how a cell of the table is measured."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import machine

if TYPE_CHECKING:
    from peers import Peer

KEYS = 10_000
KEY_BYTES = 16
VALUE_BYTES = 256
PATIENCE_S = 600.0  # a million keys take some minutes


class Cell(NamedTuple):
    """One load: put or get of uniformly drawn keys, so many in flight, so long."""

    operation: str
    in_flight: int
    warm_up_s: float
    duration_s: float


class Loaded(NamedTuple):
    """What a load generator found. Latencies in microseconds; p999_us None: it does not tell. total: operations in all,
    the warm-up included. client_cpu_s: of the load generator over all that time; None: it is part of a node."""

    ops_per_s: float
    p50_us: float
    p99_us: float
    p999_us: float | None
    max_us: float
    errors: int
    total: int
    client_cpu_s: float | None


def measure(peer: Peer, cell: Cell) -> dict[str, Any]:
    """One cell, with the CPU that nodes, client and others used."""
    pids = peer.pids()
    nodes, busy, began = machine.cpu_s(pids), machine.busy_s(), time.monotonic()
    loaded = peer.load(cell)
    nodes, wall_s = machine.cpu_s(pids) - nodes, time.monotonic() - began
    busy = machine.busy_s() - busy
    thousands = max(loaded.total, 1) / 1000
    client = loaded.client_cpu_s or 0.0
    return {
        "peer": peer.name,
        "operation": cell.operation,
        "in_flight": cell.in_flight,
        **loaded._asdict(),
        "nodes_cpu_s_per_1000": nodes / thousands,
        "client_cpu_s_per_1000": None if loaded.client_cpu_s is None else client / thousands,
        "others_cores": max(0.0, busy - nodes - client) / wall_s,
    }


def run_generator(command: Sequence[str | Path], cell: Cell, **environment: str) -> Loaded:
    """Run a load generator of loadgen/, which prints the fields of Loaded as JSON. Raises RuntimeError."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        timeout=cell.warm_up_s + cell.duration_s + PATIENCE_S,
        env={**os.environ, **environment},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with status {done.returncode}: {done.stderr.strip()[-300:]}")
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return from_fields(json.loads(done.stdout.splitlines()[-1]), used)


def from_fields(fields: Mapping[str, Any], client_cpu_s: float | None) -> Loaded:
    """What a load generator printed."""
    return Loaded(client_cpu_s=client_cpu_s, **fields)
