"""Majorities (trap 24)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.raft.quorum import is_quorum, is_unanimous, quorum_index

NAMES = [f"n{number}" for number in range(1, 8)]
VOTERS = st.lists(st.sampled_from(NAMES), min_size=1, unique=True)


@settings(deadline=None, derandomize=True)
@given(VOTERS, st.dictionaries(st.sampled_from(NAMES), st.integers(0, 20)))
def test_trap_24_quorum_index_is_the_largest_index_that_a_majority_holds(
    voters: list[str], match: dict[str, int]
) -> None:
    index = quorum_index(voters, match)
    assert index == max(
        held for held in range(21) if 2 * sum(match.get(node, 0) >= held for node in voters) > len(voters)
    )


@settings(deadline=None, derandomize=True)
@given(VOTERS, st.lists(st.tuples(st.sampled_from(NAMES), st.integers(1, 9)), max_size=30))
def test_trap_24_it_never_goes_back_under_growing_match_indices(
    voters: list[str], updates: list[tuple[str, int]]
) -> None:
    match: dict[str, int] = {}
    before = 0
    for node, by in updates:
        match[node] = match.get(node, 0) + by
        index = quorum_index(voters, match)
        assert index >= before
        before = index


@settings(deadline=None, derandomize=True)
@given(VOTERS, st.sets(st.sampled_from(NAMES)), st.sets(st.sampled_from(NAMES)))
def test_two_quorums_always_share_a_node(voters: list[str], one: set[str], other: set[str]) -> None:
    if is_quorum(voters, one) and is_quorum(voters, other):
        assert one & other & set(voters)


def test_who_is_no_voter_does_not_count_and_twice_counts_once() -> None:
    assert not is_quorum(["a", "b", "c"], ["a", "x", "y"])
    assert not is_quorum(["a", "b", "c"], ["a", "a", "a"])
    assert is_quorum(["a", "b", "c"], ["a", "c"])
    assert not is_quorum(["a", "b"], ["a"])
    assert not is_quorum([], ["a"])


def test_unanimous_is_every_voter() -> None:
    assert is_unanimous(["a", "b"], {"a", "b", "c"})
    assert not is_unanimous(["a", "b"], {"b", "c"})


def test_no_voters_hold_nothing() -> None:
    assert quorum_index([], {"a": 9}) == 0
