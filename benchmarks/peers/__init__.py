"""The stores: each is started, loaded and ended in the same way."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from machine import data_folder
from workload import KEYS, Cell, Loaded

HERE = Path(__file__).resolve().parents[1]
START_S = 60.0
STOP_S = 10.0

Found = TypeVar("Found")


class NotInstalled(Exception):
    """A program that the store needs is not there. The text says which, and where it comes from."""


class Peer:
    """A store of one or several processes on loopback. The constructor raises NotInstalled."""

    name = ""
    about = ""
    """What to mind when its figures are read."""
    operations: tuple[str, ...] = ("put", "get")

    def __init__(self) -> None:
        self.keys = KEYS
        self.folder = Path()
        self.processes: list[subprocess.Popen[str]] = []

    def version(self) -> str:
        """As it tells."""
        raise NotImplementedError

    def start(self) -> None:
        """With empty data; returns when it serves."""
        self.folder = Path(tempfile.mkdtemp(prefix=f"zraft-benchmarks-{self.name}-", dir=data_folder()))
        try:
            self.launch()
        except Exception as error:
            words = self.last_words()
            self.stop()
            raise RuntimeError(f"{type(error).__name__}: {error}; {words}") from error

    def last_words(self) -> str:
        """The last line of the first of its logs that has one."""
        for log in sorted(self.folder.glob("*.log")):
            lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            if lines:
                return f"{log.name} ends with: {lines[-1][:300]}"
        return "its logs are empty"

    def launch(self) -> None:
        """Start the processes, by `spawn`."""
        raise NotImplementedError

    def fill(self) -> None:
        """Write every key once."""
        raise NotImplementedError

    def load(self, cell: Cell) -> Loaded:
        """Load it for so long."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """Of its nodes."""
        return [process.pid for process in self.processes]

    def spawn(self, command: Sequence[str | Path], log: str) -> subprocess.Popen[str]:
        """A process of its own session; what it prints goes to `log`, unless it is to be talked to."""
        with open(self.folder / f"{log}.log", "ab") as file:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """End the processes that it started, and remove their data."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []
        shutil.rmtree(self.folder, ignore_errors=True)


def need(program: str, package: str) -> str:
    """The path of a program. Raises NotInstalled."""
    found = shutil.which(program)
    if found is None:
        raise NotInstalled(f"there is no {program} (Debian: apt-get install {package})")
    return found


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def eventually(what: str, condition: Callable[[], Found]) -> Found:
    """Its first true value. Raises TimeoutError."""
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        try:
            value = condition()
        except (OSError, ValueError, LookupError):
            value = None
        if value:
            return value
        time.sleep(0.05)
    raise TimeoutError(f"not within {START_S:g} s: {what}")


def build(command: Sequence[str | Path], source: Path, target: Path, **environment: str) -> Path:
    """Compile a load generator, unless that was done. Raises NotInstalled with what the compiler says."""
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        target.parent.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [str(word) for word in command], capture_output=True, text=True, env={**os.environ, **environment}
        )
        if done.returncode:
            raise NotInstalled(f"{source.name} cannot be built: {done.stderr.strip()[:300]}")
    return target


def all_peers() -> dict[str, Callable[[], Peer]]:
    """By name."""
    from peers import etcd, pysyncobj, redis, zookeeper, zraft

    classes: list[type[Peer]] = [
        zraft.Zraft, etcd.Etcd, zookeeper.ZooKeeper, pysyncobj.Synced, pysyncobj.Unsynced, redis.Redis
    ]  # fmt: skip
    return {peer.name: peer for peer in classes}
