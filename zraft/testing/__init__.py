"""For tests of applications that use zraft: clusters of real nodes on this machine, and faults for them.

from zraft.testing import cluster           # in conftest.py: a pytest fixture, three nodes that have a leader

with zraft.testing.Cluster(nodes=3) as cluster:     # the same without pytest, which this does not need
    cluster.start()
"""

from __future__ import annotations

from typing import Any

from zraft.testing.harness import Cluster, NotInTime
from zraft.testing.node import Node

__all__ = ["Cluster", "Node", "NotInTime", "cluster"]


def __getattr__(name: str) -> Any:
    # Only who asks for the fixture needs pytest.
    if name != "cluster":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from zraft.testing.fixture import cluster

    return cluster
