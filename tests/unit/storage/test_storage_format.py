"""The bytes of the segment files."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.errors import ImpossibleState
from zraft.storage import Batch, HardState
from zraft.storage import format as layout
from zraft.storage.index import BatchIndex, Place
from zraft.storage.segment import segment_numbers, segment_path

IDENTITY = layout.identity_of(1234, 5)
hard_states = st.builds(HardState, st.integers(0, 2**64 - 1), st.one_of(st.none(), st.text(max_size=100)))
batches = st.builds(
    Batch,
    st.integers(1, 2**63),
    st.integers(1, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=100),
    st.booleans(),
)
resets = st.tuples(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1))


@settings(deadline=None, derandomize=True)
@given(st.tuples(*[st.integers(0, 2**63)] * 4), st.integers(0, 2**32 - 1), st.one_of(st.none(), hard_states))
def test_header_comes_back(numbers: tuple[int, ...], seed: int, hard_state: HardState | None) -> None:
    header = layout.SegmentHeader(*numbers, seed, hard_state)  # type: ignore[arg-type]
    block = layout.encode_header(header)
    assert len(block) == layout.HEADER_BYTES
    assert layout.decode_header(block) == header


@settings(deadline=None, derandomize=True)
@given(st.lists(st.one_of(hard_states, batches, resets), max_size=6))
def test_records_come_back_with_the_sizes_foretold(records: list[HardState | Batch | tuple[int, int]]) -> None:
    encoder = layout.Encoder(77, 8192, 0, IDENTITY)
    sizes = []
    for record in records:
        if isinstance(record, Batch):
            encoder.add_batch(record)
            sizes.append(layout.batch_record_bytes(len(record.payload)))
        elif isinstance(record, HardState):
            encoder.add_hard_state(record)
            sizes.append(layout.hard_state_record_bytes(record))
        else:
            encoder.add_reset(*record)
            sizes.append(layout.RESET_RECORD_BYTES)
    data = b"".join(encoder.parts)
    offset, seed = 0, 77
    for expected, size in zip(records, sizes, strict=True):
        record = layout.record_at(data, offset, IDENTITY, seed)
        assert record is not None
        assert (record.durable, record.end) == (8192, offset + size)
        if record.kind == layout.Kind.BATCH:
            first_index, term, count, marked = layout.batch_fields(data, record)
            payload = data[record.body + layout.BATCH_BODY_BYTES : record.body + record.length]
            assert Batch(first_index, count, term, payload, marked) == expected
        elif record.kind == layout.Kind.RESET:
            assert layout.reset_of(data, record) == expected
        else:
            assert layout.hard_state_of(data, record) == expected
        offset, seed = record.end, record.crc
    assert offset == len(data)
    assert seed == encoder.crc


def test_record_is_valid_only_behind_its_predecessor_and_in_its_segment() -> None:
    encoder = layout.Encoder(1, 8192, 0, IDENTITY)
    encoder.add_batch(Batch(1, 1, 1, b"x"))
    data = b"".join(encoder.parts)
    assert layout.record_at(data, 0, IDENTITY, 1) is not None
    assert layout.record_at(data, 0, IDENTITY, 2) is None
    assert layout.record_at(data, 0, layout.identity_of(1234, 6), 1) is None
    assert layout.record_at(data[:-8], 0, IDENTITY, 1) is None
    assert layout.record_at(bytes(100), 0, IDENTITY, 0) is None


def test_an_attempt_after_a_full_disk_chains_differently() -> None:
    crcs = set()
    for attempt in range(3):
        encoder = layout.Encoder(1, 8192, attempt, IDENTITY)
        encoder.add_batch(Batch(1, 1, 1, b"x"))
        crcs.add(encoder.crc)
    assert len(crcs) == 3


def test_mark_comes_back_and_belongs_to_its_segment() -> None:
    mark = layout.encode_mark(123456, IDENTITY)
    assert len(mark) == layout.MARK_BYTES
    assert layout.decode_mark(mark, IDENTITY) == 123456
    assert layout.decode_mark(mark, layout.identity_of(1234, 6)) == 0
    assert layout.decode_mark(bytes(12), IDENTITY) == 0
    assert layout.decode_mark(mark[:-1], IDENTITY) == 0


@pytest.mark.parametrize("begin", [0, 8192])
@pytest.mark.parametrize("zeros", [0, 1, 65536, 200_000])
def test_content_end(begin: int, zeros: int) -> None:
    assert layout.content_end(bytes(begin) + bytes(zeros), begin) == begin
    assert layout.content_end(bytes(begin) + bytes(zeros) + b"x" + bytes(70_000), begin) == begin + zeros + 1


def test_node_id_too_long_is_a_programming_error() -> None:
    with pytest.raises(ImpossibleState, match="bytes=1025"):
        layout.hard_state_record_bytes(HardState(1, "x" * 1025))


def test_segment_names_sort_as_their_numbers() -> None:
    numbers = [1, 9, 10, 99_999, 10**15]
    names = [segment_path("d", number).removeprefix("d/") for number in numbers]
    assert sorted(names) == names
    assert segment_numbers([*reversed(names), "lock", "meta", "spare", "1.wal", "0000000000000001.wal.old"]) == numbers


def test_index_refuses_a_gap_and_names_the_numbers() -> None:
    index = BatchIndex()
    index.add(Place(1, 5, 1, 1, 8192, 10, 0))
    with pytest.raises(ImpossibleState, match="first=7, count=1, last=5"):
        index.add(Place(7, 1, 1, 1, 8192, 10, 0))
    with pytest.raises(ImpossibleState, match="index=6, last=5"):
        index.position_of(6)
