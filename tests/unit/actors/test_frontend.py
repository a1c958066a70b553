"""frontend: requests in, one message to consensus and one frame to each client a batch; tokens, limits, status."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_bus import FakeContext, FakePort, run_batch

from zraft.actors import frontend as module
from zraft.actors.frontend import MAX_COMMAND_BYTES, REPLY_FRAME_BYTES, Frontend
from zraft.chaos.faults import parse_fault
from zraft.messages import (
    ChangeMembers,
    Endpoints,
    KillRequest,
    Propose,
    Read,
    ReadInTerm,
    Replies,
    SetFaults,
    StatusReply,
    StatusRequest,
    TermRequest,
    TransferLeadership,
)
from zraft.wire import ReplyStatus, RequestKind, pack_bus, pack_requests, unpack_replies

(WRITE, READ, STATUS, TRANSFER, CHAOS, PING, COMPACT, SNAPSHOT, MEMBERS, ENDPOINTS, READ_IN_TERM, TERM) = RequestKind
OK, NOT_LEADER, BUSY, UNKNOWN, INVALID, REFUSED, IN_TERM = ReplyStatus
ACTORS = ("log_writer", "consensus", "frontend")
A, B = b"client A", b"client B"


class Scene:
    def __init__(self, incarnation: int = 1, chaos: bool = True) -> None:
        self.port = FakePort()
        self.context = FakeContext("frontend", incarnation, ports={"clients": self.port})
        self.actor = Frontend(self.context, "n1", ACTORS, parse_fault if chaos else None, {"version": "1.2", "pid": 99})
        self.actor.on_start()

    def ask(self, *requests: tuple[int, int, bytes], client: bytes = A) -> list[tuple[str, Any]]:
        return self.frames((client, pack_requests(requests)))

    def frames(self, *frames: tuple[bytes, bytes]) -> list[tuple[str, Any]]:
        self.actor.receive_frames("clients", list(frames))
        self.actor.end_batch()
        return self.context.taken()

    def say(self, sender: str, *messages: Any) -> list[tuple[str, Any]]:
        run_batch(self.actor, *((sender, message) for message in messages))
        return self.context.taken()

    def wake(self, now_ms: int) -> None:
        """Time goes on to then."""
        self.context.clock.now_ms, self.actor.wakeup_ms = now_ms, None
        self.actor.on_wakeup(now_ms)
        self.actor.end_batch()

    def restarted(self, name: str) -> list[tuple[str, Any]]:
        self.actor.on_neighbour_restarted(name)
        self.actor.end_batch()
        return self.context.taken()

    def answers(self, client: bytes = A) -> list[tuple[int, int, bytes]]:
        """What a client was sent since the last call."""
        mine = [frame for to, frame in self.port.sent if to == client]
        self.port.sent = [(to, frame) for to, frame in self.port.sent if to != client]
        return [item for frame in mine for item in unpack_replies(frame).items]


def tokens_of(message: Propose | Read | ReadInTerm) -> list[int]:
    return [token for token, _ in message[0]]


# ---- requests ------------------------------------------------------------------------------------------------------


def test_a_batch_is_one_message_of_each_kind_unopened() -> None:
    scene = Scene()
    sent = scene.frames(
        (A, pack_requests([(1, WRITE, b"w1"), (2, READ, b"r1")])),
        (B, pack_requests([(1, WRITE, b"w2"), (2, READ, b"r2")])),
    )
    assert [to for to, _ in sent] == ["consensus", "consensus"]
    assert [body for _, body in sent[0][1].proposals] == [b"w1", b"w2"]
    assert [body for _, body in sent[1][1].reads] == [b"r1", b"r2"]
    assert len({*tokens_of(sent[0][1]), *tokens_of(sent[1][1])}) == 4
    assert scene.port.sent == []


def test_reads_in_a_term_and_questions_for_it_are_a_message_each() -> None:
    scene = Scene()
    sent = scene.frames(
        (A, pack_requests([(1, READ_IN_TERM, b"r1"), (2, READ, b"r2"), (3, TERM, b"")])),
        (B, pack_requests([(1, READ_IN_TERM, b"r3"), (2, TERM, b"")])),
    )
    assert [(to, type(message)) for to, message in sent] == [
        ("consensus", Read), ("consensus", ReadInTerm), ("consensus", TermRequest)
    ]  # fmt: skip
    assert [body for _, body in sent[1][1].reads] == [b"r1", b"r3"]
    first, second = tokens_of(sent[1][1])
    third, fourth = sent[2][1].tokens
    scene.say("applier", Replies(((second, IN_TERM, b"a"), (first, IN_TERM, b"b"))))
    scene.say("consensus", Replies(((third, OK, b"c"), (fourth, OK, b"d"))))
    assert scene.answers(A) == [(1, IN_TERM, b"b"), (3, OK, b"c")]
    assert scene.answers(B) == [(1, IN_TERM, b"a"), (2, OK, b"d")]
    scene.ask((7, READ_IN_TERM, b""), (8, TERM, b""))
    scene.restarted("consensus")
    assert sorted(scene.answers()) == [(2, UNKNOWN, b""), (7, UNKNOWN, b""), (8, UNKNOWN, b"")]


def test_replies_find_their_clients_in_one_frame_each() -> None:
    scene = Scene()
    [(_, mine)] = scene.ask((10, WRITE, b""), (11, WRITE, b""))
    [(_, theirs)] = scene.ask((10, READ, b""), client=B)
    first, second = tokens_of(mine)
    [third] = tokens_of(theirs)
    assert scene.say("applier", Replies(((second, OK, b"2"), (third, OK, b"3"))), Replies(((first, OK, b"1"),))) == []
    assert len(scene.port.sent) == 2
    assert scene.answers(A) == [(11, OK, b"2"), (10, OK, b"1")]
    assert scene.answers(B) == [(10, OK, b"3")]


def test_a_request_is_answered_once() -> None:
    scene = Scene()
    [(_, propose)] = scene.ask((10, WRITE, b""))
    [token] = tokens_of(propose)
    scene.say("consensus", Replies(((token, NOT_LEADER, b""), (token, OK, b""))))
    scene.say("applier", Replies(((token, OK, b""),)))
    assert scene.answers() == [(10, NOT_LEADER, b"")]


def test_a_ping_is_answered_at_once() -> None:
    scene = Scene()
    assert scene.ask((5, PING, b"")) == []
    assert scene.answers() == [(5, OK, b"")]


@pytest.mark.parametrize("kind", [0, 13, -3, (1 << 64) - 1])
def test_unknown_kinds_are_invalid(kind: int) -> None:
    scene = Scene()
    assert scene.ask((5, kind, b"")) == []
    assert scene.answers() == [(5, INVALID, f"no request of kind {kind} in this version".encode())]
    assert scene.actor.status()["client_refused"] == 1


def test_too_large_commands_are_invalid() -> None:
    scene = Scene()
    assert len(scene.ask((1, WRITE, bytes(MAX_COMMAND_BYTES)))) == 1
    assert scene.ask((2, WRITE, bytes(MAX_COMMAND_BYTES + 1)), (3, READ, bytes(MAX_COMMAND_BYTES + 1))) == []
    assert [(number, status) for number, status, _ in scene.answers()] == [(2, INVALID), (3, INVALID)]


def test_past_the_limit_of_pending_requests_clients_are_told_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 2)
    scene = Scene()
    [(_, propose)] = scene.ask((1, WRITE, b""), (2, WRITE, b""), (3, WRITE, b""), (4, READ, b""), (5, PING, b""))
    assert len(propose.proposals) == 2
    assert scene.answers() == [(3, BUSY, b""), (4, BUSY, b""), (5, OK, b"")]
    scene.say("applier", Replies(((tokens_of(propose)[0], OK, b""),)))
    assert len(scene.ask((6, WRITE, b""))) == 1, "there is room again"


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"\x92\x09\x90", pack_requests([]) + b"x"])
def test_bad_frames_are_dropped_and_counted(frame: bytes) -> None:
    scene = Scene()
    scene.frames((A, frame), (A, pack_requests([(1, PING, b"")])))
    assert scene.answers() == [(1, OK, b"")]
    status = scene.actor.status()
    assert (status["client_dropped_in"], status["client_frames_in"]) == (1, 1)


def test_large_replies_are_spread_over_frames() -> None:
    scene = Scene()
    [(_, reads)] = scene.ask(*((number, READ, b"") for number in range(5)))
    body = bytes(REPLY_FRAME_BYTES // 2)
    scene.say("applier", Replies(tuple((token, OK, body) for token in tokens_of(reads))))
    assert len(scene.port.sent) == 2
    assert [number for number, _, _ in scene.answers()] == [0, 1, 2, 3, 4]


# ---- lives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", ["consensus", "applier"])
def test_who_was_to_answer_began_anew_so_the_outcome_is_unknown(lost: str) -> None:
    scene = Scene()
    sent = scene.ask((1, WRITE, b""), (2, READ, b""), (3, TRANSFER, b"n2"))
    scene.restarted(lost)
    assert sorted(scene.answers()) == [(1, UNKNOWN, b""), (2, UNKNOWN, b""), (3, UNKNOWN, b"")]
    assert scene.actor.status()["client_pending"] == 0
    late = [token for _, message in sent if isinstance(message, Propose | Read) for token in tokens_of(message)]
    assert len(late) == 2
    scene.say("applier", Replies(tuple((token, OK, b"") for token in late)))
    assert scene.answers() == []


@pytest.mark.parametrize("lost", ["log_writer", "transport", "election_timer", "json_gateway"])
def test_other_new_lives_change_nothing(lost: str) -> None:
    scene = Scene()
    [(_, propose)] = scene.ask((1, WRITE, b""))
    scene.restarted(lost)
    scene.say("applier", Replies(((tokens_of(propose)[0], OK, b"done"),)))
    assert scene.answers() == [(1, OK, b"done")]


def test_a_kill_that_was_asked_for_is_answered_by_the_supervisor_whoever_is_killed() -> None:
    scene = Scene()
    scene.ask((1, CHAOS, b'{"op": "kill-actor", "actor": "consensus"}'))
    scene.restarted("consensus")
    assert scene.answers() == []
    scene.say("supervisor", Replies(((scene.actor.last_token, OK, b""),)))
    assert scene.answers() == [(1, OK, b"")]


def test_tokens_of_older_lives_mean_nothing() -> None:
    [(_, old)] = Scene(incarnation=1).ask(*((number, WRITE, b"") for number in range(1000)))
    scene = Scene(incarnation=2)
    [(_, new)] = scene.ask(*((number, WRITE, b"") for number in range(1000)))
    assert not set(tokens_of(old)) & set(tokens_of(new))
    scene.say("applier", Replies(tuple((token, OK, b"") for token in tokens_of(old))))
    assert scene.answers() == []


def test_each_life_has_a_number_that_clients_see() -> None:
    lives = set()
    for incarnation in (1, 2):
        scene = Scene(incarnation)
        scene.ask((1, PING, b""))
        scene.ask((2, PING, b""))
        seen = {unpack_replies(frame).life for _, frame in scene.port.sent}
        assert len(seen) == 1
        lives |= seen
    assert len(lives) == 2


# ---- members -------------------------------------------------------------------------------------------------------


def test_a_change_of_members_goes_to_consensus_unopened() -> None:
    scene = Scene()
    [(to, message)] = scene.ask((1, MEMBERS, b"\xffwhatever"))
    assert (to, message) == ("consensus", ChangeMembers(scene.actor.last_token, b"\xffwhatever"))
    scene.say("consensus", Replies(((message.token, REFUSED, b"n4 is a member already"),)))
    assert scene.answers() == [(1, REFUSED, b"n4 is a member already")]


def test_a_change_of_members_that_consensus_took_along_has_an_unknown_outcome() -> None:
    scene = Scene()
    scene.ask((1, MEMBERS, b"{}"))
    scene.restarted("consensus")
    assert scene.answers() == [(1, UNKNOWN, b"")]


def test_endpoints_are_answered_at_once_with_the_latest() -> None:
    scene = Scene()
    assert scene.ask((1, ENDPOINTS, b"")) == []
    assert scene.answers() == [(1, OK, b"[]")], "it knows of none yet"
    for clients in (("tcp://a:1",), ("tcp://a:1", "tcp://b:2")):
        assert scene.say("consensus", Endpoints(clients)) == []
        assert scene.ask((2, ENDPOINTS, b"")) == []
        [(number, status, body)] = scene.answers()
        assert (number, status, json.loads(body)) == (2, OK, list(clients))
    scene.restarted("consensus")
    scene.ask((3, ENDPOINTS, b""))
    assert json.loads(scene.answers()[0][2]) == ["tcp://a:1", "tcp://b:2"], "until its successor says otherwise"


def test_endpoints_are_told_however_many_requests_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 0)
    scene = Scene()
    scene.ask((1, ENDPOINTS, b""), (2, MEMBERS, b"{}"))
    assert scene.answers() == [(1, OK, b"[]"), (2, BUSY, b"")]


# ---- transfers and faults ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("body", "target"), [(b"n2", "n2"), (b"", "")])
def test_a_transfer_goes_to_consensus(body: bytes, target: str) -> None:
    scene = Scene()
    [(to, message)] = scene.ask((1, TRANSFER, body))
    assert (to, type(message), message.target) == ("consensus", TransferLeadership, target)


def test_a_transfer_to_no_text_is_invalid() -> None:
    scene = Scene()
    assert scene.ask((1, TRANSFER, b"\xff")) == []
    assert scene.answers()[0][1] == INVALID


def test_faults_are_refused_where_the_config_does_not_allow_them() -> None:
    scene = Scene(chaos=False)
    assert scene.ask((1, CHAOS, b'{"op": "kill-actor", "actor": "consensus"}')) == []
    [(_, status, text)] = scene.answers()
    assert status == REFUSED
    assert b"chaos: true" in text


@pytest.mark.parametrize("fault", [b'{"op": "links", "rules": {}}', b'{"op": "heal"}', b"junk"])
def test_what_is_refused_is_logged(fault: bytes, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(chaos=False)
    assert scene.ask((1, CHAOS, fault)) == []
    assert [status for _, status, _ in scene.answers()] == [REFUSED]
    assert f"chaos refused: {fault!r}" in caplog.text


def test_faults_of_links_and_disk_go_to_the_supervisor() -> None:
    scene = Scene()
    [(to, message)] = scene.ask((1, CHAOS, b'{"op": "disk", "full": true}'))
    assert (to, message) == ("supervisor", SetFaults(scene.actor.last_token, {"disk": {"full": True}}))
    scene.restarted("consensus")
    assert scene.answers() == [], "whoever else dies, the supervisor answers"
    scene.say("supervisor", Replies(((message.token, OK, b""),)))
    assert scene.answers() == [(1, OK, b"")]


def test_a_fault_goes_to_the_supervisor() -> None:
    scene = Scene()
    [(to, message)] = scene.ask((1, CHAOS, b'{"op": "kill-actor", "actor": "applier", "boundary": 3}'))
    assert (to, message) == ("supervisor", KillRequest(scene.actor.last_token, "applier", 3))


BAD_FAULTS = {
    "no JSON": b"{",
    "no UTF-8": b'"\xff"',
    "no object": b"[1]",
    "another op": b'{"op": "eat", "actor": "applier"}',
    "no actor": b'{"op": "kill-actor"}',
    "actor no text": b'{"op": "kill-actor", "actor": 5}',
    "half a surrogate pair": b'{"op": "kill-actor", "actor": "\\ud800"}',
    "negative": b'{"op": "kill-actor", "actor": "applier", "boundary": -1}',
    "fraction": b'{"op": "kill-actor", "actor": "applier", "boundary": 1.5}',
    "boolean": b'{"op": "kill-actor", "actor": "applier", "boundary": true}',
    "more than a message carries": b'{"op": "kill-actor", "actor": "applier", "boundary": 99999999999999999999}',
    "nested too deep": b"[" * 100_000,
}


@pytest.mark.parametrize("body", BAD_FAULTS.values(), ids=BAD_FAULTS)
def test_bad_faults_are_invalid_and_harm_nobody(body: bytes) -> None:
    scene = Scene()
    for _, message in scene.ask((1, CHAOS, body)):
        pack_bus("frontend", 1, 1, message)  # what cannot be packed would be the frontend's death
        raise AssertionError(f"it was taken: {message}")
    assert [status for _, status, _ in scene.answers()] == [INVALID]


# ---- status --------------------------------------------------------------------------------------------------------


def test_status_is_put_together_from_everybody() -> None:
    scene = Scene()
    sent = scene.ask((1, STATUS, b""))
    token = scene.actor.last_token
    assert sent == [(name, StatusRequest(token)) for name in ("log_writer", "consensus", "supervisor")]
    scene.say("consensus", StatusReply(token, {"role": "leader", "peer_undecodable": 2}))
    scene.say("log_writer", StatusReply(token, {"log_writes": 5}))
    assert scene.answers() == []
    scene.say("supervisor", StatusReply(token, {"actors": {}, "peer_dropped_in": 3}))
    [(number, status, body)] = scene.answers()
    report = json.loads(body)
    assert (number, status) == (1, OK)
    wanted = {"node": "n1", "version": "1.2", "pid": 99, "role": "leader", "log_writes": 5, "actors": {}, "dropped": 5}
    assert wanted.items() <= report.items()
    assert scene.actor.status()["client_pending"] == 0


def test_a_part_that_comes_twice_stands_for_no_other() -> None:
    scene = Scene()
    scene.ask((1, STATUS, b""))
    reply = StatusReply(scene.actor.last_token, {})
    for _ in range(3):
        scene.say("consensus", reply)
    scene.say("supervisor", reply)
    assert scene.answers() == []
    scene.say("log_writer", reply)
    assert len(scene.answers()) == 1
    scene.say("log_writer", reply)
    assert scene.answers() == []


def test_who_began_anew_is_asked_again_for_status() -> None:
    scene = Scene()
    scene.ask((1, STATUS, b""))
    token = scene.actor.last_token
    assert scene.restarted("consensus") == [("consensus", StatusRequest(token))]
    scene.say("consensus", StatusReply(token, {"role": "follower"}))
    assert scene.restarted("consensus") == [], "its part is there"
    for name in ("log_writer", "supervisor"):
        scene.say(name, StatusReply(token, {}))
    assert json.loads(scene.answers()[0][2])["role"] == "follower"


def test_status_waits_for_no_log_writer_that_waits_for_its_disk() -> None:
    scene = Scene()
    scene.ask((1, STATUS, b""))
    token, due_ms = scene.actor.last_token, scene.actor.wakeup_ms
    assert due_ms == scene.context.now_ms() + module.STATUS_PATIENCE_MS
    scene.say("supervisor", StatusReply(token, {"actors": {}}))
    scene.wake(due_ms)
    assert scene.answers() == [], "for consensus it waits"
    scene.say("consensus", StatusReply(token, {"role": "follower"}))
    assert scene.answers() == []
    assert scene.actor.wakeup_ms == due_ms + module.STATUS_AGAIN_MS
    scene.wake(scene.actor.wakeup_ms)
    [(number, status, body)] = scene.answers()
    assert (number, status, json.loads(body)["role"]) == (1, OK, "follower")
    assert (scene.actor.wakeup_ms, scene.actor.status()["client_pending"]) == (None, 0)
    scene.say("log_writer", StatusReply(token, {"log_writes": 5}))
    assert scene.answers() == []


def test_status_is_not_cut_short_for_a_younger_question() -> None:
    scene = Scene()
    scene.ask((1, STATUS, b""))
    first = scene.actor.last_token
    scene.context.clock.now_ms += module.STATUS_PATIENCE_MS - 1
    scene.ask((2, STATUS, b""))
    for token in (first, scene.actor.last_token):
        for name in ("consensus", "supervisor"):
            scene.say(name, StatusReply(token, {}))
    assert scene.actor.wakeup_ms is not None
    scene.wake(scene.actor.wakeup_ms)
    assert [number for number, _, _ in scene.answers()] == [1]
    assert scene.actor.wakeup_ms == scene.context.now_ms() - 1 + module.STATUS_PATIENCE_MS
    scene.wake(scene.actor.wakeup_ms)
    assert [number for number, _, _ in scene.answers()] == [2]


def test_status_counts_what_was_asked_and_dropped() -> None:
    scene = Scene()
    scene.port.surplus_parts = 2
    scene.ask((1, WRITE, b""), (2, PING, b""), (3, 77, b""))
    scene.frames((A, b"bad"))
    assert scene.actor.status() == {
        "client_frames_in": 1,
        "client_dropped_in": 3,
        "client_requests": 3,
        "client_refused": 1,
        "client_pending": 1,
    }
