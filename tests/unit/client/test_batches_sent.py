"""Writes that wait together go as one request: how they are grouped, and what an answer to it means for each."""

from __future__ import annotations

import pytest
from batches import Item, single_id
from scripted_cluster import BUSY, NOT_LEADER, UNKNOWN, A, B, Outcome, Script, ok

from zraft.client import requests
from zraft.client.outbox import MAX_BATCH_BYTES, split_request_id
from zraft.errors import InvalidRequest, OutcomeUnknown
from zraft.statemachine.codec import (
    MAX_BATCH_COMMANDS,
    MAX_VALUE_BYTES,
    Op,
    ResultCode,
    decode_command,
    encode_result,
)
from zraft.wire import ReplyStatus, RequestKind, pack_replies, unpack_requests


class Batches(Script):
    """A script whose requests are looked at as they go over the wire. Of A, which leads, unless said otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.with_session()

    def items(self, endpoint: str | None = A) -> list[Item]:
        """What is sent now; all of it must be to there. None: to anywhere."""
        self.core.tick(self.now)
        sent = []
        for outgoing in self.core.frames_to_send(self.now):
            found = unpack_requests(outgoing.frame)
            if found[0][1] == RequestKind.ENDPOINTS:
                self._answer_endpoints(outgoing.endpoint, found[0][0])
                continue
            assert endpoint in (None, outgoing.endpoint)
            sent += found
        return sent

    def item(self, endpoint: str = A) -> Item:
        (item,) = self.items(endpoint)
        return item

    def answer(self, item: Item, status: int, body: bytes = b"", endpoint: str = A) -> None:
        frame = pack_replies(self.life[endpoint], [(item[0], int(status), body)])
        self.core.on_frame(endpoint, frame, self.now)


def numbers(item: Item) -> list[int]:
    _, first, _, op, arguments = decode_command(item[2])
    return list(range(first, first + (len(arguments[0]) if op == Op.BATCH else 1)))


def values(outcomes: list[Outcome]) -> list[object]:
    assert all(outcome.times == 1 and outcome.error is None for outcome in outcomes)
    return [outcome.value for outcome in outcomes]


def three(script: Script) -> list[Outcome]:
    wanted = [requests.set_key(b"a", b"1"), requests.delete_key(b"b"), requests.compare_and_set(b"c", None, b"3")]
    return [script.submit(request) for request in wanted]


OF_THREE = ok([ok(7), ok(False, 7), ok(True, 8)])


def test_writes_that_wait_together_are_one_command_and_each_gets_its_answer() -> None:
    script = Batches()
    outcomes = three(script)
    item = script.item()
    assert split_request_id(item[0])[1] == 3
    session, first, acknowledged, op, (commands,) = decode_command(item[2])
    assert (session, first, acknowledged, op) == (1000, 2, 1, Op.BATCH)
    assert commands == ((Op.SET, b"a", b"1"), (Op.DELETE, b"b"), (Op.CAS, b"c", None, b"3"))
    script.answer(item, ReplyStatus.OK, OF_THREE)
    assert values(outcomes) == [7, False, True]
    script.set()
    assert decode_command(script.item()[2])[1:4] == (5, 4, Op.SET), "one alone is no batch"


def test_reads_are_no_part_of_it() -> None:
    script = Batches()
    script.set(), script.get(), script.set()
    read, write = script.items()
    assert (read[1], write[1]) == (RequestKind.READ, RequestKind.WRITE)
    assert split_request_id(read[0])[1] == 1 and numbers(write) == [2, 3]


@pytest.mark.parametrize("status", [BUSY, UNKNOWN, NOT_LEADER])
def test_a_batch_that_was_not_taken_is_sent_again_with_the_same_numbers(status: ReplyStatus) -> None:
    script = Batches()
    outcomes = three(script)
    item = script.item()
    there = B if status == NOT_LEADER else A
    script.answer(item, status, B.encode() if status == NOT_LEADER else b"")
    script.now += 0.2
    again = script.item(there)
    assert again[0] != item[0] and numbers(again) == numbers(item) == [2, 3, 4]
    assert decode_command(again[2]) == decode_command(item[2])
    script.answer(again, ReplyStatus.OK, OF_THREE, there)
    assert values(outcomes) == [7, False, True]


def test_a_refused_batch_is_known_not_to_be_applied_and_a_doubtful_one_is_not() -> None:
    for status, error in ((NOT_LEADER, "surely not applied"), (UNKNOWN, "may have been applied")):
        script = Batches()
        outcomes = three(script)
        script.answer(script.item(), status)
        script.core.close(script.now, lambda: None)
        assert all(error in str(outcome.error) for outcome in outcomes), status


def test_a_batch_of_a_session_that_ended_goes_into_a_new_one() -> None:
    script = Batches()
    outcomes = three(script)
    script.answer(script.item(), ReplyStatus.OK, encode_result(ResultCode.SESSION_UNKNOWN))
    opening = script.item()
    assert decode_command(opening[2])[3] == Op.OPEN_SESSION
    script.answer(opening, ReplyStatus.OK, ok(1001))
    again = script.item()
    assert decode_command(again[2])[:4] == (1001, 1, 0, Op.BATCH)
    script.answer(again, ReplyStatus.OK, OF_THREE)
    assert values(outcomes) == [7, False, True]


def test_a_wrong_command_among_others_fails_alone() -> None:
    script = Batches()
    first, second, third = three(script)
    bad = encode_result(ResultCode.BAD_COMMAND, "no such thing")
    script.answer(script.item(), ReplyStatus.OK, ok([ok(7), bad, ok(True, 8)]))
    assert values([first, third]) == [7, True]
    assert isinstance(second.error, InvalidRequest) and "no such thing" in str(second.error)


@pytest.mark.parametrize(
    "body", [b"", ok(), ok(7), ok([ok(7)]), ok([ok(7), ok(False, 7), ok(True, 8), ok(9)]), ok([1, 2, 3])]
)
def test_an_answer_that_is_none_leaves_all_of_them_unknown(body: bytes) -> None:
    script = Batches()
    outcomes = three(script)
    script.answer(script.item(), ReplyStatus.OK, body)
    assert all(isinstance(outcome.error, OutcomeUnknown) and outcome.times == 1 for outcome in outcomes)


def test_an_answer_to_more_than_was_asked_harms_nobody() -> None:
    script = Batches()
    outcomes = three(script)
    item = script.item()
    script.answer((item[0] + 5, 0, b""), NOT_LEADER)  # as if it had been eight
    script.answer((single_id(1 << 40), 0, b""), ReplyStatus.OK, ok(1))
    script.now += 0.2
    again = script.items(None)
    assert len(again) <= 1 and all(outcome.error is None for outcome in outcomes)


def test_batches_are_bounded_in_number_and_in_bytes() -> None:
    script = Batches()
    for _ in range(MAX_BATCH_COMMANDS + 3):
        script.set()
    assert [len(numbers(item)) for item in script.items()] == [MAX_BATCH_COMMANDS, 3]
    script = Batches()
    for _ in range(5):
        script.set(bytes(MAX_BATCH_BYTES // 2 - 1000))
    script.set(bytes(MAX_VALUE_BYTES))
    script.set(b"small")
    items = script.items()
    assert [len(numbers(item)) for item in items] == [2, 2, 1, 1, 1]
    assert [number for item in items for number in numbers(item)] == [2, 3, 4, 5, 6, 7, 8]


def test_only_numbers_that_follow_one_another_go_together() -> None:
    script = Batches()
    outcomes = [script.set() for _ in range(5)]
    item = script.item()
    script.answer(item, BUSY)
    assert outcomes[2].call is not None
    script.core.cancel(outcomes[2].call)
    script.now += 0.2
    again = script.items()
    assert [numbers(one) for one in again] == [[2, 3], [5, 6]]


def test_a_late_answer_to_a_batch_that_was_sent_again_counts() -> None:
    script = Batches()
    outcomes = three(script)
    item = script.item()
    script.sign_of_life(A)
    for _ in range(12):  # alive, and does not answer: repeated after a second
        script.now += 0.1
        script.items(None)
        script.sign_of_life(A)
    script.answer(item, ReplyStatus.OK, OF_THREE)
    assert values(outcomes) == [7, False, True]


def test_a_batch_that_zeromq_refuses_was_never_sent() -> None:
    script = Batches()
    outcomes = three(script)
    (outgoing,) = script.core.frames_to_send(script.now)
    script.core.on_send_failed(outgoing, script.now)
    script.core.close(script.now, lambda: None)
    assert all("surely not applied" in str(outcome.error) for outcome in outcomes)
