"""The clock. Consensus takes time from here alone, so a simulator (or a machine that stalls) can be in charge of it."""

from __future__ import annotations

from zraft.bus.actor import Actor, Context
from zraft.messages import Arm, Tick


class ElectionTimer(Actor):
    """Sends Ticks to consensus as often as it was armed for. While it is dead the clock stands still."""

    name = "election_timer"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.interval_ms = 0
        self.handlers[Arm] = self.on_arm

    def on_arm(self, sender: str, message: Arm) -> None:
        """Begin (or go on) ticking."""
        self.interval_ms = message.interval_ms
        self.wakeup_ms = self.context.now_ms()

    def on_wakeup(self, now_ms: int) -> None:
        """One tick, however many were due."""
        self.wakeup_ms = now_ms + self.interval_ms
        self.context.send("consensus", Tick(now_ms))

    def on_neighbour_restarted(self, name: str) -> None:
        """A new consensus arms the clock when it is ready for it."""
        if name == "consensus":
            self.wakeup_ms = None
