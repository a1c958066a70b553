"""One node as a process on this machine: started, paused, killed, and started again."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from zraft.cli.processes import NodeProcess
from zraft.config import load_config
from zraft.errors import ZraftError

STOP_SECONDS = 10.0


class Node(NodeProcess):
    """A node and its process, of which there may be one after another; its folder and its ports stay the same.

    folder: where its configuration, data and log go; it must exist. config: what stands in the configuration file.
    Raises ConfigError.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        path = folder / f"{config['node']}.yaml"
        path.write_text(yaml.safe_dump(config), encoding="utf-8")
        settings = load_config(path)
        super().__init__(settings)
        self.config = config
        self.endpoint = settings.cluster[settings.node].client
        """Where clients reach it."""
        self.peer = settings.cluster[settings.node].peer
        """Where other nodes reach it."""
        self.peer_port = _port(self.peer)
        self.json_port = _port(settings.json) if settings.json else 0
        """Of the JSON lines; 0: there is none."""
        self.log_path = folder / f"{self.name}.log"
        self.ended_on_purpose = True
        self.is_paused = False

    def start(self) -> None:
        """Begin a process. Raises ZraftError if one runs."""
        if self.is_running:
            raise ZraftError(f"{self.name} runs already (pid {self.pid})")
        super().start()
        self.ended_on_purpose = self.is_paused = False

    def kill(self) -> None:
        """SIGKILL, and wait for the end. A process that has ended already is left at that."""
        if self.is_running:
            self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status. Raises subprocess.TimeoutExpired after 10 s."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections, and does nothing."""
        self.signal(signal.SIGSTOP)
        self.is_paused = True

    def resume(self) -> None:
        """SIGCONT. A process that is not paused, or has ended, is left at that."""
        if self.is_running:
            self.signal(signal.SIGCONT)
        self.is_paused = False

    def signal(self, number: int) -> None:
        """Send a signal to the process that this object started, and to no other. Raises ZraftError if none runs."""
        if self._process is None or self._process.poll() is not None:
            raise ZraftError(f"{self.name} does not run")
        self.ended_on_purpose = self.ended_on_purpose or number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
        self._process.send_signal(number)

    def wait(self, seconds: float = STOP_SECONDS) -> int:
        """Wait for the end of the process; returns its exit status. Raises subprocess.TimeoutExpired."""
        if self._process is None:
            raise ZraftError(f"{self.name} was never started")
        return self._process.wait(seconds)

    def memory_bytes(self) -> int:
        """Resident memory of the process."""
        statm = Path(f"/proc/{self.pid}/statm")
        if statm.exists():  # on Linux
            return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return 1024 * int(subprocess.check_output(["ps", "-o", "rss=", "-p", str(self.pid)]))

    def log(self) -> str:
        """All that its processes printed."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def complaints(self) -> list[str]:
        """Signs of a bug, one a line: an end that nobody asked for, a traceback, an error in the log."""
        found = []
        if not self.is_running and not self.ended_on_purpose:
            found.append(f"{self.name} ended by itself: {self.how_it_ended()}")
        return found + [f"{self.name}: {line}" for line in self.log().splitlines() if _is_complaint(line)]


def _is_complaint(line: str) -> bool:
    if "by an injected fault" in line:
        return False
    return "Traceback" in line or "Assertion" in line or " ERROR " in line or "impossible:" in line


def _port(address: str) -> int:
    return urlsplit(address).port or 0
