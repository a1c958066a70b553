"""This machine: what it is, what it can do at best, and what its processes use (Linux)."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
from echo import echoes_per_s

from zraft.bench import cpu
from zraft.bench.histogram import Histogram

QUIET_CORES = 0.25
QUIET_PATIENCE_S = 6.0
TICKS = os.sysconf("SC_CLK_TCK")
RECORD_BYTES = 300
SYNCS = 2000


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of these processes so far, of threads that have ended too."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def busy_s() -> float:
    """CPU seconds of the whole machine so far."""
    return cpu.of_machine()


def memory_mib(pids: Iterable[int]) -> float:
    """Resident memory of a process, on average."""
    sizes = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    return sum(sizes) / len(sizes) * os.sysconf("SC_PAGE_SIZE") / 2**20


def wait_until_quiet() -> None:
    """Until hardly anybody uses the machine for half a second; not for ever."""
    give_up = time.monotonic() + QUIET_PATIENCE_S
    while time.monotonic() < give_up:
        before = busy_s()
        time.sleep(0.5)
        if busy_s() - before < 0.5 * QUIET_CORES:
            return


def describe() -> dict[str, Any]:
    """For the head of a table."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "pyzmq": zmq.__version__,
        "libzmq": zmq.zmq_version(),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def yardsticks() -> dict[str, float]:
    """What any store stands on: a durable append, and a message there and back."""
    sync = _fdatasync()
    return {
        "fdatasync of a 300-byte append, preallocated, p50 us": sync.quantile_us(0.5),
        "fdatasync of a 300-byte append, preallocated, p99 us": sync.quantile_us(0.99),
        **{f"pyzmq echoes a second, {count} in flight": echoes_per_s(count, 1.0) for count in (1, 64, 256)},
    }


def _fdatasync() -> Histogram:
    folder = tempfile.mkdtemp(prefix="zraft-benchmarks-", dir=data_folder())
    histogram = Histogram()
    handle = os.open(f"{folder}/log", os.O_CREAT | os.O_RDWR)
    try:
        os.write(handle, bytes(RECORD_BYTES * SYNCS))
        os.fsync(handle)
        os.lseek(handle, 0, os.SEEK_SET)
        for _ in range(SYNCS):
            began = time.perf_counter()
            os.write(handle, b"x" * RECORD_BYTES)
            os.fdatasync(handle)
            histogram.record(int((time.perf_counter() - began) * 1e6))
    finally:
        os.close(handle)
        shutil.rmtree(folder)
    return histogram


def data_folder() -> Path:
    """Where all stores keep their data: ZRAFT_BENCHMARKS_DIR, else the system's temporary folder."""
    return Path(os.environ.get("ZRAFT_BENCHMARKS_DIR") or tempfile.gettempdir())
