"""applier: entries in order and no gaps, answers for tokens, reads that wait for their index, Recover."""

from __future__ import annotations

from typing import Any

import pytest
from fake_bus import FakeContext, run_batch

from zraft.actors.applier import ANNOUNCED_RUNS, Applier, SnapshotPolicy
from zraft.errors import ImpossibleState
from zraft.messages import (
    Applied,
    Apply,
    Entry,
    EntryKind,
    ReadAt,
    ReadSnapshot,
    Recover,
    Replies,
    SnapshotRead,
    StatusReply,
    StatusRequest,
)
from zraft.raft.replication import MAX_APPLYING_RUNS
from zraft.statemachine.codec import Op, Query, ResultCode, decode_result, encode_command, encode_query, encode_result
from zraft.wire import ReplyStatus, pack_entries

OPEN = encode_command(0, 0, 0, Op.OPEN_SESSION)
GET_K = encode_query(Query.GET, b"k")


def put(session: int, number: int, value: bytes) -> bytes:
    return encode_command(session, number, number - 1, Op.SET, b"k", value)


def entries(first: int, *datas: bytes | None, tokens: dict[int, int] | None = None) -> Apply:
    """An Apply of commands (None: a no-op)."""
    kinds = [EntryKind.NOOP if data is None else EntryKind.COMMAND for data in datas]
    run = [Entry(1, 100, kind, data or b"") for kind, data in zip(kinds, datas, strict=True)]
    return Apply(first, pack_entries(run), tuple((tokens or {}).items()))


def progress(last_applied: int) -> tuple[str, Applied]:
    return ("consensus", Applied(last_applied, 100, 0))


def standing(last_applied: int, questions: int = 1) -> tuple[str, Applied]:
    return ("consensus", Applied(last_applied, 100 if last_applied else 0, questions))


class Scene:
    """An applier on a node without a snapshot."""

    def __init__(self) -> None:
        self.context = FakeContext("applier")
        self.actor = Applier(self.context, SnapshotPolicy())
        self.actor.on_start()
        [(to, ask)] = self.context.taken()
        assert (to, ask) == ("snapshot_writer", ReadSnapshot("", 0, 0, ask.max_bytes))
        run_batch(self.actor, ("snapshot_writer", SnapshotRead("", 0, 0, b"", 0)))

    def say(self, *messages: Any) -> list[tuple[str, Any]]:
        run_batch(self.actor, *(("consensus", message) for message in messages))
        return self.context.taken()


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    assert scene.say(Recover()) == [standing(0)]
    return scene


def test_commands_are_applied_in_order_and_answered_by_token(scene: Scene) -> None:
    opened = entries(1, None, OPEN, tokens={2: 50})
    sent = scene.say(opened, entries(3, put(2, 1, b"a"), put(2, 2, b"b"), tokens={4: 51}))
    assert sent == [
        (
            "frontend",
            Replies(((50, ReplyStatus.OK, encode_result(0, 2)), (51, ReplyStatus.OK, encode_result(0, 2)))),
        ),
    ]


def test_a_no_op_answers_nobody_and_is_applied(scene: Scene) -> None:
    assert scene.say(entries(1, None)) == []
    assert scene.actor.machine.last_applied == 1


def test_a_bad_command_is_an_answer_like_any_other(scene: Scene) -> None:
    [(_, replies)] = scene.say(entries(1, b"\xc1 no command", tokens={1: 9}))
    [(token, status, body)] = replies.replies
    assert (token, status, decode_result(body)[0]) == (9, ReplyStatus.OK, ResultCode.BAD_COMMAND)
    assert scene.actor.machine.last_applied == 1


@pytest.mark.parametrize("first", [1, 2, 4])
def test_a_gap_or_a_repetition_is_impossible(scene: Scene, first: int) -> None:
    scene.say(entries(1, None, None))
    with pytest.raises(ImpossibleState, match=f"first_index={first}, last_applied=2"):
        scene.actor.receive("consensus", entries(first, None))


def test_consensus_is_told_when_half_of_a_window_is_applied(scene: Scene) -> None:
    """So it always may hand on more before it has to wait; once for a batch, however many there are in it."""
    assert 2 * ANNOUNCED_RUNS <= MAX_APPLYING_RUNS
    for index in range(1, ANNOUNCED_RUNS):
        assert scene.say(entries(index, None)) == []
    assert scene.say(entries(ANNOUNCED_RUNS, None)) == [progress(ANNOUNCED_RUNS)]
    last = ANNOUNCED_RUNS + MAX_APPLYING_RUNS
    assert scene.say(*(entries(index, None) for index in range(ANNOUNCED_RUNS + 1, last + 1))) == [progress(last)]
    assert scene.say() == []


def test_the_answer_to_recover_says_it_too(scene: Scene) -> None:
    scene.say(*(entries(index, None) for index in range(1, ANNOUNCED_RUNS)))
    assert scene.say(Recover()) == [standing(ANNOUNCED_RUNS - 1)]
    assert scene.say(entries(ANNOUNCED_RUNS, None)) == []


def test_a_read_waits_for_its_index(scene: Scene) -> None:
    scene.say(entries(1, OPEN))
    assert scene.say(ReadAt(3, ((70, GET_K),))) == []
    assert scene.say(entries(2, put(1, 1, b"early"))) == []
    sent = scene.say(entries(3, put(1, 2, b"late")), entries(4, None))
    [(token, status, body)] = sent[0][1].replies
    assert (token, status) == (70, ReplyStatus.OK)
    assert decode_result(body)[1][1] == b"late"


def test_a_read_sees_the_state_at_once_if_it_is_there(scene: Scene) -> None:
    scene.say(entries(1, OPEN, put(1, 1, b"v")))
    [(to, replies)] = scene.say(ReadAt(1, ((70, GET_K), (71, GET_K))))
    assert to == "frontend"
    assert [token for token, _, _ in replies.replies] == [70, 71]


def test_a_condition_goes_before_the_answer(scene: Scene) -> None:
    scene.say(entries(1, OPEN, put(1, 1, b"v")))
    [(_, replies)] = scene.say(ReadAt(1, ((70, GET_K), (71, GET_K)), b"if so: "), ReadAt(1, ((72, GET_K),)))
    [plain] = [body for token, _, body in replies.replies if token == 72]
    in_term = (ReplyStatus.IN_TERM, b"if so: " + plain)
    assert replies.replies == ((70, *in_term), (71, *in_term), (72, ReplyStatus.OK, plain))


def test_recover_makes_waiting_reads_void(scene: Scene) -> None:
    scene.say(entries(1, None), ReadAt(2, ((70, GET_K),)))
    assert scene.say(Recover()) == [standing(1)]
    assert scene.say(entries(2, None)) == []


def test_other_neighbours_new_lives_void_nothing(scene: Scene) -> None:
    scene.actor.receive("consensus", ReadAt(1, ((70, GET_K),)))
    scene.actor.on_neighbour_restarted("transport")
    assert scene.say(entries(1, None))[0][0] == "frontend"


def test_a_new_life_has_nothing_and_can_be_given_everything_again(scene: Scene) -> None:
    whole = entries(1, OPEN, put(1, 1, b"a"), put(1, 2, b"b"))
    scene.say(whole)
    successor = Scene()
    assert successor.say(Recover()) == [standing(0)]
    successor.say(whole)
    assert successor.actor.machine.state_hash == scene.actor.machine.state_hash


def test_status(scene: Scene) -> None:
    scene.say(entries(1, OPEN, put(1, 1, b"v")))
    [(to, reply)] = scene.say(StatusRequest(3))
    state_hash = scene.actor.machine.state_hash
    fields = {"last_applied": 2, "revision": 1, "state_hash": state_hash, "keys": 1, "sessions": 1}
    fields |= {"loading": False, "taking_snapshot": None}
    assert (to, reply) == ("consensus", StatusReply(3, fields))


def test_many_large_reads_are_answered_in_slices_so_that_others_get_a_turn(scene: Scene) -> None:
    value = bytes(1_000_000)
    scene.say(entries(1, None, OPEN, put(2, 1, value)))
    reads = tuple((token, GET_K) for token in range(12))
    [(to, replies)] = scene.say(ReadAt(3, reads))
    assert to == "frontend" and 4 <= len(replies.replies) <= 6
    answered = [token for token, _, _ in replies.replies]
    while scene.actor.wakeup_ms is not None:
        scene.actor.wakeup_ms = None
        scene.actor.on_wakeup(0)
        scene.actor.end_batch()
        [(to, replies)] = scene.context.taken()
        answered += [token for token, _, _ in replies.replies]
    assert answered == list(range(12))
