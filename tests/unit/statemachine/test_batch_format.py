"""The bytes of batches and of their results; and batches that are none."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from batch_driver import Pair, send
from hypothesis import given, settings
from hypothesis import strategies as st
from statemachine_driver import Driver

from zraft.statemachine.codec import (
    MAX_BATCH_COMMANDS,
    CodecError,
    Op,
    ResultCode,
    batch_results,
    decode_command,
    decode_result,
    encode_result,
    encode_revisions,
    pack_batch,
)

MOST = 2**64 - 1


@pytest.fixture
def driver() -> Driver:
    return Driver()


def test_the_bytes_of_a_batch_are_those_of_the_format() -> None:
    data = pack_batch(9, 3, 1, [(Op.SET, b"k", b"v"), (Op.DELETE, b"k")])
    assert msgpack.unpackb(data) == [9, 3, 1, 6, [[3, b"k", b"v"], [4, b"k"]]]
    assert decode_command(data) == (9, 3, 1, 6, (((3, b"k", b"v"), (4, b"k")),))
    assert MAX_BATCH_COMMANDS == 256


# ---- batches that are none ---------------------------------------------------------------------------------------

RIGHT = [3, b"k", b"v"]
MALFORMED: dict[str, list[Any]] = {
    "no argument": [],
    "two arguments": [[RIGHT], [RIGHT]],
    "empty": [[]],
    "no array": [b"k"],
    "none": [None],
    "a map": [{}],
    "a command that is no array": [[RIGHT, 3]],
    "a command of bytes": [[b"\x03kv"]],
    "a command that is a map": [[{}, RIGHT]],
    "an empty command": [[RIGHT, []]],
    "a command without an integer": [[[b"k", b"v"]]],
    "a command with true": [[RIGHT, [True, b"k", b"v"]]],
    "a command with a fraction": [[[3.0, b"k", b"v"]]],
    "a command with a fraction before one without": [[[3.0, b"k", b"v"], RIGHT]],
    "a command with a fraction after one without": [[RIGHT, [3.0, b"k", b"v"]]],
    "a command that begins with an array": [[RIGHT, [[3], b"k", b"v"]]],
    "a command that begins with a map": [[RIGHT, [{}, b"k", b"v"]]],
    "a command that begins with an array of a map": [[[[{}], b"k", b"v"]]],
    "an opening": [[RIGHT, [1]]],
    "a closing": [[RIGHT, [2]]],
    "a batch": [[RIGHT, [6, [RIGHT]]]],
    "an unknown command": [[RIGHT, [7, b"k"]]],
    "a negative command": [[[-3, b"k", b"v"]]],
    "one command more than may be": [[RIGHT] * (MAX_BATCH_COMMANDS + 1)],
}


def assert_refused(driver: Driver, data: bytes) -> None:
    """It is a result, has no effect, uses no session, and the next entry goes on."""
    session = driver.open()
    driver.set(session, 1, b"k", b"before")
    before = driver.machine.state_hash
    code, text = driver.raw(data)
    assert code == ResultCode.BAD_COMMAND
    assert text
    assert "\n" not in text
    assert driver.machine.state_hash == before
    assert driver.set(session, 2, b"k", b"v") == (0, 2)
    assert driver.machine.last_applied == 4
    assert driver.replayed().state_hash == driver.machine.state_hash


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_batch_is_a_result_and_the_next_entry_goes_on(driver: Driver, name: str) -> None:
    assert_refused(driver, msgpack.packb([1, 2, 0, int(Op.BATCH), *MALFORMED[name]]))


@pytest.mark.parametrize("count", [2, 5, MAX_BATCH_COMMANDS])
def test_a_batch_whose_numbers_are_too_large_is_refused(driver: Driver, count: int) -> None:
    assert_refused(driver, pack_batch(1, MOST - count + 2, 0, [(Op.SET, b"k", b"v")] * count))


@pytest.mark.parametrize("envelope", [[1, 0, 0], [1, 2, 2], [True, 2, 0], [1, 2.0, 0], [1, -2, -3], [None, 1, 0]])
def test_a_batch_in_a_wrong_envelope_is_refused(driver: Driver, envelope: list[Any]) -> None:
    assert_refused(driver, msgpack.packb([*envelope, int(Op.BATCH), [RIGHT]]))


def test_as_many_commands_as_may_be_are_taken(driver: Driver) -> None:
    session = driver.open()
    for first, op in ((1, (Op.SET, b"k", b"v")), (1001, (Op.DELETE, b"absent"))):
        assert len(send(driver, session, first, 0, *[op] * MAX_BATCH_COMMANDS)) == MAX_BATCH_COMMANDS
    assert driver.machine.revision == MAX_BATCH_COMMANDS
    answers = send(driver, session, MOST - MAX_BATCH_COMMANDS + 1, 0, *[(Op.SET, b"k", b"v")] * MAX_BATCH_COMMANDS)
    assert answers[-1] == (0, 2 * MAX_BATCH_COMMANDS), "numbers up to the last one"


scalars = st.none() | st.booleans() | st.integers(-1, 8) | st.binary(max_size=2) | st.text(max_size=2) | st.floats()
anything = st.recursive(scalars | st.just({}), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
nearly_commands = st.lists(st.integers(3, 5) | st.sampled_from([3.0, 4.0, True]), min_size=1, max_size=1).flatmap(
    lambda op: st.lists(st.binary(max_size=2) | anything, max_size=3).map(lambda arguments: [*op, *arguments])
)


@given(st.lists(st.lists(nearly_commands | anything, max_size=3), max_size=4))
@settings(deadline=None, derandomize=True, max_examples=150)
def test_no_content_of_a_batch_raises_and_what_is_taken_has_an_answer_for_each(batches: list[list[Any]]) -> None:
    driver = Driver()
    session = driver.open()
    for first, commands in enumerate(batches):
        code, answers = driver.raw(msgpack.packb([session, 10 * first + 1, 0, int(Op.BATCH), commands]))
        if code == ResultCode.OK:
            assert len(answers) == len(commands)
            assert all(type(command) is list and type(command[0]) is int for command in commands)
        else:
            assert code == ResultCode.BAD_COMMAND
    assert driver.machine.last_applied == 1 + len(batches)
    assert driver.replayed().state_hash == driver.machine.state_hash


# ---- results -----------------------------------------------------------------------------------------------------

BORDERS = [1, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32]


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("count", [1, 2, 3, MAX_BATCH_COMMANDS])
def test_revisions_are_encoded_as_single_results_are(border: int, count: int) -> None:
    for first in {*range(max(1, border - 300), border + 301, 37), *range(max(1, border - count - 2), border + 3)}:
        expected = [encode_result(ResultCode.OK, revision) for revision in range(first, first + count)]
        assert encode_revisions(first, count) == expected, first


@pytest.mark.parametrize("border", BORDERS)
def test_revisions_that_grow_over_a_border_are_answered_as_one_by_one(border: int) -> None:
    pair = Pair()
    session = pair.open()
    for each in (pair.batched, pair.single):
        each.machine._store.revision = max(0, border - 5)
    pair.send(session, 1, 0, [(Op.SET, b"k%d" % at, b"v") for at in range(10)])


def test_the_results_of_a_batch_are_taken_apart() -> None:
    one, two = encode_result(ResultCode.OK, 7), encode_result(ResultCode.ALREADY_ANSWERED)
    result = decode_result(encode_result(ResultCode.OK, [one, two]))
    assert list(batch_results(result, 2)) == [one, two]
    assert list(batch_results((0, (one,)), 1)) == [one]


@pytest.mark.parametrize(
    ("values", "count", "words"),
    [
        ([], 1, "not the results of 1 commands"),
        ([7], 1, "not the results of 1 commands"),
        ([None], 2, "not the results of 2 commands"),
        ([b"\x91\x00"], 2, "not the results of 2 commands"),
        ([[]], 1, "not the results of 1 commands"),
        ([[b"", b""]], 1, "not the results of 1 commands"),
        ([[b""]], 2, "not the results of 2 commands"),
        ([[b"", None]], 2, "a result that is no bytes"),
        ([["", ""]], 2, "a result that is no bytes"),
        ([[0, [0]]], 2, "a result that is no bytes"),
    ],
)
def test_what_are_no_results_of_a_batch_is_refused_in_words(values: list[Any], count: int, words: str) -> None:
    with pytest.raises(CodecError, match=words):
        batch_results(decode_result(encode_result(ResultCode.OK, *values)), count)


@pytest.mark.parametrize(
    "data",
    [
        b"\x91\xdd\xff\xff\xff\xff",
        b"\x92\x00\xdd\xff\xff\xff\xff",
        encode_result(ResultCode.OK, [b"1", b"2"])[:-1],
        encode_result(ResultCode.OK, [b"1", b"2"]) + b"\0",
    ],
)
def test_bytes_that_are_no_result_of_a_batch_are_refused(data: bytes) -> None:
    with pytest.raises(CodecError, match="not a result"):
        decode_result(data)
