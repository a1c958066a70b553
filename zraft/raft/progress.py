"""What the leader knows of one follower, and how much it may send it."""

from __future__ import annotations

from collections import deque
from enum import Enum

from zraft.enums import direct_members

MAX_INFLIGHT_MESSAGES = 64
MAX_INFLIGHT_BYTES = 8 * 1024 * 1024
SNAPSHOT_PIECE_BYTES = 128 * 1024  # of a snapshot in one message, so that no heartbeat waits long behind one
SNAPSHOT_WINDOW_BYTES = 8 * SNAPSHOT_PIECE_BYTES


@direct_members
class ProgressState(Enum):
    """PROBE: where does its log end? One message at a time. REPLICATE: known; messages are pipelined. SNAPSHOT: what it
    needs next has left the log, so it is sent a snapshot."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """Invariant: match_index < next_index, and match_index never goes back within one leader's term."""

    def __init__(self, last_index: int, now_ms: int) -> None:
        self.state = ProgressState.PROBE
        self.match_index = 0
        self.next_index = last_index + 1
        self.last_contact_ms = now_ms
        self.last_progress_ms = now_ms
        self.probe_sent = False
        self.retries = 0  # since the last progress
        self.reading = False  # entries for it are being read from disk
        self._inflight: deque[tuple[int, int]] = deque()  # (last index, bytes) of messages without an answer
        self._inflight_bytes = 0
        # In state SNAPSHOT: which one, how many bytes it has, where the next piece begins, what the follower has.
        self.snapshot_index = 0
        self.snapshot_term = 0
        self.snapshot_size = 0
        self.snapshot_next = 0
        self.snapshot_acked = 0
        self.snapshot_best = 0  # the most that it had of this one
        # Of a learner: the round of catching up that runs, and how long the last one took (dissertation 4.2.1).
        self.round_end = last_index
        self.round_began_ms = now_ms
        self.last_round_ms: int | None = None

    def may_send(self) -> bool:
        """Whether the window has room."""
        if self.reading or self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.PROBE:
            return not self.probe_sent
        return len(self._inflight) < MAX_INFLIGHT_MESSAGES and self._inflight_bytes < MAX_INFLIGHT_BYTES

    def sent(self, last_index: int, size_bytes: int, now_ms: int) -> None:
        """An AppendEntries up to last_index is on its way."""
        if self.state is ProgressState.PROBE:
            self.probe_sent = True
            self.last_progress_ms = now_ms
            return
        if not self._inflight:
            self.last_progress_ms = now_ms
        self.next_index = last_index + 1
        self._inflight.append((last_index, size_bytes))
        self._inflight_bytes += size_bytes

    def matched(self, index: int, now_ms: int) -> None:
        """It holds everything up to index durably."""
        if index > self.match_index:
            self.match_index = index
            self.last_progress_ms = now_ms
            self.retries = 0
        if self.state is ProgressState.SNAPSHOT and index < self.snapshot_index:
            self.next_index = max(self.next_index, index + 1)
            return  # late news: what it needs next is in the snapshot all the same
        while self._inflight and self._inflight[0][0] <= index:
            self._inflight_bytes -= self._inflight.popleft()[1]
        self.next_index = max(self.next_index, index + 1)
        self.probe_sent = False
        self.state = ProgressState.REPLICATE

    def rejected(self, refused_index: int, retry_index: int) -> bool:
        """It refused entries after refused_index; try after retry_index - 1. False for a stale refusal."""
        if self.state is ProgressState.SNAPSHOT:
            return False
        if self.state is ProgressState.REPLICATE:
            if refused_index <= self.match_index:
                return False
        elif refused_index != self.next_index - 1:
            return False
        self.probe()
        self.next_index = max(self.match_index + 1, min(retry_index, refused_index))
        return True

    def probe(self) -> None:
        """Messages were lost, or the logs differ: find out again, from what is known for sure."""
        self.state = ProgressState.PROBE
        self.probe_sent = False
        self.next_index = self.match_index + 1
        self._inflight.clear()
        self._inflight_bytes = 0

    def follow_round(self, last_index: int, now_ms: int) -> None:
        """A round of catching up ends when everything is there that was in the leader's log when it began."""
        if self.match_index >= self.round_end:
            self.last_round_ms = now_ms - self.round_began_ms
            self.round_end, self.round_began_ms = last_index, now_ms

    def is_close(self, now_ms: int, election_timeout_ms: int) -> bool:
        """Whether the follower, if it began to vote now, would hold nothing up for longer than an election does (trap
        26): its last round was that short, the one that runs is not longer yet, and it was heard from."""
        if self.last_round_ms is None or self.last_round_ms > election_timeout_ms:
            return False
        return now_ms - min(self.round_began_ms, self.last_contact_ms) <= election_timeout_ms

    def begin_snapshot(self, index: int, term: int, size: int, now_ms: int) -> None:
        """Send this snapshot, from its first byte."""
        self.probe()
        self.state = ProgressState.SNAPSHOT
        self.snapshot_index, self.snapshot_term, self.snapshot_size = index, term, size
        self.snapshot_next = self.snapshot_acked = self.snapshot_best = 0
        self.last_progress_ms = now_ms
        self.retries = 0

    def next_piece(self) -> int | None:
        """Offset of the next piece that the window allows to send, which then counts as sent; None: none now."""
        offset = self.snapshot_next
        if offset >= min(self.snapshot_size, self.snapshot_acked + SNAPSHOT_WINDOW_BYTES):
            return None
        self.snapshot_next = min(offset + SNAPSHOT_PIECE_BYTES, self.snapshot_size)
        return offset

    def snapshot_taken(self, offset: int, now_ms: int) -> None:
        """The follower has all before offset; 0: it has nothing any more. Then it gets all again, but not at once, and
        ever less often: what made it drop the rest may last, such as a full disk."""
        if offset > self.snapshot_acked:
            self.last_progress_ms = now_ms
            self.snapshot_acked = min(offset, self.snapshot_size)
            self.snapshot_next = max(self.snapshot_next, self.snapshot_acked)
            if offset > self.snapshot_best:
                self.snapshot_best = offset
                self.retries = 0
        elif not offset and self.snapshot_acked:
            self.last_progress_ms = now_ms
            self.snapshot_acked = 0
            self.snapshot_next = self.snapshot_size  # until it is overdue

    def retry_if_overdue(self, now_ms: int, heartbeat_ms: int) -> None:
        """The link works, but what was sent over it has had no answer for long: take it for lost and send it again.

        Ever less often, for the other end may merely wait for its disk."""
        waiting = self.probe_sent or bool(self._inflight) or self.state is ProgressState.SNAPSHOT
        patience_ms = heartbeat_ms // 2 if self.state is ProgressState.PROBE else 3 * heartbeat_ms
        if not waiting or now_ms - self.last_progress_ms < patience_ms << min(self.retries, 4):
            return
        self.retries += 1
        if self.state is ProgressState.SNAPSHOT:
            self.last_progress_ms = now_ms
            self.snapshot_next = self.snapshot_acked
            if self.snapshot_acked == self.snapshot_size:  # the end once more: what it answers tells how it stands
                self.snapshot_next = max(0, self.snapshot_size - SNAPSHOT_PIECE_BYTES)
        elif self.state is ProgressState.PROBE:
            self.probe_sent = False
        else:
            self.probe()
