"""A client without a cluster: it answers from a dict, and can be told to fail."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zraft.client.requests import KeyValue


def member(number: int) -> dict[str, str]:
    """A voter as the nodes' status names it."""
    client, peer = (f"tcp://127.0.0.1:7{port}0{number}" for port in (1, 2))
    return {"id": f"n{number}", "client": client, "peer": peer, "role": "voter"}


def report(node: str, number: int, **changes: Any) -> dict[str, Any]:
    """What a healthy follower says of itself."""
    return {
        "node": node,
        "role": "follower",
        "term": 3,
        "leader": "n1",
        "commit_index": 12,
        "last_applied": 12,
        "last_index": 12,
        "snapshot_index": 0,
        "revision": 7,
        "state_hash": "00ff00ff00ff00ff",
        "members": [member(1), member(2)],
        "pid": 100 + number,
        "actors": {"consensus": {"incarnation": 1, "queue": 0}},
        "faults": {},
        "endpoint": f"tcp://127.0.0.1:710{number}",
        **changes,
    }


def silent(number: int) -> dict[str, Any]:
    """What stands for a node that does not answer."""
    endpoint = f"tcp://127.0.0.1:710{number}"
    return {**dict.fromkeys(report("x", 0)), "endpoint": endpoint, "error": f"{endpoint}: no answer"}


class FakeClient:
    """Stands in for zraft.client.sync.Client. A test derives its own class from it and fills the class attributes."""

    data: dict[bytes, bytes] = {}
    reports: list[dict[str, Any]] = []
    error: Exception | None = None
    made_with: list[tuple[Any, float]] = []
    transfers: list[str | None] = []
    faults: list[tuple[str, dict[str, Any]]] = []
    changes: list[tuple[Any, ...]] = []
    script: list[list[dict[str, Any]] | BaseException] = []
    """What status answers next, one after the other; after the last, `reports`."""
    asked_all: list[bool] = []

    def __init__(self, endpoints: str | Iterable[str] | None = None, timeout: float = 5.0) -> None:
        self.endpoints = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints or ())
        self.made_with.append((self.endpoints, timeout))

    def __enter__(self) -> FakeClient:
        return self

    def __exit__(self, *_error: object) -> None:
        return

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error

    def set(self, key: bytes, value: bytes) -> int:
        self._fail()
        self.data[key] = value
        return 7

    def get_entry(self, key: bytes) -> KeyValue | None:
        self._fail()
        return KeyValue(key, self.data[key], 5, 6, 2) if key in self.data else None

    def delete(self, key: bytes) -> bool:
        self._fail()
        return self.data.pop(key, None) is not None

    def cas(self, key: bytes, expected: bytes | None, new: bytes) -> bool:
        self._fail()
        if self.data.get(key) != expected:
            return False
        self.data[key] = new
        return True

    def range(self, prefix: bytes) -> list[KeyValue]:
        self._fail()
        return [KeyValue(key, self.data[key], 5, 6, 2) for key in sorted(self.data) if key.startswith(prefix)]

    def status(self, *, all_members: bool = False, timeout: float | None = None) -> list[dict[str, Any]]:
        self.asked_all.append(all_members)
        if self.script:
            answer = self.script.pop(0)
            if isinstance(answer, BaseException):
                raise answer
            self.reports[:] = answer
        asked = () if all_members else self.endpoints
        return [report for report in self.reports if not asked or report["endpoint"] in asked]

    def transfer_leadership(self, to: str | None) -> None:
        self._fail()
        self.transfers.append(to)

    def _change(self, *change: Any) -> int:
        self.changes.append(change)
        self._fail()
        return 20

    def add_member(self, node: str, peer: str, client: str, *, learner: bool = False) -> int:
        return self._change("add", node, peer, client, learner)

    def remove_member(self, node: str) -> int:
        return self._change("remove", node)

    def promote_member(self, node: str) -> int:
        return self._change("promote", node)

    def set_members(self, voters: Iterable[str], nodes: dict[str, dict[str, str]]) -> int:
        return self._change("set", tuple(voters), nodes)

    def inject_fault(self, endpoint: str, fault: dict[str, Any], *, timeout: float | None = None) -> None:
        self.faults.append((endpoint, fault))
        self._fail()
