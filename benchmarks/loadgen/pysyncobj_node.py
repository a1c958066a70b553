"""One node of PySyncObj as a process: JSON lines in, JSON lines out, until stdin ends. Its argument is JSON as well."""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from typing import Any

from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.journal import FileJournal
from pysyncobj.transport import TCPTransport

PATIENCE_S = 30.0


class Store(SyncObj):
    """A dict, replicated."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.values: dict[str, bytes] = {}

    @replicated
    def put(self, key: str, value: bytes) -> None:
        self.values[key] = value

    @replicated
    def get(self, key: str) -> bytes | None:
        return self.values.get(key)


def sync_before_acknowledging() -> None:
    """PySyncObj writes its journal and leaves it to the system when that reaches the disk. Here, a journal that was
    added to is flushed before the node says anything from which another could conclude that it holds the entries (its
    answers to appends, its votes), and before the leader counts itself."""
    touched: set[FileJournal] = set()
    add, send, tick = FileJournal.add, TCPTransport.send, SyncObj._onTick

    def flush() -> None:
        while touched:
            touched.pop().flush()

    def add_and_note(self: FileJournal, *arguments: Any) -> Any:
        touched.add(self)
        return add(self, *arguments)

    def flush_and_send(self: TCPTransport, node: Any, message: dict[str, Any]) -> Any:
        if message["type"] in ("next_node_idx", "response_vote"):
            flush()
        return send(self, node, message)

    def flush_and_tick(self: SyncObj, *arguments: Any) -> Any:
        flush()
        return tick(self, *arguments)

    FileJournal.add, TCPTransport.send, SyncObj._onTick = add_and_note, flush_and_send, flush_and_tick


class Loader:
    """Keeps so many operations in flight. Its callbacks run in the node's own thread."""

    def __init__(self, store: Store, plan: dict[str, Any], operation: str, keys: range | None) -> None:
        self.store, self.plan, self.operation = store, plan, operation
        self.to_fill = iter(keys) if keys is not None else None
        self.value = os.urandom(plan["value_bytes"])
        self.latencies: list[float] = []
        self.total = self.errors = 0
        self.is_over = threading.Event()

    def run(self, in_flight: int, warm_up_s: float, duration_s: float) -> dict[str, Any]:
        self.from_s = time.perf_counter() + warm_up_s
        self.end_s = self.from_s + duration_s
        self.running = in_flight
        for _ in range(in_flight):
            self.begin()
        self.is_over.wait(warm_up_s + duration_s + PATIENCE_S)
        found = sorted(self.latencies)
        p50, p99, p999, longest = (
            found[int(share * (len(found) - 1))] if found else 0 for share in (0.5, 0.99, 0.999, 1)
        )
        rate = len(found) / duration_s if duration_s else 0.0
        figures = {"ops_per_s": rate, "p50_us": p50, "p99_us": p99, "p999_us": p999, "max_us": longest}
        return {**figures, "errors": self.errors, "total": self.total}

    def begin(self) -> None:
        began = time.perf_counter()
        key: int | None
        if self.to_fill is not None:
            key = next(self.to_fill, None)
        else:
            key = random.randrange(self.plan["keys"]) if began < self.end_s else None
        if key is None:
            self.running -= 1
            if not self.running:
                self.is_over.set()
            return

        def on_done(result: Any, error: Any) -> None:
            now = time.perf_counter()
            self.total += 1
            if error:
                self.errors += 1
            elif self.from_s <= now < self.end_s:
                self.latencies.append((now - began) * 1e6)
            self.begin()

        name = f"bench/{key:010d}"
        if self.operation == "get":
            self.store.get(name, callback=on_done)
        else:
            self.store.put(name, self.value, callback=on_done)


def answer(store: Store, plan: dict[str, Any], question: dict[str, Any]) -> dict[str, Any]:
    do = question.pop("do")
    if do == "status":
        leader = store._getLeader()
        return {"leader": str(leader), "is_ready": store.isReady(), "leads": str(leader) == plan["address"]}
    if do == "fill":
        return Loader(store, plan, "put", range(plan["keys"])).run(question["in_flight"], 0.0, 0.0)
    loader = Loader(store, plan, question.pop("operation"), None)
    return loader.run(**question)


def main() -> None:
    plan = json.loads(sys.argv[1])
    if plan["is_synced"]:
        sync_before_acknowledging()
    store = Store(plan["address"], plan["partners"], SyncObjConf(**plan["settings"]))
    for line in sys.stdin:
        print(json.dumps(answer(store, plan, json.loads(line))), flush=True)
    os._exit(0)  # its thread ends with the process only


main()
