"""Faults of links as data: who is told what."""

from __future__ import annotations

import json

from zraft.chaos import links
from zraft.chaos.faults import parse_fault
from zraft.chaos.inject import links_fault

NODES = ("n1", "n2", "n3")
CUT_BOTH = {"in": {"drop": 1.0}, "out": {"drop": 1.0}}


def test_a_partition_is_made_at_both_ends() -> None:
    edges = links.partition(["n1"], ["n2", "n3"])
    assert links.rules_of(edges, "n1") == {"n2": CUT_BOTH, "n3": CUT_BOTH}
    assert links.rules_of(edges, "n2") == {"n1": CUT_BOTH}


def test_one_way_leaves_the_other_direction() -> None:
    edges = links.one_way("n1", "n2")
    assert links.rules_of(edges, "n1") == {"n2": {"out": {"drop": 1.0}}}
    assert links.rules_of(edges, "n2") == {"n1": {"in": {"drop": 1.0}}}
    assert links.rules_of(edges, "n3") == {}


def test_losses_and_delays_come_once() -> None:
    edges = links.combine([links.drop(NODES, 0.25), links.delay(NODES, 5, 20)])
    rule = {"drop": 0.25, "delay_ms": [5, 20]}
    assert links.rules_of(edges, "n1") == {"n2": {"out": rule}, "n3": {"out": rule}}


def test_together_the_stronger_holds_whatever_the_order() -> None:
    faults = [links.drop(NODES, 0.1), links.one_way("n1", "n2"), links.drop(NODES, 0.2)]
    for order in (faults, faults[::-1]):
        combined = links.combine(order)
        assert combined["n1", "n2"].drop == 1.0
        assert combined["n2", "n1"].drop == 0.2


def test_only_of_one_node() -> None:
    edges = links.only_of(links.drop(NODES, 0.1), "n1")
    assert set(edges) == {("n1", "n2"), ("n2", "n1"), ("n1", "n3"), ("n3", "n1")}


def test_nodes_take_what_is_made() -> None:
    for edges in (links.partition(["n1"], ["n2", "n3"]), links.delay(NODES, 1, 2), links.drop(NODES, 0.5), {}):
        rules = links.rules_of(edges, "n1")
        fault = links_fault(rules)
        assert parse_fault(json.dumps(fault).encode()) is not None
