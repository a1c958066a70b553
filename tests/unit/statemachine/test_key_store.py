"""Keys with their revisions, and pages of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.statemachine.record import fields_of, make_record
from zraft.statemachine.store import ENTRY_OVERHEAD_BYTES, MAX_RANGE_BYTES, Store


def put(store: Store, key: bytes, value: bytes) -> None:
    plan = store.plan()
    plan.set(key, value)
    store.commit(plan)


def remove(store: Store, key: bytes) -> bool:
    plan = store.plan()
    done = plan.delete(key)
    store.commit(plan)
    return done


def compare_and_set(store: Store, key: bytes, expected: bytes | None, new: bytes) -> bool:
    plan = store.plan()
    done = plan.cas(key, expected, new)
    store.commit(plan)
    return done


@pytest.fixture
def letters() -> Store:
    store = Store()
    for key in (b"c", b"a", b"e", b"b", b"d"):
        put(store, key, b"10 bytes: " + key)
    return store


def test_revisions_and_versions_of_a_key_through_its_life() -> None:
    store = Store()
    assert (store.revision, store.get(b"k")) == (0, None)
    put(store, b"other", b"")
    put(store, b"k", b"one")
    assert store.get(b"k") == (b"k", b"one", 2, 2, 1)
    put(store, b"k", b"one")
    assert store.get(b"k") == (b"k", b"one", 2, 3, 2), "an equal value is a mutation like any other"
    assert remove(store, b"k")
    assert (store.revision, len(store), store.get(b"k")) == (4, 1, None)
    put(store, b"k", b"again")
    assert store.get(b"k") == (b"k", b"again", 5, 5, 1), "a key that comes back is a new one"


def test_planning_changes_nothing() -> None:
    store = Store()
    put(store, b"k", b"v")

    def state() -> tuple[object, ...]:
        return store.revision, store.digest_sum, store.range(b"", None, 9, 999), store.get(b"k"), len(store)

    before = state()
    store.plan().set(b"k", b"w")
    store.plan().set(b"new", b"w")
    assert store.plan().delete(b"k")
    assert store.plan().cas(b"k", b"v", b"w")
    plan = store.plan()
    plan.set_all((b"a", b"k", b"a"), (b"1", b"2", b"3"))
    assert plan.delete(b"k")
    assert plan.cas(b"z", None, b"v")
    assert state() == before


def test_compare_and_set_wants_the_expected_value_or_absence() -> None:
    store = Store()
    assert not compare_and_set(store, b"k", b"", b"v"), "absent is not empty"
    assert compare_and_set(store, b"k", None, b"v")
    assert not compare_and_set(store, b"k", None, b"w")
    assert not compare_and_set(store, b"k", b"x", b"w")
    assert (store.revision, store.get(b"k")) == (1, (b"k", b"v", 1, 1, 1)), "what was refused is no mutation"
    assert compare_and_set(store, b"k", b"v", b"w")
    assert store.get(b"k") == (b"k", b"w", 1, 2, 2)


def test_what_changes_nothing_is_no_revision_of_the_plan_either() -> None:
    store = Store()
    put(store, b"k", b"v")
    plan = store.plan()
    assert not plan.delete(b"absent")
    assert not plan.cas(b"k", b"x", b"w")
    assert (plan.revision, plan.records, plan.born) == (1, {}, [])


def test_each_command_of_a_plan_sees_what_those_before_it_do() -> None:
    store = Store()
    put(store, b"old", b"v")
    plan = store.plan()
    assert plan.cas(b"new", None, b"1")
    assert not plan.cas(b"new", None, b"2")
    assert plan.cas(b"new", b"1", b"2")
    assert plan.delete(b"old")
    assert not plan.delete(b"old")
    assert not plan.cas(b"old", b"v", b"w")
    plan.set(b"old", b"again")
    plan.set(b"gone", b"")
    assert plan.delete(b"gone")
    store.commit(plan)
    assert store.range(b"", None, 9, 999)[0] == [(b"new", b"2", 2, 3, 2), (b"old", b"again", 5, 5, 1)]
    assert (store.revision, len(store), store.get(b"gone")) == (7, 2, None)


def test_a_range_is_half_open_and_in_the_order_of_bytes(letters: Store) -> None:
    def keys(start: bytes, end: bytes | None) -> list[bytes]:
        return [entry[0] for entry in letters.range(start, end, 100, 10_000)[0]]

    assert keys(b"", None) == [b"a", b"b", b"c", b"d", b"e"]
    assert keys(b"b", b"d") == [b"b", b"c"]
    assert keys(b"b\0", b"d\0") == [b"c", b"d"]
    assert keys(b"d", b"b") == []
    assert keys(b"f", None) == []
    assert letters.range(b"c", b"d", 1, 1)[0] == [(b"c", b"10 bytes: c", 1, 1, 1)]


def test_a_page_ends_at_its_limit_and_says_whether_there_is_more(letters: Store) -> None:
    assert [len(letters.range(b"", None, limit, 10_000)[0]) for limit in (1, 4, 5, 6)] == [1, 4, 5, 5]
    assert [letters.range(b"", None, limit, 10_000)[1] for limit in (1, 4, 5, 6)] == [True, True, False, False]
    assert letters.range(b"", b"e", 4, 10_000)[1] is False, "what is beyond the end is not more"


def test_a_page_ends_before_it_exceeds_its_bytes_but_has_one_entry(letters: Store) -> None:
    entry_bytes = 1 + 11 + ENTRY_OVERHEAD_BYTES
    for max_bytes, count in ((1, 1), (2 * entry_bytes - 1, 1), (2 * entry_bytes, 2), (5 * entry_bytes, 5)):
        page, more = letters.range(b"", None, 100, max_bytes)
        assert (len(page), more) == (count, count < 5)


def test_no_page_is_larger_than_a_frame_can_be_whatever_is_asked_for() -> None:
    store = Store()
    value = b"v" * (1024 * 1024)
    for number in range(5):
        put(store, b"%d" % number, value)
    page, more = store.range(b"", None, 2**64 - 1, 2**64 - 1)
    assert more
    assert sum(len(entry[1]) for entry in page) <= MAX_RANGE_BYTES


keys, values = st.sampled_from([b"a", b"b", b"c"]), st.sampled_from([b"", b"x"])
operations = st.lists(
    st.one_of(
        st.tuples(st.just("set"), keys, values),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("cas"), keys, st.none() | values, values),
    )
)


@given(operations)
@settings(deadline=None, derandomize=True)
def test_the_digest_sum_depends_on_what_is_there_and_not_on_how_it_came(steps: list[tuple[Any, ...]]) -> None:
    store = Store()
    for step, *arguments in steps:
        plan = store.plan()
        getattr(plan, step)(*arguments)
        store.commit(plan)
    entries, _ = store.range(b"", None, 100, 100_000)
    assert store.digest_sum == sum(fields_of(make_record(*entry))[0] for entry in entries) % 2**64
    assert len(store) == len(entries)


@given(operations, operations)
@settings(deadline=None, derandomize=True, max_examples=300)
def test_one_plan_of_many_commands_does_what_a_plan_for_each_does(
    before: list[tuple[Any, ...]], steps: list[tuple[Any, ...]]
) -> None:
    together, apart = Store(), Store()
    for store, size in ((together, max(1, len(steps))), (apart, 1)):
        done = []
        for planned in (*([step] for step in before), *(steps[at : at + size] for at in range(0, len(steps), size))):
            plan = store.plan()
            done += [getattr(plan, step)(*arguments) for step, *arguments in planned]
            store.commit(plan)
        if store is together:
            expected = done
    assert done == expected
    assert together.range(b"", None, 100, 100_000) == apart.range(b"", None, 100, 100_000)
    assert (together.revision, together.digest_sum, len(together)) == (apart.revision, apart.digest_sum, len(apart))


def test_two_keys_that_swap_their_values_have_another_digest_sum() -> None:
    one, other = Store(), Store()
    for store, values in ((one, (b"x", b"y")), (other, (b"y", b"x"))):
        put(store, b"a", values[0])
        put(store, b"b", values[1])
    assert one.digest_sum != other.digest_sum


def test_a_key_and_its_value_are_digested_apart() -> None:
    one, other = Store(), Store()
    put(one, b"ab", b"c")
    put(other, b"a", b"bc")
    assert one.digest_sum != other.digest_sum
