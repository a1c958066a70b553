"""How a scenario's transcript says things: positions as index/term, one line a message, one line a fact."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from cluster_harness import Node, Packet
from model_disk import CompactLog, LogRead, ModelDisk

from zraft.messages import (
    AppendEntries,
    AppendReply,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Removed,
    RequestVote,
    TimeoutNow,
    VoteReply,
)
from zraft.raft import Membership, Role, Write
from zraft.raft.progress import Progress, ProgressState

HEARTBEATS = (Heartbeat, HeartbeatReply)
KINDS = {
    kind.__name__: kind
    for kind in (
        RequestVote, VoteReply, AppendEntries, AppendReply, Heartbeat, HeartbeatReply, TimeoutNow,
        InstallSnapshot, InstallSnapshotReply, Removed,
    )
}  # fmt: skip


def said_entry(index: int, entry: Entry) -> str:
    """index/term and what it is for; entries that a script gave to a node as history have nothing to say."""
    place = f"{index}/{entry.term}"
    if entry.kind == EntryKind.NOOP:
        return f"{place} no-op"
    if entry.kind == EntryKind.CONFIG:
        return f"{place} members" if index == 1 else f"{place} members {Membership.decode(entry.data).describe()}"
    text = entry.data.decode()
    return place if text == f"{index}:{entry.term}" else f"{place} '{text}'"


def said_entries(first: int, entries: Sequence[Entry]) -> str:
    """All of them, only a run of more than three of one term by its ends."""
    parts = []
    for start, run in _runs(entries):
        names = [said_entry(first + start + offset, entry) for offset, entry in enumerate(run)]
        parts += names if len(names) <= 3 else [f"{names[0]} .. {names[-1]}"]
    return ", ".join(parts) or "nothing"


def _runs(entries: Sequence[Entry]) -> Iterator[tuple[int, Sequence[Entry]]]:
    start = 0
    for position in range(1, len(entries) + 1):
        if position == len(entries) or entries[position].term != entries[start].term:
            yield start, entries[start:position]
            start = position


def said_message(message: Any) -> str:
    """A message between peers, with everything that it carries."""
    kind = type(message)
    if kind is Removed:
        return f"Removed by entry {message.config_index}"
    text = f"{kind.__name__} term {message.term}"
    if kind in (RequestVote, VoteReply) and message.pre_vote:
        text = f"{kind.__name__} (pre-vote) term {message.term}"
    if kind is RequestVote:
        transfer = ", asked for by the leader" if message.transfer else ""
        return f"{text}, log ends at {message.last_log_index}/{message.last_log_term}{transfer}"
    if kind is VoteReply:
        return f"{text}, {'granted' if message.granted else 'refused'}"
    if kind is AppendEntries:
        entries = said_entries(message.prev_log_index + 1, message.entries)
        after = f"after {message.prev_log_index}/{message.prev_log_term}"
        return f"{text}, {after}: {entries}; commit {message.leader_commit}"
    if kind is AppendReply:
        if message.success:
            return f"{text}, durable up to {message.at_index}"
        if message.conflict_term:
            return (
                f"{text}, refused after {message.at_index}: "
                f"there its term is {message.conflict_term}, which begins at {message.conflict_index}"
            )
        return f"{text}, refused after {message.at_index}: its log ends at {message.conflict_index - 1}"
    if kind is Heartbeat:
        return f"{text}, commit {message.leader_commit}, round {message.round}"
    if kind is HeartbeatReply:
        return f"{text}, round {message.round}"
    if kind is InstallSnapshot:
        size = f"bytes {message.offset} to {message.offset + len(message.data)} of {message.size}"
        return f"{text}, of {message.last_included_index}/{message.last_included_term}: {size}"
    if kind is InstallSnapshotReply:
        return f"{text}, of {message.last_included_index}: has {message.offset} bytes"
    return text


def said_packet(packet: Packet) -> str:
    """As it leaves."""
    return f"{packet.sender} -> {packet.receiver}  {said_message(packet.message)}"


def is_told(item: Write | LogRead | CompactLog) -> bool:
    """Whether there is more to say of it than that replies wait for what was written before."""
    return not isinstance(item, Write) or bool(item.hard_state or item.runs or item.reset)


def said_write(item: Write | LogRead | CompactLog) -> str:
    """What the disk is to do: term and vote, entries, replies to release; or entries to read, or to let go of."""
    if isinstance(item, LogRead):
        return f"read entries from {item.first} on for {item.reader or 'the state machine'}"
    if isinstance(item, CompactLog):
        return f"compact the log up to {item.through}"
    parts = []
    if item.hard_state:
        term, vote = item.hard_state
        parts.append(f"term {term}, {f'vote for {vote}' if vote else 'no vote'}")
    if item.reset:
        parts.append("the log begins after {}/{}".format(*item.reset))
    parts += [said_entries(first, entries) for first, entries in item.runs]
    return "; ".join(parts) or "only replies"


def said_status(node: Node) -> str:
    """One line a node: role, term, and how far its log reaches, is durable, committed, applied."""
    raft = node.raft
    if not node.running:
        return f"{node.id}  stopped"
    role = raft.role.value
    if raft.role is Role.FOLLOWER:
        role = f"follows {raft.leader_id or 'nobody'}"
    log = f"log {raft.log.last_index}/{raft.log.last_term}, durable {raft.log.durable_index}"
    text = f"{node.id}  {role}, term {raft.current_term}, {log}, commit {raft.commit_index}"
    return f"{text}, applied {raft.applied_index}{said_snapshots(node.disk)}"


def said_members(node: Node) -> str:
    """Who the members are, as this node's log says, and by which entry; and what it is itself."""
    raft = node.raft
    committed = "" if raft.config_index <= raft.commit_index else ", not committed as far as it knows"
    return f"{node.id}  {raft.standing}; by entry {raft.config_index}{committed}: {raft.membership.describe()}"


def said_snapshots(disk: ModelDisk) -> str:
    """Which there are on disk, and what the log there begins after."""
    if not disk.snapshots:
        return ""
    names = ", ".join(f"{snapshot.index}/{snapshot.term}" for snapshot in disk.snapshots)
    return f", snapshots {names}, log on disk after {disk.base[0]}"


def said_progress(peer: str, progress: Progress) -> str:
    """What a leader knows of a follower."""
    text = f"{peer}  {progress.state.value}, match {progress.match_index}, next {progress.next_index}"
    if progress.state is ProgressState.PROBE:
        return text + (", a probe is under way" if progress.probe_sent else "")
    if progress.state is ProgressState.SNAPSHOT:
        return (
            f"{text}, of {progress.snapshot_index} it has {progress.snapshot_acked} of {progress.snapshot_size} bytes"
        )
    return f"{text}, {len(progress._inflight)} under way{'' if progress.may_send() else ': window full'}"
