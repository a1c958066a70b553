"""What the clients of a run do: a few kinds of operations on few keys, all recorded.

Every write writes a value of its own, so that a read tells which write it saw. A client that met trouble is closed and
another one, with a session of its own and another node to ask first, takes its place, as a program would start again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Protocol

from zraft.chaos.history import Value
from zraft.chaos.json_lines import JsonLines
from zraft.chaos.recorder import Recorder
from zraft.client.aio import AsyncClient

TIMEOUT_SECONDS = 2.0
"""Of one call."""
THINK_SECONDS = 0.012
"""At most so long between two calls of a client: enough to keep a cluster busy, and leave the machine some air."""
CALLS_OF_A_CLIENT = (50, 200)
"""So many calls a client makes before another one takes its place."""
READS_OF_A_READER = 5
COUNTERS = 2
OPERATIONS = ("get", "set", "delete", "cas", "count", "tally")
WEIGHTS = (40, 20, 5, 15, 10, 10)


class Store(Protocol):
    """What a worker needs of a client. Raises Unavailable and OutcomeUnknown."""

    async def get(self, key: str) -> bytes | None:
        """See AsyncClient."""

    async def set(self, key: str, value: str) -> int:
        """See AsyncClient."""


class Keys:
    """The names of the keys of a run: all begin with `prefix`."""

    def __init__(self, prefix: str, count: int) -> None:
        self.prefix = prefix
        self.shared = [f"{prefix}key{number}" for number in range(1, count + 1)]
        self.counters = [f"{prefix}counter{number}" for number in range(1, COUNTERS + 1)]

    def tally(self, client: int) -> str:
        """A key that `client` alone writes, and never deletes: its version counts what was applied."""
        return f"{self.prefix}tally{client}"


class Worker:
    """One client after the other, each doing one operation after the other, until it is told to stop."""

    def __init__(self, number: int, endpoints: Sequence[str], keys: Keys, recorder: Recorder, seed: int) -> None:
        self.number = number
        self._endpoints = list(endpoints)
        self._keys = keys
        self._recorder = recorder
        self._rng = Random(f"{seed} client {number}")
        self._written = 0
        self._seen: dict[str, str | None] = {}
        self._stopping = False

    def stop(self) -> None:
        """Finish the operation that is under way, and `run` ends."""
        self._stopping = True

    async def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping:
            self._rng.shuffle(self._endpoints)
            async with AsyncClient(self._endpoints, TIMEOUT_SECONDS) as client:
                for _ in range(self._rng.randint(*CALLS_OF_A_CLIENT)):
                    if self._stopping or not await self._one(client):
                        break
                    await asyncio.sleep(self._rng.uniform(0.0, THINK_SECONDS))

    async def _one(self, client: AsyncClient) -> bool:
        """One operation; whether its outcome is known."""
        (what,) = self._rng.choices(OPERATIONS, WEIGHTS)
        key = self._rng.choice(self._keys.shared)
        if what == "get":
            return await self._get(client, key)
        if what == "set":
            return await self._set(client, key)
        if what == "tally":
            return await self._set(client, self._keys.tally(self.number))
        if what == "delete":
            return await self._recorder.call(self.number, "delete", key, (), client.delete(key)) is not None
        if what == "cas":
            return await self._cas(client, key, self._seen.get(key), self._value())
        counter = self._rng.choice(self._keys.counters)
        if not await self._get(client, counter):
            return False
        count = self._seen[counter]
        return await self._cas(client, counter, count, str(int(count or "0") + 1))

    async def _get(self, client: Store, key: str) -> bool:
        done = await self._recorder.call(self.number, "get", key, (), client.get(key))
        if done is not None:
            value = done.result
            self._seen[key] = None if value is None else str(value)
        return done is not None

    async def _set(self, client: Store, key: str) -> bool:
        value = self._value()
        done = await self._recorder.call(self.number, "set", key, (value,), client.set(key, value))
        if done is not None:
            self._seen[key] = value
        return done is not None

    async def _cas(self, client: AsyncClient, key: str, expected: str | None, new: str) -> bool:
        args: tuple[Value, ...] = (expected, new)
        done = await self._recorder.call(self.number, "cas", key, args, client.cas(key, expected, new))
        if done is not None and done.result:
            self._seen[key] = new
        elif done is not None:
            return await self._get(client, key)
        return done is not None

    def _value(self) -> str:
        self._written += 1
        return f"{self.number}.{self._written}"


class Reader(Worker):
    """Reads alone, beginning anew at one and the same node all the time: who else would ask a leader of the past?"""

    async def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping:
            async with AsyncClient(self._endpoints, TIMEOUT_SECONDS) as client:
                for _ in range(READS_OF_A_READER):
                    if self._stopping or not await self._get(client, self._rng.choice(self._keys.shared)):
                        break
                    await asyncio.sleep(self._rng.uniform(0.0, 4 * THINK_SECONDS))


class JsonWorker(Worker):
    """The same over one node's port for JSON lines, which knows get and set; a connection that fails is replaced."""

    def __init__(self, number: int, host: str, port: int, keys: Keys, recorder: Recorder, seed: int) -> None:
        super().__init__(number, (), keys, recorder, seed)
        self._lines = JsonLines(host, port)

    async def run(self) -> None:
        """Work until `stop`."""
        try:
            while not self._stopping:
                key = self._rng.choice(self._keys.shared)
                known = await (self._set if self._rng.random() < 0.3 else self._get)(self._lines, key)
                # Of a port that is closed nobody asks at full speed.
                await asyncio.sleep(self._rng.uniform(0.0, 4 * THINK_SECONDS) if known else 0.1)
        finally:
            self._lines.close()
