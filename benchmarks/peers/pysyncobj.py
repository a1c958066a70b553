"""PySyncObj: three processes. It has no client protocol: the load is issued within the leader's process."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import Any

from workload import VALUE_BYTES, Cell, Loaded, from_fields

from peers import HERE, NotInstalled, Peer, eventually, free_ports

NODES = 3


class Synced(Peer):
    """Made durable and quick: its journal is synced before anything is acknowledged, by a patch, and it sends every
    10 ms instead of every 100. get goes through the log, the only way to read linearizably."""

    name = "pysyncobj-synced"
    about = "3 nodes, batches of 10 ms, patched to sync its journal; the load comes from within the leader"
    settings: dict[str, Any] = {"appendEntriesPeriod": 0.01, "autoTickPeriod": 0.005}
    is_synced = True

    def __init__(self) -> None:
        super().__init__()
        try:
            self._version = importlib.metadata.version("pysyncobj")
        except importlib.metadata.PackageNotFoundError:
            raise NotInstalled("pip install pysyncobj, into the virtualenv that runs this") from None

    def version(self) -> str:
        """See Peer."""
        return f"pysyncobj {self._version}"

    def launch(self) -> None:
        """See Peer."""
        addresses = [f"127.0.0.1:{port}" for port in free_ports(NODES)]
        for number, address in enumerate(addresses):
            plan = {
                "address": address,
                "partners": [other for other in addresses if other != address],
                "is_synced": self.is_synced,
                "keys": self.keys,
                "value_bytes": VALUE_BYTES,
                "settings": {
                    "journalFile": str(self.folder / f"{number}.journal"),
                    "fullDumpFile": str(self.folder / f"{number}.dump"),
                    **self.settings,
                },
            }
            with open(self.folder / f"{number}.log", "ab") as log:
                process = subprocess.Popen(
                    [sys.executable, str(HERE / "loadgen" / "pysyncobj_node.py"), json.dumps(plan)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    start_new_session=True,
                )
            self.processes.append(process)
        self._leader = eventually("pysyncobj has a leader", self._find_leader)

    def _find_leader(self) -> subprocess.Popen[str] | None:
        reports = [_ask(process, {"do": "status"}) for process in self.processes]
        if len({report["leader"] for report in reports}) > 1 or not all(report["is_ready"] for report in reports):
            return None
        leading = [p for p, report in zip(self.processes, reports, strict=True) if report["leads"]]
        return leading[0] if leading else None

    def fill(self) -> None:
        """See Peer."""
        _ask(self._leader, {"do": "fill", "in_flight": 256})

    def load(self, cell: Cell) -> Loaded:
        """See Peer."""
        return from_fields(_ask(self._leader, {"do": "load", **cell._asdict()}), None)

    def stop(self) -> None:
        """See Peer."""
        processes = self.processes
        for process in processes:
            if process.stdin is not None:
                process.stdin.close()  # asks it to end
        super().stop()
        for process in processes:
            if process.stdout is not None:
                process.stdout.close()


class Unsynced(Synced):
    """As it comes."""

    name = "pysyncobj"
    about = "3 nodes, defaults: a batch every 100 ms, a journal that is never synced; the load comes from the leader"
    operations = ("put",)
    settings: dict[str, Any] = {}
    is_synced = False


def _ask(process: subprocess.Popen[str], question: dict[str, Any]) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps(question) + "\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a node of pysyncobj ended by itself")
    answer: dict[str, Any] = json.loads(line)
    return answer
