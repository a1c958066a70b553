"""Damage to durable bytes is refused in words; only a tail that was never synced is cut (trap 21)."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from faulty_disk import MemoryDisk
from wal_model import Contents, Script, contents_of, open_log, payload

from zraft.storage import Batch, CorruptLog, HardState, UnsupportedVersion, WriteAheadLog
from zraft.storage import format as layout

FIRST = "/data/0000000000000001.wal"
SECOND = "/data/0000000000000002.wal"
THIRD = "/data/0000000000000003.wal"


def damaged(disk: MemoryDisk, path: str, offset: int, data: bytes) -> MemoryDisk:
    """A copy of the disk, all of it durable, with other bytes at `offset` of one file."""
    copy = disk.image().after_crash("kept")
    inode = copy.names[path]
    inode.view[offset : offset + len(data)] = data
    inode.durable = bytes(inode.view)
    return copy


def flipped(disk: MemoryDisk, path: str, offset: int) -> MemoryDisk:
    return damaged(disk, path, offset, bytes([disk.names[path].view[offset] ^ 0x10]))


@pytest.fixture
def script() -> Script:
    script = Script(MemoryDisk())
    script.append([Batch(1, 1, 1, payload(1, 20))], HardState(1, "n1"))
    script.append([Batch(2, 2, 1, payload(2, 30)), Batch(4, 1, 1, payload(3, 5))])
    script.append([Batch(5, 1, 1, payload(4, 41))])
    return script


def opens_unharmed_or_is_refused(disk: MemoryDisk, contents: Contents) -> bool:
    """Whether it was refused. Anything else than all of the contents is a failure."""
    try:
        log = open_log(disk)
    except CorruptLog as error:
        assert ".wal: corrupt at byte" in str(error)
        assert "add it again" in str(error)
        assert not disk.handles
        return True
    assert contents_of(log) == contents
    return False


def test_every_flipped_byte_of_a_synced_record_is_refused(script: Script) -> None:
    end = script.log._tail.end
    refused = [
        offset
        for offset in range(8192, end)
        if opens_unharmed_or_is_refused(flipped(script.disk, FIRST, offset), script.contents)
    ]
    assert len(refused) > (end - 8192) * 0.9  # the rest is padding


def test_every_flipped_byte_of_the_header_is_refused(script: Script) -> None:
    for offset in range(4096):
        with pytest.raises((CorruptLog, UnsupportedVersion)):
            open_log(flipped(script.disk, FIRST, offset))


def test_a_flipped_byte_of_the_mark_costs_nothing(script: Script) -> None:
    for offset in range(4096, 8192, 5):
        assert not opens_unharmed_or_is_refused(flipped(script.disk, FIRST, offset), script.contents)


def test_without_the_mark_the_records_behind_tell_that_a_damaged_one_was_durable(script: Script) -> None:
    unmarked = damaged(script.disk, FIRST, 4096, bytes(4096))
    last = script.log._index.place(3).offset
    refused = [
        offset
        for offset in range(8192, last)
        if opens_unharmed_or_is_refused(flipped(unmarked, FIRST, offset), script.contents)
    ]
    assert len(refused) > (last - 8192) * 0.9


def test_without_the_mark_a_damaged_last_batch_is_taken_for_a_torn_one(script: Script) -> None:
    """Nothing on the disk says otherwise; the mark reaches it with the next sync at the latest."""
    unmarked = damaged(script.disk, FIRST, 4096, bytes(4096))
    log = open_log(flipped(unmarked, FIRST, script.log._tail.end - 20))
    assert log.last_index == 4


def test_cut_tail_is_zeroed(script: Script) -> None:
    end = script.log._tail.end
    disk = damaged(script.disk, FIRST, end, b"\x01garbage" * 90)
    log = open_log(disk)
    assert contents_of(log) == script.contents
    assert not any(disk.names[FIRST].durable[end:])


def test_user_data_that_looks_like_a_record_is_no_proof_of_damage(script: Script) -> None:
    """A payload may hold the bytes of a record of another store, with a durable offset that would be alarming here."""
    forged = b"zRec" + bytes(12) + b"\xff" * 4 + bytes(12)
    end = script.log._tail.end
    images = []
    script.disk.after = lambda: images.append(script.disk.image())
    script.append([Batch(6, 1, 1, b"x" * 2000), Batch(7, 1, 1, forged * 20)])
    torn = images[0].after_crash("kept")
    inode = torn.names[FIRST]
    inode.view[end : end + 40] = bytes(40)
    assert b"zRec" in inode.view[end + 2000 :]
    assert open_log(torn).last_index == 5


@pytest.fixture
def long_script(script: Script) -> Script:
    script.append([Batch(6, 1, 2, payload(5, 4000))], HardState(2, "n2"))
    assert SECOND in script.disk.names
    return script


def test_every_flipped_byte_before_the_last_segment_is_refused(long_script: Script) -> None:
    end = 8192 + 300
    refused = [
        offset
        for offset in range(8192, end)
        if opens_unharmed_or_is_refused(flipped(long_script.disk, FIRST, offset), long_script.contents)
    ]
    assert len(refused) > 200
    with pytest.raises(CorruptLog, match=f"{FIRST}: corrupt at byte 8192: a record"):
        open_log(flipped(long_script.disk, FIRST, 8192 + 40))


def test_missing_segments_are_refused(long_script: Script) -> None:
    long_script.append([Batch(7, 1, 2, payload(6, 4000))])
    for missing, named in (([SECOND], SECOND), ([FIRST, SECOND, THIRD], FIRST)):
        copy = long_script.disk.image().after_crash("kept")
        for path in missing:
            copy.unlink(path)
        with pytest.raises(CorruptLog, match=f"{named}.*missing"):
            open_log(copy)


def test_shortened_segment_is_refused(long_script: Script) -> None:
    for path in (FIRST, SECOND):
        for length in (0, 100, 5000, 8192, 8300):
            copy = long_script.disk.image().after_crash("kept")
            copy.names[path].view = copy.names[path].view[:length]
            with pytest.raises(CorruptLog):
                open_log(copy)


def test_segment_of_another_store_is_refused(script: Script) -> None:
    other = MemoryDisk()
    WriteAheadLog.open(other, "/data", "n1", new_store_id=42, segment_bytes=20000)
    copy = script.disk.image().after_crash("kept")
    copy.names[FIRST].view = bytearray(other.names[FIRST].view)
    with pytest.raises(CorruptLog, match="another store"):
        open_log(copy)


def test_shortened_empty_segment_is_refused() -> None:
    copy = Script(MemoryDisk()).disk.image().after_crash("kept")
    copy.names[FIRST].view = copy.names[FIRST].view[:5000]
    with pytest.raises(CorruptLog, match="shortened"):
        open_log(copy)


def test_segment_that_does_not_continue_the_one_before_it_is_refused(long_script: Script) -> None:
    """A segment of the same store, but from a copy of the directory that went another way."""
    other = Script(MemoryDisk())
    other.append([Batch(1, 1, 1, payload(9, 50))])
    other.append([Batch(2, 1, 1, payload(9, 4000))])
    copy = long_script.disk.image().after_crash("kept")
    copy.names[SECOND].view = bytearray(other.disk.names[SECOND].view)
    with pytest.raises(CorruptLog):
        open_log(copy)
    block = bytes(copy.names[SECOND].view[: layout.HEADER_BYTES])
    header = layout.decode_header(bytes(long_script.disk.names[SECOND].view[: layout.HEADER_BYTES]))
    assert header is not None and layout.decode_header(block) is not None
    for wrong in (
        header._replace(seed=header.seed ^ 1),
        header._replace(number=3),
        header._replace(hard_state=HardState(9, None)),
    ):
        with pytest.raises(CorruptLog, match=f"{SECOND}: corrupt at byte 0: the segment does not continue"):
            open_log(damaged(long_script.disk, SECOND, 0, layout.encode_header(wrong)))


def test_sound_record_that_makes_no_sense_is_refused(script: Script) -> None:
    """The checksums are right, so it was written so: by a bug, or by a newer version."""
    tail = script.log._tail
    gap = layout.Encoder(tail.crc, tail.end, 0, tail.identity)
    gap.add_batch(Batch(7, 1, 1, b""))
    with pytest.raises(CorruptLog, match=f"byte {tail.end}.*first=7, count=1, last=5"):
        open_log(damaged(script.disk, FIRST, tail.end, b"".join(gap.parts)))


def test_record_of_an_unknown_kind_is_refused_as_a_newer_version(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    tail = script.log._tail
    newer = layout.Encoder(tail.crc, tail.end, 0, tail.identity)
    monkeypatch.setattr(layout, "Kind", SimpleNamespace(HARD_STATE=77))
    newer.add_hard_state(HardState(1, None))
    monkeypatch.undo()
    with pytest.raises(UnsupportedVersion, match="unknown kind 77"):
        open_log(damaged(script.disk, FIRST, tail.end, b"".join(newer.parts)))


def test_missing_or_damaged_meta_is_refused(script: Script) -> None:
    copy = script.disk.image().after_crash("kept")
    copy.unlink("/data/meta")
    with pytest.raises(CorruptLog, match="meta: corrupt.*missing"):
        open_log(copy)
    length = len(script.disk.names["/data/meta"].view)
    for offset in range(length - 1):
        with pytest.raises((CorruptLog, UnsupportedVersion)):
            open_log(flipped(script.disk, "/data/meta", offset))
    for text in (b"", b"[1]", b"null", b'{"format": 1}'):
        copy = script.disk.image().after_crash("kept")
        copy.names["/data/meta"].view = bytearray(text)
        with pytest.raises(CorruptLog, match="meta: corrupt"):
            open_log(copy)


def test_unknown_versions_are_refused_in_words(script: Script) -> None:
    with pytest.raises(UnsupportedVersion, match=r"0001\.wal: format version 2"):
        open_log(damaged(script.disk, FIRST, 8, b"\x02"))
    meta = json.loads(bytes(script.disk.names["/data/meta"].view))
    copy = script.disk.image().after_crash("kept")
    copy.names["/data/meta"].view = bytearray(json.dumps({**meta, "format": 7}).encode())
    with pytest.raises(UnsupportedVersion, match="meta: format version 7"):
        open_log(copy)


def test_read_of_a_batch_that_was_damaged_since_the_start_is_refused(long_script: Script) -> None:
    log = long_script.log
    for index, path in ((2, FIRST), (6, SECOND)):
        place = log._index.place(log._index.position_of(index))
        view = long_script.disk.names[path].view
        view[place.offset + 60] ^= 1
        with pytest.raises(CorruptLog, match=f"{path}: corrupt at byte {place.offset}"):
            log.read(index, 1000)
        view[place.offset + 60] ^= 1
        assert log.read(index, 1000)
