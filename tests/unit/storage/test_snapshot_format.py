"""The bytes of a snapshot: they come back in pieces of any size, and no change to them goes unseen."""

from __future__ import annotations

import struct
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.errors import ImpossibleState
from zraft.storage import MAX_CHUNK_BYTES, CorruptSnapshot, SnapshotEncoder, SnapshotHeader, SnapshotParser
from zraft.storage.errors import UnsupportedVersion
from zraft.storage.snapshot_format import MAX_CONFIG_BYTES

HEADER = SnapshotHeader(7, 3, b"members")
CHUNKS = [b"first chunk", b"", b"second", b"\xff" * 40]


def pieces_of(header: SnapshotHeader, chunks: list[bytes]) -> list[bytes]:
    """The begin, each chunk and the end."""
    encoder = SnapshotEncoder(header)
    return [encoder.begin(), *(encoder.add(chunk) for chunk in chunks), encoder.finish()]


def encoded(header: SnapshotHeader = HEADER, chunks: list[bytes] = CHUNKS) -> bytes:
    return b"".join(pieces_of(header, chunks))


def fed(data: bytes, step: int) -> tuple[SnapshotParser, list[bytes]]:
    parser = SnapshotParser()
    chunks = []
    for offset in range(0, len(data), step):
        chunks += parser.feed(data[offset : offset + step])
    return parser, chunks


@settings(deadline=None, derandomize=True)
@given(
    st.builds(SnapshotHeader, st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=50)),
    st.lists(st.binary(max_size=60), max_size=6),
    st.integers(1, 100),
)
def test_chunks_come_back_whatever_the_pieces(header: SnapshotHeader, chunks: list[bytes], step: int) -> None:
    parser, found = fed(encoded(header, chunks), step)
    assert (parser.header, found, parser.complete) == (header, chunks, True)


def test_bytes_are_pinned() -> None:
    """What is on disks and travels between nodes. A change here is a new format version."""
    begin, chunk, end = pieces_of(SnapshotHeader(258, 3, b"cfg"), [b"abc"])
    expected = b"zraftsnp" + struct.pack("<I", 1)
    crc = crc32(expected)
    expected += struct.pack("<I", crc)
    fields = struct.pack("<QQI", 258, 3, 3)
    crc = crc32(fields, crc)
    expected += fields + struct.pack("<I", crc)
    crc = crc32(b"cfg", crc)
    assert begin == expected + b"cfg" + struct.pack("<I", crc)
    after = crc32(struct.pack("<I", 3) + b"abc", crc)
    head = struct.pack("<II", 3, after)
    assert chunk == head + struct.pack("<I", crc32(head, crc)) + b"abc"
    last = struct.pack("<IQQ", 0xFFFFFFFF, 1, 3)
    assert end == last + struct.pack("<I", crc32(last, after))


def test_every_flipped_bit_is_found() -> None:
    data = encoded()
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptSnapshot, match="^snapshot corrupt at byte [0-9]+: "):
            fed(bytes(changed), 17)


def test_damage_is_found_as_soon_as_its_piece_is_there() -> None:
    """A flipped length must not make the parser wait for megabytes that never come."""
    pieces = pieces_of(HEADER, CHUNKS)
    for number, piece in enumerate(pieces):
        for offset in range(len(piece)):
            changed = bytearray(piece)
            changed[offset] ^= 0x20
            parser = SnapshotParser()
            parser.feed(b"".join(pieces[:number]))
            with pytest.raises(CorruptSnapshot):
                parser.feed(bytes(changed))


def test_a_snapshot_that_stops_early_is_never_complete() -> None:
    data = encoded()
    for length in range(len(data)):
        parser, chunks = fed(data[:length], 9)
        assert not parser.complete
        assert chunks == CHUNKS[: len(chunks)]


def test_chunks_can_be_neither_missing_nor_doubled_nor_exchanged() -> None:
    begin, one, two, three, four, end = pieces_of(HEADER, CHUNKS)
    other = pieces_of(HEADER._replace(term=4), CHUNKS)
    for pieces in (
        [begin, two, three, four, end],
        [begin, one, two, three, end],
        [begin, one, one, two, three, four, end],
        [begin, one, three, two, four, end],
        [begin, one, two, three, end, four],
        [other[0], one, two, three, four, end],
        [begin, *other[1:]],
        [begin, end],
        [begin, begin, one, two, three, four, end],
    ):
        with pytest.raises(CorruptSnapshot):
            fed(b"".join(pieces), 1000)


def test_bytes_behind_the_end_are_refused() -> None:
    with pytest.raises(CorruptSnapshot, match="bytes behind its end"):
        fed(encoded() + b"\0", 1000)
    parser, _ = fed(encoded(), 1000)
    assert parser.feed(b"") == []
    with pytest.raises(CorruptSnapshot, match="bytes behind its end"):
        parser.feed(b"x")


def test_other_files_are_refused_at_their_first_byte() -> None:
    for data in (b"\0", b"zraftwal", b"{"):
        with pytest.raises(CorruptSnapshot, match="does not begin as a snapshot"):
            fed(data, 1)


def with_version(version: int) -> bytes:
    preamble = b"zraftsnp" + struct.pack("<I", version)
    return preamble + struct.pack("<I", crc32(preamble))


def test_unknown_version_is_no_damage() -> None:
    with pytest.raises(UnsupportedVersion, match="snapshot of format version 2, .*knows only 1"):
        SnapshotParser().feed(with_version(2))


def sealed(data: bytes, seed: int) -> bytes:
    return data + struct.pack("<I", crc32(data, seed))


def crc_at_end(data: bytes) -> int:
    return int(struct.unpack("<I", data[-4:])[0])


def test_too_much_is_refused_before_it_comes() -> None:
    """Sound checksums, but lengths that nobody writes: from a stranger."""
    preamble = with_version(1)
    for index, config_bytes in ((1, MAX_CONFIG_BYTES + 1), (1, 2**32 - 1), (0, 3)):
        header = sealed(struct.pack("<QQI", index, 1, config_bytes), crc_at_end(preamble))
        with pytest.raises(CorruptSnapshot, match=f"index {index} and {config_bytes} bytes of membership"):
            fed(preamble + header, 1000)
    begin = SnapshotEncoder(HEADER).begin()
    for length in (MAX_CHUNK_BYTES + 1, 2**32 - 2):
        with pytest.raises(CorruptSnapshot, match=f"a chunk of {length} bytes, more than"):
            fed(begin + sealed(struct.pack("<II", length, 0), crc_at_end(begin)), 1000)


def test_largest_chunk_and_membership_pass() -> None:
    header = SnapshotHeader(1, 1, bytes(MAX_CONFIG_BYTES))
    parser, chunks = fed(encoded(header, [bytes(MAX_CHUNK_BYTES)]), 1 << 16)
    assert parser.complete
    assert parser.header == header
    assert [len(chunk) for chunk in chunks] == [MAX_CHUNK_BYTES]


def test_end_with_other_counts_is_refused() -> None:
    pieces = pieces_of(HEADER, [b"abc"])
    seed = crc32(b"abc", crc32(struct.pack("<I", 3), crc_at_end(pieces[0])))
    for count, total in ((2, 3), (1, 4), (0, 0)):
        end = sealed(struct.pack("<IQQ", 0xFFFFFFFF, count, total), seed)
        with pytest.raises(CorruptSnapshot, match=f"1 chunks of 3 bytes, not the {count} of {total} written"):
            fed(pieces[0] + pieces[1] + end, 1000)


def test_what_no_owner_may_write_is_a_programming_error() -> None:
    for header in (HEADER._replace(index=0), HEADER._replace(config=bytes(MAX_CONFIG_BYTES + 1))):
        with pytest.raises(ImpossibleState):
            SnapshotEncoder(header)
    with pytest.raises(ImpossibleState, match=f"bytes={MAX_CHUNK_BYTES + 1}"):
        SnapshotEncoder(HEADER).add(bytes(MAX_CHUNK_BYTES + 1))


def test_parser_keeps_no_more_than_is_on_its_way() -> None:
    parser = SnapshotParser()
    encoder = SnapshotEncoder(HEADER)
    parser.feed(encoder.begin())
    for _ in range(100):
        piece = encoder.add(bytes(10_000))
        parser.feed(piece[:5_000])
        assert len(parser._buffer) <= 5_000
        parser.feed(piece[5_000:])
        assert not parser._buffer
