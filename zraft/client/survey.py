"""Asking all nodes for their status at once, and what follows from their answers together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.client.endpoints import is_endpoint
from zraft.errors import Unavailable, ZraftError

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
    "change",
    "members_index",
    "pid",
    "actors",
    "faults",
)


class StatusSurvey:
    """One round of questions to every endpoint that `core` was given; with `all_members`, also to those that it has
    learnt, and to those that the answers name.

    `on_done(reports)` gets one dict per node, in the order of the endpoints: what the node said, and the `endpoint`
    that was asked. For an endpoint without an answer the fields are None, and `error` says why.
    """

    def __init__(
        self,
        core: ClientCore,
        deadline: float,
        all_members: bool,
        on_done: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self._core = core
        self._deadline = deadline
        self._all_members = all_members
        self._on_done = on_done
        endpoints = core.endpoints if all_members else core.given_endpoints
        self._reports: dict[str, dict[str, Any]] = dict.fromkeys(endpoints, {})
        self._missing = len(self._reports)
        self._node_at: dict[str, Any] = {}  # of the endpoints that an answer named
        for endpoint in endpoints:
            self._ask(endpoint)

    def _ask(self, endpoint: str) -> None:
        self._core.submit(requests.status(), self._deadline, self._answer(endpoint), endpoint)

    def _answer(self, endpoint: str) -> Callable[[Any, ZraftError | None], None]:
        def on_answer(report: Any, error: ZraftError | None) -> None:
            if error is None:
                self._reports[endpoint] = {**report, "endpoint": endpoint}
                if self._all_members:
                    self._ask_members(report)
            else:
                nothing = dict.fromkeys(STATUS_FIELDS)
                self._reports[endpoint] = {**nothing, "endpoint": endpoint, "error": str(error)}
            self._missing -= 1
            if not self._missing:
                self._on_done(self._without_doubles())

        return on_answer

    def _ask_members(self, report: Mapping[str, Any]) -> None:
        for member in report.get("members") or ():
            endpoint = str(member.get("client"))
            if endpoint not in self._reports and is_endpoint(endpoint):
                self._reports[endpoint] = {}
                self._node_at[endpoint] = member.get("id")
                self._missing += 1
                self._ask(endpoint)

    def _without_doubles(self) -> list[dict[str, Any]]:
        # A node can be known by two names: one that the user gave and one that another node told.
        answered = {report.get("node") for report in self._reports.values()} - {None}
        nodes: set[Any] = set()
        reports = []
        for endpoint, report in self._reports.items():
            node = report.get("node")
            if node is None and self._node_at.get(endpoint) in answered:
                continue
            if node is None or node not in nodes:
                reports.append(report)
                nodes.add(node)
        return reports


def who_knows_best(reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of what `StatusSurvey` gathered, the report to believe about the members: the leader's (of two that believe they
    lead, the later's), else that of the node which is furthest; None where nobody knows any."""
    told = [report for report in reports if report.get("members")]
    leaders = [report for report in told if report["role"] == "leader"]
    return max(leaders or told, key=lambda report: (report["term"], report["commit_index"]), default=None)


def members_of(reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The members as `who_knows_best` names them. Raises Unavailable where nobody knows any."""
    best = who_knows_best(reports)
    if best is None:
        raise Unavailable("members: no node that answers knows the members")
    return [dict(member) for member in best["members"]]
