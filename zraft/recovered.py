"""What the log_writer says about the disk, as the objects that Raft begins with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zraft.messages import Entry, EntryKind, Recovered
from zraft.raft import Durable, Membership, SavedSnapshot
from zraft.raft.log import RaftLog
from zraft.wire import unpack_entries

Batches = Sequence[tuple[int, int, int, bytes, bool]]
_CONFIG = int(EntryKind.CONFIG)


def unpack_batches(batches: Batches, first_index: int) -> list[Entry]:
    """The valid entries of consecutive batches, from first_index on."""
    entries: list[Entry] = []
    for first, count, _, payload, _ in batches:
        entries += unpack_entries(payload)[max(0, first_index - first) : count]
    return entries


def log_from(recovered: Recovered) -> RaftLog:
    """The log as the disk holds it."""
    base_index, base_term = recovered.base
    tail = unpack_batches(recovered.tail, base_index + 1)
    return RaftLog(recovered.term_runs, recovered.last_index, tail, (base_index, base_term))


def configs_from(batches: Batches) -> Iterator[tuple[int, Membership]]:
    """(index, members) of the CONFIG entries in these batches."""
    for first, count, _, payload, _ in batches:
        for index, entry in enumerate(unpack_entries(payload)[:count], first):
            if entry.kind == _CONFIG:
                yield index, Membership.decode(entry.data)


def durable_from(recovered: Recovered, snapshot: SavedSnapshot) -> Durable:
    """All that a node finds on its disk; what its state machine has applied is asked for elsewhere."""
    return Durable(
        recovered.term,
        recovered.voted_for or None,
        log_from(recovered),
        recovered.fresh,
        None,
        snapshot,
        tuple(configs_from(recovered.configs)),
        recovered.store_id,
    )
