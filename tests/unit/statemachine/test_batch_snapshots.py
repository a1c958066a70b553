"""Batches beside a frozen state, and states that they made, from pieces."""

from __future__ import annotations

import random
from itertools import groupby

import msgpack
import pytest
from batch_driver import Command, Pair, any_command, send
from statemachine_driver import Driver, restored

from zraft.statemachine.codec import MAX_BATCH_COMMANDS, Op
from zraft.statemachine.frozen import KEYS, FrozenState


def drain(frozen: FrozenState, max_bytes: int = 1) -> list[bytes]:
    return list(iter(lambda: frozen.next_chunk(max_bytes), None))  # type: ignore[arg-type]


def filled() -> Driver:
    driver = Driver()
    session = driver.open()
    send(driver, session, 1, 0, *[(Op.SET, b"key %d" % number, b"v") for number in range(5)])
    return driver


def batches_on(key: bytes) -> dict[str, list[Command]]:
    new = key + b"+"
    return {
        "sets": [(Op.SET, b"key %d" % number, b"late") for number in range(5)] + [(Op.SET, new, b"late")],
        "deleted": [(Op.DELETE, key), (Op.DELETE, key)],
        "deleted and created": [(Op.DELETE, key), (Op.SET, key, b"late")],
        "deleted, created, deleted": [(Op.DELETE, key), (Op.CAS, key, None, b"late"), (Op.DELETE, key)],
        "created": [(Op.SET, b"", b"first"), (Op.CAS, new, None, b"late")],
        "created and deleted": [(Op.SET, new, b"late"), (Op.DELETE, new)],
        "created, deleted, created": [(Op.SET, new, b"1"), (Op.DELETE, new), (Op.SET, new, b"2")],
        "all are deleted": [(Op.DELETE, b"key %d" % number) for number in range(5)],
        "all change places": [
            command
            for number in range(5)
            for command in ((Op.DELETE, b"key %d" % number), (Op.SET, b"key %d+" % number, b"late"))
        ],
    }


@pytest.mark.parametrize("name", batches_on(b""))
def test_what_a_batch_does_during_the_freeze_is_not_in_it_wherever_the_cursor_is(name: str) -> None:
    expected = drain(filled().machine.freeze())
    for when in range(len(expected) + 1):
        for which in range(5):
            driver = filled()
            frozen = driver.machine.freeze()
            pieces = [frozen.next_chunk(1) for _ in range(when)]
            commands = batches_on(b"key %d" % which)[name]
            send(driver, 1, 6, 2, *commands)
            # The old entry of a key may be asked for again, and answers go with acknowledgements.
            send(driver, 1, 6 + len(commands), 4, *commands)
            assert pieces + drain(frozen) == expected, (when, which)
            assert driver.machine.state_hash == driver.replayed().state_hash
            assert drain(driver.machine.freeze()) == drain(driver.replayed().freeze())


@pytest.mark.parametrize("others", [0, 40])
def test_a_key_created_and_deleted_within_one_batch_leaves_revisions_alone(others: int) -> None:
    pair = Pair()
    session = pair.open()
    if others:
        pair.send(session, 1, 0, [(Op.SET, b"other %d" % number, b"v") for number in range(others)])
    pair.send(session, 101, 0, [(Op.SET, b"k", b"v"), (Op.DELETE, b"k")])
    pair.send(session, 103, 0, [(Op.CAS, b"k", None, b"v"), (Op.SET, b"l", b""), (Op.DELETE, b"l"), (Op.DELETE, b"k")])
    machine = pair.batched.machine
    assert (machine.key_count, machine.revision) == (others, others + 6)
    assert len(machine._store._keys) == others
    pair.send(session, 107, 0, [(Op.SET, b"k", b"v")])
    assert pair.batched.get(b"k") == (b"k", b"v", others + 7, others + 7, 1)


def test_a_state_whose_revision_is_larger_than_its_index_is_restored() -> None:
    driver = Driver()
    session = driver.open()
    keys = [b"key %03d" % number for number in range(MAX_BATCH_COMMANDS)]
    send(driver, session, 1, 0, *[(Op.SET, key, b"v") for key in keys])
    send(driver, session, 257, 0, *[(Op.SET, b"key 000", b"w")] * MAX_BATCH_COMMANDS)
    assert (driver.machine.last_applied, driver.machine.revision) == (3, 512)
    pieces = drain(driver.machine.freeze(), 64 * 1024)
    machine = restored(pieces)
    for name in ("last_applied", "revision", "key_count", "session_count", "state_hash"):
        assert getattr(machine, name) == getattr(driver.machine, name), name
    assert drain(machine.freeze(), 64 * 1024) == pieces
    successor = Driver()
    successor.machine = machine
    assert send(successor, session, 512, 0, (Op.SET, b"x", b""), (Op.SET, b"k", b"v")) == [(0, 512), (0, 513)]


def test_the_largest_revision_that_so_many_entries_can_make_is_restored() -> None:
    driver = Driver()
    session = driver.open()
    driver.skip()
    send(driver, session, 1, 0, *[(Op.SET, b"k", b"v")] * 3)
    # No log makes it: opening a session takes an entry. But no more than this is asked of a head.
    driver.machine._store.revision = driver.machine.last_applied * MAX_BATCH_COMMANDS
    pieces = drain(driver.machine.freeze(), 64 * 1024)
    assert restored(pieces).revision == 3 * MAX_BATCH_COMMANDS


def test_pieces_are_the_same_whether_keys_came_in_batches_or_one_by_one() -> None:
    pair = Pair()
    session = pair.open()
    rng = random.Random(7)
    for number in range(1, 400, 20):
        pair.send(session, number, number - 1, [any_command(rng, 0.0) for _ in range(20)])
    pieces = drain(pair.batched.machine.freeze(), 100)
    assert pieces == drain(pair.single.machine.freeze(), 100)
    assert [kind for kind, _ in groupby(msgpack.unpackb(piece)[0] for piece in pieces)][1] == KEYS
    assert restored(pieces).state_hash == pair.single.machine.state_hash
