"""Changes of the members by both clients: what is sent where, who is asked first, what is refused before anything is
sent; and both runners follow the members and close what they need no more."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
from fake_node import FakeNode, Store

import zraft
from zraft.client.sockets import Sockets
from zraft.client.survey import who_knows_best
from zraft.wire import ReplyStatus, RequestKind

PEER = "tcp://127.0.0.1:7204"
Call = Callable[[Any], Any]


def call_sync(endpoints: list[str], call: Call, timeout: float) -> Any:
    with zraft.Client(endpoints, timeout) as client:
        return call(client)


def call_async(endpoints: list[str], call: Call, timeout: float) -> Any:
    async def main() -> Any:
        async with zraft.AsyncClient(endpoints, timeout) as client:
            awaitable: Awaitable[Any] = call(client)
            return await awaitable

    return asyncio.run(main())


@pytest.fixture(params=[call_sync, call_async], ids=["Client", "AsyncClient"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """`ask(endpoints, call, timeout)`: what a new client of either kind returns."""
    return partial(request.param, timeout=5.0)


def leader_that_answers(status: int, body: bytes) -> FakeNode:
    node = FakeNode(Store())
    node.intercept = lambda item: (status, body) if item[1] == RequestKind.MEMBERS else None
    return node


def changes(node: FakeNode) -> list[Any]:
    return [json.loads(body) for _, kind, body in node.items if kind == RequestKind.MEMBERS]


def test_what_each_change_sends(ask: Callable[..., Any]) -> None:
    with leader_that_answers(ReplyStatus.OK, b'{"index": 17}') as leader, FakeNode(Store(), name="n4") as new:
        at = {"peer": PEER, "client": new.endpoint}
        calls: list[Call] = [
            lambda client: client.add_member("n4", PEER, new.endpoint),
            lambda client: client.add_member("n4", PEER, new.endpoint, learner=True),
            lambda client: client.remove_member("n2"),
            lambda client: client.promote_member("n4"),
            lambda client: client.set_members(["n1", "n4"], {"n4": at}),
            lambda client: client.set_members(name for name in ("n1", "n2")),
        ]
        assert [ask([leader.endpoint], call) for call in calls] == [17] * len(calls)
        assert changes(leader) == [
            {"op": "add", "id": "n4", **at, "learner": False},
            {"op": "add", "id": "n4", **at, "learner": True},
            {"op": "remove", "id": "n2"},
            {"op": "promote", "id": "n4"},
            {"op": "set", "voters": ["n1", "n4"], "nodes": {"n4": at}},
            {"op": "set", "voters": ["n1", "n2"], "nodes": {}},
        ]
        assert {kind for _, kind, _ in new.items} == {RequestKind.STATUS}, "it is no member yet"


def test_the_leader_refuses_in_words(ask: Callable[..., Any]) -> None:
    refused = pytest.raises(zraft.InvalidRequest, match="^members remove: n2 is no member$")
    with leader_that_answers(ReplyStatus.REFUSED, b"n2 is no member") as leader, refused:
        ask([leader.endpoint], lambda client: client.remove_member("n2"))


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"index": null}', b"\xff"])
def test_an_answer_that_is_none_is_no_success(ask: Callable[..., Any], body: bytes) -> None:
    unknown = pytest.raises(zraft.OutcomeUnknown, match="not understood")
    with leader_that_answers(ReplyStatus.OK, body) as leader, unknown:
        ask([leader.endpoint], lambda client: client.remove_member("n2"))


def test_another_node_at_the_new_address_is_refused_and_nothing_is_sent(ask: Callable[..., Any]) -> None:
    with leader_that_answers(ReplyStatus.OK, b'{"index": 1}') as leader, FakeNode(Store(), name="n2") as other:
        at = {"peer": PEER, "client": other.endpoint}
        for call in (
            lambda client: client.add_member("n4", PEER, other.endpoint),
            lambda client: client.set_members(["n4"], {"n4": at}),
        ):
            with pytest.raises(zraft.InvalidRequest, match=f"the node at {other.endpoint} is n2, not n4; nothing was"):
                ask([leader.endpoint], call)
        assert changes(leader) == []


def test_where_nobody_answers_at_the_new_address_it_is_refused_soon(ask: Callable[..., Any]) -> None:
    with leader_that_answers(ReplyStatus.OK, b'{"index": 1}') as leader:
        with FakeNode(Store()) as gone:
            pass
        start = time.monotonic()
        with pytest.raises(zraft.InvalidRequest, match=f"no node answers at {gone.endpoint}: start n4 there first"):
            ask([leader.endpoint], lambda client: client.add_member("n4", PEER, gone.endpoint))
        assert 1.5 < time.monotonic() - start < 4.0
        assert changes(leader) == []


@pytest.mark.parametrize("address", ["127.0.0.1:7104", "", "tcp://*:7104", "tcp://127.0.0.1:99999"])
def test_what_is_no_address_is_refused_before_anybody_is_asked(ask: Callable[..., Any], address: str) -> None:
    good = "tcp://127.0.0.1:7104"
    for peer, client_address, use in ((address, good, "peer"), (good, address, "client")):
        at = {"peer": peer, "client": client_address}
        for call in (
            lambda client, at=at: client.add_member("n4", at["peer"], at["client"]),
            lambda client, at=at: client.set_members(["n4"], {"n4": at}),
        ):
            with pytest.raises(zraft.InvalidRequest, match=f"n4: expected tcp://host:port as its {use} address"):
                ask(["tcp://127.0.0.1:1"], call)


# ---- who the members are -----------------------------------------------------------------------------------------


def report(node: str, role: str, term: int, members: list[str], commit_index: int = 5) -> dict[str, Any]:
    """A status; members: endpoints of n1, n2.."""
    listed = [{"id": f"n{number}", "client": client} for number, client in enumerate(members, 1)]
    return {"node": node, "role": role, "term": term, "members": listed, "commit_index": commit_index}


def says(node: FakeNode, status: dict[str, Any]) -> None:
    answer = (int(ReplyStatus.OK), json.dumps(status).encode())
    node.intercept = lambda item: answer if item[1] == RequestKind.STATUS else None


def test_the_leader_is_asked_who_the_members_are_even_if_only_others_are_known(ask: Callable[..., Any]) -> None:
    with FakeNode(Store()) as follower, FakeNode(Store()) as leader, FakeNode(Store()) as gone:
        endpoints = [follower.endpoint, leader.endpoint]
        says(follower, report("n1", "follower", 3, endpoints))
        says(leader, report("n2", "leader", 3, [*endpoints, "tcp://127.0.0.1:1"]))
        members = ask([follower.endpoint], lambda client: client.members(timeout=0.5))
        assert [member["id"] for member in members] == ["n1", "n2", "n3"]
        # Asked without their members, only the given endpoints are.
        assert len(ask([follower.endpoint], lambda client: client.status())) == 1
        everyone = ask([follower.endpoint], lambda client: client.status(all_members=True, timeout=0.5))
        assert [one["endpoint"] for one in everyone] == [*endpoints, "tcp://127.0.0.1:1"]
        assert everyone[2]["error"] and everyone[2]["node"] is None
        says(gone, report("n9", "joining", 0, []))
        with pytest.raises(zraft.Unavailable, match="no node that answers knows the members"):
            ask([gone.endpoint], lambda client: client.members())


def test_one_that_was_learnt_is_not_asked_for_its_status_unasked() -> None:
    with FakeNode(Store()) as known, FakeNode(Store(), name="n2") as other:
        known.members = [known.endpoint, other.endpoint]
        with zraft.Client([known.endpoint]) as client:
            client.set("k", "1")
            wait_until(lambda: other.endpoint in client._loop._core.endpoints)
            assert [one["endpoint"] for one in client.status()] == [known.endpoint]
            assert len(client.status(all_members=True)) == 2


def test_a_member_that_answered_under_another_name_is_not_missing(ask: Callable[..., Any]) -> None:
    """Behind a proxy, the address that the nodes know may lead nowhere from here."""
    with FakeNode(Store()) as node:
        says(node, report("n1", "leader", 3, ["tcp://127.0.0.1:1"]))
        reports = ask([node.endpoint], lambda client: client.status(all_members=True, timeout=0.3))
        assert [one["endpoint"] for one in reports] == [node.endpoint]


def test_who_knows_best() -> None:
    here = ["tcp://a:1"]
    old_leader, leader = report("n1", "leader", 3, here), report("n2", "leader", 4, here)
    follower, behind = report("n3", "follower", 4, here), report("n4", "follower", 4, here, commit_index=2)
    removed, joining, silent = report("n5", "removed", 9, []), report("n6", "joining", 0, []), {"members": None}
    assert who_knows_best([old_leader, leader, follower, removed, joining, silent]) is leader
    assert who_knows_best([behind, follower, silent]) is follower
    assert who_knows_best([joining, silent]) is None


# ---- following the members ---------------------------------------------------------------------------------------


def test_a_thread_s_client_follows_the_members_and_closes_what_it_needs_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Sockets] = []

    class Watched(Sockets):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    monkeypatch.setattr("zraft.client.sync.Sockets", Watched)
    store = Store()
    with FakeNode(store) as first, FakeNode(store) as second:
        first.members = [first.endpoint, second.endpoint]
        second.members = [second.endpoint]
        with zraft.Client([first.endpoint]) as client:
            client.set("k", "1")
            wait_until(lambda: second.endpoint in client._loop._core.endpoints)
            first.stop()
            assert client.set("k", "2") == 2
            wait_until(lambda: set(made[0].by_endpoint) == {second.endpoint})
            assert client.get("k") == b"2"


def test_a_loop_s_client_follows_the_members() -> None:
    async def main() -> None:
        store = Store()
        with FakeNode(store) as first, FakeNode(store) as second:
            first.members = [first.endpoint, second.endpoint]
            second.members = [second.endpoint]
            async with zraft.AsyncClient([first.endpoint]) as client:
                await client.set("k", "1")
                while second.endpoint not in client._core.endpoints:
                    await asyncio.sleep(0.01)
                first.stop()
                assert await client.set("k", "2") == 2
                runner = client._runner
                assert runner is not None
                while set(runner._sockets.by_endpoint) != {second.endpoint}:
                    await asyncio.sleep(0.01)
                assert set(runner._readers) == {second.endpoint}
                assert await client.get("k") == b"2"

    asyncio.run(asyncio.wait_for(main(), 20.0))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
