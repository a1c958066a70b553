"""`zraft.Client` over real sockets, against nodes in this process."""

from __future__ import annotations

import gc
import json
import threading
import time
import weakref
from functools import partial

import pytest
from fake_node import FakeNode, Store

import zraft
from zraft.wire import ReplyStatus, RequestKind, pack_piece


def client_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "zraft-client"]


def test_every_method() -> None:
    with FakeNode(Store()) as node, zraft.Client([node.endpoint]) as client:
        assert client.get("k") is None
        assert client.set("k", "v") == 1
        assert client.get(b"k") == b"v"
        assert client.cas("k", "v", b"w") is True
        assert client.cas("k", None, "x") is False
        entry = client.get_entry("k")
        assert entry is not None and entry == (b"k", b"w")
        assert (entry.create_revision, entry.mod_revision, entry.version) == (1, 2, 2)
        assert client.delete("k") is True
        assert client.delete("k") is False
        for number in range(25):
            client.set(f"p/{number:02}", str(number))
        client.set("q", "")
        found = client.range("p/")
        assert [(key, value) for key, value in found] == [(b"p/%02d" % n, b"%d" % n) for n in range(25)]
        assert len(client.range("")) == 26
        assert client.transfer_leadership() is None
        assert client.inject_fault(node.endpoint, {"op": "x"}) is None
        assert [item[1] for item in node.items[-2:]] == [RequestKind.TRANSFER, RequestKind.CHAOS]


def test_snapshots_are_asked_of_one_node() -> None:
    """The bodies are JSON with numbers, as docs/PROTOCOL.md has them; the answers are what the node has."""

    def answer(item: tuple[int, int, bytes]) -> tuple[int, bytes] | None:
        if item[1] == RequestKind.COMPACT:
            return ReplyStatus.OK, b'{"index": 12, "bytes": 3000}'
        if item[1] == RequestKind.SNAPSHOT:
            return ReplyStatus.OK, pack_piece(12, 7, 3000, b"some bytes")
        return None

    with FakeNode(Store()) as node, zraft.Client([node.endpoint]) as client:
        node.intercept = answer
        assert client.revision() == 0
        client.set("k", "v")
        assert client.revision() == 1
        saved = client.compact(node.endpoint, 5)
        assert (saved.index, saved.size) == (12, 3000)
        assert client.read_snapshot(node.endpoint, 12, 7) == (b"some bytes", 3000)
        bodies = [json.loads(body) for _, kind, body in node.items[-2:]]
        assert bodies == [{"revision": 5}, {"index": 12, "offset": 7}]


@pytest.mark.parametrize("kind", [RequestKind.COMPACT, RequestKind.SNAPSHOT])
def test_snapshots_that_a_node_refuses_or_answers_with_nonsense(kind: int) -> None:
    answers = [(int(ReplyStatus.REFUSED), b"no space")]
    nonsense = (b"", b"{}", b"[]", b'{"index": 1}', b'{"index": "x", "bytes": 1}', b"\xc1", b"\x93")
    answers += [(int(ReplyStatus.OK), body) for body in nonsense]
    with FakeNode(Store()) as node, zraft.Client([node.endpoint], timeout=0.2) as client:
        node.intercept = lambda item: answers[0] if item[1] == kind else None
        call = partial(client.compact, node.endpoint)
        if kind == RequestKind.SNAPSHOT:
            call = partial(client.read_snapshot, node.endpoint, 1, 0)
        with pytest.raises(zraft.InvalidRequest, match="no space"):
            call()
        while len(answers) > 1:
            del answers[0]
            with pytest.raises(zraft.ZraftError):
                call()


def test_threads_share_one_client_and_their_requests_share_frames() -> None:
    store = Store()
    with FakeNode(store) as node, zraft.Client([node.endpoint]) as client:

        def work(number: int) -> None:
            for step in range(50):
                client.set(f"{number}/{step}", str(step))
                assert client.get(f"{number}/{step}") == b"%d" % step

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.applied == 400
        assert len(store.answers) == 1
        assert node.frames < len(node.items)


def test_it_follows_a_redirect_to_a_node_that_it_was_not_told_of() -> None:
    store = Store()
    with FakeNode(store) as follower, FakeNode(store) as leader:
        follower.intercept = lambda item: (ReplyStatus.NOT_LEADER, leader.endpoint.encode())
        with zraft.Client(follower.endpoint) as client:
            assert client.set("k", "v") == 1
            assert client.get("k") == b"v"
        assert len(follower.items) == 1


def test_it_passes_over_a_node_that_is_down() -> None:
    with FakeNode(Store()) as gone:
        endpoint = gone.endpoint
    with FakeNode(Store()) as node, zraft.Client([endpoint, node.endpoint]) as client:
        start = time.monotonic()
        assert client.set("k", "v") == 1
        assert time.monotonic() - start < 3.0


def test_a_node_that_dies_in_between_is_left_for_another() -> None:
    store = Store()
    first, second = FakeNode(store), FakeNode(store)
    with zraft.Client([first.endpoint, second.endpoint]) as client:
        assert client.set("k", "1") == 1
        first.intercept = lambda item: FakeNode.DROP
        outcome: list[int] = []
        thread = threading.Thread(target=lambda: outcome.append(client.set("k", "2")))
        thread.start()
        first.wait_for(RequestKind.WRITE, 3)
        first.stop()
        thread.join()
        assert outcome == [2]
        assert client.get("k") == b"2"
    second.stop()


def test_a_node_that_comes_back_is_used_again() -> None:
    store = Store()
    node = FakeNode(store)
    with zraft.Client([node.endpoint], timeout=10.0) as client:
        client.set("k", "1")
        node.stop()
        with pytest.raises(zraft.ZraftError):
            client.set("k", "2", timeout=0.2)
        with FakeNode(store, port=node.port):
            assert client.set("k", "3") == 2


def test_a_request_the_old_life_took_with_it_is_sent_to_the_new_one() -> None:
    store = Store()
    with FakeNode(store) as node, zraft.Client([node.endpoint]) as client:
        client.set("k", "1")

        def die(item: tuple[int, int, bytes]) -> tuple[int, bytes]:
            node.life = 2
            node.intercept = lambda item: None
            return FakeNode.DROP

        node.intercept = die
        start = time.monotonic()
        assert client.set("k", "2") == 2
        assert time.monotonic() - start < 3.0


def test_no_node_at_all_is_unavailable_in_time() -> None:
    with FakeNode(Store()) as gone:
        endpoint = gone.endpoint
    with zraft.Client([endpoint]) as client:
        start = time.monotonic()
        with pytest.raises(zraft.Unavailable, match=f"no node can be reached at {endpoint}"):
            client.set("k", "v", timeout=0.3)
        assert 0.29 < time.monotonic() - start < 3.0


def test_a_node_that_never_answers_leaves_a_write_in_doubt_and_a_read_not() -> None:
    with FakeNode(Store()) as node, zraft.Client([node.endpoint], timeout=0.5) as client:
        client.set("k", "v", timeout=5.0)
        node.intercept = lambda item: FakeNode.DROP
        with pytest.raises(zraft.OutcomeUnknown):
            client.set("k", "w")
        with pytest.raises(zraft.Unavailable):
            client.get("k")


def test_what_is_too_large_never_leaves() -> None:
    with FakeNode(Store()) as node, zraft.Client([node.endpoint]) as client:
        with pytest.raises(zraft.InvalidRequest, match="value has 1048577 bytes; the limit is 1048576"):
            client.set("k", b"x" * (1024 * 1024 + 1))
        assert client.set("k", b"x" * (1024 * 1024)) == 1
        assert len(client.get("k") or b"") == 1024 * 1024


def test_status_asks_all_at_once_and_lists_those_that_do_not_answer() -> None:
    with FakeNode(Store()) as gone:
        endpoint = gone.endpoint
    with FakeNode(Store(), name="n1") as first, FakeNode(Store(), name="n2") as silent:
        silent.intercept = lambda item: FakeNode.DROP
        with zraft.Client([endpoint, first.endpoint, silent.endpoint]) as client:
            start = time.monotonic()
            reports = client.status()
            assert 0.9 < time.monotonic() - start < 4.0
    assert [report["endpoint"] for report in reports] == [endpoint, first.endpoint, silent.endpoint]
    assert [report["node"] for report in reports] == [None, "n1", None]
    assert reports[1]["role"] == "leader" and "error" not in reports[1]
    assert reports[0]["error"] and reports[2]["error"]
    assert {"term", "state_hash", "members", "actors", "pid"} <= set(reports[0])


def test_status_lists_a_node_known_by_two_names_once() -> None:
    with FakeNode(Store()) as node:
        both = [node.endpoint, node.endpoint.replace("127.0.0.1", "localhost")]
        with zraft.Client(both) as client:
            assert [report["endpoint"] for report in client.status()] == both[:1]


def test_close_ends_session_thread_and_further_use() -> None:
    store = Store()
    before = client_threads()
    with FakeNode(store) as node:
        client = zraft.Client([node.endpoint])
        client.set("k", "v")
        assert len(store.answers) == 1
        start = time.monotonic()
        client.close()
        client.close()
        assert time.monotonic() - start < 3.0
        assert store.answers == {}
    assert client_threads() == before
    for call in (lambda: client.get("k"), client.status):
        with pytest.raises(zraft.Unavailable, match="closed"):
            call()


def test_close_fails_the_calls_of_other_threads_and_does_not_wait_for_a_dead_node() -> None:
    with FakeNode(Store()) as node:
        client = zraft.Client([node.endpoint], timeout=30.0)
        client.set("k", "v")
        node.intercept = lambda item: FakeNode.DROP
        errors: list[Exception] = []

        def call(ask: object) -> None:
            try:
                ask()  # type: ignore[operator]
            except zraft.ZraftError as error:
                errors.append(error)

        threads = [
            threading.Thread(target=call, args=(lambda: client.set("k", "w"),)),
            threading.Thread(target=call, args=(lambda: client.get("k"),)),
        ]
        for thread in threads:
            thread.start()
        node.wait_for(RequestKind.WRITE, 3)  # opening the session, and both sets
        node.wait_for(RequestKind.READ, 1)
        start = time.monotonic()
        client.close()
        assert time.monotonic() - start < 3.0
        for thread in threads:
            thread.join()
        assert sorted(type(error).__name__ for error in errors) == ["OutcomeUnknown", "Unavailable"]


def test_a_client_that_is_dropped_ends_its_thread() -> None:
    before = client_threads()
    with FakeNode(Store()) as node:
        client = zraft.Client([node.endpoint])
        client.set("k", "v")
        gone = weakref.ref(client)
        del client
        gc.collect()
        assert gone() is None
        end = time.monotonic() + 2.0
        while client_threads() != before and time.monotonic() < end:
            time.sleep(0.01)
        assert client_threads() == before


def test_a_failure_of_the_thread_fails_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    with FakeNode(Store()) as node:
        client = zraft.Client([node.endpoint], timeout=30.0)
        client.set("k", "v")
        monkeypatch.setattr(client._loop._core, "tick", lambda now: 1 / 0)
        with pytest.raises(zraft.ZraftError):
            client.set("k", "w")
        with pytest.raises(zraft.Unavailable, match="closed"):
            client.get("k")
        client.close()
    assert len(failures) == 1


def test_a_hold_that_ends_while_the_thread_works_is_not_slept_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client waits some 20 to 50 ms where no leader is known. Here each look at the clock takes 25 ms,
    so that most holds end between sending and going to sleep."""

    class SlowClock:
        def __init__(self) -> None:
            self.extra = 0.0

        def monotonic(self) -> float:
            self.extra += 0.025
            return time.monotonic() + self.extra

    with FakeNode(Store()) as node, zraft.Client([node.endpoint], timeout=60.0) as client:
        assert client.set("k", "v") == 1
        refusals = iter(range(3))
        node.intercept = lambda item: (ReplyStatus.NOT_LEADER, b"") if next(refusals, None) is not None else None
        monkeypatch.setattr("zraft.client.sync.time", SlowClock())
        started = time.monotonic()
        assert client.set("k", "w", timeout=60.0) == 2
        assert time.monotonic() - started < 3.0
