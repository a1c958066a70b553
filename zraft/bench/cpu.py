"""CPU time of processes by thread, and of the machine, as Linux counts them. Elsewhere there is nothing to read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

PROC = Path("/proc")
MAIN = "main"
ZMQ_PREFIX = "ZMQbg"  # what libzmq calls its own threads
ZMQ = "ZeroMQ I/O"

Times = dict[str, float]
"""Thread -> CPU seconds so far; threads of one name together."""


def can_measure() -> bool:
    """Whether this system tells."""
    return (PROC / "self/task").is_dir()


def of_process(pid: int) -> Times:
    """CPU seconds of a process's threads since they began; {} if there is no such process (any more)."""
    times: Times = {}
    with suppress(OSError):
        for task in os.listdir(PROC / f"{pid}/task"):
            with suppress(OSError):  # it has ended meanwhile
                folder = PROC / f"{pid}/task/{task}"
                name = MAIN if int(task) == pid else (folder / "comm").read_text().strip()
                name = ZMQ if name.startswith(ZMQ_PREFIX) else name
                times[name] = times.get(name, 0.0) + _of_task(folder)
    return times


def _of_task(folder: Path) -> float:
    with suppress(OSError):  # a kernel without it
        return int((folder / "schedstat").read_text().split()[0]) / 1e9
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def of_machine() -> float:
    """CPU seconds that all of the machine has been busy since its start."""
    fields = [int(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> Times:
    """What was used in between."""
    return {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
