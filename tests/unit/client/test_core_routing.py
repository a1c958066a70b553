"""Finding the leader and keeping to it: redirects, waiting, links that are down or silent, lives that end."""

from __future__ import annotations

import pytest
from scripted_cluster import BUSY, NOT_LEADER, UNKNOWN, A, B, C, Script, ok

from zraft.client import requests
from zraft.client.core import DEAD_AFTER_PING_SECONDS, PING_AFTER_SECONDS, REPEAT_AFTER_SECONDS
from zraft.client.link import REFUSED_GRACE_SECONDS
from zraft.client.route import BUSY_SECONDS, DEAD_SECONDS, MAX_HOLD_SECONDS, MIN_HOLD_SECONDS
from zraft.errors import Unavailable
from zraft.wire import RequestKind

D = "tcp://127.0.0.1:7199"


def test_a_redirect_is_followed_at_once_and_remembered() -> None:
    script = Script().with_session()
    outcome = script.set()
    (first,) = script.sent()
    script.reply(first, NOT_LEADER, B.encode())
    (second,) = script.sent()
    assert (second.endpoint, second.body) == (B, first.body)
    script.reply(second, body=ok(2))
    assert outcome.value == 2
    script.get()
    assert script.sent()[0].endpoint == B


def test_a_redirect_may_name_an_endpoint_that_was_not_known() -> None:
    script = Script()
    script.get()
    script.reply(script.sent()[0], NOT_LEADER, D.encode())
    assert script.sent()[0].endpoint == D
    assert script.core.endpoints == [A, B, C, D]


def test_a_redirect_to_what_is_no_endpoint_is_none() -> None:
    for hint in (b"n2", b"ipc:///tmp/x", b"tcp://*:7101", b"tcp://host:99999", b"\xff\xfe"):
        script = Script()
        script.get()
        script.reply(script.sent()[0], NOT_LEADER, hint)
        assert script.sent()[0].endpoint == B
        assert script.core.endpoints == [A, B, C]


def test_a_whole_window_refused_moves_once_and_in_order() -> None:
    script = Script().with_session()
    for _ in range(20):
        script.set()
    copies = script.sent()
    script.reply_all([(copy, NOT_LEADER, C.encode()) for copy in copies])
    again = script.sent()
    assert {copy.endpoint for copy in again} == {C}
    assert [copy.body for copy in again] == [copy.body for copy in copies]


def test_without_a_leader_every_node_is_asked_once_and_then_again_after_a_moment() -> None:
    script = Script()
    outcome = script.get()
    for _ in range(3):
        for endpoint in (A, B, C):
            (copy,) = script.sent()
            assert copy.endpoint == endpoint
            script.reply(copy, NOT_LEADER)
        assert script.sent(after=MIN_HOLD_SECONDS * 0.99) == []
        script.now += MAX_HOLD_SECONDS - MIN_HOLD_SECONDS * 0.99
    (copy,) = script.sent()
    script.reply(copy, body=ok(None, 1))
    assert outcome.times == 1


def test_nodes_that_name_each_other_are_not_asked_in_a_tight_loop() -> None:
    script = Script()
    script.get()
    asked = 0
    until = script.now + 1.0
    while script.now < until:
        for copy in script.sent(after=0.005):
            asked += 1
            script.reply(copy, NOT_LEADER, (B if copy.endpoint == A else A).encode())
    assert 20 <= asked <= 2 * 1.0 / MIN_HOLD_SECONDS


def test_a_leadership_that_returns_is_followed_at_once() -> None:
    script = Script().with_session()
    for here, there in ((A, B), (B, A), (A, B)):
        script.get()
        (copy,) = script.sent()
        assert copy.endpoint == here
        script.reply(copy, NOT_LEADER, there.encode())
        (copy,) = script.sent()  # an answer ended the search: what was tried in it counts no longer
        script.reply(copy, body=ok(None, 1))


def test_busy_waits_and_asks_the_same_node() -> None:
    for status in (BUSY, UNKNOWN):
        script = Script().with_session()
        script.set()
        (copy,) = script.sent()
        script.reply(copy, status)
        assert script.sent(after=MIN_HOLD_SECONDS * 0.99) == []
        (again,) = script.sent(after=MAX_HOLD_SECONDS)
        assert (again.endpoint, again.body) == (A, copy.body)


def test_a_node_that_is_busy_for_ever_does_not_keep_a_client_from_the_others() -> None:
    """Nor with the help of one that says that it leads. Whoever is busy for a moment is not left."""
    for status in (BUSY, UNKNOWN):
        for b_says in (b"", A.encode()):
            script = Script()
            outcome = script.get(timeout=10.0)
            start = script.now
            while not outcome.times:
                copy = script.next_copy()
                assert (copy.endpoint == A) >= (script.now < start + BUSY_SECONDS)
                assert script.now < start + BUSY_SECONDS + 4 * MAX_HOLD_SECONDS
                if copy.endpoint == A:
                    script.reply(copy, status)
                elif copy.endpoint == B:
                    script.reply(copy, NOT_LEADER, b_says)
                else:
                    script.reply(copy, body=ok(None, 1))


def test_a_leader_that_is_busy_for_long_is_left_and_found_again() -> None:
    script = Script().with_session()
    outcome = script.set(timeout=10.0)
    start = script.now
    asked = 0
    while not outcome.times:
        copy = script.next_copy()
        asked += 1
        if copy.endpoint != A:
            script.reply(copy, NOT_LEADER, A.encode())
        elif script.now < start + 3 * BUSY_SECONDS:
            script.reply(copy, BUSY)
        else:
            script.reply(copy, body=ok(2))
    assert outcome.value == 2 and script.now < start + 3 * BUSY_SECONDS + 2 * MAX_HOLD_SECONDS
    assert asked < 3 * 3 * BUSY_SECONDS / MIN_HOLD_SECONDS


def test_a_late_refusal_of_another_node_does_not_change_the_target() -> None:
    script = Script().with_session()
    script.get()
    script.get()
    first, second = script.sent()
    script.reply(first, NOT_LEADER, B.encode())
    (moved,) = script.sent()
    script.reply(moved, body=ok(None, 1))
    script.reply(second, NOT_LEADER, C.encode())  # older news than B's answer
    assert [copy.endpoint for copy in script.sent()] == [B]


def test_a_first_connection_that_is_slow_is_overtaken_by_the_next_endpoint() -> None:
    script = Script()
    script.down = {A}
    script.get()
    assert script.sent(after=REFUSED_GRACE_SECONDS * 0.9) == []
    assert [copy.endpoint for copy in script.sent(after=REFUSED_GRACE_SECONDS * 0.2)] == [B]


def test_the_first_endpoint_that_connects_is_asked() -> None:
    script = Script()
    script.down = {A, B, C}
    script.get()
    assert script.sent(after=REFUSED_GRACE_SECONDS * 1.5) == []
    assert set(script.core.refused_endpoints()) == {A, B}
    script.down = {B, C}
    script.core.on_writable(A, script.now)
    assert [copy.endpoint for copy in script.sent()] == [A]


def test_with_nothing_reachable_it_goes_on_trying_without_haste_until_the_deadline() -> None:
    script = Script()
    script.down = {A, B, C}
    outcome = script.set(timeout=2.0)
    attempts = 0
    turn = script._turn

    def counted() -> list:
        nonlocal attempts
        attempts += 1
        return turn()

    script._turn = counted  # type: ignore[method-assign]
    script.sent(after=1.9)
    assert 20 < attempts < 400
    assert outcome.times == 0
    script.sent(after=0.2)
    assert isinstance(outcome.error, Unavailable)
    assert "no node can be reached at " + ", ".join((A, B, C)) in str(outcome.error)
    assert script.sent(after=10.0) == []


def test_a_cluster_that_appears_late_is_found_even_if_nobody_reports_writable_sockets() -> None:
    script = Script()
    script.down = {A, B, C}
    script.get()
    script.sent(after=1.5)
    script.down = {A, C}
    assert script.next_copy(within=1.5).endpoint == B


def test_an_idle_connection_that_broke_is_left_at_once() -> None:
    script = Script().with_session()
    script.down = {A}
    script.set()
    assert [copy.endpoint for copy in script.sent()] == [B]


def test_a_full_queue_is_waited_for() -> None:
    script = Script().with_session()
    script.get()
    (copy,) = script.sent()
    script.down = {A}  # refused, but answers are owed and not late: the queue is full
    script.set()
    script.set()
    assert script.sent(after=REFUSED_GRACE_SECONDS * 0.9) == []
    script.down = set()
    script.reply(copy, body=ok(None, 1))
    assert [(copy.endpoint, copy.number) for copy in script.sent()] == [(A, 2), (A, 3)]


def test_a_silent_link_is_pinged_and_lives_if_it_answers() -> None:
    script = Script().with_session()
    script.set()
    script.sent(after=PING_AFTER_SECONDS * 0.9)
    assert script.pings == 0
    for count in range(1, 4):
        script.sent(after=PING_AFTER_SECONDS)
        assert script.pings == count
        script.sign_of_life(A)
    assert script.sent() == []


def test_a_silent_link_loses_its_calls_to_another_endpoint() -> None:
    script = Script().with_session()
    outcomes = [script.set() for _ in range(3)]
    copies = script.sent()
    assert script.sent(after=PING_AFTER_SECONDS + DEAD_AFTER_PING_SECONDS - 0.01) == []
    moved = script.sent(after=0.02)
    assert [copy.endpoint for copy in moved] == [B, B, B]
    assert [copy.body for copy in moved] == [copy.body for copy in copies]
    script.reply(moved[0], body=ok(2))
    script.reply(copies[1], body=ok(3))  # the link was only slow: its answers still count
    assert [outcome.value for outcome in outcomes] == [2, 3, None]
    script.reply(moved[1], body=ok(3))
    assert outcomes[1].times == 1


def test_a_ping_that_finds_no_connection_ends_the_wait() -> None:
    script = Script().with_session()
    script.set()
    script.sent()
    script.down = {A}
    assert [copy.endpoint for copy in script.sent(after=PING_AFTER_SECONDS + 0.01)] == [B]


def test_a_dead_link_is_passed_over_until_it_gives_a_sign_of_life() -> None:
    script = Script().with_session()
    script.set()
    script.sent()
    script.down = {A}
    (copy,) = script.sent(after=PING_AFTER_SECONDS + 0.01)
    script.reply(copy, NOT_LEADER, A.encode())  # B has not noticed yet
    (copy,) = script.sent()
    assert copy.endpoint == C
    script.reply(copy, NOT_LEADER, A.encode())
    (copy,) = script.sent(after=MAX_HOLD_SECONDS)
    assert copy.endpoint != A
    script.down = set()
    script.core.on_writable(A, script.now)
    script.reply(copy, NOT_LEADER, A.encode())
    assert [copy.endpoint for copy in script.sent()] == [A]


def test_a_dead_link_is_tried_again_after_a_while() -> None:
    script = Script().with_session()
    script.set()
    script.sent()
    script.down = {A}
    (copy,) = script.sent(after=PING_AFTER_SECONDS + 0.01)
    script.down = set()
    script.sign_of_life(B)
    script.now += DEAD_SECONDS
    script.reply(copy, NOT_LEADER, A.encode())
    assert script.next_copy().endpoint == A


def test_nodes_that_name_each_other_or_one_that_leads_no_more_do_not_keep_a_client_from_the_others() -> None:
    """A removed node, and a learner that follows it still, beside two members that nobody names (seed 148)."""
    for b_says in (b"", A.encode()):
        script = Script(A, B, C, D)
        outcome = script.get()
        asked: list[str] = []
        while D not in asked and len(asked) < 20:
            copy = script.next_copy()
            asked.append(copy.endpoint)
            says = {A: B.encode(), B: b_says}.get(copy.endpoint, b"")
            script.reply(copy, NOT_LEADER, says) if copy.endpoint != D else script.reply(copy, body=ok(None, 1))
        assert {A, B, C, D} == set(asked) and len(asked) <= 6
        assert outcome.times == 1


def test_silence_before_the_request_does_not_count() -> None:
    script = Script().with_session()
    gone = script.set(timeout=0.15)
    script.sent(after=0.2)  # pinged, and then the call was over
    assert gone.times == 1 and script.pings == 1
    script.now += 60.0
    script.set()
    assert len(script.sent()) == 1
    assert script.sent(after=PING_AFTER_SECONDS * 0.9) == []
    assert script.pings == 1


def test_a_new_life_of_the_frontend_gets_the_requests_of_the_old_one_again() -> None:
    script = Script().with_session()
    outcomes = [script.set() for _ in range(3)]
    copies = script.sent()
    script.life[A] += 1
    script.reply(copies[1], body=ok(3))  # taken from the socket by the new life
    again = script.sent()
    assert [copy.body for copy in again] == [copies[0].body, copies[2].body]
    assert {copy.endpoint for copy in again} == {A}
    script.sign_of_life(A)
    assert script.sent() == []
    script.reply_all([(copy, 0, ok(copy.number)) for copy in again])
    assert [outcome.value for outcome in outcomes] == [2, 3, 4]


def test_the_first_life_heard_of_is_no_new_one() -> None:
    script = Script()
    script.get()
    script.get()
    first, _ = script.sent()
    script.reply(first, body=ok(None, 1))
    assert script.sent() == []


def test_a_lost_request_on_a_living_link_is_sent_again_ever_less_often() -> None:
    script = Script().with_session()
    script.set(timeout=60.0)
    (copy,) = script.sent()
    times = []
    start = script.now
    while script.now < start + 20.0:
        for again in script.sent(after=0.05):
            assert again.body == copy.body
            times.append(script.now - start)
        for endpoint in (A, B, C):
            script.sign_of_life(endpoint)
    waits = [later - earlier for earlier, later in zip([0.0, *times], times, strict=False)]
    assert [round(wait / REPEAT_AFTER_SECONDS) for wait in waits] == [1, 2, 4, 8]


@pytest.mark.parametrize("refusals", [9, 1200])
def test_refusals_do_not_make_the_wait_for_a_lost_request_longer(refusals: int) -> None:
    """Nobody leads for a while; then the request to the one who does is lost."""
    script = Script()
    outcome = script.get(timeout=120.0)
    for _ in range(refusals):
        script.reply(script.next_copy(), NOT_LEADER)
    lost = script.next_copy()
    start = script.now
    while not (copies := script.sent(after=0.05)):
        assert script.now < start + 1.5 * REPEAT_AFTER_SECONDS
        script.sign_of_life(lost.endpoint)
    script.reply(copies[0], body=ok(None, 1))
    assert outcome.error is None and outcome.times == 1


def test_nor_do_copies_that_were_lost_with_their_link() -> None:
    script = Script()
    outcome = script.get(timeout=60.0)
    for _ in range(6):
        script.next_copy()  # all nodes are silent
    lost = script.next_copy()
    start = script.now
    while not (copies := script.sent(after=0.05)):
        assert script.now < start + 1.5 * REPEAT_AFTER_SECONDS
        script.sign_of_life(lost.endpoint)
    script.reply(copies[0], body=ok(None, 1))
    assert outcome.error is None and outcome.times == 1


def test_a_lost_request_also_tries_another_node() -> None:
    script = Script().with_session()
    script.set()
    script.sent()
    endpoints = set()
    for _ in range(70):
        endpoints |= {copy.endpoint for copy in script.sent(after=0.05)}
        for endpoint in (A, B, C):
            script.sign_of_life(endpoint)
    assert endpoints == {B, C}


def test_a_frame_that_is_no_answer_is_ignored() -> None:
    script = Script().with_session()
    outcome = script.set()
    (copy,) = script.sent()
    for frame in (b"", b"garbage", b"\x93\x02\x01\x90", b"\x93\x01\x01\x91\x93\xa1x\x00\xc4\x00", b"\xc1" * 100):
        script.core.on_frame(A, frame, script.now)
    script.reply(copy._replace(id=copy.id + (100 << 10)), body=ok(9))  # an id that was not given out
    assert outcome.times == 0
    script.reply(copy, body=ok(2))
    assert outcome.value == 2


def test_status_goes_to_the_endpoint_named_and_nowhere_else() -> None:
    script = Script().with_session()
    script.down = {C}
    outcomes = [script.submit(requests.status(), timeout=1.0, endpoint=endpoint) for endpoint in (A, B, C)]
    copies = script.sent()
    script.sign_of_life(B)
    assert [(copy.endpoint, copy.kind) for copy in copies] == [(A, RequestKind.STATUS), (B, RequestKind.STATUS)]
    script.reply(copies[0], body=b'{"node": "n1"}')
    assert script.sent(after=1.1) == []  # B is silent, C has no connection
    assert outcomes[0].value == {"node": "n1"}
    assert isinstance(outcomes[1].error, Unavailable)
    assert isinstance(outcomes[2].error, Unavailable)
    assert str(outcomes[1].error) == f"status: {B} does not answer"
    assert str(outcomes[2].error) == f"status: {C} cannot be reached"


def test_a_status_asked_of_a_life_that_ended_is_asked_again_there() -> None:
    script = Script().with_session()
    script.submit(requests.status(), endpoint=A)
    (copy,) = script.sent()
    script.life[A] += 1
    script.sign_of_life(A)
    assert [(again.endpoint, again.kind) for again in script.sent()] == [(A, copy.kind)]


def test_a_pinned_call_goes_out_once_its_connection_stands() -> None:
    script = Script().with_session()
    script.down = {B}
    script.submit(requests.status(), endpoint=B)
    assert script.sent() == []
    script.down = set()
    script.core.on_writable(B, script.now)
    assert [copy.endpoint for copy in script.sent()] == [B]


def test_a_call_for_one_node_that_went_away_is_not_tried_without_pause() -> None:
    """The only endpoint there is: the search for another one comes back to it at once, and must not undo the pause."""
    script = Script(A)
    script.submit(requests.status(), endpoint=A)
    script.reply(script.sent()[0], body=b"{}")
    outcome = script.submit(requests.status(), timeout=1.0, endpoint=A)
    core, now, tries = script.core, script.now, 0
    while outcome.error is None and tries < 1000:
        core.tick(now)
        for outgoing in core.frames_to_send(now):
            tries += 1
            core.on_send_failed(outgoing, now)
            if tries == 1000:
                break
        now = core.next_wakeup(now) or now
    assert isinstance(outcome.error, Unavailable)
    assert 1 < tries <= 2 + 1.0 / REFUSED_GRACE_SECONDS
