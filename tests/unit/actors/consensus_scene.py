"""Consensus of one node whose neighbours are played by the test."""

from __future__ import annotations

from typing import Any

from fake_bus import Clock, FakeContext

from zraft.actors.consensus import Consensus
from zraft.messages import (
    Append,
    Appended,
    AppendReply,
    Applied,
    Apply,
    Entry,
    EntryKind,
    Inbound,
    Outbound,
    Propose,
    Recover,
    Recovered,
    Replies,
    SnapshotRead,
    SnapshotSaved,
    Tick,
    VoteReply,
)
from zraft.raft import Address, Membership, Role, Settings
from zraft.wire import EntriesCache, ReplyStatus, pack_entries, pack_peer, unpack_entries, unpack_peer

OK, NOT_LEADER, BUSY, UNKNOWN, REFUSED = (
    int(ReplyStatus[name]) for name in ("OK", "NOT_LEADER", "BUSY", "UNKNOWN", "REFUSED")
)
FRESH = Recovered(0, "", True, (0, 0), 0, (), (), (), 0, 77)
NO_SNAPSHOT = SnapshotSaved("", 0, 0, b"", 0, 0)


def members(count: int) -> dict[str, Address]:
    return {f"n{number}": Address(f"client {number}", f"peer {number}") for number in range(1, count + 1)}


def standing(last_applied: int) -> Applied:
    """The applier's answer to Recover or RestoreSnapshot."""
    return Applied(last_applied, 0, True)


def progress(last_applied: int) -> Applied:
    return Applied(last_applied, 0, False)


class Scene:
    """Consensus of n1 in a cluster of `size`. `writes`, `to_peers`, `replies` say what it sent since they last did."""

    def __init__(
        self,
        size: int = 3,
        recovered: Recovered | None = FRESH,
        applied: int | None = 0,
        snapshot: SnapshotSaved = NO_SNAPSHOT,
        settings: Settings | None = None,
    ) -> None:
        self.clock = Clock()
        self.context = FakeContext("consensus", clock=self.clock)
        founding = members(size)
        self.actor = Consensus(self.context, "n1", Membership(0, founding), founding, settings or Settings())
        self.actor.on_start()
        assert self.taken() == [(name, Recover()) for name in ("log_writer", "snapshot_writer", "applier")]
        if recovered is not None:
            self.say("log_writer", recovered)
            self.say("snapshot_writer", snapshot)
            if applied is not None:
                self.say("applier", standing(applied))
                if self.context.taken_for("snapshot_writer"):  # is there a snapshot that was not heard of?
                    self.say("snapshot_writer", SnapshotRead("", 0, 0, b"", 0))

    def taken(self) -> list[tuple[str, Any]]:
        return self.context.taken()

    def say(self, sender: str, *messages: Any) -> None:
        for message in messages:
            self.actor.receive(sender, message)
        self.actor.end_batch()

    def peers_say(self, *messages: tuple[str, Any]) -> None:
        packed = tuple((peer, 0, 0, (pack_peer(message, EntriesCache()),)) for peer, message in messages)
        self.say("transport", Inbound(packed))

    def restarted(self, name: str) -> None:
        self.actor.on_neighbour_restarted(name)
        self.actor.end_batch()

    def tick(self, passed_ms: int = 12) -> None:
        self.clock.now_ms += passed_ms
        self.say("election_timer", Tick(self.clock.now_ms))

    def writes(self) -> list[Append]:
        return [message for message in self.context.taken_for("log_writer") if type(message) is Append]

    def to_peers(self) -> list[tuple[str, Any]]:
        outbound = [message for message in self.context.taken_for("transport") if type(message) is Outbound]
        return [(peer, unpack_peer(body)) for message in outbound for peer, _, body in message.messages]

    def replies(self) -> list[tuple[int, int, bytes]]:
        taken = self.context.taken_for("frontend")
        return [item for message in taken if type(message) is Replies for item in message.replies]

    def sync(self) -> list[tuple[str, Any]]:
        """The log_writer finishes all that it was given. Returns the replies that it releases."""
        writes = self.writes()
        if writes:
            self.say("log_writer", Appended(writes[-1].sequence))
        return [(peer, unpack_peer(body)) for write in writes for peer, _, body in write.replies]

    @property
    def raft(self) -> Any:
        return self.actor.raft

    def lead(self) -> Scene:
        """Become leader of term 1 (with everybody's vote: it is the first), its first entry committed and applied."""
        peers = [name for name in members(len(self.actor.founding.voters)) if name != "n1"]
        self.tick()
        while self.raft.role is Role.FOLLOWER:
            self.tick()
        self.peers_say(*((peer, VoteReply(1, True, True)) for peer in peers))
        self.sync()
        self.peers_say(*((peer, VoteReply(1, True, False)) for peer in peers))
        assert self.raft.role is Role.LEADER
        self.commit_all()
        self.taken()
        return self

    def commit_all(self) -> None:
        """Disk and n2 hold everything, and the applier applies what it is given."""
        self.sync()
        if len(self.actor.founding.voters) > 1:
            self.peers_say(("n2", AppendReply(1, True, self.raft.log.last_index, 0, 0)))
        self.apply()

    def apply(self) -> list[Apply]:
        given = [message for message in self.context.taken_for("applier") if type(message) is Apply]
        for message in given:
            self.say("applier", progress(message.first_index + len(unpack_entries(message.entries)) - 1))
        return given


def propose(*tokens: int) -> Propose:
    return Propose(tuple((token, b"command %d" % token) for token in tokens))


def stored(last: int, term: int = 4, voted_for: str = "n1", cluster_id: int = 9) -> Recovered:
    """A log of `last` entries: the members, then commands, all of term 3."""
    config = Entry(3, 0, EntryKind.CONFIG, Membership(9, members(3)).encode())
    entries = [config] + [Entry(3, 0, EntryKind.COMMAND, b"%d" % index) for index in range(2, last + 1)]
    batch = (1, last, 3, pack_entries(entries), True)
    return Recovered(term, voted_for, False, (0, 0), last, ((1, 3),), (batch,), (batch,), cluster_id, 77)
