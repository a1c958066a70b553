"""`zraft.AsyncClient` over real sockets, against nodes in this process."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
from fake_node import FakeNode, Store

import zraft
from zraft.wire import ReplyStatus, RequestKind, pack_piece


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 20.0))


def test_every_method() -> None:
    async def main() -> None:
        with FakeNode(Store()) as node:
            async with zraft.AsyncClient([node.endpoint]) as client:
                assert await client.get("k") is None
                assert await client.set("k", "v") == 1
                assert await client.get("k") == b"v"
                assert await client.cas("k", "v", "w") is True
                assert await client.cas("k", None, "x") is False
                entry = await client.get_entry("k")
                assert entry is not None and (entry.value, entry.version) == (b"w", 2)
                assert await client.delete("k") is True
                for number in range(25):
                    await client.set(f"p/{number:02}", str(number))
                assert [key for key, _ in await client.range("p/")] == [b"p/%02d" % n for n in range(25)]
                assert [report["node"] for report in await client.status()] == ["n1"]
                assert await client.transfer_leadership("n2") is None
                assert await client.inject_fault(node.endpoint, {"op": "x"}) is None

    run(main())


def test_snapshots_are_asked_of_one_node() -> None:
    def answer(item: tuple[int, int, bytes]) -> tuple[int, bytes] | None:
        if item[1] == RequestKind.COMPACT:
            return ReplyStatus.OK, b'{"index": 12, "bytes": 3000}'
        if item[1] == RequestKind.SNAPSHOT:
            return ReplyStatus.OK, pack_piece(12, 7, 3000, b"some bytes")
        return None

    async def main() -> None:
        with FakeNode(Store()) as node:
            node.intercept = answer
            async with zraft.AsyncClient([node.endpoint]) as client:
                await client.set("k", "v")
                assert await client.revision() == 1
                assert await client.compact(node.endpoint, 1) == (12, 3000)
                assert await client.read_snapshot(node.endpoint, 12, 7) == (b"some bytes", 3000)

    run(main())


def test_tasks_share_frames_and_no_thread_is_made() -> None:
    async def main() -> None:
        store = Store()
        with FakeNode(store) as node:
            threads = threading.active_count()
            async with zraft.AsyncClient([node.endpoint]) as client:
                revisions = await asyncio.gather(*(client.set(f"{n}", "v") for n in range(2000)))
                assert sorted(revisions) == list(range(1, 2001))
                assert threading.active_count() == threads
            assert store.applied == 2000
            assert node.frames < 20
            assert store.answers == {}

    run(main())


def test_each_answer_reaches_its_task_under_alternating_loads() -> None:
    async def main() -> None:
        with FakeNode(Store()) as node:
            async with zraft.AsyncClient([node.endpoint]) as client:

                async def work(number: int) -> None:
                    for step in range(40):
                        await client.set(f"{number}", str(step))
                        assert await client.get(f"{number}") == b"%d" % step
                        if step % 7 == number % 7:
                            await asyncio.sleep(0.001)

                await asyncio.gather(*(work(number) for number in range(20)))

    run(main())


def test_answers_are_taken_when_they_come_and_not_when_the_timer_looks() -> None:
    async def main() -> None:
        with FakeNode(Store()) as node:
            async with zraft.AsyncClient([node.endpoint]) as client:
                start = time.monotonic()
                for _ in range(100):
                    await client.get("k")
                assert time.monotonic() - start < 5.0  # the timer alone looks ten times a second

    run(main())


def test_a_cancelled_call_harms_no_other() -> None:
    async def main() -> None:
        with FakeNode(Store()) as node:
            async with zraft.AsyncClient([node.endpoint]) as client:
                await client.set("k", "v")
                held = node.intercept
                node.intercept = lambda item: FakeNode.DROP
                waiting = [asyncio.ensure_future(client.set(f"{n}", "v")) for n in range(3)]
                await asyncio.to_thread(node.wait_for, RequestKind.WRITE, 5)
                waiting[1].cancel()
                node.intercept = held
                node.life += 1
                assert await asyncio.gather(waiting[0], waiting[2]) == [2, 3]
                with pytest.raises(asyncio.CancelledError):
                    await waiting[1]
                assert await client.get("1") is None
                with pytest.raises(asyncio.TimeoutError):
                    node.intercept = lambda item: FakeNode.DROP
                    await asyncio.wait_for(client.get("k"), 0.05)
                node.intercept = held
                assert await client.get("k") == b"v"

    run(main())


def test_a_redirect_and_a_dead_node() -> None:
    async def main() -> None:
        store = Store()
        first, second = FakeNode(store), FakeNode(store)
        second.intercept = lambda item: (ReplyStatus.NOT_LEADER, first.endpoint.encode())
        async with zraft.AsyncClient([second.endpoint]) as client:
            assert await client.set("k", "1") == 1
            first.stop()
            second.intercept = lambda item: None
            start = time.monotonic()
            assert await client.set("k", "2") == 2
            assert time.monotonic() - start < 3.0
        second.stop()

    run(main())


def test_deadlines() -> None:
    async def main() -> None:
        with FakeNode(Store()) as gone:
            endpoint = gone.endpoint
        async with zraft.AsyncClient([endpoint], timeout=0.3) as client:
            start = time.monotonic()
            with pytest.raises(zraft.Unavailable, match="no node can be reached"):
                await client.set("k", "v")
            assert 0.29 < time.monotonic() - start < 3.0
        with FakeNode(Store()) as node:
            async with zraft.AsyncClient([node.endpoint]) as client:
                await client.set("k", "v")
                node.intercept = lambda item: FakeNode.DROP
                with pytest.raises(zraft.OutcomeUnknown):
                    await client.set("k", "w", timeout=0.5)
                with pytest.raises(zraft.Unavailable):
                    await client.get("k", timeout=0.1)
                start = time.monotonic()
                (report,) = await client.status(timeout=0.1)
                assert time.monotonic() - start < 0.9 and report["error"]

    run(main())


def test_closing_fails_what_waits_and_takes_no_more() -> None:
    async def main() -> None:
        with FakeNode(Store()) as node:
            client = zraft.AsyncClient([node.endpoint], timeout=30.0)
            await client.set("k", "v")
            node.intercept = lambda item: FakeNode.DROP
            waiting = [asyncio.ensure_future(client.set("k", "w")), asyncio.ensure_future(client.get("k"))]
            await asyncio.to_thread(node.wait_for, RequestKind.WRITE, 3)
            await asyncio.to_thread(node.wait_for, RequestKind.READ, 1)
            start = time.monotonic()
            await client.close()
            await client.close()
            assert time.monotonic() - start < 3.0
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(error) for error in errors] == [zraft.OutcomeUnknown, zraft.Unavailable]
            with pytest.raises(zraft.Unavailable, match="closed"):
                await client.get("k")

    run(main())


def test_one_that_was_never_used_closes() -> None:
    async def main() -> None:
        async with zraft.AsyncClient():
            pass

    run(main())


def test_one_that_is_dropped_unclosed_hangs_nothing() -> None:
    async def use(endpoint: str, clients: list[zraft.AsyncClient]) -> None:
        clients.append(zraft.AsyncClient([endpoint]))
        await clients[0].set("k", "v")

    async def drop_while_running(endpoint: str) -> None:
        clients: list[zraft.AsyncClient] = []
        await use(endpoint, clients)
        gone = weakref.ref(clients.pop())
        gc.collect()
        assert gone() is None
        await asyncio.sleep(0.01)

    with FakeNode(Store()) as node:
        run(drop_while_running(node.endpoint))
        clients: list[zraft.AsyncClient] = []
        run(use(node.endpoint, clients))  # its loop is closed then
        clients.clear()
        gc.collect()
