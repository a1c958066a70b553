"""A node as clients see it: a ROUTER in a thread that keeps a dict. Scripted to misbehave."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

import zmq
from batches import Item, singles

from zraft.statemachine.codec import Op, Query, ResultCode, decode_command, decode_query, encode_result
from zraft.wire import ReplyStatus, RequestKind, pack_replies, unpack_requests


class Store:
    """What the nodes of one cluster share: sessions with their answers, and the keys."""

    def __init__(self) -> None:
        self.keys: dict[bytes, tuple[bytes, bytes, int, int, int]] = {}
        self.revision = 0
        self.answers: dict[int, dict[int, bytes]] = {}
        self.applied = 0
        self.lock = threading.Lock()

    def write(self, body: bytes) -> bytes:
        with self.lock:
            session, number, _, op, arguments = decode_command(body)
            if op == Op.OPEN_SESSION:
                session_id = len(self.answers) + 100
                self.answers[session_id] = {}
                return encode_result(ResultCode.OK, session_id)
            if session not in self.answers:
                return encode_result(ResultCode.SESSION_UNKNOWN)
            if op == Op.CLOSE_SESSION:
                del self.answers[session]
                return encode_result(ResultCode.OK)
            answers = self.answers[session]
            if number not in answers:
                answers[number] = self._apply(op, *arguments)
                self.applied += 1
            return answers[number]

    def _apply(self, op: int, key: bytes, *values: bytes) -> bytes:
        entry = self.keys.get(key)
        if op == Op.DELETE:
            self.revision += entry is not None
            return encode_result(ResultCode.OK, self.keys.pop(key, None) is not None, self.revision)
        if op == Op.CAS and values[0] != (entry and entry[1]):
            return encode_result(ResultCode.OK, False, self.revision)
        self.revision += 1
        created, version = (entry[2], entry[4] + 1) if entry else (self.revision, 1)
        self.keys[key] = (key, values[-1], created, self.revision, version)
        if op == Op.CAS:
            return encode_result(ResultCode.OK, True, self.revision)
        return encode_result(ResultCode.OK, self.revision)

    def read(self, body: bytes) -> bytes:
        with self.lock:
            query, arguments = decode_query(body)
            if query == Query.GET:
                return encode_result(ResultCode.OK, self.keys.get(arguments[0]), self.revision)
            start, end, limit, _ = arguments
            found = [self.keys[key] for key in sorted(self.keys) if start <= key and (end is None or key < end)]
            limit = min(limit, 10)  # so that a test has pages
            return encode_result(ResultCode.OK, found[:limit], len(found) > limit, self.revision)


class FakeNode:
    """Serves one `Store` on a port of its own. `intercept(item)` may answer an item first: (status, body), or drop it
    by returning `FakeNode.DROP`; None: serve it. `members`: the endpoints that it tells; `asked`: how often it was
    asked for these, which is no item."""

    DROP = (-1, b"")

    def __init__(self, store: Store, port: int | None = None, name: str = "n1") -> None:
        self.store = store
        self.name = name
        self.life = 1
        self.frames = 0
        self.items: list[Item] = []
        self.members: list[str] = []
        self.asked = 0
        self.intercept: Callable[[Item], tuple[int, bytes] | None] = lambda item: None
        self._stop = threading.Event()
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        if port is None:
            port = self._router.bind_to_random_port("tcp://127.0.0.1")
        else:
            self._router.bind(f"tcp://127.0.0.1:{port}")
        self.port = port
        self.endpoint = f"tcp://127.0.0.1:{port}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> FakeNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def wait_for(self, kind: int, count: int) -> None:
        """Wait until `count` requests of this kind have arrived since the start."""
        end = time.monotonic() + 10.0
        while sum(item[1] == kind for item in list(self.items)) < count:
            assert time.monotonic() < end, f"fewer than {count} requests of kind {kind} arrived"
            time.sleep(0.002)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._router.poll(5):
                identity, frame = self._router.recv_multipart()
                self.frames += 1
                items = singles(unpack_requests(frame))
                replies = [reply for item in items if (reply := self._answer(item)) is not None]
                if replies:
                    self._router.send_multipart([identity, pack_replies(self.life, replies)])
        self._router.close()
        self._context.term()

    def _answer(self, item: Item) -> Item | None:
        request_id, kind, body = item
        if kind == RequestKind.ENDPOINTS:
            self.asked += 1
            return request_id, ReplyStatus.OK, json.dumps(self.members).encode()
        self.items.append(item)
        answer = self.intercept(item)
        if answer is self.DROP:
            return None
        if answer is not None:
            return (request_id, *answer)
        if kind == RequestKind.WRITE:
            return request_id, ReplyStatus.OK, self.store.write(body)
        if kind == RequestKind.READ:
            return request_id, ReplyStatus.OK, self.store.read(body)
        if kind == RequestKind.STATUS:
            report = {"node": self.name, "role": "leader", "term": 1}
            return request_id, ReplyStatus.OK, json.dumps(report).encode()
        return request_id, ReplyStatus.OK, b""
