"""Faults as JSON: what is taken, what is refused, and what is in force afterwards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from zraft.chaos.faults import HEALTHY_DISK, HEALTHY_LINK, MAX_DELAY_MS, DiskRule, Faults, LinkRule, parse_fault
from zraft.errors import InvalidRequest
from zraft.messages import KillRequest, SetFaults
from zraft.wire import pack_bus, unpack_bus

CUT = {"drop": 1}


def parsed(fault: object) -> KillRequest | SetFaults:
    return parse_fault(json.dumps(fault).encode())


def links(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules, as the node takes them."""
    fault = parsed({"op": "links", "rules": rules})
    assert isinstance(fault, SetFaults)
    return fault.faults["links"]


def refusal(fault: object) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parsed(fault)
    return str(caught.value)


# ---- what is taken -------------------------------------------------------------------------------------------------


def test_each_op() -> None:
    assert parsed({"op": "kill-actor", "actor": "applier", "boundary": 3}) == KillRequest(0, "applier", 3)
    assert parsed({"op": "kill-actor", "actor": "applier"}) == KillRequest(0, "applier", 0)
    assert parsed({"op": "disk", "slow_ms": [1, 2.5], "full": True, "fail_sync": True}) == SetFaults(
        0, {"disk": {"slow_ms": [1, 2.5], "full": True, "fail_sync": True}}
    )
    assert parsed({"op": "disk"}) == SetFaults(0, {"disk": {}})
    assert parsed({"op": "links", "rules": {}}) == SetFaults(0, {"links": {}})
    assert parsed({"op": "heal"}) == SetFaults(0, {"links": {}, "disk": {}})


def test_what_has_no_effect_is_left_out() -> None:
    assert links({"n2": {"in": {}, "out": {"drop": 0, "delay_ms": [0, 0]}}, "n3": {"in": CUT, "out": {}}}) == {
        "n3": {"in": CUT}
    }
    assert parsed({"op": "disk", "slow_ms": [0, 0], "full": False, "fail_sync": False}) == SetFaults(0, {"disk": {}})


def test_a_name_without_a_rule_is_an_exception_from_the_rule_for_all() -> None:
    assert links({"*": {"in": CUT}, "n2": {}}) == {"*": {"in": CUT}, "n2": {}}
    assert links({"*": {"in": {}}, "n2": {}}) == {}


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (7, "a fault is a JSON object, not 7"),
        ({}, "op: expected kill-actor, links, disk or heal, got None"),
        ({"op": "burn"}, "op: expected kill-actor, links, disk or heal, got 'burn'"),
        ({"op": "heal", "node": "n1"}, "a fault: unknown field 'node'; expected op"),
        ({"op": "links"}, "rules: expected a JSON object, got None"),
        ({"op": "links", "rules": {"n2": CUT}}, "rules.n2: unknown field 'drop'; expected in, out"),
        ({"op": "links", "rules": {"n2": {"in": 1}}}, "rules.n2.in: expected a JSON object, got 1"),
        ({"op": "links", "rules": {"n2": {"in": {"lose": 1}}}}, "unknown field 'lose'; expected drop, delay_ms"),
        ({"op": "links", "rules": {"": {"in": CUT}}}, "rules: expected a name, got ''"),
        ({"op": "links", "rules": {"n" * 65: {"in": CUT}}}, "rules: expected a name, got 'nnnn"),
        ({"op": "disk", "slow": 5}, "a fault: unknown field 'slow'; expected op, slow_ms, full, fail_sync"),
        ({"op": "disk", "full": 1}, "full: expected true or false, got 1"),
        ({"op": "disk", "fail_sync": "yes"}, "fail_sync: expected true or false, got 'yes'"),
    ],
)
def test_what_is_no_fault_is_refused_in_words(fault: object, said: str) -> None:
    assert said in refusal(fault)


@pytest.mark.parametrize("drop", ["NaN", "Infinity", "-0.1", "1.01", "1e999", "true", '"1"', "null", "[]", "9" * 400])
def test_shares_are_numbers_of_0_to_1(drop: str) -> None:
    with pytest.raises(InvalidRequest, match=r"rules\.n2\.out\.drop: expected a number of 0 to 1"):
        parse_fault(b'{"op": "links", "rules": {"n2": {"out": {"drop": %s}}}}' % drop.encode())


@pytest.mark.parametrize(
    "span", ["5", "[5]", "[5, 4]", "[-1, 4]", "[0, 60001]", "[0, NaN]", "[NaN, 5]", "[0, 1e999]", "[true, true]", "{}"]
)
def test_times_are_two_numbers_of_milliseconds(span: str) -> None:
    words = rf"expected \[least, most\] milliseconds of 0 to {MAX_DELAY_MS}"
    with pytest.raises(InvalidRequest, match=words):
        parse_fault(b'{"op": "links", "rules": {"*": {"in": {"delay_ms": %s}}}}' % span.encode())
    with pytest.raises(InvalidRequest, match=words):
        parse_fault(b'{"op": "disk", "slow_ms": %s}' % span.encode())


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5) | st.just(CUT),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["in", "out", "drop", "delay_ms", "n2", "n9", "*"]) | st.text(st.characters(), max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = st.sampled_from(["op", "rules", "slow_ms", "full", "fail_sync", "actor", "boundary", "\ud800"])
OPS = st.sampled_from(["links", "disk", "heal", "kill-actor"])


@given(
    st.binary(max_size=40)
    | JUNK.map(lambda junk: json.dumps(junk).encode())
    | st.builds(
        lambda op, fields: json.dumps({**fields, "op": op}).encode(), OPS, st.dictionaries(FIELDS, JUNK, max_size=3)
    )
)
@example(b'{"op": "kill-actor", "actor": "\\ud800"}')
@example(b'{"op": "links", "rules": {"\\ud800": {"in": {"drop": 1}}}}')
@example(b'{"op": "\\ud800"}')
@example(b"[" * 100_000)
@example(b'{"op": "disk", "full": ' + b"9" * 100_000 + b"}")
def test_junk_is_refused_and_harms_nobody(body: bytes) -> None:
    """What is taken can be packed, put in force and shown; what is not is refused in one line that can be sent."""
    faults = Faults()
    faults.peers = {"n2"}
    try:
        fault = parse_fault(body)
    except InvalidRequest as error:
        assert "\n" not in str(error) and 0 < len(str(error).encode()) < 1000
        return
    message = unpack_bus(pack_bus("frontend", 1, 1, fault._replace(token=5)))[3]
    if isinstance(message, SetFaults):
        faults.set(message.faults).encode()
        json.dumps(faults.in_force(), allow_nan=False)
        assert all(0 <= faults.link(peer, way).drop <= 1 for peer in ("n2", "n3") for way in ("in", "out"))


# ---- what is in force ----------------------------------------------------------------------------------------------


def test_named_peers_and_all_others() -> None:
    faults = Faults()
    faults.peers = {"n2", "n3"}
    assert faults.set({"links": links({"n2": {"in": CUT}, "*": {"out": {"delay_ms": [1, 2]}}})}) == ""
    assert faults.link("n2", "in") == LinkRule(1, (0, 0))
    assert faults.link("n2", "out") == HEALTHY_LINK, "named: the rule for all others is not for this one"
    assert faults.link("n3", "in") == HEALTHY_LINK
    assert faults.link("n3", "out") == faults.link("later", "out") == LinkRule(0, (1, 2))


def test_each_part_replaces_the_one_before_and_no_other() -> None:
    faults = Faults()
    faults.peers = {"n2", "n3"}
    assert (faults.in_force(), faults.any_link) == ({}, False)
    faults.set({"links": {"n2": {"in": CUT}}})
    faults.set({"disk": {"full": True, "slow_ms": [5, 6]}})
    assert faults.in_force() == {"links": {"n2": {"in": CUT}}, "disk": {"full": True, "slow_ms": [5, 6]}}
    assert (faults.disk, faults.any_link) == (DiskRule((5, 6), True, False), True)
    faults.set({"links": {"n3": {"out": CUT}}})
    assert faults.link("n2", "in") == HEALTHY_LINK
    faults.set({"disk": {"fail_sync": True}})
    assert faults.in_force() == {"links": {"n3": {"out": CUT}}, "disk": {"fail_sync": True}}
    faults.set({"links": {}, "disk": {}})
    assert (faults.in_force(), faults.disk, faults.any_link) == ({}, HEALTHY_DISK, False)
    assert faults.link("n3", "out") == HEALTHY_LINK


def test_rules_for_nobody_are_refused_and_change_nothing() -> None:
    faults = Faults()
    faults.peers = {"n2", "n3"}
    faults.set({"links": {"n2": {"in": CUT}}})
    before = faults.in_force()
    said = faults.set({"links": {"n2": {"in": CUT}, "n1": {"in": CUT}}, "disk": {"full": True}})
    assert said == "rules: this node has no peer 'n1'; its peers: n2, n3"
    assert (faults.in_force(), faults.disk) == (before, HEALTHY_DISK)
