"""Takes batches apart, for doubles of nodes that are scripted by the single command."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zraft.client.outbox import split_request_id
from zraft.statemachine.codec import Op, decode_command, pack_command
from zraft.wire import RequestKind

Item = tuple[int, int, bytes]


def single_id(request_id: int) -> int:
    """What stands in a frame for a call alone."""
    wire_id = request_id << 10
    assert split_request_id(wire_id) == (request_id, 1)
    return wire_id


def singles(items: Iterable[Item]) -> Iterator[Item]:
    """The requests as if each write had been sent alone: a client takes the answers to them, too."""
    for wire_id, kind, body in items:
        first_id, count = split_request_id(wire_id)
        if kind != RequestKind.WRITE or count == 1:
            yield wire_id, kind, body
            continue
        session, first, acknowledged, op, (commands,) = decode_command(body)
        assert (op, len(commands)) == (Op.BATCH, count)
        for position, (what, *arguments) in enumerate(commands):
            command = pack_command(session, first + position, acknowledged, what, tuple(arguments))
            yield single_id(first_id + position), kind, command
