"""Reads in the leader's term: the client asks another voter while it asks the leader, and believes only what fits."""

from __future__ import annotations

import pytest
from scripted_cluster import NOT_LEADER, UNKNOWN, A, B, C, Copy, Outcome, ok
from scripted_cluster import Script as ScriptedCluster

from zraft.client import term_check
from zraft.client.term_check import PASS_OVER_SECONDS, STATEMENT_SECONDS, WORTHWHILE_READS
from zraft.errors import Unavailable
from zraft.statemachine.codec import MAX_VALUE_BYTES
from zraft.wire import (
    Condition,
    ReplyStatus,
    RequestKind,
    Statement,
    pack_condition,
    pack_statement,
)

READ, READ_IN_TERM, TERM = RequestKind.READ, RequestKind.READ_IN_TERM, RequestKind.TERM
CLUSTER, TERM_NUMBER = 7, 5
STORES = {A: 11, B: 22, C: 33}


def entry(value: bytes) -> bytes:
    return ok((b"k", value, 1, 1, 1), 1)


def conditional(value: bytes = b"v", term: int = TERM_NUMBER, stores: tuple[int, ...] = (22, 33)) -> bytes:
    return pack_condition(Condition(CLUSTER, term, stores)) + entry(value)


def statement(endpoint: str, term: int = TERM_NUMBER, cluster: int = CLUSTER) -> bytes:
    return pack_statement(Statement(cluster, STORES[endpoint], term))


class Script(ScriptedCluster):
    def get_copy(self) -> Copy:
        """Of one read, which goes to the leader alone."""
        self.get()
        (copy,) = self.sent()
        assert (copy.endpoint, copy.kind) == (A, READ)
        return copy


class Reader(Script):
    """A client of a settled leader, A, that has read often enough and is connected to B, but not to C."""

    def __init__(self) -> None:
        super().__init__()
        for _ in range(WORTHWHILE_READS):
            self.read_plainly(b"v")
        self.sign_of_life(B)

    def read_plainly(self, value: bytes) -> None:
        outcome = self.get()
        (copy,) = self.sent()
        assert (copy.endpoint, copy.kind) == (A, READ)
        self.reply(copy, body=entry(value))
        assert outcome.value == value

    def ask(self) -> tuple[Outcome, Copy, Copy]:
        """A read that is checked: what becomes of it, what the leader gets, what the partner gets."""
        outcome = self.get()
        read, term = self.sent()
        assert (read.endpoint, read.kind) == (A, READ_IN_TERM)
        assert (term.endpoint, term.kind, term.body) == (B, TERM, b"")
        return outcome, read, term

    def answer(self, read: Copy, body: bytes) -> None:
        self.reply(read, ReplyStatus.IN_TERM, body)

    def expect_plain_copy(self, outcome: Outcome, value: bytes = b"asked again") -> None:
        """The read was not answered; the leader is asked again at once, and this time by itself."""
        assert outcome.times == 0
        (again,) = self.sent()
        assert (again.endpoint, again.kind) == (A, READ)
        self.reply(again, body=entry(value))
        assert (outcome.times, outcome.value) == (1, value)


def test_a_caller_who_reads_seldom_opens_no_second_connection() -> None:
    script = Script()
    for _ in range(WORTHWHILE_READS):
        script.reply(script.get_copy(), body=entry(b"v"))
    assert (script.sent(), script.pings) == ([], 0)
    script.reply(script.get_copy(), body=entry(b"v"))
    assert (script.sent(), script.pings) == ([], 1)


def test_who_cannot_be_reached_is_not_the_only_one_that_is_tried() -> None:
    script = Script()
    script.down.add(B)
    for _ in range(WORTHWHILE_READS + 2):
        script.reply(script.get_copy(), body=entry(b"v"))
    assert (script.sent(), script.pings) == ([], 0)
    script.sent(PASS_OVER_SECONDS)
    script.reply(script.get_copy(), body=entry(b"v"))
    assert (script.sent(), script.pings) == ([], 1)
    script.sign_of_life(C)
    script.get()
    assert [(copy.endpoint, copy.kind) for copy in script.sent()] == [(A, READ_IN_TERM), (C, TERM)]


@pytest.mark.parametrize("first", ["leader", "partner"])
def test_an_answer_counts_when_the_partner_is_in_the_same_term(first: str) -> None:
    script = Reader()
    outcome, read, term = script.ask()
    if first == "leader":
        script.answer(read, conditional(b"new"))
        assert script.sent() == []
        assert outcome.times == 0
        script.reply(term, body=statement(B))
    else:
        script.reply(term, body=statement(B))
        assert script.sent() == []
        assert outcome.times == 0
        script.answer(read, conditional(b"new"))
    assert (outcome.times, outcome.value) == (1, b"new"), "with the frame: nobody has to look at the clock for it"
    assert script.sent() == []


REFUTED = {
    "a newer term": statement(B, term=TERM_NUMBER + 1),
    "an older term": statement(B, term=TERM_NUMBER - 1),
    "another cluster": statement(B, cluster=CLUSTER + 1),
    "a data directory that is no member's": pack_statement(Statement(CLUSTER, 99, TERM_NUMBER)),
    "the leader's own": statement(A),
    "nothing": b"",
    "no statement": b"\xc1",
    "something else": ok(1),
}


@pytest.mark.parametrize("body", REFUTED.values(), ids=REFUTED)
@pytest.mark.parametrize("first", ["leader", "partner"])
def test_an_answer_without_such_a_statement_does_not_count(body: bytes, first: str) -> None:
    script = Reader()
    outcome, read, term = script.ask()
    if first == "leader":
        script.answer(read, conditional(b"stale"))
        script.reply(term, body=body)
    else:
        script.reply(term, body=body)
        script.answer(read, conditional(b"stale"))
    script.expect_plain_copy(outcome)


def test_who_was_of_no_use_is_passed_over_for_a_while() -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.answer(read, conditional())
    script.reply(term, body=statement(B, term=TERM_NUMBER + 1))
    script.expect_plain_copy(outcome)
    script.read_plainly(b"v")  # and C is asked for a sign of life
    script.sign_of_life(C)
    script.get()
    assert [(copy.endpoint, copy.kind) for copy in script.sent()] == [(A, READ_IN_TERM), (C, TERM)]


def test_a_late_statement_is_not_waited_for() -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.answer(read, conditional(b"stale"))
    assert script.sent(STATEMENT_SECONDS / 2) == []
    (again,) = script.sent(STATEMENT_SECONDS)
    assert (again.endpoint, again.kind, outcome.times) == (A, READ, 0)
    script.reply(term, body=statement(B))
    assert (script.sent(), outcome.times) == ([], 0)
    script.reply(again, body=entry(b"new"))
    assert (outcome.times, outcome.value) == (1, b"new")


def test_a_statement_counts_for_its_own_check_alone() -> None:
    """Trap 14: one that was asked for before the read began proves nothing for it."""
    script = Reader()
    outcome, read, early = script.ask()
    script.answer(read, conditional())
    script.reply(early, body=statement(B))
    script.sent()
    assert outcome.times == 1
    outcome, read, _ = script.ask()
    script.answer(read, conditional(b"stale"))
    script.reply(early, body=statement(B))
    assert (script.sent(), outcome.times) == ([], 0)


def test_a_statement_counts_from_the_partner_alone() -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.answer(read, conditional(b"stale"))
    script.reply(term._replace(endpoint=C), body=statement(C))
    assert (script.sent(), outcome.times) == ([], 0)


def test_a_partner_without_connection_costs_one_more_copy() -> None:
    script = Reader()
    script.down.add(B)
    outcome = script.get()
    (read,) = script.sent()
    assert (read.endpoint, read.kind) == (A, READ_IN_TERM)
    script.answer(read, conditional(b"stale"))
    script.expect_plain_copy(outcome)


def test_a_leader_that_asks_by_itself_is_left_to_do_so() -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.reply(term, body=statement(B))
    script.reply(read, body=entry(b"v"))
    assert (outcome.times, outcome.value) == (1, b"v")
    script.read_plainly(b"v")
    script.sent(PASS_OVER_SECONDS)
    script.ask()


def test_a_node_of_an_older_version_is_asked_as_it_understands() -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.reply(read, ReplyStatus.INVALID, b"no request of kind 11 in this version")
    script.reply(term, ReplyStatus.INVALID, b"no request of kind 12 in this version")
    script.expect_plain_copy(outcome)
    script.read_plainly(b"v")


@pytest.mark.parametrize("body", [b"", b"\x00\x05ab", b"\xff\xff", b"\x00\x01\xc1", entry(b"v"), b"\x00\x02\x91\x01"])
def test_an_answer_without_a_condition_does_not_count(body: bytes) -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.reply(term, body=statement(B))
    script.answer(read, body)
    script.expect_plain_copy(outcome)


@pytest.mark.parametrize("status", [NOT_LEADER, UNKNOWN])
def test_refusals_are_what_they_are_for_every_read(status: ReplyStatus) -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.reply(term, body=statement(B))
    script.reply(read, status, C.encode() if status is NOT_LEADER else b"")
    copy = script.next_copy()
    assert (copy.endpoint, copy.kind) == (C if status is NOT_LEADER else A, READ)
    script.reply(copy, body=entry(b"v"))
    assert (outcome.times, outcome.value) == (1, b"v")


def test_only_reads_without_company_are_checked() -> None:
    script = Reader().with_session()
    first, second = script.set(), script.get()
    write_and_read = script.sent()
    assert [copy.kind for copy in write_and_read] == [READ, RequestKind.WRITE]
    script.get()
    (read,) = script.sent()
    assert read.kind == READ, "the leader owes answers"
    script.reply(read, body=entry(b"v"))
    script.reply_all([(write_and_read[0], 0, entry(b"v")), (write_and_read[1], 0, ok(2))])
    assert (first.times, second.times) == (1, 1)
    script.ask()


def test_reads_that_begin_together_share_a_check() -> None:
    script = Reader()
    outcomes = [script.get() for _ in range(3)]
    *reads, term = script.sent()
    assert [copy.kind for copy in (*reads, term)] == [READ_IN_TERM] * 3 + [TERM]
    script.reply_all([(copy, ReplyStatus.IN_TERM, conditional(b"%d" % n)) for n, copy in enumerate(reads)])
    script.reply(term, body=statement(B))
    script.sent()
    assert [(outcome.times, outcome.value) for outcome in outcomes] == [(1, b"0"), (1, b"1"), (1, b"2")]
    for _ in range(term_check.MAX_CHECKED_READS + 1):
        script.get()
    assert {copy.kind for copy in script.sent()} == {READ}


def test_a_deadline_ends_what_waits_for_a_statement() -> None:
    script = Reader()
    outcome = script.get(timeout=STATEMENT_SECONDS / 2)
    read, term = script.sent()
    script.answer(read, conditional(b"stale"))
    script.sent(STATEMENT_SECONDS / 2)
    assert outcome.times == 1
    assert isinstance(outcome.error, Unavailable)
    script.reply(term, body=statement(B))
    assert script.sent(1.0) == []
    assert outcome.times == 1


def test_a_client_that_is_closed_gives_up_what_waits_for_a_statement() -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.answer(read, conditional(b"stale"))
    script.core.close(script.now + 1.0, lambda: None)
    assert isinstance(outcome.error, Unavailable)
    script.reply(term, body=statement(B))
    assert script.sent() == []
    assert outcome.times == 1


def test_a_leader_that_dies_before_it_answers_is_followed_as_ever() -> None:
    script = Reader()
    outcome, _, term = script.ask()
    script.reply(term, body=statement(B))
    copies = script.sent(0.6)
    assert [(copy.endpoint, copy.kind) for copy in copies] == [(B, READ)]
    script.reply(copies[0], body=entry(b"v"))
    assert (outcome.times, outcome.value) == (1, b"v")


def test_a_large_value_comes_whole() -> None:
    script = Reader()
    outcome, read, term = script.ask()
    script.reply(term, body=statement(B))
    script.answer(read, conditional(bytes(MAX_VALUE_BYTES)))
    script.sent()
    assert outcome.value == bytes(MAX_VALUE_BYTES)
