"""ZooKeeper: three servers, defaults (fsync on). Loaded by a client in C, loadgen/zookeeper.c."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from machine import data_folder
from workload import VALUE_BYTES, Cell, Loaded, run_generator

from peers import HERE, NotInstalled, Peer, build, eventually, free_ports, need

JAR = Path(os.environ.get("ZOOKEEPER_JAR", "/usr/share/java/zookeeper.jar"))
SERVERS = 3


class ZooKeeper(Peer):
    """The client speaks to the leader, over one connection."""

    name = "zookeeper"
    about = "3 servers, defaults; one client process in C with one connection to the leader; get is sync and get"

    def __init__(self) -> None:
        super().__init__()
        self._java = need("java", "default-jre-headless")
        if not JAR.exists():
            raise NotInstalled(f"there is no {JAR} (Debian: apt-get install zookeeper)")
        source = HERE / "loadgen" / "zookeeper.c"
        target = data_folder() / "zraft-benchmarks-zookeeper-load"
        gcc = need("gcc", "gcc libzookeeper-mt-dev")
        self._loader = build([gcc, "-O2", "-o", target, source, "-lzookeeper_mt"], source, target)

    def version(self) -> str:
        """See Peer."""
        versions = [jar.stem for jar in JAR.parent.glob("zookeeper-[0-9]*.jar")]  # beside the name without one
        return versions[0] if versions else JAR.name

    def launch(self) -> None:
        """See Peer."""
        ports = free_ports(3 * SERVERS)
        self._ports, peers, elections = ports[:SERVERS], ports[SERVERS : 2 * SERVERS], ports[2 * SERVERS :]
        members = "".join(
            f"server.{number}=127.0.0.1:{peer}:{election}\n"
            for number, (peer, election) in enumerate(zip(peers, elections, strict=True), 1)
        )
        for number, port in enumerate(self._ports, 1):
            folder = self.folder / f"z{number}"
            folder.mkdir()
            (folder / "myid").write_text(str(number))
            config = folder / "zoo.cfg"
            config.write_text(
                f"dataDir={folder}\nclientPort={port}\nclientPortAddress=127.0.0.1\ntickTime=2000\ninitLimit=10\n"
                f"syncLimit=5\nmaxClientCnxns=0\n4lw.commands.whitelist=srvr\n{members}"
            )
            command = [self._java, "-Xmx1g", "-Dzookeeper.admin.enableServer=false", "-cp", JAR]
            self.spawn([*command, "org.apache.zookeeper.server.quorum.QuorumPeerMain", config], f"z{number}")
        self._leader = eventually("zookeeper has a leader", self._find_leader)

    def _find_leader(self) -> int | None:
        """Its port, once the others follow it."""
        modes = [self._mode(port) for port in self._ports]
        if sorted(modes) != ["follower"] * (SERVERS - 1) + ["leader"]:
            return None
        return self._ports[modes.index("leader")]

    def _mode(self, port: int) -> str:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"srvr")
            with connection.makefile() as answer:
                found = re.search(r"^Mode: (\w+)", answer.read(), re.MULTILINE)
        return found.group(1) if found else ""

    def fill(self) -> None:
        """See Peer."""
        self._run("fill", Cell("put", 256, 0.0, 0.0))

    def load(self, cell: Cell) -> Loaded:
        """See Peer."""
        return self._run(cell.operation, cell)

    def _run(self, operation: str, cell: Cell) -> Loaded:
        numbers = (cell.in_flight, cell.warm_up_s, cell.duration_s, self.keys, VALUE_BYTES)
        return run_generator([self._loader, f"127.0.0.1:{self._leader}", operation, *map(str, numbers)], cell)
