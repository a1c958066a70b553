"""From the pieces of a snapshot to a machine that goes on like the one they came from; and pieces that are wrong."""

from __future__ import annotations

import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statemachine_driver import Driver, restored

from zraft.errors import ZraftError
from zraft.statemachine import sessions
from zraft.statemachine.codec import (
    MAX_BATCH_COMMANDS,
    MAX_CHUNK_BYTES,
    MAX_CHUNK_ROWS,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Op,
    ResultCode,
    decode_chunk,
    encode_chunk,
)
from zraft.statemachine.frozen import END, HEAD, KEYS, SESSIONS
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.record import FIELDS_BYTES, entry_of, make_record
from zraft.statemachine.sessions import MAX_SESSIONS, MAX_UNANSWERED, SESSION_TIMEOUT_MS
from zraft.statemachine.snapshot import Restoring, SnapshotError

MOST = 2**64 - 1


def pieces_of(machine: StateMachine, max_bytes: int = 64 * 1024) -> list[bytes]:
    frozen = machine.freeze()
    return list(iter(lambda: frozen.next_chunk(max_bytes), None))  # type: ignore[arg-type]


def goes_on_from(driver: Driver) -> Driver:
    """A driver whose machine was restored from the pieces of `driver`'s."""
    successor = Driver()
    successor.machine = restored(pieces_of(driver.machine, 100))
    successor.time_ms = driver.time_ms
    return successor


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    first, second = driver.open(), driver.open()
    for number in range(1, 6):
        driver.set(first, number, b"key %d" % number, b"value")
        driver.set(second, number, b"key %d" % (number + 2), b"other", acknowledged=number - 1)
    driver.command(first, 6, 2, Op.DELETE, b"key 1")
    return driver


def test_a_restored_machine_is_equal_to_the_one_before(driver: Driver) -> None:
    before, after = driver.machine, goes_on_from(driver).machine
    for name in ("last_applied", "revision", "key_count", "session_count", "state_hash"):
        assert getattr(after, name) == getattr(before, name), name
    assert pieces_of(after) == pieces_of(before)
    assert goes_on_from(driver).keys() == driver.keys()


def test_the_empty_machine_is_restored_too() -> None:
    assert restored(pieces_of(StateMachine())).state_hash == StateMachine().state_hash


def test_trap_16_a_retry_after_a_restore_gets_the_first_answer(driver: Driver) -> None:
    successor = goes_on_from(driver)
    revision = successor.machine.revision
    assert successor.set(1, 3, b"key 3", b"value") == (0, 5)
    assert successor.command(1, 6, 2, Op.DELETE, b"key 1") == (0, True, 11)
    assert successor.set(1, 2, b"key 2", b"value") == (ResultCode.ALREADY_ANSWERED,)
    assert successor.machine.revision == revision
    assert successor.set(1, 7, b"new", b"value") == (0, 12)


def test_trap_17_sessions_expire_after_a_restore_when_they_would_have(driver: Driver) -> None:
    driver.time_ms += SESSION_TIMEOUT_MS // 2
    driver.set(1, 7, b"k", b"v")
    successor = goes_on_from(driver)
    for each in (driver, successor):
        each.time_ms += SESSION_TIMEOUT_MS // 2 - 1
        each.skip()
        assert each.machine.session_count == 2
        each.time_ms += 1
        each.skip()
        assert each.machine.session_count == 1
        assert each.set(2, 6, b"k", b"v") == (ResultCode.SESSION_UNKNOWN,)
        each.time_ms += SESSION_TIMEOUT_MS // 2
        each.skip()
        assert each.machine.session_count == 0
    assert successor.machine.state_hash == driver.machine.state_hash


def test_log_time_does_not_go_back_after_a_restore(driver: Driver) -> None:
    driver.time_ms = 10 * SESSION_TIMEOUT_MS
    session = driver.open()
    successor = goes_on_from(driver)
    successor.time_ms = 1
    successor.set(session, 1, b"k", b"v")
    successor.time_ms = 11 * SESSION_TIMEOUT_MS - 1
    assert successor.set(session, 2, b"k", b"v")[0] == ResultCode.OK


def test_the_least_recently_used_session_goes_first_after_a_restore(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 4)
    driver = Driver()
    opened = [driver.open() for _ in range(4)]
    for session in (opened[2], opened[0], opened[3], opened[1]):
        driver.set(session, 1, b"k", b"v")
    successor = goes_on_from(driver)
    for gone in (opened[2], opened[0], opened[3], opened[1]):
        driver.open()
        successor.open()
        assert successor.set(gone, 2, b"k", b"v") == (ResultCode.SESSION_UNKNOWN,)
        driver.set(gone, 2, b"k", b"v")
        assert successor.machine.state_hash == driver.machine.state_hash


def test_as_many_sessions_and_answers_as_may_be_are_restored() -> None:
    driver = Driver()
    first = driver.open()
    for number in range(1, MAX_UNANSWERED + 1):
        driver.command(first, number, 0, Op.DELETE, b"absent")
    for _ in range(MAX_SESSIONS - 1):
        driver.open()
    machine = restored(pieces_of(driver.machine))
    assert (machine.session_count, machine.state_hash) == (MAX_SESSIONS, driver.machine.state_hash)


def test_the_largest_key_and_value_and_the_empty_ones_are_restored() -> None:
    driver = Driver()
    session = driver.open()
    for number, (key, value) in enumerate([(b"", b""), (b"k" * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES)], start=1):
        driver.set(session, number, key, value)
    assert restored(pieces_of(driver.machine)).state_hash == driver.machine.state_hash


# ---- pieces that are wrong ---------------------------------------------------------------------------------------


def test_a_piece_missing_doubled_or_out_of_order_is_refused(driver: Driver) -> None:
    pieces = pieces_of(driver.machine, 100)
    assert len(pieces) > 8
    for at in range(len(pieces)):
        for wrong in (
            pieces[:at],
            pieces[:at] + pieces[at + 1 :],
            pieces[: at + 1] + pieces[at:],
            [*pieces, pieces[at]],
            pieces[:at] + pieces[at + 1 : at + 2] + pieces[at : at + 1] + pieces[at + 2 :],
        ):
            if wrong != pieces:
                with pytest.raises(SnapshotError):
                    restored(wrong)


def test_a_piece_cut_short_or_with_more_behind_it_is_refused(driver: Driver) -> None:
    for piece in pieces_of(driver.machine):
        for cut in range(len(piece)):
            with pytest.raises(SnapshotError):
                Restoring().feed(piece[:cut])
        with pytest.raises(SnapshotError):
            Restoring().feed(piece + b"\x00")


@given(st.data())
@settings(deadline=None, derandomize=True, max_examples=200)
def test_a_changed_byte_is_refused_or_changes_nothing(data: st.DataObject) -> None:
    driver = Driver()
    session = driver.open()
    driver.set(session, 1, b"a", b"1")
    driver.set(session, 2, b"b", b"2")
    driver.open()
    pieces = pieces_of(driver.machine)
    at = data.draw(st.integers(0, len(pieces) - 1))
    changed = bytearray(pieces[at])
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        machine = restored([*pieces[:at], bytes(changed), *pieces[at + 1 :]])
    except SnapshotError:
        return
    # What the state hash does not cover is last_applied, which the head of the file says as well.
    assert machine.state_hash == driver.machine.state_hash


def test_after_an_error_nothing_comes_of_it_any_more(driver: Driver) -> None:
    head, *others = pieces_of(driver.machine)
    restoring = Restoring()
    restoring.feed(head)
    with pytest.raises(SnapshotError, match="piece 2 of the snapshot is wrong"):
        restoring.feed(b"")
    for piece in others:
        with pytest.raises(SnapshotError, match="earlier piece"):
            restoring.feed(piece)
    with pytest.raises(SnapshotError, match="earlier piece"):
        restoring.finish()


numbers = st.integers(-1, 5) | st.integers(0, MOST)
scalars = st.none() | st.booleans() | numbers | st.binary(max_size=3) | st.text(max_size=3)
columns = st.lists(scalars | st.floats() | st.lists(scalars, max_size=4), max_size=4)
shaped = st.tuples(st.integers(0, 5), st.lists(columns, max_size=7)).map(
    lambda kind: msgpack.packb([kind[0], *kind[1]])
)


@given(st.sampled_from([1, 2]), st.lists(st.binary(max_size=40) | shaped, max_size=3))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_any_bytes_are_refused_in_words(format_number: int, garbage: list[bytes]) -> None:
    restoring = Restoring()
    restoring.feed(encode_chunk(HEAD, format_number, 9, 9, 5, 2, 2))
    with pytest.raises(ZraftError) as caught:
        for piece in garbage:
            restoring.feed(piece)
        restoring.finish()
    assert type(caught.value) is SnapshotError
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_array_headers_that_promise_more_than_there_is_allocate_nothing() -> None:
    for bomb in (b"\xdd\xff\xff\xff\xff", b"\x92\x02\xdd\xff\xff\xff\xff", b"\x92\x02" + b"\xdc\xff\xff" * 100_000):
        with pytest.raises(SnapshotError, match="piece 1 of the snapshot is wrong"):
            Restoring().feed(bomb)
    with pytest.raises(SnapshotError, match="the limit is"):
        Restoring().feed(b"\x00" * (MAX_CHUNK_BYTES + 1))


def test_arrays_within_arrays_that_promise_much_take_little_memory() -> None:
    bomb = b"\x92\x02" + b"\xdd\x00\x00\x75\x30" * 500 + b"\x00" * 30_000  # 500 deep, each to have 30,000 elements
    tracemalloc.start()
    try:
        with pytest.raises(SnapshotError):
            Restoring().feed(bomb)
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


GOOD_COLUMNS = ((b"a", b"b"), (b"1", b"2"), (1, 2), (1, 3), (1, 2))  # keys, values, revisions and versions


def columns_with(column: int, *values: Any) -> tuple[Any, ...]:
    """A piece of format 1, but for one column (they count from 1 on)."""
    return (KEYS, *GOOD_COLUMNS[: column - 1], values, *GOOD_COLUMNS[column:])


def keys_with(column: int, *values: Any) -> tuple[Any, ...]:
    """The same as a piece of format 2: keys and records."""
    _, *columns = columns_with(column, *values)
    return KEYS, columns[0], tuple(map(make_record, *columns))


GOOD_KEYS = keys_with(1, b"a", b"b")
RECORD = GOOD_KEYS[2][1]


def flipped(record: bytes, at: int) -> bytes:
    return record[:at] + bytes([record[at] ^ 1]) + record[at + 1 :]


def row(*fields: Any) -> tuple[Any, ...]:
    return (SESSIONS, (fields,))


WRONG = {
    "no head": (GOOD_KEYS,),
    "a format of tomorrow": ((HEAD, 3, "whatever"),),
    "a format that is no number": ((HEAD, "2", 9, 9, 5, 2, 2),),
    "a format that is true": ((HEAD, True, 9, 9, 5, 2, 2),),
    "a head too short": ((HEAD, 2, 9, 9, 5, 2),),
    "a head too long": ((HEAD, 2, 9, 9, 5, 2, 2, 2),),
    "a negative number": ((HEAD, 2, 9, -1, 5, 2, 2),),
    "a revision above what so many entries can make": ((HEAD, 2, 9, 9, 9 * MAX_BATCH_COMMANDS + 1, 2, 2),),
    "more keys than revisions": ((HEAD, 2, 9, 9, 5, 6, 2),),
    "more sessions than may be": ((HEAD, 2, MOST, 9, 5, 2, MAX_SESSIONS + 1),),
    "a second head": (None, (HEAD, 2, 9, 9, 5, 2, 2)),
    "an unknown kind": (None, (9,)),
    "a kind of zero": (None, (0,)),
    "no columns": (None, (KEYS,)),
    "one column": (None, GOOD_KEYS[:2]),
    "the columns of format 1": (None, (KEYS, *GOOD_COLUMNS)),
    "a column that is none": (None, (KEYS, (b"a", b"b"), 7)),
    "no rows": (None, (KEYS, (), ())),
    "columns of different lengths": (None, (KEYS, (b"a", b"b"), (RECORD,))),
    "keys that descend": (None, keys_with(1, b"b", b"a")),
    "a key twice": (None, keys_with(1, b"a", b"a")),
    "a key again in a later piece": (None, (KEYS, (b"b",), (RECORD,)), GOOD_KEYS),
    "more keys than said": (None, GOOD_KEYS, (KEYS, (b"c",), (make_record(b"c", b"", 1, 1, 1),))),
    "a key of text": (None, (KEYS, (b"a", "b"), GOOD_KEYS[2])),
    "a record of text": (None, (KEYS, (b"a", b"b"), (GOOD_KEYS[2][0], "b"))),
    "a record that is too short": (None, (KEYS, (b"b",), (RECORD[: FIELDS_BYTES - 1],))),
    "a key too long": (None, keys_with(1, b"a", b"b" * (MAX_KEY_BYTES + 1))),
    "a value too long": (None, keys_with(2, b"", b"b" * (MAX_VALUE_BYTES + 1))),
    "a revision of zero": (None, keys_with(3, 0, 2)),
    "a version of zero": (None, keys_with(5, 1, 0)),
    "modified before created": (None, keys_with(4, 1, 1)),
    "modified in the future": (None, keys_with(4, 1, 6)),
    "modified more often than there were revisions": (None, keys_with(5, 2, 2)),
    "a record of another key": (None, (KEYS, (b"c",), (RECORD,))),
    # Its digest is right: key and value are digested one behind the other.
    "a record of a shorter key": (None, (KEYS, (b"b2",), (make_record(b"b", b"2x", 1, 1, 1)[:-2] + b"x",))),
    **{
        f"a record that is wrong at byte {at}": (None, (KEYS, (b"b",), (flipped(RECORD, at),)))
        for at in (0, 7, 8, 12, 20, 28, FIELDS_BYTES)
    },
    "keys after sessions": (None, row(1, 0, 2, 9), GOOD_KEYS),
    "an answer without a session": (None, row(1, b"")),
    "a row of three": (None, row(1, 0, 2)),
    "a row that is none": (None, (SESSIONS, (7,))),
    "no session rows": (None, (SESSIONS, ())),
    "session rows in two arrays": (None, (SESSIONS, ((1, 0, 2, 9),), ((2, 0, 3, 9),))),
    "session 0": (None, row(0, 0, 2, 9)),
    "a session from the future": (None, row(10, 0, 10, 9)),
    "sessions that descend": (None, (SESSIONS, ((2, 0, 3, 9), (1, 0, 4, 9)))),
    "a session twice": (None, row(1, 0, 2, 9), row(1, 0, 3, 9)),
    "more sessions than said": (None, (SESSIONS, tuple((n, 0, n + 3, 9) for n in (1, 2, 3)))),
    "used before it was opened": (None, row(2, 0, 1, 9)),
    "used in the future": (None, row(2, 0, 10, 9)),
    "used at a later time than there was": (None, row(2, 0, 3, 10)),
    "a session of texts": (None, row(1, "0", 2, 9)),
    "an answer that was acknowledged": (None, (SESSIONS, ((1, 4, 5, 9), (4, b"")))),
    "an answer twice": (None, (SESSIONS, ((1, 0, 5, 9), (4, b""), (4, b"")))),
    "answers that descend": (None, (SESSIONS, ((1, 0, 5, 9), (4, b""), (3, b"")))),
    "an answer of text": (None, (SESSIONS, ((1, 0, 5, 9), (4, "")))),
    "an end without a hash": (None, GOOD_KEYS, (SESSIONS, ((1, 0, 3, 9), (2, 0, 4, 9))), (END,)),
    "an end with a number": (None, GOOD_KEYS, (SESSIONS, ((1, 0, 3, 9), (2, 0, 4, 9))), (END, 7)),
    "keys missing": (None, (SESSIONS, ((1, 0, 3, 9), (2, 0, 4, 9))), (END, "0" * 16)),
    "sessions missing": (None, GOOD_KEYS, row(1, 0, 3, 9), (END, "0" * 16)),
    "something after the end": ((HEAD, 2, 0, 0, 0, 0, 0), (END, "0" * 16), (END, "0" * 16)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_no_machine_can_have_made_is_refused_at_once(name: str) -> None:
    *good, wrong = WRONG[name]
    restoring = Restoring()
    for fields in good:
        restoring.feed(encode_chunk(*(fields or (HEAD, 2, 9, 9, 5, 2, 2))))
    with pytest.raises(SnapshotError):
        restoring.feed(encode_chunk(*wrong))


WRONG_COLUMNS = {
    "the records of format 2": GOOD_KEYS,
    "no columns": (KEYS,),
    "four columns": (KEYS, *GOOD_COLUMNS[:4]),
    "a column that is none": (KEYS, *GOOD_COLUMNS[:4], 7),
    "no rows": (KEYS, (), (), (), (), ()),
    "columns of different lengths": columns_with(2, b"1"),
    "keys that descend": columns_with(1, b"b", b"a"),
    "a key of text": columns_with(1, b"a", "b"),
    "a value of none": columns_with(2, b"1", None),
    "a value too long": columns_with(2, b"", b"b" * (MAX_VALUE_BYTES + 1)),
    "a revision of zero": columns_with(3, 0, 2),
    "a negative revision": columns_with(4, -1, 2),
    "a version of zero": columns_with(5, 1, 0),
    "a revision that is true": columns_with(3, True, 2),
    "a revision with a fraction": columns_with(4, 1.0, 3),
    "modified in the future": columns_with(4, 1, 6),
}


@pytest.mark.parametrize("name", WRONG_COLUMNS)
def test_what_was_no_state_in_format_1_is_refused_too(name: str) -> None:
    restoring = Restoring()
    restoring.feed(encode_chunk(HEAD, 1, 9, 9, 5, 2, 2))
    with pytest.raises(SnapshotError):
        restoring.feed(encode_chunk(*WRONG_COLUMNS[name]))


def test_a_state_in_format_1_is_read_as_it_was_written() -> None:
    """Seven sets, the last as command 7, and a delete, written by zraft before records were bytes."""
    restoring = Restoring()
    for piece in (
        "97010109cd03e8080201",
        "960292c4056b65792030c4056b6579203292c40776616c75652036c40776616c75652035920302920605920202",
        "92039394010609cd03e89207c4039200079208c4049300c308",
        "9204b038613436613562653536656664636261",
    ):
        restoring.feed(bytes.fromhex(piece))
    driver = Driver()
    driver.machine = restoring.finish()
    assert driver.machine.state_hash == "8a46a5be56efdcba"
    assert driver.keys() == [(b"key 0", b"value 6", 3, 6, 2), (b"key 2", b"value 5", 2, 5, 2)]


def test_a_large_state_in_format_1_is_read() -> None:
    driver = Driver()
    session = driver.open()
    for number in range(1, 600):
        driver.set(session, number, b"key %d" % (number % 400), b"value %d" % number)
    restoring = Restoring()
    for piece in pieces_of(driver.machine):
        kind, *fields = decode_chunk(piece)
        if kind == HEAD:
            fields[0] = 1
        elif kind == KEYS:
            fields = list(zip(*map(entry_of, *fields), strict=True))
        restoring.feed(encode_chunk(kind, *fields))
    machine = restoring.finish()
    assert machine.state_hash == driver.machine.state_hash
    assert pieces_of(machine) == pieces_of(driver.machine), "and it is written as the others"


def test_the_good_pieces_beside_the_wrong_ones_are_good() -> None:
    restoring = Restoring()
    for fields in ((HEAD, 2, 9, 9, 5, 2, 2), GOOD_KEYS, (SESSIONS, ((1, 3, 5, 9), (4, b""), (2, 0, 4, 9)))):
        restoring.feed(encode_chunk(*fields))
    restoring.feed(encode_chunk(END, "0" * 16))
    with pytest.raises(SnapshotError, match="does not hold the state that it was made of"):
        restoring.finish()


@pytest.mark.parametrize("last_used", [((4, 9), (4, 9)), ((3, 9), (4, 8))], ids=["at one entry", "back in time"])
def test_sessions_that_were_used_in_no_possible_order_are_refused(last_used: Any) -> None:
    restoring = Restoring()
    rows = tuple((number, 0, *used) for number, used in enumerate(last_used, start=1))
    for fields in ((HEAD, 2, 9, 9, 0, 0, 2), (SESSIONS, rows), (END, "0" * 16)):
        restoring.feed(encode_chunk(*fields))
    with pytest.raises(SnapshotError, match="impossible"):
        restoring.finish()


def test_more_answers_than_a_session_may_have_are_refused() -> None:
    restoring = Restoring()
    restoring.feed(encode_chunk(HEAD, 2, 9, 9, 0, 0, 1))
    restoring.feed(encode_chunk(*row(1, 0, 2, 9)))
    for first in range(1, MAX_UNANSWERED + 1, MAX_CHUNK_ROWS):
        restoring.feed(encode_chunk(SESSIONS, [(number, b"") for number in range(first, first + MAX_CHUNK_ROWS)]))
    with pytest.raises(SnapshotError, match="more than 8192 answers"):
        restoring.feed(encode_chunk(SESSIONS, [(MAX_UNANSWERED + 1, b"")]))


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(SnapshotError, match="its format is 3; this version of zraft reads formats 1 and 2 alone"):
        Restoring().feed(encode_chunk(HEAD, 3))


def test_a_restore_that_is_given_up_is_freed_in_slices(driver: Driver) -> None:
    restoring = Restoring()
    pieces = pieces_of(driver.machine)
    for piece in pieces[:-1]:
        restoring.feed(piece)
    assert [restoring.discard_slice(3) for _ in range(4)] == [True, True, False, False]
    with pytest.raises(SnapshotError):
        restoring.feed(pieces[-1])
