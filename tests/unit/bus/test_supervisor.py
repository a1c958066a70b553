"""The supervisor's policy: order of starts, new lives, limits, and the end of the node."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fake_bus import Clock, FakeContext

from zraft.bus.supervisor import DEATHS_WINDOW_MS, HAND_OVER_MS, MAX_DEATHS, STOP_HOSTS_MS, Supervisor
from zraft.messages import (
    ActorDied,
    ActorRestarted,
    ActorStarted,
    HandedOver,
    HandOver,
    HostDied,
    HostStopped,
    KillActor,
    KillRequest,
    Replies,
    SetFaults,
    StartActor,
    StatusReply,
    StatusRequest,
    StopHost,
    StopRequest,
)
from zraft.wire import ReplyStatus

ORDER = ("disk", "consensus", "frontend")
HOSTS = {"disk": "thread 1", "consensus": "thread 2", "frontend": "thread 2"}


class Scene:
    """A supervisor and what it does."""

    def __init__(self, faults: FaultyWorld | None = None) -> None:
        self.clock = Clock()
        self.context = FakeContext("supervisor", clock=self.clock)
        self.threads: list[str] = []
        self.supervisor = Supervisor(self.context, ORDER, HOSTS, lambda: {"disk": 7}, self.threads.append, faults)
        self.supervisor.on_start()

    def say(self, sender: str, message: object) -> list[tuple[str, Any]]:
        self.supervisor.receive(sender, message)
        self.supervisor.end_batch()
        return self.context.taken()

    def started(self, actor: str, incarnation: int = 1) -> list[tuple[str, object]]:
        return self.say(HOSTS[actor], ActorStarted(actor, incarnation))

    def dies(self, actor: str, *, killed: bool = False, fatal: bool = False) -> list[tuple[str, object]]:
        incarnation = self.supervisor.incarnations[actor]
        return self.say(HOSTS[actor], ActorDied(actor, incarnation, "a reason", killed, fatal))

    def bring_up(self) -> Scene:
        for actor in ORDER:
            self.started(actor)
        assert self.supervisor.up
        self.context.taken()
        return self

    def wake(self) -> list[tuple[str, object]]:
        """Time goes on to when the supervisor wants to be woken."""
        assert self.supervisor.wakeup_ms is not None
        self.clock.now_ms, self.supervisor.wakeup_ms = self.supervisor.wakeup_ms, None
        self.supervisor.on_wakeup(self.clock.now_ms)
        return self.context.taken()


# ---- starting ------------------------------------------------------------------------------------------------------


def test_actors_start_one_after_the_other() -> None:
    scene = Scene()
    assert scene.context.taken() == [
        ("thread 1", StartActor("disk", 1, {"consensus": 1, "frontend": 1, "supervisor": 1}))
    ]
    assert scene.started("disk") == [
        ("thread 2", StartActor("consensus", 1, {"disk": 1, "frontend": 1, "supervisor": 1}))
    ]
    assert scene.started("consensus") == [
        ("thread 2", StartActor("frontend", 1, {"disk": 1, "consensus": 1, "supervisor": 1}))
    ]
    assert not scene.supervisor.up
    assert scene.started("frontend") == []
    assert scene.supervisor.up


def test_that_the_supervisor_itself_was_started_starts_nobody() -> None:
    scene = Scene()
    scene.context.taken()
    assert scene.say("main", ActorStarted("supervisor", 1)) == []


def test_one_that_dies_while_it_starts_is_followed_by_the_next_in_its_second_life() -> None:
    scene = Scene()
    scene.context.taken()
    assert scene.dies("disk") == [("thread 1", StartActor("disk", 2, {"consensus": 1, "frontend": 1, "supervisor": 1}))]
    assert scene.started("disk", 2) == [
        ("thread 2", StartActor("consensus", 1, {"disk": 2, "frontend": 1, "supervisor": 1}))
    ]


def test_the_node_is_up_though_the_last_actor_died_while_it_started() -> None:
    scene = Scene()
    scene.started("disk")
    scene.started("consensus")
    scene.dies("frontend")
    scene.started("frontend", 2)
    assert scene.supervisor.up


def test_no_actor_s_first_life_begins_twice() -> None:
    scene = Scene()
    scene.started("disk")
    scene.dies("disk")
    scene.started("disk", 2)
    scene.context.taken()
    assert scene.started("consensus") == [
        ("thread 2", StartActor("frontend", 1, {"disk": 2, "consensus": 1, "supervisor": 1}))
    ]
    assert scene.started("frontend") == []


# ---- new lives -----------------------------------------------------------------------------------------------------


def test_a_death_begins_the_next_life_and_tells_everybody_else() -> None:
    scene = Scene().bring_up()
    sent = scene.dies("consensus")
    assert sent == [
        ("thread 2", StartActor("consensus", 2, {"disk": 1, "frontend": 1, "supervisor": 1})),
        ("disk", ActorRestarted("consensus", 2)),
        ("frontend", ActorRestarted("consensus", 2)),
    ]
    assert scene.context.neighbours["disk"] == 1
    sent = scene.dies("disk")
    assert sent[0] == ("thread 1", StartActor("disk", 2, {"consensus": 2, "frontend": 1, "supervisor": 1}))
    assert sent[1:] == [("consensus", ActorRestarted("disk", 2)), ("frontend", ActorRestarted("disk", 2))]
    assert scene.context.neighbours["consensus"] == 2, "it is addressed by its present life"


def test_news_of_an_older_life_s_death_mean_nothing() -> None:
    scene = Scene().bring_up()
    scene.dies("consensus")
    assert scene.say("thread 2", ActorDied("consensus", 1, "again", False, True)) == []
    assert scene.supervisor.exit_status is None


def test_too_many_deaths_within_the_window_stop_the_node() -> None:
    scene = Scene().bring_up()
    for _ in range(MAX_DEATHS):
        scene.clock.now_ms += DEATHS_WINDOW_MS // MAX_DEATHS - 1
        assert scene.dies("frontend")[0][0] == "thread 2"
    assert scene.dies("frontend") == [("thread 1", StopHost()), ("thread 2", StopHost())]
    scene.say("thread 1", HostStopped("thread 1"))
    assert scene.say("thread 2", HostStopped("thread 2")) == [("main", StopHost())]
    assert scene.supervisor.exit_status == 1
    assert "frontend died 6 times within 10 s" in scene.supervisor.exit_reason
    assert "a reason" in scene.supervisor.exit_reason


def test_deaths_over_a_longer_time_do_not() -> None:
    scene = Scene().bring_up()
    for _ in range(3 * MAX_DEATHS):
        scene.clock.now_ms += DEATHS_WINDOW_MS // MAX_DEATHS + 1
        assert isinstance(scene.dies("frontend")[0][1], StartActor)


def test_each_actor_has_a_limit_of_its_own() -> None:
    scene = Scene().bring_up()
    for _ in range(MAX_DEATHS):
        for actor in ORDER:
            assert isinstance(scene.dies(actor)[0][1], StartActor)


def test_kills_on_request_do_not_count() -> None:
    scene = Scene().bring_up()
    for _ in range(10 * MAX_DEATHS):
        assert isinstance(scene.dies("disk", killed=True)[0][1], StartActor)
    assert scene.supervisor.incarnations["disk"] == 1 + 10 * MAX_DEATHS


def test_a_fatal_death_stops_the_node_at_once() -> None:
    scene = Scene().bring_up()
    assert scene.dies("disk", fatal=True) == [("thread 1", StopHost()), ("thread 2", StopHost())]
    assert scene.dies("consensus") == [], "nobody is started any more"
    scene.say("thread 2", HostStopped("thread 2"))
    scene.say("thread 1", HostStopped("thread 1"))
    assert (scene.supervisor.exit_status, scene.supervisor.exit_reason) == (1, "disk: a reason")


# ---- threads -------------------------------------------------------------------------------------------------------


def test_a_thread_that_ended_is_replaced() -> None:
    scene = Scene().bring_up()
    assert scene.say("thread 2", HostDied("thread 2", "a bug")) == []
    assert scene.threads == ["thread 2"]


def test_a_thread_that_ends_too_often_stops_the_node() -> None:
    scene = Scene().bring_up()
    for _ in range(MAX_DEATHS):
        scene.say("thread 2", HostDied("thread 2", "a bug"))
    sent = scene.say("thread 2", HostDied("thread 2", "a bug"))
    assert [message for _, message in sent] == [StopHost(), StopHost()]
    assert scene.threads == ["thread 2"] * MAX_DEATHS
    assert scene.supervisor.exit_reason.startswith("thread 2 died 6 times")


def test_a_thread_that_ends_while_the_node_stops_is_left_alone() -> None:
    scene = Scene().bring_up()
    scene.dies("disk", fatal=True)
    scene.say("thread 2", HostDied("thread 2", "a bug"))
    assert scene.threads == []


# ---- kills ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", [0, 5])
def test_a_kill_goes_to_the_actor_s_host(boundary: int) -> None:
    scene = Scene().bring_up()
    assert scene.say("frontend", KillRequest(9, "disk", boundary)) == [
        ("thread 1", KillActor("disk", boundary)),
        ("frontend", Replies(((9, ReplyStatus.OK, b""),))),
    ]


def test_a_kill_of_nobody_is_refused_with_the_names_that_there_are() -> None:
    scene = Scene().bring_up()
    [(to, replies)] = scene.say("frontend", KillRequest(9, "nobody", 0))
    assert to == "frontend"
    assert isinstance(replies, Replies)
    [(token, status, text)] = replies.replies
    assert (token, status) == (9, ReplyStatus.REFUSED)
    assert text == b"no actor 'nobody' on this node; there are: disk, consensus, frontend"


# ---- the end -------------------------------------------------------------------------------------------------------


def test_a_clean_end_hands_leadership_over_first() -> None:
    scene = Scene().bring_up()
    assert scene.say("main", StopRequest("SIGTERM")) == [("consensus", HandOver())]
    assert scene.say("consensus", HandedOver()) == [("thread 1", StopHost()), ("thread 2", StopHost())]
    assert scene.say("thread 1", HostStopped("thread 1")) == []
    assert scene.supervisor.exit_status is None
    assert scene.say("thread 2", HostStopped("thread 2")) == [("main", StopHost())]
    assert (scene.supervisor.exit_status, scene.supervisor.exit_reason) == (0, "SIGTERM")


def test_a_hand_over_that_takes_too_long_is_not_waited_for() -> None:
    scene = Scene().bring_up()
    began_ms = scene.clock.now_ms
    scene.say("main", StopRequest("SIGTERM"))
    assert scene.wake() == [("thread 1", StopHost()), ("thread 2", StopHost())]
    assert scene.clock.now_ms == began_ms + HAND_OVER_MS
    assert scene.say("consensus", HandedOver()) == [], "too late"


def test_asked_twice_it_stops_at_once() -> None:
    scene = Scene().bring_up()
    scene.say("main", StopRequest("SIGINT"))
    assert scene.say("main", StopRequest("SIGINT")) == [("thread 1", StopHost()), ("thread 2", StopHost())]
    assert scene.say("main", StopRequest("SIGINT")) == []


def test_before_all_are_up_there_is_nothing_to_hand_over() -> None:
    scene = Scene()
    scene.context.taken()
    assert scene.say("main", StopRequest("SIGTERM")) == [("thread 1", StopHost()), ("thread 2", StopHost())]
    assert scene.started("disk") == [], "nobody is started any more"


def test_a_host_that_does_not_end_is_not_waited_for_forever() -> None:
    scene = Scene().bring_up()
    scene.dies("disk", fatal=True)
    scene.say("thread 1", HostStopped("thread 1"))
    began_ms = scene.clock.now_ms
    assert scene.wake() == [("main", StopHost())]
    assert scene.clock.now_ms == began_ms + STOP_HOSTS_MS
    assert scene.supervisor.exit_status == 1


def test_an_actor_that_dies_during_the_hand_over_is_not_started_again() -> None:
    scene = Scene().bring_up()
    scene.say("main", StopRequest("SIGTERM"))
    assert scene.dies("frontend") == []


def test_a_fatal_death_during_the_hand_over_makes_the_end_an_error() -> None:
    scene = Scene().bring_up()
    scene.say("main", StopRequest("SIGTERM"))
    assert scene.dies("disk", fatal=True) == [("thread 1", StopHost()), ("thread 2", StopHost())]
    scene.say("thread 1", HostStopped("thread 1"))
    scene.say("thread 2", HostStopped("thread 2"))
    assert (scene.supervisor.exit_status, scene.supervisor.exit_reason) == (1, "disk: a reason")


# ---- faults around the actors --------------------------------------------------------------------------------------


class FaultyWorld:
    """Takes every fault but those of "nobody"."""

    def __init__(self) -> None:
        self.faults: dict[str, Any] = {}

    def set(self, faults: Mapping[str, Any]) -> str:
        if "nobody" in faults:
            return "there is no such thing"
        self.faults |= faults
        return ""

    def in_force(self) -> dict[str, Any]:
        return self.faults


def test_faults_are_put_in_force_and_shown(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(FaultyWorld()).bring_up()
    sent = scene.say("frontend", SetFaults(7, {"disk": {"full": True}}))
    assert sent == [("frontend", Replies(((7, ReplyStatus.OK, b""),)))]
    assert "chaos: disk {'full': True}" in caplog.text
    [(_, reply)] = scene.say("frontend", StatusRequest(8))
    assert reply.fields["faults"] == {"disk": {"full": True}}


def test_faults_that_cannot_be_are_refused() -> None:
    request = SetFaults(7, {"nobody": {}})
    sent = Scene(FaultyWorld()).bring_up().say("frontend", request)
    assert sent == [("frontend", Replies(((7, ReplyStatus.REFUSED, b"there is no such thing"),)))]
    sent = Scene().bring_up().say("frontend", request)
    assert sent == [("frontend", Replies(((7, ReplyStatus.REFUSED, b"this node can have no faults"),)))]


# ---- status --------------------------------------------------------------------------------------------------------


def test_status_tells_lives_and_queues() -> None:
    scene = Scene()
    scene.started("disk")
    scene.dies("disk")
    scene.context.taken()
    [(to, reply)] = scene.say("frontend", StatusRequest(4))
    assert to == "frontend"
    assert reply == StatusReply(
        4,
        {
            "faults": {},
            "actors": {
                "disk": {"incarnation": 2, "queue": 7},
                "consensus": {"incarnation": 1, "queue": 0},
                "frontend": {"incarnation": 0, "queue": 0},
            },
        },
    )
