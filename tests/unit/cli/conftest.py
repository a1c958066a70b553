"""A fresh fake client for each test of a program."""

from __future__ import annotations

import pytest
from fake_client import FakeClient, report


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> type[FakeClient]:
    """The class that the programs use as their client, with empty data and two healthy nodes, n1 leading."""
    reports = [report("n1", 1, role="leader"), report("n2", 2)]
    lists: dict[str, list[object]] = {
        name: [] for name in ("made_with", "transfers", "faults", "changes", "script", "asked_all")
    }
    fresh = {"data": {}, "reports": reports, "error": None, **lists}
    fake = type("Fake", (FakeClient,), fresh)
    monkeypatch.setattr("zraft.client.sync.Client", fake)
    monkeypatch.delenv("ZRAFT_ENDPOINTS", raising=False)
    return fake
