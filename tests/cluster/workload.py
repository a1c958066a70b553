"""Writes from many threads while things break, and what must hold of them afterwards.

Each thread owns some keys, so that the order of the writes to a key is known. Every value is written once. A write ends
as acknowledged, as unknown (it may have taken effect, or do so at any later time), or as surely not applied.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from cluster import Cluster

from zraft import Client, OutcomeUnknown, Unavailable

READ_EVERY = 8
"""A thread reads one of its keys back after so many writes."""

_numbers = itertools.count(1)  # workloads may share a cluster, not a key


class KeyHistory:
    """What became of the writes to one key."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.acknowledged = 0
        self.unknown: list[bytes] = []
        self.last: bytes | None = None
        """The last acknowledged value."""

    def may_be(self, value: bytes | None) -> bool:
        """Whether a read may return this: the last acknowledged value, or one whose write may take effect yet."""
        return value == self.last or value in self.unknown


class Writer(threading.Thread):
    """One thread that writes its keys in turn until told to stop."""

    def __init__(self, number: int, client: Client, keys: Sequence[str], pause_seconds: float) -> None:
        super().__init__(name=f"writer {number}", daemon=True)
        self.histories = [KeyHistory(key.encode()) for key in keys]
        self.errors: list[str] = []
        self.failed = 0
        self.longest_pause_seconds = 0.0
        self.stopping = threading.Event()
        self._number = number
        self._client = client
        self._pause_seconds = pause_seconds

    def run(self) -> None:
        """Write, and read back now and then."""
        written = 0
        last_success = time.monotonic()
        try:
            while not self.stopping.is_set():
                history = self.histories[written % len(self.histories)]
                written += 1
                if self.write(history, f"{self._number}:{written}".encode()):
                    now = time.monotonic()
                    self.longest_pause_seconds = max(self.longest_pause_seconds, now - last_success)
                    last_success = now
                if written % READ_EVERY == 0:
                    self.read(history)
                if self._pause_seconds:
                    time.sleep(self._pause_seconds)
        except Exception as error:
            self.errors.append(f"{self.name} met {type(error).__name__}: {error}")

    def write(self, history: KeyHistory, value: bytes) -> bool:
        """One write, noted; whether it was acknowledged."""
        try:
            self._client.set(history.key, value)
        except OutcomeUnknown:
            history.unknown.append(value)
            return False
        except Unavailable:
            self.failed += 1
            return False
        history.acknowledged += 1
        history.last = value
        return True

    def read(self, history: KeyHistory) -> None:
        """A read must see this thread's own acknowledged write."""
        try:
            value = self._client.get(history.key)
        except Unavailable:
            return
        if not history.may_be(value):
            self.errors.append(f"stale read of {history.key!r}: {value!r}, after {history.last!r} was acknowledged")


class Workload:
    """A context manager: `threads` writers run while it is entered, several to a client. Then `check`.

    keys: of each thread. timeout_seconds: of each call. pause_seconds: between two calls of a thread.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        threads: int = 8,
        clients: int = 4,
        keys: int = 4,
        timeout_seconds: float = 10.0,
        pause_seconds: float = 0.0,
    ) -> None:
        self._clients = [Client(endpoints, timeout=timeout_seconds) for _ in range(clients)]
        self._prefix = f"workload {next(_numbers)}/"
        self.writers = []
        for number in range(threads):
            own_keys = [f"{self._prefix}{number}/{key}" for key in range(keys)]
            self.writers.append(Writer(number, self._clients[number % clients], own_keys, pause_seconds))
        self._timeout_seconds = timeout_seconds

    def __enter__(self) -> Workload:
        for writer in self.writers:
            writer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for writer in self.writers:
            writer.stopping.set()
        for writer in self.writers:
            writer.join(2 * self._timeout_seconds + 5)
        stuck = [writer.name for writer in self.writers if writer.is_alive()]
        for client in self._clients:
            client.close()
        if error is None:
            assert not stuck, f"calls that never ended: {stuck}"

    @property
    def histories(self) -> list[KeyHistory]:
        """Of all keys."""
        return [history for writer in self.writers for history in writer.histories]

    @property
    def acknowledged(self) -> int:
        """Writes so far."""
        return sum(history.acknowledged for history in self.histories)

    @property
    def unknown(self) -> int:
        """Writes so far."""
        return sum(len(history.unknown) for history in self.histories)

    @property
    def longest_pause_seconds(self) -> float:
        """The longest time that a thread had to wait from one acknowledgement to the next."""
        return max(writer.longest_pause_seconds for writer in self.writers)

    def wait_for(self, writes: int, seconds: float = 30.0) -> None:
        """Until so many more writes are acknowledged: service is there."""
        target = self.acknowledged + writes
        deadline = time.monotonic() + seconds
        while self.acknowledged < target:
            assert time.monotonic() < deadline, f"not {writes} more writes within {seconds:g} s"
            time.sleep(0.005)

    def summary(self) -> str:
        """In one line."""
        failed = sum(writer.failed for writer in self.writers)
        return (
            f"{self.acknowledged} acknowledged, {self.unknown} unknown, {failed} surely not applied; "
            f"longest pause {self.longest_pause_seconds * 1000:.0f} ms"
        )

    def check(self, cluster: Cluster) -> None:
        """Once all nodes run and nothing writes any more: nothing acknowledged is lost, nothing is applied twice, and
        the nodes' states are equal."""
        errors = [error for writer in self.writers for error in writer.errors]
        assert not errors, "\n".join(errors)
        assert self.acknowledged, "nothing was written: this says nothing"
        with Client(cluster.endpoints, timeout=10.0) as client:
            found = {entry.key: entry for entry in client.range(self._prefix)}
        for history in self.histories:
            entry = found.get(history.key)
            value, version = (entry.value, entry.version) if entry else (None, 0)
            assert history.may_be(value), f"{history.key!r} is {value!r}, last acknowledged {history.last!r}"
            most = history.acknowledged + len(history.unknown)
            assert history.acknowledged <= version <= most, (
                f"{history.key!r} was applied {version} times; acknowledged {history.acknowledged}, at most {most}"
            )
        cluster.wait_converged()
