"""One client of a run as a process, so that its CPU is its own and it holds no lock that another needs.

A line of JSON on stdin says what to do (`Plan`), the answer is one on stdout: {"ready": true}, or {"error": text}. The
next line, {"start": monotonic seconds}, begins the load; its result is the last line.

It drives the clients' own protocol core (sessions, retries, redirects: all of `zraft.client.core`) by callbacks,
without threads or asyncio around it: what is to be measured is the store.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

from zraft.bench.load import ANSWER_SECONDS, FILL_IN_FLIGHT, Load, Plan
from zraft.client.core import ClientCore
from zraft.client.polling import Polling
from zraft.client.requests import Request
from zraft.errors import ZraftError


class Worker:
    """One client: its core, its sockets, its load."""

    def __init__(self, plan: Plan) -> None:
        self.core = ClientCore(plan.endpoints, random.Random())
        self.polling = Polling(self.core)
        self.load = Load(plan, self.core, time.monotonic)

    def turn(self, until: float) -> None:
        """Send and receive once."""
        self.polling.send()
        self.polling.wait(until)

    def do_all(self, wanted: Iterator[Request], in_flight: int) -> None:
        """Have these answered, before anything is measured. Raises ZraftError."""
        failed: list[ZraftError] = []
        under_way = 0

        def on_done(value: Any, error: ZraftError | None) -> None:
            nonlocal under_way
            under_way -= 1
            if error is not None:
                failed.append(error)

        request = next(wanted, None)
        while (under_way or request is not None) and not failed:
            while request is not None and under_way < in_flight:
                under_way += 1
                self.core.submit(request, time.monotonic() + 2 * ANSWER_SECONDS, on_done)
                request = next(wanted, None)
            self.turn(time.monotonic() + 1)
        if failed:
            raise failed[0]

    def prepare(self) -> None:
        """Fill the key space, and have a connection and a session by it. Raises ZraftError."""
        self.do_all(self.load.fill(), FILL_IN_FLIGHT)

    def run(self, start: float) -> dict[str, Any]:
        """Begin then; returns the result."""
        load = self.load
        while time.monotonic() < start:
            self.turn(start)
        load.begin(start)
        now, cpu_s = start, time.process_time()
        while not load.is_over(now):
            until = load.turn(now)
            self.turn(until)
            now = time.monotonic()
        return {**load.as_json(), "cpu_s": time.process_time() - cpu_s}

    def close(self) -> None:
        """End the session, then the sockets."""
        closed: list[bool] = []
        deadline = time.monotonic() + 0.5
        self.core.close(deadline, lambda: closed.append(True))
        while not closed and time.monotonic() < deadline:
            self.turn(deadline)
        self.polling.close()


def main() -> None:
    """See above."""
    fields = json.loads(sys.stdin.readline())
    plan = Plan(**{**fields, "endpoints": tuple(fields["endpoints"])})
    worker = Worker(plan)
    try:
        worker.prepare()
    except ZraftError as error:
        _say({"error": str(error)})
        return
    # As the nodes do: what is measured shall not be this process's collector.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*gc.get_threshold()[:2], 1_000_000_000)
    _say({"ready": True})
    line = sys.stdin.readline()
    if line:
        _say(worker.run(json.loads(line)["start"]))
    worker.close()


def _say(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
