"""The small parts: endpoints, numbering, pairs, and what importing zraft costs."""

from __future__ import annotations

import copy
import random
import subprocess
import sys

import pytest
import zmq
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.client.endpoints import DEFAULT_ENDPOINTS, is_endpoint, resolve_endpoints
from zraft.client.requests import KeyValue
from zraft.client.session import MAX_UNANSWERED, Session
from zraft.errors import ConfigError


def test_endpoints_come_from_the_argument_then_the_environment_then_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ZRAFT_ENDPOINTS", " tcp://a:1, tcp://b:2,,tcp://a:1 ")
    assert resolve_endpoints(None) == ("tcp://a:1", "tcp://b:2")
    assert resolve_endpoints(["tcp://c:3"]) == ("tcp://c:3",)
    assert resolve_endpoints("tcp://c:3,tcp://[::1]:65535") == ("tcp://c:3", "tcp://[::1]:65535")
    monkeypatch.setenv("ZRAFT_ENDPOINTS", " ")
    assert resolve_endpoints(None) == DEFAULT_ENDPOINTS
    monkeypatch.delenv("ZRAFT_ENDPOINTS")
    assert resolve_endpoints(None) == DEFAULT_ENDPOINTS


@pytest.mark.parametrize(
    "wrong",
    ["localhost:7101", "tcp://host", "tcp://host:0", "tcp://host:65536", "tcp://*:7101", "tcp://a b:1", "ipc://x"],
)
def test_a_wrong_endpoint_is_named_with_where_it_came_from(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="endpoints: .*expected tcp://host:port"):
        resolve_endpoints([wrong])
    monkeypatch.setenv("ZRAFT_ENDPOINTS", wrong)
    with pytest.raises(ConfigError, match="ZRAFT_ENDPOINTS: .*expected tcp://host:port"):
        resolve_endpoints(None)


@pytest.mark.parametrize("host", ["a+b", "-a", "_a", "\u00e9", "a\x00", "\ud800"], ids=ascii)
def test_what_zeromq_would_not_connect_to_is_no_endpoint(host: str) -> None:
    """The core opens what nodes tell of: it must not be what makes its host's socket raise."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket, pytest.raises((zmq.ZMQError, UnicodeError)):
        socket.connect(f"tcp://{host}:7101")
    assert not is_endpoint(f"tcp://{host}:7101")


@pytest.mark.parametrize("host", ["a", "a-b_c.d", "1.2.3.4", "[::1]", "[fe80::1%eth0]", "1.2.3.4;n1"])
def test_what_zeromq_connects_to_is_an_endpoint(host: str) -> None:
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.connect(f"tcp://{host}:7101")
    assert is_endpoint(f"tcp://{host}:7101")


def test_no_endpoint_is_refused() -> None:
    with pytest.raises(ConfigError, match="no endpoint given"):
        resolve_endpoints([])


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(0, 2**32))
def test_the_low_water_mark_is_the_end_of_the_settled_prefix(count: int, seed: int) -> None:
    session = Session(1)
    numbers = [session.next_number() for _ in range(count)]
    assert numbers == list(range(1, count + 1))
    random.Random(seed).shuffle(numbers)
    settled: set[int] = set()
    for number in numbers:
        session.settle(number)
        settled.add(number)
        assert session.low_water == next(n for n in range(count + 1) if n + 1 not in settled)


def test_a_session_has_room_for_a_window_above_its_low_water_mark() -> None:
    session = Session(1)
    for _ in range(MAX_UNANSWERED):
        assert session.has_room()
        session.next_number()
    assert not session.has_room()
    session.settle(2)
    assert not session.has_room()
    session.settle(1)
    assert session.has_room()


def test_a_key_value_is_a_pair_with_attributes() -> None:
    entry = KeyValue(b"k", b"v", 3, 5, 2)
    key, value = entry
    assert (key, value) == entry == (b"k", b"v")
    assert (entry.key, entry.value, entry.create_revision, entry.mod_revision, entry.version) == (b"k", b"v", 3, 5, 2)
    assert copy.deepcopy(entry).mod_revision == 5
    assert "mod_revision=5" in repr(entry)


def test_importing_a_pure_part_loads_no_zeromq() -> None:
    code = "import sys, zraft.raft, zraft.client.core; assert 'zmq' not in sys.modules; zraft.Client; zraft.KeyValue"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_offers_what_it_lists() -> None:
    import zraft

    assert {name for name in zraft.__all__ if getattr(zraft, name) is not None} == set(zraft.__all__) <= set(dir(zraft))
    with pytest.raises(AttributeError, match="no attribute 'Clown'"):
        zraft.Clown  # noqa: B018
