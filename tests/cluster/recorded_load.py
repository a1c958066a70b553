"""Clients that live through all that happens to a cluster; each call and its answer becomes part of a history."""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Sequence
from random import Random
from types import TracebackType

from zraft import AsyncClient
from zraft.chaos.linearizability import Verdict, check
from zraft.chaos.recorder import Recorder
from zraft.chaos.statistics import is_write, longest_write_gap
from zraft.chaos.verdict import Final, Holds, exactly_once

KEYS = 6
THINK_SECONDS = 0.006
TIMEOUT_SECONDS = 10.0
CHECK_SECONDS = 60.0


class RecordedLoad:
    """A context manager: while it is entered, `clients` clients read and write, one call after the other each. None of
    them is told of any endpoint but these. Then `check`. Times are monotonic seconds."""

    def __init__(self, endpoints: Sequence[str], clients: int = 6, seed: int = 1) -> None:
        self._endpoints = list(endpoints)
        self._count = clients
        self._seed = seed
        self._stopping = threading.Event()
        self._start = time.monotonic()
        self._recorder = Recorder(self._clock, io.StringIO())
        self._finals: dict[str, Final] = {}
        self._final_endpoints: list[str] = []
        self._errors: list[BaseException] = []
        self._thread = threading.Thread(target=self._main, name="recorded load", daemon=True)

    def _clock(self) -> float:
        return time.monotonic() - self._start

    def __enter__(self) -> RecordedLoad:
        self._thread.start()
        self.wait_for(20)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(2 * TIMEOUT_SECONDS)
        if error is None:
            assert not self._thread.is_alive(), "a call never ended"
            assert not self._errors, self._errors

    @property
    def writes(self) -> int:
        """Acknowledged so far."""
        return sum(one.outcome == "ok" and is_write(one) for one in list(self._recorder.operations))

    def wait_for(self, writes: int, seconds: float = 20.0) -> None:
        """Until so many more writes are acknowledged."""
        target = self.writes + writes
        deadline = time.monotonic() + seconds
        while self.writes < target:
            assert time.monotonic() < deadline, f"not {writes} more writes within {seconds:g} s; {self.summary()}"
            time.sleep(0.01)

    def longest_gap_seconds(self, since: float) -> float:
        """The longest time without an acknowledged write, of all clients together, from `since` until now."""
        now = self._clock()
        return longest_write_gap(list(self._recorder.operations), since - self._start, now).seconds

    def summary(self) -> str:
        """In one line."""
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in self._recorder.outcomes.items())
        return f"{len(self._recorder.operations)} operations: {outcomes or 'none'}"

    def check(self) -> str:
        """Nothing acknowledged was lost, or applied twice, and the history is linearizable. Returns a summary.

        The last reads of all keys, by clients that were there all the time, belong to the history.
        """
        operations = self._recorder.operations
        tallies = {key: final for key, final in self._finals.items() if key.startswith("tally")}
        assert len(tallies) == self._count
        once = exactly_once(operations, tallies, {}, None)
        assert once.holds is Holds.YES, once.detail
        report = check(operations, time.monotonic, CHECK_SECONDS)
        assert report.verdict is Verdict.LINEARIZABLE, (report.reason, report.failure)
        return f"{self.summary()}; linearizable; {once.detail}"

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            asyncio.run(self._run())
        except BaseException as error:
            self._errors.append(error)

    async def _run(self) -> None:
        await asyncio.gather(*(self._work(number) for number in range(self._count)))

    async def _work(self, number: int) -> None:
        rng = Random(f"{self._seed} {number}")
        call = self._recorder.call
        written = 0
        seen: dict[str, str | None] = {}
        tally = f"tally{number}"
        async with AsyncClient(self._endpoints, TIMEOUT_SECONDS) as client:
            while not self._stopping.is_set():
                key = f"key{rng.randrange(KEYS)}"
                value = f"{number}.{written}"
                written += 1
                dice = rng.random()
                if dice < 0.3:
                    done = await call(number, "get", key, (), client.get(key))
                    if done is not None:
                        seen[key] = None if done.result is None else str(done.result)
                elif dice < 0.6:
                    await call(number, "set", key, (value,), client.set(key, value))
                elif dice < 0.8:
                    expected = seen.get(key)
                    await call(number, "cas", key, (expected, value), client.cas(key, expected, value))
                else:
                    await call(number, "set", tally, (value,), client.set(tally, value))
                await asyncio.sleep(rng.uniform(0.0, THINK_SECONDS))
            await call(number, "get", tally, (), client.get(tally))
            for key in (tally, *(f"key{other}" for other in range(KEYS))):
                await call(number, "get", key, (), client.get(key))
                entry = await client.get_entry(key)
                if entry is not None:
                    self._finals[key] = Final(entry.value.decode(), entry.version)
