"""What to tell which node: partitions, what combines with what, and the telling."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zraft.chaos import inject
from zraft.chaos.faults import Faults, parse_fault
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable
from zraft.messages import SetFaults

BOTH = {"in": inject.CUT, "out": inject.CUT}
PEERS = ("n2", "n3", "n4")


def node_with(links: inject.Links) -> Faults:
    """A node that was told these rules, as JSON."""
    faults = Faults()
    faults.peers = PEERS
    fault = parse_fault(json.dumps(inject.links_fault(links)).encode())
    assert isinstance(fault, SetFaults)
    assert faults.set(fault.faults) == ""
    return faults


# ---- what is drawn -------------------------------------------------------------------------------------------------


def test_a_partition_cuts_between_groups_and_nowhere_else() -> None:
    assert inject.partition([["n1"], ["n2", "n3"]]) == {
        "n1": {"n2": BOTH, "n3": BOTH},
        "n2": {"n1": BOTH},
        "n3": {"n1": BOTH},
    }
    assert inject.partition([["n1", "n2"], ["n3"], ["n4"]])["n3"] == {"n1": BOTH, "n2": BOTH, "n4": BOTH}


@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True), min_size=2, max_size=4))
def test_both_ends_of_a_link_agree_on_a_partition(groups: list[list[str]]) -> None:
    seen: set[str] = set()
    groups = [group for group in ([n for n in g if not (n in seen or seen.add(n))] for g in groups) if group]
    told = inject.partition(groups)
    for one, other in itertools.permutations(told, 2):
        together = any(one in group and other in group for group in groups)
        assert (other in told[one]) is (one in told[other]) is not together


def test_faults_are_taken_as_they_are_built() -> None:
    assert node_with(inject.isolate()).link("later", "in").drop == 1
    assert node_with(inject.one_way("n2")).in_force() == {"links": {"n2": {"out": {"drop": 1}}}}
    assert node_with(inject.delay(5, 7.5, ["out"])).link("n3", "out").delay_ms == (5, 7.5)
    assert node_with(inject.drop(0.25)).in_force() == {"links": {"*": {"in": {"drop": 0.25}, "out": {"drop": 0.25}}}}
    assert parse_fault(json.dumps(inject.HEAL).encode()) == SetFaults(0, {"links": {}, "disk": {}})
    assert parse_fault(json.dumps(inject.disk_fault({"full": True})).encode()) == SetFaults(0, {"disk": {"full": True}})


# ---- combining -----------------------------------------------------------------------------------------------------


def test_a_delay_comes_on_top_of_a_partition() -> None:
    combined = inject.combine_links(inject.partition([["n1"], ["n2"]])["n1"], inject.delay(30, 30))
    faults = node_with(combined)
    assert faults.link("n2", "in") == (1, (30, 30))
    assert faults.link("n3", "out") == (0, (30, 30))


def test_a_partition_comes_on_top_of_a_delay_for_all() -> None:
    combined = inject.combine_links(inject.delay(30, 30), inject.partition([["n1"], ["n2"]])["n1"])
    faults = node_with(combined)
    assert faults.link("n2", "in") == (1, (30, 30))
    assert faults.link("n3", "in") == (0, (30, 30))


def test_a_cut_link_stays_cut_and_a_loss_is_replaced() -> None:
    lossy = inject.combine_links(inject.one_way("n2"), inject.drop(0.5))
    assert node_with(lossy).link("n2", "out").drop == 1
    assert node_with(lossy).link("n2", "in").drop == 0.5
    faults = node_with(inject.combine_links(lossy, inject.drop(0)))
    assert faults.in_force() == {"links": {"n2": {"out": {"drop": 1}}}}


RULES = st.fixed_dictionaries(
    {},
    optional={
        "drop": st.sampled_from([0, 0.25, 1]),
        "delay_ms": st.sampled_from([[0, 0], [5, 5], [1, 9]]),
    },
)
DIRECTIONS = st.fixed_dictionaries({}, optional={"in": RULES, "out": RULES})
LINKS = st.dictionaries(st.sampled_from([*PEERS[:2], "*"]), DIRECTIONS, max_size=3)


@given(LINKS, LINKS)
def test_combining_does_both_on_every_link(old: Any, new: Any) -> None:
    before, both = node_with(old), node_with(inject.combine_links(old, new))
    for peer, direction in itertools.product(PEERS, ("in", "out")):
        added = (new.get(peer) if peer in new else new.get("*", {})).get(direction, {})
        was, now = before.link(peer, direction), both.link(peer, direction)
        assert now.drop == (1 if was.drop == 1 else added.get("drop", was.drop))
        assert now.delay_ms == tuple(added.get("delay_ms", was.delay_ms))


@given(LINKS)
def test_nothing_added_changes_nothing(links: Any) -> None:
    in_force = node_with(links).in_force().get("links", {})
    assert node_with(inject.combine_links(in_force, {})).in_force().get("links", {}) == in_force


def test_disks_combine() -> None:
    slow = inject.combine_disk({"full": True}, {"slow_ms": [5, 5]})
    assert slow == {"full": True, "slow_ms": [5, 5]}
    assert inject.combine_disk(slow, {"slow_ms": [9, 9]}) == {"full": True, "slow_ms": [9, 9]}


def test_a_rule_of_a_peer_that_has_left_harms_nobody() -> None:
    faults = node_with(inject.isolate() | inject.one_way("n4"))
    faults.peers = ("n2", "n3")
    combined = inject.combine_links(inject.in_force({"faults": faults.in_force()}, "links"), inject.delay(5, 5))
    assert faults.set({"links": combined}) == ""
    assert faults.set({"links": {"n5": BOTH}}) != ""


@pytest.mark.parametrize("report", [{}, {"faults": None}, {"faults": {}}, {"faults": {"disk": {"full": True}}}])
def test_a_node_without_link_faults(report: Mapping[str, Any]) -> None:
    assert inject.in_force(report, "links") == {}


# ---- telling -------------------------------------------------------------------------------------------------------


class Script:
    """Stands for a client: what it raises, call by call; after that it is answered."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls: list[tuple[str, Any, float]] = []

    def inject_fault(self, endpoint: str, fault: Any, *, timeout: float) -> None:
        self.calls.append((endpoint, fault, timeout))
        if self.errors:
            raise self.errors.pop(0)


def send(script: Script, timeout_seconds: float = 5.0) -> None:
    inject.send(script, "tcp://a:1", inject.HEAL, timeout_seconds)  # type: ignore[arg-type]


def test_it_is_said_again_until_it_is_answered() -> None:
    script = Script(OutcomeUnknown("the frontend died"), Unavailable("it is not back"))
    send(script)
    assert script.calls == [("tcp://a:1", inject.HEAL, inject.SEND_AGAIN_SECONDS)] * 3


def test_a_refusal_is_final() -> None:
    script = Script(InvalidRequest("no"))
    with pytest.raises(InvalidRequest):
        send(script)
    assert len(script.calls) == 1


def test_no_answer_in_time() -> None:
    script = Script(*[OutcomeUnknown("nothing")] * 3)
    with pytest.raises(OutcomeUnknown):
        send(script, 0.0)
    assert len(script.calls) == 1


class SilentClient:
    """A client whose calls fail in turn, the last one again and again."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    def inject_fault(self, endpoint: str, fault: object, *, timeout: float) -> None:
        raise self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]


def test_a_node_that_takes_a_fault_and_is_gone_is_not_said_to_have_none() -> None:
    """A fsync that fails ends a busy node before its answer is out; that later copies reach nobody says nothing."""
    client: Any = SilentClient(OutcomeUnknown("no answer"), Unavailable("gone; it was surely not applied"))
    with pytest.raises(OutcomeUnknown, match="may be in force"):
        inject.send(client, "tcp://127.0.0.1:1", inject.HEAL, timeout_seconds=0.01)
    client = SilentClient(Unavailable("gone; it was surely not applied"))
    with pytest.raises(Unavailable, match="surely not applied"):
        inject.send(client, "tcp://127.0.0.1:1", inject.HEAL, timeout_seconds=0.01)
