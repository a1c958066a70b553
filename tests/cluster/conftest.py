"""Fixtures of the tests with real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster

_clusters: list[Cluster] = []


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show the nodes' logs with a test that failed."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed:
        for cluster in _clusters:
            report.sections.append(("nodes", cluster.logs()))


def _make(folder: Path, size: int, settings: dict[str, Any]) -> Iterator[Cluster]:
    """A started cluster; at its end, none of its nodes may have met a bug."""
    folder.mkdir(parents=True)
    with Cluster(folder, size, **settings) as cluster:
        _clusters.append(cluster)
        try:
            cluster.start()
            yield cluster
            complaints = cluster.complaints()
        finally:
            _clusters.remove(cluster)
    assert not complaints, "\n".join(complaints)


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., Cluster]]:
    """Start clusters (arguments as for Cluster) that end with the test."""
    made: list[Iterator[Cluster]] = []

    def make(size: int = 3, **settings: Any) -> Cluster:
        made.append(_make(tmp_path / f"cluster{len(made) + 1}", size, settings))
        return next(made[-1])

    yield make
    for ending in made:
        assert next(ending, None) is None


@pytest.fixture
def cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """Three nodes with a leader, for one test."""
    return make_cluster()


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with a leader, for all tests of a module that leave them as they found them: up."""
    yield from _make(tmp_path_factory.mktemp("shared") / "cluster", 3, {})
