"""Majorities. Votes are sets of node ids, never counters: a vote that arrives twice counts once."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def is_quorum(voters: Collection[str], agreeing: Collection[str]) -> bool:
    """Whether the agreeing nodes are more than half of the voters; who is no voter does not count."""
    return 2 * len([node for node in voters if node in agreeing]) > len(voters)


def is_unanimous(voters: Collection[str], agreeing: Collection[str]) -> bool:
    """Whether every voter agrees."""
    return all(node in agreeing for node in voters)


def quorum_index(voters: Collection[str], match_index: Mapping[str, int]) -> int:
    """The largest index that a majority of the voters holds durably (trap 24); 0 if there are no voters.

    match_index: node id -> largest index known durable there; a voter that is missing holds nothing.
    """
    held = sorted([match_index.get(node, 0) for node in voters], reverse=True)
    return held[len(held) // 2] if held else 0
