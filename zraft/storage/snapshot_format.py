"""Bytes of a snapshot file, format version 1. Pure: no file is touched here. Little endian.

    preamble  16  magic 8, version 4, CRC32 of the 12 bytes before; every version begins like this
    header    24  index 8, term 8, length of the membership 4, CRC32 of the 20 bytes before
              membership, CRC32 of it
    chunks        each: length 4, CRC32 4 of length and chunk, CRC32 4 of these 8 bytes, chunk
    end           length 0xFFFFFFFF, count of the chunks 8, their total bytes 8, CRC32 of these 20 bytes

Every CRC is begun with the last one before it, so that no piece can be missing, doubled or from another snapshot. A
length is checked before anything waits for that many bytes. Equal contents in equal chunks are equal bytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple
from zlib import crc32

from zraft.errors import impossible
from zraft.storage.errors import CorruptSnapshot, UnsupportedVersion

VERSION = 1
MAX_CHUNK_BYTES = 8 * 1024 * 1024
MAX_CONFIG_BYTES = 1024 * 1024

_MAGIC = b"zraftsnp"
_END = 0xFFFFFFFF

_CRC = struct.Struct("<I")
_PREAMBLE = struct.Struct("<8sI")
_HEADER = struct.Struct("<QQI")
_CHUNK = struct.Struct("<II")
_LENGTH = struct.Struct("<I")
_END_RECORD = struct.Struct("<IQQ")

_CRC_BYTES = _CRC.size
_PREAMBLE_BYTES = _PREAMBLE.size + _CRC_BYTES
_HEADER_BYTES = _HEADER.size + _CRC_BYTES
_CHUNK_BYTES = _CHUNK.size + _CRC_BYTES
_END_BYTES = _END_RECORD.size + _CRC_BYTES


class SnapshotHeader(NamedTuple):
    """What a snapshot covers: the paper's last included index and term, and the membership in force at that index.

    `config` is opaque here; at most MAX_CONFIG_BYTES.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int
    config: bytes


class SnapshotEncoder:
    """Makes a snapshot's bytes piece by piece: `begin`, `add` for each chunk, `finish`."""

    def __init__(self, header: SnapshotHeader) -> None:
        if header.index < 1 or len(header.config) > MAX_CONFIG_BYTES:
            raise impossible("not a snapshot's header", index=header.index, config_bytes=len(header.config))
        self._header = header
        self._crc = 0
        self._count = 0
        self._total = 0

    def begin(self) -> bytes:
        """The first bytes of the file."""
        index, term, config = self._header
        parts = [self._sealed(_PREAMBLE.pack(_MAGIC, VERSION)), self._sealed(_HEADER.pack(index, term, len(config)))]
        return b"".join((*parts, self._sealed(config)))

    def add(self, chunk: bytes) -> bytes:
        """The bytes of one more chunk, which may have MAX_CHUNK_BYTES."""
        if len(chunk) > MAX_CHUNK_BYTES:
            raise impossible("chunk too large for a snapshot", bytes=len(chunk), limit=MAX_CHUNK_BYTES)
        self._count += 1
        self._total += len(chunk)
        crc = _chunk_crc(len(chunk), chunk, self._crc)
        head = self._sealed(_CHUNK.pack(len(chunk), crc))
        self._crc = crc
        return head + chunk

    def finish(self) -> bytes:
        """The last bytes of the file."""
        return self._sealed(_END_RECORD.pack(_END, self._count, self._total))

    def _sealed(self, data: bytes) -> bytes:
        self._crc = crc32(data, self._crc)
        return data + _CRC.pack(self._crc)


class SnapshotParser:
    """Checks a snapshot's bytes as they come, in pieces of any size, and hands out its chunks.

    `header`: None until it has come whole. `complete`: the end has come. Holds at most one chunk and what is fed.
    """

    def __init__(self) -> None:
        self.header: SnapshotHeader | None = None
        self.complete = False
        self._buffer = bytearray()
        self._begin = 0  # of what is still to be read of the buffer
        self._offset = 0  # of the buffer's first byte in the file
        self._crc = 0
        self._count = 0
        self._total = 0
        self._has_preamble = False
        self._fields: tuple[int, int, int] | None = None  # index, term, length of the membership
        self._chunk: tuple[int, int] | None = None  # length and CRC of the one that is coming

    def feed(self, data: bytes) -> list[bytes]:
        """The chunks that `data` completes, each verified. After an error the parser is of no more use.

        Raises `CorruptSnapshot` as soon as the damage can be seen, also on bytes behind the end; `UnsupportedVersion`.
        """
        self._buffer += data
        chunks: list[bytes] = []
        while not self.complete and self._step(chunks):
            pass
        if self.complete and self._begin < len(self._buffer):
            raise self._damaged("there are bytes behind its end")
        del self._buffer[: self._begin]
        self._offset += self._begin
        self._begin = 0
        return chunks

    def _step(self, chunks: list[bytes]) -> bool:
        """Read one piece more. False: it has not come whole."""
        if not self._has_preamble:
            return self._read_preamble()
        if self.header is None:
            return self._read_header()
        if self._chunk is not None:
            return self._read_chunk(self._chunk, chunks)
        return self._read_record()

    def _read_preamble(self) -> bool:
        start = bytes(self._buffer[: len(_MAGIC)])
        if not _MAGIC.startswith(start):
            raise self._damaged("it does not begin as a snapshot of zraft does")
        data = self._take_sealed(_PREAMBLE.size, "its first bytes")
        if data is None:
            return False
        version = _PREAMBLE.unpack(data)[1]
        if version != VERSION:
            raise UnsupportedVersion(
                f"snapshot of format version {version}, but this zraft knows only {VERSION}: "
                "use the version that wrote it"
            )
        self._has_preamble = True
        return True

    def _read_header(self) -> bool:
        if self._fields is None:
            data = self._take_sealed(_HEADER.size, "its header")
            if data is None:
                return False
            self._fields = index, _, length = _HEADER.unpack(data)
            if index < 1 or length > MAX_CONFIG_BYTES:
                raise self._damaged(f"its header names index {index} and {length} bytes of membership")
        index, term, length = self._fields
        config = self._take_sealed(length, "its membership")
        if config is None:
            return False
        self.header = SnapshotHeader(index, term, config)
        return True

    def _read_record(self) -> bool:
        if len(self._buffer) - self._begin < _LENGTH.size:
            return False
        (length,) = _LENGTH.unpack_from(self._buffer, self._begin)
        if length == _END:
            return self._read_end()
        data = self._take_sealed(_CHUNK.size, "a chunk's length", advance=False)
        if data is None:
            return False
        if length > MAX_CHUNK_BYTES:
            raise self._damaged(f"a chunk of {length} bytes, more than {MAX_CHUNK_BYTES}")
        self._chunk = _CHUNK.unpack(data)
        return True

    def _read_chunk(self, expected: tuple[int, int], chunks: list[bytes]) -> bool:
        length, crc = expected
        chunk = self._peek(length)
        if chunk is None:
            return False
        if _chunk_crc(length, chunk, self._crc) != crc:
            raise self._damaged("a chunk's checksum does not fit it")
        self._begin += length
        self._crc = crc
        self._chunk = None
        self._count += 1
        self._total += length
        chunks.append(chunk)
        return True

    def _read_end(self) -> bool:
        data = self._take_sealed(_END_RECORD.size, "its end")
        if data is None:
            return False
        _, count, total = _END_RECORD.unpack(data)
        if (count, total) != (self._count, self._total):
            raise self._damaged(f"{self._count} chunks of {self._total} bytes, not the {count} of {total} written")
        self.complete = True
        return True

    def _peek(self, length: int) -> bytes | None:
        if len(self._buffer) - self._begin < length:
            return None
        with memoryview(self._buffer) as view:
            return bytes(view[self._begin : self._begin + length])

    def _take_sealed(self, length: int, what: str, advance: bool = True) -> bytes | None:
        """The next `length` bytes, if they and the CRC behind them have come; `advance`: the chain goes on from it."""
        sealed = self._peek(length + _CRC_BYTES)
        if sealed is None:
            return None
        data = sealed[:length]
        crc = crc32(data, self._crc)
        if sealed[length:] != _CRC.pack(crc):
            raise self._damaged(f"the checksum of {what} does not fit")
        self._begin += length + _CRC_BYTES
        if advance:
            self._crc = crc
        return data

    def _damaged(self, what: str) -> CorruptSnapshot:
        return CorruptSnapshot(f"snapshot corrupt at byte {self._offset + self._begin}: {what}")


def _chunk_crc(length: int, chunk: bytes, seed: int) -> int:
    return crc32(chunk, crc32(_LENGTH.pack(length), seed))
