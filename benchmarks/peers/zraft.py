"""zraft: three nodes, defaults."""

from __future__ import annotations

import time

from workload import VALUE_BYTES, Cell, Loaded

import zraft
from peers import Peer
from zraft.bench.histogram import Histogram
from zraft.bench.load import Outcome
from zraft.bench.run import LEAD_SECONDS, Clients, Workload
from zraft.testing import Cluster


class Zraft(Peer):
    """Loaded by the client process of zraft-bench."""

    name = "zraft"
    about = "3 nodes, defaults; one client process in Python with one connection"

    def version(self) -> str:
        """See Peer."""
        return str(zraft.__version__)

    def launch(self) -> None:
        """See Peer."""
        self._cluster = Cluster(3, self.folder, chaos=False)
        self._cluster.start()

    def pids(self) -> list[int]:
        """See Peer."""
        return [node.pid for node in self._cluster.nodes.values() if node.pid is not None]

    def fill(self) -> None:
        """See Peer."""
        self._load(Cell("put", 1, 0.0, 0.0), fill=True)

    def load(self, cell: Cell) -> Loaded:
        """See Peer."""
        outcome = self._load(cell, fill=False)
        histogram: Histogram = outcome.latencies[cell.operation]
        p50, p99, p999 = map(histogram.quantile_us, (0.5, 0.99, 0.999))
        errors = sum(outcome.errors.values())
        rate = outcome.completed / cell.duration_s
        return Loaded(rate, p50, p99, p999, histogram.max_us, errors, outcome.answered, outcome.cpu_s)

    def _load(self, cell: Cell, fill: bool) -> Outcome:
        put_share = float(cell.operation == "put")
        workload = Workload(
            cell.operation, put_share, cell.in_flight, 1, 0.0, self.keys, VALUE_BYTES, cell.duration_s, cell.warm_up_s
        )
        with Clients(workload.plans(self._cluster.endpoints, time.time_ns(), fill)) as clients:
            clients.begin(time.monotonic() + LEAD_SECONDS)
            return clients.results()

    def stop(self) -> None:
        """See Peer."""
        self._cluster.close()
        super().stop()
