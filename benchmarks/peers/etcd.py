"""etcd: three members, defaults (fsync on). Loaded over gRPC by a client in Go, loadgen/etcd.go."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from typing import Any

from machine import data_folder
from workload import VALUE_BYTES, Cell, Loaded, run_generator

from peers import HERE, Peer, build, eventually, free_ports, need

GOPATH = os.environ.get("GOPATH", "/usr/share/gocode")  # where Debian puts them


class Etcd(Peer):
    """The client speaks to the leader, over one connection."""

    name = "etcd"
    about = "3 members, defaults; one client process in Go with one connection to the leader"

    def __init__(self) -> None:
        super().__init__()
        self._etcd = need("etcd", "etcd-server")
        source = HERE / "loadgen" / "etcd.go"
        target = data_folder() / "zraft-benchmarks-etcd-load"
        go = need("go", "golang-go golang-etcd-server-dev")
        # Debian's packages of Go libraries are for a GOPATH.
        self._loader = build([go, "build", "-o", target, source], source, target, GO111MODULE="off", GOPATH=GOPATH)

    def version(self) -> str:
        """See Peer."""
        return subprocess.check_output([self._etcd, "--version"], text=True).splitlines()[0]

    def launch(self) -> None:
        """See Peer."""
        ports = free_ports(6)
        self._clients = [f"http://127.0.0.1:{port}" for port in ports[:3]]
        peers = [f"http://127.0.0.1:{port}" for port in ports[3:]]
        names = ["e1", "e2", "e3"]
        members = ",".join(f"{name}={peer}" for name, peer in zip(names, peers, strict=True))
        for name, client, peer in zip(names, self._clients, peers, strict=True):
            options = {
                "name": name,
                "data-dir": self.folder / name,
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "listen-peer-urls": peer,
                "initial-advertise-peer-urls": peer,
                "initial-cluster": members,
                "initial-cluster-state": "new",
                "log-level": "error",
                "logger": "zap",
            }
            self.spawn([self._etcd, *(f"--{key}={value}" for key, value in options.items())], name)
        self._leader = eventually("etcd has a leader", self._find_leader)

    def _find_leader(self) -> str | None:
        """Its client address, once all members follow it."""
        reports = [self._status(client) for client in self._clients]
        leaders = {report.get("leader") for report in reports}
        if len(leaders) != 1 or None in leaders:
            return None
        (leader,) = leaders
        own = {report["header"]["member_id"]: client for report, client in zip(reports, self._clients, strict=True)}
        return own.get(leader)

    def _status(self, client: str) -> dict[str, Any]:
        request = urllib.request.Request(f"{client}/v3/maintenance/status", b"{}")
        with urllib.request.urlopen(request, timeout=2) as answer:
            status: dict[str, Any] = json.load(answer)
            return status

    def fill(self) -> None:
        """See Peer."""
        self._run("fill", Cell("put", 256, 0.0, 0.0))

    def load(self, cell: Cell) -> Loaded:
        """See Peer."""
        return self._run(cell.operation, cell)

    def _run(self, operation: str, cell: Cell) -> Loaded:
        options = {
            "endpoint": self._leader.removeprefix("http://"),
            "op": operation,
            "inflight": cell.in_flight,
            "warmup": cell.warm_up_s,
            "duration": cell.duration_s,
            "keys": self.keys,
            "value": VALUE_BYTES,
        }
        return run_generator([self._loader, *(f"-{name}={value}" for name, value in options.items())], cell)
