"""A new consensus knows all that its node's disk holds: what the simulator's judge takes for that, and what not."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from zraft.messages import Entry, EntryKind
from zraft.raft import Address, Membership, SavedSnapshot
from zraft.raft.log import RaftLog
from zraft.sim.invariants import Invariants
from zraft.sim.violation import Violation
from zraft.storage import HardState


def entries(*terms: int) -> list[Entry]:
    return [Entry(term, 0, EntryKind.COMMAND, b"") for term in terms]


def begins(on_disk: tuple[int, ...], *known: int) -> RaftLog:
    """A disk holds entries of these terms; the log that a consensus begins with has those that it knows of."""
    log = RaftLog(list(enumerate(known, 1)), len(known), entries(*known))
    judge(on_disk, log)
    return log


def judge(on_disk: tuple[int, ...], log: RaftLog) -> None:
    invariants = Invariants(Membership(0, {"n1": Address("c", "p")}), Counter())
    invariants.add("n1")
    holding = invariants.holdings["n1"]
    holding.begin(0, [HardState(9, None), *((index, 1, term) for index, term in enumerate(on_disk, 1))])
    holding.complete(100)
    raft: Any = SimpleNamespace(current_term=9, voted_for=None, log=log, snapshot=SavedSnapshot())
    invariants._begins_with_its_disk("n1", raft, 200)


def test_it_has_to_know_them_all() -> None:
    begins((1, 1, 2), 1, 1, 2)
    begins(())
    for known in (), (1, 1), (1, 1, 1), (1, 1, 2, 2):
        with pytest.raises(Violation, match="begins with what is on disk"):
            begins((1, 1, 2), *known)


def test_the_first_batch_may_bring_what_a_leader_has_in_their_place() -> None:
    """Recovered, and an AppendEntries that conflicts with the end of the log, in one batch (seed 1032)."""
    on_disk = 1, 1, 2, 2
    log = begins(on_disk, *on_disk)
    log.truncate(3)
    with pytest.raises(Violation):
        judge(on_disk, log)  # nothing replaces them
    log.append(entries(3))
    judge(on_disk, log)
    log.append(entries(3, 3, 3))
    judge(on_disk, log)
