"""The actors that a write passes, with stamps. A node whose config says `profile: N` runs these in place of the others.

They add nothing but stamps: what they do, and in which order, is what the others do. So a node without `profile` pays
nothing, and the simulator, which runs the others, stays as it is.
"""

from __future__ import annotations

from typing import Any

from zraft.actors.applier import Applier
from zraft.actors.consensus import Consensus
from zraft.actors.frontend import Frontend
from zraft.bench.stages import APPLIED, APPLYING, PROPOSED, Stages
from zraft.messages import Appended, Apply, Propose, Replies
from zraft.raft import Output, Write


class ProfiledFrontend(Frontend):
    """As Frontend, of a node with this recorder, whose report becomes part of the node's status."""

    def __init__(self, stages: Stages, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stages = stages

    def receive_frames(self, port: str, frames: list[tuple[bytes, bytes]]) -> None:
        """A write arrives."""
        began_us = self.stages.now_us()
        known = len(self.proposals)
        super().receive_frames(port, frames)
        self.stages.arrived(began_us, self.proposals[known:])

    def on_replies(self, sender: str, message: Replies) -> None:
        """Its answer arrives."""
        self.stages.answered([token for token, _, _ in message.replies])
        super().on_replies(sender, message)

    def end_batch(self) -> None:
        """Both leave."""
        if self.proposals:
            self.stages.mark(PROPOSED, [token for token, _ in self.proposals])
        super().end_batch()
        self.stages.replied()

    def status(self) -> dict[str, Any]:
        """As Frontend's, and the histograms."""
        return {**super().status(), "profile": self.stages.report()}


class ProfiledConsensus(Consensus):
    """As Consensus, of a node with this recorder."""

    def __init__(self, stages: Stages, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stages = stages

    def on_propose(self, sender: str, message: Propose) -> None:
        """Taken, and in the log if this node leads."""
        last = self.raft.log.last_index if self.raft is not None else 0
        super().on_propose(sender, message)
        if self.raft is not None and self.raft.log.last_index > last:
            self.stages.appended(last + 1, [token for token, _ in message.proposals])

    def on_appended(self, sender: str, message: Appended) -> None:
        """A write of the log is done."""
        self.stages.written(message.sequence)
        super().on_appended(sender, message)

    def end_batch(self) -> None:
        """What the batch brought is known before anything is sent."""
        self.note_progress()
        super().end_batch()
        self.stages.sent()

    def send_output(self, output: Output) -> None:
        """And what time brought, before that is sent on."""
        self.note_progress()
        super().send_output(output)

    def note_progress(self) -> None:
        """How far the log is durable here, and committed."""
        if self.raft is not None:
            self.stages.progressed(self.raft.log.durable_index, self.raft.commit_index)

    def send_write(self, write: Write) -> None:
        """A write of the log begins."""
        self.stages.writing(write.sequence)
        super().send_write(write)


class ProfiledApplier(Applier):
    """As Applier, of a node with this recorder."""

    def __init__(self, stages: Stages, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stages = stages

    def on_apply(self, sender: str, message: Apply) -> None:
        """Its turn."""
        self.stages.mark(APPLYING, [token for _, token in message.tokens])
        super().on_apply(sender, message)

    def end_batch(self) -> None:
        """Applied, and answered."""
        if self.replies:
            self.stages.mark(APPLIED, [token for token, _, _ in self.replies])
        super().end_batch()
