"""The state of one moment, serialized in pieces while entries are applied."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from statemachine_driver import Driver

from zraft.errors import ImpossibleState
from zraft.statemachine import sessions
from zraft.statemachine.codec import MAX_CHUNK_BYTES, MAX_CHUNK_ROWS, MAX_KEY_BYTES, MAX_VALUE_BYTES, Op, decode_chunk
from zraft.statemachine.frozen import END, HEAD, KEYS, SESSIONS, FrozenState
from zraft.statemachine.machine import StateMachine
from zraft.statemachine.record import make_record
from zraft.statemachine.sessions import MAX_UNANSWERED, SESSION_TIMEOUT_MS


def drain(frozen: FrozenState, max_bytes: int = 64 * 1024) -> list[bytes]:
    chunks = []
    while (chunk := frozen.next_chunk(max_bytes)) is not None:
        chunks.append(chunk)
    return chunks


def kinds(chunks: list[bytes]) -> list[int]:
    return [decode_chunk(chunk)[0] for chunk in chunks]


def filled(keys: int, value: bytes = b"v") -> Driver:
    driver = Driver()
    session = driver.open()
    for number in range(1, keys + 1):
        driver.set(session, number, b"key %05d" % number, value, acknowledged=number - 1)
    return driver


def expected_of(driver: Driver, max_bytes: int = 64 * 1024) -> list[bytes]:
    """The pieces of an undisturbed machine that was fed the same log."""
    return drain(driver.replayed().freeze(), max_bytes)


def test_the_empty_state_is_a_head_and_an_end() -> None:
    machine = StateMachine()
    head, end = drain(machine.freeze())
    assert decode_chunk(head) == (HEAD, 2, 0, 0, 0, 0, 0)
    assert decode_chunk(end) == (END, machine.state_hash)


def test_the_layout_is_the_documented_one() -> None:
    driver = Driver()
    session = driver.open()
    driver.set(session, 1, b"b", b"one")
    driver.set(session, 2, b"a", b"two")
    driver.set(session, 3, b"b", b"three", acknowledged=1)
    head, keys, rows, end = [decode_chunk(chunk) for chunk in drain(driver.machine.freeze())]
    assert head == (HEAD, 2, 4, 1000, 3, 2, 1)
    assert keys == (KEYS, (b"a", b"b"), (make_record(b"a", b"two", 2, 2, 1), make_record(b"b", b"three", 1, 3, 2)))
    assert rows == (SESSIONS, ((1, 1, 4, 1000), (2, b"\x92\x00\x02"), (3, b"\x92\x00\x03")))
    assert end == (END, driver.machine.state_hash)


def test_the_layout_of_a_record_is_the_documented_one() -> None:
    record = make_record(b"key", b"value", 1, 3, 2)
    fields = b"\3\0\0\0" + b"".join(number.to_bytes(8, "little") for number in (1, 3, 2))
    assert record == blake2b(fields + b"keyvalue", digest_size=8).digest() + fields + b"value"


def test_a_piece_has_so_many_rows_and_bytes_at_most_but_at_least_one_row() -> None:
    driver = filled(2 * MAX_CHUNK_ROWS + 1)
    rows = [len(decode_chunk(chunk)[1]) for chunk in drain(driver.machine.freeze())[1:-2]]
    assert rows == [MAX_CHUNK_ROWS, MAX_CHUNK_ROWS, 1]
    single = [len(decode_chunk(chunk)[1]) for chunk in drain(driver.machine.freeze(), 1)[1:-2]]
    assert single == [1] * (2 * MAX_CHUNK_ROWS + 1 + 1), "keys one by one, and the session"


def test_no_piece_is_larger_than_one_may_be_whatever_is_asked_for() -> None:
    driver = Driver()
    session = driver.open()
    for number in range(1, 10):
        driver.set(session, number, b"%d" % number * MAX_KEY_BYTES, b"v" * MAX_VALUE_BYTES)
    for max_bytes in (1, 64 * 1024, 1 << 40):
        chunks = drain(driver.machine.freeze(), max_bytes)
        assert max(map(len, chunks)) <= MAX_CHUNK_BYTES
        assert sum(len(decode_chunk(chunk)[1]) for chunk in chunks if decode_chunk(chunk)[0] == KEYS) == 9


def test_the_answers_of_one_session_may_take_several_pieces() -> None:
    driver = Driver()
    first, second = driver.open(), driver.open()
    for number in range(MAX_UNANSWERED, 0, -1):
        driver.command(second, number, 0, Op.DELETE, b"absent")
    driver.command(first, 1, 0, Op.DELETE, b"absent")
    pieces = [decode_chunk(chunk)[1] for chunk in drain(driver.machine.freeze(), 1 << 20)[1:-1]]
    assert {len(piece) for piece in pieces[:-1]} == {MAX_CHUNK_ROWS}
    rows = [row for piece in pieces for row in piece]
    assert [row[0] for row in rows] == [first, 1, second, *range(1, MAX_UNANSWERED + 1)]


def test_what_happens_to_keys_during_the_freeze_is_not_in_it_wherever_the_cursor_is() -> None:
    def overwrite(driver: Driver, key: bytes) -> None:
        driver.set(1, driver.machine.last_applied, key, b"late")

    def delete(driver: Driver, key: bytes) -> None:
        driver.command(1, driver.machine.last_applied, 0, Op.DELETE, key)

    def delete_and_create(driver: Driver, key: bytes) -> None:
        delete(driver, key)
        overwrite(driver, key)

    def create_and_delete(driver: Driver, key: bytes) -> None:
        overwrite(driver, key + b"+")
        delete(driver, key + b"+")

    def back_and_forth(driver: Driver, key: bytes) -> None:
        for _ in range(3):
            delete_and_create(driver, key)
            overwrite(driver, key + b"+")
            overwrite(driver, b"")
        delete(driver, key)

    for change in (overwrite, delete, delete_and_create, create_and_delete, back_and_forth):
        for when in range(7):
            for which in range(1, 6):
                driver = filled(5)
                expected = expected_of(driver, 1)
                frozen = driver.machine.freeze()
                chunks = [frozen.next_chunk(1) for _ in range(when)]
                change(driver, b"key %05d" % which)
                assert chunks + drain(frozen, 1) == expected, (change.__name__, when, which)
                assert driver.machine.state_hash == driver.replayed().state_hash


def test_many_keys_deleted_or_created_ahead_are_more_than_one_look_covers() -> None:
    driver = filled(2_000)
    expected = expected_of(driver)
    frozen = driver.machine.freeze()
    first = [frozen.next_chunk(), frozen.next_chunk()]
    number = 2_000
    for key in range(300, 1_900):
        number += 1
        driver.command(1, number, number - 1, Op.DELETE, b"key %05d" % key)
    for key in range(3_000):
        number += 1
        driver.set(1, number, b"key 01950 %05d" % key, b"new", acknowledged=number - 1)
    assert first + drain(frozen) == expected
    assert driver.machine.key_count == 2_000 - 1_600 + 3_000


def test_a_key_deleted_again_and_again_hides_no_other_deleted_one() -> None:
    driver = filled(2 * MAX_CHUNK_ROWS)
    expected = expected_of(driver)
    frozen = driver.machine.freeze()
    number = 2 * MAX_CHUNK_ROWS
    for _ in range(MAX_CHUNK_ROWS):
        driver.command(1, number + 1, number, Op.DELETE, b"key 00001")
        driver.set(1, number + 2, b"key 00001", b"late", acknowledged=number)
        number += 2
    driver.command(1, number + 1, number, Op.DELETE, b"key 00002")
    assert drain(frozen) == expected


def test_what_happens_to_sessions_during_the_freeze_is_not_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)

    def use(driver: Driver, session: int) -> None:
        driver.set(session, 9, b"k", b"v", acknowledged=1)
        driver.set(session, 10, b"k", b"v", acknowledged=9)

    def close(driver: Driver, session: int) -> None:
        driver.command(session, 9, 0, Op.CLOSE_SESSION)

    def use_and_close(driver: Driver, session: int) -> None:
        use(driver, session)
        driver.command(session, 11, 0, Op.CLOSE_SESSION)

    def push_out(driver: Driver, session: int) -> None:
        for _ in range(session):
            driver.open()

    def expire(driver: Driver, session: int) -> None:
        driver.time_ms += SESSION_TIMEOUT_MS
        driver.skip()

    for change in (use, close, use_and_close, push_out, expire):
        for when in range(13):
            for which in (1, 2, 3):
                driver = Driver()
                for session in (driver.open(), driver.open(), driver.open()):
                    for number in (1, 2):
                        driver.command(session, number, 0, Op.DELETE, b"absent")
                expected = expected_of(driver, 1)
                frozen = driver.machine.freeze()
                chunks = [frozen.next_chunk(1) for _ in range(min(when, len(expected)))]
                change(driver, which)
                assert chunks + drain(frozen, 1) == expected, (change.__name__, when, which)
                assert driver.machine.state_hash == driver.replayed().state_hash


def test_equal_states_give_equal_bytes_however_they_came_about() -> None:
    one, other = Driver(), Driver()
    for driver, order in ((one, (1, 2, 3)), (other, (3, 1, 2))):
        session = driver.open()
        for number in order:
            driver.command(session, number, 0, Op.DELETE, b"absent")
        driver.machine.state_hash  # noqa: B018 (it remembers digests; the copy takes them along)
        driver.set(session, 4, b"k", b"v")
    assert drain(one.machine.freeze()) == drain(other.machine.freeze())


def test_one_freeze_at_a_time_until_it_is_done_or_released() -> None:
    driver = filled(3)
    frozen = driver.machine.freeze()
    with pytest.raises(ImpossibleState, match="frozen twice"):
        driver.machine.freeze()
    drain(frozen)
    assert frozen.is_over
    assert frozen.next_chunk() is None
    second = driver.machine.freeze()
    frozen.release()
    driver.set(1, 4, b"key 00003", b"late")
    assert len(drain(second)) == 4, "the release of one that was over does nothing to the next"


def test_nothing_comes_out_of_a_released_one_and_the_next_is_untouched_by_it() -> None:
    driver = filled(3)
    frozen = driver.machine.freeze()
    frozen.next_chunk()
    frozen.release()
    frozen.release()
    with pytest.raises(ImpossibleState, match="released"):
        frozen.next_chunk()
    driver.set(1, 4, b"key 00003", b"late")
    assert drain(driver.machine.freeze()) == expected_of(driver)


def test_a_machine_is_discarded_in_slices() -> None:
    driver = filled(1_000)
    other = driver.open()
    driver.command(other, 1, 0, Op.DELETE, b"absent")
    machine = driver.machine
    frozen = machine.freeze()
    left = []
    while machine.discard_slice(300):
        left.append((machine.key_count, machine.session_count))
    assert left == [(700, 2), (400, 2), (100, 2)]
    assert (machine.key_count, machine.session_count) == (0, 0)
    assert machine.discard_slice(300) is False
    assert frozen.is_over


def test_discarding_counts_answers_too() -> None:
    driver = Driver()
    for session in (driver.open(), driver.open(), driver.open()):
        for number in range(1, 100):
            driver.command(session, number, 0, Op.DELETE, b"absent")
    assert driver.machine.discard_slice(50)
    assert driver.machine.session_count == 2
    assert driver.machine.discard_slice(101) is False
    assert driver.machine.session_count == 0
