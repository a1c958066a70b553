"""Hosts the `raft.Raft` object: turns bus messages into its inputs, and its outputs into bus messages.

Nothing is decided here. A life begins like a process: `Recover` to the owners of the disk and of the state, and until
log_writer and snapshot_writer have answered it takes part in nothing. The applier's answer may take longer (it loads a
snapshot); until then this node leads nobody. It starts as a follower, so it never leads the term that it found.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zraft.bus.actor import Actor, Context
from zraft.changes import Changes
from zraft.messages import (
    TO_WHO_ASKED,
    Append,
    Appended,
    Applied,
    Apply,
    Arm,
    ChangeMembers,
    CompactLog,
    DiskFull,
    Endpoints,
    Entry,
    EntryKind,
    FindNode,
    HandedOver,
    HandOver,
    Identity,
    Inbound,
    LogRead,
    NodeFound,
    Outbound,
    Propose,
    Read,
    ReadAt,
    ReadInTerm,
    ReadLog,
    ReadSnapshot,
    Recover,
    Recovered,
    Replies,
    RestoreSnapshot,
    SaveClusterId,
    SnapshotFailed,
    SnapshotRead,
    SnapshotSaved,
    SnapshotWritten,
    TermRequest,
    Tick,
    TransferLeadership,
    WriteSnapshot,
)
from zraft.raft import NOTHING, Address, Membership, Output, Raft, Role, SavedSnapshot, Settings, Write
from zraft.raft.log import MAX_APPLY_BYTES, MAX_RUN_BYTES
from zraft.raft.progress import SNAPSHOT_PIECE_BYTES
from zraft.raft_report import report_of
from zraft.read_terms import Conditions, state_term
from zraft.recovered import durable_from, log_from, unpack_batches
from zraft.waiting import Proposals, Transfers
from zraft.wire import EntriesCache, ReplyStatus, WireError, pack_peer, unpack_peer

log = logging.getLogger(__name__)

_CONFIG = int(EntryKind.CONFIG)


class Consensus(Actor):
    """node: this node's id. founding: the members if the log names none. overrides: addresses that go before those
    in the log (proxies, address translation)."""

    name = "consensus"

    def __init__(
        self,
        context: Context,
        node: str,
        founding: Membership,
        overrides: Mapping[str, Address],
        settings: Settings,
    ) -> None:
        super().__init__(context)
        self.node = node
        self.founding = founding
        self.overrides = overrides
        self.settings = settings
        self.raft: Raft | None = None  # None: recovering
        self.recovered: Recovered | None = None
        self.snapshot: SavedSnapshot | None = None
        self.questions = 0  # Recovers and RestoreSnapshots that this life of the applier has not answered
        self.standing: Applied | None = None  # its answer to the last of them, until it can be handed on
        self.applier_knows = False  # the applier has answered, and that was handed on
        self.store_id = self.cluster_id = 0
        self.identity: Identity | None = None  # as transport was told it
        self.identity_of: Membership | None = None
        self.identity_is_final = False
        self.cache = EntriesCache()
        self.proposals = Proposals()
        self.last_tick: Tick | None = None
        self.tick_ms = 0  # as the clock is armed
        self.conditions = Conditions()
        self.transfers = Transfers()
        self.changes = Changes()
        self.handing_over = False
        self.replies: list[tuple[int, int, bytes]] = []
        self.undecodable = 0
        self.handlers |= {
            Recovered: self.on_recovered,
            Applied: self.on_applied,
            Appended: self.on_appended,
            LogRead: self.on_log_read,
            SnapshotSaved: self.on_snapshot_saved,
            SnapshotWritten: self.on_snapshot_written,
            SnapshotRead: self.on_snapshot_read,
            SnapshotFailed: self.on_snapshot_failed,
            DiskFull: self.on_disk_full,
            Inbound: self.on_inbound,
            Propose: self.on_propose,
            Read: self.on_read,
            ReadInTerm: self.on_read_in_term,
            TermRequest: self.on_term_request,
            ChangeMembers: self.on_change_members,
            NodeFound: self.on_node_found,
            TransferLeadership: self.on_transfer_leadership,
            Tick: self.on_tick,
            HandOver: self.on_hand_over,
        }

    # --- the beginning of a life

    def on_start(self) -> None:
        """Ask what is durable and what is applied."""
        self.questions = 1
        for name in ("log_writer", "snapshot_writer", "applier"):
            self.context.send(name, Recover())

    def on_recovered(self, sender: str, message: Recovered) -> None:
        """The log_writer's answer: at this life's beginning, or after its restart."""
        if self.raft is None:
            self.recovered = message
            self.maybe_begin()
        else:
            self.raft.on_log_writer_restarted(log_from(message))

    def on_snapshot_saved(self, sender: str, message: SnapshotSaved) -> None:
        """The snapshot_writer's answer, or news: this is the newest snapshot on disk."""
        saved = SavedSnapshot._make(message[1:])
        if self.raft is None:
            self.snapshot = saved
            self.maybe_begin()
        else:
            self.raft.on_snapshot_saved(saved)
            if self.raft.output.restore:
                self.standing = None  # it is asked again

    def on_applied(self, sender: str, message: Applied) -> None:
        """The applier's answer to Recover or RestoreSnapshot, or its progress. An answer that another question has
        overtaken is none: entries would be handed to the applier twice."""
        self.questions -= message.standing
        if not message.standing:
            if self.raft is not None and self.applier_knows:
                self.raft.on_applied(message.last_applied, message.spare)
        elif not self.questions:
            self.standing = message
            if self.raft is not None and not self.raft.output.restore:
                self.take_standing(self.raft)

    def take_standing(self, raft: Raft) -> None:
        """The applier may have loaded a snapshot whose news waits in this mailbox, or is lost: when the snapshot_writer
        has answered this (see on_snapshot_read), it has been heard, and what is not in it the disk has lost."""
        if self.standing is not None and self.standing.last_applied > raft.commit_index:
            self.context.send("snapshot_writer", ReadSnapshot("", 0, 0, 1))
        else:
            self.hand_on_standing(raft)

    def hand_on_standing(self, raft: Raft) -> None:
        """The core may go on from where the state machine is."""
        standing, self.standing = self.standing, None
        if standing is not None:
            self.applier_knows = True
            raft.on_applier_restarted(standing.last_applied, standing.time_ms)

    def maybe_begin(self) -> None:
        """The owners of the disk have answered: take part."""
        recovered, snapshot = self.recovered, self.snapshot
        if recovered is None or snapshot is None:
            return
        self.store_id, self.cluster_id = recovered.store_id, recovered.cluster_id
        durable = durable_from(recovered, snapshot)
        raft = self.raft = Raft(self.node, self.founding, durable, self.settings, self.context.rng)
        self.recovered = self.snapshot = None
        last = raft.log.last_index
        text = "starts in term %d with a snapshot of the first %d entries and %d in the log, up to entry %d"
        log.info(text, raft.current_term, snapshot.index, last - raft.log.base_index, last)
        self.take_standing(raft)
        self.tell_identity(raft)
        self.arm(raft)

    def arm(self, raft: Raft) -> None:
        """Have the clock tick as often as `raft` wants to know the time."""
        self.tick_ms = raft.tick_ms
        self.context.send("election_timer", Arm(self.tick_ms))

    def on_neighbour_restarted(self, name: str) -> None:
        """See the table in docs/ARCHITECTURE.md."""
        if name == "log_writer":
            if self.raft is not None:
                self.raft.on_log_writer_lost()
            self.context.send("log_writer", Recover())
        elif name == "applier":
            self.questions = 1
            self.standing = None
            self.applier_knows = False
            if self.raft is not None:
                self.raft.on_applier_lost()
            self.context.send("applier", Recover())
        elif name == "snapshot_writer":
            self.context.send("snapshot_writer", Recover())
            if self.raft is not None:
                self.take_standing(self.raft)
        elif name == "frontend":
            self.proposals.forget()
            self.transfers.forget()
            self.changes.forget()
            if self.raft is not None:
                self.tell_endpoints(self.raft.membership)
        elif self.raft is not None:
            if name == "transport":
                self.identity = None
                self.tell_identity(self.raft)
            elif name == "election_timer":
                self.arm(self.raft)

    def tell_identity(self, raft: Raft) -> None:
        """To transport, when it changed: cluster, store, peers; to the disk, once the cluster's id is certain, which it
        is when a founder has committed it, and for all others when they hear of it."""
        membership = raft.membership
        if not self.cluster_id and membership.cluster_id and (raft.commit_index > 0 or not self.founding.voters):
            self.cluster_id = membership.cluster_id
            self.context.send("log_writer", SaveClusterId(self.cluster_id))
        # Who leaves is answered until that is committed: it is the leader, maybe, and waits for just these answers.
        self.identity_is_final = bool(self.cluster_id) and raft.config_index <= raft.commit_index
        peers = {}
        for config in raft.configs_in_doubt():
            for node in config.members:
                if node != self.node:
                    peers[node] = (self.address(config, node).peer, config.stores.get(node, 0))
        identity = Identity(self.cluster_id, self.store_id, not membership.members, peers)
        if identity != self.identity:
            self.identity = identity
            self.context.send("transport", identity)
        if membership is not self.identity_of:
            self.identity_of = membership
            self.tell_endpoints(membership)

    def tell_endpoints(self, membership: Membership) -> None:
        """To the frontend: where clients reach the members."""
        self.context.send(
            "frontend", Endpoints(tuple(self.address(membership, node).client for node in membership.members))
        )

    def address(self, membership: Membership, node: str) -> Address:
        """Where a member is reached from here."""
        return self.overrides.get(node) or membership.members[node]

    # --- inputs

    def on_inbound(self, sender: str, message: Inbound) -> None:
        """From peers."""
        if self.raft is None:
            return
        for peer, store_id, meant_for, bodies in message.frames:
            for body in bodies:
                try:
                    decoded = unpack_peer(body)
                except WireError as error:
                    self.undecodable += 1
                    log.warning("dropped a message from %s: %s", peer, error)
                else:
                    self.raft.step(peer, decoded, store_id, meant_for)

    def on_tick(self, sender: str, message: Tick) -> None:
        """Kept for the end of the batch: what peers said before it was read comes first."""
        self.last_tick = message

    def on_appended(self, sender: str, message: Appended) -> None:
        """Durable."""
        if self.raft is not None:
            self.raft.on_appended(message.sequence)

    def on_disk_full(self, sender: str, message: DiskFull) -> None:
        """Full, or not any more."""
        if self.raft is not None:
            self.raft.on_disk_full(message.full)

    def on_log_read(self, sender: str, message: LogRead) -> None:
        """Entries that had left memory."""
        if self.raft is not None:
            entries = unpack_batches(message.batches, message.first_index)
            self.raft.on_log_read(message.reader, message.first_index, entries)

    def on_snapshot_read(self, sender: str, message: SnapshotRead) -> None:
        """A piece for a follower; or see take_standing."""
        if self.raft is not None and not message.reader:
            self.hand_on_standing(self.raft)
        elif self.raft is not None:
            peer, index, offset, data, size = message
            self.raft.on_snapshot_read(peer, index, offset, data, size)

    def on_snapshot_written(self, sender: str, message: SnapshotWritten) -> None:
        """A piece from the leader is taken."""
        if self.raft is not None:
            self.raft.on_snapshot_written(message.source, message.index, message.offset)

    def on_snapshot_failed(self, sender: str, message: SnapshotFailed) -> None:
        """This node cannot store the leader's snapshot. It will try again."""
        log.error("cannot take a snapshot from %s: %s", message.source, message.reason)

    def on_propose(self, sender: str, message: Propose) -> None:
        """From clients of this node."""
        tokens = [token for token, _ in message.proposals]
        raft = self.raft
        first = raft.propose([command for _, command in message.proposals]) if raft is not None else None
        if raft is None or first is None:
            self.refuse(tokens)
        else:
            self.proposals.add(first, tokens, raft.current_term)

    def on_read(self, sender: str, message: Read | ReadInTerm) -> None:
        """From clients of this node."""
        if self.raft is None or not self.raft.read(message.reads):
            self.refuse([token for token, _ in message.reads])

    def on_read_in_term(self, sender: str, message: ReadInTerm) -> None:
        """From clients that ask another voter for its term while they ask here."""
        if read_at := self.conditions.read_at(self.raft, self.cluster_id, message.reads):
            self.context.send("applier", read_at)
        else:
            self.on_read(sender, message)

    def on_term_request(self, sender: str, message: TermRequest) -> None:
        """From such a client, which asks the leader meanwhile."""
        self.replies += state_term(self.raft, self.cluster_id, self.store_id, message.tokens)

    def on_transfer_leadership(self, sender: str, message: TransferLeadership) -> None:
        """An operator's wish."""
        if self.raft is None or self.raft.role is not Role.LEADER:
            self.refuse([message.token])
            return
        refusal = self.raft.transfer_leadership(message.target)
        if refusal:
            self.replies.append((message.token, ReplyStatus.REFUSED, refusal.encode()))
        elif message.target == self.node:
            self.replies.append((message.token, ReplyStatus.OK, b""))
        else:
            self.transfers.add(message.token)

    def on_change_members(self, sender: str, message: ChangeMembers) -> None:
        """An operator's wish."""
        raft = self.raft
        if raft is None or raft.role is not Role.LEADER or raft.transferee or raft.commit_index < raft.term_start_index:
            self.refuse([message.token])
        else:
            self.changes.request(raft, message.token, message.change)

    def on_node_found(self, sender: str, message: NodeFound) -> None:
        """Somebody answers at an address at which a node shall join."""
        self.changes.on_found(self.cluster_id, message)

    def on_hand_over(self, sender: str, message: HandOver) -> None:
        """The node is about to stop."""
        raft = self.raft
        if raft is None or raft.transfer_leadership(""):
            self.context.send("supervisor", HandedOver())  # nothing to hand over, or nobody to take it
        else:
            self.handing_over = True

    def refuse(self, tokens: Sequence[int]) -> None:
        """None of these was appended: there is a leader elsewhere, or none, or this one cannot take more now."""
        raft = self.raft
        if raft is not None and raft.role is Role.LEADER:
            self.replies += [(token, ReplyStatus.BUSY, b"") for token in tokens]
            return
        leader = b""
        if raft is not None and raft.leader_id is not None and raft.leader_id in raft.membership.members:
            leader = self.address(raft.membership, raft.leader_id).client.encode()
        self.replies += [(token, ReplyStatus.NOT_LEADER, leader) for token in tokens]

    # --- outputs

    def end_batch(self) -> None:
        """Time last, then everything that follows from the batch, one message per destination."""
        raft = self.raft
        if raft is not None:
            if self.last_tick is not None:
                raft.tick(self.last_tick.now_ms)
                self.last_tick = None
            if self.tick_ms != raft.tick_ms:
                self.arm(raft)
            changing = self.changes.is_busy
            if changing:
                self.changes.advance(raft)
            output = raft.take_output()
            if output is not NOTHING:
                for note in output.notes:
                    log.info("%s", note)
                self.send_output(output)
            if self.proposals.runs:
                self.replies += [(token, ReplyStatus.UNKNOWN, b"") for token in self.proposals.give_up(raft)]
            if self.transfers.tokens:
                self.replies += self.transfers.finish(raft)
            if self.handing_over and (raft.role is not Role.LEADER or raft.transferee is None):
                self.handing_over = False
                self.context.send("supervisor", HandedOver())
            if changing:
                self.finish_changes(raft)
            if self.identity_of is not raft.membership or not self.identity_is_final:
                self.tell_identity(raft)
        if self.replies:
            replies, self.replies = tuple(self.replies), []
            self.context.send("frontend", Replies(replies))

    def send_output(self, output: Output) -> None:
        """In the order of Output: to the disk first, so that it works while the peers are told."""
        if output.write is not None:
            self.send_write(output.write)
        if output.messages:
            self.context.send("transport", Outbound(self.packed(output.messages)))
        for reader, first in output.log_reads:
            size_bytes = MAX_RUN_BYTES if reader else MAX_APPLY_BYTES
            self.context.send("log_writer", ReadLog(reader, first, size_bytes))
        for leader, piece in output.snapshot_pieces:
            _, index, term, offset, size, data = piece
            write = WriteSnapshot(leader, index, term, offset, data, offset + len(data) >= size)
            self.context.send("snapshot_writer", write)
        for peer, index, offset in output.snapshot_reads:
            self.context.send("snapshot_writer", ReadSnapshot(peer, index, offset, SNAPSHOT_PIECE_BYTES))
        if output.compact:
            self.context.send("log_writer", CompactLog(output.compact))
        if output.restore:
            self.applier_knows = False
            self.standing = None  # the answer to an older question
            self.questions += 1
            self.context.send("applier", RestoreSnapshot(output.restore))
        for first, entries in output.apply:
            self.send_apply(first, entries)
        for read_index, reads in output.reads_ready:
            self.context.send("applier", ReadAt(read_index, tuple(reads)))
        if output.reads_refused:
            self.refuse([token for token, _ in output.reads_refused])

    def packed(self, messages: Iterable[tuple[str, Any]]) -> tuple[tuple[str, int, bytes], ...]:
        """As in Outbound: a reply goes to the data directory that has asked, even if it is not the member's."""
        cache, strangers = self.cache, {} if self.raft is None else self.raft.strangers
        if not strangers:
            return tuple([(peer, 0, pack_peer(message, cache)) for peer, message in messages])
        return tuple(
            [
                (peer, strangers.get(peer, 0) if type(message) in TO_WHO_ASKED else 0, pack_peer(message, cache))
                for peer, message in messages
            ]
        )

    def send_write(self, write: Write) -> None:
        """Encoded once, the entries serve the disk and every peer."""
        sequence, state, runs, waiting, reset = write
        batches = [
            (first, len(run), run[0].term, self.cache.pack(run), _CONFIG in [entry.kind for entry in run])
            for first, run in runs
        ]
        replies = self.packed(waiting)
        hard_state = (state[0], state[1] or "") if state else ()
        self.context.send("log_writer", Append(sequence, hard_state, tuple(batches), replies, reset or ()))

    def send_apply(self, first: int, entries: Sequence[Entry]) -> None:
        """With the tokens of those that a client of this node waits for."""
        tokens = self.proposals.take(first + len(entries) - 1)
        self.context.send("applier", Apply(first, self.cache.pack(entries), tuple(tokens)))

    def finish_changes(self, raft: Raft) -> None:
        """Pass on what became of changes of the members, and look for those who shall join."""
        changes = self.changes
        changes.finish(raft)
        if changes.replies:
            self.replies += changes.replies
            changes.replies.clear()
        self.refuse(changes.misdirected)
        for address in changes.to_ask:
            self.context.send("transport", FindNode(address))
        changes.to_ask.clear()

    def status(self) -> dict[str, Any]:
        """Role, term and indices."""
        raft = self.raft
        if raft is None:
            return {"role": "recovering"}
        return report_of(raft, self.cluster_id, self.store_id, self.address) | {"peer_undecodable": self.undecodable}
