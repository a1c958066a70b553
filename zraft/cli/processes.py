"""The nodes of zraft-cluster as child processes: started, watched, and ended."""

from __future__ import annotations

import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType, TracebackType

from zraft.config import Config
from zraft.errors import ZraftError

STOP_SECONDS = 10.0
"""How long nodes may take to end cleanly before they are killed."""


def node_command(config_path: Path) -> list[str]:
    """What runs the node of that configuration file, in this Python."""
    return [sys.executable, "-m", "zraft.cli.node", str(config_path)]


class NodeProcess:
    """One node as a child process, in a session of its own, so that a terminal's Ctrl-C reaches only its parent.

    What it prints is appended to `log_path`, beside the data directory: ``<folder of data_dir>/<node>.log``.
    """

    def __init__(self, config: Config) -> None:
        self.name = config.node
        self.config_path = config.source
        self.log_path = config.data_dir.parent / f"{config.node}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> None:
        """Start it. Raises ZraftError if its log cannot be written."""
        try:
            self.log_path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.log_path, "ab") as log:
                self._log_start = log.tell()
                self._process = subprocess.Popen(
                    node_command(self.config_path),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            raise ZraftError(f"cannot start {self.name}: {error.filename}: {error.strerror}") from error

    @property
    def pid(self) -> int | None:
        """The process's id, also after its end; None before its start."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def how_it_ended(self) -> str:
        """In a few words, with the last line that it logged if it ended with an error; "" while it runs."""
        status = None if self._process is None else self._process.poll()
        if status is None:
            return ""
        if status < 0:
            return f"killed by {_signal_name(-status)}"
        if status == 0:
            return "ended cleanly"
        return f"ended with status {status}: {self._last_words()}"

    def terminate(self) -> None:
        """Ask it to end cleanly."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()

    def _last_words(self) -> str:
        with open(self.log_path, "rb") as log:
            log.seek(self._log_start)
            lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line), f"see {shlex.quote(str(self.log_path))}")


def stop_all(nodes: Iterable[NodeProcess], signals: Signals) -> list[str]:
    """End all that run; return the names of those that had to be killed.

    They have STOP_SECONDS to end cleanly, unless the user asks once more to stop.
    """
    running = [node for node in nodes if node.is_running]
    for node in running:
        node.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    asked = signals.stops
    while any(node.is_running for node in running) and time.monotonic() < deadline and signals.stops == asked:
        signals.wait(0.1)
    late = [node for node in running if node.is_running]
    for node in late:
        node.kill()
    return [node.name for node in late]


class Signals:
    """While it is entered: counts the signals that ask to stop, and wakes `wait` by these and by a child's end."""

    _STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self.stops = 0
        """How often the user asked to stop."""

    def __enter__(self) -> Signals:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)
        self._old_fd = signal.set_wakeup_fd(self._sender.fileno(), warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, self._count) for number in (*self._STOPPING, signal.SIGCHLD)}
        return self

    def __exit__(self, *_error: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        self._receiver.close()
        self._sender.close()

    def _count(self, number: int, _frame: FrameType | None) -> None:
        if number in self._STOPPING:
            self.stops += 1

    def wait(self, seconds: float) -> None:
        """Sleep, at most until the next signal."""
        if select.select([self._receiver], [], [], seconds)[0]:
            self._receiver.recv(4096)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
