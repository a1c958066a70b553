"""frontend and snapshots: COMPACT takes one, SNAPSHOT reads some bytes of one; junk and new lives of others."""

from __future__ import annotations

import pytest
from test_frontend import BUSY, COMPACT, INVALID, OK, REFUSED, SNAPSHOT, UNKNOWN, WRITE, A, Scene

from zraft.actors.frontend import MAX_PENDING_BYTES, SNAPSHOT_PIECE_BYTES
from zraft.messages import ReadSnapshot, Replies, SnapshotRead, TakeSnapshot
from zraft.wire import pack_bus, unpack_piece

READ_START = b'{"index": 0, "offset": 0}'


def test_a_snapshot_by_hand_is_the_applier_s_matter() -> None:
    scene = Scene()
    sent = scene.ask((1, COMPACT, b'{"revision": 17}'))
    token = scene.actor.last_token
    assert sent == [("applier", TakeSnapshot(token, 17))]
    assert scene.answers() == []
    scene.say("applier", Replies(((token, OK, b'{"index": 20}'),)))
    assert scene.answers() == [(1, OK, b'{"index": 20}')]
    assert (scene.actor.pending, scene.actor.pending_bytes) == ({}, 0)


def test_bytes_of_a_snapshot_come_from_the_snapshot_writer() -> None:
    scene = Scene()
    sent = scene.ask((1, SNAPSHOT, READ_START), (2, SNAPSHOT, b'{"index": 20, "offset": 1000}'))
    last = scene.actor.last_token
    assert sent == [
        ("snapshot_writer", ReadSnapshot(str(last - 1), 0, 0, SNAPSHOT_PIECE_BYTES)),
        ("snapshot_writer", ReadSnapshot(str(last), 20, 1000, SNAPSHOT_PIECE_BYTES)),
    ]
    scene.say("snapshot_writer", SnapshotRead(str(last), 20, 1000, b"rest", 1004))
    [(number, status, body)] = scene.answers()
    assert (number, status, unpack_piece(body)) == (2, OK, (20, 1000, 1004, b"rest"))
    scene.say("snapshot_writer", SnapshotRead(str(last - 1), 0, 0, b"", 0))
    assert scene.answers() == [(1, REFUSED, b"n1 has no such snapshot (any more)")]
    assert (scene.actor.pending, scene.actor.pending_bytes) == ({}, 0)


def test_an_answer_that_nobody_waits_for_is_dropped() -> None:
    scene = Scene()
    scene.ask((1, SNAPSHOT, READ_START))
    answer = SnapshotRead(str(scene.actor.last_token), 20, 0, b"x", 1)
    scene.say("snapshot_writer", answer, answer, answer._replace(reader="5"))
    assert len(scene.answers()) == 1
    assert scene.actor.pending_bytes == 0


BAD_NUMBERS = (b'"1"', b"1.0", b"true", b"null", b"-1", b"9223372036854775808", b"[1]", b"1e400", b"NaN")
JUNK = (b"", b"\xff", b"[]", b"5", b"null", b"{}", b'{"revision": 1', b"[" * 100_000, b'{"index": 1}', b'{"offset": 1}')
BAD_BODIES = [
    *JUNK,
    *(b'{"revision": %b}' % number for number in BAD_NUMBERS),
    *(b'{"index": %b, "offset": 0}' % number for number in BAD_NUMBERS),
    *(b'{"index": 0, "offset": %b}' % number for number in BAD_NUMBERS),
]


@pytest.mark.parametrize("kind", [COMPACT, SNAPSHOT])
@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body[:40]))
def test_junk_is_invalid_and_harms_nobody(body: bytes, kind: int) -> None:
    scene = Scene()
    assert scene.ask((1, kind, body)) == []
    [(number, status, text)] = scene.answers()
    assert (number, status) == (1, INVALID)
    assert text.startswith(b"expected a JSON object with numbers ")
    assert scene.actor.pending == {}


def test_the_largest_numbers_can_be_sent_on() -> None:
    scene = Scene()
    most = b"%d" % ((1 << 63) - 1)
    sent = scene.ask(
        (1, COMPACT, b'{"revision": %b}' % most), (2, SNAPSHOT, b'{"index": %b, "offset": %b}' % (most, most))
    )
    assert [to for to, _ in sent] == ["applier", "snapshot_writer"]
    for _, message in sent:
        pack_bus("frontend", 1, 1, message)


def test_what_large_answers_may_wait_at_once_is_bounded() -> None:
    scene = Scene()
    for number in range(2 * MAX_PENDING_BYTES // SNAPSHOT_PIECE_BYTES):
        scene.ask((number, SNAPSHOT, READ_START))
    refused = scene.answers()
    assert {status for _, status, _ in refused} == {BUSY}
    waiting = list(scene.actor.pending)
    assert len(waiting) * SNAPSHOT_PIECE_BYTES <= MAX_PENDING_BYTES + SNAPSHOT_PIECE_BYTES
    scene.say("snapshot_writer", *(SnapshotRead(str(token), 20, 0, b"x", 1) for token in waiting))
    assert scene.actor.pending_bytes == 0
    assert len(scene.ask((1, SNAPSHOT, READ_START))) == 1


@pytest.mark.parametrize(
    ("name", "unknown"),
    [
        ("snapshot_writer", {2}),
        ("applier", {1, 3}),
        ("consensus", {1, 3}),
        ("log_writer", set()),
        ("transport", set()),
    ],
)
def test_who_waited_for_an_actor_that_began_anew_is_told(name: str, unknown: set[int]) -> None:
    scene = Scene()
    scene.ask((1, COMPACT, b'{"revision": 1}'), (2, SNAPSHOT, READ_START), (3, WRITE, b"w"))
    scene.restarted(name)
    assert scene.answers(A) == [(number, UNKNOWN, b"") for number in sorted(unknown)]
    assert len(scene.actor.pending) == 3 - len(unknown)
    kept = sum(waiting[3] for waiting in scene.actor.pending.values())
    assert scene.actor.pending_bytes == kept
