"""`zraft.wire`: what is packed comes back equal, and whatever comes over TCP either fits or raises WireError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from message_strategies import ENTRIES, NUMBERS, TEXTS, of_class

from zraft.messages import (
    BUS_MESSAGES,
    PEER_MESSAGES,
    AppendEntries,
    AppendReply,
    Entry,
    Heartbeat,
    RequestVote,
)
from zraft.wire import (
    CLIENT_VERSION,
    MAX_FRAME_BYTES,
    MAX_REQUESTS_PER_FRAME,
    PEER_VERSION,
    Condition,
    EntriesCache,
    PeerFrame,
    ReplyFrame,
    Statement,
    WireError,
    pack_bus,
    pack_condition,
    pack_entries,
    pack_peer,
    pack_peer_frame,
    pack_replies,
    pack_requests,
    pack_statement,
    split_condition,
    unpack_bus,
    unpack_entries,
    unpack_peer,
    unpack_peer_frame,
    unpack_replies,
    unpack_requests,
    unpack_statement,
)

quick = settings(deadline=None, derandomize=True, max_examples=25)
thorough = settings(deadline=None, derandomize=True, max_examples=100)

BODIES = st.lists(st.binary(max_size=9), max_size=4).map(tuple)
ITEMS = st.lists(st.tuples(NUMBERS, NUMBERS, st.binary(max_size=20)), max_size=4).map(tuple)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | TEXTS | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(TEXTS | st.integers(0, 9), inner, max_size=3),
    max_leaves=12,
)


# ---- what is packed comes back -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", BUS_MESSAGES, ids=lambda cls: cls.__name__)
@quick
@given(data=st.data())
def test_bus_round_trip(cls: type, data: st.DataObject) -> None:
    message = data.draw(of_class(cls))
    envelope = unpack_bus(pack_bus("consensus", 3, 7, message))
    assert envelope == ("consensus", 3, 7, message)
    assert type(envelope[3]) is cls


@pytest.mark.parametrize("cls", PEER_MESSAGES, ids=lambda cls: cls.__name__)
@quick
@given(data=st.data())
def test_peer_round_trip(cls: type, data: st.DataObject) -> None:
    message = data.draw(of_class(cls))
    body = pack_peer(message, EntriesCache())
    back = unpack_peer(body)
    assert back == message
    assert type(back) is cls
    if cls is AppendEntries:
        assert all(type(entry) is Entry for entry in back.entries)


@quick
@given(st.builds(PeerFrame, NUMBERS, TEXTS, NUMBERS, TEXTS, TEXTS, NUMBERS, BODIES))
def test_peer_frame_round_trip(frame: PeerFrame) -> None:
    assert unpack_peer_frame(pack_peer_frame(frame)) == frame


def test_what_a_later_version_adds_at_the_end_is_left_out() -> None:
    """So that nodes of two versions understand each other while one after the other is renewed."""
    frame = PeerFrame(1, "n1", 2, "tcp://a", "n2", 3, (b"x",))
    assert unpack_peer_frame(msgpack.packb([PEER_VERSION, *frame, "new"])) == frame
    heartbeat = Heartbeat(3, 4, 5)
    assert unpack_peer(msgpack.packb([PEER_MESSAGES.index(Heartbeat), *heartbeat, "new", 7])) == heartbeat

    statement = Statement(3, 4, 5)
    assert unpack_statement(msgpack.packb([*statement, "new"])) == statement
    condition = Condition(3, 4, (5, 6))
    packed = msgpack.packb([*condition, "new"])
    assert split_condition(len(packed).to_bytes(2, "big") + packed + b"rest") == (condition, b"rest")


POSITIVE = st.integers(1, (1 << 64) - 1)


@quick
@given(POSITIVE, POSITIVE, POSITIVE, st.lists(POSITIVE, max_size=9), st.binary(max_size=9))
def test_terms_round_trip(cluster: int, store: int, term: int, stores: list[int], result: bytes) -> None:
    statement, condition = Statement(cluster, store, term), Condition(cluster, term, tuple(stores))
    assert unpack_statement(pack_statement(statement)) == statement
    assert split_condition(pack_condition(condition) + result) == (condition, result)
    assert condition.holds(statement) == (store in stores)


def test_a_node_that_cannot_say_fulfils_no_condition() -> None:
    assert unpack_statement(b"") is None
    assert not Condition(1, 1, (0, 1)).holds(None)
    for fields in ([0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1], [1, 1, True], [1, 1, "1"], [1, 1, 1.0]):
        with pytest.raises(WireError):
            unpack_statement(msgpack.packb(fields))
    for fields in ([0, 1, [1]], [1, 0, [1]], [1, 1], [1, 1, 1], [1, 1, ["1"]]):
        packed = msgpack.packb(fields)
        with pytest.raises(WireError):
            split_condition(len(packed).to_bytes(2, "big") + packed)


@quick
@given(NUMBERS, ITEMS)
def test_client_frames_round_trip(life: int, items: tuple[tuple[int, int, bytes], ...]) -> None:
    assert unpack_requests(pack_requests(items)) == items
    assert unpack_replies(pack_replies(life, items)) == ReplyFrame(life, items)


@quick
@given(st.lists(ENTRIES, max_size=5))
def test_entries_round_trip(entries: list[Entry]) -> None:
    assert unpack_entries(pack_entries(entries)) == entries


def test_the_cache_encodes_the_same_run_once_and_another_run_anew() -> None:
    cache = EntriesCache()
    run, equal_run = (Entry(1, 2, 1, b"x"),), (Entry(1, 2, 1, b"x"),)
    other = (Entry(1, 2, 1, b"y"),)
    first = cache.pack(run)
    assert cache.pack(run) is first
    assert cache.pack(other) == pack_entries(other)
    assert cache.pack(equal_run) == first
    assert cache.pack(()) == pack_entries(())


# ---- what does not fit ---------------------------------------------------------------------------------------------

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "peer": unpack_peer,
    "peer frame": unpack_peer_frame,
    "requests": unpack_requests,
    "replies": unpack_replies,
    "entries": unpack_entries,
    "statement": unpack_statement,
    "condition": split_condition,
    "condition, with its length": lambda frame: split_condition(len(frame).to_bytes(2, "big") + frame),
}


def try_decode(decode: Callable[[bytes], Any], frame: bytes) -> bool:
    """Whether it fits. Anything but WireError gets through and fails the test."""
    try:
        decode(frame)
    except WireError as error:
        assert "\n" not in str(error)
        return False
    return True


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@thorough
@given(frame=st.binary(max_size=60))
def test_random_bytes(decode: Callable[[bytes], Any], frame: bytes) -> None:
    try_decode(decode, frame)


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@thorough
@given(value=VALUES, first=st.none() | st.integers(0, len(PEER_MESSAGES)))
def test_random_values(decode: Callable[[bytes], Any], value: Any, first: int | None) -> None:
    """Right msgpack with anything in it, often behind a right tag or version."""
    fields = [first, *value] if first is not None and isinstance(value, list) else value
    try_decode(decode, msgpack.packb(fields))


@pytest.mark.parametrize("cls", PEER_MESSAGES, ids=lambda cls: cls.__name__)
@quick
@given(data=st.data())
def test_damaged_peer_messages(cls: type, data: st.DataObject) -> None:
    check_damaged(data, unpack_peer, pack_peer(data.draw(of_class(cls)), EntriesCache()))


@thorough
@given(data=st.data(), items=ITEMS)
def test_damaged_frames(data: st.DataObject, items: tuple[tuple[int, int, bytes], ...]) -> None:
    check_damaged(data, unpack_requests, pack_requests(items))
    check_damaged(data, unpack_replies, pack_replies(5, items))
    check_damaged(
        data, unpack_peer_frame, pack_peer_frame(PeerFrame(1, "n1", 2, "a", "n2", 0, tuple(item[2] for item in items)))
    )


def check_damaged(data: st.DataObject, decode: Callable[[bytes], Any], frame: bytes) -> None:
    """Cut short or followed by more, it is refused; with a byte changed it may fit, but raises nothing else."""
    cut = data.draw(st.integers(0, len(frame) - 1))
    assert not try_decode(decode, frame[:cut])
    assert not try_decode(decode, frame + b"\0")
    place, value = data.draw(st.integers(0, len(frame) - 1)), data.draw(st.integers(0, 255))
    try_decode(decode, frame[:place] + bytes((value,)) + frame[place + 1 :])


@pytest.mark.parametrize("cls", PEER_MESSAGES, ids=lambda cls: cls.__name__)
def test_each_field_of_a_peer_message_is_checked(cls: type) -> None:
    tag = PEER_MESSAGES.index(cls)
    right = [{int: 1, bool: True, str: "a"}.get(hint, b"\x90") for hint in get_type_hints(cls).values()]
    assert unpack_peer(msgpack.packb([tag, *right]))
    for position, value in enumerate(right):
        wrong_values = [b"\x90" if type(value) is str else "text", None, 1.5, [], 2 if type(value) is bool else True]
        for wrong in [*wrong_values, *([-1] if type(value) is int else [])]:
            fields = [*right[:position], wrong, *right[position + 1 :]]
            with pytest.raises(WireError, match=cls.__name__):
                unpack_peer(msgpack.packb([tag, *fields]))
    with pytest.raises(WireError, match=cls.__name__):
        unpack_peer(msgpack.packb([tag, *right[:-1]]))


@pytest.mark.parametrize("entry", [(1, 2, 1), (1, 2, 1, "x"), (-1, 2, 1, b""), (1, -2, 1, b""), (True, 2, 1, b""), 7])
def test_entries_from_a_peer_are_checked(entry: object) -> None:
    tag = PEER_MESSAGES.index(AppendEntries)
    with pytest.raises(WireError, match="log entr"):
        unpack_peer(msgpack.packb([tag, 1, 0, 0, 0, msgpack.packb([entry])]))


@pytest.mark.parametrize("tag", [-1, len(PEER_MESSAGES), True, "1", None])
def test_unknown_peer_messages(tag: object) -> None:
    with pytest.raises(WireError, match="knows"):
        unpack_peer(msgpack.packb([tag, 1]))


def test_other_versions_are_refused_by_name() -> None:
    with pytest.raises(WireError, match=f"version 9 .*speaks {CLIENT_VERSION}"):
        unpack_requests(msgpack.packb([9, "whatever that version says"]))
    with pytest.raises(WireError, match=f"version 9 .*speaks {CLIENT_VERSION}"):
        unpack_replies(msgpack.packb([9]))
    with pytest.raises(WireError, match=f"version 9 .*speaks {PEER_VERSION}"):
        unpack_peer_frame(msgpack.packb([9, 1, 2]))


def test_too_large_frames_are_refused_before_they_are_opened() -> None:
    frame = bytes(MAX_FRAME_BYTES + 1)
    for decode in (unpack_requests, unpack_replies, unpack_peer_frame):
        with pytest.raises(WireError, match=f"frame of {len(frame)} bytes"):
            decode(frame)


def test_too_many_requests_in_a_frame() -> None:
    most = [(number, 6, b"") for number in range(MAX_REQUESTS_PER_FRAME)]
    assert len(unpack_requests(pack_requests(most))) == MAX_REQUESTS_PER_FRAME
    with pytest.raises(WireError, match="1025 requests"):
        unpack_requests(pack_requests([*most, (1, 6, b"")]))


@pytest.mark.parametrize("item", [(1, 2), (1, 2, b"", 4), (-1, 2, b""), (1, "2", b""), (1, 2, "text"), (True, 2, b"")])
def test_items_of_client_frames_are_checked(item: object) -> None:
    with pytest.raises(WireError, match="wrong fields"):
        unpack_requests(msgpack.packb([CLIENT_VERSION, [item]]))
    with pytest.raises(WireError, match="wrong fields"):
        unpack_replies(msgpack.packb([CLIENT_VERSION, 1, [item]]))


def test_no_declared_size_is_believed() -> None:
    """A few bytes that announce four billion elements are refused at once."""
    for head in (b"\xdd", b"\xdf", b"\xc6", b"\xdb"):
        for decode in DECODERS.values():
            assert not try_decode(decode, head + b"\xff\xff\xff\xff")
    assert not try_decode(unpack_peer, b"\x91" * 100_000)


def test_a_vote_is_not_taken_for_an_append() -> None:
    cache = EntriesCache()
    assert type(unpack_peer(pack_peer(RequestVote(1, 2, 3, True, False), cache))) is RequestVote
    assert type(unpack_peer(pack_peer(AppendReply(1, True, 2, 3, 4), cache))) is AppendReply
