"""json_gateway: lines in, lines out, in order; whatever is no request is answered in words or costs the connection."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_bus import Clock, FakeContext, FakePort, FakeTcpPort

from zraft.actors import json_gateway as module
from zraft.actors.json_gateway import RETRY_MS, TIMEOUT_SECONDS, JsonGateway
from zraft.client.discovery import ASK_EVERY_SECONDS
from zraft.statemachine.codec import Op, Query, decode_command, decode_query, encode_result
from zraft.wire import ReplyStatus, RequestKind, pack_replies, unpack_requests

HERE, THERE, NEW = "tcp://127.0.0.1:7101", "tcp://127.0.0.1:7102", "tcp://127.0.0.1:7104"


class Scene:
    """A gateway whose cluster (one obliging leader) is played by the test: `serve` answers what waits."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.tcp, self.cluster = FakeTcpPort(), FakePort()
        ports = {"json": self.tcp, "cluster": self.cluster}
        self.context = FakeContext("json_gateway", clock=self.clock, ports=ports)
        self.actor = JsonGateway(self.context, [HERE, THERE])
        self.actor.on_start()
        self.store: dict[bytes, bytes] = {}
        self.revision = 0
        self.members = [HERE, THERE]

    def bytes_in(self, *frames: tuple[int, bytes]) -> None:
        self.actor.receive_frames("json", list(frames))
        self.actor.end_batch()

    def line(self, number: int, **fields: Any) -> None:
        self.bytes_in((number, json.dumps(fields).encode() + b"\n"))

    def serve(self) -> None:
        """Answer all requests, those that come of it as well."""
        while self.cluster.sent:
            sent, self.cluster.sent = self.cluster.sent, []
            frames = []
            for endpoint, frame in sent:
                items = [(item[0], ReplyStatus.OK, self.answer(item[1], item[2])) for item in unpack_requests(frame)]
                frames.append((endpoint, pack_replies(1, items)))
            self.actor.receive_frames("cluster", frames)
            self.actor.end_batch()

    def answer(self, kind: int, body: bytes) -> bytes:
        if kind == RequestKind.READ:
            query, (key, *_) = decode_query(body)
            assert query == Query.GET
            value = self.store.get(key)
            return encode_result(0, None if value is None else (key, value, 1, 1, 1), self.revision)
        if kind == RequestKind.PING:
            return b""
        if kind == RequestKind.ENDPOINTS:
            return json.dumps(self.members).encode()
        assert kind == RequestKind.WRITE
        _, _, _, op, arguments = decode_command(body)
        if op == Op.OPEN_SESSION:
            return encode_result(0, 77)
        self.revision += 1
        self.store[arguments[0]] = arguments[1]
        return encode_result(0, self.revision)

    def said(self, number: int = 1) -> list[Any]:
        """The lines that a connection was sent since the last call."""
        mine = b"".join(data for to, data in self.tcp.sent if to == number)
        self.tcp.sent = [(to, data) for to, data in self.tcp.sent if to != number]
        assert not mine or mine.endswith(b"\n")
        return [json.loads(line) for line in mine.splitlines()]

    def pass_time(self, seconds: float) -> None:
        end_ms = self.clock.now_ms + int(seconds * 1000)
        while self.actor.wakeup_ms is not None and self.actor.wakeup_ms <= end_ms:
            self.clock.now_ms, self.actor.wakeup_ms = max(self.clock.now_ms, self.actor.wakeup_ms), None
            self.actor.on_wakeup(self.clock.now_ms)
            self.actor.end_batch()
        self.clock.now_ms = end_ms


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_set_and_get(scene: Scene) -> None:
    scene.line(1, op="set", key="k", value="v\u00e9")
    scene.serve()
    assert scene.said() == [{"ok": True, "revision": 1}]
    scene.line(1, op="get", key="k")
    scene.line(1, op="get", key="absent")
    scene.serve()
    assert scene.said() == [
        {"ok": True, "value": "v\u00e9", "revision": 1},
        {"ok": True, "value": None, "revision": 1},
    ]


def test_lines_sent_at_once_are_answered_in_order_and_each_sees_the_one_before(scene: Scene) -> None:
    lines = [{"op": "set", "key": "k", "value": str(number)} for number in range(3)]
    script = [step for line in lines for step in (line, {"op": "get", "key": "k"})]
    scene.bytes_in((1, b"".join(json.dumps(line).encode() + b"\n" for line in script)))
    scene.serve()
    assert [answer.get("value") for answer in scene.said()] == [None, "0", None, "1", None, "2"]


def test_bad_lines_are_answered_in_their_place(scene: Scene) -> None:
    scene.bytes_in((1, b'{"op":"set","key":"k","value":"v"}\nnonsense\n{"op":"get","key":"k"}\n'))
    scene.serve()
    answers = scene.said()
    assert [answer["ok"] for answer in answers] == [True, False, True]
    assert "not JSON" in answers[1]["error"]


def test_a_line_may_come_in_pieces(scene: Scene) -> None:
    whole = '{"op":"set","key":"k","value":"\u00e9"}\n'.encode()
    for place in range(len(whole)):
        scene.bytes_in((1, whole[place : place + 1]))
    scene.serve()
    assert scene.said() == [{"ok": True, "revision": 1}]
    assert scene.store == {b"k": "\u00e9".encode()}


def test_empty_lines_and_carriage_returns_are_nothing(scene: Scene) -> None:
    scene.bytes_in((1, b'\n \r\n{"op":"get","key":"k"}\r\n\n'))
    scene.serve()
    assert scene.said() == [{"ok": True, "value": None, "revision": 0}]


def test_connections_do_not_wait_for_each_other(scene: Scene) -> None:
    scene.line(1, op="set", key="a", value="1")
    scene.line(2, op="nonsense")
    assert scene.said(2)[0]["ok"] is False
    assert scene.said(1) == []
    scene.serve()
    assert scene.said(1) == [{"ok": True, "revision": 1}]


BAD_LINES = {
    "no JSON": (b"hello", "not JSON"),
    "no UTF-8": (b'{"op":"get","key":"\xff"}', "not JSON"),
    "no object": (b"[1, 2]", "JSON object"),
    "nested too deep": (b"[" * 100_000, "not JSON"),
    "a huge number": (b'{"op":' + b"9" * 10_000 + b"}", "not JSON"),
    "no op": (b"{}", "unknown op null"),
    "another op": (b'{"op":"delete","key":"k"}', 'unknown op "delete"'),
    "op half a pair": (b'{"op":"\\ud800"}', "unknown op"),
    "no key": (b'{"op":"get"}', '"key" is text'),
    "key no text": (b'{"op":"get","key":5}', '"key" is text'),
    "key half a pair": (b'{"op":"get","key":"\\ud800"}', "surrogate"),
    "no value": (b'{"op":"set","key":"k"}', '"value" is text'),
    "key too long": (b'{"op":"get","key":"' + b"k" * 5000 + b'"}', "5000 bytes"),
}


@pytest.mark.parametrize(("line", "words"), BAD_LINES.values(), ids=BAD_LINES)
def test_what_is_no_request_is_answered_in_words(scene: Scene, line: bytes, words: str) -> None:
    scene.bytes_in((1, line + b"\n"))
    [answer] = scene.said()
    assert answer["ok"] is False
    assert words in answer["error"]
    assert scene.cluster.sent == []
    assert scene.actor.status() == {"json_connections": 1, "json_dropped_in": 1}
    scene.line(1, op="get", key="k")
    scene.serve()
    assert scene.said()[0]["ok"] is True


def test_too_long_a_line_costs_the_connection(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 100)
    scene.bytes_in((1, b"x" * 60))
    assert scene.said() == []
    scene.bytes_in((1, b"x" * 60), (1, b"more\n"))
    [answer] = scene.said()
    assert "more than 100 bytes" in answer["error"]
    assert scene.tcp.finished == [1]
    assert scene.actor.status()["json_connections"] == 0


@pytest.mark.parametrize(("limit", "value"), [("MAX_WAITING_LINES", 5), ("MAX_WAITING_BYTES", 200)])
def test_too_much_that_waits_costs_the_connection(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(module, limit, value)
    scene.bytes_in((1, b'{"op":"set","key":"k","value":"v"}\n' * 20))
    assert "wait" in scene.said()[-1]["error"]
    assert scene.tcp.finished == [1]
    scene.serve()
    assert scene.said() == [], "what was asked before is not answered after the last word"


def test_who_has_finished_sending_is_answered_and_then_closed(scene: Scene) -> None:
    scene.bytes_in((1, b'{"op":"set","key":"k","value":"v"}\n{"op":"get","key":"k"}'), (1, b""))
    assert scene.tcp.finished == []
    scene.serve()
    assert [answer["ok"] for answer in scene.said()] == [True, True]
    assert scene.tcp.finished == [1]
    assert scene.actor.status()["json_connections"] == 0


def test_a_connection_that_is_gone_is_forgotten_and_harms_nobody(scene: Scene) -> None:
    scene.line(1, op="set", key="k", value="v")
    scene.line(2, op="get", key="k")
    scene.tcp.gone.add(1)
    scene.bytes_in((1, b""))
    assert scene.actor.status()["json_connections"] == 1
    scene.serve()
    assert scene.said(2)[0]["ok"] is True


def test_a_slow_reader_s_answers_are_kept_and_sent_later(scene: Scene) -> None:
    scene.tcp.accepts = False
    scene.bytes_in((1, b"bad\nbad\n"))
    assert scene.actor.wakeup_ms is not None
    assert scene.actor.wakeup_ms <= scene.clock.now_ms + RETRY_MS
    scene.tcp.accepts = True
    scene.pass_time(RETRY_MS / 1000)
    assert len(scene.said()) == 2


def test_without_an_answer_the_outcome_of_a_set_is_unknown_and_that_of_a_get_is_not(scene: Scene) -> None:
    scene.line(1, op="set", key="k", value="v")
    scene.serve()
    scene.line(1, op="set", key="k", value="v")
    scene.line(2, op="get", key="k")
    scene.pass_time(TIMEOUT_SECONDS + 0.5)
    [_, late] = scene.said(1)
    assert (late["ok"], late["outcome"]) == (False, "unknown")
    [failed] = scene.said(2)
    assert failed["ok"] is False
    assert "outcome" not in failed


def test_where_no_link_takes_a_frame_another_is_tried(scene: Scene) -> None:
    scene.cluster.accepts = False
    scene.line(1, op="set", key="k", value="v")
    scene.pass_time(0.2)
    scene.cluster.accepts = True
    scene.pass_time(0.2)
    scene.serve()
    assert scene.said() == [{"ok": True, "revision": 1}]


def test_a_value_that_is_no_text_is_said_to_be_none(scene: Scene) -> None:
    scene.store[b"k"] = b"\xff"
    scene.line(1, op="get", key="k")
    scene.serve()
    [answer] = scene.said()
    assert answer["ok"] is False
    assert "not text" in answer["error"]


def test_a_new_life_ends_the_connections_that_the_old_one_can_answer_no_more(scene: Scene) -> None:
    assert scene.tcp.drops == 1


def test_at_rest_it_wakes_only_to_ask_for_the_members(scene: Scene) -> None:
    assert scene.actor.wakeup_ms is None
    scene.line(1, op="get", key="k")
    scene.serve()
    scene.pass_time(TIMEOUT_SECONDS + 1)
    assert scene.actor.wakeup_ms == scene.clock.now_ms + (ASK_EVERY_SECONDS - TIMEOUT_SECONDS - 1) * 1000 + 1
    scene.pass_time(ASK_EVERY_SECONDS)
    kinds = [kind for _, frame in scene.cluster.sent for _, kind, _ in unpack_requests(frame)]
    assert RequestKind.ENDPOINTS in kinds and set(kinds) <= {RequestKind.ENDPOINTS, RequestKind.PING}


def test_a_late_answer_to_the_old_life_is_none_to_the_new() -> None:
    """Both lives number their requests from 1, and the links are the port's: a new life begins with new links."""
    scene = Scene()
    scene.line(1, op="get", key="b")
    assert len(scene.cluster.sent) == 1
    scene.cluster.inbox.append((HERE, pack_replies(1, [(1, ReplyStatus.OK, encode_result(0, None, 5))])))
    successor = JsonGateway(scene.context, [HERE, THERE])
    successor.on_start()
    assert scene.cluster.drain(10) == []


def test_it_learns_where_the_members_are_and_forgets_those_that_are_none_any_more(scene: Scene) -> None:
    """A node that joined knew only itself."""
    scene.members = [HERE, NEW]
    scene.line(1, op="set", key="k", value="v")
    scene.serve()
    assert scene.said() == [{"ok": True, "revision": 1}]
    assert scene.actor.core.endpoints == [HERE, THERE, NEW]
    assert scene.cluster.dropped == [THERE]
