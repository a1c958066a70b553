"""The configuration of a cluster of three on this machine, for those who have no checkout with a configs/ folder."""

from __future__ import annotations

from pathlib import Path

from zraft.errors import ConfigError

NODES = ("n1", "n2", "n3")

_TEMPLATE = """\
# One of three nodes that form a cluster on this machine: {cluster} runs all three, {single} only this one.
node: {node}
data_dir: {data_dir}
cluster:
  n1: {{client: "tcp://127.0.0.1:7101", peer: "tcp://127.0.0.1:7201"}}
  n2: {{client: "tcp://127.0.0.1:7102", peer: "tcp://127.0.0.1:7202"}}
  n3: {{client: "tcp://127.0.0.1:7103", peer: "tcp://127.0.0.1:7203"}}
json: tcp://127.0.0.1:730{number}
election_timeout_ms: [150, 300]
heartbeat_ms: 50
snapshot: {{entries: 10000, keep: 5000}}
chaos: true
"""


def render(node: str, data_root: str, programs: str = "") -> str:
    """The text of `node`'s file. data_root: the folder of all data directories, seen from the file's folder.

    programs: what stands before the programs' names where it tells how to run them, like ``bin/``.
    """
    return _TEMPLATE.format(
        node=node,
        number=NODES.index(node) + 1,
        data_dir=f"{data_root}/{node}",
        cluster=f"{programs}zraft-cluster",
        single=f"{programs}zraft-node",
    )


def write_configs(directory: Path) -> list[Path]:
    """Write n1.yaml, n2.yaml and n3.yaml into `directory`, made if missing, and return their paths.

    Raises ConfigError if one is there already, for it may hold what its owner wants to keep, or cannot be written.
    """
    paths = [directory / f"{node}.yaml" for node in NODES]
    for path in paths:
        if path.exists():
            raise ConfigError(f"{path} exists already; name another directory, or remove it first")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for node, path in zip(NODES, paths, strict=True):
            path.write_text(render(node, "var"), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot write this file: {error.strerror}") from error
    return paths
