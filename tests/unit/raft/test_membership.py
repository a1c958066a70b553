"""What a CONFIG entry holds."""

from __future__ import annotations

import pytest

from zraft.raft.membership import Address, Membership

MEMBERS = Membership(77, {"n2": Address("tcp://b:1", "tcp://b:2"), "n1": Address("tcp://a:1", "tcp://a:2")})


def test_it_is_read_as_it_was_written() -> None:
    assert Membership.decode(MEMBERS.encode()) == MEMBERS
    assert Membership.decode(MEMBERS.encode()).voters["n1"].peer == "tcp://a:2"


def test_the_same_members_are_the_same_bytes_in_whatever_order_they_were_named() -> None:
    turned = Membership(77, dict(reversed(MEMBERS.voters.items())))
    assert turned.encode() == MEMBERS.encode()


@pytest.mark.parametrize("data", [b"", b"{}", b"[1]", b"\xff", b'{"cluster_id":1,"voters":{"a":{"client":"x"}}}'])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Membership.decode(data)
