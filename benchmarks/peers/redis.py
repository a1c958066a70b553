"""redis: one process that syncs every write (`appendfsync always`). Not replicated: an upper bound, no competitor."""

from __future__ import annotations

import csv
import resource
import socket
import subprocess

from workload import VALUE_BYTES, Cell, Loaded

from peers import Peer, eventually, free_ports, need

LEAST_REQUESTS = 1000


class Redis(Peer):
    """Loaded by redis-benchmark, which counts requests instead of seconds and tells no p99.9."""

    name = "redis-1-node"
    about = "1 process, appendfsync always, not replicated: an upper bound; redis-benchmark, a connection per operation"

    def __init__(self) -> None:
        super().__init__()
        self._server = need("redis-server", "redis-server")
        self._benchmark = need("redis-benchmark", "redis-tools")

    def version(self) -> str:
        """See Peer."""
        return subprocess.check_output([self._server, "--version"], text=True).partition(" sha=")[0]

    def launch(self) -> None:
        """See Peer."""
        (self._port,) = free_ports(1)
        options = {
            "port": self._port, "bind": "127.0.0.1", "dir": self.folder, "appendonly": "yes", "appendfsync": "always",
            "save": "",
        }  # fmt: skip
        self.spawn([self._server, *(str(word) for key, value in options.items() for word in (f"--{key}", value))], "r")
        eventually("redis answers", self._answers)

    def _answers(self) -> bool:
        with socket.create_connection(("127.0.0.1", self._port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(5) == b"+PONG"

    def fill(self) -> None:
        """See Peer. It draws keys, as redis-benchmark always does: nearly all are there then."""
        self._requests("put", 64, 5 * self.keys)

    def load(self, cell: Cell) -> Loaded:
        """As many requests as should fill the time, by the rate of a short run before."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = LEAST_REQUESTS
        tried = self._requests(cell.operation, cell.in_flight, total)
        for seconds in (cell.warm_up_s, cell.duration_s):
            count = max(LEAST_REQUESTS, int(tried["rps"] * seconds))
            tried = self._requests(cell.operation, cell.in_flight, count)
            total += count
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        p50, p99, longest = (1000 * tried[f"{name}_latency_ms"] for name in ("p50", "p99", "max"))
        return Loaded(tried["rps"], p50, p99, None, longest, 0, total, used)

    def _requests(self, operation: str, in_flight: int, count: int) -> dict[str, float]:
        test = "get" if operation == "get" else "set"
        command = [self._benchmark, "-p", self._port, "-t", test, "-c", in_flight, "-n", count, "-r", self.keys]
        command += ["-d", VALUE_BYTES, "--csv"]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
        rows = list(csv.reader(line for line in done.stdout.splitlines() if line.startswith('"')))
        return {name: float(value) for name, value in zip(rows[0][1:], rows[1][1:], strict=True)}
