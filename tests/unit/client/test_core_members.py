"""A client follows the members: whom it asks for their endpoints and when, whom it forgets, whom it tries last."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest
from scripted_cluster import NOT_LEADER, A, B, C, Copy, Script, ok

from zraft.client import requests
from zraft.client.core import DEAD_AFTER_PING_SECONDS, PING_AFTER_SECONDS
from zraft.client.discovery import ANSWER_SECONDS, ASK_AGAIN_SECONDS, ASK_EVERY_SECONDS, ASK_IN_SEARCH_SECONDS
from zraft.client.link import REFUSED_GRACE_SECONDS
from zraft.client.route import LAST_RESORT_SECONDS, MAX_HOLD_SECONDS, MAX_LINKS
from zraft.errors import Unavailable
from zraft.wire import ReplyStatus, RequestKind

D, E, F = (f"tcp://127.0.0.1:{port}" for port in (7104, 7105, 7106))
OLD, NEW = [A, B, C], [D, E, F]


def read_from(script: Script, endpoint: str) -> None:
    """A read that finds its way to `endpoint`, where the leader is; nobody else answers anything but where that is."""
    outcome = script.get()
    for _ in range(10):
        copy = script.next_copy()
        if copy.endpoint == endpoint:
            script.reply(copy, body=ok(None, 1))
            script.sent()
            assert outcome.times == 1
            return
        script.reply(copy, NOT_LEADER, endpoint.encode())
    raise AssertionError("it was not found")


def learnt(*members: str, endpoints: tuple[str, ...] = ()) -> Script:
    """A client that knows these members, from the first of them."""
    script = Script(*endpoints)
    script.members[members[0]] = list(members)
    read_from(script, members[0])
    script.sent()
    assert script.core.endpoints == list(dict.fromkeys([*(endpoints or (A, B, C)), *members]))
    return script


def test_nothing_is_asked_before_there_is_something_to_do() -> None:
    script = Script()
    script.sent(after=60.0)
    assert script.asked == [] and script.core.next_wakeup(script.now) is None


def test_it_asks_whom_it_reaches_first_and_who_then_leads() -> None:
    script = Script()
    read_from(script, B)
    assert script.asked == [A, B]


def test_it_asks_once_in_a_while_who_leads_and_after_a_change_of_leaders_at_once() -> None:
    script = learnt(A, B, C)
    assert script.asked == [A]
    for _ in range(4):
        read_from(script, A)
        script.sent(after=ASK_EVERY_SECONDS / 4 + 0.001)
    assert script.asked == [A, A]
    read_from(script, B)
    assert script.asked == [A, A, B]


def test_idle_it_asks_all_members_in_turn() -> None:
    """One that was removed would go on telling of the members of its time."""
    script = learnt(A, B, C)
    script.members |= {B: OLD, C: OLD}
    script.sent(after=6 * ASK_EVERY_SECONDS + 0.5)
    assert script.asked == [A, B, C, A, B, C, A]


def test_a_node_that_knows_of_no_members_yet_is_asked_again_soon() -> None:
    script = Script(D)
    read_from(script, D)
    assert script.asked == [D] and script.core.endpoints == [D]
    script.members[D] = [*OLD, D]
    script.sent(after=ANSWER_SECONDS + ASK_AGAIN_SECONDS)
    assert script.asked == [D, D] and script.core.endpoints == [D, *OLD]


def test_who_leads_is_believed_that_others_are_no_members_any_more() -> None:
    script = learnt(*NEW)
    assert set(script.dropped) == set(OLD)
    script.get()
    asked = []
    for _ in range(6):
        copy = script.next_copy()
        asked.append(copy.endpoint)
        script.reply(copy, NOT_LEADER)
    assert asked == [D, E, F, D, E, F], "the old ones are not asked while the new ones live"


def test_links_that_are_not_needed_are_dropped_once() -> None:
    script = learnt(A, B, C)
    script.members[A] = [A, B, D]
    script.get()
    script.reply(script.next_copy(), body=ok(None, 1))
    script.sent(after=ASK_EVERY_SECONDS + 0.01)
    script.sent()
    assert script.dropped == [C]
    assert script.core.endpoints == [A, B, C, D], "what the user gave is not forgotten"
    script.members[A] = [A, B]
    script.get()
    script.reply(script.next_copy(), body=ok(None, 1))
    script.sent(after=ASK_EVERY_SECONDS + 0.01)
    script.sent()
    assert script.core.endpoints == [A, B, C] and script.dropped.count(D) == 1


def test_others_than_who_leads_only_add() -> None:
    """A node that was removed, or is cut off, tells of the members of its time."""
    script = learnt(*NEW)
    script.members |= {E: OLD, F: OLD}
    script.dropped.clear()
    script.sent(after=2 * ASK_EVERY_SECONDS + 0.1)
    assert script.asked[-2:] == [E, F]
    assert script.dropped == []
    script.get()
    copy = script.next_copy()
    assert copy.endpoint == D
    script.reply(copy, NOT_LEADER)
    assert script.next_copy().endpoint == E


def test_an_answer_that_was_overtaken_is_old_news() -> None:
    script = learnt(*OLD)
    script.held = []
    read_from(script, B)
    read_from(script, C)
    (first, second) = script.held
    script.members = {B: [A, B], C: [C, D]}
    script.answer_endpoints(*second)
    script.answer_endpoints(*first)
    script.sent()
    assert script.dropped == [A], "B owed an answer at that time"
    assert script.core.endpoints == [*OLD, D]


def test_an_answer_that_takes_longer_than_a_round_among_the_others_still_tells_of_members() -> None:
    """All that the client knows are removed; the one that knows who took their place is far away."""
    script = learnt(A, B, endpoints=(A, B))
    script.members = {B: [D]}
    script.held = []
    outcome = script.get(timeout=60.0)
    late: list[tuple[float, Callable[[], None]]] = []
    end = script.now + 5.0
    while not outcome.times and script.now < end:
        for copy in script.sent(after=0.005):
            if copy.endpoint == D:
                script.reply(copy, body=ok(None, 1))
            else:
                delay = 0.5 if copy.endpoint == B else 0.0
                late.append((script.now + delay, partial(script.reply, copy, NOT_LEADER)))
        for endpoint, number in script.held:
            delay = 0.5 if endpoint == B else 0.0
            late.append((script.now + delay, partial(script.answer_endpoints, endpoint, number)))
        script.held.clear()
        due = [item for item in late if item[0] <= script.now]
        late = [item for item in late if item[0] > script.now]
        for _, answer in due:
            answer()
    assert outcome.times == 1 and outcome.error is None


def test_a_redirect_that_comes_too_late_to_be_followed_still_tells_of_a_member() -> None:
    """The way to A takes longer than a silence may last, and A alone knows the leader, but not the members."""
    script = Script(A, B)
    outcome = script.get(timeout=60.0)
    late: list[tuple[float, Copy]] = []
    end = script.now + 5.0
    while not outcome.times and script.now < end:
        for copy in script.sent(after=0.005):
            if copy.endpoint == D:
                script.reply(copy, body=ok(None, 1))
            elif copy.endpoint == B:
                script.reply(copy, NOT_LEADER)
            else:
                late.append((script.now + PING_AFTER_SECONDS + DEAD_AFTER_PING_SECONDS + 0.1, copy))
        while late and late[0][0] <= script.now:
            script.reply(late.pop(0)[1], NOT_LEADER, D.encode())
    assert outcome.times == 1 and outcome.error is None


def test_who_leads_is_not_dropped_where_the_members_know_it_by_another_address() -> None:
    """A proxy: what the members say leads nowhere from here."""
    script = Script(A)
    script.members[A] = list(NEW)
    script.down = set(NEW)
    for _ in range(3):
        script.get()
        copy = script.next_copy()
        assert copy.endpoint == A
        script.reply(copy, body=ok(None, 1))
        script.sent(after=ASK_EVERY_SECONDS)
    assert A not in script.dropped and A in script.core._route.links


def test_who_led_once_is_not_believed_after_it_said_that_it_leads_no_more() -> None:
    script = learnt(*OLD)
    read_from(script, A)
    script.members = {endpoint: [endpoint] for endpoint in OLD}
    script.get()
    for _ in range(12):
        script.reply(script.next_copy(), NOT_LEADER)
    script.sent()
    assert len(script.asked) > 1 and script.dropped == []


def test_a_link_that_owes_an_answer_is_kept_until_it_came() -> None:
    script = learnt(*OLD)
    status = script.submit(requests.status(), timeout=30.0, endpoint=B)
    (asked,) = script.sent()
    script.members[A] = [A, C]
    for _ in range(2):
        script.get()
        (copy,) = script.sent()
        script.reply(copy, body=ok(None, 1))
        for _ in range(11):
            script.sign_of_life(B)
            script.sent(after=ASK_EVERY_SECONDS / 10)
        if status.times == 0:
            assert B not in script.dropped
            script.reply(asked, body=b"{}")
            assert status.value == {}
    assert B in script.dropped


def test_a_late_word_from_a_dropped_node_is_ignored() -> None:
    script = learnt(D, E, endpoints=(D,))
    script.members[D] = [D, F]
    script.get()
    script.reply(script.next_copy(), body=ok(None, 1))
    script.sent(after=ASK_EVERY_SECONDS + 0.01)
    script.sent()
    assert script.dropped == [E]
    script.life[E] = 5
    script.sign_of_life(E)
    script.core.on_writable(E, script.now)
    assert script.core.endpoints == [D, F]


def test_a_client_outlives_every_node_that_it_was_told_of() -> None:
    """Under load and idle, one after the other, the leader too."""
    for idle in (False, True):
        script = learnt(*OLD)
        members = list(OLD)
        for old, new in zip(OLD, NEW, strict=True):
            members = [*members[1:], new]
            script.members = {endpoint: list(members) for endpoint in members}
            script.down.discard(new)
            if idle:
                script.sent(after=4 * ASK_EVERY_SECONDS)
                script.down.add(old)
            else:
                script.down.add(old)
                read_from(script, members[0])
        assert script.down == set(OLD)
        script.asked.clear()
        outcome = script.get(timeout=1.0)
        copy = script.next_copy()
        assert copy.endpoint in NEW
        script.reply(copy, body=ok(None, 1))
        assert outcome.error is None and outcome.times == 1


def test_a_client_finds_the_new_members_soon_when_all_nodes_are_replaced_at_once() -> None:
    """Those of old run on, know who took their place, and do not know who leads."""
    script = learnt(*OLD)
    script.members = {endpoint: list(NEW) for endpoint in (*OLD, *NEW)}
    script.asked.clear()
    outcome = script.get()
    start = script.now
    while not outcome.times:
        copy = script.next_copy()
        if copy.endpoint in NEW:
            script.reply(copy, body=ok(None, 1))
        else:
            script.reply(copy, NOT_LEADER)
        assert script.now < start + 2 * (MAX_HOLD_SECONDS + ASK_IN_SEARCH_SECONDS)


def test_an_idle_client_outlives_more_nodes_than_it_can_know() -> None:
    script = learnt(*OLD)
    members = list(OLD)
    for port in range(8000, 8000 + 2 * MAX_LINKS):
        members = [*members[1:], f"tcp://127.0.0.1:{port}"]
        script.members = {endpoint: list(members) for endpoint in members}
        script.down = set(script.core.endpoints) - set(members)
        script.sent(after=(MAX_LINKS + 3) * (ANSWER_SECONDS + ASK_AGAIN_SECONDS) + 4 * ASK_EVERY_SECONDS)
        assert len(script.core._route.links) <= MAX_LINKS + len(OLD)
    assert set(members) <= set(script.core.endpoints)
    script.get()
    assert script.next_copy(within=(MAX_LINKS + 3) * REFUSED_GRACE_SECONDS).endpoint in members


def test_a_redirect_is_followed_however_many_nodes_a_client_heard_of() -> None:
    script = learnt(A, B, C, *(f"tcp://10.0.0.1:{port}" for port in range(1, MAX_LINKS - 2)))
    script.get()
    script.reply(script.next_copy(), NOT_LEADER, D.encode())
    assert script.next_copy().endpoint == D


def test_given_nodes_that_are_no_members_are_asked_who_is_when_those_known_know_no_leader() -> None:
    """The client slept while all members were replaced by some that it had replaced before, and then by others."""
    G = "tcp://127.0.0.1:7107"
    for known_are_gone in (True, False):
        script = learnt(*NEW)
        script.down = {G, *(NEW if known_are_gone else ())}
        script.members = {C: [G]} if known_are_gone else {C: [G], **{endpoint: list(NEW) for endpoint in NEW}}
        outcome = script.get(timeout=60.0)
        end = script.now + 2 * LAST_RESORT_SECONDS
        script.down.discard(G)
        while not outcome.times and script.now < end:
            for copy in script.sent(after=0.001):
                if copy.endpoint == G:
                    script.reply(copy, body=ok(None, 1))
                else:
                    script.reply(copy, NOT_LEADER)
        assert outcome.times == 1 and outcome.error is None


def test_while_nobody_leads_the_members_are_asked_for_but_not_all_the_time() -> None:
    script = learnt(*OLD)
    script.asked.clear()
    script.get(timeout=60.0)
    end = script.now + 2.0
    while script.now < end:
        for copy in script.sent(after=0.001):
            script.reply(copy, NOT_LEADER)
    assert 2.0 / (ASK_IN_SEARCH_SECONDS + MAX_HOLD_SECONDS) - 1 <= len(script.asked) <= 2.0 / ASK_IN_SEARCH_SECONDS + 1
    assert set(script.asked) == set(OLD)


def test_given_endpoints_are_the_last_resort() -> None:
    script = learnt(*NEW)
    script.down = set(NEW)
    script.get()
    assert script.next_copy(within=len(NEW) * REFUSED_GRACE_SECONDS + MAX_HOLD_SECONDS).endpoint in OLD


def test_given_endpoints_are_asked_too_when_the_members_know_no_leader_for_long() -> None:
    script = learnt(*NEW)
    script.get(timeout=60.0)
    asked: dict[str, float] = {}
    start = script.now
    while script.now < start + 2 * LAST_RESORT_SECONDS:
        for copy in script.sent(after=0.001):
            asked.setdefault(copy.endpoint, script.now - start)
            script.reply(copy, NOT_LEADER)
    assert set(asked) == {*OLD, *NEW}
    assert all((asked[endpoint] >= LAST_RESORT_SECONDS * 0.99) == (endpoint in OLD) for endpoint in asked)


def test_dead_given_endpoints_do_not_slow_a_search() -> None:
    """Nobody leads for a while; the given ones are gone for good."""
    script = learnt(*NEW)
    script.down = set(OLD)
    script.get(timeout=60.0)
    end = script.now + 0.5
    asked = 0
    while script.now < end:
        for copy in script.sent(after=0.001):
            asked += 1
            script.reply(copy, NOT_LEADER)
    assert asked >= 3 * 0.5 / (MAX_HOLD_SECONDS + 0.01)
    assert script.core.refused_endpoints() == []


def test_an_unreachable_node_is_asked_in_vain_and_another_one_soon() -> None:
    script = learnt(A, B, C)
    script.down = {B}
    script.sent(after=ASK_EVERY_SECONDS + ANSWER_SECONDS + ASK_AGAIN_SECONDS + 0.01)
    assert script.asked == [A, C]


def test_with_all_nodes_gone_an_idle_client_does_next_to_nothing() -> None:
    script = learnt(A, B, C)
    script.down = {A, B, C}
    turns = 0
    turn = script._turn

    def counted() -> list:
        nonlocal turns
        turns += 1
        return turn()

    script._turn = counted  # type: ignore[method-assign]
    script.sent(after=120.0)
    assert turns < 3 * 120 / (ANSWER_SECONDS + ASK_AGAIN_SECONDS)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"{}", b"[1]", b'["ipc:///x", "n2", "tcp://*:1"]', b"[" * 100_000], ids=lambda body: body[:9]
)
def test_answers_that_are_none_change_nothing(body: bytes) -> None:
    script = Script()
    script.members_answer = (ReplyStatus.OK, body)
    read_from(script, A)
    assert script.core.endpoints == OLD and script.dropped == []


def test_a_node_of_an_older_version_does_not_know_the_question() -> None:
    script = Script()
    script.members_answer = (ReplyStatus.INVALID, b"no request of kind 10 in this version")
    read_from(script, A)
    assert script.core.endpoints == OLD
    script.sent(after=5 * ASK_EVERY_SECONDS)
    assert len(script.asked) < 40


def test_the_number_of_links_is_bounded() -> None:
    script = Script()
    script.members[A] = [f"tcp://10.0.0.1:{port}" for port in range(1, 10_000)]
    read_from(script, A)
    assert len(script.core.endpoints) <= MAX_LINKS + 3


def test_a_closed_client_asks_nothing() -> None:
    script = learnt(A, B, C)
    closed: list[bool] = []
    script.core.close(script.now + 0.1, lambda: closed.append(True))
    asked = len(script.asked)
    script.sent(after=60.0)
    script.now += 60.0
    script.sent()
    assert closed == [True] and len(script.asked) == asked
    assert script.core.next_wakeup(script.now) is None


# ---- what only one node is asked ---------------------------------------------------------------------------------


def test_a_node_that_was_asked_for_itself_is_no_member_for_that() -> None:
    """The address of a node that is to be added: nothing else goes there."""
    script = learnt(A, B, C)
    script.submit(requests.status(), timeout=0.5, endpoint=D)
    (copy,) = script.sent()
    assert (copy.endpoint, copy.kind) == (D, RequestKind.STATUS)
    script.reply(copy, body=b"{}")
    script.get()
    endpoints = []
    for _ in range(7):
        copy = script.next_copy()
        endpoints.append(copy.endpoint)
        script.reply(copy, NOT_LEADER)
    assert D not in endpoints
    assert script.core.endpoints == OLD


def test_nor_is_it_the_one_that_is_asked_when_no_other_can_be_reached() -> None:
    script = Script()
    script.down = set(OLD)
    script.submit(requests.status(), endpoint=D)
    script.get()
    script.sent()
    script.core.on_writable(D, script.now)
    assert [copy.kind for copy in script.sent(after=0.1) if copy.endpoint == D] == []


def test_a_change_of_members_goes_to_the_leader_and_is_not_repeated() -> None:
    script = Script()
    outcome = script.submit(requests.remove_member("n2"))
    (copy,) = script.sent()
    assert (copy.kind, json.loads(copy.body)) == (RequestKind.MEMBERS, {"op": "remove", "id": "n2"})
    script.reply(copy, NOT_LEADER, B.encode())
    (copy,) = script.sent()
    assert copy.endpoint == B
    script.reply(copy, body=b'{"index": 17}')
    assert outcome.value == 17

    outcome = script.submit(requests.remove_member("n2"), timeout=2.0)
    assert [copy.endpoint for copy in script.sent()] == [B]
    script.down = {B}
    assert script.sent(after=2.1) == [], "no other node is asked"
    assert "may have been applied" in str(outcome.error)

    script = Script()
    outcome = script.submit(requests.remove_member("n2"), timeout=1.0)
    script.down = set(OLD)
    script.sent(after=1.1)
    assert isinstance(outcome.error, Unavailable) and "surely not applied" in str(outcome.error)
