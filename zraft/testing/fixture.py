"""The pytest fixture `cluster`. The only module of zraft that imports pytest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from zraft.testing.harness import Cluster


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three nodes with a leader. At the end of the test their processes end; their logs stay in `tmp_path`.

    A node that met a bug, or ended without having been told to, fails the test.
    """
    with Cluster(nodes=3, folder=tmp_path / "cluster") as started:
        started.start()
        yield started
        complaints = started.complaints()
    if complaints:
        pytest.fail("\n".join(complaints))
