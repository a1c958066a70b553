"""Commands, queries and results: what goes through unchanged, and what is refused in words."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.errors import ZraftError
from zraft.statemachine import codec
from zraft.statemachine.codec import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    CodecError,
    Op,
    Query,
    ResultCode,
    check_arguments,
    decode_command,
    decode_query,
    decode_result,
    encode_command,
    encode_query,
    encode_result,
    prefix_end,
)

KEY, VALUE = b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        (Op.CLOSE_SESSION, ()),
        (Op.SET, (KEY, VALUE)),
        (Op.SET, (b"", b"")),
        (Op.DELETE, (KEY,)),
        (Op.CAS, (KEY, None, VALUE)),
        (Op.CAS, (KEY, VALUE, b"")),
    ],
)
def test_a_command_comes_back_as_it_went_in(op: Op, arguments: tuple[bytes | None, ...]) -> None:
    data = encode_command(7, 2**64 - 1, 5, op, *arguments)
    assert decode_command(data) == (7, 2**64 - 1, 5, op, arguments)


def test_the_bytes_of_a_command_and_a_result_are_those_of_the_format() -> None:
    assert msgpack.unpackb(encode_command(9, 3, 1, Op.CAS, b"k", None, b"v")) == [9, 3, 1, 5, b"k", None, b"v"]
    assert msgpack.unpackb(encode_command(0, 0, 0, Op.OPEN_SESSION)) == [0, 0, 0, 1]
    assert msgpack.unpackb(encode_query(Query.RANGE, b"a", None, 10, 20)) == [2, b"a", None, 10, 20]
    assert msgpack.unpackb(encode_result(ResultCode.BAD_COMMAND, "why")) == [2, "why"]
    assert [(code.name, code.value) for code in ResultCode] == [
        ("OK", 0), ("SESSION_UNKNOWN", 1), ("BAD_COMMAND", 2), ("ALREADY_ANSWERED", 3), ("TOO_MANY_UNANSWERED", 4),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([], "at least 4 fields"),
        ([1, 2, 0], "at least 4 fields"),
        (["1", 2, 0, 3], "session must be an integer"),
        ([True, 2, 0, 3], "session must be an integer"),
        ([-1, 2, 0, 3], "session must be an integer"),
        ([1, 2.0, 0, 3], "number must be an integer"),
        ([1, -2, -3, 3], "number must be an integer"),
        ([1, 2, None, 3], "acknowledged must be an integer"),
        ([1, 2, -1, 3], "acknowledged must be an integer"),
        ([1, 2, 0, b"3"], "op must be an integer"),
        ([1, 2, 0, True], "op must be an integer"),
        ([1, 0, 0, 3, b"k", b"v"], "number must be above acknowledged"),
        ([1, 2, 2, 3, b"k", b"v"], "number must be above acknowledged"),
        ([1, 0, 0, 1], "session 0"),
        ([0, 1, 0, 1], "session 0"),
    ],
)
def test_an_envelope_that_does_not_fit_is_refused_in_words(fields: list[object], words: str) -> None:
    with pytest.raises(CodecError, match=words):
        decode_command(msgpack.packb(fields))


@pytest.mark.parametrize(
    ("op", "arguments", "words"),
    [
        (Op.OPEN_SESSION, (b"",), "0 arguments"),
        (Op.CLOSE_SESSION, (b"",), "0 arguments"),
        (Op.SET, (b"k",), r"set takes 2 arguments \(key, value\), not 1"),
        (Op.SET, (b"k", b"v", b"x"), "set takes 2 arguments"),
        (Op.SET, ("k", b"v"), "key must be bytes, not str"),
        (Op.SET, (b"k", None), "value must be bytes, not NoneType"),
        (Op.SET, (KEY + b"k", b""), "key has 4097 bytes; the limit is 4096"),
        (Op.SET, (b"", VALUE + b"v"), "value has 1048577 bytes; the limit is 1048576"),
        (Op.DELETE, (), "takes 1 arguments"),
        (Op.DELETE, (KEY + b"k",), "key has 4097 bytes"),
        (Op.CAS, (b"k", None), "cas takes 3 arguments"),
        (Op.CAS, (KEY + b"k", None, b""), "key has 4097 bytes"),
        (Op.CAS, (b"k", VALUE + b"v", b""), "value has 1048577 bytes"),
        (Op.CAS, (b"k", 5, b""), "value must be bytes, not int"),
        (Op.CAS, (b"k", None, None), "value must be bytes, not NoneType"),
        (7, (), r"unknown command 7; known are 1 \(OPEN_SESSION\)"),
        (-1, (), "unknown command -1"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_words(op: int, arguments: tuple[object, ...], words: str) -> None:
    with pytest.raises(CodecError, match=words):
        check_arguments(op, arguments)


def test_encoding_refuses_what_decoding_would() -> None:
    with pytest.raises(CodecError, match="limit is 4096"):
        encode_command(1, 1, 0, Op.DELETE, KEY + b"k")
    with pytest.raises(CodecError, match="number must be above acknowledged"):
        encode_command(1, 1, 1, Op.DELETE, b"k")
    with pytest.raises(CodecError, match="number must be an integer"):
        encode_command(1, 2**64, 1, Op.DELETE, b"k")
    with pytest.raises(CodecError, match="limit is 4096"):
        encode_query(Query.GET, KEY + b"k")
    with pytest.raises(CodecError, match="range limit must be an integer"):
        encode_query(Query.RANGE, b"", None, 2**64, 1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ([], "begins with an integer"),
        ([True, b"k"], "begins with an integer"),
        ([3, b"k"], r"unknown query 3; known are 1 \(GET\), 2 \(RANGE\)"),
        ([1], "takes 1 arguments"),
        ([1, KEY + b"k"], "limit is 4096"),
        ([2, b"", None, 1], "range takes 4 arguments"),
        ([2, None, None, 1, 1], "range start must be bytes"),
        ([2, KEY + b"00", None, 1, 1], "range start has 4098 bytes"),
        ([2, b"", "z", 1, 1], "range end must be bytes"),
        ([2, b"", None, 0, 1], "range limit must be an integer from 1"),
        ([2, b"", None, 1, 0], "range max_bytes must be an integer from 1"),
        ([2, b"", None, True, 1], "range limit must be an integer from 1"),
    ],
)
def test_a_query_that_does_not_fit_is_refused_in_words(fields: list[object], words: str) -> None:
    with pytest.raises(CodecError, match=words):
        decode_query(msgpack.packb(fields))


def test_a_query_comes_back_as_it_went_in() -> None:
    after_longest_key = KEY + b"\0"
    for query, arguments in [(Query.GET, (KEY,)), (Query.RANGE, (after_longest_key, after_longest_key, 1, 2**64 - 1))]:
        assert decode_query(encode_query(query, *arguments)) == (query, arguments)


def test_a_result_comes_back_with_its_entries_as_tuples() -> None:
    entry = (b"k", b"v", 3, 9, 4)
    assert decode_result(encode_result(ResultCode.OK, [entry, entry], True, 9)) == (0, (entry, entry), True, 9)
    assert decode_result(encode_result(77)) == (77,)


@pytest.mark.parametrize("data", [b"", b"\x90", b"\xc0", b"\x91\xc3", msgpack.packb({}), b"\xdd\xff\xff\xff\xff"])
def test_bytes_that_are_no_result_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError, match="not a result"):
        decode_result(data)


@pytest.mark.parametrize("decode", [decode_command, decode_query])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="reserved byte"),
        pytest.param(b"\xc0", id="nil"),
        pytest.param(msgpack.packb([1, 2, 0, 3, b"k", b"v"])[:-1], id="cut short"),
        pytest.param(msgpack.packb([1, b"k"]) + b"\0", id="trailing byte"),
        pytest.param(msgpack.packb([1, {}]), id="map"),
        pytest.param(msgpack.packb([1, msgpack.ExtType(5, b"x")]), id="extension"),
        pytest.param(msgpack.packb([1, 2, 0, 3, "k"])[:-1] + b"\xff", id="string that is not UTF-8"),
    ],
)
def test_bytes_that_are_no_request_are_refused(decode: object, data: bytes) -> None:
    with pytest.raises(CodecError):
        decode(data)  # type: ignore[operator]


@pytest.mark.parametrize("decode", [decode_command, decode_query])
def test_nested_array_headers_allocate_nothing(decode: object) -> None:
    # 500 arrays within each other, each claiming as many elements as the whole has bytes.
    hostile = b"\xdd\x00\x01\x00\x00" * 500 + b"\0" * 0x10000
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode(hostile)  # type: ignore[operator]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_a_codec_error_is_one_that_users_can_catch() -> None:
    assert issubclass(CodecError, ZraftError)


@given(st.binary(max_size=60))
@settings(deadline=None, derandomize=True)
def test_no_bytes_raise_anything_but_a_codec_error(data: bytes) -> None:
    for decode in (decode_command, decode_query, decode_result):
        try:
            decode(data)
        except CodecError as error:
            assert "\n" not in str(error)


@given(st.binary(max_size=4), st.binary(max_size=6))
@settings(deadline=None, derandomize=True)
def test_prefix_end_bounds_exactly_the_keys_that_begin_with_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert (prefix <= key and (end is None or key < end)) == key.startswith(prefix)


def test_prefix_end_of_prefixes_without_a_successor() -> None:
    assert prefix_end(b"") is None
    assert prefix_end(b"\xff\xff") is None
    assert prefix_end(b"a\xff") == b"b"


def test_limits_are_those_of_the_protocol() -> None:
    assert (MAX_KEY_BYTES, MAX_VALUE_BYTES, codec.MAX_BOUND_BYTES) == (4096, 1 << 20, 4097)
