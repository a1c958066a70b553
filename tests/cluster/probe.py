"""How long service is away: small writes begun at a steady pace, whatever became of those before them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence
from types import TracebackType

from zraft import AsyncClient, ZraftError

PROBE_EVERY_SECONDS = 0.01
STEADY_SECONDS = 0.3
"""Service is back when probes have been answered for so long, each within `STEADY_SECONDS`."""
FILLER_WINDOW = 256


class Prober:
    """A context manager: while it is entered, a write is begun every 10 ms. Times are monotonic seconds."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        self._endpoints = endpoints
        self._stopping = threading.Event()
        self._answers: list[float] = []
        """When each acknowledgement came, in order."""
        self._failures: list[str] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="prober", daemon=True)

    def __enter__(self) -> Prober:
        self._thread.start()
        self.wait_steady()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(30)
        if error is None:
            assert not self._thread.is_alive(), "a probe never ended"
            assert not self._failures, self._failures[:3]

    async def _run(self) -> None:
        async with AsyncClient(self._endpoints, timeout=15.0) as client:
            tasks: set[asyncio.Task[None]] = set()
            due = time.monotonic()
            while not self._stopping.is_set():
                task = asyncio.create_task(self._probe(client))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                due = max(due + PROBE_EVERY_SECONDS, time.monotonic())
                await asyncio.sleep(due - time.monotonic())
            await asyncio.gather(*tasks)

    async def _probe(self, client: AsyncClient) -> None:
        try:
            await client.set("probe", "x")
        except ZraftError as error:
            self._failures.append(str(error))
        else:
            self._answers.append(time.monotonic())

    def longest_gap_seconds(self, since: float) -> float:
        """Between two acknowledgements, the first of which may be the last before `since`."""
        answers = list(self._answers)
        before = [answer for answer in answers if answer < since][-1:]
        times = before + [answer for answer in answers if answer >= since] + [time.monotonic()]
        return max(after - earlier for earlier, after in zip(times, times[1:], strict=False))

    def wait_steady(self, seconds: float = 20.0) -> None:
        """Until acknowledgements come at the pace of the probes."""
        deadline = time.monotonic() + seconds
        wanted = 0.5 * STEADY_SECONDS / PROBE_EVERY_SECONDS
        since = time.monotonic()
        while True:
            time.sleep(0.02)
            now = time.monotonic()
            if now - since > STEADY_SECONDS and sum(a > now - STEADY_SECONDS for a in self._answers[-200:]) >= wanted:
                return
            assert now < deadline, f"no steady service within {seconds:g} s; failures: {self._failures[:3]}"


def fill(endpoints: Sequence[str], entries: int) -> None:
    """Make the log that long, for what has to be read again after a death depends on it."""

    async def run() -> None:
        async with AsyncClient(endpoints, timeout=30.0) as client:
            for first in range(0, entries, FILLER_WINDOW):
                batch = range(first, min(first + FILLER_WINDOW, entries))
                await asyncio.gather(*(client.set(f"filler/{number % 1000}", "x" * 256) for number in batch))

    asyncio.run(run())
