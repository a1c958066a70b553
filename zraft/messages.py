"""Every message between the actors of a node, and between nodes, on one page.

Each class says: **who -> whom**, why; what happens when it is *lost* (a message is lost when the actor
that holds it is killed, or when either end has begun a new life since); what *answers* it.
Actors are named as in docs/ARCHITECTURE.md. Who encodes them: `zraft.wire`, and nothing else.

Every message on the bus travels in an envelope (sender, sender's incarnation, the incarnation of the
receiver that the sender knows). The receiver's host delivers it only if both are the present ones, so
nothing below has to carry an incarnation of its own (DESIGN section 3).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

from zraft.enums import direct_members


@direct_members
class EntryKind(IntEnum):
    """What a log entry is for."""

    NOOP = 0  # a leader's first entry of its term
    COMMAND = 1  # a client's command; opaque to all but the state machine
    CONFIG = 2  # the members from here on, as raft.membership encodes them


class Entry(NamedTuple):
    """One log entry. Its index is its place in the log and not stored in it. time_ms: the log's own clock, stamped by
    the leader that appended it; never goes back along the log and stands still while there is no leader. Sessions
    expire by it (dissertation 6.3)."""

    term: int
    time_ms: int
    kind: int
    data: bytes


# --- between peers: consensus -> (log_writer ->) transport -> the peer's transport -> its consensus ------------
# All of them may be lost, doubled, delayed and reordered by the network; Raft repairs.


class RequestVote(NamedTuple):
    """Candidate -> all voters (paper 5.2). Answer: VoteReply. pre_vote: would you vote for me in `term`, which I have
    not begun yet? (dissertation 9.6). transfer: the leader asked for this, so who hears from it votes all the same."""

    term: int
    last_log_index: int
    last_log_term: int
    pre_vote: bool
    transfer: bool


class VoteReply(NamedTuple):
    """Voter -> candidate. A granted pre-vote carries the term asked for, every other reply the voter's own."""

    term: int
    granted: bool
    pre_vote: bool


class AppendEntries(NamedTuple):
    """Leader -> follower (paper 5.3): entries prev_log_index+1 ... Answer: AppendReply, once they are durable. Lost:
    the leader hears no progress, probes from match_index+1."""

    term: int
    prev_log_index: int
    prev_log_term: int
    leader_commit: int
    entries: tuple[Entry, ...]


class AppendReply(NamedTuple):
    """Follower -> leader. success: durable up to `at_index`. Else `at_index` is the prev_log_index refused, and
    the conflict fields say where to go back to: the term at that index (0: the log is shorter) and the first
    index of that term (or the last index + 1)."""

    term: int
    success: bool
    at_index: int
    conflict_term: int
    conflict_index: int


class Heartbeat(NamedTuple):
    """Leader -> follower, every heartbeat_ms and at once for a ReadIndex round (paper 5.2, dissertation 6.4).
    leader_commit is at most what the leader knows the follower to hold. Answer: HeartbeatReply."""

    term: int
    leader_commit: int
    round: int


class HeartbeatReply(NamedTuple):
    """Follower -> leader: I follow you in this term; I saw that round. Waits for no disk write but a new term's."""

    term: int
    round: int


class InstallSnapshot(NamedTuple):
    """Leader -> follower that needs entries which have left the leader's log (paper section 7): one piece of a snapshot
    file of `size` bytes, from `offset` on. Lost: sent again when nothing was heard for a while. Answer:
    InstallSnapshotReply, and when all of it is on the follower's disk, or not needed, AppendReply."""

    term: int
    last_included_index: int
    last_included_term: int
    offset: int
    size: int
    data: bytes


class InstallSnapshotReply(NamedTuple):
    """Follower -> leader: I have this snapshot up to `offset`; 0: nothing, begin again."""

    term: int
    last_included_index: int
    offset: int


class TimeoutNow(NamedTuple):
    """Leader -> its chosen successor: campaign at once (dissertation 3.10). Lost: the leader takes over again."""

    term: int


class Removed(NamedTuple):
    """Voter -> who asks for its vote and is no member: the committed configuration at config_index does not list you.
    config_term: of that entry, nobody's current one: who was removed takes part in none. Lost: the other asks again."""

    config_index: int
    config_term: int


class WhoAreYou(NamedTuple):
    """Leader's transport -> whoever listens where a node shall join from. Lost: asked again. Answer: IAm."""

    address: str


class IAm(NamedTuple):
    """transport -> the transport that asked. address: as asked. waiting: it holds nothing and waits to be added
    (config `join: true`). client: where it says that clients reach it, "" if it does not know. Its id, store and
    cluster stand on the frame."""

    address: str
    waiting: bool
    client: str


# --- consensus <-> log_writer ----------------------------------------------------------------------------------


class Recover(NamedTuple):
    """consensus -> log_writer, applier and snapshot_writer: tell me where you stand. Sent when either end begins a
    life. For log_writer it is a fence: writes of an older consensus that are not on disk yet are discarded, and the
    replies that they carry are never released (else a dead consensus's vote is answered after its successor has loaded
    the older term). Answer: Recovered; from the applier Applied, from the snapshot_writer SnapshotSaved."""


class Recovered(NamedTuple):
    """log_writer -> consensus: what is durable. The tail of the log comes along, the rest is read when needed.
    voted_for: "" if nobody. fresh: no hard state was ever written here (trap 22). base: (index, term) that the log
    begins after, (0, 0) if it is whole. term_runs: ((first_index, term), ...) of all that follows. Batches as in
    Append, except that only the first `count` entries of one are valid: configs, those that were marked; tail, those up
    to last_index."""

    term: int
    voted_for: str
    fresh: bool
    base: tuple[int, int]
    last_index: int
    term_runs: tuple[tuple[int, int], ...]
    configs: tuple[tuple[int, int, int, bytes, bool], ...]
    tail: tuple[tuple[int, int, int, bytes, bool], ...]
    cluster_id: int
    store_id: int


class Append(NamedTuple):
    """consensus -> log_writer: make durable, then release. sequence: 1, 2, 3 ... in one life of consensus. hard_state:
    () or (term, voted_for). batches: (first_index, count, term, encoded entries, marked); one that begins at or below
    the log's end replaces what is there; marked: a CONFIG is among its entries. replies: as in Outbound, which go to
    transport only after everything in this and all earlier Appends is durable (trap 7). reset: () or (index, term):
    before the batches, the log becomes empty and begins after that index. Lost: with the log_writer; consensus sends
    again what is not durable. Answer: Appended."""

    sequence: int
    hard_state: tuple[Any, ...]
    batches: tuple[tuple[int, int, int, bytes, bool], ...]
    replies: tuple[tuple[str, int, bytes], ...]
    reset: tuple[int, ...]


class Appended(NamedTuple):
    """log_writer -> consensus: all Appends up to this sequence are durable. Lost: never, but with either end's life."""

    sequence: int


class ReadLog(NamedTuple):
    """consensus -> log_writer: entries from first_index on, some max_bytes of them, for a peer that lags or (reader
    "") for the applier. Lost: asked again after the restart. Answer: LogRead."""

    reader: str
    first_index: int
    max_bytes: int


class LogRead(NamedTuple):
    """log_writer -> consensus: batches as in Append, the first may begin before first_index; none: there are none."""

    reader: str
    first_index: int
    batches: tuple[tuple[int, int, int, bytes, bool], ...]


class CompactLog(NamedTuple):
    """consensus -> log_writer: entries up to `through` are in a durable snapshot; segments that hold nothing else may
    go. Lost: the next one says more."""

    through: int


class SaveClusterId(NamedTuple):
    """consensus -> log_writer: the cluster's id is committed; keep it with the data. Lost: sent again at a start."""

    cluster_id: int


class DiskFull(NamedTuple):
    """log_writer -> consensus: there is no space (full) and nothing is acknowledged until there is (not full). The
    log_writer keeps what it could not write and tries again; consensus gives leadership up (trap 12)."""

    full: bool


# --- consensus <-> applier -------------------------------------------------------------------------------------


class Apply(NamedTuple):
    """consensus -> applier: these entries are committed, and durable here. Contiguous from first_index. entries:
    encoded. tokens: (index, token) of those that a client of this node waits for. Lost: with the applier; consensus
    begins again from what its successor says. Answer: Applied."""

    first_index: int
    entries: bytes
    tokens: tuple[tuple[int, int], ...]


class ReadAt(NamedTuple):
    """consensus -> applier: answer these reads once read_index is applied (dissertation 6.4). reads: (token, query).
    condition: for ReadInTerm, what the reader is to verify (`wire.pack_condition`), and goes before each answer; else
    empty. Lost: the frontend is told of the restart and says UNKNOWN. Answer: Replies to frontend."""

    read_index: int
    reads: tuple[tuple[int, bytes], ...]
    condition: bytes = b""


class Applied(NamedTuple):
    """applier -> consensus: applied up to last_applied; credit for more, half a window at a time. standing: how many
    Recovers and RestoreSnapshots this answers. time_ms: the log's own clock there. spare: the entries up to there
    hold none of the last `snapshot.keep` commands before a snapshot: batches are fewer entries than commands."""

    last_applied: int
    time_ms: int
    standing: int
    spare: int = 0


class RestoreSnapshot(NamedTuple):
    """consensus -> applier: the leader's snapshot up to index is on this disk; load it in place of the present state.
    Lost: with the applier, whose successor loads the newest anyway. Answer: Applied."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here


# --- snapshots: snapshot_writer owns the files ------------------------------------------------------------------
# A snapshot's bytes follow from the state that it holds: two nodes' snapshots of one index are equal.


class WriteSnapshot(NamedTuple):
    """applier, consensus -> snapshot_writer: a piece of the snapshot of (index, term), from offset on. source: "" for
    one that the applier takes, else the leader that sends it. Pieces come in order; offset 0 begins one, unless that
    very one is begun. Lost: with the snapshot_writer; the applier takes another, a leader sends it again. Answer:
    SnapshotWritten; to the last piece (is_last) SnapshotSaved, once it is durable."""

    source: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int
    offset: int
    data: bytes
    is_last: bool


class SnapshotWritten(NamedTuple):
    """snapshot_writer -> applier, consensus: I hold it up to offset; 0: nothing, begin again."""

    source: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    offset: int


class SnapshotSaved(NamedTuple):
    """snapshot_writer -> consensus (and applier, if it took it): this is the newest; it is whole, and durable. index 0:
    there is none yet. config: the data of the CONFIG entry in force at index. size: bytes. older_index: of the one that
    is kept besides, 0 if none is. source: as in WriteSnapshot; "" too in the answer to Recover."""

    source: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int
    config: bytes
    size: int
    older_index: int


class SnapshotFailed(NamedTuple):
    """snapshot_writer -> applier, consensus: no space, or another version's; what was written of it is gone."""

    source: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    reason: str


class ReadSnapshot(NamedTuple):
    """applier, consensus, frontend -> snapshot_writer: some max_bytes of the snapshot of index (0: the newest) from
    offset on. reader: comes back. Lost: asked again after the restart. Answer: SnapshotRead."""

    reader: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    offset: int
    max_bytes: int


class SnapshotRead(NamedTuple):
    """snapshot_writer -> whoever asked. index: of the snapshot; size: all its bytes; both 0: there is no such one."""

    reader: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    offset: int
    data: bytes
    size: int


class TakeSnapshot(NamedTuple):
    """frontend -> applier: take one now, at or after that revision, and say when it is durable. Lost: the frontend
    says UNKNOWN. Answer: Replies, the body of which is JSON."""

    token: int
    revision: int


# --- frontend <-> the others -----------------------------------------------------------------------------------


class Propose(NamedTuple):
    """frontend -> consensus: (token, command) ... to replicate. Lost: with consensus; the frontend says UNKNOWN.
    Answer: Replies, from consensus if refused, else from the applier."""

    proposals: tuple[tuple[int, bytes], ...]


class Read(NamedTuple):
    """frontend -> consensus: (token, query) ... to answer linearizably. Lost and answered as Propose."""

    reads: tuple[tuple[int, bytes], ...]


class ReadInTerm(NamedTuple):
    """frontend -> consensus: as Read, but the readers ask another voter for its term themselves: no round is needed to
    answer (`zraft.client.term_check`). Lost and answered as Propose."""

    reads: tuple[tuple[int, bytes], ...]


class TermRequest(NamedTuple):
    """frontend -> consensus: tokens of readers who ask for this node's term. Lost: the frontend says UNKNOWN. Answer:
    Replies."""

    tokens: tuple[int, ...]


class ChangeMembers(NamedTuple):
    """frontend -> consensus: the members shall be others; change: as the client sent it, raft.change reads it. Lost:
    the frontend says UNKNOWN. Answer: Replies, when the first entry of the change is committed."""

    token: int
    change: bytes


class Endpoints(NamedTuple):
    """consensus -> frontend: where clients reach the members, when that changed and when the frontend begins a life."""

    clients: tuple[str, ...]


class TransferLeadership(NamedTuple):
    """frontend -> consensus: hand leadership to target, or ("") to the most up-to-date peer. Answer: Replies."""

    token: int
    target: str


class Replies(NamedTuple):
    """consensus, applier, supervisor -> frontend: (token, ReplyStatus, body) ... for the clients that wait. Body of
    NOT_LEADER: the leader's client endpoint, "" if unknown. Lost: with the frontend; clients ask again."""

    replies: tuple[tuple[int, int, bytes], ...]


class StatusRequest(NamedTuple):
    """frontend -> every actor and the supervisor. Lost: asked again after the restart. Answer: StatusReply."""

    token: int


class StatusReply(NamedTuple):
    """every actor, supervisor -> frontend: its part of the node's status."""

    token: int
    fields: dict[str, Any]


class KillRequest(NamedTuple):
    """frontend -> supervisor, where the config says chaos: kill that actor now, between two messages (boundary 0), or
    at a mailbox, send or I/O boundary after it has passed `boundary` others. Lost: the operator sees no new
    incarnation. Answer: Replies."""

    token: int
    actor: str
    boundary: int


class SetFaults(NamedTuple):
    """frontend -> supervisor, where the config says chaos: have these faults of links and of the disk instead of those
    in force. faults: "links" and "disk", either or both, as chaos.faults checks them. Lost: with the frontend; the
    client asks again. Answer: Replies."""

    token: int
    faults: dict[str, Any]


# --- consensus <-> transport, election_timer -------------------------------------------------------------------


class Outbound(NamedTuple):
    """consensus, log_writer -> transport: (peer, store id of the data directory that it is meant for or 0: the member's
    of that name, encoded peer message) ... to send. Lost: as a packet is."""

    messages: tuple[tuple[str, int, bytes], ...]


class Inbound(NamedTuple):
    """transport -> consensus: (peer, its store id, the store id that it takes this node to have or 0, its encoded peer
    messages) ... as they came. Lost: as a packet is."""

    frames: tuple[tuple[str, int, int, tuple[bytes, ...]], ...]


class Identity(NamedTuple):
    """consensus -> transport: what to write on every frame and to demand of others' (cluster_id 0: not known yet), and
    which peers there are: id -> (address, store id or 0). waiting: see IAm. Sent when known, when it changes, and when
    transport begins a life."""

    cluster_id: int
    store_id: int
    waiting: bool
    peers: dict[str, tuple[str, int]]


class FindNode(NamedTuple):
    """consensus -> transport: who listens at this peer address? Sent again and again for as long as consensus waits.
    Lost: as a packet is. Answer: NodeFound."""

    address: str


class NodeFound(NamedTuple):
    """transport -> consensus: that one does. The fields are those of IAm and of the frame around it."""

    address: str
    node: str
    store_id: int
    cluster_id: int
    waiting: bool
    client: str


class Arm(NamedTuple):
    """consensus -> election_timer: send Ticks that often. Sent when either begins a life."""

    interval_ms: int


class Tick(NamedTuple):
    """election_timer -> consensus: monotonic time. A later one replaces an earlier one; peers' messages go first."""

    now_ms: int


# --- supervisor <-> the hosts (threads) of actors --------------------------------------------------------------


class StartActor(NamedTuple):
    """supervisor -> host: begin this life; those are its neighbours' lives. Answer: ActorStarted or ActorDied."""

    actor: str
    incarnation: int
    neighbours: dict[str, int]


class ActorStarted(NamedTuple):
    """host -> supervisor: on_start has returned."""

    actor: str
    incarnation: int


class ActorDied(NamedTuple):
    """host -> supervisor. killed: on request, does not count against the restart limit. fatal: the node must stop."""

    actor: str
    incarnation: int
    reason: str
    killed: bool
    fatal: bool


class ActorRestarted(NamedTuple):
    """supervisor -> every other actor: what you sent to its older lives, and have no answer to, is lost."""

    actor: str
    incarnation: int


class KillActor(NamedTuple):
    """supervisor -> host: as KillRequest."""

    actor: str
    boundary: int


class StopHost(NamedTuple):
    """supervisor -> host: let your actors close what they hold, and end."""


class HostStopped(NamedTuple):
    """host -> supervisor: done."""

    host: str


class HostDied(NamedTuple):
    """a host's thread, as its last act -> supervisor: a bug ended it. The supervisor starts another on its sockets."""

    host: str
    reason: str


class StopRequest(NamedTuple):
    """the program (a signal) -> supervisor: end this node cleanly."""

    reason: str


class HandOver(NamedTuple):
    """supervisor -> consensus: the node is about to stop; give leadership to somebody. Answer: HandedOver."""


class HandedOver(NamedTuple):
    """consensus -> supervisor: this node does not lead (any more). Lost: the supervisor stops after a while anyway."""


PEER_MESSAGES = (
    RequestVote, VoteReply, AppendEntries, AppendReply, Heartbeat, HeartbeatReply, TimeoutNow,
    InstallSnapshot, InstallSnapshotReply, Removed, WhoAreYou, IAm,
)  # fmt: skip

PEER_REPLIES = (VoteReply, AppendReply, HeartbeatReply, InstallSnapshotReply)
"""Those that answer one question: they count only from a member, and are for the very one who asked."""

TO_WHO_ASKED = (*PEER_REPLIES, Removed)
"""For the data directory that asked, even if it is not the one of the member by that name."""

BUS_MESSAGES = (
    Recover, Recovered, Append, Appended, ReadLog, LogRead, CompactLog, SaveClusterId, DiskFull,
    Apply, ReadAt, Applied, RestoreSnapshot,
    WriteSnapshot, SnapshotWritten, SnapshotSaved, SnapshotFailed, ReadSnapshot, SnapshotRead, TakeSnapshot,
    Propose, Read, ReadInTerm, TermRequest, ChangeMembers, Endpoints, TransferLeadership, Replies,
    StatusRequest, StatusReply, KillRequest, SetFaults,
    Outbound, Inbound, Identity, FindNode, NodeFound, Arm, Tick,
    StartActor, ActorStarted, ActorDied, ActorRestarted, KillActor, StopHost, HostStopped, HostDied,
    StopRequest, HandOver, HandedOver,
)  # fmt: skip
