"""The sockets between nodes: which addresses get a link."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from zraft.bus.ports import PeerPort


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


def test_no_link_leads_to_a_mailbox_or_to_what_is_no_address(context: zmq.Context[Any]) -> None:
    """Addresses come from outside: who asks who is there says where to answer."""
    mailbox = context.socket(zmq.PULL)
    mailbox.bind("inproc://n1/consensus")
    port = PeerPort(context, "tcp://127.0.0.1:*")
    port.set_peers({"n2": "inproc://n1/consensus", "n3": "nowhere", "n4": "tcp://no port"})
    assert [port.send(name, b"x") for name in ("n2", "n3", "n4")] == [False] * 3
    assert not mailbox.poll(50)
    port.close()
