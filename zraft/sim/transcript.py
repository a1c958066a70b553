"""What happened, in order: a SHA-256 over all events, and, when a run is replayed for a reader, lines.

A run that only hashes keeps no text. As the same seed gives the same run, whoever wants to read runs it again.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from zraft.messages import AppendEntries
from zraft.wire import WireError, unpack_peer, unpack_peer_frame

if TYPE_CHECKING:
    from zraft.sim.slot import Slot

BUFFERED_EVENTS = 500


class Trace:
    """`recording`: keep the last `keep_lines` lines, too."""

    def __init__(self, recording: bool = False, keep_lines: int | None = None) -> None:
        self.recording = recording
        self.lines: deque[str] = deque(maxlen=keep_lines)
        self.where = ""  # which machine's actor runs
        self._hash = hashlib.sha256()
        self._buffer: list[str] = []  # a character a byte, for strings are quicker to put together
        self._append = self._buffer.append

    def digest(self) -> str:
        """SHA-256 of all events so far, in hexadecimal digits."""
        self._flush()
        return self._hash.hexdigest()

    def _flush(self) -> None:
        self._hash.update("".join(self._buffer).encode("latin-1"))
        self._buffer.clear()

    def step(self, now_us: int, slot: Slot) -> None:
        """An actor runs."""
        self._append(f"{now_us}{slot.label}{slot.waiting}\n")
        if self.recording:
            self.where = slot.machine

    def frame(self, now_us: int, sender: str, receiver: str, fate: str, frame: bytes) -> None:
        """A frame between nodes."""
        self._append(f"{now_us} {sender}>{receiver} {fate} {frame.decode('latin-1')}\n")
        if len(self._buffer) > BUFFERED_EVENTS:
            self._flush()
        if self.recording:
            shown = "" if fate == "sent" else f" ({fate})"
            for text in shown_messages(frame):
                self._add(now_us, f"{sender} -> {receiver}{shown}: {text}")

    def event(self, now_us: int, text: str) -> None:
        """Anything else: a fault, a client's call or answer, an end."""
        self._append(f"{now_us} {text.encode().decode('latin-1')}\n")
        if len(self._buffer) > BUFFERED_EVENTS:
            self._flush()
        if self.recording:
            self._add(now_us, text)

    def note(self, now_us: int, text: str) -> None:
        """For a reader alone."""
        if self.recording:
            self._add(now_us, f"{self.where}: {text}")

    def _add(self, now_us: int, text: str) -> None:
        self.lines.append(f"{now_us / 1_000_000:10.6f}  {text}")


def shown_messages(frame: bytes) -> list[str]:
    """The messages of a frame between nodes, for a reader."""
    texts = []
    try:
        for body in unpack_peer_frame(frame).bodies:
            texts.append(shown(unpack_peer(body)))
    except WireError as error:
        texts.append(f"not understood: {error}")
    return texts


def shown(message: Any) -> str:
    """One message, with the number of its entries instead of their contents."""
    fields = message._asdict()
    if type(message) is AppendEntries:
        entries = fields.pop("entries")
        terms = f" of terms {entries[0].term}..{entries[-1].term}" if entries else ""
        fields["entries"] = f"{len(entries)}{terms}"
    listed = ", ".join(f"{name}={value}" for name, value in fields.items())
    return f"{type(message).__name__}({listed})"


class NotesHandler(logging.Handler):
    """Puts what actors log into the transcript."""

    def __init__(self, trace: Trace, now_us: Any) -> None:
        super().__init__()
        self._trace = trace
        self._now_us = now_us

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        self._trace.note(self._now_us(), record.getMessage().splitlines()[0])
