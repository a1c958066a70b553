"""Asking all nodes for their status at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.errors import ZraftError

# A node that does not answer within this is listed without an answer (DESIGN section 7).
STATUS_SECONDS = 1.0

STATUS_FIELDS = (
    "node",
    "role",
    "term",
    "leader",
    "commit_index",
    "last_applied",
    "last_index",
    "snapshot_index",
    "revision",
    "state_hash",
    "members",
    "pid",
    "actors",
    "faults",
)


class StatusSurvey:
    """One round of questions to every endpoint that `core` knows.

    `on_done(reports)` gets one dict per node, in the order of the endpoints: what the node said, and the `endpoint`
    that was asked. For an endpoint without an answer the fields are None, and `error` says why.
    """

    def __init__(self, core: ClientCore, deadline: float, on_done: Callable[[list[dict[str, Any]]], None]) -> None:
        self._on_done = on_done
        self._reports: dict[str, dict[str, Any]] = dict.fromkeys(core.endpoints, {})
        self._missing = len(self._reports)
        for endpoint in core.endpoints:
            core.submit(requests.status(), deadline, self._answer(endpoint), endpoint)

    def _answer(self, endpoint: str) -> Callable[[Any, ZraftError | None], None]:
        def on_answer(report: Any, error: ZraftError | None) -> None:
            if error is None:
                self._reports[endpoint] = {**report, "endpoint": endpoint}
            else:
                nothing = dict.fromkeys(STATUS_FIELDS)
                self._reports[endpoint] = {**nothing, "endpoint": endpoint, "error": str(error)}
            self._missing -= 1
            if not self._missing:
                self._on_done(self._without_doubles())

        return on_answer

    def _without_doubles(self) -> list[dict[str, Any]]:
        # A node can be known by two names: one that the user gave and one that a redirect told.
        nodes: set[Any] = set()
        reports = []
        for report in self._reports.values():
            node = report.get("node")
            if node is None or node not in nodes:
                reports.append(report)
                nodes.add(node)
        return reports
